//! The watchers of one client core: joins the pure tables of the store with the connections.
//!
//! Every stream has an outbox. What a slow client does not take stays there up to the table's limit (see
//! `kvnode_store::watch::Limits`); beyond it the stream's watchers are read from history later, and nothing is held for
//! them. History comes from the ring of recent changes where it reaches back far enough, else from a reader thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kvnode_api::encode;
use kvnode_api::frame;
use kvnode_api::service::Method;
use kvnode_api::status::Status;
use kvnode_api::{WatchCreateRequest, WatchResponse};
use kvnode_store::Change;
use kvnode_store::watch::{
    CATCH_UP_REVISIONS_MAX, CatchUp, Delivery, HEAD_BYTES, Limits, StreamId, TOO_MANY, WatcherSet,
    pieces,
};

use crate::cores::client::ClientCore;
use crate::metrics::Limit;
use crate::rt;
use crate::shared::Shared;

/// A client that does not read costs its stream's backlog and one response of history, no more.
const LIMITS: Limits = Limits {
    watchers_max: 1_000_000,
    owner_watchers_max: 250_000,
    stream_watchers_max: 100_000,
    stream_backlog_bytes_max: 1 << 20,
};
/// History reads under way per core at the most; further watchers wait for their turn.
const READS_MAX: usize = 4;
/// Pause after a history read that failed for another reason than compaction.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How often streams that asked for a leader are checked for one.
const LEADER_CHECK: Duration = Duration::from_millis(250);

pub struct Watches {
    shared: Arc<Shared>,
    set: RefCell<WatcherSet>,
    /// By `StreamId::index`.
    streams: RefCell<Vec<Option<Rc<Outbox>>>>,
    reads_count: Cell<usize>,
    leaderless_since_ms: Cell<Option<u64>>,
    /// Other streams that want a leader, to be woken when there is none; see [`LeaderGuard`].
    guards: RefCell<Guards>,
    reported: Cell<(usize, usize, usize, usize)>,
}

/// What waits to be sent on one stream.
struct Outbox {
    id: StreamId,
    requires_leader: bool,
    /// A Watch call's, not the server's own: its answers are counted as sent.
    is_call: bool,
    queue: RefCell<VecDeque<(Bytes, usize)>>,
    waker: RefCell<Option<Waker>>,
    ended: RefCell<Option<Status>>,
}

impl Outbox {
    fn push(&self, frame: Bytes, cost: usize) {
        self.queue.borrow_mut().push_back((frame, cost));
        self.wake();
    }

    fn end(&self, status: Status) {
        *self.ended.borrow_mut() = Some(status);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// An open watch stream; dropping it drops its watchers.
pub struct Stream {
    core: Rc<ClientCore>,
    outbox: Rc<Outbox>,
}

/// What a stream has to do next.
pub enum Next {
    /// Send this, then report its cost through `sent`.
    Frame(Bytes, usize),
    /// The server ends the stream.
    End(Status),
}

#[derive(Default)]
struct Guards {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// For a stream that is no watch and asked for a leader: it ends when there has been none for too long.
pub struct LeaderGuard {
    core: Rc<ClientCore>,
    place: usize,
}

impl LeaderGuard {
    pub fn new(core: &Rc<ClientCore>) -> Self {
        let mut guards = core.watches.guards.borrow_mut();
        let place = guards.free.pop().unwrap_or(guards.wakers.len());
        if place == guards.wakers.len() {
            guards.wakers.push(None);
        }
        let core = Rc::clone(core);
        LeaderGuard { core, place }
    }

    /// Whether the stream has to end; if not, its task is woken when it may have to.
    pub fn poll_lost(&self, context: &Context<'_>) -> bool {
        let watches = &self.core.watches;
        let lost = watches.is_leaderless();
        if !lost {
            let waker = &mut watches.guards.borrow_mut().wakers[self.place];
            match waker {
                Some(known) => known.clone_from(context.waker()),
                None => *waker = Some(context.waker().clone()),
            }
        }
        lost
    }
}

impl Drop for LeaderGuard {
    fn drop(&mut self) {
        let mut guards = self.core.watches.guards.borrow_mut();
        guards.wakers[self.place] = None;
        guards.free.push(self.place);
    }
}

impl Watches {
    pub fn new(shared: Arc<Shared>, revision: i64, compact_revision: i64) -> Self {
        Watches {
            shared,
            set: RefCell::new(WatcherSet::new(revision, compact_revision, LIMITS)),
            streams: RefCell::default(),
            reads_count: Cell::new(0),
            leaderless_since_ms: Cell::new(None),
            guards: RefCell::default(),
            reported: Cell::default(),
        }
    }

    /// Starts the timers: progress notices, and the check for streams that want a leader.
    pub fn start(&self, core: &Rc<ClientCore>) {
        let interval = self.shared.config.watch_progress_notify_interval;
        let owner = Rc::clone(core);
        rt::spawn_local(async move {
            loop {
                rt::sleep(interval).await;
                owner.watches.notify_progress(&owner);
            }
        });
        let owner = Rc::clone(core);
        rt::spawn_local(async move {
            loop {
                rt::sleep(LEADER_CHECK).await;
                owner.watches.check_leader();
                owner.watches.report(&owner);
            }
        });
    }

    /// Opens a stream for one Watch call on this connection.
    pub fn open(core: &Rc<ClientCore>, connection: u64, requires_leader: bool) -> Stream {
        Watches::open_stream(core, connection, requires_leader, true)
    }

    /// Opens a stream that the server itself looks at, for a call that waits for keys to change.
    pub fn open_own(core: &Rc<ClientCore>, connection: u64, requires_leader: bool) -> Stream {
        Watches::open_stream(core, connection, requires_leader, false)
    }

    fn open_stream(
        core: &Rc<ClientCore>,
        connection: u64,
        requires_leader: bool,
        is_call: bool,
    ) -> Stream {
        let watches = &core.watches;
        let id = watches.set.borrow_mut().open_stream(connection);
        let outbox = Rc::new(Outbox {
            id,
            requires_leader,
            is_call,
            queue: RefCell::default(),
            waker: RefCell::default(),
            ended: RefCell::default(),
        });
        let mut streams = watches.streams.borrow_mut();
        if streams.len() <= id.index() {
            streams.resize_with(id.index() + 1, || None);
        }
        streams[id.index()] = Some(Rc::clone(&outbox));
        Stream {
            core: Rc::clone(core),
            outbox,
        }
    }

    /// An applied batch: hands its events out, cancels what compaction overtook.
    pub fn deliver(&self, core: &Rc<ClientCore>, changes: &[Change], compact_revision: i64) {
        let mut deliveries = Vec::new();
        self.set.borrow_mut().deliver(changes, &mut deliveries);
        self.send(core, deliveries);
        self.deliver_compaction(core, compact_revision);
        self.catch_up(core);
    }

    /// The store took over a snapshot: watchers read what they missed from its history; those for whom it does not
    /// reach back far enough are cancelled.
    pub fn jump(&self, core: &Rc<ClientCore>, revision: i64, compact_revision: i64) {
        self.set.borrow_mut().jump(revision);
        self.deliver_compaction(core, compact_revision);
        self.catch_up(core);
    }

    /// Leadership changed hands; 0: nobody leads.
    pub fn leader_changed(&self, leader: u64) {
        let since = (leader == 0).then(|| {
            self.leaderless_since_ms
                .get()
                .unwrap_or(self.shared.now_ms())
        });
        self.leaderless_since_ms.set(since);
    }

    /// The server is stopping: every stream ends.
    pub fn stop(&self) {
        for outbox in self.streams.borrow().iter().flatten() {
            outbox.end(Status::server_stopped());
        }
    }

    /// Whether there has been no leader for so long that streams which asked for one end.
    fn is_leaderless(&self) -> bool {
        let Some(since_ms) = self.leaderless_since_ms.get() else {
            return false;
        };
        let patience_ms =
            3 * u64::try_from(self.shared.config.election_timeout.as_millis()).unwrap_or(0);
        self.shared.now_ms() - since_ms >= patience_ms
    }

    fn check_leader(&self) {
        if !self.is_leaderless() {
            return;
        }
        for waker in self.guards.borrow_mut().wakers.iter_mut() {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
        for outbox in self
            .streams
            .borrow()
            .iter()
            .flatten()
            .filter(|outbox| outbox.requires_leader)
        {
            outbox.end(Status::no_leader());
        }
    }

    /// Whether anybody watches anything.
    pub fn is_watched(&self) -> bool {
        self.set.borrow().watchers_count() > 0
    }

    fn report(&self, core: &ClientCore) {
        let set = self.set.borrow();
        let now = (
            set.streams_count(),
            set.watchers_count(),
            set.unsynced_count(),
            set.backlog_bytes(),
        );
        let before = self.reported.replace(now);
        let metrics = &self.shared.metrics;
        metrics
            .store
            .watch_streams
            .add(now.0 as i64 - before.0 as i64);
        metrics.store.watchers.add(now.1 as i64 - before.1 as i64);
        metrics
            .store
            .slow_watchers
            .add(now.2 as i64 - before.2 as i64);
        metrics
            .store
            .watch_backlog_bytes
            .add(now.3 as i64 - before.3 as i64);
        let lag = if now.2 > 0 { set.lag_revisions() } else { 0 };
        metrics.store.watch_lag_revisions.set(core.number(), lag);
    }

    fn notify_progress(&self, core: &Rc<ClientCore>) {
        let streams: Vec<StreamId> = self
            .streams
            .borrow()
            .iter()
            .flatten()
            .map(|outbox| outbox.id)
            .collect();
        let mut responses = Vec::new();
        for stream in streams {
            self.set.borrow_mut().tick(stream, &mut responses);
            for response in responses.drain(..) {
                self.answer(core, stream, response);
            }
        }
    }

    /// Queues a response without events.
    fn answer(&self, core: &Rc<ClientCore>, stream: StreamId, mut response: WatchResponse) {
        let revision = response.header.map_or(0, |header| header.revision);
        response.header = Some(core.header(revision));
        match core.encode(|buffer| frame::encode_into(&response, buffer)) {
            Ok(frame) => self.push(stream, frame, 0),
            Err(status) => log::error!("a watch answer was not encoded: {status}"),
        }
    }

    /// The outbox of a stream that is still open.
    fn outbox(&self, stream: StreamId) -> Option<Rc<Outbox>> {
        let outbox = self.streams.borrow().get(stream.index()).cloned().flatten();
        outbox.filter(|outbox| outbox.id == stream)
    }

    fn push(&self, stream: StreamId, frame: Bytes, cost: usize) {
        if let Some(outbox) = self.outbox(stream) {
            if outbox.is_call {
                let here = self.shared.metrics.calls.here();
                here.method(Method::Watch).sent.add(1);
                here.sent_bytes.add(frame.len() as u64);
            }
            outbox.push(frame, cost);
        }
    }

    /// Encodes each delivery's events once and queues them for all its targets.
    fn send(&self, core: &Rc<ClientCore>, deliveries: Vec<Delivery<'_>>) {
        let fragment_bytes = self.shared.config.limits.request_bytes_max + (512 << 10);
        for delivery in deliveries {
            let header = core.header(delivery.revision);
            let events = encode::watch_events(&delivery.events, delivery.prev_kv);
            self.shared
                .metrics
                .store
                .events
                .add((delivery.events.len() * delivery.targets.len()) as u64);
            let cost = delivery.cost();
            let large = delivery.events_len + HEAD_BYTES >= fragment_bytes;
            let frame = |watch_id, fragment, events: &[u8]| {
                core.encode(|buffer: &mut BytesMut| {
                    encode::watch_frame(&header, watch_id, fragment, events, buffer)
                })
            };
            for target in &delivery.targets {
                let sent = if large && target.fragment {
                    let lengths = delivery
                        .events
                        .iter()
                        .map(|event| encode::watch_event_len(event, delivery.prev_kv));
                    let pieces = pieces(lengths, HEAD_BYTES, fragment_bytes);
                    pieces.into_iter().try_for_each(|piece| {
                        let cost = if piece.fragment { 0 } else { cost };
                        let frame = frame(target.watch_id, piece.fragment, &events[piece.bytes])?;
                        self.push(target.stream, frame, cost);
                        Ok(())
                    })
                } else {
                    frame(target.watch_id, false, &events)
                        .map(|frame| self.push(target.stream, frame, cost))
                };
                if let Err(status) = sent {
                    // Longer than any message may be: the client would wait for it for ever.
                    self.end(target.stream, status);
                }
            }
        }
    }

    fn end(&self, stream: StreamId, status: Status) {
        if let Some(outbox) = self.outbox(stream) {
            outbox.end(status);
        }
    }

    /// Starts reading history for watchers that are behind, as far as reads may run.
    fn catch_up(&self, core: &Rc<ClientCore>) {
        while self.reads_count.get() < READS_MAX {
            let Some(wanted) = self.set.borrow_mut().next_catch_up() else {
                break;
            };
            if !self.catch_up_from_ring(core, &wanted) {
                self.reads_count.set(self.reads_count.get() + 1);
                let core = Rc::clone(core);
                rt::spawn_local(async move {
                    core.watches.catch_up_from_history(&core, wanted).await;
                    core.watches
                        .reads_count
                        .set(core.watches.reads_count.get() - 1);
                    core.watches.catch_up(&core);
                });
            }
        }
    }

    fn catch_up_from_ring(&self, core: &Rc<ClientCore>, wanted: &CatchUp) -> bool {
        // At the compact revision itself events come without their previous pairs, which history knows to leave out.
        if wanted.from <= core.with_view(|view| view.compact_revision()) {
            return false;
        }
        core.recent(|ring| {
            let Some(changes) = ring.since(wanted.from) else {
                return false;
            };
            let current = core.revision();
            let mut deliveries = Vec::new();
            self.set
                .borrow_mut()
                .caught_up(wanted.id, changes, current, current, &mut deliveries);
            self.send(core, deliveries);
            true
        })
    }

    async fn catch_up_from_history(&self, core: &Rc<ClientCore>, wanted: CatchUp) {
        let view = core.view();
        let CatchUp {
            id, from, range, ..
        } = wanted;
        let read = core
            .on_reader(move || view.history(from, view.revision(), &range, CATCH_UP_REVISIONS_MAX))
            .await
            .and_then(|history| history);
        let (changes, through) = match read {
            Ok(history) => (history.changes, history.next - 1),
            Err(status) => {
                if status != Status::compacted() {
                    log::warn!(
                        "reading history from revision {from} for a watch: {status}; trying again"
                    );
                    rt::sleep(RETRY_PAUSE).await;
                }
                (Vec::new(), from - 1)
            }
        };
        let mut deliveries = Vec::new();
        let current = core.revision();
        self.set
            .borrow_mut()
            .caught_up(id, &changes, through, current, &mut deliveries);
        self.send(core, deliveries);
        // A watcher whose history compaction took is cancelled; any other waits for its next turn.
        let compact_revision = core.with_view(|view| view.compact_revision());
        self.deliver_compaction(core, compact_revision);
    }

    fn deliver_compaction(&self, core: &Rc<ClientCore>, compact_revision: i64) {
        let mut canceled = Vec::new();
        self.set
            .borrow_mut()
            .compacted(compact_revision, &mut canceled);
        for (stream, response) in canceled {
            self.answer(core, stream, response);
        }
    }
}

impl Stream {
    pub fn create(&self, request: &WatchCreateRequest) {
        let watches = &self.core.watches;
        let mut answers = Vec::new();
        watches.set.borrow_mut().create(
            self.outbox.id,
            request,
            self.core.revision(),
            &mut answers,
        );
        for answer in answers {
            if TOO_MANY.contains(&answer.cancel_reason.as_str()) {
                self.core.refused(Limit::Watchers);
            }
            watches.answer(&self.core, self.outbox.id, answer);
        }
        watches.catch_up(&self.core);
    }

    /// Answers a create request of somebody who may not have the watcher.
    pub fn refuse(&self, refused: &Status) {
        let watches = &self.core.watches;
        let reason = refused.to_cancel_reason();
        let answer = watches.set.borrow().refuse(&reason, self.core.revision());
        watches.answer(&self.core, self.outbox.id, answer);
    }

    pub fn cancel(&self, watch_id: i64) {
        let watches = &self.core.watches;
        let canceled =
            watches
                .set
                .borrow_mut()
                .cancel(self.outbox.id, watch_id, self.core.revision());
        if let Some(answer) = canceled {
            watches.answer(&self.core, self.outbox.id, answer);
        }
    }

    pub fn progress(&self) {
        let watches = &self.core.watches;
        let progress = watches.set.borrow_mut().progress(self.outbox.id);
        if let Some(answer) = progress {
            watches.answer(&self.core, self.outbox.id, answer);
        }
    }

    /// What to send next; pending while there is nothing.
    pub fn poll_next(&self, context: &mut Context<'_>) -> Poll<Next> {
        if let Some((frame, cost)) = self.outbox.queue.borrow_mut().pop_front() {
            return Poll::Ready(Next::Frame(frame, cost));
        }
        if let Some(status) = self.outbox.ended.borrow().clone() {
            return Poll::Ready(Next::End(status));
        }
        match &mut *self.outbox.waker.borrow_mut() {
            Some(waker) => waker.clone_from(context.waker()),
            empty => *empty = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// A frame of this cost is out.
    pub fn sent(&self, cost: usize) {
        if cost > 0 {
            let watches = &self.core.watches;
            watches.set.borrow_mut().drained(self.outbox.id, cost);
            watches.catch_up(&self.core);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let watches = &self.core.watches;
        watches.set.borrow_mut().drop_stream(self.outbox.id);
        watches.streams.borrow_mut()[self.outbox.id.index()] = None;
    }
}
