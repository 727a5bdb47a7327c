//! Walks over HTTP/2 frame headers in a byte stream, however it is cut.
//!
//! The HTTP/2 engine answers PINGs itself and tells nobody, so the ping policy needs its own eyes;
//! and a GOAWAY of ours may only be written where a frame of the engine ended. Looks at nine bytes
//! per frame and skips the rest.

/// Bytes of a frame header: length (3), type (1), flags (1), stream (4).
const HEADER_LEN: usize = 9;

pub(super) const TYPE_HEADERS: u8 = 0x1;
pub(super) const TYPE_PING: u8 = 0x6;
/// PING flag of an answer.
pub(super) const FLAG_ACK: u8 = 0x1;

/// One direction of a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Walker {
    header: [u8; HEADER_LEN],
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

    /// Calls `seen` with type and flags of every frame whose header ends in `bytes`.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut seen: impl FnMut(u8, u8)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let taken = (HEADER_LEN - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled < HEADER_LEN {
                return;
            }
            self.filled = 0;
            let [a, b, c, kind, flags, ..] = self.header;
            self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            seen(kind, flags);
        }
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
        for cut in 1..bytes.len() {
            let mut walker = Walker::after(7);
            let mut seen = Vec::new();
            for piece in bytes.chunks(cut) {
                walker.feed(piece, |kind, flags| seen.push((kind, flags)));
            }
            assert_eq!(seen, [(TYPE_HEADERS, 4), (0x4, 1), (TYPE_PING, 0)]);
            assert!(walker.at_boundary());
        }
    }

    #[test]
    fn boundary_is_only_between_frames() {
        let frame = go_away(5, 11, b"too_many_pings");
        for end in 1..frame.len() {
            let mut walker = Walker::default();
            walker.feed(&frame[..end], |_, _| {});
            assert!(!walker.at_boundary(), "after {end} bytes");
            walker.feed(&frame[end..], |_, _| {});
            assert!(walker.at_boundary());
        }
    }
}
