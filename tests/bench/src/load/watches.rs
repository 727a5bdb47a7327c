//! Changes fanned out to watchers of one key, or of a key each; and watchers that only are there.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kvnode_api::service::Method;

use super::puts::put;
use crate::data::{Chance, KEY_PREFIX, Values};
use crate::http2::Event;
use crate::net::{Failure, Net};
use crate::outcome::{Meter, Outcome};
use crate::proto::{Fields, Messages, Value, bytes, bytes_in, message, number_in};
use crate::unary::Span;

/// Longest silence of a server that owes something, and longest time to confirm all watchers.
const PATIENCE: Duration = Duration::from_secs(60);
const TURN: Duration = Duration::from_millis(50);
/// Connections of watchers that only are there.
const IDLE_CONNECTIONS: usize = 20;
/// Changes begun since the oldest that has not been seen: so many, and it is lost.
const BEHIND_MAX: usize = 1_000_000;

/// Fan-out of changes.
pub struct FanOut {
    pub watchers: usize,
    /// Whether every watcher has a key of its own, so that each change is seen by one.
    pub distinct: bool,
    /// Changes on the way at once: those that some watcher has yet to see.
    pub in_flight: usize,
    pub value_bytes: usize,
}

/// Every value begins with the number of its change.
const NUMBER_BYTES: usize = 8;

impl FanOut {
    /// Runs it over all connections of `net` but the last, which puts; watchers are dealt evenly,
    /// one stream per connection. An operation is an event at a watcher; its latency is counted
    /// from the sending of the put.
    ///
    /// # Errors
    /// A broken connection, a refused watcher, a server that answers no more.
    pub fn run(&self, net: &mut Net, span: Span, mut meter: Meter) -> Result<Outcome, Failure> {
        let putter = net.connections() - 1;
        let mut hearers = create(net, putter, self.watchers, |watcher| self.key(watcher))?;
        let mut changes = Changes {
            values: Values::new(self.value_bytes.max(NUMBER_BYTES)),
            chance: Chance(1),
            request: Vec::new(),
            pending: VecDeque::new(),
            oldest: 0,
            unseen: 0,
        };
        let epoch = Instant::now();
        let mut failure = None;
        let mut heard = epoch;
        let mut readable = Vec::new();
        while meter.goes_on(span, epoch.elapsed()) {
            changes.put_due(self, net, putter, epoch)?;
            net.wait(TURN, &mut readable)?;
            if !readable.is_empty() {
                heard = Instant::now();
            } else if heard.elapsed() > PATIENCE {
                return Err(Failure("events do not arrive".to_owned()));
            }
            for &index in &readable {
                let mut now = 0;
                net.read(index, |event| match event {
                    Event::Data { bytes, .. } if index != putter => {
                        if now == 0 {
                            now = nanos(epoch);
                        }
                        hearers[index].push(bytes, |answer| {
                            each_change(answer, |change| changes.seen(change, now, &mut meter));
                        });
                    }
                    Event::End {
                        status, message, ..
                    } if status != 0 || index != putter => {
                        failure = Some(format!("status {status}: {message}"));
                    }
                    _ => {}
                })?;
                net.flush(index)?;
            }
            if let Some(reason) = failure {
                return Err(Failure(reason));
            }
        }
        Ok(meter.stop())
    }

    fn key(&self, watcher: usize) -> Vec<u8> {
        match self.distinct {
            true => [KEY_PREFIX, format!("watched/{watcher:06}").as_bytes()].concat(),
            false => [KEY_PREFIX, b"fan-out"].concat(),
        }
    }
}

/// So many watchers, each of a key that nobody puts, for as long as the connections stay open.
///
/// # Errors
/// As [`FanOut::run`].
pub fn idle(server: SocketAddr, watchers: usize) -> Result<Net, Failure> {
    let mut net = Net::connect(server, IDLE_CONNECTIONS, Duration::from_secs(10))?;
    create(&mut net, IDLE_CONNECTIONS, watchers, |watcher| {
        [KEY_PREFIX, format!("unchanged/{watcher:06}").as_bytes()].concat()
    })?;
    Ok(net)
}

/// Creates watchers over the first `connections`, one stream on each, and waits until all are
/// confirmed; what has come of each stream.
fn create(
    net: &mut Net,
    connections: usize,
    watchers: usize,
    key: impl Fn(usize) -> Vec<u8>,
) -> Result<Vec<Messages>, Failure> {
    let mut request = Vec::new();
    let mut next = 0;
    for index in 0..connections {
        let mine = watchers / connections + usize::from(index < watchers % connections);
        let stream = net.http(index).open_long(Method::Watch.path());
        for _ in 0..mine {
            request.clear();
            message(1, &mut request, |out| bytes(1, &key(next), out));
            next += 1;
            // The smallest window of the field, 64 KiB, takes a thousand such requests.
            if !net.http(index).send(stream, &request) {
                return Err(Failure(format!(
                    "{mine} watchers do not fit one stream's window"
                )));
            }
        }
        net.flush(index)?;
    }
    let mut hearers: Vec<Messages> = (0..connections).map(|_| Messages::default()).collect();
    let mut created = 0;
    let start = Instant::now();
    while created < watchers {
        if start.elapsed() > PATIENCE {
            return Err(Failure(format!("{created} of {watchers} watchers created")));
        }
        let mut refusal = None;
        net.turn(TURN, |index, event| match event {
            Event::Data { bytes, .. } if index < connections => {
                hearers[index].push(bytes, |answer| {
                    created += number_in(answer, 3) as usize;
                    if number_in(answer, 4) != 0 {
                        refusal = Some("a watcher is refused".to_owned());
                    }
                });
            }
            Event::End {
                status, message, ..
            } => {
                refusal = Some(format!("status {status}: {message}"));
            }
            _ => {}
        })?;
        if let Some(reason) = refusal {
            return Err(Failure(reason));
        }
    }
    Ok(hearers)
}

/// The changes on their way to their watchers.
struct Changes {
    values: Values,
    chance: Chance,
    request: Vec<u8>,
    /// From `oldest` on: when it was sent, and how many watchers have not seen it.
    pending: VecDeque<(u64, usize)>,
    oldest: u64,
    /// Of `pending`, those that some watcher has not seen.
    unseen: usize,
}

impl Changes {
    /// Forgets what all have seen and puts as many new changes.
    fn put_due(
        &mut self,
        load: &FanOut,
        net: &mut Net,
        putter: usize,
        epoch: Instant,
    ) -> Result<(), Failure> {
        while self
            .pending
            .front()
            .is_some_and(|(_, missing)| *missing == 0)
        {
            self.pending.pop_front();
            self.oldest += 1;
        }
        if self.pending.len() > BEHIND_MAX {
            return Err(Failure(format!("change {} never came", self.oldest)));
        }
        while self.unseen < load.in_flight {
            let watcher = self.chance.below(load.watchers.max(1) as u64) as usize;
            let mut value = self.values.pick(&mut self.chance).to_vec();
            let change = self.oldest + self.pending.len() as u64;
            value[..NUMBER_BYTES].copy_from_slice(&change.to_be_bytes());
            self.request.clear();
            put(&load.key(watcher), &value, &mut self.request);
            if !net.http(putter).call(Method::Put.path(), &self.request) {
                break;
            }
            let seen_by = if load.distinct { 1 } else { load.watchers };
            self.pending.push_back((nanos(epoch), seen_by));
            self.unseen += 1;
        }
        net.flush(putter)
    }

    /// A watcher has told of a change.
    fn seen(&mut self, change: u64, now: u64, meter: &mut Meter) {
        let at = change.wrapping_sub(self.oldest) as usize;
        match self.pending.get_mut(at) {
            Some((sent, missing)) if *missing > 0 => {
                *missing -= 1;
                self.unseen -= usize::from(*missing == 0);
                meter.succeeded(now.saturating_sub(*sent));
            }
            _ => meter.failed(|| format!("change {change} came once too often")),
        }
    }
}

/// Hands on the number of every change in a watch answer.
fn each_change(answer: &[u8], mut visit: impl FnMut(u64)) {
    for (tag, value) in Fields(answer) {
        let Value::Bytes(event) = value else { continue };
        if tag != 11 {
            continue;
        }
        let value = bytes_in(bytes_in(event, 2), 5);
        visit(
            value
                .first_chunk()
                .map_or(u64::MAX, |chunk| u64::from_be_bytes(*chunk)),
        );
    }
}

fn nanos(epoch: Instant) -> u64 {
    epoch.elapsed().as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvnode_api::{Event, KeyValue, Message as _, WatchRequest, WatchResponse, watch_request};

    #[test]
    fn changes_are_read_from_their_values() {
        let event = |value: &[u8]| Event {
            kv: Some(KeyValue {
                key: "k".into(),
                value: value.to_vec().into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let answer = WatchResponse {
            watch_id: 3,
            events: vec![event(b"\0\0\0\0\0\0\x01\x02rest"), event(b"short")],
            ..Default::default()
        };
        let mut found = Vec::new();
        each_change(&answer.encode_to_vec(), |change| found.push(change));
        assert_eq!(found, [258, u64::MAX]);
    }

    #[test]
    fn the_create_request_is_what_the_api_reads() {
        let mut request = Vec::new();
        message(1, &mut request, |out| bytes(1, b"key", out));
        let request = WatchRequest::decode(&request[..]).unwrap();
        let Some(watch_request::RequestUnion::CreateRequest(create)) = request.request_union else {
            panic!("not a create request");
        };
        assert_eq!(&create.key[..], b"key");
    }

    #[test]
    fn a_change_is_on_its_way_until_all_have_seen_it_and_too_often_is_an_error() {
        let mut changes = Changes {
            values: Values::new(NUMBER_BYTES),
            chance: Chance(1),
            request: Vec::new(),
            pending: [(10, 2), (20, 1)].into(),
            oldest: 5,
            unseen: 2,
        };
        let mut meter = Meter::new(&[]);
        changes.seen(6, 25, &mut meter);
        assert_eq!(changes.unseen, 1);
        changes.seen(5, 30, &mut meter);
        assert_eq!(changes.unseen, 1, "one of two has yet to see it");
        changes.seen(5, 40, &mut meter);
        assert_eq!(changes.unseen, 0);
        for wrong in [5, 6, 7, 4, u64::MAX] {
            changes.seen(wrong, 50, &mut meter);
        }
        let outcome = meter.stop();
        assert_eq!((outcome.ops, outcome.errors), (3, 5));
    }
}
