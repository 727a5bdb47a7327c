//! A small simulated world for replicas: network, disks and stores with seeded faults, and checks
//! that run after every event. One seed gives one history; `hash` is its fingerprint.
//!
//! Time is in units, [`TICK`] of them per tick. Messages travel as bytes, so the codec is in every
//! run. A crash keeps a prefix of the writes that were on their way, and forgets part of what the
//! store had executed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use kvnode_replica::{
    ConfChange, Config, Error, Kind, Limits, Message, Output, Refused, Replica, Restored, Role,
    SnapshotOffer, Status, Write,
};
use kvnode_wal::{Entry, EntryKind, HardState, Membership};

use crate::chance::{Rng, digest, fold};

pub const TICK: u64 = 100;

/// What a store is here: the chain of everything executed.
#[derive(Clone, Default, Debug, PartialEq)]
pub struct State {
    pub index: u64,
    pub term: u64,
    /// Hash over all executed entries; equal index must mean equal hash.
    pub hash: u64,
    /// Chain value of the log up to `index`.
    pub chain: u64,
    pub membership: Membership,
}

#[derive(Default)]
pub struct Disk {
    pub base: State,
    pub entries: Vec<(Entry, u64)>,
    pub hard_state: HardState,
    pub membership: Membership,
    /// By term: the vote, and the highest last index while that was the term. What was once true
    /// may still be said later, as a slow network would do; what never was, may not.
    history: BTreeMap<u64, (u64, u64)>,
    pending: VecDeque<(Write, Vec<u64>)>,
    syncing: bool,
    pub stalled: bool,
}

impl Disk {
    pub fn last(&self) -> u64 {
        self.entries
            .last()
            .map_or(self.base.index, |(entry, _)| entry.index)
    }

    fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        let position = index.checked_sub(self.base.index + 1)? as usize;
        self.entries.get(position).map(|(entry, _)| entry.term)
    }

    fn store(&mut self, write: Write, chains: Vec<u64>, installed: Option<State>) {
        if let Some(install) = write.install {
            let state = installed.expect("the node staged the state before stepping the message");
            assert_eq!(state.index, install.index);
            self.entries.clear();
            self.membership = install.membership;
            self.base = state;
        }
        for (entry, chain) in write.entries.into_iter().zip(chains) {
            let keep = (entry.index - self.base.index - 1) as usize;
            assert!(keep <= self.entries.len(), "a hole in the log");
            self.entries.truncate(keep);
            self.entries.push((entry, chain));
        }
        if let Some(hard_state) = write.hard_state {
            assert!(hard_state.term >= self.hard_state.term, "terms never fall");
            assert!(
                hard_state.commit >= self.hard_state.commit,
                "commit never falls"
            );
            assert!(hard_state.commit <= self.last(), "commit within the log");
            self.hard_state = hard_state;
        }
        let last = self.last();
        let (vote, highest) = self.history.entry(self.hard_state.term).or_default();
        *vote = self.hard_state.vote;
        *highest = last.max(*highest);
    }
}

pub struct Node {
    pub id: u64,
    pub life: u64,
    pub replica: Option<Replica>,
    pub out: Output,
    pub disk: Disk,
    pub state: State,
    /// What a crash leaves of the store.
    durable: State,
    /// States on the way from `durable` to `state`, oldest first.
    recent: VecDeque<State>,
    /// The log as the replica sees it: chain value by index.
    chain: BTreeMap<u64, u64>,
    queue: VecDeque<Entry>,
    applying: bool,
    pub slow_apply: bool,
    staged: BTreeMap<u64, State>,
    offer: Option<State>,
    pub paused: bool,
    pub removed: bool,
    pub failure: Option<Error>,
    pub config: Config,
    pub reads: BTreeMap<u64, Result<u64, Refused>>,
    pub forwards: Vec<(u64, Result<(), Refused>)>,
    pub snapshots_wanted: u64,
    held: Vec<(Bytes, Option<State>)>,
}

impl Node {
    pub fn status(&self) -> Status {
        self.replica.as_ref().expect("node is up").status()
    }
    pub fn replica(&mut self) -> &mut Replica {
        self.replica.as_mut().expect("node is up")
    }
    pub fn up(&self) -> bool {
        self.replica.is_some() && !self.paused
    }
}

enum Event {
    Tick {
        node: u64,
        life: u64,
    },
    Deliver {
        frame: Bytes,
        state: Option<State>,
    },
    Synced {
        node: u64,
        life: u64,
        number: u64,
    },
    Applied {
        node: u64,
        life: u64,
    },
    SnapshotReport {
        node: u64,
        life: u64,
        to: u64,
        delivered: bool,
    },
}

/// How unkind the world is. All in percent, except latencies in units.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    pub loss: u64,
    pub double: u64,
    pub latency: (u64, u64),
    /// Share of messages ten times as late.
    pub tail: u64,
    pub disk: (u64, u64),
    pub apply: (u64, u64),
}

pub const CALM: Faults = Faults {
    loss: 0,
    double: 0,
    latency: (2, 8),
    tail: 0,
    disk: (1, 6),
    apply: (1, 4),
};

/// Sees a message; false drops it.
pub type Filter = Box<dyn FnMut(&Message) -> bool>;

pub struct World {
    pub now: u64,
    pub rng: Rng,
    pub nodes: BTreeMap<u64, Node>,
    pub faults: Faults,
    pub hash: u64,
    /// One-way cuts (from, to).
    pub cut: BTreeSet<(u64, u64)>,
    /// Sees each message before the network does; false drops it.
    pub filter: Option<Filter>,
    /// Every frame ever sent, for tests that bring old ones back.
    pub record: Option<Vec<Bytes>>,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    seed: u64,
    // what is checked
    leaders: BTreeMap<u64, u64>,
    chains: BTreeMap<(u64, u64), u64>,
    pub committed: BTreeMap<u64, (u64, u64)>,
    /// Term of the member that first knew the index to be committed.
    committed_in: BTreeMap<u64, u64>,
    states: BTreeMap<u64, u64>,
    floors: BTreeMap<(u64, u64), u64>,
    pub reads_checked: u64,
    pub executed: BTreeMap<Vec<u8>, u64>,
    /// With fixed members durability on a quorum is checked too.
    pub fixed_members: bool,
    next_token: u64,
    next_payload: u64,
}

impl World {
    pub fn new(seed: u64, members: u64) -> Self {
        let voters: Vec<u64> = (1..=members).collect();
        let membership = Membership {
            voters: voters.clone(),
            ..Membership::default()
        };
        let mut world = World {
            now: 0,
            rng: Rng::new(seed),
            nodes: BTreeMap::new(),
            faults: CALM,
            hash: 0,
            cut: BTreeSet::new(),
            filter: None,
            record: None,
            events: BTreeMap::new(),
            sequence: 0,
            seed,
            leaders: BTreeMap::new(),
            chains: BTreeMap::new(),
            committed: BTreeMap::new(),
            committed_in: BTreeMap::new(),
            states: BTreeMap::new(),
            floors: BTreeMap::new(),
            reads_checked: 0,
            executed: BTreeMap::new(),
            fixed_members: true,
            next_token: 0,
            next_payload: 0,
        };
        for id in voters {
            world.add(id, membership.clone());
        }
        world
    }

    /// A member with an empty disk that knows this membership.
    pub fn add(&mut self, id: u64, membership: Membership) {
        let disk = Disk {
            membership,
            ..Disk::default()
        };
        let mut config = Config::new(id);
        config.seed = self.seed;
        let node = Node {
            id,
            life: 0,
            replica: None,
            out: Output::default(),
            disk,
            state: State::default(),
            durable: State::default(),
            recent: VecDeque::new(),
            chain: BTreeMap::new(),
            queue: VecDeque::new(),
            applying: false,
            slow_apply: false,
            staged: BTreeMap::new(),
            offer: None,
            paused: false,
            removed: false,
            failure: None,
            config,
            reads: BTreeMap::new(),
            forwards: Vec::new(),
            snapshots_wanted: 0,
            held: Vec::new(),
        };
        self.nodes.insert(id, node);
        self.start(id);
    }

    pub fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("no such node")
    }

    pub fn start(&mut self, id: u64) {
        let node = self.node(id);
        if node.removed {
            return;
        }
        assert!(node.replica.is_none(), "already running");
        node.life += 1;
        node.config.incarnation = node.life;
        let restored = Restored {
            membership: node.disk.membership.clone(),
            hard_state: node.disk.hard_state,
            snapshot: (node.disk.base.index, node.disk.base.term),
            entries: node
                .disk
                .entries
                .iter()
                .map(|(entry, _)| entry.clone())
                .collect(),
            applied: node.state.index,
        };
        let replica = Replica::new(node.config.clone(), restored).expect("own disk is sound");
        node.replica = Some(replica);
        node.chain = BTreeMap::from([(node.disk.base.index, node.disk.base.chain)]);
        node.chain.extend(
            node.disk
                .entries
                .iter()
                .map(|(entry, chain)| (entry.index, *chain)),
        );
        node.out = Output::default();
        node.replica().campaign_if_alone();
        let life = node.life;
        let first = self.rng.below(TICK);
        self.after(first, Event::Tick { node: id, life });
        self.settle(id);
    }

    pub fn crash(&mut self, id: u64) {
        let share = self.rng.next();
        let node = self.nodes.get_mut(&id).expect("no such node");
        if node.replica.take().is_none() {
            return;
        }
        node.out = Output::default();
        // A prefix of what was on its way has reached the disk.
        let survive = share as usize % (node.disk.pending.len() + 1);
        for (write, chains) in std::mem::take(&mut node.disk.pending)
            .into_iter()
            .take(survive)
        {
            let installed = write
                .install
                .as_ref()
                .map(|i| node.staged[&i.index].clone());
            node.disk.store(write, chains, installed);
        }
        node.disk.syncing = false;
        // The store forgets part of what it had executed, never below what it had made durable.
        let keep = (share >> 32) as usize % (node.recent.len() + 1);
        let survived = keep.checked_sub(1).map(|at| node.recent[at].clone());
        node.state = survived.unwrap_or_else(|| node.durable.clone());
        if node.state.index < node.disk.base.index {
            // An installed snapshot is durable before the log says so.
            node.state = node.disk.base.clone();
        }
        node.durable = node.state.clone();
        node.recent.clear();
        node.queue.clear();
        node.applying = false;
        node.paused = false;
        node.held.clear();
        node.offer = None;
        self.hash = fold(self.hash, fold(id, survive as u64));
    }

    pub fn pause(&mut self, id: u64) {
        self.node(id).paused = true;
    }

    pub fn resume(&mut self, id: u64) {
        let node = self.node(id);
        node.paused = false;
        for (frame, state) in std::mem::take(&mut node.held) {
            self.after(1, Event::Deliver { frame, state });
        }
    }

    /// Cuts the world into a side and the rest.
    pub fn partition(&mut self, side: &[u64]) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for &a in &ids {
            for &b in &ids {
                if side.contains(&a) != side.contains(&b) {
                    self.cut.insert((a, b));
                }
            }
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    // ---- clients ----------------------------------------------------------------------------

    pub fn leader(&self) -> Option<u64> {
        let leaders = self.nodes.values().filter(|node| node.up());
        leaders
            .filter(|node| node.status().role == Role::Leader)
            .max_by_key(|node| node.status().term)
            .map(|node| node.id)
    }

    pub fn fresh_payload(&mut self) -> Bytes {
        self.next_payload += 1;
        Bytes::from(format!("command {}", self.next_payload))
    }

    pub fn propose(&mut self, id: u64) -> Result<Bytes, Refused> {
        let payload = self.fresh_payload();
        let result = self.node(id).replica().propose(payload.clone());
        self.settle(id);
        result.map(|()| payload)
    }

    /// Where a client's command goes in at any member.
    pub fn submit(&mut self, id: u64) {
        let payload = self.fresh_payload();
        let ticket = self.next_payload;
        let replica = self.node(id).replica();
        if let Err(Refused::NotLeader { .. }) = replica.propose(payload.clone()) {
            let _ = replica.forward(ticket, payload);
        }
        self.settle(id);
    }

    pub fn read(&mut self, id: u64) -> u64 {
        self.next_token += 1;
        let token = self.next_token;
        let floor = self.committed.keys().next_back().copied().unwrap_or(0);
        self.floors.insert((id, token), floor);
        self.node(id).replica().read(token);
        self.settle(id);
        token
    }

    pub fn change(&mut self, id: u64, change: &ConfChange) -> Result<(), Refused> {
        let result = self.node(id).replica().propose_conf_change(change);
        self.settle(id);
        result
    }

    /// Makes a snapshot of what is applied, keeps it to offer, and drops the log up to it.
    pub fn snapshot(&mut self, id: u64, keep: u64) {
        let node = self.nodes.get_mut(&id).expect("no such node");
        let state = node.state.clone();
        let Some(replica) = node.replica.as_mut() else {
            return;
        };
        if state.index == 0 || state.index < node.disk.base.index {
            return;
        }
        let membership = replica.membership().clone();
        if membership.index > state.index {
            return; // a snapshot being installed is ahead of the state
        }
        node.durable = state.clone();
        node.recent.clear();
        node.disk.membership = membership.clone();
        let upto = state.index.saturating_sub(keep);
        if upto > node.disk.base.index {
            let drop = (upto - node.disk.base.index) as usize;
            if drop <= node.disk.entries.len() {
                let (entry, chain) = node.disk.entries[drop - 1].clone();
                node.disk.entries.drain(..drop);
                node.disk.base = State {
                    index: entry.index,
                    term: entry.term,
                    chain,
                    ..State::default()
                };
            }
        }
        replica.compact(upto);
        let offer = SnapshotOffer {
            index: state.index,
            term: state.term,
            membership,
        };
        replica.offer_snapshot(offer.clone());
        node.offer = Some(State {
            membership: offer.membership,
            ..state
        });
        self.settle(id);
    }

    // ---- running ----------------------------------------------------------------------------

    pub fn run(&mut self, ticks: u64) {
        let end = self.now + ticks * TICK;
        while let Some((&(at, _), _)) = self.events.first_key_value() {
            if at > end {
                break;
            }
            self.one();
        }
        self.now = end;
    }

    /// Runs until the condition holds; panics after so many ticks.
    pub fn until(&mut self, ticks: u64, what: &str, done: impl Fn(&World) -> bool) {
        let end = self.now + ticks * TICK;
        while !done(self) {
            assert!(
                self.now <= end,
                "seed {}: {what} not within {ticks} ticks",
                self.seed
            );
            self.one();
        }
    }

    pub fn until_leader(&mut self) -> u64 {
        self.until(200, "a settled leader", |world| {
            world
                .leader()
                .is_some_and(|id| world.nodes[&id].status().settled)
        });
        self.leader().expect("just seen")
    }

    fn one(&mut self) {
        let Some(((at, _), event)) = self.events.pop_first() else {
            return;
        };
        self.now = self.now.max(at);
        match event {
            Event::Tick { node: id, life } => {
                let node = self.node(id);
                if node.life != life || node.replica.is_none() {
                    return;
                }
                if !node.paused {
                    let late = node.disk.stalled;
                    node.replica().stalled(late);
                    node.replica().tick();
                    self.settle(id);
                }
                let next = self.rng.between(TICK * 9 / 10, TICK * 11 / 10);
                self.after(next, Event::Tick { node: id, life });
            }
            Event::Deliver { frame, state } => self.deliver(frame, state),
            Event::Synced {
                node: id,
                life,
                number,
            } => {
                let node = self.node(id);
                if node.life != life || node.replica.is_none() {
                    return;
                }
                if node.disk.stalled || node.paused {
                    self.after(
                        TICK,
                        Event::Synced {
                            node: id,
                            life,
                            number,
                        },
                    );
                    return;
                }
                self.synced(id, number);
            }
            Event::Applied { node: id, life } => {
                let node = self.node(id);
                if node.life != life || node.replica.is_none() {
                    return;
                }
                node.applying = false;
                if !node.paused {
                    self.apply(id);
                }
                self.settle(id);
            }
            Event::SnapshotReport {
                node: id,
                life,
                to,
                delivered,
            } => {
                let node = self.node(id);
                if node.life == life && node.replica.is_some() {
                    node.replica().report_snapshot(to, delivered);
                    self.settle(id);
                }
            }
        }
    }

    fn deliver(&mut self, frame: Bytes, state: Option<State>) {
        let message = Message::decode(frame.clone(), &Limits::default()).expect("what we sent");
        let Some(node) = self.nodes.get_mut(&message.to) else {
            return;
        };
        if node.replica.is_none() {
            return;
        }
        if node.paused {
            node.held.push((frame, state));
            return;
        }
        if let Some(state) = state {
            node.staged.insert(state.index, state);
        }
        let id = message.to;
        self.hash = fold(
            self.hash,
            fold(message.kind as u64, fold(message.from, self.now)),
        );
        node.replica().step(message);
        self.settle(id);
    }

    fn synced(&mut self, id: u64, number: u64) {
        let node = self.node(id);
        node.disk.syncing = false;
        while node
            .disk
            .pending
            .front()
            .is_some_and(|(write, _)| write.number <= number)
        {
            let (write, chains) = node.disk.pending.pop_front().expect("front was there");
            let installed = write
                .install
                .as_ref()
                .map(|i| node.staged[&i.index].clone());
            node.disk.store(write, chains, installed.clone());
            if let Some(state) = installed {
                // The store switches once the log says so.
                node.queue.clear();
                node.state = state.clone();
                node.durable = state.clone();
                node.recent.clear();
            }
        }
        node.replica().written(number);
        if node.state.index > node.status().applied {
            let index = node.state.index;
            node.replica().applied(index);
        }
        self.settle(id);
    }

    fn apply(&mut self, id: u64) {
        let many = self.rng.between(1, 8);
        let node = self.nodes.get_mut(&id).expect("no such node");
        for _ in 0..many {
            let Some(entry) = node.queue.pop_front() else {
                break;
            };
            if entry.index <= node.state.index {
                continue; // a snapshot went past it
            }
            assert_eq!(
                entry.index,
                node.state.index + 1,
                "entries are executed in order"
            );
            node.state.index = entry.index;
            node.state.term = entry.term;
            node.state.hash = fold(node.state.hash, digest(&entry));
            node.state.chain = node.chain[&entry.index];
            let seen = *self.states.entry(entry.index).or_insert(node.state.hash);
            assert_eq!(
                seen, node.state.hash,
                "seed {}: states differ at {}",
                self.seed, entry.index
            );
            node.recent.push_back(node.state.clone());
            if node.recent.len() > 50 {
                node.durable = node.recent.pop_front().expect("just counted");
            }
        }
        // While a snapshot waits for the disk the store's own progress means nothing to raft.
        let applied = node.state.index;
        if applied > node.status().applied {
            node.replica().applied(applied);
        }
    }

    /// Polls until there is nothing left to do, and does it.
    pub fn settle(&mut self, id: u64) {
        loop {
            let Some(node) = self.nodes.get_mut(&id) else {
                return;
            };
            let Some(replica) = node.replica.as_mut() else {
                return;
            };
            let mut out = std::mem::take(&mut node.out);
            let busy = replica.poll(&mut out);
            assert!(
                busy || out.is_empty(),
                "poll adds nothing without saying so"
            );
            if !busy {
                node.out = out;
                break;
            }
            self.handle(id, &mut out);
            out.clear();
            self.node(id).out = out;
        }
        self.check_leader(id);
        self.start_disk(id);
        self.start_apply(id);
    }

    fn handle(&mut self, id: u64, out: &mut Output) {
        if let Some(write) = out.write.take() {
            self.take_write(id, write);
        }
        for entry in out.committed.drain(..) {
            self.check_committed(id, &entry);
            self.node(id).queue.push_back(entry);
        }
        for (token, answer) in out.reads.drain(..) {
            self.check_read(id, token, answer);
        }
        for message in out.messages.drain(..) {
            self.check_claims(id, &message);
            self.send(id, &message);
        }
        let node = self.nodes.get_mut(&id).expect("no such node");
        node.forwards.append(&mut out.forwards);
        if let Some(membership) = out.membership.take() {
            assert!(membership.index >= node.disk.membership.index);
            // Sometimes the log hears of it late, or never in this life.
            if self.rng.chance(50) {
                node.disk.membership = membership;
            }
        }
        if let Some(role) = out.role {
            self.hash = fold(self.hash, fold(role.term, fold(id, role.role as u64)));
        }
        node.removed |= out.removed;
        if let Some(failure) = out.failure.take() {
            node.failure = Some(failure);
        }
        if out.snapshot_wanted.is_some() {
            node.snapshots_wanted += 1;
            if self.rng.chance(70) {
                self.snapshot(id, 0);
            }
        }
    }

    fn take_write(&mut self, id: u64, write: Write) {
        let node = self.nodes.get_mut(&id).expect("no such node");
        if let Some((last, _)) = node.disk.pending.back() {
            assert!(write.number > last.number, "writes are numbered upwards");
        }
        if let Some(install) = &write.install {
            let state = &node.staged[&install.index];
            assert_eq!(state.membership.voters, install.membership.voters);
            drop(node.chain.split_off(&state.index));
            node.chain.insert(state.index, state.chain);
        }
        let mut chains = Vec::with_capacity(write.entries.len());
        for entry in &write.entries {
            let before = node.chain[&(entry.index - 1)];
            let chain = fold(before, digest(entry));
            drop(node.chain.split_off(&entry.index));
            node.chain.insert(entry.index, chain);
            chains.push(chain);
            let known = *self
                .chains
                .entry((entry.index, entry.term))
                .or_insert(chain);
            let at = (entry.index, entry.term);
            assert_eq!(known, chain, "seed {}: logs differ up to {at:?}", self.seed);
            // Whoever was elected after the commit must have had the entry. One of an older term
            // may not know yet, or even win its old election only now.
            if let Some(&(_, committed)) = self.committed.get(&entry.index)
                && entry.term > self.committed_in[&entry.index]
            {
                let lost = "a committed entry was replaced";
                assert_eq!(
                    committed,
                    digest(entry),
                    "seed {}: {lost} at {at:?}",
                    self.seed
                );
            }
            self.hash = fold(self.hash, chain);
        }
        let sync = !write.entries.is_empty() || write.install.is_some();
        assert!(write.must_sync || !sync, "entries must be synced");
        node.disk.pending.push_back((write, chains));
    }

    fn start_disk(&mut self, id: u64) {
        let delay = self.rng.between(self.faults.disk.0, self.faults.disk.1);
        let node = self.node(id);
        if node.replica.is_none() || node.disk.syncing {
            return;
        }
        let Some((write, _)) = node.disk.pending.back() else {
            return;
        };
        let (number, life) = (write.number, node.life);
        node.disk.syncing = true;
        self.after(
            delay,
            Event::Synced {
                node: id,
                life,
                number,
            },
        );
    }

    fn start_apply(&mut self, id: u64) {
        let mut delay = self.rng.between(self.faults.apply.0, self.faults.apply.1);
        let node = self.node(id);
        if node.replica.is_none() || node.applying || node.queue.is_empty() {
            return;
        }
        if node.slow_apply {
            delay *= 20;
        }
        node.applying = true;
        let life = node.life;
        self.after(delay, Event::Applied { node: id, life });
    }

    fn send(&mut self, id: u64, message: &Message) {
        assert_eq!(message.from, id);
        let state = (message.kind == Kind::Snapshot).then(|| {
            let offer = self.nodes[&id]
                .offer
                .clone()
                .expect("only what was offered is sent");
            assert_eq!(offer.index, message.index);
            offer
        });
        let mut frame = BytesMut::new();
        message.encode_into(&mut frame);
        let frame = frame.freeze();
        if let Some(record) = &mut self.record {
            record.push(frame.clone());
        }
        let pass = self.filter.as_mut().is_none_or(|filter| filter(message));
        let lost = self.rng.chance(self.faults.loss);
        let cut = self.cut.contains(&(id, message.to));
        let arrives = pass && !lost && !cut;
        if state.is_some() {
            let life = self.nodes[&id].life;
            let delay = self.rng.between(20, 200);
            let (to, delivered) = (message.to, arrives);
            self.after(
                delay,
                Event::SnapshotReport {
                    node: id,
                    life,
                    to,
                    delivered,
                },
            );
        }
        if !arrives {
            return;
        }
        let copies = 1 + u64::from(self.rng.chance(self.faults.double));
        for copy in 0..copies {
            let mut delay = self
                .rng
                .between(self.faults.latency.0, self.faults.latency.1);
            if self.rng.chance(self.faults.tail) || (copy > 0 && self.rng.chance(30)) {
                delay *= 10;
            }
            self.after(
                delay,
                Event::Deliver {
                    frame: frame.clone(),
                    state: state.clone(),
                },
            );
        }
    }

    /// Brings a frame back, as a network that doubles and delays may.
    pub fn inject(&mut self, frame: Bytes) {
        self.deliver(frame, None);
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + delay, self.sequence), event);
    }

    // ---- checks -----------------------------------------------------------------------------

    fn check_leader(&mut self, id: u64) {
        let Some(replica) = self.nodes[&id].replica.as_ref() else {
            return;
        };
        let status = replica.status();
        if status.role == Role::Leader {
            let other = *self.leaders.entry(status.term).or_insert(id);
            assert_eq!(
                other, id,
                "seed {}: two leaders in term {}",
                self.seed, status.term
            );
        }
    }

    fn check_committed(&mut self, id: u64, entry: &Entry) {
        let found = (entry.term, digest(entry));
        let known = *self.committed.entry(entry.index).or_insert(found);
        assert_eq!(
            known, found,
            "seed {}: two entries committed at {}",
            self.seed, entry.index
        );
        let term = self.nodes[&id].status().term;
        self.committed_in.entry(entry.index).or_insert(term);
        let disk = &self.nodes[&id].disk;
        let own = disk.term(entry.index) == Some(entry.term) || entry.index <= disk.base.index;
        assert!(
            own,
            "seed {}: entry {} committed before the write",
            self.seed, entry.index
        );
        if self.fixed_members {
            let has = |node: &&Node| {
                entry.index <= node.disk.base.index
                    || node.disk.term(entry.index) == Some(entry.term)
            };
            let copies = self.nodes.values().filter(has).count();
            assert!(
                2 * copies > self.nodes.len(),
                "seed {}: committed on {copies}",
                self.seed
            );
        }
        if entry.kind == EntryKind::Normal {
            self.executed.insert(entry.payload.to_vec(), entry.index);
        }
    }

    /// A read may not miss anything that anyone knew to be committed when it was asked.
    fn check_read(&mut self, id: u64, token: u64, answer: Result<u64, Refused>) {
        let floor = self.floors.remove(&(id, token)).expect("answered once");
        if let Ok(index) = answer {
            assert!(
                index >= floor,
                "seed {}: stale read: {index} < {floor}",
                self.seed
            );
            self.reads_checked += 1;
        }
        self.hash = fold(self.hash, fold(token, answer.unwrap_or(u64::MAX)));
        self.node(id).reads.insert(token, answer);
    }

    /// Nobody says more than its disk holds.
    fn check_claims(&self, id: u64, message: &Message) {
        let disk = &self.nodes[&id].disk;
        let ahead = match message.kind {
            Kind::PreVote => true,
            Kind::PreVoteAnswer => !message.rejected,
            _ => false,
        };
        let (seed, term, saved) = (self.seed, message.term, disk.hard_state.term);
        assert!(
            ahead || term <= saved,
            "seed {seed}: {id} spoke in unsaved term {term}"
        );
        let (vote, last) = disk.history.get(&term).copied().unwrap_or_default();
        match message.kind {
            Kind::Vote => assert_eq!(vote, id, "seed {seed}: own vote not saved"),
            Kind::VoteAnswer if !message.rejected => {
                assert_eq!(vote, message.to, "seed {seed}: unsaved vote in term {term}");
            }
            Kind::AppendAnswer if !message.rejected => {
                let index = message.index;
                assert!(
                    last >= index,
                    "seed {seed}: {id} acknowledged {index}, had {last}"
                );
            }
            _ => {}
        }
    }

    /// All that run have executed the same, and everything known to be committed.
    pub fn converged(&self) -> bool {
        let Some(&last) = self.committed.keys().next_back() else {
            return false;
        };
        self.nodes
            .values()
            .filter(|node| node.up() && !node.removed)
            .all(|node| node.state.index >= last)
    }
}
