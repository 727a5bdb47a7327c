//! Service `etcdserverpb.Cluster`. Its answers carry revision 0.

use prost::Message;

use crate::header::ResponseHeader;

/// One member of the cluster.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Member {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Empty until it has started once.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Where members reach it.
    #[prost(string, repeated, tag = "3")]
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has started once.
    #[prost(string, repeated, tag = "4")]
    pub client_urls: Vec<String>,
    /// It receives the log but does not vote.
    #[prost(bool, tag = "5")]
    pub is_learner: bool,
}

/// Adds a member.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct MemberAddRequest {
    /// At least one.
    #[prost(string, repeated, tag = "1")]
    pub peer_urls: Vec<String>,
    /// Add it as a learner.
    #[prost(bool, tag = "2")]
    pub is_learner: bool,
}

/// Answer to `MemberAdd`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct MemberAddResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The new one.
    #[prost(message, optional, tag = "2")]
    pub member: Option<Member>,
    /// All of them, by id.
    #[prost(message, repeated, tag = "3")]
    pub members: Vec<Member>,
}

/// Removes a member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct MemberRemoveRequest {
    /// The member.
    #[prost(uint64, tag = "1")]
    pub id: u64,
}

/// Answer to `MemberRemove`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct MemberRemoveResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// All that are left.
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<Member>,
}

/// Replaces a member's peer URLs.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct MemberUpdateRequest {
    /// The member.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The new ones.
    #[prost(string, repeated, tag = "2")]
    pub peer_urls: Vec<String>,
}

/// Answer to `MemberUpdate`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct MemberUpdateResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// All of them.
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<Member>,
}

/// Lists the members.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct MemberListRequest {
    /// Ask a quorum first.
    #[prost(bool, tag = "1")]
    pub linearizable: bool,
}

/// Answer to `MemberList`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct MemberListResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// All of them.
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<Member>,
}

/// Makes a learner a voter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct MemberPromoteRequest {
    /// The member.
    #[prost(uint64, tag = "1")]
    pub id: u64,
}

/// Answer to `MemberPromote`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct MemberPromoteResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// All of them.
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<Member>,
}
