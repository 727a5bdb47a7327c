//! Reading with a seek: header and footer first, then any chunk, each checked before a byte of it is believed.

use std::io::{Read, Seek, SeekFrom};

use bytes::Bytes;

use crate::chunk::{Records, Unpacker, parse_head};
use crate::error::{Damage, Error, Place};
use crate::footer::{Footer, parse_trailer};
use crate::info::{ChunkInfo, Info, SectionTotals, fill, read_header};
use crate::{ALIGN, DIGEST_BYTES, TRAILER_BYTES};

/// An opened snapshot: header and footer are checked, chunks when they are read. Memory: the footer, and one chunk per
/// read.
#[derive(Debug)]
pub struct Snapshot<R> {
    pub(crate) source: R,
    info: Info,
    footer: Footer,
    file_bytes: u64,
    unpacker: Unpacker,
}

impl<R: Read + Seek> Snapshot<R> {
    /// Reads and checks header, trailer and footer.
    ///
    /// # Errors
    /// `Damaged` with the place; `Version` and `Features` for newer files; what `source` answers.
    pub fn open(mut source: R) -> Result<Self, Error> {
        let file_bytes = source.seek(SeekFrom::End(0))?;
        source.seek(SeekFrom::Start(0))?;
        let (info, header) = read_header(&mut source)?;
        if file_bytes % ALIGN != DIGEST_BYTES as u64 {
            let damage = Damage::Length { found: file_bytes };
            return Err(Error::damaged(Place::Digest, damage));
        }
        let end_bytes = (TRAILER_BYTES + DIGEST_BYTES) as u64;
        let Some(trailer_at) = file_bytes.checked_sub(end_bytes) else {
            let expected = header.len() as u64 + end_bytes;
            let damage = Damage::Short {
                expected,
                found: file_bytes,
            };
            return Err(Error::damaged(Place::Digest, damage));
        };
        let place = Place::Trailer { offset: trailer_at };
        source.seek(SeekFrom::Start(trailer_at))?;
        let mut trailer = [0; TRAILER_BYTES];
        fill(&mut source, &mut trailer, place)?;
        let (footer_at, footer_bytes) = parse_trailer(&trailer, trailer_at)?;
        source.seek(SeekFrom::Start(footer_at))?;
        let mut footer = vec![0; footer_bytes];
        fill(
            &mut source,
            &mut footer,
            Place::Footer { offset: footer_at },
        )?;
        let footer = Footer::parse(&footer, footer_at, header.len() as u64)?;
        Snapshot::from_parts(source, info, footer, file_bytes)
    }

    /// Over chunks found without a footer.
    pub(crate) fn from_parts(
        source: R,
        info: Info,
        footer: Footer,
        file_bytes: u64,
    ) -> Result<Self, Error> {
        Ok(Snapshot {
            source,
            info,
            footer,
            file_bytes,
            unpacker: Unpacker::new()?,
        })
    }

    pub fn info(&self) -> &Info {
        &self.info
    }

    pub fn chunks(&self) -> &[ChunkInfo] {
        &self.footer.chunks
    }

    pub fn sections(&self) -> &[SectionTotals] {
        &self.footer.sections
    }

    /// Given by the writer's owner; what it means is theirs. 0: not said.
    pub fn logical_hash(&self) -> u128 {
        self.footer.logical_hash
    }

    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The records of the `at`-th chunk.
    ///
    /// # Errors
    /// `Damaged` naming the chunk; nothing of a damaged chunk is handed out.
    pub fn read_chunk(&mut self, at: usize) -> Result<Records, Error> {
        let listed = self.footer.chunks.get(at);
        let listed = listed.ok_or(Error::Refused("no chunk of that number"))?;
        let place = listed.place();
        self.source.seek(SeekFrom::Start(listed.offset))?;
        let mut bytes = vec![0; listed.total_bytes()];
        fill(&mut self.source, &mut bytes, place)?;
        unpack_listed(&mut self.unpacker, listed, &bytes)
    }

    /// The value of one key, unpacking at most one chunk.
    ///
    /// # Errors
    /// As [`Snapshot::read_chunk`], if the chunk that would hold the key is damaged.
    pub fn get(&mut self, section: u8, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let at = self.first_at(section, key);
        match self.footer.chunks.get(at) {
            Some(chunk) if chunk.section == section && chunk.first_key[..] <= *key => {}
            _ => return Ok(None),
        }
        let mut records = self.read_chunk(at)?;
        records.skip_below(key);
        Ok(records
            .next()
            .and_then(|(found, value)| (found == key).then_some(value)))
    }

    /// The records of `section` with keys from `from` on (inclusive) to `to` (exclusive; `None`: to the end), in order. Only
    /// chunks that may hold some are read. A damaged one is told once, and the rest goes on behind it.
    pub fn range<'a>(&'a mut self, section: u8, from: &[u8], to: Option<&'a [u8]>) -> Range<'a, R> {
        let next = self.first_at(section, from);
        Range {
            snapshot: self,
            section,
            from: from.to_vec(),
            to,
            next,
            records: None,
        }
    }

    /// The first chunk that ends at or behind a key.
    fn first_at(&self, section: u8, key: &[u8]) -> usize {
        (self.footer.chunks)
            .partition_point(|chunk| (chunk.section, &chunk.last_key[..]) < (section, key))
    }
}

/// The records of a chunk that the footer lists, from all of its bytes.
pub(crate) fn unpack_listed(
    unpacker: &mut Unpacker,
    listed: &ChunkInfo,
    bytes: &[u8],
) -> Result<Records, Error> {
    let place = listed.place();
    let (head, rest) = bytes.split_at(listed.head_bytes());
    let unnamed = |error| match error {
        Error::Damaged { damage, .. } => Error::damaged(place, damage),
        other => other,
    };
    let found = parse_head(head, listed.offset).map_err(unnamed)?;
    if found != *listed {
        let damage = Damage::Shape("its head does not agree with the footer");
        return Err(Error::damaged(place, damage));
    }
    unpacker.unpack(listed, head, rest)
}

/// A chunk that could not be read, and what it took with it.
#[derive(Debug)]
pub struct Lost {
    pub section: u8,
    /// Keys from here to `last_key`, both inclusive, are not readable.
    pub first_key: Vec<u8>,
    pub last_key: Vec<u8>,
    pub records: u32,
    pub error: Error,
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (first, last) = (self.first_key.escape_ascii(), self.last_key.escape_ascii());
        let Lost {
            section,
            records,
            error,
            ..
        } = self;
        write!(
            f,
            "{error}; it holds {records} records of section {section}, keys \"{first}\" to \"{last}\""
        )
    }
}

/// See [`Snapshot::range`].
pub struct Range<'a, R> {
    snapshot: &'a mut Snapshot<R>,
    section: u8,
    from: Vec<u8>,
    to: Option<&'a [u8]>,
    /// Chunk to read next.
    next: usize,
    records: Option<Records>,
}

impl<R: Read + Seek> Iterator for Range<'_, R> {
    type Item = Result<(Bytes, Bytes), Box<Lost>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.records.as_mut().and_then(Iterator::next) {
                if self.to.is_some_and(|to| key[..] >= *to) {
                    self.records = None;
                    self.next = usize::MAX;
                    return None;
                }
                return Some(Ok((key, value)));
            }
            self.records = None;
            let chunk = self.snapshot.footer.chunks.get(self.next)?;
            let beyond = self.to.is_some_and(|to| chunk.first_key[..] >= *to);
            if chunk.section != self.section || beyond {
                return None;
            }
            let (at, records) = (self.next, chunk.records);
            self.next += 1;
            match self.snapshot.read_chunk(at) {
                Ok(mut records) => {
                    records.skip_below(&self.from);
                    self.records = Some(records);
                }
                Err(error) => {
                    let chunk = &self.snapshot.footer.chunks[at];
                    return Some(Err(Box::new(Lost {
                        section: self.section,
                        first_key: chunk.first_key.clone(),
                        last_key: chunk.last_key.clone(),
                        records,
                        error,
                    })));
                }
            }
        }
    }
}
