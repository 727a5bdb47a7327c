//! kill -9 under load, again and again: what was acknowledged is there, what is there was asked for.

use std::sync::Arc;
use std::time::Duration;

use kvnode_tests::checker::{check_watch, demand};
use kvnode_tests::history::{Answer, Barrier, Change, History, Recorder, Request};
use kvnode_tests::pool::run_within;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Options, Server};
use tokio::sync::watch;

use kvnode_tests::load::{Dice, client, log_from, observer};

const CLIENTS: u32 = 6;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// `KVNODE_KILL_ROUNDS` (8) and `KVNODE_KILL_SEED` (the clock) decide how often and when.
#[test]
fn no_acknowledged_write_is_lost_and_none_is_invented_by_kill_nine() {
    let rounds = from_environment("KVNODE_KILL_ROUNDS").unwrap_or(8);
    let clock = || {
        let since = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
        u64::from(since.subsec_nanos())
    };
    let seed = from_environment("KVNODE_KILL_SEED").unwrap_or_else(clock);
    println!("repeat the choices (not the timing) by KVNODE_KILL_SEED={seed}");
    // Half of the lives write tables all the time, the others leave most of it to the log.
    let roomy = Options::default().fsync();
    let tight = roomy.clone().arg("--memtable-bytes=64KiB");
    let mut server = Server::start(tight.clone());
    let limit = Duration::from_secs(60 + 20 * rounds);
    run_within(limit, async {
        let mut dice = Dice::new(seed);
        let recorder = Arc::new(Recorder::default());
        let mut history = History::default();
        let kept = kvnode_tests::build::target_directory().join("kill-history.jsonl");
        for round in 0..rounds {
            let time = Duration::from_millis(50 + dice.roll(700));
            let next = if dice.roll(2) == 0 { &tight } else { &roomy };
            server.set_options(next.clone());
            one_life(
                &mut server,
                &recorder,
                seed ^ (round << 32),
                time,
                &mut history,
            )
            .await;
            // The whole history every few rounds and at the end: judging it all each time is quadratic.
            if round % 10 == 9 || round + 1 == rounds {
                history.operations = recorder.operations();
                let summary = demand(&history, &kept);
                println!("after {} kills: {summary:?}", round + 1);
                assert!(
                    summary.writes > 0 && summary.reads > 0,
                    "no load, no test: {summary:?}"
                );
            }
        }
        let whole = log_from(&Client::connect(server.address()).await, 2).await;
        assert_eq!(whole, history.log, "the account of the past has changed");
    });
}

/// Load until the kill, restart, and the account of what happened.
async fn one_life(
    server: &mut Server,
    recorder: &Arc<Recorder>,
    seed: u64,
    time: Duration,
    history: &mut History,
) {
    let address = server.address();
    let next = history.log.last().map_or(2, |change| change.revision + 1);
    let (stop, stopped) = watch::channel(false);
    let watcher = tokio::spawn(observer(address, next));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let recorder = Arc::clone(recorder);
        clients.push(tokio::spawn(client(
            number,
            address,
            recorder,
            seed,
            stopped.clone(),
        )));
    }
    tokio::time::sleep(time).await;
    server.kill();
    let died = recorder.now();
    let _ = stop.send(true);
    for client in clients {
        client.await.expect("clients do not panic");
    }
    let told = watcher.await.expect("the observer does not panic");

    server.restart();
    let connection = Client::connect(address).await;
    let log = log_from(&connection, next).await;
    history.log.extend(log);
    let revision = history.log.last().map_or(1, |change| change.revision);
    assert_eq!(
        connection.revision().await,
        revision,
        "log and store end at the same revision"
    );
    history.barriers.push(Barrier {
        time: died,
        revision,
    });
    // What a watcher saw before the crash is still true after it.
    if let Err(why) = check_watch(&history.log, next, &told) {
        panic!("a watch told what did not last: {why}");
    }
    check_state(&connection, &history.log).await;
}

/// The store's pairs are those that its account of all changes adds up to.
async fn check_state(client: &Client, log: &[Change]) {
    let mut model = kvnode_tests::model::Model::default();
    for change in log {
        model.advance(change.revision, &change.events);
    }
    let found = client.range(all()).await.expect("range").kvs;
    let expected: Vec<_> = model.pairs().cloned().collect();
    assert_eq!(found, expected);
}

/// The checker itself on a live server without any fault: load from many clients is serializable.
#[test]
fn concurrent_clients_see_one_order() {
    let server = Server::start(Options::default());
    run_within(Duration::from_secs(60), async {
        let recorder = Arc::new(Recorder::default());
        let (stop, stopped) = watch::channel(false);
        let mut clients = Vec::new();
        for number in 0..12 {
            let recorder = Arc::clone(&recorder);
            clients.push(tokio::spawn(client(
                number,
                server.address(),
                recorder,
                7,
                stopped.clone(),
            )));
        }
        tokio::time::sleep(Duration::from_millis(1500)).await;
        stop.send(true).expect("clients listen");
        for client in clients {
            client.await.expect("clients do not panic");
        }
        let connection = Client::connect(server.address()).await;
        let log = log_from(&connection, 2).await;
        let history = History {
            operations: recorder.operations(),
            log,
            barriers: vec![],
        };
        let kept = kvnode_tests::build::target_directory().join("order-history.jsonl");
        let summary = demand(&history, &kept);
        println!("{summary:?}");
        assert!(summary.writes > 100 && summary.reads > 100, "{summary:?}");
        assert_eq!(
            summary.unknown_done + summary.unknown_not_done,
            0,
            "{summary:?}"
        );
        check_state(&connection, &history.log).await;
    });
}

/// A write that was answered a moment before the kill is there: one client, one put, at once.
#[test]
fn the_last_answer_before_a_kill_counts() {
    let mut server = Server::start(Options::default().fsync());
    run_within(Duration::from_secs(60), async {
        let recorder = Recorder::default();
        for round in 0..3 {
            let connection = Client::connect(server.address()).await;
            let request = Request::Put(put("last", format!("{round}")));
            let answer = recorder.call(0, &connection, request).await.expect("put");
            server.kill();
            server.restart();
            let connection = Client::connect(server.address()).await;
            let kv = connection.read("last").await.expect("acknowledged");
            assert_eq!(kv.value, format!("{round}"));
            let Answer::Put(answer) = answer else {
                panic!("a put answers a put")
            };
            assert_eq!(kv.mod_revision, revision_of(&answer.header));
        }
    });
}

/// etcd lost the database's consistency when it was killed while it rewrote it. Killed at any moment of
/// a rewrite, everything is there afterwards, and a rewrite that is left alone still works.
#[test]
fn a_kill_in_the_middle_of_defragment_loses_nothing() {
    let mut server = Server::start(Options::default().fsync());
    run_within(Duration::from_secs(120), async {
        let mut dice = Dice::new(7);
        for round in 0..3u64 {
            let connection = Client::connect(server.address()).await;
            let before = connection.revision().await;
            for half in 0..2 {
                let value = |number| format!("{round} {half} {number} {}", "-".repeat(5000));
                let puts = (0..50).map(|number| put(format!("k{number}"), value(number)).op());
                connection.txn(then(puts.collect())).await.expect("puts");
            }
            let rewriting = tokio::spawn(async move {
                let _ = connection.defragment(Default::default()).await;
            });
            tokio::time::sleep(Duration::from_micros(dice.roll(8_000))).await;
            server.kill();
            rewriting.await.expect("does not panic");
            server.restart();
            let connection = Client::connect(server.address()).await;
            assert_eq!(connection.revision().await, before + 2, "round {round}");
            let found = connection.range(all()).await.expect("range").kvs;
            assert_eq!(found.len(), 50);
            for kv in found {
                let key = std::str::from_utf8(&kv.key).expect("a test's key");
                let value = format!("{round} 1 {} {}", &key[1..], "-".repeat(5000));
                assert_eq!(kv.value, value.as_bytes(), "{key} in round {round}");
            }
            connection
                .defragment(Default::default())
                .await
                .expect("left alone it works");
        }
    });
}
