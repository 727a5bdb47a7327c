//! Keys and values of the loads, made without allocation.

mod document;

/// Where all keys of the loads live.
pub const KEY_PREFIX: &[u8] = b"/kvbench/";
/// Digits after the prefix.
const KEY_DIGITS: usize = 10;
/// Bytes of every key.
pub const KEY_BYTES: usize = KEY_PREFIX.len() + KEY_DIGITS;

/// The key of this number; keys sort as their numbers do.
pub fn key(mut number: u64) -> [u8; KEY_BYTES] {
    let mut key = [b'0'; KEY_BYTES];
    key[..KEY_PREFIX.len()].copy_from_slice(KEY_PREFIX);
    for digit in key[KEY_PREFIX.len()..].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    key
}

/// Chance (splitmix64).
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0; the bias of the remainder does not matter here.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Every number below `count` once, in an order without pattern.
pub struct Shuffle {
    next: u64,
    count: u64,
    /// Bits of the numbers mixed; those not below `count` are skipped.
    bits: u32,
}

impl Shuffle {
    pub fn new(count: u64) -> Shuffle {
        let bits = u64::BITS - count.saturating_sub(1).leading_zeros();
        Shuffle {
            next: 0,
            count,
            bits: bits.max(2),
        }
    }

    /// Mixes the lowest bits; each step can be undone, so no two numbers become one.
    fn mixed(&self, number: u64) -> u64 {
        let mask = u64::MAX >> (u64::BITS - self.bits);
        let mut mixed = number;
        for factor in [
            0xbf58_476d_1ce4_e5b9_u64,
            0x94d0_49bb_1331_11eb,
            0x9e37_79b9_7f4a_7c15,
        ] {
            mixed = mixed.wrapping_mul(factor).wrapping_add(0x6b76) & mask;
            mixed ^= mixed >> self.bits.div_ceil(2);
        }
        mixed
    }
}

impl Iterator for Shuffle {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let end = 1_u64.checked_shl(self.bits).unwrap_or(u64::MAX);
        while self.next < end {
            let mixed = self.mixed(self.next);
            self.next += 1;
            if mixed < self.count {
                return Some(mixed);
            }
        }
        None
    }
}

/// What values are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Content {
    /// Bytes that no compression shortens
    Random,
    /// Small documents as configuration stores hold them
    Json,
}

/// Values of one length.
pub struct Values {
    content: Content,
    /// Of random values, which are cut out of it.
    pool: Vec<u8>,
    length: usize,
    /// The last document.
    document: Vec<u8>,
}

/// Long enough that neighbouring values hardly ever overlap.
const POOL_BYTES: usize = 1 << 20;

impl Values {
    /// Random values of `length` bytes.
    pub fn new(length: usize) -> Values {
        Values::of(Content::Random, length)
    }

    /// Values of `length` bytes.
    pub fn of(content: Content, length: usize) -> Values {
        let mut chance = Chance(0x6b76);
        let words = match content {
            Content::Random => (POOL_BYTES + length) / 8 + 1,
            Content::Json => 0,
        };
        Values {
            content,
            pool: (0..words)
                .flat_map(|_| chance.next().to_le_bytes())
                .collect(),
            length,
            document: Vec::new(),
        }
    }

    /// A value that depends on nothing but the chance.
    pub fn pick(&mut self, chance: &mut Chance) -> &[u8] {
        match self.content {
            Content::Random => {
                let start = chance.below(POOL_BYTES as u64) as usize;
                &self.pool[start..start + self.length]
            }
            Content::Json => {
                document::write(chance, self.length, &mut self.document);
                &self.document
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_numbers() {
        assert_eq!(&key(42), b"/kvbench/0000000042");
        assert!(key(999) < key(1000) && key(9_999_999) < key(10_000_000));
    }

    #[test]
    fn values_have_their_length_and_differ() {
        let mut values = Values::new(256);
        let mut chance = Chance(1);
        let first = values.pick(&mut chance).to_vec();
        assert_eq!(first.len(), 256);
        assert_ne!(first, values.pick(&mut chance));
        assert!(Values::new(0).pick(&mut chance).is_empty());
    }

    #[test]
    fn a_shuffle_has_every_number_once_and_out_of_order() {
        for count in [1, 2, 3, 100, 1000, 1024, 1025, 65_537] {
            let mut found: Vec<u64> = Shuffle::new(count).collect();
            let steps = found.windows(2);
            let neighbours = steps.filter(|pair| pair[0].abs_diff(pair[1]) <= 1).count();
            assert!(count < 1000 || neighbours as u64 <= count / 100, "{count}");
            found.sort_unstable();
            assert!(found.into_iter().eq(0..count), "{count}");
        }
        assert_eq!(Shuffle::new(0).next(), None);
    }
}
