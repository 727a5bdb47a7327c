//! What follows from the store's progress: conf changes take effect, the log's tail shrinks.

use kvnode_wal::Membership;

use crate::conf_change::ConfChange;
use crate::error::Refused;
use crate::membership;
use crate::replica::{Removed, Replica, local};

impl Replica {
    /// The store has executed everything up to `index`, and will find that out again after a crash
    /// or execute it again.
    ///
    /// # Panics
    /// If the index was never handed out as committed (or installed and written), or goes back.
    pub fn applied(&mut self, index: u64) {
        let applied = self.raw.store().applied();
        let usable = self.given.min(self.raw.raft.raft_log.persisted);
        assert!(
            applied <= index && index <= usable,
            "applied {index} reported, {applied} known, {usable} handed out and written"
        );
        if index == applied || self.failure.is_some() {
            return;
        }
        self.flush_proposals();
        self.raw.mut_store().set_applied(index);
        while self
            .conf_changes
            .front()
            .is_some_and(|&(at, _)| at <= index)
        {
            let (at, change) = self.conf_changes.pop_front().expect("front was there");
            if self.removed == Removed::No {
                self.apply_conf_change(at, &change);
            }
        }
        if self.removed == Removed::No {
            self.raw.advance_apply_to(index);
            self.shrink_tail();
            self.after_input();
        }
    }

    pub(crate) fn apply_conf_change(&mut self, index: u64, change: &ConfChange) {
        // A membership from a snapshot or a checkpoint may be ahead of what is applied.
        if index <= self.membership.index {
            return;
        }
        let was_member = membership::names(&self.membership, self.config.id);
        match self.raw.apply_conf_change(&change.to_raft()) {
            Ok(state) => self.set_membership(membership::from_raft(state, index)),
            // Every member comes to the same verdict, so skipping it keeps them equal.
            Err(error) => {
                ::log::warn!("entry {index}: membership change without effect: {error}");
                self.membership.index = index;
                return;
            }
        }
        if was_member && !membership::names(&self.membership, self.config.id) {
            self.removed = Removed::Leaving;
            self.reads
                .refuse_all(Refused::Removed, local(&mut self.read_answers));
        } else if self.leads() && !self.membership.voters.contains(&self.config.id) {
            // Demoted while leading. raft would go on leading without a vote of its own.
            let outgoing = self.membership.voters_outgoing.contains(&self.config.id);
            if !outgoing {
                let term = self.raw.raft.term;
                self.raw.raft.become_follower(term, raft::INVALID_ID);
            }
        }
    }

    pub(crate) fn set_membership(&mut self, membership: Membership) {
        self.peers.keep(&membership);
        self.membership = membership;
        self.membership_changed = true;
    }

    /// Keeps the tail within its bytes. Entries a follower heard of lately still lacks stay until
    /// the tail is twice its bound: sending a few entries is cheaper than a snapshot.
    fn shrink_tail(&mut self) {
        let bytes_max = self.config.tail_bytes_max;
        if self.raw.store().bytes() <= bytes_max {
            return;
        }
        let mut keep_from = u64::MAX;
        if self.leads() {
            let ticks = self.config.election_ticks as u64;
            for (&member, progress) in self.raw.raft.prs().iter() {
                if self.peers.active(member, self.now, ticks) {
                    keep_from = keep_from.min(progress.matched + 1);
                }
            }
        }
        let log = self.raw.mut_store();
        log.shrink(bytes_max, keep_from);
        log.shrink(2 * bytes_max, u64::MAX);
    }
}
