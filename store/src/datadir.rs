//! A member's data directory: its names, who it belongs to, who has it open.
//!
//! ```text
//! <data-dir>/IDENTITY      who this is (below); its presence makes the directory a data directory
//!            LOCK          held while in use; text naming the holder
//!            kv/           the engine; other names beside it while a new state takes over (`engines.rs`)
//!            wal/          the log, unless it was put elsewhere at creation
//!            snap/         full snapshots
//!            quarantine/   everything a repair ever removed (`replace.rs`)
//!            SPENT         only if a repair gave up entries that other members may count on
//! <wal-dir>/IDENTITY       a copy, if the log is elsewhere
//!           wal/           the log
//! ```
//!
//! Invariants:
//! * The directory comes to be with one rename: `IDENTITY.creating` to `IDENTITY`, after all else
//!   in it is durable. A directory with the former alone was never used and is made anew; one with
//!   neither is never touched unless it is empty. It works the same on a mount point or a directory
//!   an administrator made, which could not be renamed over.
//! * A data directory and its log carry the same random instance id. One without the other, or
//!   with somebody else's, is refused with both values: a log lost to a missing mount must not make
//!   a member forget what it voted for.
//! * Opening repairs nothing but the permission bits, and says so.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "directories and locks are files"
)]

mod engines;
mod error;
mod identity;
mod lock;
mod reading;
pub mod replace;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub use engines::{Engines, Live, STAGED_DIR};
pub use error::Error;
pub use identity::Identity;
use identity::Role;
pub use lock::{Holder, Lock, Program, utc};
pub use reading::{Reading, holder, recorded_wal_dir};

pub const IDENTITY_FILE: &str = "IDENTITY";
pub const LOCK_FILE: &str = "LOCK";
pub const KV_DIR: &str = "kv";
pub const WAL_DIR: &str = "wal";
pub const SNAP_DIR: &str = "snap";
pub const QUARANTINE_DIR: &str = "quarantine";
/// Says that a repair gave up entries others may count on: the directory's identity is used up.
pub const SPENT_FILE: &str = "SPENT";
/// Control socket of a running node.
pub const ADMIN_SOCKET: &str = "admin.sock";
/// Self-signed certificates.
pub const FIXTURES_DIR: &str = "fixtures";
/// The identity before the directory is complete.
const PENDING_FILE: &str = "IDENTITY.creating";
/// Newest format version this program writes and reads.
pub const FORMAT: u32 = 1;

const KNOWN: [&str; 9] = [
    IDENTITY_FILE,
    LOCK_FILE,
    KV_DIR,
    WAL_DIR,
    SNAP_DIR,
    QUARANTINE_DIR,
    SPENT_FILE,
    ADMIN_SOCKET,
    FIXTURES_DIR,
];
const MODE: u32 = 0o700;

/// What stands at a path given as data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nothing, or an empty directory: may be created.
    Absent,
    /// A creation was interrupted; nothing in it was ever used: may be created again.
    Unfinished,
    /// A data directory.
    Present,
    /// Something else, which nobody but its owner may remove.
    Foreign,
}

/// An open data directory. Keeps it locked until dropped.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    identity: Identity,
    wal_parent: PathBuf,
    notes: Vec<Note>,
    _lock: Lock,
    _wal_lock: Option<Lock>,
}

/// Something an operator should hear about that did not prevent opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The directory was readable or writable by others; its mode is 0700 now.
    ModeTightened { path: PathBuf, was: u32 },
    /// As above, but it belongs to somebody else and stays as it is.
    ModeTooWide { path: PathBuf, mode: u32 },
    /// An entry this program does not know. It is left alone.
    Unknown { path: PathBuf },
    /// One of the two copies of the identity is damaged; the other one is good.
    IdentityCopyDamaged { path: PathBuf, copy: u8 },
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Note::ModeTightened { path, was } => {
                write!(f, "{}: mode was {was:04o}, now {MODE:04o}", path.display())
            }
            Note::ModeTooWide { path, mode } => write!(
                f,
                "{}: mode is {mode:04o}, others may read it; its owner should chmod it to {MODE:04o}",
                path.display()
            ),
            Note::Unknown { path } => write!(f, "{}: not one of ours", path.display()),
            Note::IdentityCopyDamaged { path, copy } => {
                write!(
                    f,
                    "{}: copy {copy} is damaged, the other is good",
                    path.display()
                )
            }
        }
    }
}

/// Looks at `root` without changing anything.
pub fn presence(root: &Path) -> Result<Presence, Error> {
    let exists = |name: &str| {
        let path = root.join(name);
        path.try_exists().map_err(|e| Error::io("look at", path, e))
    };
    if exists(IDENTITY_FILE)? {
        return Ok(Presence::Present);
    }
    if exists(PENDING_FILE)? {
        return Ok(Presence::Unfinished);
    }
    match fs::read_dir(root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Presence::Absent),
        Err(e) => Err(Error::io("list", root, e)),
        Ok(entries) => {
            for entry in entries {
                let entry = entry.map_err(|e| Error::io("list", root, e))?;
                // A fresh file system has the one, a creation that failed at once leaves the other.
                if entry.file_name() != "lost+found" && entry.file_name() != LOCK_FILE {
                    return Ok(Presence::Foreign);
                }
            }
            Ok(Presence::Absent)
        }
    }
}

/// A data directory under construction: the caller makes the log in [`Creation::wal`] and the
/// engine in [`Creation::kv`] (both do not exist yet), then calls [`Creation::finish`]. Dropped
/// without that it stays [`Presence::Unfinished`].
#[derive(Debug)]
pub struct Creation {
    root: PathBuf,
    identity: Identity,
    wal_parent: PathBuf,
    notes: Vec<Note>,
    lock: Lock,
    wal_lock: Option<Lock>,
}

impl Creation {
    /// Starts a data directory at `root`, which must be [`Presence::Absent`] or `Unfinished`, with
    /// the log in it or, if `wal_dir` is given, there (empty, missing, or left by the same
    /// interrupted attempt).
    pub fn begin(
        root: &Path,
        wal_dir: Option<&Path>,
        identity: Identity,
        program: &Program,
    ) -> Result<Self, Error> {
        make_directory(root)?;
        let lock = Lock::exclusive(root, program)?;
        let root = absolute(root)?;
        let wal_dir = wal_dir
            .map(absolute_new)
            .transpose()?
            .filter(|path| *path != root);
        let mut notes = Vec::new();
        tighten(&root, &mut notes)?;
        let wal_lock = match &wal_dir {
            None => None,
            Some(elsewhere) => {
                make_directory(elsewhere)?;
                let wal_lock = Lock::exclusive(elsewhere, program)?;
                clear_wal_dir(&root, elsewhere)?;
                tighten(elsewhere, &mut notes)?;
                Some(wal_lock)
            }
        };
        clear_for_creation(&root)?;
        let recorded = wal_dir.as_deref();
        write_new(
            &root.join(PENDING_FILE),
            &identity::encode(Role::Data, &identity, recorded)?,
        )?;
        sync_directory(&root)?;
        if let Some(elsewhere) = &wal_dir {
            let copy = identity::encode(Role::Log, &identity, recorded)?;
            write_new(&elsewhere.join(IDENTITY_FILE), &copy)?;
            sync_directory(elsewhere)?;
        }
        for name in [SNAP_DIR, QUARANTINE_DIR] {
            make_directory(&root.join(name))?;
        }
        let wal_parent = wal_dir.unwrap_or_else(|| root.clone());
        Ok(Self {
            root,
            identity,
            wal_parent,
            notes,
            lock,
            wal_lock,
        })
    }

    pub fn kv(&self) -> PathBuf {
        self.root.join(KV_DIR)
    }

    pub fn wal(&self) -> PathBuf {
        self.wal_parent.join(WAL_DIR)
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Makes the directory valid. What the caller put into it must be durable already.
    pub fn finish(self) -> Result<DataDir, Error> {
        sync_directory(&self.wal_parent)?;
        sync_directory(&self.root)?;
        let pending = self.root.join(PENDING_FILE);
        fs::rename(&pending, self.root.join(IDENTITY_FILE))
            .map_err(|e| Error::io("rename", pending, e))?;
        sync_directory(&self.root)?;
        Ok(DataDir {
            root: self.root,
            identity: self.identity,
            wal_parent: self.wal_parent,
            notes: self.notes,
            _lock: self.lock,
            _wal_lock: self.wal_lock,
        })
    }
}

impl DataDir {
    /// Opens and locks an existing data directory. `wal_dir` is what the operator configured.
    pub fn open(root: &Path, wal_dir: Option<&Path>, program: &Program) -> Result<Self, Error> {
        let missing = |state| Error::NotADataDir {
            path: root.to_owned(),
            state,
        };
        match presence(root)? {
            Presence::Present => {}
            state => return Err(missing(state)),
        }
        let lock = Lock::exclusive(root, program)?;
        let root = absolute(root)?;
        let mut notes = Vec::new();
        let (identity, recorded) =
            identity::read(&root.join(IDENTITY_FILE), Role::Data, &mut notes)?;
        if let Ok(why) = fs::read_to_string(root.join(SPENT_FILE)) {
            return Err(Error::Spent {
                path: root,
                member_id: identity.member_id,
                why: why.trim().to_owned(),
            });
        }
        let configured = wal_dir.map(absolute_new).transpose()?;
        let (wal_parent, wal_lock) = match find_wal(&root, &identity, recorded, configured)? {
            None => (root.clone(), None),
            Some(elsewhere) => {
                let wal_lock = Lock::exclusive(&elsewhere, program)?;
                check_wal_identity(&root, &identity, &elsewhere, &mut notes)?;
                tighten(&elsewhere, &mut notes)?;
                (elsewhere, Some(wal_lock))
            }
        };
        tighten(&root, &mut notes)?;
        note_unknown(&root, &mut notes)?;
        for name in [SNAP_DIR, QUARANTINE_DIR] {
            make_directory(&root.join(name))?;
        }
        Ok(Self {
            root,
            identity,
            wal_parent,
            notes,
            _lock: lock,
            _wal_lock: wal_lock,
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

    /// The engine's directory after [`Engines::settle`]. It may be missing: then the caller rebuilds
    /// it from the log or refuses, depending on where the log begins.
    pub fn kv(&self) -> PathBuf {
        self.root.join(KV_DIR)
    }

    /// The engine's directory and those that may take its place.
    pub fn engines(&self) -> Engines {
        Engines::new(&self.root)
    }

    /// The log's directory; exists.
    pub fn wal(&self) -> PathBuf {
        self.wal_parent.join(WAL_DIR)
    }

    pub fn snap(&self) -> PathBuf {
        self.root.join(SNAP_DIR)
    }

    pub fn quarantine(&self) -> PathBuf {
        self.root.join(QUARANTINE_DIR)
    }

    pub fn admin_socket(&self) -> PathBuf {
        self.root.join(ADMIN_SOCKET)
    }
}

/// Reads the identity of the data directory at `root` without locking it or changing anything.
pub fn peek(root: &Path) -> Result<Identity, Error> {
    match presence(root)? {
        Presence::Present => {
            Ok(identity::read(&root.join(IDENTITY_FILE), Role::Data, &mut Vec::new())?.0)
        }
        state => Err(Error::NotADataDir {
            path: root.to_owned(),
            state,
        }),
    }
}

/// Decides where the log is: `None` inside, else the directory that holds it. Checks it is there.
fn find_wal(
    root: &Path,
    identity: &Identity,
    recorded: Option<PathBuf>,
    configured: Option<PathBuf>,
) -> Result<Option<PathBuf>, Error> {
    let parent = match (recorded, configured) {
        (None, Some(configured)) if configured != root => {
            // Somebody may have moved the log out with its identity; without one it is not ours.
            if !exists(&configured.join(IDENTITY_FILE))? {
                return Err(Error::WalElsewhere {
                    path: root.to_owned(),
                    recorded: root.join(WAL_DIR),
                    configured: Some(configured),
                });
            }
            Some(configured)
        }
        (None, _) => None,
        (Some(recorded), None) => {
            return Err(Error::WalElsewhere {
                path: root.to_owned(),
                recorded,
                configured: None,
            });
        }
        // The record is where it was made; a moved one is accepted if it carries our identity.
        (Some(_), Some(configured)) => Some(configured),
    };
    let wal = parent.as_deref().unwrap_or(root).join(WAL_DIR);
    if !exists(&wal)? {
        return Err(Error::WalMissing {
            path: wal,
            root: root.to_owned(),
            instance: identity::hex(&identity.instance_id),
        });
    }
    Ok(parent)
}

fn check_wal_identity(
    root: &Path,
    identity: &Identity,
    wal_parent: &Path,
    notes: &mut Vec<Note>,
) -> Result<(), Error> {
    let path = wal_parent.join(IDENTITY_FILE);
    if !exists(&path)? {
        return Err(Error::WalMissing {
            path,
            root: root.to_owned(),
            instance: identity::hex(&identity.instance_id),
        });
    }
    let (found, _) = identity::read(&path, Role::Log, notes)?;
    if found != *identity {
        return Err(Error::WalOfAnother {
            path,
            root: root.to_owned(),
            expected: identity::describe(identity),
            found: identity::describe(&found),
        });
    }
    Ok(())
}

/// Removes what an interrupted creation left; refuses anything else but emptiness.
fn clear_for_creation(directory: &Path) -> Result<(), Error> {
    match presence(directory)? {
        Presence::Absent => Ok(()),
        Presence::Unfinished => empty(directory, PENDING_FILE),
        state => Err(Error::Occupied {
            path: directory.to_owned(),
            state,
        }),
    }
}

/// Empties a log directory for a creation: only what an interrupted creation of `root` put there.
fn clear_wal_dir(root: &Path, wal_dir: &Path) -> Result<(), Error> {
    let state = presence(wal_dir)?;
    if state == Presence::Present {
        let pending = root.join(PENDING_FILE);
        let attempt = identity::read(&pending, Role::Data, &mut Vec::new());
        let found = identity::read(&wal_dir.join(IDENTITY_FILE), Role::Log, &mut Vec::new());
        let ours = matches!((attempt, found), (Ok((a, _)), Ok((b, _))) if a == b);
        if ours {
            empty(wal_dir, IDENTITY_FILE)?;
            return Ok(());
        }
    }
    match state {
        Presence::Absent => Ok(()),
        _ => Err(Error::Occupied {
            path: wal_dir.to_owned(),
            state,
        }),
    }
}

/// Removes all of `directory` but its lock, `last` after everything else.
fn empty(directory: &Path, last: &str) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(|e| Error::io("list", directory, e))? {
        let path = entry.map_err(|e| Error::io("list", directory, e))?.path();
        let name = path.file_name().unwrap_or_default();
        if name == LOCK_FILE || name == "lost+found" || name == last {
            continue;
        }
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
        let removed = if is_dir {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(|e| Error::io("remove", path, e))?;
    }
    sync_directory(directory)?;
    let last = directory.join(last);
    fs::remove_file(&last).map_err(|e| Error::io("remove", last, e))
}

/// Makes the last component of `path` with mode 0700 if it is missing.
fn make_directory(path: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(MODE).create(path) {
        Ok(()) => match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
            _ => sync_directory(Path::new(".")),
        },
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(Error::io("create", path, e)),
    }
}

fn tighten(path: &Path, notes: &mut Vec<Note>) -> Result<(), Error> {
    let meta = fs::metadata(path).map_err(|e| Error::io("look at", path, e))?;
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    notes.push(
        match fs::set_permissions(path, Permissions::from_mode(MODE)) {
            Ok(()) => Note::ModeTightened {
                path: path.to_owned(),
                was: mode,
            },
            Err(_) => Note::ModeTooWide {
                path: path.to_owned(),
                mode,
            },
        },
    );
    Ok(())
}

fn note_unknown(root: &Path, notes: &mut Vec<Note>) -> Result<(), Error> {
    for entry in fs::read_dir(root).map_err(|e| Error::io("list", root, e))? {
        let entry = entry.map_err(|e| Error::io("list", root, e))?;
        let name = entry.file_name();
        let known = |name: &str| KNOWN.contains(&name) || engines::is_engine(name);
        if name != "lost+found" && !name.to_str().is_some_and(known) {
            notes.push(Note::Unknown { path: entry.path() });
        }
    }
    Ok(())
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let written = File::create_new(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|e| Error::io("write", path, e))
}

fn sync_directory(path: &Path) -> Result<(), Error> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|e| Error::io("sync", path, e))
}

fn exists(path: &Path) -> Result<bool, Error> {
    path.try_exists().map_err(|e| Error::io("look at", path, e))
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    fs::canonicalize(path).map_err(|e| Error::io("resolve", path, e))
}

/// As [`absolute`], for a path that may not exist yet.
fn absolute_new(path: &Path) -> Result<PathBuf, Error> {
    match fs::canonicalize(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            std::path::absolute(path).map_err(|e| Error::io("resolve", path, e))
        }
        resolved => resolved.map_err(|e| Error::io("resolve", path, e)),
    }
}
