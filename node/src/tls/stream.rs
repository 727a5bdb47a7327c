//! A connection's bytes on an executor, encrypted or not.

use std::io;
use std::task::{Context, Poll};

use super::session::{Pipe, Session};
use crate::rt;

/// A connected socket and, where its listener asks for it, its encryption.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(rt::Stream),
    Tls(Sealed),
}

#[derive(Debug)]
pub(crate) struct Sealed {
    socket: rt::Stream,
    session: Box<Session>,
}

impl Stream {
    pub(crate) fn sealed(socket: rt::Stream, session: Box<Session>) -> Stream {
        Stream::Tls(Sealed { socket, session })
    }

    /// The encryption, without the socket.
    pub(crate) fn into_session(self) -> Option<Box<Session>> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(sealed) => Some(sealed.session),
        }
    }

    /// The protocol agreed on in the handshake.
    pub(crate) fn agreed(&self) -> Option<&[u8]> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(sealed) => sealed.session.alpn(),
        }
    }

    /// Reads what is there. Dropping a pending read loses nothing.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(socket) => socket.poll_read(cx, buf),
            Stream::Tls(sealed) => sealed.with(cx, |session, pipe| session.read(buf, pipe)),
        }
    }

    /// Writes what the socket takes. Encrypted bytes count as taken when they are sealed: see
    /// [`Stream::poll_flush`].
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(socket) => socket.poll_write(cx, buf),
            Stream::Tls(sealed) => sealed.with(cx, |session, pipe| session.write(buf, pipe)),
        }
    }

    /// Gives the socket what was taken and not sent. Whoever writes must see to it that this is called until it is
    /// ready, or the last bytes may stay.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(_) => Poll::Ready(Ok(())),
            Stream::Tls(sealed) => sealed.with(cx, |session, pipe| session.flush(pipe)),
        }
    }

    /// Whether [`Stream::poll_flush`] has something to do.
    pub(crate) fn has_unsent(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(sealed) => sealed.session.has_output(),
        }
    }

    /// Ends the sending direction.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(socket) => socket.poll_close(cx),
            Stream::Tls(sealed) => {
                std::task::ready!(sealed.with(cx, |session, pipe| session.close(pipe)))?;
                sealed.socket.poll_close(cx)
            }
        }
    }
}

impl Sealed {
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    fn with<T>(
        &mut self,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut Session, &mut Polled<'_, '_>) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let mut pipe = Polled {
            socket: &mut self.socket,
            cx,
        };
        match act(&mut self.session, &mut pipe) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready(result),
        }
    }
}

/// A socket that is polled: what is pending would block, and the task is woken when it would not.
pub(super) struct Polled<'a, 'b> {
    pub socket: &'a mut rt::Stream,
    pub cx: &'a mut Context<'b>,
}

impl Pipe for Polled<'_, '_> {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        would_block(self.socket.poll_read(self.cx, buffer))
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        would_block(self.socket.poll_write(self.cx, bytes))
    }
}

fn would_block<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
