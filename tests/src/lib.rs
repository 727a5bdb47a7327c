//! The harness of the whole-system tests: server processes, a gRPC client of its own, recorded
//! histories and the checker that judges them.
//!
//! Everything here talks to a server the way a stranger would: a child process, its command line, its
//! port and its output. Nothing links the server's own crates but the message structs, so the same
//! tests run against any program that claims to speak this protocol:
//!
//! ```text
//! cargo test -p kvnode-tests                                   the workspace's own server, built first
//! KVNODE_TEST_SERVER_BIN=/usr/bin/etcd cargo test -p kvnode-tests      any etcd from 3.5 on
//! ```
//!
//! Where releases of etcd differ visibly a test asks [`Kind`] and says what it expects of which.

pub mod build;
pub mod checker;
pub mod client;
pub mod history;
pub mod http;
pub mod model;
pub mod pool;
pub mod server;
pub mod words;

pub use client::{Client, Status, code};
pub use pool::{fresh, fresh_with, idle, run};
pub use server::{Kind, Options, Server};
