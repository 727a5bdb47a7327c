//! The Maintenance service, all but Snapshot.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use kvnode_api::status::Status;
use kvnode_api::{
    AlarmRequest, AlarmResponse, AlarmType, DefragmentResponse, DowngradeInfo, DowngradeRequest,
    DowngradeResponse, HashKVRequest, HashKVResponse, HashResponse, MoveLeaderRequest,
    MoveLeaderResponse, StatusResponse, alarm_request::AlarmAction, check,
    downgrade_request::DowngradeAction, frame,
};
use kvnode_store::Response;
use kvnode_store::command::Kind;
use kvnode_store::engine::Persister as _;

use super::kv::wrong_result;
use crate::auth::Asker;
use crate::cores::client::ClientCore;
use crate::http::Reply;
use crate::shared::{API_VERSION, CLUSTER_VERSION_SHORT, STORAGE_VERSION};
use crate::snapshots::{PersisterSlot, give_way};

pub async fn alarm(core: &Rc<ClientCore>, asker: &Asker, message: Bytes) -> Reply {
    let request: AlarmRequest = frame::decode(message.clone())?;
    check::alarm(&request)?;
    let alarms = if request.action == AlarmAction::Get as i32 {
        core.linearize().await?;
        core.with_view(|view| view.alarms().list(request.alarm))
    } else {
        match core.propose_as(asker, Kind::Alarm, &message).await? {
            Response::Alarm(response) => response.alarms,
            _ => return Err(wrong_result()),
        }
    };
    let response = AlarmResponse {
        header: Some(core.header(core.revision())),
        alarms,
    };
    core.encode(|buffer| frame::encode_into(&response, buffer))
}

pub fn status(core: &Rc<ClientCore>) -> Reply {
    let vitals = &core.shared.vitals;
    let leader = vitals.leader.load(Ordering::Relaxed);
    let mut errors = Vec::new();
    if leader == 0 {
        errors.push("etcdserver: no leader".to_string());
    }
    let (alarms, in_use) = core.with_view(|view| {
        (
            view.alarms().list(AlarmType::None as i32),
            view.live_bytes(),
        )
    });
    errors.extend(alarms.iter().map(|alarm| {
        let name = crate::health::alarm_name(alarm.alarm);
        format!("memberID:{} alarm:{name} ", alarm.member_id)
    }));
    let db_size_in_use = i64::try_from(in_use).unwrap_or(i64::MAX);
    let response = StatusResponse {
        header: Some(core.header(core.revision())),
        version: API_VERSION.into(),
        // Files may be younger than the last sample, and the store's own estimate counts what is not flushed yet.
        db_size: vitals.db_bytes.load(Ordering::Relaxed).max(db_size_in_use),
        leader,
        raft_index: vitals.committed.load(Ordering::Relaxed),
        raft_term: vitals.term.load(Ordering::Relaxed),
        raft_applied_index: core.with_view(|view| view.applied_index()),
        errors,
        db_size_in_use,
        is_learner: vitals.is_learner.load(Ordering::Relaxed),
        storage_version: STORAGE_VERSION.into(),
        db_size_quota: core
            .shared
            .live
            .quota_bytes()
            .map_or(0, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        downgrade_info: Some(DowngradeInfo::default()),
    };
    core.encode(|buffer| frame::encode_into(&response, buffer))
}

/// Rewrites the store's tables in the background; readers and writers go on. Answers when it is done.
pub async fn defragment(core: &Rc<ClientCore>, persisters: &PersisterSlot) -> Reply {
    let persister = persisters.get();
    let started = Instant::now();
    let _inflight = Inflight::new(core);
    let rewrite = move || {
        // The thread keeps that for all it does later: nothing there is urgent.
        give_way();
        persister.compact_state()
    };
    core.in_background(rewrite).await?.map_err(|error| {
        Status::new(
            kvnode_api::Code::Internal,
            format!("kvnode: defragmentation failed: {error}"),
        )
    })?;
    core.shared
        .metrics
        .disk
        .defrag_seconds
        .observe(started.elapsed());
    frame::encode(&DefragmentResponse { header: None })
}

/// One defragmentation under way, until dropped.
struct Inflight(Rc<ClientCore>);

impl Inflight {
    fn new(core: &Rc<ClientCore>) -> Inflight {
        core.shared.metrics.disk.defrags_inflight.add(1);
        Inflight(Rc::clone(core))
    }
}

impl Drop for Inflight {
    fn drop(&mut self) {
        self.0.shared.metrics.disk.defrags_inflight.add(-1);
    }
}

pub async fn hash(core: &Rc<ClientCore>) -> Reply {
    let view = core.view();
    let revision = view.revision();
    let started = Instant::now();
    let hashed = core.on_reader(move || view.hash()).await??;
    core.shared
        .metrics
        .store
        .hash_seconds
        .observe(started.elapsed());
    frame::encode(&HashResponse {
        header: Some(core.header(revision)),
        hash: hashed.hash,
    })
}

pub async fn hash_kv(core: &Rc<ClientCore>, message: Bytes) -> Reply {
    let request: HashKVRequest = frame::decode(message)?;
    let view = core.view();
    let current = view.revision();
    let started = Instant::now();
    let hashed = core
        .on_reader(move || view.hash_kv(request.revision))
        .await??;
    let seconds = &core.shared.metrics.store.hash_rev_seconds;
    seconds.observe(started.elapsed());
    frame::encode(&HashKVResponse {
        header: Some(core.header(current)),
        hash: hashed.hash,
        compact_revision: hashed.compact_revision,
        hash_revision: hashed.hash_revision,
    })
}

/// Answers when the other member leads.
pub async fn move_leader(core: &Rc<ClientCore>, message: Bytes) -> Reply {
    let request: MoveLeaderRequest = frame::decode(message)?;
    let vitals = &core.shared.vitals;
    if !vitals.is_leader.load(Ordering::Relaxed) {
        return Err(Status::not_leader());
    }
    core.transfer_leader(request.target_id).await?;
    let give_up_ms = core.shared.now_ms() + core.shared.request_timeout_ms();
    while vitals.leader.load(Ordering::Relaxed) != request.target_id {
        if core.shared.now_ms() >= give_up_ms {
            return Err(Status::timed_out_leader_transfer());
        }
        crate::rt::sleep(core.shared.config.heartbeat_interval / 4).await;
    }
    frame::encode(&MoveLeaderResponse { header: None })
}

/// There is no older format to go down to: everything that is asked for properly is answered as a cluster whose
/// target does not exist answers.
pub fn downgrade(core: &Rc<ClientCore>, message: Bytes) -> Reply {
    let request: DowngradeRequest = frame::decode(message)?;
    match DowngradeAction::try_from(request.action) {
        Ok(DowngradeAction::Validate | DowngradeAction::Enable) => {
            let (major, minor) = parse_version(&request.version)?;
            if (major, minor) != (3, 5) {
                return Err(Status::downgrade_version_invalid());
            }
            let validate_only = request.action == DowngradeAction::Validate as i32;
            if !validate_only {
                return Err(Status::downgrade_version_invalid());
            }
        }
        Ok(DowngradeAction::Cancel) => {}
        Err(_) => return Err(Status::unknown_method()),
    }
    let response = DowngradeResponse {
        header: Some(core.header(core.revision())),
        version: CLUSTER_VERSION_SHORT.into(),
    };
    core.encode(|buffer| frame::encode_into(&response, buffer))
}

/// `x.y` or `x.y.z`.
fn parse_version(text: &str) -> Result<(u32, u32), Status> {
    let parts: Result<Vec<u32>, _> = text.split('.').map(str::parse).collect();
    match parts.as_deref() {
        Ok([major, minor] | [major, minor, _]) => Ok((*major, *minor)),
        _ => Err(Status::downgrade_version_format()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_two_or_three_numbers() {
        assert_eq!(parse_version("3.5"), Ok((3, 5)));
        assert_eq!(parse_version("3.5.9"), Ok((3, 5)));
        for wrong in ["", "3", "3.5.1.2", "v3.5", "3.x"] {
            assert_eq!(
                parse_version(wrong),
                Err(Status::downgrade_version_format()),
                "{wrong}"
            );
        }
    }
}
