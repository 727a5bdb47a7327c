//! Proposals that this member cannot append itself: forwarded to the leader, or held until there is one.
//!
//! Whoever leads appends. A follower forwards and hears at once whether the leader took it; the result comes from its own
//! apply. What was refused has not happened and is tried again within its deadline; what got no answer may have happened,
//! is never sent again, and is left to its result or its deadline. So a change of leader costs a client time, not an error.
//!
//! Bound: [`COUNT_MAX`] proposals and [`BYTES_MAX`] payload bytes, held and on their way together; beyond it "too many
//! requests".

use std::collections::{HashMap, VecDeque};

use ahash::RandomState;
use bytes::Bytes;
use kvnode_api::status::Status;
use kvnode_replica::Refused;

use super::{CoreMessage, ReplicaCore, refusal};
use crate::slots::Ticket;

const COUNT_MAX: usize = 10_000;
const BYTES_MAX: usize = 64 << 20;
/// A held proposal is refused this long before its client's own deadline, so that the client hears why.
const MARGIN_MS: u64 = 500;

#[derive(Default)]
pub(super) struct Proposals {
    /// Not sent to anybody, in order.
    held: VecDeque<Proposal>,
    /// By the ticket of the forward.
    sent: HashMap<u64, Proposal, RandomState>,
    bytes: usize,
    forwards: u64,
}

struct Proposal {
    ticket: Ticket,
    payload: Bytes,
    deadline_ms: u64,
}

impl Proposals {
    fn is_full(&self, bytes: usize) -> bool {
        self.held.len() + self.sent.len() >= COUNT_MAX || self.bytes + bytes > BYTES_MAX
    }

    pub(super) fn next_forward(&mut self) -> u64 {
        self.forwards += 1;
        self.forwards
    }

    fn hold(&mut self, proposal: Proposal) {
        self.bytes += proposal.payload.len();
        self.held.push_back(proposal);
    }

    fn take_held(&mut self) -> Option<Proposal> {
        let proposal = self.held.pop_front()?;
        self.bytes -= proposal.payload.len();
        Some(proposal)
    }

    fn answered(&mut self, forward: u64) -> Option<Proposal> {
        let proposal = self.sent.remove(&forward)?;
        self.bytes -= proposal.payload.len();
        Some(proposal)
    }

    /// Held proposals past their deadline; and forgets forwards past theirs, whose clients have left by then.
    fn expire(&mut self, now_ms: u64) -> Vec<Ticket> {
        let bytes = &mut self.bytes;
        let mut keep = |proposal: &Proposal| {
            let keeps = proposal.deadline_ms > now_ms;
            *bytes -= if keeps { 0 } else { proposal.payload.len() };
            keeps
        };
        let mut expired = Vec::new();
        self.held.retain(|proposal| {
            let keeps = keep(proposal);
            if !keeps {
                expired.push(proposal.ticket);
            }
            keeps
        });
        self.sent.retain(|_, proposal| keep(proposal));
        expired
    }
}

impl ReplicaCore {
    pub(super) fn propose(&mut self, ticket: Ticket, payload: Bytes) {
        let now_ms = self.shared.now_ms();
        let deadline_ms = now_ms + self.shared.request_timeout_ms().saturating_sub(MARGIN_MS);
        self.send_or_hold(Proposal {
            ticket,
            payload,
            deadline_ms,
        });
    }

    /// Appends, forwards, holds or refuses.
    fn send_or_hold(&mut self, proposal: Proposal) {
        match self.try_send(proposal) {
            Ok(()) => {}
            Err((proposal, refused)) if may_pass(&refused) => {
                if self.proposals.is_full(proposal.payload.len()) {
                    self.refuse(proposal.ticket, Status::too_many_requests());
                } else {
                    self.proposals.hold(proposal);
                }
            }
            Err((proposal, refused)) => self.refuse(proposal.ticket, refusal(&refused)),
        }
    }

    fn try_send(&mut self, proposal: Proposal) -> Result<(), (Proposal, Refused)> {
        let leader = match self.replica.propose(proposal.payload.clone()) {
            Ok(()) => return Ok(()),
            Err(Refused::NotLeader {
                leader: Some(leader),
            }) => leader,
            Err(refused) => return Err((proposal, refused)),
        };
        // Sent into a broken connection it would be lost, and nobody could tell whether it was.
        if !self.link.is_connected(leader) {
            let leader = None;
            return Err((proposal, Refused::NotLeader { leader }));
        }
        if self.proposals.is_full(proposal.payload.len()) {
            return Err((proposal, Refused::Busy));
        }
        let forward = self.proposals.next_forward();
        match self.replica.forward(forward, proposal.payload.clone()) {
            Ok(()) => {
                self.proposals.bytes += proposal.payload.len();
                self.proposals.sent.insert(forward, proposal);
                Ok(())
            }
            Err(refused) => Err((proposal, refused)),
        }
    }

    /// What the leader said to forwards.
    pub(super) fn forwards_answered(&mut self) {
        for at in 0..self.output.forwards.len() {
            let (forward, result) = self.output.forwards[at];
            let Some(proposal) = self.proposals.answered(forward) else {
                self.change_answered(forward, result);
                continue;
            };
            match result {
                Ok(()) => {}
                Err(refused) if may_pass(&refused) => self.proposals.hold(proposal),
                Err(refused) => self.refuse(proposal.ticket, refusal(&refused)),
            }
        }
        self.output.forwards.clear();
    }

    /// Tries what is held, in order: after a change of leader or connection, and once per tick.
    pub(super) fn retry_held(&mut self) {
        if self.proposals.held.is_empty() && self.proposals.sent.is_empty() {
            return;
        }
        for ticket in self.proposals.expire(self.shared.now_ms()) {
            self.refuse(ticket, Status::no_leader());
        }
        for _ in 0..self.proposals.held.len() {
            let Some(proposal) = self.proposals.take_held() else {
                break;
            };
            self.send_or_hold(proposal);
        }
    }

    fn refuse(&self, ticket: Ticket, status: Status) {
        self.shared.metrics.proposals_failed.add(1);
        self.tell(ticket, CoreMessage::Refused { ticket, status });
    }
}

/// Whether another leader, soon, may take what was refused for this reason.
fn may_pass(refused: &Refused) -> bool {
    matches!(
        refused,
        Refused::NotLeader { .. } | Refused::Transferring | Refused::Stalled
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal(number: u64, bytes: usize) -> Proposal {
        Proposal {
            ticket: Ticket(number),
            payload: vec![0; bytes].into(),
            deadline_ms: number,
        }
    }

    #[test]
    fn bytes_are_counted_while_held_and_on_their_way() {
        let mut proposals = Proposals::default();
        proposals.hold(proposal(1, 10));
        proposals.hold(proposal(2, BYTES_MAX - 20));
        assert!(proposals.is_full(11));
        assert!(!proposals.is_full(10));
        let first = proposals.take_held().expect("held");
        proposals.bytes += first.payload.len();
        proposals.sent.insert(7, first);
        assert!(proposals.is_full(11));
        assert_eq!(proposals.answered(7).map(|p| p.ticket), Some(Ticket(1)));
        assert!(proposals.answered(7).is_none(), "answered once");
        assert_eq!(proposals.expire(2), [Ticket(2)]);
        assert_eq!(proposals.bytes, 0);
    }

    #[test]
    fn only_what_was_never_sent_is_refused_at_its_deadline() {
        let mut proposals = Proposals::default();
        proposals.hold(proposal(5, 1));
        proposals.hold(proposal(6, 1));
        proposals.bytes += 1;
        proposals.sent.insert(1, proposal(5, 1));
        assert_eq!(proposals.expire(5), [Ticket(5)]);
        assert!(proposals.sent.is_empty());
        assert_eq!((proposals.held.len(), proposals.bytes), (1, 1));
    }
}
