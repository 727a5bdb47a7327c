//! From one segment to the next: the seal of a full one, the header and checkpoint of a new one.

use super::{Step, Writer};
use crate::BATCH_HEADER_BYTES;
use crate::batch::{BatchBuffer, Flags};
use crate::record::{self, HARD_STATE_RECORD_BYTES, Seal};
use crate::recover::SegmentMeta;
use crate::segment::{FileName, OpenedBecause, SegmentHeader};

impl Writer {
    /// Queues the last batch of a full segment and its sync.
    pub(super) fn seal(&mut self, now_ms: u64) {
        let block = self.options.block_bytes as usize;
        let mut buffer = BatchBuffer::default();
        let mut footer = 0;
        if let Some(body) = self.active.index.encode(self.active.header.bytes) {
            footer = self.position() + BATCH_HEADER_BYTES as u64;
            buffer.add(record::record_bytes(body.len()), |out| {
                record::put_footer(out, &body)
            });
        }
        let seal = Seal {
            last_index: self.issued.last_index,
            batches: self.active.batches + 1,
            entries: self.active.entries,
            footer,
        };
        buffer.add(record::SEAL_RECORD_BYTES, |out| {
            record::put_seal(out, &seal)
        });
        self.queue_own(
            buffer,
            Flags::SEAL.with(Flags::SYNC),
            self.active.header.name(),
            now_ms,
        );
        assert!(
            self.offset <= self.active.header.bytes,
            "{block}-byte blocks: room is reserved"
        );
        self.queue_sync();
    }

    /// Queues everything that turns a spare into the active segment, its checkpoint included.
    pub(super) fn open_segment(
        &mut self,
        reason: OpenedBecause,
        seq: u64,
        note: Option<&str>,
        now_ms: u64,
    ) {
        // Before the first segment of this life the stand-in header says where the log goes on.
        let base = match self.active.header.seq {
            0 => self.active.header.base,
            _ => self.position(),
        };
        let spare = match self.ready.pop_front() {
            Some(number) => number,
            None => {
                let number = self.ahead.pop_front().unwrap_or_else(|| self.new_spare());
                self.steps.push_back(Step::Prepare(number));
                number
            }
        };
        let spare = FileName::Spare(spare);
        let header = SegmentHeader {
            block: self.options.block_bytes,
            identity: self.identity,
            seq,
            bytes: self.options.segment_bytes,
            base,
            salt: self.next_salt(),
            first_batch: self.next_batch,
            previous_crc: self.previous_crc,
            opened_because: reason,
            first_index: self.issued.last_index + 1,
            previous_term: self.issued.last_term,
            hard_state: self.issued.hard_state,
            snapshot: (self.issued.snapshot.as_ref())
                .map_or((0, 0), |(mark, _)| (mark.index, mark.term)),
            unix_ms: now_ms,
            ..self.active.header.clone()
        };
        let data = header.encode_copies();
        let name = header.name();
        self.salt = header.salted();
        self.offset = header.data_start();
        let full = std::mem::replace(&mut self.active, SegmentMeta::new(header));
        if full.header.seq != 0 {
            self.older.push(full);
        }
        self.steps.push_back(Step::Write {
            file: spare,
            offset: 0,
            data,
        });
        let checkpoint = self.checkpoint(note, now_ms);
        self.queue_own(
            checkpoint,
            Flags::CHECKPOINT.with(Flags::SYNC),
            spare,
            now_ms,
        );
        let covers = self.position();
        self.steps.push_back(Step::Sync {
            file: spare,
            covers,
        });
        self.synced_then = covers;
        self.steps.push_back(Step::Rename {
            from: spare,
            to: name,
        });
        self.steps.push_back(Step::SyncDir);
        while self.ready.len() + self.ahead.len() < self.options.spares {
            let number = self.new_spare();
            self.ahead.push_back(number);
            self.steps.push_back(Step::PrepareAhead(number));
        }
    }

    /// What every segment starts with, so that all older ones can go.
    fn checkpoint(&self, note: Option<&str>, now_ms: u64) -> BatchBuffer {
        let mut buffer = BatchBuffer::default();
        let hard_state = self.issued.hard_state;
        buffer.add(HARD_STATE_RECORD_BYTES, |out| {
            record::put_hard_state(out, &hard_state)
        });
        if let Some((mark, membership)) = &self.issued.snapshot {
            let bytes = record::record_bytes(record::snapshot_body_bytes(membership));
            buffer.add(bytes, |out| record::put_snapshot(out, mark, membership));
        }
        if let Some(membership) = self.state.membership() {
            let bytes = record::record_bytes(membership.encoded_bytes());
            buffer.add(bytes, |out| record::put_membership(out, membership));
        }
        if let Some(text) = note {
            let program = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));
            let bytes = record::record_bytes(10 + program.len() + text.len());
            buffer.add(bytes, |out| record::put_note(out, now_ms, program, text));
        }
        buffer
    }

    /// Queues a batch of the log's own (seal, checkpoint) at the current place, under a file name
    /// that may still be a spare's.
    fn queue_own(&mut self, mut buffer: BatchBuffer, flags: Flags, file: FileName, now_ms: u64) {
        let header = self.batch_header(flags, now_ms);
        let block = self.options.block_bytes as usize;
        let (header, crc) = buffer.finish(header, self.salt, block);
        let data = buffer.as_slice().to_vec();
        self.steps.push_back(Step::Write {
            file,
            offset: self.offset,
            data,
        });
        self.advance(&header, crc);
    }

    /// splitmix64 over the seed: one salt per segment of this life.
    fn next_salt(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
