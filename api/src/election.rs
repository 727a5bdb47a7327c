//! Service `v3electionpb.Election`.

use bytes::Bytes;
use prost::Message;

use crate::header::ResponseHeader;
use crate::mvcc::KeyValue;

/// Waits to be elected.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CampaignRequest {
    /// Name of the election.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// Lease of the candidate.
    #[prost(int64, tag = "2")]
    pub lease: i64,
    /// What to proclaim when elected.
    #[prost(bytes = "bytes", tag = "3")]
    pub value: Bytes,
}

/// Answer to `Campaign`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CampaignResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Proof of leadership.
    #[prost(message, optional, tag = "2")]
    pub leader: Option<LeaderKey>,
}

/// Proof of leadership.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct LeaderKey {
    /// Name of the election.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// The candidate's key.
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    /// Create revision of that key.
    #[prost(int64, tag = "3")]
    pub rev: i64,
    /// Lease of the candidate.
    #[prost(int64, tag = "4")]
    pub lease: i64,
}

/// Asks who leads, once or from now on.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct LeaderRequest {
    /// Name of the election.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
}

/// Answer to `Leader`, and what `Observe` streams.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct LeaderResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The leader's key and what it proclaims.
    #[prost(message, optional, tag = "2")]
    pub kv: Option<KeyValue>,
}

/// Gives leadership up.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ResignRequest {
    /// Absent is refused.
    #[prost(message, optional, tag = "1")]
    pub leader: Option<LeaderKey>,
}

/// Answer to `Resign`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct ResignResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Changes what the leader proclaims.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ProclaimRequest {
    /// Absent is refused.
    #[prost(message, optional, tag = "1")]
    pub leader: Option<LeaderKey>,
    /// The new value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// Answer to `Proclaim`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct ProclaimResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}
