//! Reader threads: every read that may touch the disk or take long runs here, never on an executor.
//!
//! Jobs carry the view they read, so a job's answer belongs to one revision whenever it runs. A thread takes several
//! waiting jobs at once and hands their answers back in one push per executor: under load the hop costs a fraction
//! of a read.
//!
//! Bound: `QUEUE_MAX` waiting jobs; beyond it `submit` refuses and the client hears "too many requests".

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::cores::{CoreMessage, Mailboxes, post};
use crate::slots::Ticket;

/// Jobs waiting at the most, over all executors.
const QUEUE_MAX: usize = 65_536;
/// Jobs a thread takes at once: enough to spread the cost of a wake-up, few enough to leave work for the others.
const TAKE_MAX: usize = 32;

/// What a job does; its answer is put into the asker's slot.
pub type Work = Box<dyn FnOnce() -> Answer + Send>;
/// An answer, typed by the asker.
pub type Answer = Box<dyn std::any::Any + Send>;

struct Job {
    ticket: Ticket,
    work: Work,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    sleeping: usize,
    stopped: bool,
}

#[derive(Default)]
struct State {
    queue: Mutex<Queue>,
    available: Condvar,
}

/// Handle to the reader threads.
#[derive(Clone, Default)]
pub struct Pool {
    state: Arc<State>,
}

/// The queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl Pool {
    /// Starts `threads` readers that answer into `mailboxes`.
    pub fn start(
        &self,
        name: &str,
        threads: usize,
        mailboxes: &Mailboxes,
    ) -> std::io::Result<Vec<JoinHandle<()>>> {
        (0..threads)
            .map(|number| {
                let (state, mailboxes) = (Arc::clone(&self.state), mailboxes.clone());
                std::thread::Builder::new()
                    .name(format!("{name}-{number}"))
                    .spawn(move || run(&state, &mailboxes))
            })
            .collect()
    }

    /// Queues `work`; its answer reaches `ticket`.
    pub fn submit(&self, ticket: Ticket, work: Work) -> Result<(), Full> {
        let mut queue = self
            .state
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if queue.jobs.len() >= QUEUE_MAX || queue.stopped {
            return Err(Full);
        }
        queue.jobs.push_back(Job { ticket, work });
        // A thread that is awake takes what has gathered when it comes back; one more is woken only if the queue
        // grows beyond what that one will take.
        if queue.sleeping > 0 && (queue.jobs.len() == 1 || queue.jobs.len() > TAKE_MAX) {
            self.state.available.notify_one();
        }
        Ok(())
    }

    /// Lets the threads finish what is queued and end.
    pub fn stop(&self) {
        self.state
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stopped = true;
        self.state.available.notify_all();
    }
}

fn run(state: &State, mailboxes: &Mailboxes) {
    let mut taken = Vec::with_capacity(TAKE_MAX);
    let mut answers: Vec<Vec<(Ticket, Answer)>> = mailboxes.iter().map(|_| Vec::new()).collect();
    while take(state, &mut taken) {
        for job in taken.drain(..) {
            let answer = (job.work)();
            if let Some(answers) = answers.get_mut(job.ticket.core()) {
                answers.push((job.ticket, answer));
            }
        }
        for (mailbox, answers) in mailboxes.iter().zip(&mut answers) {
            if !answers.is_empty() {
                post(mailbox, CoreMessage::Answers(std::mem::take(answers)));
            }
        }
    }
}

/// Waits for jobs; false when there will be none.
fn take(state: &State, taken: &mut Vec<Job>) -> bool {
    let mut queue = state.queue.lock().unwrap_or_else(PoisonError::into_inner);
    while queue.jobs.is_empty() {
        if queue.stopped {
            return false;
        }
        queue.sleeping += 1;
        queue = state
            .available
            .wait(queue)
            .unwrap_or_else(PoisonError::into_inner);
        queue.sleeping -= 1;
    }
    // A fair share, so that one slow job does not hold up jobs a sleeping thread could do.
    let count = queue.jobs.len().div_ceil(queue.sleeping + 1).min(TAKE_MAX);
    taken.extend(queue.jobs.drain(..count));
    if !queue.jobs.is_empty() && queue.sleeping > 0 {
        state.available.notify_one();
    }
    true
}
