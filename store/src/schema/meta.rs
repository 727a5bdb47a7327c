//! The record of the store as a whole.

use bytes::Bytes;

use super::{META_KEY, SCHEMA_VERSION, VERSION_BITS, flags};
use crate::codec::Cursor;
use crate::engine::Space;
use crate::error::Error;
use crate::revision::{FIRST_REVISION, NEVER_COMPACTED};

/// The numbers of the whole store, written with every batch. Each is stored as 8 bytes, in this
/// order, after the version byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Index of the last log entry whose effects are in the store.
    pub applied_index: u64,
    /// Its term.
    pub applied_term: u64,
    /// Main revision of the last write.
    pub revision: i64,
    /// Oldest readable revision, [`NEVER_COMPACTED`] if there is no limit.
    pub compact_revision: i64,
    /// Compact revision up to which tombstones and history were physically removed on this member.
    pub compacted_physically: i64,
    /// Bytes of live keys and leases, as `head_cost` counts.
    pub live_bytes: u64,
    /// Live keys.
    pub key_count: u64,
    /// Bytes of all history ever written, as `hist_cost` counts.
    pub hist_total: u64,
    /// The part of `hist_total` up to the compact revision: what its changes replaced cannot be read.
    pub hist_compacted: u64,
}

impl Default for Meta {
    /// A store nothing was ever written to.
    fn default() -> Self {
        Self {
            applied_index: 0,
            applied_term: 0,
            revision: FIRST_REVISION,
            compact_revision: NEVER_COMPACTED,
            compacted_physically: NEVER_COMPACTED,
            live_bytes: 0,
            key_count: 0,
            hist_total: 0,
            hist_compacted: 0,
        }
    }
}

impl Meta {
    pub const BYTES: usize = 1 + 9 * 8;

    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(Self::BYTES);
        out.push(VERSION_BITS);
        for number in [
            self.applied_index,
            self.applied_term,
            self.revision.cast_unsigned(),
            self.compact_revision.cast_unsigned(),
            self.compacted_physically.cast_unsigned(),
            self.live_bytes,
            self.key_count,
            self.hist_total,
            self.hist_compacted,
        ] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.into()
    }

    pub fn decode(record: &Bytes) -> Result<Self, Error> {
        let found = record.first().map_or(0, |byte| byte >> 4);
        if found != SCHEMA_VERSION {
            return Err(Error::Schema {
                found,
                expected: SCHEMA_VERSION,
            });
        }
        Self::parse(record).ok_or_else(|| {
            Error::record(
                Space::State,
                &META_KEY,
                "is no meta record, or its numbers do not agree",
            )
        })
    }

    fn parse(record: &Bytes) -> Option<Self> {
        let mut cursor = Cursor::new(record);
        flags(cursor.byte()?, 0)?;
        let meta = Self {
            applied_index: cursor.u64()?,
            applied_term: cursor.u64()?,
            revision: cursor.i64()?,
            compact_revision: cursor.i64()?,
            compacted_physically: cursor.i64()?,
            live_bytes: cursor.u64()?,
            key_count: cursor.u64()?,
            hist_total: cursor.u64()?,
            hist_compacted: cursor.u64()?,
        };
        cursor.end()?;
        let agree = meta.revision >= FIRST_REVISION
            && meta.compact_revision <= meta.revision
            && meta.compacted_physically <= meta.compact_revision
            && meta.hist_compacted <= meta.hist_total;
        agree.then_some(meta)
    }

    /// What the quota is held against: the present and the history that is still readable.
    pub fn used_bytes(&self) -> u64 {
        self.live_bytes + (self.hist_total - self.hist_compacted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_comes_back_and_numbers_that_disagree_are_refused() {
        let meta = Meta {
            applied_index: u64::MAX,
            applied_term: 4,
            revision: 900,
            compact_revision: 800,
            compacted_physically: -1,
            live_bytes: 5,
            key_count: 1,
            hist_total: 70,
            hist_compacted: 60,
        };
        assert_eq!(Meta::decode(&meta.encode()).unwrap(), meta);
        assert_eq!(meta.used_bytes(), 15);
        assert_eq!(meta.encode().len(), Meta::BYTES);
        assert_eq!(
            Meta::decode(&Meta::default().encode()).unwrap(),
            Meta::default()
        );
        let wrong = Meta {
            compact_revision: 901,
            ..meta
        };
        assert!(matches!(
            Meta::decode(&wrong.encode()),
            Err(Error::Record { .. })
        ));
        let mut newer = meta.encode().to_vec();
        newer[0] = 2 << 4;
        assert!(matches!(
            Meta::decode(&newer.into()),
            Err(Error::Schema { found: 2, .. })
        ));
    }
}
