//! Revisions, headers, Put and DeleteRange (cases 1-22).

use kvnode_api as api;
use kvnode_tests::words::*;
use kvnode_tests::{fresh, idle};

/// case 1
#[test]
fn a_fresh_store_is_at_revision_one() {
    fresh(async |_, client| {
        let answer = client.range(get("any")).await.expect("range");
        assert_eq!(revision_of(&answer.header), 1);
        assert_eq!((answer.kvs.len(), answer.count, answer.more), (0, 0, false));
    });
}

/// case 2, 3
#[test]
fn only_an_effective_write_takes_a_revision_and_the_first_takes_two() {
    fresh(async |_, client| {
        let answer = client.delete_range(delete("absent")).await.expect("delete");
        assert_eq!((answer.deleted, revision_of(&answer.header)), (0, 1));
        assert_eq!(client.write("k", "v").await, 2);
        let kv = client.read("k").await.expect("just put");
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 2, 1));
    });
}

/// case 3: every answer names the cluster, the member and its term
#[test]
fn headers_name_cluster_member_and_term() {
    idle(async |_, client| {
        let put = client
            .put(put("k", "v"))
            .await
            .expect("put")
            .header
            .expect("header");
        let read = client
            .range(get("k"))
            .await
            .expect("range")
            .header
            .expect("header");
        assert!(
            put.cluster_id != 0 && put.member_id != 0 && put.raft_term > 0,
            "{put:?}"
        );
        assert_eq!(
            (read.cluster_id, read.member_id),
            (put.cluster_id, put.member_id)
        );
        assert_eq!(
            (read.raft_term, read.revision),
            (put.raft_term, put.revision)
        );
    });
}

/// case 4
#[test]
fn an_identical_put_is_a_new_revision_and_version() {
    idle(async |_, client| {
        let first = client.write("k", "v").await;
        let second = client.write("k", "v").await;
        assert_eq!(second, first + 1);
        let kv = client.read("k").await.expect("there");
        assert_eq!(
            (kv.create_revision, kv.mod_revision, kv.version),
            (first, second, 2)
        );
    });
}

/// case 5
#[test]
fn a_key_put_again_after_its_delete_starts_a_new_life() {
    idle(async |_, client| {
        client.write("k", "1").await;
        client.write("k", "2").await;
        client.remove("k").await;
        let reborn = client.write("k", "3").await;
        let kv = client.read("k").await.expect("there");
        assert_eq!(
            (kv.create_revision, kv.mod_revision, kv.version),
            (reborn, reborn, 1)
        );
    });
}

/// case 6
#[test]
fn an_empty_key_is_refused_by_put_and_delete() {
    idle(async |_, client| {
        let before = client.revision().await;
        refused(client.put(put("", "v")).await, refusal::no_key());
        refused(client.delete_range(delete("")).await, refusal::no_key());
        refused(
            client.delete_range(delete_span("", "z")).await,
            refusal::no_key(),
        );
        assert_eq!(client.revision().await, before);
    });
}

/// case 7
#[test]
fn an_empty_value_is_a_value() {
    idle(async |_, client| {
        client.write("k", "").await;
        let kv = client.read("k").await.expect("stored although empty");
        assert!(kv.value.is_empty());
        assert_eq!(kv.version, 1);
    });
}

/// case 8
#[test]
fn put_returns_the_previous_pair_when_asked_and_there_was_one() {
    idle(async |_, client| {
        let asking = |value| api::PutRequest {
            prev_kv: true,
            ..put("k", value)
        };
        assert_eq!(client.put(asking("1")).await.expect("put").prev_kv, None);
        let before = client.read("k").await.expect("there");
        let answer = client.put(asking("2")).await.expect("put");
        assert_eq!(answer.prev_kv, Some(before));
        assert_eq!(
            client.put(put("k", "3")).await.expect("put").prev_kv,
            None,
            "not asked for"
        );
    });
}

/// case 9, 10
#[test]
fn ignore_flags_exclude_what_they_ignore() {
    idle(async |_, client| {
        let before = client.write("k", "v").await;
        let request = api::PutRequest {
            ignore_value: true,
            ..put("k", "x")
        };
        refused(client.put(request).await, refusal::value_given());
        let request = api::PutRequest {
            ignore_lease: true,
            lease: 5,
            ..put("k", "x")
        };
        refused(client.put(request).await, refusal::lease_given());
        assert_eq!(client.revision().await, before);
    });
}

/// case 11
#[test]
fn ignore_flags_need_the_key_to_exist() {
    idle(async |_, client| {
        let before = client.revision().await;
        let request = api::PutRequest {
            ignore_value: true,
            ..put("absent", "")
        };
        refused(client.put(request).await, refusal::key_not_found());
        let request = api::PutRequest {
            ignore_lease: true,
            ..put("absent", "v")
        };
        refused(client.put(request).await, refusal::key_not_found());
        assert_eq!(client.revision().await, before);
    });
}

/// case 12
#[test]
fn ignore_value_keeps_the_value_in_a_new_version() {
    idle(async |_, client| {
        let first = client.write("k", "kept").await;
        let request = api::PutRequest {
            ignore_value: true,
            ..put("k", "")
        };
        let answer = client.put(request).await.expect("put");
        assert_eq!(revision_of(&answer.header), first + 1);
        let kv = client.read("k").await.expect("there");
        assert_eq!(
            (&kv.value[..], kv.version, kv.mod_revision),
            (&b"kept"[..], 2, first + 1)
        );
    });
}

/// case 13
#[test]
fn put_under_an_unknown_lease_is_not_found() {
    idle(async |_, client| {
        let before = client.revision().await;
        let request = api::PutRequest {
            lease: 0x7001,
            ..put("k", "v")
        };
        refused(client.put(request).await, refusal::no_lease());
        assert_eq!(client.read("k").await, None);
        assert_eq!(client.revision().await, before);
    });
}

/// case 14 (3.7)
#[test]
fn an_unknown_lease_is_found_out_before_an_absent_key() {
    idle(async |server, client| {
        let request = api::PutRequest {
            lease: 0x7001,
            ignore_value: true,
            ..put("absent", "")
        };
        let result = client.put(request).await;
        if server.kind().from_3(7) {
            refused(result, refusal::no_lease());
        } else {
            assert!(result.is_err());
        }
    });
}

/// case 15
#[test]
fn a_plain_put_takes_the_key_off_its_lease() {
    idle(async |_, client| {
        let lease = client.lease(100).await;
        client.write_leased("k", "1", lease).await;
        assert_eq!(client.lease_keys(lease).await, ["k"]);
        assert_eq!(client.read("k").await.expect("there").lease, lease);
        client.write("k", "2").await;
        assert_eq!(client.read("k").await.expect("there").lease, 0);
        assert!(client.lease_keys(lease).await.is_empty());
        client
            .lease_revoke(api::LeaseRevokeRequest { id: lease })
            .await
            .expect("revoke");
        assert!(client.read("k").await.is_some());
    });
}

/// case 16
#[test]
fn ignore_lease_keeps_the_lease() {
    idle(async |_, client| {
        let lease = client.lease(100).await;
        client.write_leased("k", "1", lease).await;
        let request = api::PutRequest {
            ignore_lease: true,
            ..put("k", "2")
        };
        client.put(request).await.expect("put");
        let kv = client.read("k").await.expect("there");
        assert_eq!((kv.lease, &kv.value[..]), (lease, &b"2"[..]));
        assert_eq!(client.lease_keys(lease).await, ["k"]);
    });
}

/// case 17
#[test]
fn a_key_belongs_to_its_last_lease_only() {
    idle(async |_, client| {
        let (a, b) = (client.lease(100).await, client.lease(100).await);
        client.write_leased("k", "1", a).await;
        client.write_leased("k", "2", b).await;
        assert!(client.lease_keys(a).await.is_empty());
        assert_eq!(client.lease_keys(b).await, ["k"]);
        client
            .lease_revoke(api::LeaseRevokeRequest { id: a })
            .await
            .expect("revoke");
        assert!(client.read("k").await.is_some());
        client
            .lease_revoke(api::LeaseRevokeRequest { id: b })
            .await
            .expect("revoke");
        assert!(client.read("k").await.is_none());
    });
}

/// case 18
#[test]
fn a_range_delete_is_one_revision_with_sorted_previous_pairs() {
    idle(async |_, client| {
        for key in ["d2", "d3", "d1"] {
            client.write(key, key).await;
        }
        let before = client.revision().await;
        let request = api::DeleteRangeRequest {
            prev_kv: true,
            ..delete_span("d", "e")
        };
        let answer = client.delete_range(request).await.expect("delete");
        assert_eq!(
            (answer.deleted, revision_of(&answer.header)),
            (3, before + 1)
        );
        assert_eq!(keys_of(&answer.prev_kvs), ["d1", "d2", "d3"]);
        assert!(
            answer
                .prev_kvs
                .iter()
                .all(|kv| kv.key == kv.value && kv.version == 1)
        );
    });
}

/// case 19
#[test]
fn deleting_a_backward_interval_deletes_nothing() {
    idle(async |_, client| {
        let before = client.write("m", "v").await;
        for end in ["a", "m"] {
            let answer = client
                .delete_range(delete_span("m", end))
                .await
                .expect("no error");
            assert_eq!((answer.deleted, revision_of(&answer.header)), (0, before));
        }
        assert!(client.read("m").await.is_some());
    });
}

/// case 20
#[test]
fn the_whole_key_space_is_deleted_in_one_revision() {
    idle(async |_, client| {
        for key in [&b"a"[..], b"\0", b"\xff\xff", b"z"] {
            client.write(key, "v").await;
        }
        let before = client.revision().await;
        let answer = client
            .delete_range(delete_span(b"\0", b"\0"))
            .await
            .expect("delete");
        assert_eq!(
            (answer.deleted, revision_of(&answer.header)),
            (4, before + 1)
        );
        assert_eq!(client.range(all()).await.expect("range").count, 0);
    });
}

/// case 21
#[test]
fn defragment_and_move_leader_answer_without_a_header() {
    idle(async |_, client| {
        let defragmented = client
            .defragment(api::DefragmentRequest {})
            .await
            .expect("defragment");
        assert_eq!(defragmented.header, None);
        let own = client
            .status(api::StatusRequest {})
            .await
            .expect("status")
            .leader;
        let request = api::MoveLeaderRequest { target_id: own };
        let moved = client
            .move_leader(request)
            .await
            .expect("to itself is fine");
        assert_eq!(moved.header, None);
    });
}

/// case 22
#[test]
fn member_list_has_a_header_without_revision() {
    idle(async |server, client| {
        client.write("k", "v").await;
        for linearizable in [false, true] {
            let request = api::MemberListRequest { linearizable };
            let answer = client.member_list(request).await.expect("list");
            let header = answer.header.expect("header");
            assert_eq!(header.revision, 0);
            assert!(header.cluster_id != 0 && header.raft_term > 0);
            let [member] = &answer.members[..] else {
                panic!("one member: {answer:?}")
            };
            assert_eq!(
                (member.id, member.name.as_str()),
                (header.member_id, "test")
            );
            assert_eq!(member.client_urls, [server.url()]);
            assert_eq!(member.peer_urls, [server.peer_url()]);
            assert!(!member.is_learner);
        }
    });
}
