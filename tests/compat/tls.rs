//! Debian's `etcdctl` over TLS, mutual TLS and unix sockets, and certificates as users.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use kvnode_tests::certs::{Authority, Files, Pair, Wish, flag, pair_flags};
use kvnode_tests::{Options, Server};

use crate::tool::{Output, run, skip};

const LIMIT: Duration = Duration::from_secs(60);

struct Ctl {
    program: PathBuf,
    flags: Vec<String>,
    directory: PathBuf,
}

/// None (and the reason printed) without the tool.
fn ctl(endpoint: &str) -> Option<Ctl> {
    let program = std::env::var_os("KVNODE_ETCDCTL").map_or("etcdctl".into(), PathBuf::from);
    let tried = Command::new(&program)
        .arg("version")
        .env("ETCDCTL_API", "3")
        .output();
    if let Err(error) = tried {
        let why = format!("{}: {error} (Debian: etcd-client)", program.display());
        skip("etcdctl", &why);
        return None;
    }
    Some(Ctl {
        program,
        flags: vec![format!("--endpoints={endpoint}")],
        directory: PathBuf::from("."),
    })
}

impl Ctl {
    /// Runs where the files are.
    fn within(mut self, files: &Files) -> Ctl {
        self.directory = files.path("");
        self
    }

    fn trusting(mut self, files: &Files) -> Ctl {
        self.flags.push(flag("cacert", &files.path("ca.pem")));
        self
    }

    fn showing(mut self, files: &Files, name: &str, pair: &Pair) -> Ctl {
        let (cert, key) = files.pair(name, pair);
        self.flags.push(flag("cert", &cert));
        self.flags.push(flag("key", &key));
        self
    }

    fn run(&self, line: &str) -> Output {
        let mut command = Command::new(&self.program);
        command
            .env("ETCDCTL_API", "3")
            .current_dir(&self.directory)
            .args(["--dial-timeout=5s", "--command-timeout=5s"])
            .args(&self.flags)
            .args(line.split_whitespace());
        run(command, "", LIMIT)
    }

    #[track_caller]
    fn ok(&self, line: &str) -> String {
        self.run(line).ok()
    }
}

fn served(files: &Files) -> (Authority, Options) {
    let authority = Authority::new("test authority");
    files.write("ca.pem", &authority.pem);
    let pair = files.pair("server", &authority.issue(&Wish::local("server")));
    let options = Options::default().tls_clients().args(pair_flags("", &pair));
    (authority, options)
}

fn mutual(files: &Files) -> (Authority, Options) {
    let (authority, options) = served(files);
    let options = options
        .arg("--client-cert-auth")
        .arg(flag("trusted-ca-file", &files.path("ca.pem")));
    (authority, options)
}

#[test]
fn put_and_get_work_over_tls_and_another_authority_is_not_trusted() {
    let Some(ctl_) = ctl("https://127.0.0.1:1") else {
        return;
    };
    drop(ctl_);
    let files = Files::default();
    let (_, options) = served(&files);
    let server = Server::start(options);
    let ctl = ctl(&server.url()).expect("seen before").trusting(&files);
    assert_eq!(ctl.ok("put foo bar"), "OK\n");
    assert_eq!(ctl.ok("get foo"), "foo\nbar\n");
    let big = "x".repeat(100_000);
    assert_eq!(ctl.ok(&format!("put big {big}")), "OK\n");
    assert_eq!(ctl.ok("get big --print-value-only").len(), big.len() + 1);
    files.write("ca.pem", &Authority::new("another").pem);
    assert!(!ctl.run("get foo").success());
}

#[test]
fn put_and_get_work_over_mutual_tls_and_not_without_a_certificate() {
    let Some(probe) = ctl("https://127.0.0.1:1") else {
        return;
    };
    drop(probe);
    let files = Files::default();
    let (authority, options) = mutual(&files);
    let server = Server::start(options);
    let bare = ctl(&server.url()).expect("seen before").trusting(&files);
    assert!(!bare.run("get foo").success());
    let pair = authority.issue(&Wish::holder("x"));
    let ctl = bare.showing(&files, "client", &pair);
    assert_eq!(ctl.ok("put foo bar"), "OK\n");
    assert_eq!(ctl.ok("get foo"), "foo\nbar\n");
}

#[test]
fn the_common_name_of_a_certificate_is_the_user_while_auth_is_on() {
    let Some(probe) = ctl("https://127.0.0.1:1") else {
        return;
    };
    drop(probe);
    let files = Files::default();
    let (authority, options) = mutual(&files);
    let server = Server::start(options);
    let as_ = |name: &str| {
        let pair = authority.issue(&Wish::holder(name));
        let ctl = ctl(&server.url()).expect("seen before");
        ctl.trusting(&files).showing(&files, name, &pair)
    };
    let (root, anna, nobody) = (as_("root"), as_("anna"), as_("nobody"));
    for line in [
        "user add root:secret",
        "role add root",
        "user grant-role root root",
        "user add anna:secret",
        "role add reader",
        "role grant-permission reader read k",
        "user grant-role anna reader",
        "put k v",
        "auth enable",
    ] {
        root.ok(line);
    }
    assert_eq!(anna.ok("get k"), "k\nv\n");
    anna.run("put k w").fails_with("permission denied");
    root.ok("put k w");
    assert!(!nobody.run("get k").success());
    // A password still says more than a certificate.
    assert_eq!(nobody.ok("--user=anna:secret get k"), "k\nw\n");
    root.ok("user list");
    anna.run("user list").fails_with("permission denied");
}

#[test]
fn a_unix_socket_serves_clients_in_the_clear_and_in_tls() {
    let Some(probe) = ctl("https://127.0.0.1:1") else {
        return;
    };
    drop(probe);
    let files = Files::default();
    let (_, options) = served(&files);
    let _server = Server::start(options.arg(format!(
        "--listen-client-urls=unix://{},unixs://{}",
        files.path("clear").display(),
        files.path("localhost").display()
    )));
    // etcdctl up to 3.5.1 at least makes the request's authority of the whole path, which HTTP/2 does not allow.
    let path = format!("unix://{}", files.path("clear").display());
    let absolute = ctl(&path).expect("seen before");
    assert_eq!(absolute.ok("put foo bar"), "OK\n");
    for _ in 0..3 {
        assert_eq!(absolute.ok("get foo"), "foo\nbar\n");
    }
    assert_eq!(absolute.ok("del foo"), "1\n");
    // By a name relative to where it runs.
    let clear = ctl("unix://clear").expect("seen before").within(&files);
    assert_eq!(clear.ok("put foo bar"), "OK\n");
    let sealed = ctl("unixs://localhost").expect("seen before");
    let sealed = sealed.within(&files).trusting(&files);
    assert_eq!(sealed.ok("get foo"), "foo\nbar\n");
    // 3.4 expects a certificate for the whole path, later ones for its last part.
    let path = format!("unixs://{}", files.path("localhost").display());
    let absolute = ctl(&path).expect("seen before").trusting(&files);
    let asked = absolute.run("get foo");
    if absolute.ok("version").contains("version: 3.4.") {
        assert!(!asked.success());
    } else {
        assert_eq!(asked.ok(), "foo\nbar\n");
    }
    assert_eq!(sealed.ok("get foo"), "foo\nbar\n");
}
