//! A whole run: faults, then calm, then everything that must be true at the end.

use super::asks::Reply;
use super::chance::fold;
use super::checks::Counts;
use super::plan::{Plan, SECOND};
use super::watchers::Watcher;
use super::watching;
use super::world::{Event, World};
use crate::checker;
use crate::history::{self, Outcome};

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub seed: u64,
    /// Fingerprint of all events.
    pub hash: u64,
    pub simulated: u64,
    pub counts: Counts,
    /// What was promised and not kept.
    pub violation: Option<String>,
}

/// Runs the seed's own plan.
pub fn run_seed(seed: u64) -> Report {
    run(Plan::of_seed(seed))
}

/// A world in which everything of the plan is about to happen.
pub fn begin(plan: Plan) -> World {
    let mut world = World::new(plan);
    world.open_doors();
    world.open_watchers();
    world.after(SECOND, Event::Nemesis);
    world
}

/// Runs a plan to its end.
pub fn run(plan: Plan) -> Report {
    let seed = plan.seed;
    let faults = plan.faults;
    let mut world = begin(plan);
    world.run(faults);
    if world.checks.violation.is_none() {
        world.come_to_rest();
    }
    if world.checks.violation.is_none() {
        world.judge();
    }
    Report {
        seed,
        hash: fold(world.hash, world.now),
        simulated: world.now,
        counts: world.checks.counts,
        violation: world
            .checks
            .violation
            .map(|text| format!("at {} us: {text}", world.now)),
    }
}

impl World {
    /// The faults stop: within twenty seconds there is a leader, all members agree and every client
    /// has its answer; a little later every lease nobody keeps is over.
    pub fn come_to_rest(&mut self) {
        self.closing = true;
        self.calm();
        let ids: Vec<u64> = self.members.keys().copied().collect();
        for &id in &ids {
            let member = self.members.get_mut(&id).expect("listed");
            member.disk.heal();
            member.disk.set_full(false);
            member.slow_apply = false;
            member.stalled_until = 0;
            if member.paused {
                self.resume(id);
            }
        }
        let limit = self.now + 20 * SECOND;
        for &id in &ids {
            self.start(id);
        }
        let settled = self.until(limit - self.now, |world| world.settled_leader().is_some());
        self.demand_by(settled, "a leader");
        // A hand-over under way may refuse commands for an election timeout.
        let agreed = self.until(limit.saturating_sub(self.now), |world| world.agrees());
        self.demand_by(agreed, "all members to agree");
        let idle = self.until(limit.saturating_sub(self.now), |world| {
            world.clients.iter().all(|client| client.running.is_none())
        });
        self.demand_by(idle, "every client to have its answer");
        if self.checks.violation.is_some() {
            return;
        }
        // By now the only keepalives are those that were answered.
        let over = self.until(15 * SECOND, |world| world.leases_left() == 0);
        self.demand_by(over, "every lease to be over");
        let agreed = self.until(10 * SECOND, |world| world.agrees());
        self.demand_by(agreed, "all members to agree after the last lease");
        self.move_watchers();
        let told = self.until(15 * SECOND, |world| {
            let complete = |watcher| watching::is_complete(watcher, &world.checks.changes);
            world.watchers.iter().all(complete)
        });
        if !told && self.checks.violation.is_none() {
            let late: Vec<_> = self
                .watchers
                .iter()
                .filter(|w| !watching::is_complete(w, &self.checks.changes))
                .collect();
            let late = late.first().map(|w| {
                format!(
                    "{:?} next {} open {} at {}",
                    w.wish, w.next, w.open, w.member
                )
            });
            self.checks
                .fail(format!("a watcher was not told of everything: {late:?}"));
        }
    }

    /// Whoever watches at a member that is none any more goes elsewhere: it would hear nothing new.
    fn move_watchers(&mut self) {
        let now = self.membership();
        for watcher in 0..self.watchers.len() {
            let Watcher {
                member, session, ..
            } = self.watchers[watcher];
            if !now.voters.contains(&member) && !now.learners.contains(&member) {
                self.unfollow(watcher);
                self.after(SECOND, Event::Broken(watcher, session));
            }
        }
    }

    fn demand_by(&mut self, holds: bool, what: &str) {
        if !holds && self.checks.violation.is_none() {
            let states: Vec<String> = self
                .members
                .values()
                .map(|m| match &m.process {
                    Some(p) => format!(
                        "{}: {:?}, store at {}",
                        m.id,
                        p.replica.status(),
                        p.store.applied().0
                    ),
                    None => format!("{}: down, dead {:?}, removed {}", m.id, m.dead, m.removed),
                })
                .collect();
            let membership = self.membership();
            self.checks.fail(format!(
                "waited in vain for {what}; {membership:?}; {}",
                states.join("; ")
            ));
        }
    }

    /// Every member the leader knows of, and that can run, has executed all that is committed.
    pub fn agrees(&self) -> bool {
        let last = self.checks.last_committed();
        let now = self.membership();
        let named = |id: &u64| now.voters.contains(id) || now.learners.contains(id);
        let mut members = self.members.values().filter(|m| m.usable() && named(&m.id));
        self.settled_leader().is_some()
            && members.all(|m| {
                m.process
                    .as_ref()
                    .is_some_and(|p| p.store.applied().0 >= last)
            })
    }

    fn leases_left(&self) -> usize {
        let leader = self.leader().and_then(|id| self.process(id));
        leader.map_or(1, |process| {
            process
                .store
                .view()
                .leases()
                .map_or(1, |leases| leases.len())
        })
    }

    /// What nobody heard is known here all the same, from executing it: such an operation has an answer
    /// that never arrived. Left unknown is what was never executed.
    fn reveal(&mut self) {
        for (caller, at) in std::mem::take(&mut self.unheard) {
            let operation = &mut self.history.operations[at];
            let outcome = match self.truth.remove(&caller) {
                Some(Reply::Kv(answer)) => Outcome::Answered(answer),
                Some(Reply::Refused(status)) => Outcome::Refused(status),
                _ => continue,
            };
            (operation.outcome, operation.returned) = (outcome, u64::MAX);
        }
    }

    /// Everything that can be told only at the end.
    pub fn judge(&mut self) {
        let ids: Vec<u64> = self.members.keys().copied().collect();
        for id in ids {
            self.compare_now(id);
        }
        for watcher in &self.watchers {
            if let Err(text) =
                watching::check(watcher, &self.checks.changes, &self.checks.compactions)
            {
                self.checks.violation.get_or_insert(text);
            }
        }
        self.reveal();
        self.history.log = self
            .checks
            .changes
            .iter()
            .map(|change| history::Change {
                revision: change.revision,
                events: change.events.clone(),
            })
            .collect();
        if let Err(violation) = checker::check(&self.history) {
            let operation = match &violation {
                checker::Violation::Stale { operation, .. }
                | checker::Violation::Wrong { operation, .. }
                | checker::Violation::Lost { operation, .. }
                | checker::Violation::Differs { operation, .. } => {
                    self.history.operations.get(*operation)
                }
                _ => None,
            };
            let text = format!("not strictly serializable: {violation:?} {operation:?}");
            self.checks.violation.get_or_insert(text);
        }
    }
}
