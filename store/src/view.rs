//! The read side: everything that can be asked of the state as it was right after one apply.
//!
//! A view never changes and may be read from any thread; reads may block on disk, so none belongs
//! on a reactor. Cloning is one reference count. Holding one keeps replaced data on disk and in
//! memory, so nobody should keep one longer than a request, a replay slice or an export takes.
//!
//! Answers carry the header's revision; who answered and at which term the shell fills in.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use kvnode_api::{
    DeleteRangeRequest, DeleteRangeResponse, HashKVResponse, HashResponse, KeyRange, KeyValue,
    PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader, Status, TxnRequest,
    TxnResponse,
};

use crate::alarm::Alarms;
use crate::answer::{Paged, answer};
use crate::auth::Auth;
use crate::count::count as fenced;
use crate::engine::{EngineError, Reader, Space};
use crate::error::Failure;
use crate::fences::Fences;
use crate::history::{History, history};
use crate::lease::{LeaseInfo, attached, stored};
use crate::members::Members;
use crate::pages::Pages;
use crate::range::{count, range};
use crate::schema::{LeaseRecord, Meta, lease_key};
use crate::source::{Moment, Source};
use crate::{hash, quota, txn};

/// See the module text.
pub struct View<V> {
    shared: Arc<Shared<V>>,
}

pub(crate) struct Shared<V> {
    pub reader: V,
    pub meta: Meta,
    pub alarms: Arc<Alarms>,
    pub members: Arc<Members>,
    pub auth: Arc<Auth>,
    pub leases_count: usize,
    pub quota_bytes: Option<u64>,
    /// Of this very state, once they were built.
    pub fences: Option<Fences>,
    /// What was made of their buckets.
    pub pages: Arc<Pages>,
}

impl<V> Clone for View<V> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

/// Sizes of the store; bytes are logical, not file sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    pub keys: u64,
    pub leases: u64,
    /// Live keys and leases.
    pub live_bytes: u64,
    /// History that can still be read.
    pub history_bytes: u64,
}

/// What a piece of an interval amounts to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub keys: u64,
    /// Of keys and newest values.
    pub bytes: u64,
    /// Where to go on; `None`: the end.
    pub next: Option<Bytes>,
}

/// A piece of an interval in key order.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    pub kvs: Vec<KeyValue>,
    /// Where to go on: every key of the interval below it was looked at. `None`: the end.
    pub next: Option<Bytes>,
}

impl<V: Reader> View<V> {
    pub(crate) fn new(shared: Shared<V>) -> Self {
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The same state read by another of the engine's views of it.
    pub(crate) fn over(&self, reader: V) -> Self {
        let Shared {
            meta,
            alarms,
            members,
            auth,
            leases_count,
            quota_bytes,
            fences,
            pages,
            ..
        } = &*self.shared;
        Self::new(Shared {
            reader,
            meta: *meta,
            alarms: Arc::clone(alarms),
            members: Arc::clone(members),
            auth: Arc::clone(auth),
            leases_count: *leases_count,
            quota_bytes: *quota_bytes,
            fences: fences.clone(),
            pages: Arc::clone(pages),
        })
    }

    /// The records themselves, for checks and exports.
    pub fn reader(&self) -> &V {
        &self.shared.reader
    }

    /// Main revision of the last write.
    pub fn revision(&self) -> i64 {
        self.shared.meta.revision
    }

    /// Oldest readable revision; -1: never compacted.
    pub fn compact_revision(&self) -> i64 {
        self.shared.meta.compact_revision
    }

    /// Compact revision up to which this member has physically removed what is hidden.
    pub fn compacted_physically(&self) -> i64 {
        self.shared.meta.compacted_physically
    }

    /// Index of the last log entry in this view.
    pub fn applied_index(&self) -> u64 {
        self.shared.meta.applied_index
    }

    /// Term of that entry.
    pub fn applied_term(&self) -> u64 {
        self.shared.meta.applied_term
    }

    /// The store's numbers as they are stored.
    pub fn meta(&self) -> &Meta {
        &self.shared.meta
    }

    /// What the quota is held against: live keys, leases and readable history, in bytes.
    pub fn live_bytes(&self) -> u64 {
        self.shared.meta.used_bytes()
    }

    /// Whether a request of this cost (see `quota.rs`) reaches the quota.
    pub fn quota_exceeded(&self, cost: u64) -> bool {
        quota::exceeded(self.shared.quota_bytes, self.live_bytes(), cost)
    }

    pub fn stats(&self) -> Stats {
        let meta = &self.shared.meta;
        Stats {
            keys: meta.key_count,
            leases: self.shared.leases_count as u64,
            live_bytes: meta.live_bytes,
            history_bytes: meta.hist_total - meta.hist_compacted,
        }
    }

    pub fn alarms(&self) -> &Alarms {
        &self.shared.alarms
    }

    /// Users, roles and permissions as of this view.
    pub fn auth(&self) -> &Auth {
        &self.shared.auth
    }

    pub fn members(&self) -> &Members {
        &self.shared.members
    }

    /// The newest pair of one key: the shortest way.
    pub fn get(&self, key: &Bytes) -> Result<Option<KeyValue>, Status> {
        let found = self.source().find(key, Moment::Newest);
        Ok(found.map_err(refuse)?.map(KeyValue::from))
    }

    /// `Range` with all its options. Errors: compacted, future revision, invalid sort option.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Status> {
        let response = range(&self.source(), request, &|range, moment| {
            self.fenced(range, moment)
        });
        let mut response = response.map_err(Failure::into_status)?;
        response.header = self.header();
        Ok(response)
    }

    /// The same as a framed message; `header` says all but the revision. Errors: also an answer too
    /// long for a message.
    pub fn range_frame(
        &self,
        request: &RangeRequest,
        header: &ResponseHeader,
    ) -> Result<Bytes, Status> {
        let counter = |range: &KeyRange, moment| self.fenced(range, moment);
        let paged = self.shared.fences.as_ref().map(|fences| Paged {
            fences,
            pages: &self.shared.pages,
        });
        let answer = answer(&self.source(), request, &counter, paged);
        answer
            .map_err(Failure::into_status)?
            .frame(&ResponseHeader {
                revision: self.revision(),
                ..*header
            })
    }

    /// The pairs of `range` from `from` on (or from its start), at `revision` (0 or less: this
    /// view's), until `rows` pairs or `bytes` bytes of keys and values are reached; at least one
    /// pair if there is any. Errors as in [`View::range`]; so a compaction between two slices of
    /// one stream shows, if the caller takes a newer view for each.
    pub fn range_slice(
        &self,
        range: &KeyRange,
        from: Option<&Bytes>,
        revision: i64,
        keys_only: bool,
        rows: usize,
        bytes: usize,
    ) -> Result<Slice, Status> {
        let source = self.source();
        let moment = source.moment(revision)?;
        let range = match from {
            Some(from) => rest_of(range, from),
            None => range.clone(),
        };
        let mut slice = Slice {
            kvs: Vec::new(),
            next: None,
        };
        let mut taken = 0;
        for found in source.iter(&range, moment, false) {
            let found = found.map_err(refuse)?;
            if !slice.kvs.is_empty() && (slice.kvs.len() >= rows || taken >= bytes) {
                slice.next = Some(Bytes::copy_from_slice(&found.key));
                break;
            }
            let mut pair = KeyValue::from(found);
            if keys_only {
                pair.value.clear();
            }
            taken += pair.key.len() + pair.value.len();
            slice.kvs.push(pair);
        }
        Ok(slice)
    }

    /// How much there is in `range` from `from` on (or from its start), in this view; at most `rows` pairs are looked at,
    /// at least one if there is any.
    pub fn sizes(
        &self,
        range: &KeyRange,
        from: Option<&Bytes>,
        rows: usize,
    ) -> Result<Sizes, Status> {
        let range = match from {
            Some(from) => rest_of(range, from),
            None => range.clone(),
        };
        let mut sizes = Sizes::default();
        for found in self.source().iter(&range, Moment::Newest, false) {
            let pair = KeyValue::from(found.map_err(refuse)?);
            if sizes.keys > 0 && sizes.keys >= rows as u64 {
                sizes.next = Some(Bytes::copy_from_slice(&pair.key));
                break;
            }
            sizes.keys += 1;
            sizes.bytes += (pair.key.len() + pair.value.len()) as u64;
        }
        Ok(sizes)
    }

    /// Keys alive in `range` at `revision` (0 or less: this view's).
    pub fn count(&self, range: &KeyRange, revision: i64) -> Result<i64, Status> {
        let source = self.source();
        let moment = source.moment(revision)?;
        let counter = |range: &KeyRange, moment| self.fenced(range, moment);
        count(&source, range, moment, &counter).map_err(Failure::into_status)
    }

    /// A transaction without writes, at this view. One that has writes is answered as if they did
    /// not exist for a txn: with an internal error.
    pub fn read_txn(&self, request: &TxnRequest) -> Result<TxnResponse, Status> {
        let run = || -> Result<TxnResponse, Failure> {
            let source = self.source();
            let path = txn::choose(&source, request)?;
            txn::check_reads(&source, request, &path)?;
            txn::run(&mut ReadOnly { view: self }, request, &path)
        };
        let mut response = run().map_err(Failure::into_status)?;
        response.header = self.header();
        Ok(response)
    }

    /// Changes of keys in `range` from revision `from` to `to` (both inclusive), at most
    /// `revisions_max` revisions; see [`History`] for where to go on. Each event has its `prev_kv`
    /// unless the revision is the compact revision itself. Errors: compacted.
    pub fn history(
        &self,
        from: i64,
        to: i64,
        range: &KeyRange,
        revisions_max: usize,
    ) -> Result<History, Status> {
        history(&self.source(), from, to, range, revisions_max).map_err(Failure::into_status)
    }

    /// The logical hash at `revision` (0 or less: this view's); see `hash.rs`. Scans the whole
    /// store. Errors: compacted, future revision.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKVResponse, Status> {
        let compact_revision = self.compact_revision();
        let revision = match self.source().moment(revision)? {
            Moment::Newest => self.revision(),
            Moment::At(revision) => revision,
        };
        let hash = hash::hash_kv(self.reader(), revision, compact_revision).map_err(refuse)?;
        let header = self.header();
        Ok(HashKVResponse {
            header,
            hash,
            compact_revision,
            hash_revision: revision,
        })
    }

    /// The whole state as ordered records, for a snapshot. History that compaction has hidden is left
    /// out.
    pub fn export(&self) -> crate::export::Records<'_, V> {
        let from = crate::Revision::new(self.compact_revision(), 0).to_bytes();
        crate::export::records(self.reader(), &from)
    }

    /// Those of the same records that are in `space`, shown to `take` one by one until it breaks. Returns the totals of
    /// those shown.
    ///
    /// # Errors
    /// The engine's.
    pub fn visit_export(
        &self,
        space: Space,
        take: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<crate::export::Totals, EngineError> {
        let from = match space {
            Space::State => Vec::new(),
            Space::Hist => {
                let from = crate::Revision::new(self.compact_revision(), 0);
                from.to_bytes().to_vec()
            }
        };
        crate::export::visit(self.reader(), space, &from, take)
    }

    /// Hash of everything replicated, leases, alarms and members included.
    pub fn hash(&self) -> Result<HashResponse, Status> {
        let (revision, compacted) = (self.revision(), self.compact_revision());
        let hash = hash::hash_all(self.reader(), revision, compacted).map_err(refuse)?;
        Ok(HashResponse {
            header: self.header(),
            hash,
        })
    }

    /// A lease, with its keys if asked for.
    pub fn lease(&self, id: i64, with_keys: bool) -> Result<Option<LeaseInfo>, Status> {
        let find = || -> Result<Option<LeaseInfo>, crate::error::Error> {
            let Some(record) = self.reader().get(Space::State, &lease_key(id))? else {
                return Ok(None);
            };
            let LeaseRecord { ttl, remaining } = LeaseRecord::decode(id, &record)?;
            let keys = match with_keys {
                true => attached(self.reader(), None, id)?.into_iter().collect(),
                false => Vec::new(),
            };
            Ok(Some(LeaseInfo {
                id,
                ttl,
                remaining,
                keys,
            }))
        };
        find().map_err(refuse)
    }

    /// All leases, without their keys.
    pub fn leases(&self) -> Result<Vec<LeaseInfo>, Status> {
        let info = |(id, LeaseRecord { ttl, remaining })| LeaseInfo {
            id,
            ttl,
            remaining,
            keys: Vec::new(),
        };
        stored(self.reader())
            .map(|item| item.map(info))
            .collect::<Result<_, _>>()
            .map_err(refuse)
    }

    /// Whether counts of the newest state come from fences rather than from a scan.
    pub fn has_fences(&self) -> bool {
        self.shared.fences.is_some()
    }

    fn fenced(&self, range: &KeyRange, moment: Moment) -> Result<Option<u64>, Failure> {
        match &self.shared.fences {
            Some(fences) => fenced(fences, &self.source(), range, moment),
            None => Ok(None),
        }
    }

    pub(crate) fn source(&self) -> Source<'_, V> {
        Source {
            reader: &self.shared.reader,
            overlay: None,
            known: None,
            revision: self.revision(),
            compact_revision: self.compact_revision(),
        }
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            revision: self.revision(),
            ..ResponseHeader::default()
        })
    }
}

fn refuse(error: crate::error::Error) -> Status {
    Failure::Fatal(error).into_status()
}

fn rest_of(range: &KeyRange, from: &Bytes) -> KeyRange {
    let from = from.max(range.start()).clone();
    match range {
        KeyRange::From(_) => KeyRange::From(from),
        KeyRange::Interval { end, .. } => KeyRange::Interval {
            start: from,
            end: end.clone(),
        },
        KeyRange::Single(key) if from == *key => KeyRange::Single(from),
        KeyRange::Single(_) => KeyRange::Interval {
            end: from.clone(),
            start: from,
        },
    }
}

struct ReadOnly<'a, V> {
    view: &'a View<V>,
}

impl<V: Reader> txn::Run for ReadOnly<'_, V> {
    fn range(&mut self, request: &RangeRequest) -> Result<RangeResponse, Failure> {
        self.view.range(request).map_err(Failure::Refused)
    }

    fn put(&mut self, _: &PutRequest) -> Result<PutResponse, Failure> {
        Err(write_in_read_txn())
    }

    fn delete_range(&mut self, _: &DeleteRangeRequest) -> Result<DeleteRangeResponse, Failure> {
        Err(write_in_read_txn())
    }
}

fn write_in_read_txn() -> Failure {
    Status::new(
        kvnode_api::Code::Internal,
        "kvnode: a write reached a read-only txn",
    )
    .into()
}
