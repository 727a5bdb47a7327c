//! Status, hashes, snapshot, leadership, downgrade and the health service (cases 176-179 and the like).

use kvnode_api as api;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Status, code, fresh, http, idle};

async fn hash(client: &Client, revision: i64) -> api::HashKVResponse {
    client
        .hash_kv(api::HashKVRequest { revision })
        .await
        .expect("hash")
}

/// case 176
#[test]
fn leadership_moves_to_itself_and_to_nobody_unknown() {
    idle(async |_, client| {
        let status = client.status(api::StatusRequest {}).await.expect("status");
        let id = status.header.expect("header").member_id;
        assert_eq!(status.leader, id);
        client
            .move_leader(api::MoveLeaderRequest { target_id: id })
            .await
            .expect("to itself");
        for target_id in [id ^ 1, 0] {
            let request = api::MoveLeaderRequest { target_id };
            refused(client.move_leader(request).await, refusal::bad_transferee());
        }
        client.write("k", "still leading").await;
    });
}

/// case 177
#[test]
fn an_empty_store_hashes_to_the_known_value() {
    fresh(async |server, client| {
        let answer = hash(&client, 0).await;
        assert_eq!((answer.hash, answer.compact_revision), (1_084_519_789, -1));
        assert_eq!(revision_of(&answer.header), 1);
        if server.kind().from_3(6) {
            assert_eq!(answer.hash_revision, 1);
        }
    });
}

/// case 177
#[test]
fn the_hash_follows_the_data_and_not_the_moment() {
    idle(async |_, client| {
        let first = client.write("a", "1").await;
        let at_first = hash(&client, first).await;
        client.write("b", "2").await;
        let at_second = hash(&client, 0).await;
        assert_ne!(at_first.hash, at_second.hash);
        assert_eq!(
            hash(&client, first).await.hash,
            at_first.hash,
            "the past does not change"
        );
        assert_eq!(hash(&client, first + 1).await.hash, at_second.hash);
        client.write("c", "3").await;
        assert_eq!(hash(&client, first + 1).await.hash, at_second.hash);
        let future = api::HashKVRequest {
            revision: first + 9,
        };
        refused(client.hash_kv(future).await, refusal::future());
    });
}

/// case 177: two stores with the same history have the same hash
#[test]
fn equal_histories_hash_equally() {
    let history = async |client: &Client| {
        for number in 0..30 {
            client
                .write(format!("k{}", number % 7), format!("{number}"))
                .await;
        }
        client.remove("k3").await;
        client
            .delete_range(delete_span("k5", "k7"))
            .await
            .expect("delete");
        let now = client.revision().await;
        client.compact(compact(now - 4)).await.expect("compact");
        hash(client, now).await
    };
    let mut found = Vec::new();
    for _ in 0..2 {
        fresh(async |_, client| {
            let answer = history(&client).await;
            found.push((answer.hash, answer.compact_revision));
        });
    }
    assert_eq!(found[0], found[1]);
}

/// case 178 (and reads of hashes below the compaction)
#[test]
fn hashes_below_a_compaction_are_refused() {
    idle(async |_, client| {
        client.write("a", "1").await;
        let target = client.write("a", "2").await;
        client.write("a", "3").await;
        let request = api::CompactionRequest {
            revision: target,
            physical: true,
        };
        client.compact(request).await.expect("compact");
        let below = api::HashKVRequest {
            revision: target - 1,
        };
        refused(client.hash_kv(below).await, refusal::compacted());
        let now = hash(&client, 0).await;
        assert_eq!(now.compact_revision, target);
        hash(&client, target).await;
    });
}

/// Hash: opaque, but the call is there
#[test]
fn the_backend_hash_answers() {
    idle(async |_, client| {
        let now = client.write("a", "1").await;
        let answer = client.hash(api::HashRequest {}).await.expect("hash");
        assert_eq!(revision_of(&answer.header), now);
    });
}

/// case 179
#[test]
fn a_snapshot_ends_with_the_digest_of_all_before() {
    idle(async |server, client| {
        for number in 0..50 {
            client.write(format!("k{number}"), vec![b'x'; 4000]).await;
        }
        let mut stream = client.snapshot().await.expect("opens");
        let parts = stream.collect().await.expect("ends well");
        let (last, earlier) = parts.split_last().expect("not empty");
        let total: usize = parts.iter().map(|part| part.blob.len()).sum();
        assert_eq!((last.blob.len(), last.remaining_bytes), (32, 0));
        assert_eq!(total % 512, 32);
        assert!(parts.iter().all(|part| part.header.is_none()));
        let mut left = (total - 32) as u64;
        for part in earlier {
            assert!(
                part.blob.len() <= 32 << 10,
                "{} bytes in one message",
                part.blob.len()
            );
            left -= part.blob.len() as u64;
            assert_eq!(part.remaining_bytes, left);
        }
        assert_eq!(left, 0);
        if server.kind().from_3(6) {
            assert!(!earlier[0].version.is_empty());
        }
        let directory = server.home().join("snapshot");
        let body: Vec<u8> = earlier
            .iter()
            .flat_map(|part| part.blob.iter().copied())
            .collect();
        std::fs::write(&directory, body).expect("scratch");
        let output = std::process::Command::new("sha256sum")
            .arg(&directory)
            .output();
        let output = output.expect("coreutils are there");
        let text = String::from_utf8(output.stdout).expect("hex");
        let hex: String = last.blob.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text.split(' ').next(), Some(hex.as_str()));
    });
}

/// Status: what Patroni, Kubernetes and dashboards read
#[test]
fn status_tells_version_sizes_leader_and_indexes() {
    idle(async |server, client| {
        client.write("k", "v").await;
        let before = client.status(api::StatusRequest {}).await.expect("status");
        let parts: Vec<u32> = before
            .version
            .split('.')
            .map(|part| part.parse().expect("a number"))
            .collect();
        assert_eq!(parts.len(), 3, "{}", before.version);
        assert!(
            parts >= vec![3, 5, 0],
            "Kubernetes wants 3.5.13 at least: {}",
            before.version
        );
        let header = before.header.expect("header");
        assert_eq!(
            (before.leader, before.raft_term),
            (header.member_id, header.raft_term)
        );
        assert!(before.db_size > 0 && before.db_size_in_use > 0);
        assert!(before.db_size_in_use <= before.db_size, "{before:?}");
        assert!(!before.is_learner && before.errors.is_empty());
        client.write("k", "w").await;
        let after = client.status(api::StatusRequest {}).await.expect("status");
        assert_eq!(after.raft_applied_index, before.raft_applied_index + 1);
        assert!(after.raft_index >= after.raft_applied_index);
        if server.kind().from_3(6) {
            assert!(after.db_size_quota > 0);
            assert!(after.downgrade_info.is_some());
            let parts = after.storage_version.split('.').count();
            assert_eq!(parts, 3, "{}", after.storage_version);
        }
    });
}

/// The cluster version shared by the calls below.
fn cluster_version(answer: &http::Answer) -> (u32, u32) {
    let json: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    let text = json["etcdcluster"].as_str().expect("there").to_owned();
    let mut parts = text
        .split('.')
        .map(|part| part.parse::<u32>().expect("numeric"));
    (parts.next().expect("major"), parts.next().expect("minor"))
}

/// Downgrade: validation of the target
#[test]
fn downgrade_goes_one_minor_down_or_not_at_all() {
    idle(async |server, client| {
        let (major, minor) =
            cluster_version(&http::get(server.address(), "/version").expect("answers"));
        let validate = |version: String| {
            let action = api::downgrade_request::DowngradeAction::Validate as i32;
            client.downgrade(api::DowngradeRequest { action, version })
        };
        for bad in ["", "x", "3", "3.x.0"] {
            refused(validate(bad.to_owned()).await, refusal::downgrade_format());
        }
        for wrong in [minor, minor + 1, minor - 2] {
            let result = validate(format!("{major}.{wrong}.0")).await;
            refused(result, refusal::downgrade_target());
        }
        let answer = validate(format!("{major}.{}.0", minor - 1))
            .await
            .expect("valid");
        assert!(
            answer.version.starts_with(&format!("{major}.{minor}")),
            "{answer:?}"
        );
        assert!(answer.header.is_some());
    });
}

/// Downgrade CANCEL without one running: fine from 3.6 on
#[test]
fn cancelling_no_downgrade_is_fine() {
    idle(async |server, client| {
        let action = api::downgrade_request::DowngradeAction::Cancel as i32;
        let request = api::DowngradeRequest {
            action,
            version: String::new(),
        };
        let result = client.downgrade(request).await;
        if server.kind().from_3(6) {
            result.expect("nothing to cancel");
        } else {
            let text = "etcdserver: no inflight downgrade job";
            refused(result, Status::new(code::FAILED_PRECONDITION, text));
        }
    });
}

/// Downgrade with an action nobody knows
#[test]
fn an_unknown_downgrade_action_is_an_error() {
    idle(async |_, client| {
        let request = api::DowngradeRequest {
            action: 7,
            version: "3.5.0".to_owned(),
        };
        let status = client.downgrade(request).await.expect_err("unknown action");
        assert_eq!(
            status,
            Status::new(code::UNKNOWN, "etcdserver: unknown method")
        );
    });
}

/// The gRPC health service knows the server as a whole, and no other name
#[test]
fn the_health_service_serves_the_empty_name() {
    idle(async |_, client| {
        let ask = |service: &str| {
            client.health_check(api::HealthCheckRequest {
                service: service.to_owned(),
            })
        };
        let serving = api::health_check_response::ServingStatus::Serving as i32;
        assert_eq!(ask("").await.expect("known").status, serving);
        refused(
            ask("else").await,
            Status::new(code::NOT_FOUND, "unknown service"),
        );
    });
}

/// Health.Watch tells the state at once
#[test]
fn the_health_watch_begins_with_the_state() {
    idle(async |_, client| {
        let request = api::HealthCheckRequest::default();
        let mut stream = client
            .server_stream::<_, api::HealthCheckResponse>("/grpc.health.v1.Health/Watch", &request)
            .await
            .expect("opens");
        let serving = api::health_check_response::ServingStatus::Serving as i32;
        assert_eq!(stream.next().await.status, serving);
    });
}

/// Defragment: the data is the same before and after
#[test]
fn defragment_changes_nothing_a_client_can_see() {
    idle(async |_, client| {
        let lease = client.lease(100).await;
        for number in 0..200 {
            client
                .write_leased(format!("k{number:03}"), vec![b'x'; 2000], lease)
                .await;
        }
        let now = client.revision().await;
        client
            .delete_range(delete_span("k050", "k150"))
            .await
            .expect("delete");
        let before = client.range(all()).await.expect("range");
        let hashed = hash(&client, 0).await;
        client
            .defragment(api::DefragmentRequest {})
            .await
            .expect("defragment");
        assert_eq!(client.range(all()).await.expect("range"), before);
        let old = api::RangeRequest {
            revision: now,
            count_only: true,
            ..all()
        };
        assert_eq!(client.range(old).await.expect("range").count, 200);
        assert_eq!(hash(&client, 0).await.hash, hashed.hash);
        assert_eq!(client.lease_keys(lease).await.len(), 100);
        client.write("after", "v").await;
    });
}
