//! A write that comes alone, done by the executor itself.
//!
//! With one put in flight there is nothing to do but wait for it, and handing it to the WAL thread and back takes two threads
//! out of their sleep: as long as a good disk needs for the write and its sync. So the executor writes, syncs and applies such a put in
//! the thread's place. It serves nobody else meanwhile, hence the conditions, all of them:
//! - The write may take the short way (`direct.rs`), and no other one is under way.
//! - It is one small entry, and fits the segment there is.
//! - The connections of this executor had hardly a turn since the write before: there is nobody else to serve.
//! - The disk is quick: when such writes have taken longer than [`SLOW_US`] in the mean, the thread has them all for a
//!   while, so that a slow disk holds up an executor once or twice in [`REST_MS`].

use std::time::Duration;

use kvnode_replica::Write;

use super::{ReplicaCore, post};
use crate::disk::{DiskJob, WrittenHere};
use crate::rt;

/// Largest payload, in bytes.
const BYTES_MAX: usize = 16 << 10;
/// Turns of connections since the write before, at the most: one that brought this put, one that answered the one before,
/// and what a client says in between about its windows.
const TURNS_MAX: u64 = 4;
/// A disk that takes longer is left to the thread, in microseconds; a good one takes a tenth of it.
const SLOW_US: u64 = 1000;
/// For so long, in milliseconds.
const REST_MS: u64 = 1000;
/// The weight of the newest write in the mean is one part of so many: one slow write among quick ones changes nothing.
const MEAN_PARTS: u64 = 32;

#[derive(Default)]
pub(super) struct Here {
    /// Of the executor's connections, at the write before.
    turns: u64,
    /// How long writes here take.
    mean_us: u64,
    not_before_ms: u64,
}

impl Here {
    /// Whether there is time for a write now.
    fn is_quiet(&mut self, turns: u64, now_ms: u64) -> bool {
        let since = turns - std::mem::replace(&mut self.turns, turns);
        since <= TURNS_MAX && now_ms >= self.not_before_ms
    }

    fn took(&mut self, took: Duration, now_ms: u64) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // A minute is as bad as any time above it.
        let took_us = took_us.min(60_000_000);
        self.mean_us = (self.mean_us * (MEAN_PARTS - 1) + took_us) / MEAN_PARTS;
        if self.mean_us > SLOW_US {
            self.not_before_ms = now_ms + REST_MS;
        }
    }
}

impl ReplicaCore {
    /// Does the write here if that is quicker; else it comes back.
    pub(super) fn write_here(&mut self, write: Write, direct: bool) -> Option<Write> {
        if !direct {
            return Some(write);
        }
        let quiet = self.here.is_quiet(rt::turns_count(), self.shared.now_ms());
        let lone = self.leadership.writes_count() == 1;
        let small = matches!(&write.entries[..], [entry] if entry.payload.len() <= BYTES_MAX);
        if !(quiet && lone && small) {
            return Some(write);
        }
        match self.links.log.write(write) {
            Ok(WrittenHere { took, look }) => {
                self.here.took(took, self.shared.now_ms());
                if look {
                    post(&self.links.disk, DiskJob::Look);
                }
                None
            }
            Err(write) => Some(write),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_else_is_served_comes_first() {
        let mut here = Here::default();
        assert!(here.is_quiet(TURNS_MAX, 10));
        assert!(!here.is_quiet(2 * TURNS_MAX + 1, 20));
        assert!(here.is_quiet(2 * TURNS_MAX + 3, 30));
    }

    #[test]
    fn a_slow_disk_is_left_to_the_thread_and_a_slow_write_is_forgiven() {
        let (quick, slow) = (Duration::from_micros(90), Duration::from_millis(8));
        let mut here = Here::default();
        for _ in 0..3 {
            (0..100).for_each(|_| here.took(quick, 10));
            here.took(slow, 10);
            assert!(here.is_quiet(0, 10), "one among a hundred");
        }
        let mut held_up = 0;
        for now_ms in 0..10 * REST_MS {
            if here.is_quiet(0, now_ms) {
                here.took(slow, now_ms);
                held_up += 1;
            }
        }
        assert!(
            (10..=16).contains(&held_up),
            "{held_up} times in ten seconds"
        );
        for now_ms in 10 * REST_MS..100 * REST_MS {
            if here.is_quiet(0, now_ms) {
                here.took(quick, now_ms);
            }
        }
        assert!(here.is_quiet(0, 100 * REST_MS), "it has recovered");
        assert!(here.mean_us <= 2 * 90);
    }
}
