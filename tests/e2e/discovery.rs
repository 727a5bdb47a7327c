//! Founders that nobody listed: they find each other by DNS, or in a registry that another cluster keeps.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use kvnode_tests::certs::{Authority, Caller, Files, Wish, flag, pair_flags};
use kvnode_tests::pool::run_within;
use kvnode_tests::server::free_port;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Cluster, Options, Server};

const LIMIT: Duration = Duration::from_secs(180);

/// A DNS server that knows the SRV records of one service, each of which leads to a port of 127.0.0.1.
struct Dns {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Dns {
    fn start(service: &str, ports: &[u16]) -> Dns {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("bound");
        let wait = Some(Duration::from_millis(50));
        socket.set_read_timeout(wait).expect("a socket option");
        let over = Arc::new(AtomicBool::new(false));
        let (ends, known, ports) = (Arc::clone(&over), labels(service), ports.to_vec());
        let thread = std::thread::spawn(move || {
            let mut question = [0; 512];
            while !ends.load(Ordering::Relaxed) {
                let Ok((length, asker)) = socket.recv_from(&mut question) else {
                    continue;
                };
                let answer = answer(&question[..length], &known, &ports);
                socket.send_to(&answer, asker).expect("sent");
            }
        });
        Dns {
            address,
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().expect("once").join();
        assert!(ended.is_ok() || std::thread::panicking(), "see above");
    }
}

/// A name as a message has it.
fn labels(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).expect("short"));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// RFC 1035, section 4: the question again, and behind it the records, or the news that there are none.
fn answer(question: &[u8], known: &[u8], ports: &[u16]) -> Vec<u8> {
    const HEADER_BYTES: usize = 12;
    const KIND_AND_CLASS_BYTES: usize = 4;
    const SRV: u16 = 33;
    let asked = &question[HEADER_BYTES..];
    let is_known = asked.starts_with(known);
    let end = asked.iter().position(|byte| *byte == 0).expect("a name") + 1;
    let (ports, flags): (_, u16) = match is_known {
        true => (ports, 0x8180),
        false => (&[][..], 0x8183),
    };
    let mut answer = question[..2].to_vec();
    for number in [flags, 1, u16::try_from(ports.len()).expect("few"), 0, 0] {
        answer.extend_from_slice(&number.to_be_bytes());
    }
    answer.extend_from_slice(&asked[..end + KIND_AND_CLASS_BYTES]);
    let target = labels("127.0.0.1");
    for port in ports {
        let length = u16::try_from(6 + target.len()).expect("short");
        // The name of the question; a record of the internet that is good for a minute; priority and weight.
        for number in [0xc00c, SRV, 1, 0, 60, length, 0, 0, *port] {
            answer.extend_from_slice(&number.to_be_bytes());
        }
        answer.extend_from_slice(&target);
    }
    answer
}

fn ports() -> [u16; 3] {
    [free_port(), free_port(), free_port()]
}

/// Members with these peer ports, begun at once, and what they are as a cluster.
fn found(ports: &[u16], options: &Options) -> Cluster {
    let options = options.clone().arg("--wal-segment-bytes=8MiB");
    let begin = |(number, port): (usize, &u16)| {
        Server::begin(options.clone().member(format!("m{number}"), *port, ""))
    };
    Cluster::of(ports.iter().enumerate().map(begin).collect())
}

async fn is_one(cluster: &Cluster) {
    cluster.leader().await;
    cluster.client(0).await.write("k", "v").await;
    for number in 0..cluster.count() {
        let client = cluster.client(number).await;
        assert!(client.read("k").await.is_some());
        let members = client.member_list(Default::default()).await;
        assert_eq!(members.expect("listed").members.len(), cluster.count());
    }
}

#[test]
fn founders_find_each_other_by_dns() {
    let ports = ports();
    let dns = Dns::start("_etcd-server._tcp.kv.test", &ports);
    let options = Options::default()
        .arg("--discovery-srv=kv.test")
        .arg(format!("--discovery-dns={}", dns.address));
    let cluster = found(&ports, &options);
    run_within(LIMIT, async { is_one(&cluster).await });
}

#[test]
fn founders_that_talk_in_tls_find_each_other_by_dns() {
    let ports = ports();
    let dns = Dns::start("_etcd-server-ssl-blue._tcp.kv.test", &ports);
    let files = Files::default();
    let authority = Authority::new("peers");
    files.write("ca.pem", &authority.pem);
    let pair = files.pair("member", &authority.issue(&Wish::local("member")));
    let options = Options::default()
        .tls_peers()
        .args(pair_flags("peer-", &pair))
        .arg("--peer-client-cert-auth")
        .arg(flag("peer-trusted-ca-file", &files.path("ca.pem")))
        .arg("--discovery-srv=kv.test")
        .arg("--discovery-srv-name=blue")
        .arg(format!("--discovery-dns={}", dns.address));
    let cluster = found(&ports, &options);
    run_within(LIMIT, async { is_one(&cluster).await });
}

#[test]
fn a_founder_that_no_record_leads_to_is_refused_with_what_the_records_say() {
    let dns = Dns::start("_etcd-server._tcp.kv.test", &[free_port()]);
    for (domain, why) in [
        ("kv.test", "none of the SRV records (0=http://127.0.0.1:"),
        (
            "other.test",
            "no SRV records for _etcd-server-ssl._tcp.other.test",
        ),
    ] {
        let options = Options::default()
            .member("me", free_port(), "")
            .arg(format!("--discovery-srv={domain}"))
            .arg(format!("--discovery-dns={}", dns.address));
        let failure = Server::try_start(options).err().expect("refused");
        let code = failure.status.and_then(|status| status.code());
        assert_eq!(code, Some(2), "{}", failure.output);
        assert!(failure.output.contains(why), "{}", failure.output);
    }
}

/// The registry's cluster asks for certificates, and for a log-in.
#[test]
fn founders_find_each_other_in_a_registry_that_talks_in_tls() {
    let files = Files::default();
    let authority = Authority::new("registry");
    files.write("ca.pem", &authority.pem);
    let server = files.pair("server", &authority.issue(&Wish::local("server")));
    // Of no common name: with one, who logs in would have two names.
    let shown = authority.issue(&Wish::local(""));
    let founder = files.pair("founder", &shown);
    let options = Options::default()
        .tls_clients()
        .args(pair_flags("", &server))
        .arg("--client-cert-auth")
        .arg(flag("trusted-ca-file", &files.path("ca.pem")));
    let registry = Server::start(options);
    let caller = Caller::new(&authority.pem, Some(&shown));
    for (path, body) in [
        // /_etcd/registry/token/_config/size = 2
        (
            "kv/put",
            r#"{"key": "L19ldGNkL3JlZ2lzdHJ5L3Rva2VuL19jb25maWcvc2l6ZQ==", "value": "Mg=="}"#,
        ),
        ("auth/user/add", r#"{"name": "root", "password": "secret"}"#),
        ("auth/role/add", r#"{"name": "root"}"#),
        ("auth/user/grant", r#"{"user": "root", "role": "root"}"#),
        ("auth/enable", "{}"),
    ] {
        let answer = caller.post(registry.address(), &format!("/v3/{path}"), body);
        let answer = answer.expect("an answer");
        assert!(answer.contains(" 200 "), "{path}: {answer}");
    }
    let discovery = Options::default()
        .arg("--discovery-token=token")
        .arg("--discovery-insecure-transport=false")
        .arg(format!("--discovery-endpoints={}", registry.url()))
        .arg(flag("discovery-cacert", &files.path("ca.pem")))
        .args(pair_flags("discovery-", &founder).map(|flag| flag.replace("-file=", "=")))
        .arg("--discovery-user=root")
        .arg("--discovery-password=secret");
    let cluster = found(&[free_port(), free_port()], &discovery);
    run_within(LIMIT, async { is_one(&cluster).await });
}

#[test]
fn a_registry_whose_certificate_nobody_vouches_for_is_not_asked() {
    let files = Files::default();
    let (own, other) = (Authority::new("registry"), Authority::new("other"));
    files.write("other.pem", &other.pem);
    let server = files.pair("server", &own.issue(&Wish::local("server")));
    let registry = Server::start(
        Options::default()
            .tls_clients()
            .args(pair_flags("", &server)),
    );
    let caller = Caller::new(&own.pem, None);
    let size = r#"{"key": "L19ldGNkL3JlZ2lzdHJ5L3Rva2VuL19jb25maWcvc2l6ZQ==", "value": "MQ=="}"#;
    caller
        .post(registry.address(), "/v3/kv/put", size)
        .expect("put");
    let port = free_port();
    let founder = Options::default()
        .member("m0", port, "")
        .arg("--discovery-token=token")
        .arg("--discovery-insecure-transport=false")
        .arg(format!("--discovery-endpoints={}", registry.url()));
    let suspicious = founder
        .clone()
        .arg(flag("discovery-cacert", &files.path("other.pem")));
    let mut waiting = Server::begin(suspicious);
    run_within(LIMIT, async {
        while !waiting.output().contains("UnknownIssuer") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    waiting.kill();
    // Who does not look is not disturbed.
    let trusting = founder.arg("--discovery-insecure-skip-tls-verify");
    let cluster = Cluster::of(vec![Server::begin(trusting)]);
    run_within(LIMIT, async { is_one(&cluster).await });
}

#[test]
fn founders_find_each_other_in_a_registry_and_who_comes_later_is_told_that_it_is_full() {
    let registry = Server::start(Options::default());
    run_within(LIMIT, async {
        let client = Client::connect(registry.address()).await;
        client
            .write("/_etcd/registry/token/_config/size", "3")
            .await;
    });
    let options = Options::default()
        .arg("--discovery-token=token")
        .arg(format!("--discovery-endpoints={}", registry.url()));
    let cluster = found(&ports(), &options);
    run_within(LIMIT, async {
        is_one(&cluster).await;
        let client = Client::connect(registry.address()).await;
        let members = span(
            "/_etcd/registry/token/members/",
            "/_etcd/registry/token/members0",
        );
        assert_eq!(client.range(members).await.expect("listed").count, 3);
    });
    let late = options.member("late", free_port(), "");
    let failure = Server::try_start(late).err().expect("refused");
    let code = failure.status.and_then(|status| status.code());
    assert_eq!(code, Some(2), "{}", failure.output);
    let why = "already has its 3 members";
    assert!(failure.output.contains(why), "{}", failure.output);
}
