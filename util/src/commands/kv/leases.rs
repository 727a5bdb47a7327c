//! `kvutil kv leases`: all leases, with their keys if asked for.

use serde::Serialize;

use crate::failure::{Failure, Outcome, Result};
use crate::output::show;
use crate::shell::Shell;
use crate::source::SourceArgs;

/// Print the leases
///
/// When a lease ends is the leader's clock's business: here are what was granted and what was last noted. Example:
/// kvutil kv leases --data-dir /var/lib/kvnode --keys
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// List their keys
    #[arg(long)]
    keys: bool,
}

#[derive(Serialize)]
struct Row {
    lease: String,
    granted_seconds: i64,
    /// Last noted; 0 if never.
    remaining_seconds: i64,
    keys_count: usize,
    keys: Vec<String>,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let source = args.source.open(shell)?;
    let rows = source.view.leases()?.into_iter().map(|lease| {
        let keys = source
            .view
            .lease(lease.id, true)?
            .map(|lease| lease.keys)
            .unwrap_or_default();
        Ok::<_, Failure>(Row {
            lease: format!("{:x}", lease.id),
            granted_seconds: lease.ttl,
            remaining_seconds: lease.remaining,
            keys_count: keys.len(),
            keys: if args.keys {
                keys.iter().map(|key| show(key)).collect()
            } else {
                Vec::new()
            },
        })
    });
    shell.output.rows("kvutil.kv.leases.1", rows, |row: &Row| {
        let mut text = format!(
            "{} granted {} s, {} keys",
            row.lease, row.granted_seconds, row.keys_count
        );
        if row.remaining_seconds > 0 {
            text.push_str(&format!(
                ", {} s left when last noted",
                row.remaining_seconds
            ));
        }
        for key in &row.keys {
            text.push_str(&format!("\n  {key}"));
        }
        text
    })?;
    Ok(Outcome::Fine)
}
