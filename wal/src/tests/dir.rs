//! The same log over real files.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::damage::{Class, Rule};
use crate::dir::{self, Log};
use crate::repair;

struct Home {
    _temporary: tempfile::TempDir,
    wal: PathBuf,
}

fn home() -> Home {
    let temporary = tempfile::tempdir().unwrap();
    let wal = temporary.path().join("wal");
    Home {
        _temporary: temporary,
        wal,
    }
}

fn options() -> Options {
    Options {
        segment_bytes: 1 << 20,
        ..Options::default()
    }
}

fn new(dir: &Path) -> Log {
    Log::create(dir, IDENTITY, options(), 5, membership(), 1_000).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub fn request(applied: u64) -> repair::Request {
    repair::Request {
        identity: IDENTITY,
        floors: floors(applied),
        applied_term: 1,
        choice: repair::Choice::Lossless,
        now_ms: 77,
        seed: 8,
        sync: crate::options::SyncMethod::None,
    }
}

fn floors(applied: u64) -> Floors {
    Floors {
        applied,
        ..Floors::default()
    }
}

#[test]
fn what_has_room_is_written_into_the_segment_there_is() {
    let home = home();
    let mut log = new(&home.wal);
    let (mut rolls, mut refused) = (0, 0);
    for index in 1..=60 {
        // Sizes that come to lie on either side of a block's end.
        let bytes = 40_000 + (index as usize * 977) % 9_000;
        let entries = [entry(index, 1, bytes)];
        let (fits, before) = (log.has_room(&entries), log.segments_count());
        log.append(&entries, None, true, 1_000).unwrap();
        let rolled = log.segments_count() > before;
        assert!(!(fits && rolled), "entry {index} opened a segment");
        rolls += usize::from(rolled);
        refused += usize::from(!fits);
    }
    assert!(rolls > 1);
    // The hard state that is allowed for may make the difference of a block at the end of a segment.
    assert!(
        (rolls..=2 * rolls).contains(&refused),
        "{refused} of {rolls}"
    );
    log.close(1_000).unwrap();
    assert!(!log.has_room(&[]), "it takes nothing any more");
}

#[test]
fn a_log_in_a_directory_survives_restarts_rolls_and_purges() {
    let home = home();
    let mut log = new(&home.wal);
    let mut index = 0;
    let mut applied = 0;
    for life in 1..4u64 {
        for _ in 0..130 {
            let batch = [entry(index + 1, life, 20_000), entry(index + 2, life, 300)];
            let done = log
                .append(&batch, Some(hard(life, index)), true, 5)
                .unwrap();
            assert!(done.synced_to > 0 && done.syncs >= 1);
            index += 2;
        }
        log.mark(6).unwrap();
        applied = log.hard_state().commit;
        assert!(log.segments_count() > 1);
        assert!(log.purge(applied - 5).unwrap() > 0 || life > 1);
        let first = log.first_index();
        let read = log.read(first, first + 10, usize::MAX).unwrap();
        assert!(read.iter().map(|entry| entry.index).eq(first..first + 10));
        if life % 2 == 0 {
            log.close(7).unwrap();
        }
        drop(log);
        let found = dir::recover(&home.wal, &IDENTITY, floors(applied)).unwrap();
        assert_eq!((found.last_index, found.last_term), (index, life));
        assert_eq!(found.membership, membership());
        assert!(
            found.report.findings.is_empty(),
            "{:?}",
            found.report.findings
        );
        for kept in &found.entries {
            let bytes = if kept.index % 2 == 1 { 20_000 } else { 300 };
            assert_eq!(*kept, entry(kept.index, kept.term, bytes));
        }
        log = Log::resume(&home.wal, &found, options(), life, 9).unwrap();
    }
    log.close(10).unwrap();
    drop(log);
    let segments = dir::segments(&home.wal).unwrap();
    assert_eq!(segments.last().unwrap().last_index, index);
    assert!(segments.iter().any(|segment| segment.sealed));
    let kept = Floors {
        applied,
        snapshot: 0,
        keep_after: index - 3,
    };
    let found = dir::recover(&home.wal, &IDENTITY, kept).unwrap();
    assert!(
        found
            .entries
            .iter()
            .map(|entry| entry.index)
            .eq(index - 2..=index)
    );
    assert_eq!(found.report.kept_bytes, 300 + 20_000 + 300);
}

#[test]
fn a_log_can_be_handed_to_a_thread() {
    fn is_send<T: Send>() {}
    is_send::<Log>();
    is_send::<Recovered>();
}

#[test]
fn a_second_log_in_the_same_directory_is_refused() {
    let home = home();
    drop(new(&home.wal));
    let again = Log::create(&home.wal, IDENTITY, options(), 5, membership(), 1_000);
    assert!(matches!(again, Err(Error::Exists { .. })));
    let missing = dir::recover(&home.wal.join("nowhere"), &IDENTITY, floors(0));
    assert!(matches!(
        missing,
        Err(Error::Io {
            operation: "list",
            ..
        })
    ));
    fs::create_dir(home.wal.join("empty")).unwrap();
    let empty = dir::recover(&home.wal.join("empty"), &IDENTITY, floors(0));
    assert!(matches!(empty, Err(Error::NoLog { .. })));
}

#[test]
fn every_segment_and_spare_has_its_full_size_from_birth() {
    let home = home();
    let mut log = new(&home.wal);
    for index in 1..100 {
        log.append(&[entry(index, 1, 30_000)], None, true, 5)
            .unwrap();
        for name in names(&home.wal)
            .iter()
            .filter(|name| name.ends_with(".wal"))
        {
            assert_eq!(fs::metadata(home.wal.join(name)).unwrap().len(), 1 << 20);
        }
    }
    log.close(6).unwrap();
    drop(log);
    // The helper was stopped or had finished: at most one spare, and no thread writes any more.
    let spares = names(&home.wal)
        .into_iter()
        .filter(|name| name.starts_with("spare"))
        .count();
    assert!(spares <= 1);
}

#[test]
fn a_torn_tail_is_kept_aside_and_the_log_goes_on_behind_the_last_good_batch() {
    let home = home();
    let mut log = new(&home.wal);
    log.append(&[entry(1, 1, 100)], Some(hard(1, 0)), true, 5)
        .unwrap();
    log.append(&[entry(2, 1, 9_000)], None, false, 5).unwrap();
    drop(log);
    let name = names(&home.wal)
        .into_iter()
        .find(|name| name.ends_with(".wal"))
        .unwrap();
    let path = home.wal.join(&name);
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[end / 512 * 512 - 1024..end / 512 * 512 - 512].fill(0);
    fs::write(&path, &bytes).unwrap();

    let found = dir::recover(&home.wal, &IDENTITY, floors(0)).unwrap();
    assert_eq!(found.last_index, 1);
    let (from, to) = found.end.torn.unwrap();
    assert_eq!(to, end as u64 + 1);
    let plan = repair::plan(&home.wal, &IDENTITY, floors(0)).unwrap();
    assert_eq!(plan.class(), Class::W1);
    assert!(matches!(plan.steps[..], [repair::Step::CutTail { .. }]));
    let quarantine = home.wal.parent().unwrap().join("quarantine");
    let beside = home.wal.parent().unwrap().join("new");
    assert!(!quarantine.exists(), "a plan changes nothing");
    let built = repair::build(&home.wal, &beside, &plan, &request(0)).unwrap();
    assert_eq!(
        (built.last_index, built.lost, built.spent),
        (1, None, false)
    );
    assert_eq!(
        fs::read(&path).unwrap(),
        bytes,
        "the tail stays where it is"
    );
    let mended = dir::recover(&beside, &IDENTITY, floors(0)).unwrap();
    assert!(mended.report.findings.is_empty() && mended.end.torn.is_none());
    let mut log = Log::resume(&home.wal, &found, options(), 3, 78).unwrap();
    log.append(&[entry(2, 2, 50)], Some(hard(2, 1)), true, 79)
        .unwrap();
    drop(log);
    let kept = names(&quarantine);
    assert_eq!(kept.len(), 1, "{kept:?}");
    for name in kept {
        let tail = fs::read(quarantine.join(name)).unwrap();
        assert_eq!(tail, bytes[from as usize..to as usize]);
    }
    let found = dir::recover(&home.wal, &IDENTITY, floors(0)).unwrap();
    assert_eq!(found.entries, [entry(1, 1, 100), entry(2, 2, 50)]);
    assert!(
        repair::plan(&home.wal, &IDENTITY, floors(0))
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_zeroed_sector_of_a_synced_batch_is_refused_with_place_proof_and_token() {
    let home = home();
    let mut log = new(&home.wal);
    for index in 1..=9 {
        log.append(&[entry(index, 1, 3_000)], Some(hard(1, index - 1)), true, 5)
            .unwrap();
    }
    log.close(6).unwrap();
    drop(log);
    let name = names(&home.wal)
        .into_iter()
        .find(|name| name.ends_with(".wal"))
        .unwrap();
    let path = home.wal.join(&name);
    let mut bytes = fs::read(&path).unwrap();
    // Checkpoint at block 2, entry n at block 2 + n: one sector of entry 4 goes.
    bytes[6 * 4096 + 1024..6 * 4096 + 1536].fill(0);
    fs::write(&path, &bytes).unwrap();
    let error = dir::recover(&home.wal, &IDENTITY, floors(0)).unwrap_err();
    let damage = error.damage().unwrap();
    assert_eq!((damage.class, damage.rule), (Class::W4, Rule::D3));
    assert_eq!(
        (damage.offset, damage.first_lost, damage.last_lost),
        (6 * 4096, 4, Some(9))
    );
    assert_eq!(damage.path, path);
    assert!(matches!(dir::verify(&home.wal), Err(Error::Damage(_))));
    let plan = repair::plan(&home.wal, &IDENTITY, floors(0)).unwrap();
    assert!(plan.steps.is_empty());
    let tokens: Vec<_> = (plan.choices.iter())
        .filter_map(|step| match step {
            repair::Step::DropIndexes { token, .. } => Some(token.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(tokens, ["drop-index:4..9"]);
    let beside = home.wal.parent().unwrap().join("new");
    let refused = repair::build(&home.wal, &beside, &plan, &request(0));
    assert!(matches!(refused, Err(Error::NeedsChoice { .. })));
    let mut other = request(0);
    other.choice = repair::Choice::Drop("drop-index:4..8".into());
    let refused = repair::build(&home.wal, &beside, &plan, &other);
    assert!(matches!(refused, Err(Error::Token { .. })));
    assert!(!beside.exists());
    assert_eq!(fs::read(&path).unwrap(), bytes, "nothing was touched");
}

#[test]
fn a_damaged_prefix_that_the_store_has_is_moved_aside() {
    let home = home();
    let mut log = new(&home.wal);
    for index in 1..=80 {
        log.append(
            &[entry(index, 1, 30_000)],
            Some(hard(1, index - 1)),
            true,
            5,
        )
        .unwrap();
    }
    log.close(6).unwrap();
    drop(log);
    let segments: Vec<_> = names(&home.wal)
        .into_iter()
        .filter(|n| n.ends_with(".wal"))
        .collect();
    assert!(segments.len() >= 3);
    let path = home.wal.join(&segments[1]);
    let mut bytes = fs::read(&path).unwrap();
    bytes[20_000] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(dir::recover(&home.wal, &IDENTITY, floors(0)).is_err());
    let found = dir::recover(&home.wal, &IDENTITY, floors(79)).unwrap();
    assert_eq!(found.last_index, 80);
    let plan = repair::plan(&home.wal, &IDENTITY, floors(79)).unwrap();
    assert_eq!((plan.class(), plan.steps.len()), (Class::W3, 2));
    let beside = home.wal.parent().unwrap().join("new");
    repair::build(&home.wal, &beside, &plan, &request(79)).unwrap();
    let clean = repair::plan(&beside, &IDENTITY, floors(79)).unwrap();
    assert!(clean.is_empty() && clean.class() == Class::W0);
    let further = home.wal.parent().unwrap().join("further");
    let stale = repair::build(&beside, &further, &plan, &request(79));
    assert!(matches!(stale, Err(Error::PlanStale { .. })));
}

#[test]
fn a_restored_log_starts_behind_its_snapshot() {
    use super::model::mark;
    use crate::record::Origin;
    let home = home();
    let start = Start {
        membership: Membership {
            index: 40,
            ..membership()
        },
        hard_state: HardState {
            term: 3,
            vote: 0,
            commit: 0,
        },
        snapshot: Some(mark(41, 3, Origin::Local)),
        note: Some("restored from somewhere".into()),
    };
    let mut log = Log::create_from(&home.wal, IDENTITY, options(), 5, start, 1_000).unwrap();
    assert_eq!(
        (log.first_index(), log.last_index(), log.term_of(41)),
        (42, 41, Some(3))
    );
    log.append(&[entry(42, 4, 10)], Some(hard(4, 41)), true, 5)
        .unwrap();
    drop(log);
    let found = dir::recover(&home.wal, &IDENTITY, floors(41)).unwrap();
    assert_eq!((found.first_index, found.last_index), (42, 42));
    assert_eq!(found.snapshot, Some(mark(41, 3, Origin::Local)));
    assert_eq!(found.membership.index, 40);
}

#[test]
fn recovery_changes_no_file() {
    let home = home();
    let mut log = new(&home.wal);
    log.append(&[entry(1, 1, 100)], None, true, 5).unwrap();
    log.close(6).unwrap();
    drop(log);
    let look = || -> Vec<_> {
        let read = |name: String| (fs::read(home.wal.join(&name)).unwrap(), name);
        names(&home.wal).into_iter().map(read).collect()
    };
    let before = look();
    dir::recover(&home.wal, &IDENTITY, floors(0)).unwrap();
    dir::verify(&home.wal).unwrap();
    let bytes = &before[0].0;
    let scanned = crate::scan::scan_segment(bytes).unwrap();
    assert_eq!(scanned.verdict, crate::scan::Verdict::Clean);
    assert_eq!(before, look());
}
