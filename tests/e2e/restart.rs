//! A restart keeps everything a client can ask for.

use kvnode_api as api;
use kvnode_tests::words::number::*;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Options, fresh_with};

/// All that a client can see of a store, in one value to compare.
async fn visible(client: &Client, from: i64, compacted: i64) -> String {
    let mut seen = String::new();
    let now = client.revision().await;
    seen += &format!("revision {now}\n");
    for revision in compacted.max(from)..=now {
        let request = api::RangeRequest { revision, ..all() };
        let answer = client.range(request).await.expect("readable");
        seen += &format!("{revision}: {:?}\n", answer.kvs);
    }
    let request = api::RangeRequest {
        revision: compacted - 1,
        ..all()
    };
    seen += &format!("below: {:?}\n", client.range(request).await);
    let mut leases: Vec<i64> = client
        .lease_leases(api::LeaseLeasesRequest {})
        .await
        .expect("leases")
        .leases
        .iter()
        .map(|lease| lease.id)
        .collect();
    leases.sort();
    for id in leases {
        let request = api::LeaseTimeToLiveRequest { id, keys: true };
        let answer = client.lease_time_to_live(request).await.expect("lease");
        seen += &format!(
            "lease {id}: {} {:?}\n",
            answer.granted_ttl,
            client.lease_keys(id).await
        );
    }
    let alarms = api::AlarmRequest {
        action: ALARM_GET,
        ..Default::default()
    };
    seen += &format!(
        "alarms {:?}\n",
        client.alarm(alarms).await.expect("alarms").alarms
    );
    let members = client
        .member_list(api::MemberListRequest::default())
        .await
        .expect("members");
    let header = members.header.expect("header");
    seen += &format!(
        "{:?} {} {}\n",
        members.members, header.cluster_id, header.member_id
    );
    let hash = client
        .hash_kv(api::HashKVRequest { revision: now })
        .await
        .expect("hash");
    seen + &format!("hash {} {}\n", hash.hash, hash.compact_revision)
}

#[test]
fn a_restart_keeps_everything_a_client_can_see() {
    fresh_with(Options::default().fsync(), async |server, client| {
        let lease = client.lease(3600).await;
        for number in 0..60 {
            client
                .write(format!("k{}", number % 9), format!("{number}"))
                .await;
        }
        client.write_leased("leased", "v", lease).await;
        client.write("big", vec![b'b'; 1_000_000]).await;
        client.remove("k3").await;
        client.remove("big").await;
        let ops = vec![
            put("t1", "v").op(),
            delete_span("k4", "k6").op(),
            put("t2", "v").op(),
        ];
        client.txn(then(ops)).await.expect("txn");
        let compacted = client.revision().await - 20;
        client.compact(compact(compacted)).await.expect("compact");
        for number in 0..10 {
            client
                .write(format!("k{}", number % 9), format!("after {number}"))
                .await;
        }
        let member = client
            .status(api::StatusRequest {})
            .await
            .expect("status")
            .leader;
        let request = api::AlarmRequest {
            action: ALARM_ACTIVATE,
            member_id: member,
            alarm: NOSPACE,
        };
        client.alarm(request).await.expect("alarm");
        let before = visible(&client, 2, compacted).await;
        let term = client
            .range(get("k"))
            .await
            .expect("range")
            .header
            .expect("header")
            .raft_term;
        for kill in [false, true, false] {
            if kill {
                server.kill();
            } else {
                server.stop();
            }
            server.restart();
            let client = Client::connect(server.address()).await;
            assert_eq!(visible(&client, 2, compacted).await, before);
            let now = client
                .range(get("k"))
                .await
                .expect("range")
                .header
                .expect("header");
            assert!(now.raft_term >= term, "terms do not fall");
        }
    });
}

#[test]
fn many_short_lives_add_up() {
    fresh_with(Options::default().fsync(), async |server, client| {
        drop(client);
        let mut expected = 1;
        for life in 0..6 {
            let client = Client::connect(server.address()).await;
            for number in 0..20 {
                expected += 1;
                assert_eq!(
                    client.write(format!("{life}-{number}"), "v").await,
                    expected
                );
            }
            if life % 2 == 0 {
                server.kill();
            } else {
                server.stop();
            }
            server.restart();
        }
        let client = Client::connect(server.address()).await;
        assert_eq!(client.range(all()).await.expect("range").count, 120);
        assert_eq!(client.revision().await, expected);
    });
}

#[test]
fn a_watch_resumes_over_a_restart_without_gap_or_repeat() {
    fresh_with(Options::default().fsync(), async |server, client| {
        let mut watching = client.watching().await;
        watching.create(watch_span("\0", "\0")).await;
        client.write("a", "1").await;
        client.write("b", "2").await;
        let seen = watching.events(2).await;
        let last = seen[1].kv.as_ref().expect("kv").mod_revision;
        client.write("c", "3").await;
        server.stop();
        server.restart();
        let client = Client::connect(server.address()).await;
        client.write("d", "4").await;
        let mut watching = client.watching().await;
        let request = api::WatchCreateRequest {
            start_revision: last + 1,
            ..watch_span("\0", "\0")
        };
        watching.create(request).await;
        let expected = [format!("PUT c@{}", last + 1), format!("PUT d@{}", last + 2)];
        assert_eq!(briefly(&watching.events(2).await), expected);
    });
}

#[test]
fn the_server_says_when_it_serves_and_leaves_on_sigterm() {
    fresh_with(Options::default(), async |server, client| {
        assert!(
            server.output().contains("ready to serve client requests"),
            "{}",
            server.output()
        );
        client.write("k", "v").await;
        let mut watching = client.watching().await;
        watching.create(watch_key("k")).await;
        let begun = std::time::Instant::now();
        let status = server.stop();
        assert!(begun.elapsed().as_secs() < 10, "took {:?}", begun.elapsed());
        if server.kind().is_kvnode() {
            assert!(status.success(), "an orderly end is a success: {status}");
        }
        let end = watching.answers.next_or_end().await;
        assert!(!matches!(end, Ok(Some(_))), "the stream ends: {end:?}");
    });
}
