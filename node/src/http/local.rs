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
