//! The state machine through its public face: one test per promise of the protocol that is decided
//! in the store, and random runs against a naive model on both engines.

mod alarm;
mod auth;
mod compaction;
mod counting;
mod harness;
mod history;
mod kv;
mod lease;
mod members;
mod model;
mod paging;
mod random;
mod range;
mod restart;
mod speed;
mod txn;
