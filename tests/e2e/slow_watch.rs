//! Watchers that do not read must not cost the server its memory, nor the others their events.

use std::time::{Duration, Instant};

use kvnode_tests::client::settings;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Options, fresh_with};

const SLOW: usize = 20;
const WRITES: usize = 1500;
const VALUE: usize = 32 << 10;

#[test]
fn watchers_that_do_not_read_are_bounded_and_miss_nothing() {
    fresh_with(Options::default(), async |server, client| {
        let mut slow = Vec::new();
        for _ in 0..SLOW {
            let mut narrow = settings(16 << 10, 64 << 10);
            let connection = Client::connect_with(server.address(), &mut narrow)
                .await
                .expect("connects");
            let mut watching = connection.watching().await;
            watching.create(watch_span("k", "l")).await;
            slow.push((connection, watching));
        }
        let reader = Client::connect(server.address()).await;
        let mut quick = reader.watching().await;
        quick.create(watch_span("k", "l")).await;
        let first = client.revision().await + 1;
        let before = server.anonymous_memory_bytes();
        // 48 MB of values; kept for each of the slow ones it would be nearly 1 GB.
        let writing = async {
            let value = vec![b'x'; VALUE];
            for number in 0..WRITES {
                client.write(format!("k{}", number % 100), &value).await;
            }
        };
        let reading = async {
            let mut next = first;
            while next < first + WRITES as i64 {
                for event in quick.next().await.events {
                    assert_eq!(event.kv.expect("kv").mod_revision, next);
                    next += 1;
                }
            }
        };
        let begun = Instant::now();
        tokio::join!(writing, reading);
        let took = begun.elapsed();
        let grown = server.anonymous_memory_bytes().saturating_sub(before);
        println!(
            "{} MiB more with {SLOW} slow watchers, in {took:?}",
            grown >> 20
        );
        assert!(grown < 400 << 20, "grew by {grown} bytes");
        assert!(
            took < Duration::from_secs(30),
            "the slow held the quick up: {took:?}"
        );
        // Now they read after all: everything is there, once and in order.
        for (_connection, watching) in slow.iter_mut().take(3) {
            let mut next = first;
            while next < first + WRITES as i64 {
                let answer = watching.next().await;
                assert!(!answer.canceled, "nothing was compacted: {answer:?}");
                for event in answer.events {
                    assert_eq!(event.kv.expect("kv").mod_revision, next);
                    next += 1;
                }
            }
        }
    });
}

/// A large answer to a client that does not take it is not copied for each call.
#[test]
fn large_reads_nobody_takes_are_bounded() {
    fresh_with(Options::default(), async |server, client| {
        let value = vec![b'x'; 1 << 20];
        for number in 0..16 {
            client.write(format!("k{number:02}"), &value).await;
        }
        client.range(all()).await.expect("range");
        let before = server.anonymous_memory_bytes();
        let mut waiting = Vec::new();
        for _ in 0..20 {
            let mut narrow = settings(16 << 10, 64 << 10);
            let connection = Client::connect_with(server.address(), &mut narrow)
                .await
                .expect("connects");
            let (mut stream, answer) = connection.half_open("/etcdserverpb.KV/Range").await;
            stream
                .send_data(kvnode_tests::client::frame(&all()), true)
                .expect("open");
            waiting.push((connection, answer));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.write("k", "others are served").await;
        let grown = server.anonymous_memory_bytes().saturating_sub(before);
        println!(
            "20 answers of 16 MiB that nobody takes: {} MiB more",
            grown >> 20
        );
        // One copy each (320 MiB) and as much again of garbage is the worst to put up with.
        assert!(grown < 900 << 20, "grew by {grown} bytes");
        drop(waiting);
        assert_eq!(client.range(all()).await.expect("range").count, 17);
    });
}
