//! Footer, padding, trailer: the end of the file, which lists what came before it.

use crate::chunk::put_keys;
use crate::error::{Damage, Error, Place};
use crate::info::{ChunkInfo, SectionTotals, count, fields, put_field};
use crate::{ALIGN, CRC_BYTES, FOOTER_MAGIC, TRAILER_BYTES, TRAILER_MAGIC, check_crc, length};

/// Bytes of an entry without its keys.
const ENTRY_BYTES: usize = 8 + 1 + 1 + 3 * 4 + 2 * 2;
const FIELD_LOGICAL_HASH: u16 = 1;

/// What the footer says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Footer {
    pub chunks: Vec<ChunkInfo>,
    pub sections: Vec<SectionTotals>,
    /// 0: not said.
    pub logical_hash: u128,
}

impl Footer {
    /// Footer, padding and trailer, for a file in which the footer starts at `offset`.
    pub fn encode(&self, offset: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.chunks.len() * (ENTRY_BYTES + 64));
        out.extend_from_slice(&FOOTER_MAGIC);
        out.extend_from_slice(&length(self.chunks.len()).to_le_bytes());
        for chunk in &self.chunks {
            out.extend_from_slice(&chunk.offset.to_le_bytes());
            out.extend_from_slice(&[chunk.section, chunk.codec]);
            for number in [chunk.records, chunk.raw_bytes, chunk.stored_bytes] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            put_keys(&mut out, chunk);
        }
        out.push(u8::try_from(self.sections.len()).expect("section ids are bytes and ascend"));
        for section in &self.sections {
            out.push(section.section);
            out.extend_from_slice(&section.records.to_le_bytes());
            out.extend_from_slice(&section.raw_bytes.to_le_bytes());
            out.extend_from_slice(&section.chunks.to_le_bytes());
        }
        put_field(
            &mut out,
            FIELD_LOGICAL_HASH,
            &self.logical_hash.to_le_bytes(),
        );
        put_crc(&mut out, 0);
        let footer_bytes = out.len();
        let end = offset + (footer_bytes + TRAILER_BYTES) as u64;
        let padding = usize::try_from((ALIGN - end % ALIGN) % ALIGN).expect("less than 512");
        out.resize(out.len() + padding, 0);
        let trailer_at = out.len();
        out.extend_from_slice(&TRAILER_MAGIC);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&(footer_bytes as u64).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        put_crc(&mut out, trailer_at);
        out
    }

    /// Checks a whole footer, CRC included, and that its lists agree with each other: chunks without a gap from
    /// `first_chunk` to the footer at `offset`, keys and sections in order, totals that add up.
    pub fn parse(bytes: &[u8], offset: u64, first_chunk: u64) -> Result<Footer, Error> {
        let place = Place::Footer { offset };
        let wrong = |what| Error::damaged(place, Damage::Shape(what));
        check_crc(place, bytes)?;
        let footer = parse_lists(&bytes[..bytes.len() - CRC_BYTES])
            .ok_or_else(|| wrong("its lists run over its end"))?;
        let (mut at, mut sections) = (Some(first_chunk), Vec::new());
        let mut last: Option<&ChunkInfo> = None;
        for chunk in &footer.chunks {
            let follows = last.is_none_or(|last| {
                last.section < chunk.section
                    || (last.section == chunk.section && last.last_key < chunk.first_key)
            });
            if at != Some(chunk.offset) || !follows || chunk.first_key > chunk.last_key {
                return Err(wrong("its chunks do not follow each other"));
            }
            at = chunk.end();
            count(&mut sections, chunk);
            last = Some(chunk);
        }
        if at != Some(offset) {
            return Err(wrong("its chunks do not end where it begins"));
        }
        if sections != footer.sections {
            return Err(wrong("its totals are not those of its chunks"));
        }
        Ok(footer)
    }
}

/// Offset and length of the footer. `file_bytes` is the length of the file.
pub(crate) fn parse_trailer(
    trailer: &[u8; TRAILER_BYTES],
    offset: u64,
) -> Result<(u64, usize), Error> {
    let place = Place::Trailer { offset };
    if trailer[..4] != TRAILER_MAGIC {
        let found = trailer[..4].to_vec();
        return Err(Error::damaged(place, Damage::Magic { found }));
    }
    check_crc(place, trailer)?;
    let word = |at: usize| {
        let bytes = trailer[at..at + 8].try_into();
        u64::from_le_bytes(bytes.expect("eight bytes of a fixed trailer"))
    };
    let (footer_offset, footer_bytes) = (word(8), word(16));
    let fits = footer_bytes >= (FOOTER_MAGIC.len() + CRC_BYTES) as u64
        && footer_offset
            .checked_add(footer_bytes)
            .is_some_and(|end| end <= offset && offset - end < ALIGN);
    match usize::try_from(footer_bytes) {
        Ok(footer_bytes) if fits => Ok((footer_offset, footer_bytes)),
        _ => Err(Error::damaged(
            place,
            Damage::Shape("it does not point to what lies before it"),
        )),
    }
}

fn put_crc(out: &mut Vec<u8>, from: usize) {
    let crc = crc32fast::hash(&out[from..]);
    out.extend_from_slice(&crc.to_le_bytes());
}

fn parse_lists(mut from: &[u8]) -> Option<Footer> {
    fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
        let (bytes, rest) = from.split_first_chunk::<N>()?;
        *from = rest;
        Some(*bytes)
    }
    fn half(from: &mut &[u8]) -> Option<u32> {
        take(from).map(u32::from_le_bytes)
    }
    fn word(from: &mut &[u8]) -> Option<u64> {
        take(from).map(u64::from_le_bytes)
    }
    fn key_bytes(from: &mut &[u8]) -> Option<usize> {
        take(from).map(|bytes| usize::from(u16::from_le_bytes(bytes)))
    }
    fn key(from: &mut &[u8], bytes: usize) -> Option<Vec<u8>> {
        let (key, rest) = from.split_at_checked(bytes)?;
        *from = rest;
        Some(key.to_vec())
    }
    from = from.strip_prefix(&FOOTER_MAGIC)?;
    let chunks_count = half(&mut from)?;
    // A count the bytes cannot hold allocates nothing.
    let mut chunks = Vec::with_capacity((chunks_count as usize).min(from.len() / ENTRY_BYTES));
    for sequence in 0..chunks_count {
        let offset = word(&mut from)?;
        let [section, codec] = take(&mut from)?;
        let (records, raw_bytes, stored_bytes) =
            (half(&mut from)?, half(&mut from)?, half(&mut from)?);
        let (first_bytes, last_bytes) = (key_bytes(&mut from)?, key_bytes(&mut from)?);
        chunks.push(ChunkInfo {
            sequence,
            offset,
            section,
            codec,
            records,
            raw_bytes,
            stored_bytes,
            first_key: key(&mut from, first_bytes)?,
            last_key: key(&mut from, last_bytes)?,
        });
    }
    let [sections_count] = take(&mut from)?;
    let mut sections = Vec::with_capacity(usize::from(sections_count));
    for _ in 0..sections_count {
        let [section] = take(&mut from)?;
        sections.push(SectionTotals {
            section,
            records: word(&mut from)?,
            raw_bytes: word(&mut from)?,
            chunks: half(&mut from)?,
        });
    }
    let mut logical_hash = 0;
    for field in fields(from) {
        if let (FIELD_LOGICAL_HASH, value) = field? {
            logical_hash = u128::from_le_bytes(value.try_into().ok()?);
        }
    }
    Some(Footer {
        chunks,
        sections,
        logical_hash,
    })
}
