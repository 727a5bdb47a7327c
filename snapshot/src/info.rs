//! What a snapshot says of itself: header fields, and the index entries of its footer.

use crate::error::{Damage, Error, Place};

/// Header fields. Zero or empty means "not said".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info {
    /// Tag 1.
    pub cluster_id: u64,
    /// Tag 2: the member that wrote it.
    pub member_id: u64,
    /// Tag 3: applied raft index of the state.
    pub raft_index: u64,
    /// Tag 4.
    pub raft_term: u64,
    /// Tag 5: the store's revision.
    pub revision: i64,
    /// Tag 6: -1 if never compacted.
    pub compact_revision: i64,
    /// Tag 7: unix milliseconds.
    pub created_unix_ms: u64,
    /// Tag 8: program and version.
    pub program: String,
    /// Tag 9: version of the records inside.
    pub schema: u32,
}

impl Info {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (tag, value) in [
            (1, self.cluster_id),
            (2, self.member_id),
            (3, self.raft_index),
            (4, self.raft_term),
            (5, self.revision.cast_unsigned()),
            (6, self.compact_revision.cast_unsigned()),
            (7, self.created_unix_ms),
            (9, u64::from(self.schema)),
        ] {
            put(&mut body, tag, &value.to_le_bytes());
        }
        let program = self.program.as_bytes();
        put(&mut body, 8, &program[..program.len().min(256)]);
        body
    }

    pub(crate) fn decode(mut body: &[u8]) -> Result<Self, Error> {
        let mut info = Info::default();
        while !body.is_empty() {
            let (tag, value) = take(&mut body).ok_or_else(|| {
                Error::damaged(
                    Place::Header,
                    Damage::Shape("a field runs over the end of the header"),
                )
            })?;
            let number = || {
                let bytes = value.try_into().map_err(|_| {
                    Error::damaged(
                        Place::Header,
                        Damage::Shape("a number that does not have 8 bytes"),
                    )
                })?;
                Ok::<u64, Error>(u64::from_le_bytes(bytes))
            };
            match tag {
                1 => info.cluster_id = number()?,
                2 => info.member_id = number()?,
                3 => info.raft_index = number()?,
                4 => info.raft_term = number()?,
                5 => info.revision = number()?.cast_signed(),
                6 => info.compact_revision = number()?.cast_signed(),
                7 => info.created_unix_ms = number()?,
                8 => info.program = String::from_utf8_lossy(value).into_owned(),
                9 => info.schema = u32::try_from(number()?).unwrap_or(u32::MAX),
                _ => {}
            }
        }
        Ok(info)
    }
}

fn put(body: &mut Vec<u8>, tag: u16, value: &[u8]) {
    body.extend_from_slice(&tag.to_le_bytes());
    body.extend_from_slice(
        &u16::try_from(value.len())
            .expect("fields are cut to 256 bytes")
            .to_le_bytes(),
    );
    body.extend_from_slice(value);
}

fn take<'a>(body: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let (tag, rest) = body.split_first_chunk::<2>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    *body = rest;
    Some((u16::from_le_bytes(*tag), value))
}

/// A chunk as the footer lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkInfo {
    pub sequence: u32,
    /// In the file.
    pub offset: u64,
    pub section: u8,
    pub records: u32,
    pub raw_bytes: u32,
    pub stored_bytes: u32,
    pub first_key: Vec<u8>,
}

/// All chunks of one section together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SectionTotals {
    pub section: u8,
    pub records: u64,
    pub raw_bytes: u64,
    pub chunks: u32,
}
