//! One HTTP/1.0 POST with a JSON body, blocking, encrypted or not: as much of a client as discovery needs.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use serde_json::Value;

use crate::config::{Address, Url};
use crate::tls::{Calling, Link};

const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// Times of one request.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub dial: Duration,
    pub request: Duration,
}

/// Posts `body` and reads the JSON answer; encrypted with `tls`.
///
/// # Errors
/// One line: the connection's trouble, or the status and message that came.
pub fn post(
    url: &Url,
    path: &str,
    token: Option<&str>,
    body: &Value,
    tls: Option<&Calling>,
    patience: Patience,
) -> Result<Value, String> {
    let told = |error: io::Error| format!("{url}: {error}");
    let Address::Tcp { host, port } = &url.address else {
        return Err(format!("{url}: only http://host:port can be asked"));
    };
    let mut stream = Err(io::Error::from(io::ErrorKind::NotFound));
    for address in (host.as_str(), *port).to_socket_addrs().map_err(told)? {
        stream = TcpStream::connect_timeout(&address, patience.dial);
        if stream.is_ok() {
            break;
        }
    }
    let stream = stream.map_err(told)?;
    stream
        .set_read_timeout(Some(patience.request))
        .map_err(told)?;
    stream
        .set_write_timeout(Some(patience.request))
        .map_err(told)?;
    let mut stream = match tls {
        None => Link::Plain(stream),
        Some(tls) => Link::call(stream, tls, host).map_err(told)?,
    };
    let body = body.to_string();
    let token = token.map_or_else(String::new, |token| format!("Authorization: {token}\r\n"));
    let request = format!(
        "POST {path} HTTP/1.0\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n{token}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).map_err(told)?;
    stream.flush().map_err(told)?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut answer)
        .map_err(told)?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| format!("{url}: the answer is no HTTP"))?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    let value: Value = serde_json::from_str(body.trim())
        .map_err(|_| format!("{url}: status {status}, and the body is no JSON"))?;
    if status == "200" {
        return Ok(value);
    }
    let message = value["message"].as_str().or(value["error"].as_str());
    Err(format!(
        "{url}: status {status}: {}",
        message.unwrap_or("no message")
    ))
}
