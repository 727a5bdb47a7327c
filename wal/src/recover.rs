//! Reads a whole log: the segments in order, their joints, their records, and the end. Changes
//! nothing. Memory is bounded by one batch, one read step and the entries asked for.

mod files;
mod reader;

pub(crate) use files::DiskSource;

use crate::damage::{Class, Finding};
use crate::disk::Disk;
use crate::error::Error;
use crate::index::OffsetIndex;
use crate::membership::Membership;
use crate::record::{Entry, HardState, SnapshotMark};
use crate::segment::{FileName, Identity, OpenedBecause, SegmentHeader};
use crate::source::WINDOW_BYTES;
use crate::state::LogState;
use files::{list_segments, load_header};
use reader::Reader;

/// What is durable outside the log, and what the caller wants back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floors {
    /// Index up to which the store is durable.
    pub applied: u64,
    /// Index of the newest snapshot that was not merely staged; 0 for none.
    pub snapshot: u64,
    /// Entries up to this index are checked but not returned.
    pub keep_after: u64,
}

/// A log as it was read.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Entries above `keep_after`, without gap. Those of one batch share its memory.
    pub entries: Vec<Entry>,
    /// As raft wants it: commit is not below the floors, term not below the last entry's, and the
    /// vote is void if that raised the term.
    pub hard_state: HardState,
    /// Newest mark. If its origin is `Installed` and the store is behind it, the store has yet to
    /// switch to it.
    pub snapshot: Option<SnapshotMark>,
    /// Newest membership that a checkpoint or snapshot recorded; conf change entries behind it are
    /// not interpreted here.
    pub membership: Membership,
    /// First index, whether or not there is an entry.
    pub first_index: u64,
    /// Last index; `first_index - 1` if there are no entries.
    pub last_index: u64,
    /// Term of the last index.
    pub last_term: u64,
    /// What was seen.
    pub report: Report,
    /// Where writing goes on.
    pub end: End,
    pub(crate) state: LogState,
    pub(crate) segments: Vec<SegmentMeta>,
}

impl Recovered {
    /// Term of `index`; `None` outside `first_index - 1 ..= last_index`.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        self.state.term_of(index)
    }

    /// Block size of the last segment, in bytes.
    pub fn block_bytes(&self) -> u32 {
        let last = self.segments.last();
        last.map_or(crate::BLOCK_BYTES_MIN, |segment| segment.header.block)
    }

    /// Whose log it is.
    pub fn identity(&self) -> Identity {
        self.segments
            .last()
            .map(|segment| segment.header.identity)
            .unwrap_or_default()
    }
}

/// The end of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Last segment.
    pub segment: FileName,
    /// Offset in it.
    pub offset: u64,
    /// The same as a position: base of the next segment.
    pub position: u64,
    /// Seq of the next batch.
    pub next_batch: u64,
    /// Header CRC of the last batch.
    pub previous_crc: u32,
    /// Bytes of a torn tail: first, one behind the last that is not zero.
    pub torn: Option<(u64, u64)>,
}

/// What a reader saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In order of seq.
    pub segments: Vec<SegmentInfo>,
    /// Good batches.
    pub batches: u64,
    /// ENTRY records, replaced ones included.
    pub entries: u64,
    /// Bytes of batches.
    pub bytes: u64,
    /// Payload bytes of the entries returned.
    pub kept_bytes: u64,
    /// What should be told but does not stop a start.
    pub findings: Vec<Finding>,
}

/// One segment, as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Name.
    pub name: FileName,
    /// Size of the file, in bytes.
    pub bytes: u64,
    /// Offset behind the last good batch that counts.
    pub used: u64,
    /// Position of the first data byte.
    pub base: u64,
    /// Why it was opened.
    pub opened_because: OpenedBecause,
    /// Good batches.
    pub batches: u64,
    /// ENTRY records.
    pub entries: u64,
    /// Lowest index of an entry.
    pub lowest: Option<u64>,
    /// Last index of the log behind it.
    pub last_index: u64,
    /// Writer's clock of the first and last batch, 0 if there is none.
    pub unix_ms: (u64, u64),
    /// Whether it ends with a SEAL.
    pub sealed: bool,
}

/// What a writer and a reader of entries need to know about a segment.
#[derive(Clone, Debug)]
pub(crate) struct SegmentMeta {
    pub header: SegmentHeader,
    /// Position behind its last batch that counts.
    pub end: u64,
    /// Highest index of any entry in it; 0 without entries.
    pub highest: u64,
    pub batches: u64,
    pub entries: u64,
    pub index: OffsetIndex,
}

impl SegmentMeta {
    pub fn new(header: SegmentHeader) -> Self {
        let end = header.base;
        Self {
            header,
            end,
            highest: 0,
            batches: 0,
            entries: 0,
            index: OffsetIndex::default(),
        }
    }

    /// Notes a batch with entries (lowest index, last index behind it).
    pub fn note_entries(&mut self, lowest: u64, last: u64, count: u64, offset: u64) {
        self.index.note(lowest, last, offset);
        self.highest = self.highest.max(last);
        self.entries += count;
    }
}

/// Reads and checks the log in `disk`.
///
/// `identity` and `floors` of `None` skip what needs them, for tools that look at a directory by
/// itself.
///
/// # Errors
/// [`Error::NoLog`], [`Error::Damage`], [`Error::Io`].
pub fn recover<D: Disk>(
    disk: &mut D,
    identity: Option<&Identity>,
    floors: Option<Floors>,
) -> Result<Recovered, Error> {
    recover_in_steps(disk, identity, floors, WINDOW_BYTES)
}

/// As [`recover()`] for a directory by itself; of `floors` only `keep_after` counts.
pub(crate) fn recover_alone<D: Disk>(disk: &mut D, floors: Floors) -> Result<Recovered, Error> {
    recover_with(disk, None, None, floors.keep_after, WINDOW_BYTES)
}

/// As [`recover()`], reading `step` bytes at once; the result does not depend on it.
pub(crate) fn recover_in_steps<D: Disk>(
    disk: &mut D,
    identity: Option<&Identity>,
    floors: Option<Floors>,
    step: usize,
) -> Result<Recovered, Error> {
    recover_with(
        disk,
        identity,
        floors,
        floors.map_or(0, |floors| floors.keep_after),
        step,
    )
}

fn recover_with<D: Disk>(
    disk: &mut D,
    identity: Option<&Identity>,
    floors: Option<Floors>,
    keep_after: u64,
    step: usize,
) -> Result<Recovered, Error> {
    let mut findings = Vec::new();
    let files = list_segments(disk, &mut findings)?;
    for (file, _) in files.iter().rev().take(2) {
        disk.drop_cache(*file);
    }
    let headers: Vec<_> = (files.iter())
        .map(|(file, bytes)| load_header(disk, *file, *bytes, identity, &mut findings))
        .collect();
    let mut start = 0;
    loop {
        let mut reader = Reader::new(floors, keep_after, step, findings.clone());
        let (at, error) = match reader.run(disk, &files, &headers, start) {
            Ok(()) => return reader.finish(disk, floors),
            Err(failed) => failed,
        };
        // W3: what is bad lies in front of a segment that stands on its own, and the store has all
        // of it already.
        let covered = |header: &SegmentHeader| {
            floors.is_some_and(|floors| header.first_index - 1 <= floors.applied)
        };
        match (error, headers.get(at + 1)) {
            (Error::Damage(damage), Some(Ok(next))) if covered(next) => {
                findings.push(Finding {
                    class: Class::W3,
                    file: files
                        .get(at)
                        .map(|(file, _)| file.to_string())
                        .unwrap_or_default(),
                    offset: damage.offset,
                    text: format!("not needed, the store is beyond it: {damage}"),
                });
                start = at + 1;
            }
            (error, _) => return Err(error),
        }
    }
}
