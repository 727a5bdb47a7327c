//! `kvutil kv du`: live and history bytes per prefix.

use clap::ValueEnum;
use kvnode_store::check;
use serde::Serialize;

use crate::failure::{Code, Failure, Outcome, Result};
use crate::output::{human, show};
use crate::shell::Shell;
use crate::source::SourceArgs;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    Prefix,
    Keys,
    Live,
    History,
}

/// Print live and history bytes per prefix
///
/// Example: kvutil kv du --data-dir /var/lib/kvnode --depth 2 --sort history
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Parts of a key that make a prefix; 0: everything in one
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// What ends a part
    #[arg(long, default_value = "/")]
    separator: char,
    #[arg(long, value_enum, default_value_t = Sort::Prefix)]
    sort: Sort,
    /// Rows printed at most
    #[arg(long)]
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Row {
    prefix: String,
    keys: u64,
    live_bytes: u64,
    history_bytes: u64,
    changes: u64,
    changes_per_key: f64,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let separator = u8::try_from(args.separator).map_err(|_| {
        Failure::new(
            Code::Usage,
            format!("{:?} is more than one byte", args.separator),
            "kvutil kv du --help",
        )
    })?;
    let source = args.source.open(shell)?;
    let mut progress = shell.progress.count("reading", 0);
    let usage = check::usage(source.view.reader(), args.depth, separator, || {
        progress.add(1)
    })?;
    drop(progress);
    let mut rows: Vec<Row> = usage
        .into_iter()
        .map(|(prefix, usage)| Row {
            prefix: show(&prefix),
            keys: usage.keys,
            live_bytes: usage.live_bytes,
            history_bytes: usage.history_bytes,
            changes: usage.changes,
            changes_per_key: (usage.changes as f64 / usage.keys.max(1) as f64 * 10.0).round()
                / 10.0,
        })
        .collect();
    match args.sort {
        Sort::Prefix => {}
        Sort::Keys => rows.sort_by_key(|row| std::cmp::Reverse(row.keys)),
        Sort::Live => rows.sort_by_key(|row| std::cmp::Reverse(row.live_bytes)),
        Sort::History => rows.sort_by_key(|row| std::cmp::Reverse(row.history_bytes)),
    }
    rows.truncate(args.limit.unwrap_or(usize::MAX));
    let rows = rows.into_iter().map(Ok::<_, Failure>);
    shell.output.rows("kvutil.kv.du.1", rows, |row: &Row| {
        format!(
            "{:<32} {:>9} keys {:>12} live {:>12} history {:>8.1} changes/key",
            row.prefix,
            row.keys,
            human(row.live_bytes),
            human(row.history_bytes),
            row.changes_per_key
        )
    })?;
    Ok(Outcome::Fine)
}
