//! The state of a member on its way to another: what the two ends provide.
//!
//! A snapshot travels over a connection of its own, driven by blocking threads: not a byte of it
//! passes an executor. A broken connection does not begin it anew: the receiver says how many bytes
//! it holds, and the sender goes on from there.

mod conn;
mod leash;
mod pace;
mod receive;
mod send;

use std::fmt;
use std::io;
use std::sync::mpsc::{self, Receiver, SyncSender};

use super::frame::CHUNK_BYTES;
pub(super) use pace::Pace;
pub(super) use receive::{Transfers, receive};
pub(super) use send::{Outgoing, send};

/// Names the exact bytes of one snapshot. Whoever offers other bytes (a state staged anew, even at
/// the same index) draws another `serial`: under one id, an offset means the same place for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId {
    /// The last log index contained.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Random per staged snapshot.
    pub serial: u64,
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SnapshotId {
            index,
            term,
            serial,
        } = self;
        write!(
            f,
            "snapshot at index {index} of term {term} ({serial:016x})"
        )
    }
}

/// What is sent. Lives on the thread of its transfer, where it may block; dropped there when the
/// transfer is over, whether it succeeded or not.
pub trait SnapshotSource: Send {
    /// Total bytes, if known beforehand. Only the receiver's progress display needs it.
    fn bytes(&self) -> Option<u64>;

    /// Reads at `offset` into `buf` (never empty) and returns how many bytes that were; 0 only at
    /// the end. Offsets follow each other, except that after a broken connection one may be
    /// smaller (never below what the receiver said it holds) or, on the first read, larger than 0.
    ///
    /// # Errors
    /// Any error ends the transfer for good; a generator that cannot go back says so with one.
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
}

/// What takes the bytes. Lives on the thread of its transfer, where it may block: not returning
/// from `write` is the back-pressure. Dropped there if the transfer fails.
pub trait SnapshotSink: Send {
    /// Bytes already held, from which the sender goes on. Called at the beginning and after each
    /// broken connection; not 0 at the beginning if an earlier life left a part of the same id.
    ///
    /// # Errors
    /// Any error ends the transfer for good.
    fn resume_at(&mut self) -> io::Result<u64>;

    /// The next bytes, in order, without gap or repetition. At most [`CHUNK_BYTES`].
    ///
    /// # Errors
    /// Any error ends the transfer for good.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// All bytes are here: checks and keeps them. The sender hears of success only after this.
    ///
    /// # Errors
    /// Any error ends the transfer for good.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// A snapshot that a peer wants to send. Dropping it refuses it.
pub struct IncomingSnapshot {
    pub from: u64,
    pub id: SnapshotId,
    /// Total bytes, if the sender knows.
    pub bytes: Option<u64>,
    verdict: Option<SyncSender<Verdict>>,
}

/// What the node says to an offer.
type Verdict = Result<Box<dyn SnapshotSink>, String>;

impl IncomingSnapshot {
    fn new(from: u64, id: SnapshotId, bytes: Option<u64>) -> (Self, Receiver<Verdict>) {
        let (sender, receiver) = mpsc::sync_channel(1);
        let incoming = IncomingSnapshot {
            from,
            id,
            bytes,
            verdict: Some(sender),
        };
        (incoming, receiver)
    }

    /// Takes the snapshot into `sink`. If that has all bytes already (the sender did not hear of
    /// it and offers them again), its `resume_at` says so, and `finish` is called next.
    pub fn accept(mut self, sink: Box<dyn SnapshotSink>) {
        self.say(Ok(sink));
    }

    /// Does not take it; the sender's transfer fails with these words.
    pub fn refuse(mut self, why: impl Into<String>) {
        self.say(Err(why.into()));
    }

    fn say(&mut self, verdict: Verdict) {
        if let Some(sender) = self.verdict.take() {
            // Nobody waits any more if the transfer was given up.
            let _ = sender.try_send(verdict);
        }
    }
}

impl Drop for IncomingSnapshot {
    fn drop(&mut self) {
        self.say(Err("the receiver does not want it".to_owned()));
    }
}

impl fmt::Debug for IncomingSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingSnapshot")
            .field("from", &self.from)
            .field("id", &self.id)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// What becomes of snapshots. For every `send_snapshot` there is exactly one `Sent` or
/// `SendFailed`, for every accepted offer exactly one `Received` or `ReceiveFailed`, except after
/// `Peers::stop`.
#[derive(Debug)]
pub enum SnapshotEvent {
    /// A peer wants to send one; answer it soon, the sender waits.
    Offered(IncomingSnapshot),
    /// The sink has everything and its `finish` succeeded.
    Received { from: u64, id: SnapshotId },
    ReceiveFailed {
        from: u64,
        id: SnapshotId,
        why: String,
    },
    /// The receiver has everything and kept it.
    Sent { to: u64, id: SnapshotId },
    SendFailed {
        to: u64,
        id: SnapshotId,
        why: String,
    },
}
