//! What maintenance costs clients: the latency of puts while history is compacted, the database defragmented, or a
//! snapshot saved, beside that of puts nothing disturbs.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvnode_api::service::Method;
use serde::Serialize;

use super::{Comparison, Plan, SETTLE, fill, settle};
use crate::data::Values;
use crate::http2::Event;
use crate::load::connections_for;
use crate::load::puts::Put;
use crate::load::ranges::Now;
use crate::net::{Failure, Net};
use crate::outcome::{Meter, Outcome};
use crate::proto::number;
use crate::server::{Home, Program};
use crate::unary::{self, Span};
use crate::work::{Order, Picker, Work};

/// The name of this part of the comparison.
pub const PART: &str = "disturbance";

/// The phase that the others are compared with.
pub const UNDISTURBED: &str = "undisturbed";

/// Puts in flight.
const IN_FLIGHT: usize = 16;
/// Puts before the maintenance begins.
const WARM_UP: Duration = Duration::from_millis(500);
/// Shortest time measured, however short the maintenance is.
const MEASURED_MIN: Duration = Duration::from_secs(1);
/// Longest silence of a server: it may serve nobody meanwhile.
const PATIENCE: Duration = Duration::from_secs(300);
/// Longest maintenance.
const LIMIT: Duration = Duration::from_secs(900);

/// What is done meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Nothing,
    /// All history but the newest, and waiting until it is gone
    Compact,
    Defragment,
    /// Streamed to here and thrown away
    Snapshot,
}

/// Puts during one kind of maintenance.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    pub server: String,
    pub name: &'static str,
    /// What the maintenance took.
    pub seconds: f64,
    /// Length of the snapshot; 0 of others.
    pub bytes: u64,
    pub puts: Outcome,
}

/// Runs all phases on one server.
///
/// # Errors
/// As for the whole comparison.
pub fn run(
    plan: &Plan,
    program: &Program,
    temporary: &Path,
    comparison: &mut Comparison,
) -> Result<(), Failure> {
    let directory = tempfile::tempdir_in(temporary)?;
    let home = Home::new(program, directory.path(), plan.quota(), plan.members)?;
    let (server, _) = home.start(None)?;
    // Half of the keys are overwritten, so that compaction finds something.
    for keys in [plan.many_keys, plan.many_keys / 2] {
        if let Some(reason) = fill(plan, keys).run(server.address, &[])?.first_error {
            return Err(Failure(format!("loading keys: {reason}")));
        }
    }
    std::thread::sleep(SETTLE);
    settle::wait(&home);
    for (name, action) in [
        (UNDISTURBED, Action::Nothing),
        ("compaction", Action::Compact),
        // What a server puts off until it has answered is a disturbance as well.
        ("after compaction", Action::Nothing),
        ("defragment", Action::Defragment),
        ("after defragment", Action::Nothing),
        ("snapshot", Action::Snapshot),
    ] {
        let phase = phase(plan, server.address, &server.pids(), action)
            .map_err(|failure| Failure(format!("{name}: {failure}")));
        let (seconds, bytes, puts) = phase?;
        eprintln!(
            "  {name}: {seconds:.2} s, puts p99 {:.0} us, {} errors",
            puts.p99_us, puts.errors
        );
        comparison.disturbances.push(Phase {
            server: program.label.clone(),
            name,
            seconds,
            bytes,
            puts,
        });
    }
    server.stop()?;
    Ok(())
}

/// Duration and bytes of the action, and the puts meanwhile.
fn phase(
    plan: &Plan,
    server: SocketAddr,
    pids: &[u32],
    action: Action,
) -> Result<(f64, u64, Outcome), Failure> {
    let connections = connections_for(IN_FLIGHT);
    let mut net = Net::connect(server, connections, super::CONNECT_PATIENCE)?;
    let done = AtomicBool::new(false);
    let begun = Instant::now();
    let shortest = WARM_UP
        + match action {
            Action::Nothing => plan.measured.max(MEASURED_MIN),
            _ => MEASURED_MIN,
        };
    let mut work = Until {
        work: Put {
            picker: Picker::new(Order::Random, plan.many_keys, plan.many_keys),
            values: Values::new(plan.value_bytes),
        },
        over: || done.load(Ordering::Acquire) && begun.elapsed() >= shortest,
    };
    let span = Span {
        warm_up: WARM_UP,
        measured: None,
        patience: PATIENCE,
        limit: LIMIT,
    };
    std::thread::scope(|scope| {
        let acting = scope.spawn(|| {
            std::thread::sleep(WARM_UP);
            let acted = act(server, action);
            done.store(true, Ordering::Release);
            acted
        });
        let slots = IN_FLIGHT / connections;
        let puts = unary::run(&mut net, &mut work, slots, span, Meter::new(pids));
        let acted = acting.join();
        let (seconds, bytes) = acted.map_err(|_| Failure("it panicked".to_owned()))??;
        Ok((seconds.as_secs_f64(), bytes, puts?))
    })
}

/// Does it on a connection of its own; how long that took, and the bytes that came.
fn act(server: SocketAddr, action: Action) -> Result<(Duration, u64), Failure> {
    let mut net = Net::connect(server, 1, super::CONNECT_PATIENCE)?;
    let mut request = Vec::new();
    let method = match action {
        Action::Nothing => return Ok((Duration::ZERO, 0)),
        Action::Compact => {
            let mut now = Now::default();
            unary::run(&mut net, &mut now, 1, Span::ALL, Meter::new(&[]))?;
            compact(now.revision, &mut request);
            Method::Compact
        }
        Action::Defragment => Method::Defragment,
        Action::Snapshot => Method::Snapshot,
    };
    let start = Instant::now();
    if !net.http(0).call_streamed(method.path(), &request) {
        return Err(Failure("the request does not fit a window".to_owned()));
    }
    net.flush(0)?;
    let (mut bytes, mut end) = (0, None);
    while end.is_none() {
        if start.elapsed() > LIMIT {
            return Err(Failure(format!("it is not done within {LIMIT:?}")));
        }
        net.turn(Duration::from_millis(100), |_, event| match event {
            Event::Data { bytes: piece, .. } => bytes += piece.len() as u64,
            Event::End {
                status, message, ..
            } => end = Some((status, message.to_owned())),
        })?;
    }
    match (end, action) {
        (Some((0, _)), Action::Snapshot) if bytes < 1024 => {
            Err(Failure(format!("a snapshot of {bytes} bytes")))
        }
        (Some((0, _)), Action::Snapshot) => Ok((start.elapsed(), bytes)),
        (Some((0, _)), _) => Ok((start.elapsed(), 0)),
        (Some((status, message)), _) => Err(Failure(format!("status {status}: {message}"))),
        (None, _) => Err(Failure("no end".to_owned())),
    }
}

/// A `CompactionRequest` that is answered when the history is gone.
fn compact(revision: u64, out: &mut Vec<u8>) {
    number(1, revision, out);
    number(2, 1, out);
}

/// Work that ends when something else is over.
struct Until<W, F> {
    work: W,
    over: F,
}

impl<W: Work, F: Fn() -> bool> Work for Until<W, F> {
    const WANTS_BODY: bool = W::WANTS_BODY;

    fn method(&self, slot: usize) -> Method {
        self.work.method(slot)
    }

    fn next(&mut self, slot: usize, out: &mut Vec<u8>) -> bool {
        !(self.over)() && self.work.next(slot, out)
    }

    fn answered(&mut self, slot: usize, bytes: usize, body: &[u8]) -> Result<(), String> {
        self.work.answered(slot, bytes, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvnode_api::{CompactionRequest, Message as _};

    #[test]
    fn the_compaction_is_what_the_api_reads() {
        let mut request = Vec::new();
        compact(300, &mut request);
        let request = CompactionRequest::decode(&request[..]).unwrap();
        assert_eq!((request.revision, request.physical), (300, true));
    }

    #[test]
    fn work_goes_on_until_the_other_is_over() {
        let over = std::cell::Cell::new(false);
        let mut work = Until {
            work: Now::default(),
            over: || over.get(),
        };
        assert!(work.next(0, &mut Vec::new()));
        over.set(true);
        work.work = Now::default();
        assert!(!work.next(0, &mut Vec::new()));
    }
}
