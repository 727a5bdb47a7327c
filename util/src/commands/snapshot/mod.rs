//! `kvutil snapshot`: states as files.

mod convert;
mod diff;
mod extract;
mod get;
mod list;
mod restore;
mod save;
mod status;
mod verify;

use clap::Subcommand;

use crate::failure::{Outcome, Result};
use crate::shell::Shell;

#[derive(Debug, Subcommand)]
pub enum Command {
    Save(save::Args),
    Restore(Box<restore::Args>),
    Status(status::Args),
    Verify(verify::Args),
    List(list::Args),
    Get(get::Args),
    Diff(diff::Args),
    Extract(extract::Args),
    Convert(convert::Args),
}

pub fn run(command: &Command, shell: &Shell) -> Result<Outcome> {
    match command {
        Command::Save(args) => save::run(args, shell),
        Command::Restore(args) => restore::run(args, shell),
        Command::Status(args) => status::run(args, shell),
        Command::Verify(args) => verify::run(args, shell),
        Command::List(args) => list::run(args, shell),
        Command::Get(args) => get::run(args, shell),
        Command::Diff(args) => diff::run(args, shell),
        Command::Extract(args) => extract::run(args, shell),
        Command::Convert(args) => convert::run(args, shell),
    }
}

/// Threads for work on a snapshot.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Threads {
    /// Threads that pack, unpack and check; by default one per CPU
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
}

impl Threads {
    pub fn count(self) -> usize {
        match self.threads {
            Some(threads) => usize::from(threads),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// How a `.kvs` file is packed.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Packing {
    #[command(flatten)]
    pub threads: Threads,
    /// zstd level: higher ones are smaller and slower
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=19))]
    zstd_level: i32,
}

impl Packing {
    pub fn options(&self) -> kvnode_snapshot::Options {
        kvnode_snapshot::Options {
            level: self.zstd_level,
            threads: self.threads.count(),
            ..kvnode_snapshot::Options::default()
        }
    }
}
