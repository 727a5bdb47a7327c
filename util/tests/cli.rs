//! The tool as an operator meets it: results, exit codes, and inputs that stay as they are.

mod support;

use std::fs;
use std::path::Path;

use kvnode_snapshot::{Info, Options as SnapshotOptions, Writer};
use support::{Home, Shape, code, home, image, json, kvutil, stderr, stdout};

/// Whatever the words, the data directory is the same afterwards, byte for byte.
fn unchanged(home: &Home, words: &[&str]) -> std::process::Output {
    let before = image(&home.data, &[]);
    let output = home.run(words);
    assert!(
        image(&home.data, &[]) == before,
        "{words:?} changed its input"
    );
    output
}

#[test]
fn readers_answer_in_every_form_and_change_nothing() {
    let home = home(&Shape::default());
    let verbs: &[&[&str]] = &[
        &["wal", "inspect"],
        &["wal", "verify"],
        &["wal", "dump"],
        &["wal", "stats"],
        &["wal", "repair"],
        &["wal", "history", "/a/key-001"],
        &["data", "info"],
        &["data", "lock"],
        &["data", "gc"],
        &["data", "undo", "--list"],
        &["data", "check", "--level", "replay"],
        &["data", "migrate"],
        &["kv", "scan"],
        &["kv", "count"],
        &["kv", "du"],
        &["kv", "leases", "--keys"],
        &["kv", "get", "--key", "/a/key-001"],
        &["kv", "history", "--prefix", "/a/"],
        &["hashkv"],
    ];
    for verb in verbs {
        for form in ["simple", "table", "json", "jsonl", "fields"] {
            let output = unchanged(&home, &[verb, &["-w", form][..]].concat());
            assert_eq!(code(&output), 0, "{verb:?} {form}: {}", stderr(&output));
            let text = stdout(&output);
            match form {
                "json" => {
                    let value = json(&output);
                    let row = value["schema"]
                        .as_str()
                        .is_some_and(|s| s.starts_with("kvutil."));
                    assert!(row || value["key"].is_string(), "{verb:?}: {text}");
                }
                "jsonl" => {
                    for line in text.lines() {
                        serde_json::from_str::<serde_json::Value>(line).expect("a JSON line");
                    }
                }
                _ => assert!(
                    !text.trim().is_empty() || verb[1] == "gc",
                    "{verb:?} {form}"
                ),
            }
        }
    }
}

#[test]
fn numbers_of_log_and_store_are_right() {
    let home = home(&Shape::default());
    let verified = home.json(&["wal", "verify"]);
    assert_eq!(verified["sound"], true);
    assert_eq!(
        (
            verified["entries"].as_u64(),
            verified["applied_index"].as_u64()
        ),
        (Some(100), Some(90))
    );
    let info = home.json(&["data", "info"]);
    assert_eq!(
        (info["cluster_id"].as_str(), info["member_id"].as_str()),
        (Some("c1"), Some("a1"))
    );
    assert_eq!(
        (info["last_index"].as_u64(), info["applied_index"].as_u64()),
        (Some(100), Some(90))
    );
    // A source shows what the node would serve: the log's last entries included.
    let hash = home.json(&["hashkv"]);
    assert_eq!(hash["from_log"].as_u64(), Some(10));
    let alone = home.json(&["hashkv", "--no-log"]);
    assert!(alone["hash_revision"].as_i64() < hash["hash_revision"].as_i64());
    let count = home.json(&["kv", "count"])["keys"]
        .as_u64()
        .expect("a number");
    let rows = home.json(&["kv", "scan"])["rows"]
        .as_array()
        .expect("rows")
        .len();
    assert_eq!(count, rows as u64);
    let leases = home.json(&["kv", "leases", "--keys"]);
    assert_eq!(leases["rows"][0]["lease"], "77");
    let du = home.json(&["kv", "du"]);
    let total: u64 = du["rows"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| row["keys"].as_u64().unwrap_or(0))
        .sum();
    assert_eq!(total, count);
    assert!(
        du["rows"][0]["prefix"]
            .as_str()
            .is_some_and(|prefix| prefix.ends_with('/'))
    );
}

#[test]
fn a_dump_can_be_narrowed_and_hides_values_unless_asked() {
    let home = home(&Shape::default());
    let rows = |words: &[&str]| {
        let dumped = home.json(&[&["wal", "dump"], words].concat());
        dumped["rows"].as_array().expect("rows").clone()
    };
    assert_eq!(rows(&[]).len(), 100);
    assert_eq!(rows(&["--index", "10..19"]).len(), 10);
    assert_eq!(rows(&["--type", "compact"]).len(), 1);
    assert_eq!(rows(&["--type", "lease,compact"]).len(), 2);
    assert_eq!(rows(&["--term", "2"]).len(), 0);
    assert_eq!(rows(&["--time", "1700000000001..1700000000005"]).len(), 5);
    assert!(rows(&["--key", "/leased/"]).iter().all(|row| {
        row["ops"][0]["key"]
            .as_str()
            .is_some_and(|key| key.starts_with("/leased/"))
    }));
    let made = rows(&["--rev", "5..7"]);
    let revisions: Vec<_> = made
        .iter()
        .map(|row| row["revision"].as_i64().expect("a revision"))
        .collect();
    assert_eq!(revisions, [5, 6, 7]);
    assert!(rows(&["--index", "1"])[0]["ops"][0]["value"].is_null());
    assert!(rows(&["--index", "1", "--values"])[0]["ops"][0]["value"].is_string());
}

#[test]
fn the_history_of_a_key_from_the_log_and_from_the_store_agree() {
    let home = home(&Shape::default());
    let log = home.json(&["wal", "history", "/txn/sibling"]);
    let store = home.json(&["kv", "history", "--key", "/txn/sibling"]);
    let revisions = |value: &serde_json::Value| -> Vec<i64> {
        value["rows"]
            .as_array()
            .expect("rows")
            .iter()
            .map(|row| row["revision"].as_i64().expect("one"))
            .collect()
    };
    let (log_revisions, store_revisions) = (revisions(&log), revisions(&store));
    assert!(log_revisions.len() >= store_revisions.len() && store_revisions.len() > 3);
    assert!(
        log_revisions.ends_with(&store_revisions[1..]),
        "{log_revisions:?} {store_revisions:?}"
    );
    assert!(
        log["rows"][0]["siblings"][0]
            .as_str()
            .is_some_and(|key| key.starts_with("/a/"))
    );
}

#[test]
fn defrag_and_compact_make_it_smaller_and_undo_puts_every_byte_back() {
    let home = home(&Shape {
        entries: 300,
        applied: 290,
        value_bytes: 4000,
        ..Shape::default()
    });
    let (log_only, store_only) = (["LOCK", "quarantine"], ["LOCK", "quarantine"]);
    let before = image(&home.data, &log_only);
    let hash = home.json(&["hashkv"])["hash"].clone();
    let defrag = home.json(&["defrag"]);
    assert!(
        defrag["bytes_after"].as_u64() < defrag["bytes_before"].as_u64(),
        "{defrag}"
    );
    assert_eq!(home.json(&["hashkv"])["hash"], hash);
    assert_eq!(code(&home.run(&["data", "check", "--level", "replay"])), 0);
    assert_eq!(code(&home.run(&["data", "undo"])), 0);
    assert!(image(&home.data, &store_only) == before, "undo of a defrag");

    let compacted = home.json(&["data", "compact", "--rev", "250"]);
    assert_eq!(compacted["compact_revision"].as_i64(), Some(250));
    let info = home.json(&["data", "info"]);
    assert_eq!(
        (
            info["compact_revision"].as_i64(),
            info["last_index"].as_u64(),
            info["applied_index"].as_u64()
        ),
        (Some(250), Some(301), Some(301))
    );
    let check = home.run(&["data", "check", "--level", "replay"]);
    assert_eq!(code(&check), 0, "{}{}", stdout(&check), stderr(&check));
    let gone = home.run(&["kv", "get", "--key", "/a/key-001", "--rev", "100"]);
    assert!(
        code(&gone) != 0 && stderr(&gone).contains("compacted"),
        "{}",
        stderr(&gone)
    );
    let undone = home.run(&["data", "undo"]);
    assert_eq!(code(&undone), 0, "{}", stderr(&undone));
    assert!(
        image(&home.data, &store_only) == before,
        "undo of a compact"
    );
    let swept = home.json(&["data", "gc", "--apply"]);
    assert_eq!(swept["rows"].as_array().map(Vec::len), Some(3), "{swept}");
    assert_eq!(
        home.json(&["data", "gc"])["rows"].as_array().map(Vec::len),
        Some(0)
    );
}

#[test]
fn a_clone_is_the_same_and_is_never_made_over_something() {
    let home = home(&Shape::default());
    let copy = home.root.path().join("copy");
    let output = unchanged(&home, &["data", "clone", copy.to_str().expect("plain")]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let of = |path: &Path| image(path, &["LOCK"]);
    assert!(of(&copy) == of(&home.data));
    assert_eq!(
        code(&kvutil(&[
            "data",
            "check",
            "--data-dir",
            copy.to_str().expect("plain")
        ])),
        0
    );
    let again = home.run(&["data", "clone", copy.to_str().expect("plain")]);
    assert_eq!(code(&again), 7);
}

#[test]
fn a_store_that_parted_from_its_log_is_told_by_replay_alone() {
    let home = home(&Shape::default());
    // Another life: the same log, but the store applied something else at one place.
    let other = support::home(&Shape {
        value_bytes: 201,
        ..Shape::default()
    });
    fs::remove_dir_all(home.data.join("kv")).expect("removed");
    fs::rename(other.data.join("kv"), home.data.join("kv")).expect("renamed");
    assert_eq!(
        code(&home.run(&["data", "check", "--level", "structure"])),
        0
    );
    let output = home.run(&["data", "check", "--level", "replay"]);
    assert_eq!(code(&output), 3, "{}", stdout(&output));
    assert!(
        stdout(&output).contains("store and log part"),
        "{}",
        stdout(&output)
    );
}

fn snapshot(path: &Path) {
    let info = Info {
        cluster_id: 0xc1,
        revision: 77,
        compact_revision: -1,
        program: "test".into(),
        ..Info::default()
    };
    let file = fs::File::create(path).expect("creatable");
    let options = SnapshotOptions {
        chunk_bytes: 4096,
        ..SnapshotOptions::default()
    };
    let mut writer = Writer::new(file, &info, options).expect("a header");
    for number in 0..500u32 {
        // Bytes that do not compress, so that chunks have some length.
        let value: Vec<u8> = (0..64u32)
            .map(|at| (number.wrapping_mul(2_654_435_761) >> (at % 24)) as u8)
            .collect();
        writer
            .push(0, format!("key-{number:05}").as_bytes(), &value)
            .expect("in order");
    }
    writer.finish(5).expect("finished");
}

#[test]
fn a_snapshot_tells_its_revision_and_a_damaged_chunk_is_named() {
    let root = tempfile::tempdir().expect("a directory");
    let file = root.path().join("backup.kvs");
    snapshot(&file);
    let path = file.to_str().expect("a plain path");
    let status = json(&kvutil(&["snapshot", "status", path, "-w", "json"]));
    assert_eq!(
        (status["revision"].as_i64(), status["records"].as_u64()),
        (Some(77), Some(500))
    );
    // Its records are no store's.
    let frames = ["snapshot", "verify", path, "--level", "checksums"];
    assert_eq!(code(&kvutil(&frames)), 0);
    assert_eq!(code(&kvutil(&["snapshot", "verify", path])), 3);
    let mut bytes = fs::read(&file).expect("readable");
    let place = bytes.len() / 2;
    bytes[place] ^= 0x10;
    fs::write(&file, bytes).expect("writable");
    let output = kvutil(&["snapshot", "verify", path, "-w", "json"]);
    assert_eq!(code(&output), 3);
    let verified = json(&output);
    assert_eq!(verified["sound"].as_bool(), Some(false));
    let damage = verified["damage"].to_string();
    assert!(
        // The first byte of a record's key is its kind.
        damage.contains("chunk ") && damage.contains("ey-00"),
        "{damage}"
    );
}

#[test]
fn a_bundle_holds_answers_but_no_key_and_no_value() {
    let home = home(&Shape::default());
    let (dir, tar) = (
        home.root.path().join("bundle"),
        home.root.path().join("bundle.tar"),
    );
    for out in [&dir, &tar] {
        let output = unchanged(&home, &["support", "bundle", out.to_str().expect("plain")]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
    }
    let mut text: Vec<u8> = image(&dir, &[]).into_values().flatten().collect();
    text.extend(fs::read(&tar).expect("an archive"));
    let has = |needle: &str| {
        text.windows(needle.len())
            .any(|window| window == needle.as_bytes())
    };
    assert!(has("kvutil.wal.stats.1") && has("kvutil.data.check.1"));
    assert!(!has("key-0") && !has("/leased/") && !has("/txn/"));
}

#[test]
fn completions_manual_and_version_come_from_the_same_tree() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&kvutil(&["completion", shell]));
        assert!(
            script.contains("kvutil") && script.contains("repair"),
            "{shell}"
        );
    }
    assert!(stdout(&kvutil(&["man"])).contains(".TH"));
    let root = tempfile::tempdir().expect("a directory");
    let out = root.path().to_str().expect("plain");
    assert_eq!(code(&kvutil(&["man", "--out", out])), 0);
    assert!(root.path().join("kvutil-wal-repair.1").exists());
    assert!(stdout(&kvutil(&["version"])).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_probe_measures_and_leaves_no_file() {
    let root = tempfile::tempdir().expect("a directory");
    let output = kvutil(&[
        "disk",
        "probe",
        "--dir",
        root.path().to_str().expect("plain"),
        "--seconds",
        "0.05",
        "-w",
        "json",
    ]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let probed = json(&output);
    assert!(
        probed["writes"].as_u64() > Some(0)
            && probed["p99_micros"].as_u64() >= probed["p50_micros"].as_u64()
    );
    assert_eq!(fs::read_dir(root.path()).expect("listed").count(), 0);
}

#[test]
fn progress_can_be_had_as_json_lines() {
    let home = home(&Shape::default());
    let output = home.run(&["data", "check", "--level", "replay", "--progress", "json"]);
    let lines: Vec<serde_json::Value> = stderr(&output)
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).expect("a JSON line"))
        .collect();
    assert!(
        lines
            .iter()
            .any(|line| line["what"] == "replaying" && line["finished"] == true),
        "{lines:?}"
    );
}
