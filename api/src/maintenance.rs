//! Service `etcdserverpb.Maintenance`.

use bytes::Bytes;
use prost::Message;

use crate::header::ResponseHeader;

/// What an alarm is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum AlarmType {
    None = 0,
    Nospace = 1,
    Corrupt = 2,
}

/// Lists, raises or clears alarms.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AlarmRequest {
    /// What to do.
    #[prost(enumeration = "alarm_request::AlarmAction", tag = "1")]
    pub action: i32,
    /// The member; not looked at by `Get`.
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
    /// The alarm; for `Get`, none means all.
    #[prost(enumeration = "AlarmType", tag = "3")]
    pub alarm: i32,
}

pub mod alarm_request {
    /// What to do.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    #[repr(i32)]
    pub enum AlarmAction {
        Get = 0,
        Activate = 1,
        Deactivate = 2,
    }
}

/// An alarm of a member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AlarmMember {
    /// The member.
    #[prost(uint64, tag = "1")]
    pub member_id: u64,
    /// The alarm.
    #[prost(enumeration = "AlarmType", tag = "2")]
    pub alarm: i32,
}

/// Answer to `Alarm`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AlarmResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The alarms the action met.
    #[prost(message, repeated, tag = "2")]
    pub alarms: Vec<AlarmMember>,
}

/// Asks how the answering member is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct StatusRequest {}

/// Answer to `Status`: the member's own view.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct StatusResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Plain `x.y.z`; clients parse it.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Bytes on disk.
    #[prost(int64, tag = "3")]
    pub db_size: i64,
    /// Member id of the leader, 0 if none is known.
    #[prost(uint64, tag = "4")]
    pub leader: u64,
    /// Commit index.
    #[prost(uint64, tag = "5")]
    pub raft_index: u64,
    /// Current term.
    #[prost(uint64, tag = "6")]
    pub raft_term: u64,
    /// Applied index.
    #[prost(uint64, tag = "7")]
    pub raft_applied_index: u64,
    /// No leader, then one text per alarm.
    #[prost(string, repeated, tag = "8")]
    pub errors: Vec<String>,
    /// Bytes of `db_size` that hold data.
    #[prost(int64, tag = "9")]
    pub db_size_in_use: i64,
    /// It does not vote.
    #[prost(bool, tag = "10")]
    pub is_learner: bool,
    /// `x.y.0`.
    #[prost(string, tag = "11")]
    pub storage_version: String,
    /// Bytes the store may grow to.
    #[prost(int64, tag = "12")]
    pub db_size_quota: i64,
    /// Always present in answers.
    #[prost(message, optional, tag = "13")]
    pub downgrade_info: Option<DowngradeInfo>,
}

/// Whether a downgrade is running.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct DowngradeInfo {
    /// One is.
    #[prost(bool, tag = "1")]
    pub enabled: bool,
    /// To which version.
    #[prost(string, tag = "2")]
    pub target_version: String,
}

/// Gives space back on the answering member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct DefragmentRequest {}

/// Answer to `Defragment`; the header stays absent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct DefragmentResponse {
    /// Absent.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Asks for a checksum of the answering member's data files.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct HashRequest {}

/// Answer to `Hash`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct HashResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Opaque; equal only for identical files.
    #[prost(uint32, tag = "2")]
    pub hash: u32,
}

/// Asks for the logical hash of the store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct HashKVRequest {
    /// Up to which revision; 0 means now.
    #[prost(int64, tag = "1")]
    pub revision: i64,
}

/// Answer to `HashKV`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct HashKVResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Comparable among members for equal revisions below.
    #[prost(uint32, tag = "2")]
    pub hash: u32,
    /// -1 if never compacted.
    #[prost(int64, tag = "3")]
    pub compact_revision: i64,
    /// The revision hashed.
    #[prost(int64, tag = "4")]
    pub hash_revision: i64,
}

/// Asks for an image of the whole store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct SnapshotRequest {}

/// One piece of the image.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SnapshotResponse {
    /// Absent.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Bytes still to come after this piece.
    #[prost(uint64, tag = "2")]
    pub remaining_bytes: u64,
    /// At most 32 KiB.
    #[prost(bytes = "bytes", tag = "3")]
    pub blob: Bytes,
    /// Storage version.
    #[prost(string, tag = "4")]
    pub version: String,
}

/// Hands leadership over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct MoveLeaderRequest {
    /// The member to lead.
    #[prost(uint64, tag = "1")]
    pub target_id: u64,
}

/// Answer to `MoveLeader`; the header stays absent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct MoveLeaderResponse {
    /// Absent.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// Prepares the cluster for an older version.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct DowngradeRequest {
    /// What to do; an unknown number is refused.
    #[prost(enumeration = "downgrade_request::DowngradeAction", tag = "1")]
    pub action: i32,
    /// Target version.
    #[prost(string, tag = "2")]
    pub version: String,
}

pub mod downgrade_request {
    /// What to do.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    #[repr(i32)]
    pub enum DowngradeAction {
        Validate = 0,
        Enable = 1,
        Cancel = 2,
    }
}

/// Answer to `Downgrade`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct DowngradeResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Cluster version.
    #[prost(string, tag = "2")]
    pub version: String,
}

/// Tests a version text; no public method takes it.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct DowngradeVersionTestRequest {
    /// The version.
    #[prost(string, tag = "1")]
    pub ver: String,
}
