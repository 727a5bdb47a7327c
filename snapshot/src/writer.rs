//! Writing: records in, bytes out, memory bounded by one chunk raw and one stored.

use std::io::Write;

use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::info::{ChunkInfo, Info, SectionTotals};
use crate::{
    ALIGN, CHUNK_BYTES_MAX, CHUNK_HEAD_BYTES, CHUNK_MAGIC, CRC_BYTES, DIGEST_BYTES, FOOTER_MAGIC,
    MAGIC, MAJOR, MINOR, TRAILER_BYTES, TRAILER_MAGIC,
};

/// How to pack.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// zstd level; higher ones than 1 were measured to gain next to nothing on such records.
    pub level: i32,
    /// Raw bytes at which a chunk is cut.
    pub chunk_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            level: 1,
            chunk_bytes: 1 << 20,
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    pub sections: Vec<SectionTotals>,
    pub chunks: u32,
    /// The whole file, digest included.
    pub file_bytes: u64,
    pub sha256: [u8; DIGEST_BYTES],
}

/// Writes a snapshot to `out`. Dropped before `finish` it leaves a file that no reader takes.
pub struct Writer<W: Write> {
    out: Hashed<W>,
    options: Options,
    raw: Vec<u8>,
    stored: Vec<u8>,
    records: u32,
    section: u8,
    first_key: Vec<u8>,
    last_key: Option<Vec<u8>>,
    chunks: Vec<ChunkInfo>,
    sections: Vec<SectionTotals>,
    compressor: zstd::bulk::Compressor<'static>,
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// What `out` answers.
    pub fn new(out: W, info: &Info, options: Options) -> Result<Self, Error> {
        let mut out = Hashed {
            inner: out,
            hasher: Sha256::new(),
            bytes: 0,
        };
        let body = info.encode();
        let mut header = Vec::with_capacity(64 + body.len());
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&MAJOR.to_le_bytes());
        header.extend_from_slice(&MINOR.to_le_bytes());
        header.extend_from_slice(&length(body.len()).to_le_bytes());
        header.extend_from_slice(&body);
        out.write_with_crc(&header)?;
        Ok(Writer {
            out,
            options,
            raw: Vec::with_capacity(options.chunk_bytes + (64 << 10)),
            stored: Vec::new(),
            records: 0,
            section: 0,
            first_key: Vec::new(),
            last_key: None,
            chunks: Vec::new(),
            sections: Vec::new(),
            compressor: zstd::bulk::Compressor::new(options.level)?,
        })
    }

    /// Adds a record. Sections ascend, and keys within a section.
    ///
    /// # Errors
    /// `Refused` for a record out of order or too large (nothing is written of it); what `out` answers.
    pub fn push(&mut self, section: u8, key: &[u8], value: &[u8]) -> Result<(), Error> {
        if key.len() > usize::from(u16::MAX) {
            return Err(Error::Refused("a key longer than 65535 bytes"));
        }
        if key.len() + value.len() + 32 > CHUNK_BYTES_MAX as usize {
            return Err(Error::Refused("a record longer than a chunk may be"));
        }
        if section != self.section || self.sections.is_empty() {
            if !self.sections.is_empty() && section < self.section {
                return Err(Error::Refused("a section below the one before it"));
            }
            self.flush_chunk()?;
            self.section = section;
            self.last_key = None;
            self.sections.push(SectionTotals {
                section,
                ..SectionTotals::default()
            });
        }
        if self.last_key.as_deref().is_some_and(|last| last >= key) {
            return Err(Error::Refused("a key not above the one before it"));
        }
        if self.records > 0 && self.raw.len() + key.len() + value.len() > self.options.chunk_bytes {
            self.flush_chunk()?;
        }
        if self.records == 0 {
            self.first_key.clear();
            self.first_key.extend_from_slice(key);
        }
        put_varint(&mut self.raw, key.len());
        put_varint(&mut self.raw, value.len());
        self.raw.extend_from_slice(key);
        self.raw.extend_from_slice(value);
        self.records += 1;
        let last = self.last_key.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        Ok(())
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.out.bytes
    }

    /// Writes what is left, footer, trailer and digest, and flushes `out` (syncing is the caller's).
    ///
    /// # Errors
    /// What `out` answers.
    pub fn finish(mut self, logical_hash: u64) -> Result<(Totals, W), Error> {
        self.flush_chunk()?;
        let footer_offset = self.out.bytes;
        let footer = self.footer(logical_hash);
        self.out.write_with_crc(&footer)?;
        let footer_bytes = (footer.len() + CRC_BYTES) as u64;
        let end = self.out.bytes + TRAILER_BYTES as u64;
        let padding = (ALIGN - end % ALIGN) % ALIGN;
        self.out
            .write(&vec![0; usize::try_from(padding).expect("less than 512")])?;
        let mut trailer = Vec::with_capacity(TRAILER_BYTES);
        trailer.extend_from_slice(&TRAILER_MAGIC);
        trailer.extend_from_slice(&[0; 4]);
        trailer.extend_from_slice(&footer_offset.to_le_bytes());
        trailer.extend_from_slice(&footer_bytes.to_le_bytes());
        trailer.extend_from_slice(&[0; 4]);
        self.out.write_with_crc(&trailer)?;
        let Hashed {
            mut inner,
            hasher,
            bytes,
        } = self.out;
        let sha256: [u8; DIGEST_BYTES] = hasher.finalize().into();
        inner.write_all(&sha256)?;
        inner.flush()?;
        let totals = Totals {
            sections: self.sections,
            chunks: length(self.chunks.len()),
            file_bytes: bytes + DIGEST_BYTES as u64,
            sha256,
        };
        Ok((totals, inner))
    }

    fn flush_chunk(&mut self) -> Result<(), Error> {
        if self.records == 0 {
            return Ok(());
        }
        self.stored.clear();
        self.stored
            .resize(zstd::zstd_safe::compress_bound(self.raw.len()), 0);
        let stored_bytes = self
            .compressor
            .compress_to_buffer(&self.raw, &mut self.stored[..])?;
        self.stored.truncate(stored_bytes);
        let last_key = self.last_key.as_deref().unwrap_or_default();
        let sequence = length(self.chunks.len());
        let mut chunk =
            Vec::with_capacity(CHUNK_HEAD_BYTES + self.first_key.len() + last_key.len());
        chunk.extend_from_slice(&CHUNK_MAGIC);
        chunk.extend_from_slice(&[self.section, 0, 0, 0]);
        for number in [
            sequence,
            self.records,
            length(self.raw.len()),
            length(stored_bytes),
            crc32fast::hash(&self.raw),
        ] {
            chunk.extend_from_slice(&number.to_le_bytes());
        }
        for key in [&self.first_key[..], last_key] {
            chunk.extend_from_slice(
                &u16::try_from(key.len())
                    .expect("checked in push")
                    .to_le_bytes(),
            );
        }
        chunk.extend_from_slice(&self.first_key);
        chunk.extend_from_slice(last_key);
        let offset = self.out.bytes;
        let mut crc = crc32fast::Hasher::new();
        for part in [&chunk[..], &self.stored] {
            crc.update(part);
            self.out.write(part)?;
        }
        self.out.write(&crc.finalize().to_le_bytes())?;
        let totals = self
            .sections
            .last_mut()
            .expect("a record opened its section");
        totals.records += u64::from(self.records);
        totals.raw_bytes += self.raw.len() as u64;
        totals.chunks += 1;
        self.chunks.push(ChunkInfo {
            sequence,
            offset,
            section: self.section,
            records: self.records,
            raw_bytes: length(self.raw.len()),
            stored_bytes: length(stored_bytes),
            first_key: self.first_key.clone(),
        });
        self.raw.clear();
        self.records = 0;
        Ok(())
    }

    fn footer(&self, logical_hash: u64) -> Vec<u8> {
        let mut footer = Vec::new();
        footer.extend_from_slice(&FOOTER_MAGIC);
        footer.extend_from_slice(&length(self.chunks.len()).to_le_bytes());
        for chunk in &self.chunks {
            footer.extend_from_slice(&chunk.offset.to_le_bytes());
            footer.push(chunk.section);
            for number in [chunk.records, chunk.raw_bytes, chunk.stored_bytes] {
                footer.extend_from_slice(&number.to_le_bytes());
            }
            footer.extend_from_slice(
                &u16::try_from(chunk.first_key.len())
                    .expect("checked in push")
                    .to_le_bytes(),
            );
            footer.extend_from_slice(&chunk.first_key);
        }
        footer.push(u8::try_from(self.sections.len()).expect("section ids are bytes and ascend"));
        for section in &self.sections {
            footer.push(section.section);
            footer.extend_from_slice(&section.records.to_le_bytes());
            footer.extend_from_slice(&section.raw_bytes.to_le_bytes());
            footer.extend_from_slice(&section.chunks.to_le_bytes());
        }
        footer.extend_from_slice(&logical_hash.to_le_bytes());
        footer
    }
}

/// Everything written passes the hash.
struct Hashed<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hasher.update(bytes);
        self.inner.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn write_with_crc(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.write(bytes)?;
        self.write(&crc32fast::hash(bytes).to_le_bytes())
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Lengths and counts that the checks in `push` keep within 32 bits.
fn length(value: usize) -> u32 {
    u32::try_from(value)
        .expect("chunks are bounded by CHUNK_BYTES_MAX, their number by the file's length")
}
