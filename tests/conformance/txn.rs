//! Txn (cases 50-72, 75, 76).

use kvnode_api as api;
use kvnode_tests::words::number::*;
use kvnode_tests::words::*;
use kvnode_tests::{Client, code, idle};

async fn commit(client: &Client, request: api::TxnRequest) -> api::TxnResponse {
    client.txn(request).await.expect("the transaction is legal")
}

/// Succeeds or fails by its compares alone.
async fn holds(client: &Client, compare: Vec<api::Compare>) -> bool {
    commit(client, txn(compare, vec![], vec![])).await.succeeded
}

/// case 50
#[test]
fn an_empty_txn_succeeds_without_a_revision() {
    idle(async |_, client| {
        let now = client.revision().await;
        let answer = commit(&client, then(vec![])).await;
        assert!(answer.succeeded);
        assert_eq!(
            (answer.responses.len(), revision_of(&answer.header)),
            (0, now)
        );
    });
}

/// case 51
#[test]
fn one_branch_puts_a_key_once() {
    idle(async |_, client| {
        let twice = vec![put("x", "1").op(), put("x", "2").op()];
        refused(
            client.txn(then(twice.clone())).await,
            refusal::duplicate_key(),
        );
        let failing = txn(vec![], vec![], twice);
        refused(client.txn(failing).await, refusal::duplicate_key());
        assert!(client.read("x").await.is_none());
    });
}

/// case 52
#[test]
fn a_put_does_not_meet_a_delete_that_covers_it() {
    idle(async |_, client| {
        let (p, d) = (put("x", "1").op(), delete_span("a", "z").op());
        for ops in [vec![p.clone(), d.clone()], vec![d, p.clone()]] {
            refused(client.txn(then(ops)).await, refusal::duplicate_key());
        }
        let ops = vec![p, delete("x").op()];
        refused(client.txn(then(ops)).await, refusal::duplicate_key());
    });
}

/// case 53
#[test]
fn overlapping_deletes_share_what_is_there() {
    idle(async |_, client| {
        for key in ["a", "b", "c", "d"] {
            client.write(key, "v").await;
        }
        let ops = vec![delete_span("a", "c").op(), delete_span("b", "e").op()];
        let answer = commit(&client, then(ops)).await;
        assert_eq!(answer.responses[0].as_delete().deleted, 2);
        assert_eq!(answer.responses[1].as_delete().deleted, 2);
    });
}

/// case 54
#[test]
fn both_branches_may_put_the_same_key() {
    idle(async |_, client| {
        let request = txn(
            vec![],
            vec![put("x", "yes").op()],
            vec![put("x", "no").op()],
        );
        assert!(commit(&client, request).await.succeeded);
        assert_eq!(&client.read("x").await.expect("put").value[..], b"yes");
    });
}

/// case 55
#[test]
fn a_nested_put_collides_with_its_parents_put_but_not_across_branches() {
    idle(async |_, client| {
        let inner = then(vec![put("x", "2").op()]);
        let ops = vec![put("x", "1").op(), inner.op()];
        refused(client.txn(then(ops)).await, refusal::duplicate_key());
        let inner = txn(
            vec![],
            vec![put("x", "then").op()],
            vec![put("x", "else").op()],
        );
        commit(&client, then(vec![inner.op()])).await;
        assert_eq!(&client.read("x").await.expect("put").value[..], b"then");
    });
}

/// case 56
#[test]
fn sibling_txns_put_then_delete_but_not_delete_then_put() {
    idle(async |_, client| {
        let before = client.write("a", "0").await;
        let putting = then(vec![put("a", "1").op()]).op();
        let deleting = then(vec![delete("a").op()]).op();
        let answer = commit(&client, then(vec![putting.clone(), deleting.clone()])).await;
        assert_eq!(revision_of(&answer.header), before + 1);
        assert!(client.read("a").await.is_none());
        let backward = then(vec![deleting, putting]);
        refused(client.txn(backward).await, refusal::duplicate_key());
    });
}

/// case 57
#[test]
fn a_branch_and_the_compares_hold_at_most_128() {
    idle(async |_, client| {
        let gets = |count: usize| {
            (0..count)
                .map(|n| get(format!("{n}")).op())
                .collect::<Vec<_>>()
        };
        let compares = |count: usize| {
            (0..count)
                .map(|n| compare_number(format!("{n}"), EQUAL, VERSION, 0))
                .collect::<Vec<_>>()
        };
        refused(client.txn(then(gets(129))).await, refusal::too_many_ops());
        refused(
            client.txn(txn(vec![], vec![], gets(129))).await,
            refusal::too_many_ops(),
        );
        refused(
            client.txn(txn(compares(129), vec![], vec![])).await,
            refusal::too_many_ops(),
        );
        let full = txn(compares(128), gets(128), gets(128));
        assert_eq!(commit(&client, full).await.responses.len(), 128);
    });
}

/// case 58
#[test]
fn a_nested_txn_gets_what_its_parent_left() {
    idle(async |_, client| {
        let nested = |outer: usize, inner: usize| {
            let inner = then((0..inner).map(|n| put(format!("i{n}"), "v").op()).collect());
            let mut ops: Vec<_> = (0..outer).map(|n| put(format!("o{n}"), "v").op()).collect();
            ops.push(inner.op());
            then(ops)
        };
        refused(client.txn(nested(127, 1)).await, refusal::too_many_ops());
        refused(client.txn(nested(63, 65)).await, refusal::too_many_ops());
        commit(&client, nested(63, 64)).await;
        assert_eq!(client.range(all()).await.expect("range").count, 127);
    });
}

/// case 59
#[test]
fn an_operation_that_is_none_is_refused() {
    idle(async |_, client| {
        let request = then(vec![api::RequestOp { request: None }]);
        refused(client.txn(request).await, refusal::key_not_found());
    });
}

/// case 60
#[test]
fn every_key_is_checked_also_in_the_branch_not_taken() {
    idle(async |_, client| {
        let request = txn(vec![compare_number("", EQUAL, VERSION, 0)], vec![], vec![]);
        refused(client.txn(request).await, refusal::no_key());
        for op in [get("").op(), put("", "v").op(), delete("").op()] {
            let request = txn(vec![], vec![put("ok", "v").op()], vec![op]);
            refused(client.txn(request).await, refusal::no_key());
        }
        let bad = api::PutRequest {
            ignore_value: true,
            ..put("k", "v")
        };
        let request = txn(vec![], vec![], vec![bad.op()]);
        refused(client.txn(request).await, refusal::value_given());
        assert_eq!(client.range(all()).await.expect("range").count, 0);
    });
}

/// case 61
#[test]
fn operations_see_the_ones_before_them() {
    idle(async |_, client| {
        let now = client.revision().await;
        let ops = vec![
            get("a").op(),
            put("a", "1").op(),
            get("a").op(),
            put("b", "2").op(),
            span("a", "c").op(),
        ];
        let answer = commit(&client, then(ops)).await;
        let ranges: Vec<_> = [0, 2, 4]
            .iter()
            .map(|&n| answer.responses[n].as_range())
            .collect();
        assert_eq!(
            ranges.iter().map(|range| range.count).collect::<Vec<_>>(),
            [0, 1, 2]
        );
        let revisions: Vec<_> = ranges
            .iter()
            .map(|range| revision_of(&range.header))
            .collect();
        assert_eq!(revisions, [now, now + 1, now + 1]);
        assert_eq!(revision_of(&answer.responses[1].as_put().header), now + 1);
        assert_eq!(revision_of(&answer.responses[3].as_put().header), now + 1);
        assert_eq!(revision_of(&answer.header), now + 1);
        assert_eq!(ranges[2].kvs[0].mod_revision, now + 1);
    });
}

/// case 62
#[test]
fn nested_compares_see_the_state_before_the_txn() {
    idle(async |_, client| {
        client.write("k", "old").await;
        let inner = txn(
            vec![compare_value("k", EQUAL, "old")],
            vec![put("saw", "old").op()],
            vec![put("saw", "new").op()],
        );
        let answer = commit(&client, then(vec![put("k", "new").op(), inner.op()])).await;
        assert!(answer.responses[1].as_txn().succeeded);
        assert_eq!(&client.read("saw").await.expect("put").value[..], b"old");
    });
}

/// case 63
#[test]
fn inner_headers_carry_no_identity_and_a_nested_one_nothing() {
    idle(async |_, client| {
        let now = client.revision().await;
        let inner = then(vec![put("b", "2").op()]);
        let answer = commit(&client, then(vec![put("a", "1").op(), inner.op()])).await;
        let outer = answer.header.expect("outer header");
        assert!(outer.cluster_id != 0 && outer.member_id != 0 && outer.raft_term > 0);
        assert_eq!(outer.revision, now + 1);
        let put_header = answer.responses[0].as_put().header.expect("inner header");
        assert_eq!(
            put_header,
            api::ResponseHeader {
                revision: now + 1,
                ..Default::default()
            }
        );
        let nested = answer.responses[1].as_txn();
        assert_eq!(nested.header, Some(api::ResponseHeader::default()));
        assert_eq!(revision_of(&nested.responses[0].as_put().header), now + 1);
    });
}

/// case 64, 65
#[test]
fn a_delete_that_finds_nothing_takes_no_revision() {
    idle(async |_, client| {
        let now = client.revision().await;
        let answer = commit(&client, then(vec![delete("absent").op()])).await;
        assert_eq!(revision_of(&answer.header), now);
        assert_eq!(revision_of(&answer.responses[0].as_delete().header), now);
        let ops = vec![delete("absent").op(), put("b", "v").op()];
        let answer = commit(&client, then(ops)).await;
        assert_eq!(revision_of(&answer.responses[0].as_delete().header), now);
        assert_eq!(revision_of(&answer.header), now + 1);
        let ops = vec![put("b", "w").op(), delete("absent").op()];
        let answer = commit(&client, then(ops)).await;
        assert_eq!(
            revision_of(&answer.responses[1].as_delete().header),
            now + 2
        );
    });
}

/// case 66
#[test]
fn a_range_of_the_revision_being_made_fails_the_whole_txn() {
    idle(async |_, client| {
        let now = client.revision().await;
        let at = |revision| api::RangeRequest {
            revision,
            ..get("a")
        };
        let ops = vec![put("a", "v").op(), at(now + 1).op()];
        refused(client.txn(then(ops)).await, refusal::future());
        assert!(client.read("a").await.is_none());
        assert_eq!(client.revision().await, now);
        let ops = vec![put("a", "v").op(), at(now).op()];
        let answer = commit(&client, then(ops)).await;
        assert_eq!(
            answer.responses[1].as_range().count,
            0,
            "the state before the put"
        );
    });
}

/// case 67
#[test]
fn a_range_below_the_compaction_fails_the_whole_txn() {
    idle(async |_, client| {
        let first = client.write("old", "v").await;
        let now = client.write("old", "w").await;
        client.compact(compact(now)).await.expect("compact");
        let below = api::RangeRequest {
            revision: first,
            ..get("old")
        };
        for ops in [
            vec![put("a", "v").op(), below.clone().op()],
            vec![below.op(), put("a", "v").op()],
        ] {
            refused(client.txn(then(ops)).await, refusal::compacted());
        }
        assert!(client.read("a").await.is_none());
        assert_eq!(client.revision().await, now);
    });
}

/// case 68
#[test]
fn an_unknown_lease_fails_the_whole_txn() {
    idle(async |_, client| {
        let now = client.revision().await;
        let leased = api::PutRequest {
            lease: 0x7001,
            ..put("b", "v")
        };
        let ops = vec![put("a", "v").op(), leased.op(), put("c", "v").op()];
        refused(client.txn(then(ops)).await, refusal::no_lease());
        assert_eq!(client.range(all()).await.expect("range").count, 0);
        assert_eq!(client.revision().await, now);
        let absent = api::PutRequest {
            ignore_value: true,
            ..put("b", "")
        };
        let ops = vec![put("a", "v").op(), absent.op()];
        refused(client.txn(then(ops)).await, refusal::key_not_found());
        assert_eq!(client.range(all()).await.expect("range").count, 0);
    });
}

/// case 69
#[test]
fn an_absent_key_compares_as_zero_and_its_value_never() {
    idle(async |_, client| {
        for (result, target, right, expected) in [
            (EQUAL, VERSION, 0, true),
            (GREATER, VERSION, 0, false),
            (LESS, MOD, 5, true),
            (EQUAL, CREATE, 0, true),
            (NOT_EQUAL, CREATE, 0, false),
            (EQUAL, LEASE, 0, true),
        ] {
            let compare = compare_number("absent", result, target, right);
            assert_eq!(
                holds(&client, vec![compare.clone()]).await,
                expected,
                "{compare:?}"
            );
        }
        for result in [EQUAL, GREATER, LESS, NOT_EQUAL] {
            for value in ["", "v"] {
                assert!(!holds(&client, vec![compare_value("absent", result, value)]).await);
            }
        }
    });
}

/// case 69: the compares themselves, on a key that is there
#[test]
fn every_result_compares_every_field() {
    idle(async |_, client| {
        let lease = client.lease(100).await;
        let create = client.write("k", "a").await;
        let modified = client.write_leased("k", "m", lease).await;
        for (target, have) in [
            (VERSION, 2),
            (CREATE, create),
            (MOD, modified),
            (LEASE, lease),
        ] {
            for (right, order) in [(have - 1, GREATER), (have, EQUAL), (have + 1, LESS)] {
                for result in [EQUAL, GREATER, LESS, NOT_EQUAL] {
                    let expected = result == order || (result == NOT_EQUAL && order != EQUAL);
                    let compare = compare_number("k", result, target, right);
                    assert_eq!(
                        holds(&client, vec![compare.clone()]).await,
                        expected,
                        "{compare:?}"
                    );
                }
            }
        }
        for (right, order) in [("a", GREATER), ("m", EQUAL), ("ma", LESS), ("z", LESS)] {
            for result in [EQUAL, GREATER, LESS, NOT_EQUAL] {
                let expected = result == order || (result == NOT_EQUAL && order != EQUAL);
                let compare = compare_value("k", result, right);
                assert_eq!(
                    holds(&client, vec![compare]).await,
                    expected,
                    "{result} {right}"
                );
            }
        }
        let both = vec![
            compare_value("k", EQUAL, "m"),
            compare_number("k", EQUAL, VERSION, 9),
        ];
        assert!(!holds(&client, both).await, "all compares have to hold");
    });
}

/// case 70
#[test]
fn a_compared_interval_holds_when_every_key_does() {
    idle(async |_, client| {
        client.write("p1", "v").await;
        client.write("p2", "v").await;
        let over = |result, target, right| {
            let compare = compare_number("p", result, target, right);
            api::Compare {
                range_end: bytes("q"),
                ..compare
            }
        };
        assert!(holds(&client, vec![over(GREATER, CREATE, 0)]).await);
        client.write("p2", "w").await;
        assert!(!holds(&client, vec![over(EQUAL, VERSION, 1)]).await);
        let none = |result, right| api::Compare {
            range_end: bytes("y"),
            ..compare_number("x", result, CREATE, right)
        };
        assert!(holds(&client, vec![none(EQUAL, 0)]).await);
        assert!(!holds(&client, vec![none(GREATER, 0)]).await);
    });
}

/// case 71
#[test]
fn a_right_side_of_another_field_counts_as_zero() {
    idle(async |_, client| {
        client.write("k", "v").await;
        let right = api::compare::TargetUnion::ModRevision(1);
        let mismatched = compare("k", EQUAL, VERSION, right.clone());
        assert!(
            !holds(&client, vec![mismatched]).await,
            "version 1 is not 0"
        );
        assert!(holds(&client, vec![compare("k", GREATER, VERSION, right)]).await);
        let without = api::Compare {
            target_union: None,
            ..compare_number("k", GREATER, VERSION, 0)
        };
        assert!(holds(&client, vec![without]).await);
    });
}

/// case 72
#[test]
fn an_unknown_result_holds() {
    idle(async |_, client| {
        client.write("k", "v").await;
        assert!(holds(&client, vec![compare_number("k", 7, VERSION, 99)]).await);
    });
}

/// case 75
#[test]
fn a_txn_of_a_nested_read_goes_through_the_log() {
    idle(async |_, client| {
        let now = client.write("k", "v").await;
        let status = async || client.status(api::StatusRequest {}).await.expect("status");
        let before = status().await.raft_applied_index;
        let answer = commit(&client, then(vec![get("k").op()])).await;
        assert_eq!(answer.responses[0].as_range().count, 1);
        assert_eq!(
            status().await.raft_applied_index,
            before,
            "a plain read does not"
        );
        let answer = commit(&client, then(vec![then(vec![get("k").op()]).op()])).await;
        assert_eq!(
            answer.responses[0].as_txn().responses[0].as_range().count,
            1
        );
        assert_eq!(revision_of(&answer.header), now);
        assert_eq!(status().await.raft_applied_index, before + 1);
    });
}

/// case 76
#[test]
fn a_txn_is_one_watch_response_in_operation_order() {
    idle(async |_, client| {
        for key in ["r3", "r1", "r2"] {
            client.write(key, "v").await;
        }
        let mut watching = client.watching().await;
        watching.create(watch_span("\0", "\0")).await;
        let ops = vec![
            put("z", "1").op(),
            delete_span("r", "s").op(),
            put("b", "2").op(),
        ];
        let revision = revision_of(&commit(&client, then(ops)).await.header);
        let answer = watching.next().await;
        let expected = ["PUT z", "DELETE r1", "DELETE r2", "DELETE r3", "PUT b"]
            .map(|event| format!("{event}@{revision}"));
        assert_eq!(briefly(&answer.events), expected);
        assert_eq!(revision_of(&answer.header), revision);
    });
}

/// case 50: the branch not taken leaves no trace
#[test]
fn the_failure_branch_runs_alone() {
    idle(async |_, client| {
        let request = txn(
            vec![compare_number("k", GREATER, VERSION, 0)],
            vec![put("k", "then").op()],
            vec![put("k", "else").op(), get("k").op()],
        );
        let answer = commit(&client, request).await;
        assert!(!answer.succeeded);
        assert_eq!(&answer.responses[1].as_range().kvs[0].value[..], b"else");
    });
}

/// case 57: txn nesting far beyond any use is refused, not a crash
#[test]
fn absurd_nesting_is_refused_and_the_server_lives() {
    idle(async |_, client| {
        let mut nested = then(vec![put("deep", "v").op()]);
        for _ in 0..2000 {
            nested = then(vec![nested.op()]);
        }
        let status = client
            .txn(nested)
            .await
            .expect_err("2000 levels exceed 128 operations");
        assert!(
            status == refusal::too_many_ops()
                || [code::INTERNAL, code::INVALID_ARGUMENT].contains(&status.code),
            "{status:?}"
        );
        client.write("k", "still serving").await;
        assert!(client.read("deep").await.is_none());
    });
}
