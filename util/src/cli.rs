//! The command tree. Help texts are the manual.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::commands::{data, disk, hashkv, kv, manual, snapshot, support, wal};
use crate::output::Form;
use crate::progress::Mode;

/// Inspect, check, repair and rewrite data directories and snapshot files of kvnode, offline
///
/// Commands that read never change their input. Commands that write build beside, verify, and exchange by one rename;
/// what they replace is kept and can be taken back with `kvutil data undo`. Every error ends with the next command to
/// type. Exit codes: 0 done and nothing wrong, 1 failed, 2 wrong usage, 3 done and damage or differences found, 4 only
/// damage that a repair mends without loss, 5 locked by a running process, 6 not enough space, 7 refused without a
/// token or a choice, 8 format of another version, 9 device error, 130 and 143 interrupted with nothing left behind.
#[derive(Debug, Parser)]
#[command(name = "kvutil", disable_version_flag = true)]
pub struct Cli {
    /// Form of the result on stdout
    #[arg(short = 'w', long = "output", visible_alias = "write-out", value_enum, default_value_t = Form::Simple, global = true)]
    pub output: Form,
    /// Progress on stderr
    #[arg(long, value_enum, default_value_t = Mode::Auto, global = true)]
    pub progress: Mode,
    /// Where temporary copies are made
    #[arg(long, value_name = "DIR", global = true)]
    pub scratch_dir: Option<PathBuf>,
    /// No remarks on stderr
    #[arg(short, long, global = true)]
    pub quiet: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The write-ahead log
    #[command(subcommand)]
    Wal(wal::Command),
    /// A data directory as a whole
    #[command(subcommand)]
    Data(data::Command),
    /// Keys, history and leases of a data directory or snapshot file
    #[command(subcommand)]
    Kv(kv::Command),
    /// A snapshot file
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    Hashkv(hashkv::Args),
    /// As `data defrag`
    Defrag(data::defrag::Args),
    /// As `data migrate`
    Migrate(data::migrate::Args),
    /// The device under the log
    #[command(subcommand)]
    Disk(disk::Command),
    /// Help from others
    #[command(subcommand)]
    Support(support::Command),
    Completion(manual::CompletionArgs),
    Man(manual::ManArgs),
    /// Print the version
    Version,
}
