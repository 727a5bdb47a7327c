//! How members talk to each other: the transport on the peer port.
//!
//! Each member dials every other one it knows; either side of a connection may send on it. Messages
//! of raft, asks and answers share one connection, a snapshot has one of its own.
//!
//! Invariants:
//! - A message leaves at most once. What was queued or under way when a connection broke is lost and
//!   never sent on another one, so a forwarded proposal cannot run twice on our account.
//! - Nothing here waits for a peer: [`Peers::send`] queues or drops, names are resolved and
//!   connections made on threads, snapshots move on threads.
//! - `events` is called from tasks of this executor, never from inside a method of [`Peers`].

mod accept;
mod backoff;
mod bell;
mod dial;
mod frame;
mod greeting;
mod inner;
mod lanes;
mod limits;
mod link;
mod look;
pub(crate) mod said;
mod snapshot;
mod stream;
#[cfg(test)]
mod tests;
mod traffic;
mod wire;

use std::cell::RefCell;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use kvnode_api::Member as Record;
use kvnode_replica::{Kind, Message};

use crate::http::{self, Acceptor, Bound};
use crate::mailbox;
use crate::memberlist;
use crate::rt;
use crate::tls::Live;
use inner::{Inner, Remote};
use lanes::Item;
use wire::Farewell;

pub use frame::{ASK_BYTES_MAX, CHUNK_BYTES};
pub use limits::Limits;
pub use snapshot::{IncomingSnapshot, SnapshotEvent, SnapshotId, SnapshotSink, SnapshotSource};
pub use traffic::{Figures, Histogram, Traffic};

/// Who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: u64,
    pub member: u64,
    /// Random per life of the process; also the seed of the transport's jitter.
    pub incarnation: u64,
}

/// Where a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    pub member: u64,
    /// `http://host:port` or `https://host:port`, tried in turn.
    pub urls: Vec<String>,
}

/// What arrives.
#[derive(Debug)]
pub enum PeerEvent {
    /// From a member of our cluster, addressed to us, and checked by `Message::decode`.
    Message(Message),
    /// An append for this member was dropped, or a connection broke that may have held some.
    Unreachable(u64),
    /// The first connection with this member stands, or a new life of it has replaced the old one.
    Connected(u64),
    /// The last connection with this member is gone.
    Disconnected(u64),
    /// To be answered with [`Peers::answer`] under the same ticket, or not at all.
    Ask {
        from: u64,
        ticket: u64,
        kind: u8,
        body: Bytes,
    },
    Answer {
        from: u64,
        ticket: u64,
        body: Bytes,
    },
    /// A peer said that we are no longer a member.
    Removed {
        by: u64,
    },
    Snapshot(SnapshotEvent),
}

/// The transport; lives on one executor. Clones are handles to the same transport, which goes on
/// until [`Peers::stop`].
#[derive(Clone)]
pub struct Peers {
    inner: Rc<Inner>,
    acceptor: Rc<RefCell<Option<Acceptor>>>,
}

impl Peers {
    /// Starts to accept from `listeners` (which may be none).
    ///
    /// `events` gets everything that arrived in one turn of a connection in one call, from a task of
    /// this executor and never from inside a method of this handle; it may use the handle. What it is
    /// given is bounded as long as it is consumed on this executor: a connection reads 256 KiB at
    /// the most before other tasks run.
    ///
    /// # Errors
    /// No thread or descriptor to be had.
    pub fn start(
        identity: Identity,
        listeners: Vec<TcpListener>,
        limits: Limits,
        events: impl Fn(Vec<PeerEvent>) + 'static,
    ) -> io::Result<Peers> {
        let bound: io::Result<_> = listeners.into_iter().map(Bound::from_listener).collect();
        Peers::start_with(identity, bound?, limits, None, events)
    }

    /// As [`Peers::start`], with listeners that may speak TLS, and members that may be called so.
    ///
    /// # Errors
    /// No thread or descriptor to be had.
    pub(crate) fn start_with(
        identity: Identity,
        listeners: Vec<Bound>,
        limits: Limits,
        tls: Option<Arc<Live>>,
        events: impl Fn(Vec<PeerEvent>) + 'static,
    ) -> io::Result<Peers> {
        // A few per snapshot, and only few of those run.
        let (mail, letters) = mailbox::by_admission();
        let connections_max = limits.connections_max;
        let events = Box::new(events);
        let inner = Inner::new(identity, limits, tls, events, wire::READ_BYTES, mail);
        let mut acceptor = None;
        if !listeners.is_empty() {
            let (way, door) = http::door(0);
            acceptor = Some(Acceptor::start(listeners, vec![way], connections_max)?);
            rt::spawn_local(accept::run(Rc::clone(&inner), door));
        }
        rt::spawn_local(tell_unreachable(Rc::clone(&inner)));
        rt::spawn_local(hand_over_letters(Rc::clone(&inner), letters));
        let acceptor = Rc::new(RefCell::new(acceptor));
        Ok(Peers { inner, acceptor })
    }

    /// What has gone back and forth; goes on being counted as long as the transport runs.
    pub fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.inner.traffic)
    }

    /// What `GET /members` on the peer port shows from now on; nobody, until this is called.
    pub fn show(&self, members: &[Record]) {
        *self.inner.shown.borrow_mut() = memberlist::body(members);
    }

    /// The members as of now, ourselves included or not, and all that were ever removed. New ones
    /// are dialled, gone ones dropped, removed ones told so and refused from now on. Members of the
    /// cluster we have not heard of yet may connect; they are answered on their own connections.
    pub fn set_members(&self, members: &[PeerAddress], removed: &[u64]) {
        let inner = &self.inner;
        *inner.removed.borrow_mut() = removed.to_vec();
        inner.transfers.cancel(|member| removed.contains(&member));
        let known: Vec<Rc<Remote>> = inner.remotes.borrow().clone();
        for remote in known {
            let was_removed = removed.contains(&remote.member);
            let is_member = members.iter().any(|m| m.member == remote.member);
            if was_removed || (remote.linked.get() && !is_member) {
                inner.forget(&remote);
                remote.traffic.known.store(false, Ordering::Relaxed);
                remote.traffic.connected.store(false, Ordering::Relaxed);
                remote.gone.fire();
                if let Some(outgoing) = remote.outgoing.take() {
                    outgoing.cancel();
                }
                remote.end_all(if was_removed {
                    Farewell::Removed
                } else {
                    Farewell::AtOnce
                });
            }
        }
        for PeerAddress { member, urls } in members {
            if *member == inner.identity.member || removed.contains(member) {
                continue;
            }
            let remote = inner.remote_or_guest(*member);
            let changed = remote.urls.replace(urls.clone()) != *urls;
            remote.traffic.known.store(true, Ordering::Relaxed);
            if !remote.linked.replace(true) {
                let inner = Rc::clone(inner);
                rt::spawn_local(async move {
                    // A new task's first step runs in place, and our caller may not be ready for events.
                    rt::yield_now().await;
                    link::keep(inner, remote).await;
                });
            } else if changed {
                remote.hurry.ring();
            }
        }
    }

    /// Queues `message` for `message.to`. Dropped if there is no connection or its lane is full;
    /// for an append that is told as [`PeerEvent::Unreachable`]. Nothing leaves before
    /// [`Peers::flush`].
    pub fn send(&self, message: Message) {
        let remotes = self.inner.remotes.borrow();
        let Some(remote) = remotes.iter().find(|r| r.member == message.to) else {
            return;
        };
        let is_append = message.kind == Kind::Append;
        let wire = remote.wire();
        let taken = wire.is_some_and(|wire| wire.push(Item::Message(message)));
        if !taken {
            remote.traffic.sent_failures.add(1);
        }
        if !taken && is_append {
            remote.unreachable.set(true);
        }
    }

    /// End of a turn: wakes each connection that was given something.
    pub fn flush(&self) {
        for remote in self.inner.remotes.borrow().iter() {
            remote.flush();
            if remote.unreachable.get() {
                self.inner.notice.ring();
            }
        }
    }

    /// Asks a member. `false`: not connected, too long ([`ASK_BYTES_MAX`]) or too many waiting. The
    /// answer may never come; the deadline is the asker's. Leaves with the next flush.
    pub fn ask(&self, to: u64, ticket: u64, kind: u8, body: Bytes) -> bool {
        self.push(to, Item::Ask { ticket, kind, body })
    }

    /// Answers an ask; dropped where `ask` would say `false`. Leaves with the next flush.
    pub fn answer(&self, to: u64, ticket: u64, body: Bytes) {
        self.push(to, Item::Answer { ticket, body });
    }

    fn push(&self, to: u64, item: Item) -> bool {
        let wire = self.inner.remote(to).and_then(|remote| remote.wire());
        wire.is_some_and(|wire| wire.push(item))
    }

    pub fn connected(&self, member: u64) -> bool {
        self.connected_since(member).is_some()
    }

    /// Since when there has been a connection with this life of the member without a gap.
    pub fn connected_since(&self, member: u64) -> Option<Instant> {
        self.inner.remote(member)?.since.get()
    }

    /// Sends a snapshot to a member, beside the messages. One at a time per member: another one
    /// under way is given up (and reported so), unless it has the same id, then `source` is
    /// dropped and that one goes on. The end comes as an event.
    pub fn send_snapshot(&self, to: u64, id: SnapshotId, source: Box<dyn SnapshotSource>) {
        let Some(remote) = self.inner.remote(to).filter(|r| r.linked.get()) else {
            let why = "it is not a member with a known address".to_owned();
            let failed = SnapshotEvent::SendFailed { to, id, why };
            let _ = self.inner.mail.push(PeerEvent::Snapshot(failed));
            return;
        };
        if let Some(outgoing) = &*remote.outgoing.borrow() {
            if outgoing.id == id {
                return;
            }
            outgoing.cancel();
        }
        snapshot::send(&self.inner, &remote, id, source);
    }

    /// Closes listeners and connections; no event comes after this. What was sent and flushed in
    /// this turn may or may not leave.
    pub fn stop(&self) {
        self.inner.stop.fire();
        self.inner.transfers.cancel(|_| true);
        for remote in self.inner.remotes.take() {
            if let Some(outgoing) = remote.outgoing.take() {
                outgoing.cancel();
            }
        }
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.stop();
        }
    }
}

/// Tells of appends that were dropped, once per flush: they are dropped inside `send`, from where
/// the node must not be called.
async fn tell_unreachable(inner: Rc<Inner>) {
    while rt::unless(&inner.stop, inner.notice.wait()).await.is_some() {
        let remotes = inner.remotes.borrow();
        let dropped = remotes.iter().filter(|remote| remote.unreachable.take());
        let events: Vec<_> = dropped.map(|r| PeerEvent::Unreachable(r.member)).collect();
        drop(remotes);
        if !events.is_empty() {
            inner.emit(events);
        }
    }
}

/// Hands over what the threads of snapshots have to say.
async fn hand_over_letters(inner: Rc<Inner>, mut letters: mailbox::Receiver<PeerEvent>) {
    loop {
        let mut batch = Vec::new();
        let Some(Ok(())) = rt::unless(&inner.stop, letters.take(&mut batch)).await else {
            return;
        };
        for event in &batch {
            let PeerEvent::Snapshot(
                SnapshotEvent::Sent { to, id } | SnapshotEvent::SendFailed { to, id, .. },
            ) = event
            else {
                continue;
            };
            if let Some(remote) = inner.remote(*to) {
                let mut outgoing = remote.outgoing.borrow_mut();
                outgoing.take_if(|outgoing| outgoing.id == *id);
            }
        }
        inner.emit(batch);
    }
}
