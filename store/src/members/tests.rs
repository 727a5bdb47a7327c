use super::*;
use crate::engine::Engine;
use crate::engine::memory::MemoryEngine;

fn member(id: u64, name: &str) -> Member {
    Member {
        id,
        name: name.to_owned(),
        peer_urls: vec![format!("http://m{id}:2380")],
        client_urls: vec![],
        is_learner: false,
    }
}

fn learner(id: u64, name: &str) -> Member {
    Member {
        is_learner: true,
        ..member(id, name)
    }
}

/// Each member with an empty name has not started.
fn table(members: impl IntoIterator<Item = Member>) -> Members {
    let mut table = Members::default();
    table
        .found(members.into_iter().collect(), &mut Batch::new())
        .unwrap();
    table
}

const STRICT: Rules = Rules {
    strict: true,
    learners_max: 1,
};
const LAX: Rules = Rules {
    strict: false,
    learners_max: 1,
};

#[test]
fn what_a_member_says_of_itself_changes_name_and_client_urls_only() {
    let mut batch = Batch::new();
    let mut members = table([learner(9, "")]);
    let said = Member {
        name: "a".into(),
        peer_urls: vec!["http://elsewhere:1".into()],
        client_urls: vec!["http://a:2".into()],
        is_learner: false,
        ..member(9, "")
    };
    members.set(said.clone(), &mut batch).unwrap();
    let expected = Member {
        peer_urls: vec!["http://m9:2380".into()],
        is_learner: true,
        ..said.clone()
    };
    assert_eq!(members.get(9), Some(&expected));
    // Without a record it is believed altogether.
    let unknown = Member { id: 3, ..said };
    members.set(unknown.clone(), &mut batch).unwrap();
    assert_eq!(members.get(3), Some(&unknown));
    let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
    assert_eq!(ids, [3, 9]);
}

#[test]
fn an_id_that_was_removed_stays_away_whoever_asks() {
    let mut batch = Batch::new();
    let mut members = table([member(1, "a"), member(3, "c")]);
    members.remove(3, &mut batch).unwrap();
    let not_found = Err(Status::member_not_found());
    assert_eq!(members.remove(3, &mut batch), not_found);
    assert!(members.is_removed(3));
    assert_eq!(members.removed().collect::<Vec<_>>(), [3]);
    assert_eq!(members.set(member(3, "c"), &mut batch), not_found);
    assert_eq!(members.add(member(3, "c"), &mut batch), not_found);
    assert_eq!(members.found(vec![member(3, "c")], &mut batch), not_found);
    assert_eq!(members.add(member(0, "z"), &mut batch), not_found);
    assert_eq!(STRICT.add(&members, &learner(3, "")), not_found);
}

#[test]
fn the_table_comes_back_from_its_records() {
    let mut engine = MemoryEngine::new();
    let mut batch = Batch::new();
    let mut members = Members::default();
    members
        .found(vec![member(1, ""), member(2, "")], &mut batch)
        .unwrap();
    members.add(learner(3, ""), &mut batch).unwrap();
    members
        .update(3, vec!["http://new:1".into()], &mut batch)
        .unwrap();
    assert!(members.get(3).is_some_and(|member| member.is_learner));
    members.promote(3, &mut batch).unwrap();
    members.remove(2, &mut batch).unwrap();
    engine.commit(batch).unwrap();
    assert_eq!(Members::load(&engine.view()).unwrap(), members);
    let expected = Member {
        peer_urls: vec!["http://new:1".into()],
        ..member(3, "")
    };
    assert_eq!(members.get(3), Some(&expected));
}

#[test]
fn changes_of_unknown_members_and_doubles_are_refused() {
    let mut batch = Batch::new();
    let mut members = table([member(1, "a")]);
    let not_found = Err(Status::member_not_found());
    assert_eq!(members.promote(2, &mut batch), not_found);
    assert_eq!(members.update(2, vec![], &mut batch), not_found);
    let twice = members.add(member(1, "b"), &mut batch);
    assert_eq!(twice, Err(Status::member_exists()));
    assert_eq!(members, table([member(1, "a")]));
}

#[test]
fn a_voter_is_added_only_while_enough_have_started() {
    let not_enough = Err(Status::not_enough_started_members());
    let new = member(9, "");
    // From one to two: always.
    assert_eq!(STRICT.add(&table([member(1, "a")]), &new), Ok(()));
    // Two, one of them not started: three would need two.
    let one_of_two = table([member(1, "a"), member(2, "")]);
    assert_eq!(STRICT.add(&one_of_two, &new), not_enough);
    assert_eq!(LAX.add(&one_of_two, &new), Ok(()));
    // A learner has no part in the quorum.
    assert_eq!(STRICT.add(&one_of_two, &learner(9, "")), Ok(()));
    let two_of_two = table([member(1, "a"), member(2, "b")]);
    assert_eq!(STRICT.add(&two_of_two, &new), Ok(()));
    let two_of_three = table([member(1, "a"), member(2, "b"), member(3, "")]);
    assert_eq!(STRICT.add(&two_of_three, &new), not_enough);
    // Learners that have started are no started voters.
    let with_learner = table([member(1, "a"), member(2, ""), learner(3, "c")]);
    assert_eq!(STRICT.add(&with_learner, &new), not_enough);
}

#[test]
fn a_voter_is_removed_only_while_enough_have_started() {
    let not_enough = Err(Status::not_enough_started_members());
    let one = table([member(1, "a")]);
    assert_eq!(STRICT.remove(&one, 1), not_enough);
    assert_eq!(LAX.remove(&one, 1), not_enough);
    assert_eq!(STRICT.remove(&one, 2), Err(Status::member_not_found()));
    let one_of_two = table([member(1, "a"), member(2, "")]);
    assert_eq!(STRICT.remove(&one_of_two, 1), not_enough);
    assert_eq!(LAX.remove(&one_of_two, 1), Ok(()));
    assert_eq!(STRICT.remove(&one_of_two, 2), Ok(()));
    let two_of_three = table([member(1, "a"), member(2, "b"), member(3, "")]);
    assert_eq!(STRICT.remove(&two_of_three, 1), not_enough);
    assert_eq!(STRICT.remove(&two_of_three, 3), Ok(()));
    let with_learner = table([member(1, "a"), learner(2, "")]);
    assert_eq!(STRICT.remove(&with_learner, 2), Ok(()));
    assert_eq!(STRICT.remove(&with_learner, 1), not_enough);
}

#[test]
fn urls_ids_and_learners_have_their_limits() {
    let members = table([member(1, "a"), member(2, "b"), learner(3, "c")]);
    let new = |urls: &[&str]| Member {
        peer_urls: urls.iter().map(|url| (*url).to_owned()).collect(),
        ..member(9, "")
    };
    let taken = Err(Status::peer_urls_exist());
    let mixed = new(&["http://free:1", "http://m2:2380"]);
    assert_eq!(STRICT.add(&members, &mixed), taken);
    let same_id = member(2, "");
    assert_eq!(STRICT.add(&members, &same_id), Err(Status::member_exists()));
    let fourth = learner(9, "");
    let too_many = Err(Status::too_many_learners());
    assert_eq!(STRICT.add(&members, &fourth), too_many);
    assert_eq!(LAX.add(&members, &fourth), too_many);
    let two = Rules {
        learners_max: 2,
        ..STRICT
    };
    assert_eq!(two.add(&members, &fourth), Ok(()));

    let urls = |url: &str| vec![url.to_owned()];
    assert_eq!(STRICT.update(&members, 1, &urls("http://m1:2380")), Ok(()));
    assert_eq!(STRICT.update(&members, 1, &urls("http://new:1")), Ok(()));
    assert_eq!(STRICT.update(&members, 1, &urls("http://m3:2380")), taken);
    let unknown = STRICT.update(&members, 7, &urls("http://new:1"));
    assert_eq!(unknown, Err(Status::member_not_found()));
}

#[test]
fn only_learners_are_promoted_and_only_into_a_started_quorum() {
    let members = table([member(1, "a"), member(2, ""), learner(3, "c")]);
    assert_eq!(STRICT.promote(&members, 3), Ok(()));
    let voter = Err(Status::member_not_learner());
    assert_eq!(STRICT.promote(&members, 1), voter);
    let unknown = Err(Status::member_not_found());
    assert_eq!(STRICT.promote(&members, 7), unknown);
    let none_started = table([member(1, ""), member(2, ""), learner(3, "")]);
    let not_enough = Err(Status::not_enough_started_members());
    assert_eq!(STRICT.promote(&none_started, 3), not_enough);
    assert_eq!(LAX.promote(&none_started, 3), Ok(()));
}
