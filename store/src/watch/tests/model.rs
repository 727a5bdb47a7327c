//! The model: every watcher has a list of what it must see, computed from the whole history, and
//! what it was sent must always be a beginning of it that ends between two revisions.

use std::collections::BTreeMap;

use kvnode_api::Event;
use proptest::prelude::*;

use super::super::*;
use super::{change, create, delete, put};
use crate::change::Change;

const KEYS: [&str; 6] = ["a", "ab", "b", "c", "ca", "d"];
const ENDS: [&str; 6] = ["", "", "\0", "b", "cb", "e"];

#[derive(Clone, Debug)]
enum Op {
    Open,
    Drop(usize),
    Create {
        stream: usize,
        key: usize,
        end: usize,
        start: i64,
        id: i64,
        look: u8,
    },
    Cancel {
        stream: usize,
        watcher: usize,
    },
    Write(Vec<(usize, bool)>),
    Tell(usize),
    Read,
    Finish {
        read: usize,
        ahead: i64,
        ring: bool,
    },
    Drain {
        stream: usize,
        all: bool,
    },
    Compact(i64),
    Progress(usize),
    Tick(usize),
    Jump,
}

fn op() -> impl Strategy<Value = Op> {
    let write = proptest::collection::vec((0..KEYS.len(), any::<bool>()), 1..4);
    prop_oneof![
        2 => Just(Op::Open),
        1 => any::<usize>().prop_map(Op::Drop),
        8 => (any::<usize>(), 0..KEYS.len(), 0..ENDS.len(), -8i64..12, -1i64..5, any::<u8>())
            .prop_map(|(stream, key, end, start, id, look)| {
                Op::Create { stream, key, end, start, id, look }
            }),
        2 => (any::<usize>(), any::<usize>())
            .prop_map(|(stream, watcher)| Op::Cancel { stream, watcher }),
        12 => write.prop_map(Op::Write),
        8 => (1usize..5).prop_map(Op::Tell),
        8 => Just(Op::Read),
        8 => (any::<usize>(), -4i64..10, any::<bool>())
            .prop_map(|(read, ahead, ring)| Op::Finish { read, ahead, ring }),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(stream, all)| Op::Drain { stream, all }),
        1 => (0i64..12).prop_map(Op::Compact),
        2 => any::<usize>().prop_map(Op::Progress),
        2 => any::<usize>().prop_map(Op::Tick),
        1 => Just(Op::Jump),
    ]
}

#[derive(Debug)]
struct Seen {
    range: KeyRange,
    look: Look,
    from: i64,
    start: i64,
    notify: bool,
    /// How many of the events it must see were sent.
    sent: usize,
    since_tick: bool,
}

impl Seen {
    fn must_see<'a>(&'a self, history: &'a [Change]) -> impl Iterator<Item = (i64, &'a Event)> {
        history
            .iter()
            .filter(|change| change.revision >= self.from)
            .flat_map(|change| change.events.iter().map(|event| (change.revision, event)))
            .filter(|(_, event)| self.range.contains(&event.kv.as_ref().unwrap().key))
            .filter(|(_, event)| match event.r#type {
                0 => !self.look.no_put,
                _ => !self.look.no_delete,
            })
    }

    fn saw_all_up_to(&self, revision: i64, history: &[Change]) -> bool {
        self.must_see(history)
            .filter(|(at, _)| *at <= revision)
            .count()
            <= self.sent
    }
}

#[derive(Debug, Default)]
struct ModelStream {
    watchers: BTreeMap<i64, Seen>,
    next_auto: i64,
    unsent: Vec<usize>,
}

struct World {
    set: WatcherSet,
    history: Vec<Change>,
    told: i64,
    compacted: i64,
    streams: BTreeMap<StreamId, ModelStream>,
    reads: Vec<CatchUp>,
}

impl World {
    fn new() -> World {
        let limits = Limits {
            stream_backlog_bytes_max: 400,
            ..Default::default()
        };
        World {
            set: WatcherSet::new(1, -1, limits),
            history: vec![],
            told: 1,
            compacted: -1,
            streams: BTreeMap::new(),
            reads: vec![],
        }
    }

    fn revision(&self) -> i64 {
        1 + self.history.len() as i64
    }

    fn pick(&self, n: usize) -> Option<StreamId> {
        let count = self.streams.len();
        (count > 0).then(|| *self.streams.keys().nth(n % count).unwrap())
    }

    fn took(
        streams: &mut BTreeMap<StreamId, ModelStream>,
        history: &[Change],
        out: &[Delivery<'_>],
        is_live: bool,
    ) {
        for delivery in out {
            assert!(!delivery.events.is_empty() && !delivery.targets.is_empty());
            let encoded = kvnode_api::encode::watch_events(&delivery.events, delivery.prev_kv);
            assert_eq!(encoded.len(), delivery.events_len);
            for target in &delivery.targets {
                let stream = streams.get_mut(&target.stream).expect("open streams only");
                let seen = stream
                    .watchers
                    .get_mut(&target.watch_id)
                    .expect("living ones only");
                assert_eq!(delivery.prev_kv, seen.look.prev_kv);
                let mut rest = seen.must_see(history).skip(seen.sent);
                let mut last = 0;
                for event in &delivery.events {
                    let (revision, wanted) = rest.next().expect("no more than there is");
                    assert_eq!(event, wanted);
                    assert!(!is_live || revision == delivery.revision);
                    last = revision;
                }
                assert!(
                    rest.next().is_none_or(|(revision, _)| revision > last),
                    "split"
                );
                drop(rest);
                seen.sent += delivery.events.len();
                seen.since_tick = true;
                stream.unsent.push(delivery.cost());
            }
        }
    }

    fn step(&mut self, op: Op) {
        let current = self.revision();
        match op {
            Op::Open => {
                if self.streams.len() < 4 {
                    self.streams
                        .insert(self.set.open_stream(0), ModelStream::default());
                }
            }
            Op::Drop(n) => {
                if let Some(id) = self.pick(n) {
                    self.streams.remove(&id);
                    self.set.drop_stream(id);
                }
            }
            Op::Create {
                stream,
                key,
                end,
                start,
                id,
                look,
            } => {
                if let Some(stream) = self.pick(stream) {
                    self.create(stream, KEYS[key], ENDS[end], start, id, look);
                }
            }
            Op::Cancel { stream, watcher } => {
                let Some(id) = self.pick(stream) else { return };
                let model = self.streams.get_mut(&id).unwrap();
                let count = model.watchers.len();
                let watch_id = match count {
                    0 => 3,
                    _ => *model.watchers.keys().nth(watcher % count).unwrap(),
                };
                let known = model.watchers.remove(&watch_id).is_some();
                let answer = self.set.cancel(id, watch_id, current);
                assert_eq!(answer.is_some(), known);
            }
            Op::Write(events) => {
                let revision = current + 1;
                let events = events
                    .into_iter()
                    .map(|(key, is_put)| {
                        if is_put {
                            put(KEYS[key], revision)
                        } else {
                            delete(KEYS[key], revision)
                        }
                    })
                    .collect();
                self.history.push(change(revision, events));
            }
            Op::Tell(count) => {
                let first = (self.told - 1) as usize;
                let end = self.history.len().min(first + count);
                let mut out = vec![];
                // Some of them again: those must be passed over.
                self.set
                    .deliver(&self.history[first.saturating_sub(1)..end], &mut out);
                self.told = 1 + end as i64;
                assert_eq!(self.set.delivered(), self.told);
                Self::took(&mut self.streams, &self.history, &out, true);
            }
            Op::Read => self.reads.extend(self.set.next_catch_up()),
            Op::Finish { read, ahead, ring } => {
                if !self.reads.is_empty() {
                    let wish = self.reads.swap_remove(read % self.reads.len());
                    let through = (wish.through + ahead).clamp(wish.from - 1, current);
                    self.finish(wish, through, ring);
                }
            }
            Op::Drain { stream, all } => {
                let Some(id) = self.pick(stream) else { return };
                let unsent = &mut self.streams.get_mut(&id).unwrap().unsent;
                let count = if all {
                    unsent.len()
                } else {
                    unsent.len().min(1)
                };
                let bytes = unsent.drain(..count).sum();
                self.set.drained(id, bytes);
            }
            Op::Compact(behind) => {
                let target = current - behind;
                if target > self.compacted {
                    self.compacted = target;
                    self.cancel_compacted();
                }
            }
            Op::Progress(n) => {
                let Some(id) = self.pick(n) else { return };
                let answer = self.set.progress(id);
                self.check_progress(id, answer);
            }
            Op::Tick(n) => {
                let Some(id) = self.pick(n) else { return };
                let mut out = vec![];
                self.set.tick(id, &mut out);
                let full = self.set.streams.get(id.0).unwrap().backlog >= 400;
                let model = self.streams.get_mut(&id).unwrap();
                for answer in &out {
                    let seen = &model.watchers[&answer.watch_id];
                    assert!(seen.notify && !seen.since_tick);
                    assert!(seen.saw_all_up_to(self.told, &self.history));
                    assert_eq!(answer.header.unwrap().revision, self.told);
                }
                if !full {
                    model
                        .watchers
                        .values_mut()
                        .for_each(|seen| seen.since_tick = false);
                }
            }
            Op::Jump => {
                self.set.jump(current);
                self.told = self.told.max(current);
            }
        }
    }

    fn create(&mut self, stream: StreamId, key: &str, end: &str, start: i64, id: i64, look: u8) {
        let current = self.revision();
        // -8..-4 is negative, -4..0 is now, the rest spreads around the current revision.
        let start = match start {
            ..-6 => -1,
            -6..0 => 0,
            start => (current - 6 + start).max(1),
        };
        let look = Look {
            no_put: look & 7 == 1,
            no_delete: look & 7 == 2,
            prev_kv: look & 8 != 0,
        };
        let notify = true;
        let request = WatchCreateRequest {
            watch_id: id,
            filters: [(look.no_put, 0), (look.no_delete, 1)]
                .into_iter()
                .filter_map(|(on, filter)| on.then_some(filter))
                .collect(),
            prev_kv: look.prev_kv,
            progress_notify: notify,
            ..create(key, end, start)
        };
        let mut out = vec![];
        let found = self.set.create(stream, &request, current, &mut out);
        let model = self.streams.get_mut(&stream).unwrap();
        let range = KeyRange::for_watch(key.as_bytes(), end.as_bytes());
        let Some(range) =
            range.filter(|_| start >= 0 && (id == 0 || !model.watchers.contains_key(&id)))
        else {
            assert_eq!(found, None);
            assert_eq!((out.len(), out[0].watch_id), (1, -1));
            return;
        };
        let id = if id == 0 {
            while model.watchers.contains_key(&model.next_auto) {
                model.next_auto += 1;
            }
            model.next_auto += 1;
            model.next_auto - 1
        } else {
            id
        };
        assert!(out[0].created && !out[0].canceled);
        assert_eq!(
            (out[0].watch_id, out[0].header.unwrap().revision),
            (id, current)
        );
        if start > 0 && start < self.compacted {
            assert_eq!((found, out.len(), out[1].watch_id), (None, 2, id));
            assert_eq!(out[1].compact_revision, self.compacted);
            return;
        }
        assert_eq!((found, out.len()), (Some(id), 1));
        let from = if start == 0 { current + 1 } else { start };
        let seen = Seen {
            range,
            look,
            from,
            start,
            notify,
            sent: 0,
            since_tick: false,
        };
        assert!(model.watchers.insert(id, seen).is_none());
    }

    /// History is read as the store would: nothing if its beginning is gone.
    fn finish(&mut self, wish: CatchUp, through: i64, ring: bool) {
        let current = self.revision();
        let gone = wish.from < self.compacted;
        let through = if gone { wish.from - 1 } else { through };
        let changes: Vec<Change> = self
            .history
            .iter()
            .filter(|change| ring || (wish.from..=through).contains(&change.revision))
            .map(|change| {
                let mut change = change.clone();
                if !ring {
                    change
                        .events
                        .retain(|e| wish.range.contains(&e.kv.as_ref().unwrap().key));
                }
                change
            })
            .filter(|change| !change.events.is_empty())
            .collect();
        let mut out = vec![];
        self.set
            .caught_up(wish.id, &changes, through, current, &mut out);
        assert!(out.iter().all(|delivery| delivery.revision == current));
        Self::took(&mut self.streams, &self.history, &out, false);
        if gone {
            self.cancel_compacted();
        }
    }

    fn cancel_compacted(&mut self) {
        let synced: Vec<(StreamId, i64)> = self
            .set
            .watchers
            .iter()
            .filter(|(_, watcher)| watcher.synced)
            .map(|(_, watcher)| (StreamId(watcher.stream), watcher.watch_id))
            .collect();
        let mut out = vec![];
        self.set.compacted(self.compacted, &mut out);
        for (stream, answer) in out {
            assert!(
                !synced.contains(&(stream, answer.watch_id)),
                "nothing it needs is gone"
            );
            assert!(answer.canceled && answer.header == Some(ResponseHeader::default()));
            assert_eq!(answer.compact_revision, self.compacted);
            let model = self.streams.get_mut(&stream).unwrap();
            assert!(model.watchers.remove(&answer.watch_id).is_some());
        }
    }

    fn check_progress(&self, id: StreamId, answer: Option<WatchResponse>) {
        let model = &self.streams[&id];
        match answer {
            Some(answer) => {
                assert!(!model.watchers.is_empty());
                assert_eq!(
                    (answer.watch_id, answer.header.unwrap().revision),
                    (-1, self.told)
                );
                for seen in model.watchers.values() {
                    assert!(seen.saw_all_up_to(self.told, &self.history));
                    assert!(seen.start <= self.told);
                }
            }
            None => {
                let stream = self.set.streams.get(id.0).unwrap();
                let reason = model.watchers.is_empty()
                    || stream.unsynced > 0
                    || stream
                        .watchers
                        .values()
                        .any(|slot| self.set.watchers.get(*slot).unwrap().floor > self.told);
                assert!(reason, "progress without answer");
            }
        }
    }

    /// Everything is told, read and sent: now everyone has seen everything.
    fn settle(&mut self) {
        self.step(Op::Tell(usize::MAX / 2));
        let mut rounds = 0;
        loop {
            for (id, model) in &mut self.streams {
                let bytes = model.unsent.drain(..).sum();
                self.set.drained(*id, bytes);
            }
            let wish = self.reads.pop().or_else(|| self.set.next_catch_up());
            let Some(wish) = wish else { break };
            let current = self.revision();
            self.finish(wish, current, rounds % 2 == 0);
            self.set.assert_sound();
            rounds += 1;
            assert!(rounds < 10_000, "catching up never ends");
        }
        assert_eq!(self.set.unsynced_count(), 0);
        for model in self.streams.values() {
            for seen in model.watchers.values() {
                assert_eq!(seen.must_see(&self.history).count(), seen.sent, "{seen:?}");
            }
        }
        let ids: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in ids {
            let answer = self.set.progress(id);
            let late = self.streams[&id]
                .watchers
                .values()
                .any(|seen| seen.start > self.told);
            let none = self.streams[&id].watchers.is_empty();
            assert_eq!(answer.is_some(), !late && !none);
            self.check_progress(id, answer);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn every_watcher_sees_all_it_must_once_and_in_order(
        ops in proptest::collection::vec(op(), 1..150),
    ) {
        let mut world = World::new();
        world.step(Op::Open);
        for op in ops {
            world.step(op);
            world.set.assert_sound();
        }
        world.settle();
    }
}
