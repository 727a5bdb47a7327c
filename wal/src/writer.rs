//! Turns jobs into an ordered list of file operations and is told of their completion. It performs
//! none, knows no clock and draws no chance: milliseconds and a seed arrive.
//!
//! Use: `push` what waits, `issue` one batch, perform every [`Writer::next_op`] and tell
//! [`Writer::completed`] after each. While operations are in flight further jobs may be pushed: they
//! gather in the next batch, which is the group commit. `push` takes no more than one batch holds,
//! so nothing here grows without bound.
//!
//! Order in which things reach the disk, and why:
//! - a batch is written by one operation, then synced if anybody waits for it;
//! - at most [`UNSYNCED_BYTES_MAX`] are written ahead of the last sync, because a reader takes what
//!   lies farther behind the end for damage;
//! - a full segment is sealed and synced before its successor gets its name, so a reader may demand
//!   that every segment but the last is whole;
//! - a segment gets its name when header and checkpoint in it are synced, so a named segment is
//!   always whole; the directory is synced before anything else is written;
//! - oldest segments are removed first, with a directory sync after each, so no gap can appear.

mod roll;

use std::collections::VecDeque;

use crate::batch::{BatchBuffer, BatchHeader, Flags, Salt};
use crate::disk::Op;
use crate::error::Error;
use crate::membership::{IDS_MAX, Membership};
use crate::options::Options;
use crate::record::{self, Entry, HARD_STATE_RECORD_BYTES, HardState, SnapshotMark};
use crate::recover::{Recovered, SegmentMeta};
use crate::segment::{
    FileName, Identity, OpenedBecause, SegmentHeader, VERSION_MINOR, program_field,
};
use crate::state::LogState;
use crate::{BATCH_RECORDS_MAX, UNSYNCED_BYTES_MAX};

/// What a new log starts from.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Who votes.
    pub membership: Membership,
    /// Zero for a new member.
    pub hard_state: HardState,
    /// The restored snapshot behind which the log starts; `None` for an empty cluster.
    pub snapshot: Option<SnapshotMark>,
    /// Kept as a NOTE in the first segment: where the log came from.
    pub note: Option<String>,
}

/// See the file's head.
pub struct Writer {
    options: Options,
    identity: Identity,
    seed: u64,
    /// With everything pushed.
    state: LogState,
    /// With everything issued; a new segment's header and checkpoint describe this.
    issued: Issued,
    /// Older segments, oldest first.
    older: Vec<SegmentMeta>,
    active: SegmentMeta,
    salt: Salt,
    /// Offset in the active segment behind the last issued batch.
    offset: u64,
    next_batch: u64,
    previous_crc: u32,
    /// Every byte below this position is synced.
    synced: u64,
    /// What `synced` will be when all steps are done.
    synced_then: u64,
    /// Newest synced_to in the file.
    told: u64,
    pending: Pending,
    /// The batch that a [`Step::Batch`] writes.
    in_flight: BatchBuffer,
    steps: VecDeque<Step>,
    /// A batch that waits for a spare: sync, unix ms.
    waiting: Option<(bool, u64)>,
    /// Spares that are known to be prepared.
    ready: VecDeque<u64>,
    /// Spares asked for beside other operations.
    ahead: VecDeque<u64>,
    next_spare: u64,
}

#[derive(Default)]
struct Pending {
    buffer: BatchBuffer,
    hard_state: Option<HardState>,
    entries: u64,
    lowest: u64,
}

struct Issued {
    last_index: u64,
    last_term: u64,
    hard_state: HardState,
    snapshot: Option<(SnapshotMark, Membership)>,
}

enum Step {
    Prepare(u64),
    PrepareAhead(u64),
    /// Writes `in_flight`.
    Batch {
        file: FileName,
        offset: u64,
    },
    Write {
        file: FileName,
        offset: u64,
        data: Vec<u8>,
    },
    Sync {
        file: FileName,
        covers: u64,
    },
    Rename {
        from: FileName,
        to: FileName,
    },
    Remove(FileName),
    SyncDir,
}

impl Writer {
    /// A new log: the operations make the first segment, which appears whole or not at all.
    ///
    /// # Errors
    /// [`Error::Option`], [`Error::MembershipTooLarge`].
    pub fn create(
        identity: Identity,
        options: Options,
        seed: u64,
        start: Start,
        now_ms: u64,
    ) -> Result<Self, Error> {
        check_membership(&start.membership)?;
        let (base, base_term) = start
            .snapshot
            .map_or((0, 0), |mark| (mark.index, mark.term));
        let mut state = LogState::new(base, base_term, HardState::default());
        if let Some(mark) = start.snapshot {
            state.set_snapshot(mark, start.membership.clone())?;
        }
        state.set_membership(start.membership);
        let hard_state = HardState {
            commit: start.hard_state.commit.max(base),
            ..start.hard_state
        };
        state.set_hard_state(hard_state)?;
        let reason = match start.snapshot {
            Some(_) => OpenedBecause::Restore,
            None => OpenedBecause::Created,
        };
        let mut writer = Self::new(identity, options.validated()?, seed, state);
        writer.next_spare = 1;
        writer.open_segment(reason, 1, start.note.as_deref(), now_ms);
        Ok(writer)
    }

    /// Goes on behind a log that was read: syncs what was read, then opens a new segment. `spares`
    /// are prepared files of the right size, known to be zero and synced; `next_spare` is above
    /// every spare's number in the directory.
    ///
    /// # Errors
    /// [`Error::Option`], [`Error::ReadOnly`] without a path.
    pub fn resume(
        recovered: &Recovered,
        options: Options,
        seed: u64,
        (spares, next_spare): (&[u64], u64),
        note: Option<&str>,
        now_ms: u64,
    ) -> Result<Self, Error> {
        let last = recovered
            .segments
            .last()
            .expect("a log has at least one segment");
        if let Some(barred) = recovered
            .segments
            .iter()
            .find(|one| !one.header.may_write())
        {
            let path = barred.header.name().to_string().into();
            return Err(Error::ReadOnly {
                path,
                features: barred.header.write_features,
            });
        }
        let mut state = recovered.state.clone();
        state.set_hard_state(recovered.hard_state)?;
        let mut writer = Self::new(last.header.identity, options.validated()?, seed, state);
        writer.older = recovered.segments.clone();
        writer.ready.extend(spares);
        writer.next_spare = next_spare;
        writer.next_batch = recovered.end.next_batch;
        writer.previous_crc = recovered.end.previous_crc;
        // The end of the old segments is the base of the new one.
        writer.active.header.base = recovered.end.position;
        writer.synced_then = recovered.end.position;
        let (file, covers) = (recovered.end.segment, recovered.end.position);
        writer.steps.push_back(Step::Sync { file, covers });
        writer.steps.push_back(Step::SyncDir);
        let reason = match (note, recovered.end.torn) {
            (Some(_), _) => OpenedBecause::Repair,
            (None, Some(_)) => OpenedBecause::AfterCut,
            (None, None) => OpenedBecause::CleanStart,
        };
        writer.open_segment(reason, last.header.seq + 1, note, now_ms);
        Ok(writer)
    }

    fn new(identity: Identity, options: Options, seed: u64, state: LogState) -> Self {
        let issued = Issued {
            last_index: state.last_index(),
            last_term: state.last_term(),
            hard_state: state.hard_state(),
            snapshot: state.snapshot_and_membership().cloned(),
        };
        // Stands in until the first segment is opened, a few lines later in both constructors.
        let header = SegmentHeader {
            minor: VERSION_MINOR,
            write_features: 0,
            block: options.block_bytes,
            identity,
            seq: 0,
            bytes: options.segment_bytes,
            base: 0,
            salt: 0,
            first_batch: 1,
            previous_crc: 0,
            opened_because: OpenedBecause::Created,
            first_index: 1,
            previous_term: 0,
            hard_state: HardState::default(),
            snapshot: (0, 0),
            unix_ms: 0,
            program: program_field(),
        };
        Self {
            identity,
            seed,
            state,
            issued,
            older: Vec::new(),
            offset: header.data_start(),
            active: SegmentMeta::new(header),
            salt: Salt::new(0),
            next_batch: 1,
            previous_crc: 0,
            synced: 0,
            synced_then: 0,
            told: 0,
            pending: Pending::default(),
            in_flight: BatchBuffer::default(),
            steps: VecDeque::new(),
            waiting: None,
            ready: VecDeque::new(),
            ahead: VecDeque::new(),
            next_spare: 1,
            options,
        }
    }

    /// Adds entries to the waiting batch; returns how many it took. Fewer than given means that the
    /// batch is full, or that the next entry replaces one of the batch: issue it, then go on.
    ///
    /// # Errors
    /// [`Error::EntryTooLarge`] (that entry and what follows is not taken), [`Error::Order`] (the
    /// writer must not be used any more).
    pub fn push(&mut self, entries: &[Entry]) -> Result<usize, Error> {
        for (taken, entry) in entries.iter().enumerate() {
            let bytes = entry.payload.len();
            if bytes > self.options.entry_bytes_max {
                if taken > 0 {
                    return Ok(taken);
                }
                let max = self.options.entry_bytes_max;
                return Err(Error::EntryTooLarge {
                    index: entry.index,
                    bytes,
                    max,
                });
            }
            let bytes = record::entry_record_bytes(bytes);
            if self.is_full_for(bytes) || self.replaces_pending(entry.index) {
                return Ok(taken);
            }
            self.state.entry(entry.index, entry.term)?;
            let pending = &mut self.pending;
            pending
                .buffer
                .add(bytes, |out| record::put_entry(out, entry));
            if pending.entries == 0 {
                pending.lowest = entry.index;
            }
            pending.entries += 1;
        }
        Ok(entries.len())
    }

    /// Adds a hard state to the waiting batch, in place of one that waits there already.
    ///
    /// # Errors
    /// [`Error::Order`]: the writer must not be used any more.
    pub fn push_hard_state(&mut self, hard_state: HardState) -> Result<(), Error> {
        self.state.set_hard_state(hard_state)?;
        self.pending.hard_state = Some(hard_state);
        Ok(())
    }

    /// Adds a snapshot mark; the state up to its index must be synced already. Returns false if
    /// other records wait: issue them first.
    ///
    /// # Errors
    /// [`Error::Order`]: the writer must not be used any more. [`Error::MembershipTooLarge`].
    pub fn push_snapshot(
        &mut self,
        mark: SnapshotMark,
        membership: &Membership,
    ) -> Result<bool, Error> {
        check_membership(membership)?;
        if !self.is_drained() {
            return Ok(false);
        }
        self.state.set_snapshot(mark, membership.clone())?;
        let bytes = record::record_bytes(record::snapshot_body_bytes(membership));
        self.pending
            .buffer
            .add(bytes, |out| record::put_snapshot(out, &mark, membership));
        Ok(true)
    }

    /// What later checkpoints say about who votes. Writes nothing by itself.
    ///
    /// # Errors
    /// [`Error::MembershipTooLarge`].
    pub fn set_membership(&mut self, membership: Membership) -> Result<(), Error> {
        check_membership(&membership)?;
        self.state.set_membership(membership);
        Ok(())
    }

    /// Whether a hard state would change nothing but the commit index, so that it can ride along
    /// with a later batch.
    pub fn is_commit_only(&self, hard_state: &HardState) -> bool {
        let known = self.state.hard_state();
        (known.term, known.vote) == (hard_state.term, hard_state.vote)
    }

    /// Whether nothing waits to be issued.
    pub fn is_drained(&self) -> bool {
        self.pending.buffer.is_empty() && self.pending.hard_state.is_none()
    }

    /// Whether no operation is left to perform.
    pub fn is_idle(&self) -> bool {
        self.steps.is_empty()
    }

    /// Makes one batch of what waits; with `sync`, everything written so far will be durable when
    /// the operations are done. Only when [`Writer::is_idle`].
    pub fn issue(&mut self, sync: bool, now_ms: u64) {
        assert!(self.is_idle(), "one batch is in flight at a time");
        if self.is_drained() {
            if sync && self.position() > self.synced {
                self.queue_sync();
            }
            return;
        }
        if let Some(hard_state) = self.pending.hard_state.take() {
            let put = |out: &mut Vec<u8>| record::put_hard_state(out, &hard_state);
            self.pending.buffer.add(HARD_STATE_RECORD_BYTES, put);
        }
        self.issue_pending(sync, now_ms);
    }

    /// Writes an empty batch if the newest synced_to in the file is older than the truth, so that a
    /// reader can tell damage of the last batch from a torn write. Not synced. A commit index that
    /// rides along takes its place. Only when [`Writer::is_idle`].
    pub fn mark(&mut self, now_ms: u64) {
        if self.is_drained() {
            if self.told < self.synced {
                self.issue_mark(Flags::MARK, now_ms);
            }
        } else {
            self.issue(false, now_ms);
        }
    }

    /// A clean stop: everything written is synced and a synced mark says so. What waits must have
    /// been issued. Only when [`Writer::is_idle`].
    pub fn close(&mut self, now_ms: u64) {
        assert!(
            self.is_drained() && self.is_idle(),
            "issue what waits before the log is closed"
        );
        if self.position() > self.synced {
            self.queue_sync();
        }
        if self.issue_mark(Flags::MARK.with(Flags::SYNC), now_ms) {
            self.queue_sync();
        }
    }

    /// Removes segments whose entries all have an index up to `upto`, oldest first, never one of the
    /// newest two. Returns how many. Only when [`Writer::is_idle`].
    ///
    /// `upto` must not be above what the store has durably applied; what is not committed is kept
    /// whatever is asked.
    pub fn purge(&mut self, upto: u64) -> usize {
        assert!(self.is_idle(), "purge between batches");
        let upto = upto.min(self.issued.hard_state.commit.max(self.snapshot_index()));
        let spared = self.older.len().saturating_sub(1);
        let gone = self
            .older
            .iter()
            .take(spared)
            .take_while(|one| one.highest <= upto)
            .count();
        for segment in self.older.drain(..gone) {
            self.steps.push_back(Step::Remove(segment.header.name()));
            self.steps.push_back(Step::SyncDir);
        }
        if gone > 0 {
            let oldest = self.older.first().unwrap_or(&self.active);
            let first = oldest
                .index
                .lowest()
                .unwrap_or(u64::MAX)
                .min(oldest.header.first_index);
            self.state.forget_up_to(first - 1);
        }
        gone
    }

    /// The next operation to perform; all before it are completed.
    pub fn next_op(&self) -> Option<Op<'_>> {
        let bytes = self.options.segment_bytes;
        Some(match self.steps.front()? {
            Step::Prepare(number) => Op::Prepare {
                file: FileName::Spare(*number),
                bytes,
            },
            Step::PrepareAhead(number) => Op::PrepareAhead {
                file: FileName::Spare(*number),
                bytes,
            },
            Step::Batch { file, offset } => {
                // In pairs with the reader: a batch never claims a sync that did not return.
                assert!(self.told <= self.synced, "synced_to is ahead of the truth");
                let data = self.in_flight.as_slice();
                Op::Write {
                    file: *file,
                    offset: *offset,
                    data,
                }
            }
            Step::Write { file, offset, data } => Op::Write {
                file: *file,
                offset: *offset,
                data,
            },
            Step::Sync { file, .. } => Op::Sync { file: *file },
            Step::Rename { from, to } => Op::Rename {
                from: *from,
                to: *to,
            },
            Step::Remove(file) => Op::Remove { file: *file },
            Step::SyncDir => Op::SyncDir,
        })
    }

    /// The operation of [`Writer::next_op`] succeeded.
    pub fn completed(&mut self) {
        match self.steps.pop_front().expect("an operation was handed out") {
            Step::Sync { covers, .. } => self.synced = self.synced.max(covers),
            Step::Batch { .. } => self.in_flight.clear(),
            Step::Prepare(number) => {
                self.ahead.retain(|asked| *asked != number);
                if let Some((sync, now_ms)) = self.waiting.take() {
                    self.ready.push_back(number);
                    self.issue_pending(sync, now_ms);
                }
            }
            _ => {}
        }
    }

    /// The [`Op::Prepare`] of [`Writer::next_op`] found no space. Nothing of the batch that needs it
    /// was written; it goes on waiting, and the next `issue` tries again. False if nothing can go
    /// on: it was the first segment of this life.
    pub fn prepare_failed(&mut self) -> bool {
        let Some(Step::Prepare(number)) = self.steps.pop_front() else {
            panic!("the operation handed out was not a prepare");
        };
        self.ahead.retain(|asked| *asked != number);
        self.waiting.take().is_some()
    }

    /// Position behind the last issued batch.
    pub fn position(&self) -> u64 {
        self.active.header.position_at(self.offset)
    }

    /// Every byte below this position is synced.
    pub fn synced_to(&self) -> u64 {
        self.synced
    }

    /// Whether [`Writer::mark`] would write something.
    pub fn mark_is_due(&self) -> bool {
        self.told < self.synced || !self.is_drained()
    }

    /// What the log holds, with everything pushed.
    pub fn state(&self) -> &LogState {
        &self.state
    }

    /// Last index of the batches issued.
    pub fn issued_last_index(&self) -> u64 {
        self.issued.last_index
    }

    /// Number of segments, the active one included.
    pub fn segments_count(&self) -> usize {
        self.older.len() + 1
    }

    /// The options in force.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Where to read entry `index`: the segment, the offset of a batch at or in front of it, and the
    /// first index that is to be looked up anew because a later place may know better.
    pub(crate) fn locate(&self, index: u64) -> Option<(&SegmentMeta, u64, u64)> {
        let mut known_better = u64::MAX;
        for segment in self.older.iter().chain([&self.active]).rev() {
            if let Some((offset, next)) = segment.index.find(index) {
                return Some((segment, offset, next.min(known_better)));
            }
            known_better = known_better.min(segment.index.lowest().unwrap_or(u64::MAX));
        }
        None
    }

    fn is_full_for(&self, bytes: usize) -> bool {
        let buffer = &self.pending.buffer;
        let after = buffer.payload_bytes() + bytes + HARD_STATE_RECORD_BYTES;
        !buffer.is_empty()
            && (after > self.options.batch_bytes_target || buffer.records() + 2 > BATCH_RECORDS_MAX)
    }

    /// The offset index has one entry per batch for a replaced tail, so a batch never replaces its
    /// own.
    fn replaces_pending(&self, index: u64) -> bool {
        self.pending.entries > 0 && index <= self.state.last_index()
    }

    /// What a batch of so many bytes needs of a segment, in bytes: two blocks more, so that an idle mark and the mark of a
    /// clean stop still find room.
    fn room_for(&self, total: usize) -> u64 {
        total as u64 + self.options.seal_reserve_bytes() + 2 * u64::from(self.options.block_bytes)
    }

    /// Whether a batch of what waits and these entries fits the active segment.
    pub fn has_room(&self, entries: &[Entry]) -> bool {
        let records = entries
            .iter()
            .map(|entry| record::entry_record_bytes(entry.payload.len()));
        let more = records.sum::<usize>() + HARD_STATE_RECORD_BYTES;
        let block = self.options.block_bytes as usize;
        let total = self.pending.buffer.total_bytes_with(more, block);
        self.offset + self.room_for(total) <= self.active.header.bytes
    }

    /// Issues the batch, whose records are complete, into this segment or a new one.
    fn issue_pending(&mut self, sync: bool, now_ms: u64) {
        let block = self.options.block_bytes as usize;
        let total = self.pending.buffer.total_bytes(block);
        let room = self.room_for(total);
        let total = total as u64;
        if self.offset + room > self.active.header.bytes {
            if self.ready.is_empty() {
                let number = self
                    .ahead
                    .front()
                    .copied()
                    .unwrap_or_else(|| self.new_spare());
                self.steps.push_back(Step::Prepare(number));
                self.waiting = Some((sync, now_ms));
                return;
            }
            self.seal(now_ms);
            self.open_segment(
                OpenedBecause::Full,
                self.active.header.seq + 1,
                None,
                now_ms,
            );
            assert!(
                self.offset + room <= self.active.header.bytes,
                "bounded by the options"
            );
        } else if self.position() + total - self.synced_then > UNSYNCED_BYTES_MAX {
            self.queue_sync();
        }
        let flags = if sync { Flags::SYNC } else { Flags::default() };
        self.issued.last_index = self.state.last_index();
        self.issued.last_term = self.state.last_term();
        self.issued.hard_state = self.state.hard_state();
        if self.issued.snapshot.as_ref().map(|(mark, _)| *mark) != self.state.snapshot() {
            self.issued.snapshot = self.state.snapshot_and_membership().cloned();
        }
        let header = self.batch_header(flags, now_ms);
        let offset = self.offset;
        if self.pending.entries > 0 {
            let (lowest, entries) = (self.pending.lowest, self.pending.entries);
            self.active
                .note_entries(lowest, self.issued.last_index, entries, offset);
        }
        let (header, crc) = self.pending.buffer.finish(header, self.salt, block);
        std::mem::swap(&mut self.pending.buffer, &mut self.in_flight);
        self.pending.buffer.clear();
        (self.pending.entries, self.pending.lowest) = (0, 0);
        let file = self.active.header.name();
        self.steps.push_back(Step::Batch { file, offset });
        self.advance(&header, crc);
        if sync {
            self.queue_sync();
        }
    }

    /// Queues an empty batch; false if there is no room for one.
    fn issue_mark(&mut self, flags: Flags, now_ms: u64) -> bool {
        let block = self.options.block_bytes as usize;
        let room = block as u64 + self.options.seal_reserve_bytes();
        let unsynced = self.position() + block as u64 - self.synced_then;
        if self.offset + room > self.active.header.bytes || unsynced > UNSYNCED_BYTES_MAX {
            return false;
        }
        let header = self.batch_header(flags, now_ms);
        let (header, crc) = self.in_flight.finish(header, self.salt, block);
        let (file, offset) = (self.active.header.name(), self.offset);
        self.steps.push_back(Step::Batch { file, offset });
        self.advance(&header, crc);
        true
    }

    fn batch_header(&self, flags: Flags, now_ms: u64) -> BatchHeader {
        BatchHeader {
            payload_bytes: 0,
            position: self.position(),
            synced_to: self.synced_then,
            seq: self.next_batch,
            previous_crc: self.previous_crc,
            payload_crc: 0,
            unix_ms: now_ms,
            last_index: self.issued.last_index,
            records: 0,
            flags,
        }
    }

    /// Bookkeeping behind a batch that was queued at `self.offset`.
    fn advance(&mut self, header: &BatchHeader, crc: u32) {
        self.offset += header.total_bytes(self.options.block_bytes as usize) as u64;
        self.active.end = self.position();
        self.active.batches += 1;
        self.next_batch += 1;
        self.previous_crc = crc;
        self.told = header.synced_to;
    }

    fn queue_sync(&mut self) {
        let (file, covers) = (self.active.header.name(), self.position());
        self.steps.push_back(Step::Sync { file, covers });
        self.synced_then = covers;
    }

    fn new_spare(&mut self) -> u64 {
        let number = self.next_spare;
        self.next_spare = number.wrapping_add(1);
        number
    }

    fn snapshot_index(&self) -> u64 {
        self.issued
            .snapshot
            .as_ref()
            .map_or(0, |(mark, _)| mark.index)
    }
}

fn check_membership(membership: &Membership) -> Result<(), Error> {
    match membership.is_encodable() {
        true => Ok(()),
        false => Err(Error::MembershipTooLarge { max: IDS_MAX }),
    }
}
