//! Disks that lose what they had.

use kvnode_tests::sim::{Damage, Plan, SECOND, World};

use super::settled;

/// Writes acknowledged by `a` and `b` while `c` is away; then everybody stops.
fn second_copy(seed: u64) -> (World, [u64; 3], i64) {
    let mut plan = Plan::calm(seed, 3);
    // The store keeps nothing by itself: the log has the only copy.
    plan.odd.persist = 3600 * SECOND;
    let (mut world, a) = settled(plan);
    let (b, c) = (1 + a % 3, 1 + (a + 1) % 3);
    world.crash(c, false);
    let mut last = 0;
    for round in 0..60 {
        last = world.put(a, &format!("k{round}"), "acknowledged");
    }
    // An idle moment: the log says that all of it is synced.
    world.run(SECOND);
    world.crash(a, false);
    world.crash(b, true);
    (world, [a, b, c], last)
}

/// What etcd 3.5 does wrong: with one zeroed sector in the log of the member that holds the only
/// second copy it starts, shorter by all that came after, joins, and acknowledged writes are gone
/// without an alarm.
#[test]
fn a_zeroed_sector_under_the_only_second_copy_is_refused_and_named() {
    let mut tried = 0;
    let mut sector = 0;
    loop {
        let (mut world, [_, b, c], last) = second_copy(9);
        let disk = world.members[&b].disk.clone();
        let (segment, _) = *disk.segments().last().expect("a log");
        let end = disk.proven_end(segment).expect("a readable log") / 512;
        if sector >= end {
            break;
        }
        let place = (segment, sector);
        let damaged = disk.damage_at(segment, sector, Damage::Zeroed, place);
        sector += 1;
        let Some((_, offset)) = damaged else { continue };
        tried += 1;
        world.members.get_mut(&b).expect("there").damaged = Some("on purpose".into());
        world.start(b);
        world.start(c);
        world.run(5 * SECOND);
        assert_eq!(world.checks.violation, None);
        match &world.members[&b].dead {
            // Its own account of the place: the file, the offset, what is at stake.
            Some(why) => {
                assert!(why.contains(&segment.to_string()), "{why}");
                assert!(why.contains("offset ") && why.contains("entries "), "{why}");
                assert_eq!(world.leader(), None, "no majority, no leader");
            }
            // One of the two copies of the header, which is why there are two.
            None => {
                assert!(offset < 1024, "sector at {offset} was given up in silence");
                let leader = world.settled_leader().expect("b and c");
                let answer = world.read_all(leader).expect("a read");
                assert_eq!(answer.count, 60);
                assert_eq!(answer.header.map_or(0, |header| header.revision), last);
            }
        }
    }
    assert!(tried > 60, "sectors with something in them: {tried}");
}

/// The same with every other kind of damage, anywhere the log vouches for.
#[test]
fn no_damage_below_the_synced_end_passes_in_silence() {
    let kinds = [
        Damage::FlippedBit,
        Damage::Unreadable,
        Damage::Misdirected,
        Damage::LostFile,
    ];
    let mut refused = 0;
    for seed in 0..40 {
        let (mut world, [_, b, c], _) = second_copy(seed % 5);
        let member = world.members.get_mut(&b).expect("there");
        // The dice of the disk go on from where this seed takes them.
        for _ in 0..seed {
            member.disk.roll();
        }
        if member.disk.damage(kinds[seed as usize % 4]).is_none() {
            continue;
        }
        member.damaged = Some("on purpose".into());
        world.start(b);
        world.start(c);
        world.run(4 * SECOND);
        assert_eq!(world.checks.violation, None);
        refused += usize::from(world.members[&b].dead.is_some());
    }
    assert!(refused > 12, "{refused}");
}

/// A full disk holds writes up and loses nothing; room lets everything go on.
#[test]
fn a_full_disk_on_every_member_only_holds_writes_up() {
    use kvnode_tests::history::Request;
    use kvnode_tests::sim::{Ask, Reply};
    use kvnode_tests::words;
    for seed in 0..5 {
        let mut plan = Plan::calm(seed, 3);
        plan.odd.segment_blocks = 24;
        let (mut world, leader) = settled(plan);
        for id in 1..=3 {
            world.members[&id].disk.set_full(true);
        }
        let mut waits = false;
        for round in 0..60 {
            let put = words::put("k", format!("{round}{}", "-".repeat(300)));
            let asked = world.ask(leader, Ask::Kv(Request::Put(put)));
            waits |= world.wait(asked, 2 * SECOND) == Reply::Unknown;
            if waits {
                break;
            }
        }
        assert!(waits, "a log of small segments needs room");
        for id in 1..=3 {
            world.members[&id].disk.set_full(false);
        }
        world.run(2 * SECOND);
        let leader = world.until_leader();
        world.put(leader, "k", "after");
        super::finish(world);
    }
}
