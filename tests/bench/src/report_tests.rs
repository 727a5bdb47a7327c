use crate::compare::{Comparison, LoadRuns, Many};
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
        server_rss_bytes: None,
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
            fdatasync_us: 35.0,
            load_average: 0.5,
        },
        servers: vec!["ours".to_owned(), "theirs".to_owned()],
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
        markdown.contains("| put | ours | 30 000 | 5.0 | 10 | 20 | 30 | 40 | 3 |  |  |  |  |\n"),
        "{markdown}"
    );
    assert!(
        markdown.contains("|  | theirs | 10 000 | 50.0 | 10 | 20 | 30 | 40 | 3 | 3.00x | 0.10x |")
    );
    assert!(
        markdown
            .contains("| 1 000 000 keys | ours | 12.00 | 6.0 | 300 | 200 | 400 | 0.10 | 0.50 |")
    );
    let text = text(&comparison);
    let ends: Vec<usize> = text
        .lines()
        .filter_map(|line| Some(line.find("0 000")? + 5))
        .collect();
    assert_eq!(ends.len(), 4, "{text}");
    assert_eq!(ends[1], ends[2], "numbers end in one column");
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
    for words in ["ours", "theirs", "put", "30 000", "200 000"] {
        assert!(
            picture.contains(&format!(">{words}</text>")),
            "{words}: {picture}"
        );
    }
    let page = page(&comparison());
    assert!(page.starts_with("# ours beside theirs\n") && page.contains("(chart.svg)"));
}
