//! What the calls of one connection share: its bounds and its clock.
//!
//! Bytes handed to the HTTP/2 engine and not yet on the socket are counted here. Calls hand over
//! only what the peer's windows admit, so whenever the socket has taken everything the engine
//! wanted to write, the count is zero again; a reset call can make it too high until then, never
//! too low. At the bound, calls wait and the driver accepts no further ones.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use h2::SendStream;

use super::Options;
use super::face::{Peer, TurnedAway};

#[derive(Debug)]
pub(super) struct Link {
    pub(super) options: Rc<Options>,
    pub(super) peer: Rc<Peer>,
    pub(super) partial: Rc<PartialBudget>,
    calls: Rc<PartialBudget>,
    pub(super) deadlines: Deadlines,
    away: Away,
    unsent: Cell<usize>,
    /// Something was handed to the engine since the driver asked last.
    sent: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
    /// Counts the times everybody in `waiting` was woken.
    round: Cell<u64>,
}

/// The call or its connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// The round in which a call last asked to be woken; keeps it from asking twice.
#[derive(Debug, Default)]
pub(super) struct Ticket(Option<u64>);

impl Link {
    pub(super) fn new(
        options: Rc<Options>,
        peer: Rc<Peer>,
        Budgets { partial, calls }: Budgets,
        away: impl Fn(TurnedAway) + 'static,
    ) -> Rc<Link> {
        Rc::new(Link {
            options,
            peer,
            partial,
            calls,
            away: Away(Box::new(away)),
            deadlines: Deadlines::default(),
            unsent: Cell::new(0),
            sent: Cell::new(false),
            waiting: RefCell::new(Vec::new()),
            round: Cell::new(0),
        })
    }

    /// A call of this connection is turned away; for the numbers.
    pub(super) fn turned_away(&self, why: TurnedAway) {
        (self.away.0)(why);
    }

    /// Room for a call that is going to wait, whose request's head has this many bytes; `None` if there is none.
    pub(super) fn hold_head(&self, head_bytes: usize) -> Option<Held> {
        let bytes = head_bytes + CALL_BYTES;
        if !self.calls.change(0, bytes) {
            self.turned_away(TurnedAway::OpenCalls);
            return None;
        }
        Some(Held {
            budget: Rc::clone(&self.calls),
            bytes,
        })
    }

    /// The bound on unsent bytes is reached.
    pub(super) fn is_full(&self) -> bool {
        self.unsent.get() >= self.options.unsent_bytes_max
    }

    /// Headers, data or trailers were handed to the engine.
    pub(super) fn note_sent(&self, data_bytes: usize) {
        self.unsent.set(self.unsent.get() + data_bytes);
        self.sent.set(true);
    }

    /// Whether anything was handed over since the last time this was asked.
    pub(super) fn take_sent(&self) -> bool {
        self.sent.replace(false)
    }

    /// Everything handed over is on the socket.
    pub(super) fn flushed(&self) {
        let was_full = self.is_full();
        self.unsent.set(0);
        if was_full {
            self.round.set(self.round.get() + 1);
            for waker in self.waiting.take() {
                waker.wake();
            }
        }
    }

    fn wait(&self, cx: &mut Context<'_>, ticket: &mut Ticket) {
        if ticket.0 != Some(self.round.get()) {
            ticket.0 = Some(self.round.get());
            self.waiting.borrow_mut().push(cx.waker().clone());
        }
    }

    /// Hands over as much of `frame` as the peer's window and the bound admit; ready when all of
    /// it went. Woken through `cx` when there is room again.
    pub(super) fn poll_push(
        &self,
        stream: &mut SendStream<Bytes>,
        frame: &mut Bytes,
        ticket: &mut Ticket,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Gone>> {
        while !frame.is_empty() {
            if self.is_full() {
                self.wait(cx, ticket);
                return Poll::Pending;
            }
            stream.reserve_capacity(frame.len());
            let mut room = stream.capacity();
            if room == 0 {
                room = match stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(room))) => room,
                    Poll::Ready(_) => return Poll::Ready(Err(Gone)),
                    Poll::Pending => return Poll::Pending,
                };
            }
            let part = frame.split_to(room.min(frame.len()));
            if !part.is_empty() {
                self.note_sent(part.len());
                stream.send_data(part, false).map_err(|_| Gone)?;
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The bounds that all connections of an executor share.
#[derive(Clone, Debug)]
pub(super) struct Budgets {
    /// Bytes of requests that have arrived in part.
    pub(super) partial: Rc<PartialBudget>,
    /// What calls take that stay open.
    pub(super) calls: Rc<PartialBudget>,
}

/// Who is told of what is turned away.
struct Away(Box<dyn Fn(TurnedAway)>);

impl std::fmt::Debug for Away {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Away")
    }
}

/// What an open call takes besides its request's head, roughly.
const CALL_BYTES: usize = 2 << 10;

/// Bytes that count against a [`PartialBudget`] until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    budget: Rc<PartialBudget>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.change(self.bytes, 0);
    }
}

/// Bytes of requests that have begun to arrive and are not whole, over all connections of an
/// executor; or what calls that wait take. A call whose bytes would pass the bound is refused.
#[derive(Debug)]
pub(super) struct PartialBudget {
    left: Cell<usize>,
}

impl PartialBudget {
    pub(super) fn new(bytes: usize) -> Rc<PartialBudget> {
        Rc::new(PartialBudget {
            left: Cell::new(bytes),
        })
    }

    /// A holder of `before` bytes now holds `after`; `false` (and no change) if that is too much.
    pub(super) fn change(&self, before: usize, after: usize) -> bool {
        match (self.left.get() + before).checked_sub(after) {
            Some(left) => {
                self.left.set(left);
                true
            }
            None => false,
        }
    }
}

/// Deadlines of a connection's calls, under one timer.
///
/// Nearly every deadline is never reached, so a call only takes a slot here when it has to wait,
/// and the driver looks at all slots when the earliest deadline it knew has come.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    slots: RefCell<Vec<Option<Slot>>>,
    free: RefCell<Vec<usize>>,
    /// Not later than the earliest deadline; `None` if there is none.
    earliest: Cell<Option<Instant>>,
}

#[derive(Debug)]
struct Slot {
    at: Instant,
    waker: Waker,
}

impl Deadlines {
    pub(super) fn earliest(&self) -> Option<Instant> {
        self.earliest.get()
    }

    /// Wakes the calls whose deadline has come and finds the earliest of the others.
    pub(super) fn expire(&self, now: Instant) {
        let mut earliest: Option<Instant> = None;
        for slot in self.slots.borrow().iter().flatten() {
            if slot.at <= now {
                slot.waker.wake_by_ref();
            } else {
                earliest = Some(earliest.map_or(slot.at, |at| at.min(slot.at)));
            }
        }
        self.earliest.set(earliest);
    }

    pub(super) fn enter(&self, at: Instant, waker: &Waker) -> usize {
        let slot = Some(Slot {
            at,
            waker: waker.clone(),
        });
        if self.earliest.get().is_none_or(|earliest| at < earliest) {
            self.earliest.set(Some(at));
        }
        let mut slots = self.slots.borrow_mut();
        match self.free.borrow_mut().pop() {
            Some(free) => {
                slots[free] = slot;
                free
            }
            None => {
                slots.push(slot);
                slots.len() - 1
            }
        }
    }

    /// The deadline of this slot is another task's now.
    pub(super) fn hand_on(&self, slot: usize, waker: &Waker) {
        if let Some(Some(slot)) = self.slots.borrow_mut().get_mut(slot) {
            slot.waker.clone_from(waker);
        }
    }

    pub(super) fn leave(&self, slot: usize) {
        self.slots.borrow_mut()[slot] = None;
        self.free.borrow_mut().push(slot);
    }
}

/// The deadline of one waiting call.
#[derive(Debug)]
pub(super) struct Deadline<'a> {
    link: &'a Link,
    at: Option<Instant>,
    slot: Option<usize>,
}

impl<'a> Deadline<'a> {
    pub(super) fn new(link: &'a Link, at: Option<Instant>) -> Deadline<'a> {
        Deadline {
            link,
            at,
            slot: None,
        }
    }

    /// Whether it has passed; the call is woken when it does. All polls must be by one task.
    pub(super) fn poll_passed(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(at) = self.at else {
            return false;
        };
        if Instant::now() >= at {
            return true;
        }
        if self.slot.is_none() {
            self.slot = Some(self.link.deadlines.enter(at, cx.waker()));
        }
        false
    }
}

impl Drop for Deadline<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.link.deadlines.leave(slot);
        }
    }
}
