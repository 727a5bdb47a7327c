//! Forwarded proposals are taken at most once, however often the network delivers them.
//!
//! A command proposed at another member comes as a message of our own with that member's count (one
//! per life of it), its incarnation and the term it believes in. Nobody ever sends the same count
//! again: what was not answered may have been taken, and is left to its deadline; what was refused
//! is forwarded anew under a new count. So the only way to run twice is a message delivered twice,
//! and both deliveries name the same term. A leader
//!
//! - takes a forward only of the term it leads, and a member leads a term at most once;
//! - remembers, from the moment it leads until it leads another term, which counts of each member it
//!   has seen, whether it took them or not, and stays silent on one it has seen;
//! - refuses, having lost the lead, only forwards of the term it remembers. Of any other term the
//!   first delivery may have been taken by an earlier life, or before the memory began: silence.
//!
//! So a refusal always means that nothing has happened and nothing will, and one count is answered by
//! one answer. The network may double that answer too: the sender takes the first and remembers.
//!
//! None of it needs memory in the replicated state: a leader that forgets (a restart) never leads
//! that term again.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use kvnode_wal::{Entry, EntryKind};

use crate::conf_change::ConfChange;
use crate::error::Refused;
use crate::message::{Kind, Message};
use crate::replica::Replica;

/// Counts remembered per member, behind the newest. One further behind counts as seen: it would have
/// been overtaken by as many later forwards.
const WINDOW: u64 = 1 << 16;
/// Earlier lives of a member that are told from the present one.
const LIVES_MAX: usize = 8;

/// What a leader has seen in one term.
#[derive(Default)]
pub(crate) struct Forwards {
    /// Forwards made by this member in this life.
    count: u64,
    /// Those of them that were answered.
    answered: Option<Sender>,
    /// The term this member led last in this life; 0 before it led any.
    term: u64,
    senders: Vec<Sender>,
}

struct Sender {
    member: u64,
    incarnation: u64,
    past_lives: VecDeque<u64>,
    newest: u64,
    /// Bit `count % WINDOW`: seen, for counts within the window.
    seen: Vec<u64>,
}

impl Forwards {
    /// This member leads from now on: nothing of the term was seen yet.
    pub(crate) fn lead(&mut self, term: u64) {
        if self.term != term {
            self.term = term;
            self.senders.clear();
        }
    }

    /// True for the first answer to this count.
    fn first_answer(&mut self, count: u64) -> bool {
        let answered = self.answered.get_or_insert_with(|| Sender::new(0, 0));
        count <= self.count && answered.first(count)
    }

    /// True for the first delivery of this count, if `term` is remembered.
    fn first(&mut self, term: u64, member: u64, incarnation: u64, count: u64) -> bool {
        if self.term != term {
            return false;
        }
        let known = self.senders.iter().position(|s| s.member == member);
        let at = known.unwrap_or_else(|| {
            self.senders.push(Sender::new(member, incarnation));
            self.senders.len() - 1
        });
        let sender = &mut self.senders[at];
        sender.lives(incarnation) && sender.first(count)
    }
}

impl Sender {
    fn new(member: u64, incarnation: u64) -> Self {
        Sender {
            member,
            incarnation,
            past_lives: VecDeque::new(),
            newest: 0,
            seen: vec![0; (WINDOW / 64) as usize],
        }
    }

    /// False for a message of an earlier life; a new life starts over.
    fn lives(&mut self, incarnation: u64) -> bool {
        if incarnation == self.incarnation {
            return true;
        }
        if self.past_lives.contains(&incarnation) {
            return false;
        }
        self.past_lives.push_back(self.incarnation);
        if self.past_lives.len() > LIVES_MAX {
            self.past_lives.pop_front();
        }
        self.incarnation = incarnation;
        self.newest = 0;
        self.seen.fill(0);
        true
    }

    fn first(&mut self, count: u64) -> bool {
        if count == 0 || count + WINDOW <= self.newest {
            return false;
        }
        if count > self.newest + WINDOW {
            self.seen.fill(0);
            self.newest = count;
        }
        while self.newest < count {
            self.newest += 1;
            let (word, bit) = place(self.newest);
            self.seen[word] &= !bit;
        }
        let (word, bit) = place(count);
        let first = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        first
    }
}

fn place(count: u64) -> (usize, u64) {
    let at = count % WINDOW;
    ((at / 64) as usize, 1 << (at % 64))
}

impl Replica {
    /// Sends a command to the leader. The answer comes as `(ticket, ..)` in the output's
    /// `forwards`, or never (message or leader lost): the caller keeps its own deadline. After an
    /// answer with an error nothing has happened and nothing will; without an answer the command
    /// may have been taken and must not be sent again.
    ///
    /// # Errors
    /// [`Refused::NotLeader`] without a leader to send to, or the reasons this member has itself.
    pub fn forward(&mut self, ticket: u64, payload: Bytes) -> Result<(), Refused> {
        if payload.is_empty() {
            return Err(Refused::Empty);
        }
        self.forward_entry(ticket, EntryKind::Normal, payload, 0)
    }

    /// As [`forward`](Self::forward), for a change of the membership that was judged on the one as
    /// of index `known`. A leader that would have to leave starts handing over, and answers
    /// [`Refused::TransferFirst`].
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_conf_change(
        &mut self,
        ticket: u64,
        change: &ConfChange,
        known: u64,
    ) -> Result<(), Refused> {
        change.check()?;
        self.forward_entry(ticket, EntryKind::ConfChange, change.encode(), known)
    }

    fn forward_entry(
        &mut self,
        ticket: u64,
        kind: EntryKind,
        payload: Bytes,
        known: u64,
    ) -> Result<(), Refused> {
        self.alive()?;
        self.check_size(payload.len())?;
        let leader = match self.leader() {
            Some(leader) if leader != self.config.id => leader,
            leader => return Err(Refused::NotLeader { leader }),
        };
        self.forwarded.count += 1;
        let mut message = Message::new(Kind::Forward, self.config.id, leader);
        message.commit_term = self.raw.raft.term;
        message.hint = ticket;
        message.commit = self.forwarded.count;
        message.log_term = known;
        message.context = Bytes::copy_from_slice(&self.config.incarnation.to_le_bytes());
        message.entries.push(Entry {
            index: 1,
            term: 0,
            kind,
            payload,
        });
        self.outbox.push(message);
        Ok(())
    }

    pub(crate) fn step_forward(&mut self, mut message: Message) {
        let entry = message.entries.pop();
        let Some(incarnation) = incarnation(&message.context) else {
            self.dropped_messages += 1;
            return;
        };
        let named = message.commit_term;
        if !self
            .forwarded
            .first(named, message.from, incarnation, message.commit)
        {
            return;
        }
        let leader = self.leader();
        let result = match entry {
            _ if !self.leads() || self.raw.raft.term != named => Err(Refused::NotLeader { leader }),
            Some(entry) if entry.kind == EntryKind::ConfChange => {
                self.step_conf_change(&entry, message.log_term)
            }
            Some(entry) => self.propose(entry.payload),
            None => Err(Refused::Empty),
        };
        let mut answer = Message::new(Kind::ForwardAnswer, self.config.id, message.from);
        answer.hint = message.hint;
        answer.commit = message.commit;
        answer.context = message.context;
        if let Err(why) = result {
            answer.rejected = true;
            answer.index = reason(why);
        }
        self.outbox.push(answer);
    }

    pub(crate) fn step_forward_answer(&mut self, message: &Message) {
        // Tickets of an earlier life of this member may name others now.
        if incarnation(&message.context) != Some(self.config.incarnation)
            || !self.forwarded.first_answer(message.commit)
        {
            return;
        }
        let result = if message.rejected {
            Err(refused(message.index))
        } else {
            Ok(())
        };
        self.forwards.push((message.hint, result));
    }
}

fn incarnation(mut context: &[u8]) -> Option<u64> {
    (context.len() == 8).then(|| context.get_u64_le())
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
        Refused::ConfChangePending => 8,
        Refused::ConfChangeStale => 9,
        Refused::ConfChangeInvalid(_) => 10,
        Refused::TransferFirst => 11,
        Refused::LearnerBehind { .. } => 12,
        Refused::QuorumAtRisk { .. } => 13,
        Refused::NoTransferee => 14,
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
        8 => Refused::ConfChangePending,
        9 => Refused::ConfChangeStale,
        10 => Refused::ConfChangeInvalid("the leader refused it"),
        11 => Refused::TransferFirst,
        12 => Refused::LearnerBehind {
            member: 0,
            matched: 0,
            commit: 0,
        },
        13 => Refused::QuorumAtRisk {
            active: 0,
            voters: 0,
            quorum: 0,
        },
        14 => Refused::NoTransferee,
        _ => Refused::Busy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leading(term: u64) -> Forwards {
        let mut forwards = Forwards::default();
        forwards.lead(term);
        forwards
    }

    #[test]
    fn h11_a_count_is_new_once_per_term_in_any_order() {
        let mut forwards = leading(5);
        for count in [1, 3, 2, 70, 69] {
            assert!(forwards.first(5, 2, 9, count), "{count}");
        }
        for count in [1, 2, 3, 69, 70] {
            assert!(!forwards.first(5, 2, 9, count), "{count}");
        }
        assert!(forwards.first(5, 3, 9, 1), "another member's count");
        assert!(
            !forwards.first(6, 2, 9, 4),
            "a term this member has not led"
        );
        forwards.lead(6);
        assert!(!forwards.first(5, 2, 9, 4), "a term it has forgotten");
        assert!(forwards.first(6, 2, 9, 1), "another term");
        assert!(!forwards.first(6, 2, 9, 0), "no count");
    }

    #[test]
    fn what_fell_out_of_the_window_counts_as_seen() {
        let mut forwards = leading(5);
        assert!(forwards.first(5, 2, 9, 1));
        assert!(forwards.first(5, 2, 9, WINDOW));
        assert!(forwards.first(5, 2, 9, 2), "still within");
        assert!(forwards.first(5, 2, 9, WINDOW + 2));
        assert!(!forwards.first(5, 2, 9, 2));
        assert!(
            forwards.first(5, 2, 9, 5 * WINDOW),
            "a jump forgets nothing newer"
        );
        assert!(!forwards.first(5, 2, 9, 4 * WINDOW));
        assert!(forwards.first(5, 2, 9, 4 * WINDOW + 1));
        assert!(!forwards.first(5, 2, 9, 5 * WINDOW));
    }

    #[test]
    fn a_new_life_counts_anew_and_an_earlier_one_is_over() {
        let mut forwards = leading(5);
        assert!(forwards.first(5, 2, 9, 1));
        assert!(forwards.first(5, 2, 10, 1));
        assert!(!forwards.first(5, 2, 9, 2));
        assert!(!forwards.first(5, 2, 10, 1));
        assert!(forwards.first(5, 2, 10, 2));
    }
}
