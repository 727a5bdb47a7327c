//! `kvutil kv scan`: the keys under a prefix, streaming.

use super::{pair, prefix_range};
use crate::failure::{Outcome, Result};
use crate::shell::Shell;
use crate::source::SourceArgs;

/// Pairs and bytes read at a time.
const SLICE_ROWS: usize = 1000;
const SLICE_BYTES: usize = 4 << 20;

/// Print the keys under a prefix, in order
///
/// Values only with --values. Example: kvutil kv scan backup.kvs --prefix /registry/ --limit 100 -w jsonl
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Keys start with this
    #[arg(long, default_value = "")]
    prefix: String,
    /// As of this revision; 0 is now
    #[arg(long, default_value_t = 0)]
    rev: i64,
    /// At most this many
    #[arg(long)]
    limit: Option<u64>,
    /// Show values
    #[arg(long)]
    values: bool,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let source = args.source.open(shell)?;
    let range = prefix_range(&args.prefix);
    let limit = usize::try_from(args.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let (mut from, mut ended) = (None, false);
    let slices = std::iter::from_fn(|| {
        if ended {
            return None;
        }
        let read = source.view.range_slice(
            &range,
            from.as_ref(),
            args.rev,
            false,
            SLICE_ROWS,
            SLICE_BYTES,
        );
        match read {
            Ok(slice) => {
                from = slice.next;
                ended = from.is_none();
                Some(Ok(slice.kvs))
            }
            Err(status) => {
                ended = true;
                Some(source.answered(Err(status)))
            }
        }
    });
    let pairs = slices.flat_map(|slice| match slice {
        Ok(kvs) => kvs.into_iter().map(Ok).collect::<Vec<_>>(),
        Err(failure) => vec![Err(failure)],
    });
    let rows = pairs
        .take(limit)
        .map(|kv| kv.map(|kv| pair(&kv, args.values)));
    shell
        .output
        .rows("kvutil.kv.scan.1", rows, |pair| match &pair.value {
            Some(value) => format!("{} = {value}", pair.key),
            None => pair.key.clone(),
        })?;
    Ok(Outcome::Fine)
}
