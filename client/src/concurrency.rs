//! Sessions, locks and elections, made of keys on a lease.
//!
//! They follow the layout of etcd's Go client (`concurrency`): whoever takes part puts the key
//! `<name>/<lease in hexadecimal>`; the one with the smallest create revision holds the lock or leads,
//! and every other waits for the key just before its own to go. So programs of both kinds can share them.
//!
//! ```no_run
//! use kvnode_client::{Client, Config, concurrency::{Lock, Session}};
//!
//! # async fn example() -> kvnode_client::Result<()> {
//! let client = Client::new(Config::new(["127.0.0.1:2379"]))?;
//! let session = Session::new(&client, 10).await?;
//! let mut lock = Lock::new(&session, "backup");
//! lock.acquire().await?;
//! tokio::select! {
//!     () = work() => {}
//!     () = session.expired() => eprintln!("somebody else may hold it now"),
//! }
//! lock.release().await?;
//! session.close().await
//! # }
//! # async fn work() {}
//! ```

mod election;
mod lock;
mod session;

pub use election::{Election, Observer};
pub use lock::Lock;
pub use session::Session;

use bytes::Bytes;
use kvnode_api as api;
use kvnode_api::compare::{CompareResult, CompareTarget, TargetUnion};
use kvnode_api::request_op::Request;

use crate::client::Client;
use crate::error::Result;

/// `<name>/<lease>`.
fn own_key(prefix: &[u8], lease: i64) -> Bytes {
    let mut key = prefix.to_vec();
    key.extend_from_slice(format!("{lease:x}").as_bytes());
    key.into()
}

fn with_slash(name: impl AsRef<[u8]>) -> Bytes {
    let mut prefix = name.as_ref().to_vec();
    prefix.push(b'/');
    prefix.into()
}

fn created_at(key: &Bytes, revision: i64) -> api::Compare {
    api::Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        range_end: Bytes::new(),
    }
}

fn op(request: Request) -> api::RequestOp {
    api::RequestOp {
        request: Some(request),
    }
}

/// The oldest (or newest) key below `prefix`, by creation.
fn by_creation(prefix: &Bytes, order: api::SortOrder) -> api::RangeRequest {
    let (key, range_end) = crate::kv::prefix(prefix.clone());
    api::RangeRequest {
        key,
        range_end,
        limit: 1,
        sort_order: order as i32,
        sort_target: api::SortTarget::Create as i32,
        ..Default::default()
    }
}

/// The pairs a range inside a transaction returned.
fn range_of(response: Option<&api::ResponseOp>) -> &[api::KeyValue] {
    match response.and_then(|response| response.response.as_ref()) {
        Some(api::response_op::Response::ResponseRange(range)) => &range.kvs,
        _ => &[],
    }
}

/// Waits until every key below `prefix` created up to `revision` is gone.
async fn wait_for_older(
    client: &Client,
    prefix: &Bytes,
    revision: i64,
) -> Result<Option<api::ResponseHeader>> {
    loop {
        let mut newest = by_creation(prefix, api::SortOrder::Descend);
        newest.max_create_revision = revision;
        let answer = client.range(newest).await?;
        let Some(kv) = answer.kvs.first() else {
            return Ok(answer.header);
        };
        let seen = answer.header.map_or(0, |header| header.revision);
        wait_for_delete(client, &kv.key, seen).await?;
    }
}

/// Waits until `key`, which was there at `revision`, is deleted.
async fn wait_for_delete(client: &Client, key: &Bytes, revision: i64) -> Result<()> {
    let mut watcher = client.watch(api::WatchCreateRequest {
        key: key.clone(),
        start_revision: revision,
        ..Default::default()
    });
    loop {
        let response = watcher.next().await?;
        if response
            .events
            .iter()
            .any(|event| event.r#type == api::EventType::Delete as i32)
        {
            return Ok(());
        }
    }
}
