//! Whether the records of a store agree with each other, without looking at a log.
//!
//! One pass over each space, with one look-up per record that refers to another. Nothing is changed, and a
//! damaged record does not end the pass.

use std::collections::BTreeMap;

use crate::engine::{EngineError, Reader, Space};
use crate::quota::LEASE_GRANT_COST;
use crate::revision::{FIRST_REVISION, Revision};
use crate::schema::{
    Head, LeaseRecord, META_KEY, Made, Meta, TAG_ATTACHMENT, TAG_HEAD, TAG_LEASE, TAG_TOMBSTONE,
    Undo, attachment_key, head_cost, head_key, head_user_key, hist_cost, lease_key, tombstone_key,
};

/// What a pass saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Live keys.
    pub keys: u64,
    /// Deleted keys that are not compacted away.
    pub tombstones: u64,
    /// Changes in readable history.
    pub changes: u64,
    pub leases: u64,
    pub attachments: u64,
}

/// Checks all records of a reader. `problem` hears of each contradiction, with the record's place in words;
/// `progress` of every record passed.
///
/// # Errors
/// The engine's: what it cannot read ends the pass.
pub fn structure<V: Reader>(
    reader: &V,
    mut problem: impl FnMut(String),
    mut progress: impl FnMut(),
) -> Result<Seen, EngineError> {
    let meta = match reader.get(Space::State, &META_KEY)? {
        Some(record) => match Meta::decode(&record) {
            Ok(meta) => meta,
            Err(error) => {
                problem(error.to_string());
                return Ok(Seen::default());
            }
        },
        None => Meta::default(),
    };
    // A part of a state has no history at its compact revision; where there is any, all of it has to be.
    let edge = meta.compact_revision.max(FIRST_REVISION);
    let (from, to) = (Revision::new(edge, 0), Revision::new(edge + 1, 0));
    let edge_told = reader
        .scan(Space::Hist, &from.to_bytes(), Some(&to.to_bytes()), false)
        .next()
        .transpose()?
        .is_some();
    let mut pass = Pass {
        reader,
        meta,
        told_from: if edge_told { edge } else { edge + 1 },
        seen: Seen::default(),
        live_bytes: 0,
        problem: &mut problem,
        progress: &mut progress,
    };
    pass.leases()?;
    pass.heads()?;
    pass.attachments()?;
    pass.history()?;
    let Pass {
        seen, live_bytes, ..
    } = pass;
    let live_bytes = live_bytes + seen.leases * LEASE_GRANT_COST;
    for (what, counted, noted) in [
        ("live keys", seen.keys, meta.key_count),
        ("bytes of live keys and leases", live_bytes, meta.live_bytes),
    ] {
        if counted != noted {
            problem(format!(
                "{what}: {counted} counted, the store's own number is {noted}"
            ));
        }
    }
    Ok(seen)
}

struct Pass<'a, V> {
    reader: &'a V,
    meta: Meta,
    /// First revision of which history has to have every change.
    told_from: i64,
    seen: Seen,
    live_bytes: u64,
    problem: &'a mut dyn FnMut(String),
    progress: &'a mut dyn FnMut(),
}

impl<V: Reader> Pass<'_, V> {
    fn leases(&mut self) -> Result<(), EngineError> {
        for item in self
            .reader
            .scan(Space::State, &[TAG_LEASE], Some(&[TAG_LEASE + 1]), false)
        {
            let (key, record) = item?;
            (self.progress)();
            self.seen.leases += 1;
            let id = key
                .get(1..)
                .and_then(|id| id.try_into().ok())
                .map(i64::from_be_bytes);
            match id.map(|id| LeaseRecord::decode(id, &record)) {
                Some(Ok(lease)) if lease.ttl > 0 => {}
                Some(Ok(lease)) => {
                    (self.problem)(format!(
                        "lease {:x} lasts {} seconds",
                        id.unwrap_or(0),
                        lease.ttl
                    ));
                }
                Some(Err(error)) => (self.problem)(error.to_string()),
                None => (self.problem)(format!("{} is no lease's key", key.escape_ascii())),
            }
        }
        Ok(())
    }

    fn heads(&mut self) -> Result<(), EngineError> {
        for item in self
            .reader
            .scan(Space::State, &[TAG_HEAD], Some(&[TAG_HEAD + 1]), false)
        {
            let (stored, record) = item?;
            (self.progress)();
            let key = head_user_key(&stored);
            let name = key.escape_ascii();
            let head = match Head::decode(&key, &record) {
                Ok(head) => head,
                Err(error) => {
                    (self.problem)(error.to_string());
                    continue;
                }
            };
            let at = head.modified;
            if at.main > self.meta.revision || at.main < FIRST_REVISION {
                (self.problem)(format!(
                    "key {name} was changed at revision {}, the store is at {}",
                    at.main, self.meta.revision
                ));
            }
            if let Some(version) = &head.live {
                self.seen.keys += 1;
                self.live_bytes += head_cost(&key, &version.value);
                if version.version < 1 || version.create_revision > at.main {
                    (self.problem)(format!(
                        "key {name}: version {}, created at {}, changed at {}",
                        version.version, version.create_revision, at.main
                    ));
                }
                if version.lease != 0 {
                    let lease = self.reader.get(Space::State, &lease_key(version.lease))?;
                    let attached = attachment_key(version.lease, &key);
                    if lease.is_none() || self.reader.get(Space::State, &attached)?.is_none() {
                        (self.problem)(format!(
                            "key {name} names lease {:x}, which does not know it",
                            version.lease
                        ));
                    }
                }
            } else {
                self.seen.tombstones += 1;
                if self.reader.get(Space::State, &tombstone_key(at))?.is_none() {
                    (self.problem)(format!(
                        "key {name} is deleted, but not in the list of deletes"
                    ));
                }
            }
            if at.main >= self.told_from {
                self.head_change(&key, &head)?;
            }
        }
        let (from, to) = ([TAG_TOMBSTONE], [TAG_TOMBSTONE + 1]);
        for item in self.reader.scan(Space::State, &from, Some(&to), false) {
            let (place, key) = item?;
            (self.progress)();
            let at = place.get(1..).and_then(Revision::from_bytes);
            match at {
                None => (self.problem)(format!(
                    "{} of key {} is no delete",
                    place.escape_ascii(),
                    key.escape_ascii()
                )),
                Some(at) if at.main > self.meta.compact_revision => {
                    if self.reader.get(Space::State, &head_key(&key))?.is_none() {
                        (self.problem)(format!(
                            "key {} was deleted at revision {}, but nothing says so at the key",
                            key.escape_ascii(),
                            at.main
                        ));
                    }
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The change that made a head has to be in history.
    fn head_change(&mut self, key: &[u8], head: &Head) -> Result<(), EngineError> {
        let (at, name) = (head.modified, key.escape_ascii());
        let record = self.reader.get(Space::Hist, &at.to_bytes())?;
        let agrees = match record.map(|record| Undo::decode(at, &record)) {
            None => {
                (self.problem)(format!(
                    "the change of key {name} at revision {} is missing",
                    at.main
                ));
                return Ok(());
            }
            Some(Err(error)) => {
                (self.problem)(error.to_string());
                return Ok(());
            }
            Some(Ok(undo)) => {
                undo.key == key
                    && match (&undo.made, &head.live) {
                        (Made::Tombstone, None) => true,
                        (
                            Made::Put {
                                create_revision,
                                version,
                                lease,
                                value,
                            },
                            Some(live),
                        ) => {
                            (*create_revision, *version, *lease)
                                == (live.create_revision, live.version, live.lease)
                                && value.as_ref().is_none_or(|value| *value == live.value)
                        }
                        _ => false,
                    }
            }
        };
        if !agrees {
            (self.problem)(format!(
                "key {name} and its change at revision {} do not agree",
                at.main
            ));
        }
        Ok(())
    }

    fn attachments(&mut self) -> Result<(), EngineError> {
        let (from, to) = ([TAG_ATTACHMENT], [TAG_ATTACHMENT + 1]);
        for item in self.reader.scan(Space::State, &from, Some(&to), false) {
            let (stored, _) = item?;
            (self.progress)();
            self.seen.attachments += 1;
            let lease = stored
                .get(1..9)
                .and_then(|id| id.try_into().ok())
                .map(i64::from_be_bytes);
            let key = stored.get(9..).unwrap_or_default();
            let head = self.reader.get(Space::State, &head_key(key))?;
            let head = head.and_then(|record| Head::decode(key, &record).ok());
            let names = head.and_then(|head| head.live).map(|version| version.lease);
            if names != lease {
                (self.problem)(format!(
                    "lease {:x} lists key {}, which is not on it",
                    lease.unwrap_or(0),
                    key.escape_ascii()
                ));
            }
        }
        Ok(())
    }

    fn history(&mut self) -> Result<(), EngineError> {
        let from = Revision::new(self.readable_from(), 0);
        let mut last: Option<(Revision, u64)> = None;
        for item in self.reader.scan(Space::Hist, &from.to_bytes(), None, false) {
            let (place, record) = item?;
            (self.progress)();
            let Some(at) = Revision::from_bytes(&place) else {
                (self.problem)(format!("{} is no revision", place.escape_ascii()));
                continue;
            };
            let undo = match Undo::decode(at, &record) {
                Ok(undo) => undo,
                Err(error) => {
                    (self.problem)(error.to_string());
                    last = None;
                    continue;
                }
            };
            self.seen.changes += 1;
            let previous = undo.previous.map(|modified| Head {
                modified,
                live: undo.previous_version.clone(),
            });
            if let Some((before, total)) = last {
                let follows = at.main == before.main && at.sub == before.sub + 1
                    || at.main == before.main + 1 && at.sub == 0;
                if !follows {
                    (self.problem)(format!(
                        "history goes from {}.{} to {}.{}",
                        before.main, before.sub, at.main, at.sub
                    ));
                }
                let cost = hist_cost(&undo.key, previous.as_ref());
                if follows && undo.total != total + cost {
                    (self.problem)(format!(
                        "history has {} bytes at revision {}.{}, {} are noted",
                        total + cost,
                        at.main,
                        at.sub,
                        undo.total
                    ));
                }
            } else if self.seen.changes == 1 && (at.sub != 0 || at.main > from.main + 1) {
                (self.problem)(format!("history begins at revision {}.{}", at.main, at.sub));
            }
            last = Some((at, undo.total));
            if let Some(previous) = previous.filter(|head| head.modified.main >= self.told_from) {
                self.head_change(&undo.key, &previous)?;
            }
        }
        let end = last.map_or(FIRST_REVISION, |(at, _)| at.main);
        if end < self.meta.revision && self.meta.revision > self.readable_from() {
            (self.problem)(format!(
                "history ends at revision {end}, the store is at {}",
                self.meta.revision
            ));
        }
        if let Some((_, total)) = last.filter(|(_, total)| *total != self.meta.hist_total) {
            (self.problem)(format!(
                "history has {total} bytes, the store's own number is {}",
                self.meta.hist_total
            ));
        }
        Ok(())
    }

    /// First revision of which all changes are kept.
    fn readable_from(&self) -> i64 {
        self.meta.compact_revision.max(FIRST_REVISION)
    }
}

/// Where two stores that should be equal are not, at most `most` places: (space, key, what). What each member
/// does on its own account (removing what is compacted away, writing new values into history) does not count.
///
/// # Errors
/// The engine's.
pub fn compare<A: Reader, B: Reader>(
    one: &A,
    two: &B,
    most: usize,
    mut progress: impl FnMut(),
) -> Result<Vec<(Space, Vec<u8>, String)>, EngineError> {
    let mut differences = Vec::new();
    let (a, b) = (meta_of(one)?, meta_of(two)?);
    let (a, b) = (
        Meta {
            compacted_physically: 0,
            ..a
        },
        Meta {
            compacted_physically: 0,
            ..b
        },
    );
    if a != b {
        differences.push((
            Space::State,
            META_KEY.to_vec(),
            format!("{a:?} against {b:?}"),
        ));
    }
    let a_meta = a;
    let hist_from = Revision::new(a.compact_revision.max(0), 0).to_bytes();
    for (space, from) in [
        (Space::State, Vec::new()),
        (Space::Hist, hist_from.to_vec()),
    ] {
        let mut ours = one.scan(space, &from, None, false).peekable();
        let mut theirs = two.scan(space, &from, None, false).peekable();
        while differences.len() < most {
            let order = match (ours.peek(), theirs.peek()) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(Ok((a, _))), Some(Ok((b, _)))) => a.cmp(b),
                (Some(Err(_)), _) => std::cmp::Ordering::Less,
                (_, Some(Err(_))) => std::cmp::Ordering::Greater,
            };
            let a = if order.is_le() {
                ours.next().transpose()?
            } else {
                None
            };
            let b = if order.is_ge() {
                theirs.next().transpose()?
            } else {
                None
            };
            progress();
            let (Some(key), what) = (match (&a, &b) {
                (Some((key, a)), Some((_, b))) if !same(space, key, a, b) => (Some(key), "differs"),
                (Some((key, record)), None) if !is_garbage(space, key, record, &a_meta) => {
                    (Some(key), "only in the first")
                }
                (None, Some((key, record))) if !is_garbage(space, key, record, &a_meta) => {
                    (Some(key), "only in the second")
                }
                _ => (None, ""),
            }) else {
                continue;
            };
            differences.push((space, key.to_vec(), what.to_owned()));
        }
    }
    Ok(differences)
}

fn meta_of<V: Reader>(reader: &V) -> Result<Meta, EngineError> {
    let record = reader.get(Space::State, &META_KEY)?;
    Ok(record
        .and_then(|record| Meta::decode(&record).ok())
        .unwrap_or_default())
}

/// Records of one key, apart from what members may write differently.
fn same(space: Space, key: &[u8], a: &bytes::Bytes, b: &bytes::Bytes) -> bool {
    if a == b || (space == Space::State && key == META_KEY) {
        return true;
    }
    let without_value = |record: &bytes::Bytes| {
        let undo = Undo::decode(Revision::from_bytes(key)?, record).ok()?;
        Some(match undo.made {
            Made::Put {
                create_revision,
                version,
                lease,
                ..
            } => Undo {
                made: Made::Put {
                    create_revision,
                    version,
                    lease,
                    value: None,
                },
                ..undo
            },
            Made::Tombstone => undo,
        })
    };
    space == Space::Hist && without_value(a).is_some_and(|a| Some(a) == without_value(b))
}

/// What compaction has hidden and one member may have removed already.
fn is_garbage(space: Space, key: &[u8], record: &bytes::Bytes, meta: &Meta) -> bool {
    if space == Space::Hist {
        return false;
    }
    let compacted = |at: Option<Revision>| at.is_some_and(|at| at.main <= meta.compact_revision);
    match key.first() {
        Some(&TAG_TOMBSTONE) => compacted(key.get(1..).and_then(Revision::from_bytes)),
        Some(&TAG_HEAD) => {
            let head = Head::decode(key.get(1..).unwrap_or_default(), record).ok();
            head.is_some_and(|head| head.live.is_none() && compacted(Some(head.modified)))
        }
        _ => false,
    }
}

/// Live and history bytes and changes per prefix: up to the `depth`-th `separator`, that included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub keys: u64,
    /// Keys and values of what is alive.
    pub live_bytes: u64,
    pub changes: u64,
    /// Records of readable history.
    pub history_bytes: u64,
}

/// Where the space goes, by prefix.
///
/// # Errors
/// The engine's; records that make no sense are passed over.
pub fn usage<V: Reader>(
    reader: &V,
    depth: usize,
    separator: u8,
    mut progress: impl FnMut(),
) -> Result<BTreeMap<Vec<u8>, Usage>, EngineError> {
    let mut all: BTreeMap<Vec<u8>, Usage> = BTreeMap::new();
    let prefix = |key: &[u8]| -> Vec<u8> {
        let mut ends = (0..key.len()).filter(|at| key[*at] == separator && *at > 0);
        match depth.checked_sub(1).and_then(|skip| ends.nth(skip)) {
            Some(end) => key[..=end].to_vec(),
            None if depth == 0 => Vec::new(),
            None => key[..key
                .iter()
                .rposition(|byte| *byte == separator)
                .map_or(0, |at| at + 1)]
                .to_vec(),
        }
    };
    for item in reader.scan(Space::State, &[TAG_HEAD], Some(&[TAG_HEAD + 1]), false) {
        let (stored, record) = item?;
        progress();
        let key = head_user_key(&stored);
        if let Some(version) = Head::decode(&key, &record).ok().and_then(|head| head.live) {
            let usage = all.entry(prefix(&key)).or_default();
            usage.keys += 1;
            usage.live_bytes += (key.len() + version.value.len()) as u64;
        }
    }
    let compacted = meta_of(reader)?.compact_revision.max(0);
    let from = Revision::new(compacted, 0).to_bytes();
    for item in reader.scan(Space::Hist, &from, None, false) {
        let (place, record) = item?;
        progress();
        if let Some(key) = Undo::key_of(&record) {
            let usage = all.entry(prefix(&key)).or_default();
            usage.changes += 1;
            usage.history_bytes += (place.len() + record.len()) as u64;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kvnode_api::{DeleteRangeRequest, LeaseGrantRequest, Message, PutRequest};

    use super::*;
    use crate::command::Header;
    use crate::engine::memory::MemoryEngine;
    use crate::engine::{Batch, Engine};
    use crate::{Command, Committed, Config, Kind, Store};

    /// A store after puts, deletes and a lease; `odd` makes one value another one.
    fn engine(odd: bool) -> MemoryEngine {
        let mut store = Store::open(MemoryEngine::new(), Config::default()).unwrap();
        for index in 1..=60u64 {
            let key = Bytes::from(format!("k{}", index % 7));
            let put = |lease| PutRequest {
                key: key.clone(),
                value: Bytes::from(vec![u8::from(odd && index == 30); 9]),
                lease,
                ..PutRequest::default()
            };
            let (kind, message) = match index % 6 {
                1 if index == 1 => {
                    let grant = LeaseGrantRequest { ttl: 9, id: 5 };
                    (Kind::LeaseGrant, grant.encode_to_vec())
                }
                2 => (Kind::Put, put(5).encode_to_vec()),
                4 => {
                    let key = key.clone();
                    let delete = DeleteRangeRequest {
                        key,
                        ..Default::default()
                    };
                    (Kind::DeleteRange, delete.encode_to_vec())
                }
                _ => (Kind::Put, put(0).encode_to_vec()),
            };
            let command = Command::encode(kind, &Header::default(), &message);
            store
                .apply(&[Committed {
                    index,
                    term: 1,
                    command,
                }])
                .unwrap();
        }
        store.into_engine()
    }

    fn problems(engine: &mut MemoryEngine) -> Vec<String> {
        let mut all = Vec::new();
        structure(&engine.view(), |problem| all.push(problem), || {}).unwrap();
        all
    }

    #[test]
    fn a_sound_store_has_no_contradictions_and_every_lost_record_is_one() {
        let mut whole = engine(false);
        assert_eq!(problems(&mut whole), Vec::<String>::new());
        let view = whole.view();
        let places = Space::ALL.map(|space| {
            let keys = view
                .scan(space, b"", None, false)
                .map(|item| item.unwrap().0);
            keys.map(|key| (space, key)).collect::<Vec<_>>()
        });
        for (space, key) in places.concat() {
            // The numbers of a store without their record are those of an empty one; and a delete of a
            // key that lives again has been overtaken.
            if key == META_KEY[..] || key[0] == TAG_TOMBSTONE {
                continue;
            }
            let mut damaged = engine(false);
            let mut batch = Batch::new();
            batch.delete(space, key.clone());
            damaged.commit(batch).unwrap();
            let found = problems(&mut damaged);
            assert!(!found.is_empty(), "{space} {}", key.escape_ascii());
        }
    }

    #[test]
    fn stores_of_equal_logs_are_equal_and_one_other_value_is_found() {
        let (mut one, mut two, mut other) = (engine(false), engine(false), engine(true));
        assert_eq!(compare(&one.view(), &two.view(), 9, || {}).unwrap(), []);
        let differences = compare(&one.view(), &other.view(), 9, || {}).unwrap();
        assert!(!differences.is_empty() && differences.iter().all(|(.., what)| what == "differs"));
    }

    #[test]
    fn usage_adds_up_at_every_depth() {
        let mut engine = engine(false);
        let view = engine.view();
        let total = |depth| -> u64 {
            usage(&view, depth, b'/', || {})
                .unwrap()
                .values()
                .map(|usage| usage.live_bytes)
                .sum()
        };
        assert!(total(0) > 0 && total(0) == total(1) && total(1) == total(3));
    }
}
