//! A member that was removed from its cluster ends by itself: whoever learns of it says so here, and the thread that
//! waits for signals wakes and stops the node.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::iterator::Handle;

#[derive(Default)]
pub struct Departure {
    announced: AtomicBool,
    leaving: AtomicBool,
    signals: OnceLock<Handle>,
}

impl Departure {
    /// Whom to wake. To be set before anything runs; only the first one counts.
    pub fn wakes(&self, signals: Handle) {
        let _ = self.signals.set(signals);
    }

    /// True for the first one to know.
    pub fn announce(&self) -> bool {
        !self.announced.swap(true, Ordering::AcqRel)
    }

    /// Stop now.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        if let Some(signals) = self.signals.get() {
            signals.close();
        }
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_counts_and_the_waiting_thread_wakes() {
        let departure = Departure::default();
        assert!(departure.announce());
        assert!(!departure.announce());
        assert!(!departure.is_leaving());
        let mut signals =
            signal_hook::iterator::Signals::new([signal_hook::consts::SIGUSR2]).unwrap();
        departure.wakes(signals.handle());
        departure.leave();
        assert!(departure.is_leaving());
        assert_eq!(signals.forever().count(), 0);
    }
}
