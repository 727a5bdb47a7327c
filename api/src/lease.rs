//! Service `etcdserverpb.Lease`, and the checkpoint messages that only members exchange.

use bytes::Bytes;
use prost::Message;

use crate::header::ResponseHeader;

/// Creates a lease.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct LeaseGrantRequest {
    /// Wanted time to live in seconds.
    #[prost(int64, tag = "1")]
    pub ttl: i64,
    /// Wanted id, negative too; 0 lets the server pick.
    #[prost(int64, tag = "2")]
    pub id: i64,
}

/// Answer to `LeaseGrant`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct LeaseGrantResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The lease.
    #[prost(int64, tag = "2")]
    pub id: i64,
    /// Granted time to live in seconds.
    #[prost(int64, tag = "3")]
    pub ttl: i64,
    /// Never filled by a server.
    #[prost(string, tag = "4")]
    pub error: String,
}

/// Ends a lease and deletes its keys.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct LeaseRevokeRequest {
    /// The lease.
    #[prost(int64, tag = "1")]
    pub id: i64,
}

/// Answer to `LeaseRevoke`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct LeaseRevokeResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Renews a lease.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct LeaseKeepAliveRequest {
    /// The lease.
    #[prost(int64, tag = "1")]
    pub id: i64,
}

/// One answer per keep-alive, in order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct LeaseKeepAliveResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The lease.
    #[prost(int64, tag = "2")]
    pub id: i64,
    /// Granted time to live in seconds; 0 if there is no such lease.
    #[prost(int64, tag = "3")]
    pub ttl: i64,
}

/// Asks how long a lease has left.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct LeaseTimeToLiveRequest {
    /// The lease.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// Also list the keys on it.
    #[prost(bool, tag = "2")]
    pub keys: bool,
}

/// Answer to `LeaseTimeToLive`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct LeaseTimeToLiveResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The lease.
    #[prost(int64, tag = "2")]
    pub id: i64,
    /// Seconds left, truncated; -1 if there is no such lease.
    #[prost(int64, tag = "3")]
    pub ttl: i64,
    /// Granted time to live in seconds.
    #[prost(int64, tag = "4")]
    pub granted_ttl: i64,
    /// Keys on the lease, in no particular order.
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub keys: Vec<Bytes>,
}

/// Lists all leases.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct LeaseLeasesRequest {}

/// A lease in the list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct LeaseStatus {
    /// The lease.
    #[prost(int64, tag = "1")]
    pub id: i64,
}

/// Answer to `LeaseLeases`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct LeaseLeasesResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// All leases the member knows.
    #[prost(message, repeated, tag = "2")]
    pub leases: Vec<LeaseStatus>,
}

/// Remaining time of one lease.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct LeaseCheckpoint {
    /// The lease.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// Seconds left.
    #[prost(int64, tag = "2")]
    pub remaining_ttl: i64,
}

/// Records remaining times; no public method takes it.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct LeaseCheckpointRequest {
    /// The leases.
    #[prost(message, repeated, tag = "1")]
    pub checkpoints: Vec<LeaseCheckpoint>,
}

/// Answer to a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct LeaseCheckpointResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}
