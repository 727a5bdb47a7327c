//! Service `etcdserverpb.KV`.
//!
//! Every `bytes` field shares the buffer the message was decoded from; who keeps a small key for
//! long copies it, or it holds the whole request in memory. An explicitly encoded empty field and
//! an absent one are the same; sub-messages and one-of members know the difference.

use bytes::Bytes;
use prost::Message;

use crate::header::ResponseHeader;
use crate::mvcc::KeyValue;

/// Reads one key or an interval of keys.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct RangeRequest {
    /// First key; empty is refused.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// End (exclusive); empty: only `key`; a single zero byte: every key from `key` on.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// Most pairs to return; 0 or less means no limit.
    #[prost(int64, tag = "3")]
    pub limit: i64,
    /// Moment to read at; 0 or less means now.
    #[prost(int64, tag = "4")]
    pub revision: i64,
    /// Direction.
    #[prost(enumeration = "range_request::SortOrder", tag = "5")]
    pub sort_order: i32,
    /// Field to sort by.
    #[prost(enumeration = "range_request::SortTarget", tag = "6")]
    pub sort_target: i32,
    /// Answer from local state, without asking a quorum.
    #[prost(bool, tag = "7")]
    pub serializable: bool,
    /// Leave the values out.
    #[prost(bool, tag = "8")]
    pub keys_only: bool,
    /// Return only `count`.
    #[prost(bool, tag = "9")]
    pub count_only: bool,
    /// Lower bound (inclusive) for the pair's mod revision; 0 is off.
    #[prost(int64, tag = "10")]
    pub min_mod_revision: i64,
    /// Upper bound (inclusive) for the pair's mod revision; 0 is off.
    #[prost(int64, tag = "11")]
    pub max_mod_revision: i64,
    /// Lower bound (inclusive) for the pair's create revision; 0 is off.
    #[prost(int64, tag = "12")]
    pub min_create_revision: i64,
    /// Upper bound (inclusive) for the pair's create revision; 0 is off.
    #[prost(int64, tag = "13")]
    pub max_create_revision: i64,
}

pub mod range_request {
    /// Direction of the result.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    #[repr(i32)]
    pub enum SortOrder {
        None = 0,
        Ascend = 1,
        Descend = 2,
    }

    /// Field the result is sorted by.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    #[repr(i32)]
    pub enum SortTarget {
        Key = 0,
        Version = 1,
        Create = 2,
        Mod = 3,
        Value = 4,
    }
}

/// Answer to `Range`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct RangeResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The pairs, after filters, order and limit.
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
    /// More pairs matched than `limit`.
    #[prost(bool, tag = "3")]
    pub more: bool,
    /// Keys of the interval at that revision, whatever limit and filters say.
    #[prost(int64, tag = "4")]
    pub count: i64,
}

/// One slice of a streamed range.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct RangeStreamResponse {
    /// Merging the slices field by field gives the `Range` answer.
    #[prost(message, optional, tag = "1")]
    pub range_response: Option<RangeResponse>,
}

/// Writes one pair.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct PutRequest {
    /// Empty is refused.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// May be empty.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// Lease to hang the key on, 0 for none.
    #[prost(int64, tag = "3")]
    pub lease: i64,
    /// Return the pair as it was before.
    #[prost(bool, tag = "4")]
    pub prev_kv: bool,
    /// Keep the stored value; the key must exist.
    #[prost(bool, tag = "5")]
    pub ignore_value: bool,
    /// Keep the stored lease; the key must exist.
    #[prost(bool, tag = "6")]
    pub ignore_lease: bool,
}

/// Answer to `Put`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct PutResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The pair before, if asked for and there was one.
    #[prost(message, optional, tag = "2")]
    pub prev_kv: Option<KeyValue>,
}

/// Deletes one key or an interval of keys.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct DeleteRangeRequest {
    /// First key; empty is refused.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// As in `RangeRequest`.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// Return the deleted pairs.
    #[prost(bool, tag = "3")]
    pub prev_kv: bool,
}

/// Answer to `DeleteRange`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct DeleteRangeResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Number of keys removed.
    #[prost(int64, tag = "2")]
    pub deleted: i64,
    /// The removed pairs in key order, if asked for.
    #[prost(message, repeated, tag = "3")]
    pub prev_kvs: Vec<KeyValue>,
}

/// One operation of a transaction.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct RequestOp {
    /// Absent is refused.
    #[prost(oneof = "request_op::Request", tags = "1,2,3,4")]
    pub request: Option<request_op::Request>,
}

pub mod request_op {
    use super::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};

    /// The operation.
    #[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
    pub enum Request {
        #[prost(message, tag = "1")]
        RequestRange(RangeRequest),
        #[prost(message, tag = "2")]
        RequestPut(PutRequest),
        #[prost(message, tag = "3")]
        RequestDeleteRange(DeleteRangeRequest),
        #[prost(message, tag = "4")]
        RequestTxn(TxnRequest),
    }
}

/// Answer to the operation at the same place of the branch taken.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ResponseOp {
    /// Same member as in the request.
    #[prost(oneof = "response_op::Response", tags = "1,2,3,4")]
    pub response: Option<response_op::Response>,
}

pub mod response_op {
    use super::{DeleteRangeResponse, PutResponse, RangeResponse, TxnResponse};

    /// The answer.
    #[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
    pub enum Response {
        #[prost(message, tag = "1")]
        ResponseRange(RangeResponse),
        #[prost(message, tag = "2")]
        ResponsePut(PutResponse),
        #[prost(message, tag = "3")]
        ResponseDeleteRange(DeleteRangeResponse),
        #[prost(message, tag = "4")]
        ResponseTxn(TxnResponse),
    }
}

/// A condition on one key, or on every key of an interval.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Compare {
    /// How the two sides have to relate; an unknown number counts as true.
    #[prost(enumeration = "compare::CompareResult", tag = "1")]
    pub result: i32,
    /// Left side; an unknown number counts as equal.
    #[prost(enumeration = "compare::CompareTarget", tag = "2")]
    pub target: i32,
    /// Empty is refused.
    #[prost(bytes = "bytes", tag = "3")]
    pub key: Bytes,
    /// Right side, used only if it is the member that belongs to `target`; else 0 or empty.
    #[prost(oneof = "compare::TargetUnion", tags = "4,5,6,7,8")]
    pub target_union: Option<compare::TargetUnion>,
    /// As in `RangeRequest`. Far from its neighbours on the wire.
    #[prost(bytes = "bytes", tag = "64")]
    pub range_end: Bytes,
}

pub mod compare {
    use bytes::Bytes;

    /// How the two sides have to relate.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    #[repr(i32)]
    pub enum CompareResult {
        Equal = 0,
        Greater = 1,
        Less = 2,
        NotEqual = 3,
    }

    /// Field on the left side.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    #[repr(i32)]
    pub enum CompareTarget {
        Version = 0,
        Create = 1,
        Mod = 2,
        Value = 3,
        Lease = 4,
    }

    /// Value on the right side.
    #[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
    pub enum TargetUnion {
        #[prost(int64, tag = "4")]
        Version(i64),
        #[prost(int64, tag = "5")]
        CreateRevision(i64),
        #[prost(int64, tag = "6")]
        ModRevision(i64),
        #[prost(bytes = "bytes", tag = "7")]
        Value(Bytes),
        #[prost(int64, tag = "8")]
        Lease(i64),
    }
}

/// If every compare holds, do `success`, else `failure`; all or nothing.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct TxnRequest {
    /// None at all counts as true.
    #[prost(message, repeated, tag = "1")]
    pub compare: Vec<Compare>,
    /// Operations if it holds.
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<RequestOp>,
    /// Operations if it does not.
    #[prost(message, repeated, tag = "3")]
    pub failure: Vec<RequestOp>,
}

/// Answer to `Txn`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct TxnResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Which branch was taken.
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
    /// One per operation of that branch.
    #[prost(message, repeated, tag = "3")]
    pub responses: Vec<ResponseOp>,
}

/// Drops history below a revision.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct CompactionRequest {
    /// Stays readable; everything older goes.
    #[prost(int64, tag = "1")]
    pub revision: i64,
    /// Answer only after this member has removed the data.
    #[prost(bool, tag = "2")]
    pub physical: bool,
}

/// Answer to `Compact`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct CompactionResponse {
    /// Present on every answer.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}
