//! Sorted runs: what was committed lately, packed, never changed again.
//!
//! A run is one buffer of keys and values and a table of where they are, in ascending order of keys, each
//! key once. It may hold removals: they hide the key in older runs and in what lies under all of them.
//! Several runs are read together as [`Layers`], in which the newest run with a key decides.
//!
//! Packed rather than shared with whoever made the records: a merge is then a copy of a few hundred bytes per
//! record instead of four counters that other threads hold in their caches, and a run is freed in one piece.
//!
//! Most keys that are looked up are in none of dozens of runs, and a search through one misses the processor's cache at
//! nearly every step. So a run of some length has a [`Filter`], asked before it is searched.

use std::borrow::Borrow;
use std::cmp::Ordering;

/// Marks a removal in [`Place::value_bytes`]; values are shorter, see `VALUE_BYTES_MAX`.
const REMOVED: u32 = u32::MAX;

/// See the module text.
#[derive(Default)]
pub(super) struct Run {
    bytes: Vec<u8>,
    places: Vec<Place>,
    filter: Filter,
}

/// Where a record is in its run's bytes: the key first, then the value.
#[derive(Clone, Copy)]
struct Place {
    at: usize,
    value_bytes: u32,
    key_bytes: u16,
}

/// A key and its value, `None` where it is removed.
pub(super) type Record<'a> = (&'a [u8], Option<&'a [u8]>);

impl Run {
    /// A run of these records, in any order. Of several with the same key the last one counts.
    pub fn of(mut records: Vec<Record<'_>>) -> Self {
        if !records.is_sorted_by(|(one, _), (other, _)| one < other) {
            // Stable: the last of equal keys stays the last.
            records.sort_by_key(|(key, _)| *key);
        }
        let bytes = records.iter().copied().map(length).sum();
        let mut run = Self::with_capacity(records.len(), bytes);
        let mut records = records.into_iter().peekable();
        while let Some(record) = records.next() {
            if records.peek().is_none_or(|(next, _)| *next != record.0) {
                run.push(record);
            }
        }
        run
    }

    /// One run that says what these say together, oldest first.
    pub fn merged<R: Borrow<Run>>(runs: &[R]) -> Self {
        let (mut records, mut bytes) = (0, 0);
        for run in runs {
            records += run.borrow().places.len();
            bytes += run.borrow().bytes.len();
        }
        let mut merged = Self::with_capacity(records, bytes);
        for record in records_of(runs) {
            merged.push(record);
        }
        merged
    }

    fn with_capacity(records: usize, bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            places: Vec::with_capacity(records),
            filter: Filter::for_keys(records),
        }
    }

    /// Lengths were checked when the batch came in.
    fn push(&mut self, (key, value): Record<'_>) {
        self.places.push(Place {
            at: self.bytes.len(),
            value_bytes: value.map_or(REMOVED, |value| value.len() as u32),
            key_bytes: key.len() as u16,
        });
        self.filter.add(key);
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Memory it takes, in bytes.
    pub fn cost(&self) -> usize {
        let places = self.places.capacity() * size_of::<Place>();
        self.bytes.capacity() + places + self.filter.0.capacity() * size_of::<u64>()
    }

    /// The value of a key; `Some(None)` if it is removed here, `None` if this run knows nothing of it.
    pub fn get(&self, sought: Sought<'_>) -> Option<Option<&[u8]>> {
        let key = sought.key;
        // Runs of history do not overlap: most are passed over here.
        if self.last_key()? < key || !self.filter.may_have(sought) {
            return None;
        }
        let (found, value) = self.record(self.position(key));
        (found == key).then_some(value)
    }

    /// All records, ascending.
    fn records(&self) -> impl Iterator<Item = Record<'_>> {
        (0..self.places.len()).map(|number| self.record(number))
    }

    pub fn last_key(&self) -> Option<&[u8]> {
        Some(self.key(self.places.len().checked_sub(1)?))
    }

    fn key(&self, number: usize) -> &[u8] {
        let place = self.places[number];
        &self.bytes[place.at..place.at + usize::from(place.key_bytes)]
    }

    fn record(&self, number: usize) -> Record<'_> {
        let place = self.places[number];
        let value_at = place.at + usize::from(place.key_bytes);
        let value = (place.value_bytes != REMOVED)
            .then(|| &self.bytes[value_at..value_at + place.value_bytes as usize]);
        (&self.bytes[place.at..value_at], value)
    }

    /// Number of the first record at or behind `key`.
    fn position(&self, key: &[u8]) -> usize {
        self.places
            .partition_point(|place| self.bytes[place.at..][..usize::from(place.key_bytes)] < *key)
    }
}

/// The first 8 bytes as a number.
fn digest(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            u64::from_be_bytes(padded)
        }
    }
}

/// A key that is looked up in several runs, with what their filters need of it.
#[derive(Clone, Copy)]
pub(super) struct Sought<'a> {
    key: &'a [u8],
    hash: u64,
}

impl<'a> Sought<'a> {
    pub fn new(key: &'a [u8]) -> Self {
        let hash = xxhash_rust::xxh3::xxh3_64(key);
        Self { key, hash }
    }
}

/// A Bloom filter in which each key has its bits in one word, so that asking it costs one look at memory. Of keys
/// that are not there it lets about one in a hundred pass. Empty, it lets all pass.
#[derive(Default)]
struct Filter(Vec<u64>);

/// Shorter runs have none.
const FILTERED_KEYS_MIN: usize = 16;
const KEYS_PER_WORD: usize = 4;
/// Of a key, in its word.
const FILTER_BITS: u32 = 5;

impl Filter {
    fn for_keys(keys: usize) -> Self {
        match keys {
            0..FILTERED_KEYS_MIN => Self::default(),
            _ => Self(vec![0; keys.div_ceil(KEYS_PER_WORD)]),
        }
    }

    fn add(&mut self, key: &[u8]) {
        if self.0.is_empty() {
            return;
        }
        let (word, bits) = self.place(Sought::new(key));
        if let Some(word) = self.0.get_mut(word) {
            *word |= bits;
        }
    }

    fn may_have(&self, sought: Sought<'_>) -> bool {
        let (word, bits) = self.place(sought);
        self.0.get(word).is_none_or(|word| word & bits == bits)
    }

    /// The key's word, from the upper half of the hash, and its bits there, from the lower.
    fn place(&self, Sought { hash, .. }: Sought<'_>) -> (usize, u64) {
        let word = (u128::from(hash) * self.0.len() as u128) >> 64;
        let bits = (0..FILTER_BITS).fold(0, |bits, n| bits | 1 << (hash >> (6 * n) & 63));
        (word as usize, bits)
    }
}

fn length((key, value): Record<'_>) -> usize {
    key.len() + value.map_or(0, <[u8]>::len)
}

/// All records of these runs, oldest first, ascending; see [`Layers`].
pub(super) fn records_of<R: Borrow<Run>>(runs: &[R]) -> Box<dyn Iterator<Item = Record<'_>> + '_> {
    // As history is: the next run begins where the one before ends.
    let in_a_row = runs.windows(2).all(|pair| {
        let [before, after] = [&pair[0], &pair[1]].map(Borrow::borrow);
        before.last_key() < after.records().next().map(|(key, _)| key)
    });
    if in_a_row {
        Box::new(runs.iter().flat_map(|run| run.borrow().records()))
    } else {
        let newest_first = runs.iter().rev().map(Borrow::borrow);
        Box::new(Layers::between(newest_first, &[], None, false))
    }
}

/// The records of several runs in order of keys, each key as the newest run has it; removals included.
pub(super) struct Layers<'a> {
    /// With records left, the newest run first.
    cursors: Vec<Cursor<'a>>,
    reverse: bool,
}

/// What is left of a run: records `[front, back)`, and the key of the next.
struct Cursor<'a> {
    run: &'a Run,
    front: usize,
    back: usize,
    key: &'a [u8],
    /// The bytes of `key` behind `shared`, as one number that compares as they do; what is behind the key's end is 0.
    digest: u64,
    /// So many bytes are the same in all keys of all cursors that are read together.
    shared: usize,
}

impl<'a> Cursor<'a> {
    fn new(run: &'a Run, front: usize, back: usize, reverse: bool) -> Option<Self> {
        let mut cursor = Self {
            run,
            front,
            back,
            key: &[],
            digest: 0,
            shared: 0,
        };
        cursor.look(reverse).then_some(cursor)
    }

    /// Keys that are read together share so many bytes.
    fn set_shared(&mut self, shared: usize) {
        self.shared = shared;
        self.digest = digest(&self.key[shared..]);
    }

    /// The first and the last key that are left.
    fn ends(&self) -> [&'a [u8]; 2] {
        [self.run.key(self.front), self.run.key(self.back - 1)]
    }

    /// As comparing the keys, mostly without looking at them.
    fn compare(&self, other: &Self) -> Ordering {
        let by_digest = self.digest.cmp(&other.digest);
        by_digest.then_with(|| self.key.cmp(other.key))
    }

    fn next(&self, reverse: bool) -> usize {
        if reverse { self.back - 1 } else { self.front }
    }

    /// Takes note of the next key; false if there is none.
    fn look(&mut self, reverse: bool) -> bool {
        let left = self.front < self.back;
        if left {
            self.key = self.run.key(self.next(reverse));
            self.digest = digest(&self.key[self.shared..]);
        }
        left
    }

    fn advance(&mut self, reverse: bool) -> bool {
        if reverse {
            self.back -= 1;
        } else {
            self.front += 1;
        }
        self.look(reverse)
    }
}

impl<'a> Layers<'a> {
    /// What the runs, newest first, have in `[from, to)`.
    pub fn between(
        newest_first: impl Iterator<Item = &'a Run>,
        from: &[u8],
        to: Option<&[u8]>,
        reverse: bool,
    ) -> Self {
        let mut cursors: Vec<_> = newest_first
            .filter_map(|run| {
                let front = run.position(from);
                let back = to.map_or(run.places.len(), |to| run.position(to));
                Cursor::new(run, front, back, reverse)
            })
            .collect();
        // What the outermost keys share, all between them share, too.
        let mut ends = cursors.iter().flat_map(Cursor::ends);
        if let Some(first) = ends.next() {
            let shared = ends.fold(first.len(), |shared, end| {
                let same = first.iter().zip(end).take(shared);
                same.take_while(|(one, other)| one == other).count()
            });
            cursors
                .iter_mut()
                .for_each(|cursor| cursor.set_shared(shared));
        }
        Self { cursors, reverse }
    }
}

impl<'a> Iterator for Layers<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let wanted = if self.reverse {
            Ordering::Greater
        } else {
            Ordering::Less
        };
        // The newest of those that are first: a tie leaves it with the one found before.
        let mut first = 0;
        for number in 1..self.cursors.len() {
            if self.cursors[number].compare(&self.cursors[first]) == wanted {
                first = number;
            }
        }
        let cursor = self.cursors.get(first)?;
        let record = cursor.run.record(cursor.next(self.reverse));
        let digest = cursor.digest;
        // Newer ones than the one that was taken do not have the key.
        let mut number = first;
        while number < self.cursors.len() {
            let cursor = &mut self.cursors[number];
            let same = cursor.digest == digest && cursor.key == record.0;
            if same && !cursor.advance(self.reverse) {
                self.cursors.remove(number);
            } else {
                number += 1;
            }
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Map = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

    fn records() -> impl Strategy<Value = Vec<(Vec<u8>, Option<Vec<u8>>)>> {
        // Some differ in the middle only, or behind what a digest holds.
        let key = (prop::collection::vec(0u8..4, 1..4), 0usize..2, 0usize..2);
        let key = key.prop_map(|(key, before, behind)| {
            let longer = |times: usize| vec![1; 9 * times];
            [longer(before), key.clone(), longer(behind), key].concat()
        });
        let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..6));
        prop::collection::vec((key, value), 0..20)
    }

    fn borrowed(records: &[(Vec<u8>, Option<Vec<u8>>)]) -> Vec<Record<'_>> {
        let slices = records.iter();
        slices
            .map(|(key, value)| (&key[..], value.as_deref()))
            .collect()
    }

    fn owned(
        records: impl Iterator<Item = (impl AsRef<[u8]>, Option<impl AsRef<[u8]>>)>,
    ) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        records
            .map(|(key, value)| (key.as_ref().to_vec(), value.map(|v| v.as_ref().to_vec())))
            .collect()
    }

    proptest! {
        #[test]
        fn runs_read_together_say_what_their_records_say_in_turn(
            batches in prop::collection::vec(records(), 0..6),
            from in prop::collection::vec(0u8..4, 0..3),
            to in prop::option::of(prop::collection::vec(0u8..4, 0..3)),
            reverse: bool,
        ) {
            let mut map = Map::new();
            let runs: Vec<Run> = batches.iter().map(|batch| Run::of(borrowed(batch))).collect();
            map.extend(batches.into_iter().flatten());

            let newest_first = || runs.iter().rev();
            let inside = |key: &[u8]| key >= &from[..] && to.as_ref().is_none_or(|to| key < &to[..]);
            let mut expected = owned(map.iter().filter(|(key, _)| inside(key)).map(|(k, v)| (k, v.as_ref())));
            if reverse {
                expected.reverse();
            }
            let found = owned(Layers::between(newest_first(), &from, to.as_deref(), reverse));
            prop_assert_eq!(found, expected);

            let merged = Run::merged(&runs);
            prop_assert_eq!(owned(records_of(&[&merged])), owned(map.iter().map(|(k, v)| (k, v.as_ref()))));
            for key in map.keys().chain([&vec![9], &vec![]]) {
                let expected = map.get(key).map(|value| value.as_deref());
                let sought = Sought::new(key);
                prop_assert_eq!(newest_first().find_map(|run| run.get(sought)), expected);
                prop_assert_eq!(merged.get(sought), expected);
            }
            prop_assert_eq!(merged.last_key(), map.keys().next_back().map(|key| &key[..]));
            prop_assert_eq!(merged.is_empty(), map.is_empty());
        }
    }
    #[test]
    fn a_filter_has_every_key_of_its_run_and_few_others() {
        for count in [1, 15, 16, 17, 1000, 40_000u32] {
            let keys = (0..2 * count).map(|n| format!("/some/keys/{n:08}"));
            let keys = keys.map(String::into_bytes).collect::<Vec<_>>();
            let (held, others) = keys.split_at(count as usize);
            let run = Run::of(held.iter().map(|key| (&key[..], Some(&key[..]))).collect());
            for key in held {
                assert_eq!(run.get(Sought::new(key)), Some(Some(&key[..])));
            }
            let passed = |key: &&Vec<u8>| run.filter.may_have(Sought::new(key));
            let passed = others.iter().filter(passed).count();
            assert!(
                count < 1000 || passed * 50 < others.len(),
                "{passed} of {count}"
            );
        }
    }
}
