//! A connection's bytes: the one place where another kind of stream than plain TCP is put.
//!
//! Two faces, since messages move on the executor and dialling and snapshots on threads. A stream
//! may go from one to the other between two greetings, when nothing is under way on it: so
//! what encrypts must not care who moves its bytes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use socket2::{SockRef, Socket, TcpKeepalive};

use crate::rt;

/// A dead host is noticed by the kernel after this, where nothing else watches.
const KEEPALIVE_TIME: Duration = Duration::from_secs(20);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// On the executor.
#[derive(Debug)]
pub(super) struct Stream {
    body: Body,
    /// A second handle on the socket of an accepted stream, by which it can leave the executor.
    spare: Option<TcpStream>,
}

#[derive(Debug)]
enum Body {
    Plain(rt::Stream),
}

impl Stream {
    /// # Errors
    /// No descriptor for the second handle.
    pub(super) fn accepted(socket: Socket) -> io::Result<Stream> {
        let spare = socket.try_clone()?.into();
        Ok(Stream {
            body: Body::Plain(rt::Stream::from_socket(socket)),
            spare: Some(spare),
        })
    }

    /// It stays on the executor.
    pub(super) fn settle(&mut self) {
        self.spare = None;
    }

    /// Takes an accepted stream off the executor; `None` if it has settled.
    pub(super) fn into_blocking(self) -> Option<Blocking> {
        let Body::Plain(stream) = self.body;
        drop(stream);
        self.spare.map(Blocking::Plain)
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.body {
            Body::Plain(stream) => stream.poll_read(cx, buf),
        }
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.body {
            Body::Plain(stream) => stream.poll_write(cx, buf),
        }
    }
}

/// On a thread.
#[derive(Debug)]
pub(super) enum Blocking {
    Plain(TcpStream),
}

impl Blocking {
    /// Takes over a socket that has just been connected.
    ///
    /// # Errors
    /// The peer is gone already.
    pub(super) fn connected(socket: TcpStream) -> io::Result<Blocking> {
        let options = SockRef::from(&socket);
        options.set_tcp_nodelay(true)?;
        options.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(KEEPALIVE_TIME)
                .with_interval(KEEPALIVE_INTERVAL)
                .with_retries(KEEPALIVE_PROBES),
        )?;
        Ok(Blocking::Plain(socket))
    }

    pub(super) fn into_executor(self) -> Stream {
        let Blocking::Plain(socket) = self;
        Stream {
            body: Body::Plain(rt::Stream::from_socket(socket.into())),
            spare: None,
        }
    }

    /// How long one read and one write may take.
    ///
    /// # Errors
    /// As the kernel says.
    pub(super) fn set_limits(&self, read: Duration, write: Duration) -> io::Result<()> {
        let Blocking::Plain(socket) = self;
        socket.set_read_timeout(Some(read))?;
        socket.set_write_timeout(Some(write))
    }

    /// A handle that ends the connection from another thread.
    ///
    /// # Errors
    /// No descriptor.
    pub(super) fn cutter(&self) -> io::Result<Cutter> {
        let Blocking::Plain(socket) = self;
        socket.try_clone().map(Cutter)
    }

    /// Whether a read would return at once: with bytes, the end, or an error.
    pub(super) fn has_input(&self) -> bool {
        let Blocking::Plain(socket) = self;
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let seen = rustix::net::recv(socket, &mut [0u8; 1][..], flags);
        !matches!(seen, Err(Errno::AGAIN | Errno::INTR))
    }
}

impl Read for Blocking {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Blocking::Plain(socket) = self;
        socket.read(buf)
    }
}

impl Write for Blocking {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let Blocking::Plain(socket) = self;
        socket.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Ends a connection whoever uses it.
#[derive(Debug)]
pub(super) struct Cutter(TcpStream);

impl Cutter {
    pub(super) fn cut(&self) {
        // Fails only if it has ended already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}
