//! Slows down who guesses passwords: each user name has a small allowance of failed attempts that fills up again with
//! time. Successful log-ins cost nothing, so honest clients never notice.
//!
//! Bound: `NAMES_MAX` names are remembered; when full, those that have their whole allowance back are forgotten, and while
//! all of them are guessing at once, further names go uncounted: hashing threads are few and bound them all.

use std::collections::HashMap;

/// Failed attempts in a row before waiting begins.
const ALLOWANCE: u64 = 10;
/// One more attempt after so long.
const REFILL_MS: u64 = 1000;
const NAMES_MAX: usize = 10_000;

/// Failed attempts by user name.
#[derive(Debug, Default)]
pub struct Attempts {
    /// When the name will have its whole allowance back.
    whole_at_ms: HashMap<String, u64>,
}

impl Attempts {
    /// Whether the name may try a password now.
    pub fn may_try(&self, name: &str, now_ms: u64) -> bool {
        let whole_at_ms = self.whole_at_ms.get(name).copied().unwrap_or(0);
        whole_at_ms.saturating_sub(now_ms) <= (ALLOWANCE - 1) * REFILL_MS
    }

    /// Notes that the name has failed.
    pub fn failed(&mut self, name: &str, now_ms: u64) {
        let full = self.whole_at_ms.len() >= NAMES_MAX && !self.whole_at_ms.contains_key(name);
        if full {
            self.whole_at_ms
                .retain(|_, whole_at_ms| *whole_at_ms > now_ms);
        }
        if self.whole_at_ms.len() >= NAMES_MAX && full {
            return;
        }
        let whole_at_ms = self.whole_at_ms.entry(name.to_owned()).or_default();
        *whole_at_ms = (*whole_at_ms).max(now_ms) + REFILL_MS;
    }

    /// Notes that the name has shown the right password.
    pub fn succeeded(&mut self, name: &str) {
        self.whole_at_ms.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_is_slowed_to_one_attempt_a_second() {
        let mut attempts = Attempts::default();
        for _ in 0..ALLOWANCE {
            assert!(attempts.may_try("a", 0));
            attempts.failed("a", 0);
        }
        assert!(!attempts.may_try("a", 0));
        assert!(!attempts.may_try("a", REFILL_MS - 1));
        assert!(attempts.may_try("b", 0));
        assert!(attempts.may_try("a", REFILL_MS));
        attempts.failed("a", REFILL_MS);
        assert!(!attempts.may_try("a", REFILL_MS));
        assert!(attempts.may_try("a", 2 * REFILL_MS));
    }

    #[test]
    fn the_right_password_clears_the_slate() {
        let mut attempts = Attempts::default();
        for _ in 0..ALLOWANCE {
            attempts.failed("a", 0);
        }
        attempts.succeeded("a");
        assert!(attempts.may_try("a", 0));
    }

    #[test]
    fn memory_is_bounded_and_old_names_are_forgotten() {
        let mut attempts = Attempts::default();
        for number in 0..NAMES_MAX + 5 {
            attempts.failed(&number.to_string(), 0);
        }
        assert_eq!(attempts.whole_at_ms.len(), NAMES_MAX);
        attempts.failed("late", REFILL_MS + 1);
        assert_eq!(attempts.whole_at_ms.len(), 1);
    }
}
