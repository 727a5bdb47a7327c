//! `host:port`, `http://host:port`, `https://host:port`, `unix:///path`, `unixs:///path`.

use std::path::PathBuf;

use crate::error::{Error, Result};

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// As the caller wrote it.
    pub text: String,
    pub address: Address,
    pub tls: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// Host (brackets of an IPv6 address taken off) and port.
    Tcp(String, u16),
    Unix(PathBuf),
}

impl Endpoint {
    /// `bare_tls` says what an endpoint without scheme means.
    pub fn parse(text: &str, bare_tls: bool) -> Result<Endpoint> {
        let text = text.trim();
        let (tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some((scheme @ ("unix" | "unixs"), rest)) => {
                if rest.is_empty() {
                    return Err(bad(text, "the path of the socket is missing"));
                }
                return Ok(Endpoint {
                    text: text.to_owned(),
                    address: Address::Unix(rest.into()),
                    tls: scheme == "unixs",
                });
            }
            Some((scheme, _)) => {
                return Err(bad(
                    text,
                    &format!("unknown scheme {scheme:?}; known are http, https, unix, unixs"),
                ));
            }
            None => match text.strip_prefix("unix:") {
                Some(path) if !path.is_empty() => {
                    return Ok(Endpoint {
                        text: text.to_owned(),
                        address: Address::Unix(path.into()),
                        tls: false,
                    });
                }
                _ => (bare_tls, text),
            },
        };
        let rest = rest.trim_end_matches('/');
        let Some((host, port)) = rest.rsplit_once(':') else {
            return Err(bad(text, "missing port in address, expected host:port"));
        };
        let port = port
            .parse()
            .map_err(|_| bad(text, &format!("{port:?} is no port")))?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if bare.is_none() && host.contains([':', '/']) {
            return Err(bad(
                text,
                "too many colons or slashes; an IPv6 address stands in brackets",
            ));
        }
        let host = match bare.unwrap_or(host) {
            "" => "localhost",
            host => host,
        };
        Ok(Endpoint {
            text: text.to_owned(),
            address: Address::Tcp(host.to_owned(), port),
            tls,
        })
    }

    /// What stands in `:authority`.
    pub fn authority(&self) -> String {
        match &self.address {
            Address::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
            Address::Tcp(host, port) => format!("{host}:{port}"),
            Address::Unix(_) => "localhost".to_owned(),
        }
    }

    /// The name a certificate must be for.
    pub fn host(&self) -> &str {
        match &self.address {
            Address::Tcp(host, _) => host,
            Address::Unix(_) => "localhost",
        }
    }
}

fn bad(text: &str, why: &str) -> Error {
    Error::Config(format!("bad endpoint {text:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_endpoint_is_understood() {
        let tcp = |host: &str, port| Address::Tcp(host.to_owned(), port);
        for (text, address, tls) in [
            ("127.0.0.1:2379", tcp("127.0.0.1", 2379), false),
            (" http://a.example:1 ", tcp("a.example", 1), false),
            ("https://[::1]:2/", tcp("::1", 2), true),
            (":2379", tcp("localhost", 2379), false),
            (
                "unix:///run/kv.sock",
                Address::Unix("/run/kv.sock".into()),
                false,
            ),
            ("unixs://kv.sock", Address::Unix("kv.sock".into()), true),
            ("unix:kv.sock", Address::Unix("kv.sock".into()), false),
        ] {
            let endpoint = Endpoint::parse(text, false).expect(text);
            assert_eq!((endpoint.address, endpoint.tls), (address, tls), "{text}");
        }
        assert!(Endpoint::parse("h:1", true).expect("bare").tls);
    }

    #[test]
    fn a_bad_endpoint_is_refused_with_its_text() {
        for text in [
            "host",
            "ftp://a:1",
            "a:b:1",
            "a:x",
            "a:70000",
            "unix://",
            "",
        ] {
            let error = Endpoint::parse(text, false).expect_err(text).to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
