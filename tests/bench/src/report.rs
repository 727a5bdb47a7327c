//! The comparison as tables: for the terminal, as Markdown, as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::compare::{Comparison, Many};
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

/// A table and where its columns of text end; the rest are numbers.
struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    text_columns: usize,
}

/// Tables for the terminal.
pub fn text(comparison: &Comparison) -> String {
    let mut out = machine(comparison);
    for table in [loads_table(comparison), many_table(comparison)] {
        if !table.rows.is_empty() {
            let _ = write!(out, "\n{}", table.aligned());
        }
    }
    out
}

/// The same as Markdown.
pub fn markdown(comparison: &Comparison) -> String {
    let mut out = machine(comparison);
    for table in [loads_table(comparison), many_table(comparison)] {
        if !table.rows.is_empty() {
            let _ = write!(out, "\n{}", table.markdown());
        }
    }
    out
}

/// A page of its own, with the picture beside it.
pub fn page(comparison: &Comparison) -> String {
    let others = comparison.servers.get(1..).unwrap_or(&[]).join(" and ");
    let ours = comparison.servers.first().map_or("", String::as_str);
    format!(
        "# {ours} beside {others}\n\n![rates and processor time](chart.svg)\n\n{}",
        markdown(comparison)
    )
}

fn machine(comparison: &Comparison) -> String {
    let machine = &comparison.machine;
    format!(
        "{}{} CPUs ({}), {} GiB memory, Linux {}, data on {} (4 KiB fdatasync {:.0} us), load average \
         {:.1} at the start.\n\
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
        machine.fdatasync_us,
        machine.load_average,
        comparison.rounds,
        comparison.seconds_per_load,
        comparison.value_bytes,
        grouped(comparison.keys as f64),
        comparison.servers.first().map_or("", String::as_str),
    )
}

fn loads_table(comparison: &Comparison) -> Table {
    let mut previous = "";
    let rows = lines(comparison)
        .into_iter()
        .map(|(load, server, summary, ratio)| {
            let name = if load == previous { "" } else { load };
            previous = load;
            let mut row = vec![name.to_owned(), server.to_owned()];
            row.push(grouped(summary.ops_per_second));
            row.push(cpu(summary.server_cpu_us_per_op));
            row.extend(
                [
                    summary.p50_us,
                    summary.p99_us,
                    summary.p999_us,
                    summary.max_us,
                ]
                .map(grouped),
            );
            row.push(summary.errors.to_string());
            row.extend(match ratio {
                Some(ratio) => [
                    ratio.ops_per_second,
                    ratio.server_cpu_us_per_op,
                    ratio.p50_us,
                    ratio.p99_us,
                ]
                .map(times),
                None => [const { String::new() }; 4],
            });
            row
        });
    let rows = rows.collect();
    Table {
        heads: vec![
            "load",
            "server",
            "ops/s",
            "CPU us/op",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "max us",
            "errors",
            "rate",
            "CPU",
            "p50",
            "p99",
        ],
        rows,
        text_columns: 2,
    }
}

fn many_table(comparison: &Comparison) -> Table {
    let many: &BTreeMap<String, Many> = &comparison.many;
    let mut rows = Vec::new();
    for server in &comparison.servers {
        let Some(many) = many.get(server) else {
            continue;
        };
        let mebibytes = |bytes: u64| grouped(bytes as f64 / f64::from(1 << 20));
        rows.push(vec![
            format!("{} keys", grouped(comparison.many_keys as f64)),
            server.clone(),
            seconds(many.load_seconds),
            cpu(many.load_cpu_us_per_key),
            mebibytes(many.rss_bytes),
            mebibytes(many.rss_anonymous_bytes),
            mebibytes(many.disk_bytes),
            seconds(many.stop_seconds),
            seconds(many.restart_seconds),
            mebibytes(many.restart_rss_bytes),
            seconds(many.restart_after_kill_seconds),
        ]);
    }
    Table {
        heads: vec![
            "memory and restart",
            "server",
            "load s",
            "CPU us/key",
            "RSS MiB",
            "anonymous MiB",
            "disk MiB",
            "stop s",
            "restart s",
            "RSS then MiB",
            "after kill s",
        ],
        rows,
        text_columns: 2,
    }
}

impl Table {
    fn aligned(&self) -> String {
        let widths: Vec<usize> = (0..self.heads.len())
            .map(|at| {
                let cells = self.rows.iter().map(|row| row[at].len());
                cells.chain([self.heads[at].len()]).max().unwrap_or(0)
            })
            .collect();
        let heads: Vec<String> = self.heads.iter().map(|head| (*head).to_owned()).collect();
        let mut out = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let mut line = String::new();
            for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let _ = match at < self.text_columns {
                    true => write!(line, "{cell:width$}  "),
                    false => write!(line, "{cell:>width$}  "),
                };
            }
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out
    }

    fn markdown(&self) -> String {
        let mut out = format!("| {} |\n|", self.heads.join(" | "));
        for at in 0..self.heads.len() {
            out.push_str(if at < self.text_columns {
                " --- |"
            } else {
                " ---: |"
            });
        }
        out.push('\n');
        for row in &self.rows {
            let _ = writeln!(out, "| {} |", row.join(" | "));
        }
        out
    }
}

/// A whole number in groups of three digits.
pub fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        let left = digits.len() - at;
        if at > 0 && left.is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

fn cpu(micros: f64) -> String {
    if micros >= 1000.0 {
        grouped(micros)
    } else {
        format!("{micros:.1}")
    }
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.2}")
}

fn times(ratio: f64) -> String {
    if ratio >= 10.0 {
        format!("{ratio:.0}x")
    } else {
        format!("{ratio:.2}x")
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
