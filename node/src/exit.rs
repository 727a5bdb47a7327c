//! How the process ends when it cannot go on: one line what, one line what to do, and a documented exit code.

use std::fmt::Display;
use std::io::Write as _;

/// Exit codes of `kvnode`. Units that restart the service should not do so for 2, 3, 5, 8 and 78.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Could not do it.
    Failed = 1,
    /// Wrong configuration.
    Usage = 2,
    /// Refused for safety: going on could lose or invent data. Also the end of a member that was removed.
    Safety = 3,
    /// Another process holds the data directory.
    Locked = 5,
    /// Data of a newer version.
    Version = 8,
    /// A device failed a write or a sync.
    Io = 9,
    /// This machine lacks something (io_uring, locked memory).
    Preflight = 78,
}

/// Why a start was refused.
#[derive(Debug)]
pub struct Exit {
    code: Code,
    what: String,
    hint: String,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.what, self.hint)
    }
}

impl Exit {
    pub fn new(code: Code, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Exit {
            code,
            what: what.into(),
            hint: hint.into(),
        }
    }

    /// Prints it and gives the exit code.
    pub fn report(&self) -> std::process::ExitCode {
        log::error!("{self}");
        log::logger().flush();
        refuse(self.code as u8, &self.what, Some(&self.hint))
    }
}

/// Prints `error:` and `hint:`, each on one line.
pub fn refuse(code: u8, what: &str, hint: Option<&str>) -> std::process::ExitCode {
    // A closed stderr is no reason to end in another way than this.
    let mut stderr = std::io::stderr();
    let _ = writeln!(stderr, "error: {what}");
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "hint: {hint}");
    }
    std::process::ExitCode::from(code)
}

/// Prints `error:` and `hint:` and ends the process at once, without unwinding: used where running on could answer
/// a client with something that is not so.
pub fn fatal(code: Code, what: impl Display, hint: impl Display) -> ! {
    log::error!("{what}; {hint}");
    log::logger().flush();
    let _ = writeln!(std::io::stderr(), "error: {what}\nhint: {hint}");
    std::process::exit(code as i32)
}
