//! Ids of a restored cluster.
//!
//! - A member's id is etcd's: the first 8 bytes, big endian, of SHA-1 over its peer urls, sorted as text, and the token. So a
//!   member has the id that its settings yield.
//! - The cluster's id is the first 8 bytes of SHA-1 over the line `kvnode restore 1`, all member ids, ascending, 8 bytes big
//!   endian each, the SHA-256 the snapshot ends with, and the text of what is done to it ([`super::topology::Changes`]).
//!   Members that restore the same file in the same way get the same id without asking each other; what was another cluster, be it the
//!   old one or another restore, has another one, and none of its members can join.

use sha1::{Digest, Sha1};

/// `None` for the one digest in 2^64 that would be 0: nobody's id.
pub fn member(peer_urls: &[String], token: &str) -> Option<u64> {
    let mut urls: Vec<&String> = peer_urls.iter().collect();
    urls.sort();
    let mut digest = Sha1::new();
    for url in urls {
        digest.update(url.as_bytes());
    }
    digest.update(token.as_bytes());
    Some(first_eight(digest)).filter(|id| *id != 0)
}

pub fn cluster(members: impl IntoIterator<Item = u64>, sha256: &str, changes: &str) -> u64 {
    let mut members: Vec<u64> = members.into_iter().collect();
    members.sort_unstable();
    let mut digest = Sha1::new();
    digest.update(b"kvnode restore 1\n");
    for member in members {
        digest.update(member.to_be_bytes());
    }
    digest.update(sha256.as_bytes());
    digest.update(changes.as_bytes());
    first_eight(digest).max(1)
}

fn first_eight(digest: Sha1) -> u64 {
    let bytes = digest.finalize();
    let first = bytes.iter().take(8);
    first.fold(0, |id, byte| id << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_has_etcds_id_and_every_input_changes_the_clusters() {
        let urls = ["http://localhost:2380".to_owned()];
        let id = member(&urls, "etcd-cluster").unwrap();
        assert_eq!(id, 0x8e9e_05c5_2164_694d);
        let base = cluster([id, 2], "aa", "bump 1");
        assert_eq!(base, cluster([2, id], "aa", "bump 1"));
        for other in [
            cluster([id], "aa", "bump 1"),
            cluster([id, 2], "ab", "bump 1"),
            cluster([id, 2], "aa", "bump 2"),
        ] {
            assert_ne!(base, other);
        }
    }
}
