//! A bell for one sleeper on this executor: rung by others, heard once.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Cell<bool>,
    sleeper: RefCell<Option<Waker>>,
}

impl Bell {
    pub(super) fn ring(&self) {
        if !self.rung.replace(true) {
            let sleeper = self.sleeper.borrow_mut().take();
            if let Some(sleeper) = sleeper {
                sleeper.wake();
            }
        }
    }

    /// Forgets a ring that nobody has heard.
    pub(super) fn hush(&self) {
        self.rung.set(false);
    }

    /// Ready once per ring, or per many rings before it is asked. One sleeper at a time.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.rung.replace(false) {
            return Poll::Ready(());
        }
        match &mut *self.sleeper.borrow_mut() {
            Some(sleeper) => sleeper.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    pub(super) async fn wait(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_heard_once_even_if_nobody_slept() {
        let bell = Bell::default();
        let mut cx = Context::from_waker(Waker::noop());
        bell.ring();
        bell.ring();
        assert!(bell.poll(&mut cx).is_ready());
        assert!(bell.poll(&mut cx).is_pending());
        bell.ring();
        assert!(bell.poll(&mut cx).is_ready());
    }
}
