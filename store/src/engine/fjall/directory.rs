//! The engine's directory: made whole, recognised by our own marker, never entered when something
//! is missing. fjall would take the loss of a file for a new database or delete what it cannot name.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use ::fjall::PersistMode;

use super::super::{EngineError, Space, doctor};
use super::{Options, Spaces, open_database, open_spaces};

/// Name of our marker in the engine's directory.
pub const MARKER_FILE: &str = "kvstore";
/// Version of what lies under the marker: fjall 3 format, two keyspaces named as [`Space::name`].
const FORMAT: u32 = 1;
/// Suffix of the sibling a directory is built under before it gets its name.
const CREATING_SUFFIX: &str = ".creating";

/// Builds an engine at `directory`: creates it under a temporary name, lets `fill` put content into
/// the empty spaces, writes the marker, syncs and renames. On error the half-built copy stays under
/// its temporary name, which no open looks at and the next attempt replaces.
pub(crate) fn build<E: From<EngineError>>(
    directory: &Path,
    options: &Options,
    fill: impl FnOnce(&Filling) -> Result<(), E>,
) -> Result<(), E> {
    let occupied = directory
        .try_exists()
        .map_err(|e| EngineError::io("look at", directory, e))?;
    if occupied {
        return Err(EngineError::State {
            path: directory.to_owned(),
            detail: "exists already; a new store is only made where nothing is".to_owned(),
        }
        .into());
    }
    let mut beside = directory.as_os_str().to_owned();
    beside.push(CREATING_SUFFIX);
    let beside = PathBuf::from(beside);
    match std::fs::remove_dir_all(&beside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(EngineError::io("remove", beside, e).into());
        }
        _ => {}
    }
    let database = open_database(&beside, options)?;
    let spaces = open_spaces(&database, &beside)?;
    let marker = Marker {
        state: spaces.state.id(),
        hist: spaces.hist.id(),
    };
    let filling = Filling {
        spaces,
        directory: beside.clone(),
    };
    fill(&filling)?;
    drop(filling);
    database
        .persist(PersistMode::SyncAll)
        .map_err(|e| broken("sync", &beside, e))?;
    drop(database);
    write_marker(&beside, &marker)?;
    sync_tree(&beside)?;
    std::fs::rename(&beside, directory).map_err(|e| EngineError::io("rename", &beside, e))?;
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok(sync_directory(parent)?)
}

/// Access to the spaces of an engine under construction, also for several threads.
pub(crate) struct Filling {
    spaces: Spaces,
    directory: PathBuf,
}

/// Takes a key and its value.
pub(crate) type Put<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), EngineError> + 'a;

impl Filling {
    /// Lets `fill` put items straight into new tables of `space`. Keys must ascend strictly, and none may lie between those of
    /// another call (checked by the caller: fjall panics on disorder). Atomic per call.
    pub(crate) fn ingest<E: From<EngineError>>(
        &self,
        space: Space,
        fill: impl FnOnce(&mut Put<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |e| broken("write", &self.directory, e);
        // Begun with the first item: one that stays empty would leave a file that no open accepts.
        let mut ingestion = None;
        fill(&mut |key, value| {
            let begun = match &mut ingestion {
                Some(begun) => begun,
                none => none.insert(self.spaces.of(space).start_ingestion().map_err(failed)?),
            };
            begun.write(key, value).map_err(failed)
        })?;
        match ingestion {
            Some(ingestion) => Ok(ingestion.finish().map_err(failed)?),
            None => Ok(()),
        }
    }
}

/// The keyspace numbers fjall gave our two spaces: the names of their directories.
pub(super) struct Marker {
    state: u64,
    hist: u64,
}

fn write_marker(directory: &Path, marker: &Marker) -> Result<(), EngineError> {
    let Marker { state, hist } = marker;
    let body = format!("kvstore {FORMAT}\nstate {state}\nhist {hist}\n");
    let check = xxhash_rust::xxh3::xxh3_64(body.as_bytes());
    let path = directory.join(MARKER_FILE);
    let written = File::create_new(&path).and_then(|mut file| {
        file.write_all(format!("{body}check {check:016x}\n").as_bytes())?;
        file.sync_all()
    });
    written.map_err(|e| EngineError::io("write", &path, e))?;
    sync_directory(directory)
}

pub(super) fn read_marker(directory: &Path) -> Result<Marker, EngineError> {
    let path = directory.join(MARKER_FILE);
    let text = std::fs::read_to_string(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound if !directory.exists() => EngineError::State {
            path: directory.to_owned(),
            detail: "there is no store here".to_owned(),
        },
        std::io::ErrorKind::NotFound => EngineError::Corrupt {
            path: path.clone(),
            detail: "the store's marker file is missing".to_owned(),
        },
        std::io::ErrorKind::InvalidData => EngineError::Corrupt {
            path: path.clone(),
            detail: "not text".to_owned(),
        },
        _ => EngineError::io("read", &path, e),
    })?;
    let damaged = |detail: &str| EngineError::Corrupt {
        path: path.clone(),
        detail: detail.to_owned(),
    };
    let lines: Vec<_> = text
        .lines()
        .map(|line| line.split_once(' ').unwrap_or_default())
        .collect();
    if let Some(("kvstore", version)) = lines.first()
        && *version != FORMAT.to_string()
    {
        return Err(EngineError::Version {
            path,
            found: (*version).to_owned(),
            expected: FORMAT.to_string(),
        });
    }
    let [
        ("kvstore", _),
        ("state", state),
        ("hist", hist),
        ("check", check),
    ] = lines[..]
    else {
        return Err(damaged("not a marker file of a store"));
    };
    let body = text.split_inclusive('\n').take(3).collect::<String>();
    let expected = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(body.as_bytes()));
    if check != expected {
        return Err(damaged(&format!("checksum {check}, computed {expected}")));
    }
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|_| damaged("a number is malformed"))
    };
    Ok(Marker {
        state: number(state)?,
        hist: number(hist)?,
    })
}

/// Refuses a directory in which fjall would start anew, delete something, or panic.
pub(super) fn check_files(directory: &Path, marker: &Marker) -> Result<(), EngineError> {
    let keyspaces = directory.join("keyspaces");
    // Number 0 is fjall's own list of keyspaces.
    let manifests = [0, marker.state, marker.hist]
        .map(|number| keyspaces.join(number.to_string()).join("current"));
    for needed in std::iter::once(directory.join("version")).chain(manifests) {
        if !needed
            .try_exists()
            .map_err(|e| EngineError::io("look at", &needed, e))?
        {
            return Err(EngineError::Corrupt {
                path: needed,
                detail: "this file is missing; rebuild this member from a snapshot or its peers"
                    .to_owned(),
            });
        }
    }
    if doctor::newest(directory)?.is_none() {
        return Err(EngineError::Corrupt {
            path: directory.to_owned(),
            detail: "there is no journal (*.jnl); without it newer writes would be shadowed by \
                     older ones; rebuild this member from a snapshot or its peers"
                .to_owned(),
        });
    }
    let failed = |e| EngineError::io("list", &keyspaces, e);
    for entry in std::fs::read_dir(&keyspaces).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry
            .file_name()
            .to_str()
            .is_none_or(|name| name.parse::<u64>().is_err())
        {
            return Err(EngineError::Corrupt {
                path: entry.path(),
                detail: "does not belong here; move it away".to_owned(),
            });
        }
    }
    Ok(())
}

/// Takes fjall's own lock, so that the doctor and another process never meet.
pub(super) fn lock(directory: &Path) -> Result<File, EngineError> {
    let path = directory.join("lock");
    let opened = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = opened.map_err(|e| EngineError::io("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(EngineError::Locked {
            path: directory.to_owned(),
        }),
        Err(std::fs::TryLockError::Error(e)) => Err(EngineError::io("lock", path, e)),
    }
}

/// Syncs all directories from `directory` down; the files in them are synced by who wrote them.
fn sync_tree(directory: &Path) -> Result<(), EngineError> {
    let failed = |e| EngineError::io("list", directory, e);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            sync_tree(&entry.path())?;
        }
    }
    sync_directory(directory)
}

fn sync_directory(directory: &Path) -> Result<(), EngineError> {
    let synced = File::open(directory).and_then(|file| file.sync_all());
    synced.map_err(|e| EngineError::io("sync", directory, e))
}

/// Sorts fjall's errors into ours.
pub(super) fn broken(action: &'static str, directory: &Path, error: ::fjall::Error) -> EngineError {
    use ::fjall::{Error, LsmError};
    let path = directory.to_owned();
    match error {
        Error::Io(e) | Error::Storage(LsmError::Io(e)) => EngineError::io(action, path, e),
        Error::Poisoned => EngineError::Poisoned { path },
        Error::Locked => EngineError::Locked { path },
        Error::InvalidVersion(found) => EngineError::Version {
            path: path.join("version"),
            found: format!("{found:?}"),
            expected: "V3".to_owned(),
        },
        Error::Storage(LsmError::ChecksumMismatch { got, expected }) => EngineError::Corrupt {
            path,
            detail: format!(
                "could not {action} it: a block has checksum {got:?}, expected {expected:?}"
            ),
        },
        Error::Storage(LsmError::Unrecoverable) | Error::Unrecoverable => EngineError::Corrupt {
            path,
            detail: format!("could not {action} it: a table is missing, cut short or unknown"),
        },
        other => EngineError::Corrupt {
            path,
            detail: format!("could not {action} it: {other:?}"),
        },
    }
}
