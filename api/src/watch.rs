//! Service `etcdserverpb.Watch`.

use bytes::Bytes;
use prost::Message;

use crate::header::ResponseHeader;
use crate::mvcc::Event;

/// What a client says on its watch stream.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct WatchRequest {
    /// Absent is ignored.
    #[prost(oneof = "watch_request::RequestUnion", tags = "1,2,3")]
    pub request_union: Option<watch_request::RequestUnion>,
}

pub mod watch_request {
    use super::{WatchCancelRequest, WatchCreateRequest, WatchProgressRequest};

    /// The wish.
    #[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
    pub enum RequestUnion {
        #[prost(message, tag = "1")]
        CreateRequest(WatchCreateRequest),
        #[prost(message, tag = "2")]
        CancelRequest(WatchCancelRequest),
        #[prost(message, tag = "3")]
        ProgressRequest(WatchProgressRequest),
    }
}

/// Adds a watcher to the stream.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct WatchCreateRequest {
    /// First key; empty means a single zero byte.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// As in `RangeRequest`, but an interval without keys is refused.
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    /// First revision to deliver; 0 means from now on.
    #[prost(int64, tag = "3")]
    pub start_revision: i64,
    /// Send empty responses now and then while nothing happens.
    #[prost(bool, tag = "4")]
    pub progress_notify: bool,
    /// Events to leave out; unknown numbers are ignored. Read packed and unpacked.
    #[prost(enumeration = "watch_create_request::FilterType", repeated, tag = "5")]
    pub filters: Vec<i32>,
    /// Deliver the pair before each change.
    #[prost(bool, tag = "6")]
    pub prev_kv: bool,
    /// Wanted id; 0 lets the server pick.
    #[prost(int64, tag = "7")]
    pub watch_id: i64,
    /// Large responses may be split.
    #[prost(bool, tag = "8")]
    pub fragment: bool,
}

pub mod watch_create_request {
    /// Kind of event to leave out.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    #[repr(i32)]
    pub enum FilterType {
        Noput = 0,
        Nodelete = 1,
    }
}

/// Removes a watcher from the stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct WatchCancelRequest {
    /// An unknown id is ignored.
    #[prost(int64, tag = "1")]
    pub watch_id: i64,
}

/// Asks for an empty response that tells how far everything was delivered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct WatchProgressRequest {}

/// What the server says on a watch stream.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct WatchResponse {
    /// Its revision is 0 when compaction cancels a watcher.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The watcher meant; -1 in refusals and in the answer to a progress request.
    #[prost(int64, tag = "2")]
    pub watch_id: i64,
    /// First answer to a create request.
    #[prost(bool, tag = "3")]
    pub created: bool,
    /// The watcher is gone, nothing follows.
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// Set when compaction overtook the watcher.
    #[prost(int64, tag = "5")]
    pub compact_revision: i64,
    /// Why a create was refused.
    #[prost(string, tag = "6")]
    pub cancel_reason: String,
    /// More pieces of this response follow.
    #[prost(bool, tag = "7")]
    pub fragment: bool,
    /// Number 11; 8 to 10 are unused.
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
}
