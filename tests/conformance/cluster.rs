//! The Cluster service of one member: learners come and go without touching the quorum, and what makes no sense is refused.

use kvnode_api as api;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Status, code, fresh, idle};

fn add(url: &str, is_learner: bool) -> api::MemberAddRequest {
    api::MemberAddRequest {
        peer_urls: vec![url.to_owned()],
        is_learner,
    }
}

fn invalid_urls() -> Status {
    Status::new(
        code::INVALID_ARGUMENT,
        "etcdserver: given member URLs are invalid",
    )
}

fn not_found() -> Status {
    Status::new(code::NOT_FOUND, "etcdserver: member not found")
}

fn urls_exist() -> Status {
    Status::new(
        code::FAILED_PRECONDITION,
        "etcdserver: Peer URLs already exists",
    )
}

async fn members(client: &Client, linearizable: bool) -> Vec<api::Member> {
    let request = api::MemberListRequest { linearizable };
    let answer = client.member_list(request).await.expect("member list");
    assert_eq!(
        revision_of(&answer.header),
        0,
        "no revision in this service"
    );
    answer.members
}

#[test]
fn a_lone_member_lists_itself_as_it_announces_itself() {
    idle(async |server, client| {
        for linearizable in [false, true] {
            let members = members(&client, linearizable).await;
            assert_eq!(members.len(), 1);
            assert_eq!(members[0].name, "test");
            assert_eq!(members[0].peer_urls, [server.peer_url()]);
            assert_eq!(members[0].client_urls, [server.url()]);
            assert!(!members[0].is_learner);
        }
    });
}

/// case 175
#[test]
fn a_learner_is_added_moved_and_removed_while_the_lone_voter_goes_on() {
    fresh(async |server, client| {
        let own = members(&client, true).await.remove(0);
        let answer = client
            .member_add(add("http://127.0.0.1:1", true))
            .await
            .expect("a learner");
        let learner = answer.member.expect("the new one");
        assert!(learner.is_learner && learner.id != 0 && learner.id != own.id);
        assert_eq!(learner.name, "");
        assert!(learner.client_urls.is_empty());
        assert_eq!(learner.peer_urls, ["http://127.0.0.1:1"]);
        let mut expected = vec![own.clone(), learner.clone()];
        expected.sort_by_key(|member| member.id);
        assert_eq!(answer.members, expected);
        assert_eq!(members(&client, true).await, expected);
        client.write("k", "a learner has no vote").await;

        // One of several is enough.
        let shared = api::MemberAddRequest {
            peer_urls: vec!["http://127.0.0.1:9".into(), "http://127.0.0.1:1".into()],
            is_learner: false,
        };
        refused(client.member_add(shared).await, urls_exist());
        refused(
            client.member_add(add("http://127.0.0.1:2", true)).await,
            Status::new(
                code::FAILED_PRECONDITION,
                "etcdserver: too many learner members in cluster",
            ),
        );
        refused(
            client
                .member_promote(api::MemberPromoteRequest { id: learner.id })
                .await,
            Status::new(
                code::FAILED_PRECONDITION,
                "etcdserver: can only promote a learner member which is in sync with leader",
            ),
        );

        let update = |id, url: &str| api::MemberUpdateRequest {
            id,
            peer_urls: vec![url.to_owned()],
        };
        let answer = client
            .member_update(update(learner.id, "http://127.0.0.1:3"))
            .await
            .expect("moved");
        let moved = api::Member {
            peer_urls: vec!["http://127.0.0.1:3".to_owned()],
            ..learner.clone()
        };
        let found = answer.members.iter().find(|member| member.id == learner.id);
        if server.kind().is_kvnode() {
            assert_eq!(found, Some(&moved), "it still learns");
        }
        refused(
            client
                .member_update(update(learner.id, &own.peer_urls[0]))
                .await,
            urls_exist(),
        );
        refused(
            client.member_update(update(7, "http://127.0.0.1:4")).await,
            not_found(),
        );
        if server.kind().is_kvnode() {
            refused(
                client.member_update(update(learner.id, "garbage")).await,
                invalid_urls(),
            );
        }

        let remove = api::MemberRemoveRequest { id: learner.id };
        let answer = client.member_remove(remove).await.expect("gone");
        assert_eq!(answer.members, [own]);
        refused(client.member_remove(remove).await, not_found());
        client.write("k", "alone again").await;
    });
}

/// cases 170 and 174
#[test]
fn members_that_cannot_be_are_refused() {
    idle(async |server, client| {
        for url in [
            "",
            "127.0.0.1:1",
            "http://127.0.0.1",
            "http://127.0.0.1:1/x",
        ] {
            refused(client.member_add(add(url, true)).await, invalid_urls());
        }
        let none = api::MemberAddRequest::default();
        refused(client.member_add(none).await, invalid_urls());
        let own = members(&client, true).await.remove(0);
        refused(
            client.member_add(add(&own.peer_urls[0], true)).await,
            urls_exist(),
        );
        refused(
            client
                .member_promote(api::MemberPromoteRequest { id: own.id })
                .await,
            Status::new(
                code::FAILED_PRECONDITION,
                "etcdserver: can only promote a learner member",
            ),
        );
        for id in [0, 7] {
            let promote = api::MemberPromoteRequest { id };
            refused(client.member_promote(promote).await, not_found());
            let remove = api::MemberRemoveRequest { id };
            refused(client.member_remove(remove).await, not_found());
        }
        // The last voter stays, whoever asks.
        let last = client
            .member_remove(api::MemberRemoveRequest { id: own.id })
            .await
            .expect_err("nobody would be left");
        assert_eq!(
            last.message,
            "etcdserver: re-configuration failed due to not enough started members"
        );
        if server.kind().is_kvnode() {
            assert_eq!(last.code, code::FAILED_PRECONDITION);
        }
        client.write("k", "still here").await;
    });
}
