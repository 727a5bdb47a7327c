//! Locks and elections through the members of a cluster that do not lead.

use std::time::Duration;

use kvnode_api as api;
use kvnode_tests::gateway::{Stream, base64, post};
use kvnode_tests::pool::run_within;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Cluster, Options, Status, code};
use serde_json::json;
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(180);

fn locking(client: &Client, lease: i64) -> JoinHandle<Result<api::LockResponse, Status>> {
    let client = client.clone().with_patience(LIMIT);
    tokio::spawn(async move { client.lock(lock_on("l", lease)).await })
}

async fn until_keys(client: &Client, count: i64) {
    for _ in 0..2000 {
        if client.range(span("l/", "l0")).await.expect("a range").count == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never {count} keys");
}

#[test]
fn locks_and_elections_work_through_followers() {
    let mut cluster = Cluster::start(3, Options::default());
    run_within(LIMIT, queue_through_followers(&mut cluster));
}

async fn queue_through_followers(cluster: &mut Cluster) {
    let leading = cluster.leader().await;
    let [one, two] = cluster.others(leading)[..] else {
        panic!("three members");
    };
    let leader = cluster.client(leading).await;
    let (first, second) = (cluster.client(one).await, cluster.client(two).await);
    let mut leases = Vec::new();
    for client in [&first, &second, &leader] {
        leases.push(client.lease_grant(grant(600)).await.expect("a lease").id);
    }
    // A queue over all three members.
    let owner = first.lock(lock_on("l", leases[0])).await.expect("the lock");
    let waiter = locking(&second, leases[1]);
    until_keys(&first, 2).await;
    let last = locking(&leader, leases[2]);
    until_keys(&first, 3).await;
    let unlock = api::UnlockRequest { key: owner.key };
    let freed = leader.unlock(unlock).await.expect("an unlock");
    let next = waiter.await.expect("no panic").expect("the lock");
    assert_eq!(next.key, format!("l/{:x}", leases[1]));
    let revision = |header: Option<api::ResponseHeader>| header.expect("a header").revision;
    assert!(revision(next.header) >= revision(freed.header));
    assert!(!last.is_finished(), "one owner at a time");
    // A caller who leaves a follower leaves no key behind.
    last.abort();
    until_keys(&first, 1).await;
    let hasty = first.clone().with_metadata("grpc-timeout", "500m");
    let result = hasty.lock(lock_on("l", leases[0])).await;
    let text = "context deadline exceeded";
    refused(result, Status::new(code::DEADLINE_EXCEEDED, text));
    until_keys(&second, 1).await;

    // An election, the leader seen from another member, in JSON too.
    let mut seen = second
        .observe(api::LeaderRequest { name: bytes("e") })
        .await
        .expect("a stream");
    let mut lines = Stream::open(cluster.member(one).address(), "/v3/election/observe", &[]);
    lines.say(&json!({"name": base64("e")}));
    let elected = first.campaign(campaign_for("e", leases[0], "a")).await;
    let key = elected.expect("elected").leader.expect("a key");
    assert_eq!(&seen.next().await.kv.expect("a pair").value[..], b"a");
    assert_eq!(lines.result()["kv"]["value"], base64("a"));
    let proclaim = api::ProclaimRequest {
        leader: Some(key.clone()),
        value: bytes("b"),
    };
    leader.proclaim(proclaim).await.expect("proclaimed");
    assert_eq!(&seen.next().await.kv.expect("a pair").value[..], b"b");
    assert_eq!(lines.result()["kv"]["value"], base64("b"));
    let body = json!({"name": base64("e")});
    let (status, answer) = post(cluster.member(two).address(), "/v3/election/leader", &body);
    assert_eq!((status, &answer["kv"]["value"]), (200, &json!(base64("b"))));

    // Who waits at a follower is not disturbed by a change of leader.
    let waiter = locking(&first, leases[0]);
    until_keys(&second, 2).await;
    let status = cluster.status(two).await.expect("a status");
    let target = status.header.expect("a header").member_id;
    let request = api::MoveLeaderRequest { target_id: target };
    leader.move_leader(request).await.expect("leadership moves");
    let unlock = api::UnlockRequest {
        key: bytes(format!("l/{:x}", leases[1])),
    };
    cluster
        .until("an unlock is answered", async || {
            second.unlock(unlock.clone()).await.ok()
        })
        .await;
    waiter.await.expect("no panic").expect("the lock");
}

/// As in etcd: whether there is a leader is looked at when such a call comes, and not again while it waits.
#[test]
fn a_wait_for_a_lock_outlives_the_loss_of_the_leader_it_asked_for() {
    let mut cluster = Cluster::start(3, Options::default());
    run_within(LIMIT, async {
        let left = cluster.leader().await;
        let client = cluster.client(left).await;
        let mut leases = Vec::new();
        for _ in 0..2 {
            leases.push(client.lease_grant(grant(600)).await.expect("a lease").id);
        }
        let owner = client.lock(lock_on("l", leases[0])).await;
        let owner = owner.expect("the lock");
        let strict = client.clone().with_metadata("hasleader", "true");
        let waiter = locking(&strict, leases[1]);
        until_keys(&client, 2).await;
        let others = cluster.others(left);
        others.iter().for_each(|other| cluster.kill(*other));
        cluster
            .until("it knows that nobody leads", async || {
                let status = cluster.status(left).await.ok()?;
                (status.leader == 0).then_some(())
            })
            .await;
        let late = strict.lock(lock_on("l", leases[1])).await;
        refused(
            late,
            Status::new(code::UNAVAILABLE, "etcdserver: no leader"),
        );
        assert!(!waiter.is_finished(), "it goes on waiting");
        for other in &others {
            cluster.member_mut(*other).begin_again();
        }
        for other in others {
            cluster.member_mut(other).wait_until_serving();
        }
        cluster.leader().await;
        let unlock = api::UnlockRequest { key: owner.key };
        client.unlock(unlock).await.expect("an unlock");
        let next = waiter.await.expect("no panic").expect("the lock");
        assert_eq!(next.key, format!("l/{:x}", leases[1]));
    });
}
