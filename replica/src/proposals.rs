//! Taking commands, and refusing them before they cost anything.
//!
//! In flight means: taken by this replica and not yet applied by its store. The bounds are a count
//! and a sum of bytes; when either is reached a proposal is answered [`Refused::Busy`] at once and
//! nothing of it is kept. Proposals between two polls are appended together, as one step of raft.
//!
//! What another member forwards comes in through `forwards.rs`.

use bytes::Bytes;
use raft::eraftpb;

use crate::error::Refused;
use crate::log::ENTRY_OVERHEAD;
use crate::replica::Replica;

/// Proposals taken since the last poll, and what raft holds that the log has not seen yet.
#[derive(Default)]
pub(crate) struct Proposals {
    waiting: Vec<eraftpb::Entry>,
    /// Entries and bytes taken since raft's last ready; not in the log's own sums yet.
    taken: (usize, usize),
}

impl Proposals {
    /// The log has everything now.
    pub(crate) fn logged(&mut self) {
        self.taken = (0, 0);
    }
}

impl Replica {
    /// Takes one command for the log. It is appended at the next poll; whether it was committed
    /// shows only when it comes out again (or another entry takes its place, after a change of
    /// leader).
    ///
    /// # Errors
    /// [`Refused`], and nothing happened.
    pub fn propose(&mut self, payload: Bytes) -> Result<(), Refused> {
        self.may_propose(payload.len())?;
        if payload.is_empty() {
            return Err(Refused::Empty);
        }
        let (count, bytes) = &mut self.proposals.taken;
        *count += 1;
        *bytes += payload.len() + ENTRY_OVERHEAD;
        self.proposals.waiting.push(eraftpb::Entry {
            data: payload,
            ..Default::default()
        });
        Ok(())
    }

    /// Every check that does not look at the command itself.
    pub(crate) fn may_propose(&self, bytes: usize) -> Result<(), Refused> {
        self.alive()?;
        if !self.leads() {
            return Err(Refused::NotLeader {
                leader: self.leader(),
            });
        }
        if self.held_back() {
            return Err(Refused::Stalled);
        }
        if self.raw.raft.lead_transferee.is_some() {
            return Err(Refused::Transferring);
        }
        self.check_size(bytes)?;
        let (logged_count, logged_bytes) = self.raw.store().unapplied();
        let (taken_count, taken_bytes) = self.proposals.taken;
        let count = logged_count + taken_count;
        let sum = logged_bytes + taken_bytes + bytes + ENTRY_OVERHEAD;
        if count >= self.config.proposals_max || sum > self.config.proposal_bytes_max {
            return Err(Refused::Busy);
        }
        Ok(())
    }

    pub(crate) fn check_size(&self, bytes: usize) -> Result<(), Refused> {
        let limit = self.config.entry_bytes_max;
        if bytes > limit {
            Err(Refused::TooLarge { bytes, limit })
        } else {
            Ok(())
        }
    }

    /// Appends what was proposed. Called before anything that may change who leads: what was taken
    /// by a leader is appended by that leader.
    pub(crate) fn flush_proposals(&mut self) {
        if self.proposals.waiting.is_empty() {
            return;
        }
        // What raft does for a proposal message, less the message: the entries' buffer stays ours.
        let appended = self.raw.raft.append_entry(&mut self.proposals.waiting);
        assert!(
            appended,
            "raft's own limit on uncommitted bytes is switched off"
        );
        self.proposals.waiting.clear();
        self.raw.raft.bcast_append();
    }
}
