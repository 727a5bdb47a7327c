//! Taking commands, and refusing them before they cost anything.
//!
//! In flight means: taken by this replica and not yet applied by its store. The bounds are a count
//! and a sum of bytes; when either is reached a proposal is answered [`Refused::Busy`] at once and
//! nothing of it is kept. Proposals between two polls are appended together, as one step of raft.
//!
//! A command proposed at another member is forwarded in a message of our own and answered: taken,
//! or why not. Networks may double a forward, and a member that got no answer may send the command
//! again, so the same command can be committed twice. Its request id travels inside the command;
//! dropping the second one when it is executed is the store's part.

use bytes::Bytes;
use kvnode_wal::{Entry, EntryKind};
use raft::eraftpb;

use crate::error::Refused;
use crate::log::ENTRY_OVERHEAD;
use crate::message::{Kind, Message};
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

    /// Sends a command to the leader. The answer comes as `(ticket, ..)` in the output's
    /// `forwards`, or never (message or leader lost): the caller keeps its own deadline.
    ///
    /// # Errors
    /// [`Refused::NotLeader`] without a leader to send to, or the reasons this member has itself.
    pub fn forward(&mut self, ticket: u64, payload: Bytes) -> Result<(), Refused> {
        self.alive()?;
        self.check_size(payload.len())?;
        if payload.is_empty() {
            return Err(Refused::Empty);
        }
        let leader = match self.leader() {
            Some(leader) if leader != self.config.id => leader,
            leader => return Err(Refused::NotLeader { leader }),
        };
        let mut message = Message::new(Kind::Forward, self.config.id, leader);
        message.hint = ticket;
        let kind = EntryKind::Normal;
        message.entries.push(Entry {
            index: 1,
            term: 0,
            kind,
            payload,
        });
        self.outbox.push(message);
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

    fn check_size(&self, bytes: usize) -> Result<(), Refused> {
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

    pub(crate) fn step_forward(&mut self, mut message: Message) {
        let payload = message
            .entries
            .pop()
            .map(|entry| entry.payload)
            .unwrap_or_default();
        let result = self.propose(payload);
        let mut answer = Message::new(Kind::ForwardAnswer, self.config.id, message.from);
        answer.hint = message.hint;
        if let Err(why) = result {
            answer.rejected = true;
            answer.index = reason(why);
        }
        self.outbox.push(answer);
    }

    pub(crate) fn step_forward_answer(&mut self, message: &Message) {
        let result = if message.rejected {
            Err(refused(message.index))
        } else {
            Ok(())
        };
        self.forwards.push((message.hint, result));
    }
}

/// Why a forward was refused, as a number on the wire.
fn reason(why: Refused) -> u64 {
    match why {
        Refused::NotLeader { .. } => 1,
        Refused::Transferring => 3,
        Refused::Stalled => 4,
        Refused::TooLarge { .. } => 5,
        Refused::Empty => 6,
        Refused::Removed => 7,
        _ => 2,
    }
}

fn refused(reason: u64) -> Refused {
    match reason {
        1 => Refused::NotLeader { leader: None },
        3 => Refused::Transferring,
        4 => Refused::Stalled,
        5 => Refused::TooLarge { bytes: 0, limit: 0 },
        6 => Refused::Empty,
        7 => Refused::Removed,
        _ => Refused::Busy,
    }
}
