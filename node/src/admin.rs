//! The admin socket: HTTP/1.1 on a unix socket that only the server's user may connect to.
//!
//! ```text
//! GET  /admin/status     who this member is and where it stands, as JSON
//! GET  /admin/config     every setting in force with its source, secrets hidden, as JSON
//! POST /admin/snapshot   the state as a `.kvs` file: the very bytes of Maintenance.Snapshot
//! POST /admin/reload     as SIGHUP; answers what changed, as JSON
//! GET  /admin/resync     what a re-sync of this member would be, and how the last one is doing, as JSON
//! POST /admin/resync     begins one (`resync.rs`); answers at once
//! ```
//!
//! It has an acceptor and a connection cap of its own, so clients cannot crowd the operator out, and it serves from the
//! moment the executors run: a member that waits for its cluster can be asked why. It knows no users: who may open the
//! socket may read everything. gRPC is not served here.

mod resync;
mod snapshot;
mod status;

use std::path::Path;
use std::rc::Rc;

use http::header::{ALLOW, HeaderValue};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::config::Source;
use crate::cores::client::ClientCore;
use crate::http::{
    Bound, HttpRequest, HttpResponse, ResponseBody, Role, UNIX_PATH_BYTES_MAX, bind_private,
};
use crate::shared::Shared;

/// Connections at a time; more wait in the kernel.
pub const CONNECTIONS_MAX: usize = 16;

/// Opens the socket, or says in one line why there is none and what to do about it.
///
/// # Errors
/// (what, hint).
pub fn open(path: &Path) -> Result<Bound, (String, String)> {
    if let Some(too_long) = too_long(path) {
        return Err(too_long);
    }
    let bound = bind_private(path).map(|bound| bound.serving(Role::Admin, false));
    bound.map_err(|error| {
        let hint = match error.source.kind() {
            std::io::ErrorKind::AddrInUse => "another process serves it, or something else has that name: move it away, or name another path with --admin-socket",
            _ => "name a path in a directory that the server may write to with --admin-socket, or none",
        };
        (
            format!("admin socket {}: {}", path.display(), error.source),
            hint.to_owned(),
        )
    })
}

/// The kernel's bound on a socket's path, as (what, hint).
pub fn too_long(path: &Path) -> Option<(String, String)> {
    let bytes = path.as_os_str().len();
    (bytes > UNIX_PATH_BYTES_MAX).then(|| {
        (
            format!(
                "admin socket {}: the path has {bytes} bytes, a unix socket's at most {UNIX_PATH_BYTES_MAX}",
                path.display()
            ),
            "name a shorter path with --admin-socket, or none".to_owned(),
        )
    })
}

/// Answers one request.
pub async fn answer(core: &Rc<ClientCore>, request: HttpRequest) -> HttpResponse {
    let routes = [
        ("/admin/status", Method::GET),
        ("/admin/config", Method::GET),
        ("/admin/snapshot", Method::POST),
        ("/admin/reload", Method::POST),
        ("/admin/resync", Method::GET),
        ("/admin/resync", Method::POST),
    ];
    let path = request.path();
    let methods = routes.iter().filter(|(route, _)| *route == path);
    let methods: Vec<&str> = methods.map(|(_, method)| method.as_str()).collect();
    if methods.is_empty() {
        let mut known: Vec<&str> = routes.iter().map(|(route, _)| *route).collect();
        known.dedup();
        return refuse(
            StatusCode::NOT_FOUND,
            &format!("no such path; there are {}", known.join(", ")),
        );
    }
    if !methods.contains(&request.method.as_str()) {
        let methods = methods.join(", ");
        let mut response = refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            &format!("{path} takes {methods} only"),
        );
        let allow = HeaderValue::from_str(&methods);
        response
            .headers_mut()
            .insert(ALLOW, allow.expect("methods' names are a header value"));
        return response;
    }
    match path {
        "/admin/status" => status::answer(core).await,
        "/admin/config" => config(&core.shared),
        "/admin/snapshot" => snapshot::answer(core),
        "/admin/resync" if request.method == Method::GET => resync::look(core, &request),
        "/admin/resync" => resync::start(core, &request),
        _ => reload(core).await,
    }
}

fn json_answer(status: StatusCode, value: &Value) -> HttpResponse {
    ResponseBody::json(status, format!("{value:#}\n"))
}

fn refuse(status: StatusCode, reason: &str) -> HttpResponse {
    json_answer(status, &json!({ "error": reason }))
}

fn config(shared: &Shared) -> HttpResponse {
    let settings: Vec<Value> = shared
        .settings()
        .into_iter()
        .map(|one| {
            let mut value = json!({
                "name": one.name,
                "value": one.value,
                "source": source_word(&one.source),
                "reloadable": crate::live::RELOADABLE.contains(&one.name),
            });
            if one.source != Source::Default {
                value["place"] = json!(one.source.to_string());
            }
            value
        })
        .collect();
    json_answer(StatusCode::OK, &json!({ "settings": settings }))
}

fn source_word(source: &Source) -> &'static str {
    match source {
        Source::Default => "default",
        Source::File { .. } => "file",
        Source::Env(_) => "variable",
        Source::Flag(_) => "flag",
    }
}

async fn reload(core: &Rc<ClientCore>) -> HttpResponse {
    let shared = std::sync::Arc::clone(&core.shared);
    match core.in_background(move || shared.reload()).await {
        Ok(outcome) if outcome.failed.is_empty() => json_answer(StatusCode::OK, &outcome.json()),
        Ok(outcome) => json_answer(StatusCode::UNPROCESSABLE_ENTITY, &outcome.json()),
        Err(status) => refuse(StatusCode::SERVICE_UNAVAILABLE, &status.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_beyond_the_kernels_bound_is_told_with_both_numbers() {
        let fits = format!("/{}", "a".repeat(UNIX_PATH_BYTES_MAX - 1));
        assert_eq!(too_long(Path::new(&fits)), None);
        let (what, hint) = too_long(Path::new(&format!("{fits}b"))).unwrap();
        assert!(what.contains("108 bytes") && what.contains("107"), "{what}");
        assert!(hint.contains("--admin-socket"), "{hint}");
    }
}
