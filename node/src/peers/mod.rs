//! How members talk to each other: the transport on the peer port.
//!
//! Each member dials every other one it knows; either side of a connection may send on it. Messages
//! of raft, asks and answers share one connection, a snapshot has one of its own.
//!
//! Invariants:
//! - A message leaves at most once. What was queued or under way when a connection broke is lost and
//!   never sent on another one, so a forwarded proposal cannot run twice on our account.
//! - Nothing here waits for a peer: [`Peers::send`] queues or drops, names are resolved and
//!   connections made on threads, snapshots move on threads.
//! - `events` is called from tasks of this executor, never from inside a method of [`Peers`].

mod limits;
mod snapshot;

use std::io;
use std::net::TcpListener;
use std::time::Instant;

use bytes::Bytes;
use kvnode_replica::Message;

pub use limits::Limits;
pub use snapshot::{
    CHUNK_BYTES, IncomingSnapshot, SnapshotEvent, SnapshotId, SnapshotSink, SnapshotSource,
};

/// The longest body of an ask or its answer, in bytes.
pub const ASK_BYTES_MAX: usize = 1 << 20;

/// Who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: u64,
    pub member: u64,
    /// Random per life of the process; also the seed of the transport's jitter.
    pub incarnation: u64,
}

/// Where a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    pub member: u64,
    /// `http://host:port`, tried in turn.
    pub urls: Vec<String>,
}

/// What arrives.
#[derive(Debug)]
pub enum PeerEvent {
    /// From a member of our cluster, addressed to us, and checked by `Message::decode`.
    Message(Message),
    /// An append for this member was dropped, or a connection broke that may have held some.
    Unreachable(u64),
    /// The first connection with this member stands, or a new life of it has replaced the old one.
    Connected(u64),
    /// The last connection with this member is gone.
    Disconnected(u64),
    /// To be answered with [`Peers::answer`] under the same ticket, or not at all.
    Ask {
        from: u64,
        ticket: u64,
        kind: u8,
        body: Bytes,
    },
    Answer {
        from: u64,
        ticket: u64,
        body: Bytes,
    },
    /// A peer said that we are no longer a member.
    Removed {
        by: u64,
    },
    Snapshot(SnapshotEvent),
}

/// The transport; lives on one executor. Clones are handles to the same transport.
#[derive(Clone)]
pub struct Peers {}

impl Peers {
    /// Starts to accept from `listeners` (which may be none). `events` gets everything that arrived
    /// in one read in one call; it must not call back into the transport's owner while that is
    /// inside a method of this handle, which it cannot: it is called from tasks only. What it is
    /// given is bounded if it is consumed on this executor: a connection reads at most 256 KiB
    /// beyond one message before other tasks run.
    ///
    /// # Errors
    /// No thread or descriptor to be had.
    pub fn start(
        _identity: Identity,
        _listeners: Vec<TcpListener>,
        _limits: Limits,
        _events: impl Fn(Vec<PeerEvent>) + 'static,
    ) -> io::Result<Peers> {
        Ok(Peers {})
    }

    /// The members as of now, ourselves included or not, and all that were ever removed. New ones
    /// are dialled, gone ones dropped, removed ones told so and refused from now on. Members of the
    /// cluster we have not heard of yet may connect; they are answered on their own connections.
    pub fn set_members(&self, _members: &[PeerAddress], _removed: &[u64]) {}

    /// Queues `message` for `message.to`. Dropped if there is no connection or its lane is full;
    /// for an append that is told as [`PeerEvent::Unreachable`]. Nothing leaves before
    /// [`Peers::flush`].
    pub fn send(&self, _message: Message) {}

    /// End of a turn: wakes each connection that was given something.
    pub fn flush(&self) {}

    /// Asks a member. `false`: not connected, too long ([`ASK_BYTES_MAX`]) or too many waiting. The
    /// answer may never come; the deadline is the asker's. Leaves with the next flush.
    pub fn ask(&self, _to: u64, _ticket: u64, _kind: u8, _body: Bytes) -> bool {
        false
    }

    /// Answers an ask; dropped where `ask` would say `false`. Leaves with the next flush.
    pub fn answer(&self, _to: u64, _ticket: u64, _body: Bytes) {}

    pub fn connected(&self, member: u64) -> bool {
        self.connected_since(member).is_some()
    }

    pub fn connected_since(&self, _member: u64) -> Option<Instant> {
        None
    }

    /// Sends a snapshot to a member, beside the messages. One at a time per member: another one
    /// under way is given up (and reported so), unless it has the same id, then `source` is
    /// dropped and that one goes on.
    pub fn send_snapshot(&self, _to: u64, _id: SnapshotId, _source: Box<dyn SnapshotSource>) {}

    /// Closes listeners and connections; no event comes after this. What was sent and flushed in
    /// this turn may or may not leave.
    pub fn stop(&self) {}
}
