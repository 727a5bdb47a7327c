//! One connection's socket as the HTTP engines want it.
//!
//! The socket is shared between the engine (through [`Io`]) and the connection's driver (through
//! [`Wire`]), on one executor. Here is where it is seen what the engine hides: PINGs, calls that it
//! refuses (`refusals.rs`), whether the peer sends anything at all, whether the socket takes more,
//! and where frames end. Reads go
//! through one buffer per executor, so an idle connection holds none.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{self, Walker};
use super::pings::PingPolicy;
use super::refusals::{Refusals, Refused};
use super::slashes::Slashes;
use super::sniff::PREFACE;
use crate::tls::Stream;

/// The shared read buffer, in bytes; the most one read returns.
const READ_BYTES: usize = 64 << 10;

/// Most bytes of long frames that are gathered before the socket gets them.
const GATHER_BYTES: usize = 128 << 10;

/// Bytes a connection may read in one turn of its driver, so that one fast sender cannot keep the
/// others of its executor waiting.
const TURN_BYTES: usize = 256 << 10;

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
    /// A buffer for the next connection that gathers.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The driver's view of its socket.
#[derive(Debug)]
pub(super) struct Wire {
    stream: RefCell<Stream>,
    /// What was read to find out the protocol, to be read again.
    head: RefCell<Bytes>,
    turn_left: Cell<usize>,
    /// Bytes that may still be read, where reads are bounded.
    reads_left: Cell<Option<usize>>,
    read_bytes: Cell<u64>,
    write_blocked: Cell<bool>,
    gathered: RefCell<Gathered>,
    frames: Option<RefCell<FrameEyes>>,
    slashes: Option<RefCell<Slashes>>,
}

/// What the engine has written and the socket has not been given: the engine writes a long frame in
/// two pieces, and an answer of megabytes is hundreds of frames.
#[derive(Debug, Default)]
struct Gathered {
    /// Somebody will call [`Wire::poll_flush`] after every turn of the engine.
    enabled: bool,
    bytes: Vec<u8>,
    written: usize,
}

impl Gathered {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.bytes.capacity() == 0 {
            self.bytes = SPARE.take();
            self.bytes.reserve(GATHER_BYTES);
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// All of it was written.
    fn clear(&mut self) {
        self.written = 0;
        self.bytes.clear();
        SPARE.set(std::mem::take(&mut self.bytes));
    }
}

/// What is watched on an HTTP/2 connection.
#[derive(Debug)]
struct FrameEyes {
    incoming: Walker,
    outgoing: Walker,
    refusals: Refusals,
    pings: PingPolicy,
    /// Calls that are open, as the driver last said.
    calls_open: bool,
    /// A call began in what was read since the driver said so.
    call_began: bool,
    answered: bool,
    breached: bool,
}

impl Wire {
    pub(super) fn http1(stream: Stream, head: Bytes) -> Rc<Wire> {
        Wire::new(stream, head, None, None)
    }

    /// `over_unix`: the socket is a unix one.
    pub(super) fn http2(
        stream: Stream,
        head: Bytes,
        pings: PingPolicy,
        over_unix: bool,
    ) -> Rc<Wire> {
        let eyes = FrameEyes {
            incoming: Walker::after(PREFACE.len()),
            outgoing: Walker::default(),
            refusals: Refusals::default(),
            pings,
            calls_open: false,
            call_began: false,
            answered: false,
            breached: false,
        };
        let slashes = over_unix.then(|| RefCell::new(Slashes::after(PREFACE.len())));
        let head = match &slashes {
            None => head,
            Some(slashes) => {
                let mut head = head.to_vec();
                slashes.borrow_mut().change(&mut head);
                head.into()
            }
        };
        Wire::new(stream, head, Some(RefCell::new(eyes)), slashes)
    }

    fn new(
        stream: Stream,
        head: Bytes,
        frames: Option<RefCell<FrameEyes>>,
        slashes: Option<RefCell<Slashes>>,
    ) -> Rc<Wire> {
        Rc::new(Wire {
            stream: RefCell::new(stream),
            head: RefCell::new(head),
            turn_left: Cell::new(TURN_BYTES),
            reads_left: Cell::new(None),
            read_bytes: Cell::new(0),
            write_blocked: Cell::new(false),
            gathered: RefCell::default(),
            frames,
            slashes,
        })
    }

    /// A new turn of the driver begins.
    pub(super) fn begin_turn(&self) {
        self.turn_left.set(TURN_BYTES);
    }

    /// Until [`Wire::free_reads`] no more than `bytes` are read, counted from the first such call.
    pub(super) fn bound_reads(&self, bytes: usize) {
        if self.reads_left.get().is_none() {
            self.reads_left.set(Some(bytes));
        }
    }

    /// Reads are no longer bounded; the driver has to ask the engine to read, as no wake is kept.
    pub(super) fn free_reads(&self) {
        self.reads_left.set(None);
    }

    /// From now on long frames may wait here until [`Wire::poll_flush`].
    pub(super) fn enable_gathering(&self) {
        self.gathered.borrow_mut().enabled = true;
    }

    /// Gives the socket what was gathered; to be called after every turn of the engine.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gathered = &mut *self.gathered.borrow_mut();
        while !gathered.is_empty() {
            let left = &gathered.bytes[gathered.written..];
            let result = self.stream.borrow_mut().poll_write(cx, left);
            self.write_blocked.set(result.is_pending());
            match result {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => gathered.written += written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
            if gathered.written == gathered.bytes.len() {
                gathered.clear();
            }
        }
        self.poll_flush_stream(cx)
    }

    /// Gives the socket what was taken from the engine and encrypted.
    fn poll_flush_stream(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = self.stream.borrow_mut();
        if !stream.has_unsent() {
            return Poll::Ready(Ok(()));
        }
        let result = stream.poll_flush(cx);
        self.write_blocked.set(result.is_pending());
        result
    }

    /// Bytes read since the beginning; tells a driver whether the peer is alive.
    pub(super) fn read_bytes(&self) -> u64 {
        self.read_bytes.get()
    }

    /// The socket did not take everything the engine wanted to write last.
    pub(super) fn write_blocked(&self) -> bool {
        self.write_blocked.get()
    }

    /// Tells the ping policy where the connection stands; returns whether it was breached.
    pub(super) fn pings_breached(&self, calls_open: bool, answered: bool) -> bool {
        let Some(eyes) = &self.frames else {
            return false;
        };
        let mut eyes = eyes.borrow_mut();
        eyes.calls_open = calls_open;
        eyes.call_began = false;
        eyes.answered |= answered;
        eyes.breached
    }

    /// The engine has handed out this call.
    pub(super) fn accepted(&self, stream: u32) {
        if let Some(eyes) = &self.frames {
            eyes.borrow_mut().refusals.accepted(stream);
        }
    }

    /// Calls the engine has refused by itself since this was asked last.
    pub(super) fn take_refused(&self) -> Refused {
        match &self.frames {
            Some(eyes) => eyes.borrow_mut().refusals.take(),
            None => Refused::default(),
        }
    }

    /// Writes a frame of ours after the engine is done, if the engine stopped between two frames.
    pub(super) async fn write_last(&self, frame: &[u8]) -> io::Result<()> {
        if !self
            .frames
            .as_ref()
            .is_some_and(|eyes| eyes.borrow().outgoing.at_boundary())
        {
            return Ok(());
        }
        poll_fn(|cx| self.poll_flush(cx)).await?;
        let mut left = frame;
        while !left.is_empty() {
            let written = poll_fn(|cx| self.stream.borrow_mut().poll_write(cx, left)).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            left = &left[written..];
        }
        poll_fn(|cx| self.poll_flush_stream(cx)).await
    }

    /// Ends the sending direction and waits for the peer to end its own: closing a socket with
    /// unread bytes would take back what was sent last.
    pub(super) async fn close(&self) -> io::Result<()> {
        self.free_reads();
        poll_fn(|cx| self.stream.borrow_mut().poll_close(cx)).await?;
        loop {
            self.begin_turn();
            let mut read = 0;
            poll_fn(|cx| self.poll_read_with(cx, READ_BYTES, |bytes| read = bytes.len())).await?;
            if read == 0 {
                return Ok(());
            }
        }
    }

    /// Reads at most `limit` bytes and gives them to `take`.
    pub(super) fn poll_read_with(
        &self,
        cx: &mut Context<'_>,
        limit: usize,
        take: impl FnOnce(&[u8]),
    ) -> Poll<io::Result<()>> {
        let mut head = self.head.borrow_mut();
        if !head.is_empty() {
            let length = head.len().min(limit);
            self.saw(&head[..length]);
            take(&head[..length]);
            head.advance(length);
            if head.is_empty() {
                // An empty slice would still hold its buffer.
                *head = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        let bound = self.reads_left.get();
        if bound == Some(0) {
            return Poll::Pending;
        }
        let left = self.turn_left.get();
        if left == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        READ_BUFFER.with_borrow_mut(|buffer| {
            let length = buffer.len().min(limit).min(left);
            let length = length.min(bound.unwrap_or(usize::MAX));
            let mut stream = self.stream.borrow_mut();
            match stream.poll_read(cx, &mut buffer[..length]) {
                Poll::Ready(Ok(read)) => {
                    self.turn_left.set(left - read);
                    self.reads_left.set(bound.map(|bound| bound - read));
                    if let Some(slashes) = &self.slashes {
                        slashes.borrow_mut().change(&mut buffer[..read]);
                    }
                    self.saw(&buffer[..read]);
                    take(&buffer[..read]);
                    Poll::Ready(Ok(()))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            }
        })
    }

    fn saw(&self, bytes: &[u8]) {
        self.read_bytes
            .set(self.read_bytes.get() + bytes.len() as u64);
        let Some(eyes) = &self.frames else {
            return;
        };
        let FrameEyes {
            incoming,
            pings,
            calls_open,
            call_began,
            answered,
            breached,
            ..
        } = &mut *eyes.borrow_mut();
        incoming.feed(bytes, |head| match head.kind {
            frames::TYPE_HEADERS => *call_began = true,
            frames::TYPE_PING if head.flags & frames::FLAG_ACK == 0 => {
                let open = *calls_open || *call_began;
                *breached |= pings.breached(Instant::now(), open, std::mem::take(answered));
            }
            _ => {}
        });
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.begins_to_gather(bytes) || !self.gathered.borrow().is_empty() {
            if self.gathered.borrow().bytes.len() + bytes.len() > GATHER_BYTES {
                std::task::ready!(self.poll_flush(cx))?;
            }
            if bytes.len() <= GATHER_BYTES {
                self.gathered.borrow_mut().push(bytes);
                self.wrote(bytes);
                return Poll::Ready(Ok(bytes.len()));
            }
        }
        let mut stream = self.stream.borrow_mut();
        let result = stream.poll_write(cx, bytes);
        self.write_blocked
            .set(result.is_pending() || stream.has_unsent());
        drop(stream);
        if let Poll::Ready(Ok(written)) = result {
            self.wrote(&bytes[..written]);
        }
        result
    }

    /// Whether these bytes end within a frame, so that more is bound to follow at once.
    fn begins_to_gather(&self, bytes: &[u8]) -> bool {
        self.gathered.borrow().enabled
            && self.frames.as_ref().is_some_and(|eyes| {
                let mut outgoing = eyes.borrow().outgoing.clone();
                outgoing.feed(bytes, |_| {});
                !outgoing.at_boundary()
            })
    }

    fn wrote(&self, bytes: &[u8]) {
        if let Some(eyes) = &self.frames {
            let eyes = &mut *eyes.borrow_mut();
            let refusals = &mut eyes.refusals;
            eyes.outgoing.feed(bytes, |head| refusals.saw(head));
        }
    }
}

/// The engine's view of the socket. Never offers vectored writes: the HTTP/2 engine then copies
/// small frames into one buffer, and many answers leave with one system call.
#[derive(Clone, Debug)]
pub(super) struct Io(pub(super) Rc<Wire>);

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0
            .poll_read_with(cx, buf.remaining(), |bytes| buf.put_slice(bytes))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush_stream(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.0.poll_flush(cx))?;
        self.0.stream.borrow_mut().poll_close(cx)
    }
}

impl hyper::rt::Read for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.0
            .poll_read_with(cx, buf.remaining(), |bytes| buf.put_slice(bytes))
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush_stream(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.stream.borrow_mut().poll_close(cx)
    }
}
