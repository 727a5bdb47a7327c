//! Newest values of hot keys, one cache per client executor, so that a get costs no thread hop.
//!
//! The executor feeds it from every applied batch *before* it publishes that batch's revision to its own requests,
//! all on one thread: an entry is therefore always the value at the executor's published revision, never older and
//! never newer. Misses are filled from a reader's answer only if nothing changed that key since the reader's view
//! (`fill` is called by the owner, who checks that against its ring of recent changes).
//!
//! Bound: `bytes_max` of keys, values and bookkeeping; when full, the entry least recently touched (CLOCK) goes.
//! Keys and values are copied into one allocation of the entry's own: a slice of a received frame would keep the
//! whole frame alive and make the bound a fiction.

use std::collections::HashMap;

use ahash::RandomState;
use kvnode_api::KeyValue;

/// What an entry costs beside its key and value: the slot, the map's bucket and the allocator's share, rounded up.
const ENTRY_OVERHEAD_BYTES: usize = 160;
/// A value above this is served by the readers: one of them would push thousands of small hot keys out.
const VALUE_BYTES_MAX: usize = 64 << 10;

/// A cached newest version.
pub struct Cached {
    /// Key and value, back to back.
    data: Box<[u8]>,
    key_bytes: u32,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub lease: i64,
    /// CLOCK's second-chance bit.
    touched: bool,
}

impl Cached {
    pub fn key(&self) -> &[u8] {
        &self.data[..self.key_bytes as usize]
    }

    pub fn value(&self) -> &[u8] {
        &self.data[self.key_bytes as usize..]
    }

    fn cost(&self) -> usize {
        self.data.len() + self.key_bytes as usize + ENTRY_OVERHEAD_BYTES
    }
}

/// The cache. Not shared: one owner, one thread.
pub struct ValueCache {
    /// Key to slot. The key is stored twice (here and in the entry): a raw-table with borrowed keys would save
    /// that at the price of our own hashing code.
    slots_by_key: HashMap<Box<[u8]>, u32, RandomState>,
    slots: Vec<Option<Cached>>,
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
            slots_by_key: HashMap::default(),
            slots: Vec::new(),
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
        let Some(&slot) = self.slots_by_key.get(key) else {
            self.misses_count += 1;
            return None;
        };
        self.hits_count += 1;
        let entry = self.slots[slot as usize].as_mut()?;
        entry.touched = true;
        Some(entry)
    }

    /// Takes in a version that is the newest one at the owner's published revision.
    pub fn insert(&mut self, kv: &KeyValue) {
        if kv.value.len() > VALUE_BYTES_MAX {
            self.remove(&kv.key);
            return;
        }
        let Ok(key_bytes) = u32::try_from(kv.key.len()) else {
            return;
        };
        let mut data = Vec::with_capacity(kv.key.len() + kv.value.len());
        data.extend_from_slice(&kv.key);
        data.extend_from_slice(&kv.value);
        let entry = Cached {
            data: data.into_boxed_slice(),
            key_bytes,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
            touched: false,
        };
        let cost = entry.cost();
        if cost > self.bytes_max {
            self.remove(&kv.key);
            return;
        }
        if let Some(&slot) = self.slots_by_key.get(&kv.key[..]) {
            let place = &mut self.slots[slot as usize];
            let before = place.as_ref().map_or(0, Cached::cost);
            let touched = place.as_ref().is_some_and(|old| old.touched);
            *place = Some(Cached { touched, ..entry });
            self.bytes = self.bytes - before + cost;
            self.make_room(0);
            return;
        }
        self.make_room(cost);
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let Ok(slot) = u32::try_from(self.slots.len()) else {
                    return;
                };
                self.slots.push(None);
                slot
            }
        };
        self.slots[slot as usize] = Some(entry);
        self.slots_by_key.insert(kv.key[..].into(), slot);
        self.bytes += cost;
    }

    /// Forgets `key` (deleted, or changed in a way the cache does not hold).
    pub fn remove(&mut self, key: &[u8]) {
        if let Some(slot) = self.slots_by_key.remove(key)
            && let Some(entry) = self.slots[slot as usize].take()
        {
            self.bytes -= entry.cost();
            self.free.push(slot);
        }
    }

    /// Forgets everything; the counts of hits and misses go on.
    pub fn clear(&mut self) {
        self.slots_by_key.clear();
        self.slots.clear();
        self.free.clear();
        (self.hand, self.bytes) = (0, 0);
    }

    /// Bytes held, bookkeeping included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Drops untouched entries until `wanted` more bytes fit. Ends: every full turn of the hand clears all the
    /// second chances, so the turn after it drops whatever it meets.
    fn make_room(&mut self, wanted: usize) {
        while self.bytes + wanted > self.bytes_max && self.bytes > 0 {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let slot = self.hand;
            self.hand += 1;
            let Some(entry) = self.slots[slot].as_mut() else {
                continue;
            };
            if std::mem::take(&mut entry.touched) {
                continue;
            }
            if let Some(entry) = self.slots[slot].take() {
                self.slots_by_key.remove(entry.key());
                self.bytes -= entry.cost();
                self.free
                    .push(u32::try_from(slot).expect("slots are numbered by u32 at insert"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

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

    #[test]
    fn newest_insert_wins_and_remove_forgets() {
        let mut cache = ValueCache::new(1 << 20);
        cache.insert(&kv("a", b"1".to_vec(), 2));
        cache.insert(&kv("a", b"22".to_vec(), 3));
        let hit = cache.get(b"a").expect("inserted");
        assert_eq!(
            (hit.key(), hit.value(), hit.mod_revision),
            (&b"a"[..], &b"22"[..], 3)
        );
        cache.remove(b"a");
        assert!(cache.get(b"a").is_none());
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn bytes_stay_under_the_bound_and_touched_entries_outlive_cold_ones() {
        let mut cache = ValueCache::new(20_000);
        cache.insert(&kv("hot", vec![7; 100], 2));
        for n in 0..1000 {
            cache.insert(&kv(&format!("cold-{n}"), vec![1; 100], 3 + n));
            assert!(cache.bytes() <= 20_000, "{} bytes held", cache.bytes());
            assert!(
                cache.get(b"hot").is_some(),
                "a key read after every insert was dropped at {n}"
            );
        }
        assert!(cache.get(b"cold-0").is_none());
        assert!(cache.get(b"cold-999").is_some());
    }

    #[test]
    fn a_value_too_large_to_hold_also_drops_the_version_it_replaces() {
        let mut cache = ValueCache::new(1 << 20);
        cache.insert(&kv("a", vec![1; 10], 2));
        cache.insert(&kv("a", vec![1; VALUE_BYTES_MAX + 1], 3));
        assert!(
            cache.get(b"a").is_none(),
            "the old value would be a stale read"
        );
    }

    #[test]
    fn switched_off_it_holds_nothing() {
        let mut cache = ValueCache::new(0);
        cache.insert(&kv("a", vec![], 2));
        assert!(cache.get(b"a").is_none());
        assert_eq!(cache.bytes(), 0);
    }
}
