//! `GET /admin/status`.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use http::StatusCode;
use kvnode_api::AlarmType;
use kvnode_store::datadir;
use serde_json::{Value, json};

use super::{json_answer, refuse};
use crate::cores::client::ClientCore;
use crate::http::HttpResponse;
use crate::shared::Shared;
use crate::version;

pub async fn answer(core: &Rc<ClientCore>) -> HttpResponse {
    let root = core.shared.data_dir.clone();
    // A look at a file: not on an executor.
    let lock = core.on_reader(move || datadir::holder(&root)).await;
    match lock {
        Ok(lock) => json_answer(StatusCode::OK, &status(core, lock)),
        Err(status) => refuse(StatusCode::SERVICE_UNAVAILABLE, &status.message),
    }
}

fn status(
    core: &ClientCore,
    lock: Result<Option<Option<datadir::Holder>>, datadir::Error>,
) -> Value {
    let shared = &core.shared;
    let vitals = &shared.vitals;
    let leader = vitals.leader.load(Relaxed);
    let lock = match lock {
        Ok(Some(Some(holder))) => json!({
            "pid": holder.pid,
            "program": holder.program,
            "version": holder.version,
            "started_unix_seconds": holder.started,
        }),
        Ok(_) => Value::Null,
        Err(error) => json!({ "error": error.to_string() }),
    };
    let store = core.with_view(|view| {
        let alarms: Vec<Value> = view
            .alarms()
            .list(AlarmType::None as i32)
            .iter()
            .map(|alarm| {
                let name = crate::health::alarm_name(alarm.alarm);
                json!({ "member_id": hex(alarm.member_id), "alarm": name })
            })
            .collect();
        json!({
            "revision": view.revision(),
            "compact_revision": view.compact_revision(),
            "keys": view.stats().keys,
            "live_bytes": view.live_bytes(),
            "disk_bytes": vitals.db_bytes.load(Relaxed),
            "quota_bytes": shared.live.quota_bytes(),
            "disk_low": vitals.disk_low.load(Relaxed),
            "ballast_held": shared.reserve.is_held(),
            "alarms": alarms,
        })
    });
    json!({
        "member": {
            "id": hex(shared.member_id),
            "name": shared.config.name,
            "role": role(shared),
            "serving": vitals.serving.load(Relaxed),
        },
        "cluster": {
            "id": hex(shared.cluster_id),
            "leader": (leader != 0).then(|| hex(leader)),
        },
        "raft": {
            "term": vitals.term.load(Relaxed),
            "committed_index": vitals.committed.load(Relaxed),
            "applied_index": vitals.applied.load(Relaxed),
        },
        "store": store,
        "data_dir": shared.data_dir,
        "wal_dir": shared.wal_dir,
        "lock": lock,
        "version": {
            "kvnode": version::KVNODE,
            "api": version::ETCD,
            "commit": version::COMMIT,
        },
        "uptime_seconds": shared.now_ms() / 1000,
        "dropped_log_lines": shared.dropped_log_lines(),
    })
}

pub(super) fn role(shared: &Shared) -> &'static str {
    let vitals = &shared.vitals;
    match (
        vitals.is_leader.load(Relaxed),
        vitals.is_learner.load(Relaxed),
    ) {
        (true, _) => "leader",
        (false, true) => "learner",
        (false, false) => "follower",
    }
}

/// Ids as etcd's tools print them.
pub(super) fn hex(id: u64) -> String {
    format!("{id:x}")
}
