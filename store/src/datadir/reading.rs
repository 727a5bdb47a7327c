//! A data directory that is only looked at: nothing is made, tightened, settled or written.

use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::lock::Lock;
use super::{
    Engines, Error, Holder, IDENTITY_FILE, Identity, LOCK_FILE, Live, Note, Presence,
    QUARANTINE_DIR, Role, WAL_DIR, absolute, absolute_new, check_wal_identity, find_wal, identity,
    presence,
};

/// A data directory open for reading, locked against programs that write until dropped. Several may read.
#[derive(Debug)]
pub struct Reading {
    root: PathBuf,
    identity: Identity,
    wal_parent: PathBuf,
    notes: Vec<Note>,
    _locks: Vec<Lock>,
}

impl Reading {
    /// Opens a data directory for reading. Without `wal_dir` the log is taken where it was made.
    ///
    /// # Errors
    /// [`Error::Locked`] while a program that writes has it; as [`super::DataDir::open`].
    pub fn open(root: &Path, wal_dir: Option<&Path>) -> Result<Self, Error> {
        match presence(root)? {
            Presence::Present => {}
            state => {
                return Err(Error::NotADataDir {
                    path: root.to_owned(),
                    state,
                });
            }
        }
        let mut locks: Vec<Lock> = Lock::shared_if_there(root)?.into_iter().collect();
        let root = absolute(root)?;
        let mut notes = Vec::new();
        let (identity, recorded) =
            identity::read(&root.join(IDENTITY_FILE), Role::Data, &mut notes)?;
        let configured = wal_dir.map(absolute_new).transpose()?;
        let configured = configured.or_else(|| recorded.clone());
        let wal_parent = match find_wal(&root, &identity, recorded, configured)? {
            None => root.clone(),
            Some(elsewhere) => {
                locks.extend(Lock::shared_if_there(&elsewhere)?);
                check_wal_identity(&root, &identity, &elsewhere, &mut notes)?;
                elsewhere
            }
        };
        Ok(Self {
            root,
            identity,
            wal_parent,
            notes,
            _locks: locks,
        })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What was found on opening that the operator should hear of.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// The log's directory; exists.
    pub fn wal(&self) -> PathBuf {
        self.wal_parent.join(WAL_DIR)
    }

    /// Where the log is kept if that is not the data directory itself.
    pub fn wal_elsewhere(&self) -> Option<&Path> {
        (self.wal_parent != self.root).then_some(&self.wal_parent)
    }

    /// The live engine; its path may be missing.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub fn live(&self) -> Result<Live, Error> {
        Engines::new(&self.root).live()
    }

    /// Where what repairs replaced is kept, one directory per file system involved.
    pub fn quarantines(&self) -> Vec<PathBuf> {
        let mut all = vec![self.root.join(QUARANTINE_DIR)];
        all.extend(self.wal_elsewhere().map(|path| path.join(QUARANTINE_DIR)));
        all
    }
}

/// Where a data directory's log was made, if not inside it. Changes and locks nothing.
///
/// # Errors
/// As [`super::peek`].
pub fn recorded_wal_dir(root: &Path) -> Result<Option<PathBuf>, Error> {
    let (_, recorded) = identity::read(&root.join(IDENTITY_FILE), Role::Data, &mut Vec::new())?;
    Ok(recorded)
}

/// Whether a program that writes has the directory open, and which. Takes no lock that outlasts the call.
///
/// # Errors
/// The file system's.
pub fn holder(root: &Path) -> Result<Option<Option<Holder>>, Error> {
    let path = root.join(LOCK_FILE);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("open", path, e)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // Best effort: the holder may be writing its text just now.
            let _ = (&mut file).take(4096).read_to_string(&mut text);
            Ok(Some(Holder::parse(&text)))
        }
        Err(TryLockError::Error(e)) => Err(Error::io("lock", path, e)),
    }
}
