//! Snapshots as an operator meets them: saved, checked, compared, restored, and refused where that is right.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use support::{Home, Shape, code, home, image, json, kvutil, stderr, stdout};

const THREE: &str = "n1=http://127.0.0.1:7001,n2=http://127.0.0.1:7002,n3=http://127.0.0.1:7003";

/// A file beside the data directory.
fn beside(home: &Home, name: &str) -> String {
    let path = home.root.path().join(name);
    path.to_str().expect("a plain path").to_owned()
}

fn saved(home: &Home) -> String {
    let file = beside(home, "saved.kvs");
    let output = home.run(&["snapshot", "save", &file]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    file
}

fn restore(file: &str, to: &str, words: &[&str]) -> Output {
    kvutil(
        &[
            &["snapshot", "restore", file, "--data-dir", to, "-w", "json"],
            words,
        ]
        .concat(),
    )
}

fn restored(file: &str, to: &str, words: &[&str]) -> serde_json::Value {
    let output = restore(file, to, words);
    assert_eq!(code(&output), 0, "{words:?}: {}", stderr(&output));
    json(&output)
}

fn hash(source: &str) -> (u64, i64) {
    let hash = json(&kvutil(&["hashkv", source, "-w", "json"]));
    let number = |name: &str| hash[name].as_i64().expect("a number");
    (number("hash") as u64, number("hash_revision"))
}

/// Entries of a directory that are not there before and after everything.
fn strangers(home: &Home) -> Vec<String> {
    let entries = fs::read_dir(home.root.path()).expect("listed").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name != "data" && name != "saved.kvs")
        .collect()
}

#[test]
fn a_saved_state_comes_back_the_same_under_another_identity() {
    let home = home(&Shape::default());
    let file = saved(&home);
    assert_eq!(
        fs::metadata(&file).expect("there").permissions().mode() & 0o777,
        0o600
    );
    assert!(!Path::new(&format!("{file}.part")).exists());
    assert_eq!(
        code(&kvutil(&[
            "snapshot",
            "verify",
            &file,
            "--against",
            home.path()
        ])),
        0
    );
    let status = stdout(&kvutil(&["snapshot", "status", &file]));
    assert_eq!(status.split(", ").count(), 4, "{status}");

    let whole = beside(&home, "whole");
    let told = restored(&file, &whole, &["--single", "n1", "--revision-bump", "0"]);
    assert_eq!(
        hash(&whole),
        hash(home.path()),
        "the log's last entries included"
    );
    assert_eq!(told["old_cluster_id"], "c1");
    assert_ne!(told["cluster_id"], "c1");
    let history = |source: &str| {
        let words = [
            "kv",
            "history",
            source,
            "--key",
            "/txn/sibling",
            "-w",
            "json",
        ];
        json(&kvutil(&words))["rows"].clone()
    };
    assert_eq!(history(&whole), history(home.path()));

    let bumped = beside(&home, "bumped");
    let told = restored(&file, &bumped, &["--single", "n1"]);
    let revision = told["revision"].as_i64().expect("a revision");
    assert_eq!(revision, hash(home.path()).1 + 1_000_000_000);
    assert_eq!(told["compact_revision"].as_i64(), Some(revision));
    assert_eq!(told["hashkv_is_the_snapshots"], true);
    for data in [&whole, &bumped] {
        assert_eq!(code(&kvutil(&["data", "check", "--data-dir", data])), 0);
        let diff = kvutil(&["snapshot", "diff", &file, data]);
        assert_eq!(code(&diff), 0, "{}", stdout(&diff));
        let open = kvnode_store::datadir::DataDir::open(Path::new(data), None, &support::program());
        assert!(open.is_ok_and(|data| data.notes().is_empty()));
    }
    let gone = kvutil(&["kv", "get", &bumped, "--key", "/a/key-001", "--rev", "50"]);
    assert!(stderr(&gone).contains("compacted"), "{}", stderr(&gone));
    // The same bytes again, but for the time.
    let again = home.run(&["snapshot", "save", &file]);
    assert_eq!(code(&again), 7, "{}", stderr(&again));
    assert_eq!(
        code(&home.run(&["snapshot", "save", &file, "--overwrite"])),
        0
    );
}

#[test]
fn a_state_of_several_pieces_comes_back_the_same() {
    let home = home(&Shape {
        entries: 400,
        applied: 400,
        value_bytes: 250_000,
        ..Shape::default()
    });
    let file = saved(&home);
    let whole = beside(&home, "whole");
    let words = ["--single", "n1", "--revision-bump", "0", "--threads", "3"];
    restored(&file, &whole, &words);
    // Each piece is at least one table.
    let spaces = fs::read_dir(Path::new(&whole).join("kv/keyspaces")).expect("listed");
    let tables =
        |space: fs::DirEntry| fs::read_dir(space.path().join("tables")).map(Iterator::count);
    let most = spaces.flatten().flat_map(tables).max();
    assert!(most > Some(1), "{most:?}");
    assert_eq!(hash(&whole), hash(home.path()));
    assert_eq!(code(&kvutil(&["data", "check", "--data-dir", &whole])), 0);
    let diff = kvutil(&["snapshot", "diff", &file, &whole]);
    assert_eq!(code(&diff), 0, "{}", stdout(&diff));
    // What is saved of it is the same again, record by record.
    let again = beside(&home, "again.kvs");
    let save = kvutil(&["snapshot", "save", &again, "--data-dir", &whole]);
    assert_eq!(code(&save), 0, "{}", stderr(&save));
    let verify = kvutil(&["snapshot", "verify", &again, "--against", &file]);
    assert_eq!(code(&verify), 0, "{}", stdout(&verify));
}

#[test]
fn members_that_restore_alike_are_one_cluster_and_others_are_not() {
    let home = home(&Shape::default());
    let file = saved(&home);
    let id = |name: &str, words: &[&str]| {
        let to = beside(&home, &format!("{name}-{}", words.len()));
        let words = [&["--initial-cluster", THREE, "--name", name], words].concat();
        let told = restored(&file, &to, &words);
        (told["cluster_id"].clone(), told["member_id"].clone())
    };
    let (one, two) = (id("n1", &[]), id("n2", &[]));
    assert_eq!(one.0, two.0);
    assert_ne!(one.1, two.1);
    // Members that did other things to the state must not meet.
    assert_ne!(id("n3", &["--leases", "drop"]).0, one.0);
    assert_ne!(
        id("n3", &["--initial-cluster-token", "other", "--auth=keep"]).0,
        one.0
    );

    let plan = beside(&home, "plan.json");
    let words = [
        "--initial-cluster",
        THREE,
        "--write-plan",
        &plan,
        "--leases",
        "extend=1h",
    ];
    let written = json(&kvutil(
        &[&["snapshot", "restore", &file, "-w", "json"], &words[..]].concat(),
    ));
    let first = restored(
        &file,
        &beside(&home, "p1"),
        &["--plan", &plan, "--name", "n1"],
    );
    let second = restored(
        &file,
        &beside(&home, "p2"),
        &["--plan", &plan, "--name", "n2"],
    );
    assert_eq!(first["cluster_id"], written["cluster_id"]);
    assert_eq!(second["cluster_id"], written["cluster_id"]);
    assert_ne!(
        first["cluster_id"], one.0,
        "another restore is another cluster"
    );
    let leases = json(&kvutil(&[
        "kv",
        "leases",
        &beside(&home, "p1"),
        "-w",
        "json",
    ]));
    assert!(leases.to_string().contains("3660"), "{leases}");
    // A plan that was changed, and one for another file.
    let text = fs::read_to_string(&plan).expect("a plan");
    let changed = beside(&home, "changed.json");
    for (told, other) in [
        ("1000000000", "1000000001"),
        ("127.0.0.1:7003", "127.0.0.1:7004"),
        ("\"n2\"", "\"n4\""),
    ] {
        assert!(text.contains(told), "{told}: {text}");
        fs::write(&changed, text.replace(told, other)).expect("written");
        let refused = restore(
            &file,
            &beside(&home, "p3"),
            &["--plan", &changed, "--name", "n3"],
        );
        assert_eq!(code(&refused), 7, "{other}: {}", stderr(&refused));
        assert!(stderr(&refused).contains("it was changed"));
    }
    let other = beside(&home, "other.kvs");
    let latest = home.run(&["snapshot", "save", &other, "--history", "latest"]);
    assert_eq!(code(&latest), 0, "{}", stderr(&latest));
    let refused = restore(
        &other,
        &beside(&home, "p3"),
        &["--plan", &plan, "--name", "n3"],
    );
    assert_eq!(code(&refused), 7, "{}", stderr(&refused));
    assert!(!Path::new(&beside(&home, "p3")).exists());
}

#[test]
fn the_old_cluster_id_is_kept_only_with_its_token_and_bans_the_old_members() {
    let home = home(&Shape::default());
    let file = saved(&home);
    let to = beside(&home, "kept");
    let words = ["--single", "n1", "--keep-cluster-id"];
    let refused = restore(&file, &to, &words);
    assert_eq!(code(&refused), 7);
    let next = stderr(&refused).lines().last().expect("a line").to_owned();
    let token = next.split("--force=").nth(1).expect("a token").to_owned();
    let words = [&words[..], &["--force", &token]].concat();
    assert_eq!(restored(&file, &to, &words)["cluster_id"], "c1");
}

#[test]
fn leases_auth_and_prefix_are_kept_or_dropped_as_told() {
    let home = home(&Shape::default());
    let file = saved(&home);
    let count = |data: &str| {
        let keys = json(&kvutil(&["kv", "count", data, "-w", "json"]))["keys"].as_u64();
        let leases = json(&kvutil(&["kv", "leases", data, "-w", "json"]))["rows"]
            .as_array()
            .map(Vec::len);
        (keys.expect("a number"), leases.expect("rows"))
    };
    let (all, leases) = count(home.path());
    assert!(all > 10 && leases == 1);
    let dropped = beside(&home, "dropped");
    restored(&file, &dropped, &["--single", "n1", "--leases", "drop"]);
    assert_eq!(count(&dropped), (all, 0));
    let part = beside(&home, "part");
    restored(&file, &part, &["--single", "n1", "--prefix", "/leased/"]);
    assert!(count(&part).0 > 0 && count(&part).0 < all && count(&part).1 == 1);
    for data in [&dropped, &part] {
        assert_eq!(code(&kvutil(&["data", "check", "--data-dir", data])), 0);
    }
    // The same revision must not mean two states.
    for words in [["--leases", "drop"], ["--prefix", "/a/"]] {
        let to = beside(&home, "refused");
        let words = [&["--single", "n1", "--revision-bump", "0"], &words[..]].concat();
        let refused = restore(&file, &to, &words);
        assert_eq!(code(&refused), 7, "{words:?}");
        assert!(!Path::new(&to).exists());
    }
}

#[test]
fn etcdutls_spelling_and_a_log_elsewhere_are_taken() {
    let home = home(&Shape::default());
    let file = saved(&home);
    let (to, wal) = (beside(&home, "member"), beside(&home, "log"));
    let told = restored(
        &file,
        &to,
        &[
            "--wal-dir",
            &wal,
            "--name",
            "n2",
            "--initial-cluster",
            THREE,
            "--initial-cluster-token",
            "t",
            "--initial-advertise-peer-urls",
            "http://127.0.0.1:7002",
            "--bump-revision",
            "1000",
            "--mark-compacted",
            "--skip-hash-check",
        ],
    );
    assert_eq!(told["bump"].as_i64(), Some(1000));
    assert!(Path::new(&wal).join("wal").is_dir() && !Path::new(&to).join("wal").exists());
    assert_eq!(code(&kvutil(&["data", "check", "--data-dir", &to])), 0);
    let opened = kvnode_store::datadir::DataDir::open(
        Path::new(&to),
        Some(Path::new(&wal)),
        &support::program(),
    );
    assert!(opened.is_ok(), "{opened:?}");
}

#[test]
fn what_is_refused_makes_nothing_and_says_what_to_type() {
    let home = home(&Shape::default());
    let file = saved(&home);
    let mut bytes = fs::read(&file).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let bad = beside(&home, "bad.kvs");
    fs::write(&bad, &bytes).expect("written");
    fs::create_dir(beside(&home, "full")).expect("made");
    fs::write(beside(&home, "full/file"), "x").expect("written");
    let before = strangers(&home);
    let new = beside(&home, "new");
    let cases: [(&str, &str, &[&str], i32); 8] = [
        (&bad, &new, &["--single", "n1"], 3),
        (&file, &new, &[], 7),
        (&file, home.path(), &["--single", "n1"], 7),
        (&file, &beside(&home, "full"), &["--single", "n1"], 7),
        (&file, &new, &["--initial-cluster", THREE], 2),
        (
            &file,
            &new,
            &["--initial-cluster", THREE, "--name", "n9"],
            2,
        ),
        (&file, &new, &["--single", "n1", "--leases", "some"], 2),
        (&file, &new, &["--single", "n1", "--to-rev", "7"], 7),
    ];
    for (from, to, words, wanted) in cases {
        let output = restore(from, to, words);
        assert_eq!(code(&output), wanted, "{words:?}: {}", stderr(&output));
        let last = stderr(&output)
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned();
        assert!(last.starts_with("next:  "), "{last}");
        assert_eq!(strangers(&home), before, "{words:?}");
    }
    let online = home.run(&["snapshot", "save", &new, "--endpoints", "h:2379"]);
    assert_eq!(code(&online), 2);
    assert!(stderr(&online).contains("cannot be used with"));
    let part = [
        "snapshot",
        "save",
        &new,
        "--endpoints",
        "h:2379",
        "--rev",
        "2",
    ];
    let part = support::kvutil(&part);
    assert_eq!(code(&part), 7, "{}", stderr(&part));
    assert!(stderr(&part).contains("--endpoints saves all of the state"));
    // Nobody listens there.
    let nobody = ["snapshot", "save", &new, "--endpoints", "127.0.0.1:1"];
    let nobody = support::kvutil(&nobody);
    assert_eq!(code(&nobody), 1, "{}", stderr(&nobody));
    assert!(stderr(&nobody).contains("127.0.0.1:1"));
    assert!(stderr(&nobody).ends_with("next:  kvctl --endpoints 127.0.0.1:1 endpoint health\n"));
}

#[test]
fn a_flipped_bit_is_named_with_its_keys_and_what_is_left_can_be_saved() {
    let home = home(&Shape {
        entries: 400,
        applied: 400,
        value_bytes: 20_000,
        ..Shape::default()
    });
    let file = saved(&home);
    let bytes = fs::read(&file).expect("readable");
    let sound = json(&kvutil(&["snapshot", "verify", &file, "-w", "json"]));
    assert!(sound["chunks"].as_u64() > Some(2), "{sound}");
    let bad = beside(&home, "bad.kvs");
    let mut flipped = bytes.clone();
    let place = bytes.len() - 2000;
    flipped[place] ^= 8;
    fs::write(&bad, &flipped).expect("written");
    let output = kvutil(&["snapshot", "verify", &bad, "-w", "json"]);
    assert_eq!(code(&output), 3);
    let told = json(&output);
    let named = told["damage"]
        .as_array()
        .expect("places")
        .iter()
        .any(|place| place["first_key"].is_string() && place["last_key"].is_string());
    assert!(named, "{told}");
    let rescued = beside(&home, "rescued.kvs");
    assert_eq!(code(&kvutil(&["snapshot", "convert", &bad, &rescued])), 3);
    assert!(!Path::new(&rescued).exists());
    let output = kvutil(&["snapshot", "convert", &bad, &rescued, "--skip-bad"]);
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    assert_eq!(code(&kvutil(&["snapshot", "verify", &rescued])), 0);
    restored(
        &rescued,
        &beside(&home, "from-rescued"),
        &["--single", "n1"],
    );

    for cut in [bytes.len() / 3, bytes.len() - 600, bytes.len() - 512] {
        fs::write(&bad, &bytes[..cut]).expect("written");
        let output = kvutil(&["snapshot", "verify", &bad, "-w", "json"]);
        assert_eq!(code(&output), 3);
        let good = json(&output)["good_bytes"]
            .as_u64()
            .expect("how far it is good");
        assert!(good > 0 && good <= cut as u64);
    }
    let again = beside(&home, "again.kvs");
    assert_eq!(
        code(&kvutil(&[
            "snapshot",
            "convert",
            &file,
            &again,
            "--zstd-level",
            "9"
        ])),
        0
    );
    assert_eq!(
        code(&kvutil(&["snapshot", "verify", &again, "--against", &file])),
        0
    );
}

#[test]
fn parts_can_be_listed_taken_out_and_compared() {
    let home = home(&Shape::default());
    let file = saved(&home);
    let rows = |words: &[&str]| {
        let output = kvutil(&[&["snapshot"], words, &["-w", "json"]].concat());
        json(&output)["rows"].as_array().expect("rows").clone()
    };
    let all = rows(&["list", &file]);
    let some = rows(&["list", &file, "--prefix", "/leased/", "--limit", "1"]);
    assert!(all.len() > 10 && some.len() == 1);
    let old = rows(&["list", &file, "--rev", "30"]);
    assert_eq!(
        old,
        json(&home.run(&["kv", "scan", "--rev", "30", "-w", "json"]))["rows"]
            .as_array()
            .expect("rows")
            .clone()
    );
    let raw = kvutil(&["snapshot", "get", &file, "/txn/sibling", "--raw"]);
    assert_eq!(raw.stdout.len(), 200);
    assert_eq!(code(&kvutil(&["snapshot", "get", &file, "none"])), 1);
    let versions = rows(&["get", &file, "/txn/sibling", "--all-versions"]);
    assert!(versions.len() > 3);
    let part = beside(&home, "part.kvs");
    let words = [
        "snapshot", "extract", &file, "--prefix", "/a/", "--rev", "30", "--to", &part,
    ];
    assert_eq!(code(&kvutil(&words)), 0);
    assert_eq!(code(&kvutil(&["snapshot", "verify", &part])), 0);
    let lines = stdout(&kvutil(&["snapshot", "extract", &part, "-w", "jsonl"]));
    assert_eq!(
        lines.lines().count(),
        old.iter()
            .filter(|row| row["key"].to_string().contains("/a/"))
            .count()
    );
    let diff = kvutil(&["snapshot", "diff", &file, &part, "--summary", "-w", "json"]);
    assert_eq!(code(&diff), 3);
    let groups = json(&diff)["rows"].as_array().expect("rows").clone();
    assert!(
        groups
            .iter()
            .any(|row| row["prefix"] == "/leased" && row["removed"].as_u64() > Some(0))
    );
    assert_eq!(
        code(&kvutil(&["snapshot", "verify", &file, "--against", &part])),
        3
    );
}

#[test]
fn no_space_and_a_device_error_have_their_own_codes() {
    let home = home(&Shape::default());
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("a full device");
    let save = Command::new(env!("CARGO_BIN_EXE_kvutil"))
        .args(["snapshot", "save", "-", "--data-dir", home.path()])
        .stdout(full)
        .stderr(Stdio::null())
        .status()
        .expect("kvutil runs");
    assert_eq!(save.code(), Some(6));
    // A file that opens and cannot be read.
    assert_eq!(code(&kvutil(&["snapshot", "verify", "/proc/self/mem"])), 9);
    assert_eq!(
        code(&kvutil(&[
            "snapshot",
            "restore",
            "/proc/self/mem",
            "--data-dir",
            &beside(&home, "x"),
            "--single",
            "n"
        ])),
        9
    );
}

/// Starts a restore of some size, and signals it once it builds. `None`: it was done before.
fn interrupted(home: &Home, file: &str, signal: rustix::process::Signal) -> Option<i32> {
    let to = beside(home, "to");
    let mut child = Command::new(env!("CARGO_BIN_EXE_kvutil"))
        .args([
            "snapshot",
            "restore",
            file,
            "--single",
            "n1",
            "--data-dir",
            &to,
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("kvutil starts");
    let building = format!("{to}.kvutil-restore");
    let begun = Instant::now();
    while !Path::new(&building).exists() && child.try_wait().expect("waited").is_none() {
        assert!(begun.elapsed() < Duration::from_secs(120), "it never began");
        std::thread::yield_now();
    }
    let pid = rustix::process::Pid::from_child(&child);
    let _ = rustix::process::kill_process(pid, signal);
    let status = child.wait().expect("waited");
    let done = Path::new(&to).exists();
    let _ = fs::remove_dir_all(&to);
    (!done).then(|| status.code().expect("it ends by itself"))
}

#[test]
fn an_interrupted_restore_leaves_nothing() {
    let home = home(&Shape {
        entries: 600,
        applied: 600,
        value_bytes: 20_000,
        ..Shape::default()
    });
    let file = saved(&home);
    for (signal, wanted) in [
        (rustix::process::Signal::INT, 130),
        (rustix::process::Signal::TERM, 143),
    ] {
        let ended = (0..50).find_map(|_| interrupted(&home, &file, signal));
        assert_eq!(ended, Some(wanted));
        assert_eq!(strangers(&home), [""; 0]);
    }
}

#[test]
fn what_a_crash_leaves_beside_is_dropped_by_the_next_run() {
    let home = home(&Shape::default());
    let file = saved(&home);
    let (to, left) = (beside(&home, "to"), beside(&home, "to.kvutil-restore"));
    fs::create_dir_all(format!("{left}/kv")).expect("made");
    fs::write(format!("{left}/LOCK"), "").expect("written");
    let output = restore(&file, &to, &["--single", "n1"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("interrupted run"),
        "{}",
        stderr(&output)
    );
    assert_eq!(strangers(&home), ["to"]);
    // One that is still at work is left alone.
    fs::create_dir_all(&left).expect("made");
    let lock = kvnode_store::datadir::Lock::exclusive(Path::new(&left), &support::program());
    fs::rename(&to, beside(&home, "away")).expect("renamed");
    assert_eq!(code(&restore(&file, &to, &["--single", "n1"])), 5);
    assert!(Path::new(&left).exists());
    drop(lock);
}

#[test]
fn a_running_node_is_named_and_asked_through_its_socket() {
    let home = home(&Shape::default());
    let bytes = fs::read(saved(&home)).expect("readable");
    let lock = kvnode_store::datadir::Lock::exclusive(&home.data, &support::program());
    let refused = home.run(&["snapshot", "save", &beside(&home, "no.kvs")]);
    assert_eq!(code(&refused), 5);
    assert!(stderr(&refused).contains("--live"), "{}", stderr(&refused));
    let listener = UnixListener::bind(home.data.join("admin.sock")).expect("bound");
    for cut in [None, Some(bytes.len() / 2)] {
        let (listener, bytes) = (listener.try_clone().expect("cloned"), bytes.clone());
        let node = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("asked");
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().expect("cloned"));
            while reader.read_line(&mut line).expect("read") > 2 {}
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).expect("sent");
            for piece in bytes[..cut.unwrap_or(bytes.len())].chunks(10_000) {
                let framed = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
                stream.write_all(&framed).expect("sent");
            }
            if cut.is_none() {
                stream.write_all(b"0\r\n\r\n").expect("sent");
            }
        });
        let live = beside(&home, "live.kvs");
        let output = home.run(&["snapshot", "save", &live, "--live"]);
        node.join().expect("it answered");
        if cut.is_none() {
            assert_eq!(code(&output), 0, "{}", stderr(&output));
            assert_eq!(fs::read(&live).expect("readable"), bytes_of(&home));
            fs::remove_file(&live).expect("removed");
        } else {
            assert_eq!(code(&output), 1, "{}", stderr(&output));
            assert!(!Path::new(&live).exists() && !Path::new(&format!("{live}.part")).exists());
        }
    }
    drop(lock);
}

fn bytes_of(home: &Home) -> Vec<u8> {
    fs::read(beside(home, "saved.kvs")).expect("readable")
}

#[test]
fn a_repair_interrupted_before_its_exchange_spends_no_identity() {
    let shape = Shape {
        voters: vec![0xa1, 0xa2, 0xa3],
        applied: 0,
        ..Shape::default()
    };
    let home = home(&shape);
    home.flip(0, 40 * 4096 + 100);
    let before = image(&home.data, &["LOCK"]);
    // What a crash leaves between the mark and the intent: a replacement that never became live.
    let id = "20260101T000000Z-wal-repair";
    let spent = |home: &Home| {
        let kept = home.data.join("quarantine").join(id);
        fs::create_dir_all(kept.join("wal")).expect("made");
        fs::write(
            home.data.join("SPENT"),
            format!("a repair gave up entries; {id}\n"),
        )
        .expect("written");
    };
    spent(&home);
    let opened = kvnode_store::datadir::DataDir::open(&home.data, None, &support::program());
    assert!(opened.is_ok() && !home.data.join("SPENT").exists());
    drop(opened);
    spent(&home);
    let undone = home.run(&["data", "undo"]);
    assert_eq!(code(&undone), 0, "{}", stderr(&undone));
    assert!(
        image(&home.data, &["LOCK"]) == before,
        "nothing is left of it"
    );
    // One that took effect counts, whether its old log is still kept or not.
    fs::write(
        home.data.join("SPENT"),
        "a repair gave up entries; 20260101T000000Z-wal-repair\n",
    )
    .expect("written");
    let opened = kvnode_store::datadir::DataDir::open(&home.data, None, &support::program());
    assert!(matches!(
        opened,
        Err(kvnode_store::datadir::Error::Spent { .. })
    ));
}
