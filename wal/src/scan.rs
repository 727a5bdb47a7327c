//! Walks the batches of one segment and judges the first place that is not a good batch.
//!
//! A sector is written whole or not at all, in any order, until a sync returns; segments are born as
//! synced zeros; at most [`UNSYNCED_BYTES_MAX`] bytes are unsynced. So, at the first bad place S of
//! the last segment, in this order:
//!
//! | rule | seen | verdict |
//! |---|---|---|
//! | D1 | the file is shorter than its header says | damage W4, W5 |
//! | D2 | a later segment exists and S lies below its base | damage W4 |
//! | D3 | behind S a valid batch header whose synced_to lies above S | damage W4 |
//! | D4 | the store or a snapshot needs an index above the last good one | damage W2, W4 |
//! | D5 | nothing but zeros from S on | clean end |
//! | D6 | the first sector is not zero and no header | damage W2: no sector is half written |
//! | D7 | a header, a bad payload, and a sector of it never written | torn tail |
//! | D8 | a header, a bad payload, and no sector missing | damage W2: it changed later |
//! | D9 | the first sector never written, near behind it something was | torn tail |
//! | D10 | as D9, but farther away than unsynced bytes get | damage W2 |
//! | D11 | a header that is right but for position, seq, chain or size | damage W5, W6 |
//! | D12 | a read error | damage W8 |
//!
//! One case no format can tell: the very last batch, acknowledged, no mark behind it yet, and later
//! whole sectors of it turned to zero. It is taken as torn.

use std::io;

use crate::batch::{BatchHeader, Salt};
use crate::damage::{Class, Proof, Rule};
use crate::segment::{BadHeader, SegmentHeader};
use crate::source::{Source, Window, is_zero};
use crate::{
    BATCH_BYTES_MAX, BATCH_HEADER_BYTES, BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, SECTOR_BYTES,
    SEGMENT_HEADER_BYTES, UNSYNCED_BYTES_MAX,
};

/// A good batch: header, CRCs, position, seq and chain agree. Its records are not looked at yet.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Its header.
    pub header: BatchHeader,
    /// CRC of the header, which the next batch repeats.
    pub crc: u32,
    /// Where it starts in the file.
    pub offset: u64,
    /// The records.
    pub payload: &'a [u8],
}

/// What the walk met.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// A good batch.
    Batch(Batch<'a>),
    /// The first place without one.
    Stop(Stop),
}

/// Why the walk stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The segment is used up to its last block.
    Full,
    /// No valid header; whether the first sector is all zero.
    NoHeader {
        /// Never written.
        zero: bool,
    },
    /// A header with a right CRC that does not belong here.
    Chain {
        /// What disagrees.
        field: &'static str,
        /// Wanted.
        expected: u64,
        /// In the file.
        found: u64,
    },
    /// A header, and a payload with another CRC.
    Payload {
        /// In the header.
        expected: u32,
        /// Of the bytes in the file.
        found: u32,
        /// Whether a sector of header and payload was never written.
        missing_sector: bool,
        /// Last index that the header announces.
        last_index: u64,
    },
}

/// The judgement over the place where a walk stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The log ends here.
    Clean,
    /// The log ends here, and the bytes of this range (first, one behind the last that is not
    /// zero) are remains of writes that were never synced.
    Torn {
        /// Offset in the file.
        from: u64,
        /// Offset in the file.
        to: u64,
    },
    /// Not an end that a crash can leave.
    Damaged {
        /// How bad.
        class: Class,
        /// Which rule.
        rule: Rule,
        /// What was seen.
        proof: Proof,
        /// Highest index known to be at stake.
        last_lost: Option<u64>,
    },
}

/// What others know about where the log must go on, for D2 and D4.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// (seq, base, first index) of the next segment, if the walk did not reach that base.
    pub next: Option<(u64, u64, u64)>,
    /// Something durable that needs an index which is not there.
    pub floor: Option<(&'static str, u64)>,
}

/// Walks the batches of one segment. Needs the header; starts at the first batch.
pub struct SegmentScan<S> {
    window: Window<S>,
    header: SegmentHeader,
    salt: Salt,
    limit: u64,
    offset: u64,
    next_seq: u64,
    previous_crc: u32,
}

impl<S: Source> SegmentScan<S> {
    /// Over `source`, whose header was read by [`read_header`]; reads `step` bytes at once.
    pub fn new(source: S, header: SegmentHeader, step: usize) -> Self {
        Self {
            limit: header.bytes.min(source.bytes()),
            window: Window::new(source, step),
            salt: header.salted(),
            offset: header.data_start(),
            next_seq: header.first_batch,
            previous_crc: header.previous_crc,
            header,
        }
    }

    /// Starts at another batch of the segment; the chain in front of it is not checked.
    pub fn start_at(&mut self, offset: u64) -> io::Result<()> {
        self.offset = offset;
        let bytes = self.window.get(offset, BATCH_HEADER_BYTES)?;
        if let Some((header, _)) = BatchHeader::decode(bytes, self.salt) {
            (self.next_seq, self.previous_crc) = (header.seq, header.previous_crc);
        }
        Ok(())
    }

    /// Offset in the file of the next batch, or of the place where the walk stopped.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The same as a position.
    pub fn position(&self) -> u64 {
        self.header.position_at(self.offset)
    }

    /// Seq that the next batch must have.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Header CRC of the last good batch.
    pub fn previous_crc(&self) -> u32 {
        self.previous_crc
    }

    /// The header of the segment.
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// The next good batch, or why there is none; asked again it says the same.
    ///
    /// # Errors
    /// A failed read.
    pub fn next_batch(&mut self) -> io::Result<Step<'_>> {
        if self.offset >= self.limit {
            return Ok(Step::Stop(Stop::Full));
        }
        let first = self.window.get(self.offset, SECTOR_BYTES)?;
        let Some((header, crc)) = BatchHeader::decode(first, self.salt) else {
            return Ok(Step::Stop(Stop::NoHeader {
                zero: is_zero(first),
            }));
        };
        if let Some(stop) = self.misplaced(&header) {
            return Ok(Step::Stop(stop));
        }
        let (offset, payload_bytes) = (self.offset, header.payload_bytes as usize);
        let bytes = self
            .window
            .get(offset, BATCH_HEADER_BYTES + payload_bytes)?;
        let found = self
            .salt
            .payload_crc(header.position, &bytes[BATCH_HEADER_BYTES..]);
        if found != header.payload_crc {
            // Every block starts a sector, so sectors of the batch are sectors of the disk. The
            // last one counts by its part of the payload: padding is zero whether written or not.
            let missing_sector = bytes.chunks(SECTOR_BYTES).any(is_zero);
            return Ok(Step::Stop(Stop::Payload {
                expected: header.payload_crc,
                found,
                missing_sector,
                last_index: header.last_index,
            }));
        }
        self.offset += header.total_bytes(self.header.block as usize) as u64;
        self.next_seq += 1;
        self.previous_crc = crc;
        let bytes = self
            .window
            .get(offset, BATCH_HEADER_BYTES + payload_bytes)?;
        Ok(Step::Batch(Batch {
            header,
            crc,
            offset,
            payload: &bytes[BATCH_HEADER_BYTES..],
        }))
    }

    /// Everything about a header with a right CRC that must agree with its place.
    fn misplaced(&self, header: &BatchHeader) -> Option<Stop> {
        let position = self.position();
        let room = self.limit - self.offset;
        let total = header.total_bytes(self.header.block as usize) as u64;
        let fits = total <= room && total <= BATCH_BYTES_MAX as u64;
        let rules = [
            (
                header.position == position,
                "position",
                position,
                header.position,
            ),
            (
                header.seq == self.next_seq,
                "batch seq",
                self.next_seq,
                header.seq,
            ),
            (
                header.previous_crc == self.previous_crc,
                "CRC of the batch before",
                self.previous_crc.into(),
                header.previous_crc.into(),
            ),
            (
                header.synced_to <= position,
                "synced_to",
                position,
                header.synced_to,
            ),
            (fits, "batch bytes", room, total),
        ];
        let (_, field, expected, found) = rules.into_iter().find(|(holds, ..)| !holds)?;
        Some(Stop::Chain {
            field,
            expected,
            found,
        })
    }

    /// Judges the place where the walk stopped; reads the rest of the segment.
    ///
    /// # Errors
    /// A failed read.
    pub fn judge(&mut self, stop: Stop, expected: Expected) -> io::Result<Verdict> {
        let behind = self.look_behind()?;
        let damaged = |class, rule, proof, last_lost| {
            Ok(Verdict::Damaged {
                class,
                rule,
                proof,
                last_lost,
            })
        };
        let announced = behind.last_index;
        if let Some((seq, base, first_index)) = expected.next {
            let proof = Proof::NextSegment { seq, base };
            return damaged(Class::W4, Rule::D2, proof, Some(first_index - 1));
        }
        if let Some(proof) = behind.synced.filter(|_| enabled(Rule::D3)) {
            return damaged(Class::W4, Rule::D3, proof, announced);
        }
        if let Some((what, index)) = expected.floor {
            let class = if announced.is_some() {
                Class::W4
            } else {
                Class::W2
            };
            let last_lost = Some(announced.unwrap_or(0).max(index));
            return damaged(class, Rule::D4, Proof::Floor { what, index }, last_lost);
        }
        let Some((from, to)) = behind.not_zero else {
            return Ok(Verdict::Clean);
        };
        match stop {
            Stop::Full => Ok(Verdict::Clean),
            Stop::NoHeader { zero: false } if enabled(Rule::D6) => {
                damaged(Class::W2, Rule::D6, Proof::NoHeader, announced)
            }
            Stop::NoHeader { .. } if to - self.offset > UNSYNCED_BYTES_MAX => {
                let proof = Proof::FarBytes { offset: to - 1 };
                damaged(Class::W2, Rule::D10, proof, announced)
            }
            Stop::NoHeader { .. } => Ok(Verdict::Torn { from, to }),
            Stop::Chain {
                field,
                expected,
                found,
            } => {
                let class = if field == "position" {
                    Class::W6
                } else {
                    Class::W5
                };
                damaged(
                    class,
                    Rule::D11,
                    Proof::Chain {
                        field,
                        expected,
                        found,
                    },
                    announced,
                )
            }
            Stop::Payload {
                missing_sector: true,
                ..
            } => Ok(Verdict::Torn { from, to }),
            Stop::Payload {
                expected,
                found,
                last_index,
                ..
            } if enabled(Rule::D8) => {
                let proof = Proof::PayloadCrc { expected, found };
                damaged(Class::W2, Rule::D8, proof, announced.max(Some(last_index)))
            }
            Stop::Payload { .. } => Ok(Verdict::Torn { from, to }),
        }
    }

    fn look_behind(&mut self) -> io::Result<Behind> {
        let mut behind = Behind::default();
        let here = self.position();
        let block = self.header.block as usize;
        let mut offset = self.offset;
        while offset < self.limit {
            let bytes = self.window.get(offset, block)?;
            if !is_zero(bytes) {
                let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(0) as u64;
                let last = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64;
                let from = behind.not_zero.map_or(offset + first, |(from, _)| from);
                behind.not_zero = Some((from, offset + last + 1));
                let header = BatchHeader::decode(bytes, self.salt).filter(|(header, _)| {
                    offset > self.offset && header.position == self.header.position_at(offset)
                });
                if let Some((header, _)) = header {
                    behind.last_index = behind.last_index.max(Some(header.last_index));
                    if header.synced_to > here && behind.synced.is_none() {
                        let (seq, synced_to) = (header.seq, header.synced_to);
                        behind.synced = Some(Proof::SyncedTo {
                            offset,
                            seq,
                            synced_to,
                        });
                    }
                }
            }
            offset += block as u64;
        }
        Ok(behind)
    }
}

/// What lies behind the place where a walk stopped.
#[derive(Default)]
struct Behind {
    /// A valid header that says the place had been synced.
    synced: Option<Proof>,
    /// First and one behind the last byte that is not zero, from the place itself on.
    not_zero: Option<(u64, u64)>,
    /// Highest last index of the valid headers.
    last_index: Option<u64>,
}

/// Reads both copies of a segment header: the header, and what is wrong with a bad copy.
///
/// # Errors
/// The outer one for a failed read, the inner one if no copy can be used or both disagree.
pub fn read_header<S: Source>(
    source: &mut S,
) -> io::Result<Result<(SegmentHeader, Option<BadCopy>), Proof>> {
    let first = read_copy(source, 0)?;
    let (header, bad) = match first {
        Ok(header) => match read_copy(source, u64::from(header.block))? {
            Ok(second) if second != header => return Ok(Err(Proof::HeadersDiffer)),
            Ok(_) => (header, None),
            Err(error) => {
                let offset = u64::from(header.block);
                (header, Some(BadCopy { offset, error }))
            }
        },
        Err(error) => match find_second_copy(source)? {
            Ok(header) => (header, Some(BadCopy { offset: 0, error })),
            Err(second) => {
                return Ok(Err(Proof::Headers {
                    first: error,
                    second,
                }));
            }
        },
    };
    Ok(Ok((header, bad)))
}

/// A header copy that cannot be used beside one that can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadCopy {
    /// Where it should be.
    pub offset: u64,
    /// What is wrong.
    pub error: BadHeader,
}

fn read_copy<S: Source>(source: &mut S, at: u64) -> io::Result<Result<SegmentHeader, BadHeader>> {
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    if source.bytes() < at + SEGMENT_HEADER_BYTES as u64 {
        return Ok(Err(BadHeader::Short));
    }
    source.read_at(at, &mut bytes)?;
    Ok(SegmentHeader::decode(&bytes))
}

/// The second copy lies one block into the file, and only the first would have told how long a
/// block is: every possible place is tried.
fn find_second_copy<S: Source>(source: &mut S) -> io::Result<Result<SegmentHeader, BadHeader>> {
    let mut told = BadHeader::Magic;
    let mut block = BLOCK_BYTES_MIN;
    while block <= BLOCK_BYTES_MAX {
        match read_copy(source, block.into())? {
            Ok(header) if header.block == block => return Ok(Ok(header)),
            Err(error) if !matches!(error, BadHeader::Magic | BadHeader::Short) => told = error,
            _ => {}
        }
        block *= 2;
    }
    Ok(Err(told))
}

/// A segment seen by itself, without its neighbours: what a tool shows of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentScanned {
    /// The header.
    pub header: SegmentHeader,
    /// Good batches.
    pub batches: u64,
    /// Offset behind the last good batch.
    pub end: u64,
    /// What follows there, if this were the last segment.
    pub verdict: Verdict,
}

/// Scans the bytes of one segment file, as if it were the last of its log.
///
/// # Errors
/// What is wrong with the header.
pub fn scan_segment(bytes: &[u8]) -> Result<SegmentScanned, Proof> {
    let device = |error: io::Error| Proof::Device(error.to_string());
    let mut source = bytes;
    let (header, _) = read_header(&mut source).map_err(device)??;
    if header.bytes != bytes.len() as u64 {
        return Err(Proof::Size {
            expected: header.bytes,
            found: bytes.len() as u64,
        });
    }
    let mut scan = SegmentScan::new(bytes, header, crate::source::WINDOW_BYTES);
    let mut batches = 0;
    let stop = loop {
        match scan.next_batch().map_err(device)? {
            Step::Batch(_) => batches += 1,
            Step::Stop(stop) => break stop,
        }
    };
    let verdict = scan.judge(stop, Expected::default()).map_err(device)?;
    Ok(SegmentScanned {
        end: scan.offset(),
        batches,
        verdict,
        header: scan.header,
    })
}

/// Whether a rule is in force. Tests switch single rules off to see that they would be missed.
#[cfg(not(test))]
fn enabled(_: Rule) -> bool {
    true
}

#[cfg(test)]
pub(crate) use switch::{enabled, without};

#[cfg(test)]
mod switch {
    use std::cell::Cell;

    use crate::damage::Rule;

    thread_local!(static OFF: Cell<Option<Rule>> = const { Cell::new(None) });

    pub(crate) fn enabled(rule: Rule) -> bool {
        OFF.get() != Some(rule)
    }

    /// Runs `test` on this thread without one rule.
    pub(crate) fn without<T>(rule: Rule, test: impl FnOnce() -> T) -> T {
        OFF.set(Some(rule));
        let result = test();
        OFF.set(None);
        result
    }
}
