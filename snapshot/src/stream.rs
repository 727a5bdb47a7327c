//! Reading without a seek: a snapshot as it arrives. Every chunk is checked before it is handed out, and only a stream
//! that was whole to its last byte ends well.

use std::io::Read;

use sha2::{Digest as _, Sha256};

use crate::chunk::{Records, Unpacker, head_bytes, parse_head};
use crate::error::{Damage, Error, Place};
use crate::footer::{Footer, parse_trailer};
use crate::info::{ChunkInfo, Info, SectionTotals, count, fill, read_header};
use crate::{
    ALIGN, CHUNK_HEAD_BYTES, CHUNK_MAGIC, CRC_BYTES, DIGEST_BYTES, FOOTER_MAGIC, TRAILER_BYTES,
};

/// See the module text. After an error nothing more is to be had of it.
pub struct Stream<R> {
    source: Hashing<R>,
    info: Info,
    first_chunk: u64,
    chunks: Vec<ChunkInfo>,
    sections: Vec<SectionTotals>,
    summary: Option<Summary>,
    unpacker: Unpacker,
}

/// What a whole stream came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub sections: Vec<SectionTotals>,
    pub chunks: u32,
    /// As its writer computed it; 0: not said.
    pub logical_hash: u128,
    /// The whole stream.
    pub bytes: u64,
}

impl<R: Read> Stream<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// As [`crate::Snapshot::open`].
    pub fn open(mut source: R) -> Result<Self, Error> {
        let (info, header) = read_header(&mut source)?;
        let mut source = Hashing {
            source,
            hasher: Sha256::new(),
            bytes: header.len() as u64,
        };
        source.hasher.update(&header);
        Ok(Stream {
            first_chunk: source.bytes,
            source,
            info,
            chunks: Vec::new(),
            sections: Vec::new(),
            summary: None,
            unpacker: Unpacker::new()?,
        })
    }

    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Bytes read.
    pub fn bytes(&self) -> u64 {
        self.source.bytes
    }

    /// The next chunk: its section and records. `None` after the last one, when footer, totals and digest have been
    /// found to agree with everything that came before.
    ///
    /// # Errors
    /// `Damaged` with the place; what `source` answers.
    pub fn next_chunk(&mut self) -> Result<Option<(u8, Records)>, Error> {
        if self.summary.is_some() {
            return Ok(None);
        }
        let offset = self.source.bytes;
        let place = Place::Offset { offset };
        let mut magic = [0; 4];
        self.source.fill(&mut magic, place)?;
        match magic {
            CHUNK_MAGIC => self.chunk(offset).map(Some),
            FOOTER_MAGIC => {
                self.end(offset)?;
                Ok(None)
            }
            found => {
                let found = found.to_vec();
                Err(Error::damaged(place, Damage::Magic { found }))
            }
        }
    }

    /// After [`Stream::next_chunk`] has answered `None`.
    pub fn summary(&self) -> Option<&Summary> {
        self.summary.as_ref()
    }

    fn chunk(&mut self, offset: u64) -> Result<(u8, Records), Error> {
        let place = Place::Offset { offset };
        let mut fixed = [0; CHUNK_HEAD_BYTES];
        fixed[..4].copy_from_slice(&CHUNK_MAGIC);
        self.source.fill(&mut fixed[4..], place)?;
        let mut head = fixed.to_vec();
        head.resize(head_bytes(&fixed), 0);
        self.source.fill(&mut head[CHUNK_HEAD_BYTES..], place)?;
        let info = parse_head(&head, offset)?;
        let wrong = |what| Err(Error::damaged(info.place(), Damage::Shape(what)));
        let expected = self.chunks.last().map_or(0, |last| last.sequence + 1);
        if info.sequence != expected {
            return wrong("chunks are missing before it, or it comes twice");
        }
        if let Some(last) = self.chunks.last() {
            let (before, from) = (
                (last.section, &last.last_key),
                (info.section, &info.first_key),
            );
            if before >= from {
                return wrong("it does not sort after the one before it");
            }
        }
        let mut rest = vec![0; info.stored_bytes as usize + CRC_BYTES];
        self.source.fill(&mut rest, info.place())?;
        let records = self.unpacker.unpack(&info, &head, &rest)?;
        let section = info.section;
        count(&mut self.sections, &info);
        self.chunks.push(info);
        Ok((section, records))
    }

    /// Everything from the footer on. Its length is known only from the trailer behind it, so it is compared to the one
    /// that has to be there.
    fn end(&mut self, offset: u64) -> Result<(), Error> {
        let place = Place::Footer { offset };
        let wrong = |place, what| Err(Error::damaged(place, Damage::Shape(what)));
        let expected = Footer {
            chunks: std::mem::take(&mut self.chunks),
            sections: std::mem::take(&mut self.sections),
            logical_hash: 0,
        };
        // With no more fields than we know; others come before the CRC, so read to the last byte the trailer can follow.
        let mut tail = expected.encode(offset);
        let known_bytes = tail.len();
        tail.clear();
        tail.extend_from_slice(&FOOTER_MAGIC);
        let mut step = known_bytes - FOOTER_MAGIC.len();
        loop {
            let from = tail.len();
            tail.resize(from + step, 0);
            self.source.fill(&mut tail[from..], place)?;
            let end = offset + tail.len() as u64;
            let trailer: Option<&[u8; TRAILER_BYTES]> = tail.last_chunk();
            let trailer_at = end - TRAILER_BYTES as u64;
            match trailer.map(|trailer| parse_trailer(trailer, trailer_at)) {
                Some(Ok((at, bytes))) if at == offset => {
                    let footer = Footer::parse(&tail[..bytes], offset, self.first_chunk)?;
                    if (&footer.chunks, &footer.sections) != (&expected.chunks, &expected.sections)
                    {
                        return wrong(place, "it does not list the chunks that came before it");
                    }
                    let (sections, chunks) = (footer.sections, crate::length(footer.chunks.len()));
                    self.digest()?;
                    self.summary = Some(Summary {
                        sections,
                        chunks,
                        logical_hash: footer.logical_hash,
                        bytes: self.source.bytes,
                    });
                    return Ok(());
                }
                // A footer of a later minor version may have more fields, up to 64 KiB of them.
                _ if tail.len() < known_bytes + (64 << 10) => {
                    step = usize::try_from(ALIGN).expect("512");
                }
                Some(Err(error)) => return Err(error),
                _ => return wrong(place, "no trailer follows it"),
            }
        }
    }

    fn digest(&mut self) -> Result<(), Error> {
        let computed = std::mem::take(&mut self.source.hasher).finalize();
        let mut digest = [0; DIGEST_BYTES];
        self.source.fill(&mut digest, Place::Digest)?;
        if computed[..] != digest {
            return Err(Error::damaged(Place::Digest, Damage::Digest));
        }
        let mut more = [0];
        match fill(&mut self.source.source, &mut more, Place::Digest) {
            Err(Error::Damaged { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(Error::damaged(
                Place::Digest,
                Damage::Shape("bytes follow it"),
            )),
        }
    }
}

/// Everything read passes the hash.
struct Hashing<R> {
    source: R,
    hasher: Sha256,
    bytes: u64,
}

impl<R: Read> Hashing<R> {
    fn fill(&mut self, buffer: &mut [u8], place: Place) -> Result<(), Error> {
        fill(&mut self.source, buffer, place)?;
        self.hasher.update(&*buffer);
        self.bytes += buffer.len() as u64;
        Ok(())
    }
}
