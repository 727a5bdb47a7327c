//! Splitting a large watch response for a client that agreed to it.

use std::ops::Range;

/// One response of several that make up a large one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which of the events.
    pub events: Range<usize>,
    /// Where their bytes lie in the encoded events.
    pub bytes: Range<usize>,
    /// More pieces follow: the response's `fragment` field.
    pub fragment: bool,
}

/// Packs events greedily into responses shorter than `limit` bytes, at least one event each, so a
/// single event above the limit is sent whole.
///
/// `event_lens` are the lengths of the encoded events, tag and length included; `head_len` is that
/// of everything else in a response.
pub fn pieces(
    event_lens: impl IntoIterator<Item = usize>,
    head_len: usize,
    limit: usize,
) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut open = Piece {
        events: 0..0,
        bytes: 0..0,
        fragment: false,
    };
    for length in event_lens {
        let packed = head_len + open.bytes.len() + length;
        if !open.events.is_empty() && packed >= limit {
            let next = Piece {
                events: open.events.end..open.events.end,
                bytes: open.bytes.end..open.bytes.end,
                fragment: false,
            };
            open.fragment = true;
            pieces.push(std::mem::replace(&mut open, next));
        }
        open.events.end += 1;
        open.bytes.end += length;
    }
    pieces.push(open);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(lens: &[usize], limit: usize) -> Vec<(usize, bool)> {
        pieces(lens.iter().copied(), 10, limit)
            .into_iter()
            .map(|piece| (piece.events.len(), piece.fragment))
            .collect()
    }

    #[test]
    fn five_events_of_900_kb_make_three_pieces() {
        assert_eq!(
            shape(&[900_000; 5], 2 << 20),
            [(2, true), (2, true), (1, false)]
        );
    }

    #[test]
    fn what_fits_stays_whole() {
        assert_eq!(shape(&[30, 30, 29], 100), [(3, false)]);
        assert_eq!(shape(&[30, 30, 30], 100), [(2, true), (1, false)]);
        assert_eq!(shape(&[], 100), [(0, false)]);
    }

    #[test]
    fn an_event_above_the_limit_goes_alone() {
        assert_eq!(shape(&[500], 100), [(1, false)]);
        assert_eq!(shape(&[1, 500, 1], 100), [(1, true), (1, true), (1, false)]);
    }

    #[test]
    fn pieces_cover_events_and_bytes_without_gap() {
        let lens = [5, 90, 20, 20, 60, 1, 200, 3, 3];
        let (mut event, mut byte) = (0, 0);
        for piece in pieces(lens, 7, 64) {
            assert_eq!((piece.events.start, piece.bytes.start), (event, byte));
            let length: usize = lens[piece.events.clone()].iter().sum();
            assert_eq!(piece.bytes.len(), length);
            assert_eq!(piece.fragment, piece.events.end < lens.len());
            assert!(piece.events.len() == 1 || 7 + length < 64);
            (event, byte) = (piece.events.end, piece.bytes.end);
        }
        assert_eq!((event, byte), (lens.len(), lens.iter().sum()));
    }
}
