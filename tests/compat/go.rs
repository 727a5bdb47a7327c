//! Go's clientv3 and its concurrency recipes, by `go test` over the module in `goclient/`: of 3.6 as its `go.mod` says, of
//! 3.5 by its `go35.mod`.

use std::process::Command;
use std::time::Duration;

use kvnode_tests::{Options, Server};

use crate::secure::Secure;
use crate::tool::{is_there, run, skip};

/// Building the clients takes most of it.
const LIMIT: Duration = Duration::from_secs(300);

/// Tests of this name, with the clients that this file of modules asks for.
fn tests(modules: &str, name: &str) -> Option<Command> {
    let go = |arguments: &[&str]| {
        let mut command = Command::new("go");
        command
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/compat/goclient"))
            // The module says which toolchain it needs; a download of another is not a test's business.
            .env("GOTOOLCHAIN", "local")
            .env(
                "GOFLAGS",
                format!("-mod=readonly -buildvcs=false -modfile={modules}"),
            );
        command.args(arguments);
        command
    };
    if let Err(why) = is_there("go", "version") {
        skip("go", &why);
        return None;
    }
    let fetched = run(go(&["mod", "download"]), "", Duration::from_secs(120));
    if !fetched.success() {
        let why = fetched.stderr.lines().last();
        skip("go", why.unwrap_or("go mod download failed"));
        return None;
    }
    let name = format!("-run={name}");
    Some(go(&[
        "test",
        "-count=1",
        "-timeout=200s",
        "-v",
        &name,
        "./...",
    ]))
}

#[test]
fn go_clients_and_their_mutexes_and_stm_work() {
    let Some(mut command) = tests("go.mod", "") else {
        return;
    };
    let server = Server::start(Options::default());
    command.env("KVNODE_ENDPOINT", server.address().to_string());
    let said = run(command, "", LIMIT).ok();
    assert!(said.contains("--- PASS"), "{said}");
}

#[test]
fn a_go_program_of_3_6_works_with_a_secure_cluster_and_through_a_failover() {
    tour("go.mod");
}

#[test]
fn a_go_program_of_3_5_works_with_a_secure_cluster_and_through_a_failover() {
    tour("go35.mod");
}

fn tour(modules: &str) {
    let Some(mut command) = tests(modules, "^TestTour$") else {
        return;
    };
    let secure = Secure::start();
    secure.tell(&mut command);
    let said = run(command, "", LIMIT).ok();
    assert!(said.contains("--- PASS: TestTour/failover"), "{said}");
}
