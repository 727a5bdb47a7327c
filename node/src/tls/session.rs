//! The encryption of one connection, which does not care who moves its bytes: a task on an executor, or a thread.
//!
//! Held for a connection: what the library buffers (at most one record either way beside what one call was given),
//! and what was read from the socket and did not fit the reader's buffer.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read as _, Write as _};

use rustls::Connection;
use rustls::pki_types::CertificateDer;

/// Most bytes of one call to the socket, either way.
const MOVE_BYTES: usize = 64 << 10;

thread_local! {
    /// What is read from sockets, before it is decrypted.
    static SEALED_IN: RefCell<Box<[u8]>> = RefCell::new(vec![0; MOVE_BYTES].into());
    /// Several records on their way to one call.
    static SEALED_OUT: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(MOVE_BYTES));
}

/// A socket that may say "would block".
pub(crate) trait Pipe {
    fn recv(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;
}

/// One connection's keys and buffers, after the handshake.
#[derive(Debug)]
pub(crate) struct Session {
    connection: Connection,
    /// Read from the socket, not yet given to the library.
    sealed: Vec<u8>,
    /// Decrypted and not yet read.
    more: bool,
    ended: bool,
    said_goodbye: bool,
}

impl Session {
    /// `sealed` is what was read behind the handshake.
    pub(crate) fn new(connection: Connection, sealed: Vec<u8>) -> Session {
        Session {
            connection,
            sealed,
            more: false,
            ended: false,
            said_goodbye: false,
        }
    }

    pub(crate) fn holder(&self) -> Option<&CertificateDer<'static>> {
        self.connection.peer_certificates()?.first()
    }

    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.connection.alpn_protocol()
    }

    /// Whether a read may find something without asking the socket.
    pub(crate) fn has_input(&self) -> bool {
        self.more || !self.sealed.is_empty() || self.ended
    }

    /// Whether something waits for the socket.
    pub(crate) fn has_output(&self) -> bool {
        self.connection.wants_write()
    }

    /// Reads what there is, as much as fits; 0 is the end. "Would block" only if there is nothing.
    ///
    /// An end without the protocol's own goodbye counts as an end: everything that is spoken here has lengths of its
    /// own, by which a cut is noticed.
    pub(crate) fn read(&mut self, buffer: &mut [u8], pipe: &mut impl Pipe) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut filled = 0;
        loop {
            match self.connection.reader().read(&mut buffer[filled..]) {
                Ok(0) => {
                    self.ended = true;
                    return Ok(filled);
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.ended = true;
                    return Ok(filled);
                }
                Err(error) => return Err(error),
            }
            if filled == buffer.len() {
                let state = self.connection.process_new_packets();
                self.more = state.is_ok_and(|state| state.plaintext_bytes_to_read() > 0);
                return Ok(filled);
            }
            self.more = false;
            if !self.sealed.is_empty() {
                let mut sealed = std::mem::take(&mut self.sealed);
                let fed = self.feed(&sealed, pipe)?;
                sealed.drain(..fed);
                self.sealed = sealed;
                continue;
            }
            if filled > 0 || self.ended {
                return Ok(filled);
            }
            self.receive(buffer.len(), pipe)?;
        }
    }

    /// Reads from the socket about as much as its reader has room for.
    fn receive(&mut self, room: usize, pipe: &mut impl Pipe) -> io::Result<()> {
        const LEAST: usize = 4 << 10;
        SEALED_IN.with_borrow_mut(|buffer| {
            let limit = room.clamp(LEAST, buffer.len());
            let read = pipe.recv(&mut buffer[..limit])?;
            if read == 0 {
                self.ended = true;
                return Ok(());
            }
            let fed = self.feed(&buffer[..read], pipe)?;
            self.sealed.extend_from_slice(&buffer[fed..read]);
            Ok(())
        })
    }

    /// Gives the library bytes until something can be read of them; how many it took.
    fn feed(&mut self, bytes: &[u8], pipe: &mut impl Pipe) -> io::Result<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.connection.read_tls(&mut rest)? == 0 {
                // Behind a goodbye nothing counts.
                return Ok(bytes.len());
            }
            match self.connection.process_new_packets() {
                Ok(state) if state.plaintext_bytes_to_read() > 0 => break,
                Ok(_) => {}
                Err(error) => {
                    // The alert that says why, if the socket takes it.
                    let _ = self.flush(pipe);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
        if self.connection.wants_write() {
            // What the protocol has to say for itself; it goes with the next flush if not now.
            match self.flush(pipe) {
                Err(error) if !is_patience(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// Takes bytes and sends them, or keeps what the socket does not take for [`Session::flush`]. "Would block" only if
    /// none was taken.
    pub(crate) fn write(&mut self, bytes: &[u8], pipe: &mut impl Pipe) -> io::Result<usize> {
        self.flush(pipe)?;
        let bytes = &bytes[..bytes.len().min(MOVE_BYTES)];
        let taken = self.connection.writer().write(bytes)?;
        match self.flush(pipe) {
            Err(error) if !is_patience(&error) => Err(error),
            _ => Ok(taken),
        }
    }

    /// Sends what waits.
    pub(crate) fn flush(&mut self, pipe: &mut impl Pipe) -> io::Result<()> {
        while self.connection.wants_write() {
            if self.connection.write_tls(&mut Out(pipe))? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Says goodbye, once, and sends what waits.
    pub(crate) fn close(&mut self, pipe: &mut impl Pipe) -> io::Result<()> {
        if !self.said_goodbye {
            self.said_goodbye = true;
            self.connection.send_close_notify();
        }
        self.flush(pipe)
    }
}

/// Whether an error only means "later".
pub(crate) fn is_patience(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// The socket as the library wants it; several records leave with one call.
struct Out<'a, P>(&'a mut P);

impl<P: Pipe> io::Write for Out<'_, P> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        if let [one] = pieces {
            return self.0.send(one);
        }
        SEALED_OUT.with_borrow_mut(|gathered| {
            gathered.clear();
            for piece in pieces {
                let room = MOVE_BYTES - gathered.len();
                gathered.extend_from_slice(&piece[..piece.len().min(room)]);
            }
            self.0.send(gathered)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
