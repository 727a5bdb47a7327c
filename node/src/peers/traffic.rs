//! What goes back and forth between this member and each of the others, counted for whoever looks at the numbers.
//!
//! Every value is a relaxed atomic of its own; a reader may see two of them a moment apart. A member's figures stay until the
//! process ends, also when it has left the cluster, as counters should.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Members counted one by one. Callers beyond that are served and not counted: no cluster is as large, but who may call may
/// call itself anything.
const MEMBERS_MAX: usize = 256;

/// All members ever met.
#[derive(Debug, Default)]
pub struct Traffic {
    members: Mutex<Vec<Arc<Member>>>,
}

/// One other member.
#[derive(Debug, Default)]
pub(super) struct Member {
    member: u64,
    pub known: AtomicBool,
    pub connected: AtomicBool,
    pub disconnects: Count,
    pub sent_bytes: Count,
    pub received_bytes: Count,
    /// Messages that were dropped because there was no connection, or its lane was full.
    pub sent_failures: Count,
    /// What came and made no sense.
    pub received_failures: Count,
    pub round_trips: Durations<16>,
    pub snapshots_out: Transfers,
    pub snapshots_in: Transfers,
}

/// Snapshots one way.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    successes: Count,
    failures: Count,
    under_way: AtomicI64,
    took: Durations<10>,
}

/// A number that only rises.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

/// How long something took, in buckets that double.
#[derive(Debug)]
pub(super) struct Durations<const BUCKETS: usize> {
    buckets: [AtomicU64; BUCKETS],
    count: AtomicU64,
    sum_nanos: AtomicU64,
}

impl<const BUCKETS: usize> Default for Durations<BUCKETS> {
    fn default() -> Self {
        Durations {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            count: AtomicU64::new(0),
            sum_nanos: AtomicU64::new(0),
        }
    }
}

/// First bucket of round trips: 0.1 ms.
const ROUND_TRIP_FIRST: Duration = Duration::from_micros(100);
/// First bucket of whole snapshots: 0.1 s.
const TRANSFER_FIRST: Duration = Duration::from_millis(100);

/// One member's figures at a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    pub member: u64,
    /// Listed as a member; false for one that has left.
    pub known: bool,
    pub connected: bool,
    /// How often the last connection with it was lost.
    pub disconnects: u64,
    /// On connections for messages, and chunks of snapshots.
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub sent_failures: u64,
    pub received_failures: u64,
    /// 16 buckets from 0.1 ms on.
    pub round_trips: Histogram,
    pub snapshots_out: TransferFigures,
    pub snapshots_in: TransferFigures,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TransferFigures {
    pub successes: u64,
    pub failures: u64,
    pub under_way: i64,
    /// 10 buckets from 0.1 s on; transfers that succeeded.
    pub took: Histogram,
}

/// Bucket bounds in seconds with what fell into each (not cumulative), and the totals.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    pub sum_seconds: f64,
}

impl Traffic {
    pub(super) fn of(&self, member: u64) -> Arc<Member> {
        let mut members = self.lock();
        if let Some(known) = members.iter().find(|known| known.member == member) {
            return Arc::clone(known);
        }
        let new = Arc::new(Member {
            member,
            ..Member::default()
        });
        if members.len() < MEMBERS_MAX {
            members.push(Arc::clone(&new));
        }
        new
    }

    /// The figures of every member met so far, in the order of first meeting.
    pub fn snapshot(&self) -> Vec<Figures> {
        self.lock().iter().map(|member| member.figures()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    fn figures(&self) -> Figures {
        Figures {
            member: self.member,
            known: self.known.load(Relaxed),
            connected: self.connected.load(Relaxed),
            disconnects: self.disconnects.get(),
            sent_bytes: self.sent_bytes.get(),
            received_bytes: self.received_bytes.get(),
            sent_failures: self.sent_failures.get(),
            received_failures: self.received_failures.get(),
            round_trips: self.round_trips.read(ROUND_TRIP_FIRST),
            snapshots_out: self.snapshots_out.figures(),
            snapshots_in: self.snapshots_in.figures(),
        }
    }

    pub(super) fn round_trip(&self, took: Duration) {
        self.round_trips.observe(took, ROUND_TRIP_FIRST);
    }
}

impl Transfers {
    pub(super) fn begin(&self) {
        self.under_way.fetch_add(1, Relaxed);
    }

    /// `took` of one that succeeded.
    pub(super) fn end(&self, took: Option<Duration>) {
        self.under_way.fetch_sub(1, Relaxed);
        match took {
            Some(took) => {
                self.successes.add(1);
                self.took.observe(took, TRANSFER_FIRST);
            }
            None => self.failures.add(1),
        }
    }

    fn figures(&self) -> TransferFigures {
        TransferFigures {
            successes: self.successes.get(),
            failures: self.failures.get(),
            under_way: self.under_way.load(Relaxed),
            took: self.took.read(TRANSFER_FIRST),
        }
    }
}

impl Count {
    pub(super) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl<const BUCKETS: usize> Durations<BUCKETS> {
    fn observe(&self, took: Duration, first: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Relaxed);
        self.sum_nanos.fetch_add(nanos, Relaxed);
        let mut bound = first;
        for bucket in &self.buckets {
            if took <= bound {
                bucket.fetch_add(1, Relaxed);
                return;
            }
            bound *= 2;
        }
    }

    fn read(&self, first: Duration) -> Histogram {
        let mut bound = first.as_secs_f64() / 2.0;
        let buckets = self.buckets.iter().map(|bucket| {
            bound *= 2.0;
            (bound, bucket.load(Relaxed))
        });
        let buckets: Vec<(f64, u64)> = buckets.collect();
        let within: u64 = buckets.iter().map(|(_, count)| count).sum();
        Histogram {
            buckets,
            count: self.count.load(Relaxed).max(within),
            sum_seconds: self.sum_nanos.load(Relaxed) as f64 / 1e9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_fall_into_buckets_that_double_from_a_tenth_of_a_millisecond() {
        let traffic = Traffic::default();
        let member = traffic.of(7);
        for micros in [100, 101, 3_000_000, 60_000_000] {
            member.round_trip(Duration::from_micros(micros));
        }
        let [figures] = &traffic.snapshot()[..] else {
            panic!("one member");
        };
        let bounds: Vec<f64> = figures.round_trips.buckets.iter().map(|b| b.0).collect();
        assert_eq!(bounds.len(), 16);
        assert!((bounds[0] - 0.0001).abs() < 1e-12 && (bounds[15] - 3.2768).abs() < 1e-9);
        let counts: Vec<u64> = figures.round_trips.buckets.iter().map(|b| b.1).collect();
        assert_eq!((counts[0], counts[1], counts[15]), (1, 1, 1));
        assert_eq!(figures.round_trips.count, 4);
    }

    #[test]
    fn callers_beyond_the_bound_are_not_kept() {
        let traffic = Traffic::default();
        for member in 0..2 * MEMBERS_MAX as u64 {
            traffic.of(member).sent_bytes.add(1);
        }
        assert_eq!(traffic.snapshot().len(), MEMBERS_MAX);
        traffic.of(3).sent_bytes.add(1);
        assert_eq!(traffic.snapshot()[3].sent_bytes, 2);
    }
}
