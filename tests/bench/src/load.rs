//! One load with all its settings, as the command line or the comparison asks for it, and the way to the file of its kind.

pub mod leases;
pub mod mixed;
pub mod puts;
pub mod ranges;
pub mod swap;
pub mod watches;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::leases::{Grant, KeepAlive};
use self::mixed::Mixed;
use self::puts::{Fill, Put};
use self::ranges::{Now, Range, Wants};
use self::swap::Swap;
use self::watches::FanOut;
use crate::data::{Chance, Values};
use crate::net::{Failure, Net};
use crate::outcome::{Meter, Outcome};
use crate::unary::{self, Span};
use crate::work::{Order, Picker, Work};

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
    /// Gets and ranges read as of the revision they begin at, after all keys have been overwritten so
    /// many times; 0 reads what is.
    pub overwrites: u64,
    pub watchers: usize,
    /// Every watcher has a key of its own.
    pub distinct: bool,
    /// Watchers of other keys that are there meanwhile.
    pub idle_watchers: usize,
    /// Granted before it is measured; what is kept alive.
    pub leases: u64,
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
            overwrites: 0,
            watchers: 1000,
            distinct: false,
            idle_watchers: 0,
            leases: 1000,
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
        let _idle = match self.idle_watchers {
            0 => None,
            watchers => Some(watches::idle(server, watchers)?),
        };
        let mut net = Net::connect(server, connections + extra, patience)?;
        let net = &mut net;
        let meter = Meter::new(pids);
        let slots = (self.in_flight / connections).max(1);
        let span = Span::measured(self.warm_up, self.measured);
        let run = now_nanos();
        match self.kind {
            Kind::Put => {
                let mut work = Put {
                    picker: Picker::new(self.order, self.keys, run),
                    values: Values::new(self.value_bytes),
                };
                unary::run(net, &mut work, slots, span, meter)
            }
            Kind::Get | Kind::Range => self.reads(net, slots, run, span, meter),
            Kind::Mixed => {
                let mut work = Mixed::new(slots * connections, self, run);
                unary::run(net, &mut work, slots, span, meter)
            }
            Kind::Watch => {
                let fan_out = FanOut {
                    watchers: self.watchers,
                    distinct: self.distinct,
                    in_flight: self.in_flight,
                    value_bytes: self.value_bytes,
                };
                fan_out.run(net, span, meter)
            }
            Kind::LeaseGrant => {
                let mut work = self.granted(net, slots, run)?;
                work.last = u64::MAX >> 1;
                unary::run(net, &mut work, slots, span, meter)
            }
            Kind::LeaseKeepalive => {
                let work = self.granted(net, slots, run)?;
                let keep_alive = KeepAlive {
                    first: work.last + 1 - self.leases.max(1),
                    last: work.last,
                    in_flight: slots,
                };
                keep_alive.run(net, span, meter)
            }
            Kind::Cas => {
                let mut work = Swap::new(slots * connections, self.value_bytes, run);
                unary::run(net, &mut work, slots, span, meter)
            }
            Kind::Fill => unary::run(net, &mut self.fill(run), slots, Span::FILL, meter),
        }
    }

    /// Gets and ranges. One answer is read in full before any is measured, and all if they are short.
    fn reads(
        &self,
        net: &mut Net,
        slots: usize,
        run: u64,
        span: Span,
        meter: Meter,
    ) -> Result<Outcome, Failure> {
        let width = match self.kind {
            Kind::Get => 1,
            _ => self.width,
        };
        let mut revision = 0;
        if self.overwrites > 0 {
            let mut now = Now::default();
            before(net, &mut now, 1)?;
            revision = now.revision;
            for time in 0..self.overwrites {
                before(net, &mut self.fill(run ^ time), 4)?;
            }
        }
        let mut first = self.range::<true>(width, revision, run);
        first.calls = Some(1);
        before(net, &mut first, 1)?;
        if self.wants == Wants::Count || (revision > 0 && width == 1) {
            let mut work = self.range::<true>(width, revision, run);
            return unary::run(net, &mut work, slots, span, meter);
        }
        let mut work = self.range::<false>(width, revision, run);
        unary::run(net, &mut work, slots, span, meter)
    }

    fn range<const WHOLE: bool>(&self, width: u64, revision: u64, run: u64) -> Range<WHOLE> {
        Range {
            picker: Picker::new(self.order, self.keys.saturating_sub(width) + 1, run),
            width,
            serializable: self.serializable,
            wants: self.wants,
            revision,
            value_bytes: self.value_bytes,
            calls: None,
        }
    }

    /// All keys once, in order.
    fn fill(&self, run: u64) -> Fill {
        Fill {
            next: 0,
            keys: self.keys,
            per_txn: FILL_PER_TXN,
            values: Values::new(self.value_bytes),
            chance: Chance(run),
        }
    }

    /// Grants the leases that are to exist, with ids that no earlier run has used.
    fn granted(&self, net: &mut Net, slots: usize, run: u64) -> Result<Grant, Failure> {
        let first = run & (u64::MAX >> 2) | 1;
        let mut work = Grant {
            next: first,
            ttl_seconds: LEASE_TTL_SECONDS,
            last: first + self.leases.max(1) - 1,
        };
        before(net, &mut work, slots)?;
        Ok(work)
    }
}

/// What must be done, and rightly, before anything is measured.
fn before<W: Work>(net: &mut Net, work: &mut W, slots: usize) -> Result<(), Failure> {
    let done = unary::run(net, work, slots, Span::ALL, Meter::new(&[]))?;
    match done.first_error {
        None => Ok(()),
        Some(reason) => Err(Failure(format!("before measuring: {reason}"))),
    }
}

fn now_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| since.as_nanos() as u64)
}
