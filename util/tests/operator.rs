//! Tried as a new operator would: whatever goes wrong, the last line on stderr is a command to type next.

mod support;

use std::fs;
use std::process::Output;

use kvnode_store::datadir::Lock;
use support::{Home, Shape, code, home, kvutil, stderr, stdout};

/// The last line is `next:` and a command; the exit code is the documented one.
fn ends_well(what: &str, output: &Output, expected: i32) {
    let text = stderr(output);
    assert_eq!(code(output), expected, "{what}: {text}{}", stdout(output));
    let last = text
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    assert!(
        last.starts_with("next:  ") && last.len() > 12,
        "{what} ends with {last:?}:\n{text}"
    );
    assert!(!text.contains("panicked"), "{what}: {text}");
}

/// Every command that opens a data directory, readers and writers.
const VERBS: &[&[&str]] = &[
    &["wal", "inspect"],
    &["wal", "dump"],
    &["wal", "verify"],
    &["wal", "repair"],
    &["wal", "repair", "--apply"],
    &["wal", "stats"],
    &["wal", "history", "key"],
    &["data", "info"],
    &["data", "check"],
    &["data", "compact", "--rev", "5"],
    &["data", "defrag"],
    &["data", "clone", "/nowhere/at/all/clone"],
    &["data", "undo"],
    &["data", "gc"],
    &["data", "lock"],
    &["data", "migrate"],
    &["kv", "get", "--key", "a"],
    &["kv", "scan"],
    &["kv", "count"],
    &["kv", "du"],
    &["kv", "leases"],
    &["kv", "history", "--key", "a"],
    &["hashkv"],
    &["defrag"],
    &["migrate"],
    &["support", "bundle", "/nowhere/at/all/bundle"],
];

#[test]
fn a_directory_that_is_none_is_named_with_a_next_command_by_every_verb() {
    let root = tempfile::tempdir().expect("a directory");
    let (missing, foreign) = (root.path().join("missing"), root.path().join("foreign"));
    fs::create_dir(&foreign).expect("made");
    fs::write(foreign.join("holiday.jpg"), "x").expect("written");
    for path in [&missing, &foreign] {
        for verb in VERBS {
            let words = [verb, &["--data-dir", path.to_str().expect("plain")][..]].concat();
            ends_well(&format!("{words:?}"), &kvutil(&words), 1);
        }
    }
    assert!(!missing.exists(), "a reader made a directory");
}

#[test]
fn a_directory_in_use_is_refused_at_once_naming_the_process() {
    let home = home(&Shape::default());
    let mut lock = None;
    eventually("a lock", || {
        lock = Lock::exclusive(&home.data, &support::program()).ok();
        lock.is_some()
    });
    let pid = format!("pid {}", std::process::id());
    for verb in VERBS {
        // These look at files that nobody changes in place, or answer the very question.
        let reads_log_alone = matches!(verb[..], ["wal", "inspect" | "stats" | "history", ..]);
        let free = reads_log_alone
            || matches!(
                verb[..],
                ["data", "lock" | "migrate" | "gc"] | ["migrate"] | ["support", ..]
            );
        if !free {
            let output = home.run(verb);
            ends_well(&format!("{verb:?}"), &output, 5);
            assert!(
                stderr(&output).contains(&pid),
                "{verb:?}: {}",
                stderr(&output)
            );
        }
    }
    assert!(stdout(&home.run(&["data", "lock"])).contains(&pid));
    drop(lock);
    eventually("no lock", || {
        stdout(&home.run(&["data", "lock"])).contains("not locked")
    });
}

/// A lock that this process gives up may live a moment longer in a child that another test is just starting.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("not within 5 s: {what}");
}

#[test]
fn wrong_words_are_exit_code_two_with_the_help_of_the_command_that_was_meant() {
    for (words, next) in [
        (&["wal", "mend"][..], "kvutil wal --help"),
        (&["wal", "repair", "--aply"], "kvutil wal repair --help"),
        (
            &["wal", "dump", "--data-dir", "x", "--index", "9..3"],
            "kvutil wal dump --help",
        ),
        (
            &["data", "check", "--level", "deep", "--data-dir", "x"],
            "kvutil data check --help",
        ),
        (&["kv", "get", "x"], "kvutil kv get --help"),
        (&["kv", "history", "x"], "kvutil kv history --help"),
        (&["kv", "scan"], "kvutil kv scan --help"),
        (
            &["disk", "probe", "--dir", ".", "--bytes", "1"],
            "kvutil disk probe --help",
        ),
        (&["completion", "tcl"], "kvutil completion --help"),
        (&["-w", "xml", "version"], "kvutil --help"),
        (&[], "kvutil --help"),
    ] {
        let output = kvutil(words);
        ends_well(&format!("{words:?}"), &output, 2);
        assert!(
            stderr(&output).contains(next),
            "{words:?}: {}",
            stderr(&output)
        );
    }
    assert_eq!(code(&kvutil(&["wal", "repair", "--help"])), 0);
}

fn case(what: &str, break_it: impl Fn(&Home), words: &[&str], expected: i32) {
    let home = home(&Shape {
        applied: 50,
        ..Shape::default()
    });
    break_it(&home);
    ends_well(what, &home.run(words), expected);
}

#[test]
fn whatever_is_broken_in_a_directory_the_error_ends_with_a_command() {
    let remove = |name: &'static str| {
        move |home: &Home| fs::remove_dir_all(home.data.join(name)).expect("removed")
    };
    let nothing = |_: &Home| {};
    let overwrite = |name: &'static str, text: &'static str| {
        move |home: &Home| fs::write(home.data.join(name), text).expect("written")
    };
    case(
        "identity",
        overwrite("IDENTITY", "rubbish"),
        &["data", "info"],
        3,
    );
    let other_version = |home: &Home| {
        let path = home.data.join("IDENTITY");
        let text = fs::read_to_string(&path)
            .expect("read")
            .replace("format 1", "format 9");
        fs::write(path, text).expect("written");
    };
    case(
        "identity with another text",
        other_version,
        &["data", "info"],
        3,
    );
    case("no log", remove("wal"), &["data", "check"], 1);
    case("no log", remove("wal"), &["wal", "verify"], 1);
    let empty_log = |home: &Home| {
        home.segments()
            .iter()
            .for_each(|path| fs::remove_file(path).expect("removed"))
    };
    case("an empty log", empty_log, &["wal", "dump"], 1);
    case("an empty log", empty_log, &["kv", "count"], 1);
    case("no store", remove("kv"), &["kv", "count"], 3);
    case("no store", remove("kv"), &["data", "defrag"], 3);
    case("no store", remove("kv"), &["data", "check"], 3);
    let marker = |home: &Home| fs::remove_file(home.data.join("kv/kvstore")).expect("removed");
    case("a store without its marker", marker, &["kv", "count"], 3);
    case("a store without its marker", marker, &["data", "check"], 3);
    let damaged = |home: &Home| home.flip(0, 70 * 4096 + 100);
    case("a damaged log", damaged, &["wal", "verify"], 3);
    case("a damaged log", damaged, &["wal", "repair"], 3);
    case("a damaged log", damaged, &["wal", "repair", "--apply"], 7);
    case(
        "a damaged log",
        damaged,
        &["wal", "repair", "--force", "drop-index:1..2"],
        7,
    );
    case(
        "a damaged log",
        damaged,
        &["wal", "repair", "--from-data-dir", "/nowhere"],
        1,
    );
    case("a damaged log", damaged, &["kv", "count"], 3);
    case("a damaged log", damaged, &["wal", "dump", "--rev", "1"], 3);
    case("a damaged log", damaged, &["data", "check"], 3);
    case(
        "a damaged log",
        damaged,
        &["data", "compact", "--rev", "5"],
        3,
    );
    let copy = |home: &Home| home.flip(0, 40);
    case("a bad header copy", copy, &["wal", "verify"], 4);
    case("a bad header copy", copy, &["wal", "repair"], 4);
    case("a bad header copy", copy, &["data", "check"], 4);
    case(
        "a bad header copy",
        copy,
        &["data", "compact", "--rev", "5"],
        4,
    );
    case("nothing to undo", nothing, &["data", "undo"], 1);
    case(
        "a revision to come",
        nothing,
        &["data", "compact", "--rev", "100000"],
        2,
    );
    case(
        "a revision to come",
        nothing,
        &["kv", "scan", "--rev", "100000"],
        2,
    );
    case(
        "a revision to come",
        nothing,
        &["hashkv", "--rev", "100000"],
        2,
    );
    case(
        "a forgotten revision",
        nothing,
        &["kv", "count", "--rev", "3"],
        2,
    );
    case("no such key", nothing, &["kv", "get", "--key", "nobody"], 1);
    case(
        "another format",
        nothing,
        &["migrate", "--target-version", "9.9"],
        8,
    );
    case(
        "a long separator",
        nothing,
        &["kv", "du", "--separator", "\u{20ac}"],
        2,
    );
    case(
        "no scratch",
        nothing,
        &["kv", "count", "--scratch-dir", "/nowhere"],
        1,
    );
    let first_gone = |home: &Home| {
        let shape = Shape {
            entries: 2500,
            applied: 2500,
            value_bytes: 900,
            ..Shape::default()
        };
        fs::remove_dir_all(&home.data).expect("removed");
        support::data_directory(&home.data, &shape);
        fs::remove_file(&home.segments()[0]).expect("removed");
    };
    case(
        "a log without its start",
        first_gone,
        &["wal", "dump", "--rev", "1"],
        7,
    );
    case(
        "a log without its start",
        first_gone,
        &["data", "check", "--level", "replay"],
        7,
    );
    let larger = |home: &Home| {
        fs::remove_dir_all(&home.data).expect("removed");
        let shape = Shape {
            voters: vec![0xa1, 0xa2, 0xa3],
            ..Shape::default()
        };
        support::data_directory(&home.data, &shape);
    };
    case(
        "a larger cluster",
        larger,
        &["data", "compact", "--rev", "5"],
        7,
    );
    case(
        "a used identity",
        overwrite("SPENT", "entries were given up"),
        &["defrag"],
        7,
    );
}

#[test]
fn files_that_are_no_snapshots_and_places_that_are_taken_are_refused() {
    let root = tempfile::tempdir().expect("a directory");
    let path = |name: &str| root.path().join(name).to_str().expect("plain").to_owned();
    fs::write(path("text"), "no snapshot").expect("written");
    fs::write(path("cut"), kvnode_snapshot::MAGIC).expect("written");
    for verb in [&["hashkv"][..], &["kv", "count"], &["kv", "scan"]] {
        ends_well(
            "text",
            &kvutil(&[verb, &[path("text").as_str()][..]].concat()),
            8,
        );
        ends_well(
            "cut",
            &kvutil(&[verb, &[path("cut").as_str()][..]].concat()),
            3,
        );
        ends_well(
            "missing",
            &kvutil(&[verb, &[path("missing").as_str()][..]].concat()),
            1,
        );
    }
    for verb in ["status", "verify"] {
        ends_well("text", &kvutil(&["snapshot", verb, &path("text")]), 3);
        ends_well("missing", &kvutil(&["snapshot", verb, &path("missing")]), 1);
    }
    let home = home(&Shape::default());
    ends_well("clone", &home.run(&["data", "clone", &path("text")]), 7);
    ends_well(
        "clone",
        &home.run(&["data", "clone", &path("no/such/parent")]),
        1,
    );
    ends_well(
        "bundle",
        &home.run(&["support", "bundle", &path("text")]),
        7,
    );
    ends_well(
        "bundle",
        &home.run(&["support", "bundle", &path("no/such/parent")]),
        1,
    );
    ends_well("man", &kvutil(&["man", "--out", &path("missing")]), 1);
    ends_well(
        "probe",
        &kvutil(&["disk", "probe", "--dir", &path("missing")]),
        1,
    );
    ends_well(
        "probe",
        &kvutil(&["disk", "probe", "--dir", &path(""), "--seconds", "0"]),
        2,
    );
}

#[test]
fn mistakes_with_snapshots_are_named_with_file_place_and_next_command() {
    let home = home(&Shape {
        value_bytes: 20_000,
        ..Shape::default()
    });
    let path = |name: &str| {
        home.root
            .path()
            .join(name)
            .to_str()
            .expect("plain")
            .to_owned()
    };
    let good = path("good.kvs");
    let saved = home.run(&["snapshot", "save", &good]);
    assert_eq!(code(&saved), 0, "{}", stderr(&saved));
    let bytes = fs::read(&good).expect("read");
    let make = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        fs::write(path(name), bytes).expect("written");
        path(name)
    };
    let cut = make("cut.kvs", &|bytes| bytes.truncate(bytes.len() / 2));
    let aligned = make("aligned.kvs", &|bytes| bytes.truncate(512 * 3 + 32));
    let chunk = make("chunk.kvs", &|bytes| bytes[1000] ^= 1);
    let header = make("header.kvs", &|bytes| bytes[40] ^= 1);
    let digest = make("digest.kvs", &|bytes| {
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
    });
    let newer = make("newer.kvs", &|bytes| bytes[8] = 9);
    let empty = make("empty.kvs", &|bytes| bytes.clear());
    let etcd = make("etcd.db", &|bytes| {
        bytes[..20].fill(0);
        bytes[16..20].copy_from_slice(&[0xED, 0xDA, 0x0C, 0xED]);
    });
    let (data, new, gone) = (home.path(), path("new"), path("gone"));
    let nowhere = path("no/such/place/out.kvs");
    let single = ["--single", "n1"];
    let dir = ["--data-dir", &new];
    let length = format!(
        "length {} is not 32 more than a multiple of 512",
        bytes.len() / 2
    );
    let mkdir = format!("next:  mkdir -p {}", path("no/such/place"));
    let verify = |file: &str| format!("next:  kvutil snapshot verify {file}");
    let words = |line: &[&str], more: &[&str]| -> Vec<String> {
        let words = line.iter().chain(more);
        words.map(|word| (*word).to_owned()).collect()
    };
    let restore = |file: &str, more: &[&str]| words(&["snapshot", "restore", file], more);
    let save = |out: &str, more: &[&str]| words(&["snapshot", "save", out], more);
    let to_new = [&single[..], &dir].concat();
    // What is typed, the exit code, and what must be said of it.
    let cases: Vec<(&str, Vec<String>, i32, Vec<String>)> = vec![
        (
            "half a file",
            restore(&cut, &to_new),
            3,
            vec![length, verify(&cut)],
        ),
        (
            "an end that is none",
            restore(&aligned, &to_new),
            3,
            vec!["trailer at offset 1504".into(), verify(&aligned)],
        ),
        (
            "a bad chunk",
            restore(&chunk, &to_new),
            3,
            vec![
                "chunk 0 at offset ".into(),
                "CRC is ".into(),
                " expected".into(),
                verify(&chunk),
            ],
        ),
        (
            "a bad header",
            restore(&header, &to_new),
            3,
            vec!["header at offset 0: CRC is ".into(), verify(&header)],
        ),
        (
            "a bad digest",
            restore(&digest, &to_new),
            3,
            vec![
                "SHA-256 is ".into(),
                "the file says ".into(),
                "--skip-hash-check".into(),
                verify(&digest),
            ],
        ),
        (
            "an empty file",
            restore(&empty, &to_new),
            3,
            vec!["ends after 0 bytes, at least 20 expected".into()],
        ),
        (
            "a file of a newer program",
            restore(&newer, &to_new),
            8,
            vec!["snapshot format 9.x; this program reads 1.x".into()],
        ),
        (
            "a database of etcd",
            restore(&etcd, &to_new),
            8,
            vec![
                "a database of etcd".into(),
                "next:  etcdutl snapshot restore".into(),
            ],
        ),
        (
            "no such file",
            restore(&gone, &to_new),
            1,
            vec![format!("cannot open {gone}")],
        ),
        (
            "a directory as the file",
            restore(data, &to_new),
            1,
            vec!["is a directory, a .kvs file is wanted".into()],
        ),
        (
            "no place",
            restore(&good, &single),
            2,
            vec!["--data-dir is missing".into()],
        ),
        (
            "a place that is taken",
            restore(&good, &["--single", "n1", "--data-dir", data]),
            7,
            vec![
                "is a data directory already".into(),
                format!("next:  mv {data} {data}.old-"),
            ],
        ),
        (
            "a file as the place",
            restore(&good, &["--single", "n1", "--data-dir", &cut]),
            7,
            vec!["is a file".into()],
        ),
        (
            "no members",
            restore(&good, &dir),
            7,
            vec!["who is to be in the cluster?".into(), "--single".into()],
        ),
        (
            "a url without scheme",
            restore(
                &good,
                &[
                    "--initial-cluster",
                    "a=h1",
                    "--name",
                    "a",
                    "--data-dir",
                    &new,
                ],
            ),
            2,
            vec!["h1".into()],
        ),
        (
            "a name of nobody",
            restore(
                &good,
                &[
                    "--initial-cluster",
                    "a=http://h1:1",
                    "--name",
                    "b",
                    "--data-dir",
                    &new,
                ],
            ),
            2,
            vec!["the members are a".into()],
        ),
        (
            "no such plan",
            restore(&good, &["--plan", &gone, "--name", "a", "--data-dir", &new]),
            1,
            vec![gone.clone(), "--write-plan".into()],
        ),
        (
            "a file that is no plan",
            restore(&good, &["--plan", &good, "--name", "a", "--data-dir", &new]),
            7,
            vec![format!("{good}: no plan")],
        ),
        (
            "a file that is there",
            save(&good, &["--data-dir", data]),
            7,
            vec![format!("{good} exists"), "--overwrite".into()],
        ),
        (
            "a place that is not there",
            save(&nowhere, &["--data-dir", data]),
            1,
            vec![mkdir],
        ),
        (
            "a snapshot as the directory",
            save(&gone, &["--data-dir", &good]),
            2,
            vec![
                "is a snapshot already".into(),
                "next:  kvutil snapshot convert".into(),
            ],
        ),
        (
            "nothing to save",
            save(&gone, &[]),
            2,
            vec!["--data-dir".into(), "--endpoints".into()],
        ),
        (
            "nobody there",
            save(&gone, &["--endpoints", "127.0.0.1:1"]),
            1,
            vec!["127.0.0.1:1".into(), "refused".into()],
        ),
        (
            "no port",
            save(&gone, &["--endpoints", "host"]),
            2,
            vec!["missing port".into()],
        ),
        (
            "no password",
            save(&gone, &["--endpoints", "h:1", "--user", "root"]),
            2,
            vec!["the password is missing".into()],
        ),
        (
            "no node",
            save(&gone, &["--live", "--data-dir", data]),
            1,
            vec!["admin.sock".into(), "no node runs there".into()],
        ),
        (
            "no such key",
            words(&["snapshot", "get", &good, "nobody"], &[]),
            1,
            vec![
                format!("{good}: no key \"nobody\""),
                "next:  kvutil snapshot list".into(),
            ],
        ),
        (
            "a revision to come",
            words(&["snapshot", "list", &good, "--rev", "9999"], &[]),
            2,
            vec![
                good.clone(),
                "revisions 20 to ".into(),
                format!("next:  kvutil snapshot status {good}"),
            ],
        ),
        (
            "a bad chunk left as it is",
            words(&["snapshot", "convert", &chunk, &gone], &[]),
            3,
            vec!["--skip-bad".into()],
        ),
        (
            "a file to compare with",
            words(&["snapshot", "diff", &good, &gone], &[]),
            1,
            vec![format!("cannot read {gone}")],
        ),
    ];
    assert!(cases.len() >= 25);
    for (what, words, expected, said) in &cases {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = kvutil(&words);
        ends_well(what, &output, *expected);
        let text = stderr(&output);
        for part in said {
            assert!(text.contains(part), "{what}: {part:?} is not in\n{text}");
        }
        assert!(
            !fs::exists(&new).expect("asked") && !fs::exists(&gone).expect("asked"),
            "{what}: something was made"
        );
    }
}
