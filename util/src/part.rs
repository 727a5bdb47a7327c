//! A file that gets its name when it is whole: written as `NAME.part` with mode 0600, synced, checked by whoever writes it,
//! then renamed. An interruption takes the part away; one that a crash left is written over by the next run.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

use crate::failure::{Code, Failure, Result};
use crate::process::{self, Guarded};

/// Written between two syncs on the side.
const SIDE_SYNC_BYTES: usize = 32 << 20;

pub struct Part {
    target: PathBuf,
    path: PathBuf,
    file: File,
    committed: bool,
    guards: Vec<Guarded>,
}

impl Part {
    /// `again` is the command to type if something is there already.
    pub fn create(target: &Path, overwrite: bool, again: &str) -> Result<Self> {
        let target = std::path::absolute(target).map_err(|e| Failure::io("resolve", target, &e))?;
        if target.is_dir() {
            return Err(Failure::new(
                Code::Failed,
                format!("{} is a directory", target.display()),
                format!("ls -la {}", target.display()),
            ));
        }
        if !overwrite && target.symlink_metadata().is_ok() {
            return Err(
                Failure::new(Code::Refused, format!("{} exists", target.display()), again)
                    .hint("name another file, or give --overwrite"),
            );
        }
        let mut path = target.clone().into_os_string();
        path.push(".part");
        let path = PathBuf::from(path);
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits();
        // Guarded only once it is ours: the part of another process is not to be removed.
        let (file, guards) = process::make_guarded(|| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(i32::try_from(nofollow).unwrap_or(0))
                .open(&path)
                .map_err(|e| {
                    let failure = Failure::io("create", &path, &e);
                    match (e.kind(), path.parent()) {
                        (std::io::ErrorKind::NotFound, Some(parent)) => {
                            failure.then(format!("mkdir -p {}", parent.display()))
                        }
                        _ => failure,
                    }
                })?;
            match file.try_lock() {
                Ok(()) => Ok((file, vec![path.clone()])),
                Err(TryLockError::WouldBlock) => Err(Failure::new(
                    Code::Locked,
                    format!("{} is being written by another process", path.display()),
                    format!("fuser -v {}", path.display()),
                )),
                Err(TryLockError::Error(e)) => Err(Failure::io("lock", &path, &e)),
            }
        })?;
        let mode = std::fs::Permissions::from_mode(0o600);
        file.set_permissions(mode)
            .and_then(|()| file.set_len(0))
            .map_err(|e| Failure::io("write", &path, &e))?;
        Ok(Part {
            target,
            path,
            file,
            committed: false,
            guards,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Lets `write` write to it, while what is there already is synced on the side: the sync at the end then has little left to
    /// do. The outer result tells of those syncs: what the device refuses is told once.
    pub fn write<T>(&self, write: impl FnOnce(&mut dyn Write) -> T) -> Result<T> {
        let written = std::thread::scope(|scope| {
            let (wanted, wishes) = sync_channel(1);
            let syncing =
                scope.spawn(move || wishes.iter().try_for_each(|()| self.file.sync_data()));
            let mut out = BufWriter::with_capacity(
                1 << 20,
                SideSynced {
                    file: &self.file,
                    unsynced: 0,
                    wanted,
                },
            );
            let written = write(&mut out);
            let flushed = out.flush();
            // Its end is that of the syncs.
            drop(out);
            match syncing.join() {
                Ok(synced) => flushed.and(synced).map(|()| written),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        });
        written.map_err(|e| Failure::io("write", &self.path, &e))
    }

    /// Begins anew.
    pub fn clear(&self) -> Result<()> {
        use std::io::Seek as _;
        self.file
            .set_len(0)
            .and_then(|()| (&self.file).rewind())
            .map_err(|e| Failure::io("write", &self.path, &e))
    }

    pub fn sync(&self) -> Result<()> {
        self.file
            .sync_all()
            .map_err(|e| Failure::io("sync", &self.path, &e))
    }

    /// Gives it its name, durably.
    pub fn commit(mut self) -> Result<PathBuf> {
        process::release(std::mem::take(&mut self.guards));
        std::fs::rename(&self.path, &self.target)
            .map_err(|e| Failure::io("rename", &self.path, &e))?;
        self.committed = true;
        let parent = self.target.parent().unwrap_or(Path::new("/"));
        File::open(parent)
            .and_then(|directory| directory.sync_all())
            .map_err(|e| Failure::io("sync", parent, &e))?;
        Ok(self.target.clone())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.committed {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Wants a sync now and then; one under way is not waited for.
struct SideSynced<'a> {
    file: &'a File,
    unsynced: usize,
    wanted: SyncSender<()>,
}

impl Write for SideSynced<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self.file;
        let written = file.write(bytes)?;
        self.unsynced += written;
        if self.unsynced >= SIDE_SYNC_BYTES && self.wanted.try_send(()).is_ok() {
            self.unsynced = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
