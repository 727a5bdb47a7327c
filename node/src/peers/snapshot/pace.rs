//! How fast snapshots are sent: so many bytes per second over all transfers of this member, so that
//! catching up takes neither the line nor the disks from the clients.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::CHUNK_BYTES;

/// A sender that was held up may catch up this much at once.
const BURST: Duration = Duration::from_millis(100);

/// Least bytes of a chunk, however slow the pace.
const CHUNK_BYTES_MIN: usize = 4096;

#[derive(Debug)]
pub(crate) struct Pace {
    /// 0: as fast as it goes.
    bytes_per_second: u64,
    /// When what was allowed so far is used up.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: u64) -> Pace {
        Pace {
            bytes_per_second,
            next: Mutex::new(None),
        }
    }

    /// How much to send at a time: about a quarter of a second's share.
    pub(super) fn chunk_bytes(&self) -> usize {
        match self.bytes_per_second {
            0 => CHUNK_BYTES,
            rate => usize::try_from(rate / 4)
                .unwrap_or(CHUNK_BYTES)
                .clamp(CHUNK_BYTES_MIN, CHUNK_BYTES),
        }
    }

    /// How long to wait before `bytes` are sent.
    pub(super) fn wait(&self, bytes: usize, now: Instant) -> Duration {
        if self.bytes_per_second == 0 {
            return Duration::ZERO;
        }
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let begin = next.map_or(earliest, |next| next.max(earliest));
        *next = Some(begin + takes);
        (begin + takes).saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_senders_share_one_pace() {
        let pace = Pace::new(1_000_000);
        let begin = Instant::now();
        let mut now = begin;
        for _ in 0..100 {
            // Whoever sends waits as told; here both take turns.
            now += pace.wait(100_000, now);
        }
        let took = now - begin;
        let expected = Duration::from_secs(10);
        assert!(took >= expected - BURST && took <= expected, "{took:?}");
    }

    #[test]
    fn a_pause_earns_a_short_burst_only() {
        let pace = Pace::new(1_000_000);
        let now = Instant::now();
        pace.wait(100_000, now);
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.wait(100_000, later), Duration::ZERO);
        assert!(pace.wait(100_000, later) >= Duration::from_millis(99));
    }

    #[test]
    fn no_pace_never_waits_and_a_slow_one_sends_small_chunks() {
        let free = Pace::new(0);
        assert_eq!(free.wait(1 << 30, Instant::now()), Duration::ZERO);
        assert_eq!(free.chunk_bytes(), CHUNK_BYTES);
        assert_eq!(Pace::new(1).chunk_bytes(), CHUNK_BYTES_MIN);
        assert_eq!(Pace::new(100_000).chunk_bytes(), 25_000);
        assert_eq!(Pace::new(1 << 40).chunk_bytes(), CHUNK_BYTES);
    }
}
