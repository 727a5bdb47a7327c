//! The other members: what they send, what is sent to them, and whether they can be reached.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use kvnode_replica::Replica;
use kvnode_wal::Membership;

use super::{CoreMessage, ReplicaCore, post};
use crate::exit;
use crate::http::Bound;
use crate::peers::{Identity, Limits, PeerAddress, PeerEvent, Peers};
use crate::shared::{NEVER_MS, Shared};
use crate::slots::Ticket;
use crate::snapshots::is_announcement;

/// Asks by kind; the first byte of an answer repeats it.
pub mod ask {
    /// Of the leader's lease clock; answered by the replica core itself.
    pub const LEASE: u8 = 1;
    /// Of the hash of a member's state.
    pub const HASH: u8 = 2;
    /// For the state of the leader, to be sent as a snapshot.
    pub const STATE: u8 = 3;
}

/// The core that answers what other members ask.
const ANSWERING_CORE: usize = 0;

#[derive(Default)]
pub(super) struct Link {
    peers: Option<Peers>,
    told: Vec<PeerAddress>,
    /// What arrived while a turn was running: a task the transport starts runs at once, inside the call that started it.
    early: Rc<RefCell<Vec<PeerEvent>>>,
}

impl Link {
    pub(super) fn peers(&self) -> Option<&Peers> {
        self.peers.as_ref()
    }

    pub(super) fn is_connected(&self, member: u64) -> bool {
        self.peers
            .as_ref()
            .is_some_and(|peers| peers.connected(member))
    }

    pub(super) fn flush(&self) {
        if let Some(peers) = &self.peers {
            peers.flush();
        }
    }

    /// Publishes since when the leader (a leader: a quorum) has been connected.
    pub(super) fn look(&self, shared: &Shared, replica: &Replica) {
        let since = |member: u64| {
            if member == shared.member_id {
                return 0;
            }
            let since = self
                .peers
                .as_ref()
                .and_then(|peers| peers.connected_since(member));
            since.map_or(NEVER_MS, |since| shared.ms_at(since))
        };
        let leader = shared.vitals.leader.load(Ordering::Relaxed);
        let connected = if leader == shared.member_id {
            let mut all: Vec<u64> = replica
                .membership()
                .voters
                .iter()
                .map(|&id| since(id))
                .collect();
            all.sort_unstable();
            all.get(all.len() / 2).copied().unwrap_or(NEVER_MS)
        } else {
            since(leader)
        };
        let known = &shared.vitals.leader_connected_ms;
        known.store(connected, Ordering::Relaxed);
    }
}

impl ReplicaCore {
    /// Starts the transport on this executor. To be called before `start`.
    pub fn attach(this: &Rc<RefCell<Self>>, listeners: Vec<Bound>) {
        let core = Rc::downgrade(this);
        let mut own = this.borrow_mut();
        let identity = Identity {
            cluster: own.shared.cluster_id,
            member: own.shared.member_id,
            incarnation: own.shared.incarnation,
        };
        let early = Rc::clone(&own.link.early);
        let events = move |events: Vec<PeerEvent>| {
            early.borrow_mut().extend(events);
            if let Some(core) = core.upgrade()
                && let Ok(mut core) = core.try_borrow_mut()
            {
                core.turn(|_| {});
            }
        };
        let tls = Some(Arc::clone(&own.shared.tls.peer));
        let peers = Peers::start_with(identity, listeners, Limits::default(), tls, events);
        let peers = peers.unwrap_or_else(|error| {
            exit::fatal(
                exit::Code::Failed,
                format_args!("cannot talk to other members: {error}"),
                "raise the limits on threads and open files of this user",
            )
        });
        let _ = own.shared.metrics.peer_traffic.set(peers.traffic());
        own.link.peers = Some(peers);
    }

    /// Closes all connections with other members.
    pub fn detach(&mut self) {
        if let Some(peers) = self.link.peers.take() {
            peers.stop();
        }
    }

    /// Handles what the transport has brought, until there is no more.
    pub(super) fn take_events(&mut self) -> bool {
        let events = self.link.early.take();
        let any = !events.is_empty();
        for event in events {
            self.peer_event(event);
        }
        any
    }

    fn peer_event(&mut self, event: PeerEvent) {
        match event {
            // Without its state beside it an announcement must not reach raft.
            PeerEvent::Message(message) if is_announcement(&message) => {
                log::warn!("member {:x} sent an announcement alone", message.from);
            }
            PeerEvent::Message(message) => self.replica.step(message),
            PeerEvent::Unreachable(member) => self.replica.report_unreachable(member),
            PeerEvent::Connected(member) => {
                log::info!("connected with member {member:x}");
                self.replica.linked(member, true);
                self.link.look(&self.shared, &self.replica);
                self.retry_held();
            }
            PeerEvent::Disconnected(member) => {
                log::warn!("lost the connection with member {member:x}");
                self.replica.linked(member, false);
                self.shared.metrics.peers_disconnected.add(1);
                self.link.look(&self.shared, &self.replica);
                self.replica.report_unreachable(member);
            }
            PeerEvent::Ask {
                from,
                ticket,
                kind: ask::LEASE,
                body,
            } => self.lease_asked(from, ticket, &body),
            PeerEvent::Ask {
                from,
                ticket,
                kind,
                body,
            } => {
                if let Some(core) = self.links.cores.get(ANSWERING_CORE) {
                    let asked = CoreMessage::Asked {
                        from,
                        ticket,
                        kind,
                        body,
                    };
                    post(core, asked);
                }
            }
            PeerEvent::Answer { ticket, body, .. } => {
                let ticket = self.own_ticket(ticket);
                if body.first() == Some(&ask::LEASE) {
                    self.lease_answered(ticket, &body);
                } else {
                    let body = Some(body);
                    self.tell(ticket, CoreMessage::PeerAnswer { ticket, body });
                }
            }
            PeerEvent::Removed { by } => self.told_removed(by),
            PeerEvent::Snapshot(event) => self.snapshot_event(event),
        }
    }

    pub(super) fn send_messages(&mut self) {
        let mut announced = Vec::new();
        for message in self.output.messages.drain(..) {
            if is_announcement(&message) {
                announced.push(message);
            } else if let Some(peers) = &self.link.peers {
                peers.send(message);
            }
        }
        for message in announced {
            self.announce_snapshot(&message);
        }
    }

    /// A ticket means something in one life only: an answer to an earlier life's ask must find nobody.
    fn wire_ticket(&self, ticket: Ticket) -> u64 {
        ticket.0 ^ self.shared.incarnation
    }

    fn own_ticket(&self, wire: u64) -> Ticket {
        Ticket(wire ^ self.shared.incarnation)
    }

    /// False if the ask did not leave.
    pub(super) fn ask_peer(&self, ticket: Ticket, to: u64, kind: u8, body: Bytes) -> bool {
        let wire = self.wire_ticket(ticket);
        self.link
            .peers
            .as_ref()
            .is_some_and(|peers| peers.ask(to, wire, kind, body))
    }

    pub(super) fn ask(&mut self, ticket: Ticket, to: u64, kind: u8, body: Bytes) {
        if !self.ask_peer(ticket, to, kind, body) {
            let body = None;
            self.tell(ticket, CoreMessage::PeerAnswer { ticket, body });
        }
    }

    /// `ticket` as it came with the ask.
    pub(super) fn answer(&mut self, to: u64, ticket: u64, body: Bytes) {
        if let Some(peers) = &self.link.peers {
            peers.answer(to, ticket, body);
        }
    }

    /// Membership or addresses may have changed.
    pub(super) fn tell_membership(&mut self) {
        let membership = self.replica.membership();
        let learner = membership.learners.contains(&self.shared.member_id);
        let vitals = &self.shared.vitals;
        vitals.is_learner.store(learner, Ordering::Relaxed);
        let members = self.addresses(membership);
        if let Some(peers) = &self.link.peers {
            peers.show(&self.view.members().list());
        }
        if members == self.link.told {
            return;
        }
        let removed: Vec<u64> = self.view.members().removed().collect();
        if let Some(peers) = &self.link.peers {
            peers.set_members(&members, &removed);
        }
        self.link.told = members;
    }

    /// Where each member is: as the member table says, before it is written as the founders were configured.
    fn addresses(&self, membership: &Membership) -> Vec<PeerAddress> {
        let mut ids: Vec<u64> = [
            &membership.voters,
            &membership.learners,
            &membership.voters_outgoing,
            &membership.learners_next,
        ]
        .into_iter()
        .flatten()
        .copied()
        .collect();
        ids.sort_unstable();
        ids.dedup();
        let founders = &self.shared.config.initial_cluster;
        let urls = |id: u64| match self.view.members().get(id) {
            Some(member) if !member.peer_urls.is_empty() => member.peer_urls.clone(),
            _ => {
                let founder = founders.iter().find(|founder| founder.id == id);
                founder.map_or_else(Vec::new, |founder| {
                    founder.peer_urls.iter().map(ToString::to_string).collect()
                })
            }
        };
        ids.into_iter()
            .map(|member| PeerAddress {
                member,
                urls: urls(member),
            })
            .collect()
    }
}
