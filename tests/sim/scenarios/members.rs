//! Changes of the membership, and members that are brought up to date.

use kvnode_replica::ConfChange;
use kvnode_tests::sim::{MS, Plan, SECOND};
use kvnode_wal::Membership;

use super::{SOON, finish, others, quiet, settled};

/// etcd 15528: a membership change was answered before raft had applied it.
#[test]
fn a_membership_change_that_shows_has_been_committed() {
    for moment in 0..20 {
        let (mut world, leader) = quiet(moment, 3);
        let first = world.membership();
        world.with(leader, |_, _, process| {
            process
                .replica
                .propose_conf_change(&ConfChange::learner(4))
                .expect("taken");
        });
        world.run(moment * 200);
        let shown = world.membership().learners == [4];
        // Whoever was told so would be right for ever, whatever happens to the leader now.
        world.strike(leader, true);
        world.partition(&[leader]);
        let found = world.until(10 * SECOND, |world| {
            world.settled_leader().is_some_and(|id| id != leader)
        });
        assert!(found, "two of three elect");
        world.run(SECOND);
        if shown {
            assert_eq!(world.membership().learners, [4], "at {moment}");
        }
        if world.membership().learners == [4] {
            world.add(4, Membership { index: 0, ..first });
        }
        finish(world);
    }
}

/// etcd 18055: a member panicked on two snapshots in quick succession.
#[test]
fn two_snapshots_in_quick_succession_are_taken_over_one_after_the_other() {
    for seed in 0..12 {
        let mut plan = Plan::calm(seed, 3);
        plan.odd.tail_entries = 3;
        plan.odd.persist = 100 * MS;
        plan.disk = (MS, 30 * MS);
        plan.net.double = 300;
        plan.net.latency = (200, 20 * MS);
        let (mut world, leader) = settled(plan);
        let late = others(&world, leader)[seed as usize % 2];
        for round in 0..5 {
            world.partition(&[late]);
            for put in 0..12 {
                world.put(leader, &format!("k{put}"), &format!("{round}"));
            }
            world.cut.clear();
            // Long enough to announce one, not to have it all.
            world.run(100 * MS + seed * 10 * MS);
            if seed % 3 == 0 {
                world.strike(late, true);
            }
        }
        world.net = kvnode_tests::sim::CALM_NET;
        assert!(world.until(SOON, |world| world.agrees()), "all agree");
        let world = finish(world);
        assert!(
            world.checks.counts.snapshots >= 2,
            "{:?}",
            world.checks.counts
        );
    }
}

/// A member whose disk is lost comes back under a new id and holds everything.
#[test]
fn a_lost_disk_is_replaced_by_a_new_member_that_holds_everything() {
    let mut plan = Plan::calm(2, 3);
    plan.odd.tail_entries = 5;
    let (mut world, leader) = settled(plan);
    for round in 0..30 {
        world.put(leader, &format!("k{round}"), "v");
    }
    let lost = others(&world, leader)[0];
    world.crash(lost, true);
    world.members.get_mut(&lost).expect("there").dead = Some("its disk was lost".into());
    let change = |world: &mut kvnode_tests::sim::World, change: ConfChange| {
        let mut taken = false;
        for _ in 0..50 {
            world.with(leader, |_, _, process| {
                taken = process.replica.propose_conf_change(&change).is_ok();
            });
            if taken {
                break;
            }
            world.run(200 * MS);
        }
        assert!(taken, "{change:?}");
        world.run(SECOND);
    };
    change(&mut world, ConfChange::remove(lost));
    change(&mut world, ConfChange::learner(4));
    let known = world.membership();
    world.add(4, known);
    world.run(2 * SECOND);
    change(&mut world, ConfChange::voter(4));
    // Now the old pair is one short, and the new member makes the quorum.
    let other = others(&world, leader)
        .into_iter()
        .find(|id| *id != lost && *id != 4);
    world.crash(other.expect("the third"), false);
    world.put(leader, "after", "v");
    assert_eq!(world.read_all(4).expect("a read at the new one").count, 31);
    finish(world);
}
