//! Who founds the cluster: `--name`, `--initial-cluster` and `--initial-advertise-peer-urls` against
//! each other, and the ids that follow from them.

use super::check::Read;
use super::flags::{DEFAULT_NAME, DEFAULT_PEER_URL};
use super::merge::named;
use super::urls::Url;
use super::{Config, ConfigError, FoundingMember, ids, suggest, values};

/// What `--initial-cluster` and its neighbours come to.
pub(super) struct Founding {
    pub(super) members: Vec<FoundingMember>,
    pub(super) advertise: Vec<Url>,
    pub(super) member_id: u64,
    pub(super) cluster_id: u64,
    pub(super) error: Option<ConfigError>,
}

impl Read<'_> {
    /// What is no url or no list is refused at once. What does not fit together is kept for the one
    /// who needs it: once the data directory exists these settings are ignored, and may well be those
    /// of a cluster that has changed since.
    pub(super) fn founding(&mut self, name: &str) -> Result<Founding, ConfigError> {
        let mut advertise = self.urls("initial-advertise-peer-urls", true)?;
        let mut members = self.members(name, &advertise)?;
        let token = self.text("initial-cluster-token");
        let id = |urls: &[Url]| {
            ids::member_id(urls.iter().map(Url::to_string), token)
                .ok_or_else(|| self.invalid("initial-cluster-token", "it yields the member id 0"))
        };
        for member in &mut members {
            member.id = id(&member.peer_urls)?;
        }
        let member_id = id(&advertise)?;
        let cluster_id = ids::cluster_id(members.iter().map(|member| member.id));
        let flag = named("initial-cluster", self.source("initial-cluster"));
        let error = consistent(&flag, name, &members, &advertise).err();
        advertise.sort_by_key(Url::to_string);
        Ok(Founding {
            members,
            advertise,
            member_id,
            cluster_id,
            error,
        })
    }

    /// The entries of `--initial-cluster`; without it, this member alone under what it announces.
    fn members(&self, name: &str, advertise: &[Url]) -> Result<Vec<FoundingMember>, ConfigError> {
        let flag = "initial-cluster";
        let mut members = parse(self.text(flag)).map_err(|why| self.invalid(flag, &why))?;
        if members.is_empty() {
            members.push(FoundingMember {
                id: 0,
                name: name.to_owned(),
                peer_urls: advertise.to_vec(),
            });
        }
        Ok(members)
    }
}

impl Config {
    /// Takes over founders that were found only now (see `discovery.rs`), listed as `--initial-cluster` lists them.
    ///
    /// # Errors
    /// The list cannot be read, or does not fit this member's name and urls.
    pub fn set_founders(&mut self, list: &str) -> Result<(), ConfigError> {
        let bad = |why: &str| ConfigError::usage(format!("discovery found {list:?}: {why}"));
        let mut members = parse(list).map_err(|why| bad(&why))?;
        for member in &mut members {
            let urls = member.peer_urls.iter().map(Url::to_string);
            member.id = ids::member_id(urls, &self.initial_cluster_token)
                .ok_or_else(|| bad("it yields the member id 0"))?;
        }
        let flag = format!("what discovery found ({list})");
        consistent(&flag, &self.name, &members, &self.advertise_peer_urls)?;
        self.cluster_id = ids::cluster_id(members.iter().map(|member| member.id));
        self.initial_cluster = members;
        Ok(())
    }
}

fn consistent(
    flag: &str,
    name: &str,
    members: &[FoundingMember],
    advertise: &[Url],
) -> Result<(), ConfigError> {
    let names = || members.iter().map(|member| member.name.as_str());
    for (at, member) in members.iter().enumerate() {
        let shared = |url: &&Url| members[..at].iter().any(|m| m.peer_urls.contains(url));
        if let Some(url) = member.peer_urls.iter().find(shared) {
            let holder = members[..at].iter().find(|m| m.peer_urls.contains(url));
            return Err(ConfigError::usage(format!(
                "{flag}: members {:?} and {:?} have the same url {url}",
                holder.map_or("", |holder| &holder.name),
                member.name
            ))
            .hint("each member needs peer urls of its own"));
        }
    }
    let Some(own) = members.iter().find(|member| member.name == name) else {
        let has: Vec<&str> = names().collect();
        return Err(ConfigError::usage(format!(
            "member {name:?} is not in {flag} (has: {})",
            has.join(", ")
        ))
        .hint(match suggest::nearest(name, names()) {
            Some(nearest) => format!("set --name={nearest}, or add {name}=URL to the list"),
            None => format!("set --name, or add {name}=URL to the list"),
        }));
    };
    if members.len() > 1 && name == DEFAULT_NAME {
        return Err(ConfigError::usage(format!(
                "this member is called {DEFAULT_NAME:?}, as every member is that was given no name, and {flag} lists {} members",
                members.len()
            ))
            .hint("give each member a name of its own with --name"));
    }
    let (listed, announced) = (sorted(&own.peer_urls), sorted(advertise));
    if listed != announced {
        return Err(mismatch(name, &listed, &announced));
    }
    Ok(())
}

/// Reads `name=url,...`; ids are left out.
fn parse(list: &str) -> Result<Vec<FoundingMember>, String> {
    let mut members: Vec<FoundingMember> = Vec::new();
    for item in values::split_list(list) {
        let Some((member, url)) = item
            .split_once('=')
            .filter(|(member, _)| !member.is_empty())
        else {
            return Err(format!("{item:?} is not name=url"));
        };
        let url = Url::parse(url)?;
        match members.iter_mut().find(|m| m.name == member) {
            Some(known) if known.peer_urls.contains(&url) => {
                return Err(format!("{member:?} has {url} twice"));
            }
            Some(known) => known.peer_urls.push(url),
            None => members.push(FoundingMember {
                id: 0,
                name: member.to_owned(),
                peer_urls: vec![url],
            }),
        }
    }
    Ok(members)
}

fn sorted(urls: &[Url]) -> Vec<String> {
    let mut urls: Vec<String> = urls.iter().map(Url::to_string).collect();
    urls.sort();
    urls
}

/// Both lists and what sets them apart. Urls are compared as text: ids are digests of that text.
fn mismatch(name: &str, listed: &[String], announced: &[String]) -> ConfigError {
    let only = |a: &[String], b: &[String]| -> Option<String> {
        a.iter().find(|url| !b.contains(url)).cloned()
    };
    let differs = match (only(listed, announced), only(announced, listed)) {
        (Some(url), _) => format!("{url} is missing from --initial-advertise-peer-urls"),
        (None, Some(url)) => format!("{url} is missing from --initial-cluster"),
        (None, None) => "they differ".to_owned(),
    };
    let hint = match announced {
        [only] if only == DEFAULT_PEER_URL => {
            format!("set --initial-advertise-peer-urls={}", listed.join(","))
        }
        _ => "make both lists equal; urls are compared letter by letter, names are not resolved"
            .to_owned(),
    };
    ConfigError::usage(format!(
        "--initial-cluster has {name}={} but --initial-advertise-peer-urls is {}: {differs}",
        listed.join(","),
        announced.join(",")
    ))
    .hint(hint)
}
