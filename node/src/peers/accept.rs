//! The peer port's own side: who may come in.
//!
//! A connection has `greeting_limit` to say a hello, and only `strangers_max` of them wait at a
//! time: for a further one the oldest is closed. Whatever does not begin with our magic is closed
//! at its first byte, without an answer, but for a look at the member list (`look.rs`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;

use super::greeting::{
    GREETING_BYTES, GreetingError, Hello, Purpose, Refusal, Reply, Stranger, check_magic,
};
use super::inner::{Inner, Side};
use super::look;
use super::snapshot;
use super::stream::Stream;
use super::wire::{self, Wire};
use crate::http::{Arrival, Door, Peer};
use crate::rt;
use crate::tls::{self, HandshakeError};

/// Takes connections until the transport stops.
pub(super) async fn run(inner: Rc<Inner>, mut door: Door) {
    let strangers = Rc::new(Strangers::default());
    let mut batch = Vec::new();
    while door.take(&mut batch, &inner.stop).await {
        for arrival in batch.drain(..) {
            let (inner, strangers) = (Rc::clone(&inner), Rc::clone(&strangers));
            rt::spawn_local(async move { take(&inner, &strangers, arrival).await });
            // A flood of connections must not keep the open ones waiting.
            rt::yield_now().await;
        }
    }
}

async fn take(inner: &Rc<Inner>, strangers: &Strangers, arrival: Arrival) {
    let (socket, peer, permit) = arrival.into_parts();
    let address = Address(peer.address);
    let (socket, spare) = match socket.try_clone() {
        Ok(spare) => (rt::Stream::from_socket(socket), spare.into()),
        Err(error) => {
            if let Some(more) = inner.strangers.due() {
                log::warn!("peer port: connection from {address} closed: {error} ({more} more)");
            }
            return;
        }
    };
    let newcomer = Newcomer {
        socket,
        spare,
        peer,
    };
    let Some((stream, hello, purpose)) = receive(inner, strangers, newcomer).await else {
        return;
    };
    inner.refused.forget(hello.from);
    match purpose {
        Purpose::Messages => {
            let wire = Wire::new(hello.incarnation, &inner.limits);
            let remote = inner.remote_or_guest(hello.from);
            log::info!("member {:x} has connected from {address}", hello.from);
            inner.attach(&remote, Side::Accepted, &wire);
            remote.hurry.ring();
            let end = wire::serve(inner, hello.from, &wire, stream).await;
            inner.detach(&remote, Side::Accepted, &wire);
            log::info!("connection from member {:x} has ended: {end}", hello.from);
            drop(permit);
        }
        Purpose::Snapshot => {
            if let Some(stream) = stream.into_blocking() {
                snapshot::receive(inner, hello.from, stream, permit);
            }
        }
    }
}

/// Somebody who has just connected.
struct Newcomer {
    socket: rt::Stream,
    /// A second handle on the socket.
    spare: TcpStream,
    peer: Peer,
}

/// Hears who it is and answers.
async fn receive(
    inner: &Rc<Inner>,
    strangers: &Strangers,
    newcomer: Newcomer,
) -> Option<(Stream, Hello, Purpose)> {
    let address = Address(newcomer.peer.address);
    let stranger = strangers.enter(inner.limits.strangers_max);
    let welcome = async {
        let mut stream = secure(inner, newcomer).await?;
        let (hello, verdict) = greet(inner, &mut stream).await?;
        Ok((stream, hello, verdict))
    };
    let greeting = rt::timeout(inner.limits.greeting_limit, welcome);
    let greeted = rt::unless(&inner.stop, rt::unless(&stranger.latch, greeting)).await;
    strangers.leave(&stranger);
    let unknown = match greeted? {
        Some(Ok(Ok((stream, hello, Ok(purpose))))) => return Some((stream, hello, purpose)),
        Some(Ok(Ok((_, hello, Err(refusal))))) => {
            if inner.refused.note(hello.from, refusal) && !matches!(refusal, Refusal::Busy { .. }) {
                log::warn!(
                    "peer port: member {:x} at {address} was refused: {refusal}; {}",
                    hello.from,
                    refusal.advice()
                );
            }
            return None;
        }
        Some(Ok(Err(unknown))) => unknown,
        Some(Err(rt::Elapsed)) => Unknown::Slow,
        None => Unknown::Crowded,
    };
    // A port scan or a health check that only connects is not worth a line.
    if !matches!(unknown, Unknown::Left | Unknown::Looked)
        && let Some(more) = inner.strangers.due()
    {
        log::warn!(
            "peer port: connection from {address} closed: {unknown}; only members speak here, \
             clients are served on the client urls ({more} more since the last such line)"
        );
    }
    None
}

/// Why somebody remained unknown.
#[derive(Debug, thiserror::Error)]
enum Unknown {
    #[error("it said nothing")]
    Left,
    #[error("it only looked at the member list")]
    Looked,
    #[error("it ended within its greeting")]
    Torn,
    #[error("it was too slow to say who it is")]
    Slow,
    #[error("too many others want to connect")]
    Crowded,
    #[error("{0}")]
    Stranger(#[from] Stranger),
    #[error("{0}")]
    Greeting(#[from] GreetingError),
    #[error("{0}")]
    Broken(#[from] io::Error),
    #[error("{0}")]
    Tls(#[from] HandshakeError),
}

/// Encrypts the connection where its listener asks for it; checks that the caller's certificate fits its address.
async fn secure(inner: &Rc<Inner>, newcomer: Newcomer) -> Result<Stream, Unknown> {
    let Newcomer {
        socket,
        spare,
        peer,
    } = newcomer;
    if !peer.encrypted {
        return Ok(Stream::accepted(tls::Stream::Plain(socket), spare));
    }
    let live = inner.tls.as_ref().ok_or(HandshakeError::NotReady)?;
    let result = match tls::accept(socket, live.server()).await {
        Ok(stream) if live.checks_address() => tls::check_address(&stream, peer.address)
            .await
            .map(|()| stream),
        result => result,
    };
    match result {
        Ok(stream) => Ok(Stream::accepted(stream, spare)),
        Err(HandshakeError::Left) => Err(Unknown::Left),
        Err(error) => {
            live.count_refused();
            Err(error.into())
        }
    }
}

async fn greet(
    inner: &Rc<Inner>,
    stream: &mut Stream,
) -> Result<(Hello, Result<Purpose, Refusal>), Unknown> {
    let mut bytes = [0; GREETING_BYTES];
    let mut filled = 0;
    while filled < GREETING_BYTES {
        let read = poll_fn(|cx| stream.poll_read(cx, &mut bytes[filled..])).await?;
        match (read, filled) {
            (0, 0) => return Err(Unknown::Left),
            (0, _) => return Err(Unknown::Torn),
            _ => filled += read,
        }
        match check_magic(&bytes[..filled]) {
            Ok(()) => {}
            Err(Stranger::Http) if look::is_request(&bytes) => {
                look::answer(inner, stream, &bytes[..filled]).await?;
                return Err(Unknown::Looked);
            }
            Err(stranger) => return Err(stranger.into()),
        }
    }
    let hello = Hello::decode(&bytes)?;
    let mut verdict = hello.judge(&inner.identity, &inner.removed.borrow());
    if verdict == Ok(Purpose::Snapshot) && inner.transfers.is_crowded() {
        let called = inner.identity.member;
        verdict = Err(Refusal::Busy { called });
    }
    let reply = Reply::new(&inner.identity, &hello, verdict.map(drop)).encode();
    let mut sent = 0;
    while sent < reply.len() {
        sent += poll_fn(|cx| stream.poll_write(cx, &reply[sent..])).await?;
    }
    poll_fn(|cx| stream.poll_flush(cx)).await?;
    Ok((hello, verdict))
}

/// Connections that have not said who they are, oldest first.
#[derive(Default)]
struct Strangers {
    waiting: RefCell<VecDeque<(u64, rt::Shutdown)>>,
    serial: Cell<u64>,
}

struct Entered {
    serial: u64,
    latch: rt::Shutdown,
}

impl Strangers {
    fn enter(&self, max: usize) -> Entered {
        let serial = self.serial.get();
        self.serial.set(serial + 1);
        let latch = rt::Shutdown::new();
        let mut waiting = self.waiting.borrow_mut();
        waiting.push_back((serial, latch.clone()));
        let oldest = if waiting.len() > max.max(1) {
            waiting.pop_front()
        } else {
            None
        };
        drop(waiting);
        if let Some((_, oldest)) = oldest {
            oldest.fire();
        }
        Entered { serial, latch }
    }

    fn leave(&self, entered: &Entered) {
        self.waiting
            .borrow_mut()
            .retain(|(serial, _)| *serial != entered.serial);
    }
}

/// Where a connection comes from, for the log.
#[derive(Clone, Copy)]
struct Address(Option<SocketAddr>);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => write!(f, "{address}"),
            None => f.write_str("an unknown address"),
        }
    }
}
