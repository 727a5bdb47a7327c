//! What is left of a file whose end is missing or damaged: chunks by their own heads, without the footer.

use std::io::{Read, Seek, SeekFrom};

use crate::chunk::{head_bytes, parse_head};
use crate::error::{Damage, Error, Place};
use crate::footer::Footer;
use crate::info::{ChunkInfo, count, fill, read_header};
use crate::reader::Snapshot;
use crate::{CHUNK_HEAD_BYTES, CHUNK_MAGIC, FOOTER_MAGIC};

/// How much is looked through at once for the next chunk.
const WINDOW_BYTES: usize = 1 << 20;

/// Chunks found, and where the file is not good.
pub struct Salvaged<R> {
    /// Reads the chunks found, as if the footer listed them. Each is still checked when it is read. Its totals are
    /// those of the chunks found.
    pub snapshot: Snapshot<R>,
    /// The file is good up to here: chunks follow each other from the header on. (Their heads are; see `snapshot`.)
    pub good_bytes: u64,
    /// Ranges of bytes (from, to) that belong to no chunk, and why the first of each does not.
    pub gaps: Vec<(u64, u64, Error)>,
    /// A footer starts where the chunks end, so no chunk is missing at the end.
    pub reaches_footer: bool,
}

/// Walks the chunks of `source` by their heads, from the header on; where there is none, looks for the next one. Reads heads
/// and gaps only.
///
/// # Errors
/// If there is no good header, or what `source` answers.
pub fn salvage<R: Read + Seek>(mut source: R) -> Result<Salvaged<R>, Error> {
    let file_bytes = source.seek(SeekFrom::End(0))?;
    source.seek(SeekFrom::Start(0))?;
    let (info, header) = read_header(&mut source)?;
    let mut at = header.len() as u64;
    let (mut footer, mut gaps, mut good_bytes) = (Footer::default(), Vec::new(), None);
    let mut reaches_footer = false;
    while at < file_bytes {
        match head_at(&mut source, at, file_bytes) {
            Ok(Some(chunk)) if follows(footer.chunks.last(), &chunk) => {
                at = chunk.end().unwrap_or(file_bytes);
                count(&mut footer.sections, &chunk);
                footer.chunks.push(chunk);
            }
            Ok(None) => {
                reaches_footer = true;
                break;
            }
            found => {
                let error = match found {
                    Err(error @ Error::Damaged { .. }) => error,
                    Err(error) => return Err(error),
                    Ok(_) => Error::damaged(
                        Place::Offset { offset: at },
                        Damage::Shape("a chunk that does not sort after the one before it"),
                    ),
                };
                good_bytes.get_or_insert(at);
                let next = next_magic(&mut source, at + 1, file_bytes)?;
                match gaps.last_mut() {
                    // What was found there was no chunk either: still the same gap.
                    Some((_, to, _)) if *to == at => *to = next,
                    _ => gaps.push((at, next, error)),
                }
                at = next;
            }
        }
    }
    Ok(Salvaged {
        snapshot: Snapshot::from_parts(source, info, footer, file_bytes)?,
        good_bytes: good_bytes.unwrap_or(at),
        gaps,
        reaches_footer,
    })
}

/// The chunk at `at`; `None` if the footer starts there.
fn head_at<R: Read + Seek>(
    source: &mut R,
    at: u64,
    file_bytes: u64,
) -> Result<Option<ChunkInfo>, Error> {
    let place = Place::Offset { offset: at };
    source.seek(SeekFrom::Start(at))?;
    let mut fixed = [0; CHUNK_HEAD_BYTES];
    fill(source, &mut fixed[..4], place)?;
    if fixed[..4] == FOOTER_MAGIC {
        return Ok(None);
    }
    fill(source, &mut fixed[4..], place)?;
    let mut head = fixed.to_vec();
    head.resize(head_bytes(&fixed), 0);
    fill(source, &mut head[CHUNK_HEAD_BYTES..], place)?;
    let chunk = parse_head(&head, at)?;
    let expected = chunk.end().unwrap_or(u64::MAX);
    if expected > file_bytes {
        let damage = Damage::Short {
            expected,
            found: file_bytes,
        };
        return Err(Error::damaged(chunk.place(), damage));
    }
    Ok(Some(chunk))
}

fn follows(last: Option<&ChunkInfo>, chunk: &ChunkInfo) -> bool {
    last.is_none_or(|last| {
        last.sequence < chunk.sequence
            && (last.section, &last.last_key) < (chunk.section, &chunk.first_key)
    })
}

/// Where the next chunk or the footer may start, from `from` on; the end of the file if nowhere.
fn next_magic<R: Read + Seek>(source: &mut R, from: u64, file_bytes: u64) -> Result<u64, Error> {
    let mut window = Vec::new();
    let mut at = from;
    while at < file_bytes {
        let step = usize::try_from(file_bytes - at)
            .unwrap_or(usize::MAX)
            .min(WINDOW_BYTES);
        window.resize(step, 0);
        source.seek(SeekFrom::Start(at))?;
        fill(source, &mut window, Place::Offset { offset: at })?;
        let found = window
            .windows(CHUNK_MAGIC.len())
            .position(|bytes| bytes == CHUNK_MAGIC || bytes == FOOTER_MAGIC);
        if let Some(found) = found {
            return Ok(at + found as u64);
        }
        // A magic may lie across two windows.
        at += (step.saturating_sub(CHUNK_MAGIC.len() - 1)).max(1) as u64;
    }
    Ok(file_bytes)
}
