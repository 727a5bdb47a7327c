//! Clients: one question in flight each, answers recorded for the checker. What times out is unknown
//! and a new question follows.

use bytes::Bytes;
use kvnode_api as api;

use super::asks::{Ask, Caller, Reply};
use super::chance::fold;
use super::plan::{MS, SECOND};
use super::world::{Event, World};
use crate::client::code;
use crate::history::{Operation, Outcome, Request};
use crate::words;

/// Questions of scenarios come from here.
pub const HAND: u32 = u32::MAX - 1;

/// A client.
#[derive(Clone, Debug)]
pub struct Client {
    pub id: u32,
    /// Its question in flight: number, when, what, whom.
    pub running: Option<(u64, u64, Ask, u64)>,
    /// The member it asks until that disappoints.
    pub favourite: u64,
    pub leases: Vec<i64>,
    /// Revision it was told last.
    pub seen: i64,
}

impl World {
    /// Clients of the plan begin.
    pub fn open_doors(&mut self) {
        for id in 0..self.plan.clients {
            self.clients.push(Client {
                id,
                running: None,
                favourite: 1 + u64::from(id) % self.plan.members,
                leases: Vec::new(),
                seen: 1,
            });
            let delay = self.chance.below(SECOND);
            self.after(delay, Event::Next(id));
        }
    }

    pub(super) fn next_of(&mut self, id: u32) {
        if self.closing {
            return;
        }
        let Some(mut client) = self.clients.get(id as usize).cloned() else {
            return;
        };
        if client.running.is_some() {
            return;
        }
        let ids: Vec<u64> = self.members.keys().copied().collect();
        if self.chance.percent(10) {
            client.favourite = self.chance.pick(&ids);
        }
        let ask = self.invent(&mut client);
        self.next_number += 1;
        let caller = Caller {
            client: id,
            number: self.next_number,
        };
        let member = client.favourite;
        client.running = Some((caller.number, self.now, ask.clone(), member));
        self.clients[id as usize] = client;
        let timeout = self.chance.between(self.plan.timeout);
        self.after(timeout, Event::TimedOut(caller));
        let delay = self.chance.between((100, 800));
        self.after(delay, Event::Asked(member, caller, ask));
    }

    fn key(&mut self) -> Bytes {
        let key = self.chance.below(self.plan.work.keys.max(1));
        Bytes::from(format!("k{key:02}"))
    }

    fn span(&mut self) -> (Bytes, Bytes) {
        if self.chance.percent(40) {
            return words::everything();
        }
        let (a, b) = (self.key(), self.key());
        (a.clone().min(b.clone()), a.max(b))
    }

    fn value(&mut self) -> Bytes {
        self.next_value += 1;
        let pad = if self.chance.percent(5) {
            900
        } else {
            self.chance.below(60)
        };
        let value = format!("v{}{}", self.next_value, "-".repeat(pad as usize));
        Bytes::from(value)
    }

    fn invent(&mut self, client: &mut Client) -> Ask {
        let work = self.plan.work;
        let weights = [
            work.put,
            work.get,
            work.range,
            work.stale_range,
            work.past_range,
            work.delete,
            work.delete_range,
            work.txn,
            work.compact,
            work.grant,
            work.keep_alive,
            work.revoke,
        ];
        let lease = (!client.leases.is_empty()).then(|| self.chance.pick(&client.leases));
        let kind = self.chance.weighted(&weights).unwrap_or(0);
        match (kind, lease) {
            (1, _) => Ask::Kv(Request::Range(words::get(self.key()))),
            (2 | 3, _) => {
                let (key, range_end) = self.span();
                Ask::Kv(Request::Range(api::RangeRequest {
                    key,
                    range_end,
                    serializable: kind == 3,
                    limit: self.chance.pick(&[0, 0, 1, 3]),
                    keys_only: self.chance.percent(10),
                    count_only: self.chance.percent(10),
                    ..Default::default()
                }))
            }
            (4, _) => {
                let (key, range_end) = self.span();
                let back = self.chance.below(30) as i64;
                let revision = (client.seen - back).max(1);
                let request = api::RangeRequest {
                    key,
                    range_end,
                    revision,
                    ..Default::default()
                };
                Ask::Kv(Request::Range(request))
            }
            (5, _) => Ask::Kv(Request::Delete(api::DeleteRangeRequest {
                prev_kv: self.chance.percent(30),
                ..words::delete(self.key())
            })),
            (6, _) => {
                let (key, range_end) = self.span();
                Ask::Kv(Request::Delete(words::delete_span(key, range_end)))
            }
            (7, _) => Ask::Kv(Request::Txn(self.transaction())),
            (8, _) => {
                let back = self.chance.below(20) as i64;
                Ask::Compact((client.seen - back).max(1))
            }
            (9, _) => {
                self.next_lease += 1;
                let ttl = self.chance.between((1, 4)) as i64;
                Ask::Grant {
                    id: self.next_lease,
                    ttl,
                }
            }
            (10, Some(lease)) => Ask::KeepAlive(lease),
            (11, Some(lease)) => {
                client.leases.retain(|known| *known != lease);
                Ask::Revoke(lease)
            }
            _ => {
                let lease = lease.filter(|_| self.chance.percent(60)).unwrap_or(0);
                Ask::Kv(Request::Put(api::PutRequest {
                    lease,
                    prev_kv: self.chance.percent(30),
                    ..words::put(self.key(), self.value())
                }))
            }
        }
    }

    fn transaction(&mut self) -> api::TxnRequest {
        use words::Op as _;
        use words::number::{EQUAL, GREATER, MOD, VERSION};
        let (a, b, c) = (self.key(), self.key(), self.key());
        let put = words::put(a.clone(), self.value());
        let compare = match self.chance.below(3) {
            0 => words::compare_number(a.clone(), EQUAL, VERSION, 0),
            1 => words::compare_number(b.clone(), GREATER, MOD, 0),
            _ => words::compare_number(a.clone(), GREATER, VERSION, 2),
        };
        match self.chance.below(4) {
            0 => words::txn(
                vec![compare],
                vec![put.op()],
                vec![words::get(a).op(), words::get(b).op()],
            ),
            1 => words::txn(
                vec![compare],
                vec![words::get(b).op()],
                vec![words::get(c).op()],
            ),
            2 if a != b => words::txn(
                vec![compare],
                vec![put.op(), words::delete(b).op(), words::get(c).op()],
                vec![words::delete(a).op()],
            ),
            _ => words::txn(
                vec![compare],
                vec![words::get(a.clone()).op(), put.op(), words::get(a).op()],
                vec![],
            ),
        }
    }

    /// A client hears an answer, or gives up.
    pub(super) fn answered(&mut self, caller: Caller, reply: Reply) {
        if caller.client == HAND {
            if let Some((called, ask)) = self.asked.remove(&caller.number) {
                self.record(caller, called, 0, &ask, &reply);
                self.heard.insert(caller.number, reply);
            }
            return;
        }
        let Some(client) = self.clients.get_mut(caller.client as usize) else {
            return;
        };
        let Some((number, called, ask, member)) = client.running.take() else {
            return;
        };
        if number != caller.number {
            client.running = Some((number, called, ask, member));
            return;
        }
        client.seen = client.seen.max(reply.revision());
        match &reply {
            Reply::Granted { .. } => {
                if let Ask::Grant { id, .. } = ask {
                    client.leases.push(id);
                }
            }
            Reply::Kept(0) => {
                if let Ask::KeepAlive(lease) = ask {
                    client.leases.retain(|known| *known != lease);
                }
            }
            Reply::Refused(_) | Reply::Unknown => {
                // Somewhere else may be better.
                let ids: Vec<u64> = self.members.keys().copied().collect();
                let leader = self.leader().filter(|_| self.chance.percent(50));
                let next = leader.unwrap_or_else(|| self.chance.pick(&ids));
                self.clients[caller.client as usize].favourite = next;
            }
            _ => {}
        }
        self.record(caller, called, member, &ask, &reply);
        let delay = self.chance.between(self.plan.think);
        self.after(delay, Event::Next(caller.client));
    }

    fn record(&mut self, caller: Caller, called: u64, member: u64, ask: &Ask, reply: &Reply) {
        let client = caller.client;
        self.checks.counts.operations += 1;
        self.say(|| {
            format!("client {client} asked at {called} member {member}: {ask:?} -> {reply:?}")
        });
        self.checks.counts.unknown += u64::from(*reply == Reply::Unknown);
        let kind = match reply {
            Reply::Refused(_) => 1,
            Reply::Unknown => 2,
            _ => 3,
        };
        self.hash = fold(
            self.hash,
            fold(kind, fold(reply.revision() as u64, self.now)),
        );
        let (request, outcome) = match (ask, reply) {
            (Ask::Kv(request), Reply::Kv(answer)) => {
                (request.clone(), Outcome::Answered(answer.clone()))
            }
            (Ask::Kv(request), Reply::Refused(status)) => {
                self.check_refusal(request, status);
                (request.clone(), Outcome::Refused(status.clone()))
            }
            (Ask::Kv(request), _) => (request.clone(), Outcome::Unknown),
            (Ask::Revoke(lease), Reply::Revoked | Reply::Unknown) => {
                (Request::Revoke(*lease), Outcome::Unknown)
            }
            (Ask::KeepAlive(lease), Reply::Kept(ttl)) if *ttl > 0 => {
                return self.checks.kept(*lease, called, *ttl);
            }
            (Ask::Grant { id, .. }, Reply::Granted { ttl }) => {
                return self.checks.kept(*id, called, *ttl);
            }
            (Ask::Compact(revision), Reply::Compacted | Reply::Unknown) => {
                return self.checks.compactions.push(*revision);
            }
            _ => return,
        };
        // A serializable read promises order within one connection only: each is a client of its own.
        let stale = matches!(&request, Request::Range(range) if range.serializable);
        let life = self.members.get(&member).map_or(0, |member| member.life);
        let client = match stale {
            true => (1 << 24) | (client << 16) | ((member as u32) << 10) | (life as u32 & 0x3ff),
            false => client,
        };
        let returned = self.now;
        if outcome == Outcome::Unknown {
            self.unheard.push((caller, self.history.operations.len()));
        }
        self.history.operations.push(Operation {
            client,
            called,
            returned,
            request,
            outcome,
        });
    }

    /// A refusal must have a reason.
    fn check_refusal(&mut self, request: &Request, status: &crate::client::Status) {
        if let Request::Range(range) = request
            && status.code == code::OUT_OF_RANGE
        {
            let compacted = *status == words::refusal::compacted();
            let running = self
                .clients
                .iter()
                .filter_map(|client| client.running.as_ref());
            let asked = running.filter_map(|running| match running.2 {
                Ask::Compact(revision) => Some(revision),
                _ => None,
            });
            let highest = asked
                .chain(self.checks.compactions.iter().copied())
                .max()
                .unwrap_or(-1);
            self.checks
                .demand(!compacted || range.revision < highest, || {
                    format!(
                        "revision {} is told to be compacted, {highest} was asked for",
                        range.revision
                    )
                });
            let revision = self.checks.revision();
            self.checks.demand(
                compacted || range.serializable || range.revision > revision,
                || {
                    format!(
                        "revision {} is told to be in the future of {revision}",
                        range.revision
                    )
                },
            );
        }
    }

    // ---- by hand, for scenarios ---------------------------------------------------------------

    /// Asks a member something; the answer comes into `heard`.
    pub fn ask(&mut self, member: u64, ask: Ask) -> u64 {
        self.next_number += 1;
        let number = self.next_number;
        self.asked.insert(number, (self.now, ask.clone()));
        let caller = Caller {
            client: HAND,
            number,
        };
        self.after(100, Event::Asked(member, caller, ask));
        number
    }

    /// The answer, if it comes within the time; else the question counts as unknown.
    pub fn wait(&mut self, number: u64, time: u64) -> Reply {
        self.until(time, |world| world.heard.contains_key(&number));
        if let Some(reply) = self.heard.remove(&number) {
            return reply;
        }
        let caller = Caller {
            client: HAND,
            number,
        };
        self.answered(caller, Reply::Unknown);
        self.heard.remove(&number).unwrap_or(Reply::Unknown)
    }

    /// Asks and waits for up to ten seconds.
    pub fn call(&mut self, member: u64, ask: Ask) -> Reply {
        let number = self.ask(member, ask);
        self.wait(number, 10 * SECOND)
    }

    /// A put that must succeed; tells its revision.
    pub fn put(&mut self, member: u64, key: &str, value: &str) -> i64 {
        let reply = self.call(member, Ask::Kv(Request::Put(words::put(key, value))));
        let revision = reply.revision();
        self.checks.demand(revision > 0, || {
            format!("a put at {member} failed: {reply:?}")
        });
        revision
    }

    /// Values of all keys, read linearizably.
    pub fn read_all(&mut self, member: u64) -> Option<api::RangeResponse> {
        let (key, range_end) = words::everything();
        let request = api::RangeRequest {
            key,
            range_end,
            ..Default::default()
        };
        match self.call(member, Ask::Kv(Request::Range(request))) {
            Reply::Kv(crate::history::Answer::Range(answer)) => Some(answer),
            _ => None,
        }
    }

    /// Runs until somebody leads and can confirm reads.
    pub fn until_leader(&mut self) -> u64 {
        let led = self.until(30 * SECOND, |world| world.settled_leader().is_some());
        self.checks
            .demand(led, || "nobody leads within 30 s".into());
        // Members hear of it with the next heartbeat.
        self.run(300 * MS);
        self.settled_leader().unwrap_or(0)
    }
}
