//! Who votes and who learns: the log's [`Membership`] against raft's own form.

use kvnode_wal::Membership;
use raft::eraftpb::ConfState;

use crate::error::Error;

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raft::{Config, RawNode};

    use super::*;
    use crate::log::Log;
    use crate::logger;

    proptest! {
        /// raft dies of a membership it cannot rebuild; none that passes the check is one.
        #[test]
        fn raft_takes_every_membership_that_passes_the_check(
            voters in prop::collection::vec(1u64..6, 0..4),
            learners in prop::collection::vec(1u64..8, 0..3),
            voters_outgoing in prop::collection::vec(1u64..6, 0..4),
            learners_next in prop::collection::vec(1u64..6, 0..2),
            auto_leave: bool,
        ) {
            let members = Membership {
                index: 0, voters, learners, voters_outgoing, learners_next, auto_leave
            };
            if check(&members).is_ok() {
                let log = Log::new((0, 0), [], 0, Default::default(), &members);
                let raw = RawNode::new(&Config::new(1), log, &logger::logger()).unwrap();
                let state = raw.raft.prs().conf().to_conf_state();
                let mut sorted = members;
                for list in [
                    &mut sorted.voters,
                    &mut sorted.learners,
                    &mut sorted.voters_outgoing,
                    &mut sorted.learners_next,
                ] {
                    list.sort_unstable();
                }
                prop_assert_eq!(from_raft(state, 0), sorted);
            }
        }
    }

    #[test]
    fn memberships_that_raft_would_die_of_are_refused() {
        let good = Membership {
            index: 5,
            voters: vec![1, 2, 3],
            learners: vec![5],
            voters_outgoing: vec![1, 2, 4],
            learners_next: vec![4],
            auto_leave: true,
        };
        assert_eq!(check(&good), Ok(()));
        assert!(check(&Membership::default()).is_err());
        let spoilt: [fn(&mut Membership); 8] = [
            |m| m.voters = vec![],
            |m| m.voters.push(0),
            |m| m.voters.push(1),
            |m| m.learners.push(2),
            |m| m.learners.push(4),
            |m| m.learners_next.push(6),
            |m| m.learners_next.push(1),
            |m| {
                m.voters_outgoing.clear();
                m.learners_next.clear();
            },
        ];
        for (case, spoil) in spoilt.iter().enumerate() {
            let mut bad = good.clone();
            spoil(&mut bad);
            assert!(check(&bad).is_err(), "case {case}");
        }
    }
}
