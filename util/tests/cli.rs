//! The tool as an operator meets it: exit codes, results on stdout, the place and the next command on stderr.

use std::path::Path;
use std::process::{Command, Output};

use kvnode_snapshot::{Info, Options as SnapshotOptions, Writer};
use kvnode_store::datadir::{Creation, Identity, Program};
use kvnode_wal::{Entry, EntryKind, HardState, Log, Membership, Options as WalOptions};

const IDENTITY: Identity = Identity {
    cluster_id: 0xc1,
    member_id: 0xa1,
    instance_id: [7; 16],
};

fn kvutil(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kvutil"))
        .args(args)
        .output()
        .expect("kvutil runs")
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).expect("stdout is JSON")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A data directory with a log of a hundred entries, and nothing running on it.
fn data_directory(root: &Path) {
    let program = Program {
        name: "test".into(),
        version: "0".into(),
        started: 0,
    };
    let creation = Creation::begin(root, None, IDENTITY, &program).expect("an empty directory");
    let identity = kvnode_wal::Identity {
        cluster: 0xc1,
        member: 0xa1,
        instance: [7; 16],
    };
    let membership = Membership {
        voters: vec![0xa1],
        ..Membership::default()
    };
    let options = WalOptions {
        segment_bytes: 1 << 20,
        ..WalOptions::default()
    };
    let mut log =
        Log::create(&creation.wal(), identity, options, 42, membership, 1).expect("a new log");
    for index in 1..=100 {
        let payload = vec![index as u8; 200].into();
        let entry = Entry {
            index,
            term: 1,
            kind: EntryKind::Normal,
            payload,
        };
        let hard_state = HardState {
            term: 1,
            vote: 0xa1,
            commit: index,
        };
        log.append(&[entry], Some(hard_state), true, 1)
            .expect("appended");
    }
    log.close(2).expect("closed");
    drop(log);
    creation.finish().expect("finished");
}

fn only_segment(root: &Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(root.join("wal"))
        .expect("a log directory")
        .flatten();
    let mut segments = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "wal"));
    segments.next().expect("one segment")
}

#[test]
fn a_sound_log_is_told_as_such_in_both_forms() {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("data");
    data_directory(&path);
    let path = path.to_str().expect("a plain path");
    let output = kvutil(&["wal", "verify", "--data-dir", path, "-w", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let verified = json(&output);
    assert_eq!(verified["schema"], "kvutil.wal.verify.1");
    assert_eq!(
        (verified["sound"].as_bool(), verified["entries"].as_u64()),
        (Some(true), Some(100))
    );
    let output = kvutil(&["wal", "inspect", "--data-dir", path]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("100 entries") && text.contains("up to index 100"),
        "{text}"
    );
}

#[test]
fn damage_in_the_log_names_file_offset_and_the_next_command() {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("data");
    data_directory(&path);
    let segment = only_segment(&path);
    let mut bytes = std::fs::read(&segment).expect("readable");
    let middle = 40 * 4096 + 100;
    bytes[middle] ^= 1;
    std::fs::write(&segment, &bytes).expect("writable");
    let output = kvutil(&[
        "wal",
        "verify",
        "--data-dir",
        path.to_str().expect("a plain path"),
    ]);
    assert_eq!(output.status.code(), Some(3));
    let text = stderr(&output);
    let name = segment
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    assert!(
        text.contains(&name) && text.contains(&(40 * 4096).to_string()),
        "{text}"
    );
    assert!(
        text.contains("hint: ") && text.contains("kvutil "),
        "{text}"
    );
    assert_eq!(
        std::fs::read(&segment).expect("readable"),
        bytes,
        "a reader changed its input"
    );
}

#[test]
fn a_data_directory_says_whose_it_is_and_a_missing_one_is_an_error() {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("data");
    data_directory(&path);
    let output = kvutil(&[
        "data",
        "info",
        "--data-dir",
        path.to_str().expect("a plain path"),
        "-w",
        "json",
    ]);
    let info = json(&output);
    assert_eq!(
        (info["cluster_id"].as_str(), info["member_id"].as_str()),
        (Some("c1"), Some("a1"))
    );
    let missing = root.path().join("nothing");
    let output = kvutil(&[
        "data",
        "info",
        "--data-dir",
        missing.to_str().expect("a plain path"),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).starts_with("error: "),
        "{}",
        stderr(&output)
    );
    assert!(!missing.exists(), "a reader made a directory");
}

fn snapshot(path: &Path) {
    let info = Info {
        cluster_id: 0xc1,
        revision: 77,
        compact_revision: -1,
        program: "test".into(),
        ..Info::default()
    };
    let file = std::fs::File::create(path).expect("creatable");
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
    assert_eq!(kvutil(&["snapshot", "verify", path]).status.code(), Some(0));
    let mut bytes = std::fs::read(&file).expect("readable");
    let place = bytes.len() / 2;
    bytes[place] ^= 0x10;
    std::fs::write(&file, bytes).expect("writable");
    let output = kvutil(&["snapshot", "verify", path, "-w", "json"]);
    assert_eq!(output.status.code(), Some(3));
    let verified = json(&output);
    assert_eq!(verified["sound"].as_bool(), Some(false));
    let damage = verified["damage"].to_string();
    assert!(
        damage.contains("chunk ") && damage.contains("key-"),
        "{damage}"
    );
}

#[test]
fn wrong_usage_is_exit_code_two_and_version_is_printed() {
    assert_eq!(kvutil(&["wal", "mend"]).status.code(), Some(2));
    let output = kvutil(&["version"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains(env!("CARGO_PKG_VERSION")));
}
