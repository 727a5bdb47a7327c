//! Whoever makes things go wrong: one fault at a time, picked by the weights of the plan.
//!
//! What it does to disks for good is limited so that a legal way back exists: members that can never
//! start again under their id stay few enough that the others still make a quorum, and are replaced
//! by new members under new ids.

use kvnode_replica::{ConfChange, Step};
use kvnode_wal::Membership;

use super::disk::{Damage, Fault};
use super::plan::{MS, SECOND};
use super::world::{Event, World};

/// The most members there may be, learners included.
const MEMBERS_MAX: usize = 6;

impl World {
    pub(super) fn nemesis(&mut self) {
        if self.closing {
            return;
        }
        let ids: Vec<u64> = self
            .members
            .values()
            .filter(|m| m.usable())
            .map(|m| m.id)
            .collect();
        if !ids.is_empty() {
            let id = self.chance.pick(&ids);
            self.fault(id, &ids);
        }
        self.mend();
        let delay = self.chance.between(self.plan.pace);
        self.after(delay, Event::Nemesis);
    }

    fn fault(&mut self, id: u64, ids: &[u64]) {
        let w = self.plan.weights;
        let weights = [
            w.kill,
            w.power,
            w.power_all,
            w.pause,
            w.isolate,
            w.partition,
            w.one_way,
            w.heal,
            w.stall,
            w.disk_error,
            w.full,
            w.damage,
            w.lose_disk,
            w.slow_apply,
            w.transfer,
            w.members,
        ];
        // The leader is the most interesting victim.
        let id = self
            .leader()
            .filter(|_| self.chance.percent(30))
            .unwrap_or(id);
        match self.chance.weighted(&weights) {
            Some(0) => self.strike(id, false),
            Some(1) => self.strike(id, true),
            Some(2) => ids.iter().for_each(|id| self.strike(*id, true)),
            Some(3) => {
                self.pause(id);
                let time = self.chance.pick(&[200 * MS, SECOND, 3 * SECOND]);
                let time = self.chance.between((time / 4, time));
                self.after(time, Event::Resume(id));
            }
            Some(4) => self.partition(&[id]),
            Some(5) => {
                let side: Vec<u64> = ids
                    .iter()
                    .copied()
                    .filter(|_| self.chance.percent(50))
                    .collect();
                self.partition(&side);
            }
            Some(6) => {
                let other = self.chance.pick(ids);
                self.cut.insert((id, other));
            }
            Some(7) => self.cut.clear(),
            Some(8) => {
                let time = self.chance.pick(&[300 * MS, 2 * SECOND, 10 * SECOND]);
                let until = self.now + self.chance.between((time / 4, time));
                if let Some(member) = self.members.get_mut(&id) {
                    member.stalled_until = until;
                }
            }
            Some(9) => {
                let operations = self.chance.below(20);
                self.say(|| format!("{id} will meet a failing disk"));
                self.members[&id].disk.fail_after(operations, Fault::Error);
            }
            Some(10) => self.members[&id].disk.set_full(true),
            Some(11) => self.damage(id),
            Some(12) => self.lose_disk(id),
            Some(13) => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.slow_apply = !member.slow_apply;
                }
            }
            Some(14) => self.with(id, |_, _, process| {
                let _ = process.replica.transfer_leader(None);
            }),
            Some(15) => self.change_members(),
            _ => {}
        }
    }

    /// Crashes a member; it comes back after a while.
    pub fn strike(&mut self, id: u64, power: bool) {
        self.crash(id, power);
        let delay = self.chance.between(self.plan.restart);
        self.after(delay, Event::Start(id));
    }

    /// What passes by itself.
    fn mend(&mut self) {
        if self.chance.percent(8) {
            self.cut.clear();
        }
        let full: Vec<u64> = self
            .members
            .values()
            .filter(|m| m.disk.is_full())
            .map(|m| m.id)
            .collect();
        for id in full {
            if self.chance.percent(15) {
                self.members[&id].disk.set_full(false);
            }
        }
        let gone = self.members.values().any(|member| member.dead.is_some());
        if gone && self.chance.percent(20) {
            self.replace_dead();
        }
    }

    /// Whether the voters can do without this one for good.
    fn can_spare(&self, id: u64) -> bool {
        if self.membership().index < self.checks.conf_change {
            // A change under way may make this one indispensable.
            return false;
        }
        let known = self.members.values().filter_map(|m| m.process.as_ref());
        let mut all = known.map(|p| p.replica.membership()).peekable();
        let usable =
            |voter: &&u64| **voter != id && self.members.get(voter).is_some_and(|m| m.usable());
        let damaged = |voter: &&u64| self.members.get(voter).is_some_and(|m| m.damaged.is_some());
        let enough = |voters: &[u64]| {
            let left = voters
                .iter()
                .filter(usable)
                .filter(|voter| !damaged(voter))
                .count();
            voters.is_empty() || 2 * left > voters.len()
        };
        // Everybody's idea of the membership counts: which one is right is not known from here.
        all.peek().is_some()
            && all.all(|m: &Membership| enough(&m.voters) && enough(&m.voters_outgoing))
    }

    fn damage(&mut self, id: u64) {
        if !self.can_spare(id) || self.members[&id].damaged.is_some() {
            return;
        }
        self.strike(id, true);
        let kinds = [
            Damage::Zeroed,
            Damage::FlippedBit,
            Damage::Unreadable,
            Damage::Misdirected,
            Damage::LostFile,
        ];
        let kind = self.chance.pick(&kinds);
        let member = self.members.get_mut(&id).expect("just struck");
        if let Some((file, offset)) = member.disk.damage(kind) {
            member.damaged = Some(format!("{kind:?} at {file}, offset {offset}"));
            self.checks.counts.damages += 1;
            self.say(|| format!("{id} is damaged: {kind:?} at {file}, {offset}"));
        }
    }

    /// Everything on the disk is gone: this id never comes back.
    fn lose_disk(&mut self, id: u64) {
        if !self.can_spare(id) {
            return;
        }
        self.crash(id, true);
        let member = self.members.get_mut(&id).expect("just crashed");
        member.dead = Some("its disk was lost".into());
        self.say(|| format!("{id} loses its disk"));
    }

    /// Removes a member that is gone; others join as for any growth.
    fn replace_dead(&mut self) {
        let Some(leader) = self.leader() else { return };
        let now = self.membership();
        let named = |id: &u64| now.voters.contains(id) || now.learners.contains(id);
        let dead = self
            .members
            .values()
            .find(|m| m.dead.is_some() && named(&m.id))
            .map(|m| m.id);
        let Some(dead) = dead else { return };
        self.with(leader, |_, _, process| {
            let _ = process
                .replica
                .propose_conf_change(&ConfChange::remove(dead));
        });
        if now.voters.len() + now.learners.len() < 1 + self.plan.members as usize {
            self.join(leader);
        }
    }

    /// A new member under a new id, as a learner.
    fn join(&mut self, leader: u64) {
        let new = self.members.last_key_value().map_or(1, |(id, _)| id + 1);
        let mut taken = false;
        self.with(leader, |_, _, process| {
            taken = process
                .replica
                .propose_conf_change(&ConfChange::learner(new))
                .is_ok();
        });
        if taken {
            let known = self.members.values().filter_map(|m| m.process.as_ref());
            let known: Vec<Membership> = known.map(|p| p.replica.membership().clone()).collect();
            let at = self.chance.below(known.len() as u64) as usize;
            if let Some(first) = known.get(at) {
                self.add(new, first.clone());
            }
        }
    }

    /// One step of a random walk over memberships.
    fn change_members(&mut self) {
        let Some(leader) = self.leader() else { return };
        let now = self.membership();
        let pick = self.chance.next() as usize;
        // Who is gone for good still counts as a voter: first things first.
        let sound = |id: &u64| {
            let member = self.members.get(id);
            member.is_some_and(|m| m.usable() && m.damaged.is_none())
        };
        let whole = now.voters.iter().all(sound);
        let learners = now.learners.iter().copied().filter(sound);
        let learners: Vec<u64> = learners.collect();
        let of = |list: &[u64]| list.get(pick % list.len().max(1)).copied();
        let change = match self.chance.below(6) {
            0 | 1 if now.voters.len() + now.learners.len() < MEMBERS_MAX => {
                return self.join(leader);
            }
            2 => of(&learners).map(ConfChange::voter),
            3 if whole && now.voters.len() > 3 => of(&now.voters).map(ConfChange::remove),
            4 if now.learners.len() > 1 => of(&now.learners).map(ConfChange::remove),
            5 if whole => match (of(&now.voters), of(&learners)) {
                (Some(voter), Some(learner)) => Some(ConfChange {
                    steps: vec![Step::Learner(voter), Step::Voter(learner)],
                    ..ConfChange::default()
                }),
                _ => None,
            },
            _ => None,
        };
        if let Some(change) = change {
            self.with(leader, |_, _, process| {
                let _ = process.replica.propose_conf_change(&change);
            });
        }
    }
}
