//! `kvutil wal`: the write-ahead log.

mod dump;
mod history;
mod inspect;
mod repair;
mod stats;
mod verify;

use clap::Subcommand;

use crate::failure::{Outcome, Result};
use crate::shell::Shell;

#[derive(Debug, Subcommand)]
pub enum Command {
    Inspect(inspect::Args),
    Dump(dump::Args),
    Verify(verify::Args),
    Repair(repair::Args),
    Stats(stats::Args),
    History(history::Args),
}

pub fn run(command: &Command, shell: &Shell) -> Result<Outcome> {
    match command {
        Command::Inspect(args) => inspect::run(args, shell),
        Command::Dump(args) => dump::run(args, shell),
        Command::Verify(args) => verify::run(args, shell),
        Command::Repair(args) => repair::run(args, shell),
        Command::Stats(args) => stats::run(args, shell),
        Command::History(args) => history::run(args, shell),
    }
}
