//! The conformance cases that need several members.
//!
//! Of these, cases 114 (watchers over a snapshot), 124 (leases through a follower), 172 and 173 (learners), 176 (moving
//! leadership) and 180 and 181 (no quorum) stand in `left_behind`, `cluster` and `membership`.

use std::time::Duration;

use kvnode_api as api;
use kvnode_tests::pool::run_within;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Cluster, Options, Status, code};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(180);

fn three(body: impl AsyncFnOnce(&mut Cluster)) {
    let mut cluster = Cluster::start(3, Options::default());
    run_within(LIMIT, body(&mut cluster));
}

async fn id(cluster: &Cluster, number: usize) -> u64 {
    let status = cluster.status(number).await.expect("status");
    status.header.expect("a header").member_id
}

/// Kills all but one member and waits until that one knows that nobody leads. Which one is left.
async fn lose_quorum(cluster: &mut Cluster) -> usize {
    let left = cluster.leader().await;
    let others = cluster.others(left);
    others.iter().for_each(|other| cluster.kill(*other));
    cluster
        .until("the survivor knows that nobody leads", async || {
            let status = cluster.status(left).await.ok()?;
            (status.leader == 0).then_some(())
        })
        .await;
    left
}

fn serializable(request: api::RangeRequest) -> api::RangeRequest {
    api::RangeRequest {
        serializable: true,
        ..request
    }
}

/// case 23
#[test]
fn the_header_names_the_member_that_was_asked() {
    three(async |cluster| {
        let leader = cluster.leader().await;
        for number in 0..3 {
            let own = id(cluster, number).await;
            let client = cluster.client(number).await;
            let answer = client.put(put("k", "v")).await.expect("a put");
            assert_eq!(answer.header.expect("a header").member_id, own);
            let answer = client.range(get("k")).await.expect("a read");
            assert_eq!(answer.header.expect("a header").member_id, own);
        }
        assert!(cluster.running().contains(&leader));
    });
}

/// case 43
#[test]
fn a_local_read_of_a_revision_that_has_not_come_is_refused() {
    three(async |cluster| {
        let leader = cluster.leader().await;
        let newest = cluster.client(leader).await.write("k", "v").await;
        let follower = cluster.client(cluster.others(leader)[0]).await;
        let ahead = api::RangeRequest {
            revision: newest + 1000,
            ..serializable(get("k"))
        };
        refused(follower.range(ahead).await, refusal::future());
    });
}

/// case 181
#[test]
fn a_member_without_a_leader_says_so_in_its_status() {
    three(async |cluster| {
        let left = lose_quorum(cluster).await;
        let status = cluster
            .until("it knows no leader", async || {
                let status = cluster.status(left).await.ok()?;
                (status.leader == 0).then_some(status)
            })
            .await;
        assert_eq!(status.errors, ["etcdserver: no leader"]);
    });
}

/// cases 73 and 74
#[test]
fn without_a_quorum_a_transaction_is_answered_only_if_nothing_in_it_asks_for_the_newest() {
    three(async |cluster| {
        let leader = cluster.leader().await;
        cluster.client(leader).await.write("k", "v").await;
        let left = lose_quorum(cluster).await;
        let client = cluster.client(left).await;
        let compare = || compare_value("k", number::EQUAL, "v");

        let answer = client.txn(txn(vec![compare()], vec![], vec![])).await;
        assert!(answer.expect("compares are local").succeeded);
        let local = txn(vec![compare()], vec![serializable(get("k")).op()], vec![]);
        let answer = client.txn(local).await.expect("local reads");
        assert_eq!(
            &answer.responses[0].as_range().kvs[0].value[..],
            b"v".as_slice()
        );

        let mixed = txn(
            vec![compare()],
            vec![serializable(get("k")).op(), get("k").op()],
            vec![],
        );
        refused(
            client.txn(mixed).await,
            Status::new(code::UNAVAILABLE, "etcdserver: request timed out"),
        );
    });
}

async fn ttl(client: &Client, id: i64) -> i64 {
    let ask = api::LeaseTimeToLiveRequest { id, keys: false };
    client.lease_time_to_live(ask).await.expect("told").ttl
}

/// case 125
#[test]
fn a_new_leader_gives_every_lease_its_full_time() {
    three(async |cluster| {
        let old = cluster.leader().await;
        let client = cluster.client(old).await;
        let lease = client.lease_grant(grant(60)).await.expect("a lease").id;
        let before = cluster
            .until("some of its time has passed", async || {
                let left = ttl(&client, lease).await;
                (left <= 56).then_some(left)
            })
            .await;
        let new = cluster.others(old)[0];
        let target_id = id(cluster, new).await;
        client
            .move_leader(api::MoveLeaderRequest { target_id })
            .await
            .expect("moved");
        assert_eq!(cluster.leader().await, new);
        let client = cluster.client(new).await;
        // It only ever falls without a new leader.
        assert!(ttl(&client, lease).await > before);
    });
}

#[test]
fn leadership_is_not_handed_to_a_member_that_stands_still() {
    three(async |cluster| {
        let old = cluster.leader().await;
        let still = cluster.others(old)[0];
        let target_id = id(cluster, still).await;
        cluster.member(still).signal(Signal::STOP);
        let client = cluster.client(old).await;
        let text = "etcdserver: request timed out, leader transfer took too long";
        // It is told apart only once it was not heard of for a while. Until then the transfer begins, and comes to nothing.
        cluster
            .until("it is told", async || {
                let request = api::MoveLeaderRequest { target_id };
                let told = client.move_leader(request).await.err()?;
                (told == Status::new(code::UNKNOWN, text)).then_some(())
            })
            .await;
        cluster.member(still).signal(Signal::CONT);
        client.write("k", "who leads still serves").await;
    });
}

/// case 127
#[test]
fn a_lease_does_not_end_while_there_is_no_quorum() {
    three(async |cluster| {
        let leader = cluster.leader().await;
        let client = cluster.client(leader).await;
        let lease = client.lease_grant(grant(3)).await.expect("a lease").id;
        let attached = api::PutRequest {
            lease,
            ..put("k", "v")
        };
        client.put(attached).await.expect("a put");
        // On every member: whichever is left has it.
        let mut watching = Vec::new();
        for number in 0..3 {
            let client = cluster.client(number).await;
            cluster
                .until("it is everywhere", async || {
                    let seen = client.range(serializable(get("k"))).await.ok()?;
                    (!seen.kvs.is_empty()).then_some(())
                })
                .await;
            watching.push(client);
        }
        let left = lose_quorum(cluster).await;
        let client = &watching[left];
        // Longer than the lease lasts; the member that led has its clock.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let seen = client.range(serializable(get("k"))).await.expect("a look");
        assert_eq!(seen.kvs.len(), 1);

        // With a quorum it ends, a full time after the new leader has come.
        for other in 0..3 {
            if other != left {
                cluster.member_mut(other).begin_again();
            }
        }
        for other in 0..3 {
            if other != left {
                cluster.member_mut(other).wait_until_serving();
            }
        }
        cluster
            .until("it has ended", async || {
                let seen = client.range(get("k")).await.ok()?;
                seen.kvs.is_empty().then_some(())
            })
            .await;
    });
}

/// cases 171 and 173
#[test]
fn voters_are_not_added_beyond_those_who_have_started_and_voters_are_not_promoted() {
    three(async |cluster| {
        let leader = cluster.leader().await;
        let client = cluster.client(cluster.others(leader)[0]).await;
        let add = |port: u16| api::MemberAddRequest {
            peer_urls: vec![format!("http://127.0.0.1:{port}")],
            is_learner: false,
        };
        let unhealthy = Status::new(code::UNAVAILABLE, "etcdserver: unhealthy cluster");
        for port in [1, 2] {
            cluster
                .until("it is added", async || {
                    match client.member_add(add(port)).await {
                        Ok(_) => Some(()),
                        Err(status) if status == unhealthy => None,
                        Err(status) => panic!("{status}"),
                    }
                })
                .await;
        }
        let refusal = client.member_add(add(3)).await.expect_err("a sixth voter");
        assert_eq!(
            refusal.message,
            "etcdserver: re-configuration failed due to not enough started members"
        );
        let promote = async |id| {
            client
                .member_promote(api::MemberPromoteRequest { id })
                .await
        };
        refused(
            promote(id(cluster, leader).await).await,
            Status::new(
                code::FAILED_PRECONDITION,
                "etcdserver: can only promote a learner member",
            ),
        );
        refused(
            promote(77).await,
            Status::new(code::NOT_FOUND, "etcdserver: member not found"),
        );
        client.write("k", "five, of whom three are there").await;
    });
}
