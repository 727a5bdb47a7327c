//! The `.kvs` snapshot: a whole state as one file or stream.
//!
//! This comment is the format; everything else in the crate follows it. Version 1.0, all integers little-endian,
//! CRC = CRC-32 (IEEE).
//!
//! ```text
//! file    = header chunk* footer padding trailer digest
//! header  = magic 89 4B 56 53 0D 0A 1A 0A | major u16 | minor u16 | body bytes u32 | body | crc u32 over all before it
//! body    = (tag u16 | bytes u16 | value)*          unknown tags are skipped; see `Info` for the known ones
//! chunk   = magic "KVSC" | section u8 | zero u8[3] | sequence u32 | records u32 | raw bytes u32 | stored bytes u32
//!           | crc of the raw bytes u32 | first key bytes u16 | last key bytes u16 | first key | last key
//!           | stored bytes: one zstd frame | crc u32 over the chunk's bytes before it
//! raw     = (key bytes varint | value bytes varint | key | value)*
//! footer  = magic "KVSF" | chunks u32 | (offset u64 | section u8 | records u32 | raw u32 | stored u32
//!           | first key bytes u16 | first key)* | sections u8 | (section u8 | records u64 | raw bytes u64 | chunks u32)*
//!           | logical hash u64 | crc u32 over the footer's bytes before it
//! padding = zeros, so that header to trailer are a multiple of 512 bytes
//! trailer = magic "KVST" | zero u32 | footer offset u64 | footer bytes u64 | zero u32 | crc u32 over the trailer's bytes before it
//! digest  = SHA-256 over everything before it
//! ```
//!
//! Rules:
//! * Sections come in ascending order, keys in strictly ascending order within a section, chunks numbered from 0.
//! * A key has at most 65 535 bytes. A chunk is cut when its raw bytes reach the target (1 MiB by default); a single
//!   larger record makes a larger chunk, up to `CHUNK_BYTES_MAX`.
//! * The file's length modulo 512 is 32 and its last 32 bytes are the SHA-256 of the rest: what `etcdctl snapshot save`
//!   checks, so the very same bytes travel as a file, to a client and to a peer.
//! * A reader knows a newer minor version; a newer major one is refused.
//!
//! Why: chunks are independent, so one that is damaged is named with the keys it held and the rest stays readable, and they can be
//! compressed and checked side by side. The footer lets single keys be read without unpacking the rest.
//! The crate frames chunks and does not know whose they are.

mod error;
mod info;
mod reader;
mod writer;

pub use error::{Damage, Error, Place};
pub use info::{ChunkInfo, Info, SectionTotals};
pub use reader::{Records, Report, Snapshot};
pub use writer::{Options, Totals, Writer};

/// First bytes of a snapshot; survives text-mode accidents visibly.
pub const MAGIC: [u8; 8] = [0x89, b'K', b'V', b'S', 0x0D, 0x0A, 0x1A, 0x0A];
pub const MAJOR: u16 = 1;
pub const MINOR: u16 = 0;

/// Total length modulo `ALIGN` is `DIGEST_BYTES`.
pub const ALIGN: u64 = 512;
pub const DIGEST_BYTES: usize = 32;
pub const TRAILER_BYTES: usize = 32;
/// Longest raw or stored chunk a reader takes: bounds its memory whatever the bytes say.
pub const CHUNK_BYTES_MAX: u32 = 256 << 20;

const CHUNK_MAGIC: [u8; 4] = *b"KVSC";
const FOOTER_MAGIC: [u8; 4] = *b"KVSF";
const TRAILER_MAGIC: [u8; 4] = *b"KVST";
/// A chunk up to its keys.
const CHUNK_HEAD_BYTES: usize = 32;
/// A header up to its body.
const HEADER_HEAD_BYTES: usize = 16;
const CRC_BYTES: usize = 4;

const _: () = assert!(CHUNK_HEAD_BYTES == 4 + 1 + 3 + 5 * 4 + 2 * 2);
const _: () = assert!(HEADER_HEAD_BYTES == MAGIC.len() + 2 + 2 + 4);
const _: () = assert!(TRAILER_BYTES == 4 + 4 + 8 + 8 + 4 + CRC_BYTES);
