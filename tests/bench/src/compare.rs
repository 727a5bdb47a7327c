//! The comparison: every server gets the same loads, one server at a time, round by round, so that
//! a change in the machine's mood meets all of them. Medians over the rounds are what counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use tempfile::TempDir;

use crate::data;
use crate::load::{Kind, Load, connections_for};
use crate::machine::{self, Machine};
use crate::net::Failure;
use crate::outcome::Outcome;
use crate::process;
use crate::server::{Home, Program};
use crate::work::Wants;

/// What to compare and how thoroughly.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The first is set against each of the others.
    pub programs: Vec<Program>,
    pub rounds: usize,
    pub measured: Duration,
    pub warm_up: Duration,
    /// Of each server.
    pub members: usize,
    /// Keys under the loads.
    pub keys: u64,
    /// Keys for memory and restarts; 0 leaves both out.
    pub many_keys: u64,
    pub value_bytes: usize,
    pub quota_bytes: u64,
    /// Run further loads as well.
    pub more: bool,
    /// Run only loads whose name contains one of these; empty is all.
    pub only: Vec<String>,
    /// Where the temporary data directories are made.
    pub directory: PathBuf,
}

/// Everything found out.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub machine: Machine,
    pub servers: Vec<String>,
    pub members: usize,
    pub rounds: usize,
    pub seconds_per_load: f64,
    pub value_bytes: usize,
    pub keys: u64,
    pub many_keys: u64,
    /// In the order they ran.
    pub loads: Vec<LoadRuns>,
    /// Server by server, one entry per round of `many_keys`.
    pub many: BTreeMap<String, Many>,
}

/// The runs of one load.
#[derive(Clone, Debug, Serialize)]
pub struct LoadRuns {
    pub name: String,
    /// Server by server, one outcome per round.
    pub runs: BTreeMap<String, Vec<Outcome>>,
}

/// Memory and restarts with many keys.
#[derive(Clone, Debug, Serialize)]
pub struct Many {
    pub load_seconds: f64,
    pub load_cpu_us_per_key: f64,
    pub rss_bytes: u64,
    /// Without pages of mapped files.
    pub rss_anonymous_bytes: u64,
    pub disk_bytes: u64,
    pub stop_seconds: f64,
    /// From the start of the process to the first answered linearizable read, after a clean stop.
    pub restart_seconds: f64,
    pub restart_rss_bytes: u64,
    /// The same after a kill in the midst of puts.
    pub restart_after_kill_seconds: f64,
}

/// The loads every server gets in every round.
fn loads(plan: &Plan) -> Vec<(String, Load)> {
    let base = Load {
        keys: plan.keys,
        value_bytes: plan.value_bytes,
        warm_up: plan.warm_up,
        measured: plan.measured,
        ..Load::default()
    };
    let of = |kind, in_flight| Load {
        kind,
        in_flight,
        connections: connections_for(in_flight),
        ..base
    };
    let mut loads: Vec<(String, Load)> = Vec::new();
    // Reads come first: what etcd 3.4 has buffered of the last burst of puts, it copies for every
    // read, so behind the puts its reads cost ten times as much.
    for (name, serializable) in [("linearizable", false), ("serializable", true)] {
        for in_flight in [1, 256] {
            let load = Load {
                serializable,
                ..of(Kind::Get, in_flight)
            };
            loads.push((format!("get {name}, {in_flight} in flight"), load));
        }
    }
    for (width, in_flight) in [(100, 64), (10_000, 4)] {
        let load = Load {
            width,
            ..of(Kind::Range, in_flight)
        };
        loads.push((
            format!("range of {width} keys, {in_flight} in flight"),
            load,
        ));
    }
    for in_flight in [1, 16, 256, 1000] {
        loads.push((
            format!("put, {in_flight} in flight"),
            of(Kind::Put, in_flight),
        ));
    }
    loads.push((
        "compare-and-swap txn, 256 in flight".to_owned(),
        of(Kind::Cas, 256),
    ));
    let watch = Load {
        connections: 20,
        watchers: 1000,
        ..of(Kind::Watch, 4)
    };
    loads.push(("watch, events at 1000 watchers".to_owned(), watch));
    loads.push((
        "lease grant, 64 in flight".to_owned(),
        of(Kind::LeaseGrant, 64),
    ));
    let renew = of(Kind::LeaseKeepalive, 256);
    loads.push(("lease keepalive, 256 in flight".to_owned(), renew));
    if plan.more {
        loads.extend(more_loads(plan, &of));
    }
    loads.retain(|(name, _)| {
        plan.only.is_empty() || plan.only.iter().any(|part| name.contains(part.as_str()))
    });
    loads
}

/// What is left out unless asked for. Larger values come last: they stay.
fn more_loads(plan: &Plan, of: &impl Fn(Kind, usize) -> Load) -> Vec<(String, Load)> {
    let range = |width, wants| Load {
        width,
        wants,
        ..of(Kind::Range, 4)
    };
    let put = |value_bytes, in_flight| Load {
        value_bytes,
        ..of(Kind::Put, in_flight)
    };
    vec![
        (
            "4 gets to 1 put, 256 in flight".to_owned(),
            of(Kind::Mixed, 256),
        ),
        (
            format!("count of {} keys, 4 in flight", plan.keys),
            range(plan.keys, Wants::Count),
        ),
        (
            "keys only, 10000 of them, 4 in flight".to_owned(),
            range(10_000, Wants::Keys),
        ),
        ("put of 4 KiB, 64 in flight".to_owned(), put(4 << 10, 64)),
        ("put of 64 KiB, 16 in flight".to_owned(), put(64 << 10, 16)),
    ]
}

/// Runs the plan, telling on stderr how it gets on.
///
/// # Errors
/// The first server that cannot be started, stops answering, or breaks a connection.
pub fn run(plan: &Plan) -> Result<Comparison, Failure> {
    let temporary = tempfile::Builder::new()
        .prefix("kvbench-")
        .tempdir_in(&plan.directory)?;
    let mut comparison = Comparison {
        machine: machine::look(temporary.path())?,
        servers: plan
            .programs
            .iter()
            .map(|program| program.label.clone())
            .collect(),
        members: plan.members,
        rounds: plan.rounds,
        seconds_per_load: plan.measured.as_secs_f64(),
        value_bytes: plan.value_bytes,
        keys: plan.keys,
        many_keys: plan.many_keys,
        loads: Vec::new(),
        many: BTreeMap::new(),
    };
    let loads = loads(plan);
    comparison
        .loads
        .extend(loads.iter().map(|(name, _)| LoadRuns {
            name: name.clone(),
            runs: BTreeMap::new(),
        }));
    for round in 0..if loads.is_empty() { 0 } else { plan.rounds } {
        for turn in 0..plan.programs.len() {
            // Everyone begins a round once.
            let program = &plan.programs[(round + turn) % plan.programs.len()];
            eprintln!("round {} of {}: {}", round + 1, plan.rounds, program.label);
            let outcomes = one_round(plan, program, &loads, temporary.path())
                .map_err(|failure| Failure(format!("{}: {failure}", program.label)))?;
            for (runs, outcome) in comparison.loads.iter_mut().zip(outcomes) {
                runs.runs
                    .entry(program.label.clone())
                    .or_default()
                    .push(outcome);
            }
        }
    }
    if plan.many_keys > 0 {
        for program in &plan.programs {
            eprintln!("{} keys: {}", plan.many_keys, program.label);
            let many = many(plan, program, temporary.path())
                .map_err(|failure| Failure(format!("{}: {failure}", program.label)))?;
            comparison.many.insert(program.label.clone(), many);
        }
    }
    Ok(comparison)
}

fn directory_for(temporary: &Path) -> Result<TempDir, Failure> {
    Ok(tempfile::tempdir_in(temporary)?)
}

fn one_round(
    plan: &Plan,
    program: &Program,
    loads: &[(String, Load)],
    temporary: &Path,
) -> Result<Vec<Outcome>, Failure> {
    let directory = directory_for(temporary)?;
    let home = Home::new(program, directory.path(), plan.quota_bytes, plan.members)?;
    let (server, _) = home.start(None)?;
    fill(plan, plan.keys).run(server.address, &[])?;
    // A fresh process: what it keeps from the filling is not part of any load.
    server.stop()?;
    let (server, _) = home.start(Some((plan.keys - 1, plan.value_bytes)))?;
    std::thread::sleep(SETTLE);
    let pids = server.pids();
    let mut outcomes = Vec::with_capacity(loads.len());
    for (name, load) in loads {
        let outcome = load
            .run(server.address, &pids)
            .map_err(|failure| Failure(format!("{name}: {failure}")))?;
        eprintln!(
            "  {name}: {:.0}/s, {:.1} us CPU (loader {:.1}), p50 {:.0} us, p99 {:.0} us{}",
            outcome.ops_per_second,
            outcome.server_cpu_us_per_op.unwrap_or(0.0),
            outcome.loader_cpu_us_per_op,
            outcome.p50_us,
            outcome.p99_us,
            match &outcome.first_error {
                Some(reason) => format!(", {} ERRORS: {reason}", outcome.errors),
                None => String::new(),
            }
        );
        outcomes.push(outcome);
    }
    server.stop()?;
    Ok(outcomes)
}

/// All keys once, in transactions.
fn fill(plan: &Plan, keys: u64) -> Load {
    Load {
        kind: Kind::Fill,
        connections: 4,
        in_flight: 16,
        keys,
        value_bytes: plan.value_bytes,
        ..Load::default()
    }
}

/// Time for a server to finish what it puts off until after a start or a load, before anything of it is measured.
const SETTLE: Duration = Duration::from_secs(3);

fn many(plan: &Plan, program: &Program, temporary: &Path) -> Result<Many, Failure> {
    let directory = directory_for(temporary)?;
    let home = Home::new(program, directory.path(), plan.quota_bytes, plan.members)?;
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
    let disk_bytes = home.disk_bytes();
    let stop = server.stop()?;
    let expected = Some((plan.many_keys - 1, plan.value_bytes));
    let (server, restart) = home.start(expected)?;
    std::thread::sleep(SETTLE);
    let restart_memory = process::memory_sum(&server.pids());
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
        disk_bytes,
        stop_seconds: stop.as_secs_f64(),
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
    Ok(many)
}

/// Checks what the command line cannot: room for the widest range.
pub fn keys_suffice(keys: u64) -> bool {
    keys >= 10_000 && keys < 10_u64.pow((data::KEY_BYTES - data::KEY_PREFIX.len()) as u32)
}
