//! A `.kvs` file as commands use it: opened, read by several threads, checked as a whole.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvnode_snapshot::{
    Ahead, ChunkInfo, Error, Info, Lost, Records, SectionTotals, Snapshot, Totals, digests,
};
use kvnode_store::audit::Audit;
use kvnode_store::engine::Space;
use kvnode_store::export::Record;
use kvnode_store::schema::{META_KEY, Meta, SCHEMA_VERSION};

use crate::failure::{Code, Failure, Result};
use crate::shell::Shell;

pub struct Kvs {
    pub path: PathBuf,
    pub file: Arc<File>,
    pub info: Info,
    pub chunks: Arc<[ChunkInfo]>,
    pub sections: Vec<SectionTotals>,
    pub file_bytes: u64,
    pub logical_hash: u128,
}

/// What reading every byte came to.
pub struct Checked {
    pub digest_matches: bool,
    /// Of the bytes as they are, hexadecimal.
    pub sha256: String,
    pub sha256_told: String,
    pub records: u64,
    pub lost: Vec<Lost>,
}

impl Checked {
    pub fn is_sound(&self) -> bool {
        self.digest_matches && self.lost.is_empty()
    }
}

impl Kvs {
    /// Reads header and footer.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open_file(path)?;
        let snapshot = Snapshot::open(BufReader::new(&file))
            .map_err(|e| etcds_own(path, &file).unwrap_or_else(|| unreadable(path, &e)))?;
        Ok(Kvs {
            path: path.to_path_buf(),
            info: snapshot.info().clone(),
            chunks: snapshot.chunks().into(),
            sections: snapshot.sections().to_vec(),
            file_bytes: snapshot.file_bytes(),
            logical_hash: snapshot.logical_hash(),
            file: Arc::new(file),
        })
    }

    pub fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// The digest it ends with, hexadecimal.
    pub fn digest_told(&self) -> Result<String> {
        use std::os::unix::fs::FileExt as _;
        let mut digest = [0; kvnode_snapshot::DIGEST_BYTES];
        let at = self.file_bytes - digest.len() as u64;
        self.file
            .read_exact_at(&mut digest, at)
            .map_err(|e| Failure::io("read", &self.path, &e))?;
        Ok(hex(&digest))
    }

    /// For single keys.
    pub fn snapshot(&self) -> Result<Snapshot<BufReader<&File>>> {
        Snapshot::open(BufReader::new(&*self.file)).map_err(|e| unreadable(&self.path, &e))
    }

    pub fn raw_bytes(&self) -> u64 {
        self.sections.iter().map(|section| section.raw_bytes).sum()
    }

    /// The numbers of the store that it is of; read from one chunk.
    pub fn meta(&self) -> Result<Meta> {
        let schema = self.info.schema;
        if schema != 0 && schema != u32::from(SCHEMA_VERSION) {
            return Err(Failure::new(
                Code::Version,
                format!(
                    "{}: records of schema {schema}, this program reads {SCHEMA_VERSION}",
                    self.shown()
                ),
                "kvutil version",
            )
            .hint("use the kvutil that came with the program that wrote it"));
        }
        let record = self
            .snapshot()?
            .get(Space::State as u8, &META_KEY)
            .map_err(|e| unreadable(&self.path, &e))?;
        let record = record.ok_or_else(|| {
            Failure::new(
                Code::Damage,
                format!("{} has no record of its own numbers", self.shown()),
                format!("kvutil snapshot verify {}", self.shown()),
            )
        })?;
        Ok(Meta::decode(&record)?)
    }

    /// Why the records are not those whose hash the footer tells, if they are not.
    pub fn hash_problem(&self, audit: &Audit) -> Option<String> {
        let (told, found) = (self.logical_hash, audit.totals().hash());
        (told != 0 && told != found)
            .then(|| format!("the records hash to {found:032x}, {told:032x} is told"))
    }

    /// All records in order.
    pub fn records(
        &self,
        threads: usize,
    ) -> Result<impl Iterator<Item = std::result::Result<Record, Error>> + use<>> {
        let pieces = self.pieces(threads, |section, records| (section, records))?;
        Ok(pieces.flat_map(|piece| {
            let (records, error) = match piece {
                Ok((section, records)) => (Some(as_records(section, records)), None),
                Err(error) => (None, Some(Err(error))),
            };
            records.into_iter().flatten().map(Ok).chain(error)
        }))
    }

    /// What `work` makes of the chunks, on several threads, in their order.
    pub fn pieces<T: Send + 'static>(
        &self,
        threads: usize,
        work: impl Fn(u8, Records) -> T + Send + Sync + 'static,
    ) -> Result<Ahead<std::result::Result<T, Error>>> {
        Ahead::new(
            Arc::clone(&self.file),
            Arc::clone(&self.chunks),
            threads,
            move |chunk, records| records.map(|records| work(chunk.section, records)),
        )
        .map_err(|e| Failure::io("read", &self.path, &e))
    }

    /// The records of a space with keys from `from` (inclusive) to `to` (exclusive), in order; other frames are not read.
    pub fn range(
        &self,
        space: Space,
        from: Vec<u8>,
        to: Vec<u8>,
        threads: usize,
    ) -> Result<impl Iterator<Item = std::result::Result<Record, Error>> + use<>> {
        let holds = |chunk: &&ChunkInfo| {
            chunk.section == space as u8 && chunk.last_key >= from && chunk.first_key < to
        };
        let chunks: Arc<[ChunkInfo]> = self.chunks.iter().filter(holds).cloned().collect();
        let part = Kvs {
            path: self.path.clone(),
            file: Arc::clone(&self.file),
            info: self.info.clone(),
            chunks,
            sections: Vec::new(),
            file_bytes: self.file_bytes,
            logical_hash: 0,
        };
        let inside = move |record: &std::result::Result<Record, Error>| {
            record
                .as_ref()
                .map_or(true, |record| record.key >= from && record.key < to)
        };
        Ok(part.records(threads)?.filter(inside))
    }

    /// Reads every byte: all for the digest, and each chunk by itself. `inspect` sees the chunks that are whole, on several
    /// threads; `gather` what it made of them, in order.
    pub fn check<T: Send + 'static>(
        &self,
        threads: usize,
        shell: &Shell,
        inspect: impl Fn(u8, Records) -> T + Send + Sync + 'static,
        gather: impl FnMut(T),
    ) -> Result<Checked> {
        let mut progress = shell.progress.bytes("verifying", 2 * self.file_bytes);
        let hashed = Arc::new(AtomicU64::new(0));
        let (file, seen) = (Arc::clone(&self.file), Arc::clone(&hashed));
        let hashing = std::thread::Builder::new()
            .name("kvs-digest".into())
            .spawn(move || digests(&file, |bytes| seen.store(bytes, Ordering::Relaxed)))
            .map_err(|e| Failure::io("read", &self.path, &e))?;
        let (records, lost) = self.frames(threads, inspect, gather, |done| {
            progress.set(done + hashed.load(Ordering::Relaxed));
        })?;
        let digests = hashing
            .join()
            .map_err(|_| gone(&self.path))?
            .map_err(|e| unreadable(&self.path, &e))?;
        Ok(Checked {
            digest_matches: digests.0 == digests.1,
            sha256: hex(&digests.1),
            sha256_told: hex(&digests.0),
            records,
            lost,
        })
    }

    /// Whether this is the file that was written, byte by byte: each frame whole by its CRC, everything behind them the same by
    /// another, digest included. The header's was checked when it was opened. The digest is not computed again.
    pub fn is_as_written(&self, written: &Totals, threads: usize, shell: &Shell) -> Result<bool> {
        let mut progress = shell.progress.bytes("verifying", self.file_bytes);
        let (_, lost) = self.frames(threads, |_, _| (), |()| (), |done| progress.set(done))?;
        let same = written.end_is_as_written(&self.file);
        Ok(lost.is_empty() && same.map_err(|e| Failure::io("read", &self.path, &e))?)
    }

    /// Each chunk by itself, as in [`Kvs::check`]. Returns the records in whole chunks, and the others.
    fn frames<T: Send + 'static>(
        &self,
        threads: usize,
        inspect: impl Fn(u8, Records) -> T + Send + Sync + 'static,
        mut gather: impl FnMut(T),
        mut progress: impl FnMut(u64),
    ) -> Result<(u64, Vec<Lost>)> {
        let ahead = self.pieces(threads, inspect)?;
        let (mut records, mut chunks, mut done, mut lost) = (0, 0, 0, Vec::new());
        for (chunk, made) in self.chunks.iter().zip(ahead) {
            match made {
                Ok(made) => {
                    records += u64::from(chunk.records);
                    gather(made);
                }
                Err(error @ Error::Damaged { .. }) => lost.push(Lost {
                    section: chunk.section,
                    first_key: chunk.first_key.clone(),
                    last_key: chunk.last_key.clone(),
                    records: chunk.records,
                    error,
                }),
                Err(error) => return Err(unreadable(&self.path, &error)),
            }
            chunks += 1;
            done += chunk.total_bytes() as u64;
            progress(done);
        }
        match chunks == self.chunks.len() {
            true => Ok((records, lost)),
            false => Err(gone(&self.path)),
        }
    }
}

/// What a section's records are to the store; none for a section it does not know.
pub fn as_records(section: u8, records: Records) -> impl Iterator<Item = Record> {
    let space = Space::ALL.into_iter().find(|space| *space as u8 == section);
    records.filter_map(move |(key, value)| space.map(|space| Record { space, key, value }))
}

pub fn open_file(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|e| Failure::io("open", path, &e))?;
    if file.metadata().is_ok_and(|meta| meta.is_dir()) {
        return Err(Failure::new(
            Code::Failed,
            format!("{} is a directory, a .kvs file is wanted", path.display()),
            format!("kvutil data info --data-dir {}", path.display()),
        ));
    }
    Ok(file)
}

/// Why a file that is no `.kvs` cannot be read, if it is a database of etcd: its first page has bbolt's mark behind 16 bytes.
pub fn etcds_own(path: &Path, file: &File) -> Option<Failure> {
    use std::os::unix::fs::FileExt as _;
    let mut page = [0; 20];
    file.read_exact_at(&mut page, 0).ok()?;
    if page[16..] != 0xED0C_DAED_u32.to_le_bytes() {
        return None;
    }
    let shown = path.display();
    let failure = Failure::new(
        Code::Version,
        format!("{shown} is a database of etcd (bbolt), a .kvs file is wanted"),
        format!("etcdutl snapshot restore {shown} --data-dir DIR"),
    );
    Some(
        failure.hint(
            "start etcd on what etcdutl restores, and copy the keys with `kvctl make-mirror`",
        ),
    )
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `4be1..09c7`: enough to compare by eye.
pub fn short(hex: &str) -> String {
    match (hex.get(..4), hex.get(hex.len().saturating_sub(4)..)) {
        (Some(head), Some(tail)) if hex.len() > 8 => format!("{head}..{tail}"),
        _ => hex.to_owned(),
    }
}

fn gone(path: &Path) -> Failure {
    Failure::new(
        Code::Failed,
        format!("a thread that read {} is gone", path.display()),
        "kvutil version",
    )
}

/// Why a file cannot be opened or read.
pub fn unreadable(path: &Path, error: &Error) -> Failure {
    let shown = path.display();
    match error {
        Error::Damaged { .. } => Failure::new(
            Code::Damage,
            format!("{shown}: {error}"),
            format!("kvutil snapshot verify {shown}"),
        )
        .hint("`verify` tells what of it is good"),
        Error::Version { .. } | Error::Features { .. } => {
            Failure::new(Code::Version, format!("{shown}: {error}"), "kvutil version")
                .hint("use the kvutil that came with the program that wrote it")
        }
        Error::Io(error) => Failure::io("read", path, error),
        _ => Failure::new(
            Code::Failed,
            format!("{shown}: {error}"),
            format!("ls -la {shown}"),
        ),
    }
}
