//! Leases (cases 116-123, 126, 128, 129).

use std::time::{Duration, Instant};

use kvnode_api as api;
use kvnode_tests::words::number::*;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Options, fresh, fresh_with, idle};

async fn time_to_live(client: &Client, id: i64) -> api::LeaseTimeToLiveResponse {
    let request = api::LeaseTimeToLiveRequest { id, keys: false };
    client
        .lease_time_to_live(request)
        .await
        .expect("never an error")
}

async fn revoke(client: &Client, id: i64) -> api::LeaseRevokeResponse {
    client
        .lease_revoke(api::LeaseRevokeRequest { id })
        .await
        .expect("revoke")
}

async fn listed(client: &Client) -> Vec<i64> {
    let answer = client
        .lease_leases(api::LeaseLeasesRequest {})
        .await
        .expect("list");
    let mut ids: Vec<i64> = answer.leases.iter().map(|lease| lease.id).collect();
    ids.sort();
    ids
}

/// case 116
#[test]
fn a_short_ttl_is_raised_and_a_huge_one_refused() {
    idle(async |_, client| {
        for ttl in [0, -5, 1] {
            let answer = client.lease_grant(grant(ttl)).await.expect("grant");
            assert_eq!(answer.ttl, 2, "asked for {ttl}");
            assert!(answer.error.is_empty());
        }
        assert_eq!(client.lease_grant(grant(3)).await.expect("grant").ttl, 3);
        let answer = client
            .lease_grant(grant(9_000_000_000))
            .await
            .expect("grant");
        assert_eq!(answer.ttl, 9_000_000_000);
        refused(
            client.lease_grant(grant(9_000_000_001)).await,
            refusal::large_ttl(),
        );
    });
}

/// case 117
#[test]
fn lease_ids_are_chosen_or_given_and_unique() {
    idle(async |_, client| {
        let before = client.revision().await;
        let (first, second) = (client.lease(60).await, client.lease(60).await);
        assert!(first > 0 && second > 0 && first != second);
        for id in [77, -77, i64::MIN, i64::MAX] {
            let request = api::LeaseGrantRequest { ttl: 60, id };
            let answer = client.lease_grant(request).await.expect("grant");
            assert_eq!((answer.id, revision_of(&answer.header)), (id, before));
            refused(client.lease_grant(request).await, refusal::lease_exists());
        }
        let mut expected = vec![first, second, 77, -77, i64::MIN, i64::MAX];
        expected.sort();
        assert_eq!(listed(&client).await, expected);
    });
}

/// case 118
#[test]
fn unknown_leases_are_told_apart_by_call() {
    idle(async |_, client| {
        for id in [0x7123, 0] {
            let request = api::LeaseRevokeRequest { id };
            refused(client.lease_revoke(request).await, refusal::no_lease());
            let answer = time_to_live(&client, id).await;
            assert_eq!((answer.id, answer.ttl, answer.granted_ttl), (id, -1, 0));
        }
        let lease = client.lease(60).await;
        let (mut requests, mut answers) = client.keep_alive().await;
        for (id, ttl) in [(0x7123, 0), (lease, 60), (0x7124, 0), (lease, 60)] {
            requests.send(&api::LeaseKeepAliveRequest { id });
            let answer = answers.next().await;
            assert_eq!((answer.id, answer.ttl), (id, ttl));
            assert!(answer.header.is_some());
        }
        requests.half_close();
        assert_eq!(
            answers.next_or_end().await,
            Ok(None),
            "a half-closed stream ends well"
        );
    });
}

/// case 119
#[test]
fn revoking_deletes_the_keys_in_key_order_in_one_revision() {
    idle(async |_, client| {
        let lease = client.lease(60).await;
        for key in ["lz", "lb", "lq", "l2"] {
            client.write_leased(key, "v", lease).await;
        }
        let now = client.write("free", "v").await;
        let mut watching = client.watching().await;
        watching.create(watch_span("\0", "\0")).await;
        let answer = revoke(&client, lease).await;
        assert_eq!(revision_of(&answer.header), now + 1);
        let answer = watching.next().await;
        let expected = ["l2", "lb", "lq", "lz"].map(|key| format!("DELETE {key}@{}", now + 1));
        assert_eq!(briefly(&answer.events), expected);
        assert_eq!(
            keys_of(&client.range(all()).await.expect("range").kvs),
            ["free"]
        );
        assert!(!listed(&client).await.contains(&lease));
    });
}

/// case 120
#[test]
fn revoking_an_empty_lease_takes_no_revision() {
    idle(async |_, client| {
        let now = client.revision().await;
        let lease = client.lease(60).await;
        assert_eq!(revision_of(&revoke(&client, lease).await.header), now);
    });
}

/// case 121, 129
#[test]
fn an_expired_lease_deletes_its_keys_and_is_gone() {
    idle(async |_, client| {
        let lease = client.lease(2).await;
        let put = client.write_leased("k", "v", lease).await;
        let begun = Instant::now();
        let mut watching = client.watching().await;
        watching.create(watch_key("k")).await;
        let events = watching.events(1).await;
        let after = begun.elapsed();
        assert_eq!(briefly(&events), [format!("DELETE k@{}", put + 1)]);
        assert!(
            after > Duration::from_millis(1500),
            "kept for its TTL, went after {after:?}"
        );
        assert!(after < Duration::from_secs(6), "went after {after:?}");
        let request = api::PutRequest {
            lease,
            ..put_again()
        };
        refused(client.put(request).await, refusal::no_lease());
        assert!(!listed(&client).await.contains(&lease));
        assert_eq!(time_to_live(&client, lease).await.ttl, -1);
    });
}

fn put_again() -> api::PutRequest {
    put("k", "again")
}

/// case 122
#[test]
fn the_remaining_time_falls_and_is_minus_one_after_the_end() {
    idle(async |_, client| {
        let lease = client.lease(100).await;
        let answer = time_to_live(&client, lease).await;
        assert!((98..=100).contains(&answer.ttl), "{answer:?}");
        assert_eq!(answer.granted_ttl, 100);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let later = time_to_live(&client, lease).await;
        assert!(
            later.ttl < answer.ttl && later.ttl >= 90,
            "{later:?} after {answer:?}"
        );
        let (mut requests, mut answers) = client.keep_alive().await;
        requests.send(&api::LeaseKeepAliveRequest { id: lease });
        assert_eq!(answers.next().await.ttl, 100);
        assert!(
            time_to_live(&client, lease).await.ttl >= 98,
            "keepalive starts it afresh"
        );
        revoke(&client, lease).await;
        let gone = time_to_live(&client, lease).await;
        assert_eq!((gone.ttl, gone.granted_ttl, gone.keys.len()), (-1, 0, 0));
    });
}

/// case 122: keepalives hold a lease beyond its TTL
#[test]
fn a_lease_lives_as_long_as_it_is_kept_alive() {
    idle(async |_, client| {
        let lease = client.lease(2).await;
        client.write_leased("k", "v", lease).await;
        let (mut requests, mut answers) = client.keep_alive().await;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(4) {
            requests.send(&api::LeaseKeepAliveRequest { id: lease });
            assert_eq!(answers.next().await.ttl, 2);
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        assert!(client.read("k").await.is_some());
    });
}

/// case 123
#[test]
fn a_keepalive_around_the_expiry_never_promises_keys_that_are_gone() {
    idle(async |_, client| {
        let mut leases = Vec::new();
        for number in 0..12u32 {
            let lease = client.lease(2).await;
            client.write_leased(format!("k{number}"), "v", lease).await;
            leases.push((number, lease, Instant::now()));
        }
        let (mut requests, mut answers) = client.keep_alive().await;
        for (number, lease, granted) in leases {
            let due = granted + Duration::from_millis(1700) + Duration::from_millis(100) * number;
            tokio::time::sleep_until(due.into()).await;
            requests.send(&api::LeaseKeepAliveRequest { id: lease });
            let answer = answers.next().await;
            let there = client.read(format!("k{number}")).await.is_some();
            match answer.ttl {
                0 => assert!(!there, "lease {number} ended but its key is still there"),
                2 => assert!(there, "lease {number} was prolonged but its key is gone"),
                other => panic!("TTL {other}"),
            }
        }
    });
}

/// case 126
#[test]
fn leases_and_what_is_attached_survive_a_restart() {
    fresh_with(Options::default().fsync(), async |server, client| {
        let long = client.lease(1000).await;
        let short = client.lease(4).await;
        client.write_leased("b", "v", long).await;
        client.write_leased("a", "v", long).await;
        client.write_leased("moved", "v", long).await;
        client.write("moved", "off the lease").await;
        client.write_leased("short", "v", short).await;
        drop(client);
        for kill in [false, true] {
            if kill {
                server.kill();
            } else {
                server.stop();
            }
            server.restart();
            let client = Client::connect(server.address()).await;
            let mut expected = vec![long, short];
            expected.sort();
            assert_eq!(listed(&client).await, expected);
            let answer = time_to_live(&client, long).await;
            assert_eq!(answer.granted_ttl, 1000);
            assert!(answer.ttl > 900, "{answer:?}");
            assert_eq!(client.lease_keys(long).await, ["a", "b"]);
            assert_eq!(client.read("b").await.expect("kept").lease, long);
        }
        let client = Client::connect(server.address()).await;
        let mut watching = client.watching().await;
        watching.create(watch_key("short")).await;
        let events = watching.events(1).await;
        assert_eq!(events[0].r#type, DELETE, "its expiry starts again");
        assert_eq!(client.lease_keys(long).await, ["a", "b"]);
        revoke(&client, long).await;
        assert_eq!(
            keys_of(&client.range(all()).await.expect("range").kvs),
            ["moved"]
        );
    });
}

/// case 128
#[test]
fn a_put_racing_the_revoke_of_its_lease_never_dangles() {
    idle(async |server, client| {
        let other = Client::connect(server.address()).await;
        let mut applied = 0;
        for round in 0..60 {
            let lease = client.lease(60).await;
            let key = format!("k{round}");
            let request = api::PutRequest {
                lease,
                ..put(&key, "v")
            };
            let (written, _) = tokio::join!(client.put(request), revoke(&other, lease));
            match written {
                Ok(_) => applied += 1,
                Err(status) => assert_eq!(status, refusal::no_lease()),
            }
            assert!(
                client.read(&key).await.is_none(),
                "round {round}: {applied} applied so far"
            );
        }
        assert_eq!(client.range(all()).await.expect("range").count, 0);
    });
}

/// case 116-118: lease headers show the store's revision and need no key
#[test]
fn lease_calls_take_no_revision() {
    fresh(async |_, client| {
        let now = client.write("k", "v").await;
        let granted = client.lease_grant(grant(60)).await.expect("grant");
        let (mut requests, mut answers) = client.keep_alive().await;
        requests.send(&api::LeaseKeepAliveRequest { id: granted.id });
        let kept = answers.next().await;
        let asked = time_to_live(&client, granted.id).await;
        let listed = client
            .lease_leases(api::LeaseLeasesRequest {})
            .await
            .expect("list");
        let revoked = revoke(&client, granted.id).await;
        for header in [
            granted.header,
            kept.header,
            asked.header,
            listed.header,
            revoked.header,
        ] {
            let header = header.expect("header");
            assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term > 0);
            assert_eq!(header.revision, now);
        }
    });
}

/// case 118: answers of one keepalive stream come in the order of its requests
#[test]
fn keepalives_are_answered_in_order() {
    idle(async |_, client| {
        let mut leases = Vec::new();
        for _ in 0..5 {
            leases.push(client.lease(60).await);
        }
        let (mut requests, mut answers) = client.keep_alive().await;
        let order: Vec<i64> = (0..50).map(|n| leases[n * 3 % 5]).collect();
        for id in &order {
            requests.send(&api::LeaseKeepAliveRequest { id: *id });
        }
        for id in order {
            assert_eq!(answers.next().await.id, id);
        }
    });
}
