//! The newest state of a key, as stored under its tag.

use bytes::Bytes;
use kvnode_api::KeyValue;

use super::{TAG_HEAD, VERSION_BITS, flags, head_key};
use crate::codec::{Cursor, put_count, put_varint};
use crate::engine::Space;
use crate::error::Error;
use crate::revision::Revision;

const HEAD_TOMBSTONE: u8 = 1;
const HEAD_LEASE: u8 = 2;

/// What a head takes beside key and value: tag, flags, revision, creation, version and lease, all at their longest
/// but for numbers nobody reaches.
const RECORD_BYTES_MAX: usize = 40;

/// One life sign of a key: what a put made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Main revision of the put that brought the key to life.
    pub create_revision: i64,
    /// Puts since then, this one included.
    pub version: i64,
    /// Lease it hangs on, 0 for none.
    pub lease: i64,
    pub value: Bytes,
}

impl Version {
    /// The pair a client sees; `modified` is the main revision of this version's put.
    pub fn key_value(&self, key: Bytes, modified: i64) -> KeyValue {
        KeyValue {
            key,
            create_revision: self.create_revision,
            mod_revision: modified,
            version: self.version,
            value: self.value.clone(),
            lease: self.lease,
        }
    }
}

/// The newest state of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The change that made it.
    pub modified: Revision,
    /// `None`: deleted, and not yet compacted away.
    pub live: Option<Version>,
}

/// A head as the engine gets it, in one buffer of its own: the key it lies under, then its record.
///
/// Everything made of it shares the buffer, and nothing keeps the request alive that it came in.
#[derive(Clone, Debug)]
pub(crate) struct PackedHead {
    buffer: Bytes,
    /// Of the user key.
    key_bytes: usize,
}

impl PackedHead {
    /// `live` is `None` for a tombstone.
    pub fn new(key: &[u8], modified: Revision, live: Option<&Version>) -> Self {
        let value = live.map(|version| &version.value[..]).unwrap_or_default();
        let mut out = Vec::with_capacity(RECORD_BYTES_MAX + key.len() + value.len());
        out.push(TAG_HEAD);
        out.extend_from_slice(key);
        let flags = match live {
            None => HEAD_TOMBSTONE,
            Some(version) if version.lease != 0 => HEAD_LEASE,
            Some(_) => 0,
        };
        out.push(VERSION_BITS | flags);
        put_count(&mut out, modified.main);
        put_varint(&mut out, u64::from(modified.sub));
        if let Some(version) = live {
            put_meta(&mut out, modified.main, version);
            out.extend_from_slice(value);
        }
        PackedHead {
            buffer: out.into(),
            key_bytes: key.len(),
        }
    }

    /// From what the engine has under `key`, tag included.
    pub fn stored(key: &[u8], record: &[u8]) -> Self {
        PackedHead {
            buffer: [key, record].concat().into(),
            key_bytes: key.len().saturating_sub(1),
        }
    }

    /// Looks at its first `bytes`, one in each line of memory. The sum means nothing.
    pub fn touch(&self, bytes: usize) -> u8 {
        let lines = self.buffer[..self.buffer.len().min(bytes)].chunks(64);
        lines.fold(0, |sum, line| sum ^ line[0])
    }

    /// What the engine calls it: the tag, then the user key.
    pub fn key(&self) -> Bytes {
        self.buffer.slice(..1 + self.key_bytes)
    }

    pub fn record(&self) -> Bytes {
        self.buffer.slice(1 + self.key_bytes..)
    }

    pub fn user_key(&self) -> &[u8] {
        &self.buffer[1..1 + self.key_bytes]
    }

    pub fn shared_user_key(&self) -> Bytes {
        self.buffer.slice(1..1 + self.key_bytes)
    }

    /// The last `bytes` of the record: the value, for whoever knows its length.
    pub fn shared_value(&self, bytes: usize) -> Bytes {
        self.buffer.slice(self.buffer.len() - bytes..)
    }

    pub fn head(&self) -> Result<Head, Error> {
        Head::decode(self.user_key(), &self.record())
    }

    /// Memory the buffer takes.
    pub fn bytes(&self) -> usize {
        RECORD_BYTES_MAX + self.buffer.len()
    }
}

impl Head {
    /// `key` is the user key, for the error only. The value shares the buffer of `record`.
    pub fn decode(key: &[u8], record: &Bytes) -> Result<Self, Error> {
        let HeadRef { modified, live } = HeadRef::decode(key, record)?;
        let live = live.map(|version| Version {
            create_revision: version.create_revision,
            version: version.version,
            lease: version.lease,
            value: record.slice_ref(version.value),
        });
        Ok(Self { modified, live })
    }
}

/// A [`Head`] inside its record.
pub(crate) struct HeadRef<'a> {
    pub modified: Revision,
    pub live: Option<VersionRef<'a>>,
}

/// A [`Version`] inside its record.
pub(crate) struct VersionRef<'a> {
    pub create_revision: i64,
    pub version: i64,
    pub lease: i64,
    pub value: &'a [u8],
}

impl<'a> HeadRef<'a> {
    /// `key` is the user key, for the error only.
    pub fn decode(key: &[u8], record: &'a [u8]) -> Result<Self, Error> {
        Self::parse(record)
            .ok_or_else(|| Error::record(Space::State, &head_key(key), "is no head of a key"))
    }

    fn parse(record: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor::new(record);
        let flags = flags(cursor.byte()?, HEAD_TOMBSTONE | HEAD_LEASE)?;
        let modified = take_revision(&mut cursor)?;
        if flags & HEAD_TOMBSTONE != 0 {
            cursor.end()?;
            return Some(Self {
                modified,
                live: None,
            });
        }
        let (create_revision, version) = take_meta(&mut cursor, modified.main)?;
        let lease = if flags & HEAD_LEASE != 0 {
            cursor.i64()?
        } else {
            0
        };
        let value = cursor.rest();
        Some(Self {
            modified,
            live: Some(VersionRef {
                create_revision,
                version,
                lease,
                value,
            }),
        })
    }
}

/// Bytes of the present a live key counts for.
pub(crate) fn head_cost(key: &[u8], value: &[u8]) -> u64 {
    const RECORD: usize = 48;
    (RECORD + key.len() + value.len()) as u64
}

/// What heads and history records say alike about a put.
pub(super) fn put_meta(out: &mut Vec<u8>, modified: i64, version: &Version) {
    put_count(out, modified - version.create_revision);
    put_count(out, version.version);
    if version.lease != 0 {
        out.extend_from_slice(&version.lease.to_be_bytes());
    }
}

pub(super) fn take_meta(cursor: &mut Cursor<'_>, modified: i64) -> Option<(i64, i64)> {
    let create = modified
        .checked_sub(cursor.count()?)
        .filter(|create| *create >= 0)?;
    Some((create, cursor.count()?))
}

fn take_revision(cursor: &mut Cursor<'_>) -> Option<Revision> {
    let main = cursor.count()?;
    Some(Revision {
        main,
        sub: u32::try_from(cursor.varint()?).ok()?,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::schema) fn version(lease: i64, value: &'static [u8]) -> Version {
        Version {
            create_revision: 3,
            version: 200,
            lease,
            value: Bytes::from_static(value),
        }
    }

    pub(in crate::schema) fn heads() -> Vec<Head> {
        let modified = Revision::new(70_000, 3);
        vec![
            Head {
                modified,
                live: None,
            },
            Head {
                modified,
                live: Some(version(0, b"")),
            },
            Head {
                modified,
                live: Some(version(-1, b"value")),
            },
            Head {
                modified,
                live: Some(version(i64::MAX, b"value")),
            },
        ]
    }

    #[test]
    fn heads_come_back() {
        for head in heads() {
            let packed = PackedHead::new(b"key", head.modified, head.live.as_ref());
            assert_eq!(packed.head().unwrap(), head);
            assert_eq!(packed.key(), head_key(b"key"));
            assert_eq!(packed.shared_user_key(), "key");
            let value = head.live.map(|live| live.value).unwrap_or_default();
            assert_eq!(packed.shared_value(value.len()), value);
        }
    }

    #[test]
    fn every_cut_of_a_record_is_an_error_and_no_panic() {
        let head = heads().remove(2);
        let head = PackedHead::new(b"key", head.modified, head.live.as_ref()).record();
        // The value runs to the end of the record, so only cuts before it can be told.
        for length in 0..head.len() - b"value".len() {
            assert!(
                Head::decode(b"key", &head.slice(..length)).is_err(),
                "{length}"
            );
        }
    }
}
