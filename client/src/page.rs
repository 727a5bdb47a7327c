//! One `GET` over HTTP/1.0, for what servers offer beside the API: `/metrics`, `/health`, `/version`.
//!
//! A connection of its own, closed when the page is there: such pages are for looking at a server now and then.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::client::Client;
use crate::config::Config;
use crate::connection::{server_name, words};
use crate::endpoint::{Address, Endpoint};
use crate::error::{Attempts, Error, Result};

/// Longest page, its head included: 16 MiB. A longer one is an error.
const PAGE_BYTES_MAX: u64 = 16 << 20;

/// What came of a [`Client::page`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// HTTP's status code.
    pub status: u16,
    pub body: Bytes,
    /// The certificate the server showed (DER), if the endpoint is one with TLS.
    pub certificate: Option<Vec<u8>>,
}

impl Client {
    /// Fetches a page from this endpoint, with the certificates of this client and without its token. `path` begins with `/`.
    ///
    /// # Errors
    /// [`Error::Config`] for an endpoint that cannot be read; [`Error::Unreachable`], also for an answer that is no page, is cut short or
    /// is longer than 16 MiB; [`Error::Deadline`] after [`Config::call_timeout`].
    pub async fn page(&self, endpoint: &str, path: &str) -> Result<Page> {
        let config = self.config();
        let endpoint = Endpoint::parse(endpoint, config.bare_endpoints_use_tls)?;
        let tls = match endpoint.tls {
            true => {
                let tls = config.tls.clone().unwrap_or_default();
                Some(TlsConnector::from(tls.client_config()?))
            }
            false => None,
        };
        let mut attempts = Attempts::default();
        let fetching = fetch(&endpoint, path, config, tls.as_ref());
        let fetched = match self.timeout() {
            None => fetching.await,
            Some(after) => match tokio::time::timeout(after, fetching).await {
                Ok(fetched) => fetched,
                Err(_) => {
                    attempts.note(&endpoint.text, "no answer in time");
                    return Err(Error::Deadline { after, attempts });
                }
            },
        };
        fetched.map_err(|error| {
            attempts.note(&endpoint.text, words(&error));
            Error::Unreachable { attempts }
        })
    }
}

async fn fetch(
    endpoint: &Endpoint,
    path: &str,
    config: &Config,
    tls: Option<&TlsConnector>,
) -> io::Result<Page> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
    match &endpoint.address {
        Address::Tcp(host, port) => {
            let connecting = TcpStream::connect((host.as_str(), *port));
            let socket = tokio::time::timeout(config.connect_timeout, connecting).await;
            secure(socket.map_err(|_| late())??, endpoint, path, config, tls).await
        }
        Address::Unix(file) => {
            let connecting = UnixStream::connect(file);
            let socket = tokio::time::timeout(config.connect_timeout, connecting).await;
            secure(socket.map_err(|_| late())??, endpoint, path, config, tls).await
        }
    }
}

async fn secure<S>(
    socket: S,
    endpoint: &Endpoint,
    path: &str,
    config: &Config,
    tls: Option<&TlsConnector>,
) -> io::Result<Page>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(connector) = tls else {
        return ask(socket, endpoint, path).await;
    };
    let connecting = connector
        .with_alpn(vec![b"http/1.1".to_vec()])
        .connect(server_name(endpoint, config)?, socket);
    let socket = connecting.await?;
    let shown = socket.get_ref().1.peer_certificates();
    let certificate = shown.and_then(|chain| Some(chain.first()?.to_vec()));
    let page = ask(socket, endpoint, path).await?;
    Ok(Page {
        certificate,
        ..page
    })
}

async fn ask(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    endpoint: &Endpoint,
    path: &str,
) -> io::Result<Page> {
    // Version 1.0: no chunks, and the end of the connection is the end of the page.
    let request = format!(
        "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n",
        endpoint.authority()
    );
    socket.write_all(request.as_bytes()).await?;
    socket.flush().await?;
    let mut bytes = Vec::new();
    let mut socket = socket.take(PAGE_BYTES_MAX + 1);
    match socket.read_to_end(&mut bytes).await {
        Ok(_) => {}
        // Many servers close without TLS's goodbye; whether something is missing is told by the length.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(error),
    }
    parse(bytes.into())
}

fn parse(bytes: Bytes) -> io::Result<Page> {
    let odd = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    if bytes.len() as u64 > PAGE_BYTES_MAX {
        return Err(odd(format!("a page of more than {PAGE_BYTES_MAX} bytes")));
    }
    let end = bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let end = end.ok_or_else(|| odd("no HTTP answer".to_owned()))?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|first| {
            let rest = first.strip_prefix("HTTP/1.")?;
            rest.split(' ').nth(1)?.parse().ok()
        })
        .ok_or_else(|| odd("no HTTP answer".to_owned()))?;
    let body = bytes.slice(end + 4..);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            let length: Option<usize> = value.trim().parse().ok();
            if length != Some(body.len()) {
                return Err(odd(format!(
                    "a page of {} bytes came, {} were announced",
                    body.len(),
                    value.trim()
                )));
            }
        }
    }
    Ok(Page {
        status,
        body,
        certificate: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_status_and_a_body() {
        let page = parse(Bytes::from_static(b"HTTP/1.1 503 No\r\nX: y\r\n\r\nbody")).expect("one");
        assert_eq!((page.status, &page.body[..]), (503, &b"body"[..]));
        let whole = b"HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\nbody";
        let page = parse(Bytes::from_static(whole)).expect("one");
        assert_eq!((page.status, &page.body[..]), (200, &b"body"[..]));
        for cut in 0..whole.len() {
            assert!(
                parse(Bytes::from_static(&whole[..cut])).is_err(),
                "cut at {cut}"
            );
        }
        for odd in [
            &b"PRI * HTTP/2.0\r\n\r\n"[..],
            b"HTTP/1.1 x\r\n\r\n",
            b"\r\n\r\n",
        ] {
            assert!(parse(Bytes::from_static(odd)).is_err());
        }
    }
}
