//! What a snapshot says of itself: header fields, and what its footer lists.

use std::io::Read;

use crate::error::{Damage, Error, Place};
use crate::{
    CRC_BYTES, FEATURES, HEADER_BODY_BYTES_MAX, HEADER_HEAD_BYTES, MAGIC, MAJOR, MINOR, check_crc,
    length,
};

/// Header fields. Zero or empty means "not said".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info {
    pub cluster_id: u64,
    /// The member that wrote it.
    pub member_id: u64,
    /// Applied raft index of the state.
    pub raft_index: u64,
    pub raft_term: u64,
    /// The store's revision.
    pub revision: i64,
    /// -1 if never compacted.
    pub compact_revision: i64,
    pub created_unix_ms: u64,
    /// Program and version; at most 256 bytes are kept.
    pub program: String,
    /// Version of the records inside.
    pub schema: u32,
    /// What was chosen of the state, in words; empty: all of it. At most 4096 bytes are kept.
    pub selection: String,
}

impl Info {
    /// The whole header.
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
            put_field(&mut body, tag, &value.to_le_bytes());
        }
        let program = self.program.as_bytes();
        put_field(&mut body, 8, &program[..program.len().min(256)]);
        if !self.selection.is_empty() {
            let selection = self.selection.as_bytes();
            put_field(&mut body, 10, &selection[..selection.len().min(4096)]);
        }
        let mut header = Vec::with_capacity(HEADER_HEAD_BYTES + body.len() + CRC_BYTES);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&MAJOR.to_le_bytes());
        header.extend_from_slice(&MINOR.to_le_bytes());
        header.extend_from_slice(&FEATURES.to_le_bytes());
        header.extend_from_slice(&length(body.len()).to_le_bytes());
        header.extend_from_slice(&body);
        let crc = crc32fast::hash(&header);
        header.extend_from_slice(&crc.to_le_bytes());
        header
    }

    fn decode(body: &[u8]) -> Result<Self, Error> {
        let wrong = |what| Error::damaged(Place::Header, Damage::Shape(what));
        let mut info = Info::default();
        for field in fields(body) {
            let (tag, value) =
                field.ok_or_else(|| wrong("a field runs over the end of the header"))?;
            let number = || {
                let bytes = value.try_into();
                let bytes = bytes.map_err(|_| wrong("a number that does not have 8 bytes"))?;
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
                10 => info.selection = String::from_utf8_lossy(value).into_owned(),
                9 => info.schema = u32::try_from(number()?).unwrap_or(u32::MAX),
                _ => {}
            }
        }
        Ok(info)
    }
}

/// Reads and checks a header. Returns its bytes as well: they are part of the digest.
pub(crate) fn read_header(source: &mut impl Read) -> Result<(Info, Vec<u8>), Error> {
    let mut header = vec![0; HEADER_HEAD_BYTES];
    fill(source, &mut header, Place::Header)?;
    if header[..8] != MAGIC {
        let found = header[..8].to_vec();
        return Err(Error::damaged(Place::Header, Damage::Magic { found }));
    }
    let major = u16::from_le_bytes([header[8], header[9]]);
    if major != MAJOR {
        return Err(Error::Version {
            found: major,
            supported: MAJOR,
        });
    }
    let number = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let (features, body_bytes) = (number(12), number(16));
    if body_bytes > HEADER_BODY_BYTES_MAX {
        let damage = Damage::Shape("it is longer than any header may be");
        return Err(Error::damaged(Place::Header, damage));
    }
    header.resize(HEADER_HEAD_BYTES + body_bytes as usize + CRC_BYTES, 0);
    fill(source, &mut header[HEADER_HEAD_BYTES..], Place::Header)?;
    check_crc(Place::Header, &header)?;
    if features & !FEATURES != 0 {
        return Err(Error::Features {
            found: features,
            supported: FEATURES,
        });
    }
    let info = Info::decode(&header[HEADER_HEAD_BYTES..header.len() - CRC_BYTES])?;
    Ok((info, header))
}

/// Fills `buffer`, or says at what place the source ended.
pub(crate) fn fill(source: &mut impl Read, buffer: &mut [u8], place: Place) -> Result<(), Error> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => {
                let (expected, found) = (buffer.len() as u64, filled as u64);
                return Err(Error::damaged(place, Damage::Short { expected, found }));
            }
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Values are shorter than 65 536 bytes.
pub(crate) fn put_field(out: &mut Vec<u8>, tag: u16, value: &[u8]) {
    let bytes = u16::try_from(value.len()).expect("fields are numbers, or cut to 4096 bytes");
    out.extend_from_slice(&tag.to_le_bytes());
    out.extend_from_slice(&bytes.to_le_bytes());
    out.extend_from_slice(value);
}

/// Tagged values to the end of `body`; `None` for the last if it runs over.
pub(crate) fn fields(mut body: &[u8]) -> impl Iterator<Item = Option<(u16, &[u8])>> {
    std::iter::from_fn(move || {
        if body.is_empty() {
            return None;
        }
        let field = take_field(&mut body);
        if field.is_none() {
            body = &[];
        }
        Some(field)
    })
}

fn take_field<'a>(body: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let (tag, rest) = body.split_first_chunk::<2>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    *body = rest;
    Some((u16::from_le_bytes(*tag), value))
}

/// A chunk as its head and the footer describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkInfo {
    pub sequence: u32,
    /// Of its first byte in the file.
    pub offset: u64,
    pub section: u8,
    /// 0 as it is, 1 zstd.
    pub codec: u8,
    pub records: u32,
    pub raw_bytes: u32,
    pub stored_bytes: u32,
    pub first_key: Vec<u8>,
    pub last_key: Vec<u8>,
}

impl ChunkInfo {
    pub fn place(&self) -> Place {
        let ChunkInfo {
            sequence, offset, ..
        } = *self;
        Place::Chunk { sequence, offset }
    }

    /// Bytes of its head, CRC included.
    pub(crate) fn head_bytes(&self) -> usize {
        crate::CHUNK_HEAD_BYTES + self.first_key.len() + self.last_key.len() + CRC_BYTES
    }

    /// Bytes in the file, head and CRCs included.
    pub fn total_bytes(&self) -> usize {
        self.head_bytes() + self.stored_bytes as usize + CRC_BYTES
    }

    /// Offset behind its last byte.
    pub(crate) fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.total_bytes() as u64)
    }
}

/// All chunks of one section together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SectionTotals {
    pub section: u8,
    pub records: u64,
    pub raw_bytes: u64,
    pub chunks: u32,
}

/// Adds a chunk to the totals; sections ascend.
pub(crate) fn count(sections: &mut Vec<SectionTotals>, chunk: &ChunkInfo) {
    if sections
        .last()
        .is_none_or(|last| last.section != chunk.section)
    {
        sections.push(SectionTotals {
            section: chunk.section,
            ..SectionTotals::default()
        });
    }
    if let Some(totals) = sections.last_mut() {
        totals.records += u64::from(chunk.records);
        totals.raw_bytes += u64::from(chunk.raw_bytes);
        totals.chunks += 1;
    }
}
