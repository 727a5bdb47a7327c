//! Three members: election, replication, crashes, partitions, hand-over.

use kvnode_replica::{Config, Kind, Message, Output, Refused, Replica, Restored, Role};

use crate::single::{append, members};
use crate::world::{TICK, World};

#[test]
fn three_members_elect_one_leader_and_replicate() {
    let mut world = World::new(1, 3);
    let leader = world.until_leader();
    for _ in 0..100 {
        world.propose(leader).unwrap();
    }
    world.until(20, "all applied", |world| {
        world.executed.len() == 100 && world.converged()
    });
    let term = world.nodes[&leader].status().term;
    for node in world.nodes.values() {
        let status = node.status();
        assert_eq!((status.term, status.leader), (term, Some(leader)));
        assert_eq!(node.state.hash, world.nodes[&leader].state.hash);
    }
}

#[test]
fn a_leader_stays_for_as_long_as_nothing_is_wrong() {
    let mut world = World::new(2, 3);
    let leader = world.until_leader();
    let term = world.nodes[&leader].status().term;
    world.run(500);
    let status = world.nodes[&leader].status();
    assert_eq!((status.role, status.term), (Role::Leader, term));
}

#[test]
fn a_crashed_leader_is_replaced_and_catches_up_when_it_returns() {
    let mut world = World::new(3, 3);
    let old = world.until_leader();
    for _ in 0..20 {
        world.propose(old).unwrap();
    }
    world.crash(old);
    let new = world.until_leader();
    assert_ne!(new, old);
    for _ in 0..20 {
        world.propose(new).unwrap();
    }
    world.start(old);
    world.until(50, "all caught up", World::converged);
    assert!(world.executed.len() >= 20);
}

#[test]
fn a_leader_cut_off_steps_down_and_commits_nothing() {
    let mut world = World::new(4, 3);
    let old = world.until_leader();
    world.run(5);
    world.partition(&[old]);
    let lost = world.propose(old).unwrap();
    world.until(40, "the old leader gives up", |world| {
        world.nodes[&old].status().role != Role::Leader
    });
    let new = world.until_leader();
    assert_ne!(new, old);
    let kept = world.propose(new).unwrap();
    world.run(10);
    world.heal();
    world.until(50, "all agree", World::converged);
    assert!(world.executed.contains_key(&kept[..]));
    assert!(!world.executed.contains_key(&lost[..]));
}

#[test]
fn a_member_that_was_cut_off_does_not_disturb_when_it_returns() {
    let mut world = World::new(5, 3);
    let leader = world.until_leader();
    let term = world.nodes[&leader].status().term;
    let other = (1..=3).find(|&id| id != leader).unwrap();
    world.partition(&[other]);
    world.run(300);
    world.heal();
    world.run(100);
    let status = world.nodes[&leader].status();
    assert_eq!((status.role, status.term), (Role::Leader, term));
}

#[test]
fn without_a_quorum_nobody_leads() {
    let mut world = World::new(6, 3);
    let leader = world.until_leader();
    for id in (1..=3).filter(|&id| id != leader) {
        world.crash(id);
    }
    world.run(60);
    assert_eq!(world.leader(), None);
    let refused = world.propose(leader);
    assert_eq!(refused, Err(Refused::NotLeader { leader: None }));
}

#[test]
fn leadership_is_handed_over_at_once_and_no_proposal_is_lost_silently() {
    let mut world = World::new(7, 3);
    let old = world.until_leader();
    world.run(5);
    for _ in 0..10 {
        world.propose(old).unwrap();
    }
    let to = world.node(old).replica().transfer_leader(None).unwrap();
    world.settle(old);
    assert_ne!(to, old);
    assert_eq!(world.propose(old), Err(Refused::Transferring));
    let begun = world.now;
    world.until(10, "the new leader", |world| world.leader() == Some(to));
    assert!(
        world.now - begun < 5 * TICK,
        "no election timeout is waited for"
    );
    world.until(20, "all applied", World::converged);
    assert_eq!(world.executed.len(), 10);
}

#[test]
fn leadership_goes_only_to_a_voter_heard_of_lately() {
    let mut world = World::new(8, 3);
    let leader = world.until_leader();
    world.run(5);
    let other = (1..=3).find(|&id| id != leader).unwrap();
    for nobody in [leader, 9] {
        let refused = world.node(leader).replica().transfer_leader(Some(nobody));
        assert_eq!(refused, Err(Refused::NoTransferee));
    }
    world.crash(other);
    world.run(15);
    let refused = world.node(leader).replica().transfer_leader(Some(other));
    assert_eq!(refused, Err(Refused::NoTransferee));
}

#[test]
fn a_transfer_that_fails_ends_after_an_election_timeout() {
    let mut world = World::new(9, 3);
    let leader = world.until_leader();
    world.run(5);
    world.filter = Some(Box::new(|message| message.kind != Kind::TimeoutNow));
    world.node(leader).replica().transfer_leader(None).unwrap();
    world.settle(leader);
    assert_eq!(world.propose(leader), Err(Refused::Transferring));
    world.run(12);
    world.propose(leader).unwrap();
}

#[test]
fn a_command_forwarded_by_a_follower_is_taken_and_answered() {
    let mut world = World::new(10, 3);
    let leader = world.until_leader();
    world.run(5);
    let follower = (1..=3).find(|&id| id != leader).unwrap();
    let payload = world.fresh_payload();
    world
        .node(follower)
        .replica()
        .forward(77, payload.clone())
        .unwrap();
    world.settle(follower);
    world.run(3);
    assert_eq!(world.nodes[&follower].forwards, [(77, Ok(()))]);
    assert!(world.executed.contains_key(&payload[..]));
    // A leader that is handing over refuses, and says so.
    world.filter = Some(Box::new(|message| message.kind != Kind::TimeoutNow));
    world.node(leader).replica().transfer_leader(None).unwrap();
    let payload = world.fresh_payload();
    world.node(follower).replica().forward(78, payload).unwrap();
    world.settle(follower);
    world.run(3);
    assert_eq!(
        world.nodes[&follower].forwards[1],
        (78, Err(Refused::Transferring))
    );
}

#[test]
fn election_timeouts_come_from_the_seed_and_spread_over_one_to_two_periods() {
    let ticks = |member, seed| {
        let mut config = Config::new(member);
        config.seed = seed;
        let restored = Restored {
            membership: members(&[1, 2, 3]),
            ..Restored::default()
        };
        let mut replica = Replica::new(config, restored).unwrap();
        let mut out = Output::default();
        let mut waits = Vec::new();
        for _ in 0..20 {
            // An empty heartbeat of a leader makes it wait again.
            let term = replica.status().term.max(1);
            let heartbeat = Message {
                kind: Kind::Heartbeat,
                ..append(member % 3 + 1, member, term)
            };
            replica.step(heartbeat);
            let mut wait = 0;
            while replica.status().role == Role::Follower {
                replica.tick();
                wait += 1;
                while replica.poll(&mut out) {
                    if let Some(write) = out.write.take() {
                        replica.written(write.number);
                    }
                    out.clear();
                }
            }
            waits.push(wait);
        }
        waits
    };
    let waits = ticks(1, 7);
    assert_eq!(waits, ticks(1, 7));
    assert_ne!(waits, ticks(2, 7), "members with one seed differ");
    assert_ne!(waits, ticks(1, 8));
    assert!(
        waits.iter().all(|wait| (10..20).contains(wait)),
        "{waits:?}"
    );
    let mut distinct = waits;
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() >= 5, "{distinct:?}");
}
