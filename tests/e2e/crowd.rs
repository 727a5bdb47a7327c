//! Very many clients that do nothing.

use std::time::Duration;

use kvnode_tests::{Options, fresh_with};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const WANTED: u64 = 10_000;
/// Of the descriptors, those that other tests of this process and the server's files may need.
const SPARE: u64 = 1_500;

/// Raises the soft limit of open files to the hard one and returns how many idle connections that allows.
fn affordable() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // May be refused; then the present limit counts.
    let _ = setrlimit(Resource::Nofile, limit);
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    WANTED.min(files.saturating_sub(SPARE))
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_disturb_nobody() {
    let count = affordable();
    if count < WANTED {
        println!("the limit of open files allows {count} connections instead of {WANTED}");
    }
    fresh_with(Options::default(), async |server, client| {
        client.write("k", "v").await;
        let before = server.anonymous_memory_bytes();
        let mut idle = Vec::new();
        for number in 0..count {
            let mut socket = TcpStream::connect(server.address())
                .await
                .expect("connects");
            if number % 2 == 0 {
                // Half of them have said hello in HTTP/2, the others say nothing at all.
                let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
                socket.write_all(hello).await.expect("accepted");
            }
            idle.push(socket);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let grown = server.anonymous_memory_bytes().saturating_sub(before);
        println!(
            "{count} idle connections: {} bytes each",
            grown / count.max(1)
        );
        // etcd takes about 45 kB each; nobody should take three times as much.
        assert!(
            grown < count * 150_000 + (64 << 20),
            "grew by {grown} bytes"
        );
        let begun = std::time::Instant::now();
        for number in 0..100 {
            client.write(format!("k{number}"), "v").await;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "100 puts took {:?}",
            begun.elapsed()
        );
        let late = kvnode_tests::Client::connect(server.address()).await;
        assert!(late.read("k").await.is_some(), "newcomers are served");
        drop(idle);
        tokio::time::sleep(Duration::from_millis(500)).await;
        late.write("after", "v").await;
    });
}
