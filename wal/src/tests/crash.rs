//! Power is lost in the middle of random work, again and again over the same disk: what was synced
//! is there, what was not may be gone, and the log is never called damaged.

use super::disk::{Fault, MemoryDisk};
use super::model::{Model, mark};
use super::*;
use crate::disk::Op;
use crate::record::Origin;
use crate::segment::FileName;

/// Picks operations that are left out.
type Defect = fn(&Op<'_>) -> bool;

/// One member's life over a disk that outlives it.
struct Lives {
    dice: Dice,
    disk: MemoryDisk,
    options: Options,
    /// What the log may hold after a crash, oldest first; the first one is synced.
    versions: Vec<Model>,
    /// What the store has made durable; never above what the log has synced and committed.
    applied: u64,
    term: u64,
    now_ms: u64,
    seen: Seen,
}

/// What the runs met, so that a test that meets nothing fails.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    torn: u64,
    rolled_back: u64,
    segments: u64,
    purged: u64,
}

impl Lives {
    fn new(seed: u64, options: Options) -> Self {
        let disk = MemoryDisk::default();
        let (versions, dice) = (vec![Model::default()], Dice(seed));
        Self {
            dice,
            disk,
            options,
            versions,
            applied: 0,
            term: 1,
            now_ms: 1,
            seen: Seen::default(),
        }
    }

    fn newest(&self) -> &Model {
        self.versions.last().expect("never empty")
    }

    /// A version that the disk may or may not get.
    fn attempt(&mut self, model: Model) {
        self.versions.push(model);
    }

    /// Everything up to the newest version is durable.
    fn synced(&mut self) {
        self.versions.drain(..self.versions.len() - 1);
        let commit = self.newest().hard.commit;
        // The store lags behind by some.
        self.applied += self.dice.below(commit.max(self.applied) - self.applied + 1);
    }

    /// Random jobs until one fails.
    fn work(&mut self, log: &mut Driver<MemoryDisk>, jobs: u64) -> Result<(), Error> {
        for _ in 0..jobs {
            self.now_ms += 1;
            let mut model = self.newest().clone();
            match self.dice.below(20) {
                0..=10 => {
                    if self.dice.one_in(4) {
                        self.term += 1;
                    }
                    let back = if self.dice.one_in(4) {
                        self.dice.below(4)
                    } else {
                        0
                    };
                    let floor = model.hard.commit.max(model.base.0) + 1;
                    let first = (model.last() + 1).saturating_sub(back).max(floor);
                    let count = self.dice.below(4);
                    let bytes = self.dice.below(700) as usize;
                    let entries: Vec<_> = (first..first + count)
                        .map(|i| entry(i, self.term, bytes))
                        .collect();
                    model.append(&entries);
                    let commit = floor - 1 + self.dice.below(model.last() + 2 - floor);
                    model.hard = HardState {
                        term: self.term,
                        vote: 1,
                        commit,
                    };
                    let sync = !self.dice.one_in(3);
                    let hard = model.hard;
                    self.attempt(model);
                    log.append(&entries, Some(hard), sync, self.now_ms)?;
                    if sync {
                        self.synced();
                    }
                }
                11..=13 => log.mark(self.now_ms)?,
                14 => {
                    let index = self.applied;
                    let newest = model.snapshot.map_or(0, |mark| mark.index);
                    let Some(term) = model.term_of(index).filter(|_| index >= newest) else {
                        continue;
                    };
                    let mark = mark(index, term, Origin::Local);
                    model.snapshot = Some(mark);
                    self.attempt(model);
                    log.snapshot_mark(mark, &membership(), self.now_ms)?;
                    self.synced();
                }
                15 if self.dice.one_in(3) => {
                    let index = model.last() + 1 + self.dice.below(3);
                    let mark = mark(index, self.term, Origin::Installed);
                    model.hard = HardState {
                        term: self.term,
                        vote: 1,
                        ..model.hard
                    };
                    self.attempt(model.clone());
                    log.append(&[], Some(model.hard), false, self.now_ms)?;
                    model.install(mark);
                    model.hard.commit = index;
                    self.attempt(model);
                    log.snapshot_mark(mark, &membership(), self.now_ms)?;
                    self.synced();
                }
                15..=17 => {
                    log.purge(self.applied)?;
                }
                18 => {
                    log.append(&[], None, true, self.now_ms)?;
                    self.synced();
                }
                _ if self.dice.one_in(3) => {
                    log.close(self.now_ms)?;
                    self.synced();
                    return Ok(());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn floors(&self) -> Floors {
        Floors {
            applied: self.applied,
            ..Floors::default()
        }
    }

    /// Reads the log and demands that it holds one of the possible versions.
    fn recover(&mut self) -> Recovered {
        let found = match read(&self.disk, self.floors()) {
            Ok(found) => found,
            Err(error) => panic!("refused after a crash: {error}"),
        };
        let which = self.versions.iter().rposition(|model| model.is(&found));
        let Some(which) = which else {
            panic!(
                "not a version that may be there: {found:#?}\nof {:#?}",
                self.versions
            );
        };
        self.seen.torn += u64::from(found.end.torn.is_some());
        self.seen.rolled_back += u64::from(which + 1 < self.versions.len());
        self.seen.segments += found.report.segments.len() as u64;
        self.seen.purged += u64::from(found.first_index > 1);
        let mut model = self.versions.swap_remove(which);
        model.hard.commit = found.hard_state.commit;
        self.term = self.term.max(model.hard.term);
        self.versions = vec![model];
        found
    }

    /// Starts a life, lets power fail (or a fault happen) at a random operation, returns what then
    /// became of it.
    fn live(&mut self, fault: Fault, first: bool) {
        let operations = self.dice.below(120) as usize;
        self.disk.fail_at(operations, fault);
        self.now_ms += 1;
        let opened = if first {
            create(&self.disk, self.options.clone())
        } else {
            let found = self.recover();
            let seed = self.dice.next();
            let options = self.options.clone();
            Driver::resume_on(self.disk.clone(), &found, options, seed, self.now_ms)
        };
        if let Ok(mut log) = opened {
            let _ = self.work(&mut log, 60);
        }
    }
}

fn lives(seed: u64, options: &Options, count: u64, defect: Option<Defect>) -> Seen {
    let mut world = Lives::new(seed, options.clone());
    if let Some(defect) = defect {
        world.disk.skip(defect);
    }
    world.live(Fault::Power, true);
    world.disk.lose_power(&mut world.dice);
    if matches!(
        read(&world.disk, Floors::default()),
        Err(Error::NoLog { .. })
    ) {
        // Lost while it was created: nothing was answered.
        assert_eq!(world.versions.len(), 1, "seed {seed}");
        return world.seen;
    }
    for _ in 1..count {
        world.live(Fault::Power, false);
        world.disk.lose_power(&mut world.dice);
    }
    world.recover();
    world.seen
}

fn many_lives(
    seeds: std::ops::Range<u64>,
    options: &Options,
    count: u64,
    defect: Option<Defect>,
) -> Seen {
    let mut all = Seen::default();
    for seed in seeds {
        let run = || lives(seed, options, count, defect);
        let Ok(seen) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) else {
            panic!("seed {seed}, {options:?}");
        };
        all.torn += seen.torn;
        all.rolled_back += seen.rolled_back;
        all.segments += seen.segments;
        all.purged += seen.purged;
    }
    all
}

#[test]
fn no_crash_loses_what_was_synced_or_is_taken_for_damage() {
    for options in [small(512, 24), small(4096, 12)] {
        let seen = many_lives(0..1500, &options, 2, None);
        assert!(
            seen.torn > 50 && seen.rolled_back > 100 && seen.segments > 3000,
            "{seen:?}"
        );
    }
}

#[test]
fn many_lives_in_a_row_keep_what_was_synced() {
    for options in [small(512, 16), small(1024, 14)] {
        let seen = many_lives(10_000..10_300, &options, 7, None);
        assert!(
            seen.torn > 50 && seen.rolled_back > 100 && seen.purged > 100,
            "{seen:?}"
        );
    }
}

#[test]
fn a_writer_that_left_out_a_sync_would_be_caught() {
    let defects: [(&str, Defect); 4] = [
        ("sync of a batch", |op| {
            matches!(
                op,
                Op::Sync {
                    file: FileName::Segment { .. }
                }
            )
        }),
        ("sync before the rename", |op| {
            matches!(
                op,
                Op::Sync {
                    file: FileName::Spare(_)
                }
            )
        }),
        ("sync of the directory", |op| matches!(op, Op::SyncDir)),
        ("the rename", |op| matches!(op, Op::Rename { .. })),
    ];
    let caught = defects.map(|(name, defect)| {
        let run = || many_lives(0..200, &small(512, 24), 3, Some(defect));
        (name, std::panic::catch_unwind(run).is_err())
    });
    assert!(caught.iter().all(|(_, caught)| *caught), "{caught:?}");
}

#[test]
fn a_failed_operation_ends_the_life_and_the_next_one_finds_what_was_synced() {
    for seed in 20_000..20_600 {
        for fault in [Fault::Error, Fault::Short] {
            let mut world = Lives::new(seed, small(512, 24));
            world.live(fault, true);
            world.disk.restart();
            if matches!(
                read(&world.disk, Floors::default()),
                Err(Error::NoLog { .. })
            ) {
                continue;
            }
            for life in 1..4 {
                world.live(fault, false);
                // Sometimes the machine dies with the process, sometimes only the process.
                world.disk.restart();
                if (seed + life) % 2 == 0 {
                    world.disk.lose_power(&mut world.dice);
                }
            }
            world.recover();
        }
    }
}
