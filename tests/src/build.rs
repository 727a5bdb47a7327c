//! Which program is under test, and building it when it is ours.
//!
//! `KVNODE_TEST_SERVER_BIN` names any server binary; its `--version` tells what it is. Without it the
//! workspace's `kvnode` is built once per test process (a no-op when fresh) into the target directory the
//! running test binary came from, so tests never meet a stale server.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::server::Kind;

/// The program under test.
pub struct Subject {
    pub path: PathBuf,
    pub kind: Kind,
}

/// The program under test; found (and built) on first use. Panics with the reason when there is none.
pub fn subject() -> &'static Subject {
    static SUBJECT: OnceLock<Subject> = OnceLock::new();
    SUBJECT.get_or_init(|| match std::env::var_os("KVNODE_TEST_SERVER_BIN") {
        Some(path) => given(PathBuf::from(path)),
        None if std::env::var("KVNODE_TEST_SERVER").as_deref() == Ok("etcd") => {
            given(PathBuf::from("etcd"))
        }
        None => Subject {
            path: built(),
            kind: Kind::Kvnode,
        },
    })
}

/// `<target>/tmp/kvnode-tests`: where test data lives; removed runs of dead processes are cleared away.
pub fn scratch() -> &'static Path {
    static SCRATCH: OnceLock<PathBuf> = OnceLock::new();
    SCRATCH.get_or_init(|| {
        let base = target_directory().join("tmp").join("kvnode-tests");
        sweep(&base);
        let own = base.join(std::process::id().to_string());
        std::fs::create_dir_all(&own).expect("the target directory is writable");
        own
    })
}

/// The cargo target directory that holds the running test binary (`<target>/<profile>/deps/<test>`).
pub fn target_directory() -> PathBuf {
    let executable = std::env::current_exe().expect("a process knows its own path");
    executable
        .ancestors()
        .nth(3)
        .expect("test binaries live in <target>/<profile>/deps")
        .into()
}

fn given(path: PathBuf) -> Subject {
    let output = Command::new(&path)
        .arg("--version")
        .output()
        .unwrap_or_else(|error| panic!("cannot run {} --version: {error}", path.display()));
    let text = String::from_utf8_lossy(&output.stdout);
    let kind = match text
        .lines()
        .find_map(|line| line.strip_prefix("etcd Version: "))
    {
        None => Kind::Kvnode,
        Some(version) => {
            let minor = version
                .split('.')
                .nth(1)
                .and_then(|minor| minor.parse().ok());
            Kind::Etcd {
                minor: minor.unwrap_or_else(|| panic!("odd version {version:?}")),
            }
        }
    };
    Subject { path, kind }
}

fn built() -> PathBuf {
    let target = target_directory();
    let executable = std::env::current_exe().expect("a process knows its own path");
    let profile = executable
        .ancestors()
        .nth(2)
        .expect("as in target_directory");
    let binary = profile.join("kvnode");
    let Some(cargo) = std::env::var_os("CARGO") else {
        assert!(
            binary.exists(),
            "{} is missing and cargo is not at hand to build it; run the tests by cargo, or set \
             KVNODE_TEST_SERVER_BIN",
            binary.display()
        );
        return binary;
    };
    let mut command = Command::new(cargo);
    command
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        // The whole workspace's features, as the tests themselves are built with: nothing is built twice.
        .args([
            "build",
            "--quiet",
            "--workspace",
            "--bin",
            "kvnode",
            "--target-dir",
        ])
        .arg(target);
    if profile.file_name().is_some_and(|name| name == "release") {
        command.arg("--release");
    }
    let output = command.output().expect("cargo runs");
    assert!(
        output.status.success(),
        "building kvnode failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    binary
}

/// Removes the scratch directories of test processes that no longer run.
fn sweep(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let alive = Path::new("/proc").join(&name).exists();
        if !alive
            && name
                .to_str()
                .is_some_and(|name| name.parse::<u32>().is_ok())
        {
            // A full-disk test that was killed may have left its mounts behind.
            if let Ok(runs) = std::fs::read_dir(entry.path()) {
                for run in runs
                    .flatten()
                    .filter(|run| run.path().ends_with("small-disk"))
                {
                    let _ = Command::new("umount").arg(run.path()).output();
                }
            }
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
