//! The records of one store turned into those of another cluster's: what a restore does to a snapshot.
//!
//! Who belonged to the old cluster, its alarms and its place in the log mean nothing to the new one and are dropped; the new
//! members take their place. With a bump the new store starts at a higher revision than any the old cluster can have
//! handed out, and everything before is compacted: whoever watches or pages through the past is told to list again, instead of
//! being shown another history under numbers it knows. Without one the history is kept as it is, and then nothing else may be
//! left out: the same revision must not mean two states.
//!
//! Records are turned one by one, in any pieces; what has to be counted before ([`Remake::added`]) comes from the [`Audit`] of
//! the turned ones.

use bytes::Bytes;
use kvnode_api::{Member, Message};

use crate::audit::Audit;
use crate::engine::Space;
use crate::error::Error;
use crate::export::Record;
use crate::revision::FIRST_REVISION;
use crate::schema::{
    AUTH_KEY, Head, HeadRef, LeaseRecord, META_KEY, Meta, PackedHead, TAG_ALARM, TAG_ATTACHMENT,
    TAG_HEAD, TAG_LEASE, TAG_MEMBER, TAG_ROLE, TAG_TOMBSTONE, TAG_USER, Version, encode_member,
    member_key,
};

/// What happens to the leases. Those that are kept begin anew with their full time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leases {
    Keep,
    /// The full time and so many seconds more, once: until a lease is renewed.
    Extend(i64),
    /// Their keys stay, without a lease.
    Drop,
}

/// What becomes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turned {
    /// It stays as it is.
    Same,
    Other(Record),
    Gone,
}

/// See the module text.
#[derive(Clone, Debug, PartialEq)]
pub struct Remake {
    /// Added to the revision; 0 keeps the history.
    pub bump: i64,
    pub leases: Leases,
    /// Users, roles, and whether they count.
    pub auth: bool,
    /// Only keys that start so.
    pub prefix: Bytes,
    pub members: Vec<Member>,
    /// Ids that must never be members.
    pub removed: Vec<u64>,
    /// Index and term the new log starts behind.
    pub applied: (u64, u64),
}

impl Remake {
    /// Whether the history stays, so that only a whole state may be restored.
    pub fn keeps_history(&self) -> bool {
        self.bump == 0
    }

    /// Why this cannot be done, if it cannot.
    pub fn objection(&self) -> Option<&'static str> {
        if !self.keeps_history() {
            return (self.bump < 0).then_some("a revision cannot go back");
        }
        if !self.prefix.is_empty() {
            return Some("a part of the keys is another state, and needs a revision of its own");
        }
        (self.leases == Leases::Drop).then_some(
            "keys without their leases are another state, and need a revision of their own",
        )
    }

    /// An empty audit of what is turned. `old` are the numbers of the store it comes from.
    pub fn audit(&self, old: &Meta) -> Audit {
        let (revision, compacted) = self.revisions(old);
        Audit::new(revision, compacted)
    }

    /// Revision and compact revision of the new store.
    pub fn revisions(&self, old: &Meta) -> (i64, i64) {
        if self.keeps_history() {
            return (old.revision, old.compact_revision);
        }
        let revision = old.revision.max(FIRST_REVISION).saturating_add(self.bump);
        (revision, revision)
    }

    /// What becomes of a record in the new store.
    ///
    /// # Errors
    /// A record that is not what its key promises.
    pub fn turn(&self, record: &Record) -> Result<Turned, Error> {
        let same = |kept| if kept { Turned::Same } else { Turned::Gone };
        if record.space == Space::Hist {
            return Ok(same(self.keeps_history()));
        }
        let Some(tag) = record.key.first().copied() else {
            return Err(Error::record(Space::State, &record.key, "has no key"));
        };
        let rest = |from: usize| record.key.get(from..).unwrap_or_default();
        let kept = match tag {
            TAG_HEAD => return self.head(record),
            TAG_LEASE => return self.lease(record),
            TAG_ATTACHMENT => self.leases != Leases::Drop && rest(9).starts_with(&self.prefix),
            // A list of deletes that are above the compact revision.
            TAG_TOMBSTONE => self.keeps_history(),
            TAG_ALARM | TAG_MEMBER => false,
            TAG_USER | TAG_ROLE => self.auth,
            _ if record.key[..] == AUTH_KEY => self.auth,
            _ if record.key[..] == META_KEY => false,
            _ => {
                return Err(Error::record(
                    Space::State,
                    &record.key,
                    "is of a kind this release does not know",
                ));
            }
        };
        Ok(same(kept))
    }

    /// Whether a run of keys may hold a record that does not turn into nothing.
    pub fn may_keep(&self, space: Space, first_key: &[u8], last_key: &[u8]) -> bool {
        if space == Space::Hist {
            return self.keeps_history();
        }
        let heads = [first_key, last_key].map(|key| key.strip_prefix(&[TAG_HEAD]));
        let [Some(first), Some(last)] = heads else {
            return true;
        };
        // Below the prefix, or above all that starts with it.
        let below = last < &self.prefix[..];
        let above = first > &self.prefix[..] && !first.starts_with(&self.prefix);
        !below && !above
    }

    /// The records no old one turns into: the store's numbers and the members, by key. `turned` is the audit of all
    /// turned records; these are added to it.
    pub fn added(&self, old: &Meta, turned: &mut Audit) -> Vec<Record> {
        let (revision, compact_revision) = self.revisions(old);
        let history = self.keeps_history();
        let meta = Meta {
            applied_index: self.applied.0,
            applied_term: self.applied.1,
            revision,
            compact_revision,
            compacted_physically: if history {
                old.compacted_physically
            } else {
                compact_revision
            },
            live_bytes: turned.live_bytes(),
            key_count: turned.seen().keys,
            hist_total: if history { old.hist_total } else { 0 },
            hist_compacted: if history { old.hist_compacted } else { 0 },
        };
        let state = |key: Vec<u8>, value: Bytes| Record {
            space: Space::State,
            key: key.into(),
            value,
        };
        let mut added = vec![state(META_KEY.to_vec(), meta.encode())];
        let present = |id| self.members.iter().any(|member| member.id == id);
        for id in self.removed.iter().copied().filter(|id| !present(*id)) {
            added.push(state(member_key(id), encode_member(true, &[])));
        }
        for member in &self.members {
            let record = encode_member(false, &member.encode_to_vec());
            added.push(state(member_key(member.id), record));
        }
        added.sort_by(|a, b| a.key.cmp(&b.key));
        added.dedup_by(|a, b| a.key == b.key);
        added.iter().for_each(|record| turned.add(record));
        added
    }

    fn head(&self, record: &Record) -> Result<Turned, Error> {
        if !record.key[1..].starts_with(&self.prefix) {
            return Ok(Turned::Gone);
        }
        if self.keeps_history() {
            return Ok(Turned::Same);
        }
        let key = &record.key[1..];
        let Some(version) = HeadRef::decode(key, &record.value)?.live else {
            return Ok(Turned::Gone);
        };
        if version.lease == 0 || self.leases != Leases::Drop {
            return Ok(Turned::Same);
        }
        let head = Head::decode(key, &record.value)?;
        let version = head.live.map(|version| Version {
            lease: 0,
            ..version
        });
        let packed = PackedHead::new(key, head.modified, version.as_ref());
        Ok(Turned::Other(Record {
            space: Space::State,
            key: packed.key(),
            value: packed.record(),
        }))
    }

    fn lease(&self, record: &Record) -> Result<Turned, Error> {
        let id = record.key.get(1..).and_then(|id| id.try_into().ok());
        let id = id.map(i64::from_be_bytes);
        let id = id.ok_or_else(|| Error::record(Space::State, &record.key, "is no lease's key"))?;
        let mut lease = LeaseRecord::decode(id, &record.value)?;
        lease.remaining = match self.leases {
            Leases::Drop => return Ok(Turned::Gone),
            Leases::Keep => 0,
            Leases::Extend(seconds) => lease.ttl.saturating_add(seconds.max(0)),
        };
        Ok(Turned::Other(Record {
            space: Space::State,
            key: record.key.clone(),
            value: lease.encode(),
        }))
    }
}

impl Turned {
    /// The record in the new store, if there is one. `record` is the one that was turned.
    pub fn record(self, record: Record) -> Option<Record> {
        match self {
            Turned::Same => Some(record),
            Turned::Other(other) => Some(other),
            Turned::Gone => None,
        }
    }
}

/// Two sorted runs of records as one; `added` has no key the other run has.
pub fn merged<E>(
    records: impl Iterator<Item = Result<Record, E>>,
    added: Vec<Record>,
) -> impl Iterator<Item = Result<Record, E>> {
    let mut records = records.peekable();
    let mut added = added.into_iter().peekable();
    std::iter::from_fn(move || {
        let first = match (records.peek(), added.peek()) {
            (Some(Ok(one)), Some(other)) => (other.space, &other.key) < (one.space, &one.key),
            (None, Some(_)) => true,
            _ => false,
        };
        match first {
            true => added.next().map(Ok),
            false => records.next(),
        }
    })
}
