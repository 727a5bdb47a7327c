//! What went wrong, the exit code, and the command to type next.

use std::process::ExitCode;

use kvnode_store::datadir;
use kvnode_store::engine::EngineError;

/// Exit codes; they only ever grow in number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Failed = 1,
    Usage = 2,
    Damage = 3,
    Repairable = 4,
    Locked = 5,
    Space = 6,
    Refused = 7,
    Version = 8,
    Io = 9,
}

/// How a command ended that could do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Fine,
    /// It could do its work, and found damage or differences.
    Damage,
    /// It found only what `repair --apply` mends without losing anything acknowledged.
    Repairable,
}

impl Outcome {
    pub fn exit_code(self) -> ExitCode {
        match self {
            Outcome::Fine => ExitCode::SUCCESS,
            Outcome::Damage => ExitCode::from(Code::Damage as u8),
            Outcome::Repairable => ExitCode::from(Code::Repairable as u8),
        }
    }
}

/// Why a command could not do its work.
#[derive(Debug)]
pub struct Failure {
    code: Code,
    what: String,
    hint: String,
    next: String,
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// `next` is a command line.
    pub fn new(code: Code, what: impl Into<String>, next: impl Into<String>) -> Self {
        Failure {
            code,
            what: what.into(),
            hint: String::new(),
            next: next.into(),
        }
    }

    /// Adds a sentence between what happened and what to type.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The same with another command to type.
    pub fn then(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    pub fn code(&self) -> Code {
        self.code
    }

    pub fn what(&self) -> &str {
        &self.what
    }

    /// Puts the place in front.
    pub fn prefixed(mut self, place: &str) -> Self {
        self.what = format!("{place}: {}", self.what);
        self
    }

    pub fn io(action: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let code = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Code::Space,
            ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::AlreadyExists => {
                Code::Failed
            }
            _ => Code::Io,
        };
        let what = format!("cannot {action} {}: {error}", path.display());
        Failure::new(code, what, format!("ls -ld {}", path.display()))
    }

    /// Prints `error:`, `hint:` and, last, `next:`.
    pub fn report(&self) -> ExitCode {
        eprintln!("error: {}", self.what);
        if !self.hint.is_empty() {
            eprintln!("hint:  {}", self.hint);
        }
        eprintln!("next:  {}", self.next);
        ExitCode::from(self.code as u8)
    }
}

impl From<datadir::Error> for Failure {
    fn from(error: datadir::Error) -> Self {
        use datadir::Error;
        let parent = |path: &std::path::Path| path.parent().unwrap_or(path).display().to_string();
        let (code, next) = match &error {
            Error::Locked { path, holder } => {
                let service = holder
                    .as_ref()
                    .and_then(|holder| crate::process::service(holder.pid));
                let next = match &service {
                    Some(service) => format!("systemctl stop {service}"),
                    None => format!("kvutil data lock --data-dir {}", parent(path)),
                };
                let mut failure = Failure::new(Code::Locked, error.to_string(), next)
                    .hint("stop the node, or ask it over the network instead");
                if let Some(service) = service {
                    failure.what = format!("{} ({service})", failure.what);
                }
                return failure;
            }
            Error::Version { path, .. } => (
                Code::Version,
                format!("kvutil data migrate --data-dir {}", parent(path)),
            ),
            Error::NotADataDir { path, .. } | Error::Occupied { path, .. } => {
                (Code::Failed, format!("ls -la {}", path.display()))
            }
            Error::IdentityCorrupt { path, .. } => (
                Code::Damage,
                format!("kvutil data undo --list --data-dir {}", parent(path)),
            ),
            Error::Spent { path, .. } => (
                Code::Refused,
                format!("kvutil data undo --data-dir {}", path.display()),
            ),
            Error::WalMissing { path, .. } | Error::WalOfAnother { path, .. } => {
                (Code::Failed, format!("ls -la {}", parent(path)))
            }
            Error::WalElsewhere { path, recorded, .. } => (
                Code::Failed,
                format!(
                    "kvutil data info --data-dir {} --wal-dir {}",
                    path.display(),
                    recorded.display()
                ),
            ),
            Error::Access { path, user, .. } => {
                (Code::Failed, format!("chown -R {user} {}", path.display()))
            }
            Error::Io { source, path, .. } => {
                return Failure::io("use", path, source).hint(error.to_string());
            }
            _ => (Code::Failed, "kvutil --help".to_owned()),
        };
        let hint = error.hint();
        Failure::new(code, error.to_string(), next).hint(hint)
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let (code, next) = match &error {
            EngineError::Locked { path } => (Code::Locked, format!("fuser -v {}", path.display())),
            EngineError::NoSpace { path, .. } => (Code::Space, format!("df -h {}", path.display())),
            EngineError::Version { path, .. } => (
                Code::Version,
                format!(
                    "kvutil data migrate --data-dir {}",
                    path.parent().unwrap_or(path).display()
                ),
            ),
            EngineError::Corrupt { path, .. } => (
                Code::Damage,
                format!(
                    "kvutil data undo --list --data-dir {}",
                    path.parent().unwrap_or(path).display()
                ),
            ),
            EngineError::Io { path, .. } => (Code::Io, format!("ls -ld {}", path.display())),
            _ => (Code::Failed, "kvutil data check --help".to_owned()),
        };
        Failure::new(code, error.to_string(), next)
    }
}

impl From<kvnode_store::Error> for Failure {
    fn from(error: kvnode_store::Error) -> Self {
        match error {
            kvnode_store::Error::Engine(error) => error.into(),
            kvnode_store::Error::Schema { .. } => {
                Failure::new(Code::Version, error.to_string(), "kvutil version")
                    .hint("use the kvutil that came with the program that wrote it")
            }
            error => Failure::new(Code::Damage, error.to_string(), "kvutil data check --level structure --help")
                .hint("the store's records contradict each other: rebuild this member from a snapshot or its peers"),
        }
    }
}

impl From<kvnode_api::Status> for Failure {
    fn from(status: kvnode_api::Status) -> Self {
        use kvnode_api::Code as Grpc;
        let code = match status.code {
            Grpc::DataLoss => Code::Damage,
            Grpc::OutOfRange | Grpc::InvalidArgument => Code::Usage,
            _ => Code::Failed,
        };
        Failure::new(code, status.message.to_string(), "kvutil data info --help")
            .hint("`data info` shows which revisions can be read")
    }
}

impl From<kvnode_wal::Error> for Failure {
    fn from(error: kvnode_wal::Error) -> Self {
        use kvnode_wal::Error;
        let (code, next) = match &error {
            Error::Damage(damage) => {
                let next = damage.commands().pop().unwrap_or_default();
                let code = match damage.class {
                    kvnode_wal::Class::W8 => Code::Io,
                    _ => Code::Damage,
                };
                (code, next)
            }
            Error::NoSpace { path, .. } => (Code::Space, format!("df -h {}", path.display())),
            Error::NoLog { path } | Error::PlanStale { path } => {
                (Code::Failed, format!("ls -la {}", path.display()))
            }
            Error::ReadOnly { .. } => (Code::Version, "kvutil version".to_owned()),
            Error::Io { path, source, .. } => return Failure::io("use", path, source),
            _ => (Code::Refused, "kvutil wal repair --help".to_owned()),
        };
        Failure::new(code, error.to_string(), next)
    }
}

impl From<kvnode_snapshot::Error> for Failure {
    fn from(error: kvnode_snapshot::Error) -> Self {
        use kvnode_snapshot::Error;
        let (code, next) = match &error {
            Error::Damaged { .. } => (Code::Damage, "kvutil snapshot verify --help"),
            Error::Version { .. } => (Code::Version, "kvutil version"),
            _ => (Code::Io, "kvutil snapshot status --help"),
        };
        Failure::new(code, error.to_string(), next)
    }
}
