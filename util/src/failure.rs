//! What went wrong, what to type next, and the exit code.

use std::process::ExitCode;

/// How a command ended that could do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Fine,
    /// It could do its work, and found damage.
    Damage,
}

impl Outcome {
    pub fn exit_code(self) -> ExitCode {
        match self {
            Outcome::Fine => ExitCode::SUCCESS,
            Outcome::Damage => ExitCode::from(3),
        }
    }
}

/// Why a command could not do its work.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    what: String,
    hint: String,
}

impl Failure {
    pub fn new(code: u8, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Failure {
            code,
            what: what.into(),
            hint: hint.into(),
        }
    }

    /// Prints `error:` and `hint:`.
    pub fn report(&self) -> ExitCode {
        eprintln!("error: {}\nhint: {}", self.what, self.hint);
        ExitCode::from(self.code)
    }
}

impl From<kvnode_store::datadir::Error> for Failure {
    fn from(error: kvnode_store::datadir::Error) -> Self {
        let code = if matches!(error, kvnode_store::datadir::Error::Locked { .. }) {
            5
        } else {
            1
        };
        let hint = error.hint();
        Failure::new(code, error.to_string(), hint)
    }
}
