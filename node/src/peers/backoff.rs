//! How long to wait before the next try: twice as long each time, shortened by chance, so that
//! members that lost each other at once do not come back at once.

use std::time::Duration;

/// Pauses of one link. Chance comes from `seed`: the same seed gives the same pauses.
#[derive(Debug)]
pub(super) struct BackOff {
    min: Duration,
    max: Duration,
    next: Duration,
    state: u64,
}

impl BackOff {
    pub(super) fn new(min: Duration, max: Duration, seed: u64) -> BackOff {
        BackOff {
            min,
            max,
            next: min,
            state: seed,
        }
    }

    /// The pause before the next try: between half of the present step and all of it.
    pub(super) fn pause(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.max);
        let share = (self.draw() >> 40) as f64 / (1u64 << 24) as f64;
        step.mul_f64(0.5 + share / 2.0)
    }

    /// As [`BackOff::pause`] for what time alone will not mend: the longest at once.
    pub(super) fn long_pause(&mut self) -> Duration {
        self.next = self.max;
        self.pause()
    }

    /// It worked: the next pause is a short one.
    pub(super) fn reset(&mut self) {
        self.next = self.min;
    }

    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(5);

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_success() {
        let mut back_off = BackOff::new(MIN, MAX, 1);
        let mut step = MIN;
        for _ in 0..20 {
            let pause = back_off.pause();
            assert!(pause >= step / 2 && pause <= step, "{pause:?} of {step:?}");
            step = (step * 2).min(MAX);
        }
        assert_eq!(step, MAX);
        back_off.reset();
        assert!(back_off.pause() <= MIN);
        assert!(back_off.long_pause() >= MAX / 2);
    }

    #[test]
    fn different_seeds_part_and_equal_ones_do_not() {
        let pauses = |seed| {
            let mut back_off = BackOff::new(MIN, MAX, seed);
            (0..10).map(|_| back_off.pause()).collect::<Vec<_>>()
        };
        assert_eq!(pauses(1), pauses(1));
        assert_ne!(pauses(1), pauses(2));
    }
}
