//! An engine in memory with the promises of the one on disk; for property tests and the simulator.
//!
//! Each space is a sorted list of leaves of at most `LEAF_MAX` entries behind `Arc`s. A view
//! shares the list; a write copies the list of pointers and the leaf it touches, and only if a view
//! still shares them. A put on 100 k keys right after a view copies some 2 k pointers.
//!
//! Crashes: an engine opened on a [`MemoryDisk`] keeps, as the real one does on a power cut, every
//! commit up to the last persist and a prefix of those after it; the test chooses how many.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::{Batch, Engine, EngineError, Op, Persister, Reader, Scan, Space};

/// Entries of a leaf before it is split in two.
const LEAF_MAX: usize = 64;

/// Unpersisted commits a [`MemoryDisk`] remembers; when full the oldest counts as persisted.
const UNPERSISTED_MAX: usize = 4096;

/// See the module text.
pub struct MemoryEngine {
    root: Root,
    disk: MemoryDisk,
}

impl MemoryEngine {
    /// An empty engine that lives and dies with this value.
    pub fn new() -> Self {
        Self::open(&MemoryDisk::default())
    }

    /// Opens what is on `disk`. Only one engine at a time should be open on a disk.
    pub fn open(disk: &MemoryDisk) -> Self {
        let root = disk.lock().newest().clone();
        Self {
            root,
            disk: disk.clone(),
        }
    }

    /// What outlives this engine; open another one on it.
    pub fn disk(&self) -> MemoryDisk {
        self.disk.clone()
    }

    /// For imports: puts outside of any commit, made durable by [`Self::persist_loaded`].
    pub(crate) fn load(&mut self, space: Space, key: Bytes, value: Bytes) {
        self.root.space_mut(space).put(key, value);
    }

    pub(crate) fn persist_loaded(&mut self) {
        let mut disk = self.disk.lock();
        disk.persisted = self.root.clone();
        disk.unpersisted.clear();
    }
}

impl Default for MemoryEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine for MemoryEngine {
    type View = MemoryView;
    type Persister = MemoryPersister;

    fn commit(&mut self, batch: Batch) -> Result<(), EngineError> {
        batch.check()?;
        if let Some(error) = self.disk.lock().refuse_write() {
            return Err(error);
        }
        for op in batch.into_ops() {
            match op {
                Op::Put { space, key, value } => self.root.space_mut(space).put(key, value),
                Op::Delete { space, key } => self.root.space_mut(space).delete(&key),
            }
        }
        self.disk.lock().committed(&self.root);
        Ok(())
    }

    fn view(&mut self) -> MemoryView {
        MemoryView {
            root: self.root.clone(),
        }
    }

    fn latest_get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.root.space(space).get(key))
    }

    fn drop_hist_before(&mut self, key: &[u8]) -> Result<(), EngineError> {
        // Durable first, as the contract has it.
        let mut disk = self.disk.lock();
        disk.persist()?;
        self.root.hist.drop_leaves_before(key);
        disk.committed(&self.root);
        Ok(())
    }

    fn persister(&self) -> MemoryPersister {
        MemoryPersister {
            disk: self.disk.clone(),
        }
    }

    fn disk_bytes(&self) -> u64 {
        self.root.state.bytes + self.root.hist.bytes
    }

    fn close(self) -> Result<(), EngineError> {
        self.disk.lock().persist()
    }
}

/// What outlives a [`MemoryEngine`]: the stand-in for its directory.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Disk>>);

impl MemoryDisk {
    /// Starts remembering each commit since the last persist, so that [`MemoryDisk::power_cut`]
    /// has something to choose from. Off by default: it makes every commit copy what it touches.
    pub fn remember_commits(&self) {
        self.lock().remember = true;
    }

    /// Commits that a power cut may still take away.
    pub fn unpersisted(&self) -> usize {
        self.lock().unpersisted.len()
    }

    /// The power fails: of the commits since the last persist the first `keep` survive (all when
    /// `keep` is larger). Drop the engine, call this, open again.
    pub fn power_cut(&self, keep: usize) {
        let mut disk = self.lock();
        disk.unpersisted.truncate(keep);
        if let Some(newest) = disk.unpersisted.pop() {
            disk.persisted = newest;
        }
        disk.unpersisted.clear();
        disk.failure = None;
    }

    /// From the next write on every write and persist is refused with `failure`, as a disk that
    /// broke; [`MemoryDisk::power_cut`] repairs it.
    pub fn fail(&self, failure: Failure) {
        self.lock().failure = Some(failure);
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        // A panic while holding the lock leaves at worst one commit unrecorded; tests that panic
        // have failed anyway.
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// How a [`MemoryDisk`] may break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    NoSpace,
    Poisoned,
    Corrupt,
}

#[derive(Default)]
struct Disk {
    persisted: Root,
    /// States after each commit since, oldest first; only the newest unless `remember`.
    unpersisted: Vec<Root>,
    remember: bool,
    failure: Option<Failure>,
}

impl Disk {
    fn newest(&self) -> &Root {
        self.unpersisted.last().unwrap_or(&self.persisted)
    }

    fn committed(&mut self, root: &Root) {
        if !self.remember {
            self.unpersisted.clear();
        } else if self.unpersisted.len() == UNPERSISTED_MAX {
            self.persisted = self.unpersisted.remove(0);
        }
        self.unpersisted.push(root.clone());
    }

    fn persist(&mut self) -> Result<(), EngineError> {
        if let Some(error) = self.refuse_write() {
            return Err(error);
        }
        if let Some(newest) = self.unpersisted.pop() {
            self.persisted = newest;
        }
        self.unpersisted.clear();
        Ok(())
    }

    fn refuse_write(&self) -> Option<EngineError> {
        let path = std::path::PathBuf::from("<memory>");
        Some(match self.failure? {
            Failure::NoSpace => EngineError::NoSpace {
                path,
                source: std::io::Error::from(std::io::ErrorKind::StorageFull),
            },
            Failure::Poisoned => EngineError::Poisoned { path },
            Failure::Corrupt => EngineError::Corrupt {
                path,
                detail: "told to fail by the test".to_owned(),
            },
        })
    }
}

/// Maintenance handle; see [`Persister`].
#[derive(Clone)]
pub struct MemoryPersister {
    disk: MemoryDisk,
}

impl Persister for MemoryPersister {
    fn persist(&self) -> Result<(), EngineError> {
        self.disk.lock().persist()
    }
    fn compact_state(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

/// A view; a clone copies two pointers.
#[derive(Clone, Default)]
pub struct MemoryView {
    root: Root,
}

impl Reader for MemoryView {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.root.space(space).get(key))
    }

    fn scan(&self, space: Space, from: &[u8], to: Option<&[u8]>, reverse: bool) -> Scan<'_> {
        let tree = self.root.space(space);
        if to.is_some_and(|to| to <= from) {
            return Box::new(std::iter::empty());
        }
        let (first, last) = tree.leaves_touching(from, to);
        let (from, to) = (Bytes::copy_from_slice(from), to.map(Bytes::copy_from_slice));
        let items = tree.leaves[first..last].iter().flat_map(|leaf| leaf.iter());
        let inside =
            move |entry: &&Entry| entry.0 >= from && to.as_ref().is_none_or(|to| entry.0 < *to);
        let items = items
            .filter(inside)
            .map(|(key, value)| Ok((key.clone(), value.clone())));
        if reverse {
            Box::new(items.rev())
        } else {
            Box::new(items)
        }
    }
}

#[derive(Clone, Default)]
struct Root {
    state: Tree,
    hist: Tree,
}

impl Root {
    fn space(&self, space: Space) -> &Tree {
        match space {
            Space::State => &self.state,
            Space::Hist => &self.hist,
        }
    }

    fn space_mut(&mut self, space: Space) -> &mut Tree {
        match space {
            Space::State => &mut self.state,
            Space::Hist => &mut self.hist,
        }
    }
}

type Entry = (Bytes, Bytes);

/// Sorted entries in leaves. Invariant: no leaf is empty, leaves and entries strictly ascend.
#[derive(Clone, Default)]
struct Tree {
    leaves: Arc<Vec<Arc<Vec<Entry>>>>,
    bytes: u64,
}

impl Tree {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        let leaf = self.leaves.get(self.leaf_of(key)?)?;
        let at = leaf
            .binary_search_by(|entry| entry.0.as_ref().cmp(key))
            .ok()?;
        Some(leaf[at].1.clone())
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.bytes += (key.len() + value.len()) as u64;
        let leaves = Arc::make_mut(&mut self.leaves);
        let at = leaves
            .partition_point(|leaf| leaf[0].0 <= key)
            .saturating_sub(1);
        let newest = at + 1 == leaves.len();
        let Some(leaf) = leaves.get_mut(at) else {
            leaves.push(Arc::new(vec![(key, value)]));
            return;
        };
        let leaf = Arc::make_mut(leaf);
        match leaf.binary_search_by(|entry| entry.0.cmp(&key)) {
            Ok(found) => {
                self.bytes -= (key.len() + leaf[found].1.len()) as u64;
                leaf[found].1 = value;
            }
            Err(place) => leaf.insert(place, (key, value)),
        }
        if leaf.len() > LEAF_MAX {
            // Ascending loads (history) leave full leaves behind, random ones halves.
            let half = leaf.split_off(if newest { LEAF_MAX } else { LEAF_MAX / 2 });
            leaves.insert(at + 1, Arc::new(half));
        }
    }

    fn delete(&mut self, key: &[u8]) {
        let Some(at) = self.leaf_of(key) else { return };
        let Ok(found) = self.leaves[at].binary_search_by(|entry| entry.0.as_ref().cmp(key)) else {
            return;
        };
        let leaves = Arc::make_mut(&mut self.leaves);
        let leaf = Arc::make_mut(&mut leaves[at]);
        let (key, value) = leaf.remove(found);
        self.bytes -= (key.len() + value.len()) as u64;
        if leaf.is_empty() {
            leaves.remove(at);
        }
    }

    /// Like tables on disk, leaves go only when all of their keys are below `key`.
    fn drop_leaves_before(&mut self, key: &[u8]) {
        let below = |leaf: &Arc<Vec<Entry>>| leaf.last().is_some_and(|entry| entry.0 < key);
        let dropped = self.leaves.partition_point(below);
        if dropped == 0 {
            return;
        }
        for leaf in Arc::make_mut(&mut self.leaves).drain(..dropped) {
            let size = |entry: &Entry| (entry.0.len() + entry.1.len()) as u64;
            self.bytes -= leaf.iter().map(size).sum::<u64>();
        }
    }

    /// The only leaf that can hold `key`; `None` if it sorts before all leaves.
    fn leaf_of(&self, key: &[u8]) -> Option<usize> {
        self.leaves
            .partition_point(|leaf| leaf[0].0.as_ref() <= key)
            .checked_sub(1)
    }

    /// The half-open range of leaves that may hold keys of `[from, to)`.
    fn leaves_touching(&self, from: &[u8], to: Option<&[u8]>) -> (usize, usize) {
        let first = self.leaf_of(from).unwrap_or(0);
        let last = to.map_or(self.leaves.len(), |to| {
            self.leaves.partition_point(|leaf| leaf[0].0.as_ref() < to)
        });
        (first, last.max(first))
    }
}
