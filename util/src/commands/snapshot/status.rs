//! `kvutil snapshot status`: what a file says of itself, in etcdutl's columns first.

use std::path::PathBuf;

use serde::Serialize;

use super::Threads;
use crate::failure::{Outcome, Result};
use crate::kvs::Kvs;
use crate::output::human;
use crate::shell::Shell;

/// Print what a snapshot holds
///
/// Hash, revision, live keys and size, as `etcdutl snapshot status` prints them; a second line on stderr says whose it is. Reads
/// header, footer and one chunk; with --verify every byte. Example: kvutil snapshot status backup.kvs -w table
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A `.kvs` file, as `etcdctl snapshot save` stores it
    file: PathBuf,
    /// Check every byte as well: exit code 3 if one is wrong
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    threads: Threads,
}

/// etcdutl's fields under etcdutl's names; ours behind them.
#[derive(Serialize)]
struct Status {
    hash: u32,
    revision: i64,
    #[serde(rename = "totalKey")]
    total_key: u64,
    #[serde(rename = "totalSize")]
    total_size: u64,
    version: String,
    schema: &'static str,
    file: String,
    /// `unchecked`, `ok`, or `damaged`.
    digest: &'static str,
    cluster_id: String,
    member_id: String,
    compact_revision: i64,
    raft_index: u64,
    raft_term: u64,
    created_unix_ms: u64,
    program: String,
    /// Empty: all of the state.
    selection: String,
    chunks: usize,
    records: u64,
    raw_bytes: u64,
    logical_hash: String,
}

#[derive(Serialize)]
struct Row {
    hash: String,
    revision: i64,
    #[serde(rename = "total keys")]
    total_keys: u64,
    #[serde(rename = "total size")]
    total_size: String,
    version: String,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let kvs = Kvs::open(&args.file)?;
    let keys = kvs.meta().map_or(0, |meta| meta.key_count);
    let mut digest = "unchecked";
    if args.verify {
        let checked = kvs.check(args.threads.count(), shell, |_, _| (), |()| ())?;
        digest = if checked.is_sound() { "ok" } else { "damaged" };
    }
    let info = &kvs.info;
    let status = Status {
        // The low half of a hash over all records: equal for equal states of one cluster.
        hash: kvs.logical_hash as u32,
        revision: info.revision,
        total_key: keys,
        total_size: kvs.file_bytes,
        version: format!("{}.{}", kvnode_snapshot::MAJOR, kvnode_snapshot::MINOR),
        schema: "kvutil.snapshot.status.2",
        file: kvs.shown(),
        digest,
        cluster_id: format!("{:x}", info.cluster_id),
        member_id: format!("{:x}", info.member_id),
        compact_revision: info.compact_revision,
        raft_index: info.raft_index,
        raft_term: info.raft_term,
        created_unix_ms: info.created_unix_ms,
        program: info.program.clone(),
        selection: info.selection.clone(),
        chunks: kvs.chunks.len(),
        records: kvs.sections.iter().map(|section| section.records).sum(),
        raw_bytes: kvs.raw_bytes(),
        logical_hash: format!("{:032x}", kvs.logical_hash),
    };
    if shell.output.is_table() {
        let row = Row {
            hash: format!("{:x}", status.hash),
            revision: status.revision,
            total_keys: status.total_key,
            total_size: human(status.total_size),
            version: status.version.clone(),
        };
        let rows = std::iter::once(Ok::<_, std::convert::Infallible>(row));
        let _ = shell.output.rows("", rows, |_| String::new());
    } else {
        shell.output.print(&status, |status| {
            format!(
                "{:x}, {}, {}, {}",
                status.hash,
                status.revision,
                status.total_key,
                human(status.total_size)
            )
        });
    }
    if shell.output.is_table() || shell.output.is_simple() {
        shell.note(&remark(&status));
    }
    Ok(match digest {
        "damaged" => {
            eprintln!("next:  kvutil snapshot verify {}", status.file);
            Outcome::Damage
        }
        _ => Outcome::Fine,
    })
}

fn remark(status: &Status) -> String {
    let mut text = format!(
        "digest {} - cluster {} - taken {} from {} by {} - {}",
        status.digest,
        status.cluster_id,
        kvnode_store::datadir::utc(status.created_unix_ms / 1000),
        status.member_id,
        status.program,
        match status.compact_revision {
            ..0 => "never compacted".to_owned(),
            revision => format!("compacted to {revision}"),
        }
    );
    if !status.selection.is_empty() {
        text.push_str(&format!(" - a part: {}", status.selection));
    }
    text
}
