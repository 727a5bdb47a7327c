//! One change, as history keeps it.

use bytes::Bytes;

use super::head::{Head, Version, put_meta, take_meta};
use super::{VERSION_BITS, flags};
use crate::codec::{Cursor, put_count, put_varint};
use crate::engine::Space;
use crate::error::Error;
use crate::revision::Revision;

const HIST_TOMBSTONE: u8 = 1;
const HIST_LEASE: u8 = 2;
const HIST_PREVIOUS: u8 = 4;
const HIST_PREVIOUS_LIVE: u8 = 8;
const HIST_PREVIOUS_LEASE: u8 = 16;
const HIST_VALUE: u8 = 32;
const HIST_KNOWN: u8 = 63;

/// What a change made of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    Tombstone,
    Put {
        create_revision: i64,
        version: i64,
        lease: i64,
        /// `None` in an undo-only record.
        value: Option<Bytes>,
    },
}

/// One change, as history keeps it. The revision is its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undo {
    pub key: Bytes,
    /// See `hist_cost`.
    pub total: u64,
    pub made: Made,
    /// The key's change before this one, a delete included, if it was not compacted away.
    pub previous: Option<Revision>,
    /// What the key was, if it was alive. Comes with `previous`.
    pub previous_version: Option<Version>,
}

/// Borrowed parts of an [`Undo`], to encode one without building it.
pub(crate) struct UndoParts<'a> {
    pub revision: Revision,
    pub key: &'a [u8],
    pub total: u64,
    /// `None` for a delete.
    pub made: Option<&'a Version>,
    pub previous: Option<&'a Head>,
    pub with_value: bool,
}

impl UndoParts<'_> {
    #[cfg(test)]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out.into()
    }

    /// Appends the record.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let main = self.revision.main;
        let previous_live = self.previous.and_then(|head| head.live.as_ref());
        let previous_bytes = previous_live.map_or(0, |version| version.value.len());
        let value = self
            .made
            .filter(|_| self.with_value)
            .map(|version| &version.value);
        let value_bytes = value.map_or(0, Bytes::len);
        out.reserve(64 + self.key.len() + previous_bytes + value_bytes);

        let mut flags = match self.made {
            None => HIST_TOMBSTONE,
            Some(version) if version.lease != 0 => HIST_LEASE,
            Some(_) => 0,
        };
        flags |= if self.previous.is_some() {
            HIST_PREVIOUS
        } else {
            0
        };
        flags |= match previous_live {
            None => 0,
            Some(version) if version.lease != 0 => HIST_PREVIOUS_LIVE | HIST_PREVIOUS_LEASE,
            Some(_) => HIST_PREVIOUS_LIVE,
        };
        flags |= if value.is_some() { HIST_VALUE } else { 0 };
        out.push(VERSION_BITS);
        out.push(flags);

        put_varint(out, self.total);
        put_varint(out, self.key.len() as u64);
        out.extend_from_slice(self.key);
        if let Some(version) = self.made {
            put_meta(out, main, version);
        }
        if let Some(head) = self.previous {
            put_count(out, main - head.modified.main);
            put_varint(out, u64::from(head.modified.sub));
            if let Some(version) = &head.live {
                put_meta(out, head.modified.main, version);
                put_varint(out, version.value.len() as u64);
                out.extend_from_slice(&version.value);
            }
        }
        if let Some(value) = value {
            out.extend_from_slice(value);
        }
    }
}

impl Undo {
    /// Both shapes, with and without the new value. Slices share the buffer of `record`.
    pub fn decode(revision: Revision, record: &Bytes) -> Result<Self, Error> {
        Self::parse(revision, record).ok_or_else(|| {
            Error::record(
                Space::Hist,
                &revision.to_bytes(),
                "is no record of a change",
            )
        })
    }

    /// The key alone, for scans that look for one; `None` for a record `decode` refuses as well.
    pub(crate) fn key_of(record: &Bytes) -> Option<Bytes> {
        let mut cursor = Cursor::new(record);
        flags(cursor.byte()?, 0)?;
        cursor.byte()?;
        cursor.varint()?;
        Some(record.slice_ref(cursor.sized()?))
    }

    /// The record as a store that writes no new values into history has it. One that is no record stays as
    /// it is.
    pub(crate) fn without_value(revision: Revision, record: Bytes) -> Bytes {
        Self::shorter(revision, &record).unwrap_or(record)
    }

    /// The same for a record that has to be copied for it; `None` if it stays as it is.
    pub(crate) fn shorter(revision: Revision, record: &[u8]) -> Option<Bytes> {
        if record.get(1).is_none_or(|flags| flags & HIST_VALUE == 0) {
            return None;
        }
        let record = Bytes::copy_from_slice(record);
        let Some(Made::Put {
            value: Some(value), ..
        }) = Self::parse(revision, &record).map(|undo| undo.made)
        else {
            return None;
        };
        let mut shorter = record[..record.len() - value.len()].to_vec();
        shorter[1] &= !HIST_VALUE;
        Some(shorter.into())
    }

    fn parse(revision: Revision, record: &Bytes) -> Option<Self> {
        let mut cursor = Cursor::new(record);
        flags(cursor.byte()?, 0)?;
        let flags = cursor.byte()?;
        if flags & !HIST_KNOWN != 0 {
            return None;
        }
        let total = cursor.varint()?;
        let key = record.slice_ref(cursor.sized()?);
        let meta = if flags & HIST_TOMBSTONE == 0 {
            let (create_revision, version) = take_meta(&mut cursor, revision.main)?;
            let lease = if flags & HIST_LEASE != 0 {
                cursor.i64()?
            } else {
                0
            };
            Some((create_revision, version, lease))
        } else {
            None
        };
        let mut previous = None;
        let mut previous_version = None;
        if flags & HIST_PREVIOUS != 0 {
            let main = revision
                .main
                .checked_sub(cursor.count()?)
                .filter(|main| *main >= 0)?;
            let sub = u32::try_from(cursor.varint()?).ok()?;
            let place = Revision { main, sub };
            // A chain that does not go down would never end.
            if place >= revision {
                return None;
            }
            previous = Some(place);
            if flags & HIST_PREVIOUS_LIVE != 0 {
                let (create_revision, version) = take_meta(&mut cursor, main)?;
                let lease = if flags & HIST_PREVIOUS_LEASE != 0 {
                    cursor.i64()?
                } else {
                    0
                };
                let value = record.slice_ref(cursor.sized()?);
                previous_version = Some(Version {
                    create_revision,
                    version,
                    lease,
                    value,
                });
            }
        }
        let value = (flags & HIST_VALUE != 0).then(|| record.slice_ref(cursor.rest()));
        cursor.end()?;
        let made = match meta {
            None => Made::Tombstone,
            Some((create_revision, version, lease)) => Made::Put {
                create_revision,
                version,
                lease,
                value,
            },
        };
        Some(Self {
            key,
            total,
            made,
            previous,
            previous_version,
        })
    }
}

/// Bytes of history a change counts for, whatever record shape a member writes: the same number on
/// every member.
pub(crate) fn hist_cost(key: &[u8], previous: Option<&Head>) -> u64 {
    const RECORD: usize = 48;
    let value = previous
        .and_then(|head| head.live.as_ref())
        .map_or(0, |live| live.value.len());
    (RECORD + key.len() + value) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::head::tests::{heads, version};

    #[test]
    fn both_shapes_of_history_come_back() {
        let revision = Revision::new(70_001, 0);
        let previous = heads();
        for with_value in [false, true] {
            for made in [None, Some(version(0, b"new")), Some(version(5, b""))] {
                for previous in std::iter::once(None).chain(previous.iter().map(Some)) {
                    let key = b"key".as_slice();
                    let made = made.as_ref();
                    let parts = UndoParts {
                        revision,
                        key,
                        total: 1 << 40,
                        made,
                        previous,
                        with_value,
                    };
                    let undo = Undo::decode(revision, &parts.encode()).unwrap();
                    assert_eq!(undo.key, key);
                    assert_eq!(undo.total, 1 << 40);
                    assert_eq!(undo.previous, previous.map(|head| head.modified));
                    assert_eq!(
                        undo.previous_version,
                        previous.and_then(|head| head.live.clone())
                    );
                    let expected = match made {
                        None => Made::Tombstone,
                        Some(version) => Made::Put {
                            create_revision: version.create_revision,
                            version: version.version,
                            lease: version.lease,
                            value: with_value.then(|| version.value.clone()),
                        },
                    };
                    assert_eq!(undo.made, expected);
                }
            }
        }
    }

    #[test]
    fn every_cut_of_a_record_is_an_error_and_no_panic() {
        let revision = Revision::new(70_001, 0);
        let previous = &heads()[3];
        let parts = UndoParts {
            revision,
            key: b"key",
            total: 9,
            made: Some(&version(7, b"new")),
            previous: Some(previous),
            with_value: false,
        };
        let record = parts.encode();
        for length in 0..record.len() {
            assert!(
                Undo::decode(revision, &record.slice(..length)).is_err(),
                "{length}"
            );
        }
        let mut longer = record.to_vec();
        longer.push(0);
        assert!(Undo::decode(revision, &longer.into()).is_err());
    }

    #[test]
    fn a_chain_that_does_not_go_down_is_refused() {
        let parts = UndoParts {
            revision: Revision::new(70_001, 0),
            key: b"key",
            total: 9,
            made: None,
            previous: Some(&heads()[0]),
            with_value: false,
        };
        let record = parts.encode();
        assert!(Undo::decode(Revision::new(70_001, 0), &record).is_ok());
        // The stored distance is 1; read under a sub revision that is not after its previous.
        let zero = UndoParts {
            revision: Revision::new(70_000, 9),
            ..parts
        };
        assert!(Undo::decode(Revision::new(70_000, 2), &zero.encode()).is_err());
    }
}
