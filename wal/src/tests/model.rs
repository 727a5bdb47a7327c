//! A plain vector beside the log: equal after every recovery, whatever was done.

use proptest::prelude::*;

use super::disk::MemoryDisk;
use super::*;
use crate::record::{Origin, SnapshotMark};

/// What the log should hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// Index and term in front of the first entry.
    pub base: (u64, u64),
    pub entries: Vec<Entry>,
    pub hard: HardState,
    pub snapshot: Option<SnapshotMark>,
}

impl Model {
    pub fn last(&self) -> u64 {
        self.entries.last().map_or(self.base.0, |entry| entry.index)
    }

    pub fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        self.entries
            .iter()
            .find(|entry| entry.index == index)
            .map(|entry| entry.term)
    }

    pub fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.entries.retain(|old| old.index < entry.index);
            self.entries.push(entry.clone());
        }
    }

    pub fn install(&mut self, mark: SnapshotMark) {
        let keep = self.term_of(mark.index) == Some(mark.term);
        self.entries
            .retain(|entry| keep && entry.index > mark.index);
        self.base = (mark.index, mark.term);
        self.snapshot = Some(mark);
    }

    /// Whether a recovered log is this one, but for purged entries and a commit index that may lag.
    pub fn is(&self, found: &Recovered) -> bool {
        let tail: Vec<_> = self
            .entries
            .iter()
            .filter(|entry| entry.index >= found.first_index)
            .collect();
        found.last_index == self.last()
            && found.entries.iter().eq(tail)
            && (found.hard_state.term, found.hard_state.vote) == (self.hard.term, self.hard.vote)
            && found.snapshot == self.snapshot
    }
}

pub fn mark(index: u64, term: u64, origin: Origin) -> SnapshotMark {
    SnapshotMark {
        index,
        term,
        id: [index as u8; 16],
        origin,
    }
}

#[derive(Clone, Debug)]
enum Job {
    Append {
        back: u64,
        count: u64,
        bytes: usize,
        newer_term: bool,
        sync: bool,
    },
    Commit {
        sync: bool,
    },
    LocalSnapshot,
    Install {
        ahead: u64,
        match_log: bool,
    },
    Purge,
    Mark,
    Restart {
        clean: bool,
    },
    Read {
        from: u64,
        count: u64,
        bytes: usize,
    },
}

fn job() -> impl Strategy<Value = Job> {
    let flag = any::<bool>;
    prop_oneof![
        8 => (0..6u64, 1..6u64, 0..900usize, flag(), flag()).prop_map(
            |(back, count, bytes, newer_term, sync)| Job::Append {
                back, count, bytes, newer_term, sync
            }),
        3 => flag().prop_map(|sync| Job::Commit { sync }),
        1 => Just(Job::LocalSnapshot),
        1 => (0..4u64, flag()).prop_map(|(ahead, match_log)| Job::Install { ahead, match_log }),
        1 => Just(Job::Purge),
        2 => Just(Job::Mark),
        1 => flag().prop_map(|clean| Job::Restart { clean }),
        3 => (0..30u64, 1..30u64, 0..4000usize).prop_map(
            |(from, count, bytes)| Job::Read { from, count, bytes }),
    ]
}

struct World {
    disk: MemoryDisk,
    log: Option<Driver<MemoryDisk>>,
    model: Model,
    term: u64,
    options: Options,
    seed: u64,
}

impl World {
    fn do_job(&mut self, job: &Job) {
        let (model, log) = (&mut self.model, self.log.as_mut().unwrap());
        match *job {
            Job::Append {
                back,
                count,
                bytes,
                newer_term,
                sync,
            } => {
                self.term += u64::from(newer_term);
                let committed = model.hard.commit.max(model.base.0);
                let first = (model.last() + 1).saturating_sub(back).max(committed + 1);
                let entries: Vec<_> = (first..first + count)
                    .map(|i| entry(i, self.term, bytes))
                    .collect();
                let hard = HardState {
                    term: self.term,
                    vote: 1,
                    commit: model.hard.commit,
                };
                log.append(&entries, Some(hard), sync, 5).unwrap();
                model.append(&entries);
                model.hard = hard;
            }
            Job::Commit { sync } => {
                let commit = model.hard.commit.max(model.base.0).max(model.last() / 2);
                model.hard.commit = commit;
                log.append(&[], Some(model.hard), sync, 5).unwrap();
            }
            Job::LocalSnapshot => {
                let index = model.hard.commit;
                let newest = model.snapshot.map_or(0, |mark| mark.index);
                if let Some(term) = model.term_of(index).filter(|_| index >= newest) {
                    let mark = mark(index, term, Origin::Local);
                    log.snapshot_mark(mark, &membership(), 5).unwrap();
                    model.snapshot = Some(mark);
                }
            }
            Job::Install { ahead, match_log } => {
                let known = model.hard.commit.max(model.base.0);
                let index = if match_log {
                    known
                } else {
                    model.last() + ahead
                };
                let term = match model.term_of(index) {
                    Some(term) if match_log => term,
                    _ => self.term,
                };
                if index < known.max(1) || model.snapshot.is_some_and(|old| old.index > index) {
                    return;
                }
                // A member adopts the leader's term before it takes its snapshot.
                model.hard = HardState {
                    term: self.term,
                    vote: 1,
                    commit: model.hard.commit,
                };
                log.append(&[], Some(model.hard), false, 5).unwrap();
                let mark = mark(index, term, Origin::Installed);
                log.snapshot_mark(mark, &membership(), 5).unwrap();
                model.install(mark);
            }
            Job::Purge => {
                log.purge(model.hard.commit).unwrap();
            }
            Job::Mark => log.mark(5).unwrap(),
            Job::Restart { clean } => {
                if clean {
                    log.close(6).unwrap();
                }
                self.restart();
            }
            Job::Read { from, count, bytes } => {
                let from = log.first_index() + from;
                let to = (from + count).min(model.last() + 1);
                if from < to {
                    let read = log.read(from, to, bytes).unwrap();
                    let wanted: Vec<_> = (model.entries.iter())
                        .filter(|entry| (from..to).contains(&entry.index))
                        .collect();
                    assert!(!read.is_empty());
                    assert!(read.iter().eq(wanted.into_iter().take(read.len())));
                    let size = |entries: &[Entry]| -> usize {
                        entries.iter().map(|entry| entry.payload.len()).sum()
                    };
                    let whole = read.len() as u64 == to - from;
                    assert!(whole || size(&read) >= bytes);
                    assert!(read.len() == 1 || size(&read[..read.len() - 1]) < bytes);
                }
            }
        }
    }

    fn restart(&mut self) {
        let dying = self.log.take().unwrap();
        let riding = dying.hard_state();
        drop(dying);
        self.disk.restart();
        let applied = self.model.snapshot.map_or(0, |mark| mark.index);
        let floors = Floors {
            applied,
            ..Floors::default()
        };
        let found = read(&self.disk, floors).unwrap();
        assert!(self.model.is(&found), "{:#?}\n{found:#?}", self.model);
        assert!(found.hard_state.commit <= riding.commit.max(applied));
        self.model.hard.commit = found.hard_state.commit;
        for step in [1, 700] {
            let again = crate::recover::recover_in_steps(
                &mut self.disk.clone(),
                Some(&IDENTITY),
                Some(floors),
                step,
            );
            assert_eq!(
                essence(&again.unwrap()),
                essence(&found),
                "read step {step}"
            );
        }
        self.seed += 1;
        let log = Driver::resume_on(
            self.disk.clone(),
            &found,
            self.options.clone(),
            self.seed,
            7,
        );
        self.log = Some(log.unwrap());
    }
}

fn run(jobs: &[Job], options: Options) {
    let disk = MemoryDisk::default();
    let log = create(&disk, options.clone()).unwrap();
    let mut world = World {
        disk,
        log: Some(log),
        model: Model::default(),
        term: 1,
        options,
        seed: 1,
    };
    // Purging needs the applied floor to cover it: restarts pass the snapshot's index, so a local
    // snapshot is taken in front of every purge.
    for job in jobs {
        if matches!(job, Job::Purge) {
            world.do_job(&Job::LocalSnapshot);
            if world
                .model
                .snapshot
                .is_none_or(|mark| mark.index < world.model.hard.commit)
            {
                continue;
            }
        }
        world.do_job(job);
    }
    world.restart();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_a_vector(jobs in prop::collection::vec(job(), 1..60)) {
        run(&jobs, small(512, 24));
    }

    #[test]
    fn the_log_is_a_vector_with_larger_blocks(jobs in prop::collection::vec(job(), 1..40)) {
        run(&jobs, small(4096, 12));
    }
}

/// A tail that was never committed, restarts behind it, then a snapshot in front of its end: the
/// segments with the tail go, and what is left was opened behind an end that is no more. Found by the
/// simulator.
#[test]
fn a_log_that_began_anew_is_read_though_what_it_dropped_was_purged() {
    for restarts in 1..4 {
        let disk = MemoryDisk::default();
        let options = small(512, 40);
        let mut log = create(&disk, options.clone()).unwrap();
        let tail: Vec<_> = (1..=7).map(|index| entry(index, 4, 40)).collect();
        log.append(&tail, Some(hard(4, 5)), true, 1).unwrap();
        for life in 0..restarts {
            let found = read(&disk, Floors::default()).unwrap();
            log = Driver::resume_on(disk.clone(), &found, options.clone(), life, 2).unwrap();
        }
        let installed = mark(6, 5, Origin::Installed);
        log.snapshot_mark(installed, &membership(), 3).unwrap();
        log.append(&[entry(7, 7, 10)], Some(hard(7, 7)), true, 4)
            .unwrap();
        log.append(&[entry(8, 7, 10)], Some(hard(7, 8)), true, 4)
            .unwrap();
        log.purge(8).unwrap();
        let floors = Floors {
            applied: 8,
            ..Floors::default()
        };
        let found = read(&disk, floors).unwrap();
        assert_eq!((found.last_index, found.last_term), (8, 7));
        assert_eq!(found.snapshot, Some(installed));
        assert_eq!(found.term_of(7), Some(7));
        // And it goes on, and is read again.
        let mut log = Driver::resume_on(disk.clone(), &found, options, 9, 5).unwrap();
        log.append(&[entry(9, 7, 10)], Some(hard(7, 9)), true, 6)
            .unwrap();
        assert_eq!(read(&disk, floors).unwrap().last_index, 9);
    }
}
