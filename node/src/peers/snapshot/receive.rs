//! Receiving a snapshot: one thread per transfer, which keeps the node's sink over broken
//! connections.
//!
//! The first connection's thread becomes the transfer's. A later one brings the same id: its thread
//! hands the connection over and ends. The transfer waits for that for `snapshot_patience`. A sender
//! that offers another id has given the earlier one up.

use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::BufMut;

use super::conn::{Broken, Conn, Failed};
use super::leash::Leash;
use super::{IncomingSnapshot, SnapshotEvent, SnapshotId, SnapshotSink};
use crate::http::Permit;
use crate::mailbox::Sender;
use crate::peers::frame::{FrameError, Kind};
use crate::peers::inner::Inner;
use crate::peers::stream::Blocking;
use crate::peers::traffic;
use crate::peers::{Limits, PeerEvent};

/// Threads beyond one per transfer: connections that have yet to say which transfer they bring.
const SPARE_THREADS: usize = 4;

/// The transfers under way.
pub(crate) struct Transfers {
    list: Mutex<Vec<Entry>>,
    threads: AtomicUsize,
    limits: Limits,
}

struct Entry {
    from: u64,
    id: SnapshotId,
    leash: Arc<Leash>,
    next: SyncSender<Caller>,
}

/// A connection, counted as long as it lives.
struct Caller {
    conn: Conn,
    _permit: Permit,
}

/// What becomes of a connection that has said what it brings.
enum Place {
    /// It is the first of a transfer.
    Begin(Caller, Arc<Leash>, Receiver<Caller>),
    /// The transfer has it.
    Joined,
    Busy(Caller),
}

impl Transfers {
    pub(crate) fn new(limits: &Limits) -> Arc<Transfers> {
        Arc::new(Transfers {
            list: Mutex::new(Vec::new()),
            threads: AtomicUsize::new(0),
            limits: limits.clone(),
        })
    }

    /// Whether a further connection has to come later.
    pub(crate) fn is_crowded(&self) -> bool {
        self.threads.load(Ordering::Relaxed) >= self.limits.snapshots_in_max + SPARE_THREADS
    }

    /// Gives up what comes from these members.
    pub(crate) fn cancel(&self, of: impl Fn(u64) -> bool) {
        self.lock().retain(|entry| {
            let cancelled = of(entry.from);
            if cancelled {
                entry.leash.pull();
            }
            !cancelled
        });
    }

    fn enter(&self, from: u64, id: SnapshotId, caller: Caller) -> Place {
        let mut list = self.lock();
        if let Some(entry) = list.iter().find(|e| (e.from, e.id) == (from, id)) {
            // The old connection may look alive still; the sender has left it.
            entry.leash.cut();
            // Full: yet another one waits already, and this one is dialled again.
            let _ = entry.next.try_send(caller);
            return Place::Joined;
        }
        list.retain(|entry| {
            if entry.from == from {
                entry.leash.pull();
            }
            entry.from != from
        });
        if list.len() >= self.limits.snapshots_in_max {
            return Place::Busy(caller);
        }
        let (next, callers) = mpsc::sync_channel(1);
        let leash = Arc::new(Leash::default());
        list.push(Entry {
            from,
            id,
            leash: Arc::clone(&leash),
            next,
        });
        Place::Begin(caller, leash, callers)
    }

    /// Takes the transfer out, unless that has been done.
    fn leave(&self, leash: &Arc<Leash>) {
        self.lock()
            .retain(|entry| !Arc::ptr_eq(&entry.leash, leash));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a connection on which a member wants to send a snapshot.
pub(crate) fn receive(inner: &Rc<Inner>, from: u64, stream: Blocking, permit: Permit) {
    let counted = Counted::new(&inner.transfers);
    let mail = inner.mail.clone();
    let traffic = inner.traffic.of(from);
    let thread = std::thread::Builder::new()
        .name("snapshot-in".to_owned())
        .spawn(move || {
            let caller = Caller {
                conn: Conn::new(stream),
                _permit: permit,
            };
            hear(&counted.0, from, &traffic, caller, &mail);
        });
    if let Err(error) = thread {
        log::warn!("no thread to receive a snapshot from member {from:x}: {error}");
    }
}

struct Counted(Arc<Transfers>);

impl Counted {
    fn new(transfers: &Arc<Transfers>) -> Counted {
        transfers.threads.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(transfers))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.threads.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Hears what the connection brings, and brings it where it belongs.
fn hear(
    transfers: &Transfers,
    from: u64,
    traffic: &traffic::Member,
    mut caller: Caller,
    mail: &Sender<PeerEvent>,
) {
    let limit = transfers.limits.greeting_limit;
    let limited = caller.conn.set_limits(limit, limit).map_err(Broken::from);
    let (id, bytes) = match limited.and_then(|()| caller.conn.receive_offer()) {
        Ok(offer) => offer,
        Err(broken) => {
            log::warn!("member {from:x} offered no snapshot where it should: {broken}");
            return;
        }
    };
    match transfers.enter(from, id, caller) {
        Place::Joined => {}
        Place::Busy(caller) => {
            let why = "other snapshots are being received";
            caller.conn.fail(true, why);
        }
        Place::Begin(caller, leash, callers) => {
            let mut transfer = Transfer {
                from,
                id,
                traffic,
                limits: &transfers.limits,
                leash: &leash,
                callers,
            };
            let event = transfer.run(bytes, caller, mail, || transfers.leave(&leash));
            if let Some(event) = event {
                let _ = mail.push(PeerEvent::Snapshot(event));
            }
        }
    }
}

struct Transfer<'a> {
    from: u64,
    id: SnapshotId,
    traffic: &'a traffic::Member,
    limits: &'a Limits,
    leash: &'a Arc<Leash>,
    callers: Receiver<Caller>,
}

/// Why a connection did not bring everything.
enum Stop {
    Broken(String),
    /// We cannot go on.
    Ours(String),
    /// The sender cannot.
    Theirs(Failed),
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Stop {
        Stop::Broken(broken.to_string())
    }
}

impl Transfer<'_> {
    /// Returns what to tell the node, if it was part of this.
    fn run(
        &mut self,
        bytes: Option<u64>,
        caller: Caller,
        mail: &Sender<PeerEvent>,
        leave: impl Fn(),
    ) -> Option<SnapshotEvent> {
        let (from, id) = (self.from, self.id);
        let (incoming, verdict) = IncomingSnapshot::new(from, id, bytes);
        let offered = PeerEvent::Snapshot(SnapshotEvent::Offered(incoming));
        // If there is nobody to take it, it is dropped, which is a verdict.
        drop(mail.push(offered));
        let verdict = verdict.recv_timeout(self.limits.snapshot_patience);
        let sink = verdict.unwrap_or_else(|_| Err("the receiver has not decided in time".into()));
        let sink = match sink {
            Ok(sink) => sink,
            Err(why) => {
                leave();
                log::info!("{id} from member {from:x} was refused: {why}");
                caller.conn.fail(false, &why);
                return None;
            }
        };
        let begin = Instant::now();
        self.traffic.snapshots_in.begin();
        let outcome = self.take_all(sink, caller);
        let took = outcome.is_ok().then(|| begin.elapsed());
        self.traffic.snapshots_in.end(took);
        leave();
        Some(match outcome {
            Ok(bytes) => {
                log::info!("received {id} from member {from:x}: {bytes} bytes");
                SnapshotEvent::Received { from, id }
            }
            Err(why) => {
                log::warn!("receiving {id} from member {from:x} has failed: {why}");
                SnapshotEvent::ReceiveFailed { from, id, why }
            }
        })
    }

    fn take_all(
        &mut self,
        mut sink: Box<dyn SnapshotSink>,
        mut caller: Caller,
    ) -> Result<u64, String> {
        loop {
            let taken = self.take_some(sink.as_mut(), &mut caller.conn);
            self.leash.release();
            let stop = match taken {
                Ok(total) => return finish(sink, caller, total),
                Err(stop) => stop,
            };
            if self.leash.is_pulled() {
                return Err("it was given up".to_owned());
            }
            let why = match stop {
                Stop::Broken(why) => why,
                Stop::Theirs(failed) => return Err(format!("the sender: {}", failed.why)),
                Stop::Ours(why) => {
                    caller.conn.fail(false, &why);
                    return Err(why);
                }
            };
            drop(caller);
            log::info!(
                "receiving {} from member {:x} was interrupted: {why}; waiting for it to go on",
                self.id,
                self.from
            );
            let patience = self.limits.snapshot_patience;
            caller = self.callers.recv_timeout(patience).map_err(|_| {
                if self.leash.is_pulled() {
                    "it was given up".to_owned()
                } else {
                    format!("interrupted ({why}) and not gone on with for {patience:.0?}")
                }
            })?;
        }
    }

    /// Takes what one connection brings; returns the total if that was the end.
    fn take_some(&mut self, sink: &mut dyn SnapshotSink, conn: &mut Conn) -> Result<u64, Stop> {
        let patience = self.limits.snapshot_patience;
        conn.cutter()
            .map(|cutter| self.leash.hold(cutter))
            .and_then(|()| conn.set_limits(patience, self.limits.greeting_limit))
            .map_err(Broken::from)?;
        let mut offset = sink.resume_at().map_err(|error| {
            Stop::Ours(format!("the receiver does not know where it is: {error}"))
        })?;
        conn.send(Kind::Resume, |out| out.put_u64_le(offset))?;
        loop {
            match conn.receive()? {
                Kind::Chunk if conn.number(Kind::Chunk)? == offset => {
                    let bytes = &conn.body[8..];
                    sink.write(bytes)
                        .map_err(|error| Stop::Ours(format!("writing at {offset}: {error}")))?;
                    self.traffic.received_bytes.add(bytes.len());
                    offset += bytes.len() as u64;
                }
                Kind::End if conn.number(Kind::End)? == offset => return Ok(offset),
                kind @ (Kind::Chunk | Kind::End) => {
                    let found = conn.number(kind)?;
                    return Err(Stop::Broken(format!(
                        "{kind:?} at offset {found} where {offset} was to come"
                    )));
                }
                Kind::Failed => return Err(Stop::Theirs(conn.failed())),
                other => return Err(Broken::from(FrameError::Unexpected(other)).into()),
            }
        }
    }
}

fn finish(sink: Box<dyn SnapshotSink>, caller: Caller, total: u64) -> Result<u64, String> {
    let mut conn = caller.conn;
    match sink.finish() {
        Ok(()) => {
            // If this is lost the sender offers it again, and a sink that has it says so.
            let _ = conn.send(Kind::Kept, |_| ());
            Ok(total)
        }
        Err(error) => {
            let why = format!("checking what was received: {error}");
            conn.fail(false, &why);
            Err(why)
        }
    }
}
