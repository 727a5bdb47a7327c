//! `--force-new-cluster`: the last resort when a majority is lost for good.
//!
//! The member keeps its data and its whole log, and writes the removal of every other member behind it, as committed. From
//! then on it is a cluster of one, under the same id, that new members can join. Writes that other members had
//! acknowledged and this one had not received are lost.
//!
//! The whole log, because how far it was committed is written down late: the last writes a client was told of may look as
//! if they were not. What no majority ever had comes true this way as well, which a client that was told nothing has to expect.
//!
//! What must not happen is two clusters of one id: so it is refused while any other member answers,
//! which also ends a start that was left with the flag after the cluster has grown again. Nothing is
//! to be done, and nothing is, for a member that is alone already.

use kvnode_api::{MemberPromoteRequest, MemberRemoveRequest};
use kvnode_replica::{ConfChange, Restored, Step};
use kvnode_store::Members;
use kvnode_store::command::{Command, Header, Kind};
use kvnode_store::datadir::Identity;
use kvnode_wal::{Entry, EntryKind, HardState};
use prost::Message;

use crate::config::{Config, ForceNewCluster, Url};
use crate::exit::{Code, Exit};
use crate::join;

/// What is appended to the log, in place of what is not kept of it.
#[derive(Debug, PartialEq)]
pub struct Forced {
    pub entries: Vec<Entry>,
    pub hard_state: HardState,
}

impl Forced {
    /// The same to what was read from the log.
    pub fn carry_out(self, restored: &mut Restored) {
        let first = self.entries.first().map_or(u64::MAX, |entry| entry.index);
        restored.entries.retain(|entry| entry.index < first);
        restored.entries.extend(self.entries);
        restored.hard_state = self.hard_state;
    }
}

/// `None` if this member is alone already.
pub fn plan(
    config: &Config,
    forced: ForceNewCluster,
    identity: &Identity,
    members: &Members,
    restored: &Restored,
) -> Result<Option<Forced>, Exit> {
    confirm(forced, identity)?;
    let Some(forced) = draft(identity.member_id, restored)? else {
        log::warn!("--force-new-cluster has nothing to do: this member is alone; remove the flag");
        return Ok(None);
    };
    let others = members.iter().filter(|m| m.id != identity.member_id);
    let urls: Vec<Url> = others
        .flat_map(|member| &member.peer_urls)
        .filter_map(|url| Url::parse(url).ok())
        .collect();
    if let Some(url) = join::alive(config, &urls, identity.cluster_id).first() {
        return Err(Exit::new(
            Code::Safety,
            format!("--force-new-cluster would drop a member that answers at {url}"),
            "if the cluster has grown again, remove the flag; otherwise stop all other members for good first",
        ));
    }
    log::warn!(
        "FORCING A NEW CLUSTER: member {:x} goes on alone in cluster {:x} with its log up to entry {}, and {} changes of the membership behind it. \
         Never start the other members again on their data",
        identity.member_id,
        identity.cluster_id,
        forced.entries.first().map_or(0, |entry| entry.index - 1),
        forced.entries.len()
    );
    Ok(Some(forced))
}

fn confirm(forced: ForceNewCluster, identity: &Identity) -> Result<(), Exit> {
    match forced {
        ForceNewCluster::Cluster(id) if id == identity.cluster_id => Ok(()),
        ForceNewCluster::Cluster(id) => Err(Exit::new(
            Code::Safety,
            format!(
                "--force-new-cluster={id:x}, but the data directory belongs to cluster {:x}",
                identity.cluster_id
            ),
            "check --data-dir, or the flag",
        )),
        ForceNewCluster::Unconfirmed => Err(Exit::new(
            Code::Usage,
            "--force-new-cluster drops all other members, and with them whatever only they have",
            format!(
                "if a majority is lost for good, say so with --force-new-cluster={:x}, once",
                identity.cluster_id
            ),
        )),
    }
}

/// The last entry that counts as committed: the last there is. But of changes that take two steps, which may have been
/// left between them, and of what is behind them, only what is known to be committed.
fn kept(restored: &Restored) -> u64 {
    let known = restored.hard_state.commit;
    let known = known.max(restored.applied).max(restored.snapshot.0);
    let simple = |entry: &Entry| {
        entry.kind != EntryKind::ConfChange
            || ConfChange::decode(&entry.payload).is_ok_and(|change| change.steps.len() == 1)
    };
    let entries = restored.entries.iter();
    let kept = entries.take_while(|entry| entry.index <= known || simple(entry));
    kept.last().map_or(known, |last| last.index.max(known))
}

fn draft(own: u64, restored: &Restored) -> Result<Option<Forced>, Exit> {
    let old = restored.hard_state;
    let commit = kept(restored);
    let (mut voters, mut learners) = (
        restored.membership.voters.clone(),
        restored.membership.learners.clone(),
    );
    voters.extend(&restored.membership.voters_outgoing);
    for entry in &restored.entries {
        let counts = restored.membership.index < entry.index && entry.index <= commit;
        if entry.kind != EntryKind::ConfChange || !counts {
            continue;
        }
        let change = ConfChange::decode(&entry.payload).map_err(|reason| {
            Exit::new(
                Code::Version,
                format!(
                    "entry {}: membership change not understood: {reason}",
                    entry.index
                ),
                "use the program that wrote the data directory, or a newer one",
            )
        })?;
        for step in change.steps {
            let member = step.member();
            voters.retain(|&id| id != member);
            learners.retain(|&id| id != member);
            match step {
                Step::Voter(_) => voters.push(member),
                Step::Learner(_) => learners.push(member),
                Step::Remove(_) => {}
            }
        }
    }
    let term = old.term + 1;
    let mut entries = Vec::new();
    let mut write = |mut change: ConfChange, kind, message: Vec<u8>| {
        change.context = Command::encode(kind, &Header::default(), &message);
        entries.push(Entry {
            index: commit + 1 + entries.len() as u64,
            term,
            kind: EntryKind::ConfChange,
            payload: change.encode(),
        });
    };
    if !voters.contains(&own) {
        let message = MemberPromoteRequest { id: own }.encode_to_vec();
        write(ConfChange::voter(own), Kind::MemberPromote, message);
    }
    let mut others: Vec<u64> = voters.into_iter().chain(learners).collect();
    others.retain(|&id| id != own);
    others.sort_unstable();
    others.dedup();
    for id in others {
        let message = MemberRemoveRequest { id }.encode_to_vec();
        write(ConfChange::remove(id), Kind::MemberRemove, message);
    }
    let hard_state = HardState {
        term,
        vote: 0,
        commit: commit + entries.len() as u64,
    };
    Ok((!entries.is_empty()).then_some(Forced {
        entries,
        hard_state,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvnode_wal::Membership;

    fn entry(index: u64, change: Option<ConfChange>) -> Entry {
        Entry {
            index,
            term: 2,
            kind: match change {
                Some(_) => EntryKind::ConfChange,
                None => EntryKind::Normal,
            },
            payload: change.map_or("x".into(), |change| change.encode()),
        }
    }

    /// Applied up to 3, known to be committed up to 5, with a log up to 8 and a change of two steps at 7.
    fn restored(voters: &[u64], learners: &[u64], at_5: Option<ConfChange>) -> Restored {
        let mut entries: Vec<Entry> = (3..=8).map(|index| entry(index, None)).collect();
        entries[2] = entry(5, at_5);
        let mut two_steps = ConfChange::voter(77);
        two_steps.steps.push(Step::Remove(1));
        entries[4] = entry(7, Some(two_steps));
        Restored {
            membership: Membership {
                index: 3,
                voters: voters.to_vec(),
                learners: learners.to_vec(),
                ..Membership::default()
            },
            hard_state: HardState {
                term: 2,
                vote: 1,
                commit: 5,
            },
            snapshot: (3, 2),
            entries,
            applied: 3,
        }
    }

    fn steps(forced: &Forced) -> Vec<Step> {
        let change = |entry: &Entry| ConfChange::decode(&entry.payload).unwrap();
        forced
            .entries
            .iter()
            .flat_map(|entry| change(entry).steps)
            .collect()
    }

    #[test]
    fn all_others_are_removed_behind_what_the_log_has() {
        let mut restored = restored(&[1, 2, 3], &[4], None);
        let forced = draft(1, &restored).unwrap().unwrap();
        assert_eq!(
            steps(&forced),
            [Step::Remove(2), Step::Remove(3), Step::Remove(4)]
        );
        let indexes: Vec<u64> = forced.entries.iter().map(|entry| entry.index).collect();
        assert_eq!(indexes, [7, 8, 9]);
        let expected = HardState {
            term: 3,
            vote: 0,
            commit: 9,
        };
        assert_eq!(forced.hard_state, expected);
        // The store hears the same.
        let payload = ConfChange::decode(&forced.entries[0].payload)
            .unwrap()
            .context;
        let command = Command::decode(payload).unwrap();
        assert_eq!(command.kind, Kind::MemberRemove);
        let removal = MemberRemoveRequest::decode(command.message).unwrap();
        assert_eq!(removal.id, 2);

        forced.carry_out(&mut restored);
        let terms: Vec<(u64, u64)> = restored.entries.iter().map(|e| (e.index, e.term)).collect();
        assert_eq!(
            terms,
            [(3, 2), (4, 2), (5, 2), (6, 2), (7, 3), (8, 3), (9, 3)]
        );
        assert_eq!(restored.hard_state, expected);
        let replica = kvnode_replica::Replica::new(kvnode_replica::Config::new(1), restored);
        assert_eq!(replica.unwrap().status().commit, 9);
    }

    #[test]
    fn changes_that_are_committed_but_not_applied_count() {
        let grown = restored(&[1, 2], &[], Some(ConfChange::learner(9)));
        let forced = draft(1, &grown).unwrap().unwrap();
        assert_eq!(steps(&forced), [Step::Remove(2), Step::Remove(9)]);
        let shrunk = restored(&[1, 2], &[], Some(ConfChange::remove(2)));
        assert_eq!(draft(1, &shrunk).unwrap(), None, "alone already");
    }

    #[test]
    fn a_change_of_one_step_counts_even_if_it_is_not_known_to_be_committed() {
        let mut grown = restored(&[1, 2], &[], None);
        grown.entries[3] = entry(6, Some(ConfChange::learner(9)));
        let forced = draft(1, &grown).unwrap().unwrap();
        assert_eq!(steps(&forced), [Step::Remove(2), Step::Remove(9)]);
        assert_eq!(forced.entries[0].index, 7);
    }

    #[test]
    fn a_learner_votes_for_itself_first() {
        let learner = restored(&[2], &[1], None);
        let forced = draft(1, &learner).unwrap().unwrap();
        assert_eq!(steps(&forced), [Step::Voter(1), Step::Remove(2)]);
    }

    #[test]
    fn only_the_id_of_the_cluster_will_do() {
        let identity = Identity {
            cluster_id: 0xabc,
            member_id: 1,
            instance_id: [1; 16],
        };
        assert!(confirm(ForceNewCluster::Cluster(0xabc), &identity).is_ok());
        for (forced, part) in [
            (ForceNewCluster::Cluster(0xabd), "belongs to cluster abc"),
            (ForceNewCluster::Unconfirmed, "--force-new-cluster=abc"),
        ] {
            let refused = format!("{:?}", confirm(forced, &identity).unwrap_err());
            assert!(refused.contains(part), "{refused}");
        }
    }
}
