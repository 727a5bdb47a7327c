//! The receiving side: bytes from the transport become `kv.staged`, or nothing.
//!
//! A thread per transfer reads what the sink is given, checks it piece by piece (see `kvnode_snapshot::Stream`) and writes it
//! straight into tables of a new engine beside the live one. The engine gets its name only after the last byte: when
//! footer, totals, digest and the hash over all records agree, and the state is at the index announced. Any error, and
//! any end before that, leaves nothing but a half-built directory that the next attempt replaces.
//!
//! Bounds: [`PIECES_WAITING`] pieces of at most `CHUNK_BYTES` wait for the thread; a full queue holds the sender back. One
//! thread works at a time, in the order they were started: a later one waits for the end of the one that was cancelled.

use std::cell::Cell;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Buf, Bytes};
use kvnode_replica::{Kind, Limits, Message};
use kvnode_snapshot::{Records, Stream};
use kvnode_store::datadir::Engines;
use kvnode_store::engine::Space;
use kvnode_store::engine::fjall::Options as EngineOptions;
use kvnode_store::export::{Record, Totals};
use kvnode_store::import::{ImportError, into_fjall};
use kvnode_store::schema::{META_KEY, Meta, SCHEMA_VERSION};

use super::meek::give_way;
use crate::peers::{SnapshotId, SnapshotSink};
use crate::resync::ALL_ARRIVED;

/// Pieces between the transport and the staging thread: 2 MiB.
const PIECES_WAITING: usize = 8;
/// How often a thread that waits for bytes looks whether it was cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(100);
const ANNOUNCEMENT_BYTES_MAX: u32 = 1 << 20;

/// Starts stagings, one after the other.
pub(super) struct Staging {
    plan: Plan,
    /// Closed when the thread started last has ended.
    last: Cell<Option<Receiver<()>>>,
}

/// A place in the order of threads that touch what is staged. A lock would not do: a thread started later could get it
/// first, and wait for bytes while the one before it waits for the lock.
struct Turn {
    before: Option<Receiver<()>>,
    _ends: Sender<()>,
}

impl Turn {
    /// Until the thread before has ended; nothing is ever sent.
    fn wait(&mut self) {
        if let Some(before) = self.before.take() {
            let _ = before.recv();
        }
    }
}

/// What a staging has to know.
#[derive(Clone)]
struct Plan {
    engines: Engines,
    options: EngineOptions,
    cluster: u64,
    member: u64,
}

/// A staging under way, as its owner sees it.
pub(super) struct Staged {
    cancelled: Arc<AtomicBool>,
    announcement: Arc<Mutex<Option<Message>>>,
    /// Bytes that have come.
    arrived: Arc<AtomicU64>,
}

/// The same as the transport sees it.
pub(super) struct Sink {
    pieces: Option<SyncSender<Vec<u8>>>,
    held: u64,
    arrived: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<Message, String>>>,
    announcement: Arc<Mutex<Option<Message>>>,
}

impl Staging {
    pub fn new(engines: Engines, options: EngineOptions, cluster: u64, member: u64) -> Self {
        let plan = Plan {
            engines,
            options,
            cluster,
            member,
        };
        Staging {
            plan,
            last: Cell::default(),
        }
    }

    fn turn(&self) -> Turn {
        let (ends, end) = channel();
        Turn {
            before: self.last.replace(Some(end)),
            _ends: ends,
        }
    }

    /// # Errors
    /// No thread is to be had.
    pub fn start(&self, from: u64, id: SnapshotId) -> io::Result<(Sink, Staged)> {
        let (sender, pieces) = sync_channel(PIECES_WAITING);
        let staged = Staged {
            cancelled: Arc::default(),
            announcement: Arc::default(),
            arrived: Arc::default(),
        };
        let (plan, mut turn) = (self.plan.clone(), self.turn());
        let mut source = Source {
            pieces,
            piece: Bytes::new(),
            cancelled: Arc::clone(&staged.cancelled),
        };
        let thread = std::thread::Builder::new()
            .name("kv-snap-stage".into())
            .spawn(move || {
                turn.wait();
                give_way();
                stage(&plan, from, id, &mut source)
            })?;
        let sink = Sink {
            pieces: Some(sender),
            held: 0,
            arrived: Arc::clone(&staged.arrived),
            thread: Some(thread),
            announcement: Arc::clone(&staged.announcement),
        };
        Ok((sink, staged))
    }

    /// Removes what is staged, on a thread.
    pub fn discard(&self) {
        let (plan, mut turn) = (self.plan.clone(), self.turn());
        let spawned = std::thread::Builder::new()
            .name("kv-snap-discard".into())
            .spawn(move || {
                turn.wait();
                if let Err(error) = plan.engines.discard_staged() {
                    log::warn!("a staged state was not removed: {error}");
                }
            });
        if let Err(error) = spawned {
            log::warn!("no thread to remove a staged state: {error}; the next start will");
        }
    }
}

impl Staged {
    /// The thread ends soon, with an error to the transport.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Counts the bytes that come.
    pub fn arrived(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.arrived)
    }

    /// raft's announcement, once the state is staged; once.
    pub fn announcement(&self) -> Option<Message> {
        self.announcement
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl Sink {
    /// The thread's result, after the last piece or a failure.
    fn end(&mut self) -> io::Result<Message> {
        self.pieces = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result.map_err(io::Error::other),
            _ => Err(io::Error::other("the staging thread is gone")),
        }
    }
}

impl SnapshotSink for Sink {
    fn resume_at(&mut self) -> io::Result<u64> {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            self.end()?;
        }
        Ok(self.held)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.pieces.as_ref().map(|to| to.send(bytes.to_vec()));
        if !matches!(sent, Some(Ok(()))) {
            self.end()?;
            return Err(io::Error::other("bytes after the end of the snapshot"));
        }
        self.held += bytes.len() as u64;
        self.arrived.store(self.held, Ordering::Relaxed);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.arrived.store(ALL_ARRIVED, Ordering::Relaxed);
        let message = self.end()?;
        *self
            .announcement
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(message);
        Ok(())
    }
}

/// Pieces as a stream; ends when the sink lets go of its end.
struct Source {
    pieces: Receiver<Vec<u8>>,
    piece: Bytes,
    cancelled: Arc<AtomicBool>,
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            if self.cancelled.load(Ordering::Acquire) {
                return Err(io::Error::other("another one was begun"));
            }
            match self.pieces.recv_timeout(CANCEL_POLL) {
                Ok(piece) => self.piece = piece.into(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            }
        }
        let taken = self.piece.len().min(buf.len());
        self.piece.copy_to_slice(&mut buf[..taken]);
        Ok(taken)
    }
}

fn stage(
    plan: &Plan,
    from: u64,
    id: SnapshotId,
    source: &mut impl Read,
) -> Result<Message, String> {
    plan.engines
        .discard_staged()
        .map_err(|error| error.to_string())?;
    let announcement = read_announcement(plan, from, id, source)?;
    let stream = Stream::open(source).map_err(|error| error.to_string())?;
    let info = stream.info();
    if (info.raft_index, info.raft_term) != (id.index, id.term)
        || info.cluster_id != plan.cluster
        || info.schema != u32::from(SCHEMA_VERSION)
    {
        return Err(format!(
            "announced as index {} of term {}, cluster {:x}; the stream says {info:?}",
            id.index, id.term, plan.cluster
        ));
    }
    let records = Incoming {
        stream,
        id,
        section: Space::State,
        records: None,
        totals: Totals::default(),
        seen_meta: false,
    };
    let totals =
        into_fjall(&plan.engines.staged(), &plan.options, records).map_err(
            |error| match error {
                ImportError::Source(why) => why,
                other => other.to_string(),
            },
        )?;
    log::debug!("{id}: {} records staged", totals.records());
    Ok(announcement)
}

fn read_announcement(
    plan: &Plan,
    from: u64,
    id: SnapshotId,
    source: &mut impl Read,
) -> Result<Message, String> {
    let io = |error: io::Error| format!("reading the announcement: {error}");
    let mut length = [0; 4];
    source.read_exact(&mut length).map_err(io)?;
    let length = u32::from_le_bytes(length);
    if length > ANNOUNCEMENT_BYTES_MAX {
        return Err(format!("an announcement of {length} bytes"));
    }
    let mut frame = vec![0; length as usize];
    source.read_exact(&mut frame).map_err(io)?;
    let message = Message::decode(frame.into(), &Limits::default())
        .map_err(|error| format!("the announcement: {error}"))?;
    let fits = message.kind == Kind::Snapshot
        && (message.from, message.to) == (from, plan.member)
        && (message.index, message.log_term) == (id.index, id.term)
        && message.membership.is_some();
    if fits {
        Ok(message)
    } else {
        Err(format!(
            "the announcement does not go with {id} from member {from:x}"
        ))
    }
}

/// The stream's records for the engine; the last thing it yields is an error unless everything was in order.
struct Incoming<R> {
    stream: Stream<R>,
    id: SnapshotId,
    section: Space,
    records: Option<Records>,
    totals: Totals,
    seen_meta: bool,
}

impl<R: Read> Iterator for Incoming<R> {
    type Item = Result<Record, String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.records.as_mut().and_then(Iterator::next) {
                let record = Record {
                    space: self.section,
                    key,
                    value,
                };
                self.totals.add(&record);
                return Some(self.check_meta(&record).map(|()| record));
            }
            match self.stream.next_chunk() {
                Ok(Some((section, records))) => {
                    let space = Space::ALL.into_iter().find(|space| *space as u8 == section);
                    let Some(space) = space else {
                        return Some(Err(format!("section {section} is not known here")));
                    };
                    self.section = space;
                    self.records = Some(records);
                }
                Ok(None) => return self.end().err().map(Err),
                Err(error) => return Some(Err(error.to_string())),
            }
        }
    }
}

impl<R: Read> Incoming<R> {
    fn check_meta(&mut self, record: &Record) -> Result<(), String> {
        if record.space != Space::State || record.key[..] != META_KEY {
            return Ok(());
        }
        let meta = Meta::decode(&record.value).map_err(|error| error.to_string())?;
        if (meta.applied_index, meta.applied_term) != (self.id.index, self.id.term) {
            return Err(format!(
                "announced at index {} of term {}, but the state is at {} of {}",
                self.id.index, self.id.term, meta.applied_index, meta.applied_term
            ));
        }
        self.seen_meta = true;
        Ok(())
    }

    fn end(&self) -> Result<(), String> {
        let told = self
            .stream
            .summary()
            .map_or(0, |summary| summary.logical_hash);
        if !self.seen_meta {
            return Err("it has no record of its own numbers".into());
        }
        if told != self.totals.hash() {
            return Err(format!(
                "its records hash to {:032x}, {told:032x} was told",
                self.totals.hash()
            ));
        }
        Ok(())
    }
}
