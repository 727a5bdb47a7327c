//! The ballast: a file of `--disk-reserve-bytes` in the data directory that is given up when the log finds no room.
//!
//! What it frees lets entries that are under way get on disk, so that a member on a full disk answers what it was asked
//! before it refuses more. It is made again once the disk has room for it, twice over, above `--min-free-bytes`. It is
//! allocated, not written: file systems that cannot do that have no ballast, with a warning.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use kvnode_store::datadir::RESERVE_FILE;
use rustix::fs::FallocateFlags;

/// The ballast of one data directory.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    bytes: u64,
    /// It takes its room.
    held: AtomicBool,
    told: AtomicBool,
}

impl Reserve {
    /// `bytes` 0: none.
    pub fn new(data_dir: &Path, bytes: u64) -> Reserve {
        Reserve {
            path: data_dir.join(RESERVE_FILE),
            bytes,
            held: AtomicBool::new(false),
            told: AtomicBool::new(false),
        }
    }

    /// Makes it if there is none and enough is free; removes one that is no longer wanted. `free` bytes are free now, of
    /// which `least` should be left.
    pub fn keep(&self, free: u64, least: u64) {
        if self.bytes == 0 {
            // Of an earlier start.
            if !self.told.swap(true, Ordering::Relaxed) && self.path.exists() {
                let _ = std::fs::remove_file(&self.path);
            }
            return;
        }
        if self.held.load(Ordering::Relaxed) {
            return;
        }
        let there = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        let missing = self.bytes.saturating_sub(there);
        if missing > 0 && free < least.saturating_add(missing.saturating_mul(2)) {
            return;
        }
        match self.allocate() {
            Ok(()) => self.held.store(true, Ordering::Relaxed),
            Err(error) => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    log::warn!(
                        "no ballast of {} bytes at {}: {error}; --disk-reserve-bytes=0 does without",
                        self.bytes,
                        self.path.display()
                    );
                }
            }
        }
    }

    fn allocate(&self) -> io::Result<()> {
        let file: File = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&self.path)?;
        file.set_len(self.bytes)?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, self.bytes)?;
        Ok(())
    }

    /// Gives the room up; whether there was any.
    pub fn release(&self) -> bool {
        if !self.held.swap(false, Ordering::Relaxed) {
            return false;
        }
        match std::fs::remove_file(&self.path) {
            Ok(()) => {
                log::warn!(
                    "the disk is full: the ballast of {} bytes is given up, so that what is under way can end",
                    self.bytes
                );
                true
            }
            Err(error) => {
                log::error!("the ballast {} stays: {error}", self.path.display());
                false
            }
        }
    }

    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_room_while_there_is_some_and_gives_it_up_once() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(dir.path(), 1 << 20);
        let path = dir.path().join(RESERVE_FILE);
        reserve.keep(1 << 20, 0);
        assert!(!path.exists(), "there must be room for it twice");
        reserve.keep(3 << 20, 1 << 20);
        assert!(reserve.is_held());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20);
        assert!(reserve.release());
        assert!(!path.exists() && !reserve.release());
        reserve.keep(u64::MAX, 0);
        // Another start that wants none.
        let none = Reserve::new(dir.path(), 0);
        none.keep(u64::MAX, 0);
        assert!(!path.exists() && !none.release());
    }
}
