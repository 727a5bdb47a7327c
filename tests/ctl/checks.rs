//! The checks that put load on a cluster.

use kvnode_tests::program;

use crate::tour::{LIMIT, Tour};

#[test]
fn the_memory_of_many_keys_is_measured_and_the_keys_are_taken_away() {
    let tour = Tour::new();
    let mut check = tour.command("check datascale --load s --auto-compact");
    check.env("HOME", tour.server.home());
    let ran = program::run(check, "", 4 * LIMIT);
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
