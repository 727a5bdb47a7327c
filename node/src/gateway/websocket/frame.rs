//! RFC 6455, section 5: frames, from bytes and to bytes. No extensions, server side.
//!
//! Bound: a message of [`MESSAGE_BYTES_MAX`], over all its frames; a longer one is refused by its announced length.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Longest message of a client.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Longest payload of a control frame.
const CONTROL_BYTES_MAX: usize = 125;

/// Why a connection is closed, as the close frame says it.
pub mod code {
    pub const NORMAL: u16 = 1000;
    pub const PROTOCOL: u16 = 1002;
    /// A message that does not get on.
    pub const POLICY: u16 = 1008;
    pub const TOO_BIG: u16 = 1009;
    /// Too much has arrived in part, by all clients together.
    pub const TRY_LATER: u16 = 1013;
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A whole message, whether it was marked as text or binary.
    Text(Bytes),
    Ping(Bytes),
    Pong,
    /// With the code to answer.
    Close(u16),
}

#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    /// The frames so far of a message that goes on.
    message: Option<BytesMut>,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes held of what is not whole.
    pub fn held(&self) -> usize {
        self.buffer.len() + self.message.as_ref().map_or(0, BytesMut::len)
    }

    /// The next message or control frame, or `None` until more is pushed.
    ///
    /// # Errors
    /// The code to close with; the decoder is of no further use.
    pub fn next(&mut self) -> Result<Option<Incoming>, u16> {
        loop {
            let Some((opcode, last, payload)) = self.frame()? else {
                return Ok(None);
            };
            match opcode {
                PING => return Ok(Some(Incoming::Ping(payload.freeze()))),
                PONG => return Ok(Some(Incoming::Pong)),
                CLOSE => {
                    let code = match payload.len() {
                        0 => code::NORMAL,
                        1 => code::PROTOCOL,
                        _ => u16::from_be_bytes([payload[0], payload[1]]),
                    };
                    return Ok(Some(Incoming::Close(code)));
                }
                _ => {}
            }
            let message = match (opcode == CONTINUATION, self.message.take()) {
                (true, Some(mut message)) => {
                    message.unsplit(payload);
                    message
                }
                (false, None) => payload,
                _ => return Err(code::PROTOCOL),
            };
            if last {
                return Ok(Some(Incoming::Text(message.freeze())));
            }
            self.message = Some(message);
        }
    }

    /// The next frame, unmasked: opcode, whether it is its message's last, payload.
    fn frame(&mut self) -> Result<Option<(u8, bool, BytesMut)>, u16> {
        let [first, second, rest @ ..] = &self.buffer[..] else {
            return Ok(None);
        };
        let (opcode, last) = (first & 0x0f, first & FIN != 0);
        let short = usize::from(second & !MASKED);
        let known = matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG);
        let control = opcode >= CLOSE;
        // A client masks everything, and control frames are short and whole.
        if !known
            || first & RESERVED != 0
            || second & MASKED == 0
            || (control && (!last || short > CONTROL_BYTES_MAX))
        {
            return Err(code::PROTOCOL);
        }
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some(length) = rest.get(..extended) else {
            return Ok(None);
        };
        let length = match extended {
            0 => short as u64,
            _ => length
                .iter()
                .fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        let so_far = self.message.as_ref().map_or(0, BytesMut::len);
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= MESSAGE_BYTES_MAX - so_far)
            .ok_or(code::TOO_BIG)?;
        let head = 2 + extended + 4;
        if self.buffer.len() < head + length {
            return Ok(None);
        }
        let mask: [u8; 4] = self.buffer[head - 4..head].try_into().expect("four bytes");
        self.buffer.advance(head);
        let mut payload = self.buffer.split_to(length);
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        Ok(Some((opcode, last, payload)))
    }
}

/// Appends a message of text.
pub fn text(text: &[u8], out: &mut BytesMut) {
    put(TEXT, text, out);
}

/// Appends the answer to a ping.
pub fn pong(data: &[u8], out: &mut BytesMut) {
    put(PONG, data, out);
}

/// Appends the last frame.
pub fn close(code: u16, out: &mut BytesMut) {
    put(CLOSE, &code.to_be_bytes(), out);
}

fn put(opcode: u8, payload: &[u8], out: &mut BytesMut) {
    out.reserve(payload.len() + 10);
    out.put_u8(FIN | opcode);
    match payload.len() {
        short @ 0..=125 => out.put_u8(short as u8),
        middle @ 126..=0xffff => {
            out.put_u8(126);
            out.put_u16(middle as u16);
        }
        long => {
            out.put_u8(127);
            out.put_u64(long as u64);
        }
    }
    out.put_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a client sends it.
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        put(0, payload, &mut out);
        let mut frame = out.to_vec();
        frame[0] = first;
        frame[1] |= MASKED;
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let head = frame.len() - payload.len();
        for (byte, mask) in frame[head..].iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        frame.splice(head..head, mask);
        frame
    }

    fn all(bytes: &[u8], step: usize) -> Result<Vec<Incoming>, u16> {
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for piece in bytes.chunks(step) {
            decoder.push(piece);
            while let Some(incoming) = decoder.next()? {
                found.push(incoming);
            }
        }
        Ok(found)
    }

    #[test]
    fn the_standards_example_of_a_masked_hello() {
        let hello = [
            0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ];
        assert_eq!(masked(FIN | TEXT, b"Hello"), hello);
        assert_eq!(all(&hello, 11), Ok(vec![Incoming::Text("Hello".into())]));
    }

    #[test]
    fn messages_come_out_whole_however_they_are_cut() {
        let long = vec![b'x'; 70_000];
        let bytes = [
            masked(TEXT, b"one "),
            masked(FIN | PING, b"p"),
            masked(CONTINUATION, b""),
            masked(FIN | CONTINUATION, b"message"),
            masked(FIN | BINARY, &long[..300]),
            masked(FIN | TEXT, &long),
            masked(FIN | PONG, b""),
            masked(FIN | CLOSE, &1001u16.to_be_bytes()),
            masked(FIN | CLOSE, b""),
        ]
        .concat();
        for step in [1, 2, 3, 7, 1000, bytes.len()] {
            let expected = vec![
                Incoming::Ping("p".into()),
                Incoming::Text("one message".into()),
                Incoming::Text(long[..300].to_vec().into()),
                Incoming::Text(long.clone().into()),
                Incoming::Pong,
                Incoming::Close(1001),
                Incoming::Close(code::NORMAL),
            ];
            assert_eq!(all(&bytes, step), Ok(expected), "step {step}");
        }
    }

    #[test]
    fn what_the_standard_forbids_ends_the_connection() {
        let mut bare = BytesMut::new();
        text(b"not masked", &mut bare);
        let forbidden = [
            bare.to_vec(),
            masked(FIN | 0x40 | TEXT, b""),
            masked(FIN | 3, b""),
            masked(PING, b"in pieces"),
            masked(FIN | PING, &[0; 126]),
            masked(FIN | CONTINUATION, b"of nothing"),
            [masked(TEXT, b"a"), masked(FIN | TEXT, b"b")].concat(),
        ];
        for bytes in forbidden {
            assert_eq!(all(&bytes, 3), Err(code::PROTOCOL), "{bytes:?}");
        }
        // By its announced length, before it comes.
        let announced = [FIN | TEXT, MASKED | 127, 0, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(all(&announced, 10), Err(code::TOO_BIG));
        let half = vec![0; MESSAGE_BYTES_MAX / 2 + 1];
        let both = [masked(TEXT, &half), masked(FIN | CONTINUATION, &half)].concat();
        assert_eq!(all(&both, 1 << 20), Err(code::TOO_BIG));
    }
}
