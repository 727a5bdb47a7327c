//! Watch under volume: long replays, fragments, slow readers, lagging watchers (cases 97, 108-111).

use std::time::Duration;

use kvnode_api as api;
use kvnode_tests::client::settings;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Options, Server, fresh_with, idle};

fn from(start_revision: i64) -> api::WatchCreateRequest {
    api::WatchCreateRequest {
        start_revision,
        ..watch_span("\0", "\0")
    }
}

/// Puts many keys quickly: several calls in flight on one connection.
async fn fill(client: &Client, count: usize, value: &[u8]) -> i64 {
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..count {
        let (client, value) = (client.clone(), value.to_vec());
        calls.spawn(async move { client.write(format!("k{number:05}"), value).await });
        if calls.len() >= 64 {
            calls
                .join_next()
                .await
                .expect("not empty")
                .expect("no panic");
        }
    }
    let mut last = 0;
    while let Some(result) = calls.join_next().await {
        last = last.max(result.expect("no panic"));
    }
    last
}

/// A connection whose windows are small, so that what is not read stays with the server.
async fn narrow(server: &Server) -> Client {
    let mut narrow = settings(16 << 10, 64 << 10);
    Client::connect_with(server.address(), &mut narrow)
        .await
        .expect("connects")
}

/// case 97
#[test]
fn a_long_replay_comes_in_order_and_no_revision_is_split() {
    idle(async |_, client| {
        let first = client.revision().await + 1;
        fill(&client, 1250, b"v").await;
        for number in 0..1250 {
            let ops = vec![
                put(format!("t{number}"), "v").op(),
                put(format!("u{number}"), "v").op(),
            ];
            client.txn(then(ops)).await.expect("txn");
        }
        let now = client.revision().await;
        assert_eq!(now, first + 2499);
        let mut watching = client.watching().await;
        watching.create(from(first)).await;
        let (mut responses, mut next) = (0, first);
        while next <= now {
            let answer = watching.next().await;
            assert_eq!(revision_of(&answer.header), now);
            responses += 1;
            let revisions: Vec<i64> = answer
                .events
                .iter()
                .map(|event| event.kv.clone().expect("kv").mod_revision)
                .collect();
            let mut expected = Vec::new();
            while expected.len() < revisions.len() {
                let changes = if next < first + 1250 { 1 } else { 2 };
                expected.extend(std::iter::repeat_n(next, changes));
                next += 1;
            }
            assert_eq!(
                revisions, expected,
                "in order, whole revisions, none missing"
            );
        }
        assert!(
            responses >= 3,
            "at most 1000 revisions in a response: {responses}"
        );
    });
}

/// case 108
#[test]
fn a_large_replay_is_fragmented_when_asked() {
    idle(async |_, client| {
        let first = client.revision().await + 1;
        for number in 0..5 {
            client
                .write(format!("k{number}"), vec![b'x'; 900_000])
                .await;
        }
        let mut watching = client.watching().await;
        watching
            .create(api::WatchCreateRequest {
                fragment: true,
                ..from(first)
            })
            .await;
        let mut pieces = Vec::new();
        for _ in 0..3 {
            let answer = watching.next().await;
            pieces.push((answer.fragment, answer.events.len()));
        }
        assert_eq!(pieces, [(true, 2), (true, 2), (false, 1)]);
        let mut whole = client.watching().await;
        whole.create(from(first)).await;
        let answer = whole.next().await;
        assert_eq!((answer.fragment, answer.events.len()), (false, 5));
    });
}

/// case 109
#[test]
fn a_single_large_event_is_sent_whole() {
    idle(async |_, client| {
        client.write("k", vec![b'a'; 1_400_000]).await;
        let mut watching = client.watching().await;
        let request = api::WatchCreateRequest {
            fragment: true,
            prev_kv: true,
            ..watch_key("k")
        };
        watching.create(request).await;
        client.write("k", vec![b'b'; 1_400_000]).await;
        let answer = watching.next().await;
        assert!(!answer.fragment);
        let event = &answer.events[0];
        assert_eq!(event.kv.as_ref().expect("kv").value.len(), 1_400_000);
        assert_eq!(event.prev_kv.as_ref().expect("prev").value[0], b'a');
    });
}

/// case 110
#[test]
fn a_slow_reader_gets_every_event_once_and_in_order() {
    idle(async |server, client| {
        let slow = narrow(server).await;
        let mut watching = slow.watching().await;
        let first = revision_of(&watching.create(watch_span("k", "l")).await.header) + 1;
        fill(
            &client,
            10_000,
            b"some value of a moderate size, so that windows fill",
        )
        .await;
        let mut next = first;
        while next < first + 10_000 {
            let answer = watching.next().await;
            assert!(!answer.canceled, "{answer:?}");
            for event in answer.events {
                assert_eq!(event.kv.expect("kv").mod_revision, next);
                next += 1;
            }
            if next % 7 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        watching.answers.quiet(Duration::from_millis(200)).await;
    });
}

/// case 111
#[test]
fn a_watcher_left_behind_by_a_compaction_is_told_so() {
    fresh_with(Options::default(), async |server, client| {
        let slow = narrow(server).await;
        let mut watching = slow.watching().await;
        let first = revision_of(&watching.create(watch_span("k", "l")).await.header) + 1;
        // 40 MB: more than any queue in front of a reader who takes nothing may hold.
        let now = fill(&client, 2000, &vec![b'x'; 20_000]).await;
        client.compact(compact(now)).await.expect("compact");
        let mut next = first;
        let cancelled = loop {
            let answer = watching.next().await;
            if answer.canceled {
                break answer;
            }
            for event in answer.events {
                assert_eq!(
                    event.kv.expect("kv").mod_revision,
                    next,
                    "no gap before the end"
                );
                next += 1;
            }
            assert!(
                next <= now,
                "all 40 MB were kept for a reader who took nothing"
            );
        };
        assert_eq!((cancelled.compact_revision, cancelled.watch_id), (now, 0));
    });
}
