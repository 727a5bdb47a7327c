//! What a store knows when it is opened again.

use kvnode_api::KeyRange;
use kvnode_store::engine::memory::{Failure, MemoryDisk, MemoryEngine};
use kvnode_store::engine::{Engine, Persister};
use kvnode_store::{Committed, Config, Error, Kind, Store};

use super::harness::{Machine, all, entry, fresh, put, with};

fn open(disk: &MemoryDisk) -> Machine {
    Machine::new(MemoryEngine::open(disk), Config::default())
}

/// A store opened again that has k0000 to k2499 but for a hundred deleted ones.
fn reopened_with_keys() -> Machine {
    let disk = MemoryDisk::default();
    let mut machine = open(&disk);
    for n in 0..2500 {
        machine.put(&format!("k{n:04}"), "old");
    }
    machine.delete("k0100", "k0200");
    drop(machine);
    open(&disk)
}

fn noop(index: u64) -> Committed {
    Committed {
        index,
        term: 3,
        command: Default::default(),
    }
}

#[test]
fn entries_already_applied_are_skipped() {
    let disk = MemoryDisk::default();
    let entries: Vec<_> = (1..=5)
        .map(|n| entry(n, Kind::Put, &put("k", &n.to_string())))
        .collect();
    open(&disk).step(&entries[..3]);
    let mut machine = open(&disk);
    assert_eq!(machine.store.applied(), (3, 1));
    let step = machine.step(&entries);
    assert_eq!(
        step.replies
            .iter()
            .map(|reply| reply.index)
            .collect::<Vec<_>>(),
        [4, 5]
    );
    assert_eq!(step.changes.len(), 2);
    assert_eq!(machine.get("k").unwrap().version, 5);
}

#[test]
fn a_hole_in_the_log_is_refused() {
    let mut machine = fresh();
    machine.put("k", "v");
    let error = machine.store.apply(&[noop(3)]).err().unwrap();
    assert!(matches!(
        error,
        Error::Gap {
            found: 3,
            expected: 2
        }
    ));
}

#[test]
fn entries_without_a_command_move_the_index_only() {
    let disk = MemoryDisk::default();
    let mut machine = open(&disk);
    let step = machine.step(&[noop(1), noop(2)]);
    assert!(step.replies.is_empty() && step.changes.is_empty());
    assert_eq!(
        (step.view.applied_index(), step.view.applied_term()),
        (2, 3)
    );
    assert_eq!(open(&disk).store.applied(), (2, 3));
}

#[test]
fn a_view_stays_as_it_was() {
    let mut machine = fresh();
    machine.put("k", "1");
    let before = machine.view();
    machine.put("k", "2");
    machine.delete("k", "");
    machine.compact(4).unwrap();
    machine.compact_physically();
    let response = before.range(&all()).unwrap();
    assert_eq!(
        (response.kvs[0].value.as_ref(), before.revision()),
        (&b"1"[..], 2)
    );
    assert_eq!(before.applied_index(), 1);
    assert_eq!(machine.view().range(&all()).unwrap().count, 0);
}

#[test]
fn after_a_power_cut_the_store_is_at_some_entry_and_goes_on_to_the_same_state() {
    let entries: Vec<_> = (1..=40)
        .map(|n| match n % 7 {
            3 => entry(n, Kind::DeleteRange, &super::harness::delete("k0", "k2")),
            5 => entry(
                n,
                Kind::Compaction,
                &kvnode_api::CompactionRequest {
                    revision: n as i64 / 2,
                    physical: false,
                },
            ),
            _ => entry(n, Kind::Put, &put(&format!("k{}", n % 4), &n.to_string())),
        })
        .collect();
    let mut whole = fresh();
    whole.step(&entries);
    let expected = (whole.view().hash().unwrap(), *whole.view().meta());
    for keep in 0..12 {
        let disk = MemoryDisk::default();
        disk.remember_commits();
        let mut machine = open(&disk);
        machine.step(&entries[..10]);
        machine.store.engine().persister().persist().unwrap();
        for chunk in entries[10..].chunks(3) {
            machine.step(chunk);
        }
        drop(machine);
        disk.power_cut(keep);
        let mut machine = open(&disk);
        let (applied, _) = machine.store.applied();
        assert!((10..=40).contains(&applied), "{applied}");
        machine.step(&entries);
        assert_eq!(
            (machine.view().hash().unwrap(), *machine.view().meta()),
            expected
        );
        let from = whole.view().compact_revision() + 1;
        assert_eq!(machine.history(from, 100), whole.history(from, 100));
    }
}

#[test]
fn a_failed_commit_is_an_error_and_nothing_of_it_is_seen_after_reopening() {
    let disk = MemoryDisk::default();
    let mut machine = open(&disk);
    machine.put("k", "1");
    disk.fail(Failure::NoSpace);
    let next = entry(2, Kind::Put, &put("k", "2"));
    assert!(matches!(
        machine.store.apply(std::slice::from_ref(&next)),
        Err(Error::Engine(_))
    ));
    drop(machine);
    disk.power_cut(usize::MAX);
    let mut machine = open(&disk);
    assert_eq!(machine.store.applied().0, 1);
    machine.step(&[next]);
    assert_eq!(machine.get("k").unwrap().version, 2);
}

#[test]
fn a_store_of_another_schema_is_refused() {
    let mut engine = MemoryEngine::new();
    let mut batch = kvnode_store::engine::Batch::new();
    let space = kvnode_store::engine::Space::State;
    batch.put(
        space,
        &kvnode_store::schema::META_KEY[..],
        &[0x70u8; 73][..],
    );
    engine.commit(batch).unwrap();
    let error = Store::open(engine, Config::default()).err().unwrap();
    assert!(matches!(
        error,
        Error::Schema {
            found: 7,
            expected: 1
        }
    ));
}

#[test]
fn heads_read_into_memory_beside_changes_are_those_of_the_last_commit() {
    let mut machine = reopened_with_keys();
    let mut plain = {
        let config = Config {
            heads_cache_bytes: 0,
            ..Config::default()
        };
        Machine::new(MemoryEngine::open(&MemoryDisk::default()), config)
    };
    for n in 0..2500 {
        plain.put(&format!("k{n:04}"), "old");
    }
    plain.delete("k0100", "k0200");

    let mut steps = 0;
    let mut more = true;
    while more {
        more = machine.store.warm_some(|_| ()).unwrap();
        steps += 1;
        // Before and behind the place the reading has come to, of every kind of change.
        for machine in [&mut machine, &mut plain] {
            for n in [steps, 150, 2500 - steps] {
                machine.put(&format!("k{n:04}"), "new");
            }
            machine.delete(&format!("k{:04}", 600 + steps), "");
            machine.delete(&format!("k{:04}", 2000 + steps), "");
            let revision = machine.revision() - 1;
            machine.compact(revision).unwrap();
            machine.compact_physically();
        }
    }
    assert!(steps > 2, "{steps} steps");
    for machine in [&mut machine, &mut plain] {
        for n in 0..2500 {
            machine.put(&format!("k{n:04}"), "newest");
        }
    }
    assert_eq!(machine.view().hash().unwrap(), plain.view().hash().unwrap());
    assert_eq!(*machine.view().meta(), *plain.view().meta());
}

#[test]
fn replay_after_a_failed_commit_finds_the_heads_of_before() {
    let disk = MemoryDisk::default();
    let mut machine = open(&disk);
    machine.put("k", "1");
    machine.put("k", "2");
    disk.fail(Failure::NoSpace);
    let failing = [
        entry(3, Kind::Put, &put("k", "3")),
        entry(4, Kind::DeleteRange, &super::harness::delete("k", "")),
        entry(5, Kind::Put, &put("k", "4")),
    ];
    assert!(machine.store.apply(&failing).is_err());
    drop(machine);
    disk.power_cut(usize::MAX);
    let mut machine = open(&disk);
    while machine.store.warm_some(|_| ()).unwrap() {}
    machine.step(&failing);
    let kv = machine.get("k").unwrap();
    assert_eq!(
        (kv.version, kv.create_revision, &kv.value[..]),
        (1, 6, &b"4"[..])
    );
    assert_eq!(machine.history(2, 10).len(), 5);
}

#[test]
fn an_export_carries_each_value_once_whatever_its_store_writes_into_history() {
    let run = |hist_inline_new_value| {
        let config = Config {
            hist_inline_new_value,
            ..Config::default()
        };
        let mut machine = with(config);
        for number in 0..30 {
            machine.put(&format!("k{}", number % 7), &format!("value {number}"));
        }
        machine.delete("k3", "");
        machine
    };
    let export = |machine: &Machine| {
        let view = machine.view();
        let mut records = view.export();
        let list: Vec<_> = records.by_ref().map(Result::unwrap).collect();
        (list, *records.totals())
    };
    let (lean, fat) = (run(false), run(true));
    let exported = export(&fat);
    assert_eq!(exported, export(&lean));
    let records = exported
        .0
        .into_iter()
        .map(Ok::<_, std::convert::Infallible>);
    let (engine, _) = kvnode_store::import::into_memory(records).unwrap();
    let back = Machine::new(engine, Config::default());
    assert_eq!(back.view().revision(), fat.view().revision());
    let history = |machine: &Machine| {
        let view = machine.view();
        view.history(2, view.revision(), &KeyRange::all(), 1000)
            .unwrap()
    };
    assert_eq!(history(&back).changes, history(&fat).changes);
}

#[test]
fn heads_read_beside_come_in_as_they_are_when_they_do() {
    // Never written to, written to before the first step, and between two.
    for written_at in [None, Some(0), Some(1)] {
        let mut machine = reopened_with_keys();
        let builder = machine.store.fence_builder();
        let mut read = None;
        builder.build_and_read(|heads| read = Some(heads)).unwrap();
        machine.store.take_read_heads(read.expect("they were met"));

        let mut warmed = Vec::new();
        for step in 0.. {
            if written_at == Some(step) {
                for n in [0, 50, 999, 1500, 2499] {
                    machine.put(&format!("k{n:04}"), "new");
                }
                machine.delete("k1200", "k1300");
            }
            let mut pairs = Vec::new();
            let more = machine.store.warm_some(|pair| pairs.push(pair)).unwrap();
            for pair in &pairs {
                let key = std::str::from_utf8(&pair.key).unwrap();
                assert_eq!(machine.get(key).as_ref(), Some(pair));
            }
            warmed.extend(pairs.into_iter().map(|pair| pair.key));
            if !more {
                break;
            }
        }
        assert!(warmed.is_sorted_by(|one, other| one < other), "each once");
        let expected = if written_at.is_some() { 2300 } else { 2400 };
        assert_eq!(warmed.len(), expected, "written at {written_at:?}");
    }
}
