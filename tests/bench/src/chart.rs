//! The comparison as one picture: for every load and server, its rate, what it does with a second of processor time,
//! and the latency that one call in a hundred exceeds.
//!
//! Loads differ by orders of magnitude, so each load has its own scale: its longest bar fills the column, and the number
//! stands behind every bar. Plain SVG, no script, readable on light and dark ground.

use std::fmt::Write as _;

use crate::compare::Comparison;
use crate::report::Summary;
use crate::report::table::grouped;

const NAME_WIDTH: f64 = 300.0;
const COLUMN_WIDTH: f64 = 280.0;
/// Kept free behind the longest bar, for its number.
const NUMBER_WIDTH: f64 = 80.0;
const BAR_HEIGHT: f64 = 11.0;
const LOAD_GAP: f64 = 12.0;
const TOP: f64 = 56.0;
const COLOURS: [&str; 4] = ["#2f7ed8", "#e0862d", "#8a8a8a", "#4a9a5b"];

/// What a column shows of a summary.
type Figure = fn(&Summary) -> f64;

const COLUMNS: [(&str, Figure); 3] = [
    ("operations per second", |summary| summary.ops_per_second),
    ("operations per second of server CPU", |summary| {
        if summary.server_cpu_us_per_op > 0.0 {
            1e6 / summary.server_cpu_us_per_op
        } else {
            0.0
        }
    }),
    ("p99 latency in us: shorter is better", |summary| {
        summary.p99_us
    }),
];

/// The picture.
pub fn svg(comparison: &Comparison) -> String {
    let mut body = String::new();
    let mut y = TOP;
    for load in &comparison.loads {
        let bars: Vec<(usize, Summary)> = (comparison.servers.iter().enumerate())
            .filter_map(|(at, server)| Some((at, Summary::of(load.runs.get(server)?))))
            .collect();
        if bars.is_empty() {
            continue;
        }
        let middle = y + bars.len() as f64 * BAR_HEIGHT / 2.0 + 4.0;
        text(&mut body, (8.0, middle), "start", &load.name);
        for (column, (_, figure)) in COLUMNS.iter().enumerate() {
            let left = NAME_WIDTH + column as f64 * COLUMN_WIDTH;
            let most = bars.iter().map(|(_, summary)| figure(summary));
            let most = most.fold(f64::MIN_POSITIVE, f64::max);
            for (row, (server, summary)) in bars.iter().enumerate() {
                let value = figure(summary);
                let width = value / most * (COLUMN_WIDTH - NUMBER_WIDTH);
                let top = y + row as f64 * BAR_HEIGHT;
                let _ = writeln!(
                    body,
                    r#"<rect x="{left:.1}" y="{top:.1}" width="{width:.1}" height="{:.1}" fill="{}"/>"#,
                    BAR_HEIGHT - 1.5,
                    colour(*server),
                );
                let place = (left + width + 4.0, top + BAR_HEIGHT - 2.5);
                text(&mut body, place, "start", &grouped(value));
            }
        }
        y += bars.len() as f64 * BAR_HEIGHT + LOAD_GAP;
    }
    let width = NAME_WIDTH + COLUMNS.len() as f64 * COLUMN_WIDTH;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{y:.0}\" viewBox=\"0 0 {width} {y:.0}\" \
         font-family=\"sans-serif\" font-size=\"10\" fill=\"#777\">\n"
    );
    for (at, server) in comparison.servers.iter().enumerate() {
        let left = 8.0 + at as f64 * 130.0;
        let _ = writeln!(
            out,
            r#"<rect x="{left}" y="10" width="10" height="10" fill="{}"/>"#,
            colour(at)
        );
        text(&mut out, (left + 15.0, 19.0), "start", server);
    }
    for (column, (title, _)) in COLUMNS.iter().enumerate() {
        let left = NAME_WIDTH + column as f64 * COLUMN_WIDTH;
        text(&mut out, (left, TOP - 12.0), "start", title);
    }
    out + &body + "</svg>\n"
}

fn colour(server: usize) -> &'static str {
    COLOURS[server % COLOURS.len()]
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#
    );
}
