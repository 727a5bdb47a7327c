//! The narrow face between the wire and the services: the only part of `http` the rest of the
//! node codes against, so that the HTTP/2 engine underneath can be replaced.
//!
//! A unary call is (method, metadata, message) in and (framed message or status) out. A stream is
//! a [`RequestStream`] and a [`ResponseSink`]. A handler's future is dropped when the client
//! resets the call, when its connection goes away, or when its deadline passes; what must happen
//! then belongs in a `Drop`.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use kvnode_api::service::Method;
use kvnode_api::status::Status;

pub use super::http1::{HttpBody, HttpRequest, HttpResponse, ResponseBody};
pub use super::sink::{Closed, ResponseSink};
pub use super::source::RequestStream;
use crate::tls::Holder;

/// What a call is answered with: one message behind its gRPC prefix
/// (see `kvnode_api::frame::encode`), or why there is none.
pub type Reply = Result<Bytes, Status>;

/// How a unary call can be answered, at first sight.
#[derive(Debug)]
pub enum Glance<B> {
    /// By [`Service::confirmed`], as soon as the others of its turn are there.
    Ready(B),
    /// By [`Service::confirmed`], once [`Service::confirm`] has ended.
    Confirm(B),
    /// By [`Service::poll_begun`], when that is ready.
    Pending(B),
    /// By [`Service::unary`].
    Long,
}

/// What came of a call that waited for [`Service::confirm`].
pub enum Confirmed {
    Answer(Reply),
    /// It has to wait for more.
    Long(Pin<Box<dyn Future<Output = Reply>>>),
}

/// What a node does with calls. One per executor, shared by all its connections.
pub trait Service: 'static {
    /// What is noted of a call that has begun; dropped with it if it is reset or its deadline passes.
    type Begun: 'static;

    /// Looks whether a unary call can be answered without a future of its own. Called first for every unary call
    /// whose message came with its headers.
    fn at_once(&self, _call: &Call, _message: &Bytes) -> Glance<Self::Begun> {
        Glance::Long
    }

    /// Ends when everything that was acknowledged anywhere before can be read here. Waited for once for all calls
    /// of a turn that ask for it.
    fn confirm(self: Rc<Self>) -> impl Future<Output = Result<(), Status>>;

    /// The calls that began like this are about to be answered one after another.
    fn warm<'a>(&self, _begun: impl Iterator<Item = &'a mut Self::Begun>) {}

    /// Answers a call that waited for `result`; `Ok` for one that was ready.
    fn confirmed(
        self: Rc<Self>,
        call: Call,
        message: Bytes,
        begun: Self::Begun,
        result: &Result<(), Status>,
    ) -> Confirmed;

    /// The answer of a call that began as [`Glance::Pending`]. One future asks for all calls of a turn, each until it is
    /// ready.
    fn poll_begun(
        &self,
        call: &Call,
        message: &Bytes,
        begun: &mut Self::Begun,
        cx: &mut Context<'_>,
    ) -> Poll<Reply>;

    /// Answers a unary call. If it is ready when first polled, the answer leaves with the same
    /// write as all others of that turn.
    fn unary(self: Rc<Self>, call: Call, message: Bytes) -> impl Future<Output = Reply>;

    /// Serves a streaming call; a server stream's one request is the first of `requests`. The
    /// return value becomes the trailers, unless [`ResponseSink::finish`] sent them before. When
    /// this returns the call is over and a sink kept elsewhere is closed.
    fn stream(
        self: Rc<Self>,
        call: Call,
        requests: RequestStream,
        responses: ResponseSink,
    ) -> impl Future<Output = Result<(), Status>>;

    /// Answers what is not gRPC, over HTTP/1.1 or HTTP/2.
    fn http(self: Rc<Self>, request: HttpRequest) -> impl Future<Output = HttpResponse>;

    /// A connection or call was turned away before it reached the service; for the numbers.
    fn turned_away(&self, _why: TurnedAway) {}

    /// Called after the requests of one turn of one connection were polled and before their
    /// answers are written: the place to hand a gathered batch to another thread.
    fn flush(&self) {}
}

/// Why the wire turned somebody away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// Pings too often.
    Pings,
    /// No answer to pings of ours.
    Silent,
    /// First bytes, preface or head did not come in time.
    SlowStart,
    /// HTTP/2 that breaks the rules, or floods.
    Protocol,
    /// A message longer than [`super::Options::message_bytes_max`].
    MessageBytes,
    /// More requests in part than [`super::Options::partial_bytes_max`].
    PartialBytes,
    /// More open calls than [`super::Options::open_calls_bytes_max`] holds.
    OpenCalls,
    /// A call over [`super::Options::max_concurrent_streams`].
    Streams,
    /// Longer headers than are taken: 64 KiB.
    HeaderList,
    /// A message that had not arrived within [`super::Options::body_timeout`].
    SlowBody,
    /// A TLS handshake that was not done in time.
    SlowHandshake,
}

/// One gRPC call, without its messages.
#[derive(Debug)]
pub struct Call {
    pub method: Method,
    /// When the client stops waiting, if it said so. The transport enforces it.
    pub deadline: Option<Instant>,
    pub peer: Rc<Peer>,
    pub(super) headers: HeaderMap,
}

impl Call {
    /// A call that did not come as gRPC; `headers` are its metadata.
    pub fn new(
        method: Method,
        deadline: Option<Instant>,
        peer: Rc<Peer>,
        headers: HeaderMap,
    ) -> Call {
        Call {
            method,
            deadline,
            peer,
            headers,
        }
    }

    /// A metadata value: the first under this lower-case name, as the bytes that came (base64 not
    /// undone for `-bin` names).
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.headers.get(name).map(http::HeaderValue::as_bytes)
    }

    /// Every metadata value under this lower-case name.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers
            .get_all(name)
            .into_iter()
            .map(http::HeaderValue::as_bytes)
    }

    /// A metadata value that is text.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name)
            .and_then(|value| std::str::from_utf8(value).ok())
    }
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address; `None` on a unix socket.
    pub address: Option<SocketAddr>,
    /// What the listener it came to is for.
    pub role: Role,
    /// Whether that listener speaks TLS.
    pub encrypted: bool,
    /// Who holds the client certificate, where one was asked for and verified.
    pub holder: Option<Holder>,
    /// Number of the connection, unique in this process.
    pub serial: u64,
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// gRPC and HTTP.
    #[default]
    Clients,
    /// gRPC alone: HTTP has listeners of its own.
    Grpc,
    /// HTTP alone.
    Http,
    /// Metrics and health alone.
    Metrics,
    /// The operator of this machine.
    Admin,
}

impl Role {
    pub fn serves_grpc(self) -> bool {
        matches!(self, Role::Clients | Role::Grpc)
    }

    /// Everything of HTTP that clients use.
    pub fn serves_http(self) -> bool {
        matches!(self, Role::Clients | Role::Http)
    }

    /// Metrics and health.
    pub fn serves_metrics(self) -> bool {
        !matches!(self, Role::Grpc | Role::Admin)
    }
}
