//! The Lock service: a queue (see `caller.rs`) whose first has the lock.

use std::rc::Rc;

use bytes::Bytes;
use kvnode_api::status::Status;
use kvnode_api::{
    LockRequest, LockResponse, RangeRequest, ResponseHeader, UnlockRequest, UnlockResponse, frame,
};

use super::caller::{Caller, Place, prefix_of};
use super::places::Places;
use crate::http::Reply;

/// Waits until every older key of the queue is gone. If the caller leaves or anything fails, so does its key.
pub async fn lock(caller: &Caller<'_>, waiting: &Rc<Places>, message: Bytes) -> Reply {
    let request: LockRequest = frame::decode(message)?;
    let _counted = waiting.enter(caller.core, caller.call)?;
    let lease = caller.lease(request.lease).await?;
    let prefix = prefix_of(&request.name);
    let joined = caller.join(&prefix, lease, Bytes::new()).await?;
    let place = joined.place;
    let header = if joined.first {
        joined.header
    } else {
        caller.wait_for_turn(&prefix, place.revision).await?;
        still_there(caller, &place).await?
    };
    let response = LockResponse {
        header: Some(header),
        key: place.key.clone(),
    };
    place.keep();
    caller
        .core
        .encode(|buffer| frame::encode_into(&response, buffer))
}

/// The header of a look that finds the caller's key as it was made.
///
/// # Errors
/// "session is expired": its lease has ended meanwhile, or somebody deleted it.
async fn still_there(caller: &Caller<'_>, place: &Place) -> Result<ResponseHeader, Status> {
    let own = RangeRequest {
        key: place.key.clone(),
        ..Default::default()
    };
    let response = caller.range(own).await?;
    match response.kvs.first() {
        Some(kv) if kv.create_revision == place.revision => Ok(response.header.unwrap_or_default()),
        _ => Err(Status::session_expired()),
    }
}

/// Deletes the key, whoever's it is, and whether it is there or not.
pub async fn unlock(caller: &Caller<'_>, message: Bytes) -> Reply {
    let request: UnlockRequest = frame::decode(message)?;
    let deleted = caller.delete(request.key).await?;
    let response = UnlockResponse {
        header: deleted.header,
    };
    caller
        .core
        .encode(|buffer| frame::encode_into(&response, buffer))
}
