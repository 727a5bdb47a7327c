//! The command tree. Help texts are the manual.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Inspect and check data directories and snapshot files of kvnode, offline
///
/// Nothing here changes a file. Exit codes: 0 done and nothing wrong, 1 failed, 2 wrong usage, 3 done and damage found,
/// 5 the data directory is in use, 8 format of another version.
#[derive(Debug, Parser)]
#[command(name = "kvutil", disable_version_flag = true)]
pub struct Cli {
    /// Form of the result on stdout
    #[arg(short = 'w', long, value_enum, default_value_t = Form::Simple, global = true)]
    pub output: Form,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Lines to read
    Simple,
    /// One JSON object with a `schema` field; its fields only grow
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look at the write-ahead log
    #[command(subcommand)]
    Wal(WalCommand),
    /// Look at a snapshot file
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Look at a data directory
    #[command(subcommand)]
    Data(DataCommand),
    /// Print the version
    Version,
}

#[derive(Debug, Subcommand)]
pub enum WalCommand {
    /// List the segments with their entries and what they hold
    ///
    /// Example: kvutil wal inspect --data-dir /var/lib/kvnode
    Inspect {
        /// The node's data directory
        #[arg(long)]
        data_dir: PathBuf,
    },
    /// Check every byte of the log
    ///
    /// Names the place, the rule and the next command for the first damage. Exit code 3 if there is any.
    Verify {
        /// The node's data directory
        #[arg(long)]
        data_dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Print what a snapshot holds
    ///
    /// Reads header and footer only. Example: kvutil snapshot status backup.kvs
    Status {
        /// A `.kvs` file, as `etcdctl snapshot save` stores it
        file: PathBuf,
    },
    /// Check every byte of a snapshot
    ///
    /// Names every damaged chunk; the rest stays readable. Exit code 3 if there is any.
    Verify {
        /// A `.kvs` file
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Print whose data directory it is
    Info {
        /// The node's data directory
        #[arg(long)]
        data_dir: PathBuf,
    },
}
