//! Watches: whatever happens, every event once, in order, and no progress ahead of its stream.

use kvnode_api as api;
use kvnode_tests::history::Request;
use kvnode_tests::sim::{Ask, MS, Plan, SECOND};
use kvnode_tests::words::{self, Op as _};

use super::{SOON, compact, delete, events, finish, others, quiet, settled, watcher};

/// etcd 15220: a progress notice overtook events of its own stream.
#[test]
fn progress_never_overtakes_the_events_of_its_stream() {
    for seed in 0..10 {
        let mut plan = Plan::calm(seed, 3);
        plan.odd.backlog_bytes = [100, 400, 1 << 20][seed as usize % 3];
        plan.odd.ring_bytes = [0, 500, 1 << 20][seed as usize % 3];
        let (mut world, leader) = settled(plan);
        let wish = api::WatchCreateRequest {
            start_revision: 1,
            progress_notify: true,
            ..words::watch_key("k")
        };
        let slow = world.watch(wish, 30 * MS, false);
        let member = others(&world, leader)[0];
        world.follow(slow, member);
        for round in 0..80 {
            let put = Request::Put(words::put("k", format!("{round}")));
            world.ask(leader, Ask::Kv(put));
            world.ask_progress(slow);
            world.run(3 * MS);
        }
        world.run(SECOND);
        let progress =
            |response: &api::WatchResponse| response.events.is_empty() && !response.created;
        let told = &world.watchers[slow].sessions[0].responses;
        assert!(
            told.iter().any(|(_, response)| progress(response)),
            "seed {seed}: no progress"
        );
        finish(world);
    }
}

/// etcd 15271: a watch went back in time when its member came back from behind a partition.
#[test]
fn a_watch_that_moves_between_members_never_goes_back_in_time() {
    for seed in 0..10 {
        let mut plan = Plan::calm(seed, 3);
        plan.odd.tail_entries = [3, 4096][seed as usize % 2];
        plan.odd.persist = 100 * MS;
        let (mut world, leader) = settled(plan);
        let late = others(&world, leader)[0];
        let watch = watcher(&mut world, late, "k", 1);
        let mut sent = 0;
        for round in 0..6 {
            world.partition(&[late]);
            for _ in 0..10 {
                world.put(leader, "k", &format!("{sent}"));
                sent += 1;
            }
            // To a member that is ahead, and back to the one that may still be behind.
            world.unfollow(watch);
            world.follow(watch, leader);
            world.run(50 * MS + round * 20 * MS);
            world.unfollow(watch);
            world.cut.clear();
            world.follow(watch, late);
            world.run(30 * MS * round);
        }
        world.run(SOON);
        let got: Vec<i64> = events(&world, watch)
            .into_iter()
            .map(|event| event.2)
            .collect();
        let all: Vec<i64> = (2..2 + sent).collect();
        assert_eq!(got, all, "seed {seed}");
        finish(world);
    }
}

/// etcd 17247: events of transactions came twice.
#[test]
fn events_of_transactions_come_once() {
    let (mut world, leader) = quiet(1, 3);
    let member = others(&world, leader)[0];
    let watch = {
        let (key, range_end) = words::everything();
        let wish = api::WatchCreateRequest {
            key,
            range_end,
            start_revision: 1,
            ..Default::default()
        };
        let watch = world.watch(wish, 0, false);
        world.follow(watch, member);
        watch
    };
    for round in 0..40 {
        let value = format!("{round}");
        let txn = words::then(vec![
            words::put("a", &value).op(),
            words::get("a").op(),
            words::delete("b").op(),
            words::then(vec![words::put("c", &value).op(), words::get("b").op()]).op(),
        ]);
        world.call(leader, Ask::Kv(Request::Txn(txn)));
        if round % 2 == 0 {
            world.put(member, "b", &value);
        }
        if round % 9 == 0 {
            world.strike(member, true);
            world.run(SECOND);
        }
    }
    world.run(SOON);
    let got = events(&world, watch);
    let mut once = got.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), got.len(), "each event once");
    assert!(got.len() > 100);
    finish(world);
}

/// etcd 17529: a stream that starved lost events.
#[test]
fn a_starving_stream_gets_every_event_in_the_end() {
    for seed in 0..6 {
        let mut plan = Plan::calm(seed, 3);
        plan.odd.backlog_bytes = 150;
        plan.odd.ring_bytes = [0, 2000][seed as usize % 2];
        plan.clients = 3;
        plan.think = (200, 2 * MS);
        plan.work.compact = 0;
        plan.work.grant = 0;
        let (mut world, _) = settled(plan);
        let everything = |slow| (slow, words::everything());
        let watches: Vec<usize> = [everything(0), everything(20 * MS), everything(200 * MS)]
            .into_iter()
            .map(|(slow, (key, range_end))| {
                let wish = api::WatchCreateRequest {
                    key,
                    range_end,
                    start_revision: 1,
                    ..Default::default()
                };
                let watch = world.watch(wish, slow, false);
                world.follow(watch, 1 + seed % 3);
                watch
            })
            .collect();
        world.open_doors();
        world.run(4 * SECOND);
        world.closing = true;
        let done = world.until(60 * SECOND, |world| {
            watches.iter().all(|watch| {
                kvnode_tests::sim::is_complete(&world.watchers[*watch], &world.checks.changes)
            })
        });
        assert!(done, "seed {seed}: a slow stream waits for ever");
        finish(world);
    }
}

/// etcd 18089: compacting at the revision of a delete took the delete from watchers that were behind.
#[test]
fn a_delete_at_the_compact_revision_reaches_watchers_that_are_behind() {
    for seed in 0..10 {
        let mut plan = Plan::calm(seed, 3);
        plan.odd.backlog_bytes = 60;
        plan.odd.ring_bytes = 0;
        let (mut world, leader) = settled(plan);
        let wish = api::WatchCreateRequest {
            start_revision: 1,
            ..words::watch_key("k")
        };
        let behind = world.watch(wish, 150 * MS, false);
        world.follow(behind, leader);
        world.put(leader, "k", "v");
        let gone = delete(&mut world, leader, "k");
        compact(&mut world, leader, gone);
        world.run(SOON);
        let deleted = events(&world, behind)
            .into_iter()
            .any(|event| event == (1, "k".into(), gone));
        let told = world.watchers[behind]
            .sessions
            .iter()
            .flat_map(|told| &told.responses);
        let canceled = told
            .into_iter()
            .any(|(_, response)| response.compact_revision == gone);
        assert!(
            deleted || canceled,
            "seed {seed}: neither the delete nor a word about it"
        );
        finish(world);
    }
}

/// etcd 19179: a watch from the compact revision did not see the delete that happened there.
#[test]
fn a_watch_from_the_compact_revision_sees_the_delete_that_happened_there() {
    for restart in [false, true] {
        let (mut world, leader) = quiet(7, 3);
        // Enough history around it that physical removal has something to remove.
        for round in 0..150 {
            world.put(leader, "other", &format!("{round}"));
        }
        world.put(leader, "k", "v");
        let gone = delete(&mut world, leader, "k");
        for round in 0..100 {
            world.put(leader, "other", &format!("again {round}"));
        }
        compact(&mut world, leader, gone);
        world.run(2 * SECOND);
        if restart {
            for id in 1..=3 {
                world.strike(id, true);
            }
            world.until_leader();
        }
        for member in 1..=3 {
            let watch = watcher(&mut world, member, "k", gone);
            world.run(SECOND);
            assert_eq!(
                events(&world, watch),
                [(1, "k".to_owned(), gone)],
                "at {member}"
            );
        }
        finish(world);
    }
}

/// etcd 20221: a watch from a revision in the future was told something before it.
#[test]
fn a_watch_from_the_future_hears_nothing_before_its_time() {
    let (mut world, leader) = quiet(8, 3);
    let member = others(&world, leader)[0];
    let future = world.checks.revision() + 20;
    let wish = api::WatchCreateRequest {
        start_revision: future,
        progress_notify: true,
        ..words::watch_key("k")
    };
    let watch = world.watch(wish, 0, false);
    world.follow(watch, member);
    world.run(SECOND);
    while world.checks.revision() < future + 5 {
        world.put(leader, "k", "v");
        world.ask_progress(watch);
        world.run(400 * MS);
        let told = &world.watchers[watch].sessions[0].responses;
        let early = told.iter().any(|(_, response)| !response.created);
        assert!(
            !early || world.checks.revision() >= future,
            "at {}",
            world.checks.revision()
        );
    }
    let got: Vec<i64> = events(&world, watch)
        .into_iter()
        .map(|event| event.2)
        .collect();
    assert_eq!(
        got,
        [
            future,
            future + 1,
            future + 2,
            future + 3,
            future + 4,
            future + 5
        ]
    );
    finish(world);
}
