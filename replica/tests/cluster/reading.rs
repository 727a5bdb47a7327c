//! Linearizable reads across members. Every answer is checked against what anyone knew to be
//! committed when the read was asked.

use std::cell::Cell;
use std::rc::Rc;

use kvnode_replica::{Kind, Role};

use crate::world::World;

#[test]
fn reads_at_any_member_see_what_was_acknowledged_before_them() {
    let mut world = World::new(31, 3);
    let leader = world.until_leader();
    world.run(5);
    for round in 0..60 {
        world.propose(leader).unwrap();
        world.run(1);
        world.read(1 + round % 3);
    }
    world.run(10);
    assert_eq!(world.reads_checked, 60);
}

#[test]
fn a_thousand_reads_cost_a_few_rounds() {
    let mut world = World::new(32, 3);
    let leader = world.until_leader();
    world.run(5);
    let rounds = Rc::new(Cell::new(0));
    let counted = Rc::clone(&rounds);
    world.filter = Some(Box::new(move |m| {
        if m.kind == Kind::Heartbeat && !m.context.is_empty() {
            counted.set(counted.get() + 1);
        }
        true
    }));
    for _ in 0..1000 {
        world.read(leader);
    }
    world.run(2);
    assert_eq!(world.reads_checked, 1000);
    // Four batches at once, then one with all the rest; two peers hear of each. Ticks may add some.
    assert!(
        rounds.get() <= 2 * (4 + 1 + 3),
        "{} heartbeats",
        rounds.get()
    );
}

#[test]
fn a_lost_answer_strands_nobody() {
    let mut world = World::new(33, 3);
    let leader = world.until_leader();
    world.run(5);
    let follower = (1..=3).find(|&id| id != leader).unwrap();
    let lost = Rc::new(Cell::new(0));
    let count = Rc::clone(&lost);
    // The first asks and answers of each kind vanish.
    world.filter = Some(Box::new(move |m| {
        let of_reads = matches!(m.kind, Kind::ReadAsk | Kind::ReadAnswer);
        let lose = of_reads && count.get() < 3;
        count.set(count.get() + u32::from(lose));
        !lose
    }));
    let token = world.read(follower);
    world.until(25, "answered in spite of it", |world| {
        world.nodes[&follower].reads.contains_key(&token)
    });
    assert!(world.nodes[&follower].reads[&token].is_ok());
    assert_eq!(lost.get(), 3);
}

#[test]
fn reads_survive_a_change_of_leader() {
    let mut world = World::new(34, 3);
    let old = world.until_leader();
    world.run(5);
    let follower = (1..=3).find(|&id| id != old).unwrap();
    world.crash(old);
    let token = world.read(follower);
    world.until_leader();
    world.run(8);
    assert!(world.nodes[&follower].reads[&token].is_ok());
}

#[test]
fn a_slow_follower_disk_holds_up_neither_leadership_nor_reads() {
    let mut world = World::new(35, 3);
    let leader = world.until_leader();
    world.run(5);
    let term = world.nodes[&leader].status().term;
    // One member is gone, the disk of the other hangs: its heartbeat answers go past the entry
    // write that is under way.
    let others: Vec<u64> = (1..=3).filter(|&id| id != leader).collect();
    world.crash(others[0]);
    world.node(others[1]).disk.stalled = true;
    world.propose(leader).unwrap();
    world.run(40);
    let token = world.read(leader);
    world.run(3);
    let status = world.nodes[&leader].status();
    assert_eq!((status.role, status.term), (Role::Leader, term));
    assert!(world.nodes[&leader].reads[&token].is_ok());
    assert!(
        world.executed.is_empty(),
        "but nothing commits without the disk"
    );
    world.node(others[1]).disk.stalled = false;
    world.until(20, "it commits", |world| world.executed.len() == 1);
}

#[test]
fn reads_stay_linearizable_while_messages_are_lost_doubled_and_late() {
    let mut answered = 0;
    for seed in 0..30 {
        let mut world = World::new(3_500 + seed, 3);
        world.until_leader();
        world.faults.loss = seed % 4 * 5;
        world.faults.double = 40;
        world.faults.tail = 20;
        for _ in 0..120 {
            let id = world.rng.between(1, 3);
            if world.rng.chance(50) {
                world.submit(id);
            } else {
                world.read(id);
            }
            if world.rng.chance(2) {
                let side = [world.rng.between(1, 3)];
                world.partition(&side);
            } else if world.rng.chance(6) {
                world.heal();
            }
            let ticks = world.rng.below(2);
            world.run(ticks);
        }
        world.heal();
        world.run(30);
        answered += world.reads_checked;
    }
    assert!(answered > 1_000, "{answered} answered");
}
