//! Leases and the clocks of leaders.

use kvnode_tests::sim::{Ask, MS, Plan, Plant, Reply, SECOND, World};

use super::{finish, settled};

/// A leader sleeps through its own deposition, wakes and is asked to keep a lease alive at once.
fn a_sleeping_leader_is_asked(plan: Plan) -> (World, Reply) {
    let (mut world, old) = settled(plan);
    assert_eq!(
        world.call(old, Ask::Grant { id: 7, ttl: 6 }),
        Reply::Granted { ttl: 6 }
    );
    world.pause(old);
    world.run(5 * SECOND);
    // Nothing of what the others said reaches it any more.
    world.members.get_mut(&old).expect("there").held.clear();
    world.partition(&[old]);
    world.resume(old);
    let asked = world.ask(old, Ask::KeepAlive(7));
    let reply = world.wait(asked, 50 * MS);
    world.run(8 * SECOND);
    (world, reply)
}

#[test]
fn a_leader_of_the_past_keeps_no_lease_alive() {
    let (world, reply) = a_sleeping_leader_is_asked(Plan::calm(4, 3));
    assert!(!matches!(reply, Reply::Kept(_)), "{reply:?}");
    finish(world);
}

/// The planted defect that random runs do not find in any reasonable time.
#[test]
fn a_keepalive_answered_by_a_leader_of_the_past_is_found() {
    let plan = Plan::calm(4, 3).plant(Plant::KeepaliveWithoutQuorum);
    let (world, reply) = a_sleeping_leader_is_asked(plan);
    assert_eq!(reply, Reply::Kept(6));
    let violation = world.checks.violation.unwrap_or_default();
    assert!(violation.contains("ends lease 7"), "{violation}");
}
