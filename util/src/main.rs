//! kvutil: looks after data directories and snapshot files of a stopped node. Reads files with `std::fs` only: no
//! io_uring, no raft, no sockets, so it runs wherever the files can be read.

mod cli;
mod commands;
mod failure;
mod output;
mod progress;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command, DataCommand, SnapshotCommand, WalCommand};
use crate::output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.output);
    let result = match &cli.command {
        Command::Wal(WalCommand::Inspect { data_dir }) => commands::wal::inspect(data_dir, &output),
        Command::Wal(WalCommand::Verify { data_dir }) => commands::wal::verify(data_dir, &output),
        Command::Snapshot(SnapshotCommand::Status { file }) => {
            commands::snapshot::status(file, &output)
        }
        Command::Snapshot(SnapshotCommand::Verify { file }) => {
            commands::snapshot::verify(file, &output)
        }
        Command::Data(DataCommand::Info { data_dir }) => commands::data::info(data_dir, &output),
        Command::Version => commands::version(&output),
    };
    match result {
        Ok(outcome) => outcome.exit_code(),
        Err(failure) => failure.report(),
    }
}
