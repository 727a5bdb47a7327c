//! Messages of one request body.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::RecvStream;
use kvnode_api::frame::Decoder;
use kvnode_api::status::Status;

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
        }))
    }

    /// Messages that somebody on this executor decodes.
    pub fn local(messages: Box<dyn Messages>) -> RequestStream {
        RequestStream(Origin::Local(messages))
    }

    /// The next message; `None` when the client has half-closed.
    ///
    /// # Errors
    /// A message too long, compressed or cut off; CANCELLED if the call or its connection is gone.
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
            if let Some(message) = self.decoder.next_message()? {
                return Poll::Ready(Ok(Some(message)));
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
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Counts the beginning of a message whose rest is still to come.
    fn account(&mut self) -> Result<(), Status> {
        let held = self.decoder.buffered();
        if held != self.held {
            if !self.link.partial.change(self.held, held) {
                return Err(Status::too_many_requests());
            }
            self.held = held;
        }
        Ok(())
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.link.partial.change(self.held, 0);
    }
}
