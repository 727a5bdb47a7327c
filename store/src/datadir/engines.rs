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
//! kv.keep               names a generation that is not removed but put aside, and where
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
//!
//! A member whose state was found to be wrong gets another one of the *same* index ([`Engines::keep_live`]). That needs no mark:
//! log and index stay what they are, so old and new state are both good for a start, and the rename alone decides. What
//! it replaces goes to the quarantine, at the latest with the next start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::replace::{make_aside, write_synced};
use super::{Error, KV_DIR, sync_directory};

/// A state that waits for its time.
pub const STAGED_DIR: &str = "kv.staged";
/// The same while it is being built; see `engine/fjall/directory.rs`.
const BUILDING_DIR: &str = "kv.staged.creating";
const GENERATION_PREFIX: &str = "kv-";
/// What is to become of a generation that is about to be replaced: `<generation's directory> <where to>`, and their check.
const KEEP_FILE: &str = "kv.keep";

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

    /// Before a [`take_over`](Self::take_over): the live engine's directory is not to be removed when another has taken over
    /// and nobody reads it any more, but to be put aside. Durable. Returns where it will be, in `quarantine/`; `note` says there
    /// what it is.
    ///
    /// # Errors
    /// The file system's. Nothing is to be kept then.
    pub fn keep_live(&self, operation: &str, now_ms: u64, note: &str) -> Result<PathBuf, Error> {
        let live = self.live()?.path;
        let home = make_aside(&self.root, operation, now_ms, note)?;
        let text = format!("{} {}", name_of(&live), name_of(&home));
        let check = xxh3_64(text.as_bytes());
        write_synced(
            &self.root.join(KEEP_FILE),
            &format!("{text} {check:016x}\n"),
        )?;
        sync_directory(&self.root)?;
        Ok(home.join(KV_DIR))
    }

    /// Takes [`keep_live`](Self::keep_live) back: nothing has taken over.
    ///
    /// # Errors
    /// The file system's.
    pub fn keep_nothing(&self) -> Result<(), Error> {
        let Some((_, place)) = self.keep()? else {
            return self.end_keep();
        };
        self.end_keep()?;
        // There is nothing in it but the note.
        match place.parent() {
            Some(home) if !place.exists() => remove_directory(home),
            _ => Ok(()),
        }
    }

    /// Which directory is to be put aside, and where. A file that does not check was never followed by a take-over.
    fn keep(&self) -> Result<Option<(PathBuf, PathBuf)>, Error> {
        let path = self.root.join(KEEP_FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", path, e)),
        };
        let whole = text
            .trim_end()
            .rsplit_once(' ')
            .filter(|(words, check)| *check == format!("{:016x}", xxh3_64(words.as_bytes())));
        let named = whole.and_then(|(words, _)| words.split_once(' '));
        Ok(named.map(|(directory, home)| {
            let quarantine = self.root.join(super::QUARANTINE_DIR);
            (
                self.root.join(directory),
                quarantine.join(home).join(KV_DIR),
            )
        }))
    }

    fn end_keep(&self) -> Result<(), Error> {
        let path = self.root.join(KEEP_FILE);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => {
                removed.map_err(|e| Error::io("remove", &path, e))?;
                sync_directory(&self.root)
            }
        }
    }

    /// An older generation goes: to where it is to be kept, or for good. Returns where it is kept.
    fn put_away(&self, older: &Path) -> Result<Option<PathBuf>, Error> {
        match self.keep()? {
            Some((kept, place)) if kept == older && !place.exists() => {
                fs::rename(older, &place).map_err(|e| Error::io("rename", older, e))?;
                if let Some(home) = place.parent() {
                    sync_directory(home)?;
                }
                sync_directory(&self.root)?;
                self.end_keep()?;
                Ok(Some(place))
            }
            _ => {
                remove_directory(older)?;
                Ok(None)
            }
        }
    }

    /// Removes the directory of a generation below the live one, which nobody reads any more, or puts it aside if it is to be
    /// kept; then it returns where it is.
    ///
    /// # Errors
    /// The file system's. `path` is left alone, without an error, if it is not of a lower generation.
    pub fn remove_older(&self, path: &Path) -> Result<Option<PathBuf>, Error> {
        let mut kept = None;
        if self.live()?.older.iter().any(|older| older == path) {
            kept = self.put_away(path)?;
            sync_directory(&self.root)?;
        }
        Ok(kept)
    }

    /// At a start, with no engine open: removes lower generations (or puts them aside, see
    /// [`keep_live`](Self::keep_live)) and half-built ones and gives the live one its plain name. Leaves alone what is staged.
    ///
    /// # Errors
    /// The file system's.
    pub fn settle(&self) -> Result<PathBuf, Error> {
        let live = self.live()?;
        for older in &live.older {
            self.put_away(older)?;
        }
        // Left if nothing had taken over; the live one must not be put aside by a later take-over.
        self.keep_nothing()?;
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
    name == STAGED_DIR || name == BUILDING_DIR || name == KEEP_FILE || generation_of(name).is_some()
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy());
    name.unwrap_or_default().into_owned()
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

    /// Where the state of the plain name went, by what it says.
    fn aside(root: &Path) -> Vec<String> {
        let kept = crate::datadir::replace::list(root).unwrap();
        let told = kept.iter().map(|kept| {
            assert_eq!(kept.state, crate::datadir::replace::State::Aside);
            content(&kept.path.join("kv"))
        });
        told.collect()
    }

    #[test]
    fn a_generation_to_be_kept_is_put_aside_and_no_other_one() {
        let root = tempfile::tempdir().unwrap();
        let engines = Engines::new(root.path());
        make(root.path(), "kv");
        make(root.path(), "kv.staged");
        let place = engines
            .keep_live("resync", 1_767_225_600_000, "why")
            .unwrap();
        assert!(place.ends_with("quarantine/20260101T000000Z-resync/kv"));
        engines.take_over().unwrap();
        let old = root.path().join("kv");
        assert_eq!(engines.remove_older(&old).unwrap(), Some(place.clone()));
        assert_eq!(names(root.path()), ["kv-1", "quarantine"]);
        assert_eq!(aside(root.path()), ["kv"]);
        // What takes over next replaces in the usual way.
        make(root.path(), "kv.staged");
        engines.take_over().unwrap();
        let old = root.path().join("kv-1");
        assert_eq!(engines.remove_older(&old).unwrap(), None);
        assert_eq!(names(root.path()), ["kv-2", "quarantine"]);
        // A tool's look after interrupted replacements leaves it alone.
        let settled = crate::datadir::replace::settle(root.path(), root.path());
        assert!(settled.unwrap().is_empty());
        assert_eq!(content(&place), "kv");
    }

    #[test]
    fn a_kill_around_a_take_over_that_keeps_the_old_one_loses_neither() {
        for taken_over in [false, true] {
            for torn in [false, true] {
                let root = tempfile::tempdir().unwrap();
                let engines = Engines::new(root.path());
                make(root.path(), "kv");
                make(root.path(), "kv.staged");
                engines.keep_live("resync", 0, "why").unwrap();
                if torn && !taken_over {
                    // The take-over comes after the file is synced, so only before it can the file be cut short.
                    fs::write(root.path().join(KEEP_FILE), "kv 1970").unwrap();
                }
                if taken_over {
                    engines.take_over().unwrap();
                }
                for _ in 0..2 {
                    let live = engines.settle().unwrap();
                    let wanted = if taken_over { "kv.staged" } else { "kv" };
                    assert_eq!(content(&live), wanted);
                    assert!(!root.path().join(KEEP_FILE).exists());
                }
                if taken_over {
                    assert_eq!(aside(root.path()), ["kv"]);
                }
            }
        }
    }
}
