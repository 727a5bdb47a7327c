//! Follows the segments one after the other: joints, batches, records, and the verdict on the end.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use super::files::DiskSource;
use super::{End, Floors, Recovered, Report, SegmentInfo, SegmentMeta};
use crate::batch::Flags;
use crate::damage::{Class, Damage, Finding, Proof, Rule};
use crate::disk::Disk;
use crate::error::Error;
use crate::record::{Entry, HardState, Malformed, Origin, Record, Records, Seal};
use crate::scan::{Batch, Expected, SegmentScan, Step, Stop, Verdict};
use crate::segment::{FileName, OpenedBecause, SegmentHeader};
use crate::state::LogState;
use crate::{ENTRY_HEAD_BYTES, RECORD_HEADER_BYTES};

/// Index in the list of segments, and what is wrong there.
pub(super) type Failed = (usize, Error);

pub(super) struct Reader {
    floors: Option<Floors>,
    keep_after: u64,
    step: usize,
    state: LogState,
    /// Index in front of the first segment that is read.
    base_index: u64,
    kept: Vec<Entry>,
    segments: Vec<SegmentMeta>,
    /// Whether the segment read last ends with a SEAL.
    sealed: bool,
    end: Option<End>,
    report: Report,
}

impl Reader {
    pub(super) fn new(
        floors: Option<Floors>,
        keep_after: u64,
        step: usize,
        findings: Vec<Finding>,
    ) -> Self {
        Self {
            floors,
            keep_after,
            step,
            state: LogState::new(0, 0, HardState::default()),
            base_index: 0,
            kept: Vec::new(),
            segments: Vec::new(),
            sealed: false,
            end: None,
            report: Report {
                findings,
                ..Report::default()
            },
        }
    }

    pub(super) fn run<D: Disk>(
        &mut self,
        disk: &mut D,
        files: &[(FileName, u64)],
        headers: &[Result<SegmentHeader, Box<Damage>>],
        start: usize,
    ) -> Result<(), Failed> {
        for (at, (file, _)) in files.iter().enumerate().skip(start) {
            let path = disk.path(Some(*file));
            let header = match &headers[at] {
                Ok(header) => header,
                Err(damage) => return Err((at, Error::Damage(damage.clone()))),
            };
            if at == start {
                self.state = LogState::at_opening_of(header);
                self.base_index = self.state.last_index();
            } else if let Err((class, proof)) = self.join(header) {
                let damage = self.damage(path, header, header.base, class, Rule::Joint, proof);
                // The joint belongs to the segment before it: a start behind it is possible.
                return Err((at - 1, damage.into()));
            }
            let next = match headers.get(at + 1) {
                Some(Ok(next)) if next.seq == header.seq + 1 => Some(next),
                Some(Ok(next)) => {
                    let proof = Proof::MissingSegments {
                        from: header.seq + 1,
                        to: next.seq - 1,
                    };
                    let directory = disk.path(None);
                    let mut damage =
                        self.damage(directory, header, 0, Class::W5, Rule::Joint, proof);
                    (damage.first_lost, damage.position) = (header.first_index, None);
                    damage.last_lost = Some(next.first_index - 1);
                    return Err((at, damage.into()));
                }
                // Without its base nobody can tell where this one ends.
                Some(Err(damage)) => return Err((at + 1, Error::Damage(damage.clone()))),
                None => None,
            };
            self.segment(disk, *file, header, next)
                .map_err(|error| (at, error))?;
        }
        Ok(())
    }

    /// Checks that a segment goes on where the one before ended.
    fn join(&self, header: &SegmentHeader) -> Result<(), (Class, Proof)> {
        let end = self.end.as_ref().expect("a segment was read before");
        let wanted_term = self.state.term_of(self.state.last_index());
        let fields = [
            ("base position", end.position, header.base),
            ("first batch seq", end.next_batch, header.first_batch),
            (
                "CRC of the batch before",
                end.previous_crc.into(),
                header.previous_crc.into(),
            ),
            (
                "first index",
                self.state.last_index() + 1,
                header.first_index,
            ),
            (
                "term in front",
                wanted_term.unwrap_or(header.previous_term),
                header.previous_term,
            ),
        ];
        if let Some((name, expected, found)) = fields.into_iter().find(|(_, a, b)| a != b) {
            return Err((
                Class::W5,
                Proof::Field {
                    name,
                    expected,
                    found,
                },
            ));
        }
        if header.opened_because == OpenedBecause::Full && !self.sealed {
            return Err((
                Class::W4,
                Proof::Malformed("the full segment before has no SEAL"),
            ));
        }
        Ok(())
    }

    /// Reads one segment to its end.
    fn segment<D: Disk>(
        &mut self,
        disk: &mut D,
        file: FileName,
        header: &SegmentHeader,
        next: Option<&SegmentHeader>,
    ) -> Result<(), Error> {
        let path = disk.path(Some(file));
        let source = DiskSource {
            disk,
            file,
            bytes: header.bytes,
        };
        let mut scan = SegmentScan::new(source, header.clone(), self.step);
        let mut meta = SegmentMeta::new(header.clone());
        let mut unix_ms = (0, 0);
        self.sealed = false;
        let device = |this: &Self, offset: u64, error: io::Error| {
            let proof = Proof::Device(error.to_string());
            Error::from(this.damage(path.clone(), header, offset, Class::W8, Rule::D12, proof))
        };
        let stop = loop {
            if next.is_some_and(|next| scan.position() == next.base) {
                break None;
            }
            let offset = scan.offset();
            match scan
                .next_batch()
                .map_err(|error| device(self, offset, error))?
            {
                Step::Batch(batch) => {
                    self.batch(&batch, &mut meta).map_err(|proof| {
                        let (class, rule) = (Class::W2, Rule::Records);
                        Error::from(self.damage(path.clone(), header, offset, class, rule, proof))
                    })?;
                    let first = if meta.batches == 1 {
                        batch.header.unix_ms
                    } else {
                        unix_ms.0
                    };
                    unix_ms = (first, batch.header.unix_ms);
                }
                Step::Stop(stop) => break Some(stop),
            }
            if next.is_some_and(|next| scan.position() > next.base) {
                break Some(Stop::Full);
            }
        };
        meta.end = scan.position();
        self.report.segments.push(SegmentInfo {
            name: file,
            bytes: header.bytes,
            used: scan.offset(),
            base: header.base,
            opened_because: header.opened_because,
            batches: meta.batches,
            entries: meta.entries,
            lowest: meta.index.lowest(),
            last_index: self.state.last_index(),
            unix_ms,
            sealed: self.sealed,
        });
        let verdict = match stop {
            None => Verdict::Clean,
            Some(stop) => {
                let expected = Expected {
                    next: next.map(|next| (next.seq, next.base, next.first_index)),
                    floor: self.floor_above_the_end(),
                };
                let offset = scan.offset();
                scan.judge(stop, expected)
                    .map_err(|error| device(self, offset, error))?
            }
        };
        let torn = match verdict {
            Verdict::Clean => None,
            Verdict::Torn { from, to } => Some((from, to)),
            Verdict::Damaged {
                class,
                rule,
                proof,
                last_lost,
            } => {
                let mut damage = self.damage(path, header, scan.offset(), class, rule, proof);
                damage.last_lost = last_lost.filter(|last| *last >= damage.first_lost);
                return Err(damage.into());
            }
        };
        if let Some((from, to)) = torn {
            let text = format!("torn tail of {} bytes, never synced", to - from);
            let (class, file) = (Class::W1, file.to_string());
            self.report.findings.push(Finding {
                class,
                file,
                offset: scan.offset(),
                text,
            });
        }
        self.end = Some(End {
            segment: file,
            offset: scan.offset(),
            position: scan.position(),
            next_batch: scan.next_seq(),
            previous_crc: scan.previous_crc(),
            torn,
        });
        self.segments.push(meta);
        Ok(())
    }

    fn floor_above_the_end(&self) -> Option<(&'static str, u64)> {
        let Floors {
            applied, snapshot, ..
        } = self.floors?;
        [
            ("store's applied index", applied),
            ("newest snapshot's index", snapshot),
        ]
        .into_iter()
        .filter(|(_, index)| *index > self.state.last_index())
        .max_by_key(|(_, index)| *index)
    }

    /// Takes the records of a good batch.
    fn batch(&mut self, batch: &Batch<'_>, meta: &mut SegmentMeta) -> Result<(), Proof> {
        let header = &batch.header;
        if meta.batches == 0 && !header.flags.has(Flags::CHECKPOINT) {
            return Err(Proof::Malformed(
                "the first batch of a segment is no checkpoint",
            ));
        }
        if self.sealed {
            return Err(Proof::Malformed("a batch behind the SEAL"));
        }
        meta.batches += 1;
        // The payload is copied once if anything of it is kept; entries are slices of the copy.
        let mut shared = None;
        let (mut records, mut entries, mut lowest) = (0u32, 0, u64::MAX);
        let mut reading = Records::new(batch.payload);
        loop {
            let at = reading.offset();
            let Some(record) = reading.next() else { break };
            records += 1;
            match record.map_err(|Malformed(text)| Proof::Malformed(text))? {
                Record::Entry {
                    index,
                    term,
                    kind,
                    payload,
                } => {
                    self.state.entry(index, term).map_err(Proof::Broken)?;
                    (entries, lowest) = (entries + 1, lowest.min(index));
                    self.drop_kept_from(index);
                    if index > self.keep_after {
                        let all =
                            shared.get_or_insert_with(|| Bytes::copy_from_slice(batch.payload));
                        let start = at + RECORD_HEADER_BYTES + ENTRY_HEAD_BYTES;
                        let payload = all.slice(start..start + payload.len());
                        self.kept.push(Entry {
                            index,
                            term,
                            kind,
                            payload,
                        });
                    }
                }
                Record::HardState(hard) => {
                    self.state.set_hard_state(hard).map_err(Proof::Broken)?;
                }
                Record::Snapshot(mark, membership) => {
                    // A checkpoint repeats a mark; any other batch tells by its last index whether
                    // the log went on behind it or began anew.
                    let base = self.state.first_index() - 1;
                    let anew = mark.index < base && header.last_index < base;
                    let repeated = header.flags.has(Flags::CHECKPOINT);
                    if mark.origin == Origin::Installed && anew && !repeated {
                        self.state.begin_anew_at(mark).map_err(Proof::Broken)?;
                    }
                    self.state
                        .set_snapshot(mark, membership)
                        .map_err(Proof::Broken)?;
                    self.drop_kept_outside();
                }
                Record::Membership(membership) => self.state.set_membership(membership),
                Record::Seal(seal) => {
                    self.check_seal(&seal, meta)?;
                    self.sealed = true;
                }
                Record::Footer(_) | Record::Note { .. } | Record::Skipped(_) => {}
            }
        }
        if records != u32::from(header.records) {
            return Err(Proof::Malformed("number of records"));
        }
        if header.last_index != self.state.last_index() {
            return Err(Proof::Malformed("last index of the batch"));
        }
        if entries > 0 {
            meta.note_entries(lowest, self.state.last_index(), entries, batch.offset);
        }
        self.report.batches += 1;
        self.report.entries += entries;
        self.report.bytes += header.total_bytes(meta.header.block as usize) as u64;
        Ok(())
    }

    fn check_seal(&self, seal: &Seal, meta: &SegmentMeta) -> Result<(), Proof> {
        let counts = (seal.last_index, seal.batches, seal.entries);
        match counts == (self.state.last_index(), meta.batches, meta.entries) {
            true => Ok(()),
            false => Err(Proof::Malformed("counts of the SEAL")),
        }
    }

    fn drop_kept_from(&mut self, index: u64) {
        while self.kept.last().is_some_and(|entry| entry.index >= index) {
            self.kept.pop();
        }
    }

    /// After a snapshot: drops what is not in the log any more, at both ends.
    fn drop_kept_outside(&mut self) {
        self.drop_kept_from(self.state.last_index() + 1);
        let first = self.state.first_index();
        let gone = self.kept.partition_point(|entry| entry.index < first);
        self.kept.drain(..gone);
    }

    fn damage(
        &self,
        path: PathBuf,
        header: &SegmentHeader,
        offset_or_base: u64,
        class: Class,
        rule: Rule,
        proof: Proof,
    ) -> Damage {
        // Offsets in front of the data area have no position.
        let inside = offset_or_base >= header.data_start() && rule != Rule::Joint;
        Damage {
            class,
            rule,
            path,
            offset: if inside { offset_or_base } else { 0 },
            position: inside.then(|| header.position_at(offset_or_base)),
            first_lost: self.state.last_index() + 1,
            last_lost: None,
            proof,
        }
    }

    /// Checks what can be told only at the end, and puts the result together.
    pub(super) fn finish<D: Disk>(
        mut self,
        disk: &mut D,
        floors: Option<Floors>,
    ) -> Result<Recovered, Error> {
        let end = self.end.take().expect("a log has at least one segment");
        let snapshot = self.state.snapshot();
        if let Some(floor) = self.floor_above_the_end() {
            // The end was exactly the last segment's last byte, or judged before: same rule.
            let (what, index) = floor;
            let last = self.segments.last().expect("at least one segment");
            let path = disk.path(Some(end.segment));
            let proof = Proof::Floor { what, index };
            let mut damage =
                self.damage(path, &last.header, end.offset, Class::W2, Rule::D4, proof);
            damage.last_lost = Some(index);
            return Err(damage.into());
        }
        if let Some(floors) = floors {
            let newest = snapshot.map_or(0, |mark| mark.index);
            let covered = floors.applied.max(floors.snapshot).max(newest);
            if self.base_index > covered {
                let first = self.segments.first().expect("at least one segment");
                let first_index = self.base_index + 1;
                let proof = Proof::MissingStart {
                    first_index,
                    covered,
                };
                let directory = disk.path(None);
                let mut damage =
                    self.damage(directory, &first.header, 0, Class::W5, Rule::Joint, proof);
                (damage.first_lost, damage.last_lost) = (covered + 1, Some(self.base_index));
                return Err(damage.into());
            }
        }
        let Some(membership) = self.state.membership().cloned() else {
            let last = self.segments.last().expect("at least one segment");
            let proof = Proof::Malformed("no checkpoint with a membership");
            let path = disk.path(Some(end.segment));
            let damage = self.damage(
                path,
                &last.header,
                end.offset,
                Class::W2,
                Rule::Records,
                proof,
            );
            return Err(damage.into());
        };
        let mut hard_state = self.state.hard_state();
        let applied = floors.map_or(0, |floors| floors.applied.max(floors.snapshot));
        let contained = snapshot.map_or(0, |mark| mark.index);
        hard_state.commit = hard_state.commit.max(applied).max(contained);
        if self.state.last_term() > hard_state.term {
            (hard_state.term, hard_state.vote) = (self.state.last_term(), 0);
        }
        self.report.kept_bytes = self
            .kept
            .iter()
            .map(|entry| entry.payload.len() as u64)
            .sum();
        Ok(Recovered {
            hard_state,
            snapshot,
            membership,
            first_index: self.state.first_index(),
            last_index: self.state.last_index(),
            last_term: self.state.last_term(),
            entries: self.kept,
            report: self.report,
            end,
            state: self.state,
            segments: self.segments,
        })
    }
}
