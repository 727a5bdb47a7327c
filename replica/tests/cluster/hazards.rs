//! One directed scenario per known hazard of the raft crate (H1..H14), and one found here (H15).
//! Random runs miss narrow ones for hours; each of these takes one.
//!
//! H2 lives in `single.rs`, the storage side of H7 beside the log's tail.

use bytes::Bytes;
use kvnode_replica::{
    ConfChange, Config, Error, Kind, Message, Output, Refused, Replica, Restored, Role,
};
use kvnode_wal::{Entry, EntryKind, Membership};

use crate::chance::Rng;
use crate::single::{append, members};
use crate::world::World;

fn others(world: &World, id: u64) -> Vec<u64> {
    world
        .nodes
        .keys()
        .copied()
        .filter(|&other| other != id)
        .collect()
}

#[test]
fn h1_a_leader_that_applies_its_own_removal_survives_its_later_writes() {
    let mut world = World::new(11, 3);
    world.fixed_members = false;
    let a = world.until_leader();
    world.run(5);
    let [b, c] = others(&world, a)[..] else {
        unreachable!()
    };
    // a asks for b's removal and hands over to b before that is committed: a's own disk hangs, and
    // c's answers are lost.
    world.filter = Some(Box::new(move |m| {
        !(m.kind == Kind::AppendAnswer && m.from == c)
    }));
    world.node(a).disk.stalled = true;
    world.node(a).replica().stalled(false);
    world.change(a, &ConfChange::remove(b)).unwrap();
    world.node(a).replica().transfer_leader(Some(b)).unwrap();
    world.settle(a);
    world.until(10, "b leads", |world| world.leader() == Some(b));
    assert!(
        world.nodes[&b]
            .replica
            .as_ref()
            .unwrap()
            .membership()
            .voters
            .contains(&b)
    );
    world.filter = None;
    let first = world.nodes[&b].status().last_index;
    world.until(30, "the removal commits", |world| {
        world.nodes[&b].status().persisted >= first
    });
    // b has an entry of its own on its way to a hanging disk when it applies its removal.
    world.propose(b).unwrap();
    world.node(b).disk.stalled = true;
    world.until(30, "b applies its removal", |world| world.nodes[&b].removed);
    assert_eq!(world.nodes[&b].status().role, Role::Out);
    assert_eq!(world.propose(b), Err(Refused::Removed));
    world.node(b).disk.stalled = false;
    world.node(a).disk.stalled = false;
    world.run(10);
    world.crash(b);
    let leader = world.until_leader();
    world.propose(leader).unwrap();
    world.until(20, "the others go on", World::converged);
    assert_eq!(
        world.nodes[&leader]
            .replica
            .as_ref()
            .unwrap()
            .membership()
            .voters
            .len(),
        2
    );
}

#[test]
fn h1_removing_the_leader_is_refused_until_it_has_handed_over() {
    let mut world = World::new(12, 3);
    world.fixed_members = false;
    let leader = world.until_leader();
    world.run(5);
    let refused = world.change(leader, &ConfChange::remove(leader));
    assert_eq!(refused, Err(Refused::TransferFirst));
    let refused = world.change(leader, &ConfChange::learner(leader));
    assert_eq!(refused, Err(Refused::TransferFirst));
    let next = world.node(leader).replica().transfer_leader(None).unwrap();
    world.settle(leader);
    world.until(10, "handed over", |world| world.leader() == Some(next));
    world.run(5);
    world.change(next, &ConfChange::remove(leader)).unwrap();
    world.until(20, "it is out", |world| world.nodes[&leader].removed);
}

#[test]
fn h3_doubled_asks_and_late_heartbeat_answers_confirm_no_later_read() {
    let mut world = World::new(13, 3);
    world.record = Some(Vec::new());
    let old = world.until_leader();
    let [b, _] = others(&world, old)[..] else {
        unreachable!()
    };
    for id in [old, b, old, b] {
        world.read(id);
        world.run(3);
    }
    assert_eq!(world.reads_checked, 4);
    let frames = world.record.take().unwrap();
    // The leader is paused while the others elect another and commit.
    world.pause(old);
    world.until(60, "another leader", |world| {
        world.leader().is_some_and(|id| id != old)
    });
    let new = world.until_leader();
    let payload = world.propose(new).unwrap();
    world.run(5);
    assert!(world.executed.contains_key(&payload[..]));
    // It comes back knowing nothing of it, alone with everything the network still holds.
    world.node(old).paused = false;
    world.partition(&[old]);
    assert_eq!(world.nodes[&old].status().role, Role::Leader);
    let token = world.read(old);
    let mut injected = 0;
    for _ in 0..2 {
        for frame in &frames {
            let message = Message::decode(frame.clone(), &Default::default()).unwrap();
            if message.to == old && matches!(message.kind, Kind::ReadAsk | Kind::HeartbeatAnswer) {
                world.inject(frame.clone());
                injected += 1;
            }
        }
    }
    assert!(injected > 10);
    assert!(
        !world.nodes[&old].reads.contains_key(&token),
        "nobody has confirmed it"
    );
    world.heal();
    world.until(60, "answered by the new leader", |world| {
        world.nodes[&old].reads.contains_key(&token)
    });
    assert!(world.nodes[&old].reads[&token].is_ok());
}

#[test]
fn h4_a_leader_that_only_believes_it_leads_answers_no_read() {
    let mut world = World::new(14, 3);
    let old = world.until_leader();
    world.run(5);
    world.partition(&[old]);
    let token = world.read(old);
    world.run(9);
    assert_eq!(
        world.nodes[&old].status().role,
        Role::Leader,
        "it still believes so"
    );
    assert!(!world.nodes[&old].reads.contains_key(&token));
}

fn follower(voters: &[u64]) -> Replica {
    let restored = Restored {
        membership: members(voters),
        ..Restored::default()
    };
    Replica::new(Config::new(1), restored).unwrap()
}

fn settle(replica: &mut Replica) -> Output {
    let mut all = Output::default();
    let mut out = Output::default();
    while replica.poll(&mut out) {
        all.messages.append(&mut out.messages);
        all.committed.append(&mut out.committed);
        all.write = out.write.take().or(all.write);
        all.failure = out.failure.take().or(all.failure);
        all.role = out.role.or(all.role);
    }
    all
}

fn normal(index: u64, term: u64) -> Entry {
    Entry {
        index,
        term,
        kind: EntryKind::Normal,
        payload: Bytes::from_static(b"x"),
    }
}

#[test]
fn h5_a_heartbeat_beyond_the_log_stops_the_replica_with_the_numbers() {
    let mut replica = follower(&[1, 2, 3]);
    let mut entries = append(2, 1, 4);
    entries.entries = vec![normal(1, 4), normal(2, 4)];
    replica.step(entries);
    let number = settle(&mut replica).write.unwrap().number;
    replica.written(number);
    settle(&mut replica);
    let mut heartbeat = append(2, 1, 4);
    heartbeat.kind = Kind::Heartbeat;
    // A leader of an older term is not listened to, whatever it says.
    replica.step(Message {
        term: 3,
        commit: 99,
        ..heartbeat.clone()
    });
    assert_eq!(settle(&mut replica).failure, None);
    replica.step(Message {
        commit: 7,
        ..heartbeat.clone()
    });
    let out = settle(&mut replica);
    let expected = Error::LogRegressed {
        leader: 2,
        term: 4,
        told: 7,
        last: 2,
    };
    assert_eq!(out.failure, Some(expected));
    assert!(out.messages.is_empty() && out.write.is_none() && out.committed.is_empty());
    // From then on nothing is promised any more.
    replica.step(heartbeat);
    replica.tick();
    replica.read(1);
    assert_eq!(
        replica.propose(Bytes::from_static(b"x")),
        Err(Refused::Failed)
    );
    assert!(settle(&mut replica).messages.is_empty());
    assert_eq!(replica.status().role, Role::Out);
}

#[test]
fn h6_no_campaign_while_a_snapshot_is_installed_but_not_applied() {
    let mut replica = follower(&[1, 2, 3]);
    let mut snapshot = append(2, 1, 3);
    snapshot.kind = Kind::Snapshot;
    snapshot.index = 40;
    snapshot.log_term = 2;
    snapshot.membership = Some(Membership {
        index: 40,
        ..members(&[1, 2, 3])
    });
    replica.step(snapshot);
    let write = settle(&mut replica).write.unwrap();
    assert_eq!(write.install.as_ref().unwrap().index, 40);
    let mut timeout_now = append(2, 1, 3);
    timeout_now.kind = Kind::TimeoutNow;
    for stage in ["not written", "not applied"] {
        for _ in 0..60 {
            replica.tick();
            settle(&mut replica);
        }
        replica.step(timeout_now.clone());
        settle(&mut replica);
        assert_eq!(replica.status().role, Role::Follower, "{stage}");
        if stage == "not written" {
            replica.written(write.number);
            settle(&mut replica);
        }
    }
    replica.applied(40);
    replica.step(timeout_now);
    settle(&mut replica);
    assert_eq!(replica.status().role, Role::Candidate);
}

#[test]
fn h7_a_learner_added_after_the_newest_snapshot_gets_one_that_names_it() {
    let mut world = World::new(17, 3);
    world.fixed_members = false;
    let leader = world.until_leader();
    for _ in 0..30 {
        world.propose(leader).unwrap();
    }
    world.until(20, "applied", World::converged);
    world.snapshot(leader, 0);
    world.change(leader, &ConfChange::learner(4)).unwrap();
    world.add(4, members(&[1, 2, 3]));
    world.until(100, "the learner has caught up", World::converged);
    let learner = &world.nodes[&4];
    assert_eq!(learner.replica.as_ref().unwrap().membership().learners, [4]);
    // It asks at most once per heartbeat round trip until the offer is made, not for ever.
    assert!(world.nodes[&leader].snapshots_wanted < 20);
}

#[test]
fn h8_entries_sent_again_below_a_followers_commit_do_no_harm() {
    let mut world = World::new(18, 3);
    world.record = Some(Vec::new());
    let leader = world.until_leader();
    let [b, c] = others(&world, leader)[..] else {
        unreachable!()
    };
    for round in 0..30 {
        world.propose(leader).unwrap();
        if round % 3 == 0 {
            world.node(leader).replica().report_unreachable(b);
            world.settle(leader);
        }
        world.run(1);
    }
    let frames = world.record.take().unwrap();
    world.snapshot(b, 0);
    world.snapshot(c, 5);
    for frame in frames {
        world.inject(frame);
    }
    world.propose(leader).unwrap();
    world.until(30, "all agree", World::converged);
}

#[test]
fn h9_a_fresh_leader_holds_reads_until_its_first_commit() {
    let mut world = World::new(19, 3);
    let old = world.until_leader();
    world.run(5);
    world.crash(old);
    // The next leader's entries reach nobody: it leads, but has committed nothing.
    world.filter = Some(Box::new(|m| m.kind != Kind::Append || m.entries.is_empty()));
    world.until(100, "a leader", |world| world.leader().is_some());
    let new = world.leader().unwrap();
    let token = world.read(new);
    world.run(5);
    assert_eq!(world.nodes[&new].status().role, Role::Leader);
    assert!(!world.nodes[&new].status().settled);
    assert!(!world.nodes[&new].reads.contains_key(&token));
    world.filter = None;
    world.until(50, "answered", |world| {
        world.nodes[&new].reads.contains_key(&token)
    });
    assert!(world.nodes[&new].reads[&token].is_ok());
}

#[test]
fn h10_two_members_reading_at_once_are_both_answered() {
    let mut world = World::new(20, 3);
    let leader = world.until_leader();
    world.run(5);
    // Same life, same counter: only the member differs.
    let followers = others(&world, leader);
    let tokens: Vec<u64> = followers.iter().map(|&id| world.read(id)).collect();
    world.run(4);
    for (id, token) in followers.iter().zip(tokens) {
        assert!(world.nodes[id].reads[&token].is_ok());
    }
}

#[test]
fn h11_a_doubled_forward_is_taken_once() {
    let mut world = World::new(21, 3);
    let leader = world.until_leader();
    world.run(5);
    let follower = others(&world, leader)[0];
    world.record = Some(Vec::new());
    let payload = world.fresh_payload();
    world
        .node(follower)
        .replica()
        .forward(5, payload.clone())
        .unwrap();
    world.settle(follower);
    let forward = world.record.take().unwrap().pop().unwrap();
    world.run(3);
    let once = world.executed[&payload[..]];
    world.inject(forward);
    world.run(3);
    assert_eq!(world.executed[&payload[..]], once);
    assert_eq!(world.nodes[&follower].forwards, [(5, Ok(()))]);
}

#[test]
fn h11_a_forward_that_arrives_under_a_later_term_is_not_taken() {
    let mut world = World::new(21, 3);
    let old = world.until_leader();
    world.run(5);
    let follower = others(&world, old)[0];
    world.record = Some(Vec::new());
    let payload = world.fresh_payload();
    world
        .node(follower)
        .replica()
        .forward(5, payload.clone())
        .unwrap();
    world.settle(follower);
    let frame = world.record.take().unwrap().pop().unwrap();
    let mut late = Message::decode(frame, &kvnode_replica::Limits::default()).unwrap();
    world.run(3);
    let once = world.executed[&payload[..]];
    world.node(old).replica().step_down();
    world.settle(old);
    world.until(80, "a later term", |world| world.leader().is_some());
    let new = world.until_leader();
    world.run(5);
    // Even at the member that leads now, and would take the same command under its own term.
    if new != follower {
        late.to = new;
        let mut frame = bytes::BytesMut::new();
        late.encode_into(&mut frame);
        world.inject(frame.freeze());
        world.run(3);
        // Nor refused: a refusal means that it was never taken, and who leads now cannot know.
        assert_eq!(world.nodes[&follower].forwards, [(5, Ok(()))]);
    }
    assert_eq!(world.executed[&payload[..]], once);
}

/// Found by the simulator: the second delivery was refused though the first was taken, so the asker
/// was told that nothing would happen, and might have asked again.
#[test]
fn h11_a_doubled_forward_is_not_refused_once_it_was_taken() {
    let mut world = World::new(21, 3);
    let old = world.until_leader();
    world.run(5);
    let follower = others(&world, old)[0];
    world.record = Some(Vec::new());
    let payload = world.fresh_payload();
    let replica = world.node(follower).replica();
    replica.forward(5, payload.clone()).unwrap();
    world.settle(follower);
    let frame = world.record.take().unwrap().pop().unwrap();
    world.run(3);
    let once = world.executed[&payload[..]];
    world.node(old).replica().step_down();
    world.settle(old);
    // Without the lead, and again when somebody leads a later term.
    world.inject(frame.clone());
    world.until(80, "a later term", |world| world.leader().is_some());
    world.until_leader();
    world.inject(frame);
    world.run(5);
    assert_eq!(world.nodes[&follower].forwards, [(5, Ok(()))]);
    assert_eq!(world.executed[&payload[..]], once);
}

#[test]
fn h11_a_forward_that_a_former_leader_never_saw_is_refused_once() {
    let mut world = World::new(21, 3);
    let old = world.until_leader();
    world.run(5);
    let follower = others(&world, old)[0];
    let payload = world.fresh_payload();
    world.node(old).replica().step_down();
    world.settle(old);
    world.record = Some(Vec::new());
    // The follower has not heard yet.
    let replica = world.node(follower).replica();
    replica.forward(5, payload.clone()).unwrap();
    world.settle(follower);
    let frame = world.record.take().unwrap().pop().unwrap();
    world.run(1);
    world.inject(frame);
    world.run(30);
    let refused = Err(Refused::NotLeader { leader: None });
    assert_eq!(world.nodes[&follower].forwards, [(5, refused)]);
    assert!(!world.executed.contains_key(&payload[..]));
}

#[test]
fn h12_a_leader_whose_disk_hangs_hands_over_and_falls_silent() {
    let mut world = World::new(22, 3);
    let old = world.until_leader();
    world.run(5);
    world.node(old).disk.stalled = true;
    world.until(4, "a peer takes over at once", |world| {
        world.leader().is_some_and(|id| id != old)
    });
    let new = world.until_leader();
    for _ in 0..10 {
        world.propose(new).unwrap();
    }
    world.run(10);
    assert_eq!(world.executed.len(), 10, "two of three are enough");
    world.node(old).disk.stalled = false;
    world.until(40, "all agree", World::converged);
}

#[test]
fn h12_a_stalled_leader_without_a_current_peer_stops_keeping_others_from_leading() {
    let mut world = World::new(23, 3);
    let old = world.until_leader();
    world.run(5);
    // What it takes now reaches nobody, so nobody is current.
    world.filter = Some(Box::new(|m| m.entries.is_empty()));
    world.propose(old).unwrap();
    world.run(2);
    world.node(old).disk.stalled = true;
    world.run(2);
    assert_eq!(world.propose(old), Err(Refused::Stalled));
    let token = world.read(old);
    world.filter = None;
    world.until(60, "another leads", |world| {
        world.leader().is_some_and(|id| id != old)
    });
    world.until_leader();
    world.node(old).disk.stalled = false;
    world.until(60, "all agree", World::converged);
    assert!(world.nodes[&old].reads[&token].is_ok());
}

#[test]
fn h12_a_single_voter_goes_on_leading_with_a_stalled_disk() {
    let mut world = World::new(24, 1);
    world.until_leader();
    world.run(3);
    world.node(1).disk.stalled = true;
    world.run(50);
    assert_eq!(world.nodes[&1].status().role, Role::Leader);
    world.propose(1).unwrap();
    let token = world.read(1);
    assert!(world.nodes[&1].reads[&token].is_ok(), "reads need no disk");
    world.node(1).disk.stalled = false;
    world.until(10, "written after all", |world| world.executed.len() == 1);
}

/// A leader of three in term 1 by the votes of member 2, with everything written.
fn leader_of_three() -> Replica {
    let mut replica = follower(&[1, 2, 3]);
    while replica.status().role == Role::Follower {
        replica.tick();
        settle(&mut replica);
    }
    for kind in [Kind::PreVoteAnswer, Kind::VoteAnswer] {
        replica.step(Message {
            kind,
            ..append(2, 1, 1)
        });
        let number = settle(&mut replica).write.unwrap().number;
        replica.written(number);
        settle(&mut replica);
    }
    assert_eq!(replica.status().role, Role::Leader);
    replica
}

#[test]
fn h13_answers_beyond_the_leaders_log_are_dropped() {
    let mut replica = leader_of_three();
    let last = replica.status().last_index;
    let answer = Message {
        kind: Kind::AppendAnswer,
        ..append(2, 1, 1)
    };
    replica.step(Message {
        index: last + 1,
        ..answer.clone()
    });
    replica.step(Message {
        rejected: true,
        hint: u64::MAX,
        ..answer.clone()
    });
    assert_eq!(replica.status().dropped_messages, 2);
    assert_eq!(replica.status().commit, 0);
    replica.step(Message {
        index: last,
        ..answer
    });
    assert_eq!(replica.status().commit, last);
}

/// Messages that pass the codec, with small numbers so that they meet each other, in any order and
/// from anyone. Whatever they do to the data, none may reach a panic inside raft.
#[test]
fn h13_no_message_from_a_peer_reaches_a_panic() {
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let mut replica = if seed % 2 == 0 {
            follower(&[1, 2, 3])
        } else {
            leader_of_three()
        };
        let mut given = 0;
        let mut pending = Vec::new();
        let mut applied_to = 0;
        for _ in 0..150 {
            replica.step(noise(&mut rng));
            if rng.chance(20) {
                replica.tick();
            }
            if rng.chance(10) {
                let _ = replica.propose(Bytes::from_static(b"mine"));
                replica.read(1);
            }
            let mut out = Output::default();
            while replica.poll(&mut out) {
                if let Some(write) = out.write.take() {
                    pending.push((write.number, write.install.map(|i| i.index)));
                }
                given = out.committed.last().map_or(given, |entry| entry.index);
                out.clear();
            }
            if rng.chance(60) && replica.status().role != Role::Out {
                if let Some((number, _)) = pending.last().copied() {
                    replica.written(number);
                    for (_, install) in pending.drain(..) {
                        given = given.max(install.unwrap_or(0));
                        applied_to = applied_to.max(install.unwrap_or(0));
                    }
                }
                if rng.chance(70) {
                    applied_to = applied_to.max(given);
                }
                if applied_to > replica.status().applied && applied_to <= replica.status().persisted
                {
                    replica.applied(applied_to);
                }
            }
        }
    }
}

fn noise(rng: &mut Rng) -> Message {
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
    loop {
        let kind = if rng.chance(40) {
            Kind::Append
        } else {
            KINDS[rng.below(14) as usize]
        };
        let mut message = append(rng.between(2, 4), 1, rng.between(1, 6));
        message.kind = kind;
        message.index = rng.below(8);
        message.log_term = rng.below(message.term + 1);
        if kind == Kind::Append {
            message.log_term = if message.index == 0 {
                0
            } else {
                message.log_term.max(1)
            };
        }
        message.commit = rng.below(if kind == Kind::Heartbeat { 3 } else { 9 });
        message.commit_term = rng.below(5);
        message.hint = if rng.chance(10) {
            u64::MAX
        } else {
            rng.below(9)
        };
        message.rejected = rng.chance(30);
        message.by_transfer = rng.chance(30);
        if kind == Kind::Append {
            let mut term = message.log_term.max(1);
            for at in 0..rng.below(4) {
                term = rng.between(term, message.term);
                message.entries.push(normal(message.index + 1 + at, term));
            }
        }
        if kind == Kind::Forward {
            message.entries.push(normal(1, 0));
        }
        if kind == Kind::Snapshot {
            let mut voters = vec![1, 2, 3];
            voters.truncate(rng.between(1, 3) as usize);
            let learners = if rng.chance(20) { vec![7] } else { vec![] };
            message.membership = Some(Membership {
                learners,
                ..members(&voters)
            });
        }
        if message.check().is_ok() {
            return message;
        }
    }
}

#[test]
fn h14_an_empty_learner_is_not_promoted() {
    let mut world = World::new(25, 3);
    world.fixed_members = false;
    let leader = world.until_leader();
    for _ in 0..50 {
        world.propose(leader).unwrap();
    }
    world.run(10);
    world.change(leader, &ConfChange::learner(4)).unwrap();
    world.run(5);
    let commit = world.nodes[&leader].status().commit;
    let refused = world.change(leader, &ConfChange::voter(4));
    let behind = Refused::LearnerBehind {
        member: 4,
        matched: 0,
        commit,
    };
    assert_eq!(refused, Err(behind));
    let known = world.nodes[&leader]
        .replica
        .as_ref()
        .unwrap()
        .membership()
        .clone();
    world.add(4, known);
    world.until(50, "the learner has caught up", World::converged);
    world.run(3);
    world.change(leader, &ConfChange::voter(4)).unwrap();
    world.until(20, "promoted", |world| {
        world.nodes[&4]
            .replica
            .as_ref()
            .unwrap()
            .membership()
            .voters
            == [1, 2, 3, 4]
    });
    // One that has fallen silent is not promoted either.
    world.crash(4);
    world.change(leader, &ConfChange::learner(4)).unwrap();
    world.run(15);
    let refused = world.change(leader, &ConfChange::voter(4));
    assert!(matches!(refused, Err(Refused::LearnerBehind { .. })));
}

/// raft lets a leader's messages go at once. A single voter makes itself leader and speaks in its
/// new term within one step, before that term is on its disk; after a crash it could speak in the
/// same term again, with other entries.
#[test]
fn h15_a_single_voter_with_a_learner_says_nothing_in_a_term_that_is_not_durable() {
    let membership = Membership {
        learners: vec![2],
        ..members(&[1])
    };
    let restored = Restored {
        membership,
        ..Restored::default()
    };
    let mut replica = Replica::new(Config::new(1), restored).unwrap();
    replica.campaign_if_alone();
    let out = settle(&mut replica);
    assert_eq!(replica.status().role, Role::Leader);
    assert!(out.messages.is_empty(), "{:?}", out.messages);
    let first = out.write.unwrap();
    replica.propose(Bytes::from_static(b"x")).unwrap();
    replica.tick();
    let out = settle(&mut replica);
    assert!(out.messages.is_empty(), "{:?}", out.messages);
    replica.written(first.number);
    let kinds: Vec<Kind> = settle(&mut replica)
        .messages
        .iter()
        .map(|m| m.kind)
        .collect();
    assert!(
        kinds.contains(&Kind::Append) && kinds.contains(&Kind::Heartbeat),
        "{kinds:?}"
    );
    // From here on messages run beside the disk again. The probe has to be answered first.
    let mut answer = append(2, 1, 1);
    answer.kind = Kind::AppendAnswer;
    answer.index = 1;
    replica.step(answer);
    let out = settle(&mut replica);
    assert!(
        out.messages
            .iter()
            .any(|m| m.kind == Kind::Append && !m.entries.is_empty())
    );
    assert!(replica.status().persisted < replica.status().last_index);
}
