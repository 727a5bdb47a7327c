//! Encoded neighbours: the pairs of one bucket of the fences as a range answers them, kept so that
//! an interval that is read again need not be scanned, decoded and encoded again.
//!
//! A page is kept under the bucket's [`Stamp`]. A stamp stands for the same pairs for ever (every
//! change of a key in the bucket gives it a new one), so a page is never wrong and nobody has to
//! take it back: a view looks up the stamps of its own fences. A newer page of a bucket replaces
//! the older one.
//!
//! Bound: `bytes_max`, all bookkeeping included. What was not used since it last came up for removal leaves.
//! Pages still referred to by answers on their way live until those are sent.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kvnode_api::encode;

use crate::fences::Stamp;

/// Longest page, in bytes; a bucket that is longer is scanned every time.
pub(crate) const PAGE_BYTES_MAX: usize = 4 << 20;

/// What a place in the cache costs beside its page.
const PLACE_BYTES: usize = 128;

/// The pairs of a bucket, each as field `kvs` of the answer, in key order.
pub(crate) struct Page {
    bytes: Bytes,
    /// Where each pair ends.
    ends: Box<[u32]>,
}

impl Page {
    /// `ends` are the ends of the pairs in `bytes`, which are no longer than [`PAGE_BYTES_MAX`].
    pub fn new(bytes: &[u8], ends: &[u32]) -> Self {
        Self {
            bytes: Bytes::copy_from_slice(bytes),
            ends: ends.into(),
        }
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Pairs `from..to`, sharing the page.
    pub fn pairs(&self, from: usize, to: usize) -> Bytes {
        self.bytes.slice(self.start(from)..self.start(to))
    }

    /// How many keys are below `key`.
    pub fn below(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            let pair = &self.bytes[self.start(middle)..self.start(middle + 1)];
            if encode::range_pair_key(pair) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn start(&self, index: usize) -> usize {
        index
            .checked_sub(1)
            .map_or(0, |last| self.ends[last] as usize)
    }

    fn cost(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.ends)
    }
}

/// What to do about a bucket.
pub(crate) enum Ask {
    Kept(Arc<Page>),
    /// Make its page: what that costs has been spent on scanning parts of it already, or all of it
    /// is wanted.
    Make,
    /// Scan what is wanted, and [`Pages::scanned`] it.
    Scan,
}

/// See the module text.
pub(crate) struct Pages {
    bytes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    places: HashMap<u64, Place>,
    /// Every place once, in the order they come up for removal.
    queue: VecDeque<u64>,
    bytes: usize,
}

struct Place {
    modified: i64,
    page: Option<Arc<Page>>,
    /// Keys of the bucket that were scanned under this stamp for want of a page.
    scanned: u32,
    used: bool,
}

/// `scanned` of a bucket that does not fit a page.
const TOO_LONG: u32 = u32::MAX;

impl Pages {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            inner: Mutex::default(),
        }
    }

    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// `count`: keys in the bucket. `whole`: all of them are wanted.
    pub fn ask(&self, stamp: Stamp, count: u32, whole: bool) -> Ask {
        let mut inner = self.lock();
        let place = inner.places.get_mut(&stamp.place);
        match place.filter(|place| place.modified == stamp.modified) {
            Some(place) => {
                place.used = true;
                match &place.page {
                    Some(page) => Ask::Kept(Arc::clone(page)),
                    None if place.scanned == TOO_LONG => Ask::Scan,
                    None if whole || place.scanned >= count => Ask::Make,
                    None => Ask::Scan,
                }
            }
            None if whole => Ask::Make,
            None => Ask::Scan,
        }
    }

    /// Some `keys` of the bucket were scanned.
    pub fn scanned(&self, stamp: Stamp, keys: usize) {
        let keys = u32::try_from(keys).unwrap_or(TOO_LONG - 1);
        self.change(stamp, |place| {
            if place.scanned != TOO_LONG {
                place.scanned = place.scanned.saturating_add(keys).min(TOO_LONG - 1);
            }
        });
    }

    /// The bucket does not fit a page.
    pub fn too_long(&self, stamp: Stamp) {
        self.change(stamp, |place| place.scanned = TOO_LONG);
    }

    pub fn keep(&self, stamp: Stamp, page: Arc<Page>) {
        self.change(stamp, |place| place.page = Some(page));
    }

    /// Changes the place of this very stamp. A view may be older than what is kept: then it is let
    /// be.
    fn change(&self, stamp: Stamp, change: impl FnOnce(&mut Place)) {
        // Pages freed here are freed after the lock is let go.
        let mut freed = Vec::new();
        let mut inner = self.lock();
        let Inner {
            places,
            queue,
            bytes,
        } = &mut *inner;
        let place = places.entry(stamp.place).or_insert_with(|| {
            queue.push_back(stamp.place);
            *bytes += PLACE_BYTES;
            Place {
                modified: stamp.modified,
                page: None,
                scanned: 0,
                used: false,
            }
        });
        if place.modified > stamp.modified {
            return;
        }
        let cost = |place: &Place| place.page.as_ref().map_or(0, |page| page.cost());
        *bytes -= cost(place);
        if place.modified < stamp.modified {
            place.modified = stamp.modified;
            place.scanned = 0;
            freed.extend(place.page.take());
        }
        change(place);
        *bytes += cost(place);
        while *bytes > self.bytes_max {
            let Some(number) = queue.pop_front() else {
                break;
            };
            let Some(place) = places.get_mut(&number) else {
                continue;
            };
            if std::mem::take(&mut place.used) {
                queue.push_back(number);
                continue;
            }
            *bytes -= cost(place) + PLACE_BYTES;
            freed.extend(place.page.take());
            places.remove(&number);
        }
        drop(inner);
        drop(freed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic ends the process; whatever was interrupted is whole anyway.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(fill: u8, length: usize) -> Arc<Page> {
        Arc::new(Page::new(&vec![fill; length], &[length as u32]))
    }

    fn stamp(place: u64, modified: i64) -> Stamp {
        Stamp { place, modified }
    }

    fn kept(pages: &Pages, stamp: Stamp) -> Option<u8> {
        match pages.ask(stamp, 10, false) {
            Ask::Kept(page) => Some(page.bytes[0]),
            Ask::Make | Ask::Scan => None,
        }
    }

    #[test]
    fn a_page_is_found_under_its_own_stamp_only() {
        let pages = Pages::new(1 << 20);
        pages.keep(stamp(1, 5), page(b'a', 10));
        assert_eq!(kept(&pages, stamp(1, 5)), Some(b'a'));
        assert_eq!(kept(&pages, stamp(1, 4)), None);
        assert_eq!(kept(&pages, stamp(1, 6)), None);
        assert_eq!(kept(&pages, stamp(2, 5)), None);
        pages.keep(stamp(1, 6), page(b'b', 10));
        assert_eq!(kept(&pages, stamp(1, 6)), Some(b'b'));
        assert_eq!(kept(&pages, stamp(1, 5)), None);
        pages.keep(stamp(1, 5), page(b'c', 10));
        assert_eq!(
            kept(&pages, stamp(1, 6)),
            Some(b'b'),
            "newer than the reader"
        );
    }

    #[test]
    fn a_page_is_made_when_all_is_wanted_or_as_much_was_scanned() {
        let pages = Pages::new(1 << 20);
        let ask = |whole| matches!(pages.ask(stamp(1, 5), 10, whole), Ask::Make);
        assert!(ask(true) && !ask(false));
        pages.scanned(stamp(1, 5), 9);
        assert!(!ask(false));
        pages.scanned(stamp(1, 5), 1);
        assert!(ask(false));
        pages.scanned(stamp(1, 6), 1);
        assert!(!ask(false), "it is another bucket now");
        pages.too_long(stamp(1, 6));
        pages.scanned(stamp(1, 6), 100);
        assert!(matches!(pages.ask(stamp(1, 6), 10, true), Ask::Scan));
    }

    #[test]
    fn the_bound_holds_and_what_is_used_stays() {
        let pages = Pages::new(10 * (1000 + PLACE_BYTES));
        for number in 0..1000 {
            pages.keep(stamp(number, 1), page(b'a', 900));
            assert_eq!(kept(&pages, stamp(0, 1)), Some(b'a'), "after {number}");
            let inner = pages.lock();
            let all: usize = inner
                .places
                .values()
                .map(|place| PLACE_BYTES + place.page.as_ref().map_or(0, |page| page.cost()))
                .sum();
            assert!(inner.bytes == all && all <= pages.bytes_max);
            assert_eq!(inner.queue.len(), inner.places.len());
        }
        for number in 0..10_000 {
            pages.scanned(stamp(number, 2), 1);
        }
        assert!(pages.lock().bytes <= pages.bytes_max);
        let none = Pages::new(0);
        none.keep(stamp(1, 1), page(b'a', 10));
        assert_eq!(kept(&none, stamp(1, 1)), None);
        assert_eq!(none.lock().bytes, 0);
    }
}
