//! The Python packages `etcd3` over grpcio and `etcd3gw` over JSON, in a virtual environment below the target directory.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use kvnode_tests::{Options, Server, build};

use crate::secure::Secure;
use crate::tool::{run, skip};

/// Versions that work together: etcd3 is from the days of the two below it.
const PACKAGES: [&str; 5] = [
    "etcd3==0.12.0",
    "protobuf==3.20.3",
    "tenacity==6.3.1",
    "grpcio",
    "etcd3gw==2.7.0",
];

/// The environment's interpreter, made on first use; or why there is none.
fn interpreter() -> Result<PathBuf, String> {
    // Once for all tests: two would spoil each other's environment.
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    MADE.get_or_init(make).clone()
}

fn make() -> Result<PathBuf, String> {
    let home = build::target_directory().join("tmp").join("kvnode-python");
    let python = home.join("bin").join("python");
    let imports = || {
        let mut command = Command::new(&python);
        command.args(["-c", "import etcd3, etcd3gw"]);
        python.exists() && run(command, "", Duration::from_secs(60)).success()
    };
    if imports() {
        return Ok(python);
    }
    let mut steps = Vec::new();
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(&home);
    steps.push(make);
    let mut install = Command::new(&python);
    install
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args(PACKAGES);
    steps.push(install);
    for step in steps {
        if Command::new(step.get_program())
            .arg("--version")
            .output()
            .is_err()
        {
            return Err(format!("{:?} is not there", step.get_program()));
        }
        let output = run(step, "", Duration::from_secs(180));
        if !output.success() {
            return Err(output
                .stderr
                .lines()
                .last()
                .unwrap_or("no reason given")
                .to_owned());
        }
    }
    if imports() {
        Ok(python)
    } else {
        Err("the packages do not import".to_owned())
    }
}

/// A file of a package from PyPI, unpacked on first use; or why there is none.
pub fn unpacked(package: &str, file: &str) -> Result<PathBuf, String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let home = build::target_directory().join("tmp").join(package);
    let path = home.join(file);
    if !path.exists() {
        let mut install = Command::new(interpreter()?);
        install
            .args(["-m", "pip", "install", "--quiet", "--no-deps"])
            .args(["--disable-pip-version-check", "--target"])
            .arg(&home)
            .arg(package);
        let output = run(install, "", Duration::from_secs(180));
        if !output.success() {
            let why = output.stderr.lines().last();
            return Err(why.unwrap_or("no reason given").to_owned());
        }
    }
    Ok(path)
}

/// Runs a script to its last line.
fn runs_well(script: &str, tell: impl FnOnce(&mut Command)) {
    let python = match interpreter() {
        Ok(python) => python,
        Err(why) => return skip("python", &why),
    };
    let mut command = Command::new(python);
    command.arg(format!(
        "{}/compat/python/{script}",
        env!("CARGO_MANIFEST_DIR")
    ));
    tell(&mut command);
    // The library under etcd3gw prefers these to the authority that it is given.
    for variable in ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
        command.env_remove(variable);
    }
    let said = run(command, "", Duration::from_secs(240)).ok();
    assert_eq!(said.lines().last(), Some("all well"), "{said}");
}

fn with_one_server(script: &str) {
    let server = Server::start(Options::default());
    runs_well(script, |command| {
        command.arg(server.address().port().to_string());
    });
}

fn tour(script: &str) {
    let secure = Secure::start_with_users();
    runs_well(script, |command| secure.tell(command));
}

#[test]
fn a_python_client_puts_gets_compares_watches_and_leases() {
    with_one_server("client.py");
}

#[test]
fn a_python_client_of_the_gateway_does_the_same_in_json() {
    with_one_server("gateway.py");
}

#[test]
fn a_python_program_works_with_a_secure_cluster_and_through_a_failover() {
    tour("tour.py");
}

#[test]
fn a_python_program_works_with_a_secure_cluster_in_json_and_through_a_failover() {
    tour("gateway_tour.py");
}
