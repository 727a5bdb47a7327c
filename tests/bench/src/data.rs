//! Keys and values of the loads, made without allocation.

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

/// Values that no compression shortens, cut out of one pool.
pub struct Values {
    pool: Vec<u8>,
    length: usize,
}

/// Long enough that neighbouring values hardly ever overlap.
const POOL_BYTES: usize = 1 << 20;

impl Values {
    /// Values of `length` bytes.
    pub fn new(length: usize) -> Values {
        let mut chance = Chance(0x6b76);
        let pool = (0..(POOL_BYTES + length) / 8 + 1)
            .flat_map(|_| chance.next().to_le_bytes())
            .collect();
        Values { pool, length }
    }

    pub fn pick(&self, chance: &mut Chance) -> &[u8] {
        let start = chance.below(POOL_BYTES as u64) as usize;
        &self.pool[start..start + self.length]
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
        let values = Values::new(256);
        let mut chance = Chance(1);
        let first = values.pick(&mut chance).to_vec();
        assert_eq!(first.len(), 256);
        assert_ne!(first, values.pick(&mut chance));
        assert!(Values::new(0).pick(&mut chance).is_empty());
    }
}
