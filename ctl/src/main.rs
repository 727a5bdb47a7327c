//! `kvctl`: etcdctl's commands, flags, output and exit codes for kvnode (and any etcd-v3 server).
//!
//! `cli.rs` says what there is, `settings.rs` what flags and variables mean, `commands/` does it, `output/`
//! prints it, `failure.rs` says what went wrong.

mod certificate;
mod cli;
mod commands;
mod context;
mod discovery;
mod failure;
mod golang;
mod metrics;
mod output;
mod settings;
mod terminal;
mod words;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    // Not a clap command, so that `ma` keeps meaning make-mirror.
    if arguments.get(1).is_some_and(|first| first == "man") && arguments.len() == 2 {
        return commands::manual::man_page();
    }
    let matches = match cli::command().try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(error) => return cli::report(&error),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("Error: the system refuses a runtime: {error}");
            return ExitCode::from(failure::code::ERROR);
        }
    };
    let result = runtime.block_on(commands::run(&matches, &arguments));
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    };
    // A thread that waits for a line on stdin must not hold the process.
    runtime.shutdown_background();
    code
}
