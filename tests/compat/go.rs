//! Go's clientv3 and its concurrency recipes, by `go test` over the module in `goclient/`.

use std::process::Command;
use std::time::Duration;

use kvnode_tests::{Options, Server};

use crate::tool::{run, skip};

fn go(arguments: &[&str]) -> Command {
    let mut command = Command::new("go");
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/compat/goclient"));
    // The module says which toolchain it needs; a download of another is not a test's business.
    command
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-mod=readonly -buildvcs=false");
    command.args(arguments);
    command
}

#[test]
fn go_clients_and_their_mutexes_and_stm_work() {
    if let Err(error) = go(&["version"]).output() {
        return skip("go", &error.to_string());
    }
    let fetched = run(go(&["mod", "download"]), "", Duration::from_secs(120));
    if !fetched.success() {
        let why = fetched
            .stderr
            .lines()
            .last()
            .unwrap_or("go mod download failed");
        return skip("go", why);
    }
    let server = Server::start(Options::default());
    let mut command = go(&["test", "-count=1", "-timeout=100s", "-v", "./..."]);
    command.env("KVNODE_ENDPOINT", server.address().to_string());
    let said = run(command, "", Duration::from_secs(240)).ok();
    assert!(said.contains("--- PASS"), "{said}");
}
