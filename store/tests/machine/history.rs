//! Replay of the past.

use kvnode_api::{KeyRange, PutRequest, Status};
use kvnode_store::{Change, Config, Kind};

use super::harness::{Machine, bytes, entry, fresh, op, put, summary, then, with};
use super::model::Model;

/// 10 busy keys and 300 quiet ones, put and deleted in a fixed pseudo-random order.
fn lively(config: Config) -> (Machine, Model) {
    let mut machine = with(config);
    let mut model = Model::new();
    let mut state = 1u64;
    let mut random = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut entries = Vec::new();
    for n in 0..1500u64 {
        let key = match random(3) {
            0 => format!("quiet{:03}", random(300)),
            _ => format!("busy{}", random(10)),
        };
        if random(10) == 0 {
            let request = super::harness::delete(&key, "");
            model.apply_delete(&request);
            entries.push(entry(n + 1, Kind::DeleteRange, &request));
        } else {
            let request = put(&key, &format!("value {n}"));
            model.apply_put(&request).unwrap();
            entries.push(entry(n + 1, Kind::Put, &request));
        }
    }
    machine.step(&entries);
    (machine, model)
}

#[test]
fn replay_in_any_pieces_is_what_was_sent_live() {
    for hist_inline_new_value in [false, true] {
        let (machine, model) = lively(Config {
            hist_inline_new_value,
            ..Config::default()
        });
        assert_eq!(machine.changes, model.changes(2, -1));
        for piece in [1, 7, 100, 5000] {
            assert_eq!(
                machine.history(2, piece),
                machine.changes,
                "pieces of {piece}"
            );
        }
        let late = machine.revision() - 5;
        assert_eq!(
            machine.history(late, 2),
            machine.changes[machine.changes.len() - 6..]
        );
    }
}

#[test]
fn stores_may_switch_between_the_shapes_of_history() {
    let disk = kvnode_store::engine::memory::MemoryDisk::default();
    let open = |hist_inline_new_value| {
        let engine = kvnode_store::engine::memory::MemoryEngine::open(&disk);
        Machine::new(
            engine,
            Config {
                hist_inline_new_value,
                ..Config::default()
            },
        )
    };
    let mut live: Vec<Change> = Vec::new();
    for (round, inline) in [false, true, false, true].into_iter().enumerate() {
        let mut machine = open(inline);
        for key in ["a", "b", "a"] {
            machine.put(key, &round.to_string());
        }
        live.extend(machine.changes.iter().cloned());
        assert_eq!(machine.history(2, 3), live);
    }
}

#[test]
fn replay_can_be_cut_to_keys_and_revisions() {
    let (machine, model) = lively(Config::default());
    let view = machine.view();
    for (key, end) in [
        ("busy3", ""),
        ("quiet", "quiet1"),
        ("nothing", ""),
        ("c", "\0"),
    ] {
        let range = KeyRange::new(&bytes(key), &bytes(end));
        let mut expected = model.changes(100, -1);
        expected.retain(|change| change.revision <= 900);
        expected.retain_mut(|change| {
            change
                .events
                .retain(|event| range.contains(&event.kv.as_ref().unwrap().key));
            !change.events.is_empty()
        });
        let history = view.history(100, 900, &range, usize::MAX).unwrap();
        assert_eq!((history.changes, history.next), (expected, 901));
    }
    let two = view.history(100, i64::MAX, &KeyRange::all(), 2).unwrap();
    assert_eq!((two.changes.len(), two.next), (2, 102));
}

#[test]
fn replay_beyond_the_present_says_where_to_wait() {
    let mut machine = fresh();
    machine.put("a", "1");
    let view = machine.view();
    let ahead = view.history(3, i64::MAX, &KeyRange::all(), 10).unwrap();
    assert_eq!((ahead.changes.len(), ahead.next), (0, 3));
    let far = view.history(50, i64::MAX, &KeyRange::all(), 10).unwrap();
    assert_eq!((far.changes.len(), far.next), (0, 3));
    let all = view.history(0, i64::MAX, &KeyRange::all(), 10).unwrap();
    assert_eq!((all.changes.len(), all.next), (1, 3));
}

#[test]
fn a_revision_is_never_split() {
    let mut machine = fresh();
    let ops = (0..50).map(|n| op(put(&format!("{n:02}"), "v")));
    machine.txn(then(ops)).unwrap();
    machine.put("00", "w");
    let history = machine.view().history(2, 9, &KeyRange::all(), 1).unwrap();
    assert_eq!((history.changes.len(), history.next), (1, 3));
    assert_eq!(history.changes[0].events.len(), 50);
    assert_eq!(history.changes[0], machine.changes[0]);
}

#[test]
fn below_the_compact_revision_there_is_no_replay() {
    let mut machine = fresh();
    for value in ["1", "2", "3"] {
        machine.put("a", value);
    }
    machine.compact(3).unwrap();
    machine.compact_physically();
    let view = machine.view();
    for from in [-1, 0, 1, 2] {
        assert_eq!(
            view.history(from, 9, &KeyRange::all(), 9),
            Err(Status::compacted())
        );
    }
    let changes = view.history(3, 9, &KeyRange::all(), 9).unwrap().changes;
    assert_eq!(changes.len(), 2);
    let prev = |change: &Change| change.events[0].prev_kv.clone().map(|kv| kv.value);
    assert_eq!(
        (prev(&changes[0]), prev(&changes[1])),
        (None, Some(bytes("2")))
    );
}

#[test]
fn a_delete_at_the_compact_revision_is_replayed_for_its_key_alone() {
    let mut machine = fresh();
    machine.put("a", "1");
    machine.delete("a", "");
    machine.compact(3).unwrap();
    machine.compact_physically();
    machine.put("a", "2");
    let own = KeyRange::new(&bytes("a"), &bytes(""));
    let changes = machine.view().history(3, 9, &own, 9).unwrap().changes;
    assert_eq!(
        changes.iter().flat_map(summary).collect::<Vec<_>>(),
        ["DELETE a", "PUT a"]
    );
    assert_eq!(
        machine.view().history(4, 9, &own, 9).unwrap().changes,
        changes[1..]
    );
}

#[test]
fn a_put_superseded_at_the_compact_revision_itself_is_gone() {
    let mut machine = fresh();
    machine.put("b", "1");
    let siblings = [
        op(then([op(put("a", "1")), op(put("b", "2"))])),
        op(then([op(super::harness::delete("a", ""))])),
    ];
    machine.txn(then(siblings)).unwrap();
    assert_eq!(
        summary(&machine.history(3, 1)[0]),
        ["PUT a", "PUT b", "DELETE a"]
    );
    machine.compact(3).unwrap();
    assert_eq!(summary(&machine.history(3, 1)[0]), ["PUT b", "DELETE a"]);
}

#[test]
fn events_carry_the_lease_and_a_revoke_looks_like_any_delete() {
    let mut machine = fresh();
    machine.grant(4, 10).unwrap();
    machine
        .try_put(PutRequest {
            lease: 4,
            ..put("a", "1")
        })
        .unwrap();
    machine.revoke(4).unwrap();
    assert_eq!(machine.history(2, 9), machine.changes);
    assert_eq!(machine.changes[0].events[0].kv.as_ref().unwrap().lease, 4);
    assert_eq!(summary(&machine.changes[1]), ["DELETE a"]);
}
