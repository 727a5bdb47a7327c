//! Judges a history: strict serializability by revision, in one pass.
//!
//! Every answer carries the store's revision and every effective write owns one, so the order of all that
//! happened is written in the answers and needs no search:
//!
//! 1. effective writes have revisions of their own; the log has every revision from 2 on without a hole,
//!    and reaches the highest revision anybody was told;
//! 2. an operation called after another returned answers at least that one's revision, an effective write
//!    more than it (serializable reads: the same per client);
//! 3. replaying the writes in revision order through the naive model gives exactly the answers that were
//!    given and the changes that the log shows; reads are held against the state of their revision;
//! 4. a revision that no answered write owns must be explained by an operation whose outcome is unknown,
//!    called before it could be seen, not used up by another revision, and not called before a crash that
//!    the revision lies behind. What was refused never explains anything;
//! 5. the term a member tells never falls.
//!
//! Sound and complete for histories whose answers carry revisions.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use kvnode_api as api;

use crate::history::{Answer, Change, History, Operation, Outcome, Request};
use crate::model::Model;
use crate::words::briefly;

/// What was promised and not kept. Operations are named by their index in the history.
#[derive(Clone, Debug, PartialEq)]
pub enum Violation {
    /// Two effective writes were told the same revision.
    RevisionTwice {
        revision: i64,
        first: usize,
        second: usize,
    },
    /// The store's log leaves out a revision, or does not begin at 2.
    Hole { expected: i64, found: i64 },
    /// An answered revision is beyond the end of the log: the write is lost or never was.
    Lost {
        operation: usize,
        revision: i64,
        log_ends: i64,
    },
    /// An answer older than what was known when it was asked for.
    Stale {
        operation: usize,
        revision: i64,
        known: i64,
    },
    /// The answer is not the model's.
    Wrong {
        operation: usize,
        revision: i64,
        expected: String,
        got: String,
    },
    /// The log's events at a revision are not what its write does.
    Differs {
        operation: usize,
        revision: i64,
        expected: Vec<String>,
        got: Vec<String>,
    },
    /// Nobody asked for this change.
    Invented { revision: i64, events: Vec<String> },
    /// A member's term fell.
    TermBack {
        operation: usize,
        term: u64,
        known: u64,
    },
    /// The history holds something the model does not know.
    NotModelled { operation: usize, why: &'static str },
}

/// What a history was made of, so that a test can demand that it was not trivial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub writes: usize,
    pub reads: usize,
    pub unknown_done: usize,
    pub unknown_not_done: usize,
    pub refused: usize,
}

/// Judges a history.
pub fn check(history: &History) -> Result<Summary, Violation> {
    let known = known_when_called(history);
    check_order(history, &known)?;
    check_terms(history)?;
    let owners = owners(history)?;
    check_log(history)?;
    Replay::new(history, known, owners).run()
}

/// Judges a history and, when it is bad, saves it for a closer look before it panics.
pub fn demand(history: &History, place: &std::path::Path) -> Summary {
    check(history).unwrap_or_else(|violation| {
        let saved = match history.save(place) {
            Ok(()) => format!("the history is kept in {}", place.display()),
            Err(error) => format!("and the history could not be kept: {error}"),
        };
        panic!("{violation:#?}\n{saved}");
    })
}

fn told(answer: &Answer) -> i64 {
    answer.header().map_or(0, |header| header.revision)
}

/// For each operation the highest revision anybody had been told when it was called.
fn known_when_called(history: &History) -> Vec<i64> {
    let operations = &history.operations;
    let mut told: Vec<(u64, i64)> = operations
        .iter()
        .filter_map(|operation| match &operation.outcome {
            Outcome::Answered(answer) => Some((operation.returned, told(answer))),
            _ => None,
        })
        .collect();
    told.sort_unstable();
    let mut by_call: Vec<usize> = (0..operations.len()).collect();
    by_call.sort_unstable_by_key(|&index| operations[index].called);
    let mut known = vec![1; operations.len()];
    let (mut highest, mut next) = (1, 0);
    for index in by_call {
        while let Some(&(returned, revision)) = told.get(next)
            && returned < operations[index].called
        {
            highest = highest.max(revision);
            next += 1;
        }
        known[index] = highest;
    }
    known
}

fn is_serializable(operation: &Operation) -> bool {
    matches!(&operation.request, Request::Range(range) if range.serializable)
}

fn check_order(history: &History, known: &[i64]) -> Result<(), Violation> {
    let mut own: HashMap<u32, (u64, i64)> = HashMap::new();
    let mut by_call: Vec<usize> = (0..history.operations.len()).collect();
    by_call.sort_unstable_by_key(|&index| history.operations[index].called);
    for index in by_call {
        let operation = &history.operations[index];
        let Outcome::Answered(answer) = &operation.outcome else {
            continue;
        };
        let revision = told(answer);
        let seen = own.entry(operation.client).or_insert((0, 1));
        let floor = if is_serializable(operation) {
            // What this client itself was told before.
            if seen.0 < operation.called { seen.1 } else { 1 }
        } else {
            known[index] + i64::from(answer.claims_effect())
        };
        if revision < floor {
            let known = if is_serializable(operation) {
                seen.1
            } else {
                known[index]
            };
            return Err(Violation::Stale {
                operation: index,
                revision,
                known,
            });
        }
        if revision >= seen.1 {
            *seen = (operation.returned, revision);
        }
    }
    Ok(())
}

fn check_terms(history: &History) -> Result<(), Violation> {
    let mut told: Vec<(u64, u64, u64)> = Vec::new();
    let mut asked: Vec<(u64, u64, u64, usize)> = Vec::new();
    for (index, operation) in history.operations.iter().enumerate() {
        if let Outcome::Answered(answer) = &operation.outcome
            && let Some(header) = answer.header()
        {
            told.push((operation.returned, header.member_id, header.raft_term));
            asked.push((operation.called, header.member_id, header.raft_term, index));
        }
    }
    told.sort_unstable();
    asked.sort_unstable();
    let mut highest: HashMap<u64, u64> = HashMap::new();
    let mut next = 0;
    for (called, member, term, operation) in asked {
        while let Some(&(returned, member, term)) = told.get(next)
            && returned < called
        {
            let highest = highest.entry(member).or_default();
            *highest = term.max(*highest);
            next += 1;
        }
        let known = highest.get(&member).copied().unwrap_or(0);
        if term < known {
            return Err(Violation::TermBack {
                operation,
                term,
                known,
            });
        }
    }
    Ok(())
}

/// Which operation owns which revision, by the answers.
fn owners(history: &History) -> Result<BTreeMap<i64, usize>, Violation> {
    let mut owners = BTreeMap::new();
    for (second, operation) in history.operations.iter().enumerate() {
        let Outcome::Answered(answer) = &operation.outcome else {
            continue;
        };
        if answer.claims_effect() {
            let revision = told(answer);
            if let Some(first) = owners.insert(revision, second) {
                return Err(Violation::RevisionTwice {
                    revision,
                    first,
                    second,
                });
            }
        }
    }
    Ok(owners)
}

fn check_log(history: &History) -> Result<(), Violation> {
    for (expected, change) in (2..).zip(&history.log) {
        if change.revision != expected {
            return Err(Violation::Hole {
                expected,
                found: change.revision,
            });
        }
    }
    let Some(last) = history.log.last() else {
        return Ok(());
    };
    for (index, operation) in history.operations.iter().enumerate() {
        if let Outcome::Answered(answer) = &operation.outcome
            && told(answer) > last.revision
        {
            let revision = told(answer);
            return Err(Violation::Lost {
                operation: index,
                revision,
                log_ends: last.revision,
            });
        }
    }
    Ok(())
}

/// The walk through all revisions.
struct Replay<'a> {
    history: &'a History,
    known: Vec<i64>,
    owners: BTreeMap<i64, usize>,
    /// Answers to be held against the state of a revision: reads, and writes without effect.
    looks: BTreeMap<i64, Vec<usize>>,
    /// Operations of unknown outcome by a key they may change; used ones are taken out.
    candidates: HashMap<Bytes, Vec<usize>>,
    /// The same for deletes of intervals, which name no single key.
    wide: Vec<usize>,
    model: Model,
    summary: Summary,
}

impl<'a> Replay<'a> {
    fn new(history: &'a History, known: Vec<i64>, owners: BTreeMap<i64, usize>) -> Replay<'a> {
        let mut replay = Replay {
            history,
            known,
            owners,
            looks: BTreeMap::new(),
            candidates: HashMap::new(),
            wide: Vec::new(),
            model: Model::default(),
            summary: Summary::default(),
        };
        for (index, operation) in history.operations.iter().enumerate() {
            match &operation.outcome {
                Outcome::Answered(answer) if answer.claims_effect() => replay.summary.writes += 1,
                Outcome::Answered(answer) => {
                    replay.summary.reads += 1;
                    let at = match &operation.request {
                        Request::Range(range) if range.revision > 0 => range.revision,
                        _ => told(answer),
                    };
                    replay.looks.entry(at).or_default().push(index);
                }
                Outcome::Refused(_) => replay.summary.refused += 1,
                Outcome::Unknown => replay.remember(index, &operation.request),
            }
        }
        replay
    }

    fn remember(&mut self, index: usize, request: &Request) {
        if matches!(request, Request::Range(_)) {
            return;
        }
        self.summary.unknown_not_done += 1;
        let mut keys = Vec::new();
        let mut wide = false;
        written_keys(request, &mut keys, &mut wide);
        keys.sort();
        keys.dedup();
        for key in keys {
            self.candidates.entry(key).or_default().push(index);
        }
        if wide {
            self.wide.push(index);
        }
    }

    fn run(mut self) -> Result<Summary, Violation> {
        let last_owned = self
            .owners
            .last_key_value()
            .map_or(1, |(revision, _)| *revision);
        let last = self
            .history
            .log
            .last()
            .map_or(last_owned, |change| change.revision);
        self.look(1)?;
        for revision in 2..=last {
            let position = usize::try_from(revision - 2).expect("starts at 2");
            let change = self.history.log.get(position);
            let events = match self.owners.get(&revision).copied() {
                Some(owner) => self.own(owner, revision, change)?,
                None => self.explain(revision, change)?,
            };
            self.model.advance(revision, &events);
            self.look(revision)?;
        }
        match self.looks.pop_last() {
            Some((revision, looks)) => Err(Violation::Lost {
                operation: looks[0],
                revision,
                log_ends: last,
            }),
            None => Ok(self.summary),
        }
    }

    /// The revision of an answered write: both its answer and the log must be the model's.
    fn own(
        &self,
        owner: usize,
        revision: i64,
        change: Option<&Change>,
    ) -> Result<Vec<api::Event>, Violation> {
        let (expected, events) = self.ask(owner)?;
        self.compare(owner, revision, expected)?;
        if let Some(change) = change
            && !same_events(&change.events, &events)
        {
            let (expected, got) = (briefly(&events), briefly(&change.events));
            return Err(Violation::Differs {
                operation: owner,
                revision,
                expected,
                got,
            });
        }
        Ok(events)
    }

    /// A revision nobody was told: some operation of unknown outcome did it.
    fn explain(
        &mut self,
        revision: i64,
        change: Option<&Change>,
    ) -> Result<Vec<api::Event>, Violation> {
        let invented = |events: &[api::Event]| {
            Err(Violation::Invented {
                revision,
                events: briefly(events),
            })
        };
        let Some(change) = change else {
            return invented(&[]);
        };
        let key = change
            .events
            .first()
            .and_then(|event| event.kv.as_ref())
            .map(|kv| &kv.key);
        let Some(key) = key else { return invented(&[]) };
        let named = self.candidates.get(key).into_iter().flatten();
        let found = named.chain(&self.wide).copied().find(|&index| {
            self.may_be_at(index, revision)
                && self
                    .model
                    .answer(&self.history.operations[index].request)
                    .is_ok_and(|(_, events)| same_events(&change.events, &events))
        });
        let Some(index) = found else {
            return invented(&change.events);
        };
        for waiting in self.candidates.values_mut() {
            waiting.retain(|&other| other != index);
        }
        self.wide.retain(|&other| other != index);
        self.summary.unknown_done += 1;
        self.summary.unknown_not_done -= 1;
        Ok(self.ask(index)?.1)
    }

    /// Not before it was called, not after the crash that ended its server.
    fn may_be_at(&self, index: usize, revision: i64) -> bool {
        let called = self.history.operations[index].called;
        let dead = self
            .history
            .barriers
            .iter()
            .any(|barrier| called < barrier.time && revision > barrier.revision);
        revision > self.known[index] && !dead
    }

    fn look(&mut self, revision: i64) -> Result<(), Violation> {
        for index in self.looks.remove(&revision).unwrap_or_default() {
            let (mut expected, events) = self.ask(index)?;
            let operation = &self.history.operations[index];
            let Outcome::Answered(got) = &operation.outcome else {
                continue;
            };
            if let (Answer::Range(expected), Answer::Range(got)) = (&mut expected, got)
                && let Some(header) = &mut expected.header
            {
                // A read of the past carries the present revision.
                header.revision = header
                    .revision
                    .max(got.header.map_or(0, |got| got.revision));
            }
            if !events.is_empty() {
                let (expected, got) = (format!("{expected:?}"), format!("{got:?}"));
                return Err(Violation::Wrong {
                    operation: index,
                    revision,
                    expected,
                    got,
                });
            }
            self.compare(index, revision, expected)?;
        }
        Ok(())
    }

    fn ask(&self, index: usize) -> Result<(Answer, Vec<api::Event>), Violation> {
        let request = &self.history.operations[index].request;
        self.model
            .answer(request)
            .map_err(|why| Violation::NotModelled {
                operation: index,
                why: why.0,
            })
    }

    fn compare(&self, index: usize, revision: i64, expected: Answer) -> Result<(), Violation> {
        let Outcome::Answered(got) = &self.history.operations[index].outcome else {
            return Ok(());
        };
        let got = got.clone().plain();
        if got == expected {
            return Ok(());
        }
        let (expected, got) = (format!("{expected:?}"), format!("{got:?}"));
        Err(Violation::Wrong {
            operation: index,
            revision,
            expected,
            got,
        })
    }
}

/// Equal but for previous pairs, which a log need not have.
fn same_events(log: &[api::Event], model: &[api::Event]) -> bool {
    log.len() == model.len()
        && log.iter().zip(model).all(|(log, model)| {
            log.r#type == model.r#type
                && log.kv == model.kv
                && (log.prev_kv.is_none() || log.prev_kv == model.prev_kv)
        })
}

fn written_keys(request: &Request, keys: &mut Vec<Bytes>, wide: &mut bool) {
    match request {
        Request::Range(_) => (),
        Request::Revoke(_) => *wide = true,
        Request::Put(put) => keys.push(put.key.clone()),
        Request::Delete(delete) => {
            *wide |= !delete.range_end.is_empty();
            keys.push(delete.key.clone());
        }
        Request::Txn(txn) => {
            use api::request_op::Request as Op;
            for op in txn.success.iter().chain(&txn.failure) {
                match &op.request {
                    Some(Op::RequestPut(put)) => keys.push(put.key.clone()),
                    Some(Op::RequestDeleteRange(delete)) => {
                        written_keys(&Request::Delete(delete.clone()), keys, wide);
                    }
                    Some(Op::RequestTxn(txn)) => {
                        written_keys(&Request::Txn(txn.clone()), keys, wide);
                    }
                    Some(Op::RequestRange(_)) | None => (),
                }
            }
        }
    }
}

/// Judges one watch from `start` over all keys against the log: ordered, unique, whole, complete.
pub fn check_watch(
    log: &[Change],
    start: i64,
    responses: &[api::WatchResponse],
) -> Result<i64, String> {
    let mut next = start;
    let mut expected = log
        .iter()
        .skip_while(|change| change.revision < start)
        .peekable();
    for response in responses {
        let mut events = &response.events[..];
        while !events.is_empty() {
            let Some(change) = expected.next() else {
                return Err(format!("events beyond the log: {:?}", briefly(events)));
            };
            let count = change.events.len().min(events.len());
            let (now, rest) = events.split_at(count);
            if !same_events(now, &change.events) {
                let (got, want) = (briefly(now), briefly(&change.events));
                return Err(format!(
                    "at revision {}: got {got:?}, log {want:?}",
                    change.revision
                ));
            }
            next = change.revision + 1;
            events = rest;
        }
        let header = response.header.as_ref().map_or(0, |header| header.revision);
        if !response.events.is_empty() && header < next - 1 {
            return Err(format!(
                "header {header} below its own events up to {}",
                next - 1
            ));
        }
    }
    Ok(next)
}

#[cfg(test)]
mod tests;
