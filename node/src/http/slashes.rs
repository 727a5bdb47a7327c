//! Unix sockets and the authority of a call.
//!
//! Go's gRPC library, up to that of etcdctl 3.5, calls `unix:///a/path` with the whole path as `:authority`. A slash has no
//! place there, and the engine refuses the call. On connections over a unix socket, and on no others, the slashes of such an
//! authority are therefore changed on the way in, into the one character whose code is the same but for its last bit: as
//! long, plain or in HPACK's Huffman code, so that nothing else of the stream has to change, and complete the moment the
//! slash is, however the bytes are cut. Nobody looks at the authority of a call.
//!
//! A client says it in full once and refers to its table from then on, which the engine fills with what it was given.

/// Bytes of a frame's header: length (3), type, flags, stream (4).
const FRAME_HEAD_LEN: usize = 9;
const TYPE_HEADERS: u8 = 0x1;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;

/// Index of `:authority` among HPACK's known names.
const AUTHORITY: u8 = 1;

/// What becomes of a slash.
const IN_PLACE: u8 = b'3';

/// Walks over a connection's bytes and changes what has to be changed.
#[derive(Debug)]
pub(super) struct Slashes {
    /// Bytes of no interest still to come: the preface, or other frames' payload.
    skip: usize,
    head: [u8; FRAME_HEAD_LEN],
    filled: usize,
    /// Bytes left of a HEADERS frame.
    block: usize,
    /// Of these, still in front of its fields.
    before: usize,
    /// The field in it.
    field: Field,
}

/// Where in a field the next byte is (RFC 7541, section 6).
#[derive(Clone, Copy, Debug)]
enum Field {
    Begin,
    /// Within a number that says nothing to us.
    Index(Then),
    /// A length: of the name, or of the value.
    Length(Of),
    /// The rest of a length: its value so far, and how far the next seven bits are shifted.
    MoreLength(Of, bool, usize, u32),
    Text(Of, usize),
    Value {
        left: usize,
        code: Option<Code>,
    },
}

/// What follows a number.
#[derive(Clone, Copy, Debug)]
enum Then {
    Begin,
    Value,
}

/// Whose length or text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Name,
    Value,
    Authority,
}

impl Slashes {
    /// For a stream that begins with `skip` bytes that are no frames.
    pub(super) fn after(skip: usize) -> Slashes {
        Slashes {
            skip,
            head: [0; FRAME_HEAD_LEN],
            filled: 0,
            block: 0,
            before: 0,
            field: Field::Begin,
        }
    }

    /// The next bytes of the stream.
    pub(super) fn change(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &mut bytes[skipped..];
            } else if self.block > 0 {
                self.block -= 1;
                match self.before {
                    0 => self.field.take(&mut bytes[0]),
                    _ => self.before -= 1,
                }
                bytes = &mut bytes[1..];
            } else {
                self.head[self.filled] = bytes[0];
                self.filled += 1;
                bytes = &mut bytes[1..];
                if self.filled == FRAME_HEAD_LEN {
                    self.begin_frame();
                }
            }
        }
    }

    fn begin_frame(&mut self) {
        self.filled = 0;
        let [a, b, c, kind, flags, ..] = self.head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if kind != TYPE_HEADERS {
            self.skip = length;
            return;
        }
        // What goes on in another frame is of no interest: the authority is among the first fields.
        self.field = Field::Begin;
        self.block = length;
        let padded = usize::from(flags & FLAG_PADDED != 0);
        self.before = padded + if flags & FLAG_PRIORITY != 0 { 5 } else { 0 };
    }
}

impl Field {
    fn take(&mut self, byte: &mut u8) {
        *self = match *self {
            Field::Begin => begin(*byte),
            Field::Index(then) if *byte & 0x80 != 0 => Field::Index(then),
            Field::Index(Then::Begin) => Field::Begin,
            Field::Index(Then::Value) => Field::Length(Of::Value),
            Field::Length(of) => {
                let (coded, length) = (*byte & 0x80 != 0, usize::from(*byte & 0x7f));
                match length {
                    0x7f => Field::MoreLength(of, coded, length, 0),
                    length => text(of, coded, length),
                }
            }
            Field::MoreLength(of, coded, length, shift) => {
                let more = usize::from(*byte & 0x7f).checked_shl(shift).unwrap_or(0);
                let length = length.saturating_add(more);
                match *byte & 0x80 != 0 {
                    true => Field::MoreLength(of, coded, length, shift.saturating_add(7)),
                    false => text(of, coded, length),
                }
            }
            Field::Text(of, left) if left > 1 => Field::Text(of, left - 1),
            Field::Text(of, _) => after(of),
            Field::Value { left, mut code } => {
                match &mut code {
                    Some(code) => *byte = code.take(*byte),
                    None if *byte == b'/' => *byte = IN_PLACE,
                    None => {}
                }
                match left {
                    0 | 1 => Field::Begin,
                    left => Field::Value {
                        left: left - 1,
                        code,
                    },
                }
            }
        };
    }
}

/// The first byte of a field.
fn begin(byte: u8) -> Field {
    let (bits, then) = match byte {
        0x80.. => (7, Then::Begin),
        0x40.. => (6, Then::Value),
        0x20.. => (5, Then::Begin),
        _ => (4, Then::Value),
    };
    let mask = (1u8 << bits) - 1;
    match (then, byte & mask) {
        (_, index) if index == mask => Field::Index(then),
        (Then::Begin, _) => Field::Begin,
        (Then::Value, 0) => Field::Length(Of::Name),
        (Then::Value, AUTHORITY) => Field::Length(Of::Authority),
        (Then::Value, _) => Field::Length(Of::Value),
    }
}

/// A text of this length follows.
fn text(of: Of, coded: bool, length: usize) -> Field {
    match (of, length) {
        (_, 0) => after(of),
        (Of::Authority, left) => Field::Value {
            left,
            code: coded.then(Code::default),
        },
        (_, left) => Field::Text(of, left),
    }
}

fn after(of: Of) -> Field {
    match of {
        Of::Name => Field::Length(Of::Value),
        Of::Value | Of::Authority => Field::Begin,
    }
}

/// How many characters of HPACK's Huffman code have a code of 1, 2, ... bits (RFC 7541, appendix B). Codes of a length are
/// numbered one after the other, shorter ones first; so this is enough to tell where each ends.
const CODES: [u32; 30] = [
    0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29,
    0, 4,
];

/// The code of a slash: `011000`. That of [`IN_PLACE`] has a one at its end.
const SLASH: (usize, u32) = (6, 0b01_1000);

/// Walks over text in Huffman code.
#[derive(Clone, Copy, Debug, Default)]
struct Code {
    /// Bits of the character so far.
    bits: u32,
    count: usize,
    /// First code of that many bits.
    first: u32,
}

impl Code {
    /// The byte, with slashes that end in it changed.
    fn take(&mut self, mut byte: u8) -> u8 {
        for place in (0..8).rev() {
            self.bits = self.bits << 1 | u32::from(byte >> place & 1);
            self.first <<= 1;
            self.count += 1;
            if (self.count, self.bits) == SLASH {
                byte |= 1 << place;
            }
            let codes = self.count.checked_sub(1).and_then(|at| CODES.get(at));
            match codes {
                Some(codes) if self.bits - self.first < *codes => *self = Code::default(),
                Some(codes) => self.first += codes,
                // No such character; the engine says so.
                None => *self = Code::default(),
            }
        }
        byte
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HEADERS with these fields behind the preface and a SETTINGS frame.
    fn stream(flags: u8, before: &[u8], fields: &[u8]) -> Vec<u8> {
        let mut bytes = b"PREFACE\0\0\x06\x04\0\0\0\0\0\0\x05/@\0/".to_vec();
        let length = u8::try_from(before.len() + fields.len()).unwrap();
        bytes.extend_from_slice(&[0, 0, length, TYPE_HEADERS, flags, 0, 0, 0, 1]);
        bytes.extend_from_slice(before);
        bytes.extend_from_slice(fields);
        bytes
    }

    fn changed(bytes: &[u8], cut: usize) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let mut slashes = Slashes::after(7);
        bytes
            .chunks_mut(cut)
            .for_each(|piece| slashes.change(piece));
        bytes
    }

    #[test]
    fn slashes_of_the_authority_and_no_others_are_changed() {
        // A known pair, an authority, a path, an unknown name, a size update, another authority that enters no table.
        let fields = b"\x83\x41\x05/a/bc\x44\x02/p\x40\x02a/\x02b/\x3f\xe1\x1f\x01\x01/";
        let expected = b"\x83\x41\x053a3bc\x44\x02/p\x40\x02a/\x02b/\x3f\xe1\x1f\x01\x013";
        let before: [(u8, &[u8]); 3] = [(4, b""), (0x24, b"/////"), (0x2c, b"\0/////")];
        for (flags, before) in before {
            let (given, wanted) = (
                stream(flags, before, fields),
                stream(flags, before, expected),
            );
            for cut in 1..given.len() {
                assert_eq!(changed(&given, cut), wanted, "pieces of {cut} bytes");
            }
        }
    }

    #[test]
    fn slashes_in_huffman_code_are_changed() {
        // "/tmp/a" and "3tmp3a": 011000 01001 101001 101011 011000 00011, and ones to the end.
        let code = |slash: &str| {
            let bits = format!("{slash}01001101001101011{slash}00011111111");
            let bytes = bits.as_bytes().chunks(8).map(|byte| {
                let text = std::str::from_utf8(byte).unwrap();
                u8::from_str_radix(text, 2).unwrap()
            });
            bytes.take(5).collect::<Vec<u8>>()
        };
        let field = |slash| [&[0x41, 0x85][..], &code(slash), &[0x84]].concat();
        let (given, wanted) = (
            stream(4, b"", &field("011000")),
            stream(4, b"", &field("011001")),
        );
        for cut in 1..given.len() {
            assert_eq!(changed(&given, cut), wanted, "pieces of {cut} bytes");
        }
    }

    #[test]
    fn the_codes_of_all_lengths_use_all_bits_there_are() {
        let all: u64 = CODES
            .iter()
            .zip(1..)
            .map(|(codes, bits): (_, u32)| u64::from(*codes) << (30 - bits))
            .sum();
        assert_eq!(all, 1 << 30);
        // 256 characters and the end of a text.
        assert_eq!(CODES.iter().sum::<u32>(), 257);
    }

    #[test]
    fn lengths_of_several_bytes_are_understood() {
        let long = [b'/'; 200];
        let fields = [&[0x41, 0x7f, 200 - 127][..], &long, &[0x82]].concat();
        let bytes = stream(4, b"", &fields);
        let end = bytes.len() - 1;
        assert_eq!(changed(&bytes, 3)[end - 200..end], [IN_PLACE; 200]);
    }
}
