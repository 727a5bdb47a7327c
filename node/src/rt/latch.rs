//! The latch that tells the tasks of an executor that the end has come.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A latch of one executor: fired once, seen by everybody who waits, now or later.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Rc<ShutdownState>);

#[derive(Debug, Default)]
struct ShutdownState {
    fired: Cell<bool>,
    /// One slot per waiter, so that no waiter's waker is ever held twice.
    waiters: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
}

impl Shutdown {
    pub fn new() -> Shutdown {
        Shutdown::default()
    }

    /// Fires the latch and wakes all who wait.
    pub fn fire(&self) {
        self.0.fired.set(true);
        let wakers: Vec<Waker> = self
            .0
            .waiters
            .borrow_mut()
            .iter_mut()
            .filter_map(Option::take)
            .collect();
        for waker in wakers {
            waker.wake();
        }
    }

    pub fn is_fired(&self) -> bool {
        self.0.fired.get()
    }

    /// Ends when the latch is fired.
    pub fn wait(&self) -> ShutdownWait {
        ShutdownWait {
            state: Rc::clone(&self.0),
            slot: None,
        }
    }
}

/// See [`Shutdown::wait`].
#[derive(Debug)]
pub struct ShutdownWait {
    state: Rc<ShutdownState>,
    slot: Option<usize>,
}

impl Future for ShutdownWait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.state.fired.get() {
            return Poll::Ready(());
        }
        let state = Rc::clone(&self.state);
        let mut waiters = state.waiters.borrow_mut();
        let slot = *self.slot.get_or_insert_with(|| {
            state.free.borrow_mut().pop().unwrap_or_else(|| {
                waiters.push(None);
                waiters.len() - 1
            })
        });
        match &mut waiters[slot] {
            Some(waker) => waker.clone_from(cx.waker()),
            empty => *empty = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for ShutdownWait {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.state.waiters.borrow_mut()[slot] = None;
            self.state.free.borrow_mut().push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::{Executor, Kicker, Options, spawn_local, yield_now};

    #[test]
    fn shutdown_wakes_every_waiter_and_is_remembered() {
        let kicker = Kicker::start().unwrap();
        let executor = Executor::spawn(&Options::named("t"), &kicker, || async {
            let latch = Shutdown::new();
            let done = Rc::new(Cell::new(0));
            for _ in 0..3 {
                let (wait, done) = (latch.wait(), Rc::clone(&done));
                spawn_local(async move {
                    wait.await;
                    done.set(done.get() + 1);
                });
            }
            drop(latch.wait());
            assert_eq!(done.get(), 0);
            latch.fire();
            while done.get() < 3 {
                yield_now().await;
            }
            latch.wait().await;
            latch.is_fired()
        })
        .unwrap();
        assert!(executor.join().unwrap());
    }
}
