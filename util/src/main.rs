//! kvutil: looks after data directories and snapshot files of a stopped node. Reads and writes files with `std::fs`
//! only: no io_uring and no raft, so it runs wherever the files can be read. A running node is asked through the socket in its directory
//! (`live.rs`) or the client library (`online.rs`).

mod cli;
mod commands;
mod decode;
mod failure;
mod keys;
mod kvs;
mod live;
mod log;
mod online;
mod output;
mod part;
mod process;
mod progress;
mod replay;
mod restore;
mod scanned;
mod shell;
mod source;
mod span;
mod swap;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::failure::{Code, Outcome, Result};
use crate::output::Output;
use crate::shell::Shell;

/// Records are read, packed and dropped on different threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    process::clean_up_on_signals();
    let shell = Shell {
        output: Output::new(cli.output),
        progress: cli.progress,
        scratch: cli.scratch_dir.unwrap_or_else(std::env::temp_dir),
        quiet: cli.quiet,
    };
    let done = run(&cli.command, &shell);
    process::wait_if_interrupted();
    match done {
        Ok(outcome) => outcome.exit_code(),
        Err(failure) => failure.report(),
    }
}

fn run(command: &Command, shell: &Shell) -> Result<Outcome> {
    match command {
        Command::Wal(command) => commands::wal::run(command, shell),
        Command::Data(command) => commands::data::run(command, shell),
        Command::Kv(command) => commands::kv::run(command, shell),
        Command::Snapshot(command) => commands::snapshot::run(command, shell),
        Command::Hashkv(args) => commands::hashkv::run(args, shell),
        Command::Defrag(args) => commands::data::defrag::run(args, shell),
        Command::Migrate(args) => commands::data::migrate::run(args, shell),
        Command::Disk(command) => commands::disk::run(command, shell),
        Command::Support(command) => commands::support::run(command, shell),
        Command::Completion(args) => commands::manual::completion(args),
        Command::Man(args) => commands::manual::man(args),
        Command::Version => commands::version::run(shell),
    }
}

/// Help goes to stdout and is fine; anything else is wrong usage, with the help of the command that was meant.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let words = std::env::args()
        .skip(1)
        .take_while(|word| !word.starts_with('-'));
    let mut command = <Cli as clap::CommandFactory>::command();
    let mut meant = vec!["kvutil".to_owned()];
    for word in words {
        let Some(sub) = command.find_subcommand(&word).cloned() else {
            break;
        };
        command = sub;
        meant.push(word);
    }
    eprintln!("next:  {} --help", meant.join(" "));
    ExitCode::from(Code::Usage as u8)
}
