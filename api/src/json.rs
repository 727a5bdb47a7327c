//! The JSON form of the API, as etcd's gateway speaks it: text to a message's bytes and back. No I/O.
//!
//! The bytes in between are those of protobuf, so the services never learn that a request came as
//! JSON. What fields a message has stands in one table ([`shape`]); `tests/json.rs` holds it against
//! the structs. The mapping:
//!
//! | protobuf | out | in |
//! |---|---|---|
//! | field name | as in the protocol (`prev_kv`, `ID`) | that, or its lowerCamelCase (`prevKv`); unknown ones are ignored |
//! | int64, uint64 | string of decimal digits | string or number, whole (`1e3` is) |
//! | uint32 | number | string or number |
//! | bool | `true` | `true` or `false` |
//! | bytes | base64, standard alphabet, padded | either alphabet, padded or not |
//! | enum | name; number if it has none | name or number |
//! | zero, empty, absent | left out, unless a member of a one-of or a message | left out, or `null` |
//!
//! Bounds: nesting at most [`DEPTH_MAX`], so that recursion cannot use up a stack; the length is the
//! caller's to bound, [`Splitter`] does it for text that comes in pieces.
//! A field given twice is an error, under one name or two.

mod base64;
mod failure;
mod lexer;
mod read;
mod routes;
pub mod shape;
mod split;
mod write;

pub use base64::encode as base64;
pub use failure::{failure, http_reason, http_status, stream_failure};
pub use read::read;
pub use routes::{ROUTES, Route, route};
pub use split::Splitter;
pub use write::write;

/// Deepest nesting of objects and arrays in a text. A message nests less: its decoder stops at 100.
pub const DEPTH_MAX: usize = 200;

/// Text that is not the JSON form of the message asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// At this byte of the text something else would have to stand.
    #[error("invalid JSON at byte {at}: {expected}")]
    Syntax { at: usize, expected: &'static str },
    /// The value of a field is not what the field takes.
    #[error("invalid value for field {field} at byte {at}: expected {expected}")]
    Value {
        at: usize,
        field: &'static str,
        expected: &'static str,
    },
    /// A field, or a second member of a one-of, is given again.
    #[error("field {field} is given twice, again at byte {at}")]
    Twice { at: usize, field: &'static str },
    /// More nesting than [`DEPTH_MAX`].
    #[error("nested deeper than {DEPTH_MAX} levels at byte {at}")]
    TooDeep { at: usize },
    /// One value is longer than the bound, in bytes.
    #[error("a value is longer than {limit} bytes")]
    TooLong { limit: usize },
    /// The text ended inside a value.
    #[error("unexpected end of JSON input")]
    CutOff,
}

/// Bytes that are not the message asked for; never so for what this server encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a {message} in the order of its fields, at byte {at}")]
pub struct Malformed {
    pub message: &'static str,
    pub at: usize,
}
