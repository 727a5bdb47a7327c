//! Founders by DNS SRV records: `_etcd-server-ssl._tcp.DOMAIN` for https, `_etcd-server._tcp.DOMAIN` for http, both with
//! `-SUFFIX` if `--discovery-srv-name` gives one.
//!
//! A record whose target has one of the addresses that this member announces is this member and gets its name; the others
//! get numbers. Names are no part of the ids, so members need not agree on them.

use std::net::SocketAddr;

use kvnode_dns::Service;

use crate::config::{Address, Config, SrvDiscovery, Url};

type Failure = (String, String);

/// The list of founders, from what look-ups tell.
pub fn founders(
    config: &Config,
    settings: &SrvDiscovery,
    records: impl Fn(&str) -> Result<Vec<Service>, String>,
    addresses: impl Fn(&str, u16) -> Vec<SocketAddr>,
) -> Result<String, Failure> {
    let suffix = match settings.suffix.as_str() {
        "" => String::new(),
        suffix => format!("-{suffix}"),
    };
    let own: Vec<(&Url, Vec<SocketAddr>)> = config
        .advertise_peer_urls
        .iter()
        .map(|url| match &url.address {
            Address::Tcp { host, port } => (url, addresses(host, *port)),
            Address::Unix(_) => (url, Vec::new()),
        })
        .collect();
    let mut list = Vec::new();
    let mut troubles = Vec::new();
    let mut asked = Vec::new();
    for (scheme, service) in [("https", "etcd-server-ssl"), ("http", "etcd-server")] {
        let name = format!("_{service}{suffix}._tcp.{}", settings.domain);
        let found = match records(&name) {
            Ok(found) => found,
            Err(error) => {
                troubles.push(format!("{name}: {error}"));
                Vec::new()
            }
        };
        asked.push(name);
        for record in found {
            let here = addresses(&record.target, record.port);
            if here.is_empty() {
                log::warn!(
                    "discovery: {} has no address; it is left out",
                    record.target
                );
                continue;
            }
            let me = own
                .iter()
                .find(|(_, announced)| here.iter().any(|address| announced.contains(address)));
            let host = format!("{scheme}://{}:{}", record.target, record.port);
            let name = match me {
                Some((url, _)) if url.to_string().starts_with(&format!("{scheme}://")) => {
                    config.name.clone()
                }
                Some((url, _)) => {
                    return Err((
                        format!("the records list this member as {host}, but it announces {url}"),
                        "make --initial-advertise-peer-urls and the record's service agree on http or https".into(),
                    ));
                }
                None => list.len().to_string(),
            };
            list.push(format!("{name}={host}"));
        }
    }
    if list.is_empty() {
        let why = match troubles.is_empty() {
            true => "there are none".to_owned(),
            false => troubles.join("; "),
        };
        return Err((
            format!("no SRV records for {}: {why}", asked.join(" or ")),
            "check --discovery-srv and the DNS server, or list the members in --initial-cluster"
                .into(),
        ));
    }
    let mine = format!("{}=", config.name);
    if !list.iter().any(|entry| entry.starts_with(&mine)) {
        let urls: Vec<String> = own.iter().map(|(url, _)| url.to_string()).collect();
        return Err((
            format!(
                "none of the SRV records ({}) has an address of --initial-advertise-peer-urls={}",
                list.join(","),
                urls.join(",")
            ),
            "announce the name and port that the record has".into(),
        ));
    }
    Ok(list.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(advertise: &str) -> Config {
        let args = [
            "--name=me".to_owned(),
            format!("--initial-advertise-peer-urls={advertise}"),
            format!("--initial-cluster=me={advertise}"),
        ];
        let none = std::iter::empty::<(String, String)>();
        let no_file = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
        Config::load(args, none, no_file).unwrap().config
    }

    fn settings(suffix: &str) -> SrvDiscovery {
        SrvDiscovery {
            domain: "x.org".into(),
            suffix: suffix.into(),
            servers: Vec::new(),
        }
    }

    fn record(target: &str, port: u16) -> Service {
        Service {
            priority: 0,
            target: target.into(),
            port,
        }
    }

    /// Hosts `aN` have the address 10.0.0.N.
    fn addresses(host: &str, port: u16) -> Vec<SocketAddr> {
        let number = host.strip_prefix('a').and_then(|n| n.parse::<u8>().ok());
        number
            .map(|n| SocketAddr::from(([10, 0, 0, n], port)))
            .into_iter()
            .collect()
    }

    #[test]
    fn the_record_with_an_announced_address_gets_this_members_name() {
        let records = |name: &str| match name {
            "_etcd-server-blue._tcp.x.org" => {
                Ok(vec![record("a1", 1), record("gone", 9), record("a2", 2)])
            }
            "_etcd-server-ssl-blue._tcp.x.org" => Ok(vec![]),
            other => panic!("{other}"),
        };
        let found = founders(
            &config("http://a2:2"),
            &settings("blue"),
            records,
            addresses,
        );
        assert_eq!(found.unwrap(), "0=http://a1:1,me=http://a2:2");
    }

    #[test]
    fn what_cannot_be_right_is_said_with_both_sides() {
        let none = |_: &str| Ok(Vec::new());
        let (what, _) =
            founders(&config("http://a1:1"), &settings(""), none, addresses).unwrap_err();
        assert!(
            what.contains("_etcd-server._tcp.x.org") && what.contains("there are none"),
            "{what}"
        );
        let broken = |_: &str| Err("10.0.0.9:53: timed out".to_owned());
        let (what, _) =
            founders(&config("http://a1:1"), &settings(""), broken, addresses).unwrap_err();
        assert!(what.contains("timed out"), "{what}");
        let others = |name: &str| {
            Ok(if name.contains("ssl") {
                vec![]
            } else {
                vec![record("a2", 2)]
            })
        };
        let (what, _) =
            founders(&config("http://a1:1"), &settings(""), others, addresses).unwrap_err();
        assert!(
            what.contains("http://a2:2") && what.contains("http://a1:1"),
            "{what}"
        );
        let secure = |name: &str| {
            Ok(if name.contains("ssl") {
                vec![record("a1", 1)]
            } else {
                vec![]
            })
        };
        let (what, _) =
            founders(&config("http://a1:1"), &settings(""), secure, addresses).unwrap_err();
        assert!(
            what.contains("https://a1:1") && what.contains("http://a1:1"),
            "{what}"
        );
    }
}
