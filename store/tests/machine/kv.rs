//! Revisions, put and delete.

use kvnode_api::{Code, KeyValue, PutRequest, Status};
use kvnode_store::{Command, CommandError, Committed, Header, Kind};

use super::harness::{
    all, bytes, delete, entry, fresh, header_revision, keys, put, range, summary,
};

#[test]
fn a_fresh_store_is_empty_at_revision_1() {
    let machine = fresh();
    let response = machine.range(range("any", "")).unwrap();
    assert_eq!(header_revision(&response.header), 1);
    assert_eq!((response.kvs.len(), response.count), (0, 0));
    assert_eq!(machine.view().compact_revision(), -1);
    assert_eq!(machine.view().hash_kv(0).unwrap().hash, 1_084_519_789);
}

#[test]
fn deleting_nothing_uses_no_revision() {
    let mut machine = fresh();
    let response = machine.delete("absent", "");
    assert_eq!(
        (response.deleted, header_revision(&response.header)),
        (0, 1)
    );
    assert_eq!(machine.revision(), 1);
    assert!(machine.changes.is_empty());
}

#[test]
fn the_first_put_gets_revision_2_and_version_1() {
    let mut machine = fresh();
    assert_eq!(header_revision(&machine.put("k", "v").header), 2);
    let expected = KeyValue {
        key: bytes("k"),
        create_revision: 2,
        mod_revision: 2,
        version: 1,
        value: bytes("v"),
        lease: 0,
    };
    assert_eq!(machine.get("k"), Some(expected));
}

#[test]
fn an_identical_put_is_still_a_new_revision() {
    let mut machine = fresh();
    machine.put("k", "v");
    assert_eq!(header_revision(&machine.put("k", "v").header), 3);
    let kv = machine.get("k").unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
}

#[test]
fn a_key_put_after_its_delete_starts_anew() {
    let mut machine = fresh();
    machine.put("k", "v");
    machine.put("k", "v");
    machine.delete("k", "");
    machine.put("k", "v");
    let kv = machine.get("k").unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
}

#[test]
fn refused_puts_use_no_revision() {
    let mut machine = fresh();
    let with = |edit: fn(&mut PutRequest)| {
        let mut request = put("k", "");
        edit(&mut request);
        request
    };
    for (request, status) in [
        (with(|put| put.key.clear()), Status::key_not_provided()),
        (
            with(|put| (put.ignore_value, put.value) = (true, bytes("x"))),
            Status::value_provided(),
        ),
        (
            with(|put| (put.ignore_lease, put.lease) = (true, 5)),
            Status::lease_provided(),
        ),
        (with(|put| put.ignore_value = true), Status::key_not_found()),
        (with(|put| put.ignore_lease = true), Status::key_not_found()),
        (with(|put| put.lease = 404), Status::lease_not_found()),
        // Both wrong: the lease is looked at first.
        (
            with(|put| (put.lease, put.ignore_value) = (404, true)),
            Status::lease_not_found(),
        ),
        (
            with(|put| put.key = vec![b'k'; 65_535].into()),
            Status::request_too_large(),
        ),
    ] {
        assert_eq!(machine.try_put(request), Err(status));
    }
    assert_eq!(machine.revision(), 1);
    assert_eq!(
        machine.view().applied_index(),
        8,
        "refused entries still count as applied"
    );
    assert!(machine.changes.is_empty());
}

#[test]
fn the_longest_key_that_fits_can_be_written_read_and_leased() {
    let mut machine = fresh();
    machine.grant(7, 10).unwrap();
    let key = vec![0xff; 65_525];
    let request = PutRequest {
        key: key.clone().into(),
        lease: 7,
        ..put("", "v")
    };
    machine.try_put(request).unwrap();
    assert_eq!(
        machine.view().get(&key.into()).unwrap().unwrap().value,
        bytes("v")
    );
    machine.revoke(7).unwrap();
    assert_eq!(machine.range(all()).unwrap().count, 0);
}

#[test]
fn an_empty_value_is_stored() {
    let mut machine = fresh();
    machine.put("k", "");
    assert_eq!(machine.get("k").unwrap().value, bytes(""));
}

#[test]
fn prev_kv_of_a_put_is_absent_for_a_new_key_and_whole_for_an_old_one() {
    let mut machine = fresh();
    let request = PutRequest {
        prev_kv: true,
        ..put("k", "1")
    };
    assert_eq!(machine.try_put(request.clone()).unwrap().prev_kv, None);
    let before = machine.get("k");
    assert_eq!(machine.try_put(request).unwrap().prev_kv, before);
    assert_eq!(machine.put("k", "2").prev_kv, None, "not asked for");
}

#[test]
fn ignore_value_keeps_the_value_and_counts_as_a_put() {
    let mut machine = fresh();
    machine.put("k", "v");
    machine
        .try_put(PutRequest {
            ignore_value: true,
            ..put("k", "")
        })
        .unwrap();
    let kv = machine.get("k").unwrap();
    assert_eq!((kv.value, kv.version, kv.mod_revision), (bytes("v"), 2, 3));
}

#[test]
fn a_range_delete_is_one_revision_with_pairs_and_events_in_key_order() {
    let mut machine = fresh();
    for key in ["c", "a", "b", "d"] {
        machine.put(key, "v");
    }
    let response = machine.delete("a", "d");
    assert_eq!(
        (response.deleted, header_revision(&response.header)),
        (3, 6)
    );
    let deleted: Vec<_> = response.prev_kvs.iter().map(|kv| kv.key.clone()).collect();
    assert_eq!(deleted, ["a", "b", "c"]);
    assert_eq!(response.prev_kvs[2].mod_revision, 2);
    let change = machine.changes.last().unwrap();
    assert_eq!(summary(change), ["DELETE a", "DELETE b", "DELETE c"]);
    assert_eq!(change.revision, 6);
    assert_eq!(keys(&machine.range(all()).unwrap()), ["d"]);
}

#[test]
fn an_inverted_interval_deletes_nothing() {
    let mut machine = fresh();
    machine.put("a", "v");
    for end in ["a", "A"] {
        assert_eq!(machine.delete("a", end).deleted, 0);
    }
    assert_eq!(machine.revision(), 2);
    assert_eq!(
        machine.try_delete(delete("", "\0")),
        Err(Status::key_not_provided())
    );
}

#[test]
fn everything_can_be_deleted_in_one_revision() {
    let mut machine = fresh();
    for key in ["\0", "a", "\u{7f}"] {
        machine.put(key, "v");
    }
    let response = machine.delete("\0", "\0");
    assert_eq!(
        (response.deleted, header_revision(&response.header)),
        (3, 5)
    );
    assert_eq!(machine.range(all()).unwrap().count, 0);
}

#[test]
fn a_delete_event_has_key_and_mod_revision_only() {
    let mut machine = fresh();
    machine.put("k", "v");
    let before = machine.get("k");
    machine.delete("k", "");
    let event = &machine.changes.last().unwrap().events[0];
    let expected = KeyValue {
        key: bytes("k"),
        mod_revision: 3,
        ..KeyValue::default()
    };
    assert_eq!(event.kv, Some(expected));
    assert_eq!(event.prev_kv, before);
}

#[test]
fn entries_of_one_call_see_each_other() {
    let mut machine = fresh();
    let entries = [
        entry(1, Kind::Put, &put("a", "1")),
        entry(2, Kind::Put, &put("b", "1")),
        entry(3, Kind::DeleteRange, &delete("a", "z")),
        entry(
            4,
            Kind::Put,
            &PutRequest {
                ignore_value: true,
                ..put("a", "")
            },
        ),
        entry(5, Kind::Put, &put("a", "2")),
    ];
    let step = machine.step(&entries);
    assert_eq!(step.replies[3].result, Err(Status::key_not_found()));
    assert_eq!(step.view.revision(), 5);
    assert_eq!(machine.get("a").unwrap().version, 1);
    assert_eq!(machine.get("b"), None);
}

#[test]
fn unreadable_entries_are_answered_and_change_nothing() {
    let mut machine = fresh();
    let header = Header::default();
    let commands = [
        bytes("\u{1}"),
        bytes("garbage that is long enough to have a whole header in front"),
        Command::encode(Kind::Put, &header, b"\xff\xff\xff"),
        Command::encode(Kind::Txn, &header, &[0x12, 0x7f]),
        // An operation without a member.
        Command::encode(Kind::Txn, &header, &[0x12, 0x00]),
        // Refused by every shell, so no shell sent it: still no panic, and no effect.
        entry(0, Kind::Put, &put("", "x")).command,
    ];
    for command in commands {
        let index = machine.next_index();
        let mut step = machine.step(&[Committed {
            index,
            term: 1,
            command,
        }]);
        assert!(step.replies.remove(0).result.is_err());
    }
    assert_eq!(machine.view().applied_index(), 6);
    assert_eq!(machine.revision(), 1);
    assert!(matches!(
        Command::decode(bytes("")),
        Err(CommandError::Short { found: 0 })
    ));
}

#[test]
fn a_command_of_a_newer_release_is_an_internal_error_with_its_request_id() {
    let mut machine = fresh();
    let mut command = entry(1, Kind::Put, &put("k", "v")).command.to_vec();
    command[1] = 99;
    let step = machine.step(&[Committed {
        index: 1,
        term: 1,
        command: command.into(),
    }]);
    let reply = &step.replies[0];
    assert_eq!(reply.request.sequence, 1);
    assert_eq!(reply.result.as_ref().unwrap_err().code, Code::Internal);
}
