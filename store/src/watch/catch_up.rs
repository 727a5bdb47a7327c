//! History for watchers that are behind: which to read next, and handing it out.

use std::collections::BTreeMap;

use kvnode_api::{Event, KeyRange, encode};

use super::deliver::{Delivery, Events, Target};
use super::slots::Slot;
use super::{
    CATCH_UP_BYTES_MAX, CATCH_UP_REVISIONS_MAX, HEAD_BYTES, StreamId, WatcherSet, enqueue,
};
use crate::change::Change;

/// A piece of history that a watcher wants; give it to [`WatcherSet::caught_up`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatchUp {
    pub id: CatchUpId,
    /// First revision wanted.
    pub from: i64,
    /// Last revision wanted for now: what the set was told of. Reading on is allowed.
    pub through: i64,
    /// Changes of other keys are allowed, and left out.
    pub range: KeyRange,
}

/// Names a read that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUpId {
    interest: Slot,
    /// The watcher whose turn it was.
    watcher: Slot,
    from: i64,
}

/// The matching part of a piece of history.
struct Matched<'a> {
    /// Ascending by revision.
    events: Vec<(i64, &'a Event)>,
    /// Everything up to here is in it.
    covered: i64,
}

impl WatcherSet {
    /// What to read next, `None` if nobody waits who could be sent anything. Watchers take turns.
    ///
    /// Several reads may be under way, of different interests; every one has to be answered by
    /// [`WatcherSet::caught_up`], with nothing in it if reading failed.
    pub fn next_catch_up(&mut self) -> Option<CatchUp> {
        while let Some(slot) = self.queue.pop_front() {
            let Some(watcher) = self.watchers.get_mut(slot) else {
                continue;
            };
            watcher.waits = false;
            if watcher.synced {
                continue;
            }
            let stream = self
                .streams
                .get_mut(watcher.stream)
                .expect("streams outlive watchers");
            let interest = self
                .interests
                .get_mut(watcher.interest)
                .expect("kept by its watchers");
            if !stream.has_room(&self.limits) {
                watcher.waits = true;
                stream.parked.push(slot);
                if stream.parked.len() > 2 * stream.watchers.len() + 64 {
                    // Most of them were cancelled since.
                    stream
                        .parked
                        .retain(|slot| self.watchers.get(*slot).is_some());
                }
            } else if interest.reading {
                watcher.waits = true;
                interest.waiting.push(slot);
            } else {
                interest.reading = true;
                return Some(CatchUp {
                    id: CatchUpId {
                        interest: watcher.interest,
                        watcher: slot,
                        from: watcher.from,
                    },
                    from: watcher.from,
                    through: self.delivered,
                    range: interest.range.clone(),
                });
            }
        }
        None
    }

    /// The history asked for: `changes` hold, in order, every event of the interval in the
    /// revisions `from..=through`, whole revisions only. `through` may be any revision that
    /// reading got to, even one before `from` if it got nowhere; it may be past what the set was
    /// told of. `current` is the store's revision, for the headers.
    ///
    /// Serves the watcher whose turn it was and all others of its interest whose position lies in
    /// the piece. At most [`CATCH_UP_REVISIONS_MAX`] revisions with events are used, and no more
    /// once there are [`CATCH_UP_BYTES_MAX`] bytes; the watchers then wait for their next turn.
    pub fn caught_up<'a>(
        &mut self,
        id: CatchUpId,
        changes: impl IntoIterator<Item = &'a Change>,
        through: i64,
        current: i64,
        out: &mut Vec<Delivery<'a>>,
    ) {
        let Some(interest) = self.interests.get_mut(id.interest) else {
            return;
        };
        interest.reading = false;
        let prev_kv = interest.look.prev_kv;
        let (range, look) = (&interest.range, interest.look);
        let wanted = |event: &Event| {
            event.kv.as_ref().is_some_and(|kv| range.contains(&kv.key)) && look.wants(event)
        };
        let piece = Matched::cut(changes, id.from, through, prev_kv, wanted);
        // By their first event: the length of the events from there on, and who gets them.
        let mut groups: BTreeMap<usize, (usize, Vec<Target>)> = BTreeMap::new();
        for slot in &interest.members {
            let watcher = self.watchers.get_mut(*slot).expect("members exist");
            if watcher.synced || watcher.from < id.from || watcher.from > piece.covered {
                continue;
            }
            let stream = self
                .streams
                .get_mut(watcher.stream)
                .expect("streams outlive watchers");
            if !stream.has_room(&self.limits) {
                continue;
            }
            let first = piece
                .events
                .partition_point(|(revision, _)| *revision < watcher.from);
            if first < piece.events.len() {
                let (events_len, targets) = groups
                    .entry(first)
                    .or_insert_with(|| (piece.events_len(first, prev_kv), Vec::new()));
                targets.push(Target {
                    stream: StreamId(watcher.stream),
                    watch_id: watcher.watch_id,
                    fragment: watcher.fragment,
                });
                stream.backlog += HEAD_BYTES + *events_len;
                stream.floor = stream.floor.max(current);
                watcher.floor = watcher.floor.max(current);
                watcher.sent = true;
            }
            watcher.from = piece.covered + 1;
            if watcher.from > self.delivered {
                watcher.synced = true;
                stream.unsynced -= 1;
            }
        }
        out.extend(groups.into_iter().map(|(first, (events_len, targets))| {
            Delivery {
                revision: current,
                events: Events::Some(
                    piece.events[first..]
                        .iter()
                        .map(|(_, event)| *event)
                        .collect(),
                ),
                prev_kv,
                events_len,
                targets,
            }
        }));
        self.queue.extend(interest.waiting.drain(..));
        if let Some(watcher) = self.watchers.get_mut(id.watcher)
            && !watcher.synced
        {
            enqueue(&mut self.queue, watcher, id.watcher);
        }
    }
}

impl<'a> Matched<'a> {
    fn cut(
        changes: impl IntoIterator<Item = &'a Change>,
        from: i64,
        through: i64,
        prev_kv: bool,
        wanted: impl Fn(&Event) -> bool,
    ) -> Matched<'a> {
        let mut matched = Matched {
            events: Vec::new(),
            covered: from - 1,
        };
        let (mut revisions, mut bytes) = (0, 0);
        for change in changes {
            if change.revision < from {
                continue;
            }
            if change.revision > through {
                break;
            }
            if revisions == CATCH_UP_REVISIONS_MAX || bytes >= CATCH_UP_BYTES_MAX {
                return matched;
            }
            let before = matched.events.len();
            for event in change.events.iter().filter(|event| wanted(event)) {
                bytes += encode::watch_event_len(event, prev_kv);
                matched.events.push((change.revision, event));
            }
            revisions += usize::from(matched.events.len() > before);
            matched.covered = change.revision;
        }
        matched.covered = matched.covered.max(through);
        matched
    }

    /// Bytes of the events from one on.
    fn events_len(&self, first: usize, prev_kv: bool) -> usize {
        encode::watch_events_len(
            self.events[first..].iter().map(|(_, event)| *event),
            prev_kv,
        )
    }
}
