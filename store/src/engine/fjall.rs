//! The engine on disk, over fjall.
//!
//! What is done here beyond calling it, and why:
//! * The directory carries our own marker file, written last at creation. fjall takes a directory
//!   without its version file for a new database, and deletes a keyspace whose manifest is missing;
//!   with our marker present such a loss is refused instead.
//! * Journals go through the doctor (`doctor.rs`) before fjall sees them.
//! * Journal compression is off: recovery verifies a batch by compressing it again, so another
//!   version of the compressor would make unflushed journals unreadable.
//! * No view is ever at sequence number 0 (see `leave_sequence_zero`).
//! * Views are made by the owner only, after a commit: a memtable flush that ends while a batch is
//!   being applied lets a view made elsewhere see half of it.
//! * `persist` syncs the journal through our own descriptor first, so that fjall's sync inside its
//!   writer lock finds nothing left to do and commits are not held up.
//! * Memtables are kept alive until flushed and dropped by the maintenance thread. Otherwise they
//!   are freed node by node under a lock that every read needs.
//!
//! After any failed write or flush fjall refuses all further writes ("poisoned"); so do we, typed.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the engine on disk is one of the two places of this crate that meet files"
)]

use std::any::Any;
use std::fs::File;
use std::ops::{Bound, ControlFlow};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ::fjall::config::CompressionPolicy;
use ::fjall::{
    AbstractTree, CompressionType, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch,
    PersistMode, Readable, Snapshot,
};
use bytes::Bytes;

mod directory;
mod shadow;

pub use directory::MARKER_FILE;
pub(crate) use directory::build;
use directory::{broken, check_files, lock, read_marker};
pub use shadow::shadow;

use super::doctor::{self, Cut};
use super::{Batch, Engine, EngineError, Op, Persister, Reader, Scan, Space, check_key};

/// fjall refuses a smaller limit.
const JOURNAL_BYTES_MIN: u64 = 64 << 20;
/// Memtables held for the maintenance thread to free; beyond that the owner frees the oldest.
const RETIRED_MAX: usize = 8;
/// How long a checkpoint waits for flushes in all, in steps of [`FLUSH_POLL`]: 2 minutes.
const FLUSH_POLLS_MAX: u32 = 24_000;
const FLUSH_POLL: Duration = Duration::from_millis(5);
/// One worker more than there are spaces. A worker that seals a memtable waits for room in the
/// workers' own queue, which commits fill while a memtable is over its limit; only one worker per
/// space seals at a time, so one is left that takes from the queue. With fewer all can wait for ever
/// (one alone does so in most runs of the test that moves a directory). And of two, the first compacts
/// nothing, but takes and returns the request in a loop for as long as the other compacts: 5-10 % of a put.
pub const WORKERS_MIN: usize = 3;
/// Free space a rewrite must leave on the device.
const RESERVE_BYTES: u64 = 256 << 20;

/// How to run the engine. Memtable sizes and compression are fixed when the directory is created;
/// the other fields apply at every open.
#[derive(Clone, Debug)]
pub struct Options {
    /// Block cache for both spaces, in bytes.
    pub cache_bytes: u64,
    /// Memory a space collects before it is flushed. Up to five such pieces can be alive: one
    /// active, four waiting for a slow disk (then writers wait). Fixed at creation.
    pub state_memtable_bytes: u64,
    pub hist_memtable_bytes: u64,
    /// Background threads for flushes and compactions, at least [`WORKERS_MIN`]. They inherit the CPU
    /// mask of the thread that opens. None (0) is for reading only: nothing is ever flushed then, and
    /// commits stop when memory is full.
    pub workers: usize,
    /// Above this the space that holds up the oldest journal is flushed. At least 64 MiB.
    pub journal_bytes_max: u64,
    /// Open table files kept, and so file descriptors used.
    pub open_files: usize,
    /// Where the doctor keeps what it cuts; `None` = `quarantine` beside the engine's directory.
    pub quarantine: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 256 << 20,
            state_memtable_bytes: 16 << 20,
            hist_memtable_bytes: 32 << 20,
            workers: WORKERS_MIN,
            journal_bytes_max: 128 << 20,
            open_files: 900,
            quarantine: None,
        }
    }
}

/// The write side; see [`Engine`].
pub struct FjallEngine {
    inner: Arc<Inner>,
    retired: Retired,
    /// The memtables writes went to last, in the order of [`Space::ALL`].
    memtables: [Memtable; 2],
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

/// A memtable kept alive: its number and a share of it.
type Memtable = (u64, Arc<dyn Any + Send + Sync>);
type Retired = Arc<Mutex<Vec<Arc<dyn Any + Send + Sync>>>>;

impl FjallEngine {
    /// Creates an empty engine at `directory`, which must not exist, and opens it. The directory
    /// appears whole: it is built beside and renamed. A leftover of an earlier attempt is replaced.
    pub fn create(directory: &Path, options: &Options) -> Result<Self, EngineError> {
        build(directory, options, |_| Ok::<_, EngineError>(()))?;
        Self::open(directory, options)
    }

    /// Opens an existing engine: checks our marker and that nothing fjall needs is missing, lets
    /// the doctor cut a torn journal tail, then replays the journals (about 0.5 s per 64 MiB).
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
        let spaces = open_spaces(&database, directory, options)?;
        leave_sequence_zero(&database, &spaces, directory)?;
        let memtables = Space::ALL.map(|space| current_memtable(spaces.of(space)));
        let inner = Arc::new(Inner {
            database,
            spaces,
            directory: directory.to_owned(),
        });
        Ok(Self {
            inner,
            retired: Retired::default(),
            memtables,
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

    /// Gives the engine up, because another one takes its place: nothing more is written, flushed or
    /// compacted. Views go on reading. Waits for a flush or compaction under way.
    pub fn retire(self) -> RetiredEngine {
        RetiredEngine {
            directory: self.inner.directory.clone(),
            views: Arc::downgrade(&self.views),
        }
    }

    /// Hands memtables that writes no longer go to over to the maintenance thread. They must not be
    /// freed here or by a flush, see the module text.
    fn retire_memtables(&mut self) {
        for (space, last) in Space::ALL.into_iter().zip(&mut self.memtables) {
            let current = current_memtable(self.inner.spaces.of(space));
            if current.0 == last.0 {
                continue;
            }
            let old = std::mem::replace(last, current);
            let mut retired = lock_list(&self.retired);
            let surplus = (retired.len() == RETIRED_MAX).then(|| retired.remove(0));
            retired.push(old.1);
            drop(retired);
            drop(surplus);
        }
    }
}

impl Engine for FjallEngine {
    type View = FjallView;
    type Persister = FjallPersister;

    fn commit(&mut self, batch: Batch) -> Result<(), EngineError> {
        // fjall panics on such keys while it holds its writer lock, and is unusable from then on.
        batch.check()?;
        let database = self.inner.database.clone();
        let mut out = OwnedWriteBatch::with_capacity(database, batch.len())
            .durability(Some(PersistMode::Buffer));
        for op in batch.into_ops() {
            match op {
                Op::Put { space, key, value } => {
                    out.insert(self.inner.spaces.of(space), &key[..], &value[..]);
                }
                Op::Delete { space, key } => out.remove(self.inner.spaces.of(space), &key[..]),
            }
        }
        out.commit()
            .map_err(|e| broken("write", &self.inner.directory, e))?;
        self.retire_memtables();
        Ok(())
    }

    fn view(&mut self) -> FjallView {
        FjallView(Arc::new(View {
            snapshot: self.inner.database.snapshot(),
            spaces: self.inner.spaces.clone(),
            directory: self.inner.directory.clone(),
            _share: Arc::clone(&self.views),
        }))
    }

    fn latest_get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if check_key(space, key).is_err() {
            return Ok(None);
        }
        let found = self.inner.spaces.of(space).get(key);
        Ok(found
            .map_err(|e| broken("read", &self.inner.directory, e))?
            .map(shared))
    }

    fn drop_hist_before(&mut self, key: &[u8]) -> Result<(), EngineError> {
        let hist = &self.inner.spaces.hist;
        let bounds = (Bound::Unbounded, Bound::Excluded(key));
        hist.tree
            .drop_range::<&[u8], _>(bounds)
            .map_err(|e| broken("drop tables in", &self.inner.directory, e.into()))
    }

    fn persister(&self) -> FjallPersister {
        FjallPersister {
            inner: Arc::downgrade(&self.inner),
            directory: self.inner.directory.clone(),
            journal: Arc::default(),
            retired: self.retired.clone(),
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
        tables + journals.map(occupied).sum::<u64>()
    }

    fn close(self) -> Result<(), EngineError> {
        let persister = self.persister();
        persister.checkpoint()?;
        persister.persist()
    }
}

/// A view; see [`Reader`]. Values are slices of cached blocks where possible: one that is kept for
/// long keeps its whole block (4 KiB or the value, whichever is larger) in memory.
#[derive(Clone)]
pub struct FjallView(Arc<View>);

struct View {
    snapshot: Snapshot,
    spaces: Spaces,
    directory: PathBuf,
    _share: Arc<()>,
}

impl Reader for FjallView {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if check_key(space, key).is_err() {
            return Ok(None);
        }
        let found = self.0.snapshot.get(self.0.spaces.of(space), key);
        Ok(found
            .map_err(|e| broken("read", &self.0.directory, e))?
            .map(shared))
    }

    fn scan(&self, space: Space, from: &[u8], to: Option<&[u8]>, reverse: bool) -> Scan<'_> {
        let Some(items) = self.items(space, from, to) else {
            return Box::new(std::iter::empty());
        };
        let unpack = |guard: ::fjall::Guard| {
            let pair = guard
                .into_inner()
                .map_err(|e| broken("read", &self.0.directory, e))?;
            Ok((shared(pair.0), shared(pair.1)))
        };
        if reverse {
            Box::new(items.rev().map(unpack))
        } else {
            Box::new(items.map(unpack))
        }
    }

    fn visit(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        reverse: bool,
        mut take: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        let Some(mut items) = self.items(space, from, to) else {
            return Ok(());
        };
        while let Some(guard) = if reverse {
            items.next_back()
        } else {
            items.next()
        } {
            let (key, value) = guard
                .into_inner()
                .map_err(|e| broken("read", &self.0.directory, e))?;
            if take(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl FjallView {
    fn items(&self, space: Space, from: &[u8], to: Option<&[u8]>) -> Option<::fjall::Iter> {
        if to.is_some_and(|to| to <= from) {
            return None;
        }
        let bounds = (
            Bound::Included(from),
            to.map_or(Bound::Unbounded, Bound::Excluded),
        );
        let space = self.0.spaces.of(space);
        Some(self.0.snapshot.range::<&[u8], _>(space, bounds))
    }
}

/// Maintenance handle; see [`Persister`]. Useless (typed error) once the engine is closed.
#[derive(Clone)]
pub struct FjallPersister {
    inner: Weak<Inner>,
    directory: PathBuf,
    /// The newest journal, opened by us.
    journal: Arc<Mutex<Option<(u64, File)>>>,
    retired: Retired,
}

/// How far background work is behind; for metrics and a watchdog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Sorted runs not yet merged, per space. From 20 on commits are slowed, at 30 they stop until
    /// a compaction ends; if none runs for seconds, call [`Persister::compact_state`].
    pub state_runs: usize,
    pub hist_runs: usize,
    /// Memtables waiting to be flushed, both spaces; at 4 of one space commits stop.
    pub sealed_memtables: usize,
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
            sealed_memtables: state.sealed_memtable_count() + hist.sealed_memtable_count(),
            journals: inner.database.journal_count(),
            compactions_running: inner.database.active_compactions(),
        })
    }

    /// The engine was closed or retired; every call fails from now on.
    pub fn is_closed(&self) -> bool {
        self.inner.strong_count() == 0
    }

    fn inner(&self) -> Result<Arc<Inner>, EngineError> {
        self.inner.upgrade().ok_or_else(|| EngineError::State {
            path: self.directory.clone(),
            detail: "the store is closed".to_owned(),
        })
    }

    /// fdatasync of the newest journal outside fjall's writer lock.
    fn sync_journal(&self) -> Result<(), EngineError> {
        let mut slot = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = |number| doctor::journal_path(&self.directory, number + 1).exists();
        if slot.as_ref().is_none_or(|(number, _)| newer(*number)) {
            *slot = None;
            if let Some((number, path)) = doctor::newest(&self.directory)? {
                let file = File::open(&path).map_err(|e| EngineError::io("open", &path, e))?;
                *slot = Some((number, file));
            }
        }
        if let Some((number, file)) = slot.as_ref() {
            file.sync_data().map_err(|e| {
                EngineError::io("sync", doctor::journal_path(&self.directory, *number), e)
            })?;
        }
        Ok(())
    }

    /// Frees memtables that are flushed and seen by no reader any more. To be called a few times per second: what waits
    /// for it is memory.
    pub fn reap(&self) {
        let mut retired = lock_list(&self.retired);
        let (free, used) = retired
            .drain(..)
            .partition(|memtable| Arc::strong_count(memtable) == 1);
        *retired = used;
        drop(retired);
        drop::<Vec<_>>(free);
    }
}

impl Persister for FjallPersister {
    fn persist(&self) -> Result<(), EngineError> {
        let inner = self.inner()?;
        self.sync_journal()?;
        let persisted = inner.database.persist(PersistMode::SyncAll);
        self.reap();
        persisted.map_err(|e| broken("sync", &self.directory, e))
    }

    fn checkpoint(&self) -> Result<(), EngineError> {
        let inner = self.inner()?;
        let failed = |e| broken("flush", &self.directory, e);
        for space in Space::ALL {
            inner.spaces.of(space).rotate_memtable().map_err(failed)?;
        }
        let Spaces { state, hist } = &inner.spaces;
        for _ in 0..FLUSH_POLLS_MAX {
            if state.sealed_memtable_count() == 0 && hist.sealed_memtable_count() == 0 {
                self.reap();
                return Ok(());
            }
            // A worker that failed flushes nothing any more; this asks whether that happened.
            inner
                .database
                .persist(PersistMode::Buffer)
                .map_err(failed)?;
            std::thread::sleep(FLUSH_POLL);
        }
        let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
        Err(EngineError::io("flush memory of", &self.directory, source))
    }

    fn compact_state(&self) -> Result<(), EngineError> {
        let inner = self.inner()?;
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
            .map_err(|e| broken("compact", &self.directory, e))
    }
}

fn open_database(directory: &Path, options: &Options) -> Result<Database, EngineError> {
    Database::builder(directory)
        .cache_size(options.cache_bytes)
        .worker_threads_unchecked(match options.workers {
            0 => 0,
            some => some.max(WORKERS_MIN),
        })
        .max_journaling_size(options.journal_bytes_max.max(JOURNAL_BYTES_MIN))
        .max_cached_files(Some(options.open_files.max(16)))
        .journal_compression(CompressionType::None)
        .open()
        .map_err(|e| broken("open", directory, e))
}

fn open_spaces(
    database: &Database,
    directory: &Path,
    options: &Options,
) -> Result<Spaces, EngineError> {
    let failed = |e| broken("open", directory, e);
    let state = || KeyspaceCreateOptions::default().max_memtable_size(options.state_memtable_bytes);
    // History only ever grows at its end, so its tables reach the last level without being
    // rewritten and keep the compression they were flushed with.
    let hist = || {
        KeyspaceCreateOptions::default()
            .max_memtable_size(options.hist_memtable_bytes)
            .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
    };
    Ok(Spaces {
        state: database
            .keyspace(Space::State.name(), state)
            .map_err(failed)?,
        hist: database
            .keyspace(Space::Hist.name(), hist)
            .map_err(failed)?,
    })
}

/// fjall takes 0 for "none" when it looks for the oldest open view: a view held at sequence number 0,
/// that is one of a store nothing was ever written to, takes the protection from all later views,
/// and reading those panics or shows newer data. So the first number is used up here, by removing a
/// key that does not exist.
fn leave_sequence_zero(
    database: &Database,
    spaces: &Spaces,
    directory: &Path,
) -> Result<(), EngineError> {
    if database.visible_seqno() > 0 {
        return Ok(());
    }
    let mut batch = database.batch();
    batch.remove(&spaces.state, &[0][..]);
    batch.commit().map_err(|e| broken("write", directory, e))
}

/// A value as the engine has it, without copying it: usually a slice of a cached block.
fn shared(slice: ::fjall::Slice) -> Bytes {
    Bytes::from_owner(slice)
}

fn current_memtable(keyspace: &Keyspace) -> Memtable {
    let memtable = keyspace.tree.active_memtable();
    (memtable.id(), memtable)
}

fn lock_list<T>(list: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The list is valid after every step taken under the lock.
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

fn free_bytes(directory: &Path) -> Result<u64, EngineError> {
    let stat = rustix::fs::statvfs(directory)
        .map_err(|e| EngineError::io("look at the file system of", directory, e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
