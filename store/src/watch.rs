//! Who watches what, and what each watcher gets to see next. No clock, no I/O, no waiting.
//!
//! One [`WatcherSet`] serves the watch streams of one executor. Its owner tells it of requests, of
//! every [`Change`](crate::Change) in order, of history it asked for, and of bytes that left; it answers with
//! what to send. The promises, per watcher:
//!
//! - the created answer comes before any event;
//! - revisions strictly ascend, and all events of one revision come in one response;
//! - every event from the start revision on that its interval and filters let through comes
//!   exactly once, until the watcher is cancelled.
//!
//! A watcher is in one of two states. *Synced*: it has seen everything up to `delivered`, the
//! last change the set was told of, and gets each further one as it happens (one that starts
//! in the future is synced too and skips changes before its start). *Unsynced*: it wants history
//! from its own position on; `next_catch_up` says which, `caught_up` takes it, until the position
//! is past `delivered`. A synced watcher whose stream has its backlog full becomes unsynced at the
//! revision that did not fit, so a slow client costs a re-read and never memory or others' time.
//! Unsynced watchers wait in exactly one place: the queue, their stream's parking place while it
//! has no room, or behind a read of the same interest that is under way.
//!
//! Watchers with equal interval, filters and `prev_kv` form an *interest*. Changes are matched
//! against interests, history is read once per interest, and the events of a [`Delivery`] are
//! encoded once for all its targets.

mod catch_up;
mod deliver;
mod fragment;
mod intervals;
mod slots;

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use kvnode_api::status::cancel_reason;
use kvnode_api::{FilterType, KeyRange, ResponseHeader, WatchCreateRequest, WatchResponse};

pub use catch_up::{CatchUp, CatchUpId};
pub use deliver::{Delivery, Events, EventsIter, Target};
pub use fragment::{Piece, pieces};

use intervals::Intervals;
use slots::{Slot, Slots};

/// Most main revisions in one response of history.
pub const CATCH_UP_REVISIONS_MAX: usize = 1000;

/// A response of history takes up no further revision once its events have this many bytes.
pub const CATCH_UP_BYTES_MAX: usize = 6 << 20;

/// What a response without its events is taken to cost, in bytes.
pub const HEAD_BYTES: usize = 64;

/// Id in refusals and in answers to progress requests.
const NO_WATCH_ID: i64 = -1;

/// Why a create request is refused for the number of watchers; no text of the protocol fits.
pub const TOO_MANY: [&str; 3] = [TOO_MANY_WATCHERS, TOO_MANY_OF_OWNER, TOO_MANY_ON_STREAM];

/// Refusal when the set is full.
pub const TOO_MANY_WATCHERS: &str = "kvnode: too many watchers on this server";

/// Why a create request is refused when its stream alone has [`Limits::stream_watchers_max`].
pub const TOO_MANY_ON_STREAM: &str = "kvnode: too many watchers on this stream";

/// Why it is refused when the streams of its owner have [`Limits::owner_watchers_max`] together.
pub const TOO_MANY_OF_OWNER: &str = "kvnode: too many watchers on this connection";

/// Handle of a watch stream; never valid again once the stream is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(Slot);

impl StreamId {
    /// A small number, unique among open streams: for the owner's own table. Used again later.
    pub fn index(self) -> usize {
        self.0.index as usize
    }
}

/// Bounds of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Watchers over all streams; when full, creates are refused and the streams live on.
    pub watchers_max: usize,
    /// Watchers of all streams of one owner, so that no client alone takes what there is for all.
    pub owner_watchers_max: usize,
    /// Watchers of one stream.
    pub stream_watchers_max: usize,
    /// Bytes handed out for a stream and not reported as gone. When reached, its watchers become
    /// unsynced; one response may go over it, so that any response fits an empty stream.
    pub stream_backlog_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            watchers_max: 1_000_000,
            owner_watchers_max: 250_000,
            stream_watchers_max: 100_000,
            stream_backlog_bytes_max: 4 << 20,
        }
    }
}

/// What equal watchers have in common.
#[derive(Debug)]
struct Interest {
    range: KeyRange,
    look: Look,
    members: Vec<Slot>,
    /// Events of the change being matched, by position; empty between changes.
    matched: Vec<u32>,
    /// Its history is being read.
    reading: bool,
    /// Members whose turn came while it was being read.
    waiting: Vec<Slot>,
}

/// Which events of its interval, and how much of them, a watcher wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    no_put: bool,
    no_delete: bool,
    prev_kv: bool,
}

#[derive(Debug)]
struct Watcher {
    stream: Slot,
    interest: Slot,
    /// Place among the interest's members.
    position: usize,
    watch_id: i64,
    /// First revision it has yet to see. While synced it is only looked at for being later.
    from: i64,
    /// Progress below this revision would contradict what the client was told.
    floor: i64,
    synced: bool,
    /// It stands in the queue, a parking place or behind a read.
    waits: bool,
    progress_notify: bool,
    /// Events were sent since the last tick.
    sent: bool,
    fragment: bool,
}

#[derive(Debug)]
struct Stream {
    owner: u64,
    watchers: BTreeMap<i64, Slot>,
    next_auto_id: i64,
    /// Bytes handed out and not reported as gone.
    backlog: usize,
    /// Unsynced watchers that wait for room.
    parked: Vec<Slot>,
    unsynced: usize,
    /// At least the highest floor of its watchers.
    floor: i64,
}

/// The watchers of one executor.
#[derive(Debug)]
pub struct WatcherSet {
    limits: Limits,
    delivered: i64,
    compact_revision: i64,
    /// A watcher became unsynced at a revision that was compacted already.
    fell_behind: bool,
    streams: Slots<Stream>,
    /// Watchers by owner; no entry for none.
    owned: HashMap<u64, usize>,
    watchers: Slots<Watcher>,
    interests: Slots<Interest>,
    singles: HashMap<Bytes, Vec<Slot>>,
    ranges: Intervals<Slot>,
    queue: VecDeque<Slot>,
    /// Interests met by the change being matched; empty between changes.
    touched: Vec<Slot>,
}

impl WatcherSet {
    /// `delivered` is the store's revision: changes above it will be told. `compact_revision` is
    /// the lowest readable one (-1 if never compacted).
    pub fn new(delivered: i64, compact_revision: i64, limits: Limits) -> WatcherSet {
        WatcherSet {
            limits,
            delivered,
            compact_revision,
            fell_behind: false,
            streams: Slots::new(),
            owned: HashMap::new(),
            watchers: Slots::new(),
            interests: Slots::new(),
            singles: HashMap::new(),
            ranges: Intervals::new(),
            queue: VecDeque::new(),
            touched: Vec::new(),
        }
    }

    /// The last revision the set was told of.
    pub fn delivered(&self) -> i64 {
        self.delivered
    }

    /// Watchers over all streams.
    pub fn watchers_count(&self) -> usize {
        self.watchers.len()
    }

    /// Open streams.
    pub fn streams_count(&self) -> usize {
        self.streams.len()
    }

    /// Watchers that wait for history, or for room to send it.
    pub fn unsynced_count(&self) -> usize {
        self.streams.iter().map(|(_, stream)| stream.unsynced).sum()
    }

    /// Revisions that the watcher which is furthest behind has yet to be sent or found to be without interest; 0 if none
    /// is behind. Costs a look at each watcher of the streams that have one.
    pub fn lag_revisions(&self) -> i64 {
        let behind = self.streams.iter().filter(|(_, open)| open.unsynced > 0);
        let watchers = behind.flat_map(|(_, open)| open.watchers.values());
        let unsynced = watchers
            .filter_map(|slot| self.watchers.get(*slot))
            .filter(|watcher| !watcher.synced);
        let lags = unsynced.map(|watcher| (self.delivered - watcher.from + 1).max(0));
        lags.max().unwrap_or(0)
    }

    /// Bytes handed out over all streams and not reported as gone.
    pub fn backlog_bytes(&self) -> usize {
        self.streams.iter().map(|(_, open)| open.backlog).sum()
    }

    /// A client opened a stream. `owner` is whatever streams of the same client have in common, such as their connection.
    pub fn open_stream(&mut self, owner: u64) -> StreamId {
        StreamId(self.streams.insert(Stream {
            owner,
            watchers: BTreeMap::new(),
            next_auto_id: 0,
            backlog: 0,
            parked: Vec::new(),
            unsynced: 0,
            floor: 0,
        }))
    }

    /// A stream ended; its watchers go with it.
    pub fn drop_stream(&mut self, stream: StreamId) {
        let Some(gone) = self.streams.remove(stream.0) else {
            return;
        };
        self.disown(gone.owner, gone.watchers.len());
        for slot in gone.watchers.into_values() {
            self.forget(slot);
        }
    }

    /// A create request. Appends its one or two answers, whose headers carry only the revision,
    /// and returns the id of the watcher if there is one now.
    ///
    /// `current` is the store's revision as the client may know it from other answers; it may be
    /// ahead of what the set was told. Permissions have been checked.
    pub fn create(
        &mut self,
        stream: StreamId,
        request: &WatchCreateRequest,
        current: i64,
        out: &mut Vec<WatchResponse>,
    ) -> Option<i64> {
        let current = current.max(self.delivered);
        let open = self.streams.get_mut(stream.0)?;
        let start = request.start_revision;
        if start < 0 {
            out.push(refusal(cancel_reason::COMPACTED, current));
            return None;
        }
        let Some(range) = KeyRange::for_watch(&request.key, &request.range_end) else {
            out.push(refusal(cancel_reason::EMPTY_RANGE, current));
            return None;
        };
        if request.watch_id != 0 && open.watchers.contains_key(&request.watch_id) {
            out.push(refusal(cancel_reason::DUPLICATE_ID, current));
            return None;
        }
        if self.watchers.len() >= self.limits.watchers_max {
            out.push(refusal(TOO_MANY_WATCHERS, current));
            return None;
        }
        let owned = self.owned.get(&open.owner).copied().unwrap_or(0);
        if owned >= self.limits.owner_watchers_max {
            out.push(refusal(TOO_MANY_OF_OWNER, current));
            return None;
        }
        if open.watchers.len() >= self.limits.stream_watchers_max {
            out.push(refusal(TOO_MANY_ON_STREAM, current));
            return None;
        }
        let watch_id = open.pick_id(request.watch_id);
        out.push(WatchResponse {
            watch_id,
            created: true,
            ..response(current)
        });
        if 0 < start && start < self.compact_revision {
            out.push(compacted_response(watch_id, self.compact_revision));
            return None;
        }
        let from = if start == 0 { current + 1 } else { start };
        self.register(stream.0, watch_id, range, request, from, start.max(current));
        Some(watch_id)
    }

    /// The answer to a create request that is refused for a reason found elsewhere, such as a missing
    /// permission.
    pub fn refuse(&self, reason: &str, current: i64) -> WatchResponse {
        refusal(reason, current.max(self.delivered))
    }

    /// A cancel request. `None`, and no answer to send, if there is no such watcher.
    pub fn cancel(
        &mut self,
        stream: StreamId,
        watch_id: i64,
        current: i64,
    ) -> Option<WatchResponse> {
        let slot = *self.streams.get(stream.0)?.watchers.get(&watch_id)?;
        self.remove(slot);
        Some(WatchResponse {
            watch_id,
            canceled: true,
            ..response(current.max(self.delivered))
        })
    }

    /// A progress request. Answered only if the stream has watchers, all have seen everything up
    /// to `delivered`, and none was told a later revision or starts later; a client asks again.
    pub fn progress(&mut self, stream: StreamId) -> Option<WatchResponse> {
        let open = self.streams.get_mut(stream.0)?;
        if open.watchers.is_empty() || open.unsynced > 0 {
            return None;
        }
        if open.floor > self.delivered {
            // The highest may have been that of a watcher which is gone.
            let floors = open
                .watchers
                .values()
                .filter_map(|slot| self.watchers.get(*slot));
            open.floor = floors.map(|watcher| watcher.floor).max().unwrap_or(0);
            if open.floor > self.delivered {
                return None;
            }
        }
        Some(WatchResponse {
            watch_id: NO_WATCH_ID,
            ..response(self.delivered)
        })
    }

    /// The stream's time for progress notices has come. Appends one for every watcher that asked
    /// for them, has seen everything, and got no event since the last tick. A stream without room
    /// gets none.
    pub fn tick(&mut self, stream: StreamId, out: &mut Vec<WatchResponse>) {
        let Some(open) = self.streams.get(stream.0) else {
            return;
        };
        if !open.has_room(&self.limits) {
            return;
        }
        for (watch_id, slot) in &open.watchers {
            let Some(watcher) = self.watchers.get_mut(*slot) else {
                continue;
            };
            let quiet = !std::mem::take(&mut watcher.sent);
            if watcher.progress_notify && quiet && watcher.synced && watcher.floor <= self.delivered
            {
                out.push(WatchResponse {
                    watch_id: *watch_id,
                    ..response(self.delivered)
                });
            }
        }
    }

    /// History below `compact_revision` is gone. Appends the cancellation of every watcher that
    /// still wanted some of it; those watchers no longer exist. To be told when the store compacts,
    /// and again when a read fails for that reason: a watcher may have fallen behind since. Costs
    /// nothing if it changes nothing.
    pub fn compacted(&mut self, compact_revision: i64, out: &mut Vec<(StreamId, WatchResponse)>) {
        if compact_revision <= self.compact_revision && !self.fell_behind {
            return;
        }
        let compact_revision = compact_revision.max(self.compact_revision);
        self.compact_revision = compact_revision;
        self.fell_behind = false;
        let overtaken: Vec<Slot> = self
            .watchers
            .iter()
            .filter(|(_, watcher)| !watcher.synced && watcher.from < compact_revision)
            .map(|(slot, _)| slot)
            .collect();
        for slot in overtaken {
            if let Some(watcher) = self.remove(slot) {
                let canceled = compacted_response(watcher.watch_id, compact_revision);
                out.push((StreamId(watcher.stream), canceled));
            }
        }
    }

    /// The store went on to `revision` without telling its changes (it took over a snapshot):
    /// watchers read from history what they missed.
    pub fn jump(&mut self, revision: i64) {
        if revision <= self.delivered {
            return;
        }
        let behind: Vec<Slot> = self
            .watchers
            .iter()
            .filter(|(_, watcher)| watcher.synced && watcher.from <= revision)
            .map(|(slot, _)| slot)
            .collect();
        for slot in behind {
            if let Some(watcher) = self.watchers.get_mut(slot) {
                watcher.from = watcher.from.max(self.delivered + 1);
                watcher.synced = false;
                self.fell_behind |= watcher.from < self.compact_revision;
                if let Some(open) = self.streams.get_mut(watcher.stream) {
                    open.unsynced += 1;
                }
                enqueue(&mut self.queue, watcher, slot);
            }
        }
        self.delivered = revision;
    }

    /// `bytes` of what was handed out for a stream (see [`Delivery::cost`]) have left for good.
    /// Parked watchers go on when half of the backlog is free.
    pub fn drained(&mut self, stream: StreamId, bytes: usize) {
        let Some(open) = self.streams.get_mut(stream.0) else {
            return;
        };
        open.backlog = open.backlog.saturating_sub(bytes);
        if open.backlog <= self.limits.stream_backlog_bytes_max / 2 {
            self.queue.extend(open.parked.drain(..));
        }
    }

    fn register(
        &mut self,
        stream: Slot,
        watch_id: i64,
        range: KeyRange,
        request: &WatchCreateRequest,
        from: i64,
        floor: i64,
    ) {
        let filters = |filter: FilterType| request.filters.contains(&(filter as i32));
        let look = Look {
            no_put: filters(FilterType::Noput),
            no_delete: filters(FilterType::Nodelete),
            prev_kv: request.prev_kv,
        };
        let interest = self.interest(range, look);
        let members = &mut self
            .interests
            .get_mut(interest)
            .expect("just found or made")
            .members;
        let synced = from > self.delivered;
        let slot = self.watchers.insert(Watcher {
            stream,
            interest,
            position: members.len(),
            watch_id,
            from,
            floor,
            synced,
            waits: false,
            progress_notify: request.progress_notify,
            sent: false,
            fragment: request.fragment,
        });
        members.push(slot);
        let open = self.streams.get_mut(stream).expect("the caller found it");
        open.watchers.insert(watch_id, slot);
        *self.owned.entry(open.owner).or_default() += 1;
        open.floor = open.floor.max(floor);
        if !synced {
            open.unsynced += 1;
            let watcher = self.watchers.get_mut(slot).expect("just inserted");
            enqueue(&mut self.queue, watcher, slot);
        }
    }

    /// The interest of this kind, made if there is none.
    fn interest(&mut self, range: KeyRange, look: Look) -> Slot {
        let known = match range.single() {
            Some(key) => self.singles.get(key).map_or(&[][..], Vec::as_slice),
            None => self.ranges.at(&range),
        };
        let same = |slot: &&Slot| self.interests.get(**slot).is_some_and(|i| i.look == look);
        if let Some(slot) = known.iter().find(same) {
            return *slot;
        }
        let slot = self.interests.insert(Interest {
            range: range.clone(),
            look,
            members: Vec::new(),
            matched: Vec::new(),
            reading: false,
            waiting: Vec::new(),
        });
        match range {
            KeyRange::Single(key) => self.singles.entry(key).or_default().push(slot),
            range => self.ranges.insert(&range, slot),
        }
        slot
    }

    /// Takes a watcher off its stream and everything else.
    fn remove(&mut self, slot: Slot) -> Option<Watcher> {
        let watcher = self.forget(slot)?;
        if let Some(open) = self.streams.get_mut(watcher.stream) {
            open.watchers.remove(&watcher.watch_id);
            open.unsynced -= usize::from(!watcher.synced);
            let owner = open.owner;
            self.disown(owner, 1);
        }
        Some(watcher)
    }

    /// An owner has so many watchers less.
    fn disown(&mut self, owner: u64, watchers: usize) {
        if let Some(owned) = self.owned.get_mut(&owner) {
            *owned -= watchers;
            if *owned == 0 {
                self.owned.remove(&owner);
            }
        }
    }

    /// Takes a watcher off everything but its stream. Waiting places drop it when its turn comes.
    fn forget(&mut self, slot: Slot) -> Option<Watcher> {
        let watcher = self.watchers.remove(slot)?;
        let interest = self
            .interests
            .get_mut(watcher.interest)
            .expect("watchers keep it alive");
        interest.members.swap_remove(watcher.position);
        if let Some(moved) = interest.members.get(watcher.position) {
            self.watchers
                .get_mut(*moved)
                .expect("members exist")
                .position = watcher.position;
        }
        if interest.members.is_empty() {
            let interest = self
                .interests
                .remove(watcher.interest)
                .expect("looked at above");
            match interest.range {
                KeyRange::Single(key) => {
                    let slots = self
                        .singles
                        .get_mut(&key)
                        .expect("every interest is listed");
                    slots.retain(|listed| *listed != watcher.interest);
                    if slots.is_empty() {
                        self.singles.remove(&key);
                    }
                }
                range => self.ranges.remove(&range, watcher.interest),
            }
        }
        Some(watcher)
    }
}

impl Stream {
    fn has_room(&self, limits: &Limits) -> bool {
        // An empty stream always has: one response of any size must be able to leave.
        self.backlog == 0 || self.backlog < limits.stream_backlog_bytes_max
    }

    /// The id asked for, or the next automatic one: from 0 on, over those in use, none twice.
    fn pick_id(&mut self, wanted: i64) -> i64 {
        if wanted != 0 {
            return wanted;
        }
        while self.watchers.contains_key(&self.next_auto_id) {
            self.next_auto_id += 1;
        }
        self.next_auto_id += 1;
        self.next_auto_id - 1
    }
}

/// Puts an unsynced watcher at the end of the queue, unless it waits somewhere already.
fn enqueue(queue: &mut VecDeque<Slot>, watcher: &mut Watcher, slot: Slot) {
    if !std::mem::replace(&mut watcher.waits, true) {
        queue.push_back(slot);
    }
}

fn response(revision: i64) -> WatchResponse {
    let header = Some(ResponseHeader {
        revision,
        ..Default::default()
    });
    WatchResponse {
        header,
        ..Default::default()
    }
}

/// The answer to a create that makes no watcher; also for refusals that the owner decides.
pub fn refusal(reason: &str, current: i64) -> WatchResponse {
    WatchResponse {
        watch_id: NO_WATCH_ID,
        created: true,
        canceled: true,
        cancel_reason: reason.to_owned(),
        ..response(current)
    }
}

fn compacted_response(watch_id: i64, compact_revision: i64) -> WatchResponse {
    WatchResponse {
        watch_id,
        canceled: true,
        compact_revision,
        ..response(0)
    }
}

#[cfg(test)]
mod tests;
