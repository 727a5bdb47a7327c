//! The apply thread: the store's only writer, but for the WAL thread where that does the work in its place.
//!
//! Takes every committed entry that is waiting, applies them as one engine batch, and tells each client core in one
//! push what changed and what its own proposals came to. Between batches, when nothing waits, it removes compacted
//! history in small steps.
//!
//! An error here means that this member cannot execute what the cluster has agreed on: the process ends, naming
//! the entry, rather than serve a state that has parted from the log.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvnode_replica::ConfChange;
use kvnode_store::engine::Engine as _;
use kvnode_store::{BuiltFences, Change, Committed};
use kvnode_wal::{Entry, EntryKind};

use super::{Applied, ApplyJob, CoreMessage, Mailboxes, ReplicaMessage, Store, post};
use crate::auth::tokens::Change as TokenChange;
use crate::exit;
use crate::mailbox::{Receiver, Sender};
use crate::shared::Shared;
use crate::slots::Ticket;
use crate::snapshots::{InstallJob, Installer, ReplaceError, ReplaceJob};

/// Entries and payload bytes of one engine batch at the most: the answers of one batch leave while the next is applied, so
/// that the two sides work side by side instead of in turns; and it bounds the memory and the time until the first
/// of its answers leaves.
pub const BATCH_ENTRIES_MAX: usize = 64;
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Batches of changes the thread keeps a share of, at the most; see [`ApplyThread::reclaim`].
const TOLD_MAX: usize = 64;
/// Pause between two steps of removing compacted history.
const COMPACTION_PAUSE: Duration = Duration::from_millis(10);
/// Pause between two samples of the store's size while nothing else happens.
const SAMPLE_PAUSE: Duration = Duration::from_secs(1);

/// Starts the thread. It ends, closing the store, after `ApplyJob::Stop`.
pub fn spawn(
    store: Store,
    installer: Installer,
    shared: Arc<Shared>,
    inbox: Receiver<ApplyJob>,
    own: Sender<ApplyJob>,
    replica: Sender<ReplicaMessage>,
    cores: Mailboxes,
) -> std::io::Result<(JoinHandle<()>, InPlace)> {
    let mut apply = Apply {
        store,
        installer,
        shared,
        own,
        replica,
        cores,
        told: VecDeque::new(),
        compacting: true,
        warming: false,
        replacements: 0,
    };
    if !apply.store.view().has_fences() {
        apply.build_fences();
    }
    let in_place = InPlace(Arc::new(Mutex::new(Some(apply))));
    let held = in_place.clone();
    let thread = std::thread::Builder::new()
        .name("kv-apply".into())
        .spawn(move || held.run(inbox))?;
    Ok((thread, in_place))
}

/// An entry as the store takes it. A change of who votes is the replica's matter; the record that rides on it is the store's.
pub fn committed(entry: Entry) -> Committed {
    Committed {
        index: entry.index,
        term: entry.term,
        command: match entry.kind {
            EntryKind::Normal => entry.payload,
            EntryKind::ConfChange => ConfChange::decode(&entry.payload)
                .map(|change| change.context)
                .unwrap_or_default(),
            EntryKind::Empty => bytes::Bytes::new(),
        },
    }
}

/// The apply thread's work, which another thread may do in its place where handing it over would take longer. Empty once
/// the store is closed.
#[derive(Clone)]
pub struct InPlace(Arc<Mutex<Option<Apply>>>);

impl InPlace {
    /// Applies the entries here and now if nobody is at it and nothing before them waits.
    ///
    /// # Errors
    /// The entries, for the thread.
    pub fn apply(&self, entries: Vec<Entry>) -> Result<(), Vec<Entry>> {
        let Ok(mut held) = self.0.try_lock() else {
            return Err(entries);
        };
        let next = |apply: &&mut Apply| {
            let (applied, _) = apply.store.applied();
            entries
                .first()
                .is_some_and(|first| first.index == applied + 1)
        };
        let Some(apply) = held.as_mut().filter(next) else {
            return Err(entries);
        };
        apply.apply(entries);
        if !apply.compacting {
            let view = apply.store.view();
            if view.compacted_physically() < view.compact_revision() {
                // The thread sleeps for longer than that may wait.
                post(&apply.own, ApplyJob::Entries(Vec::new()));
            }
        }
        Ok(())
    }

    fn run(self, mut inbox: Receiver<ApplyJob>) {
        let mut jobs = Vec::new();
        let mut patience = COMPACTION_PAUSE;
        loop {
            let taken = inbox.take_timeout(&mut jobs, patience);
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(apply) = held.as_mut() else { return };
            let stop = match taken {
                Ok(true) => apply.work(&mut jobs),
                Ok(false) => {
                    apply.idle();
                    false
                }
                Err(_) => true,
            };
            if stop {
                break;
            }
            patience = if apply.compacting || apply.warming {
                COMPACTION_PAUSE
            } else {
                SAMPLE_PAUSE
            };
        }
        let apply = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(apply) = apply
            && let Err(error) = apply.store.into_engine().close()
        {
            log::error!("closing the store: {error}");
        }
    }
}

struct Apply {
    store: Store,
    installer: Installer,
    shared: Arc<Shared>,
    own: Sender<ApplyJob>,
    replica: Sender<ReplicaMessage>,
    cores: Mailboxes,
    told: VecDeque<Arc<Vec<Change>>>,
    /// There may be compacted history to remove.
    compacting: bool,
    /// There may be keys to read into memory. Begins when the thread that builds count fences has read the first of them.
    warming: bool,
    /// As the engine counted when the views in use were made, or later.
    replacements: u64,
}

impl Apply {
    /// Does the jobs; true if one of them was to stop.
    fn work(&mut self, jobs: &mut Vec<ApplyJob>) -> bool {
        let mut entries = Vec::new();
        let mut stop = false;
        for job in jobs.drain(..) {
            match job {
                ApplyJob::Entries(more) if entries.is_empty() => {
                    self.compacting = true;
                    entries = more;
                }
                ApplyJob::Entries(more) => entries.extend(more),
                ApplyJob::Fences(built) => self.install_fences(*built),
                ApplyJob::Heads(read) => {
                    self.store.take_read_heads(*read);
                    self.warming = true;
                }
                ApplyJob::Install(job) => {
                    // What came before it goes into the old state, for the sake of those who wait for answers.
                    self.apply(std::mem::take(&mut entries));
                    self.install(job);
                    self.compacting = true;
                }
                ApplyJob::Replace(job) => {
                    self.apply(std::mem::take(&mut entries));
                    self.replace(*job);
                    self.compacting = true;
                }
                ApplyJob::Quota(quota_bytes) => {
                    self.installer.config.quota_bytes = quota_bytes;
                    match self.store.set_quota(quota_bytes) {
                        Ok(()) => self.publish(),
                        Err(error) => {
                            log::error!("the new quota holds from the next write on: {error}");
                        }
                    }
                }
                ApplyJob::Stop => stop = true,
            }
        }
        self.apply(entries);
        stop
    }

    /// What is done while nothing waits.
    fn idle(&mut self) {
        self.compacting = self.compact_some();
        self.warming = self.warming && self.warm_some();
        self.sample();
        self.let_go();
    }

    /// Sees to it that nobody keeps files that were replaced by others only because nothing was applied since.
    fn let_go(&mut self) {
        let replacements = self.store.engine().replacements();
        if replacements == std::mem::replace(&mut self.replacements, replacements) {
            return;
        }
        match self.store.refresh() {
            Ok(()) => {
                self.publish();
                let (index, _) = self.store.applied();
                let told = ReplicaMessage::Applied {
                    index,
                    view: self.store.view(),
                    leases: Vec::new(),
                    own: Vec::new(),
                };
                post(&self.replica, told);
            }
            Err(error) => log::warn!("looking at the store anew: {error}"),
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        let mut batch = Vec::with_capacity(entries.len().min(BATCH_ENTRIES_MAX));
        let mut bytes = 0;
        for entry in entries {
            bytes += entry.payload.len();
            batch.push(committed(entry));
            if batch.len() == BATCH_ENTRIES_MAX || bytes >= BATCH_BYTES_MAX {
                self.apply_batch(&batch);
                batch.clear();
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            self.apply_batch(&batch);
        }
    }

    fn apply_batch(&mut self, batch: &[Committed]) {
        let started = Instant::now();
        let step = self.store.apply(batch).unwrap_or_else(|error| {
            let (first, last) = (batch.first().map_or(0, |e| e.index), batch.last().map_or(0, |e| e.index));
            exit::fatal(
                exit::Code::Io,
                format_args!("applying entries {first}..={last} failed: {error}"),
                "stop this member and run `kvutil data check --data-dir ...`; its data was not changed by the failed batch",
            )
        });
        let took = started.elapsed();
        self.count(&step.changes, batch.len());
        self.shared.metrics.disk.apply_seconds.observe(took);
        if took > self.shared.live.warning_apply_duration() {
            self.shared.metrics.server.slow_applies.add(1);
            log::warn!("applying {} entries took {took:?}", batch.len());
        }
        let (index, _) = self.store.applied();
        let mut results: Vec<Vec<_>> = self.cores.iter().map(|_| Vec::new()).collect();
        let forwarding = self.shared.vitals.forwarding.load(Ordering::Acquire);
        let mut own = Vec::new();
        for reply in step.replies {
            // Replies to other members' proposals, and to those of an earlier life of this one, have no waiter here.
            if reply.request.member == self.shared.member_id
                && reply.request.incarnation == self.shared.incarnation
                && reply.request.sequence != 0
            {
                let ticket = Ticket(reply.request.sequence);
                if forwarding {
                    own.push(ticket);
                }
                if let Some(results) = results.get_mut(ticket.core()) {
                    results.push((ticket, reply.result));
                }
            }
        }
        let now_ms = self.shared.now_ms();
        let noted = step.token_changes.into_iter();
        let tokens: Arc<[_]> = noted
            .map(|change| TokenChange::new(change, now_ms))
            .collect();
        self.shared.vitals.applied.store(index, Ordering::Release);
        for (core, results) in self.cores.iter().zip(results) {
            let (view, changes) = (step.view.clone(), Arc::clone(&step.changes));
            post(
                core,
                CoreMessage::Applied(Applied {
                    index,
                    view,
                    changes,
                    results,
                    tokens: Arc::clone(&tokens),
                }),
            );
        }
        self.reclaim(step.changes);
        let (view, leases) = (step.view, step.lease_changes);
        post(
            &self.replica,
            ReplicaMessage::Applied {
                index,
                view,
                leases,
                own,
            },
        );
    }

    /// The keys that a batch has changed.
    fn count(&self, changes: &[Change], entries: usize) {
        let (mut puts, mut put_bytes, mut deletes) = (0, 0, 0);
        for event in changes.iter().flat_map(|change| &change.events) {
            match (event.r#type, &event.kv) {
                (0, Some(kv)) => {
                    puts += 1;
                    put_bytes += kv.key.len() + kv.value.len();
                }
                _ => deletes += 1,
            }
        }
        let metrics = &self.shared.metrics;
        metrics.store.puts.add(puts);
        metrics.store.put_bytes.add(put_bytes as u64);
        metrics.store.deletes.add(deletes);
        metrics
            .disk
            .apply_batch_entries
            .observe_count(entries as u64);
    }

    /// Keeps a share of what the cores were told until they are done with it, so that it is freed here, where it was
    /// allocated: another thread's memory is freed at twice the price, and by the busiest thread of all.
    fn reclaim(&mut self, changes: Arc<Vec<Change>>) {
        let mut done = 0;
        for told in &self.told {
            if Arc::strong_count(told) > 1 && self.told.len() < TOLD_MAX {
                break;
            }
            done += 1;
        }
        self.told.drain(..done);
        if !changes.is_empty() {
            self.told.push_back(changes);
        }
    }

    /// Lets the staged state take over. Entries after it are applied to it from now on.
    fn install(&mut self, job: InstallJob) {
        self.shared.metrics.server.snapshot_installs.set(1);
        let started = Instant::now();
        let InstallJob { index, term } = job;
        self.installer
            .take_over(&mut self.store, job)
            .unwrap_or_else(|error| {
                exit::fatal(
                    exit::Code::Safety,
                    format_args!("taking over the snapshot of index {index}, term {term}: {error}"),
                    "start this member again: it will try once more; if it cannot, add it to the cluster anew",
                )
            });
        let view = self.store.view();
        log::info!(
            "took over the state of index {index}, revision {}, in {:?}",
            view.revision(),
            started.elapsed()
        );
        self.shared.metrics.server.snapshot_installs.set(0);
        let vitals = &self.shared.vitals;
        vitals
            .compacted
            .store(view.compacted_physically(), Ordering::Release);
        // After the persister was exchanged: see `PersisterSlot`.
        vitals.applied.store(index, Ordering::Release);
        self.sample();
        for core in self.cores.iter() {
            let view = view.clone();
            post(core, CoreMessage::Installed { index, view });
        }
        let leases = Vec::new();
        post(
            &self.replica,
            ReplicaMessage::Applied {
                index,
                view,
                leases,
                own: Vec::new(),
            },
        );
        if !self.store.view().has_fences() {
            self.build_fences();
        }
    }

    /// Lets the staged state take the place of a wrong one of the same index.
    fn replace(&mut self, job: ReplaceJob) {
        let started = Instant::now();
        let (index, _) = self.store.applied();
        match self.installer.replace(&mut self.store, job) {
            Ok(kept) => {
                let view = self.store.view();
                log::warn!(
                    "re-synced: another state of index {index}, revision {}, took over in {:?}; the one before is kept in {}",
                    view.revision(),
                    started.elapsed(),
                    kept.display()
                );
                let compacted = view.compacted_physically();
                let vitals = &self.shared.vitals;
                vitals.compacted.store(compacted, Ordering::Release);
                self.sample();
                self.shared.resync.took_over(&kept);
                for core in self.cores.iter() {
                    let view = view.clone();
                    post(core, CoreMessage::Installed { index, view });
                }
                post(&self.replica, ReplicaMessage::Replaced(Ok(view)));
                if !self.store.view().has_fences() {
                    self.build_fences();
                }
            }
            Err(ReplaceError::Unchanged(error)) => {
                post(
                    &self.replica,
                    ReplicaMessage::Replaced(Err(error.to_string())),
                );
            }
            Err(ReplaceError::Fatal(error)) => exit::fatal(
                exit::Code::Safety,
                format_args!("putting another state in the place of this member's: {error}"),
                "start this member again: it has the old state or the new one, whole",
            ),
        }
    }

    /// Counts come from fences once these are built; until then they scan.
    fn build_fences(&mut self) {
        let (builder, own) = (self.store.fence_builder(), self.own.clone());
        let read = {
            let own = own.clone();
            move |heads| post(&own, ApplyJob::Heads(Box::new(heads)))
        };
        let spawned = std::thread::Builder::new()
            .name("kv-fences".into())
            .spawn(move || match builder.build_and_read(read) {
                Ok(built) => post(&own, ApplyJob::Fences(Box::new(built))),
                Err(error) => log::warn!("count fences were not built, counts scan: {error}"),
            });
        if let Err(error) = spawned {
            log::warn!("no thread to build count fences: {error}; counts scan");
        }
    }

    fn install_fences(&mut self, built: BuiltFences) {
        match self.store.install_fences(built) {
            Ok(true) => self.publish(),
            Ok(false) => self.build_fences(),
            Err(error) => log::warn!("count fences were not installed, counts scan: {error}"),
        }
    }

    /// Gives the client cores the store's view where nothing was applied but the view knows more: ranges are quicker
    /// with fences, and a store that is only read has no next batch.
    fn publish(&self) {
        let (index, _) = self.store.applied();
        for core in self.cores.iter() {
            post(
                core,
                CoreMessage::Applied(Applied {
                    index,
                    view: self.store.view(),
                    changes: Arc::default(),
                    results: Vec::new(),
                    tokens: Arc::from([]),
                }),
            );
        }
    }

    fn sample(&mut self) {
        let bytes = i64::try_from(self.store.engine().disk_bytes()).unwrap_or(i64::MAX);
        self.shared.vitals.db_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Reads keys into memory, here and for the cores.
    fn warm_some(&mut self) -> bool {
        let mut pairs = Vec::new();
        let more = self
            .store
            .warm_some(|pair| pairs.push(pair))
            .unwrap_or_else(|error| {
                log::warn!("reading keys into memory: {error}; they are read when they are used");
                false
            });
        if !pairs.is_empty() {
            let pairs = Arc::new(pairs);
            for core in self.cores.iter() {
                post(core, CoreMessage::Warm(Arc::clone(&pairs)));
            }
        }
        more
    }

    fn compact_some(&mut self) -> bool {
        match self.store.compact_some() {
            Ok(more) => {
                let done = self.store.view().compacted_physically();
                if self.shared.vitals.compacted.swap(done, Ordering::AcqRel) < done {
                    let seconds = i64::try_from(self.shared.unix_ms() / 1000).unwrap_or(i64::MAX);
                    self.shared.metrics.store.last_compaction.set(seconds);
                }
                more
            }
            Err(error) => {
                // Nothing is lost by trying later: the logical compaction already holds.
                log::error!(
                    "removing compacted history: {error}; trying again with the next compaction"
                );
                false
            }
        }
    }
}
