//! What the transport's tasks share: the table of members and their connections.
//!
//! Everything here is of one executor. No borrow is held while the node's `events` are called, so
//! they may call back into the handle.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::bell::Bell;
use super::said::{Refused, Seldom};
use super::snapshot::{Outgoing, Pace, Transfers};
use super::traffic::{self, Traffic};
use super::wire::{Farewell, Wire};
use super::{Identity, Limits, PeerEvent};
use crate::mailbox::Sender;
use crate::memberlist;
use crate::rt;
use crate::tls::Live;

pub(super) struct Inner {
    pub identity: Identity,
    pub limits: Limits,
    /// To accept and to call with, where urls are https.
    pub tls: Option<Arc<Live>>,
    pub message_limits: kvnode_replica::Limits,
    events: Box<dyn Fn(Vec<PeerEvent>)>,
    /// Members we know and strangers that are connected; a handful, so it is searched in order.
    pub remotes: RefCell<Vec<Rc<Remote>>>,
    pub removed: RefCell<Vec<u64>>,
    /// The member list for those who only look.
    pub shown: RefCell<String>,
    pub stop: rt::Shutdown,
    /// Some remote has something to be told that could not be told in place.
    pub notice: Bell,
    /// What every connection reads into.
    pub buffer: RefCell<Box<[u8]>>,
    /// From the threads of snapshots.
    pub mail: Sender<PeerEvent>,
    pub traffic: Arc<Traffic>,
    /// The pace of all snapshots we send.
    pub pace: Arc<Pace>,
    /// Snapshots that are being received.
    pub transfers: Arc<Transfers>,
    /// Lines about callers that are no members.
    pub strangers: Seldom,
    /// Lines about messages that cannot be used.
    pub unusable: Seldom,
    pub refused: Refused,
}

impl Inner {
    pub(super) fn new(
        identity: Identity,
        limits: Limits,
        tls: Option<Arc<Live>>,
        events: Box<dyn Fn(Vec<PeerEvent>)>,
        buffer_bytes: usize,
        mail: Sender<PeerEvent>,
    ) -> Rc<Inner> {
        Rc::new(Inner {
            identity,
            tls,
            message_limits: kvnode_replica::Limits::default(),
            events,
            remotes: RefCell::new(Vec::new()),
            removed: RefCell::new(Vec::new()),
            shown: RefCell::new(memberlist::body(&[])),
            stop: rt::Shutdown::new(),
            notice: Bell::default(),
            buffer: RefCell::new(vec![0; buffer_bytes].into()),
            traffic: Arc::default(),
            pace: Arc::new(Pace::new(limits.snapshot_bytes_per_second)),
            transfers: Transfers::new(&limits),
            mail,
            strangers: Seldom::default(),
            unusable: Seldom::default(),
            refused: Refused::default(),
            limits,
        })
    }

    pub(super) fn emit(&self, events: Vec<PeerEvent>) {
        if !self.stop.is_fired() {
            (self.events)(events);
        }
    }

    pub(super) fn remote(&self, member: u64) -> Option<Rc<Remote>> {
        let remotes = self.remotes.borrow();
        remotes.iter().find(|r| r.member == member).cloned()
    }

    /// The member's record; made if it is somebody we have not heard of.
    pub(super) fn remote_or_guest(&self, member: u64) -> Rc<Remote> {
        self.remote(member).unwrap_or_else(|| {
            let remote = Remote::new(member, self.traffic.of(member));
            self.remotes.borrow_mut().push(Rc::clone(&remote));
            remote
        })
    }

    /// Puts a new connection into its place. The one it replaces ends, and so do those of an
    /// earlier life of the member.
    pub(super) fn attach(&self, remote: &Remote, side: Side, wire: &Rc<Wire>) {
        let mut events = Vec::new();
        if remote.life.replace(wire.life) != wire.life {
            for side in [Side::Dialled, Side::Accepted] {
                remote.end(side);
            }
            if remote.since.take().is_some() {
                remote.traffic.disconnects.add(1);
                events.push(PeerEvent::Unreachable(remote.member));
                events.push(PeerEvent::Disconnected(remote.member));
            }
        }
        remote.end(side);
        *remote.place(side) = Some(Rc::clone(wire));
        if remote.since.get().is_none() {
            remote.since.set(Some(Instant::now()));
            remote.traffic.connected.store(true, Relaxed);
            events.push(PeerEvent::Connected(remote.member));
        }
        if !events.is_empty() {
            self.emit(events);
        }
    }

    /// Takes a connection that has ended out of its place, if it still had one.
    pub(super) fn detach(&self, remote: &Rc<Remote>, side: Side, wire: &Rc<Wire>) {
        {
            let mut place = remote.place(side);
            if !place.as_ref().is_some_and(|there| Rc::ptr_eq(there, wire)) {
                return;
            }
            *place = None;
        }
        // What was queued or under way is lost, and may have been appends.
        let mut events = vec![PeerEvent::Unreachable(remote.member)];
        if remote.wire().is_none() {
            remote.since.set(None);
            remote.traffic.connected.store(false, Relaxed);
            remote.traffic.disconnects.add(1);
            events.push(PeerEvent::Disconnected(remote.member));
            if !remote.linked.get() {
                self.forget(remote);
            }
        }
        self.emit(events);
    }

    pub(super) fn forget(&self, remote: &Rc<Remote>) {
        self.remotes
            .borrow_mut()
            .retain(|known| !Rc::ptr_eq(known, remote));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Dialled,
    Accepted,
}

/// One other member.
pub(super) struct Remote {
    pub member: u64,
    pub traffic: Arc<traffic::Member>,
    /// Empty for a guest: somebody who calls us and of whom we have not been told.
    pub urls: RefCell<Vec<String>>,
    /// We have been told of it, so there is a task that dials it.
    pub linked: Cell<bool>,
    dialled: RefCell<Option<Rc<Wire>>>,
    accepted: RefCell<Option<Rc<Wire>>>,
    life: Cell<u64>,
    pub since: Cell<Option<Instant>>,
    /// An append was dropped since this was last told.
    pub unreachable: Cell<bool>,
    /// Ends a pause between two dials.
    pub hurry: Bell,
    /// We have been told that it is gone.
    pub gone: rt::Shutdown,
    /// The snapshot on its way there.
    pub outgoing: RefCell<Option<Outgoing>>,
}

impl Remote {
    fn new(member: u64, traffic: Arc<traffic::Member>) -> Rc<Remote> {
        Rc::new(Remote {
            member,
            traffic,
            urls: RefCell::new(Vec::new()),
            linked: Cell::new(false),
            dialled: RefCell::new(None),
            accepted: RefCell::new(None),
            life: Cell::new(0),
            since: Cell::new(None),
            unreachable: Cell::new(false),
            hurry: Bell::default(),
            gone: rt::Shutdown::new(),
            outgoing: RefCell::new(None),
        })
    }

    /// The connection to send on: the one we dialled if there is one.
    pub(super) fn wire(&self) -> Option<Rc<Wire>> {
        let dialled = self.dialled.borrow();
        dialled.clone().or_else(|| self.accepted.borrow().clone())
    }

    pub(super) fn flush(&self) {
        for place in [&self.dialled, &self.accepted] {
            if let Some(wire) = &*place.borrow() {
                wire.flush();
            }
        }
    }

    /// Ends all connections; their tasks tell the node.
    pub(super) fn end_all(&self, farewell: Farewell) {
        for place in [&self.dialled, &self.accepted] {
            if let Some(wire) = &*place.borrow() {
                wire.end(farewell);
            }
        }
    }

    fn place(&self, side: Side) -> std::cell::RefMut<'_, Option<Rc<Wire>>> {
        match side {
            Side::Dialled => self.dialled.borrow_mut(),
            Side::Accepted => self.accepted.borrow_mut(),
        }
    }

    fn end(&self, side: Side) {
        if let Some(wire) = self.place(side).take() {
            wire.end(Farewell::AtOnce);
        }
    }
}
