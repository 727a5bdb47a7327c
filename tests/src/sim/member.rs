//! One member: what survives its crashes, and the process that runs on it, put together the way the
//! node puts it together.

use std::collections::{BTreeMap, VecDeque};

use kvnode_replica::{ConfChange, Config, Output, Replica, Restored, Write};
use kvnode_store::engine::memory::{MemoryDisk, MemoryView};
use kvnode_store::lease_clock::LeaseClock;
use kvnode_store::recent::RecentChanges;
use kvnode_store::watch::{Limits, StreamId, WatcherSet};
use kvnode_store::{Store, View};
use kvnode_wal::driver::Driver;
use kvnode_wal::record::{Origin, SnapshotMark};
use kvnode_wal::recover::recover;
use kvnode_wal::writer::Start;
use kvnode_wal::{Entry, EntryKind, Error, Floors, Identity, Membership, Options};

use super::asks::{Ask, Caller};
use super::checks::Checks;
use super::disk::SimDisk;
use super::engine::SimEngine;
use super::plan::{ELECTION_TICKS, Plan};
use super::shadow::Shadow;
use super::world::Event;

/// What is left of a member when its process is gone.
pub struct Member {
    pub id: u64,
    identity: Identity,
    pub disk: SimDisk,
    pub engine: MemoryDisk,
    /// States received, whole and durable, by index; one becomes the engine when the log says so.
    pub staged: BTreeMap<u64, MemoryDisk>,
    /// Who was a member when this one was made, by what it was told.
    pub first: Membership,
    pub created: bool,
    pub life: u64,
    /// Percent of a true clock.
    pub rate: u64,
    pub process: Option<Box<Process>>,
    pub paused: bool,
    /// What came in while paused.
    pub held: Vec<Event>,
    /// Why it never starts again under this id.
    pub dead: Option<String>,
    /// Its log was damaged on purpose: it may refuse to start.
    pub damaged: Option<String>,
    pub removed: bool,
    pub slow_apply: bool,
    /// The disk answers nothing before this time.
    pub stalled_until: u64,
    pub shadow: Shadow,
    /// First index that writes on their way at the last crash may have replaced.
    pub loose: u64,
}

/// Why a start failed.
#[derive(Debug)]
pub enum Refusal {
    /// The disk has trouble: later.
    Later(String),
    /// The log cannot be trusted: an operator is needed.
    Never(String),
}

/// A job for the log.
#[derive(Debug)]
pub enum Job {
    Write(Write),
    /// Entries up to here are in the durable store, as of this membership.
    Purge {
        upto: u64,
        term: u64,
        membership: Membership,
    },
}

/// A question that waits for an index.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub caller: Caller,
    pub ask: Ask,
}

/// A watch stream of a client.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    pub stream: StreamId,
    pub watcher: usize,
    pub session: u64,
    /// When its last response arrives: streams keep their order.
    pub busy_until: u64,
}

/// A running member.
pub struct Process {
    pub life: u64,
    pub replica: Replica,
    pub out: Output,
    pub log: Driver<SimDisk>,
    pub store: Store<SimEngine>,
    pub jobs: VecDeque<Job>,
    /// Jobs from the front that the disk has taken.
    pub taken: usize,
    pub writing: bool,
    /// When the oldest write not yet durable was handed out.
    pub oldest_write: Option<u64>,
    /// Who votes, as raft said last, and who did before, with the commit index when that changed: up to there those were
    /// the ones who had to have an entry.
    pub voting: Membership,
    pub voted: Option<(Membership, u64)>,
    /// Highest number already reported, with the defect that reports early.
    pub reported: u64,
    pub queue: VecDeque<Entry>,
    pub applying: bool,
    pub compacting: bool,
    pub chain: BTreeMap<u64, u64>,
    pub next_sequence: u64,
    pub pending: BTreeMap<u64, Caller>,
    pub next_token: u64,
    pub reads: BTreeMap<u64, Waiting>,
    pub parked: Vec<(u64, Waiting)>,
    pub clock: LeaseClock,
    pub led: (u64, bool),
    /// Clients are served from this applied index on.
    pub serves_from: u64,
    pub watches: WatcherSet,
    pub sessions: BTreeMap<usize, Session>,
    pub ring: RecentChanges,
    pub catching_up: usize,
    pub offers: BTreeMap<u64, View<MemoryView>>,
    /// Membership of the last mark in the log.
    pub marked: u64,
}

/// History reads under way per member.
pub const CATCH_UPS_MAX: usize = 4;

impl Member {
    pub fn new(id: u64, plan: &Plan, first: Membership, rate: u64) -> Self {
        let disk = SimDisk::new(id, plan.seed);
        disk.lie(
            plan.has(super::Plant::SkipFsync),
            plan.has(super::Plant::SkipDirSync),
        );
        let mut instance = [0; 16];
        instance[..8].copy_from_slice(&id.to_le_bytes());
        let engine = MemoryDisk::default();
        engine.remember_commits();
        Member {
            id,
            identity: Identity {
                cluster: 7,
                member: id,
                instance,
            },
            disk,
            engine,
            staged: BTreeMap::new(),
            first,
            created: false,
            life: 0,
            rate,
            process: None,
            paused: false,
            held: Vec::new(),
            dead: None,
            damaged: None,
            removed: false,
            slow_apply: false,
            stalled_until: 0,
            shadow: Shadow::default(),
            loose: u64::MAX,
        }
    }

    pub fn up(&self) -> bool {
        self.process.is_some() && !self.paused
    }

    /// Could run again some day.
    pub fn usable(&self) -> bool {
        self.dead.is_none() && !self.removed
    }

    /// This member's clock, in microseconds.
    pub fn clock(&self, now: u64) -> u64 {
        now * self.rate / 100
    }

    pub fn clock_ms(&self, now: u64) -> u64 {
        self.clock(now) / 1000
    }

    /// Opens what is on the disk, or makes it.
    pub fn open(
        &mut self,
        plan: &Plan,
        checks: &mut Checks,
        now_ms: u64,
    ) -> Result<Process, Refusal> {
        let found = self.disk.segments();
        if !self.created && found.is_empty() {
            return self.create(plan, now_ms);
        }
        self.created = true;
        self.reopen(plan, checks, now_ms)
    }

    fn options(&self, plan: &Plan) -> Options {
        Options {
            segment_bytes: plan.odd.segment_blocks * u64::from(plan.odd.block_bytes),
            block_bytes: plan.odd.block_bytes,
            small_segments: true,
            ..Options::default()
        }
    }

    fn create(&mut self, plan: &Plan, now_ms: u64) -> Result<Process, Refusal> {
        let start = Start {
            membership: self.first.clone(),
            ..Start::default()
        };
        let seed = plan.seed ^ self.id;
        let log = Driver::create_on(
            self.disk.clone(),
            self.identity,
            self.options(plan),
            seed,
            start,
            now_ms,
        )
        .map_err(|error| Refusal::Later(error.to_string()))?;
        self.created = true;
        let restored = Restored {
            membership: self.first.clone(),
            hard_state: log.hard_state(),
            ..Restored::default()
        };
        self.shadow.start(log.hard_state());
        let store = self.store(plan)?;
        self.assemble(plan, log, store, restored, BTreeMap::new(), 0)
    }

    pub fn store(&self, plan: &Plan) -> Result<Store<SimEngine>, Refusal> {
        let engine = SimEngine::open(&self.engine, plan.plant);
        let config = kvnode_store::Config {
            lease_ttl_min_seconds: 1,
            ..Default::default()
        };
        Store::open(engine, config).map_err(|error| Refusal::Never(error.to_string()))
    }

    fn reopen(
        &mut self,
        plan: &Plan,
        checks: &mut Checks,
        now_ms: u64,
    ) -> Result<Process, Refusal> {
        let mut store = self.store(plan)?;
        let floors = Floors {
            applied: store.applied().0,
            snapshot: 0,
            keep_after: 0,
        };
        let recovered = recover(&mut self.disk.clone(), Some(&self.identity), Some(floors));
        let mut found = recovered.map_err(|error| match error {
            Error::Damage(_) | Error::NoLog { .. } => Refusal::Never(error.to_string()),
            _ => Refusal::Later(error.to_string()),
        })?;
        // Nothing acknowledged is missing, damaged or not.
        if let Err(text) = self.shadow.compare(&found, self.loose) {
            checks.fail(format!("member {}: {text}", self.id));
        }
        if let Some(mark) = found.snapshot
            && mark.origin == Origin::Installed
            && mark.index > store.applied().0
        {
            let Some(staged) = self.staged.remove(&mark.index) else {
                return Err(Refusal::Never(format!(
                    "the state of index {} is missing",
                    mark.index
                )));
            };
            self.engine = staged;
            store = self.store(plan)?;
        }
        let (applied, applied_term) = store.applied();
        if found.first_index > applied + 1 {
            return Err(Refusal::Never(format!(
                "applied {applied}, but the log begins at {}",
                found.first_index
            )));
        }
        self.staged.clear();
        let restored = Restored {
            membership: found.membership.clone(),
            hard_state: found.hard_state,
            snapshot: (applied, applied_term),
            entries: std::mem::take(&mut found.entries),
            applied,
        };
        // A log that was purged begins behind an entry nobody can name; the store's place will do.
        let before = match restored.entries.first() {
            Some(first) => {
                let index = first.index - 1;
                (index, found.term_of(index))
            }
            None => (applied, Some(applied_term)),
        };
        let chain = match before {
            (index, Some(term)) => checks.read_back(self.id, (index, term), &restored.entries),
            (_, None) => {
                let behind = restored
                    .entries
                    .partition_point(|entry| entry.index <= applied);
                let behind = &restored.entries[behind..];
                checks.read_back(self.id, (applied, applied_term), behind)
            }
        };
        checks.counts.torn += u64::from(found.end.torn.is_some());
        let seed = plan.seed ^ self.id.rotate_left(8) ^ self.life;
        let log = Driver::resume_on(self.disk.clone(), &found, self.options(plan), seed, now_ms)
            .map_err(|error| Refusal::Later(error.to_string()))?;
        self.shadow.adopt(&found);
        self.loose = u64::MAX;
        let marked = found.membership.index;
        self.assemble(plan, log, store, restored, chain, marked)
    }

    fn assemble(
        &self,
        plan: &Plan,
        log: Driver<SimDisk>,
        store: Store<SimEngine>,
        restored: Restored,
        chain: BTreeMap<u64, u64>,
        marked: u64,
    ) -> Result<Process, Refusal> {
        let serves_from = restored.hard_state.commit.max(restored.applied);
        let config = Config {
            incarnation: self.life,
            seed: plan.seed ^ self.life.rotate_left(24),
            election_ticks: ELECTION_TICKS as usize,
            message_bytes_max: plan.odd.message_bytes,
            messages_in_flight_max: plan.odd.in_flight,
            committed_bytes_max: plan.odd.committed_bytes,
            entry_bytes_max: 2048,
            ..Config::new(self.id)
        };
        let replica =
            Replica::new(config, restored).map_err(|error| Refusal::Never(error.to_string()))?;
        let view = store.view();
        let limits = Limits {
            watchers_max: 1000,
            owner_watchers_max: 1000,
            stream_watchers_max: 1000,
            stream_backlog_bytes_max: plan.odd.backlog_bytes,
        };
        Ok(Process {
            life: self.life,
            voting: replica.membership().clone(),
            voted: None,
            replica,
            out: Output::default(),
            log,
            jobs: VecDeque::new(),
            taken: 0,
            writing: false,
            oldest_write: None,
            reported: 0,
            queue: VecDeque::new(),
            applying: false,
            compacting: true,
            chain,
            next_sequence: 0,
            pending: BTreeMap::new(),
            next_token: 0,
            reads: BTreeMap::new(),
            parked: Vec::new(),
            clock: LeaseClock::new(),
            led: (0, false),
            serves_from,
            watches: WatcherSet::new(view.revision(), view.compact_revision(), limits),
            sessions: BTreeMap::new(),
            ring: RecentChanges::new(plan.odd.ring_bytes, view.revision()),
            catching_up: 0,
            offers: BTreeMap::new(),
            marked,
            store,
        })
    }
}

impl Process {
    /// Carries out the jobs the disk has taken, as the log's thread does: everything that waits in
    /// as few writes as can be, one sync. Returns the writes that are durable now.
    pub fn perform(&mut self, now_ms: u64) -> Result<Vec<Write>, (Vec<Write>, Error)> {
        let mut done = Vec::new();
        while self.taken > 0 {
            let result = match self.jobs.front() {
                Some(Job::Write(write)) if write.install.is_some() => {
                    let install = write.install.clone().expect("just seen");
                    let mark = mark(install.index, install.term, Origin::Installed);
                    let marked = self.log.snapshot_mark(mark, &install.membership, now_ms);
                    self.marked = install.membership.index;
                    marked.and_then(|()| {
                        let Some(Job::Write(write)) = self.jobs.front() else {
                            return Ok(1);
                        };
                        self.log
                            .append(&write.entries, write.hard_state, true, now_ms)?;
                        Ok(1)
                    })
                }
                Some(Job::Write(_)) => self.append(now_ms),
                Some(Job::Purge { .. }) => self.purge(now_ms).map(|()| 1),
                None => Ok(0),
            };
            let count = match result {
                Ok(count) => count,
                Err(error) => return Err((done, error)),
            };
            self.taken -= count;
            for job in self.jobs.drain(..count) {
                if let Job::Write(write) = job {
                    done.push(write);
                }
            }
            if count == 0 {
                break;
            }
        }
        Ok(done)
    }

    /// Writes from the front that belong together, as one.
    fn append(&mut self, now_ms: u64) -> Result<usize, Error> {
        let (mut entries, mut hard_state, mut sync, mut count) = (Vec::new(), None, false, 0);
        for job in self.jobs.iter().take(self.taken) {
            match job {
                Job::Write(write) if write.install.is_none() => {
                    entries.extend(write.entries.iter().cloned());
                    hard_state = write.hard_state.or(hard_state);
                    sync |= write.must_sync;
                    count += 1;
                }
                _ => break,
            }
        }
        self.log.append(&entries, hard_state, sync, now_ms)?;
        Ok(count)
    }

    fn purge(&mut self, now_ms: u64) -> Result<(), Error> {
        let Some(Job::Purge {
            upto,
            term,
            membership,
        }) = self.jobs.front()
        else {
            return Ok(());
        };
        let upto = *upto;
        if membership.index > self.marked && upto <= self.log.last_index() {
            // The entries that made it may go now; whoever reads the log must still learn of it.
            let mark = mark(upto, *term, Origin::Local);
            self.log.snapshot_mark(mark, membership, now_ms)?;
            self.marked = membership.index;
        }
        self.log.purge(upto)?;
        Ok(())
    }

    /// First index that the jobs the disk has taken would write.
    pub fn loose(&self) -> u64 {
        let taken = self.jobs.iter().take(self.taken);
        let first = taken.filter_map(|job| match job {
            Job::Write(Write {
                install: Some(_), ..
            }) => Some(0),
            Job::Write(write) => write.entries.first().map(|entry| entry.index),
            Job::Purge { .. } => None,
        });
        first.min().unwrap_or(u64::MAX)
    }
}

fn mark(index: u64, term: u64, origin: Origin) -> SnapshotMark {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&index.to_le_bytes());
    SnapshotMark {
        index,
        term,
        id,
        origin,
    }
}

/// The store's part of an entry. A membership change carries one as its context.
pub fn command_of(entry: &Entry) -> bytes::Bytes {
    match entry.kind {
        EntryKind::Normal => entry.payload.clone(),
        EntryKind::ConfChange => {
            ConfChange::decode(&entry.payload).map_or_else(|_| Default::default(), |c| c.context)
        }
        EntryKind::Empty => bytes::Bytes::new(),
    }
}
