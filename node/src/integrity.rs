//! Comparing the state of the members: the same log must have led to the same keys everywhere.
//!
//! The leader hashes its state at one revision and asks every other member for its hash at that revision. Hashes compare
//! only where both members had compacted the same; anything else, a member that cannot be reached or has moved on, is
//! *unverified* and said so, never passed. If hashes differ, the members outside the majority get a CORRUPT alarm through
//! the log: the cluster takes no more writes until an operator has looked, and such a member shows its data to nobody (see
//! `ClientCore::is_fenced`) but keeps it, until it is re-synced (`resync.rs`) or another takes its place. Without a majority nobody
//! can tell who is wrong, and the alarm names member 0.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kvnode_api::alarm_request::AlarmAction;
use kvnode_api::{AlarmRequest, AlarmType};
use kvnode_store::command::Kind;
use prost::Message as _;

use crate::cores::client::ClientCore;
use crate::cores::replica::ask;
use crate::exit;
use crate::rt;

/// How long a member may take to reach a revision, and to hash everything up to it.
const REACH_PATIENCE: Duration = Duration::from_secs(5);
const HASH_PATIENCE: Duration = Duration::from_secs(120);
const REACH_LOOK: Duration = Duration::from_millis(50);

/// A hash and what it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hash {
    revision: i64,
    compact_revision: i64,
    hash: u32,
}

/// What one comparison came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// Members whose state equals the asker's, itself included.
    agreeing: usize,
    /// Members with another state than the majority; [0] if there is no majority.
    corrupt: Vec<u64>,
    unverified: Vec<u64>,
}

/// What one comparison says of this member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    pub verdict: Verdict,
    /// Compared at this revision.
    pub revision: i64,
    /// Members with the same state as this one, itself included.
    pub agreeing: usize,
    pub members: usize,
    pub unverified: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A majority of the members has this member's state.
    Same,
    /// Another member has another state.
    Differs,
    /// Neither could be established.
    Unverified,
}

impl Comparison {
    /// Another try may say more.
    pub fn is_open(&self) -> bool {
        self.verdict == Verdict::Unverified
    }

    fn of(own: u64, revision: i64, members: usize, outcome: Outcome) -> Self {
        let verdict = if outcome.agreeing > members / 2 {
            Verdict::Same
        } else if outcome.corrupt.contains(&own) || outcome.corrupt.contains(&0) {
            Verdict::Differs
        } else {
            Verdict::Unverified
        };
        Comparison {
            verdict,
            revision,
            agreeing: outcome.agreeing,
            members,
            unverified: outcome.unverified,
        }
    }
}

/// Compares this member's state with the others' now, on somebody's word. `None` if there is nobody to compare with, or it
/// cannot be read.
pub async fn compare_now(core: &Rc<ClientCore>) -> Option<Comparison> {
    let revision = core.revision();
    let outcome = compare(core).await?;
    report(core, &outcome);
    let members = core.with_view(|view| view.members().len());
    let own = core.shared.member_id;
    Some(Comparison::of(own, revision, members, outcome))
}

/// The leader's check at every interval; elsewhere it only waits.
pub async fn run(core: Rc<ClientCore>) {
    let Some(interval) = core.shared.config.corrupt_check_interval else {
        return;
    };
    loop {
        rt::sleep(interval).await;
        if !core.shared.vitals.is_leader.load(Ordering::Relaxed) {
            continue;
        }
        let Some(outcome) = compare(&core).await else {
            continue;
        };
        report(&core, &outcome);
        for member_id in outcome.corrupt {
            raise(&core, member_id).await;
        }
    }
}

/// Before this member serves: its own state against the others'. Ends the process if a majority has another one.
pub async fn check_at_start(core: &Rc<ClientCore>) {
    let Some(outcome) = compare(core).await else {
        return;
    };
    report(core, &outcome);
    if outcome.corrupt.contains(&core.shared.member_id) {
        exit::fatal(
            exit::Code::Safety,
            format_args!(
                "the state of this member differs from that of the majority at revision {}",
                core.revision()
            ),
            "start it without the check and re-sync it (kvutil data resync --live), or keep the data directory for examination, remove this member and add it anew",
        );
    }
}

fn report(core: &ClientCore, outcome: &Outcome) {
    let metrics = &core.shared.metrics;
    let hex = |ids: &[u64]| -> String {
        let ids: Vec<String> = ids.iter().map(|id| format!("{id:x}")).collect();
        ids.join(", ")
    };
    if !outcome.corrupt.is_empty() {
        log::error!(
            "the members' states differ; corrupt (0: no majority to tell): {}",
            hex(&outcome.corrupt)
        );
    }
    // Once, by the worst of it.
    match (outcome.corrupt.is_empty(), outcome.unverified.is_empty()) {
        (false, _) => metrics.server.integrity_corrupt.add(1),
        (true, false) => metrics.server.integrity_unverified.add(1),
        (true, true) => metrics.server.integrity_verified.add(1),
    }
    if !outcome.unverified.is_empty() {
        log::warn!(
            "the state of members {} could not be compared: unverified",
            hex(&outcome.unverified)
        );
    }
    log::info!("{} members have the same state", outcome.agreeing);
}

/// One comparison of all members with this one; `None` where there is nobody to compare with.
async fn compare(core: &Rc<ClientCore>) -> Option<Outcome> {
    let own_id = core.shared.member_id;
    let others: Vec<u64> = core.with_view(|view| {
        let members = view.members().list();
        members
            .iter()
            .map(|member| member.id)
            .filter(|id| *id != own_id)
            .collect()
    });
    if others.is_empty() {
        return None;
    }
    let own = hash_at(core, core.revision()).await?;
    let mut body = BytesMut::with_capacity(8);
    body.put_i64_le(own.revision);
    let body = body.freeze();
    let mut answers = vec![(own_id, Some(own))];
    for id in others {
        let answer = core
            .ask_member(id, ask::HASH, body.clone(), HASH_PATIENCE)
            .await;
        answers.push((id, answer.and_then(|answer| decode(&answer))));
    }
    Some(judge(own, &answers))
}

/// Who agrees with whom.
fn judge(own: Hash, answers: &[(u64, Option<Hash>)]) -> Outcome {
    let comparable = |hash: &Hash| {
        (hash.revision, hash.compact_revision) == (own.revision, own.compact_revision)
    };
    let (mut known, mut unverified): (Vec<(u64, u32)>, Vec<u64>) = (Vec::new(), Vec::new());
    for (id, hash) in answers {
        match hash.filter(comparable) {
            Some(hash) => known.push((*id, hash.hash)),
            None => unverified.push(*id),
        }
    }
    let agreeing_with = |wanted: u32| known.iter().filter(|(_, hash)| *hash == wanted).count();
    let majority = known
        .iter()
        .map(|(_, hash)| *hash)
        .find(|hash| agreeing_with(*hash) > answers.len() / 2);
    let corrupt = match majority {
        Some(right) => known
            .iter()
            .filter(|(_, hash)| *hash != right)
            .map(|(id, _)| *id)
            .collect(),
        None if known.iter().any(|(_, hash)| *hash != own.hash) => vec![0],
        None => Vec::new(),
    };
    Outcome {
        agreeing: agreeing_with(own.hash),
        corrupt,
        unverified,
    }
}

async fn raise(core: &Rc<ClientCore>, member_id: u64) {
    let known = core.with_view(|view| view.alarms().has(AlarmType::Corrupt, member_id));
    if known {
        return;
    }
    let alarm = AlarmRequest {
        action: AlarmAction::Activate as i32,
        member_id,
        alarm: AlarmType::Corrupt as i32,
    };
    if let Err(status) = core.propose(Kind::Alarm, &alarm.encode_to_vec()).await {
        log::error!(
            "raising CORRUPT for member {member_id:x}: {status}; the next check tries again"
        );
    }
}

/// Hashes this member's state at `revision`, off the executor.
async fn hash_at(core: &Rc<ClientCore>, revision: i64) -> Option<Hash> {
    let view = core.view();
    let hashed = core.in_background(move || view.hash_kv(revision)).await;
    match hashed.and_then(|hashed| hashed) {
        Ok(hashed) => Some(Hash {
            revision: hashed.hash_revision,
            compact_revision: hashed.compact_revision,
            hash: hashed.hash,
        }),
        Err(status) => {
            log::warn!("hashing the state at revision {revision}: {status}");
            None
        }
    }
}

/// Another member asks. Empty if this member cannot say: it has not come so far, or has compacted beyond.
pub async fn hash_asked(core: &Rc<ClientCore>, body: &[u8]) -> Option<Bytes> {
    let revision = (body.len() == 8).then(|| (&mut &*body).get_i64_le())?;
    let give_up_ms = core.shared.now_ms() + REACH_PATIENCE.as_millis() as u64;
    while core.revision() < revision && core.shared.now_ms() < give_up_ms {
        rt::sleep(REACH_LOOK).await;
    }
    if revision <= 0 || core.revision() < revision {
        return Some(Bytes::new());
    }
    let hash = hash_at(core, revision).await;
    Some(hash.map(encode).unwrap_or_default())
}

fn encode(hash: Hash) -> Bytes {
    let mut out = BytesMut::with_capacity(20);
    out.put_i64_le(hash.revision);
    out.put_i64_le(hash.compact_revision);
    out.put_u32_le(hash.hash);
    out.freeze()
}

fn decode(mut bytes: &[u8]) -> Option<Hash> {
    (bytes.len() == 20).then(|| Hash {
        revision: bytes.get_i64_le(),
        compact_revision: bytes.get_i64_le(),
        hash: bytes.get_u32_le(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(compact_revision: i64, hash: u32) -> Option<Hash> {
        Some(Hash {
            revision: 9,
            compact_revision,
            hash,
        })
    }

    fn judged(answers: &[(u64, Option<Hash>)]) -> (usize, Vec<u64>, Vec<u64>) {
        let own = answers[0].1.expect("the asker's own");
        let outcome = judge(own, answers);
        (outcome.agreeing, outcome.corrupt, outcome.unverified)
    }

    #[test]
    fn a_minority_is_named_even_if_it_asks() {
        let (good, bad) = (hash(5, 1), hash(5, 2));
        assert_eq!(
            judged(&[(1, good), (2, good), (3, good)]),
            (3, vec![], vec![])
        );
        assert_eq!(
            judged(&[(1, good), (2, bad), (3, good)]),
            (2, vec![2], vec![])
        );
        assert_eq!(
            judged(&[(1, bad), (2, good), (3, good)]),
            (1, vec![1], vec![])
        );
    }

    #[test]
    fn what_was_not_compared_is_unverified_and_no_majority_names_nobody() {
        let (good, bad) = (hash(5, 1), hash(5, 2));
        assert_eq!(
            judged(&[(1, good), (2, None), (3, good)]),
            (2, vec![], vec![2])
        );
        assert_eq!(
            judged(&[(1, good), (2, None), (3, hash(6, 2))]),
            (1, vec![], vec![2, 3]),
            "another compaction says nothing"
        );
        assert_eq!(judged(&[(1, good), (2, bad)]), (1, vec![0], vec![]));
        assert_eq!(
            judged(&[(1, good), (2, bad), (3, None)]),
            (1, vec![0], vec![3]),
            "one against one of three"
        );
    }

    #[test]
    fn a_member_passes_only_with_a_majority() {
        let (good, bad) = (hash(5, 1), hash(5, 2));
        let verdict = |answers: &[(u64, Option<Hash>)]| {
            let outcome = judge(answers[0].1.expect("own"), answers);
            Comparison::of(1, 9, answers.len(), outcome).verdict
        };
        assert_eq!(verdict(&[(1, good), (2, good), (3, None)]), Verdict::Same);
        assert_eq!(verdict(&[(1, good), (2, good), (3, bad)]), Verdict::Same);
        assert_eq!(verdict(&[(1, bad), (2, good), (3, good)]), Verdict::Differs);
        assert_eq!(verdict(&[(1, good), (2, bad), (3, None)]), Verdict::Differs);
        assert_eq!(
            verdict(&[(1, good), (2, None), (3, None)]),
            Verdict::Unverified
        );
        assert_eq!(
            verdict(&[(1, good), (2, hash(6, 1)), (3, None)]),
            Verdict::Unverified,
            "another compaction says nothing"
        );
    }

    #[test]
    fn hashes_survive_the_wire() {
        let one = hash(-1, 77).expect("some");
        assert_eq!(decode(&encode(one)), Some(one));
        assert_eq!(decode(&encode(one)[1..]), None);
        assert_eq!(decode(&[]), None);
    }
}
