//! The header that most answers carry.

use prost::Message;

/// Who answered, and at which point of the store's history. 32 bytes, cheap to copy. Zero fields
/// are not on the wire, so an all-zero header is a present message of length 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct ResponseHeader {
    /// Id of the cluster.
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    /// Id of the member that answers, whoever did the work.
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
    /// The store's revision the answer speaks of; 0 in cluster answers and in some watch answers.
    #[prost(int64, tag = "3")]
    pub revision: i64,
    /// Term of the answering member when it answers; never falls on one member.
    #[prost(uint64, tag = "4")]
    pub raft_term: u64,
}
