//! `check perf` and `check datascale`: load of a fixed shape, judged as etcdctl judges it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kvnode_client::{Client, api, prefix, put};
use tokio::sync::{Mutex, mpsc};

use super::interrupted;
use crate::context::{self, Context};
use crate::failure::{self, Failure, Result, code};
use crate::golang;
use crate::metrics::Metrics;
use crate::output::say_line;

/// Time for deleting and compacting what was written.
const CLEAN_UP: Duration = Duration::from_secs(30);
/// Throughput that passes, as a part of what was tried.
const RATE_PART: f64 = 0.9;
const SLOWEST_SECONDS: f64 = 0.5;
const DEVIATION_SECONDS: f64 = 0.1;

/// A load: writes per second (0: as fast as it goes), or keys in all, by so many clients.
struct Load {
    rate: u32,
    keys: u64,
    clients: usize,
}

fn load(context: &Context<'_>) -> Result<Load> {
    let name = context.text("load");
    let (rate, keys, clients) = match name.as_str() {
        "s" | "small" => (150, 10_000, 50),
        "m" | "medium" => (1000, 100_000, 200),
        "l" | "large" => (8000, 1_000_000, 500),
        "xl" | "xLarge" => (15_000, 3_000_000, 1000),
        _ => {
            return Err(
                Failure::new(code::BAD_FEATURE, format!("unknown load option {name}"))
                    .next("--load=s|m|l|xl"),
            );
        }
    };
    Ok(Load {
        rate,
        keys,
        clients,
    })
}

pub async fn perf(context: &Context<'_>) -> Result<()> {
    let load = load(context)?;
    let under = context.text("prefix");
    let seconds = u64::try_from(context.number("duration"))
        .unwrap_or(0)
        .max(1);
    let clients = clients(context, load.clients)?;
    refuse_if_used(&clients[0], &under).await?;
    let bar = bar(seconds, "{bar:40} {pos}/{len} s");
    let begun = Instant::now();
    let end = begun + Duration::from_secs(seconds);
    let writing = write(&clients, under.clone(), 256, 1024, |number| {
        let due = begun + Duration::from_secs_f64(number as f64 / f64::from(load.rate));
        (due < end).then_some(due)
    });
    let ticking = async {
        for second in 1..=seconds {
            tokio::time::sleep_until((begun + Duration::from_secs(second)).into()).await;
            bar.set_position(second);
        }
        std::future::pending::<()>().await
    };
    let results = tokio::select! {
        results = writing => Some(results),
        () = ticking => None,
        () = interrupted() => None,
    };
    bar.finish_and_clear();
    let report = results.map(|results| Report::of(results, begun.elapsed()));
    let auto_compact = report.is_some() && context.flag("auto-compact");
    clean_up(&clients[0], &under, auto_compact).await?;
    let Some(report) = report else {
        return Err(Failure::new(
            code::ERROR,
            "interrupted; what was written is deleted",
        ));
    };
    if context.flag("auto-defrag") {
        defragment(context, &clients[0]).await?;
    }
    report.percentiles();
    judge(&report, load.rate)
}

fn judge(report: &Report, rate: u32) -> Result<()> {
    let mut passed = report.errors_said()?;
    let rps = report.latencies.len() as f64 / report.took.as_secs_f64();
    let whole = rps as u64 + 1;
    let mut verdict = |good: bool, well: String, badly: String| {
        passed &= good;
        say_line(if good { &well } else { &badly })
    };
    verdict(
        rps / f64::from(rate) > RATE_PART,
        format!("PASS: Throughput is {whole} writes/s"),
        format!("FAIL: Throughput too low: {whole} writes/s"),
    )?;
    let slowest = report.slowest();
    verdict(
        slowest <= SLOWEST_SECONDS,
        format!("PASS: Slowest request took {slowest:.6}s"),
        format!("Slowest request took too long: {slowest:.6}s"),
    )?;
    let deviation = report.deviation();
    verdict(
        deviation <= DEVIATION_SECONDS,
        format!("PASS: Stddev is {deviation:.6}s"),
        format!("Stddev too high: {deviation:.6}s"),
    )?;
    say_line(if passed { "PASS" } else { "FAIL" })?;
    if passed {
        Ok(())
    } else {
        Err(Failure::silent(code::ERROR))
    }
}

pub async fn datascale(context: &Context<'_>) -> Result<()> {
    let load = load(context)?;
    let under = context.text("prefix");
    let endpoint = context
        .settings
        .endpoints
        .first()
        .cloned()
        .unwrap_or_default();
    let clients = clients(context, load.clients)?;
    refuse_if_used(&clients[0], &under).await?;
    let before = memory(&clients[0], &endpoint, "before").await?;
    say_line(&format!(
        "Start data scale check for work load [{} key-value pairs, 1024 bytes per key-value, {} concurrent clients].",
        load.keys, load.clients
    ))?;
    let bar = bar(load.keys, "{bar:40} {pos}/{len} {per_sec} eta {eta}");
    let shown = bar.clone();
    let begun = Instant::now();
    let results = write(&clients, under.clone(), 512, 512, move |number| {
        shown.set_position(number);
        (number < load.keys).then_some(begun)
    })
    .await;
    bar.finish_and_clear();
    let report = Report::of(results, begun.elapsed());
    let after = memory(&clients[0], &endpoint, "after").await?;
    clean_up(&clients[0], &under, context.flag("auto-compact")).await?;
    if context.flag("auto-defrag") {
        defragment(context, &clients[0]).await?;
    }
    if !report.errors_said()? {
        return Err(Failure::silent(code::ERROR));
    }
    let used = (after - before) / (1024.0 * 1024.0);
    say_line(&format!(
        "PASS: Approximate system memory used : {used:.2} MB."
    ))
}

/// As many clients, each with a connection of its own.
fn clients(context: &Context<'_>, count: usize) -> Result<Vec<Client>> {
    (0..count)
        .map(|_| Ok(context::client(&context.settings)?.with_timeout(None)))
        .collect()
}

async fn refuse_if_used(client: &Client, under: &str) -> Result<()> {
    let (key, range_end) = prefix(under.to_owned());
    let request = api::RangeRequest {
        key,
        range_end,
        limit: 1,
        ..Default::default()
    };
    let client = client.with_timeout(Some(CLEAN_UP));
    if client.range(request).await?.kvs.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        code::INVALID_INPUT,
        format!("prefix {under:?} has keys. Delete with 'kvctl del --prefix {under}' first"),
    )
    .next(format!("kvctl del --prefix {under}")))
}

type Outcome = (Duration, Option<String>);

/// Puts keys until `due` says that there is no next one; it tells when each may start.
async fn write(
    clients: &[Client],
    under: String,
    key_bytes: usize,
    value_bytes: usize,
    mut due: impl FnMut(u64) -> Option<Instant>,
) -> Vec<Outcome> {
    let (jobs, queue) = mpsc::channel::<Bytes>(clients.len());
    let queue = Arc::new(Mutex::new(queue));
    let value = Bytes::from(vec![0; value_bytes]);
    let mut workers = tokio::task::JoinSet::new();
    for client in clients {
        let (client, queue, value) = (client.clone(), Arc::clone(&queue), value.clone());
        workers.spawn(async move {
            let mut outcomes = Vec::new();
            loop {
                let job = queue.lock().await.recv().await;
                let Some(key) = job else { return outcomes };
                let begun = Instant::now();
                let result = client.put(put(key, value.clone())).await;
                outcomes.push((
                    begun.elapsed(),
                    result.err().map(|error| failure::text(&error)),
                ));
            }
        });
    }
    let mut number = 0;
    while let Some(start) = due(number) {
        tokio::time::sleep_until(start.into()).await;
        let mut key = under.clone().into_bytes();
        key.extend_from_slice(&scattered(number).to_be_bytes());
        key.resize(under.len() + key_bytes, 0);
        if jobs.send(key.into()).await.is_err() {
            break;
        }
        number += 1;
    }
    drop(jobs);
    workers.join_all().await.into_iter().flatten().collect()
}

/// Numbers in an order without neighbours (the finalizer of SplitMix64).
fn scattered(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What came of a load.
struct Report {
    /// Seconds of the writes that succeeded, ascending.
    latencies: Vec<f64>,
    errors: BTreeMap<String, u64>,
    took: Duration,
}

impl Report {
    fn of(outcomes: Vec<Outcome>, took: Duration) -> Report {
        let mut report = Report {
            latencies: Vec::new(),
            errors: BTreeMap::new(),
            took,
        };
        for (latency, error) in outcomes {
            match error {
                None => report.latencies.push(latency.as_secs_f64()),
                Some(error) => *report.errors.entry(error).or_default() += 1,
            }
        }
        report.latencies.sort_by(f64::total_cmp);
        report
    }

    fn slowest(&self) -> f64 {
        self.latencies.last().copied().unwrap_or(0.0)
    }

    fn deviation(&self) -> f64 {
        let count = self.latencies.len().max(1) as f64;
        let mean = self.latencies.iter().sum::<f64>() / count;
        (self
            .latencies
            .iter()
            .map(|one| (one - mean).powi(2))
            .sum::<f64>()
            / count)
            .sqrt()
    }

    /// For people, on stderr.
    fn percentiles(&self) {
        let Some(last) = self.latencies.len().checked_sub(1) else {
            return;
        };
        let at = |part: f64| {
            let seconds = self.latencies[(last as f64 * part).round() as usize];
            golang::duration(Duration::from_secs_f64((seconds * 1e6).round() / 1e6))
        };
        eprintln!(
            "latency: 50% {}  90% {}  99% {}  99.9% {}  slowest {}",
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            at(1.0)
        );
    }

    /// Says which errors there were; true if none.
    fn errors_said(&self) -> Result<bool> {
        if self.errors.is_empty() {
            return Ok(true);
        }
        say_line("FAIL: too many errors")?;
        for (error, count) in &self.errors {
            say_line(&format!("FAIL: ERROR({error}) -> {count}"))?;
        }
        Ok(false)
    }
}

/// Resident bytes of the endpoint's server.
async fn memory(client: &Client, endpoint: &str, when: &str) -> Result<f64> {
    const NAME: &str = "process_resident_memory_bytes";
    let metrics = Metrics::fetch(client, endpoint).await;
    metrics
        .and_then(|metrics| metrics.value(NAME).ok_or("no such metric".to_owned()))
        .map_err(|why| {
            let text = format!("FAIL: Could not read {NAME} {when} the put operations ({why}).");
            Failure::new(code::ERROR, text)
                .next(format!("curl -s {endpoint}/metrics | grep {NAME}"))
        })
}

async fn clean_up(client: &Client, under: &str, compact: bool) -> Result<()> {
    let client = client.with_timeout(Some(CLEAN_UP));
    let (key, range_end) = prefix(under.to_owned());
    let deleted = client
        .delete_range(api::DeleteRangeRequest {
            key,
            range_end,
            prev_kv: false,
        })
        .await;
    let revision = match deleted {
        Ok(answer) => answer.header.map_or(0, |header| header.revision),
        Err(error) => {
            return say_line(&format!(
                "FAIL: Cleanup failed during key deletion: ERROR({})",
                failure::text(&error)
            ));
        }
    };
    if compact {
        say_line(&format!("Compacting with revision {revision}"))?;
        client
            .compact(api::CompactionRequest {
                revision,
                physical: true,
            })
            .await?;
        say_line(&format!("Compacted with revision {revision}"))?;
    }
    Ok(())
}

async fn defragment(context: &Context<'_>, client: &Client) -> Result<()> {
    let client = client.with_timeout(Some(CLEAN_UP));
    for endpoint in &context.settings.endpoints {
        say_line(&format!("Defragmenting {endpoint:?}"))?;
        client.only(endpoint)?.defragment().await?;
        say_line(&format!("Defragmented {endpoint:?}"))?;
    }
    Ok(())
}

fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(5));
    bar.set_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_knows_the_slowest_and_the_spread() {
        let outcome = |millis| (Duration::from_millis(millis), None);
        let mut outcomes = vec![outcome(30), outcome(10)];
        outcomes.push((Duration::ZERO, Some("no".to_owned())));
        let report = Report::of(outcomes, Duration::from_secs(1));
        assert_eq!(report.slowest(), 0.03);
        assert!((report.deviation() - 0.01).abs() < 1e-9);
        assert_eq!(report.errors["no"], 1);
    }
}
