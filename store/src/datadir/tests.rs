use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

fn program() -> Program {
    Program {
        name: "kvnode".into(),
        version: "0.1.0".into(),
        started: 1_767_225_600,
    }
}

fn identity(last: u8) -> Identity {
    let mut instance_id = [7; 16];
    instance_id[15] = last;
    Identity {
        cluster_id: 0xabc,
        member_id: 0xdef,
        instance_id,
    }
}

fn create(root: &Path, wal_dir: Option<&Path>, last: u8) -> Result<DataDir, Error> {
    let creation = Creation::begin(root, wal_dir, identity(last), &program())?;
    assert!(!creation.kv().exists() && !creation.wal().exists());
    fs::create_dir(creation.kv()).unwrap();
    fs::create_dir(creation.wal()).unwrap();
    creation.finish()
}

#[test]
fn a_created_directory_opens_with_its_identity_and_mode_0700() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    assert_eq!(presence(&root).unwrap(), Presence::Absent);
    drop(create(&root, None, 1).unwrap());
    assert_eq!(presence(&root).unwrap(), Presence::Present);
    assert_eq!(
        fs::metadata(&root).unwrap().permissions().mode() & 0o7777,
        0o700
    );
    let opened = DataDir::open(&root, None, &program()).unwrap();
    assert_eq!(*opened.identity(), identity(1));
    assert_eq!(opened.notes(), []);
    assert!(opened.wal().is_dir() && opened.snap().is_dir() && opened.quarantine().is_dir());
    assert_eq!(peek(&root).unwrap(), identity(1));
}

#[test]
fn an_empty_directory_can_become_a_data_directory_but_a_used_one_cannot() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    drop(create(dir.path(), None, 1).unwrap());

    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("holiday.jpg"), "x").unwrap();
    let refused = create(other.path(), None, 1).unwrap_err();
    assert!(
        matches!(
            refused,
            Error::Occupied {
                state: Presence::Foreign,
                ..
            }
        ),
        "{refused}"
    );
    assert!(other.path().join("holiday.jpg").exists());
    let refused = create(dir.path(), None, 2).unwrap_err();
    assert!(
        matches!(
            refused,
            Error::Occupied {
                state: Presence::Present,
                ..
            }
        ),
        "{refused}"
    );
}

#[test]
fn an_interrupted_creation_is_not_opened_and_can_be_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (root, wal) = (dir.path().join("data"), dir.path().join("log"));
    for wal_dir in [None, Some(wal.as_path())] {
        let creation = Creation::begin(&root, wal_dir, identity(1), &program()).unwrap();
        fs::create_dir(creation.kv()).unwrap();
        fs::create_dir(creation.wal()).unwrap();
        drop(creation);
        assert_eq!(presence(&root).unwrap(), Presence::Unfinished);
        let refused = DataDir::open(&root, wal_dir, &program()).unwrap_err();
        assert!(matches!(
            refused,
            Error::NotADataDir {
                state: Presence::Unfinished,
                ..
            }
        ));
    }
    let made = create(&root, Some(&wal), 2).unwrap();
    assert_eq!(*made.identity(), identity(2));
}

#[test]
fn a_directory_that_lost_its_identity_is_never_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    drop(create(&root, None, 1).unwrap());
    fs::remove_file(root.join(IDENTITY_FILE)).unwrap();
    assert!(matches!(
        create(&root, None, 1),
        Err(Error::Occupied { .. })
    ));
    assert!(root.join(KV_DIR).exists());
    let refused = DataDir::open(&root, None, &program()).unwrap_err();
    assert!(matches!(
        refused,
        Error::NotADataDir {
            state: Presence::Foreign,
            ..
        }
    ));
}

#[test]
fn one_damaged_copy_of_the_identity_is_survived_and_two_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    drop(create(&root, None, 1).unwrap());
    let path = root.join(IDENTITY_FILE);
    let good = fs::read(&path).unwrap();
    assert_eq!(good.len(), 8192);
    for (copy, offset) in [(1, 70), (2, 4096 + 70)] {
        let mut bytes = good.clone();
        bytes[offset] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let opened = DataDir::open(&root, None, &program()).unwrap();
        assert_eq!(*opened.identity(), identity(1));
        let note = Note::IdentityCopyDamaged {
            path: opened.root().join(IDENTITY_FILE),
            copy,
        };
        assert_eq!(opened.notes(), [note]);
    }
    fs::write(&path, &good[..4096]).unwrap();
    assert_eq!(peek(&root).unwrap(), identity(1), "cut in half");
    let mut bytes = good.clone();
    bytes[70] ^= 1;
    bytes[4096 + 70] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let refused = DataDir::open(&root, None, &program()).unwrap_err();
    assert!(
        matches!(refused, Error::IdentityCorrupt { .. }),
        "{refused}"
    );
    assert!(
        refused.to_string().contains("copy 1: checksum"),
        "{refused}"
    );
    assert!(
        refused.hint().contains("kvutil data check"),
        "{}",
        refused.hint()
    );
}

#[test]
fn every_flipped_bit_of_both_copies_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    drop(create(&root, None, 1).unwrap());
    let path = root.join(IDENTITY_FILE);
    let good = fs::read(&path).unwrap();
    let end = good[..4096]
        .windows(2)
        .position(|pair| pair == b"\n\n")
        .unwrap();
    for bit in 0..end * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes[4096 + bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).unwrap();
        assert!(peek(&root).is_err(), "bit {bit}");
    }
}

#[test]
fn a_newer_format_is_refused_by_its_version() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    drop(create(&root, None, 1).unwrap());
    let path = root.join(IDENTITY_FILE);
    let text = fs::read_to_string(&path).unwrap();
    let body = text[..text.find("check ").unwrap()].replace("format 1", "format 2");
    let check = xxhash_rust::xxh3::xxh3_64(body.as_bytes());
    fs::write(&path, format!("{body}check {check:016x}\n")).unwrap();
    let refused = DataDir::open(&root, None, &program()).unwrap_err();
    assert!(
        matches!(refused, Error::Version { found: 2, .. }),
        "{refused}"
    );
}

#[test]
fn the_second_opener_is_told_who_holds_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    let held = create(&root, None, 1).unwrap();
    let refused = DataDir::open(&root, None, &program()).unwrap_err();
    let Error::Locked {
        holder: Some(holder),
        ..
    } = &refused
    else {
        panic!("{refused}")
    };
    assert_eq!(holder.pid, std::process::id());
    assert!(holder.this_boot);
    let text = refused.to_string();
    assert!(text.contains("kvnode 0.1.0"), "{text}");
    assert!(text.contains("since 2026-01-01 00:00:00 UTC"), "{text}");
    drop(held);
    drop(DataDir::open(&root, None, &program()).unwrap());

    let (one, two) = (Lock::shared(&root).unwrap(), Lock::shared(&root).unwrap());
    assert!(matches!(
        DataDir::open(&root, None, &program()),
        Err(Error::Locked { .. })
    ));
    drop((one, two));
    drop(DataDir::open(&root, None, &program()).unwrap());
}

#[test]
fn a_lost_log_is_refused_not_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    drop(create(&root, None, 1).unwrap());
    fs::remove_dir(root.join(WAL_DIR)).unwrap();
    let refused = DataDir::open(&root, None, &program()).unwrap_err();
    assert!(matches!(refused, Error::WalMissing { .. }), "{refused}");
    assert!(refused.to_string().contains("instance 0707"), "{refused}");
}

#[test]
fn a_log_elsewhere_must_be_there_and_be_ours() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (root, log) = (path("data"), path("log"));
    drop(create(&root, Some(&log), 1).unwrap());
    let opened = DataDir::open(&root, Some(&log), &program()).unwrap();
    assert_eq!(opened.wal(), fs::canonicalize(&log).unwrap().join(WAL_DIR));
    drop(opened);

    let forgotten = DataDir::open(&root, None, &program()).unwrap_err();
    assert!(
        matches!(
            forgotten,
            Error::WalElsewhere {
                configured: None,
                ..
            }
        ),
        "{forgotten}"
    );
    assert!(
        forgotten.hint().starts_with("--wal-dir /"),
        "{}",
        forgotten.hint()
    );

    fs::rename(&log, path("moved")).unwrap();
    let unmounted = DataDir::open(&root, Some(&log), &program()).unwrap_err();
    assert!(matches!(unmounted, Error::WalMissing { .. }), "{unmounted}");
    drop(DataDir::open(&root, Some(&path("moved")), &program()).unwrap());

    drop(create(&path("data2"), Some(&path("log2")), 2).unwrap());
    let swapped = DataDir::open(&root, Some(&path("log2")), &program()).unwrap_err();
    assert!(matches!(swapped, Error::WalOfAnother { .. }), "{swapped}");
    let text = swapped.to_string();
    assert!(
        text.contains(&"07".repeat(15)) && text.contains("0702"),
        "{text}"
    );

    let as_data = DataDir::open(&path("log2"), None, &program()).unwrap_err();
    assert!(
        matches!(as_data, Error::IdentityCorrupt { .. }),
        "{as_data}"
    );
    assert!(
        as_data.to_string().contains("kvnode log directory"),
        "{as_data}"
    );
}

#[test]
fn a_log_directory_of_another_member_is_never_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    drop(create(&path("data"), Some(&path("log")), 1).unwrap());
    let refused = create(&path("data2"), Some(&path("log")), 2).unwrap_err();
    assert!(matches!(refused, Error::Occupied { .. }), "{refused}");
    drop(DataDir::open(&path("data"), Some(&path("log")), &program()).unwrap());
}

#[test]
fn an_inside_log_is_not_looked_for_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    drop(create(&root, None, 1).unwrap());
    let refused = DataDir::open(&root, Some(&dir.path().join("log")), &program()).unwrap_err();
    assert!(
        matches!(
            refused,
            Error::WalElsewhere {
                configured: Some(_),
                ..
            }
        ),
        "{refused}"
    );
    drop(DataDir::open(&root, Some(&root), &program()).unwrap());
}

#[test]
fn wide_permissions_are_tightened_and_unknown_files_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    drop(create(&root, None, 1).unwrap());
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(root.join("notes.txt"), "x").unwrap();
    let opened = DataDir::open(&root, None, &program()).unwrap();
    let at = |name: &str| opened.root().join(name);
    assert_eq!(
        opened.notes(),
        [
            Note::ModeTightened {
                path: opened.root().to_owned(),
                was: 0o755
            },
            Note::Unknown {
                path: at("notes.txt")
            },
        ]
    );
    assert_eq!(
        fs::metadata(&root).unwrap().permissions().mode() & 0o7777,
        0o700
    );
}
