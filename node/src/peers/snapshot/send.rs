//! Sending a snapshot: one thread per transfer, from the first dial to the receiver's word that it
//! has kept everything.
//!
//! A broken connection is dialled anew and the receiver says from where to go on. The transfer
//! fails when the source fails, when the receiver does not want it, or when for `snapshot_patience`
//! it has not come further.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::BufMut;

use super::conn::{Broken, Conn, Failed};
use super::leash::Leash;
use super::pace::Pace;
use super::{SnapshotEvent, SnapshotId, SnapshotSource};
use crate::mailbox::Sender;
use crate::peers::backoff::BackOff;
use crate::peers::dial::Dial;
use crate::peers::frame::{FrameError, Kind};
use crate::peers::greeting::{Hello, Purpose, Refusal};
use crate::peers::inner::{Inner, Remote};
use crate::peers::traffic;
use crate::peers::{Limits, PeerEvent};

/// A transfer under way.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) id: SnapshotId,
    leash: Arc<Leash>,
}

impl Outgoing {
    /// Gives it up; it reports its failure.
    pub(crate) fn cancel(&self) {
        self.leash.pull();
    }
}

/// Starts to send; see `Peers::send_snapshot`.
pub(crate) fn send(
    inner: &Rc<Inner>,
    remote: &Rc<Remote>,
    id: SnapshotId,
    source: Box<dyn SnapshotSource>,
) {
    let leash = Arc::new(Leash::default());
    let outgoing = Outgoing {
        id,
        leash: Arc::clone(&leash),
    };
    let identity = &inner.identity;
    let job = Job {
        to: remote.member,
        id,
        source,
        leash,
        pace: Arc::clone(&inner.pace),
        traffic: Arc::clone(&remote.traffic),
        dial: Dial {
            urls: remote.urls.borrow().clone(),
            first: 0,
            hello: Hello::new(identity, remote.member, Purpose::Snapshot),
            limits: inner.limits.clone(),
            tls: inner.tls.clone(),
        },
        back_off: BackOff::new(
            inner.limits.back_off_min,
            inner.limits.back_off_max,
            identity.incarnation ^ id.serial,
        ),
        reached: None,
        stuck_since: None,
    };
    let mail = inner.mail.clone();
    let thread = std::thread::Builder::new()
        .name("snapshot-out".to_owned())
        .spawn(move || job.run(&mail));
    match thread {
        Ok(_) => *remote.outgoing.borrow_mut() = Some(outgoing),
        Err(error) => {
            let to = remote.member;
            let why = format!("no thread to send it: {error}");
            let failed = SnapshotEvent::SendFailed { to, id, why };
            let _ = inner.mail.push(PeerEvent::Snapshot(failed));
        }
    }
}

struct Job {
    to: u64,
    id: SnapshotId,
    source: Box<dyn SnapshotSource>,
    leash: Arc<Leash>,
    pace: Arc<Pace>,
    traffic: Arc<traffic::Member>,
    dial: Dial,
    back_off: BackOff,
    /// How many bytes the receiver said it holds.
    reached: Option<u64>,
    /// Since when that has not grown, over broken connections.
    stuck_since: Option<Instant>,
}

/// Why a connection did not bring the transfer to its end.
enum Stop {
    /// Another connection may.
    Retry(String),
    /// Nothing will. Those who cannot know are told.
    ForGood { why: String, told: bool },
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Stop {
        Stop::Retry(broken.to_string())
    }
}

impl From<Failed> for Stop {
    fn from(failed: Failed) -> Stop {
        let why = format!("the receiver: {}", failed.why);
        match failed.later {
            true => Stop::Retry(why),
            false => Stop::ForGood { why, told: true },
        }
    }
}

impl Job {
    fn run(mut self, mail: &Sender<PeerEvent>) {
        let (to, id) = (self.to, self.id);
        let begin = Instant::now();
        self.traffic.snapshots_out.begin();
        let carried = self.carry_out();
        let took = begin.elapsed();
        self.traffic
            .snapshots_out
            .end(carried.is_ok().then_some(took));
        let event = match carried {
            Ok(bytes) => {
                log::info!("sent {id} to member {to:x}: {bytes} bytes in {took:.1?}");
                SnapshotEvent::Sent { to, id }
            }
            Err(why) => {
                log::warn!("sending {id} to member {to:x} has failed: {why}");
                SnapshotEvent::SendFailed { to, id, why }
            }
        };
        // The source may hold files; they are closed before the node hears of the end.
        drop(self);
        let _ = mail.push(PeerEvent::Snapshot(event));
    }

    fn carry_out(&mut self) -> Result<u64, String> {
        loop {
            let stopped = self.one_connection();
            if self.leash.is_pulled() {
                return stopped.map_err(|_| "it was given up".to_owned());
            }
            let why = match stopped {
                Ok(bytes) => return Ok(bytes),
                Err(Stop::ForGood { why, .. }) => return Err(why),
                Err(Stop::Retry(why)) => why,
            };
            let now = Instant::now();
            let since = *self.stuck_since.get_or_insert(now);
            let patience = self.limits().snapshot_patience;
            if now - since >= patience {
                return Err(format!("no progress for {patience:.0?}: {why}"));
            }
            log::info!(
                "sending {} to member {:x} was interrupted: {why}; going on shortly",
                self.id,
                self.to
            );
            if self.leash.pause(self.back_off.pause()) {
                return Err("it was given up".to_owned());
            }
        }
    }

    fn limits(&self) -> &Limits {
        &self.dial.limits
    }

    /// Dials and sends what the receiver does not have; returns the total.
    fn one_connection(&mut self) -> Result<u64, Stop> {
        let dialled = self.dial.run().map_err(|failures| {
            let why = failures.to_string();
            match failures.refusal() {
                None | Some(Refusal::Busy { .. }) => Stop::Retry(why),
                Some(_) => Stop::ForGood { why, told: true },
            }
        })?;
        self.dial.first += 1;
        let mut conn = Conn::new(dialled.stream);
        let patience = self.limits().snapshot_patience;
        conn.cutter()
            .map(|cutter| self.leash.hold(cutter))
            .and_then(|()| conn.set_limits(patience, patience))
            .map_err(Broken::from)?;
        let sent = self.offer_and_send(&mut conn);
        self.leash.release();
        if let Err(Stop::ForGood { why, told: false }) = &sent {
            conn.fail(false, why);
        }
        sent
    }

    fn offer_and_send(&mut self, conn: &mut Conn) -> Result<u64, Stop> {
        conn.send_offer(self.id, self.source.bytes())?;
        let mut offset = match conn.receive()? {
            Kind::Resume => conn.number(Kind::Resume)?,
            Kind::Failed => return Err(conn.failed().into()),
            other => return Err(Broken::from(FrameError::Unexpected(other)).into()),
        };
        if self.reached.is_none_or(|reached| offset > reached) {
            self.reached = Some(offset);
            self.stuck_since = None;
            self.back_off.reset();
        }
        let mut chunk = vec![0; self.pace.chunk_bytes()];
        loop {
            let read = self.source.read_at(offset, &mut chunk);
            let read = read.map_err(|error| Stop::ForGood {
                why: format!("reading at offset {offset}: {error}"),
                told: false,
            })?;
            if read == 0 {
                break;
            }
            if self.leash.pause(self.pace.wait(read, Instant::now())) {
                return Err(Stop::Retry("it was given up".to_owned()));
            }
            // Nothing is expected but bad news, and that ends it.
            if conn.has_input() {
                return Err(bad_news(conn));
            }
            let sent = conn.send(Kind::Chunk, |out| {
                out.put_u64_le(offset);
                out.put_slice(&chunk[..read]);
            });
            if let Err(broken) = sent {
                // It may have been said why before it was closed.
                return Err(if conn.has_input() {
                    bad_news(conn)
                } else {
                    broken.into()
                });
            }
            self.traffic.sent_bytes.add(read);
            offset += read as u64;
        }
        conn.send(Kind::End, |out| out.put_u64_le(offset))?;
        let limits = self.limits();
        conn.set_limits(limits.snapshot_finish_limit, limits.snapshot_patience)
            .map_err(Broken::from)?;
        match conn.receive()? {
            Kind::Kept => Ok(offset),
            Kind::Failed => Err(conn.failed().into()),
            other => Err(Broken::from(FrameError::Unexpected(other)).into()),
        }
    }
}

fn bad_news(conn: &mut Conn) -> Stop {
    match conn.receive() {
        Ok(Kind::Failed) => conn.failed().into(),
        Ok(other) => Broken::from(FrameError::Unexpected(other)).into(),
        Err(broken) => broken.into(),
    }
}
