//! etcd's tutorials, done with kvctl alone: a server, and command lines for it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use kvnode_tests::program::{self, Ran, Running};
use kvnode_tests::{Options, Server, build};

/// Longest wait for one command or line.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The workspace's kvctl, built once per test process.
pub fn binary() -> PathBuf {
    static KVCTL: OnceLock<PathBuf> = OnceLock::new();
    KVCTL.get_or_init(|| build::tool("kvctl")).clone()
}

/// kvctl with the variables of nobody.
pub fn kvctl(endpoint: &str, line: &str) -> Command {
    let mut command = Command::new(binary());
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
        .arg("--endpoints")
        .arg(endpoint)
        .args(line.split_whitespace());
    command
}

/// Looks again and again until it is so; panics when it takes too long.
#[track_caller]
pub fn eventually(mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < LIMIT, "it never came to that");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub struct Tour {
    pub server: Server,
    pub endpoint: String,
}

impl Tour {
    pub fn new() -> Tour {
        Tour::of(Server::start(Options::default()))
    }

    pub fn of(server: Server) -> Tour {
        let endpoint = server.address().to_string();
        Tour { server, endpoint }
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = kvctl(&self.endpoint, line);
        command.current_dir(self.server.home());
        command
    }

    pub fn run(&self, line: &str) -> Ran {
        program::run(self.command(line), "", LIMIT)
    }

    pub fn ok(&self, line: &str) -> String {
        self.run(line).ok()
    }

    pub fn start(&self, line: &str) -> Running {
        Running::start(self.command(line), LIMIT)
    }

    pub fn lease(&self, ttl: u32) -> String {
        let granted = self.ok(&format!("lease grant {ttl}"));
        granted
            .split(' ')
            .nth(1)
            .expect("lease <id> granted")
            .to_owned()
    }
}
