//! Objects in as they come, and a line out for each answer, at once.
//!
//! The service's handler runs inside the response's body: it is polled when the client can take more, and dropped with the
//! connection.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use http::StatusCode;
use kvnode_api::frame::PREFIX_LEN;
use kvnode_api::json::shape::Shape;
use kvnode_api::json::{Route, Splitter, failure, stream_failure};
use kvnode_api::service::Kind;
use kvnode_api::status::{Code, Status};

use super::{Arriving, Due, as_answered, http_status, message_bytes_max, read, unreadable, write};
use crate::cores::client::ClientCore;
use crate::grpc::NodeService;
use crate::http::{
    Call, HttpBody, HttpRequest, HttpResponse, Messages, RequestStream, ResponseBody, ResponseSink,
    Service, Slot,
};
use crate::metrics::Limit;
use crate::rt;

/// Longest text of one object of a stream, in bytes; all there are tell of a key range at the most.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Bytes of WebSocket frames that wait for the handler; beyond them nothing is read.
const INBOX_BYTES_MAX: usize = 64 << 10;

pub async fn serve(
    service: Rc<NodeService>,
    route: &'static Route,
    call: Call,
    request: HttpRequest,
) -> HttpResponse {
    let timeout = request.body.timeout();
    let mut lines = Lines::start(service, route, call, Pieces::Body(request.body), timeout);
    // The status line has to wait until it is clear what it says.
    let (status, first) = match poll_fn(|cx| lines.poll_event(cx, true)).await {
        Event::End(Err(status)) => (http_status(&status), lines.last_words(&status)),
        Event::End(Ok(())) => {
            lines.over = true;
            (StatusCode::OK, Bytes::new())
        }
        Event::Frame(frame) => (StatusCode::OK, lines.line(frame).await),
        Event::Accepted => (StatusCode::OK, Bytes::new()),
    };
    let stream = lines.stream(Some(first).filter(|first| !first.is_empty()));
    let mut response = http::Response::new(ResponseBody::Stream(stream));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    as_answered(response)
}

/// How answers and failures look.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// `{"result":...}` or `{"error":{...}}`.
    Stream,
    /// As they are, for a method with one answer.
    Bare,
}

type Handler = Pin<Box<dyn Future<Output = Result<(), Status>>>>;

/// The answers of one call as lines of text.
pub struct Lines {
    core: Rc<ClientCore>,
    shape: &'static Shape,
    form: Form,
    /// Gone once it has returned.
    handler: Option<Handler>,
    returned: Option<Result<(), Status>>,
    slot: Rc<Slot>,
    /// Messages that came together with the last one sent.
    frames: Bytes,
    /// The handler waits for the client to say more.
    starved: Rc<Cell<bool>>,
    deadline: Option<rt::Sleep>,
    over: bool,
}

enum Event {
    Frame(Bytes),
    End(Result<(), Status>),
    /// The handler wants the client to hear that it listens, and waits for it.
    Accepted,
}

impl Lines {
    /// Begins a call whose requests are the objects in `pieces`, each of which may take `timeout` from its first byte to
    /// its last.
    pub fn start(
        service: Rc<NodeService>,
        route: &'static Route,
        call: Call,
        pieces: Pieces,
        timeout: Duration,
    ) -> Lines {
        let core = Rc::clone(service.core());
        let slot = Slot::new();
        let starved = Rc::new(Cell::new(false));
        let kind = route.method.kind();
        let mut requests = RequestStream::local(Box::new(Texts {
            pieces,
            splitter: Splitter::new(TEXT_BYTES_MAX),
            shape: route.request,
            message_bytes_max: message_bytes_max(&core),
            arriving: Arriving::new(&service),
            starved: Rc::clone(&starved),
            due: Due::new(timeout),
            ended: false,
            // No text at all is one empty object, where one is wanted.
            owed: kind != Kind::BidiStream,
        }));
        let mut responses = ResponseSink::local(Rc::clone(&slot));
        let deadline = call.deadline.map(rt::sleep_until);
        let (form, handler): (_, Pin<Box<dyn Future<Output = _>>>) = match kind {
            Kind::Unary => (
                Form::Bare,
                Box::pin(async move {
                    let message = requests.next().await?.unwrap_or_default();
                    let frame = service.unary(call, message).await?;
                    let _ = responses.send(frame).await;
                    Ok(())
                }),
            ),
            _ => (
                Form::Stream,
                Box::pin(service.stream(call, requests, responses)),
            ),
        };
        Lines {
            core,
            shape: route.response,
            form,
            handler: Some(handler),
            returned: None,
            slot,
            frames: Bytes::new(),
            starved,
            deadline,
            over: false,
        }
    }

    /// The lines, `first` before them.
    pub fn stream(self, first: Option<Bytes>) -> Pin<Box<dyn Stream<Item = Bytes>>> {
        Box::pin(unfold((first, self), |(first, mut lines)| async move {
            match first {
                Some(first) => Some((first, (None, lines))),
                None => lines.next().await.map(|line| (line, (None, lines))),
            }
        }))
    }

    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        match poll_fn(|cx| self.poll_event(cx, false)).await {
            Event::Frame(frame) => Some(self.line(frame).await),
            Event::End(Err(status)) => Some(self.last_words(&status)),
            Event::End(Ok(())) | Event::Accepted => {
                self.over = true;
                None
            }
        }
    }

    async fn line(&mut self, frame: Bytes) -> Bytes {
        let (before, after) = match self.form {
            Form::Stream => ("{\"result\":", "}\n"),
            Form::Bare => ("", "\n"),
        };
        match write(&self.core, self.shape, frame, before, after).await {
            Ok(line) => line,
            Err(status) => self.last_words(&status),
        }
    }

    fn last_words(&mut self, status: &Status) -> Bytes {
        self.over = true;
        self.handler = None;
        self.slot.close();
        match self.form {
            Form::Stream => stream_failure(status).into(),
            Form::Bare => failure(status).into(),
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>, may_accept: bool) -> Poll<Event> {
        rt::mark_busy();
        loop {
            if self.frames.is_empty() {
                self.frames = self.slot.take().unwrap_or_default();
            }
            if !self.frames.is_empty() {
                return Poll::Ready(Event::Frame(split_frame(&mut self.frames)));
            }
            if let Some(end) = self.slot.ended().or_else(|| self.returned.take()) {
                return Poll::Ready(Event::End(end));
            }
            let Some(handler) = &mut self.handler else {
                return Poll::Ready(Event::End(Ok(())));
            };
            match handler.as_mut().poll(cx) {
                Poll::Ready(result) => {
                    self.handler = None;
                    self.slot.close();
                    self.returned = Some(result);
                }
                Poll::Pending if self.slot.is_empty() && self.slot.ended().is_none() => break,
                Poll::Pending => {}
            }
        }
        if let Some(deadline) = &mut self.deadline
            && Pin::new(deadline).poll(cx).is_ready()
        {
            return Poll::Ready(Event::End(Err(Status::deadline_exceeded())));
        }
        if may_accept && self.slot.wants_headers() && self.starved.get() {
            return Poll::Ready(Event::Accepted);
        }
        self.slot.wait(cx);
        Poll::Pending
    }
}

/// Takes the first message off; a frame that is cut off goes as it is, to be told.
fn split_frame(frames: &mut Bytes) -> Bytes {
    let length = frames.first_chunk::<PREFIX_LEN>().map(|prefix| {
        let [_, length @ ..] = *prefix;
        usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX)
    });
    let length = length.and_then(|length| length.checked_add(PREFIX_LEN));
    frames.split_to(length.unwrap_or(usize::MAX).min(frames.len()))
}

/// Where the text of a stream of requests comes from.
pub enum Pieces {
    Body(HttpBody),
    Inbox(Rc<Inbox>),
}

impl Pieces {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        match self {
            Pieces::Body(body) => body
                .poll_piece(cx)
                .map(|piece| piece.map_err(|_| Status::context_canceled())),
            Pieces::Inbox(inbox) => inbox.poll(cx).map(|piece| Ok(Some(piece))),
        }
    }
}

/// Texts between a WebSocket and the handler.
#[derive(Debug, Default)]
pub struct Inbox {
    texts: RefCell<VecDeque<Bytes>>,
    bytes: Cell<usize>,
    waiting: RefCell<Option<Waker>>,
    /// Whoever fills it waits for room.
    filling: RefCell<Option<Waker>>,
}

impl Inbox {
    /// Whether more may be read; if not, this task is woken when it may.
    pub fn has_room(&self, cx: &Context<'_>) -> bool {
        let room = self.bytes.get() < INBOX_BYTES_MAX;
        if !room {
            self.filling.replace(Some(cx.waker().clone()));
        }
        room
    }

    pub fn push(&self, text: Bytes) {
        self.bytes.set(self.bytes.get() + text.len());
        self.texts.borrow_mut().push_back(text);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Bytes> {
        let Some(text) = self.texts.borrow_mut().pop_front() else {
            self.waiting.replace(Some(cx.waker().clone()));
            return Poll::Pending;
        };
        self.bytes.set(self.bytes.get() - text.len());
        if let Some(waker) = self.filling.take() {
            waker.wake();
        }
        Poll::Ready(text)
    }
}

impl Texts {
    /// A text that is no request.
    fn refused(&self, error: &kvnode_api::json::Error) -> Status {
        if matches!(error, kvnode_api::json::Error::TooLong { .. }) {
            let core = self.arriving.service.core();
            core.refused(Limit::JsonObject);
        }
        unreadable(error)
    }

    /// Whether the object that has begun should be whole by now; if not, the task is woken when it should.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if self.splitter.buffered() == 0 {
            return false;
        }
        self.due.begin();
        self.due.poll_passed(cx)
    }

    fn too_slow(&self) -> Status {
        self.arriving.service.core().refused(Limit::SlowBody);
        let text = format!(
            "kvnode: the request did not arrive within {:?}",
            self.due.timeout
        );
        Status::new(Code::DeadlineExceeded, text)
    }
}

/// The messages in a text.
struct Texts {
    pieces: Pieces,
    splitter: Splitter,
    shape: &'static Shape,
    message_bytes_max: usize,
    arriving: Arriving,
    starved: Rc<Cell<bool>>,
    /// When the object that has begun has to be whole.
    due: Due,
    ended: bool,
    owed: bool,
}

impl Messages for Texts {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        self.starved.set(false);
        loop {
            let text = self.splitter.next_value();
            if let Some(text) = text.map_err(|error| self.refused(&error))? {
                self.owed = false;
                self.due.end();
                return Poll::Ready(read(self.shape, &text, self.message_bytes_max).map(Some));
            }
            self.arriving.hold(self.splitter.buffered())?;
            if self.ended {
                let whole = self.splitter.finish();
                whole.map_err(|error| unreadable(&error))?;
                let owed = std::mem::take(&mut self.owed);
                return Poll::Ready(Ok(owed.then(Bytes::new)));
            }
            match self.pieces.poll(cx)? {
                Poll::Ready(Some(piece)) => self.splitter.push(&piece),
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => {
                    if self.is_late(cx) {
                        return Poll::Ready(Err(self.too_slow()));
                    }
                    self.starved.set(true);
                    return Poll::Pending;
                }
            }
        }
    }
}
