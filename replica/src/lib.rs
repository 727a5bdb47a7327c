//! The order: raft behind one poll-style face.
//!
//! A [`Replica`] is a pure machine. Time arrives as [`Replica::tick`], bytes from peers as
//! [`Replica::step`], the disk's and the store's progress as [`Replica::written`] and
//! [`Replica::applied`], chance as a seed; everything it wants done leaves through
//! [`Replica::poll`]. No clock, disk, socket, thread or random device is met in here, so the same
//! code runs under the node and under a simulator, and one seed gives one history.
//!
//! Invariants the crate keeps, whatever peers send and in whatever order:
//!
//! - no vote, no append answer and no message of a term leaves before what it promises is durable;
//!   only a leader's messages may run beside its own entry write, and heartbeat answers may
//!   overtake an entry write (never a term, a vote or a snapshot);
//! - an entry is handed out as committed only when it is durable here and on a quorum;
//! - a read is answered only with an index that a quorum confirmed after the read was asked;
//! - no byte from a peer reaches raft unchecked: absurd messages are dropped, a log shorter than
//!   the leader was told ends in a typed [`Error`], never in a panic.
//!
//! The raft crate's types stay inside. What other crates see are the log's own words
//! ([`kvnode_wal::Entry`], [`kvnode_wal::HardState`], [`kvnode_wal::Membership`]) and the few
//! structs below.

mod applying;
mod conf_change;
mod config;
mod error;
mod forwards;
mod incoming;
mod log;
mod logger;
mod membership;
mod message;
mod output;
mod peers;
mod proposals;
mod random;
mod reads;
mod ready;
mod reconfigure;
mod replica;
mod restored;
mod transfer;

pub use crate::conf_change::{ConfChange, Step, Transition};
pub use crate::config::Config;
pub use crate::error::{Error, MessageError, Refused};
pub use crate::log::{SnapshotOffer, SnapshotWanted};
pub use crate::membership::check as check_membership;
pub use crate::message::{Kind, Limits, Message};
pub use crate::output::{Install, Output, Role, RoleChange, Status, Write};
pub use crate::replica::Replica;
pub use crate::restored::Restored;
