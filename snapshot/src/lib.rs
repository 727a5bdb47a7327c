//! The `.kvs` snapshot: a whole state as one file or stream.
//!
//! This comment is the format; everything else in the crate follows it. Version 1.0, all integers little-endian,
//! CRC = CRC-32 (IEEE), SHA = SHA-256.
//!
//! ```text
//! file    = header chunk* footer padding trailer digest
//!
//! header  = magic 89 4B 56 53 0D 0A 1A 0A | major u16 | minor u16 | features u32 | body bytes u32
//!           | body | crc u32 over the header's bytes before it
//! body    = field*
//! field   = tag u16 | bytes u16 | value                       unknown tags are skipped
//!           1 cluster id u64 | 2 member id u64 | 3 raft index u64 | 4 raft term u64 | 5 revision i64
//!           | 6 compact revision i64, -1 for never | 7 written at, unix milliseconds u64 | 8 program and version, UTF-8
//!           | 9 version of the records inside u64 | 10 what was chosen of the state, UTF-8; missing: all of it;  one that is missing is zero or empty, "not said"
//!
//! chunk   = head | head crc u32 over the head | stored bytes | crc u32 over the chunk's bytes before it
//! head    = magic "KVSC" | section u8 | codec u8 | zero u16 | sequence u32 | records u32 | raw bytes u32
//!           | stored bytes u32 | first key bytes u16 | last key bytes u16 | first key | last key
//! stored  = raw, packed:  codec 0 as it is, codec 1 one zstd frame
//! raw     = (key bytes varint | value bytes varint | key | value)*          varint: 7 bits per byte, the lowest first
//!
//! footer  = magic "KVSF" | chunks u32 | entry* | sections u8 | (section u8 | records u64 | raw bytes u64 | chunks u32)*
//!           | field* | crc u32 over the footer's bytes before it
//! entry   = offset u64 of the chunk | its head without magic, zero and sequence: section u8 | codec u8 | records u32
//!           | raw bytes u32 | stored bytes u32 | first key bytes u16 | last key bytes u16 | first key | last key
//!           fields: 1 logical hash u128
//! padding = zeros, so that header to trailer are a multiple of 512 bytes
//! trailer = magic "KVST" | zero u32 | footer offset u64 | footer bytes u64 | zero u32 | crc u32 over the trailer before it
//! digest  = SHA over everything before it
//! ```
//!
//! Rules:
//! * Sections come in ascending order, keys in strictly ascending order within a section, chunks numbered from 0 without
//!   a gap and without a byte between them. A section without records does not appear.
//! * A key has at most 65 535 bytes. A chunk is cut when its raw bytes would exceed the target (1 MiB by default); a
//!   single larger record makes a larger chunk, up to `CHUNK_BYTES_MAX`.
//! * The file's length modulo 512 is 32 and its last 32 bytes are the SHA of the rest: what `etcdctl snapshot save`
//!   checks, so the very same bytes travel as a file, to a client and to a peer.
//! * A reader takes any minor version and refuses another major one, a feature bit it does not know, and an unknown codec
//!   (of that chunk alone). Zero fields are not looked at, beyond what the CRC covers.
//! * The same records, header and options make the same bytes, however many threads pack them.
//!
//! What the sections hold is the writer's affair. A kvnode store writes section 0, the present (each key's newest value, once,
//! and what else is replicated: leases, alarms, members, the numbers of the store), and section 1, the history above the
//! compact revision as undo records, which carry what a key *was* and never the new value. Keys and records are those of
//! `store/src/schema.rs`; its logical hash is the sum over records defined in `store/src/export.rs`.
//!
//! Why: chunks are independent, so one that is damaged is named with the keys it held and the rest stays readable, and they can be
//! packed and checked side by side. Heads have a CRC of their own, so a file without its end is readable up to there. The
//! footer lets single keys be read without unpacking the rest. The crate frames chunks and does not know whose they are.

mod ahead;
mod chunk;
mod error;
mod footer;
mod info;
mod pool;
mod reader;
mod salvage;
mod stream;
mod verify;
mod writer;

pub use ahead::{Ahead, ChunkReader, digests, read_chunk};
pub use chunk::{Batch, Records};
pub use error::{Damage, Error, Place};
pub use info::{ChunkInfo, Info, SectionTotals};
pub use reader::{Lost, Range, Snapshot};
pub use salvage::{Salvaged, salvage};
pub use stream::{Stream, Summary};
pub use verify::Report;
pub use writer::{Options, Totals, Writer};

/// First bytes of a snapshot; survives text-mode accidents visibly.
pub const MAGIC: [u8; 8] = [0x89, b'K', b'V', b'S', 0x0D, 0x0A, 0x1A, 0x0A];
pub const MAJOR: u16 = 1;
pub const MINOR: u16 = 0;
/// Feature bits this reader knows: none yet.
pub const FEATURES: u32 = 0;

/// Total length modulo `ALIGN` is `DIGEST_BYTES`.
pub const ALIGN: u64 = 512;
pub const DIGEST_BYTES: usize = 32;
pub const TRAILER_BYTES: usize = 32;
/// Longest raw or stored chunk a reader takes: bounds its memory whatever the bytes say.
pub const CHUNK_BYTES_MAX: u32 = 256 << 20;

const CHUNK_MAGIC: [u8; 4] = *b"KVSC";
const FOOTER_MAGIC: [u8; 4] = *b"KVSF";
const TRAILER_MAGIC: [u8; 4] = *b"KVST";
/// A chunk's head up to its keys.
const CHUNK_HEAD_BYTES: usize = 28;
/// A header up to its body.
const HEADER_HEAD_BYTES: usize = 20;
/// Longest header body a reader takes.
const HEADER_BODY_BYTES_MAX: u32 = 1 << 20;
const CRC_BYTES: usize = 4;

const _: () = assert!(CHUNK_HEAD_BYTES == 4 + 1 + 1 + 2 + 4 * 4 + 2 * 2);
const _: () = assert!(HEADER_HEAD_BYTES == MAGIC.len() + 2 + 2 + 4 + 4);
const _: () = assert!(TRAILER_BYTES == 4 + 4 + 8 + 8 + 4 + CRC_BYTES);

/// Lengths and counts kept within 32 bits by the checks on what is written.
fn length(value: usize) -> u32 {
    u32::try_from(value)
        .expect("chunks are bounded by CHUNK_BYTES_MAX, their number by the file's length")
}

/// The last four bytes are the CRC of the rest.
fn check_crc(place: Place, bytes: &[u8]) -> Result<(), Error> {
    let wrong = |damage| Error::damaged(place, damage);
    let (body, crc) = bytes
        .split_last_chunk::<CRC_BYTES>()
        .ok_or_else(|| wrong(Damage::Shape("no room for a CRC")))?;
    let (expected, found) = (u32::from_le_bytes(*crc), crc32fast::hash(body));
    if found == expected {
        Ok(())
    } else {
        Err(wrong(Damage::Crc { expected, found }))
    }
}
