//! What keys and values become on disk: bytes of the files, and bytes written on the way there.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::{Comparison, Plan, settle};
use crate::data::{Chance, Content, KEY_BYTES, Shuffle, Values};
use crate::load::connections_for;
use crate::net::{Failure, Net};
use crate::outcome::Meter;
use crate::process;
use crate::server::{Home, Program};
use crate::unary::{self, Span};

/// Length of all values.
const VALUE_BYTES: usize = 256;
/// Puts in flight.
const IN_FLIGHT: usize = 256;

/// What was found of one server and one kind of values.
#[derive(Clone, Debug, Serialize)]
pub struct Disk {
    pub server: String,
    pub values: &'static str,
    pub keys: u64,
    /// Keys and values put.
    pub put_bytes: u64,
    pub put_seconds: f64,
    /// From the last put until the files had come to rest.
    pub settle_seconds: f64,
    /// Whether they had, within a minute.
    pub settled: bool,
    pub disk_bytes: u64,
    /// What the server's processes had caused to be written by then; absent if the kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written_bytes: Option<u64>,
    /// On disk after a clean stop.
    pub disk_stopped_bytes: u64,
}

impl Disk {
    /// Bytes on disk for each byte put.
    pub fn on_disk_per_byte(&self) -> f64 {
        self.disk_bytes as f64 / self.put_bytes.max(1) as f64
    }

    /// Bytes written for each byte put.
    pub fn written_per_byte(&self) -> Option<f64> {
        let written = self.written_bytes?;
        Some(written as f64 / self.put_bytes.max(1) as f64)
    }
}

/// The name of the part of the comparison, and the kinds of values.
pub const PARTS: [(&str, Content); 2] = [
    ("disk, random values", Content::Random),
    ("disk, JSON values", Content::Json),
];

/// Puts all keys once, one by one in an order without pattern, and looks.
///
/// # Errors
/// As for the whole comparison.
pub fn run(
    plan: &Plan,
    program: &Program,
    content: Content,
    temporary: &Path,
    comparison: &mut Comparison,
) -> Result<(), Failure> {
    let directory = tempfile::tempdir_in(temporary)?;
    let home = Home::new(program, directory.path(), plan.quota(), plan.members)?;
    let (server, _) = home.start(None)?;
    let pids = server.pids();
    let connections = connections_for(IN_FLIGHT);
    let mut net = Net::connect(server.address, connections, super::CONNECT_PATIENCE)?;
    let mut work = crate::load::puts::PutAll {
        numbers: Shuffle::new(plan.many_keys),
        keys: plan.many_keys,
        done: 0,
        values: Values::of(content, VALUE_BYTES),
        chance: Chance(1),
    };
    let slots = IN_FLIGHT / connections;
    let start = Instant::now();
    let put = unary::run(&mut net, &mut work, slots, Span::FILL, Meter::new(&pids))?;
    if let Some(reason) = put.first_error {
        return Err(Failure(format!("putting keys: {reason}")));
    }
    let put_seconds = start.elapsed().as_secs_f64();
    drop(net);
    let settled = settle::wait(&home);
    let written_bytes = process::written_sum(&pids);
    server.stop()?;
    let disk = Disk {
        server: program.label.clone(),
        values: match content {
            Content::Random => "random",
            Content::Json => "JSON",
        },
        keys: plan.many_keys,
        put_bytes: plan.many_keys * (KEY_BYTES + VALUE_BYTES) as u64,
        put_seconds,
        settle_seconds: settled.seconds,
        settled: settled.calm,
        disk_bytes: settled.bytes,
        written_bytes,
        disk_stopped_bytes: home.disk_bytes(),
    };
    eprintln!(
        "  put in {put_seconds:.1} s, {} MiB on disk, {} MiB written",
        disk.disk_bytes >> 20,
        written_bytes.unwrap_or(0) >> 20,
    );
    comparison.disks.push(disk);
    Ok(())
}
