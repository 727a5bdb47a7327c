//! The replicated state: committed commands in, revisions, replies and events out.
//!
//! [`Store`] is the machine: one owner applies committed log entries to it, each in one engine
//! batch, and publishes a [`View`] after every step. Views answer every read, from any thread.
//!
//! How the files hang together, from the front door inwards:
//! * `apply.rs` decodes an entry ([`command`]) and sends it to its part; `store.rs` holds the parts
//!   together and commits; `mvcc.rs` turns writes into changes, `txn.rs` runs transactions,
//!   `lease.rs`, `alarm.rs`, `members.rs` and [`auth`] keep their tables, `compact.rs` forgets.
//! * `view.rs` answers reads: `range.rs` and `history.rs` over `source.rs` (present, with an
//!   unfinished batch on top) and `chain.rs` (past); `answer.rs` gives ranges as the bytes a client
//!   gets, out of `pages.rs` where it can; `hash.rs` compares members.
//! * [`schema`] has every stored byte, [`engine`] the ordered store below, with one body on disk
//!   and one in memory.
//!
//! Two pure parts serve the shell beside the machine: `lease_clock.rs` says which leases are due at
//! a time it is told, `recent.rs` holds the newest changes for watches.
//!
//! The crate meets no clock, no randomness, no socket: time and ids arrive inside entries.

mod alarm;
mod answer;
mod apply;
pub mod audit;
pub mod auth;
mod chain;
mod change;
pub mod check;
mod codec;
pub mod command;
mod compact;
mod count;
pub mod datadir;
pub mod engine;
mod error;
pub mod export;
pub mod fences;
mod hash;
mod heads;
mod history;
pub mod import;
mod lease;
pub mod lease_clock;
mod members;
mod mvcc;
mod pages;
pub mod quota;
mod range;
pub mod recent;
pub mod remake;
mod revision;
pub mod schema;
pub mod select;
mod source;
mod store;
mod txn;
mod view;
pub mod watch;

pub use alarm::Alarms;
pub use change::Change;
pub use command::{Command, CommandError, Header, Kind, RequestId};
pub use count::{BuiltFences, FenceBuilder};
pub use error::Error;
pub use heads::ReadHeads;
pub use history::History;
pub use lease::{LeaseChange, LeaseInfo};
pub use members::{Members, Rules as MemberRules};
pub use revision::{FIRST_REVISION, NEVER_COMPACTED, Revision};
pub use store::{Committed, Config, Reply, Response, Step, Store};
pub use view::{Sizes, Slice, Stats, View};
