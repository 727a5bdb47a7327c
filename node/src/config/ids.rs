//! Member and cluster ids of a statically configured cluster, as etcd derives them.
//!
//! - member id: the first 8 bytes, big endian, of SHA-1 over the member's peer urls (sorted as
//!   text, joined without separator) followed by the cluster token;
//! - cluster id: the first 8 bytes of SHA-1 over all member ids, ascending, 8 bytes big endian each.
//!
//! A member added later has the unix time of its addition, in decimal seconds, in place of the token.
//!
//! Equal inputs give equal ids on every member, so tools and migrated unit files see the ids they
//! expect. Id 0 means "nobody" throughout the system and is never produced.

use sha1::{Digest, Sha1};

/// The id of the member announcing `peer_urls` in the cluster named `token`.
///
/// `None` for the one digest in 2^64 that would be 0.
pub fn member_id<S: AsRef<str>>(
    peer_urls: impl IntoIterator<Item = S>,
    token: &str,
) -> Option<u64> {
    let mut urls: Vec<S> = peer_urls.into_iter().collect();
    urls.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
    let mut digest = Sha1::new();
    for url in &urls {
        digest.update(url.as_ref().as_bytes());
    }
    digest.update(token.as_bytes());
    Some(first_eight(digest)).filter(|id| *id != 0)
}

/// The id of a member added to a running cluster at this time; no token enters it.
///
/// `None` for the one digest in 2^64 that would be 0.
pub fn added_member_id<S: AsRef<str>>(
    peer_urls: impl IntoIterator<Item = S>,
    unix_seconds: u64,
) -> Option<u64> {
    member_id(peer_urls, &unix_seconds.to_string())
}

/// The id of the cluster founded by exactly these members; their order does not matter.
pub fn cluster_id(members: impl IntoIterator<Item = u64>) -> u64 {
    let mut members: Vec<u64> = members.into_iter().collect();
    members.sort_unstable();
    let mut digest = Sha1::new();
    for member in members {
        digest.update(member.to_be_bytes());
    }
    first_eight(digest)
}

/// The printed form of an id: lower-case hex without leading zeros.
pub fn hex(id: u64) -> String {
    format!("{id:x}")
}

/// Reads the printed form back, leading zeros and `0x` allowed; 0 is no id.
pub fn parse_hex(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok().filter(|id| *id != 0)
}

fn first_eight(digest: Sha1) -> u64 {
    let bytes = digest.finalize();
    bytes
        .iter()
        .take(8)
        .fold(0, |id, byte| id << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_member_has_etcds_well_known_ids() {
        let member = member_id(["http://localhost:2380"], "etcd-cluster").unwrap();
        assert_eq!(hex(member), "8e9e05c52164694d");
        assert_eq!(hex(cluster_id([member])), "cdf818194e3a8c32");
    }

    #[test]
    fn order_does_not_matter_and_everything_else_does() {
        let (a, b) = ("http://10.0.0.1:2380", "http://10.0.0.2:2380");
        assert_eq!(member_id([a, b], "t"), member_id([b, a], "t"));
        assert_ne!(member_id([a, b], "t"), member_id([a, b], "u"));
        assert_ne!(member_id([a], "t"), member_id([b], "t"));
        assert_eq!(cluster_id([1, 2, 3]), cluster_id([3, 1, 2]));
        assert_ne!(cluster_id([1, 2]), cluster_id([1, 2, 3]));
    }

    #[test]
    fn hex_has_no_leading_zeros_and_reads_back() {
        assert_eq!(hex(0xab), "ab");
        assert_eq!(parse_hex("ab"), Some(0xab));
        assert_eq!(parse_hex("0x00AB"), Some(0xab));
        assert_eq!(parse_hex("cdf818194e3a8c32"), Some(0xcdf8_1819_4e3a_8c32));
        for text in ["", "0", "0x", "+1", "xyz", "1ffffffffffffffff"] {
            assert_eq!(parse_hex(text), None, "{text:?}");
        }
    }
}
