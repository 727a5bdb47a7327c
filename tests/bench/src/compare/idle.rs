//! Connections that only are there: what they cost in memory, and what is left for others.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::catalogue::Named;
use super::{Comparison, Plan, SETTLE};
use crate::net::{Failure, Net};
use crate::process;
use crate::server::{Home, Program};

/// The name of this part of the comparison.
pub const PART: &str = "idle connections";

/// What was found of one server.
#[derive(Clone, Debug, Serialize)]
pub struct Idle {
    pub connections: usize,
    /// Until all had exchanged settings.
    pub connect_seconds: f64,
    pub rss_before_bytes: u64,
    pub rss_bytes: u64,
    /// Processor time of the server while nothing came over any of them, per second.
    pub cpu_ms_per_second: f64,
}

impl Idle {
    pub fn bytes_per_connection(&self) -> f64 {
        let grown = self.rss_bytes.saturating_sub(self.rss_before_bytes);
        grown as f64 / self.connections.max(1) as f64
    }
}

/// Opens the connections to a fresh server, looks, and runs a load of puts beside them.
///
/// # Errors
/// As for the whole comparison.
pub fn run(
    plan: &Plan,
    program: &Program,
    put: &Named,
    temporary: &Path,
    comparison: &mut Comparison,
) -> Result<(), Failure> {
    let directory = tempfile::tempdir_in(temporary)?;
    let home = Home::new(program, directory.path(), plan.quota(), plan.members)?;
    let (server, _) = home.start(None)?;
    let pids = server.pids();
    // What the first requests make it allocate is not the connections'.
    put.load.run(server.address, &[])?;
    std::thread::sleep(SETTLE);
    let before = process::memory_sum(&pids);
    let start = Instant::now();
    let open = Net::connect(
        server.address,
        plan.idle_connections,
        super::CONNECT_PATIENCE * 6,
    )?;
    let connect_seconds = start.elapsed().as_secs_f64();
    std::thread::sleep(SETTLE);
    let memory = process::memory_sum(&pids);
    let (cpu, watched) = (process::cpu_sum(&pids), Instant::now());
    std::thread::sleep(SETTLE);
    let cpu = process::cpu_sum(&pids)
        .zip(cpu)
        .map_or(0.0, |(b, a)| b.total() - a.total());
    let idle = Idle {
        connections: open.connections(),
        connect_seconds,
        rss_before_bytes: before.map_or(0, |memory| memory.resident),
        rss_bytes: memory.map_or(0, |memory| memory.resident),
        cpu_ms_per_second: cpu * 1e3 / watched.elapsed().as_secs_f64(),
    };
    eprintln!(
        "  {} connections in {connect_seconds:.1} s, {:.0} bytes each",
        idle.connections,
        idle.bytes_per_connection(),
    );
    comparison.idle.insert(program.label.clone(), idle);
    let server = comparison.measure(put, program, &home, server, None)?;
    drop(open);
    server.stop()?;
    Ok(())
}
