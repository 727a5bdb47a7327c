//! Asking for a change of the membership, and what is refused before it reaches the log.
//!
//! raft takes one change at a time and silently turns another into an empty entry; here it is
//! refused by name. Beyond raft's own rules:
//!
//! - a leader is not removed or demoted while it leads: it transfers first (raft dies of a leader
//!   that applies its own removal with entries of its own still unwritten);
//! - a learner is promoted only when it has nearly everything and was heard of within an election
//!   timeout: an empty voter counts towards the quorum's size, but not towards the data's copies;
//! - strictly, no change after which fewer than a quorum of the voters would be reachable;
//! - a change is judged by its asker on the membership it knows (names, addresses, what has started);
//!   one that was judged on an older membership is refused, so two askers cannot both be right.

use kvnode_wal::Entry;
use raft::Changer;
use raft::eraftpb::{self, EntryType, MessageType};

use crate::conf_change::{ConfChange, Step};
use crate::error::Refused;
use crate::replica::Replica;

impl Replica {
    /// Asks for a change of the membership. It takes effect when the entry is applied, shows then
    /// as `membership` in the output, and must not be reported to whoever asked before that.
    ///
    /// # Errors
    /// [`Refused`], and nothing happened.
    pub fn propose_conf_change(&mut self, change: &ConfChange) -> Result<(), Refused> {
        self.propose_conf_change_knowing(change, self.membership.index)
    }

    /// As [`propose_conf_change`](Self::propose_conf_change), for a change that was judged on the
    /// membership as of index `known`.
    ///
    /// # Errors
    /// Also [`Refused::ConfChangeStale`] if the membership has changed since.
    pub fn propose_conf_change_knowing(
        &mut self,
        change: &ConfChange,
        known: u64,
    ) -> Result<(), Refused> {
        change.check()?;
        let payload = change.encode();
        self.may_propose(payload.len())?;
        self.flush_proposals();
        if self.raw.raft.has_pending_conf() {
            return Err(Refused::ConfChangePending);
        }
        if self.membership.index > known {
            return Err(Refused::ConfChangeStale);
        }
        self.check_against_raft(change)?;
        self.check_learners(change)?;
        if self.config.strict_reconfiguration {
            self.check_quorum_stays(change)?;
        }
        // Last: leadership is handed over for a change that nothing else forbids.
        self.check_leader_stays(change)?;
        let entry_type = EntryType::EntryConfChangeV2;
        let entry = eraftpb::Entry {
            entry_type,
            data: payload,
            ..Default::default()
        };
        let mut message = eraftpb::Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.config.id;
        message.mut_entries().push(entry);
        let stepped = self.raw.raft.step(message);
        self.after_input();
        stepped.map_err(|_| Refused::ConfChangePending)
    }

    /// A change that a peer asks for.
    pub(crate) fn step_conf_change(&mut self, entry: &Entry, known: u64) -> Result<(), Refused> {
        let change = ConfChange::decode(&entry.payload).map_err(Refused::ConfChangeInvalid)?;
        let result = self.propose_conf_change_knowing(&change, known);
        match result {
            Err(Refused::TransferFirst) => Err(match self.transfer_leader(None) {
                Ok(_) => Refused::TransferFirst,
                Err(why) => why,
            }),
            result => result,
        }
    }

    /// A dry run of what raft will do when the entry is applied.
    fn check_against_raft(&self, change: &ConfChange) -> Result<(), Refused> {
        let progress = self.raw.raft.prs();
        let joint = !self.membership.voters_outgoing.is_empty();
        if joint && !change.is_leave() {
            return Err(Refused::ConfChangePending);
        }
        let to = change.to_raft();
        let mut changer = Changer::new(progress);
        let result = if to.leave_joint() {
            changer.leave_joint()
        } else if let Some(auto_leave) = to.enter_joint() {
            changer.enter_joint(auto_leave, &to.changes)
        } else {
            changer.simple(&to.changes)
        };
        match result {
            Ok(_) => Ok(()),
            Err(_) if change.is_leave() => Err(Refused::ConfChangeInvalid("not joint")),
            Err(_) => Err(Refused::ConfChangeInvalid("it would leave no voter")),
        }
    }

    fn check_leader_stays(&self, change: &ConfChange) -> Result<(), Refused> {
        let id = self.config.id;
        let leaves = change.steps.iter().any(|step| match *step {
            Step::Remove(member) | Step::Learner(member) => member == id,
            Step::Voter(_) => false,
        });
        if leaves {
            Err(Refused::TransferFirst)
        } else {
            Ok(())
        }
    }

    fn check_learners(&self, change: &ConfChange) -> Result<(), Refused> {
        let raft = &self.raw.raft;
        let commit = raft.raft_log.committed;
        for step in &change.steps {
            let Step::Voter(member) = *step else { continue };
            if !self.membership.learners.contains(&member) {
                continue;
            }
            let matched = raft
                .prs()
                .get(member)
                .map_or(0, |progress| progress.matched);
            // Early on the allowed gap is a tenth of the log: nothing is not nearly everything.
            let gap = self.config.promote_gap.min(commit / 10);
            if matched + gap < commit || !self.heard_lately(member) {
                return Err(Refused::LearnerBehind {
                    member,
                    matched,
                    commit,
                });
            }
        }
        Ok(())
    }

    /// Counts the voters after the change and those of them heard of lately. The second voter of a
    /// cluster may be added blindly: otherwise no cluster could ever grow.
    fn check_quorum_stays(&self, change: &ConfChange) -> Result<(), Refused> {
        let before = &self.membership.voters;
        let mut after = before.clone();
        for step in &change.steps {
            let member = step.member();
            after.retain(|&voter| voter != member);
            if let Step::Voter(member) = *step {
                after.push(member);
            }
        }
        if change.is_leave() || (before.len() == 1 && after.len() == 2) {
            return Ok(());
        }
        let reachable = |&&voter: &&u64| voter == self.config.id || self.reachable(voter);
        let active = after.iter().filter(reachable).count();
        let (voters, quorum) = (after.len(), after.len() / 2 + 1);
        let same = after.iter().all(|voter| before.contains(voter)) && voters == before.len();
        if active < quorum && !same {
            return Err(Refused::QuorumAtRisk {
                active,
                voters,
                quorum,
            });
        }
        Ok(())
    }

    fn reachable(&self, member: u64) -> bool {
        let ticks = self.config.linked_ticks_min;
        let linked = ticks == 0 || self.peers.linked_for(member, self.now, ticks);
        linked && self.heard_lately(member)
    }

    fn heard_lately(&self, member: u64) -> bool {
        self.peers
            .active(member, self.now, self.config.election_ticks as u64)
    }
}
