//! Walks over HTTP/2 frame headers in a byte stream, however it is cut.
//!
//! The HTTP/2 engine answers PINGs and refuses calls itself and tells nobody, so the ping policy and
//! the numbers need their own eyes; and a GOAWAY of ours may only be written where a frame of the
//! engine ended. Looks at nine bytes per frame, at the reason of a reset, and skips the rest.

/// Bytes of a frame header: length (3), type (1), flags (1), stream (4).
const HEADER_LEN: usize = 9;
/// Bytes of a reset's reason, which is its whole payload.
const REASON_LEN: usize = 4;

pub(super) const TYPE_HEADERS: u8 = 0x1;
pub(super) const TYPE_RST_STREAM: u8 = 0x3;
pub(super) const TYPE_PING: u8 = 0x6;
/// PING flag of an answer.
pub(super) const FLAG_ACK: u8 = 0x1;

/// What is told of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    /// Of a reset; zero of other frames.
    pub reason: u32,
}

/// One direction of a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Walker {
    /// A header, and the reason behind it if it is a reset's.
    header: [u8; HEADER_LEN + REASON_LEN],
    filled: usize,
    /// Bytes that are not frames (the preface) or payload still to come.
    skip: usize,
}

impl Walker {
    /// A walker over a stream that begins with `skip` bytes that are not frames.
    pub(super) fn after(skip: usize) -> Walker {
        Walker {
            skip,
            ..Walker::default()
        }
    }

    /// Calls `seen` for every frame whose header (and reason) ends in `bytes`.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Head)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let taken = (self.wanted() - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            let wanted = self.wanted();
            if self.filled < wanted {
                continue;
            }
            self.filled = 0;
            let [_, _, _, kind, flags, s0, s1, s2, s3, r0, r1, r2, r3] = self.header;
            let reason = match wanted {
                HEADER_LEN => 0,
                _ => u32::from_be_bytes([r0, r1, r2, r3]),
            };
            self.skip = self.length() - (wanted - HEADER_LEN);
            seen(Head {
                kind,
                flags,
                stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
                reason,
            });
        }
    }

    /// Bytes that are looked at of the frame that has begun.
    fn wanted(&self) -> usize {
        let is_reset = self.filled >= HEADER_LEN && self.header[3] == TYPE_RST_STREAM;
        match is_reset && self.length() == REASON_LEN {
            true => HEADER_LEN + REASON_LEN,
            false => HEADER_LEN,
        }
    }

    /// The length in the header.
    fn length(&self) -> usize {
        let [a, b, c, ..] = self.header;
        usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
    }

    /// Between two frames?
    pub(super) fn at_boundary(&self) -> bool {
        self.filled == 0 && self.skip == 0
    }
}

/// A whole GOAWAY frame. `last_stream` is the highest stream the server has looked at.
pub(super) fn go_away(last_stream: u32, code: u32, text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + text.len()).expect("GOAWAY texts are our own, and short");
    let mut frame = Vec::with_capacity(HEADER_LEN + 8 + text.len());
    frame.extend_from_slice(&length.to_be_bytes()[1..]);
    frame.extend_from_slice(&[0x7, 0, 0, 0, 0, 0]);
    frame.extend_from_slice(&last_stream.to_be_bytes());
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(text);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_seen_however_the_bytes_are_cut() {
        let mut bytes = b"PREFACE".to_vec();
        bytes.extend_from_slice(&[0, 0, 3, TYPE_HEADERS, 4, 0, 0, 0, 1, 9, 9, 9]);
        bytes.extend_from_slice(&[0, 0, 0, 0x4, 1, 0, 0, 0, 0]);
        bytes.extend_from_slice(&[0, 0, 8, TYPE_PING, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        // A reset as it should be, and one that is too long to be one.
        bytes.extend_from_slice(&[0, 0, 4, TYPE_RST_STREAM, 0, 0, 0, 1, 5, 0, 0, 0, 7]);
        bytes.extend_from_slice(&[0, 0, 5, TYPE_RST_STREAM, 0, 0, 0, 0, 7, 0, 0, 0, 7, 1]);
        bytes.extend_from_slice(&[0, 0, 0, TYPE_HEADERS, 5, 0x80, 0, 0, 9]);
        let head = |kind, flags, stream, reason| Head {
            kind,
            flags,
            stream,
            reason,
        };
        for cut in 1..bytes.len() {
            let mut walker = Walker::after(7);
            let mut seen = Vec::new();
            for piece in bytes.chunks(cut) {
                walker.feed(piece, |head| seen.push(head));
            }
            let wanted = [
                head(TYPE_HEADERS, 4, 1, 0),
                head(0x4, 1, 0, 0),
                head(TYPE_PING, 0, 0, 0),
                head(TYPE_RST_STREAM, 0, 261, 7),
                head(TYPE_RST_STREAM, 0, 7, 0),
                head(TYPE_HEADERS, 5, 9, 0),
            ];
            assert_eq!(seen, wanted, "pieces of {cut} bytes");
            assert!(walker.at_boundary());
        }
    }

    #[test]
    fn boundary_is_only_between_frames() {
        let frame = go_away(5, 11, b"too_many_pings");
        for end in 1..frame.len() {
            let mut walker = Walker::default();
            walker.feed(&frame[..end], |_| {});
            assert!(!walker.at_boundary(), "after {end} bytes");
            walker.feed(&frame[end..], |_| {});
            assert!(walker.at_boundary());
        }
    }
}
