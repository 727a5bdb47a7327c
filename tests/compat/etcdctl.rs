//! Debian's `etcdctl` (`apt-get install etcd-client`), as scripts and operators use it.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use kvnode_tests::{Options, Server};
use serde_json::Value;

use crate::tool::{Guard, Output, background, interrupt, run, skip};

const LIMIT: Duration = Duration::from_secs(30);

struct Ctl {
    program: PathBuf,
    server: Server,
}

/// A fresh server and the tool; None (and the reason printed) without the tool. `KVNODE_ETCDCTL` names
/// one that is not in the path.
fn ctl() -> Option<Ctl> {
    let program = std::env::var_os("KVNODE_ETCDCTL").map_or("etcdctl".into(), PathBuf::from);
    if let Err(error) = Command::new(&program)
        .arg("version")
        .env("ETCDCTL_API", "3")
        .output()
    {
        skip(
            "etcdctl",
            &format!("{}: {error} (Debian: etcd-client)", program.display()),
        );
        return None;
    }
    Some(Ctl {
        program,
        server: Server::start(Options::default()),
    })
}

impl Ctl {
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.server.address()));
        command.args(line.split_whitespace());
        command
    }

    /// Runs `etcdctl <line>`, words split at blanks.
    fn run(&self, line: &str) -> Output {
        run(self.command(line), "", LIMIT)
    }

    fn ok(&self, line: &str) -> String {
        self.run(line).ok()
    }

    fn background(&self, line: &str) -> (Guard, mpsc::Receiver<String>) {
        background(self.command(line))
    }

    fn json(&self, line: &str) -> Value {
        let text = self.ok(&format!("{line} --write-out=json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"))
    }
}

#[test]
fn put_get_and_del_work() {
    let Some(ctl) = ctl() else { return };
    assert_eq!(ctl.ok("put foo bar"), "OK\n");
    assert_eq!(ctl.ok("put foo2 bar2"), "OK\n");
    assert_eq!(ctl.ok("put goo x"), "OK\n");
    assert_eq!(ctl.ok("get foo"), "foo\nbar\n");
    assert_eq!(ctl.ok("get foo --print-value-only"), "bar\n");
    assert_eq!(ctl.ok("get foo --prefix --keys-only"), "foo\n\nfoo2\n\n");
    assert_eq!(ctl.ok("get foo goo"), "foo\nbar\nfoo2\nbar2\n");
    assert_eq!(ctl.ok("get --from-key foo2 --limit=1"), "foo2\nbar2\n");
    assert_eq!(
        ctl.ok("get --prefix f --order=DESCEND --keys-only"),
        "foo2\n\nfoo\n\n"
    );
    assert_eq!(
        ctl.ok("get --prefix f --sort-by=MODIFY --order=DESCEND --limit=1"),
        "foo2\nbar2\n"
    );
    assert_eq!(ctl.ok("put foo new --prev-kv"), "OK\nfoo\nbar\n");
    assert_eq!(ctl.ok("get foo --rev=2"), "foo\nbar\n");
    assert_eq!(ctl.ok("get absent"), "");
    let json = ctl.json("get foo");
    assert_eq!(json["kvs"][0]["mod_revision"], 5);
    assert_eq!(json["kvs"][0]["version"], 2);
    assert_eq!(json["header"]["revision"], 5);
    assert_eq!(ctl.ok("del foo --prev-kv"), "1\nfoo\nnew\n");
    assert_eq!(ctl.ok("del --prefix f"), "1\n");
    assert_eq!(ctl.ok("del absent"), "0\n");
    ctl.run("get foo --rev=99")
        .fails_with("required revision is a future revision");
    let mut value = ctl.command("put from-stdin");
    value.stdin(Stdio::piped());
    run(value, "several\nlines", LIMIT).ok();
    assert_eq!(
        ctl.ok("get from-stdin --print-value-only"),
        "several\nlines\n"
    );
}

#[test]
fn a_txn_script_takes_its_branch() {
    let Some(ctl) = ctl() else { return };
    ctl.ok("put k old");
    let script = "value(\"k\") = \"old\"\nmod(\"k\") > \"0\"\n\nput k new\nget k\n\nget k\n\n";
    let answer = run(ctl.command("txn"), script, LIMIT).ok();
    assert_eq!(answer, "SUCCESS\n\nOK\n\nk\nnew\n");
    let answer = run(ctl.command("txn"), script, LIMIT).ok();
    assert_eq!(answer, "FAILURE\n\nk\nnew\n");
}

#[test]
fn a_watch_prints_events_as_they_come() {
    let Some(ctl) = ctl() else { return };
    ctl.ok("put w0 before");
    let (_watch, printed) = ctl.background("watch --prefix w --rev=2 --prev-kv");
    let expect = |expected: &[&str]| {
        for expected in expected {
            let line = printed.recv_timeout(LIMIT).expect("the watch prints");
            assert_eq!(line, *expected);
        }
    };
    expect(&["PUT", "w0", "before"]);
    ctl.ok("put w1 one");
    expect(&["PUT", "w1", "one"]);
    ctl.ok("put other unseen");
    ctl.ok("put w1 two");
    expect(&["PUT", "w1", "one", "w1", "two"]);
    ctl.ok("del w1");
    expect(&["DELETE", "w1", "two", "w1", ""]);
}

#[test]
fn leases_are_granted_kept_listed_and_revoked() {
    let Some(ctl) = ctl() else { return };
    let granted = ctl.ok("lease grant 600");
    let id = granted
        .split_whitespace()
        .nth(1)
        .expect("lease <id> granted with TTL(600s)")
        .to_owned();
    assert_eq!(granted, format!("lease {id} granted with TTL(600s)\n"));
    assert_eq!(ctl.ok(&format!("put leased v --lease={id}")), "OK\n");
    let asked = ctl.ok(&format!("lease timetolive {id} --keys"));
    assert!(
        asked.contains("granted with TTL(600s)") && asked.contains("leased"),
        "{asked}"
    );
    assert!(ctl.ok("lease list").contains(&id));
    let kept = ctl.ok(&format!("lease keep-alive --once {id}"));
    assert_eq!(kept, format!("lease {id} keepalived with TTL(600)\n"));
    assert_eq!(
        ctl.ok(&format!("lease revoke {id}")),
        format!("lease {id} revoked\n")
    );
    assert_eq!(ctl.ok("get leased"), "");
    let gone = ctl.ok(&format!("lease timetolive {id}"));
    assert_eq!(gone, format!("lease {id} already expired\n"));
    ctl.run(&format!("lease revoke {id}"))
        .fails_with("requested lease not found");
}

#[test]
fn compaction_and_defrag_work() {
    let Some(ctl) = ctl() else { return };
    for value in ["1", "2", "3"] {
        ctl.ok(&format!("put k {value}"));
    }
    assert_eq!(ctl.ok("compaction 3"), "compacted revision 3\n");
    ctl.run("get k --rev=2")
        .fails_with("required revision has been compacted");
    ctl.run("compaction 3")
        .fails_with("required revision has been compacted");
    assert_eq!(ctl.ok("compaction 4 --physical"), "compacted revision 4\n");
    assert!(ctl.ok("defrag").contains("Finished defragmenting"));
    assert_eq!(ctl.ok("get k"), "k\n3\n");
}

#[test]
fn endpoints_tell_status_health_and_hash() {
    let Some(ctl) = ctl() else { return };
    ctl.ok("put k v");
    let status = ctl.json("endpoint status");
    let status = &status[0]["Status"];
    assert_eq!(status["leader"], status["header"]["member_id"]);
    assert_eq!(status["header"]["revision"], 2);
    assert!(
        status["dbSize"].as_i64().is_some_and(|size| size > 0),
        "{status}"
    );
    assert!(
        status["version"]
            .as_str()
            .is_some_and(|text| text.starts_with("3.")),
        "{status}"
    );
    let health = ctl.run("endpoint health");
    let said = format!("{}{}", health.stdout, health.stderr);
    assert!(health.success() && said.contains("is healthy"), "{said}");
    let hash = ctl.json("endpoint hashkv");
    assert!(
        hash[0]["HashKV"]["hash"]
            .as_u64()
            .is_some_and(|hash| hash > 0),
        "{hash}"
    );
    let table = ctl.ok("endpoint status --write-out=table");
    assert!(
        table.contains("IS LEADER") && table.contains("true"),
        "{table}"
    );
}

#[test]
fn a_learner_is_added_moved_and_removed() {
    let Some(ctl) = ctl() else { return };
    let added = ctl.ok("member add late --learner --peer-urls=http://127.0.0.1:1");
    assert!(added.starts_with("Member "), "{added}");
    assert!(added.contains("ETCD_NAME=\"late\""), "{added}");
    assert!(
        added.contains("ETCD_INITIAL_CLUSTER_STATE=\"existing\""),
        "{added}"
    );
    let own = format!("test={}", ctl.server.peer_url());
    assert!(added.contains(&own), "{added}");
    let id = added.split_whitespace().nth(1).expect("an id").to_owned();
    let list = ctl.ok("member list");
    let line = format!("{id}, unstarted, , http://127.0.0.1:1, , true");
    assert!(list.lines().any(|found| found == line), "{list}");

    let promoted = ctl.run(&format!("member promote {id}"));
    assert!(!promoted.success());
    assert!(
        promoted.stderr.contains("in sync with leader"),
        "{}",
        promoted.stderr
    );
    let moved = ctl.ok(&format!(
        "member update {id} --peer-urls=http://127.0.0.1:2"
    ));
    assert!(moved.contains("updated in cluster"), "{moved}");
    let removed = ctl.ok(&format!("member remove {id}"));
    assert!(removed.contains("removed from cluster"), "{removed}");
    let again = ctl.run(&format!("member remove {id}"));
    assert!(!again.success());
    assert!(
        again.stderr.contains("member not found"),
        "{}",
        again.stderr
    );
    assert_eq!(ctl.ok("member list").lines().count(), 1);
}

#[test]
fn members_are_listed() {
    let Some(ctl) = ctl() else { return };
    let list = ctl.ok("member list");
    let fields: Vec<&str> = list.trim().split(", ").collect();
    assert_eq!(fields[1..3], ["started", "test"], "{list}");
    assert_eq!(
        fields[3..5],
        [ctl.server.peer_url(), ctl.server.url()],
        "{list}"
    );
    assert_eq!(fields[5], "false", "no learner: {list}");
    u64::from_str_radix(fields[0], 16).expect("an id in hexadecimal");
}

#[test]
fn alarms_are_listed_and_disarmed() {
    let Some(ctl) = ctl() else { return };
    assert_eq!(ctl.ok("alarm list"), "");
    assert_eq!(ctl.ok("alarm disarm"), "");
}

#[test]
fn a_snapshot_is_saved_whole() {
    let Some(ctl) = ctl() else { return };
    for number in 0..100 {
        ctl.ok(&format!("put key{number} value{number}"));
        if number == 20 {
            break;
        }
    }
    let file = ctl.server.home().join("saved.db");
    ctl.ok(&format!("snapshot save {}", file.display()));
    let bytes = std::fs::read(&file).expect("saved");
    assert_eq!(bytes.len() % 512, 32);
    assert!(bytes.len() > 512);
}

#[test]
fn a_user_of_the_concurrency_helpers_is_served() {
    let Some(ctl) = ctl() else { return };
    // `lock` holds a lease and a key while its command runs.
    assert_eq!(ctl.ok("lock name echo held").trim(), "held");
    assert_eq!(ctl.ok("get name --prefix"), "");
    let member = ctl.json("endpoint status")[0]["Status"]["leader"]
        .as_u64()
        .expect("an id");
    let moved = ctl.run(&format!("move-leader {member:x}"));
    let said = format!("{}{}", moved.stdout, moved.stderr);
    assert!(moved.success() || said.contains("leader"), "{said}");
}

/// A minute of load judged by the tool itself; only when asked for by `KVNODE_CHECK_PERF=1`.
#[test]
fn check_perf_passes() {
    if std::env::var_os("KVNODE_CHECK_PERF").is_none() {
        println!("skipped: takes a minute; set KVNODE_CHECK_PERF=1");
        return;
    }
    let Some(ctl) = ctl() else { return };
    let output = run(
        ctl.command("check perf --load=s"),
        "",
        Duration::from_secs(90),
    );
    assert!(output.stdout.contains("PASS: Throughput"), "{output:?}");
}

/// The tool's own recipe, beside the server's Lock service: one queue for both.
#[test]
fn etcdctl_lock_and_the_lock_service_share_a_queue() {
    let Some(ctl) = ctl() else { return };
    let (first, printed) = ctl.background("lock shared");
    let held = printed.recv_timeout(LIMIT).expect("the lock's key");
    assert!(held.starts_with("shared/"), "{held}");
    let (second, waiting) = ctl.background("lock shared");
    let name = kvnode_tests::gateway::base64("shared");
    let address = ctl.server.address();
    let until_keys = |count: usize| {
        let begun = std::time::Instant::now();
        while ctl
            .ok("get shared/ --prefix --keys-only")
            .split_whitespace()
            .count()
            != count
        {
            assert!(begun.elapsed() < LIMIT, "never {count} keys");
        }
    };
    until_keys(2);
    let third = std::thread::spawn(move || {
        let body = serde_json::json!({"name": name});
        kvnode_tests::gateway::post(address, "/v3/lock/lock", &body)
    });
    until_keys(3);
    assert!(waiting.try_recv().is_err(), "the first holds it");
    interrupt(first);
    assert!(waiting.recv_timeout(LIMIT).is_ok(), "the second has it");
    assert!(!third.is_finished());
    interrupt(second);
    let (status, answer) = third.join().expect("no panic");
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn etcdctl_elect_campaigns_and_observes() {
    let Some(ctl) = ctl() else { return };
    let (leader, printed) = ctl.background("elect e first");
    let key = printed.recv_timeout(LIMIT).expect("the leader's key");
    assert!(key.starts_with("e/"), "{key}");
    assert_eq!(printed.recv_timeout(LIMIT).as_deref(), Ok("first"));
    let (_observer, seen) = ctl.background("elect -l e");
    assert_eq!(seen.recv_timeout(LIMIT).as_deref(), Ok(&*key));
    assert_eq!(seen.recv_timeout(LIMIT).as_deref(), Ok("first"));
    let (_next, elected) = ctl.background("elect e second");
    interrupt(leader);
    let key = elected.recv_timeout(LIMIT).expect("the next leader's key");
    assert_eq!(seen.recv_timeout(LIMIT).as_deref(), Ok(&*key));
    assert_eq!(seen.recv_timeout(LIMIT).as_deref(), Ok("second"));
    // The server's Election service sees the same leader.
    let body = serde_json::json!({"name": kvnode_tests::gateway::base64("e")});
    let (status, answer) =
        kvnode_tests::gateway::post(ctl.server.address(), "/v3/election/leader", &body);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["kv"]["key"], kvnode_tests::gateway::base64(key));
}
