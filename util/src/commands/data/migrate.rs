//! `kvutil data migrate`: to another version of the format. There is one so far.

use kvnode_store::datadir;
use serde::Serialize;

use super::DataArgs;
use crate::failure::{Code, Failure, Outcome, Result};
use crate::shell::Shell;

/// Bring a data directory to another version of the format
///
/// There is only one version so far, so this says whether the directory has it. Exit code 8 for any other.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// The version wanted
    #[arg(long, alias = "to-version", value_name = "VERSION")]
    target_version: Option<String>,
    /// Taken for compatibility; nothing needs it
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct Migrated {
    schema: &'static str,
    data_dir: String,
    format: u32,
    changed: bool,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    datadir::peek(&args.data.data_dir)?;
    let known = [
        datadir::FORMAT.to_string(),
        format!("{}.0", datadir::FORMAT),
    ];
    if let Some(wanted) = args
        .target_version
        .as_ref()
        .filter(|wanted| !known.contains(wanted))
    {
        return Err(Failure::new(
            Code::Version,
            format!("no format {wanted} is known here, only {}", datadir::FORMAT),
            "kvutil version",
        ));
    }
    let migrated = Migrated {
        schema: "kvutil.data.migrate.1",
        data_dir: args.data.data_dir.display().to_string(),
        format: datadir::FORMAT,
        changed: false,
    };
    shell.output.print(&migrated, |migrated| {
        format!(
            "{}: has format {} already, nothing to do",
            migrated.data_dir, migrated.format
        )
    });
    Ok(Outcome::Fine)
}
