//! Leases: which exist, how long they last, and what goes with them.
//!
//! The store keeps no time. It knows ids, granted and checkpointed seconds, and which keys hang on
//! which lease; when a lease is over is the leader's clock's business, told through the log as a
//! revoke. The table is in memory whole (the quota counts each lease); attachments stay in the
//! engine and are read when a lease ends.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use kvnode_api::check::LEASE_TTL_SECONDS_MAX;
use kvnode_api::{LeaseCheckpointRequest, LeaseGrantRequest, Status};

use crate::engine::{Batch, Reader, Space};
use crate::error::Error;
use crate::quota::LEASE_GRANT_COST;
use crate::schema::{
    LeaseRecord, Meta, TAG_LEASE, after_prefix, attached_user_key, attachment_prefix, lease_key,
};

/// What the keeper of the lease clock has to know, in the order it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// `ttl` in seconds.
    Granted { id: i64, ttl: i64 },
    /// Gone, with its keys.
    Revoked { id: i64 },
    /// `remaining` in seconds; 0 takes an earlier checkpoint back, so the full time counts again.
    Checkpointed { id: i64, remaining: i64 },
}

/// A lease as a view shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    pub id: i64,
    /// Granted seconds.
    pub ttl: i64,
    /// Checkpointed seconds, 0 if there is no checkpoint.
    pub remaining: i64,
    /// Keys on it in key order; left empty unless asked for.
    pub keys: Vec<Bytes>,
}

#[derive(Debug, Default)]
pub(crate) struct Leases {
    table: HashMap<i64, LeaseRecord>,
}

impl Leases {
    pub fn load<V: Reader>(reader: &V) -> Result<Self, Error> {
        let table = stored(reader).collect::<Result<_, _>>()?;
        Ok(Self { table })
    }

    pub fn contains(&self, id: i64) -> bool {
        self.table.contains_key(&id)
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Answers the granted seconds: what was asked for, raised to `ttl_min`.
    pub fn grant(
        &mut self,
        request: &LeaseGrantRequest,
        ttl_min: i64,
        meta: &mut Meta,
        batch: &mut Batch,
    ) -> Result<LeaseChange, Status> {
        let id = request.id;
        // 0 means "pick one", which the proposer has done.
        if id == 0 {
            return Err(Status::lease_not_found());
        }
        if request.ttl > LEASE_TTL_SECONDS_MAX {
            return Err(Status::lease_ttl_too_large());
        }
        if self.table.contains_key(&id) {
            return Err(Status::lease_exists());
        }
        let ttl = request.ttl.max(ttl_min);
        let record = LeaseRecord { ttl, remaining: 0 };
        batch.put(Space::State, lease_key(id), record.encode());
        self.table.insert(id, record);
        meta.live_bytes += LEASE_GRANT_COST;
        Ok(LeaseChange::Granted { id, ttl })
    }

    /// Forgets the lease itself; its keys are deleted by the caller, before or after.
    pub fn revoke(
        &mut self,
        id: i64,
        meta: &mut Meta,
        batch: &mut Batch,
    ) -> Result<LeaseChange, Status> {
        if self.table.remove(&id).is_none() {
            return Err(Status::lease_not_found());
        }
        batch.delete(Space::State, lease_key(id));
        meta.live_bytes -= LEASE_GRANT_COST;
        Ok(LeaseChange::Revoked { id })
    }

    /// Notes remaining times; leases that are gone by now are passed over.
    pub fn checkpoint(
        &mut self,
        request: &LeaseCheckpointRequest,
        batch: &mut Batch,
    ) -> Vec<LeaseChange> {
        let mut changes = Vec::with_capacity(request.checkpoints.len());
        for checkpoint in &request.checkpoints {
            let (id, remaining) = (checkpoint.id, checkpoint.remaining_ttl.max(0));
            if let Some(record) = self.table.get_mut(&id) {
                record.remaining = remaining;
                batch.put(Space::State, lease_key(id), record.encode());
                changes.push(LeaseChange::Checkpointed { id, remaining });
            }
        }
        changes
    }
}

/// All leases a view has, by id as stored.
pub(crate) fn stored<V: Reader>(
    reader: &V,
) -> impl Iterator<Item = Result<(i64, LeaseRecord), Error>> {
    reader
        .scan(Space::State, &[TAG_LEASE], Some(&[TAG_LEASE + 1]), false)
        .map(|item| {
            let (key, record) = item?;
            let id = key.get(1..).and_then(|id| id.try_into().ok());
            let id = id.ok_or_else(|| Error::record(Space::State, &key, "is no lease's key"))?;
            let id = i64::from_be_bytes(id);
            Ok((id, LeaseRecord::decode(id, &record)?))
        })
}

/// Keys on the lease, sorted; `pending` is what a batch has changed since.
pub(crate) fn attached<V: Reader>(
    reader: &V,
    pending: Option<&BTreeMap<(i64, Bytes), bool>>,
    id: i64,
) -> Result<BTreeSet<Bytes>, Error> {
    let prefix = attachment_prefix(id);
    let end = after_prefix(&prefix);
    let mut keys = BTreeSet::new();
    for item in reader.scan(Space::State, &prefix, end.as_deref(), false) {
        keys.insert(attached_user_key(&item?.0));
    }
    let changed = pending.map(|pending| pending.range((id, Bytes::new())..));
    for ((_, key), attached) in changed
        .into_iter()
        .flatten()
        .take_while(|((at, _), _)| *at == id)
    {
        if *attached {
            keys.insert(key.clone());
        } else {
            keys.remove(key);
        }
    }
    Ok(keys)
}
