//! The WAL thread: takes everything queued, writes it with one call, syncs once, and says so once.
//!
//! While one sync runs the next batch gathers; that is the group commit. A failed write or sync ends the process: what
//! the page cache shows after a failed sync is not what the disk has, so nothing may be answered from it.
//!
//! A write that comes alone the executor may do in this thread's place; see [`LogPlace`].

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvnode_replica::{Install, Write};
use kvnode_wal::dir::Log;
use kvnode_wal::{Entry, HardState, Membership, Origin, SnapshotMark};

use crate::cores::apply::InPlace;
use crate::cores::{ApplyJob, ReplicaMessage, post};
use crate::exit;
use crate::mailbox::{Receiver, Sender};
use crate::shared::Shared;
use crate::slow_disk::{self, Watch};

/// Quiet time after which an idle mark is written, so that a later reader can tell the end of the log from damage.
const IDLE_MARK: Duration = Duration::from_millis(20);

/// Without anything to mark.
const LONG_SLEEP: Duration = Duration::from_secs(3600);

/// Most entries and payload bytes that are applied on this thread: more, and the next sync would better begin meanwhile.
const IN_PLACE_ENTRIES_MAX: usize = 2;
const IN_PLACE_BYTES_MAX: usize = 16 << 10;

/// How often a full disk is tried again.
const NO_SPACE_RETRY: Duration = Duration::from_millis(500);

/// To the WAL thread. Bounded by the replica's own limit on uncommitted bytes.
pub enum DiskJob {
    Write {
        write: Write,
        /// Once on disk its entries are committed, and go to the apply thread from here; see `cores/replica/direct.rs`.
        direct: bool,
    },
    /// Who votes, as of an entry that was applied.
    Membership(Membership),
    /// Segments whose entries all lie at or below this index may go.
    Purge {
        upto: u64,
    },
    /// Something was written in the thread's place: an idle mark will be due.
    Look,
    Stop,
}

/// Starts the thread. It ends after `DiskJob::Stop`, closing the log with a synced mark.
pub fn spawn(
    log: Log,
    shared: Arc<Shared>,
    inbox: Receiver<DiskJob>,
    replica: Sender<ReplicaMessage>,
    apply: Sender<ApplyJob>,
    in_place: InPlace,
) -> std::io::Result<(JoinHandle<()>, LogPlace)> {
    let rule = shared.config.slow_disk_warn;
    let slow = rule.map(|rule| Watch::new(rule, shared.now_ms()));
    let keeper = Keeper {
        log,
        slow,
        shared,
        replica,
        apply,
        in_place,
        idle: Idle::default(),
    };
    let place = LogPlace(Arc::new(Mutex::new(Some(keeper))));
    let held = place.clone();
    let thread = std::thread::Builder::new()
        .name("kv-wal".into())
        .spawn(move || held.run(inbox))?;
    Ok((thread, place))
}

/// The WAL thread's work, which an executor may do in its place where waking the thread and being woken by it would take as
/// long as the disk does. Empty once the log is closed.
#[derive(Clone)]
pub struct LogPlace(Arc<Mutex<Option<Keeper>>>);

/// What came of a write in the thread's place.
pub struct WrittenHere {
    /// How long the caller was held up.
    pub took: Duration,
    /// The thread is to be told with a [`DiskJob::Look`].
    pub look: bool,
}

impl LogPlace {
    /// Writes, syncs and applies here and now what may go the short way, if nobody is at the log and its segment has room:
    /// so the only thing waited for is the disk. The caller knows that no write is on its way to the thread.
    ///
    /// # Errors
    /// The write, for the thread.
    #[expect(
        clippy::result_large_err,
        reason = "what was not done is handed back as it came"
    )]
    pub fn write(&self, write: Write) -> Result<WrittenHere, Write> {
        let Ok(mut held) = self.0.try_lock() else {
            return Err(write);
        };
        let Some(keeper) = held.as_mut() else {
            return Err(write);
        };
        if !keeper.log.has_room(&write.entries) {
            return Err(write);
        }
        let started = Instant::now();
        let mut turn = Turn::default();
        turn.take(DiskJob::Write {
            write,
            direct: true,
        });
        keeper.write(turn);
        Ok(WrittenHere {
            took: started.elapsed(),
            look: keeper.idle.written_in_place(),
        })
    }

    fn run(self, mut inbox: Receiver<DiskJob>) {
        let mut jobs = Vec::new();
        let mut patience = Idle::default().patience();
        loop {
            let taken = inbox.take_timeout(&mut jobs, patience);
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(keeper) = held.as_mut() else { return };
            let stop = match taken {
                Ok(true) => keeper.work(&mut jobs),
                Ok(false) => {
                    keeper.idle();
                    false
                }
                Err(_) => true,
            };
            if stop {
                keeper.close();
                *held = None;
                return;
            }
            patience = keeper.idle.patience();
        }
    }
}

/// When an idle mark is due. The thread looks every [`IDLE_MARK`] while one is to be written.
#[derive(Default)]
struct Idle {
    /// Something was written behind the newest mark.
    due: bool,
    /// ... by somebody else than the thread, since it looked last.
    touched: bool,
    /// The thread will look.
    looking: bool,
}

impl Idle {
    /// Whether the thread has to be told.
    fn written_in_place(&mut self) -> bool {
        (self.due, self.touched) = (true, true);
        !std::mem::replace(&mut self.looking, true)
    }

    /// The thread looks; whether it writes a mark now.
    fn look(&mut self) -> bool {
        let quiet = !std::mem::take(&mut self.touched);
        quiet && std::mem::take(&mut self.due)
    }

    /// How long the thread sleeps when there are no jobs.
    fn patience(&mut self) -> Duration {
        self.looking = self.due;
        if self.due { IDLE_MARK } else { LONG_SLEEP }
    }
}

/// Whoever has it keeps the log: the thread, or who writes in its place.
struct Keeper {
    log: Log,
    slow: Option<Watch>,
    shared: Arc<Shared>,
    replica: Sender<ReplicaMessage>,
    apply: Sender<ApplyJob>,
    in_place: InPlace,
    idle: Idle,
}

/// What all the jobs of one turn come to.
#[derive(Default)]
struct Turn {
    entries: Vec<Entry>,
    /// So many of them, the first ones, go on to the apply thread.
    direct: usize,
    hard_state: Option<HardState>,
    sync: bool,
    number: Option<u64>,
    membership: Option<Membership>,
    purge: Option<u64>,
    stop: bool,
}

impl Keeper {
    /// Does the jobs; true if one of them was to stop.
    fn work(&mut self, jobs: &mut Vec<DiskJob>) -> bool {
        let mut turn = Turn::default();
        for job in jobs.drain(..) {
            if let DiskJob::Write { write, .. } = &job
                && let Some(install) = &write.install
            {
                // The mark drops entries: what came before it is written before it.
                self.write(std::mem::take(&mut turn));
                self.install(install);
            }
            turn.take(job);
        }
        let stop = turn.stop;
        self.idle.due |= turn.number.is_some();
        self.write(turn);
        stop
    }

    /// What is done while nothing waits.
    fn idle(&mut self) {
        if self.idle.look() {
            self.must("idle mark", |log, now_ms| log.mark(now_ms));
        }
    }

    fn close(&mut self) {
        let now_ms = self.shared.unix_ms();
        if let Err(error) = self.log.close(now_ms) {
            exit::fatal(
                exit::Code::Io,
                format_args!("closing the WAL: {error}"),
                HINT,
            );
        }
    }

    fn write(&mut self, mut turn: Turn) {
        if let Some(number) = turn.number {
            let started = Instant::now();
            self.append(&turn);
            if turn.sync {
                self.observe(started.elapsed());
            }
            let bytes: usize = turn.entries.iter().map(|entry| entry.payload.len()).sum();
            let metrics = &self.shared.metrics.disk;
            metrics.wal_write_bytes.add(bytes as u64);
            metrics
                .wal_batch_entries
                .observe_count(turn.entries.len() as u64);
            let done = ReplicaMessage::Written(number);
            if turn.direct == 0 {
                post(&self.replica, done);
            } else {
                // The replica hears of this first, but need not wake for it: it has to when the entries are applied.
                let _ = self.replica.push_quietly(done);
                turn.entries.truncate(turn.direct);
                // They are committed by now; nobody is to see them applied before that.
                if let Some(last) = turn.entries.last() {
                    let committed = &self.shared.vitals.committed;
                    committed.fetch_max(last.index, Ordering::Relaxed);
                }
                self.hand_on(turn.entries, bytes);
            }
        }
        if let Some(membership) = turn.membership {
            self.must("membership", |log, _| log.set_membership(membership));
        }
        if let Some(upto) = turn.purge {
            let gone = self.must("purge", |log, _| log.purge(upto));
            if gone > 0 {
                log::info!("removed {gone} WAL segments whose entries are all at or below {upto}");
            }
        }
    }

    /// To the apply thread; a little is applied here, which is done before that thread were awake.
    fn hand_on(&self, entries: Vec<Entry>, bytes: usize) {
        let little = entries.len() <= IN_PLACE_ENTRIES_MAX && bytes <= IN_PLACE_BYTES_MAX;
        let left = if little {
            self.in_place.apply(entries)
        } else {
            Err(entries)
        };
        if let Err(entries) = left {
            post(&self.apply, ApplyJob::Entries(entries));
        }
    }

    fn append(&mut self, turn: &Turn) {
        self.insist("append", |log, now_ms| {
            log.append(&turn.entries, turn.hard_state, turn.sync, now_ms)
                .map(|_| ())
        });
    }

    /// The state of a snapshot, staged and synced, takes the place of the log up to its index. From the moment this is
    /// synced a start takes it over.
    fn install(&mut self, install: &Install) {
        let Install {
            index,
            term,
            membership,
        } = install;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&index.to_le_bytes());
        id[8..].copy_from_slice(&term.to_le_bytes());
        let mark = SnapshotMark {
            index: *index,
            term: *term,
            id,
            origin: Origin::Installed,
        };
        self.insist("snapshot mark", |log, now_ms| {
            log.snapshot_mark(mark, membership, now_ms)
        });
        log::info!("the log goes on behind index {index}, term {term}");
    }

    /// Waits out a disk without room for the next segment. Nothing is acknowledged meanwhile, reads go on.
    fn insist(
        &mut self,
        what: &str,
        mut act: impl FnMut(&mut Log, u64) -> Result<(), kvnode_wal::Error>,
    ) {
        loop {
            let now_ms = self.shared.unix_ms();
            match act(&mut self.log, now_ms) {
                Ok(()) => return,
                Err(error @ kvnode_wal::Error::NoSpace { .. }) => {
                    if self.shared.reserve.release() {
                        continue;
                    }
                    if !self.shared.vitals.disk_low.swap(true, Ordering::Relaxed) {
                        log::error!("{error}; writes wait until there is room, reads go on");
                    }
                    std::thread::sleep(NO_SPACE_RETRY);
                }
                Err(error) => exit::fatal(
                    exit::Code::Io,
                    format_args!("WAL {what} failed: {error}"),
                    HINT,
                ),
            }
        }
    }

    fn observe(&mut self, took: Duration) {
        self.shared.metrics.disk.wal_fsync_seconds.observe(took);
        let now_ms = self.shared.now_ms();
        if let Some(watch) = &mut self.slow
            && let Some(slow) = watch.observe(took, now_ms)
            && let Some(rule) = self.shared.config.slow_disk_warn
        {
            self.shared.metrics.disk.slow_disk_warnings.add(1);
            let dir = &self.shared.wal_dir;
            let device = slow_disk::device(dir).unwrap_or_else(|| "an unknown device".to_owned());
            log::warn!(
                "{} of {} syncs of the log in {:?} took longer than {:?}, the slowest {:?}: {device} under {} is slow",
                slow.slow,
                slow.syncs,
                rule.window,
                rule.limit,
                slow.slowest,
                dir.display()
            );
        }
        if took > Duration::from_secs(1) {
            log::warn!(
                "a WAL write and sync took {took:?}: the disk under {} is slow",
                self.shared.wal_dir.display()
            );
        }
    }

    fn must<T>(
        &mut self,
        what: &str,
        act: impl FnOnce(&mut Log, u64) -> Result<T, kvnode_wal::Error>,
    ) -> T {
        let now_ms = self.shared.unix_ms();
        act(&mut self.log, now_ms).unwrap_or_else(|error| {
            exit::fatal(
                exit::Code::Io,
                format_args!("WAL {what} failed: {error}"),
                HINT,
            )
        })
    }
}

const HINT: &str = "check the device and its free space, then start again: the log is read back from the disk, not the cache";

impl Turn {
    fn take(&mut self, job: DiskJob) {
        match job {
            DiskJob::Write { write, direct } => {
                if direct {
                    debug_assert_eq!(
                        self.direct,
                        self.entries.len(),
                        "nothing undecided before it"
                    );
                    self.direct += write.entries.len();
                }
                if self.entries.is_empty() {
                    self.entries = write.entries;
                } else {
                    self.entries.extend(write.entries);
                }
                self.hard_state = write.hard_state.or(self.hard_state);
                self.sync |= write.must_sync;
                self.number = Some(write.number);
            }
            DiskJob::Membership(membership) => self.membership = Some(membership),
            DiskJob::Purge { upto } => self.purge = self.purge.max(Some(upto)),
            DiskJob::Look => {}
            DiskJob::Stop => self.stop = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_is_told_once_and_marks_after_a_quiet_look() {
        let mut idle = Idle::default();
        assert_eq!(idle.patience(), LONG_SLEEP);
        assert!(idle.written_in_place(), "it sleeps for long");
        assert!(!idle.written_in_place(), "told already");
        assert_eq!(idle.patience(), IDLE_MARK);
        assert!(!idle.look(), "written since");
        assert!(!idle.written_in_place(), "it looks anyway");
        assert!(!idle.look());
        assert_eq!(idle.patience(), IDLE_MARK);
        assert!(idle.look(), "quiet since the last look");
        assert_eq!(idle.patience(), LONG_SLEEP, "marked");
        assert!(!idle.look(), "one mark is enough");
        assert!(idle.written_in_place());
    }
}
