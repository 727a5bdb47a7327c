//! How a transfer's thread is stopped from outside, whatever it waits for.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::peers::stream::Cutter;

#[derive(Debug, Default)]
pub(super) struct Leash {
    state: Mutex<State>,
    pulled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pulled: bool,
    connection: Option<Cutter>,
}

impl Leash {
    /// Stops the transfer for good.
    pub(super) fn pull(&self) {
        let mut state = self.lock();
        state.pulled = true;
        if let Some(connection) = &state.connection {
            connection.cut();
        }
        drop(state);
        self.pulled.notify_all();
    }

    /// Ends the present connection only.
    pub(super) fn cut(&self) {
        if let Some(connection) = &self.lock().connection {
            connection.cut();
        }
    }

    pub(super) fn is_pulled(&self) -> bool {
        self.lock().pulled
    }

    /// The connection that is in use from now on.
    pub(super) fn hold(&self, connection: Cutter) {
        let mut state = self.lock();
        if state.pulled {
            connection.cut();
        }
        state.connection = Some(connection);
    }

    /// The connection is not in use any more. What is held here would keep it open.
    pub(super) fn release(&self) {
        self.lock().connection = None;
    }

    /// Waits, unless pulled; returns whether it was.
    pub(super) fn pause(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if state.pulled || left.is_zero() {
                return state.pulled;
            }
            let waited = self.pulled.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
