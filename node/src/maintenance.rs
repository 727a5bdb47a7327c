//! The maintenance thread: makes the store's applied state durable on its own, samples sizes, watches the disk's free space.
//!
//! The store's engine keeps what was committed lately in memory, and flushes it when it is much; the WAL is what answers rest on.
//! Every flush and every persist here moves the index up to which the WAL is no longer needed, read *before* it: what is applied
//! while it runs may or may not be covered.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvnode_store::engine::Persister as _;
use kvnode_store::engine::fjall::Flushes;

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
/// Entries after which one is made earlier, so that a log of entries that change little does not grow for five minutes: the
/// engine flushes what changes much by itself.
const PERSIST_ENTRIES: u64 = 500_000;
/// Time without entries after which one is made earlier, too: memory and log of what was much work need not be held until
/// the next is due. Every persist costs a table, so there has to be enough for one, and not often.
const CALM: Duration = Duration::from_millis(1500);
const CALM_BYTES: usize = 4 << 20;
const CALM_INTERVAL: Duration = Duration::from_secs(30);

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
    let mut calm = Calm::default();
    let mut followed = Followed::default();
    loop {
        let stopping = vitals.stopping.load(Ordering::Acquire);
        let applied = vitals.applied.load(Ordering::Acquire);
        let flushes = persisters.get().flushes();
        if let Some(index) = flushes.ok().and_then(|now| followed.durable(applied, now))
            && index > persisted
        {
            (persisted, persisted_at) = (index, Instant::now());
            post(replica, ReplicaMessage::Durable(index));
        }
        let behind = applied - persisted;
        let now = Instant::now();
        let due = behind >= PERSIST_ENTRIES || now - persisted_at >= patience;
        let held = || persisters.get().pressure().map_or(0, |p| p.memory_bytes);
        if behind > 0 && (calm.is_due(applied, now, held) || due) {
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

/// Tells what the engine's own flushes have made durable.
#[derive(Default)]
struct Followed {
    /// Numbers of what is not flushed yet, each with the last index that was applied while it was the current one.
    notes: VecDeque<(u64, u64)>,
}

impl Followed {
    /// The index that has become durable, if one has; `applied` was read before `flushes`.
    fn durable(&mut self, applied: u64, Flushes { current, done }: Flushes) -> Option<u64> {
        match self.notes.back_mut() {
            Some((number, last)) if *number == current => *last = applied,
            Some((number, _)) if *number > current => {
                // Another engine has taken over, and counts anew.
                self.notes.clear();
                self.notes.push_back((current, applied));
            }
            _ => self.notes.push_back((current, applied)),
        }
        let mut durable = None;
        while let Some((_, last)) = self.notes.front().filter(|(number, _)| *number <= done) {
            durable = Some(*last);
            self.notes.pop_front();
        }
        durable
    }
}

/// Tells when entries have ceased to come.
#[derive(Default)]
struct Calm {
    /// The last index seen, and when first.
    seen: Option<(u64, Instant)>,
    taken: Option<Instant>,
}

impl Calm {
    /// Whether to persist now that entries up to `applied` are applied; `held` tells the bytes that are only in memory.
    fn is_due(&mut self, applied: u64, now: Instant, held: impl FnOnce() -> usize) -> bool {
        let (_, since) = *match &mut self.seen {
            Some(seen) if seen.0 == applied => seen,
            seen => seen.insert((applied, now)),
        };
        let recent = |taken| now - taken < CALM_INTERVAL;
        let due = now - since >= CALM && !self.taken.is_some_and(recent) && held() >= CALM_BYTES;
        if due {
            self.taken = Some(now);
        }
        due
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calm_is_used_once_in_a_while_and_only_for_enough() {
        let start = Instant::now();
        let mut calm = Calm::default();
        let second = |n| start + CALM * n;
        let mut is_due = |applied, n, held| calm.is_due(applied, second(n), || held);
        assert!(!is_due(5, 0, CALM_BYTES), "nobody knows yet for how long");
        assert!(!is_due(6, 1, CALM_BYTES), "entries come");
        assert!(!is_due(6, 2, CALM_BYTES - 1), "not worth it");
        assert!(is_due(6, 3, CALM_BYTES));
        assert!(!is_due(6, 4, CALM_BYTES), "a moment ago");
        assert!(!is_due(7, 63, CALM_BYTES));
        assert!(is_due(7, 64, CALM_BYTES));
    }

    #[test]
    fn what_was_applied_before_a_piece_was_full_is_durable_with_it() {
        let mut followed = Followed::default();
        let mut durable =
            |applied, current, done| followed.durable(applied, Flushes { current, done });
        assert_eq!(durable(10, 1, 0), None);
        assert_eq!(durable(20, 1, 0), None);
        assert_eq!(durable(30, 2, 0), None);
        assert_eq!(durable(35, 2, 1), Some(20), "30 may be in the second");
        assert_eq!(durable(40, 3, 1), None);
        assert_eq!(durable(50, 4, 3), Some(40));
        assert_eq!(durable(60, 1, 0), None, "of another engine");
        assert_eq!(durable(70, 2, 1), Some(60));
    }
}
