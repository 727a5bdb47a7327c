//! `kvutil data compact`: forgets history of a member that is alone, as a compaction entry in its log, and frees its
//! space.
//!
//! What a store holds follows from its log, so the compaction is appended to the log as the member itself would have
//! done, and the store is rewritten with it applied. The log takes its place first: a crash behind it leaves a log
//! with one more entry, which the node applies at its start.

use kvnode_api::{CompactionRequest, Message as _};
use kvnode_store::command::Header;
use kvnode_store::datadir::replace;
use kvnode_store::{Command, Config, Kind};
use kvnode_wal::dir::{self, Log};
use kvnode_wal::recover::Floors;
use kvnode_wal::{Entry, EntryKind, HardState, Options};
use serde::Serialize;

use super::DataArgs;
use super::defrag::rewrite;
use crate::failure::{Code, Failure, Outcome, Result};
use crate::output::human;
use crate::process;
use crate::replay;
use crate::shell::Shell;
use crate::source::{apply, shadow_store, wal_identity};
use crate::swap::Swap;

/// Forget history below a revision, on a member that is its whole cluster
///
/// Members of larger clusters refuse (exit code 7): there compaction goes through the leader. Both log and store are
/// replaced, the old ones kept in quarantine/. Example: kvutil data compact --data-dir /var/lib/kvnode --rev 100000
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Oldest revision that stays readable
    #[arg(long)]
    rev: i64,
    /// Shortest lease the node grants, in seconds
    #[arg(long, default_value_t = 2, value_name = "SECONDS")]
    lease_ttl_min: i64,
}

#[derive(Serialize)]
struct Compacted {
    schema: &'static str,
    data_dir: String,
    revision: i64,
    compact_revision: i64,
    bytes_before: u64,
    bytes_after: u64,
    quarantine: Vec<String>,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let shown = args.data.data_dir.display().to_string();
    let data = shell.open_to_write(&args.data.data_dir, args.data.wal_dir.as_deref())?;
    let (live, wal) = (data.engines().live()?.path, data.wal());
    let bytes_before = replace::tree_bytes(&live).0;
    shell.need_space(data.root(), bytes_before, &format!("df -h {shown}"))?;
    let scratch = shell.scratch()?;
    let config = Config {
        lease_ttl_min_seconds: args.lease_ttl_min,
        ..Config::default()
    };
    let mut store = shadow_store(&live, data.root(), &scratch, config, 1)?;
    let (applied, _) = store.applied();
    let identity = wal_identity(data.identity());
    let floors = Floors {
        applied,
        snapshot: 0,
        keep_after: applied,
    };
    let mut recovered = dir::recover(&wal, &identity, floors)?;
    if recovered.membership.voters != [identity.member] || !recovered.membership.learners.is_empty()
    {
        return Err(Failure::new(
            Code::Refused,
            format!("{shown} is of a member of a larger cluster: only its leader may compact"),
            format!("etcdctl compact {}", args.rev),
        ));
    }
    if !recovered.report.findings.is_empty() {
        return Err(Failure::new(
            Code::Repairable,
            "the log needs a repair first".to_owned(),
            format!("kvutil wal repair --data-dir {shown} --apply"),
        ));
    }
    apply(
        &mut store,
        std::mem::take(&mut recovered.entries).into_iter(),
    )?;
    let view = store.view();
    if args.rev > view.revision() || args.rev <= view.compact_revision() {
        return Err(Failure::new(
            Code::Usage,
            format!(
                "revision {} cannot be compacted to: the store is at {}, compacted to {}",
                args.rev,
                view.revision(),
                view.compact_revision()
            ),
            format!("kvutil data info --data-dir {shown}"),
        ));
    }
    drop(view);
    let term = recovered.hard_state.term.max(recovered.last_term);
    let now_ms = process::now_ms();
    let request = CompactionRequest {
        revision: args.rev,
        physical: true,
    };
    let header = Header {
        time_ms: now_ms,
        ..Header::default()
    };
    let payload = Command::encode(Kind::Compaction, &header, &request.encode_to_vec());
    let index = recovered.last_index + 1;
    let entry = Entry {
        index,
        term,
        kind: EntryKind::Normal,
        payload,
    };

    let parent = wal.parent().unwrap_or(&wal).to_path_buf();
    let log_swap = Swap::begin(&parent, "compact.log", now_ms)?;
    let tree = log_swap.tree("wal");
    dir::link_log(&wal, &tree)?;
    let options = Options {
        segment_bytes: 1 << 20,
        block_bytes: recovered.block_bytes(),
        ..Options::default()
    };
    let mut log = Log::resume(&tree, &recovered, options, process::random(), now_ms)?;
    let hard_state = HardState {
        term,
        vote: identity.member,
        commit: index,
    };
    log.append(std::slice::from_ref(&entry), Some(hard_state), true, now_ms)?;
    log.close(now_ms)?;
    drop(log);
    dir::remove_spares(&tree)?;
    let outline = replay::outline(&tree, Some(&identity), applied)?;
    if outline.last_index != index {
        return Err(Failure::new(
            Code::Io,
            "the new log does not read back",
            "kvutil disk probe --help",
        ));
    }
    apply(&mut store, std::iter::once(entry))?;
    while store.compact_some()? {}
    let store_swap = Swap::begin(data.root(), "compact.store", now_ms)?;
    let name = live
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    rewrite(&store, &store_swap.tree(&name), shell)?;
    let bytes_after = replace::tree_bytes(&store_swap.tree(&name)).0;
    let revision = store.view().revision();
    drop(store);
    let note = format!("compacted to revision {}", args.rev);
    let log_kept = log_swap.commit("wal", &wal, &note)?;
    let store_kept = store_swap.commit(&name, &live, &note)?;
    let result = Compacted {
        schema: "kvutil.data.compact.1",
        data_dir: shown,
        revision,
        compact_revision: args.rev,
        bytes_before,
        bytes_after,
        quarantine: [log_kept, store_kept]
            .map(|kept| format!("quarantine/{}", kept.id))
            .to_vec(),
    };
    shell.output.print(&result, |result| {
        format!(
            "{}: compacted to revision {} of {}, {} before, {} after\nthe old log and store are in {}",
            result.data_dir,
            result.compact_revision,
            result.revision,
            human(result.bytes_before),
            human(result.bytes_after),
            result.quarantine.join(" and ")
        )
    });
    eprintln!("undo:  kvutil data undo --data-dir {}", result.data_dir);
    Ok(Outcome::Fine)
}
