//! `kvutil support`: what to send to somebody who is to help.

mod bundle;
mod tar;

use clap::Subcommand;

use crate::failure::{Outcome, Result};
use crate::shell::Shell;

#[derive(Debug, Subcommand)]
pub enum Command {
    Bundle(bundle::Args),
}

pub fn run(command: &Command, shell: &Shell) -> Result<Outcome> {
    match command {
        Command::Bundle(args) => bundle::run(args, shell),
    }
}
