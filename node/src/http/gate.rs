//! A connection's waker that knows whether its driver is at work.
//!
//! Within a turn the engine and the calls wake their connection all the time: an answer wakes the
//! engine, data wakes a call. The driver sees to all of that before its turn ends, so such a wake
//! only makes a mark here; without it every turn would schedule a second one for nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

#[derive(Debug)]
pub(super) struct Gate {
    in_turn: AtomicBool,
    /// Woken since the turn (or the round within it) began. Set before `in_turn` is read, and read
    /// after `in_turn` is cleared, so that a wake from another thread is seen by one side.
    woken: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Gate {
    /// The gate, and the waker that leads through it.
    pub(super) fn new() -> (Arc<Gate>, Waker) {
        let gate = Arc::new(Gate {
            in_turn: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            task: Mutex::new(None),
        });
        let waker = Waker::from(Arc::clone(&gate));
        (gate, waker)
    }

    /// The driver is polled by `task`.
    pub(super) fn begin_turn(&self, task: &Waker) {
        self.in_turn.store(true, Ordering::SeqCst);
        let mut known = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *known {
            Some(known) => known.clone_from(task),
            empty => *empty = Some(task.clone()),
        }
    }

    /// Whether somebody asked for a poll since this was called last.
    pub(super) fn take_woken(&self) -> bool {
        self.woken.swap(false, Ordering::SeqCst)
    }

    /// Whether somebody asked for a poll since [`Gate::take_woken`].
    pub(super) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::SeqCst)
    }

    /// The driver is about to wait; what was asked for since [`Gate::take_woken`] counts for the
    /// next turn.
    pub(super) fn end_turn(&self, task: &Waker) {
        self.in_turn.store(false, Ordering::SeqCst);
        if self.woken.load(Ordering::SeqCst) {
            task.wake_by_ref();
        }
    }
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let already = self.woken.swap(true, Ordering::SeqCst);
        if already || self.in_turn.load(Ordering::SeqCst) {
            return;
        }
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn wake_within_a_turn_is_a_mark_and_outside_it_a_wake() {
        let count = Arc::new(Count::default());
        let task = Waker::from(Arc::clone(&count));
        let woken = || count.0.load(Ordering::SeqCst);
        let (gate, waker) = Gate::new();
        gate.begin_turn(&task);
        waker.wake_by_ref();
        assert!(gate.take_woken());
        assert!(!gate.take_woken());
        gate.end_turn(&task);
        assert_eq!(woken(), 0);
        waker.wake_by_ref();
        waker.wake_by_ref();
        assert_eq!(woken(), 1);
        gate.begin_turn(&task);
        assert!(gate.take_woken());
        waker.wake_by_ref();
        gate.end_turn(&task);
        assert_eq!(woken(), 2);
    }

    #[test]
    fn wake_from_another_thread_is_never_lost() {
        const ROUNDS: usize = 20_000;
        let (gate, waker) = Gate::new();
        let asked = Arc::new(AtomicUsize::new(0));
        let theirs = Arc::clone(&asked);
        let other = std::thread::spawn(move || {
            for n in 1..=ROUNDS {
                theirs.store(n, Ordering::SeqCst);
                waker.wake_by_ref();
            }
        });
        struct Unpark(std::thread::Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let task = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut seen = 0;
        while seen < ROUNDS {
            gate.begin_turn(&task);
            gate.take_woken();
            seen = asked.load(Ordering::SeqCst);
            gate.end_turn(&task);
            if seen < ROUNDS {
                std::thread::park_timeout(std::time::Duration::from_secs(5));
            }
        }
        other.join().unwrap();
    }
}
