//! Memory and restarts with many keys, and counts of them.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::catalogue::Named;
use super::{Comparison, Plan, SETTLE, fill, settle};
use crate::load::Load;
use crate::net::Failure;
use crate::process;
use crate::server::{Home, Program};

/// What was found of one server.
#[derive(Clone, Debug, Serialize)]
pub struct Many {
    pub load_seconds: f64,
    pub load_cpu_us_per_key: f64,
    pub rss_bytes: u64,
    /// Without pages of mapped files.
    pub rss_anonymous_bytes: u64,
    /// When the files had come to rest, or after a minute.
    pub disk_bytes: u64,
    pub stop_seconds: f64,
    /// After the clean stop.
    pub disk_stopped_bytes: u64,
    /// From the start of the process to the first answered linearizable read, after a clean stop.
    pub restart_seconds: f64,
    pub restart_rss_bytes: u64,
    /// The same after a kill in the midst of puts.
    pub restart_after_kill_seconds: f64,
}

/// Runs it and the `counts`.
///
/// # Errors
/// As for the whole comparison.
pub fn run(
    plan: &Plan,
    program: &Program,
    counts: &[Named],
    temporary: &Path,
    comparison: &mut Comparison,
) -> Result<(), Failure> {
    let directory = tempfile::tempdir_in(temporary)?;
    let home = Home::new(program, directory.path(), plan.quota(), plan.members)?;
    let (server, _) = home.start(None)?;
    let pids = server.pids();
    let cpu_before = process::cpu_sum(&pids);
    let start = Instant::now();
    let filled = fill(plan, plan.many_keys).run(server.address, &pids)?;
    if let Some(reason) = filled.first_error {
        return Err(Failure(format!("loading keys: {reason}")));
    }
    let load_seconds = start.elapsed().as_secs_f64();
    std::thread::sleep(SETTLE);
    let cpu = process::cpu_sum(&pids)
        .zip(cpu_before)
        .map_or(0.0, |(b, a)| b.total() - a.total());
    let memory = process::memory_sum(&pids);
    let settled = settle::wait(&home);
    let stop = server.stop()?;
    let disk_stopped_bytes = home.disk_bytes();
    let expected = Some((plan.many_keys - 1, plan.value_bytes));
    let (mut server, restart) = home.start(expected)?;
    std::thread::sleep(SETTLE);
    let restart_memory = process::memory_sum(&server.pids());
    for named in counts {
        server = comparison.measure(named, program, &home, server, expected)?;
    }
    let puts = Load {
        connections: 16,
        in_flight: 256,
        keys: plan.many_keys,
        value_bytes: plan.value_bytes,
        measured: Duration::from_secs(1),
        ..Load::default()
    };
    puts.run(server.address, &[])?;
    server.kill()?;
    let (server, after_kill) = home.start(expected)?;
    server.stop()?;
    let many = Many {
        load_seconds,
        load_cpu_us_per_key: cpu * 1e6 / plan.many_keys as f64,
        rss_bytes: memory.map_or(0, |memory| memory.resident),
        rss_anonymous_bytes: memory.map_or(0, |memory| memory.anonymous),
        disk_bytes: settled.bytes,
        stop_seconds: stop.as_secs_f64(),
        disk_stopped_bytes,
        restart_seconds: restart.as_secs_f64(),
        restart_rss_bytes: restart_memory.map_or(0, |memory| memory.resident),
        restart_after_kill_seconds: after_kill.as_secs_f64(),
    };
    eprintln!(
        "  loaded in {:.1} s, RSS {} MiB, restart {:.2} s, after a kill {:.2} s",
        many.load_seconds,
        many.rss_bytes >> 20,
        many.restart_seconds,
        many.restart_after_kill_seconds,
    );
    comparison.many.insert(program.label.clone(), many);
    Ok(())
}
