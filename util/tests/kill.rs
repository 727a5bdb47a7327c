//! kill -9 at random points of every verb that writes: what is there afterwards is the old tree or the new one, whole,
//! and the next run brings it to an end.
//!
//! 32 kills by default; `KVNODE_KILLS=200 cargo test -p kvutil --test kill` for more.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Shape, code, data_directory, image, kvutil, stderr, stdout};

const WITHOUT: [&str; 2] = ["LOCK", "quarantine"];

/// splitmix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let copied = Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .expect("cp runs");
    assert!(copied.success());
}

struct Verb {
    name: &'static str,
    words: Vec<String>,
    /// What the live tree may be: before, and after.
    is_whole: fn(&Path) -> bool,
}

/// The store and the log agree, record by record.
fn proven(data: &Path) -> bool {
    let path = data.to_str().expect("plain");
    code(&kvutil(&[
        "data",
        "check",
        "--level",
        "replay",
        "--data-dir",
        path,
    ])) == 0
}

fn verifies(data: &Path) -> bool {
    code(&kvutil(&[
        "wal",
        "verify",
        "--data-dir",
        data.to_str().expect("plain"),
    ])) == 0
}

#[test]
fn a_kill_at_any_moment_leaves_the_old_tree_or_the_new_one_whole() {
    let kills: u64 = std::env::var("KVNODE_KILLS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(32);
    let root = tempfile::tempdir().expect("a directory");
    let (sound, torn) = (root.path().join("sound"), root.path().join("torn"));
    data_directory(
        &sound,
        &Shape {
            entries: 200,
            applied: 190,
            value_bytes: 2000,
            ..Shape::default()
        },
    );
    copy(&sound, &torn);
    let segment = image(&torn.join("wal"), &[])
        .into_keys()
        .next()
        .expect("a segment");
    let path = torn.join("wal").join(segment);
    let mut bytes = std::fs::read(&path).expect("read");
    // A header copy: mended without loss.
    bytes[40] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    let live = root.path().join("live");
    let clone = root.path().join("clone");
    let path = live.to_str().expect("plain").to_owned();
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .chain(["--data-dir".to_owned(), path.clone()])
            .collect()
    };
    let verbs = [
        Verb {
            name: "repair",
            words: words(&["wal", "repair", "--apply"]),
            is_whole: verifies,
        },
        Verb {
            name: "defrag",
            words: words(&["defrag"]),
            is_whole: proven,
        },
        Verb {
            name: "compact",
            words: words(&["data", "compact", "--rev", "100"]),
            is_whole: proven,
        },
        Verb {
            name: "clone",
            words: words(&["data", "clone", clone.to_str().expect("plain")]),
            is_whole: proven,
        },
    ];
    let mut seed = 0x5EED;
    let (mut old, mut new) = (0, 0);
    for verb in &verbs {
        let base = if verb.name == "repair" { &torn } else { &sound };
        copy(base, &live);
        let started = Instant::now();
        let whole = kvutil(&verb.words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(code(&whole), 0, "{}: {}", verb.name, stderr(&whole));
        let takes = started.elapsed();
        for round in 0..kills / verbs.len() as u64 {
            copy(base, &live);
            let _ = std::fs::remove_dir_all(&clone);
            let before = image(&live, &WITHOUT);
            // Sometimes behind the end as well.
            let micros = next(&mut seed) % (takes.as_micros() as u64 * 11 / 10).max(1);
            let mut child = Command::new(env!("CARGO_BIN_EXE_kvutil"))
                .args(&verb.words)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("kvutil starts");
            // The moment is the point of the test, not a way to wait for something.
            std::thread::sleep(Duration::from_micros(micros));
            let _ = child.kill();
            let _ = child.wait();
            let what = format!("{} round {round}, killed after {micros} us", verb.name);
            if verb.name == "clone" {
                assert!(
                    image(&live, &WITHOUT) == before,
                    "{what}: the source changed"
                );
                if clone.exists() {
                    assert!(
                        image(&clone, &WITHOUT) == before,
                        "{what}: a clone that is not whole"
                    );
                    new += 1;
                    continue;
                }
                old += 1;
            } else if image(&live, &WITHOUT) == before {
                old += 1;
            } else {
                assert!((verb.is_whole)(&live), "{what}: neither old nor new");
                new += 1;
                if verb.name == "compact" {
                    continue;
                }
            }
            let again = kvutil(&verb.words.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(
                code(&again),
                0,
                "{what}: {}{}",
                stdout(&again),
                stderr(&again)
            );
            let data = if verb.name == "clone" { &clone } else { &live };
            assert!((verb.is_whole)(data), "{what}: after another run");
            let unfinished = kvutil(&["data", "undo", "--list", "--data-dir", &path]);
            assert!(
                !stdout(&unfinished).contains("unfinished"),
                "{what}: {}",
                stdout(&unfinished)
            );
        }
    }
    eprintln!(
        "{} kills: {old} left the old tree, {new} the new one",
        old + new
    );
    assert!(old > 0);
}

/// `KVNODE_KILLS=200 cargo test -p kvutil --test kill` for the long form of this one as well.
#[test]
fn a_kill_of_a_save_or_a_restore_leaves_nothing_or_the_whole_and_the_next_run_ends_well() {
    let kills = std::env::var("KVNODE_KILLS").ok();
    let kills: u64 = kills.and_then(|text| text.parse().ok()).unwrap_or(10);
    let root = tempfile::tempdir().expect("a directory");
    let at = |name: &str| root.path().join(name).to_str().expect("plain").to_owned();
    let shape = Shape {
        entries: 300,
        applied: 300,
        value_bytes: 4000,
        ..Shape::default()
    };
    data_directory(Path::new(&at("data")), &shape);
    let data = ["--data-dir".to_owned(), at("data")];
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let base = kvutil(&["snapshot", "save", &at("base.kvs"), &data[0], &data[1]]);
    assert_eq!(code(&base), 0, "{}", stderr(&base));
    let save = [words(&["snapshot", "save", &at("out.kvs")]), data.to_vec()].concat();
    let restore = words(&[
        "snapshot",
        "restore",
        &at("base.kvs"),
        "--single",
        "n1",
        "--data-dir",
        &at("to"),
        "--wal-dir",
        &at("to-wal"),
    ]);
    let mut seed = 0xBAD5EED;
    let (mut nothing, mut whole) = (0, 0);
    for (name, words) in [("save", &save), ("restore", &restore)] {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let clear = || {
            for left in ["out.kvs", "out.kvs.part"] {
                let _ = std::fs::remove_file(at(left));
            }
            for left in ["to", "to-wal", "to.kvutil-restore", "to-wal.kvutil-restore"] {
                let _ = std::fs::remove_dir_all(at(left));
            }
        };
        let is_whole = || match name {
            "save" => code(&kvutil(&["snapshot", "verify", &at("out.kvs")])) == 0,
            _ => {
                code(&kvutil(&["snapshot", "diff", &at("base.kvs"), &at("to")])) == 0
                    && code(&kvutil(&["data", "check", "--data-dir", &at("to")])) == 0
            }
        };
        let result = if name == "save" {
            at("out.kvs")
        } else {
            at("to")
        };
        let started = Instant::now();
        let run = kvutil(&words);
        assert_eq!(code(&run), 0, "{name}: {}", stderr(&run));
        let takes = started.elapsed().as_micros() as u64;
        for round in 0..kills / 2 {
            clear();
            let micros = next(&mut seed) % (takes * 11 / 10).max(1);
            let mut child = Command::new(env!("CARGO_BIN_EXE_kvutil"))
                .args(&words)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("kvutil starts");
            // The moment is the point of the test, not a way to wait for something.
            std::thread::sleep(Duration::from_micros(micros));
            let _ = child.kill();
            let _ = child.wait();
            let what = format!("{name} round {round}, killed after {micros} us");
            if Path::new(&result).exists() {
                assert!(is_whole(), "{what}: neither nothing nor the whole");
                whole += 1;
                continue;
            }
            nothing += 1;
            let again = kvutil(&words);
            assert_eq!(code(&again), 0, "{what}: {}", stderr(&again));
            assert!(is_whole(), "{what}: after another run");
            for left in ["out.kvs.part", "to.kvutil-restore", "to-wal.kvutil-restore"] {
                assert!(!Path::new(&at(left)).exists(), "{what}: {left} is left");
            }
        }
    }
    eprintln!("{nothing} left nothing, {whole} the whole");
    assert!(nothing > 0);
}
