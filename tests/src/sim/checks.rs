//! What must hold after every event, whatever happened. The first thing that does not is kept.

use std::collections::BTreeMap;

use kvnode_replica::{Install, Kind, Message, Write};
use kvnode_store::{Change, RequestId};
use kvnode_wal::{Entry, EntryKind, Membership};

use super::chance::{fold, fold_bytes};
use super::member::{Member, Process};
use super::plan::SECOND;

/// The cluster as somebody who sees everything knows it.
#[derive(Default)]
pub struct Checks {
    pub violation: Option<String>,
    leaders: BTreeMap<u64, u64>,
    /// By index and term: a hash of the log up to there.
    chains: BTreeMap<(u64, u64), u64>,
    /// By index: term and digest of what was committed.
    committed: BTreeMap<u64, (u64, u64)>,
    /// By index: the term of whoever first knew it to be committed.
    committed_in: BTreeMap<u64, u64>,
    /// By index: a digest of what executing it answered.
    answers: BTreeMap<u64, u64>,
    /// By index: hash and revision of the whole state.
    states: BTreeMap<u64, (u32, i64)>,
    requests: BTreeMap<RequestId, u64>,
    /// Every change from revision 2 on.
    pub changes: Vec<Change>,
    /// Lowest and highest revisions that anybody asked to compact to.
    pub compactions: Vec<i64>,
    /// By lease: when the last keepalive that was answered was called, and the seconds promised.
    kept: BTreeMap<i64, (u64, i64)>,
    /// Highest index at which anybody was to write a membership change.
    pub conf_change: u64,
    /// By proposer, its life, and lease: when its end was proposed.
    ends: BTreeMap<((u64, u64), i64), u64>,
    pub counts: Counts,
}

/// How much has happened, so that a test can demand that a run was not trivial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub events: u64,
    pub committed: u64,
    pub applied: u64,
    pub crashes: u64,
    pub power_cuts: u64,
    pub pauses: u64,
    pub partitions: u64,
    pub snapshots: u64,
    pub conf_changes: u64,
    pub damages: u64,
    pub refusals: u64,
    pub torn: u64,
    pub expired: u64,
    pub watch_responses: u64,
    pub watch_cancels: u64,
    pub operations: u64,
    pub unknown: u64,
    pub leaders: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.events += other.events;
        self.committed += other.committed;
        self.applied += other.applied;
        self.crashes += other.crashes;
        self.power_cuts += other.power_cuts;
        self.pauses += other.pauses;
        self.partitions += other.partitions;
        self.snapshots += other.snapshots;
        self.conf_changes += other.conf_changes;
        self.damages += other.damages;
        self.refusals += other.refusals;
        self.torn += other.torn;
        self.expired += other.expired;
        self.watch_responses += other.watch_responses;
        self.watch_cancels += other.watch_cancels;
        self.operations += other.operations;
        self.unknown += other.unknown;
        self.leaders += other.leaders;
    }
}

pub fn digest(entry: &Entry) -> u64 {
    let bytes = fold_bytes(entry.kind as u64, &entry.payload);
    fold(fold(bytes, entry.term), entry.index)
}

impl Checks {
    /// Keeps the first violation.
    pub fn fail(&mut self, text: impl Into<String>) {
        if self.violation.is_none() {
            self.violation = Some(text.into());
        }
    }

    pub fn demand(&mut self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.fail(text());
        }
    }

    /// Highest index that anybody knows to be committed.
    pub fn last_committed(&self) -> u64 {
        self.committed
            .last_key_value()
            .map_or(0, |(index, _)| *index)
    }

    /// Revision of the newest change.
    pub fn revision(&self) -> i64 {
        self.changes.last().map_or(1, |change| change.revision)
    }

    pub fn leads(&mut self, id: u64, term: u64) {
        let other = *self.leaders.entry(term).or_insert_with(|| {
            self.counts.leaders += 1;
            id
        });
        self.demand(other == id, || {
            format!("two leaders in term {term}: {other} and {id}")
        });
    }

    /// A write handed out: nothing committed is replaced by a leader elected after the commit.
    pub fn write(&mut self, id: u64, write: &Write) {
        for entry in &write.entries {
            let at = (entry.index, entry.term);
            if entry.kind == EntryKind::ConfChange {
                self.conf_change = self.conf_change.max(entry.index);
            }
            if let Some(&committed) = self.committed.get(&entry.index)
                && entry.term > self.committed_in[&entry.index]
            {
                self.demand(committed == (entry.term, digest(entry)), || {
                    format!(
                        "{id} replaces the committed entry {} of term {} by {at:?}",
                        entry.index, committed.0
                    )
                });
            }
        }
        let data = !write.entries.is_empty() || write.install.is_some();
        self.demand(write.must_sync || !data, || {
            format!("{id}: entries that need no sync")
        });
    }

    /// A write that is durable: equal index and term mean an equal log, for all members and for ever.
    /// (What was never durable nor sent may be different in the next life of a lone voter.)
    pub fn durable(&mut self, chain: &mut BTreeMap<u64, u64>, id: u64, write: &Write) {
        if let Some(Install { index, term, .. }) = write.install {
            let known = self.chains.get(&(index, term)).copied();
            self.demand(known.is_some(), || {
                format!("{id} installs {index} of term {term}, which nobody had")
            });
            chain.clear();
            chain.insert(index, known.unwrap_or(0));
        }
        self.chained(chain, id, &write.entries);
    }

    fn chained(&mut self, chain: &mut BTreeMap<u64, u64>, id: u64, entries: &[Entry]) {
        for entry in entries {
            let at = (entry.index, entry.term);
            let before = chain.get(&(entry.index - 1)).copied();
            self.demand(before.is_some() || entry.index == 1, || {
                format!("{id} writes {at:?} behind a hole")
            });
            let hash = fold(before.unwrap_or(0), digest(entry));
            drop(chain.split_off(&entry.index));
            chain.insert(entry.index, hash);
            let known = *self.chains.entry(at).or_insert(hash);
            self.demand(known == hash, || {
                format!("logs differ up to {at:?} at {id}")
            });
        }
    }

    /// The chain of a log that was read back behind (index, term).
    pub fn read_back(
        &mut self,
        id: u64,
        before: (u64, u64),
        entries: &[Entry],
    ) -> BTreeMap<u64, u64> {
        let mut chain = BTreeMap::new();
        let known = self.chains.get(&before).copied();
        self.demand(known.is_some() || before.0 == 0, || {
            format!("{id} reads back a log behind {before:?}, which nobody had")
        });
        chain.insert(before.0, known.unwrap_or(0));
        self.chained(&mut chain, id, entries);
        chain
    }

    /// An entry handed out as committed.
    pub fn committed(
        &mut self,
        id: u64,
        term: u64,
        entry: &Entry,
        members: &BTreeMap<u64, Member>,
        own: &Process,
    ) {
        let found = (entry.term, digest(entry));
        let first = !self.committed.contains_key(&entry.index);
        let known = *self.committed.entry(entry.index).or_insert(found);
        self.demand(known == found, || {
            format!(
                "two entries committed at {}: terms {} and {} (at {id})",
                entry.index, known.0, found.0
            )
        });
        self.committed_in.entry(entry.index).or_insert(term);
        let holds = |member: u64| {
            members
                .get(&member)
                .is_some_and(|m| m.shadow.holds(entry.index, entry.term))
        };
        self.demand(holds(id), || {
            format!(
                "entry {} committed at {id} before its own write",
                entry.index
            )
        });
        if !first {
            return;
        }
        self.counts.committed += 1;
        self.counts.conf_changes += u64::from(entry.kind == EntryKind::ConfChange);
        let majority = |voters: &[u64]| {
            voters.is_empty()
                || 2 * voters.iter().filter(|voter| holds(**voter)).count() > voters.len()
        };
        let durable = |m: &Membership| majority(&m.voters) && majority(&m.voters_outgoing);
        let enough = |process: &Process| {
            durable(process.replica.membership())
                || matches!(&process.voted, Some((voted, upto)) if entry.index <= *upto && durable(voted))
        };
        let others = members.values().filter_map(|m| m.process.as_ref());
        let somewhere = enough(own) || others.into_iter().any(|process| enough(process));
        self.demand(somewhere, || {
            let copies: Vec<u64> = members.keys().copied().filter(|m| holds(*m)).collect();
            format!(
                "entry {} was committed while durable on {copies:?} only",
                entry.index
            )
        });
    }

    /// An entry was executed with this result.
    pub fn executed(&mut self, index: u64, request: RequestId, answer: u64) {
        let known = *self.answers.entry(index).or_insert(answer);
        self.demand(known == answer, || {
            format!("members answer entry {index} differently")
        });
        if request.sequence != 0 {
            let first = *self.requests.entry(request).or_insert(index);
            self.demand(first == index, || {
                format!("one request executed twice, at {first} and {index}: {request:?}")
            });
        }
    }

    /// Changes a member made, or made again after a restart.
    pub fn changed(&mut self, id: u64, changes: &[Change]) {
        for change in changes {
            let at = usize::try_from(change.revision - 2).unwrap_or(usize::MAX);
            match self.changes.get(at) {
                Some(known) => {
                    let same = known == change;
                    self.demand(same, || {
                        format!(
                            "revision {} is another at {id}: {change:?}",
                            change.revision
                        )
                    });
                }
                None if at == self.changes.len() => self.changes.push(change.clone()),
                None => self.fail(format!("{id} jumps to revision {}", change.revision)),
            }
        }
    }

    pub fn state(&mut self, id: u64, index: u64, hash: u32, revision: i64) {
        let known = *self.states.entry(index).or_insert((hash, revision));
        self.demand(known == (hash, revision), || {
            format!("states differ at index {index}: {id} has hash {hash:08x} at revision {revision}, known {known:x?}")
        });
    }

    /// Nobody says more than its disk holds.
    pub fn claims(&mut self, member: &Member, message: &Message) {
        let (id, shadow, term) = (member.id, &member.shadow, message.term);
        let ahead = match message.kind {
            Kind::PreVote => true,
            Kind::PreVoteAnswer => !message.rejected,
            _ => false,
        };
        let saved = shadow.hard.term;
        self.demand(ahead || term <= saved, || {
            format!("{id} spoke in term {term}, {saved} is durable")
        });
        let (vote, last) = shadow.vote_in(term);
        match message.kind {
            Kind::Vote => self.demand(vote == id, || {
                format!("{id} asks for votes, its own is not durable")
            }),
            Kind::VoteAnswer if !message.rejected => self.demand(vote == message.to, || {
                format!(
                    "{id} gives {} its vote of term {term}, durable is {vote}",
                    message.to
                )
            }),
            Kind::AppendAnswer if !message.rejected => self.demand(last >= message.index, || {
                format!("{id} acknowledges {}, durable is {last}", message.index)
            }),
            _ => {}
        }
    }

    /// A client was told that its lease lives on.
    pub fn kept(&mut self, lease: i64, called: u64, ttl: i64) {
        let kept = self.kept.entry(lease).or_insert((0, ttl));
        *kept = (kept.0.max(called), ttl);
    }

    /// A member has found a lease to be over, and proposes its end.
    pub fn expires(&mut self, proposer: (u64, u64), lease: i64, now: u64) {
        self.counts.expired += 1;
        self.ends.insert((proposer, lease), now);
    }

    /// The end a member proposed came true: it was not too early. (What a leader of the past
    /// proposes comes to nothing.)
    pub fn ended(&mut self, proposer: (u64, u64), lease: i64, rate_max: u64) {
        let Some(&at) = self.ends.get(&(proposer, lease)) else {
            return;
        };
        let Some(&(called, ttl)) = self.kept.get(&lease) else {
            return;
        };
        let promised = ttl.unsigned_abs() * SECOND * 100 / rate_max;
        self.demand(at + 2000 >= called + promised, || {
            format!(
                "{} ends lease {lease} {} us after a keepalive that promised {ttl} s",
                proposer.0,
                at.saturating_sub(called)
            )
        });
    }
}
