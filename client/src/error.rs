//! How a call ends when not well, and what was tried before.

use std::fmt;
use std::time::Duration;

use kvnode_api::Status;

pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The server answered, and it was a no. The text is the server's own.
    #[error("{}", .status.message)]
    Status { status: Status, endpoint: String },
    /// No endpoint could be reached, so nothing was sent.
    #[error("no endpoint could be reached")]
    Unreachable { attempts: Attempts },
    /// The connection broke after the request was sent: nobody knows whether a write took place.
    #[error("the connection broke before an answer came: {reason}")]
    Broken { endpoint: String, reason: String },
    /// No answer within the time given.
    #[error("context deadline exceeded")]
    Deadline { after: Duration, attempts: Attempts },
    /// The configuration cannot be used; nothing was tried.
    #[error("{0}")]
    Config(String),
    /// The request is longer than the client may send.
    #[error("trying to send message larger than max ({bytes} vs. {limit})")]
    TooLarge { bytes: usize, limit: usize },
    /// The history a watcher still needs is gone.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted { compact_revision: i64 },
    /// The server ended a watcher.
    #[error("{reason}")]
    WatchCanceled { reason: String },
    /// The lease of a session ended, and with it whatever was held.
    #[error("session expired")]
    SessionExpired,
}

impl Error {
    /// The server's status, if it gave one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Error::Status { status, .. } => Some(status),
            _ => None,
        }
    }

    /// Whether the server said exactly this.
    pub fn is(&self, expected: &Status) -> bool {
        self.status()
            .is_some_and(|status| status.message == expected.message)
    }

    /// What was tried before it was given up, one line per attempt; empty if the first try decided.
    pub fn attempts(&self) -> Vec<String> {
        match self {
            Error::Unreachable { attempts } | Error::Deadline { attempts, .. } => attempts.lines(),
            Error::Status { endpoint, .. } => vec![endpoint.clone()],
            Error::Broken { endpoint, reason } => vec![format!("{endpoint}: {reason}")],
            _ => Vec::new(),
        }
    }
}

/// Failed tries, oldest first. Equal ones are counted, and at most [`Attempts::KEPT`] kinds are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    tried: Vec<(String, String, u32)>,
}

impl Attempts {
    /// Kinds of failure remembered; further ones replace the last.
    pub const KEPT: usize = 32;

    pub(crate) fn note(&mut self, endpoint: &str, reason: impl fmt::Display) {
        let reason = reason.to_string();
        let known = self
            .tried
            .iter_mut()
            .find(|(at, why, _)| at == endpoint && *why == reason);
        if let Some((_, _, count)) = known {
            *count += 1;
            return;
        }
        self.tried.truncate(Self::KEPT - 1);
        self.tried.push((endpoint.to_owned(), reason, 1));
    }

    /// One line per endpoint and reason.
    pub fn lines(&self) -> Vec<String> {
        let line = |(endpoint, reason, count): &(String, String, u32)| match count {
            1 => format!("{endpoint}: {reason}"),
            _ => format!("{endpoint}: {reason} ({count} times)"),
        };
        self.tried.iter().map(line).collect()
    }
}

/// How one try ended. Decides, with the kind of request, whether there is another.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Surely not processed.
    NotSent(String),
    /// Perhaps processed.
    Broken(String),
    /// Answered.
    Status(Status),
}

impl Failure {
    /// What h2 reports about a stream whose request head was handed over.
    pub(crate) fn of(error: &h2::Error) -> Failure {
        let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
        // Streams the server took are served to the end after such a goodbye; this one was not taken.
        let goodbye =
            error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
        if refused || goodbye {
            Failure::NotSent(error.to_string())
        } else {
            Failure::Broken(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_attempts_are_counted_and_kinds_are_bounded() {
        let mut attempts = Attempts::default();
        for _ in 0..3 {
            attempts.note("a:1", "connection refused");
        }
        assert_eq!(attempts.lines(), ["a:1: connection refused (3 times)"]);
        for number in 0..100 {
            attempts.note("a:1", number);
        }
        assert_eq!(attempts.lines().len(), Attempts::KEPT);
        assert_eq!(attempts.lines().last().map(String::as_str), Some("a:1: 99"));
    }
}
