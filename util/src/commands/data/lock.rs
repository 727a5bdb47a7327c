//! `kvutil data lock`: who has the directory open.

use kvnode_store::datadir::{holder, peek, utc};
use serde::Serialize;

use super::DataArgs;
use crate::failure::{Outcome, Result};
use crate::process;
use crate::shell::Shell;

/// Print which process has the data directory open
///
/// Always exit code 0: the answer is the result.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Serialize)]
struct Lock {
    schema: &'static str,
    locked: bool,
    pid: Option<u32>,
    service: Option<String>,
    program: Option<String>,
    version: Option<String>,
    started_unix_seconds: Option<u64>,
    /// False if the lock's text is from before the last boot, or from another machine.
    this_boot: Option<bool>,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    peek(&args.data.data_dir)?;
    let found = holder(&args.data.data_dir)?;
    let who = found.clone().flatten();
    let lock = Lock {
        schema: "kvutil.data.lock.1",
        locked: found.is_some(),
        pid: who.as_ref().map(|who| who.pid),
        service: who.as_ref().and_then(|who| process::service(who.pid)),
        program: who.as_ref().map(|who| who.program.clone()),
        version: who.as_ref().map(|who| who.version.clone()),
        started_unix_seconds: who.as_ref().map(|who| who.started),
        this_boot: who.as_ref().map(|who| who.this_boot),
    };
    shell
        .output
        .print(&lock, |lock| match (lock.locked, lock.pid) {
            (false, _) => "not locked".to_owned(),
            (true, None) => "locked by a process that does not say who it is".to_owned(),
            (true, Some(pid)) => format!(
                "locked by {} {}, pid {pid}{}, since {}",
                lock.program.as_deref().unwrap_or("?"),
                lock.version.as_deref().unwrap_or("?"),
                lock.service
                    .as_ref()
                    .map_or_else(String::new, |service| format!(" ({service})")),
                utc(lock.started_unix_seconds.unwrap_or(0))
            ),
        });
    Ok(Outcome::Fine)
}
