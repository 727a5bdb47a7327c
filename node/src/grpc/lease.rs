//! The Lease service. Grants and revokes go through the log; renewals and remaining times are the leader's memory.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use kvnode_api::status::Status;
use kvnode_api::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesResponse,
    LeaseRevokeRequest, LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, check, frame,
};
use kvnode_store::Response;
use kvnode_store::command::Kind;
use prost::Message as _;

use super::kv::{check_lease_quota, wrong_result};
use crate::cores::client::ClientCore;
use crate::cores::{LeaseAnswer, ReplicaMessage};
use crate::http::{Reply, RequestStream, ResponseSink};
use kvnode_store::lease_clock::Renewal;

pub async fn grant(core: &Rc<ClientCore>, message: Bytes) -> Reply {
    let mut request: LeaseGrantRequest = frame::decode(message)?;
    check_lease_quota(core).await?;
    check::lease_grant(&request)?;
    if request.id == 0 {
        request.id = random_lease_id()?;
    }
    match core
        .propose(Kind::LeaseGrant, &request.encode_to_vec())
        .await?
    {
        Response::LeaseGrant(mut response) => {
            core.shared.metrics.leases_granted.add(1);
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

pub async fn revoke(core: &Rc<ClientCore>, message: Bytes) -> Reply {
    let _: LeaseRevokeRequest = frame::decode(message.clone())?;
    match core.propose(Kind::LeaseRevoke, &message).await? {
        Response::LeaseRevoke(mut response) => {
            core.shared.metrics.leases_revoked.add(1);
            response.header = Some(core.header(core.revision()));
            core.encode(|buffer| frame::encode_into(&response, buffer))
        }
        _ => Err(wrong_result()),
    }
}

pub async fn time_to_live(core: &Rc<ClientCore>, message: Bytes) -> Reply {
    let request: LeaseTimeToLiveRequest = frame::decode(message)?;
    let lease = request.id;
    let LeaseAnswer::Remaining(remaining) = core
        .lease(|ticket| ReplicaMessage::TimeToLive { ticket, lease })
        .await?
    else {
        return Err(Status::no_leader());
    };
    let (view, with_keys) = (core.view(), request.keys);
    let info = core
        .on_reader(move || view.lease(lease, with_keys))
        .await??;
    let mut response = LeaseTimeToLiveResponse {
        header: Some(core.header(core.revision())),
        id: lease,
        ttl: -1,
        ..Default::default()
    };
    if let (Some(remaining), Some(info)) = (remaining, info) {
        // Truncated toward zero: 0 in the last second, below zero while the revoke is on its way.
        response.ttl = remaining.remaining_ms / 1000;
        response.granted_ttl = remaining.granted_ttl_seconds;
        response.keys = info.keys;
    }
    core.encode(|buffer| frame::encode_into(&response, buffer))
}

pub async fn leases(core: &Rc<ClientCore>) -> Reply {
    let view = core.view();
    let leases = core.on_reader(move || view.leases()).await??;
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
    mut requests: RequestStream,
    responses: &mut ResponseSink,
    requires_leader: bool,
) -> Result<(), Status> {
    // At once, not with the first answer: some clients wait for headers before they send.
    if responses.headers().is_err() {
        return Ok(());
    }
    let counts = core
        .shared
        .metrics
        .method(kvnode_api::service::Method::LeaseKeepAlive);
    while let Some(message) = requests.next().await? {
        counts.received.add(1);
        if requires_leader && !core.shared.has_leader() {
            return Err(Status::no_leader());
        }
        let request: LeaseKeepAliveRequest = frame::decode(message)?;
        // The revision from before the renewal: a client may conclude that the lease lived at least until then.
        let header = core.header(core.revision());
        let ttl = renew(core, request.id).await?;
        let response = LeaseKeepAliveResponse {
            header: Some(header),
            id: request.id,
            ttl,
        };
        let frame = core.encode(|buffer| frame::encode_into(&response, buffer))?;
        counts.sent.add(1);
        if responses.send(frame).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The granted TTL, or 0 for a lease that is not there (any more).
async fn renew(core: &Rc<ClientCore>, lease: i64) -> Result<i64, Status> {
    loop {
        match core
            .lease(|ticket| ReplicaMessage::KeepAlive { ticket, lease })
            .await?
        {
            LeaseAnswer::Renewal(Renewal::Renewed(ttl)) => {
                core.shared.metrics.leases_renewed.add(1);
                return Ok(ttl);
            }
            LeaseAnswer::Renewal(Renewal::Unknown) => return Ok(0),
            // Due: the answer has to wait until its keys are gone.
            LeaseAnswer::Renewal(Renewal::Revoking) => core.next_apply().await?,
            _ if core.shared.vitals.stopping.load(Ordering::Relaxed) => {
                return Err(Status::server_stopped());
            }
            _ => return Err(Status::no_leader()),
        }
    }
}
