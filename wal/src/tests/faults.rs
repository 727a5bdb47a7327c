//! A fault at every single operation of create, append, roll, snapshot, purge, close and resume.

use super::disk::{Fault, MemoryDisk};
use super::model::mark;
use super::*;
use crate::record::Origin;
use crate::segment::FileName;

/// The first error, and the log it happened to.
type Failure = (Error, Option<Driver<MemoryDisk>>);

/// A fixed piece of work over two lives that meets every kind of operation. Returns the index and
/// commit known to be durable, and the first error with the log it happened to.
fn work(disk: &MemoryDisk) -> (u64, Option<Failure>) {
    let options = small(512, 20);
    let mut durable = 0;
    let mut log = match create(disk, options.clone()) {
        Ok(log) => log,
        Err(error) => return (durable, Some((error, None))),
    };
    let mut index = 0;
    macro_rules! attempt {
        ($result:expr) => {
            if let Err(error) = $result {
                return (durable, Some((error, Some(log))));
            }
        };
    }
    for life in 0..2 {
        for round in 0..9 {
            let batch = [entry(index + 1, 1, 300), entry(index + 2, 1, 700)];
            attempt!(log.append(&batch, Some(hard(1, index)), round % 3 != 0, 5));
            index += 2;
            attempt!(log.mark(6));
            if round % 3 != 0 {
                durable = index;
            }
        }
        let applied = durable - 2;
        attempt!(log.snapshot_mark(mark(applied, 1, Origin::Local), &membership(), 7));
        durable = index;
        attempt!(log.purge(applied));
        if life == 0 {
            attempt!(log.close(8));
            let found = match read(disk, Floors::default()) {
                Ok(found) => found,
                Err(error) => return (durable, Some((error, None))),
            };
            log = match Driver::resume_on(disk.clone(), &found, options.clone(), 9, 9) {
                Ok(log) => log,
                Err(error) => return (durable, Some((error, None))),
            };
        }
    }
    (durable, None)
}

fn operations_of_work() -> usize {
    let disk = MemoryDisk::default();
    let (_, failure) = work(&disk);
    assert!(failure.is_none(), "{:?}", failure.map(|(error, _)| error));
    for verb in [
        "prepare",
        "write",
        "sync",
        "rename",
        "remove",
        "sync the directory",
    ] {
        assert!(disk.log().contains(&verb), "the work must {verb}");
    }
    disk.performed()
}

#[test]
fn a_fault_at_any_operation_closes_the_log_and_loses_nothing_that_was_synced() {
    let operations = operations_of_work();
    for fault in [Fault::Power, Fault::Error, Fault::Short] {
        for at in 0..operations {
            for variant in 0..6 {
                let disk = MemoryDisk::default();
                disk.fail_at(at, fault);
                let (durable, failure) = work(&disk);
                let (error, log) = failure.expect("the fault shows");
                assert!(error.is_fatal(), "{fault:?} at {at}: {error}");
                let performed = disk.performed();
                assert_eq!(performed, at + 1, "nothing is tried behind the fault");
                if let Some(mut log) = log {
                    let refused = |result: Result<(), Error>| {
                        assert!(matches!(result, Err(Error::Poisoned { .. })), "{result:?}");
                    };
                    let next = entry(log.last_index() + 1, 9, 9);
                    refused(log.append(&[next], None, true, 9).map(drop));
                    refused(log.append(&[], None, true, 9).map(drop));
                    refused(log.mark(9));
                    refused(log.purge(1).map(drop));
                    refused(log.close(9));
                    refused(log.snapshot_mark(mark(1, 1, Origin::Local), &membership(), 9));
                    assert!(!log.mark_is_due());
                }
                assert_eq!(disk.performed(), performed, "a closed log touches nothing");
                disk.restart();
                if fault == Fault::Power || variant % 2 == 1 {
                    disk.lose_power(&mut Dice(variant));
                }
                let found = match read(&disk, Floors::default()) {
                    Ok(found) => found,
                    Err(Error::NoLog { .. }) => {
                        assert_eq!(durable, 0);
                        create(&disk, small(512, 20)).expect("creation can be tried again");
                        continue;
                    }
                    Err(error) => panic!("{fault:?} at {at}, variant {variant}: {error}"),
                };
                assert!(
                    found.last_index >= durable,
                    "{fault:?} at {at}: {}",
                    found.last_index
                );
                for kept in &found.entries {
                    let bytes = if kept.index % 2 == 1 { 300 } else { 700 };
                    assert_eq!(*kept, entry(kept.index, 1, bytes));
                }
                let options = small(512, 20);
                let mut log = Driver::resume_on(disk.clone(), &found, options, 5, 9).unwrap();
                log.append(&[entry(found.last_index + 1, 7, 9)], None, true, 9)
                    .unwrap();
                let again = read(&disk, Floors::default()).unwrap();
                assert_eq!(again.last_index, found.last_index + 1);
            }
        }
    }
}

#[test]
fn no_space_for_a_spare_refuses_the_append_and_the_next_call_goes_on() {
    let disk = MemoryDisk::default();
    let mut log = create(&disk, small(512, 20)).unwrap();
    // The spare made ahead is used first; then there is none.
    let mut index = 0;
    let mut refused = None;
    while refused.is_none() {
        index += 1;
        let performed = disk.log().len();
        match log.append(&[entry(index, 1, 900)], None, true, 5) {
            Ok(_) => assert!(index < 100),
            Err(error) => {
                assert!(
                    matches!(error, Error::NoSpace { .. }) && !error.is_fatal(),
                    "{error}"
                );
                assert_eq!(disk.log()[performed..], ["prepare"], "nothing was written");
                refused = Some(index);
            }
        }
        // From now on preparing fails; everything else works.
        disk.fail_prepare(index > 3);
    }
    let before = read(&disk, Floors::default()).unwrap();
    assert_eq!(before.last_index, index - 1, "the files are as before");
    let again = [entry(index, 1, 900)];
    for _ in 0..2 {
        let refused = log.append(&again, None, true, 6);
        assert!(matches!(refused, Err(Error::NoSpace { .. })));
    }
    disk.fail_prepare(false);
    log.append(&again, None, true, 7).unwrap();
    log.append(&[entry(index + 1, 1, 10)], None, true, 8)
        .unwrap();
    let after = read(&disk, Floors::default()).unwrap();
    assert_eq!(after.last_index, index + 1);
    assert_eq!(after.entries[index as usize - 1], entry(index, 1, 900));
}

/// Several writes of raft travel as one append: the hard state of a later one says that entries of an
/// earlier one are committed. Found by the simulator.
#[test]
fn an_append_that_found_no_room_goes_on_though_it_commits_its_own_entries() {
    for entries in [1u64, 3, 40] {
        let disk = MemoryDisk::default();
        let options = Options {
            batch_bytes_target: 2000,
            ..small(512, 20)
        };
        let mut log = create(&disk, options).unwrap();
        let (mut last, mut waited) = (0, 0);
        while waited < 3 {
            let batch: Vec<_> = (last + 1..=last + entries)
                .map(|index| entry(index, 1, 300))
                .collect();
            last += entries;
            let hard_state = HardState {
                term: 1,
                vote: 1,
                commit: last,
            };
            disk.fail_prepare(true);
            let mut result = log.append(&batch, Some(hard_state), true, 5);
            while let Err(error) = result {
                assert!(matches!(error, Error::NoSpace { .. }), "{error}");
                waited += 1;
                disk.fail_prepare(waited % 2 == 0);
                result = log.append(&batch, Some(hard_state), true, 6);
            }
            let found = read(&disk, Floors::default()).unwrap();
            assert_eq!((found.last_index, found.hard_state), (last, hard_state));
            let indexes: Vec<_> = found.entries.iter().map(|entry| entry.index).collect();
            assert!(indexes.iter().copied().eq(1..=last), "{indexes:?}");
        }
    }
}

#[test]
fn a_failed_sync_with_a_warm_cache_does_not_count_what_the_disk_lacks() {
    let mut differed = 0;
    for seed in 0..50 {
        let disk = MemoryDisk::default();
        let mut log = create(&disk, small(512, 40)).unwrap();
        for index in 1..=seed % 7 {
            log.append(&[entry(index, 1, 900)], None, true, 5).unwrap();
        }
        let durable = log.last_index();
        disk.fail_at(1, Fault::Error);
        assert!(
            log.append(&[entry(durable + 1, 1, 900)], None, true, 5)
                .is_err()
        );
        drop(log);
        disk.restart();
        let warm = disk.image();
        let found = read(&disk, Floors::default()).unwrap();
        differed += u64::from(disk.image() != warm);
        // What was read is on the disk: a power loss right behind the resume keeps it.
        Driver::resume_on(disk.clone(), &found, small(512, 40), 5, 9).unwrap();
        disk.lose_power(&mut Dice(seed));
        let again = read(&disk, Floors::default()).unwrap();
        assert!(found.last_index >= durable);
        assert_eq!(again.entries, found.entries);
    }
    assert!(
        differed > 10,
        "the cache must have shown what the disk lacks"
    );
}

#[test]
fn a_spare_that_is_not_zero_is_never_used() {
    let disk = MemoryDisk::default();
    let mut log = create(&disk, small(512, 20)).unwrap();
    log.append(&[entry(1, 1, 600)], Some(hard(1, 0)), true, 5)
        .unwrap();
    drop(log);
    let segment = disk
        .image()
        .into_iter()
        .find(|(name, _)| name.ends_with(".wal"))
        .unwrap()
        .1;
    let mut dirty = vec![0; 20 * 512];
    dirty[20 * 512 - 1] = 1;
    let clean = vec![0; 20 * 512];
    for (number, bytes) in [(3, segment), (4, dirty), (5, vec![0; 512]), (6, clean)] {
        disk.put(&FileName::Spare(number).to_string(), bytes);
    }
    let found = read(&disk, Floors::default()).unwrap();
    let mut log = Driver::resume_on(disk.clone(), &found, small(512, 20), 2, 6).unwrap();
    for index in 2..40 {
        log.append(&[entry(index, 1, 600)], Some(hard(1, 1)), true, 7)
            .unwrap();
    }
    assert_eq!(read(&disk, Floors::default()).unwrap().last_index, 39);
    let names: Vec<_> = disk.image().into_keys().collect();
    for gone in [3, 4, 5] {
        assert!(!names.contains(&FileName::Spare(gone).to_string()));
    }
}

#[test]
fn unsynced_bytes_never_run_ahead_farther_than_a_reader_allows() {
    let disk = MemoryDisk::default();
    let mut options = small(4096, 16);
    options.segment_bytes = 64 << 20;
    let mut log = create(&disk, options).unwrap();
    let before = disk.log().len();
    let mut written = 0;
    for index in 1..=45 {
        let done = log
            .append(&[entry(index, 1, 1 << 20)], None, false, 5)
            .unwrap();
        written += done.bytes;
        assert!(written >= done.bytes);
    }
    let syncs = disk.log()[before..]
        .iter()
        .filter(|verb| **verb == "sync")
        .count();
    assert_eq!(syncs, 2, "45 MiB: one sync per 16 MiB");
}

#[test]
fn a_job_larger_than_a_batch_is_split_and_synced_once() {
    let disk = MemoryDisk::default();
    let mut options = small(512, 16);
    options.segment_bytes = 1 << 20;
    options.batch_bytes_target = 10_000;
    let mut log = create(&disk, options).unwrap();
    let before = disk.log().len();
    let entries: Vec<_> = (1..=100).map(|index| entry(index, 1, 1000)).collect();
    let done = log.append(&entries, Some(hard(1, 7)), true, 5).unwrap();
    assert_eq!(done.syncs, 1);
    let wanted: Vec<_> = std::iter::repeat_n("write", 12).chain(["sync"]).collect();
    assert_eq!(disk.log()[before..], wanted);
    let found = read(&disk, Floors::default()).unwrap();
    assert_eq!(found.entries, entries);
    assert_eq!(found.hard_state, hard(1, 7));
}

#[test]
fn a_commit_index_rides_along_and_a_vote_does_not_wait() {
    let disk = MemoryDisk::default();
    let mut log = create(&disk, small(512, 40)).unwrap();
    log.append(&[entry(1, 1, 10)], Some(hard(1, 0)), true, 5)
        .unwrap();
    log.mark(6).unwrap();
    let before = disk.performed();
    log.append(&[], Some(hard(1, 1)), false, 6).unwrap();
    assert_eq!(
        disk.performed(),
        before,
        "commit only: nothing to write yet"
    );
    assert!(log.mark_is_due());
    log.mark(7).unwrap();
    assert_eq!(disk.log()[before..], ["write"]);
    assert_eq!(
        read(&disk, Floors::default()).unwrap().hard_state,
        hard(1, 1)
    );
    log.append(
        &[],
        Some(HardState {
            term: 2,
            vote: 3,
            commit: 1,
        }),
        true,
        8,
    )
    .unwrap();
    assert_eq!(disk.log()[before..], ["write", "write", "sync"]);
    assert!(log.mark_is_due());
    log.mark(9).unwrap();
    assert!(!log.mark_is_due());
    let marked = disk.performed();
    log.mark(10).unwrap();
    assert_eq!(disk.performed(), marked, "one mark is enough");
}

#[test]
fn what_breaks_the_logs_rule_is_refused_and_closes_it() {
    for bad in [entry(3, 1, 1), entry(1, 2, 1), entry(2, 0, 1)] {
        let disk = MemoryDisk::default();
        let mut log = create(&disk, small(512, 40)).unwrap();
        log.append(&[entry(1, 1, 10)], Some(hard(1, 1)), true, 5)
            .unwrap();
        let error = log.append(&[bad], None, true, 5).unwrap_err();
        assert!(matches!(error, Error::Order(_)) && error.is_fatal());
        assert!(matches!(log.mark(6), Err(Error::Poisoned { .. })));
        assert_eq!(read(&disk, Floors::default()).unwrap().last_index, 1);
    }
    let disk = MemoryDisk::default();
    let mut log = create(&disk, small(512, 40)).unwrap();
    let error = log
        .append(&[entry(1, 1, 60_000)], None, true, 5)
        .unwrap_err();
    assert!(matches!(
        error,
        Error::EntryTooLarge {
            index: 1,
            bytes: 60_000,
            ..
        }
    ));
    assert!(!error.is_fatal());
    log.append(&[entry(1, 1, 60)], None, true, 5).unwrap();
}

#[test]
fn a_full_segment_carries_its_own_index() {
    use crate::index::OffsetIndex;
    use crate::record::{Record, Records};
    use crate::scan::{SegmentScan, Step};
    let disk = MemoryDisk::default();
    let mut options = small(512, 16);
    options.segment_bytes = 1 << 20;
    let mut log = create(&disk, options).unwrap();
    for index in 1..=1500 {
        log.append(&[entry(index, 1, 1000)], None, false, 5)
            .unwrap();
    }
    let found = read(&disk, Floors::default()).unwrap();
    let meta = &found.segments[0];
    assert!(found.report.segments[0].sealed);
    let bytes = &disk.image()[&meta.header.name().to_string()];
    let mut scan = SegmentScan::new(bytes.as_slice(), meta.header.clone(), 4096);
    let mut footers = Vec::new();
    while let Step::Batch(batch) = scan.next_batch().unwrap() {
        for record in Records::new(batch.payload) {
            match record.unwrap() {
                Record::Footer(body) => {
                    footers.push(OffsetIndex::decode(body, meta.header.bytes).unwrap());
                }
                Record::Seal(seal) => {
                    assert_eq!(seal.footer, batch.header.position + 64);
                }
                _ => {}
            }
        }
    }
    assert_eq!(footers.len(), 1);
    assert_eq!(footers[0].pairs(), meta.index.pairs());
    assert!(meta.index.pairs().len() >= 15);
    let read = log.read(700, 760, 1 << 20).unwrap();
    assert!(read.iter().map(|entry| entry.index).eq(700..760));
    assert!(matches!(
        log.read(1, 1502, 9),
        Err(Error::OutOfRange { last: 1500, .. })
    ));
}
