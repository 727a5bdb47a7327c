//! Who the restored cluster consists of, and what is done to the state, as the command line says it.

use bytes::Bytes;
use kvnode_api::Member;
use kvnode_store::remake::Leases;
use serde::{Deserialize, Serialize};

use super::ids;
use crate::failure::{Code, Failure, Result};

/// Where members of a cluster of one are told to listen if nobody says otherwise; etcd's default.
pub const PEER_URL: &str = "http://localhost:2380";
pub const TOKEN: &str = "etcd-cluster";
/// What `auto` adds to the revision: more than any cluster hands out between a snapshot and its loss (11 days at 1000 writes a
/// second). The same for all members, whenever each of them restores.
pub const BUMP_AUTO: i64 = 1_000_000_000;

/// A founding member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founder {
    pub name: String,
    /// Hexadecimal.
    pub id: String,
    pub peer_urls: Vec<String>,
}

impl Founder {
    pub fn new(name: &str, mut peer_urls: Vec<String>, token: &str) -> Result<Self> {
        peer_urls.sort();
        for url in &peer_urls {
            check_url(url)?;
        }
        let id = ids::member(&peer_urls, token)
            .ok_or_else(|| usage("these peer urls and token yield no id: change the token"))?;
        Ok(Founder {
            name: name.to_owned(),
            id: format!("{id:x}"),
            peer_urls,
        })
    }

    pub fn number(&self) -> u64 {
        u64::from_str_radix(&self.id, 16).unwrap_or(0)
    }

    /// As the member table has a founder before it has said anything of itself.
    pub fn record(&self) -> Member {
        Member {
            id: self.number(),
            peer_urls: self.peer_urls.clone(),
            ..Member::default()
        }
    }
}

/// `name=url,name=url2,other=url`, as `--initial-cluster` of the server.
pub fn parse_cluster(text: &str, token: &str) -> Result<Vec<Founder>> {
    let mut named: Vec<(&str, Vec<String>)> = Vec::new();
    for entry in text.split(',').filter(|entry| !entry.trim().is_empty()) {
        let (name, url) = entry
            .trim()
            .split_once('=')
            .filter(|(name, url)| !name.is_empty() && !url.is_empty())
            .ok_or_else(|| usage(format!("--initial-cluster: {entry:?} is not NAME=URL")))?;
        match named.iter_mut().find(|(known, _)| *known == name) {
            Some((_, urls)) => urls.push(url.to_owned()),
            None => named.push((name, vec![url.to_owned()])),
        }
    }
    if named.is_empty() {
        return Err(usage("--initial-cluster names nobody"));
    }
    let founders = named
        .into_iter()
        .map(|(name, urls)| Founder::new(name, urls, token))
        .collect::<Result<Vec<_>>>()?;
    let mut urls: Vec<&String> = founders.iter().flat_map(|f| &f.peer_urls).collect();
    urls.sort();
    if let Some(twice) = urls.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(usage(format!(
            "--initial-cluster names {} twice: each member needs a peer url of its own",
            twice[0]
        )));
    }
    Ok(founders)
}

fn check_url(url: &str) -> Result<()> {
    let host = ["http://", "https://"]
        .iter()
        .find_map(|scheme| url.strip_prefix(scheme));
    let host = host.map(|rest| rest.trim_end_matches('/'));
    let port = host.and_then(|host| host.rsplit_once(':')?.1.parse::<u16>().ok());
    match port {
        Some(port) if port > 0 => Ok(()),
        _ => Err(usage(format!(
            "{url:?} is no peer url: http://HOST:PORT is wanted"
        ))),
    }
}

/// What is done to the state on its way. Written into the cluster's id and into plans: members that do different things to it
/// must not meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    pub revision_bump: i64,
    /// `keep`, `drop`, or `extend=SECONDS`.
    pub leases: String,
    /// `keep` or `drop`.
    pub auth: String,
    pub prefix: String,
}

impl Changes {
    pub fn text(&self) -> String {
        format!(
            "bump {}\nleases {}\nauth {}\nprefix {:?}\n",
            self.revision_bump, self.leases, self.auth, self.prefix
        )
    }

    pub fn leases(&self) -> Result<Leases> {
        parse_leases(&self.leases).ok_or_else(|| usage("leases: keep, drop, or extend=DURATION"))
    }

    pub fn auth(&self) -> bool {
        self.auth != "drop"
    }

    pub fn prefix(&self) -> Bytes {
        Bytes::copy_from_slice(self.prefix.as_bytes())
    }
}

pub fn parse_leases(text: &str) -> Option<Leases> {
    match text.split_once('=') {
        None if text == "keep" => Some(Leases::Keep),
        None if text == "drop" => Some(Leases::Drop),
        Some(("extend", duration)) => parse_seconds(duration).map(Leases::Extend),
        _ => None,
    }
}

pub fn leases_text(leases: Leases) -> String {
    match leases {
        Leases::Keep => "keep".into(),
        Leases::Drop => "drop".into(),
        Leases::Extend(seconds) => format!("extend={seconds}s"),
    }
}

/// `90s`, `15m`, `2h`, `3d`, or seconds.
fn parse_seconds(text: &str) -> Option<i64> {
    let (digits, factor) = match text.as_bytes().last()? {
        b's' => (&text[..text.len() - 1], 1),
        b'm' => (&text[..text.len() - 1], 60),
        b'h' => (&text[..text.len() - 1], 3600),
        b'd' => (&text[..text.len() - 1], 86400),
        _ => (text, 1),
    };
    let seconds: i64 = digits.parse().ok()?;
    // A lease lasts at most 9 000 000 000 seconds.
    seconds
        .checked_mul(factor)
        .filter(|seconds| (0..=9_000_000_000).contains(seconds))
}

pub fn usage(what: impl Into<String>) -> Failure {
    Failure::new(Code::Usage, what, "kvutil snapshot restore --help")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_read_as_the_server_reads_it() {
        let parsed = parse_cluster("a=http://h:1,b=http://h:2,a=http://i:1", "t").unwrap();
        let names: Vec<_> = parsed
            .iter()
            .map(|f| (&f.name[..], f.peer_urls.len()))
            .collect();
        assert_eq!(names, [("a", 2), ("b", 1)]);
        assert_eq!(
            parsed[0],
            Founder::new("a", vec!["http://i:1".into(), "http://h:1".into()], "t").unwrap()
        );
        for bad in [
            "",
            "a",
            "a=",
            "=http://h:1",
            "a=h:1",
            "a=http://h",
            "a=http://h:0",
            "a=http://h:1,b=http://h:1",
        ] {
            assert!(parse_cluster(bad, "t").is_err(), "{bad}");
        }
    }

    #[test]
    fn leases_come_back_from_their_text() {
        for (text, leases) in [
            ("keep", Leases::Keep),
            ("drop", Leases::Drop),
            ("extend=90", Leases::Extend(90)),
            ("extend=2h", Leases::Extend(7200)),
        ] {
            assert_eq!(parse_leases(text), Some(leases));
            assert_eq!(parse_leases(&leases_text(leases)), Some(leases));
        }
        for bad in [
            "",
            "extend",
            "extend=",
            "extend=h",
            "extend=-1s",
            "extend=9999999d",
            "keep=1",
        ] {
            assert_eq!(parse_leases(bad), None, "{bad}");
        }
    }
}
