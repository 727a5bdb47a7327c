//! A view as a stream of ordered records, for snapshots: first all of [`Space::State`], then all of
//! [`Space::Hist`], keys ascending in each. A store may write new values into history as well; they are left
//! out here, so each value is carried once, and members that are set up differently agree.
//!
//! The totals of such a stream say whether two stores hold the same: their hash is a sum over
//! records, so it does not depend on order, batching, or which engine holds them.

use std::ops::ControlFlow;

use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use crate::engine::{EngineError, Reader, Scan, Space};
use crate::revision::Revision;
use crate::schema::Undo;

/// One key of one space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub space: Space,
    pub key: Bytes,
    pub value: Bytes,
}

/// Sums over records of one space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceTotals {
    pub records: u64,
    pub key_bytes: u64,
    pub value_bytes: u64,
    /// Sum, modulo 2^128, of a hash of each record: xxh3-128 of the value, seeded with xxh3-64 of
    /// the key, seeded with 1 for state and 2 for history. Tells apart accidents, not attackers.
    pub hash: u128,
}

/// Sums over a whole stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub state: SpaceTotals,
    pub hist: SpaceTotals,
}

impl Totals {
    pub fn add(&mut self, record: &Record) {
        self.add_parts(record.space, &record.key, &record.value);
    }

    /// As [`Totals::add`].
    pub fn add_parts(&mut self, space: Space, key: &[u8], value: &[u8]) {
        self.add_hashed(space, key, value, record_hash(space, key, value));
    }

    /// As [`Totals::add`], where [`record_hash`] is known.
    pub(crate) fn add_hashed(&mut self, space: Space, key: &[u8], value: &[u8], hash: u128) {
        let of = match space {
            Space::State => &mut self.state,
            Space::Hist => &mut self.hist,
        };
        of.records += 1;
        of.key_bytes += key.len() as u64;
        of.value_bytes += value.len() as u64;
        of.hash = of.hash.wrapping_add(hash);
    }

    /// Takes over the totals of records that are not among these.
    pub fn merge(&mut self, other: &Totals) {
        for (mine, theirs) in [
            (&mut self.state, &other.state),
            (&mut self.hist, &other.hist),
        ] {
            mine.records += theirs.records;
            mine.key_bytes += theirs.key_bytes;
            mine.value_bytes += theirs.value_bytes;
            mine.hash = mine.hash.wrapping_add(theirs.hash);
        }
    }

    pub fn of(&self, space: Space) -> &SpaceTotals {
        match space {
            Space::State => &self.state,
            Space::Hist => &self.hist,
        }
    }

    /// One hash over both spaces.
    pub fn hash(&self) -> u128 {
        self.state.hash.wrapping_add(self.hist.hash)
    }

    pub fn records(&self) -> u64 {
        self.state.records + self.hist.records
    }
}

#[cfg(test)]
thread_local! {
    /// Records hashed by this thread: most of what a pass over them costs.
    pub(crate) static HASHED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// What a record adds to [`SpaceTotals::hash`].
pub(crate) fn record_hash(space: Space, key: &[u8], value: &[u8]) -> u128 {
    #[cfg(test)]
    HASHED.set(HASHED.get() + 1);
    let seed = match space {
        Space::State => 1,
        Space::Hist => 2,
    };
    xxh3_128_with_seed(value, xxh3_64_with_seed(key, seed))
}

/// The records of one space, the same as [`records`] has, shown to `take` one by one until it breaks: cheaper for whoever
/// keeps nothing of them. `from` is the first key. Returns the totals of those shown.
pub fn visit<V: Reader>(
    view: &V,
    space: Space,
    from: &[u8],
    mut take: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
) -> Result<Totals, EngineError> {
    let mut totals = Totals::default();
    view.visit(space, from, None, false, |key, value| {
        let shorter = match (space, Revision::from_bytes(key)) {
            (Space::Hist, Some(revision)) => Undo::shorter(revision, value),
            _ => None,
        };
        let value = shorter.as_deref().unwrap_or(value);
        totals.add_parts(space, key, value);
        take(key, value)
    })?;
    Ok(totals)
}

/// The records of `view`. History below `hist_from` is left out: it is garbage that may or may not
/// be gone, so with it two equal stores would differ.
pub fn records<'a, V: Reader>(view: &'a V, hist_from: &[u8]) -> Records<'a, V> {
    Records {
        view,
        hist_from: Bytes::copy_from_slice(hist_from),
        space: Space::State,
        scan: Some(view.scan(Space::State, b"", None, false)),
        totals: Totals::default(),
    }
}

/// See [`records`]. Ends for good after the first error.
pub struct Records<'a, V> {
    view: &'a V,
    hist_from: Bytes,
    space: Space,
    scan: Option<Scan<'a>>,
    totals: Totals,
}

impl<V> Records<'_, V> {
    /// Of the records handed out so far.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }
}

impl<V: Reader> Iterator for Records<'_, V> {
    type Item = Result<Record, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.scan.as_mut()?.next() {
                Some(Ok((key, value))) => {
                    let value = match (self.space, Revision::from_bytes(&key)) {
                        (Space::Hist, Some(revision)) => Undo::without_value(revision, value),
                        _ => value,
                    };
                    let record = Record {
                        space: self.space,
                        key,
                        value,
                    };
                    self.totals.add(&record);
                    return Some(Ok(record));
                }
                Some(Err(error)) => {
                    self.scan = None;
                    return Some(Err(error));
                }
                None if self.space == Space::State => {
                    self.space = Space::Hist;
                    self.scan = Some(self.view.scan(Space::Hist, &self.hist_from, None, false));
                }
                None => self.scan = None,
            }
        }
    }
}
