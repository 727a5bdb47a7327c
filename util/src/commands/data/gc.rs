//! `kvutil data gc`: removes what repairs and rewrites keep; without --apply only lists it.

use kvnode_store::datadir::Lock;
use kvnode_store::datadir::replace::{self, Kept};
use serde::Serialize;

use super::DataArgs;
use super::undo::{Row, line, rows};
use crate::failure::{Outcome, Result};
use crate::output::human;
use crate::process;
use crate::shell::{Shell, program};

/// Remove what repairs, defrags and compacts keep; without --apply only list it
///
/// What is removed cannot be taken back any more. Example: kvutil data gc --data-dir /var/lib/kvnode --older-than 7
/// --apply
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Remove it
    #[arg(long)]
    apply: bool,
    /// Only what is older than this many days
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    older_than: u64,
    /// Leave this many of the newest
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    keep: usize,
}

#[derive(Serialize)]
struct Collected {
    schema: &'static str,
    data_dir: String,
    applied: bool,
    bytes: u64,
    rows: Vec<Row>,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let parents = args.data.parents()?;
    let mut locks = Vec::new();
    let mut all: Vec<Kept> = Vec::new();
    for parent in &parents {
        if args.apply {
            locks.push(Lock::exclusive(parent, &program())?);
            for text in replace::settle(parent, &args.data.data_dir)? {
                shell.note(&text);
            }
        }
        all.extend(replace::list(parent)?);
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all.truncate(all.len().saturating_sub(args.keep));
    let before = process::now_ms().saturating_sub(args.older_than * 86_400_000);
    all.retain(|kept| kept.created_ms <= before);
    if args.apply {
        for kept in &all {
            replace::forget(kept)?;
        }
    }
    let collected = Collected {
        schema: "kvutil.data.gc.1",
        data_dir: args.data.data_dir.display().to_string(),
        applied: args.apply,
        bytes: all.iter().map(|kept| kept.bytes).sum(),
        rows: rows(&all),
    };
    shell.output.print(&collected, |collected| {
        let mut lines: Vec<String> = collected.rows.iter().map(line).collect();
        lines.push(match (collected.rows.len(), collected.applied) {
            (0, _) => format!("{}: nothing to remove", collected.data_dir),
            (count, true) => format!("removed {count}, {}", human(collected.bytes)),
            (count, false) => format!(
                "{count} could be removed, {}; nothing was changed",
                human(collected.bytes)
            ),
        });
        lines.join("\n")
    });
    if !args.apply && !all.is_empty() {
        eprintln!(
            "next:  kvutil data gc --data-dir {} --apply",
            args.data.data_dir.display()
        );
    }
    drop(locks);
    Ok(Outcome::Fine)
}
