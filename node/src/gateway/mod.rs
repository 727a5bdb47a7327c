//! The JSON gateway: `/v3/...` over HTTP/1.1, HTTP/2 and WebSocket, on the client port.
//!
//! It calls the very service that gRPC calls: one gate, the same limits, the same counts. A request's JSON becomes the
//! message's bytes (`kvnode_api::json`), the answer's bytes become JSON; nothing else happens here.
//!
//! * `access.rs`: who may ask at all: Host, origin, certificates;
//! * `unary.rs`: one object in, one out;
//! * `stream.rs`: objects in as they come, a line out for each answer, at once;
//! * `websocket.rs`: the same in frames.
//!
//! Bounds: a request's text is as long as a message of the receive limit can be in base64, and a little
//! ([`text_bytes_max`]); texts that have arrived in part take [`ARRIVING_BYTES_MAX`] per executor; one answer per stream
//! waits for the client. Text longer than [`INLINE_BYTES`] is read and written on reader threads.

mod access;
mod stream;
mod unary;
mod websocket;

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use kvnode_api::frame::PREFIX_LEN;
use kvnode_api::json::shape::Shape;
use kvnode_api::json::{self, Route};
use kvnode_api::service::Kind;
use kvnode_api::status::{Code, Status};

use crate::cores::client::ClientCore;
use crate::grpc::NodeService;
use crate::health;
use crate::http::{self as port, Call, HttpRequest, HttpResponse, ResponseBody};
use crate::metrics::Limit;
use crate::rt;

/// Bytes of request texts that have arrived in part, over all connections of an executor. Beyond it: "too many requests".
const ARRIVING_BYTES_MAX: usize = 64 << 20;

/// Longer texts are converted on a reader thread.
const INLINE_BYTES: usize = 64 << 10;

/// One executor's part of the gateway.
#[derive(Debug, Default)]
pub struct Gateway {
    arriving_bytes: Cell<usize>,
}

/// Answers everything on the port that is not gRPC.
pub async fn answer(service: Rc<NodeService>, mut request: HttpRequest) -> HttpResponse {
    let core = service.core();
    if !request.peer.role.serves_http() {
        return health::answer(core, request).await;
    }
    let path = access::path(&request);
    let allowed = match access::check(core, &request, &path) {
        Ok(allowed) => allowed,
        Err(refusal) => return *refusal,
    };
    let response = if request.method == Method::OPTIONS {
        ResponseBody::text(StatusCode::OK, "")
    } else if !path.starts_with("/v3/") || !core.shared.config.gateway.enabled {
        health::answer(core, request).await
    } else {
        match json::route(&path) {
            None => failed_as(
                StatusCode::NOT_FOUND,
                &Status::new(Code::NotFound, "Not Found"),
            ),
            Some(route) => {
                let upgrade = websocket::Upgrade::asked(&mut request);
                routed(service, route, request, upgrade).await
            }
        }
    };
    allowed.applied(response)
}

async fn routed(
    service: Rc<NodeService>,
    route: &'static Route,
    request: HttpRequest,
    upgrade: Option<websocket::Upgrade>,
) -> HttpResponse {
    if upgrade.is_none() && request.method != Method::POST {
        return failed(&Status::new(Code::Unimplemented, "Method Not Allowed"));
    }
    let call = match call(route, &request) {
        Ok(call) => call,
        Err(status) => return failed(&status),
    };
    match upgrade {
        Some(upgrade) => upgrade.accept(service, route, call),
        None if route.method.kind() == Kind::Unary => {
            unary::serve(service, route, call, request).await
        }
        None => stream::serve(service, route, call, request).await,
    }
}

/// The call a request makes. Of its headers only those that mean metadata become some: `Authorization`, and
/// `Grpc-Metadata-<name>` as `<name>`.
fn call(route: &Route, request: &HttpRequest) -> Result<Call, Status> {
    const METADATA: &str = "grpc-metadata-";
    let mut metadata = HeaderMap::new();
    if let Some(token) = request.headers.get(AUTHORIZATION) {
        metadata.insert(AUTHORIZATION, token.clone());
    }
    for (name, value) in &request.headers {
        let name = name.as_str().strip_prefix(METADATA);
        if let Some(name) = name.and_then(|name| name.parse::<HeaderName>().ok()) {
            metadata.append(name, value.clone());
        }
    }
    let timeout = port::grpc_timeout(&request.headers).map_err(|status| Status {
        code: Code::InvalidArgument,
        ..status
    })?;
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let peer = Rc::clone(&request.peer);
    Ok(Call::new(route.method, deadline, peer, metadata))
}

/// Longest text of a request, in bytes.
fn text_bytes_max(core: &ClientCore) -> usize {
    let message = message_bytes_max(core);
    message + message / 3 + (64 << 10)
}

/// Longest message, in bytes: that of gRPC.
fn message_bytes_max(core: &ClientCore) -> usize {
    core.shared.config.limits.request_bytes_max + (512 << 10)
}

/// From a request's text to its message.
fn read(shape: &'static Shape, text: &[u8], message_bytes_max: usize) -> Result<Bytes, Status> {
    let message = json::read(shape, text).map_err(|error| unreadable(&error))?;
    if message.len() > message_bytes_max {
        return Err(Status::message_too_large(
            message.len() as u64,
            message_bytes_max,
        ));
    }
    Ok(message.into())
}

fn unreadable(error: &json::Error) -> Status {
    match error {
        json::Error::TooLong { limit } => Status::new(
            Code::ResourceExhausted,
            format!("kvnode: the request's JSON is longer than {limit} bytes"),
        ),
        other => Status::new(Code::InvalidArgument, other.to_string()),
    }
}

/// From a framed answer to text, `before` and `after` around it.
async fn write(
    core: &Rc<ClientCore>,
    shape: &'static Shape,
    frame: Bytes,
    before: &'static str,
    after: &'static str,
) -> Result<Bytes, Status> {
    let short = frame.len() <= INLINE_BYTES;
    let convert = move || {
        let message = frame.get(PREFIX_LEN..);
        let message = message.ok_or_else(|| unwritable("it has no frame"))?;
        let mut text = before.as_bytes().to_vec();
        json::write(shape, message, &mut text).map_err(|error| unwritable(&error.to_string()))?;
        text.extend_from_slice(after.as_bytes());
        Ok(Bytes::from(text))
    };
    match short {
        true => convert(),
        false => core.on_reader(convert).await?,
    }
}

/// An answer of our own that does not become JSON: a bug, told as what it is.
fn unwritable(why: &str) -> Status {
    Status::new(
        Code::Internal,
        format!("kvnode: the answer has no JSON form: {why}"),
    )
}

/// The answer to a call that failed.
fn failed(status: &Status) -> HttpResponse {
    failed_as(http_status(status), status)
}

fn failed_as(http: StatusCode, status: &Status) -> HttpResponse {
    ResponseBody::json(http, json::failure(status))
}

fn http_status(status: &Status) -> StatusCode {
    StatusCode::from_u16(json::http_status(status.code))
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Marks an answer as one that a gRPC call has given.
fn as_answered(mut response: HttpResponse) -> HttpResponse {
    const NAME: HeaderName = HeaderName::from_static("grpc-metadata-content-type");
    let value = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(NAME, value);
    response
}

/// How long what has begun to arrive may take until it is whole.
struct Due {
    timeout: Duration,
    /// Armed while it is waited for.
    at: Option<rt::Sleep>,
}

impl Due {
    fn new(timeout: Duration) -> Due {
        Due { timeout, at: None }
    }

    /// It has begun, now or before.
    fn begin(&mut self) {
        let timeout = self.timeout;
        self.at.get_or_insert_with(|| rt::sleep(timeout));
    }

    /// It is whole, or nothing has begun.
    fn end(&mut self) {
        self.at = None;
    }

    /// Whether it should be whole by now; if not, the task is woken when it should.
    fn poll_passed(&mut self, cx: &mut Context<'_>) -> bool {
        let at = self.at.as_mut();
        at.is_some_and(|at| Pin::new(at).poll(cx).is_ready())
    }
}

/// Bytes of one request that count against [`ARRIVING_BYTES_MAX`].
struct Arriving {
    service: Rc<NodeService>,
    held: usize,
}

impl Arriving {
    fn new(service: &Rc<NodeService>) -> Arriving {
        Arriving {
            service: Rc::clone(service),
            held: 0,
        }
    }

    /// So many are held now.
    ///
    /// # Errors
    /// "too many requests" if that is more than there is room for.
    fn hold(&mut self, bytes: usize) -> Result<(), Status> {
        let all = &self.service.gateway().arriving_bytes;
        let now = all.get() - self.held + bytes;
        if bytes > self.held && now > ARRIVING_BYTES_MAX {
            self.service.core().refused(Limit::JsonBytes);
            return Err(Status::too_many_requests());
        }
        all.set(now);
        self.held = bytes;
        Ok(())
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        // Less is never refused.
        let _ = self.hold(0);
    }
}
