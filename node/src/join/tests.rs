use super::*;
use crate::config::Config;

/// As configured on the command line.
fn config(args: &[&str]) -> Config {
    let none: [(String, String); 0] = [];
    let loaded = Config::load(args, none, |_| Err(std::io::ErrorKind::NotFound.into()));
    let config = loaded.unwrap().config;
    assert_eq!(config.founding_error, None);
    config
}

const THREE: &str = "--initial-cluster=a=http://a:1,b=http://b:1,c=http://c:1";

fn as_b() -> Config {
    config(&[
        "--name=b",
        "--initial-advertise-peer-urls=http://b:1",
        THREE,
    ])
}

fn member(id: u64, name: &str, url: &str) -> Member {
    let client_urls = match name {
        "" => vec![],
        _ => vec!["http://client:1".to_owned()],
    };
    Member {
        id,
        name: name.to_owned(),
        peer_urls: vec![url.to_owned()],
        client_urls,
        is_learner: false,
    }
}

fn founders(config: &Config) -> Vec<Member> {
    let founders = config.initial_cluster.iter();
    founders
        .map(|m| member(m.id, "", &m.peer_urls[0].to_string()))
        .collect()
}

fn url() -> Url {
    Url::parse("http://a:1").unwrap()
}

fn refused<T: std::fmt::Debug>(result: Result<T, Exit>, code: Code, parts: &[&str]) {
    let exit = format!("{:?}", result.unwrap_err());
    assert!(exit.contains(&format!("{code:?}")), "{exit}");
    for part in parts {
        assert!(exit.contains(part), "{exit} lacks {part:?}");
    }
}

#[test]
fn a_founder_that_never_started_may_start_late() {
    let config = as_b();
    let mut told = Told {
        cluster_id: config.cluster_id,
        members: founders(&config),
    };
    assert!(may_found(&config, &url(), &told).is_ok());
    // The other one is so young that it knows nobody yet.
    told.members.clear();
    assert!(may_found(&config, &url(), &told).is_ok());
}

#[test]
fn a_founder_that_was_started_before_does_not_come_back_with_an_empty_disk() {
    let config = as_b();
    let mut told = Told {
        cluster_id: config.cluster_id,
        members: founders(&config),
    };
    for known in &mut told.members {
        if known.id == config.member_id {
            *known = member(known.id, "b", "http://b:1");
        }
    }
    refused(
        may_found(&config, &url(), &told),
        Code::Safety,
        &[
            "has already been bootstrapped",
            &format!("member {:x}", config.member_id),
            &format!("cluster {:x}", config.cluster_id),
            "b.etcd is empty",
            &format!("etcdctl member remove {:x}", config.member_id),
            "--peer-urls=http://b:1",
        ],
    );
}

#[test]
fn a_founder_that_was_removed_and_one_of_another_cluster_are_told_so() {
    let config = as_b();
    let mut told = Told {
        cluster_id: config.cluster_id,
        members: founders(&config),
    };
    told.members.retain(|known| known.id != config.member_id);
    refused(
        may_found(&config, &url(), &told),
        Code::Safety,
        &["it was removed", "etcdctl member add"],
    );
    told.cluster_id = 0xabc;
    refused(
        may_found(&config, &url(), &told),
        Code::Safety,
        &[
            "http://a:1 is of cluster abc",
            &format!("cluster {:x}", config.cluster_id),
            "--initial-cluster-token",
        ],
    );
}

#[test]
fn a_joining_member_finds_itself_by_its_urls_and_takes_its_ids_from_the_cluster() {
    let config = as_b();
    let told = Told {
        cluster_id: 0xabc,
        members: vec![
            member(5, "", "http://b:1"),
            member(7, "other names", "http://a:1"),
            member(9, "do not matter", "http://c:1"),
        ],
    };
    let joined = may_join(&config, &url(), &told).unwrap();
    assert_eq!((joined.cluster_id, joined.member_id), (0xabc, 5));
    assert_eq!(joined.members, told.members);
    let as_founders = as_founders(&joined.members);
    assert_eq!(as_founders[1].id, 7);
    assert_eq!(as_founders[1].peer_urls, [url()]);
}

#[test]
fn a_joining_member_must_be_listed_with_everybody_else() {
    let config = as_b();
    let mut told = Told {
        cluster_id: 0xabc,
        members: vec![member(7, "a", "http://a:1"), member(9, "c", "http://c:1")],
    };
    refused(
        may_join(&config, &url(), &told),
        Code::Usage,
        &[
            "member count is unequal",
            "3 members: a=http://a:1, b=http://b:1, c=http://c:1",
            "2 members: a=http://a:1, c=http://c:1",
            "etcdctl member add",
        ],
    );
    told.members.push(member(11, "", "http://elsewhere:1"));
    refused(
        may_join(&config, &url(), &told),
        Code::Usage,
        &["no match found for existing member b", "http://elsewhere:1"],
    );
    told.members.pop();
    told.members.push(member(5, "b", "http://b:1"));
    refused(
        may_join(&config, &url(), &told),
        Code::Safety,
        &["member 5 has already been bootstrapped"],
    );
}

#[test]
fn joining_needs_somebody_to_ask() {
    refused(
        join(&config(&["--initial-cluster-state=existing"])),
        Code::Usage,
        &["names no other member"],
    );
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let list = format!("--initial-cluster=a=http://{address},b=http://b:1");
    let config = config(&[
        "--name=b",
        "--initial-advertise-peer-urls=http://b:1",
        &list,
    ]);
    refused(
        join(&config),
        Code::Safety,
        &[
            "could not retrieve cluster information from the given urls",
            &address.to_string(),
            "refused",
        ],
    );
    assert!(found(&config).is_ok(), "founders may be late");
}
