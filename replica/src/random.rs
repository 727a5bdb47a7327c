//! Chance, from a seed. Only election timeouts are drawn here; nothing secret depends on it.

/// SplitMix64: one addition and three multiplications per number, any seed is a good seed.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// Members given the same cluster seed must still draw different timeouts, so the member id is
    /// mixed in.
    pub(crate) fn new(seed: u64, member: u64) -> Self {
        let mut random = Random(seed ^ member.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        random.next();
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`; the bias of the remainder is far below what a timeout can show.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_numbers_and_members_differ() {
        let draw = |seed, member| {
            let mut random = Random::new(seed, member);
            (0..8).map(|_| random.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7, 1), draw(7, 1));
        assert_ne!(draw(7, 1), draw(7, 2));
        assert_ne!(draw(7, 1), draw(8, 1));
    }
}
