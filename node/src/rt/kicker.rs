//! The thread that keeps executors from sleeping on runnable tasks.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use super::{Error, Shutdown, spawn_local};

/// Kick distance while an executor has work.
pub const KICK_BUSY: Duration = Duration::from_millis(10);

/// Kick distance of an executor that is at rest.
pub const KICK_IDLE: Duration = Duration::from_millis(100);

thread_local! {
    static HINT: RefCell<Option<Hint>> = const { RefCell::new(None) };
    static TURNS: Cell<u64> = const { Cell::new(0) };
}

/// Turns of connections on this executor so far, as far as they were said with [`mark_busy`].
pub fn turns_count() -> u64 {
    TURNS.get()
}

/// Says that this executor has work under way. Cheap; call it wherever requests are handled.
pub fn mark_busy() {
    TURNS.set(TURNS.get() + 1);
    HINT.with_borrow(|hint| {
        if let Some(hint) = hint {
            hint.busy.store(true, Ordering::Relaxed);
            if hint.shared.at_rest.load(Ordering::Relaxed) {
                hint.shared.rouse();
            }
        }
    });
}

struct Hint {
    busy: Arc<AtomicBool>,
    shared: Arc<KickerShared>,
}

/// A thread that wakes every executor from outside at least every [`KICK_BUSY`] while it has
/// work, and every [`KICK_IDLE`] otherwise. One per process; clones share it. A kick of a
/// sleeping executor costs about 20 us of CPU.
#[derive(Clone, Debug)]
pub struct Kicker {
    shared: Arc<KickerShared>,
}

#[derive(Debug)]
struct KickerShared {
    kicked: Mutex<Vec<Kicked>>,
    /// The thread sleeps the long sleep; whoever starts work wakes it.
    at_rest: AtomicBool,
    thread: Mutex<Option<std::thread::Thread>>,
}

#[derive(Debug)]
struct Kicked {
    waker: Waker,
    busy: Arc<AtomicBool>,
    /// Short rounds since the executor last said it is busy.
    quiet_rounds: u32,
}

/// Short rounds without work after which an executor counts as at rest.
const QUIET_ROUNDS: u32 = 10;

impl Kicker {
    /// Starts the thread. It ends when the last clone and the last executor are gone.
    ///
    /// # Errors
    /// [`Error::Kicker`] if there can be no thread.
    pub fn start() -> Result<Kicker, Error> {
        let shared = Arc::new(KickerShared {
            kicked: Mutex::new(Vec::new()),
            at_rest: AtomicBool::new(false),
            thread: Mutex::new(None),
        });
        let weak = Arc::downgrade(&shared);
        let handle = std::thread::Builder::new()
            .name("kicker".to_owned())
            .spawn(move || {
                let mut rounds = 0;
                while let Some(shared) = weak.upgrade() {
                    let pause = shared.round(&mut rounds);
                    drop(shared);
                    std::thread::park_timeout(pause);
                }
            })
            .map_err(Error::Kicker)?;
        *lock(&shared.thread) = Some(handle.thread().clone());
        Ok(Kicker { shared })
    }

    /// Registers the executor this runs on, until the result is dropped.
    pub(super) fn register(&self) -> Registered {
        let busy = Arc::new(AtomicBool::new(true));
        let shared = Arc::clone(&self.shared);
        let registration = Arc::clone(&busy);
        HINT.set(Some(Hint {
            busy: Arc::clone(&busy),
            shared: Arc::clone(&shared),
        }));
        let stop = Shutdown::new();
        let mut stopped = stop.wait();
        let mut registered = false;
        // A task of its own, so that a kick polls nothing but this.
        spawn_local(poll_fn(move |cx| {
            if !registered {
                registered = true;
                lock(&shared.kicked).push(Kicked {
                    waker: cx.waker().clone(),
                    busy: Arc::clone(&registration),
                    quiet_rounds: 0,
                });
            }
            Pin::new(&mut stopped).poll(cx)
        }));
        Registered {
            shared: Arc::clone(&self.shared),
            busy,
            stop,
        }
    }
}

/// Ends the kicks before the executor goes away: a waker must not outlive it in other hands.
pub(super) struct Registered {
    shared: Arc<KickerShared>,
    busy: Arc<AtomicBool>,
    stop: Shutdown,
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.shared.kicked).retain(|kicked| !Arc::ptr_eq(&kicked.busy, &self.busy));
        self.stop.fire();
        HINT.set(None);
    }
}

impl KickerShared {
    /// Kicks whoever is due and says how long to sleep. Wakes under the lock, so that nobody is
    /// woken once deregistered.
    fn round(&self, rounds: &mut u32) -> Duration {
        let long_round = *rounds == 0;
        let mut working = false;
        for kicked in lock(&self.kicked).iter_mut() {
            if kicked.busy.swap(false, Ordering::Relaxed) {
                kicked.quiet_rounds = 0;
            } else {
                kicked.quiet_rounds = kicked.quiet_rounds.saturating_add(1);
            }
            let at_work = kicked.quiet_rounds < QUIET_ROUNDS;
            working |= at_work;
            if at_work || long_round {
                kicked.waker.wake_by_ref();
            }
        }
        self.at_rest.store(!working, Ordering::Relaxed);
        if working {
            *rounds = (*rounds + 1) % QUIET_ROUNDS;
            KICK_BUSY
        } else {
            *rounds = 0;
            KICK_IDLE
        }
    }

    #[cold]
    fn rouse(&self) {
        if self.at_rest.swap(false, Ordering::Relaxed)
            && let Some(thread) = &*lock(&self.thread)
        {
            thread.unpark();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::{Executor, Options, yield_if_needed};
    use std::sync::atomic::AtomicU64;
    use std::time::Instant;

    /// Short version of the run that shows the sleeping executor: more threads than cores and a
    /// preempt timer short enough to fire at the wrong moment. Without the kicker such an executor
    /// sleeps for seconds; what is left are the stalls of plain CPU sharing.
    #[test]
    fn kicked_executor_never_sleeps_on_runnable_tasks() {
        let stop = Arc::new(AtomicBool::new(false));
        let hogs: Vec<_> = (0..3)
            .map(|_| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                })
            })
            .collect();
        let kicker = Kicker::start().unwrap();
        let beats = Arc::new(AtomicU64::new(0));
        let options = Options {
            preempt: Duration::from_micros(200),
            ..Options::named("t")
        };
        let (counter, ended) = (Arc::clone(&beats), Arc::clone(&stop));
        let executor = Executor::spawn(&options, &kicker, move || async move {
            while !ended.load(Ordering::Relaxed) {
                mark_busy();
                counter.fetch_add(1, Ordering::Relaxed);
                yield_if_needed().await;
            }
        })
        .unwrap();
        let begin = Instant::now();
        let mut last = (0, Instant::now());
        let mut longest = Duration::ZERO;
        while begin.elapsed() < Duration::from_millis(1500) {
            std::thread::sleep(Duration::from_millis(5));
            let seen = beats.load(Ordering::Relaxed);
            if seen != last.0 {
                last = (seen, Instant::now());
            }
            longest = longest.max(last.1.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        for hog in hogs {
            hog.join().unwrap();
        }
        executor.join().unwrap();
        assert!(longest < Duration::from_secs(1), "asleep for {longest:?}");
    }
}
