//! Leases: granted one per call, and kept alive over long streams.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kvnode_api::service::Method;

use crate::http2::Event;
use crate::net::{Failure, Net};
use crate::outcome::{Meter, Outcome};
use crate::proto::{Messages, number, number_in};
use crate::unary::Span;
use crate::work::{Work, at_least};

/// Longest silence of a server that owes something.
const PATIENCE: Duration = Duration::from_secs(60);
const TURN: Duration = Duration::from_millis(50);

/// Grants leases with ids from `first` on, which nobody else uses.
pub struct Grant {
    pub next: u64,
    pub ttl_seconds: u64,
    /// No more than this id.
    pub last: u64,
}

impl Work for Grant {
    fn method(&self, _slot: usize) -> Method {
        Method::LeaseGrant
    }

    fn next(&mut self, _slot: usize, out: &mut Vec<u8>) -> bool {
        if self.next > self.last {
            return false;
        }
        number(1, self.ttl_seconds, out);
        number(2, self.next, out);
        self.next += 1;
        true
    }

    fn answered(&mut self, _slot: usize, bytes: usize, _body: &[u8]) -> Result<(), String> {
        at_least(bytes, 1)
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
    use crate::work::tests::next;
    use kvnode_api::LeaseGrantRequest;

    #[test]
    fn grants_are_what_the_api_reads_until_the_ids_are_used_up() {
        let mut work = Grant {
            next: 7,
            ttl_seconds: 60,
            last: 7,
        };
        let grant: LeaseGrantRequest = next(&mut work);
        assert_eq!((grant.id, grant.ttl), (7, 60));
        assert!(!work.next(0, &mut Vec::new()));
    }
}
