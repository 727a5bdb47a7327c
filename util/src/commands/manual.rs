//! `kvutil completion` and `kvutil man`: from the same definitions as the help.

use std::path::PathBuf;

use clap::CommandFactory as _;

use crate::cli::Cli;
use crate::failure::{Failure, Outcome, Result};
use crate::output::say;

/// Print a completion script
///
/// Example: kvutil completion bash > /etc/bash_completion.d/kvutil
#[derive(Debug, clap::Args)]
pub struct CompletionArgs {
    shell: clap_complete::Shell,
}

/// Print the manual page, or write one per command
///
/// Example: kvutil man --out /usr/share/man/man1
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// A directory for one page per command
    #[arg(long)]
    out: Option<PathBuf>,
}

pub fn completion(args: &CompletionArgs) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kvutil", &mut script);
    say(String::from_utf8_lossy(&script).trim_end());
    Ok(Outcome::Fine)
}

pub fn man(args: &ManArgs) -> Result<Outcome> {
    if let Some(out) = &args.out {
        clap_mangen::generate_to(Cli::command(), out)
            .map_err(|e| Failure::io("write manual pages into", out, &e))?;
        return Ok(Outcome::Fine);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command())
        .render(&mut page)
        .map_err(|e| Failure::io("render", "kvutil.1".as_ref(), &e))?;
    say(String::from_utf8_lossy(&page).trim_end());
    Ok(Outcome::Fine)
}
