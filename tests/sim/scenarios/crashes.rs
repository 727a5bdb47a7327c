//! Crashes at the worst moments.

use kvnode_api as api;
use kvnode_store::command::Kind;
use kvnode_tests::history::Request;
use kvnode_tests::sim::{Ask, MS, Plan, Reply, SECOND};
use kvnode_tests::words;
use prost::Message as _;

use super::{compact, delete, finish, quiet, settled};

/// etcd 13766: members disagreed about the revision after a crash under load.
#[test]
fn revisions_stay_equal_after_crashes_under_load() {
    for seed in 0..4 {
        let mut plan = Plan::calm(seed, 3);
        plan.clients = 6;
        plan.think = (MS, 3 * MS);
        plan.odd.persist = 200 * MS;
        let (mut world, _) = settled(plan);
        world.open_doors();
        for round in 0..20 {
            world.run(1500 * MS);
            world.strike(1 + round % 3, true);
        }
        let world = finish(world);
        let counts = world.checks.counts;
        assert!(
            counts.committed > 500 && counts.power_cuts == 20,
            "{counts:?}"
        );
    }
}

/// etcd 14370: a lone member acknowledged a write and lost it in a crash.
#[test]
fn a_lone_member_keeps_every_acknowledged_write_at_whatever_moment_it_crashes() {
    for seed in 0..3 {
        let (mut world, _) = quiet(seed, 1);
        for step in 0..60 {
            let put = words::put("k", format!("{step}"));
            let asked = world.ask(1, Ask::Kv(Request::Put(put)));
            world.run(step * 30);
            world.strike(1, step % 3 != 0);
            world.wait(asked, SECOND);
            world.until_leader();
        }
        let answered = finish(world).checks.revision();
        assert!(answered > 10, "{answered}");
    }
}

/// etcd 17780: the revision fell when a member crashed in the middle of a compaction.
#[test]
fn the_revision_does_not_fall_after_a_crash_in_the_middle_of_a_compaction() {
    for moment in 0..15 {
        let (mut world, leader) = quiet(moment, 3);
        for round in 0..20 {
            world.put(leader, &format!("k{round}"), "v");
            delete(&mut world, leader, &format!("k{round}"));
        }
        // Deletes above the compact revision would hide that the store fell behind it.
        let revision = world.checks.revision();
        world.ask(leader, Ask::Compact(revision));
        world.run(moment * 1000);
        for id in 1..=3 {
            world.strike(id, true);
        }
        let leader = world.until_leader();
        let answer = world.read_all(leader).expect("a read");
        assert_eq!(words::revision_of(&answer.header), revision);
        assert_eq!(world.put(leader, "next", "v"), revision + 1);
        finish(world);
    }
}

/// etcd 14571: members disagreed about rights after auth was switched on, because one of them had
/// crashed and executed commands again under other rights.
#[test]
fn members_agree_about_rights_though_they_crash_while_auth_is_switched_on() {
    let own = |kind, message: Vec<u8>| Ask::Own(kind, message);
    for moment in 0..12u64 {
        let mut plan = Plan::calm(moment, 3);
        plan.odd.persist = 300 * MS;
        let (mut world, leader) = settled(plan);
        world.put(leader, "before", "v");
        let root = || "root".to_owned();
        let user = api::AuthUserAddRequest {
            name: root(),
            hashed_password: "not a hash".into(),
            ..Default::default()
        };
        let role = api::AuthRoleAddRequest { name: root() };
        let grant = api::AuthUserGrantRoleRequest {
            user: root(),
            role: root(),
        };
        let steps = [
            own(Kind::AuthUserAdd, user.encode_to_vec()),
            own(Kind::AuthRoleAdd, role.encode_to_vec()),
            own(Kind::AuthUserGrantRole, grant.encode_to_vec()),
            own(Kind::AuthEnable, Vec::new()),
        ];
        for (number, step) in (0..).zip(steps) {
            assert_eq!(world.call(leader, step), Reply::Done);
            world.run(moment * 40);
            if number == moment % 4 {
                let victim = 1 + leader % 3;
                world.strike(victim, true);
            }
        }
        // Nobody in particular may write no more, whoever executes it, and however often.
        for id in 1..=3 {
            let reply = world.call(id, Ask::Kv(Request::Put(words::put("after", "v"))));
            assert!(
                matches!(reply, Reply::Refused(_) | Reply::Unknown),
                "{reply:?}"
            );
        }
        for id in 1..=3 {
            world.strike(id, true);
        }
        world.until_leader();
        world.run(2 * SECOND);
        for id in 1..=3 {
            world.compare_now(id);
        }
        world.closing = true;
        assert_eq!(world.checks.violation, None);
        assert_eq!(world.checks.revision(), 2);
    }
}

/// etcd 14098: after a power cut that lost unsynced sectors the log could not be read any more.
#[test]
fn whatever_a_power_cut_leaves_of_unsynced_sectors_is_a_log_that_opens() {
    let mut torn = 0;
    for seed in 0..24 {
        let mut plan = Plan::calm(seed, 3);
        plan.odd.segment_blocks = [24, 64][seed as usize % 2];
        plan.clients = 4;
        plan.think = (200, MS);
        plan.disk = (MS, 5 * MS);
        let (mut world, _) = settled(plan);
        world.open_doors();
        for round in 0..8 {
            world.run(77 * MS);
            // Any refusal of an undamaged log is a violation.
            world.strike(1 + round % 3, true);
        }
        torn += finish(world).checks.counts.torn;
    }
    assert!(torn > 5, "torn tails were {torn}");
}

/// etcd 14140: reads were stale after unsynced data was lost.
#[test]
fn a_read_after_an_unsynced_loss_is_not_stale() {
    for seed in 0..10 {
        let (mut world, a) = quiet(seed, 3);
        let (b, c) = (1 + a % 3, 1 + (a + 1) % 3);
        world.partition(&[c]);
        for round in 0..10 {
            world.put(a, "k", &format!("{round}"));
        }
        let last = world.put(a, "k", "last");
        // The second copy's machine loses power; the first copy is out of reach.
        world.strike(b, true);
        world.calm();
        world.partition(&[a]);
        world.run(3 * SECOND);
        let answer = world.read_all(c).expect("two of three answer");
        assert!(words::revision_of(&answer.header) >= last);
        assert_eq!(&answer.kvs[0].value[..], b"last");
        finish(world);
    }
}

/// A compaction, a crash of everybody right after its answer: it holds.
#[test]
fn an_answered_compaction_holds_after_all_lost_power() {
    let (mut world, leader) = quiet(3, 3);
    for round in 0..30 {
        world.put(leader, "k", &format!("{round}"));
    }
    compact(&mut world, leader, 20);
    for id in 1..=3 {
        world.strike(id, true);
    }
    let leader = world.until_leader();
    let request = api::RangeRequest {
        revision: 19,
        ..words::get("k")
    };
    let reply = world.call(leader, Ask::Kv(Request::Range(request)));
    assert_eq!(reply, Reply::Refused(words::refusal::compacted()));
    finish(world);
}
