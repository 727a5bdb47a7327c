//! `kvutil data info`: whose data directory it is, and what is in it.

use kvnode_store::datadir::{self, Reading, replace};
use kvnode_wal::dir;
use serde::Serialize;

use super::DataArgs;
use crate::failure::{Outcome, Result};
use crate::output::human;
use crate::shell::Shell;
use crate::source::open_shadow;

/// Print whose data directory it is and what it holds
///
/// Example: kvutil data info --data-dir /var/lib/kvnode. With --quick the store is not opened.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Look at names and sizes only
    #[arg(long)]
    quick: bool,
}

#[derive(Serialize)]
struct Info {
    schema: &'static str,
    data_dir: String,
    /// Hexadecimal, as the server prints ids.
    cluster_id: String,
    member_id: String,
    instance_id: String,
    format: u32,
    wal_dir: String,
    wal_bytes: u64,
    store_bytes: u64,
    quarantine_bytes: u64,
    /// Of the log; absent if it does not open.
    last_index: Option<u64>,
    applied_index: Option<u64>,
    applied_term: Option<u64>,
    revision: Option<i64>,
    compact_revision: Option<i64>,
    keys: Option<u64>,
    leases: Option<u64>,
    live_bytes: Option<u64>,
    history_bytes: Option<u64>,
    notes: Vec<String>,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let reading = Reading::open(&args.data.data_dir, args.data.wal_dir.as_deref())?;
    let identity = reading.identity();
    let instance = identity
        .instance_id
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut notes: Vec<String> = reading.notes().iter().map(ToString::to_string).collect();
    let kept = reading
        .quarantines()
        .iter()
        .map(|path| replace::tree_bytes(path).0)
        .sum();
    let mut info = Info {
        schema: "kvutil.data.info.1",
        data_dir: args.data.data_dir.display().to_string(),
        cluster_id: format!("{:x}", identity.cluster_id),
        member_id: format!("{:x}", identity.member_id),
        instance_id: instance,
        format: datadir::FORMAT,
        wal_dir: reading.wal().display().to_string(),
        wal_bytes: replace::tree_bytes(&reading.wal()).0,
        store_bytes: replace::tree_bytes(&reading.live()?.path).0,
        quarantine_bytes: kept,
        last_index: None,
        applied_index: None,
        applied_term: None,
        revision: None,
        compact_revision: None,
        keys: None,
        leases: None,
        live_bytes: None,
        history_bytes: None,
        notes: Vec::new(),
    };
    if !args.quick {
        match dir::segments(&reading.wal()) {
            Ok(segments) => info.last_index = segments.last().map(|last| last.last_index),
            Err(error) => notes.push(format!("the log does not open: {error}")),
        }
        let scratch = shell.scratch()?;
        match open_shadow(&reading, &scratch, kvnode_store::Config::default(), 0) {
            Ok(store) => {
                let view = store.view();
                let stats = view.stats();
                info.applied_index = Some(view.applied_index());
                info.applied_term = Some(view.applied_term());
                info.revision = Some(view.revision());
                info.compact_revision = Some(view.compact_revision());
                info.keys = Some(stats.keys);
                info.leases = Some(stats.leases);
                info.live_bytes = Some(stats.live_bytes);
                info.history_bytes = Some(stats.history_bytes);
            }
            Err(failure) => notes.push(format!("the store does not open: {}", failure.what())),
        }
    }
    info.notes = notes;
    shell.output.print(&info, |info| {
        let mut text = format!(
            "data directory: {}\ncluster:        {}\nmember:         {}\ninstance:       {}\nformat:         {}\nlog:            {} in {}\nstore:          {}\nquarantine:     {}",
            info.data_dir, info.cluster_id, info.member_id, info.instance_id, info.format,
            human(info.wal_bytes), info.wal_dir, human(info.store_bytes), human(info.quarantine_bytes)
        );
        if let Some(last) = info.last_index {
            text.push_str(&format!("\nlast entry:     {last}"));
        }
        if let (Some(applied), Some(revision), Some(compacted), Some(keys), Some(leases)) =
            (info.applied_index, info.revision, info.compact_revision, info.keys, info.leases)
        {
            text.push_str(&format!(
                "\napplied:        {applied}\nrevision:       {revision} (compacted to {compacted})\nkeys:           {keys}\nleases:         {leases}\nlive, history:  {}, {}",
                human(info.live_bytes.unwrap_or(0)),
                human(info.history_bytes.unwrap_or(0))
            ));
        }
        for note in &info.notes {
            text.push_str(&format!("\nnote:           {note}"));
        }
        text
    });
    Ok(Outcome::Fine)
}
