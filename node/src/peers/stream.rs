//! A connection's bytes, in the clear or encrypted.
//!
//! Two faces, since messages move on the executor and dialling and snapshots on threads. A stream
//! may go from one to the other between two greetings, when nothing is under way on it: what
//! encrypts does not care who moves its bytes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use socket2::{SockRef, TcpKeepalive};

use crate::rt;
use crate::tls::{self, Calling, Link};

/// A dead host is noticed by the kernel after this, where nothing else watches.
const KEEPALIVE_TIME: Duration = Duration::from_secs(20);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// On the executor.
#[derive(Debug)]
pub(super) struct Stream {
    body: tls::Stream,
    /// A second handle on the socket of an accepted stream, by which it can leave the executor.
    spare: Option<TcpStream>,
}

impl Stream {
    /// A stream of a socket whose second handle is `spare`.
    pub(super) fn accepted(body: tls::Stream, spare: TcpStream) -> Stream {
        Stream {
            body,
            spare: Some(spare),
        }
    }

    /// It stays on the executor.
    pub(super) fn settle(&mut self) {
        self.spare = None;
    }

    /// Takes an accepted stream off the executor; `None` if it has settled.
    pub(super) fn into_blocking(self) -> Option<Blocking> {
        let spare = self.spare?;
        Some(Blocking(match self.body.into_session() {
            None => Link::Plain(spare),
            Some(session) => Link::Tls(session, spare),
        }))
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.body.poll_read(cx, buf)
    }

    /// Takes bytes to send; they have left only when [`Stream::poll_flush`] is ready.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.body.poll_write(cx, buf)
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.body.poll_flush(cx)
    }
}

/// On a thread.
#[derive(Debug)]
pub(super) struct Blocking(Link);

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
        Ok(Blocking(Link::Plain(socket)))
    }

    /// Encrypts a connection just made to a server that is to hold a certificate for `host`.
    ///
    /// # Errors
    /// The socket's, or why the certificate will not do.
    pub(super) fn secure(self, config: &Calling, host: &str) -> io::Result<Blocking> {
        match self.0 {
            Link::Plain(socket) => Link::call(socket, config, host).map(Blocking),
            sealed => Ok(Blocking(sealed)),
        }
    }

    pub(super) fn into_executor(self) -> Stream {
        let body = match self.0 {
            Link::Plain(socket) => tls::Stream::Plain(rt::Stream::from_socket(socket.into())),
            Link::Tls(session, socket) => {
                tls::Stream::sealed(rt::Stream::from_socket(socket.into()), session)
            }
        };
        Stream { body, spare: None }
    }

    /// How long one read and one write may take.
    ///
    /// # Errors
    /// As the kernel says.
    pub(super) fn set_limits(&self, read: Duration, write: Duration) -> io::Result<()> {
        let socket = self.0.socket();
        socket.set_read_timeout(Some(read))?;
        socket.set_write_timeout(Some(write))
    }

    /// A handle that ends the connection from another thread.
    ///
    /// # Errors
    /// No descriptor.
    pub(super) fn cutter(&self) -> io::Result<Cutter> {
        self.0.socket().try_clone().map(Cutter)
    }

    /// Whether a read would return at once: with bytes, the end, or an error. (Encrypted, it may still wait for the
    /// rest of what has begun to come.)
    pub(super) fn has_input(&self) -> bool {
        if self.0.has_input() {
            return true;
        }
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let seen = rustix::net::recv(self.0.socket(), &mut [0u8; 1][..], flags);
        !matches!(seen, Err(Errno::AGAIN | Errno::INTR))
    }
}

impl Read for Blocking {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Blocking {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
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
