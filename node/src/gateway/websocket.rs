//! The gateway over a WebSocket (RFC 6455): a text frame for each object, in either direction.
//!
//! Any route may be asked for this way, with GET and an upgrade of HTTP/1.1. Closing it ends the call. Browsers cannot set
//! headers here, so a token may come as a subprotocol: `Sec-WebSocket-Protocol: Bearer, <token>`.

mod frame;

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::StreamExt;
use http::header::{
    AUTHORIZATION, CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, StatusCode};
use kvnode_api::json::{self, Route};
use sha1::{Digest, Sha1};

use super::stream::{Inbox, Lines, Pieces};
use super::{Arriving, Due};
use crate::grpc::NodeService;
use crate::http::{Call, HttpRequest, HttpResponse, ResponseBody, Socket};
use crate::metrics::Limit;
use crate::rt;
use frame::{Decoder, Incoming, code};

/// Bytes that wait for the socket; beyond them no answer is asked for and nothing is read.
const UNSENT_BYTES_MAX: usize = 64 << 10;

/// Rounds of one poll, after which other tasks get their chance.
const ROUNDS_MAX: usize = 64;

/// How long the client may take to end the connection after the last frame.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What a client has to be told to prove that a WebSocket was understood.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A wish to go on as a WebSocket.
pub struct Upgrade {
    accept: HeaderValue,
    /// The subprotocol to name, if a token came as one.
    bearer: bool,
    /// Time for a message to arrive whole.
    timeout: Duration,
}

impl Upgrade {
    /// Whether the request is such a wish. A token among the subprotocols becomes its `Authorization`.
    pub fn asked(request: &mut HttpRequest) -> Option<Upgrade> {
        let headers = &request.headers;
        let wished = request.method == Method::GET
            && request.body.is_http1()
            && lists(headers, CONNECTION, "upgrade")
            && lists(headers, UPGRADE, "websocket")
            && headers.get(SEC_WEBSOCKET_VERSION)? == "13";
        if !wished {
            return None;
        }
        let accept = accept(headers.get(SEC_WEBSOCKET_KEY)?.as_bytes());
        let protocols = headers.get(SEC_WEBSOCKET_PROTOCOL);
        let token = protocols.and_then(|protocols| token(protocols.to_str().ok()?));
        let bearer = token.is_some();
        if let Some(token) = token {
            request.headers.insert(AUTHORIZATION, token);
        }
        Some(Upgrade {
            accept,
            bearer,
            timeout: request.body.timeout(),
        })
    }

    /// Says yes, and serves the call in what follows.
    pub fn accept(
        self,
        service: Rc<NodeService>,
        route: &'static Route,
        call: Call,
    ) -> HttpResponse {
        let timeout = self.timeout;
        let takeover = Box::new(move |socket| {
            let inbox = Rc::new(Inbox::default());
            let part = Part::new(&service, timeout);
            let pieces = Pieces::Inbox(Rc::clone(&inbox));
            let lines = Lines::start(service, route, call, pieces, timeout);
            Box::pin(session(part, socket, lines, inbox)) as _
        });
        let mut response = http::Response::new(ResponseBody::Upgrade(takeover));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept);
        if self.bearer {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Whether a header that lists words has this one.
fn lists(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        let words = value.to_str().unwrap_or_default().split(',');
        words
            .into_iter()
            .any(|each| each.trim().eq_ignore_ascii_case(word))
    })
}

fn accept(key: &[u8]) -> HeaderValue {
    let digest = Sha1::new().chain_update(key).chain_update(MAGIC).finalize();
    let mut text = Vec::new();
    json::base64(&digest, &mut text);
    HeaderValue::from_bytes(&text).expect("base64 is ASCII")
}

/// The token in `Bearer, <token>`, as an `Authorization`.
fn token(protocols: &str) -> Option<HeaderValue> {
    let (bearer, token) = protocols.split_once(',')?;
    (bearer.trim() == "Bearer")
        .then(|| HeaderValue::from_str(&format!("Bearer {}", token.trim())).ok())?
}

/// Serves one call to its end, or the connection's.
async fn session(mut part: Part, mut socket: Socket, lines: Lines, inbox: Rc<Inbox>) {
    let mut lines = lines.stream(None);
    let mut decoder = Decoder::default();
    let mut unsent = BytesMut::new();
    let mut closing = false;
    poll_fn(|cx| {
        rt::mark_busy();
        socket.begin_turn();
        for _ in 0..ROUNDS_MAX {
            if send(&mut socket, &mut unsent, cx).is_err() {
                return Poll::Ready(());
            }
            if closing {
                return match unsent.is_empty() {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                };
            }
            if unsent.len() >= UNSENT_BYTES_MAX {
                return Poll::Pending;
            }
            let mut idle = true;
            match lines.poll_next_unpin(cx) {
                Poll::Pending => {}
                Poll::Ready(Some(text)) => {
                    idle = false;
                    frame::text(text.strip_suffix(b"\n").unwrap_or(&text), &mut unsent);
                }
                Poll::Ready(None) => {
                    frame::close(code::NORMAL, &mut unsent);
                    closing = true;
                    continue;
                }
            }
            if inbox.has_room(cx) {
                let ended = match socket.poll_read(cx) {
                    Poll::Pending => part.poll_late(cx).then_some(code::POLICY),
                    Poll::Ready(Ok(bytes)) if !bytes.is_empty() => {
                        idle = false;
                        decoder.push(&bytes);
                        take(&mut part, &mut decoder, &inbox, &mut unsent)
                    }
                    Poll::Ready(_) => return Poll::Ready(()),
                };
                if let Some(code) = ended {
                    frame::close(code, &mut unsent);
                    closing = true;
                    continue;
                }
            }
            if idle {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    drop(lines);
    if closing {
        // A client that does not answer has had its time.
        let _ = rt::timeout(LAST_WORD, socket.close()).await;
    }
}

/// Hands over what has come; the code to close with if that was the end.
fn take(
    part: &mut Part,
    decoder: &mut Decoder,
    inbox: &Inbox,
    unsent: &mut BytesMut,
) -> Option<u16> {
    loop {
        match decoder.next() {
            Ok(None) => return part.hold(decoder.held()).err(),
            Ok(Some(Incoming::Text(text))) => {
                part.due.end();
                inbox.push(text);
            }
            Ok(Some(Incoming::Ping(data))) => frame::pong(&data, unsent),
            Ok(Some(Incoming::Pong)) => {}
            Ok(Some(Incoming::Close(code))) => return Some(code),
            Err(code) => {
                if code == code::TOO_BIG {
                    part.refused(Limit::JsonObject);
                }
                return Some(code);
            }
        }
    }
}

/// A message that has arrived in part: its bytes count with those of all requests, and it has so much time.
struct Part {
    arriving: Arriving,
    due: Due,
}

impl Part {
    fn new(service: &Rc<NodeService>, timeout: Duration) -> Part {
        Part {
            arriving: Arriving::new(service),
            due: Due::new(timeout),
        }
    }

    fn refused(&self, limit: Limit) {
        self.arriving.service.core().refused(limit);
    }

    /// So many bytes are held of it; the code to close with if there is no room for them.
    fn hold(&mut self, bytes: usize) -> Result<(), u16> {
        self.arriving.hold(bytes).map_err(|_| code::TRY_LATER)?;
        if bytes == 0 {
            self.due.end();
        } else {
            self.due.begin();
        }
        Ok(())
    }

    /// Whether the rest of it should be here by now; if not, the task is woken when it should.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> bool {
        let late = self.due.poll_passed(cx);
        if late {
            self.refused(Limit::SlowBody);
        }
        late
    }
}

/// Writes what the socket takes.
fn send(socket: &mut Socket, unsent: &mut BytesMut, cx: &mut Context<'_>) -> std::io::Result<()> {
    while !unsent.is_empty() {
        match socket.poll_write(cx, unsent) {
            Poll::Ready(Ok(0)) => return Err(std::io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(written)) => unsent.advance(written),
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => break,
        }
    }
    match socket.poll_flush(cx) {
        Poll::Ready(Err(error)) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standards_example_of_a_handshake() {
        let accept = accept(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_token_comes_as_the_second_subprotocol() {
        assert_eq!(token("Bearer, abc.1").unwrap(), "Bearer abc.1");
        assert_eq!(token("Bearer,abc").unwrap(), "Bearer abc");
        for other in ["Bearer", "chat, abc", "bearer, x\u{7f}"] {
            assert_eq!(token(other), None, "{other}");
        }
    }

    #[test]
    fn words_are_found_in_lists() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        assert!(lists(&headers, CONNECTION, "upgrade"));
        assert!(!lists(&headers, CONNECTION, "close"));
        assert!(!lists(&headers, UPGRADE, "websocket"));
    }
}
