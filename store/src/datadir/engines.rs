//! Which directory holds the engine, and how another one takes its place.
//!
//! A member that was too far behind gets its whole state anew. That state is built beside the one in
//! use and takes over while readers of the old one go on reading, so no directory is ever renamed
//! while it is open: the names are generations.
//!
//! ```text
//! kv                    generation 0: where a member's engine is made, and is found after a clean start
//! kv-<n>                generation n > 0: took over from n - 1 while the member ran
//! kv.staged             complete and durable, not in use
//! kv.staged.creating    being built
//! ```
//!
//! The highest generation present is the live one; lower ones are what readers may still hold, and
//! are garbage after a start. Taking over is one rename of `kv.staged`, which nobody has open, to the
//! next generation. It is done after the log has a synced mark that says so, which makes the order of
//! events, and what a start makes of a crash behind each:
//!
//! | after | found at the start | result |
//! |---|---|---|
//! | part of the build | `kv.staged.creating` | removed; old state |
//! | the build | `kv.staged`, no mark | removed; old state |
//! | the mark is synced | mark above the live engine's index, `kv.staged` at the mark | takes over; new state |
//! | the rename, its directory not synced | one of the two lines around this one | new state |
//! | the rename | `kv-<n + 1>` at or above the mark | old one removed; new state |
//! | part of the old one's removal | the same | new state |
//! | its removal | `kv-<n + 1>` alone | renamed to `kv`; new state |
//!
//! A mark above the live engine's index without a fitting `kv.staged` is no crash of ours: refused.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Error, KV_DIR, sync_directory};

/// A state that waits for its time.
pub const STAGED_DIR: &str = "kv.staged";
/// The same while it is being built; see `engine/fjall/directory.rs`.
const BUILDING_DIR: &str = "kv.staged.creating";
const GENERATION_PREFIX: &str = "kv-";

/// The engine directories of one data directory. Knows their names only; whoever calls holds the
/// data directory's lock and sees to it that no two calls run at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engines {
    root: PathBuf,
}

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// The live engine's directory. Missing if there is no engine at all.
    pub path: PathBuf,
    pub generation: u64,
    /// Directories of lower generations.
    pub older: Vec<PathBuf>,
}

impl Engines {
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Finds the live engine. Changes nothing, so a tool may ask as well.
    ///
    /// # Errors
    /// If the data directory cannot be listed.
    pub fn live(&self) -> Result<Live, Error> {
        let failed = |e| Error::io("list", &self.root, e);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if let Some(generation) = name.to_str().and_then(generation_of) {
                found.push((generation, entry.path()));
            }
        }
        found.sort_unstable();
        let (generation, path) = found.pop().unwrap_or_else(|| (0, self.root.join(KV_DIR)));
        Ok(Live {
            path,
            generation,
            older: found.into_iter().map(|(_, path)| path).collect(),
        })
    }

    /// Where a new state is built (see `import::into_fjall`) and waits.
    pub fn staged(&self) -> PathBuf {
        self.root.join(STAGED_DIR)
    }

    /// Removes what is staged, complete or not.
    ///
    /// # Errors
    /// The file system's.
    pub fn discard_staged(&self) -> Result<(), Error> {
        // The complete one loses its name first: half removed it must not look like a whole one.
        let (staged, building) = (self.staged(), self.root.join(BUILDING_DIR));
        remove_directory(&building)?;
        match fs::rename(&staged, &building) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            renamed => {
                renamed.map_err(|e| Error::io("rename", &staged, e))?;
                sync_directory(&self.root)?;
                remove_directory(&building)?;
            }
        }
        sync_directory(&self.root)
    }

    /// What is staged becomes the next generation, durably. The log's mark has to be synced already.
    /// Returns its directory.
    ///
    /// # Errors
    /// The file system's; above all if nothing is staged.
    pub fn take_over(&self) -> Result<PathBuf, Error> {
        let next = self.live()?.generation + 1;
        let path = self.root.join(format!("{GENERATION_PREFIX}{next}"));
        let staged = self.staged();
        fs::rename(&staged, &path).map_err(|e| Error::io("rename", staged, e))?;
        sync_directory(&self.root)?;
        Ok(path)
    }

    /// Removes the directory of a generation below the live one, which nobody reads any more.
    ///
    /// # Errors
    /// The file system's. `path` is left alone, without an error, if it is not of a lower generation.
    pub fn remove_older(&self, path: &Path) -> Result<(), Error> {
        if self.live()?.older.iter().any(|older| older == path) {
            remove_directory(path)?;
            sync_directory(&self.root)?;
        }
        Ok(())
    }

    /// At a start, with no engine open: removes lower generations and half-built ones and gives the
    /// live one its plain name. Leaves alone what is staged.
    ///
    /// # Errors
    /// The file system's.
    pub fn settle(&self) -> Result<PathBuf, Error> {
        let live = self.live()?;
        for older in &live.older {
            remove_directory(older)?;
        }
        remove_directory(&self.root.join(BUILDING_DIR))?;
        let plain = self.root.join(KV_DIR);
        if live.generation > 0 {
            // The removals must not come after the rename on the disk.
            sync_directory(&self.root)?;
            fs::rename(&live.path, &plain).map_err(|e| Error::io("rename", &live.path, e))?;
            sync_directory(&self.root)?;
        }
        Ok(plain)
    }
}

/// Whether an entry of a data directory is one of these.
pub(super) fn is_engine(name: &str) -> bool {
    name == STAGED_DIR || name == BUILDING_DIR || generation_of(name).is_some()
}

fn generation_of(name: &str) -> Option<u64> {
    if name == KV_DIR {
        return Some(0);
    }
    let digits = name.strip_prefix(GENERATION_PREFIX)?;
    let generation = digits.parse::<u64>().ok()?;
    (generation > 0 && generation.to_string() == digits).then_some(generation)
}

fn remove_directory(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|e| Error::io("remove", path, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(root: &Path, name: &str) {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("file"), name).unwrap();
    }

    fn names(root: &Path) -> Vec<String> {
        let entries = fs::read_dir(root).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn content(path: &Path) -> String {
        fs::read_to_string(path.join("file")).unwrap()
    }

    #[test]
    fn the_highest_generation_is_live_and_other_names_count_for_nothing() {
        let root = tempfile::tempdir().unwrap();
        let engines = Engines::new(root.path());
        assert_eq!(engines.live().unwrap().path, root.path().join("kv"));
        for name in ["kv-0", "kv-01", "kv-x", "kv-", "kvs", "kv.staged"] {
            make(root.path(), name);
        }
        assert_eq!(engines.live().unwrap().generation, 0);
        for name in ["kv", "kv-2", "kv-10"] {
            make(root.path(), name);
        }
        let live = engines.live().unwrap();
        assert_eq!(
            (live.path, live.generation),
            (root.path().join("kv-10"), 10)
        );
        assert_eq!(
            live.older,
            ["kv", "kv-2"].map(|name| root.path().join(name))
        );
    }

    #[test]
    fn taking_over_leaves_the_old_one_to_its_readers_and_settling_gives_the_plain_name_back() {
        let root = tempfile::tempdir().unwrap();
        let engines = Engines::new(root.path());
        make(root.path(), "kv");
        make(root.path(), "kv.staged");
        let taken = engines.take_over().unwrap();
        assert_eq!(
            (content(&taken), names(root.path())),
            ("kv.staged".into(), vec!["kv".into(), "kv-1".into()])
        );
        engines.remove_older(&taken).unwrap();
        assert_eq!(
            names(root.path()),
            ["kv", "kv-1"],
            "the live one is not removed"
        );
        make(root.path(), "kv.staged.creating");
        for _ in 0..2 {
            assert_eq!(content(&engines.settle().unwrap()), "kv.staged");
            assert_eq!(names(root.path()), ["kv"]);
        }
        assert!(engines.take_over().is_err(), "nothing is staged");
    }

    #[test]
    fn a_start_after_a_kill_at_any_point_settles_on_a_whole_state() {
        // What each row of the table leaves behind, and what has to be live then.
        let rows: [(&[&str], &str); 6] = [
            (&["kv", "kv.staged.creating"], "kv"),
            (&["kv", "kv.staged"], "kv"),
            (&["kv", "kv-1"], "kv-1"),
            (&["kv-1"], "kv-1"),
            (&["kv-1", "kv-2", "kv.staged.creating"], "kv-2"),
            (&["kv", "kv-3", "kv.staged"], "kv-3"),
        ];
        for (left, wanted) in rows {
            let root = tempfile::tempdir().unwrap();
            left.iter().for_each(|name| make(root.path(), name));
            let engines = Engines::new(root.path());
            assert_eq!(content(&engines.settle().unwrap()), wanted, "{left:?}");
            let staged = left.contains(&"kv.staged");
            assert_eq!(engines.staged().exists(), staged, "{left:?}");
            engines.discard_staged().unwrap();
            assert_eq!(names(root.path()), ["kv"], "{left:?}");
        }
    }

    #[test]
    fn discarding_takes_whole_and_half_built_ones() {
        let root = tempfile::tempdir().unwrap();
        let engines = Engines::new(root.path());
        engines.discard_staged().unwrap();
        make(root.path(), "kv.staged");
        make(root.path(), "kv.staged.creating");
        engines.discard_staged().unwrap();
        assert_eq!(names(root.path()), [""; 0]);
    }
}
