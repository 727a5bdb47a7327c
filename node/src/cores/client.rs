//! The client core: one executor's share of the service. It owns what its connections need without asking anybody: the
//! published view, the value cache, the recent changes, its watchers, and the places where its requests wait.
//!
//! Invariant: cache, ring, watchers and view all change together, in `applied`, on this one thread. So a request that reads
//! the cache sees exactly the state at `revision()`.

mod reads;
mod reconfigure;

pub use reconfigure::Change;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kvnode_api::status::Status;
use kvnode_api::{AlarmType, KeyValue, ResponseHeader};
use kvnode_store::Response;
use kvnode_store::command::{Command, Header, Kind, RequestId};

use super::replica::ReplicaCore;
use super::{Applied, CoreMessage, LeaseAnswer, LeaseAsk, ReplicaMessage, View, post};
use crate::auth::{self, Asker, Authority, Provider};
use crate::cache::{Hash, Place, ValueCache};
use crate::mailbox::{Receiver, Sender};
use crate::metrics::{Limit, Queue};
use crate::pool::{Answer, Pool};
use crate::rt;
use crate::shared::Shared;
use crate::slots::{Pending, Slots, Ticket};
use crate::snapshots::PersisterSlot;
use crate::watches::Watches;
use kvnode_store::lease_clock::Renewal;
use kvnode_store::recent::RecentChanges;

/// Requests of one core that may wait for an answer of one kind at a time; beyond it: "too many requests".
const WAITING_MAX: usize = 65_536;
/// How often overdue requests are looked for.
const SWEEP: Duration = Duration::from_millis(250);
/// How often an executor looks how late it is.
const DELAY_STEP: Duration = Duration::from_millis(100);
/// What raft adds to a request's bytes, as far as the size limit counts it.
const ENVELOPE_BYTES: usize = 40;
/// Keys and values in the value cache.
const CACHE_BYTES: usize = 64 << 20;
/// Recent changes kept for watches.
const RING_BYTES: usize = 8 << 20;
/// The same while nobody watches: few enough that they are still in the processor's cache when they are dropped.
const RING_UNWATCHED_BYTES: usize = 64 << 10;
/// Answers are cut from buffers of this size, so that most need no allocation of their own.
const BUFFER_BYTES: usize = 64 << 10;

type Barrier = Result<(), Status>;
/// A write on its way. Dropped, its result goes nowhere.
pub type Proposal = Pending<Result<Response, Status>>;

/// What a client core is made of.
pub struct Start {
    pub number: usize,
    pub replica: Sender<ReplicaMessage>,
    pub readers: Pool,
    pub background: Pool,
    pub persisters: PersisterSlot,
    /// Hashes passwords.
    pub hashers: Pool,
    pub provider: Provider,
    pub view: View,
}

/// A key to get, and where it is in the value cache as far as that is known.
#[derive(Debug)]
pub struct Wanted {
    pub key: Bytes,
    pub hash: Hash,
    pub place: Option<Place>,
}

pub struct ClientCore {
    pub shared: Arc<Shared>,
    pub watches: Watches,
    pub authority: Authority,
    number: usize,
    replica: Sender<ReplicaMessage>,
    readers: Pool,
    background: Pool,
    hashers: Pool,
    proposals: Rc<RefCell<Slots<Result<Response, Status>>>>,
    answers: Rc<RefCell<Slots<Answer>>>,
    leases: Rc<RefCell<Slots<LeaseAnswer>>>,
    barriers: Rc<RefCell<Slots<Barrier>>>,
    orders: Rc<RefCell<Slots<Barrier>>>,
    peers: Rc<RefCell<Slots<Option<Bytes>>>>,
    applies: Rc<RefCell<Slots<()>>>,
    reads: RefCell<reads::Reads>,
    view: RefCell<View>,
    revision: Cell<i64>,
    applied_index: Cell<u64>,
    fenced: Cell<bool>,
    cache: RefCell<ValueCache>,
    /// Empty, but for its memory.
    warming: RefCell<Vec<Place>>,
    ring: RefCell<RecentChanges>,
    buffer: RefCell<BytesMut>,
    /// Tickets waiting for the next applied batch.
    apply_waiters: RefCell<Vec<Ticket>>,
    told_depths: Cell<[usize; 4]>,
    neighbour: OnceCell<Rc<RefCell<ReplicaCore>>>,
}

impl ClientCore {
    pub fn new(shared: Arc<Shared>, start: Start) -> Rc<Self> {
        let Start {
            number,
            replica,
            readers,
            background,
            hashers,
            provider,
            view,
            ..
        } = start;
        let core =
            u8::try_from(number).expect("client executors are counted by clamp(cores / 4, 2, 16)");
        let revision = view.revision();
        Rc::new(ClientCore {
            watches: Watches::new(Arc::clone(&shared), revision, view.compact_revision()),
            number,
            replica,
            readers,
            background,
            hashers,
            authority: Authority::new(provider),
            proposals: Slots::new(core, WAITING_MAX),
            answers: Slots::new(core, WAITING_MAX),
            leases: Slots::new(core, WAITING_MAX),
            barriers: Slots::new(core, WAITING_MAX),
            orders: Slots::new(core, WAITING_MAX),
            peers: Slots::new(core, WAITING_MAX),
            applies: Slots::new(core, WAITING_MAX),
            reads: RefCell::default(),
            applied_index: Cell::new(view.applied_index()),
            revision: Cell::new(revision),
            fenced: Cell::new(is_fenced(&view, shared.member_id)),
            view: RefCell::new(view),
            cache: RefCell::new(ValueCache::new(CACHE_BYTES)),
            warming: RefCell::default(),
            ring: RefCell::new(RecentChanges::new(RING_BYTES, revision)),
            buffer: RefCell::new(BytesMut::with_capacity(BUFFER_BYTES)),
            apply_waiters: RefCell::default(),
            told_depths: Cell::default(),
            neighbour: OnceCell::new(),
            shared,
        })
    }

    /// Starts the core's tasks on this executor: its inbox, and the sweep for overdue requests.
    pub fn start(self: &Rc<Self>, mut inbox: Receiver<CoreMessage>) {
        let core = Rc::clone(self);
        rt::spawn_local(async move {
            let mut messages = Vec::new();
            while inbox.take(&mut messages).await.is_ok() {
                for message in messages.drain(..) {
                    core.take(message);
                }
            }
        });
        let core = Rc::clone(self);
        rt::spawn_local(async move {
            loop {
                rt::sleep(SWEEP).await;
                core.sweep();
            }
        });
        let core = Rc::clone(self);
        rt::spawn_local(async move {
            loop {
                let due = Instant::now() + DELAY_STEP;
                rt::sleep(DELAY_STEP).await;
                let late = Instant::now().saturating_duration_since(due);
                core.shared
                    .metrics
                    .queues
                    .executor_delay_seconds
                    .observe(late);
            }
        });
        self.start_reads();
        self.watches.start(self);
    }

    fn take(self: &Rc<Self>, message: CoreMessage) {
        match message {
            CoreMessage::Applied(applied) => self.applied(applied),
            CoreMessage::Warm(pairs) => {
                let mut cache = self.cache.borrow_mut();
                // Told by the thread that tells of changes, in order: so these are of this core's revision, too.
                for pair in pairs.iter() {
                    cache.offer(pair);
                }
            }
            CoreMessage::Installed { index, view } => self.installed(index, view),
            CoreMessage::ReadIndex { token, index } => self.read_index(token, index),
            CoreMessage::Refused { ticket, status } => {
                self.proposals.borrow_mut().complete(ticket, Err(status));
            }
            CoreMessage::Answers(answers) => {
                let mut slots = self.answers.borrow_mut();
                for (ticket, answer) in answers {
                    slots.complete(ticket, answer);
                }
            }
            CoreMessage::Lease { ticket, answer } => {
                self.leases.borrow_mut().complete(ticket, answer);
            }
            CoreMessage::Done { ticket, result } => {
                self.orders.borrow_mut().complete(ticket, result);
            }
            CoreMessage::PeerAnswer { ticket, body } => {
                self.peers.borrow_mut().complete(ticket, body);
            }
            CoreMessage::Asked {
                from,
                ticket,
                kind,
                body,
            } => {
                let core = Rc::clone(self);
                rt::spawn_local(async move {
                    let Some(body) = crate::asked::answer(&core, from, kind, body).await else {
                        return;
                    };
                    let to = from;
                    post(&core.replica, ReplicaMessage::Answer { to, ticket, body });
                });
            }
            CoreMessage::Leader { leader } => self.watches.leader_changed(leader),
            CoreMessage::Stop => self.watches.stop(),
        }
    }

    fn applied(self: &Rc<Self>, applied: Applied) {
        {
            let mut cache = self.cache.borrow_mut();
            for event in applied.changes.iter().flat_map(|change| &change.events) {
                let Some(kv) = &event.kv else { continue };
                match event.r#type {
                    0 => cache.put(kv),
                    _ => cache.remove(&kv.key),
                }
            }
        }
        {
            let mut ring = self.ring.borrow_mut();
            ring.set_bytes_max(if self.watches.is_watched() {
                RING_BYTES
            } else {
                RING_UNWATCHED_BYTES
            });
            ring.push(&applied.changes);
        }
        self.take_view(applied.index, applied.view);
        self.authority
            .applied(&applied.tokens, self.shared.now_ms());
        {
            let mut proposals = self.proposals.borrow_mut();
            for (ticket, result) in applied.results {
                proposals.complete(ticket, result);
            }
        }
        let compact_revision = self.with_view(View::compact_revision);
        self.watches
            .deliver(self, &applied.changes, compact_revision);
        self.reached(applied.index);
    }

    /// The store went on to a state whose changes nobody tells: what was kept of the old one goes. Proposals that were
    /// applied on the way are not known by name, and time out.
    fn installed(self: &Rc<Self>, index: u64, view: View) {
        // Passwords may have changed in what was skipped.
        self.authority
            .applied(&[auth::tokens::Change::AllDropped], self.shared.now_ms());
        let (revision, compact_revision) = (view.revision(), view.compact_revision());
        self.cache.borrow_mut().clear();
        *self.ring.borrow_mut() = RecentChanges::new(RING_BYTES, revision);
        self.take_view(index, view);
        self.watches.jump(self, revision, compact_revision);
        self.reached(index);
    }

    fn take_view(&self, index: u64, view: View) {
        self.applied_index.set(index);
        self.revision.set(view.revision());
        self.fenced.set(is_fenced(&view, self.shared.member_id));
        *self.view.borrow_mut() = view;
    }

    /// Everything up to `index` is in this core's view.
    fn reached(&self, applied: u64) {
        self.reads_reached(applied);
        let mut applies = self.applies.borrow_mut();
        for ticket in self.apply_waiters.borrow_mut().drain(..) {
            applies.complete(ticket, ());
        }
    }

    fn sweep(&self) {
        let now_ms = self.shared.now_ms();
        let timed_out = self
            .proposals
            .borrow_mut()
            .expire(now_ms, |deadline_ms| Err(self.timed_out(deadline_ms)));
        self.shared
            .metrics
            .server
            .proposals_failed
            .add(timed_out as u64);
        let unconfirmed = self
            .barriers
            .borrow_mut()
            .expire(now_ms, |_| Err(Status::timed_out()));
        if unconfirmed > 0 {
            self.shared.metrics.server.read_indexes_failed.add(1);
        }
        self.orders
            .borrow_mut()
            .expire(now_ms, |_| Err(Status::timed_out()));
        self.peers.borrow_mut().expire(now_ms, |_| None);
        self.leases
            .borrow_mut()
            .expire(now_ms, |_| LeaseAnswer::NotLeader);
        self.applies.borrow_mut().expire(now_ms, |_| ());
        self.retry_read_index(now_ms);
        self.authority.sweep(now_ms);
        self.shared
            .metrics
            .server
            .proposals_pending
            .set(self.proposals.borrow().open_count() as i64);
        self.tell_depths();
        let mut cache = self.cache.borrow_mut();
        self.shared
            .metrics
            .store
            .cache_hits
            .add(std::mem::take(&mut cache.hits_count));
        self.shared
            .metrics
            .store
            .cache_misses
            .add(std::mem::take(&mut cache.misses_count));
        self.shared
            .vitals
            .cache_bytes
            .store(cache.bytes() as u64, Ordering::Relaxed);
    }

    /// What waits here, for the numbers of all executors together.
    fn tell_depths(&self) {
        let now = [
            (Queue::Proposals, self.proposals.borrow().open_count()),
            (
                Queue::ReadConfirmations,
                self.barriers.borrow().open_count(),
            ),
            (Queue::ReaderAnswers, self.answers.borrow().open_count()),
            (Queue::LeaseAnswers, self.leases.borrow().open_count()),
        ];
        let before = self.told_depths.replace(now.map(|(_, depth)| depth));
        for ((queue, now), before) in now.into_iter().zip(before) {
            self.shared.metrics.queues.changed(queue, before, now);
        }
    }

    /// Why a proposal has no result, as far as this member can tell.
    fn timed_out(&self, deadline_ms: u64) -> Status {
        let start_ms = deadline_ms.saturating_sub(self.shared.request_timeout_ms());
        self.shared.timeout_status(start_ms)
    }

    // What handlers use.

    /// The header of an answer at `revision`.
    pub fn header(&self, revision: i64) -> ResponseHeader {
        self.shared.header(revision)
    }

    /// Which of the executors for clients this is, from 0.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The store's revision as this core's requests see it.
    pub fn revision(&self) -> i64 {
        self.revision.get()
    }

    /// This member's state was found to differ from the majority's: clients must not see it.
    pub fn is_fenced(&self) -> bool {
        self.fenced.get()
    }

    /// The state after the newest batch this core has seen.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Something small of the state, without a clone of the handle.
    pub fn with_view<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.view.borrow())
    }

    /// Encodes an answer into this core's buffer and cuts it off.
    pub fn encode(
        &self,
        encode: impl FnOnce(&mut BytesMut) -> Result<(), Status>,
    ) -> Result<Bytes, Status> {
        let mut buffer = self.buffer.borrow_mut();
        if buffer.capacity() < 512 {
            buffer.reserve(BUFFER_BYTES);
        }
        encode(&mut buffer)?;
        Ok(buffer.split().freeze())
    }

    /// Looks a key up in the value cache.
    pub fn cached<T>(
        &self,
        key: &[u8],
        found: impl FnOnce(&crate::cache::Cached) -> T,
    ) -> Option<T> {
        self.cache.borrow_mut().get(key).map(found)
    }

    /// What the value cache knows a key by.
    pub fn hash(&self, key: &[u8]) -> Hash {
        self.cache.borrow().hash(key)
    }

    /// Where the value cache probably has a key.
    pub fn place(&self, hash: Hash) -> Option<Place> {
        self.cache.borrow().place(hash)
    }

    /// As [`ClientCore::cached`], with a place for a hint.
    pub fn cached_at<T>(
        &self,
        place: Place,
        key: &[u8],
        found: impl FnOnce(&crate::cache::Cached) -> T,
    ) -> Option<T> {
        self.cache.borrow_mut().get_at(place, key).map(found)
    }

    /// Gets of these follow at once: finds their places in the cache and looks at what is there, each in a tight loop, for
    /// which the processor fetches several lines of memory at once.
    pub fn warm<'a>(&self, wanted: impl Iterator<Item = &'a mut Wanted>) {
        let cache = self.cache.borrow();
        let mut places = self.warming.borrow_mut();
        for wanted in wanted {
            wanted.place = wanted.place.or_else(|| cache.place(wanted.hash));
            places.extend(wanted.place);
        }
        std::hint::black_box(cache.warm(places.drain(..)));
    }

    /// A key that is not cached is about to be read from the newest view.
    pub fn expect(&self, key: &[u8]) {
        self.cache.borrow_mut().expect(key, self.revision.get());
    }

    /// Keeps what a reader found at `revision`, unless the key has changed since.
    pub fn fill(&self, kv: &KeyValue, revision: i64) {
        self.cache.borrow_mut().fill(kv, revision);
    }

    /// The changes from `revision` on that are still in memory, as [`RecentChanges::since`].
    pub fn recent<T>(&self, look: impl FnOnce(&RecentChanges) -> T) -> T {
        look(&self.ring.borrow())
    }

    /// Proposes what the cluster does by itself and waits for its result.
    pub async fn propose(&self, kind: Kind, message: &[u8]) -> Result<Response, Status> {
        self.propose_as(&Asker::cluster_itself(), kind, message)
            .await
    }

    /// Proposes a write and waits for its result.
    pub async fn propose_as(
        &self,
        asker: &Asker,
        kind: Kind,
        message: &[u8],
    ) -> Result<Response, Status> {
        self.begin_proposal(asker, kind, message)?.await
    }

    /// Proposes a write, whose result comes later.
    ///
    /// # Errors
    /// It was not proposed.
    pub fn begin_proposal(
        &self,
        asker: &Asker,
        kind: Kind,
        message: &[u8],
    ) -> Result<Proposal, Status> {
        self.admit(message.len())?;
        let pending = self.open(&self.proposals)?;
        let request = RequestId {
            member: self.shared.member_id,
            incarnation: self.shared.incarnation,
            sequence: pending.ticket().0,
        };
        let header = Header {
            request,
            time_ms: self.shared.unix_ms(),
            user: asker.user.clone(),
            auth_revision: asker.revision,
        };
        let payload = Command::encode(kind, &header, message);
        post(
            &self.replica,
            ReplicaMessage::Propose {
                ticket: pending.ticket(),
                payload,
            },
        );
        Ok(pending)
    }

    fn admit(&self, message_bytes: usize) -> Result<(), Status> {
        let vitals = &self.shared.vitals;
        if vitals.stopping.load(Ordering::Relaxed) {
            return Err(Status::server_stopped());
        }
        if vitals.is_apply_behind() {
            self.refused(Limit::ApplyBacklog);
            return Err(Status::too_many_requests());
        }
        if message_bytes + ENVELOPE_BYTES > self.shared.config.limits.request_bytes_max {
            self.refused(Limit::RequestBytes);
            return Err(Status::request_too_large());
        }
        Ok(())
    }

    fn open<T>(&self, slots: &Rc<RefCell<Slots<T>>>) -> Result<Pending<T>, Status> {
        let deadline_ms = self.shared.now_ms() + self.shared.request_timeout_ms();
        Slots::open(slots, deadline_ms).ok_or_else(|| self.waiting_full())
    }

    /// As many requests wait as may.
    fn waiting_full(&self) -> Status {
        self.refused(Limit::Waiting);
        Status::too_many_requests()
    }

    /// Work was turned away by this limit.
    pub fn refused(&self, limit: Limit) {
        self.shared.metrics.limits.refused(limit);
    }

    /// Gives this core a look at the replica, where both share an executor.
    pub fn share_executor(&self, replica: &Rc<RefCell<ReplicaCore>>) {
        let _ = self.neighbour.set(Rc::clone(replica));
    }

    /// Whether this core's view is already at least as new as everything acknowledged before this call, without asking
    /// anybody: known only to a lone voter's core beside the replica.
    pub fn is_current(&self) -> bool {
        let Some(replica) = self.neighbour.get() else {
            return false;
        };
        let index = replica
            .try_borrow()
            .ok()
            .and_then(|replica| replica.read_now());
        index.is_some_and(|index| index <= self.applied_index.get())
    }

    /// Renews a lease without a message, where this core sits beside the leader's replica; `None` says to ask it.
    pub fn renew_now(&self, lease: i64) -> Option<Renewal> {
        let mut replica = self.neighbour.get()?.try_borrow_mut().ok()?;
        replica.renew_now(lease, self.applied_index.get())
    }

    /// Runs `work` on a reader thread.
    pub async fn on_reader<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        self.run_on(&self.readers, work).await
    }

    /// Runs `work` on the thread for what is slow by intention: hashing passwords.
    pub async fn on_hasher<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        self.run_on(&self.hashers, work).await
    }

    /// Runs `work` that may take minutes, one such piece of work at a time.
    pub async fn in_background<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        self.run_on(&self.background, work).await
    }

    async fn run_on<T: Send + 'static>(
        &self,
        pool: &Pool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        // No deadline of its own: the work always ends, and a caller that leaves drops the place.
        let pending = Slots::open(&self.answers, u64::MAX).ok_or_else(|| self.waiting_full())?;
        let work = Box::new(move || Box::new(work()) as Answer);
        pool.submit(pending.ticket(), work)
            .map_err(|_| self.waiting_full())?;
        let answer = pending
            .await
            .downcast::<T>()
            .expect("the place was opened for this very work");
        Ok(*answer)
    }

    /// Asks the leader's lease clock, wherever it is. An ask that is lost with its leader is answered as by a member that
    /// does not lead, after an election timeout.
    pub async fn lease(&self, lease: i64, renew: bool) -> Result<LeaseAnswer, Status> {
        let patience_ms = u64::try_from(self.shared.config.election_timeout.as_millis());
        let deadline_ms = self.shared.now_ms() + patience_ms.unwrap_or(u64::MAX / 4).max(1000);
        let pending = Slots::open(&self.leases, deadline_ms).ok_or_else(|| self.waiting_full())?;
        let ask = LeaseAsk {
            renew,
            lease,
            seen: self.applied_index.get(),
        };
        let ticket = pending.ticket();
        post(&self.replica, ReplicaMessage::Lease { ticket, ask });
        Ok(pending.await)
    }

    /// Asks the replica core to hand leadership to `to`; the answer says whether that began.
    pub async fn transfer_leader(&self, to: u64) -> Result<(), Status> {
        let pending = self.open(&self.orders)?;
        let ticket = pending.ticket();
        post(&self.replica, ReplicaMessage::Transfer { ticket, to });
        pending.await
    }

    /// Asks the replica core to send the state to a member that asked for it.
    pub async fn send_state(&self, to: u64, serial: u64) -> Result<(), Status> {
        let pending = self.open(&self.orders)?;
        let ticket = pending.ticket();
        post(
            &self.replica,
            ReplicaMessage::SendState { ticket, to, serial },
        );
        pending.await
    }

    /// Tells the replica core what is expected from `from`; see `ReplicaMessage::ExpectState`.
    pub fn expect_state(&self, from: u64, serial: u64) {
        let index_min = self.applied_index.get();
        post(
            &self.replica,
            ReplicaMessage::ExpectState {
                from,
                serial,
                index_min,
            },
        );
    }

    pub fn expect_no_state(&self) {
        post(&self.replica, ReplicaMessage::ExpectNoState);
    }

    /// Up to where the state this core sees has executed the log.
    pub fn applied_index(&self) -> u64 {
        self.applied_index.get()
    }

    /// Asks another member (see `asked.rs`); `None` if it cannot be reached or does not answer within `patience`.
    pub async fn ask_member(
        &self,
        to: u64,
        kind: u8,
        body: Bytes,
        patience: Duration,
    ) -> Option<Bytes> {
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX / 4);
        let deadline_ms = self.shared.now_ms() + patience_ms;
        let pending = Slots::open(&self.peers, deadline_ms)?;
        let ticket = pending.ticket();
        let ask = ReplicaMessage::Ask {
            ticket,
            to,
            kind,
            body,
        };
        post(&self.replica, ask);
        let answer = pending.await?;
        (answer.first() == Some(&kind)).then(|| answer.slice(1..))
    }

    /// Waits for the next applied batch, or the request timeout.
    pub async fn next_apply(&self) -> Result<(), Status> {
        let pending = self.open(&self.applies)?;
        self.apply_waiters.borrow_mut().push(pending.ticket());
        pending.await;
        Ok(())
    }
}

/// A lone member has nobody it could differ from: there the alarm is an operator's, and stops writes only.
pub fn is_fenced(view: &View, member_id: u64) -> bool {
    view.alarms().has(AlarmType::Corrupt, member_id) && view.members().len() > 1
}
