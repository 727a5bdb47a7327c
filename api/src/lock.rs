//! Service `v3lockpb.Lock`.

use bytes::Bytes;
use prost::Message;

use crate::header::ResponseHeader;

/// Waits for a lock.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct LockRequest {
    /// Name of the lock.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// Lease of the owner; 0 lets the server grant one of 60 s.
    #[prost(int64, tag = "2")]
    pub lease: i64,
}

/// Answer to `Lock`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct LockResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The owner's key, to be deleted by `Unlock`.
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
}

/// Frees a lock.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct UnlockRequest {
    /// As returned by `Lock`.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
}

/// Answer to `Unlock`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct UnlockResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}
