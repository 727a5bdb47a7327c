//! Changing who votes, while commands go on.

use bytes::Bytes;
use kvnode_replica::{ConfChange, Refused, Role, Step, Transition};
use kvnode_wal::Membership;

use crate::world::World;

fn known(world: &World, id: u64) -> Membership {
    world.nodes[&id]
        .replica
        .as_ref()
        .expect("up")
        .membership()
        .clone()
}

fn voters(world: &World, id: u64) -> Vec<u64> {
    known(world, id).voters
}

fn world(seed: u64, members: u64) -> (World, u64) {
    let mut world = World::new(seed, members);
    world.fixed_members = false;
    let leader = world.until_leader();
    world.run(5);
    (world, leader)
}

#[test]
fn one_voter_grows_to_three_through_learners() {
    let (mut world, _) = world(41, 1);
    for id in [2, 3] {
        for _ in 0..20 {
            world.propose(1).unwrap();
        }
        world.change(1, &ConfChange::learner(id)).unwrap();
        world.until(10, "added", |world| known(world, 1).learners == [id]);
        let now = known(&world, 1);
        world.add(id, now);
        world.until(50, "caught up", World::converged);
        world.run(3);
        world.change(1, &ConfChange::voter(id)).unwrap();
        world.until(20, "promoted everywhere", |world| {
            world
                .nodes
                .keys()
                .all(|&node| voters(world, node).len() as u64 == id)
        });
    }
    world.crash(1);
    let next = world.until_leader();
    world.propose(next).unwrap();
    world.start(1);
    world.until(50, "all agree", World::converged);
    assert_eq!(world.executed.len(), 41);
}

#[test]
fn a_removed_follower_is_told_and_falls_silent() {
    let (mut world, leader) = world(42, 3);
    let gone = (1..=3).find(|&id| id != leader).unwrap();
    world.change(leader, &ConfChange::remove(gone)).unwrap();
    world.until(20, "it knows", |world| world.nodes[&gone].removed);
    let term = world.nodes[&leader].status().term;
    world.run(100);
    let status = world.nodes[&leader].status();
    assert_eq!((status.role, status.term), (Role::Leader, term));
    assert_eq!(world.nodes[&gone].status().role, Role::Out);
    world.propose(leader).unwrap();
    world.until(20, "two go on", World::converged);
}

#[test]
fn a_removed_follower_that_was_not_told_does_not_disturb() {
    let (mut world, leader) = world(43, 3);
    let gone = (1..=3).find(|&id| id != leader).unwrap();
    world.crash(gone);
    world.run(2);
    world.change(leader, &ConfChange::remove(gone)).unwrap();
    world.until(20, "removed", |world| {
        !voters(world, leader).contains(&gone)
    });
    world.start(gone);
    let term = world.nodes[&leader].status().term;
    world.run(200);
    let status = world.nodes[&leader].status();
    assert_eq!((status.role, status.term), (Role::Leader, term));
}

#[test]
fn a_joint_change_replaces_two_of_three_and_leaves_by_itself() {
    let (mut world, leader) = world(44, 3);
    let out: Vec<u64> = (1..=3).filter(|&id| id != leader).collect();
    for _ in 0..20 {
        world.propose(leader).unwrap();
    }
    for id in [4, 5] {
        world.change(leader, &ConfChange::learner(id)).unwrap();
        world.until(10, "added", |world| {
            known(world, leader).learners.contains(&id)
        });
        let now = known(&world, leader);
        world.add(id, now);
    }
    world.until(50, "caught up", World::converged);
    world.run(3);
    let change = ConfChange {
        transition: Transition::Auto,
        steps: vec![
            Step::Remove(out[0]),
            Step::Remove(out[1]),
            Step::Voter(4),
            Step::Voter(5),
        ],
        context: Bytes::from_static(b"replace"),
    };
    world.change(leader, &change).unwrap();
    world.until(5, "joint", |world| {
        !known(world, leader).voters_outgoing.is_empty()
    });
    let pending = world.change(leader, &ConfChange::learner(9));
    assert_eq!(pending, Err(Refused::ConfChangePending));
    world.until(30, "left", |world| {
        known(world, leader).voters_outgoing.is_empty()
    });
    assert_eq!(voters(&world, leader), [leader, 4, 5]);
    world.until(30, "the old ones know", |world| {
        out.iter().all(|id| world.nodes[id].removed)
    });
    for id in out {
        world.crash(id);
    }
    world.crash(leader);
    world.run(100);
    let new = world.until_leader();
    world.propose(new).unwrap();
    world.until(30, "four and five go on", World::converged);
}

#[test]
fn a_joint_change_survives_the_crash_of_its_leader() {
    for seed in 0..10 {
        let (mut world, leader) = world(450 + seed, 4);
        let change = ConfChange {
            transition: Transition::Joint,
            steps: vec![Step::Remove((1..=4).find(|&id| id != leader).unwrap())],
            context: Bytes::new(),
        };
        world.change(leader, &change).unwrap();
        let ticks = world.rng.below(3);
        world.run(ticks);
        world.crash(leader);
        let new = world.until_leader();
        world.run(20);
        // Either the change was lost with its leader, or it is complete.
        let now = known(&world, new);
        assert!(
            now.voters_outgoing.is_empty(),
            "seed {seed}: stuck in {now:?}"
        );
        assert!([3, 4].contains(&now.voters.len()), "seed {seed}: {now:?}");
        world.start(leader);
        let last = world.nodes[&new].status().last_index;
        world.until(60, "all voters agree", |world| {
            now.voters
                .iter()
                .all(|id| world.nodes[id].state.index >= last)
        });
    }
}

#[test]
fn an_explicit_joint_configuration_waits_to_be_left() {
    let (mut world, leader) = world(46, 3);
    let gone = (1..=3).find(|&id| id != leader).unwrap();
    let invalid = world.change(leader, &ConfChange::leave());
    assert_eq!(invalid, Err(Refused::ConfChangeInvalid("not joint")));
    let change = ConfChange {
        transition: Transition::JointExplicit,
        steps: vec![Step::Learner(gone)],
        context: Bytes::new(),
    };
    world.change(leader, &change).unwrap();
    world.run(20);
    let now = known(&world, leader);
    assert_eq!(
        (now.voters_outgoing.len(), &now.learners_next[..]),
        (3, &[gone][..])
    );
    world.change(leader, &ConfChange::leave()).unwrap();
    world.run(10);
    let now = known(&world, leader);
    assert_eq!((now.voters.len(), &now.learners[..]), (2, &[gone][..]));
    world.propose(leader).unwrap();
    world.until(20, "the learner still learns", World::converged);
}

#[test]
fn changes_without_sense_or_safety_are_refused() {
    let (mut world, leader) = world(47, 3);
    let others: Vec<u64> = (1..=3).filter(|&id| id != leader).collect();
    let invalid = |reason| Err(Refused::ConfChangeInvalid(reason));
    assert_eq!(
        world.change(leader, &ConfChange::voter(0)),
        invalid("member id 0")
    );
    let twice = ConfChange {
        steps: vec![Step::Voter(4), Step::Remove(4)],
        ..Default::default()
    };
    assert_eq!(
        world.change(leader, &twice),
        invalid("a member named twice")
    );
    let not_leader = world.change(others[0], &ConfChange::learner(4));
    assert_eq!(
        not_leader,
        Err(Refused::NotLeader {
            leader: Some(leader)
        })
    );
    // With one member gone, removing the other live one would leave one of two.
    world.crash(others[0]);
    world.run(15);
    let risky = world.change(leader, &ConfChange::remove(others[1]));
    assert_eq!(
        risky,
        Err(Refused::QuorumAtRisk {
            active: 1,
            voters: 2,
            quorum: 2
        })
    );
    let risky = world.change(leader, &ConfChange::voter(4));
    assert_eq!(
        risky,
        Err(Refused::QuorumAtRisk {
            active: 2,
            voters: 4,
            quorum: 3
        })
    );
    // Removing the dead one is fine.
    world
        .change(leader, &ConfChange::remove(others[0]))
        .unwrap();
    world.until(10, "removed", |world| voters(world, leader).len() == 2);
}

#[test]
fn a_demoted_leader_stops_leading_even_if_it_did_not_ask() {
    let (mut world, a) = world(48, 3);
    let [b, c] = [1, 2, 3]
        .into_iter()
        .filter(|&id| id != a)
        .collect::<Vec<_>>()[..]
    else {
        unreachable!()
    };
    world.filter = Some(Box::new(move |m| {
        !(m.kind == kvnode_replica::Kind::AppendAnswer && m.from == c)
    }));
    world.node(a).disk.stalled = true;
    world.change(a, &ConfChange::learner(b)).unwrap();
    world.node(a).replica().transfer_leader(Some(b)).unwrap();
    world.settle(a);
    world.until(10, "b leads", |world| world.leader() == Some(b));
    world.filter = None;
    world.node(a).disk.stalled = false;
    world.until(40, "b is a learner and follows", |world| {
        known(world, b).learners == [b] && world.nodes[&b].status().role == Role::Follower
    });
    let next = world.until_leader();
    assert_ne!(next, b);
    world.propose(next).unwrap();
    world.until(30, "all agree", World::converged);
}

#[test]
fn a_change_asked_for_at_a_follower_is_made_by_the_leader() {
    let (mut world, leader) = world(49, 3);
    let follower = (1..=3).find(|&id| id != leader).unwrap();
    let forward = |world: &mut World, ticket, change: &ConfChange, known| {
        let replica = world.node(follower).replica();
        replica.forward_conf_change(ticket, change, known).unwrap();
        world.settle(follower);
        world.run(5);
        world.nodes[&follower].forwards.last().copied()
    };
    let learner = ConfChange::learner(4);
    let taken = forward(&mut world, 1, &learner, 0);
    assert_eq!(taken, Some((1, Ok(()))));
    world.until(20, "added everywhere", |world| {
        (1..=3).all(|id| known(world, id).learners == [4])
    });
    // Judged before the learner was there: whoever asks must look again.
    let stale = forward(&mut world, 2, &ConfChange::learner(5), 0);
    assert_eq!(stale, Some((2, Err(Refused::ConfChangeStale))));
    let here = world.node(leader).replica();
    let stale = here.propose_conf_change_knowing(&ConfChange::learner(5), 0);
    assert_eq!(stale, Err(Refused::ConfChangeStale));
    let index = known(&world, leader).index;
    // The learner has nothing: the leader says so.
    let behind = forward(&mut world, 3, &ConfChange::voter(4), index);
    assert!(matches!(
        behind,
        Some((3, Err(Refused::LearnerBehind { .. })))
    ));
    assert_eq!(known(&world, leader).learners, [4]);
}

#[test]
fn a_follower_that_asks_for_the_leaders_removal_makes_it_hand_over() {
    let (mut world, old) = world(50, 3);
    let follower = (1..=3).find(|&id| id != old).unwrap();
    let removal = ConfChange::remove(old);
    let mut ticket = 0;
    for _ in 0..20 {
        if world.nodes[&old].removed {
            break;
        }
        ticket += 1;
        let replica = world.node(follower).replica();
        if replica.status().leader == Some(follower) {
            let _ = replica.propose_conf_change(&removal);
        } else {
            let _ = replica.forward_conf_change(ticket, &removal, 0);
        }
        world.settle(follower);
        world.run(10);
    }
    assert!(world.nodes[&old].removed);
    let answers = &world.nodes[&follower].forwards;
    assert_eq!(answers.first(), Some(&(1, Err(Refused::TransferFirst))));
    let leader = world.until_leader();
    world.propose(leader).unwrap();
    world.until(20, "two go on", World::converged);
}

#[test]
fn where_connections_are_asked_for_a_fresh_one_does_not_count_yet() {
    let mut world = World::new(51, 3);
    world.fixed_members = false;
    for id in 1..=3 {
        world.crash(id);
        world.node(id).config.linked_ticks_min = 50;
        world.start(id);
    }
    let leader = world.until_leader();
    world.run(5);
    let others: Vec<u64> = (1..=3).filter(|&id| id != leader).collect();
    let risky = |active| {
        Err(Refused::QuorumAtRisk {
            active,
            voters: 4,
            quorum: 3,
        })
    };
    assert_eq!(world.change(leader, &ConfChange::voter(4)), risky(1));
    for &id in &others {
        world.node(leader).replica().linked(id, true);
    }
    world.run(40);
    assert_eq!(world.change(leader, &ConfChange::voter(4)), risky(1));
    world.run(20);
    world.node(leader).replica().linked(others[0], false);
    assert_eq!(world.change(leader, &ConfChange::voter(4)), risky(2));
    // The one that cannot be reached may go, the other one may not.
    assert_eq!(
        world.change(leader, &ConfChange::remove(others[1])),
        Err(Refused::QuorumAtRisk {
            active: 1,
            voters: 2,
            quorum: 2
        })
    );
    world
        .change(leader, &ConfChange::remove(others[0]))
        .unwrap();
}
