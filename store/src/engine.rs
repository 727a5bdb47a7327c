//! The ordered byte store under the state machine: what it must promise, in words both engines keep.
//!
//! Two spaces of sorted byte keys: [`Space::State`] (heads of keys, leases, members, the applied
//! index) and [`Space::Hist`] (one record per change, written once in ascending order of revision).
//!
//! Invariants every engine keeps:
//! * A [`Batch`] is atomic over both spaces, for readers and over a crash: after a crash the store
//!   is at the state right after some commit, never between two.
//! * A crash of the process or a power cut loses nothing committed before the last [`Persister::persist`] that
//!   returned `Ok`. What came after may be gone, from some commit on: the owner has the log it came from.
//! * One owner writes (the trait takes `&mut self`), and only the owner makes views, so a view
//!   always shows the state right after a commit. Views are cheap to clone, never change, and may
//!   be read from any thread.
//! * Reads may block on disk; no call here belongs on a reactor thread.

pub mod doctor;
pub mod fjall;
pub mod memory;
mod run;
mod stretches;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::path::PathBuf;

use bytes::Bytes;

pub use stretches::Stretches;

/// Longest key either space takes, in bytes. The disk format below us counts a key with 16 bits and
/// breaks on what does not fit, so the length is checked before it gets there.
pub const KEY_BYTES_MAX: usize = 65_534;

/// Longest value, in bytes: far above any request limit, far below the 32 bits the disk format has.
pub const VALUE_BYTES_MAX: usize = 1 << 30;

/// One of the two sorted key spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// The present: overwritten and deleted in place.
    State,
    /// The past: every key is written once, in ascending order over time, and only ever removed
    /// from the low end by [`Engine::drop_hist_before`].
    Hist,
}

impl Space {
    /// Both spaces, in the order exports list them.
    pub const ALL: [Space; 2] = [Space::State, Space::Hist];

    /// Name used in messages and on disk.
    pub fn name(self) -> &'static str {
        match self {
            Space::State => "state",
            Space::Hist => "hist",
        }
    }
}

impl std::fmt::Display for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One change inside a [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Put {
        space: Space,
        key: Bytes,
        value: Bytes,
    },
    Delete {
        space: Space,
        key: Bytes,
    },
}

impl Op {
    pub fn space(&self) -> Space {
        match self {
            Op::Put { space, .. } | Op::Delete { space, .. } => *space,
        }
    }

    pub fn key(&self) -> &Bytes {
        match self {
            Op::Put { key, .. } | Op::Delete { key, .. } => key,
        }
    }
}

/// Changes that become visible and durable together. A later op on a key wins over an earlier one.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    ops: Vec<Op>,
    bytes: usize,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn with_capacity(ops: usize) -> Self {
        Self {
            ops: Vec::with_capacity(ops),
            bytes: 0,
        }
    }

    /// Sets `key` to `value`. The engine in memory keeps both as they are, with the whole buffers they
    /// are slices of; the one on disk copies them when the batch is committed.
    pub fn put(&mut self, space: Space, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len();
        self.ops.push(Op::Put { space, key, value });
    }

    /// Removes `key`; removing a missing key is no error.
    pub fn delete(&mut self, space: Space, key: impl Into<Bytes>) {
        let key = key.into();
        self.bytes += key.len();
        self.ops.push(Op::Delete { space, key });
    }

    /// Number of ops.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Key and value bytes of all ops, without overhead.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    pub(crate) fn into_ops(self) -> Vec<Op> {
        self.ops
    }

    /// Refuses lengths an engine cannot hold; every engine calls this before it touches anything.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        self.ops.iter().try_for_each(|op| match op {
            Op::Put { space, key, value } => Self::check_lengths(*space, key, value),
            Op::Delete { space, key } => check_key(*space, key),
        })
    }

    pub(crate) fn check_lengths(space: Space, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(EngineError::ValueLength {
                space,
                length: value.len(),
            });
        }
        check_key(space, key)
    }
}

pub(crate) fn check_key(space: Space, key: &[u8]) -> Result<(), EngineError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(EngineError::KeyLength {
            space,
            length: key.len(),
        });
    }
    Ok(())
}

/// Items of a scan, in the order asked for. After an `Err` the iterator must not be used further.
pub type Scan<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes), EngineError>> + Send + 'a>;

/// A read-only view of the store right after one commit.
///
/// Held views cost: they pin replaced tables on disk and one memtable per space in memory. Long
/// readers (snapshots, exports) are fine; forgotten ones are not.
pub trait Reader: Clone + Send + Sync + 'static {
    /// The value of `key`, `None` if missing. A key no batch could hold is simply missing.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Keys in `[from, to)`; `to` `None` = to the end of the space. An empty or inverted interval
    /// yields nothing. Descending when `reverse`.
    fn scan(&self, space: Space, from: &[u8], to: Option<&[u8]>, reverse: bool) -> Scan<'_>;

    /// The items of the same scan, shown to `take` one by one until it breaks: cheaper for whoever
    /// keeps nothing of them.
    fn visit(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        reverse: bool,
        mut take: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        for item in self.scan(space, from, to, reverse) {
            let (key, value) = item?;
            if take(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The write side. One value, one owner, on a thread that may block.
pub trait Engine: Send + 'static {
    type View: Reader;
    type Persister: Persister;

    /// Applies the batch atomically. On `Err` nothing of it is visible, except that a failed disk
    /// leaves the engine poisoned: it then refuses all writes until reopened, and whether the
    /// failed batch survived is known only after reopening.
    fn commit(&mut self, batch: Batch) -> Result<(), EngineError>;

    /// The state after the last commit. Cheap (about 0.1 us).
    fn view(&mut self) -> Self::View;

    /// The same for whoever reads all of [`Space::State`] once, ascending: it leaves what the engine has cached as it is. Scans
    /// of that space read everything below their start as well.
    fn view_to_sweep(&mut self) -> Self::View {
        self.view()
    }

    /// The newest value of `key`, for the owner between its commits; skips making a view.
    fn latest_get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Frees history below `key` (exclusive) where that costs nothing: whole tables only, and only once everything
    /// committed before is durable, which may be later. Anything left below `key` is legal garbage, and may
    /// or may not be seen by later reads; views made before stay intact.
    fn drop_hist_before(&mut self, key: &[u8]) -> Result<(), EngineError>;

    /// A handle for the maintenance thread.
    fn persister(&self) -> Self::Persister;

    /// Bytes on disk, or in memory on their way there; an estimate from counters. 0 for an
    /// engine in memory means nothing stored.
    fn disk_bytes(&self) -> u64;

    /// Changes when files may have been replaced by others: then a view made anew lets go of the replaced ones, which
    /// stay on disk as long as an older view is held.
    fn replacements(&self) -> u64 {
        0
    }

    /// Clean stop: makes everything durable and lets go of
    /// the directory. Views still held elsewhere keep an engine's files locked; drop them first.
    fn close(self) -> Result<(), EngineError>;
}

/// What a maintenance thread may do beside the owner. Every call blocks.
pub trait Persister: Clone + Send + 'static {
    /// Makes every batch committed before this call durable against a power cut.
    ///
    /// The caller reads the applied index *before* the call; after `Ok` that index is durable. On disk this
    /// flushes what is in memory into tables and waits for it; meant to be rare (minutes).
    fn persist(&self) -> Result<(), EngineError>;

    /// Rewrites `State` without its garbage (the operator's defrag). Needs free space for a copy of
    /// the space; readers and the owner keep going.
    fn compact_state(&self) -> Result<(), EngineError>;
}

/// Everything an engine can answer instead of the result. The caller acts on the variant: lengths
/// are a caller's bug, `NoSpace` raises the alarm, `Poisoned` means reopen, `Corrupt` means stop
/// serving and rebuild the member from a snapshot or a peer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    #[error("{space}: key of {length} bytes, must be 1..={KEY_BYTES_MAX}")]
    KeyLength { space: Space, length: usize },

    /// A key the engine keeps for itself: the single byte 0 in [`Space::State`].
    #[error("{space}: this key is the engine's own")]
    KeyReserved { space: Space },

    #[error("{space}: value of {length} bytes, must be at most {VALUE_BYTES_MAX}")]
    ValueLength { space: Space, length: usize },

    /// An earlier write or flush failed and the engine refuses further writes. Reads go on.
    #[error("the store at {} refuses writes since an earlier write or flush failed; reopen it", path.display())]
    Poisoned { path: PathBuf },

    #[error("no space left on the device of {}: {source}", path.display())]
    NoSpace {
        path: PathBuf,
        source: std::io::Error,
    },

    /// Stored bytes failed their check, or a file the store needs is missing.
    #[error("the store at {} is damaged: {detail}", path.display())]
    Corrupt {
        /// The file when known, else the store's directory.
        path: PathBuf,
        detail: String,
    },

    /// Another process, or a view still held in this one, has the directory open.
    #[error("the store at {} is open elsewhere", path.display())]
    Locked { path: PathBuf },

    /// The directory is of a version this program does not know.
    #[error("{}: format version {found}, this program reads {expected}", path.display())]
    Version {
        path: PathBuf,
        found: String,
        expected: String,
    },

    /// Asked to create where something is, or to open where nothing is.
    #[error("{}: {detail}", path.display())]
    State { path: PathBuf, detail: String },

    #[error("{action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
}

impl EngineError {
    /// True if the stored bytes can no longer be trusted.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, EngineError::Corrupt { .. })
    }

    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: std::io::Error,
    ) -> Self {
        let path = path.into();
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                EngineError::NoSpace { path, source }
            }
            _ => EngineError::Io {
                action,
                path,
                source,
            },
        }
    }
}
