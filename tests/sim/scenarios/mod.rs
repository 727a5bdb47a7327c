//! One directed scenario per known hazard. Random runs find broad defects in seconds and miss narrow
//! ones for hours; each of these takes its own by the hand.
//!
//! `tests/ROBUSTNESS.md` is the table of them.

mod crashes;
mod disks;
mod leases;
mod members;
mod reads;
mod watches;

use kvnode_api as api;
use kvnode_tests::history::Request;
use kvnode_tests::sim::{Ask, MS, Plan, Reply, SECOND, World};
use kvnode_tests::words;

/// A quiet world whose leader is known.
fn quiet(seed: u64, members: u64) -> (World, u64) {
    settled(Plan::calm(seed, members))
}

fn settled(plan: Plan) -> (World, u64) {
    let mut world = World::new(plan);
    let leader = world.until_leader();
    assert_eq!(world.checks.violation, None);
    (world, leader)
}

/// The members that do not lead.
fn others(world: &World, leader: u64) -> Vec<u64> {
    world
        .members
        .keys()
        .copied()
        .filter(|id| *id != leader)
        .collect()
}

/// Everything that must hold at the end of any run.
fn finish(mut world: World) -> World {
    if world.checks.violation.is_none() {
        world.come_to_rest();
    }
    if world.checks.violation.is_none() {
        world.judge();
    }
    assert_eq!(world.checks.violation, None);
    world
}

fn delete(world: &mut World, member: u64, key: &str) -> i64 {
    let reply = world.call(member, Ask::Kv(Request::Delete(words::delete(key))));
    assert!(reply.revision() > 0, "{reply:?}");
    reply.revision()
}

fn compact(world: &mut World, member: u64, revision: i64) {
    let reply = world.call(member, Ask::Compact(revision));
    assert_eq!(reply, Reply::Compacted);
    // The removal of what is hidden follows in steps.
    world.run(500 * MS);
}

/// A watcher that stays where it is.
fn watcher(world: &mut World, member: u64, key: &str, from: i64) -> usize {
    let wish = api::WatchCreateRequest {
        start_revision: from,
        prev_kv: true,
        ..words::watch_key(key)
    };
    let watcher = world.watch(wish, 0, false);
    world.follow(watcher, member);
    world.run(50 * MS);
    watcher
}

/// (type, key, revision) of all events a watcher was sent.
fn events(world: &World, watcher: usize) -> Vec<(i32, String, i64)> {
    let told = world.watchers[watcher]
        .sessions
        .iter()
        .flat_map(|told| &told.responses);
    let events = told.flat_map(|(_, response)| &response.events);
    let place = |event: &api::Event| {
        let kv = event.kv.clone().unwrap_or_default();
        (
            event.r#type,
            String::from_utf8_lossy(&kv.key).into_owned(),
            kv.mod_revision,
        )
    };
    events.map(place).collect()
}

/// Some seconds are plenty for anything in a quiet world.
const SOON: u64 = 5 * SECOND;
