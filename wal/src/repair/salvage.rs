//! What is readable behind a damaged place.
//!
//! The log is written in blocks, and every batch says its place: so behind a hole the next batch is found by
//! trying every block. Only what hangs together without a gap up to the very end of the log says what the log
//! held at its end; that part is the *tail* here.

use std::collections::BTreeMap;

use crate::batch::BatchHeader;
use crate::dir::DirDisk;
use crate::disk::Disk;
use crate::error::Error;
use crate::membership::Membership;
use crate::record::{Entry, HardState, Origin, Record, Records};
use crate::recover::DiskSource;
use crate::scan::{Expected, SegmentScan, Step, Verdict};
use crate::segment::{FileName, Identity, SegmentHeader};
use crate::source::WINDOW_BYTES;
use crate::{BATCH_HEADER_BYTES, ENTRY_HEAD_BYTES, RECORD_HEADER_BYTES};

use super::trimmed::{Trims, header_of};

/// See the file's head.
#[derive(Clone, Debug, Default)]
pub(super) struct Salvage {
    /// Highest last index that a good batch behind the damage announces.
    pub last_index: Option<u64>,
    /// Highest term seen anywhere behind the damage.
    pub term: u64,
    /// Newest membership seen there.
    pub membership: Option<Membership>,
    /// Entries above the applied index, the newest for each, wherever they were found.
    pub found: BTreeMap<u64, Entry>,
    tail: Option<Tail>,
}

/// The unbroken end of the log.
#[derive(Clone, Debug, Default)]
struct Tail {
    /// Entries above the applied index, without gap.
    entries: Vec<Entry>,
    /// Whether the first of `entries` follows the applied index, so that no others can be missing.
    anchored: bool,
    last_index: u64,
    hard_state: Option<HardState>,
    /// Something in it cannot be followed from its middle.
    opaque: bool,
}

impl Salvage {
    /// The last index of the log, if all entries above `applied` are known.
    pub fn rebased_last(&self, applied: u64) -> Option<u64> {
        let tail = self.tail.as_ref().filter(|tail| !tail.opaque)?;
        if tail.last_index <= applied {
            return Some(applied);
        }
        let last = tail.entries.last().map(|entry| entry.index);
        (tail.anchored && last == Some(tail.last_index)).then_some(tail.last_index)
    }

    /// The entries of [`Salvage::rebased_last`].
    pub fn rebased_entries(&self) -> &[Entry] {
        self.tail.as_ref().map_or(&[], |tail| &tail.entries)
    }

    /// Newest hard state of the unbroken end.
    pub fn tail_hard_state(&self) -> Option<HardState> {
        self.tail.as_ref().and_then(|tail| tail.hard_state)
    }

    fn take(&mut self, header: &BatchHeader, payload: &[u8], applied: u64) {
        self.last_index = self.last_index.max(Some(header.last_index));
        let tail = self.tail.get_or_insert_with(Tail::default);
        tail.last_index = header.last_index;
        let all = bytes::Bytes::copy_from_slice(payload);
        let mut records = Records::new(payload);
        loop {
            let at = records.offset();
            let Some(Ok(record)) = records.next() else {
                break;
            };
            match record {
                Record::Entry {
                    index,
                    term,
                    kind,
                    payload,
                } => {
                    self.term = self.term.max(term);
                    while tail
                        .entries
                        .last()
                        .is_some_and(|entry| entry.index >= index)
                    {
                        tail.entries.pop();
                    }
                    self.found.retain(|found, _| *found < index);
                    tail.anchored |= index <= applied + 1;
                    if index > applied {
                        let start = at + RECORD_HEADER_BYTES + ENTRY_HEAD_BYTES;
                        let payload = all.slice(start..start + payload.len());
                        let entry = Entry {
                            index,
                            term,
                            kind,
                            payload,
                        };
                        self.found.insert(index, entry.clone());
                        tail.entries.push(entry);
                    }
                }
                Record::HardState(state) => {
                    self.term = self.term.max(state.term);
                    tail.hard_state = Some(state);
                }
                Record::Snapshot(mark, membership) => {
                    self.term = self.term.max(mark.term);
                    tail.opaque |= mark.origin == Origin::Installed && mark.index > applied;
                    see(&mut self.membership, membership);
                }
                Record::Membership(membership) => see(&mut self.membership, membership),
                Record::Seal(_) | Record::Footer(_) | Record::Note { .. } | Record::Skipped(_) => {}
            }
        }
    }
}

fn see(newest: &mut Option<Membership>, membership: Membership) {
    if newest
        .as_ref()
        .is_none_or(|newest| newest.index <= membership.index)
    {
        *newest = Some(membership);
    }
}

/// Where a walk through the blocks stands: the chain that the next batch must continue.
#[derive(Default)]
struct Chain {
    next: Option<(u64, u32)>,
}

/// Reads everything that `trims` leaves out. Entries up to `applied` are passed over.
pub(super) fn collect(
    disk: &mut DirDisk,
    identity: &Identity,
    trims: &Trims,
    applied: u64,
) -> Result<Salvage, Error> {
    let mut salvage = Salvage::default();
    let mut chain = Chain::default();
    let mut end = None;
    let segments = Trims::default().visible(disk)?;
    let headers: Vec<_> = (segments.iter())
        .map(|(file, bytes)| {
            header_of(disk, *file, *bytes)
                .filter(|header| header.identity == *identity && header.name() == *file)
        })
        .collect();
    for (at, (file, bytes)) in segments.into_iter().enumerate() {
        let from = match trims.zero_from.get(&file) {
            Some(from) => *from,
            None if trims.hidden.contains(&file.to_string()) => 0,
            None => continue,
        };
        let Some(header) = headers[at].clone() else {
            // A hole of a whole segment.
            (salvage.tail, chain.next, end) = (None, None, None);
            continue;
        };
        let from = from.max(header.data_start());
        let joined = chain.next == Some((header.first_batch, header.previous_crc));
        if !joined {
            (salvage.tail, chain.next) = (None, None);
        }
        salvage.term = salvage.term.max(header.hard_state.term);
        // Behind the base of the next segment lie at most remains that never counted.
        let next = headers.get(at + 1).and_then(Option::as_ref);
        let end_of_it = next.and_then(|next| header.offset_of(next.base));
        let range = from..end_of_it.unwrap_or(header.bytes).min(bytes);
        let last = walk(
            disk,
            file,
            &header,
            range,
            applied,
            &mut salvage,
            &mut chain,
        )
        .map_err(|source| Error::Io {
            operation: "read",
            path: disk.path(Some(file)),
            offset: from,
            source,
        })?;
        end = last.map(|last| (file, bytes, header, last));
    }
    let ends_well = match end {
        Some((file, bytes, header, last)) => {
            ends_well(disk, file, bytes.min(header.bytes), header, last).unwrap_or(false)
        }
        None => false,
    };
    if !ends_well {
        salvage.tail = None;
    }
    Ok(salvage)
}

/// Takes every good batch in a range of one segment; returns the offset of the last.
fn walk(
    disk: &mut DirDisk,
    file: FileName,
    header: &SegmentHeader,
    range: std::ops::Range<u64>,
    applied: u64,
    salvage: &mut Salvage,
    chain: &mut Chain,
) -> std::io::Result<Option<u64>> {
    let (block, salt) = (u64::from(header.block), header.salted());
    let (mut offset, limit) = (range.start, range.end / block * block);
    let mut last = None;
    let mut payload = Vec::new();
    while offset < limit {
        let mut head = [0; BATCH_HEADER_BYTES];
        disk.read_at(file, offset, &mut head)?;
        let read = BatchHeader::decode(&head, salt)
            .filter(|(batch, _)| batch.position == header.position_at(offset));
        let good = match read {
            Some((batch, crc)) if offset + batch.total_bytes(block as usize) as u64 <= limit => {
                payload.resize(batch.payload_bytes as usize, 0);
                disk.read_at(file, offset + BATCH_HEADER_BYTES as u64, &mut payload)?;
                let same = salt.payload_crc(batch.position, &payload) == batch.payload_crc;
                same.then_some((batch, crc))
            }
            _ => None,
        };
        let Some((batch, crc)) = good else {
            offset += block;
            continue;
        };
        if chain
            .next
            .is_some_and(|next| next != (batch.seq, batch.previous_crc))
        {
            salvage.tail = None;
        }
        salvage.take(&batch, &payload, applied);
        chain.next = Some((batch.seq + 1, crc));
        last = Some(offset);
        offset += batch.total_bytes(block as usize) as u64;
    }
    Ok(last)
}

/// Whether nothing that was ever synced can follow the batch at `last`, the last good one.
fn ends_well(
    disk: &mut DirDisk,
    file: FileName,
    bytes: u64,
    header: SegmentHeader,
    last: u64,
) -> std::io::Result<bool> {
    if bytes < header.bytes {
        return Ok(false);
    }
    let source = DiskSource { disk, file, bytes };
    let mut scan = SegmentScan::new(source, header, WINDOW_BYTES);
    scan.start_at(last)?;
    loop {
        if let Step::Stop(stop) = scan.next_batch()? {
            let verdict = scan.judge(stop, Expected::default())?;
            return Ok(!matches!(verdict, Verdict::Damaged { .. }));
        }
    }
}
