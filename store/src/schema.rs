//! Every key and record the state machine keeps in the engine, byte by byte. Schema version 1.
//!
//! Integers in keys are fixed width and big endian, so that keys sort as their numbers; in records
//! they are varints (see `codec.rs`) unless a width is given. Every record starts with one byte
//! whose upper four bits are the record's version (1) and whose lower four are flags, except where
//! noted.
//!
//! `Space::State`, one tag byte first:
//!
//! | key | record |
//! |---|---|
//! | `k` user key | head of a key: flags TOMBSTONE 1, LEASE 2; mod main, mod sub; if not a tombstone: mod main - create, version, \[lease: 8 bytes if LEASE\], value to the end |
//! | `D` revision (12) | user key: the delete at that revision left a tombstone head; no version byte |
//! | `L` lease id (8) | granted TTL: 8 bytes, remaining TTL: 8 bytes (seconds; 0: never checkpointed) |
//! | `A` lease id (8) user key | empty: the key hangs on the lease |
//! | `a` member id (8) alarm type (4) | empty |
//! | `m` member id (8) | flag REMOVED 1, then the `Member` message |
//! | `u` user name | the `User` message |
//! | `r` role name | the `Role` message |
//! | `P` | flag ENABLED 1, auth revision: 8 bytes |
//! | `M` | the meta record: nine 8-byte integers, see [`Meta`] |
//!
//! `Space::Hist`, key = revision (12), one record per change, undo first: the record carries what
//! the key was *before* the change; what it is after stands in the head, or in the next change of
//! that key. Two bytes of flags (version byte, then flag byte):
//!
//! | flag | bit | field, in this order |
//! |---|---|---|
//! | | | total: history bytes up to and including this record, as `hist_cost` counts them |
//! | | | length of key, key |
//! | TOMBSTONE | 1 | set: a delete, the next line is missing |
//! | LEASE | 2 | main - create, version, \[new lease: 8 bytes if LEASE\] |
//! | PREVIOUS | 4 | main - previous mod main, previous mod sub |
//! | PREVIOUS_LIVE | 8 | previous mod main - its create, its version, \[its lease: 8 bytes if PREVIOUS_LEASE 16\], length of its value, value |
//! | VALUE | 32 | new value, to the end; a store may write it to make replay cheaper |
//!
//! Why undo: reads of the present and of the past touch no more than before, watch replay finds
//! `prev_kv` at hand, the new value is not written twice, and compaction drops the low end of
//! `hist` as whole tables without rewriting anything.
//!
//! Read at revision X: the head if its mod main <= X, else follow PREVIOUS from the head's own
//! change down to the first change after X; the answer is that record's previous version. Nothing
//! at or below the compact revision is ever needed for that.

mod head;
mod meta;
mod small;
mod undo;

use bytes::Bytes;
use kvnode_api::KeyRange;

use crate::engine::KEY_BYTES_MAX;
use crate::revision::Revision;

pub use head::{Head, Version};
pub use meta::Meta;
pub use small::{AuthRecord, LeaseRecord};
pub use undo::{Made, Undo};

pub(crate) use head::{HeadRef, PackedHead, VersionRef, head_cost};
pub(crate) use small::{decode_member, encode_member, versioned, versioned_message};
pub(crate) use undo::{UndoParts, hist_cost};

/// The schema this release reads and writes.
pub const SCHEMA_VERSION: u8 = 1;

/// Longest user key, in bytes: with the tag and a lease id in front it has to fit the engine.
pub const USER_KEY_BYTES_MAX: usize = KEY_BYTES_MAX - ATTACHMENT_PREFIX_BYTES;

pub const TAG_HEAD: u8 = b'k';
pub const TAG_TOMBSTONE: u8 = b'D';
pub const TAG_LEASE: u8 = b'L';
pub const TAG_ATTACHMENT: u8 = b'A';
pub const TAG_ALARM: u8 = b'a';
pub const TAG_MEMBER: u8 = b'm';
pub const TAG_USER: u8 = b'u';
pub const TAG_ROLE: u8 = b'r';

/// Key of the one meta record.
pub const META_KEY: [u8; 1] = [b'M'];

/// Key of the one record that says whether auth is on.
pub const AUTH_KEY: [u8; 1] = [b'P'];

const ATTACHMENT_PREFIX_BYTES: usize = 1 + 8;
const VERSION_BITS: u8 = SCHEMA_VERSION << 4;

/// `k` and the user key.
pub fn head_key(key: &[u8]) -> Vec<u8> {
    tagged(TAG_HEAD, key)
}

/// Where the heads of an interval lie: from (inclusive), to (exclusive). Inverted for an interval
/// without keys.
pub(crate) fn head_bounds(range: &KeyRange) -> (Vec<u8>, Vec<u8>) {
    let to = match range.end() {
        Some(end) => head_key(&end),
        None => vec![TAG_HEAD + 1],
    };
    (head_key(range.start()), to)
}

/// The user key of a head's key, sharing its buffer.
pub(crate) fn head_user_key(key: &Bytes) -> Bytes {
    key.slice(1.min(key.len())..)
}

pub fn tombstone_key(revision: Revision) -> Vec<u8> {
    tagged(TAG_TOMBSTONE, &revision.to_bytes())
}

/// Where the lease lies.
pub fn lease_key(id: i64) -> Vec<u8> {
    tagged(TAG_LEASE, &id.to_be_bytes())
}

/// What all attachments of a lease start with.
pub fn attachment_prefix(id: i64) -> Vec<u8> {
    tagged(TAG_ATTACHMENT, &id.to_be_bytes())
}

pub fn attachment_key(id: i64, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(ATTACHMENT_PREFIX_BYTES + key.len());
    out.push(TAG_ATTACHMENT);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// The user key of an attachment's key, sharing its buffer.
pub(crate) fn attached_user_key(key: &Bytes) -> Bytes {
    key.slice(ATTACHMENT_PREFIX_BYTES.min(key.len())..)
}

pub fn alarm_key(member: u64, alarm: i32) -> Vec<u8> {
    let mut out = tagged(TAG_ALARM, &member.to_be_bytes());
    out.extend_from_slice(&alarm.to_be_bytes());
    out
}

pub fn member_key(id: u64) -> Vec<u8> {
    tagged(TAG_MEMBER, &id.to_be_bytes())
}

/// Key of a user or a role.
pub(crate) fn named_key(tag: u8, name: &str) -> Vec<u8> {
    tagged(tag, name.as_bytes())
}

/// First key after every key that starts with `prefix`, which must not be all `ff`.
pub(crate) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=kept].to_vec();
    end[kept] += 1;
    Some(end)
}

fn tagged(tag: u8, rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + rest.len());
    out.push(tag);
    out.extend_from_slice(rest);
    out
}

/// The flags of a record's first byte; `None` if its version or a flag is unknown.
fn flags(byte: u8, known: u8) -> Option<u8> {
    (byte >> 4 == SCHEMA_VERSION && byte & 0x0f & !known == 0).then_some(byte & 0x0f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_cover_what_the_request_says() {
        let inside = |key: &'static [u8], end: &'static [u8], probe: &[u8]| {
            let range = KeyRange::new(&Bytes::from_static(key), &Bytes::from_static(end));
            let (from, to) = head_bounds(&range);
            let probe = head_key(probe);
            from <= probe && probe < to
        };
        assert!(inside(b"a", b"", b"a") && !inside(b"a", b"", b"a\0"));
        assert!(inside(b"a", b"c", b"b\xff") && !inside(b"a", b"c", b"c"));
        assert!(inside(b"a", b"\0", b"\xff\xff\xff") && !inside(b"b", b"\0", b"a"));
        assert!(inside(b"\0", b"\0\0", b"\0") && !inside(b"\0", b"\0\0", b"\0\0"));
        assert!(!inside(b"b", b"a", b"a") && !inside(b"b", b"b", b"b"));
    }

    #[test]
    fn prefixes_end_where_the_next_one_starts() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b"\xff\xff"), None);
    }
}
