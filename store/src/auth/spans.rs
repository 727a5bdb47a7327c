//! Sets of keys as sorted, disjoint, non-touching intervals: what the permissions of a user come to.
//!
//! Neighbours are joined when the set is built, so that "is every key of this interval permitted"
//! is one binary search, however the grants were cut.

use bytes::Bytes;
use kvnode_api::KeyRange;

/// `start <= key < end`; `end` `None`: to the last key there can be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    start: Bytes,
    end: Option<Bytes>,
}

/// A set of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spans {
    /// Ascending; each starts after the end of the one before.
    spans: Vec<Span>,
}

impl Spans {
    /// The union of the ranges.
    pub fn union(ranges: impl IntoIterator<Item = KeyRange>) -> Self {
        let mut given: Vec<Span> = ranges
            .into_iter()
            .filter(|range| !range.is_empty())
            .map(|range| Span {
                start: range.start().clone(),
                end: range.end(),
            })
            .collect();
        given.sort_by(|a, b| a.start.cmp(&b.start));
        let mut spans: Vec<Span> = Vec::with_capacity(given.len());
        for next in given {
            match spans.last_mut() {
                Some(last) if last.reaches(&next.start) => last.extend_to(next.end),
                _ => spans.push(next),
            }
        }
        Self { spans }
    }

    /// Whether every key of `range` is in the set. An interval without keys counts as its start,
    /// so that it tells nothing to somebody who may not look there.
    pub fn cover(&self, range: &KeyRange) -> bool {
        let start = range.start();
        let after = self
            .spans
            .partition_point(|span| span.start.as_ref() <= start.as_ref());
        let Some(span) = after.checked_sub(1).and_then(|at| self.spans.get(at)) else {
            return false;
        };
        match range {
            KeyRange::Single(key) => span.contains(key),
            KeyRange::From(_) => span.end.is_none(),
            KeyRange::Interval { start, end } if end <= start => span.contains(start),
            KeyRange::Interval { end, .. } => span.end.as_ref().is_none_or(|last| end <= last),
        }
    }
}

impl Span {
    fn contains(&self, key: &Bytes) -> bool {
        self.start <= *key && self.end.as_ref().is_none_or(|end| key < end)
    }

    /// Whether a span that starts at `start`, not before this one, overlaps or touches it.
    fn reaches(&self, start: &Bytes) -> bool {
        self.end.as_ref().is_none_or(|end| start <= end)
    }

    fn extend_to(&mut self, other: Option<Bytes>) {
        self.end = match (self.end.take(), other) {
            (Some(own), Some(other)) => Some(own.max(other)),
            _ => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &'static str, end: &'static str) -> KeyRange {
        KeyRange::new(
            &Bytes::from_static(key.as_bytes()),
            &Bytes::from_static(end.as_bytes()),
        )
    }

    fn spans(ranges: &[(&'static str, &'static str)]) -> Spans {
        Spans::union(ranges.iter().map(|(key, end)| range(key, end)))
    }

    #[test]
    fn neighbours_join_and_gaps_stay() {
        let set = spans(&[("c", "e"), ("a", "c"), ("x", ""), ("m", "p"), ("n", "o")]);
        assert_eq!(set.spans.len(), 3);
        assert!(set.cover(&range("a", "e")));
        assert!(set.cover(&range("b", "d")));
        assert!(!set.cover(&range("a", "e\0")));
        assert!(!set.cover(&range("a", "n")));
        assert!(set.cover(&range("m", "p")));
        assert!(set.cover(&range("x", "")));
        assert!(set.cover(&range("x", "x\0")));
        assert!(!set.cover(&range("x", "y")));
        assert!(!set.cover(&range("w", "")));
    }

    #[test]
    fn single_keys_side_by_side_make_an_interval() {
        let set = spans(&[("k", ""), ("k\0", ""), ("k\0\0", "l")]);
        assert!(set.cover(&range("k", "l")));
        assert!(!set.cover(&range("k", "m")));
    }

    #[test]
    fn an_open_end_is_covered_by_an_open_end_only() {
        let open = spans(&[("b", "\0")]);
        assert!(open.cover(&range("b", "\0")) && open.cover(&range("zzz", "\0")));
        assert!(open.cover(&range("c", "d")));
        assert!(!open.cover(&range("a", "\0")));
        let closed = spans(&[("b", "\u{7f}")]);
        assert!(!closed.cover(&range("b", "\0")));
        // An open interval swallows what follows.
        assert_eq!(spans(&[("b", "\0"), ("c", "d"), ("x", "")]), open);
    }

    #[test]
    fn an_interval_without_keys_needs_its_start() {
        let set = spans(&[("b", "d"), ("q", "p")]);
        assert_eq!(set.spans.len(), 1);
        assert!(set.cover(&range("c", "a")));
        assert!(!set.cover(&range("x", "a")));
        assert!(!Spans::default().cover(&range("c", "a")));
    }

    /// Against a set of single bytes, over every interval of a small alphabet.
    #[test]
    fn the_union_covers_exactly_what_its_parts_hold() {
        let letters: Vec<Bytes> = (b'a'..=b'f').map(|b| Bytes::from(vec![b])).collect();
        let mut parts = Vec::new();
        for start in &letters {
            for end in &letters {
                parts.push(KeyRange::new(start, end));
            }
            parts.push(KeyRange::Single(start.clone()));
            parts.push(KeyRange::From(start.clone()));
        }
        // Keys that tell all these intervals apart: each letter, and each letter followed by zero.
        let mut keys: Vec<Bytes> = letters.clone();
        keys.extend(letters.iter().map(|letter| {
            let mut key = letter.to_vec();
            key.push(0);
            Bytes::from(key)
        }));
        let all = |range: &KeyRange, set: &dyn Fn(&Bytes) -> bool| {
            let mut inside = keys.iter().filter(|key| range.contains(key));
            let start = range.start();
            inside.all(set) && (!range.is_empty() || set(start))
        };
        for a in &parts {
            for b in &parts {
                let union = Spans::union([a.clone(), b.clone()]);
                let holds = |key: &Bytes| a.contains(key) || b.contains(key);
                for asked in &parts {
                    // Beyond the alphabet only an open end reaches.
                    let open = |range: &KeyRange| matches!(range, KeyRange::From(_));
                    let expected = all(asked, &holds) && (!open(asked) || open(a) || open(b));
                    assert_eq!(union.cover(asked), expected, "{a:?} + {b:?}, {asked:?}");
                }
            }
        }
    }
}
