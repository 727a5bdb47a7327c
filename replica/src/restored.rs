//! What a member starts from, and whether it fits together.
//!
//! A crash explains that a commit index lags, that a hard state is older than the entries beside it,
//! that the store is behind the log. It does not explain a store ahead of its log, a hole, a falling
//! term: those mean that something acknowledged may be gone, and the start is refused.

use kvnode_wal::{Entry, EntryKind, HardState, Membership};

use crate::conf_change::ConfChange;
use crate::error::Error;
use crate::message;

/// What a member knows when it starts.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// The newest known membership, as of its own index. Conf changes among `entries` above that
    /// index and up to `applied` are carried out on it; the caller must not leave one out. A new
    /// cluster's members all start with the same one (index 0); a member that joins starts with
    /// one the cluster has told it (a recent one is better, any will do). Never without voters.
    pub membership: Membership,
    /// As found in the log; zero for a new one.
    pub hard_state: HardState,
    /// A point (index, term) up to which the state is complete without the log: the newest
    /// snapshot, or the store's own applied index and term. (0, 0) if the log is complete.
    pub snapshot: (u64, u64),
    /// In order, without gaps. May begin below `snapshot`, which helps peers that are behind.
    pub entries: Vec<Entry>,
    /// The store's durable applied index.
    pub applied: u64,
}

/// Entries from the first one usable on, and the (index, term) in front of it.
pub(crate) fn connect(
    snapshot: (u64, u64),
    entries: Vec<Entry>,
    applied: u64,
) -> Result<((u64, u64), Vec<Entry>), Error> {
    let mut before: Option<(u64, u64)> = None;
    if (snapshot.0 == 0) != (snapshot.1 == 0) || snapshot.0 >= message::NUMBER_MAX {
        return Err(Error::TermFalls {
            index: snapshot.0,
            before: 1,
            found: snapshot.1,
        });
    }
    for entry in &entries {
        let (index, term) = (entry.index, entry.term);
        if let Some((at, of)) = before {
            if index != at + 1 {
                return Err(Error::EntryGap {
                    expected: at + 1,
                    found: index,
                });
            }
            if term < of {
                return Err(Error::TermFalls {
                    index,
                    before: of,
                    found: term,
                });
            }
        }
        if index >= message::NUMBER_MAX || index == 0 {
            return Err(Error::EntryGap {
                expected: snapshot.0 + 1,
                found: index,
            });
        }
        if term == 0 || term >= message::NUMBER_MAX {
            return Err(Error::TermFalls {
                index,
                before: before.map_or(1, |b| b.1),
                found: term,
            });
        }
        if index == snapshot.0 && term != snapshot.1 {
            return Err(Error::SnapshotTerm {
                index,
                expected: snapshot.1,
                found: term,
            });
        }
        before = Some((index, term));
    }
    let first = entries.first().map_or(snapshot.0 + 1, |entry| entry.index);
    let last = before.map_or(snapshot.0, |(index, _)| index);
    let (base, entries) = if last < snapshot.0 || entries.is_empty() {
        (snapshot, Vec::new())
    } else if first == snapshot.0 + 1 {
        (snapshot, entries)
    } else if first <= snapshot.0 || applied >= first {
        // The term in front of the first entry is not known: the entry itself becomes the base.
        let mut entries = entries.into_iter();
        let base = entries
            .next()
            .map_or(snapshot, |entry| (entry.index, entry.term));
        (base, entries.collect())
    } else {
        return Err(Error::EntryGap {
            expected: snapshot.0 + 1,
            found: first,
        });
    };
    if applied < base.0 {
        return Err(Error::AppliedBelowLog {
            applied,
            first: base.0 + 1,
        });
    }
    Ok((base, entries))
}

pub(crate) fn clamp(
    hard_state: HardState,
    snapshot: (u64, u64),
    applied: u64,
    last: (u64, u64),
) -> Result<HardState, Error> {
    let HardState {
        mut term,
        mut vote,
        commit,
    } = hard_state;
    let (last_index, last_term) = last;
    if applied > last_index {
        return Err(Error::AppliedBeyondLog {
            applied,
            last: last_index,
        });
    }
    let commit = commit.max(applied).max(snapshot.0);
    if commit > last_index {
        return Err(Error::CommitBeyondLog {
            commit,
            last: last_index,
        });
    }
    let known = last_term.max(snapshot.1);
    if term < known {
        term = known;
        vote = 0;
    }
    Ok(HardState { term, vote, commit })
}

/// Conf changes that are applied but not in the membership yet.
pub(crate) fn replayed(
    entries: &[Entry],
    known: u64,
    applied: u64,
) -> Result<Vec<(u64, ConfChange)>, Error> {
    entries
        .iter()
        .filter(|e| e.kind == EntryKind::ConfChange && known < e.index && e.index <= applied)
        .map(|entry| {
            let index = entry.index;
            let change = ConfChange::decode(&entry.payload);
            Ok((
                index,
                change.map_err(|reason| Error::ConfChange { index, reason })?,
            ))
        })
        .collect()
}
