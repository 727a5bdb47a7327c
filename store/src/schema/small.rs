//! Records of the small tables.

use bytes::Bytes;

use super::{AUTH_KEY, VERSION_BITS, flags, lease_key, member_key};
use crate::codec::Cursor;
use crate::engine::Space;
use crate::error::Error;

const MEMBER_REMOVED: u8 = 1;
const AUTH_ENABLED: u8 = 1;

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
        Some((flags & MEMBER_REMOVED != 0, record.slice_ref(cursor.rest())))
    };
    parse().ok_or_else(|| Error::record(Space::State, &member_key(id), "is no member"))
}

/// Whether auth is on, and how often it has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthRecord {
    pub enabled: bool,
    pub revision: u64,
}

impl AuthRecord {
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(9);
        out.push(VERSION_BITS | if self.enabled { AUTH_ENABLED } else { 0 });
        out.extend_from_slice(&self.revision.to_be_bytes());
        out.into()
    }

    pub fn decode(record: &Bytes) -> Result<Self, Error> {
        let parse = || {
            let mut cursor = Cursor::new(record);
            let flags = flags(cursor.byte()?, AUTH_ENABLED)?;
            let auth = Self {
                enabled: flags & AUTH_ENABLED != 0,
                revision: cursor.u64()?,
            };
            cursor.end()?;
            Some(auth)
        };
        parse().ok_or_else(|| Error::record(Space::State, &AUTH_KEY, "is no auth record"))
    }
}

/// A message behind a version byte without flags.
pub(crate) fn versioned(message: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(1 + message.len());
    out.push(VERSION_BITS);
    out.extend_from_slice(message);
    out.into()
}

/// `None`: another version, flags nobody knows, or nothing at all.
pub(crate) fn versioned_message(record: &Bytes) -> Option<Bytes> {
    let mut cursor = Cursor::new(record);
    flags(cursor.byte()?, 0)?;
    Some(record.slice_ref(cursor.rest()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_auth_record_comes_back_and_cuts_are_refused() {
        for enabled in [false, true] {
            let auth = AuthRecord {
                enabled,
                revision: u64::MAX - 1,
            };
            let record = auth.encode();
            assert_eq!(AuthRecord::decode(&record).unwrap(), auth);
            for length in 0..record.len() {
                assert!(AuthRecord::decode(&record.slice(..length)).is_err());
            }
        }
        assert_eq!(versioned_message(&versioned(b"x")).unwrap(), "x");
        assert_eq!(versioned_message(&Bytes::from_static(&[0x11])), None);
    }

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
