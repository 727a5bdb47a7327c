//! A data directory built beside its place, that gets its name last.
//!
//! ```text
//! <data-dir>.kvutil-restore     the directory while it is built, complete but for its name
//! <wal-dir>.kvutil-restore      the log's own one, if it is elsewhere
//! ```
//!
//! Invariants:
//! * Until the last rename there is nothing at the data directory's place (or the empty directory that was there), after it all is.
//! * Where the log is elsewhere its directory gets its name first. A kill in between leaves a named log without a data
//!   directory; the next attempt at the same place knows it by the instance id it shares with what was left beside, and drops both.
//! * What is left beside belongs to whoever has its lock; without one it is dropped by the next attempt.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::identity::{self, Identity, Role};
use super::{
    Creation, DataDir, Error, IDENTITY_FILE, LOCK_FILE, Lock, PENDING_FILE, Presence, Program,
    absolute_new, presence, sync_directory,
};

/// What the directory is called while it is built: its name and this.
pub const BESIDE_SUFFIX: &str = ".kvutil-restore";

/// See the module text. Dropped without [`Placing::place`] it is removed.
#[derive(Debug)]
pub struct Placing {
    data: Beside,
    wal: Option<Beside>,
    creation: Option<Creation>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct Beside {
    built: PathBuf,
    target: PathBuf,
}

impl Beside {
    fn of(target: &Path) -> Result<Self, Error> {
        let target = absolute_new(target)?;
        let mut built = target.as_os_str().to_owned();
        built.push(BESIDE_SUFFIX);
        Ok(Self {
            built: built.into(),
            target,
        })
    }

    /// Gives the directory its name. What stands there is an empty directory at most.
    fn rename(&self) -> Result<(), Error> {
        let _ = fs::remove_file(self.target.join(LOCK_FILE));
        fs::rename(&self.built, &self.target)
            .map_err(|e| Error::io("rename to its place", &self.target, e))?;
        match self.target.parent() {
            Some(parent) => sync_directory(parent),
            None => Ok(()),
        }
    }
}

impl Placing {
    /// Begins a data directory that is to be at `target`, with the log in it or at `wal_target`.
    ///
    /// # Errors
    /// [`Error::Occupied`] if something is at a place; [`Error::Locked`] if somebody else builds there.
    pub fn begin(
        target: &Path,
        wal_target: Option<&Path>,
        identity: Identity,
        program: &Program,
    ) -> Result<Self, Error> {
        let data = Beside::of(target)?;
        let wal = wal_target.map(Beside::of).transpose()?;
        let wal = wal.filter(|wal| wal.target != data.target);
        let mut notes = Vec::new();
        clear(&data, wal.as_ref(), program, &mut notes)?;
        for place in std::iter::once(&data).chain(&wal) {
            let state = presence(&place.target)?;
            if state != Presence::Absent {
                return Err(Error::Occupied {
                    path: place.target.clone(),
                    state,
                });
            }
        }
        let mut placing = Self {
            data,
            wal,
            creation: None,
            notes,
        };
        let built = placing.wal.as_ref().map(|wal| wal.built.as_path());
        let named = placing.wal.as_ref().map(|wal| wal.target.as_path());
        let creation =
            Creation::begin_beside(&placing.data.built, built.zip(named), identity, program)?;
        placing.creation = Some(creation);
        Ok(placing)
    }

    /// What an interrupted attempt had left, one line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The directories that are there until the end only.
    pub fn built(&self) -> Vec<PathBuf> {
        std::iter::once(&self.data)
            .chain(&self.wal)
            .map(|place| place.built.clone())
            .collect()
    }

    /// Where the engine is to be made.
    pub fn kv(&self) -> PathBuf {
        self.data.built.join(super::KV_DIR)
    }

    /// Where the log is to be made.
    pub fn wal(&self) -> PathBuf {
        let parent = self.wal.as_ref().unwrap_or(&self.data);
        parent.built.join(super::WAL_DIR)
    }

    /// Gives it its name. What was put into it is durable already.
    ///
    /// # Errors
    /// The file system's. Before the last rename nothing is at the place.
    pub fn place(mut self) -> Result<(), Error> {
        let complete = self.creation.take().map(Creation::finish).transpose()?;
        if let Some(wal) = &self.wal {
            wal.rename()?;
        }
        let renamed = self.data.rename();
        if let (Err(_), Some(wal)) = (&renamed, &self.wal) {
            let _ = fs::remove_dir_all(&wal.target);
        }
        // Locked until it has its name, so that nobody takes it for a leftover.
        drop::<Option<DataDir>>(complete);
        renamed
    }
}

impl Drop for Placing {
    fn drop(&mut self) {
        self.creation = None;
        for built in self.built() {
            // After a rename there is nothing of that name; what cannot be removed the next attempt finds.
            let _ = fs::remove_dir_all(built);
        }
    }
}

/// Drops what an interrupted attempt left.
fn clear(
    data: &Beside,
    wal: Option<&Beside>,
    program: &Program,
    notes: &mut Vec<String>,
) -> Result<(), Error> {
    let left = [Some(data), wal].into_iter().flatten();
    for place in left.filter(|place| place.built.exists()) {
        // Whoever still builds there has it locked.
        let _lock = Lock::exclusive(&place.built, program)?;
        if let Some(wal) = wal {
            drop_named_log(data, wal, notes)?;
        }
        fs::remove_dir_all(&place.built).map_err(|e| Error::io("remove", &place.built, e))?;
        notes.push(format!(
            "dropped {}, which an interrupted run had left",
            place.built.display()
        ));
    }
    Ok(())
}

/// A log that got its name before the kill, if it is the one of the data directory left beside.
fn drop_named_log(data: &Beside, wal: &Beside, notes: &mut Vec<String>) -> Result<(), Error> {
    let log = wal.target.join(IDENTITY_FILE);
    let found = identity::read(&log, Role::Log, &mut Vec::new());
    let left = [IDENTITY_FILE, PENDING_FILE]
        .into_iter()
        .find_map(|name| identity::read(&data.built.join(name), Role::Data, &mut Vec::new()).ok());
    let ours = matches!((&found, &left), (Ok((found, _)), Some((left, _))) if found == left);
    if ours && presence(&data.target)? == Presence::Absent {
        match fs::remove_dir_all(&wal.target) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &wal.target, e));
            }
            _ => notes.push(format!(
                "dropped {}, the log of the same run",
                wal.target.display()
            )),
        }
    }
    Ok(())
}
