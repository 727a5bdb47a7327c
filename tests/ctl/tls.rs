//! kvctl with endpoints that want certificates.

use std::process::Command;
use std::time::Duration;

use kvnode_tests::certs::{Authority, Files, Wish, flag, pair_flags};
use kvnode_tests::program::{self, Ran};
use kvnode_tests::{Options, Server};

use crate::tour::binary;

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn endpoints_with_certificates_are_healthy_to_who_shows_one() {
    let files = Files::default();
    let authority = Authority::new("test authority");
    let ca = files.write("ca.pem", &authority.pem);
    let pair = files.pair("server", &authority.issue(&Wish::local("server")));
    let options = Options::default()
        .tls_clients()
        .args(pair_flags("", &pair))
        .arg("--client-cert-auth")
        .arg(flag("trusted-ca-file", &ca));
    let server = Server::start(options);
    let (cert, key) = files.pair("client", &authority.issue(&Wish::holder("somebody")));
    let run = |endpoint: &str, flags: &[String], line: &str| -> Ran {
        let mut command = Command::new(binary());
        command
            .env_clear()
            .arg(format!("--endpoints={endpoint}"))
            .arg("--dial-timeout=1s");
        command.args(flags).args(line.split(' '));
        program::run(command, "", LIMIT)
    };
    let shown = [flag("cacert", &ca), flag("cert", &cert), flag("key", &key)];
    let url = server.url();
    let health = run(&url, &shown, "endpoint health").ok();
    assert!(health.starts_with(&format!("{url} is healthy")), "{health}");
    // Certificates given, an endpoint without scheme means TLS too.
    let bare = server.address().to_string();
    assert_eq!(run(&bare, &shown, "put k v").ok(), "OK\n");
    let screen = run(&url, &shown, "status").ok();
    // A hundred days, less the moments since it was made, if any.
    let left = |days| format!("certificate of test: good, {days} days left\n");
    assert!(
        screen.contains(&left(99)) || screen.contains(&left(100)),
        "{screen}"
    );
    // The metrics page came over TLS too.
    let member = screen.lines().find(|line| line.contains("  leader  "));
    assert!(member.is_some_and(|line| line.contains("ms ")), "{screen}");
    let trusting = [
        "--insecure-skip-tls-verify".to_owned(),
        flag("cert", &cert),
        flag("key", &key),
    ];
    assert_eq!(run(&url, &trusting, "get k").ok(), "k\nv\n");

    run(&url, &shown[..1], "get k").fails(1, &format!("tried: {url}: "));
    let other = files.write("other.pem", &Authority::new("another").pem);
    let wrong = [
        flag("cacert", &other),
        flag("cert", &cert),
        flag("key", &key),
    ];
    run(&url, &wrong, "get k").fails(1, "UnknownIssuer");
    run(&url, &shown[..2], "get k").fails(128, "a certificate needs its key file");
    let missing = [flag("cacert", &files.path("missing.pem"))];
    run(&url, &missing, "get k").fails(128, "missing.pem");
}
