//! Leases: the leader's clock, and how everybody else asks it.
//!
//! Only the leader's clock runs. It expires leases through the log, writes down what is left of long ones now and then (so
//! that a new leader does not give them their whole time again), and answers renewals from memory. A member that does not
//! lead asks the leader. What makes an answer true:
//!
//! - a leader that has not ticked for a while asks a quorum first whether it still leads;
//! - a lease the asker has seen granted, but whose entry is not applied here yet, is waited for;
//! - a lease with a written-down remainder is renewed only after that remainder is taken back in the log: otherwise the
//!   next leader would count from the remainder, although the client was told its whole time.
//!
//! Bound: [`WAITING_MAX`] asks wait here at a time; one more is answered as by a member that does not lead, and comes again.

use std::collections::HashMap;

use ahash::RandomState;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kvnode_api::{LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeRequest};
use kvnode_store::LeaseChange;
use kvnode_store::command::Kind;
use kvnode_store::lease_clock::{LeaseClock, Remaining, Renewal};
use prost::Message as _;

use super::link::ask;
use super::{CoreMessage, OWN_READS, ReplicaCore, read_token};
use crate::cores::{LeaseAnswer, LeaseAsk};
use crate::exit;
use crate::slots::Ticket;

/// Revokes proposed per scan at the most: 1000 a second, so that a mass expiry leaves room for clients.
const EXPIRED_PER_SCAN: usize = 500;
/// Leases whose remaining time is written down by one entry.
const CHECKPOINTS_PER_ENTRY: usize = 1000;
const WAITING_MAX: usize = 65_536;

#[derive(Default)]
pub(super) struct Leases {
    pub(super) clock: LeaseClock,
    /// Until the leader knows that it leads.
    unconfirmed: Vec<(Asker, LeaseAsk)>,
    confirming: Option<u64>,
    confirmations: u64,
    /// Until what the asker had seen is applied here.
    unapplied: Vec<(Asker, LeaseAsk)>,
    /// Until the written-down remainder is taken back, by lease.
    noted: HashMap<i64, Vec<(Asker, LeaseAsk)>, RandomState>,
    waiting: usize,
}

#[derive(Debug, Clone, Copy)]
enum Asker {
    Local(Ticket),
    Peer { member: u64, ticket: u64 },
}

impl ReplicaCore {
    /// A client core asks.
    pub(super) fn ask_lease(&mut self, ticket: Ticket, ask: LeaseAsk) {
        if self.leads() {
            return self.serve_lease(Asker::Local(ticket), ask);
        }
        let sent = self
            .leader()
            .is_some_and(|leader| self.ask_peer(ticket, leader, ask::LEASE, encode_ask(ask)));
        if !sent {
            self.answer_lease(Asker::Local(ticket), LeaseAnswer::NotLeader);
        }
    }

    /// Renews a lease for a core on this executor, if that needs no waiting and nobody else. `seen` as in [`LeaseAsk`].
    pub fn renew_now(&mut self, lease: i64, seen: u64) -> Option<Renewal> {
        // A pause must be noticed before anything is said about who leads, as at the start of each turn.
        self.look_at_clock();
        let may = self.leads()
            && self.leases.clock.is_running()
            && self.leads_freshly()
            && self.leases.confirming.is_none();
        let clock = &mut self.leases.clock;
        let settled = clock.knows(lease) || seen <= self.view.applied_index();
        (may && settled && !clock.is_noted(lease))
            .then(|| clock.keep_alive(lease, self.shared.now_ms()))
    }

    /// Another member asks.
    pub(super) fn lease_asked(&mut self, member: u64, ticket: u64, body: &[u8]) {
        if let Some(ask) = decode_ask(body) {
            self.serve_lease(Asker::Peer { member, ticket }, ask);
        }
    }

    /// The leader answers.
    pub(super) fn lease_answered(&mut self, ticket: Ticket, body: &[u8]) {
        let answer = decode_answer(body).unwrap_or(LeaseAnswer::NotLeader);
        self.tell(ticket, CoreMessage::Lease { ticket, answer });
    }

    fn answer_lease(&mut self, asker: Asker, answer: LeaseAnswer) {
        match asker {
            Asker::Local(ticket) => self.tell(ticket, CoreMessage::Lease { ticket, answer }),
            Asker::Peer { member, ticket } => self.answer(member, ticket, encode_answer(answer)),
        }
    }

    fn serve_lease(&mut self, asker: Asker, ask: LeaseAsk) {
        if !self.leases.clock.is_running() || self.leases.waiting >= WAITING_MAX {
            return self.answer_lease(asker, LeaseAnswer::NotLeader);
        }
        if self.leads_freshly() && self.leases.confirming.is_none() {
            return self.serve_confirmed(asker, ask);
        }
        self.leases.waiting += 1;
        self.leases.unconfirmed.push((asker, ask));
        if self.leases.confirming.is_none() {
            self.leases.confirmations += 1;
            let token = self.leases.confirmations;
            self.leases.confirming = Some(token);
            self.replica.read(read_token(OWN_READS, token));
        }
    }

    /// A quorum answered whether this member leads.
    pub(super) fn confirmed(&mut self, token: u64, leads: bool) {
        if self.leases.confirming != Some(token) {
            return;
        }
        self.leases.confirming = None;
        for (asker, ask) in std::mem::take(&mut self.leases.unconfirmed) {
            self.leases.waiting -= 1;
            if leads && self.leases.clock.is_running() {
                self.serve_confirmed(asker, ask);
            } else {
                self.answer_lease(asker, LeaseAnswer::NotLeader);
            }
        }
    }

    fn serve_confirmed(&mut self, asker: Asker, ask: LeaseAsk) {
        let now_ms = self.shared.now_ms();
        let clock = &mut self.leases.clock;
        if !clock.knows(ask.lease) && ask.seen > self.view.applied_index() {
            self.leases.waiting += 1;
            self.leases.unapplied.push((asker, ask));
            return;
        }
        if !ask.renew {
            let remaining = clock.remaining(ask.lease, now_ms);
            return self.answer_lease(asker, LeaseAnswer::Remaining(remaining));
        }
        if clock.is_noted(ask.lease) {
            return self.take_note_back(asker, ask);
        }
        let renewal = clock.keep_alive(ask.lease, now_ms);
        self.answer_lease(asker, LeaseAnswer::Renewal(renewal));
    }

    /// The renewal waits until the log has forgotten the remainder.
    fn take_note_back(&mut self, asker: Asker, ask: LeaseAsk) {
        let waiters = self.leases.noted.entry(ask.lease).or_default();
        waiters.push((asker, ask));
        self.leases.waiting += 1;
        if waiters.len() > 1 {
            return;
        }
        if !self.propose_checkpoints(&[(ask.lease, 0)]) {
            self.refuse_noted(ask.lease);
        }
    }

    fn refuse_noted(&mut self, lease: i64) {
        for (asker, _) in self.leases.noted.remove(&lease).unwrap_or_default() {
            self.leases.waiting -= 1;
            self.answer_lease(asker, LeaseAnswer::NotLeader);
        }
    }

    fn propose_checkpoints(&mut self, checkpoints: &[(i64, i64)]) -> bool {
        let checkpoints = checkpoints
            .iter()
            .map(|&(id, remaining_ttl)| LeaseCheckpoint { id, remaining_ttl })
            .collect();
        let message = LeaseCheckpointRequest { checkpoints }.encode_to_vec();
        let command = self.own_command(Kind::LeaseCheckpoint, &message);
        self.replica.propose(command).is_ok()
    }

    pub(super) fn leases_applied(&mut self, changes: &[LeaseChange]) {
        let now_ms = self.shared.now_ms();
        for change in changes {
            match *change {
                LeaseChange::Granted { id, ttl } => self.leases.clock.granted(id, ttl, now_ms),
                LeaseChange::Revoked { id } => {
                    self.leases.clock.revoked(id);
                    self.serve_noted(id);
                }
                LeaseChange::Checkpointed { id, remaining } => {
                    self.leases.clock.noted(id, remaining > 0);
                    if remaining == 0 {
                        self.serve_noted(id);
                    }
                }
            }
        }
        if !self.leases.unapplied.is_empty() {
            for (asker, ask) in std::mem::take(&mut self.leases.unapplied) {
                self.leases.waiting -= 1;
                self.serve_lease(asker, ask);
            }
        }
    }

    fn serve_noted(&mut self, lease: i64) {
        for (asker, ask) in self.leases.noted.remove(&lease).unwrap_or_default() {
            self.leases.waiting -= 1;
            self.serve_lease(asker, ask);
        }
    }

    /// This member leads now: its clock starts.
    pub(super) fn lead_leases(&mut self, term: u64) {
        let extra_ms = u64::try_from(self.shared.config.election_timeout.as_millis()).unwrap_or(0);
        let leases = self.view.leases().unwrap_or_else(|status| {
            exit::fatal(
                exit::Code::Io,
                format_args!("reading the leases: {status}"),
                "check the disk of the data directory",
            )
        });
        let leases = leases
            .into_iter()
            .map(|lease| (lease.id, lease.ttl, lease.remaining));
        self.leases
            .clock
            .promote(self.shared.now_ms(), extra_ms, leases);
        log::info!(
            "leading term {term} with {} leases",
            self.leases.clock.count()
        );
    }

    /// Whoever waits here asks the next leader.
    pub(super) fn stop_leading_leases(&mut self) {
        self.leases.clock.demote();
        self.leases.confirming = None;
        let leases = &mut self.leases;
        let mut waiting = std::mem::take(&mut leases.unconfirmed);
        waiting.append(&mut leases.unapplied);
        waiting.extend(leases.noted.drain().flat_map(|(_, waiters)| waiters));
        leases.waiting = 0;
        for (asker, _) in waiting {
            self.answer_lease(asker, LeaseAnswer::NotLeader);
        }
    }

    /// Revokes what is due and writes down what is left of long leases. A leader that is not sure of itself does neither.
    pub(super) fn expire_leases(&mut self) {
        if !self.leases.clock.is_running() || !self.leads_freshly() {
            return;
        }
        let now_ms = self.shared.now_ms();
        for id in self.leases.clock.take_expired(now_ms, EXPIRED_PER_SCAN) {
            let message = LeaseRevokeRequest { id }.encode_to_vec();
            let command = self.own_command(Kind::LeaseRevoke, &message);
            match self.replica.propose(command) {
                Ok(()) => self.shared.metrics.store.leases_expired.add(1),
                Err(_) => self.leases.clock.retry(id),
            }
        }
        let notes = self.leases.clock.take_notes(now_ms, CHECKPOINTS_PER_ENTRY);
        if !notes.is_empty() && !self.propose_checkpoints(&notes) {
            log::debug!("{} leases were not checkpointed", notes.len());
        }
    }
}

fn encode_ask(ask: LeaseAsk) -> Bytes {
    let mut out = BytesMut::with_capacity(17);
    out.put_u8(u8::from(ask.renew));
    out.put_i64_le(ask.lease);
    out.put_u64_le(ask.seen);
    out.freeze()
}

fn decode_ask(mut body: &[u8]) -> Option<LeaseAsk> {
    (body.len() == 17 && body[0] <= 1).then(|| LeaseAsk {
        renew: body.get_u8() == 1,
        lease: body.get_i64_le(),
        seen: body.get_u64_le(),
    })
}

const NOT_LEADER: u8 = 0;
const RENEWED: u8 = 1;
const REVOKING: u8 = 2;
const UNKNOWN: u8 = 3;
const REMAINING: u8 = 4;
const NO_SUCH_LEASE: u8 = 5;

fn encode_answer(answer: LeaseAnswer) -> Bytes {
    let (tag, first, second) = match answer {
        LeaseAnswer::Renewal(Renewal::Renewed(ttl)) => (RENEWED, ttl, 0),
        LeaseAnswer::Renewal(Renewal::Revoking) => (REVOKING, 0, 0),
        LeaseAnswer::Renewal(Renewal::Unknown) => (UNKNOWN, 0, 0),
        LeaseAnswer::Renewal(Renewal::NotLeader) | LeaseAnswer::NotLeader => (NOT_LEADER, 0, 0),
        LeaseAnswer::Remaining(None) => (NO_SUCH_LEASE, 0, 0),
        LeaseAnswer::Remaining(Some(remaining)) => (
            REMAINING,
            remaining.remaining_ms,
            remaining.granted_ttl_seconds,
        ),
    };
    let mut out = BytesMut::with_capacity(18);
    out.put_u8(ask::LEASE);
    out.put_u8(tag);
    out.put_i64_le(first);
    out.put_i64_le(second);
    out.freeze()
}

fn decode_answer(mut body: &[u8]) -> Option<LeaseAnswer> {
    if body.len() != 18 {
        return None;
    }
    let (_, tag, first, second) = (
        body.get_u8(),
        body.get_u8(),
        body.get_i64_le(),
        body.get_i64_le(),
    );
    Some(match tag {
        RENEWED => LeaseAnswer::Renewal(Renewal::Renewed(first)),
        REVOKING => LeaseAnswer::Renewal(Renewal::Revoking),
        UNKNOWN => LeaseAnswer::Renewal(Renewal::Unknown),
        NO_SUCH_LEASE => LeaseAnswer::Remaining(None),
        REMAINING => LeaseAnswer::Remaining(Some(Remaining {
            remaining_ms: first,
            granted_ttl_seconds: second,
        })),
        _ => LeaseAnswer::NotLeader,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_and_answers_survive_the_wire() {
        let ask = LeaseAsk {
            renew: true,
            lease: -7,
            seen: 1 << 40,
        };
        assert_eq!(decode_ask(&encode_ask(ask)), Some(ask));
        let remaining = Remaining {
            remaining_ms: -500,
            granted_ttl_seconds: 30,
        };
        for answer in [
            LeaseAnswer::Renewal(Renewal::Renewed(60)),
            LeaseAnswer::Renewal(Renewal::Revoking),
            LeaseAnswer::Renewal(Renewal::Unknown),
            LeaseAnswer::Remaining(None),
            LeaseAnswer::Remaining(Some(remaining)),
            LeaseAnswer::NotLeader,
        ] {
            assert_eq!(decode_answer(&encode_answer(answer)), Some(answer));
        }
    }

    #[test]
    fn what_is_no_ask_or_answer_is_recognised() {
        let ask = encode_ask(LeaseAsk {
            renew: false,
            lease: 1,
            seen: 1,
        });
        for cut in 0..ask.len() {
            assert_eq!(decode_ask(&ask[..cut]), None);
        }
        assert_eq!(decode_ask(&[2; 17]), None);
        assert_eq!(decode_answer(&[ask::LEASE; 17]), None);
    }
}
