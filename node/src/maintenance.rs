//! The maintenance thread: makes the store's applied state durable on its own, samples sizes, watches the disk's free space.
//!
//! The store's engine keeps what was committed lately in memory, and flushes it when it is much; the WAL is what answers rest on.
//! Every persist here moves the index up to which the WAL is no longer needed, read *before* the persist: what is applied while it
//! runs may or may not be covered.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvnode_store::engine::Persister as _;

use crate::cores::{ReplicaMessage, post};
use crate::exit;
use crate::mailbox::Sender;
use crate::shared::Shared;
use crate::snapshots::PersisterSlot;

/// Time between two looks at the disk's free space, and whether a persist is due.
const TURN: Duration = Duration::from_millis(100);
/// Time between two persists that let the log go.
const PERSIST_INTERVAL: Duration = Duration::from_secs(300);
/// Time from the start to the first one: every start opens a new log segment, and restarts are not to pile them up.
const FIRST_PERSIST: Duration = Duration::from_secs(10);
/// Entries after which one is made earlier, so that a busy log does not grow for five minutes.
const PERSIST_ENTRIES: u64 = 500_000;

/// Starts the thread; it ends when `vitals.stopping` is set; closing the store persists.
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
    let mut patience = FIRST_PERSIST;
    loop {
        let stopping = vitals.stopping.load(Ordering::Acquire);
        let applied = vitals.applied.load(Ordering::Acquire);
        let behind = applied - persisted;
        if behind > 0 && (behind >= PERSIST_ENTRIES || persisted_at.elapsed() >= patience) {
            if !persist(shared, persisters) {
                continue;
            }
            (persisted, persisted_at) = (applied, Instant::now());
            patience = PERSIST_INTERVAL;
            post(replica, ReplicaMessage::Durable(applied));
            log::debug!("store flushed at index {applied}");
        }
        let persister = persisters.get();
        for took in persister.take_flush_times() {
            shared.metrics.disk.backend_commit_seconds.observe(took);
        }
        persister.reap();
        look_at_disk(shared);
        if stopping {
            return;
        }
        std::thread::sleep(TURN);
    }
}

/// False if it came to nothing, because another engine took the place of this one or the node stops.
fn persist(shared: &Shared, persisters: &PersisterSlot) -> bool {
    let persister = persisters.get();
    match persister.persist() {
        Ok(()) => true,
        // On the way out the apply thread may have closed the engine already.
        Err(_) if shared.vitals.stopping.load(Ordering::Acquire) => true,
        Err(_) if persister.is_closed() => {
            // Given up a moment ago, and its heir is about to be announced.
            std::thread::sleep(TURN);
            false
        }
        Err(error) => exit::fatal(
            exit::Code::Io,
            format_args!("flushing the store failed: {error}"),
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
