//! The front door: one raft group member as a machine of inputs and one [`poll`](Replica::poll).
//!
//! Inputs change raft's state and nothing else; everything that is to happen outside is collected by
//! the next poll. What a poll makes of raft's ready, and which message may leave before which write,
//! is `ready.rs`; what follows from the store's progress is `applying.rs`; what a peer's message must
//! satisfy before raft sees it is `incoming.rs`.
//!
//! Elections: raft would draw its timeout from the thread's random device. Its window is therefore
//! one tick wide and out of reach; the timeout used is drawn here, from the seed, at every change of
//! term or role, and raft is told to campaign.

use std::collections::VecDeque;

use kvnode_wal::{Entry, HardState, Membership};
use raft::{RawNode, StateRole, eraftpb};

use crate::conf_change::ConfChange;
use crate::config::Config;
use crate::error::{Error, Refused};
use crate::forwards::Forwards;
use crate::log::Log;
use crate::message::{Kind, Message};
use crate::output::{Output, Role, RoleChange, Status};
use crate::peers::Peers;
use crate::proposals::Proposals;
use crate::random::Random;
use crate::reads::{self, Answer, Reads};
use crate::ready::Writes;
use crate::restored::{Restored, clamp, connect, replayed};
use crate::{logger, membership};

/// One member of the cluster. See the crate's page for what it promises, [`Output`] for what it
/// asks for.
pub struct Replica {
    pub(crate) config: Config,
    pub(crate) raw: RawNode<Log>,
    pub(crate) membership: Membership,
    pub(crate) proposals: Proposals,
    pub(crate) forwarded: Forwards,
    pub(crate) reads: Reads,
    pub(crate) peers: Peers,
    /// Ticks since the start.
    pub(crate) now: u64,
    /// To be sent with the next poll.
    pub(crate) outbox: Vec<Message>,
    pub(crate) forwards: Vec<(u64, Result<(), Refused>)>,
    pub(crate) read_answers: Vec<(u64, Result<u64, Refused>)>,
    /// Conf changes handed out as committed, not applied yet.
    pub(crate) conf_changes: VecDeque<(u64, ConfChange)>,
    pub(crate) membership_changed: bool,

    pub(crate) random: Random,
    /// Own election timeout, in ticks since raft last heard of a leader.
    pub(crate) election_timeout: usize,
    pub(crate) campaign_alone: bool,
    /// (term, leader, role) when last looked at, to redraw the timeout; and last reported.
    pub(crate) seen: RoleChange,
    pub(crate) reported: Option<RoleChange>,

    pub(crate) writes: Writes,
    /// Last index handed out as committed or installed.
    pub(crate) given: u64,
    pub(crate) stalled: bool,
    pub(crate) dropped_messages: u64,
    pub(crate) removed: Removed,
    pub(crate) failure: Option<Error>,
    pub(crate) failure_reported: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removed {
    No,
    /// Applied; what raft still has to say goes out with the next polls.
    Leaving,
    Reported,
}

impl Replica {
    /// Builds a member from what was found on disk. Numbers that contradict each other in a way a
    /// crash cannot explain are refused; those a crash explains are mended: commit becomes the
    /// largest of hard state, applied and snapshot, the term at least that of the last entry (and
    /// the vote is forgotten if that raised it).
    ///
    /// # Errors
    /// [`Error`] with the numbers that do not fit.
    pub fn new(config: Config, restored: Restored) -> Result<Self, Error> {
        config.check()?;
        membership::check(&restored.membership)?;
        let Restored {
            membership,
            hard_state,
            snapshot,
            entries,
            applied,
        } = restored;
        let (base, entries) = connect(snapshot, entries, applied)?;
        let last = entries
            .last()
            .map_or(base, |entry| (entry.index, entry.term));
        let hard_state = clamp(hard_state, snapshot, applied, last)?;
        let changes = replayed(&entries, membership.index, applied)?;
        let HardState { term, vote, commit } = hard_state;
        let for_raft = eraftpb::HardState {
            term,
            vote,
            commit,
            ..Default::default()
        };
        let log = Log::new(base, entries, applied, for_raft, &membership);
        let raw = RawNode::new(&config.raft(applied), log, &logger::logger())
            .map_err(|error| Error::Raft(error.to_string()))?;
        let limits = reads::Limits {
            held_max: config.reads_max,
            retry_ticks: config.read_retry_ticks,
            patience_ticks: config.read_patience_ticks,
        };
        let mut replica = Replica {
            reads: Reads::new(config.id, config.incarnation, limits),
            random: Random::new(config.seed ^ config.incarnation.rotate_left(32), config.id),
            seen: RoleChange {
                term: hard_state.term,
                leader: None,
                role: Role::Follower,
            },
            writes: Writes {
                hard_state,
                ..Writes::default()
            },
            given: applied,
            config,
            raw,
            membership,
            proposals: Proposals::default(),
            forwarded: Forwards::default(),
            peers: Peers::default(),
            now: 0,
            outbox: Vec::new(),
            forwards: Vec::new(),
            read_answers: Vec::new(),
            conf_changes: VecDeque::new(),
            membership_changed: false,
            election_timeout: 0,
            campaign_alone: false,
            reported: None,
            stalled: false,
            dropped_messages: 0,
            removed: Removed::No,
            failure: None,
            failure_reported: false,
        };
        for (index, change) in changes {
            replica.apply_conf_change(index, &change);
        }
        replica.draw_election_timeout();
        Ok(replica)
    }

    /// One tick of the node's clock has passed.
    pub fn tick(&mut self) {
        if self.alive().is_err() {
            return;
        }
        self.flush_proposals();
        self.now += 1;
        self.writes.commit_due = self.writes.commit_late;
        self.reads.expire(self.now, local(&mut self.read_answers));
        if self.held_back() {
            // A leader that cannot write must not keep the others from electing one that can.
            return;
        }
        self.raw.tick();
        self.campaign_alone |= self.alone() && !self.leads();
        self.after_input();
    }

    /// A single voter need not wait for an election timeout: it leads with the next poll that finds
    /// nothing in the way (unwritten entries, unapplied conf changes). For others this does nothing.
    pub fn campaign_if_alone(&mut self) {
        self.campaign_alone = self.alive().is_ok() && self.alone() && !self.leads();
    }

    /// Asks for an index at which a linearizable read may be served. Answered in the output's
    /// `reads`; every token is answered once, at the latest after the patience set.
    pub fn read(&mut self, token: u64) {
        let taken = self.alive().and_then(|()| self.reads.ask(token, self.now));
        if let Err(why) = taken {
            self.read_answers.push((token, Err(why)));
        }
    }

    /// A message from the authenticated peer `message.from`.
    pub fn step(&mut self, message: Message) {
        if self.alive().is_err() {
            return;
        }
        self.flush_proposals();
        if message.to != self.config.id
            || message.from == self.config.id
            || message.check().is_err()
        {
            self.dropped_messages += 1;
            return;
        }
        self.peers.heard(message.from, self.now, &self.membership);
        match message.kind {
            Kind::ReadAsk => {
                if self.leads() {
                    self.reads
                        .ask_for_peer(message.from, message.context, self.now);
                }
            }
            Kind::ReadAnswer => self.step_read_answer(&message),
            Kind::Forward => self.step_forward(message),
            Kind::ForwardAnswer => self.step_forward_answer(&message),
            _ if self.acceptable(&message) => {
                let message = message.into_raft().expect("all other kinds are raft's");
                // raft answers only "no such peer" here: a member that has left still talks.
                let _ = self.raw.step(message);
                self.after_input();
            }
            _ => self.dropped_messages += 1,
        }
    }

    /// The connection to a peer came up or broke. Until it is told of one, a replica whose
    /// [settings](Config::linked_ticks_min) ask for them reaches nobody.
    pub fn linked(&mut self, peer: u64, up: bool) {
        self.peers.linked(peer, self.now, up);
    }

    /// The oldest write handed out has been on its way for longer than an election timeout
    /// (`true`), or the disk answers again. A stalled leader hands over if a peer has everything,
    /// takes no proposals, starts no reads and stops ticking, so that the others elect another; a
    /// stalled member does not campaign. A single voter goes on: nobody could take its place.
    pub fn stalled(&mut self, stalled: bool) {
        if self.stalled == stalled || self.alive().is_err() {
            return;
        }
        self.stalled = stalled;
        if self.held_back() {
            self.flush_proposals();
            let last = self.raw.raft.raft_log.last_index();
            if let Some(successor) = self.best_successor(last) {
                self.raw.transfer_leader(successor);
            }
            self.after_input();
        }
    }

    /// Stops leading at once, without a successor: for a leader that finds it has not run for a
    /// while and so cannot know what it missed. The others, or this member later, elect one after
    /// an election timeout. A single voter goes on.
    pub fn step_down(&mut self) {
        if self.alive().is_err() || !self.leads() || self.alone() {
            return;
        }
        self.flush_proposals();
        let term = self.raw.raft.term;
        self.raw.raft.become_follower(term, raft::INVALID_ID);
        self.after_input();
    }

    /// As leader: the last entry that every member heard of lately is known to have; older ones
    /// are needed by nobody who is about to ask for them. `None` if no other member was heard of.
    pub fn followed_up_to(&self) -> Option<u64> {
        let ticks = self.config.election_ticks as u64;
        let progress = self.raw.raft.prs().iter();
        let followers = progress.filter(|(member, _)| {
            **member != self.config.id && self.peers.active(**member, self.now, ticks)
        });
        followers.map(|(_, progress)| progress.matched).min()
    }

    /// Nobody else votes: this member decides alone.
    pub fn is_alone(&self) -> bool {
        self.alone()
    }

    /// The entries behind `after` that were handed out as committed, for a state as of `after` that is to be brought to where
    /// the store is. `None` if memory has dropped some of them, or nothing behind `after` was handed out yet.
    pub fn handed_out(&self, after: u64) -> Option<Vec<Entry>> {
        self.raw.store().between(after, self.given)
    }

    /// Drops log entries up to `index` from memory, at most those applied. The tail also shrinks by
    /// itself to its byte bound.
    pub fn compact(&mut self, index: u64) {
        self.raw.mut_store().compact(index);
    }

    /// Fills `out` with what is to be done. Call it after any input, again for as long as it returns
    /// true; false means that nothing was added and nothing is left.
    ///
    /// # Panics
    /// If the last write was not taken out of `out`.
    pub fn poll(&mut self, out: &mut Output) -> bool {
        assert!(
            out.write.is_none(),
            "the last write must be taken before the next poll"
        );
        if self.failure.is_some() {
            return self.report_failure(out);
        }
        let mut busy = self.drain(out);
        if self.removed != Removed::Reported {
            self.flush_proposals();
            self.issue_reads();
            self.campaign();
            if self.raw.has_ready() {
                self.take_ready(out);
                busy = true;
            } else if self.writes.commit_due {
                self.write_commit(out);
                busy = true;
            }
            busy |= self.report_changes(out);
        }
        busy |= self.drain(out);
        if self.failure.is_some() {
            self.report_failure(out)
        } else {
            busy
        }
    }

    /// The index for a linearizable read that starts now, where nobody else need be asked: this
    /// member is the only voter, leads, and has committed in its term. Whatever was acknowledged
    /// before this call lies at or below it. `None`: ask by [`read`](Self::read).
    pub fn read_now(&self) -> Option<u64> {
        let raft = &self.raw.raft;
        let sure = self.failure.is_none() && self.alone() && self.leads();
        (sure && raft.commit_to_current_term()).then_some(raft.raft_log.committed)
    }

    /// The state as of now.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let log = self.raw.store();
        let RoleChange { term, leader, role } = self.role();
        Status {
            term,
            leader,
            role,
            commit: raft.raft_log.committed,
            applied: log.applied(),
            last_index: raft.raft_log.last_index(),
            first_index: log.first(),
            persisted: raft.raft_log.persisted,
            settled: self.leads() && raft.commit_to_current_term(),
            tail_bytes: log.bytes(),
            dropped_messages: self.dropped_messages,
            stalled: self.stalled,
        }
    }

    /// The membership as applied.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    // ---- state in one word ----------------------------------------------------------------

    pub(crate) fn alive(&self) -> Result<(), Refused> {
        match (&self.failure, self.removed) {
            (Some(_), _) => Err(Refused::Failed),
            (None, Removed::No) => Ok(()),
            (None, _) => Err(Refused::Removed),
        }
    }

    pub(crate) fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub(crate) fn leader(&self) -> Option<u64> {
        Some(self.raw.raft.leader_id).filter(|&leader| leader != raft::INVALID_ID)
    }

    /// Nobody else votes.
    pub(crate) fn alone(&self) -> bool {
        self.raw.raft.promotable() && self.raw.raft.prs().is_singleton()
    }

    /// A leader that should not lead because its disk does not answer.
    pub(crate) fn held_back(&self) -> bool {
        self.stalled && self.leads() && !self.alone()
    }

    pub(crate) fn role(&self) -> RoleChange {
        let term = self.raw.raft.term;
        if self.alive().is_err() {
            return RoleChange {
                term,
                leader: None,
                role: Role::Out,
            };
        }
        let role = match self.raw.raft.state {
            StateRole::Follower => Role::Follower,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Candidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
        };
        RoleChange {
            term,
            leader: self.leader(),
            role,
        }
    }

    /// After every input: a new term or role draws a new election timeout.
    pub(crate) fn after_input(&mut self) {
        let role = self.role();
        if (role.term, role.role) != (self.seen.term, self.seen.role) {
            self.draw_election_timeout();
            if role.role == Role::Leader {
                self.forwarded.lead(role.term);
            }
        }
        self.seen = role;
    }

    pub(crate) fn draw_election_timeout(&mut self) {
        let ticks = self.config.election_ticks;
        self.election_timeout = ticks + self.random.below(ticks);
    }

    pub(crate) fn fail(&mut self, error: Error) {
        ::log::error!("member {:x} stops: {error}", self.config.id);
        self.failure.get_or_insert(error);
        self.reads
            .refuse_all(Refused::Failed, local(&mut self.read_answers));
    }

    // ---- elections --------------------------------------------------------------------------

    /// Campaigns if it is time and nothing forbids it. What does:
    /// a leader's stalled disk; anything raft still has to say (it would leave under the new role);
    /// entries not durable yet (raft asserts on them when the election is won, and who cannot write
    /// should not lead); a snapshot that is not applied yet (raft would read entries below it).
    pub(crate) fn campaign(&mut self) {
        let raft = &self.raw.raft;
        let due = self.campaign_alone || raft.election_elapsed >= self.election_timeout;
        if !due || self.leads() || !raft.promotable() || self.stalled || !self.may_campaign() {
            return;
        }
        if self.raw.has_ready() {
            return;
        }
        self.campaign_alone = false;
        self.raw.raft.election_elapsed = 0;
        self.draw_election_timeout();
        // raft declines by itself while a committed conf change is not applied.
        let _ = self.raw.campaign();
        self.after_input();
    }

    pub(crate) fn may_campaign(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        let installing = log.unstable_snapshot().is_some() || log.first_index() > log.applied + 1;
        let durable =
            log.persisted == log.last_index() && self.writes.last_data <= self.writes.written;
        durable && !installing
    }

    // ---- reports ----------------------------------------------------------------------------

    pub(crate) fn drain(&mut self, out: &mut Output) -> bool {
        let busy =
            !(self.outbox.is_empty() && self.read_answers.is_empty() && self.forwards.is_empty());
        out.messages.append(&mut self.outbox);
        out.reads.append(&mut self.read_answers);
        out.forwards.append(&mut self.forwards);
        busy
    }

    pub(crate) fn report_changes(&mut self, out: &mut Output) -> bool {
        let mut busy = false;
        let role = self.role();
        if self.reported != Some(role) {
            self.reported = Some(role);
            out.role = Some(role);
            busy = true;
        }
        if std::mem::take(&mut self.membership_changed) {
            out.membership = Some(self.membership.clone());
            busy = true;
        }
        if let Some(wanted) = self.raw.store().take_wanted() {
            out.snapshot_wanted = Some(wanted);
            busy = true;
        }
        if self.removed == Removed::Leaving && !self.raw.has_ready() {
            self.removed = Removed::Reported;
            out.removed = true;
            busy = true;
        }
        busy
    }

    fn report_failure(&mut self, out: &mut Output) -> bool {
        if std::mem::replace(&mut self.failure_reported, true) {
            return self.drain_reads(out);
        }
        self.outbox.clear();
        self.writes.kept = Default::default();
        out.write = None;
        out.committed.clear();
        out.messages.clear();
        out.role = Some(self.role());
        out.failure.clone_from(&self.failure);
        self.drain_reads(out);
        true
    }

    fn drain_reads(&mut self, out: &mut Output) -> bool {
        let busy = !self.read_answers.is_empty();
        out.reads.append(&mut self.read_answers);
        busy
    }
}

/// Keeps the answers for reads of this member.
pub(crate) fn local(
    answers: &mut Vec<(u64, Result<u64, Refused>)>,
) -> impl FnMut(Answer) + use<'_> {
    |answer| {
        if let Answer::Local(token, result) = answer {
            answers.push((token, result));
        }
    }
}
