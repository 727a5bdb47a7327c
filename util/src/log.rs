//! The log of a data directory as tools read it: batch by batch, past damaged places, one batch in memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use kvnode_store::datadir;
use kvnode_wal::record::{Record, Records};
use kvnode_wal::scan::{SegmentScan, Step, read_header};
use kvnode_wal::segment::SegmentHeader;
use kvnode_wal::source::{Source, WINDOW_BYTES};
use kvnode_wal::{Entry, FileName};

use crate::failure::{Code, Failure, Result};

/// The arguments that name a log.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// The node's data directory, or a directory that holds segments
    #[arg(long)]
    pub data_dir: PathBuf,
    /// Where the log is, if it was moved since the directory was made
    #[arg(long)]
    pub wal_dir: Option<PathBuf>,
}

impl LogArgs {
    /// The directory with the segments. One that holds segments itself is taken as it is, so that a copy of a log can
    /// be named directly.
    pub fn wal(&self) -> Result<PathBuf> {
        if let Some(elsewhere) = &self.wal_dir {
            return Ok(elsewhere.join(datadir::WAL_DIR));
        }
        let inside = self.data_dir.join(datadir::WAL_DIR);
        if inside.is_dir() {
            return Ok(inside);
        }
        let segments_here = std::fs::read_dir(&self.data_dir).is_ok_and(|entries| {
            let mut names = entries.flatten().map(|entry| entry.file_name());
            names.any(|name| name.to_str().is_some_and(is_segment))
        });
        if segments_here {
            return Ok(self.data_dir.clone());
        }
        // Says what stands at the path instead.
        datadir::peek(&self.data_dir)?;
        if let Some(elsewhere) = datadir::recorded_wal_dir(&self.data_dir)? {
            return Ok(elsewhere.join(datadir::WAL_DIR));
        }
        Err(Failure::new(
            Code::Failed,
            format!("{} holds no log", self.data_dir.display()),
            format!("kvutil data info --data-dir {}", self.data_dir.display()),
        )
        .hint("name the directory given as --wal-dir to the node"))
    }
}

fn is_segment(name: &str) -> bool {
    matches!(FileName::parse(name), Some(FileName::Segment { .. }))
}

/// A segment file.
struct FileSource {
    file: File,
    bytes: u64,
}

impl Source for &FileSource {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

/// What a walk meets.
pub enum Met<'a> {
    Batch(&'a kvnode_wal::scan::Batch<'a>),
    /// Bytes `from..to` of a file hold no good batch although something follows them.
    Gap {
        file: FileName,
        from: u64,
        to: u64,
    },
    /// A file whose header cannot be used.
    NoHeader {
        file: FileName,
        why: String,
    },
}

/// Walks all segments in `wal`, oldest first; `see` says whether to go on.
pub fn walk(wal: &Path, mut see: impl FnMut(Met<'_>) -> bool) -> Result<()> {
    let failed = |e| Failure::io("list", wal, &e);
    let mut files: Vec<FileName> = std::fs::read_dir(wal)
        .map_err(failed)?
        .flatten()
        .filter_map(|entry| FileName::parse(entry.file_name().to_str()?))
        .filter(|file| matches!(file, FileName::Segment { .. }))
        .collect();
    if files.is_empty() {
        return Err(Failure::from(kvnode_wal::Error::NoLog {
            path: wal.to_path_buf(),
        }));
    }
    files.sort();
    let mut opened = Vec::new();
    for file in files {
        let path = wal.join(file.to_string());
        let failed = |e| Failure::io("read", &path, &e);
        let opened_file = File::open(&path).map_err(failed)?;
        let bytes = opened_file.metadata().map_err(failed)?.len();
        let source = FileSource {
            file: opened_file,
            bytes,
        };
        let header = read_header(&mut &source).map_err(failed)?;
        opened.push((file, source, header));
    }
    for at in 0..opened.len() {
        let (file, source, header) = &opened[at];
        let header = match header {
            Ok((header, _)) => header,
            Err(proof) => {
                if !see(Met::NoHeader {
                    file: *file,
                    why: proof.to_string(),
                }) {
                    return Ok(());
                }
                continue;
            }
        };
        let next = opened
            .get(at + 1)
            .and_then(|(_, _, next)| next.as_ref().ok());
        let limit = next
            .and_then(|(next, _)| header.offset_of(next.base))
            .unwrap_or(header.bytes);
        let goes_on = walk_segment(*file, source, header, limit.min(source.bytes), &mut see)
            .map_err(|e| Failure::io("read", &wal.join(file.to_string()), &e))?;
        if !goes_on {
            break;
        }
    }
    Ok(())
}

fn walk_segment(
    file: FileName,
    source: &FileSource,
    header: &SegmentHeader,
    limit: u64,
    see: &mut impl FnMut(Met<'_>) -> bool,
) -> io::Result<bool> {
    let block = u64::from(header.block);
    let mut scan = SegmentScan::new(source, header.clone(), WINDOW_BYTES);
    let mut gap: Option<u64> = None;
    while scan.offset() < limit {
        let offset = scan.offset();
        match scan.next_batch()? {
            Step::Batch(batch) => {
                let to = batch.offset;
                if let Some(from) = gap.take()
                    && !see(Met::Gap { file, from, to })
                {
                    return Ok(false);
                }
                if !see(Met::Batch(&batch)) {
                    return Ok(false);
                }
            }
            Step::Stop(_) => {
                gap.get_or_insert(offset);
                if offset + block >= limit {
                    break;
                }
                scan.start_at(offset + block)?;
            }
        }
    }
    Ok(true)
}

/// Hands out every ENTRY record of a log, replaced ones included, with the writer's time.
pub fn entries(wal: &Path, mut take: impl FnMut(Entry, u64) -> bool) -> Result<()> {
    walk(wal, |met| {
        let Met::Batch(batch) = met else { return true };
        let mut goes_on = true;
        for record in Records::new(batch.payload).flatten() {
            if let Record::Entry {
                index,
                term,
                kind,
                payload,
            } = record
            {
                let payload = bytes::Bytes::copy_from_slice(payload);
                goes_on &= take(
                    Entry {
                        index,
                        term,
                        kind,
                        payload,
                    },
                    batch.header.unix_ms,
                );
            }
        }
        goes_on
    })
}
