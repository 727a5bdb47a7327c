//! Range and its options.

use bytes::Bytes;
use kvnode_api::{KeyRange, RangeRequest, SortOrder, SortTarget, Status};

use super::harness::{Machine, all, bytes, fresh, header_revision, keys, put, range};

/// a (mod 4), b (mod 8), c (mod 6), d (mod 7); created at 2, 3, 6, 7.
fn four() -> Machine {
    let mut machine = fresh();
    for (key, value) in [
        ("a", "9"),
        ("b", "8"),
        ("a", "3"),
        ("x", ""),
        ("c", "2"),
        ("d", "1"),
    ] {
        machine.put(key, value);
    }
    machine.put("b", "4");
    assert_eq!(machine.revision(), 8);
    machine.delete("x", "");
    machine
}

fn sorted(target: SortTarget, order: SortOrder) -> RangeRequest {
    RangeRequest {
        sort_target: target as i32,
        sort_order: order as i32,
        ..all()
    }
}

#[test]
fn range_end_has_four_meanings() {
    let machine = four();
    let found = |key, end| keys(&machine.range(range(key, end)).unwrap());
    assert_eq!(found("b", ""), ["b"]);
    assert_eq!(found("b", "d"), ["b", "c"]);
    assert_eq!(found("b", "\0"), ["b", "c", "d"]);
    assert_eq!(found("b", "b"), [""; 0]);
    assert_eq!(found("b", "a"), [""; 0]);
    assert_eq!(machine.range(range("b", "a")).unwrap().count, 0);
}

#[test]
fn two_zero_bytes_are_an_ordinary_end() {
    let mut machine = fresh();
    for key in ["\0", "\0\0", "\0\0\0", "a"] {
        machine.put(key, "v");
    }
    assert_eq!(keys(&machine.range(range("\0", "\0\0")).unwrap()), ["\0"]);
    assert_eq!(machine.range(range("\0", "\0")).unwrap().count, 4);
}

#[test]
fn a_limit_cuts_and_count_does_not_notice() {
    let machine = four();
    let response = machine.range(RangeRequest { limit: 2, ..all() }).unwrap();
    assert_eq!(
        (keys(&response).as_slice(), response.more, response.count),
        (&["a".to_string(), "b".into()][..], true, 4)
    );
    let response = machine.range(RangeRequest { limit: 4, ..all() }).unwrap();
    assert_eq!(
        (response.kvs.len(), response.more, response.count),
        (4, false, 4)
    );
    let response = machine.range(RangeRequest { limit: -2, ..all() }).unwrap();
    assert_eq!((response.kvs.len(), response.more), (4, false));
}

#[test]
fn count_only_ignores_the_limit() {
    let machine = four();
    let response = machine
        .range(RangeRequest {
            count_only: true,
            limit: 1,
            ..all()
        })
        .unwrap();
    assert_eq!(
        (response.kvs.len(), response.more, response.count),
        (0, false, 4)
    );
}

#[test]
fn revisions_mean_now_the_past_or_an_error() {
    let machine = four();
    let at = |revision| machine.range(RangeRequest { revision, ..all() });
    assert_eq!(at(-5).unwrap().count, 4);
    assert_eq!(at(10), Err(Status::future_revision()));
    let first = at(1).unwrap();
    assert_eq!((first.count, header_revision(&first.header)), (0, 9));
    let old = at(3).unwrap();
    assert_eq!(keys(&old), ["a", "b"]);
    assert_eq!(old.kvs[0].value, bytes("9"));
    assert_eq!(header_revision(&old.header), 9);
}

#[test]
fn a_deleted_key_is_found_right_before_its_delete() {
    let machine = four();
    let at = |revision| {
        machine
            .range(RangeRequest {
                revision,
                ..range("x", "")
            })
            .unwrap()
    };
    assert_eq!(at(8).kvs[0].mod_revision, 5);
    assert_eq!(at(9).count, 0);
    assert_eq!(at(4).count, 0);
}

#[test]
fn keys_only_keeps_everything_but_the_value() {
    let mut machine = four();
    machine.grant(5, 10).unwrap();
    machine
        .try_put(kvnode_api::PutRequest {
            lease: 5,
            ..put("c", "v")
        })
        .unwrap();
    for key in ["c", "b"] {
        for end in ["", "d"] {
            let full = machine.range(range(key, end)).unwrap();
            let keys_only = RangeRequest {
                keys_only: true,
                ..range(key, end)
            };
            let bare = machine.range(keys_only).unwrap();
            for (full, bare) in full.kvs.into_iter().zip(bare.kvs) {
                assert_eq!(
                    bare,
                    kvnode_api::KeyValue {
                        value: Bytes::new(),
                        ..full
                    }
                );
            }
        }
    }
    assert_eq!(machine.get("c").unwrap().lease, 5);
}

#[test]
fn a_sort_by_value_sees_the_values_keys_only_hides() {
    let machine = four();
    let request = RangeRequest {
        keys_only: true,
        ..sorted(SortTarget::Value, SortOrder::Descend)
    };
    let response = machine.range(request).unwrap();
    assert_eq!(keys(&response), ["b", "a", "c", "d"]);
    assert!(response.kvs.iter().all(|kv| kv.value.is_empty()));
    let single = RangeRequest {
        range_end: bytes(""),
        key: bytes("a"),
        keys_only: true,
        ..sorted(SortTarget::Value, SortOrder::Ascend)
    };
    assert_eq!(machine.range(single).unwrap().kvs[0].value, bytes(""));
}

#[test]
fn another_target_without_order_sorts_ascending() {
    let machine = four();
    let response = machine
        .range(sorted(SortTarget::Mod, SortOrder::None))
        .unwrap();
    assert_eq!(keys(&response), ["a", "c", "d", "b"]);
}

#[test]
fn another_target_without_order_but_a_limit_looks_at_the_first_keys_only() {
    let machine = four();
    let request = RangeRequest {
        limit: 2,
        ..sorted(SortTarget::Mod, SortOrder::None)
    };
    let response = machine.range(request).unwrap();
    assert_eq!(
        keys(&response),
        ["a", "c"],
        "d would be before b, but is never looked at"
    );
    assert_eq!((response.more, response.count), (true, 4));
}

#[test]
fn a_descending_sort_with_limit_1_finds_the_newest() {
    let machine = four();
    let request = RangeRequest {
        limit: 1,
        ..sorted(SortTarget::Mod, SortOrder::Descend)
    };
    let response = machine.range(request).unwrap();
    assert_eq!(
        (keys(&response), response.more, response.count),
        (vec!["b".into()], true, 4)
    );
    let request = RangeRequest {
        limit: 1,
        ..sorted(SortTarget::Key, SortOrder::Descend)
    };
    assert_eq!(keys(&machine.range(request).unwrap()), ["d"]);
}

#[test]
fn a_sort_over_far_more_keys_than_its_limit_is_exact() {
    let mut machine = fresh();
    let entries: Vec<_> = (0..3000u64)
        .map(|n| {
            let value = format!("{:04}", (n * 7919) % 3000);
            super::harness::entry(
                n + 1,
                kvnode_store::Kind::Put,
                &put(&format!("{n:04}"), &value),
            )
        })
        .collect();
    machine.step(&entries);
    for order in [SortOrder::Ascend, SortOrder::Descend] {
        let request = RangeRequest {
            limit: 5,
            ..sorted(SortTarget::Value, order)
        };
        let response = machine.range(request).unwrap();
        let values: Vec<_> = response.kvs.iter().map(|kv| kv.value.clone()).collect();
        match order {
            SortOrder::Descend => assert_eq!(values, ["2999", "2998", "2997", "2996", "2995"]),
            _ => assert_eq!(values, ["0000", "0001", "0002", "0003", "0004"]),
        }
        assert_eq!((response.more, response.count), (true, 3000));
    }
}

#[test]
fn filters_come_before_the_limit_and_count_ignores_them() {
    let machine = four();
    let request = RangeRequest {
        min_mod_revision: 7,
        limit: 1,
        ..all()
    };
    let response = machine.range(request).unwrap();
    assert_eq!(
        (keys(&response), response.more, response.count),
        (vec!["b".into()], true, 4)
    );
    let request = RangeRequest {
        min_create_revision: 6,
        max_create_revision: 6,
        ..all()
    };
    assert_eq!(keys(&machine.range(request).unwrap()), ["c"]);
    let request = RangeRequest {
        max_mod_revision: 6,
        ..all()
    };
    assert_eq!(keys(&machine.range(request).unwrap()), ["a", "c"]);
    let request = RangeRequest {
        min_mod_revision: 5,
        ..range("a", "")
    };
    let response = machine.range(request).unwrap();
    assert_eq!((response.kvs.len(), response.count), (0, 1));
}

#[test]
fn unknown_sort_numbers_are_refused() {
    let machine = four();
    for (sort_order, sort_target) in [(9, 0), (0, 9), (-1, 0)] {
        let request = RangeRequest {
            sort_order,
            sort_target,
            ..all()
        };
        assert_eq!(machine.range(request), Err(Status::invalid_sort_option()));
    }
}

#[test]
fn versions_with_ties_come_in_groups() {
    let machine = four();
    let response = machine
        .range(sorted(SortTarget::Version, SortOrder::Descend))
        .unwrap();
    let versions: Vec<_> = response.kvs.iter().map(|kv| kv.version).collect();
    assert_eq!(versions, [2, 2, 1, 1]);
}

#[test]
fn slices_joined_are_the_range() {
    let mut machine = four();
    let pinned = machine.revision();
    let whole = machine
        .range(RangeRequest {
            revision: pinned,
            ..all()
        })
        .unwrap()
        .kvs;
    for rows in 1..6 {
        let mut joined = Vec::new();
        let mut from = None;
        loop {
            let view = machine.view();
            let slice = view
                .range_slice(
                    &KeyRange::all(),
                    from.as_ref(),
                    pinned,
                    false,
                    rows,
                    usize::MAX,
                )
                .unwrap();
            assert!(slice.kvs.len() <= rows);
            joined.extend(slice.kvs);
            // Later writes are not seen.
            machine.put("bb", "later");
            machine.delete("d", "");
            from = slice.next;
            if from.is_none() {
                break;
            }
        }
        assert_eq!(joined, whole, "{rows} rows per slice");
    }
    let view = machine.view();
    let slice = view
        .range_slice(&KeyRange::all(), None, 0, true, 100, 2)
        .unwrap();
    assert_eq!((slice.kvs.len(), slice.next), (2, Some(bytes("bb"))));
    let interval = KeyRange::new(&bytes("b"), &bytes("c"));
    assert_eq!(view.count(&interval, 0).unwrap(), 2);
    assert_eq!(view.count(&interval, pinned).unwrap(), 1);

    machine.compact(pinned + 1).unwrap();
    let late = machine
        .view()
        .range_slice(&KeyRange::all(), None, pinned, false, 9, 9);
    assert_eq!(late, Err(Status::compacted()));
}

#[test]
fn old_values_of_a_busy_key_are_found_from_either_end() {
    let mut machine = fresh();
    machine.put("quiet", "q");
    let entries: Vec<_> = (0..2000u64)
        .map(|n| {
            let key = if n % 10 == 0 { "other" } else { "busy" };
            super::harness::entry(n + 2, kvnode_store::Kind::Put, &put(key, &n.to_string()))
        })
        .collect();
    machine.step(&entries);
    // Entry n made revision n + 3.
    for n in [1u64, 2, 9, 11, 500, 999, 1001, 1500, 1995, 1999] {
        let revision = n as i64 + 3;
        let response = machine
            .range(RangeRequest {
                revision,
                ..range("busy", "")
            })
            .unwrap();
        let expected = if n % 10 == 0 { n - 1 } else { n };
        assert_eq!(response.kvs[0].value, bytes(&expected.to_string()));
        let response = machine
            .range(RangeRequest {
                revision,
                ..range("quiet", "")
            })
            .unwrap();
        assert_eq!(response.kvs[0].value, bytes("q"));
    }
}
