//! The loads over long streams: events fanned out to watchers, and leases kept alive.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kvnode_api::service::Method;

use crate::data::{Chance, KEY_PREFIX, Values};
use crate::http2::Event;
use crate::net::{Failure, Net};
use crate::outcome::{Meter, Outcome};
use crate::proto::{Fields, Messages, Value, bytes, bytes_in, message, number, number_in};
use crate::unary::Span;
use crate::work;

/// Longest silence of a server that owes something.
const PATIENCE: Duration = Duration::from_secs(60);
const TURN: Duration = Duration::from_millis(50);

/// Fan-out of one key's changes.
pub struct FanOut {
    pub watchers: usize,
    /// Changes on the way at once; the next is put when all watchers have seen the oldest.
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
        let key = [KEY_PREFIX, b"fan-out"].concat();
        let putter = net.connections() - 1;
        let mut hearers = self.watch(net, &key, putter)?;
        let mut changes = Changes {
            key,
            values: Values::new(self.value_bytes.max(NUMBER_BYTES)),
            chance: Chance(1),
            request: Vec::new(),
            pending: VecDeque::new(),
            oldest: 0,
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

    /// Creates the watchers and waits until all are confirmed.
    fn watch(&self, net: &mut Net, key: &[u8], putter: usize) -> Result<Vec<Messages>, Failure> {
        let mut request = Vec::new();
        message(1, &mut request, |out| bytes(1, key, out));
        for index in 0..putter {
            let mine = self.watchers / putter + usize::from(index < self.watchers % putter);
            let stream = net.http(index).open_long(Method::Watch.path());
            for _ in 0..mine {
                // The smallest window of the field, 64 KiB, takes a thousand such requests.
                if !net.http(index).send(stream, &request) {
                    return Err(Failure(format!(
                        "{mine} watchers do not fit one stream's window"
                    )));
                }
            }
            net.flush(index)?;
        }
        let mut hearers: Vec<Messages> = (0..putter).map(|_| Messages::default()).collect();
        let mut created = 0;
        let start = Instant::now();
        while created < self.watchers {
            if start.elapsed() > PATIENCE {
                return Err(Failure(format!(
                    "{created} of {} watchers created",
                    self.watchers
                )));
            }
            let mut refusal = None;
            net.turn(TURN, |index, event| match event {
                Event::Data { bytes, .. } if index < putter => {
                    hearers[index].push(bytes, |answer| {
                        created += number_in(answer, 3) as usize;
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
}

/// The changes on their way to all watchers.
struct Changes {
    key: Vec<u8>,
    values: Values,
    chance: Chance,
    request: Vec<u8>,
    /// From `oldest` on: when it was sent, and how many watchers have not seen it.
    pending: VecDeque<(u64, usize)>,
    oldest: u64,
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
        while self.pending.len() < load.in_flight {
            let mut value = self.values.pick(&mut self.chance).to_vec();
            let change = self.oldest + self.pending.len() as u64;
            value[..NUMBER_BYTES].copy_from_slice(&change.to_be_bytes());
            self.request.clear();
            work::put(&self.key, &value, &mut self.request);
            if !net.http(putter).call(Method::Put.path(), &self.request)? {
                break;
            }
            self.pending.push_back((nanos(epoch), load.watchers));
        }
        net.flush(putter)
    }

    /// A watcher has told of a change.
    fn seen(&mut self, change: u64, now: u64, meter: &mut Meter) {
        let at = change.wrapping_sub(self.oldest) as usize;
        match self.pending.get_mut(at) {
            Some((sent, missing)) if *missing > 0 => {
                *missing -= 1;
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

/// Leases with the ids `first..=last` kept alive in turn.
pub struct KeepAlive {
    pub first: u64,
    pub last: u64,
    /// Messages on the way on each stream.
    pub in_flight: usize,
}

impl KeepAlive {
    /// Runs it with one stream per connection. An operation is an answer that renewed its lease.
    ///
    /// # Errors
    /// A broken connection or stream, a server that answers no more.
    pub fn run(&self, net: &mut Net, span: Span, mut meter: Meter) -> Result<Outcome, Failure> {
        let mut streams: Vec<Renewals> = (0..net.connections())
            .map(|index| Renewals {
                stream: net.http(index).open_long(Method::LeaseKeepAlive.path()),
                messages: Messages::default(),
                sent: VecDeque::new(),
                next: self.first + index as u64 * 7919 % (self.last - self.first + 1),
            })
            .collect();
        let epoch = Instant::now();
        let mut heard = epoch;
        for (index, stream) in streams.iter_mut().enumerate() {
            self.renew(net, index, stream, epoch)?;
        }
        let mut failure = None;
        let mut readable = Vec::new();
        while meter.goes_on(span, epoch.elapsed()) {
            net.wait(TURN, &mut readable)?;
            if !readable.is_empty() {
                heard = Instant::now();
            } else if heard.elapsed() > PATIENCE {
                return Err(Failure("renewals are not answered".to_owned()));
            }
            for &index in &readable {
                let Renewals { messages, sent, .. } = &mut streams[index];
                let mut now = 0;
                net.read(index, |event| match event {
                    Event::Data { bytes, .. } => {
                        if now == 0 {
                            now = nanos(epoch);
                        }
                        messages.push(bytes, |answer| {
                            let sent = sent.pop_front().unwrap_or(now);
                            match number_in(answer, 3) {
                                0 => meter.failed(|| "the lease is not there".to_owned()),
                                _ => meter.succeeded(now.saturating_sub(sent)),
                            }
                        });
                    }
                    Event::End {
                        status, message, ..
                    } => {
                        failure = Some(format!("status {status}: {message}"));
                    }
                })?;
                self.renew(net, index, &mut streams[index], epoch)?;
            }
            if let Some(reason) = failure {
                return Err(Failure(reason));
            }
        }
        Ok(meter.stop())
    }

    /// Sends what is due on one stream.
    fn renew(
        &self,
        net: &mut Net,
        index: usize,
        stream: &mut Renewals,
        epoch: Instant,
    ) -> Result<(), Failure> {
        let now = nanos(epoch);
        let mut request = Vec::new();
        while stream.sent.len() < self.in_flight {
            request.clear();
            number(1, stream.next, &mut request);
            // A shut window opens with something to read, after which this is tried again.
            if !net.http(index).send(stream.stream, &request) {
                break;
            }
            stream.sent.push_back(now);
            stream.next = if stream.next == self.last {
                self.first
            } else {
                stream.next + 1
            };
        }
        net.flush(index)
    }
}

/// One stream of renewals; answers come in the order of the questions.
struct Renewals {
    stream: u32,
    messages: Messages,
    sent: VecDeque<u64>,
    next: u64,
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
}
