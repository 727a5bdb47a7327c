//! The store's clock: one main number per applied write, a sub number per change inside it.

use std::fmt;

/// The revision of a store nothing was ever written to; the first write gets the next one.
pub const FIRST_REVISION: i64 = 1;

/// The compact revision of a store that was never compacted.
pub const NEVER_COMPACTED: i64 = -1;

/// The place of one change. Ordered as executed: by main, then by sub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Number of the write that made the change; never negative.
    pub main: i64,
    /// Place of the change inside that write, from 0.
    pub sub: u32,
}

impl Revision {
    /// Length of the stored form.
    pub const BYTES: usize = 12;

    pub const fn new(main: i64, sub: u32) -> Self {
        Self { main, sub }
    }

    /// Stored form: main as 8 bytes, sub as 4, both big endian, so that bytes sort as revisions do.
    /// A negative main (no stored change has one; bounds of a scan may) counts as 0.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let main = u64::try_from(self.main).unwrap_or(0);
        bytes[..8].copy_from_slice(&main.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sub.to_be_bytes());
        bytes
    }

    /// The revision stored as `bytes`; `None` if the length or the range is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (main, sub) = bytes.split_first_chunk::<8>()?;
        let main = i64::try_from(u64::from_be_bytes(*main)).ok()?;
        let sub = u32::from_be_bytes(sub.try_into().ok()?);
        Some(Self { main, sub })
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.main, self.sub)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_revisions_sort_as_revisions_do() {
        let ordered = [
            (0, 0),
            (0, 1),
            (1, 0),
            (1, u32::MAX),
            (2, 0),
            (255, 9),
            (256, 0),
            (i64::MAX, 0),
        ]
        .map(|(main, sub)| Revision::new(main, sub));
        for pair in ordered.windows(2) {
            assert!(pair[0] < pair[1]);
            assert!(pair[0].to_bytes() < pair[1].to_bytes());
        }
        for revision in ordered {
            assert_eq!(Revision::from_bytes(&revision.to_bytes()), Some(revision));
        }
    }

    #[test]
    fn foreign_lengths_and_ranges_are_no_revision() {
        assert_eq!(Revision::from_bytes(&[]), None);
        assert_eq!(Revision::from_bytes(&[0; 11]), None);
        assert_eq!(Revision::from_bytes(&[0; 13]), None);
        assert_eq!(Revision::from_bytes(&[0xff; 12]), None);
    }
}
