//! Members, endpoints, snapshots, defragmentation.

use std::process::{Command, Stdio};

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
        "  SYNC P99  ",
        "alarms: none\n",
        "backup: none since the members started; kvctl snapshot save FILE\n",
        &tour.server.url(),
    ] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    let json = tour.ok("status -w json");
    for part in [
        "\"role\":\"leader\"",
        "\"sync_p99_seconds\":0.",
        "\"last_snapshot_unix\":0",
        "\"alarms\":[]}\n",
    ] {
        assert!(json.contains(part), "{part}: {json}");
    }
    tour.ok("snapshot save backup.kvs");
    let screen = tour.ok("status");
    assert!(
        screen.contains("backup: 0 min ago, taken from test\n"),
        "{screen}"
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
    let ran = tour.run("snapshot save backup.db");
    assert!(
        ran.code == 0 && ran.stdout.starts_with("Snapshot saved at backup.db\n"),
        "{ran:?}"
    );
    let file = tour.server.home().join("backup.db");
    let bytes = std::fs::read(&file).expect("the file");
    assert_eq!(bytes.len() % 512, 32);
    assert!(!tour.server.home().join("backup.db.part").exists());
    let mut status = Command::new(build::tool("kvutil"));
    status.args(["snapshot", "status"]).arg(&file);
    let shown = program::run(status, "", LIMIT).ok();
    // Hash, revision and keys, as kvctl told them.
    let (hash, _) = shown.split_once(", 2, 1, ").expect("revision 2, one key");
    let told = format!("revision 2, keys 1, hash {hash}, size ");
    assert!(ran.stderr.contains(&told), "{told:?}: {ran:?}");
    assert!(ran.stderr.contains(", sha256 "), "{ran:?}");
    // A node starts from it.
    let restored = tour.server.home().join("restored");
    let mut restore = Command::new(build::tool("kvutil"));
    restore
        .args(["snapshot", "restore", "--single", "test"])
        .arg(&file);
    restore.arg("--data-dir").arg(&restored);
    program::run(restore, "", LIMIT).ok();
    let again = Tour::of(Server::start(Options::default().data_dir(restored)));
    assert_eq!(again.ok("get k"), "k\nv\n");
    drop(again);
    tour.run("snapshot save missing/backup.db")
        .fails(5, "missing/backup.db.part");
    let dead = format!("127.0.0.1:{}", free_port());
    let mut nobody = kvctl(&dead, "snapshot save other.db --dial-timeout 200ms");
    nobody.current_dir(tour.server.home());
    program::run(nobody, "", LIMIT).fails(5, &format!("tried: {dead}: "));
    assert!(!tour.server.home().join("other.db.part").exists());
}

#[test]
fn a_snapshot_comes_from_a_follower_and_the_leader_steps_down_before_it_is_defragmented() {
    let mut cluster = Cluster::start(3, Options::default());
    let endpoints: Vec<String> = (0..3)
        .map(|number| cluster.member(number).address().to_string())
        .collect();
    let all = endpoints.join(",");
    let home = cluster.member(0).home().to_path_buf();
    let run = |line: &str| {
        let mut command = kvctl(&all, line);
        command.current_dir(&home);
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
        let defragmented = run("defrag --cluster --move-leader=false").ok();
        let saved = run("snapshot save cluster.db");
        seen = before
            .filter(|before| Some(before) == leader().as_ref())
            .map(|leader| (leader, screen, defragmented, saved));
        seen.is_some()
    });
    let (leads, screen, defragmented, saved) = seen.expect("a look");
    assert_eq!(screen.matches("  follower  ").count(), 2, "{screen}");
    let last = defragmented.lines().last().expect("three lines");
    assert!(
        defragmented.lines().count() == 3 && last.contains(&leads),
        "{leads}: {defragmented}"
    );
    let from = saved.stderr.lines().next().unwrap_or_default().to_owned();
    let from = from.strip_prefix("taking the snapshot from ");
    assert!(
        from.is_some_and(|from| from != leads && endpoints.iter().any(|one| one == from)),
        "{leads}: {saved:?}"
    );
    saved.ok();

    // Unless it is told not to, the leader hands over before its turn.
    let mut moved = None;
    eventually(|| {
        let before = leader().unwrap_or_default();
        let ran = run("defrag --cluster");
        let said = ran.stderr.lines().find_map(|line| {
            let rest = line.strip_prefix("leadership goes from http://")?;
            rest.split_once(" to http://")
                .filter(|(from, _)| *from == before)
                .map(|(from, to)| (from.to_owned(), to.to_owned()))
        });
        moved = said.map(|said| (ran, said));
        moved.is_some()
    });
    let (ran, (from, to)) = moved.expect("a move");
    assert!(from != to && endpoints.contains(&to), "{ran:?}");
    let last = ran.stdout.lines().last().expect("three lines");
    assert!(last.contains(&from), "{from}: {ran:?}");
    let spared = run("defrag --cluster --min-free-percent 100");
    assert_eq!(
        spared.stderr.matches(" is left as it is: ").count(),
        3,
        "{spared:?}"
    );
    assert_eq!(spared.ok(), "");
    run("defrag --min-free-percent 101").fails(128, "expected 0 to 100");

    // Leadership on request; the member that leads already is none to hand it to.
    let ids = || -> Vec<(String, bool)> {
        let states = run("endpoint status").ok();
        let columns = states
            .lines()
            .map(|line| line.split(", ").collect::<Vec<_>>());
        columns.map(|c| (c[1].to_owned(), c[8] == "true")).collect()
    };
    let mut moved = None;
    eventually(|| {
        let ids = ids();
        let leads = ids.iter().find(|(_, leads)| *leads);
        let follows = ids.iter().find(|(_, leads)| !*leads);
        if let (Some((from, _)), Some((to, _))) = (leads, follows) {
            let ran = run(&format!("move-leader {to}"));
            moved = (ran.code == 0).then(|| (ran.stdout, from.clone(), to.clone()));
        }
        moved.is_some()
    });
    let (said, from, to) = moved.expect("a move");
    assert_eq!(
        said,
        format!("Leadership transferred from {from} to {to}\n")
    );

    // Calls go round among the endpoints; one that is gone is passed over.
    cluster.kill(2);
    run("put k before").ok();
    for number in 0..6 {
        assert_eq!(run(&format!("put k {number}")).ok(), "OK\n");
        assert_eq!(run("get k").ok(), format!("k\n{number}\n"));
    }
    run("status").fails(1, "a member does not answer");
}

#[test]
fn a_member_starts_from_the_file_and_from_the_flags_that_adding_it_prints() {
    let tour = Tour::new();
    for form in ["file", "flags"] {
        let port = free_port();
        let peer = format!("http://127.0.0.1:{port}");
        let added = tour.run(&format!("member add {form} --learner --peer-urls {peer}"));
        assert!(
            added
                .stdout
                .ends_with("ETCD_INITIAL_CLUSTER_STATE=\"existing\"\n"),
            "{added:?}"
        );
        let home = tour.server.home().join(form);
        let client = format!("http://127.0.0.1:{}", free_port());
        let more = [
            ("data-dir", home.display().to_string()),
            ("listen-client-urls", client.clone()),
            ("advertise-client-urls", client.clone()),
        ];
        let mut command = Command::new(build::tool("kvnode"));
        match form {
            "file" => {
                let text = added.stderr.split("yours to add:\n").nth(1);
                let text = text.and_then(|text| text.split("\n\n").next());
                let mut text = format!("{}\n", text.expect("the file"));
                more.iter()
                    .for_each(|(name, value)| text.push_str(&format!("{name}: {value}\n")));
                let file = tour.server.home().join("late.yaml");
                std::fs::write(&file, text).expect("a file");
                command.arg("--config-file").arg(file);
            }
            _ => {
                let text = added.stderr.split("As flags:\nkvnode ").nth(1);
                let (text, rest) = text
                    .and_then(|text| text.split_once(" --data-dir "))
                    .expect("the flags");
                assert_eq!(
                    rest,
                    "DIR --listen-client-urls URLS --advertise-client-urls URLS\n"
                );
                command.args(text.split(' '));
                command.args(more.iter().map(|(name, value)| format!("--{name}={value}")));
            }
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let _member = program::Guard(command.spawn().expect("kvnode starts"));
        let state = || {
            let list = tour.ok("member list");
            let line = list.lines().find(|line| line.contains(&peer));
            line.expect("it was added").to_owned()
        };
        eventually(|| state().contains(&format!(", started, {form}, ")));
        let id = state();
        let id = id.split(", ").next().expect("an id").to_owned();
        eventually(|| tour.run(&format!("member promote {id}")).code == 0);
        assert!(state().ends_with(", false"), "{}", state());
        // With two voters neither could be missed.
        eventually(|| tour.run(&format!("member remove {id}")).code == 0);
    }
}

#[test]
fn an_alarm_is_listed_with_how_full_the_member_is_and_what_to_do() {
    let quota = 4 << 20;
    let server = Server::start(Options::default().arg(format!("--quota-backend-bytes={quota}")));
    let tour = Tour::of(server);
    let value = "v".repeat(100_000);
    let mut number = 0;
    eventually(|| {
        number += 1;
        let put = tour.run(&format!("put k{number} {value}"));
        put.code != 0 && put.stderr.contains("database space exceeded")
    });
    let listed = tour.run("alarm list");
    assert!(listed.stdout.ends_with(" alarm:NOSPACE \n"), "{listed:?}");
    for part in [
        "NOSPACE at member ",
        " (test): ",
        " used of 4.2 MB (",
        "next:  kvctl compaction REVISION && kvctl defrag --cluster   # then: kvctl alarm disarm",
    ] {
        assert!(listed.stderr.contains(part), "{part}: {listed:?}");
    }
    let unwell = tour.run("status");
    unwell.fails(1, "an alarm is on");
    assert!(
        unwell.stdout.contains("alarm: NOSPACE at test\n"),
        "{unwell:?}"
    );
    // All but the last put made a revision, and so does this.
    tour.ok("del --prefix k");
    tour.ok(&format!("compaction {}", number + 1));
    eventually(|| tour.ok("alarm list").is_empty());
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
