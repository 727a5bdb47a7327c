//! How long nobody can write when the leader dies: three members, puts through the two others at a low rate, the leader
//! killed, and the time until a put sent after that is answered.
//!
//! Puts leave at fixed times whatever becomes of those before, since one that went to the dead leader may wait for its
//! server's own time limit, and is not what a client with a short deadline would wait for.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kvnode_api::service::Method;
use serde::Serialize;

use crate::data::key;
use crate::http2::Event;
use crate::load::puts::put;
use crate::net::{Failure, Net};
use crate::report::median;
use crate::server::{Home, Program, Server};

/// The name of this part of a comparison.
pub const PART: &str = "fail-over";

const MEMBERS: usize = 3;
/// Between puts; they go to the surviving members in turn.
const BETWEEN: Duration = Duration::from_millis(10);
/// Undisturbed puts before each kill.
const BEFORE: Duration = Duration::from_secs(2);
/// Longest gap that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    pub programs: Vec<Program>,
    pub rounds: u32,
    pub directory: PathBuf,
}

/// What was found of one server.
#[derive(Clone, Debug, Serialize)]
pub struct FailOver {
    pub server: String,
    /// From the kill to the first answer to a put sent after it, kill by kill.
    pub gaps_ms: Vec<f64>,
    pub median_ms: f64,
    pub worst_ms: f64,
    /// Puts the survivors refused meanwhile, or failed.
    pub refused: u64,
}

/// Runs it and prints what was found.
///
/// # Errors
/// A server that does not start, or does not write again.
pub fn run(plan: &Plan) -> Result<Vec<FailOver>, Failure> {
    let mut found = Vec::new();
    for program in &plan.programs {
        let one = of(program, plan.rounds, &plan.directory)
            .map_err(|failure| Failure(format!("{}: {failure}", program.label)))?;
        println!(
            "{}: no writes for {:.0} ms in the median, {:.0} ms at worst, of {} kills; {} puts refused",
            one.server,
            one.median_ms,
            one.worst_ms,
            one.gaps_ms.len(),
            one.refused,
        );
        found.push(one);
    }
    Ok(found)
}

/// Kills the leader so many times.
///
/// # Errors
/// As [`run`].
pub fn of(program: &Program, rounds: u32, directory: &Path) -> Result<FailOver, Failure> {
    let place = tempfile::Builder::new()
        .prefix("kvbench-")
        .tempdir_in(directory)?;
    let home = Home::new(program, place.path(), 2 << 30, MEMBERS)?;
    let (mut server, _) = home.start(None)?;
    let mut gaps_ms = Vec::new();
    let mut refused = 0;
    for round in 1..=rounds {
        let (gap, failed) = kill_leader(&home, &mut server)?;
        let gap_ms = gap.as_secs_f64() * 1e3;
        eprintln!("  {} kill {round}: {gap_ms:.0} ms", program.label);
        gaps_ms.push(gap_ms);
        refused += failed;
    }
    server.stop()?;
    Ok(FailOver {
        server: program.label.clone(),
        median_ms: median(&mut gaps_ms.clone()),
        worst_ms: gaps_ms.iter().copied().fold(0.0, f64::max),
        gaps_ms,
        refused,
    })
}

/// The gap, and how many puts failed in it. All members run again afterwards.
fn kill_leader(home: &Home, server: &mut Server) -> Result<(Duration, u64), Failure> {
    let leader = home.leader()?;
    let addresses = home.addresses();
    let number = addresses.iter().position(|address| *address == leader);
    let number = number.ok_or_else(|| Failure("the leader is no member".to_owned()))?;
    let others: Vec<SocketAddr> = (addresses.iter().copied())
        .filter(|address| *address != leader)
        .collect();
    let mut puts = Puts::new(&others)?;
    let start = Instant::now();
    while start.elapsed() < BEFORE || puts.answered == 0 {
        puts.turn()?;
        if start.elapsed() > PATIENCE {
            return Err(Failure("puts are not answered".to_owned()));
        }
    }
    if puts.failed > 0 {
        return Err(Failure(format!("{} puts failed undisturbed", puts.failed)));
    }
    let killed = Instant::now();
    server.kill_member(number)?;
    while puts.resumed_after(killed).is_none() {
        puts.turn()?;
        if killed.elapsed() > PATIENCE {
            return Err(Failure(format!("no put is answered for {PATIENCE:?}")));
        }
    }
    let gap = puts.resumed_after(killed).unwrap_or(PATIENCE);
    home.start_again(server, number)?;
    Ok((gap, puts.failed))
}

/// Puts at a fixed rate through several members.
struct Puts {
    nets: Vec<Net>,
    due: Instant,
    turn: usize,
    /// Number of the next put.
    next: u64,
    /// Member, stream and time of those not answered.
    open: Vec<(usize, u32, Instant)>,
    answered: u64,
    failed: u64,
    /// When the last-sent answered put was sent, and when its answer came.
    last: Option<(Instant, Instant)>,
}

impl Puts {
    fn new(members: &[SocketAddr]) -> Result<Puts, Failure> {
        let connect = |member: &SocketAddr| Net::connect(*member, 1, Duration::from_secs(10));
        Ok(Puts {
            nets: members.iter().map(connect).collect::<Result<_, _>>()?,
            due: Instant::now(),
            turn: 0,
            next: 0,
            open: Vec::new(),
            answered: 0,
            failed: 0,
            last: None,
        })
    }

    /// Sends what is due and takes what has come, for a millisecond or two.
    fn turn(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        if now >= self.due {
            self.due = now + BETWEEN;
            self.turn = (self.turn + 1) % self.nets.len();
            let net = &mut self.nets[self.turn];
            let mut request = Vec::new();
            put(&key(self.next % 1000), b"value", &mut request);
            self.next += 1;
            let stream = net.http(0).next_stream();
            if net.http(0).call(Method::Put.path(), &request) {
                self.open.push((self.turn, stream, now));
            }
            net.flush(0)?;
        }
        for member in 0..self.nets.len() {
            let mut ended = Vec::new();
            self.nets[member].turn(Duration::from_millis(1), |_, event| {
                if let Event::End { stream, status, .. } = event {
                    ended.push((stream, status));
                }
            })?;
            for (stream, status) in ended {
                self.ended(member, stream, status, Instant::now());
            }
        }
        Ok(())
    }

    fn ended(&mut self, member: usize, stream: u32, status: u32, now: Instant) {
        let same = |open: &(usize, u32, Instant)| (open.0, open.1) == (member, stream);
        let Some(at) = self.open.iter().position(same) else {
            return;
        };
        let (_, _, sent) = self.open.swap_remove(at);
        if status != 0 {
            self.failed += 1;
            return;
        }
        self.answered += 1;
        if self.last.is_none_or(|(last, _)| sent > last) {
            self.last = Some((sent, now));
        }
    }

    /// The time from a moment to the answer of a put sent after it.
    fn resumed_after(&self, moment: Instant) -> Option<Duration> {
        let (sent, answered) = self.last?;
        (sent >= moment).then(|| answered - moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answered_put_sent_afterwards_ends_the_gap() {
        let mut puts = Puts::new(&[]).unwrap();
        let killed = Instant::now();
        let at = |millis| killed + Duration::from_millis(millis);
        puts.open = vec![
            (0, 1, killed - Duration::from_nanos(1)),
            (1, 1, at(10)),
            (0, 3, at(20)),
        ];
        puts.ended(0, 1, 0, at(30));
        assert_eq!(puts.resumed_after(killed), None, "it was sent before");
        puts.ended(1, 1, 14, at(40));
        assert_eq!(puts.resumed_after(killed), None, "it failed");
        puts.ended(0, 3, 0, at(50));
        assert_eq!(puts.resumed_after(killed), Some(Duration::from_millis(50)));
        assert_eq!((puts.answered, puts.failed, puts.open.len()), (2, 1, 0));
    }
}
