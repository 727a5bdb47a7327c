//! Commands that need no server: version, options, completion scripts, the manual page.

use std::process::ExitCode;

use clap::ArgMatches;
use clap_complete::Shell;

use crate::cli;
use crate::failure::{Failure, Result, code};
use crate::output::{say, say_line};

/// Version of the API spoken.
const API_VERSION: &str = "3.6";

/// Runs one of these commands; `None` if it is another.
pub fn run(path: &str, matches: &ArgMatches) -> Option<Result<()>> {
    match path {
        "version" => Some(version()),
        "options" => Some(options()),
        "completion" => Some(completion(matches)),
        _ => None,
    }
}

fn version() -> Result<()> {
    say_line(&format!(
        "kvctl version: {}\nAPI version: {API_VERSION}",
        env!("CARGO_PKG_VERSION")
    ))
}

fn options() -> Result<()> {
    let mut out = "The following options can be passed to any command:\n\n".to_owned();
    for arg in cli::command()
        .get_arguments()
        .filter(|arg| arg.is_global_set())
    {
        let short = arg
            .get_short()
            .map_or("    ".to_owned(), |short| format!("-{short}, "));
        let defaults = arg
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy());
        let default = defaults
            .filter(|value| !value.is_empty())
            .collect::<Vec<_>>()
            .join(",");
        let default = if default.is_empty() {
            default
        } else {
            format!(" (default {default})")
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        out.push_str(&format!(
            "  {short}--{:<26} {help}{default}\n",
            arg.get_id().as_str()
        ));
    }
    say(out)
}

fn completion(matches: &ArgMatches) -> Result<()> {
    let words = cli::words_of(matches);
    let shell = match &words[..] {
        [shell] => match shell.to_str() {
            Some("bash") => Some(Shell::Bash),
            Some("zsh") => Some(Shell::Zsh),
            Some("fish") => Some(Shell::Fish),
            Some("powershell") => Some(Shell::PowerShell),
            _ => None,
        },
        _ => None,
    };
    let shell = shell.ok_or_else(|| {
        Failure::new(
            code::ERROR,
            "completion needs one argument: bash, zsh, fish or powershell",
        )
        .next("kvctl completion bash > /etc/bash_completion.d/kvctl")
    })?;
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), "kvctl", &mut out);
    say(out)
}

/// The manual page (roff), all commands in one.
pub fn man_page() -> ExitCode {
    let mut out = Vec::new();
    // Building gives every command its whole name.
    let mut root = cli::command();
    root.build();
    let mut pages = vec![root];
    let mut failed = false;
    while let Some(page) = pages.pop() {
        let inner: Vec<_> = page.get_subcommands().cloned().collect();
        pages.extend(
            inner
                .into_iter()
                .rev()
                .filter(|command| command.get_name() != "help"),
        );
        failed |= clap_mangen::Man::new(page).render(&mut out).is_err();
    }
    match say(out) {
        Ok(()) if !failed => ExitCode::SUCCESS,
        _ => ExitCode::from(code::ERROR),
    }
}
