//! The Election service: a queue (see `caller.rs`) whose first leads; the value of its key is what it proclaims.

use std::rc::Rc;

use bytes::Bytes;
use kvnode_api::request_op::Request;
use kvnode_api::service::Method;
use kvnode_api::status::Status;
use kvnode_api::{
    CampaignRequest, CampaignResponse, DeleteRangeRequest, EventType, KeyValue, LeaderKey,
    LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse, PutRequest, RangeRequest,
    ResignRequest, ResignResponse, ResponseHeader, TxnRequest, frame,
    watch_create_request::FilterType,
};

use super::caller::{Caller, created_at, disguise, oldest, op, prefix_end, prefix_of};
use super::places::Places;
use crate::http::{Reply, RequestStream, ResponseSink};

/// Waits until the caller leads. If it leaves or anything fails, its key goes.
pub async fn campaign(caller: &Caller<'_>, waiting: &Rc<Places>, message: Bytes) -> Reply {
    let request: CampaignRequest = frame::decode(message)?;
    let _counted = waiting.enter(caller.core, caller.call)?;
    let lease = caller.lease(request.lease).await?;
    let prefix = prefix_of(&request.name);
    let joined = caller.join(&prefix, lease, request.value.clone()).await?;
    let place = joined.place;
    let leader = LeaderKey {
        name: request.name,
        key: place.key.clone(),
        rev: place.revision,
        lease,
    };
    if joined
        .before
        .is_some_and(|before| before.value != request.value)
    {
        put_value(caller, &leader, lease, request.value).await?;
    }
    if !joined.first {
        caller.wait_for_turn(&prefix, place.revision).await?;
        // etcd does not look again, and elects a candidate whose lease has ended.
        let own = RangeRequest {
            key: place.key.clone(),
            ..Default::default()
        };
        let found = caller.range(own).await?.kvs;
        if found.first().map(|kv| kv.create_revision) != Some(place.revision) {
            return Err(Status::election_not_leader());
        }
    }
    place.keep();
    let response = CampaignResponse {
        header: Some(joined.header),
        leader: Some(leader),
    };
    caller
        .core
        .encode(|buffer| frame::encode_into(&response, buffer))
}

/// Another value for the leader's key, if it still is the one made when it was elected.
pub async fn proclaim(caller: &Caller<'_>, message: Bytes) -> Reply {
    let request: ProclaimRequest = frame::decode(message)?;
    let leader = request.leader.ok_or_else(Status::leader_key_missing)?;
    let lease = caller.lease(leader.lease).await?;
    let header = put_value(caller, &leader, lease, request.value).await?;
    let response = ProclaimResponse {
        header: Some(header),
    };
    caller
        .core
        .encode(|buffer| frame::encode_into(&response, buffer))
}

async fn put_value(
    caller: &Caller<'_>,
    leader: &LeaderKey,
    lease: i64,
    value: Bytes,
) -> Result<ResponseHeader, Status> {
    let put = PutRequest {
        key: leader.key.clone(),
        value,
        lease,
        ..Default::default()
    };
    let request = TxnRequest {
        compare: vec![created_at(&leader.key, leader.rev)],
        success: vec![op(Request::RequestPut(put))],
        failure: Vec::new(),
    };
    let response = caller.txn(request).await?;
    if response.succeeded {
        Ok(response.header.unwrap_or_default())
    } else {
        Err(Status::election_not_leader())
    }
}

/// Who leads now.
pub async fn leader(caller: &Caller<'_>, message: Bytes) -> Reply {
    let request: LeaderRequest = frame::decode(message)?;
    let found = caller.range(oldest(&prefix_of(&request.name))).await?;
    let kv = found.kvs.into_iter().next();
    let response = LeaderResponse {
        header: found.header,
        kv: Some(kv.ok_or_else(Status::election_no_leader)?),
    };
    caller
        .core
        .encode(|buffer| frame::encode_into(&response, buffer))
}

/// Deletes the leader's key if it still is the one made when it was elected; otherwise all is well already.
pub async fn resign(caller: &Caller<'_>, message: Bytes) -> Reply {
    let request: ResignRequest = frame::decode(message)?;
    let leader = request.leader.ok_or_else(Status::leader_key_missing)?;
    let delete = DeleteRangeRequest {
        key: leader.key.clone(),
        ..Default::default()
    };
    let request = TxnRequest {
        compare: vec![created_at(&leader.key, leader.rev)],
        success: vec![op(Request::RequestDeleteRange(delete))],
        failure: Vec::new(),
    };
    let response = ResignResponse {
        header: caller.txn(request).await?.header,
    };
    caller
        .core
        .encode(|buffer| frame::encode_into(&response, buffer))
}

/// The leader now, everything it proclaims, then the next one, until the client leaves.
///
/// # Errors
/// What the caller's own reads and watches are refused with. (etcd ends the stream as if all were well.)
pub async fn observe(
    caller: &Caller<'_>,
    mut requests: RequestStream,
    responses: &mut ResponseSink,
) -> Result<(), Status> {
    let message = requests.next().await?.ok_or_else(Status::missing_message)?;
    let request: LeaderRequest = frame::decode(message)?;
    let prefix = prefix_of(&request.name);
    loop {
        match observe_one(caller, &prefix, responses).await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(status) => return Err(disguise(status)),
        }
    }
}

/// One leader from its beginning, or from now, to its end; `false` if nobody listens any more.
async fn observe_one(
    caller: &Caller<'_>,
    prefix: &[u8],
    responses: &mut ResponseSink,
) -> Result<bool, Status> {
    let found = caller.range(oldest(prefix)).await?;
    let mut header = found.header.unwrap_or_default();
    let kv = match found.kvs.into_iter().next() {
        Some(kv) => kv,
        None => match first_put(caller, prefix, header.revision).await? {
            Some((its_header, kv)) => {
                header = its_header;
                kv
            }
            None => return Ok(true),
        },
    };
    let key = kv.key.clone();
    let revision = header.revision;
    if !send(caller, responses, header, kv).await? {
        return Ok(false);
    }
    let mut events = caller.watch(key, Bytes::new(), revision, None).await?;
    while let Some(response) = events.next().await? {
        for event in response.events {
            let Some(kv) = event.kv else { continue };
            if event.r#type == EventType::Delete as i32 {
                return Ok(true);
            }
            let header = ResponseHeader {
                revision: kv.mod_revision,
                ..response.header.unwrap_or_default()
            };
            if !send(caller, responses, header, kv).await? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The first candidate after `revision`; `None` if a new look is needed.
async fn first_put(
    caller: &Caller<'_>,
    prefix: &[u8],
    revision: i64,
) -> Result<Option<(ResponseHeader, KeyValue)>, Status> {
    let (key, end) = (Bytes::copy_from_slice(prefix), prefix_end(prefix));
    let filter = Some(FilterType::Nodelete);
    let mut events = caller.watch(key, end, revision, filter).await?;
    let Some(response) = events.next().await? else {
        return Ok(None);
    };
    let first = response.events.into_iter().find_map(|event| event.kv);
    Ok(first.map(|kv| {
        let header = ResponseHeader {
            revision: kv.mod_revision,
            ..response.header.unwrap_or_default()
        };
        (header, kv)
    }))
}

async fn send(
    caller: &Caller<'_>,
    responses: &mut ResponseSink,
    header: ResponseHeader,
    kv: KeyValue,
) -> Result<bool, Status> {
    let response = LeaderResponse {
        header: Some(header),
        kv: Some(kv),
    };
    let frame = caller
        .core
        .encode(|buffer| frame::encode_into(&response, buffer))?;
    let counts = caller.core.shared.metrics.method(Method::Observe);
    counts.sent.add(1);
    Ok(responses.send(frame).await.is_ok())
}
