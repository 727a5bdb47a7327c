//! Proposals that this member cannot append itself: forwarded to the leader, or held until there is one.
//!
//! Whoever leads appends. A follower forwards and hears at once whether the leader took it; the result comes from its own
//! apply. What was refused has not happened and is tried again within its deadline. What got no answer, or was taken, may
//! have happened. But a forward is good for one term only (the replica sees to it), and entries of one term lie before
//! those of the next: once an entry of a later term is applied here and the proposal was not, it never will be, and is
//! tried again. So a change of leader costs a client time, not an error, and nothing happens twice.
//!
//! Bound: [`COUNT_MAX`] proposals and [`BYTES_MAX`] payload bytes, held and on their way together; beyond it "too many
//! requests".

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;

use ahash::RandomState;
use bytes::Bytes;
use kvnode_api::status::Status;
use kvnode_replica::Refused;

use super::{CoreMessage, ReplicaCore, refusal};
use crate::metrics::Limit;
use crate::slots::Ticket;

const COUNT_MAX: usize = 10_000;
const BYTES_MAX: usize = 64 << 20;
/// A held proposal is refused this long before its client's own deadline, so that the client hears why.
const MARGIN_MS: u64 = 500;

#[derive(Default)]
pub(super) struct Proposals {
    /// Not sent to anybody, in order.
    held: VecDeque<Proposal>,
    /// With a leader, and not applied yet.
    sent: HashMap<Ticket, Sent, RandomState>,
    /// Forwards are numbered anew each time: a late refusal of an earlier one must not speak for the present one.
    by_forward: HashMap<u64, Ticket, RandomState>,
    forwards: u64,
    bytes: usize,
}

struct Sent {
    forward: u64,
    /// What it is good for.
    term: u64,
    proposal: Proposal,
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

    fn send(&mut self, forward: u64, term: u64, proposal: Proposal) {
        self.bytes += proposal.payload.len();
        self.by_forward.insert(forward, proposal.ticket);
        let sent = Sent {
            forward,
            term,
            proposal,
        };
        self.sent.insert(sent.proposal.ticket, sent);
    }

    fn take_sent(&mut self, ticket: Ticket) -> Option<Proposal> {
        let sent = self.sent.remove(&ticket)?;
        self.by_forward.remove(&sent.forward);
        self.bytes -= sent.proposal.payload.len();
        Some(sent.proposal)
    }

    fn take_refused(&mut self, forward: u64) -> Option<Proposal> {
        let ticket = self.by_forward.get(&forward).copied()?;
        self.take_sent(ticket)
    }

    /// An entry of `term` was applied: what is good for earlier ones only will never be. Back to those that are held.
    fn outlive(&mut self, term: u64) {
        let over = self.sent.values().filter(|sent| sent.term < term);
        let mut forwards: Vec<u64> = over.map(|sent| sent.forward).collect();
        forwards.sort_unstable();
        for forward in forwards {
            if let Some(proposal) = self.take_refused(forward) {
                self.hold(proposal);
            }
        }
    }

    /// Forgets what is with a leader: nobody can tell any more whether it happened. Its clients wait for their deadline.
    fn forget_sent(&mut self) {
        for (_, sent) in self.sent.drain() {
            self.bytes -= sent.proposal.payload.len();
        }
        self.by_forward.clear();
    }

    /// Held proposals past their deadline; and forgets forwards past theirs, whose clients have left by then.
    fn expire(&mut self, now_ms: u64) -> Vec<Ticket> {
        let is_over = |proposal: &Proposal| proposal.deadline_ms <= now_ms;
        let mut expired = Vec::new();
        let bytes = &mut self.bytes;
        self.held.retain(|proposal| {
            let over = is_over(proposal);
            if over {
                *bytes -= proposal.payload.len();
                expired.push(proposal.ticket);
            }
            !over
        });
        let left: Vec<Ticket> = self
            .sent
            .values()
            .filter(|sent| is_over(&sent.proposal))
            .map(|sent| sent.proposal.ticket)
            .collect();
        for ticket in left {
            self.take_sent(ticket);
        }
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
        self.shared.vitals.forwarding.store(true, Ordering::Release);
        let term = self.replica.status().term;
        let forward = self.proposals.next_forward();
        match self.replica.forward(forward, proposal.payload.clone()) {
            Ok(()) => {
                self.proposals.send(forward, term, proposal);
                Ok(())
            }
            Err(refused) => Err((proposal, refused)),
        }
    }

    /// These proposals of this member, up to an entry of `term`, were applied.
    pub(super) fn own_applied(&mut self, own: &[Ticket], term: u64) {
        if self.proposals.sent.is_empty() {
            return;
        }
        for ticket in own {
            self.proposals.take_sent(*ticket);
        }
        self.proposals.outlive(term);
        self.retry_held();
    }

    /// A snapshot takes the place of the log: what it contains is not told one by one.
    pub(super) fn forget_forwards(&mut self) {
        self.proposals.forget_sent();
    }

    /// What the leader said to forwards.
    pub(super) fn forwards_answered(&mut self) {
        for at in 0..self.output.forwards.len() {
            let (forward, result) = self.output.forwards[at];
            if !self.proposals.by_forward.contains_key(&forward) {
                self.change_answered(forward, result);
                continue;
            }
            let Err(refused) = result else {
                continue;
            };
            let Some(proposal) = self.proposals.take_refused(forward) else {
                continue;
            };
            match refused {
                refused if may_pass(&refused) => self.proposals.hold(proposal),
                refused => self.refuse(proposal.ticket, refusal(&refused)),
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
        if status == Status::too_many_requests() {
            self.shared.metrics.limits.refused(Limit::Proposals);
        }
        self.shared.metrics.server.proposals_failed.add(1);
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
        proposals.send(1, 7, first);
        assert!(proposals.is_full(11));
        let taken = proposals.take_sent(Ticket(1));
        assert_eq!(taken.map(|proposal| proposal.ticket), Some(Ticket(1)));
        assert!(proposals.take_sent(Ticket(1)).is_none(), "only once");
        assert_eq!(proposals.expire(2), [Ticket(2)]);
        assert_eq!(proposals.bytes, 0);
    }

    #[test]
    fn only_what_was_never_sent_is_refused_at_its_deadline() {
        let mut proposals = Proposals::default();
        proposals.hold(proposal(5, 1));
        proposals.hold(proposal(6, 1));
        proposals.send(1, 1, proposal(4, 1));
        assert_eq!(proposals.expire(5), [Ticket(5)]);
        assert!(proposals.sent.is_empty());
        assert_eq!((proposals.held.len(), proposals.bytes), (1, 1));
    }

    #[test]
    fn what_an_applied_later_term_leaves_behind_is_tried_again_in_order() {
        let mut proposals = Proposals::default();
        for (forward, term, number) in [(1, 3, 9), (2, 3, 8), (3, 4, 7)] {
            proposals.send(forward, term, proposal(number, 1));
        }
        proposals.outlive(3);
        assert!(proposals.held.is_empty(), "its own term may still bring it");
        assert!(proposals.take_sent(Ticket(8)).is_some(), "applied");
        proposals.outlive(4);
        let held: Vec<u64> = proposals.held.iter().map(|held| held.ticket.0).collect();
        assert_eq!(held, [9]);
        assert_eq!((proposals.sent.len(), proposals.bytes), (1, 2));
        let again = proposals.take_held().expect("held");
        proposals.send(4, 5, again);
        assert!(proposals.take_refused(1).is_none(), "its first forward");
        assert!(proposals.take_refused(4).is_some(), "its second");
        proposals.forget_sent();
        assert_eq!((proposals.sent.len(), proposals.bytes), (0, 0));
        assert!(proposals.by_forward.is_empty());
    }
}
