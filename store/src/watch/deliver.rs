//! Live changes: matched once, handed out in groups that share their events.

use std::collections::HashMap;

use kvnode_api::{Event, EventType, encode};

use super::slots::Slot;
use super::{HEAD_BYTES, StreamId, WatcherSet, enqueue};
use crate::change::Change;

/// One response for each of its targets, all with the same events.
#[derive(Debug)]
pub struct Delivery<'a> {
    /// For the header: of the change if it is live, else the store's current one.
    pub revision: i64,
    /// At least one.
    pub events: Events<'a>,
    /// Whether the previous pairs are to be sent.
    pub prev_kv: bool,
    /// Length of the encoded events, as `encode::watch_events` will write them, in bytes.
    pub events_len: usize,
    /// At least one; no watcher twice.
    pub targets: Vec<Target>,
}

impl Delivery<'_> {
    /// What each target adds to its stream's backlog, to be reported by `drained`, in bytes.
    pub fn cost(&self) -> usize {
        HEAD_BYTES + self.events_len
    }
}

/// A watcher that gets a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub stream: StreamId,
    pub watch_id: i64,
    /// Its client agreed to large responses being split.
    pub fragment: bool,
}

/// Events of a delivery, in order, without a copy of any.
#[derive(Clone, Debug)]
pub enum Events<'a> {
    /// All of a change.
    All(&'a [Event]),
    /// Some of one change or of several.
    Some(Vec<&'a Event>),
}

impl Events<'_> {
    pub fn iter(&self) -> EventsIter<'_> {
        match self {
            Events::All(events) => EventsIter::All(events.iter()),
            Events::Some(events) => EventsIter::Some(events.iter()),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Events::All(events) => events.len(),
            Events::Some(events) => events.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> IntoIterator for &'a Events<'_> {
    type Item = &'a Event;
    type IntoIter = EventsIter<'a>;

    fn into_iter(self) -> EventsIter<'a> {
        self.iter()
    }
}

/// See [`Events::iter`].
#[derive(Clone, Debug)]
pub enum EventsIter<'a> {
    All(std::slice::Iter<'a, Event>),
    Some(std::slice::Iter<'a, &'a Event>),
}

impl<'a> Iterator for EventsIter<'a> {
    type Item = &'a Event;

    fn next(&mut self) -> Option<&'a Event> {
        match self {
            EventsIter::All(events) => events.next(),
            EventsIter::Some(events) => events.next().copied(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            EventsIter::All(events) => events.size_hint(),
            EventsIter::Some(events) => events.size_hint(),
        }
    }
}

impl ExactSizeIterator for EventsIter<'_> {}

impl super::Look {
    pub(super) fn wants(self, event: &Event) -> bool {
        if event.r#type == EventType::Delete as i32 {
            !self.no_delete
        } else {
            !self.no_put
        }
    }
}

/// Deliveries of one change that are begun, to add targets to: by `prev_kv` for those with all
/// events, by the events' positions for the others.
#[derive(Default)]
struct Begun {
    all: [Option<usize>; 2],
    some: HashMap<(bool, Vec<u32>), usize>,
}

impl WatcherSet {
    /// The store made these changes, in order, each revision once. Changes the set was told of
    /// before are passed over; after a gap it goes on as by [`WatcherSet::jump`]. Appends what to
    /// send, ascending by revision.
    pub fn deliver<'a>(&mut self, changes: &'a [Change], out: &mut Vec<Delivery<'a>>) {
        for change in changes {
            if change.revision <= self.delivered {
                continue;
            }
            if change.revision > self.delivered + 1 {
                self.jump(change.revision - 1);
            }
            self.delivered = change.revision;
            self.match_events(change);
            self.hand_out(change, out);
        }
    }

    /// Notes at every interest which events of the change it wants.
    fn match_events(&mut self, change: &Change) {
        let WatcherSet {
            interests,
            singles,
            ranges,
            touched,
            ..
        } = self;
        for (event, position) in change.events.iter().zip(0u32..) {
            let Some(kv) = &event.kv else { continue };
            let mut note = |slot: Slot| {
                let interest = interests.get_mut(slot).expect("listed interests exist");
                if interest.look.wants(event) {
                    if interest.matched.is_empty() {
                        touched.push(slot);
                    }
                    interest.matched.push(position);
                }
            };
            if let Some(slots) = singles.get(&kv.key) {
                slots.iter().for_each(|slot| note(*slot));
            }
            ranges.stab(&kv.key, note);
        }
    }

    fn hand_out<'a>(&mut self, change: &'a Change, out: &mut Vec<Delivery<'a>>) {
        let mut begun = Begun::default();
        let mut touched = std::mem::take(&mut self.touched);
        for slot in touched.drain(..) {
            let interest = self
                .interests
                .get_mut(slot)
                .expect("listed interests exist");
            let mut matched = std::mem::take(&mut interest.matched);
            self.hand_out_to(slot, change, &matched, &mut begun, out);
            matched.clear();
            if let Some(interest) = self.interests.get_mut(slot) {
                interest.matched = matched;
            }
        }
        self.touched = touched;
    }

    fn hand_out_to<'a>(
        &mut self,
        interest: Slot,
        change: &'a Change,
        matched: &[u32],
        begun: &mut Begun,
        out: &mut Vec<Delivery<'a>>,
    ) {
        let WatcherSet {
            interests,
            watchers,
            streams,
            queue,
            limits,
            fell_behind,
            compact_revision,
            ..
        } = self;
        let interest = interests.get(interest).expect("listed interests exist");
        let mut delivery = None;
        for slot in &interest.members {
            let watcher = watchers.get_mut(*slot).expect("members exist");
            if !watcher.synced || change.revision < watcher.from {
                continue;
            }
            let stream = streams
                .get_mut(watcher.stream)
                .expect("streams outlive watchers");
            if !stream.has_room(limits) {
                watcher.synced = false;
                watcher.from = change.revision;
                *fell_behind |= watcher.from < *compact_revision;
                stream.unsynced += 1;
                enqueue(queue, watcher, *slot);
                continue;
            }
            let place = *delivery
                .get_or_insert_with(|| begun.place(change, matched, interest.look.prev_kv, out));
            let delivery: &mut Delivery<'_> = &mut out[place];
            stream.backlog += delivery.cost();
            watcher.sent = true;
            delivery.targets.push(Target {
                stream: StreamId(watcher.stream),
                watch_id: watcher.watch_id,
                fragment: watcher.fragment,
            });
        }
    }
}

impl Begun {
    /// Where in `out` the delivery of these events stands; begins it if need be.
    fn place<'a>(
        &mut self,
        change: &'a Change,
        matched: &[u32],
        prev_kv: bool,
        out: &mut Vec<Delivery<'a>>,
    ) -> usize {
        let next = out.len();
        let whole = matched.len() == change.events.len();
        let place = if whole {
            *self.all[usize::from(prev_kv)].get_or_insert(next)
        } else {
            *self.some.entry((prev_kv, matched.to_vec())).or_insert(next)
        };
        if place == next {
            let events = if whole {
                Events::All(&change.events)
            } else {
                Events::Some(
                    matched
                        .iter()
                        .map(|i| &change.events[*i as usize])
                        .collect(),
                )
            };
            out.push(Delivery {
                revision: change.revision,
                prev_kv,
                events_len: encode::watch_events_len(&events, prev_kv),
                events,
                targets: Vec::new(),
            });
        }
        place
    }
}
