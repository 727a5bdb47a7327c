//! Keys: read, deleted, shown, counted and mirrored.

use std::time::{Duration, Instant};

use kvnode_tests::program;

use crate::tour::{LIMIT, Tour, eventually};

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
    let value = program::run(tour.command("put from-stdin"), "several\nlines", LIMIT);
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
        program::run(command, "y\n", LIMIT)
    };
    for flag in ["--prefix", "--from-key"] {
        everything(flag, "").fails(128, "next:  kvctl del --prefix '' --yes");
        assert_eq!(everything(flag, "--dry-run").ok(), "2\n");
    }
    assert_eq!(tour.ok("get --from-key a --count-only"), "2\n");
    assert_eq!(everything("--prefix", "--yes").ok(), "2\n");
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
