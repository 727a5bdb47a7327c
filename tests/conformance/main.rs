//! The protocol's promises, one test each, over gRPC against one member.
//!
//! Each test is named for its promise and carries the number of its line in the list of conformance cases
//! in its doc comment. The whole binary runs against any server of the protocol (see the harness); what
//! depends on the release is asked of `Kind` where it matters.

mod advisories;
mod auth;
mod cluster;
mod compaction;
mod election;
mod errors;
mod gateway;
mod http_side;
mod lease;
mod limits;
mod lock;
mod maintenance;
mod manners;
mod put_delete;
mod range;
mod range_stream;
mod txn;
mod watch;
mod watch_volume;
