//! The store's engine in memory, with room for planted defects between it and the store.

use bytes::Bytes;
use kvnode_store::Revision;
use kvnode_store::engine::memory::{MemoryDisk, MemoryEngine, MemoryPersister, MemoryView};
use kvnode_store::engine::{Batch, Engine, EngineError, Op, Reader, Space};
use kvnode_store::schema::{META_KEY, Meta};

use super::plan::Plant;

/// The engine a simulated member runs.
pub struct SimEngine {
    inner: MemoryEngine,
    plant: Option<Plant>,
    /// Of the commits before, for the defect that stores the applied index late.
    late: Option<(u64, u64)>,
}

impl SimEngine {
    pub fn open(disk: &MemoryDisk, plant: Option<Plant>) -> Self {
        let inner = MemoryEngine::open(disk);
        SimEngine {
            inner,
            plant,
            late: None,
        }
    }

    /// The batch with the applied index of the batch before.
    fn with_late_index(&mut self, batch: Batch) -> Batch {
        let mut changed = Batch::with_capacity(batch.len());
        for op in batch.ops() {
            match op {
                Op::Put {
                    space: Space::State,
                    key,
                    value,
                } if key[..] == META_KEY[..] => {
                    let Ok(mut meta) = Meta::decode(value) else {
                        continue;
                    };
                    let now = (meta.applied_index, meta.applied_term);
                    (meta.applied_index, meta.applied_term) = self.late.unwrap_or(now);
                    self.late = Some(now);
                    changed.put(Space::State, key.clone(), meta.encode());
                }
                Op::Put { space, key, value } => changed.put(*space, key.clone(), value.clone()),
                Op::Delete { space, key } => changed.delete(*space, key.clone()),
            }
        }
        changed
    }
}

impl Engine for SimEngine {
    type View = MemoryView;
    type Persister = MemoryPersister;

    fn commit(&mut self, batch: Batch) -> Result<(), EngineError> {
        let batch = match self.plant {
            Some(Plant::ApplyTwice) => self.with_late_index(batch),
            _ => batch,
        };
        self.inner.commit(batch)
    }

    fn view(&mut self) -> MemoryView {
        self.inner.view()
    }

    fn latest_get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.inner.latest_get(space, key)
    }

    fn drop_hist_before(&mut self, key: &[u8]) -> Result<(), EngineError> {
        if self.plant == Some(Plant::DropBoundaryTombstone)
            && let Some(at) = Revision::from_bytes(key)
        {
            let end = Revision::new(at.main + 1, 0).to_bytes();
            let view = self.inner.view();
            let mut batch = Batch::new();
            for item in view.scan(Space::Hist, key, Some(&end), false) {
                batch.delete(Space::Hist, item?.0);
            }
            self.inner.commit(batch)?;
        }
        self.inner.drop_hist_before(key)
    }

    fn persister(&self) -> MemoryPersister {
        self.inner.persister()
    }

    fn disk_bytes(&self) -> u64 {
        self.inner.disk_bytes()
    }

    fn close(self) -> Result<(), EngineError> {
        self.inner.close()
    }
}
