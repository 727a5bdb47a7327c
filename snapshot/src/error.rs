//! What can be wrong with a snapshot, with the place and the numbers.

use std::fmt;
use std::io;

/// Where in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Header,
    /// By sequence number and file offset.
    Chunk {
        sequence: u32,
        offset: u64,
    },
    /// Something is expected there that has no name yet.
    Offset {
        offset: u64,
    },
    Footer {
        offset: u64,
    },
    Trailer {
        offset: u64,
    },
    Digest,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Header => f.write_str("header at offset 0"),
            Place::Chunk { sequence, offset } => write!(f, "chunk {sequence} at offset {offset}"),
            Place::Offset { offset } => write!(f, "offset {offset}"),
            Place::Footer { offset } => write!(f, "footer at offset {offset}"),
            Place::Trailer { offset } => write!(f, "trailer at offset {offset}"),
            Place::Digest => f.write_str("SHA-256 at the end"),
        }
    }
}

/// What is wrong there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("the first bytes are {found:02x?}, which nothing of a snapshot starts with")]
    Magic { found: Vec<u8> },
    #[error("ends after {found} bytes, at least {expected} expected")]
    Short { expected: u64, found: u64 },
    #[error(
        "length {found} is not 32 more than a multiple of 512: the file is cut short or was appended to"
    )]
    Length { found: u64 },
    #[error("CRC is {found:08x}, {expected:08x} expected")]
    Crc { expected: u32, found: u32 },
    #[error("SHA-256 does not match the bytes before it")]
    Digest,
    #[error("{0}")]
    Shape(&'static str),
    #[error("does not decompress: {0}")]
    Zstd(String),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{place}: {damage}")]
    Damaged { place: Place, damage: Damage },
    #[error("snapshot format {found}.x; this program reads {supported}.x")]
    Version { found: u16, supported: u16 },
    #[error("snapshot with features {found:08x}; this program knows {supported:08x}")]
    Features { found: u32, supported: u32 },
    /// The caller's mistake, found while writing.
    #[error("record refused: {0}")]
    Refused(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    pub(crate) fn damaged(place: Place, damage: Damage) -> Self {
        Error::Damaged { place, damage }
    }
}
