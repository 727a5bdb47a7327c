//! `kvutil snapshot list`: the keys of a file.

use std::path::PathBuf;

use super::Threads;
use crate::commands::kv::pair;
use crate::failure::{Outcome, Result};
use crate::keys::Keys;
use crate::shell::Shell;

/// Print the keys of a snapshot, in order
///
/// Reads only the frames that hold them. With --rev the file is unpacked to the scratch directory. Example: kvutil snapshot list
/// backup.kvs --prefix /registry/pods/ --limit 20 --long
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A `.kvs` file, or a data directory
    file: PathBuf,
    /// Keys start with this
    #[arg(long, default_value = "")]
    prefix: String,
    /// As of this revision; 0 is the snapshot's
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    rev: i64,
    /// Only keys, which is what is printed anyhow
    #[arg(long, conflicts_with_all = ["long", "values"])]
    keys_only: bool,
    /// At most this many
    #[arg(long)]
    limit: Option<u64>,
    /// Also revisions, version, lease and size
    #[arg(long)]
    long: bool,
    /// Show values
    #[arg(long)]
    values: bool,
    #[command(flatten)]
    threads: Threads,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let keys = Keys::open(&args.file, args.rev, shell)?;
    let limit = usize::try_from(args.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let rows = keys
        .under(&args.prefix, args.rev, args.threads.count())?
        .take(limit)
        .map(|kv| kv.map(|kv| pair(&kv, args.values)));
    shell.output.rows("kvutil.snapshot.list.1", rows, |row| {
        let mut text = row.key.clone();
        if args.long {
            text = format!(
                "{:>12} {:>12} {:>8} {:>16} {:>9}  {text}",
                row.mod_revision,
                row.create_revision,
                row.version,
                if row.lease.is_empty() {
                    "-"
                } else {
                    &row.lease
                },
                row.value_bytes
            );
        }
        if let Some(value) = &row.value {
            text.push_str(&format!(" = {value}"));
        }
        text
    })?;
    Ok(Outcome::Fine)
}
