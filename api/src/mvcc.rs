//! `mvccpb`: the stored pair and the change event.
//!
//! The encoding of `KeyValue` is canonical (ascending field numbers, zero values left out); the
//! store's logical hash is computed over these bytes, so it must never change.

use bytes::Bytes;
use prost::Message;

/// One key at one moment of its history.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct KeyValue {
    /// Never empty for a stored key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Main revision of the put that brought the key (back) to life.
    #[prost(int64, tag = "2")]
    pub create_revision: i64,
    /// Main revision of the last put; in a delete event that of the delete.
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    /// Puts since creation, 1 on creation.
    #[prost(int64, tag = "4")]
    pub version: i64,
    /// May be empty.
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
    /// Lease the key hangs on, 0 for none.
    #[prost(int64, tag = "6")]
    pub lease: i64,
}

/// One change of one key.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Event {
    /// Put or delete.
    #[prost(enumeration = "event::EventType", tag = "1")]
    pub r#type: i32,
    /// For a put the full new pair; for a delete only `key` and `mod_revision`.
    #[prost(message, optional, tag = "2")]
    pub kv: Option<KeyValue>,
    /// The pair before the change, if it was asked for and there was one.
    #[prost(message, optional, tag = "3")]
    pub prev_kv: Option<KeyValue>,
}

pub mod event {
    /// What happened to the key.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    #[repr(i32)]
    pub enum EventType {
        Put = 0,
        Delete = 1,
    }
}
