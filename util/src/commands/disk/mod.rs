//! `kvutil disk`: the device under the log.

mod probe;

use clap::Subcommand;

use crate::failure::{Outcome, Result};
use crate::shell::Shell;

#[derive(Debug, Subcommand)]
pub enum Command {
    Probe(probe::Args),
}

pub fn run(command: &Command, shell: &Shell) -> Result<Outcome> {
    match command {
        Command::Probe(args) => probe::run(args, shell),
    }
}
