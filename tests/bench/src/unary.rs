//! Runs a [`Work`] as a closed loop: a fixed number of requests in flight, the next one as soon as
//! one is answered.
//!
//! One clock reading per read serves as the end of what it answered and the beginning of what
//! follows, so a latency includes the microseconds the loader takes in between.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::http2::Event;
use crate::net::{Failure, Net};
use crate::outcome::{Meter, Outcome};
use crate::work::Work;

/// How long to go on, and from when to count.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub warm_up: Duration,
    /// `None`: until the work has no more to ask.
    pub measured: Option<Duration>,
    /// A server that answers nothing for so long is given up.
    pub patience: Duration,
    /// A load that has not ended by then is given up.
    pub limit: Duration,
}

const PATIENCE: Duration = Duration::from_secs(60);
/// Longest turn of the loop that is the loader's own work.
const STANDSTILL: Duration = Duration::from_secs(2);

impl Span {
    /// Count everything, until the work is done.
    pub const ALL: Span = Span {
        warm_up: Duration::ZERO,
        measured: None,
        patience: PATIENCE,
        limit: Duration::from_secs(180),
    };

    /// The same for work that is long by itself.
    pub const FILL: Span = Span {
        limit: Duration::from_secs(3600),
        ..Span::ALL
    };

    /// A fixed time after the warm-up.
    pub fn measured(warm_up: Duration, measured: Duration) -> Span {
        Span {
            warm_up,
            measured: Some(measured),
            patience: PATIENCE,
            limit: warm_up + measured + PATIENCE * 3,
        }
    }
}

/// Runs the load with `slots` requests in flight on each connection.
///
/// # Errors
/// A broken connection, or a server that answers no more. Failed calls are only counted.
pub fn run<W: Work>(
    net: &mut Net,
    work: &mut W,
    slots: usize,
    span: Span,
    meter: Meter,
) -> Result<Outcome, Failure> {
    for index in 0..net.connections() {
        let allowed = net.http(index).max_streams();
        if (allowed as usize) < slots {
            return Err(Failure(format!(
                "{slots} requests in flight per connection, the server allows {allowed}"
            )));
        }
    }
    let run = Run {
        wires: (0..net.connections())
            .map(|index| {
                Calls::new(
                    index * slots..(index + 1) * slots,
                    net.http(index).next_stream(),
                )
            })
            .collect(),
        net,
        work,
        epoch: Instant::now(),
        meter,
        asking: true,
    };
    run.go(span)
}

struct Run<'a, W> {
    net: &'a mut Net,
    work: &'a mut W,
    wires: Vec<Calls>,
    epoch: Instant,
    meter: Meter,
    /// Whether answered slots ask again.
    asking: bool,
}

/// The calls of one connection.
struct Calls {
    /// Stream of the front of `open`; streams count up by two.
    first: u32,
    open: VecDeque<Call>,
    /// Slots with nothing out.
    idle: Vec<usize>,
    /// The slot whose request, in `request`, waits for the server's window.
    held: Option<usize>,
    request: Vec<u8>,
}

struct Call {
    slot: usize,
    sent: u64,
    bytes: usize,
    body: Vec<u8>,
    done: bool,
}

impl<W: Work> Run<'_, W> {
    fn go(mut self, span: Span) -> Result<Outcome, Failure> {
        self.meter.goes_on(span, Duration::ZERO);
        for index in 0..self.wires.len() {
            self.ask(index)?;
        }
        let mut readable = Vec::new();
        let mut heard = Instant::now();
        let mut turned = heard;
        while self.asking && self.in_flight() > 0 {
            self.net.wait(Duration::from_millis(50), &mut readable)?;
            for &index in &readable {
                self.hear(index)?;
                self.ask(index)?;
            }
            let now = Instant::now();
            if now - turned > STANDSTILL {
                // It was the loader that stood still, and perhaps all of the machine.
                heard += now - turned;
            }
            turned = now;
            if !readable.is_empty() {
                heard = now;
            } else if now - heard > span.patience {
                let open = self.in_flight();
                return Err(Failure(format!(
                    "{open} requests are not answered within {:?}",
                    span.patience
                )));
            }
            if now - self.epoch > span.limit {
                return Err(Failure(format!("it is not done within {:?}", span.limit)));
            }
            self.asking = self.meter.goes_on(span, now - self.epoch);
        }
        let meter = std::mem::replace(&mut self.meter, Meter::new(&[]));
        let outcome = meter.stop();
        self.drain(span.patience)?;
        Ok(outcome)
    }

    fn in_flight(&self) -> usize {
        let of = |calls: &Calls| calls.open.len() + usize::from(calls.held.is_some());
        self.wires.iter().map(of).sum()
    }

    /// Waits for the calls still out, so that the next load finds a quiet server.
    fn drain(&mut self, patience: Duration) -> Result<(), Failure> {
        for calls in &mut self.wires {
            calls.held = None;
        }
        let start = Instant::now();
        let mut readable = Vec::new();
        while self.in_flight() > 0 && start.elapsed() < patience {
            self.net.wait(Duration::from_millis(50), &mut readable)?;
            for &index in &readable {
                self.hear(index)?;
                self.net.flush(index)?;
            }
        }
        match self.in_flight() {
            0 => Ok(()),
            open => Err(Failure(format!("{open} requests are not answered"))),
        }
    }

    /// Lets every idle slot of a connection ask, as far as the server's window allows.
    fn ask(&mut self, index: usize) -> Result<(), Failure> {
        let calls = &mut self.wires[index];
        let sent = nanos(self.epoch);
        loop {
            if calls.held.is_none() {
                let Some(slot) = calls.idle.pop() else { break };
                calls.request.clear();
                if !self.work.next(slot, &mut calls.request) {
                    calls.idle.push(slot);
                    break;
                }
                calls.held = Some(slot);
            }
            let path = self.work.method(calls.held.unwrap_or(0)).path();
            if !self.net.http(index).call(path, &calls.request) {
                break;
            }
            calls.open.extend(calls.held.take().map(|slot| Call {
                slot,
                sent,
                bytes: 0,
                body: Vec::new(),
                done: false,
            }));
        }
        self.net.flush(index)
    }

    /// Reads a connection once.
    fn hear(&mut self, index: usize) -> Result<(), Failure> {
        let calls = &mut self.wires[index];
        let mut now = 0;
        let epoch = self.epoch;
        self.net.read(index, |event| {
            if now == 0 {
                now = nanos(epoch);
            }
            calls.take(event, W::WANTS_BODY, now, self.work, &mut self.meter);
        })
    }
}

impl Calls {
    fn new(slots: std::ops::Range<usize>, first: u32) -> Calls {
        Calls {
            first,
            open: VecDeque::with_capacity(slots.len()),
            idle: slots.rev().collect(),
            held: None,
            request: Vec::new(),
        }
    }

    fn take<W: Work>(
        &mut self,
        event: Event<'_>,
        wants_body: bool,
        now: u64,
        work: &mut W,
        meter: &mut Meter,
    ) {
        match event {
            Event::Data { stream, bytes } => {
                let Some(call) = self.call(stream) else {
                    return;
                };
                call.bytes += bytes.len();
                if wants_body {
                    call.body.extend_from_slice(bytes);
                }
            }
            Event::End {
                stream,
                status,
                message,
            } => {
                let Some(call) = self.call(stream) else {
                    return;
                };
                call.done = true;
                let slot = call.slot;
                let verdict = match status {
                    0 => work.answered(slot, call.bytes, &call.body),
                    _ => Err(format!("status {status}: {message}")),
                };
                match verdict {
                    Ok(()) => meter.succeeded(now.saturating_sub(call.sent)),
                    Err(reason) => meter.failed(|| reason),
                }
                self.idle.push(slot);
                while self.open.front().is_some_and(|call| call.done) {
                    self.open.pop_front();
                    self.first += 2;
                }
            }
        }
    }

    /// The call of a stream, unless it has ended.
    fn call(&mut self, stream: u32) -> Option<&mut Call> {
        let at = (stream.checked_sub(self.first)? / 2) as usize;
        self.open.get_mut(at).filter(|call| !call.done)
    }
}

fn nanos(epoch: Instant) -> u64 {
    epoch.elapsed().as_nanos() as u64
}

#[cfg(test)]
#[path = "unary_tests.rs"]
mod tests;
