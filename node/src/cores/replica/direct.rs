//! The short way of a lone voter's entries: from the WAL thread straight to the apply thread.
//!
//! Where nobody else is a member, an entry of this leader's own term is committed the moment it is on disk; raft, once told,
//! can only say the same. So the WAL thread hands it on itself: one hand-over less before a put is answered. The replica
//! still learns of the write before the store is done with it, and what raft says of these entries later is dropped here.
//!
//! When an entry may go this way, all of it:
//! - This is the only member, it leads, and has committed in its term; the entries are of that term.
//! - No change of who votes is among them or in the log and not applied: behind it another quorum counts.
//! - Every entry before them is applied, with the apply thread, or goes the same way before them: so the apply thread gets
//!   all entries once, in order.
//! - One executor serves clients and replica. With several, an answer could leave one of them while another still reads
//!   at raft's older commit index.

use kvnode_replica::Write;
use kvnode_wal::{Entry, EntryKind};

use super::ReplicaCore;

pub(super) struct Direct {
    /// Every entry up to here is applied, with the apply thread, or on the short way.
    sent: u64,
    /// What raft handed out as committed, at the most.
    given: u64,
    /// The last change of who votes that was seen here.
    last_change: u64,
}

impl Direct {
    /// `applied`: what the store has.
    pub(super) fn new(applied: u64) -> Self {
        Direct {
            sent: applied,
            given: applied,
            last_change: 0,
        }
    }

    pub(super) fn given(&self) -> u64 {
        self.given
    }

    /// Of what raft says is committed: the entries that are not with the apply thread yet.
    pub(super) fn committed(&mut self, mut entries: Vec<Entry>) -> Vec<Entry> {
        let Some(last) = entries.last().map(|entry| entry.index) else {
            return entries;
        };
        self.given = self.given.max(last);
        if last <= self.sent {
            return Vec::new();
        }
        entries.retain(|entry| entry.index > self.sent);
        self.sent = last;
        entries
    }

    /// A snapshot took the place of the state.
    pub(super) fn installed(&mut self, index: u64) {
        self.sent = self.sent.max(index);
        self.given = self.given.max(index);
    }

    /// Notes a write; whether its entries may take the short way as far as the log goes, everything up to `applied`
    /// being applied.
    fn follow(&mut self, entries: &[Entry], term: u64, applied: u64, sole: bool) -> bool {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return false;
        };
        let change = entries
            .iter()
            .rev()
            .find(|entry| entry.kind == EntryKind::ConfChange);
        if let Some(change) = change {
            self.last_change = self.last_change.max(change.index);
        }
        let direct = sole
            && self.last_change <= applied
            && first.index == self.sent + 1
            && entries.iter().all(|entry| entry.term == term);
        if direct {
            self.sent = last.index;
        }
        direct
    }
}

impl ReplicaCore {
    /// Whether the entries of a write go to the apply thread as soon as they are on disk.
    pub(super) fn goes_direct(&mut self, write: &Write) -> bool {
        if write.entries.is_empty() {
            return false;
        }
        let status = self.replica.status();
        let sole = self.links.cores.len() == 1
            && write.install.is_none()
            && status.settled
            && self.is_lone();
        self.direct
            .follow(&write.entries, status.term, status.applied, sole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn entries(indexes: std::ops::RangeInclusive<u64>, kind: EntryKind) -> Vec<Entry> {
        let entry = |index| Entry {
            index,
            term: 3,
            kind,
            payload: Bytes::new(),
        };
        indexes.map(entry).collect()
    }

    fn normal(indexes: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
        entries(indexes, EntryKind::Normal)
    }

    fn indexes(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn the_apply_thread_gets_every_entry_once_and_in_order() {
        let mut direct = Direct::new(4);
        assert!(!direct.follow(&normal(5..=6), 3, 4, false), "not alone yet");
        assert!(
            !direct.follow(&normal(7..=7), 3, 4, true),
            "5 and 6 are still on the long way"
        );
        assert_eq!(indexes(&direct.committed(normal(5..=7))), [5, 6, 7]);
        assert!(direct.follow(&normal(8..=9), 3, 4, true));
        assert!(direct.follow(&normal(10..=10), 3, 4, true));
        assert_eq!(direct.given(), 7);
        assert!(
            direct.committed(normal(8..=9)).is_empty(),
            "they are there already"
        );
        assert!(
            !direct.follow(&normal(11..=11), 3, 9, false),
            "no longer alone"
        );
        assert_eq!(indexes(&direct.committed(normal(10..=11))), [11]);
        assert_eq!(direct.given(), 11);
    }

    #[test]
    fn nothing_overtakes_a_change_of_who_votes() {
        let mut direct = Direct::new(4);
        let change = entries(5..=5, EntryKind::ConfChange);
        assert!(
            !direct.follow(&change, 3, 4, true),
            "it takes the long way itself"
        );
        assert!(!direct.follow(&normal(6..=6), 3, 4, true));
        assert_eq!(
            indexes(&direct.committed([change, normal(6..=6)].concat())),
            [5, 6]
        );
        assert!(
            !direct.follow(&normal(7..=7), 3, 4, true),
            "handed over, not applied"
        );
        assert_eq!(indexes(&direct.committed(normal(7..=7))), [7]);
        assert!(direct.follow(&normal(8..=8), 3, 5, true));
    }

    #[test]
    fn entries_of_an_earlier_term_take_the_long_way() {
        let mut direct = Direct::new(4);
        assert!(!direct.follow(&normal(5..=5), 4, 4, true));
        direct.installed(9);
        assert!(
            direct.follow(&normal(10..=10), 3, 9, true),
            "behind a snapshot"
        );
    }
}
