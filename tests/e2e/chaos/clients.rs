//! Clients that go on with another member when theirs is gone, and watchers that do the same without missing anything.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvnode_api as api;
use kvnode_tests::Client;
use kvnode_tests::code;
use kvnode_tests::history::Recorder;
use kvnode_tests::load::{Dice, any_request};
use kvnode_tests::words::*;
use tokio::sync::watch;

/// Between two requests of a client: the machine has other work.
const THINK: Duration = Duration::from_millis(3);
/// How long an answer is waited for before the outcome counts as unknown.
const PATIENCE: Duration = Duration::from_secs(3);
/// Before the next member is tried.
const PAUSE: Duration = Duration::from_millis(30);

/// One client over many connections. Each connection is a client of its own in the history: what is promised to one client
/// about old reads is promised on one connection.
pub async fn roaming(
    number: u32,
    addresses: Arc<Vec<SocketAddr>>,
    recorder: Arc<Recorder>,
    seed: u64,
    stop: watch::Receiver<bool>,
) {
    let mut dice = Dice::new(seed ^ u64::from(number));
    let (mut known, mut sequence) = (1, 0u64);
    for life in 0u32.. {
        if *stop.borrow() {
            return;
        }
        let at = usize::try_from(dice.roll(addresses.len() as u64)).expect("few");
        let Some(connection) = connect(addresses[at]).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Not the same name twice, whatever the round.
        let name = number + 16 * life;
        while !*stop.borrow() {
            sequence += 1;
            let request = any_request(&mut dice, &format!("{number}-{seed:x}-{sequence}"), known);
            match recorder.call(name, &connection, request).await {
                Ok(answer) => {
                    known = known.max(answer.header().map_or(0, |header| header.revision));
                }
                Err(status) if status.code >= code::UNAVAILABLE => break,
                Err(_) => (),
            }
            tokio::time::sleep(THINK).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn connect(address: SocketAddr) -> Option<Client> {
    let connecting = Client::try_connect(address);
    let connected = tokio::time::timeout(PATIENCE, connecting).await.ok()?;
    Some(connected.ok()?.with_patience(PATIENCE))
}

/// What a watcher of everything has been told.
pub struct Seen {
    /// The first revision `responses` must account for.
    pub start: i64,
    /// The first not seen yet.
    pub next: i64,
    pub responses: Vec<api::WatchResponse>,
    /// How often it had to go on elsewhere.
    pub moves: usize,
}

/// A watcher of everything from the first revision on.
pub struct Watcher {
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watcher {
    /// Begins at `first` of the addresses and goes to the next one whenever its stream ends.
    pub fn start(first: usize, addresses: Arc<Vec<SocketAddr>>) -> Watcher {
        let seen = Arc::new(Mutex::new(Seen {
            start: 2,
            next: 2,
            responses: Vec::new(),
            moves: 0,
        }));
        let task = tokio::spawn(follow(first, addresses, Arc::clone(&seen)));
        Watcher { seen, task }
    }

    pub fn next(&self) -> i64 {
        lock(&self.seen).next
    }

    /// What came since this was last asked.
    pub fn take(&self) -> Seen {
        let mut seen = lock(&self.seen);
        let next = seen.next;
        let fresh = Seen {
            start: next,
            next,
            responses: Vec::new(),
            moves: 0,
        };
        std::mem::replace(&mut seen, fresh)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn follow(first: usize, addresses: Arc<Vec<SocketAddr>>, seen: Arc<Mutex<Seen>>) {
    for at in first.. {
        if let Some(connection) = connect(addresses[at % addresses.len()]).await {
            // Ends when the connection does.
            let _ = one_stream(&connection, &seen).await;
            lock(&seen).moves += 1;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn one_stream(connection: &Client, seen: &Mutex<Seen>) -> Option<()> {
    // Told by the server when it has lost its leader: the other members may have one.
    let strict = connection.clone().with_metadata("hasleader", "true");
    let path = "/etcdserverpb.Watch/Watch";
    let streams = strict.both_ways::<api::WatchRequest, api::WatchResponse>(path);
    let (mut requests, mut answers) = streams.await.ok()?;
    let create = api::WatchCreateRequest {
        start_revision: lock(seen).next,
        prev_kv: true,
        ..watch_span("\0", "\0")
    };
    let union = api::watch_request::RequestUnion::CreateRequest(create);
    let request = api::WatchRequest {
        request_union: Some(union),
    };
    requests.try_send(&request).ok()?;
    loop {
        let answer = answers.next_whenever().await.ok()??;
        if answer.canceled {
            return None;
        }
        let last = answer.events.last().and_then(|event| event.kv.as_ref());
        let mut seen = lock(seen);
        if let Some(kv) = last {
            seen.next = seen.next.max(kv.mod_revision + 1);
        }
        seen.responses.push(answer);
    }
}
