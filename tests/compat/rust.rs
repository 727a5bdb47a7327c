//! The crate `etcd-client`, by the program in `rustclient/`. It stands outside the workspace, since its build wants `protoc`
//! with the definitions that come along (Debian: protobuf-compiler, libprotobuf-dev).

use std::process::Command;
use std::time::Duration;

use kvnode_tests::build;

use crate::secure::Secure;
use crate::tool::{is_there, run, skip};

#[test]
fn a_rust_program_works_with_a_secure_cluster_and_through_a_failover() {
    if let Err(why) = is_there("protoc", "--version") {
        return skip("protoc", &why);
    }
    let target = build::target_directory().join("compat-rust");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/compat/rustclient"))
        .args(["build", "--quiet", "--locked", "--target-dir"])
        .arg(&target);
    // What it takes to build a hundred crates on a busy machine.
    let built = run(cargo, "", Duration::from_secs(1200));
    if !built.success() {
        return skip("protoc", &built.stderr);
    }
    let secure = Secure::start();
    let mut command = Command::new(target.join("debug").join("kvnode-rust-tour"));
    secure.tell(&mut command);
    let said = run(command, "", Duration::from_secs(240)).ok();
    assert_eq!(said.lines().last(), Some("all well"), "{said}");
}
