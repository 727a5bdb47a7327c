//! A client for servers that speak the etcd v3 API: kvnode, and etcd from 3.4 on.
//!
//! ```no_run
//! use kvnode_client::{Client, Config, get, put};
//!
//! # async fn example() -> kvnode_client::Result<()> {
//! let client = Client::new(Config::new(["127.0.0.1:2379", "127.0.0.1:22379"]))?;
//! client.put(put("greeting", "hello")).await?;
//! let answer = client.range(get("greeting")).await?;
//! assert_eq!(answer.kvs[0].value, "hello");
//! # Ok(())
//! # }
//! ```
//!
//! What it does beyond passing messages:
//! - **Endpoints.** Calls go round among those that can be reached; one that fails is left alone for some
//!   seconds. Connections are made when needed, kept, and pinged while calls are open.
//! - **Repeats.** Reads are repeated after a failure, writes only if they surely were not processed
//!   ([`Client::unary`] tells which is which). A write whose fate is unknown is [`Error::Broken`].
//! - **Deadlines.** Each call has [`Config::call_timeout`]; the server is told. Streams have none.
//! - **Log-in.** With [`Credentials::Password`] a token is fetched when it is needed, and again when the
//!   server no longer takes it.
//! - **Watches** ([`Client::watch`]) go on after a break where they were.
//! - **Pages** beside the API, as `/metrics`: [`Client::page`].
//! - **Recipes.** [`concurrency`] has sessions, locks and elections, compatible with those of etcd's Go
//!   client on the same keys.
//!
//! `examples/` shows each of these at work; a test runs them against a server.
//!
//! Requests and answers are the messages of `kvnode-api`, re-exported as [`api`].
//!
//! Invariants: nothing is read from the environment; no thread is started; every public wait ends by an
//! answer, an error, the call's deadline or its being dropped; dropping a call cancels it.

mod auth;
pub mod blocking;
mod client;
mod cluster;
pub mod concurrency;
mod config;
mod connection;
mod endpoint;
mod error;
mod kv;
mod lease;
mod maintenance;
mod page;
mod pool;
mod source;
mod tls;
mod watch;

pub use kvnode_api as api;

pub use client::{Client, Repeat};
pub use config::{Config, Credentials};
pub use error::{Attempts, Error, Result};
pub use kv::{RangeStream, get, prefix, prefix_end, put};
pub use lease::KeepAlive;
pub use maintenance::{Snapshot, SnapshotPart};
pub use page::Page;
pub use source::{Unfit, cluster_of, snapshot_source};
pub use tls::Tls;
pub use watch::Watcher;
