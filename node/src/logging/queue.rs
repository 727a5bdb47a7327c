//! The bounded queue between the threads that log and the one that writes.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The bounded queue between all threads and the writer.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// The writer waits here for lines.
    filled: Condvar,
    /// Flushers wait here for the writer.
    written: Condvar,
    bytes_max: usize,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) lines: Vec<u8>,
    /// Dropped since the last batch.
    pub(super) dropped: u64,
    pub(super) dropped_total: u64,
    /// Batches and lines are numbered so that a flush knows what it waits for.
    pushed: u64,
    written: u64,
    pub(super) reopen: bool,
}

/// What the writer takes in one go.
pub(super) struct Batch {
    pub(super) lines: Vec<u8>,
    pub(super) dropped: u64,
    pub(super) reopen: bool,
    pub(super) upto: u64,
}

impl Queue {
    pub(super) fn new(bytes_max: usize) -> Queue {
        Queue {
            state: Mutex::default(),
            filled: Condvar::new(),
            written: Condvar::new(),
            bytes_max,
        }
    }

    /// No code that can panic runs under the lock, and the log must outlive other threads' panics.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        state.pushed += 1;
        if state.lines.len() + line.len() > self.bytes_max {
            state.dropped += 1;
            state.dropped_total += 1;
        } else {
            state.lines.extend_from_slice(line);
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Waits for lines; `spare` becomes the next buffer, so two buffers serve for ever.
    pub(super) fn take(&self, spare: Vec<u8>) -> Batch {
        let state = self.lock();
        let mut state = self
            .filled
            .wait_while(state, |state| state.pushed == state.written)
            .unwrap_or_else(PoisonError::into_inner);
        Batch {
            lines: std::mem::replace(&mut state.lines, spare),
            dropped: std::mem::take(&mut state.dropped),
            reopen: std::mem::take(&mut state.reopen),
            upto: state.pushed,
        }
    }

    pub(super) fn done(&self, upto: u64) {
        self.lock().written = upto;
        self.written.notify_all();
    }

    /// Waits until all lines pushed so far were handed to the outputs; answers whether they were.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let state = self.lock();
        let upto = state.pushed;
        let (state, _) = self
            .written
            .wait_timeout_while(state, patience, |state| state.written < upto)
            .unwrap_or_else(PoisonError::into_inner);
        state.written >= upto
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_lines_and_the_next_batch_says_how_many() {
        let queue = Queue::new(10);
        for line in [&b"1234\n"[..], b"5678\n", b"no\n", b"no\n"] {
            queue.push(line);
        }
        let batch = queue.take(Vec::new());
        assert_eq!(
            (batch.lines.as_slice(), batch.dropped),
            (&b"1234\n5678\n"[..], 2)
        );
        assert!(!queue.flush(Duration::ZERO));
        queue.done(batch.upto);
        assert!(queue.flush(Duration::ZERO));
        queue.push(b"again\n");
        let batch = queue.take(Vec::new());
        assert_eq!(
            (batch.lines.as_slice(), batch.dropped),
            (&b"again\n"[..], 0)
        );
        assert_eq!(queue.lock().dropped_total, 2);
    }

    #[test]
    fn a_batch_of_nothing_but_dropped_lines_is_still_told() {
        let queue = Queue::new(3);
        queue.push(b"too long\n");
        assert_eq!(queue.take(Vec::new()).dropped, 1);
    }
}
