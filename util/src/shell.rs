//! What every command gets: where results and progress go, and the few services all share.

use std::path::{Path, PathBuf};

use kvnode_store::datadir::{DataDir, Program, replace};

use crate::failure::{Code, Failure, Result};
use crate::output::{Output, human};
use crate::process;
use crate::progress::Mode;

pub struct Shell {
    pub output: Output,
    pub progress: Mode,
    pub scratch: PathBuf,
    pub quiet: bool,
}

impl Shell {
    /// A remark for the operator, on stderr.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            eprintln!("note:  {text}");
        }
    }

    /// Refuses work that needs more space than there is, before anything is written.
    pub fn need_space(&self, place: &Path, needed: u64, next: &str) -> Result<()> {
        let existing = place
            .ancestors()
            .find(|path| path.exists())
            .unwrap_or(Path::new("/"));
        let stat = rustix::fs::statvfs(existing)
            .map_err(|e| Failure::io("look at the file system of", existing, &e.into()))?;
        let available = stat.f_bavail.saturating_mul(stat.f_frsize);
        // What others write meanwhile.
        let wanted = needed + needed / 10 + (16 << 20);
        if available < wanted {
            return Err(Failure::new(
                Code::Space,
                format!(
                    "not enough space at {}: needed {} ({wanted} bytes), available {} ({available} bytes)",
                    existing.display(),
                    human(wanted),
                    human(available)
                ),
                next,
            ));
        }
        Ok(())
    }

    /// A directory of our own that vanishes with it.
    pub fn scratch(&self) -> Result<Scratch> {
        let make = || -> Result<_> {
            for number in 0u32..10_000 {
                let name = format!("kvutil-{}-{number}", std::process::id());
                let path = self.scratch.join(name);
                use std::os::unix::fs::DirBuilderExt as _;
                match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                    Ok(()) => return Ok((path.clone(), vec![path])),
                    Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                    Err(e) => {
                        return Err(
                            Failure::io("make a scratch directory in", &self.scratch, &e)
                                .hint("name another place with --scratch-dir"),
                        );
                    }
                }
            }
            Err(Failure::new(
                Code::Failed,
                format!(
                    "{} is full of old scratch directories",
                    self.scratch.display()
                ),
                format!("ls -d {}/kvutil-*", self.scratch.display()),
            ))
        };
        let (path, guards) = process::make_guarded(make)?;
        Ok(Scratch {
            path,
            _guards: guards,
        })
    }

    /// Opens a data directory for changing it: locked against everybody, and after bringing to an end what an
    /// interrupted run left.
    pub fn open_to_write(&self, data_dir: &Path, wal_dir: Option<&Path>) -> Result<DataDir> {
        let recorded = match wal_dir {
            Some(_) => None,
            None => kvnode_store::datadir::peek(data_dir)
                .and_then(|_| kvnode_store::datadir::recorded_wal_dir(data_dir))?,
        };
        // A log that went missing between two renames has to come back before the directory opens.
        for parent in [Some(data_dir), wal_dir, recorded.as_deref()]
            .into_iter()
            .flatten()
        {
            if parent.join("quarantine").is_dir() {
                let lock = kvnode_store::datadir::Lock::exclusive(parent, &program())?;
                for line in replace::settle(parent, data_dir)? {
                    self.note(&line);
                }
                drop(lock);
            }
        }
        Ok(DataDir::open(
            data_dir,
            wal_dir.or(recorded.as_deref()),
            &program(),
        )?)
    }
}

/// See [`Shell::scratch`].
pub struct Scratch {
    path: PathBuf,
    _guards: Vec<process::Guarded>,
}

impl Scratch {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

pub fn program() -> Program {
    Program {
        name: "kvutil".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        started: process::now_ms() / 1000,
    }
}
