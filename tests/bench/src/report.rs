//! The comparison as tables: for the terminal, as Markdown, as JSON.

pub mod table;
mod tables;

use std::fmt::Write as _;

use serde::Serialize;

use self::table::{Table, grouped};
use crate::compare::Comparison;
use crate::outcome::Outcome;

/// The middle of the values (the mean of the two middle ones if their number is even), 0 of none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Medians over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub ops_per_second: f64,
    pub server_cpu_us_per_op: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
    pub loader_cpu_us_per_op: f64,
    /// Of the server at the end, 0 if unknown.
    pub server_rss_bytes: f64,
    /// The sum of all rounds.
    pub errors: u64,
}

impl Summary {
    pub fn of(runs: &[Outcome]) -> Summary {
        let middle =
            |field: fn(&Outcome) -> f64| median(&mut runs.iter().map(field).collect::<Vec<f64>>());
        Summary {
            ops_per_second: middle(|run| run.ops_per_second),
            server_cpu_us_per_op: middle(|run| run.server_cpu_us_per_op.unwrap_or(0.0)),
            p50_us: middle(|run| run.p50_us),
            p99_us: middle(|run| run.p99_us),
            p999_us: middle(|run| run.p999_us),
            max_us: middle(|run| run.max_us),
            loader_cpu_us_per_op: middle(|run| run.loader_cpu_us_per_op),
            server_rss_bytes: middle(|run| run.server_rss_bytes.unwrap_or(0) as f64),
            errors: runs.iter().map(|run| run.errors).sum(),
        }
    }
}

/// The first server's figures divided by another's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    pub ops_per_second: f64,
    pub server_cpu_us_per_op: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

impl Ratio {
    pub fn of(ours: &Summary, theirs: &Summary) -> Ratio {
        Ratio {
            ops_per_second: ours.ops_per_second / theirs.ops_per_second,
            server_cpu_us_per_op: ours.server_cpu_us_per_op / theirs.server_cpu_us_per_op,
            p50_us: ours.p50_us / theirs.p50_us,
            p99_us: ours.p99_us / theirs.p99_us,
        }
    }
}

/// The whole comparison with its summaries.
pub fn json(comparison: &Comparison) -> Result<String, serde_json::Error> {
    #[derive(Serialize)]
    struct Line<'a> {
        load: &'a str,
        server: &'a str,
        median: Summary,
        /// Of the first server to this one.
        #[serde(skip_serializing_if = "Option::is_none")]
        ratio: Option<Ratio>,
    }
    #[derive(Serialize)]
    struct All<'a> {
        summary: Vec<Line<'a>>,
        #[serde(flatten)]
        comparison: &'a Comparison,
    }
    let summary = lines(comparison)
        .into_iter()
        .map(|(load, server, median, ratio)| Line {
            load,
            server,
            median,
            ratio,
        })
        .collect();
    serde_json::to_string_pretty(&All {
        summary,
        comparison,
    })
}

type Entry<'a> = (&'a str, &'a str, Summary, Option<Ratio>);

/// Load by load, server by server.
fn lines(comparison: &Comparison) -> Vec<Entry<'_>> {
    let mut lines = Vec::new();
    for load in &comparison.loads {
        let of = |server: &String| load.runs.get(server).map(|runs| Summary::of(runs));
        let first = comparison.servers.first().and_then(of);
        for (at, server) in comparison.servers.iter().enumerate() {
            let Some(summary) = of(server) else { continue };
            let ratio = first
                .filter(|_| at > 0)
                .map(|first| Ratio::of(&first, &summary));
            lines.push((load.name.as_str(), server.as_str(), summary, ratio));
        }
    }
    lines
}

/// Tables for the terminal.
pub fn text(comparison: &Comparison) -> String {
    let mut out = machine(comparison);
    for table in all(comparison) {
        let _ = write!(out, "\n{}", table.aligned());
    }
    out
}

/// The same as Markdown.
pub fn markdown(comparison: &Comparison) -> String {
    let mut out = machine(comparison);
    for table in all(comparison) {
        let _ = write!(out, "\n{}", table.markdown());
    }
    out
}

/// Every table that has rows.
fn all(comparison: &Comparison) -> impl Iterator<Item = Table> {
    let tables = [
        tables::loads(comparison),
        tables::many(comparison),
        tables::disks(comparison),
        tables::disturbances(comparison),
        tables::idle(comparison),
        tables::fail_overs(comparison),
        tables::stopped(comparison),
    ];
    tables.into_iter().filter(|table| !table.rows.is_empty())
}

/// A page of its own, with the picture beside it.
pub fn page(comparison: &Comparison) -> String {
    let others = comparison.servers.get(1..).unwrap_or(&[]).join(" and ");
    let ours = comparison.servers.first().map_or("", String::as_str);
    let title = match others.is_empty() {
        true => ours.to_owned(),
        false => format!("{ours} beside {others}"),
    };
    format!(
        "# {title}\n\n![rates and processor time](chart.svg)\n\n{}",
        markdown(comparison)
    )
}

fn machine(comparison: &Comparison) -> String {
    let machine = &comparison.machine;
    format!(
        "{}{} CPUs ({}), {} GiB memory, Linux {}, data on {} ({}; 4 KiB fdatasync {:.0} us), load average \
         {:.1} at the start.\n\n\
         {}\n\
         Medians of {} rounds of {:.1} s, values of {} bytes, {} keys. Ratios are {} divided by \
         the server in the row.\n",
        match comparison.members {
            1 => String::new(),
            members => format!(
                "Clusters of {members} members; CPU is that of all members together, asked is the one that leads.\n"
            ),
        },
        machine.cpus,
        machine.model,
        machine.memory_bytes.div_ceil(1 << 30),
        machine.kernel,
        machine.file_system,
        machine.device,
        machine.fdatasync_us,
        machine.load_average,
        versions(comparison),
        comparison.rounds,
        comparison.seconds_per_load,
        comparison.value_bytes,
        grouped(comparison.keys as f64),
        comparison.servers.first().map_or("", String::as_str),
    )
}

/// A line for each server.
fn versions(comparison: &Comparison) -> String {
    let both = comparison.servers.iter().zip(&comparison.versions);
    both.map(|(server, version)| format!("- {server}: {version}\n"))
        .collect()
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
