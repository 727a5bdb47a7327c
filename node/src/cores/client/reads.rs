//! Linearizable reads of one client core: who waits for which confirmation of the replica's.
//!
//! Readers gather until the executor has run what else was ready, then share one round. A few rounds may be under way at
//! once, so that a reader need not wait for the end of a round that began before it came. Tokens grow with every ask, and
//! the index a round is confirmed at is at least that of every round asked before it: so a confirmation answers
//! those, too, and an answer that got lost strands nobody.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use kvnode_api::status::Status;

use super::ClientCore;
use crate::cores::{ReplicaMessage, post};
use crate::rt;
use crate::slots::Ticket;

/// Rounds under way at once; who comes when all are waits for the next end of one. The replica takes as many of its own.
const ROUNDS_MAX: usize = 4;
/// A confirmation that takes longer is asked for again, in milliseconds.
const RETRY_MS: u64 = 500;

struct Round {
    token: u64,
    tickets: Vec<Ticket>,
    asked_ms: u64,
    /// When it was asked for first.
    since: Instant,
}

#[derive(Default)]
pub(super) struct Reads {
    gathering: Vec<Ticket>,
    /// The oldest token first.
    rounds: Vec<Round>,
    token: u64,
    /// Confirmed at an index this core has not seen applied yet.
    parked: Vec<(u64, Vec<Ticket>)>,
    /// The task that asks, while it waits for readers.
    asker: Option<Waker>,
}

impl Reads {
    /// A reader comes. If it is the first of its round, the asker is told.
    fn gather(&mut self, ticket: Ticket) -> Option<Waker> {
        self.gathering.push(ticket);
        self.wanting()
    }

    /// The asker, if there is something to ask and it does not know yet.
    fn wanting(&mut self) -> Option<Waker> {
        let wanted = !self.gathering.is_empty() && self.rounds.len() < ROUNDS_MAX;
        if wanted { self.asker.take() } else { None }
    }

    /// Begins a round for all who have gathered: its token.
    fn begin(&mut self, now_ms: u64, since: Instant) -> Option<u64> {
        if self.gathering.is_empty() || self.rounds.len() >= ROUNDS_MAX {
            return None;
        }
        self.token += 1;
        self.rounds.push(Round {
            token: self.token,
            tickets: std::mem::take(&mut self.gathering),
            asked_ms: now_ms,
            since,
        });
        Some(self.token)
    }

    /// If the newest ask has gone without an answer for too long, the token to ask under again, for the readers of every
    /// round under way.
    fn retry(&mut self, now_ms: u64) -> Option<u64> {
        let newest = self.rounds.last_mut()?;
        if now_ms.saturating_sub(newest.asked_ms) <= RETRY_MS {
            return None;
        }
        self.token += 1;
        newest.token = self.token;
        newest.asked_ms = now_ms;
        Some(self.token)
    }

    /// The readers that a confirmation under `token` answers, and since when the first of them have waited.
    fn confirmed(&mut self, token: u64) -> Option<(Vec<Ticket>, Instant)> {
        let count = self.rounds.partition_point(|round| round.token <= token);
        let mut rounds = self.rounds.drain(..count);
        let first = rounds.next()?;
        let mut tickets = first.tickets;
        for round in rounds {
            tickets.extend(round.tickets);
        }
        Some((tickets, first.since))
    }

    /// The readers that a refusal under `token` answers: only those that were asked for under it.
    fn refused(&mut self, token: u64) -> Option<Vec<Ticket>> {
        let at = self.rounds.iter().position(|round| round.token == token)?;
        Some(self.rounds.remove(at).tickets)
    }

    /// The readers whose index is reached now.
    fn reached(&mut self, applied: u64) -> Vec<Ticket> {
        let mut ready = Vec::new();
        self.parked.retain_mut(|(index, tickets)| {
            let done = *index <= applied;
            if done {
                ready.append(tickets);
            }
            !done
        });
        ready
    }
}

impl ClientCore {
    /// Waits until this core's view is at least as new as everything acknowledged before this call.
    ///
    /// # Errors
    /// What the replica answers (no leader, say), or a time-out; `too many requests` when as many as may are waiting.
    pub async fn linearize(&self) -> Result<(), Status> {
        if self.is_current() {
            return Ok(());
        }
        let pending = self.open(&self.barriers)?;
        let asker = self.reads.borrow_mut().gather(pending.ticket());
        if let Some(asker) = asker {
            asker.wake();
        }
        pending.await
    }

    /// The task that asks: woken by a round's first reader, it runs after everything that was ready then, so the
    /// round takes along all readers that came with it.
    pub(super) fn start_reads(self: &Rc<Self>) {
        let core = Rc::clone(self);
        rt::spawn_local(poll_fn(move |cx| {
            let token = {
                let mut reads = core.reads.borrow_mut();
                let token = reads.begin(core.shared.now_ms(), Instant::now());
                reads.asker = Some(cx.waker().clone());
                token
            };
            if let Some(token) = token {
                core.ask_read_index(token);
            }
            Poll::<()>::Pending
        }));
    }

    fn ask_read_index(&self, token: u64) {
        let core = self.number();
        post(&self.replica, ReplicaMessage::Read { core, token });
    }

    pub(super) fn retry_read_index(&self, now_ms: u64) {
        let token = self.reads.borrow_mut().retry(now_ms);
        if let Some(token) = token {
            self.shared.metrics.server.slow_read_indexes.add(1);
            self.ask_read_index(token);
        }
    }

    /// The replica's answer to the ask under `token`.
    pub(super) fn read_index(&self, token: u64, index: Result<u64, Status>) {
        match index {
            Ok(index) => {
                let confirmed = self.reads.borrow_mut().confirmed(token);
                let Some((tickets, since)) = confirmed else {
                    return;
                };
                let seconds = &self.shared.metrics.server.read_index_seconds;
                seconds.observe(since.elapsed());
                if index <= self.applied_index.get() {
                    self.confirm(tickets, &Ok(()));
                } else {
                    self.reads.borrow_mut().parked.push((index, tickets));
                }
            }
            Err(status) => {
                let refused = self.reads.borrow_mut().refused(token);
                let Some(tickets) = refused else { return };
                self.shared.metrics.server.read_indexes_failed.add(1);
                self.confirm(tickets, &Err(status));
            }
        }
        let asker = self.reads.borrow_mut().wanting();
        if let Some(asker) = asker {
            asker.wake();
        }
    }

    /// Everything up to `applied` is in this core's view: readers that waited for it go on.
    pub(super) fn reads_reached(&self, applied: u64) {
        let ready = self.reads.borrow_mut().reached(applied);
        self.confirm(ready, &Ok(()));
    }

    fn confirm(&self, tickets: Vec<Ticket>, result: &Result<(), Status>) {
        let mut barriers = self.barriers.borrow_mut();
        for ticket in tickets {
            barriers.complete(ticket, result.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(reads: &mut Reads, tickets: impl IntoIterator<Item = u64>) -> Option<u64> {
        for ticket in tickets {
            reads.gather(Ticket(ticket));
        }
        reads.begin(0, Instant::now())
    }

    fn answered(reads: &mut Reads, token: u64) -> Vec<u64> {
        let (tickets, _) = reads.confirmed(token).unwrap_or((vec![], Instant::now()));
        tickets.into_iter().map(|ticket| ticket.0).collect()
    }

    #[test]
    fn readers_share_the_round_that_begins_after_they_came_and_rounds_overlap_up_to_the_bound() {
        let mut reads = Reads::default();
        assert_eq!(begun(&mut reads, []), None);
        for round in 1..=ROUNDS_MAX as u64 {
            assert_eq!(begun(&mut reads, [10 * round, 10 * round + 1]), Some(round));
        }
        assert_eq!(begun(&mut reads, [99]), None);
        assert_eq!(answered(&mut reads, 1), [10, 11]);
        assert_eq!(begun(&mut reads, [100]), Some(ROUNDS_MAX as u64 + 1));
        assert_eq!(
            answered(&mut reads, ROUNDS_MAX as u64 + 1),
            [20, 21, 30, 31, 40, 41, 99, 100]
        );
    }

    #[test]
    fn a_confirmation_answers_what_was_asked_before_it_and_nothing_later() {
        let mut reads = Reads::default();
        let rounds: Vec<_> = [1, 2, 3].map(|ticket| begun(&mut reads, [ticket])).into();
        assert_eq!(rounds, [Some(1), Some(2), Some(3)]);
        assert_eq!(answered(&mut reads, 2), [1, 2]);
        assert_eq!(answered(&mut reads, 1), [0; 0]);
        assert_eq!(answered(&mut reads, 3), [3]);
    }

    #[test]
    fn a_refusal_answers_its_own_round_only() {
        let mut reads = Reads::default();
        begun(&mut reads, [1]);
        begun(&mut reads, [2]);
        assert_eq!(reads.refused(2), Some(vec![Ticket(2)]));
        assert_eq!(reads.refused(2), None);
        assert_eq!(answered(&mut reads, 1), [1]);
    }

    #[test]
    fn what_is_not_answered_is_asked_for_again_for_all_rounds_under_way() {
        let mut reads = Reads::default();
        begun(&mut reads, [1]);
        begun(&mut reads, [2]);
        assert_eq!(reads.retry(RETRY_MS), None);
        assert_eq!(reads.retry(RETRY_MS + 1), Some(3));
        assert_eq!(reads.retry(RETRY_MS + 2), None);
        // The late answer to the second ask speaks for the first round only: what bore its token bears another now.
        assert_eq!(answered(&mut reads, 2), [1]);
        assert_eq!(answered(&mut reads, 3), [2]);
        assert_eq!(reads.retry(10 * RETRY_MS), None);
    }

    #[test]
    fn a_confirmed_reader_waits_until_its_index_is_applied() {
        let mut reads = Reads {
            parked: vec![(7, vec![Ticket(1)]), (5, vec![Ticket(2)])],
            ..Reads::default()
        };
        assert_eq!(reads.reached(4), []);
        assert_eq!(reads.reached(5), [Ticket(2)]);
        assert_eq!(reads.reached(9), [Ticket(1)]);
        assert_eq!(reads.reached(9), []);
    }
}
