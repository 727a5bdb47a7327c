//! Of which member a snapshot is best taken.

use std::fmt;

use kvnode_api::StatusResponse;

/// Revisions a follower may be behind the most advanced member and still be taken before the leader, which has enough to do: members are
/// asked one after another, so on a busy cluster nobody is exactly as far as anybody else.
const LAG_MAX: i64 = 1000;

/// Why a snapshot must not be taken of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// A learner may be far behind, and nobody waits for it.
    Learner,
    /// Its state was found to differ from the others'.
    Corrupt,
    /// It knows of an older term than another member: it is cut off, or was.
    OldTerm { term: u64, newest: u64 },
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Learner => f.write_str("is a learner"),
            Unfit::Corrupt => f.write_str("has the alarm CORRUPT"),
            Unfit::OldTerm { term, newest } => {
                write!(f, "is in term {term}, another member in {newest}")
            }
        }
    }
}

/// Which of these members of one cluster is to give a snapshot: the most advanced one that is fit, rather a follower than the leader. For
/// each its place in the list, and why it is unfit; none is best if all are.
///
/// Members of several clusters must be told apart before: see [`cluster_of`].
pub fn snapshot_source(seen: &[StatusResponse]) -> (Option<usize>, Vec<Option<Unfit>>) {
    let newest = seen.iter().map(|status| status.raft_term).max();
    let newest = newest.unwrap_or(0);
    let unfit: Vec<Option<Unfit>> = seen.iter().map(|status| unfit(status, newest)).collect();
    let fit = || (0..seen.len()).filter(|at| unfit[*at].is_none());
    let most = fit().map(|at| revision(&seen[at])).max().unwrap_or(0);
    let near = |at: &usize| most - revision(&seen[*at]) <= LAG_MAX;
    let rank = |at: &usize| {
        (
            !leads(&seen[*at]),
            revision(&seen[*at]),
            std::cmp::Reverse(*at),
        )
    };
    let best = fit().filter(near).max_by_key(rank);
    (best, unfit)
}

/// The id of the cluster that a member says it is in; 0 if it does not say.
pub fn cluster_of(status: &StatusResponse) -> u64 {
    status.header.map_or(0, |header| header.cluster_id)
}

fn unfit(status: &StatusResponse, newest: u64) -> Option<Unfit> {
    let id = status.header.map_or(0, |header| header.member_id);
    // As servers write an alarm among the errors of a member's state.
    let corrupt = format!("memberID:{id} alarm:CORRUPT");
    if status.is_learner {
        Some(Unfit::Learner)
    } else if status.errors.iter().any(|error| error.trim() == corrupt) {
        Some(Unfit::Corrupt)
    } else if status.raft_term < newest {
        let term = status.raft_term;
        Some(Unfit::OldTerm { term, newest })
    } else {
        None
    }
}

fn revision(status: &StatusResponse) -> i64 {
    status.header.map_or(0, |header| header.revision)
}

fn leads(status: &StatusResponse) -> bool {
    status
        .header
        .is_some_and(|header| header.member_id == status.leader)
}

#[cfg(test)]
mod tests {
    use kvnode_api::ResponseHeader;

    use super::*;

    /// Member 1 leads.
    fn member(member_id: u64, revision: i64) -> StatusResponse {
        StatusResponse {
            header: Some(ResponseHeader {
                cluster_id: 9,
                member_id,
                revision,
                raft_term: 4,
            }),
            leader: 1,
            raft_term: 4,
            ..StatusResponse::default()
        }
    }

    #[test]
    fn the_most_advanced_follower_gives_a_snapshot_unless_it_is_far_behind() {
        let best = |seen: &[StatusResponse]| snapshot_source(seen).0;
        assert_eq!(best(&[]), None);
        assert_eq!(best(&[member(1, 50)]), Some(0));
        assert_eq!(
            best(&[member(1, 50), member(2, 48), member(3, 49)]),
            Some(2)
        );
        assert_eq!(
            best(&[member(1, 50), member(2, 50), member(3, 50)]),
            Some(1)
        );
        assert_eq!(best(&[member(1, 5000), member(2, 3999)]), Some(0));
        assert_eq!(best(&[member(1, 5000), member(2, 4000)]), Some(1));
    }

    #[test]
    fn a_member_that_may_be_wrong_or_behind_gives_none() {
        let mut learner = member(2, 50);
        learner.is_learner = true;
        let mut corrupt = member(3, 50);
        corrupt.errors = vec!["memberID:3 alarm:CORRUPT ".to_owned()];
        // Another member's alarm is not its own, and being full is no fault of the data.
        let mut told = member(4, 50);
        told.errors = vec![
            "memberID:3 alarm:CORRUPT ".to_owned(),
            "memberID:4 alarm:NOSPACE ".to_owned(),
        ];
        let mut cut_off = member(5, 90);
        cut_off.raft_term = 3;
        let (best, unfit) = snapshot_source(&[learner.clone(), corrupt, told, cut_off]);
        assert_eq!(best, Some(2));
        let old = Unfit::OldTerm { term: 3, newest: 4 };
        assert_eq!(
            unfit,
            [Some(Unfit::Learner), Some(Unfit::Corrupt), None, Some(old)]
        );
        assert_eq!(snapshot_source(&[learner]).0, None);
    }
}
