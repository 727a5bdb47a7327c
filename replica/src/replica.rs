//! The front door: one raft group member as a machine of inputs and one [`poll`](Replica::poll).
//!
//! Order of what one raft ready asks for (and why it is safe to run disk and network side by side):
//! a leader's messages leave at once, beside its own write, because it counts itself only when that
//! write is reported; everybody else's messages are promises and wait for the write they rest on.
//! Two refinements, both in [`Replica::route`]: heartbeat answers may overtake an entry write (they
//! promise nothing about entries), which keeps leadership and reads alive while a disk is slow; and
//! **nobody's** message may overtake a term or a vote. The last matters for a leader too: a single
//! voter with learners makes itself leader and speaks in the new term within one ready, and a crash
//! would let it speak in that term a second time with different entries.
//!
//! Elections: raft would draw its timeout from the thread's random device. Its window is therefore
//! one tick wide and out of reach; the timeout used is drawn here, from the seed, at every change of
//! term or role, and raft is told to campaign.

use std::collections::VecDeque;

use kvnode_wal::{Entry, EntryKind, HardState, Membership};
use raft::{Config as RaftConfig, RawNode, ReadOnlyOption, Ready, StateRole, eraftpb};

use crate::error::{Error, Refused};
use crate::log::{self, Log};
use crate::membership::{self, ConfChange};
use crate::message::{Kind, Message};
use crate::output::{Install, Output, Role, RoleChange, Status, Write};
use crate::peers::Peers;
use crate::proposals::Proposals;
use crate::random::Random;
use crate::reads::{self, Answer, Reads};
use crate::{logger, message};

/// raft's own election window, in ticks: never reached.
const NEVER: usize = 1 << 40;

/// Settings of one replica. Ticks are whatever the node makes them; 100 ms is usual.
#[derive(Debug, Clone)]
pub struct Config {
    /// This member, not 0.
    pub id: u64,
    /// Differs in every life of this member (a start counter, a random number); part of read
    /// contexts, so that a late answer to an earlier life means nothing.
    pub incarnation: u64,
    /// Feeds the election timeouts. May be the same on all members.
    pub seed: u64,
    /// Without a leader's word for this long a member campaigns; timeouts are drawn from
    /// `election_ticks .. 2 * election_ticks`. At least 2, greater than `heartbeat_ticks`.
    pub election_ticks: usize,
    /// Ticks between a leader's heartbeats, at least 1.
    pub heartbeat_ticks: usize,
    /// Ask before campaigning, so that a member which was cut off does not disturb.
    pub pre_vote: bool,
    /// Entry bytes per append message; one entry goes out whatever its size.
    pub message_bytes_max: u64,
    /// Append messages on their way to one peer.
    pub messages_in_flight_max: usize,
    /// Entry bytes handed out as committed per poll; one entry whatever its size.
    pub committed_bytes_max: u64,
    /// Payload bytes of one proposal.
    pub entry_bytes_max: usize,
    /// Proposals taken and not yet applied; one more is refused as busy.
    pub proposals_max: usize,
    /// Their bytes (each charged 64 more than its payload); the one that would exceed it is refused
    /// as busy.
    pub proposal_bytes_max: usize,
    /// Bytes of log kept in memory for peers that are a little behind. What is not applied yet is
    /// kept beyond this; an append from a leader that would reach twice the sum of this and
    /// `proposal_bytes_max` is dropped until the store has caught up.
    pub tail_bytes_max: usize,
    /// Reads held at a time; one more is refused as busy.
    pub reads_max: usize,
    /// Ticks until a batch of reads is asked again.
    pub read_retry_ticks: u64,
    /// Ticks until a read is given up as timed out.
    pub read_patience_ticks: u64,
    /// A learner this many entries behind the leader's commit may be promoted.
    pub promote_gap: u64,
    /// Refuse membership changes after which fewer than a quorum would be reachable.
    pub strict_reconfiguration: bool,
}

impl Config {
    /// Defaults for a member.
    pub fn new(id: u64) -> Self {
        Config {
            id,
            incarnation: 0,
            seed: 0,
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: true,
            message_bytes_max: 1 << 20,
            messages_in_flight_max: 256,
            committed_bytes_max: 4 << 20,
            entry_bytes_max: 12 << 20,
            proposals_max: 10_000,
            proposal_bytes_max: 64 << 20,
            tail_bytes_max: 64 << 20,
            reads_max: 100_000,
            read_retry_ticks: 5,
            read_patience_ticks: 100,
            promote_gap: 1_000,
            strict_reconfiguration: true,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Config(what.to_owned()));
        if self.id == 0 {
            return wrong("member id must not be 0");
        }
        if self.heartbeat_ticks == 0 || self.election_ticks <= self.heartbeat_ticks {
            return wrong("election ticks must be greater than heartbeat ticks, and those than 0");
        }
        if self.election_ticks > 1 << 20 {
            return wrong("election ticks beyond a million");
        }
        if self.messages_in_flight_max == 0 || self.proposals_max == 0 || self.reads_max == 0 {
            return wrong("a limit of 0 would refuse everything");
        }
        Ok(())
    }

    fn raft(&self, applied: u64) -> RaftConfig {
        RaftConfig {
            id: self.id,
            election_tick: self.election_ticks,
            heartbeat_tick: self.heartbeat_ticks,
            min_election_tick: NEVER,
            max_election_tick: NEVER + 1,
            applied,
            max_size_per_msg: self.message_bytes_max,
            max_inflight_msgs: self.messages_in_flight_max,
            check_quorum: true,
            pre_vote: self.pre_vote,
            // The other option answers reads on the strength of a guess about clocks.
            read_only_option: ReadOnlyOption::Safe,
            // Followers serve watches: they should hear of commits early.
            skip_bcast_commit: false,
            batch_append: false,
            priority: 0,
            // Limits are kept in `proposals.rs`, before anything is taken.
            max_uncommitted_size: raft::NO_LIMIT,
            max_committed_size_per_ready: self.committed_bytes_max,
        }
    }
}

/// What a member knows when it starts.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// The newest known membership, as of its own index. Conf changes among `entries` above that
    /// index and up to `applied` are carried out on it; the caller must not leave one out. A new
    /// cluster's members all start with the same one (index 0); a member that joins starts with
    /// one the cluster has told it (a recent one is better, any will do). Never without voters.
    pub membership: Membership,
    /// As found in the log; zero for a new one.
    pub hard_state: HardState,
    /// A point (index, term) up to which the state is complete without the log: the newest
    /// snapshot, or the store's own applied index and term. (0, 0) if the log is complete.
    pub snapshot: (u64, u64),
    /// In order, without gaps. May begin below `snapshot`, which helps peers that are behind.
    pub entries: Vec<Entry>,
    /// The store's durable applied index.
    pub applied: u64,
}

/// One member of the cluster. See the crate's page for what it promises, [`Output`] for what it
/// asks for.
pub struct Replica {
    pub(crate) config: Config,
    pub(crate) raw: RawNode<Log>,
    pub(crate) membership: Membership,
    pub(crate) proposals: Proposals,
    pub(crate) reads: Reads,
    pub(crate) peers: Peers,
    /// Ticks since the start.
    pub(crate) now: u64,
    /// To be sent with the next poll.
    pub(crate) outbox: Vec<Message>,
    pub(crate) forwards: Vec<(u64, Result<(), Refused>)>,
    read_answers: Vec<(u64, Result<u64, Refused>)>,
    /// Conf changes handed out as committed, not applied yet.
    conf_changes: VecDeque<(u64, ConfChange)>,
    membership_changed: bool,

    random: Random,
    /// Own election timeout, in ticks since raft last heard of a leader.
    election_timeout: usize,
    campaign_alone: bool,
    /// (term, leader, role) when last looked at, to redraw the timeout; and last reported.
    seen: RoleChange,
    reported: Option<RoleChange>,

    writes: Writes,
    /// Last index handed out as committed or installed.
    given: u64,
    pub(crate) stalled: bool,
    pub(crate) dropped_messages: u64,
    removed: Removed,
    failure: Option<Error>,
    failure_reported: bool,
}

/// Numbers of the writes handed out, and what waits for them.
#[derive(Default)]
struct Writes {
    /// raft's last ready, and the last one that became a write.
    ready: u64,
    last: u64,
    /// Last write with entries or a snapshot; with anything that must be synced; with a term, a
    /// vote or a snapshot.
    last_data: u64,
    last_sync: u64,
    last_strict: u64,
    /// Everything up to here is durable.
    written: u64,
    /// Messages with the write they wait for, in order: first those that wait for terms, votes and
    /// snapshots only, then those that wait for whatever must be synced.
    kept: [VecDeque<(u64, Message)>; 2],
    /// As handed out last.
    hard_state: HardState,
    /// A commit index not handed out yet: it rides with the next write, or leaves alone at the
    /// next tick.
    commit_late: bool,
    commit_due: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removed {
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
        let Restored { membership, hard_state, snapshot, entries, applied } = restored;
        let (base, entries) = connect(snapshot, entries, applied)?;
        let last = entries.last().map_or(base, |entry| (entry.index, entry.term));
        let hard_state = clamp(hard_state, snapshot, applied, last)?;
        let changes = replayed(&entries, membership.index, applied)?;
        let HardState { term, vote, commit } = hard_state;
        let for_raft = eraftpb::HardState { term, vote, commit, ..Default::default() };
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
            seen: RoleChange { term: hard_state.term, leader: None, role: Role::Follower },
            writes: Writes { hard_state, ..Writes::default() },
            given: applied,
            config,
            raw,
            membership,
            proposals: Proposals::default(),
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
        let answers = &mut self.read_answers;
        self.reads.expire(self.now, |answer| {
            if let Answer::Local(token, result) = answer {
                answers.push((token, result));
            }
        });
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
        if message.to != self.config.id || message.from == self.config.id || message.check().is_err()
        {
            self.dropped_messages += 1;
            return;
        }
        self.peers.heard(message.from, self.now, &self.membership);
        match message.kind {
            Kind::ReadAsk => {
                if self.leads() {
                    self.reads.ask_for_peer(message.from, message.context, self.now);
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

    /// The write of this number, and every earlier one, is durable.
    ///
    /// # Panics
    /// If the number was never handed out or goes back: the caller's bookkeeping is wrong, and with
    /// it every promise that follows.
    pub fn written(&mut self, number: u64) {
        assert!(
            number > self.writes.written && number <= self.writes.last,
            "write {number} reported, {} done, {} handed out",
            self.writes.written,
            self.writes.last
        );
        self.flush_proposals();
        self.writes.written = number;
        for kept in &mut self.writes.kept {
            while kept.front().is_some_and(|&(after, _)| after <= number) {
                let (_, message) = kept.pop_front().expect("front was there");
                self.outbox.push(message);
            }
        }
        // After the own removal raft looks for its own progress when told of a write, and dies.
        if self.alive().is_ok() {
            self.persisted(number);
        }
        self.after_input();
    }

    fn persisted(&mut self, number: u64) {
        // With nothing outstanding raft may forget the readies that wrote nothing as well.
        let all = number == self.writes.last;
        self.raw.on_persist_ready(if all { self.writes.ready } else { number });
    }

    /// The store has executed everything up to `index`, and will find that out again after a crash
    /// or execute it again.
    ///
    /// # Panics
    /// If the index was never handed out as committed (or installed and written), or goes back.
    pub fn applied(&mut self, index: u64) {
        let applied = self.raw.store().applied();
        let usable = self.given.min(self.raw.raft.raft_log.persisted);
        assert!(
            applied <= index && index <= usable,
            "applied {index} reported, {applied} known, {usable} handed out and written"
        );
        if index == applied || self.failure.is_some() {
            return;
        }
        self.flush_proposals();
        self.raw.mut_store().set_applied(index);
        while self.conf_changes.front().is_some_and(|&(at, _)| at <= index) {
            let (at, change) = self.conf_changes.pop_front().expect("front was there");
            if self.removed == Removed::No {
                self.apply_conf_change(at, &change);
            }
        }
        if self.removed == Removed::No {
            self.raw.advance_apply_to(index);
            self.shrink_tail();
            self.after_input();
        }
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
        assert!(out.write.is_none(), "the last write must be taken before the next poll");
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
        if self.failure.is_some() { self.report_failure(out) } else { busy }
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

    fn role(&self) -> RoleChange {
        let term = self.raw.raft.term;
        if self.alive().is_err() {
            return RoleChange { term, leader: None, role: Role::Out };
        }
        let role = match self.raw.raft.state {
            StateRole::Follower => Role::Follower,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Candidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
        };
        RoleChange { term, leader: self.leader(), role }
    }

    /// After every input: a new term or role draws a new election timeout.
    pub(crate) fn after_input(&mut self) {
        let role = self.role();
        if (role.term, role.role) != (self.seen.term, self.seen.role) {
            self.draw_election_timeout();
        }
        self.seen = role;
    }

    fn draw_election_timeout(&mut self) {
        let ticks = self.config.election_ticks;
        self.election_timeout = ticks + self.random.below(ticks);
    }

    pub(crate) fn fail(&mut self, error: Error) {
        ::log::error!("member {:x} stops: {error}", self.config.id);
        self.failure.get_or_insert(error);
        let answers = &mut self.read_answers;
        self.reads.refuse_all(Refused::Failed, |answer| {
            if let Answer::Local(token, result) = answer {
                answers.push((token, result));
            }
        });
    }

    // ---- elections --------------------------------------------------------------------------

    /// Campaigns if it is time and nothing forbids it. What does:
    /// a leader's stalled disk; anything raft still has to say (it would leave under the new role);
    /// entries not durable yet (raft asserts on them when the election is won, and who cannot write
    /// should not lead); a snapshot that is not applied yet (raft would read entries below it).
    fn campaign(&mut self) {
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

    // ---- reads ------------------------------------------------------------------------------

    fn issue_reads(&mut self) {
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

    fn step_read_answer(&mut self, message: &Message) {
        if let Some(context) = reads::Context::decode(&message.context) {
            self.confirm_reads(&context, message.index);
        }
    }

    fn confirm_reads(&mut self, context: &reads::Context, index: u64) {
        let (answers, outbox, id) = (&mut self.read_answers, &mut self.outbox, self.config.id);
        self.reads.confirm(context, index, |answer| match answer {
            Answer::Local(token, result) => answers.push((token, result)),
            Answer::Peer { member, context, index } => {
                let mut answer = Message::new(Kind::ReadAnswer, id, member);
                answer.context = context;
                answer.index = index;
                outbox.push(answer);
            }
        });
    }

    // ---- raft's ready -----------------------------------------------------------------------

    fn take_ready(&mut self, out: &mut Output) {
        let mut ready = self.raw.ready();
        self.writes.ready = ready.number();
        let leads = self.leads();
        let mut messages = ready.take_messages();
        messages.append(&mut ready.take_persisted_messages());
        self.hand_out_committed(&mut ready, out);
        for state in ready.take_read_states() {
            if let Some(context) = reads::Context::decode(&state.request_ctx) {
                self.confirm_reads(&context, state.index);
            }
        }
        self.hand_out_write(&mut ready, out);
        for message in messages {
            if let Some(message) = Message::from_raft(message) {
                self.route(message, leads, out);
            }
        }
        self.raw.advance_append_async(ready);
        if self.writes.last == self.writes.written && self.removed == Removed::No {
            self.persisted(self.writes.last);
        }
        self.proposals.logged();
    }

    fn hand_out_committed(&mut self, ready: &mut Ready, out: &mut Output) {
        for entry in ready.take_committed_entries() {
            let entry = log::from_raft(entry);
            self.given = entry.index;
            if entry.kind == EntryKind::ConfChange {
                match ConfChange::decode(&entry.payload) {
                    Ok(change) => self.conf_changes.push_back((entry.index, change)),
                    Err(reason) => {
                        return self.fail(Error::ConfChange { index: entry.index, reason });
                    }
                }
            }
            out.committed.push(entry);
        }
    }

    /// Makes what is to be written visible to raft and asks for it to be made durable.
    fn hand_out_write(&mut self, ready: &mut Ready, out: &mut Output) {
        let install = self.take_install(ready);
        let fresh = ready.take_entries();
        let mut entries = Vec::with_capacity(fresh.len());
        for entry in fresh {
            let entry = log::from_raft(entry);
            entries.push(entry.clone());
            self.raw.mut_store().push(entry);
        }
        let mut strict = install.is_some();
        if let Some(new) = ready.hs() {
            let old = self.writes.hard_state;
            self.writes.hard_state =
                HardState { term: new.term, vote: new.vote, commit: new.commit };
            strict |= (old.term, old.vote) != (new.term, new.vote);
            self.writes.commit_late = true;
        }
        if !strict && entries.is_empty() {
            return;
        }
        let number = ready.number();
        let writes = &mut self.writes;
        writes.last = number;
        writes.last_sync = number;
        if strict {
            writes.last_strict = number;
        }
        if install.is_some() || !entries.is_empty() {
            writes.last_data = number;
        }
        let hard_state = std::mem::take(&mut writes.commit_late).then_some(writes.hard_state);
        writes.commit_due = false;
        out.write = Some(Write { number, install, entries, hard_state, must_sync: true });
    }

    fn take_install(&mut self, ready: &Ready) -> Option<Install> {
        if ready.snapshot().is_empty() {
            return None;
        }
        let metadata = ready.snapshot().get_metadata();
        let (index, term) = (metadata.index, metadata.term);
        let membership = membership::from_raft(metadata.get_conf_state().clone(), index);
        self.raw.mut_store().install(index, term);
        self.given = index;
        // What the snapshot contains is not applied a second time.
        self.conf_changes.retain(|&(at, _)| at > index);
        self.set_membership(membership.clone());
        Some(Install { index, term, membership })
    }

    /// A commit index that found no other write to ride with.
    fn write_commit(&mut self, out: &mut Output) {
        // Numbers come from raft's readies. An empty one costs nothing and keeps the order.
        let ready = self.raw.ready();
        let number = ready.number();
        self.raw.advance_append_async(ready);
        let writes = &mut self.writes;
        writes.ready = number;
        writes.last = number;
        writes.commit_late = false;
        writes.commit_due = false;
        out.write = Some(Write {
            number,
            install: None,
            entries: Vec::new(),
            hard_state: Some(writes.hard_state),
            must_sync: false,
        });
    }

    /// Sends a message now or keeps it until what it promises is durable.
    fn route(&mut self, message: Message, leads: bool, out: &mut Output) {
        let writes = &mut self.writes;
        let [for_strict, for_sync] = &mut writes.kept;
        let (after, kept) = if leads || message.kind == Kind::HeartbeatAnswer {
            (writes.last_strict, for_strict)
        } else {
            (writes.last_sync, for_sync)
        };
        if after <= writes.written {
            out.messages.push(message);
        } else {
            kept.push_back((after, message));
        }
    }

    // ---- after apply ------------------------------------------------------------------------

    fn apply_conf_change(&mut self, index: u64, change: &ConfChange) {
        // A membership from a snapshot or a checkpoint may be ahead of what is applied.
        if index <= self.membership.index {
            return;
        }
        let was_member = membership::names(&self.membership, self.config.id);
        match self.raw.apply_conf_change(&change.to_raft()) {
            Ok(state) => self.set_membership(membership::from_raft(state, index)),
            // Every member comes to the same verdict, so skipping it keeps them equal.
            Err(error) => {
                ::log::warn!("entry {index}: membership change without effect: {error}");
                self.membership.index = index;
                return;
            }
        }
        if was_member && !membership::names(&self.membership, self.config.id) {
            self.removed = Removed::Leaving;
            let answers = &mut self.read_answers;
            self.reads.refuse_all(Refused::Removed, |answer| {
                if let Answer::Local(token, result) = answer {
                    answers.push((token, result));
                }
            });
        } else if self.leads() && !self.membership.voters.contains(&self.config.id) {
            // Demoted while leading. raft would go on leading without a vote of its own.
            let outgoing = self.membership.voters_outgoing.contains(&self.config.id);
            if !outgoing {
                let term = self.raw.raft.term;
                self.raw.raft.become_follower(term, raft::INVALID_ID);
            }
        }
    }

    fn set_membership(&mut self, membership: Membership) {
        self.peers.keep(&membership);
        self.membership = membership;
        self.membership_changed = true;
    }

    /// Keeps the tail within its bytes. Entries a follower heard of lately still lacks stay until
    /// the tail is twice its bound: sending a few entries is cheaper than a snapshot.
    fn shrink_tail(&mut self) {
        let bytes_max = self.config.tail_bytes_max;
        if self.raw.store().bytes() <= bytes_max {
            return;
        }
        let mut keep_from = u64::MAX;
        if self.leads() {
            let ticks = self.config.election_ticks as u64;
            for (&member, progress) in self.raw.raft.prs().iter() {
                if self.peers.active(member, self.now, ticks) {
                    keep_from = keep_from.min(progress.matched + 1);
                }
            }
        }
        let log = self.raw.mut_store();
        log.shrink(bytes_max, keep_from);
        log.shrink(2 * bytes_max, u64::MAX);
    }

    // ---- reports ----------------------------------------------------------------------------

    fn drain(&mut self, out: &mut Output) -> bool {
        let busy = !(self.outbox.is_empty()
            && self.read_answers.is_empty()
            && self.forwards.is_empty());
        out.messages.append(&mut self.outbox);
        out.reads.append(&mut self.read_answers);
        out.forwards.append(&mut self.forwards);
        busy
    }

    fn report_changes(&mut self, out: &mut Output) -> bool {
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

/// Entries from the first one usable on, and the (index, term) in front of it.
fn connect(
    snapshot: (u64, u64),
    entries: Vec<Entry>,
    applied: u64,
) -> Result<((u64, u64), Vec<Entry>), Error> {
    let mut before: Option<(u64, u64)> = None;
    if (snapshot.0 == 0) != (snapshot.1 == 0) || snapshot.0 >= message::NUMBER_MAX {
        return Err(Error::TermFalls { index: snapshot.0, before: 1, found: snapshot.1 });
    }
    for entry in &entries {
        let (index, term) = (entry.index, entry.term);
        if let Some((at, of)) = before {
            if index != at + 1 {
                return Err(Error::EntryGap { expected: at + 1, found: index });
            }
            if term < of {
                return Err(Error::TermFalls { index, before: of, found: term });
            }
        }
        if index >= message::NUMBER_MAX || index == 0 {
            return Err(Error::EntryGap { expected: snapshot.0 + 1, found: index });
        }
        if term == 0 || term >= message::NUMBER_MAX {
            return Err(Error::TermFalls { index, before: before.map_or(1, |b| b.1), found: term });
        }
        if index == snapshot.0 && term != snapshot.1 {
            return Err(Error::SnapshotTerm { index, expected: snapshot.1, found: term });
        }
        before = Some((index, term));
    }
    let first = entries.first().map_or(snapshot.0 + 1, |entry| entry.index);
    let last = before.map_or(snapshot.0, |(index, _)| index);
    let (base, entries) = if last < snapshot.0 || entries.is_empty() {
        (snapshot, Vec::new())
    } else if first == snapshot.0 + 1 {
        (snapshot, entries)
    } else if first <= snapshot.0 || applied >= first {
        // The term in front of the first entry is not known: the entry itself becomes the base.
        let mut entries = entries.into_iter();
        let base = entries.next().map_or(snapshot, |entry| (entry.index, entry.term));
        (base, entries.collect())
    } else {
        return Err(Error::EntryGap { expected: snapshot.0 + 1, found: first });
    };
    if applied < base.0 {
        return Err(Error::AppliedBelowLog { applied, first: base.0 + 1 });
    }
    Ok((base, entries))
}

fn clamp(
    hard_state: HardState,
    snapshot: (u64, u64),
    applied: u64,
    last: (u64, u64),
) -> Result<HardState, Error> {
    let HardState { mut term, mut vote, commit } = hard_state;
    let (last_index, last_term) = last;
    if applied > last_index {
        return Err(Error::AppliedBeyondLog { applied, last: last_index });
    }
    let commit = commit.max(applied).max(snapshot.0);
    if commit > last_index {
        return Err(Error::CommitBeyondLog { commit, last: last_index });
    }
    let known = last_term.max(snapshot.1);
    if term < known {
        term = known;
        vote = 0;
    }
    Ok(HardState { term, vote, commit })
}

/// Conf changes that are applied but not in the membership yet.
fn replayed(
    entries: &[Entry],
    known: u64,
    applied: u64,
) -> Result<Vec<(u64, ConfChange)>, Error> {
    entries
        .iter()
        .filter(|e| e.kind == EntryKind::ConfChange && known < e.index && e.index <= applied)
        .map(|entry| {
            let index = entry.index;
            let change = ConfChange::decode(&entry.payload);
            Ok((index, change.map_err(|reason| Error::ConfChange { index, reason })?))
        })
        .collect()
}
