//! A connection for messages: one task that reads, writes and watches over the silence.
//!
//! A turn reads at most [`TURN_BYTES`], hands everything that came to the node in one call, and
//! writes about as much of what waits. While the socket takes nothing, the lanes fill and drop; the
//! other connections have tasks of their own and do not notice.
//!
//! A peer that is silent for `ping_after` is pinged; one that has not answered that until
//! `dead_after` has passed is given up. Any byte counts as an answer. What is waiting in the socket
//! is read before silence is judged, so a stall of our own is not taken for one of theirs. Now and then
//! ([`PROBE_EVERY`]) a peer that talks is pinged too, to see how long that takes.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use kvnode_replica::{Kind as MessageKind, Message};

use super::bell::Bell;
use super::frame::{Decoder, Frame, FrameError, Kind, le64, put};
use super::inner::Inner;
use super::lanes::{Item, Lanes};
use super::stream::Stream;
use super::traffic;
use super::{Limits, PeerEvent};
use crate::rt;

/// Bytes a connection may read, and write, before other tasks run.
const TURN_BYTES: usize = 256 << 10;

/// The buffer all connections of the executor read into; the most one read returns.
pub(super) const READ_BYTES: usize = 256 << 10;

/// How often the round trip is measured, while anything goes back and forth at all.
const PROBE_EVERY: Duration = Duration::from_secs(4);

/// A write buffer that a large message has made longer than this is not kept.
const KEPT_OUT_BYTES: usize = 1 << 20;

/// What others may do to a connection.
pub(super) struct Wire {
    /// The peer's incarnation.
    pub life: u64,
    lanes: RefCell<Lanes>,
    /// Something was queued since the last flush.
    dirty: Cell<bool>,
    bell: Bell,
    farewell: Cell<Option<Farewell>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell {
    /// Another connection has taken its place, or the member is gone.
    AtOnce,
    /// Write what waits, tell the peer that it was removed, end.
    Removed,
}

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the peer closed it")]
    Closed,
    #[error("the peer closed it in the middle of a frame")]
    Torn,
    #[error("{0}")]
    Broken(#[from] io::Error),
    #[error("what came makes no sense: {0}")]
    Nonsense(#[from] FrameError),
    #[error("nothing was heard for {0:.1?}")]
    Silent(Duration),
    #[error("it was replaced")]
    Replaced,
    #[error("the member was removed")]
    Removed,
    #[error("the peer says that this member was removed")]
    WeAreRemoved,
    #[error("this member is stopping")]
    Stopped,
}

impl Wire {
    pub(super) fn new(life: u64, limits: &Limits) -> Rc<Wire> {
        Rc::new(Wire {
            life,
            lanes: RefCell::new(Lanes::new(limits)),
            dirty: Cell::new(false),
            bell: Bell::default(),
            farewell: Cell::new(None),
        })
    }

    /// Queues until the next flush; `false` if its lane is full.
    pub(super) fn push(&self, item: Item) -> bool {
        let taken = self.lanes.borrow_mut().push(item);
        if taken {
            self.dirty.set(true);
        }
        taken
    }

    pub(super) fn flush(&self) {
        if self.dirty.replace(false) {
            self.bell.ring();
        }
    }

    pub(super) fn end(&self, farewell: Farewell) {
        self.farewell.set(Some(farewell));
        self.bell.ring();
    }
}

/// Serves the connection with `member` to its end.
pub(super) async fn serve(
    inner: &Rc<Inner>,
    member: u64,
    wire: &Rc<Wire>,
    mut stream: Stream,
) -> End {
    stream.settle();
    let now = Instant::now();
    let mut driver = Driver {
        inner,
        member,
        wire,
        stream,
        decoder: Decoder::default(),
        frames: Vec::new(),
        events: Vec::new(),
        out: BytesMut::new(),
        heard: now,
        pinged: None,
        traffic: inner.traffic.of(member),
        probe_at: now,
        probed: None,
        timer: rt::sleep_until(now + inner.limits.ping_after),
    };
    let mut stopped = pin!(inner.stop.wait());
    poll_fn(|cx| {
        if stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Stopped);
        }
        match driver.turn(cx) {
            Poll::Ready(Err(end)) => Poll::Ready(end),
            Poll::Ready(Ok(never)) => match never {},
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

enum Never {}

struct Driver<'a> {
    inner: &'a Rc<Inner>,
    member: u64,
    wire: &'a Rc<Wire>,
    stream: Stream,
    decoder: Decoder,
    frames: Vec<Frame>,
    events: Vec<PeerEvent>,
    /// Frames on their way; what is written is taken off the front.
    out: BytesMut,
    heard: Instant,
    /// When the ping was sent that nothing has followed yet.
    pinged: Option<Instant>,
    traffic: Arc<traffic::Member>,
    /// When to measure the round trip next, and since when it is being measured.
    probe_at: Instant,
    probed: Option<Instant>,
    timer: rt::Sleep,
}

impl Driver<'_> {
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<Never, End>> {
        let read = self.read(cx);
        if !self.events.is_empty() {
            self.inner.emit(std::mem::take(&mut self.events));
        }
        read?;
        self.watch(cx)?;
        loop {
            if self.wire.farewell.get() == Some(Farewell::AtOnce) {
                return Poll::Ready(Err(End::Replaced));
            }
            let written = self.write(cx)?;
            if written.is_ready() && self.wire.farewell.get() == Some(Farewell::Removed) {
                put(&mut self.out, Kind::Removed, |_| ());
                ready!(self.write(cx)?);
                return Poll::Ready(Err(End::Removed));
            }
            ready!(self.wire.bell.poll(cx));
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let inner = Rc::clone(self.inner);
        let mut buffer = inner.buffer.borrow_mut();
        let mut left = TURN_BYTES;
        loop {
            if left == 0 {
                cx.waker().wake_by_ref();
                return Ok(());
            }
            let room = buffer.len().min(left);
            let read = match self.stream.poll_read(cx, &mut buffer[..room]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(read) => read?,
            };
            if read == 0 {
                let whole = self.decoder.is_between_frames();
                return Err(if whole { End::Closed } else { End::Torn });
            }
            left -= read;
            self.traffic.received_bytes.add(read);
            self.heard = Instant::now();
            self.pinged = None;
            if self.probed.is_none() && self.heard >= self.probe_at {
                self.wire.lanes.borrow_mut().ping = true;
                self.probed = Some(self.heard);
            }
            let fed = self.decoder.feed(&buffer[..read], &mut self.frames);
            let mut frames = std::mem::take(&mut self.frames);
            let taken = frames.drain(..).try_for_each(|frame| self.take(frame));
            self.frames = frames;
            if taken.is_err() || fed.is_err() {
                self.traffic.received_failures.add(1);
            }
            taken?;
            fed?;
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), End> {
        let Frame { kind, mut body } = frame;
        let event = match kind {
            Kind::Message => match Message::decode(body, &self.inner.message_limits) {
                Ok(message) if message.from != self.member => {
                    self.distrust(format_args!("it speaks as member {:x}", message.from));
                    return Ok(());
                }
                Ok(message) if message.to != self.inner.identity.member => {
                    self.distrust(format_args!("it is for member {:x}", message.to));
                    return Ok(());
                }
                Ok(message) => {
                    if !is_idle_talk(&message) {
                        rt::mark_busy();
                    }
                    PeerEvent::Message(message)
                }
                Err(error) => {
                    self.distrust(format_args!("{error}"));
                    return Ok(());
                }
            },
            Kind::Ping => {
                self.wire.lanes.borrow_mut().pong = true;
                return Ok(());
            }
            Kind::Pong => {
                if let Some(probed) = self.probed.take() {
                    self.traffic.round_trip(self.heard - probed);
                    self.probe_at = self.heard + PROBE_EVERY;
                }
                return Ok(());
            }
            Kind::Ask => {
                need(kind, body.len(), 9)?;
                let (ticket, kind) = (le64(&body, 0), body[8]);
                body.advance(9);
                PeerEvent::Ask {
                    from: self.member,
                    ticket,
                    kind,
                    body,
                }
            }
            Kind::Answer => {
                need(kind, body.len(), 8)?;
                let ticket = le64(&body, 0);
                body.advance(8);
                PeerEvent::Answer {
                    from: self.member,
                    ticket,
                    body,
                }
            }
            Kind::Removed => {
                self.events.push(PeerEvent::Removed { by: self.member });
                return Err(End::WeAreRemoved);
            }
            Kind::Offer | Kind::Resume | Kind::Chunk | Kind::End | Kind::Kept | Kind::Failed => {
                return Err(FrameError::Unexpected(kind).into());
            }
        };
        self.events.push(event);
        Ok(())
    }

    /// The frame is whole but its message cannot be used. Losing a message is always legal, ending
    /// the connection would only bring the next one.
    fn distrust(&self, why: std::fmt::Arguments<'_>) {
        self.traffic.received_failures.add(1);
        if let Some(more) = self.inner.unusable.due() {
            log::warn!(
                "a message from member {:x} was dropped: {why} ({more} more since the last such line); \
                 check that both run versions that may be mixed",
                self.member
            );
        }
    }

    fn watch(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while Pin::new(&mut self.timer).poll(cx).is_ready() {
            let (now, limits) = (Instant::now(), &self.inner.limits);
            let silence = now - self.heard;
            let patience = limits.dead_after.saturating_sub(limits.ping_after);
            let next = match self.pinged {
                Some(pinged) if now - pinged >= patience => return Err(End::Silent(silence)),
                Some(pinged) => pinged + patience,
                None if silence >= limits.ping_after => {
                    self.wire.lanes.borrow_mut().ping = true;
                    self.pinged = Some(now);
                    now + patience.min(limits.ping_after)
                }
                None => self.heard + limits.ping_after,
            };
            self.timer = rt::sleep_until(next);
        }
        Ok(())
    }

    /// Writes what waits, up to [`TURN_BYTES`]; ready when nothing is left.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        let mut left = TURN_BYTES;
        loop {
            if left == 0 {
                cx.waker().wake_by_ref();
                return Ok(Poll::Pending);
            }
            if self.out.is_empty() {
                if self.out.capacity() > KEPT_OUT_BYTES {
                    self.out = BytesMut::new();
                } else {
                    self.out.clear();
                }
                self.wire.lanes.borrow_mut().gather(&mut self.out);
                if self.out.is_empty() {
                    return match self.stream.poll_flush(cx) {
                        Poll::Ready(flushed) => Ok(Poll::Ready(flushed?)),
                        Poll::Pending => Ok(Poll::Pending),
                    };
                }
            }
            match self.stream.poll_write(cx, &self.out) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Ok(0)) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Poll::Ready(Ok(written)) => {
                    self.traffic.sent_bytes.add(written);
                    self.out.advance(written);
                    left = left.saturating_sub(written);
                }
                Poll::Ready(Err(error)) => return Err(error.into()),
            }
        }
    }
}

/// What members say although no client wants anything: the executor may sleep between two of them.
fn is_idle_talk(message: &Message) -> bool {
    let beat = matches!(
        message.kind,
        MessageKind::Heartbeat | MessageKind::HeartbeatAnswer
    );
    // A context is a batch of reads.
    beat && message.context.is_empty()
}

fn need(kind: Kind, found: usize, needed: usize) -> Result<(), FrameError> {
    if found < needed {
        return Err(FrameError::TooShort {
            kind,
            found,
            needed,
        });
    }
    Ok(())
}
