//! The entry that changes who votes and who learns.
//!
//! A change travels as the payload of a conf change entry in the protobuf form raft itself reads
//! when the entry is proposed. It is written and read by the small codec below, in canonical form
//! only (fields in order, no defaults, no unknown fields), so that no general protobuf decoder sees
//! bytes that came over the network:
//!
//! ```text
//! 1 varint  transition   0 automatic, 1 joint and leave by itself, 2 joint until told to leave
//! 2 bytes   step         1 varint type (0 voter, 1 remove, 2 learner), 2 varint member id; repeated
//! 3 bytes   context      the store's own record of the change
//! ```
//!
//! No step and transition 0 (also the empty payload raft writes itself) means: leave the joint
//! configuration.

use bytes::Bytes;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};

use crate::error::Refused;

/// Steps in one change; far above any sane cluster, small enough to bound what decoding allocates.
const STEPS_MAX: usize = 64;

/// A change of the membership, as one entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfChange {
    pub transition: Transition,
    /// In order; a single step with [`Transition::Auto`] is done without a joint configuration.
    pub steps: Vec<Step>,
    /// Carried along for the store (names, addresses); raft does not look at it.
    pub context: Bytes,
}

/// How a change with more than one step is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transition {
    /// One step: at once. More: joint consensus, left automatically.
    #[default]
    Auto,
    /// Joint consensus, left automatically as soon as the joint configuration is applied.
    Joint,
    /// Joint consensus until [`ConfChange::leave`] is proposed.
    JointExplicit,
}

/// One step of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Adds a voter, or promotes a learner.
    Voter(u64),
    /// Adds a learner, or demotes a voter.
    Learner(u64),
    /// Removes a voter or learner.
    Remove(u64),
}

impl ConfChange {
    pub fn voter(member: u64) -> Self {
        ConfChange {
            steps: vec![Step::Voter(member)],
            ..Self::default()
        }
    }

    pub fn learner(member: u64) -> Self {
        ConfChange {
            steps: vec![Step::Learner(member)],
            ..Self::default()
        }
    }

    pub fn remove(member: u64) -> Self {
        ConfChange {
            steps: vec![Step::Remove(member)],
            ..Self::default()
        }
    }

    /// Leaves a joint configuration entered with [`Transition::JointExplicit`].
    pub fn leave() -> Self {
        ConfChange::default()
    }

    /// True for the change that leaves a joint configuration.
    pub fn is_leave(&self) -> bool {
        self.transition == Transition::Auto && self.steps.is_empty()
    }

    /// The payload of the entry.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(16 + 16 * self.steps.len() + self.context.len());
        let transition = match self.transition {
            Transition::Auto => 0,
            Transition::Joint => 1,
            Transition::JointExplicit => 2,
        };
        if transition != 0 {
            out.push(0x08);
            put_varint(&mut out, transition);
        }
        let mut body = Vec::with_capacity(13);
        for step in &self.steps {
            let (kind, member) = match *step {
                Step::Voter(member) => (0, member),
                Step::Remove(member) => (1, member),
                Step::Learner(member) => (2, member),
            };
            body.clear();
            if kind != 0 {
                body.push(0x08);
                put_varint(&mut body, kind);
            }
            if member != 0 {
                body.push(0x10);
                put_varint(&mut body, member);
            }
            out.push(0x12);
            put_varint(&mut out, body.len() as u64);
            out.extend_from_slice(&body);
        }
        if !self.context.is_empty() {
            out.push(0x1a);
            put_varint(&mut out, self.context.len() as u64);
            out.extend_from_slice(&self.context);
        }
        out.into()
    }

    /// Reads the payload of a conf change entry.
    ///
    /// # Errors
    /// What is wrong with the bytes; anything that would not be written the same way again is
    /// refused.
    pub fn decode(payload: &Bytes) -> Result<Self, &'static str> {
        let mut change = ConfChange::default();
        let mut input = Input {
            bytes: payload,
            at: 0,
        };
        while let Some(tag) = input.tag()? {
            match tag {
                0x08 => {
                    change.transition = match input.varint()? {
                        1 => Transition::Joint,
                        2 => Transition::JointExplicit,
                        _ => return Err("unknown transition"),
                    }
                }
                0x12 => {
                    if change.steps.len() == STEPS_MAX {
                        return Err("too many steps");
                    }
                    let (from, to) = input.section()?;
                    change
                        .steps
                        .push(step(payload.get(from..to).unwrap_or_default())?);
                }
                0x1a => {
                    let (from, to) = input.section()?;
                    change.context = payload.slice(from..to);
                }
                _ => return Err("unknown field"),
            }
        }
        if change.encode() != payload {
            Err("not in canonical form")
        } else {
            Ok(change)
        }
    }

    pub(crate) fn to_raft(&self) -> ConfChangeV2 {
        let mut to = ConfChangeV2::default();
        to.set_transition(match self.transition {
            Transition::Auto => ConfChangeTransition::Auto,
            Transition::Joint => ConfChangeTransition::Implicit,
            Transition::JointExplicit => ConfChangeTransition::Explicit,
        });
        for step in &self.steps {
            let (kind, member) = match *step {
                Step::Voter(member) => (ConfChangeType::AddNode, member),
                Step::Remove(member) => (ConfChangeType::RemoveNode, member),
                Step::Learner(member) => (ConfChangeType::AddLearnerNode, member),
            };
            let mut single = ConfChangeSingle::default();
            single.set_change_type(kind);
            single.node_id = member;
            to.mut_changes().push(single);
        }
        to
    }

    /// Shape only: bounds, ids, no member twice.
    pub(crate) fn check(&self) -> Result<(), Refused> {
        let invalid = |reason| Err(Refused::ConfChangeInvalid(reason));
        if self.steps.len() > STEPS_MAX {
            return invalid("too many steps");
        }
        let mut members: Vec<u64> = self.steps.iter().map(Step::member).collect();
        members.sort_unstable();
        if members.first() == Some(&0) {
            return invalid("member id 0");
        }
        if members.windows(2).any(|pair| pair[0] == pair[1]) {
            return invalid("a member named twice");
        }
        if self.steps.is_empty() && self.transition != Transition::Auto {
            return invalid("a joint change without steps");
        }
        Ok(())
    }
}

impl Step {
    pub fn member(&self) -> u64 {
        match *self {
            Step::Voter(member) | Step::Learner(member) | Step::Remove(member) => member,
        }
    }
}

fn step(bytes: &[u8]) -> Result<Step, &'static str> {
    let mut input = Input { bytes, at: 0 };
    let (mut kind, mut member) = (0, 0);
    while let Some(tag) = input.tag()? {
        match tag {
            0x08 => kind = input.varint()?,
            0x10 => member = input.varint()?,
            _ => return Err("unknown field in a step"),
        }
    }
    match (kind, member) {
        (_, 0) => Err("member id 0"),
        (0, _) => Ok(Step::Voter(member)),
        (1, _) => Ok(Step::Remove(member)),
        (2, _) => Ok(Step::Learner(member)),
        _ => Err("unknown step"),
    }
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Input<'_> {
    fn tag(&mut self) -> Result<Option<u8>, &'static str> {
        let tag = self.bytes.get(self.at).copied();
        self.at += 1;
        Ok(tag)
    }

    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or("truncated number")?;
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err("number too large");
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("number too long")
    }

    /// The bounds of a length-prefixed part, checked to lie inside.
    fn section(&mut self) -> Result<(usize, usize), &'static str> {
        let len = usize::try_from(self.varint()?).map_err(|_| "length too large")?;
        let from = self.at;
        let to = from.checked_add(len).filter(|&to| to <= self.bytes.len());
        self.at = to.ok_or("truncated field")?;
        Ok((from, self.at))
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protobuf::Message as _;

    use super::*;

    fn change() -> impl Strategy<Value = ConfChange> {
        let transition = prop_oneof![
            Just(Transition::Auto),
            Just(Transition::Joint),
            Just(Transition::JointExplicit)
        ];
        let member = prop_oneof![1u64..9, any::<u64>().prop_map(|id| id.max(1))];
        let step = (member, 0..3).prop_map(|(member, kind)| match kind {
            0 => Step::Voter(member),
            1 => Step::Learner(member),
            _ => Step::Remove(member),
        });
        let context = prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        (transition, prop::collection::vec(step, 0..6), context).prop_map(
            |(transition, steps, context)| ConfChange {
                transition,
                steps,
                context,
            },
        )
    }

    proptest! {
        #[test]
        fn a_change_reads_back_and_raft_reads_the_same(change in change()) {
            let payload = change.encode();
            prop_assert_eq!(ConfChange::decode(&payload), Ok(change.clone()));
            let mut theirs = ConfChangeV2::default();
            theirs.merge_from_bytes(&payload).unwrap();
            prop_assert_eq!(theirs.get_context(), &change.context[..]);
            theirs.clear_context();
            prop_assert_eq!(theirs, change.to_raft());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let payload = Bytes::from(bytes);
            if let Ok(change) = ConfChange::decode(&payload) {
                prop_assert_eq!(change.encode(), payload);
            }
        }
    }

    #[test]
    fn other_spellings_of_a_change_are_refused() {
        let payload = ConfChange::voter(3).encode();
        assert_eq!(&payload[..], [0x12, 2, 0x10, 3]);
        for (bytes, why) in [
            (&[0x12, 4, 0x08, 0, 0x10, 3][..], "not in canonical form"),
            (&[0x12, 3, 0x10, 0x83, 0x00], "not in canonical form"),
            (&[0x12, 2, 0x10, 3, 0x20, 1], "unknown field"),
            (&[0x12, 2, 0x10, 0], "member id 0"),
            (&[0x12, 4, 0x08, 3, 0x10, 3], "unknown step"),
            (&[0x12, 9, 0x10, 3], "truncated field"),
            (&[0x12], "truncated number"),
            (&[0x08, 9], "unknown transition"),
            (
                &[
                    0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
                ],
                "number too large",
            ),
        ] {
            assert_eq!(ConfChange::decode(&Bytes::from_static(bytes)), Err(why));
        }
        assert!(ConfChange::decode(&Bytes::new()).unwrap().is_leave());
    }
}
