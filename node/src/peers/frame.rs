//! The bytes between two members once they have greeted each other: frames.
//!
//! All integers are little-endian.
//!
//! ```text
//! off size
//!   0    4  body bytes
//!   4    1  kind
//!   5    3  zero
//!   8    4  CRC-32 (IEEE) of the body
//!  12    4  CRC-32 of bytes 0..12
//!  16       body
//! ```
//!
//! The header has a checksum of its own, so that a damaged length is seen before it is believed.
//! Every kind has a longest body ([`Kind::body_bytes_max`]), checked before anything is allocated.
//! Whatever does not add up ends the connection; there is no way back to a frame's beginning.
//!
//! This file names nothing else of the crate, so that a fuzz target can take it in alone.

use bytes::{BufMut, Bytes, BytesMut};

pub const HEADER_BYTES: usize = 16;

/// Longest raft message. The longest entry (12 MiB) with its neighbours fits.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// The longest body of an ask or its answer, in bytes.
pub const ASK_BYTES_MAX: usize = 1 << 20;

/// The most bytes of a snapshot that are read, sent or written at a time.
pub const CHUNK_BYTES: usize = 256 << 10;

/// Room for a snapshot's small words: offers, offsets, reasons.
const WORD_BYTES_MAX: usize = 1024;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A raft message as `kvnode_replica::Message` encodes it.
    Message = 1,
    /// Empty; answered with a pong.
    Ping = 2,
    /// Empty.
    Pong = 3,
    /// Ticket 8, kind 1, body.
    Ask = 4,
    /// Ticket 8, body.
    Answer = 5,
    /// Empty: the receiver is no longer a member of the sender's cluster. The last frame.
    Removed = 6,
    /// Sender of a snapshot: index 8, term 8, serial 8, total bytes 8 (all ones: not known).
    Offer = 16,
    /// Receiver: offset 8 from which to send.
    Resume = 17,
    /// Sender: offset 8, bytes (at least one).
    Chunk = 18,
    /// Sender: total 8. All bytes have been sent.
    End = 19,
    /// Receiver, empty: all bytes are here, checked and kept.
    Kept = 20,
    /// Receiver: it ends here. One byte (0 for good, 1 try again later), then why in UTF-8.
    Failed = 21,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Message,
            2 => Kind::Ping,
            3 => Kind::Pong,
            4 => Kind::Ask,
            5 => Kind::Answer,
            6 => Kind::Removed,
            16 => Kind::Offer,
            17 => Kind::Resume,
            18 => Kind::Chunk,
            19 => Kind::End,
            20 => Kind::Kept,
            21 => Kind::Failed,
            _ => return None,
        })
    }

    pub const fn body_bytes_max(self) -> usize {
        match self {
            Kind::Message => MESSAGE_BYTES_MAX,
            Kind::Ask => 9 + ASK_BYTES_MAX,
            Kind::Answer => 8 + ASK_BYTES_MAX,
            Kind::Chunk => 8 + CHUNK_BYTES,
            Kind::Ping | Kind::Pong | Kind::Removed | Kind::Kept => 0,
            Kind::Offer | Kind::Resume | Kind::End | Kind::Failed => WORD_BYTES_MAX,
        }
    }
}

/// Why bytes are not frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame header has CRC {found:08x}, its bytes give {computed:08x}")]
    HeaderCrc { found: u32, computed: u32 },
    #[error("frame of {bytes} body bytes has CRC {found:08x}, its bytes give {computed:08x}")]
    BodyCrc {
        bytes: usize,
        found: u32,
        computed: u32,
    },
    #[error("frame kind {0} is not known")]
    Kind(u8),
    #[error("frame header has other bytes than zero in its padding")]
    Padding,
    #[error("{kind:?} frame of {found} body bytes, at most {limit} are allowed")]
    TooLong {
        kind: Kind,
        found: usize,
        limit: usize,
    },
    #[error("{kind:?} frame of {found} body bytes, at least {needed} are needed")]
    TooShort {
        kind: Kind,
        found: usize,
        needed: usize,
    },
    #[error("{0:?} frame where none is expected")]
    Unexpected(Kind),
}

/// A frame's header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub body_bytes: usize,
    body_crc: u32,
}

impl Header {
    /// # Errors
    /// Any but [`FrameError::BodyCrc`].
    pub fn read(bytes: &[u8; HEADER_BYTES]) -> Result<Header, FrameError> {
        let (found, computed) = (le32(bytes, 12), crc32fast::hash(&bytes[..12]));
        if found != computed {
            return Err(FrameError::HeaderCrc { found, computed });
        }
        let kind = Kind::of(bytes[4]).ok_or(FrameError::Kind(bytes[4]))?;
        if bytes[5..8] != [0; 3] {
            return Err(FrameError::Padding);
        }
        let (body_bytes, limit) = (le32(bytes, 0) as usize, kind.body_bytes_max());
        if body_bytes > limit {
            return Err(FrameError::TooLong {
                kind,
                found: body_bytes,
                limit,
            });
        }
        Ok(Header {
            kind,
            body_bytes,
            body_crc: le32(bytes, 8),
        })
    }

    /// # Errors
    /// [`FrameError::BodyCrc`].
    pub fn check(&self, body: &[u8]) -> Result<(), FrameError> {
        let computed = crc32fast::hash(body);
        if computed != self.body_crc {
            return Err(FrameError::BodyCrc {
                bytes: body.len(),
                found: self.body_crc,
                computed,
            });
        }
        Ok(())
    }
}

/// Appends a frame whose body `write` appends.
///
/// # Panics
/// If the body is longer than its kind allows.
pub fn put(out: &mut BytesMut, kind: Kind, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_bytes(0, HEADER_BYTES);
    write(out);
    let (header, body) = out[start..].split_at_mut(HEADER_BYTES);
    assert!(
        body.len() <= kind.body_bytes_max(),
        "a {kind:?} of {} bytes must have been refused before",
        body.len()
    );
    let length = u32::try_from(body.len()).expect("bodies are far below 4 GiB");
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = kind as u8;
    header[8..12].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    let crc = crc32fast::hash(&header[..12]);
    header[12..].copy_from_slice(&crc.to_le_bytes());
}

/// One frame, checked. Bodies of one read share one allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub body: Bytes,
}

/// Makes frames of a stream's bytes, however they are cut. Holds at most one frame in part.
#[derive(Debug, Default)]
pub struct Decoder {
    /// A frame of which only a part has come.
    partial: BytesMut,
    /// Kept for its memory.
    headers: Vec<Header>,
}

/// The buffer of a frame in part begins with this and doubles: what is allocated stays in
/// proportion to what has really come.
const PARTIAL_BYTES: usize = 4096;

impl Decoder {
    /// Appends the frames that `bytes` complete to `frames`.
    ///
    /// # Errors
    /// The first thing that is wrong; what came before it is in `frames`. The stream is at its end
    /// then: feeding more is an error of the caller's.
    pub fn feed(&mut self, mut bytes: &[u8], frames: &mut Vec<Frame>) -> Result<(), FrameError> {
        if !self.partial.is_empty() {
            self.take_until(&mut bytes, HEADER_BYTES);
            let Some(header) = self.partial.first_chunk() else {
                return Ok(());
            };
            let header = Header::read(header)?;
            let end = HEADER_BYTES + header.body_bytes;
            self.take_until(&mut bytes, end);
            if self.partial.len() < end {
                return Ok(());
            }
            header.check(&self.partial[HEADER_BYTES..])?;
            let body = std::mem::take(&mut self.partial)
                .freeze()
                .slice(HEADER_BYTES..);
            let kind = header.kind;
            frames.push(Frame { kind, body });
        }
        let whole = self.take_whole(bytes, frames)?;
        self.partial.extend_from_slice(&bytes[whole..]);
        Ok(())
    }

    /// True where the stream may end.
    pub fn is_between_frames(&self) -> bool {
        self.partial.is_empty()
    }

    /// Moves bytes over until there are `end` of them in `partial`.
    fn take_until(&mut self, bytes: &mut &[u8], end: usize) {
        let missing = end.saturating_sub(self.partial.len());
        let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
        if self.partial.capacity() - self.partial.len() < taken.len() {
            let room = self.partial.len().max(PARTIAL_BYTES).min(missing);
            self.partial.reserve(room.max(taken.len()));
        }
        self.partial.extend_from_slice(taken);
        *bytes = rest;
    }

    /// Appends the frames that lie whole in `bytes`; returns where the last one ends, or where a
    /// header begins that is already known to be good.
    fn take_whole(&mut self, bytes: &[u8], frames: &mut Vec<Frame>) -> Result<usize, FrameError> {
        let mut end = 0;
        let mut wrong = None;
        self.headers.clear();
        while let Some(header) = bytes[end..].first_chunk() {
            let checked = Header::read(header).and_then(|header| {
                let body = &bytes[end + HEADER_BYTES..];
                let Some(body) = body.get(..header.body_bytes) else {
                    return Ok(None);
                };
                header.check(body).map(|()| Some(header))
            });
            match checked {
                Ok(Some(header)) => {
                    end += HEADER_BYTES + header.body_bytes;
                    self.headers.push(header);
                }
                Ok(None) => break,
                Err(error) => {
                    wrong = Some(error);
                    break;
                }
            }
        }
        let mut whole = Bytes::copy_from_slice(&bytes[..end]);
        frames.extend(self.headers.iter().map(|header| {
            let mut frame = whole.split_to(HEADER_BYTES + header.body_bytes);
            Frame {
                kind: header.kind,
                body: frame.split_off(HEADER_BYTES),
            }
        }));
        wrong.map_or(Ok(end), Err)
    }
}

pub(super) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<Frame>, BytesMut) {
        let mut out = BytesMut::new();
        let frames: Vec<Frame> = [
            (Kind::Message, 100),
            (Kind::Ping, 0),
            (Kind::Ask, 9),
            (Kind::Message, 5000),
            (Kind::Pong, 0),
            (Kind::Answer, 8),
        ]
        .into_iter()
        .map(|(kind, length)| {
            let body: Bytes = (0..length).map(|n| (n * 7) as u8).collect();
            put(&mut out, kind, |out| out.put_slice(&body));
            Frame { kind, body }
        })
        .collect();
        (frames, out)
    }

    fn decode(bytes: &[u8], step: usize) -> (Vec<Frame>, Result<bool, FrameError>) {
        let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
        for chunk in bytes.chunks(step) {
            if let Err(error) = decoder.feed(chunk, &mut frames) {
                return (frames, Err(error));
            }
        }
        (frames, Ok(decoder.is_between_frames()))
    }

    #[test]
    fn frames_are_the_same_however_the_stream_is_cut() {
        let (frames, bytes) = sample();
        for step in (1..40).chain([100, 1000, 4096, bytes.len()]) {
            assert_eq!(decode(&bytes, step), (frames.clone(), Ok(true)), "{step}");
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_nothing_behind_it_is_delivered() {
        let (frames, bytes) = sample();
        let mut ends = Vec::new();
        let mut end = 0;
        for frame in &frames {
            end += HEADER_BYTES + frame.body.len();
            ends.push(end);
        }
        let mut damaged = bytes.to_vec();
        for bit in 0..bytes.len() * 8 {
            damaged[bit / 8] ^= 1 << (bit % 8);
            let before = ends.iter().filter(|end| **end <= bit / 8).count();
            for step in [777, bytes.len()] {
                let (got, result) = decode(&damaged, step);
                assert!(result.is_err(), "bit {bit} passed");
                assert_eq!(got, frames[..before], "bit {bit}");
            }
            damaged[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_damaged_length_is_noticed_before_its_body_comes() {
        let (_, mut bytes) = sample();
        bytes[2] ^= 0x10;
        let (frames, result) = decode(&bytes[..HEADER_BYTES], 5);
        assert_eq!(frames, []);
        assert!(matches!(result, Err(FrameError::HeaderCrc { .. })));
    }

    #[test]
    fn every_truncation_is_seen_as_one() {
        let (frames, bytes) = sample();
        let mut end = 0;
        let mut ends = vec![0];
        for frame in &frames {
            end += HEADER_BYTES + frame.body.len();
            ends.push(end);
        }
        for length in 0..bytes.len() {
            let whole = ends.iter().filter(|end| **end <= length).count() - 1;
            let (got, result) = decode(&bytes[..length], 997);
            assert_eq!(got, frames[..whole]);
            assert_eq!(result, Ok(ends.contains(&length)), "{length}");
        }
    }

    fn with_header(length: u32, kind: u8, padding: u8) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[4] = kind;
        bytes[6] = padding;
        let crc = crc32fast::hash(&bytes[..12]);
        bytes[12..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn unknown_kinds_padding_and_long_bodies_are_refused_by_the_header_alone() {
        let refused = |length, kind, padding| decode(&with_header(length, kind, padding), 16).1;
        assert_eq!(refused(0, 99, 0), Err(FrameError::Kind(99)));
        assert_eq!(refused(0, 2, 1), Err(FrameError::Padding));
        assert_eq!(
            refused(1, 2, 0),
            Err(FrameError::TooLong {
                kind: Kind::Ping,
                found: 1,
                limit: 0
            })
        );
        let too_long = MESSAGE_BYTES_MAX as u32 + 1;
        assert!(matches!(
            refused(too_long, 1, 0),
            Err(FrameError::TooLong { .. })
        ));
        assert_eq!(refused(too_long - 1, 1, 0), Ok(false));
    }

    #[test]
    fn a_claimed_length_allocates_no_more_than_a_share_of_what_has_come() {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        decoder
            .feed(&with_header(MESSAGE_BYTES_MAX as u32, 1, 0), &mut frames)
            .unwrap();
        decoder.feed(&[0; 100], &mut frames).unwrap();
        assert!(decoder.partial.capacity() <= 2 * PARTIAL_BYTES);
    }
}
