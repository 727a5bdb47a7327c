//! The offset index of a segment: which batch to read for a given log index.
//!
//! A list of (index, file offset of a batch): the lowest index of an entry in that batch. A pair is
//! kept for the first batch with entries, then for one per 64 KiB, and for every batch that replaces
//! a tail. Hence the last pair at or below an index leads to its newest copy: had it been replaced
//! later, a later pair at or below it would exist. The FOOTER of a full segment is this list; without
//! a FOOTER it is rebuilt by a scan.

use crate::batch::le64;

/// Data between two pairs, in bytes.
pub const INDEX_EVERY_BYTES: u64 = 64 << 10;

/// Most pairs that a FOOTER holds; with more replaced tails than that it is left out.
pub(crate) fn footer_pairs_max(segment_bytes: u64) -> usize {
    usize::try_from(2 * (segment_bytes / INDEX_EVERY_BYTES) + 8).expect("at most 1 GiB / 64 KiB")
}

/// See the file's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetIndex {
    pairs: Vec<(u64, u64)>,
    /// Last index behind the newest noted batch.
    last: u64,
}

impl OffsetIndex {
    /// Notes a batch with entries: the lowest index in it, the last index behind it, its offset.
    pub fn note(&mut self, lowest: u64, last: u64, offset: u64) {
        let due = match self.pairs.last() {
            None => true,
            Some((_, newest)) => lowest <= self.last || offset - newest >= INDEX_EVERY_BYTES,
        };
        if due {
            self.pairs.push((lowest, offset));
        }
        self.last = last;
    }

    /// Where to start reading for `index`, and the index from which on a later pair knows better
    /// (`u64::MAX`: none). `None` if the segment has nothing at or below `index`.
    pub fn find(&self, index: u64) -> Option<(u64, u64)> {
        let at = self.pairs.iter().rposition(|(first, _)| *first <= index)?;
        let (_, offset) = self.pairs[at];
        let next = self.pairs[at + 1..].iter().map(|(first, _)| *first).min();
        Some((offset, next.unwrap_or(u64::MAX)))
    }

    /// Lowest index of any entry in the segment, replaced ones included.
    pub fn lowest(&self) -> Option<u64> {
        self.pairs.iter().map(|(first, _)| *first).min()
    }

    /// The pairs, in order of offset.
    pub fn pairs(&self) -> &[(u64, u64)] {
        &self.pairs
    }

    /// The body of a FOOTER; `None` if it would be too long.
    pub fn encode(&self, segment_bytes: u64) -> Option<Vec<u8>> {
        if self.pairs.len() > footer_pairs_max(segment_bytes) {
            return None;
        }
        let mut body = Vec::with_capacity(16 * self.pairs.len());
        for (index, offset) in &self.pairs {
            body.extend_from_slice(&index.to_le_bytes());
            body.extend_from_slice(&offset.to_le_bytes());
        }
        Some(body)
    }

    /// The pairs of a FOOTER body; `None` if they cannot be an index of a segment of that size.
    pub fn decode(body: &[u8], segment_bytes: u64) -> Option<Self> {
        let (chunks, rest) = body.as_chunks::<16>();
        if !rest.is_empty() || chunks.len() > footer_pairs_max(segment_bytes) {
            return None;
        }
        let pairs: Vec<_> = chunks
            .iter()
            .map(|pair| (le64(pair, 0), le64(pair, 8)))
            .collect();
        let ascending = pairs.windows(2).all(|two| two[0].1 < two[1].1);
        let inside = pairs.iter().all(|(_, offset)| *offset < segment_bytes);
        (ascending && inside).then_some(Self { pairs, last: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_copy_of_an_index_is_found() {
        let mut index = OffsetIndex::default();
        assert_eq!(index.find(5), None);
        index.note(10, 12, 1000);
        index.note(13, 20, 2000); // near the pair before: none of its own
        index.note(15, 15, 3000); // replaces 15..=20
        index.note(16, 18, 3000 + INDEX_EVERY_BYTES);
        assert_eq!(
            index.pairs(),
            [(10, 1000), (15, 3000), (16, 3000 + INDEX_EVERY_BYTES)]
        );
        assert_eq!(index.find(9), None);
        assert_eq!(index.find(14), Some((1000, 15)));
        assert_eq!(index.find(15), Some((3000, 16)));
        assert_eq!(index.find(17), Some((3000 + INDEX_EVERY_BYTES, u64::MAX)));
        index.note(11, 11, 200_000);
        assert_eq!(
            index.find(17),
            Some((200_000, u64::MAX)),
            "the reader finds that 17 is gone"
        );
        assert_eq!(index.find(10), Some((1000, 11)));
    }

    #[test]
    fn a_footer_reads_back_and_nonsense_is_refused() {
        let mut index = OffsetIndex::default();
        index.note(1, 3, 1024);
        index.note(2, 3, 2048);
        let body = index.encode(1 << 20).unwrap();
        assert_eq!(
            OffsetIndex::decode(&body, 1 << 20).unwrap().pairs(),
            index.pairs()
        );
        assert!(OffsetIndex::decode(&body[1..], 1 << 20).is_none());
        assert!(OffsetIndex::decode(&body, 2048).is_none());
        let swapped = [&body[16..], &body[..16]].concat();
        assert!(OffsetIndex::decode(&swapped, 1 << 20).is_none());
    }
}
