//! Coming back from what a crash left.

use bytes::Bytes;
use kvnode_replica::{ConfChange, Config, Error, Kind, Message, Output, Replica, Restored, Role};
use kvnode_wal::{Entry, EntryKind, HardState, Membership};

use crate::single::{append, members};

fn entries(terms: &[u64]) -> Vec<Entry> {
    let entry = |(index, &term): (u64, &u64)| Entry {
        index,
        term,
        kind: EntryKind::Normal,
        payload: Bytes::from(format!("entry {index}")),
    };
    (1..).zip(terms).map(entry).collect()
}

fn restored(terms: &[u64], hard_state: (u64, u64, u64), applied: u64) -> Restored {
    let (term, vote, commit) = hard_state;
    Restored {
        membership: members(&[1]),
        hard_state: HardState { term, vote, commit },
        entries: entries(terms),
        applied,
        ..Restored::default()
    }
}

fn start(restored: Restored) -> Result<Replica, Error> {
    Replica::new(Config::new(1), restored)
}

/// Runs a single voter until it has applied its own first entry; returns what was committed.
fn lead(replica: &mut Replica) -> Vec<Entry> {
    let mut committed = Vec::new();
    let mut out = Output::default();
    replica.campaign_if_alone();
    while replica.poll(&mut out) {
        if let Some(write) = out.write.take() {
            replica.written(write.number);
        }
        if let Some(last) = out.committed.last() {
            replica.applied(last.index);
        }
        committed.append(&mut out.committed);
        out.clear();
    }
    committed
}

#[test]
fn restart_at_every_index_goes_on_where_the_store_stands() {
    let terms = [1, 1, 2, 2, 2, 5, 5, 6];
    let last = terms.len() as u64;
    for commit in 0..=last {
        for applied in 0..=last {
            for base in 0..=applied {
                let mut restored = restored(&terms, (6, 1, commit), applied);
                restored.entries.drain(..base as usize);
                restored.snapshot = (base, base.checked_sub(1).map_or(0, |at| terms[at as usize]));
                let mut replica = start(restored).unwrap();
                let status = replica.status();
                assert_eq!((status.term, status.applied), (6, applied));
                assert_eq!(
                    status.commit,
                    commit.max(applied),
                    "commit is clamped to applied"
                );
                assert_eq!((status.first_index, status.last_index), (base + 1, last));
                let committed = lead(&mut replica);
                let indexes: Vec<u64> = committed.iter().map(|entry| entry.index).collect();
                assert_eq!(indexes, (applied + 1..=last + 1).collect::<Vec<_>>());
                let status = replica.status();
                assert_eq!((status.term, status.role), (7, Role::Leader));
            }
        }
    }
}

#[test]
fn an_older_tail_is_kept_and_its_first_entry_becomes_the_base() {
    // The caller's snapshot point is 6; entries from 3 on are still there.
    let mut from_three = restored(&[1, 1, 2, 2, 2, 5, 5], (5, 1, 6), 6);
    from_three.entries.drain(..2);
    from_three.snapshot = (6, 5);
    let status = start(from_three.clone()).unwrap().status();
    assert_eq!(
        (status.first_index, status.last_index, status.commit),
        (4, 7, 6)
    );
    // Without a snapshot point the store's applied index must reach into the tail.
    from_three.snapshot = (0, 0);
    assert_eq!(start(from_three.clone()).unwrap().status().first_index, 4);
    from_three.applied = 2;
    let error = start(from_three).err();
    assert_eq!(
        error,
        Some(Error::EntryGap {
            expected: 1,
            found: 3
        })
    );
}

#[test]
fn a_term_behind_the_log_is_raised_and_the_vote_forgotten() {
    // The entries were written, the hard state that mentions their term was not.
    let mut replica = start(restored(&[1, 4], (3, 2, 1), 0)).unwrap();
    assert_eq!(replica.status().term, 4);
    let mut out = Output::default();
    replica.campaign_if_alone();
    let mut hard_states = Vec::new();
    while replica.poll(&mut out) {
        hard_states.extend(out.write.take().and_then(|write| write.hard_state));
        if let Some(entry) = out.committed.last() {
            replica.applied(entry.index);
        }
        out.clear();
    }
    assert_eq!((hard_states[0].term, hard_states[0].vote), (5, 1));
    // The old vote does not bind in the raised term, the new one does.
    let mut three = restored(&[1, 4], (3, 2, 1), 0);
    three.membership = members(&[1, 2, 3]);
    let mut replica = start(three).unwrap();
    let mut ask = |from| {
        let (index, log_term) = (2, 4);
        replica.step(Message {
            kind: Kind::Vote,
            index,
            log_term,
            ..append(from, 1, 4)
        });
        let mut granted = None;
        while replica.poll(&mut out) {
            if let Some(write) = out.write.take() {
                replica.written(write.number);
            }
            granted = out
                .messages
                .first()
                .map(|m| (m.kind, m.rejected))
                .or(granted);
            out.clear();
        }
        granted
    };
    assert_eq!(ask(3), Some((Kind::VoteAnswer, false)));
    assert_eq!(ask(2), Some((Kind::VoteAnswer, true)));
    // A snapshot's term counts as well.
    let mut snapshot = restored(&[], (3, 2, 1), 9);
    snapshot.snapshot = (9, 6);
    let status = start(snapshot).unwrap().status();
    assert_eq!((status.term, status.commit, status.last_index), (6, 9, 9));
}

#[test]
fn a_snapshot_beyond_the_log_takes_its_place() {
    let mut ahead = restored(&[1, 1], (2, 1, 2), 9);
    ahead.snapshot = (9, 2);
    let mut replica = start(ahead).unwrap();
    assert_eq!(
        (replica.status().first_index, replica.status().last_index),
        (10, 9)
    );
    assert_eq!(lead(&mut replica)[0].index, 10);
}

#[test]
fn what_no_crash_explains_is_refused_with_its_numbers() {
    let refused = |restored| start(restored).err().expect("must be refused");
    let holes = |at: usize| {
        let mut restored = restored(&[1, 1, 1, 1], (1, 1, 0), 0);
        restored.entries.remove(at);
        restored
    };
    assert_eq!(
        refused(holes(0)),
        Error::EntryGap {
            expected: 1,
            found: 2
        }
    );
    assert_eq!(
        refused(holes(2)),
        Error::EntryGap {
            expected: 3,
            found: 4
        }
    );
    let falls = restored(&[1, 3, 2], (3, 1, 0), 0);
    assert_eq!(
        refused(falls),
        Error::TermFalls {
            index: 3,
            before: 3,
            found: 2
        }
    );
    let ahead = restored(&[1, 1], (1, 1, 0), 3);
    assert_eq!(
        refused(ahead),
        Error::AppliedBeyondLog {
            applied: 3,
            last: 2
        }
    );
    let lost = restored(&[1, 1], (1, 1, 3), 0);
    assert_eq!(refused(lost), Error::CommitBeyondLog { commit: 3, last: 2 });
    let mut behind = restored(&[], (1, 1, 4), 3);
    behind.snapshot = (4, 1);
    assert_eq!(
        refused(behind),
        Error::AppliedBelowLog {
            applied: 3,
            first: 5
        }
    );
    let mut differs = restored(&[1, 1, 2], (2, 1, 3), 3);
    differs.snapshot = (2, 2);
    assert_eq!(
        refused(differs),
        Error::SnapshotTerm {
            index: 2,
            expected: 2,
            found: 1
        }
    );
    let mut nobody = restored(&[], (0, 0, 0), 0);
    nobody.membership.learners = vec![1];
    nobody.membership.voters.clear();
    assert!(matches!(refused(nobody), Error::Membership { .. }));
}

#[test]
fn conf_changes_between_the_known_membership_and_applied_are_carried_out_again() {
    let mut log = entries(&[1, 1, 1, 1]);
    for (at, change) in [(1, ConfChange::learner(7)), (3, ConfChange::voter(8))] {
        log[at].kind = EntryKind::ConfChange;
        log[at].payload = change.encode();
    }
    let with = |membership: Membership, applied| {
        let hard_state = HardState {
            term: 1,
            vote: 1,
            commit: 4,
        };
        let entries = log.clone();
        Restored {
            membership,
            hard_state,
            entries,
            applied,
            ..Restored::default()
        }
    };
    let after = |restored| {
        let replica = start(restored).unwrap();
        let Membership {
            index,
            voters,
            learners,
            ..
        } = replica.membership().clone();
        (index, voters, learners)
    };
    assert_eq!(after(with(members(&[1]), 1)), (0, vec![1], vec![]));
    assert_eq!(after(with(members(&[1]), 3)), (2, vec![1], vec![7]));
    assert_eq!(after(with(members(&[1]), 4)), (4, vec![1, 8], vec![7]));
    // A checkpoint ahead of the store is not carried out twice.
    let ahead = Membership {
        index: 2,
        learners: vec![7],
        ..members(&[1])
    };
    assert_eq!(after(with(ahead.clone(), 0)), (2, vec![1], vec![7]));
    let mut replica = start(with(ahead, 0)).unwrap();
    let mut out = Output::default();
    while replica.poll(&mut out) {
        if let Some(last) = out.committed.last() {
            replica.applied(last.index);
        }
        out.clear();
    }
    assert_eq!(replica.membership().voters, [1, 8]);
    assert_eq!(replica.membership().learners, [7]);
}

#[test]
fn an_unreadable_committed_conf_change_stops_the_replica_with_its_index() {
    let mut log = entries(&[1, 1]);
    log[1].kind = EntryKind::ConfChange;
    let expected = Error::ConfChange {
        index: 2,
        reason: "unknown field",
    };
    let with = |applied| {
        let hard_state = HardState {
            term: 1,
            vote: 1,
            commit: 2,
        };
        let (membership, entries) = (members(&[1]), log.clone());
        start(Restored {
            membership,
            hard_state,
            entries,
            applied,
            ..Restored::default()
        })
    };
    assert_eq!(with(2).err(), Some(expected.clone()));
    let mut replica = with(0).unwrap();
    let mut out = Output::default();
    assert!(replica.poll(&mut out));
    assert_eq!(out.failure, Some(expected));
    assert!(out.committed.is_empty() && out.write.is_none() && out.messages.is_empty());
    out.clear();
    assert!(!replica.poll(&mut out));
    assert_eq!(replica.status().role, Role::Out);
}
