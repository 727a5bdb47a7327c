//! What the client port answers beside gRPC: health, version, metrics.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use http::header::{ALLOW, HeaderValue};
use http::{Method, StatusCode};
use kvnode_api::status::Status;
use kvnode_api::{AlarmType, RangeRequest};

use crate::cores::client::ClientCore;
use crate::http::{HttpRequest, HttpResponse, ResponseBody};
use crate::process;
use crate::shared::{API_VERSION, CLUSTER_VERSION, STORAGE_VERSION};

/// Answers one request. Anything unknown is 404 in plain text.
pub async fn answer(core: &Rc<ClientCore>, request: HttpRequest) -> HttpResponse {
    let path = request.path();
    let known = matches!(
        path,
        "/health" | "/version" | "/metrics" | "/livez" | "/readyz"
    ) || path.starts_with("/livez/")
        || path.starts_with("/readyz/");
    // Who scrapes is not told versions by mistake: they are the clients' affair.
    if !known || (path == "/version" && !request.peer.role.serves_http()) {
        return ResponseBody::text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    if request.method != Method::GET {
        let mut response =
            ResponseBody::text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    let query = Query(request.query().unwrap_or_default());
    match path {
        "/health" => health(core, &query).await,
        "/version" => ResponseBody::json(StatusCode::OK, version()),
        "/metrics" => metrics(core),
        "/livez" => checks(core, Kind::Live, None, &query).await,
        "/readyz" => checks(core, Kind::Ready, None, &query).await,
        _ => match path.strip_prefix("/livez/") {
            Some(check) => checks(core, Kind::Live, Some(check), &query).await,
            None => checks(core, Kind::Ready, path.strip_prefix("/readyz/"), &query).await,
        },
    }
}

fn version() -> String {
    format!(
        "{{\"etcdserver\":\"{API_VERSION}\",\"etcdcluster\":\"{CLUSTER_VERSION}\",\"storage\":\"{STORAGE_VERSION}\",\"kvnode\":\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    )
}

fn metrics(core: &ClientCore) -> HttpResponse {
    let mut text = core.shared.metrics.render(&process::sample(core));
    text.push_str(&core.shared.tls.metrics());
    ResponseBody::response(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        text,
    )
}

/// `key=value` pairs of a query string, undecoded: no name or value here needs decoding.
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn values(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.split('&').filter_map(move |pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }
}

async fn health(core: &Rc<ClientCore>, query: &Query<'_>) -> HttpResponse {
    let serializable = query.values("serializable").any(|value| value == "true");
    let excluded: Vec<&str> = query.values("exclude").collect();
    let result = health_reason(core, serializable, &excluded).await;
    let metrics = &core.shared.metrics;
    match result {
        Ok(()) => {
            metrics.health_success.add(1);
            ResponseBody::text(StatusCode::OK, "{\"health\":\"true\",\"reason\":\"\"}")
        }
        Err(reason) => {
            metrics.health_failures.add(1);
            let body = format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n");
            ResponseBody::text(StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }
}

/// In order: no alarm, a leader, one read.
async fn health_reason(
    core: &Rc<ClientCore>,
    serializable: bool,
    excluded: &[&str],
) -> Result<(), String> {
    let alarms = core.with_view(|view| view.alarms().list(AlarmType::None as i32));
    let mut names = alarms.iter().map(|alarm| alarm_name(alarm.alarm));
    if let Some(name) = names.find(|name| !excluded.contains(name)) {
        return Err(format!("ALARM {name}"));
    }
    if !serializable && !core.shared.has_leader() {
        return Err("RAFT NO LEADER".into());
    }
    read(core, serializable)
        .await
        .map_err(|status| format!("RANGE ERROR:{}", status.message))
}

/// As etcd prints it.
pub fn alarm_name(alarm: i32) -> &'static str {
    match AlarmType::try_from(alarm) {
        Ok(AlarmType::Nospace) => "NOSPACE",
        Ok(AlarmType::Corrupt) => "CORRUPT",
        _ => "UNKNOWN",
    }
}

/// One read of a key, as a client would do it.
async fn read(core: &Rc<ClientCore>, serializable: bool) -> Result<(), Status> {
    if !serializable {
        core.linearize().await?;
    }
    let view = core.view();
    let request = RangeRequest {
        key: "health".into(),
        limit: 1,
        ..RangeRequest::default()
    };
    core.on_reader(move || view.range(&request).map(|_| ()))
        .await?
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Live,
    Ready,
}

const LIVE: &[&str] = &["serializable_read"];
const READY: &[&str] = &[
    "data_corruption",
    "serializable_read",
    "linearizable_read",
    "non_learner",
];

async fn checks(
    core: &Rc<ClientCore>,
    kind: Kind,
    single: Option<&str>,
    query: &Query<'_>,
) -> HttpResponse {
    let all = if kind == Kind::Live { LIVE } else { READY };
    let excluded: Vec<&str> = query.values("exclude").collect();
    let wanted: Vec<&str> = match single {
        Some(name) => match all.iter().find(|check| **check == name) {
            Some(check) => vec![check],
            None => return ResponseBody::text(StatusCode::NOT_FOUND, "404 page not found\n"),
        },
        None => all
            .iter()
            .copied()
            .filter(|check| !excluded.contains(check))
            .collect(),
    };
    let mut lines = String::new();
    let mut failed = false;
    for name in wanted {
        match check(core, name).await {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(reason) => {
                failed = true;
                lines.push_str(&format!("[-]{name} failed: {reason}\n"));
            }
        }
    }
    if failed {
        return ResponseBody::text(StatusCode::SERVICE_UNAVAILABLE, lines);
    }
    let verbose = query.values("verbose").next().is_some();
    let body = if verbose {
        format!("{lines}ok\n")
    } else {
        "ok\n".to_string()
    };
    ResponseBody::text(StatusCode::OK, body)
}

async fn check(core: &Rc<ClientCore>, name: &str) -> Result<(), String> {
    let text = |status: Status| status.message.into_owned();
    match name {
        "data_corruption" => {
            match core.with_view(|view| view.alarms().is_active(AlarmType::Corrupt)) {
                true => Err("alarm activated: CORRUPT".into()),
                false => Ok(()),
            }
        }
        "serializable_read" => read(core, true).await.map_err(text),
        "linearizable_read" => read(core, false).await.map_err(text),
        _ => {
            let learner = core.shared.vitals.is_learner.load(Ordering::Relaxed);
            if learner {
                Err("not supported for learner".into())
            } else {
                Ok(())
            }
        }
    }
}
