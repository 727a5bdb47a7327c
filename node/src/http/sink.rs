//! Messages of one streamed response.
//!
//! The sink and the call's own future (in `call.rs`) share one [`Outlet`]. The HTTP/2 engine
//! remembers one waker per stream, so only the call's future registers with it; it passes a wake-up
//! on to whichever task waits in the sink. That way a handler may give its sink to another task.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use kvnode_api::status::Status;

use super::headers;
use super::link::{Gone, Link, Ticket};
use super::local::Slot;

/// The client has reset the call, its connection is gone, or the response is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the call is over")]
pub struct Closed;

/// Where a handler puts the messages of its response.
///
/// Memory: one message waits here, and the connection's unsent bytes are bounded by
/// [`super::Options::unsent_bytes_max`]; beyond that [`ResponseSink::send`] waits for the client.
#[derive(Debug)]
pub struct ResponseSink {
    way: Way,
}

#[derive(Debug)]
enum Way {
    Http2(Rc<Outlet>),
    Local(Rc<Slot>),
}

impl ResponseSink {
    pub(super) fn new(outlet: Rc<Outlet>) -> ResponseSink {
        let way = Way::Http2(outlet);
        ResponseSink { way }
    }

    /// A sink whose messages somebody on this executor takes from the slot.
    pub fn local(slot: Rc<Slot>) -> ResponseSink {
        let way = Way::Local(slot);
        ResponseSink { way }
    }

    /// Sends the response headers now. Otherwise they go with the first message.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn headers(&mut self) -> Result<(), Closed> {
        match &self.way {
            Way::Http2(outlet) => outlet.open().map_err(|Gone| Closed),
            Way::Local(slot) => slot.ask_headers().map_err(|Gone| Closed),
        }
    }

    /// Sends one framed message (see `kvnode_api::frame::encode`); returns when the last of it is
    /// handed to the connection. A frame is never cut: if the future is dropped early, the frame
    /// either goes whole (with the next call, or before the trailers) or, if one before it was
    /// still waiting, not at all. Where that matters, use [`ResponseSink::drain`] and then
    /// [`ResponseSink::try_send`].
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn send(&mut self, frame: Bytes) -> Result<(), Closed> {
        self.drain().await?;
        match &self.way {
            Way::Http2(outlet) => *outlet.left.borrow_mut() = frame,
            Way::Local(slot) => {
                slot.put(frame).map_err(|Gone| Closed)?;
            }
        }
        self.drain().await
    }

    /// Sends the frame if nothing is left of the one before; gives it back otherwise. Returns
    /// without waiting; what the client's window does not admit yet goes with the next call.
    ///
    /// # Errors
    /// [`TrySendError`].
    pub fn try_send(&mut self, frame: Bytes) -> Result<(), TrySendError> {
        let outlet = match &self.way {
            Way::Http2(outlet) => outlet,
            Way::Local(slot) => {
                return match slot.put(frame).map_err(|Gone| TrySendError::Closed)? {
                    Some(frame) => Err(TrySendError::Busy(frame)),
                    None => Ok(()),
                };
            }
        };
        if outlet
            .poll_drain_quietly()
            .map_err(|Gone| TrySendError::Closed)?
        {
            *outlet.left.borrow_mut() = frame;
            outlet
                .poll_drain_quietly()
                .map_err(|Gone| TrySendError::Closed)?;
            Ok(())
        } else {
            Err(TrySendError::Busy(frame))
        }
    }

    /// Waits until nothing of the last message is left here.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn drain(&mut self) -> Result<(), Closed> {
        poll_fn(|cx| match &self.way {
            Way::Http2(outlet) => outlet.poll_send(cx),
            Way::Local(slot) => slot.poll_empty(cx),
        })
        .await
        .map_err(|Gone| Closed)
    }

    /// Ends the response with this status (`Ok` for OK) after what was sent.
    pub async fn finish(mut self, status: Result<(), Status>) {
        if self.drain().await.is_ok() {
            match &self.way {
                Way::Http2(outlet) => outlet.end(&status),
                Way::Local(slot) => slot.finish(status),
            }
        }
    }

    pub fn is_closed(&self) -> bool {
        match &self.way {
            Way::Http2(outlet) => outlet.closed.get(),
            Way::Local(slot) => slot.is_closed(),
        }
    }

    /// Ends when the call is over. For a handler that has nothing to send for a while; one whose
    /// sink lives in its own future need not care, it is dropped then.
    pub async fn closed(&self) {
        poll_fn(|cx| match &self.way {
            Way::Http2(outlet) if outlet.closed.get() => Poll::Ready(()),
            Way::Http2(outlet) => {
                remember(&outlet.wants_closed, cx);
                Poll::Pending
            }
            Way::Local(slot) => slot.poll_closed(cx),
        })
        .await;
    }
}

/// A frame that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TrySendError {
    /// The one before is not out yet; here it is again.
    #[error("the client's window is used up")]
    Busy(Bytes),
    #[error("the call is over")]
    Closed,
}

/// The sending half of a streaming call.
#[derive(Debug)]
pub(super) struct Outlet {
    link: Rc<Link>,
    side: RefCell<Side>,
    /// The part of the current message that is not handed over.
    left: RefCell<Bytes>,
    ticket: RefCell<Ticket>,
    closed: Cell<bool>,
    /// The call's future, as the engine must know it.
    owner: RefCell<Option<Waker>>,
    wants_room: RefCell<Option<Waker>>,
    wants_closed: RefCell<Option<Waker>>,
}

#[derive(Debug)]
enum Side {
    Fresh(SendResponse<Bytes>),
    Open(SendStream<Bytes>),
    Done,
}

fn remember(slot: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    match &mut *slot.borrow_mut() {
        Some(waker) => waker.clone_from(cx.waker()),
        empty => *empty = Some(cx.waker().clone()),
    }
}

impl Outlet {
    pub(super) fn new(respond: SendResponse<Bytes>, link: Rc<Link>) -> Rc<Outlet> {
        Rc::new(Outlet {
            link,
            side: RefCell::new(Side::Fresh(respond)),
            left: RefCell::new(Bytes::new()),
            ticket: RefCell::new(Ticket::default()),
            closed: Cell::new(false),
            owner: RefCell::new(None),
            wants_room: RefCell::new(None),
            wants_closed: RefCell::new(None),
        })
    }

    /// Sends the headers if that is still to do.
    fn open(&self) -> Result<(), Gone> {
        let mut side = self.side.borrow_mut();
        match std::mem::replace(&mut *side, Side::Done) {
            Side::Fresh(mut respond) => {
                let stream = respond
                    .send_response(headers::response(), false)
                    .map_err(|_| Gone)?;
                self.link.note_sent(0);
                *side = Side::Open(stream);
                Ok(())
            }
            Side::Open(stream) => {
                *side = Side::Open(stream);
                Ok(())
            }
            Side::Done => Err(Gone),
        }
    }

    /// For the sink: hands over what is left. Registers the call's future with the engine and the
    /// asking task here.
    fn poll_send(&self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        if self.closed.get() {
            return Poll::Ready(Err(Gone));
        }
        let result = self.poll_as_owner();
        if result.is_pending() {
            remember(&self.wants_room, cx);
        }
        result
    }

    /// As [`Outlet::poll_send`] without a task that waits; whether nothing is left.
    fn poll_drain_quietly(&self) -> Result<bool, Gone> {
        if self.closed.get() {
            return Err(Gone);
        }
        match self.poll_as_owner() {
            Poll::Ready(result) => result.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    fn poll_as_owner(&self) -> Poll<Result<(), Gone>> {
        let mut left = self.left.borrow_mut();
        if left.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.open()?;
        let owner = self.owner.borrow();
        let waker = owner.as_ref().map_or(Waker::noop(), |waker| waker);
        match &mut *self.side.borrow_mut() {
            Side::Open(stream) => self.link.poll_push(
                stream,
                &mut left,
                &mut self.ticket.borrow_mut(),
                &mut Context::from_waker(waker),
            ),
            Side::Fresh(_) | Side::Done => Poll::Ready(Err(Gone)),
        }
    }

    /// For the call's future, at each of its polls before the handler's: keeps its waker and
    /// passes on the wake-up it may have been.
    pub(super) fn owner_polled(&self, cx: &Context<'_>) {
        remember(&self.owner, cx);
        // What try_send left behind goes on its own.
        let _ = self.poll_as_owner();
        if let Some(waiting) = self.wants_room.take()
            && !waiting.will_wake(cx.waker())
        {
            waiting.wake();
        }
    }

    /// For the call's future: the handler has returned, so a sink kept elsewhere takes no more.
    pub(super) fn handler_returned(&self) {
        self.closed.set(true);
        self.wake_all();
    }

    /// For the call's future: what is left of the last message, before the end.
    pub(super) fn poll_drain(&self) -> Poll<Result<(), Gone>> {
        self.poll_as_owner()
    }

    /// For the call's future: whether the client has reset the call.
    pub(super) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self.side.borrow_mut() {
            Side::Fresh(respond) => respond.poll_reset(cx).map(|_| ()),
            Side::Open(stream) => stream.poll_reset(cx).map(|_| ()),
            Side::Done => Poll::Pending,
        }
    }

    /// Has the response been ended?
    pub(super) fn is_ended(&self) -> bool {
        matches!(*self.side.borrow(), Side::Done)
    }

    /// Ends the response, once. In the middle of a message only a reset can end it. Errors mean
    /// that nobody listens any more.
    pub(super) fn end(&self, status: &Result<(), Status>) {
        let side = std::mem::replace(&mut *self.side.borrow_mut(), Side::Done);
        let cut = !self.left.borrow().is_empty();
        let _ = match (side, status) {
            (Side::Open(mut stream), _) if cut => {
                stream.send_reset(h2::Reason::CANCEL);
                Ok(())
            }
            (Side::Fresh(mut respond), Err(status)) => respond
                .send_response(headers::trailers_only(http::StatusCode::OK, status), true)
                .map(|_| ()),
            (Side::Fresh(mut respond), Ok(())) => respond
                .send_response(headers::response(), false)
                .and_then(|mut stream| stream.send_trailers(headers::trailers_ok())),
            (Side::Open(mut stream), Ok(())) => stream.send_trailers(headers::trailers_ok()),
            (Side::Open(mut stream), Err(status)) => {
                stream.send_trailers(headers::trailers(status))
            }
            (Side::Done, _) => return,
        };
        self.link.note_sent(0);
        self.close();
    }

    /// The call is over: whoever waits learns it.
    pub(super) fn close(&self) {
        self.closed.set(true);
        *self.side.borrow_mut() = Side::Done;
        *self.left.borrow_mut() = Bytes::new();
        self.wake_all();
    }

    fn wake_all(&self) {
        for slot in [&self.wants_room, &self.wants_closed] {
            if let Some(waker) = slot.take() {
                waker.wake();
            }
        }
    }
}
