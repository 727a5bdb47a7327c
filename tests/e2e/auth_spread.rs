//! Rights over several members, one of which hears of them late (conformance cases 156 and 158).

use std::time::Duration;

use kvnode_api as api;
use kvnode_api::permission::Type;
use kvnode_tests::pool::run_within;
use kvnode_tests::proxy::{Network, Way};
use kvnode_tests::words::*;
use kvnode_tests::{Client, Cluster, Options, Status, http};

const LIMIT: Duration = Duration::from_secs(180);

/// Cheap password hashes, and time to hold things up before anybody stands for election.
fn options() -> Options {
    Options::default()
        .arg("--bcrypt-cost=4")
        .arg("--election-timeout=3000")
}

/// Three members (their ids, and who leads) and the network between them, auth on, and a user `alice` who may read and write `a`..`b`.
fn with_alice(body: impl AsyncFnOnce(&Network, &Cluster, [u64; 3], usize)) {
    let network = Network::default();
    let cluster = Cluster::start_through(&network, 3, options());
    run_within(LIMIT, async {
        let leader = cluster.leader().await;
        let client = cluster.client(leader).await;
        for name in ["root", "alice"] {
            let user = api::AuthUserAddRequest {
                name: name.into(),
                password: name.into(),
                ..Default::default()
            };
            client.user_add(user).await.expect("a user");
            if name != "root" {
                let role = api::AuthRoleAddRequest { name: name.into() };
                client.role_add(role).await.expect("a role");
            }
            let grant = api::AuthUserGrantRoleRequest {
                user: name.into(),
                role: name.into(),
            };
            client.user_grant_role(grant).await.expect("has the role");
        }
        let grant = api::AuthRoleGrantPermissionRequest {
            name: "alice".into(),
            perm: Some(api::Permission {
                perm_type: Type::Readwrite as i32,
                key: bytes("a"),
                range_end: bytes("b"),
            }),
        };
        client.role_grant_permission(grant).await.expect("may");
        client.write("a1", "before").await;
        let mut ids = [0; 3];
        for (number, id) in ids.iter_mut().enumerate() {
            let status = cluster.status(number).await.expect("status");
            *id = status.header.expect("a header").member_id;
        }
        let on = api::AuthEnableRequest {};
        client.auth_enable(on).await.expect("auth is on");
        body(&network, &cluster, ids, leader).await;
    });
}

async fn login(client: &Client, name: &str) -> String {
    let request = api::AuthenticateRequest {
        name: name.into(),
        password: name.into(),
    };
    client.authenticate(request).await.expect("a token").token
}

/// case 156
#[test]
fn a_token_that_a_member_has_not_heard_of_yet_is_waited_for_and_not_refused() {
    with_alice(async |network, cluster, ids, leader| {
        let lagging = cluster.others(leader)[0];
        for other in cluster.others(lagging) {
            network.set_both(ids[lagging], ids[other], Way::Hold);
        }
        let token = login(&cluster.client(leader).await, "alice").await;
        let client = cluster.client(lagging).await.with_metadata("token", token);
        let old = api::RangeRequest {
            serializable: true,
            ..get("a1")
        };
        let mut asking = std::pin::pin!(client.range(old));
        let early = tokio::time::timeout(Duration::from_millis(300), &mut asking).await;
        assert!(early.is_err(), "answered without knowing: {early:?}");
        network.heal();
        let answer = asking.await.expect("it is a good token");
        assert_eq!(&answer.kvs[0].value[..], b"before");
    });
}

fn pending(cluster: &Cluster, number: usize) -> i64 {
    let metrics = http::get(cluster.member(number).address(), "/metrics");
    let metrics = metrics.expect("an answer").body;
    let name = "etcd_server_proposals_pending ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.expect("it is there").parse().expect("a number")
}

/// case 158
#[test]
fn a_right_taken_away_before_a_write_is_applied_stops_it_on_every_member() {
    with_alice(async |network, cluster, ids, leader| {
        let client = cluster.client(leader).await;
        let token = login(&client, "root").await;
        let root = cluster.client(leader).await.with_metadata("token", token);
        let token = login(&client, "alice").await;
        let alice = cluster.client(leader).await.with_metadata("token", token);
        alice.write("a1", "may still").await;

        // Nothing is committed while nobody answers the leader; what is asked for is kept in order.
        for other in cluster.others(leader) {
            network.set(ids[other], ids[leader], Way::Hold);
        }
        let waits = async |count: i64| {
            cluster
                .until("it is on its way", async || {
                    (pending(cluster, leader) >= count).then_some(())
                })
                .await;
        };
        let revoke = api::AuthRoleRevokePermissionRequest {
            role: "alice".into(),
            key: bytes("a"),
            range_end: bytes("b"),
        };
        let (revoked, written, ()) = tokio::join!(
            root.role_revoke_permission(revoke),
            async {
                waits(1).await;
                alice.put(put("a1", "too late")).await
            },
            async {
                waits(2).await;
                network.heal();
            }
        );
        revoked.expect("revoked");
        refused(
            written,
            Status::new(3, "etcdserver: revision of auth store is old"),
        );
        let last = root.write("other", "x").await;
        let mut hashes = Vec::new();
        for number in 0..cluster.count() {
            let token = login(&client, "root").await;
            let root = cluster.client(number).await.with_metadata("token", token);
            let kv = root.read("a1").await.expect("it is there");
            assert_eq!(&kv.value[..], b"may still");
            let request = api::HashKVRequest { revision: last };
            let hash = cluster
                .until("it has applied all", async || {
                    root.hash_kv(request).await.ok()
                })
                .await;
            hashes.push((hash.hash, hash.compact_revision));
        }
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    });
}
