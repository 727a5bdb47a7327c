//! Records: what a batch carries. Encoding goes straight into the batch buffer (a payload is copied
//! once); decoding never trusts a length or a kind that the bytes announce.

use bytes::{BufMut, Bytes};

use crate::membership::Membership;
use crate::{ENTRY_HEAD_BYTES, RECORD_ALIGN, RECORD_HEADER_BYTES, round_up};

/// What an entry holds; the log treats all alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A command for the store.
    Normal,
    /// A change of the membership.
    ConfChange,
    /// Nothing: what a new leader appends first.
    Empty,
}

/// A slot of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Place in the log, from 1.
    pub index: u64,
    /// Term of the leader that made it.
    pub term: u64,
    /// See [`EntryKind`].
    pub kind: EntryKind,
    /// Opaque bytes, at most [`crate::ENTRY_BYTES_MAX`].
    pub payload: Bytes,
}

/// What must be durable before a member answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Current term; never falls.
    pub term: u64,
    /// Member voted for in this term, 0 for none.
    pub vote: u64,
    /// Highest index known to be committed; may lag.
    pub commit: u64,
}

/// Where a snapshot came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Taken here; the log keeps its entries.
    Local,
    /// Received from a peer; the log restarts behind it.
    Installed,
}

/// A snapshot that exists and is synced elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotMark {
    /// Last index contained.
    pub index: u64,
    /// Term of that index.
    pub term: u64,
    /// Name of the snapshot, chosen by the caller.
    pub id: [u8; 16],
    /// See [`Origin`].
    pub origin: Origin,
}

/// The last record of a full segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Last index of the log.
    pub last_index: u64,
    /// Batches in the segment, the sealing one included.
    pub batches: u64,
    /// ENTRY records in the segment.
    pub entries: u64,
    /// Position of the FOOTER record, 0 if there is none.
    pub footer: u64,
}

/// Why bytes are not a record. Static text: it goes into a [`crate::Damage`], which has the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// A decoded record; borrows the payload it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// An entry's head and where its payload lies.
    Entry {
        /// Place in the log.
        index: u64,
        /// Leader's term.
        term: u64,
        /// See [`EntryKind`].
        kind: EntryKind,
        /// The entry's bytes.
        payload: &'a [u8],
    },
    /// Term, vote, commit.
    HardState(HardState),
    /// A snapshot and the membership in it.
    Snapshot(SnapshotMark, Membership),
    /// The membership as of its index.
    Membership(Membership),
    /// End of a full segment.
    Seal(Seal),
    /// Body of the offset index, see [`crate::index`].
    Footer(&'a [u8]),
    /// What a tool did.
    Note {
        /// Unix milliseconds.
        unix_ms: u64,
        /// Name and version of the tool.
        program: &'a [u8],
        /// What it did.
        text: &'a [u8],
    },
    /// A kind of a later version that may be skipped.
    Skipped(u8),
}

const KIND_ENTRY: u8 = 1;
const KIND_HARD_STATE: u8 = 2;
const KIND_SNAPSHOT: u8 = 3;
const KIND_MEMBERSHIP: u8 = 4;
const KIND_SEAL: u8 = 5;
const KIND_FOOTER: u8 = 6;
const KIND_NOTE: u8 = 7;
/// Unknown kinds from here on may be skipped.
const KIND_OPTIONAL: u8 = 128;

/// Bytes that an entry with such a payload takes in a batch, header and padding included.
pub const fn entry_record_bytes(payload_bytes: usize) -> usize {
    record_bytes(ENTRY_HEAD_BYTES + payload_bytes)
}

/// Bytes that a record with such a body takes in a batch.
pub const fn record_bytes(body_bytes: usize) -> usize {
    round_up(RECORD_HEADER_BYTES + body_bytes, RECORD_ALIGN)
}

/// Bytes of a HARD STATE record.
pub const HARD_STATE_RECORD_BYTES: usize = record_bytes(24);
/// Bytes of a SEAL record.
pub const SEAL_RECORD_BYTES: usize = record_bytes(32);

/// Writes an ENTRY record.
pub(crate) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    let mut head = [0u8; ENTRY_HEAD_BYTES];
    let mut fields = head.as_mut_slice();
    fields.put_u64_le(entry.index);
    fields.put_u64_le(entry.term);
    fields.put_u8(match entry.kind {
        EntryKind::Normal => 0,
        EntryKind::ConfChange => 1,
        EntryKind::Empty => 2,
    });
    put_record(out, KIND_ENTRY, &head, &entry.payload);
}

/// Writes a HARD STATE record.
pub(crate) fn put_hard_state(out: &mut Vec<u8>, state: &HardState) {
    let mut body = [0u8; 24];
    let mut fields = body.as_mut_slice();
    fields.put_u64_le(state.term);
    fields.put_u64_le(state.vote);
    fields.put_u64_le(state.commit);
    put_record(out, KIND_HARD_STATE, &body, &[]);
}

/// Writes a SNAPSHOT record.
pub(crate) fn put_snapshot(out: &mut Vec<u8>, mark: &SnapshotMark, membership: &Membership) {
    let mut body = Vec::with_capacity(snapshot_body_bytes(membership));
    body.put_u64_le(mark.index);
    body.put_u64_le(mark.term);
    body.put_slice(&mark.id);
    body.put_u8(match mark.origin {
        Origin::Local => 0,
        Origin::Installed => 1,
    });
    membership.encode(&mut body);
    put_record(out, KIND_SNAPSHOT, &body, &[]);
}

/// Bytes of a SNAPSHOT body.
pub(crate) fn snapshot_body_bytes(membership: &Membership) -> usize {
    33 + membership.encoded_bytes()
}

/// Writes a MEMBERSHIP record.
pub(crate) fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    let mut body = Vec::with_capacity(membership.encoded_bytes());
    membership.encode(&mut body);
    put_record(out, KIND_MEMBERSHIP, &body, &[]);
}

/// Writes a SEAL record.
pub(crate) fn put_seal(out: &mut Vec<u8>, seal: &Seal) {
    let mut body = [0u8; 32];
    let mut fields = body.as_mut_slice();
    fields.put_u64_le(seal.last_index);
    fields.put_u64_le(seal.batches);
    fields.put_u64_le(seal.entries);
    fields.put_u64_le(seal.footer);
    put_record(out, KIND_SEAL, &body, &[]);
}

/// Writes a FOOTER record.
pub(crate) fn put_footer(out: &mut Vec<u8>, body: &[u8]) {
    put_record(out, KIND_FOOTER, body, &[]);
}

/// Writes a NOTE record. `program` is cut at 64 bytes, `text` at 4096.
pub(crate) fn put_note(out: &mut Vec<u8>, unix_ms: u64, program: &str, text: &str) {
    let program = &program.as_bytes()[..program.len().min(64)];
    let text = &text.as_bytes()[..text.len().min(4096)];
    let mut head = Vec::with_capacity(10 + program.len());
    head.put_u64_le(unix_ms);
    head.put_u16_le(u16::try_from(program.len()).expect("cut at 64"));
    head.put_slice(program);
    put_record(out, KIND_NOTE, &head, text);
}

/// One record whose body is `head` then `tail`; two parts so that a payload is copied only once.
fn put_record(out: &mut Vec<u8>, kind: u8, head: &[u8], tail: &[u8]) {
    let body_bytes = u32::try_from(head.len() + tail.len()).expect("bodies are below 16 MiB");
    let mut header = [0u8; RECORD_HEADER_BYTES];
    header[0] = kind;
    header[4..8].copy_from_slice(&body_bytes.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..8]);
    crc.update(head);
    crc.update(tail);
    header[8..12].copy_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(head);
    out.extend_from_slice(tail);
    let aligned = round_up(head.len() + tail.len(), RECORD_ALIGN);
    out.resize(out.len() + aligned - head.len() - tail.len(), 0);
}

/// Walks the records of one payload. Ends at the first malformed one, which it returns once.
pub struct Records<'a> {
    payload: &'a [u8],
    offset: usize,
    dead: bool,
}

impl<'a> Records<'a> {
    /// Over the payload of a batch whose payload CRC was checked.
    pub fn new(payload: &'a [u8]) -> Self {
        Self {
            payload,
            offset: 0,
            dead: false,
        }
    }

    /// Offset in the payload of the record that comes next.
    pub fn offset(&self) -> usize {
        self.offset
    }

    fn step(&mut self) -> Result<Record<'a>, Malformed> {
        let rest = &self.payload[self.offset..];
        let (header, behind) = rest
            .split_first_chunk::<RECORD_HEADER_BYTES>()
            .ok_or(Malformed("less than a record header is left in the batch"))?;
        let [
            kind,
            flags,
            z0,
            z1,
            b0,
            b1,
            b2,
            b3,
            c0,
            c1,
            c2,
            c3,
            z2,
            z3,
            z4,
            z5,
        ] = *header;
        if flags != 0 || [z0, z1, z2, z3, z4, z5] != [0; 6] {
            return Err(Malformed("a reserved field of a record header is not zero"));
        }
        let body_bytes = usize::try_from(u32::from_le_bytes([b0, b1, b2, b3]))
            .map_err(|_| Malformed("record length"))?;
        let body = behind
            .get(..body_bytes)
            .ok_or(Malformed("a record is longer than its batch"))?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header[..8]);
        crc.update(body);
        if crc.finalize() != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(Malformed("CRC of a record"));
        }
        let next = self.offset + record_bytes(body_bytes);
        if next > self.payload.len() {
            return Err(Malformed("a record's padding is longer than its batch"));
        }
        self.offset = next;
        decode(kind, body)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.dead || self.offset == self.payload.len() {
            return None;
        }
        let record = self.step();
        self.dead = record.is_err();
        Some(record)
    }
}

fn decode(kind: u8, body: &[u8]) -> Result<Record<'_>, Malformed> {
    let mut from = Fields(body);
    let record = match kind {
        KIND_ENTRY => {
            let (index, term) = (from.u64()?, from.u64()?);
            let kind = match from.u8()? {
                0 => EntryKind::Normal,
                1 => EntryKind::ConfChange,
                2 => EntryKind::Empty,
                _ => return Err(Malformed("unknown type of entry")),
            };
            if from.take(7)? != [0; 7] {
                return Err(Malformed("a reserved field of an entry is not zero"));
            }
            Record::Entry {
                index,
                term,
                kind,
                payload: from.rest(),
            }
        }
        KIND_HARD_STATE => Record::HardState(HardState {
            term: from.u64()?,
            vote: from.u64()?,
            commit: from.u64()?,
        }),
        KIND_SNAPSHOT => {
            let (index, term) = (from.u64()?, from.u64()?);
            let id = from.array::<16>()?;
            let origin = match from.u8()? {
                0 => Origin::Local,
                1 => Origin::Installed,
                _ => return Err(Malformed("unknown origin of a snapshot")),
            };
            let mark = SnapshotMark {
                index,
                term,
                id,
                origin,
            };
            Record::Snapshot(mark, Membership::decode(&mut from)?)
        }
        KIND_MEMBERSHIP => Record::Membership(Membership::decode(&mut from)?),
        KIND_SEAL => Record::Seal(Seal {
            last_index: from.u64()?,
            batches: from.u64()?,
            entries: from.u64()?,
            footer: from.u64()?,
        }),
        KIND_FOOTER => Record::Footer(from.rest()),
        KIND_NOTE => {
            let unix_ms = from.u64()?;
            let program_bytes = usize::from(u16::from_le_bytes(from.array::<2>()?));
            let program = from.take(program_bytes)?;
            Record::Note {
                unix_ms,
                program,
                text: from.rest(),
            }
        }
        KIND_OPTIONAL.. => {
            from.rest();
            Record::Skipped(kind)
        }
        _ => return Err(Malformed("unknown kind of record that may not be skipped")),
    };
    match from.0.is_empty() {
        true => Ok(record),
        false => Err(Malformed("a record is longer than its kind")),
    }
}

/// A cursor over a record's body.
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(Malformed("a record is shorter than its kind"))?;
        self.0 = rest;
        Ok(*array)
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .0
            .split_at_checked(bytes)
            .ok_or(Malformed("a record is shorter than its kind"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> Membership {
        Membership {
            index: 9,
            voters: vec![1, 2, 3],
            learners: vec![4],
            voters_outgoing: vec![1, 2],
            learners_next: vec![],
            auto_leave: true,
        }
    }

    #[test]
    fn every_kind_of_record_reads_back_as_written() {
        let mut out = Vec::new();
        let entry = Entry {
            index: 5,
            term: 2,
            kind: EntryKind::ConfChange,
            payload: Bytes::from_static(b"abc"),
        };
        let hard = HardState {
            term: 2,
            vote: 1,
            commit: 4,
        };
        let mark = SnapshotMark {
            index: 3,
            term: 1,
            id: [7; 16],
            origin: Origin::Installed,
        };
        let seal = Seal {
            last_index: 5,
            batches: 2,
            entries: 1,
            footer: 99,
        };
        put_entry(&mut out, &entry);
        assert_eq!(out.len(), entry_record_bytes(3));
        put_hard_state(&mut out, &hard);
        put_snapshot(&mut out, &mark, &membership());
        put_membership(&mut out, &membership());
        put_footer(&mut out, &[1; 16]);
        put_note(&mut out, 77, "tool 1", "did it");
        put_seal(&mut out, &seal);
        put_record(&mut out, 200, b"later", b"");
        let read: Vec<_> = Records::new(&out).map(|record| record.unwrap()).collect();
        assert_eq!(
            read,
            vec![
                Record::Entry {
                    index: 5,
                    term: 2,
                    kind: EntryKind::ConfChange,
                    payload: b"abc"
                },
                Record::HardState(hard),
                Record::Snapshot(mark, membership()),
                Record::Membership(membership()),
                Record::Footer(&[1; 16]),
                Record::Note {
                    unix_ms: 77,
                    program: b"tool 1",
                    text: b"did it"
                },
                Record::Seal(seal),
                Record::Skipped(200),
            ]
        );
    }

    #[test]
    fn an_unknown_kind_below_128_is_refused() {
        let mut out = Vec::new();
        put_record(&mut out, 9, b"x", b"");
        assert!(Records::new(&out).next().unwrap().is_err());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_record_is_noticed() {
        let mut out = Vec::new();
        put_snapshot(
            &mut out,
            &SnapshotMark {
                index: 3,
                term: 1,
                id: [7; 16],
                origin: Origin::Local,
            },
            &membership(),
        );
        let body_end = RECORD_HEADER_BYTES + snapshot_body_bytes(&membership());
        for bit in 0..body_end * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Records::new(&bad).next().unwrap().is_err(), "bit {bit}");
        }
        for cut in 1..out.len() {
            assert!(
                Records::new(&out[..cut]).next().unwrap().is_err(),
                "cut {cut}"
            );
        }
    }
}
