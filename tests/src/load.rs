//! Clients that write, read and watch at once while everything they do is recorded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kvnode_api as api;
use tokio::sync::watch;

use crate::client::{Client, code};
use crate::history::{Change, Recorder, Request};
use crate::words::*;

/// A small reproducible source of choices.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// 0 .. sides - 1
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// One client: one request after another, until told to stop or the server is gone. Every value written
/// names the client and the request's number, so no two writes look alike.
pub async fn client(
    number: u32,
    address: SocketAddr,
    recorder: Arc<Recorder>,
    seed: u64,
    stop: watch::Receiver<bool>,
) {
    let mut dice = Dice::new(seed ^ u64::from(number));
    let Ok(connection) = Client::try_connect(address).await else {
        return;
    };
    let connection = connection.with_patience(Duration::from_secs(5));
    let mut known = 1;
    for sequence in 0u64.. {
        if *stop.borrow() {
            return;
        }
        let request = any_request(&mut dice, &format!("{number}-{seed:x}-{sequence}"), known);
        match recorder.call(number, &connection, request).await {
            Ok(answer) => known = known.max(answer.header().map_or(0, |header| header.revision)),
            Err(status) if status.code >= code::UNAVAILABLE => return,
            Err(_) => (),
        }
    }
}

/// A mix over a dozen keys, so that clients meet.
pub fn any_request(dice: &mut Dice, tag: &str, known: i64) -> Request {
    let key = format!("key {}", dice.roll(12));
    let value = match dice.roll(20) {
        // Now and then more than a page, so that a torn write can be seen.
        0 => format!("{tag} {}", "x".repeat(20_000)),
        _ => tag.to_owned(),
    };
    let recent = 1.max(known - i64::try_from(dice.roll(20)).expect("small"));
    match dice.roll(16) {
        0..=5 => {
            let prev_kv = dice.roll(4) == 0;
            Request::Put(api::PutRequest {
                prev_kv,
                ..put(key, value)
            })
        }
        6 => Request::Delete(api::DeleteRangeRequest {
            prev_kv: true,
            ..delete(key)
        }),
        7 if dice.roll(4) == 0 => Request::Delete(delete_span("key 1", "key 2")),
        7 | 8 => Request::Txn(txn(
            vec![compare_number(&key, number::LESS, number::MOD, known)],
            vec![
                put(&key, &value).op(),
                get(&key).op(),
                put("both", &value).op(),
            ],
            vec![get(&key).op()],
        )),
        9 => Request::Txn(txn(
            vec![compare_number(&key, number::GREATER, number::CREATE, 0)],
            vec![delete(&key).op(), put("deleted last", &value).op()],
            vec![put(&key, &value).op(), then(vec![get(&key).op()]).op()],
        )),
        10 => Request::Range(api::RangeRequest { limit: 3, ..all() }),
        11 => Request::Range(api::RangeRequest {
            revision: recent,
            ..span("key", "kez")
        }),
        12 => Request::Range(api::RangeRequest {
            serializable: true,
            ..get(key)
        }),
        _ => Request::Range(get(key)),
    }
}

/// The store's own account from `start` on, read by a watch: each revision with its events.
pub async fn log_from(client: &Client, start: i64) -> Vec<Change> {
    let now = client.revision().await;
    let mut changes: Vec<Change> = Vec::new();
    if now < start {
        return changes;
    }
    let mut watching = client.watching().await;
    let request = api::WatchCreateRequest {
        start_revision: start,
        prev_kv: true,
        ..watch_span("\0", "\0")
    };
    let created = watching.create(request).await;
    assert!(!created.canceled, "{created:?}");
    while changes.last().is_none_or(|change| change.revision < now) {
        for event in watching.next().await.events {
            let revision = event.kv.as_ref().expect("events have keys").mod_revision;
            match changes.last_mut() {
                Some(last) if last.revision == revision => last.events.push(event),
                _ => changes.push(Change {
                    revision,
                    events: vec![event],
                }),
            }
        }
    }
    changes
}

/// Watches everything from `start` until the connection breaks, and returns what it was told.
pub async fn observer(address: SocketAddr, start: i64) -> Vec<api::WatchResponse> {
    let mut told = Vec::new();
    let Ok(connection) = Client::try_connect(address).await else {
        return told;
    };
    let (mut requests, mut answers) = connection.watch().await;
    let create = api::WatchCreateRequest {
        start_revision: start,
        ..watch_span("\0", "\0")
    };
    let union = api::watch_request::RequestUnion::CreateRequest(create);
    if requests
        .try_send(&api::WatchRequest {
            request_union: Some(union),
        })
        .is_err()
    {
        return told;
    }
    let limit = Duration::from_secs(20);
    while let Some(Ok(Some(answer))) = answers.within(limit).await {
        told.push(answer);
    }
    told
}
