//! Members, endpoints, snapshots, defragmentation.

use std::process::Command;

use kvnode_tests::cluster::Cluster;
use kvnode_tests::program;
use kvnode_tests::server::free_port;
use kvnode_tests::{Options, Server, build};

use crate::tour::{LIMIT, Tour, eventually, kvctl};

#[test]
fn members_and_endpoints_are_shown() {
    let tour = Tour::new();
    let line = tour.ok("member list");
    assert!(
        line.contains(", started, test, ") && line.ends_with(", false\n"),
        "{line}"
    );
    let table = tour.ok("member list -w table");
    assert_eq!(table.lines().count(), 5);
    assert!(
        table.contains(" ID ") && table.contains(" IS LEARNER "),
        "{table}"
    );
    let health = tour.ok("endpoint health");
    assert!(
        health.starts_with(&format!(
            "{} is healthy: successfully committed proposal: took = ",
            tour.endpoint
        )),
        "{health}"
    );
    let cluster = tour.ok("endpoint health --cluster");
    assert!(cluster.starts_with(&tour.server.url()), "{cluster}");
    let status = tour.ok("endpoint status");
    assert_eq!(status.split(", ").count(), 16, "{status}");
    assert!(
        tour.ok("endpoint hashkv")
            .contains(&format!("{}, ", tour.endpoint))
    );
    let dead = format!("127.0.0.1:{}", free_port());
    let both = format!("{},{dead}", tour.endpoint);
    let half = program::run(
        kvctl(&both, "endpoint health --dial-timeout 300ms"),
        "",
        LIMIT,
    );
    half.fails(1, "Error: unhealthy cluster\nnext:  ");
    assert!(
        half.stderr.contains(&format!("{dead} is unhealthy")),
        "{half:?}"
    );
    assert!(half.stdout.starts_with(&tour.endpoint), "{half:?}");
    assert!(
        tour.ok("defrag")
            .starts_with("Finished defragmenting etcd member[")
    );
    assert_eq!(tour.ok("alarm list"), "");
}

#[test]
fn the_cluster_is_shown_on_one_screen() {
    let tour = Tour::new();
    tour.ok("put k v");
    let screen = tour.ok("status");
    for part in [
        ", 1 members, leader test, term 2, revision 2\n",
        "  leader  ",
        "alarms: none\n",
        &tour.server.url(),
    ] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    let json = tour.ok("status -w json");
    assert!(
        json.contains("\"role\":\"leader\"") && json.ends_with("\"alarms\":[]}\n"),
        "{json}"
    );
    // Somebody who never comes up is seen, and is a reason to exit with 1.
    let peer = format!("http://127.0.0.1:{}", free_port());
    tour.ok(&format!("member add late --learner --peer-urls {peer}"));
    let missing = tour.run("status");
    missing.fails(1, "Error: a member does not answer\nnext:  ");
    assert!(missing.stdout.contains("not started yet"), "{missing:?}");
    assert!(
        tour.ok("defrag --cluster")
            .starts_with("Finished defragmenting etcd member[")
    );
}

#[test]
fn a_snapshot_is_saved_whole_and_known_to_kvutil() {
    let tour = Tour::new();
    tour.ok("put k v");
    let saved = tour.ok("snapshot save backup.db");
    assert!(
        saved.starts_with("Snapshot saved at backup.db\n"),
        "{saved}"
    );
    let file = tour.server.home().join("backup.db");
    let bytes = std::fs::read(&file).expect("the file");
    assert_eq!(bytes.len() % 512, 32);
    assert!(!tour.server.home().join("backup.db.part").exists());
    let mut status = Command::new(build::tool("kvutil"));
    status.args(["snapshot", "status"]).arg(&file);
    let shown = program::run(status, "", LIMIT).ok();
    assert!(!shown.is_empty());
    tour.run("snapshot save missing/backup.db")
        .fails(5, "missing/backup.db.part");
    let dead = format!("127.0.0.1:{}", free_port());
    let mut nobody = kvctl(&dead, "snapshot save other.db --dial-timeout 200ms");
    nobody.current_dir(tour.server.home());
    program::run(nobody, "", LIMIT).fails(5, &format!("tried: {dead}: "));
    assert!(!tour.server.home().join("other.db.part").exists());
}

#[test]
fn a_snapshot_comes_from_a_follower_and_the_leader_is_defragmented_last() {
    let cluster = Cluster::start(3, Options::default());
    let endpoints: Vec<String> = (0..3)
        .map(|number| cluster.member(number).address().to_string())
        .collect();
    let all = endpoints.join(",");
    let run = |line: &str| {
        let mut command = kvctl(&all, line);
        command.current_dir(cluster.member(0).home());
        program::run(command, "", LIMIT)
    };
    run("put k v").ok();
    let leader = || {
        let states = run("endpoint status").ok();
        let leads = |line: &&str| line.split(", ").nth(8) == Some("true");
        let line = states.lines().find(leads)?;
        Some(line.split(", ").next()?.to_owned())
    };
    // With the same leader all the time the order is known; it may change on a busy machine.
    let mut seen = None;
    eventually(|| {
        let before = leader();
        let screen = run("status").ok();
        let defragmented = run("defrag --cluster").ok();
        let saved = run("snapshot save cluster.db");
        seen = before
            .filter(|before| Some(before) == leader().as_ref())
            .map(|leader| (leader, screen, defragmented, saved));
        seen.is_some()
    });
    let (leader, screen, defragmented, saved) = seen.expect("a look");
    assert_eq!(screen.matches("  follower  ").count(), 2, "{screen}");
    let last = defragmented.lines().last().expect("three lines");
    assert!(
        defragmented.lines().count() == 3 && last.contains(&leader),
        "{leader}: {defragmented}"
    );
    let from = saved.stderr.lines().next().unwrap_or_default().to_owned();
    let from = from.strip_prefix("taking the snapshot from ");
    assert!(
        from.is_some_and(|from| from != leader && endpoints.iter().any(|one| one == from)),
        "{leader}: {saved:?}"
    );
    saved.ok();
}

#[test]
fn a_member_is_replaced_in_one_step() {
    let tour = Tour::new();
    let peer_port = free_port();
    let client_port = free_port();
    let url = format!("http://127.0.0.1:{peer_port}");
    let old = tour
        .ok("member list")
        .split(", ")
        .next()
        .expect("an id")
        .to_owned();
    let mut replacing = tour.start(&format!("member replace {old} new --peer-urls {url}"));
    assert!(replacing.line().contains("added as learner"));
    replacing.expect(&["ETCD_NAME=\"new\""]);
    let cluster = replacing.line();
    let cluster = cluster
        .strip_prefix("ETCD_INITIAL_CLUSTER=\"")
        .and_then(|rest| rest.strip_suffix('"'));
    let options = Options::default()
        .client_port(client_port)
        .member("new", peer_port, cluster.expect("the founding"))
        .arg("--initial-cluster-state=existing");
    let _new = Server::start(options);
    replacing.expect(&[
        &format!("ETCD_INITIAL_ADVERTISE_PEER_URLS=\"{url}\""),
        "ETCD_INITIAL_CLUSTER_STATE=\"existing\"",
    ]);
    assert!(replacing.line().ends_with("has caught up and votes"));
    assert!(replacing.line().contains("removed: replaced by"));
    assert_eq!(replacing.end(), 0);
    let left = program::run(
        kvctl(&format!("127.0.0.1:{client_port}"), "member list"),
        "",
        LIMIT,
    )
    .ok();
    assert_eq!(left.lines().count(), 1, "{left}");
    assert!(left.contains(", started, new, "), "{left}");
}
