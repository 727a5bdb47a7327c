//! Records of the small tables.

use bytes::Bytes;

use super::{VERSION_BITS, flags, lease_key, member_key};
use crate::codec::Cursor;
use crate::engine::Space;
use crate::error::Error;

const MEMBER_REMOVED: u8 = 1;

/// A lease as stored; its keys are found under `attachment_prefix`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Granted time to live, seconds.
    pub ttl: i64,
    /// Last checkpointed remaining time, seconds; 0: none, so the full time counts.
    pub remaining: i64,
}

impl LeaseRecord {
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(17);
        out.push(VERSION_BITS);
        out.extend_from_slice(&self.ttl.to_be_bytes());
        out.extend_from_slice(&self.remaining.to_be_bytes());
        out.into()
    }

    pub fn decode(id: i64, record: &Bytes) -> Result<Self, Error> {
        let parse = || {
            let mut cursor = Cursor::new(record);
            flags(cursor.byte()?, 0)?;
            let lease = Self {
                ttl: cursor.i64()?,
                remaining: cursor.i64()?,
            };
            cursor.end()?;
            Some(lease)
        };
        parse().ok_or_else(|| Error::record(Space::State, &lease_key(id), "is no lease"))
    }
}

/// Flag and message of a member record. See `members.rs`.
pub(crate) fn encode_member(removed: bool, message: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(1 + message.len());
    out.push(VERSION_BITS | if removed { MEMBER_REMOVED } else { 0 });
    out.extend_from_slice(message);
    out.into()
}

pub(crate) fn decode_member(id: u64, record: &Bytes) -> Result<(bool, Bytes), Error> {
    let parse = || {
        let mut cursor = Cursor::new(record);
        let flags = flags(cursor.byte()?, MEMBER_REMOVED)?;
        Some((flags & MEMBER_REMOVED != 0, cursor.rest()))
    };
    parse().ok_or_else(|| Error::record(Space::State, &member_key(id), "is no member"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_and_members_come_back_and_cuts_are_refused() {
        let lease = LeaseRecord {
            ttl: 60,
            remaining: -1,
        };
        let record = lease.encode();
        assert_eq!(LeaseRecord::decode(5, &record).unwrap(), lease);
        for length in 0..record.len() {
            assert!(LeaseRecord::decode(5, &record.slice(..length)).is_err());
        }
        for removed in [false, true] {
            let record = encode_member(removed, b"message");
            assert_eq!(
                decode_member(5, &record).unwrap(),
                (removed, Bytes::from("message"))
            );
        }
        assert!(decode_member(5, &Bytes::new()).is_err());
        assert!(decode_member(5, &Bytes::from_static(&[0x2f])).is_err());
    }
}
