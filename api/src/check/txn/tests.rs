//! The rules as a table, and the clever sets against a plain model.

use proptest::prelude::*;

use super::*;
use crate::kv::{Compare, PutRequest, RangeRequest};

const OPS_MAX: usize = 128;

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn get(key: &str) -> RequestOp {
    op(Request::RequestRange(RangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    }))
}

fn put(key: &str) -> RequestOp {
    op(Request::RequestPut(PutRequest {
        key: key.to_owned().into(),
        ..Default::default()
    }))
}

fn del(key: &str, end: &str) -> RequestOp {
    op(Request::RequestDeleteRange(DeleteRangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        prev_kv: false,
    }))
}

fn branches(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest {
        compare: vec![],
        success,
        failure,
    }
}

fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    op(Request::RequestTxn(branches(success, failure)))
}

fn compare(key: &str) -> Compare {
    Compare {
        key: key.to_owned().into(),
        ..Default::default()
    }
}

#[test]
fn duplicate_keys_by_table() {
    let cases: Vec<(&str, bool, Vec<RequestOp>)> = vec![
        ("nothing", true, vec![]),
        ("two gets", true, vec![get("a"), get("a")]),
        ("put and get", true, vec![put("a"), get("a")]),
        ("two puts", false, vec![put("a"), put("a")]),
        ("two keys", true, vec![put("a"), put("b")]),
        ("put then delete", false, vec![put("a"), del("a", "")]),
        ("delete then put", false, vec![del("a", ""), put("a")]),
        (
            "delete of an interval with the put",
            false,
            vec![del("a", "c"), put("b")],
        ),
        (
            "put at the end of the interval",
            true,
            vec![del("a", "b"), put("b")],
        ),
        (
            "delete from a key on",
            false,
            vec![put("z"), del("a", "\0")],
        ),
        (
            "delete from a later key on",
            true,
            vec![put("a"), del("b", "\0")],
        ),
        (
            "delete of an empty interval",
            true,
            vec![put("b"), del("b", "a")],
        ),
        (
            "deletes may overlap",
            true,
            vec![del("a", "c"), del("b", "d"), del("a", "\0")],
        ),
        (
            "same key twice in deletes",
            true,
            vec![del("a", ""), del("a", "")],
        ),
        (
            "put between deletes",
            true,
            vec![del("a", "b"), del("c", "d"), put("b")],
        ),
        (
            "put under a long delete",
            false,
            vec![del("a", "x"), del("b", "c"), put("d")],
        ),
        (
            "put right after a deleted key",
            true,
            vec![del("a", ""), put("a\0")],
        ),
        (
            "nested put of a put key",
            false,
            vec![put("a"), nested(vec![put("a")], vec![])],
        ),
        (
            "nested put, later put",
            false,
            vec![nested(vec![], vec![put("a")]), put("a")],
        ),
        (
            "nested put of a deleted key",
            false,
            vec![nested(vec![put("a")], vec![]), del("a", "")],
        ),
        (
            "nested delete of a put key",
            false,
            vec![put("a"), nested(vec![del("a", "")], vec![])],
        ),
        (
            "both branches put",
            true,
            vec![nested(vec![put("a")], vec![put("a")])],
        ),
        (
            "one puts, the other deletes",
            true,
            vec![nested(vec![put("a")], vec![del("a", "")])],
        ),
        (
            "one deletes, the other puts",
            true,
            vec![nested(vec![del("a", "")], vec![put("a")])],
        ),
        (
            "both branches put, outer too",
            false,
            vec![nested(vec![put("a")], vec![put("a")]), put("a")],
        ),
        (
            "siblings put",
            false,
            vec![
                nested(vec![put("a")], vec![]),
                nested(vec![], vec![put("a")]),
            ],
        ),
        (
            "sibling deletes first",
            false,
            vec![
                nested(vec![del("a", "")], vec![]),
                nested(vec![put("a")], vec![]),
            ],
        ),
        (
            "sibling puts first",
            true,
            vec![
                nested(vec![put("a")], vec![]),
                nested(vec![del("a", "")], vec![]),
            ],
        ),
        (
            "delete two levels down",
            false,
            vec![
                nested(vec![nested(vec![], vec![del("a", "\0")])], vec![]),
                put("b"),
            ],
        ),
        (
            "two puts inside a nested branch",
            false,
            vec![nested(vec![], vec![put("a"), put("a")])],
        ),
    ];
    for (name, accepted, ops) in cases {
        let wanted = if accepted {
            Ok(())
        } else {
            Err(Status::duplicate_key())
        };
        assert_eq!(
            txn(&branches(ops.clone(), vec![]), OPS_MAX),
            wanted,
            "{name}, success"
        );
        assert_eq!(
            txn(&branches(vec![], ops.clone()), OPS_MAX),
            wanted,
            "{name}, failure"
        );
        assert_eq!(
            txn(&branches(vec![nested(vec![], ops)], vec![]), OPS_MAX),
            wanted,
            "{name}"
        );
    }
    assert_eq!(
        txn(&branches(vec![put("a")], vec![put("a"), get("b")]), OPS_MAX),
        Ok(())
    );
}

#[test]
fn the_longest_list_counts_against_the_budget() {
    let puts = |n: usize| (0..n).map(|i| put(&format!("k{i}"))).collect::<Vec<_>>();
    assert_eq!(txn(&branches(puts(128), puts(128)), 128), Ok(()));
    assert_eq!(
        txn(&branches(puts(129), vec![]), 128),
        Err(Status::too_many_ops())
    );
    assert_eq!(
        txn(&branches(vec![], puts(129)), 128),
        Err(Status::too_many_ops())
    );
    let compares = |n: usize| TxnRequest {
        compare: vec![compare("k"); n],
        ..Default::default()
    };
    assert_eq!(txn(&compares(128), 128), Ok(()));
    assert_eq!(txn(&compares(129), 128), Err(Status::too_many_ops()));
    assert_eq!(txn(&compares(0), 0), Ok(()));
}

#[test]
fn a_nested_transaction_has_what_its_parent_left() {
    let with_child = |parent_ops: usize, child_ops: usize| {
        let mut ops: Vec<_> = (1..parent_ops).map(|_| get("p")).collect();
        ops.push(nested((0..child_ops).map(|_| get("c")).collect(), vec![]));
        branches(ops, vec![])
    };
    assert_eq!(txn(&with_child(100, 28), 128), Ok(()));
    assert_eq!(txn(&with_child(100, 29), 128), Err(Status::too_many_ops()));
    // The parent's longest list counts, not the one the child is in.
    let mut longer_elsewhere = with_child(1, 28);
    longer_elsewhere.compare = vec![compare("k"); 101];
    assert_eq!(txn(&longer_elsewhere, 128), Err(Status::too_many_ops()));
    // Siblings do not add up.
    let child = || nested((0..100).map(|_| get("c")).collect(), vec![]);
    assert_eq!(txn(&branches(vec![child(); 28], vec![]), 128), Ok(()));
    assert_eq!(
        txn(&branches(vec![child(); 29], vec![]), 128),
        Err(Status::too_many_ops())
    );
}

#[test]
fn nesting_is_bounded_by_the_budget() {
    let deep = |levels: usize| {
        let mut request = TxnRequest::default();
        for _ in 0..levels {
            request = branches(vec![op(Request::RequestTxn(request))], vec![]);
        }
        request
    };
    assert_eq!(txn(&deep(128), 128), Ok(()));
    assert_eq!(txn(&deep(129), 128), Err(Status::too_many_ops()));
}

#[test]
fn shape_comes_before_duplicates_and_in_list_order() {
    let duplicates = vec![put("a"), put("a")];
    let broken = vec![RequestOp { request: None }];
    assert_eq!(
        txn(&branches(duplicates.clone(), broken), OPS_MAX),
        Err(Status::key_not_found())
    );
    let no_key = branches(duplicates, vec![put("")]);
    assert_eq!(txn(&no_key, OPS_MAX), Err(Status::key_not_provided()));
    for op in [
        get(""),
        put(""),
        del("", ""),
        del("", "z"),
        nested(vec![get("")], vec![]),
    ] {
        assert_eq!(
            txn(&branches(vec![], vec![op]), OPS_MAX),
            Err(Status::key_not_provided())
        );
    }
    let compare_without_key = TxnRequest {
        compare: vec![compare("a"), compare("")],
        success: vec![RequestOp { request: None }],
        failure: vec![],
    };
    assert_eq!(
        txn(&compare_without_key, OPS_MAX),
        Err(Status::key_not_provided())
    );
    let flags = PutRequest {
        key: "k".into(),
        ignore_lease: true,
        lease: 1,
        ..Default::default()
    };
    let request = branches(vec![op(Request::RequestPut(flags))], vec![]);
    assert_eq!(txn(&request, OPS_MAX), Err(Status::lease_provided()));
    let sort = RangeRequest {
        key: "k".into(),
        sort_order: 3,
        ..Default::default()
    };
    let request = branches(vec![op(Request::RequestRange(sort))], vec![]);
    assert_eq!(txn(&request, OPS_MAX), Err(Status::invalid_sort_option()));
}

#[test]
fn only_ranges_in_both_branches_make_a_read() {
    let serializable = op(Request::RequestRange(RangeRequest {
        key: "k".into(),
        serializable: true,
        ..Default::default()
    }));
    for (request, read_only, is_serializable) in [
        (branches(vec![], vec![]), true, true),
        (branches(vec![get("a")], vec![get("b")]), true, false),
        (
            branches(vec![serializable.clone()], vec![serializable.clone()]),
            true,
            true,
        ),
        (
            branches(vec![serializable.clone()], vec![get("b")]),
            true,
            false,
        ),
        (branches(vec![get("a")], vec![put("b")]), false, false),
        (
            branches(vec![serializable.clone(), del("a", "")], vec![]),
            false,
            false,
        ),
        (
            branches(vec![nested(vec![serializable], vec![])], vec![]),
            false,
            false,
        ),
    ] {
        assert_eq!(txn_is_read_only(&request), read_only, "{request:?}");
        assert_eq!(
            txn_is_serializable(&request),
            is_serializable,
            "{request:?}"
        );
    }
}

#[test]
fn many_nested_writes_are_checked_in_time() {
    // Each level adds a delete to thousands of puts below it: naive merging would take minutes.
    let leaves = |from: usize| {
        nested(
            (0..64).map(|i| put(&format!("k{:06}", from + i))).collect(),
            vec![],
        )
    };
    let mut level: Vec<RequestOp> = (0..50).map(|i| leaves(i * 64)).collect();
    for depth in 0..40 {
        let dels = (0..10).map(|i| del(&format!("d{depth:03}{i}"), ""));
        level = vec![nested(level, dels.clone().collect())];
        level.extend(dels);
    }
    assert_eq!(txn(&branches(level, vec![]), 1000), Ok(()));
}

/// The same rules with plain lists.
fn model(branch: &[RequestOp]) -> Option<(Vec<Vec<u8>>, Vec<KeyRange>)> {
    let mut puts: Vec<Vec<u8>> = vec![];
    let mut deletes: Vec<KeyRange> = vec![];
    for op in branch {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            deletes.push(KeyRange::new(&delete.key, &delete.range_end));
        }
    }
    for op in branch {
        if let Some(Request::RequestTxn(inner)) = &op.request {
            let (success_puts, success_deletes) = model(&inner.success)?;
            let (failure_puts, failure_deletes) = model(&inner.failure)?;
            for key in &success_puts {
                if puts.contains(key) || deletes.iter().any(|range| range.contains(key)) {
                    return None;
                }
            }
            for key in &failure_puts {
                if success_puts.contains(key) {
                    continue;
                }
                if puts.contains(key) || deletes.iter().any(|range| range.contains(key)) {
                    return None;
                }
            }
            puts.extend(success_puts);
            puts.extend(failure_puts);
            deletes.extend(success_deletes);
            deletes.extend(failure_deletes);
        }
    }
    for op in branch {
        if let Some(Request::RequestPut(put)) = &op.request {
            let key = put.key.to_vec();
            if puts.contains(&key) || deletes.iter().any(|range| range.contains(&key)) {
                return None;
            }
            puts.push(key);
        }
    }
    Some((puts, deletes))
}

fn any_branch() -> impl Strategy<Value = Vec<RequestOp>> {
    let key = || proptest::string::string_regex("[a-f]{1,2}").unwrap();
    let end = || proptest::string::string_regex("[a-g]{0,2}|\0").unwrap();
    let leaf = prop_oneof![
        4 => key().prop_map(|key| put(&key)),
        1 => key().prop_map(|key| get(&key)),
        2 => (key(), end()).prop_map(|(key, end)| del(&key, &end)),
        2 => key().prop_map(|key| del(&key, &format!("{key}\0"))),
    ];
    let op = leaf.prop_recursive(3, 24, 4, |inner| {
        (
            proptest::collection::vec(inner.clone(), 0..4),
            proptest::collection::vec(inner, 0..3),
        )
            .prop_map(|(success, failure)| nested(success, failure))
    });
    proptest::collection::vec(op, 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn duplicates_agree_with_the_model(branch in any_branch()) {
        prop_assert_eq!(Writes::of(&branch).is_ok(), model(&branch).is_some());
        prop_assert_eq!(branch_is_unique(&branch).is_ok(), model(&branch).is_some());
    }
}
