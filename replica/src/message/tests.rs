//! The codec against itself, against damage and against nonsense.

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
    assert_eq!(
        refused,
        Err(MessageError::Truncated {
            needed: 1_600_000,
            found: 55
        })
    );
    frame[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        decode(&Bytes::from(frame)),
        Err(MessageError::TooMany { .. })
    ));
    let mut frame = bytes(&append()).to_vec();
    frame[92..96].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        decode(&Bytes::from(frame)),
        Err(MessageError::TooMany { .. })
    ));
    let mut frame = bytes(&snapshot()).to_vec();
    frame[96..100].copy_from_slice(&999u32.to_le_bytes());
    assert!(matches!(
        decode(&Bytes::from(frame)),
        Err(MessageError::Truncated { .. })
    ));
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
        (append(), |m| {
            m.entries[1].payload = Bytes::from_static(b"x")
        }),
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
