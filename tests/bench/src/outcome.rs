//! What one run of a load amounts to, and the meter that takes CPU times around it.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::histogram::Histogram;
use crate::process;
use crate::unary::Span;

/// One run of a load against one server, or a cluster of them.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Calls (or events) that succeeded.
    pub ops: u64,
    pub errors: u64,
    /// In the server's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
    pub seconds: f64,
    pub ops_per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
    /// User and system time of the server, all members together, per operation; absent without a process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cpu_us_per_op: Option<f64>,
    /// The part of it spent in the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_system_us_per_op: Option<f64>,
    /// The loader's own, to see that it is not what is measured.
    pub loader_cpu_us_per_op: f64,
    /// Resident memory of the server at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_rss_bytes: Option<u64>,
}

/// So many answers are wanted, and what the measured time is prolonged to until there are.
const FEW: u64 = 20;
const PROLONGED: Duration = Duration::from_secs(30);

/// Gathers latencies and errors between the end of the warm-up and [`Meter::stop`]; what comes before
/// or after is not counted.
pub struct Meter {
    pids: Vec<u32>,
    latencies: Histogram,
    ops: u64,
    errors: u64,
    first_error: Option<String>,
    started: Option<Mark>,
}

struct Mark {
    at: Instant,
    server: Option<process::Cpu>,
    loader: f64,
}

impl Mark {
    fn take(pids: &[u32]) -> Mark {
        let own = clock_gettime(ClockId::ProcessCPUTime);
        Mark {
            at: Instant::now(),
            server: process::cpu_sum(pids),
            loader: own.tv_sec as f64 + own.tv_nsec as f64 / 1e9,
        }
    }
}

impl Meter {
    /// `pids` are the server's processes, if they run here: one of each member.
    pub fn new(pids: &[u32]) -> Meter {
        Meter {
            pids: pids.to_owned(),
            latencies: Histogram::new(),
            ops: 0,
            errors: 0,
            first_error: None,
            started: None,
        }
    }

    /// Forgets what came before: the warm-up is over.
    fn start(&mut self) {
        self.latencies.clear();
        self.ops = 0;
        // Errors while warming up are errors too.
        self.started = Some(Mark::take(&self.pids));
    }

    /// Starts when `passed` reaches the warm-up; whether the load is to go on. The measured time
    /// runs from the real start, which a stalled server may delay, so it is never cut short; it is prolonged
    /// while there are hardly any answers.
    pub fn goes_on(&mut self, span: Span, passed: Duration) -> bool {
        if self.started.is_none() && passed >= span.warm_up {
            self.start();
        }
        match (&self.started, span.measured) {
            (Some(started), Some(measured)) => {
                let measured = match self.ops + self.errors < FEW {
                    true => measured.max(PROLONGED),
                    false => measured,
                };
                started.at.elapsed() < measured
            }
            _ => true,
        }
    }

    pub fn succeeded(&mut self, nanos: u64) {
        self.ops += 1;
        self.latencies.record(nanos);
    }

    pub fn failed(&mut self, reason: impl FnOnce() -> String) {
        self.errors += 1;
        if self.first_error.is_none() {
            self.first_error = Some(reason());
        }
    }

    /// The sum of it.
    pub fn stop(self) -> Outcome {
        let end = Mark::take(&self.pids);
        let started = self.started.unwrap_or_else(|| Mark::take(&self.pids));
        let seconds = (end.at - started.at).as_secs_f64().max(1e-9);
        let ops = self.ops.max(1) as f64;
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let server = started.server.zip(end.server);
        Outcome {
            ops: self.ops,
            errors: self.errors,
            first_error: self.first_error,
            seconds,
            ops_per_second: self.ops as f64 / seconds,
            p50_us: micros(self.latencies.quantile(0.5)),
            p99_us: micros(self.latencies.quantile(0.99)),
            p999_us: micros(self.latencies.quantile(0.999)),
            max_us: micros(self.latencies.max()),
            server_cpu_us_per_op: server.map(|(a, b)| (b.total() - a.total()) * 1e6 / ops),
            server_system_us_per_op: server.map(|(a, b)| (b.system - a.system) * 1e6 / ops),
            loader_cpu_us_per_op: (end.loader - started.loader) * 1e6 / ops,
            server_rss_bytes: process::memory_sum(&self.pids).map(|memory| memory.resident),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_prolonged_while_there_are_hardly_any_answers() {
        let span = Span::measured(Duration::ZERO, Duration::ZERO);
        let mut meter = Meter::new(&[]);
        for _ in 0..FEW {
            assert!(meter.goes_on(span, Duration::ZERO));
            meter.succeeded(1);
        }
        assert!(!meter.goes_on(span, Duration::ZERO));
        let mut meter = Meter::new(&[]);
        assert!(meter.goes_on(span, Duration::ZERO));
        for _ in 0..FEW {
            meter.failed(|| "no".to_owned());
        }
        assert!(!meter.goes_on(span, Duration::ZERO), "failures are answers");
        let outcome = meter.stop();
        assert_eq!((outcome.ops, outcome.errors), (0, FEW));
    }
}
