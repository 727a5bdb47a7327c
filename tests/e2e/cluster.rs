//! Three members on loopback: they form, replicate, and go on without one of them.

use std::time::{Duration, Instant};

use kvnode_api as api;
use kvnode_tests::pool::run_within;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Cluster, Options, Status, code};

const LIMIT: Duration = Duration::from_secs(180);

fn three(body: impl AsyncFnOnce(&mut Cluster)) {
    let mut cluster = Cluster::start(3, Options::default());
    run_within(LIMIT, body(&mut cluster));
}

async fn value(client: &Client, request: api::RangeRequest) -> Option<String> {
    let answer = client.range(request).await.expect("a read is answered");
    let kv = answer.kvs.into_iter().next()?;
    Some(String::from_utf8_lossy(&kv.value).into_owned())
}

/// Puts until it is acknowledged: a change of leader may cost tries, not more.
async fn put_somehow(cluster: &Cluster, number: usize, key: &str, content: &str) {
    cluster
        .until("a put is acknowledged", async || {
            let client = Client::try_connect(cluster.member(number).address())
                .await
                .ok()?;
            client.put(put(key, content)).await.ok()
        })
        .await;
}

#[test]
fn a_write_through_any_member_is_read_at_once_through_every_other() {
    three(async |cluster| {
        let mut clients = Vec::new();
        for number in 0..3 {
            clients.push(cluster.client(number).await);
        }
        for round in 0..30 {
            let (writer, content) = (round % 3, format!("v{round}"));
            let put = clients[writer].put(put("k", &content)).await.expect("put");
            for reader in &clients {
                assert_eq!(value(reader, get("k")).await.as_deref(), Some(&*content));
            }
            let revision = put.header.expect("a header").revision;
            let read = clients[(writer + 1) % 3]
                .range(get("k"))
                .await
                .expect("get");
            assert_eq!(read.kvs[0].mod_revision, revision);
        }
        let hashes: Vec<u32> = {
            let mut hashes = Vec::new();
            for client in &clients {
                let request = api::HashKVRequest { revision: 20 };
                hashes.push(client.hash_kv(request).await.expect("a hash").hash);
            }
            hashes
        };
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    });
}

#[test]
fn the_cluster_goes_on_without_its_leader_which_catches_up_when_it_returns() {
    three(async |cluster| {
        let old = cluster.leader().await;
        let before = cluster.client(old).await;
        for number in 0..20 {
            before
                .put(put(format!("before{number}"), "x"))
                .await
                .expect("put");
        }
        cluster.kill(old);
        let others = cluster.others(old);
        let killed = Instant::now();
        put_somehow(cluster, others[0], "after", "1").await;
        println!(
            "writes resumed {:?} after kill -9 of the leader",
            killed.elapsed()
        );
        let new = cluster.leader().await;
        assert_ne!(new, old);
        for number in 0..50 {
            let client = cluster.client(others[number % 2]).await;
            client
                .put(put(format!("meanwhile{number}"), "y"))
                .await
                .expect("put");
        }
        cluster.restart(old);
        let returned = cluster.client(old).await;
        let range = |from: &str, to: &str| api::RangeRequest {
            count_only: true,
            ..span(from, to)
        };
        for (from, to, count) in [("before", "beforf", 20), ("meanwhile", "meanwhilf", 50)] {
            let answer = returned.range(range(from, to)).await.expect("a read");
            assert_eq!(answer.count, count);
        }
        assert_eq!(value(&returned, get("after")).await.as_deref(), Some("1"));
        cluster.leader().await;
    });
}

#[test]
fn without_a_quorum_nothing_is_written_or_read_as_newest_and_old_data_stay_readable() {
    three(async |cluster| {
        let leader = cluster.leader().await;
        let client = cluster.client(leader).await;
        client.put(put("k", "v")).await.expect("put");
        let others = cluster.others(leader);
        others.iter().for_each(|other| cluster.kill(*other));
        cluster
            .until("the survivor knows that nobody leads", async || {
                let status = cluster.status(leader).await.ok()?;
                (status.leader == 0).then_some(())
            })
            .await;
        let status = cluster.status(leader).await.expect("status");
        assert!(
            status.errors.contains(&"etcdserver: no leader".to_owned()),
            "{status:?}"
        );
        let strict = client.clone().with_metadata("hasleader", "true");
        refused(
            strict.range(get("k")).await,
            Status::new(code::UNAVAILABLE, "etcdserver: no leader"),
        );
        let (newest, write, ttl) = tokio::join!(
            client.range(get("k")),
            client.put(put("k", "w")),
            client.lease_time_to_live(api::LeaseTimeToLiveRequest { id: 7, keys: false }),
        );
        refused(
            newest,
            Status::new(code::UNAVAILABLE, "etcdserver: request timed out"),
        );
        for unavailable in [write.map(|_| ()), ttl.map(|_| ())] {
            refused(
                unavailable,
                Status::new(code::UNAVAILABLE, "etcdserver: no leader"),
            );
        }
        let old = api::RangeRequest {
            serializable: true,
            ..get("k")
        };
        assert_eq!(value(&client, old).await.as_deref(), Some("v"));
        let health = kvnode_tests::http::get(cluster.member(leader).address(), "/health");
        let health = health.expect("an answer");
        assert_eq!(health.status, 503);
        assert!(health.body.contains("RAFT NO LEADER"), "{}", health.body);

        others
            .iter()
            .for_each(|other| cluster.member_mut(*other).begin_again());
        others
            .iter()
            .for_each(|other| cluster.member_mut(*other).wait_until_serving());
        put_somehow(cluster, leader, "k", "back").await;
        assert_eq!(value(&client, get("k")).await.as_deref(), Some("back"));
    });
}

#[test]
fn streams_that_ask_for_a_leader_end_when_it_is_lost_and_others_stay() {
    three(async |cluster| {
        let leader = cluster.leader().await;
        let follower = cluster.others(leader)[0];
        let client = cluster.client(follower).await;
        let strict = client.clone().with_metadata("hasleader", "true");
        let lease = client.lease_grant(grant(600)).await.expect("a lease").id;
        let mut strict_watch = strict.watching().await;
        strict_watch.create(watch_key("w")).await;
        let (mut renewals, mut renewed) = strict.keep_alive().await;
        renewals.send(&api::LeaseKeepAliveRequest { id: lease });
        assert_eq!(renewed.next().await.ttl, 600);
        let mut patient_watch = client.watching().await;
        patient_watch.create(watch_key("w")).await;

        let others = cluster.others(follower);
        others.iter().for_each(|other| cluster.kill(*other));
        let lost = Status::new(code::UNAVAILABLE, "etcdserver: no leader");
        refused(strict_watch.answers.next_or_end().await, lost.clone());
        refused(renewed.next_or_end().await, lost);

        others
            .iter()
            .for_each(|other| cluster.member_mut(*other).begin_again());
        others
            .iter()
            .for_each(|other| cluster.member_mut(*other).wait_until_serving());
        put_somehow(cluster, others[0], "w", "seen").await;
        let events = patient_watch.events(1).await;
        assert_eq!(&events[0].kv.as_ref().expect("a pair").value[..], b"seen");
    });
}

#[test]
fn a_watch_on_a_follower_is_complete_over_a_change_of_leader() {
    three(async |cluster| {
        let old = cluster.leader().await;
        let follower = cluster.others(old)[0];
        let client = cluster.client(follower).await;
        let mut watching = client.watching().await;
        watching.create(watch_key("seq")).await;
        let mut written = 0;
        for number in 0..40 {
            if number == 20 {
                cluster.kill(old);
            }
            put_somehow(cluster, follower, "seq", &number.to_string()).await;
            written = number;
        }
        // A put that was answered with an error may still have happened: values may repeat, none may be missing.
        let mut seen: Vec<(i64, i64)> = Vec::new();
        while seen.last().is_none_or(|(_, value)| *value < written) {
            for event in watching.next().await.events {
                let kv = event.kv.expect("a pair");
                let text = String::from_utf8_lossy(&kv.value).into_owned();
                seen.push((kv.mod_revision, text.parse().expect("a number")));
            }
        }
        assert!(
            seen.windows(2).all(|pair| pair[0].0 < pair[1].0),
            "{seen:?}"
        );
        let mut values: Vec<i64> = seen.iter().map(|(_, value)| *value).collect();
        values.dedup();
        assert_eq!(values, (0..=written).collect::<Vec<_>>());
    });
}

#[test]
fn leases_are_kept_through_any_member_and_outlive_their_leader() {
    three(async |cluster| {
        let old = cluster.leader().await;
        let follower = cluster.others(old)[0];
        let client = cluster.client(follower).await;
        let kept = client.lease_grant(grant(4)).await.expect("a lease").id;
        let left = client.lease_grant(grant(4)).await.expect("a lease").id;
        for (key, lease) in [("kept", kept), ("left", left)] {
            let request = api::PutRequest {
                lease,
                ..put(key, "x")
            };
            client.put(request).await.expect("put");
        }
        let ask = |id| api::LeaseTimeToLiveRequest { id, keys: true };
        let told = client.lease_time_to_live(ask(kept)).await.expect("told");
        assert_eq!((told.granted_ttl, told.keys), (4, vec![bytes("kept")]));
        let (mut renewals, mut renewed) = client.keep_alive().await;
        renewals.send(&api::LeaseKeepAliveRequest { id: kept });
        assert_eq!(renewed.next().await.ttl, 4);

        cluster.kill(old);
        let begun = Instant::now();
        // Far longer than the lease: what is renewed through a follower lives, what is not is gone.
        while value(&client, get("left")).await.is_some() {
            assert!(
                begun.elapsed() < Duration::from_secs(40),
                "a lease nobody keeps goes on"
            );
            renewals.send(&api::LeaseKeepAliveRequest { id: kept });
            assert_eq!(renewed.next().await.ttl, 4);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        println!("expired {:?} after kill -9 of the leader", begun.elapsed());
        assert_eq!(value(&client, get("kept")).await.as_deref(), Some("x"));
        let gone = client.lease_time_to_live(ask(left)).await.expect("told");
        assert_eq!((gone.ttl, gone.granted_ttl), (-1, 0));
        let told = client.lease_time_to_live(ask(kept)).await.expect("told");
        assert_eq!(told.granted_ttl, 4);
    });
}

#[test]
fn leadership_moves_where_it_is_told_and_leaves_a_member_that_stops() {
    three(async |cluster| {
        let old = cluster.leader().await;
        let others = cluster.others(old);
        let id = async |number: usize| {
            let status = cluster.status(number).await.expect("status");
            status.header.expect("a header").member_id
        };
        let (first, second) = (id(others[0]).await, id(others[1]).await);
        let to = |target_id| api::MoveLeaderRequest { target_id };
        let follower = cluster.client(others[0]).await;
        refused(
            follower.move_leader(to(second)).await,
            Status::new(code::FAILED_PRECONDITION, "etcdserver: not leader"),
        );
        let leader = cluster.client(old).await;
        refused(leader.move_leader(to(77)).await, refusal::bad_transferee());
        leader
            .move_leader(to(id(old).await))
            .await
            .expect("to itself");
        // A member that gets no time may be found too slow to take over, or an election come in between: asked again, of
        // whoever leads then, until it is there.
        cluster
            .until("leadership has moved", async || {
                let leader = cluster.leader().await;
                if leader == others[0] {
                    return Some(());
                }
                let leader = cluster.client(leader).await;
                let _ = leader.move_leader(to(first)).await;
                None
            })
            .await;
        assert!(cluster.member_mut(others[0]).stop().success());
        let new = cluster.leader().await;
        assert_ne!(new, others[0]);
        assert!(
            cluster
                .member(others[0])
                .output()
                .contains("handing leadership to member"),
        );
    });
}

#[test]
fn a_lone_member_that_nobody_is_connected_to_has_nobody_to_wait_for_when_it_stops() {
    let mut cluster = Cluster::start(1, Options::default());
    for _ in 0..5 {
        run_within(LIMIT, cluster.leader());
        // The clients of the line before are gone with it; the member may still have to notice.
        assert!(cluster.member_mut(0).stop().success());
        let output = cluster.member(0).output();
        assert!(output.contains("stopped"), "{output}");
        assert!(!output.contains("nobody took leadership"), "{output}");
        cluster.restart(0);
    }
}

fn checks(cluster: &Cluster, result: &str) -> u64 {
    let count = |number: usize| {
        let metrics = kvnode_tests::http::get(cluster.member(number).address(), "/metrics");
        let metrics = metrics.expect("an answer").body;
        let name = format!("kvnode_integrity_checks_total{{result=\"{result}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.expect("the family is there")
            .parse::<u64>()
            .expect("a count")
    };
    cluster.running().into_iter().map(count).sum()
}

#[test]
fn states_are_compared_all_the_time_and_a_member_called_corrupt_shows_its_data_to_nobody() {
    let options = Options::default().arg("--corrupt-check-time=500ms");
    let mut cluster = Cluster::start(3, options);
    run_within(LIMIT, async {
        let leader = cluster.leader().await;
        let others = cluster.others(leader);
        let client = cluster.client(leader).await;
        client.put(put("k", "v")).await.expect("put");
        cluster
            .until("a comparison of all three succeeds", async || {
                (checks(&cluster, "verified") > 0).then_some(())
            })
            .await;
        assert_eq!(checks(&cluster, "corrupt"), 0);
        cluster.kill(others[1]);
        let before = checks(&cluster, "unverified");
        cluster
            .until("a comparison says that one was left out", async || {
                (checks(&cluster, "unverified") > before).then_some(())
            })
            .await;

        let status = cluster.status(others[0]).await.expect("status");
        let alarm = api::AlarmRequest {
            action: number::ALARM_ACTIVATE,
            member_id: status.header.expect("a header").member_id,
            alarm: number::CORRUPT,
        };
        client.alarm(alarm).await.expect("raised");
        let fenced = cluster.client(others[0]).await;
        let old = api::RangeRequest {
            serializable: true,
            ..get("k")
        };
        cluster
            .until("the member has heard of it", async || {
                let refusal = fenced.range(old.clone()).await.err()?;
                assert_eq!(refusal, refusal::corrupt());
                Some(())
            })
            .await;
        refused(fenced.range(get("k")).await, refusal::corrupt());
        assert_eq!(value(&client, get("k")).await.as_deref(), Some("v"));
        refused(client.put(put("k", "w")).await, refusal::corrupt());
        let off = api::AlarmRequest {
            action: number::ALARM_DEACTIVATE,
            ..alarm
        };
        client.alarm(off).await.expect("disarmed");
        client.put(put("k", "w")).await.expect("put");
        assert_eq!(value(&fenced, get("k")).await.as_deref(), Some("w"));
    });
}
