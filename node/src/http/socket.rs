//! A connection that has left HTTP/1.1 for another protocol (an upgrade): its bytes, as they come.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::io::Wire;

/// Most bytes one read returns.
const READ_BYTES: usize = 64 << 10;

/// The rest of a connection after its last response head.
#[derive(Debug)]
pub struct Socket {
    wire: Rc<Wire>,
    /// What the HTTP engine had read on.
    ahead: Bytes,
}

impl Socket {
    pub(super) fn new(wire: Rc<Wire>, ahead: Bytes) -> Socket {
        Socket { wire, ahead }
    }

    /// To be called at the beginning of every poll of the task: bounds what it may read in it.
    pub fn begin_turn(&self) {
        self.wire.begin_turn();
    }

    /// The next bytes; empty at the end.
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if !self.ahead.is_empty() {
            return Poll::Ready(Ok(std::mem::take(&mut self.ahead)));
        }
        let mut read = Bytes::new();
        let take = |bytes: &[u8]| read = Bytes::copy_from_slice(bytes);
        let result = self.wire.poll_read_with(cx, READ_BYTES, take);
        result.map(|result| result.map(|()| read))
    }

    /// Writes what the socket takes.
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.wire.poll_write(cx, bytes)
    }

    /// Sees to it that what was written leaves.
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.poll_flush(cx)
    }

    /// Ends the sending direction and waits for the peer to end its own.
    ///
    /// # Errors
    /// The socket's.
    pub async fn close(self) -> io::Result<()> {
        self.wire.close().await
    }
}
