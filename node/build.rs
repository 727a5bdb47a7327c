//! Notes compiler, target and commit for `kvnode --version`.
//!
//! The commit is looked up in release builds only: it would otherwise rebuild the crate after
//! every commit. A source tree without git is fine; `KVNODE_COMMIT` set by a packager wins.

use std::path::Path;
use std::process::Command;

fn main() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let rustc = output(&rustc, &["--version"]).unwrap_or_else(|| "unknown".to_owned());
    let target = std::env::var("TARGET").unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo::rustc-env=KVNODE_RUSTC={rustc}");
    println!("cargo::rustc-env=KVNODE_TARGET={target}");
    println!("cargo::rustc-env=KVNODE_COMMIT={}", commit());
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=KVNODE_COMMIT");
}

fn commit() -> String {
    let given = std::env::var("KVNODE_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty());
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let found = || {
        let log = output("git", &["rev-parse", "--git-path", "logs/HEAD"])?;
        if Path::new(&log).exists() {
            println!("cargo::rerun-if-changed={log}");
        }
        output("git", &["rev-parse", "--short=12", "HEAD"])
    };
    match given {
        Some(commit) => commit,
        None if release => found().unwrap_or_else(|| "unknown".to_owned()),
        None => "unknown".to_owned(),
    }
}

/// The first line a command prints, if it succeeds.
fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .ok()
        .filter(|o| o.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines()
        .next()
        .map(str::to_owned)
        .filter(|line| !line.is_empty())
}
