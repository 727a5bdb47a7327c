//! The log line of a slow request: `--warning-unary-request-duration`.
//!
//! Keys are shown in part, values never. When everything is slow, a line a second tells how many more there were.

use std::cell::Cell;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvnode_api::service::Method;
use kvnode_api::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};
use prost::Message as _;

use crate::http::{Call, Reply};

/// Bytes of a key that are shown.
const KEY_BYTES_SHOWN: usize = 64;
/// Lines a second, per executor.
const LINES_MAX: u32 = 5;

/// Keeps one executor's lines within bounds.
#[derive(Default)]
pub struct SlowLog {
    second: Cell<Option<Instant>>,
    lines: Cell<u32>,
    unsaid: Cell<u64>,
}

impl SlowLog {
    /// A call took longer than `limit`.
    pub fn tell(
        &self,
        call: &Call,
        message: &Bytes,
        reply: &Reply,
        took: Duration,
        limit: Duration,
    ) {
        let now = Instant::now();
        let new = self
            .second
            .get()
            .is_none_or(|second| now - second >= Duration::from_secs(1));
        if new {
            self.second.set(Some(now));
            self.lines.set(0);
        }
        if self.lines.get() >= LINES_MAX {
            self.unsaid.set(self.unsaid.get() + 1);
            return;
        }
        self.lines.set(self.lines.get() + 1);
        let outcome = match reply {
            Ok(frame) => format!("{} bytes answered", frame.len()),
            Err(status) => format!("{:?}: {}", status.code, status.message),
        };
        let from = match call.peer.address {
            Some(address) => address.to_string(),
            None => "a unix socket".to_owned(),
        };
        let more = match self.unsaid.take() {
            0 => String::new(),
            unsaid => format!("; {unsaid} more were slow"),
        };
        log::warn!(
            "slow request: {}/{} took {took:?}, expected within {limit:?}; {}{} bytes from {from}; {outcome}{more}",
            call.method.service(),
            call.method.name(),
            about(call.method, message),
            message.len(),
        );
    }
}

/// What the request is about, in a few words.
fn about(method: Method, message: &Bytes) -> String {
    let message = message.clone();
    let found = match method {
        Method::Range => RangeRequest::decode(message)
            .ok()
            .map(|range| interval(&range.key, &range.range_end)),
        Method::Put => PutRequest::decode(message)
            .ok()
            .map(|put| interval(&put.key, b"")),
        Method::DeleteRange => DeleteRangeRequest::decode(message)
            .ok()
            .map(|delete| interval(&delete.key, &delete.range_end)),
        Method::Txn => TxnRequest::decode(message).ok().map(|txn| {
            format!(
                "{} compares, {} and {} operations",
                txn.compare.len(),
                txn.success.len(),
                txn.failure.len()
            )
        }),
        _ => None,
    };
    found.map_or_else(String::new, |found| format!("{found}, "))
}

fn interval(key: &[u8], end: &[u8]) -> String {
    match end {
        b"" => format!("key {}", shown(key)),
        b"\0" => format!("keys from {}", shown(key)),
        _ => format!("keys {} to {}", shown(key), shown(end)),
    }
}

/// Readable, on one line, and not long.
fn shown(key: &[u8]) -> String {
    let mut text = String::from("\"");
    let part = &key[..key.len().min(KEY_BYTES_SHOWN)];
    let _ = write!(text, "{}", part.escape_ascii());
    text.push('"');
    if part.len() < key.len() {
        let _ = write!(text, "... ({} bytes)", key.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_shown_in_part_and_a_value_not_at_all() {
        let put = PutRequest {
            key: vec![b'k'; 100].into(),
            value: "secret".into(),
            ..PutRequest::default()
        };
        let text = about(Method::Put, &put.encode_to_vec().into());
        assert!(
            text.contains("(100 bytes)") && !text.contains("secret"),
            "{text}"
        );
        let range = RangeRequest {
            key: "a\n".into(),
            range_end: "b".into(),
            ..RangeRequest::default()
        };
        let text = about(Method::Range, &range.encode_to_vec().into());
        assert_eq!(text, "keys \"a\\n\" to \"b\", ");
        assert_eq!(about(Method::Status, &Bytes::new()), "");
    }
}
