//! The replica core: raft's driver, and the lease clock of the leader. Never blocks.
//!
//! One turn takes every waiting message, feeds raft, polls it until it has nothing more to say, and hands out what it said:
//! writes to the WAL thread, committed entries to the apply thread, read indexes to the client cores.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use kvnode_api::LeaseRevokeRequest;
use kvnode_api::status::{Code, Status};
use kvnode_replica::{Output, Refused, Replica};
use kvnode_store::LeaseChange;
use kvnode_store::command::{Command, Header, Kind, RequestId};
use prost::Message as _;

use super::{ApplyJob, CoreMessage, LeaseAnswer, Mailboxes, ReplicaMessage, View, post};
use crate::disk::DiskJob;
use crate::exit;
use crate::mailbox::{Receiver, Sender};
use crate::rt;
use crate::shared::Shared;
use crate::slots::Ticket;
use kvnode_store::lease_clock::LeaseClock;

/// How often due leases are looked for.
const EXPIRY_SCAN: Duration = Duration::from_millis(500);
/// Revokes proposed per scan at the most: 1000 a second, so that a mass expiry leaves room for clients.
const EXPIRED_PER_SCAN: usize = 500;
/// Entries that raft keeps in memory behind the applied index before they are dropped.
const TAIL_ENTRIES_MAX: u64 = 4096;

/// Where the core's outputs go.
pub struct Links {
    pub disk: Sender<DiskJob>,
    pub apply: Sender<ApplyJob>,
    pub cores: Mailboxes,
}

pub struct ReplicaCore {
    shared: Arc<Shared>,
    replica: Replica,
    output: Output,
    links: Links,
    clock: LeaseClock,
    /// The state as last applied: what a new leader learns its leases from.
    view: View,
    term: u64,
    leader: u64,
    compacted: u64,
}

impl ReplicaCore {
    pub fn new(
        shared: Arc<Shared>,
        replica: Replica,
        view: View,
        links: Links,
    ) -> Rc<RefCell<Self>> {
        let compacted = view.applied_index();
        Rc::new(RefCell::new(ReplicaCore {
            shared,
            replica,
            output: Output::default(),
            links,
            clock: LeaseClock::new(),
            view,
            term: 0,
            leader: 0,
            compacted,
        }))
    }

    /// See `Replica::read_now`.
    pub fn read_now(&self) -> Option<u64> {
        self.replica.read_now()
    }

    /// Starts the core's tasks on this executor: messages, ticks, lease expiry.
    pub fn start(this: &Rc<RefCell<Self>>, mut inbox: Receiver<ReplicaMessage>) {
        let core = Rc::clone(this);
        rt::spawn_local(async move {
            let mut messages = Vec::new();
            while inbox.take(&mut messages).await.is_ok() {
                let mut core = core.borrow_mut();
                for message in messages.drain(..) {
                    core.take(message);
                }
                core.pump();
            }
        });
        let core = Rc::clone(this);
        rt::spawn_local(async move {
            let interval = core.borrow().shared.config.heartbeat_interval;
            loop {
                rt::sleep(interval).await;
                let mut core = core.borrow_mut();
                core.replica.tick();
                core.pump();
            }
        });
        let core = Rc::clone(this);
        rt::spawn_local(async move {
            loop {
                rt::sleep(EXPIRY_SCAN).await;
                let mut core = core.borrow_mut();
                core.expire_leases();
                core.pump();
            }
        });
        let mut core = this.borrow_mut();
        core.replica.campaign_if_alone();
        core.pump();
    }

    fn take(&mut self, message: ReplicaMessage) {
        match message {
            ReplicaMessage::Propose { ticket, payload } => {
                if let Err(refused) = self.replica.propose(payload) {
                    self.shared.metrics.proposals_failed.add(1);
                    self.tell(
                        ticket,
                        CoreMessage::Refused {
                            ticket,
                            status: refusal(&refused),
                        },
                    );
                }
            }
            ReplicaMessage::Read { core, token } => self.replica.read(read_token(core, token)),
            ReplicaMessage::Written(number) => self.replica.written(number),
            ReplicaMessage::Applied {
                index,
                view,
                leases,
            } => self.applied(index, view, leases),
            ReplicaMessage::KeepAlive { ticket, lease } => {
                let renewal = self.clock.keep_alive(lease, self.shared.now_ms());
                self.tell(
                    ticket,
                    CoreMessage::Lease {
                        ticket,
                        answer: LeaseAnswer::Renewal(renewal),
                    },
                );
            }
            ReplicaMessage::TimeToLive { ticket, lease } => {
                let answer = if self.clock.is_running() {
                    LeaseAnswer::Remaining(self.clock.remaining(lease, self.shared.now_ms()))
                } else {
                    LeaseAnswer::NotLeader
                };
                self.tell(ticket, CoreMessage::Lease { ticket, answer });
            }
            ReplicaMessage::Durable(index) => {
                post(&self.links.disk, DiskJob::Purge { upto: index });
            }
        }
    }

    fn tell(&self, ticket: Ticket, message: CoreMessage) {
        if let Some(core) = self.links.cores.get(ticket.core()) {
            post(core, message);
        }
    }

    fn applied(&mut self, index: u64, view: View, leases: Vec<LeaseChange>) {
        self.replica.applied(index);
        self.view = view;
        let now_ms = self.shared.now_ms();
        for change in leases {
            match change {
                LeaseChange::Granted { id, ttl } => self.clock.granted(id, ttl, now_ms),
                LeaseChange::Revoked { id } => self.clock.revoked(id),
                LeaseChange::Checkpointed { .. } => {}
            }
        }
        // A lone voter has nobody to send old entries to: memory is all that they would cost.
        if index - self.compacted >= TAIL_ENTRIES_MAX {
            self.replica.compact(index);
            self.compacted = index;
        }
    }

    /// Lets raft say all it has to say.
    fn pump(&mut self) {
        while self.replica.poll(&mut self.output) {
            if let Some(write) = self.output.write.take() {
                post(&self.links.disk, DiskJob::Write(write));
            }
            if let Some(last) = self.output.committed.last() {
                self.shared
                    .vitals
                    .committed
                    .store(last.index, Ordering::Relaxed);
                post(
                    &self.links.apply,
                    ApplyJob::Entries(std::mem::take(&mut self.output.committed)),
                );
            }
            if let Some(error) = self.output.failure.take() {
                exit::fatal(
                    exit::Code::Safety,
                    error,
                    "restore this member from a snapshot or a healthy member",
                );
            }
            for (token, result) in self.output.reads.drain(..) {
                let (core, token) = split_read_token(token);
                if let Some(core) = self.links.cores.get(core) {
                    let index = result.map_err(|refused| refusal(&refused));
                    post(core, CoreMessage::ReadIndex { token, index });
                }
            }
        }
        self.publish();
    }

    fn publish(&mut self) {
        let status = self.replica.status();
        let leader = status.leader.unwrap_or(0);
        if (status.term, leader) == (self.term, self.leader) {
            return;
        }
        let led = self.leader == self.shared.member_id;
        let leads = leader == self.shared.member_id;
        if leader != self.leader && leader != 0 {
            self.shared.metrics.leader_changes.add(1);
        }
        (self.term, self.leader) = (status.term, leader);
        let vitals = &self.shared.vitals;
        vitals.term.store(status.term, Ordering::Relaxed);
        vitals.leader.store(leader, Ordering::Relaxed);
        vitals.is_leader.store(leads, Ordering::Relaxed);
        if leads && !led {
            let extra_ms =
                u64::try_from(self.shared.config.election_timeout.as_millis()).unwrap_or(0);
            let leases = self.view.leases().unwrap_or_else(|status| {
                exit::fatal(
                    exit::Code::Io,
                    format_args!("reading the leases: {status}"),
                    "check the disk of the data directory",
                )
            });
            let leases = leases
                .into_iter()
                .map(|lease| (lease.id, lease.ttl, lease.remaining));
            self.clock.promote(self.shared.now_ms(), extra_ms, leases);
            log::info!(
                "leading term {} with {} leases",
                status.term,
                self.clock.count()
            );
        } else if led && !leads {
            self.clock.demote();
        }
        for core in self.links.cores.iter() {
            post(core, CoreMessage::Leader { leader });
        }
    }

    fn expire_leases(&mut self) {
        for id in self
            .clock
            .take_expired(self.shared.now_ms(), EXPIRED_PER_SCAN)
        {
            let message = LeaseRevokeRequest { id }.encode_to_vec();
            match self
                .replica
                .propose(self.own_command(Kind::LeaseRevoke, &message))
            {
                Ok(()) => self.shared.metrics.leases_expired.add(1),
                Err(_) => self.clock.retry(id),
            }
        }
    }

    /// A command nobody waits for.
    fn own_command(&self, kind: Kind, message: &[u8]) -> Bytes {
        let request = RequestId {
            member: self.shared.member_id,
            incarnation: self.shared.incarnation,
            sequence: 0,
        };
        let header = Header {
            request,
            time_ms: self.shared.unix_ms(),
            ..Header::default()
        };
        Command::encode(kind, &header, message)
    }
}

const CORE_SHIFT: u32 = 56;

fn read_token(core: usize, token: u64) -> u64 {
    ((core as u64) << CORE_SHIFT) | (token & ((1 << CORE_SHIFT) - 1))
}

fn split_read_token(token: u64) -> (usize, u64) {
    (
        (token >> CORE_SHIFT) as usize,
        token & ((1 << CORE_SHIFT) - 1),
    )
}

/// What a client hears when raft would not take its request.
fn refusal(refused: &Refused) -> Status {
    match refused {
        Refused::NotLeader { .. } => Status::no_leader(),
        Refused::Busy => Status::too_many_requests(),
        _ => Status::new(Code::Unknown, "raft proposal dropped"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_token_carries_its_core() {
        assert_eq!(split_read_token(read_token(3, 77)), (3, 77));
        assert_eq!(split_read_token(read_token(0, 1)), (0, 1));
    }
}
