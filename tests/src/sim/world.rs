//! Time, events, and the network between members. One seed gives one course; `hash` is its
//! fingerprint.
//!
//! Time is in microseconds. Everything that happens is an event in one heap; what happens at the same
//! time happens in the order it was scheduled.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use kvnode_api as api;
use kvnode_replica::{Kind, Message, Role};
use kvnode_store::engine::memory::MemoryView;
use kvnode_store::watch::CatchUp;
use kvnode_store::{RequestId, View};
use kvnode_wal::{Entry, EntryKind, Membership};

use super::asks::{Ask, Caller, Reply};
use super::chance::{Chance, fold};
use super::checks::Checks;
use super::clients::Client;
use super::member::{Member, Process, Refusal};
use super::plan::{CALM_NET, MS, Net, Plan, Plant, SECOND, TICK};
use super::watchers::Watcher;
use crate::history::History;

/// A state on its way to a peer.
pub type Snapshot = Rc<View<MemoryView>>;

/// What comes to pass.
pub enum Event {
    /// Concerns one life of a member.
    Of(u64, u64, What),
    /// A message arrives.
    Frame(u64, Bytes, Option<Snapshot>),
    /// A client's question arrives.
    Asked(u64, Caller, Ask),
    /// A watcher wants a stream, or leaves it.
    Watch(u64, usize, u64, api::WatchCreateRequest),
    Unwatch(u64, usize, u64),
    /// A watcher asks how far its stream is.
    Progress(u64, usize, u64),
    Start(u64),
    Resume(u64),
    /// A client hears.
    Answered(Caller, Reply),
    TimedOut(Caller),
    /// A client is done thinking.
    Next(u32),
    /// A watcher hears; with the cost to be reported when it has left the member.
    Told(usize, u64, Box<api::WatchResponse>, usize),
    /// A watcher's stream is broken, or it wants another.
    Broken(usize, u64),
    Restless(usize),
    Nemesis,
}

/// What concerns one life of a member.
pub enum What {
    Tick,
    Expire,
    Maintain,
    Wrote,
    Mark,
    Applied,
    Compact,
    Notify,
    CaughtUp(Box<CatchUp>, View<MemoryView>),
    Sent(u64, bool),
    Left(usize, u64, usize),
}

struct Due {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Sees a message before the network does; false drops it.
pub type Filter = Box<dyn FnMut(&Message) -> bool>;

/// Everything there is.
pub struct World {
    pub plan: Plan,
    pub now: u64,
    pub chance: Chance,
    pub hash: u64,
    pub members: BTreeMap<u64, Member>,
    pub net: Net,
    /// One-way cuts (from, to).
    pub cut: BTreeSet<(u64, u64)>,
    pub filter: Option<Filter>,
    pub clients: Vec<Client>,
    pub watchers: Vec<Watcher>,
    pub history: History,
    pub checks: Checks,
    /// Clients begin nothing new.
    pub closing: bool,
    /// Answers to what scenarios asked by hand.
    pub heard: BTreeMap<u64, Reply>,
    pub asked: BTreeMap<u64, (u64, Ask)>,
    /// Who is behind a command, and what executing it answered, heard or not.
    pub askers: BTreeMap<RequestId, Caller>,
    pub truth: BTreeMap<Caller, Reply>,
    /// Operations in the history whose caller heard nothing.
    pub unheard: Vec<(Caller, usize)>,
    pub next_number: u64,
    pub next_value: u64,
    pub next_lease: i64,
    heap: BinaryHeap<Reverse<Due>>,
    order: u64,
}

impl World {
    /// The founding members start at once.
    pub fn new(plan: Plan) -> World {
        let voters: Vec<u64> = (1..=plan.members).collect();
        let first = Membership {
            voters: voters.clone(),
            ..Membership::default()
        };
        let mut world = World {
            now: 0,
            chance: Chance::new(plan.seed),
            hash: 0,
            members: BTreeMap::new(),
            net: plan.net,
            cut: BTreeSet::new(),
            filter: None,
            clients: Vec::new(),
            watchers: Vec::new(),
            history: History::default(),
            checks: Checks::default(),
            closing: false,
            heard: BTreeMap::new(),
            asked: BTreeMap::new(),
            askers: BTreeMap::new(),
            truth: BTreeMap::new(),
            unheard: Vec::new(),
            next_number: 0,
            next_value: 0,
            next_lease: 0,
            heap: BinaryHeap::new(),
            order: 0,
            plan,
        };
        for id in voters {
            world.add(id, first.clone());
        }
        world
    }

    /// A member with an empty disk that was told of this membership.
    pub fn add(&mut self, id: u64, first: Membership) {
        let rate = self.chance.between(self.plan.rates);
        let member = Member::new(id, &self.plan, first, rate);
        self.members.insert(id, member);
        self.start(id);
    }

    pub fn after(&mut self, delay: u64, event: Event) {
        self.order += 1;
        let due = Due {
            at: self.now + delay,
            order: self.order,
            event,
        };
        self.heap.push(Reverse(due));
    }

    pub fn after_of(&mut self, id: u64, life: u64, delay: u64, what: What) {
        self.after(delay, Event::Of(id, life, what));
    }

    // ---- running ----------------------------------------------------------------------------

    /// Runs for so long; stops early at a violation.
    pub fn run(&mut self, time: u64) {
        let end = self.now + time;
        while self.checks.violation.is_none() {
            if !self.step(end) {
                self.now = end;
                return;
            }
        }
    }

    /// Runs until the condition holds; false if it does not within the time.
    pub fn until(&mut self, time: u64, done: impl Fn(&World) -> bool) -> bool {
        let end = self.now + time;
        while !done(self) {
            if self.checks.violation.is_some() || !self.step(end) {
                return false;
            }
        }
        true
    }

    fn step(&mut self, end: u64) -> bool {
        match self.heap.peek() {
            Some(Reverse(due)) if due.at <= end => {}
            _ => return false,
        }
        let Some(Reverse(due)) = self.heap.pop() else {
            return false;
        };
        self.now = self.now.max(due.at);
        self.checks.counts.events += 1;
        self.happen(due.event);
        true
    }

    fn happen(&mut self, event: Event) {
        let concerns = match &event {
            Event::Of(id, ..)
            | Event::Frame(id, ..)
            | Event::Asked(id, ..)
            | Event::Watch(id, ..)
            | Event::Unwatch(id, ..)
            | Event::Progress(id, ..) => Some(*id),
            _ => None,
        };
        if let Some(member) = concerns.and_then(|id| self.members.get_mut(&id))
            && member.paused
        {
            member.held.push(event);
            return;
        }
        match event {
            Event::Of(id, life, what) => self.of(id, life, what),
            Event::Frame(id, frame, state) => self.deliver(id, frame, state),
            Event::Asked(id, caller, ask) => self.serve(id, caller, ask),
            Event::Watch(id, watcher, session, request) => {
                self.open_stream(id, watcher, session, &request)
            }
            Event::Unwatch(id, watcher, session) => self.close_stream(id, watcher, session),
            Event::Progress(id, watcher, session) => self.stream_progress(id, watcher, session),
            Event::Start(id) => self.start(id),
            Event::Resume(id) => self.resume(id),
            Event::Answered(caller, reply) => self.answered(caller, reply),
            Event::TimedOut(caller) => self.answered(caller, Reply::Unknown),
            Event::Next(client) => self.next_of(client),
            Event::Told(watcher, session, response, cost) => {
                self.told(watcher, session, *response, cost)
            }
            Event::Broken(watcher, session) => self.broken(watcher, session),
            Event::Restless(watcher) => self.restless(watcher),
            Event::Nemesis => self.nemesis(),
        }
    }

    /// A line of the story, if somebody wants to hear it.
    pub fn say(&self, line: impl FnOnce() -> String) {
        if self.plan.verbose {
            println!("{:>10} {}", self.now, line());
        }
    }

    // ---- lives ------------------------------------------------------------------------------

    pub fn start(&mut self, id: u64) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if member.process.is_some() || !member.usable() {
            return;
        }
        member.life += 1;
        let life = member.life;
        let now_ms = self.now / 1000;
        match member.open(&self.plan, &mut self.checks, now_ms) {
            Ok(process) => {
                member.process = Some(Box::new(process));
                self.hash = fold(self.hash, fold(id, life));
                self.say(|| {
                    let process = self.process(id).expect("just started");
                    let (status, applied) = (process.replica.status(), process.store.applied());
                    format!("{id} starts life {life}: {status:?}, store at {applied:?}")
                });
                let first = self.chance.below(TICK);
                self.after_of(id, life, first, What::Tick);
                self.after_of(id, life, 500 * MS, What::Expire);
                self.after_of(id, life, self.plan.odd.persist, What::Maintain);
                self.after_of(id, life, 300 * MS, What::Notify);
                self.with(id, |_, _, process| process.replica.campaign_if_alone());
            }
            Err(Refusal::Later(why)) => {
                if self.plan.verbose {
                    println!("{:>10} {id} cannot start now: {why}", self.now);
                }
                // What was begun may be half there, as after a crash.
                member.disk.heal();
                member.disk.lose_power();
                let delay = self.chance.between(self.plan.restart);
                self.after(delay.max(100 * MS), Event::Start(id));
            }
            Err(Refusal::Never(why)) => {
                self.checks.counts.refusals += 1;
                let damaged = member.damaged.is_some();
                self.checks.demand(damaged, || {
                    format!("{id} refuses to start, undamaged: {why}")
                });
                let member = self.members.get_mut(&id).expect("just seen");
                member.dead = Some(why);
                self.hash = fold(self.hash, fold(id, 0xdead));
            }
        }
    }

    /// The process ends in the middle of whatever it does. With `power` the machine does, and what
    /// was not synced is there or not.
    pub fn crash(&mut self, id: u64, power: bool) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let cut = self.chance.below(8);
        let mut broken = Vec::new();
        if let Some(mut process) = member.process.take() {
            self.checks.counts.crashes += 1;
            if process.writing {
                member.loose = process.loose();
                member.disk.fail_after(cut, super::disk::Fault::Stop);
                // How far it got is what the disk knows.
                let _ = process.perform(self.now / 1000);
            }
            let asked = process.reads.values().map(|waiting| waiting.caller);
            let parked = process.parked.iter().map(|(_, waiting)| waiting.caller);
            let callers: Vec<Caller> = process
                .pending
                .values()
                .copied()
                .chain(asked)
                .chain(parked)
                .collect();
            let sessions: Vec<_> = process
                .sessions
                .values()
                .map(|s| (s.watcher, s.session))
                .collect();
            broken.extend(
                callers
                    .into_iter()
                    .map(|caller| Event::Answered(caller, Reply::Unknown)),
            );
            broken.extend(
                sessions
                    .into_iter()
                    .map(|(watcher, session)| Event::Broken(watcher, session)),
            );
        }
        member.disk.heal();
        member.paused = false;
        let held = std::mem::take(&mut member.held);
        if power {
            self.checks.counts.power_cuts += 1;
            member.disk.lose_power();
        }
        // The engine's memory goes with the process: what it did not persist it had from the log.
        let keep = self.chance.below(member.engine.unpersisted() as u64 + 1);
        member.engine.power_cut(keep as usize);
        for event in held {
            match event {
                Event::Asked(_, caller, _) => broken.push(Event::Answered(caller, Reply::Unknown)),
                Event::Watch(_, watcher, session, _) => {
                    broken.push(Event::Broken(watcher, session))
                }
                _ => {}
            }
        }
        self.hash = fold(self.hash, fold(id, cut));
        self.say(|| format!("{id} crashes, power cut: {power}"));
        for event in broken {
            self.after(MS, event);
        }
    }

    pub fn pause(&mut self, id: u64) {
        if let Some(member) = self.members.get_mut(&id)
            && member.process.is_some()
        {
            self.checks.counts.pauses += 1;
            member.paused = true;
        }
    }

    pub fn resume(&mut self, id: u64) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        member.paused = false;
        for event in std::mem::take(&mut member.held) {
            let delay = self.chance.below(50);
            self.after(delay, event);
        }
    }

    /// Cuts the members of one side off from all others, both ways.
    pub fn partition(&mut self, side: &[u64]) {
        self.checks.counts.partitions += 1;
        self.say(|| format!("cut off: {side:?}"));
        let ids: Vec<u64> = self.members.keys().copied().collect();
        for &a in &ids {
            for &b in &ids {
                if side.contains(&a) != side.contains(&b) {
                    self.cut.insert((a, b));
                }
            }
        }
    }

    /// Lets something happen inside a process, then whatever follows from it.
    pub fn with(&mut self, id: u64, act: impl FnOnce(&mut World, &mut Member, &mut Process)) {
        let Some(mut member) = self.members.remove(&id) else {
            return;
        };
        if let Some(mut process) = member.process.take() {
            act(self, &mut member, &mut process);
            // Others may look at this member meanwhile, for what its disk holds.
            self.members.insert(id, member);
            let ended = self.settle(id, &mut process);
            let member = self.members.get_mut(&id).expect("just put there");
            if !ended {
                member.process = Some(process);
                return;
            }
            member.process = Some(process);
            self.crash(id, false);
            let member = self.members.get_mut(&id).expect("just put there");
            if member.usable() {
                let delay = self.chance.between(self.plan.restart);
                self.after(delay, Event::Start(id));
            }
        } else {
            self.members.insert(id, member);
        }
    }

    // ---- the network ------------------------------------------------------------------------

    pub fn send(&mut self, life: u64, message: &Message, state: Option<Snapshot>) {
        let (from, to) = (message.from, message.to);
        let pass = self.filter.as_mut().is_none_or(|filter| filter(message));
        let lost = self.chance.permille(self.net.loss);
        let arrives = pass && !lost && !self.cut.contains(&(from, to));
        let mut delay = self.latency();
        if state.is_some() {
            delay = self.chance.between(self.net.snapshot);
            let extra = self.chance.below(20 * MS);
            self.after_of(from, life, delay + extra, What::Sent(to, arrives));
        }
        if !arrives {
            return;
        }
        let mut frame = BytesMut::with_capacity(message.encoded_len());
        message.encode_into(&mut frame);
        let frame = frame.freeze();
        let twice = self.chance.permille(self.net.double);
        if twice {
            let late = self.chance.below(2 * SECOND);
            self.after(delay + late, Event::Frame(to, frame.clone(), state.clone()));
        }
        if self.plan.has(Plant::AnswerBeforeQuorum) && message.kind == Kind::Append {
            self.forge(message);
        }
        self.after(delay, Event::Frame(to, frame, state));
    }

    /// The defect that counts what was sent as held.
    fn forge(&mut self, append: &Message) {
        let Some(last) = append.entries.last() else {
            return;
        };
        let answer = Message {
            kind: Kind::AppendAnswer,
            from: append.to,
            to: append.from,
            index: last.index,
            log_term: 0,
            entries: Vec::new(),
            ..append.clone()
        };
        let mut frame = BytesMut::new();
        answer.encode_into(&mut frame);
        self.after(10, Event::Frame(append.from, frame.freeze(), None));
    }

    pub fn latency(&mut self) -> u64 {
        let usual = self.chance.between(self.net.latency);
        if !self.chance.permille(self.net.tail) {
            return usual;
        }
        let far = if self.chance.percent(10) { 100 } else { 10 };
        (usual * far).min(3 * SECOND)
    }

    // ---- looks ------------------------------------------------------------------------------

    /// The leader of the highest term.
    pub fn leader(&self) -> Option<u64> {
        let up = self.members.values().filter(|member| member.up());
        let leading = up.filter_map(|member| {
            let status = member.process.as_ref()?.replica.status();
            (status.role == Role::Leader).then_some((status.term, member.id))
        });
        leading.max().map(|(_, id)| id)
    }

    /// A leader that has committed in its term.
    pub fn settled_leader(&self) -> Option<u64> {
        let id = self.leader()?;
        self.process(id)?.replica.status().settled.then_some(id)
    }

    pub fn process(&self, id: u64) -> Option<&Process> {
        self.members.get(&id)?.process.as_deref()
    }

    pub fn applied(&self, id: u64) -> u64 {
        self.process(id)
            .map_or(0, |process| process.store.applied().0)
    }

    /// The membership as the leader knows it, or anybody.
    pub fn membership(&self) -> Membership {
        let known = self
            .members
            .values()
            .filter_map(|member| member.process.as_ref());
        let leader = self.leader().and_then(|id| self.process(id));
        let newest = known.max_by_key(|process| process.replica.membership().index);
        match (leader, newest) {
            (Some(process), _) => process.replica.membership().clone(),
            (None, Some(process)) => process.replica.membership().clone(),
            (None, None) => Membership::default(),
        }
    }

    pub fn calm(&mut self) {
        self.net = CALM_NET;
        self.cut.clear();
    }

    /// Notes an entry in the fingerprint.
    pub fn note(&mut self, id: u64, entry: &Entry) {
        let kind = match entry.kind {
            EntryKind::Normal => 0,
            EntryKind::ConfChange => 1,
            EntryKind::Empty => 2,
        };
        self.hash = fold(self.hash, fold(id, fold(kind, fold(entry.index, self.now))));
    }
}
