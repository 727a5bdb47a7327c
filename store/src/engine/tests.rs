//! What both engines promise, checked on both against sorted maps.

#![expect(clippy::disallowed_methods, reason = "tests of what happens to files")]

mod damage;
mod kill;
mod release;

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use proptest::prelude::*;

use super::fjall::{FjallEngine, Options};
use super::memory::{Failure, MemoryDisk, MemoryEngine};
use super::*;

/// Memtables so small that flushes and merges happen all the time.
fn tiny() -> Options {
    Options {
        cache_bytes: 1 << 20,
        memtable_bytes: 16 << 10,
        ..Options::default()
    }
}

type Map = BTreeMap<Vec<u8>, Vec<u8>>;
type Model = [Map; 2];

fn map_of(model: &Model, space: Space) -> &Map {
    &model[space as usize]
}

/// A way to have the same store again after a stop.
trait Home {
    /// A drop loses what was not persisted.
    const FORGETS: bool;
    type Engine: Engine;
    fn reopen(&self) -> Self::Engine;
}

impl Home for MemoryDisk {
    const FORGETS: bool = false;
    type Engine = MemoryEngine;
    fn reopen(&self) -> MemoryEngine {
        MemoryEngine::open(self)
    }
}

impl Home for PathBuf {
    const FORGETS: bool = true;
    type Engine = FjallEngine;
    fn reopen(&self) -> FjallEngine {
        FjallEngine::open(self, &tiny()).unwrap()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(Space, u8, Option<usize>)>),
    View,
    Stop { clean: bool },
    Persist,
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    let space = prop_oneof![Just(Space::State), Just(Space::Hist)];
    let size = prop_oneof![9 => 0usize..40, 1 => Just(6_000usize)];
    let op = (
        space,
        0u8..24,
        prop_oneof![3 => size.prop_map(Some), 1 => Just(None)],
    );
    prop_oneof![
        20 => prop::collection::vec(op, 0..12).prop_map(Step::Commit),
        5 => Just(Step::View),
        1 => any::<bool>().prop_map(|clean| Step::Stop { clean }),
        1 => Just(Step::Persist),
        1 => Just(Step::Compact),
    ]
}

/// Applies `ops` to both; returns the batch.
fn batch_of(ops: &[(Space, u8, Option<usize>)], model: &mut Model, fill: u8) -> Batch {
    let mut batch = Batch::new();
    for &(space, key, size) in ops {
        let key = vec![b'a' + key % 3, key];
        match size {
            Some(size) => {
                let value = vec![fill; size];
                batch.put(space, key.clone(), value.clone());
                model[space as usize].insert(key, value);
            }
            None => {
                batch.delete(space, key.clone());
                model[space as usize].remove(&key);
            }
        }
    }
    batch
}

fn assert_same<V: Reader>(view: &V, model: &Model) {
    let bounds: [(&[u8], Option<&[u8]>); 6] = [
        (b"", None),
        (b"a", Some(b"b")),
        (b"b\x05", Some(b"c\x10")),
        (b"b", None),
        (b"c", Some(b"a")),
        (b"b", Some(b"b")),
    ];
    for space in Space::ALL {
        let map = map_of(model, space);
        for (from, to) in bounds {
            for reverse in [false, true] {
                let found: Vec<_> = view
                    .scan(space, from, to, reverse)
                    .map(|item| item.unwrap())
                    .collect();
                let inside = |key: &[u8]| key >= from && to.is_none_or(|to| key < to);
                let mut expected: Vec<_> = map
                    .iter()
                    .filter(|(key, _)| inside(key))
                    .map(|(key, value)| (Bytes::from(key.clone()), Bytes::from(value.clone())))
                    .collect();
                if reverse {
                    expected.reverse();
                }
                assert_eq!(
                    found, expected,
                    "{space} {from:?}..{to:?} reverse {reverse}"
                );
            }
        }
        for key in 0..24u8 {
            let key = [b'a' + key % 3, key];
            let found = view.get(space, &key).unwrap();
            assert_eq!(found.as_deref(), map.get(&key[..]).map(Vec::as_slice));
        }
    }
}

fn everything<V: Reader>(view: &V) -> Model {
    Space::ALL.map(|space| {
        let items = view.scan(space, b"", None, false).map(Result::unwrap);
        items
            .map(|(key, value)| (key.to_vec(), value.to_vec()))
            .collect()
    })
}

fn run<H: Home>(home: &H, mut engine: H::Engine, steps: &[Step]) {
    let mut model = Model::default();
    // What a crash may leave: the state persisted last, and after every commit since.
    let mut possible = vec![model.clone()];
    let mut views = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Commit(ops) => {
                let batch = batch_of(ops, &mut model, number as u8);
                engine.commit(batch).unwrap();
                possible.push(model.clone());
                for space in Space::ALL {
                    for (key, value) in map_of(&model, space) {
                        let found = engine.latest_get(space, key).unwrap();
                        assert_eq!(found.as_deref(), Some(&value[..]));
                    }
                }
            }
            Step::View => {
                views.push((engine.view(), model.clone()));
                views.push((engine.view_to_sweep(), model.clone()));
            }
            Step::Stop { clean } => {
                views
                    .iter()
                    .for_each(|(view, model)| assert_same(view, model));
                // Held views keep the directory locked.
                views.clear();
                if *clean {
                    engine.close().unwrap();
                } else {
                    drop(engine);
                }
                engine = home.reopen();
                if !clean && H::FORGETS {
                    let left = everything(&engine.view());
                    assert!(possible.contains(&left), "never was: {left:?}");
                    model = left;
                }
                possible = vec![model.clone()];
            }
            Step::Persist => {
                engine.persister().persist().unwrap();
                possible = vec![model.clone()];
            }
            Step::Compact => engine.persister().compact_state().unwrap(),
        }
    }
    views
        .iter()
        .for_each(|(view, model)| assert_same(view, model));
    assert_same(&engine.view(), &model);
    assert_same(&engine.view_to_sweep(), &model);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn memory_equals_sorted_maps(steps in prop::collection::vec(step(), 1..60)) {
        let disk = MemoryDisk::default();
        run(&disk, MemoryEngine::open(&disk), &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn fjall_equals_sorted_maps(steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("kv");
        run(&home, FjallEngine::create(&home, &tiny()).unwrap(), &steps);
    }
}

/// History as the machine writes it, with a counter in the other space.
fn write_history<E: Engine>(engine: &mut E, revisions: std::ops::Range<u64>) {
    for revision in revisions {
        let mut batch = Batch::new();
        batch.put(
            Space::Hist,
            revision.to_be_bytes().to_vec(),
            vec![revision as u8; 100],
        );
        batch.put(
            Space::State,
            &b"applied"[..],
            revision.to_be_bytes().to_vec(),
        );
        engine.commit(batch).unwrap();
    }
}

fn revisions<V: Reader>(view: &V, from: u64) -> Vec<u64> {
    view.scan(Space::Hist, &from.to_be_bytes(), None, false)
        .map(|item| u64::from_be_bytes(item.unwrap().0[..].try_into().unwrap()))
        .collect()
}

fn dropping_history<E: Engine>(engine: &mut E) -> usize {
    // A table for each.
    for step in 0..10 {
        write_history(engine, step * 200..(step + 1) * 200);
        engine.persister().persist().unwrap();
    }
    let before = engine.view();
    engine.drop_hist_before(&1_500u64.to_be_bytes()).unwrap();
    let after = engine.view();
    assert_eq!(revisions(&after, 1_500), (1_500..2_000).collect::<Vec<_>>());
    write_history(engine, 2_000..2_500);
    engine.persister().persist().unwrap();
    assert_eq!(revisions(&before, 0), (0..2_000).collect::<Vec<_>>());
    assert_eq!(revisions(&after, 1_500), (1_500..2_000).collect::<Vec<_>>());
    let now = engine.view();
    assert_eq!(revisions(&now, 1_500), (1_500..2_500).collect::<Vec<_>>());
    for revision in revisions(&now, 0) {
        let value = now
            .get(Space::Hist, &revision.to_be_bytes())
            .unwrap()
            .unwrap();
        assert_eq!(
            value,
            vec![revision as u8; 100],
            "what is left is as it was"
        );
    }
    revisions(&now, 0).len()
}

#[test]
fn dropped_history_frees_tables_and_spares_older_views() {
    assert!(dropping_history(&mut MemoryEngine::new()) < 1_250);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kv");
    let mut engine = FjallEngine::create(&path, &tiny()).unwrap();
    let left = dropping_history(&mut engine);
    assert!(left < 1_250, "{left}");
    drop(engine);
    let mut engine = FjallEngine::open(&path, &tiny()).unwrap();
    assert_eq!(
        revisions(&engine.view(), 1_500),
        (1_500..2_500).collect::<Vec<_>>()
    );
    write_history(&mut engine, 2_500..2_600);
    engine.drop_hist_before(&2_600u64.to_be_bytes()).unwrap();
    write_history(&mut engine, 2_600..2_610);
    engine.close().unwrap();
    let mut engine = FjallEngine::open(&path, &tiny()).unwrap();
    let view = engine.view();
    assert_eq!(revisions(&view, 2_600), (2_600..2_610).collect::<Vec<_>>());
    let applied = view.get(Space::State, b"applied").unwrap().unwrap();
    assert_eq!(applied, 2_609u64.to_be_bytes()[..]);
}

#[test]
fn views_of_a_retired_engine_read_on_and_its_end_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = FjallEngine::create(&dir.path().join("kv"), &tiny()).unwrap();
    write_history(&mut engine, 0..500);
    engine.persister().persist().unwrap();
    write_history(&mut engine, 500..600);
    let persister = engine.persister();
    let view = engine.view();
    let retired = engine.retire();
    assert_eq!(retired.directory(), dir.path().join("kv"));
    assert!(persister.persist().is_err());
    let other = view.clone();
    assert_eq!(revisions(&view, 0), (0..600).collect::<Vec<_>>());
    drop(view);
    assert!(retired.is_read());
    drop(other);
    assert!(!retired.is_read());
}

fn refusing_bad_lengths<E: Engine>(engine: &mut E) {
    for length in [0, KEY_BYTES_MAX + 1, 70_000] {
        let mut batch = Batch::new();
        batch.put(Space::State, &b"fine"[..], &b"v"[..]);
        batch.put(Space::State, vec![1; length], &b"v"[..]);
        let refused = engine.commit(batch).unwrap_err();
        let expected = (Space::State, length);
        assert!(
            matches!(refused, EngineError::KeyLength { space, length } if (space, length) == expected)
        );
        let mut batch = Batch::new();
        batch.delete(Space::Hist, vec![1; length]);
        assert!(engine.commit(batch).is_err());
        assert_eq!(
            engine.view().get(Space::State, &vec![1; length]).unwrap(),
            None
        );
        assert_eq!(
            engine.latest_get(Space::State, &vec![1; length]).unwrap(),
            None
        );
    }
    assert_eq!(
        engine.view().get(Space::State, b"fine").unwrap(),
        None,
        "a batch is atomic"
    );
    let mut batch = Batch::new();
    batch.put(Space::State, vec![1; KEY_BYTES_MAX], &b"long"[..]);
    engine.commit(batch).unwrap();
    assert_eq!(
        engine
            .view()
            .get(Space::State, &[1; KEY_BYTES_MAX])
            .unwrap()
            .unwrap(),
        "long"
    );
}

#[test]
fn a_key_of_a_bad_length_is_refused_and_harms_nothing() {
    refusing_bad_lengths(&mut MemoryEngine::new());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kv");
    let mut engine = FjallEngine::create(&path, &tiny()).unwrap();
    refusing_bad_lengths(&mut engine);
    engine.close().unwrap();
    let mut engine = FjallEngine::open(&path, &tiny()).unwrap();
    assert!(
        engine
            .view()
            .get(Space::State, &[1; KEY_BYTES_MAX])
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_power_cut_in_memory_keeps_the_persisted_and_a_prefix_of_the_rest() {
    for keep in [0, 1, 4, 100] {
        let disk = MemoryDisk::default();
        disk.remember_commits();
        let mut engine = MemoryEngine::open(&disk);
        write_history(&mut engine, 0..3);
        engine.persister().persist().unwrap();
        write_history(&mut engine, 3..10);
        assert_eq!(disk.unpersisted(), 7);
        drop(engine);
        disk.power_cut(keep);
        let left = revisions(&MemoryEngine::open(&disk).view(), 0);
        assert_eq!(left.len(), 3 + keep.min(7));
    }
}

#[test]
fn a_failing_memory_disk_refuses_writes_but_not_reads() {
    let disk = MemoryDisk::default();
    let mut engine = MemoryEngine::open(&disk);
    write_history(&mut engine, 0..3);
    disk.fail(Failure::NoSpace);
    let mut batch = Batch::new();
    batch.put(Space::State, &b"k"[..], &b"v"[..]);
    assert!(matches!(
        engine.commit(batch),
        Err(EngineError::NoSpace { .. })
    ));
    assert!(engine.persister().persist().is_err());
    assert_eq!(revisions(&engine.view(), 0).len(), 3);
}

#[test]
fn an_engine_is_made_once_opened_once_and_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kv");
    assert!(matches!(
        FjallEngine::open(&path, &tiny()),
        Err(EngineError::State { .. })
    ));
    let mut engine = FjallEngine::create(&path, &tiny()).unwrap();
    assert!(matches!(
        FjallEngine::create(&path, &tiny()),
        Err(EngineError::State { .. })
    ));
    assert!(matches!(
        FjallEngine::open(&path, &tiny()),
        Err(EngineError::Locked { .. })
    ));
    write_history(&mut engine, 0..10);
    let persister = engine.persister();
    persister.persist().unwrap();
    assert_eq!(persister.pressure().unwrap().journals, 1);
    let bytes = engine.disk_bytes();
    assert!(
        (1..4 << 20).contains(&bytes),
        "{bytes}: sparse journals count as they are"
    );
    engine.close().unwrap();
    assert!(matches!(
        persister.persist(),
        Err(EngineError::State { .. })
    ));
    let mut engine = FjallEngine::open(&path, &tiny()).unwrap();
    assert_eq!(engine.cut(), None);
    assert_eq!(revisions(&engine.view(), 0).len(), 10);
}

#[test]
fn a_view_held_since_before_the_first_write_harms_no_later_ones() {
    // Which views would lose their protection depends on the order of a hash table, so try several.
    for first in 1..7 {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = FjallEngine::create(&dir.path().join("kv"), &tiny()).unwrap();
        let mut views = vec![(0, engine.view())];
        let mut written = 0;
        for until in [first, first + 4, first + 5] {
            write_history(&mut engine, written..until);
            written = until;
            views.push((written, engine.view()));
            engine.persister().persist().unwrap();
        }
        engine.persister().compact_state().unwrap();
        write_history(&mut engine, written..written + 2);
        engine.persister().persist().unwrap();
        for (written, view) in &views {
            assert_eq!(revisions(view, 0), (0..*written).collect::<Vec<_>>());
            let applied = view.get(Space::State, b"applied").unwrap();
            let expected = written.checked_sub(1).map(u64::to_be_bytes);
            assert_eq!(
                applied.as_deref(),
                expected.as_ref().map(|bytes| &bytes[..])
            );
        }
    }
}

#[test]
fn a_moved_directory_opens() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("kv"), dir.path().join("elsewhere"));
    let mut engine = FjallEngine::create(&from, &tiny()).unwrap();
    write_history(&mut engine, 0..500);
    engine.close().unwrap();
    std::fs::rename(&from, &to).unwrap();
    let mut engine = FjallEngine::open(&to, &tiny()).unwrap();
    assert_eq!(revisions(&engine.view(), 0).len(), 500);
    write_history(&mut engine, 500..1_000);
    engine.close().unwrap();
    assert!(!from.exists());
}

/// Only then do the tests above say anything about sweeps.
#[test]
fn a_sweep_reads_tables_by_itself_unless_some_records_are_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("kv");
    let mut engine = FjallEngine::create(&home, &tiny()).unwrap();
    let mut batch = Batch::new();
    for n in 0..500u16 {
        batch.put(Space::State, n.to_be_bytes().to_vec(), vec![1; 100]);
    }
    engine.commit(batch).unwrap();
    engine.persister().persist().unwrap();
    let view = engine.view_to_sweep();
    assert!(view.is_swept() && !engine.view().is_swept());
    assert_eq!(everything(&view), everything(&engine.view()));

    let mut batch = Batch::new();
    batch.put(Space::State, &b"from a journal"[..], &b"1"[..]);
    engine.commit_journaled(&batch);
    let view = engine.view_to_sweep();
    assert!(!view.is_swept());
    assert_eq!(
        view.get(Space::State, b"from a journal").unwrap().unwrap(),
        "1"
    );
    assert_eq!(everything(&view)[0].len(), 501);
}
