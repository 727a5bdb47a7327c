//! The logical hash of the store: equal on all members for equal (revision, compact revision).
//!
//! Hashed is a set of versions, S(revision X, compact revision C):
//! * each put with C < main <= X, superseded or not;
//! * each put with main <= C that is still its key's newest at X;
//! * each delete with C < main <= X.
//!
//! So it does not change when compaction physically removes what the logical compact revision has
//! already hidden, nor with the engine, nor with the shape of history records.
//!
//! A version's digest is a 64-bit hash over: kind (1 put, 2 delete), main, sub, and for a put
//! create revision, version, lease (each as 8 bytes, little endian), then length of the key, key,
//! length of the value, value, byte strings padded with zeros to words of 8 (see [`Digest`]). The
//! set's hash is order independent: the wrapping sum of the digests. So two scans suffice, without
//! sorting, without following chains: a version is either its key's head, or the previous version
//! of exactly one history record, and that record tells until when it was the newest.
//!
//! The answer is the CRC-32C of the three bytes `key`, continued, unless the set is empty, over
//! the number of its members and the sum (8 bytes each, little endian). An empty store gives
//! 1084519789 as in any other implementation of the protocol; else only our own members compare.

use crate::engine::{Reader, Space};
use crate::error::Error;
use crate::revision::Revision;
use crate::schema::{
    Head, Made, TAG_ALARM, TAG_ATTACHMENT, TAG_HEAD, TAG_LEASE, TAG_MEMBER, Undo, Version,
    VersionRef, head_user_key,
};

/// Hash of the versions that count at `revision`, which lies between `compact_revision` and
/// `current`, the view's own revision.
pub(crate) fn hash_kv<V: Reader>(
    reader: &V,
    revision: i64,
    compact_revision: i64,
) -> Result<u32, Error> {
    Ok(versions(reader, revision, compact_revision)?.finish())
}

/// Hash of everything replicated: the newest versions and the small tables.
pub(crate) fn hash_all<V: Reader>(
    reader: &V,
    revision: i64,
    compact_revision: i64,
) -> Result<u32, Error> {
    let mut sum = versions(reader, revision, compact_revision)?;
    for tag in [TAG_ATTACHMENT, TAG_LEASE, TAG_ALARM, TAG_MEMBER] {
        for item in reader.scan(Space::State, &[tag], Some(&[tag + 1]), false) {
            let (key, record) = item?;
            let mut digest = Digest::new(3);
            digest.bytes(&key);
            digest.bytes(&record);
            sum.add(digest);
        }
    }
    Ok(sum.finish())
}

fn versions<V: Reader>(reader: &V, revision: i64, compacted: i64) -> Result<Sum, Error> {
    let mut sum = Sum::default();
    for item in reader.scan(Space::State, &[TAG_HEAD], Some(&[TAG_HEAD + 1]), false) {
        let (key, record) = item?;
        let key = head_user_key(&key);
        let head = Head::decode(&key, &record)?;
        if let Some(version) = head.live.filter(|_| head.modified.main <= revision) {
            sum.add(put_digest(&key, head.modified, &version));
        }
    }
    let from = Revision::new(compacted.saturating_add(1), 0).to_bytes();
    for item in reader.scan(Space::Hist, &from, None, false) {
        let (place, record) = item?;
        let at = Revision::from_bytes(&place)
            .ok_or_else(|| Error::record(Space::Hist, &place, "is no revision"))?;
        let undo = Undo::decode(at, &record)?;
        if undo.made == Made::Tombstone && at.main <= revision {
            let mut digest = Digest::new(2);
            digest.revision(at);
            digest.bytes(&undo.key);
            sum.add(digest);
        }
        if let Some((previous, version)) = undo.previous.zip(undo.previous_version) {
            let newest_then = at.main > revision;
            if previous.main <= revision && (previous.main > compacted || newest_then) {
                sum.add(put_digest(&undo.key, previous, &version));
            }
        }
    }
    Ok(sum)
}

pub(crate) fn put_digest(key: &[u8], modified: Revision, version: &Version) -> Digest {
    let borrowed = VersionRef {
        create_revision: version.create_revision,
        version: version.version,
        lease: version.lease,
        value: &version.value,
    };
    version_digest(key, modified, &borrowed)
}

/// As [`put_digest`].
pub(crate) fn version_digest(key: &[u8], modified: Revision, version: &VersionRef<'_>) -> Digest {
    let mut digest = Digest::new(1);
    digest.revision(modified);
    digest.word(version.create_revision.cast_unsigned());
    digest.word(version.version.cast_unsigned());
    digest.word(version.lease.cast_unsigned());
    digest.bytes(key);
    digest.bytes(version.value);
    digest
}

/// The hash of a set, member by member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub count: u64,
    sum: u64,
}

impl Sum {
    pub fn add(&mut self, digest: Digest) {
        self.add_finished(digest.finish());
    }

    /// For a digest that goes into several sums.
    pub fn add_finished(&mut self, digest: u64) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(digest);
    }

    /// Takes over the members of a set that has none of these.
    pub fn merge(&mut self, other: Sum) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
    }

    pub fn finish(&self) -> u32 {
        let crc = crc32c(0, b"key");
        if self.count == 0 {
            return crc;
        }
        let crc = crc32c(crc, &self.count.to_le_bytes());
        crc32c(crc, &self.sum.to_le_bytes())
    }
}

/// A 64-bit hash over words: state starts as the kind; each word is xored in, then the state is
/// multiplied by an odd constant and its upper half xored onto its lower one. The end mixes twice
/// more, so that sums of digests do not cancel. Not meant against an adversary.
pub(crate) struct Digest(u64);

impl Digest {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

    pub fn new(kind: u64) -> Self {
        let mut digest = Digest(0);
        digest.word(kind);
        digest
    }

    pub fn word(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(Self::FACTOR);
        self.0 = mixed ^ (mixed >> 32);
    }

    pub fn revision(&mut self, revision: Revision) {
        self.word(revision.main.cast_unsigned());
        self.word(u64::from(revision.sub));
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.word(u64::from_le_bytes(last));
        }
    }

    pub fn finish(mut self) -> u64 {
        self.word(0);
        self.word(0);
        self.0
    }
}

/// CRC-32C (Castagnoli, reflected polynomial 82F63B78, as in RFC 3720) of `bytes` appended to what
/// `crc` stands for; 0 stands for nothing. Only ever fed a few bytes.
fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    let mut crc = !crc;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn castagnoli_check_values() {
        assert_eq!(crc32c(0, b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(crc32c(0, b"1234"), b"56789"), 0xE306_9283);
        assert_eq!(crc32c(0, b"key"), 1_084_519_789);
        assert_eq!(Sum::default().finish(), 1_084_519_789);
    }

    #[test]
    fn digests_tell_where_a_key_ends_and_a_value_starts() {
        let digest = |key: &[u8], value: &'static [u8]| {
            let value = bytes::Bytes::from_static(value);
            let version = Version {
                create_revision: 2,
                version: 1,
                lease: 0,
                value,
            };
            put_digest(key, Revision::new(2, 0), &version).finish()
        };
        let all = [
            digest(b"a", b"b"),
            digest(b"ab", b""),
            digest(b"a", b"b\0"),
            digest(b"", b"ab"),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one));
        }
    }

    #[test]
    fn the_digest_is_pinned() {
        // Members of different releases compare these; the formula must not move unnoticed.
        let value = bytes::Bytes::from_static(b"some value");
        let version = Version {
            create_revision: 2,
            version: 3,
            lease: -1,
            value,
        };
        let digest = put_digest(b"some key", Revision::new(9, 1), &version).finish();
        let mut sum = Sum::default();
        sum.add(put_digest(b"some key", Revision::new(9, 1), &version));
        assert_eq!(digest, 13_410_253_947_914_727_780);
        assert_eq!(sum.finish(), 1_244_112_990);
    }
}
