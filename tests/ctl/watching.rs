//! Watches.

use std::io::Write as _;

use kvnode_tests::program;

use crate::tour::{LIMIT, Tour, eventually};

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
    let printed = program::run(program, "", LIMIT).ok();
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
