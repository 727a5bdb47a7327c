//! Which pings of a client are too many: the rule gRPC servers share.
//!
//! A ping may come at most every `min_time` while calls are open, and practically never without;
//! two breaches are forgiven, and everything sent to the client starts the count again. The
//! third breach ends the connection with GOAWAY ENHANCE_YOUR_CALM "too_many_pings", which clients
//! understand and slow down after.

use std::time::{Duration, Instant};

/// Distance asked between pings without an open call.
const IDLE_MIN_TIME: Duration = Duration::from_secs(2 * 60 * 60);

/// Breaches that are forgiven.
const STRIKES_MAX: u8 = 2;

/// Pings of one connection.
#[derive(Debug)]
pub(super) struct PingPolicy {
    min_time: Duration,
    last: Option<Instant>,
    strikes: u8,
}

impl PingPolicy {
    pub(super) fn new(min_time: Duration) -> PingPolicy {
        PingPolicy {
            min_time,
            last: None,
            strikes: 0,
        }
    }

    /// A ping has come; `answered` says whether headers or data were sent since the last one.
    /// Returns whether it was one too many.
    pub(super) fn breached(&mut self, now: Instant, call_open: bool, answered: bool) -> bool {
        let last = self.last.replace(now);
        if answered {
            self.strikes = 0;
            return false;
        }
        let apart = if call_open {
            self.min_time
        } else {
            IDLE_MIN_TIME
        };
        if last.is_some_and(|last| now.saturating_duration_since(last) < apart) {
            self.strikes = self.strikes.saturating_add(1);
        }
        self.strikes > STRIKES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_secs(5);

    /// Pings at these seconds; returns which of them was one too many.
    fn breach(seconds: &[u64], open: bool, answered: bool) -> Option<usize> {
        let begin = Instant::now();
        let mut policy = PingPolicy::new(MIN);
        seconds
            .iter()
            .position(|&s| policy.breached(begin + Duration::from_secs(s), open, answered))
    }

    #[test]
    fn third_early_ping_is_one_too_many() {
        assert_eq!(breach(&[0, 1, 2, 3], true, false), Some(3));
        assert_eq!(breach(&[0, 5, 10, 15, 20, 25], true, false), None);
    }

    #[test]
    fn pings_without_a_call_are_counted_whatever_their_distance() {
        assert_eq!(breach(&[0, 60, 120, 180], false, false), Some(3));
        assert_eq!(
            breach(&[0, 7_200, 14_400, 21_600, 28_800], false, false),
            None
        );
    }

    #[test]
    fn sending_something_forgives() {
        assert_eq!(breach(&[0, 0, 0, 0, 0, 0, 0, 0], true, true), None);
    }
}
