//! `kvutil support bundle`: what the tool itself says of a data directory, and what the machine is. No key, value or
//! secret is in it unless keys are asked for.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use kvnode_store::datadir;

use super::tar;
use crate::commands::data::DataArgs;
use crate::failure::{Code, Failure, Outcome, Result};
use crate::output::say;
use crate::process;
use crate::shell::Shell;

/// Collect what somebody needs who is to help
///
/// Answers of `data info`, `data lock`, `wal inspect`, `wal verify`, `wal stats`, `data check` and the machine's own
/// facts. Keys only with --keys, values never. OUT is a directory, or an archive if it ends in .tar.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Add the space used per prefix: shows the first part of keys
    #[arg(long)]
    keys: bool,
    /// Where to; must not exist
    out: PathBuf,
}

/// Facts of the machine; none names a secret.
const FACTS: [&str; 5] = [
    "/proc/version",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/mounts",
    "/proc/loadavg",
];

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    datadir::peek(&args.data.data_dir)?;
    if args.out.exists() {
        return Err(Failure::new(
            Code::Refused,
            format!("{} exists", args.out.display()),
            format!("ls -la {}", args.out.display()),
        ));
    }
    let data = args.data.data_dir.display().to_string();
    let mut verbs: Vec<(&str, Vec<&str>)> = vec![
        ("version", vec!["version"]),
        ("data-info", vec!["data", "info"]),
        ("data-lock", vec!["data", "lock"]),
        ("data-undo", vec!["data", "undo", "--list"]),
        ("wal-inspect", vec!["wal", "inspect"]),
        ("wal-verify", vec!["wal", "verify"]),
        ("wal-stats", vec!["wal", "stats", "--top", "0"]),
        ("data-check", vec!["data", "check", "--level", "checksums"]),
    ];
    if args.keys {
        verbs.push(("kv-du", vec!["kv", "du", "--depth", "1"]));
    }
    let mut files = Vec::new();
    let mut progress = shell.progress.count("collecting", verbs.len() as u64);
    let program =
        std::env::current_exe().map_err(|e| Failure::io("find", "kvutil".as_ref(), &e))?;
    for (name, verb) in verbs {
        let mut command = Command::new(&program);
        command
            .args(["-w", "json", "--progress", "never"])
            .args(&verb)
            .stdin(Stdio::null());
        if name != "version" {
            command.args(["--data-dir", &data]);
            if let Some(wal) = &args.data.wal_dir {
                command.arg("--wal-dir").arg(wal);
            }
        }
        let output = command
            .output()
            .map_err(|e| Failure::io("run", &program, &e))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        files.push((format!("{name}.json"), text(&output.stdout)));
        files.push((
            format!("{name}.err"),
            format!(
                "exit code {:?}\n{}",
                output.status.code(),
                text(&output.stderr)
            ),
        ));
        progress.add(1);
    }
    drop(progress);
    for path in FACTS {
        let name = path.trim_start_matches('/').replace('/', "-");
        files.push((
            format!("{name}.txt"),
            fs::read_to_string(path).unwrap_or_default(),
        ));
    }
    let is_tar = args
        .out
        .extension()
        .is_some_and(|extension| extension == "tar");
    let written = if is_tar {
        fs::write(&args.out, tar::archive(&files, process::now_ms() / 1000))
    } else {
        fs::create_dir(&args.out).and_then(|()| {
            files
                .iter()
                .try_for_each(|(name, content)| fs::write(args.out.join(name), content))
        })
    };
    written.map_err(|e| Failure::io("write", &args.out, &e))?;
    say(&format!(
        "{}: {} files, no values{}",
        args.out.display(),
        files.len(),
        if args.keys { "" } else { ", no keys" }
    ));
    Ok(Outcome::Fine)
}
