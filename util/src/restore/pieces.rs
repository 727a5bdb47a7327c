//! A snapshot's records cut into runs of keys that several threads turn into tables.

use std::ops::Range;

use kvnode_snapshot::ChunkInfo;
use kvnode_store::engine::Space;

/// Raw bytes below which a space is not cut: each piece becomes a table of its own, or several.
const PIECE_BYTES_MIN: u64 = 32 << 20;

/// The records of `space` with keys from `from` (inclusive) to `to` (exclusive).
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    pub space: Space,
    pub from: Vec<u8>,
    /// `None`: to the end.
    pub to: Option<Vec<u8>>,
    /// Chunks that hold them.
    pub chunks: Range<usize>,
}

impl Piece {
    pub fn holds(&self, space: Space, key: &[u8]) -> bool {
        let below_end = self.to.as_ref().is_none_or(|to| key < &to[..]);
        space == self.space && key >= &self.from[..] && below_end
    }
}

/// Cuts sorted chunks into pieces, of each space at most about `count`, and as even as chunks allow. Together they hold all keys
/// of both spaces.
pub fn cut(chunks: &[ChunkInfo], count: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for space in Space::ALL {
        let section = space as u8;
        let mut begin = chunks.partition_point(|chunk| chunk.section < section);
        let end = chunks.partition_point(|chunk| chunk.section <= section);
        let mut from = Vec::new();
        let of_space = &chunks[begin..end];
        let first = begin;
        for cut in cuts(of_space, count) {
            let to = of_space[cut].first_key.clone();
            pieces.push(Piece {
                space,
                from: std::mem::replace(&mut from, to.clone()),
                to: Some(to),
                chunks: begin..first + cut,
            });
            begin = first + cut;
        }
        pieces.push(Piece {
            space,
            from,
            to: None,
            chunks: begin..end,
        });
    }
    pieces
}

/// Which chunks of a space begin a piece, but for the first.
fn cuts(chunks: &[ChunkInfo], count: usize) -> Vec<usize> {
    let bytes = |chunk: &ChunkInfo| u64::from(chunk.raw_bytes);
    let all: u64 = chunks.iter().map(bytes).sum();
    let target = all.div_ceil(count.max(1) as u64).max(PIECE_BYTES_MIN);
    let (mut cuts, mut taken) = (Vec::new(), 0);
    for (at, chunk) in chunks.iter().enumerate() {
        if taken >= target {
            cuts.push(at);
            taken = 0;
        }
        taken += bytes(chunk);
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(section: u8, first: &str, last: &str, mib: u32) -> ChunkInfo {
        ChunkInfo {
            sequence: 0,
            offset: 0,
            section,
            codec: 0,
            records: 1,
            raw_bytes: mib << 20,
            stored_bytes: 1,
            first_key: first.as_bytes().to_vec(),
            last_key: last.as_bytes().to_vec(),
        }
    }

    fn shown(pieces: &[Piece]) -> Vec<(u8, String, String, Range<usize>)> {
        let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
        let to = |piece: &Piece| piece.to.as_deref().map_or("end".into(), text);
        let shown = |piece: &Piece| {
            (
                piece.space as u8,
                text(&piece.from),
                to(piece),
                piece.chunks.clone(),
            )
        };
        pieces.iter().map(shown).collect()
    }

    #[test]
    fn pieces_follow_each_other_and_hold_all_keys() {
        let chunks = [
            chunk(0, "D1", "ka", 30),
            chunk(0, "kb", "kc", 30),
            chunk(0, "kd", "ke", 30),
            chunk(1, "1", "2", 40),
            chunk(1, "3", "4", 40),
        ];
        let pieces = cut(&chunks, 2);
        assert_eq!(
            shown(&pieces),
            [
                (0, "".into(), "kd".into(), 0..2),
                (0, "kd".into(), "end".into(), 2..3),
                (1, "".into(), "3".into(), 3..4),
                (1, "3".into(), "end".into(), 4..5),
            ]
        );
        for (space, key) in [
            (Space::State, &b"M"[..]),
            (Space::State, b"kd"),
            (Space::Hist, b"9"),
        ] {
            let holding = pieces.iter().filter(|piece| piece.holds(space, key));
            assert_eq!(holding.count(), 1, "{key:?}");
        }
        let nothing = cut(&[], 4);
        assert_eq!(nothing.len(), 2);
        assert!(nothing.iter().all(|piece| piece.chunks.is_empty()));
    }

    #[test]
    fn small_spaces_are_not_cut_and_large_ones_evenly() {
        let chunks = |numbers: Range<u32>| -> Vec<_> {
            let named = |n| chunk(1, &format!("{n}a"), &format!("{n}b"), 1);
            numbers.map(named).collect()
        };
        assert_eq!(cut(&chunks(10..40), 8).len(), 1 + 1);
        let pieces = cut(&chunks(100..900), 8);
        assert_eq!(pieces.len(), 1 + 8);
        for piece in &pieces[1..] {
            assert!(piece.chunks.len() <= 101, "{piece:?}");
        }
    }
}
