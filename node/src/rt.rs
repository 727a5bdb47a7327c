//! The runtime behind one narrow face: executors, tasks, timers, sockets and the kicker.
//!
//! This is the only file that names glommio, and it keeps to what the pinned release shares with
//! the original crate, so that either can be put underneath. Rules the rest of the node relies on:
//!
//! - An executor lives as long as the process wants to serve; it is never recreated.
//! - A spawned task runs at once, inside the call, until it first waits.
//! - Nothing here cancels an accept or uses the runtime's own read time-outs (both lose data in
//!   some versions); connections are accepted elsewhere and arrive as ready sockets.
//! - An executor can go to sleep although tasks are runnable, when its preempt timer fires between
//!   arming and checking. The [`Kicker`] wakes it from outside, which ends such a sleep.

mod kicker;
mod latch;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use glommio::timer::Timer;
use glommio::{BuilderErrorKind, GlommioError, LocalExecutorBuilder, Placement};

pub use kicker::{KICK_BUSY, KICK_IDLE, Kicker, mark_busy, turns_count};
pub use latch::{Shutdown, ShutdownWait};

/// How long a task may run before others of its executor get a turn. Shorter makes the sleep
/// described above likelier.
pub const PREEMPT: Duration = Duration::from_millis(10);

/// Registered memory for file I/O. The node's executors do none, so this is the runtime's minimum.
const IO_MEMORY_BYTES: usize = 64 << 10;

/// Submission slots of each of an executor's three rings; a full ring is submitted, not an error.
const RING_DEPTH: usize = 128;

/// An executor could not start, or ended in another way than by returning.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("executor {name} did not start: {reason}")]
    Start {
        name: String,
        reason: String,
        /// What the kernel answered, if it was the kernel that refused.
        errno: Option<i32>,
    },
    #[error("executor {name} ended: {reason}")]
    Ended { name: String, reason: String },
    #[error("the kicker thread did not start: {0}")]
    Kicker(#[source] io::Error),
}

/// How to start an executor.
#[derive(Clone, Debug)]
pub struct Options {
    /// Thread name; the runtime appends a number.
    pub name: String,
    /// CPU to stay on; `None` leaves it to the kernel.
    pub cpu: Option<usize>,
    /// How long to look for work before going to sleep; zero on small machines.
    pub spin: Duration,
    /// See [`PREEMPT`].
    pub preempt: Duration,
}

impl Options {
    pub fn named(name: impl Into<String>) -> Options {
        Options {
            name: name.into(),
            cpu: None,
            spin: Duration::ZERO,
            preempt: PREEMPT,
        }
    }
}

/// A running executor: one thread, one event loop.
#[derive(Debug)]
pub struct Executor<T: Send + 'static> {
    name: String,
    handle: glommio::ExecutorJoinHandle<T>,
}

impl<T: Send + 'static> Executor<T> {
    /// Starts an executor that runs `main` and ends with it. Returns once the executor is up.
    ///
    /// # Errors
    /// [`Error::Start`] with the runtime's reason.
    pub fn spawn<G, F>(options: &Options, kicker: &Kicker, main: G) -> Result<Executor<T>, Error>
    where
        G: FnOnce() -> F + Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let placement = options.cpu.map_or(Placement::Unbound, Placement::Fixed);
        let builder = LocalExecutorBuilder::new(placement)
            .name(&options.name)
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(RING_DEPTH)
            .spin_before_park(options.spin)
            .preempt_timer(options.preempt);
        let (ready, started) = mpsc::sync_channel::<()>(1);
        let kicker = kicker.clone();
        let handle = builder
            .spawn(move || async move {
                let _registered = kicker.register();
                // The receiver is gone only if the starting thread is.
                let _ = ready.send(());
                main().await
            })
            .map_err(|error| start_error(&options.name, &error))?;
        let executor = Executor {
            name: options.name.clone(),
            handle,
        };
        match started.recv() {
            Ok(()) => Ok(executor),
            Err(mpsc::RecvError) => Err(executor.never_started()),
        }
    }

    /// Waits for the executor's main future to return.
    ///
    /// # Errors
    /// [`Error::Ended`] if a task panicked or the runtime failed.
    pub fn join(self) -> Result<T, Error> {
        self.handle.join().map_err(|error| Error::Ended {
            name: self.name,
            reason: error.to_string(),
        })
    }

    fn never_started(self) -> Error {
        match self.handle.join() {
            Ok(_) => unreachable!("an executor that ran its main future said so"),
            Err(error) => start_error(&self.name, &error),
        }
    }
}

/// Starts an executor that does nothing, to learn whether one can be started at all.
///
/// # Errors
/// [`Error::Start`] with the runtime's reason.
pub fn probe() -> Result<(), Error> {
    const NAME: &str = "probe";
    LocalExecutorBuilder::new(Placement::Unbound)
        .name(NAME)
        .io_memory(IO_MEMORY_BYTES)
        .ring_depth(RING_DEPTH)
        .spawn(|| async {})
        .and_then(glommio::ExecutorJoinHandle::join)
        .map_err(|error| start_error(NAME, &error))
}

fn start_error(name: &str, error: &GlommioError<()>) -> Error {
    let errno = match error {
        GlommioError::IoError(error) => error.raw_os_error(),
        GlommioError::EnhancedIoError { source, .. } => source.raw_os_error(),
        _ => None,
    };
    let reason = match error {
        GlommioError::BuilderError(BuilderErrorKind::NonExistentCpus { cpu }) => {
            format!("CPU {cpu} does not exist or is not allowed")
        }
        other => other.to_string(),
    };
    Error::Start {
        name: name.to_owned(),
        reason,
        errno,
    }
}

/// Runs a task beside the current one; it starts inside this call and ends on its own.
pub fn spawn_local<T: 'static>(future: impl Future<Output = T> + 'static) {
    glommio::spawn_local(future).detach();
}

/// Lets the other tasks of this executor run once.
pub async fn yield_now() {
    glommio::executor().yield_now().await;
}

/// Lets the other tasks run if this one has used up its time. For long loops.
pub async fn yield_if_needed() {
    glommio::executor().yield_if_needed().await;
}

/// A timer of this executor. Ends at most about a millisecond late, never early.
#[derive(Debug)]
pub struct Sleep {
    at: Instant,
    /// Set while the runtime holds this waker for us.
    armed: Option<(Timer, Waker)>,
}

/// The runtime's timers count whole milliseconds, rounded down.
const TIMER_STEP: Duration = Duration::from_millis(1);

/// Longer than any process runs, and still a time that can be added to now.
const SLEEP_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Ends after `duration`.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(Instant::now() + duration.min(SLEEP_MAX))
}

/// Ends at that time.
pub fn sleep_until(at: Instant) -> Sleep {
    Sleep { at, armed: None }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        if now >= self.at {
            self.armed = None;
            return Poll::Ready(());
        }
        // The runtime's timer enters itself anew at every poll and takes only the last entry out
        // again; so it is polled once per waker.
        if self
            .armed
            .as_ref()
            .is_none_or(|(_, waker)| !waker.will_wake(cx.waker()))
        {
            let mut timer = Timer::new(self.at - now + TIMER_STEP);
            if Pin::new(&mut timer).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            self.armed = Some((timer, cx.waker().clone()));
        }
        Poll::Pending
    }
}

/// The time was up before the future was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("time is up")]
pub struct Elapsed;

/// `future`, but for no longer than `duration`.
///
/// # Errors
/// [`Elapsed`]; the future is dropped.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut limit = None;
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        // No timer for what is ready at once.
        let limit = limit.get_or_insert_with(|| sleep(duration));
        Pin::new(limit).poll(cx).map(|()| Err(Elapsed))
    })
    .await
}

/// `future`, but only until `latch` is fired; `None` then, and the future is dropped.
pub async fn unless<F: Future>(latch: &Shutdown, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut fired = latch.wait();
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        Pin::new(&mut fired).poll(cx).map(|()| None)
    })
    .await
}

/// A connected stream socket (TCP or unix) on this executor.
#[derive(Debug)]
pub struct Stream(TcpStream);

impl Stream {
    /// Takes over a connected socket. Options such as nodelay are the caller's to set before.
    ///
    /// The runtime's TCP stream only sends, receives, polls and shuts down, so it carries unix
    /// sockets as well; its own unix type cannot be made from a socket without unsafe code.
    pub fn from_socket(socket: socket2::Socket) -> Stream {
        Stream(TcpStream::from(socket))
    }

    /// Reads what is there. Dropping a pending read loses nothing.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }

    /// Writes what the socket takes.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    /// Ends the sending direction.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executor_runs_its_main_future_and_returns_the_result() {
        let kicker = Kicker::start().unwrap();
        let executor = Executor::spawn(&Options::named("t"), &kicker, || async {
            sleep(Duration::from_millis(1)).await;
            yield_now().await;
            7
        })
        .unwrap();
        assert_eq!(executor.join().unwrap(), 7);
    }

    #[test]
    fn absent_cpu_is_a_start_error() {
        let kicker = Kicker::start().unwrap();
        let options = Options {
            cpu: Some(100_000),
            ..Options::named("t")
        };
        let error = Executor::spawn(&options, &kicker, || async {}).unwrap_err();
        assert!(
            error.to_string().contains("executor t did not start: CPU"),
            "{error}"
        );
    }

    #[test]
    fn panic_in_main_is_reported_at_join() {
        let kicker = Kicker::start().unwrap();
        let executor: Executor<()> =
            Executor::spawn(&Options::named("t"), &kicker, || async { panic!("boom") }).unwrap();
        assert!(matches!(executor.join(), Err(Error::Ended { .. })));
    }

    #[test]
    fn timeout_ends_what_never_ends_and_lets_the_rest_pass() {
        let kicker = Kicker::start().unwrap();
        let executor = Executor::spawn(&Options::named("t"), &kicker, || async {
            let never = timeout(Duration::from_millis(5), std::future::pending::<()>()).await;
            let now = timeout(Duration::from_secs(60), async { 1 }).await;
            (never, now)
        })
        .unwrap();
        assert_eq!(executor.join().unwrap(), (Err(Elapsed), Ok(1)));
    }
}
