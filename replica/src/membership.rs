//! Who votes and who learns: the log's [`Membership`] against raft's own form, and the entry that
//! changes it.
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
use kvnode_wal::Membership;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
};

use crate::error::{Error, Refused};

/// Steps in one change; far above any sane cluster, small enough to bound what decoding allocates.
const STEPS_MAX: usize = 64;

/// Members of each list in a membership.
pub(crate) const MEMBERS_MAX: usize = 1024;

/// Checks what raft would otherwise die of: ids, doubles, and who may stand in which list.
/// One without voters is refused: a member that knew nobody would, while it catches up from the
/// log, carry out the changes found there on nothing, and end up as the only voter it knows.
///
/// # Errors
/// [`Error::Membership`] with the member that does not fit.
pub fn check(membership: &Membership) -> Result<(), Error> {
    let index = membership.index;
    let wrong = |member, reason| {
        Err(Error::Membership {
            index,
            member,
            reason,
        })
    };
    let Membership {
        voters,
        learners,
        voters_outgoing,
        learners_next,
        ..
    } = membership;
    for list in [voters, learners, voters_outgoing, learners_next] {
        if list.len() > MEMBERS_MAX {
            return wrong(0, "is in a list that is too long");
        }
        let mut sorted = list.clone();
        sorted.sort_unstable();
        if sorted.first() == Some(&0) {
            return wrong(0, "is not a member id");
        }
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return wrong(pair[0], "is named twice");
        }
    }
    let joint = !voters_outgoing.is_empty();
    if voters.is_empty() {
        return wrong(0, "stands for all: nobody votes");
    }
    if let Some(&member) = learners.iter().find(|id| voters.contains(id)) {
        return wrong(member, "both votes and learns");
    }
    if let Some(&member) = learners.iter().find(|id| voters_outgoing.contains(id)) {
        return wrong(
            member,
            "both learns and votes in the outgoing configuration",
        );
    }
    if let Some(&member) = learners_next
        .iter()
        .find(|id| !voters_outgoing.contains(id))
    {
        return wrong(member, "is to learn next, but is no outgoing voter");
    }
    if let Some(&member) = learners_next.iter().find(|id| voters.contains(id)) {
        return wrong(member, "is to learn next, but votes");
    }
    if membership.auto_leave && !joint {
        return wrong(0, "cannot leave a joint configuration: there is none");
    }
    Ok(())
}

/// True if the membership names the member in any list.
pub(crate) fn names(membership: &Membership, member: u64) -> bool {
    let Membership {
        voters,
        learners,
        voters_outgoing,
        ..
    } = membership;
    [voters, learners, voters_outgoing]
        .iter()
        .any(|list| list.contains(&member))
}

pub(crate) fn to_raft(membership: &Membership) -> ConfState {
    let mut to = ConfState::default();
    to.set_voters(membership.voters.clone());
    to.set_learners(membership.learners.clone());
    to.set_voters_outgoing(membership.voters_outgoing.clone());
    to.set_learners_next(membership.learners_next.clone());
    to.auto_leave = membership.auto_leave;
    to
}

/// Sorted, so that equal memberships are equal bytes on every member.
pub(crate) fn from_raft(mut from: ConfState, index: u64) -> Membership {
    let sorted = |mut list: Vec<u64>| {
        list.sort_unstable();
        list
    };
    Membership {
        index,
        voters: sorted(from.take_voters()),
        learners: sorted(from.take_learners()),
        voters_outgoing: sorted(from.take_voters_outgoing()),
        learners_next: sorted(from.take_learners_next()),
        auto_leave: from.auto_leave,
    }
}

