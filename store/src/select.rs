//! A part of a state as the records of a state of its own: the keys under a prefix, or the keys as they were at a revision,
//! without their past.
//!
//! The result is a store compacted to its revision, without any history. As of an older revision nobody knows which leases there
//! were: keys come without any, and no lease comes along.

use bytes::Bytes;
use kvnode_api::{KeyRange, Status};

use crate::audit::Audit;
use crate::chain;
use crate::engine::{Reader, Space};
use crate::error::{Error, Failure};
use crate::export::Record;
use crate::revision::Revision;
use crate::schema::{
    Head, META_KEY, Meta, PackedHead, TAG_ATTACHMENT, TAG_HEAD, TAG_LEASE, TAG_TOMBSTONE, Version,
    after_prefix,
};
use crate::view::View;

/// What to take of a view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Keys that start so.
    pub prefix: Bytes,
    /// As of this revision; 0: as of the view's.
    pub revision: i64,
}

/// A selection, counted: [`Selected::each`] hands its records out.
pub struct Selected<'a, V> {
    view: &'a View<V>,
    range: KeyRange,
    prefix: Bytes,
    revision: i64,
    audit: Audit,
    meta: Meta,
}

impl<V: Reader> View<V> {
    /// Counts what a selection holds, in one pass.
    ///
    /// # Errors
    /// As [`View::range`]: a revision that is compacted or not there yet; what cannot be read.
    pub fn select(&self, selection: &Selection) -> Result<Selected<'_, V>, Status> {
        let revision = match selection.revision {
            0 => self.revision(),
            revision => {
                self.source().moment(revision)?;
                revision
            }
        };
        let prefix = selection.prefix.clone();
        let range = match after_prefix(&prefix) {
            Some(end) => KeyRange::Interval {
                start: prefix.clone(),
                end: end.into(),
            },
            None => KeyRange::From(prefix.clone()),
        };
        let mut selected = Selected {
            view: self,
            range,
            prefix,
            revision,
            audit: Audit::new(revision, revision),
            meta: *self.meta(),
        };
        let mut audit = Audit::new(revision, revision);
        let counted = selected.pass(None, |record| {
            audit.add(&record);
            Ok::<(), Error>(())
        });
        counted.map_err(|error| Failure::Fatal(error).into_status())?;
        selected.meta = Meta {
            revision,
            compact_revision: revision,
            compacted_physically: revision,
            live_bytes: audit.live_bytes(),
            key_count: audit.seen().keys,
            hist_total: 0,
            hist_compacted: 0,
            ..selected.meta
        };
        selected.audit = audit;
        Ok(selected)
    }
}

impl<V: Reader> Selected<'_, V> {
    /// The numbers of the store that the selection is.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    pub fn keys(&self) -> u64 {
        self.audit.seen().keys
    }

    /// About how many bytes of records there are.
    pub fn bytes(&self) -> u64 {
        let state = self.audit.totals().of(Space::State);
        state.key_bytes + state.value_bytes
    }

    /// Hands the records out as an export does.
    ///
    /// # Errors
    /// What `take` answers, and what cannot be read.
    pub fn each<E: From<Error>>(&self, take: impl FnMut(Record) -> Result<(), E>) -> Result<(), E> {
        self.pass(Some(&self.meta), take)
    }

    fn pass<E: From<Error>>(
        &self,
        meta: Option<&Meta>,
        mut take: impl FnMut(Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let reader = self.view.reader();
        let is_newest = self.revision == self.view.revision();
        let state = |key: Bytes, value: Bytes| Record {
            space: Space::State,
            key,
            value,
        };
        let failed = |error| E::from(Error::Engine(error));
        for tag in 0..TAG_HEAD {
            if matches!(tag, TAG_ATTACHMENT | TAG_LEASE) && !is_newest || tag == TAG_TOMBSTONE {
                continue;
            }
            for item in reader.scan(Space::State, &[tag], Some(&[tag + 1]), false) {
                let (key, value) = item.map_err(failed)?;
                if key[..] == META_KEY {
                    if let Some(meta) = meta {
                        take(state(key, meta.encode()))?;
                    }
                    continue;
                }
                let user_key = key.get(9..).unwrap_or_default();
                if tag != TAG_ATTACHMENT || user_key.starts_with(&self.prefix) {
                    take(state(key, value))?;
                }
            }
        }
        for item in self.view.source().heads(&self.range, false) {
            let (key, head) = item?;
            let Some((modified, mut version)) = self.as_of(&key, head)? else {
                continue;
            };
            if !is_newest {
                version.lease = 0;
            }
            let packed = PackedHead::new(&key, modified, Some(&version));
            take(state(packed.key(), packed.record()))?;
        }
        for item in reader.scan(Space::State, &[TAG_HEAD + 1], None, false) {
            let (key, value) = item.map_err(failed)?;
            take(state(key, value))?;
        }
        Ok(())
    }

    /// The key at the selection's revision, if it was alive.
    fn as_of(&self, key: &Bytes, head: Head) -> Result<Option<(Revision, Version)>, Error> {
        if head.modified.main <= self.revision {
            return Ok(head.live.map(|version| (head.modified, version)));
        }
        let reader = self.view.reader();
        let undo = chain::first_change_after(reader, key, head.modified, self.revision)?;
        Ok(undo.previous.zip(undo.previous_version))
    }
}
