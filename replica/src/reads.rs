//! Linearizable reads: one quorum round answers everything that was waiting when it started.
//!
//! A batch is all reads waiting at the moment of issue, local ones and those other members have
//! asked for. It gets a context that was never used before: (member, incarnation, counter). Rules:
//!
//! - a round is issued only by a leader that has committed an entry of its own term; until then
//!   reads wait (raft would drop the round without a word);
//! - at most [`BATCHES_MAX`] batches are in flight; more reads wait for the next batch;
//! - a confirmation of counter c answers every batch first issued at or before c, so a lost answer
//!   strands nobody;
//! - a batch not answered within the retry ticks, or asked under another (term, leader) than the
//!   present one, is asked again under a fresh context. Contexts are never reused, so a late answer
//!   can only speak for what was asked before it;
//! - a follower asks its leader with a message of our own. The leader never lets that context near
//!   raft: the ask joins the leader's own next batch, so a doubled ask costs a second answer and
//!   confirms nothing by itself.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::Refused;
use crate::message::{Kind, Message};
use crate::replica::Replica;

/// Batches in flight at once.
const BATCHES_MAX: usize = 4;

/// Names one round of confirmation, once and for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) member: u64,
    pub(crate) incarnation: u64,
    pub(crate) counter: u64,
}

impl Context {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(24);
        out.put_u64_le(self.member);
        out.put_u64_le(self.incarnation);
        out.put_u64_le(self.counter);
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        (bytes.len() == 24).then(|| Context {
            member: bytes.get_u64_le(),
            incarnation: bytes.get_u64_le(),
            counter: bytes.get_u64_le(),
        })
    }
}

/// Who wants an index.
#[derive(Debug, Clone)]
enum Asker {
    Local(u64),
    /// Another member's batch, by its context.
    Peer(u64, Bytes),
}

/// An answer on its way out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Local(u64, Result<u64, Refused>),
    Peer {
        member: u64,
        context: Bytes,
        index: u64,
    },
}

#[derive(Debug)]
struct Batch {
    /// Counter of the first context it was asked under.
    first: u64,
    askers: Vec<(Asker, u64)>,
}

pub(crate) struct Reads {
    member: u64,
    incarnation: u64,
    counter: u64,
    /// With the tick they came in.
    waiting: Vec<(Asker, u64)>,
    batches: VecDeque<Batch>,
    /// When and under which (term, leader) the newest context was issued.
    issued: (u64, (u64, u64)),
    /// Reads held here, waiting or in flight.
    held: usize,
    limits: Limits,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Reads waiting and in flight together; one more is refused as busy.
    pub(crate) held_max: usize,
    /// Ticks until a batch is asked again.
    pub(crate) retry_ticks: u64,
    /// Ticks until a read is given up.
    pub(crate) patience_ticks: u64,
}

impl Reads {
    pub(crate) fn new(member: u64, incarnation: u64, limits: Limits) -> Self {
        Reads {
            member,
            incarnation,
            counter: 0,
            waiting: Vec::new(),
            batches: VecDeque::with_capacity(BATCHES_MAX),
            issued: (0, (0, 0)),
            held: 0,
            limits,
        }
    }

    /// Takes a local read.
    ///
    /// # Errors
    /// [`Refused::Busy`] when as many as allowed are held already.
    pub(crate) fn ask(&mut self, token: u64, now: u64) -> Result<(), Refused> {
        self.take(Asker::Local(token), now)
    }

    /// Takes another member's ask. When full it is dropped: the asker tries again by itself.
    pub(crate) fn ask_for_peer(&mut self, member: u64, context: Bytes, now: u64) {
        let _ = self.take(Asker::Peer(member, context), now);
    }

    fn take(&mut self, asker: Asker, now: u64) -> Result<(), Refused> {
        if self.held >= self.limits.held_max {
            return Err(Refused::Busy);
        }
        self.held += 1;
        self.waiting.push((asker, now));
        Ok(())
    }

    /// A context to issue now, if reads wait for one. `at` is the present (term, leader) with a
    /// leader that can be asked; the caller must issue what it gets.
    pub(crate) fn issue(&mut self, now: u64, at: (u64, u64)) -> Option<Context> {
        let new = !self.waiting.is_empty() && self.batches.len() < BATCHES_MAX;
        let (issued, issued_at) = self.issued;
        let again = !self.batches.is_empty()
            && (issued_at != at || now.saturating_sub(issued) >= self.limits.retry_ticks);
        if !new && !again {
            return None;
        }
        self.counter += 1;
        if new {
            let askers = std::mem::take(&mut self.waiting);
            self.batches.push_back(Batch {
                first: self.counter,
                askers,
            });
        }
        self.issued = (now, at);
        let Reads {
            member,
            incarnation,
            counter,
            ..
        } = *self;
        Some(Context {
            member,
            incarnation,
            counter,
        })
    }

    /// A quorum confirmed `index` for a round of ours: every batch first asked by then is answered.
    pub(crate) fn confirm(
        &mut self,
        context: &Context,
        index: u64,
        mut answer: impl FnMut(Answer),
    ) {
        let Context {
            member,
            incarnation,
            counter,
        } = *context;
        if (member, incarnation) != (self.member, self.incarnation) || counter > self.counter {
            return;
        }
        while self
            .batches
            .front()
            .is_some_and(|batch| batch.first <= counter)
        {
            let batch = self.batches.pop_front().expect("front was there");
            self.held -= batch.askers.len();
            for (asker, _) in batch.askers {
                answer(match asker {
                    Asker::Local(token) => Answer::Local(token, Ok(index)),
                    Asker::Peer(member, context) => Answer::Peer {
                        member,
                        context,
                        index,
                    },
                });
            }
        }
    }

    /// Gives up reads that have waited too long. Peers' asks vanish: their own side counts too.
    pub(crate) fn expire(&mut self, now: u64, mut answer: impl FnMut(Answer)) {
        if self.held == 0 {
            return;
        }
        let patience = self.limits.patience_ticks;
        let mut gone = 0;
        let mut keep = |(asker, since): &mut (Asker, u64)| {
            let expired = now.saturating_sub(*since) >= patience;
            if expired {
                gone += 1;
                if let Asker::Local(token) = asker {
                    answer(Answer::Local(*token, Err(Refused::TimedOut)));
                }
            }
            !expired
        };
        for batch in &mut self.batches {
            batch.askers.retain_mut(&mut keep);
        }
        self.waiting.retain_mut(&mut keep);
        self.held -= gone;
        self.batches.retain(|batch| !batch.askers.is_empty());
    }

    /// Refuses everything: this member is out.
    pub(crate) fn refuse_all(&mut self, why: Refused, mut answer: impl FnMut(Answer)) {
        let batches = self.batches.drain(..).flat_map(|batch| batch.askers);
        for (asker, _) in batches.chain(self.waiting.drain(..)) {
            if let Asker::Local(token) = asker {
                answer(Answer::Local(token, Err(why)));
            }
        }
        self.held = 0;
    }
}

impl Replica {
    /// Issues what rounds there are to issue, if somebody can confirm them.
    pub(crate) fn issue_reads(&mut self) {
        let Some(leader) = self.leader() else { return };
        let raft = &self.raw.raft;
        // A fresh leader would drop the round without a word; and a stalled one must be silent.
        if leader == self.config.id && (!raft.commit_to_current_term() || self.held_back()) {
            return;
        }
        let at = (raft.term, leader);
        while let Some(context) = self.reads.issue(self.now, at) {
            if leader == self.config.id {
                self.raw.read_index(context.encode().to_vec());
            } else {
                let mut ask = Message::new(Kind::ReadAsk, self.config.id, leader);
                ask.context = context.encode();
                self.outbox.push(ask);
            }
        }
    }

    pub(crate) fn step_read_answer(&mut self, message: &Message) {
        if let Some(context) = Context::decode(&message.context) {
            self.confirm_reads(&context, message.index);
        }
    }

    pub(crate) fn confirm_reads(&mut self, context: &Context, index: u64) {
        let (answers, outbox, id) = (&mut self.read_answers, &mut self.outbox, self.config.id);
        self.reads.confirm(context, index, |answer| match answer {
            Answer::Local(token, result) => answers.push((token, result)),
            Answer::Peer {
                member,
                context,
                index,
            } => {
                let mut answer = Message::new(Kind::ReadAnswer, id, member);
                answer.context = context;
                answer.index = index;
                outbox.push(answer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        held_max: 6,
        retry_ticks: 5,
        patience_ticks: 50,
    };
    const AT: (u64, u64) = (3, 1);

    fn confirmed(reads: &mut Reads, context: &Context, index: u64) -> Vec<u64> {
        let mut tokens = Vec::new();
        reads.confirm(context, index, |answer| match answer {
            Answer::Local(token, Ok(at)) if at == index => tokens.push(token),
            other => panic!("{other:?}"),
        });
        tokens
    }

    #[test]
    fn all_reads_waiting_at_issue_share_one_round() {
        let mut reads = Reads::new(1, 9, LIMITS);
        assert_eq!(reads.issue(0, AT), None);
        reads.ask(10, 0).unwrap();
        reads.ask(11, 0).unwrap();
        let first = reads.issue(0, AT).unwrap();
        assert_eq!(
            first,
            Context {
                member: 1,
                incarnation: 9,
                counter: 1
            }
        );
        reads.ask(12, 0).unwrap();
        assert_eq!(confirmed(&mut reads, &first, 5), [10, 11]);
        let second = reads.issue(0, AT).unwrap();
        assert_eq!(confirmed(&mut reads, &second, 6), [12]);
        assert_eq!(reads.held, 0);
    }

    #[test]
    fn a_confirmation_answers_every_earlier_batch() {
        let mut reads = Reads::new(1, 9, LIMITS);
        reads.ask(1, 0).unwrap();
        reads.issue(0, AT).unwrap();
        reads.ask(2, 0).unwrap();
        let second = reads.issue(0, AT).unwrap();
        reads.ask(3, 0).unwrap();
        reads.issue(0, AT).unwrap();
        assert_eq!(confirmed(&mut reads, &second, 7), [1, 2]);
        assert_eq!(reads.batches.len(), 1);
    }

    #[test]
    fn an_earlier_confirmation_never_answers_a_later_batch() {
        let mut reads = Reads::new(1, 9, LIMITS);
        reads.ask(1, 0).unwrap();
        let first = reads.issue(0, AT).unwrap();
        reads.ask(2, 0).unwrap();
        let second = reads.issue(0, AT).unwrap();
        assert_eq!(confirmed(&mut reads, &first, 7), [1]);
        assert_eq!(confirmed(&mut reads, &first, 7), [0u64; 0]);
        assert_eq!(confirmed(&mut reads, &second, 7), [2]);
    }

    #[test]
    fn at_most_four_batches_are_in_flight() {
        let mut reads = Reads::new(1, 9, LIMITS);
        for token in 0..5 {
            reads.ask(token, 0).unwrap();
            assert_eq!(reads.issue(0, AT).is_some(), token < 4);
        }
        reads.ask(5, 0).unwrap();
        assert_eq!(reads.ask(6, 0), Err(Refused::Busy));
        let fourth = Context {
            member: 1,
            incarnation: 9,
            counter: 4,
        };
        assert_eq!(confirmed(&mut reads, &fourth, 7), [0, 1, 2, 3]);
        let next = reads.issue(0, AT).unwrap();
        assert_eq!(confirmed(&mut reads, &next, 8), [4, 5]);
    }

    #[test]
    fn retried_under_a_fresh_context_after_ticks_or_a_new_leader() {
        let mut reads = Reads::new(1, 9, LIMITS);
        reads.ask(1, 0).unwrap();
        assert_eq!(reads.issue(0, AT).unwrap().counter, 1);
        assert_eq!(reads.issue(4, AT), None);
        assert_eq!(reads.issue(5, AT).unwrap().counter, 2);
        assert_eq!(reads.issue(6, AT), None);
        let moved = reads.issue(6, (4, 2)).unwrap();
        assert_eq!(moved.counter, 3);
        assert_eq!(confirmed(&mut reads, &moved, 9), [1]);
    }

    #[test]
    fn foreign_contexts_confirm_nothing() {
        let mut reads = Reads::new(1, 9, LIMITS);
        reads.ask(1, 0).unwrap();
        let own = reads.issue(0, AT).unwrap();
        for foreign in [
            Context { member: 2, ..own },
            Context {
                incarnation: 8,
                ..own
            },
            Context { counter: 2, ..own },
        ] {
            assert_eq!(confirmed(&mut reads, &foreign, 9), [0u64; 0]);
        }
        assert_eq!(Context::decode(&own.encode()), Some(own));
        assert_eq!(Context::decode(&own.encode()[..23]), None);
    }

    #[test]
    fn patience_ends_and_makes_room() {
        let mut reads = Reads::new(1, 9, LIMITS);
        for token in 0..6 {
            reads.ask(token, token).unwrap();
        }
        reads.issue(9, AT).unwrap();
        let mut gone = Vec::new();
        reads.expire(52, |answer| gone.push(answer));
        let expected = [0, 1, 2].map(|token| Answer::Local(token, Err(Refused::TimedOut)));
        assert_eq!(gone, expected);
        assert_eq!(reads.held, 3);
        reads.expire(90, drop);
        assert_eq!((reads.held, reads.batches.len()), (0, 0));
        reads.ask(7, 90).unwrap();
    }
}
