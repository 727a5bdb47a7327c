//! The write-ahead log: opaque entries, hard state, snapshot marks and membership in segment files,
//! every byte under a checksum, written so that a reader can tell a torn tail from damage.
//!
//! This crate knows files and bytes. It knows no clock (milliseconds arrive as arguments), no
//! randomness (a seed arrives), no raft and no async. [`writer`] turns jobs into an ordered list of
//! file operations and performs none; [`dir`] performs them with `std::fs`.
//!
//! # The format, version 1.0
//!
//! All integers are little-endian. CRC is CRC-32 (IEEE). A *sector* is 512 bytes, the unit that a
//! disk writes whole or not at all. A *position* is a byte offset in the endless log of data bytes;
//! headers of segments have no position. All positions below a *synced* position are on the disk.
//!
//! ## Files
//!
//! `<seq:016x>-<first index:016x>.wal` is a segment; seq starts at 1 and has no gap, except that the
//! oldest segments may have been purged. `spare-<n>.tmp` is a file being prepared; it is not part of
//! the log. A segment has its full size from birth and every byte of it was written as zero and
//! synced before it joined the log, so a zero sector means "never written". A segment is never
//! written by two lives of a process: every start opens a new one.
//!
//! ## Segment header
//!
//! 256 bytes, twice: at offset 0 and at offset `block`. The data area starts at `2 * block`. One
//! good copy is enough.
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `89 4B 56 57 41 4C 0D 0A` |
//! | 8 | 2 | major version, 1; another one is refused |
//! | 10 | 2 | minor version, 0; a higher one is fine |
//! | 12 | 4 | header bytes, 256 |
//! | 16 | 4 | features that readers and writers must know; an unknown bit is refused |
//! | 20 | 4 | features that writers must know; an unknown bit makes the log read-only |
//! | 24 | 4 | features anyone may ignore |
//! | 28 | 4 | block bytes: 512 .. 65536, a power of two |
//! | 32 | 8 | cluster id |
//! | 40 | 8 | member id |
//! | 48 | 16 | instance id: random, new whenever a data directory is created or restored |
//! | 64 | 8 | segment seq, as in the name |
//! | 72 | 8 | segment bytes, the file's size |
//! | 80 | 8 | base: position of the first data byte, and the end of the previous segment |
//! | 88 | 8 | salt: random per use of the file, seeds the CRCs of every batch in it |
//! | 96 | 8 | seq of the first batch |
//! | 104 | 4 | header CRC of the last batch before this segment, 0 if there is none |
//! | 108 | 4 | opened because: 0 created, 1 full, 2 clean start, 3 after a cut, 4 repair, 5 restore |
//! | 112 | 8 | first index: the log's last index + 1 at opening, as in the name |
//! | 120 | 8 | term of (first index - 1) |
//! | 128 | 24 | hard state at opening: term, vote, commit |
//! | 152 | 16 | newest snapshot at opening: index, term |
//! | 168 | 8 | unix ms, information only |
//! | 176 | 32 | program version, ASCII, zero-padded, information only |
//! | 208 | 44 | zero |
//! | 252 | 4 | CRC of bytes 0..252, unsalted |
//!
//! ## Batch: the unit of writing
//!
//! A 64-byte header, a payload of records, zeros up to the next block boundary. It starts on a block
//! boundary, is written by one call and followed by at most one sync. Batches of a segment follow
//! each other without holes.
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `4B 57 42 31` |
//! | 4 | 4 | payload bytes, 0 for a mark |
//! | 8 | 8 | position of the batch: base + (offset - 2 * block) |
//! | 16 | 8 | synced_to: every byte below it was synced when this batch was issued |
//! | 24 | 8 | batch seq, previous + 1 |
//! | 32 | 4 | header CRC of the previous batch, across segments too |
//! | 36 | 4 | payload CRC: over salt (8 bytes), position (8 bytes), payload |
//! | 40 | 8 | unix ms, information only |
//! | 48 | 8 | last index of the log after this batch |
//! | 56 | 2 | records |
//! | 58 | 2 | flags: 1 checkpoint, 2 seal, 4 mark, 8 a sync was asked for |
//! | 60 | 4 | header CRC: over salt (8 bytes), then bytes 0..60 |
//!
//! The header lies in one sector, so it is wholly there or not at all. A **mark** is a batch without
//! records, written when the log falls idle, whose only purpose is its `synced_to`.
//!
//! ## Records
//!
//! A 16-byte header, a body, zeros up to a multiple of 8.
//!
//! | off | size | field |
//! |---|---|---|
//! | 0 | 1 | kind |
//! | 1 | 1 | flags, 0 |
//! | 2 | 2 | zero |
//! | 4 | 4 | body bytes |
//! | 8 | 4 | CRC of bytes 0..8 and the body |
//! | 12 | 4 | zero |
//!
//! | kind | name | body |
//! |---|---|---|
//! | 1 | ENTRY | index u64, term u64, type u8 (0 normal, 1 conf change, 2 empty), 7 zero, payload |
//! | 2 | HARD STATE | term u64, vote u64, commit u64 |
//! | 3 | SNAPSHOT | index u64, term u64, id 16 bytes, origin u8 (0 local, 1 installed), membership |
//! | 4 | MEMBERSHIP | index u64; voters, learners, outgoing voters, next learners, each a u32 count and u64 ids; auto-leave u8 |
//! | 5 | SEAL | last index u64, batches u64 (this one included), entries u64, position of the FOOTER record u64 (0: none) |
//! | 6 | FOOTER | pairs of index u64, file offset u64, see [`index`] |
//! | 7 | NOTE | unix ms u64, program: u16 count and ASCII, text: the rest, UTF-8 |
//! | 128.. | | skipped by readers that do not know it; an unknown kind below 128 is refused |
//!
//! What makes a sequence of records a log:
//! - an ENTRY replaces every entry at or above its index; index <= last index + 1; its term is not
//!   below the term of index - 1; its index is above every recorded commit;
//! - a HARD STATE stands behind the entries of its batch; its term never falls; commit <= last index;
//! - a SNAPSHOT says that the state up to its index is safe elsewhere. With origin 1 it drops every
//!   entry up to its index, and all the others too unless the log holds (index, term);
//! - the first batch of a segment is a checkpoint: HARD STATE, SNAPSHOT (if any), MEMBERSHIP, so that
//!   older segments can go without losing a vote;
//! - a SEAL is the last record of a segment that was left because it was full.
//!
//! ## Reading
//!
//! Segments are read in order of seq. A segment that is not the last ends exactly at the base of the
//! next one; what lies behind is an old torn tail. In the last segment the first place that is not a
//! good batch is judged by the rules of [`scan`]: clean end, torn tail, or damage.
//!
//! A writer keeps at most [`UNSYNCED_BYTES_MAX`] behind the last sync; the rules rely on it.

pub mod batch;
pub mod damage;
pub mod dir;
pub mod disk;
pub mod driver;
pub mod error;
pub mod index;
pub mod membership;
pub mod options;
pub mod record;
pub mod recover;
pub mod repair;
pub mod scan;
pub mod segment;
pub mod source;
pub mod state;
pub mod writer;

#[cfg(test)]
mod tests;

pub use damage::{Class, Damage, Finding, Proof, Rule};
pub use dir::Log;
pub use error::Error;
pub use membership::Membership;
pub use options::{Options, SyncMethod};
pub use record::{Entry, EntryKind, HardState, Origin, SnapshotMark};
pub use recover::{Floors, Recovered, Report};
pub use segment::{FileName, Identity, OpenedBecause, SegmentHeader};

/// The unit that a disk writes whole or not at all, in bytes.
pub const SECTOR_BYTES: usize = 512;
/// Bounds of the block size (the alignment of batches), in bytes; powers of two.
pub const BLOCK_BYTES_MIN: u32 = 512;
/// See [`BLOCK_BYTES_MIN`].
pub const BLOCK_BYTES_MAX: u32 = 65_536;
/// Smallest segment that options accept, in bytes; also the granule of segment sizes.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// Largest segment that a reader or the options accept, in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Largest batch, in bytes, header and padding included.
pub const BATCH_BYTES_MAX: usize = 16 << 20;
/// Most records in a batch (a u16 counts them).
pub const BATCH_RECORDS_MAX: usize = u16::MAX as usize;
/// Largest payload of an entry, in bytes.
pub const ENTRY_BYTES_MAX: usize = 12 << 20;
/// How far written bytes may run ahead of the last sync, in bytes. Whatever lies farther behind the
/// end of the log cannot be the remains of a crash.
pub const UNSYNCED_BYTES_MAX: u64 = 16 << 20;

/// Size of a segment header copy, in bytes.
pub const SEGMENT_HEADER_BYTES: usize = 256;
/// Size of a batch header, in bytes.
pub const BATCH_HEADER_BYTES: usize = 64;
/// Size of a record header, in bytes.
pub const RECORD_HEADER_BYTES: usize = 16;
/// Alignment of records inside a payload, in bytes.
pub const RECORD_ALIGN: usize = 8;
/// Fixed part of an ENTRY body, in bytes.
pub const ENTRY_HEAD_BYTES: usize = 24;

const _: () = {
    assert!(BLOCK_BYTES_MIN as usize == SECTOR_BYTES);
    assert!(BLOCK_BYTES_MAX.is_power_of_two() && BLOCK_BYTES_MIN.is_power_of_two());
    // Both headers lie in one sector: never half written.
    assert!(SEGMENT_HEADER_BYTES <= SECTOR_BYTES);
    assert!(BATCH_HEADER_BYTES <= SECTOR_BYTES);
    assert!(BATCH_HEADER_BYTES.is_multiple_of(RECORD_ALIGN));
    assert!(RECORD_HEADER_BYTES.is_multiple_of(RECORD_ALIGN));
    assert!(BATCH_BYTES_MAX as u64 <= UNSYNCED_BYTES_MAX);
    assert!(ENTRY_BYTES_MAX + ENTRY_HEAD_BYTES + 4096 < BATCH_BYTES_MAX);
    assert!(SEGMENT_BYTES_MAX.is_multiple_of(SEGMENT_BYTES_MIN));
    assert!(SEGMENT_BYTES_MIN.is_multiple_of(BLOCK_BYTES_MAX as u64));
};

/// `bytes` rounded up to a multiple of `align`, a power of two.
pub(crate) const fn round_up(bytes: usize, align: usize) -> usize {
    (bytes + align - 1) & !(align - 1)
}
