//! Members come, go, move and are replaced while the cluster serves; and who must not come back is told why.

use std::time::{Duration, Instant};

use kvnode_api as api;
use kvnode_tests::pool::run_within;
use kvnode_tests::server::free_port;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Cluster, Options, Server, Status, code};

const LIMIT: Duration = Duration::from_secs(300);
/// What a start refused for safety and a member that was removed end with; units do not restart them.
const SAFETY: i32 = 3;

fn three(body: impl AsyncFnOnce(&mut Cluster)) {
    let mut cluster = Cluster::start(3, Options::default());
    run_within(LIMIT, body(&mut cluster));
}

async fn members(cluster: &Cluster, number: usize) -> Vec<api::Member> {
    let request = api::MemberListRequest { linearizable: true };
    let client = cluster.client(number).await;
    let answer = client.member_list(request).await.expect("member list");
    answer.members
}

/// The member's record, by its peer url.
async fn record(cluster: &Cluster, number: usize, peer_url: &str) -> api::Member {
    let members = members(cluster, number).await;
    let found = members.iter().find(|m| m.peer_urls == [peer_url]);
    found
        .unwrap_or_else(|| panic!("{peer_url} in {members:?}"))
        .clone()
}

/// As the list goes into `--initial-cluster`; who has not started is called `newcomer`.
fn listed(members: &[api::Member], newcomer: &str) -> String {
    let entries = members.iter().map(|member| {
        let name = if member.name.is_empty() {
            newcomer
        } else {
            &member.name
        };
        format!("{name}={}", member.peer_urls[0])
    });
    entries.collect::<Vec<_>>().join(",")
}

/// Changes of voters are refused until connections have stood for some seconds.
async fn until_done<T>(
    cluster: &Cluster,
    what: &str,
    act: impl AsyncFn() -> Result<T, Status>,
) -> T {
    let unhealthy = Status::new(code::UNAVAILABLE, "etcdserver: unhealthy cluster");
    cluster
        .until(what, async || match act().await {
            Ok(answer) => Some(answer),
            Err(status) if status == unhealthy => None,
            Err(status) => panic!("{what}: {status}"),
        })
        .await
}

async fn remove(cluster: &Cluster, number: usize, id: u64) -> Vec<api::Member> {
    let client = cluster.client(number).await;
    let request = api::MemberRemoveRequest { id };
    let answer = until_done(cluster, "it is removed", async || {
        client.member_remove(request).await
    });
    answer.await.members
}

async fn add(cluster: &Cluster, number: usize, url: &str, is_learner: bool) -> Vec<api::Member> {
    let client = cluster.client(number).await;
    let request = api::MemberAddRequest {
        peer_urls: vec![url.to_owned()],
        is_learner,
    };
    let answer = until_done(cluster, "it is added", async || {
        client.member_add(request.clone()).await
    });
    answer.await.members
}

async fn value(client: &Client, key: &str) -> String {
    let answer = client.range(get(key)).await.expect("a read");
    String::from_utf8_lossy(&answer.kvs[0].value).into_owned()
}

/// Waits until the process has ended by itself, as one that must not be restarted and says why.
fn ends_as_removed(server: &mut Server) {
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = server.ended() {
            break status;
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "it goes on");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(SAFETY));
    assert!(server.output().contains("has been permanently removed"));
}

#[track_caller]
fn refuses_to_start(server: &mut Server, why: &str) {
    let failure = server.try_restart().expect_err(why);
    let status = failure.status.expect("it ends by itself");
    assert_eq!(status.code(), Some(SAFETY), "{}", failure.output);
    assert!(failure.output.contains(why), "{}", failure.output);
}

#[test]
fn a_learner_joins_is_promoted_and_takes_the_place_of_the_leader() {
    three(async |cluster| {
        cluster.client(0).await.write("k", "before").await;
        let port = free_port();
        let url = format!("http://127.0.0.1:{port}");
        let all = add(cluster, 1, &url, true).await;
        let learner = record(cluster, 2, &url).await;
        assert!(learner.is_learner && learner.name.is_empty());
        let options = Options::default()
            .member("late", port, listed(&all, "late"))
            .arg("--initial-cluster-state=existing");
        let late = cluster.push(Server::start(options));
        let client = cluster.client(late).await;

        // It has the state and no say.
        let not_served = Status::new(
            code::FAILED_PRECONDITION,
            "etcdserver: rpc not supported for learner",
        );
        refused(client.range(get("k")).await, not_served.clone());
        refused(client.put(put("k", "x")).await, not_served.clone());
        let list = api::MemberListRequest::default();
        refused(client.member_list(list).await, not_served);
        let serializable = api::RangeRequest {
            serializable: true,
            ..get("k")
        };
        let seen = client.range(serializable).await.expect("a look");
        assert_eq!(&seen.kvs[0].value[..], b"before");
        let status = client.status(api::StatusRequest {}).await.expect("status");
        assert!(status.is_learner);

        // Any member takes the request; the leader knows how far the learner is.
        let promoter = cluster.client(0).await;
        let request = api::MemberPromoteRequest { id: learner.id };
        let behind = "can only promote a learner member which is in sync with leader";
        cluster
            .until("it is promoted", async || {
                match promoter.member_promote(request).await {
                    Ok(answer) => Some(answer),
                    Err(status) if status.message.contains(behind) => None,
                    Err(status) if status.message.contains("unhealthy") => None,
                    Err(status) => panic!("{status}"),
                }
            })
            .await;
        cluster
            .until("it knows", async || {
                let status = client.status(api::StatusRequest {}).await.ok()?;
                (!status.is_learner).then_some(())
            })
            .await;
        let promoted = record(cluster, late, &url).await;
        assert_eq!(
            (promoted.name.as_str(), promoted.is_learner),
            ("late", false)
        );
        client.write("k", "by the newcomer").await;

        // The leader itself is asked for its own removal: it hands over, answers, and ends.
        let leader = cluster.leader().await;
        let own = record(cluster, leader, &cluster.member(leader).peer_url()).await;
        let left = remove(cluster, leader, own.id).await;
        assert_eq!(left.len(), 3);
        ends_as_removed(cluster.member_mut(leader));
        cluster.leader().await;
        let other = cluster.running()[0];
        let client = cluster.client(other).await;
        assert_eq!(value(&client, "k").await, "by the newcomer");
        client.write("k", "without it").await;
        refuses_to_start(cluster.member_mut(leader), "has been permanently removed");
    });
}

#[test]
fn who_was_removed_while_away_is_told_and_is_replaced_under_the_same_address() {
    three(async |cluster| {
        cluster.client(0).await.write("k", "kept").await;
        let leader = cluster.leader().await;
        let gone = cluster.others(leader)[0];
        let url = cluster.member(gone).peer_url();
        let old = record(cluster, leader, &url).await;
        cluster.kill(gone);
        let left = remove(cluster, leader, old.id).await;
        assert_eq!(left.len(), 2);
        // Its own data does not know yet.
        cluster.member_mut(gone).begin_again();
        ends_as_removed(cluster.member_mut(gone));

        let all = add(cluster, leader, &url, false).await;
        let new = all.iter().find(|m| m.name.is_empty()).expect("the new one");
        assert_ne!(new.id, old.id, "an id never comes back");
        let port = url.rsplit(':').next().and_then(|port| port.parse().ok());
        let options = Options::default()
            .member("again", port.expect("a port"), listed(&all, "again"))
            .arg("--initial-cluster-state=existing");
        let again = cluster.push(Server::start(options));
        let client = cluster.client(again).await;
        assert_eq!(value(&client, "k").await, "kept");
        assert_eq!(record(cluster, again, &url).await.name, "again");
        // It counts: the cluster goes on without the leader.
        cluster.kill(leader);
        cluster.leader().await;
        client.write("k", "by two of three").await;
    });
}

#[test]
fn a_member_without_its_data_and_one_of_another_cluster_are_refused() {
    three(async |cluster| {
        let leader = cluster.leader().await;
        let wiped = cluster.others(leader)[0];
        cluster.kill(wiped);
        let data = cluster.member(wiped).data_dir().to_owned();
        std::fs::remove_dir_all(&data).expect("its own directory");
        let server = cluster.member_mut(wiped);
        refuses_to_start(server, "has already been bootstrapped");
        assert!(server.output().contains("etcdctl member remove"));

        let options = server.options().clone();
        server.set_options(options.clone().arg("--initial-cluster-state=existing"));
        refuses_to_start(server, "has already been bootstrapped");
        server.set_options(options.arg("--initial-cluster-token=another"));
        refuses_to_start(server, "--initial-cluster-token");
        assert!(!data.join("IDENTITY").exists(), "nothing was founded");
        cluster.client(leader).await.write("k", "undisturbed").await;
    });
}

#[test]
fn a_member_moves_to_another_peer_url() {
    three(async |cluster| {
        let leader = cluster.leader().await;
        let mover = cluster.others(leader)[0];
        let old = cluster.member(mover).peer_url();
        let id = record(cluster, leader, &old).await.id;
        let port = free_port();
        let new = format!("http://127.0.0.1:{port}");
        let update = api::MemberUpdateRequest {
            id,
            peer_urls: vec![new.clone()],
        };
        let client = cluster.client(leader).await;
        client.member_update(update).await.expect("told");
        cluster.member_mut(mover).stop();
        client.write("k", "while it was away").await;
        // What founded the cluster is of no account any more: only where it listens has changed.
        cluster.member_mut(mover).move_peer_port(port);
        cluster.restart(mover);
        let moved = cluster.client(mover).await;
        assert_eq!(value(&moved, "k").await, "while it was away");
        let record = record(cluster, mover, &new).await;
        assert_eq!(record.id, id, "it stays who it is");
        assert_eq!(members(cluster, leader).await.len(), 3);
    });
}

#[test]
fn the_last_member_goes_on_alone_when_told_to_with_the_clusters_id() {
    three(async |cluster| {
        cluster.client(0).await.write("k", "kept").await;
        let last = cluster.leader().await;
        let url = cluster.member(last).peer_url();
        let id = record(cluster, last, &url).await.id;
        let status = cluster.status(last).await.expect("status");
        let cluster_id = status.header.expect("a header").cluster_id;
        let others = cluster.others(last);
        cluster.kill(others[0]);
        cluster.kill(last);

        let options = cluster.member(last).options().clone();
        let forced = |value: &str| options.clone().arg(format!("--force-new-cluster{value}"));
        let server = cluster.member_mut(last);
        server.set_options(forced(""));
        let failure = server.try_restart().expect_err("not without the id");
        assert_eq!(failure.status.and_then(|status| status.code()), Some(2));
        let confirmation = format!("--force-new-cluster={cluster_id:x}");
        assert!(failure.output.contains(&confirmation), "{}", failure.output);
        server.set_options(forced("=abc"));
        refuses_to_start(server, "belongs to cluster");
        server.set_options(forced(&format!("={cluster_id:x}")));
        refuses_to_start(server, "would drop a member that answers");
        cluster.kill(others[1]);

        cluster.restart(last);
        let client = cluster.client(last).await;
        assert_eq!(value(&client, "k").await, "kept");
        client.write("k", "alone").await;
        let left = members(cluster, last).await;
        assert_eq!(left.iter().map(|m| m.id).collect::<Vec<_>>(), [id]);
        assert!(
            cluster
                .member(last)
                .output()
                .contains("FORCING A NEW CLUSTER")
        );
        // The flag left in place does nothing further; without it neither.
        cluster.member_mut(last).stop();
        cluster.restart(last);
        cluster.member_mut(last).stop();
        cluster.member_mut(last).set_options(options);
        cluster.restart(last);
        let client = cluster.client(last).await;
        assert_eq!(value(&client, "k").await, "alone");
        // The others are members no more.
        cluster.member_mut(others[0]).begin_again();
        ends_as_removed(cluster.member_mut(others[0]));
    });
}
