//! Members that talk in TLS: they form a cluster, and who is not of their authority never joins it.

use std::time::{Duration, Instant};

use kvnode_tests::certs::{Authority, Files, Wish, flag, pair_flags};
use kvnode_tests::pool::run_within;
use kvnode_tests::server::free_port;
use kvnode_tests::words::*;
use kvnode_tests::{Cluster, Options, Server};

const LIMIT: Duration = Duration::from_secs(180);

fn options(files: &Files, pair: &str, authority: &Authority) -> Options {
    files.write("ca.pem", &authority.pem);
    let pair = files.pair(pair, &authority.issue(&Wish::local("member")));
    Options::default()
        .tls_peers()
        .args(pair_flags("peer-", &pair))
        .arg("--peer-client-cert-auth")
        .arg(flag("peer-trusted-ca-file", &files.path("ca.pem")))
}

/// Writes through each member and reads through the next.
async fn works(cluster: &Cluster) {
    for number in cluster.running() {
        let client = cluster.client(number).await;
        let key = format!("k{number}");
        client.put(put(&key, "v")).await.expect("a put");
        let next = (number + 1) % cluster.count();
        if cluster.member(next).is_running() {
            let read = cluster.client(next).await.range(get(&key)).await;
            assert_eq!(read.expect("a get").kvs.len(), 1);
        }
    }
}

#[test]
fn members_form_a_cluster_over_mutual_tls_and_send_a_snapshot_over_it() {
    let files = Files::default();
    let authority = Authority::new("peers");
    let options = options(&files, "member", &authority)
        .arg("--snapshot-count=50")
        .arg("--snapshot-catchup-entries=20")
        .arg("--peer-cert-allowed-cn=member");
    let mut cluster = Cluster::start(3, options);
    run_within(LIMIT, async {
        works(&cluster).await;
        let leader = cluster.leader().await;
        let away = cluster.others(leader)[0];
        cluster.kill(away);
        let client = cluster.client(leader).await;
        for number in 0..200 {
            let value = "x".repeat(10_000);
            client
                .put(put(format!("big{number}"), value))
                .await
                .expect("a put");
        }
        cluster.restart(away);
        let back = cluster.client(away).await;
        let read = back.range(span("big", "bih")).await.expect("a range");
        assert_eq!(read.kvs.len(), 200);
        let output = cluster.member(away).output();
        assert!(
            output.contains("snapshot"),
            "it got the state as a snapshot"
        );
    });
}

#[test]
fn members_with_certificates_of_their_own_making_form_a_cluster() {
    let cluster = Cluster::start(3, Options::default().tls_peers().arg("--peer-auto-tls"));
    run_within(LIMIT, async { works(&cluster).await });
    let path = cluster.member(0).data_dir().join("fixtures/peer/cert.pem");
    assert!(path.exists());
}

#[test]
fn a_member_of_another_authority_never_joins() {
    let files = Files::default();
    let authority = Authority::new("peers");
    let other = Authority::new("strangers");
    let foreign = Files::default();
    let ports = [free_port(), free_port(), free_port()];
    let all: Vec<String> = ports
        .iter()
        .enumerate()
        .map(|(number, port)| format!("m{number}=https://127.0.0.1:{port}"))
        .collect();
    let all = all.join(",");
    let ours = options(&files, "member", &authority).arg("--wal-segment-bytes=8MiB");
    // It trusts both, so that it is the others who refuse.
    let theirs = options(&foreign, "member", &other).arg("--wal-segment-bytes=8MiB");
    foreign.write("ca.pem", &format!("{}{}", authority.pem, other.pem));
    let begin = |options: &Options, number: usize| {
        Server::begin(
            options
                .clone()
                .member(format!("m{number}"), ports[number], &all),
        )
    };
    let mut members = [begin(&ours, 0), begin(&ours, 1)];
    let mut stranger = begin(&theirs, 2);
    members.iter_mut().for_each(Server::wait_until_serving);
    let begun = Instant::now();
    let refused = |server: &Server| {
        let output = server.output();
        output.contains("its client certificate is of no trusted authority")
    };
    while !members.iter().any(refused) {
        assert!(begun.elapsed() < LIMIT, "nobody refused the stranger");
        std::thread::sleep(Duration::from_millis(50));
    }
    // It does not serve, since it never finds a leader; the two others do.
    assert!(stranger.ended().is_none());
    assert!(!stranger.output().contains("ready to serve client requests"));
    run_within(LIMIT, async {
        let client = kvnode_tests::Client::connect(members[0].address()).await;
        client.put(put("k", "v")).await.expect("a put");
    });
}

#[test]
fn a_member_whose_certificate_names_another_address_is_refused_unless_that_is_skipped() {
    let files = Files::default();
    let authority = Authority::new("peers");
    let options = options(&files, "member", &authority);
    // Fit to be called, by name; but it calls from 127.0.0.1, which the second certificate does not name.
    let calling = files.pair(
        "calling",
        &authority.issue(&Wish {
            hosts: &["10.1.2.3"],
            ..Wish::local("member")
        }),
    );
    let options = options.args([
        flag("peer-client-cert-file", &calling.0),
        flag("peer-client-key-file", &calling.1),
    ]);
    let ports = [free_port(), free_port()];
    let all = format!(
        "m0=https://127.0.0.1:{},m1=https://127.0.0.1:{}",
        ports[0], ports[1]
    );
    let begin = |options: &Options, number: usize| {
        Server::begin(
            options
                .clone()
                .member(format!("m{number}"), ports[number], &all),
        )
    };
    let mut members = [begin(&options, 0), begin(&options, 1)];
    let begun = Instant::now();
    while !members[0]
        .output()
        .contains("127.0.0.1 is not among its addresses")
    {
        assert!(begun.elapsed() < LIMIT, "{}", members[0].output());
        std::thread::sleep(Duration::from_millis(50));
    }
    for member in &mut members {
        member.kill();
        let options = member.options().clone();
        member.set_options(options.arg("--peer-skip-client-san-verification"));
        member.begin_again();
    }
    members.iter_mut().for_each(Server::wait_until_serving);
}
