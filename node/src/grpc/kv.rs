//! The KV service.

use std::rc::Rc;

use bytes::Bytes;
use kvnode_api::encode::{self, KeyValueRef};
use kvnode_api::service::Method;
use kvnode_api::status::{Code, Status};
use kvnode_api::{
    AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest, KeyValue, PutRequest,
    RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, alarm_request::AlarmAction,
    check, frame,
};
use kvnode_store::Response;
use kvnode_store::command::Kind;
use kvnode_store::quota;
use prost::Message as _;

use super::auth::permit;
use crate::auth::Asker;
use crate::cache::{Cached, Place};
use crate::cores::View;
use crate::cores::client::{ClientCore, Proposal};
use crate::http::{Reply, RequestStream, ResponseSink};
use crate::metrics::Limit;
use crate::ranges;

/// The request, if it is a get of one key's newest version and nothing else.
pub fn plain_get(message: &Bytes) -> Option<RangeRequest> {
    let request = RangeRequest::decode(message.clone()).ok()?;
    is_plain_get(&request).then_some(request)
}

/// A get of one key's newest version and nothing else.
fn is_plain_get(request: &RangeRequest) -> bool {
    !request.key.is_empty()
        && request.range_end.is_empty()
        && request.revision <= 0
        && !request.keys_only
        && !request.count_only
        && request.min_mod_revision == 0
        && request.max_mod_revision == 0
        && request.min_create_revision == 0
        && request.max_create_revision == 0
        && check::range(request).is_ok()
}

/// The answer to a plain get from the cache, as of this core's view.
pub fn cached_get(core: &ClientCore, key: &[u8]) -> Option<Reply> {
    core.cached(key, |cached| found(core, cached))
}

/// The same where the cache probably has the key at `place`.
pub fn cached_get_at(core: &ClientCore, place: Place, key: &[u8]) -> Option<Reply> {
    core.cached_at(place, key, |cached| found(core, cached))
}

fn found(core: &ClientCore, cached: &Cached) -> Reply {
    core.shared.metrics.store.ranges.add(1);
    let kv = KeyValueRef {
        key: cached.key(),
        create_revision: cached.create_revision,
        mod_revision: cached.mod_revision,
        version: cached.version,
        value: cached.value(),
        lease: cached.lease,
    };
    let header = core.header(core.revision());
    core.encode(|buffer| encode::single_range(&header, Some(kv), false, 1, buffer))
}

pub async fn range(core: &Rc<ClientCore>, asker: &Asker, message: Bytes) -> Reply {
    let request: RangeRequest = frame::decode(message)?;
    check::range(&request)?;
    if !request.serializable {
        core.linearize().await?;
    }
    core.with_view(|view| permit(view, asker, |gate| gate.range(&request)))?;
    core.shared.metrics.store.ranges.add(1);
    if is_plain_get(&request) {
        return get(core, request.key).await;
    }
    if !request.count_only {
        ranges::admit(core).await?;
    }
    let view = core.view();
    let header = core.header(0);
    let frame = core
        .on_reader(move || view.range_frame(&request, &header))
        .await??;
    ranges::answered(core, frame)
}

async fn get(core: &Rc<ClientCore>, key: Bytes) -> Reply {
    if let Some(reply) = cached_get(core, &key) {
        return reply;
    }
    let view = core.view();
    let revision = view.revision();
    core.expect(&key);
    let found: Option<KeyValue> = core.on_reader(move || view.get(&key)).await??;
    if let Some(kv) = &found {
        core.fill(kv, revision);
    }
    let header = core.header(revision);
    let count = i64::from(found.is_some());
    core.encode(|buffer| {
        encode::single_range(
            &header,
            found.as_ref().map(KeyValueRef::from),
            false,
            count,
            buffer,
        )
    })
}

pub async fn put(core: &Rc<ClientCore>, asker: &Asker, message: Bytes) -> Reply {
    let request: PutRequest = frame::decode(message.clone())?;
    check_quota(core, quota::put_cost(&request)).await?;
    check::put(&request)?;
    written(core, core.propose_as(asker, Kind::Put, &message).await?)
}

/// Proposes a put or a transaction that writes, if there is nothing to wait for before that and nothing wrong with it;
/// `None` leaves it to [`put`] and [`txn`].
pub fn begin_write(
    core: &ClientCore,
    asker: &Asker,
    method: Method,
    message: &Bytes,
) -> Option<Result<Proposal, Status>> {
    let kind = match method {
        Method::Put => {
            let request = PutRequest::decode(message.clone()).ok()?;
            let plain =
                is_admitted(core, quota::put_cost(&request)) && check::put(&request).is_ok();
            plain.then_some(Kind::Put)?
        }
        Method::Txn => {
            let request = TxnRequest::decode(message.clone()).ok()?;
            let plain = is_admitted(core, quota::txn_cost(&request))
                && check::txn(&request, core.shared.config.limits.txn_ops_max).is_ok()
                && !check::txn_is_read_only(&request);
            plain.then_some(Kind::Txn)?
        }
        _ => return None,
    };
    if kind == Kind::Txn {
        core.shared.metrics.store.txns.add(1);
    }
    Some(core.begin_proposal(asker, kind, message))
}

/// The answer to a put or a transaction that was applied.
pub fn written(core: &ClientCore, response: Response) -> Reply {
    match response {
        Response::Put(response) => {
            let header = core.header(revision_of(&response.header));
            core.encode(|buffer| {
                encode::put(
                    &header,
                    response.prev_kv.as_ref().map(KeyValueRef::from),
                    buffer,
                )
            })
        }
        Response::Txn(mut response) => {
            response.header = Some(core.header(revision_of(&response.header)));
            core.encode(|buffer| frame::encode_into(&response, buffer))
        }
        _ => Err(wrong_result()),
    }
}

pub async fn delete_range(core: &Rc<ClientCore>, asker: &Asker, message: Bytes) -> Reply {
    let request: DeleteRangeRequest = frame::decode(message.clone())?;
    check::delete_range(&request)?;
    match core.propose_as(asker, Kind::DeleteRange, &message).await? {
        Response::DeleteRange(mut response) => {
            response.header = Some(core.header(revision_of(&response.header)));
            core.encode(|buffer| frame::encode_into(&response, buffer))
        }
        _ => Err(wrong_result()),
    }
}

pub async fn txn(core: &Rc<ClientCore>, asker: &Asker, message: Bytes) -> Reply {
    let request: TxnRequest = frame::decode(message.clone())?;
    check_quota(core, quota::txn_cost(&request)).await?;
    check::txn(&request, core.shared.config.limits.txn_ops_max).inspect_err(|status| {
        if *status == Status::too_many_ops() {
            core.refused(Limit::TxnOps);
        }
    })?;
    core.shared.metrics.store.txns.add(1);
    if check::txn_is_read_only(&request) {
        if !check::txn_is_serializable(&request) {
            core.linearize().await?;
        }
        let view = core.view();
        if !is_empty(&request) {
            permit(&view, asker, |gate| {
                // Nothing in it hangs keys on leases.
                gate.txn::<Status>(&request, &mut |_| Ok(Vec::new()))
            })?;
        }
        let header = core.header(0);
        return core
            .on_reader(move || {
                let mut response = view.read_txn(&request)?;
                let revision = revision_of(&response.header);
                response.header = Some(kvnode_api::ResponseHeader { revision, ..header });
                frame::encode(&response)
            })
            .await?;
    }
    written(core, core.propose_as(asker, Kind::Txn, &message).await?)
}

/// A transaction that asks and does nothing needs no right.
fn is_empty(request: &TxnRequest) -> bool {
    request.compare.is_empty() && request.success.is_empty() && request.failure.is_empty()
}

pub async fn compact(core: &Rc<ClientCore>, asker: &Asker, message: Bytes) -> Reply {
    let request: CompactionRequest = frame::decode(message.clone())?;
    check::compaction(&request)?;
    match core.propose_as(asker, Kind::Compaction, &message).await? {
        Response::Compaction(mut response) => {
            if request.physical {
                wait_for_physical_compaction(core, request.revision).await?;
            }
            response.header = Some(core.header(core.revision()));
            core.encode(|buffer| frame::encode_into(&response, buffer))
        }
        _ => Err(wrong_result()),
    }
}

/// `physical`: the answer waits until this member has removed the history.
async fn wait_for_physical_compaction(core: &Rc<ClientCore>, revision: i64) -> Result<(), Status> {
    let started_ms = core.shared.now_ms();
    while core
        .shared
        .vitals
        .compacted
        .load(std::sync::atomic::Ordering::Acquire)
        < revision
    {
        if core.shared.now_ms() - started_ms > core.shared.request_timeout_ms() {
            return Err(Status::timed_out());
        }
        crate::rt::sleep(std::time::Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Rows of the first slice of a stream, as etcd's.
const FIRST_SLICE_ROWS: usize = 10;

pub async fn range_stream(
    core: &Rc<ClientCore>,
    asker: &Asker,
    mut requests: RequestStream,
    responses: &mut ResponseSink,
) -> Result<(), Status> {
    let message = requests.next().await?.ok_or_else(Status::missing_message)?;
    core.shared
        .metrics
        .method(Method::RangeStream)
        .received
        .add(1);
    let request: RangeRequest = frame::decode(message)?;
    check::range_stream(&request)?;
    if !request.serializable {
        core.linearize().await?;
    }
    core.with_view(|view| permit(view, asker, |gate| gate.range(&request)))?;
    core.shared.metrics.store.ranges.add(1);
    let mut slices = Slices::begin(core, request);
    let target_bytes = core.shared.config.limits.request_bytes_max;
    let mut rows = FIRST_SLICE_ROWS;
    loop {
        let slice = slices.next(core, rows).await?;
        let bytes = slice.encoded_len();
        let last = slice.header.is_some();
        // The next slice doubles when this one was less than half full, and halves when it was more than double.
        if bytes * 2 < target_bytes {
            rows = rows.saturating_mul(2);
        } else if bytes > target_bytes * 2 {
            rows = (rows / 2).max(1);
        }
        let frame = frame::encode(&RangeStreamResponse {
            range_response: Some(slice),
        })?;
        core.shared.metrics.method(Method::RangeStream).sent.add(1);
        let here = core.shared.metrics.calls.here();
        here.sent_bytes.add(frame.len() as u64);
        if responses.send(frame).await.is_err() || last {
            return Ok(());
        }
    }
}

/// A range read in slices at one fixed view.
struct Slices {
    request: RangeRequest,
    view: View,
    /// Where the next slice begins.
    from: Bytes,
    sent: i64,
}

impl Slices {
    fn begin(core: &ClientCore, request: RangeRequest) -> Self {
        let view = core.view();
        let from = request.key.clone();
        Slices {
            request,
            view,
            from,
            sent: 0,
        }
    }

    /// The next slice; the last one carries header, more and count.
    async fn next(&mut self, core: &Rc<ClientCore>, rows: usize) -> Result<RangeResponse, Status> {
        let view = self.view.clone();
        // A compaction during the stream ends it, although the view could still read on: a client may not be served
        // from a past that everybody else has been told is gone.
        let pinned = if self.request.revision > 0 {
            self.request.revision
        } else {
            view.revision()
        };
        if core.with_view(|newest| newest.compact_revision()) > pinned {
            return Err(Status::compacted());
        }
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        let left = if self.request.limit > 0 {
            self.request.limit - self.sent
        } else {
            i64::MAX
        };
        let mut ask = self.request.clone();
        ask.key = self.from.clone();
        ask.limit = if self.request.count_only {
            0
        } else {
            rows.min(left)
        };
        let single = self.request.range_end.is_empty();
        let mut response = core.on_reader(move || view.range(&ask)).await??;
        let got = i64::try_from(response.kvs.len()).unwrap_or(i64::MAX);
        self.sent += got;
        let limited = self.request.limit > 0 && self.sent >= self.request.limit;
        let more = response.more;
        if more && !limited && !single {
            if let Some(last) = response.kvs.last() {
                let mut next = Vec::with_capacity(last.key.len() + 1);
                next.extend_from_slice(&last.key);
                next.push(0);
                self.from = next.into();
            }
            response.header = None;
            response.more = false;
            response.count = 0;
        } else {
            // `count` of this slice is its own rows plus what lies behind them.
            response.count += self.sent - got;
            response.header = Some(core.header(pinned));
        }
        Ok(response)
    }
}

/// Whether quota and disk have room for a write of this cost.
fn is_admitted(core: &ClientCore, cost: u64) -> bool {
    let low = &core.shared.vitals.disk_low;
    let has_room = cost == 0 || !low.load(std::sync::atomic::Ordering::Relaxed);
    has_room && !core.with_view(|view| view.quota_exceeded(cost))
}

/// Refuses what would go over the quota, and raises this member's alarm if it is not on yet.
async fn check_quota(core: &Rc<ClientCore>, cost: u64) -> Result<(), Status> {
    if cost > 0
        && core
            .shared
            .vitals
            .disk_low
            .load(std::sync::atomic::Ordering::Relaxed)
    {
        core.refused(Limit::FreeBytes);
        return Err(Status::no_space());
    }
    if !core.with_view(|view| view.quota_exceeded(cost)) {
        return Ok(());
    }
    Box::pin(refuse_for_quota(core)).await
}

async fn refuse_for_quota(core: &Rc<ClientCore>) -> Result<(), Status> {
    core.refused(Limit::Quota);
    let member_id = core.shared.member_id;
    let raised = core.with_view(|view| {
        view.alarms()
            .list(AlarmType::Nospace as i32)
            .iter()
            .any(|alarm| alarm.member_id == member_id)
    });
    if !raised {
        log::warn!(
            "the quota of {} bytes is reached: raising NOSPACE; compact, then disarm the alarm",
            core.shared.live.quota_bytes().unwrap_or(0)
        );
        let alarm = AlarmRequest {
            action: AlarmAction::Activate as i32,
            member_id,
            alarm: AlarmType::Nospace as i32,
        };
        core.propose(Kind::Alarm, &alarm.encode_to_vec()).await?;
    }
    Err(Status::no_space())
}

/// Also asked by LeaseGrant.
pub async fn check_lease_quota(core: &Rc<ClientCore>) -> Result<(), Status> {
    check_quota(core, quota::LEASE_GRANT_COST).await
}

pub fn revision_of(header: &Option<kvnode_api::ResponseHeader>) -> i64 {
    header.as_ref().map_or(0, |header| header.revision)
}

/// The store answered a command with another command's result: a bug, told as what it is.
pub fn wrong_result() -> Status {
    Status::new(
        Code::Internal,
        "kvnode: the store answered with another kind of result",
    )
}
