//! The watch side of a member: joins the store's tables of watchers with the streams of clients, as
//! the node's client core does.

use kvnode_api as api;
use kvnode_store::View;
use kvnode_store::engine::memory::MemoryView;
use kvnode_store::recent::RecentChanges;
use kvnode_store::watch::{CATCH_UP_REVISIONS_MAX, CatchUp, Delivery, StreamId};

use super::chance::fold;
use super::member::{CATCH_UPS_MAX, Process, Session};
use super::plan::MS;
use super::world::{Event, What, World};

impl World {
    pub(super) fn open_stream(
        &mut self,
        id: u64,
        watcher: usize,
        session: u64,
        request: &api::WatchCreateRequest,
    ) {
        let ready = self
            .process(id)
            .is_some_and(|p| p.store.applied().0 >= p.serves_from);
        if !ready {
            return self.after(MS, Event::Broken(watcher, session));
        }
        self.with(id, |world, _, process| {
            let stream = process.watches.open_stream(0);
            let place = Session {
                stream,
                watcher,
                session,
                busy_until: world.now,
            };
            process.sessions.insert(stream.index(), place);
            let mut answers = Vec::new();
            let current = process.store.view().revision();
            process
                .watches
                .create(stream, request, current, &mut answers);
            for answer in answers {
                world.tell(process, stream, answer, 0);
            }
            world.catch_up(id, process);
        });
    }

    pub(super) fn close_stream(&mut self, id: u64, watcher: usize, session: u64) {
        self.with(id, |_, _, process| {
            let found = process
                .sessions
                .values()
                .find(|s| (s.watcher, s.session) == (watcher, session));
            if let Some(&Session { stream, .. }) = found {
                process.watches.drop_stream(stream);
                process.sessions.remove(&stream.index());
            }
        });
    }

    pub(super) fn stream_progress(&mut self, id: u64, watcher: usize, session: u64) {
        self.with(id, |world, _, process| {
            let found = process
                .sessions
                .values()
                .find(|s| (s.watcher, s.session) == (watcher, session));
            if let Some(&Session { stream, .. }) = found
                && let Some(answer) = process.watches.progress(stream)
            {
                world.tell(process, stream, answer, 0);
            }
        });
    }

    pub(super) fn notify_progress(&mut self, id: u64) {
        self.with(id, |world, _, process| {
            world.after_of(id, process.life, 300 * MS, What::Notify);
            let streams: Vec<StreamId> = process.sessions.values().map(|s| s.stream).collect();
            let mut answers = Vec::new();
            for stream in streams {
                process.watches.tick(stream, &mut answers);
                for answer in answers.drain(..) {
                    world.tell(process, stream, answer, 0);
                }
            }
        });
    }

    /// What left for a client no longer counts.
    pub(super) fn left(&mut self, id: u64, watcher: usize, session: u64, cost: usize) {
        self.with(id, |world, _, process| {
            let found = process
                .sessions
                .values()
                .find(|s| (s.watcher, s.session) == (watcher, session));
            if let Some(&Session { stream, .. }) = found {
                process.watches.drained(stream, cost);
                world.catch_up(id, process);
            }
        });
    }

    /// A response sets out; a stream keeps its order.
    fn tell(
        &mut self,
        process: &mut Process,
        stream: StreamId,
        response: api::WatchResponse,
        cost: usize,
    ) {
        let Some(session) = process.sessions.get_mut(&stream.index()) else {
            return;
        };
        let slow = self
            .watchers
            .get(session.watcher)
            .map_or(0, |watcher| watcher.slow);
        let delay = self.chance.between((100, 800)) + slow;
        session.busy_until = session.busy_until.max(self.now + delay) + 1;
        let delay = session.busy_until - self.now;
        let (watcher, number) = (session.watcher, session.session);
        let revision = response.header.map_or(0, |header| header.revision);
        self.hash = fold(
            self.hash,
            fold(revision as u64, response.events.len() as u64),
        );
        self.after(
            delay,
            Event::Told(watcher, number, Box::new(response), cost),
        );
    }

    pub(super) fn send_deliveries(
        &mut self,
        id: u64,
        process: &mut Process,
        deliveries: Vec<Delivery<'_>>,
    ) {
        for delivery in deliveries {
            let cost = delivery.cost();
            let strip = |event: &api::Event| {
                let mut event = event.clone();
                event.prev_kv = event.prev_kv.filter(|_| delivery.prev_kv);
                event
            };
            let events: Vec<api::Event> = delivery.events.iter().map(strip).collect();
            let length = api::encode::watch_events_len(&events, delivery.prev_kv);
            self.checks.demand(length == delivery.events_len, || {
                "a delivery's length is wrong".into()
            });
            for target in &delivery.targets {
                let response = api::WatchResponse {
                    header: Some(api::ResponseHeader {
                        revision: delivery.revision,
                        ..Default::default()
                    }),
                    watch_id: target.watch_id,
                    events: events.clone(),
                    ..Default::default()
                };
                self.tell(process, target.stream, response, cost);
                if let Some(session) = process.sessions.get(&target.stream.index()) {
                    let what = What::Left(session.watcher, session.session, cost);
                    self.after_of(id, process.life, session.busy_until - self.now, what);
                }
            }
        }
    }

    pub(super) fn deliver_compaction(&mut self, _: u64, process: &mut Process) {
        let mut canceled = Vec::new();
        let revision = process.store.view().compact_revision();
        process.watches.compacted(revision, &mut canceled);
        for (stream, response) in canceled {
            self.tell(process, stream, response, 0);
        }
    }

    /// Starts reading history for watchers that are behind, from memory where that reaches.
    pub(super) fn catch_up(&mut self, id: u64, process: &mut Process) {
        while process.catching_up < CATCH_UPS_MAX {
            let Some(wanted) = process.watches.next_catch_up() else {
                break;
            };
            let view = process.store.view();
            let current = view.revision();
            let ring = std::mem::replace(&mut process.ring, RecentChanges::new(0, 0));
            let above = wanted.from > view.compact_revision();
            if let Some(changes) = ring.since(wanted.from).filter(|_| above) {
                let mut deliveries = Vec::new();
                let set = &mut process.watches;
                set.caught_up(wanted.id, changes, current, current, &mut deliveries);
                self.send_deliveries(id, process, deliveries);
            } else {
                process.catching_up += 1;
                let delay = self.chance.between(self.plan.apply);
                let what = What::CaughtUp(Box::new(wanted), view);
                self.after_of(id, process.life, delay, what);
            }
            process.ring = ring;
        }
    }

    /// A reader has looked at the view it was given.
    pub(super) fn caught_up(&mut self, id: u64, wanted: &CatchUp, view: &View<MemoryView>) {
        self.with(id, |world, _, process| {
            process.catching_up -= 1;
            let read = view.history(
                wanted.from,
                view.revision(),
                &wanted.range,
                CATCH_UP_REVISIONS_MAX,
            );
            let (changes, through) = match read {
                Ok(history) => (history.changes, history.next - 1),
                Err(status) => {
                    let compacted = status == api::Status::compacted();
                    world.checks.demand(compacted, || {
                        format!("{id} cannot read history: {status:?}")
                    });
                    (Vec::new(), wanted.from - 1)
                }
            };
            let mut deliveries = Vec::new();
            let current = process.store.view().revision();
            process
                .watches
                .caught_up(wanted.id, &changes, through, current, &mut deliveries);
            world.send_deliveries(id, process, deliveries);
            world.deliver_compaction(id, process);
            world.catch_up(id, process);
        });
    }
}
