//! What a sequence of records means: the last index, the term of every index, hard state, snapshot
//! and membership. The writer asks it before it writes, the reader after it read: the same rules, in
//! pairs. Entries themselves are kept elsewhere; terms are kept as runs, so memory grows with the
//! number of elections only.

use crate::membership::Membership;
use crate::record::{HardState, Origin, SnapshotMark};
use crate::segment::SegmentHeader;

/// A record that cannot follow the records before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Indexes have no gap.
    #[error("entry {index} does not follow last index {last}")]
    Gap {
        /// Of the entry.
        index: u64,
        /// Of the log.
        last: u64,
    },
    /// Committed entries are never replaced.
    #[error("entry {index} would replace a committed one, commit is {commit}")]
    Committed {
        /// Of the entry.
        index: u64,
        /// Recorded before.
        commit: u64,
    },
    /// Terms do not fall along the log.
    #[error("entry {index} has term {term}, the one before it {previous}")]
    EntryTerm {
        /// Of the entry.
        index: u64,
        /// Of the entry.
        term: u64,
        /// Of index - 1.
        previous: u64,
    },
    /// The current term never falls.
    #[error("hard state of term {term} behind term {previous}")]
    Term {
        /// Recorded now.
        term: u64,
        /// Recorded before.
        previous: u64,
    },
    /// Only what is in the log can be committed.
    #[error("commit {commit} is above last index {last}")]
    Commit {
        /// Recorded now.
        commit: u64,
        /// Of the log.
        last: u64,
    },
    /// A local snapshot holds what was in the log.
    #[error("snapshot of index {index} term {term} does not match the log, last index {last}")]
    Snapshot {
        /// Of the snapshot.
        index: u64,
        /// Of the snapshot.
        term: u64,
        /// Of the log.
        last: u64,
    },
}

/// See the file's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogState {
    /// Index in front of the first entry.
    base: u64,
    /// Term of `base`; unknown if the oldest segment replaced entries of a purged one.
    base_term: Option<u64>,
    /// (first index, term), ascending in both, all above `base`.
    runs: Vec<(u64, u64)>,
    /// Last index; `base` if there are no entries.
    last: u64,
    /// Highest index ever recorded as committed or contained in a snapshot.
    committed: u64,
    hard_state: HardState,
    /// Newest mark and the membership in that snapshot.
    snapshot: Option<(SnapshotMark, Membership)>,
    membership: Option<Membership>,
}

impl LogState {
    /// An empty log behind (`base`, `base_term`).
    pub fn new(base: u64, base_term: u64, hard_state: HardState) -> Self {
        Self {
            base,
            base_term: Some(base_term),
            runs: Vec::new(),
            last: base,
            committed: hard_state.commit,
            hard_state,
            snapshot: None,
            membership: None,
        }
    }

    /// What a segment's header alone says.
    pub fn at_opening_of(header: &SegmentHeader) -> Self {
        let mut state = Self::new(
            header.first_index - 1,
            header.previous_term,
            header.hard_state,
        );
        state.committed = state.committed.max(header.snapshot.0);
        state
    }

    /// Index of the first entry, whether or not it exists yet.
    pub fn first_index(&self) -> u64 {
        self.base + 1
    }

    /// Last index of the log.
    pub fn last_index(&self) -> u64 {
        self.last
    }

    /// Term of the last index, 0 for an empty new log.
    pub fn last_term(&self) -> u64 {
        self.term_of(self.last).unwrap_or(0)
    }

    /// Term of `index`; `None` outside `first_index - 1 ..= last_index`.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.base {
            return self.base_term;
        }
        if index < self.base || index > self.last {
            return None;
        }
        let behind = self.runs.partition_point(|(first, _)| *first <= index);
        self.runs.get(behind.checked_sub(1)?).map(|(_, term)| *term)
    }

    /// Newest hard state.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Newest snapshot mark.
    pub fn snapshot(&self) -> Option<SnapshotMark> {
        self.snapshot.as_ref().map(|(mark, _)| *mark)
    }

    /// The same, with the membership in that snapshot.
    pub fn snapshot_and_membership(&self) -> Option<&(SnapshotMark, Membership)> {
        self.snapshot.as_ref()
    }

    /// Highest index ever recorded as committed or contained in a snapshot.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Newest membership.
    pub fn membership(&self) -> Option<&Membership> {
        self.membership.as_ref()
    }

    /// Adds an entry; drops the tail from its index on.
    ///
    /// # Errors
    /// [`Broken`]; nothing is changed then.
    pub fn entry(&mut self, index: u64, term: u64) -> Result<(), Broken> {
        if index == 0 || index > self.last + 1 {
            return Err(Broken::Gap {
                index,
                last: self.last,
            });
        }
        if index <= self.committed {
            return Err(Broken::Committed {
                index,
                commit: self.committed,
            });
        }
        match self.term_of(index - 1) {
            Some(previous) if term < previous => {
                return Err(Broken::EntryTerm {
                    index,
                    term,
                    previous,
                });
            }
            _ => {}
        }
        if index <= self.base {
            // The oldest segment replaces the tail of one that is gone.
            (self.base, self.base_term) = (index - 1, None);
        }
        if index <= self.last {
            self.runs.retain(|(first, _)| *first < index);
        }
        if self.runs.last().is_none_or(|(_, newest)| *newest != term) {
            self.runs.push((index, term));
        }
        self.last = index;
        Ok(())
    }

    /// Takes a hard state.
    ///
    /// # Errors
    /// [`Broken`]; nothing is changed then.
    pub fn set_hard_state(&mut self, state: HardState) -> Result<(), Broken> {
        if state.term < self.hard_state.term {
            return Err(Broken::Term {
                term: state.term,
                previous: self.hard_state.term,
            });
        }
        if state.commit > self.last {
            return Err(Broken::Commit {
                commit: state.commit,
                last: self.last,
            });
        }
        self.hard_state = state;
        self.committed = self.committed.max(state.commit);
        Ok(())
    }

    /// Takes a snapshot mark; an installed one may drop entries.
    ///
    /// # Errors
    /// [`Broken`]; nothing is changed then.
    pub fn set_snapshot(
        &mut self,
        mark: SnapshotMark,
        membership: Membership,
    ) -> Result<(), Broken> {
        let SnapshotMark { index, term, .. } = mark;
        let known = self.term_of(index);
        let broken = Err(Broken::Snapshot {
            index,
            term,
            last: self.last,
        });
        // Indexes are counted up from; half of u64 is for ever.
        if index >= u64::MAX / 2 {
            return broken;
        }
        match mark.origin {
            // Contradicts the log, or claims what the log never had.
            Origin::Local if index > self.last || known.is_some_and(|known| known != term) => {
                return broken;
            }
            Origin::Local => {}
            // Repeated by a checkpoint behind it: dropped already.
            Origin::Installed if index < self.base => {}
            // Behind a base of unknown term everything was purged, so committed, so the same.
            Origin::Installed if known == Some(term) || (index == self.base && known.is_none()) => {
                self.runs.retain_mut(|(first, _)| {
                    *first = (*first).max(index + 1);
                    true
                });
                // Runs moved to the same start are all but the last wholly dropped.
                let live = self.runs.partition_point(|(first, _)| *first <= index + 1);
                self.runs.drain(..live.saturating_sub(1));
                self.runs.retain(|(first, _)| *first <= self.last);
                (self.base, self.base_term) = (index, Some(term));
            }
            Origin::Installed if index < self.committed => return broken,
            Origin::Installed => {
                self.runs.clear();
                (self.base, self.base_term, self.last) = (index, Some(term), index);
            }
        }
        self.committed = self.committed.max(index);
        if self
            .snapshot
            .as_ref()
            .is_none_or(|(newest, _)| newest.index <= index)
        {
            self.snapshot = Some((mark, membership.clone()));
        }
        self.set_membership(membership);
        Ok(())
    }

    /// For readers: an installed snapshot in front of where the oldest segment left was opened, behind
    /// which the writer began anew. What it dropped was in segments that are gone.
    ///
    /// # Errors
    /// [`Broken`]; nothing is changed then.
    pub(crate) fn begin_anew_at(&mut self, mark: SnapshotMark) -> Result<(), Broken> {
        let SnapshotMark { index, term, .. } = mark;
        if index < self.committed {
            let last = self.last;
            return Err(Broken::Snapshot { index, term, last });
        }
        self.runs.clear();
        (self.base, self.base_term, self.last) = (index, Some(term), index);
        Ok(())
    }

    /// Takes a membership, unless a newer one is known.
    pub fn set_membership(&mut self, membership: Membership) {
        if self
            .membership
            .as_ref()
            .is_none_or(|newest| newest.index <= membership.index)
        {
            self.membership = Some(membership);
        }
    }

    /// Forgets the terms of entries up to `index`, which were purged. Has no effect on rules: they
    /// look at uncommitted entries only.
    pub fn forget_up_to(&mut self, index: u64) {
        let index = index.min(self.last).min(self.committed);
        let Some(term) = self.term_of(index) else {
            return;
        };
        if index <= self.base {
            return;
        }
        let behind = self.runs.partition_point(|(first, _)| *first <= index + 1);
        self.runs.drain(..behind.saturating_sub(1));
        if let Some((first, _)) = self.runs.first_mut() {
            *first = (*first).max(index + 1);
        }
        self.runs.retain(|(first, _)| *first <= self.last);
        (self.base, self.base_term) = (index, Some(term));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> LogState {
        let mut state = LogState::new(0, 0, HardState::default());
        for (index, term) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 4)] {
            state.entry(index, term).unwrap();
        }
        state
    }

    fn terms(state: &LogState) -> Vec<Option<u64>> {
        (0..8).map(|index| state.term_of(index)).collect()
    }

    fn installed(index: u64, term: u64) -> SnapshotMark {
        SnapshotMark {
            index,
            term,
            id: [0; 16],
            origin: Origin::Installed,
        }
    }

    #[test]
    fn a_smaller_index_replaces_the_tail() {
        let mut state = log();
        assert_eq!(
            terms(&state),
            [
                Some(0),
                Some(1),
                Some(1),
                Some(2),
                Some(2),
                Some(4),
                None,
                None
            ]
        );
        state.entry(3, 1).unwrap();
        assert_eq!(
            terms(&state),
            [Some(0), Some(1), Some(1), Some(1), None, None, None, None]
        );
        assert_eq!(state.entry(5, 9), Err(Broken::Gap { index: 5, last: 3 }));
        assert_eq!(
            state.entry(4, 0),
            Err(Broken::EntryTerm {
                index: 4,
                term: 0,
                previous: 1
            })
        );
        state
            .set_hard_state(HardState {
                term: 5,
                vote: 1,
                commit: 3,
            })
            .unwrap();
        assert_eq!(
            state.entry(3, 9),
            Err(Broken::Committed {
                index: 3,
                commit: 3
            })
        );
        let back = HardState {
            term: 4,
            vote: 1,
            commit: 3,
        };
        assert_eq!(
            state.set_hard_state(back),
            Err(Broken::Term {
                term: 4,
                previous: 5
            })
        );
        let far = HardState {
            term: 5,
            vote: 1,
            commit: 4,
        };
        assert_eq!(
            state.set_hard_state(far),
            Err(Broken::Commit { commit: 4, last: 3 })
        );
    }

    #[test]
    fn an_installed_snapshot_keeps_the_tail_only_if_the_log_holds_its_entry() {
        for (index, term, wanted) in [
            (3, 2, vec![(4, 2), (5, 4)]),
            (4, 2, vec![(5, 4)]),
            (5, 4, vec![]),
            (3, 3, vec![]),
            (9, 4, vec![]),
        ] {
            let mut state = log();
            state
                .set_snapshot(installed(index, term), Membership::default())
                .unwrap();
            assert_eq!(state.first_index(), index + 1);
            assert_eq!(state.term_of(index), Some(term));
            let kept: Vec<_> = (index + 1..12)
                .filter_map(|i| Some((i, state.term_of(i)?)))
                .collect();
            assert_eq!(kept, wanted, "snapshot {index} {term}");
            let before = state.clone();
            state
                .set_snapshot(installed(index, term), Membership::default())
                .unwrap();
            assert_eq!(state, before, "a repeated mark changes nothing");
        }
    }

    #[test]
    fn a_local_snapshot_that_contradicts_the_log_is_refused() {
        let mut state = log();
        let local = |index, term| SnapshotMark {
            index,
            term,
            id: [0; 16],
            origin: Origin::Local,
        };
        assert!(
            state
                .set_snapshot(local(3, 1), Membership::default())
                .is_err()
        );
        assert!(
            state
                .set_snapshot(local(6, 4), Membership::default())
                .is_err()
        );
        state
            .set_snapshot(local(3, 2), Membership::default())
            .unwrap();
        assert_eq!((state.first_index(), state.last_index()), (1, 5));
    }

    #[test]
    fn forgetting_purged_terms_keeps_the_later_ones() {
        let mut state = log();
        state
            .set_hard_state(HardState {
                term: 4,
                vote: 0,
                commit: 4,
            })
            .unwrap();
        state.forget_up_to(3);
        assert_eq!(
            terms(&state),
            [None, None, None, Some(2), Some(2), Some(4), None, None]
        );
        state.forget_up_to(9);
        assert_eq!(
            state.first_index(),
            5,
            "only what is committed may be forgotten"
        );
        assert_eq!(
            terms(&state),
            [None, None, None, None, Some(2), Some(4), None, None]
        );
    }

    #[test]
    fn the_oldest_segment_may_replace_a_purged_tail() {
        let mut state = LogState::new(
            10,
            3,
            HardState {
                term: 3,
                vote: 0,
                commit: 7,
            },
        );
        state.entry(9, 4).unwrap();
        assert_eq!((state.first_index(), state.last_index()), (9, 9));
        assert_eq!(state.term_of(8), None);
        let before = state.last_index();
        state
            .set_snapshot(installed(8, 3), Membership::default())
            .unwrap();
        assert_eq!(
            state.last_index(),
            before,
            "a repeated mark at the base drops nothing"
        );
        assert_eq!(state.term_of(8), Some(3));
        assert_eq!(
            state.entry(7, 4),
            Err(Broken::Committed {
                index: 7,
                commit: 8
            })
        );
    }
}
