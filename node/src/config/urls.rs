//! The urls a member listens on and announces.
//!
//! Four schemes: `http`, `https`, `unix`, `unixs`. A TCP url is `scheme://host:port` and nothing
//! more: no user, path, query or fragment. A socket url is `unix://` plus a path. Text is kept as
//! written (only the scheme is lowered), because member ids are digests of it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// What a url starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Plain TCP.
    Http,
    /// TLS over TCP.
    Https,
    /// A Unix socket.
    Unix,
    /// TLS over a Unix socket.
    Unixs,
}

impl Scheme {
    /// Whether bytes on this scheme are encrypted.
    pub fn is_tls(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Unixs)
    }

    fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Unix => "unix",
            Scheme::Unixs => "unixs",
        }
    }
}

/// Where a url leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A host (name, IPv4, or IPv6 without brackets) and a port.
    Tcp {
        /// As written; not resolved.
        host: String,
        /// 0 asks the kernel for a free one.
        port: u16,
    },
    /// A socket file.
    Unix(PathBuf),
}

/// A listen or advertise url.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url {
    /// How to speak.
    pub scheme: Scheme,
    /// Where.
    pub address: Address,
}

impl Url {
    /// Reads one url; the error completes "invalid value ...: ".
    pub fn parse(text: &str) -> Result<Url, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!(
                "{text:?} has no scheme: expected http://host:port, https://host:port or unix://path"
            ));
        };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => {
                return Err(format!(
                    "{text:?} has the unknown scheme {scheme:?}: expected http, https, unix or unixs"
                ));
            }
        };
        let address = match scheme {
            Scheme::Http | Scheme::Https => parse_tcp(text, rest)?,
            Scheme::Unix | Scheme::Unixs if rest.is_empty() => {
                return Err(format!("{text:?} names no socket file"));
            }
            Scheme::Unix | Scheme::Unixs => Address::Unix(PathBuf::from(rest)),
        };
        Ok(Url { scheme, address })
    }

    /// Whether other machines can make nothing of this address: a loopback or wildcard host, or a
    /// socket file.
    pub fn is_local_only(&self) -> bool {
        match &self.address {
            Address::Unix(_) => true,
            Address::Tcp { host, .. } if host.eq_ignore_ascii_case("localhost") => true,
            Address::Tcp { host, .. } => host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback() || address.is_unspecified()),
        }
    }

    /// The socket addresses to bind for a TCP url; empty for a socket file.
    ///
    /// `localhost` is 127.0.0.1 without asking a resolver, so that a member without flags serves
    /// at one well-known address. Another name goes through the system's resolver, which may block
    /// for seconds: call this at start, never on an executor.
    pub fn bind_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        match &self.address {
            Address::Unix(_) => Ok(Vec::new()),
            Address::Tcp { host, port } if host.eq_ignore_ascii_case("localhost") => {
                Ok(vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), *port)])
            }
            Address::Tcp { host, port } => match host.parse::<IpAddr>() {
                Ok(address) => Ok(vec![SocketAddr::new(address, *port)]),
                Err(_) => {
                    let mut found: Vec<SocketAddr> = Vec::new();
                    for address in (host.as_str(), *port).to_socket_addrs()? {
                        if !found.contains(&address) {
                            found.push(address);
                        }
                    }
                    Ok(found)
                }
            },
        }
    }

    /// Whether two listeners on these urls would fight over one address, as far as text can tell:
    /// equal sockets, or equal ports (0 apart) on equal hosts or beside a wildcard.
    pub fn collides_with(&self, other: &Url) -> bool {
        match (&self.address, &other.address) {
            (Address::Unix(a), Address::Unix(b)) => a == b,
            (
                Address::Tcp { host: a, port },
                Address::Tcp {
                    host: b,
                    port: other,
                },
            ) => *port != 0 && port == other && hosts_collide(a, b),
            _ => false,
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme.name();
        match &self.address {
            Address::Tcp { host, port } if host.contains(':') => {
                write!(f, "{scheme}://[{host}]:{port}")
            }
            Address::Tcp { host, port } => write!(f, "{scheme}://{host}:{port}"),
            Address::Unix(path) => write!(f, "{scheme}://{}", path.display()),
        }
    }
}

fn parse_tcp(text: &str, rest: &str) -> Result<Address, String> {
    // Some unit files end urls with a slash; Go's parser and etcd accept an empty path only.
    if let Some(at) = rest.find(['/', '?', '#', '@']) {
        return Err(format!(
            "{text:?} must be scheme://host:port and nothing more (found {:?})",
            &rest[at..]
        ));
    }
    let (host, port) = match rest.strip_prefix('[') {
        Some(bracketed) => {
            let Some((host, after)) = bracketed.split_once(']') else {
                return Err(format!("{text:?} lacks the closing ]"));
            };
            if host.parse::<Ipv6Addr>().is_err() {
                return Err(format!("{host:?} in {text:?} is no IPv6 address"));
            }
            match after.strip_prefix(':') {
                Some(port) => (host, port),
                None => return Err(format!("{text:?} has no port: write [{host}]:2379")),
            }
        }
        None => match rest.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(format!(
                    "{text:?}: put an IPv6 address into brackets: [::1]:2379"
                ));
            }
            Some((host, port)) => (host, port),
            None => return Err(format!("{text:?} has no port: write {rest}:2379")),
        },
    };
    if host.is_empty() {
        return Err(format!(
            "{text:?} names no host: use 0.0.0.0 to listen on every address"
        ));
    }
    if let Some(bad) = host
        .chars()
        .find(|c| c.is_whitespace() || c.is_control() || *c == ',')
    {
        return Err(format!("{text:?} has {bad:?} in its host"));
    }
    match port.parse::<u16>() {
        Ok(port_number) if port.bytes().all(|b| b.is_ascii_digit()) => Ok(Address::Tcp {
            host: host.to_owned(),
            port: port_number,
        }),
        _ => Err(format!(
            "{text:?} has the bad port {port:?}: expected 0 to 65535"
        )),
    }
}

fn hosts_collide(a: &str, b: &str) -> bool {
    let address = |host: &str| match host.eq_ignore_ascii_case("localhost") {
        true => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        false => host.parse::<IpAddr>().ok(),
    };
    match (address(a), address(b)) {
        (Some(a), Some(b)) if a.is_ipv4() == b.is_ipv4() => {
            a == b || a.is_unspecified() || b.is_unspecified()
        }
        (Some(_), Some(_)) => false,
        _ => a.eq_ignore_ascii_case(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn the_four_schemes_read_and_print_unchanged() {
        for text in [
            "http://localhost:2379",
            "https://10.0.0.1:2379",
            "http://[::1]:2379",
            "http://Node-1.Example.com:0",
            "unix:///run/kvnode/client.sock",
            "unixs://relative.sock",
        ] {
            assert_eq!(url(text).to_string(), text);
        }
        assert_eq!(url("HTTP://localhost:1").to_string(), "http://localhost:1");
        assert_eq!(
            url("http://[::1]:2379").address,
            Address::Tcp {
                host: "::1".to_owned(),
                port: 2379
            }
        );
    }

    #[test]
    fn a_bad_url_says_what_is_wrong() {
        for (text, part) in [
            ("localhost:2379", "no scheme"),
            ("", "no scheme"),
            ("ftp://localhost:1", "unknown scheme"),
            ("http://localhost", "no port"),
            ("http://[::1]", "no port"),
            ("http://[::1", "closing"),
            ("http://[zz]:1", "IPv6"),
            ("http://::1:2379", "brackets"),
            ("http://:2379", "names no host"),
            ("http://localhost:99999", "bad port"),
            ("http://localhost:+1", "bad port"),
            ("http://localhost:", "bad port"),
            ("http://localhost:2379/", "nothing more"),
            ("http://localhost:2379/v3", "nothing more"),
            ("http://user@localhost:2379", "nothing more"),
            ("http://local host:2379", "in its host"),
            ("unix://", "no socket file"),
        ] {
            let error = Url::parse(text).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn localhost_binds_the_ipv4_loopback_only() {
        assert_eq!(
            url("http://localhost:2379").bind_addresses().unwrap(),
            ["127.0.0.1:2379".parse().unwrap()]
        );
        assert_eq!(
            url("http://[::]:2379").bind_addresses().unwrap(),
            ["[::]:2379".parse().unwrap()]
        );
        assert!(url("unix://x.sock").bind_addresses().unwrap().is_empty());
    }

    #[test]
    fn listeners_that_would_fight_are_seen() {
        for (a, b, collide) in [
            ("http://localhost:1", "http://127.0.0.1:1", true),
            ("http://0.0.0.0:1", "https://10.0.0.1:1", true),
            ("http://10.0.0.1:1", "http://10.0.0.2:1", false),
            ("http://localhost:1", "http://localhost:2", false),
            ("http://localhost:0", "http://localhost:0", false),
            ("http://[::1]:1", "http://127.0.0.1:1", false),
            ("http://name:1", "http://NAME:1", true),
            ("unix://a", "unix://a", true),
            ("unix://a", "http://a:1", false),
        ] {
            assert_eq!(url(a).collides_with(&url(b)), collide, "{a} {b}");
        }
    }

    #[test]
    fn addresses_nobody_else_can_reach_are_known() {
        for (text, local) in [
            ("http://localhost:1", true),
            ("http://0.0.0.0:1", true),
            ("http://[::]:1", true),
            ("http://127.3.2.1:1", true),
            ("http://10.0.0.1:1", false),
            ("http://node1:1", false),
            ("unix://a", true),
        ] {
            assert_eq!(url(text).is_local_only(), local, "{text}");
        }
    }
}
