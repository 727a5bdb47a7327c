//! The checker must pass what a correct store does and find each way of breaking it.

use super::*;
use crate::history::Barrier;
use crate::words::*;

/// A small reproducible source of choices.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

const MEMBER: u64 = 0xabc;

/// What a correct store would have answered to overlapping clients; a few outcomes are unknown.
fn good(seed: u64, steps: u64) -> History {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut model = Model::default();
    let mut history = History::default();
    let mut free = [0u64; 6];
    let mut states = vec![model.clone()];
    for step in 1..=steps {
        let moment = step * 100;
        let client = dice.roll(6) as usize;
        let called = free[client].max(moment.saturating_sub(dice.roll(400))) + 1;
        if called > moment {
            continue;
        }
        let returned = moment + dice.roll(400);
        free[client] = returned;
        let request = any_request(&mut dice, step, model.revision());
        let past = match &request {
            Request::Range(range) if range.revision > 0 => Some(range.revision),
            _ => None,
        };
        let state = past.map_or(&model, |revision| &states[revision as usize - 1]);
        let (mut answer, events) = state.answer(&request).expect("only modelled requests");
        let unknown = dice.roll(12) == 0;
        let done = !unknown || dice.roll(2) == 0;
        if !events.is_empty() && done {
            model.advance(model.revision() + 1, &events);
            history.log.push(Change {
                revision: model.revision(),
                events,
            });
            states.push(model.clone());
        }
        set_header(&mut answer, model.revision());
        let outcome = if unknown {
            Outcome::Unknown
        } else {
            Outcome::Answered(answer)
        };
        let client = client as u32;
        history.operations.push(Operation {
            client,
            called,
            returned,
            request,
            outcome,
        });
    }
    history
}

fn any_request(dice: &mut Dice, step: u64, revision: i64) -> Request {
    let key = format!("k{}", dice.roll(5));
    let value = format!("value {step}");
    match dice.roll(10) {
        0..=2 => Request::Put(api::PutRequest {
            prev_kv: dice.roll(2) == 0,
            ..put(key, value)
        }),
        3 => Request::Delete(api::DeleteRangeRequest {
            prev_kv: true,
            ..delete(key)
        }),
        4 => Request::Delete(delete_span("k0", "k2")),
        5 => Request::Txn(txn(
            vec![compare_number(&key, number::GREATER, number::VERSION, 0)],
            vec![put(&key, &value).op(), get(&key).op()],
            vec![put("other", &value).op(), delete("k4").op()],
        )),
        6 => Request::Txn(txn(
            vec![compare_number(&key, number::EQUAL, number::MOD, revision)],
            vec![put(&key, &value).op()],
            vec![get(&key).op()],
        )),
        7 => Request::Range(api::RangeRequest { limit: 2, ..all() }),
        8 => Request::Range(api::RangeRequest {
            revision: 1.max(revision - 3),
            ..all()
        }),
        _ => Request::Range(get(key)),
    }
}

fn set_header(answer: &mut Answer, revision: i64) {
    let header = Some(api::ResponseHeader {
        cluster_id: 1,
        member_id: MEMBER,
        revision,
        raft_term: 2,
    });
    match answer {
        Answer::Range(answer) => answer.header = header,
        Answer::Put(answer) => answer.header = header,
        Answer::Delete(answer) => answer.header = header,
        Answer::Txn(answer) => answer.header = header,
    }
}

/// Index of the n-th answered operation of this kind.
fn find(history: &History, n: usize, fits: impl Fn(&Request, &Answer) -> bool) -> usize {
    let fitting = history
        .operations
        .iter()
        .enumerate()
        .filter_map(|(index, operation)| match &operation.outcome {
            Outcome::Answered(answer) if fits(&operation.request, answer) => Some(index),
            _ => None,
        });
    fitting.clone().nth(n).expect("the history is long enough")
}

fn answer_of(history: &mut History, index: usize) -> &mut Answer {
    match &mut history.operations[index].outcome {
        Outcome::Answered(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn is_put(request: &Request, _: &Answer) -> bool {
    matches!(request, Request::Put(_))
}

fn is_newest_read_with_keys(request: &Request, answer: &Answer) -> bool {
    matches!((request, answer), (Request::Range(range), Answer::Range(answer))
        if range.revision == 0 && !answer.kvs.is_empty())
}

#[test]
fn correct_histories_pass() {
    for seed in 1..200 {
        let history = good(seed, 400);
        let summary = check(&history).unwrap_or_else(|bad| panic!("seed {seed}: {bad:?}"));
        assert!(summary.writes > 50 && summary.reads > 30, "{summary:?}");
    }
}

#[test]
fn a_history_without_unknown_outcomes_needs_no_log() {
    let mut history = good(3, 300);
    history
        .operations
        .retain(|operation| operation.outcome != Outcome::Unknown);
    let owned: Vec<i64> = owners(&history).expect("distinct").into_keys().collect();
    let contiguous = owned
        .iter()
        .zip(2..)
        .take_while(|(have, want)| **have == *want)
        .count();
    let end = i64::try_from(contiguous).expect("small") + 1;
    history.log.clear();
    history
        .operations
        .retain(|operation| match &operation.outcome {
            Outcome::Answered(answer) => told(answer) <= end,
            _ => false,
        });
    check(&history).expect("good");
}

#[test]
fn a_lost_acknowledged_write_is_found() {
    let mut history = good(1, 300);
    let last = history.log.len() - 1;
    history.log.truncate(last - 3);
    assert!(
        matches!(check(&history), Err(Violation::Lost { .. })),
        "{:?}",
        check(&history)
    );
}

#[test]
fn a_write_replaced_by_another_is_found() {
    let mut history = good(1, 300);
    let victim = find(&history, 20, is_put);
    let revision = told(answer_of(&mut history, victim));
    let change = &mut history.log[usize::try_from(revision - 2).expect("positive")];
    change.events[0].kv.as_mut().expect("kv").value = bytes("not what was written");
    let found = check(&history);
    assert!(matches!(found, Err(Violation::Differs { operation, .. }) if operation == victim));
}

#[test]
fn a_revision_out_of_nothing_is_found() {
    let mut history = good(1, 300);
    let revision = history.log.last().expect("not empty").revision + 1;
    let kv = api::KeyValue {
        key: bytes("k1"),
        value: bytes("nobody wrote this"),
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        lease: 0,
    };
    let event = api::Event {
        kv: Some(kv),
        ..Default::default()
    };
    history.log.push(Change {
        revision,
        events: vec![event],
    });
    assert!(matches!(check(&history), Err(Violation::Invented { .. })));
}

#[test]
fn a_hole_in_the_log_is_found() {
    let mut history = good(1, 300);
    history.log.remove(40);
    let found = check(&history);
    assert_eq!(
        found,
        Err(Violation::Hole {
            expected: 42,
            found: 43
        })
    );
}

#[test]
fn a_refused_write_that_happened_is_found() {
    let mut history = good(1, 300);
    let victim = find(&history, 20, is_put);
    history.operations[victim].outcome = Outcome::Refused(refusal::no_lease());
    let found = check(&history);
    assert!(
        matches!(found, Err(Violation::Invented { .. })),
        "{found:?}"
    );
}

#[test]
fn an_unknown_write_explains_its_revision_once_only() {
    let mut history = good(1, 300);
    let victim = find(&history, 20, |request, answer| {
        matches!(request, Request::Put(put) if !put.prev_kv) && answer.claims_effect()
    });
    history.operations[victim].outcome = Outcome::Unknown;
    let before = check(&history).expect("an unknown write may have happened");
    assert!(before.unknown_done > 0);
    let mut twice = history.clone();
    let last = twice.log.last().expect("not empty").revision;
    let Request::Put(request) = twice.operations[victim].request.clone() else {
        panic!("put")
    };
    let mut model = Model::default();
    for change in &twice.log {
        model.advance(change.revision, &change.events);
    }
    let (_, events) = model.answer(&Request::Put(request)).expect("modelled");
    twice.log.push(Change {
        revision: last + 1,
        events,
    });
    let found = check(&twice);
    assert!(
        matches!(found, Err(Violation::Invented { .. })),
        "{found:?}"
    );
}

#[test]
fn an_unknown_write_from_before_a_crash_does_not_happen_after_it() {
    let mut history = good(1, 300);
    let victim = find(&history, 20, is_put);
    let revision = told(answer_of(&mut history, victim));
    let called = history.operations[victim].called;
    history.operations[victim].outcome = Outcome::Unknown;
    history.barriers = vec![Barrier {
        time: called + 1,
        revision,
    }];
    check(&history).expect("it happened before the crash");
    history.barriers = vec![Barrier {
        time: called + 1,
        revision: revision - 1,
    }];
    let found = check(&history);
    assert!(
        matches!(found, Err(Violation::Invented { .. })),
        "{found:?}"
    );
    history.barriers = vec![Barrier {
        time: called,
        revision: revision - 1,
    }];
    check(&history).expect("it was called after the crash");
}

#[test]
fn an_effect_before_its_call_is_found() {
    let mut history = good(1, 300);
    let victim = find(&history, 20, is_put);
    let end = history
        .operations
        .iter()
        .map(|operation| operation.returned)
        .max()
        .expect("some");
    history.operations[victim].called = end + 1;
    history.operations[victim].returned = end + 2;
    assert!(matches!(check(&history), Err(Violation::Stale { .. })));
    history.operations[victim].outcome = Outcome::Unknown;
    assert!(matches!(check(&history), Err(Violation::Invented { .. })));
}

#[test]
fn a_stale_read_is_found() {
    // The read answers a state that was right once, but not any more when it was asked.
    let mut history = good(1, 300);
    let early = find(&history, 5, is_newest_read_with_keys);
    let mut late = history.operations[early].clone();
    let end = history
        .operations
        .iter()
        .map(|operation| operation.returned)
        .max()
        .expect("some");
    (late.called, late.returned) = (end + 1, end + 2);
    history.operations.push(late);
    let found = check(&history);
    assert!(matches!(found, Err(Violation::Stale { .. })), "{found:?}");
}

#[test]
fn a_read_of_a_wrong_value_or_too_few_keys_is_found() {
    for spoil in [
        (|answer| answer.kvs[0].value = bytes("wrong")) as fn(&mut api::RangeResponse),
        |answer| answer.kvs[0].version += 1,
        |answer| answer.kvs[0].create_revision -= 1,
        |answer| answer.kvs[0].mod_revision -= 1,
        |answer| answer.count += 1,
        |answer| answer.more = !answer.more,
        |answer| answer.kvs.clear(),
    ] {
        let mut history = good(1, 300);
        let victim = find(&history, 8, is_newest_read_with_keys);
        let Answer::Range(answer) = answer_of(&mut history, victim) else {
            panic!("a range")
        };
        spoil(answer);
        let found = check(&history);
        assert!(
            matches!(found, Err(Violation::Wrong { operation, .. }) if operation == victim),
            "{found:?}"
        );
    }
}

#[test]
fn a_wrong_read_of_the_past_is_found() {
    let mut history = good(2, 300);
    let victim = find(&history, 8, |request, answer| {
        matches!((request, answer), (Request::Range(range), Answer::Range(answer))
            if range.revision > 0 && !answer.kvs.is_empty())
    });
    let Answer::Range(answer) = answer_of(&mut history, victim) else {
        panic!("a range")
    };
    answer.kvs[0].value = bytes("wrong");
    assert!(
        matches!(check(&history), Err(Violation::Wrong { operation, .. }) if operation == victim)
    );
}

#[test]
fn a_revision_given_twice_is_found() {
    let mut history = good(1, 300);
    let (a, b) = (find(&history, 20, is_put), find(&history, 21, is_put));
    let revision = told(answer_of(&mut history, a));
    set_header(answer_of(&mut history, b), revision);
    history.operations[b].called = history.operations[a].called;
    let found = check(&history);
    let twice = matches!(
        found,
        Err(Violation::RevisionTwice { .. } | Violation::Stale { .. })
    );
    assert!(twice, "{found:?}");
}

#[test]
fn swapped_revisions_are_found() {
    let mut history = good(1, 300);
    let (a, b) = (find(&history, 20, is_put), find(&history, 30, is_put));
    let (first, second) = (
        told(answer_of(&mut history, a)),
        told(answer_of(&mut history, b)),
    );
    set_header(answer_of(&mut history, a), second);
    set_header(answer_of(&mut history, b), first);
    assert!(check(&history).is_err());
}

#[test]
fn a_wrong_branch_and_a_wrong_delete_count_are_found() {
    let mut history = good(1, 400);
    let victim = find(&history, 5, |request, _| matches!(request, Request::Txn(_)));
    let Answer::Txn(answer) = answer_of(&mut history, victim) else {
        panic!("a txn")
    };
    answer.succeeded = !answer.succeeded;
    assert!(
        matches!(check(&history), Err(Violation::Wrong { operation, .. }) if operation == victim)
    );
    let mut history = good(1, 400);
    let victim = find(&history, 3, |request, answer| {
        matches!(request, Request::Delete(_)) && answer.claims_effect()
    });
    let Answer::Delete(answer) = answer_of(&mut history, victim) else {
        panic!("a delete")
    };
    answer.deleted += 1;
    assert!(
        matches!(check(&history), Err(Violation::Wrong { operation, .. }) if operation == victim)
    );
}

#[test]
fn a_falling_term_is_found() {
    let mut history = good(1, 300);
    let victim = history.operations.len() - 1;
    let last = find(&history, 0, |_, _| true);
    assert!(last < victim);
    let late = history
        .operations
        .iter()
        .rposition(|operation| matches!(operation.outcome, Outcome::Answered(_)))
        .expect("some");
    match answer_of(&mut history, late) {
        Answer::Range(answer) => answer.header.as_mut().expect("header").raft_term = 1,
        Answer::Put(answer) => answer.header.as_mut().expect("header").raft_term = 1,
        Answer::Delete(answer) => answer.header.as_mut().expect("header").raft_term = 1,
        Answer::Txn(answer) => answer.header.as_mut().expect("header").raft_term = 1,
    }
    assert!(matches!(
        check(&history),
        Err(Violation::TermBack {
            term: 1,
            known: 2,
            ..
        })
    ));
}

#[test]
fn no_single_wrong_revision_goes_unnoticed() {
    // Any effective write whose revision is off by one, either way.
    let clean = good(7, 200);
    let mut tried = 0;
    for index in 0..clean.operations.len() {
        for step in [-1, 1] {
            let mut history = clean.clone();
            let Outcome::Answered(answer) = &mut history.operations[index].outcome else {
                continue;
            };
            if !answer.claims_effect() {
                continue;
            }
            let revision = told(answer);
            set_header(answer, revision + step);
            assert!(
                check(&history).is_err(),
                "operation {index} moved by {step}"
            );
            tried += 1;
        }
    }
    assert!(tried > 50);
}

#[test]
fn watches_are_held_against_the_log() {
    let history = good(1, 300);
    let response = |change: &Change| api::WatchResponse {
        header: Some(api::ResponseHeader {
            revision: change.revision,
            ..Default::default()
        }),
        events: change.events.clone(),
        ..Default::default()
    };
    let whole: Vec<_> = history.log[8..].iter().map(response).collect();
    let end = history.log.last().expect("not empty").revision + 1;
    assert_eq!(check_watch(&history.log, 10, &whole), Ok(end));
    assert!(
        check_watch(&history.log, 9, &whole).is_err(),
        "the first event is missing"
    );
    let mut gap = whole.clone();
    gap.remove(5);
    assert!(check_watch(&history.log, 10, &gap).is_err());
    let mut doubled = whole.clone();
    doubled.insert(6, whole[5].clone());
    assert!(check_watch(&history.log, 10, &doubled).is_err());
    let mut swapped = whole.clone();
    swapped.swap(5, 6);
    assert!(check_watch(&history.log, 10, &swapped).is_err());
    let mut stale = whole;
    stale[5].header.as_mut().expect("header").revision = 3;
    assert!(check_watch(&history.log, 10, &stale).is_err());
}
