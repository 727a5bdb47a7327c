//! What clients ask of a member and what they hear.

use kvnode_api as api;
use kvnode_store::{Response, command::Kind};
use prost::Message as _;

use crate::client::{Status, code};
use crate::history::{Answer, Request};

/// Who asked, and with which of its questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Caller {
    pub client: u32,
    pub number: u64,
}

/// A question to one member.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    Kv(Request),
    Compact(i64),
    Grant {
        id: i64,
        ttl: i64,
    },
    KeepAlive(i64),
    Revoke(i64),
    /// Any other command, in its own bytes.
    Own(Kind, Vec<u8>),
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Kv(Answer),
    Compacted,
    Granted {
        ttl: i64,
    },
    /// Kept alive for so many seconds; 0: there is no such lease.
    Kept(i64),
    Revoked,
    /// Another command was carried out.
    Done,
    /// Not done, for sure.
    Refused(Status),
    /// No answer, or one that proves nothing.
    Unknown,
}

impl Reply {
    pub fn refused(text: &str) -> Reply {
        Reply::Refused(Status::new(code::UNAVAILABLE, text))
    }

    /// The answer of a read or write of keys.
    pub fn kv(self) -> Option<Answer> {
        match self {
            Reply::Kv(answer) => Some(answer),
            _ => None,
        }
    }

    /// The revision told, 0 if none.
    pub fn revision(&self) -> i64 {
        match self {
            Reply::Kv(answer) => answer.header().map_or(0, |header| header.revision),
            _ => 0,
        }
    }
}

/// How a write travels in the log; `None` for what is no write.
pub fn command(ask: &Ask) -> Option<(Kind, Vec<u8>)> {
    Some(match ask {
        Ask::Kv(Request::Put(put)) => (Kind::Put, put.encode_to_vec()),
        Ask::Kv(Request::Delete(delete)) => (Kind::DeleteRange, delete.encode_to_vec()),
        Ask::Kv(Request::Txn(txn)) if !api::check::txn_is_read_only(txn) => {
            (Kind::Txn, txn.encode_to_vec())
        }
        Ask::Kv(Request::Revoke(id)) | Ask::Revoke(id) => (Kind::LeaseRevoke, revoke(*id)),
        Ask::Own(kind, message) => (*kind, message.clone()),
        Ask::Kv(Request::Range(_) | Request::Txn(_)) | Ask::KeepAlive(_) => return None,
        Ask::Compact(revision) => {
            let request = api::CompactionRequest {
                revision: *revision,
                ..Default::default()
            };
            (Kind::Compaction, request.encode_to_vec())
        }
        Ask::Grant { id, ttl } => {
            let request = api::LeaseGrantRequest { id: *id, ttl: *ttl };
            (Kind::LeaseGrant, request.encode_to_vec())
        }
    })
}

pub fn revoke(id: i64) -> Vec<u8> {
    api::LeaseRevokeRequest { id }.encode_to_vec()
}

/// What the store said, as the client hears it.
pub fn reply(
    result: Result<Response, api::Status>,
    fill: impl Fn(&mut Option<api::ResponseHeader>),
) -> Reply {
    match result {
        Ok(Response::Put(mut answer)) => {
            fill(&mut answer.header);
            Reply::Kv(Answer::Put(answer))
        }
        Ok(Response::DeleteRange(mut answer)) => {
            fill(&mut answer.header);
            Reply::Kv(Answer::Delete(answer))
        }
        Ok(Response::Txn(mut answer)) => {
            fill(&mut answer.header);
            Reply::Kv(Answer::Txn(answer))
        }
        Ok(Response::Compaction(_)) => Reply::Compacted,
        Ok(Response::LeaseGrant(answer)) => Reply::Granted { ttl: answer.ttl },
        Ok(Response::LeaseRevoke(_)) => Reply::Revoked,
        Ok(_) => Reply::Done,
        Err(status) => Reply::Refused(refusal(&status)),
    }
}

pub fn refusal(status: &api::Status) -> Status {
    Status::new(status.code as u32, status.message.clone())
}
