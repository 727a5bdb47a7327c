//! A connection's bytes on a thread, encrypted or not.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::session::{Pipe, Session, is_patience};

/// A connected socket and its encryption, if any. Time-outs are the socket's own.
#[derive(Debug)]
pub(crate) enum Link {
    Plain(TcpStream),
    Tls(Box<Session>, TcpStream),
}

impl Link {
    /// Greets a server on `socket`, which is to hold a certificate for `host`.
    ///
    /// # Errors
    /// The socket's, or why the certificate will not do.
    pub(crate) fn call(
        mut socket: TcpStream,
        config: &Arc<ClientConfig>,
        host: &str,
    ) -> io::Result<Link> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let mut connection = ClientConnection::new(Arc::clone(config), name)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket).map_err(plainly)?;
        }
        while connection.wants_write() {
            connection.write_tls(&mut socket)?;
        }
        let session = Session::new(connection.into(), Vec::new());
        Ok(Link::Tls(Box::new(session), socket))
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Link::Plain(socket) | Link::Tls(_, socket) => socket,
        }
    }

    /// Whether a read may return without asking the socket.
    pub(crate) fn has_input(&self) -> bool {
        match self {
            Link::Plain(_) => false,
            Link::Tls(session, _) => session.has_input(),
        }
    }
}

/// A library's error without the frame around it, and in words where its own would puzzle.
fn plainly(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        let text = "it closed the connection within the TLS handshake; its log says why, if it speaks TLS at all";
        return io::Error::new(error.kind(), text);
    }
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidMessage(_)) => io::Error::new(
            error.kind(),
            "it does not speak TLS: is its url http:// rather than https://?",
        ),
        _ => error,
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Link::Plain(socket) => socket.read(buffer),
            Link::Tls(session, socket) => {
                // Words of ours that wait may be what the other side waits for.
                match session.flush(&mut Direct(socket)) {
                    Err(error) if !is_patience(&error) => return Err(error),
                    _ => {}
                }
                session.read(buffer, &mut Direct(socket))
            }
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Link::Plain(socket) => socket.write(bytes),
            Link::Tls(session, socket) => session.write(bytes, &mut Direct(socket)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Link::Plain(socket) => socket.flush(),
            Link::Tls(session, socket) => session.flush(&mut Direct(socket)),
        }
    }
}

struct Direct<'a>(&'a mut TcpStream);

impl Pipe for Direct<'_> {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
}
