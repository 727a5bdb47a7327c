//! Why a data directory was refused, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::lock::holder_text;
use super::{FORMAT, Holder, Presence};

/// Why a data directory was not made or opened. [`Error::hint`] is what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{} {}", path.display(), match state {
        Presence::Absent => "does not exist or is empty: no data directory",
        Presence::Unfinished => "was left by a creation that did not finish",
        Presence::Present => "is a data directory",
        Presence::Foreign => "is not empty and not a data directory (no IDENTITY file)",
    })]
    NotADataDir { path: PathBuf, state: Presence },

    #[error("cannot create a data directory at {}: {}", path.display(), match state {
        Presence::Present => "there is one already",
        _ => "it holds something else",
    })]
    Occupied { path: PathBuf, state: Presence },

    #[error("{} is held by {}", path.display(), holder_text(holder))]
    Locked {
        path: PathBuf,
        holder: Option<Holder>,
    },

    #[error("{}: user {user} may not write here (owner {owner}, mode {mode:04o})", path.display())]
    Access {
        path: PathBuf,
        user: u32,
        owner: u32,
        mode: u32,
    },

    /// See [`super::SPENT_FILE`].
    #[error("{}: member {member_id:x} must not take part again under its identity: {why}", path.display())]
    Spent {
        path: PathBuf,
        member_id: u64,
        why: String,
    },

    #[error("{} is damaged: {detail}", path.display())]
    IdentityCorrupt { path: PathBuf, detail: String },

    #[error("{}: format version {found}, this program knows {FORMAT}", path.display())]
    Version { path: PathBuf, found: u32 },

    /// The log, or its copy of the identity, is not where it should be.
    #[error("{} is missing: the log of {} (instance {instance})", path.display(), root.display())]
    WalMissing {
        path: PathBuf,
        root: PathBuf,
        instance: String,
    },

    #[error(
        "{}: expected the log of {} ({expected}), found that of {found}",
        path.display(), root.display()
    )]
    WalOfAnother {
        path: PathBuf,
        root: PathBuf,
        expected: String,
        found: String,
    },

    /// The configured place of the log is not the one recorded at creation.
    #[error(
        "the log of {} was made in {}, configured is {}",
        path.display(),
        recorded.display(),
        configured.as_ref().map_or("none".to_owned(), |p| p.display().to_string())
    )]
    WalElsewhere {
        path: PathBuf,
        recorded: PathBuf,
        configured: Option<PathBuf>,
    },

    #[error("{}: not usable as a recorded path (text without line feeds, under 2 KiB)", path.display())]
    Path { path: PathBuf },

    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl Error {
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Error::Io {
            action,
            path: path.into(),
            source,
        }
    }

    /// The next step for an operator, one sentence.
    pub fn hint(&self) -> String {
        match self {
            Error::NotADataDir {
                path,
                state: Presence::Foreign,
            } => format!(
                "look into {}; give an empty or new directory with --data-dir",
                path.display()
            ),
            Error::NotADataDir { .. } => {
                "check --data-dir and that its file system is mounted".to_owned()
            }
            Error::Occupied { .. } => "give an empty or new directory with --data-dir".to_owned(),
            Error::Locked { path, .. } => {
                format!(
                    "stop that process first; `fuser -v {}` shows it",
                    path.display()
                )
            }
            Error::Access { path, user, .. } => {
                format!("run as the owner, or: chown -R {user} {}", path.display())
            }
            Error::Spent {
                path, member_id, ..
            } => format!(
                "on another member: etcdctl member remove {member_id:x}, then member add, then start here \
                 with an empty directory; to take the repair back: kvutil data undo --data-dir {}",
                path.display()
            ),
            Error::IdentityCorrupt { path, .. } => format!(
                "kvutil data check --data-dir {}",
                path.parent().unwrap_or(path).display()
            ),
            Error::Version { path, .. } => format!(
                "use the program version that wrote it, or: kvutil data migrate --data-dir {}",
                path.parent().unwrap_or(path).display()
            ),
            Error::WalMissing { path, root, .. } => format!(
                "mount or restore {}; if it is lost for good this member must rejoin: \
                 kvutil recover plan --data-dir {}",
                path.parent().unwrap_or(path).display(),
                root.display()
            ),
            Error::WalOfAnother { .. } => {
                "check --wal-dir and --data-dir: one of them is another member's".to_owned()
            }
            Error::WalElsewhere {
                recorded,
                configured: None,
                ..
            } => {
                format!("--wal-dir {}", recorded.display())
            }
            Error::WalElsewhere { .. } => "start without --wal-dir".to_owned(),
            Error::Path { .. } => "choose a plain path".to_owned(),
            Error::Io { path, .. } => format!("ls -ld {}", path.display()),
        }
    }
}
