//! Writing: records in, bytes out, memory bounded by a few chunks.

use std::io::Write;

use sha2::{Digest as _, Sha256};

use crate::chunk::Batch;
use crate::error::Error;
use crate::footer::Footer;
use crate::info::{Info, SectionTotals, count};
use crate::pool::Pool;
use crate::{CHUNK_BYTES_MAX, DIGEST_BYTES, length};

/// How to pack.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// zstd level; higher ones than 1 were measured to gain next to nothing on such records.
    pub level: i32,
    /// Raw bytes at which a chunk is cut.
    pub chunk_bytes: usize,
    /// Threads that pack, beside the caller's, which hashes and writes; 0: the caller packs as well. Each adds about
    /// four times `chunk_bytes` of memory. The bytes written do not depend on it.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            level: 1,
            chunk_bytes: 1 << 20,
            threads: 0,
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

/// Writes a snapshot to `out`. Dropped before `finish` it leaves a file that no reader takes for a whole one.
pub struct Writer<W: Write> {
    out: Hashed<W>,
    options: Options,
    pool: Pool,
    batch: Batch,
    /// Of the last record taken.
    last: Option<(u8, Vec<u8>)>,
    sequence: u32,
    footer: Footer,
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// What `out` answers, or that there is no thread to be had.
    pub fn new(out: W, info: &Info, options: Options) -> Result<Self, Error> {
        let mut out = Hashed {
            inner: out,
            hasher: Sha256::new(),
            bytes: 0,
        };
        out.write(&info.encode())?;
        Ok(Writer {
            out,
            options,
            pool: Pool::new(options.level, options.threads)?,
            batch: Batch::default(),
            last: None,
            sequence: 0,
            footer: Footer::default(),
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
        if let Some((last_section, last_key)) = &self.last {
            if section < *last_section {
                return Err(Error::Refused("a section below the one before it"));
            }
            if section == *last_section && key <= &last_key[..] {
                return Err(Error::Refused("a key not above the one before it"));
            }
        }
        let full = self.batch.raw.len() + key.len() + value.len() > self.options.chunk_bytes;
        if self.batch.records > 0 && (full || self.batch.section != section) {
            self.cut()?;
        }
        self.batch.section = section;
        self.batch.push(key, value);
        let (last_section, last_key) = self.last.get_or_insert_default();
        *last_section = section;
        last_key.clear();
        last_key.extend_from_slice(key);
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
    pub fn finish(mut self, logical_hash: u128) -> Result<(Totals, W), Error> {
        if self.batch.records > 0 {
            self.cut()?;
        }
        self.write_packed(true)?;
        self.footer.logical_hash = logical_hash;
        self.out.write(&self.footer.encode(self.out.bytes))?;
        let Hashed {
            mut inner,
            hasher,
            bytes,
        } = self.out;
        let sha256: [u8; DIGEST_BYTES] = hasher.finalize().into();
        inner.write_all(&sha256)?;
        inner.flush()?;
        let totals = Totals {
            chunks: length(self.footer.chunks.len()),
            sections: self.footer.sections,
            file_bytes: bytes + DIGEST_BYTES as u64,
            sha256,
        };
        Ok((totals, inner))
    }

    /// Gives the batch to the packers, and writes what they have ready.
    fn cut(&mut self) -> Result<(), Error> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.sequence = self.sequence;
        self.sequence += 1;
        self.batch = self.pool.give(batch)?;
        self.write_packed(false)
    }

    fn write_packed(&mut self, all: bool) -> Result<(), Error> {
        while let Some(mut packed) = self.pool.take(all)? {
            packed.info.offset = self.out.bytes;
            self.out.write(&packed.bytes)?;
            count(&mut self.footer.sections, &packed.info);
            self.footer.chunks.push(packed.info);
            self.pool.reuse(packed.bytes);
        }
        Ok(())
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
}
