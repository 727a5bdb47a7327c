//! The words of the etcd v3 client API: messages, statuses with their exact texts, shape checks,
//! the gRPC length prefix and the table of methods. No I/O, no clock, no state.
//!
//! Invariants:
//! - Names, numbers and types of fields are those of etcd 3.6/3.7; a message encodes to the same
//!   bytes as any other proto3 encoder in field order would give.
//! - Decoding never panics. Nesting is bounded by prost's recursion limit of 100 messages, which
//!   a transaction uses up twice per level (the operation, then the transaction in it); the budget
//!   of operations in [`check::txn`] bounds it again.
//! - Texts in [`status`] are matched byte for byte by client libraries.
//!
//! The structs are written by hand with prost's derive; no generator or `protoc` is involved.
//! Field names are the protocol's in snake case (`ID` is `id`, `grantedTTL` is `granted_ttl`).

pub mod auth;
pub mod check;
pub mod cluster;
pub mod election;
pub mod encode;
pub mod frame;
pub mod header;
pub mod health;
pub mod json;
pub mod key_range;
pub mod kv;
pub mod lease;
pub mod lock;
pub mod maintenance;
pub mod mvcc;
pub mod service;
pub mod status;
pub mod watch;

pub use prost::Message;

pub use auth::*;
pub use cluster::*;
pub use election::*;
pub use header::*;
pub use health::*;
pub use key_range::{FROM_KEY, KeyRange};
pub use kv::*;
pub use lease::*;
pub use lock::*;
pub use maintenance::*;
pub use mvcc::*;
pub use status::{Code, Status};
pub use watch::*;

pub use compare::{CompareResult, CompareTarget};
pub use event::EventType;
pub use range_request::{SortOrder, SortTarget};
pub use watch_create_request::FilterType;
