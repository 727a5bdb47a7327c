//! Leases.

use kvnode_api::{LeaseCheckpoint, LeaseCheckpointRequest, PutRequest, RangeRequest, Status};
use kvnode_store::engine::memory::{MemoryDisk, MemoryEngine};
use kvnode_store::{Config, Kind, LeaseChange, LeaseInfo};

use super::harness::{Machine, all, delete, entry, fresh, op, put, summary, then};

fn leased(key: &str, lease: i64) -> PutRequest {
    PutRequest {
        lease,
        ..put(key, "v")
    }
}

#[test]
fn short_times_are_raised_and_too_long_ones_refused() {
    let mut machine = fresh();
    for (id, asked, granted) in [(1, 0, 2), (2, -5, 2), (3, 1, 2), (4, 60, 60)] {
        assert_eq!(machine.grant(id, asked), Ok(granted));
    }
    assert_eq!(machine.grant(5, 9_000_000_000), Ok(9_000_000_000));
    assert_eq!(
        machine.grant(6, 9_000_000_001),
        Err(Status::lease_ttl_too_large())
    );
    assert_eq!(machine.view().stats().leases, 5);
}

#[test]
fn ids_are_unique_and_may_be_negative() {
    let mut machine = fresh();
    assert_eq!(machine.grant(-7, 10), Ok(10));
    assert_eq!(machine.grant(-7, 10), Err(Status::lease_exists()));
    assert_eq!(
        machine.grant(0, 10),
        Err(Status::lease_not_found()),
        "the proposer picks the id"
    );
    machine.try_put(leased("k", -7)).unwrap();
    assert_eq!(machine.lease_keys(-7), ["k"]);
    let listed: Vec<_> = machine
        .view()
        .leases()
        .unwrap()
        .iter()
        .map(|lease| lease.id)
        .collect();
    assert_eq!(listed, [-7]);
}

#[test]
fn unknown_leases_are_not_found() {
    let mut machine = fresh();
    assert_eq!(machine.revoke(5), Err(Status::lease_not_found()));
    assert_eq!(machine.revoke(0), Err(Status::lease_not_found()));
    assert_eq!(machine.view().lease(5, true), Ok(None));
}

#[test]
fn a_revoke_deletes_its_keys_in_key_order_in_one_revision() {
    let mut machine = fresh();
    machine.grant(1, 10).unwrap();
    for key in ["lz", "lb", "lq", "l2"] {
        machine.try_put(leased(key, 1)).unwrap();
    }
    machine.put("free", "v");
    assert_eq!(machine.revoke(1).unwrap().revision, 7);
    let change = machine.changes.last().unwrap();
    assert_eq!(
        summary(change),
        ["DELETE l2", "DELETE lb", "DELETE lq", "DELETE lz"]
    );
    assert_eq!(change.revision, 7);
    assert!(
        change
            .events
            .iter()
            .all(|event| event.prev_kv.as_ref().unwrap().lease == 1)
    );
    assert_eq!(machine.range(all()).unwrap().count, 1);
    assert_eq!(machine.view().lease(1, true), Ok(None));
    assert_eq!(
        machine.try_put(leased("k", 1)),
        Err(Status::lease_not_found())
    );
}

#[test]
fn a_revoke_without_keys_uses_no_revision() {
    let mut machine = fresh();
    machine.grant(1, 10).unwrap();
    assert_eq!(machine.revoke(1).unwrap().revision, 1);
    assert_eq!(machine.revision(), 1);
    assert_eq!(machine.grant(1, 10), Ok(10), "the id is free again");
}

#[test]
fn a_put_without_lease_detaches_and_ignore_lease_keeps() {
    let mut machine = fresh();
    machine.grant(1, 10).unwrap();
    machine.try_put(leased("a", 1)).unwrap();
    machine.try_put(leased("b", 1)).unwrap();
    machine.put("a", "v");
    machine
        .try_put(PutRequest {
            ignore_lease: true,
            ..put("b", "w")
        })
        .unwrap();
    assert_eq!(
        (
            machine.get("a").unwrap().lease,
            machine.get("b").unwrap().lease
        ),
        (0, 1)
    );
    assert_eq!(machine.lease_keys(1), ["b"]);
    machine.revoke(1).unwrap();
    assert!(machine.get("a").is_some() && machine.get("b").is_none());
}

#[test]
fn a_key_hangs_on_its_last_lease_only() {
    let mut machine = fresh();
    machine.grant(1, 10).unwrap();
    machine.grant(2, 10).unwrap();
    machine.try_put(leased("a", 1)).unwrap();
    machine.try_put(leased("a", 2)).unwrap();
    assert_eq!(machine.lease_keys(1), [""; 0]);
    assert_eq!(machine.lease_keys(2), ["a"]);
    machine.revoke(1).unwrap();
    assert!(machine.get("a").is_some());
    machine.revoke(2).unwrap();
    assert!(machine.get("a").is_none());
}

#[test]
fn a_deleted_key_leaves_its_lease() {
    let mut machine = fresh();
    machine.grant(1, 10).unwrap();
    machine.try_put(leased("a", 1)).unwrap();
    machine.delete("a", "");
    assert_eq!(machine.lease_keys(1), [""; 0]);
    machine.put("a", "v");
    machine.revoke(1).unwrap();
    assert!(machine.get("a").is_some());
}

#[test]
fn attachments_of_one_call_are_seen_by_a_revoke_in_it() {
    let mut machine = fresh();
    machine.grant(1, 10).unwrap();
    machine.grant(2, 10).unwrap();
    machine.try_put(leased("stored", 1)).unwrap();
    machine.try_put(leased("moved", 1)).unwrap();
    let index = machine.next_index();
    let entries = [
        entry(index, Kind::Put, &leased("new", 1)),
        entry(index + 1, Kind::Put, &leased("moved", 2)),
        entry(
            index + 2,
            Kind::Txn,
            &then([op(leased("txn", 1)), op(delete("new", ""))]),
        ),
        entry(
            index + 3,
            Kind::LeaseRevoke,
            &kvnode_api::LeaseRevokeRequest { id: 1 },
        ),
        entry(index + 4, Kind::Put, &leased("late", 1)),
    ];
    let step = machine.step(&entries);
    assert_eq!(step.replies[4].result, Err(Status::lease_not_found()));
    assert_eq!(
        summary(step.changes.last().unwrap()),
        ["DELETE stored", "DELETE txn"]
    );
    assert_eq!(machine.lease_keys(2), ["moved"]);
    assert_eq!(machine.range(all()).unwrap().count, 1);
}

#[test]
fn the_lease_clock_is_told_everything_in_order() {
    let mut machine = fresh();
    let grant = |id, ttl| kvnode_api::LeaseGrantRequest { id, ttl };
    let checkpoint = |id, remaining_ttl| LeaseCheckpoint { id, remaining_ttl };
    let checkpoints = LeaseCheckpointRequest {
        checkpoints: vec![checkpoint(1, 40), checkpoint(404, 1), checkpoint(2, 0)],
    };
    let entries = [
        entry(1, Kind::LeaseGrant, &grant(1, 60)),
        entry(2, Kind::LeaseGrant, &grant(2, 1)),
        entry(3, Kind::LeaseGrant, &grant(1, 60)),
        entry(4, Kind::LeaseCheckpoint, &checkpoints),
        entry(
            5,
            Kind::LeaseRevoke,
            &kvnode_api::LeaseRevokeRequest { id: 2 },
        ),
    ];
    let step = machine.step(&entries);
    let expected = [
        LeaseChange::Granted { id: 1, ttl: 60 },
        LeaseChange::Granted { id: 2, ttl: 2 },
        LeaseChange::Checkpointed {
            id: 1,
            remaining: 40,
        },
        LeaseChange::Checkpointed {
            id: 2,
            remaining: 0,
        },
        LeaseChange::Revoked { id: 2 },
    ];
    assert_eq!(step.lease_changes, expected);
    assert!(machine.step(&[]).lease_changes.is_empty());
}

#[test]
fn leases_times_and_keys_survive_a_restart() {
    let disk = MemoryDisk::default();
    let mut machine = Machine::new(MemoryEngine::open(&disk), Config::default());
    machine.grant(1, 60).unwrap();
    machine.grant(-2, 60).unwrap();
    machine.try_put(leased("a", 1)).unwrap();
    let request = LeaseCheckpointRequest {
        checkpoints: vec![LeaseCheckpoint {
            id: 1,
            remaining_ttl: 33,
        }],
    };
    machine.apply(Kind::LeaseCheckpoint, &request).unwrap();
    drop(machine);

    let mut machine = Machine::new(MemoryEngine::open(&disk), Config::default());
    let lease = machine.view().lease(1, true).unwrap().unwrap();
    assert_eq!(
        lease,
        LeaseInfo {
            id: 1,
            ttl: 60,
            remaining: 33,
            keys: vec!["a".into()]
        }
    );
    assert_eq!(machine.view().leases().unwrap().len(), 2);
    assert_eq!(machine.grant(1, 5), Err(Status::lease_exists()));
    machine.revoke(1).unwrap();
    assert_eq!(
        machine
            .range(RangeRequest {
                count_only: true,
                ..all()
            })
            .unwrap()
            .count,
        0
    );
}
