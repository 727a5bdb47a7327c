//! Reads that must not be stale, and reads of what is gone.

use kvnode_api as api;
use kvnode_tests::history::Request;
use kvnode_tests::sim::{Ask, MS, Reply, SECOND};
use kvnode_tests::words::{self, Op as _};

use super::{compact, finish, quiet};

/// etcd 20418: a member that was paused answered a linearizable read from before the pause.
#[test]
fn a_member_that_slept_answers_no_stale_read() {
    for moment in 0..20 {
        let (mut world, old) = quiet(moment, 3);
        world.put(old, "k", "before");
        // Asked before, during and after the sleep; each in another stage of its confirmation.
        let ask = |world: &mut kvnode_tests::sim::World| {
            world.ask(old, Ask::Kv(Request::Range(words::get("k"))))
        };
        let mut asked = vec![ask(&mut world)];
        world.run(moment * 120);
        world.pause(old);
        asked.push(ask(&mut world));
        world.run(4 * SECOND);
        let new = world.settled_leader().expect("two of three elect");
        assert_ne!(new, old);
        world.put(new, "k", "after");
        asked.push(ask(&mut world));
        world.run(10 * MS);
        world.resume(old);
        asked.push(ask(&mut world));
        for number in asked {
            world.wait(number, 10 * SECOND);
        }
        // The checker holds every answer against what was known when it was asked for.
        finish(world);
    }
}

/// etcd 18667: a transaction read a revision that was compacted.
#[test]
fn a_transaction_reads_no_compacted_revision_on_any_member() {
    let (mut world, leader) = quiet(5, 3);
    for round in 0..10 {
        world.put(leader, "k", &format!("{round}"));
    }
    compact(&mut world, leader, 8);
    let before = world.checks.revision();
    for member in 1..=3 {
        let past = api::RangeRequest {
            revision: 7,
            ..words::get("k")
        };
        let read = words::then(vec![past.clone().op()]);
        let write = words::then(vec![words::put("k", "not this").op(), past.op()]);
        for txn in [read, write] {
            let reply = world.call(member, Ask::Kv(Request::Txn(txn)));
            assert_eq!(reply, Reply::Refused(words::refusal::compacted()));
        }
    }
    assert_eq!(
        world.checks.revision(),
        before,
        "a refused transaction writes nothing"
    );
    finish(world);
}
