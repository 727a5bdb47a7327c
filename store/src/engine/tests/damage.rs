//! Lost, torn and damaged files: refused or cut with a report, never silently made good.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::doctor::{self, Ending};
use super::super::fjall::MARKER_FILE;
use super::*;

/// Nothing is flushed unless asked.
fn roomy() -> Options {
    Options {
        cache_bytes: 1 << 20,
        ..Options::default()
    }
}

/// Batches with values of one byte to several pages, in the journal; returns the directory.
fn journaled(dir: &Path, batches: u64) -> PathBuf {
    let path = dir.join("kv");
    let mut engine = FjallEngine::create(&path, &roomy()).unwrap();
    for number in 0..batches {
        engine.commit_journaled(&numbered(number));
    }
    path
}

/// The same in tables.
fn flushed(dir: &Path, batches: u64) -> PathBuf {
    let path = dir.join("kv");
    let mut engine = FjallEngine::create(&path, &roomy()).unwrap();
    for number in 0..batches {
        engine.commit(numbered(number)).unwrap();
    }
    engine.close().unwrap();
    path
}

fn numbered(number: u64) -> Batch {
    let size = [1, 100, 3_000, 20_000][number as usize % 4];
    let mut batch = Batch::new();
    batch.put(Space::State, &b"applied"[..], number.to_be_bytes().to_vec());
    batch.put(
        Space::Hist,
        number.to_be_bytes().to_vec(),
        vec![number as u8 + 1; size],
    );
    batch
}

fn assert_prefix(path: &Path, batches: u64) {
    let mut engine = FjallEngine::open(path, &roomy()).unwrap();
    let view = engine.view();
    assert_eq!(revisions(&view, 0), (0..batches).collect::<Vec<_>>());
    let applied = view.get(Space::State, b"applied").unwrap();
    assert_eq!(
        applied.as_deref(),
        batches
            .checked_sub(1)
            .map(u64::to_be_bytes)
            .as_ref()
            .map(|b| &b[..])
    );
}

/// Where each batch ends in a journal, found without the code under test. The first one is the
/// engine's own, so numbered batch `n` ends at index `n + 1`.
fn batch_ends(bytes: &[u8]) -> Vec<usize> {
    (4..=bytes.len())
        .filter(|&end| bytes[..end].ends_with(b"FJL\x03"))
        .collect()
}

fn journal(path: &Path) -> PathBuf {
    doctor::newest(path).unwrap().unwrap().1
}

fn tree(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap().path();
        if entry.is_dir() {
            found.extend(tree(&entry));
            found.insert(entry, Vec::new());
        } else {
            let content = fs::read(&entry).unwrap();
            found.insert(entry, content);
        }
    }
    found
}

#[test]
fn the_doctor_reads_what_the_engine_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = journaled(dir.path(), 20);
    let found = doctor::examine(&path).unwrap();
    let [only] = &found.journals[..] else {
        panic!("{found:?}")
    };
    assert_eq!((only.batches, &only.ending), (21, &Ending::Clean));
    let ends = batch_ends(&fs::read(journal(&path)).unwrap());
    assert_eq!(Some(only.good_to as usize), ends.last().copied());
    assert_prefix(&path, 20);
}

#[test]
fn a_journal_cut_anywhere_ends_at_the_last_whole_batch() {
    let dir = tempfile::tempdir().unwrap();
    let path = journaled(dir.path(), 8);
    let journal = journal(&path);
    let whole = fs::read(&journal).unwrap();
    let ends = batch_ends(&whole);
    assert_eq!(ends.len(), 9);
    let quarantine = dir.path().join("quarantine");
    for cut in (0..ends[8]).step_by(97) {
        fs::write(&journal, &whole[..cut]).unwrap();
        let batches = ends.iter().filter(|&&end| end <= cut).count();
        let good_to = batches.checked_sub(1).map_or(0, |last| ends[last]);
        let found = doctor::examine(&path).unwrap();
        assert_eq!(found.journals[0].batches, batches as u64, "cut at {cut}");
        let report = found.cut_torn_tail(&quarantine).unwrap();
        assert_eq!(report.is_some(), cut > good_to, "cut at {cut}");
        if let Some(report) = report {
            // Zeros at the very end could as well be space made ahead; they are not kept.
            let data_to = whole[..cut].iter().rposition(|&byte| byte != 0).unwrap() + 1;
            assert_eq!(
                (report.offset, report.bytes),
                (good_to as u64, (data_to - good_to) as u64)
            );
            assert_eq!(fs::read(report.kept_in).unwrap(), whole[good_to..data_to]);
            assert_eq!(fs::read(&journal).unwrap(), whole[..good_to]);
        }
        if cut % 7 == 0 {
            assert_prefix(&path, (batches as u64).saturating_sub(1));
            fs::write(&journal, &whole).unwrap();
        }
    }
}

#[test]
#[expect(
    clippy::disallowed_types,
    reason = "makes a hole in a file of the engine"
)]
fn data_behind_a_hole_that_was_never_written_is_found() {
    use std::os::unix::fs::FileExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = journaled(dir.path(), 8);
    let journal = journal(&path);
    let whole = fs::read(&journal).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&journal).unwrap();
    // As long as the engine makes them, and hardly any of it written.
    file.set_len(64 << 20).unwrap();
    let found = doctor::examine(&path).unwrap();
    assert_eq!(found.journals[0].ending, Ending::Clean);
    let stray = 40 << 20;
    file.write_all_at(b"stray FJL\x03", stray).unwrap();
    let found = doctor::examine(&path).unwrap();
    let expected = Ending::Torn {
        reason: "a zero gap before further data",
        data_to: stray + 10,
        batch_ends: 1,
    };
    assert_eq!(found.journals[0].ending, expected);
    assert_eq!(found.journals[0].good_to, whole.len() as u64);
}

#[test]
fn a_torn_page_inside_a_large_batch_is_cut_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = journaled(dir.path(), 8);
    let journal = journal(&path);
    let whole = fs::read(&journal).unwrap();
    let ends = batch_ends(&whole);
    // Batch 3 has 20 kB; one page in it never reached the disk, all later ones did.
    let hole = (ends[3] / 4096 + 2) * 4096;
    assert!(hole + 4096 < ends[4]);
    let mut torn = whole.clone();
    torn[hole..hole + 4096].fill(0);
    fs::write(&journal, &torn).unwrap();

    let found = doctor::examine(&path).unwrap();
    let Ending::Torn {
        reason,
        data_to,
        batch_ends,
    } = found.journals[0].ending
    else {
        panic!()
    };
    assert_eq!(reason, "a batch with a wrong checksum");
    assert_eq!((data_to, batch_ends), (ends[8] as u64, 5));

    let engine = FjallEngine::open(&path, &roomy()).unwrap();
    let cut = engine.cut().expect("the tail was cut").clone();
    drop(engine);
    assert_eq!(
        (cut.offset, cut.bytes),
        (ends[3] as u64, (ends[8] - ends[3]) as u64)
    );
    assert_eq!(
        cut.kept_in.parent(),
        Some(dir.path().join("quarantine").as_path())
    );
    assert_eq!(fs::read(cut.kept_in).unwrap(), torn[ends[3]..ends[8]]);
    assert_prefix(&path, 3);
    // And it goes on from there.
    let mut engine = FjallEngine::open(&path, &roomy()).unwrap();
    engine.commit(numbered(3)).unwrap();
    engine.close().unwrap();
    assert_prefix(&path, 4);
}

#[test]
fn batches_behind_a_hole_of_zeros_are_cut_not_overlooked() {
    let dir = tempfile::tempdir().unwrap();
    let path = journaled(dir.path(), 8);
    let journal = journal(&path);
    let mut bytes = fs::read(&journal).unwrap();
    let ends = batch_ends(&bytes);
    bytes[ends[5]..ends[6]].fill(0);
    fs::write(&journal, &bytes).unwrap();
    let engine = FjallEngine::open(&path, &roomy()).unwrap();
    assert_eq!(
        engine.cut().map(|cut| cut.reason),
        Some("a zero gap before further data")
    );
    drop(engine);
    assert_prefix(&path, 5);
}

#[test]
fn every_flipped_bit_of_a_batch_is_noticed_by_the_doctor() {
    let dir = tempfile::tempdir().unwrap();
    let path = journaled(dir.path(), 3);
    let journal = journal(&path);
    let whole = fs::read(&journal).unwrap();
    let ends = batch_ends(&whole);
    let whole = &whole[..ends[2]];
    for bit in ends[0] * 8..ends[1] * 8 {
        // The sequence number of a batch is under no checksum; nothing here can notice.
        if (ends[0] + 5..ends[0] + 13).contains(&(bit / 8)) {
            continue;
        }
        let mut bytes = whole.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&journal, &bytes).unwrap();
        let found = &doctor::examine(&path).unwrap().journals[0];
        assert_eq!(
            (found.batches, found.good_to),
            (1, ends[0] as u64),
            "bit {bit}"
        );
        assert_ne!(found.ending, Ending::Clean);
    }
}

#[test]
fn damage_in_a_closed_journal_and_a_missing_one_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = journaled(dir.path(), 4);
    let newest = journal(&path);
    let whole = fs::read(&newest).unwrap();
    let ends = batch_ends(&whole);
    let next = doctor::journal_path(&path, 1);
    assert_eq!(newest, doctor::journal_path(&path, 0));
    fs::write(&next, &whole[..ends[0]]).unwrap();
    let mut bytes = whole.clone();
    bytes[ends[1] + 40] ^= 1;
    fs::write(&newest, &bytes).unwrap();
    let before = tree(&path);
    let Err(refused) = FjallEngine::open(&path, &roomy()) else {
        panic!("opened")
    };
    assert!(
        refused.is_corrupt() && refused.to_string().contains("0.jnl"),
        "{refused}"
    );
    assert!(
        refused.to_string().contains(&format!("offset {}", ends[1])),
        "{refused}"
    );
    fs::rename(&next, doctor::journal_path(&path, 2)).unwrap();
    let Err(refused) = FjallEngine::open(&path, &roomy()) else {
        panic!("opened")
    };
    assert!(
        refused.is_corrupt() && refused.to_string().contains("1.jnl"),
        "{refused}"
    );
    fs::rename(doctor::journal_path(&path, 2), &next).unwrap();
    assert!(tree(&path) == before, "a refusal changes nothing");
}

#[test]
fn a_lost_file_is_refused_by_name_and_nothing_is_made_or_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let path = journaled(dir.path(), 4);
    for lost in [
        MARKER_FILE,
        "version",
        "0.jnl",
        "keyspaces/0/current",
        "keyspaces/1/current",
        "keyspaces/2/current",
    ] {
        let (from, to) = (path.join(lost), dir.path().join("lost"));
        fs::rename(&from, &to).unwrap();
        let before = tree(&path);
        let Err(refused) = FjallEngine::open(&path, &roomy()) else {
            panic!("opened")
        };
        assert!(refused.is_corrupt(), "{lost}: {refused}");
        let named = if lost == "0.jnl" { "*.jnl" } else { lost };
        assert!(refused.to_string().contains(named), "{lost}: {refused}");
        assert!(tree(&path) == before, "{lost}");
        fs::rename(&to, &from).unwrap();
    }
    assert_prefix(&path, 4);
}

#[test]
fn a_marker_of_another_version_or_with_a_flipped_bit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = flushed(dir.path(), 1);
    let marker = path.join(MARKER_FILE);
    let text = fs::read_to_string(&marker).unwrap();
    fs::write(&marker, text.replace("kvstore 1", "kvstore 9")).unwrap();
    assert!(matches!(
        FjallEngine::open(&path, &roomy()),
        Err(EngineError::Version { found, .. }) if found == "9"
    ));
    for bit in 0..text.len() * 8 {
        let mut bytes = text.clone().into_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&marker, &bytes).unwrap();
        assert!(FjallEngine::open(&path, &roomy()).is_err(), "bit {bit}");
    }
}

#[test]
fn a_damaged_table_block_is_reported_as_corrupt_when_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kv");
    let mut engine = FjallEngine::create(&path, &roomy()).unwrap();
    for number in 0..200 {
        engine.commit(numbered(number)).unwrap();
    }
    engine.close().unwrap();
    let tables = path.join("keyspaces/2/tables");
    let table = fs::read_dir(&tables)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = fs::read(&table).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0x10;
    fs::write(&table, bytes).unwrap();
    let mut engine = FjallEngine::open(&path, &roomy()).unwrap();
    let view = engine.view();
    let failed = view
        .scan(Space::Hist, b"", None, false)
        .find_map(Result::err);
    assert!(failed.is_some_and(|error| error.is_corrupt()));
    // The other space is in other files.
    assert!(view.get(Space::State, b"applied").unwrap().is_some());
}

#[test]
fn a_missing_table_is_refused_at_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = flushed(dir.path(), 20);
    let tables = path.join("keyspaces/2/tables");
    let table = fs::read_dir(&tables)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::remove_file(table).unwrap();
    let Err(refused) = FjallEngine::open(&path, &roomy()) else {
        panic!("opened")
    };
    assert!(refused.is_corrupt(), "{refused}");
}

#[test]
fn a_failed_flush_poisons_writes_spares_reads_and_ends_waiting() {
    for workers in [1, 0] {
        let dir = tempfile::tempdir().unwrap();
        let path = flushed(dir.path(), 4);
        let options = Options { workers, ..roomy() };
        let mut engine = FjallEngine::open(&path, &options).unwrap();
        let tables = path.join("keyspaces/1/tables");
        fs::rename(&tables, dir.path().join("tables")).unwrap();
        engine.commit(numbered(4)).unwrap();
        let persister = engine.persister();
        let refused = persister.persist().unwrap_err();
        let named = |text: &str| text.contains(&path.display().to_string());
        assert!(
            matches!(&refused, EngineError::Io { .. }) && named(&refused.to_string()),
            "{refused}"
        );
        assert!(matches!(
            engine.commit(numbered(5)),
            Err(EngineError::Poisoned { .. })
        ));
        assert!(matches!(
            persister.persist(),
            Err(EngineError::Poisoned { .. })
        ));
        assert_eq!(revisions(&engine.view(), 0).len(), 5);
        drop(engine);
        fs::rename(dir.path().join("tables"), &tables).unwrap();
        // History may have been flushed before it failed; it does not show.
        assert_prefix(&path, 4);
    }
}

#[test]
fn history_of_a_flush_that_was_interrupted_is_gone_at_the_next_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = flushed(dir.path(), 4);
    let mut engine = FjallEngine::open(&path, &roomy()).unwrap();
    for number in 4..9 {
        engine.commit(numbered(number)).unwrap();
    }
    engine.flush_history_only();
    assert_eq!(revisions(&engine.view(), 0).len(), 9, "memory has them too");
    drop(engine);
    assert_prefix(&path, 4);
    // And the same batches can come again, in part and in whole.
    let mut engine = FjallEngine::open(&path, &roomy()).unwrap();
    for number in 4..7 {
        engine.commit(numbered(number)).unwrap();
    }
    engine.persister().persist().unwrap();
    engine.commit(numbered(7)).unwrap();
    drop(engine);
    assert_prefix(&path, 7);
}

#[test]
fn the_engines_own_key_is_refused_and_never_seen() {
    let dir = tempfile::tempdir().unwrap();
    let path = flushed(dir.path(), 4);
    let mut engine = FjallEngine::open(&path, &roomy()).unwrap();
    let mut batch = Batch::new();
    batch.put(Space::State, &[0][..], &b"mine"[..]);
    assert!(matches!(
        engine.commit(batch),
        Err(EngineError::KeyReserved {
            space: Space::State
        })
    ));
    let mut batch = Batch::new();
    batch.put(Space::State, &[0, 0][..], &b"next"[..]);
    batch.put(Space::Hist, &[0][..], &b"no business of the state's"[..]);
    engine.commit(batch).unwrap();
    for _ in 0..2 {
        let view = engine.view();
        assert_eq!(view.get(Space::State, &[0]).unwrap(), None);
        assert_eq!(engine.latest_get(Space::State, &[0]).unwrap(), None);
        let scan = view.scan(Space::State, b"", None, false);
        let keys: Vec<_> = scan.map(|item| item.unwrap().0).collect();
        assert_eq!(keys, [&[0, 0][..], b"applied"]);
        assert_eq!(
            view.scan(Space::State, b"", Some(&[0, 0]), false).count(),
            0
        );
        assert!(view.get(Space::Hist, &[0]).unwrap().is_some());
        engine.persister().persist().unwrap();
    }
}
