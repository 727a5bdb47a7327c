//! Reading: footer first, then any chunk, each checked before a byte of it is believed.

use std::io::{Read, Seek, SeekFrom};

use sha2::{Digest as _, Sha256};

use crate::error::{Damage, Error, Place};
use crate::info::{ChunkInfo, Info, SectionTotals};
use crate::{
    ALIGN, CHUNK_BYTES_MAX, CHUNK_HEAD_BYTES, CHUNK_MAGIC, CRC_BYTES, DIGEST_BYTES, FOOTER_MAGIC,
    HEADER_HEAD_BYTES, MAGIC, MAJOR, TRAILER_BYTES, TRAILER_MAGIC,
};

/// An opened snapshot: header and footer are checked, chunks when they are read.
#[derive(Debug)]
pub struct Snapshot<R> {
    source: R,
    info: Info,
    chunks: Vec<ChunkInfo>,
    sections: Vec<SectionTotals>,
    logical_hash: u64,
    file_bytes: u64,
    /// Where the last chunk ends.
    footer_offset: u64,
}

/// What a full check found.
#[derive(Debug, Default)]
pub struct Report {
    pub chunks_checked: u32,
    pub records: u64,
    /// Every damaged place; a damaged chunk with the keys the footer says it starts at.
    pub damaged: Vec<(Place, Damage)>,
    pub digest_matches: bool,
}

impl Report {
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.digest_matches
    }
}

impl<R: Read + Seek> Snapshot<R> {
    /// Reads and checks header, trailer and footer.
    ///
    /// # Errors
    /// `Damaged` with the place; `Version` for a newer major version; what `source` answers.
    pub fn open(mut source: R) -> Result<Self, Error> {
        let file_bytes = source.seek(SeekFrom::End(0))?;
        source.seek(SeekFrom::Start(0))?;
        let info = read_header(&mut source, file_bytes)?;
        if file_bytes % ALIGN != DIGEST_BYTES as u64 {
            return Err(Error::damaged(
                Place::Digest,
                Damage::Length { found: file_bytes },
            ));
        }
        let (footer_offset, footer_bytes) = read_trailer(&mut source, file_bytes)?;
        let place = Place::Footer {
            offset: footer_offset,
        };
        source.seek(SeekFrom::Start(footer_offset))?;
        let mut footer = vec![0; footer_bytes];
        source.read_exact(&mut footer)?;
        check_crc(place, &footer)?;
        let (chunks, sections, logical_hash) = parse_footer(&footer[..footer.len() - CRC_BYTES])
            .ok_or_else(|| Error::damaged(place, Damage::Shape("its lists run over its end")))?;
        if chunks.iter().any(|chunk| chunk.offset >= footer_offset) {
            return Err(Error::damaged(
                place,
                Damage::Shape("a chunk behind the footer"),
            ));
        }
        Ok(Snapshot {
            footer_offset,
            source,
            info,
            chunks,
            sections,
            logical_hash,
            file_bytes,
        })
    }

    pub fn info(&self) -> &Info {
        &self.info
    }

    pub fn chunks(&self) -> &[ChunkInfo] {
        &self.chunks
    }

    pub fn sections(&self) -> &[SectionTotals] {
        &self.sections
    }

    /// Given by the writer's owner; what it means is theirs.
    pub fn logical_hash(&self) -> u64 {
        self.logical_hash
    }

    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The records of the `at`-th chunk.
    ///
    /// # Errors
    /// `Damaged` naming the chunk; nothing of a damaged chunk is handed out.
    pub fn read_chunk(&mut self, at: usize) -> Result<Records, Error> {
        let listed = self
            .chunks
            .get(at)
            .ok_or(Error::Refused("no chunk of that number"))?
            .clone();
        let place = Place::Chunk {
            sequence: listed.sequence,
            offset: listed.offset,
        };
        let wrong = |damage| Error::damaged(place, damage);
        self.source.seek(SeekFrom::Start(listed.offset))?;
        let mut head = [0; CHUNK_HEAD_BYTES];
        self.source.read_exact(&mut head)?;
        let number = |offset: usize| {
            u32::from_le_bytes(
                head[offset..offset + 4]
                    .try_into()
                    .expect("four bytes of a fixed head"),
            )
        };
        let (raw_bytes, stored_bytes) = (number(16), number(20));
        let keys_bytes: usize = [28, 30]
            .map(|at| usize::from(u16::from_le_bytes([head[at], head[at + 1]])))
            .iter()
            .sum();
        let end = self
            .chunks
            .get(at + 1)
            .map_or(self.footer_offset, |next| next.offset);
        let chunk_bytes = CHUNK_HEAD_BYTES + keys_bytes + stored_bytes as usize + CRC_BYTES;
        if head[..4] != CHUNK_MAGIC
            || head[4] != listed.section
            || (number(8), number(12)) != (listed.sequence, listed.records)
            || (raw_bytes, stored_bytes) != (listed.raw_bytes, listed.stored_bytes)
            || raw_bytes.max(stored_bytes) > CHUNK_BYTES_MAX
            || listed.offset.checked_add(chunk_bytes as u64) != Some(end)
        {
            return Err(wrong(Damage::Shape(
                "its head does not agree with the footer",
            )));
        }
        let mut rest = vec![0; keys_bytes + stored_bytes as usize + CRC_BYTES];
        self.source.read_exact(&mut rest)?;
        let (body, crc) = rest.split_at(rest.len() - CRC_BYTES);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&head);
        hasher.update(body);
        let expected = u32::from_le_bytes(crc.try_into().expect("split at four bytes"));
        let found = hasher.finalize();
        if found != expected {
            return Err(wrong(Damage::Crc { expected, found }));
        }
        let raw = zstd::bulk::decompress(&body[keys_bytes..], raw_bytes as usize)
            .map_err(|error| wrong(Damage::Zstd(error.to_string())))?;
        let (expected, found) = (number(24), crc32fast::hash(&raw));
        if found != expected || raw.len() != raw_bytes as usize {
            return Err(wrong(Damage::Crc { expected, found }));
        }
        Records::new(raw, listed.records)
            .ok_or_else(|| wrong(Damage::Shape("its records do not add up")))
    }

    /// Reads everything: digest, every chunk, order and totals. `progress` hears the bytes done.
    ///
    /// # Errors
    /// Only what `source` answers; damage is in the report.
    pub fn verify(&mut self, mut progress: impl FnMut(u64)) -> Result<Report, Error> {
        let mut report = Report {
            digest_matches: self.digest_matches(&mut progress)?,
            ..Report::default()
        };
        if !report.digest_matches {
            report.damaged.push((Place::Digest, Damage::Digest));
        }
        let mut last: Option<(u8, Vec<u8>)> = None;
        for at in 0..self.chunks.len() {
            let (section, place) = {
                let chunk = &self.chunks[at];
                (
                    chunk.section,
                    Place::Chunk {
                        sequence: chunk.sequence,
                        offset: chunk.offset,
                    },
                )
            };
            report.chunks_checked += 1;
            match self.read_chunk(at) {
                Ok(records) => {
                    let mut ordered = true;
                    for (key, _) in records.iter() {
                        if let Some((before_section, before)) = &last {
                            ordered &= (*before_section, &before[..]) < (section, key);
                        }
                        last = Some((section, key.to_vec()));
                        report.records += 1;
                    }
                    if !ordered {
                        report
                            .damaged
                            .push((place, Damage::Shape("its keys are out of order")));
                    }
                }
                Err(Error::Damaged { place, damage }) => report.damaged.push((place, damage)),
                Err(other) => return Err(other),
            }
        }
        Ok(report)
    }

    fn digest_matches(&mut self, progress: &mut impl FnMut(u64)) -> Result<bool, Error> {
        self.source.seek(SeekFrom::Start(0))?;
        let mut hasher = Sha256::new();
        let mut left = self.file_bytes - DIGEST_BYTES as u64;
        let mut buffer = vec![0; 1 << 20];
        while left > 0 {
            let step = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            self.source.read_exact(&mut buffer[..step])?;
            hasher.update(&buffer[..step]);
            left -= step as u64;
            progress(self.file_bytes - left);
        }
        let mut digest = [0; DIGEST_BYTES];
        self.source.read_exact(&mut digest)?;
        Ok(hasher.finalize()[..] == digest)
    }
}

fn read_header(source: &mut impl Read, file_bytes: u64) -> Result<Info, Error> {
    let wrong = |damage| Error::damaged(Place::Header, damage);
    let least = (HEADER_HEAD_BYTES + CRC_BYTES + TRAILER_BYTES + DIGEST_BYTES) as u64;
    if file_bytes < least {
        return Err(wrong(Damage::Short {
            expected: least,
            found: file_bytes,
        }));
    }
    let mut head = [0; HEADER_HEAD_BYTES];
    source.read_exact(&mut head)?;
    if head[..8] != MAGIC {
        return Err(wrong(Damage::Magic {
            found: head[..8].to_vec(),
        }));
    }
    let major = u16::from_le_bytes([head[8], head[9]]);
    if major != MAJOR {
        return Err(Error::Version {
            found: major,
            supported: MAJOR,
        });
    }
    let body_bytes = u32::from_le_bytes([head[12], head[13], head[14], head[15]]);
    if u64::from(body_bytes) + least > file_bytes {
        return Err(wrong(Damage::Short {
            expected: u64::from(body_bytes) + least,
            found: file_bytes,
        }));
    }
    let mut header = head.to_vec();
    header.resize(HEADER_HEAD_BYTES + body_bytes as usize + CRC_BYTES, 0);
    source.read_exact(&mut header[HEADER_HEAD_BYTES..])?;
    check_crc(Place::Header, &header)?;
    Info::decode(&header[HEADER_HEAD_BYTES..header.len() - CRC_BYTES])
}

/// Offset and length of the footer.
fn read_trailer(source: &mut (impl Read + Seek), file_bytes: u64) -> Result<(u64, usize), Error> {
    let offset = file_bytes - (DIGEST_BYTES + TRAILER_BYTES) as u64;
    let place = Place::Trailer { offset };
    source.seek(SeekFrom::Start(offset))?;
    let mut trailer = [0; TRAILER_BYTES];
    source.read_exact(&mut trailer)?;
    if trailer[..4] != TRAILER_MAGIC {
        return Err(Error::damaged(
            place,
            Damage::Magic {
                found: trailer[..4].to_vec(),
            },
        ));
    }
    check_crc(place, &trailer)?;
    let word = |at: usize| {
        u64::from_le_bytes(
            trailer[at..at + 8]
                .try_into()
                .expect("eight bytes of a fixed trailer"),
        )
    };
    let (footer_offset, footer_bytes) = (word(8), word(16));
    let fits = footer_bytes >= (FOOTER_MAGIC.len() + CRC_BYTES) as u64
        && footer_offset
            .checked_add(footer_bytes)
            .is_some_and(|end| end <= offset);
    match usize::try_from(footer_bytes) {
        Ok(footer_bytes) if fits => Ok((footer_offset, footer_bytes)),
        _ => Err(Error::damaged(
            place,
            Damage::Shape("it points outside the file"),
        )),
    }
}

fn parse_footer(mut footer: &[u8]) -> Option<(Vec<ChunkInfo>, Vec<SectionTotals>, u64)> {
    fn word(from: &mut &[u8]) -> Option<u64> {
        let (bytes, rest) = from.split_first_chunk::<8>()?;
        *from = rest;
        Some(u64::from_le_bytes(*bytes))
    }
    fn half(from: &mut &[u8]) -> Option<u32> {
        let (bytes, rest) = from.split_first_chunk::<4>()?;
        *from = rest;
        Some(u32::from_le_bytes(*bytes))
    }
    fn byte(from: &mut &[u8]) -> Option<u8> {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        Some(*byte)
    }
    footer = footer.strip_prefix(&FOOTER_MAGIC)?;
    let count = half(&mut footer)?;
    // Each entry has at least 23 bytes: a count the bytes cannot hold allocates nothing.
    let mut chunks = Vec::with_capacity((count as usize).min(footer.len() / 23));
    for sequence in 0..count {
        let offset = word(&mut footer)?;
        let section = byte(&mut footer)?;
        let (records, raw_bytes, stored_bytes) =
            (half(&mut footer)?, half(&mut footer)?, half(&mut footer)?);
        let (key_bytes, rest) = footer.split_first_chunk::<2>()?;
        let (first_key, rest) =
            rest.split_at_checked(usize::from(u16::from_le_bytes(*key_bytes)))?;
        footer = rest;
        chunks.push(ChunkInfo {
            sequence,
            offset,
            section,
            records,
            raw_bytes,
            stored_bytes,
            first_key: first_key.to_vec(),
        });
    }
    let count = byte(&mut footer)?;
    let mut sections = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let section = byte(&mut footer)?;
        let (records, raw_bytes, chunks) =
            (word(&mut footer)?, word(&mut footer)?, half(&mut footer)?);
        sections.push(SectionTotals {
            section,
            records,
            raw_bytes,
            chunks,
        });
    }
    let logical_hash = word(&mut footer)?;
    footer
        .is_empty()
        .then_some((chunks, sections, logical_hash))
}

/// The last four bytes are the CRC of the rest.
fn check_crc(place: Place, bytes: &[u8]) -> Result<(), Error> {
    let (body, crc) = bytes.split_at(bytes.len() - CRC_BYTES);
    let expected = u32::from_le_bytes(crc.try_into().expect("split at four bytes"));
    let found = crc32fast::hash(body);
    if found != expected {
        return Err(Error::damaged(place, Damage::Crc { expected, found }));
    }
    Ok(())
}

/// The records of one chunk, unpacked and checked.
#[derive(Debug)]
pub struct Records {
    raw: Vec<u8>,
    count: u32,
}

impl Records {
    /// `None` if the bytes are not exactly `count` records.
    fn new(raw: Vec<u8>, count: u32) -> Option<Self> {
        let mut rest = &raw[..];
        for _ in 0..count {
            take_record(&mut rest)?;
        }
        rest.is_empty().then_some(())?;
        Some(Records { raw, count })
    }

    pub fn len(&self) -> usize {
        self.count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// (key, value) in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.raw[..];
        std::iter::from_fn(move || {
            if rest.is_empty() {
                None
            } else {
                take_record(&mut rest)
            }
        })
    }
}

fn take_record<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let key_bytes = take_varint(rest)?;
    let value_bytes = take_varint(rest)?;
    let (key, behind) = rest.split_at_checked(key_bytes)?;
    let (value, behind) = behind.split_at_checked(value_bytes)?;
    *rest = behind;
    Some((key, value))
}

fn take_varint(rest: &mut &[u8]) -> Option<usize> {
    let mut value = 0u64;
    for shift in (0..35).step_by(7) {
        let (&byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(value).ok();
        }
    }
    None
}
