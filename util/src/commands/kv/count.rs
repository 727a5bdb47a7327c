//! `kvutil kv count`: how many keys.

use serde::Serialize;

use super::prefix_range;
use crate::failure::{Outcome, Result};
use crate::shell::Shell;
use crate::source::SourceArgs;

/// Count the keys under a prefix
///
/// Example: kvutil kv count --data-dir /var/lib/kvnode --prefix /registry/
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
}

#[derive(Serialize)]
struct Count {
    schema: &'static str,
    source: String,
    revision: i64,
    prefix: String,
    keys: i64,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let source = args.source.open(shell)?;
    let count = Count {
        schema: "kvutil.kv.count.1",
        keys: source.answered(source.view.count(&prefix_range(&args.prefix), args.rev))?,
        revision: if args.rev > 0 {
            args.rev
        } else {
            source.view.revision()
        },
        prefix: args.prefix.clone(),
        source: source.name.clone(),
    };
    shell.output.print(&count, |count| count.keys.to_string());
    Ok(Outcome::Fine)
}
