//! HTTP/1.1, and the form in which either protocol's plain requests reach the service.
//!
//! Bounds: head at most [`HEAD_BYTES_MAX`] and within [`super::Options::first_bytes_timeout`] of its
//! first byte; a connection at rest is closed after [`super::Options::http_idle_timeout`].

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Uri};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;

use super::Options;
use super::face::{Peer, Service, TurnedAway};
use super::io::{Io, Wire};
use super::socket::Socket;
use crate::rt;

/// Longest request head, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A request that is not gRPC.
#[derive(Debug)]
pub struct HttpRequest {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: HttpBody,
    pub peer: Rc<Peer>,
}

impl HttpRequest {
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// The part after the question mark, undecoded.
    pub fn query(&self) -> Option<&str> {
        self.uri.query()
    }
}

/// The body of a plain request.
#[derive(Debug)]
pub struct HttpBody {
    origin: Origin,
    timeout: Duration,
}

#[derive(Debug)]
enum Origin {
    Http1(Incoming),
    Http2(h2::RecvStream),
}

/// A request body that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the request body is longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("the request body did not arrive in time")]
    TooSlow,
    /// The reader has no room for it.
    #[error("there is no room for the request body")]
    NoRoom,
    #[error("the request body is cut off or malformed")]
    Broken,
}

impl HttpBody {
    pub(super) fn http2(body: h2::RecvStream, timeout: Duration) -> HttpBody {
        HttpBody {
            origin: Origin::Http2(body),
            timeout,
        }
    }

    /// How long a body that is wanted whole may take to arrive: [`super::Options::body_timeout`].
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether the connection could be upgraded: HTTP/2 ones cannot.
    pub fn is_http1(&self) -> bool {
        matches!(self.origin, Origin::Http1(_))
    }

    /// The next piece as it comes; `None` at the end.
    ///
    /// # Errors
    /// [`BodyError::Broken`].
    pub async fn piece(&mut self) -> Result<Option<Bytes>, BodyError> {
        poll_fn(|cx| self.poll_piece(cx)).await
    }

    /// The whole body. `room` is told how many bytes have come, and says whether to go on.
    ///
    /// # Errors
    /// [`BodyError`]; at most `limit` bytes and one piece are ever held.
    pub async fn bytes(
        mut self,
        limit: usize,
        mut room: impl FnMut(usize) -> bool,
    ) -> Result<Bytes, BodyError> {
        let mut fits = |held: usize, piece: &Bytes| {
            if piece.len() > limit - held {
                return Err(BodyError::TooLong { limit });
            }
            room(held + piece.len())
                .then_some(())
                .ok_or(BodyError::NoRoom)
        };
        rt::timeout(self.timeout, async {
            let Some(first) = self.piece().await? else {
                return Ok(Bytes::new());
            };
            fits(0, &first)?;
            let Some(second) = self.piece().await? else {
                return Ok(first);
            };
            let mut whole = BytesMut::from(first);
            let mut next = Some(second);
            while let Some(piece) = next {
                fits(whole.len(), &piece)?;
                whole.extend_from_slice(&piece);
                next = self.piece().await?;
            }
            Ok(whole.freeze())
        })
        .await
        .unwrap_or(Err(BodyError::TooSlow))
    }

    /// Poll form of [`HttpBody::piece`].
    ///
    /// # Errors
    /// As there.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        match &mut self.origin {
            Origin::Http1(body) => loop {
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        // What is not data is trailers, which nobody asked for.
                        if let Ok(data) = frame.into_data() {
                            return Poll::Ready(Ok(Some(data)));
                        }
                    }
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(BodyError::Broken)),
                    Poll::Ready(None) => return Poll::Ready(Ok(None)),
                    Poll::Pending => return Poll::Pending,
                }
            },
            Origin::Http2(body) => body.poll_data(cx).map(|data| match data {
                None => Ok(None),
                Some(Err(_)) => Err(BodyError::Broken),
                Some(Ok(data)) => {
                    // Fails only if the stream is closed, which the next read reports.
                    let _ = body.flow_control().release_capacity(data.len());
                    Ok(Some(data))
                }
            }),
        }
    }
}

/// The answer to a plain request.
pub type HttpResponse = http::Response<ResponseBody>;

/// The body of an answer.
pub enum ResponseBody {
    Full(Bytes),
    /// Pieces as they come; each is sent before the next is asked for.
    Stream(Pin<Box<dyn Stream<Item = Bytes>>>),
    /// As `Stream`, but may break off: the client then sees the connection (or the stream) end before the body does.
    Fallible(Pin<Box<dyn Stream<Item = Result<Bytes, BrokenOff>>>>),
    /// The head is the last of HTTP/1.1 on this connection; this goes on with it.
    Upgrade(Takeover),
}

/// An answer cannot be completed. The reason is for the log; the client sees an incomplete body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer broke off: {0}")]
pub struct BrokenOff(pub String);

/// Speaks another protocol on a connection to its end. Dropped when the process stops.
pub type Takeover = Box<dyn FnOnce(Socket) -> Pin<Box<dyn Future<Output = ()>>>>;

impl ResponseBody {
    /// An answer of this status, content type and body.
    pub fn response(
        status: StatusCode,
        content_type: &'static str,
        body: impl Into<Bytes>,
    ) -> HttpResponse {
        let mut response = http::Response::new(ResponseBody::Full(body.into()));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }

    /// A plain text answer.
    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> HttpResponse {
        ResponseBody::response(status, "text/plain; charset=utf-8", body)
    }

    /// A JSON answer.
    pub fn json(status: StatusCode, body: impl Into<Bytes>) -> HttpResponse {
        ResponseBody::response(status, "application/json", body)
    }
}

/// Serves one HTTP/1.1 connection until it ends.
pub(super) async fn drive<S: Service>(
    wire: Rc<Wire>,
    service: Rc<S>,
    peer: Rc<Peer>,
    options: Rc<Options>,
    shutdown: rt::Shutdown,
) {
    let open = Rc::new(Requests::default());
    let watched = Rc::clone(&service);
    let counter = Rc::clone(&open);
    let upgrade = Rc::new(Cell::new(None));
    let agreed = Rc::clone(&upgrade);
    let body_timeout = options.body_timeout;
    let handler = service_fn(move |request: http::Request<Incoming>| {
        let under_way = UnderWay::new(&counter);
        let (service, peer) = (Rc::clone(&service), Rc::clone(&peer));
        let agreed = Rc::clone(&agreed);
        async move {
            rt::mark_busy();
            let (head, body) = request.into_parts();
            let request = HttpRequest {
                method: head.method,
                uri: head.uri,
                headers: head.headers,
                body: HttpBody {
                    origin: Origin::Http1(body),
                    timeout: body_timeout,
                },
                peer,
            };
            let response = service.http(request).await.map(|body| match body {
                ResponseBody::Upgrade(takeover) => {
                    agreed.set(Some(takeover));
                    ResponseBody::Full(Bytes::new())
                }
                body => body,
            });
            Ok::<_, Infallible>(response.map(|body| Outgoing {
                body,
                _under_way: under_way,
            }))
        }
    });
    let mut connection = Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(Io(Rc::clone(&wire)), handler);
    let mut stopping = shutdown.wait();
    let mut grace = None;
    let mut patience = Patience::new(&options);
    let result = poll_fn(|cx| {
        wire.begin_turn();
        if grace.is_none() && Pin::new(&mut stopping).poll(cx).is_ready() {
            Pin::new(&mut connection).graceful_shutdown();
            grace = Some(rt::sleep(options.shutdown_grace));
        }
        if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(Some(result));
        }
        if patience.poll_over(cx, &open, wire.read_bytes()) {
            if patience.state == Waiting::Head {
                watched.turned_away(TurnedAway::SlowStart);
            }
            return Poll::Ready(None);
        }
        match &mut grace {
            Some(grace) => Pin::new(grace).poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await;
    match result {
        Some(Err(error)) => {
            if error.is_parse_too_large() {
                watched.turned_away(TurnedAway::HeaderList);
            }
            log::debug!("HTTP/1.1 connection: {error}");
        }
        // The head is out and the engine is done: what comes now is another protocol's.
        Some(Ok(())) => {
            if let Some(takeover) = upgrade.take() {
                let ahead = connection.into_parts().read_buf;
                let socket = Socket::new(wire, ahead);
                rt::unless(&shutdown, takeover(socket)).await;
            }
        }
        None => {}
    }
}

/// The requests of a connection.
#[derive(Default)]
struct Requests {
    begun: Cell<u64>,
    under_way: Cell<usize>,
}

/// Counts a request from its head's end to its response's end.
struct UnderWay(Rc<Requests>);

impl UnderWay {
    fn new(requests: &Rc<Requests>) -> UnderWay {
        requests.begun.set(requests.begun.get() + 1);
        requests.under_way.set(requests.under_way.get() + 1);
        UnderWay(Rc::clone(requests))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
    }
}

/// How long a connection is waited for. (The engine's own timers want to cross threads.)
struct Patience {
    head_timeout: Duration,
    idle_timeout: Duration,
    state: Waiting,
    begun_before: u64,
    read_before: u64,
    sleep: Option<rt::Sleep>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// For the rest of a head.
    Head,
    /// For the first byte of the next request.
    Request,
    /// For the service, or for the client to take the answer.
    Nothing,
}

impl Patience {
    fn new(options: &Options) -> Patience {
        Patience {
            head_timeout: options.first_bytes_timeout,
            idle_timeout: options.http_idle_timeout,
            state: Waiting::Head,
            begun_before: 0,
            read_before: 0,
            sleep: Some(rt::sleep(options.first_bytes_timeout)),
        }
    }

    fn poll_over(&mut self, cx: &mut Context<'_>, requests: &Requests, read: u64) -> bool {
        // One may have come and been answered within a single turn.
        let begun = requests.begun.get();
        let answered = std::mem::replace(&mut self.begun_before, begun) != begun;
        let state = match self.state {
            _ if requests.under_way.get() > 0 => Waiting::Nothing,
            _ if answered => Waiting::Request,
            Waiting::Nothing => Waiting::Request,
            Waiting::Request if read != self.read_before => Waiting::Head,
            same => same,
        };
        if state != Waiting::Request || self.state != Waiting::Request {
            self.read_before = read;
        }
        if state != self.state || answered {
            self.state = state;
            self.sleep = match state {
                Waiting::Head => Some(rt::sleep(self.head_timeout)),
                Waiting::Request => Some(rt::sleep(self.idle_timeout)),
                Waiting::Nothing => None,
            };
        }
        match &mut self.sleep {
            Some(sleep) => Pin::new(sleep).poll(cx).is_ready(),
            None => false,
        }
    }
}

/// A response body on its way out.
struct Outgoing {
    body: ResponseBody,
    _under_way: UnderWay,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut self.body {
            ResponseBody::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            ResponseBody::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            ResponseBody::Upgrade(_) => Poll::Ready(None),
            ResponseBody::Stream(pieces) => pieces
                .as_mut()
                .poll_next(cx)
                .map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
            ResponseBody::Fallible(pieces) => pieces
                .as_mut()
                .poll_next(cx)
                .map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.body, ResponseBody::Full(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            ResponseBody::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            ResponseBody::Stream(_) | ResponseBody::Fallible(_) | ResponseBody::Upgrade(_) => {
                SizeHint::default()
            }
        }
    }
}
