//! `kvutil kv get`: one key.

use bytes::Bytes;
use kvnode_api::KeyRange;

use super::pair;
use crate::failure::{Code, Failure, Outcome, Result};
use crate::shell::Shell;
use crate::source::SourceArgs;

/// Print one key
///
/// The value itself only with --values. Exit code 1 if there is no such key. Example: kvutil kv get /var/lib/kvnode
/// --key /a --values
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// The key
    #[arg(long)]
    key: String,
    /// As of this revision; 0 is now
    #[arg(long, default_value_t = 0)]
    rev: i64,
    /// Show the value
    #[arg(long)]
    values: bool,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let source = args.source.open(shell)?;
    let range = KeyRange::Single(Bytes::copy_from_slice(args.key.as_bytes()));
    let view = &source.view;
    let slice = source.answered(view.range_slice(&range, None, args.rev, false, 1, usize::MAX))?;
    let found = slice.kvs.first().ok_or_else(|| {
        Failure::new(
            Code::Failed,
            format!(
                "{}: no key {:?} at revision {}",
                source.name,
                args.key,
                if args.rev > 0 {
                    args.rev
                } else {
                    source.view.revision()
                }
            ),
            format!("kvutil kv scan {} --prefix {:?}", source.name, args.key),
        )
    })?;
    shell.output.print(&pair(found, args.values), |pair| {
        let mut text = format!(
            "{}\n  created at revision {}, changed at {}, version {}, {} bytes",
            pair.key, pair.create_revision, pair.mod_revision, pair.version, pair.value_bytes
        );
        if !pair.lease.is_empty() {
            text.push_str(&format!(", lease {}", pair.lease));
        }
        if let Some(value) = &pair.value {
            text.push_str(&format!("\n  {value}"));
        }
        text
    });
    Ok(Outcome::Fine)
}
