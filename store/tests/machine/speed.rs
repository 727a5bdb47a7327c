//! Figures, not promises: `cargo test --release -p kvnode-store --test machine speed -- --ignored
//! --nocapture --test-threads 1`. `KVNODE_SPEED_KEYS` says how many keys (100 000), in steps of 10 000.

#![expect(
    clippy::disallowed_methods,
    reason = "a measurement looks at clock and counters"
)]

use std::time::Instant;

use kvnode_api::{KeyRange, RangeRequest};
use kvnode_store::engine::fjall::{FjallEngine, Options};
use kvnode_store::engine::{Engine, Persister};
use kvnode_store::{Committed, Config, Kind};

use super::harness::{Machine, all, bytes, entry, put, range};

/// Updates, and events replayed.
const EVENTS: u64 = 100_000;
const BATCH: usize = 64;

fn keys_count() -> u64 {
    std::env::var("KVNODE_SPEED_KEYS").map_or(100_000, |text| text.parse().unwrap())
}

fn scatter(n: u64) -> u64 {
    n.wrapping_mul(7_919) % keys_count()
}

fn key(n: u64) -> String {
    format!("/registry/pods/some-namespace/pod-{:08}", n)
}

fn load(machine: &mut Machine<FjallEngine>, keys: impl Iterator<Item = u64>, what: &str) {
    let value = "v".repeat(256);
    let mut index = machine.next_index();
    let entries: Vec<Committed> = keys
        .map(|n| {
            index += 1;
            entry(
                index - 1,
                Kind::Put,
                &put(&key(n), &format!("{index:012}{value}")),
            )
        })
        .collect();
    let (start, cpu, thread) = (Instant::now(), cpu_us(), thread_ms());
    for chunk in entries.chunks(BATCH) {
        let step = machine.store.apply(chunk).unwrap();
        assert_eq!(step.replies.len(), chunk.len());
    }
    let count = entries.len() as f64;
    let us = start.elapsed().as_micros() as f64;
    let rate = count / us * 1e6;
    println!(
        "{what}: {rate:.0}/s, {:.1} us CPU each ({:.1} all threads), {} MB on disk",
        (thread_ms() - thread) * 1e3 / count,
        (cpu_us() - cpu) / count,
        machine.store.engine().disk_bytes() >> 20
    );
}

/// CPU of this process so far, in microseconds, at 10 ms steps.
fn cpu_us() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let field = |n: usize| {
        rest.split_whitespace()
            .nth(n)
            .and_then(|f| f.parse::<f64>().ok())
    };
    (field(11).unwrap_or(0.0) + field(12).unwrap_or(0.0)) * 10_000.0
}

/// CPU of this thread so far, in milliseconds: what counts on a shared machine.
fn thread_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ')
        .next()
        .and_then(|ns| ns.parse::<f64>().ok())
        .unwrap_or(0.0)
        / 1e6
}

fn timed<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let (start, cpu) = (Instant::now(), thread_ms());
    let result = run();
    let wall = start.elapsed().as_secs_f64() * 1e3;
    println!("{what}: {:.2} ms CPU ({wall:.2} ms)", thread_ms() - cpu);
    result
}

#[test]
#[ignore = "measures"]
fn speed_on_disk() {
    let keys = keys_count();
    for hist_inline_new_value in [false, true] {
        println!("--- new value inline: {hist_inline_new_value}");
        let dir = tempfile::tempdir().unwrap();
        let engine = FjallEngine::create(&dir.path().join("e"), &Options::default()).unwrap();
        let config = Config {
            hist_inline_new_value,
            ..Config::default()
        };
        let mut machine = Machine::new(engine, config.clone());
        load(&mut machine, (0..keys).map(scatter), "new keys");
        let loaded = machine.revision();
        load(
            &mut machine,
            (0..2 * EVENTS).map(|n| scatter(n * 31)),
            "updates",
        );
        load(
            &mut machine,
            (0..EVENTS).map(|n| n % 10),
            "updates of 10 keys",
        );
        machine.store.engine().persister().persist().unwrap();
        println!(
            "checkpointed: {} MB on disk",
            machine.store.engine().disk_bytes() >> 20
        );

        let view = machine.view();
        let now = view.revision();
        timed("get x 100k", || {
            for n in 0..EVENTS {
                assert!(view.get(&bytes(&key(scatter(n)))).unwrap().is_some());
            }
        });
        timed("range of all", || {
            assert_eq!(machine.range(all()).unwrap().count, keys as i64)
        });
        timed("limited range, counted by fences", || {
            let response = machine
                .range(RangeRequest {
                    limit: 500,
                    ..all()
                })
                .unwrap();
            assert_eq!((response.kvs.len(), response.count), (500, keys as i64));
        });
        timed("the same at an old revision near now", || {
            let request = RangeRequest {
                limit: 500,
                revision: now - 1000,
                ..all()
            };
            assert_eq!(machine.range(request).unwrap().count, keys as i64);
        });
        timed("range of 1000 at the revision after the load", || {
            let request = RangeRequest {
                revision: loaded,
                ..range(&key(0), &key(1000))
            };
            assert_eq!(machine.range(request).unwrap().count, 1000);
        });
        timed("get of a busy key at an old revision", || {
            let request = RangeRequest {
                revision: now - 50_000,
                ..range(&key(5), "")
            };
            assert_eq!(machine.range(request).unwrap().count, 1);
        });
        for (what, from) in [
            ("cold keys", 2),
            ("updated keys", loaded + 1),
            ("10 keys", now - 99_999),
        ] {
            for piece in [1_000, 10_000, 100_000] {
                timed(
                    &format!("replay of 100k events of {what}, {piece} at a time"),
                    || {
                        let mut next = from;
                        let mut events = 0;
                        while next < from + 100_000 {
                            let to = from + 99_999;
                            let history = view.history(next, to, &KeyRange::all(), piece).unwrap();
                            events += history.changes.len();
                            next = history.next;
                        }
                        assert_eq!(events, 100_000);
                    },
                );
            }
        }
        timed("hash of everything", || view.hash_kv(0).unwrap());
        machine.compact(now - 1000).unwrap();
        drop(view);
        timed("physical compaction", || machine.compact_physically());
        let engine = machine.store.into_engine();
        timed("close", || engine.close().unwrap());
        let mut machine = timed("open", || {
            let engine = FjallEngine::open(&dir.path().join("e"), &Options::default()).unwrap();
            Machine::new(engine, config)
        });
        let builder = machine.store.fence_builder();
        let built = timed("fences", || builder.build().unwrap());
        assert!(machine.store.install_fences(built).unwrap());
    }
}
