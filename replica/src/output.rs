//! What a replica wants done, and what it looks like from outside.

use kvnode_wal::{Entry, HardState, Membership};

use crate::error::{Error, Refused};
use crate::log::SnapshotWanted;
use crate::message::Message;

/// Everything [`poll`](crate::Replica::poll) asks for. The vectors are appended to; the caller
/// drains them and hands the same `Output` in again, so nothing is allocated per poll for them.
#[derive(Debug, Default)]
pub struct Output {
    /// Send now. May be lost, doubled and reordered; the transport should still try not to.
    pub messages: Vec<Message>,
    /// Make durable, in the order handed out, then report [`written`](crate::Replica::written).
    /// Must be taken before the next poll.
    pub write: Option<Write>,
    /// Committed and durable here: execute in order, then report
    /// [`applied`](crate::Replica::applied). Conf change entries and empty ones are among them.
    pub committed: Vec<Entry>,
    /// Reads by token: the index that must be applied before the read is served, or why not.
    pub reads: Vec<(u64, Result<u64, Refused>)>,
    /// Forwarded proposals by ticket: the leader took it (which is not yet a commit), or not.
    pub forwards: Vec<(u64, Result<(), Refused>)>,
    /// The newest role, when term, leader or role have changed.
    pub role: Option<RoleChange>,
    /// The newest membership, when it has changed by an applied entry or an installed snapshot.
    pub membership: Option<Membership>,
    /// A peer needs a snapshot that names it; see [`offer_snapshot`](crate::Replica::offer_snapshot).
    pub snapshot_wanted: Option<SnapshotWanted>,
    /// This member's own removal was applied. Send what is left, then stop.
    pub removed: bool,
    /// The replica has stopped for good.
    pub failure: Option<Error>,
}

impl Output {
    /// True if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.write.is_none()
            && self.committed.is_empty()
            && self.reads.is_empty()
            && self.forwards.is_empty()
            && self.role.is_none()
            && self.membership.is_none()
            && self.snapshot_wanted.is_none()
            && !self.removed
            && self.failure.is_none()
    }

    /// Forgets everything, keeps the buffers.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.write = None;
        self.committed.clear();
        self.reads.clear();
        self.forwards.clear();
        self.role = None;
        self.membership = None;
        self.snapshot_wanted = None;
        self.removed = false;
        self.failure = None;
    }
}

/// One job for the log, atomic from the replica's point of view: a snapshot mark, then entries,
/// then the hard state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Rises with every write, by one or more.
    pub number: u64,
    /// The state to switch to, already staged by the node (see [`Kind::Snapshot`]).
    /// [`applied`](crate::Replica::applied) with its index follows after
    /// [`written`](crate::Replica::written).
    ///
    /// [`Kind::Snapshot`]: crate::Kind::Snapshot
    pub install: Option<Install>,
    /// Replace everything from the first one's index on.
    pub entries: Vec<Entry>,
    pub hard_state: Option<HardState>,
    /// False when only the commit index moved: nothing waits for such a write, it may ride along.
    pub must_sync: bool,
}

/// The snapshot that takes the place of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    pub index: u64,
    pub term: u64,
    pub membership: Membership,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Follower,
    /// Asks whether an election could be won.
    PreCandidate,
    Candidate,
    Leader,
    /// Removed from the cluster, or stopped by an error.
    Out,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleChange {
    pub term: u64,
    pub leader: Option<u64>,
    pub role: Role,
}

/// A look at the replica between two calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    pub term: u64,
    pub leader: Option<u64>,
    pub role: Role,
    pub commit: u64,
    pub applied: u64,
    pub last_index: u64,
    /// First index still in memory.
    pub first_index: u64,
    /// Up to here the log is durable here.
    pub persisted: u64,
    /// As leader: an entry of the own term is committed, so reads can be confirmed.
    pub settled: bool,
    /// Bytes of the in-memory tail.
    pub tail_bytes: usize,
    /// Messages from peers that made no sense and were dropped, since the start.
    pub dropped_messages: u64,
    pub stalled: bool,
}
