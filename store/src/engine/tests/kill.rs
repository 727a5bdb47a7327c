//! A writer killed at random moments always leaves the state right after some commit, and no commit
//! it told to be persisted is lost.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;

/// Names the directory to the child; without it the child's test does nothing.
const CHILD: &str = "KVNODE_STORE_KILL_TEST_DIRECTORY";
const ROUNDS: u64 = 20;
const KEYS: u64 = 200;

/// A small generator; the same number gives the same batch in parent and child.
fn random(number: u64, salt: u64) -> u64 {
    let mut z = number
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(salt);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Batch `number`: the counter, three keys of the state put or deleted, the same as history.
fn apply(number: u64, model: &mut Map) -> Batch {
    let mut batch = Batch::new();
    for sub in 0..3u64 {
        let key = format!("k{:04}", random(number, sub) % KEYS).into_bytes();
        let kind = random(number, 10 + sub) % 10;
        let size = if kind == 9 {
            9_000
        } else {
            random(number, 20 + sub) as usize % 200
        };
        let hist = [number.to_be_bytes(), sub.to_be_bytes()].concat();
        if kind < 2 {
            batch.delete(Space::State, key.clone());
            batch.put(Space::Hist, hist, Bytes::new());
            model.remove(&key);
        } else {
            let value = vec![number as u8; size];
            batch.put(Space::State, key.clone(), value.clone());
            batch.put(Space::Hist, hist, value.clone());
            model.insert(key, value);
        }
    }
    batch.put(Space::State, &b"applied"[..], number.to_be_bytes().to_vec());
    batch
}

fn applied<V: Reader>(view: &V) -> u64 {
    let value = view.get(Space::State, b"applied").unwrap();
    value.map_or(0, |value| u64::from_be_bytes(value[..].try_into().unwrap()))
}

/// Not a test of its own: the writing side of the one below, run in a process of its own.
#[test]
fn killed_writer() {
    let Ok(path) = std::env::var(CHILD) else {
        return;
    };
    let mut engine = FjallEngine::open(Path::new(&path), &tiny()).unwrap();
    let persister = engine.persister();
    let mut number = applied(&engine.view());
    let newest = Arc::new(AtomicU64::new(number));
    let committed = Arc::clone(&newest);
    std::thread::spawn(move || {
        loop {
            let before = committed.load(Ordering::Acquire);
            persister.persist().unwrap();
            writeln!(std::io::stdout(), "persisted {before}").unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    loop {
        number += 1;
        engine.commit(apply(number, &mut Map::new())).unwrap();
        newest.store(number, Ordering::Release);
        if number.is_multiple_of(50) {
            engine
                .drop_hist_before(&number.saturating_sub(500).to_be_bytes())
                .unwrap();
        }
    }
}

#[test]
fn a_writer_killed_at_any_moment_resumes_at_a_whole_batch() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kv");
    drop(FjallEngine::create(&path, &tiny()).unwrap());
    let mut model = Map::new();
    let mut replayed = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--nocapture",
                "engine::tests::kill::killed_writer",
            ])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let persisted = |line: &str| {
            line.split_once("persisted ")
                .and_then(|(_, number)| number.parse::<u64>().ok())
        };
        // Counted in commits, so that a slow machine tests the same; what the moment meets is left to chance.
        let wanted = 1 + random(round, 99) % 700;
        let mut told = 0;
        for line in lines
            .by_ref()
            .map_while(Result::ok)
            .filter_map(|line| persisted(&line))
        {
            told = line;
            if told >= replayed + wanted {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What the dying process still told of counts, a number cut short does not: lines end.
        let rest: Vec<_> = lines.map_while(Result::ok).collect();
        let whole = rest.split_last().map_or(&rest[..], |(_, whole)| whole);
        told = whole
            .iter()
            .rev()
            .find_map(|line| persisted(line))
            .unwrap_or(told);
        assert!(told > replayed, "round {round}: the writer did nothing");

        let mut engine = FjallEngine::open(&path, &tiny()).unwrap();
        let view = engine.view();
        let applied = applied(&view);
        assert!(
            applied >= told,
            "round {round}: {told} was persisted, {applied} is left"
        );
        let mut history = Map::new();
        while replayed < applied {
            replayed += 1;
            for op in apply(replayed, &mut model).ops() {
                if let Op::Put {
                    space: Space::Hist,
                    key,
                    value,
                } = op
                {
                    history.insert(key.to_vec(), value.to_vec());
                }
            }
        }
        let found: Map = view
            .scan(Space::State, b"k", None, false)
            .map(|item| {
                item.map(|(key, value)| (key.to_vec(), value.to_vec()))
                    .unwrap()
            })
            .collect();
        assert!(found == model, "round {round}: state at {applied} differs");
        let since = applied.saturating_sub(450);
        let since = since.max(1).to_be_bytes();
        let found: Map = view
            .scan(Space::Hist, &since, None, false)
            .map(|item| {
                item.map(|(key, value)| (key.to_vec(), value.to_vec()))
                    .unwrap()
            })
            .collect();
        assert!(!found.is_empty());
        assert_eq!(
            found.len() as u64 % 3,
            0,
            "round {round}: half a batch of history"
        );
        for (key, value) in history.range(since.to_vec()..) {
            assert!(
                found.get(key) == Some(value),
                "round {round}: history at {key:?}"
            );
        }
        drop(view);
        drop(engine);
    }
}
