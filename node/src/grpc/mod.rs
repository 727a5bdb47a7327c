//! The gRPC services: one file each. This one is the front door: gate, dispatch, count.

mod auth;
mod caller;
mod cluster;
mod election;
mod health;
mod kv;
mod learner;
mod lease;
mod lock;
mod maintenance;
mod places;
mod slow;
pub mod snapshot;
mod watch;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use kvnode_api::service::Method;
use kvnode_api::status::{Code, Status};

use caller::{Caller, WAITING_MAX, WAITING_PER_CONNECTION_MAX, disguise};
use places::{Places, Streams};

use crate::auth::Asker;
use crate::cores::client::{ClientCore, Proposal, Wanted};
use crate::gateway::{self, Gateway};
use crate::http::{
    Call, Confirmed, Glance, HttpRequest, HttpResponse, Reply, RequestStream, ResponseBody,
    ResponseSink, Role, Service, TurnedAway,
};
use crate::metrics::{CoreCalls, Limit, MethodCounts};
use crate::snapshots::PersisterSlot;
use slow::SlowLog;

/// One executor's service: shared by all its connections.
pub struct NodeService {
    core: Rc<ClientCore>,
    persisters: PersisterSlot,
    /// Callers of Lock and Election that wait.
    waiting: Rc<Places>,
    streams: Streams,
    gateway: Gateway,
    slow: SlowLog,
}

/// What a client says it speaks.
const CLIENT_VERSION: &str = "client-api-version";

impl NodeService {
    pub fn new(core: Rc<ClientCore>, persisters: PersisterSlot) -> Rc<Self> {
        Rc::new(NodeService {
            core,
            persisters,
            waiting: Places::new(Limit::LockWaits, WAITING_PER_CONNECTION_MAX, WAITING_MAX),
            streams: Streams::default(),
            gateway: Gateway::default(),
            slow: SlowLog::default(),
        })
    }

    pub fn core(&self) -> &Rc<ClientCore> {
        &self.core
    }

    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Checks that hold for every RPC, in etcd's order.
    fn gate(&self, call: &Call, message: &Bytes) -> Result<(), Status> {
        if !call.peer.role.serves_grpc() {
            return Err(not_served(call.method));
        }
        if self.core.shared.vitals.stopping.load(Ordering::Relaxed) {
            return Err(Status::server_stopped());
        }
        if self.core.shared.vitals.is_learner.load(Ordering::Relaxed) {
            learner::check(call.method, message)?;
        }
        if call
            .get(CLIENT_VERSION)
            .is_some_and(|version| std::str::from_utf8(version).is_err())
        {
            return Err(Status::invalid_client_api_version());
        }
        if requires_leader(call) && !self.core.shared.has_leader() {
            return Err(Status::no_leader());
        }
        if self.core.is_fenced() && shows_data(call.method) {
            return Err(Status::corrupt());
        }
        Ok(())
    }

    /// Counts that a unary call began. A client that leaves, or whose deadline passes, drops what this returns.
    fn begin(&self, call: &Call) -> Begun {
        self.begin_at(call, Some(Instant::now()))
    }

    /// As [`NodeService::begin`]; without a time, how long it takes is not looked at.
    fn begin_at(&self, call: &Call, started: Option<Instant>) -> Begun {
        let here = self.core.shared.metrics.calls.here();
        let counts = here.method(call.method);
        here.client(call.method, call.get(CLIENT_VERSION));
        counts.started.add(1);
        counts.received.add(1);
        Begun {
            counts,
            started,
            deadline: call.deadline,
            code: Some(Code::Cancelled),
            task: Task::Other,
        }
    }

    /// Counts that it ended with this reply.
    fn end(&self, begun: &mut Begun, call: &Call, message: &Bytes, reply: Reply) -> Reply {
        begun.code = None;
        let here = self.core.shared.metrics.calls.here();
        count_end(here, call.method, message.len(), &reply);
        let Some(started) = begun.started else {
            return reply;
        };
        let took = started.elapsed();
        begun.counts.took(took, reply.is_ok());
        let limit = self.core.shared.live.warning_unary_request_duration();
        // Who asks for a lock means to wait.
        if took > limit && !is_recipe(call.method) {
            self.core.shared.metrics.server.slow_requests.add(1);
            self.slow.tell(call, message, &reply, took, limit);
        }
        reply
    }

    async fn dispatch(&self, call: &Call, message: Bytes) -> Reply {
        self.gate(call, &message)?;
        let core = &self.core;
        if is_recipe(call.method) {
            return Box::pin(self.recipe(call, message)).await;
        }
        let asker = &match call.method {
            // Asked by those who have no token yet, or a stale one.
            Method::Authenticate | Method::AuthStatus | Method::HealthCheck => Asker::default(),
            _ => match auth::nobody(core) {
                Some(nobody) => nobody,
                None => Box::pin(auth::identify(core, call)).await?,
            },
        };
        auth::check_method(core, asker, call.method)?;
        match call.method {
            Method::Put => kv::put(core, asker, message).await,
            // What is cached was answered at once; this one asks a reader thread.
            Method::Range => Box::pin(kv::range(core, asker, message)).await,
            Method::Txn => Box::pin(kv::txn(core, asker, message)).await,
            _ => Box::pin(self.dispatch_rare(call, asker, message)).await,
        }
    }

    /// The other methods. Apart, and boxed, because every waiting call takes as much memory as the largest that its future
    /// could become, and that memory is touched anew with each call.
    async fn dispatch_rare(&self, call: &Call, asker: &Asker, message: Bytes) -> Reply {
        let core = &self.core;
        match call.method {
            Method::DeleteRange => kv::delete_range(core, asker, message).await,
            Method::Compact => kv::compact(core, asker, message).await,
            Method::LeaseGrant => lease::grant(core, asker, message).await,
            Method::LeaseRevoke => lease::revoke(core, asker, message).await,
            Method::LeaseTimeToLive => lease::time_to_live(core, asker, message).await,
            Method::LeaseLeases => lease::leases(core, asker).await,
            Method::MemberList => cluster::member_list(core, message).await,
            Method::MemberAdd => cluster::member_add(core, message).await,
            Method::MemberRemove => cluster::member_remove(core, message).await,
            Method::MemberUpdate => cluster::member_update(core, message).await,
            Method::MemberPromote => cluster::member_promote(core, message).await,
            Method::Alarm => maintenance::alarm(core, asker, message).await,
            Method::Status => maintenance::status(core),
            Method::Defragment => maintenance::defragment(core, &self.persisters).await,
            Method::Hash => maintenance::hash(core).await,
            Method::HashKV => maintenance::hash_kv(core, message).await,
            Method::MoveLeader => maintenance::move_leader(core, message).await,
            Method::Downgrade => maintenance::downgrade(core, message),
            Method::HealthCheck => health::check(message),
            other => auth::serve(core, asker, other, message).await,
        }
    }

    /// Lock and Election: calls on the caller's behalf, each checked as the caller's own.
    async fn recipe(&self, call: &Call, message: Bytes) -> Reply {
        let caller = &Caller {
            core: &self.core,
            call,
        };
        let reply = match call.method {
            Method::Lock => lock::lock(caller, &self.waiting, message).await,
            Method::Unlock => lock::unlock(caller, message).await,
            Method::Campaign => election::campaign(caller, &self.waiting, message).await,
            Method::Proclaim => election::proclaim(caller, message).await,
            Method::Leader => election::leader(caller, message).await,
            Method::Resign => election::resign(caller, message).await,
            other => Err(not_served(other)),
        };
        reply.map_err(disguise)
    }

    async fn dispatch_stream(
        &self,
        call: &Call,
        requests: RequestStream,
        responses: &mut ResponseSink,
    ) -> Result<(), Status> {
        self.gate(call, &Bytes::new())?;
        let core = &self.core;
        let _place = self.streams.enter(core, call)?;
        match call.method {
            // Each watcher, each renewal is checked by itself: a bad token refuses it, not the stream.
            Method::Watch => return watch::serve(core, call, requests, responses).await,
            Method::LeaseKeepAlive => {
                return lease::keep_alive(core, call, requests, responses).await;
            }
            Method::HealthWatch => return health::watch(requests, responses).await,
            // Errors in the words of the service; who calls is found out at each step.
            Method::Observe => {
                let caller = Caller { core, call };
                return election::observe(&caller, requests, responses).await;
            }
            _ => {}
        }
        let asker = &auth::identify(core, call).await?;
        auth::check_method(core, asker, call.method)?;
        match call.method {
            Method::RangeStream => kv::range_stream(core, asker, requests, responses).await,
            Method::Snapshot => snapshot::serve(core, responses).await,
            other => Err(not_served(other)),
        }
    }
}

/// A service that this release does not have answers as any gRPC server does that never heard of it, so that a client
/// falls back the way it would with an older server.
fn not_served(method: Method) -> Status {
    let text = format!(
        "unknown method {} for service {}",
        method.name(),
        method.service()
    );
    Status::new(Code::Unimplemented, text)
}

/// Whether the RPC is made of KV calls on the caller's behalf.
fn is_recipe(method: Method) -> bool {
    matches!(
        method,
        Method::Lock
            | Method::Unlock
            | Method::Campaign
            | Method::Proclaim
            | Method::Leader
            | Method::Resign
    )
}

/// Whether the RPC lets a client see or change keys.
fn shows_data(method: Method) -> bool {
    matches!(
        method,
        Method::Range
            | Method::RangeStream
            | Method::Put
            | Method::DeleteRange
            | Method::Txn
            | Method::Compact
            | Method::Watch
            | Method::Snapshot
            | Method::Observe
    ) || is_recipe(method)
}

fn requires_leader(call: &Call) -> bool {
    call.get("hasleader") == Some(b"true")
}

impl Service for NodeService {
    type Begun = Begun;

    fn at_once(&self, call: &Call, message: &Bytes) -> Glance<Begun> {
        let plain = matches!(call.method, Method::Range | Method::Put | Method::Txn);
        if !plain || self.gate(call, message).is_err() {
            return Glance::Long;
        }
        // Where it matters who asks, the long way finds out.
        let Some(nobody) = auth::nobody(&self.core) else {
            return Glance::Long;
        };
        if call.method != Method::Range {
            let started = Instant::now();
            return match kv::begin_write(&self.core, &nobody, call.method, message) {
                Some(proposal) => {
                    let mut begun = self.begin_at(call, Some(started));
                    begun.task = Task::Write(proposal);
                    Glance::Pending(begun)
                }
                None => Glance::Long,
            };
        }
        let Some(get) = kv::plain_get(message) else {
            return Glance::Long;
        };
        let mut wanted = Wanted {
            hash: self.core.hash(&get.key),
            key: get.key,
            place: None,
        };
        if get.serializable || self.core.is_current() {
            let counts = self.core.shared.metrics.calls.here().method(call.method);
            let mut begun = self.begin_at(call, counts.is_timed().then(Instant::now));
            begun.task = Task::Get(wanted);
            return Glance::Ready(begun);
        }
        wanted.place = self.core.place(wanted.hash);
        if wanted.place.is_none() {
            // It has to ask a reader thread, too, and need not wait for the others.
            return Glance::Long;
        }
        let mut begun = self.begin(call);
        begun.task = Task::Get(wanted);
        Glance::Confirm(begun)
    }

    fn warm<'a>(&self, begun: impl Iterator<Item = &'a mut Begun>) {
        let wanted = begun.filter_map(|begun| match &mut begun.task {
            Task::Get(wanted) => Some(wanted),
            _ => None,
        });
        self.core.warm(wanted);
    }

    fn poll_begun(
        &self,
        call: &Call,
        message: &Bytes,
        begun: &mut Begun,
        cx: &mut Context<'_>,
    ) -> Poll<Reply> {
        let result = match &mut begun.task {
            Task::Write(Ok(proposal)) => std::task::ready!(Pin::new(proposal).poll(cx)),
            Task::Write(Err(status)) => Err(status.clone()),
            Task::Get(_) | Task::Other => return Poll::Pending,
        };
        let reply = result.and_then(|response| kv::written(&self.core, response));
        Poll::Ready(self.end(begun, call, message, reply))
    }

    async fn confirm(self: Rc<Self>) -> Result<(), Status> {
        self.core.linearize().await
    }

    fn confirmed(
        self: Rc<Self>,
        call: Call,
        message: Bytes,
        mut begun: Begun,
        result: &Result<(), Status>,
    ) -> Confirmed {
        let reply = match result {
            Err(status) => Some(Err(status.clone())),
            // Meanwhile it may have begun to matter who asks, and the key may have left the cache.
            Ok(()) if self.core.with_view(|view| view.auth().is_enabled()) => None,
            Ok(()) => match &begun.task {
                Task::Get(Wanted {
                    key,
                    place: Some(place),
                    ..
                }) => kv::cached_get_at(&self.core, *place, key),
                _ => None,
            },
        };
        match reply {
            Some(reply) => Confirmed::Answer(self.end(&mut begun, &call, &message, reply)),
            None => Confirmed::Long(Box::pin(async move {
                let reply = self.dispatch(&call, message.clone()).await;
                self.end(&mut begun, &call, &message, reply)
            })),
        }
    }

    #[expect(
        clippy::manual_async_fn,
        reason = "an `async fn` holds its arguments twice"
    )]
    fn unary(self: Rc<Self>, call: Call, message: Bytes) -> impl Future<Output = Reply> {
        async move {
            let mut begun = self.begin(&call);
            let reply = self.dispatch(&call, message.clone()).await;
            self.end(&mut begun, &call, &message, reply)
        }
    }

    async fn stream(
        self: Rc<Self>,
        call: Call,
        requests: RequestStream,
        mut responses: ResponseSink,
    ) -> Result<(), Status> {
        let here = self.core.shared.metrics.calls.here();
        let counts = here.method(call.method);
        here.client(call.method, call.get(CLIENT_VERSION));
        counts.started.add(1);
        // A client that leaves drops this future: counted as cancelled, as grpc-go's interceptors do.
        let mut begun = Begun {
            counts,
            started: Some(Instant::now()),
            deadline: call.deadline,
            code: Some(Code::Cancelled),
            task: Task::Other,
        };
        let result = self.dispatch_stream(&call, requests, &mut responses).await;
        let code = result
            .as_ref()
            .map_or_else(|status| status.code, |()| Code::Ok);
        begun.code = Some(code);
        drop(begun);
        result
    }

    fn turned_away(&self, why: TurnedAway) {
        let limit = match why {
            TurnedAway::Pings => Limit::Pings,
            TurnedAway::Silent => Limit::Keepalive,
            TurnedAway::SlowStart => Limit::SlowStart,
            TurnedAway::Protocol => Limit::Protocol,
            TurnedAway::MessageBytes => Limit::RequestBytes,
            TurnedAway::PartialBytes => Limit::PartialBytes,
            TurnedAway::OpenCalls => Limit::OpenCalls,
            TurnedAway::Streams => Limit::ConcurrentStreams,
            TurnedAway::HeaderList => Limit::HeaderList,
            TurnedAway::SlowBody => Limit::SlowBody,
            TurnedAway::SlowHandshake => Limit::SlowHandshake,
        };
        self.core.shared.metrics.limits.refused(limit);
    }

    async fn http(self: Rc<Self>, request: HttpRequest) -> HttpResponse {
        if request.peer.role == Role::Admin {
            return crate::admin::answer(&self.core, request).await;
        }
        if !request.peer.role.serves_metrics() {
            let text = "this port serves gRPC only; HTTP is on --listen-client-http-urls\n";
            return ResponseBody::text(StatusCode::NOT_FOUND, text);
        }
        gateway::answer(self, request).await
    }
}

fn count_end(here: &CoreCalls, method: Method, received_bytes: usize, reply: &Reply) {
    let counts = here.method(method);
    here.received_bytes.add(received_bytes as u64);
    match reply {
        Ok(frame) => {
            here.sent_bytes.add(frame.len() as u64);
            counts.sent.add(1);
            counts.handled(Code::Ok);
        }
        Err(status) => counts.handled(status.code),
    }
}

/// A call under way: counts its end, whichever way it ends.
pub struct Begun {
    counts: &'static MethodCounts,
    /// `None`: nobody asks how long it takes.
    started: Option<Instant>,
    deadline: Option<Instant>,
    /// `None`: counted elsewhere.
    code: Option<Code>,
    task: Task,
}

/// What a call that has begun is about, where the connection asks for its end.
enum Task {
    Get(Wanted),
    /// On its way to the log, or refused.
    Write(Result<Proposal, Status>),
    Other,
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(mut code) = self.code {
            let late = self.deadline.is_some_and(|at| Instant::now() >= at);
            if code == Code::Cancelled && late {
                code = Code::DeadlineExceeded;
            }
            self.counts.handled(code);
            if let Some(started) = self.started {
                self.counts.took(started.elapsed(), code == Code::Ok);
            }
        }
    }
}
