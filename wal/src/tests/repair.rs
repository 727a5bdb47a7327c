//! Repair of every single damage: the class is right, nothing acknowledged goes without a token, and the original
//! bytes stay what they were.
//!
//! Everything in the recorded log was synced and acknowledged. The expected class comes from the layout of the
//! undamaged image, not from the scanner.

use std::fs;
use std::path::Path;

use super::damage::{Image, batches, header_of, recorded};
use super::dir::request;
use super::*;
use crate::damage::Class;
use crate::dir;
use crate::membership::Membership;
use crate::repair::{Choice, Plan, Step, build, plan};
use crate::{BATCH_HEADER_BYTES, SECTOR_BYTES, SEGMENT_HEADER_BYTES};

/// Where a damaged log is put, again and again.
struct Bench {
    root: tempfile::TempDir,
    original: Recovered,
    image: Image,
    seen: Seen,
}

#[derive(Debug, Default)]
struct Seen {
    cases: u64,
    harmless: u64,
    mended: u64,
    rebased: u64,
    given_up: u64,
}

fn put(dir: &Path, image: &Image) {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir).unwrap();
    for (name, bytes) in image {
        fs::write(dir.join(name), bytes).unwrap();
    }
}

fn look(dir: &Path) -> Image {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect()
}

fn above(entries: &[Entry], index: u64) -> Vec<Entry> {
    entries
        .iter()
        .filter(|entry| entry.index > index)
        .cloned()
        .collect()
}

impl Bench {
    fn new(image: Image) -> Self {
        // In memory where there is such a place: thousands of small files come and go.
        let root = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let wal = root.path().join("wal");
        put(&wal, &image);
        let original = dir::recover(&wal, &IDENTITY, Floors::default()).unwrap();
        Self {
            root,
            original,
            image,
            seen: Seen::default(),
        }
    }

    /// One damage, seen by a member whose store has everything up to `applied`.
    fn run(&mut self, name: &str, bad: Vec<u8>, applied: u64, what: &str) {
        let mut image = self.image.clone();
        let expected = expected(&self.image, name, &bad);
        image.insert(name.to_owned(), bad);
        let wal = self.root.path().join("wal");
        put(&wal, &image);
        let floors = Floors {
            applied,
            ..Floors::default()
        };
        let told = plan(&wal, &IDENTITY, floors).unwrap();
        if let Some(class) = expected {
            let covered = told.class() == Class::W3 && applied > 0;
            assert!(
                told.class() == class || covered,
                "{what}: {:?}, expected {class:?}: {told:?}",
                told.class()
            );
        }
        self.seen.cases += 1;
        if told.is_empty() {
            self.seen.harmless += 1;
            let found = dir::recover(&wal, &IDENTITY, floors).unwrap();
            assert_eq!(
                above(&found.entries, applied),
                above(&self.original.entries, applied),
                "{what}"
            );
            return;
        }
        let new = self.root.path().join("new");
        let _ = fs::remove_dir_all(&new);
        let mut request = request(applied);
        request.applied_term = self.original.term_of(applied).unwrap_or(0);
        let built = match build(&wal, &new, &told, &request) {
            Err(Error::NeedsChoice { token }) => {
                assert!(told.needs_a_choice() && !new.exists(), "{what}");
                let Some(token) = token else { return };
                self.seen.given_up += 1;
                request.choice = Choice::Drop(token);
                build(&wal, &new, &told, &request)
            }
            built => {
                assert!(!told.needs_a_choice(), "{what}");
                self.seen.mended += 1;
                built
            }
        };
        let built = built.unwrap_or_else(|error| panic!("{what}: {error}; {told:?}"));
        let found = dir::recover(&new, &IDENTITY, floors).unwrap();
        assert!(found.report.findings.is_empty(), "{what}");
        let (kept, all) = (
            above(&found.entries, applied),
            above(&self.original.entries, applied),
        );
        match built.lost {
            None => {
                assert_eq!(kept, all, "{what}: {told:?}");
                let rebased = matches!(told.steps[..], [Step::Rebase { .. }]);
                self.seen.rebased += u64::from(rebased);
                let (was, is) = (self.original.hard_state, found.hard_state);
                assert!(
                    is.term >= was.term && is.commit >= was.commit.min(applied),
                    "{what}"
                );
            }
            Some((from, to)) => {
                let same = kept.iter().zip(&all).take_while(|(a, b)| a == b).count();
                let first_gone = applied + same as u64 + 1;
                assert!(from <= first_gone, "{what}: {told:?}");
                let last = self.original.last_index;
                assert!(
                    to.is_none_or(|to| to >= last || first_gone > last),
                    "{what}: {told:?}"
                );
            }
        }
        // Life goes on in the new log; the old one must not notice.
        let next = entry(found.last_index + 1, found.hard_state.term, 700);
        let options = Options {
            sync: crate::options::SyncMethod::None,
            ..small(512, 12)
        };
        let mut log = dir::Log::resume(&new, &found, options, 3, 90).unwrap();
        log.append(&[next], None, false, 91).unwrap();
        log.close(92).unwrap();
        drop(log);
        assert_eq!(look(&wal), image, "{what}: the original changed");
    }
}

/// What a reader has to say, from the layout of the undamaged image; `None` where several answers are right.
fn expected(image: &Image, name: &str, bad: &[u8]) -> Option<Class> {
    let good = &image[name];
    let header = header_of(good);
    let (block, start) = (u64::from(header.block), header.data_start());
    if bad.len() < good.len() {
        return match bad.len() as u64 {
            bytes if bytes > start => Some(Class::W4),
            _ => Some(Class::W5),
        };
    }
    let changed: Vec<u64> = (0..good.len())
        .filter(|at| good[*at] != bad[*at])
        .map(|at| at as u64)
        .collect();
    let is_last = image.keys().next_back().map(String::as_str) == Some(name);
    let all = batches(good);
    let touched = |from: u64, to: u64| changed.iter().any(|at| (from..to).contains(at));
    let body = |batch: &crate::batch::BatchHeader| {
        BATCH_HEADER_BYTES as u64 + u64::from(batch.payload_bytes)
    };
    let copy = SEGMENT_HEADER_BYTES as u64;
    let copies = [touched(0, copy), touched(block, block + copy)];
    let first_bad = (all.iter()).find(|(offset, batch)| touched(*offset, offset + body(batch)));
    if copies == [true, true] {
        return None;
    }
    if let Some((offset, batch)) = first_bad {
        let proof = all.iter().any(|(at, later)| {
            at > offset
                && later.synced_to > batch.position
                && !touched(*at, at + BATCH_HEADER_BYTES as u64)
        });
        return (!is_last || proof).then_some(Class::W4);
    }
    let end = all.last().map_or(start, |(offset, batch)| {
        offset + batch.total_bytes(header.block as usize) as u64
    });
    if is_last && touched(end, u64::MAX) {
        let first_sector = touched(end, end + SECTOR_BYTES as u64);
        return Some(if first_sector { Class::W2 } else { Class::W1 });
    }
    Some(if copies.contains(&true) {
        Class::W7
    } else {
        Class::W0
    })
}

/// The stride of the quick run; every offset if `KVNODE_EVERY_OFFSET` is set. It is prime to the sector size, so that
/// three strides together meet every kind of place.
fn stride() -> usize {
    match std::env::var_os("KVNODE_EVERY_OFFSET") {
        Some(_) => 1,
        None => 23,
    }
}

fn floors_tried(bench: &Bench) -> [u64; 3] {
    let commit = bench.original.hard_state.commit;
    [0, commit / 2, commit]
}

#[test]
fn every_flipped_byte_is_classed_mended_or_named_and_the_original_stays() {
    let mut bench = Bench::new(recorded(&small(512, 12), true));
    let mut count = 0usize;
    for applied in floors_tried(&bench) {
        for (name, bytes) in bench.image.clone() {
            for at in ((count * 7) % stride()..bytes.len()).step_by(stride()) {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << (at % 8);
                bench.run(
                    &name,
                    bad,
                    applied,
                    &format!("{name} flip {at} applied {applied}"),
                );
            }
            count += 1;
        }
    }
    let Seen {
        cases,
        harmless,
        mended,
        rebased,
        given_up,
    } = bench.seen;
    assert!(
        cases > 500 && harmless > 50 && mended > 50 && given_up > 50 && rebased > 10,
        "{:?}",
        bench.seen
    );
}

#[test]
fn every_truncation_is_classed_and_named_and_the_original_stays() {
    let mut bench = Bench::new(recorded(&small(512, 12), true));
    let mut count = 0usize;
    for applied in floors_tried(&bench) {
        for (name, bytes) in bench.image.clone() {
            for at in ((count * 7) % stride()..bytes.len()).step_by(stride()) {
                let what = format!("{name} cut at {at} applied {applied}");
                bench.run(&name, bytes[..at].to_vec(), applied, &what);
            }
            count += 1;
        }
    }
    assert!(
        bench.seen.given_up > 50 && bench.seen.mended > 10,
        "{:?}",
        bench.seen
    );
}

#[test]
fn every_zeroed_or_swapped_sector_is_classed_mended_or_named_and_the_original_stays() {
    for options in [small(512, 12), small(2048, 14)] {
        let mut bench = Bench::new(recorded(&options, true));
        for applied in floors_tried(&bench) {
            for (name, bytes) in bench.image.clone() {
                for at in (0..bytes.len()).step_by(SECTOR_BYTES) {
                    let mut zeroed = bytes.clone();
                    zeroed[at..at + SECTOR_BYTES].fill(0);
                    let what = format!("{name} zeroed at {at} applied {applied}");
                    if zeroed != bytes {
                        bench.run(&name, zeroed, applied, &what);
                    }
                    let mut swapped = bytes.clone();
                    if at + 2 * SECTOR_BYTES <= bytes.len() {
                        let (one, two) =
                            swapped[at..at + 2 * SECTOR_BYTES].split_at_mut(SECTOR_BYTES);
                        one.swap_with_slice(two);
                    }
                    let what = format!("{name} swapped at {at} applied {applied}");
                    if swapped != bytes {
                        bench.run(&name, swapped, applied, &what);
                    }
                }
            }
        }
        assert!(
            bench.seen.mended > 10 && bench.seen.rebased > 5,
            "{:?}",
            bench.seen
        );
    }
}

fn damaged_middle(members: Membership) -> (tempfile::TempDir, Recovered, Plan) {
    let root = tempfile::tempdir().unwrap();
    let wal = root.path().join("wal");
    let options = Options {
        segment_bytes: 1 << 20,
        ..Options::default()
    };
    let mut log = dir::Log::create(&wal, IDENTITY, options, 5, members, 1_000).unwrap();
    for index in 1..=60 {
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
    let copy = root.path().join("copy");
    put(&copy, &look(&wal));
    let original = dir::recover(&wal, &IDENTITY, Floors::default()).unwrap();
    let name = look(&wal)
        .into_keys()
        .find(|name| name.ends_with(".wal"))
        .unwrap();
    let mut bytes = fs::read(wal.join(&name)).unwrap();
    bytes[400_000] ^= 4;
    fs::write(wal.join(&name), bytes).unwrap();
    let told = plan(&wal, &IDENTITY, Floors::default()).unwrap();
    (root, original, told)
}

fn three() -> Membership {
    Membership {
        voters: vec![0xA1, 0xA2, 0xA3],
        ..Membership::default()
    }
}

#[test]
fn a_hole_is_filled_from_another_copy_of_the_log_and_loses_nothing() {
    let (root, original, told) = damaged_middle(three());
    let (wal, new) = (root.path().join("wal"), root.path().join("new"));
    let mut request = request(0);
    request.choice = Choice::FillFrom(root.path().join("copy"));
    let built = build(&wal, &new, &told, &request).unwrap();
    assert_eq!(
        (built.last_index, built.lost, built.spent),
        (60, None, false)
    );
    let found = dir::recover(&new, &IDENTITY, Floors::default()).unwrap();
    assert_eq!(found.entries, original.entries);
    assert!(found.hard_state.term >= original.hard_state.term);
}

#[test]
fn a_copy_that_is_shorter_or_differs_is_refused_as_a_source() {
    let (root, _, told) = damaged_middle(three());
    let (wal, new) = (root.path().join("wal"), root.path().join("new"));
    let other = |last: u64, term: u64| {
        let path = root.path().join("other");
        let _ = fs::remove_dir_all(&path);
        let options = Options {
            segment_bytes: 4 << 20,
            ..Options::default()
        };
        let mut log = dir::Log::create(&path, IDENTITY, options, 5, three(), 1_000).unwrap();
        for index in 1..=last {
            log.append(&[entry(index, term, 30_000)], None, false, 5)
                .unwrap();
        }
        log.close(6).unwrap();
        path
    };
    for (last, term, word) in [(11, 1, "would end at"), (60, 2, "does not continue")] {
        let mut request = request(0);
        request.choice = Choice::FillFrom(other(last, term));
        let refused = build(&wal, &new, &told, &request).unwrap_err().to_string();
        assert!(refused.contains(word), "{refused}");
        assert!(!new.exists());
    }
}

#[test]
fn giving_entries_up_spends_the_identity_of_a_member_of_a_larger_cluster_only() {
    for (members, spent) in [(three(), true), (membership(), false)] {
        let (root, _, told) = damaged_middle(members);
        let (wal, new) = (root.path().join("wal"), root.path().join("new"));
        let mut request = request(0);
        request.choice = Choice::Drop(told.token().unwrap().to_owned());
        let built = build(&wal, &new, &told, &request).unwrap();
        assert_eq!(built.spent, spent);
        assert!(
            built
                .lost
                .is_some_and(|(from, _)| from == built.last_index + 1)
        );
    }
}

#[test]
fn in_a_larger_cluster_a_hole_in_what_the_store_has_is_not_passed_over_alone() {
    // What the hole held of votes and members is unknown there.
    let (root, _, _) = damaged_middle(three());
    let floors = Floors {
        applied: 40,
        ..Floors::default()
    };
    let told = plan(&root.path().join("wal"), &IDENTITY, floors).unwrap();
    let covered = told.class() == Class::W3 && !told.needs_a_choice();
    // A whole segment in front of one that stands by itself may go; a hole inside may not.
    assert!(covered || told.needs_a_choice(), "{told:?}");
    assert!(
        !told
            .steps
            .iter()
            .any(|step| matches!(step, Step::Rebase { .. }))
    );
}

#[test]
fn files_that_are_not_the_logs_are_left_out_of_the_repaired_one() {
    let root = tempfile::tempdir().unwrap();
    let (wal, new) = (root.path().join("wal"), root.path().join("new"));
    put(&wal, &recorded(&small(512, 12), true));
    fs::write(wal.join("notes.txt"), "mine").unwrap();
    let told = plan(&wal, &IDENTITY, Floors::default()).unwrap();
    assert_eq!(told.class(), Class::W6);
    let built = build(&wal, &new, &told, &request(0)).unwrap();
    assert_eq!(built.lost, None);
    assert!(!new.join("notes.txt").exists() && wal.join("notes.txt").exists());
}
