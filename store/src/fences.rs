//! How many live keys lie in an interval, without reading them.
//!
//! The sorted live keys are cut into buckets of about [`BUCKET_KEYS`]; each bucket knows its first
//! possible key (its fence) and how many live keys it holds. Counting an interval adds up the
//! buckets inside it and leaves at most two pieces at its edges to be scanned, each less than one
//! bucket.
//!
//! A clone is cheap and never changes, so every view carries the fences of its own revision.
//! Buckets stand in groups; a change copies one group's counters (a few hundred bytes) and the list
//! of groups, and only if a clone shares them. Memory: about 200 KB per million keys.
//!
//! A bucket also carries a [`Stamp`], by which others can keep what they have made of its keys:
//! under one stamp it is always the same keys, versions and values.
//!
//! Invariants: the first fence is the empty key, fences strictly ascend, no group is empty, totals
//! are the sums of what is below them.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

/// Live keys per bucket when built; a bucket of more than twice that wants to be split.
pub const BUCKET_KEYS: u32 = 512;
/// Buckets per group when built; a group of more than twice that is split.
const GROUP_BUCKETS: usize = 64;

/// See the module text.
#[derive(Clone, Debug)]
pub struct Fences {
    groups: Arc<Vec<Arc<Group>>>,
    total: u64,
    /// The next bucket's place.
    next_place: u64,
    shape: Shape,
}

/// What tells a bucket, as it is now, from all others and from itself at other times, within fences
/// that descend from one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the bucket: of an interval of keys.
    pub place: u64,
    /// No key in it has changed after this main revision.
    pub modified: i64,
}

/// One bucket, as [`Fences::buckets`] shows them.
#[derive(Clone, Copy, Debug)]
pub struct Bucket<'a> {
    pub from: &'a Bytes,
    /// Where the next one begins; `None` = no upper end.
    pub to: Option<&'a Bytes>,
    /// Live keys.
    pub count: u32,
    pub stamp: Stamp,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    bucket_keys: u32,
    group_buckets: usize,
}

const SHAPE: Shape = Shape {
    bucket_keys: BUCKET_KEYS,
    group_buckets: GROUP_BUCKETS,
};

#[derive(Clone, Debug)]
struct Group {
    /// Shared between versions: changes only when buckets are split or merged.
    fences: Arc<Vec<Bytes>>,
    counts: Vec<u32>,
    stamps: Vec<Stamp>,
    total: u64,
}

/// A key came to life or was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Added,
    Removed,
}

/// `[from, to)`; `to` `None` = no upper end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    pub from: Bytes,
    pub to: Option<Bytes>,
}

/// The answer to [`Fences::count`]: `inside` plus the live keys in `edges` is the count.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Count {
    pub inside: u64,
    pub edges: Vec<Interval>,
}

impl Fences {
    /// No keys.
    pub fn new() -> Self {
        Builder::new().finish()
    }

    /// All live keys.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Counts `key` in or out. If its bucket got crowded, returns the bucket: the caller should
    /// scan its live keys and call [`Fences::split`]; not doing so only makes edges longer.
    ///
    /// # Panics
    /// If more keys are removed from a bucket than it has: the caller told of a key twice.
    pub fn update(&mut self, key: &[u8], change: Change) -> Option<Interval> {
        let (group, bucket) = self.bucket_of(key);
        let groups = Arc::make_mut(&mut self.groups);
        let at = Arc::make_mut(&mut groups[group]);
        let count = &mut at.counts[bucket];
        match change {
            Change::Added => {
                *count += 1;
                at.total += 1;
                self.total += 1;
                let crowded = *count > 2 * self.shape.bucket_keys;
                crowded.then(|| self.interval_of(group, bucket))
            }
            Change::Removed => {
                assert!(*count > 0, "a key was removed from an empty bucket");
                *count -= 1;
                at.total -= 1;
                self.total -= 1;
                if *count < self.shape.bucket_keys / 4 {
                    self.merge_with_next(group, bucket);
                }
                None
            }
        }
    }

    /// Notes that `key` has changed at `revision`.
    pub fn touch(&mut self, key: &[u8], revision: i64) {
        let (group, bucket) = self.bucket_of(key);
        let groups = Arc::make_mut(&mut self.groups);
        let at = Arc::make_mut(&mut groups[group]);
        let modified = &mut at.stamps[bucket].modified;
        *modified = revision.max(*modified);
    }

    /// Notes that any key may have changed up to `revision`.
    pub fn touch_all(&mut self, revision: i64) {
        for group in Arc::make_mut(&mut self.groups) {
            for stamp in &mut Arc::make_mut(group).stamps {
                stamp.modified = revision;
            }
        }
    }

    /// The buckets in ascending order, beginning with the one whose interval holds `key`.
    pub fn buckets(&self, key: &[u8]) -> impl Iterator<Item = Bucket<'_>> {
        let mut next = Some(self.bucket_of(key));
        std::iter::from_fn(move || {
            let (group, bucket) = next.take()?;
            let at = &self.groups[group];
            let following = self.next(group, bucket);
            let to = self.groups.get(following.0);
            next = to.map(|_| following);
            Some(Bucket {
                from: &at.fences[bucket],
                to: to.map(|to| &to.fences[following.1]),
                count: at.counts[bucket],
                stamp: at.stamps[bucket],
            })
        })
    }

    /// Cuts a crowded bucket anew from its live keys, which must be all live keys of `bucket` in
    /// ascending order, as of all updates so far. If the bucket's bounds or count say otherwise it
    /// is left alone and the answer is false.
    pub fn split(&mut self, bucket: &Interval, keys: impl IntoIterator<Item = Bytes>) -> bool {
        let (group, index) = self.bucket_of(&bucket.from);
        if self.interval_of(group, index) != *bucket {
            return false;
        }
        let (fences, counts) = cut(&bucket.from, keys.into_iter(), self.shape.bucket_keys);
        let sum: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        if sum != u64::from(self.groups[group].counts[index]) {
            return false;
        }
        let groups = Arc::make_mut(&mut self.groups);
        let at = Arc::make_mut(&mut groups[group]);
        let modified = at.stamps[index].modified;
        let stamps = stamps(&mut self.next_place, modified, counts.len());
        Arc::make_mut(&mut at.fences).splice(index..=index, fences);
        at.counts.splice(index..=index, counts);
        at.stamps.splice(index..=index, stamps);
        if at.counts.len() > 2 * self.shape.group_buckets {
            let old = groups.remove(group);
            let pieces = regroup(
                &old.fences,
                &old.counts,
                &old.stamps,
                self.shape.group_buckets,
            );
            groups.splice(group..group, pieces);
        }
        true
    }

    /// The live keys in `[from, to)`; `to` `None` = no upper end.
    pub fn count(&self, from: &[u8], to: Option<&[u8]>) -> Count {
        if to.is_some_and(|to| to <= from) {
            return Count::default();
        }
        // Buckets [first, last) lie inside.
        let first = match self.bucket_of(from) {
            (group, bucket) if self.fence(group, bucket) == from => (group, bucket),
            (group, bucket) => self.next(group, bucket),
        };
        let last = to.map_or((self.groups.len(), 0), |to| self.bucket_of(to));
        let edge = |from: &[u8], to: Option<&[u8]>| Interval {
            from: Bytes::copy_from_slice(from),
            to: to.map(Bytes::copy_from_slice),
        };
        if first > last || first.0 == self.groups.len() {
            return Count {
                inside: 0,
                edges: vec![edge(from, to)],
            };
        }
        let mut edges = Vec::with_capacity(2);
        let lower = self.fence(first.0, first.1);
        if from < lower {
            edges.push(edge(from, Some(lower)));
        }
        if let Some(to) = to {
            let upper = self.fence(last.0, last.1);
            if upper < to {
                edges.push(edge(upper, Some(to)));
            }
        }
        Count {
            inside: self.sum(first, last),
            edges,
        }
    }

    /// Sum of the buckets from `first` up to but without `last`.
    fn sum(&self, first: (usize, usize), last: (usize, usize)) -> u64 {
        let part = |group: usize, buckets: Range<usize>| -> u64 {
            let Some(group) = self.groups.get(group) else {
                return 0;
            };
            group.counts[buckets]
                .iter()
                .map(|&count| u64::from(count))
                .sum()
        };
        if first.0 == last.0 {
            return part(first.0, first.1..last.1);
        }
        let head = part(first.0, first.1..self.groups[first.0].counts.len());
        let whole: u64 = self.groups[first.0 + 1..last.0]
            .iter()
            .map(|group| group.total)
            .sum();
        head + whole + part(last.0, 0..last.1)
    }

    /// The bucket whose interval holds `key`.
    fn bucket_of(&self, key: &[u8]) -> (usize, usize) {
        // The very first fence is the empty key, so both searches find at least one.
        let group = self.groups.partition_point(|group| group.fences[0] <= key) - 1;
        let bucket = self.groups[group]
            .fences
            .partition_point(|fence| fence <= key)
            - 1;
        (group, bucket)
    }

    fn next(&self, group: usize, bucket: usize) -> (usize, usize) {
        if bucket + 1 < self.groups[group].counts.len() {
            (group, bucket + 1)
        } else {
            (group + 1, 0)
        }
    }

    fn fence(&self, group: usize, bucket: usize) -> &[u8] {
        &self.groups[group].fences[bucket]
    }

    fn interval_of(&self, group: usize, bucket: usize) -> Interval {
        let (next_group, next_bucket) = self.next(group, bucket);
        let next = self
            .groups
            .get(next_group)
            .map(|group| group.fences[next_bucket].clone());
        Interval {
            from: self.groups[group].fences[bucket].clone(),
            to: next,
        }
    }

    /// Gives a small bucket the keys of the next one if both fit in one. Without this, keys that
    /// come and go in rising order would leave empty buckets behind for ever.
    fn merge_with_next(&mut self, group: usize, bucket: usize) {
        let next = self.next(group, bucket);
        let Some(other) = self.groups.get(next.0) else {
            return;
        };
        let moved = other.counts[next.1];
        let modified = other.stamps[next.1].modified;
        let merged = self.groups[group].counts[bucket] + moved;
        if merged > self.shape.bucket_keys {
            return;
        }
        let groups = Arc::make_mut(&mut self.groups);
        let from = Arc::make_mut(&mut groups[next.0]);
        Arc::make_mut(&mut from.fences).remove(next.1);
        from.counts.remove(next.1);
        from.stamps.remove(next.1);
        from.total -= u64::from(moved);
        let into = Arc::make_mut(&mut groups[group]);
        into.counts[bucket] = merged;
        let modified = modified.max(into.stamps[bucket].modified);
        into.stamps[bucket] = stamp(&mut self.next_place, modified);
        into.total += u64::from(moved);
        if groups[next.0].counts.is_empty() {
            groups.remove(next.0);
        }
    }
}

impl Default for Fences {
    fn default() -> Self {
        Self::new()
    }
}

/// Builds [`Fences`] from all live keys in ascending order. While a background thread does that
/// from a view, the owner notes the changes after it and replays them with [`Fences::update`].
pub struct Builder {
    fences: Vec<Bytes>,
    counts: Vec<u32>,
    total: u64,
    shape: Shape,
}

impl Builder {
    pub fn new() -> Self {
        Self::with_shape(SHAPE)
    }

    fn with_shape(shape: Shape) -> Self {
        Self {
            fences: vec![Bytes::new()],
            counts: vec![0],
            total: 0,
            shape,
        }
    }

    /// Takes the next key. Only one in [`BUCKET_KEYS`] is kept (copied).
    pub fn push(&mut self, key: &[u8]) {
        let last = self.counts.len() - 1;
        if self.counts[last] == self.shape.bucket_keys {
            self.fences.push(Bytes::copy_from_slice(key));
            self.counts.push(1);
        } else {
            self.counts[last] += 1;
        }
        self.total += 1;
    }

    /// All stamps are of revision 0; see [`Fences::touch_all`].
    pub fn finish(self) -> Fences {
        let mut next_place = 0;
        let stamps: Vec<Stamp> = stamps(&mut next_place, 0, self.counts.len()).collect();
        let groups = regroup(
            &self.fences,
            &self.counts,
            &stamps,
            self.shape.group_buckets,
        );
        Fences {
            groups: Arc::new(groups),
            total: self.total,
            next_place,
            shape: self.shape,
        }
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

/// Buckets over `keys` of which the first begins at `from`.
fn cut(
    from: &Bytes,
    keys: impl Iterator<Item = Bytes>,
    bucket_keys: u32,
) -> (Vec<Bytes>, Vec<u32>) {
    let (mut fences, mut counts) = (vec![from.clone()], vec![0]);
    for key in keys {
        let last = counts.len() - 1;
        if counts[last] == bucket_keys {
            // Copied: the key may be a slice of a far larger block.
            fences.push(Bytes::copy_from_slice(&key));
            counts.push(1);
        } else {
            counts[last] += 1;
        }
    }
    (fences, counts)
}

fn stamp(next_place: &mut u64, modified: i64) -> Stamp {
    let place = *next_place;
    *next_place += 1;
    Stamp { place, modified }
}

/// Stamps of new buckets.
fn stamps(next_place: &mut u64, modified: i64, count: usize) -> impl Iterator<Item = Stamp> {
    (0..count).map(move |_| stamp(next_place, modified))
}

fn regroup(
    fences: &[Bytes],
    counts: &[u32],
    stamps: &[Stamp],
    group_buckets: usize,
) -> Vec<Arc<Group>> {
    let parts = fences
        .chunks(group_buckets)
        .zip(counts.chunks(group_buckets))
        .zip(stamps.chunks(group_buckets));
    let group = |((fences, counts), stamps): ((&[Bytes], &[u32]), &[Stamp])| {
        Arc::new(Group {
            fences: Arc::new(fences.to_vec()),
            counts: counts.to_vec(),
            stamps: stamps.to_vec(),
            total: counts.iter().map(|&count| u64::from(count)).sum(),
        })
    };
    parts.map(group).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ops::Bound;

    use proptest::prelude::*;

    use super::*;

    const SMALL: Shape = Shape {
        bucket_keys: 4,
        group_buckets: 2,
    };

    type Model = BTreeSet<Vec<u8>>;

    fn scan<'a>(
        model: &'a Model,
        from: &'a [u8],
        to: Option<&'a [u8]>,
    ) -> impl Iterator<Item = &'a Vec<u8>> + 'a {
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        model.range::<[u8], _>((Bound::Included(from), to))
    }

    fn counted(fences: &Fences, model: &Model, from: &[u8], to: Option<&[u8]>) -> u64 {
        let count = fences.count(from, to);
        assert!(count.edges.len() <= 2);
        let edge = |edge: &Interval| scan(model, &edge.from, edge.to.as_deref()).count() as u64;
        count.inside + count.edges.iter().map(edge).sum::<u64>()
    }

    fn check(fences: &Fences, model: &Model) {
        assert_eq!(fences.total(), model.len() as u64);
        assert_eq!(fences.groups[0].fences[0], Bytes::new());
        let all: Vec<_> = fences
            .groups
            .iter()
            .flat_map(|g| g.fences.iter().cloned())
            .collect();
        assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
        for group in fences.groups.iter() {
            assert!(!group.counts.is_empty());
            assert_eq!(group.fences.len(), group.counts.len());
            assert_eq!(group.stamps.len(), group.counts.len());
            assert_eq!(
                group.total,
                group.counts.iter().map(|&c| u64::from(c)).sum::<u64>()
            );
        }
        assert_eq!(
            fences.groups.iter().map(|g| g.total).sum::<u64>(),
            fences.total()
        );
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0u8..4, 1..5)
    }

    fn toggle(fences: &mut Fences, model: &mut Model, key: &[u8]) {
        let change = if model.remove(key) {
            Change::Removed
        } else {
            Change::Added
        };
        if change == Change::Added {
            model.insert(key.to_vec());
        }
        if let Some(crowded) = fences.update(key, change) {
            let keys = scan(model, &crowded.from, crowded.to.as_deref()).cloned();
            assert!(fences.split(&crowded, keys.map(Bytes::from)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn counts_equal_a_sorted_set_after_any_changes(
            start in prop::collection::btree_set(key(), 0..60),
            changes in prop::collection::vec(key(), 0..200),
            intervals in prop::collection::vec((key(), prop::option::of(key())), 1..20),
        ) {
            let mut model: Model = start;
            let mut builder = Builder::with_shape(SMALL);
            model.iter().for_each(|key| builder.push(key));
            let mut fences = builder.finish();
            check(&fences, &model);
            let (before, model_before) = (fences.clone(), model.clone());
            for key in &changes {
                toggle(&mut fences, &mut model, key);
            }
            check(&fences, &model);
            check(&before, &model_before);
            for (from, to) in &intervals {
                let expected = |model: &Model| match to {
                    Some(to) if to <= from => 0,
                    to => scan(model, from, to.as_deref()).count() as u64,
                };
                prop_assert_eq!(counted(&fences, &model, from, to.as_deref()), expected(&model));
                prop_assert_eq!(
                    counted(&before, &model_before, from, to.as_deref()),
                    expected(&model_before)
                );
            }
            prop_assert_eq!(fences.count(b"", None), Count { inside: fences.total(), edges: vec![] });
        }
    }

    #[test]
    fn edges_are_never_longer_than_a_bucket() {
        let mut builder = Builder::new();
        for n in 0..100_000u32 {
            builder.push(&n.to_be_bytes());
        }
        let fences = builder.finish();
        let (from, to) = (12_345u32.to_be_bytes(), 87_654u32.to_be_bytes());
        let count = fences.count(&from, Some(&to));
        let number = |key: &Bytes| u64::from(u32::from_be_bytes(key[..].try_into().unwrap()));
        let edges: Vec<_> = count
            .edges
            .iter()
            .map(|edge| number(edge.to.as_ref().unwrap()) - number(&edge.from))
            .collect();
        assert_eq!(count.inside + edges.iter().sum::<u64>(), 87_654 - 12_345);
        assert!(
            edges.len() == 2 && edges.iter().all(|&keys| keys < 512),
            "{edges:?}"
        );
    }

    #[test]
    fn a_split_from_other_keys_than_were_counted_is_refused() {
        let mut fences = Builder::with_shape(SMALL).finish();
        let crowded = (0..9u8)
            .filter_map(|n| fences.update(&[n], Change::Added))
            .last()
            .unwrap();
        let keys = |n: u8| (0..n).map(|n| Bytes::copy_from_slice(&[n]));
        assert!(!fences.split(&crowded, keys(8)));
        assert!(fences.split(&crowded, keys(9)));
        assert!(!fences.split(&crowded, keys(9)), "it has other bounds now");
        assert_eq!(fences.total(), 9);
    }

    #[test]
    fn keys_that_come_and_go_leave_no_buckets_behind() {
        let mut fences = Builder::with_shape(SMALL).finish();
        let mut model = Model::new();
        for n in 0..5_000u32 {
            toggle(&mut fences, &mut model, &n.to_be_bytes());
            if n >= 40 {
                toggle(&mut fences, &mut model, &(n - 40).to_be_bytes());
            }
        }
        check(&fences, &model);
        let buckets: usize = fences.groups.iter().map(|group| group.counts.len()).sum();
        assert!(buckets < 40, "{buckets} buckets for 40 keys");
    }
}
