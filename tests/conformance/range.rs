//! Range (cases 24-42).

use kvnode_api as api;
use kvnode_tests::words::number::*;
use kvnode_tests::words::*;
use kvnode_tests::{Client, idle};

/// Four keys in this order of writing: a (mod m), c (m+2), d (m+3), b (m+4); a was put twice.
async fn four_keys(client: &Client) -> i64 {
    let base = client.write("a", "v9").await;
    client.write("a", "v5").await;
    client.write("c", "v7").await;
    client.write("d", "v1").await;
    client.write("b", "v3").await;
    base
}

/// case 24
#[test]
fn an_empty_key_is_refused() {
    idle(async |_, client| {
        refused(client.range(get("")).await, refusal::no_key());
        refused(client.range(span("", "z")).await, refusal::no_key());
        refused(client.range(span("", "\0")).await, refusal::no_key());
    });
}

/// case 25
#[test]
fn a_zero_byte_end_means_from_the_key_on() {
    idle(async |_, client| {
        four_keys(&client).await;
        client.write(b"\xff\xff", "last").await;
        let answer = client.range(span("b", "\0")).await.expect("range");
        let keys: Vec<_> = answer.kvs.iter().map(|kv| &kv.key[..]).collect();
        assert_eq!(keys, [&b"b"[..], b"c", b"d", b"\xff\xff"]);
        assert_eq!(answer.count, 4);
    });
}

/// case 26
#[test]
fn a_backward_interval_is_empty_not_an_error() {
    idle(async |_, client| {
        four_keys(&client).await;
        for end in ["b", "a", "aa"] {
            let answer = client.range(span("b", end)).await.expect("range");
            assert_eq!(
                (answer.kvs.len(), answer.count, answer.more),
                (0, 0, false),
                "end {end}"
            );
        }
    });
}

/// case 27
#[test]
fn two_zero_bytes_are_an_ordinary_end() {
    idle(async |_, client| {
        client.write(b"\0", "zero").await;
        client.write(b"\0\0", "zeros").await;
        client.write("a", "v").await;
        let answer = client.range(span(b"\0", b"\0\0")).await.expect("range");
        assert_eq!(answer.count, 1);
        assert_eq!(&answer.kvs[0].key[..], b"\0");
        let answer = client.range(span(b"\0", b"\0")).await.expect("range");
        assert_eq!(answer.count, 3);
    });
}

/// case 28
#[test]
fn a_limit_cuts_and_says_so_and_count_ignores_it() {
    idle(async |_, client| {
        four_keys(&client).await;
        let limited = |limit| api::RangeRequest { limit, ..all() };
        let answer = client.range(limited(2)).await.expect("range");
        assert_eq!(keys_of(&answer.kvs), ["a", "b"]);
        assert_eq!((answer.more, answer.count), (true, 4));
        let answer = client.range(limited(4)).await.expect("range");
        assert_eq!((answer.kvs.len(), answer.more, answer.count), (4, false, 4));
        let answer = client.range(limited(3)).await.expect("range");
        assert_eq!((answer.kvs.len(), answer.more, answer.count), (3, true, 4));
    });
}

/// case 29
#[test]
fn a_negative_limit_is_none() {
    idle(async |_, client| {
        four_keys(&client).await;
        let answer = client
            .range(api::RangeRequest { limit: -2, ..all() })
            .await
            .expect("range");
        assert_eq!((answer.kvs.len(), answer.more, answer.count), (4, false, 4));
    });
}

/// case 30
#[test]
fn count_only_counts_everything_and_returns_nothing() {
    idle(async |_, client| {
        four_keys(&client).await;
        for limit in [0, 2] {
            let request = api::RangeRequest {
                limit,
                count_only: true,
                ..all()
            };
            let answer = client.range(request).await.expect("range");
            assert_eq!((answer.kvs.len(), answer.more, answer.count), (0, false, 4));
        }
    });
}

/// case 31
#[test]
fn revisions_below_one_are_now_and_above_now_are_refused() {
    idle(async |_, client| {
        four_keys(&client).await;
        let now = client.revision().await;
        let at = |revision| api::RangeRequest { revision, ..all() };
        let answer = client.range(at(-5)).await.expect("range");
        assert_eq!((answer.count, revision_of(&answer.header)), (4, now));
        refused(client.range(at(now + 1)).await, refusal::future());
        let serializable = api::RangeRequest {
            serializable: true,
            ..at(now + 1)
        };
        refused(client.range(serializable).await, refusal::future());
        let answer = client.range(at(now)).await.expect("range");
        assert_eq!(answer.count, 4);
    });
}

/// case 31
#[test]
fn the_first_revision_is_empty_and_readable() {
    kvnode_tests::fresh(async |_, client| {
        let now = four_keys(&client).await + 4;
        let answer = client
            .range(api::RangeRequest {
                revision: 1,
                ..all()
            })
            .await
            .expect("range");
        assert_eq!((answer.count, revision_of(&answer.header)), (0, now));
    });
}

/// case 32
#[test]
fn an_old_revision_shows_old_values_under_the_current_header() {
    idle(async |_, client| {
        let first = client.write("k", "old").await;
        client.write("k", "new").await;
        client.write("other", "x").await;
        let now = client.revision().await;
        let answer = client
            .range(api::RangeRequest {
                revision: first,
                ..all()
            })
            .await
            .expect("range");
        assert_eq!(revision_of(&answer.header), now);
        let [kv] = &answer.kvs[..] else {
            panic!("one key then: {answer:?}")
        };
        assert_eq!(
            (&kv.value[..], kv.mod_revision, kv.version),
            (&b"old"[..], first, 1)
        );
    });
}

/// case 33
#[test]
fn keys_only_leaves_out_the_values_alone() {
    idle(async |server, client| {
        let lease = client.lease(100).await;
        let first = client.write_leased("k", "v", lease).await;
        client.write_leased("k", "w", lease).await;
        let request = api::RangeRequest {
            keys_only: true,
            ..get("k")
        };
        let answer = client.range(request).await.expect("range");
        let kv = &answer.kvs[0];
        assert!(kv.value.is_empty());
        assert_eq!(
            (kv.create_revision, kv.mod_revision, kv.version),
            (first, first + 1, 2)
        );
        assert_eq!(
            kv.lease,
            if server.kind().keys_only_keeps_lease() {
                lease
            } else {
                0
            }
        );
    });
}

/// case 34
#[test]
fn sorting_by_value_sees_the_values_that_keys_only_hides() {
    idle(async |_, client| {
        four_keys(&client).await;
        let request = api::RangeRequest {
            keys_only: true,
            sort_order: DESCEND,
            sort_target: BY_VALUE,
            ..all()
        };
        let answer = client.range(request).await.expect("range");
        assert_eq!(keys_of(&answer.kvs), ["c", "a", "b", "d"]);
        assert!(answer.kvs.iter().all(|kv| kv.value.is_empty()));
    });
}

/// case 35
#[test]
fn a_target_without_order_sorts_ascending() {
    idle(async |_, client| {
        four_keys(&client).await;
        let request = api::RangeRequest {
            sort_target: BY_MOD,
            ..all()
        };
        let answer = client.range(request).await.expect("range");
        assert_eq!(keys_of(&answer.kvs), ["a", "c", "d", "b"]);
    });
}

/// case 36
#[test]
fn a_target_without_order_and_a_limit_considers_the_first_keys_only() {
    idle(async |_, client| {
        // mod revisions: a +0, c +1, d +2, b +3
        for key in ["a", "c", "d", "b"] {
            client.write(key, "v").await;
        }
        let request = api::RangeRequest {
            sort_target: BY_MOD,
            limit: 2,
            ..all()
        };
        let answer = client.range(request).await.expect("range");
        assert_eq!(
            keys_of(&answer.kvs),
            ["a", "c"],
            "d is older than b but fourth by key"
        );
        let request = api::RangeRequest {
            sort_target: BY_MOD,
            limit: 1,
            ..all()
        };
        let answer = client.range(request).await.expect("range");
        assert_eq!(keys_of(&answer.kvs), ["a"]);
        assert_eq!((answer.more, answer.count), (true, 4));
    });
}

/// case 37
#[test]
fn descending_by_revision_with_limit_one_is_the_newest_key() {
    idle(async |_, client| {
        four_keys(&client).await;
        let request = api::RangeRequest {
            sort_target: BY_MOD,
            sort_order: DESCEND,
            limit: 1,
            ..all()
        };
        let answer = client.range(request).await.expect("range");
        assert_eq!(keys_of(&answer.kvs), ["b"]);
        assert_eq!((answer.more, answer.count), (true, 4));
    });
}

/// case 35, 37: the other targets and orders
#[test]
fn every_target_sorts_both_ways() {
    idle(async |_, client| {
        // create order a c d b; versions a2 others 1 (b made 3); values a5 c7 d1 b3
        four_keys(&client).await;
        client.write("b", "v3").await;
        client.write("b", "v3").await;
        client.write("d", "v1").await;
        client.write("d", "v1").await;
        client.write("d", "v1").await;
        let expected = [
            (0, ["a", "b", "c", "d"]),
            (BY_VERSION, ["c", "a", "b", "d"]),
            (BY_CREATE, ["a", "c", "d", "b"]),
            (BY_MOD, ["a", "c", "b", "d"]),
            (BY_VALUE, ["d", "b", "a", "c"]),
        ];
        for (sort_target, mut order) in expected {
            let request = |sort_order| api::RangeRequest {
                sort_target,
                sort_order,
                ..all()
            };
            let up = client.range(request(ASCEND)).await.expect("range");
            assert_eq!(keys_of(&up.kvs), order, "target {sort_target} ascending");
            let down = client.range(request(DESCEND)).await.expect("range");
            order.reverse();
            assert_eq!(keys_of(&down.kvs), order, "target {sort_target} descending");
        }
    });
}

/// case 38
#[test]
fn filters_come_before_the_limit_and_do_not_change_the_count() {
    idle(async |_, client| {
        let base = four_keys(&client).await;
        let request = api::RangeRequest {
            min_mod_revision: base + 2,
            limit: 1,
            ..all()
        };
        let answer = client.range(request).await.expect("range");
        assert_eq!(keys_of(&answer.kvs), ["b"]);
        assert_eq!((answer.more, answer.count), (true, 4));
        let request = api::RangeRequest {
            max_mod_revision: base + 1,
            limit: 1,
            ..all()
        };
        let answer = client.range(request).await.expect("range");
        assert_eq!(keys_of(&answer.kvs), ["a"]);
        assert_eq!((answer.more, answer.count), (false, 4));
    });
}

/// case 39
#[test]
fn filter_bounds_are_inclusive() {
    idle(async |_, client| {
        let base = four_keys(&client).await;
        let request = api::RangeRequest {
            min_create_revision: base + 2,
            max_create_revision: base + 2,
            ..all()
        };
        let answer = client.range(request).await.expect("range");
        assert_eq!(keys_of(&answer.kvs), ["c"]);
        let request = api::RangeRequest {
            min_mod_revision: base + 2,
            max_mod_revision: base + 3,
            ..all()
        };
        let answer = client.range(request).await.expect("range");
        assert_eq!(keys_of(&answer.kvs), ["c", "d"]);
    });
}

/// case 40 (3.6)
#[test]
fn unknown_sort_numbers_are_refused() {
    idle(async |server, client| {
        if !server.kind().from_3(6) {
            return;
        }
        let request = api::RangeRequest {
            sort_order: 9,
            ..all()
        };
        refused(client.range(request).await, refusal::bad_sort());
        let request = api::RangeRequest {
            sort_target: 9,
            ..all()
        };
        refused(client.range(request).await, refusal::bad_sort());
    });
}

/// case 41
#[test]
fn ties_keep_each_version_in_its_place() {
    idle(async |_, client| {
        for key in ["a", "b", "c", "d", "b", "d"] {
            client.write(key, "v").await;
        }
        let request = api::RangeRequest {
            sort_order: ASCEND,
            sort_target: BY_VERSION,
            ..all()
        };
        let answer = client.range(request).await.expect("range");
        let mut keys = keys_of(&answer.kvs);
        keys[..2].sort();
        keys[2..].sort();
        assert_eq!(keys, ["a", "c", "b", "d"]);
    });
}

/// case 42
#[test]
fn a_deleted_key_is_there_until_its_deletion() {
    idle(async |_, client| {
        client.write("k", "v").await;
        let deleted = client.remove("k").await;
        let at = |revision| api::RangeRequest {
            revision,
            ..get("k")
        };
        let before = client.range(at(deleted - 1)).await.expect("range");
        assert_eq!((before.kvs.len(), before.count), (1, 1));
        let after = client.range(at(deleted)).await.expect("range");
        assert_eq!((after.kvs.len(), after.count), (0, 0));
    });
}

/// case 25: serializable reads of one member see what it has applied
#[test]
fn a_serializable_read_after_a_write_sees_it() {
    idle(async |_, client| {
        let revision = client.write("k", "v").await;
        let request = api::RangeRequest {
            serializable: true,
            ..get("k")
        };
        let answer = client.range(request).await.expect("range");
        assert_eq!((answer.count, revision_of(&answer.header)), (1, revision));
    });
}
