//! A gRPC client of sorts on the HTTP/2 crate's client half, and a runtime for it.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, StatusCode};
use tokio::net::TcpStream;

use super::PATIENCE;

/// Runs a client's future; fails the test if it takes too long.
pub(super) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            let local = tokio::task::LocalSet::new();
            local
                .run_until(tokio::time::timeout(PATIENCE, future))
                .await
                .expect("the server answers in time")
        })
}

/// One connection.
#[derive(Clone)]
pub(super) struct Client(SendRequest<Bytes>);

/// A response read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub http: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        let value = self.trailers.get(name).or_else(|| self.headers.get(name))?;
        value.to_str().ok()
    }

    pub(super) fn status(&self) -> &str {
        self.field("grpc-status").unwrap_or("none")
    }

    pub(super) fn message(&self) -> &str {
        self.field("grpc-message").unwrap_or("")
    }
}

impl Client {
    pub(super) async fn connect(address: SocketAddr) -> Client {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Client::over(socket).await
    }

    pub(super) async fn over<S>(socket: S) -> Client
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
    {
        // The tests leave answers unread for long.
        let (send, connection) = h2::client::Builder::new()
            .data_frame_budget(64 << 20)
            .handshake(socket)
            .await
            .unwrap();
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        Client(send)
    }

    /// Opens a call.
    pub(super) async fn open(
        &self,
        path: &str,
        fields: &[(&str, &str)],
        end: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut request = Request::builder()
            .method("POST")
            .uri(format!("http://host{path}"))
            .header("te", "trailers");
        if !fields.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.send(request.body(()).unwrap(), end).await
    }

    pub(super) async fn send(
        &self,
        request: Request<()>,
        end: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut send = self.0.clone().ready().await.unwrap();
        send.send_request(request, end).unwrap()
    }

    /// A unary call.
    pub(super) async fn call(&self, path: &str, body: Bytes, fields: &[(&str, &str)]) -> Answer {
        let (response, mut stream) = self.open(path, fields, false).await;
        stream.send_data(body, true).unwrap();
        read_all(response).await
    }
}

pub(super) async fn read_all(response: ResponseFuture) -> Answer {
    let (head, mut body) = response.await.unwrap().into_parts();
    let mut whole = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        whole.extend_from_slice(&data);
    }
    Answer {
        http: head.status,
        headers: head.headers,
        body: whole.freeze(),
        trailers: body.trailers().await.unwrap().unwrap_or_default(),
    }
}

/// The next piece of a streamed response.
pub(super) async fn piece(body: &mut RecvStream) -> Bytes {
    let data = body.data().await.unwrap().unwrap();
    body.flow_control().release_capacity(data.len()).unwrap();
    data
}
