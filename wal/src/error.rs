//! Everything that can go wrong, with the place and the numbers.

use std::io;
use std::path::PathBuf;

use crate::damage::Damage;
use crate::state::Broken;

/// An error of the log. After one for which [`Error::is_fatal`] holds the process must not answer
/// anything that depends on the log, and must not sync the same file again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {operation} {}, offset {offset}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Offset in bytes, 0 where it has no meaning.
        offset: u64,
        /// The system's answer.
        source: io::Error,
    },
    /// A write took fewer bytes than it was given.
    #[error("short write to {}, offset {offset}: {written} of {expected} bytes", path.display())]
    ShortWrite {
        /// The file.
        path: PathBuf,
        /// Where the write began.
        offset: u64,
        /// Bytes given.
        expected: usize,
        /// Bytes taken.
        written: usize,
    },
    /// No room for the next segment. What was to be appended waits, wholly or in part, and nothing of
    /// it is durable: make room and append the same again.
    #[error("no space to prepare {}: {source}", path.display())]
    NoSpace {
        /// The file that was to be prepared.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The log cannot be used as it is.
    #[error(transparent)]
    Damage(Box<Damage>),
    /// There is no segment in the directory.
    #[error("no log in {}", path.display())]
    NoLog {
        /// The directory.
        path: PathBuf,
    },
    /// There is a segment where a new log was to be created.
    #[error("{} holds a log already: {file}", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
        /// Name of a segment in it.
        file: String,
    },
    /// A later version wrote features that a writer must know.
    #[error("{}: features {features:#x} are unknown, this log may only be read", path.display())]
    ReadOnly {
        /// The segment.
        path: PathBuf,
        /// The unknown bits.
        features: u32,
    },
    /// An option is outside its bounds.
    #[error("{name} {value}: must be {rule}")]
    Option {
        /// Which.
        name: &'static str,
        /// Its value.
        value: u64,
        /// The bounds.
        rule: &'static str,
    },
    /// An entry is larger than the options or the segment size allow. Nothing was appended.
    #[error("entry {index} has {bytes} bytes, at most {max} go into a batch")]
    EntryTooLarge {
        /// Its index.
        index: u64,
        /// Its payload.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// A membership has more ids than [`crate::membership::IDS_MAX`] in one list.
    #[error("a membership list has more than {max} ids")]
    MembershipTooLarge {
        /// The bound.
        max: usize,
    },
    /// The caller asked for something that breaks the log's own rule. Fatal: what the caller
    /// believes about the log is wrong.
    #[error("refused to write: {0}")]
    Order(#[from] Broken),
    /// An earlier failure closed the log for good.
    #[error("the log is closed since an earlier failure: {cause}")]
    Poisoned {
        /// The first failure, as text.
        cause: String,
    },
    /// Entries that are not in the log were asked for.
    #[error("entries {from}..{to} asked for, the log has {first}..{last}")]
    OutOfRange {
        /// First wanted.
        from: u64,
        /// One behind the last wanted.
        to: u64,
        /// First in the log.
        first: u64,
        /// Last in the log.
        last: u64,
    },
    /// The plan has ways out to choose from, and none was chosen.
    #[error("entries may be lost: this repair needs a source to fill them from, or the token {}", token.as_deref().unwrap_or("(there is none)"))]
    NeedsChoice {
        /// What would have to be given to give entries up.
        token: Option<String>,
    },
    /// Another loss was consented to than the plan has.
    #[error("the token {given} is not the plan's: {}", wanted.as_deref().unwrap_or("it has none"))]
    Token {
        /// As given.
        given: String,
        /// The plan's.
        wanted: Option<String>,
    },
    /// A repair cannot be done like this.
    #[error("cannot repair: {why}")]
    Unrepairable {
        /// In words.
        why: String,
    },
    /// A file is not what it was when the plan was made.
    #[error("{} changed since the plan was made", path.display())]
    PlanStale {
        /// The log's directory.
        path: PathBuf,
    },
}

impl Error {
    /// Whether the log must not be used any more.
    pub fn is_fatal(&self) -> bool {
        !matches!(
            self,
            Self::NoSpace { .. }
                | Self::Option { .. }
                | Self::EntryTooLarge { .. }
                | Self::MembershipTooLarge { .. }
                | Self::OutOfRange { .. }
        )
    }

    /// The damage, if that is what it is.
    pub fn damage(&self) -> Option<&Damage> {
        match self {
            Self::Damage(damage) => Some(damage),
            _ => None,
        }
    }
}

impl From<Damage> for Error {
    fn from(damage: Damage) -> Self {
        Self::Damage(Box::new(damage))
    }
}
