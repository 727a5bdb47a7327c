//! The replica core: raft's driver on its executor. Never blocks.
//!
//! One turn takes every waiting message, feeds raft, polls it until it has nothing more to say, and hands out what it said:
//! writes to the WAL thread, messages to the other members, committed entries to the apply thread, read indexes to the
//! client cores. Which message may leave before which write is raft's wrapper's decision; here everything it says is
//! passed on at once, so a leader's appends travel while its own sync runs.
//!
//! One mechanism per file: `direct` (the short way of a lone voter's entries), `here` (a lone write, done by this executor), `proposals` (what waits for a leader or its word), `leases` (the leader's clock), `link` (the other
//! members), `members` (who belongs to the cluster), `leadership` (who leads, stalls, hand-over), `retention` (how much log is kept), `snapshots` (members too
//! far behind for the log).

mod direct;
mod here;
mod leadership;
mod leases;
mod link;
mod members;
mod proposals;
mod retention;
mod snapshots;

pub use link::ask;
pub use members::is_look_again;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use kvnode_api::status::Status;
use kvnode_replica::{Output, Refused, Replica};
use kvnode_store::command::{Command, Header, Kind, RequestId};

use super::{ApplyJob, CoreMessage, Mailboxes, ReplicaMessage, View, post};
use crate::disk::{DiskJob, LogPlace};
use crate::exit;
use crate::mailbox::{Receiver, Sender};
use crate::rt;
use crate::shared::Shared;
use crate::slots::Ticket;
use crate::snapshots::Snapshots;

/// How often due leases are looked for.
const EXPIRY_SCAN: Duration = Duration::from_millis(500);
/// Reads of the core itself, beside those of the client cores.
const OWN_READS: usize = 0xff;

/// Where the core's outputs go.
pub struct Links {
    pub disk: Sender<DiskJob>,
    pub log: LogPlace,
    pub apply: Sender<ApplyJob>,
    pub cores: Mailboxes,
}

pub struct ReplicaCore {
    shared: Arc<Shared>,
    replica: Replica,
    output: Output,
    links: Links,
    /// The state as last applied: what a new leader learns its leases from.
    view: View,
    direct: direct::Direct,
    here: here::Here,
    proposals: proposals::Proposals,
    changes: members::Changes,
    leases: leases::Leases,
    link: link::Link,
    leadership: leadership::Leadership,
    retention: retention::Retention,
    snapshots: Snapshots,
}

impl ReplicaCore {
    pub fn new(
        shared: Arc<Shared>,
        replica: Replica,
        view: View,
        links: Links,
        snapshots: Snapshots,
    ) -> Rc<RefCell<Self>> {
        let retention = retention::Retention::new(replica.status().first_index - 1);
        Rc::new(RefCell::new(ReplicaCore {
            direct: direct::Direct::new(view.applied_index()),
            here: here::Here::default(),
            proposals: proposals::Proposals::default(),
            changes: members::Changes::default(),
            leases: leases::Leases::default(),
            link: link::Link::default(),
            leadership: leadership::Leadership::new(shared.now_ms()),
            retention,
            snapshots,
            shared,
            replica,
            output: Output::default(),
            links,
            view,
        }))
    }

    /// See `Replica::read_now`.
    pub fn read_now(&self) -> Option<u64> {
        self.replica.read_now()
    }

    /// Starts the core's tasks on this executor: messages, ticks, lease expiry. The transport is attached before.
    pub fn start(this: &Rc<RefCell<Self>>, mut inbox: Receiver<ReplicaMessage>) {
        let core = Rc::clone(this);
        rt::spawn_local(async move {
            let mut messages = Vec::new();
            while inbox.take(&mut messages).await.is_ok() {
                core.borrow_mut().turn(|core| {
                    for message in messages.drain(..) {
                        core.take(message);
                    }
                });
            }
        });
        let core = Rc::clone(this);
        rt::spawn_local(async move {
            let interval = core.borrow().shared.config.heartbeat_interval;
            loop {
                rt::sleep(interval).await;
                core.borrow_mut().turn(ReplicaCore::tick);
            }
        });
        let core = Rc::clone(this);
        rt::spawn_local(async move {
            loop {
                rt::sleep(EXPIRY_SCAN).await;
                core.borrow_mut().turn(ReplicaCore::expire_leases);
            }
        });
        this.borrow_mut().turn(|core| {
            core.tell_membership();
            core.replica.campaign_if_alone();
        });
    }

    /// One turn: what a stopped clock means first, then the work, then all that raft has to say to it.
    fn turn(&mut self, work: impl FnOnce(&mut Self)) {
        self.look_at_clock();
        work(self);
        self.take_events();
        self.pump();
        while self.take_events() {
            self.pump();
        }
    }

    fn tick(&mut self) {
        self.look_at_disk();
        self.replica.tick();
        self.retry_held();
        self.look_at_snapshots();
        self.link.look(&self.shared, &self.replica);
    }

    fn take(&mut self, message: ReplicaMessage) {
        match message {
            ReplicaMessage::Propose { ticket, payload } => self.propose(ticket, payload),
            ReplicaMessage::Reconfigure {
                ticket,
                change,
                known,
            } => self.reconfigure(ticket, &change, known),
            ReplicaMessage::Read { core, token } => self.replica.read(read_token(core, token)),
            ReplicaMessage::Written(number) => {
                self.leadership.written(number);
                self.replica.written(number);
                // Before raft hands out any entry behind it.
                self.snapshot_written(number);
            }
            ReplicaMessage::Applied {
                index,
                view,
                leases,
                own,
            } => {
                if index > self.direct.given() {
                    // On the short way the store may be done before raft was asked what is committed.
                    self.pump();
                }
                self.replica.applied(index);
                self.snapshots.applied(index);
                self.own_applied(&own, view.applied_term());
                let members_changed = view.members() != self.view.members();
                self.view = view;
                self.leases_applied(&leases);
                self.applied_to(index);
                if members_changed {
                    self.tell_membership();
                }
                self.look_at_ready();
            }
            ReplicaMessage::Lease { ticket, ask } => self.ask_lease(ticket, ask),
            ReplicaMessage::Durable(index) => self.durable(index),
            ReplicaMessage::Transfer { ticket, to } => self.transfer(ticket, to),
            ReplicaMessage::HandOver => self.hand_over(),
            ReplicaMessage::Ask {
                ticket,
                to,
                kind,
                body,
            } => self.ask(ticket, to, kind, body),
            ReplicaMessage::Answer { to, ticket, body } => self.answer(to, ticket, body),
            ReplicaMessage::ExpectState {
                from,
                serial,
                index_min,
            } => self.expect_state(from, serial, index_min),
            ReplicaMessage::ExpectNoState => self.snapshots.expect_nothing(),
            ReplicaMessage::SendState { ticket, to, serial } => {
                self.send_state(ticket, to, serial);
            }
            ReplicaMessage::Replaced(result) => self.replaced(result),
        }
    }

    fn tell(&self, ticket: Ticket, message: CoreMessage) {
        if let Some(core) = self.links.cores.get(ticket.core()) {
            post(core, message);
        }
    }

    /// Lets raft say all it has to say.
    fn pump(&mut self) {
        while self.replica.poll(&mut self.output) {
            if let Some(write) = self.output.write.take() {
                if write.install.is_some() {
                    self.forget_forwards();
                }
                self.leadership.writing(write.number, self.shared.now_ms());
                self.snapshot_writing(&write);
                let direct = self.goes_direct(&write);
                if let Some(write) = self.write_here(write, direct) {
                    post(&self.links.disk, DiskJob::Write { write, direct });
                }
            }
            self.send_messages();
            if let Some(last) = self.output.committed.last() {
                self.shared
                    .vitals
                    .committed
                    .fetch_max(last.index, Ordering::Relaxed);
                let committed = std::mem::take(&mut self.output.committed);
                let left = self.direct.committed(committed);
                if !left.is_empty() {
                    post(&self.links.apply, ApplyJob::Entries(left));
                }
            }
            if let Some(error) = self.output.failure.take() {
                exit::fatal(
                    exit::Code::Safety,
                    error,
                    "restore this member from a snapshot or a healthy member",
                );
            }
            for at in 0..self.output.reads.len() {
                let (token, result) = self.output.reads[at];
                self.read_answered(token, result);
            }
            self.output.reads.clear();
            self.forwards_answered();
            if let Some(membership) = self.output.membership.take() {
                post(&self.links.disk, DiskJob::Membership(membership));
                self.tell_membership();
            }
            if let Some(wanted) = self.output.snapshot_wanted.take() {
                self.snapshot_wanted(wanted);
            }
            if std::mem::take(&mut self.output.removed) {
                self.removed();
            }
        }
        self.publish();
        self.link.flush();
    }

    fn read_answered(&mut self, token: u64, result: Result<u64, Refused>) {
        let (core, token) = split_read_token(token);
        if core == OWN_READS {
            self.confirmed(token, result.is_ok());
        } else if let Some(core) = self.links.cores.get(core) {
            let index = result.map_err(|refused| refusal(&refused));
            post(core, CoreMessage::ReadIndex { token, index });
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
            // No client asks for it: it needs nobody's permission.
            auth_revision: kvnode_store::auth::CLUSTER_ITSELF,
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
        Refused::TimedOut => Status::timed_out(),
        Refused::TooLarge { .. } => Status::request_too_large(),
        Refused::Removed | Refused::Failed => Status::server_stopped(),
        _ => Status::proposal_dropped(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_raft_does_not_take_is_told_in_etcds_words() {
        let told = |refused| refusal(&refused).message.into_owned();
        assert_eq!(told(Refused::Transferring), "raft proposal dropped");
        assert_eq!(told(Refused::Busy), "etcdserver: too many requests");
        assert_eq!(told(Refused::Failed), "etcdserver: server stopped");
    }

    #[test]
    fn a_read_token_carries_its_core() {
        assert_eq!(split_read_token(read_token(3, 77)), (3, 77));
        assert_eq!(split_read_token(read_token(0, 1)), (0, 1));
        assert_eq!(split_read_token(read_token(OWN_READS, 5)), (OWN_READS, 5));
    }
}
