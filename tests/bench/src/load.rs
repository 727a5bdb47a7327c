//! One load with all its settings, as the command line or the comparison asks for it.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::data::{Chance, Values};
use crate::net::{Failure, Net};
use crate::outcome::{Meter, Outcome};
use crate::streams::{FanOut, KeepAlive};
use crate::unary::{self, Span};
use crate::work::{Fill, Grant, Mixed, Order, Picker, Put, Range, Swap, Wants};

/// What is asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Put one value per call
    Put,
    /// Read one key per call
    Get,
    /// Read many neighbouring keys per call
    Range,
    /// Fan the changes of one key out to many watchers
    Watch,
    /// Grant leases
    LeaseGrant,
    /// Keep leases alive on one stream per connection
    LeaseKeepalive,
    /// Four gets to one put, of the same keys
    Mixed,
    /// Compare-and-swap a key of its own per request in flight
    Cas,
    /// Put all keys once, a hundred per transaction, and end
    Fill,
}

/// The settings of a load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub kind: Kind,
    pub connections: usize,
    /// Requests on the way over all connections; for watches, changes on the way.
    pub in_flight: usize,
    pub value_bytes: usize,
    /// Size of the key space.
    pub keys: u64,
    pub order: Order,
    pub serializable: bool,
    /// What of the keys a range asks for.
    pub wants: Wants,
    /// Keys per range.
    pub width: u64,
    pub watchers: usize,
    pub warm_up: Duration,
    pub measured: Duration,
}

impl Default for Load {
    fn default() -> Load {
        Load {
            kind: Kind::Put,
            connections: 1,
            in_flight: 1,
            value_bytes: 256,
            keys: 100_000,
            order: Order::Random,
            serializable: false,
            wants: Wants::Pairs,
            width: 1,
            watchers: 1000,
            warm_up: Duration::from_millis(300),
            measured: Duration::from_secs(3),
        }
    }
}

/// Connections that a number of requests in flight is spread over unless told otherwise.
pub fn connections_for(in_flight: usize) -> usize {
    match in_flight {
        0..=1 => 1,
        2..=63 => in_flight.min(4),
        64..=511 => 16,
        _ => 20,
    }
}

/// Operations of a filling transaction; servers allow 128.
const FILL_PER_TXN: u64 = 100;
/// Leases kept alive in turn.
const LEASES: u64 = 1000;
/// Long enough not to end during a run.
const LEASE_TTL_SECONDS: u64 = 3600;

impl Load {
    /// Runs it; `pids` are the server's processes if their CPU time is to be taken.
    ///
    /// # Errors
    /// A server that cannot be reached, breaks a connection or answers no more.
    pub fn run(&self, server: SocketAddr, pids: &[u32]) -> Result<Outcome, Failure> {
        let extra = usize::from(self.kind == Kind::Watch);
        let connections = self.connections.max(1);
        let patience = Duration::from_secs(10);
        let mut net = Net::connect(server, connections + extra, patience)?;
        let net = &mut net;
        let meter = Meter::new(pids);
        let slots = (self.in_flight / connections).max(1);
        let span = Span {
            warm_up: self.warm_up,
            measured: Some(self.measured),
        };
        let run = now_nanos();
        match self.kind {
            Kind::Put => {
                let mut work = Put {
                    picker: Picker::new(self.order, self.keys, run),
                    values: Values::new(self.value_bytes),
                };
                unary::run(net, &mut work, slots, span, meter)
            }
            Kind::Get | Kind::Range => {
                let width = if self.kind == Kind::Get {
                    1
                } else {
                    self.width
                };
                let mut work = Range {
                    picker: Picker::new(self.order, self.keys.saturating_sub(width) + 1, run),
                    width,
                    serializable: self.serializable,
                    wants: self.wants,
                    value_bytes: self.value_bytes,
                };
                unary::run(net, &mut work, slots, span, meter)
            }
            Kind::Mixed => {
                let mut work = Mixed::new(slots * connections, self, run);
                unary::run(net, &mut work, slots, span, meter)
            }
            Kind::Watch => {
                let fan_out = FanOut {
                    watchers: self.watchers,
                    in_flight: self.in_flight,
                    value_bytes: self.value_bytes,
                };
                fan_out.run(net, span, meter)
            }
            Kind::LeaseGrant => {
                let mut work = grant(run, u64::MAX >> 1);
                unary::run(net, &mut work, slots, span, meter)
            }
            Kind::LeaseKeepalive => {
                let mut work = grant(run, LEASES);
                let (first, last) = (work.next, work.last);
                unary::run(net, &mut work, slots, Span::ALL, Meter::new(&[]))?;
                let keep_alive = KeepAlive {
                    first,
                    last,
                    in_flight: slots,
                };
                keep_alive.run(net, span, meter)
            }
            Kind::Cas => {
                let mut work = Swap::new(slots * connections, self.value_bytes, run);
                unary::run(net, &mut work, slots, span, meter)
            }
            Kind::Fill => {
                let mut work = Fill {
                    next: 0,
                    keys: self.keys,
                    per_txn: FILL_PER_TXN,
                    values: Values::new(self.value_bytes),
                    chance: Chance(run),
                };
                unary::run(net, &mut work, slots, Span::ALL, meter)
            }
        }
    }
}

/// Up to `count` leases with ids that no earlier run has used.
fn grant(run: u64, count: u64) -> Grant {
    let first = run & (u64::MAX >> 2) | 1;
    Grant {
        next: first,
        ttl_seconds: LEASE_TTL_SECONDS,
        last: first.saturating_add(count - 1).min(u64::MAX >> 1),
    }
}

fn now_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| since.as_nanos() as u64)
}
