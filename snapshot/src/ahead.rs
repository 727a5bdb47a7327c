//! Chunks of a file read and unpacked by threads ahead of whoever takes them, in order.
//!
//! Bound: each thread has at most [`WAITING`] results ready and one in its hands; a full one waits. Thread `t` of `n` does
//! chunks `t`, `t + n`, ..., so taking them in turn gives them in order. A dropped [`Ahead`] ends its threads.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use sha2::{Digest as _, Sha256};

use crate::DIGEST_BYTES;
use crate::chunk::{Records, Unpacker};
use crate::error::{Damage, Error, Place};
use crate::info::ChunkInfo;
use crate::reader::unpack_listed;

/// Results a thread has ready at the most.
const WAITING: usize = 2;
const HASHED_AT_ONCE: usize = 1 << 20;

/// See the module text.
pub struct Ahead<T> {
    lanes: Vec<Receiver<T>>,
    next: usize,
    count: usize,
}

impl<T: Send + 'static> Ahead<T> {
    /// Reads the chunks listed in `chunks` from `file`; what `work` makes of each, on one of `threads` threads (at least
    /// one), comes out in the same order.
    ///
    /// # Errors
    /// That there is no thread to be had.
    pub fn new(
        file: Arc<File>,
        chunks: Arc<[ChunkInfo]>,
        threads: usize,
        work: impl Fn(&ChunkInfo, Result<Records, Error>) -> T + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (threads, count) = (threads.max(1), chunks.len());
        let work = Arc::new(work);
        let mut lanes = Vec::with_capacity(threads);
        for lane in 0..threads.min(count) {
            let (ready, taken) = sync_channel(WAITING);
            let (file, chunks, work) = (Arc::clone(&file), Arc::clone(&chunks), Arc::clone(&work));
            let thread = std::thread::Builder::new().name(format!("kvs-read-{lane}"));
            let mut reader = ChunkReader::new()?;
            thread.spawn(move || {
                for chunk in chunks.iter().skip(lane).step_by(threads) {
                    let made = work(chunk, reader.read(&file, chunk));
                    if ready.send(made).is_err() {
                        return;
                    }
                }
            })?;
            lanes.push(taken);
        }
        Ok(Ahead {
            lanes,
            next: 0,
            count,
        })
    }
}

impl<T> Iterator for Ahead<T> {
    type Item = T;

    /// Ends early only if a thread panicked.
    fn next(&mut self) -> Option<T> {
        if self.next == self.count {
            return None;
        }
        let lane = self.next % self.lanes.len();
        self.next += 1;
        self.lanes[lane].recv().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.count - self.next))
    }
}

/// Reads chunks of a file, one at a time, without moving the file's position. Its buffers are used again: its memory is one chunk
/// packed, and as many unpacked as there are [`Records`] of.
pub struct ChunkReader {
    unpacker: Unpacker,
    bytes: Vec<u8>,
}

impl ChunkReader {
    /// # Errors
    /// That there is no memory for an unpacker.
    pub fn new() -> io::Result<Self> {
        Ok(ChunkReader {
            unpacker: Unpacker::new()?,
            bytes: Vec::new(),
        })
    }

    /// The records of a chunk that the file's footer lists, checked.
    ///
    /// # Errors
    /// As [`crate::Snapshot::read_chunk`].
    pub fn read(&mut self, file: &File, chunk: &ChunkInfo) -> Result<Records, Error> {
        self.bytes.resize(chunk.total_bytes(), 0);
        file.read_exact_at(&mut self.bytes, chunk.offset)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    let expected = chunk.end().unwrap_or(u64::MAX);
                    let found = file.metadata().map_or(0, |meta| meta.len());
                    Error::damaged(chunk.place(), Damage::Short { expected, found })
                }
                _ => error.into(),
            })?;
        unpack_listed(&mut self.unpacker, chunk, &self.bytes)
    }
}

/// One chunk of a file, checked, without moving the file's position.
///
/// # Errors
/// As [`crate::Snapshot::read_chunk`].
pub fn read_chunk(file: &File, chunk: &ChunkInfo) -> Result<Records, Error> {
    ChunkReader::new()?.read(file, chunk)
}

/// The digest a file ends with, and the one of the bytes before it. `progress` hears the bytes hashed.
///
/// # Errors
/// `Damaged` for a file too short to have one; what the file answers.
pub fn digests(
    file: &File,
    mut progress: impl FnMut(u64),
) -> Result<([u8; DIGEST_BYTES], [u8; DIGEST_BYTES]), Error> {
    let found = file.metadata()?.len();
    let expected = DIGEST_BYTES as u64;
    let Some(body) = found.checked_sub(expected) else {
        return Err(Error::damaged(
            Place::Digest,
            Damage::Short { expected, found },
        ));
    };
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; HASHED_AT_ONCE];
    let mut at = 0;
    while at < body {
        let left = usize::try_from(body - at).unwrap_or(usize::MAX);
        let step = left.min(buffer.len());
        file.read_exact_at(&mut buffer[..step], at)?;
        hasher.update(&buffer[..step]);
        at += step as u64;
        progress(at);
    }
    let mut told = [0; DIGEST_BYTES];
    file.read_exact_at(&mut told, body)?;
    Ok((told, hasher.finalize().into()))
}
