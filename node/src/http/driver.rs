//! One future per HTTP/2 connection: it owns the engine's connection and the set of its calls.
//!
//! A turn: accept every request that has been read, poll the calls until all wait, let the service
//! hand over what they gathered for other threads, and let the engine write all answers in one go.
//! A call never is a task of its own: tasks run at once when spawned, so each answer would leave
//! with a system call of its own.
//!
//! Bounds: requests accepted per turn, bytes read per turn (see `io.rs`), rounds per turn; unsent
//! bytes (see `link.rs`), above which no further request is accepted and the peer's open requests
//! stay with the engine, at most `max_concurrent_streams` and what fits the bytes still read then.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::server::{Builder, Connection};
use h2::{Ping, PingPong, Reason};

use super::call::{self, Work};
use super::face::{Service, TurnedAway};
use super::frames;
use super::gate::Gate;
use super::io::{Io, Wire};
use super::link::Link;
use super::refusals::Refused;
use super::together::{self, Waiting};
use super::{HEADER_LIST_BYTES_MAX, Options};
use crate::rt;

/// Requests taken per round before the accepted ones are polled.
const ACCEPT_MAX: usize = 512;

/// Rounds per turn, after which other connections get their chance.
const ROUNDS_MAX: usize = 4;

/// Bytes of one call that the engine may hold, sent and not written.
const CALL_SEND_BYTES_MAX: usize = 1 << 20;

/// What the engine may spend on keeping track of small pieces of requests, at a quarter KiB each;
/// more of them unread end the connection.
const SMALL_FRAMES_BYTES_MAX: usize = 16 << 20;

/// Resets by the peer of calls not yet accepted, and resets of our own making, before the
/// connection is taken for an attack.
const RESETS_MAX: usize = 256;

/// Longest header list that reaches us to be refused.
const ENGINE_HEADER_LIST_BYTES_MAX: u32 = 2 * HEADER_LIST_BYTES_MAX as u32;

/// Bytes that a peer may still send while the bound on its unsent answers is reached. All requests
/// in them stay with the engine, which has no bound of its own on how many those are.
const FULL_READ_BYTES_MAX: usize = 256 << 10;

/// Least distance between two looks at the deadlines.
const DEADLINE_STEP: Duration = Duration::from_millis(2);

/// How long the peer may take to read our last frame.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Serves one connection until it ends. `shutdown` starts the orderly end: no new calls, and
/// [`Options::shutdown_grace`] for those that are open.
pub(super) async fn drive<S: Service>(
    wire: Rc<Wire>,
    service: Rc<S>,
    link: Rc<Link>,
    shutdown: rt::Shutdown,
) {
    let handshake = builder(&link.options).handshake::<_, Bytes>(Io(Rc::clone(&wire)));
    let limit = link.options.first_bytes_timeout;
    let connection = match rt::timeout(limit, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            if is_breach(&error) {
                service.turned_away(TurnedAway::Protocol);
            }
            return;
        }
        Err(rt::Elapsed) => {
            service.turned_away(TurnedAway::SlowStart);
            return;
        }
    };
    wire.enable_gathering();
    let (starter, started) = (Rc::clone(&service), Rc::clone(&link));
    let start = move |work| call::run(Rc::clone(&starter), Rc::clone(&started), work);
    let mut driver = Driver::new(connection, wire, service, link, &shutdown, start);
    let end = std::future::poll_fn(|cx| driver.turn(cx)).await;
    if end == End::TooManyPings {
        driver.service.turned_away(TurnedAway::Pings);
        driver.send_away().await;
    }
}

/// Whether the engine ended the connection because of what the peer did.
fn is_breach(error: &h2::Error) -> bool {
    error.is_library() && (error.is_go_away() || error.is_reset())
}

fn builder(options: &Options) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(options.max_concurrent_streams)
        .initial_window_size(options.stream_window_bytes)
        .initial_connection_window_size(options.connection_window_bytes)
        .max_header_list_size(ENGINE_HEADER_LIST_BYTES_MAX)
        .max_send_buffer_size(CALL_SEND_BYTES_MAX)
        .data_frame_budget(SMALL_FRAMES_BYTES_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(Some(RESETS_MAX));
    builder
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The peer left, broke the protocol, or was served to the end.
    Over,
    TooManyPings,
}

/// What came of accepting.
enum Accepted {
    /// Every request there is for now.
    All,
    /// As many as a round takes; there may be more.
    Some,
    End(End),
}

struct Driver<S: Service, F, W> {
    connection: Connection<Io, Bytes>,
    calls: FuturesUnordered<F>,
    start: W,
    /// Calls that can be answered, until all requests of the round are accepted.
    ready: Vec<Waiting<S::Begun>>,
    /// Calls of the round that wait for the same word.
    together: Vec<Waiting<S::Begun>>,
    /// Those that wait for a word each.
    side_by_side: Vec<Waiting<S::Begun>>,
    gate: Arc<Gate>,
    /// Leads through the gate.
    waker: Waker,
    wire: Rc<Wire>,
    service: Rc<S>,
    link: Rc<Link>,
    shutdown: rt::ShutdownWait,
    /// Set once the orderly end has begun: when it becomes disorderly.
    grace: Option<rt::Sleep>,
    keepalive: Keepalive,
    /// Armed for the earliest deadline; with that time.
    deadline: Option<(Instant, rt::Sleep)>,
    last_stream: u32,
}

impl<S, F, W> Driver<S, F, W>
where
    S: Service,
    F: Future<Output = ()>,
    W: FnMut(Work<S::Begun>) -> F,
{
    fn new(
        mut connection: Connection<Io, Bytes>,
        wire: Rc<Wire>,
        service: Rc<S>,
        link: Rc<Link>,
        shutdown: &rt::Shutdown,
        start: W,
    ) -> Self {
        let (gate, waker) = Gate::new();
        let keepalive = Keepalive::new(connection.ping_pong(), &link.options);
        Driver {
            connection,
            calls: FuturesUnordered::new(),
            start,
            ready: Vec::new(),
            together: Vec::new(),
            side_by_side: Vec::new(),
            gate,
            waker,
            wire,
            service,
            link,
            shutdown: shutdown.wait(),
            grace: None,
            keepalive,
            deadline: None,
            last_stream: 0,
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        rt::mark_busy();
        self.wire.begin_turn();
        self.gate.begin_turn(cx.waker());
        let waker = self.waker.clone();
        let inner = &mut Context::from_waker(&waker);
        let mut rounds = 0;
        loop {
            self.gate.take_woken();
            let all_accepted = match self.accept(inner) {
                Accepted::End(end) => {
                    self.count_refused();
                    return Poll::Ready(end);
                }
                Accepted::All => true,
                Accepted::Some => false,
            };
            // What the calls hand over is written by the next round's accept.
            let sent = self.poll_calls(inner);
            rounds += 1;
            if rounds == ROUNDS_MAX {
                cx.waker().wake_by_ref();
                break;
            }
            if all_accepted && !sent && !self.gate.is_woken() {
                break;
            }
        }
        self.gate.end_turn(cx.waker());
        self.count_refused();
        if self.wire.pings_breached(!self.calls.is_empty(), false) {
            return Poll::Ready(End::TooManyPings);
        }
        self.poll_timers(cx)
    }

    /// Tells of the calls that the engine has refused by itself.
    fn count_refused(&self) {
        let Refused { streams, headers } = self.wire.take_refused();
        for _ in 0..streams {
            self.service.turned_away(TurnedAway::Streams);
        }
        for _ in 0..headers {
            self.service.turned_away(TurnedAway::HeaderList);
        }
    }

    /// Lets the engine read and write, and takes what requests came of it.
    fn accept(&mut self, cx: &mut Context<'_>) -> Accepted {
        for _ in 0..ACCEPT_MAX {
            if self.link.is_full() {
                // Writes go on, and so do reads, for a while; new requests stay with the engine.
                self.wire.bound_reads(FULL_READ_BYTES_MAX);
                if self.connection.poll_closed(cx).is_ready() {
                    return Accepted::End(End::Over);
                }
                if self.written(cx) {
                    self.link.flushed();
                    self.wire.free_reads();
                } else {
                    return Accepted::All;
                }
            }
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    let stream = respond.stream_id().as_u32();
                    self.last_stream = self.last_stream.max(stream);
                    self.wire.accepted(stream);
                    match call::begin(&self.service, &self.link, request, respond) {
                        Some(Work::Ready(ready)) => self.ready.push(ready),
                        Some(Work::Wait(waiting)) => self.together.push(waiting),
                        Some(Work::Beside(waiting)) => self.side_by_side.push(waiting),
                        Some(work) => self.calls.push((self.start)(work)),
                        None => {}
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    log::debug!("connection {}: {error}", self.link.peer.serial);
                    if is_breach(&error) {
                        self.service.turned_away(TurnedAway::Protocol);
                    }
                    return Accepted::End(End::Over);
                }
                Poll::Ready(None) => return Accepted::End(End::Over),
                Poll::Pending => {
                    if self.written(cx) {
                        self.link.flushed();
                    }
                    return Accepted::All;
                }
            }
        }
        Accepted::Some
    }

    /// Whether the socket took everything the engine had to write.
    fn written(&self, cx: &mut Context<'_>) -> bool {
        // An error comes up again when the engine reads or writes next.
        let _ = self.wire.poll_flush(cx);
        !self.wire.write_blocked()
    }

    /// Polls the calls until all wait; whether the engine got something to write from anyone.
    fn poll_calls(&mut self, cx: &mut Context<'_>) -> bool {
        self.service
            .warm(self.ready.iter_mut().map(|ready| &mut ready.begun));
        for ready in self.ready.drain(..) {
            if let Some(longer) = together::answer_one(&self.service, &self.link, ready, &Ok(())) {
                self.calls.push((self.start)(Work::Longer(longer)));
            }
        }
        if !self.together.is_empty() {
            let together = std::mem::take(&mut self.together);
            self.calls.push((self.start)(Work::Together(together)));
        }
        if !self.side_by_side.is_empty() {
            let waiting = std::mem::take(&mut self.side_by_side);
            self.calls.push((self.start)(Work::SideBySide(waiting)));
        }
        while let Poll::Ready(Some(())) = self.calls.poll_next_unpin(cx) {}
        self.service.flush();
        let sent = self.link.take_sent();
        self.wire.pings_breached(!self.calls.is_empty(), sent);
        sent
    }

    fn poll_timers(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.poll_deadlines(cx);
        if self.keepalive.poll_dead(cx, self.wire.read_bytes()) {
            log::debug!("connection {}: no answer to pings", self.link.peer.serial);
            self.service.turned_away(TurnedAway::Silent);
            return Poll::Ready(End::Over);
        }
        if self.grace.is_none() && Pin::new(&mut self.shutdown).poll(cx).is_ready() {
            self.connection.graceful_shutdown();
            self.grace = Some(rt::sleep(self.link.options.shutdown_grace));
            // The engine acts on it when it is polled next.
            cx.waker().wake_by_ref();
        }
        match &mut self.grace {
            Some(grace) => Pin::new(grace).poll(cx).map(|()| End::Over),
            None => Poll::Pending,
        }
    }

    fn poll_deadlines(&mut self, cx: &mut Context<'_>) {
        let deadlines = &self.link.deadlines;
        loop {
            let Some(earliest) = deadlines.earliest() else {
                self.deadline = None;
                return;
            };
            if self
                .deadline
                .as_ref()
                .is_none_or(|(armed, _)| earliest < *armed)
            {
                let wait = earliest.saturating_duration_since(Instant::now());
                self.deadline = Some((earliest, rt::sleep(wait.max(DEADLINE_STEP))));
            }
            let Some((_, sleep)) = &mut self.deadline else {
                return;
            };
            if Pin::new(sleep).poll(cx).is_pending() {
                return;
            }
            self.deadline = None;
            deadlines.expire(Instant::now());
        }
    }

    /// Ends the connection for its pings, in the words that clients know. The engine cannot send
    /// them, so this is written behind its last frame.
    async fn send_away(self) {
        let Driver {
            connection,
            calls,
            wire,
            last_stream,
            ..
        } = self;
        drop(calls);
        drop(connection);
        let code = u32::from(Reason::ENHANCE_YOUR_CALM);
        let frame = frames::go_away(last_stream, code, b"too_many_pings");
        let _ = rt::timeout(LAST_WORD, async {
            wire.write_last(&frame).await?;
            wire.close().await
        })
        .await;
    }
}

/// Our own pings: one when nothing was read for an interval, and the end of the connection when
/// nothing is read for the time-out after it.
struct Keepalive {
    pings: Option<PingPong>,
    interval: Duration,
    timeout: Duration,
    sleep: Option<rt::Sleep>,
    waiting: bool,
    read_before: u64,
}

impl Keepalive {
    fn new(pings: Option<PingPong>, options: &Options) -> Keepalive {
        Keepalive {
            pings,
            interval: options.keepalive_interval,
            timeout: options.keepalive_timeout,
            sleep: None,
            waiting: false,
            read_before: 0,
        }
    }

    /// Whether the peer is taken for dead. `read` is the count of bytes read so far.
    fn poll_dead(&mut self, cx: &mut Context<'_>, read: u64) -> bool {
        let Some(pings) = &mut self.pings else {
            return false;
        };
        if self.interval.is_zero() {
            return false;
        }
        loop {
            let interval = self.interval;
            let sleep = self.sleep.get_or_insert_with(|| rt::sleep(interval));
            if Pin::new(sleep).poll(cx).is_pending() {
                return false;
            }
            let alive = read != self.read_before;
            self.read_before = read;
            if alive {
                self.waiting = false;
                self.sleep = None;
                // Frees the engine's one slot for pings of ours.
                let _ = pings.poll_pong(cx);
            } else if self.waiting {
                return true;
            } else {
                // Refused only while an earlier one is unanswered, which does as well.
                let _ = pings.send_ping(Ping::opaque());
                self.waiting = true;
                self.sleep = Some(rt::sleep(self.timeout));
            }
        }
    }
}
