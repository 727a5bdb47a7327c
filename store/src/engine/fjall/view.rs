//! Reading: recent runs over a snapshot of the tables.

use std::cmp::Ordering;
use std::ops::{Bound, ControlFlow};
use std::path::PathBuf;
use std::sync::Arc;

use ::fjall::{Readable, Slice, Snapshot};
use bytes::Bytes;

use super::super::run::{Layers, Record, Sought};
use super::super::{EngineError, Reader, Scan, Space, check_key};
use super::memtable::Recent;
use super::sweep::{Sweep, Tables};
use super::{BEHIND_FLUSHED_KEY, Spaces, broken, is_reserved};

/// A view; see [`Reader`]. Values from tables are slices of cached blocks where possible: one that is kept
/// for long keeps its whole block (4 KiB or the value, whichever is larger) in memory. Recent ones are copies.
#[derive(Clone)]
pub struct FjallView(Arc<View>);

struct View {
    recent: Recent,
    snapshot: Snapshot,
    /// For reading the state once: where there are any, scans go through them, past the block cache.
    swept: Option<Tables>,
    spaces: Spaces,
    directory: PathBuf,
    _share: Arc<()>,
}

impl FjallView {
    pub(super) fn new(
        recent: Recent,
        snapshot: Snapshot,
        swept: Option<Tables>,
        spaces: Spaces,
        directory: PathBuf,
        share: Arc<()>,
    ) -> Self {
        Self(Arc::new(View {
            recent,
            snapshot,
            swept,
            spaces,
            directory,
            _share: share,
        }))
    }

    #[cfg(test)]
    pub(crate) fn is_swept(&self) -> bool {
        self.0.swept.is_some()
    }

    fn items(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        reverse: bool,
    ) -> Option<Items<'_>> {
        // The engine's own record is nobody else's.
        let from = match space {
            Space::State => from.max(BEHIND_FLUSHED_KEY),
            Space::Hist => from,
        };
        if to.is_some_and(|to| to <= from) {
            return None;
        }
        let view = &*self.0;
        let recent = view.recent.newest_first(space);
        let bounds = (
            Bound::Included(from),
            to.map_or(Bound::Unbounded, Bound::Excluded),
        );
        let swept = view.swept.as_ref();
        let stored = match swept.filter(|_| space == Space::State && !reverse) {
            Some(tables) => Stored::Swept(tables.sweep(from, to)),
            None => {
                let space = view.spaces.of(space);
                Stored::Scanned(view.snapshot.range::<&[u8], _>(space, bounds))
            }
        };
        Some(Items {
            recent: Layers::between(recent, from, to, reverse),
            next_recent: None,
            stored,
            next_stored: None,
            reverse,
            view,
        })
    }
}

/// A record out of either place.
enum Item<'a> {
    Recent(&'a [u8], &'a [u8]),
    Stored(Slice, Slice),
}

/// Both places in one order; what is recent hides what is stored.
struct Items<'a> {
    recent: Layers<'a>,
    next_recent: Option<Record<'a>>,
    stored: Stored,
    next_stored: Option<(Slice, Slice)>,
    reverse: bool,
    view: &'a View,
}

/// What the tables have.
enum Stored {
    Scanned(::fjall::Iter),
    Swept(Sweep),
}

impl<'a> Items<'a> {
    fn next(&mut self) -> Result<Option<Item<'a>>, EngineError> {
        loop {
            if self.next_recent.is_none() {
                self.next_recent = self.recent.next();
            }
            if self.next_stored.is_none() {
                self.next_stored = self.step_stored()?;
            }
            let order = match (&self.next_recent, &self.next_stored) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((recent, _)), Some((stored, _))) => {
                    let order = (*recent).cmp(&**stored);
                    if self.reverse { order.reverse() } else { order }
                }
            };
            if order == Ordering::Greater {
                return Ok(self
                    .next_stored
                    .take()
                    .map(|(key, value)| Item::Stored(key, value)));
            }
            if order == Ordering::Equal {
                self.next_stored = None;
            }
            if let Some((key, Some(value))) = self.next_recent.take() {
                return Ok(Some(Item::Recent(key, value)));
            }
        }
    }

    fn step_stored(&mut self) -> Result<Option<(Slice, Slice)>, EngineError> {
        let item = match &mut self.stored {
            Stored::Swept(sweep) => sweep.next().transpose().map_err(::fjall::Error::from),
            Stored::Scanned(scan) => {
                let next = if self.reverse {
                    scan.next_back()
                } else {
                    scan.next()
                };
                next.map(::fjall::Guard::into_inner).transpose()
            }
        };
        item.map_err(|e| broken("read", &self.view.directory, e))
    }
}

impl Iterator for Items<'_> {
    type Item = Result<(Bytes, Bytes), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = Items::next(self).transpose()?;
        Some(item.map(|item| match item {
            Item::Recent(key, value) => {
                (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
            }
            Item::Stored(key, value) => (shared(key), shared(value)),
        }))
    }
}

impl Reader for FjallView {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if check_key(space, key).is_err() || is_reserved(space, key) {
            return Ok(None);
        }
        let view = &*self.0;
        let mut recent = view.recent.newest_first(space);
        let sought = Sought::new(key);
        if let Some(value) = recent.find_map(|run| run.get(sought)) {
            return Ok(value.map(Bytes::copy_from_slice));
        }
        let found = view.snapshot.get(view.spaces.of(space), key);
        Ok(found
            .map_err(|e| broken("read", &view.directory, e))?
            .map(shared))
    }

    fn scan(&self, space: Space, from: &[u8], to: Option<&[u8]>, reverse: bool) -> Scan<'_> {
        match self.items(space, from, to, reverse) {
            Some(items) => Box::new(items),
            None => Box::new(std::iter::empty()),
        }
    }

    fn visit(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        reverse: bool,
        mut take: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        let Some(mut items) = self.items(space, from, to, reverse) else {
            return Ok(());
        };
        while let Some(item) = Items::next(&mut items)? {
            let taken = match &item {
                Item::Recent(key, value) => take(key, value),
                Item::Stored(key, value) => take(key, value),
            };
            if taken.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// A value as the tables have it, without copying it: usually a slice of a cached block.
pub(super) fn shared(slice: Slice) -> Bytes {
    Bytes::from_owner(slice)
}
