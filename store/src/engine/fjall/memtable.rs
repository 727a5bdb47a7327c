//! What was committed and is not in tables yet: a stack of runs per space, and the queue of those that are on
//! their way into tables.
//!
//! Every commit adds a run. Runs of a like size are merged, so that a view of tens of thousands of commits has a
//! few dozen runs, and a record is copied four or five times in all. A merge is bounded ([`MERGED_BYTES_MAX`]): it
//! happens inside a commit, and the next one waits.
//!
//! There is no journal: whoever commits has the log that the commits came from, and applies its end
//! again after a crash. Flushes make that end short.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::super::run::{Record, Run, Sought, records_of};
use super::super::{Batch, EngineError, Op, Space};
use super::Flushes;

/// Runs of one tier that become one of the next.
const FAN_IN: usize = 4;
/// Longest run a merge makes, in bytes: some 2 ms.
const MERGED_BYTES_MAX: usize = 4 << 20;
/// Full memtables that wait for their flush, the one under way included; then commits wait as well.
const SEALED_MAX: usize = 2;
/// Shorter runs are freed by whoever lets go of them last.
const RETIRED_BYTES_MIN: usize = 64 << 10;
/// Flush times kept for [`Memory::take_flush_times`].
const FLUSH_TIMES_MAX: usize = 64;

/// The runs of one space, oldest first.
#[derive(Default)]
struct Stack {
    runs: Vec<Arc<Run>>,
    /// How often the records of each run were merged at the most.
    tiers: Vec<u8>,
}

impl Stack {
    /// Adds what is newest. Runs that are merged into another go to `retired`.
    fn push(&mut self, run: Run, retired: &mut Vec<Arc<Run>>) {
        self.runs.push(Arc::new(run));
        self.tiers.push(0);
        while let Some(from) = self.mergeable() {
            let merged = Arc::new(Run::merged(&self.runs[from..]));
            let tier = self.tiers[from] + 1;
            let long = |run: &Arc<Run>| run.cost() >= RETIRED_BYTES_MIN;
            retired.extend(self.runs.drain(from..).filter(long));
            self.tiers.truncate(from);
            self.runs.push(merged);
            self.tiers.push(tier);
        }
    }

    /// Where the newest runs begin that should be one.
    fn mergeable(&self) -> Option<usize> {
        let from = self.runs.len().checked_sub(FAN_IN)?;
        let same = self.tiers[from..]
            .iter()
            .all(|tier| *tier == self.tiers[from]);
        let bytes: usize = self.runs[from..].iter().map(|run| run.cost()).sum();
        (same && bytes <= MERGED_BYTES_MAX).then_some(from)
    }

    fn cost(&self) -> usize {
        self.runs.iter().map(|run| run.cost()).sum()
    }
}

/// Both spaces over some time.
#[derive(Default)]
pub(super) struct Memtable {
    stacks: [Stack; 2],
    /// History below this may be dropped once this memtable is in tables.
    drop_hist: Option<Vec<u8>>,
}

impl Memtable {
    pub fn runs(&self, space: Space) -> &[Arc<Run>] {
        &self.stacks[space as usize].runs
    }

    /// See [`records_of`].
    pub fn records(&self, space: Space) -> impl Iterator<Item = Record<'_>> {
        records_of(self.runs(space))
    }

    pub fn drop_hist(&self) -> Option<&[u8]> {
        self.drop_hist.as_deref()
    }

    fn is_empty(&self) -> bool {
        self.drop_hist.is_none() && self.stacks.iter().all(|stack| stack.runs.is_empty())
    }

    fn cost(&self) -> usize {
        self.stacks.iter().map(Stack::cost).sum()
    }
}

/// The runs a view reads over the tables, newest first.
pub(super) struct Recent {
    /// Of the active memtable, by space, oldest first.
    active: [Vec<Arc<Run>>; 2],
    /// Oldest first.
    sealed: Vec<Arc<Memtable>>,
}

impl Recent {
    pub fn newest_first(&self, space: Space) -> impl Iterator<Item = &Run> {
        let sealed = self.sealed.iter().rev();
        std::iter::once(&self.active[space as usize][..])
            .chain(sealed.map(move |sealed| sealed.runs(space)))
            .flat_map(|runs| runs.iter().rev())
            .map(|run| &**run)
    }
}

/// Shared by the owner, who commits, the flusher, and persisters, who wait for it.
pub(super) struct Memory {
    state: Mutex<State>,
    /// Something was sealed, flushed, has failed, or is to stop.
    changed: Condvar,
    /// Bytes after which the active memtable is sealed; the largest number where nobody flushes: then memory grows.
    memtable_bytes: usize,
}

#[derive(Default)]
struct State {
    active: Memtable,
    /// Oldest first.
    sealed: VecDeque<Arc<Memtable>>,
    /// Memtables sealed and flushed so far.
    sealed_count: u64,
    flushed_count: u64,
    /// Set by the first flush that failed; the error until somebody was told.
    failed: Option<Option<EngineError>>,
    stopping: bool,
    /// Long runs nobody but their last readers needs.
    retired: Vec<Arc<Run>>,
    flush_times: Vec<Duration>,
}

/// What the flusher is to do.
pub(super) enum Next {
    /// This one, the oldest that waits.
    Flush(Arc<Memtable>),
    Nothing,
    End,
}

/// Why a wait ended early.
pub(super) enum Interrupted {
    /// The engine is closed or given up.
    Stopped,
    /// A flush failed, now or before; the error for the first who asks.
    Failed(Option<EngineError>),
}

impl Memory {
    pub fn new(memtable_bytes: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            memtable_bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Valid after every step taken under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a batch; waits while too much waits to be flushed.
    pub fn commit(&self, batch: &Batch) -> Result<(), Interrupted> {
        let runs = Space::ALL.map(|space| Run::of(records_in(batch, space)));
        let mut state = self.lock();
        while state.failed.is_none() && state.sealed.len() >= SEALED_MAX {
            state = self.wait(state);
        }
        state.check()?;
        let state = &mut *state;
        for (stack, run) in state.active.stacks.iter_mut().zip(runs) {
            if !run.is_empty() {
                stack.push(run, &mut state.retired);
            }
        }
        if state.active.cost() >= self.memtable_bytes {
            state.seal();
            self.changed.notify_all();
        }
        state.reap();
        Ok(())
    }

    /// Notes that history below `key` may go as soon as everything committed so far is in tables.
    pub fn drop_hist_before(&self, key: &[u8]) {
        let mut state = self.lock();
        if state
            .active
            .drop_hist
            .as_deref()
            .is_none_or(|noted| noted < key)
        {
            state.active.drop_hist = Some(key.to_vec());
        }
    }

    /// What a view reads before the tables as `look` sees them: no flush ends in between.
    pub fn recent<T>(&self, look: impl FnOnce() -> T) -> (Recent, T) {
        let state = self.lock();
        let recent = Recent {
            active: Space::ALL.map(|space| state.active.runs(space).to_vec()),
            sealed: state.sealed.iter().cloned().collect(),
        };
        (recent, look())
    }

    /// The newest value, `Some(None)` if it is removed, `None` if only the tables can tell.
    pub fn get(&self, space: Space, key: &[u8]) -> Option<Option<Bytes>> {
        let sought = Sought::new(key);
        let state = self.lock();
        let sealed = state.sealed.iter().rev().map(|sealed| &**sealed);
        std::iter::once(&state.active)
            .chain(sealed)
            .flat_map(|memtable| memtable.runs(space).iter().rev())
            .find_map(|run| run.get(sought))
            .map(|value| value.map(Bytes::copy_from_slice))
    }

    /// Bytes that are not in tables yet.
    pub fn bytes(&self) -> usize {
        let state = self.lock();
        let sealed = state.sealed.iter().map(|sealed| sealed.cost());
        state.active.cost() + sealed.sum::<usize>()
    }

    pub fn sealed(&self) -> usize {
        self.lock().sealed.len()
    }

    pub fn flushes(&self) -> Flushes {
        let state = self.lock();
        Flushes {
            current: state.sealed_count + 1,
            done: state.flushed_count,
        }
    }

    /// Seals what there is and tells how many flushes have to be done for all of it to be in tables.
    pub fn seal(&self) -> u64 {
        let mut state = self.lock();
        if !state.active.is_empty() {
            state.seal();
            self.changed.notify_all();
        }
        state.sealed_count
    }

    /// Waits until so many flushes are done.
    pub fn wait_flushed(&self, count: u64) -> Result<(), Interrupted> {
        let mut state = self.lock();
        while state.flushed_count < count {
            if state.stopping {
                return Err(Interrupted::Stopped);
            }
            state.check()?;
            state = self.wait(state);
        }
        Ok(())
    }

    /// For the flusher: what is to be done next. Waits for it, for `patience` at the longest.
    pub fn next_to_flush(&self, patience: Duration) -> Next {
        let mut state = self.lock();
        loop {
            if state.stopping || state.failed.is_some() {
                return Next::End;
            }
            if let Some(oldest) = state.sealed.front() {
                return Next::Flush(Arc::clone(oldest));
            }
            let waited = self.changed.wait_timeout(state, patience);
            let (held, time) = waited.unwrap_or_else(PoisonError::into_inner);
            if time.timed_out() {
                return Next::Nothing;
            }
            state = held;
        }
    }

    /// Shows the active memtable to `flush`, which the flusher does not see.
    #[cfg(test)]
    pub fn flush_by_hand(&self, flush: impl FnOnce(&Memtable)) {
        flush(&self.lock().active);
    }

    /// For who flushes without waiting; `None` also after a flush that failed.
    pub fn oldest_sealed(&self) -> Option<Arc<Memtable>> {
        let state = self.lock();
        let oldest = state.sealed.front().cloned();
        oldest.filter(|_| state.failed.is_none())
    }

    /// The oldest memtable is in tables.
    pub fn flushed(&self, took: Duration) {
        let mut state = self.lock();
        if let Some(done) = state.sealed.pop_front() {
            for stack in &done.stacks {
                state.retired.extend(stack.runs.iter().cloned());
            }
        }
        state.flushed_count += 1;
        if state.flush_times.len() < FLUSH_TIMES_MAX {
            state.flush_times.push(took);
        }
        state.reap();
        self.changed.notify_all();
    }

    /// A flush failed; commits are refused from now on.
    pub fn failed(&self, error: EngineError) {
        self.lock().failed.get_or_insert(Some(error));
        self.changed.notify_all();
    }

    /// The flusher is to end after what it is at.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
    }

    pub fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// How long each flush since the last call took; the first [`FLUSH_TIMES_MAX`] of them.
    pub fn take_flush_times(&self) -> Vec<Duration> {
        std::mem::take(&mut self.lock().flush_times)
    }

    /// Frees runs that have no reader any more.
    pub fn reap(&self) {
        self.lock().reap();
    }
}

impl State {
    fn seal(&mut self) {
        self.sealed
            .push_back(Arc::new(std::mem::take(&mut self.active)));
        self.sealed_count += 1;
    }

    fn check(&mut self) -> Result<(), Interrupted> {
        match &mut self.failed {
            None => Ok(()),
            Some(error) => Err(Interrupted::Failed(error.take())),
        }
    }

    fn reap(&mut self) {
        self.retired.retain(|run| Arc::strong_count(run) > 1);
    }
}

/// What a batch does to a space, in its order.
fn records_in(batch: &Batch, space: Space) -> Vec<Record<'_>> {
    let ops = batch.ops().iter().filter(|op| op.space() == space);
    ops.map(|op| match op {
        Op::Put { key, value, .. } => (&key[..], Some(&value[..])),
        Op::Delete { key, .. } => (&key[..], None),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn put(key: u32, bytes: usize) -> Batch {
        let mut batch = Batch::new();
        batch.put(Space::State, key.to_be_bytes().to_vec(), vec![0; bytes]);
        batch.put(Space::Hist, key.to_be_bytes().to_vec(), vec![0; bytes]);
        batch
    }

    #[test]
    fn thousands_of_commits_are_a_few_dozen_runs_of_bounded_length() {
        let memory = Memory::new(usize::MAX);
        for key in 0..20_000u32 {
            assert!(memory.commit(&put(key.reverse_bits(), 300)).is_ok());
        }
        let (recent, ()) = memory.recent(|| ());
        for space in Space::ALL {
            let runs: Vec<_> = recent.newest_first(space).collect();
            assert!(runs.len() < 40, "{} runs", runs.len());
            for run in runs {
                assert!(run.cost() <= MERGED_BYTES_MAX);
            }
        }
        assert!(memory.bytes() > 20_000 * 2 * 304);
    }

    #[test]
    fn commits_wait_for_flushes_and_learn_when_none_comes() {
        let memory = Memory::new(1);
        for key in 0..SEALED_MAX as u32 {
            assert!(memory.commit(&put(key, 10)).is_ok());
        }
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| memory.commit(&put(7, 10)).is_ok());
            while memory.sealed() == SEALED_MAX {
                assert!(matches!(memory.next_to_flush(LONG), Next::Flush(_)));
                memory.flushed(Duration::ZERO);
            }
            assert!(waiting.join().unwrap());
        });
        memory.failed(EngineError::Poisoned {
            path: "somewhere".into(),
        });
        let told = |refused| matches!(refused, Err(Interrupted::Failed(Some(_))));
        assert!(told(memory.commit(&put(8, 10))), "the first is told why");
        assert!(!told(memory.commit(&put(8, 10))));
        assert!(matches!(memory.next_to_flush(LONG), Next::End));
    }

    #[test]
    fn long_runs_outlive_their_readers_only_until_somebody_reaps() {
        let memory = Memory::new(usize::MAX);
        assert!(memory.commit(&put(1, 100_000)).is_ok());
        let (recent, ()) = memory.recent(|| ());
        for key in 2..5 {
            assert!(memory.commit(&put(key, 100_000)).is_ok());
        }
        let retired = || memory.lock().retired.len();
        assert_eq!(retired(), 2, "of both spaces the run that the view reads");
        drop(recent);
        memory.reap();
        assert_eq!(retired(), 0);
    }
}
