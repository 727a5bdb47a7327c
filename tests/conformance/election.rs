//! The Election service (cases 137-140).

use std::time::Duration;

use kvnode_api as api;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Status, code, idle};
use tokio::task::JoinHandle;

fn unknown(text: &str) -> Status {
    Status::new(code::UNKNOWN, text)
}

async fn lease(client: &Client) -> i64 {
    client.lease_grant(grant(600)).await.expect("a lease").id
}

async fn campaign(client: &Client, lease: i64, value: &str) -> api::LeaderKey {
    let answer = client.campaign(campaign_for("e", lease, value)).await;
    answer.expect("elected").leader.expect("a leader key")
}

fn campaigning(
    client: &Client,
    lease: i64,
    value: &str,
) -> JoinHandle<Result<api::CampaignResponse, Status>> {
    let (client, request) = (client.clone(), campaign_for("e", lease, value));
    tokio::spawn(async move { client.campaign(request).await })
}

fn who() -> api::LeaderRequest {
    api::LeaderRequest { name: bytes("e") }
}

fn resign(leader: &api::LeaderKey) -> api::ResignRequest {
    api::ResignRequest {
        leader: Some(leader.clone()),
    }
}

fn proclaim(leader: &api::LeaderKey, value: &str) -> api::ProclaimRequest {
    api::ProclaimRequest {
        leader: Some(leader.clone()),
        value: bytes(value),
    }
}

async fn value_of(client: &Client, key: impl AsRef<[u8]>) -> Option<String> {
    let kvs = client.range(get(key)).await.expect("a get").kvs;
    kvs.first()
        .map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
}

async fn until_candidates(client: &Client, count: i64) {
    for _ in 0..1000 {
        if client.range(span("e/", "e0")).await.expect("a range").count == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never {count} candidates");
}

/// case 137
#[test]
fn a_candidate_leads_with_a_key_of_its_own_and_may_campaign_again() {
    idle(async |_, client| {
        let lease = lease(&client).await;
        let answer = client
            .campaign(campaign_for("e", lease, "a"))
            .await
            .expect("elected");
        let leader = answer.leader.expect("a leader key");
        assert_eq!(leader.key, format!("e/{lease:x}"));
        assert_eq!((&leader.name[..], leader.lease), (&b"e"[..], lease));
        assert_eq!(answer.header.expect("a header").revision, leader.rev);
        let kv = client
            .range(get(&leader.key))
            .await
            .expect("a get")
            .kvs
            .remove(0);
        assert_eq!((kv.create_revision, &kv.value[..]), (leader.rev, &b"a"[..]));
        let again = campaign(&client, lease, "b").await;
        assert_eq!(again, leader, "the same leadership");
        assert_eq!(value_of(&client, &leader.key).await.as_deref(), Some("b"));
        let version = |kvs: Vec<api::KeyValue>| kvs[0].version;
        campaign(&client, lease, "b").await;
        let kvs = client.range(get(&leader.key)).await.expect("a get").kvs;
        assert_eq!(version(kvs), 2, "the same value is not written again");
    });
}

#[test]
fn without_a_lease_the_server_grants_one_of_a_minute() {
    idle(async |_, client| {
        let leader = campaign(&client, 0, "a").await;
        assert_eq!(leader.key, format!("e/{:x}", leader.lease));
        let look = api::LeaseTimeToLiveRequest {
            id: leader.lease,
            keys: false,
        };
        let shown = client.lease_time_to_live(look).await.expect("the lease");
        assert_eq!(shown.granted_ttl, 60);
    });
}

/// case 138
#[test]
fn only_the_present_leadership_proclaims_and_resigns() {
    idle(async |_, client| {
        let leader = campaign(&client, lease(&client).await, "a").await;
        let answer = client
            .proclaim(proclaim(&leader, "b"))
            .await
            .expect("proclaimed");
        let kv = client
            .range(get(&leader.key))
            .await
            .expect("a get")
            .kvs
            .remove(0);
        assert_eq!(&kv.value[..], b"b");
        assert_eq!(answer.header.expect("a header").revision, kv.mod_revision);
        let stale = api::LeaderKey {
            rev: leader.rev - 1,
            ..leader.clone()
        };
        let not_leader = unknown("election: not leader");
        refused(
            client.proclaim(proclaim(&stale, "c")).await,
            not_leader.clone(),
        );
        client.resign(resign(&stale)).await.expect("nothing to do");
        assert_eq!(value_of(&client, &leader.key).await.as_deref(), Some("b"));
        client.resign(resign(&leader)).await.expect("resigned");
        assert_eq!(value_of(&client, &leader.key).await, None);
        refused(client.proclaim(proclaim(&leader, "d")).await, not_leader);
        let missing = unknown("\"leader\" field must be provided");
        let nobody = api::ProclaimRequest::default();
        refused(client.proclaim(nobody).await, missing.clone());
        refused(client.resign(api::ResignRequest::default()).await, missing);
    });
}

/// case 139
#[test]
fn the_leader_is_the_oldest_candidate_or_nobody() {
    idle(async |_, client| {
        refused(
            client.election_leader(who()).await,
            unknown("election: no leader"),
        );
        let leader = campaign(&client, lease(&client).await, "a").await;
        let other = lease(&client).await;
        let waiter = campaigning(&client, other, "b");
        until_candidates(&client, 2).await;
        let kv = client
            .election_leader(who())
            .await
            .expect("a leader")
            .kv
            .expect("its key");
        assert_eq!((kv.key, &kv.value[..]), (leader.key.clone(), &b"a"[..]));
        assert!(!waiter.is_finished());
        client.resign(resign(&leader)).await.expect("resigned");
        let next = waiter
            .await
            .expect("no panic")
            .expect("elected")
            .leader
            .expect("a key");
        let kv = client
            .election_leader(who())
            .await
            .expect("a leader")
            .kv
            .expect("its key");
        assert_eq!((kv.key, kv.create_revision), (next.key, next.rev));
    });
}

#[test]
fn a_candidate_who_leaves_while_waiting_leaves_no_key() {
    idle(async |_, client| {
        campaign(&client, lease(&client).await, "a").await;
        let other = lease(&client).await;
        let waiter = campaigning(&client, other, "b");
        until_candidates(&client, 2).await;
        waiter.abort();
        until_candidates(&client, 1).await;
        let hasty = client.clone().with_metadata("grpc-timeout", "300m");
        let result = hasty.campaign(campaign_for("e", other, "b")).await;
        refused(
            result,
            Status::new(code::DEADLINE_EXCEEDED, "context deadline exceeded"),
        );
        until_candidates(&client, 1).await;
    });
}

#[test]
fn a_waiting_candidate_changes_what_it_will_proclaim() {
    idle(async |_, client| {
        let leader = campaign(&client, lease(&client).await, "a").await;
        let other = lease(&client).await;
        let first = campaigning(&client, other, "b");
        until_candidates(&client, 2).await;
        let second = campaigning(&client, other, "c");
        let key = format!("e/{other:x}");
        for _ in 0..1000 {
            if value_of(&client, &key).await.as_deref() == Some("c") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        client.resign(resign(&leader)).await.expect("resigned");
        let first = first.await.expect("no panic").expect("elected").leader;
        let second = second.await.expect("no panic").expect("elected").leader;
        assert_eq!(first, second, "one candidate, asked twice");
        assert_eq!(value_of(&client, &key).await.as_deref(), Some("c"));
    });
}

/// A candidate whose lease ended is not elected; etcd elects it without a key.
#[test]
fn a_candidate_whose_lease_ended_is_not_elected() {
    idle(async |server, client| {
        let leader = campaign(&client, lease(&client).await, "a").await;
        let other = lease(&client).await;
        let waiter = campaigning(&client, other, "b");
        until_candidates(&client, 2).await;
        let revoke = api::LeaseRevokeRequest { id: other };
        client.lease_revoke(revoke).await.expect("revoked");
        until_candidates(&client, 1).await;
        client.resign(resign(&leader)).await.expect("resigned");
        let result = waiter.await.expect("no panic");
        if server.kind().is_kvnode() {
            refused(result, unknown("election: not leader"));
        } else {
            result.expect("without a look");
        }
    });
}

/// case 135, for elections
#[test]
fn errors_of_the_calls_behind_come_under_code_unknown() {
    idle(async |_, client| {
        let text = "etcdserver: requested lease not found";
        refused(
            client.campaign(campaign_for("e", 12345, "a")).await,
            unknown(text),
        );
        let nameless = api::LeaderKey::default();
        let text = "etcdserver: key is not provided";
        refused(client.resign(resign(&nameless)).await, unknown(text));
    });
}

/// case 140
#[test]
fn observers_see_the_leader_each_proclamation_and_the_next_leader() {
    idle(async |_, client| {
        let leader = campaign(&client, lease(&client).await, "a").await;
        let mut seen = client.observe(who()).await.expect("a stream");
        let first = seen.next().await;
        let kv = first.kv.expect("a pair");
        assert_eq!((&kv.key, &kv.value[..]), (&leader.key, &b"a"[..]));
        assert!(first.header.expect("a header").revision >= kv.mod_revision);
        for value in ["b", "c"] {
            client
                .proclaim(proclaim(&leader, value))
                .await
                .expect("proclaimed");
            let next = seen.next().await;
            let kv = next.kv.expect("a pair");
            assert_eq!(&kv.value[..], value.as_bytes());
            assert_eq!(next.header.expect("a header").revision, kv.mod_revision);
        }
        let other = lease(&client).await;
        let waiter = campaigning(&client, other, "d");
        until_candidates(&client, 2).await;
        seen.quiet(Duration::from_millis(200)).await;
        client.resign(resign(&leader)).await.expect("resigned");
        let kv = seen.next().await.kv.expect("a pair");
        assert_eq!(&kv.value[..], b"d");
        let leader = waiter
            .await
            .expect("no panic")
            .expect("elected")
            .leader
            .expect("a key");
        // Nobody leads for a while.
        client.resign(resign(&leader)).await.expect("resigned");
        seen.quiet(Duration::from_millis(200)).await;
        campaign(&client, other, "e").await;
        assert_eq!(&seen.next().await.kv.expect("a pair").value[..], b"e");
    });
}

/// case 140: an election that has not begun
#[test]
fn an_observer_waits_for_the_first_leader() {
    idle(async |_, client| {
        let mut seen = client.observe(who()).await.expect("a stream");
        seen.quiet(Duration::from_millis(200)).await;
        let leader = campaign(&client, 0, "a").await;
        let next = seen.next().await;
        let kv = next.kv.expect("a pair");
        assert_eq!((kv.key, kv.mod_revision), (leader.key, leader.rev));
        assert_eq!(next.header.expect("a header").revision, leader.rev);
    });
}
