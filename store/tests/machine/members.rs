//! The member table as the log changes it.

use kvnode_api::{
    Member, MemberListResponse, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
    Status,
};
use kvnode_store::{Kind, Response};

use super::harness::fresh;

fn member(id: u64, name: &str) -> Member {
    Member {
        id,
        name: name.into(),
        peer_urls: vec![format!("http://127.0.0.1:{id}")],
        client_urls: vec![],
        is_learner: false,
    }
}

#[test]
fn members_are_told_through_the_log() {
    let mut machine = fresh();
    let member = member(9, "one");
    assert_eq!(
        machine.apply(Kind::MemberAttributes, &member),
        Ok(Response::Member)
    );
    assert_eq!(machine.view().members().get(9), Some(&member));
    let remove = MemberRemoveRequest { id: 9 };
    assert_eq!(
        machine.apply(Kind::MemberRemove, &remove),
        Ok(Response::Member)
    );
    let not_found = Err(Status::member_not_found());
    assert_eq!(machine.apply(Kind::MemberRemove, &remove), not_found);
    assert_eq!(machine.apply(Kind::MemberAttributes, &member), not_found);
    assert!(machine.view().members().is_empty());
    assert_eq!(machine.revision(), 1);
}

#[test]
fn a_cluster_is_founded_grows_moves_and_shrinks_through_the_log() {
    let mut machine = fresh();
    let founders = MemberListResponse {
        header: None,
        members: vec![member(1, ""), member(2, "")],
    };
    let done = Ok(Response::Member);
    assert_eq!(machine.apply(Kind::MembersFound, &founders), done);
    assert_eq!(machine.view().members().list(), founders.members);
    let learner = Member {
        is_learner: true,
        ..member(3, "")
    };
    assert_eq!(machine.apply(Kind::MemberAdd, &learner), done);
    let twice = machine.apply(Kind::MemberAdd, &learner);
    assert_eq!(twice, Err(Status::member_exists()));
    let moved = MemberUpdateRequest {
        id: 3,
        peer_urls: vec!["http://127.0.0.1:33".into()],
    };
    assert_eq!(machine.apply(Kind::MemberUpdate, &moved), done);
    let promote = MemberPromoteRequest { id: 3 };
    assert_eq!(machine.apply(Kind::MemberPromote, &promote), done);
    assert_eq!(
        machine.apply(Kind::MemberRemove, &MemberRemoveRequest { id: 2 }),
        done
    );
    let expected = Member {
        peer_urls: moved.peer_urls,
        ..member(3, "")
    };
    let members = machine.view().members().clone();
    assert_eq!(members.list(), [member(1, ""), expected]);
    assert!(members.is_removed(2));
    assert_eq!(machine.revision(), 1);
}
