//! The client port: HTTP/2 gRPC and HTTP/1.1 on one socket.
//!
//! One acceptor thread (`listener.rs`) deals connections to the executors, the least loaded first.
//! There each becomes one task: where the listener asks for TLS a handshake comes first; its ALPN or
//! the first bytes tell the protocol (`sniff.rs`), then `driver.rs`
//! (HTTP/2) or `http1.rs` serves it to its end. The services behind see nothing of it but
//! `face.rs`.
//!
//! Every wait for a peer has a limit and everything held for one a bound; they are all in
//! [`Options`] or beside the code that holds.

mod call;
mod driver;
mod face;
mod frames;
mod gate;
mod headers;
mod http1;
mod io;
mod link;
mod listener;
mod local;
mod pings;
mod refusals;
mod sink;
mod slashes;
mod sniff;
mod socket;
mod source;
#[cfg(test)]
mod tests;
mod together;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

pub use face::{
    Call, Closed, Confirmed, Glance, HttpBody, HttpRequest, HttpResponse, Peer, Reply,
    RequestStream, ResponseBody, ResponseSink, Role, Service, TurnedAway,
};
pub(crate) use headers::timeout as grpc_timeout;
pub use http1::{BodyError, BrokenOff};
pub(crate) use listener::Permit;
pub use listener::{
    Acceptor, Address, Arrival, Bound, Door, ListenError, UNIX_PATH_BYTES_MAX, Way, bind,
    bind_private, bind_sharing, door,
};
pub use local::{Messages, Slot};
pub use sink::TrySendError;
pub use socket::Socket;

use crate::rt;
use crate::tls::{self, HandshakeError, Live, Stream};
use io::Wire;
use link::{Budgets, Link, PartialBudget};
use pings::PingPolicy;
use sniff::Protocol;

/// Longest header list of a request, in bytes as HTTP/2 counts them. A longer one is refused with
/// status 431; one of twice that length the engine itself refuses so (see `refusals.rs`).
const HEADER_LIST_BYTES_MAX: usize = 64 << 10;

/// Bounds and times of an executor's connections.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the listeners that speak TLS do it with.
    pub(crate) tls: Option<Arc<Live>>,
    /// Calls a client may have open on one connection; more wait at the client.
    pub max_concurrent_streams: u32,
    /// Longest request message, in bytes; a longer one is refused before it is read.
    pub message_bytes_max: usize,
    /// Bytes a client may send on one call before the handler has read them.
    pub stream_window_bytes: u32,
    /// As above, over all calls of a connection.
    pub connection_window_bytes: u32,
    /// Bytes of answers that may wait for a connection's socket. Beyond it senders wait and no
    /// further requests are accepted.
    pub unsent_bytes_max: usize,
    /// Bytes of requests that have arrived in part, over all connections of an executor. Beyond it
    /// the call that needs more is refused.
    pub partial_bytes_max: usize,
    /// Bytes that calls take which stay open, with their heads, over all connections of an executor.
    /// Beyond it further such calls are refused; those that can be answered at once are not.
    pub open_calls_bytes_max: usize,
    /// Time for a request's message to arrive whole: a gRPC message, or a body that is wanted whole.
    pub body_timeout: Duration,
    /// Time for the first bytes of a connection, and for a head of HTTP/1.1.
    pub first_bytes_timeout: Duration,
    /// How long an HTTP/1.1 connection may rest between two requests.
    pub http_idle_timeout: Duration,
    /// Least time between two pings of a client.
    pub keepalive_min_time: Duration,
    /// Silence after which the client is pinged; zero means never. Checked once per interval, so
    /// up to twice that may pass.
    pub keepalive_interval: Duration,
    /// Time for the client to answer.
    pub keepalive_timeout: Duration,
    /// Time for open calls once the end has begun.
    pub shutdown_grace: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            tls: None,
            max_concurrent_streams: u32::MAX,
            message_bytes_max: 2 << 20,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 8 << 20,
            unsent_bytes_max: 8 << 20,
            partial_bytes_max: 256 << 20,
            open_calls_bytes_max: 256 << 20,
            body_timeout: Duration::from_secs(30),
            first_bytes_timeout: Duration::from_secs(10),
            http_idle_timeout: Duration::from_secs(300),
            keepalive_min_time: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(2 * 60 * 60),
            keepalive_timeout: Duration::from_secs(20),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

/// Serves the connections that come through `door` on this executor. After `shutdown` it takes no
/// more, lets the open ones end within [`Options::shutdown_grace`], and returns.
pub async fn serve<S: Service>(
    mut door: Door,
    service: Rc<S>,
    options: Options,
    shutdown: rt::Shutdown,
) {
    let options = Rc::new(options);
    let budgets = Budgets {
        partial: PartialBudget::new(options.partial_bytes_max),
        calls: PartialBudget::new(options.open_calls_bytes_max),
    };
    let open = Rc::new(Open::default());
    let mut batch = Vec::new();
    while door.take(&mut batch, &shutdown).await {
        for arrival in batch.drain(..) {
            let counted = Counted::new(&open);
            let service = Rc::clone(&service);
            let (options, budgets) = (Rc::clone(&options), budgets.clone());
            let shutdown = shutdown.clone();
            rt::spawn_local(async move {
                connection(arrival, service, options, budgets, shutdown).await;
                drop(counted);
            });
            // A flood of connections must not keep the open ones waiting.
            rt::yield_now().await;
        }
    }
    drop(door);
    // The drivers keep the grace time themselves; this is for one that waits for its last word.
    let limit = options.shutdown_grace + Duration::from_secs(2);
    if rt::timeout(limit, open.none_left()).await.is_err() {
        log::warn!("{} connections did not end in time", open.count.get());
    }
}

async fn connection<S: Service>(
    arrival: Arrival,
    service: Rc<S>,
    options: Rc<Options>,
    budgets: Budgets,
    shutdown: rt::Shutdown,
) {
    let (socket, mut peer, _permit) = arrival.into_parts();
    // Each stage is in an allocation that goes with it: one that is part of the task would be held by it to the end, and
    // most connections are idle.
    let plain = rt::Stream::from_socket(socket);
    let secured = match peer.encrypted {
        true => Box::pin(secured(plain, &mut peer, &options, &shutdown)).await,
        false => Ok(Stream::Plain(plain)),
    };
    let mut stream = match secured {
        Ok(stream) => stream,
        Err(Unsecured::Slow) => {
            service.turned_away(TurnedAway::SlowHandshake);
            return;
        }
        Err(Unsecured::Over) => return,
    };
    let peer = Rc::new(peer);
    let (protocol, head) = match stream.agreed() {
        Some(b"h2") => (Protocol::Http2, Vec::new()),
        Some(b"http/1.1") => (Protocol::Http1, Vec::new()),
        _ => {
            let limit = options.first_bytes_timeout;
            let sniffed = rt::timeout(limit, sniff::sniff(&mut stream));
            let sniffed = Box::pin(rt::unless(&shutdown, sniffed)).await;
            match sniffed {
                Some(Ok(Ok(Some(sniffed)))) => sniffed,
                Some(Err(rt::Elapsed)) => {
                    service.turned_away(TurnedAway::SlowStart);
                    return;
                }
                _ => return,
            }
        }
    };
    let head = Bytes::from(head);
    match protocol {
        Protocol::Http2 => {
            let pings = PingPolicy::new(options.keepalive_min_time);
            let over_unix = peer.address.is_none();
            let wire = Wire::http2(stream, head, pings, over_unix);
            let counting = Rc::clone(&service);
            let away = move |why| counting.turned_away(why);
            let link = Link::new(options, peer, budgets, away);
            Box::pin(driver::drive(wire, service, link, shutdown)).await;
        }
        Protocol::Http1 => {
            let wire = Wire::http1(stream, head);
            Box::pin(http1::drive(wire, service, peer, options, shutdown)).await;
        }
        Protocol::Tls => {
            HandshakeError::TlsOnPlain.log("client port", peer.address);
            let _ = poll_fn(|cx| stream.poll_write(cx, tls::NOT_HERE)).await;
            let _ = poll_fn(|cx| stream.poll_close(cx)).await;
        }
    }
}

/// Why a connection is over before its first byte could be read.
enum Unsecured {
    /// Its handshake took too long, or waited too long for its turn.
    Slow,
    Over,
}

/// Does the handshake of a listener that speaks TLS.
async fn secured(
    stream: rt::Stream,
    peer: &mut Peer,
    options: &Options,
    shutdown: &rt::Shutdown,
) -> Result<Stream, Unsecured> {
    let live = options.tls.as_ref().ok_or(Unsecured::Over)?;
    let shaken = rt::unless(shutdown, tls::accept(stream, live.server())).await;
    match shaken.ok_or(Unsecured::Over)? {
        Ok(stream) => {
            if live.verifies() {
                peer.holder = tls::holder(&stream);
            }
            Ok(stream)
        }
        Err(error) => {
            live.count_refused();
            error.log("client port", peer.address);
            Err(match error {
                HandshakeError::Slow => Unsecured::Slow,
                _ => Unsecured::Over,
            })
        }
    }
}

/// Connections of one executor that are open.
#[derive(Debug, Default)]
struct Open {
    count: Cell<usize>,
    waiting: RefCell<Option<Waker>>,
}

impl Open {
    async fn none_left(&self) {
        poll_fn(|cx| {
            if self.count.get() == 0 {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

struct Counted(Rc<Open>);

impl Counted {
    fn new(open: &Rc<Open>) -> Counted {
        open.count.set(open.count.get() + 1);
        Counted(Rc::clone(open))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count.get() == 0
            && let Some(waker) = self.0.waiting.take()
        {
            waker.wake();
        }
    }
}
