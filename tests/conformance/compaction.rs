//! Compaction (cases 77-85).

use kvnode_api as api;
use kvnode_tests::words::number::*;
use kvnode_tests::words::*;
use kvnode_tests::{Client, fresh, fresh_with, idle};

async fn compacted_to(client: &Client, revision: i64) -> api::CompactionResponse {
    client.compact(compact(revision)).await.expect("compact")
}

fn at(revision: i64) -> api::RangeRequest {
    api::RangeRequest { revision, ..all() }
}

/// case 77, 85
#[test]
fn compaction_takes_each_revision_once_and_none_of_the_future() {
    idle(async |_, client| {
        client.write("k", "1").await;
        let target = client.write("k", "2").await;
        let now = client.write("k", "3").await;
        refused(client.compact(compact(now + 3)).await, refusal::future());
        let answer = compacted_to(&client, target).await;
        assert_eq!(
            revision_of(&answer.header),
            now,
            "the store's revision, not the target"
        );
        refused(client.compact(compact(target)).await, refusal::compacted());
        refused(
            client.compact(compact(target - 1)).await,
            refusal::compacted(),
        );
        assert_eq!(client.revision().await, now, "compaction takes no revision");
    });
}

/// case 78
#[test]
fn a_store_never_compacted_says_minus_one_and_can_be_compacted_to_zero_once() {
    fresh(async |_, client| {
        let compact_revision = async || {
            let answer = client
                .hash_kv(api::HashKVRequest { revision: 0 })
                .await
                .expect("hash");
            answer.compact_revision
        };
        client.write("k", "v").await;
        assert_eq!(compact_revision().await, -1);
        refused(client.compact(compact(-1)).await, refusal::compacted());
        compacted_to(&client, 0).await;
        refused(client.compact(compact(0)).await, refusal::compacted());
        refused(client.compact(compact(-1)).await, refusal::compacted());
        assert_eq!(client.range(at(1)).await.expect("still readable").count, 0);
    });
}

/// case 79
#[test]
fn the_compacted_revision_itself_stays_readable() {
    idle(async |_, client| {
        client.write("k", "1").await;
        let target = client.write("k", "2").await;
        client.write("k", "3").await;
        compacted_to(&client, target).await;
        let answer = client.range(at(target)).await.expect("readable");
        assert_eq!(&answer.kvs[0].value[..], b"2");
        refused(client.range(at(target - 1)).await, refusal::compacted());
        let serializable = api::RangeRequest {
            serializable: true,
            ..at(target - 1)
        };
        refused(client.range(serializable).await, refusal::compacted());
    });
}

/// case 80
#[test]
fn a_deletion_at_the_compacted_revision_is_still_told() {
    idle(async |_, client| {
        client.write("k", "v").await;
        let deleted = client.remove("k").await;
        client.write("other", "v").await;
        compacted_to(&client, deleted).await;
        let mut watching = client.watching().await;
        let request = api::WatchCreateRequest {
            start_revision: deleted,
            prev_kv: true,
            ..watch_key("k")
        };
        watching.create(request).await;
        let events = watching.events(1).await;
        assert_eq!(briefly(&events), [format!("DELETE k@{deleted}")]);
        assert_eq!(events[0].prev_kv, None, "what was before is compacted");
    });
}

/// case 81
#[test]
fn a_key_deleted_before_the_compaction_leaves_no_trace() {
    idle(async |_, client| {
        client.write("k", "v").await;
        client.remove("k").await;
        let target = client.write("other", "v").await;
        let later = client.write("k2", "v").await;
        compacted_to(&client, target).await;
        let answer = client.range(at(target)).await.expect("range");
        assert_eq!(keys_of(&answer.kvs), ["other"]);
        let mut watching = client.watching().await;
        let request = api::WatchCreateRequest {
            start_revision: target,
            ..watch_span("\0", "\0")
        };
        watching.create(request).await;
        let events = watching.events(2).await;
        assert_eq!(
            briefly(&events),
            [format!("PUT other@{target}"), format!("PUT k2@{later}")]
        );
    });
}

/// case 82
#[test]
fn physical_compaction_returns_when_the_space_is_free() {
    fresh(async |_, client| {
        let value = vec![b'x'; 16 << 10];
        let mut now = 0;
        for number in 0..400 {
            now = client.write(format!("k{}", number % 4), &value).await;
        }
        let in_use = async || {
            client
                .status(api::StatusRequest {})
                .await
                .expect("status")
                .db_size_in_use
        };
        let before = in_use().await;
        let request = api::CompactionRequest {
            revision: now,
            physical: true,
        };
        client.compact(request).await.expect("compact");
        // What was removed shows with the backend's next commits at the latest.
        let mut after = in_use().await;
        for _ in 0..50 {
            if after < before / 2 {
                break;
            }
            client.write("after", "v").await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            after = in_use().await;
        }
        assert!(
            after < before / 2,
            "6.4 MB of history gone: {before} then {after}"
        );
        let answer = client.range(span("k", "l")).await.expect("range");
        assert_eq!(answer.count, 4);
    });
}

/// case 83
#[test]
fn a_compaction_survives_a_kill() {
    let options = kvnode_tests::Options::default().fsync();
    fresh_with(options, async |server, client| {
        for number in 0..1500 {
            client.write(format!("k{}", number % 10), "v").await;
        }
        let target = client.revision().await - 3;
        compacted_to(&client, target).await;
        server.kill();
        server.restart();
        let client = Client::connect(server.address()).await;
        refused(client.range(at(target - 1)).await, refusal::compacted());
        assert_eq!(client.range(at(target)).await.expect("readable").count, 10);
        assert_eq!(client.revision().await, target + 3);
        refused(client.compact(compact(target)).await, refusal::compacted());
        compacted_to(&client, target + 1).await;
    });
}

/// case 84
#[test]
fn the_revision_does_not_fall_when_everything_was_compacted_away() {
    fresh(async |server, client| {
        client.write("a", "v").await;
        client.write("b", "v").await;
        client
            .delete_range(delete_span("\0", "\0"))
            .await
            .expect("delete");
        let now = client.write("c", "v").await + 1;
        assert_eq!(client.remove("c").await, now);
        compacted_to(&client, now).await;
        for kill in [false, true] {
            if kill {
                server.kill();
            } else {
                server.stop();
            }
            server.restart();
            let client = Client::connect(server.address()).await;
            assert_eq!(client.revision().await, now);
            refused(client.range(at(now - 1)).await, refusal::compacted());
        }
        let client = Client::connect(server.address()).await;
        assert_eq!(client.write("d", "v").await, now + 1);
    });
}

/// case 79: what a compaction keeps, old reads and watches agree on
#[test]
fn history_above_the_compaction_is_whole() {
    idle(async |_, client| {
        let mut expected = Vec::new();
        for number in 0..40 {
            let key = format!("k{}", number % 5);
            if number % 7 == 6 {
                let now = client.remove(&key).await;
                expected.push(format!("DELETE {key}@{now}"));
            } else {
                let now = client.write(&key, format!("{number}")).await;
                expected.push(format!("PUT {key}@{now}"));
            }
        }
        let now = client.revision().await;
        let target = now - 20;
        let mut states = Vec::new();
        for revision in target..=now {
            states.push(client.range(at(revision)).await.expect("range").kvs);
        }
        compacted_to(&client, target).await;
        for (revision, state) in (target..=now).zip(states) {
            assert_eq!(
                client.range(at(revision)).await.expect("range").kvs,
                state,
                "{revision}"
            );
        }
        let mut watching = client.watching().await;
        let request = api::WatchCreateRequest {
            start_revision: target + 1,
            ..watch_span("\0", "\0")
        };
        watching.create(request).await;
        let events = watching.events(20).await;
        assert_eq!(briefly(&events), expected[20..]);
        assert!(events.iter().any(|event| event.r#type == DELETE));
    });
}
