//! etcd's tutorials, done with kvctl alone.

use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use kvnode_tests::cluster::Cluster;
use kvnode_tests::server::free_port;
use kvnode_tests::{Options, Server, build};

use crate::tool::{self, Ran, Running};

/// Longest wait for one command or line.
const LIMIT: Duration = Duration::from_secs(30);

/// kvctl with the variables of nobody.
fn kvctl(endpoint: &str, line: &str) -> Command {
    let mut command = Command::new(tool::kvctl());
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
        .arg("--endpoints")
        .arg(endpoint)
        .args(line.split_whitespace());
    command
}

/// Looks again and again until it is so; panics when it takes too long.
#[track_caller]
fn eventually(mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < LIMIT, "it never came to that");
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct Tour {
    server: Server,
    endpoint: String,
}

impl Tour {
    fn new() -> Tour {
        let server = Server::start(Options::default());
        let endpoint = server.address().to_string();
        Tour { server, endpoint }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = kvctl(&self.endpoint, line);
        command.current_dir(self.server.home());
        command
    }

    fn run(&self, line: &str) -> Ran {
        tool::run(self.command(line), "", LIMIT)
    }

    fn ok(&self, line: &str) -> String {
        self.run(line).ok()
    }

    fn start(&self, line: &str) -> Running {
        Running::start(self.command(line), LIMIT)
    }

    fn lease(&self, ttl: u32) -> String {
        let granted = self.ok(&format!("lease grant {ttl}"));
        granted
            .split(' ')
            .nth(1)
            .expect("lease <id> granted")
            .to_owned()
    }
}

#[test]
fn keys_are_read_by_prefix_limit_revision_order_and_count() {
    let tour = Tour::new();
    for (key, value) in [
        ("foo", "bar"),
        ("foo1", "bar1"),
        ("foo2", "bar2"),
        ("foo3", "bar3"),
    ] {
        assert_eq!(tour.ok(&format!("put {key} {value}")), "OK\n");
    }
    assert_eq!(tour.ok("get foo"), "foo\nbar\n");
    assert_eq!(
        tour.ok("get foo --hex"),
        "\\x66\\x6f\\x6f\n\\x62\\x61\\x72\n"
    );
    assert_eq!(tour.ok("get foo --print-value-only"), "bar\n");
    assert_eq!(
        tour.ok("get foo foo3"),
        "foo\nbar\nfoo1\nbar1\nfoo2\nbar2\n"
    );
    assert_eq!(
        tour.ok("get --prefix --limit=2 foo"),
        "foo\nbar\nfoo1\nbar1\n"
    );
    assert_eq!(
        tour.ok("get --from-key foo2 --keys-only"),
        "foo2\n\nfoo3\n\n"
    );
    assert_eq!(
        tour.ok("get --prefix foo --order=DESCEND --limit=1"),
        "foo3\nbar3\n"
    );
    tour.ok("put foo bar_new");
    assert_eq!(tour.ok("get foo --rev=2"), "foo\nbar\n");
    assert_eq!(tour.ok("get --prefix foo --count-only"), "4\n");
    let fields = tour.ok("get --prefix foo --count-only -w fields");
    assert!(
        fields.ends_with("\"More\" : false\n\"Count\" : 4\n"),
        "{fields}"
    );
    // In pages or at once, by RangeStream or not: the same answer.
    for form in ["simple", "json", "fields"] {
        let whole = tour.ok(&format!("get --prefix foo -w {form} --page-size 0"));
        assert_eq!(
            tour.ok(&format!("get --prefix foo -w {form} --page-size 1")),
            whole
        );
        assert_eq!(
            tour.ok(&format!("get --prefix foo -w {form} --page-size 2")),
            whole
        );
        assert_eq!(
            tour.ok(&format!("get --prefix foo -w {form} --stream")),
            whole
        );
    }
    assert_eq!(tour.ok("del --prefix foo --dry-run"), "4\n");
    assert_eq!(tour.ok("del foo --prev-kv"), "1\nfoo\nbar_new\n");
    assert_eq!(tour.ok("del foo1 foo2 --range"), "1\n");
    assert_eq!(tour.ok("del --prefix foo"), "2\n");
    let value = tool::run(tour.command("put from-stdin"), "several\nlines", LIMIT);
    assert_eq!(value.ok(), "OK\n");
    assert_eq!(
        tour.ok("get from-stdin --print-value-only"),
        "several\nlines\n"
    );
}

#[test]
fn json_has_lines_strings_and_encodings_for_those_who_ask() {
    let tour = Tour::new();
    tour.ok("put a \u{e4}");
    tour.ok("put b 2");
    let first = "{\"key\":\"a\",\"create_revision\":2,\"mod_revision\":2,\"version\":1,\"value\":\"\u{e4}\"}\n";
    let second =
        "{\"key\":\"b\",\"create_revision\":3,\"mod_revision\":3,\"version\":1,\"value\":\"2\"}\n";
    for paging in ["", "--page-size 1", "--no-paging"] {
        let lines = tour.ok(&format!(
            "get --from-key a --encoding utf8 -w jsonl {paging}"
        ));
        assert_eq!(lines, format!("{first}{second}"), "{paging}");
    }
    assert_eq!(
        tour.ok("watch b --rev 1 --max-events 1 -w jsonl --encoding hex --json-ids string"),
        "{\"kv\":{\"key\":\"62\",\"create_revision\":\"3\",\"mod_revision\":\"3\",\"version\":\"1\",\"value\":\"32\"}}\n"
    );
    let whole = tour.ok("get a -w json --json-ids string");
    assert!(
        whole.starts_with("{\"header\":{\"cluster_id\":\"") && whole.contains("\"key\":\"YQ==\""),
        "{whole}"
    );
    for form in ["json", "fields", "jsonl"] {
        let counted = tour.ok(&format!("get --from-key a --count-only -w {form}"));
        assert!(
            counted.contains('2') && !counted.contains("kvs"),
            "{counted}"
        );
    }
    tour.run("put c 3 -w jsonl")
        .fails(4, "jsonl not supported as output format");
    tour.run("get a --encoding ascii")
        .fails(4, "--encoding=base64|utf8|hex");
    assert_eq!(tour.ok("get c"), "");
}

#[test]
fn deleting_every_key_needs_a_yes() {
    let tour = Tour::new();
    tour.ok("put a 1");
    tour.ok("put b 2");
    let everything = |flag: &str, more: &str| {
        let mut command = tour.command(&format!("del {more}"));
        command.args([flag, ""]);
        tool::run(command, "y\n", LIMIT)
    };
    for flag in ["--prefix", "--from-key"] {
        everything(flag, "").fails(128, "next:  kvctl del --prefix '' --yes");
        assert_eq!(everything(flag, "--dry-run").ok(), "2\n");
    }
    assert_eq!(tour.ok("get --from-key a --count-only"), "2\n");
    assert_eq!(everything("--prefix", "--yes").ok(), "2\n");
}

#[test]
fn watches_print_run_programs_and_take_commands() {
    let tour = Tour::new();
    tour.ok("put w0 before");
    let watch = tour.start("watch --prefix w --rev=2 --prev-kv");
    watch.expect(&["PUT", "w0", "before"]);
    tour.ok("put w1 one");
    watch.expect(&["PUT", "w1", "one"]);
    tour.ok("put other unseen");
    tour.ok("put w1 two");
    watch.expect(&["PUT", "w1", "one", "w1", "two"]);
    tour.ok("del w1");
    watch.expect(&["DELETE", "w1", "two", "w1", ""]);

    assert_eq!(
        tour.ok("watch --prefix w --rev=2 --max-events 2"),
        "PUT\nw0\nbefore\nPUT\nw1\none\n"
    );
    assert_eq!(tour.ok("watch w1 --rev=3 --until-rev 3"), "PUT\nw1\none\n");
    assert_eq!(tour.ok("watch nothing --timeout 100ms"), "");

    let mut program = tour.command("watch w1 --rev=3 --max-events 1 --");
    program.args([
        "sh",
        "-c",
        "echo $ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE",
    ]);
    let printed = tool::run(program, "", LIMIT).ok();
    let (event, program) = printed.split_at("PUT\nw1\none\n".len());
    assert_eq!(event, "PUT\nw1\none\n");
    assert!(program.ends_with(" \"PUT\" \"w1\" \"one\"\n"), "{program}");
    tour.run("watch w1 --rev=3 -- false").fails(1, "error");

    let mut typed = tour.start("watch -i");
    let mut stdin = typed.stdin.take().expect("piped");
    writeln!(stdin, "watch w0 --rev 2").expect("it reads");
    typed.expect(&["PUT", "w0", "before"]);
    // A server may let a request pass that comes before the watch has caught up.
    let mut said = None;
    eventually(|| {
        writeln!(stdin, "progress").expect("it reads");
        said = typed.try_line();
        said.is_some()
    });
    let said = said.expect("a line");
    assert!(said.starts_with("progress notify: "), "{said}");
    drop(stdin);
    assert_eq!(typed.end(), 3, "the end of its input is an error, as ever");

    tour.ok("compaction 4");
    tour.run("watch w0 --rev=2")
        .fails(5, "watch is canceled by the server");
}

#[test]
fn a_watch_resumes_when_the_server_comes_back() {
    let mut tour = Tour::new();
    let watch = tour.start("watch k");
    // Until the watch is there, writes may come before it.
    eventually(|| {
        tour.ok("put k early");
        !watch.is_silent()
    });
    tour.server.stop();
    tour.server.restart();
    tour.ok("put k late");
    eventually(|| watch.line() == "late");
}

#[test]
fn leases_hold_keys_until_they_are_revoked() {
    let tour = Tour::new();
    let lease = tour.lease(600);
    assert_eq!(tour.ok(&format!("put foo bar --lease={lease}")), "OK\n");
    assert_eq!(tour.ok("lease list"), format!("found 1 leases\n{lease}\n"));
    let shown = tour.ok(&format!("lease timetolive --keys {lease}"));
    assert!(shown.ends_with(", attached keys([foo])\n"), "{shown}");
    let keeper = tour.start(&format!("lease keep-alive {lease}"));
    keeper.expect(&[&format!("lease {lease} keepalived with TTL(600)")]);
    assert_eq!(
        tour.ok(&format!("lease revoke {lease}")),
        format!("lease {lease} revoked\n")
    );
    assert_eq!(tour.ok("get foo"), "");
    assert_eq!(
        tour.ok(&format!("lease timetolive {lease}")),
        format!("lease {lease} already expired\n")
    );
    tour.run(&format!("lease keep-alive {lease} --once"))
        .fails(2, "requested lease not found");
    let short = tour.lease(2);
    let mut gone = tour.start(&format!("lease keep-alive {short}"));
    gone.expect(&[&format!("lease {short} keepalived with TTL(2)")]);
    tour.ok(&format!("lease revoke {short}"));
    gone.expect(&[&format!("lease {short} expired or revoked.")]);
    assert_eq!(gone.end(), 0);
}

#[test]
fn a_lock_passes_from_one_terminal_to_the_other() {
    let tour = Tour::new();
    let first = tour.start("lock mutex1");
    let key = first.line();
    assert!(key.starts_with("mutex1/"), "{key}");
    first.expect(&[""]);
    let second = tour.start("lock mutex1");
    // It queued up: its key is there, and it has printed nothing.
    let waiting = || tour.ok("get --prefix mutex1/ --count-only");
    eventually(|| waiting() == "2\n");
    assert!(second.is_silent(), "both hold the lock");
    assert_eq!(first.interrupt(), 0);
    assert!(second.line().starts_with("mutex1/"));
    assert_eq!(second.interrupt(), 0);
    assert_eq!(waiting(), "0\n");
    let mut program = tour.command("lock mutex1 --ttl 60 --");
    program.args(["sh", "-c", "echo $ETCD_LOCK_KEY; exit 9"]);
    let ran = tool::run(program, "", LIMIT);
    assert_eq!(ran.code, 9, "{ran:?}");
    assert!(ran.stdout.starts_with("mutex1/"), "{ran:?}");
}

#[test]
fn an_election_has_one_leader_at_a_time() {
    let tour = Tour::new();
    let observer = tour.start("elect -l one");
    let first = tour.start("elect one p1");
    let key = first.line();
    first.expect(&["p1"]);
    observer.expect(&[&key, "p1"]);
    let second = tour.start("elect one p2");
    eventually(|| tour.ok("get --prefix one/ --count-only") == "2\n");
    assert!(second.is_silent(), "two lead");
    assert_eq!(first.interrupt(), 0);
    let key = second.line();
    second.expect(&["p2"]);
    observer.expect(&[&key, "p2"]);
    assert_eq!(observer.interrupt(), 0);
}

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
    let half = tool::run(
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
    let shown = tool::run(status, "", LIMIT).ok();
    assert!(!shown.is_empty());
    tour.run("snapshot save missing/backup.db")
        .fails(5, "missing/backup.db.part");
    let dead = format!("127.0.0.1:{}", free_port());
    let mut nobody = kvctl(&dead, "snapshot save other.db --dial-timeout 200ms");
    nobody.current_dir(tour.server.home());
    tool::run(nobody, "", LIMIT).fails(5, &format!("tried: {dead}: "));
    assert!(!tour.server.home().join("other.db.part").exists());
}

#[test]
fn variables_stand_in_for_flags_and_flags_win() {
    let tour = Tour::new();
    let run = |variables: &[(&str, &str)], line: &str| {
        let mut command = Command::new(tool::kvctl());
        command
            .env_clear()
            .envs(variables.iter().copied())
            .args(line.split_whitespace());
        tool::run(command, "", LIMIT)
    };
    let endpoint = tour.endpoint.as_str();
    assert_eq!(
        run(
            &[("ETCDCTL_ENDPOINTS", endpoint), ("ETCDCTL_API", "3")],
            "put k v"
        )
        .ok(),
        "OK\n"
    );
    let json = run(
        &[
            ("KVCTL_ENDPOINTS", endpoint),
            ("ETCDCTL_ENDPOINTS", "127.0.0.1:1"),
            ("ETCDCTL_WRITE_OUT", "json"),
        ],
        "get k",
    );
    assert!(json.ok().starts_with("{\"header\":"));
    let both = run(
        &[("ETCDCTL_ENDPOINTS", "127.0.0.1:1")],
        &format!("--endpoints {endpoint} get k"),
    );
    assert_eq!(both.ok(), "k\nv\n");
    let watched = run(
        &[("ETCDCTL_ENDPOINTS", endpoint), ("ETCDCTL_WATCH_KEY", "k")],
        "watch --rev 1 --max-events 1",
    );
    assert_eq!(watched.ok(), "PUT\nk\nv\n");
    run(
        &[("ETCDCTL_HEX", "maybe"), ("ETCDCTL_ENDPOINTS", endpoint)],
        "get k",
    )
    .fails(1, "--hex");
}

#[test]
fn a_form_that_cannot_be_shown_is_refused_before_anything_is_done() {
    let tour = Tour::new();
    tour.run("put k v -w table").fails(
        4,
        "Error: table not supported as output format\nnext:  --write-out=",
    );
    tour.run("put k v -w bogus")
        .fails(4, "Error: unsupported output format");
    assert_eq!(tour.ok("get k"), "");
}

#[test]
fn errors_name_the_endpoint_the_reason_and_the_next_command() {
    let tour = Tour::new();
    let dead = format!("127.0.0.1:{}", free_port());
    let nobody = tool::run(kvctl(&dead, "put k v --dial-timeout 200ms"), "", LIMIT);
    nobody.fails(1, &format!("tried: {dead}: "));
    assert!(
        nobody.stderr.contains("refused") && nobody.stderr.contains("next:  "),
        "{nobody:?}"
    );
    assert!(nobody.stderr.starts_with("Error: "), "{nobody:?}");
    let future = tour.run("get k --rev=99");
    future.fails(
        1,
        "Error: etcdserver: mvcc: required revision is a future revision\n",
    );
    assert!(
        future.stderr.contains(&format!("tried: {}", tour.endpoint)),
        "{future:?}"
    );
    tour.run("lease revoke 1234")
        .fails(1, "next:  kvctl lease list");
    tour.run("get").fails(128, "next:  kvctl get --help");
    tool::run(kvctl("nonsense", "get k"), "", LIMIT).fails(128, "missing port");
}

#[test]
fn keys_are_mirrored_with_another_prefix() {
    let source = Tour::new();
    let target = Tour::new();
    source.ok("put a/1 one");
    source.ok("put b/1 unseen");
    let mirror = source.start(&format!(
        "make-mirror --prefix a/ --dest-prefix c/ {}",
        target.endpoint
    ));
    eventually(|| target.ok("get c/1") == "c/1\none\n");
    source.ok("put a/2 two");
    source.ok("del a/1");
    eventually(|| target.ok("get --prefix c/") == "c/2\ntwo\n");
    assert_eq!(target.ok("get --prefix b/"), "");
    drop(mirror);
}

#[test]
fn space_is_shown_by_prefix() {
    let tour = Tour::new();
    for line in ["put a/1 12345", "put a/1 12345", "put a/2 1", "put b/1 1"] {
        tour.ok(line);
    }
    let json = tour.ok("du -w json");
    assert!(
        json.contains("{\"keys\":2,\"bytes\":12,\"versions\":3,\"prefix\":\"a/\"}"),
        "{json}"
    );
    let simple = tour.ok("du a/");
    assert!(
        simple.contains("2 keys") && simple.contains("total"),
        "{simple}"
    );
}

#[test]
fn the_history_of_a_key_has_every_version_left_and_every_deletion() {
    let tour = Tour::new();
    for line in ["put k 1", "put k 2", "put other x", "del k", "put k 3"] {
        tour.ok(line);
    }
    assert_eq!(
        tour.ok("history k"),
        "revision 2 PUT version 1\n1\nrevision 3 PUT version 2\n2\nrevision 5 DELETE\nrevision 6 PUT version 1\n3\n"
    );
    assert_eq!(tour.ok("history nothing"), "");
    // What was alive at the compaction is still there, what was before is not.
    tour.ok("compaction 4");
    let left = tour.run("history k -w json --encoding utf8");
    assert!(left.stderr.contains("compacted at revision 4"), "{left:?}");
    assert_eq!(
        left.ok(),
        "{\"mod_revision\":3,\"type\":\"PUT\",\"create_revision\":2,\"version\":2,\"value\":\"2\"}\n\
         {\"mod_revision\":5,\"type\":\"DELETE\"}\n\
         {\"mod_revision\":6,\"type\":\"PUT\",\"create_revision\":6,\"version\":1,\"value\":\"3\"}\n"
    );
    tour.run("history").fails(128, "kvctl history --help");
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
fn the_changes_of_a_while_are_counted_by_prefix() {
    let tour = Tour::new();
    let mut counting = tour.start("top --seconds 3 -w json");
    let (lines, written) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            // Until the watch is there, writes may come before it.
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(3) {
                tour.ok("put a/x 1");
                tour.ok("put a/y 1");
                tour.ok("put b/x 1");
                tour.ok("del b/x");
            }
        });
        let lines = [counting.line(), counting.line()];
        let joined = writer.join();
        (lines, joined.is_ok())
    });
    assert!(written);
    for prefix in ["a/", "b/"] {
        let line = lines
            .iter()
            .find(|line| line.contains(&format!("\"prefix\":\"{prefix}\"")));
        let line = line.unwrap_or_else(|| panic!("{prefix}: {lines:?}"));
        let deletes = line.contains("\"deletes\":0,");
        assert_eq!(deletes, prefix == "a/", "{line}");
    }
    assert_eq!(counting.end(), 0);
}

#[test]
fn a_socket_in_the_file_system_is_an_endpoint_too() {
    let directory = std::env::temp_dir();
    let socket = directory.join(format!("kvctl-{}.sock", std::process::id()));
    let port = free_port();
    let server = Server::start(Options::default().client_port(port).arg(format!(
        "--listen-client-urls=http://127.0.0.1:{port},unix://{}",
        socket.display()
    )));
    let endpoint = format!("unix://{}", socket.display());
    let run = |line: &str| tool::run(kvctl(&endpoint, line), "", LIMIT);
    assert_eq!(run("put k v").ok(), "OK\n");
    assert_eq!(run("get k").ok(), "k\nv\n");
    assert!(run("endpoint health").ok().starts_with(&endpoint));
    drop(server);
    let _ = std::fs::remove_file(&socket);
    run("get k --dial-timeout 200ms").fails(1, &format!("tried: {endpoint}: "));
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
        tool::run(command, "", LIMIT)
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
fn the_memory_of_many_keys_is_measured_and_the_keys_are_taken_away() {
    let tour = Tour::new();
    let mut check = tour.command("check datascale --load s --auto-compact");
    check.env("HOME", tour.server.home());
    let ran = tool::run(check, "", 4 * LIMIT);
    assert!(
        ran.stdout
            .contains("PASS: Approximate system memory used : "),
        "{ran:?}"
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        tour.ok("get --prefix /etcdctl-check-datascale/ --count-only"),
        "0\n"
    );
}

/// A DNS server on loopback that knows one name, whose SRV record is this port at localhost; others do not exist.
fn dns_server(known: &'static str, port: u16) -> std::net::SocketAddr {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("bound");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..length].to_vec();
            let labels: Vec<u8> = known
                .split('.')
                .flat_map(|label| {
                    let length = u8::try_from(label.len()).expect("a label");
                    std::iter::once(length).chain(label.bytes())
                })
                .collect();
            answer[2] = 0x81;
            if buffer[12..length].starts_with(&labels) {
                answer[7] = 1;
                // The name asked for, SRV, IN, 60 s, 17 bytes: priority, weight, port, localhost.
                answer.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, 17, 0, 0, 0, 0]);
                answer.extend(port.to_be_bytes());
                answer.extend(b"\x09localhost\0");
            } else {
                answer[3] = 3;
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    address
}

#[test]
fn endpoints_are_found_by_dns_records() {
    let tour = Tour::new();
    let dns = dns_server(
        "_etcd-client-blue._tcp.example.com",
        tour.server.address().port(),
    );
    let run = |line: &str| {
        let line = format!("{line} --discovery-dns {dns} --discovery-srv example.com");
        tool::run(kvctl("127.0.0.1:1", &line), "", LIMIT)
    };
    let found = "--discovery-srv-name blue";
    assert_eq!(run(&format!("put k v {found}")).ok(), "OK\n");
    let health = run(&format!("endpoint health {found}")).ok();
    assert!(health.starts_with("http://localhost:"), "{health}");
    let plain = run(&format!("get k {found} --insecure-discovery=false"));
    plain.fails(
        1,
        "ignoring discovered insecure endpoint \"http://localhost:",
    );
    run("get k").fails(
        1,
        "no endpoints by _etcd-client-ssl._tcp.example.com or _etcd-client._tcp.example.com: there are none",
    );
}

#[test]
fn the_performance_check_judges_and_cleans_up() {
    let tour = Tour::new();
    let ran = tour.run("check perf --duration 1 --auto-compact");
    let verdict = ran.stdout.lines().last().expect("a verdict");
    // How fast this machine is today is not the test's affair.
    assert_eq!(
        (verdict, ran.code),
        if ran.code == 0 {
            ("PASS", 0)
        } else {
            ("FAIL", 1)
        },
        "{ran:?}"
    );
    assert!(
        ran.stdout.contains("Throughput") && ran.stderr.contains("latency: 50% "),
        "{ran:?}"
    );
    assert_eq!(
        tour.ok("get --prefix /etcdctl-check-perf/ --count-only"),
        "0\n"
    );
    tour.ok("put /etcdctl-check-perf/x x");
    tour.run("check perf").fails(3, "has keys");
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
    let left = tool::run(
        kvctl(&format!("127.0.0.1:{client_port}"), "member list"),
        "",
        LIMIT,
    )
    .ok();
    assert_eq!(left.lines().count(), 1, "{left}");
    assert!(left.contains(", started, new, "), "{left}");
}

#[test]
fn help_completions_and_the_manual_come_from_one_definition() {
    let run = |line: &str| tool::run(kvctl("127.0.0.1:1", line), "", LIMIT);
    assert!(run("get --help").ok().contains("--keys-only"));
    assert!(
        run("lease").ok().contains("keep-alive"),
        "a family alone shows its help"
    );
    for shell in ["bash", "zsh", "fish", "powershell"] {
        assert!(
            run(&format!("completion {shell}")).ok().contains("kvctl"),
            "{shell}"
        );
    }
    assert!(run("options").ok().contains("--command-timeout"));
    let version = run("version").ok();
    assert!(version.contains("\nAPI version: 3."), "{version}");
    let mut man = Command::new(tool::kvctl());
    man.arg("man");
    let page = tool::run(man, "", LIMIT).ok();
    assert!(
        page.contains(".TH") && page.contains("keep\\-alive"),
        "{}",
        &page[..200]
    );
}
