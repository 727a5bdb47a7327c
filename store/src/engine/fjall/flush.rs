//! From memory into tables.
//!
//! A memtable goes into tables of its two spaces one after the other: history first, then the state, which has the
//! applied index. A crash in between leaves history of batches that, by the state, never were. So the state's
//! tables also say how far history belongs to them ([`FLUSHED_KEY`]), and an open removes what is beyond; the owner's
//! log brings it again.
//!
//! fjall's own memtables and journal carry only what an open writes (that record in a store that has none, and removals),
//! and the same record again when tables were replaced and the flusher has had nothing to do since: see [`Flush::release`].

use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::fjall::{AbstractTree, PersistMode};

use super::super::run::Record;
use super::super::{EngineError, Space};
use super::memtable::{Memtable, Next};
use super::{FLUSHED_KEY, Inner, Spaces, broken};

/// Sorted runs of tables in a space at which flushes wait for a compaction: more make reads slow.
const TABLE_RUNS_MAX: usize = 20;
/// Time between looks for replaced tables while nothing is flushed, and from seeing one to releasing it: by then whoever
/// keeps a view of what there was has seen [`crate::engine::Engine::replacements`].
const RELEASE_PAUSE: Duration = Duration::from_secs(2);
const COMPACTION_POLL: Duration = Duration::from_millis(5);
/// Records removed at once by an open.
const REMOVALS_MAX: usize = 10_000;

/// The thread that flushes.
pub(super) struct Flusher(JoinHandle<()>);

impl Flusher {
    /// Starts it; it ends when the engine's memory says so, or with a flush that failed.
    pub fn spawn(inner: Arc<Inner>, mut flush: Flush) -> Result<Self, EngineError> {
        let directory = inner.directory.clone();
        let run = move || {
            let memory = &inner.memory;
            loop {
                let done = match memory.next_to_flush(RELEASE_PAUSE) {
                    Next::Flush(memtable) => flush.run(&inner, &memtable),
                    Next::Nothing => flush.release(&inner).map(|_| true),
                    Next::End => return,
                };
                match done {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => {
                        log::error!("flushing memory into tables: {error}");
                        memory.failed(error);
                        return;
                    }
                }
            }
        };
        std::thread::Builder::new()
            .name("kv-flush".into())
            .spawn(run)
            .map(Self)
            .map_err(|e| EngineError::io("start a thread for", directory, e))
    }

    /// Waits for its end. It has to be told to stop before.
    pub fn join(self) {
        // It ends by itself and has told of its errors; a panic in it was printed, and ends as a flush that never comes.
        let _ = self.0.join();
    }
}

/// What flushes know from one to the next.
pub(super) struct Flush {
    /// The last key of history in tables; empty if there was never any.
    pub flushed_to: Vec<u8>,
    /// Tables seen in use since replaced ones were released last, and not known to be released.
    known: BTreeSet<(Space, u64)>,
    /// Some of them were replaced, by the look before the next one.
    replaced: bool,
}

impl Flush {
    pub fn new(flushed_to: Vec<u8>, spaces: &Spaces) -> Self {
        Self {
            flushed_to,
            known: tables(spaces).collect(),
            replaced: false,
        }
    }

    /// Brings the oldest sealed memtable into tables. False if the engine is to stop meanwhile.
    pub fn run(&mut self, inner: &Inner, memtable: &Memtable) -> Result<bool, EngineError> {
        let started = Instant::now();
        if !wait_for_compaction(inner)? {
            return Ok(false);
        }
        self.history(inner, memtable)?;
        self.state(inner, memtable)?;
        if let Some(below) = memtable.drop_hist() {
            let bounds = (Bound::Unbounded, Bound::Excluded(below));
            let hist = &inner.spaces.hist.tree;
            hist.drop_range::<&[u8], _>(bounds)
                .map_err(|e| broken("drop tables in", &inner.directory, e.into()))?;
        }
        self.known.extend(tables(&inner.spaces));
        inner.memory.flushed(started.elapsed());
        Ok(true)
    }

    /// Lets fjall delete the tables that the last compactions have replaced. It looks for what nobody reads any more when
    /// a compaction ends, with an eye on the views there were when that one began, and when one of its memtables is flushed:
    /// so what the last compactions replace, which may be as much as all there is, would stay until the next ones. Once
    /// things have quieted down, and if a table that was seen in use is not any more by the look before, one of its memtables
    /// is flushed here, with the record that says how far history goes; only this thread writes that one. True if that
    /// was done.
    pub fn release(&mut self, inner: &Inner) -> Result<bool, EngineError> {
        if inner.database.active_compactions() > 0 {
            return Ok(false);
        }
        let used = tables(&inner.spaces).collect::<BTreeSet<_>>();
        let replaced = !self.known.is_subset(&used);
        self.known = used;
        let due = std::mem::replace(&mut self.replaced, replaced) && !replaced;
        let failed = |e| broken("write", &inner.directory, e);
        let state = &inner.spaces.state;
        if replaced || due {
            // Only views of a later commit than the one that replaced them let go: so there has to be one, and then views. And
            // once more, because a flush of ours in between has flushed that memtable, and an empty one is not.
            state
                .insert(FLUSHED_KEY, &self.flushed_to[..])
                .map_err(failed)?;
        }
        if replaced {
            inner.rewrites.fetch_add(1, Ordering::Relaxed);
        }
        Ok(due && state.rotate_memtable().map_err(failed)?)
    }

    pub(super) fn history(
        &mut self,
        inner: &Inner,
        memtable: &Memtable,
    ) -> Result<(), EngineError> {
        let runs = memtable.runs(Space::Hist).iter();
        let last = runs.filter_map(|run| run.last_key()).max();
        if let Some(last) = last.filter(|last| *last > &self.flushed_to[..]) {
            self.flushed_to = last.to_vec();
        }
        ingest(inner, Space::Hist, memtable.records(Space::Hist))
    }

    pub(super) fn state(&mut self, inner: &Inner, memtable: &Memtable) -> Result<(), EngineError> {
        let (mut before, mut after) = (Vec::new(), memtable.records(Space::State).peekable());
        // No key is shorter, so at most one such is before.
        while let Some(record) = after.next_if(|(key, _)| *key < FLUSHED_KEY) {
            before.push(record);
        }
        let flushed = (FLUSHED_KEY, Some(&self.flushed_to[..]));
        let records = before.into_iter().chain([flushed]).chain(after);
        ingest(inner, Space::State, records)
    }
}

/// The tables in use, by space and number.
fn tables(spaces: &Spaces) -> impl Iterator<Item = (Space, u64)> {
    Space::ALL.into_iter().flat_map(|space| {
        let version = spaces.of(space).tree.current_version();
        let numbers = version.iter_tables().map(|table| table.id());
        let numbers = numbers.collect::<Vec<_>>();
        numbers.into_iter().map(move |number| (space, number))
    })
}

/// Puts the records into new tables, newer than all there are; durable when it returns.
fn ingest<'a>(
    inner: &Inner,
    space: Space,
    records: impl Iterator<Item = Record<'a>>,
) -> Result<(), EngineError> {
    let failed = |e| broken("write", &inner.directory, e);
    let mut ingestion = inner.spaces.of(space).start_ingestion().map_err(failed)?;
    for (key, value) in records {
        match value {
            Some(value) => ingestion.write(key, value),
            None => ingestion.write_tombstone(key),
        }
        .map_err(failed)?;
    }
    ingestion.finish().map_err(failed)
}

/// False if the engine is to stop meanwhile.
fn wait_for_compaction(inner: &Inner) -> Result<bool, EngineError> {
    loop {
        // A worker that failed compacts nothing any more; this asks whether that happened.
        inner
            .database
            .persist(PersistMode::Buffer)
            .map_err(|e| broken("compact", &inner.directory, e))?;
        let crowded = |space| inner.spaces.of(space).tree.l0_run_count() >= TABLE_RUNS_MAX;
        if inner.by_hand.is_some() || !Space::ALL.into_iter().any(crowded) {
            return Ok(true);
        }
        if inner.memory.is_stopping() {
            return Ok(false);
        }
        std::thread::sleep(COMPACTION_POLL);
    }
}

/// At an open: makes history end where the state says it does.
///
/// It also sees to it that the first sequence number is used up. fjall takes 0 for "none" when it looks for the oldest
/// open view: a view held at number 0, that is one of a store nothing was ever written to, takes the protection from all
/// later views, and reading those panics or shows newer data.
pub(super) fn settle(
    database: &::fjall::Database,
    spaces: &Spaces,
    directory: &Path,
) -> Result<Flush, EngineError> {
    let failed = |e| broken("read", directory, e);
    let written = |e| broken("write", directory, e);
    if let Some(end) = spaces.state.get(FLUSHED_KEY).map_err(failed)? {
        let bounds = (Bound::Excluded(&end[..]), Bound::Unbounded);
        let mut beyond = Vec::new();
        for item in spaces.hist.range::<&[u8], _>(bounds) {
            beyond.push(item.key().map_err(failed)?);
        }
        for keys in beyond.chunks(REMOVALS_MAX) {
            let mut batch = database.batch();
            for key in keys {
                batch.remove(&spaces.hist, key.clone());
            }
            batch.commit().map_err(written)?;
        }
        if !beyond.is_empty() {
            log::info!(
                "{}: {} records of history came from a flush that was interrupted; the log has them",
                directory.display(),
                beyond.len()
            );
            database.persist(PersistMode::SyncAll).map_err(written)?;
        }
        return Ok(Flush::new(end.to_vec(), spaces));
    }
    let end = match spaces.hist.iter().next_back() {
        Some(item) => item.key().map_err(failed)?.to_vec(),
        None => Vec::new(),
    };
    let mut batch = database.batch();
    batch.insert(&spaces.state, FLUSHED_KEY, &end[..]);
    batch.commit().map_err(written)?;
    database.persist(PersistMode::SyncAll).map_err(written)?;
    Ok(Flush::new(end, spaces))
}
