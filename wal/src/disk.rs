//! The file operations that the writer asks for, and the face of whoever performs them: a directory
//! ([`crate::dir::DirDisk`]) or a memory disk with faults in tests.

use std::io;
use std::path::PathBuf;

use crate::segment::FileName;

/// One file operation. They are performed one after the other, in the order given; a failed one is
/// never repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// Make `file` exist with `bytes` zeros, all written and synced (its name need not be durable).
    /// It replaces a file of that name. Returns at once if [`Op::PrepareAhead`] did it.
    Prepare {
        /// Always a spare.
        file: FileName,
        /// Its size.
        bytes: u64,
    },
    /// Begin the same beside the operations that follow. A failure shows in the later
    /// [`Op::Prepare`] of that name.
    PrepareAhead {
        /// Always a spare.
        file: FileName,
        /// Its size.
        bytes: u64,
    },
    /// Write `data` at `offset` with one call, inside the size of the file.
    Write {
        /// Where to.
        file: FileName,
        /// In bytes, a multiple of the block.
        offset: u64,
        /// A multiple of the block.
        data: &'a [u8],
    },
    /// Make all completed writes of `file` durable.
    Sync {
        /// Which.
        file: FileName,
    },
    /// Give a file another name.
    Rename {
        /// Old name.
        from: FileName,
        /// New name, not taken.
        to: FileName,
    },
    /// Remove a file.
    Remove {
        /// Which.
        file: FileName,
    },
    /// Make the names in the directory durable.
    SyncDir,
}

impl Op<'_> {
    /// For error messages: what it does.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Prepare { .. } | Self::PrepareAhead { .. } => "prepare",
            Self::Write { .. } => "write",
            Self::Sync { .. } => "sync",
            Self::Rename { .. } => "rename",
            Self::Remove { .. } => "remove",
            Self::SyncDir => "sync the directory",
        }
    }

    /// For error messages: the file and the offset.
    pub fn place(&self) -> (Option<FileName>, u64) {
        match self {
            Self::Write { file, offset, .. } => (Some(*file), *offset),
            Self::Prepare { file, .. }
            | Self::PrepareAhead { file, .. }
            | Self::Sync { file }
            | Self::Remove { file }
            | Self::Rename { from: file, .. } => (Some(*file), 0),
            Self::SyncDir => (None, 0),
        }
    }
}

/// A file in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Name as found.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// Who performs operations and reads files. All calls may block.
pub trait Disk {
    /// Performs one operation; returns the bytes taken by a write and 0 for the others.
    ///
    /// # Errors
    /// What the system says. A short write is no error here.
    fn perform(&mut self, op: &Op<'_>) -> io::Result<usize>;

    /// All files of the directory.
    ///
    /// # Errors
    /// What the system says.
    fn list(&mut self) -> io::Result<Vec<Listed>>;

    /// Fills `buf` from `offset` of `file`, wholly or with an error.
    ///
    /// # Errors
    /// What the system says, or `UnexpectedEof`.
    fn read_at(&mut self, file: FileName, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Forgets clean cached pages of `file`: after a failed sync the cache may show bytes that the
    /// disk never got.
    fn drop_cache(&mut self, file: FileName);

    /// Keeps `bytes` under `name` outside the log, durable, for somebody to look at.
    ///
    /// # Errors
    /// What the system says.
    fn quarantine(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Where a file (or, for `None`, the directory) is, for messages.
    fn path(&self, file: Option<FileName>) -> PathBuf;
}
