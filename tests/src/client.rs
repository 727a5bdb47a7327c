//! A gRPC client over bare HTTP/2: typed calls for tests of meaning, raw frames for tests of manners.
//!
//! It shares nothing with the server but the message structs: framing, statuses and texts are read here
//! on their own. Every wait has a limit and a test that runs into it fails with what it waited for.

use std::collections::HashMap;
use std::future::Future;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request};
use kvnode_api as api;
use prost::Message;
use tokio::net::TcpStream;

/// Longest wait for one answer; the slowest legal one (a read without quorum) takes 7 s.
pub const PATIENCE: Duration = Duration::from_secs(12);

/// gRPC status numbers.
pub mod code {
    pub const OK: u32 = 0;
    pub const CANCELLED: u32 = 1;
    pub const UNKNOWN: u32 = 2;
    pub const INVALID_ARGUMENT: u32 = 3;
    pub const DEADLINE_EXCEEDED: u32 = 4;
    pub const NOT_FOUND: u32 = 5;
    pub const PERMISSION_DENIED: u32 = 7;
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    pub const FAILED_PRECONDITION: u32 = 9;
    pub const OUT_OF_RANGE: u32 = 11;
    pub const UNIMPLEMENTED: u32 = 12;
    pub const INTERNAL: u32 = 13;
    pub const UNAVAILABLE: u32 = 14;
    pub const DATA_LOSS: u32 = 15;
    pub const UNAUTHENTICATED: u32 = 16;
    /// Ours, never on the wire: the transport broke, so nobody knows what became of the call.
    pub const BROKEN: u32 = 1000;
}

/// How a call ended when not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: u32,
    pub message: String,
}

impl Status {
    pub fn new(code: u32, message: impl Into<String>) -> Status {
        Status {
            code,
            message: message.into(),
        }
    }

    fn broken(error: impl std::fmt::Display) -> Status {
        Status::new(code::BROKEN, format!("transport: {error}"))
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

/// HTTP/2 settings with these windows. Many small answers at once are what tests ask for, so the
/// library's guard against floods of small frames is out of the way.
pub fn settings(stream_window: u32, connection_window: u32) -> h2::client::Builder {
    let mut settings = h2::client::Builder::new();
    settings
        .initial_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .data_frame_budget(usize::MAX / 2);
    settings
}

/// One connection. Clones share it.
#[derive(Clone)]
pub struct Client {
    requests: SendRequest<Bytes>,
    authority: String,
    metadata: Vec<(&'static str, String)>,
    patience: Duration,
}

impl Client {
    /// Connects; panics when there is nobody, for tests that know there is.
    pub async fn connect(address: SocketAddr) -> Client {
        Client::try_connect(address)
            .await
            .unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    pub async fn try_connect(address: SocketAddr) -> Result<Client, Status> {
        Client::connect_with(address, &mut settings(1 << 20, 1 << 24)).await
    }

    /// Connects with HTTP/2 settings of the test's choice (windows decide how slow a reader can be).
    pub async fn connect_with(
        address: SocketAddr,
        settings: &mut h2::client::Builder,
    ) -> Result<Client, Status> {
        let socket = limited("connecting", TcpStream::connect(address)).await;
        let socket = socket.map_err(Status::broken)?;
        socket.set_nodelay(true).map_err(Status::broken)?;
        let handshake = limited("the HTTP/2 handshake", settings.handshake(socket)).await;
        let (requests, connection) = handshake.map_err(Status::broken)?;
        tokio::spawn(async move {
            // The end of the connection reaches every call on it as an error of its own.
            let _ = connection.await;
        });
        Ok(Client {
            requests,
            authority: address.to_string(),
            metadata: Vec::new(),
            patience: PATIENCE,
        })
    }

    /// The same connection with one more metadata entry on every call.
    pub fn with_metadata(mut self, name: &'static str, value: impl Into<String>) -> Client {
        self.metadata.push((name, value.into()));
        self
    }

    /// The same connection; calls give up (as broken) after this long instead of panicking.
    pub fn with_patience(mut self, patience: Duration) -> Client {
        self.patience = patience;
        self
    }

    /// A unary call.
    pub async fn call<Q: Message, R: Message + Default>(
        &self,
        path: &'static str,
        message: &Q,
    ) -> Result<R, Status> {
        let calling = async {
            let mut incoming = self.open::<R>(path, Some(frame(message))).await?.1;
            let answer = incoming.pull().await?;
            let answer =
                answer.ok_or_else(|| Status::broken("ended well but without a message"))?;
            match incoming.pull().await? {
                None => Ok(answer),
                Some(_) => Err(Status::broken("two messages to a unary call")),
            }
        };
        match tokio::time::timeout(self.patience, calling).await {
            Ok(result) => result,
            Err(_) if self.patience < PATIENCE => Err(Status::broken("gave up waiting")),
            Err(_) => panic!("no answer from {path} within {:?}", self.patience),
        }
    }

    /// A call with one request and a stream of answers.
    pub async fn server_stream<Q: Message, R: Message + Default>(
        &self,
        path: &'static str,
        message: &Q,
    ) -> Result<Incoming<R>, Status> {
        Ok(self.open(path, Some(frame(message))).await?.1)
    }

    /// A call with streams both ways.
    pub async fn both_ways<Q: Message, R: Message + Default>(
        &self,
        path: &'static str,
    ) -> Result<(Outgoing<Q>, Incoming<R>), Status> {
        let (stream, incoming) = self.open(path, None).await?;
        Ok((
            Outgoing {
                stream,
                message: PhantomData,
            },
            incoming,
        ))
    }

    /// Opens a stream; a body given is the whole request.
    async fn open<R>(
        &self,
        path: &'static str,
        body: Option<Bytes>,
    ) -> Result<(SendStream<Bytes>, Incoming<R>), Status> {
        let request = self.request(path, &[]);
        let mut requests = self
            .requests
            .clone()
            .ready()
            .await
            .map_err(Status::broken)?;
        let (response, mut stream) = requests
            .send_request(request, false)
            .map_err(Status::broken)?;
        if let Some(body) = body {
            // A server may refuse before it has read the body; its answer tells.
            let _ = stream.send_data(body, true);
        }
        Ok((stream, Incoming::new(path, response)))
    }

    /// The head of a proper gRPC request; `replace` puts other values (or more headers) in place.
    pub fn request(&self, path: &str, replace: &[(&str, &str)]) -> Request<()> {
        let mut headers = HashMap::from([("content-type", "application/grpc"), ("te", "trailers")]);
        headers.extend(
            self.metadata
                .iter()
                .map(|(name, value)| (*name, value.as_str())),
        );
        headers.extend(replace.iter().copied());
        let uri = format!("http://{}{path}", self.authority);
        let mut request = Request::builder().method(Method::POST).uri(uri);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.body(()).expect("the tests write legal heads")
    }

    /// Sends exactly these bytes as the body and returns all that came back.
    pub async fn raw(&self, request: Request<()>, body: &[u8]) -> RawAnswer {
        let asking = async {
            let mut requests = self.requests.clone().ready().await?;
            let (response, mut stream) = requests.send_request(request, false)?;
            // The server may answer and reset before it took the whole body: not an error here.
            let _ = stream.send_data(Bytes::copy_from_slice(body), true);
            let (head, mut body) = response.await?.into_parts();
            let mut answer = RawAnswer {
                http_status: head.status.as_u16(),
                headers: head.headers,
                ..RawAnswer::default()
            };
            while let Some(chunk) = body.data().await {
                let chunk = chunk?;
                let _ = body.flow_control().release_capacity(chunk.len());
                answer.body.extend_from_slice(&chunk);
            }
            answer.trailers = body.trailers().await?.unwrap_or_default();
            Ok(answer)
        };
        match limited("a raw answer", asking).await {
            Ok(answer) => answer,
            Err(error) => RawAnswer {
                error: Some(error),
                ..RawAnswer::default()
            },
        }
    }

    /// Starts a request and leaves its body open, for tests that misbehave half-way.
    pub async fn half_open(&self, path: &'static str) -> (SendStream<Bytes>, ResponseFuture) {
        let mut requests = self
            .requests
            .clone()
            .ready()
            .await
            .expect("a live connection");
        let (response, stream) = requests
            .send_request(self.request(path, &[]), false)
            .expect("a live connection");
        (stream, response)
    }
}

impl Client {
    /// As [`Client::half_open`], for what is not gRPC.
    pub async fn half_open_json(&self, path: &str) -> (SendStream<Bytes>, ResponseFuture) {
        let request = self.request(path, &[("content-type", "application/json")]);
        let requests = self.requests.clone().ready().await;
        let mut requests = requests.expect("a live connection");
        let (response, stream) = requests
            .send_request(request, false)
            .expect("a live connection");
        (stream, response)
    }
}

/// What came back to a raw request.
#[derive(Debug, Default)]
pub struct RawAnswer {
    pub http_status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
    pub error: Option<h2::Error>,
}

impl RawAnswer {
    /// The gRPC status, from the trailers or (an answer without messages) the head.
    pub fn status(&self) -> Option<Status> {
        status_of(&self.trailers).or_else(|| status_of(&self.headers))
    }
}

/// The requests of a call with streams both ways.
pub struct Outgoing<Q> {
    stream: SendStream<Bytes>,
    message: PhantomData<Q>,
}

impl<Q: Message> Outgoing<Q> {
    /// Sends a message; panics when the call is over, for tests that know it is not.
    pub fn send(&mut self, message: &Q) {
        self.stream
            .send_data(frame(message), false)
            .expect("the call is still open");
    }

    /// As [`Outgoing::send`], where the other side may have ended.
    pub fn try_send(&mut self, message: &Q) -> Result<(), Status> {
        self.stream
            .send_data(frame(message), false)
            .map_err(Status::broken)
    }

    /// No more requests; answers may go on.
    pub fn half_close(&mut self) {
        self.stream
            .send_data(Bytes::new(), true)
            .expect("the call is still open");
    }

    /// Cancels the call.
    pub fn cancel(mut self) {
        self.stream.send_reset(Reason::CANCEL);
    }
}

/// The answers of a call.
pub struct Incoming<R> {
    path: &'static str,
    state: State,
    buffer: BytesMut,
    message: PhantomData<R>,
}

enum State {
    Head(ResponseFuture),
    Body(RecvStream),
    Over,
}

impl<R: Message + Default> Incoming<R> {
    /// The next message. Panics when the call ends or nothing comes in time.
    pub async fn next(&mut self) -> R {
        let path = self.path;
        match limited(path, self.pull()).await {
            Ok(Some(message)) => message,
            Ok(None) => panic!("{path} ended, another message was expected"),
            Err(status) => panic!("{path} failed, a message was expected: {status}"),
        }
    }

    /// The next message, the end of the call (None), or how it failed.
    pub async fn next_or_end(&mut self) -> Result<Option<R>, Status> {
        limited(self.path, self.pull()).await
    }

    /// As [`Incoming::next_or_end`], however long that takes.
    pub async fn next_whenever(&mut self) -> Result<Option<R>, Status> {
        self.pull().await
    }

    /// The next message if one comes so soon.
    pub async fn within(&mut self, time: Duration) -> Option<Result<Option<R>, Status>> {
        tokio::time::timeout(time, self.pull()).await.ok()
    }

    /// Demands that nothing arrives for so long.
    pub async fn quiet(&mut self, time: Duration)
    where
        R: std::fmt::Debug,
    {
        if let Ok(got) = tokio::time::timeout(time, self.pull()).await {
            panic!("{}: nothing was expected, got {got:?}", self.path);
        }
    }

    /// All messages to the end of the call.
    pub async fn collect(&mut self) -> Result<Vec<R>, Status> {
        let mut all = Vec::new();
        while let Some(message) = self.next_or_end().await? {
            all.push(message);
        }
        Ok(all)
    }

    /// Safe to drop half-way: whatever arrived stays in the buffer.
    async fn pull(&mut self) -> Result<Option<R>, Status> {
        loop {
            if let Some(message) = take_frame(&mut self.buffer)? {
                return R::decode(message).map(Some).map_err(Status::broken);
            }
            match &mut self.state {
                State::Head(response) => {
                    let head = match response.await {
                        Ok(response) => response,
                        Err(error) => return self.end(Err(Status::broken(error))),
                    };
                    if head.status() != 200 {
                        let status = head.status();
                        return self.end(Err(Status::broken(format!("HTTP status {status}"))));
                    }
                    if let Some(status) = status_of(head.headers()) {
                        return self.end(verdict(status));
                    }
                    self.state = State::Body(head.into_body());
                }
                State::Body(body) => match body.data().await {
                    Some(Ok(chunk)) => {
                        let _ = body.flow_control().release_capacity(chunk.len());
                        self.buffer.extend_from_slice(&chunk);
                    }
                    Some(Err(error)) => return self.end(Err(Status::broken(error))),
                    None => {
                        let trailers = match body.trailers().await {
                            Ok(trailers) => trailers.unwrap_or_default(),
                            Err(error) => return self.end(Err(Status::broken(error))),
                        };
                        let end = match status_of(&trailers) {
                            None => Err(Status::broken("ended without grpc-status")),
                            Some(status) => verdict(status),
                        };
                        return self.end(end);
                    }
                },
                State::Over => return Ok(None),
            }
        }
    }

    fn end(&mut self, how: Result<Option<R>, Status>) -> Result<Option<R>, Status> {
        self.state = State::Over;
        how
    }
}

impl<R> Incoming<R> {
    fn new(path: &'static str, response: ResponseFuture) -> Incoming<R> {
        Incoming {
            path,
            state: State::Head(response),
            buffer: BytesMut::new(),
            message: PhantomData,
        }
    }
}

fn verdict<R>(status: Status) -> Result<Option<R>, Status> {
    if status.code == code::OK {
        Ok(None)
    } else {
        Err(status)
    }
}

/// A message with the 5-byte gRPC prefix.
pub fn frame(message: &impl Message) -> Bytes {
    let size = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(size + 5);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(size).expect("test messages are below 4 GiB"));
    message.encode(&mut bytes).expect("BytesMut grows");
    bytes.freeze()
}

fn take_frame(buffer: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some((prefix, rest)) = buffer.split_first_chunk::<5>() else {
        return Ok(None);
    };
    let [flag, size @ ..] = prefix;
    if *flag != 0 {
        return Err(Status::broken(format!(
            "compressed flag {flag} in an answer"
        )));
    }
    let size = usize::try_from(u32::from_be_bytes(*size)).expect("usize has 32 bits at least");
    if rest.len() < size {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(buffer.split_to(size).freeze()))
}

fn status_of(headers: &HeaderMap) -> Option<Status> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let text = headers
        .get("grpc-message")
        .map_or(&b""[..], |value| value.as_bytes());
    Some(Status::new(code, unpercent(text)))
}

fn unpercent(text: &[u8]) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                plain.push(byte);
                rest = &after[2..];
            }
            _ => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

async fn limited<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

macro_rules! unary {
    ($($name:ident $path:literal $request:ident -> $response:ident)*) => {
        /// The unary calls, by name.
        impl Client {
            $(pub async fn $name(&self, request: api::$request) -> Result<api::$response, Status> {
                self.call($path, &request).await
            })*
        }
    };
}

unary! {
    range "/etcdserverpb.KV/Range" RangeRequest -> RangeResponse
    put "/etcdserverpb.KV/Put" PutRequest -> PutResponse
    delete_range "/etcdserverpb.KV/DeleteRange" DeleteRangeRequest -> DeleteRangeResponse
    txn "/etcdserverpb.KV/Txn" TxnRequest -> TxnResponse
    compact "/etcdserverpb.KV/Compact" CompactionRequest -> CompactionResponse
    lease_grant "/etcdserverpb.Lease/LeaseGrant" LeaseGrantRequest -> LeaseGrantResponse
    lease_revoke "/etcdserverpb.Lease/LeaseRevoke" LeaseRevokeRequest -> LeaseRevokeResponse
    lease_time_to_live "/etcdserverpb.Lease/LeaseTimeToLive" LeaseTimeToLiveRequest -> LeaseTimeToLiveResponse
    lease_leases "/etcdserverpb.Lease/LeaseLeases" LeaseLeasesRequest -> LeaseLeasesResponse
    alarm "/etcdserverpb.Maintenance/Alarm" AlarmRequest -> AlarmResponse
    status "/etcdserverpb.Maintenance/Status" StatusRequest -> StatusResponse
    defragment "/etcdserverpb.Maintenance/Defragment" DefragmentRequest -> DefragmentResponse
    hash "/etcdserverpb.Maintenance/Hash" HashRequest -> HashResponse
    hash_kv "/etcdserverpb.Maintenance/HashKV" HashKVRequest -> HashKVResponse
    move_leader "/etcdserverpb.Maintenance/MoveLeader" MoveLeaderRequest -> MoveLeaderResponse
    downgrade "/etcdserverpb.Maintenance/Downgrade" DowngradeRequest -> DowngradeResponse
    member_list "/etcdserverpb.Cluster/MemberList" MemberListRequest -> MemberListResponse
    member_add "/etcdserverpb.Cluster/MemberAdd" MemberAddRequest -> MemberAddResponse
    member_remove "/etcdserverpb.Cluster/MemberRemove" MemberRemoveRequest -> MemberRemoveResponse
    member_update "/etcdserverpb.Cluster/MemberUpdate" MemberUpdateRequest -> MemberUpdateResponse
    member_promote "/etcdserverpb.Cluster/MemberPromote" MemberPromoteRequest -> MemberPromoteResponse
    auth_enable "/etcdserverpb.Auth/AuthEnable" AuthEnableRequest -> AuthEnableResponse
    auth_disable "/etcdserverpb.Auth/AuthDisable" AuthDisableRequest -> AuthDisableResponse
    auth_status "/etcdserverpb.Auth/AuthStatus" AuthStatusRequest -> AuthStatusResponse
    authenticate "/etcdserverpb.Auth/Authenticate" AuthenticateRequest -> AuthenticateResponse
    user_add "/etcdserverpb.Auth/UserAdd" AuthUserAddRequest -> AuthUserAddResponse
    user_get "/etcdserverpb.Auth/UserGet" AuthUserGetRequest -> AuthUserGetResponse
    user_list "/etcdserverpb.Auth/UserList" AuthUserListRequest -> AuthUserListResponse
    user_delete "/etcdserverpb.Auth/UserDelete" AuthUserDeleteRequest -> AuthUserDeleteResponse
    user_change_password "/etcdserverpb.Auth/UserChangePassword" AuthUserChangePasswordRequest -> AuthUserChangePasswordResponse
    user_grant_role "/etcdserverpb.Auth/UserGrantRole" AuthUserGrantRoleRequest -> AuthUserGrantRoleResponse
    user_revoke_role "/etcdserverpb.Auth/UserRevokeRole" AuthUserRevokeRoleRequest -> AuthUserRevokeRoleResponse
    role_add "/etcdserverpb.Auth/RoleAdd" AuthRoleAddRequest -> AuthRoleAddResponse
    role_get "/etcdserverpb.Auth/RoleGet" AuthRoleGetRequest -> AuthRoleGetResponse
    role_list "/etcdserverpb.Auth/RoleList" AuthRoleListRequest -> AuthRoleListResponse
    role_delete "/etcdserverpb.Auth/RoleDelete" AuthRoleDeleteRequest -> AuthRoleDeleteResponse
    role_grant_permission "/etcdserverpb.Auth/RoleGrantPermission" AuthRoleGrantPermissionRequest -> AuthRoleGrantPermissionResponse
    role_revoke_permission "/etcdserverpb.Auth/RoleRevokePermission" AuthRoleRevokePermissionRequest -> AuthRoleRevokePermissionResponse
    lock "/v3lockpb.Lock/Lock" LockRequest -> LockResponse
    unlock "/v3lockpb.Lock/Unlock" UnlockRequest -> UnlockResponse
    campaign "/v3electionpb.Election/Campaign" CampaignRequest -> CampaignResponse
    proclaim "/v3electionpb.Election/Proclaim" ProclaimRequest -> ProclaimResponse
    election_leader "/v3electionpb.Election/Leader" LeaderRequest -> LeaderResponse
    resign "/v3electionpb.Election/Resign" ResignRequest -> ResignResponse
    health_check "/grpc.health.v1.Health/Check" HealthCheckRequest -> HealthCheckResponse
}

/// The streaming calls, by name.
impl Client {
    pub async fn watch(&self) -> (Outgoing<api::WatchRequest>, Incoming<api::WatchResponse>) {
        self.both_ways("/etcdserverpb.Watch/Watch")
            .await
            .expect("a watch stream opens")
    }

    pub async fn keep_alive(
        &self,
    ) -> (
        Outgoing<api::LeaseKeepAliveRequest>,
        Incoming<api::LeaseKeepAliveResponse>,
    ) {
        let path = "/etcdserverpb.Lease/LeaseKeepAlive";
        self.both_ways(path)
            .await
            .expect("a keepalive stream opens")
    }

    pub async fn range_stream(
        &self,
        request: api::RangeRequest,
    ) -> Result<Incoming<api::RangeStreamResponse>, Status> {
        self.server_stream("/etcdserverpb.KV/RangeStream", &request)
            .await
    }

    pub async fn observe(
        &self,
        request: api::LeaderRequest,
    ) -> Result<Incoming<api::LeaderResponse>, Status> {
        self.server_stream("/v3electionpb.Election/Observe", &request)
            .await
    }

    pub async fn snapshot(&self) -> Result<Incoming<api::SnapshotResponse>, Status> {
        let request = api::SnapshotRequest::default();
        self.server_stream("/etcdserverpb.Maintenance/Snapshot", &request)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_texts_are_percent_decoded() {
        assert_eq!(unpercent(b"100%25 of %e2%82%ac"), "100% of \u{20ac}");
        assert_eq!(unpercent(b"a % b %zz%"), "a % b %zz%");
    }

    #[test]
    fn a_frame_is_taken_only_when_whole() {
        let whole = frame(&api::LeaseKeepAliveRequest { id: 7 });
        let mut buffer = BytesMut::from(&whole[..whole.len() - 1]);
        assert!(take_frame(&mut buffer).expect("legal").is_none());
        buffer.extend_from_slice(&whole[whole.len() - 1..]);
        assert!(take_frame(&mut buffer).expect("legal").is_some());
        assert!(buffer.is_empty());
    }
}
