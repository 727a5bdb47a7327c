//! Who may ask at all: pages by their origin, names by which this server is called, certificates.

use std::borrow::Cow;
use std::rc::Rc;

use http::StatusCode;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, HOST,
    HeaderValue, ORIGIN,
};

use crate::cores::client::ClientCore;
use crate::http::{HttpRequest, HttpResponse, Peer, ResponseBody};

/// The origin whose pages may read the answer, if any.
pub struct Allowed(Option<HeaderValue>);

impl Allowed {
    /// The answer with the headers that say so.
    pub fn applied(self, mut response: HttpResponse) -> HttpResponse {
        if let Some(origin) = self.0 {
            const METHODS: HeaderValue =
                HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
            const HEADERS: HeaderValue =
                HeaderValue::from_static("accept, content-type, authorization");
            let headers = response.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        }
        response
    }
}

/// The path, an old name of the gateway's replaced by its present one.
pub fn path(request: &HttpRequest) -> String {
    let path = request.path();
    let path = match path.strip_prefix("/v3beta/") {
        Some(rest) => Cow::Owned(format!("/v3/{rest}")),
        None => Cow::Borrowed(path),
    };
    path.into_owned()
}

/// Whether the request may be looked at, and who may read its answer.
///
/// # Errors
/// The answer that refuses it.
pub fn check(
    core: &Rc<ClientCore>,
    request: &HttpRequest,
    path: &str,
) -> Result<Allowed, Box<HttpResponse>> {
    let gateway = &core.shared.config.gateway;
    // A page of a stranger's can make its name mean this address, but it cannot have a certificate for it.
    if !request.peer.encrypted {
        let name = host(request);
        if !is_listed(&gateway.host_whitelist, name) {
            return Err(Box::new(misdirected(name)));
        }
    }
    // The holder of a certificate would be somebody on every other way in; here it is not looked at, which would
    // surprise either side of it.
    if path.starts_with("/v3/")
        && core.shared.config.security.client.cert_auth
        && common_name(&request.peer).is_some_and(|name| !name.is_empty())
        && core.with_view(|view| view.auth().is_enabled())
    {
        let text = "the gateway does not take a certificate's common name for a user: ask without one, with a token\n";
        return Err(Box::new(ResponseBody::text(StatusCode::BAD_REQUEST, text)));
    }
    let origin = if is_listed(&gateway.cors, "*") {
        Some(HeaderValue::from_static("*"))
    } else {
        let origin = request.headers.get(ORIGIN);
        let listed =
            |origin: &&HeaderValue| is_listed(&gateway.cors, origin.to_str().unwrap_or(""));
        origin.filter(listed).cloned()
    };
    Ok(Allowed(origin))
}

/// An empty list, or `*` in it, lists everything.
fn is_listed(list: &[String], word: &str) -> bool {
    list.is_empty() || list.iter().any(|each| each == "*" || each == word)
}

/// The name the client calls this server by, without a port.
fn host(request: &HttpRequest) -> &str {
    let authority = request.uri.authority().map(http::uri::Authority::as_str);
    let header = || request.headers.get(HOST)?.to_str().ok();
    host_name(authority.or_else(header).unwrap_or_default())
}

fn host_name(host: &str) -> &str {
    match host.strip_prefix('[') {
        // An IPv6 address.
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

fn misdirected(name: &str) -> HttpResponse {
    let shown: String = name.chars().filter(|c| !c.is_control()).take(255).collect();
    let text = format!(
        "This server is not known as {shown:?}, so the request was not looked at: a web page may have led the browser here.\n\
         If the name is right, start the server with --host-whitelist={shown}, or serve TLS.\n"
    );
    ResponseBody::text(StatusCode::MISDIRECTED_REQUEST, text)
}

/// The common name in the certificate the client has shown.
fn common_name(peer: &Peer) -> Option<&str> {
    peer.holder.as_ref().map(|holder| &*holder.common_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_without_its_port() {
        for (host, name) in [
            ("localhost", "localhost"),
            ("localhost:2379", "localhost"),
            ("127.0.0.1:1", "127.0.0.1"),
            ("[::1]:2379", "::1"),
            ("[::1]", "::1"),
            ("", ""),
        ] {
            assert_eq!(host_name(host), name);
        }
    }

    #[test]
    fn a_list_with_a_star_or_nothing_in_it_lists_all() {
        let list = |words: &[&str]| {
            words
                .iter()
                .map(|word| word.to_string())
                .collect::<Vec<_>>()
        };
        assert!(is_listed(&[], "a") && is_listed(&list(&["b", "*"]), "a"));
        assert!(is_listed(&list(&["b", "a"]), "a"));
        assert!(!is_listed(&list(&["b"]), "a") && !is_listed(&list(&["b"]), "*"));
    }
}
