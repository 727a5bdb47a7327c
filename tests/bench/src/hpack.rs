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
        assert!(self.bytes <= TABLE_BYTES, "the header table never overflows");
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

/// Reads response header blocks of one connection.
pub struct Decoder {
    /// Newest first: (name, field, size).
    table: VecDeque<(Name, Field, usize)>,
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
                    Some(at) => visit(&self.table.get(at).ok_or(Malformed)?.1),
                    None => visit(&static_field(index)),
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
                let field = field(name, &value);
                visit(&field);
                if keep {
                    self.insert(name, field, size);
                }
            }
        }
        Ok(())
    }

    fn name(&self, index: usize, rest: &mut Rest<'_>) -> Result<(Name, usize), Malformed> {
        if index == 0 {
            let name = rest.string()?;
            return Ok((known_name(&name), name.len()));
        }
        match index.checked_sub(STATIC_ENTRIES + 1) {
            // Only eviction needs sizes, and it may run late: an upper bound would do harm, so
            // the name's length is taken from the names we know.
            Some(at) => {
                let (name, _, _) = self.table.get(at).ok_or(Malformed)?;
                Ok((*name, name_bytes(*name)))
            }
            None => Ok((
                if (8..=14).contains(&index) { Name::HttpStatus } else { Name::Other },
                STATIC_NAME_BYTES.get(index).copied().map_or(0, usize::from),
            )),
        }
    }

    fn insert(&mut self, name: Name, field: Field, size: usize) {
        self.evict(size);
        if size <= self.limit {
            self.table.push_front((name, field, size));
            self.bytes += size;
        }
    }

    fn evict(&mut self, wanted: usize) {
        while self.bytes + wanted > self.limit {
            let Some((_, _, size)) = self.table.pop_back() else {
                return;
            };
            self.bytes -= size;
        }
    }
}
