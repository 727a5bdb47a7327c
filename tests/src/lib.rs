//! The harness of the whole-system tests: server processes, a gRPC client of its own, recorded
//! histories and the checker that judges them.
//!
//! Everything here but [`sim`] talks to a server the way a stranger would: a child process, its command
//! line, its port and its output. Nothing of that links the server's own crates but the message structs,
//! so the same tests run against any program that claims to speak this protocol:
//!
//! ```text
//! cargo test -p kvnode-tests                                   the workspace's own server, built first
//! KVNODE_TEST_SERVER_BIN=/usr/bin/etcd cargo test -p kvnode-tests      any etcd from 3.5 on
//! ```
//!
//! Further switches, all optional: `KVNODE_KILL_ROUNDS` and `KVNODE_KILL_SEED` (how often and when the
//! kill test kills; 8 and the clock), `KVNODE_CHAOS_ROUNDS`, `KVNODE_CHAOS_SEED` and `KVNODE_FAILOVER_ROUNDS`
//! (see `e2e/chaos/main.rs`), `KVNODE_ETCDCTL` (the tool, if not in the path),
//! `KVNODE_TEST_REQUIRE=etcdctl,curl,python,go,node,protoc` (a missing tool fails instead of being skipped),
//! `KVNODE_CHECK_PERF=1` (the minute of load that `etcdctl check perf` takes).
//!
//! A failed kill, chaos or order test keeps its history as JSON lines in the target directory and says where.
//!
//! [`sim`] is the other way round: the pure crates themselves, several members of them, in one thread
//! over simulated time, network and disks.
//!
//! Where releases of etcd differ visibly a test asks [`Kind`] and says what it expects of which.

pub mod build;
pub mod certs;
pub mod checker;
pub mod client;
pub mod cluster;
pub mod gateway;
pub mod history;
pub mod http;
pub mod load;
pub mod model;
pub mod pool;
pub mod program;
pub mod prometheus;
pub mod proxy;
pub mod server;
pub mod sim;
pub mod words;

pub use client::{Client, Status, code};
pub use cluster::Cluster;
pub use pool::{fresh, fresh_with, idle, run};
pub use server::{Kind, Options, Server};
