//! Writing: records in, bytes out, memory bounded by a few chunks.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};

use crate::chunk::{Batch, check_lengths};
use crate::error::Error;
use crate::footer::Footer;
use crate::info::{Info, SectionTotals, count};
use crate::pool::Pool;
use crate::{DIGEST_BYTES, length};

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
    /// Where the chunks end.
    end_offset: u64,
    /// Of everything from there to the digest.
    end_crc: u32,
}

impl Totals {
    /// Whether `file` has the length, the footer, the padding, the trailer and the digest that were written. With every chunk whole, as
    /// that footer lists them, and the header, each of which has a CRC of its own, all bytes are those written.
    ///
    /// # Errors
    /// What `file` answers.
    pub fn end_is_as_written(&self, file: &File) -> io::Result<bool> {
        if file.metadata()?.len() != self.file_bytes {
            return Ok(false);
        }
        let mut end = vec![0; usize::try_from(self.file_bytes - self.end_offset).unwrap_or(0)];
        file.read_exact_at(&mut end, self.end_offset)?;
        let told = end.split_last_chunk::<DIGEST_BYTES>();
        Ok(told.is_some_and(|(end, digest)| {
            *digest == self.sha256 && crc32fast::hash(end) == self.end_crc
        }))
    }
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
        check_lengths(key, value)?;
        self.check_order(section, key)?;
        let chunk_bytes = self.options.chunk_bytes;
        let full = self.batch.is_full(key, value, chunk_bytes);
        if !self.batch.is_empty() && (full || self.batch.section != section) {
            self.cut()?;
        }
        self.batch.section = section;
        self.batch.add(key, value, chunk_bytes);
        self.note_last(section, key);
        Ok(())
    }

    /// Adds the records of a batch as a chunk of its own. An empty batch comes back, if possible one with used buffers.
    ///
    /// # Errors
    /// As [`Writer::push`]; nothing is written of a batch out of order.
    pub fn push_batch(&mut self, batch: Batch) -> Result<Batch, Error> {
        if batch.is_empty() {
            return Ok(batch);
        }
        self.check_order(batch.section, &batch.first_key)?;
        if !self.batch.is_empty() {
            self.cut()?;
        }
        self.note_last(batch.section, &batch.last_key);
        self.pack(batch)
    }

    /// Sections ascend, and keys within a section.
    fn check_order(&self, section: u8, key: &[u8]) -> Result<(), Error> {
        match &self.last {
            Some((last_section, _)) if section < *last_section => {
                Err(Error::Refused("a section below the one before it"))
            }
            Some((last_section, last_key)) if section == *last_section && key <= &last_key[..] => {
                Err(Error::Refused("a key not above the one before it"))
            }
            _ => Ok(()),
        }
    }

    fn note_last(&mut self, section: u8, key: &[u8]) {
        let (last_section, last_key) = self.last.get_or_insert_default();
        *last_section = section;
        last_key.clear();
        last_key.extend_from_slice(key);
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
        let end_offset = self.out.bytes;
        let end = self.footer.encode(end_offset);
        self.out.write(&end)?;
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
            end_offset,
            end_crc: crc32fast::hash(&end),
        };
        Ok((totals, inner))
    }

    fn cut(&mut self) -> Result<(), Error> {
        let batch = std::mem::take(&mut self.batch);
        self.batch = self.pack(batch)?;
        Ok(())
    }

    /// Gives a batch to the packers, and writes what they have ready. An empty one comes back.
    fn pack(&mut self, mut batch: Batch) -> Result<Batch, Error> {
        batch.sequence = self.sequence;
        self.sequence += 1;
        let spent = self.pool.give(batch)?;
        self.write_packed(false)?;
        Ok(spent)
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
