//! The shell of the server: the only crate with executors, sockets, clocks and threads.
//!
//! `node.rs` is the front door (start and stop order); `cores/` carries a request; `http/`, `grpc/` and `gateway/` are its
//! way in and out; `disk.rs` and `maintenance.rs` are the threads that sync. Everything that decides lives in the pure crates.

pub mod config;
pub mod exit;
pub mod http;
pub mod logging;
pub mod mailbox;
pub mod node;
pub mod notify;
pub mod peers;
pub mod preflight;
pub mod reload;
pub mod rt;
pub mod version;

mod admin;
mod announce;
mod asked;
pub mod auth;
mod cache;
mod compactor;
mod cores;
mod departure;
mod discovery;
mod disk;
mod force;
mod gateway;
mod grpc;
mod health;
mod integrity;
mod join;
mod live;
mod maintenance;
mod memberlist;
mod metrics;
mod open;
mod pool;
mod prefixes;
mod process;
mod quota;
mod ranges;
mod reserve;
mod resync;
mod shared;
mod slots;
mod slow_disk;
mod snapshots;
pub mod tls;
mod watches;
