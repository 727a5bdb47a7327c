//! Before an empty data directory becomes a member: what the others say.
//!
//! A member that founds a cluster asks the other founders whether they know it already. One that
//! has been a member may have voted and acknowledged entries; without its data it must not come
//! back under the same id, or a majority could forget what it has promised. A member that joins asks
//! for the list of members, finds itself in it by its peer urls, and takes the ids from there.
//!
//! Blocking; for the start only.

mod ask;

use std::fmt::Write as _;
use std::time::Duration;

use kvnode_api::Member;

use crate::config::{Config, FoundingMember, Url};
use crate::exit::{Code, Exit};
use crate::memberlist::Told;

/// How long founders are waited for, all of them together: usually they are starting as well.
const FOUNDERS_LIMIT: Duration = Duration::from_secs(1);
/// How long members of a cluster that runs are waited for, all of them together.
const MEMBERS_LIMIT: Duration = Duration::from_secs(10);

/// What a joining member starts from.
#[derive(Debug, Clone, PartialEq)]
pub struct Joined {
    pub cluster_id: u64,
    pub member_id: u64,
    pub members: Vec<Member>,
}

/// Refuses to found a cluster as somebody the others know already. Nobody answering is fine.
pub fn found(config: &Config) -> Result<(), Exit> {
    for (url, answer) in ask::all(config, &others(config), FOUNDERS_LIMIT) {
        match answer {
            Ok(told) => may_found(config, &url, &told)?,
            Err(why) => log::debug!("asking {url} for its members: {why}"),
        }
    }
    Ok(())
}

/// Finds this member in the cluster that runs.
pub fn join(config: &Config) -> Result<Joined, Exit> {
    let others = others(config);
    if others.is_empty() {
        return Err(Exit::new(
            Code::Usage,
            "--initial-cluster-state=existing, but --initial-cluster names no other member",
            "list all members, as `etcdctl member add` prints them; or found a cluster with --initial-cluster-state=new",
        ));
    }
    let answers = ask::until(config, &others, MEMBERS_LIMIT, |url, told| {
        may_join(config, url, told).is_ok()
    });
    // One that lags behind may not know of this member yet: any that does will do.
    let mut refused = None;
    let mut silent = String::new();
    for (url, answer) in &answers {
        match answer {
            Ok(told) => match may_join(config, url, told) {
                Ok(joined) => return Ok(joined),
                Err(why) => {
                    refused.get_or_insert(why);
                }
            },
            Err(why) => {
                let _ = write!(silent, "; {url}: {why}");
            }
        }
    }
    Err(refused.unwrap_or_else(|| {
        Exit::new(
            Code::Safety,
            format!("could not retrieve cluster information from the given urls{silent}"),
            "are the other members running, and are these their peer urls?",
        )
    }))
}

/// Which of these members answer as members of this cluster.
pub fn alive(config: &Config, urls: &[Url], cluster_id: u64) -> Vec<Url> {
    let answers = ask::all(config, urls, FOUNDERS_LIMIT);
    let ours = |told: Result<Told, String>| told.is_ok_and(|told| told.cluster_id == cluster_id);
    let alive = answers
        .into_iter()
        .filter_map(|(url, told)| ours(told).then_some(url));
    alive.collect()
}

fn others(config: &Config) -> Vec<Url> {
    let others = config.initial_cluster.iter();
    others
        .filter(|member| member.name != config.name)
        .flat_map(|member| member.peer_urls.iter().cloned())
        .collect()
}

fn may_found(config: &Config, url: &Url, told: &Told) -> Result<(), Exit> {
    if told.cluster_id != config.cluster_id {
        return Err(Exit::new(
            Code::Safety,
            format!(
                "the member at {url} is of cluster {:x}, but --initial-cluster and --initial-cluster-token here come to cluster {:x}",
                told.cluster_id, config.cluster_id
            ),
            "both settings must be the same on all founding members; to join a cluster that runs, `etcdctl member add` this member and start it with --initial-cluster-state=existing",
        ));
    }
    let id = config.member_id;
    match told.members.iter().find(|member| member.id == id) {
        Some(known) if !known.client_urls.is_empty() => Err(bootstrapped(config, told, known)),
        Some(_) => Ok(()),
        None if told.members.is_empty() => Ok(()),
        None => Err(Exit::new(
            Code::Safety,
            format!(
                "member {id:x} is no longer part of cluster {:x}, says the member at {url}: it was removed",
                told.cluster_id
            ),
            "add it anew with `etcdctl member add` and start it with --initial-cluster-state=existing",
        )),
    }
}

fn may_join(config: &Config, url: &Url, told: &Told) -> Result<Joined, Exit> {
    let listed = &config.initial_cluster;
    if listed.len() != told.members.len() {
        return Err(Exit::new(
            Code::Usage,
            format!(
                "member count is unequal: --initial-cluster lists {}; the cluster has, says the member at {url}, {}",
                list(
                    listed
                        .iter()
                        .map(|m| (m.name.as_str(), texts(&m.peer_urls)))
                ),
                list(
                    told.members
                        .iter()
                        .map(|m| (m.name.as_str(), sorted(&m.peer_urls)))
                ),
            ),
            "add this member with `etcdctl member add` first, then start it with the list that prints",
        ));
    }
    let mut own = None;
    for member in &told.members {
        let urls = sorted(&member.peer_urls);
        let Some(entry) = listed.iter().find(|entry| texts(&entry.peer_urls) == urls) else {
            return Err(Exit::new(
                Code::Usage,
                format!(
                    "PeerURLs: no match found for existing member {:x} ({:?}) with {}",
                    member.id,
                    member.name,
                    urls.join(",")
                ),
                "--initial-cluster must list every member with exactly its peer urls; see `etcdctl member list`",
            ));
        };
        if entry.name == config.name {
            own = Some(member);
        }
    }
    // The counts are equal, the entries differ and each member has one: all entries are taken.
    let own = own.ok_or_else(|| {
        let what = format!("member {:?} is not in the cluster", config.name);
        Exit::new(Code::Usage, what, "add it with `etcdctl member add`")
    })?;
    if !own.name.is_empty() {
        return Err(bootstrapped(config, told, own));
    }
    Ok(Joined {
        cluster_id: told.cluster_id,
        member_id: own.id,
        members: told.members.clone(),
    })
}

fn bootstrapped(config: &Config, told: &Told, known: &Member) -> Exit {
    Exit::new(
        Code::Safety,
        format!(
            "member {:x} has already been bootstrapped: it is part of cluster {:x} as {:?}, but {} is empty. It may have voted, so it must not come back without its data",
            known.id,
            told.cluster_id,
            known.name,
            config.data_dir.display()
        ),
        format!(
            "is the right disk mounted? if the data is lost, replace the member: `etcdctl member remove {:x}`, `etcdctl member add {} --peer-urls={}`, then start it with --initial-cluster-state=existing",
            known.id,
            known.name,
            known.peer_urls.join(",")
        ),
    )
}

fn texts(urls: &[Url]) -> Vec<String> {
    let mut texts: Vec<String> = urls.iter().map(Url::to_string).collect();
    texts.sort();
    texts
}

fn sorted(urls: &[String]) -> Vec<String> {
    let mut urls = urls.to_vec();
    urls.sort();
    urls
}

fn list<'a>(members: impl Iterator<Item = (&'a str, Vec<String>)>) -> String {
    let shown = members.map(|(name, urls)| match name {
        "" => format!("(not started)={}", urls.join(",")),
        name => format!("{name}={}", urls.join(",")),
    });
    let shown: Vec<String> = shown.collect();
    format!("{} members: {}", shown.len(), shown.join(", "))
}

/// As entries of `--initial-cluster`, with the ids the cluster has given; urls this version cannot
/// read are left out.
pub fn as_founders(members: &[Member]) -> Vec<FoundingMember> {
    members
        .iter()
        .map(|member| FoundingMember {
            id: member.id,
            name: member.name.clone(),
            peer_urls: member
                .peer_urls
                .iter()
                .filter_map(|url| Url::parse(url).ok())
                .collect(),
        })
        .collect()
}

#[cfg(test)]
mod tests;
