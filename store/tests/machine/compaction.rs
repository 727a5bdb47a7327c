//! Compaction, logical and physical, and the hash across it.

use kvnode_api::{KeyRange, RangeRequest, Status};
use kvnode_store::engine::Space;
use kvnode_store::engine::memory::{MemoryDisk, MemoryEngine};
use kvnode_store::engine::{Engine, Reader};
use kvnode_store::{Config, Kind, Revision, schema};

use super::harness::{Machine, all, bytes, entry, fresh, put, range, summary};
use super::model::Model;

fn on(disk: &MemoryDisk) -> Machine {
    Machine::new(MemoryEngine::open(disk), Config::default())
}

/// Stored keys of `State` that start with `tag`.
fn records(disk: &MemoryDisk, tag: &[u8]) -> usize {
    let view = MemoryEngine::open(disk).view();
    let keys = view
        .scan(Space::State, tag, None, false)
        .map(|item| item.unwrap().0);
    keys.take_while(|key| key.starts_with(tag)).count()
}

#[test]
fn compaction_wants_a_revision_between_the_last_one_and_now() {
    let mut machine = fresh();
    machine.put("a", "1");
    machine.put("a", "2");
    assert_eq!(machine.compact(6), Err(Status::future_revision()));
    // The answer names the current revision, not the compacted one.
    assert_eq!(machine.compact(2).unwrap().revision, 3);
    assert_eq!(machine.compact(2), Err(Status::compacted()));
    assert_eq!(machine.compact(1), Err(Status::compacted()));
    assert_eq!(machine.compact(3).unwrap().revision, 3);
    assert_eq!(machine.revision(), 3);
}

#[test]
fn a_fresh_store_can_be_compacted_to_0_once_and_never_to_minus_1() {
    let mut machine = fresh();
    assert_eq!(machine.view().hash_kv(0).unwrap().compact_revision, -1);
    assert_eq!(machine.compact(-1), Err(Status::compacted()));
    assert_eq!(machine.compact(0).unwrap().revision, 1);
    assert_eq!(machine.compact(0), Err(Status::compacted()));
    assert_eq!(machine.compact(-1), Err(Status::compacted()));
    machine.compact_physically();
    assert_eq!(machine.view().compacted_physically(), 0);
}

#[test]
fn the_compact_revision_itself_stays_readable() {
    let mut machine = fresh();
    for value in ["1", "2", "3", "4"] {
        machine.put("a", value);
    }
    machine.compact(4).unwrap();
    let at = |machine: &Machine, revision| {
        machine
            .range(RangeRequest {
                revision,
                ..range("a", "")
            })
            .map(|it| it.kvs[0].value.clone())
    };
    for _ in 0..2 {
        assert_eq!(at(&machine, 4), Ok(bytes("3")));
        assert_eq!(at(&machine, 5), Ok(bytes("4")));
        assert_eq!(at(&machine, 3), Err(Status::compacted()));
        assert_eq!(machine.view().hash_kv(3), Err(Status::compacted()));
        machine.compact_physically();
    }
}

#[test]
fn a_delete_at_the_compact_revision_is_replayed_without_prev_kv() {
    let mut machine = fresh();
    machine.put("a", "1");
    machine.put("b", "1");
    machine.delete("a", "");
    machine.put("b", "2");
    machine.compact(4).unwrap();
    for _ in 0..2 {
        let changes = machine.history(4, 10);
        assert_eq!(summary(&changes[0]), ["DELETE a"]);
        assert_eq!(changes[0].events[0].prev_kv, None);
        assert_eq!(
            changes[1].events[0].prev_kv.as_ref().unwrap().value,
            bytes("1")
        );
        machine.compact_physically();
    }
}

#[test]
fn a_key_deleted_before_the_compact_revision_leaves_no_trace() {
    let disk = MemoryDisk::default();
    let mut machine = on(&disk);
    machine.put("a", "1");
    machine.delete("a", "");
    machine.put("b", "1");
    machine.compact(4).unwrap();
    let interval = KeyRange::new(&bytes("a"), &bytes(""));
    assert_eq!(
        machine.view().history(4, 9, &interval, 9).unwrap().changes,
        []
    );
    assert_eq!(
        machine.view().history(3, 9, &interval, 9),
        Err(Status::compacted())
    );
    machine.compact_physically();
    assert_eq!(records(&disk, b"ka"), 0);
    assert_eq!(records(&disk, &[schema::TAG_TOMBSTONE]), 0);
}

#[test]
fn physical_compaction_removes_tombstones_in_steps_but_not_keys_that_live_again() {
    let disk = MemoryDisk::default();
    let mut machine = on(&disk);
    let key = |n: u64| format!("{n:05}");
    let puts: Vec<_> = (0..2500)
        .map(|n| entry(n + 1, Kind::Put, &put(&key(n), "v")))
        .collect();
    machine.step(&puts);
    machine.delete("0", "1");
    machine.put(&key(7), "again");
    machine.put(&key(8), "again");
    machine.delete(&key(8), "");
    let compacted = machine.revision() - 1;
    machine.compact(compacted).unwrap();
    let used = machine.view().live_bytes();
    let hash = machine.view().hash_kv(0).unwrap();
    let mut steps = 1;
    while machine.store.compact_some().unwrap() {
        assert!(machine.view().compacted_physically() < compacted);
        assert_eq!(machine.view().hash_kv(0).unwrap(), hash);
        steps += 1;
    }
    assert_eq!(steps, 3);
    assert_eq!(machine.view().compacted_physically(), compacted);
    assert!(!machine.store.compact_some().unwrap());
    assert_eq!(machine.view().live_bytes(), used);
    assert_eq!(machine.get(&key(7)).unwrap().value, bytes("again"));
    // Key 8 died after the compact revision; its last tombstone is still needed.
    assert_eq!(records(&disk, b"k"), 2);
    assert_eq!(records(&disk, &[schema::TAG_TOMBSTONE]), 1);
    let at = RangeRequest {
        revision: compacted,
        ..all()
    };
    assert_eq!(machine.range(at).unwrap().count, 2);
}

#[test]
fn what_is_written_does_not_depend_on_how_far_removal_came() {
    let totals = |removed: bool| {
        let disk = MemoryDisk::default();
        let mut machine = on(&disk);
        machine.put("a", "1");
        machine.delete("a", "");
        machine.put("b", "1");
        machine.compact(4).unwrap();
        if removed {
            machine.compact_physically();
        }
        machine.put("a", "2");
        machine.delete("a", "");
        let view = MemoryEngine::open(&disk).view();
        let from = Revision::new(5, 0).to_bytes();
        let hist: Vec<_> = view
            .scan(Space::Hist, &from, None, false)
            .map(Result::unwrap)
            .collect();
        assert_eq!(hist.len(), 2);
        (hist, machine.view().live_bytes())
    };
    assert_eq!(totals(false), totals(true));
}

#[test]
fn bytes_in_use_drop_with_compaction() {
    let mut machine = fresh();
    for n in 0..100 {
        machine.put("k", &"x".repeat(1000 + n));
    }
    let before = machine.view().stats();
    assert!(before.history_bytes > 99 * 1000);
    machine.compact(machine.revision()).unwrap();
    let after = machine.view().stats();
    assert_eq!(after.live_bytes, before.live_bytes);
    // The last change still has what it replaced.
    assert!(after.history_bytes < 1200, "{after:?}");
    assert_eq!(
        machine.view().live_bytes(),
        after.live_bytes + after.history_bytes
    );
}

#[test]
fn an_interrupted_removal_goes_on_after_a_restart() {
    let disk = MemoryDisk::default();
    let mut machine = on(&disk);
    let puts: Vec<_> = (0..1500)
        .map(|n| entry(n + 1, Kind::Put, &put(&format!("{n:05}"), "v")))
        .collect();
    machine.step(&puts);
    machine.delete("0", "1");
    machine.compact(machine.revision()).unwrap();
    let revision = machine.revision();
    assert!(machine.store.compact_some().unwrap());
    drop(machine);

    let mut machine = on(&disk);
    assert_eq!(machine.view().compact_revision(), revision);
    assert_eq!(
        machine.range(RangeRequest {
            revision: revision - 1,
            ..all()
        }),
        Err(Status::compacted())
    );
    assert!(machine.view().compacted_physically() < revision);
    machine.compact_physically();
    assert_eq!(records(&disk, b"k"), 0);
    // All keys are gone, the counter is not.
    assert_eq!(machine.revision(), revision);
    machine.put("k", "v");
    assert_eq!(machine.revision(), revision + 1);
}

#[test]
fn the_hash_depends_on_both_revisions_and_on_nothing_physical() {
    let mut machine = fresh();
    let mut model = Model::new();
    let mut put_both = |machine: &mut Machine, key: &str, value: &str| {
        machine.put(key, value);
        model.apply_put(&put(key, value)).unwrap();
    };
    for value in ["1", "2", "3"] {
        put_both(&mut machine, "a", value);
        put_both(&mut machine, "b", value);
    }
    machine.delete("b", "");
    let hash = |machine: &Machine, revision| machine.view().hash_kv(revision).unwrap().hash;
    let all: Vec<u32> = (1..=8).map(|revision| hash(&machine, revision)).collect();
    for (index, one) in all.iter().enumerate() {
        assert!(
            !all[..index].contains(one),
            "revision {} repeats a hash",
            index + 1
        );
    }
    assert_eq!(all[0], 1_084_519_789, "nothing was there at revision 1");
    assert_eq!(machine.view().hash_kv(0).unwrap().hash_revision, 8);
    assert_eq!(machine.view().hash_kv(9), Err(Status::future_revision()));

    // The same first writes elsewhere: same hashes there, whatever comes after.
    let mut other = fresh();
    for value in ["1", "2", "3"] {
        other.put("a", value);
        other.put("b", value);
    }
    assert_eq!(
        (1..=7).map(|it| hash(&other, it)).collect::<Vec<_>>(),
        all[..7]
    );

    machine.compact(6).unwrap();
    other.compact(6).unwrap();
    // Was the newest at 7, made before the compact revision.
    machine.delete("a", "");
    assert_ne!(
        hash(&machine, 7),
        all[6],
        "another compact revision, another set"
    );
    assert_eq!(hash(&machine, 7), hash(&other, 7));
    let before: Vec<u32> = (6..=8).map(|revision| hash(&machine, revision)).collect();
    machine.compact_physically();
    assert_eq!(
        (6..=8).map(|it| hash(&machine, it)).collect::<Vec<_>>(),
        before
    );
    assert_eq!(hash(&machine, 7), hash(&other, 7));
}
