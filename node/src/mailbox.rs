//! Batches between threads: std threads and executors on either side.
//!
//! A mailbox is one vector behind a mutex. A sender appends a whole batch under one lock and wakes
//! the receiver once, only if it sleeps; the receiver takes everything by swapping its own empty
//! vector in. So the price of a hop is paid per batch, not per item, and no item is allocated.
//!
//! Bounds: a mailbox made with [`bounded`] holds at most that many items; when it is full a push
//! takes what fits and hands the rest back, and the sender waits for [`Sender::room`] (or blocks in
//! [`Sender::push_blocking`]) or turns work away. One made with [`by_admission`] has no count of
//! its own: it is for answers to requests that were counted when they were let in, so it can never
//! hold more than those.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// A push that did not go through; the items are still the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The bound is reached. What did not fit is where it was.
    #[error("mailbox is full")]
    Full,
    /// The receiver is gone.
    #[error("mailbox is closed")]
    Closed,
}

/// The mailbox is empty and every sender is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("mailbox is closed")]
pub struct Closed;

/// A mailbox for at most `limit` items (at least one).
pub fn bounded<T>(limit: usize) -> (Sender<T>, Receiver<T>) {
    with_limit(limit.max(1))
}

/// A mailbox whose items were admitted elsewhere under a bound; see the module's words.
pub fn by_admission<T>() -> (Sender<T>, Receiver<T>) {
    with_limit(usize::MAX)
}

fn with_limit<T>(limit: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        limit,
        inner: Mutex::new(Inner {
            items: Vec::new(),
            receiver: None,
            receiver_blocked: false,
            senders: 1,
            receiver_gone: false,
            waiting_senders: VecDeque::new(),
            senders_blocked: 0,
        }),
        arrived: Condvar::new(),
        emptied: Condvar::new(),
    });
    let receiver = Receiver {
        shared: Arc::clone(&shared),
    };
    (Sender { shared }, receiver)
}

#[derive(Debug)]
struct Shared<T> {
    limit: usize,
    inner: Mutex<Inner<T>>,
    arrived: Condvar,
    emptied: Condvar,
}

#[derive(Debug)]
struct Inner<T> {
    items: Vec<T>,
    /// Set while the receiver sleeps, taken by whoever wakes it.
    receiver: Option<Waker>,
    receiver_blocked: bool,
    senders: usize,
    receiver_gone: bool,
    /// Senders that wait for room, each at most once per wait.
    waiting_senders: VecDeque<Waker>,
    senders_blocked: usize,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes a sleeping receiver, outside the lock.
    fn wake_receiver(&self, mut inner: MutexGuard<'_, Inner<T>>) {
        let waker = inner.receiver.take();
        let blocked = inner.receiver_blocked;
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        if blocked {
            self.arrived.notify_one();
        }
    }
}

/// The sending side; clones share the mailbox. Usable from any thread.
#[derive(Debug)]
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.shared.lock().senders += 1;
        Sender {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.senders -= 1;
        if inner.senders == 0 {
            self.shared.wake_receiver(inner);
        }
    }
}

impl<T> Sender<T> {
    /// Puts one item in.
    ///
    /// # Errors
    /// The item comes back with the reason.
    pub fn push(&self, item: T) -> Result<(), (T, PushError)> {
        let mut inner = self.shared.lock();
        if inner.receiver_gone {
            return Err((item, PushError::Closed));
        }
        if inner.items.len() >= self.shared.limit {
            return Err((item, PushError::Full));
        }
        inner.items.push(item);
        self.shared.wake_receiver(inner);
        Ok(())
    }

    /// As [`Sender::push`], but lets a receiver that sleeps sleep on: for what it need not know before the next item.
    ///
    /// # Errors
    /// The item comes back with the reason.
    pub fn push_quietly(&self, item: T) -> Result<(), (T, PushError)> {
        let mut inner = self.shared.lock();
        if inner.receiver_gone {
            return Err((item, PushError::Closed));
        }
        if inner.items.len() >= self.shared.limit {
            return Err((item, PushError::Full));
        }
        inner.items.push(item);
        Ok(())
    }

    /// Moves as many items as fit out of `batch`, front first; all of them if it returns `Ok`.
    ///
    /// # Errors
    /// [`PushError::Full`] with the rest left in `batch`, or [`PushError::Closed`] with all of it.
    pub fn push_all(&self, batch: &mut Vec<T>) -> Result<(), PushError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut inner = self.shared.lock();
        if inner.receiver_gone {
            return Err(PushError::Closed);
        }
        let room = self.shared.limit - inner.items.len().min(self.shared.limit);
        if room >= batch.len() {
            if inner.items.is_empty() {
                // The receiver gets the sender's vector, the sender the receiver's last one.
                std::mem::swap(&mut inner.items, batch);
            } else {
                inner.items.append(batch);
            }
            self.shared.wake_receiver(inner);
            return Ok(());
        }
        if room > 0 {
            inner.items.extend(batch.drain(..room));
            self.shared.wake_receiver(inner);
        }
        Err(PushError::Full)
    }

    /// [`Sender::push_all`] for a std thread: waits while the mailbox is full.
    ///
    /// # Errors
    /// [`Closed`]; what did not fit stays in `batch`.
    pub fn push_blocking(&self, batch: &mut Vec<T>) -> Result<(), Closed> {
        loop {
            match self.push_all(batch) {
                Ok(()) => return Ok(()),
                Err(PushError::Closed) => return Err(Closed),
                Err(PushError::Full) => {}
            }
            let mut inner = self.shared.lock();
            while inner.items.len() >= self.shared.limit && !inner.receiver_gone {
                inner.senders_blocked += 1;
                inner = self
                    .shared
                    .emptied
                    .wait(inner)
                    .unwrap_or_else(PoisonError::into_inner);
                inner.senders_blocked -= 1;
            }
        }
    }

    /// Ends when the mailbox has room for at least one item or the receiver is gone.
    pub async fn room(&self) {
        let mut asked = false;
        poll_fn(|cx| {
            let mut inner = self.shared.lock();
            if inner.items.len() < self.shared.limit || inner.receiver_gone {
                return Poll::Ready(());
            }
            let known = asked
                && inner
                    .waiting_senders
                    .iter()
                    .any(|w| w.will_wake(cx.waker()));
            if !known {
                asked = true;
                inner.waiting_senders.push_back(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Items in the mailbox now; for metrics.
    pub fn len(&self) -> usize {
        self.shared.lock().items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn is_closed(&self) -> bool {
        self.shared.lock().receiver_gone
    }
}

/// The receiving side. On an executor use [`Receiver::take`], on a std thread
/// [`Receiver::take_blocking`].
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Receiver<T> {
    /// Waits for items and appends all there are to `into`; at least one. Swaps vectors if `into`
    /// is empty, so passing the same vector again costs no allocation.
    ///
    /// # Errors
    /// [`Closed`] once nothing is left and nobody can send.
    pub async fn take(&mut self, into: &mut Vec<T>) -> Result<(), Closed> {
        poll_fn(|cx| self.poll_take(cx, into)).await
    }

    /// Poll form of [`Receiver::take`]. Only the last poll's waker is woken.
    pub fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<T>,
    ) -> Poll<Result<(), Closed>> {
        let mut inner = self.shared.lock();
        if !inner.items.is_empty() {
            self.empty(inner, into);
            return Poll::Ready(Ok(()));
        }
        if inner.senders == 0 {
            return Poll::Ready(Err(Closed));
        }
        match &mut inner.receiver {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Takes what is there now; `false` if that is nothing.
    pub fn try_take(&mut self, into: &mut Vec<T>) -> bool {
        let inner = self.shared.lock();
        let some = !inner.items.is_empty();
        if some {
            self.empty(inner, into);
        }
        some
    }

    /// [`Receiver::take`] for a std thread.
    ///
    /// # Errors
    /// As [`Receiver::take`].
    pub fn take_blocking(&mut self, into: &mut Vec<T>) -> Result<(), Closed> {
        self.take_until(into, None).map(|_| ())
    }

    /// As [`Receiver::take_blocking`], but returns `false` with nothing taken after `limit`.
    ///
    /// # Errors
    /// As [`Receiver::take`].
    pub fn take_timeout(&mut self, into: &mut Vec<T>, limit: Duration) -> Result<bool, Closed> {
        self.take_until(into, Some(Instant::now() + limit))
    }

    fn take_until(&mut self, into: &mut Vec<T>, until: Option<Instant>) -> Result<bool, Closed> {
        let mut inner = self.shared.lock();
        loop {
            if !inner.items.is_empty() {
                self.empty(inner, into);
                return Ok(true);
            }
            if inner.senders == 0 {
                return Err(Closed);
            }
            inner.receiver_blocked = true;
            inner = match until {
                None => self
                    .shared
                    .arrived
                    .wait(inner)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        inner.receiver_blocked = false;
                        return Ok(false);
                    }
                    self.shared
                        .arrived
                        .wait_timeout(inner, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
            inner.receiver_blocked = false;
        }
    }

    fn empty(&self, mut inner: MutexGuard<'_, Inner<T>>, into: &mut Vec<T>) {
        if into.is_empty() {
            std::mem::swap(&mut inner.items, into);
        } else {
            into.append(&mut inner.items);
        }
        let wakers = std::mem::take(&mut inner.waiting_senders);
        let blocked = inner.senders_blocked;
        drop(inner);
        for waker in wakers {
            waker.wake();
        }
        if blocked > 0 {
            self.shared.emptied.notify_all();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.receiver_gone = true;
        inner.receiver = None;
        let items = std::mem::take(&mut inner.items);
        let wakers = std::mem::take(&mut inner.waiting_senders);
        drop(inner);
        // Items may hold things whose drop takes other locks.
        drop(items);
        for waker in wakers {
            waker.wake();
        }
        self.shared.emptied.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::thread;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn batches_from_many_threads_arrive_whole_and_in_each_senders_order() {
        const SENDERS: u64 = 4;
        const EACH: u64 = 20_000;
        let (sender, mut receiver) = by_admission();
        let threads: Vec<_> = (0..SENDERS)
            .map(|me| {
                let sender = sender.clone();
                thread::spawn(move || {
                    let mut batch = Vec::new();
                    for n in 0..EACH {
                        batch.push((me, n));
                        if n % 7 == me {
                            sender.push_all(&mut batch).unwrap();
                        }
                    }
                    sender.push_all(&mut batch).unwrap();
                })
            })
            .collect();
        drop(sender);
        let (mut next, mut batch) = ([0; SENDERS as usize], Vec::new());
        while receiver.take_blocking(&mut batch).is_ok() {
            for (me, n) in batch.drain(..) {
                assert_eq!(next[me as usize], n);
                next[me as usize] += 1;
            }
        }
        assert_eq!(next, [EACH; SENDERS as usize]);
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn executor_receives_what_a_thread_sends() {
        let (sender, mut receiver) = bounded::<u64>(8);
        let kicker = rt::Kicker::start().unwrap();
        let executor = rt::Executor::spawn(&rt::Options::named("t"), &kicker, move || async move {
            let (mut sum, mut batch) = (0, Vec::new());
            while receiver.take(&mut batch).await.is_ok() {
                assert!(batch.len() <= 8);
                sum += batch.drain(..).sum::<u64>();
            }
            sum
        })
        .unwrap();
        let mut all: Vec<u64> = (1..=10_000).collect();
        sender.push_blocking(&mut all).unwrap();
        drop(sender);
        assert_eq!(executor.join().unwrap(), 50_005_000);
    }

    #[test]
    fn full_mailbox_takes_what_fits_and_hands_back_the_rest() {
        let (sender, mut receiver) = bounded(3);
        let mut batch = vec![1, 2, 3, 4, 5];
        assert_eq!(sender.push_all(&mut batch), Err(PushError::Full));
        assert_eq!(batch, [4, 5]);
        assert_eq!(sender.push(9), Err((9, PushError::Full)));
        let mut got = Vec::new();
        assert!(receiver.try_take(&mut got));
        assert_eq!(got, [1, 2, 3]);
        assert_eq!(sender.push_all(&mut batch), Ok(()));
        assert!(!sender.is_empty());
    }

    #[test]
    fn executor_waits_for_room_until_a_thread_makes_it() {
        let (sender, mut receiver) = bounded::<u64>(4);
        let kicker = rt::Kicker::start().unwrap();
        let executor = rt::Executor::spawn(&rt::Options::named("t"), &kicker, move || async move {
            let mut all: Vec<u64> = (0..5_000).collect();
            while sender.push_all(&mut all) == Err(PushError::Full) {
                sender.room().await;
            }
            all.len()
        })
        .unwrap();
        let (mut got, mut batch) = (Vec::new(), Vec::new());
        while receiver.take_blocking(&mut batch).is_ok() {
            got.append(&mut batch);
        }
        assert_eq!(got, (0..5_000).collect::<Vec<_>>());
        assert_eq!(executor.join().unwrap(), 0);
    }

    #[test]
    fn receiver_is_woken_once_per_sleep() {
        let (sender, mut receiver) = by_admission();
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let mut got = Vec::new();
        assert!(receiver.poll_take(&mut cx, &mut got).is_pending());
        assert!(receiver.poll_take(&mut cx, &mut got).is_pending());
        sender.push(1).unwrap();
        sender.push(2).unwrap();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(receiver.poll_take(&mut cx, &mut got), Poll::Ready(Ok(())));
        assert_eq!(got, [1, 2]);
    }

    #[test]
    fn either_side_learns_that_the_other_is_gone() {
        let (sender, mut receiver) = bounded(1);
        sender.push(1).unwrap();
        drop(sender.clone());
        drop(sender);
        let mut got = Vec::new();
        assert_eq!(receiver.take_blocking(&mut got), Ok(()));
        assert_eq!(receiver.take_blocking(&mut got), Err(Closed));

        let (sender, receiver) = bounded(1);
        sender.push(1).unwrap();
        let blocked = thread::spawn(move || {
            let mut batch = vec![2];
            (sender.push_blocking(&mut batch), sender.is_closed())
        });
        drop(receiver);
        assert_eq!(blocked.join().unwrap(), (Err(Closed), true));
    }

    #[test]
    fn timed_take_returns_empty_handed() {
        let (sender, mut receiver) = by_admission::<u8>();
        let mut got = Vec::new();
        assert_eq!(
            receiver.take_timeout(&mut got, Duration::from_millis(1)),
            Ok(false)
        );
        sender.push(1).unwrap();
        assert_eq!(
            receiver.take_timeout(&mut got, Duration::from_millis(1)),
            Ok(true)
        );
    }
}
