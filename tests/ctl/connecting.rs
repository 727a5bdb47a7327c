//! Flags, variables, endpoints, and what is said when they lead nowhere.

use std::process::Command;

use kvnode_tests::program;
use kvnode_tests::server::free_port;
use kvnode_tests::{Options, Server};

use crate::tour::{LIMIT, Tour, binary, kvctl};

#[test]
fn variables_stand_in_for_flags_and_flags_win() {
    let tour = Tour::new();
    let run = |variables: &[(&str, &str)], line: &str| {
        let mut command = Command::new(binary());
        command
            .env_clear()
            .envs(variables.iter().copied())
            .args(line.split_whitespace());
        program::run(command, "", LIMIT)
    };
    let endpoint = tour.endpoint.as_str();
    assert_eq!(
        run(
            &[("ETCDCTL_ENDPOINTS", endpoint), ("ETCDCTL_API", "3")],
            "put k v"
        )
        .ok(),
        "OK\n"
    );
    let json = run(
        &[
            ("KVCTL_ENDPOINTS", endpoint),
            ("ETCDCTL_ENDPOINTS", "127.0.0.1:1"),
            ("ETCDCTL_WRITE_OUT", "json"),
        ],
        "get k",
    );
    assert!(json.ok().starts_with("{\"header\":"));
    let both = run(
        &[("ETCDCTL_ENDPOINTS", "127.0.0.1:1")],
        &format!("--endpoints {endpoint} get k"),
    );
    assert_eq!(both.ok(), "k\nv\n");
    let watched = run(
        &[("ETCDCTL_ENDPOINTS", endpoint), ("ETCDCTL_WATCH_KEY", "k")],
        "watch --rev 1 --max-events 1",
    );
    assert_eq!(watched.ok(), "PUT\nk\nv\n");
    run(
        &[("ETCDCTL_HEX", "maybe"), ("ETCDCTL_ENDPOINTS", endpoint)],
        "get k",
    )
    .fails(1, "--hex");
}

#[test]
fn a_form_that_cannot_be_shown_is_refused_before_anything_is_done() {
    let tour = Tour::new();
    tour.run("put k v -w table").fails(
        4,
        "Error: table not supported as output format\nnext:  --write-out=",
    );
    tour.run("put k v -w bogus")
        .fails(4, "Error: unsupported output format");
    assert_eq!(tour.ok("get k"), "");
}

#[test]
fn errors_name_the_endpoint_the_reason_and_the_next_command() {
    let tour = Tour::new();
    let dead = format!("127.0.0.1:{}", free_port());
    let nobody = program::run(kvctl(&dead, "put k v --dial-timeout 200ms"), "", LIMIT);
    nobody.fails(1, &format!("tried: {dead}: "));
    assert!(
        nobody.stderr.contains("refused") && nobody.stderr.contains("next:  "),
        "{nobody:?}"
    );
    assert!(nobody.stderr.starts_with("Error: "), "{nobody:?}");
    let future = tour.run("get k --rev=99");
    future.fails(
        1,
        "Error: etcdserver: mvcc: required revision is a future revision\n",
    );
    assert!(
        future.stderr.contains(&format!("tried: {}", tour.endpoint)),
        "{future:?}"
    );
    tour.run("lease revoke 1234")
        .fails(1, "next:  kvctl lease list");
    tour.run("get").fails(128, "next:  kvctl get --help");
    tour.run("move-leader 1234")
        .fails(1, "next:  kvctl member list");
    for gone in ["status", "restore"] {
        tour.run(&format!("snapshot {gone} file"))
            .fails(1, &format!("next:  kvutil snapshot {gone} --help"));
    }
    let secure = format!("https://{}", tour.endpoint);
    program::run(kvctl(&secure, "get k --dial-timeout 200ms"), "", LIMIT)
        .fails(1, "# if the server does not speak TLS");
    program::run(kvctl("nonsense", "get k"), "", LIMIT).fails(128, "missing port");
}

#[test]
fn a_socket_in_the_file_system_is_an_endpoint_too() {
    let directory = std::env::temp_dir();
    let socket = directory.join(format!("kvctl-{}.sock", std::process::id()));
    let port = free_port();
    let server = Server::start(Options::default().client_port(port).arg(format!(
        "--listen-client-urls=http://127.0.0.1:{port},unix://{}",
        socket.display()
    )));
    let endpoint = format!("unix://{}", socket.display());
    let run = |line: &str| program::run(kvctl(&endpoint, line), "", LIMIT);
    assert_eq!(run("put k v").ok(), "OK\n");
    assert_eq!(run("get k").ok(), "k\nv\n");
    assert!(run("endpoint health").ok().starts_with(&endpoint));
    drop(server);
    let _ = std::fs::remove_file(&socket);
    run("get k --dial-timeout 200ms").fails(1, &format!("tried: {endpoint}: "));
}

/// A DNS server on loopback that knows one name, whose SRV record is this port at localhost; others do not exist.
fn dns_server(known: &'static str, port: u16) -> std::net::SocketAddr {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("bound");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..length].to_vec();
            let labels: Vec<u8> = known
                .split('.')
                .flat_map(|label| {
                    let length = u8::try_from(label.len()).expect("a label");
                    std::iter::once(length).chain(label.bytes())
                })
                .collect();
            answer[2] = 0x81;
            if buffer[12..length].starts_with(&labels) {
                answer[7] = 1;
                // The name asked for, SRV, IN, 60 s, 17 bytes: priority, weight, port, localhost.
                answer.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, 17, 0, 0, 0, 0]);
                answer.extend(port.to_be_bytes());
                answer.extend(b"\x09localhost\0");
            } else {
                answer[3] = 3;
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    address
}

#[test]
fn endpoints_are_found_by_dns_records() {
    let tour = Tour::new();
    let dns = dns_server(
        "_etcd-client-blue._tcp.example.com",
        tour.server.address().port(),
    );
    let run = |line: &str| {
        let line = format!("{line} --discovery-dns {dns} --discovery-srv example.com");
        program::run(kvctl("127.0.0.1:1", &line), "", LIMIT)
    };
    let found = "--discovery-srv-name blue";
    assert_eq!(run(&format!("put k v {found}")).ok(), "OK\n");
    let health = run(&format!("endpoint health {found}")).ok();
    assert!(health.starts_with("http://localhost:"), "{health}");
    let plain = run(&format!("get k {found} --insecure-discovery=false"));
    plain.fails(
        1,
        "ignoring discovered insecure endpoint \"http://localhost:",
    );
    run("get k").fails(
        1,
        "no endpoints by _etcd-client-ssl._tcp.example.com or _etcd-client._tcp.example.com: there are none",
    );
}

#[test]
fn help_completions_and_the_manual_come_from_one_definition() {
    let run = |line: &str| program::run(kvctl("127.0.0.1:1", line), "", LIMIT);
    assert!(run("get --help").ok().contains("--keys-only"));
    assert!(
        run("lease").ok().contains("keep-alive"),
        "a family alone shows its help"
    );
    for shell in ["bash", "zsh", "fish", "powershell"] {
        assert!(
            run(&format!("completion {shell}")).ok().contains("kvctl"),
            "{shell}"
        );
    }
    assert!(run("options").ok().contains("--command-timeout"));
    let version = run("version").ok();
    assert!(version.contains("\nAPI version: 3."), "{version}");
    let mut man = Command::new(binary());
    man.arg("man");
    let page = program::run(man, "", LIMIT).ok();
    assert!(
        page.contains(".TH") && page.contains("keep\\-alive"),
        "{}",
        &page[..200]
    );
}
