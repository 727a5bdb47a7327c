//! Leases, and what hangs on them: locks and elections.

use kvnode_tests::program;

use crate::tour::{LIMIT, Tour, eventually};

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
    let ran = program::run(program, "", LIMIT);
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
