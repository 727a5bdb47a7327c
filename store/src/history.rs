//! Replaying changes from the past, with new and previous values.
//!
//! History records carry what a key was before its change. What it became stands in the next change
//! of that key, or in its head. So a replay scans its window once, which also resolves every key
//! changed again inside it, and then finishes the rest (one open put per key at most):
//!
//! 1. A look at each open key's head. It resolves all keys not changed since, and its version
//!    tells how many changes of the key lie in between for the others.
//! 2. For keys changed since, either way leads to the next change: scanning on from the window (all
//!    open keys at once, one record per change of any key), or following each key's chain down from
//!    its head (one lookup per change of that key). Versions and revisions of the heads tell how
//!    long the chains are and how far apart a key's changes lie, and so how far a scan pays. Busy
//!    keys are met soon by the scan, quiet ones have short chains.
//!
//! A larger window is cheaper per event. For a single key the chain alone gives its changes, unless
//! the key is so busy that the scan is shorter.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use kvnode_api::{Event, EventType, KeyRange, Status};

use crate::chain;
use crate::change::Change;
use crate::engine::{EngineError, Reader, Scan, Space};
use crate::error::{Error, Failure};
use crate::mvcc::event;
use crate::revision::Revision;
use crate::schema::{HeadRef, Made, Undo, Version, head_bounds, head_key};
use crate::source::Source;

/// Records one call looks at before it returns early, between two revisions.
const RECORDS_MAX: usize = 200_000;

/// Bytes of keys and values one call collects before it returns early, between two revisions.
const BYTES_MAX: usize = 32 << 20;

/// What a scanned record costs, and what a step down a chain does (a lookup), in the same unit.
const SCAN_COST: u64 = 1;
const STEP_COST: u64 = 4;

/// Heads a scan may pass over for each one wanted: more of them cost more than a lookup, which is
/// worth 2 (many tables to merge) to 8 of them.
const PASSED_MAX: usize = 3;

/// Lookups made before a scan is tried again, and fewest keys worth one.
const LOOKUPS_MIN: usize = 16;

/// Chain length assumed for keys deleted or made anew since: their version does not tell.
const UNKNOWN_STEPS: u64 = 16;

/// A piece of history.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// In ascending order, never one without events.
    pub changes: Vec<Change>,
    /// First revision this piece says nothing about: where to go on. Above the last revision asked
    /// for (and never above the one after the current) when everything was covered.
    pub next: i64,
}

/// The changes of keys in `range` with `from <= revision <= to`, at most `revisions_max` of them.
///
/// May return early, at some `next <= to`, when it has looked at very many records; a revision is
/// never split. Errors: compacted if `from` is below the compact revision. A `from` below 1 counts
/// as 1 in a store never compacted.
pub(crate) fn history<V: Reader>(
    source: &Source<'_, V>,
    from: i64,
    to: i64,
    range: &KeyRange,
    revisions_max: usize,
) -> Result<History, Failure> {
    if from < source.compact_revision {
        return Err(Status::compacted().into());
    }
    let from = from.max(1);
    let to = to.min(source.revision);
    if from > to {
        return Ok(History {
            changes: Vec::new(),
            next: from.min(source.revision + 1),
        });
    }
    let mut replay = Replay {
        source,
        range,
        changes: Vec::new(),
        open: HashMap::new(),
        bytes: 0,
    };
    let own = match range.single() {
        // At the compact revision itself the chain may be cut: what a delete there left is removed.
        Some(key) if from > source.compact_revision => own_changes(source, key, from, to)?,
        _ => None,
    };
    let mut records = own.unwrap_or_else(|| {
        let start = Revision::new(from, 0).to_bytes();
        source.reader.scan(Space::Hist, &start, None, false)
    });
    let (next, ahead) = replay.window(&mut records, to, revisions_max.max(1))?;
    replay.heads()?;
    replay.ahead(ahead.into_iter().map(Ok).chain(records))?;
    replay.chains()?;
    replay.drop_superseded();
    Ok(History {
        changes: replay.changes,
        next,
    })
}

type Record = (Bytes, Bytes);

/// All changes of one key from `from` on, collected down its chain; `None` if that is longer than
/// scanning the window is.
fn own_changes<'a, V: Reader>(
    source: &Source<'a, V>,
    key: &[u8],
    from: i64,
    to: i64,
) -> Result<Option<Scan<'a>>, Error> {
    let window = u64::try_from(to - from).unwrap_or(0).saturating_add(1);
    let mut records: Vec<Result<Record, EngineError>> = Vec::new();
    let mut place = source.head(key)?.map(|head| head.modified);
    while let Some(revision) = place.filter(|revision| revision.main >= from) {
        if records.len() as u64 * STEP_COST > window * SCAN_COST {
            return Ok(None);
        }
        let (record, undo) = chain::record(source.reader, revision)?;
        records.push(Ok((Bytes::copy_from_slice(&revision.to_bytes()), record)));
        place = undo.previous;
    }
    Ok(Some(Box::new(records.into_iter().rev())))
}

struct Replay<'a, V> {
    source: &'a Source<'a, V>,
    range: &'a KeyRange,
    changes: Vec<Change>,
    /// Puts whose value is not known yet, at most one per key.
    open: HashMap<Bytes, Open>,
    bytes: usize,
}

#[derive(Clone, Copy)]
struct Open {
    /// Place in `changes` and in its events.
    at: (usize, usize),
    revision: Revision,
    version: i64,
    /// The key's last change; known after the heads were read.
    newest: Revision,
    /// Changes between that and this one.
    steps: u64,
}

impl Open {
    /// Mean distance between the key's later changes, in revisions, and the cost of its chain.
    fn gap_and_cost(&self) -> (u64, u64) {
        let apart = self.newest.main.saturating_sub(self.revision.main);
        let apart = u64::try_from(apart).unwrap_or(0);
        (apart / self.steps.max(1), self.steps * STEP_COST)
    }
}

impl<V: Reader> Replay<'_, V> {
    /// Scans the window. Answers where to go on, and the first record after the window if it was
    /// taken off the scan.
    fn window(
        &mut self,
        records: &mut impl Iterator<Item = Result<Record, EngineError>>,
        to: i64,
        revisions_max: usize,
    ) -> Result<(i64, Option<Record>), Error> {
        let mut current = 0;
        for (scanned, item) in records.enumerate() {
            let (key, record) = item?;
            let revision = place(&key)?;
            if revision.main > to {
                return Ok((to + 1, Some((key, record))));
            }
            if revision.main != current {
                let enough = self.changes.len() >= revisions_max
                    || scanned >= RECORDS_MAX
                    || self.bytes >= BYTES_MAX;
                if enough {
                    return Ok((revision.main, Some((key, record))));
                }
                current = revision.main;
            }
            self.record(revision, &record)?;
        }
        Ok((to + 1, None))
    }

    fn record(&mut self, revision: Revision, record: &Bytes) -> Result<(), Error> {
        let wrong = || {
            Error::record(
                Space::Hist,
                &revision.to_bytes(),
                "is no record of a change",
            )
        };
        let key = Undo::key_of(record).ok_or_else(wrong)?;
        if !self.range.contains(&key) {
            return Ok(());
        }
        let undo = Undo::decode(revision, record)?;
        self.resolve(&key, &undo);
        let prev_kv = self.prev_kv(revision, &undo);
        let made = match undo.made {
            Made::Tombstone => None,
            Made::Put {
                create_revision,
                version,
                lease,
                value,
            } => {
                let known = value.is_some();
                Some((
                    Version {
                        create_revision,
                        version,
                        lease,
                        value: value.unwrap_or_default(),
                    },
                    known,
                ))
            }
        };
        let event = event(
            key.clone(),
            revision.main,
            made.as_ref().map(|made| &made.0),
            prev_kv,
        );
        self.bytes += record.len();
        let index = match self.changes.last_mut() {
            Some(change) if change.revision == revision.main => {
                change.events.push(event);
                change.events.len() - 1
            }
            _ => {
                self.changes.push(Change {
                    revision: revision.main,
                    events: vec![event],
                });
                0
            }
        };
        if let Some((Version { version, .. }, false)) = made {
            let at = (self.changes.len() - 1, index);
            self.open.insert(
                key,
                Open {
                    at,
                    revision,
                    version,
                    newest: revision,
                    steps: 0,
                },
            );
        }
        Ok(())
    }

    /// The pair before the revision, not before the change: what came earlier in the same revision
    /// does not count.
    fn prev_kv(&self, revision: Revision, undo: &Undo) -> Option<kvnode_api::KeyValue> {
        let created = matches!(undo.made, Made::Put { create_revision, .. } if create_revision == revision.main);
        if created || revision.main <= self.source.compact_revision {
            return None;
        }
        let previous = undo.previous?;
        if previous.main == revision.main {
            let change = self
                .changes
                .last()
                .filter(|change| change.revision == revision.main)?;
            let same = |event: &&Event| event.kv.as_ref().is_some_and(|kv| kv.key == undo.key);
            return change.events.iter().rev().find(same)?.prev_kv.clone();
        }
        let version = undo.previous_version.as_ref()?;
        Some(version.key_value(undo.key.clone(), previous.main))
    }

    /// `undo` is the next change of `key` after its open put: so it knows the value put.
    fn resolve(&mut self, key: &Bytes, undo: &Undo) {
        if let Some(open) = self.open.remove(key) {
            let value = undo
                .previous_version
                .as_ref()
                .map(|version| version.value.clone());
            self.set_value(open, value.unwrap_or_default());
        }
    }

    fn set_value(&mut self, open: Open, value: Bytes) {
        self.bytes += value.len();
        let (change, event) = open.at;
        let event = self
            .changes
            .get_mut(change)
            .and_then(|change| change.events.get_mut(event));
        if let Some(kv) = event.and_then(|event| event.kv.as_mut()) {
            kv.value = value;
        }
    }

    /// In key order, because neighbours share blocks of the engine: where open keys lie close
    /// together by passing over what is between them, else by lookups.
    fn heads(&mut self) -> Result<(), Error> {
        let mut keys: Vec<Bytes> = self.open.keys().cloned().collect();
        keys.sort_unstable();
        let mut left = &keys[..];
        let mut lookups = LOOKUPS_MIN;
        while !left.is_empty() {
            if left.len() >= LOOKUPS_MIN {
                let found = self.scan_heads(left)?;
                left = &left[found..];
                lookups = match found {
                    0..LOOKUPS_MIN => lookups.saturating_mul(2),
                    _ => LOOKUPS_MIN,
                };
            }
            let (now, later) = left.split_at(lookups.min(left.len()));
            for key in now {
                let record = self.source.reader.get(Space::State, &head_key(key))?;
                self.head(key, &record.ok_or_else(|| missing(key))?)?;
            }
            left = later;
        }
        Ok(())
    }

    /// Scans from the first of these sorted keys on, as long as enough of what it meets is wanted;
    /// answers how many of the keys it has met.
    fn scan_heads(&mut self, keys: &[Bytes]) -> Result<usize, Error> {
        let Some(first) = keys.first() else {
            return Ok(0);
        };
        let (from, to) = head_bounds(&KeyRange::From(first.clone()));
        let (mut met, mut passed) = (0, 0);
        let mut result = Ok(());
        let source = self.source;
        source
            .reader
            .visit(Space::State, &from, Some(&to), false, |key, record| {
                let Some(wanted) = keys.get(met) else {
                    return ControlFlow::Break(());
                };
                match key.get(1..).unwrap_or_default().cmp(wanted) {
                    Ordering::Less => passed += 1,
                    Ordering::Equal => {
                        result = self.head(wanted, record);
                        met += 1;
                    }
                    Ordering::Greater => result = Err(missing(wanted)),
                }
                if result.is_err() || passed > (met + 2) * PASSED_MAX {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })?;
        result.map(|()| met)
    }

    fn head(&mut self, key: &Bytes, record: &[u8]) -> Result<(), Error> {
        let head = HeadRef::decode(key, record)?;
        let Some(open) = self.open.get_mut(key) else {
            return Ok(());
        };
        open.newest = head.modified;
        open.steps = match &head.live {
            Some(live) if live.version >= open.version => (live.version - open.version) as u64,
            _ => UNKNOWN_STEPS,
        };
        if open.newest == open.revision {
            let open = *open;
            self.open.remove(key);
            let value = head.live.map(|live| Bytes::copy_from_slice(live.value));
            self.set_value(open, value.unwrap_or_default());
        }
        Ok(())
    }

    fn ahead(
        &mut self,
        records: impl Iterator<Item = Result<Record, EngineError>>,
    ) -> Result<(), Error> {
        let (distance, mut left) = self.plan();
        for (item, spent) in records.take(distance).zip(1u64..) {
            let (place_bytes, record) = item?;
            if let Some(key) = Undo::key_of(&record)
                && let Some(open) = self.open.get(&key)
            {
                left -= open.steps * STEP_COST;
                let undo = Undo::decode(place(&place_bytes)?, &record)?;
                self.resolve(&key, &undo);
            }
            // The plan guesses; scanning never costs more than twice what the chains would have.
            if spent * SCAN_COST >= left {
                break;
            }
        }
        Ok(())
    }

    /// How many records to scan on, at most, and what following all chains now would cost.
    ///
    /// A key's next change is expected as far away as its later changes lie apart on average. So a
    /// scan of some length spares the chains of the keys with shorter gaps; the best length is one
    /// of those gaps, or none.
    fn plan(&self) -> (usize, u64) {
        let mut gaps: Vec<(u64, u64)> = self.open.values().map(Open::gap_and_cost).collect();
        gaps.sort_unstable();
        let all: u64 = gaps.iter().map(|(_, cost)| cost).sum();
        let mut best = (all, 0);
        let mut chains = all;
        for (gap, cost) in gaps {
            chains -= cost;
            // Twice the mean: where most of what is spread at random has been met.
            let distance = gap.saturating_mul(2);
            best = best.min((
                chains.saturating_add(distance.saturating_mul(SCAN_COST)),
                distance,
            ));
        }
        (usize::try_from(best.1).unwrap_or(usize::MAX), all)
    }

    fn chains(&mut self) -> Result<(), Error> {
        for (key, open) in std::mem::take(&mut self.open) {
            let main = open.revision.main;
            let undo = chain::first_change_after(self.source.reader, &key, open.newest, main)?;
            let value = undo.previous_version.map(|version| version.value);
            self.set_value(open, value.unwrap_or_default());
        }
        Ok(())
    }

    /// At the compact revision itself only what is still true of each key is kept: a put deleted
    /// again in the same revision is gone.
    fn drop_superseded(&mut self) {
        let compacted = self.source.compact_revision;
        let Some(first) = self
            .changes
            .first_mut()
            .filter(|first| first.revision == compacted)
        else {
            return;
        };
        let key_of = |event: &Event| event.kv.as_ref().map(|kv| kv.key.clone());
        let deleted: Vec<Bytes> = first
            .events
            .iter()
            .filter(|event| event.r#type == EventType::Delete as i32)
            .filter_map(key_of)
            .collect();
        let deleted: std::collections::HashSet<Bytes> = deleted.into_iter().collect();
        first.events.retain(|event| {
            event.r#type == EventType::Delete as i32
                || key_of(event).is_none_or(|key| !deleted.contains(&key))
        });
    }
}

fn missing(key: &[u8]) -> Error {
    Error::record(Space::State, &head_key(key), "is missing")
}

fn place(key: &[u8]) -> Result<Revision, Error> {
    Revision::from_bytes(key).ok_or_else(|| Error::record(Space::Hist, key, "is no revision"))
}
