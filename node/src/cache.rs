//! Newest values of keys that are read, one cache per client executor, so that a get costs no thread hop.
//!
//! The executor feeds it from every applied batch *before* it publishes that batch's revision to its own requests,
//! all on one thread: an entry is therefore always the value at the executor's published revision, never older and
//! never newer.
//!
//! A key enters by being asked for: a miss leaves a place (`expect`) that the reader's answer fills (`fill`). Changes
//! that are applied meanwhile go into the place as well, and then the answer, which does not know them, is not
//! taken; a place made anew later takes no answer from before. So what is only written costs a lookup and no memory.
//! An entry that is changed several times and not read in between makes way.
//!
//! After a start, while nothing else is to do, what fits comes in unasked (`offer`), so that the first reads of a busy
//! member do not all go to the reader threads.
//!
//! Bound: `bytes_max` of keys, values and bookkeeping; when full, the entry least recently touched (CLOCK) goes.
//! Values of applied changes are shared with the change (which has a buffer of its own); those of readers are copied,
//! because they are slices of larger blocks.

use ahash::RandomState;
use bytes::Bytes;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use kvnode_api::KeyValue;

/// What an entry costs beside its key and value: slot, bucket, counts of the buffers and the allocator's share.
const ENTRY_OVERHEAD_BYTES: usize = 240;
/// A value above this is served by the readers: one of them would push thousands of small hot keys out.
const VALUE_BYTES_MAX: usize = 64 << 10;
/// Changes in a row without a read after which an entry goes: with as many reads as writes that is rare, and
/// keeping a key that nobody reads costs more than reading it from the store once in a while.
const UNREAD_CHANGES_MAX: u8 = 4;

/// What memory is fetched by, on nearly every processor.
const LINE_BYTES: usize = 64;
/// Of a value; the processor fetches the rest of a long one by itself.
const WARM_LINES_MAX: usize = 8;

/// What a cache knows a key by.
#[derive(Clone, Copy, Debug)]
pub struct Hash(u64);

/// Where an entry may be; never wrong for long, and checked when it is used.
#[derive(Clone, Copy, Debug)]
pub struct Place(u32);

/// A cached newest version.
pub struct Cached {
    hash: u64,
    key: Bytes,
    value: Bytes,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub lease: i64,
    /// The value is not known yet; an answer read at `mod_revision` or later will tell.
    expected: bool,
    /// CLOCK's second-chance bit.
    touched: bool,
    /// Changes since it was read last.
    unread: u8,
}

impl Cached {
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    pub fn value(&self) -> &[u8] {
        &self.value
    }

    fn cost(&self) -> usize {
        cost(&self.key, &self.value)
    }

    fn take(&mut self, kv: &KeyValue) {
        self.create_revision = kv.create_revision;
        self.mod_revision = kv.mod_revision;
        self.version = kv.version;
        self.lease = kv.lease;
        self.expected = false;
    }
}

fn cost(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + ENTRY_OVERHEAD_BYTES
}

/// The cache. Not shared: one owner, one thread.
pub struct ValueCache {
    slots: Vec<Option<Cached>>,
    /// Places in `slots`, by hash of the key.
    places: HashTable<u32>,
    hasher: RandomState,
    free: Vec<u32>,
    hand: usize,
    bytes: usize,
    bytes_max: usize,
    pub hits_count: u64,
    pub misses_count: u64,
}

impl ValueCache {
    /// `bytes_max` 0 switches the cache off.
    pub fn new(bytes_max: usize) -> Self {
        ValueCache {
            slots: Vec::new(),
            places: HashTable::new(),
            hasher: RandomState::new(),
            free: Vec::new(),
            hand: 0,
            bytes: 0,
            bytes_max,
            hits_count: 0,
            misses_count: 0,
        }
    }

    /// The newest version of `key`, if it is here.
    pub fn get(&mut self, key: &[u8]) -> Option<&Cached> {
        let place = self.find(key);
        let entry = place.and_then(|place| self.slots[place].as_mut());
        match entry {
            Some(entry) if !entry.expected => {
                self.hits_count += 1;
                entry.touched = true;
                entry.unread = 0;
                Some(entry)
            }
            _ => {
                self.misses_count += 1;
                None
            }
        }
    }

    /// What this cache knows a key by.
    pub fn hash(&self, key: &[u8]) -> Hash {
        Hash(self.hasher.hash_one(key))
    }

    /// Where the newest version of a key probably is: by the hash alone, so that its memory need not be looked at yet.
    pub fn place(&self, Hash(hash): Hash) -> Option<Place> {
        let slots = &self.slots;
        self.places
            .find(hash, |place| {
                let entry = slots[*place as usize].as_ref();
                entry.is_some_and(|entry| entry.hash == hash && !entry.expected)
            })
            .map(|place| Place(*place))
    }

    /// As [`ValueCache::get`], where [`ValueCache::place`] said `place` a moment ago.
    pub fn get_at(&mut self, place: Place, key: &[u8]) -> Option<&Cached> {
        let entry = self.slots.get(place.0 as usize).and_then(Option::as_ref);
        if !entry.is_some_and(|entry| !entry.expected && entry.key == key) {
            return self.get(key);
        }
        self.hits_count += 1;
        let entry = self.slots[place.0 as usize].as_mut()?;
        entry.touched = true;
        entry.unread = 0;
        Some(entry)
    }

    /// Looks at the memory of these entries, so that the processor fetches all of it at once instead of a piece for each
    /// get. The sum means nothing.
    pub fn warm(&self, places: impl Iterator<Item = Place>) -> u8 {
        let mut sum = 0_u8;
        for Place(place) in places {
            let Some(Some(entry)) = self.slots.get(place as usize) else {
                continue;
            };
            sum ^= entry.key.first().copied().unwrap_or(0);
            for line in entry.value.chunks(LINE_BYTES).take(WARM_LINES_MAX) {
                sum ^= line[0];
            }
        }
        sum
    }

    /// `key` is about to be read at `revision`, the owner's published one.
    pub fn expect(&mut self, key: &[u8], revision: i64) {
        if cost(key, &[]) > self.bytes_max {
            return;
        }
        let hash = self.hasher.hash_one(key);
        let slots = &self.slots;
        let vacant = match self.places.entry(
            hash,
            |place| is_at(slots, *place, hash, key),
            |place| hash_at(slots, *place),
        ) {
            // An earlier reader's answer will do for both.
            Entry::Occupied(_) => return,
            Entry::Vacant(vacant) => vacant,
        };
        let entry = Cached {
            hash,
            key: Bytes::copy_from_slice(key),
            value: Bytes::new(),
            create_revision: 0,
            mod_revision: revision,
            version: 0,
            lease: 0,
            expected: true,
            touched: false,
            unread: 0,
        };
        self.bytes += entry.cost();
        vacant.insert(occupy(&mut self.slots, &mut self.free, entry));
        self.make_room();
    }

    /// The newest version of a key at the owner's published revision, in a buffer not much larger than key and value,
    /// which the entry shares. Taken if there is room and the key is not here.
    pub fn offer(&mut self, kv: &KeyValue) {
        let cost = cost(&kv.key, &kv.value);
        if kv.value.len() > VALUE_BYTES_MAX || self.bytes + cost > self.bytes_max {
            return;
        }
        let hash = self.hasher.hash_one(&kv.key[..]);
        let slots = &self.slots;
        let Entry::Vacant(vacant) = self.places.entry(
            hash,
            |place| is_at(slots, *place, hash, &kv.key),
            |place| hash_at(slots, *place),
        ) else {
            return;
        };
        let mut entry = Cached {
            hash,
            key: kv.key.clone(),
            value: kv.value.clone(),
            create_revision: 0,
            mod_revision: 0,
            version: 0,
            lease: 0,
            expected: false,
            touched: false,
            // Nobody has asked for it: its first change, if none does until then, takes it out again.
            unread: UNREAD_CHANGES_MAX,
        };
        entry.take(kv);
        self.bytes += cost;
        vacant.insert(occupy(&mut self.slots, &mut self.free, entry));
    }

    /// What a reader found at `revision`. Dropped unless its place still waits for it.
    pub fn fill(&mut self, kv: &KeyValue, revision: i64) {
        let Some(entry) = self
            .find(&kv.key)
            .and_then(|place| self.slots[place].as_mut())
        else {
            return;
        };
        if !entry.expected || revision < entry.mod_revision {
            return;
        }
        if kv.value.len() > VALUE_BYTES_MAX {
            self.remove(&kv.key);
            return;
        }
        let before = entry.cost();
        // One buffer, because a get looks at both.
        let buffer = Bytes::from([&kv.key[..], &kv.value[..]].concat());
        entry.key = buffer.slice(..kv.key.len());
        entry.value = buffer.slice(kv.key.len()..);
        entry.take(kv);
        self.bytes = self.bytes - before + entry.cost();
        self.make_room();
    }

    /// A put was applied. The entry, if there is one, shares key and value from now on, which must lie in a buffer
    /// not much larger than they are.
    pub fn put(&mut self, kv: &KeyValue) {
        let Some(place) = self.find(&kv.key) else {
            return;
        };
        let Some(entry) = self.slots[place].as_mut() else {
            return;
        };
        if kv.value.len() > VALUE_BYTES_MAX || entry.unread >= UNREAD_CHANGES_MAX {
            self.remove(&kv.key);
            return;
        }
        let before = entry.cost();
        entry.key = kv.key.clone();
        entry.value = kv.value.clone();
        entry.take(kv);
        entry.unread += 1;
        self.bytes = self.bytes - before + entry.cost();
        self.make_room();
    }

    /// Forgets `key`: it was deleted.
    pub fn remove(&mut self, key: &[u8]) {
        let hash = self.hasher.hash_one(key);
        let slots = &self.slots;
        let Ok(entry) = self
            .places
            .find_entry(hash, |place| is_at(slots, *place, hash, key))
        else {
            return;
        };
        let (place, _) = entry.remove();
        self.vacate(place);
    }

    /// Forgets everything; the counts of hits and misses go on.
    pub fn clear(&mut self) {
        self.places.clear();
        self.slots.clear();
        self.free.clear();
        (self.hand, self.bytes) = (0, 0);
    }

    /// Bytes held, bookkeeping included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn find(&self, key: &[u8]) -> Option<usize> {
        if self.places.is_empty() {
            return None;
        }
        let hash = self.hasher.hash_one(key);
        self.places
            .find(hash, |place| is_at(&self.slots, *place, hash, key))
            .map(|place| *place as usize)
    }

    /// Empties a slot that is not in `places` any more.
    fn vacate(&mut self, place: u32) {
        if let Some(entry) = self.slots[place as usize].take() {
            self.bytes -= entry.cost();
            self.free.push(place);
        }
    }

    /// Drops untouched entries until the bound holds. Ends: every full turn of the hand clears all the second
    /// chances, so the turn after it drops whatever it meets.
    fn make_room(&mut self) {
        while self.bytes > self.bytes_max {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let place = self.hand;
            self.hand += 1;
            let Some(entry) = self.slots[place].as_mut() else {
                continue;
            };
            if std::mem::take(&mut entry.touched) {
                continue;
            }
            let hash = entry.hash;
            if let Ok(known) = self
                .places
                .find_entry(hash, |known| *known as usize == place)
            {
                let (place, _) = known.remove();
                self.vacate(place);
            }
        }
    }
}

/// Puts an entry into a free slot.
fn occupy(slots: &mut Vec<Option<Cached>>, free: &mut Vec<u32>, entry: Cached) -> u32 {
    match free.pop() {
        Some(place) => {
            slots[place as usize] = Some(entry);
            place
        }
        None => {
            slots.push(Some(entry));
            u32::try_from(slots.len() - 1)
                .expect("entries of 240 bytes and more each, under a bound in memory")
        }
    }
}

fn is_at(slots: &[Option<Cached>], place: u32, hash: u64, key: &[u8]) -> bool {
    slots
        .get(place as usize)
        .and_then(Option::as_ref)
        .is_some_and(|entry| entry.hash == hash && entry.key == key)
}

fn hash_at(slots: &[Option<Cached>], place: u32) -> u64 {
    slots
        .get(place as usize)
        .and_then(Option::as_ref)
        .map_or(0, |entry| entry.hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, value: Vec<u8>, revision: i64) -> KeyValue {
        KeyValue {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::from(value),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease: 0,
        }
    }

    /// A get that misses, and its answer.
    fn read(cache: &mut ValueCache, kv: &KeyValue, revision: i64) {
        assert!(cache.get(&kv.key).is_none());
        cache.expect(&kv.key, revision);
        cache.fill(kv, revision);
    }

    fn found(cache: &mut ValueCache, key: &str) -> Option<(Vec<u8>, i64)> {
        let cached = cache.get(key.as_bytes())?;
        assert_eq!(cached.key(), key.as_bytes());
        Some((cached.value().to_vec(), cached.mod_revision))
    }

    #[test]
    fn what_was_read_stays_and_follows_the_changes() {
        let mut cache = ValueCache::new(1 << 20);
        read(&mut cache, &kv("a", b"1".to_vec(), 2), 7);
        assert_eq!(found(&mut cache, "a"), Some((b"1".to_vec(), 2)));
        cache.put(&kv("a", b"22".to_vec(), 8));
        assert_eq!(found(&mut cache, "a"), Some((b"22".to_vec(), 8)));
        cache.remove(b"a");
        assert_eq!(found(&mut cache, "a"), None);
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn a_place_leads_to_its_key_as_long_as_that_is_there_and_never_to_another() {
        let mut cache = ValueCache::new(1 << 20);
        let hash = cache.hash(b"a");
        assert!(cache.place(hash).is_none());
        cache.expect(b"a", 7);
        assert!(cache.place(hash).is_none(), "its value is not known yet");
        cache.fill(&kv("a", b"1".to_vec(), 2), 7);
        let place = cache.place(hash).unwrap();
        cache.warm([place].into_iter());
        assert_eq!(cache.get_at(place, b"a").unwrap().value(), b"1");
        assert!(cache.get_at(place, b"b").is_none());

        cache.remove(b"a");
        assert!(cache.get_at(place, b"a").is_none());
        // The slot serves another key now; the first one comes back elsewhere.
        read(&mut cache, &kv("b", b"2".to_vec(), 3), 7);
        assert!(cache.get_at(place, b"a").is_none());
        assert_eq!(cache.get_at(place, b"b").unwrap().value(), b"2");
        read(&mut cache, &kv("a", b"3".to_vec(), 9), 9);
        assert_eq!(cache.get_at(place, b"a").unwrap().value(), b"3");
        cache.clear();
        cache.warm([place].into_iter());
        assert!(cache.get_at(place, b"a").is_none());
    }

    #[test]
    fn what_is_offered_comes_in_while_there_is_room_and_replaces_nothing() {
        let mut cache = ValueCache::new(1000);
        cache.offer(&kv("a", b"1".to_vec(), 2));
        assert_eq!(found(&mut cache, "a"), Some((b"1".to_vec(), 2)));
        cache.offer(&kv("a", b"other".to_vec(), 2));
        assert_eq!(found(&mut cache, "a"), Some((b"1".to_vec(), 2)));
        cache.expect(b"b", 7);
        cache.offer(&kv("b", b"2".to_vec(), 3));
        assert_eq!(found(&mut cache, "b"), None, "its reader will tell");
        cache.fill(&kv("b", b"2".to_vec(), 3), 7);
        let before = cache.bytes();
        cache.offer(&kv("c", vec![0; 1000 - before], 4));
        assert_eq!(found(&mut cache, "c"), None);
        assert_eq!(cache.bytes(), before);
        cache.offer(&kv("d", b"4".to_vec(), 5));
        cache.put(&kv("d", b"44".to_vec(), 8));
        assert_eq!(
            found(&mut cache, "d"),
            None,
            "changed before anybody read it"
        );
        cache.offer(&kv("d", b"44".to_vec(), 8));
        assert!(found(&mut cache, "d").is_some());
        cache.put(&kv("d", b"45".to_vec(), 9));
        assert_eq!(found(&mut cache, "d"), Some((b"45".to_vec(), 9)));
    }

    #[test]
    fn an_answer_overtaken_by_a_change_is_not_taken() {
        let mut cache = ValueCache::new(1 << 20);
        cache.expect(b"a", 7);
        cache.put(&kv("a", b"new".to_vec(), 8));
        cache.fill(&kv("a", b"old".to_vec(), 2), 7);
        assert_eq!(found(&mut cache, "a"), Some((b"new".to_vec(), 8)));

        // Deleted, made again, and asked for again, all while the first reader is under way.
        cache.expect(b"b", 8);
        cache.remove(b"b");
        cache.put(&kv("b", b"new".to_vec(), 10));
        cache.expect(b"b", 10);
        cache.fill(&kv("b", b"old".to_vec(), 3), 8);
        assert_eq!(found(&mut cache, "b"), None);
        cache.fill(&kv("b", b"new".to_vec(), 10), 10);
        assert_eq!(found(&mut cache, "b"), Some((b"new".to_vec(), 10)));
    }

    #[test]
    fn what_is_only_written_does_not_come_in_and_does_not_stay() {
        let mut cache = ValueCache::new(1 << 20);
        cache.put(&kv("a", b"1".to_vec(), 2));
        assert_eq!(cache.bytes(), 0);
        read(&mut cache, &kv("a", b"1".to_vec(), 2), 2);
        for revision in 3..3 + i64::from(UNREAD_CHANGES_MAX) {
            cache.put(&kv("a", b"2".to_vec(), revision));
            assert!(cache.bytes() > 0);
        }
        cache.put(&kv("a", b"3".to_vec(), 20));
        assert_eq!((found(&mut cache, "a"), cache.bytes()), (None, 0));
    }

    #[test]
    fn bytes_stay_under_the_bound_and_touched_entries_outlive_cold_ones() {
        let mut cache = ValueCache::new(20_000);
        read(&mut cache, &kv("hot", vec![7; 100], 2), 2);
        for n in 0..1000 {
            read(
                &mut cache,
                &kv(&format!("cold-{n}"), vec![1; 100], 3 + n),
                3 + n,
            );
            assert!(cache.bytes() <= 20_000, "{} bytes held", cache.bytes());
            assert!(
                cache.get(b"hot").is_some(),
                "a key read after every insert was dropped at {n}"
            );
        }
        assert!(cache.get(b"cold-0").is_none());
        assert!(cache.get(b"cold-999").is_some());
        let held = cache
            .slots
            .iter()
            .flatten()
            .map(Cached::cost)
            .sum::<usize>();
        assert_eq!(held, cache.bytes());
        assert_eq!(cache.places.len(), cache.slots.iter().flatten().count());
    }

    #[test]
    fn a_value_too_large_to_hold_also_drops_the_version_it_replaces() {
        let mut cache = ValueCache::new(1 << 20);
        read(&mut cache, &kv("a", vec![1; 10], 2), 2);
        cache.put(&kv("a", vec![1; VALUE_BYTES_MAX + 1], 3));
        assert!(
            cache.get(b"a").is_none(),
            "the old value would be a stale read"
        );
        read(&mut cache, &kv("a", vec![1; VALUE_BYTES_MAX + 1], 3), 3);
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn switched_off_it_holds_nothing() {
        let mut cache = ValueCache::new(0);
        read(&mut cache, &kv("a", vec![], 2), 2);
        assert!(cache.get(b"a").is_none());
        assert_eq!(cache.bytes(), 0);
    }
}
