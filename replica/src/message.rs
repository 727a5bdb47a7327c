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

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kvnode_wal::{Entry, EntryKind, Membership};
use raft::eraftpb::{self, MessageType};

use crate::error::MessageError;
use crate::log::{self, SnapshotOffer};
use crate::membership;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 80;
const ENTRY_HEADER_BYTES: usize = 16;
const CONTEXT_BYTES_MAX: usize = 64;
/// Indexes, terms and tickets stay far from overflow.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;
/// The context raft puts into a vote request that comes from a leadership transfer.
const BY_TRANSFER: &[u8] = b"CampaignTransfer";

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
    /// of the last entry. Snapshot: term of `index`.
    pub log_term: u64,
    /// Append: the entry in front of the sent ones. Answers: how far the sender agrees. Votes: the
    /// last entry. Snapshot: the last index contained. Read answer: the index to wait for. Forward
    /// answer, rejected: why (see `proposals.rs`).
    pub index: u64,
    pub commit: u64,
    pub commit_term: u64,
    /// Append answer, rejected: where to try next. Forwards and their answers: the asker's ticket.
    pub hint: u64,
    pub rejected: bool,
    /// Vote request made because the old leader asked for it.
    pub by_transfer: bool,
    /// Heartbeats and reads: which batch of reads this belongs to.
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
        Limits { entry_bytes_max: 12 << 20, entries_max: 1 << 17 }
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
        let entries = self.entries.iter().map(|e| ENTRY_HEADER_BYTES + e.payload.len()).sum::<usize>();
        self.membership.as_ref().map_or(0, membership_len) + entries
    }

    /// Appends the message's bytes.
    pub fn encode_into(&self, out: &mut BytesMut) {
        let tail = self.tail_len();
        out.reserve(HEADER_BYTES + self.context.len() + tail);
        let mut flags = 0;
        flags |= if self.rejected { FLAG_REJECTED } else { 0 };
        flags |= if self.by_transfer { FLAG_BY_TRANSFER } else { 0 };
        flags |= if self.membership.is_some() { FLAG_MEMBERSHIP } else { 0 };
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
            return Err(MessageError::Version { found: version, known: VERSION });
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
            return Err(MessageError::Number { what: "term", value: 0 });
        }
        for (what, value) in [("from", self.from), ("to", self.to)] {
            if value == 0 {
                return Err(MessageError::Number { what, value });
            }
        }
        if self.context.len() > CONTEXT_BYTES_MAX {
            let found = self.context.len() as u64;
            let limit = CONTEXT_BYTES_MAX as u64;
            return Err(MessageError::TooMany { what: "context bytes", found, limit });
        }
        self.check_snapshot()?;
        self.check_entries()
    }

    fn check_snapshot(&self) -> Result<(), MessageError> {
        match (&self.membership, self.kind) {
            (None, Kind::Snapshot) => Err(MessageError::Missing("membership")),
            (Some(_), kind) if kind != Kind::Snapshot => Err(MessageError::Unexpected("membership")),
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
                let normal = kind == Some(EntryKind::Normal);
                return if normal { Ok(()) } else { Err(MessageError::Missing("a normal entry")) };
            }
            Kind::Forward => return Err(MessageError::Missing("one entry")),
            _ if self.entries.is_empty() => return Ok(()),
            _ => return Err(MessageError::Unexpected("entries")),
        }
        // raft takes an index beyond the log for a match when it comes with term 0.
        if (self.index == 0) != (self.log_term == 0) {
            return Err(MessageError::Number { what: "log term", value: self.log_term });
        }
        let mut before = self.log_term;
        for (position, entry) in self.entries.iter().enumerate() {
            let expected = self.index + 1 + position as u64;
            if entry.index != expected || expected >= NUMBER_MAX {
                return Err(MessageError::Number { what: "entry index", value: entry.index });
            }
            if entry.term == 0 || entry.term < before || entry.term > self.term {
                let neighbour = if entry.term > self.term { self.term } else { before };
                let Entry { index, term, .. } = *entry;
                return Err(MessageError::Term { index, term, neighbour });
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

    /// `None` for what this crate never makes raft say.
    pub(crate) fn from_raft(mut from: eraftpb::Message) -> Option<Self> {
        let kind = match from.get_msg_type() {
            MessageType::MsgAppend => Kind::Append,
            MessageType::MsgAppendResponse => Kind::AppendAnswer,
            MessageType::MsgHeartbeat => Kind::Heartbeat,
            MessageType::MsgHeartbeatResponse => Kind::HeartbeatAnswer,
            MessageType::MsgRequestPreVote => Kind::PreVote,
            MessageType::MsgRequestPreVoteResponse => Kind::PreVoteAnswer,
            MessageType::MsgRequestVote => Kind::Vote,
            MessageType::MsgRequestVoteResponse => Kind::VoteAnswer,
            MessageType::MsgSnapshot => Kind::Snapshot,
            MessageType::MsgTimeoutNow => Kind::TimeoutNow,
            _ => return None,
        };
        let mut to = Message::new(kind, from.from, from.to);
        to.term = from.term;
        to.log_term = from.log_term;
        to.index = from.index;
        to.commit = from.commit;
        to.commit_term = from.commit_term;
        to.hint = from.reject_hint;
        to.rejected = from.reject;
        if matches!(kind, Kind::Vote | Kind::PreVote) {
            to.by_transfer = from.context == BY_TRANSFER;
        } else {
            to.context = from.take_context();
        }
        if kind == Kind::Snapshot {
            let metadata = from.mut_snapshot().mut_metadata();
            to.index = metadata.index;
            to.log_term = metadata.term;
            to.membership = Some(membership::from_raft(metadata.take_conf_state(), metadata.index));
        }
        to.entries = from.take_entries().into_iter().map(log::from_raft).collect();
        Some(to)
    }

    /// `None` for messages of our own.
    pub(crate) fn into_raft(self) -> Option<eraftpb::Message> {
        let kind = match self.kind {
            Kind::Append => MessageType::MsgAppend,
            Kind::AppendAnswer => MessageType::MsgAppendResponse,
            Kind::Heartbeat => MessageType::MsgHeartbeat,
            Kind::HeartbeatAnswer => MessageType::MsgHeartbeatResponse,
            Kind::PreVote => MessageType::MsgRequestPreVote,
            Kind::PreVoteAnswer => MessageType::MsgRequestPreVoteResponse,
            Kind::Vote => MessageType::MsgRequestVote,
            Kind::VoteAnswer => MessageType::MsgRequestVoteResponse,
            Kind::Snapshot => MessageType::MsgSnapshot,
            Kind::TimeoutNow => MessageType::MsgTimeoutNow,
            Kind::ReadAsk | Kind::ReadAnswer | Kind::Forward | Kind::ForwardAnswer => return None,
        };
        let mut to = eraftpb::Message::default();
        to.set_msg_type(kind);
        to.from = self.from;
        to.to = self.to;
        to.term = self.term;
        to.log_term = self.log_term;
        to.index = self.index;
        to.commit = self.commit;
        to.commit_term = self.commit_term;
        to.reject_hint = self.hint;
        to.reject = self.rejected;
        to.context = match self.kind {
            Kind::Vote | Kind::PreVote if self.by_transfer => Bytes::from_static(BY_TRANSFER),
            Kind::Vote | Kind::PreVote => Bytes::new(),
            _ => self.context,
        };
        if let Some(membership) = self.membership {
            let offer = SnapshotOffer { index: self.index, term: self.log_term, membership };
            to.set_snapshot(log::snapshot_to_raft(&offer));
        }
        to.set_entries(self.entries.into_iter().map(log::to_raft).collect());
        Some(to)
    }
}

fn length(len: usize) -> u32 {
    u32::try_from(len).expect("messages are bounded far below 4 GiB when they are built")
}

fn need(frame: &Bytes, needed: usize) -> Result<(), MessageError> {
    let found = frame.len();
    if found < needed { Err(MessageError::Truncated { needed, found }) } else { Ok(()) }
}

fn at_most(what: &'static str, found: usize, limit: usize) -> Result<(), MessageError> {
    if found > limit {
        return Err(MessageError::TooMany { what, found: found as u64, limit: limit as u64 });
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
    Ok(Entry { index, term, kind, payload: frame.split_to(bytes) })
}

fn lists(membership: &Membership) -> [&Vec<u64>; 4] {
    let Membership { voters, learners, voters_outgoing, learners_next, .. } = membership;
    [voters, learners, voters_outgoing, learners_next]
}

fn membership_len(membership: &Membership) -> usize {
    16 + lists(membership).iter().map(|list| 8 + 8 * list.len()).sum::<usize>()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn append() -> Message {
        let mut message = Message::new(Kind::Append, 1, 2);
        message.term = 7;
        message.log_term = 4;
        message.index = 10;
        message.commit = 9;
        let entry = |index, term, kind, payload: &'static [u8]| Entry {
            index,
            term,
            kind,
            payload: Bytes::from_static(payload),
        };
        message.entries = vec![
            entry(11, 4, EntryKind::Normal, b"one"),
            entry(12, 7, EntryKind::Empty, b""),
            entry(13, 7, EntryKind::ConfChange, &[0x12, 2, 0x10, 3]),
        ];
        message
    }

    fn snapshot() -> Message {
        let mut message = Message::new(Kind::Snapshot, 1, 2);
        message.term = 7;
        message.index = 10;
        message.log_term = 6;
        message.membership = Some(Membership {
            index: 10,
            voters: vec![1, 3],
            learners: vec![2],
            voters_outgoing: vec![1, 4],
            learners_next: vec![4],
            auto_leave: true,
        });
        message
    }

    fn bytes(message: &Message) -> Bytes {
        let mut out = BytesMut::new();
        message.encode_into(&mut out);
        assert_eq!(out.len(), message.encoded_len());
        out.freeze()
    }

    fn decode(frame: &Bytes) -> Result<Message, MessageError> {
        Message::decode(frame.clone(), &Limits::default())
    }

    const KINDS: [Kind; 14] = [
        Kind::Append,
        Kind::AppendAnswer,
        Kind::Heartbeat,
        Kind::HeartbeatAnswer,
        Kind::PreVote,
        Kind::PreVoteAnswer,
        Kind::Vote,
        Kind::VoteAnswer,
        Kind::Snapshot,
        Kind::TimeoutNow,
        Kind::ReadAsk,
        Kind::ReadAnswer,
        Kind::Forward,
        Kind::ForwardAnswer,
    ];

    prop_compose! {
        fn any_message()(
            kind in 0usize..14,
            ids in (1..u64::MAX, 1..u64::MAX),
            term in 1..NUMBER_MAX,
            numbers in prop::array::uniform4(0..NUMBER_MAX - 100),
            hint: u64,
            flags: (bool, bool),
            context in prop::collection::vec(any::<u8>(), 0..=CONTEXT_BYTES_MAX),
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..99), 0..9),
        ) -> Message {
            let kind = KINDS[kind];
            let mut message = Message::new(kind, ids.0, ids.1);
            message.term = term;
            [message.log_term, message.index, message.commit, message.commit_term] = numbers;
            message.hint = hint;
            (message.rejected, message.by_transfer) = flags;
            message.context = context.into();
            match kind {
                Kind::Snapshot => {
                    message.log_term = message.log_term.max(1);
                    message.index = message.index.max(1);
                    message.membership = snapshot().membership;
                }
                Kind::Append | Kind::Forward => {
                    message.index = message.index.max(1);
                    message.log_term = message.log_term.clamp(1, term);
                    let count = if kind == Kind::Forward { 1 } else { payloads.len() };
                    let mut payloads = payloads;
                    payloads.push(vec![1]);
                    for (payload, index) in payloads.into_iter().take(count).zip(message.index + 1..) {
                        let kind = EntryKind::Normal;
                        message.entries.push(Entry { index, term, kind, payload: payload.into() });
                    }
                }
                _ => {}
            }
            message
        }
    }

    proptest! {
        #[test]
        fn every_message_reads_back(message in any_message()) {
            prop_assert_eq!(decode(&bytes(&message)), Ok(message));
        }

        #[test]
        fn no_truncation_is_read(message in any_message(), cut in 0.0..1.0) {
            let whole = bytes(&message);
            let part = whole.slice(..(whole.len() as f64 * cut) as usize);
            prop_assert!(decode(&part).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&Bytes::from(noise));
        }

        /// Damage that keeps the shape gets further into the decoder than noise.
        #[test]
        fn damaged_messages_are_read_or_refused(
            message in any_message(), at: usize, to: u8, at_too: usize, to_too: u8,
        ) {
            let mut damaged = bytes(&message).to_vec();
            let len = damaged.len();
            damaged[at % len] = to;
            damaged[at_too % len.min(HEADER_BYTES)] = to_too;
            if let Ok(read) = decode(&Bytes::from(damaged.clone())) {
                prop_assert_eq!(&bytes(&read)[..], &damaged[..]);
                let _ = read.into_raft();
            }
        }

        #[test]
        fn what_raft_says_survives_the_wire_and_the_way_back(message in any_message()) {
            if message.term == 0 { return Ok(()); }
            if let Some(theirs) = message.clone().into_raft() {
                let back = Message::from_raft(theirs.clone()).expect("a kind of raft's");
                prop_assert_eq!(back.clone().into_raft(), Some(theirs));
                prop_assert_eq!(back.entries, message.entries);
                prop_assert_eq!(
                    (back.term, back.log_term, back.index, back.commit, back.hint, back.rejected),
                    (message.term, message.log_term, message.index, message.commit, message.hint,
                     message.rejected)
                );
            }
        }
    }

    #[test]
    fn the_layout_is_the_one_described() {
        let whole = bytes(&append());
        assert_eq!(whole.len(), 80 + 3 * 16 + 3 + 4);
        assert_eq!(whole[..8], [1, 1, 0, 0, 3, 0, 0, 0]);
        assert_eq!(whole[24..32], 7u64.to_le_bytes());
        assert_eq!(whole[40..48], 10u64.to_le_bytes());
        assert_eq!(whole[80..99], *b"\x04\0\0\0\0\0\0\0\0\0\0\0\x03\0\0\0one");
        assert_eq!(bytes(&snapshot()).len(), 80 + 16 + 4 * 8 + 6 * 8);
    }

    #[test]
    fn payloads_are_slices_of_the_frame() {
        let frame = bytes(&append());
        let message = decode(&frame).unwrap();
        assert_eq!(message.entries[0].payload.as_ptr(), frame[96..].as_ptr());
    }

    #[test]
    fn counts_beyond_the_frame_allocate_nothing() {
        let mut frame = bytes(&append()).to_vec();
        frame[4..8].copy_from_slice(&100_000u32.to_le_bytes());
        let refused = decode(&Bytes::from(frame.clone()));
        assert_eq!(refused, Err(MessageError::Truncated { needed: 1_600_000, found: 55 }));
        frame[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(decode(&Bytes::from(frame)), Err(MessageError::TooMany { .. })));
        let mut frame = bytes(&append()).to_vec();
        frame[92..96].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(decode(&Bytes::from(frame)), Err(MessageError::TooMany { .. })));
        let mut frame = bytes(&snapshot()).to_vec();
        frame[96..100].copy_from_slice(&999u32.to_le_bytes());
        assert!(matches!(decode(&Bytes::from(frame)), Err(MessageError::Truncated { .. })));
    }

    #[test]
    fn messages_without_sense_are_refused() {
        type Spoil = fn(&mut Message);
        let spoilt: [(Message, Spoil); 16] = [
            (append(), |m| m.term = 0),
            (append(), |m| m.term = 6),
            (append(), |m| m.log_term = 5),
            (append(), |m| m.entries[1].index = 14),
            (append(), |m| m.entries[2].term = 6),
            (append(), |m| m.entries[0].payload = Bytes::new()),
            (append(), |m| m.entries[1].payload = Bytes::from_static(b"x")),
            (append(), |m| m.index = u64::MAX),
            (append(), |m| m.kind = Kind::Heartbeat),
            (append(), |m| m.from = 0),
            (append(), |m| m.log_term = 0),
            (append(), |m| {
                m.entries.clear();
                m.index = 0;
            }),
            (snapshot(), |m| m.kind = Kind::Vote),
            (snapshot(), |m| m.membership = None),
            (snapshot(), |m| m.membership = Some(Membership::default())),
            (snapshot(), |m| m.index = 0),
        ];
        for (case, (mut message, spoil)) in spoilt.into_iter().enumerate() {
            assert_eq!(message.check(), Ok(()), "case {case} before");
            spoil(&mut message);
            assert!(message.check().is_err(), "case {case}");
        }
    }
}
