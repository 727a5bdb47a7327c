//! The maintenance thread: makes the store's applied state durable on its own, samples sizes, watches the disk's free space.
//!
//! The store's engine syncs lazily; the WAL is what answers rest on. Every persist moves the index up to which the WAL is
//! no longer needed, read *before* the persist: what is applied while it runs may or may not be covered.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvnode_store::engine::fjall::FjallPersister;
use kvnode_store::engine::{EngineError, Persister as _};

use crate::cores::{ReplicaMessage, post};
use crate::exit;
use crate::mailbox::Sender;
use crate::shared::Shared;
use crate::snapshots::PersisterSlot;

/// Time between two looks at the disk's free space, and whether a persist is due.
const PERSIST_INTERVAL: Duration = Duration::from_millis(100);
/// Entries that make a persist due, and the time after which a store that is written less is persisted. Each persist delays
/// the syncs of the log that clients wait for, and one of a large journal stalls single commits; after a power cut no
/// more than this has to be replayed from the log.
const PERSIST_ENTRIES: u64 = 20_000;
const PERSIST_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// Time between two full checkpoints of the engine (memtables to tables). The log is only released up to the last one:
/// a damaged engine journal is cut back, at most to there, and the log must be able to replay what was cut.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);
/// Time from the start to the first one.
const FIRST_CHECKPOINT: Duration = Duration::from_secs(10);
/// Entries after which a checkpoint is made earlier, so that a busy log does not grow for five minutes.
const CHECKPOINT_ENTRIES: u64 = 500_000;

/// Starts the thread; it ends when `vitals.stopping` is set and one last persist is done.
pub fn spawn(
    shared: Arc<Shared>,
    persisters: PersisterSlot,
    replica: Sender<ReplicaMessage>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name("kv-maint".into())
        .spawn(move || run(&shared, &persisters, &replica))
}

fn run(shared: &Shared, persisters: &PersisterSlot, replica: &Sender<ReplicaMessage>) {
    let vitals = &shared.vitals;
    let (mut persisted, mut persisted_at) = (0, Instant::now());
    // Every start opens a new log segment: the first checkpoint comes soon, so that restarts do not pile them up.
    let mut checkpointed = (0, Instant::now());
    let mut patience = FIRST_CHECKPOINT;
    loop {
        let stopping = vitals.stopping.load(Ordering::Acquire);
        let applied = vitals.applied.load(Ordering::Acquire);
        let due = applied - persisted >= PERSIST_ENTRIES
            || persisted_at.elapsed() >= PERSIST_INTERVAL_MAX
            || stopping;
        if applied > persisted && due {
            let started = Instant::now();
            if !must(shared, persisters, "persisting the store", |persister| {
                persister.persist()
            }) {
                continue;
            }
            shared
                .metrics
                .disk
                .backend_commit_seconds
                .observe(started.elapsed());
            persisted = applied;
            persisted_at = Instant::now();
        }
        let behind = applied - checkpointed.0;
        if behind > 0 && (behind >= CHECKPOINT_ENTRIES || checkpointed.1.elapsed() >= patience) {
            if !must(shared, persisters, "flushing the store", |persister| {
                persister.checkpoint()
            }) {
                continue;
            }
            checkpointed = (applied, Instant::now());
            patience = CHECKPOINT_INTERVAL;
            post(replica, ReplicaMessage::Durable(applied));
            log::debug!("store flushed at index {applied}");
        }
        look_at_disk(shared);
        if stopping {
            return;
        }
        persisters.get().reap();
        std::thread::sleep(PERSIST_INTERVAL);
    }
}

/// False if it came to nothing, because another engine took the place of this one or the node stops.
fn must(
    shared: &Shared,
    persisters: &PersisterSlot,
    what: &str,
    act: impl FnOnce(&FjallPersister) -> Result<(), EngineError>,
) -> bool {
    let persister = persisters.get();
    match act(&persister) {
        Ok(()) => true,
        // On the way out the apply thread may have closed the engine already.
        Err(_) if shared.vitals.stopping.load(Ordering::Acquire) => true,
        Err(_) if persister.is_closed() => {
            // Given up a moment ago, and its heir is about to be announced.
            std::thread::sleep(PERSIST_INTERVAL);
            false
        }
        Err(error) => exit::fatal(
            exit::Code::Io,
            format_args!("{what} failed: {error}"),
            "check the device and its free space, then start again: everything acknowledged is in the WAL",
        ),
    }
}

/// At every turn: a fast disk takes more in a second than is kept free for what is on its way.
fn look_at_disk(shared: &Shared) {
    let Ok(stat) = rustix::fs::statvfs(&shared.data_dir) else {
        return;
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    shared.vitals.disk_free_bytes.store(free, Ordering::Relaxed);
    let least = shared.live.min_free_bytes();
    shared.reserve.keep(free, least);
    let low = least > 0 && free < least;
    if low != shared.vitals.disk_low.swap(low, Ordering::Relaxed) {
        let directory = shared.data_dir.display();
        if low {
            log::error!(
                "{free} bytes free under {directory}, less than --min-free-bytes={least}: writes are refused until there is more"
            );
        } else {
            log::info!("{free} bytes free under {directory}: writes are admitted again");
        }
    }
}
