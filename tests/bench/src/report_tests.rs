use crate::compare::disk::Disk;
use crate::compare::disturbance::Phase;
use crate::compare::idle::Idle;
use crate::compare::many::Many;
use crate::compare::{Comparison, LoadRuns, Stopped};
use crate::fail_over::FailOver;
use crate::machine::Machine;

use super::*;

fn outcome(rate: f64, cpu: f64) -> Outcome {
    Outcome {
        ops: 1,
        errors: 1,
        first_error: None,
        seconds: 1.0,
        ops_per_second: rate,
        p50_us: 10.0,
        p99_us: 20.0,
        p999_us: 30.0,
        max_us: 40.0,
        server_cpu_us_per_op: Some(cpu),
        server_system_us_per_op: Some(1.0),
        loader_cpu_us_per_op: 1.0,
        server_rss_bytes: Some(64 << 20),
    }
}

fn comparison() -> Comparison {
    let runs = [
        (
            "ours",
            vec![
                outcome(30_000.0, 5.0),
                outcome(10.0, 90.0),
                outcome(40_000.0, 4.0),
            ],
        ),
        (
            "theirs",
            vec![
                outcome(10_000.0, 50.0),
                outcome(10_000.0, 50.0),
                outcome(1.0, 1.0),
            ],
        ),
    ];
    let many = Many {
        load_seconds: 12.0,
        load_cpu_us_per_key: 6.0,
        rss_bytes: 300 << 20,
        rss_anonymous_bytes: 200 << 20,
        disk_bytes: 400 << 20,
        disk_stopped_bytes: 380 << 20,
        stop_seconds: 0.1,
        restart_seconds: 0.5,
        restart_rss_bytes: 90 << 20,
        restart_after_kill_seconds: 0.75,
    };
    Comparison {
        machine: Machine {
            cpus: 2,
            model: "model".to_owned(),
            memory_bytes: 24 << 30,
            kernel: "6.1".to_owned(),
            file_system: "ext4".to_owned(),
            device: "vda".to_owned(),
            fdatasync_us: 35.0,
            load_average: 0.5,
        },
        servers: vec!["ours".to_owned(), "theirs".to_owned()],
        versions: vec!["ours 1, abc".to_owned(), "theirs 2, def".to_owned()],
        members: 1,
        rounds: 3,
        seconds_per_load: 3.0,
        value_bytes: 256,
        keys: 100_000,
        many_keys: 1_000_000,
        loads: vec![LoadRuns {
            name: "put".to_owned(),
            runs: runs.map(|(name, runs)| (name.to_owned(), runs)).into(),
        }],
        many: [("ours".to_owned(), many)].into(),
        idle: [("theirs".to_owned(), idle())].into(),
        disks: vec![disk()],
        disturbances: vec![
            phase("theirs", "undisturbed", 0.0, 20.0),
            phase("ours", "undisturbed", 0.0, 10.0),
            phase("theirs", "compaction", 2.5, 90.0),
            phase("ours", "compaction", 1.5, 15.0),
        ],
        fail_overs: vec![FailOver {
            server: "theirs".to_owned(),
            gaps_ms: vec![1000.0, 1400.0],
            median_ms: 1200.0,
            worst_ms: 1400.0,
            refused: 3,
        }],
        stopped: vec![Stopped {
            name: "watch".to_owned(),
            server: "theirs".to_owned(),
            reason: "events do not\narrive".to_owned(),
        }],
    }
}

fn idle() -> Idle {
    Idle {
        connections: 10_000,
        connect_seconds: 1.5,
        rss_before_bytes: 100 << 20,
        rss_bytes: (100 << 20) + 123_450_000,
        cpu_ms_per_second: 0.25,
    }
}

fn disk() -> Disk {
    Disk {
        server: "ours".to_owned(),
        values: "JSON",
        keys: 1_000_000,
        put_bytes: 100 << 20,
        put_seconds: 9.0,
        settle_seconds: 61.0,
        settled: false,
        disk_bytes: 75 << 20,
        written_bytes: Some(250 << 20),
        disk_stopped_bytes: 70 << 20,
    }
}

fn phase(server: &str, name: &'static str, seconds: f64, p99_us: f64) -> Phase {
    Phase {
        server: server.to_owned(),
        name,
        seconds,
        bytes: 0,
        puts: Outcome {
            p99_us,
            ..outcome(1000.0, 5.0)
        },
    }
}

#[test]
fn the_median_is_the_middle_whatever_the_order() {
    assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
    assert_eq!(median(&mut [4.0, 1.0, 3.0, 2.0]), 2.5);
    assert_eq!(median(&mut []), 0.0);
}

#[test]
fn a_summary_takes_medians_and_adds_up_errors() {
    let comparison = comparison();
    let lines = lines(&comparison);
    assert_eq!(lines.len(), 2);
    let (_, _, ours, none) = lines[0];
    assert_eq!(
        (ours.ops_per_second, ours.server_cpu_us_per_op),
        (30_000.0, 5.0)
    );
    assert_eq!((ours.errors, none), (3, None));
    let ratio = lines[1].3.unwrap();
    assert_eq!(
        (ratio.ops_per_second, ratio.server_cpu_us_per_op),
        (3.0, 0.1)
    );
    assert_eq!((ratio.p50_us, ratio.p99_us), (1.0, 1.0));
}

#[test]
fn tables_hold_figures_and_ratios() {
    let comparison = comparison();
    let markdown = markdown(&comparison);
    assert!(
        markdown
            .contains("| put | ours | 30 000 | 5.0 | 64 | 10 | 20 | 30 | 40 | 3 |  |  |  |  |\n"),
        "{markdown}"
    );
    assert!(
        markdown
            .contains("|  | theirs | 10 000 | 50.0 | 64 | 10 | 20 | 30 | 40 | 3 | 3.00x | 0.10x |")
    );
    assert!(
        markdown.contains(
            "| 1 000 000 keys | ours | 12.00 | 6.0 | 300 | 200 | 400 | 0.10 | 380 | 0.50 |"
        )
    );
    let text = text(&comparison);
    let ends: Vec<usize> = text
        .lines()
        .filter_map(|line| Some(line.find("0 000")? + 5))
        .collect();
    assert!(ends.len() >= 4, "{text}");
    assert_eq!(ends[1], ends[2], "numbers end in one column");
}

#[test]
fn the_other_parts_have_their_rows() {
    let markdown = markdown(&comparison());
    for row in [
        "| 1 000 000 keys, JSON values | ours | 100 | 9.00 | not in 61 | 75 | 70 | 0.75 | 250 | 2.50 |\n",
        "| undisturbed | ours |  |  | 1 000 | 10 | 10 | 30 | 40 | 1 |  |\n",
        "| compaction | ours | 1.50 |  | 1 000 | 10 | 15 | 30 | 40 | 1 | 1.50x |\n\
         | compaction | theirs | 2.50 |  | 1 000 | 10 | 90 | 30 | 40 | 1 | 4.50x |\n",
        "| 10 000 connections | theirs | 1.50 | 100 | 218 | 12 345 | 0.2 |\n",
        "| 2 kills of the leader | theirs | 1 200 | 1 400 | 3 |\n",
        "| watch | theirs | events do not arrive |\n",
        "- theirs: theirs 2, def\n",
    ] {
        assert!(markdown.contains(row), "{row}{markdown}");
    }
}

#[test]
fn json_can_be_read_again() {
    let json: serde_json::Value = serde_json::from_str(&json(&comparison()).unwrap()).unwrap();
    assert_eq!(json["summary"][1]["ratio"]["ops_per_second"], 3.0);
    assert_eq!(
        json["loads"][0]["runs"]["ours"].as_array().unwrap().len(),
        3
    );
    assert_eq!(json["many"]["ours"]["rss_bytes"], 300 << 20);
    assert_eq!(json["machine"]["cpus"], 2);
}

#[test]
fn numbers_are_grouped() {
    for (value, text) in [
        (0.4, "0"),
        (999.6, "1 000"),
        (12_345.0, "12 345"),
        (1e6, "1 000 000"),
    ] {
        assert_eq!(grouped(value), text);
    }
}

#[test]
fn the_picture_shows_every_server_of_every_load() {
    let picture = crate::chart::svg(&comparison());
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
    for words in ["ours", "theirs", "put", "30 000", "200 000", "20"] {
        assert!(
            picture.contains(&format!(">{words}</text>")),
            "{words}: {picture}"
        );
    }
    let page = page(&comparison());
    assert!(
        !page.lines().any(|line| line.ends_with(' ')),
        "it can be kept among sources"
    );
    assert!(page.starts_with("# ours beside theirs\n") && page.contains("(chart.svg)"));
}
