//! What the records of a store come to, whatever the pieces they are seen in: whether they agree with each other, and the
//! hashes members compare.
//!
//! `check.rs` looks up what a record refers to; here both sides are summed up instead: what is referred to, and what
//! is there. Sums are equal if every reference has its record (accidents apart that cancel in 64 bits). So a pass needs no
//! store, no look-ups, and pieces can be summed on several threads, as those of a snapshot are before anything is made of it.
//!
//! What has to be equal, with C the compact revision:
//! * changes in history above C = heads above C + previous versions above C;
//! * puts in history at C, if it has any change there (a compaction keeps them, a part of a state has none) = heads and
//!   previous versions at C;
//! * deletes in history above C = entries of the list of deletes above C;
//! * keys that name a lease = entries in the leases' lists of keys, and each named lease exists.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::check::Seen;
use crate::engine::Space;
use crate::error::Error;
use crate::export::{Record, Totals, record_hash};
use crate::hash::{Digest, Sum, put_digest, version_digest};
use crate::quota::LEASE_GRANT_COST;
use crate::revision::{FIRST_REVISION, Revision};
use crate::schema::{
    Head, HeadRef, LeaseRecord, META_KEY, Made, Meta, TAG_ATTACHMENT, TAG_HEAD, TAG_LEASE,
    TAG_TOMBSTONE, Undo, Version, VersionRef, head_cost, hist_cost,
};

/// Contradictions told apart; more are only counted.
const PROBLEMS_MAX: usize = 100;

/// See the module text. One per piece, merged in the order of the pieces.
#[derive(Clone, Debug)]
pub struct Audit {
    revision: i64,
    compact_revision: i64,
    totals: Totals,
    seen: Seen,
    live_bytes: u64,
    changes_made: Sum,
    changes_found: Sum,
    /// Puts at C.
    edge_made: Sum,
    edge_found: Sum,
    edge_changes: u64,
    deletes_made: Sum,
    deletes_listed: Sum,
    attached: Sum,
    named: Sum,
    leases: BTreeSet<i64>,
    leases_named: BTreeSet<i64>,
    newest: Sum,
    versions: Sum,
    meta: Option<Meta>,
    /// The first and the last change seen, with the bytes of history before and up to it.
    first: Option<(Revision, u64)>,
    last: Option<(Revision, u64)>,
    problems: Vec<String>,
    problems_count: u64,
}

/// Hashes of one record: most of what an audit of it costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hashes {
    record: Option<u128>,
    /// Of the version that a head holds.
    version: Option<u64>,
}

impl Audit {
    /// For a store at `revision`, compacted to `compact_revision`.
    pub fn new(revision: i64, compact_revision: i64) -> Self {
        Self {
            revision,
            compact_revision,
            totals: Totals::default(),
            seen: Seen::default(),
            live_bytes: 0,
            changes_made: Sum::default(),
            changes_found: Sum::default(),
            edge_made: Sum::default(),
            edge_found: Sum::default(),
            edge_changes: 0,
            deletes_made: Sum::default(),
            deletes_listed: Sum::default(),
            attached: Sum::default(),
            named: Sum::default(),
            leases: BTreeSet::new(),
            leases_named: BTreeSet::new(),
            newest: Sum::default(),
            versions: Sum::default(),
            meta: None,
            first: None,
            last: None,
            problems: Vec::new(),
            problems_count: 0,
        }
    }

    pub fn add(&mut self, record: &Record) {
        self.add_known(record, &mut Hashes::default());
    }

    /// As [`Audit::add`]; what of `hashes` is known is taken from there, and what is not is left there, for another audit of
    /// the same record.
    pub fn add_known(&mut self, record: &Record, hashes: &mut Hashes) {
        let Record { space, key, value } = record;
        let hash = *hashes
            .record
            .get_or_insert_with(|| record_hash(*space, key, value));
        self.totals.add_hashed(*space, key, value, hash);
        let added = match (record.space, record.key.first().copied()) {
            (Space::Hist, _) => self.change(record),
            (Space::State, Some(TAG_HEAD)) => self.head(record, hashes),
            (Space::State, Some(TAG_ATTACHMENT)) => self.attachment(record),
            (Space::State, Some(TAG_LEASE)) => self.lease(record),
            (Space::State, Some(TAG_TOMBSTONE)) => self.listed_delete(record),
            (Space::State, _) if record.key[..] == META_KEY => {
                Meta::decode(&record.value).map(|meta| self.meta = Some(meta))
            }
            (Space::State, _) => Ok(()),
        };
        if let Err(error) = added {
            self.problem(error.to_string());
        }
    }

    /// Takes over what a later piece came to.
    pub fn merge(&mut self, later: Audit) {
        self.totals.merge(&later.totals);
        self.seen.keys += later.seen.keys;
        self.seen.tombstones += later.seen.tombstones;
        self.seen.changes += later.seen.changes;
        self.seen.leases += later.seen.leases;
        self.seen.attachments += later.seen.attachments;
        self.live_bytes += later.live_bytes;
        self.edge_changes += later.edge_changes;
        for (mine, theirs) in [
            (&mut self.changes_made, later.changes_made),
            (&mut self.changes_found, later.changes_found),
            (&mut self.edge_made, later.edge_made),
            (&mut self.edge_found, later.edge_found),
            (&mut self.deletes_made, later.deletes_made),
            (&mut self.deletes_listed, later.deletes_listed),
            (&mut self.attached, later.attached),
            (&mut self.named, later.named),
            (&mut self.newest, later.newest),
            (&mut self.versions, later.versions),
        ] {
            mine.merge(theirs);
        }
        self.leases.extend(later.leases);
        self.leases_named.extend(later.leases_named);
        self.meta = later.meta.or(self.meta);
        if let Some((at, before)) = later.first {
            self.follow(at, before);
        }
        self.first = self.first.or(later.first);
        self.last = later.last.or(self.last);
        let more = later.problems_count - later.problems.len() as u64;
        later
            .problems
            .into_iter()
            .for_each(|what| self.problem(what));
        self.problems_count += more;
    }

    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Bytes of live keys and leases, as the store counts them.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes + self.seen.leases * LEASE_GRANT_COST
    }

    /// The store's own numbers, if they were among the records.
    pub fn meta(&self) -> Option<&Meta> {
        self.meta.as_ref()
    }

    /// What `View::hash_kv` answers at the store's revision.
    pub fn hash_kv(&self) -> u32 {
        self.versions.finish()
    }

    /// What it would answer if the store were compacted to its newest revision, or to one above that.
    pub fn hash_newest(&self) -> u32 {
        self.newest.finish()
    }

    /// What contradicts what, in words, at most about a hundred; empty if the records are a whole store.
    pub fn problems(&self) -> Vec<String> {
        let mut all = self.problems.clone();
        let more = self.problems_count - all.len() as u64;
        if more > 0 {
            all.push(format!("{more} more"));
        }
        let Some(meta) = &self.meta else {
            all.push("the store's own numbers are missing".into());
            return all;
        };
        for (what, found, noted) in [
            ("revision", self.revision, meta.revision),
            (
                "compact revision",
                self.compact_revision,
                meta.compact_revision,
            ),
        ] {
            if found != noted {
                all.push(format!(
                    "{what} {noted} in the store's own numbers, {found} outside"
                ));
            }
        }
        for (what, counted, noted) in [
            ("live keys", self.seen.keys, meta.key_count),
            (
                "bytes of live keys and leases",
                self.live_bytes(),
                meta.live_bytes,
            ),
        ] {
            if counted != noted {
                all.push(format!(
                    "{what}: {counted} counted, the store's own number is {noted}"
                ));
            }
        }
        for (one, other, what) in [
            (
                self.changes_made,
                self.changes_found,
                "keys and history do not tell the same changes",
            ),
            (
                self.deletes_made,
                self.deletes_listed,
                "history and the list of deletes do not tell the same deletes",
            ),
            (
                self.attached,
                self.named,
                "keys and leases do not tell the same attachments",
            ),
        ] {
            if one != other {
                all.push(format!("{what} ({} against {})", one.count, other.count));
            }
        }
        if self.edge_changes > 0 && self.edge_made != self.edge_found {
            all.push(format!(
                "keys and history do not tell the same changes at the compact revision ({} against {})",
                self.edge_made.count, self.edge_found.count
            ));
        }
        for lease in self.leases_named.difference(&self.leases) {
            all.push(format!("lease {lease:x} has keys, but is not there"));
        }
        all.extend(self.history_ends(meta));
        all
    }

    fn history_ends(&self, meta: &Meta) -> Option<String> {
        let from = self.readable_from();
        let Some(((first, _), (last, total))) = self.first.zip(self.last) else {
            return (meta.revision > from).then(|| {
                format!(
                    "no history, but the store is at revision {} and readable from {from}",
                    meta.revision
                )
            });
        };
        if first.sub != 0 || first.main > from + 1 {
            return Some(format!("history begins at revision {first}"));
        }
        if last.main != meta.revision {
            return Some(format!(
                "history ends at revision {last}, the store is at {}",
                meta.revision
            ));
        }
        (total != meta.hist_total).then(|| {
            format!(
                "history has {total} bytes, the store's own number is {}",
                meta.hist_total
            )
        })
    }

    fn head(&mut self, record: &Record, hashes: &mut Hashes) -> Result<(), Error> {
        // Borrowed: this is done for every key.
        let key = record.key.get(1..).unwrap_or_default();
        let head = HeadRef::decode(key, &record.value)?;
        let at = head.modified;
        if at.main > self.revision || at.main < FIRST_REVISION {
            self.problem(format!(
                "key {} was changed at revision {}, the store is at {}",
                key.escape_ascii(),
                at.main,
                self.revision
            ));
        }
        let made =
            |version: &VersionRef<'_>| (version.create_revision, version.version, version.lease);
        self.found(key, at, head.live.as_ref().map(made));
        let Some(version) = head.live else {
            self.seen.tombstones += 1;
            return Ok(());
        };
        self.seen.keys += 1;
        self.live_bytes += head_cost(key, version.value);
        if version.version < 1 || version.create_revision > at.main {
            self.problem(format!(
                "key {}: version {}, created at {}, changed at {}",
                key.escape_ascii(),
                version.version,
                version.create_revision,
                at.main
            ));
        }
        if version.lease != 0 {
            self.named.add(attachment_digest(version.lease, key));
            self.leases_named.insert(version.lease);
        }
        let digest = *hashes
            .version
            .get_or_insert_with(|| version_digest(key, at, &version).finish());
        self.newest.add_finished(digest);
        self.versions.add_finished(digest);
        Ok(())
    }

    fn attachment(&mut self, record: &Record) -> Result<(), Error> {
        self.seen.attachments += 1;
        let lease = record.key.get(1..9).and_then(|id| id.try_into().ok());
        let lease = lease.map(i64::from_be_bytes);
        let lease =
            lease.ok_or_else(|| Error::record(Space::State, &record.key, "names no lease"))?;
        let key = record.key.get(9..).unwrap_or_default();
        self.attached.add(attachment_digest(lease, key));
        Ok(())
    }

    fn lease(&mut self, record: &Record) -> Result<(), Error> {
        self.seen.leases += 1;
        let id = record.key.get(1..).and_then(|id| id.try_into().ok());
        let id = id.map(i64::from_be_bytes);
        let id = id.ok_or_else(|| Error::record(Space::State, &record.key, "is no lease's key"))?;
        let lease = LeaseRecord::decode(id, &record.value)?;
        if lease.ttl <= 0 {
            self.problem(format!("lease {id:x} lasts {} seconds", lease.ttl));
        }
        self.leases.insert(id);
        Ok(())
    }

    fn listed_delete(&mut self, record: &Record) -> Result<(), Error> {
        let at = record.key.get(1..).and_then(Revision::from_bytes);
        let at = at.ok_or_else(|| Error::record(Space::State, &record.key, "is no delete"))?;
        if at.main > self.compact_revision {
            self.deletes_listed
                .add(change_digest(&record.value, at, None));
        }
        Ok(())
    }

    fn change(&mut self, record: &Record) -> Result<(), Error> {
        let at = Revision::from_bytes(&record.key)
            .ok_or_else(|| Error::record(Space::Hist, &record.key, "is no revision"))?;
        let undo = Undo::decode(at, &record.value)?;
        self.seen.changes += 1;
        let previous = undo.previous.map(|modified| Head {
            modified,
            live: undo.previous_version.clone(),
        });
        let cost = hist_cost(&undo.key, previous.as_ref());
        let before = undo.total.checked_sub(cost).ok_or_else(|| {
            Error::record(Space::Hist, &record.key, "tells fewer bytes than it has")
        })?;
        self.follow(at, before);
        self.first = self.first.or(Some((at, before)));
        self.last = Some((at, undo.total));
        let made = match undo.made {
            Made::Tombstone => None,
            Made::Put {
                create_revision,
                version,
                lease,
                ..
            } => Some((create_revision, version, lease)),
        };
        match at.main.cmp(&self.compact_revision) {
            Ordering::Greater => self.changes_made.add(change_digest(&undo.key, at, made)),
            Ordering::Equal => {
                self.edge_changes += 1;
                if made.is_some() {
                    self.edge_made.add(change_digest(&undo.key, at, made));
                }
            }
            Ordering::Less => {}
        }
        if made.is_none() && at.main > self.compact_revision {
            self.deletes_made.add(change_digest(&undo.key, at, None));
            let mut digest = Digest::new(2);
            digest.revision(at);
            digest.bytes(&undo.key);
            self.versions.add(digest);
        }
        let Some(previous) = previous else {
            return Ok(());
        };
        let told = previous.live.as_ref().map(numbers);
        self.found(&undo.key, previous.modified, told);
        if let Some(version) = &previous.live
            && at.main > self.compact_revision
            && previous.modified.main > self.compact_revision
        {
            self.versions
                .add(put_digest(&undo.key, previous.modified, version));
        }
        Ok(())
    }

    /// The change behind the last one has to be its successor, and its bytes to go on.
    fn follow(&mut self, at: Revision, before: u64) {
        let Some((last, total)) = self.last else {
            return;
        };
        let follows = at.main == last.main && at.sub == last.sub + 1
            || at.main == last.main + 1 && at.sub == 0;
        if !follows {
            self.problem(format!("history goes from {last} to {at}"));
        } else if total != before {
            self.problem(format!(
                "history has {total} bytes up to revision {last}, revision {at} counts from {before}"
            ));
        }
    }

    /// A version, or a delete, that some change has made.
    fn found(&mut self, key: &[u8], at: Revision, made: Option<Numbers>) {
        match at.main.cmp(&self.compact_revision) {
            Ordering::Greater => self.changes_found.add(change_digest(key, at, made)),
            Ordering::Equal if made.is_some() => self.edge_found.add(change_digest(key, at, made)),
            _ => {}
        }
    }

    fn readable_from(&self) -> i64 {
        self.compact_revision.max(FIRST_REVISION)
    }

    fn problem(&mut self, what: String) {
        self.problems_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(what);
        }
    }
}

type Numbers = (i64, i64, i64);

fn numbers(version: &Version) -> Numbers {
    (version.create_revision, version.version, version.lease)
}

fn change_digest(key: &[u8], at: Revision, made: Option<Numbers>) -> Digest {
    let mut digest = Digest::new(4);
    digest.revision(at);
    if let Some((create_revision, version, lease)) = made {
        digest.word(create_revision.cast_unsigned());
        digest.word(version.cast_unsigned());
        digest.word(lease.cast_unsigned());
    }
    digest.bytes(key);
    digest
}

fn attachment_digest(lease: i64, key: &[u8]) -> Digest {
    let mut digest = Digest::new(5);
    digest.word(lease.cast_unsigned());
    digest.bytes(key);
    digest
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kvnode_api::{
        CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, Message, PutRequest,
    };

    use super::*;
    use crate::command::Header;
    use crate::engine::memory::MemoryEngine;
    use crate::import::into_memory;
    use crate::remake::{Leases, Remake, merged};
    use crate::select::Selection;
    use crate::{Command, Committed, Config, Kind, Store};

    /// After puts with and without a lease, deletes, and a compaction to `compacted`, if it is not 0.
    fn store(compacted: i64) -> Store<MemoryEngine> {
        let mut store = Store::open(MemoryEngine::new(), Config::default()).unwrap();
        for index in 1..=80u64 {
            let key = Bytes::from(format!("k{}", index % 7));
            let put = |lease| PutRequest {
                key: key.clone(),
                value: Bytes::from(vec![index as u8; 9]),
                lease,
                ..PutRequest::default()
            };
            let delete = DeleteRangeRequest {
                key: key.clone(),
                ..Default::default()
            };
            let compaction = CompactionRequest {
                revision: compacted,
                physical: false,
            };
            let (kind, message) = match index % 6 {
                _ if index == 70 && compacted > 0 => (Kind::Compaction, compaction.encode_to_vec()),
                1 if index == 1 => {
                    let grant = LeaseGrantRequest { ttl: 9, id: 5 };
                    (Kind::LeaseGrant, grant.encode_to_vec())
                }
                2 => (Kind::Put, put(5).encode_to_vec()),
                4 => (Kind::DeleteRange, delete.encode_to_vec()),
                _ => (Kind::Put, put(0).encode_to_vec()),
            };
            let command = Command::encode(kind, &Header::default(), &message);
            let entry = Committed {
                index,
                term: 1,
                command,
            };
            store.apply(&[entry]).unwrap();
            if index == 75 {
                while store.compact_some().unwrap() {}
            }
        }
        store
    }

    fn records(store: &Store<MemoryEngine>) -> Vec<Record> {
        store.view().export().collect::<Result<_, _>>().unwrap()
    }

    fn audit<'a>(
        revision: i64,
        compacted: i64,
        records: impl Iterator<Item = &'a Record>,
    ) -> Audit {
        let mut audit = Audit::new(revision, compacted);
        records.for_each(|record| audit.add(record));
        audit
    }

    #[test]
    fn a_sound_store_is_sound_at_every_compact_revision_and_hashes_as_its_view() {
        for compacted in 0..60 {
            let store = store(compacted);
            let view = store.view();
            let (revision, compact_revision) = (view.revision(), view.compact_revision());
            let all = records(&store);
            let whole = audit(revision, compact_revision, all.iter());
            assert_eq!(whole.problems(), [""; 0], "compacted to {compacted}");
            assert_eq!(whole.hash_kv(), view.hash_kv(0).unwrap().hash);
            // In pieces of any size it comes to the same.
            let mut pieces = Audit::new(revision, compact_revision);
            for piece in all.chunks(7) {
                pieces.merge(audit(revision, compact_revision, piece.iter()));
            }
            assert_eq!(pieces.problems(), [""; 0]);
            assert_eq!(pieces.totals(), whole.totals());
            assert_eq!(pieces.hash_kv(), whole.hash_kv());
        }
    }

    #[test]
    fn every_lost_record_and_every_exchanged_value_is_a_contradiction() {
        let store = store(0);
        let view = store.view();
        let all = records(&store);
        for lost in 0..all.len() {
            let left = all.iter().enumerate().filter(|(at, _)| *at != lost);
            let audit = audit(view.revision(), -1, left.map(|(_, record)| record));
            assert!(
                !audit.problems().is_empty(),
                "{:?} is not missed",
                all[lost]
            );
        }
        let hist = all.iter().filter(|record| record.space == Space::Hist);
        for (one, other) in hist.clone().zip(hist.skip(1)) {
            let mut exchanged = all.clone();
            for record in &mut exchanged {
                if record == one {
                    record.value = other.value.clone();
                }
            }
            let audit = audit(view.revision(), -1, exchanged.iter());
            assert!(!audit.problems().is_empty(), "{one:?} as {other:?}");
        }
    }

    #[test]
    fn what_a_restore_or_a_choice_makes_of_a_state_is_a_whole_state() {
        for compacted in [0, 20, 55] {
            let store = store(compacted);
            let view = store.view();
            for (bump, leases, prefix) in [
                (0, Leases::Keep, ""),
                (0, Leases::Extend(7), ""),
                (9, Leases::Keep, ""),
                (9, Leases::Drop, ""),
                (9, Leases::Keep, "k3"),
            ] {
                let remake = Remake {
                    bump,
                    leases,
                    auth: true,
                    prefix: prefix.into(),
                    members: vec![kvnode_api::Member {
                        id: 77,
                        ..Default::default()
                    }],
                    removed: vec![5],
                    applied: (80, 1),
                };
                assert_eq!(remake.objection(), None);
                let mut turned = remake.audit(view.meta());
                let kept: Vec<Record> = records(&store)
                    .into_iter()
                    .filter_map(|record| {
                        let kept = remake.turn(&record).unwrap().record(record.clone());
                        let may = remake.may_keep(record.space, &record.key, &record.key);
                        assert!(may || kept.is_none(), "{record:?}");
                        kept
                    })
                    .inspect(|record| turned.add(record))
                    .collect();
                let added = remake.added(view.meta(), &mut turned);
                assert_eq!(turned.problems(), [""; 0]);
                let all = merged(kept.into_iter().map(Ok::<_, Error>), added);
                let (engine, totals) = into_memory(all).unwrap();
                assert_eq!(totals, *turned.totals());
                let again = Store::open(engine, Config::default()).unwrap();
                let view = again.view();
                assert_eq!(view.hash_kv(0).unwrap().hash, turned.hash_kv());
                assert_eq!(view.members().len(), 1);
                assert!(view.members().is_removed(5));
            }
            for selection in [
                Selection {
                    prefix: "k".into(),
                    revision: 0,
                },
                Selection {
                    prefix: "k3".into(),
                    revision: 60,
                },
            ] {
                let selected = view.select(&selection).unwrap();
                let mut all = Vec::new();
                let each = selected.each(|record| {
                    all.push(Ok::<_, Error>(record));
                    Ok::<_, Error>(())
                });
                each.unwrap();
                let (engine, _) = into_memory(all.into_iter()).unwrap();
                let part = Store::open(engine, Config::default()).unwrap().view();
                let whole = audit(
                    part.revision(),
                    part.compact_revision(),
                    part.export().collect::<Result<Vec<_>, _>>().unwrap().iter(),
                );
                assert_eq!(whole.problems(), [""; 0]);
                let range = kvnode_api::RangeRequest {
                    key: selection.prefix.clone(),
                    range_end: "l".into(),
                    revision: selection.revision,
                    ..Default::default()
                };
                let keys = |kvs: Vec<kvnode_api::KeyValue>| {
                    let pairs = kvs
                        .into_iter()
                        .map(|kv| (kv.key, kv.value, kv.mod_revision));
                    let wanted = pairs.filter(|(key, ..)| key.starts_with(&selection.prefix));
                    wanted.collect::<Vec<_>>()
                };
                let now = kvnode_api::RangeRequest {
                    revision: 0,
                    ..range.clone()
                };
                assert_eq!(
                    keys(part.range(&now).unwrap().kvs),
                    keys(view.range(&range).unwrap().kvs)
                );
            }
        }
    }
}
