//! Handing over: leadership to another voter, a snapshot to a peer that is too far behind.
//!
//! Snapshots. raft knows only which snapshot was sent to whom; the state itself is streamed by the
//! node. The order is: a peer needs entries that are gone -> `snapshot_wanted` in the output -> the
//! node makes one and [offers](Replica::offer_snapshot) it -> the announcement leaves as a message
//! of kind `Snapshot`, with the node streaming the state beside it -> the node
//! [reports](Replica::report_snapshot) how that went. Until it has reported, raft sends that peer
//! no entries, so every announcement must be reported exactly once, also when the peer vanishes.
//!
//! Pacing (how many streams at a time, at which rate, how long compaction waits for them) is not
//! decided here yet: it belongs between the wish and the offer, and this file is its place.

use raft::SnapshotStatus;

use crate::error::Refused;
use crate::log::SnapshotOffer;
use crate::replica::Replica;

impl Replica {
    /// Hands leadership to `to`, or to the most advanced voter heard of lately. Until it is done,
    /// or an election timeout has passed, proposals are refused as
    /// [`Transferring`](Refused::Transferring).
    ///
    /// Returns who is to lead.
    ///
    /// # Errors
    /// [`Refused`]; above all [`Refused::NoTransferee`].
    pub fn transfer_leader(&mut self, to: Option<u64>) -> Result<u64, Refused> {
        self.alive()?;
        if !self.leads() {
            return Err(Refused::NotLeader {
                leader: self.leader(),
            });
        }
        self.flush_proposals();
        let candidate = match to {
            Some(to) => Some(to).filter(|&to| self.may_lead(to)),
            None => self.best_successor(0),
        };
        let to = candidate.ok_or(Refused::NoTransferee)?;
        self.raw.transfer_leader(to);
        self.after_input();
        Ok(to)
    }

    fn may_lead(&self, member: u64) -> bool {
        let ticks = self.config.election_ticks as u64;
        member != self.config.id
            && self.membership.voters.contains(&member)
            && self.peers.active(member, self.now, ticks)
    }

    /// The voter with the longest log among those heard of lately, at least up to `matched_min`;
    /// of equals the one with the lowest id, so that the choice is the same in every run.
    pub(crate) fn best_successor(&self, matched_min: u64) -> Option<u64> {
        let progress = self.raw.raft.prs();
        let matched = |member: u64| progress.get(member).map_or(0, |progress| progress.matched);
        let voters = self.membership.voters.iter().copied();
        voters
            .filter(|&member| self.may_lead(member) && matched(member) >= matched_min)
            .max_by_key(|&member| (matched(member), std::cmp::Reverse(member)))
    }

    /// A snapshot the node is able to stream. The newest offer replaces an older one.
    pub fn offer_snapshot(&mut self, offer: SnapshotOffer) {
        self.raw.mut_store().offer(offer);
    }

    /// What was offered last cannot be streamed any more. Whoever needs a snapshot is wished for again.
    pub fn withdraw_snapshot(&mut self) {
        self.raw.mut_store().withdraw();
    }

    /// How streaming a snapshot to a peer has ended.
    pub fn report_snapshot(&mut self, peer: u64, delivered: bool) {
        if self.alive().is_err() {
            return;
        }
        self.flush_proposals();
        let status = if delivered {
            SnapshotStatus::Finish
        } else {
            SnapshotStatus::Failure
        };
        self.raw.report_snapshot(peer, status);
        self.after_input();
    }

    /// The connection to a peer broke: what was sent lately may be lost, so probe before sending
    /// more. A hint; leaving it out costs time only.
    pub fn report_unreachable(&mut self, peer: u64) {
        if self.alive().is_err() {
            return;
        }
        self.flush_proposals();
        self.raw.report_unreachable(peer);
        self.after_input();
    }
}
