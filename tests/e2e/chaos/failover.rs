//! kill -9 of the leader, again and again: how long until writes go on, and whether all that was acknowledged is there.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kvnode_tests::pool::run_within;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Cluster, Options};
use tokio::sync::watch;

use crate::given;

/// Two election timeouts at the default settings: the figure that is aimed at.
const AIM: Duration = Duration::from_secs(2);
/// What a machine under load is given: several elections.
const BOUND: Duration = Duration::from_secs(30);

/// An acknowledged write: when it was asked for and when the answer came.
struct Written {
    called: Instant,
    returned: Instant,
    key: String,
    value: String,
}

/// One client that writes without a pause, through one member as long as that answers.
async fn writer(
    number: usize,
    addresses: Vec<SocketAddr>,
    written: Arc<Mutex<Vec<Written>>>,
    stop: watch::Receiver<bool>,
) {
    let mut at = number;
    let mut sequence = 0u64;
    while !*stop.borrow() {
        at += 1;
        let address = addresses[at % addresses.len()];
        let connecting = tokio::time::timeout(BOUND, Client::try_connect(address));
        let Ok(Ok(client)) = connecting.await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let client = client.with_patience(Duration::from_secs(10));
        while !*stop.borrow() {
            sequence += 1;
            let key = format!("w{number}-{}", sequence % 50);
            let value = format!("{sequence}");
            let called = Instant::now();
            // The outcome of one that failed is unknown; the next one on this key tells.
            if client.put(put(&key, &value)).await.is_err() {
                break;
            }
            written.lock().expect("no holder panics").push(Written {
                called,
                returned: Instant::now(),
                key,
                value,
            });
        }
    }
}

#[test]
fn writes_go_on_soon_after_the_leader_is_killed_and_none_is_lost() {
    let rounds = given("KVNODE_FAILOVER_ROUNDS").unwrap_or(3);
    let mut cluster = Cluster::start(3, Options::default().fsync());
    let limit = Duration::from_secs(60 + 60 * rounds);
    let mut gaps: Vec<Duration> = run_within(limit, async {
        let mut gaps = Vec::new();
        for round in 0..rounds {
            let leader = cluster.leader().await;
            let survivors: Vec<SocketAddr> = cluster
                .others(leader)
                .iter()
                .map(|number| cluster.member(*number).address())
                .collect();
            let written = Arc::new(Mutex::new(Vec::new()));
            let (stop, stopped) = watch::channel(false);
            let mut writers = Vec::new();
            for number in 0..2 {
                let (survivors, written) = (survivors.clone(), Arc::clone(&written));
                writers.push(tokio::spawn(writer(
                    number,
                    survivors,
                    written,
                    stopped.clone(),
                )));
            }
            let count = || written.lock().expect("no holder panics").len();
            cluster
                .until("writes are under way", async || {
                    (count() > 20).then_some(())
                })
                .await;
            let killed = Instant::now();
            cluster.kill(leader);
            let dead = Instant::now();
            let resumed = cluster
                .until("writes go on", async || {
                    let written = written.lock().expect("no holder panics");
                    // Asked for when the old leader could have no part in it.
                    let after = written.iter().filter(|write| write.called > dead);
                    after.map(|write| write.returned).min()
                })
                .await;
            gaps.push(resumed - killed);
            cluster.restart(leader);
            let _ = stop.send(true);
            for writer in writers {
                writer.await.expect("writers do not panic");
            }
            let written = std::mem::take(&mut *written.lock().expect("no holder panics"));
            check_all_there(&cluster, &written).await;
            println!("round {round}: writes went on after {:?}", resumed - killed);
        }
        gaps
    });
    gaps.sort_unstable();
    let at = |percent: usize| gaps[(gaps.len() - 1) * percent / 100];
    let within = gaps.iter().filter(|gap| **gap <= AIM).count();
    println!(
        "kill -9 of the leader, {rounds} rounds: median {:?}, p90 {:?}, p99 {:?}, longest {:?}; {within} within {AIM:?}; no \
         acknowledged write was lost",
        at(50),
        at(90),
        at(99),
        at(100),
    );
    assert!(at(100) < BOUND, "{gaps:?}");
}

/// Each key holds what its writer was last told, or something newer of which it was not told.
async fn check_all_there(cluster: &Cluster, written: &[Written]) {
    let mut last: HashMap<&str, &Written> = HashMap::new();
    for write in written {
        let newest = last.entry(&write.key).or_insert(write);
        if write.called >= newest.called {
            *newest = write;
        }
    }
    for number in cluster.running() {
        let found = cluster.client(number).await.range(span("w", "x")).await;
        let found = found.expect("a read").kvs;
        for (key, write) in &last {
            let kv = found.iter().find(|kv| kv.key == key.as_bytes());
            let kv = kv.unwrap_or_else(|| panic!("{key} is lost"));
            let number = |bytes: &[u8]| -> u64 {
                let text = std::str::from_utf8(bytes).expect("our own");
                text.parse().expect("a number")
            };
            assert!(
                number(&kv.value) >= number(write.value.as_bytes()),
                "{key}: {:?} was acknowledged, {:?} is there",
                write.value,
                kv.value
            );
        }
    }
}
