//! Puts a newly built directory in the place of a live one, keeps the old one, and takes that back.
//!
//! ```text
//! quarantine/<utc>-<operation>/         one replacement; the names sort by time
//!            INTENT                     what is to be replaced by what; durable before anything moves
//!            DONE                       written after: what the live tree was like then
//!            UNDONE                     written after it was taken back
//!            <tree>/                    first the new tree, then, after the exchange, the old one
//!            KEPT                       instead of all these files: what a running node has put aside (`engines.rs`)
//! ```
//!
//! Invariants:
//! * The live directory changes with one exchange of names, so a crash leaves the old tree or the new
//!   one, whole. Which of the two it was is told by the directories themselves (their inode numbers,
//!   noted before), not by the files beside them.
//! * Where the file system cannot exchange, three renames do it; [`settle`] goes through with them
//!   after a crash.
//! * Nothing is removed here but trees that never were live.
//! * Whoever calls holds the data directory's lock.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::lock::utc;
use super::{Error, QUARANTINE_DIR, SPENT_FILE, make_directory, sync_directory};

const INTENT: &str = "INTENT";
const DONE: &str = "DONE";
const UNDONE: &str = "UNDONE";
const KEPT: &str = "KEPT";
const OLD_SUFFIX: &str = ".old";

/// A replacement being prepared. Dropped without [`Replacement::commit`] it is removed.
#[derive(Debug)]
pub struct Replacement {
    home: PathBuf,
    operation: String,
    now_ms: u64,
    committed: bool,
    /// The mark made for it.
    spent: Option<PathBuf>,
}

/// How far a replacement came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its tree was never live.
    Unfinished,
    /// The live tree is its; the old one is kept.
    Done,
    /// Taken back: the old tree is live again.
    Undone,
    /// Put aside by a running node for whoever examines it. Nothing takes it back: the log has gone on without it.
    Aside,
}

/// A replacement as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its directory's name.
    pub id: String,
    pub path: PathBuf,
    pub operation: String,
    pub state: State,
    /// When it was made, unix milliseconds.
    pub created_ms: u64,
    /// Name of the tree, and of the live directory beside the quarantine. Empty if it was never meant to go live.
    pub tree: String,
    pub live: PathBuf,
    pub note: String,
    /// Bytes of what is kept; linked files count although they take no space twice.
    pub bytes: u64,
    /// What the live tree was like after the exchange; `None` if that was not noted.
    fingerprint: Option<u64>,
}

impl Replacement {
    /// Makes room for a new tree beside the live one, in `parent/quarantine`.
    ///
    /// # Errors
    /// The file system's.
    pub fn begin(parent: &Path, operation: &str, now_ms: u64) -> Result<Self, Error> {
        Ok(Self {
            home: make_home(parent, operation, now_ms)?,
            operation: operation.to_owned(),
            now_ms,
            committed: false,
            spent: None,
        })
    }

    /// Where the new tree is to be built; does not exist yet.
    pub fn tree(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// The replacement's own directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    pub fn id(&self) -> String {
        self.home
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// Marks the identity of the data directory `root` as used up by this replacement, durably. A crash before the exchange
    /// leaves a mark that is known to mean nothing ([`void_spent`]).
    ///
    /// # Errors
    /// The file system's.
    pub fn mark_spent(&mut self, root: &Path, why: &str) -> Result<(), Error> {
        let path = root.join(SPENT_FILE);
        self.spent = Some(path.clone());
        let text = format!("{}; {}\n", why.replace('\n', " "), self.id());
        write_synced(&path, &text)?;
        sync_directory(root)
    }

    /// Puts the tree `name`, complete and durable, in the place of `live`, which lies beside the quarantine.
    /// After `Ok` that is durable.
    ///
    /// # Errors
    /// The file system's. The live tree is whole in any case.
    pub fn commit(mut self, name: &str, live: &Path, note: &str) -> Result<Kept, Error> {
        let tree = self.tree(name);
        let live_name = live
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let text = format!(
            "kvnode replacement 1\noperation {}\ncreated {}\ntree {name}\nlive {}\ninode {}\nnote {}\n",
            self.operation,
            self.now_ms,
            live_name.unwrap_or_default(),
            inode(&tree)?.unwrap_or(0),
            note.replace('\n', " "),
        );
        let check = xxh3_64(text.as_bytes());
        write_synced(
            &self.home.join(INTENT),
            &format!("{text}check {check:016x}\n"),
        )?;
        sync_directory(&self.home)?;
        if let Some(quarantine) = self.home.parent() {
            sync_directory(quarantine)?;
        }
        // From here on the directory holds what must not be lost.
        self.committed = true;
        exchange(&tree, live)?;
        finish(&self.home, live)?;
        read(&self.home)?.ok_or_else(|| {
            Error::io(
                "read",
                self.home.join(INTENT),
                io::ErrorKind::NotFound.into(),
            )
        })
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.committed {
            // What is left of it is found and dropped by the next one; the mark first, it is known by the rest.
            if let Some(spent) = &self.spent {
                let _ = fs::remove_file(spent);
            }
            let _ = fs::remove_dir_all(&self.home);
        }
    }
}

/// A directory of its own in `parent/quarantine`.
fn make_home(parent: &Path, operation: &str, now_ms: u64) -> Result<PathBuf, Error> {
    let quarantine = parent.join(QUARANTINE_DIR);
    make_directory(&quarantine)?;
    let stamp = stamp(now_ms);
    for number in 0u32.. {
        let suffix = if number == 0 {
            String::new()
        } else {
            format!(".{number}")
        };
        let home = quarantine.join(format!("{stamp}{suffix}-{operation}"));
        match fs::create_dir(&home) {
            Ok(()) => return Ok(home),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("create", home, e)),
        }
    }
    unreachable!("some number is free")
}

/// Makes a directory in `parent/quarantine` for a tree that is put aside, durably; `note` says what it is.
///
/// # Errors
/// The file system's.
pub(super) fn make_aside(
    parent: &Path,
    operation: &str,
    now_ms: u64,
    note: &str,
) -> Result<PathBuf, Error> {
    let home = make_home(parent, operation, now_ms)?;
    let text = format!("created {now_ms}\nnote {}\n", note.replace('\n', " "));
    write_synced(&home.join(KEPT), &text)?;
    sync_directory(&home)?;
    if let Some(quarantine) = home.parent() {
        sync_directory(quarantine)?;
    }
    Ok(home)
}

/// Everything kept in `parent/quarantine`, oldest first. Changes nothing.
///
/// # Errors
/// The file system's.
pub fn list(parent: &Path) -> Result<Vec<Kept>, Error> {
    let quarantine = parent.join(QUARANTINE_DIR);
    let entries = match fs::read_dir(&quarantine) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list", quarantine, e)),
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list", &quarantine, e))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.extend(read(&entry.path())?);
        }
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(all)
}

/// After a crash: goes through with replacements in `parent` that had begun to move and removes those that had not, with what
/// they had marked in the data directory `root`.
/// Returns what it did, one line each.
///
/// # Errors
/// The file system's.
pub fn settle(parent: &Path, root: &Path) -> Result<Vec<String>, Error> {
    let mut did = Vec::new();
    for kept in list(parent)? {
        let tree = kept.path.join(&kept.tree);
        let old = with_suffix(&tree, OLD_SUFFIX);
        let halfway = !kept.tree.is_empty() && old.exists();
        if halfway {
            if !kept.live.exists() {
                rename(&tree, &kept.live)?;
            }
            if !tree.exists() {
                rename(&old, &tree)?;
            }
            sync_both(&tree, &kept.live)?;
            finish(&kept.path, &kept.live)?;
            did.push(format!("finished {}, which had been interrupted", kept.id));
        } else if kept.state == State::Unfinished {
            // While its directory is there it is known that the mark means nothing.
            let marked = root.join(SPENT_FILE).exists();
            if marked && void_spent(root, std::iter::once(parent))? {
                did.push(format!("{} gave nothing up: removed SPENT", kept.id));
            }
            fs::remove_dir_all(&kept.path)
                .map_err(|e| Error::io("remove", kept.path.clone(), e))?;
            did.push(format!("dropped {}, which had been interrupted", kept.id));
        } else if kept.state == State::Done && !kept.path.join(DONE).exists() {
            finish(&kept.path, &kept.live)?;
        }
    }
    Ok(did)
}

/// Removes the mark of a spent identity if the repair that made it was interrupted before the exchange, so that nothing was
/// given up. `parents` are where its replacement may be. Whoever calls holds the data directory's lock.
///
/// # Errors
/// The file system's.
pub fn void_spent<'a>(root: &Path, parents: impl Iterator<Item = &'a Path>) -> Result<bool, Error> {
    let path = root.join(SPENT_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(e) => return Err(Error::io("read", path, e)),
    };
    // The last words name the replacement; a mark that was itself cut short was never followed by an exchange, but who
    // wrote it is not known then.
    let Some(id) = text.trim_end().rsplit("; ").next().filter(|id| is_id(id)) else {
        return Ok(false);
    };
    for parent in parents {
        let home = parent.join(QUARANTINE_DIR).join(id);
        // One that had begun to move is gone through with later.
        let untouched = |kept: &Kept| {
            let old = with_suffix(&home.join(&kept.tree), OLD_SUFFIX);
            kept.state == State::Unfinished && (kept.tree.is_empty() || !old.exists())
        };
        if home.is_dir() && read(&home)?.as_ref().is_some_and(untouched) {
            fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
            sync_directory(root)?;
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_id(id: &str) -> bool {
    id.split_once('-')
        .is_some_and(|(stamp, _)| stamp.ends_with('Z') || stamp.contains("Z."))
        && !id.contains('/')
}

/// Whether the live tree is still what the replacement made of it.
///
/// # Errors
/// The file system's.
pub fn is_untouched(kept: &Kept) -> Result<bool, Error> {
    Ok(kept.fingerprint == Some(fingerprint(&kept.live)?))
}

/// Makes the old tree live again, byte for byte; the other one is kept in its place.
///
/// # Errors
/// The file system's. The live tree is whole in any case.
pub fn undo(kept: &Kept) -> Result<(), Error> {
    exchange(&kept.path.join(&kept.tree), &kept.live)?;
    write_synced(&kept.path.join(UNDONE), "")?;
    sync_directory(&kept.path)
}

/// Removes what a replacement keeps, for good.
///
/// # Errors
/// The file system's.
pub fn forget(kept: &Kept) -> Result<(), Error> {
    fs::remove_dir_all(&kept.path).map_err(|e| Error::io("remove", kept.path.clone(), e))
}

/// Bytes of all files below `path`, and how many there are. What vanishes meanwhile is passed over.
pub fn tree_bytes(path: &Path) -> (u64, u64) {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return (0, 0);
    };
    if !meta.is_dir() {
        return (meta.blocks() * 512, 1);
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.fold((0, 0), |(bytes, files), entry| {
        let (more_bytes, more_files) = tree_bytes(&entry.path());
        (bytes + more_bytes, files + more_files)
    })
}

fn read(home: &Path) -> Result<Option<Kept>, Error> {
    let id = home
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    // Torn tails of journals and logs lie in the quarantine as well, as plain files or in directories of
    // other names.
    let Some((_, operation)) = id
        .split_once('-')
        .filter(|(stamp, _)| stamp.ends_with('Z') || stamp.contains("Z."))
    else {
        return Ok(None);
    };
    let read = |name: &str| match fs::read_to_string(home.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", home.join(name), e)),
    };
    if let Some(text) = read(KEPT)? {
        let field = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        };
        return Ok(Some(Kept {
            path: home.to_owned(),
            operation: operation.to_owned(),
            state: State::Aside,
            created_ms: field("created").and_then(|ms| ms.parse().ok()).unwrap_or(0),
            note: field("note").unwrap_or_default().to_owned(),
            bytes: tree_bytes(home).0,
            fingerprint: None,
            id,
            tree: String::new(),
            live: PathBuf::new(),
        }));
    }
    let text = read(INTENT)?.unwrap_or_default();
    let whole = text.rsplit_once("check ").is_some_and(|(body, check)| {
        check.trim_end() == format!("{:016x}", xxh3_64(body.as_bytes()))
    });
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .filter(|_| whole)
            .unwrap_or_default()
            .to_owned()
    };
    let parent = home
        .parent()
        .and_then(Path::parent)
        .unwrap_or(Path::new("."));
    let (tree, live) = (field("tree"), parent.join(field("live")));
    let noted = field("inode").parse().ok();
    let done = fs::read_to_string(home.join(DONE)).ok();
    let state = match noted {
        None => State::Unfinished,
        Some(noted) => {
            let mine = inode(&home.join(&tree))? == Some(noted);
            let lives = inode(&live)? == Some(noted);
            match (mine, lives, &done) {
                (true, _, None) => State::Unfinished,
                (true, _, Some(_)) => State::Undone,
                (false, true, _) => State::Done,
                // A copied directory has other numbers.
                (false, false, _) if home.join(UNDONE).exists() => State::Undone,
                (false, false, Some(_)) => State::Done,
                (false, false, None) => State::Done,
            }
        }
    };
    let fingerprint = done.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    Ok(Some(Kept {
        path: home.to_owned(),
        operation: operation.to_owned(),
        state,
        created_ms: field("created").parse().unwrap_or(0),
        note: field("note"),
        bytes: tree_bytes(home).0,
        fingerprint,
        id,
        tree,
        live,
    }))
}

/// Notes that the exchange is done, and what the live tree is like.
fn finish(home: &Path, live: &Path) -> Result<(), Error> {
    let fingerprint = fingerprint(live)?;
    write_synced(&home.join(DONE), &format!("{fingerprint:016x}\n"))?;
    sync_directory(home)
}

/// Names, sizes and times of change of all files below `path`.
fn fingerprint(path: &Path) -> Result<u64, Error> {
    fn add(path: &Path, hash: &mut Xxh3) -> io::Result<()> {
        let mut entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let meta = entry.metadata()?;
            hash.update(entry.file_name().as_encoded_bytes());
            if meta.is_dir() {
                add(&entry.path(), hash)?;
            } else {
                for number in [meta.len() as i64, meta.mtime(), meta.mtime_nsec()] {
                    hash.update(&number.to_le_bytes());
                }
            }
        }
        Ok(())
    }
    let mut hash = Xxh3::new();
    add(path, &mut hash).map_err(|e| Error::io("list", path, e))?;
    Ok(hash.digest())
}

/// Gives two directories each other's names, durably.
fn exchange(one: &Path, two: &Path) -> Result<(), Error> {
    match renameat_with(CWD, one, CWD, two, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
            step_by_step(one, two)?;
        }
        Err(e) => return Err(Error::io("exchange", two, e.into())),
    }
    sync_both(one, two)
}

/// As [`exchange`], where there is no such call.
fn step_by_step(one: &Path, two: &Path) -> Result<(), Error> {
    let old = with_suffix(one, OLD_SUFFIX);
    rename(two, &old)?;
    sync_both(one, two)?;
    rename(one, two)?;
    sync_both(one, two)?;
    rename(&old, one)
}

fn sync_both(one: &Path, two: &Path) -> Result<(), Error> {
    for path in [one, two] {
        if let Some(parent) = path.parent() {
            sync_directory(parent)?;
        }
    }
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(|e| Error::io("rename", from, e))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn inode(path: &Path) -> Result<Option<u64>, Error> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("look at", path, e)),
    }
}

pub(super) fn write_synced(path: &Path, text: &str) -> Result<(), Error> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|e| Error::io("write", path, e))
}

/// `20260131T120000Z`.
fn stamp(now_ms: u64) -> String {
    let text = utc(now_ms / 1000);
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let (day, time) = digits.split_at(8.min(digits.len()));
    format!("{day}T{time}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A live directory with one file that says `old`, and a replacement that says `new`.
    fn prepared(root: &Path) -> (PathBuf, Replacement) {
        let live = root.join("wal");
        fs::create_dir_all(&live).unwrap();
        fs::write(live.join("file"), "old").unwrap();
        let replacement = Replacement::begin(root, "test", 1_767_225_600_000).unwrap();
        fs::create_dir(replacement.tree("wal")).unwrap();
        fs::write(replacement.tree("wal").join("file"), "new").unwrap();
        (live, replacement)
    }

    fn says(live: &Path) -> String {
        fs::read_to_string(live.join("file")).unwrap()
    }

    #[test]
    fn a_replacement_takes_the_place_is_listed_and_is_taken_back() {
        let root = tempfile::tempdir().unwrap();
        let (live, replacement) = prepared(root.path());
        assert_eq!(replacement.id(), "20260101T000000Z-test");
        let kept = replacement.commit("wal", &live, "a note").unwrap();
        assert_eq!((says(&live).as_str(), kept.state), ("new", State::Done));
        assert!(is_untouched(&kept).unwrap());
        assert!(settle(root.path(), root.path()).unwrap().is_empty());
        let listed = list(root.path()).unwrap();
        assert_eq!(listed, std::slice::from_ref(&kept));
        assert_eq!(
            (listed[0].note.as_str(), listed[0].operation.as_str()),
            ("a note", "test")
        );
        undo(&kept).unwrap();
        assert_eq!(says(&live), "old");
        assert_eq!(list(root.path()).unwrap()[0].state, State::Undone);
        forget(&kept).unwrap();
        assert!(list(root.path()).unwrap().is_empty());
    }

    #[test]
    fn one_that_is_given_up_or_interrupted_before_the_exchange_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let (live, replacement) = prepared(root.path());
        let home = replacement.home().to_owned();
        drop(replacement);
        assert!(!home.exists());
        let (_, replacement) = prepared(root.path());
        std::mem::forget(replacement);
        assert_eq!(list(root.path()).unwrap()[0].state, State::Unfinished);
        assert_eq!(settle(root.path(), root.path()).unwrap().len(), 1);
        assert_eq!(
            (says(&live).as_str(), list(root.path()).unwrap().len()),
            ("old", 0)
        );
    }

    #[test]
    fn a_tree_that_changed_since_is_told() {
        let root = tempfile::tempdir().unwrap();
        let (live, replacement) = prepared(root.path());
        let kept = replacement.commit("wal", &live, "").unwrap();
        fs::write(live.join("more"), "x").unwrap();
        assert!(!is_untouched(&kept).unwrap());
    }

    #[test]
    fn without_an_exchange_of_names_every_interruption_is_gone_through_with() {
        for steps in 1..=3 {
            let root = tempfile::tempdir().unwrap();
            let (live, replacement) = prepared(root.path());
            let tree = replacement.tree("wal");
            // The intent, then as many renames as there was time for.
            let copy = root.path().join("elsewhere");
            let text = format!(
                "kvnode replacement 1\noperation test\ncreated 1\ntree wal\nlive wal\ninode {}\nnote \n",
                inode(&tree).unwrap().unwrap()
            );
            let check = xxh3_64(text.as_bytes());
            write_synced(
                &replacement.home().join(INTENT),
                &format!("{text}check {check:016x}\n"),
            )
            .unwrap();
            std::mem::forget(replacement);
            let old = with_suffix(&tree, OLD_SUFFIX);
            rename(&live, &old).unwrap();
            if steps > 1 {
                rename(&tree, &live).unwrap();
            }
            if steps > 2 {
                rename(&old, &tree).unwrap();
            }
            settle(root.path(), root.path()).unwrap();
            assert_eq!(says(&live), "new", "{steps}");
            let kept = list(root.path()).unwrap().remove(0);
            assert_eq!(kept.state, State::Done);
            undo(&kept).unwrap();
            assert_eq!(says(&live), "old");
            assert!(!copy.exists());
        }
    }
}
