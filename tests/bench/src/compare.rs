//! The comparison: every server gets the same loads, one server at a time, round by round, so that
//! a change in the machine's mood meets all of them. Medians over the rounds are what counts.

pub mod catalogue;
pub mod disk;
pub mod disturbance;
pub mod idle;
pub mod many;
mod settle;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use self::catalogue::Named;
use self::disk::Disk;
use self::disturbance::Phase;
use self::idle::Idle;
use self::many::Many;
use crate::data;
use crate::fail_over::{self, FailOver};
use crate::load::{Kind, Load};
use crate::machine::{self, Machine};
use crate::net::Failure;
use crate::outcome::Outcome;
use crate::server::{Home, Program, Server};

/// What to compare and how thoroughly.
#[derive(Clone, Debug, Default)]
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
    /// Raised if the keys would not fit.
    pub quota_bytes: u64,
    /// Leases that exist while leases are granted and kept alive.
    pub leases: u64,
    /// Watchers of the large watch loads.
    pub watchers: usize,
    pub idle_connections: usize,
    /// Times the leader of three members is killed.
    pub kills: u32,
    /// Run further loads as well.
    pub more: bool,
    /// Run only what has one of these in its name, of everything there is; empty for the usual.
    pub only: Vec<String>,
    /// Where the temporary data directories are made.
    pub directory: PathBuf,
}

/// Everything found out.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub machine: Machine,
    pub servers: Vec<String>,
    /// What each server says of its version, in full.
    pub versions: Vec<String>,
    pub members: usize,
    pub rounds: usize,
    pub seconds_per_load: f64,
    pub value_bytes: usize,
    pub keys: u64,
    pub many_keys: u64,
    /// In the order they ran.
    pub loads: Vec<LoadRuns>,
    /// Server by server.
    pub many: BTreeMap<String, Many>,
    /// Server by server.
    pub idle: BTreeMap<String, Idle>,
    pub disks: Vec<Disk>,
    pub disturbances: Vec<Phase>,
    pub fail_overs: Vec<FailOver>,
    /// What some server could not do.
    pub stopped: Vec<Stopped>,
}

/// The runs of one load.
#[derive(Clone, Debug, Serialize)]
pub struct LoadRuns {
    pub name: String,
    /// Server by server, one outcome per round.
    pub runs: BTreeMap<String, Vec<Outcome>>,
}

/// A load, or another part, that a server could not do, or not in time.
#[derive(Clone, Debug, Serialize)]
pub struct Stopped {
    pub name: String,
    pub server: String,
    pub reason: String,
}

/// Time for a server to finish what it puts off until after a start or a load, before anything of it is measured.
const SETTLE: Duration = Duration::from_secs(3);
/// Longest wait for connections.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// The name of the part with many keys.
const MANY: &str = "memory and restart";
/// Bytes of quota that a key may need, with its value of the usual length and all that a server adds.
const QUOTA_PER_KEY: u64 = 1200;

impl Plan {
    /// Whether something of that name is to run; `more` if it does only when asked for.
    pub fn wants(&self, name: &str, more: bool) -> bool {
        match self.only.is_empty() {
            true => self.more || !more,
            false => self.only.iter().any(|part| name.contains(part.as_str())),
        }
    }

    /// As given, or what the keys need.
    fn quota(&self) -> u64 {
        self.quota_bytes.max(self.many_keys * QUOTA_PER_KEY)
    }
}

impl Comparison {
    fn new(plan: &Plan, machine: Machine) -> Comparison {
        let each = |of: fn(&Program) -> String| plan.programs.iter().map(of).collect();
        Comparison {
            machine,
            servers: each(|program| program.label.clone()),
            versions: each(|program| program.version.clone()),
            members: plan.members,
            rounds: plan.rounds,
            seconds_per_load: plan.measured.as_secs_f64(),
            value_bytes: plan.value_bytes,
            keys: plan.keys,
            many_keys: plan.many_keys,
            loads: Vec::new(),
            many: BTreeMap::new(),
            idle: BTreeMap::new(),
            disks: Vec::new(),
            disturbances: Vec::new(),
            fail_overs: Vec::new(),
            stopped: Vec::new(),
        }
    }

    /// Whether there is no figure in it.
    fn is_empty(&self) -> bool {
        self.loads.iter().all(|load| load.runs.is_empty())
            && self.many.is_empty()
            && self.idle.is_empty()
            && self.disks.is_empty()
            && self.disturbances.is_empty()
            && self.fail_overs.is_empty()
    }

    fn stop(&mut self, name: &str, program: &Program, failure: &Failure) {
        eprintln!("  {name}: STOPPED: {failure}");
        self.stopped.push(Stopped {
            name: name.to_owned(),
            server: program.label.clone(),
            reason: failure.to_string(),
        });
    }

    /// Runs a load and keeps its outcome. If it fails, that is noted, the server is killed and started again
    /// with what it has, and the load is not given to it again.
    fn measure(
        &mut self,
        named: &Named,
        program: &Program,
        home: &Home,
        server: Server,
        expected: Option<(u64, usize)>,
    ) -> Result<Server, Failure> {
        let Named { name, load, .. } = named;
        let again = |stopped: &Stopped| stopped.name == *name && stopped.server == program.label;
        if self.stopped.iter().any(again) {
            return Ok(server);
        }
        let outcome = load.run(server.address, &server.pids());
        let outcome = outcome.and_then(|outcome| match (outcome.ops, &outcome.first_error) {
            (0, None) => Err(Failure(format!(
                "not one is answered in {:.0} s",
                outcome.seconds
            ))),
            (0, Some(reason)) => Err(Failure(reason.clone())),
            _ => Ok(outcome),
        });
        match outcome {
            Ok(outcome) => {
                tell(name, &outcome);
                self.keep(name, program, outcome);
                Ok(server)
            }
            Err(failure) => {
                self.stop(name, program, &failure);
                drop(server);
                Ok(home.start(expected)?.0)
            }
        }
    }

    fn keep(&mut self, name: &str, program: &Program, outcome: Outcome) {
        let at = match self.loads.iter().position(|load| load.name == name) {
            Some(at) => at,
            None => {
                self.loads.push(LoadRuns {
                    name: name.to_owned(),
                    runs: BTreeMap::new(),
                });
                self.loads.len() - 1
            }
        };
        let runs = self.loads[at].runs.entry(program.label.clone());
        runs.or_default().push(outcome);
    }
}

fn tell(name: &str, outcome: &Outcome) {
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
}

/// Runs the plan, telling on stderr how it gets on. What a server cannot do is noted, and the rest goes on.
///
/// # Errors
/// Nothing could be measured.
pub fn run(plan: &Plan) -> Result<Comparison, Failure> {
    let temporary = tempfile::Builder::new()
        .prefix("kvbench-")
        .tempdir_in(&plan.directory)?;
    let temporary = temporary.path();
    let mut comparison = Comparison::new(plan, machine::look(temporary)?);
    let loads = catalogue::loads(plan);
    comparison.loads.extend(loads.iter().map(|named| LoadRuns {
        name: named.name.clone(),
        runs: BTreeMap::new(),
    }));
    for round in 0..if loads.is_empty() { 0 } else { plan.rounds } {
        for turn in 0..plan.programs.len() {
            // Everyone begins a round once.
            let program = &plan.programs[(round + turn) % plan.programs.len()];
            eprintln!("round {} of {}: {}", round + 1, plan.rounds, program.label);
            if let Err(failure) = one_round(plan, program, &loads, temporary, &mut comparison) {
                comparison.stop(&format!("round {}", round + 1), program, &failure);
            }
        }
    }
    if plan.many_keys > 0 {
        many_keys(plan, temporary, &mut comparison);
    }
    if plan.wants(idle::PART, true) {
        let put = Named::new(
            format!(
                "put with {} idle connections, 16 in flight",
                plan.idle_connections
            ),
            Load {
                kind: Kind::Put,
                connections: 4,
                in_flight: 16,
                keys: plan.keys,
                value_bytes: plan.value_bytes,
                warm_up: plan.warm_up,
                measured: plan.measured,
                ..Load::default()
            },
        );
        each(plan, idle::PART, &mut comparison, |program, comparison| {
            idle::run(plan, program, &put, temporary, comparison)
        });
    }
    if plan.wants(fail_over::PART, true) {
        each(
            plan,
            fail_over::PART,
            &mut comparison,
            |program, comparison| {
                let found = fail_over::of(program, plan.kills, temporary)?;
                comparison.fail_overs.push(found);
                Ok(())
            },
        );
    }
    match comparison.stopped.first() {
        Some(stopped) if comparison.is_empty() => Err(Failure(format!(
            "{}: {}: {}",
            stopped.server, stopped.name, stopped.reason
        ))),
        _ => Ok(comparison),
    }
}

/// The parts that need many keys.
fn many_keys(plan: &Plan, temporary: &Path, comparison: &mut Comparison) {
    let counts = catalogue::counts(plan);
    if plan.wants(MANY, false) || !counts.is_empty() {
        each(plan, MANY, comparison, |program, comparison| {
            many::run(plan, program, &counts, temporary, comparison)
        });
    }
    for (part, content) in disk::PARTS {
        if plan.wants(part, true) {
            each(plan, part, comparison, |program, comparison| {
                disk::run(plan, program, content, temporary, comparison)
            });
        }
    }
    if plan.wants(disturbance::PART, true) {
        each(
            plan,
            disturbance::PART,
            comparison,
            |program, comparison| disturbance::run(plan, program, temporary, comparison),
        );
    }
}

/// A part of the comparison for each server in turn.
fn each(
    plan: &Plan,
    part: &str,
    comparison: &mut Comparison,
    run: impl Fn(&Program, &mut Comparison) -> Result<(), Failure>,
) {
    for program in &plan.programs {
        eprintln!("{part}: {}", program.label);
        if let Err(failure) = run(program, comparison) {
            comparison.stop(part, program, &failure);
        }
    }
}

fn one_round(
    plan: &Plan,
    program: &Program,
    loads: &[Named],
    temporary: &Path,
    comparison: &mut Comparison,
) -> Result<(), Failure> {
    let directory = tempfile::tempdir_in(temporary)?;
    let home = Home::new(program, directory.path(), plan.quota_bytes, plan.members)?;
    let (server, _) = home.start(None)?;
    if let Some(reason) = fill(plan, plan.keys).run(server.address, &[])?.first_error {
        return Err(Failure(format!("loading keys: {reason}")));
    }
    // A fresh process: what it keeps from the filling is not part of any load.
    server.stop()?;
    let expected = Some((plan.keys - 1, plan.value_bytes));
    let (mut server, _) = home.start(expected)?;
    std::thread::sleep(SETTLE);
    for named in loads {
        server = comparison.measure(named, program, &home, server, expected)?;
    }
    server.stop()?;
    Ok(())
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

/// Checks what the command line cannot: room for the widest range.
pub fn keys_suffice(keys: u64) -> bool {
    keys >= 10_000 && keys < 10_u64.pow((data::KEY_BYTES - data::KEY_PREFIX.len()) as u32)
}
