//! Alarms, the quota, and what they refuse.

use kvnode_api::alarm_request::AlarmAction;
use kvnode_api::{AlarmMember, AlarmRequest, AlarmType, PutRequest, Status, TxnRequest};
use kvnode_store::{Config, Kind, Response, quota};

use super::harness::{Machine, all, delete, fresh, op, put, then, with};

fn alarm(machine: &mut Machine, action: AlarmAction, member: u64, kind: AlarmType) -> Vec<u64> {
    let request = AlarmRequest {
        action: action as i32,
        member_id: member,
        alarm: kind as i32,
    };
    match machine.apply(Kind::Alarm, &request).unwrap() {
        Response::Alarm(response) => {
            assert_eq!(response.header.unwrap().revision, machine.revision());
            response
                .alarms
                .iter()
                .map(|alarm| alarm.member_id)
                .collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn under_nospace_only_what_costs_space_is_refused() {
    let mut machine = fresh();
    machine.grant(1, 10).unwrap();
    machine
        .try_put(PutRequest {
            lease: 1,
            ..put("leased", "v")
        })
        .unwrap();
    machine.put("k", "v");
    alarm(&mut machine, AlarmAction::Activate, 7, AlarmType::Nospace);
    let active = [AlarmMember {
        member_id: 7,
        alarm: AlarmType::Nospace as i32,
    }];
    assert_eq!(machine.view().alarms().list(0), active);

    let no_space = Status::no_space();
    assert_eq!(machine.try_put(put("k", "w")), Err(no_space.clone()));
    assert_eq!(machine.grant(2, 10), Err(no_space.clone()));
    // Even if the branch that is taken has no put.
    let costly = TxnRequest {
        failure: vec![op(put("k", "w"))],
        ..TxnRequest::default()
    };
    assert_eq!(machine.txn(costly), Err(no_space));
    assert_eq!(machine.revision(), 3);

    machine.txn(then([op(delete("k", ""))])).unwrap();
    machine.revoke(1).unwrap();
    machine.compact(3).unwrap();
    assert_eq!(machine.range(all()).unwrap().count, 0);

    assert!(alarm(&mut machine, AlarmAction::Deactivate, 0, AlarmType::Nospace).is_empty());
    assert!(machine.try_put(put("k", "w")).is_err(), "0 is no wildcard");
    assert_eq!(
        alarm(&mut machine, AlarmAction::Deactivate, 7, AlarmType::Nospace),
        [7]
    );
    machine.put("k", "w");
}

#[test]
fn under_corrupt_everything_that_changes_is_refused_and_reads_go_on() {
    let mut machine = fresh();
    machine.grant(1, 10).unwrap();
    machine.put("k", "v");
    alarm(&mut machine, AlarmAction::Activate, 7, AlarmType::Nospace);
    alarm(&mut machine, AlarmAction::Activate, 8, AlarmType::Corrupt);
    let corrupt = Status::corrupt();
    assert_eq!(machine.try_put(put("k", "w")), Err(corrupt.clone()));
    assert_eq!(machine.try_delete(delete("k", "")), Err(corrupt.clone()));
    assert_eq!(
        machine.txn(then([op(delete("k", ""))])),
        Err(corrupt.clone())
    );
    assert_eq!(machine.compact(2), Err(corrupt.clone()));
    assert_eq!(machine.grant(2, 10), Err(corrupt.clone()));
    assert_eq!(machine.revoke(1), Err(corrupt));
    assert_eq!(machine.range(all()).unwrap().count, 1);
    assert_eq!(
        alarm(&mut machine, AlarmAction::Get, 0, AlarmType::None),
        [7, 8]
    );
    assert_eq!(
        alarm(&mut machine, AlarmAction::Get, 99, AlarmType::Corrupt),
        [8]
    );
}

#[test]
fn reaching_the_quota_applies_the_write_and_answers_out_of_space() {
    let mut machine = with(Config {
        quota_bytes: Some(10_000),
        ..Config::default()
    });
    let request = put("k", &"x".repeat(3000));
    let cost = quota::put_cost(&request);
    assert!(!machine.view().quota_exceeded(cost));
    machine.try_put(request.clone()).unwrap();
    machine.try_put(request.clone()).unwrap();
    // 3 kB live, 3 kB of history.
    assert!((6000..6400).contains(&machine.view().live_bytes()));
    machine.try_put(request.clone()).unwrap();
    assert!(machine.view().quota_exceeded(cost));
    assert_eq!(machine.try_put(request.clone()), Err(Status::no_space()));
    assert_eq!(
        machine.get("k").unwrap().version,
        4,
        "members may differ in their quota"
    );
    assert!(machine.view().quota_exceeded(quota::LEASE_GRANT_COST));
    assert_eq!(machine.grant(1, 10), Err(Status::no_space()));
    assert!(machine.view().lease(1, false).unwrap().is_some());
    // What costs nothing goes on, and compaction makes room.
    assert!(!machine.view().quota_exceeded(0));
    machine.compact(machine.revision()).unwrap();
    assert!(!machine.view().quota_exceeded(cost));
    machine.try_put(request).unwrap();
}

#[test]
fn counters_return_to_zero_when_everything_is_gone() {
    let mut machine = fresh();
    machine.grant(1, 10).unwrap();
    machine
        .try_put(PutRequest {
            lease: 1,
            ..put("a", "some value")
        })
        .unwrap();
    machine.put("b", "another value");
    machine.put("b", "");
    machine.txn(then([op(delete("b", ""))])).unwrap();
    assert!(machine.view().stats().live_bytes > 0);
    machine.revoke(1).unwrap();
    let stats = machine.view().stats();
    assert_eq!((stats.keys, stats.leases, stats.live_bytes), (0, 0, 0));
    assert!(stats.history_bytes > 0);
}
