//! Transactions.

use kvnode_api::compare::TargetUnion;
use kvnode_api::response_op::Response;
use kvnode_api::{
    Compare, CompareResult, CompareTarget, PutRequest, RangeRequest, ResponseHeader, ResponseOp,
    Status, TxnRequest,
};

use super::harness::{
    all, bytes, compare, delete, entry, fresh, header_revision, keys, op, put, range, summary, then,
};

fn inner(op: &ResponseOp) -> i64 {
    let header = match op.response.as_ref().unwrap() {
        Response::ResponseRange(response) => &response.header,
        Response::ResponsePut(response) => &response.header,
        Response::ResponseDeleteRange(response) => &response.header,
        Response::ResponseTxn(response) => &response.header,
    };
    let header = header.as_ref().unwrap();
    assert_eq!(
        *header,
        ResponseHeader {
            revision: header.revision,
            ..Default::default()
        }
    );
    header.revision
}

#[test]
fn an_empty_txn_succeeds_at_the_current_revision() {
    let mut machine = fresh();
    machine.put("a", "1");
    let response = machine.view().read_txn(&TxnRequest::default()).unwrap();
    assert!(response.succeeded && response.responses.is_empty());
    assert_eq!(header_revision(&response.header), 2);
    assert_eq!(machine.txn(TxnRequest::default()).unwrap(), response);
}

#[test]
fn overlapping_deletes_each_count_what_is_left() {
    let mut machine = fresh();
    for key in ["a", "b", "c"] {
        machine.put(key, "v");
    }
    let response = machine
        .txn(then([op(delete("a", "c")), op(delete("b", "z"))]))
        .unwrap();
    let deleted: Vec<_> = response
        .responses
        .iter()
        .map(|op| match op.response.as_ref().unwrap() {
            Response::ResponseDeleteRange(delete) => delete.deleted,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(deleted, [2, 1]);
    assert_eq!(
        summary(machine.changes.last().unwrap()),
        ["DELETE a", "DELETE b", "DELETE c"]
    );
}

#[test]
fn put_then_delete_of_a_key_by_sibling_txns_both_happen_at_one_revision() {
    let mut machine = fresh();
    machine.put("a", "old");
    let request = then([
        op(then([op(put("a", "new"))])),
        op(then([op(delete("a", ""))])),
    ]);
    machine.txn(request).unwrap();
    assert_eq!((machine.revision(), machine.get("a")), (3, None));
    let change = machine.changes.last().unwrap();
    assert_eq!(summary(change), ["PUT a", "DELETE a"]);
    // Both show the pair before the revision, not what came in between.
    for event in &change.events {
        assert_eq!(event.prev_kv.as_ref().unwrap().value, bytes("old"));
        assert_eq!(event.kv.as_ref().unwrap().mod_revision, 3);
    }
    assert_eq!(machine.history(3, 1).first(), Some(change));
    let at = |revision| {
        machine
            .range(RangeRequest {
                revision,
                ..range("a", "")
            })
            .unwrap()
    };
    assert_eq!(at(2).kvs[0].value, bytes("old"));
    assert_eq!(at(3).count, 0);
}

#[test]
fn later_operations_see_earlier_ones_and_inner_headers_tell_from_when_on() {
    let mut machine = fresh();
    machine.put("z", "1");
    let request = then([
        op(range("a", "")),
        op(put("a", "1")),
        op(range("a", "")),
        op(put("b", "1")),
        op(RangeRequest {
            keys_only: true,
            ..range("a", "c")
        }),
    ]);
    let response = machine.txn(request).unwrap();
    let revisions: Vec<_> = response.responses.iter().map(inner).collect();
    assert_eq!(revisions, [2, 3, 3, 3, 3]);
    assert_eq!(header_revision(&response.header), 3);
    let Some(Response::ResponseRange(last)) = &response.responses[4].response else {
        panic!()
    };
    assert_eq!(keys(last), ["a", "b"]);
    let subs: Vec<_> = summary(machine.changes.last().unwrap());
    assert_eq!(subs, ["PUT a", "PUT b"]);
}

#[test]
fn a_range_before_any_change_of_its_txn_names_the_start_revision() {
    let mut machine = fresh();
    let response = machine
        .txn(then([op(range("a", "")), op(put("a", "1"))]))
        .unwrap();
    assert_eq!(
        response.responses.iter().map(inner).collect::<Vec<_>>(),
        [1, 2]
    );
}

#[test]
fn nested_compares_see_the_state_before_the_txn() {
    let mut machine = fresh();
    machine.put("a", "old");
    let nested = TxnRequest {
        compare: vec![compare(
            "a",
            CompareTarget::Value,
            CompareResult::Equal,
            TargetUnion::Value(bytes("new")),
        )],
        success: vec![op(put("saw", "new"))],
        failure: vec![op(put("saw", "old"))],
    };
    let response = machine
        .txn(then([op(put("a", "new")), op(nested)]))
        .unwrap();
    assert_eq!(machine.get("saw").unwrap().value, bytes("old"));
    assert_eq!(
        response.responses.iter().map(inner).collect::<Vec<_>>(),
        [3, 0]
    );
    let Some(Response::ResponseTxn(nested)) = &response.responses[1].response else {
        panic!()
    };
    assert!(!nested.succeeded);
    assert_eq!(inner(&nested.responses[0]), 3);
}

#[test]
fn deleting_an_absent_key_alone_uses_no_revision() {
    let mut machine = fresh();
    let response = machine.txn(then([op(delete("a", ""))])).unwrap();
    assert_eq!(
        (
            header_revision(&response.header),
            inner(&response.responses[0])
        ),
        (1, 1)
    );
    assert_eq!(machine.revision(), 1);
}

#[test]
fn a_delete_of_nothing_names_the_new_revision_only_after_a_change() {
    let mut machine = fresh();
    let response = machine
        .txn(then([op(delete("x", "")), op(put("b", ""))]))
        .unwrap();
    assert_eq!(
        response.responses.iter().map(inner).collect::<Vec<_>>(),
        [1, 2]
    );
    let response = machine
        .txn(then([op(put("b", "")), op(delete("x", ""))]))
        .unwrap();
    assert_eq!(
        response.responses.iter().map(inner).collect::<Vec<_>>(),
        [3, 3]
    );
}

#[test]
fn one_impossible_range_refuses_the_whole_txn() {
    let mut machine = fresh();
    for value in ["1", "2", "3"] {
        machine.put("a", value);
    }
    machine.compact(3).unwrap();
    let at = |revision| {
        op(RangeRequest {
            revision,
            ..range("a", "")
        })
    };
    for (revision, status) in [
        (5, Status::future_revision()),
        (6, Status::future_revision()),
        (2, Status::compacted()),
        (-1, Status::compacted()),
    ] {
        let flat = then([op(put("b", "")), at(revision)]);
        let nested = then([op(put("b", "")), op(then([at(revision)]))]);
        assert_eq!(machine.txn(flat), Err(status.clone()));
        assert_eq!(machine.txn(nested), Err(status.clone()));
        assert_eq!(machine.view().read_txn(&then([at(revision)])), Err(status));
    }
    let sort = op(RangeRequest {
        sort_order: 9,
        ..range("a", "")
    });
    assert_eq!(
        machine.txn(then([op(put("b", "")), sort])),
        Err(Status::invalid_sort_option())
    );
    assert_eq!((machine.revision(), machine.get("b")), (4, None));
    machine.txn(then([op(put("b", "")), at(3), at(4)])).unwrap();
}

#[test]
fn a_negative_range_revision_passes_in_a_store_never_compacted() {
    let mut machine = fresh();
    let at = |revision| {
        op(RangeRequest {
            revision,
            ..range("a", "")
        })
    };
    machine.txn(then([op(put("a", "")), at(-1)])).unwrap();
    assert_eq!(
        machine.txn(then([op(put("a", "")), at(-2)])),
        Err(Status::compacted())
    );
}

#[test]
fn ranges_at_revisions_of_the_same_call_are_answered() {
    let mut machine = fresh();
    let at = |revision| {
        op(RangeRequest {
            revision,
            ..range("a", "")
        })
    };
    let entries = [
        entry(1, kvnode_store::Kind::Put, &put("a", "1")),
        entry(2, kvnode_store::Kind::Put, &put("a", "2")),
        entry(
            3,
            kvnode_store::Kind::Txn,
            &then([op(put("a", "3")), at(2), at(3), at(0)]),
        ),
        entry(4, kvnode_store::Kind::Put, &put("b", "")),
    ];
    let step = machine.step(&entries);
    let Ok(kvnode_store::Response::Txn(response)) = &step.replies[2].result else {
        panic!()
    };
    let values: Vec<_> = response.responses[1..]
        .iter()
        .map(|op| match op.response.as_ref().unwrap() {
            Response::ResponseRange(range) => range.kvs[0].value.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(values, ["1", "2", "3"]);
    assert_eq!(step.changes.len(), 4);
    assert_eq!(step.view.applied_index(), 4);
}

#[test]
fn one_unknown_lease_among_puts_refuses_them_all() {
    let mut machine = fresh();
    let leased = op(PutRequest {
        lease: 404,
        ..put("b", "")
    });
    assert_eq!(
        machine.txn(then([op(put("a", "")), leased])),
        Err(Status::lease_not_found())
    );
    let ignoring = op(PutRequest {
        ignore_value: true,
        ..put("b", "")
    });
    assert_eq!(
        machine.txn(then([op(put("a", "")), ignoring])),
        Err(Status::key_not_found())
    );
    assert_eq!(
        (machine.revision(), machine.range(all()).unwrap().count),
        (1, 0)
    );
}

#[test]
fn only_the_branch_taken_is_held_against_the_state() {
    let mut machine = fresh();
    let leased = op(PutRequest {
        lease: 404,
        ..put("b", "")
    });
    let request = TxnRequest {
        compare: vec![],
        success: vec![op(put("a", ""))],
        failure: vec![leased],
    };
    assert!(machine.txn(request).unwrap().succeeded);
}

#[test]
fn an_absent_key_compares_as_zeros_and_has_no_value() {
    let machine = fresh();
    let holds = |compare: Compare| {
        let request = TxnRequest {
            compare: vec![compare],
            ..TxnRequest::default()
        };
        machine.view().read_txn(&request).unwrap().succeeded
    };
    use CompareResult::{Equal, Greater, Less, NotEqual};
    assert!(holds(compare(
        "a",
        CompareTarget::Version,
        Equal,
        TargetUnion::Version(0)
    )));
    assert!(holds(compare(
        "a",
        CompareTarget::Mod,
        Less,
        TargetUnion::ModRevision(5)
    )));
    assert!(holds(compare(
        "a",
        CompareTarget::Lease,
        Equal,
        TargetUnion::Lease(0)
    )));
    assert!(!holds(compare(
        "a",
        CompareTarget::Create,
        Greater,
        TargetUnion::CreateRevision(0)
    )));
    for result in [Equal, Greater, Less, NotEqual] {
        for value in ["", "x"] {
            let value = TargetUnion::Value(bytes(value));
            assert!(!holds(compare("a", CompareTarget::Value, result, value)));
        }
    }
}

#[test]
fn compares_look_at_the_right_field_and_the_matching_member_only() {
    let mut machine = fresh();
    machine.grant(7, 10).unwrap();
    machine.put("a", "v");
    machine
        .try_put(PutRequest {
            lease: 7,
            ..put("a", "w")
        })
        .unwrap();
    let holds = |compare: Compare| {
        let request = TxnRequest {
            compare: vec![compare],
            ..TxnRequest::default()
        };
        machine.view().read_txn(&request).unwrap().succeeded
    };
    use CompareResult::{Equal, Greater, Less, NotEqual};
    use CompareTarget::{Create, Lease, Mod, Value, Version};
    for (target, right) in [
        (Version, TargetUnion::Version(2)),
        (Create, TargetUnion::CreateRevision(2)),
        (Mod, TargetUnion::ModRevision(3)),
        (Lease, TargetUnion::Lease(7)),
        (Value, TargetUnion::Value(bytes("w"))),
    ] {
        assert!(
            holds(compare("a", target, Equal, right.clone())),
            "{target:?}"
        );
        assert!(!holds(compare("a", target, NotEqual, right.clone())));
        assert!(!holds(compare("a", target, Greater, right.clone())));
        assert!(!holds(compare("a", target, Less, right)));
    }
    // Another member, or none: the right side is 0 or empty.
    assert!(!holds(compare(
        "a",
        Version,
        Equal,
        TargetUnion::ModRevision(2)
    )));
    assert!(holds(compare(
        "a",
        Version,
        Greater,
        TargetUnion::ModRevision(99)
    )));
    assert!(holds(compare("a", Value, Greater, TargetUnion::Version(1))));
    // Numbers nobody defined.
    let mut odd = compare("a", Version, Equal, TargetUnion::Version(99));
    odd.result = 9;
    assert!(holds(odd.clone()));
    (odd.result, odd.target) = (Equal as i32, 9);
    assert!(holds(odd.clone()));
    odd.result = NotEqual as i32;
    assert!(!holds(odd));
}

#[test]
fn a_compare_over_an_interval_holds_for_all_keys_or_not_at_all() {
    let mut machine = fresh();
    for key in ["a", "b", "c"] {
        machine.put(key, "v");
    }
    let holds = |key: &str, end: &str, result, right| {
        let compare = Compare {
            range_end: bytes(end),
            ..compare(
                key,
                CompareTarget::Create,
                result,
                TargetUnion::CreateRevision(right),
            )
        };
        let request = TxnRequest {
            compare: vec![compare],
            ..TxnRequest::default()
        };
        machine.view().read_txn(&request).unwrap().succeeded
    };
    assert!(holds("a", "\0", CompareResult::Greater, 0));
    assert!(!holds("a", "\0", CompareResult::Greater, 2));
    assert!(holds("b", "\0", CompareResult::Greater, 2));
    // Without keys: as for an absent key.
    assert!(holds("x", "z", CompareResult::Equal, 0));
    assert!(!holds("x", "z", CompareResult::Greater, 0));
}

#[test]
fn a_write_txn_of_nested_reads_moves_the_index_and_no_revision() {
    let mut machine = fresh();
    machine.put("a", "1");
    let response = machine.txn(then([op(then([op(range("a", ""))]))])).unwrap();
    assert_eq!((machine.view().applied_index(), machine.revision()), (2, 2));
    assert_eq!(header_revision(&response.header), 2);
    assert!(machine.changes.len() == 1);
}

#[test]
fn a_read_txn_never_writes() {
    let machine = fresh();
    assert!(machine.view().read_txn(&then([op(put("a", ""))])).is_err());
    assert!(
        machine
            .view()
            .read_txn(&then([op(delete("a", ""))]))
            .is_err()
    );
}
