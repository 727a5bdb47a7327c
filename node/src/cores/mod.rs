//! The executors and threads that carry a request, and what they tell each other.
//!
//! ```text
//! client core(s)  --ReplicaMessage-->  replica core  --DiskJob-->  WAL thread
//!       ^                                  |   ^--Written--------------'
//!       |                                  '--ApplyJob-->  apply thread
//!       '------------CoreMessage------------------------------'  (Applied to every core, index to the replica)
//! ```
//! All mailboxes carry batches: one push and at most one wake per batch.

pub mod apply;
pub mod client;
pub mod replica;

use std::sync::Arc;

use bytes::Bytes;
use kvnode_api::KeyValue;
use kvnode_api::status::Status;
use kvnode_replica::ConfChange;
use kvnode_store::engine::fjall::FjallEngine;
use kvnode_store::{BuiltFences, Change, LeaseChange, ReadHeads, Response};
use kvnode_wal::Entry;

use crate::auth::tokens::Change as TokenChange;
use crate::mailbox::Sender;
use crate::pool::Answer;
use crate::slots::Ticket;
use crate::snapshots::{InstallJob, ReplaceJob};
use kvnode_store::lease_clock::{Remaining, Renewal};

/// The state machine as this node runs it.
pub type Store = kvnode_store::Store<FjallEngine>;
/// A read handle at one revision.
pub type View = kvnode_store::View<<FjallEngine as kvnode_store::engine::Engine>::View>;

/// The mailboxes of all client cores, by core number.
pub type Mailboxes = Arc<[Sender<CoreMessage>]>;

/// Posts a message. Every mailbox here is bounded by what its senders have admitted, so it is never full; a closed one
/// belongs to a thread that has stopped, and nobody is left to care for the message.
pub fn post<T>(to: &Sender<T>, message: T) {
    let _ = to.push(message);
}

/// To a client core.
pub enum CoreMessage {
    /// A batch of entries was applied: changes for watchers and caches, the view after it, this core's results.
    Applied(Applied),
    /// Newest pairs as of the batch told last, for a cache that has room.
    Warm(Arc<Vec<KeyValue>>),
    /// A snapshot took the place of the state: nothing that was held of the old one counts.
    Installed { index: u64, view: View },
    /// A read may be answered once this core has seen the index applied.
    ReadIndex {
        token: u64,
        index: Result<u64, Status>,
    },
    /// A proposal was refused before it was logged.
    Refused { ticket: Ticket, status: Status },
    /// Reader threads finished.
    Answers(Vec<(Ticket, Answer)>),
    /// The lease clock answered.
    Lease { ticket: Ticket, answer: LeaseAnswer },
    /// A command to the replica core was carried out, or not.
    Done {
        ticket: Ticket,
        result: Result<(), Status>,
    },
    /// Another member answered, or cannot be asked (`None`).
    PeerAnswer { ticket: Ticket, body: Option<Bytes> },
    /// Another member asks; to be answered under its own ticket.
    Asked {
        from: u64,
        ticket: u64,
        kind: u8,
        body: Bytes,
    },
    /// Another leader, or none (0).
    Leader { leader: u64 },
    /// The process is stopping: refuse new work, end streams.
    Stop,
}

/// What apply hands to one client core.
pub struct Applied {
    pub index: u64,
    pub view: View,
    pub changes: Arc<Vec<Change>>,
    /// Results of proposals this core made.
    pub results: Vec<(Ticket, Result<Response, Status>)>,
    /// What the token tables have to follow.
    pub tokens: Arc<[TokenChange]>,
}

/// To the replica core.
pub enum ReplicaMessage {
    Propose {
        ticket: Ticket,
        payload: Bytes,
    },
    /// A change of the membership, judged on the members as of index `known`.
    Reconfigure {
        ticket: Ticket,
        change: ConfChange,
        known: u64,
    },
    /// Linearizable reads of one core, gathered under one token.
    Read {
        core: usize,
        token: u64,
    },
    /// The WAL has everything up to this write number on disk.
    Written(u64),
    /// The store has applied up to `index`.
    Applied {
        index: u64,
        view: View,
        leases: Vec<LeaseChange>,
        /// This member's own proposals among what was applied, if it has forwarded any.
        own: Vec<Ticket>,
    },
    /// For the leader's lease clock, wherever it is.
    Lease {
        ticket: Ticket,
        ask: LeaseAsk,
    },
    /// Everything up to this index is durable in the store.
    Durable(u64),
    /// Leadership is to go to another voter.
    Transfer {
        ticket: Ticket,
        to: u64,
    },
    /// The process stops: leadership goes to whoever can take it.
    HandOver,
    /// Asks another member.
    Ask {
        ticket: Ticket,
        to: u64,
        kind: u8,
        body: Bytes,
    },
    /// Answers another member's ask, under its ticket.
    Answer {
        to: u64,
        ticket: u64,
        body: Bytes,
    },
    /// A re-sync is about to ask `from` for its state, which will come under this number and is good if it is of this index at least.
    ExpectState {
        from: u64,
        serial: u64,
        index_min: u64,
    },
    /// It will not come, or not any more.
    ExpectNoState,
    /// Another member asks for the state of this one, which leads.
    SendState {
        ticket: Ticket,
        to: u64,
        serial: u64,
    },
    /// The apply thread has put another state in the place of the store's, at the same index; or why not.
    Replaced(Result<View, String>),
}

/// To the lease clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseAsk {
    /// Renew the lease, or only tell its remaining time.
    pub renew: bool,
    pub lease: i64,
    /// What the asker has seen applied: a grant up to here must be known before the lease is called unknown.
    pub seen: u64,
}

/// From the lease clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseAnswer {
    Renewal(Renewal),
    /// `None`: unknown lease.
    Remaining(Option<Remaining>),
    NotLeader,
}

/// To the apply thread.
pub enum ApplyJob {
    Entries(Vec<Entry>),
    /// Built beside; see `Store::install_fences`.
    Fences(Box<BuiltFences>),
    /// Read on the way; see `Store::take_read_heads`.
    Heads(Box<ReadHeads>),
    /// The staged state takes over; entries after it follow it.
    Install(InstallJob),
    /// The staged state takes the place of a wrong one.
    Replace(Box<ReplaceJob>),
    /// Another quota than at the start; `None` is none.
    Quota(Option<u64>),
    Stop,
}
