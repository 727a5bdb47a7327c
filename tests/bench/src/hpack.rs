//! Header compression (RFC 7541) as far as a gRPC client meets it, without a tree of strings.
//!
//! Requests: every field is inserted into the dynamic table once and is one byte from then on, as
//! grpc-go sends it. Responses: the whole format is read and the dynamic table kept, but of a field
//! only what matters here is remembered: whether it is `grpc-status` (and its number),
//! `grpc-message` or `:status`. A repeated answer costs a few table look-ups.

use std::collections::VecDeque;

/// Table size both sides start with (RFC 7541 section 4.2 through RFC 9113's setting), in bytes.
pub const TABLE_BYTES: usize = 4096;
/// What an entry counts for besides its strings.
const ENTRY_OVERHEAD: usize = 32;
/// Entries of the static table.
const STATIC_ENTRIES: usize = 61;

/// Builds request header blocks and knows what the peer's table holds.
pub struct Encoder {
    /// Newest first: (name, value).
    table: VecDeque<(&'static str, String)>,
    bytes: usize,
}

impl Encoder {
    pub fn new() -> Encoder {
        Encoder {
            table: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Appends one field. It must fit the table together with everything before it, which a
    /// client that calls a dozen methods is far from exceeding.
    pub fn field(&mut self, name: &'static str, value: &str, out: &mut Vec<u8>) {
        let full = match (name, value) {
            (":method", "POST") => Some(3),
            (":scheme", "http") => Some(6),
            _ => self
                .table
                .iter()
                .position(|(n, v)| *n == name && v == value)
                .map(|at| STATIC_ENTRIES + 1 + at),
        };
        if let Some(index) = full {
            integer(index, 7, 0x80, out);
            return;
        }
        let static_name = match name {
            ":authority" => Some(1),
            ":path" => Some(4),
            "content-type" => Some(31),
            "user-agent" => Some(58),
            _ => None,
        };
        integer(static_name.unwrap_or(0), 6, 0x40, out);
        if static_name.is_none() {
            string(name, out);
        }
        string(value, out);
        self.bytes += name.len() + value.len() + ENTRY_OVERHEAD;
        assert!(
            self.bytes <= TABLE_BYTES,
            "the header table never overflows"
        );
        self.table.push_front((name, value.to_owned()));
    }
}

fn string(text: &str, out: &mut Vec<u8>) {
    integer(text.len(), 7, 0, out);
    out.extend_from_slice(text.as_bytes());
}

/// An integer with a prefix of `bits` bits below the pattern (section 5.1).
fn integer(value: usize, bits: u32, pattern: u8, out: &mut Vec<u8>) {
    let limit = (1_usize << bits) - 1;
    if value < limit {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | limit as u8);
    let mut rest = value - limit;
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// What a response field means to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    GrpcStatus(u32),
    GrpcMessage(String),
    HttpStatus(u32),
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    GrpcStatus,
    GrpcMessage,
    HttpStatus,
    Other,
}

/// An entry of the peer's table.
struct Entry {
    name: Name,
    name_bytes: usize,
    field: Field,
    size: usize,
}

/// Reads response header blocks of one connection.
pub struct Decoder {
    /// Newest first.
    table: VecDeque<Entry>,
    bytes: usize,
    limit: usize,
}

/// The block cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Decoder {
    pub fn new() -> Decoder {
        Decoder {
            table: VecDeque::new(),
            bytes: 0,
            limit: TABLE_BYTES,
        }
    }

    /// Hands every field of a block to `visit`, in order.
    pub fn block(&mut self, block: &[u8], mut visit: impl FnMut(&Field)) -> Result<(), Malformed> {
        let mut rest = Rest(block);
        while let Some(&first) = rest.0.first() {
            if first & 0x80 != 0 {
                let index = rest.integer(7)?;
                match index.checked_sub(STATIC_ENTRIES + 1) {
                    Some(at) => visit(&self.table.get(at).ok_or(Malformed)?.field),
                    None => visit(&static_field(index)?),
                }
            } else if first & 0xe0 == 0x20 {
                self.limit = rest.integer(5)?.min(TABLE_BYTES);
                self.evict(0);
            } else {
                let keep = first & 0x40 != 0;
                let index = rest.integer(if keep { 6 } else { 4 })?;
                let (name, name_bytes) = self.name(index, &mut rest)?;
                let value = rest.string()?;
                let size = name_bytes + value.len() + ENTRY_OVERHEAD;
                let field = field_of(name, value);
                visit(&field);
                if keep {
                    self.insert(Entry {
                        name,
                        name_bytes,
                        field,
                        size,
                    });
                }
            }
        }
        Ok(())
    }

    /// The name of a literal field and its length.
    fn name(&self, index: usize, rest: &mut Rest<'_>) -> Result<(Name, usize), Malformed> {
        if index == 0 {
            let name = rest.string()?;
            return Ok((known_name(&name), name.len()));
        }
        match index.checked_sub(STATIC_ENTRIES + 1) {
            Some(at) => {
                let entry = self.table.get(at).ok_or(Malformed)?;
                Ok((entry.name, entry.name_bytes))
            }
            None if (8..=14).contains(&index) => Ok((Name::HttpStatus, 7)),
            None => Ok((Name::Other, usize::from(STATIC_NAME_BYTES[index - 1]))),
        }
    }

    fn insert(&mut self, entry: Entry) {
        self.evict(entry.size);
        if entry.size <= self.limit {
            self.bytes += entry.size;
            self.table.push_front(entry);
        }
    }

    /// Makes room for a new entry of this size.
    fn evict(&mut self, wanted: usize) {
        while self.bytes + wanted > self.limit {
            let Some(oldest) = self.table.pop_back() else {
                return;
            };
            self.bytes -= oldest.size;
        }
    }
}

/// Lengths of the static table's names, from index 1 on (RFC 7541 appendix A).
const STATIC_NAME_BYTES: [u8; STATIC_ENTRIES] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14,
    16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10,
    25, 17, 10, 4, 3, 16,
];

/// The `:status` values of indexes 8 to 14.
const STATIC_STATUS: [u32; 7] = [200, 204, 206, 304, 400, 404, 500];

fn static_field(index: usize) -> Result<Field, Malformed> {
    match index {
        0 => Err(Malformed),
        8..=14 => Ok(Field::HttpStatus(STATIC_STATUS[index - 8])),
        _ => Ok(Field::Other),
    }
}

fn known_name(name: &[u8]) -> Name {
    match name {
        b"grpc-status" => Name::GrpcStatus,
        b"grpc-message" => Name::GrpcMessage,
        b":status" => Name::HttpStatus,
        _ => Name::Other,
    }
}

fn field_of(name: Name, value: Vec<u8>) -> Field {
    let number = || String::from_utf8_lossy(&value).parse().unwrap_or(u32::MAX);
    match name {
        Name::GrpcStatus => Field::GrpcStatus(number()),
        Name::HttpStatus => Field::HttpStatus(number()),
        Name::GrpcMessage => Field::GrpcMessage(String::from_utf8_lossy(&value).into_owned()),
        Name::Other => Field::Other,
    }
}

/// What is left of a block.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(first)
    }

    /// An integer in the low `bits` bits of the next byte and the bytes after it.
    fn integer(&mut self, bits: u32) -> Result<usize, Malformed> {
        let limit = (1_usize << bits) - 1;
        let mut value = usize::from(self.byte()?) & limit;
        if value < limit {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    /// A string, always in plain form.
    fn string(&mut self) -> Result<Vec<u8>, Malformed> {
        let huffman = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        if huffman {
            unpack(text).ok_or(Malformed)
        } else {
            Ok(text.to_vec())
        }
    }
}

/// Symbols of the Huffman code by length in bits, each list in the order of its codes. The code is
/// canonical: within a length codes count up, and the first of a length follows the last of the
/// shorter one with zeros appended. Longer codes than these mean bytes no server puts into a header.
const SYMBOLS: [(u32, &[u8]); 9] = [
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b"!\"()?"),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\0$@[]~"),
    (14, b"^}"),
];

/// Undoes the Huffman code; `None` for a symbol beyond [`SYMBOLS`].
fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(packed.len() * 8 / 5);
    let mut bits = Bits {
        bytes: packed,
        at: 0,
    };
    while bits.left() >= 5 {
        match bits.symbol() {
            Some(symbol) => out.push(symbol),
            // Less than a byte of ones fills up the last byte.
            None if bits.left() < 8 && bits.only_ones() => return Some(out),
            None => return None,
        }
    }
    bits.only_ones().then_some(out)
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn left(&self) -> usize {
        self.bytes.len() * 8 - self.at
    }

    fn bit(&self, at: usize) -> Option<u32> {
        let byte = self.bytes.get(at / 8)?;
        Some(u32::from(byte >> (7 - at % 8)) & 1)
    }

    fn only_ones(&self) -> bool {
        (self.at..self.bytes.len() * 8).all(|at| self.bit(at) == Some(1))
    }

    /// The next symbol; without one, nothing is taken.
    fn symbol(&mut self) -> Option<u8> {
        let mut code = 0;
        let mut length = 0;
        let mut first = 0;
        for (bits, symbols) in SYMBOLS {
            first <<= bits - length;
            while length < bits {
                code = code << 1 | self.bit(self.at + length as usize)?;
                length += 1;
            }
            if let Some(&symbol) = symbols.get((code - first) as usize) {
                self.at += length as usize;
                return Some(symbol);
            }
            first += symbols.len() as u32;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(decoder: &mut Decoder, block: &[u8]) -> Vec<Field> {
        let mut found = Vec::new();
        decoder
            .block(block, |field| found.push(field.clone()))
            .unwrap();
        found
    }

    #[test]
    fn integers_follow_the_examples_of_the_rfc() {
        for (value, bits, bytes) in [
            (10, 5, &[0x0a][..]),
            (1337, 5, &[0x1f, 0x9a, 0x0a]),
            (42, 8, &[0x2a]),
        ] {
            let mut out = Vec::new();
            integer(value, bits, 0, &mut out);
            assert_eq!(out, bytes);
            assert_eq!(Rest(bytes).integer(bits), Ok(value));
        }
        assert_eq!(Rest(&[0x1f, 0xff]).integer(5), Err(Malformed), "cut off");
        assert_eq!(
            Rest(&[0x1f, 255, 255, 255, 255, 1]).integer(5),
            Err(Malformed),
            "too long"
        );
    }

    #[test]
    fn huffman_strings_follow_the_examples_of_the_rfc() {
        for (packed, plain) in [
            (
                &[
                    0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
                ][..],
                "www.example.com",
            ),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (
                &[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf],
                "custom-value",
            ),
            (&[0x64, 0x02], "302"),
            (
                &[
                    0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04,
                    0x0b, 0x81, 0x66, 0xe0, 0x82, 0xa6, 0x2d, 0x1b, 0xff,
                ],
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
        ] {
            assert_eq!(unpack(packed).unwrap(), plain.as_bytes());
        }
        assert_eq!(
            unpack(&[0xff, 0xff, 0xff, 0xff]),
            None,
            "no such symbol here"
        );
        assert_eq!(
            unpack(&[0x64, 0x02, 0x00, 0xf8]),
            None,
            "cut off within a symbol"
        );
    }

    #[test]
    fn the_table_remembers_and_forgets() {
        let mut decoder = Decoder::new();
        let literal = b"\x88\x40\x0bgrpc-status\x010\x40\x0cgrpc-message\x02no";
        let all = [
            Field::HttpStatus(200),
            Field::GrpcStatus(0),
            Field::GrpcMessage("no".to_owned()),
        ];
        assert_eq!(fields(&mut decoder, literal), all);
        assert_eq!(fields(&mut decoder, &[0xbf, 0xbe]), all[1..]);
        // A literal whose name is the table's: grpc-status 13, then it is the newest.
        assert_eq!(
            fields(&mut decoder, b"\x7f\x00\x0213"),
            [Field::GrpcStatus(13)]
        );
        assert_eq!(fields(&mut decoder, &[0xbe]), [Field::GrpcStatus(13)]);
        // Room for the newest alone, then for none.
        assert_eq!(decoder.bytes, 44 + 46 + 45);
        fields(&mut decoder, &[0x3f, 45 - 31]);
        assert_eq!(decoder.table.len(), 1);
        fields(&mut decoder, &[0x20]);
        assert!(decoder.block(&[0xbe], |_| ()).is_err(), "it was forgotten");
    }

    #[test]
    fn a_second_request_is_one_byte_per_field() {
        let mut encoder = Encoder::new();
        let mut request = |path: &str| {
            let mut out = Vec::new();
            for (name, value) in [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                ("te", "trailers"),
            ] {
                encoder.field(name, value, &mut out);
            }
            out
        };
        assert!(request("/a/B").len() > 4);
        assert_eq!(request("/a/B"), [0x83, 0x86, 0xbf, 0xbe]);
        request("/a/C");
        assert_eq!(request("/a/B"), [0x83, 0x86, 0xc0, 0xbf]);
    }
}
