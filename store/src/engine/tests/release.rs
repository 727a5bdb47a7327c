//! Tables that compactions have replaced go by themselves, and nothing else does.

use std::path::Path;
use std::time::{Duration, Instant};

use super::*;

const LIMIT: Duration = Duration::from_secs(120);

/// Bytes of all files of the spaces' tables.
fn bytes_in(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap();
    let of = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => bytes_in(&path),
            // One that goes meanwhile counts no more.
            false => path.metadata().map_or(0, |meta| meta.len()),
        }
    };
    entries.map(of).sum()
}

fn filled(engine: &mut FjallEngine) -> BTreeMap<u32, u32> {
    let mut model = BTreeMap::new();
    for round in 0..40u32 {
        let mut batch = Batch::new();
        for n in 0..100u32 {
            let key = (round * 37 + n * 13) % 2_000;
            let mut value = vec![7; 600];
            value[..4].copy_from_slice(&round.to_be_bytes());
            batch.put(
                Space::State,
                [&b"kk"[..], &key.to_be_bytes()].concat(),
                value,
            );
            model.insert(key, round);
        }
        engine.commit(batch).unwrap();
    }
    model
}

#[test]
fn replaced_tables_go_when_nothing_is_written_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kv");
    let mut engine = FjallEngine::create(&path, &tiny()).unwrap();
    let model = filled(&mut engine);
    engine.persister().persist().unwrap();
    assert!(engine.replacements() > 0, "something was compacted");

    // Each key was put a few times; in use are the tables of the newest values.
    let (started, tables) = (Instant::now(), path.join("keyspaces"));
    let live = 3 * model.len() as u64 * 612 / 2;
    while bytes_in(&tables) > live {
        assert!(
            started.elapsed() < LIMIT,
            "{} bytes are left, {live} at the most are in use",
            bytes_in(&tables)
        );
        std::thread::sleep(Duration::from_millis(20));
    }

    let view = engine.view();
    for (key, round) in &model {
        let key = [&b"kk"[..], &key.to_be_bytes()].concat();
        let value = view.get(Space::State, &key).unwrap().expect("it was put");
        assert_eq!(value[..4], round.to_be_bytes());
    }
    drop((view, engine));
    let mut engine = FjallEngine::open(&path, &tiny()).unwrap();
    assert_eq!(
        engine.view().scan(Space::State, b"", None, false).count(),
        model.len()
    );
}

#[test]
fn nothing_is_written_to_release_tables_while_none_was_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kv");
    let mut engine = FjallEngine::create(&path, &tiny()).unwrap();
    filled(&mut engine);
    engine.close().unwrap();

    let by_hand = Options {
        workers: 0,
        ..tiny()
    };
    let mut engine = FjallEngine::open(&path, &by_hand).unwrap();
    assert!(!engine.release_by_hand(), "a start has replaced nothing");
    filled(&mut engine);
    engine.persister().persist().unwrap();
    assert!(
        !engine.release_by_hand(),
        "more tables, the others as before"
    );
    engine.persister().compact_state().unwrap();
    let asked = engine.replacements();
    assert!(!engine.release_by_hand(), "views of before may be in use");
    assert!(engine.replacements() > asked, "views are asked to let go");
    assert!(engine.release_by_hand());
    assert!(!engine.release_by_hand(), "once for each time");

    engine.persister().compact_state().unwrap();
    assert!(!engine.release_by_hand());
    filled(&mut engine);
    engine.persister().persist().unwrap();
    assert!(
        engine.release_by_hand(),
        "a flush in between changes nothing"
    );
}
