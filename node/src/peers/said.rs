//! Saying things once: what repeats by itself must not fill the log.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use super::greeting::Refusal;

/// Least time between two lines of one kind.
const EVERY: Duration = Duration::from_secs(10);

/// One kind of line, said at most every ten seconds.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    last: Cell<Option<Instant>>,
    kept_back: Cell<u64>,
}

impl Seldom {
    /// Whether to say it now; then with how many were kept back before.
    pub(crate) fn due(&self) -> Option<u64> {
        let now = Instant::now();
        if self.last.get().is_some_and(|last| now - last < EVERY) {
            self.kept_back.set(self.kept_back.get() + 1);
            return None;
        }
        self.last.set(Some(now));
        Some(self.kept_back.take())
    }
}

/// Callers that were refused, and why: each is told to the log once, until it is let in.
#[derive(Debug, Default)]
pub(super) struct Refused(RefCell<Vec<(u64, Refusal)>>);

/// The oldest is forgotten beyond this, and may be said again.
const REFUSED_MAX: usize = 64;

impl Refused {
    /// Whether this is new.
    pub(super) fn note(&self, caller: u64, refusal: Refusal) -> bool {
        let mut known = self.0.borrow_mut();
        if known.contains(&(caller, refusal)) {
            return false;
        }
        if known.len() >= REFUSED_MAX {
            known.remove(0);
        }
        known.push((caller, refusal));
        true
    }

    pub(super) fn forget(&self, caller: u64) {
        self.0.borrow_mut().retain(|(known, _)| *known != caller);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_once_and_counts_what_it_kept_back() {
        let line = Seldom::default();
        assert_eq!(line.due(), Some(0));
        assert_eq!(line.due(), None);
        assert_eq!(line.due(), None);
        line.last.set(Instant::now().checked_sub(EVERY));
        assert_eq!(line.due(), Some(2));
    }

    #[test]
    fn a_refusal_is_said_once_until_the_caller_was_let_in() {
        let refused = Refused::default();
        let busy = Refusal::Busy { called: 1 };
        assert!(refused.note(2, busy));
        assert!(!refused.note(2, busy));
        assert!(refused.note(2, Refusal::Itself { member: 1 }));
        refused.forget(2);
        assert!(refused.note(2, busy));
        for caller in 0..10_000 {
            refused.note(caller, busy);
        }
        assert_eq!(refused.0.borrow().len(), REFUSED_MAX);
    }
}
