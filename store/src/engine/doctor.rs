//! Looks over the engine's journals before the engine itself does, and cuts a torn tail.
//!
//! Why: the engine below copes with a tail that simply stops, but a batch whose pages reached the
//! disk only in part (values over one page, power cut) makes it refuse the whole database, and a
//! flipped bit in the middle makes it drop everything behind it without a word. So the journals are
//! read here first, every batch is checked, and what is cut is kept and reported.
//!
//! The format (little endian), as the engine's version 3 writes it; a journal is a row of batches:
//!
//! ```text
//! start  u8 = 1, items u32, sequence number u64
//! item   u8 = 2, kind u8, compression u8, keyspace u64, key length u16, value length u32,
//!        stored length u32, key, stored value
//! clear  u8 = 4, keyspace u64                               (counts as an item)
//! end    u8 = 3, xxh3-64 of all items' bytes u64, "FJL" 3
//! ```
//!
//! A journal file is made 64 MiB long and zero; a zero where a batch should start is its end.
//!
//! Invariants:
//! * Examining only reads. Only the newest journal is ever cut, only behind its last whole batch,
//!   and only after the cut bytes are safe in the quarantine directory.
//! * Older journals were synced before the newer was begun, so damage in one is never a torn tail
//!   and is refused.
//! * No journal is ever deleted or shortened to make the engine start with an older sequence.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "reads the files of the engine on disk before it does"
)]

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::EngineError;

/// Suffix of a journal file; the stem is its number in decimal.
const JOURNAL_SUFFIX: &str = ".jnl";
const TRAILER: [u8; 4] = *b"FJL\x03";
const CHUNK_BYTES: usize = 256 * 1024;

/// What an examination of all journals found.
#[derive(Debug)]
pub struct Examination {
    /// Oldest first.
    pub journals: Vec<Journal>,
}

/// One journal file and how far it is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    pub path: PathBuf,
    /// Length of the file, in bytes.
    pub bytes: u64,
    /// Whole, checked batches.
    pub batches: u64,
    /// Offset behind the last whole batch.
    pub good_to: u64,
    pub ending: Ending,
}

/// What stands behind the last whole batch of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Nothing, or zeros only.
    Clean,
    /// Bytes that are no whole batch.
    Torn {
        /// What is wrong with them.
        reason: &'static str,
        /// Offset behind the last byte that is not zero.
        data_to: u64,
        /// How many byte strings that look like the end of a batch follow. More than one means that
        /// later batches landed while an earlier one did not (a power cut with unsynced pages, or
        /// damage in the middle); they are cut as well, the log above has to bring them again.
        batch_ends: u64,
    },
}

/// One cut the doctor made; to be told to the operator and counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub journal: PathBuf,
    /// First byte cut.
    pub offset: u64,
    /// Bytes cut up to the last that was not zero.
    pub bytes: u64,
    pub reason: &'static str,
    /// Where the bytes are kept.
    pub kept_in: PathBuf,
}

/// Reads all journals in `directory`. Only reads.
pub fn examine(directory: &Path) -> Result<Examination, EngineError> {
    let mut numbered = list(directory)?;
    numbered.sort_unstable();
    // They are made in turn and removed from the oldest on, so a gap is a lost file.
    for pair in numbered.windows(2) {
        if let [(before, _), (after, path)] = pair
            && before + 1 != *after
        {
            return Err(EngineError::Corrupt {
                path: journal_path(directory, before + 1),
                detail: format!(
                    "this journal is missing, {} exists; rebuild this member from a snapshot or \
                     its peers",
                    path.display()
                ),
            });
        }
    }
    let mut journals = Vec::with_capacity(numbered.len());
    for (_, path) in numbered {
        let walked = walk(&path).map_err(|e| EngineError::io("read", &path, e))?;
        journals.push(walked);
    }
    Ok(Examination { journals })
}

/// The journal being written to: the one with the highest number.
pub(crate) fn newest(directory: &Path) -> Result<Option<(u64, PathBuf)>, EngineError> {
    Ok(list(directory)?.into_iter().max())
}

pub(crate) fn journal_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number}{JOURNAL_SUFFIX}"))
}

impl Examination {
    /// Cuts the newest journal behind its last whole batch if needed, keeping the bytes in
    /// `quarantine` (made if missing). Damage anywhere else is refused as `Corrupt`.
    pub fn cut_torn_tail(&self, quarantine: &Path) -> Result<Option<Cut>, EngineError> {
        let Some((newest, older)) = self.journals.split_last() else {
            return Ok(None);
        };
        for journal in older {
            if let Ending::Torn {
                reason, data_to, ..
            } = journal.ending
            {
                return Err(EngineError::Corrupt {
                    path: journal.path.clone(),
                    detail: format!(
                        "{reason} at offset {} of a closed journal, {} bytes before its end: \
                         not a torn tail; rebuild this member from a snapshot or its peers",
                        journal.good_to,
                        data_to - journal.good_to,
                    ),
                });
            }
        }
        let Ending::Torn {
            reason, data_to, ..
        } = newest.ending
        else {
            return Ok(None);
        };
        let kept_in = keep(newest, data_to, quarantine)?;
        let file = OpenOptions::new()
            .write(true)
            .open(&newest.path)
            .map_err(|e| EngineError::io("open", &newest.path, e))?;
        file.set_len(newest.good_to)
            .and_then(|()| file.sync_all())
            .map_err(|e| EngineError::io("cut", &newest.path, e))?;
        Ok(Some(Cut {
            journal: newest.path.clone(),
            offset: newest.good_to,
            bytes: data_to - newest.good_to,
            reason,
            kept_in,
        }))
    }
}

fn list(directory: &Path) -> Result<Vec<(u64, PathBuf)>, EngineError> {
    let failed = |e| EngineError::io("list", directory, e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(stem) = name
            .to_str()
            .and_then(|name| name.strip_suffix(JOURNAL_SUFFIX))
        else {
            continue;
        };
        let number = stem.parse::<u64>().map_err(|_| EngineError::Corrupt {
            path: entry.path(),
            detail: "not the name of a journal; move this file away".to_owned(),
        })?;
        found.push((number, entry.path()));
    }
    Ok(found)
}

/// Copies `[good_to, data_to)` of the journal into a new file of the quarantine, durably.
fn keep(journal: &Journal, data_to: u64, quarantine: &Path) -> Result<PathBuf, EngineError> {
    std::fs::create_dir_all(quarantine).map_err(|e| EngineError::io("create", quarantine, e))?;
    let name = journal
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let (mut copy, path) = (0..)
        .find_map(|attempt: u64| {
            let path = quarantine.join(format!("{name}-{}-{attempt}", journal.good_to));
            match File::create_new(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => None,
                made => Some(made.map(|file| (file, path.clone())).map_err(|e| (path, e))),
            }
        })
        .expect("the numbers do not run out")
        .map_err(|(path, e)| EngineError::io("create", path, e))?;
    let copied = (|| {
        let mut from = File::open(&journal.path)?;
        from.seek(SeekFrom::Start(journal.good_to))?;
        let copied = io::copy(&mut from.take(data_to - journal.good_to), &mut copy)?;
        copy.flush()?;
        copy.sync_all()?;
        File::open(quarantine)?.sync_all()?;
        Ok(copied)
    })();
    copied.map_err(|e| EngineError::io("write", &path, e))?;
    Ok(path)
}

fn walk(path: &Path) -> io::Result<Journal> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut reader = Walker {
        from: BufReader::with_capacity(CHUNK_BYTES, file),
        at: 0,
        bytes,
    };
    let (mut batches, mut good_to) = (0, 0);
    let reason = loop {
        match reader.batch()? {
            Step::Batch => {
                batches += 1;
                good_to = reader.at;
            }
            Step::End => {
                let journal = |ending| Journal {
                    path: path.to_owned(),
                    bytes,
                    batches,
                    good_to,
                    ending,
                };
                let (data_to, batch_ends) = rest(&mut reader.from, good_to)?;
                return Ok(journal(if data_to == good_to {
                    Ending::Clean
                } else {
                    Ending::Torn {
                        reason: "a zero gap before further data",
                        data_to,
                        batch_ends,
                    }
                }));
            }
            Step::Bad(reason) => break reason,
        }
    };
    let (data_to, batch_ends) = rest(&mut reader.from, good_to)?;
    Ok(Journal {
        path: path.to_owned(),
        bytes,
        batches,
        good_to,
        ending: Ending::Torn {
            reason,
            data_to,
            batch_ends,
        },
    })
}

/// Where the first data at or behind `at` is, the end of the file if there is none; `None` if the file system does not tell.
/// Moves the file's position.
fn behind_hole(file: &File, at: u64) -> Option<u64> {
    use rustix::fs;
    match fs::seek(file, fs::SeekFrom::Data(at)) {
        Ok(data) => Some(data),
        Err(rustix::io::Errno::NXIO) => fs::seek(file, fs::SeekFrom::End(0)).ok(),
        Err(_) => None,
    }
}

/// Behind the last byte that is not zero from `from` on (at least `from`), and how many batch
/// trailers stand in between.
fn rest(reader: &mut BufReader<File>, from: u64) -> io::Result<(u64, u64)> {
    reader.seek(SeekFrom::Start(from))?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let (mut at, mut data_to, mut trailers, mut window) = (from, from, 0, 0u32);
    loop {
        let got = reader.read(&mut chunk)?;
        if got == 0 {
            return Ok((data_to, trailers));
        }
        // Mostly it is the 64 MiB of zeros a journal is made with, of which the file system knows that nothing was written.
        if chunk[..got].iter().all(|&byte| byte == 0) {
            at += got as u64;
            window = 0;
            if let Some(data) = behind_hole(reader.get_ref(), at) {
                at = reader.seek(SeekFrom::Start(data.max(at)))?;
            }
            continue;
        }
        for &byte in &chunk[..got] {
            at += 1;
            window = window << 8 | u32::from(byte);
            if byte != 0 {
                data_to = at;
                trailers += u64::from(window == u32::from_be_bytes(TRAILER));
            }
        }
    }
}

enum Step {
    Batch,
    /// End of file, or a zero where a batch should start.
    End,
    Bad(&'static str),
}

struct Walker {
    from: BufReader<File>,
    at: u64,
    bytes: u64,
}

impl Walker {
    fn batch(&mut self) -> io::Result<Step> {
        let Some([tag]) = self.take::<1>()? else {
            return Ok(Step::End);
        };
        if tag == 0 {
            return Ok(Step::End);
        }
        if tag != 1 {
            return Ok(Step::Bad("no start of a batch"));
        }
        let Some(start) = self.take::<12>()? else {
            return Ok(Step::Bad("a batch start cut short"));
        };
        let mut items = u32::from_le_bytes([start[0], start[1], start[2], start[3]]);
        let mut hash = Xxh3::new();
        loop {
            let Some([tag]) = self.take::<1>()? else {
                return Ok(Step::Bad("a batch without an end"));
            };
            match tag {
                2 | 4 if items == 0 => {
                    return Ok(Step::Bad("more items in a batch than announced"));
                }
                2 => {
                    if !self.item(&mut hash)? {
                        return Ok(Step::Bad("an item cut short or malformed"));
                    }
                }
                4 => {
                    let Some(keyspace) = self.take::<8>()? else {
                        return Ok(Step::Bad("an item cut short or malformed"));
                    };
                    hash.update(&[4]);
                    hash.update(&keyspace);
                }
                3 => break,
                _ => return Ok(Step::Bad("a batch without an end")),
            }
            items -= 1;
        }
        let Some(end) = self.take::<12>()? else {
            return Ok(Step::Bad("a batch end cut short"));
        };
        let (sum, trailer) = end.split_at(8);
        if items != 0 {
            Ok(Step::Bad("fewer items in a batch than announced"))
        } else if trailer != TRAILER {
            Ok(Step::Bad("a batch end without its trailer"))
        } else if sum != hash.digest().to_le_bytes() {
            Ok(Step::Bad("a batch with a wrong checksum"))
        } else {
            Ok(Step::Batch)
        }
    }

    fn item(&mut self, hash: &mut Xxh3) -> io::Result<bool> {
        let Some(head) = self.take::<20>()? else {
            return Ok(false);
        };
        let [
            kind,
            compression,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            k0,
            k1,
            _,
            _,
            _,
            _,
            s0,
            s1,
            s2,
            s3,
        ] = head;
        let stored = u64::from(u32::from_le_bytes([s0, s1, s2, s3]));
        let length = u64::from(u16::from_le_bytes([k0, k1])) + stored;
        if !matches!(kind, 0..=2) || compression > 1 || length > self.bytes - self.at {
            return Ok(false);
        }
        hash.update(&[2]);
        hash.update(&head);
        let mut left = length;
        let mut chunk = [0; 4096];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            self.from.read_exact(&mut chunk[..want])?;
            hash.update(&chunk[..want]);
            left -= want as u64;
        }
        self.at += length;
        Ok(true)
    }

    /// The next `N` bytes, `None` if the file ends before.
    fn take<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        if self.bytes - self.at < N as u64 {
            return Ok(None);
        }
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(Some(bytes))
    }
}
