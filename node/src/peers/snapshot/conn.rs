//! A snapshot's connection: frames over a blocking stream.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};

use super::SnapshotId;
use crate::peers::frame::{FrameError, HEADER_BYTES, Header, Kind, le64, put};
use crate::peers::stream::{Blocking, Cutter};

/// A connection that cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
}

/// Why the other side does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    /// Another try may succeed.
    pub later: bool,
    pub why: String,
}

/// Longest reason that is sent.
const WHY_BYTES_MAX: usize = 512;

/// How long the other side gets to hear a reason before the connection is closed under it.
const LAST_WORDS: Duration = Duration::from_secs(5);

const UNKNOWN: u64 = u64::MAX;

/// How often a write that does not get on looks whether the other side has said or ended something:
/// one that has closed its half may never take another byte.
const WRITE_LOOK: Duration = Duration::from_secs(1);

pub(super) struct Conn {
    stream: Blocking,
    write_limit: Duration,
    /// The last frame's body.
    pub body: Vec<u8>,
    out: BytesMut,
}

impl Conn {
    pub(super) fn new(stream: Blocking) -> Conn {
        Conn {
            stream,
            write_limit: Duration::MAX,
            body: Vec::new(),
            out: BytesMut::new(),
        }
    }

    /// How long to wait for the next bytes, and for any of ours to be taken.
    pub(super) fn set_limits(&mut self, read: Duration, write: Duration) -> io::Result<()> {
        self.write_limit = write;
        self.stream.set_limits(read, write.min(WRITE_LOOK))
    }

    pub(super) fn cutter(&self) -> io::Result<Cutter> {
        self.stream.cutter()
    }

    pub(super) fn has_input(&self) -> bool {
        self.stream.has_input()
    }

    pub(super) fn send(
        &mut self,
        kind: Kind,
        write: impl FnOnce(&mut BytesMut),
    ) -> Result<(), Broken> {
        self.out.clear();
        put(&mut self.out, kind, write);
        let (mut left, mut moved) = (&self.out[..], Instant::now());
        loop {
            // What was taken last may still have to leave.
            let result = match left.is_empty() {
                true => match self.stream.flush() {
                    Ok(()) => return Ok(()),
                    Err(error) => Err(error),
                },
                false => self.stream.write(left),
            };
            match result {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(written) => {
                    left = &left[written..];
                    moved = Instant::now();
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                        if moved.elapsed() < self.write_limit && !self.stream.has_input() => {}
                    _ => return Err(error.into()),
                },
            }
        }
    }

    /// Reads a frame; its body is in `body` then.
    pub(super) fn receive(&mut self) -> Result<Kind, Broken> {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header)?;
        let header = Header::read(&header)?;
        self.body.resize(header.body_bytes, 0);
        self.stream.read_exact(&mut self.body)?;
        header.check(&self.body)?;
        Ok(header.kind)
    }

    /// The body's number, for frames that are one or begin with one.
    pub(super) fn number(&self, kind: Kind) -> Result<u64, Broken> {
        self.need(kind, 8)?;
        Ok(le64(&self.body, 0))
    }

    pub(super) fn send_offer(&mut self, id: SnapshotId, bytes: Option<u64>) -> Result<(), Broken> {
        self.send(Kind::Offer, |out| {
            out.put_u64_le(id.index);
            out.put_u64_le(id.term);
            out.put_u64_le(id.serial);
            out.put_u64_le(bytes.unwrap_or(UNKNOWN));
        })
    }

    pub(super) fn receive_offer(&mut self) -> Result<(SnapshotId, Option<u64>), Broken> {
        match self.receive()? {
            Kind::Offer => {
                self.need(Kind::Offer, 32)?;
                let id = SnapshotId {
                    index: le64(&self.body, 0),
                    term: le64(&self.body, 8),
                    serial: le64(&self.body, 16),
                };
                let bytes = le64(&self.body, 24);
                Ok((id, (bytes != UNKNOWN).then_some(bytes)))
            }
            other => Err(FrameError::Unexpected(other).into()),
        }
    }

    /// Says why it ends here, and lets the other side read it: closing a socket with unread bytes
    /// would take back what was sent last.
    pub(super) fn fail(mut self, later: bool, why: &str) {
        let end = why.floor_char_boundary(WHY_BYTES_MAX);
        let sent = self.send(Kind::Failed, |out| {
            out.put_u8(later.into());
            out.put_slice(&why.as_bytes()[..end]);
        });
        let begin = Instant::now();
        let limits = self.set_limits(LAST_WORDS, LAST_WORDS);
        if sent.is_err() || limits.is_err() {
            return;
        }
        self.body.resize(super::CHUNK_BYTES, 0);
        while begin.elapsed() < LAST_WORDS {
            match self.stream.read(&mut self.body) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    /// What a `Failed` frame says.
    pub(super) fn failed(&self) -> Failed {
        let (later, why) = self.body.split_first().unwrap_or((&0, b"no reason given"));
        Failed {
            later: *later == 1,
            why: String::from_utf8_lossy(why).into_owned(),
        }
    }

    fn need(&self, kind: Kind, needed: usize) -> Result<(), Broken> {
        let found = self.body.len();
        if found < needed {
            return Err(FrameError::TooShort {
                kind,
                found,
                needed,
            }
            .into());
        }
        Ok(())
    }
}
