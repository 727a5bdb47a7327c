//! `kvutil hashkv`: the logical hash of a source, which all members of a cluster agree on.

use serde::Serialize;

use crate::failure::{Outcome, Result};
use crate::shell::Shell;
use crate::source::SourceArgs;

/// Print the hash of a source at a revision
///
/// Equal on all members for equal revision and compact revision, and what `etcdctl endpoint hashkv` prints of this
/// server. Example: kvutil hashkv backup.kvs --rev 1000
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// As of this revision; 0 is now
    #[arg(long, default_value_t = 0)]
    rev: i64,
}

#[derive(Serialize)]
struct Hash {
    schema: &'static str,
    hash: u32,
    hash_revision: i64,
    compact_revision: i64,
    source: String,
    kind: &'static str,
    cluster_id: String,
    member_id: String,
    /// Entries that only the log had.
    from_log: u64,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let source = args.source.open(shell)?;
    let hash = source.answered(source.view.hash_kv(args.rev))?;
    let hash = Hash {
        schema: "kvutil.hashkv.1",
        hash: hash.hash,
        hash_revision: hash.hash_revision,
        compact_revision: hash.compact_revision,
        source: source.name.clone(),
        kind: source.kind,
        cluster_id: format!("{:x}", source.cluster_id),
        member_id: format!("{:x}", source.member_id),
        from_log: source.from_log,
    };
    shell.output.print(&hash, |hash| {
        format!(
            "{}, {}, {}",
            hash.hash, hash.hash_revision, hash.compact_revision
        )
    });
    Ok(Outcome::Fine)
}
