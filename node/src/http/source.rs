//! Messages of one request body.
//!
//! Limits: a message's length, the bytes of messages that have arrived in part (see `link.rs`), and
//! the time from a message's first byte to its last; for a unary call, from the call's beginning.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use kvnode_api::frame::Decoder;
use kvnode_api::status::{Code, Status};

use super::face::TurnedAway;
use super::link::Link;
use super::local::Messages;

/// The messages a client sends on one call, in order.
///
/// Flow control: the client may send as much as it was read, so a handler that does not ask holds
/// it back after one window ([`super::Options::stream_window_bytes`]); but unread bytes also count
/// against the connection's window, so a handler that stops asking for long holds back the
/// connection's other calls.
pub struct RequestStream(Origin);

enum Origin {
    Http2(Http2),
    Local(Box<dyn Messages>),
}

#[derive(Debug)]
struct Http2 {
    body: RecvStream,
    decoder: Decoder,
    link: Rc<Link>,
    /// Bytes counted against the executor's budget.
    held: usize,
    ended: bool,
    /// A message is waited for from the beginning, not only from its first byte on.
    wanted: bool,
    /// Since when it is waited for a message, or the rest of one.
    since: Option<Instant>,
    /// Place among the connection's deadlines.
    slot: Option<usize>,
}

impl std::fmt::Debug for RequestStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Origin::Http2(http2) => http2.fmt(f),
            Origin::Local(_) => f.write_str("Local"),
        }
    }
}

impl RequestStream {
    pub(super) fn new(body: RecvStream, link: Rc<Link>) -> RequestStream {
        RequestStream(Origin::Http2(Http2 {
            body,
            decoder: Decoder::new(link.options.message_bytes_max),
            link,
            held: 0,
            ended: false,
            wanted: false,
            since: None,
            slot: None,
        }))
    }

    /// A message is waited for from now on, not only from its first byte on.
    pub(super) fn want_one(&mut self) {
        if let Origin::Http2(http2) = &mut self.0 {
            http2.wanted = true;
        }
    }

    /// Messages that somebody on this executor decodes.
    pub fn local(messages: Box<dyn Messages>) -> RequestStream {
        RequestStream(Origin::Local(messages))
    }

    /// The next message; `None` when the client has half-closed.
    ///
    /// # Errors
    /// A message too long, compressed, cut off, or not there in time; CANCELLED if the call or its connection is gone.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Poll form of [`RequestStream::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        match &mut self.0 {
            Origin::Http2(http2) => http2.poll_next(cx),
            Origin::Local(messages) => messages.poll_next(cx),
        }
    }

    /// The one message of a unary call, if it is there already; `None` says to wait.
    pub(super) fn only_now(&mut self) -> Option<Result<Bytes, Status>> {
        let mut cx = Context::from_waker(Waker::noop());
        match self.poll_only(&mut cx) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    /// The one message of a unary call.
    pub(super) async fn only(&mut self) -> Result<Bytes, Status> {
        poll_fn(|cx| self.poll_only(cx)).await
    }

    fn poll_only(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        self.poll_next(cx)
            .map(|next| next.and_then(|message| message.ok_or_else(Status::missing_message)))
    }
}

impl Http2 {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            match self.decoder.next_message() {
                Ok(Some(message)) => {
                    self.arrived();
                    return Poll::Ready(Ok(Some(message)));
                }
                Ok(None) => {}
                Err(status) => {
                    if status.code == Code::ResourceExhausted {
                        self.link.turned_away(TurnedAway::MessageBytes);
                    }
                    return Poll::Ready(Err(status));
                }
            }
            self.account()?;
            if self.ended {
                return Poll::Ready(self.decoder.finish().map(|()| None));
            }
            match self.body.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    // Fails only if the stream is closed, which the next read reports.
                    let _ = self.body.flow_control().release_capacity(data.len());
                    self.decoder.push(data);
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(Status::context_canceled())),
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => {
                    return match self.is_late(cx) {
                        true => Poll::Ready(Err(self.too_slow())),
                        false => Poll::Pending,
                    };
                }
            }
        }
    }

    /// Whether the message that has begun should be whole by now; if not, the task is woken when it should.
    fn is_late(&mut self, cx: &Context<'_>) -> bool {
        if self.held == 0 && !self.wanted {
            return false;
        }
        let now = Instant::now();
        let due = *self.since.get_or_insert(now) + self.link.options.body_timeout;
        if now >= due {
            return true;
        }
        match self.slot {
            // Whoever asked last waits: some only look first.
            Some(slot) => self.link.deadlines.hand_on(slot, cx.waker()),
            None => self.slot = Some(self.link.deadlines.enter(due, cx.waker())),
        }
        false
    }

    fn too_slow(&self) -> Status {
        self.link.turned_away(TurnedAway::SlowBody);
        let limit = self.link.options.body_timeout;
        let text = format!("kvnode: the request did not arrive within {limit:?}");
        Status::new(Code::DeadlineExceeded, text)
    }

    /// A message is whole.
    fn arrived(&mut self) {
        (self.wanted, self.since) = (false, None);
        if let Some(slot) = self.slot.take() {
            self.link.deadlines.leave(slot);
        }
    }

    /// Counts the beginning of a message whose rest is still to come.
    fn account(&mut self) -> Result<(), Status> {
        let held = self.decoder.buffered();
        if held != self.held {
            if !self.link.partial.change(self.held, held) {
                self.link.turned_away(TurnedAway::PartialBytes);
                return Err(Status::too_many_requests());
            }
            self.held = held;
        }
        Ok(())
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.arrived();
        self.link.partial.change(self.held, 0);
    }
}
