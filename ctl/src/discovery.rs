//! Endpoints by DNS SRV records, as clientv3 finds them: `_etcd-client-ssl._tcp.DOMAIN` for https,
//! `_etcd-client._tcp.DOMAIN` for http, both with `-NAME` if `--discovery-srv-name` gives one.

use std::net::SocketAddr;

use kvnode_dns::Service;

use crate::failure::{Failure, Result, code};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Whom to ask: addresses separated by commas, or the system's servers.
pub fn servers(given: &str) -> Result<Vec<SocketAddr>> {
    if given.is_empty() {
        let system = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        return Ok(kvnode_dns::servers(&system));
    }
    let server = |text: &str| {
        kvnode_dns::server(text.trim()).ok_or_else(|| {
            let text = format!("{text:?} is no address of a DNS server");
            Failure::new(code::ERROR, text).next("--discovery-dns=ADDRESS[:PORT],...")
        })
    };
    given.split(',').map(server).collect()
}

/// The endpoints of a domain, those of https first; plain ones only if they are accepted.
pub fn endpoints(
    domain: &str,
    name: &str,
    plain_too: bool,
    records: impl Fn(&str) -> std::result::Result<Vec<Service>, String>,
) -> Result<Vec<String>> {
    let suffix = match name {
        "" => String::new(),
        name => format!("-{name}"),
    };
    let mut list = Vec::new();
    let mut asked = Vec::new();
    let mut troubles = Vec::new();
    for (scheme, service) in [("https", "etcd-client-ssl"), ("http", "etcd-client")] {
        let name = format!("_{service}{suffix}._tcp.{domain}");
        match records(&name) {
            Ok(found) => list.extend(found.into_iter().map(|record| {
                let host = record.target.trim_end_matches('.');
                format!("{scheme}://{host}:{}", record.port)
            })),
            Err(error) => troubles.push(format!("{name}: {error}")),
        }
        asked.push(name);
    }
    if !plain_too {
        list.retain(|endpoint: &String| {
            let plain = endpoint.starts_with("http://");
            if plain {
                eprintln!("ignoring discovered insecure endpoint {endpoint:?}");
            }
            !plain
        });
    }
    if list.is_empty() {
        let why = match troubles.is_empty() {
            true => "there are none".to_owned(),
            false => troubles.join("; "),
        };
        let text = format!("no endpoints by {}: {why}", asked.join(" or "));
        return Err(Failure::new(code::ERROR, text).next(format!(
            "dig SRV {}   # or name them by --endpoints",
            asked[0]
        )));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(plain_too: bool, name: &str) -> Result<Vec<String>> {
        endpoints("x.example", name, plain_too, |asked| match asked {
            "_etcd-client-ssl._tcp.x.example" => Ok(vec![Service {
                priority: 0,
                target: "a.example".to_owned(),
                port: 1,
            }]),
            "_etcd-client._tcp.x.example" | "_etcd-client-blue._tcp.x.example" => {
                Ok(vec![Service {
                    priority: 0,
                    target: "b.example.".to_owned(),
                    port: 2,
                }])
            }
            _ => Err("no server answers".to_owned()),
        })
    }

    #[test]
    fn both_services_are_joined_and_one_alone_is_enough() {
        assert_eq!(
            found(true, "").expect("two"),
            ["https://a.example:1", "http://b.example:2"]
        );
        assert_eq!(found(false, "").expect("one"), ["https://a.example:1"]);
        assert_eq!(found(true, "blue").expect("one"), ["http://b.example:2"]);
        let none = found(false, "blue").expect_err("only a plain one");
        assert!(none.text().contains("no server answers"), "{}", none.text());
        assert!(found(true, "green").is_err());
    }

    #[test]
    fn dns_servers_are_addresses() {
        let given = servers("127.0.0.1:5300, ::1").expect("two");
        assert_eq!(
            given,
            [
                ([127, 0, 0, 1], 5300).into(),
                "[::1]:53".parse().expect("good")
            ]
        );
        assert!(servers("localhost").is_err());
    }
}
