//! One HTTP/2 connection to one endpoint, and the raw gRPC calls on it.
//!
//! A task of the runtime drives the connection and pings it while calls are open. It ends by itself
//! when the last handle and the last call are gone.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method as HttpMethod, Request};
use kvnode_api::frame::{self, Decoder};
use kvnode_api::service::Method;
use kvnode_api::{Code, Message, Status};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::config::Config;
use crate::endpoint::{Address, Endpoint};
use crate::error::Failure;

/// Bytes of one answer in flight before it is taken up.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes of all answers of a connection in flight.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// What small frames may cost in book-keeping before the connection counts as attacked; a watch
/// stream is nothing but small frames.
const SMALL_FRAMES_BYTES_MAX: usize = 256 << 20;
/// Servers end connections that ping more often.
const PING_PAUSE_MIN: Duration = Duration::from_secs(10);

/// Handle to a live connection.
#[derive(Clone)]
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    base: Arc<str>,
    receive_bytes_max: usize,
    calls: Arc<AtomicUsize>,
}

impl Connection {
    /// Connects, or says why not.
    pub async fn open(
        endpoint: &Endpoint,
        config: &Config,
        tls: Option<&TlsConnector>,
    ) -> Result<Connection, String> {
        let opening = async {
            match &endpoint.address {
                Address::Tcp(host, port) => {
                    let socket = TcpStream::connect((host.as_str(), *port)).await?;
                    socket.set_nodelay(true)?;
                    secure(socket, endpoint, config, tls).await
                }
                Address::Unix(path) => {
                    secure(UnixStream::connect(path).await?, endpoint, config, tls).await
                }
            }
        };
        match tokio::time::timeout(config.connect_timeout, opening).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(words(&error)),
            Err(_) => Err(format!("no connection within {:?}", config.connect_timeout)),
        }
    }

    /// Starts a call. With `body` that is the whole request; without, requests are sent on the stream.
    pub async fn start<R: Message + Default>(
        &mut self,
        method: Method,
        metadata: &HeaderMap,
        body: Option<Bytes>,
    ) -> Result<(SendStream<Bytes>, Incoming<R>), Failure> {
        let mut request = Request::new(());
        *request.method_mut() = HttpMethod::POST;
        *request.uri_mut() = format!("{}{}", self.base, method.path())
            .parse()
            .map_err(|error| Failure::NotSent(format!("{error}")))?;
        *request.headers_mut() = metadata.clone();
        let headers = request.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        let not_sent = |error: h2::Error| Failure::NotSent(error.to_string());
        let mut requests = self.requests.clone().ready().await.map_err(not_sent)?;
        let (response, mut stream) = requests.send_request(request, false).map_err(not_sent)?;
        if let Some(body) = body {
            // The server may have refused already; then its answer says so.
            let _ = stream.send_data(body, true);
        }
        Ok((
            stream,
            Incoming::new(response, self.receive_bytes_max, Open::of(&self.calls)),
        ))
    }
}

async fn secure<S>(
    socket: S,
    endpoint: &Endpoint,
    config: &Config,
    tls: Option<&TlsConnector>,
) -> io::Result<Connection>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if !endpoint.tls {
        return shake_hands(socket, endpoint, config).await;
    }
    let connector = tls.ok_or_else(|| io::Error::other("TLS is not set up"))?;
    let socket = connector
        .connect(server_name(endpoint, config)?, socket)
        .await?;
    shake_hands(socket, endpoint, config).await
}

/// The name that the certificate of whoever answers there must be for.
pub(crate) fn server_name(
    endpoint: &Endpoint,
    config: &Config,
) -> io::Result<rustls::pki_types::ServerName<'static>> {
    let tls = config.tls.as_ref();
    let name = tls.and_then(|tls| tls.server_name.as_deref());
    rustls::pki_types::ServerName::try_from(name.unwrap_or(endpoint.host()).to_owned())
        .map_err(io::Error::other)
}

async fn shake_hands<S>(socket: S, endpoint: &Endpoint, config: &Config) -> io::Result<Connection>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (requests, mut connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .data_frame_budget(SMALL_FRAMES_BYTES_MAX)
        .handshake(socket)
        .await
        .map_err(io::Error::other)?;
    let calls = Arc::new(AtomicUsize::new(0));
    let ping_pong = connection.ping_pong();
    let open = Arc::clone(&calls);
    let pause = config.keepalive_time.max(PING_PAUSE_MIN);
    let limit = config.keepalive_timeout;
    let name = endpoint.text.clone();
    tokio::spawn(async move {
        let pinging = async {
            let Some(mut ping_pong) = ping_pong else {
                return std::future::pending().await;
            };
            loop {
                tokio::time::sleep(pause).await;
                if open.load(Ordering::Relaxed) == 0 {
                    continue;
                }
                let ping = ping_pong.ping(Ping::opaque());
                if tokio::time::timeout(limit, ping).await.is_err() {
                    log::warn!(
                        "{name}: a ping went unanswered for {limit:?}, the connection is given up"
                    );
                    return;
                }
            }
        };
        // Dropping the connection fails every call on it, which is how they hear of its end.
        tokio::select! {
            ended = connection => if let Err(error) = ended { log::debug!("connection: {error}") },
            () = pinging => {}
        }
    });
    let scheme = if endpoint.tls { "https" } else { "http" };
    Ok(Connection {
        requests,
        base: format!("{scheme}://{}", endpoint.authority()).into(),
        receive_bytes_max: config.receive_bytes_max,
        calls,
    })
}

/// The innermost reason, in the system's words.
pub(crate) fn words(error: &io::Error) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let text = inner.to_string();
        if !words.contains(&text) {
            words = format!("{words}: {text}");
        }
        source = inner.source();
    }
    words
}

/// Counts an open call.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn of(calls: &Arc<AtomicUsize>) -> Open {
        calls.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(calls))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The answers of one call.
pub(crate) struct Incoming<R> {
    state: State,
    decoder: Decoder,
    _open: Open,
    message: PhantomData<fn() -> R>,
}

enum State {
    Head(ResponseFuture),
    Body(RecvStream),
    Over,
}

impl<R: Message + Default> Incoming<R> {
    fn new(response: ResponseFuture, limit: usize, open: Open) -> Incoming<R> {
        Incoming {
            state: State::Head(response),
            decoder: Decoder::new(limit),
            _open: open,
            message: PhantomData,
        }
    }

    /// The only answer of a unary call.
    pub async fn only(mut self) -> Result<R, Failure> {
        let Some(answer) = self.next().await? else {
            return Err(Failure::Broken("ended without an answer".to_owned()));
        };
        // Whatever the trailers say now, the server did what was asked.
        self.next().await?;
        Ok(answer)
    }

    /// The next answer, or `None` once the call ended well. May be dropped half-way: what arrived stays.
    pub async fn next(&mut self) -> Result<Option<R>, Failure> {
        loop {
            if let Some(message) = self.decoder.next_message().map_err(Failure::Status)? {
                return frame::decode(message).map(Some).map_err(Failure::Status);
            }
            match &mut self.state {
                State::Head(response) => match response.await {
                    Ok(response) => self.head(response)?,
                    Err(error) => return self.end(Failure::of(&error)),
                },
                State::Body(body) => match body.data().await {
                    Some(Ok(chunk)) => {
                        let _ = body.flow_control().release_capacity(chunk.len());
                        self.decoder.push(chunk);
                    }
                    Some(Err(error)) => return self.end(Failure::of(&error)),
                    None => {
                        let trailers = body.trailers().await;
                        self.state = State::Over;
                        let trailers = trailers.map_err(|error| Failure::of(&error))?;
                        return match trailers.as_ref().and_then(status) {
                            None => Err(Failure::Broken("ended without a status".to_owned())),
                            Some(status) => verdict(status),
                        };
                    }
                },
                State::Over => return Ok(None),
            }
        }
    }

    fn head(&mut self, response: http::Response<RecvStream>) -> Result<(), Failure> {
        if response.status() != 200 {
            self.state = State::Over;
            let text = format!("unexpected HTTP status code {}", response.status());
            return Err(Failure::Status(Status::new(
                http_code(response.status()),
                text,
            )));
        }
        if let Some(status) = status(response.headers()) {
            self.state = State::Over;
            return verdict::<R>(status).map(|_| ());
        }
        self.state = State::Body(response.into_body());
        Ok(())
    }

    fn end(&mut self, failure: Failure) -> Result<Option<R>, Failure> {
        self.state = State::Over;
        Err(failure)
    }
}

fn verdict<R>(status: Status) -> Result<Option<R>, Failure> {
    match status.code {
        Code::Ok => Ok(None),
        _ => Err(Failure::Status(status)),
    }
}

/// gRPC's own table for proxies that answer in HTTP.
fn http_code(status: http::StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

fn status(headers: &HeaderMap) -> Option<Status> {
    let number = headers.get("grpc-status")?.to_str().ok()?;
    let code = Code::from_u8(number.parse().unwrap_or(2));
    let message = headers.get("grpc-message").map(HeaderValue::as_bytes);
    Some(Status::new(
        code,
        percent_decoded(message.unwrap_or_default()),
    ))
}

/// `grpc-message` escapes what is no printable ASCII as `%XX`.
fn percent_decoded(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'%').then(|| after.get(..2)).flatten();
        let value = escaped
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sends one message on an open stream.
pub(crate) fn send(stream: &mut SendStream<Bytes>, message: &impl Message) -> Result<(), Failure> {
    let mut buffer = BytesMut::new();
    frame::encode_into(message, &mut buffer).map_err(Failure::Status)?;
    stream
        .send_data(buffer.freeze(), false)
        .map_err(|error| Failure::of(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_in_messages_are_undone() {
        assert_eq!(percent_decoded(b"a%20b%E2%82%AC"), "a b\u{20ac}");
        assert_eq!(percent_decoded(b"100%"), "100%");
        assert_eq!(percent_decoded(b"%zz%4"), "%zz%4");
    }

    #[test]
    fn statuses_are_read_from_headers() {
        let mut headers = HeaderMap::new();
        assert!(status(&headers).is_none());
        headers.insert("grpc-status", HeaderValue::from_static("14"));
        headers.insert(
            "grpc-message",
            HeaderValue::from_static("etcdserver: no leader"),
        );
        assert_eq!(status(&headers), Some(Status::no_leader()));
        headers.insert("grpc-status", HeaderValue::from_static("99"));
        assert_eq!(
            status(&headers).map(|status| status.code),
            Some(Code::Unknown)
        );
    }
}
