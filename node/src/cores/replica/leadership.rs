//! Who leads: publishing it, noticing that this member should not, handing over.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use kvnode_api::status::Status;
use kvnode_replica::Refused;

use super::{CoreMessage, ReplicaCore, post, refusal};
use crate::slots::Ticket;

pub(super) struct Leadership {
    term: u64,
    leader: u64,
    /// When this core last ran.
    ran_ms: u64,
    /// When it last ticked.
    ticked_ms: u64,
    /// Writes at the WAL thread, with the time they were handed over.
    writes: VecDeque<(u64, u64)>,
}

impl Leadership {
    pub(super) fn new(now_ms: u64) -> Self {
        Leadership {
            term: 0,
            leader: 0,
            ran_ms: now_ms,
            ticked_ms: now_ms,
            writes: VecDeque::new(),
        }
    }

    pub(super) fn writing(&mut self, number: u64, now_ms: u64) {
        self.writes.push_back((number, now_ms));
    }

    /// How many writes were handed out and are not known to be on disk.
    pub(super) fn writes_count(&self) -> usize {
        self.writes.len()
    }

    pub(super) fn written(&mut self, number: u64) {
        while self.writes.front().is_some_and(|&(at, _)| at <= number) {
            self.writes.pop_front();
        }
    }
}

impl ReplicaCore {
    fn election_timeout_ms(&self) -> u64 {
        u64::try_from(self.shared.config.election_timeout.as_millis()).unwrap_or(u64::MAX / 4)
    }

    pub(super) fn leads(&self) -> bool {
        self.leadership.leader == self.shared.member_id
    }

    /// Who leads as far as this member knows.
    pub(super) fn leader(&self) -> Option<u64> {
        Some(self.leadership.leader).filter(|&leader| leader != 0)
    }

    /// At the beginning of every turn: a process that stood still for an election timeout cannot know what it missed.
    /// Nobody could renew a lease meanwhile, so none may expire for it; and a leader with others beside it gives up
    /// before it does anything in that role.
    pub(super) fn look_at_clock(&mut self) {
        let now_ms = self.shared.now_ms();
        let gap_ms = now_ms - self.leadership.ran_ms;
        self.leadership.ran_ms = now_ms;
        if gap_ms < self.election_timeout_ms() {
            return;
        }
        log::warn!(
            "this process stood still for {gap_ms} ms; leases are extended by as much{}",
            if self.leads() && !self.replica.is_alone() {
                ", and this member stops leading"
            } else {
                ""
            }
        );
        self.leases.clock.extend(gap_ms);
        self.replica.step_down();
    }

    /// Once per tick: a leader whose oldest write has been on its way for an election timeout should not lead.
    pub(super) fn look_at_disk(&mut self) {
        self.leadership.ticked_ms = self.leadership.ran_ms;
        let oldest = self.leadership.writes.front();
        let age_ms = oldest.map_or(0, |&(_, since)| {
            self.leadership.ran_ms.saturating_sub(since)
        });
        self.replica.stalled(age_ms >= self.election_timeout_ms());
    }

    /// Whether a leader that ran without a pause may take it that it still leads: its own check of the quorum is up to
    /// date to within three ticks. Else it has to ask.
    pub(super) fn leads_freshly(&self) -> bool {
        let ticks_ms = self.leadership.ran_ms - self.leadership.ticked_ms;
        let limit_ms = 3 * self.shared.config.heartbeat_interval.as_millis();
        self.replica.is_alone() || u128::from(ticks_ms) <= limit_ms
    }

    /// Tells everybody of another term or leader.
    pub(super) fn publish(&mut self) {
        let status = self.replica.status();
        let leader = status.leader.unwrap_or(0);
        if (status.term, leader) == (self.leadership.term, self.leadership.leader) {
            return;
        }
        let led = self.leads();
        let changed = leader != self.leadership.leader;
        (self.leadership.term, self.leadership.leader) = (status.term, leader);
        let leads = self.leads();
        let vitals = &self.shared.vitals;
        vitals.term.store(status.term, Ordering::Relaxed);
        vitals.leader.store(leader, Ordering::Relaxed);
        vitals.is_leader.store(leads, Ordering::Relaxed);
        if changed && leader != 0 {
            self.shared.metrics.server.leader_changes.add(1);
            let now_ms = self.leadership.ran_ms;
            vitals.leader_since_ms.store(now_ms, Ordering::Relaxed);
        }
        if changed && !leads {
            match leader {
                0 => log::warn!("term {}: no leader is known", status.term),
                _ => log::info!("term {}: member {leader:x} leads", status.term),
            }
        }
        self.link.look(&self.shared, &self.replica);
        if leads && !led {
            self.lead_leases(status.term);
        } else if led && !leads {
            self.stop_leading_leases();
        }
        for core in self.links.cores.iter() {
            post(core, CoreMessage::Leader { leader });
        }
        self.retry_held();
        // What could be sent or appended now leaves with this turn.
        self.pump();
    }

    /// Hands leadership to `to`, on a client's word.
    pub(super) fn transfer(&mut self, ticket: Ticket, to: u64) {
        let result = if !self.leads() {
            Err(Status::not_leader())
        } else if to == self.shared.member_id {
            Ok(())
        } else if !self.replica.membership().voters.contains(&to) {
            Err(Status::bad_leader_transferee())
        } else {
            match self.replica.transfer_leader(Some(to)) {
                Ok(_) => Ok(()),
                // A voter that was not heard of lately would never take over.
                Err(Refused::NoTransferee) => Err(Status::timed_out_leader_transfer()),
                Err(refused) => Err(refusal(&refused)),
            }
        };
        self.tell(ticket, CoreMessage::Done { ticket, result });
    }

    /// This process is about to stop: leadership goes to the most advanced voter, if there is one.
    pub(super) fn hand_over(&mut self) {
        match self.replica.transfer_leader(None) {
            Ok(to) => log::info!("handing leadership to member {to:x} before stopping"),
            Err(_) => self
                .shared
                .vitals
                .handed_over
                .store(true, Ordering::Release),
        }
    }
}
