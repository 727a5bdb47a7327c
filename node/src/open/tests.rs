use kvnode_replica::{ConfChange, Config as ReplicaConfig};
use kvnode_wal::Options as LogOptions;

use super::*;

const IDENTITY: WalIdentity = WalIdentity {
    cluster: 7,
    member: 1,
    instance: [3; 16],
};

/// A log of ten entries that began in a joint configuration, which entry 5 leaves or does not.
fn joint_log(directory: &std::path::Path, leaves: bool) {
    let membership = Membership {
        voters: vec![1, 2, 4],
        voters_outgoing: vec![1, 2, 3],
        auto_leave: true,
        ..Membership::default()
    };
    let options = LogOptions {
        segment_bytes: 1 << 20,
        small_segments: true,
        ..LogOptions::default()
    };
    let mut log = Log::create(directory, IDENTITY, options, 9, membership, 1).unwrap();
    let entries: Vec<Entry> = (1..=10)
        .map(|index| match index {
            5 if leaves => Entry {
                index,
                term: 1,
                kind: EntryKind::ConfChange,
                payload: ConfChange::leave().encode(),
            },
            _ => Entry {
                index,
                term: 1,
                kind: EntryKind::Empty,
                payload: Default::default(),
            },
        })
        .collect();
    let hard_state = HardState {
        term: 1,
        vote: 0,
        commit: 10,
    };
    log.append(&entries, Some(hard_state), true, 2).unwrap();
    log.close(3).unwrap();
}

/// The outgoing voters of a member that starts again, having applied `applied`.
fn outgoing(directory: &std::path::Path, applied: u64) -> Vec<u64> {
    let mut recovered = read_log(directory, &IDENTITY, applied).unwrap();
    let members = Members::default();
    let restored = Restored {
        membership: membership(
            &members,
            applied,
            &recovered.membership,
            recovered.first_index,
        ),
        hard_state: recovered.hard_state,
        snapshot: (applied, 1),
        entries: std::mem::take(&mut recovered.entries),
        applied,
    };
    let replica = Replica::new(ReplicaConfig::new(1), restored).unwrap();
    replica.membership().voters_outgoing.clone()
}

#[test]
fn a_joint_configuration_that_was_left_before_what_is_applied_is_not_taken_for_the_present_one() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("left");
    std::fs::create_dir(&directory).unwrap();
    joint_log(&directory, true);
    assert!(outgoing(&directory, 10).is_empty());
    assert!(outgoing(&directory, 5).is_empty());
    assert_eq!(outgoing(&directory, 4), [1, 2, 3], "not left yet");
}

#[test]
fn a_joint_configuration_that_nothing_has_left_stays() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("joint");
    std::fs::create_dir(&directory).unwrap();
    joint_log(&directory, false);
    assert_eq!(outgoing(&directory, 10), [1, 2, 3]);
}
