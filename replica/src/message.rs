//! What members say to each other, and its bytes.
//!
//! One message is one frame; the transport adds length and CRC and knows who is at the other end.
//! All integers are little-endian.
//!
//! ```text
//! off size
//!   0    1  version = 1
//!   1    1  kind
//!   2    2  flags: 1 rejected, 2 by transfer, 4 membership follows
//!   4    4  entries count
//!   8    8  from
//!  16    8  to
//!  24    8  term
//!  32    8  log term
//!  40    8  index
//!  48    8  commit
//!  56    8  commit term
//!  64    8  hint
//!  72    4  context bytes
//!  76    4  bytes after the context
//!  80       context
//!           membership, if flag 4: index 8, auto-leave 1, zero 7, then four times
//!           (count 4, zero 4, ids 8 each): voters, learners, outgoing voters, next learners
//!           entries: term 8, kind 1 (0 normal, 1 conf change, 2 empty), zero 3, payload bytes 4,
//!           payload; the i-th (from 0) has log index `index + 1 + i`
//! ```
//!
//! Decoding is bounded by the frame: counts are checked against the bytes present before anything
//! is allocated, and payloads are slices of the frame. What has been decoded is also checked for
//! sense ([`Message::check`]), so raft meets no number that could overflow and no term that falls.

mod raft;
#[cfg(test)]
mod tests;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kvnode_wal::{Entry, EntryKind, Membership};

use crate::error::MessageError;
use crate::membership;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 80;
const ENTRY_HEADER_BYTES: usize = 16;
const CONTEXT_BYTES_MAX: usize = 64;
/// Indexes, terms and tickets stay far from overflow.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

const FLAG_REJECTED: u16 = 1;
const FLAG_BY_TRANSFER: u16 = 2;
const FLAG_MEMBERSHIP: u16 = 4;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Append = 1,
    AppendAnswer = 2,
    Heartbeat = 3,
    HeartbeatAnswer = 4,
    PreVote = 5,
    PreVoteAnswer = 6,
    Vote = 7,
    VoteAnswer = 8,
    /// Announces a snapshot. The sender's node must stream the state beside it; the receiver's
    /// node steps this message only when it holds the whole state, verified and staged.
    Snapshot = 9,
    /// The leader asks the receiver to campaign at once.
    TimeoutNow = 10,
    /// A batch of reads at another member asks the leader for an index.
    ReadAsk = 11,
    ReadAnswer = 12,
    /// A proposal made at another member; its payload is the one entry.
    Forward = 13,
    ForwardAnswer = 14,
}

/// One message between two members. Which fields mean something depends on the kind; the others
/// are zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: Kind,
    pub from: u64,
    pub to: u64,
    /// The sender's term (pre-votes: the term it would campaign for). 0 only in messages of our
    /// own (reads, forwards).
    pub term: u64,
    /// Append: term of the entry at `index`. Append answer, rejected: term at `hint`. Votes: term
    /// of the last entry. Snapshot: term of `index`. Forward of a conf change: the index as of which
    /// its asker knew the membership.
    pub log_term: u64,
    /// Append: the entry in front of the sent ones. Answers: how far the sender agrees. Votes: the
    /// last entry. Snapshot: the last index contained. Read answer: the index to wait for. Forward
    /// answer, rejected: why (see `proposals.rs`).
    pub index: u64,
    /// Forward: which one it is of the sender's life, from 1 on; its answer says the same.
    pub commit: u64,
    /// Forward: the term whose leader is meant.
    pub commit_term: u64,
    /// Append answer, rejected: where to try next. Forwards and their answers: the asker's ticket.
    pub hint: u64,
    pub rejected: bool,
    /// Vote request made because the old leader asked for it.
    pub by_transfer: bool,
    /// Heartbeats and reads: which batch of reads this belongs to. Forwards and their answers: the
    /// asker's incarnation.
    pub context: Bytes,
    pub membership: Option<Membership>,
    pub entries: Vec<Entry>,
}

/// Bounds for decoding; the frame's own length is bounded by the transport.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Payload bytes of one entry.
    pub entry_bytes_max: usize,
    /// Entries of one message.
    pub entries_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            entry_bytes_max: 12 << 20,
            entries_max: 1 << 17,
        }
    }
}

impl Message {
    /// A message of our own, outside raft's terms.
    pub(crate) fn new(kind: Kind, from: u64, to: u64) -> Self {
        Message {
            kind,
            from,
            to,
            term: 0,
            log_term: 0,
            index: 0,
            commit: 0,
            commit_term: 0,
            hint: 0,
            rejected: false,
            by_transfer: false,
            context: Bytes::new(),
            membership: None,
            entries: Vec::new(),
        }
    }

    /// Bytes [`encode_into`](Self::encode_into) will append.
    pub fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.context.len() + self.tail_len()
    }

    fn tail_len(&self) -> usize {
        let entries = self
            .entries
            .iter()
            .map(|e| ENTRY_HEADER_BYTES + e.payload.len())
            .sum::<usize>();
        self.membership.as_ref().map_or(0, membership_len) + entries
    }

    /// Appends the message's bytes.
    pub fn encode_into(&self, out: &mut BytesMut) {
        let tail = self.tail_len();
        out.reserve(HEADER_BYTES + self.context.len() + tail);
        let mut flags = 0;
        flags |= if self.rejected { FLAG_REJECTED } else { 0 };
        flags |= if self.by_transfer {
            FLAG_BY_TRANSFER
        } else {
            0
        };
        flags |= if self.membership.is_some() {
            FLAG_MEMBERSHIP
        } else {
            0
        };
        out.put_u8(VERSION);
        out.put_u8(self.kind as u8);
        out.put_u16_le(flags);
        out.put_u32_le(length(self.entries.len()));
        let numbers = [
            self.from,
            self.to,
            self.term,
            self.log_term,
            self.index,
            self.commit,
            self.commit_term,
            self.hint,
        ];
        for number in numbers {
            out.put_u64_le(number);
        }
        out.put_u32_le(length(self.context.len()));
        out.put_u32_le(length(tail));
        out.put_slice(&self.context);
        if let Some(membership) = &self.membership {
            put_membership(out, membership);
        }
        for entry in &self.entries {
            out.put_u64_le(entry.term);
            out.put_u8(kind_byte(entry.kind));
            out.put_bytes(0, 3);
            out.put_u32_le(length(entry.payload.len()));
            out.put_slice(&entry.payload);
        }
    }

    /// Reads one frame. Payloads keep the frame's buffer alive.
    ///
    /// # Errors
    /// [`MessageError`]; nothing larger than the frame itself has been allocated then.
    pub fn decode(mut frame: Bytes, limits: &Limits) -> Result<Self, MessageError> {
        need(&frame, HEADER_BYTES)?;
        let version = frame.get_u8();
        if version != VERSION {
            return Err(MessageError::Version {
                found: version,
                known: VERSION,
            });
        }
        let kind = kind(frame.get_u8())?;
        let flags = frame.get_u16_le();
        if flags & !(FLAG_REJECTED | FLAG_BY_TRANSFER | FLAG_MEMBERSHIP) != 0 {
            return Err(MessageError::Flags(flags));
        }
        let count = frame.get_u32_le() as usize;
        at_most("entries count", count, limits.entries_max)?;
        let mut message = Message::new(kind, frame.get_u64_le(), frame.get_u64_le());
        message.term = frame.get_u64_le();
        message.log_term = frame.get_u64_le();
        message.index = frame.get_u64_le();
        message.commit = frame.get_u64_le();
        message.commit_term = frame.get_u64_le();
        message.hint = frame.get_u64_le();
        message.rejected = flags & FLAG_REJECTED != 0;
        message.by_transfer = flags & FLAG_BY_TRANSFER != 0;
        let context = frame.get_u32_le() as usize;
        let tail = frame.get_u32_le() as usize;
        at_most("context bytes", context, CONTEXT_BYTES_MAX)?;
        need(&frame, context.saturating_add(tail))?;
        if frame.len() > context + tail {
            return Err(MessageError::Trailing(frame.len() - context - tail));
        }
        message.context = frame.split_to(context);
        if flags & FLAG_MEMBERSHIP != 0 {
            message.membership = Some(get_membership(&mut frame)?);
        }
        need(&frame, count.saturating_mul(ENTRY_HEADER_BYTES))?;
        message.entries.reserve_exact(count);
        for position in 0..count {
            let index = message.index.wrapping_add(1 + position as u64);
            message.entries.push(get_entry(&mut frame, index, limits)?);
        }
        if !frame.is_empty() {
            return Err(MessageError::Trailing(frame.len()));
        }
        message.check()?;
        Ok(message)
    }

    /// What must hold for any message of its kind before raft may see it.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), MessageError> {
        let numbers = [
            ("term", self.term),
            ("log term", self.log_term),
            ("index", self.index),
            ("commit", self.commit),
            ("commit term", self.commit_term),
        ];
        for (what, value) in numbers {
            if value >= NUMBER_MAX {
                return Err(MessageError::Number { what, value });
            }
        }
        let of_raft = !matches!(
            self.kind,
            Kind::ReadAsk | Kind::ReadAnswer | Kind::Forward | Kind::ForwardAnswer
        );
        if of_raft && self.term == 0 {
            return Err(MessageError::Number {
                what: "term",
                value: 0,
            });
        }
        for (what, value) in [("from", self.from), ("to", self.to)] {
            if value == 0 {
                return Err(MessageError::Number { what, value });
            }
        }
        if self.context.len() > CONTEXT_BYTES_MAX {
            let found = self.context.len() as u64;
            let limit = CONTEXT_BYTES_MAX as u64;
            return Err(MessageError::TooMany {
                what: "context bytes",
                found,
                limit,
            });
        }
        self.check_snapshot()?;
        self.check_entries()
    }

    fn check_snapshot(&self) -> Result<(), MessageError> {
        match (&self.membership, self.kind) {
            (None, Kind::Snapshot) => Err(MessageError::Missing("membership")),
            (Some(_), kind) if kind != Kind::Snapshot => {
                Err(MessageError::Unexpected("membership"))
            }
            (None, _) => Ok(()),
            (Some(membership), _) => {
                for (what, value) in [("index", self.index), ("log term", self.log_term)] {
                    if value == 0 {
                        return Err(MessageError::Number { what, value });
                    }
                }
                membership::check(membership).map_err(|e| MessageError::Membership(Box::new(e)))
            }
        }
    }

    fn check_entries(&self) -> Result<(), MessageError> {
        match self.kind {
            Kind::Append => {}
            Kind::Forward if self.entries.len() == 1 => {
                let kind = self.entries.first().map(|entry| entry.kind);
                return match kind {
                    Some(EntryKind::Empty) | None => {
                        Err(MessageError::Missing("an entry with a payload"))
                    }
                    Some(_) => Ok(()),
                };
            }
            Kind::Forward => return Err(MessageError::Missing("one entry")),
            _ if self.entries.is_empty() => return Ok(()),
            _ => return Err(MessageError::Unexpected("entries")),
        }
        // raft takes an index beyond the log for a match when it comes with term 0.
        if (self.index == 0) != (self.log_term == 0) {
            return Err(MessageError::Number {
                what: "log term",
                value: self.log_term,
            });
        }
        let mut before = self.log_term;
        for (position, entry) in self.entries.iter().enumerate() {
            let expected = self.index + 1 + position as u64;
            if entry.index != expected || expected >= NUMBER_MAX {
                return Err(MessageError::Number {
                    what: "entry index",
                    value: entry.index,
                });
            }
            if entry.term == 0 || entry.term < before || entry.term > self.term {
                let neighbour = if entry.term > self.term {
                    self.term
                } else {
                    before
                };
                let Entry { index, term, .. } = *entry;
                return Err(MessageError::Term {
                    index,
                    term,
                    neighbour,
                });
            }
            if (entry.kind == EntryKind::Empty) != (entry.payload.is_empty())
                && entry.kind != EntryKind::ConfChange
            {
                return Err(MessageError::EntryKind(kind_byte(entry.kind)));
            }
            before = entry.term;
        }
        Ok(())
    }
}

fn length(len: usize) -> u32 {
    u32::try_from(len).expect("messages are bounded far below 4 GiB when they are built")
}

fn need(frame: &Bytes, needed: usize) -> Result<(), MessageError> {
    let found = frame.len();
    if found < needed {
        Err(MessageError::Truncated { needed, found })
    } else {
        Ok(())
    }
}

fn at_most(what: &'static str, found: usize, limit: usize) -> Result<(), MessageError> {
    if found > limit {
        return Err(MessageError::TooMany {
            what,
            found: found as u64,
            limit: limit as u64,
        });
    }
    Ok(())
}

fn kind(byte: u8) -> Result<Kind, MessageError> {
    Ok(match byte {
        1 => Kind::Append,
        2 => Kind::AppendAnswer,
        3 => Kind::Heartbeat,
        4 => Kind::HeartbeatAnswer,
        5 => Kind::PreVote,
        6 => Kind::PreVoteAnswer,
        7 => Kind::Vote,
        8 => Kind::VoteAnswer,
        9 => Kind::Snapshot,
        10 => Kind::TimeoutNow,
        11 => Kind::ReadAsk,
        12 => Kind::ReadAnswer,
        13 => Kind::Forward,
        14 => Kind::ForwardAnswer,
        _ => return Err(MessageError::Kind(byte)),
    })
}

fn kind_byte(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::Normal => 0,
        EntryKind::ConfChange => 1,
        EntryKind::Empty => 2,
    }
}

fn get_entry(frame: &mut Bytes, index: u64, limits: &Limits) -> Result<Entry, MessageError> {
    need(frame, ENTRY_HEADER_BYTES)?;
    let term = frame.get_u64_le();
    let kind = match frame.get_u8() {
        0 => EntryKind::Normal,
        1 => EntryKind::ConfChange,
        2 => EntryKind::Empty,
        other => return Err(MessageError::EntryKind(other)),
    };
    if frame.get_uint_le(3) != 0 {
        return Err(MessageError::NotZero("entry padding"));
    }
    let bytes = frame.get_u32_le() as usize;
    at_most("entry bytes", bytes, limits.entry_bytes_max)?;
    need(frame, bytes)?;
    Ok(Entry {
        index,
        term,
        kind,
        payload: frame.split_to(bytes),
    })
}

fn lists(membership: &Membership) -> [&Vec<u64>; 4] {
    let Membership {
        voters,
        learners,
        voters_outgoing,
        learners_next,
        ..
    } = membership;
    [voters, learners, voters_outgoing, learners_next]
}

fn membership_len(membership: &Membership) -> usize {
    16 + lists(membership)
        .iter()
        .map(|list| 8 + 8 * list.len())
        .sum::<usize>()
}

fn put_membership(out: &mut BytesMut, membership: &Membership) {
    out.put_u64_le(membership.index);
    out.put_u8(membership.auto_leave.into());
    out.put_bytes(0, 7);
    for list in lists(membership) {
        out.put_u32_le(length(list.len()));
        out.put_u32_le(0);
        for &member in list {
            out.put_u64_le(member);
        }
    }
}

fn get_membership(frame: &mut Bytes) -> Result<Membership, MessageError> {
    need(frame, 16)?;
    let index = frame.get_u64_le();
    let auto_leave = match frame.get_u8() {
        0 => false,
        1 => true,
        _ => return Err(MessageError::NotZero("auto-leave beyond 1")),
    };
    if frame.get_uint_le(7) != 0 {
        return Err(MessageError::NotZero("membership padding"));
    }
    let mut list = || {
        need(frame, 8)?;
        let count = frame.get_u32_le() as usize;
        if frame.get_u32_le() != 0 {
            return Err(MessageError::NotZero("membership padding"));
        }
        at_most("members", count, membership::MEMBERS_MAX)?;
        need(frame, 8 * count)?;
        Ok((0..count).map(|_| frame.get_u64_le()).collect())
    };
    Ok(Membership {
        voters: list()?,
        learners: list()?,
        voters_outgoing: list()?,
        learners_next: list()?,
        index,
        auto_leave,
    })
}
