//! The npm package `etcd3`, in a copy of `node/` below the target directory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kvnode_tests::build;

use crate::secure::Secure;
use crate::tool::{is_there, run, skip};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/compat/node");

/// The directory with the packages that the lock file names; or why there is none.
fn installed() -> Result<PathBuf, String> {
    for tool in ["node", "npm"] {
        is_there(tool, "--version").map_err(|why| format!("{tool}: {why}"))?;
    }
    let home = build::target_directory().join("tmp").join("kvnode-node");
    std::fs::create_dir_all(&home).map_err(|error| error.to_string())?;
    for file in ["package.json", "package-lock.json", "tour.js"] {
        let copied = std::fs::copy(Path::new(SOURCE).join(file), home.join(file));
        copied.map_err(|error| format!("{file}: {error}"))?;
    }
    let mut install = Command::new("npm");
    install
        .current_dir(&home)
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    let output = run(install, "", Duration::from_secs(180));
    match output.success() {
        true => Ok(home),
        false => Err(output.stderr.lines().last().unwrap_or("npm ci").to_owned()),
    }
}

#[test]
fn a_node_program_works_with_a_secure_cluster_and_through_a_failover() {
    let home = match installed() {
        Ok(home) => home,
        Err(why) => return skip("node", &why),
    };
    let secure = Secure::start();
    let mut command = Command::new("node");
    command.current_dir(home).arg("tour.js");
    secure.tell(&mut command);
    let said = run(command, "", Duration::from_secs(240)).ok();
    assert_eq!(said.lines().last(), Some("all well"), "{said}");
}
