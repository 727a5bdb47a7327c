//! How much of the log is kept: in memory for followers that are a little behind, in files for the next start.
//!
//! A follower that needs an entry older than what memory holds gets a snapshot. So memory keeps the last
//! `--snapshot-catchup-entries` applied entries, more for a follower that is being caught up, and never more bytes than the
//! replica's own bound. A lone voter has nobody to send old entries to and keeps few. The files keep what the store could
//! not be rebuilt without, and as many entries as memory is filled with at the next start.

use super::ReplicaCore;
use crate::cores::post;
use crate::disk::DiskJob;

/// Entries and bytes behind the applied index after which a lone voter drops them: few, so that their memory is used
/// again while the processor's cache still has it.
const LONE_ENTRIES_MAX: u64 = 1024;
const LONE_BYTES_MAX: usize = 8 << 20;

pub(super) struct Retention {
    /// Entries up to here are gone from memory.
    compacted: u64,
}

impl Retention {
    pub(super) fn new(compacted: u64) -> Self {
        Retention { compacted }
    }
}

impl ReplicaCore {
    /// The store has applied up to `index`.
    pub(super) fn applied_to(&mut self, index: u64) {
        let behind = index.saturating_sub(self.retention.compacted);
        let upto = if self.is_lone() {
            let many = behind >= LONE_ENTRIES_MAX;
            (many || self.replica.status().tail_bytes >= LONE_BYTES_MAX).then_some(index)
        } else {
            let keep = self.shared.config.log_keep_entries;
            let due = behind >= keep + self.shared.config.log_drop_entries;
            let followed = self.replica.followed_up_to().unwrap_or(index);
            // Who is being sent a snapshot goes on from behind it.
            let sending = self.snapshots.keep_after().unwrap_or(index);
            due.then(|| index.saturating_sub(keep).min(followed).min(sending))
        };
        if let Some(upto) = upto {
            self.replica.compact(upto);
            self.retention.compacted = self.retention.compacted.max(upto);
        }
    }

    /// Everything up to this index is durable in the store.
    pub(super) fn durable(&mut self, index: u64) {
        let keep = if self.is_lone() {
            0
        } else {
            self.shared.config.log_keep_entries
        };
        let upto = index.saturating_sub(keep);
        post(&self.links.disk, DiskJob::Purge { upto });
    }

    /// No other member, voter or learner.
    pub(super) fn is_lone(&self) -> bool {
        let membership = self.replica.membership();
        self.replica.is_alone() && membership.learners.is_empty()
    }
}
