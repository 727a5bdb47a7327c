//! TLS on the client port: who gets in, who does not, what the log says, and files that change while the server runs.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use kvnode_tests::certs::{Authority, Caller, Files, Wish, flag, pair_flags};
use kvnode_tests::{Options, Server};

/// How long a server may take to notice or do anything.
const LIMIT: Duration = Duration::from_secs(30);

/// An authority, its file, and options that serve clients with a certificate of it.
fn served(files: &Files) -> (Authority, Options) {
    let authority = Authority::new("test authority");
    files.write("ca.pem", &authority.pem);
    let pair = files.pair("server", &authority.issue(&Wish::local("server")));
    let options = Options::default().tls_clients().args(pair_flags("", &pair));
    (authority, options)
}

/// As [`served`], and clients must show a certificate too.
fn mutual(files: &Files) -> (Authority, Options) {
    let (authority, options) = served(files);
    let options = options
        .arg("--client-cert-auth")
        .arg(flag("trusted-ca-file", &files.path("ca.pem")));
    (authority, options)
}

fn health(caller: &Caller, server: &Server) -> std::io::Result<String> {
    caller.get(server.address(), "/health")
}

#[track_caller]
fn let_in(caller: &Caller, server: &Server) {
    let answer = health(caller, server).expect("it may come in");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[track_caller]
fn kept_out(caller: &Caller, server: &Server, why: &str) {
    let answer = health(caller, server);
    let error = answer.expect_err("it may not come in").to_string();
    assert!(error.contains(why), "{error}");
}

/// Waits until the server has said this.
#[track_caller]
fn said(server: &Server, text: &str) {
    let begun = Instant::now();
    while !server.output().contains(text) {
        assert!(begun.elapsed() < LIMIT, "the log lacks {text:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn only_who_shows_a_certificate_of_the_authority_gets_in() {
    let files = Files::default();
    let (authority, options) = mutual(&files);
    let server = Server::start(options);
    let good = authority.issue(&Wish::holder("somebody"));
    let_in(&Caller::new(&authority.pem, Some(&good)), &server);
    kept_out(
        &Caller::new(&authority.pem, None),
        &server,
        "CertificateRequired",
    );
    said(&server, "it has shown no client certificate");
    let other = Authority::new("another authority");
    let foreign = other.issue(&Wish::holder("somebody"));
    kept_out(
        &Caller::new(&authority.pem, Some(&foreign)),
        &server,
        "UnknownCA",
    );
    let old = authority.issue(&Wish {
        days: (-5, -1),
        ..Wish::holder("somebody")
    });
    kept_out(
        &Caller::new(&authority.pem, Some(&old)),
        &server,
        "CertificateExpired",
    );
    // Nor does a client take a server of another authority.
    let error = health(&Caller::new(&other.pem, Some(&good)), &server);
    assert!(error.unwrap_err().to_string().contains("UnknownIssuer"));
    let answer = kvnode_tests::http::get(server.plain_address(), "/metrics").unwrap();
    assert!(
        answer
            .body
            .contains("\nkvnode_tls_handshake_failures_total{listener=\"client\"} ")
    );
    let line = answer.body.lines().find(|line| {
        line.starts_with("kvnode_tls_certificate_expiry_timestamp_seconds{listener=\"client\"} ")
    });
    let expiry: i64 = line
        .and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap();
    assert!(expiry > 1_700_000_000, "{expiry}");
}

/// Through the gateway a certificate is no user: with auth on, whoever shows one with a name is sent away.
#[test]
fn the_gateway_takes_no_certificate_for_a_user() {
    let files = Files::default();
    let (authority, options) = mutual(&files);
    // Over TLS the name in the Host header is not looked at: a page of a stranger's has no certificate for it.
    let options = options.arg("--host-whitelist=127.0.0.1");
    let server = Server::start(options.arg("--bcrypt-cost=4"));
    let named = authority.issue(&Wish::holder("root"));
    let named = Caller::new(&authority.pem, Some(&named));
    let post =
        |path: &str, body: &str| named.post(server.address(), path, body).expect("an answer");
    for (path, body) in [
        ("/v3/kv/put", r#"{"key":"Zm9v"}"#),
        (
            "/v3/auth/user/add",
            r#"{"name":"root","password":"secret"}"#,
        ),
        ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("/v3/auth/enable", ""),
    ] {
        let answer = post(path, body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    for path in [
        "/v3/kv/range",
        "/v3beta/kv/range",
        "/v3/auth/authenticate",
        "/v3/no/route",
    ] {
        let answer = post(path, r#"{"key":"Zm9v","name":"root","password":"secret"}"#);
        assert!(answer.starts_with("HTTP/1.1 400"), "{path}: {answer}");
    }
    let_in(&named, &server);
}

#[test]
fn a_bundle_may_hold_several_authorities() {
    let files = Files::default();
    let (first, options) = mutual(&files);
    let second = Authority::new("second authority");
    files.write("ca.pem", &format!("{}{}", first.pem, second.pem));
    let server = Server::start(options);
    for authority in [&first, &second] {
        let pair = authority.issue(&Wish::holder("x"));
        let_in(&Caller::new(&first.pem, Some(&pair)), &server);
    }
}

#[test]
fn a_revoked_certificate_is_refused_on_every_listener_as_soon_as_the_list_says_so() {
    let files = Files::default();
    let (authority, options) = mutual(&files);
    let list = files.write("list.pem", &authority.revoke(&[]));
    let http = kvnode_tests::server::free_port();
    let server = Server::start(options.arg(flag("client-crl-file", &list)).arg(format!(
        "--listen-client-http-urls=https://127.0.0.1:{http}"
    )));
    let http = SocketAddr::from(([127, 0, 0, 1], http));
    let pair = authority.issue(&Wish::holder("x"));
    let caller = Caller::new(&authority.pem, Some(&pair));
    assert!(caller.get(http, "/health").unwrap().contains("200"));
    // The client port serves gRPC alone now.
    assert!(health(&caller, &server).unwrap().contains("404"));
    files.write("list.pem", &authority.revoke(&[7, pair.serial]));
    let begun = Instant::now();
    loop {
        match caller.get(http, "/health") {
            Err(error) => {
                assert!(error.to_string().contains("CertificateRevoked"), "{error}");
                break;
            }
            Ok(_) => assert!(begun.elapsed() < LIMIT, "the list is not taken over"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    kept_out(&caller, &server, "CertificateRevoked");
    let other = authority.issue(&Wish::holder("x"));
    assert!(
        Caller::new(&authority.pem, Some(&other))
            .get(http, "/health")
            .is_ok()
    );
}

#[test]
fn only_the_common_names_listed_get_in() {
    let files = Files::default();
    let (authority, options) = mutual(&files);
    let server = Server::start(options.arg("--client-cert-allowed-cn=anna,bert"));
    for name in ["anna", "bert"] {
        let pair = authority.issue(&Wish::holder(name));
        let_in(&Caller::new(&authority.pem, Some(&pair)), &server);
    }
    let pair = authority.issue(&Wish::holder("carl"));
    let carl = Caller::new(&authority.pem, Some(&pair));
    assert!(health(&carl, &server).is_err());
    said(
        &server,
        "its common name \\\"carl\\\" is not among the allowed ones",
    );
}

#[test]
fn only_certificates_for_the_host_names_listed_get_in() {
    let files = Files::default();
    let (authority, options) = mutual(&files);
    let server =
        Server::start(options.arg("--client-cert-allowed-hostname=a.example.com,b.example.com"));
    for (hosts, welcome) in [
        (&["b.example.com"][..], true),
        (&["*.example.com"], true),
        (&["c.example.com"], false),
        (&[], false),
    ] {
        let pair = authority.issue(&Wish {
            hosts,
            ..Wish::holder("x")
        });
        let answer = health(&Caller::new(&authority.pem, Some(&pair)), &server);
        assert_eq!(answer.is_ok(), welcome, "{hosts:?}: {answer:?}");
    }
}

#[test]
fn changed_files_are_taken_over_and_bad_ones_are_not() {
    let files = Files::default();
    let (authority, options) = served(&files);
    let server = Server::start(options);
    let caller = Caller::new(&authority.pem, None);
    let before = caller.serial(server.address()).unwrap();
    let pair = authority.issue(&Wish::local("server"));
    files.pair("server", &pair);
    let expected = format!("{:x}", pair.serial);
    let begun = Instant::now();
    while caller.serial(server.address()).unwrap() != expected {
        assert!(begun.elapsed() < LIMIT, "still the old certificate");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_ne!(before, expected);
    // A key that belongs to another certificate: what was in use stays.
    files.write("server.key", &authority.issue(&Wish::local("server")).key);
    said(&server, "does not belong to the certificate in");
    assert_eq!(caller.serial(server.address()).unwrap(), expected);
    // Put right again, and the word given at once instead of waited for.
    let last = authority.issue(&Wish::local("server"));
    files.pair("server", &last);
    server.signal(rustix::process::Signal::HUP);
    let expected = format!("{:x}", last.serial);
    let begun = Instant::now();
    while caller.serial(server.address()).unwrap() != expected {
        assert!(begun.elapsed() < LIMIT, "still the old certificate");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_certificate_of_its_own_making_is_kept_over_a_restart() {
    let mut server = Server::start(Options::default().tls_clients().arg("--auto-tls"));
    let path = server.data_dir().join("fixtures/client/cert.pem");
    let pem = std::fs::read_to_string(&path).unwrap();
    let caller = Caller::new(&pem, None);
    let_in(&caller, &server);
    server.stop();
    server.restart();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), pem);
    assert!(!server.output().contains("unknown file"));
}

#[test]
fn versions_below_the_lowest_allowed_are_refused() {
    let files = Files::default();
    let (authority, options) = served(&files);
    let server = Server::start(options.arg("--tls-min-version=TLS1.3"));
    let_in(&Caller::new(&authority.pem, None), &server);
    kept_out(&Caller::old(&authority.pem), &server, "ProtocolVersion");
}

#[test]
fn what_does_not_speak_the_ports_language_is_told_so() {
    let files = Files::default();
    let (authority, options) = served(&files);
    let server = Server::start(options);
    let speak = |address, bytes: &[u8]| {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // A reset is an end as well.
        let _ = socket.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = speak(server.address(), b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(
        answer.contains("HTTP request to an HTTPS server"),
        "{answer:?}"
    );
    said(&server, "its url must begin with https://");
    speak(server.address(), &[0; 64]);
    // A record longer than any: not waited for.
    speak(server.address(), &[0x16, 3, 1, 0xff, 0xff, 1, 2, 3]);
    let_in(&Caller::new(&authority.pem, None), &server);
    // And the other way round.
    let plain = Server::start(Options::default());
    let error = health(&Caller::new(&authority.pem, None), &plain);
    assert!(error.unwrap_err().to_string().contains("HandshakeFailure"));
    said(&plain, "it speaks TLS to a port that does not");
}

#[test]
fn a_handshake_that_does_not_get_on_is_cut_and_keeps_nobody_waiting() {
    let files = Files::default();
    let (authority, options) = served(&files);
    let server = Server::start(options);
    let mut slow: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut socket = TcpStream::connect(server.address()).unwrap();
            // The head of a handshake and nothing behind it.
            socket.write_all(&[0x16, 3, 1, 1, 0]).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket
        })
        .collect();
    let begun = Instant::now();
    let mut byte = [0; 1];
    for socket in &mut slow {
        assert_eq!(socket.read(&mut byte).unwrap_or(0), 0, "cut");
    }
    println!("cut after {:?}", begun.elapsed());
    said(
        &server,
        "it was too slow: the TLS handshake was not done within 10s",
    );
    let caller = Caller::new(&authority.pem, None);
    let metrics = caller.get(server.address(), "/metrics").unwrap();
    let name = "kvnode_rejected_total{limit=\"slow_handshake\"} ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    assert_eq!(line, Some("300"));
    let_in(&Caller::new(&authority.pem, None), &server);
}

#[test]
fn wrong_files_end_the_start_with_one_line_that_says_what_to_do() {
    let files = Files::default();
    let (authority, _) = served(&files);
    let good = files.pair("good", &authority.issue(&Wish::local("server")));
    let other = files.pair("other", &authority.issue(&Wish::local("server")));
    let empty = files.write("empty.pem", "");
    let sealed = files.write(
        "sealed.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let absent = files.path("absent.pem");
    for (cert, key, ca, what, hint) in [
        (
            &good.0,
            &other.1,
            None,
            "does not belong to the certificate in --cert-file",
            "openssl x509 -in",
        ),
        (
            &empty,
            &good.1,
            None,
            "empty.pem has no certificate: expected PEM with BEGIN CERTIFICATE, found an empty file",
            "right file",
        ),
        (
            &good.1,
            &good.1,
            None,
            "has no certificate: expected PEM with BEGIN CERTIFICATE, found 1 sections, the first PRIVATE KEY",
            "right file",
        ),
        (
            &good.0,
            &good.0,
            None,
            "has no private key: expected PEM with BEGIN PRIVATE KEY, found 1 sections, the first CERTIFICATE",
            "right file",
        ),
        (
            &good.0,
            &sealed,
            None,
            "is encrypted with a passphrase",
            "openssl pkey -in",
        ),
        (
            &absent,
            &good.1,
            None,
            "absent.pem cannot be read: No such file",
            "ls -l",
        ),
        (
            &good.0,
            &good.1,
            Some(&empty),
            "--trusted-ca-file",
            "right file",
        ),
    ] {
        let mut options = Options::default()
            .tls_clients()
            .arg(flag("cert-file", cert))
            .arg(flag("key-file", key));
        if let Some(ca) = ca {
            options = options.arg(flag("trusted-ca-file", ca));
        }
        let failure = Server::try_start(options).err().expect("it must not start");
        let code = failure.status.and_then(|status| status.code());
        assert_eq!(code, Some(2), "{}", failure.output);
        let line = |begin: &str| {
            let found = failure.output.lines().find(|line| line.starts_with(begin));
            found
                .unwrap_or_else(|| panic!("no {begin}: {}", failure.output))
                .to_owned()
        };
        assert!(line("error: ").contains(what), "{}", line("error: "));
        assert!(line("hint: ").contains(hint), "{}", line("hint: "));
    }
}

/// As etcd does: a machine that has to start again must not be worse off than one that ran on.
#[test]
fn an_expired_certificate_is_served_with_an_error_in_the_log_until_it_is_replaced() {
    let files = Files::default();
    let (authority, options) = served(&files);
    let old = authority.issue(&Wish {
        days: (-10, -2),
        ..Wish::local("server")
    });
    files.pair("server", &old);
    let server = Server::start(options);
    said(&server, "server.pem) has expired");
    let caller = Caller::new(&authority.pem, None);
    kept_out(&caller, &server, "certificate expired");
    files.pair("server", &authority.issue(&Wish::local("server")));
    until(|| health(&caller, &server).is_ok());
    // And a good one is not given up for an expired one.
    files.pair("server", &old);
    said(&server, "has expired 2 days ago");
    let_in(&caller, &server);
}

#[test]
fn a_revocation_list_counts_only_if_a_trusted_authority_signed_it() {
    let files = Files::default();
    let (authority, options) = mutual(&files);
    let pair = authority.issue(&Wish::holder("x"));
    let list = files.write("list.pem", &authority.revoke(&[pair.serial]));
    let options = options.arg(flag("client-crl-file", &list));
    let server = Server::start(options.clone());
    let caller = Caller::new(&authority.pem, Some(&pair));
    kept_out(&caller, &server, "CertificateRevoked");
    let namesake = Authority::new("test authority").revoke(&[]);
    let stranger = Authority::new("stranger").revoke(&[]);
    for (other, why) in [
        (
            &namesake,
            "is not signed by CN=test authority of --trusted-ca-file",
        ),
        (
            &stranger,
            "was issued by CN=stranger, expected one of --trusted-ca-file",
        ),
    ] {
        files.write("list.pem", other);
        said(&server, why);
        kept_out(&caller, &server, "CertificateRevoked");
        let failure = Server::try_start(options.clone());
        let failure = failure.err().expect("it must not start");
        let code = failure.status.and_then(|status| status.code());
        assert_eq!(code, Some(2), "{}", failure.output);
        assert!(failure.output.contains(why), "{}", failure.output);
    }
    files.write("list.pem", &authority.revoke(&[]));
    until(|| health(&caller, &server).is_ok());
}

/// Waits until this comes about.
#[track_caller]
fn until(happens: impl Fn() -> bool) {
    let begun = Instant::now();
    while !happens() {
        assert!(begun.elapsed() < LIMIT, "it does not come about");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn several_urls_of_mixed_kinds_are_served_at_once() {
    let files = Files::default();
    let (authority, options) = served(&files);
    let (tls, plain) = (
        kvnode_tests::server::free_port(),
        kvnode_tests::server::free_port(),
    );
    let socket = files.path("clients.sock");
    let server = Server::start(options.arg(format!(
        "--listen-client-urls=https://127.0.0.1:{tls},http://localhost:{plain},unix://{}",
        socket.display()
    )));
    said(&server, "what goes through it is not encrypted");
    let caller = Caller::new(&authority.pem, None);
    let tls = SocketAddr::from(([127, 0, 0, 1], tls));
    assert!(caller.get(tls, "/health").unwrap().contains("200"));
    let plain = SocketAddr::from(([127, 0, 0, 1], plain));
    assert_eq!(
        kvnode_tests::http::get(plain, "/health").unwrap().status,
        200
    );
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
        .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("200"), "{answer}");
    // Metrics' own listener has nothing for clients.
    let status = |path| {
        kvnode_tests::http::get(server.plain_address(), path)
            .unwrap()
            .status
    };
    assert_eq!(
        [status("/metrics"), status("/livez"), status("/version")],
        [200, 200, 404]
    );
}

#[test]
fn without_descriptors_connections_are_refused_and_served_again_afterwards() {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let server = Server::start(Options::default());
    let pid = Pid::from_raw(server.pid().try_into().unwrap());
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    let highest = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
    let limit = Rlimit {
        current: highest.max().map(|highest| highest + 1),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    let before = prlimit(pid, Resource::Nofile, limit).unwrap();
    // Those that still find a descriptor stay open; then one is closed in the face, rather than left in the queue.
    let mut sockets: Vec<TcpStream> = Vec::new();
    let begun = Instant::now();
    let closed = |socket: &mut TcpStream| match socket.read(&mut [0]) {
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        Ok(_) => true,
    };
    while !sockets.iter_mut().any(closed) {
        if sockets.len() < 400 {
            let socket = TcpStream::connect(server.address()).unwrap();
            socket.set_nonblocking(true).unwrap();
            sockets.push(socket);
        } else {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(begun.elapsed() < LIMIT, "nobody is refused");
    }
    said(&server, "cannot accept connections");
    prlimit(pid, Resource::Nofile, before).unwrap();
    drop(sockets);
    let begun = Instant::now();
    while kvnode_tests::http::get(server.address(), "/health").is_err() {
        assert!(begun.elapsed() < LIMIT, "it does not serve again");
        std::thread::sleep(Duration::from_millis(50));
    }
    let lines = server.output().matches("cannot accept connections").count();
    assert!(lines < 60, "{lines} lines: the acceptor does not back off");
}

#[test]
fn a_port_may_be_shared_where_that_is_asked_for() {
    let shared = Server::start(Options::default().arg("--socket-reuse-port"));
    let port = shared.address().port();
    let second = Server::start(
        Options::default()
            .client_port(port)
            .arg("--socket-reuse-port"),
    );
    assert_eq!(second.address(), shared.address());
    let failure = Server::try_start(Options::default().client_port(port)).err();
    let output = failure.expect("one that does not ask may not").output;
    assert!(
        output.contains("address already in use") || output.contains("in use"),
        "{output}"
    );
}
