//! Watch: creation, ids, cancelling, events, progress (cases 86-107, 112, 113, 115).

use std::time::Duration;

use kvnode_api as api;
use kvnode_tests::words::number::*;
use kvnode_tests::words::*;
use kvnode_tests::{Options, fresh_with, idle};

/// Long enough for anything that should not come to have come.
const QUIET: Duration = Duration::from_millis(250);

fn everything_from(start_revision: i64) -> api::WatchCreateRequest {
    api::WatchCreateRequest {
        start_revision,
        ..watch_span("\0", "\0")
    }
}

/// case 86
#[test]
fn created_comes_first_and_tells_the_current_revision() {
    idle(async |_, client| {
        let now = client.write("k", "old").await;
        let mut watching = client.watching().await;
        let created = watching.create(watch_key("k")).await;
        assert_eq!((created.watch_id, created.canceled), (0, false));
        assert_eq!(revision_of(&created.header), now);
        assert!(created.events.is_empty() && created.cancel_reason.is_empty());
        let next = client.write("k", "new").await;
        let answer = watching.next().await;
        assert_eq!(briefly(&answer.events), [format!("PUT k@{next}")]);
        assert_eq!((answer.watch_id, revision_of(&answer.header)), (0, next));
        let header = answer.header.expect("header");
        assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term > 0);
    });
}

/// case 87
#[test]
fn watch_ids_are_counted_around_the_given_ones() {
    idle(async |_, client| {
        let mut watching = client.watching().await;
        for (asked, given) in [(0, 0), (0, 1), (7, 7), (2, 2), (0, 3), (-4, -4), (0, 4)] {
            let request = api::WatchCreateRequest {
                watch_id: asked,
                ..watch_key("k")
            };
            assert_eq!(
                watching.create(request).await.watch_id,
                given,
                "asked for {asked}"
            );
        }
    });
}

/// case 88
#[test]
fn a_watch_id_in_use_is_refused_and_the_stream_lives_on() {
    idle(async |_, client| {
        let mut watching = client.watching().await;
        let request = api::WatchCreateRequest {
            watch_id: 5,
            ..watch_key("k")
        };
        watching.create(request.clone()).await;
        let answer = watching.create(request).await;
        assert_eq!((answer.watch_id, answer.canceled), (-1, true));
        assert_eq!(
            answer.cancel_reason,
            "mvcc: duplicate watch ID provided on the WatchStream"
        );
        let now = client.write("k", "v").await;
        assert_eq!(briefly(&watching.events(1).await), [format!("PUT k@{now}")]);
    });
}

/// case 89
#[test]
fn a_cancelled_id_is_free_again_but_not_for_the_counter() {
    idle(async |_, client| {
        let mut watching = client.watching().await;
        watching.create(watch_key("k")).await;
        let seven = api::WatchCreateRequest {
            watch_id: 7,
            ..watch_key("k")
        };
        watching.create(seven.clone()).await;
        for id in [7, 0] {
            watching.cancel(id);
            let answer = watching.next().await;
            assert_eq!(
                (answer.watch_id, answer.canceled, answer.created),
                (id, true, false)
            );
            assert_eq!(
                (answer.cancel_reason.as_str(), answer.compact_revision),
                ("", 0)
            );
        }
        assert_eq!(watching.create(seven).await.watch_id, 7);
        assert_eq!(
            watching.create(watch_key("k")).await.watch_id,
            1,
            "0 is not given again"
        );
    });
}

/// case 89: nothing comes for a watcher after its cancelled answer
#[test]
fn a_cancelled_watcher_is_silent() {
    idle(async |_, client| {
        let mut watching = client.watching().await;
        watching.create(watch_key("k")).await;
        watching.cancel(0);
        assert!(watching.next().await.canceled);
        client.write("k", "v").await;
        watching.answers.quiet(QUIET).await;
    });
}

/// case 90
#[test]
fn cancelling_an_unknown_id_is_not_answered() {
    idle(async |_, client| {
        let mut watching = client.watching().await;
        watching.cancel(99);
        watching.answers.quiet(QUIET).await;
        watching.create(watch_key("k")).await;
        watching.cancel(99);
        watching.answers.quiet(QUIET).await;
        client.write("k", "v").await;
        watching.events(1).await;
    });
}

/// case 91
#[test]
fn an_empty_interval_is_refused() {
    idle(async |_, client| {
        let now = client.write("k", "v").await;
        let mut watching = client.watching().await;
        for end in ["k", "a"] {
            let answer = watching.create(watch_span("k", end)).await;
            assert_eq!((answer.watch_id, answer.canceled), (-1, true));
            assert_eq!(answer.cancel_reason, "mvcc: watcher range is empty");
            assert_eq!(revision_of(&answer.header), now);
        }
        assert_eq!(watching.create(watch_key("k")).await.watch_id, 0);
    });
}

/// case 92
#[test]
fn a_negative_start_is_refused_as_compacted() {
    idle(async |_, client| {
        let mut watching = client.watching().await;
        let request = api::WatchCreateRequest {
            start_revision: -1,
            ..watch_key("k")
        };
        let answer = watching.create(request).await;
        assert_eq!((answer.watch_id, answer.canceled), (-1, true));
        assert_eq!(
            answer.cancel_reason,
            "etcdserver: mvcc: required revision has been compacted"
        );
    });
}

/// case 93
#[test]
fn a_start_below_the_compaction_is_created_and_then_cancelled() {
    idle(async |_, client| {
        let first = client.write("k", "1").await;
        let target = client.write("k", "2").await;
        client.write("k", "3").await;
        client.compact(compact(target)).await.expect("compact");
        let mut watching = client.watching().await;
        let request = api::WatchCreateRequest {
            start_revision: first,
            ..watch_key("k")
        };
        let created = watching.create(request).await;
        assert!(!created.canceled, "{created:?}");
        let answer = watching.next().await;
        assert!(answer.canceled && !answer.created, "{answer:?}");
        assert_eq!(
            (answer.watch_id, answer.compact_revision),
            (created.watch_id, target)
        );
        assert_eq!(
            (revision_of(&answer.header), answer.cancel_reason.as_str()),
            (0, "")
        );
        watching.answers.quiet(QUIET).await;
    });
}

/// case 94
#[test]
fn a_start_at_the_compaction_replays() {
    idle(async |_, client| {
        client.write("k", "1").await;
        let target = client.write("k", "2").await;
        client.write("k", "3").await;
        client.compact(compact(target)).await.expect("compact");
        let mut watching = client.watching().await;
        watching.create(everything_from(target)).await;
        let expected = [format!("PUT k@{target}"), format!("PUT k@{}", target + 1)];
        assert_eq!(briefly(&watching.events(2).await), expected);
    });
}

/// case 95
#[test]
fn a_start_in_the_future_hears_nothing_earlier() {
    idle(async |_, client| {
        let now = client.revision().await;
        let mut watching = client.watching().await;
        watching.create(everything_from(now + 5)).await;
        for number in 0..6 {
            client.write(format!("k{number}"), "v").await;
        }
        let expected = [format!("PUT k4@{}", now + 5), format!("PUT k5@{}", now + 6)];
        assert_eq!(briefly(&watching.events(2).await), expected);
        watching.answers.quiet(QUIET).await;
    });
}

/// case 96
#[test]
fn a_replay_is_one_batch_under_the_current_revision() {
    idle(async |_, client| {
        let first = client.write("k", "1").await;
        for number in 2..10 {
            client.write("k", format!("{number}")).await;
        }
        let now = client.write("elsewhere", "v").await;
        let mut watching = client.watching().await;
        let request = api::WatchCreateRequest {
            start_revision: first,
            ..watch_key("k")
        };
        watching.create(request).await;
        let answer = watching.next().await;
        let expected: Vec<_> = (first..now)
            .map(|revision| format!("PUT k@{revision}"))
            .collect();
        assert_eq!(briefly(&answer.events), expected);
        assert_eq!(revision_of(&answer.header), now);
        let values: Vec<_> = answer
            .events
            .iter()
            .map(|event| event.kv.clone().expect("kv").value)
            .collect();
        assert_eq!(values[..3], ["1", "2", "3"]);
        let last = answer
            .events
            .last()
            .and_then(|event| event.kv.clone())
            .expect("kv");
        assert_eq!((last.version, last.create_revision), (9, first));
    });
}

/// case 98
#[test]
fn a_live_txn_is_one_response_per_watcher() {
    idle(async |_, client| {
        let mut watching = client.watching().await;
        watching.create(watch_span("a", "z")).await;
        watching.create(watch_span("b", "c")).await;
        let ops = vec![
            put("a1", "v").op(),
            put("b1", "v").op(),
            put("c1", "v").op(),
        ];
        let answer = client.txn(then(ops)).await.expect("txn");
        let now = revision_of(&answer.header);
        let mut answers = [watching.next().await, watching.next().await];
        answers.sort_by_key(|answer| answer.watch_id);
        let expected = ["a1", "b1", "c1"].map(|key| format!("PUT {key}@{now}"));
        assert_eq!(briefly(&answers[0].events), expected);
        assert_eq!(briefly(&answers[1].events), expected[1..2]);
        watching.answers.quiet(QUIET).await;
    });
}

/// case 99
#[test]
fn a_delete_event_has_the_key_and_its_revision_only() {
    idle(async |_, client| {
        let lease = client.lease(60).await;
        client.write_leased("k", "v", lease).await;
        let mut watching = client.watching().await;
        watching.create(watch_key("k")).await;
        let now = client.remove("k").await;
        let events = watching.events(1).await;
        assert_eq!(events[0].r#type, DELETE);
        let expected = api::KeyValue {
            key: bytes("k"),
            mod_revision: now,
            ..Default::default()
        };
        assert_eq!(events[0].kv, Some(expected));
        assert_eq!(events[0].prev_kv, None, "not asked for");
    });
}

/// case 100
#[test]
fn previous_pairs_come_with_updates_and_deletes() {
    idle(async |_, client| {
        let first = client.revision().await + 1;
        let check = |events: &[api::Event]| {
            assert_eq!(events[0].prev_kv, None);
            let old = events[1].prev_kv.as_ref().expect("an update has one");
            assert_eq!(
                (&old.value[..], old.version, old.mod_revision),
                (&b"1"[..], 1, first)
            );
            let old = events[2].prev_kv.as_ref().expect("a delete has one");
            assert_eq!(
                (&old.value[..], old.version, old.mod_revision),
                (&b"2"[..], 2, first + 1)
            );
            assert_eq!(events[3].prev_kv, None, "a new life has no past");
        };
        let live = api::WatchCreateRequest {
            prev_kv: true,
            ..watch_key("k")
        };
        let mut watching = client.watching().await;
        watching.create(live.clone()).await;
        client.write("k", "1").await;
        client.write("k", "2").await;
        client.remove("k").await;
        client.write("k", "3").await;
        check(&watching.events(4).await);
        let mut replaying = client.watching().await;
        let replay = api::WatchCreateRequest {
            start_revision: first,
            ..live
        };
        replaying.create(replay).await;
        check(&replaying.events(4).await);
    });
}

/// case 101
#[test]
fn filters_drop_what_they_name() {
    idle(async |_, client| {
        let mut puts = client.watching().await;
        puts.create(api::WatchCreateRequest {
            filters: vec![NO_DELETE],
            ..watch_key("k")
        })
        .await;
        let mut deletes = client.watching().await;
        deletes
            .create(api::WatchCreateRequest {
                filters: vec![NO_PUT],
                ..watch_key("k")
            })
            .await;
        let put = client.write("k", "v").await;
        let deleted = client.remove("k").await;
        assert_eq!(briefly(&puts.events(1).await), [format!("PUT k@{put}")]);
        assert_eq!(
            briefly(&deletes.events(1).await),
            [format!("DELETE k@{deleted}")]
        );
        puts.answers.quiet(QUIET).await;
        deletes.answers.quiet(QUIET).await;
    });
}

/// case 102
#[test]
fn with_both_filters_only_progress_comes() {
    idle(async |_, client| {
        let mut watching = client.watching().await;
        let filters = vec![NO_PUT, NO_DELETE];
        watching
            .create(api::WatchCreateRequest {
                filters,
                ..watch_key("k")
            })
            .await;
        client.write("k", "v").await;
        let now = client.remove("k").await;
        watching.answers.quiet(QUIET).await;
        watching.progress();
        let answer = watching.next().await;
        assert_eq!((answer.watch_id, revision_of(&answer.header)), (-1, now));
    });
}

/// case 103
#[test]
fn no_key_and_a_zero_end_watch_everything() {
    idle(async |_, client| {
        let mut watching = client.watching().await;
        watching.create(watch_span("", "\0")).await;
        client.write(b"\0", "v").await;
        client.write("middle", "v").await;
        client.write(b"\xff\xff", "v").await;
        assert_eq!(watching.events(3).await.len(), 3);
    });
}

/// case 104
#[test]
fn events_go_on_after_the_client_half_closed() {
    idle(async |_, client| {
        let mut watching = client.watching().await;
        watching.create(watch_key("k")).await;
        watching.requests.half_close();
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.write("k", "1").await;
        client.write("k", "2").await;
        watching.events(2).await;
    });
}

/// case 105
#[test]
fn requested_progress_speaks_for_the_whole_stream() {
    idle(async |_, client| {
        let mut watching = client.watching().await;
        watching.create(watch_key("a")).await;
        watching.create(watch_key("b")).await;
        let now = client.write("elsewhere", "v").await;
        watching.progress();
        let answer = watching.next().await;
        assert_eq!((answer.watch_id, revision_of(&answer.header)), (-1, now));
        assert!(answer.events.is_empty() && !answer.created && !answer.canceled);
        watching.answers.quiet(QUIET).await;
    });
}

/// case 106
#[test]
fn progress_that_cannot_be_promised_is_not_answered() {
    idle(async |_, client| {
        let mut watching = client.watching().await;
        watching.progress();
        watching.answers.quiet(QUIET).await;
        let now = client.revision().await;
        watching.create(everything_from(now + 3)).await;
        watching.progress();
        watching.answers.quiet(QUIET).await;
        client.write("k", "1").await;
        client.write("k", "2").await;
        client.write("k", "3").await;
        watching.events(1).await;
        watching.progress();
        assert_eq!(revision_of(&watching.next().await.header), now + 3);
    });
}

/// case 107
#[test]
fn periodic_progress_comes_when_idle_and_not_right_after_an_event() {
    let options = Options::default().watch_progress_every(500);
    fresh_with(options, async |_, client| {
        let mut watching = client.watching().await;
        let request = api::WatchCreateRequest {
            progress_notify: true,
            watch_id: 9,
            ..watch_key("k")
        };
        watching.create(request).await;
        let now = client.write("elsewhere", "v").await;
        for _ in 0..2 {
            let answer = watching.next().await;
            assert_eq!((answer.watch_id, revision_of(&answer.header)), (9, now));
            assert!(answer.events.is_empty());
        }
        // Events just after a tick: the next tick is skipped, the one after it is not.
        let now = client.write("k", "v").await;
        watching.events(1).await;
        let begun = std::time::Instant::now();
        let answer = watching.next().await;
        assert_eq!((answer.watch_id, revision_of(&answer.header)), (9, now));
        assert!(
            begun.elapsed() > Duration::from_millis(550),
            "came after {:?}",
            begun.elapsed()
        );
        let mut silent = client.watching().await;
        silent.create(watch_key("k")).await;
        silent.answers.quiet(Duration::from_millis(1200)).await;
    });
}

/// case 112
#[test]
fn watchers_of_one_stream_do_not_disturb_each_other() {
    idle(async |_, client| {
        let mut watching = client.watching().await;
        watching.create(watch_key("k")).await;
        watching.create(watch_key("k")).await;
        watching.cancel(0);
        assert!(watching.next().await.canceled);
        let now = client.write("k", "v").await;
        let answer = watching.next().await;
        assert_eq!((answer.watch_id, revision_of(&answer.header)), (1, now));
        watching.answers.quiet(QUIET).await;
    });
}

/// case 113
#[test]
fn a_thousand_watchers_are_created_in_order_and_each_hears_its_own() {
    idle(async |_, client| {
        let mut watching = client.watching().await;
        for number in 0..1000 {
            watching.ask(watch_key(format!("k{number:03}")));
        }
        for number in 0..1000 {
            let answer = watching.next().await;
            assert!(answer.created && !answer.canceled);
            assert_eq!(answer.watch_id, number);
        }
        for number in [0, 500, 999] {
            client.write(format!("k{number:03}"), "v").await;
            let answer = watching.next().await;
            assert_eq!((answer.watch_id, answer.events.len()), (number, 1));
        }
        // All of them through one transaction's worth of keys at a time.
        for batch in 0..10 {
            let ops = (0..100).map(|n| put(format!("k{:03}", batch * 100 + n), "w").op());
            client.txn(then(ops.collect())).await.expect("txn");
        }
        let mut heard = Vec::new();
        while heard.len() < 1000 {
            let answer = watching.next().await;
            assert_eq!(answer.events.len(), 1);
            heard.push(answer.watch_id);
        }
        heard.sort();
        assert_eq!(heard, (0..1000).collect::<Vec<i64>>());
    });
}

/// case 115
#[test]
fn a_put_and_a_delete_in_one_txn_are_both_told() {
    idle(async |_, client| {
        let before = client.revision().await;
        let mut watching = client.watching().await;
        watching.create(watch_key("a")).await;
        let putting = then(vec![put("a", "1").op()]).op();
        let deleting = then(vec![delete("a").op()]).op();
        client
            .txn(then(vec![putting, deleting]))
            .await
            .expect("txn");
        let expected = [
            format!("PUT a@{}", before + 1),
            format!("DELETE a@{}", before + 1),
        ];
        assert_eq!(briefly(&watching.next().await.events), expected);
        let mut replaying = client.watching().await;
        replaying.create(everything_from(before + 1)).await;
        assert_eq!(briefly(&replaying.next().await.events), expected);
    });
}

/// An empty request is ignored
#[test]
fn a_request_that_asks_nothing_is_ignored() {
    idle(async |_, client| {
        let mut watching = client.watching().await;
        watching.requests.send(&api::WatchRequest {
            request_union: None,
        });
        watching.answers.quiet(QUIET).await;
        watching.create(watch_key("k")).await;
    });
}

/// A range watch hears exactly its interval
#[test]
fn intervals_are_half_open() {
    idle(async |_, client| {
        let mut watching = client.watching().await;
        watching.create(watch_span("b", "d")).await;
        for key in ["a", "b", "c", "cz", "d", "e"] {
            client.write(key, "v").await;
        }
        let events = watching.events(3).await;
        let keys: Vec<_> = events
            .iter()
            .map(|event| event.kv.clone().expect("kv").key)
            .collect();
        assert_eq!(keys, ["b", "c", "cz"]);
        watching.answers.quiet(QUIET).await;
    });
}
