//! CPU per proposal of a single voter, with the disk and the store answering at once: what the
//! replica itself costs. Measured as the thread's CPU time (Linux), so that a busy machine does not
//! show.
//!
//! ```text
//! cargo run --release -p kvnode-replica --example throughput [payload bytes] [proposals]
//! ```

use bytes::Bytes;
use kvnode_replica::{Config, Output, Replica, Restored};
use kvnode_wal::Membership;

fn main() {
    let mut numbers = std::env::args()
        .skip(1)
        .map(|arg| arg.parse().expect("a number"));
    let payload_bytes = numbers.next().unwrap_or(256);
    let proposals = numbers.next().unwrap_or(2_000_000);
    println!("payload {payload_bytes} bytes, {proposals} proposals per line");
    println!(
        "{:>6} {:>14} {:>14} {:>14}",
        "batch", "ns/proposal", "proposals/s", "ns/batch"
    );
    for batch in [1, 16, 256] {
        let seconds = run(batch, proposals, payload_bytes);
        let each = seconds / proposals as f64;
        println!(
            "{batch:>6} {:>14.0} {:>14.0} {:>14.0}",
            each * 1e9,
            1.0 / each,
            each * 1e9 * batch as f64
        );
    }
    let seconds = reads(proposals);
    println!(
        "reads, batches of 16: {:.0} ns each",
        seconds / proposals as f64 * 1e9
    );
}

/// CPU time of this thread.
#[expect(clippy::disallowed_methods, reason = "a measurement needs a clock")]
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds = text
        .split(' ')
        .next()
        .and_then(|first| first.parse::<f64>().ok());
    nanoseconds.expect("begins with a number") / 1e9
}

fn leader() -> (Replica, Output) {
    let membership = Membership {
        voters: vec![1],
        ..Membership::default()
    };
    let restored = Restored {
        membership,
        ..Restored::default()
    };
    let mut replica = Replica::new(Config::new(1), restored).expect("sound settings");
    let mut out = Output::default();
    replica.campaign_if_alone();
    settle(&mut replica, &mut out);
    assert!(replica.status().settled);
    (replica, out)
}

/// Polls to the end; the disk has written and the store has executed whatever it was given.
fn settle(replica: &mut Replica, out: &mut Output) -> usize {
    let mut committed = 0;
    while replica.poll(out) {
        if let Some(write) = out.write.take() {
            replica.written(write.number);
        }
        if let Some(last) = out.committed.last() {
            replica.applied(last.index);
        }
        committed += out.committed.len();
        out.clear();
    }
    committed
}

fn run(batch: usize, proposals: usize, payload_bytes: usize) -> f64 {
    let (mut replica, mut out) = leader();
    // A slice of a received frame: cloning it counts a reference, as in the node.
    let payload = Bytes::from(vec![7; payload_bytes]);
    let begun = cpu_seconds();
    let mut done = 0;
    let mut committed = 0;
    while done < proposals {
        for _ in 0..batch {
            replica.propose(payload.clone()).expect("within the limits");
        }
        done += batch;
        committed += settle(&mut replica, &mut out);
        if done % 300_000 < batch {
            replica.tick();
        }
    }
    let seconds = cpu_seconds() - begun;
    assert_eq!(committed, done);
    seconds * proposals as f64 / done as f64
}

fn reads(count: usize) -> f64 {
    let (mut replica, mut out) = leader();
    let begun = cpu_seconds();
    let mut answered = 0;
    for round in 0..count / 16 {
        for token in 0..16 {
            replica.read(round as u64 * 16 + token);
        }
        while replica.poll(&mut out) {
            answered += out.reads.len();
            out.clear();
        }
    }
    assert_eq!(answered, count / 16 * 16);
    cpu_seconds() - begun
}
