//! `GET /admin/resync`: what a re-sync of this member would be, and how the last one is doing. `POST /admin/resync`: begins one;
//! with `?unfenced` also if nothing is known to be wrong with this member.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use http::StatusCode;
use kvnode_store::datadir::QUARANTINE_DIR;
use serde_json::{Value, json};

use super::json_answer;
use super::status::{hex, role};
use crate::cores::client::ClientCore;
use crate::http::{HttpRequest, HttpResponse};
use crate::integrity::Verdict;
use crate::resync;

const UNFENCED: &str = "unfenced";

fn unfenced(request: &HttpRequest) -> bool {
    request.query() == Some(UNFENCED)
}

pub fn look(core: &ClientCore, request: &HttpRequest) -> HttpResponse {
    json_answer(StatusCode::OK, &told(core, unfenced(request)))
}

pub fn start(core: &Rc<ClientCore>, request: &HttpRequest) -> HttpResponse {
    match resync::start(core, unfenced(request)) {
        Ok(()) => json_answer(StatusCode::ACCEPTED, &told(core, true)),
        Err((why, next)) => {
            json_answer(StatusCode::CONFLICT, &json!({ "error": why, "next": next }))
        }
    }
}

fn told(core: &ClientCore, unfenced: bool) -> Value {
    let shared = &core.shared;
    let leader = shared.vitals.leader.load(Relaxed);
    let refused = resync::refusal(core, unfenced);
    let progress = shared.resync.look();
    let comparison = progress.comparison.map(|one| {
        let unverified: Vec<String> = one.unverified.iter().map(|id| hex(*id)).collect();
        json!({
            "verdict": match one.verdict {
                Verdict::Same => "same",
                Verdict::Differs => "differs",
                Verdict::Unverified => "unverified",
            },
            "revision": one.revision,
            "agreeing": one.agreeing,
            "members": one.members,
            "unverified": unverified,
        })
    });
    json!({
        "member": {
            "id": hex(shared.member_id),
            "name": shared.config.name,
            "role": role(shared),
            "fenced": core.is_fenced(),
        },
        "leader": (leader != 0).then(|| hex(leader)),
        "keeps_in": shared.data_dir.join(QUARANTINE_DIR),
        "refused": refused.map(|(why, next)| json!({ "error": why, "next": next })),
        "last": {
            "phase": progress.phase.word(),
            "from": (progress.from != 0).then(|| hex(progress.from)),
            "index": (progress.index != 0).then_some(progress.index),
            "why": progress.why,
            "kept": progress.kept,
            "comparison": comparison,
        },
    })
}
