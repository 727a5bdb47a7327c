//! Places where a request waits for an answer that another thread brings: a slab per client executor.
//!
//! A ticket is `(core, generation, slot)` in one u64, so that the answer finds its waiter without a map, and an answer that
//! comes too late (the caller left, the slot serves someone else) finds nobody. One executor owns each slab;
//! answers reach it through that executor's mailbox.
//!
//! Bound: `slots_max`. When all are taken `open` says so and the request is refused at the door.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Names a waiting place on one client executor. Never zero, so zero can mean "nobody waits".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

const SLOT_BITS: u32 = 32;
const GENERATION_BITS: u32 = 24;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

impl Ticket {
    fn new(core: u8, generation: u32, slot: u32) -> Self {
        let high = (u64::from(core) << GENERATION_BITS) | u64::from(generation & GENERATION_MASK);
        Ticket((high << SLOT_BITS) | u64::from(slot))
    }

    /// The client executor it belongs to.
    pub fn core(self) -> usize {
        (self.0 >> (SLOT_BITS + GENERATION_BITS)) as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> SLOT_BITS) as u32 & GENERATION_MASK
    }

    fn slot(self) -> usize {
        (self.0 & u64::from(u32::MAX)) as usize
    }
}

enum State<T> {
    Free,
    Waiting(Option<Waker>),
    Done(T),
}

struct Slot<T> {
    generation: u32,
    deadline_ms: u64,
    state: State<T>,
}

/// A slab of waiting places.
pub struct Slots<T> {
    core: u8,
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    slots_max: usize,
}

impl<T> Slots<T> {
    pub fn new(core: u8, slots_max: usize) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Slots {
            core,
            slots: Vec::new(),
            free: Vec::new(),
            slots_max,
        }))
    }

    /// Takes a place; the answer is due at `deadline_ms` (see `expire`). `None` when all are taken.
    pub fn open(this: &Rc<RefCell<Self>>, deadline_ms: u64) -> Option<Pending<T>> {
        let mut slots = this.borrow_mut();
        let at = match slots.free.pop() {
            Some(at) => at,
            None if slots.slots.len() < slots.slots_max => {
                // Generations start at 1: a ticket of slot 0 on core 0 must not be zero.
                slots.slots.push(Slot {
                    generation: 1,
                    deadline_ms,
                    state: State::Free,
                });
                u32::try_from(slots.slots.len() - 1).ok()?
            }
            None => return None,
        };
        let core = slots.core;
        let slot = &mut slots.slots[at as usize];
        slot.state = State::Waiting(None);
        slot.deadline_ms = deadline_ms;
        let ticket = Ticket::new(core, slot.generation, at);
        Some(Pending {
            slots: Rc::clone(this),
            ticket,
        })
    }

    /// Brings an answer. Returns false if nobody waits for it any more.
    pub fn complete(&mut self, ticket: Ticket, answer: T) -> bool {
        let Some(slot) = self.slots.get_mut(ticket.slot()) else {
            return false;
        };
        if slot.generation != ticket.generation() {
            return false;
        }
        match std::mem::replace(&mut slot.state, State::Done(answer)) {
            State::Waiting(waker) => {
                if let Some(waker) = waker {
                    waker.wake();
                }
                true
            }
            before => {
                slot.state = before;
                false
            }
        }
    }

    /// Completes every waiting place whose deadline has passed with `answer(deadline_ms)`; returns how many.
    pub fn expire(&mut self, now_ms: u64, answer: impl Fn(u64) -> T) -> usize {
        let mut expired = 0;
        for slot in &mut self.slots {
            if slot.deadline_ms <= now_ms && matches!(slot.state, State::Waiting(_)) {
                expired += 1;
                if let State::Waiting(Some(waker)) =
                    std::mem::replace(&mut slot.state, State::Done(answer(slot.deadline_ms)))
                {
                    waker.wake();
                }
            }
        }
        expired
    }

    /// Places in use.
    pub fn open_count(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

/// The future answer. Dropping it gives the place back; a late answer then goes nowhere.
pub struct Pending<T> {
    slots: Rc<RefCell<Slots<T>>>,
    ticket: Ticket,
}

impl<T> Pending<T> {
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }
}

impl<T> Future for Pending<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots.slots[self.ticket.slot()];
        match &mut slot.state {
            State::Waiting(waker) => {
                match waker {
                    Some(known) if known.will_wake(context.waker()) => {}
                    other => *other = Some(context.waker().clone()),
                }
                Poll::Pending
            }
            state => match std::mem::replace(state, State::Free) {
                State::Done(answer) => Poll::Ready(answer),
                // Polled again after completion: a caller's bug, answered by waiting for ever rather than by a panic.
                _ => Poll::Pending,
            },
        }
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        let mut slots = self.slots.borrow_mut();
        let at = self.ticket.slot();
        let slot = &mut slots.slots[at];
        slot.state = State::Free;
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        if slot.generation == 0 {
            slot.generation = 1;
        }
        if let Ok(at) = u32::try_from(at) {
            slots.free.push(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn poll<T>(pending: &mut Pending<T>) -> Poll<T> {
        Pin::new(pending).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn an_answer_reaches_its_waiter_once() {
        let slots = Slots::new(3, 8);
        let mut pending = Slots::open(&slots, 10).expect("room");
        assert_eq!(pending.ticket().core(), 3);
        assert_ne!(pending.ticket().0, 0);
        assert!(poll(&mut pending).is_pending());
        assert!(slots.borrow_mut().complete(pending.ticket(), 7));
        assert!(
            !slots.borrow_mut().complete(pending.ticket(), 8),
            "a second answer has no waiter"
        );
        assert_eq!(poll(&mut pending), Poll::Ready(7));
    }

    #[test]
    fn a_late_answer_does_not_reach_the_next_tenant() {
        let slots = Slots::new(0, 1);
        let first = Slots::open(&slots, 10).expect("room");
        let old = first.ticket();
        drop(first);
        let mut second = Slots::open(&slots, 10).expect("freed");
        assert_ne!(second.ticket(), old);
        assert!(!slots.borrow_mut().complete(old, 1));
        assert!(poll(&mut second).is_pending());
    }

    #[test]
    fn full_is_refused_and_freed_places_come_back() {
        let slots = Slots::<u8>::new(0, 2);
        let one = Slots::open(&slots, 0).expect("room");
        let _two = Slots::open(&slots, 0).expect("room");
        assert!(Slots::open(&slots, 0).is_none());
        drop(one);
        assert!(Slots::open(&slots, 0).is_some());
        assert_eq!(slots.borrow().open_count(), 1);
    }

    #[test]
    fn only_overdue_waiters_expire() {
        let slots = Slots::new(0, 4);
        let mut early = Slots::open(&slots, 10).expect("room");
        let mut late = Slots::open(&slots, 20).expect("room");
        assert_eq!(slots.borrow_mut().expire(10, |_| "timed out"), 1);
        assert_eq!(poll(&mut early), Poll::Ready("timed out"));
        assert!(poll(&mut late).is_pending());
    }
}
