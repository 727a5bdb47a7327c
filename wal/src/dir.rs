//! The log in a directory, with `std::fs`: for the node's log thread, for recovery before serving,
//! and for tools. All calls block.
//!
//! Sizes and extents of a segment are fixed before it is used (zeros written, synced), so fdatasync
//! has no metadata to write. A helper thread prepares the next spare meanwhile.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::disk::{Disk, Listed, Op};
use crate::driver::Driver;
use crate::error::Error;
use crate::membership::Membership;
use crate::options::{Options, SyncMethod};
use crate::recover::{self, Floors, Recovered, Report, SegmentInfo};
use crate::segment::{FileName, Identity};
use crate::writer::Start;

/// A log in a directory. See [`Driver`] for what it can do.
pub type Log = Driver<DirDisk>;

impl Log {
    /// Makes a new log in `dir`, which is created if it is not there. `seed` is random and used for
    /// salts.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is a segment; [`Error::Option`], [`Error::Io`],
    /// [`Error::NoSpace`].
    pub fn create(
        dir: &Path,
        identity: Identity,
        options: Options,
        seed: u64,
        membership: Membership,
        now_ms: u64,
    ) -> Result<Self, Error> {
        let start = Start {
            membership,
            ..Start::default()
        };
        Self::create_from(dir, identity, options, seed, start, now_ms)
    }

    /// As [`Log::create`], for a log that starts behind a restored snapshot.
    ///
    /// # Errors
    /// As [`Log::create`].
    pub fn create_from(
        dir: &Path,
        identity: Identity,
        options: Options,
        seed: u64,
        start: Start,
        now_ms: u64,
    ) -> Result<Self, Error> {
        let io = |operation, path: &Path, source| Error::Io {
            operation,
            path: path.to_path_buf(),
            offset: 0,
            source,
        };
        fs::create_dir_all(dir).map_err(|source| io("create", dir, source))?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_dir(parent).map_err(|source| io("sync", parent, source))?;
        }
        Self::create_on(
            DirDisk::new(dir, options.sync),
            identity,
            options,
            seed,
            start,
            now_ms,
        )
    }

    /// Opens a new segment behind what [`recover()`] read in the same directory. What was read may
    /// have been in the page cache only: it is synced first, so nothing may be answered before this
    /// returns. A torn tail is copied to `../quarantine/`.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Option`], [`Error::Io`], [`Error::NoSpace`].
    pub fn resume(
        dir: &Path,
        recovered: &Recovered,
        options: Options,
        seed: u64,
        now_ms: u64,
    ) -> Result<Self, Error> {
        Self::resume_on(
            DirDisk::new(dir, options.sync),
            recovered,
            options,
            seed,
            now_ms,
        )
    }

    /// As [`Log::resume`], for a repair: `note` says in the new segment what was done.
    ///
    /// # Errors
    /// As [`Log::resume`].
    pub fn resume_repaired(
        dir: &Path,
        recovered: &Recovered,
        options: Options,
        seed: u64,
        note: &str,
        now_ms: u64,
    ) -> Result<Self, Error> {
        let disk = DirDisk::new(dir, options.sync);
        Self::resume_noted(disk, recovered, options, seed, Some(note), now_ms)
    }

    /// How long the newest sync took.
    pub fn last_sync_time(&self) -> Duration {
        self.disk().last_sync
    }
}

/// Reads the log in `dir` and checks all of it. Changes nothing. Entries up to
/// `floors.keep_after` are checked but not returned.
///
/// # Errors
/// [`Error::NoLog`], [`Error::Damage`], [`Error::Io`].
pub fn recover(dir: &Path, identity: &Identity, floors: Floors) -> Result<Recovered, Error> {
    recover::recover(
        &mut DirDisk::new(dir, SyncMethod::None),
        Some(identity),
        Some(floors),
    )
}

/// Reads the log in `dir` by itself, without knowing whose it is or what the store has.
///
/// # Errors
/// As [`recover()`].
pub fn verify(dir: &Path) -> Result<Report, Error> {
    let disk = &mut DirDisk::new(dir, SyncMethod::None);
    let floors = Floors {
        keep_after: u64::MAX,
        ..Floors::default()
    };
    recover::recover_alone(disk, floors).map(|recovered| recovered.report)
}

/// The segments of the log in `dir`; the log must be whole.
///
/// # Errors
/// As [`recover()`].
pub fn segments(dir: &Path) -> Result<Vec<SegmentInfo>, Error> {
    verify(dir).map(|report| report.segments)
}

/// Reads the log in `dir` by itself, without its entries.
///
/// # Errors
/// As [`recover()`].
pub fn read_alone(dir: &Path) -> Result<Recovered, Error> {
    let disk = &mut DirDisk::new(dir, SyncMethod::None);
    let floors = Floors {
        keep_after: u64::MAX,
        ..Floors::default()
    };
    recover::recover_alone(disk, floors)
}

/// Makes `to`, which must not exist, a directory with the segments of the log in `dir`, linked where the file system
/// can. Segments are never written to once another life has opened a new one, so the links may share them.
///
/// # Errors
/// [`Error::Io`].
pub fn link_log(dir: &Path, to: &Path) -> Result<(), Error> {
    let failed = |operation, path: &Path, source| Error::Io {
        operation,
        path: path.to_path_buf(),
        offset: 0,
        source,
    };
    fs::create_dir(to).map_err(|source| failed("create", to, source))?;
    let listed = DirDisk::new(dir, SyncMethod::None).list();
    for listed in listed.map_err(|source| failed("list", dir, source))? {
        if !matches!(
            FileName::parse(&listed.name),
            Some(FileName::Segment { .. })
        ) {
            continue;
        }
        let (from, to) = (dir.join(&listed.name), to.join(&listed.name));
        if fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to).map_err(|source| failed("copy", &from, source))?;
            let synced = File::open(&to).and_then(|file| file.sync_all());
            synced.map_err(|source| failed("sync", &to, source))?;
        }
    }
    sync_dir(to).map_err(|source| failed("sync", to, source))
}

/// Removes the prepared files that a closed log leaves.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_spares(dir: &Path) -> Result<(), Error> {
    let failed = |operation, path: &Path, source| Error::Io {
        operation,
        path: path.to_path_buf(),
        offset: 0,
        source,
    };
    let listed = DirDisk::new(dir, SyncMethod::None).list();
    for spare in listed.map_err(|source| failed("list", dir, source))? {
        if let Some(FileName::Spare(_)) = FileName::parse(&spare.name) {
            let path = dir.join(&spare.name);
            fs::remove_file(&path).map_err(|source| failed("remove", &path, source))?;
        }
    }
    Ok(())
}

/// Performs operations in a directory.
pub struct DirDisk {
    dir: PathBuf,
    sync: SyncMethod,
    /// Open for writing: the active segment, and a spare on its way to become one.
    open: Vec<(FileName, File)>,
    /// The file that was written past the page cache last, open for that.
    direct: Option<(FileName, File)>,
    /// This file system has refused such a write.
    direct_refused: bool,
    /// Open for reading, the newest first.
    reading: VecDeque<(FileName, File)>,
    helper: Option<Helper>,
    last_sync: Duration,
}

/// Files kept open for reading.
const READING_MAX: usize = 4;

impl DirDisk {
    /// Over an existing directory. Opens nothing yet.
    pub fn new(dir: &Path, sync: SyncMethod) -> Self {
        Self {
            dir: dir.to_path_buf(),
            sync,
            open: Vec::new(),
            direct: None,
            direct_refused: false,
            reading: VecDeque::new(),
            helper: None,
            last_sync: Duration::ZERO,
        }
    }

    fn full_path(&self, file: FileName) -> PathBuf {
        self.dir.join(file.to_string())
    }

    /// The file, open for writing.
    fn writable(&mut self, file: FileName) -> io::Result<&File> {
        let at = match self.open.iter().position(|(name, _)| *name == file) {
            Some(at) => at,
            None => {
                let path = self.full_path(file);
                let opened = OpenOptions::new().read(true).write(true).open(path)?;
                self.open.push((file, opened));
                self.open.len() - 1
            }
        };
        Ok(&self.open[at].1)
    }

    /// Writes past the page cache, if the bytes lie for that: a batch is written once and read by nobody, and its sync
    /// then finds no pages to collect, which saves a third of the processor time of both. `None`: it did not do it.
    fn write_direct(
        &mut self,
        file: FileName,
        offset: u64,
        data: &[u8],
    ) -> Option<io::Result<usize>> {
        let lies = self.sync == SyncMethod::Fdatasync
            && !self.direct_refused
            && data.as_ptr().align_offset(DIRECT_ALIGNMENT) == 0
            && data.len().is_multiple_of(DIRECT_ALIGNMENT)
            && offset.is_multiple_of(DIRECT_ALIGNMENT as u64);
        if !lies {
            return None;
        }
        if self.direct.as_ref().is_none_or(|(name, _)| *name != file) {
            self.direct = None;
            let Ok(opened) = open_direct(&self.full_path(file)) else {
                self.direct_refused = true;
                return None;
            };
            self.direct = Some((file, opened));
        }
        let (_, opened) = self.direct.as_ref()?;
        match opened.write_at(data, offset) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                self.direct = None;
                self.direct_refused = true;
                None
            }
            written => Some(written),
        }
    }

    fn readable(&mut self, file: FileName) -> io::Result<&File> {
        if let Some(at) = self.open.iter().position(|(name, _)| *name == file) {
            return Ok(&self.open[at].1);
        }
        let at = match self.reading.iter().position(|(name, _)| *name == file) {
            Some(at) => at,
            None => {
                let opened = File::open(self.full_path(file))?;
                self.reading.truncate(READING_MAX - 1);
                self.reading.push_front((file, opened));
                0
            }
        };
        Ok(&self.reading[at].1)
    }

    fn forget(&mut self, file: FileName) {
        self.direct.take_if(|(name, _)| *name == file);
        self.open.retain(|(name, _)| *name != file);
        self.reading.retain(|(name, _)| *name != file);
    }

    fn prepare(&mut self, file: FileName, bytes: u64) -> io::Result<()> {
        let path = self.full_path(file);
        self.forget(file);
        let ahead = match &mut self.helper {
            Some(helper) => helper.take(file),
            None => None,
        };
        let prepared = match ahead {
            Some(result) => result?,
            None => write_zeros(&path, bytes, self.sync, None, &AtomicBool::new(false))?,
        };
        self.open.push((file, prepared));
        Ok(())
    }

    /// As [`Disk::read_at`], with zeros for what lies behind the end of the file.
    pub(crate) fn read_up_to(
        &mut self,
        file: FileName,
        offset: u64,
        buf: &mut [u8],
    ) -> io::Result<()> {
        let bytes = self.readable(file)?.metadata()?.len();
        let left = usize::try_from(bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (there, behind) = buf.split_at_mut(left.min(buf.len()));
        behind.fill(0);
        self.read_at(file, offset, there)
    }

    /// `quarantine/` beside the log's directory, made if it is not there.
    fn quarantine_dir(&self) -> io::Result<PathBuf> {
        let parent = match self.dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let place = parent.join("quarantine");
        fs::create_dir_all(&place)?;
        sync_dir(parent)?;
        Ok(place)
    }

    fn rename(&mut self, from: FileName, to: FileName) -> io::Result<()> {
        fs::rename(self.full_path(from), self.full_path(to))?;
        // The segment that was active is sealed: its handle is not needed for writing any more.
        self.open.retain(|(name, _)| *name == from);
        self.direct = None;
        self.reading.retain(|(name, _)| *name != from);
        self.open.iter_mut().for_each(|(name, _)| *name = to);
        Ok(())
    }
}

impl Disk for DirDisk {
    fn perform(&mut self, op: &Op<'_>) -> io::Result<usize> {
        match *op {
            Op::Write { file, offset, data } => {
                if let Some(written) = self.write_direct(file, offset, data) {
                    return written;
                }
                return self.writable(file)?.write_at(data, offset);
            }
            Op::Sync { file } => {
                let sync = self.sync;
                let opened = self.writable(file)?;
                if sync == SyncMethod::Fdatasync {
                    let start = Instant::now();
                    opened.sync_data()?;
                    self.last_sync = start.elapsed();
                }
            }
            Op::Prepare { file, bytes } => self.prepare(file, bytes)?,
            Op::PrepareAhead { file, bytes } => {
                let (path, sync) = (self.full_path(file), self.sync);
                let helper = self.helper.get_or_insert_with(Helper::default);
                helper.ask(Asked {
                    file,
                    path,
                    bytes,
                    sync,
                })?;
            }
            Op::Rename { from, to } => self.rename(from, to)?,
            Op::Remove { file } => {
                self.forget(file);
                fs::remove_file(self.full_path(file))?;
            }
            Op::SyncDir => {
                if self.sync == SyncMethod::Fdatasync {
                    sync_dir(&self.dir)?;
                }
            }
        }
        Ok(0)
    }

    fn list(&mut self) -> io::Result<Vec<Listed>> {
        let listed = fs::read_dir(&self.dir)?.map(|entry| {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            Ok(Listed {
                name,
                bytes: entry.metadata()?.len(),
            })
        });
        listed.collect()
    }

    fn read_at(&mut self, file: FileName, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.readable(file)?.read_exact_at(buf, offset)
    }

    fn drop_cache(&mut self, file: FileName) {
        // Best effort: where the file system knows no such advice, the cache is all there is.
        if let Ok(opened) = self.readable(file) {
            let _ = rustix::fs::fadvise(opened, 0, None, rustix::fs::Advice::DontNeed);
        }
    }

    fn quarantine(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let place = self.quarantine_dir()?;
        let mut kept = File::create(place.join(name))?;
        kept.write_all(bytes)?;
        kept.sync_all()?;
        sync_dir(&place)
    }

    fn path(&self, file: Option<FileName>) -> PathBuf {
        file.map_or_else(|| self.dir.clone(), |file| self.full_path(file))
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Pause of the helper between two steps of 1 MiB: a segment of 64 MiB takes a fraction of a second then.
const AHEAD_PAUSE: Duration = Duration::from_millis(3);

/// Makes a file of `bytes` zeros, all of them written and synced; removes it again if that fails.
///
/// With a `pause` it goes in small synced steps with pauses between them: syncs of the active segment go to the
/// same device, and would have to wait for all of it otherwise.
fn write_zeros(
    path: &Path,
    bytes: u64,
    sync: SyncMethod,
    pause: Option<Duration>,
    stop: &AtomicBool,
) -> io::Result<File> {
    let written = try_write_zeros(path, bytes, sync, pause, stop);
    if written.is_err() {
        // What is left of it is removed at the next start, too.
        let _ = fs::remove_file(path);
    }
    written
}

/// Of memory, offsets and lengths of direct I/O; no device asks for more.
const DIRECT_ALIGNMENT: usize = 4096;

/// For writes that do not pass through the page cache; not every file system has them.
fn open_direct(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(rustix::fs::OFlags::DIRECT.bits().cast_signed())
        .open(path)
}

fn try_write_zeros(
    path: &Path,
    bytes: u64,
    sync: SyncMethod,
    pause: Option<Duration>,
    stop: &AtomicBool,
) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    // Finds out early whether there is room, and gets few, long extents. Not every file system can.
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Ok(()) => {}
        Err(rustix::io::Errno::NOSPC) => return Err(rustix::io::Errno::NOSPC.into()),
        Err(_) => {}
    }
    // Zeros need not pass through the page cache; where a file system wants them to, they do.
    let mut direct = open_direct(path)
        .ok()
        .filter(|_| bytes.is_multiple_of(DIRECT_ALIGNMENT as u64));
    let buffer = vec![0u8; (1 << 20) + DIRECT_ALIGNMENT];
    let zeros = &buffer[buffer.as_ptr().align_offset(DIRECT_ALIGNMENT)..][..1 << 20];
    let mut done = 0;
    while done < bytes {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let left = usize::try_from(bytes - done).unwrap_or(usize::MAX);
        let step = left.min(zeros.len());
        match &direct {
            Some(direct_file) if direct_file.write_all_at(&zeros[..step], done).is_err() => {
                // Whatever the matter is, the next try meets it as well, or it does not matter.
                direct = None;
                continue;
            }
            Some(_) => {}
            None => file.write_all_at(&zeros[..step], done)?,
        }
        done += step as u64;
        if let Some(pause) = pause.filter(|_| sync == SyncMethod::Fdatasync) {
            file.sync_data()?;
            std::thread::sleep(pause);
        }
    }
    if sync == SyncMethod::Fdatasync {
        file.sync_all()?;
    }
    Ok(file)
}

struct Asked {
    file: FileName,
    path: PathBuf,
    bytes: u64,
    sync: SyncMethod,
}

/// A thread that prepares spares. At most four are asked for at a time (the option's bound).
#[derive(Default)]
struct Helper {
    running: Option<Running>,
    /// Asked for, not yet taken.
    asked: Vec<FileName>,
    done: Vec<(FileName, io::Result<File>)>,
}

struct Running {
    requests: Sender<Asked>,
    results: Receiver<(FileName, io::Result<File>)>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Helper {
    fn ask(&mut self, asked: Asked) -> io::Result<()> {
        if self.running.is_none() {
            self.running = Some(Running::start()?);
        }
        let running = self.running.as_ref().expect("just started");
        self.asked.push(asked.file);
        running
            .requests
            .send(asked)
            .map_err(|_| io::Error::other("the helper thread is gone"))
    }

    /// The result for `file`, waiting for it; `None` if it was never asked for.
    fn take(&mut self, file: FileName) -> Option<io::Result<File>> {
        let at = self.asked.iter().position(|asked| *asked == file)?;
        self.asked.remove(at);
        loop {
            if let Some(at) = self.done.iter().position(|(done, _)| *done == file) {
                return Some(self.done.remove(at).1);
            }
            match self.running.as_ref()?.results.recv() {
                Ok(result) => self.done.push(result),
                Err(_) => return Some(Err(io::Error::other("the helper thread is gone"))),
            }
        }
    }
}

impl Running {
    fn start() -> io::Result<Self> {
        let (requests, asked) = channel::<Asked>();
        let (done, results) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("wal-spares".into())
            .spawn(move || {
                for Asked {
                    file,
                    path,
                    bytes,
                    sync,
                } in asked
                {
                    if done
                        .send((
                            file,
                            write_zeros(&path, bytes, sync, Some(AHEAD_PAUSE), &stopped),
                        ))
                        .is_err()
                    {
                        break;
                    }
                }
            })?;
        Ok(Self {
            requests,
            results,
            stop,
            thread,
        })
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(Running {
            requests,
            stop,
            thread,
            ..
        }) = self.running.take()
        {
            stop.store(true, Ordering::Relaxed);
            drop(requests);
            // A panic there was reported by the thread itself.
            let _ = thread.join();
        }
    }
}
