//! Reading keys: a view of the engine, with what an unfinished batch has already changed on top.
//!
//! Readers use it without an overlay; apply uses it with one, so that an entry sees the effects of
//! the entries before it in the same batch. The past is read from the engine alone: apply commits
//! what it has before it reads a revision the view does not cover yet.

use std::collections::{BTreeMap, btree_map};
use std::iter::Peekable;

use bytes::Bytes;
use kvnode_api::{KeyRange, Status};

use crate::chain;
use crate::engine::{Reader, Scan, Space};
use crate::error::{Error, Failure};
use crate::heads::HeadCache;
use crate::schema::{Head, PackedHead, Version, head_bounds, head_key, head_user_key};

/// Heads that a batch has changed and not yet committed.
pub(crate) type Overlay = BTreeMap<Bytes, Changed>;

/// A changed head, as it is and as it will be stored.
pub(crate) struct Changed {
    pub head: Head,
    pub packed: PackedHead,
}

/// The moment a read is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// As it stands, the overlay included.
    Newest,
    /// After everything with this main revision, which is not above the view's.
    At(i64),
}

pub(crate) struct Source<'a, V> {
    pub reader: &'a V,
    pub overlay: Option<&'a Overlay>,
    /// Heads that need not be read; only with an overlay, see `heads.rs`.
    pub known: Option<&'a HeadCache>,
    /// What counts as the current revision.
    pub revision: i64,
    pub compact_revision: i64,
}

// Derived ones would ask `V` to be `Copy`.
impl<V> Clone for Source<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Source<'_, V> {}

/// A key alive at some moment.
pub(crate) struct Found {
    pub key: Bytes,
    /// Main revision of its last put as of that moment.
    pub modified: i64,
    pub version: Version,
}

impl<'a, V: Reader> Source<'a, V> {
    /// The moment a request's revision means: 0 or less is now.
    pub fn moment(&self, revision: i64) -> Result<Moment, Status> {
        if revision <= 0 {
            Ok(Moment::Newest)
        } else if revision > self.revision {
            Err(Status::future_revision())
        } else if revision < self.compact_revision {
            Err(Status::compacted())
        } else if revision == self.revision && self.overlay.is_none() {
            Ok(Moment::Newest)
        } else {
            Ok(Moment::At(revision))
        }
    }

    /// Newest state of `key`, tombstones included.
    pub fn head(&self, key: &[u8]) -> Result<Option<Head>, Error> {
        if let Some(changed) = self.overlay.and_then(|overlay| overlay.get(key)) {
            return Ok(Some(changed.head.clone()));
        }
        if let Some(heads) = self.known
            && let Some(head) = heads.get(key)?
        {
            return Ok(Some(head));
        }
        match self.reader.get(Space::State, &head_key(key))? {
            Some(record) => Ok(Some(Head::decode(key, &record)?)),
            None => Ok(None),
        }
    }

    /// `key`, if it is alive at `moment`.
    pub fn find(&self, key: &Bytes, moment: Moment) -> Result<Option<Found>, Error> {
        let source = self.without_overlay_for(moment);
        match source.head(key)? {
            Some(head) => source.visible(key.clone(), head, moment),
            None => Ok(None),
        }
    }

    /// The keys of `range` alive at `moment`, in key order or in reverse.
    pub fn iter(
        &self,
        range: &'a KeyRange,
        moment: Moment,
        reverse: bool,
    ) -> impl Iterator<Item = Result<Found, Error>> + use<'a, V> {
        let source = self.without_overlay_for(moment);
        source.heads(range, reverse).filter_map(move |item| {
            item.and_then(|(key, head)| source.visible(key, head, moment))
                .transpose()
        })
    }

    /// Heads of `range`, tombstones included.
    pub fn heads(&self, range: &'a KeyRange, reverse: bool) -> Heads<'a> {
        let (from, to) = head_bounds(range);
        Heads {
            stored: self
                .reader
                .scan(Space::State, &from, Some(&to), reverse)
                .peekable(),
            overlay: self.overlay.map(|overlay| {
                let inner = overlay.range::<[u8], _>(range.bounds());
                Directed { inner, reverse }.peekable()
            }),
            reverse,
        }
    }

    fn without_overlay_for(&self, moment: Moment) -> Self {
        match moment {
            Moment::Newest => *self,
            Moment::At(_) => Source {
                overlay: None,
                known: None,
                ..*self
            },
        }
    }

    fn visible(&self, key: Bytes, head: Head, moment: Moment) -> Result<Option<Found>, Error> {
        match moment {
            Moment::At(at) if head.modified.main > at => {
                let undo = chain::first_change_after(self.reader, &key, head.modified, at)?;
                let found = undo.previous.zip(undo.previous_version);
                Ok(found.map(|(place, version)| Found {
                    key,
                    modified: place.main,
                    version,
                }))
            }
            _ => {
                let modified = head.modified.main;
                Ok(head.live.map(|version| Found {
                    key,
                    modified,
                    version,
                }))
            }
        }
    }
}

impl From<Found> for kvnode_api::KeyValue {
    fn from(found: Found) -> Self {
        kvnode_api::KeyValue {
            key: found.key,
            create_revision: found.version.create_revision,
            mod_revision: found.modified,
            version: found.version.version,
            value: found.version.value,
            lease: found.version.lease,
        }
    }
}

/// Stored heads and changed ones merged; the changed one wins.
pub(crate) struct Heads<'a> {
    stored: Peekable<Scan<'a>>,
    overlay: Option<Peekable<Directed<'a>>>,
    reverse: bool,
}

impl Iterator for Heads<'_> {
    type Item = Result<(Bytes, Head), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(changed) = self.overlay.as_mut() else {
            return self.stored.next().map(decode);
        };
        let order = match (self.stored.peek(), changed.peek()) {
            (_, None) => return self.stored.next().map(decode),
            (None, Some(_)) => std::cmp::Ordering::Greater,
            // An error comes out at once.
            (Some(Err(_)), _) => std::cmp::Ordering::Less,
            (Some(Ok((stored, _))), Some((changed, _))) => {
                let order = stored.get(1..).unwrap_or_default().cmp(changed);
                if self.reverse { order.reverse() } else { order }
            }
        };
        if order.is_lt() {
            return self.stored.next().map(decode);
        }
        if order.is_eq() {
            self.stored.next();
        }
        changed
            .next()
            .map(|(key, changed)| Ok((key.clone(), changed.head.clone())))
    }
}

fn decode(
    item: Result<(Bytes, Bytes), crate::engine::EngineError>,
) -> Result<(Bytes, Head), Error> {
    let (key, record) = item?;
    let key = head_user_key(&key);
    let head = Head::decode(&key, &record)?;
    Ok((key, head))
}

struct Directed<'a> {
    inner: btree_map::Range<'a, Bytes, Changed>,
    reverse: bool,
}

impl<'a> Iterator for Directed<'a> {
    type Item = (&'a Bytes, &'a Changed);

    fn next(&mut self) -> Option<Self::Item> {
        if self.reverse {
            self.inner.next_back()
        } else {
            self.inner.next()
        }
    }
}

/// Counts the keys alive in an interval without reading them, where somebody can: `None` if not.
pub(crate) type Counter<'a> = &'a dyn Fn(&KeyRange, Moment) -> Result<Option<u64>, Failure>;

/// The counter of those who have none.
pub(crate) fn no_counter(_: &KeyRange, _: Moment) -> Result<Option<u64>, Failure> {
    Ok(None)
}
