//! What can go wrong inside the store, as opposed to what a client may be told.
//!
//! A refusal (unknown lease, compacted revision) is a [`Status`] in a reply and changes nothing. An
//! [`Error`] means that the member cannot go on: the caller stops applying.

use kvnode_api::{Code, Status};

use crate::engine::{EngineError, Space};

/// Why the store cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Engine(#[from] EngineError),

    /// A stored record does not have the shape its key promises.
    #[error("{space} record {}: {detail}", key.escape_ascii())]
    Record {
        space: Space,
        key: Vec<u8>,
        detail: &'static str,
    },

    /// The store was written by another release.
    #[error("store schema {found}, this release reads {expected}")]
    Schema { found: u8, expected: u8 },

    /// The attachments of a lease and the heads of keys do not agree.
    #[error("lease {lease} lists key {}, which is not alive", key.escape_ascii())]
    Attachment { lease: i64, key: Vec<u8> },

    /// The log has a hole: applying on would skip writes.
    #[error("asked to apply entry {found}, the next one is {expected}")]
    Gap { found: u64, expected: u64 },
}

impl Error {
    /// True if the stored bytes can no longer be trusted and the member has to be rebuilt.
    pub fn is_corrupt(&self) -> bool {
        match self {
            Error::Engine(error) => error.is_corrupt(),
            Error::Record { .. } | Error::Attachment { .. } => true,
            Error::Schema { .. } | Error::Gap { .. } => false,
        }
    }

    pub(crate) fn record(space: Space, key: &[u8], detail: &'static str) -> Self {
        Error::Record {
            space,
            key: key.to_vec(),
            detail,
        }
    }
}

/// Why an operation has no result: the client's doing, or ours.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The answer of the request; nothing was changed.
    Refused(Status),
    /// The member cannot go on.
    Fatal(Error),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure::Refused(status)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Fatal(error)
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Failure::Fatal(error.into())
    }
}

impl Failure {
    /// For reads, which have nobody but the client to tell: the error goes to the log in full, the
    /// client learns its kind.
    pub(crate) fn into_status(self) -> Status {
        match self {
            Failure::Refused(status) => status,
            Failure::Fatal(error) => {
                log::error!("read failed: {error}");
                let code = if error.is_corrupt() {
                    Code::DataLoss
                } else {
                    Code::Internal
                };
                Status::new(code, "kvnode: the store could not be read")
            }
        }
    }
}
