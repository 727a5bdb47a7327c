//! `kvutil data`: a data directory as a whole.

pub mod check;
mod clone;
mod compact;
pub mod defrag;
mod gc;
mod info;
mod lock;
pub mod migrate;
mod resync;
mod undo;

use std::path::PathBuf;

use clap::Subcommand;

use crate::failure::{Outcome, Result};
use crate::shell::Shell;

/// The arguments that name a data directory.
#[derive(Debug, Clone, clap::Args)]
pub struct DataArgs {
    /// The node's data directory
    #[arg(long)]
    pub data_dir: PathBuf,
    /// Where the log is, if it was moved since the directory was made
    #[arg(long)]
    pub wal_dir: Option<PathBuf>,
}

impl DataArgs {
    /// The data directory, and the log's own one if it is elsewhere.
    pub fn parents(&self) -> Result<Vec<PathBuf>> {
        kvnode_store::datadir::peek(&self.data_dir)?;
        let recorded = kvnode_store::datadir::recorded_wal_dir(&self.data_dir)?;
        let elsewhere = self.wal_dir.clone().or(recorded);
        Ok(std::iter::once(self.data_dir.clone())
            .chain(elsewhere)
            .collect())
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Info(info::Args),
    Check(check::Args),
    Compact(compact::Args),
    Defrag(defrag::Args),
    Clone(clone::Args),
    Undo(undo::Args),
    Gc(gc::Args),
    Lock(lock::Args),
    Migrate(migrate::Args),
    Resync(resync::Args),
}

pub fn run(command: &Command, shell: &Shell) -> Result<Outcome> {
    match command {
        Command::Info(args) => info::run(args, shell),
        Command::Check(args) => check::run(args, shell),
        Command::Compact(args) => compact::run(args, shell),
        Command::Defrag(args) => defrag::run(args, shell),
        Command::Clone(args) => clone::run(args, shell),
        Command::Undo(args) => undo::run(args, shell),
        Command::Gc(args) => gc::run(args, shell),
        Command::Lock(args) => lock::run(args, shell),
        Command::Migrate(args) => migrate::run(args, shell),
        Command::Resync(args) => resync::run(args, shell),
    }
}
