//! What the entries of a log ask for, in words: which keys, how large the values, never the values themselves unless
//! they are asked for, and no password in any case.

use bytes::Bytes;
use clap::ValueEnum;
use kvnode_api::request_op::Request;
use kvnode_api::{
    CompactionRequest, DeleteRangeRequest, LeaseCheckpointRequest, LeaseGrantRequest,
    LeaseRevokeRequest, Message, PutRequest, RangeRequest, TxnRequest,
};
use kvnode_store::{Command, Kind};
use kvnode_wal::{Entry, EntryKind};
use serde::Serialize;

use crate::output::show;

/// The families of entries a dump can be narrowed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Type {
    Put,
    Del,
    Txn,
    Lease,
    Conf,
    Compact,
    Auth,
    Alarm,
    Member,
    Empty,
}

/// One operation on keys.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Op {
    pub op: &'static str,
    pub key: String,
    /// End of the interval, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range_end: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    #[serde(skip)]
    pub raw_key: Bytes,
    #[serde(skip)]
    pub raw_end: Bytes,
}

impl Op {
    /// Whether it is about `key`.
    pub fn touches(&self, key: &[u8]) -> bool {
        match &self.raw_end[..] {
            b"" => self.raw_key == key,
            b"\0" => key >= &self.raw_key[..],
            end => key >= &self.raw_key[..] && key < end,
        }
    }

    /// Whether it is about any key that starts with `prefix`.
    pub fn touches_prefix(&self, prefix: &[u8]) -> bool {
        self.raw_key.starts_with(prefix)
            || (!self.raw_end.is_empty()
                && (self.touches(prefix) || self.raw_key.starts_with(prefix)))
    }
}

/// An entry as a command.
#[derive(Debug, Clone)]
pub struct Decoded {
    pub family: Type,
    pub kind: String,
    /// The proposer's clock, unix milliseconds; 0 if the entry has none.
    pub time_ms: u64,
    pub member: u64,
    pub user: String,
    pub ops: Vec<Op>,
    pub detail: String,
}

/// Decodes an entry; values stay out unless `values`.
pub fn decode(entry: &Entry, values: bool) -> Decoded {
    let plain = |family, kind: &str, detail: String| Decoded {
        family,
        kind: kind.to_owned(),
        time_ms: 0,
        member: 0,
        user: String::new(),
        ops: Vec::new(),
        detail,
    };
    match entry.kind {
        EntryKind::Empty => {
            return plain(Type::Empty, "empty", "a new leader's first entry".into());
        }
        EntryKind::ConfChange => {
            // The change of the member table that comes with it.
            let carried = Command::decode(conf_change_context(&entry.payload));
            let carried =
                carried.map_or_else(|_| String::new(), |command| format!(", {:?}", command.kind));
            let detail = format!("{} bytes{carried}", entry.payload.len());
            return plain(Type::Conf, "conf-change", detail);
        }
        EntryKind::Normal => {}
    }
    let command = match Command::decode(entry.payload.clone()) {
        Ok(command) => command,
        Err(_) if entry.payload.is_empty() => return plain(Type::Empty, "empty", String::new()),
        Err(error) => return plain(Type::Empty, "unreadable", error.to_string()),
    };
    let mut ops = Vec::new();
    let detail = message(&command, values, &mut ops);
    Decoded {
        family: family(command.kind),
        kind: format!("{:?}", command.kind),
        time_ms: command.header.time_ms,
        member: command.header.request.member,
        user: String::from_utf8_lossy(&command.header.user).into_owned(),
        ops,
        detail: detail.unwrap_or_else(|| "the message does not decode".into()),
    }
}

fn family(kind: Kind) -> Type {
    match kind {
        Kind::Put => Type::Put,
        Kind::DeleteRange => Type::Del,
        Kind::Txn => Type::Txn,
        Kind::Compaction => Type::Compact,
        Kind::LeaseGrant | Kind::LeaseRevoke | Kind::LeaseCheckpoint => Type::Lease,
        Kind::Alarm => Type::Alarm,
        kind if format!("{kind:?}").starts_with("Member") => Type::Member,
        _ => Type::Auth,
    }
}

fn message(command: &Command, values: bool, ops: &mut Vec<Op>) -> Option<String> {
    let bytes = command.message.clone();
    Some(match command.kind {
        Kind::Put => {
            ops.push(put(&PutRequest::decode(bytes).ok()?, values));
            String::new()
        }
        Kind::DeleteRange => {
            ops.push(delete(&DeleteRangeRequest::decode(bytes).ok()?));
            String::new()
        }
        Kind::Txn => {
            let request = TxnRequest::decode(bytes).ok()?;
            txn(&request, values, ops);
            format!(
                "if {} compares then {} operations else {}",
                request.compare.len(),
                request.success.len(),
                request.failure.len()
            )
        }
        Kind::Compaction => {
            format!(
                "revision {}",
                CompactionRequest::decode(bytes).ok()?.revision
            )
        }
        Kind::LeaseGrant => {
            let request = LeaseGrantRequest::decode(bytes).ok()?;
            format!("lease {:x} for {} s", request.id, request.ttl)
        }
        Kind::LeaseRevoke => format!("lease {:x}", LeaseRevokeRequest::decode(bytes).ok()?.id),
        Kind::LeaseCheckpoint => {
            format!(
                "{} leases",
                LeaseCheckpointRequest::decode(bytes)
                    .ok()?
                    .checkpoints
                    .len()
            )
        }
        // Names of users would be harmless, but password hashes lie beside them.
        _ => format!("{} bytes", bytes.len()),
    })
}

fn put(request: &PutRequest, values: bool) -> Op {
    Op {
        op: "put",
        key: show(&request.key),
        range_end: None,
        value_bytes: Some(request.value.len()),
        value: values.then(|| show(&request.value)),
        lease: (request.lease != 0).then(|| format!("{:x}", request.lease)),
        raw_key: request.key.clone(),
        raw_end: Bytes::new(),
    }
}

fn delete(request: &DeleteRangeRequest) -> Op {
    interval("del", &request.key, &request.range_end)
}

fn interval(op: &'static str, key: &Bytes, end: &Bytes) -> Op {
    Op {
        op,
        key: show(key),
        range_end: (!end.is_empty()).then(|| show(end)),
        value_bytes: None,
        value: None,
        lease: None,
        raw_key: key.clone(),
        raw_end: end.clone(),
    }
}

fn txn(request: &TxnRequest, values: bool, ops: &mut Vec<Op>) {
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestPut(request)) => ops.push(put(request, values)),
            Some(Request::RequestDeleteRange(request)) => ops.push(delete(request)),
            Some(Request::RequestRange(RangeRequest { key, range_end, .. })) => {
                ops.push(interval("get", key, range_end));
            }
            Some(Request::RequestTxn(inner)) => txn(inner, values, ops),
            None => {}
        }
    }
}

/// What a change of who votes carries for the store: field 3 of its payload, which is a small protobuf message (1: a
/// number, 2 and 3: byte strings). Empty if it carries nothing, or if the bytes are none of ours.
pub fn conf_change_context(payload: &Bytes) -> Bytes {
    let mut at = 0;
    let varint = |at: &mut usize| -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *payload.get(*at)?;
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    };
    let mut context = Bytes::new();
    while at < payload.len() {
        let field = varint(&mut at);
        let Some(number) = varint(&mut at) else {
            return Bytes::new();
        };
        match field {
            Some(0x08) => {}
            Some(tag @ (0x12 | 0x1a)) => {
                let end = usize::try_from(number)
                    .ok()
                    .and_then(|bytes| at.checked_add(bytes));
                let Some(end) = end.filter(|end| *end <= payload.len()) else {
                    return Bytes::new();
                };
                if tag == 0x1a {
                    context = payload.slice(at..end);
                }
                at = end;
            }
            _ => return Bytes::new(),
        }
    }
    context
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_of_a_conf_change_is_found_and_nonsense_has_none() {
        let payload = Bytes::from_static(&[0x08, 1, 0x12, 2, 0x10, 9, 0x1a, 3, b'a', b'b', b'c']);
        assert_eq!(conf_change_context(&payload), "abc");
        assert_eq!(conf_change_context(&payload.slice(..6)), "");
        for cut in 7..payload.len() {
            assert_eq!(conf_change_context(&payload.slice(..cut)), "", "{cut}");
        }
        assert_eq!(conf_change_context(&Bytes::from_static(&[0xff; 20])), "");
        assert_eq!(conf_change_context(&Bytes::new()), "");
    }
}
