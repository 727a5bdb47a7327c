//! One voter, driven by hand: every output is looked at.

use bytes::Bytes;
use kvnode_replica::{Config, Error, Output, Refused, Replica, Restored, Role, Write};
use kvnode_wal::{Entry, EntryKind, HardState, Membership};

pub fn members(voters: &[u64]) -> Membership {
    Membership {
        voters: voters.to_vec(),
        ..Membership::default()
    }
}

fn fresh(config: Config) -> Replica {
    let restored = Restored {
        membership: members(&[1]),
        ..Restored::default()
    };
    Replica::new(config, restored).unwrap()
}

/// One output with everything the polls add until they are done; at most one write among it.
fn settle(replica: &mut Replica) -> Output {
    let mut all = Output::default();
    let mut out = Output::default();
    while replica.poll(&mut out) {
        all.messages.append(&mut out.messages);
        all.committed.append(&mut out.committed);
        all.reads.append(&mut out.reads);
        all.role = out.role.or(all.role);
        all.membership = out.membership.take().or(all.membership);
        all.failure = out.failure.take().or(all.failure);
        all.removed |= out.removed;
        if let Some(write) = out.write.take() {
            assert!(
                all.write.replace(write).is_none(),
                "one write at a time here"
            );
        }
    }
    all
}

fn write(replica: &mut Replica) -> Write {
    settle(replica).write.expect("something to write")
}

/// A leader whose first entry is written, committed and applied.
fn leading(config: Config) -> Replica {
    let mut replica = fresh(config);
    replica.campaign_if_alone();
    let write = write(&mut replica);
    replica.written(write.number);
    let out = settle(&mut replica);
    assert_eq!(out.committed.len(), 1);
    replica.applied(1);
    settle(&mut replica);
    assert!(replica.status().settled);
    replica
}

fn payload(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[test]
fn single_voter_leads_at_once_and_commits_only_after_the_write_is_reported() {
    let mut replica = fresh(Config::new(1));
    assert_eq!(replica.status().role, Role::Follower);
    replica.campaign_if_alone();
    let out = settle(&mut replica);
    let role = out.role.unwrap();
    assert_eq!(
        (role.role, role.term, role.leader),
        (Role::Leader, 1, Some(1))
    );
    let write = out.write.unwrap();
    assert!(write.must_sync);
    assert_eq!(
        write.hard_state,
        Some(HardState {
            term: 1,
            vote: 1,
            commit: 0
        })
    );
    let kinds: Vec<_> = write
        .entries
        .iter()
        .map(|e| (e.index, e.term, e.kind))
        .collect();
    assert_eq!(kinds, [(1, 1, EntryKind::Empty)]);
    assert!(out.committed.is_empty() && out.messages.is_empty());
    assert_eq!(
        (replica.status().commit, replica.status().settled),
        (0, false)
    );
    replica.written(write.number);
    let out = settle(&mut replica);
    assert_eq!(out.committed, write.entries);
    assert_eq!(
        (replica.status().commit, replica.status().settled),
        (1, true)
    );
}

#[test]
fn a_single_voter_leads_by_ticks_alone_too() {
    let mut replica = fresh(Config::new(1));
    settle(&mut replica);
    replica.tick();
    settle(&mut replica);
    assert_eq!(replica.status().role, Role::Leader);
}

#[test]
fn proposals_between_two_polls_are_one_write_and_share_its_buffers() {
    let mut replica = leading(Config::new(1));
    let (a, b) = (payload("a command"), payload("another"));
    replica.propose(a.clone()).unwrap();
    replica.propose(b.clone()).unwrap();
    let write = write(&mut replica);
    let indexes: Vec<_> = write.entries.iter().map(|e| (e.index, e.kind)).collect();
    assert_eq!(indexes, [(2, EntryKind::Normal), (3, EntryKind::Normal)]);
    assert_eq!(write.entries[0].payload.as_ptr(), a.as_ptr());
    replica.written(write.number);
    let out = settle(&mut replica);
    assert_eq!(out.committed, write.entries);
    assert_eq!(out.committed[1].payload.as_ptr(), b.as_ptr());
    replica.applied(3);
    assert_eq!(replica.status().applied, 3);
}

#[test]
fn writes_in_flight_commit_in_order_as_they_are_reported() {
    let mut replica = leading(Config::new(1));
    let mut numbers = Vec::new();
    for text in ["one", "two", "three"] {
        replica.propose(payload(text)).unwrap();
        numbers.push(write(&mut replica).number);
    }
    assert_eq!(replica.status().commit, 1);
    replica.written(numbers[1]);
    let committed = settle(&mut replica).committed;
    assert_eq!(
        committed.iter().map(|e| e.index).collect::<Vec<_>>(),
        [2, 3]
    );
    replica.written(numbers[2]);
    assert_eq!(settle(&mut replica).committed[0].index, 4);
}

#[test]
fn a_commit_index_rides_with_the_next_write_or_leaves_alone_at_the_next_tick() {
    let mut replica = leading(Config::new(1));
    replica.propose(payload("x")).unwrap();
    let first = write(&mut replica);
    assert_eq!(first.hard_state.unwrap().commit, 1);
    replica.written(first.number);
    assert!(settle(&mut replica).write.is_none());
    replica.tick();
    let alone = write(&mut replica);
    assert!(!alone.must_sync && alone.entries.is_empty());
    assert_eq!(alone.hard_state.unwrap().commit, 2);
    replica.tick();
    assert!(settle(&mut replica).write.is_none());
    replica.written(alone.number);
    settle(&mut replica);
}

#[test]
fn reads_are_answered_in_the_same_poll_at_the_commit_index() {
    let mut replica = leading(Config::new(1));
    replica.read(70);
    replica.read(71);
    let mut out = Output::default();
    assert!(replica.poll(&mut out));
    assert_eq!(out.reads, [(70, Ok(1)), (71, Ok(1))]);
    replica.propose(payload("x")).unwrap();
    let write = write(&mut replica);
    replica.read(72);
    assert_eq!(settle(&mut replica).reads, [(72, Ok(1))]);
    replica.written(write.number);
    replica.read(73);
    assert_eq!(settle(&mut replica).reads, [(73, Ok(2))]);
}

#[test]
fn h9_reads_wait_for_the_first_commit_of_the_term() {
    let mut replica = fresh(Config::new(1));
    replica.read(1);
    replica.campaign_if_alone();
    let out = settle(&mut replica);
    assert!(
        out.reads.is_empty(),
        "leads, but has committed nothing in its term"
    );
    replica.written(out.write.unwrap().number);
    assert_eq!(settle(&mut replica).reads, [(1, Ok(1))]);
}

#[test]
fn reads_without_a_leader_end_by_their_patience_and_are_bounded() {
    let mut config = Config::new(1);
    config.read_patience_ticks = 7;
    config.reads_max = 2;
    let restored = Restored {
        membership: members(&[1, 2]),
        ..Restored::default()
    };
    let mut replica = Replica::new(config, restored).unwrap();
    for token in 0..3 {
        replica.read(token);
    }
    assert_eq!(settle(&mut replica).reads, [(2, Err(Refused::Busy))]);
    for _ in 0..6 {
        replica.tick();
        assert!(settle(&mut replica).reads.is_empty());
    }
    replica.tick();
    let timed_out = Err(Refused::TimedOut);
    assert_eq!(settle(&mut replica).reads, [(0, timed_out), (1, timed_out)]);
}

#[test]
fn proposals_beyond_the_limits_are_refused_and_leave_nothing() {
    let mut config = Config::new(1);
    config.proposals_max = 3;
    config.proposal_bytes_max = 2_000;
    config.entry_bytes_max = 1_500;
    let mut replica = leading(config);
    let big = Bytes::from(vec![0; 1_501]);
    assert_eq!(
        replica.propose(big),
        Err(Refused::TooLarge {
            bytes: 1_501,
            limit: 1_500
        })
    );
    assert_eq!(replica.propose(Bytes::new()), Err(Refused::Empty));
    replica.propose(Bytes::from(vec![0; 1_400])).unwrap();
    assert_eq!(
        replica.propose(Bytes::from(vec![0; 500])),
        Err(Refused::Busy)
    );
    replica.propose(payload("x")).unwrap();
    let write = write(&mut replica);
    replica.propose(payload("y")).unwrap();
    assert_eq!(
        replica.propose(payload("z")),
        Err(Refused::Busy),
        "three in flight"
    );
    replica.written(write.number);
    let out = settle(&mut replica);
    assert_eq!(
        replica.propose(payload("z")),
        Err(Refused::Busy),
        "committed, not applied"
    );
    replica.applied(out.committed.last().unwrap().index);
    replica.propose(payload("z")).unwrap();
    assert_eq!(settle(&mut replica).write.unwrap().entries.len(), 1);
    assert_eq!(
        replica.status().last_index,
        5,
        "refused proposals left nothing"
    );
}

#[test]
fn without_a_leader_nothing_is_taken() {
    let mut replica = fresh(Config::new(1));
    assert_eq!(
        replica.propose(payload("x")),
        Err(Refused::NotLeader { leader: None })
    );
    assert_eq!(
        replica.forward(1, payload("x")),
        Err(Refused::NotLeader { leader: None })
    );
    assert_eq!(
        replica.transfer_leader(None),
        Err(Refused::NotLeader { leader: None })
    );
}

#[test]
fn the_tail_keeps_within_its_bytes_once_applied() {
    let mut config = Config::new(1);
    config.tail_bytes_max = 4_000;
    let mut replica = leading(config);
    for _ in 0..50 {
        replica.propose(Bytes::from(vec![1; 436])).unwrap();
        let write = write(&mut replica);
        replica.written(write.number);
        settle(&mut replica);
        replica.applied(write.entries[0].index);
    }
    let status = replica.status();
    assert!(status.tail_bytes <= 4_000, "{}", status.tail_bytes);
    assert_eq!(status.first_index, status.last_index - 7);
    replica.compact(u64::MAX);
    assert_eq!(replica.status().tail_bytes, 0);
    replica.propose(payload("goes on")).unwrap();
    assert_eq!(write(&mut replica).entries[0].index, 52);
}

#[test]
fn h2_a_single_voter_campaigns_only_when_its_log_is_durable() {
    // Two voters; this one follows member 2, has an unwritten entry, and then learns that member 2
    // is gone.
    let mut message = append(2, 1, 1);
    let restored = Restored {
        membership: members(&[1, 2]),
        ..Restored::default()
    };
    let mut replica = Replica::new(Config::new(1), restored).unwrap();
    let change = kvnode_replica::ConfChange::remove(2);
    let payload = change.encode();
    message.entries = vec![
        Entry {
            index: 1,
            term: 1,
            kind: EntryKind::ConfChange,
            payload,
        },
        Entry {
            index: 2,
            term: 1,
            kind: EntryKind::Normal,
            payload: Bytes::from_static(b"a"),
        },
    ];
    message.commit = 1;
    replica.step(message);
    let first = write(&mut replica);
    replica.written(first.number);
    let out = settle(&mut replica);
    assert_eq!(out.committed.len(), 1);
    let mut message = append(2, 1, 1);
    message.index = 2;
    message.log_term = 1;
    let kind = EntryKind::Normal;
    message.entries = vec![Entry {
        index: 3,
        term: 1,
        kind,
        payload: Bytes::from_static(b"unwritten"),
    }];
    message.commit = 1;
    replica.step(message);
    let unwritten = write(&mut replica);
    replica.applied(1);
    assert_eq!(settle(&mut replica).membership.unwrap().voters, [1]);
    replica.campaign_if_alone();
    for _ in 0..50 {
        replica.tick();
        settle(&mut replica);
        assert_eq!(
            replica.status().role,
            Role::Follower,
            "entry 3 is not durable"
        );
    }
    replica.written(unwritten.number);
    settle(&mut replica);
    assert_eq!(replica.status().role, Role::Leader);
}

/// An empty append from a leader.
pub fn append(from: u64, to: u64, term: u64) -> kvnode_replica::Message {
    kvnode_replica::Message {
        kind: kvnode_replica::Kind::Append,
        from,
        to,
        term,
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

#[test]
fn settings_without_sense_are_refused() {
    let spoilt: [fn(&mut Config); 5] = [
        |c| c.id = 0,
        |c| c.heartbeat_ticks = 0,
        |c| c.election_ticks = 1,
        |c| c.proposals_max = 0,
        |c| c.election_ticks = usize::MAX,
    ];
    for spoil in spoilt {
        let mut config = Config::new(1);
        spoil(&mut config);
        let restored = Restored {
            membership: members(&[1]),
            ..Restored::default()
        };
        assert!(matches!(
            Replica::new(config, restored),
            Err(Error::Config(_))
        ));
    }
}

#[test]
#[should_panic(expected = "write 9 reported")]
fn reporting_a_write_that_was_never_asked_for_is_a_bug_of_the_caller() {
    leading(Config::new(1)).written(9);
}

#[test]
#[should_panic(expected = "applied 2 reported")]
fn reporting_an_index_that_was_never_handed_out_is_a_bug_of_the_caller() {
    leading(Config::new(1)).applied(2);
}

#[test]
fn a_lone_voter_knows_the_read_index_only_once_its_term_has_committed() {
    let mut replica = fresh(Config::new(1));
    assert_eq!(replica.read_now(), None, "nobody leads");
    replica.campaign_if_alone();
    let first = write(&mut replica);
    assert_eq!(replica.read_now(), None, "nothing of the term is committed");
    replica.written(first.number);
    settle(&mut replica);
    assert_eq!(replica.read_now(), Some(1));
    replica.propose(payload("a")).unwrap();
    let second = write(&mut replica);
    assert_eq!(
        replica.read_now(),
        Some(1),
        "not on disk, so not acknowledged to anybody"
    );
    replica.written(second.number);
    settle(&mut replica);
    assert_eq!(replica.read_now(), Some(2));
}

#[test]
fn one_of_several_voters_never_answers_a_read_alone() {
    let restored = Restored {
        membership: members(&[1, 2, 3]),
        ..Restored::default()
    };
    let mut replica = Replica::new(Config::new(1), restored).unwrap();
    replica.campaign_if_alone();
    settle(&mut replica);
    assert_eq!(replica.read_now(), None);
}
