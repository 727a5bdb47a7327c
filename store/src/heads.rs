//! HeadCache written last, kept in memory for the thread that writes: a put needs the head it replaces, and keys that are
//! written are mostly written again.
//!
//! Only for the owner of the store, which is the only one that changes heads. Invariant: what is kept here of a key is
//! its head as of the last commit; whatever was changed since lies in the overlay, and is looked up there first. So
//! heads come in only when their batch is committed, a head that is not kept takes its predecessor's place with
//! nothing, and after a failed commit the cache goes with the store. Tombstones are not kept: physical compaction
//! removes them behind the writer's back.
//!
//! Bound: `bytes_max` of buffers and bookkeeping; when full, the entry that was not replaced for longest goes (CLOCK).

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::error::Error;
use crate::schema::{Head, PackedHead};

/// What an entry costs beside its buffer: slot, bucket, the buffer's counts and the allocator's share, rounded up.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// Share of the bound that may be filled with heads that were only read: the rest is for those that are written, and memory that a
/// member which is only read need not take.
const OFFERED_SHARE: (usize, usize) = (3, 4);

/// A larger head is not kept: it would push thousands of small ones out.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// So much of a head is fetched ahead; what follows the processor fetches by itself.
const WARM_BYTES_MAX: usize = 512;

/// Heads that another thread has read, in order of keys, on their way into the cache.
#[derive(Debug, Default)]
pub struct ReadHeads {
    heads: VecDeque<PackedHead>,
    bytes: usize,
    /// Of the view they were read from.
    revision: i64,
    /// The state that was.
    state: Arc<()>,
}

impl ReadHeads {
    pub(crate) fn of(state: &Arc<()>, revision: i64) -> Self {
        ReadHeads {
            revision,
            state: Arc::clone(state),
            ..Self::default()
        }
    }

    pub(crate) fn push(&mut self, head: PackedHead) {
        self.bytes += cost(&head);
        self.heads.push_back(head);
    }

    /// What they would take in the cache.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether they are the newest as of `revision` of this state.
    pub(crate) fn are_of(&self, state: &Arc<()>, revision: i64) -> bool {
        Arc::ptr_eq(&self.state, state) && self.revision == revision
    }

    pub(crate) fn pop(&mut self) -> Option<PackedHead> {
        self.heads.pop_front()
    }
}

#[derive(Debug)]
pub(crate) struct HeadCache {
    slots: Vec<Option<Slot>>,
    /// Places in `slots`, by hash of the user key.
    places: HashTable<u32>,
    free: Vec<u32>,
    hand: usize,
    bytes: usize,
    bytes_max: usize,
    hasher: RandomState,
    /// Empty, but for its memory.
    warming: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    hash: u64,
    head: PackedHead,
    /// Replaced since the hand came by last.
    touched: bool,
}

impl Slot {
    fn cost(&self) -> usize {
        cost(&self.head)
    }
}

fn cost(head: &PackedHead) -> usize {
    head.bytes() + ENTRY_OVERHEAD_BYTES
}

impl HeadCache {
    /// `bytes_max` 0 keeps nothing.
    pub fn new(bytes_max: usize) -> Self {
        HeadCache {
            slots: Vec::new(),
            places: HashTable::new(),
            free: Vec::new(),
            hand: 0,
            bytes: 0,
            bytes_max,
            hasher: RandomState::new(),
            warming: Vec::new(),
        }
    }

    /// Heads of these keys are asked for soon: looks at what is here of them, in tight loops, for which the processor fetches
    /// several lines of memory at once. The sum means nothing.
    pub fn warm<'a>(&mut self, keys: impl Iterator<Item = &'a [u8]>) -> u8 {
        let (slots, places) = (&self.slots, &self.places);
        let hash_at = |place: u32| {
            let slot = slots.get(place as usize)?.as_ref()?;
            Some(slot.hash)
        };
        for key in keys {
            let hash = self.hasher.hash_one(key);
            let found = places.find(hash, |place| hash_at(*place) == Some(hash));
            self.warming.extend(found);
        }
        let mut sum = 0;
        for place in self.warming.drain(..) {
            if let Some(Some(slot)) = slots.get(place as usize) {
                sum ^= slot.head.touch(WARM_BYTES_MAX);
            }
        }
        sum
    }

    /// The committed head of `key`, if it is here.
    pub fn get(&self, key: &[u8]) -> Result<Option<Head>, Error> {
        let hash = self.hasher.hash_one(key);
        let place = self
            .places
            .find(hash, |place| is_at(&self.slots, *place, hash, key));
        match place.and_then(|place| self.slots.get(*place as usize)?.as_ref()) {
            Some(slot) => slot.head.head().map(Some),
            None => Ok(None),
        }
    }

    /// Takes in a head that was just committed; `alive` is whether it is no tombstone.
    pub fn committed(&mut self, head: PackedHead, alive: bool) {
        let hash = self.hasher.hash_one(head.user_key());
        let cost = cost(&head);
        let kept = alive && cost <= self.bytes_max.min(HEAD_BYTES_MAX);
        let (slots, hasher_of) = (&self.slots, |slots: &[Option<Slot>], place: u32| {
            slots
                .get(place as usize)
                .and_then(Option::as_ref)
                .map_or(0, |slot| slot.hash)
        });
        let entry = self.places.entry(
            hash,
            |place| is_at(slots, *place, hash, head.user_key()),
            |place| hasher_of(slots, *place),
        );
        match entry {
            Entry::Occupied(known) if kept => {
                let slot = &mut self.slots[*known.get() as usize];
                let before = slot.as_ref().map_or(0, Slot::cost);
                *slot = Some(Slot {
                    hash,
                    head,
                    touched: true,
                });
                self.bytes = self.bytes - before + cost;
            }
            Entry::Occupied(known) => {
                let (place, _) = known.remove();
                let before = self.slots[place as usize].take();
                self.bytes -= before.as_ref().map_or(0, Slot::cost);
                self.free.push(place);
            }
            Entry::Vacant(vacant) if kept => {
                let slot = Some(Slot {
                    hash,
                    head,
                    touched: false,
                });
                let place = match self.free.pop() {
                    Some(place) => {
                        self.slots[place as usize] = slot;
                        place
                    }
                    None => {
                        self.slots.push(slot);
                        u32::try_from(self.slots.len() - 1)
                            .expect("entries of 128 bytes and more each, under a bound in memory")
                    }
                };
                vacant.insert(place);
                self.bytes += cost;
            }
            Entry::Vacant(_) => {}
        }
        self.make_room();
    }

    /// Takes in a head that was read, unless a newer one is here already; it is as of the last commit, and no
    /// tombstone. False if there is no room for what was only read.
    pub fn offer(&mut self, head: PackedHead) -> bool {
        let cost = cost(&head);
        if cost > self.bytes_max.min(HEAD_BYTES_MAX) {
            return self.bytes_max > 0;
        }
        if self.bytes + cost > self.offered_bytes_max() {
            return false;
        }
        let hash = self.hasher.hash_one(head.user_key());
        let known = self
            .places
            .find(hash, |place| {
                is_at(&self.slots, *place, hash, head.user_key())
            })
            .is_some();
        if !known {
            self.committed(head, true);
        }
        true
    }

    /// Bytes that heads which were only read may take.
    pub fn offered_bytes_max(&self) -> usize {
        let (share, whole) = OFFERED_SHARE;
        self.bytes_max / whole * share
    }

    /// Drops entries until the bound holds. Ends: a full turn of the hand takes all second chances back, so the turn
    /// after it drops whatever it meets.
    fn make_room(&mut self) {
        while self.bytes > self.bytes_max {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let place = self.hand;
            self.hand += 1;
            let Some(slot) = self.slots.get_mut(place).and_then(Option::as_mut) else {
                continue;
            };
            if std::mem::take(&mut slot.touched) {
                continue;
            }
            let hash = slot.hash;
            if let Ok(entry) = self
                .places
                .find_entry(hash, |known| *known as usize == place)
            {
                let (place, _) = entry.remove();
                self.free.push(place);
            }
            self.bytes -= self.slots[place].take().as_ref().map_or(0, Slot::cost);
        }
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.bytes
    }
}

fn is_at(slots: &[Option<Slot>], place: u32, hash: u64, key: &[u8]) -> bool {
    slots
        .get(place as usize)
        .and_then(Option::as_ref)
        .is_some_and(|slot| slot.hash == hash && slot.head.user_key() == key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::Revision;
    use crate::schema::Version;
    use bytes::Bytes;

    fn head(key: &str, main: i64, value_bytes: usize) -> PackedHead {
        let version = Version {
            create_revision: main,
            version: 1,
            lease: 0,
            value: Bytes::from(vec![7; value_bytes]),
        };
        PackedHead::new(key.as_bytes(), Revision::new(main, 0), Some(&version))
    }

    fn modified(heads: &HeadCache, key: &str) -> Option<i64> {
        let head = heads.get(key.as_bytes()).unwrap()?;
        Some(head.modified.main)
    }

    #[test]
    fn the_head_committed_last_is_found() {
        let mut heads = HeadCache::new(1 << 20);
        assert_eq!(modified(&heads, "a"), None);
        heads.committed(head("a", 2, 10), true);
        heads.committed(head("b", 3, 10), true);
        heads.committed(head("a", 4, 20), true);
        assert_eq!(modified(&heads, "a"), Some(4));
        assert_eq!(modified(&heads, "b"), Some(3));
        let found = heads.get(b"a").unwrap().unwrap();
        assert_eq!(found.live.unwrap().value, vec![7; 20]);
    }

    #[test]
    fn what_is_not_kept_leaves_nothing_older_behind() {
        let mut heads = HeadCache::new(1 << 20);
        heads.committed(head("a", 2, 10), true);
        heads.committed(PackedHead::new(b"a", Revision::new(3, 0), None), false);
        assert_eq!(modified(&heads, "a"), None);
        heads.committed(head("a", 4, 10), true);
        heads.committed(head("a", 5, 1 << 16), true);
        assert_eq!(modified(&heads, "a"), None);
        assert_eq!(heads.bytes(), 0);
    }

    #[test]
    fn bytes_stay_under_the_bound_and_rewritten_keys_outlive_others() {
        let mut heads = HeadCache::new(200_000);
        for n in 0..5_000 {
            heads.committed(head("hot", n, 100), true);
            heads.committed(head(&format!("cold-{n}"), n, 100), true);
            assert!(heads.bytes() <= 200_000, "{} bytes held", heads.bytes());
            assert_eq!(modified(&heads, "hot"), Some(n));
        }
        assert_eq!(modified(&heads, "cold-0"), None);
        assert_eq!(modified(&heads, "cold-4999"), Some(4999));
        let held = heads.slots.iter().flatten().map(Slot::cost).sum::<usize>();
        assert_eq!(
            (held, heads.places.len()),
            (heads.bytes(), heads.slots.iter().flatten().count())
        );
    }

    #[test]
    fn a_head_that_was_read_takes_no_place_of_another() {
        let mut heads = HeadCache::new(100_000);
        heads.committed(head("a", 5, 10), true);
        assert!(heads.offer(head("a", 5, 10)));
        let before = heads.bytes();
        for n in 0.. {
            if !heads.offer(head(&format!("b-{n}"), n, 100)) {
                break;
            }
            assert!(heads.bytes() > before && heads.bytes() <= 75_000);
        }
        assert_eq!(modified(&heads, "a"), Some(5));
        assert!(modified(&heads, "b-0").is_some());
    }

    #[test]
    fn switched_off_it_keeps_nothing() {
        let mut heads = HeadCache::new(0);
        heads.committed(head("a", 2, 0), true);
        assert!(!heads.offer(head("a", 2, 0)));
        assert_eq!(modified(&heads, "a"), None);
        assert_eq!(heads.bytes(), 0);
    }
}
