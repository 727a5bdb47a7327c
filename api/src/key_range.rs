//! The interval that a `key` and a `range_end` mean, for reads, deletes, compares, watches and
//! permissions alike.
//!
//! | key | range_end | meaning |
//! |---|---|---|
//! | k | empty | exactly k |
//! | k | one zero byte | every key >= k |
//! | k | e | k <= x < e; nothing if e <= k |

use std::ops::Bound;

use bytes::Bytes;

/// `range_end` that means "every key from `key` on".
pub const FROM_KEY: &[u8] = b"\0";

/// A set of neighbouring keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// Exactly this key.
    Single(Bytes),
    /// `start <= key < end`; without keys if `end <= start`.
    Interval { start: Bytes, end: Bytes },
    /// Every key from this one on.
    From(Bytes),
}

impl KeyRange {
    /// The interval of a request. Shares the request's buffer.
    pub fn new(key: &Bytes, range_end: &Bytes) -> KeyRange {
        if range_end.is_empty() {
            KeyRange::Single(key.clone())
        } else if range_end.as_ref() == FROM_KEY {
            KeyRange::From(key.clone())
        } else {
            KeyRange::Interval {
                start: key.clone(),
                end: range_end.clone(),
            }
        }
    }

    /// Every key there can be.
    pub fn all() -> KeyRange {
        KeyRange::From(Bytes::from_static(FROM_KEY))
    }

    /// The interval of a watch: an empty key stands for a single zero byte, and an interval
    /// without keys is refused (`None`). Copies the keys: a watcher outlives its request and must
    /// not hold the whole of it in memory.
    pub fn for_watch(key: &[u8], range_end: &[u8]) -> Option<KeyRange> {
        let key = if key.is_empty() { FROM_KEY } else { key };
        let range = KeyRange::new(
            &Bytes::copy_from_slice(key),
            &Bytes::copy_from_slice(range_end),
        );
        (!range.is_empty()).then_some(range)
    }

    /// No key can be in it.
    pub fn is_empty(&self) -> bool {
        matches!(self, KeyRange::Interval { start, end } if end <= start)
    }

    /// Whether `key` is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::Single(single) => single.as_ref() == key,
            KeyRange::Interval { start, end } => start.as_ref() <= key && key < end.as_ref(),
            KeyRange::From(start) => start.as_ref() <= key,
        }
    }

    /// The single key, if it is one.
    pub fn single(&self) -> Option<&Bytes> {
        match self {
            KeyRange::Single(key) => Some(key),
            _ => None,
        }
    }

    /// The first key that may be in it.
    pub fn start(&self) -> &Bytes {
        match self {
            KeyRange::Single(start) | KeyRange::Interval { start, .. } | KeyRange::From(start) => {
                start
            }
        }
    }

    /// Exclusive end for a scan, `None` if it is open. Allocates for a single key only.
    pub fn end(&self) -> Option<Bytes> {
        match self {
            KeyRange::Single(key) => {
                let mut end = Vec::with_capacity(key.len() + 1);
                end.extend_from_slice(key);
                end.push(0);
                Some(Bytes::from(end))
            }
            KeyRange::Interval { end, .. } => Some(end.clone()),
            KeyRange::From(_) => None,
        }
    }

    /// Bounds for an ordered map, which never make `BTreeMap::range` panic: an interval without
    /// keys gives the empty range at its start.
    pub fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        match self {
            KeyRange::Single(key) => (Bound::Included(key), Bound::Included(key)),
            KeyRange::Interval { start, end } => {
                (Bound::Included(start), Bound::Excluded(end.max(start)))
            }
            KeyRange::From(start) => (Bound::Included(start), Bound::Unbounded),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn range(key: &'static str, end: &'static str) -> KeyRange {
        KeyRange::new(
            &Bytes::from_static(key.as_bytes()),
            &Bytes::from_static(end.as_bytes()),
        )
    }

    #[test]
    fn the_four_meanings_of_range_end() {
        assert_eq!(range("b", ""), KeyRange::Single("b".into()));
        assert_eq!(range("b", "\0"), KeyRange::From("b".into()));
        assert!(range("b", "b").is_empty());
        assert!(range("b", "a").is_empty());
        assert!(!range("b", "c").is_empty());
        // Not the marker: an ordinary end that happens to lie before every printable key.
        assert!(range("b", "\0\0").is_empty());
        assert!(range("b", "c").contains(b"b\xff"));
        assert!(!range("b", "c").contains(b"c"));
        assert!(!range("b", "a").contains(b"b"));
        assert!(range("b", "\0").contains(b"zz") && !range("b", "\0").contains(b"a"));
        assert!(KeyRange::all().contains(b"\0"));
    }

    #[test]
    fn bounds_scan_end_and_contains_agree() {
        let keys: BTreeSet<&[u8]> = [&b"a"[..], b"a\0", b"b", b"b\0", b"ba", b"c", b"\xff"]
            .into_iter()
            .collect();
        for key in ["a", "b", "c"] {
            for end in ["", "\0", "a", "b", "b\0", "c", "d"] {
                let range = range(key, end);
                let wanted: Vec<_> = keys.iter().copied().filter(|k| range.contains(k)).collect();
                let found: Vec<_> = keys.range::<[u8], _>(range.bounds()).copied().collect();
                assert_eq!(wanted, found, "{range:?}");
                let scanned: Vec<_> = keys
                    .iter()
                    .copied()
                    .filter(|k| *k >= range.start().as_ref())
                    .filter(|k| range.end().is_none_or(|end| *k < end.as_ref()))
                    .collect();
                assert_eq!(wanted, scanned, "{range:?}");
                assert!(!range.is_empty() || wanted.is_empty());
            }
        }
    }

    #[test]
    fn watch_takes_an_empty_key_as_zero_byte_and_refuses_an_empty_interval() {
        assert_eq!(KeyRange::for_watch(b"", b"\0"), Some(KeyRange::all()));
        assert_eq!(
            KeyRange::for_watch(b"", b""),
            Some(KeyRange::Single(Bytes::from_static(b"\0")))
        );
        assert_eq!(KeyRange::for_watch(b"b", b"b"), None);
        assert_eq!(KeyRange::for_watch(b"b", b"a"), None);
        assert_eq!(
            KeyRange::for_watch(b"b", b""),
            Some(KeyRange::Single(Bytes::from_static(b"b")))
        );
    }
}
