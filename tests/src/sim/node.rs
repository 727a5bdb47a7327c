//! What a running member does: the composition of replica, log, store and watches, step by step as
//! the node does it on its threads.

use std::sync::Arc;

use bytes::Bytes;
use kvnode_api as api;
use kvnode_replica::{Kind, Limits, Message, Output, Refused, Role, SnapshotOffer, Write};
use kvnode_store::engine::{Engine as _, Persister as _};
use kvnode_store::lease_clock::Renewal;
use kvnode_store::recent::RecentChanges;
use kvnode_store::{Change, Command, Committed, Header, LeaseChange, RequestId, import};
use kvnode_wal::Error;
use prost::Message as _;

use super::asks::{self, Ask, Caller, Reply};
use super::chance::{fold, fold_bytes};
use super::member::{Job, Member, Process, Waiting, command_of};
use super::plan::{ELECTION_TICKS, MS, Plant, TICK};
use super::world::{Event, Snapshot, What, World};
use crate::history::{Answer, Operation, Outcome, Request};

/// Whole states are compared at multiples of this index.
const COMPARE_EVERY: u64 = 64;
/// Recorded as the client of what members ask for by themselves.
const NOBODY: u32 = u32::MAX;

impl World {
    pub(super) fn of(&mut self, id: u64, life: u64, what: What) {
        if self
            .members
            .get(&id)
            .is_none_or(|member| member.life != life || member.process.is_none())
        {
            return;
        }
        match what {
            What::Tick => self.tick(id),
            What::Expire => self.expire(id),
            What::Maintain => self.maintain(id),
            What::Wrote => self.wrote(id),
            What::Mark => self.mark(id),
            What::Applied => self.apply(id),
            What::Compact => self.compact(id),
            What::Notify => self.notify_progress(id),
            What::CaughtUp(wanted, view) => self.caught_up(id, &wanted, &view),
            What::Sent(to, delivered) => {
                self.with(id, |_, _, process| {
                    process.replica.report_snapshot(to, delivered)
                });
            }
            What::Left(watcher, session, cost) => self.left(id, watcher, session, cost),
        }
    }

    fn tick(&mut self, id: u64) {
        self.with(id, |world, member, process| {
            let now = world.now;
            let patience = ELECTION_TICKS * TICK;
            let late = process.oldest_write.is_some_and(|at| now - at > patience);
            process.replica.stalled(late);
            process.replica.tick();
            let length = TICK * 100 / member.rate;
            let jitter = world.chance.below(length / 50);
            world.after_of(id, process.life, length + jitter, What::Tick);
        });
    }

    pub(super) fn deliver(&mut self, id: u64, frame: Bytes, state: Option<Snapshot>) {
        let message = match Message::decode(frame, &Limits::default()) {
            Ok(message) => message,
            Err(error) => {
                return self
                    .checks
                    .fail(format!("a member's message does not decode: {error}"));
            }
        };
        self.hash = fold(
            self.hash,
            fold(message.kind as u64, fold(message.from, self.now)),
        );
        self.with(id, |world, member, process| {
            if let Some(view) = state {
                world.stage(member, &view);
            }
            process.replica.step(message);
        });
    }

    /// Takes a state in whole, verified and durable, before raft hears of it.
    fn stage(&mut self, member: &mut Member, view: &Snapshot) {
        match import::into_memory(view.export()) {
            Ok((engine, _)) => {
                let disk = engine.disk();
                disk.remember_commits();
                member.staged.insert(view.applied_index(), disk);
            }
            Err(error) => self
                .checks
                .fail(format!("an exported state does not import: {error}")),
        }
    }

    // ---- the replica ------------------------------------------------------------------------

    /// Lets raft say all it has to say. True if the process must end.
    pub(super) fn settle(&mut self, id: u64, process: &mut Process) -> bool {
        let mut out = std::mem::take(&mut process.out);
        let mut ended = false;
        loop {
            while process.replica.poll(&mut out) {
                ended |= self.handle(id, process, &mut out);
                out.clear();
            }
            if !self.start_disk(id, process) {
                break;
            }
        }
        process.out = out;
        let status = process.replica.status();
        if status.role == Role::Leader {
            self.checks.leads(id, status.term);
        }
        self.lead(id, process);
        self.start_apply(id, process);
        ended
    }

    fn handle(&mut self, id: u64, process: &mut Process, out: &mut Output) -> bool {
        if let Some(mut write) = out.write.take() {
            self.say(|| {
                let places: Vec<_> = write.entries.iter().map(|e| (e.index, e.term)).collect();
                format!(
                    "{id} writes {} {places:?} {:?} install {:?}",
                    write.number, write.hard_state, write.install
                )
            });
            self.checks.write(id, &write);
            for entry in &write.entries {
                self.note(id, entry);
            }
            if self.plan.has(Plant::ForgetVote)
                && let Some(hard) = &mut write.hard_state
            {
                hard.vote = 0;
            }
            process.oldest_write = process.oldest_write.or(write.must_sync.then_some(self.now));
            process.jobs.push_back(Job::Write(write));
        }
        let term = process.replica.status().term;
        for entry in out.committed.drain(..) {
            self.say(|| {
                format!(
                    "{id} knows {} of term {} committed",
                    entry.index, entry.term
                )
            });
            self.checks
                .committed(id, term, &entry, &self.members, process);
            process.queue.push_back(entry);
        }
        for (token, result) in out.reads.drain(..) {
            self.confirmed(id, process, token, result);
        }
        for (ticket, result) in out.forwards.drain(..) {
            if let Err(refused) = result
                && let Some(caller) = process.pending.remove(&ticket)
            {
                self.answer(caller, Reply::refused(&refused.to_string()));
            }
        }
        for message in out.messages.drain(..) {
            self.checks.claims(&self.members[&id], &message);
            let mut state = None;
            if message.kind == Kind::Snapshot {
                state = process
                    .offers
                    .get(&message.index)
                    .cloned()
                    .map(Snapshot::new);
                self.checks.counts.snapshots += 1;
                self.checks.demand(state.is_some(), || {
                    format!("{id} announces a snapshot nobody offered")
                });
            }
            self.send(process.life, &message, state);
        }
        if let Some(membership) = &out.membership {
            self.say(|| format!("{id} has {membership:?}"));
            let before = std::mem::replace(&mut process.voting, membership.clone());
            process.voted = Some((before, process.replica.status().commit));
        }
        if let Some(role) = &out.role {
            self.say(|| format!("{id} is {role:?}"));
        }
        if let Some(membership) = out.membership.take()
            && let Err(error) = process.log.set_membership(membership)
        {
            self.checks
                .fail(format!("the log refuses a membership: {error}"));
        }
        if out.snapshot_wanted.is_some() {
            self.offer(process);
        }
        if let Some(failure) = out.failure.take() {
            let member = self.members.get_mut(&id).expect("present");
            let damaged = member.damaged.is_some();
            member.dead = Some(failure.to_string());
            self.checks
                .demand(damaged, || format!("{id} stops, undamaged: {failure}"));
            return true;
        }
        if out.removed {
            self.members.get_mut(&id).expect("present").removed = true;
            return true;
        }
        false
    }

    fn offer(&mut self, process: &mut Process) {
        let view = process.store.view();
        let membership = process.replica.membership().clone();
        let index = view.applied_index();
        // While a snapshot is being installed the membership is ahead of the state.
        if index == 0 || membership.index > index || index > process.replica.status().applied {
            return;
        }
        let term = view.applied_term();
        process.replica.offer_snapshot(SnapshotOffer {
            index,
            term,
            membership,
        });
        process.offers.insert(index, view);
        while process.offers.len() > 3 {
            process.offers.pop_first();
        }
    }

    /// The lease clock runs where raft leads.
    fn lead(&mut self, id: u64, process: &mut Process) {
        let status = process.replica.status();
        let leads = status.leader == Some(id);
        let now = (status.term, leads);
        if now == process.led {
            return;
        }
        let led = std::mem::replace(&mut process.led, now).1;
        let now_ms = self.members[&id].clock_ms(self.now);
        if leads && !led {
            let extra_ms = ELECTION_TICKS * TICK / 1000;
            match process.store.view().leases() {
                Ok(leases) => {
                    let leases = leases
                        .into_iter()
                        .map(|lease| (lease.id, lease.ttl, lease.remaining));
                    process.clock.promote(now_ms, extra_ms, leases);
                }
                Err(status) => self
                    .checks
                    .fail(format!("leases cannot be read: {status:?}")),
            }
        } else if led && !leads && !self.plan.has(Plant::EveryClockExpires) {
            process.clock.demote();
        }
    }

    // ---- the disk ---------------------------------------------------------------------------

    /// True if raft was told something meanwhile.
    fn start_disk(&mut self, id: u64, process: &mut Process) -> bool {
        if process.writing || process.jobs.is_empty() {
            return false;
        }
        process.writing = true;
        process.taken = process.jobs.len();
        let stalled = self.members[&id].stalled_until.saturating_sub(self.now);
        let delay = self.chance.between(self.plan.disk).max(stalled);
        self.after_of(id, process.life, delay, What::Wrote);
        if self.plan.has(Plant::AnswerBeforeSync) {
            let last = process.jobs.iter().rev().find_map(|job| match job {
                Job::Write(write) if write.install.is_none() => Some(write.number),
                _ => None,
            });
            if let Some(number) = last.filter(|number| *number > process.reported) {
                process.reported = number;
                process.replica.written(number);
                return true;
            }
        }
        false
    }

    fn wrote(&mut self, id: u64) {
        let stalled = self.members[&id].stalled_until.saturating_sub(self.now);
        let mut fatal = false;
        self.with(id, |world, member, process| {
            if stalled > 0 {
                world.after_of(id, process.life, stalled, What::Wrote);
                return;
            }
            let (done, error) = match process.perform(world.now / 1000) {
                Ok(done) => (done, None),
                Err((done, error)) => (done, Some(error)),
            };
            world.written(member, process, done);
            match error {
                None => {
                    process.writing = false;
                    if process.jobs.is_empty() {
                        process.oldest_write = None;
                        world.after_of(id, process.life, 20 * MS, What::Mark);
                    } else {
                        process.oldest_write = Some(world.now);
                    }
                }
                Some(Error::NoSpace { .. }) => {
                    world.after_of(id, process.life, 500 * MS, What::Wrote)
                }
                Some(Error::Io { .. } | Error::ShortWrite { .. } | Error::Poisoned { .. }) => {
                    member.loose = process.loose();
                    fatal = true;
                }
                Some(error) => world.checks.fail(format!("the log of {id} fails: {error}")),
            }
        });
        if fatal {
            // A failed write or sync ends the process; the next one reads what the disk has.
            self.crash(id, false);
            let delay = self.chance.between(self.plan.restart);
            self.after(delay, Event::Start(id));
        }
    }

    fn written(&mut self, member: &mut Member, process: &mut Process, done: Vec<Write>) {
        let Some(last) = done.last().map(|write| write.number) else {
            return;
        };
        for write in done {
            self.checks.durable(&mut process.chain, member.id, &write);
            if let Err(text) = member.shadow.take(&write) {
                self.checks.fail(format!("member {}: {text}", member.id));
            }
            if let Some(install) = write.install {
                self.install(member, process, install.index);
            }
        }
        if last > process.reported {
            process.reported = last;
            process.replica.written(last);
        }
        let index = process.store.applied().0;
        if index > process.replica.status().applied {
            process.replica.applied(index);
        }
        self.serve_parked(member, process);
    }

    /// The log says so: the staged state takes the store's place.
    fn install(&mut self, member: &mut Member, process: &mut Process, index: u64) {
        if index <= process.store.applied().0 {
            return self.checks.fail(format!(
                "{} installs {index}, behind its own state",
                member.id
            ));
        }
        let Some(staged) = member.staged.remove(&index) else {
            return self.checks.fail(format!(
                "{} installs {index}, which was not staged",
                member.id
            ));
        };
        member.engine = staged;
        member.staged.retain(|at, _| *at > index);
        match member.store(&self.plan) {
            Ok(store) => process.store = store,
            Err(error) => {
                return self
                    .checks
                    .fail(format!("a staged state does not open: {error:?}"));
            }
        }
        process.queue.clear();
        process.offers.clear();
        process.compacting = true;
        let view = process.store.view();
        self.compare(member.id, process);
        process.ring = RecentChanges::new(self.plan.odd.ring_bytes, view.revision());
        if !self.plan.has(Plant::WatchesMissSnapshot) {
            process.watches.jump(view.revision());
        }
        self.deliver_compaction(member.id, process);
        self.catch_up(member.id, process);
        self.hash = fold(self.hash, fold(member.id, index));
    }

    fn mark(&mut self, id: u64) {
        let mut failed = false;
        self.with(id, |world, _, process| {
            if !process.writing && process.jobs.is_empty() && process.log.mark_is_due() {
                failed = process.log.mark(world.now / 1000).is_err();
            }
        });
        if failed {
            self.crash(id, false);
            let delay = self.chance.between(self.plan.restart);
            self.after(delay, Event::Start(id));
        }
    }

    fn maintain(&mut self, id: u64) {
        self.with(id, |world, _, process| {
            world.after_of(id, process.life, world.plan.odd.persist, What::Maintain);
            let (applied, term) = process.store.applied();
            let reported = process.replica.status().applied;
            if applied == 0
                || applied > reported
                || process.store.engine().persister().persist().is_err()
            {
                return;
            }
            let membership = process.replica.membership().clone();
            if membership.index <= applied {
                process.jobs.push_back(Job::Purge {
                    upto: applied,
                    term,
                    membership,
                });
            }
            process
                .replica
                .compact(applied.saturating_sub(world.plan.odd.tail_entries));
            // Some offers are made before anybody asks.
            if world.chance.percent(20) {
                world.offer(process);
            }
        });
    }

    // ---- the store --------------------------------------------------------------------------

    fn start_apply(&mut self, id: u64, process: &mut Process) {
        if process.applying || process.queue.is_empty() {
            return;
        }
        process.applying = true;
        let slow = if self.members[&id].slow_apply { 20 } else { 1 };
        let delay = self.chance.between(self.plan.apply) * slow;
        self.after_of(id, process.life, delay, What::Applied);
    }

    fn apply(&mut self, id: u64) {
        self.with(id, |world, member, process| {
            process.applying = false;
            let mut batch = Vec::new();
            while batch.len() < world.plan.odd.apply_batch
                && let Some(entry) = process.queue.pop_front()
            {
                let command = command_of(&entry);
                batch.push(Committed {
                    index: entry.index,
                    term: entry.term,
                    command,
                });
                if entry.index % COMPARE_EVERY == 0 {
                    break;
                }
            }
            let step = match process.store.apply(&batch) {
                Ok(step) => step,
                Err(error) => return world.checks.fail(format!("{id} cannot apply: {error}")),
            };
            world.checks.counts.applied += batch.len() as u64;
            world.checks.changed(id, &step.changes);
            let mut replies = Vec::new();
            for reply in step.replies {
                if reply.result.is_ok() && reply.request.sequence == 0 {
                    let entry = batch.iter().find(|entry| entry.index == reply.index);
                    world.lease_ended(reply.request, entry);
                }
                let answer = fold_bytes(0, format!("{:?}", reply.result).as_bytes());
                world.checks.executed(reply.index, reply.request, answer);
                if let Some(caller) = world.askers.remove(&reply.request) {
                    let told = asks::reply(reply.result.clone(), |header| {
                        header.get_or_insert_default();
                    });
                    world.truth.insert(caller, told);
                }
                let RequestId {
                    member,
                    incarnation,
                    sequence,
                } = reply.request;
                if (member, incarnation) == (id, process.life)
                    && let Some(caller) = process.pending.remove(&sequence)
                {
                    replies.push((caller, reply.result));
                }
            }
            let (index, _) = process.store.applied();
            if index % COMPARE_EVERY == 0 {
                world.compare(id, process);
            }
            if index > process.replica.status().applied {
                process.replica.applied(index);
            }
            world.leases_changed(member, process, &step.lease_changes);
            world.hand_out(id, process, &step.changes);
            for (caller, result) in replies {
                let reply = asks::reply(result, |header| fill(header, id, process));
                world.answer(caller, reply);
            }
            world.serve_parked(member, process);
            if process.compacting && process.queue.is_empty() {
                world.after_of(id, process.life, 10 * MS, What::Compact);
            }
        });
    }

    fn compare(&mut self, id: u64, process: &Process) {
        let view = process.store.view();
        match view.hash() {
            Ok(answer) => self
                .checks
                .state(id, view.applied_index(), answer.hash, view.revision()),
            Err(status) => self
                .checks
                .fail(format!("{id} cannot hash its state: {status:?}")),
        }
    }

    /// Compares this member's whole state now.
    pub fn compare_now(&mut self, id: u64) {
        self.with(id, |world, _, process| world.compare(id, process));
    }

    /// A command nobody asked for was executed: the end of a lease.
    fn lease_ended(&mut self, by: RequestId, entry: Option<&Committed>) {
        let command = entry.and_then(|entry| Command::decode(entry.command.clone()).ok());
        let message = command.map(|command| command.message).unwrap_or_default();
        if let Ok(request) = api::LeaseRevokeRequest::decode(message) {
            let rate_max = self.plan.rates.1;
            self.checks
                .ended((by.member, by.incarnation), request.id, rate_max);
        }
    }

    fn leases_changed(&mut self, member: &Member, process: &mut Process, changes: &[LeaseChange]) {
        let now_ms = member.clock_ms(self.now);
        if self.plan.has(Plant::EveryClockExpires) && !process.clock.is_running() {
            process.clock.promote(now_ms, 0, std::iter::empty());
        }
        for change in changes {
            match *change {
                LeaseChange::Granted { id, ttl } => process.clock.granted(id, ttl, now_ms),
                LeaseChange::Revoked { id } => process.clock.revoked(id),
                LeaseChange::Checkpointed { .. } => {}
            }
        }
    }

    fn hand_out(&mut self, id: u64, process: &mut Process, changes: &Arc<Vec<Change>>) {
        process.ring.push(changes);
        process.compacting = true;
        let mut deliveries = Vec::new();
        process.watches.deliver(changes, &mut deliveries);
        self.send_deliveries(id, process, deliveries);
        self.deliver_compaction(id, process);
        self.catch_up(id, process);
    }

    fn compact(&mut self, id: u64) {
        self.with(id, |world, _, process| {
            if !process.queue.is_empty() {
                return;
            }
            match process.store.compact_some() {
                Ok(true) => world.after_of(id, process.life, 10 * MS, What::Compact),
                Ok(false) => process.compacting = false,
                Err(error) => world.checks.fail(format!("{id} cannot compact: {error}")),
            }
        });
    }

    // ---- leases -----------------------------------------------------------------------------

    fn expire(&mut self, id: u64) {
        self.with(id, |world, member, process| {
            world.after_of(id, process.life, 500 * MS * 100 / member.rate, What::Expire);
            let now_ms = member.clock_ms(world.now);
            for lease in process.clock.take_expired(now_ms, 500) {
                let payload = own_command(id, process.life, &asks::revoke(lease));
                let plant = world.plan.has(Plant::EveryClockExpires);
                let proposed = match process.replica.propose(payload.clone()) {
                    Err(Refused::NotLeader { .. }) if plant => process.replica.forward(0, payload),
                    other => other,
                };
                match proposed {
                    Ok(()) => {
                        world.checks.expires((id, process.life), lease, world.now);
                        world.history.operations.push(Operation {
                            client: NOBODY,
                            called: world.now,
                            returned: world.now,
                            request: Request::Revoke(lease),
                            outcome: Outcome::Unknown,
                        });
                    }
                    Err(_) => process.clock.retry(lease),
                }
            }
        });
    }

    // ---- questions --------------------------------------------------------------------------

    pub(super) fn serve(&mut self, id: u64, caller: Caller, ask: Ask) {
        if self
            .members
            .get(&id)
            .is_none_or(|member| member.process.is_none())
        {
            return self.answer(caller, Reply::refused("connection refused"));
        }
        self.with(id, |world, member, process| {
            if process.store.applied().0 < process.serves_from {
                return world.answer(caller, Reply::refused("not ready"));
            }
            if let Some((kind, message)) = asks::command(&ask) {
                process.next_sequence += 1;
                let sequence = process.next_sequence;
                let request = RequestId {
                    member: id,
                    incarnation: process.life,
                    sequence,
                };
                let header = Header {
                    request,
                    ..Header::default()
                };
                let payload = Command::encode(kind, &header, &message);
                let proposed = match process.replica.propose(payload.clone()) {
                    Err(Refused::NotLeader { .. }) => {
                        if world.plan.has(Plant::ForwardAgain) && world.chance.percent(10) {
                            let _ = process.replica.forward(0, payload.clone());
                        }
                        process.replica.forward(sequence, payload)
                    }
                    other => other,
                };
                match proposed {
                    Ok(()) => {
                        world.askers.insert(request, caller);
                        process.pending.insert(sequence, caller);
                    }
                    Err(refused) => world.answer(caller, Reply::refused(&refused.to_string())),
                }
                return;
            }
            let waiting = Waiting { caller, ask };
            let anyhow = match &waiting.ask {
                Ask::Kv(Request::Range(range)) => range.serializable,
                Ask::Kv(Request::Txn(txn)) => api::check::txn_is_serializable(txn),
                Ask::KeepAlive(_) => world.plan.has(Plant::KeepaliveWithoutQuorum),
                _ => false,
            };
            let applied = process.store.applied().0;
            let current = process
                .replica
                .read_now()
                .is_some_and(|index| index <= applied);
            if anyhow || current || world.plan.has(Plant::ReadWithoutIndex) {
                return world.look(member, process, waiting);
            }
            process.next_token += 1;
            process.reads.insert(process.next_token, waiting);
            process.replica.read(process.next_token);
        });
    }

    /// Raft has an index for a read, or none.
    fn confirmed(
        &mut self,
        id: u64,
        process: &mut Process,
        token: u64,
        result: Result<u64, Refused>,
    ) {
        let Some(waiting) = process.reads.remove(&token) else {
            return self.checks.fail(format!("{id} answers read {token} twice"));
        };
        match result {
            Ok(_) if self.plan.has(Plant::ReadBeforeApply) => process.parked.push((0, waiting)),
            Ok(index) => process.parked.push((index, waiting)),
            Err(refused) => {
                return self.answer(waiting.caller, Reply::refused(&refused.to_string()));
            }
        }
        let member = self.members.remove(&id).expect("present");
        self.serve_parked(&member, process);
        self.members.insert(id, member);
    }

    fn serve_parked(&mut self, member: &Member, process: &mut Process) {
        let applied = process.store.applied().0;
        let mut left = Vec::new();
        for (index, waiting) in std::mem::take(&mut process.parked) {
            if index <= applied {
                self.look(member, process, waiting);
            } else {
                left.push((index, waiting));
            }
        }
        process.parked = left;
    }

    /// Answers from the state as it is.
    fn look(&mut self, member: &Member, process: &mut Process, waiting: Waiting) {
        let view = process.store.view();
        let id = member.id;
        let reply = match &waiting.ask {
            Ask::Kv(Request::Range(range)) => match view.range(range) {
                Ok(mut answer) => {
                    fill(&mut answer.header, id, process);
                    Reply::Kv(Answer::Range(answer))
                }
                Err(status) => Reply::Refused(asks::refusal(&status)),
            },
            Ask::Kv(Request::Txn(txn)) => match view.read_txn(txn) {
                Ok(mut answer) => {
                    fill(&mut answer.header, id, process);
                    Reply::Kv(Answer::Txn(answer))
                }
                Err(status) => Reply::Refused(asks::refusal(&status)),
            },
            // Leadership was confirmed after the question: no other clock runs that knows better.
            Ask::KeepAlive(lease) => {
                match process.clock.keep_alive(*lease, member.clock_ms(self.now)) {
                    Renewal::Renewed(ttl) => Reply::Kept(ttl),
                    Renewal::Unknown => Reply::Kept(0),
                    Renewal::Revoking | Renewal::NotLeader => Reply::refused("ask again"),
                }
            }
            other => Reply::refused(&format!("not a look: {other:?}")),
        };
        self.answer(waiting.caller, reply);
    }

    /// An answer sets out to its client.
    pub(super) fn answer(&mut self, caller: Caller, reply: Reply) {
        if self.chance.permille(self.net.lost_answers) {
            return;
        }
        let delay = self.chance.between((100, 800));
        self.after(delay, Event::Answered(caller, reply));
    }
}

fn fill(header: &mut Option<api::ResponseHeader>, id: u64, process: &Process) {
    let header = header.get_or_insert_default();
    // A crash may take a term back that was not durable: another life is another member here.
    header.member_id = id * 1_000_000 + process.life;
    header.raft_term = process.replica.status().term;
}

/// A command nobody waits for.
fn own_command(member: u64, incarnation: u64, message: &[u8]) -> Bytes {
    let request = RequestId {
        member,
        incarnation,
        sequence: 0,
    };
    let header = Header {
        request,
        ..Header::default()
    };
    Command::encode(kvnode_store::Kind::LeaseRevoke, &header, message)
}
