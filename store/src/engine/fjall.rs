//! The engine on disk, over fjall.
//!
//! What is done here beyond calling it, and why:
//! * The directory carries our own marker file, written last at creation. fjall takes a directory
//!   without its version file for a new database, and deletes a keyspace whose manifest is missing;
//!   with our marker present such a loss is refused instead.
//! * Journals go through the doctor (`doctor.rs`) before fjall sees them.
//! * Journal compression is off: recovery verifies a batch by compressing it again, so another
//!   version of the compressor would make unflushed journals unreadable.
//! * Commits stay in memory of our own (`memtable.rs`) and go to fjall as finished tables (`flush.rs`). fjall's
//!   skip lists and journal cost a put more than all else did, and the log above us is journal enough.
//! * No view is ever at sequence number 0 (see `flush::settle`).
//! * Views are made by the owner only, after a commit.
//!
//! After any failed write or flush all further writes are refused ("poisoned"), typed.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the engine on disk is one of the two places of this crate that meet files"
)]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ::fjall::compaction::Leveled;
use ::fjall::config::CompressionPolicy;
use ::fjall::{AbstractTree, CompressionType, Database, Keyspace, KeyspaceCreateOptions};
use bytes::Bytes;

mod calm;
mod directory;
mod flush;
mod memtable;
mod shadow;
mod sweep;
mod view;

pub use directory::MARKER_FILE;
pub(crate) use directory::{Filling, Put, build};
use directory::{broken, check_files, lock, read_marker};
use flush::{Flush, Flusher};
use memtable::{Interrupted, Memory};
pub use shadow::shadow;
use sweep::Tables;
pub use view::FjallView;

use super::doctor::{self, Cut};
use super::{Batch, Engine, EngineError, Persister, Space, check_key};

/// fjall's limit for its journals, and the smallest it takes; ours stay nearly empty.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// Flushes after which their tables are merged with the first level. Each such merge writes most of that level, so waiting for more
/// writes less; and until then each is one more place to look for a key.
const RUNS_MERGED: u8 = 8;
/// Free space a rewrite must leave on the device.
const RESERVE_BYTES: u64 = 256 << 20;

/// The engine's own record in [`Space::State`]: the last key of [`Space::Hist`] that is in tables. See `flush.rs`.
const FLUSHED_KEY: &[u8] = &[0];
/// The next possible key.
const BEHIND_FLUSHED_KEY: &[u8] = &[0, 0];

fn is_reserved(space: Space, key: &[u8]) -> bool {
    space == Space::State && key == FLUSHED_KEY
}

/// How to run the engine. Compression is fixed when the directory is created.
#[derive(Clone, Debug)]
pub struct Options {
    /// Block cache for both spaces, in bytes.
    pub cache_bytes: u64,
    /// Memory both spaces together collect before they are flushed. Up to three times as much is held: one piece
    /// active, two waiting for a slow disk (then writers wait). It is also what a crash leaves for the log to bring again.
    pub memtable_bytes: usize,
    /// Background threads for compactions; one more flushes. They inherit the CPU mask of the thread that opens. One is
    /// enough, and of two the first compacts nothing, but takes and returns the request in a loop for as long as the other
    /// compacts. None (0) is for reading: then only a checkpoint or a close flushes, on its own thread, and
    /// commits stay in memory till then.
    pub workers: usize,
    /// Open table files kept, and so file descriptors used.
    pub open_files: usize,
    /// Where the doctor keeps what it cuts; `None` = `quarantine` beside the engine's directory.
    pub quarantine: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 256 << 20,
            memtable_bytes: 32 << 20,
            workers: 1,
            open_files: 900,
            quarantine: None,
        }
    }
}

/// The write side; see [`Engine`].
pub struct FjallEngine {
    inner: Arc<Inner>,
    /// `None` without workers.
    flusher: Option<Flusher>,
    cut: Option<Cut>,
    /// Every view holds a share.
    views: Arc<()>,
}

/// What is left of an engine that was given up: views that still read its files.
#[derive(Debug)]
pub struct RetiredEngine {
    directory: PathBuf,
    views: Weak<()>,
}

impl RetiredEngine {
    /// While this holds the directory has to stay where it is.
    pub fn is_read(&self) -> bool {
        self.views.strong_count() > 0
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

struct Inner {
    database: Database,
    spaces: Spaces,
    memory: Memory,
    /// For flushes on the caller's thread, where there are no workers: nobody flushes or compacts then.
    by_hand: Option<Mutex<Flush>>,
    /// Rewrites of all of a space so far, and looks that found tables replaced.
    rewrites: AtomicU64,
    directory: PathBuf,
}

#[derive(Clone)]
struct Spaces {
    state: Keyspace,
    hist: Keyspace,
}

impl Spaces {
    fn of(&self, space: Space) -> &Keyspace {
        match space {
            Space::State => &self.state,
            Space::Hist => &self.hist,
        }
    }
}

impl FjallEngine {
    /// Creates an empty engine at `directory`, which must not exist, and opens it. The directory
    /// appears whole: it is built beside and renamed. A leftover of an earlier attempt is replaced.
    pub fn create(directory: &Path, options: &Options) -> Result<Self, EngineError> {
        build(directory, options, |_| Ok::<_, EngineError>(()))?;
        Self::open(directory, options)
    }

    /// Opens an existing engine: checks our marker and that nothing fjall needs is missing, lets
    /// the doctor cut a torn journal tail, and removes what an interrupted flush left.
    ///
    /// # Errors
    /// `State` if there is no engine, `Locked`, `Version`, `Corrupt` with the file if something
    /// is missing or damaged. Nothing is ever created or deleted to make an open succeed.
    pub fn open(directory: &Path, options: &Options) -> Result<Self, EngineError> {
        let marker = read_marker(directory)?;
        check_files(directory, &marker)?;
        let quarantine = options.quarantine.clone().unwrap_or_else(|| {
            directory
                .parent()
                .unwrap_or(Path::new("."))
                .join("quarantine")
        });
        // Whoever has the directory open is still writing its journals: do not even look.
        let locked = lock(directory)?;
        let cut = doctor::examine(directory)?.cut_torn_tail(&quarantine)?;
        if let Some(cut) = &cut {
            log::warn!(
                "{}: cut {} bytes at offset {} ({}), kept in {}",
                cut.journal.display(),
                cut.bytes,
                cut.offset,
                cut.reason,
                cut.kept_in.display()
            );
        }
        drop(locked);
        let database = open_database(directory, options)?;
        for space in Space::ALL {
            if !database.keyspace_exists(space.name()) {
                return Err(EngineError::Corrupt {
                    path: directory.to_owned(),
                    detail: format!("keyspace {space} is not listed any more"),
                });
            }
        }
        let spaces = open_spaces(&database, directory)?;
        let mut flush = Some(flush::settle(&database, &spaces, directory)?);
        let by_hand = options.workers == 0;
        let memtable_bytes = if by_hand {
            usize::MAX
        } else {
            options.memtable_bytes
        };
        let inner = Arc::new(Inner {
            database,
            spaces,
            memory: Memory::new(memtable_bytes),
            by_hand: flush.take_if(|_| by_hand).map(Mutex::new),
            rewrites: AtomicU64::new(0),
            directory: directory.to_owned(),
        });
        let flusher = flush
            .map(|flush| Flusher::spawn(Arc::clone(&inner), flush))
            .transpose()?;
        Ok(Self {
            inner,
            flusher,
            cut,
            views: Arc::default(),
        })
    }

    /// The journal tail cut at this open, if any.
    pub fn cut(&self) -> Option<&Cut> {
        self.cut.as_ref()
    }

    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// Commits as releases did that kept a journal; what such a batch leaves in one is what the doctor is for.
    #[cfg(test)]
    pub(crate) fn commit_journaled(&mut self, batch: &Batch) {
        use super::Op;
        use ::fjall::PersistMode;
        let mut out = self
            .inner
            .database
            .batch()
            .durability(Some(PersistMode::Buffer));
        for op in batch.ops() {
            let space = self.inner.spaces.of(op.space());
            match op {
                Op::Put { key, value, .. } => out.insert(space, &key[..], &value[..]),
                Op::Delete { key, .. } => out.remove(space, &key[..]),
            }
            if op.space() == Space::Hist {
                out.insert(&self.inner.spaces.state, FLUSHED_KEY, &op.key()[..]);
            }
        }
        out.commit().unwrap();
    }

    /// What a flush leaves that is interrupted halfway.
    #[cfg(test)]
    pub(crate) fn flush_history_only(&self) {
        let inner = &self.inner;
        inner.memory.flush_by_hand(|memtable| {
            Flush::new(Vec::new(), &inner.spaces)
                .history(inner, memtable)
                .unwrap();
        });
    }

    /// What the flusher does when it has had nothing to do for a while, in an engine without workers.
    #[cfg(test)]
    pub(crate) fn release_by_hand(&self) -> bool {
        let flush = self.inner.by_hand.as_ref().unwrap();
        flush.lock().unwrap().release(&self.inner).unwrap()
    }

    fn view_with(&mut self, swept: impl FnOnce(&Spaces) -> Option<Tables>) -> FjallView {
        let Inner {
            database,
            memory,
            spaces,
            directory,
            ..
        } = &*self.inner;
        let look = || (database.snapshot(), swept(spaces));
        let (recent, (snapshot, swept)) = memory.recent(look);
        let share = Arc::clone(&self.views);
        FjallView::new(
            recent,
            snapshot,
            swept,
            spaces.clone(),
            directory.clone(),
            share,
        )
    }

    /// Gives the engine up, because another one takes its place: nothing more is written, flushed or
    /// compacted. Views go on reading. Waits for a flush or compaction under way.
    pub fn retire(self) -> RetiredEngine {
        RetiredEngine {
            directory: self.inner.directory.clone(),
            views: Arc::downgrade(&self.views),
        }
    }
}

impl Drop for FjallEngine {
    /// What is not flushed is not any more: a close comes before if that matters.
    fn drop(&mut self) {
        self.inner.memory.stop();
        if let Some(flusher) = self.flusher.take() {
            flusher.join();
        }
    }
}

impl Engine for FjallEngine {
    type View = FjallView;
    type Persister = FjallPersister;

    fn commit(&mut self, batch: Batch) -> Result<(), EngineError> {
        // fjall panics on such keys, and is unusable from then on.
        batch.check()?;
        if let Some(op) = batch
            .ops()
            .iter()
            .find(|op| is_reserved(op.space(), op.key()))
        {
            return Err(EngineError::KeyReserved { space: op.space() });
        }
        let added = self.inner.memory.commit(&batch);
        added.map_err(|why| self.inner.refused(why))
    }

    fn view(&mut self) -> FjallView {
        self.view_with(|_| None)
    }

    fn view_to_sweep(&mut self) -> FjallView {
        self.view_with(|spaces| Tables::of(&spaces.state))
    }

    fn latest_get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if check_key(space, key).is_err() || is_reserved(space, key) {
            return Ok(None);
        }
        if let Some(recent) = self.inner.memory.get(space, key) {
            return Ok(recent);
        }
        // What left memory since is in the tables by now.
        let found = self.inner.spaces.of(space).get(key);
        Ok(found
            .map_err(|e| broken("read", &self.inner.directory, e))?
            .map(view::shared))
    }

    fn drop_hist_before(&mut self, key: &[u8]) -> Result<(), EngineError> {
        self.inner.memory.drop_hist_before(key);
        Ok(())
    }

    fn persister(&self) -> FjallPersister {
        FjallPersister {
            inner: Arc::downgrade(&self.inner),
            directory: self.inner.directory.clone(),
        }
    }

    fn disk_bytes(&self) -> u64 {
        let spaces = &self.inner.spaces;
        let tables = spaces.state.disk_space() + spaces.hist.disk_space();
        // Journals are made sparse, 64 MiB long; count what they occupy.
        let journals = std::fs::read_dir(&self.inner.directory)
            .into_iter()
            .flatten()
            .flatten();
        let occupied = |entry: std::fs::DirEntry| entry.metadata().map_or(0, |m| m.blocks() * 512);
        tables + journals.map(occupied).sum::<u64>() + self.inner.memory.bytes() as u64
    }

    fn replacements(&self) -> u64 {
        let rewrites = self.inner.rewrites.load(Ordering::Relaxed);
        self.inner.database.compactions_completed() as u64 + rewrites
    }

    fn close(self) -> Result<(), EngineError> {
        self.inner.flush_all()
    }
}

impl Inner {
    /// Brings everything committed so far into tables.
    fn flush_all(&self) -> Result<(), EngineError> {
        let count = self.memory.seal();
        if let Some(flush) = &self.by_hand {
            let mut flush = flush.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some(memtable) = self.memory.oldest_sealed() {
                if let Err(error) = flush.run(self, &memtable) {
                    self.memory.failed(error);
                }
            }
        }
        self.memory
            .wait_flushed(count)
            .map_err(|why| self.refused(why))
    }

    fn refused(&self, why: Interrupted) -> EngineError {
        let path = self.directory.clone();
        match why {
            Interrupted::Failed(Some(error)) => error,
            Interrupted::Failed(None) => EngineError::Poisoned { path },
            Interrupted::Stopped => closed(path),
        }
    }
}

fn closed(path: PathBuf) -> EngineError {
    EngineError::State {
        path,
        detail: "the store is closed".to_owned(),
    }
}

/// Maintenance handle; see [`Persister`]. Useless (typed error) once the engine is closed.
#[derive(Clone)]
pub struct FjallPersister {
    inner: Weak<Inner>,
    directory: PathBuf,
}

/// Memory is flushed in pieces, which are counted. All that was committed before this was asked is durable once
/// `done` has come to what `current` was then: no [`Persister::persist`] is needed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushes {
    /// Number of the piece that takes commits now.
    pub current: u64,
    /// Number of the last that was flushed, 0 if none was.
    pub done: u64,
}

/// How far background work is behind; for metrics and a watchdog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Sorted runs of tables not yet merged, per space. From 20 on flushes wait until a compaction ends; if none runs
    /// for seconds, call [`Persister::compact_state`].
    pub state_runs: usize,
    pub hist_runs: usize,
    /// Memtables waiting to be flushed; at 2 commits wait.
    pub sealed_memtables: usize,
    /// Bytes committed and not in tables yet.
    pub memory_bytes: usize,
    pub journals: usize,
    pub compactions_running: usize,
}

impl FjallPersister {
    pub fn pressure(&self) -> Result<Pressure, EngineError> {
        let inner = self.inner()?;
        let Spaces { state, hist } = &inner.spaces;
        Ok(Pressure {
            state_runs: state.tree.l0_run_count(),
            hist_runs: hist.tree.l0_run_count(),
            sealed_memtables: inner.memory.sealed(),
            memory_bytes: inner.memory.bytes(),
            journals: inner.database.journal_count(),
            compactions_running: inner.database.active_compactions(),
        })
    }

    /// How far memory is flushed; see [`Flushes`].
    ///
    /// # Errors
    /// The engine is closed.
    pub fn flushes(&self) -> Result<Flushes, EngineError> {
        Ok(self.inner()?.memory.flushes())
    }

    /// The engine was closed or retired; every call fails from now on.
    pub fn is_closed(&self) -> bool {
        self.inner().is_err()
    }

    fn inner(&self) -> Result<Arc<Inner>, EngineError> {
        let inner = self
            .inner
            .upgrade()
            .filter(|inner| !inner.memory.is_stopping());
        inner.ok_or_else(|| closed(self.directory.clone()))
    }

    /// Frees memory that was flushed and is seen by no reader any more. To be called a few times per second: commits do it
    /// too, and then none may come.
    pub fn reap(&self) {
        if let Ok(inner) = self.inner() {
            inner.memory.reap();
        }
    }

    /// How long each flush since the last call took; the first 64 of them. Empty once the engine is closed.
    pub fn take_flush_times(&self) -> Vec<Duration> {
        self.inner()
            .map(|inner| inner.memory.take_flush_times())
            .unwrap_or_default()
    }
}

impl Persister for FjallPersister {
    fn persist(&self) -> Result<(), EngineError> {
        self.inner()?.flush_all()
    }

    fn compact_state(&self) -> Result<(), EngineError> {
        let inner = self.inner()?;
        inner.flush_all()?;
        // Running out of space in the middle would be survived, but the same space is what the
        // flushes of the owner need, and a failed flush stops all writes.
        let wanted = inner.spaces.state.disk_space() + RESERVE_BYTES;
        let free = free_bytes(&self.directory)?;
        if free < wanted {
            let source = std::io::Error::new(
                std::io::ErrorKind::StorageFull,
                format!("a rewrite needs {wanted} bytes free, there are {free}"),
            );
            return Err(EngineError::NoSpace {
                path: self.directory.clone(),
                source,
            });
        }
        inner
            .spaces
            .state
            .major_compact()
            .map_err(|e| broken("compact", &self.directory, e))?;
        inner.rewrites.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn open_database(directory: &Path, options: &Options) -> Result<Database, EngineError> {
    Database::builder(directory)
        .cache_size(options.cache_bytes)
        .worker_threads_unchecked(options.workers)
        .max_journaling_size(JOURNAL_BYTES_MAX)
        .max_cached_files(Some(options.open_files.max(16)))
        .journal_compression(CompressionType::None)
        .with_compaction_filter_factories(Arc::new(calm::merges))
        .open()
        .map_err(|e| broken("open", directory, e))
}

fn open_spaces(database: &Database, directory: &Path) -> Result<Spaces, EngineError> {
    let failed = |e| broken("open", directory, e);
    // By itself fjall compresses from the second level on, which a store reaches at some hundred MiB. History only ever
    // grows at its end, so its tables reach the last level without being rewritten and stay as they were flushed.
    let options = || {
        KeyspaceCreateOptions::default()
            .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
            .compaction_strategy(Arc::new(Leveled::default().with_l0_threshold(RUNS_MERGED)))
    };
    let open = |space: Space| database.keyspace(space.name(), options).map_err(failed);
    Ok(Spaces {
        state: open(Space::State)?,
        hist: open(Space::Hist)?,
    })
}

fn free_bytes(directory: &Path) -> Result<u64, EngineError> {
    let stat = rustix::fs::statvfs(directory)
        .map_err(|e| EngineError::io("look at the file system of", directory, e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
