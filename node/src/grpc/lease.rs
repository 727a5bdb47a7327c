//! The Lease service. Grants and revokes go through the log; renewals and remaining times are the leader's memory.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kvnode_api::status::Status;
use kvnode_api::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesResponse,
    LeaseRevokeRequest, LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, check, frame,
};
use kvnode_store::Response;
use kvnode_store::auth::Gate;
use kvnode_store::command::Kind;
use prost::Message as _;

use super::auth::{identify, permit};
use super::kv::{check_lease_quota, wrong_result};
use super::requires_leader;
use crate::auth::Asker;
use crate::cores::LeaseAnswer;
use crate::cores::client::ClientCore;
use crate::http::{Call, Reply, RequestStream, ResponseSink};
use crate::watches::LeaderGuard;
use kvnode_store::lease_clock::Renewal;

/// Pause before a leader is looked for again.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// Bytes of keepalive answers that gather at the most before they are sent.
const ANSWERS_BYTES_MAX: usize = 16 << 10;

pub async fn grant(core: &Rc<ClientCore>, asker: &Asker, message: Bytes) -> Reply {
    let mut request: LeaseGrantRequest = frame::decode(message)?;
    check_lease_quota(core).await?;
    check::lease_grant(&request)?;
    if request.id == 0 {
        request.id = random_lease_id()?;
    }
    match core
        .propose_as(asker, Kind::LeaseGrant, &request.encode_to_vec())
        .await?
    {
        Response::LeaseGrant(mut response) => {
            core.shared.metrics.store.leases_granted.add(1);
            let ttl = u64::try_from(response.ttl).unwrap_or(0);
            core.shared
                .metrics
                .store
                .lease_ttl_seconds
                .observe_count(ttl);
            response.header = Some(core.header(core.revision()));
            core.encode(|buffer| frame::encode_into(&response, buffer))
        }
        _ => Err(wrong_result()),
    }
}

/// A positive random id, as etcd picks them; a collision is refused by the store like any id in use.
fn random_lease_id() -> Result<i64, Status> {
    let random = getrandom::u64()
        .map_err(|_| Status::new(kvnode_api::Code::Internal, "kvnode: no random numbers"))?;
    Ok(i64::try_from(random & (i64::MAX as u64))
        .unwrap_or(1)
        .max(1))
}

pub async fn revoke(core: &Rc<ClientCore>, asker: &Asker, message: Bytes) -> Reply {
    let _: LeaseRevokeRequest = frame::decode(message.clone())?;
    match core.propose_as(asker, Kind::LeaseRevoke, &message).await? {
        Response::LeaseRevoke(mut response) => {
            core.shared.metrics.store.leases_revoked.add(1);
            response.header = Some(core.header(core.revision()));
            core.encode(|buffer| frame::encode_into(&response, buffer))
        }
        _ => Err(wrong_result()),
    }
}

pub async fn time_to_live(core: &Rc<ClientCore>, asker: &Asker, message: Bytes) -> Reply {
    let request: LeaseTimeToLiveRequest = frame::decode(message)?;
    let lease = request.id;
    core.with_view(|view| permit(view, asker, |_| Ok(())))?;
    let remaining = ask(core, lease, false, |answer| match answer {
        LeaseAnswer::Remaining(remaining) => Some(remaining),
        _ => None,
    })
    .await?;
    let mut response = LeaseTimeToLiveResponse {
        id: lease,
        ttl: -1,
        ..Default::default()
    };
    if let Some(remaining) = remaining {
        // Truncated toward zero: 0 in the last second, below zero while the revoke is on its way.
        response.ttl = remaining.remaining_ms / 1000;
        response.granted_ttl = remaining.granted_ttl_seconds;
        if request.keys {
            // The leader knows the lease; so must this member, before it says what hangs on it.
            core.linearize().await?;
            let view = core.view();
            let (reading, info) = (view.clone(), move || view.lease(lease, true));
            let info = core.on_reader(info).await??;
            // What is shown is what is checked.
            let keys = info.map(|info| info.keys).unwrap_or_default();
            permit(&reading, asker, |gate| {
                gate.lease_read(lease, &mut |_| Ok::<_, Status>(keys.clone()))
            })?;
            response.keys = keys;
        }
    }
    response.header = Some(core.header(core.revision()));
    core.encode(|buffer| frame::encode_into(&response, buffer))
}

/// Lets `check` look at the keys that hang on the lease, if auth is on and it matters.
async fn check_keys(
    core: &Rc<ClientCore>,
    asker: &Asker,
    lease: i64,
    check: impl FnOnce(&Gate<'_>, &mut Attached<'_>) -> Result<(), Status>,
) -> Result<(), Status> {
    let view = core.view();
    if !view.auth().is_enabled() || view.auth().gate(asker.identity())?.is_open() {
        return Ok(());
    }
    let reading = view.clone();
    let info = core.on_reader(move || reading.lease(lease, true)).await??;
    let mut keys = |_| Ok(info.as_ref().map_or(Vec::new(), |info| info.keys.clone()));
    permit(&view, asker, |gate| check(gate, &mut keys))
}

/// Finds the keys that hang on a lease.
type Attached<'a> = dyn FnMut(i64) -> Result<Vec<Bytes>, Status> + 'a;

/// Asks the leader's clock until it answers what `wanted` takes. While nobody leads, or the leader is lost with the
/// question, it is asked again, as long as a request may take.
async fn ask<T>(
    core: &Rc<ClientCore>,
    lease: i64,
    renew: bool,
    wanted: impl Fn(LeaseAnswer) -> Option<T>,
) -> Result<T, Status> {
    let give_up_ms = core.shared.now_ms() + core.shared.request_timeout_ms();
    loop {
        if let Some(answer) = wanted(core.lease(lease, renew).await?) {
            return Ok(answer);
        }
        if core.shared.vitals.stopping.load(Ordering::Relaxed) {
            return Err(Status::server_stopped());
        }
        if core.shared.now_ms() >= give_up_ms {
            return Err(Status::no_leader());
        }
        crate::rt::sleep(ASK_AGAIN).await;
    }
}

pub async fn leases(core: &Rc<ClientCore>, asker: &Asker) -> Reply {
    let (view, asker) = (core.view(), asker.clone());
    let leases = core
        .on_reader(move || {
            let leases = view.leases()?;
            permit(&view, &asker, |gate| {
                let mut keys = |id| Ok(view.lease(id, true)?.map_or(Vec::new(), |info| info.keys));
                let mut ids = leases.iter().map(|lease| lease.id);
                ids.try_for_each(|id| gate.lease_read::<Status>(id, &mut keys))
            })?;
            Ok::<_, Status>(leases)
        })
        .await??;
    let response = LeaseLeasesResponse {
        header: Some(core.header(core.revision())),
        leases: leases
            .into_iter()
            .map(|lease| LeaseStatus { id: lease.id })
            .collect(),
    };
    core.encode(|buffer| frame::encode_into(&response, buffer))
}

/// One answer per request, in order. Half-close ends the call with OK once everything is answered.
pub async fn keep_alive(
    core: &Rc<ClientCore>,
    call: &Call,
    mut requests: RequestStream,
    responses: &mut ResponseSink,
) -> Result<(), Status> {
    let requires_leader = requires_leader(call);
    // At once, not with the first answer: some clients wait for headers before they send.
    if responses.headers().is_err() {
        return Ok(());
    }
    let counts = core
        .shared
        .metrics
        .method(kvnode_api::service::Method::LeaseKeepAlive);
    let guard = requires_leader.then(|| LeaderGuard::new(core));
    // Answers to requests that came together leave together.
    let mut answers = BytesMut::new();
    loop {
        let mut next = requests.poll_next(&mut Context::from_waker(Waker::noop()));
        if (next.is_pending() || answers.len() >= ANSWERS_BYTES_MAX)
            && !send(&mut answers, responses).await
        {
            return Ok(());
        }
        let next = poll_fn(|context| {
            if next.is_pending() {
                next = requests.poll_next(context);
            }
            match std::mem::replace(&mut next, Poll::Pending) {
                Poll::Pending if guard.as_ref().is_some_and(|guard| guard.poll_lost(context)) => {
                    Poll::Ready(Err(Status::no_leader()))
                }
                next => next,
            }
        })
        .await;
        let outcome = match next {
            Ok(Some(message)) => {
                counts.received.add(1);
                answer(core, call, message, &mut answers, responses).await
            }
            Ok(None) => Ok(false),
            Err(status) => Err(status),
        };
        match outcome {
            Ok(true) => counts.sent.add(1),
            Ok(false) => {
                send(&mut answers, responses).await;
                return Ok(());
            }
            Err(status) => {
                send(&mut answers, responses).await;
                return Err(status);
            }
        }
    }
}

/// Hands over what has gathered; `false` if nobody listens any more.
async fn send(answers: &mut BytesMut, responses: &mut ResponseSink) -> bool {
    answers.is_empty() || responses.send(answers.split().freeze()).await.is_ok()
}

/// Adds the answer to one request; `false` if nobody listens any more. Before it has to wait for one, it sends those
/// that are there.
async fn answer(
    core: &Rc<ClientCore>,
    call: &Call,
    message: Bytes,
    answers: &mut BytesMut,
    responses: &mut ResponseSink,
) -> Result<bool, Status> {
    if requires_leader(call) && !core.shared.has_leader() {
        return Err(Status::no_leader());
    }
    let request: LeaseKeepAliveRequest = frame::decode(message)?;
    if core.with_view(|view| view.auth().is_enabled()) {
        let asker = identify(core, call).await?;
        check_keys(core, &asker, request.id, |gate, keys| {
            gate.lease_write(request.id, keys)
        })
        .await?;
    }
    // The revision from before the renewal: a client may conclude that the lease lived at least until then.
    let header = core.header(core.revision());
    let ttl = match core.renew_now(request.id) {
        Some(Renewal::Renewed(ttl)) => {
            core.shared.metrics.store.leases_renewed.add(1);
            ttl
        }
        Some(Renewal::Unknown) => 0,
        _ => {
            if !send(answers, responses).await {
                return Ok(false);
            }
            renew(core, request.id).await?
        }
    };
    let response = LeaseKeepAliveResponse {
        header: Some(header),
        id: request.id,
        ttl,
    };
    frame::encode_into(&response, answers)?;
    Ok(true)
}

/// The granted TTL, or 0 for a lease that is not there (any more).
async fn renew(core: &Rc<ClientCore>, lease: i64) -> Result<i64, Status> {
    loop {
        let renewal = ask(core, lease, true, |answer| match answer {
            LeaseAnswer::Renewal(Renewal::NotLeader) => None,
            LeaseAnswer::Renewal(renewal) => Some(renewal),
            _ => None,
        });
        match renewal.await? {
            Renewal::Renewed(ttl) => {
                core.shared.metrics.store.leases_renewed.add(1);
                return Ok(ttl);
            }
            // Due: the answer has to wait until its keys are gone.
            Renewal::Revoking => core.next_apply().await?,
            Renewal::Unknown | Renewal::NotLeader => return Ok(0),
        }
    }
}
