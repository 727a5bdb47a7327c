//! A streaming call that comes another way than as gRPC over HTTP/2: its messages are decoded and its answers carried by
//! somebody on this executor, who stands between the service and the client.
//!
//! Bound: one answer waits in the slot; the handler waits until it is taken.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use kvnode_api::status::Status;

use super::link::Gone;

/// Where the messages of such a call come from.
pub trait Messages {
    /// The next message; `None` when the client has no more.
    ///
    /// # Errors
    /// What the call is to end with.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>>;
}

/// Where its answers go; shared by the sink and whoever carries them.
#[derive(Debug, Default)]
pub struct Slot {
    frame: RefCell<Option<Bytes>>,
    headers: Cell<bool>,
    closed: Cell<bool>,
    /// What [`super::ResponseSink::finish`] said.
    end: RefCell<Option<Result<(), Status>>>,
    carrier: RefCell<Option<Waker>>,
    wants_room: RefCell<Option<Waker>>,
    wants_closed: RefCell<Option<Waker>>,
}

impl Slot {
    pub fn new() -> Rc<Slot> {
        Rc::default()
    }

    // For the carrier.

    /// The answer that waits; the handler may go on.
    pub fn take(&self) -> Option<Bytes> {
        let frame = self.frame.take();
        if frame.is_some() {
            wake(&self.wants_room);
        }
        frame
    }

    pub fn is_empty(&self) -> bool {
        self.frame.borrow().is_none()
    }

    /// Wakes this task when there is something to carry, or the handler has said how the call ends.
    pub fn wait(&self, cx: &Context<'_>) {
        remember(&self.carrier, cx);
    }

    /// The handler wants the client to hear that the call is accepted.
    pub fn wants_headers(&self) -> bool {
        self.headers.get()
    }

    /// How the handler ended the call before it returned.
    pub fn ended(&self) -> Option<Result<(), Status>> {
        self.end.borrow().clone()
    }

    /// The call is over: a sink kept elsewhere learns it.
    pub fn close(&self) {
        self.closed.set(true);
        wake(&self.wants_room);
        wake(&self.wants_closed);
    }

    // For the sink.

    pub(super) fn ask_headers(&self) -> Result<(), Gone> {
        if self.closed.get() {
            return Err(Gone);
        }
        self.headers.set(true);
        wake(&self.carrier);
        Ok(())
    }

    /// Gives the frame back if one waits already.
    pub(super) fn put(&self, frame: Bytes) -> Result<Option<Bytes>, Gone> {
        if self.closed.get() {
            return Err(Gone);
        }
        if self.frame.borrow().is_some() {
            return Ok(Some(frame));
        }
        if !frame.is_empty() {
            self.frame.replace(Some(frame));
            wake(&self.carrier);
        }
        Ok(None)
    }

    pub(super) fn poll_empty(&self, cx: &Context<'_>) -> Poll<Result<(), Gone>> {
        if self.closed.get() {
            return Poll::Ready(Err(Gone));
        }
        if self.frame.borrow().is_none() {
            return Poll::Ready(Ok(()));
        }
        remember(&self.wants_room, cx);
        Poll::Pending
    }

    pub(super) fn finish(&self, status: Result<(), Status>) {
        self.end.replace(Some(status));
        wake(&self.carrier);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    pub(super) fn poll_closed(&self, cx: &Context<'_>) -> Poll<()> {
        if self.closed.get() {
            return Poll::Ready(());
        }
        remember(&self.wants_closed, cx);
        Poll::Pending
    }
}

fn remember(slot: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    slot.replace(Some(cx.waker().clone()));
}

fn wake(slot: &RefCell<Option<Waker>>) {
    if let Some(waker) = slot.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::super::sink::{Closed, ResponseSink, TrySendError};
    use super::*;
    use std::future::Future;
    use std::pin::pin;

    #[test]
    fn one_answer_waits_and_the_handler_with_it() {
        let mut cx = Context::from_waker(Waker::noop());
        let slot = Slot::new();
        let mut sink = ResponseSink::local(Rc::clone(&slot));
        assert!(!slot.wants_headers());
        sink.headers().unwrap();
        assert!(slot.wants_headers() && slot.is_empty());
        {
            let mut first = pin!(sink.send(Bytes::from_static(b"one")));
            assert!(first.as_mut().poll(&mut cx).is_pending());
            assert_eq!(slot.take().unwrap(), "one");
            assert_eq!(first.as_mut().poll(&mut cx), Poll::Ready(Ok(())));
        }
        sink.try_send(Bytes::from_static(b"two")).unwrap();
        let busy = sink.try_send(Bytes::from_static(b"three"));
        assert!(matches!(busy, Err(TrySendError::Busy(frame)) if frame == "three"));
        assert_eq!(slot.take().unwrap(), "two");
        assert_eq!(slot.take(), None);
    }

    #[test]
    fn a_closed_call_takes_no_more_and_says_so() {
        let mut cx = Context::from_waker(Waker::noop());
        let slot = Slot::new();
        let mut sink = ResponseSink::local(Rc::clone(&slot));
        assert!(pin!(sink.closed()).poll(&mut cx).is_pending());
        slot.close();
        assert!(sink.is_closed());
        assert!(pin!(sink.closed()).poll(&mut cx).is_ready());
        assert_eq!(sink.headers(), Err(Closed));
        let mut sending = pin!(sink.send(Bytes::from_static(b"late")));
        assert_eq!(sending.as_mut().poll(&mut cx), Poll::Ready(Err(Closed)));
    }

    #[test]
    fn a_handler_may_say_the_end_before_it_returns() {
        let mut cx = Context::from_waker(Waker::noop());
        let slot = Slot::new();
        let mut sink = ResponseSink::local(Rc::clone(&slot));
        sink.try_send(Bytes::from_static(b"last")).unwrap();
        let mut finishing = pin!(sink.finish(Err(Status::election_no_leader())));
        assert!(finishing.as_mut().poll(&mut cx).is_pending());
        assert_eq!(slot.ended(), None, "not before the answer is taken");
        assert_eq!(slot.take().unwrap(), "last");
        assert!(finishing.as_mut().poll(&mut cx).is_ready());
        assert_eq!(slot.ended(), Some(Err(Status::election_no_leader())));
    }
}
