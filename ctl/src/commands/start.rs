//! How a member that was just added has to be started: as variables, which etcdctl prints, as a configuration file and as flags.

use std::net::IpAddr;

use kvnode_client::api;

use crate::golang;

/// What a new member must know of the cluster it joins.
pub struct Start {
    name: String,
    /// `NAME=URL` of all members, the new one too.
    cluster: String,
    peer_urls: String,
}

impl Start {
    pub fn new(name: &str, peer_urls: &str, answer: &api::MemberAddResponse) -> Start {
        let new = answer.member.as_ref().map_or(0, |member| member.id);
        let mut cluster = Vec::new();
        for member in &answer.members {
            let member_name = if member.id == new { name } else { &member.name };
            let urls = member.peer_urls.iter();
            cluster.extend(urls.map(|url| format!("{member_name}={url}")));
        }
        Start {
            name: name.to_owned(),
            cluster: cluster.join(","),
            peer_urls: peer_urls.to_owned(),
        }
    }

    /// As variables of the environment.
    pub fn variables(&self) -> String {
        let quote = |text: &str| golang::quote(text.as_bytes());
        format!(
            "ETCD_NAME={}\nETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_ADVERTISE_PEER_URLS={}\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
            quote(&self.name),
            quote(&self.cluster),
            quote(&self.peer_urls),
        )
    }

    /// For people: the same as a configuration file and as flags.
    pub fn other_forms(&self) -> String {
        // A quoted string of Go without odd letters is one of YAML too; URLs and names have none.
        let quote = |text: &str| golang::quote(text.as_bytes());
        let listen = listen(&self.peer_urls);
        let Start {
            name,
            cluster,
            peer_urls,
        } = self;
        format!(
            "As a file for --config-file; data-dir, listen-client-urls and advertise-client-urls are yours to add:\n\
             name: {}\n\
             initial-cluster: {}\n\
             initial-cluster-state: existing\n\
             initial-advertise-peer-urls: {}\n\
             listen-peer-urls: {}\n\
             \n\
             As flags:\n\
             kvnode --name {} --initial-cluster {} --initial-cluster-state existing --initial-advertise-peer-urls {} --listen-peer-urls {} \
             --data-dir DIR --listen-client-urls URLS --advertise-client-urls URLS\n",
            quote(name),
            quote(cluster),
            quote(peer_urls),
            quote(&listen),
            shell(name),
            shell(cluster),
            shell(peer_urls),
            shell(&listen),
        )
    }
}

/// Where to listen for these URLs: a name is for others, a member listens on addresses.
fn listen(urls: &str) -> String {
    let of = |url: &str| -> Option<String> {
        let (scheme, rest) = url.split_once("://")?;
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':')?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stays = host == "localhost" || bare.parse::<IpAddr>().is_ok();
        let host = if stays { host } else { "0.0.0.0" };
        Some(format!("{scheme}://{host}:{port}"))
    };
    let all: Vec<String> = urls
        .split(',')
        .map(|url| of(url).unwrap_or_else(|| url.to_owned()))
        .collect();
    all.join(",")
}

/// A word of a shell's line.
fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || ":/.,=_-@+%[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_advertised_and_an_address_listened_on() {
        assert_eq!(
            listen("http://n4.example:2380,https://[::1]:1/"),
            "http://0.0.0.0:2380,https://[::1]:1"
        );
        assert_eq!(
            shell("n4=http://h:1,n5=http://h:2"),
            "n4=http://h:1,n5=http://h:2"
        );
        assert_eq!(shell("it's"), "'it'\\''s'");
    }
}
