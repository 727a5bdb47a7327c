//! raft's view of the log: an in-memory tail of it, bounded by bytes.
//!
//! Everything raft was told to write is visible here at once, before it is durable; how far the
//! disk has come is raft's own number (`persisted`). The payloads are the very buffers that go to
//! the WAL: both sides hold counted references.
//!
//! Invariants:
//! - `entries[i].index == base.0 + 1 + i`, terms never fall;
//! - `base` is the (index, term) in front of the first entry, and `base.0 <= applied`;
//! - `bytes` and `unapplied_bytes` are the sums of [`cost`] over all entries and over those above
//!   `applied`.
//!
//! What is dropped here stays in the WAL until that is purged. A peer that needs it gets a
//! snapshot; serving it from WAL segments fits behind [`Storage::entries`] later.

use std::cell::Cell;
use std::collections::VecDeque;

use kvnode_wal::{Entry, EntryKind, Membership};
use raft::eraftpb::{self, EntryType, HardState};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::membership;

/// A snapshot the node can stream: which state, and who was a member in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// Last index contained.
    pub index: u64,
    /// Term of that index.
    pub term: u64,
    /// As of `index`. A peer that is not named cannot use the snapshot and is not offered it.
    pub membership: Membership,
}

/// A peer can only be brought up to date by a snapshot, and none that fits is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotWanted {
    /// For whom; the snapshot's membership must name this member.
    pub to: u64,
    /// The snapshot must contain at least this index.
    pub index_min: u64,
}

pub(crate) struct Log {
    base: (u64, u64),
    entries: VecDeque<Entry>,
    bytes: usize,
    unapplied_bytes: usize,
    applied: u64,
    offer: Option<SnapshotOffer>,
    wanted: Cell<Option<SnapshotWanted>>,
    /// What raft reads once, when it is built.
    initial: RaftState,
}

/// What an entry is charged against byte limits: its payload and about what its bookkeeping takes.
pub(crate) fn cost(entry: &Entry) -> usize {
    entry.payload.len() + ENTRY_OVERHEAD
}

/// Charged per entry beside its payload, in bytes.
pub(crate) const ENTRY_OVERHEAD: usize = 64;

impl Log {
    /// `entries` follow `base` without a gap (checked by the caller), `applied` lies within.
    pub(crate) fn new(
        base: (u64, u64),
        entries: impl IntoIterator<Item = Entry>,
        applied: u64,
        hard_state: HardState,
        members: &Membership,
    ) -> Self {
        let mut log = Log {
            base,
            entries: VecDeque::new(),
            bytes: 0,
            unapplied_bytes: 0,
            applied: base.0,
            offer: None,
            wanted: Cell::new(None),
            initial: RaftState::new(hard_state, membership::to_raft(members)),
        };
        for entry in entries {
            log.push(entry);
        }
        log.set_applied(applied);
        log
    }

    pub(crate) fn first(&self) -> u64 {
        self.base.0 + 1
    }

    pub(crate) fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    pub(crate) fn applied(&self) -> u64 {
        self.applied
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Entries above `applied`, and what they are charged.
    pub(crate) fn unapplied(&self) -> (usize, usize) {
        ((self.last() - self.applied) as usize, self.unapplied_bytes)
    }

    fn position(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.first())?).ok()
    }

    /// Appends one entry; it replaces everything from its index on.
    pub(crate) fn push(&mut self, entry: Entry) {
        while self.last() >= entry.index {
            self.pop_back();
        }
        assert_eq!(
            entry.index,
            self.last() + 1,
            "entries are appended without a gap"
        );
        let cost = cost(&entry);
        self.bytes += cost;
        self.unapplied_bytes += cost;
        self.entries.push_back(entry);
    }

    fn pop_back(&mut self) {
        let entry = self
            .entries
            .pop_back()
            .expect("raft never replaces what is committed");
        assert!(
            entry.index > self.applied,
            "an applied entry is never replaced"
        );
        self.bytes -= cost(&entry);
        self.unapplied_bytes -= cost(&entry);
    }

    /// A snapshot takes the place of the whole log.
    pub(crate) fn install(&mut self, index: u64, term: u64) {
        self.entries.clear();
        self.base = (index, term);
        self.bytes = 0;
        self.unapplied_bytes = 0;
    }

    /// The store has executed everything up to `index`.
    pub(crate) fn set_applied(&mut self, index: u64) {
        let from = self.position(self.applied + 1).unwrap_or(0);
        let to = self
            .position(index + 1)
            .unwrap_or(0)
            .min(self.entries.len());
        if from < to {
            self.unapplied_bytes -= self.entries.range(from..to).map(cost).sum::<usize>();
        }
        self.applied = index;
    }

    /// Drops entries up to `index`, at most those applied.
    pub(crate) fn compact(&mut self, index: u64) {
        let index = index.min(self.applied);
        while self.base.0 < index {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= cost(&entry);
            self.base = (entry.index, entry.term);
        }
    }

    /// Drops the oldest applied entries until at most `bytes_max` bytes are kept, but none above
    /// `keep_from`.
    pub(crate) fn shrink(&mut self, bytes_max: usize, keep_from: u64) {
        while self.bytes > bytes_max {
            let next = self.base.0 + 1;
            if next > self.applied || next >= keep_from || self.entries.is_empty() {
                break;
            }
            self.compact(next);
        }
    }

    /// The entries above `after`, up to `to`; `None` if not all of them are here, or `to` lies below `after`.
    pub(crate) fn between(&self, after: u64, to: u64) -> Option<Vec<Entry>> {
        let from = self.position(after.checked_add(1)?)?;
        let end = self.position(to.checked_add(1)?)?;
        (from <= end && end <= self.entries.len())
            .then(|| self.entries.range(from..end).cloned().collect())
    }

    pub(crate) fn offer(&mut self, offer: SnapshotOffer) {
        self.offer = Some(offer);
    }

    pub(crate) fn withdraw(&mut self) {
        self.offer = None;
    }

    pub(crate) fn take_wanted(&self) -> Option<SnapshotWanted> {
        self.wanted.take()
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        let Some(from) = self.position(low) else {
            return Err(StorageError::Compacted.into());
        };
        let to = self.position(high).unwrap_or(0);
        if from > to || to > self.entries.len() {
            return Err(StorageError::Unavailable.into());
        }
        let budget = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0u64;
        let mut out = Vec::with_capacity((to - from).min(1024));
        for entry in self.entries.range(from..to) {
            size = size.saturating_add(cost(entry) as u64);
            if size > budget && !out.is_empty() {
                break;
            }
            out.push(to_raft(entry.clone()));
        }
        Ok(out)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.0 {
            return Ok(self.base.1);
        }
        let Some(position) = self.position(index) else {
            return Err(StorageError::Compacted.into());
        };
        match self.entries.get(position) {
            Some(entry) => Ok(entry.term),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// Only a snapshot that names the receiver, and behind which the log goes on, is of any use.
    /// One that is not would be refused and asked for again, for ever.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<eraftpb::Snapshot> {
        let index_min = request_index.max(self.base.0).max(1);
        let fitting = self
            .offer
            .as_ref()
            .filter(|offer| offer.index >= index_min && membership::names(&offer.membership, to));
        let Some(offer) = fitting else {
            self.wanted.set(Some(SnapshotWanted { to, index_min }));
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        };
        Ok(snapshot_to_raft(offer))
    }
}

pub(crate) fn snapshot_to_raft(offer: &SnapshotOffer) -> eraftpb::Snapshot {
    let mut snapshot = eraftpb::Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = offer.index;
    metadata.term = offer.term;
    metadata.set_conf_state(membership::to_raft(&offer.membership));
    snapshot
}

/// An entry without payload is raft's own (a new leader's first): [`EntryKind::Empty`].
pub(crate) fn from_raft(entry: eraftpb::Entry) -> Entry {
    let kind = match entry.entry_type {
        EntryType::EntryNormal if entry.data.is_empty() => EntryKind::Empty,
        EntryType::EntryNormal => EntryKind::Normal,
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => EntryKind::ConfChange,
    };
    Entry {
        index: entry.index,
        term: entry.term,
        kind,
        payload: entry.data,
    }
}

pub(crate) fn to_raft(entry: Entry) -> eraftpb::Entry {
    let entry_type = match entry.kind {
        EntryKind::Normal | EntryKind::Empty => EntryType::EntryNormal,
        EntryKind::ConfChange => EntryType::EntryConfChangeV2,
    };
    let Entry {
        index,
        term,
        payload: data,
        ..
    } = entry;
    eraftpb::Entry {
        entry_type,
        term,
        index,
        data,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn entry(index: u64, term: u64, bytes: usize) -> Entry {
        Entry {
            index,
            term,
            kind: EntryKind::Normal,
            payload: Bytes::from(vec![7; bytes]),
        }
    }

    fn log(base: (u64, u64), terms: &[u64], applied: u64) -> Log {
        let entries = terms
            .iter()
            .zip(base.0 + 1..)
            .map(|(&term, index)| entry(index, term, 10));
        let members = Membership {
            voters: vec![1],
            ..Membership::default()
        };
        Log::new(base, entries, applied, HardState::default(), &members)
    }

    fn indexes(log: &Log, low: u64, high: u64, size: Option<u64>) -> Vec<u64> {
        let entries = log
            .entries(low, high, size, GetEntriesContext::empty(false))
            .unwrap();
        entries.iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn terms_and_entries_are_found_from_the_base_on() {
        let log = log((4, 2), &[2, 3, 3], 4);
        assert_eq!((log.first(), log.last()), (5, 7));
        let terms: Vec<u64> = (4..=7).map(|index| log.term(index).unwrap()).collect();
        assert_eq!(terms, [2, 2, 3, 3]);
        assert_eq!(log.term(3), Err(StorageError::Compacted.into()));
        assert_eq!(log.term(8), Err(StorageError::Unavailable.into()));
        assert_eq!(indexes(&log, 5, 8, None), [5, 6, 7]);
        assert_eq!(indexes(&log, 6, 6, None), [0u64; 0]);
        let below = log.entries(4, 6, None, GetEntriesContext::empty(false));
        assert_eq!(below, Err(StorageError::Compacted.into()));
        let above = log.entries(5, 9, None, GetEntriesContext::empty(false));
        assert_eq!(above, Err(StorageError::Unavailable.into()));
    }

    #[test]
    fn a_stretch_of_entries_comes_whole_or_not_at_all() {
        let log = log((4, 2), &[2, 3, 3], 4);
        let between = |after, to| {
            let entries = log.between(after, to)?;
            Some(entries.iter().map(|entry| entry.index).collect::<Vec<_>>())
        };
        assert_eq!(between(4, 7), Some(vec![5, 6, 7]));
        assert_eq!(between(5, 6), Some(vec![6]));
        assert_eq!(between(7, 7), Some(vec![]));
        assert_eq!(between(3, 7), None, "4 is gone");
        assert_eq!(between(4, 8), None, "8 is not there yet");
        assert_eq!(between(6, 5), None, "the state is ahead");
    }

    #[test]
    fn one_entry_comes_whatever_the_size_limit() {
        let log = log((0, 0), &[1, 1, 1], 0);
        assert_eq!(indexes(&log, 1, 4, Some(0)), [1]);
        assert_eq!(
            indexes(&log, 1, 4, Some(2 * (10 + ENTRY_OVERHEAD) as u64)),
            [1, 2]
        );
    }

    #[test]
    fn an_entry_replaces_everything_from_its_index_on() {
        let mut log = log((0, 0), &[1, 1, 1, 1], 1);
        log.push(entry(3, 2, 1));
        assert_eq!((log.last(), log.term(3).unwrap()), (3, 2));
        assert_eq!(log.bytes(), 2 * (10 + ENTRY_OVERHEAD) + 1 + ENTRY_OVERHEAD);
        assert_eq!(log.unapplied(), (2, 10 + 1 + 2 * ENTRY_OVERHEAD));
    }

    #[test]
    fn compaction_stops_at_applied_and_keeps_the_term_in_front() {
        let mut log = log((0, 0), &[1, 2, 3, 4], 2);
        log.compact(4);
        assert_eq!((log.first(), log.last(), log.term(2).unwrap()), (3, 4, 2));
        assert_eq!(log.bytes(), log.unapplied().1);
        log.set_applied(4);
        assert_eq!(log.unapplied(), (0, 0));
        log.compact(9);
        assert_eq!((log.first(), log.last(), log.bytes()), (5, 4, 0));
        assert_eq!(log.term(4).unwrap(), 4);
    }

    #[test]
    fn shrinking_keeps_what_is_asked_for_and_what_is_not_applied() {
        let each = 10 + ENTRY_OVERHEAD;
        let mut log = log((0, 0), &[1; 8], 6);
        log.shrink(7 * each, u64::MAX);
        assert_eq!(log.first(), 2);
        log.shrink(0, 4);
        assert_eq!(log.first(), 4);
        log.shrink(0, u64::MAX);
        assert_eq!((log.first(), log.bytes()), (7, 2 * each));
    }

    #[test]
    fn a_snapshot_takes_the_place_of_the_log() {
        let mut log = log((0, 0), &[1; 5], 2);
        log.install(9, 4);
        assert_eq!((log.first(), log.last(), log.bytes()), (10, 9, 0));
        assert_eq!(log.term(9).unwrap(), 4);
        log.push(entry(10, 4, 10));
        assert_eq!(log.unapplied().1, 10 + ENTRY_OVERHEAD);
        log.set_applied(9);
        assert_eq!(log.unapplied(), (1, 10 + ENTRY_OVERHEAD));
    }

    #[test]
    fn h7_a_snapshot_is_offered_only_to_those_it_names_and_wished_for_otherwise() {
        let mut log = log((4, 1), &[1], 5);
        let unavailable = Err(StorageError::SnapshotTemporarilyUnavailable.into());
        assert_eq!(log.snapshot(0, 2), unavailable);
        assert_eq!(
            log.take_wanted(),
            Some(SnapshotWanted {
                to: 2,
                index_min: 4
            })
        );
        let membership = Membership {
            index: 3,
            voters: vec![1],
            ..Membership::default()
        };
        log.offer(SnapshotOffer {
            index: 5,
            term: 1,
            membership: membership.clone(),
        });
        assert_eq!(log.snapshot(0, 2), unavailable, "names only member 1");
        let membership = Membership {
            learners: vec![2],
            ..membership
        };
        log.offer(SnapshotOffer {
            index: 3,
            term: 1,
            membership: membership.clone(),
        });
        assert_eq!(log.snapshot(0, 2), unavailable, "entry 4 behind it is gone");
        log.take_wanted();
        log.offer(SnapshotOffer {
            index: 5,
            term: 1,
            membership,
        });
        let snapshot = log.snapshot(0, 2).unwrap();
        assert_eq!(snapshot.get_metadata().index, 5);
        assert_eq!(snapshot.get_metadata().get_conf_state().learners, [2]);
        assert_eq!(log.take_wanted(), None);
    }

    #[test]
    fn payloads_are_shared_not_copied() {
        let payload = Bytes::from(vec![1; 100]);
        let at = payload.as_ptr();
        let mut log = log((0, 0), &[], 0);
        log.push(Entry {
            index: 1,
            term: 1,
            kind: EntryKind::Normal,
            payload,
        });
        let read = log
            .entries(1, 2, None, GetEntriesContext::empty(false))
            .unwrap();
        assert_eq!(from_raft(read[0].clone()).payload.as_ptr(), at);
    }
}
