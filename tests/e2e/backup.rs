//! `kvutil snapshot save --endpoints`: the state of a running cluster, over the network.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use kvnode_api as api;
use kvnode_tests::certs::{Authority, Files, Wish, flag, pair_flags};
use kvnode_tests::pool::run_within;
use kvnode_tests::program::{self, Guard, Ran};
use kvnode_tests::server::free_port;
use kvnode_tests::{Client, Cluster, Options, Server, build};

const LIMIT: Duration = Duration::from_secs(120);

fn kvutil(words: &[&str]) -> Ran {
    let mut command = Command::new(build::tool("kvutil"));
    command.args(words).env_remove("KVCTL_PASSWORD");
    program::run(command, "", LIMIT)
}

/// What `save` says of itself, as JSON.
fn save(out: &str, endpoints: &str, more: &[&str]) -> serde_json::Value {
    let words = [
        "snapshot",
        "save",
        out,
        "-w",
        "json",
        "--endpoints",
        endpoints,
    ];
    let ran = kvutil(&[&words[..], more].concat());
    serde_json::from_str(&ran.ok()).expect("stdout is JSON")
}

fn hash_of(file: &str) -> (u64, i64) {
    let ran = kvutil(&["hashkv", file, "-w", "json"]).ok();
    let hash: serde_json::Value = serde_json::from_str(&ran).expect("stdout is JSON");
    let number = |name: &str| hash[name].as_i64().expect("a number");
    (
        number("hash").try_into().expect("32 bits"),
        number("hash_revision"),
    )
}

#[test]
fn a_follower_gives_the_state_of_the_cluster_and_strangers_and_learners_none() {
    let mut cluster = Cluster::start(3, Options::default());
    run_within(LIMIT, async {
        let leader = cluster.leader().await;
        let client = cluster.client(leader).await;
        for number in 0..40 {
            client
                .write(format!("k{:02}", number % 20), format!("v{number}"))
                .await;
        }
        let revision = client.revision().await;
        // All have it, so that who gives it has nothing to do with how far each is.
        cluster
            .until("all members have it", async || {
                for number in 0..3 {
                    let status = cluster.status(number).await.ok()?;
                    let has = status.header.map(|header| header.revision);
                    (has == Some(revision)).then_some(())?;
                }
                Some(())
            })
            .await;
        let endpoints: Vec<String> = (0..3).map(|at| cluster.member(at).url()).collect();
        let file = cluster.member(0).home().join("saved.kvs");
        let file = file.to_str().expect("a plain path");
        let saved = save(file, &endpoints.join(","), &[]);
        assert_eq!(saved["source"], "endpoint");
        assert_eq!(saved["revision"], revision);
        assert_eq!(saved["keys"], 20);
        assert_eq!(saved["verified"], "checksums");
        let from = saved["endpoint"].as_str().expect("who sent it");
        let at = endpoints
            .iter()
            .position(|one| one == from)
            .expect("one of them");
        // Who leads may have changed meanwhile; then the one taken led afterwards.
        if cluster.leader().await == leader {
            assert_ne!(at, leader);
        }
        let request = api::HashKVRequest { revision };
        let hash = client.hash_kv(request).await.expect("a hash");
        assert_eq!(hash_of(file), (hash.hash.into(), revision));

        // What is there is not written over, and a member of another cluster is told apart.
        let words = ["snapshot", "save", file, "--endpoints"];
        let again = kvutil(&[&words[..], &[&endpoints[0]]].concat());
        again.fails(7, "--overwrite");
        let stranger = Server::start(Options::default());
        let both = format!("{},{}", endpoints[0], stranger.url());
        let other = file.replace("saved", "other");
        let words = ["snapshot", "save", &other, "--endpoints"];
        let mixed = kvutil(&[&words[..], &[&both]].concat());
        mixed.fails(7, "a snapshot is of one");

        // A learner is passed over, and alone it is refused.
        let port = kvnode_tests::server::free_port();
        let url = format!("http://127.0.0.1:{port}");
        let request = api::MemberAddRequest {
            peer_urls: vec![url],
            is_learner: true,
        };
        let added = client.member_add(request).await.expect("added");
        let new = added.member.expect("a member").id;
        let name = |member: &api::Member| match member.id == new {
            true => "late".to_owned(),
            false => member.name.clone(),
        };
        let entries = added
            .members
            .iter()
            .map(|m| format!("{}={}", name(m), m.peer_urls[0]));
        let all = entries.collect::<Vec<_>>().join(",");
        let options = Options::default()
            .arg("--wal-segment-bytes=8MiB")
            .arg("--initial-cluster-state=existing")
            .member("late", port, &all);
        let late = cluster.push(Server::start(options));
        let learner = cluster.member(late).url();
        let alone = kvutil(&[&words[..], &[&learner]].concat());
        alone.fails(7, &format!("{learner} is a learner"));
        assert!(!std::path::Path::new(&other).exists());
        let saved = save(&other, &format!("{learner},{}", endpoints[1]), &[]);
        assert_eq!(saved["endpoint"], endpoints[1]);
    });
}

/// Passes connections on; the first one is cut after so many bytes of answers.
fn cutting_once(to: SocketAddr, after_bytes: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        let mut left = after_bytes;
        for near in listener.incoming().flatten() {
            let far = TcpStream::connect(to).expect("the server listens");
            let (from, into) = (near.try_clone(), far.try_clone());
            let (mut from, mut into) = (from.expect("cloned"), into.expect("cloned"));
            std::thread::spawn(move || std::io::copy(&mut from, &mut into));
            let limit = std::mem::replace(&mut left, usize::MAX);
            std::thread::spawn(move || pass_answers(far, near, limit));
        }
    });
    address
}

fn pass_answers(mut far: TcpStream, mut near: TcpStream, mut left: usize) {
    let mut buffer = [0; 8192];
    while let Ok(read @ 1..) = far.read(&mut buffer) {
        let passed = read.min(left);
        left -= passed;
        if near.write_all(&buffer[..passed]).is_err() || left == 0 {
            break;
        }
    }
    let _ = near.shutdown(std::net::Shutdown::Both);
    let _ = far.shutdown(std::net::Shutdown::Both);
}

#[test]
fn a_stream_that_breaks_off_is_begun_anew() {
    let server = Server::start(Options::default());
    run_within(LIMIT, async {
        let client = Client::connect(server.address()).await;
        let mut state = 1u64;
        let mut noise = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_le_bytes()
        };
        for number in 0..8 {
            let value: Vec<u8> = (0..12_500).flat_map(|_| noise()).collect();
            client.write(format!("k{number}"), value).await;
        }
        let relay = cutting_once(server.address(), 300_000);
        let file = server.home().join("saved.kvs");
        let file = file.to_str().expect("a plain path");
        let words = ["snapshot", "save", file, "--endpoints", &relay.to_string()];
        let ran = kvutil(&words);
        assert!(ran.stderr.contains("; once more"), "{ran:?}");
        ran.ok();
        kvutil(&["snapshot", "verify", file]).ok();
        let revision = client.revision().await;
        let request = api::HashKVRequest { revision };
        let hash = client.hash_kv(request).await.expect("a hash");
        assert_eq!(hash_of(file), (hash.hash.into(), revision));
    });
}

#[test]
fn certificates_and_a_user_are_shown_where_the_cluster_wants_them() {
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
    let (cert, key) = files.pair("client", &authority.issue(&Wish::holder("")));
    let shown = [flag("cacert", &ca), flag("cert", &cert), flag("key", &key)];
    let kvctl = |line: &str| {
        let mut command = Command::new(build::tool("kvctl"));
        command.env_clear().args(&shown);
        command
            .arg("--endpoints")
            .arg(server.url())
            .args(line.split(' '));
        program::run(command, "", LIMIT).ok()
    };
    kvctl("put k v");
    kvctl("user add root:pw");
    kvctl("auth enable");
    let file = server.home().join("saved.kvs");
    let url = server.url();
    let run = |more: &[&str], password: Option<&str>| {
        let mut command = Command::new(build::tool("kvutil"));
        command.env_clear().args(["snapshot", "save"]).arg(&file);
        command.args(["--endpoints", &url]).args(more);
        if let Some(password) = password {
            command.env("KVCTL_PASSWORD", password);
        }
        program::run(command, "", LIMIT)
    };
    let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
    let with = |more: &[&'static str]| [&shown[..], more].concat();
    run(&shown[..1], None).fails(1, &url);
    run(&shown[..2], None).fails(2, "a certificate needs its key file");
    run(&with(&[]), None).fails(1, "hint:  with authentication on, --user");
    run(&with(&["--user", "root"]), None).fails(2, "the password is missing");
    run(&with(&["--user", "root:wrong"]), None).fails(1, "authentication failed");
    assert!(!file.exists() && !file.with_extension("kvs.part").exists());
    run(&with(&["--user", "root"]), Some("pw")).ok();
    kvutil(&["snapshot", "verify", file.to_str().expect("a plain path")]).ok();
}

/// A server of etcd's own, on loopback; `None` where none is installed.
fn etcd(home: &std::path::Path) -> Option<(Guard, String)> {
    let installed = Command::new("etcd").arg("--version").output();
    if !installed.is_ok_and(|output| output.status.success()) {
        program::skip("etcd", "it is not installed");
        return None;
    }
    let (client, peer) = (
        format!("http://127.0.0.1:{}", free_port()),
        format!("http://127.0.0.1:{}", free_port()),
    );
    let log = std::fs::File::create(home.join("etcd.log")).expect("a file");
    let mut command = Command::new("etcd");
    command
        .arg("--data-dir")
        .arg(home.join("etcd"))
        .args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ])
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ])
        .arg(format!("--initial-cluster=default={peer}"))
        .stdout(Stdio::null())
        .stderr(log);
    let server = Guard(command.spawn().expect("etcd starts"));
    let begun = std::time::Instant::now();
    loop {
        let mut health = Command::new(build::tool("kvctl"));
        health.args(["--endpoints", &client, "endpoint", "health"]);
        if program::run(health, "", LIMIT).success() {
            return Some((server, client));
        }
        assert!(begun.elapsed() < LIMIT, "etcd does not answer");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// etcd streams its database, not ours: kvctl keeps it as etcdctl does, checked by the digest behind it, and kvutil says of it, in
/// whatever form it meets it, what it is and what to do.
#[test]
fn a_snapshot_of_etcds_own_server_is_kept_by_kvctl_and_named_by_kvutil() {
    let home = tempfile::tempdir().expect("a directory");
    let Some((_server, endpoint)) = etcd(home.path()) else {
        return;
    };
    let kvctl = |words: &[&str]| {
        let mut command = Command::new(build::tool("kvctl"));
        command.args(["--endpoints", &endpoint]).args(words);
        program::run(command, "", LIMIT)
    };
    for number in 0..20 {
        kvctl(&["put", &format!("k{number}"), "v"]).ok();
    }
    let file = home.path().join("etcd.db");
    let path = file.to_str().expect("a plain path");
    let saved = kvctl(&["snapshot", "save", path]);
    assert!(saved.stderr.contains(", sha256 "), "{saved:?}");
    assert!(saved.ok().starts_with("Snapshot saved at "));
    let bytes = std::fs::read(&file).expect("the file");
    assert_eq!(bytes.len() % 512, 32, "a database and its digest");
    assert_eq!(bytes[16..20], 0xED0C_DAED_u32.to_le_bytes());

    let to = home.path().join("restored");
    let to = to.to_str().expect("a plain path");
    let out = home.path().join("out.kvs");
    let out = out.to_str().expect("a plain path");
    for words in [
        &["snapshot", "status", path][..],
        &["snapshot", "verify", path],
        &["snapshot", "list", path],
        &["snapshot", "get", path, "k1"],
        &["snapshot", "convert", path, out],
        &[
            "snapshot",
            "restore",
            path,
            "--single",
            "n",
            "--data-dir",
            to,
        ],
        &["hashkv", path],
        &["kv", "count", path],
    ] {
        let ran = kvutil(words);
        ran.fails(8, "is a database of etcd (bbolt)");
        ran.fails(8, "next:  etcdutl snapshot restore ");
        ran.fails(8, "kvctl make-mirror");
    }
    let ran = kvutil(&["snapshot", "save", out, "--endpoints", &endpoint]);
    ran.fails(8, "sends no .kvs snapshot");
    ran.fails(
        8,
        &format!("next:  kvctl --endpoints {endpoint} snapshot save FILE"),
    );
    let left: Vec<_> = std::fs::read_dir(home.path())
        .expect("readable")
        .map(|entry| entry.expect("an entry").file_name())
        .filter(|name| name.to_string_lossy().contains("out.kvs") || name == "restored")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
