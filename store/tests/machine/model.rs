//! The store as one would write it without caring for speed: a list of every version ever made.
//! Written from the protocol's rules, sharing nothing with the store but the messages.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvnode_api::compare::TargetUnion;
use kvnode_api::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResponse, Event,
    EventType, KeyRange, KeyValue, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, ResponseOp, SortOrder, SortTarget, Status, TxnRequest, TxnResponse,
};
use kvnode_api::{request_op::Request, response_op};
use kvnode_store::Change;

#[derive(Clone, Debug)]
struct Made {
    main: i64,
    key: Bytes,
    /// `None`: a delete.
    kv: Option<KeyValue>,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub revision: i64,
    pub compacted: i64,
    made: Vec<Made>,
    pub leases: BTreeSet<i64>,
}

impl Model {
    pub fn new() -> Self {
        Self {
            revision: 1,
            compacted: -1,
            made: Vec::new(),
            leases: BTreeSet::new(),
        }
    }

    pub fn state(&self, at: i64) -> BTreeMap<Bytes, KeyValue> {
        let mut state = BTreeMap::new();
        for made in self.made.iter().filter(|made| made.main <= at) {
            match &made.kv {
                Some(kv) => state.insert(made.key.clone(), kv.clone()),
                None => state.remove(&made.key),
            };
        }
        state
    }

    fn now(&self) -> BTreeMap<Bytes, KeyValue> {
        self.state(i64::MAX)
    }

    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Status> {
        let order =
            SortOrder::try_from(request.sort_order).map_err(|_| Status::invalid_sort_option())?;
        let target =
            SortTarget::try_from(request.sort_target).map_err(|_| Status::invalid_sort_option())?;
        let at = match request.revision {
            ..=0 => i64::MAX,
            revision if revision > self.revision => return Err(Status::future_revision()),
            revision if revision < self.compacted => return Err(Status::compacted()),
            revision => revision,
        };
        let interval = KeyRange::new(&request.key, &request.range_end);
        let mut kvs: Vec<KeyValue> = self.state(at).into_values().collect();
        kvs.retain(|kv| interval.contains(&kv.key));
        let mut response = RangeResponse {
            count: kvs.len() as i64,
            ..Default::default()
        };
        if request.count_only {
            return Ok(response);
        }
        let limit = if request.limit > 0 {
            request.limit as usize
        } else {
            usize::MAX
        };
        let bounds = [
            (request.min_mod_revision, request.max_mod_revision),
            (request.min_create_revision, request.max_create_revision),
        ];
        if order == SortOrder::None && bounds == [(0, 0), (0, 0)] {
            kvs.truncate(limit.saturating_add(1));
        }
        kvs.retain(|kv| {
            let fields = [kv.mod_revision, kv.create_revision];
            bounds.iter().zip(fields).all(|((min, max), field)| {
                (*min == 0 || field >= *min) && (*max == 0 || field <= *max)
            })
        });
        match target {
            SortTarget::Key => {}
            SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
            SortTarget::Create => kvs.sort_by_key(|kv| kv.create_revision),
            SortTarget::Mod => kvs.sort_by_key(|kv| kv.mod_revision),
            SortTarget::Value => kvs.sort_by_key(|kv| kv.value.clone()),
        }
        if order == SortOrder::Descend {
            kvs.reverse();
            // The store breaks ties by key; so that answers compare, here as well.
            let field = |kv: &KeyValue| match target {
                SortTarget::Key => (0, Bytes::new()),
                SortTarget::Version => (kv.version, Bytes::new()),
                SortTarget::Create => (kv.create_revision, Bytes::new()),
                SortTarget::Mod => (kv.mod_revision, Bytes::new()),
                SortTarget::Value => (0, kv.value.clone()),
            };
            if target != SortTarget::Key {
                let mut start = 0;
                while start < kvs.len() {
                    let same = kvs[start..]
                        .iter()
                        .take_while(|kv| field(kv) == field(&kvs[start]));
                    let end = start + same.count();
                    kvs[start..end].reverse();
                    start = end;
                }
            }
        }
        response.more = kvs.len() > limit;
        kvs.truncate(limit);
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        response.kvs = kvs;
        Ok(response)
    }

    pub fn check_put(&self, request: &PutRequest) -> Result<(), Status> {
        kvnode_api::check::put(request)?;
        if request.lease != 0 && !self.leases.contains(&request.lease) {
            return Err(Status::lease_not_found());
        }
        let keeps = request.ignore_value || request.ignore_lease;
        if keeps && !self.now().contains_key(&request.key) {
            return Err(Status::key_not_found());
        }
        Ok(())
    }

    /// `main` is the revision the change gets.
    fn put(&mut self, request: &PutRequest, main: i64) -> PutResponse {
        let old = self.now().remove(&request.key);
        let mut kv = KeyValue {
            key: request.key.clone(),
            create_revision: main,
            mod_revision: main,
            version: 1,
            value: request.value.clone(),
            lease: request.lease,
        };
        if let Some(old) = &old {
            kv.create_revision = old.create_revision;
            kv.version = old.version + 1;
            if request.ignore_value {
                kv.value = old.value.clone();
            }
            if request.ignore_lease {
                kv.lease = old.lease;
            }
        }
        self.made.push(Made {
            main,
            key: request.key.clone(),
            kv: Some(kv),
        });
        PutResponse {
            header: header(main),
            prev_kv: old.filter(|_| request.prev_kv),
        }
    }

    fn delete_range(&mut self, request: &DeleteRangeRequest, main: i64) -> DeleteRangeResponse {
        let interval = KeyRange::new(&request.key, &request.range_end);
        let mut doomed = self.now();
        doomed.retain(|key, _| interval.contains(key));
        for key in doomed.keys() {
            self.made.push(Made {
                main,
                key: key.clone(),
                kv: None,
            });
        }
        let header = header(self.seen(main));
        let deleted = doomed.len() as i64;
        let prev_kvs = if request.prev_kv {
            doomed.into_values().collect()
        } else {
            vec![]
        };
        DeleteRangeResponse {
            header,
            deleted,
            prev_kvs,
        }
    }

    /// The revision an answer inside the entry at `main` names.
    fn seen(&self, main: i64) -> i64 {
        if self.made.last().is_some_and(|made| made.main == main) {
            main
        } else {
            self.revision
        }
    }

    fn end(&mut self) {
        if self
            .made
            .last()
            .is_some_and(|made| made.main > self.revision)
        {
            self.revision += 1;
        }
    }

    pub fn apply_put(&mut self, request: &PutRequest) -> Result<PutResponse, Status> {
        self.check_put(request)?;
        let response = self.put(request, self.revision + 1);
        self.end();
        Ok(response)
    }

    pub fn apply_delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let response = self.delete_range(request, self.revision + 1);
        self.end();
        response
    }

    pub fn compact(&mut self, revision: i64) -> Result<(), Status> {
        if revision > self.revision {
            return Err(Status::future_revision());
        }
        if revision <= self.compacted {
            return Err(Status::compacted());
        }
        self.compacted = revision;
        Ok(())
    }

    pub fn lease_keys(&self, id: i64) -> Vec<Bytes> {
        let on_lease = self.now().into_values().filter(|kv| kv.lease == id);
        on_lease.map(|kv| kv.key).collect()
    }

    pub fn revoke(&mut self, id: i64) -> Result<(), Status> {
        if !self.leases.remove(&id) {
            return Err(Status::lease_not_found());
        }
        let main = self.revision + 1;
        for key in self.lease_keys(id) {
            self.made.push(Made {
                main,
                key,
                kv: None,
            });
        }
        self.end();
        Ok(())
    }

    pub fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Status> {
        let before = self.clone();
        before.check_txn(request)?;
        before.check_txn_ranges(request)?;
        let mut response = self.run(&before, request)?;
        self.end();
        response.header = header(self.revision);
        Ok(response)
    }

    fn branch<'a>(&self, request: &'a TxnRequest) -> (bool, &'a [RequestOp]) {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        (
            succeeded,
            if succeeded {
                &request.success
            } else {
                &request.failure
            },
        )
    }

    fn check_txn(&self, request: &TxnRequest) -> Result<(), Status> {
        for op in self.branch(request).1 {
            match op.request.as_ref().unwrap() {
                Request::RequestPut(put) => self.check_put(put)?,
                Request::RequestTxn(txn) => self.check_txn(txn)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn check_txn_ranges(&self, request: &TxnRequest) -> Result<(), Status> {
        for op in self.branch(request).1 {
            match op.request.as_ref().unwrap() {
                Request::RequestTxn(txn) => self.check_txn_ranges(txn)?,
                Request::RequestRange(range) if range.revision > self.revision => {
                    return Err(Status::future_revision());
                }
                Request::RequestRange(range)
                    if range.revision != 0 && range.revision < self.compacted =>
                {
                    return Err(Status::compacted());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn run(&mut self, before: &Model, request: &TxnRequest) -> Result<TxnResponse, Status> {
        let main = before.revision + 1;
        let (succeeded, ops) = before.branch(request);
        let mut response = TxnResponse {
            succeeded,
            ..Default::default()
        };
        for op in ops {
            use response_op::Response;
            let answer = match op.request.as_ref().unwrap() {
                Request::RequestRange(range) => {
                    let mut answer = self.range(range)?;
                    answer.header = header(self.seen(main));
                    Response::ResponseRange(answer)
                }
                Request::RequestPut(put) => Response::ResponsePut(self.put(put, main)),
                Request::RequestDeleteRange(delete) => {
                    Response::ResponseDeleteRange(self.delete_range(delete, main))
                }
                Request::RequestTxn(txn) => {
                    let mut answer = self.run(before, txn)?;
                    answer.header = header(0);
                    Response::ResponseTxn(answer)
                }
            };
            response.responses.push(ResponseOp {
                response: Some(answer),
            });
        }
        Ok(response)
    }

    fn holds(&self, compare: &Compare) -> bool {
        let interval = KeyRange::new(&compare.key, &compare.range_end);
        let mut kvs: Vec<Option<KeyValue>> = self.now().into_values().map(Some).collect();
        kvs.retain(|kv| interval.contains(&kv.as_ref().unwrap().key));
        if kvs.is_empty() {
            kvs.push(None);
        }
        kvs.iter().all(|kv| {
            let blank = KeyValue::default();
            let left = kv.as_ref().unwrap_or(&blank);
            let right = compare.target_union.as_ref();
            let order = match compare.target() {
                CompareTarget::Version => left.version.cmp(&match right {
                    Some(TargetUnion::Version(right)) => *right,
                    _ => 0,
                }),
                CompareTarget::Create => left.create_revision.cmp(&match right {
                    Some(TargetUnion::CreateRevision(right)) => *right,
                    _ => 0,
                }),
                CompareTarget::Mod => left.mod_revision.cmp(&match right {
                    Some(TargetUnion::ModRevision(right)) => *right,
                    _ => 0,
                }),
                CompareTarget::Lease => left.lease.cmp(&match right {
                    Some(TargetUnion::Lease(right)) => *right,
                    _ => 0,
                }),
                CompareTarget::Value if kv.is_none() => return false,
                CompareTarget::Value => left.value.cmp(&match right {
                    Some(TargetUnion::Value(right)) => right.clone(),
                    _ => Bytes::new(),
                }),
            };
            match compare.result() {
                CompareResult::Equal => order.is_eq(),
                CompareResult::Greater => order.is_gt(),
                CompareResult::Less => order.is_lt(),
                CompareResult::NotEqual => order.is_ne(),
            }
        })
    }

    /// Every change from `from` on, as a watcher with `prev_kv` sees it when the compact revision
    /// is `compacted`.
    pub fn changes(&self, from: i64, compacted: i64) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        for (index, made) in self
            .made
            .iter()
            .enumerate()
            .filter(|(_, made)| made.main >= from)
        {
            // At the compact revision only a key's last change is kept.
            let again = |later: &Made| later.main == made.main && later.key == made.key;
            if made.main == compacted && self.made[index + 1..].iter().any(again) {
                continue;
            }
            let created = made
                .kv
                .as_ref()
                .is_some_and(|kv| kv.create_revision == made.main);
            let prev_kv = match created || made.main <= compacted {
                true => None,
                false => self.state(made.main - 1).remove(&made.key),
            };
            let (kind, kv) = match &made.kv {
                Some(kv) => (EventType::Put, kv.clone()),
                None => {
                    let (key, mod_revision) = (made.key.clone(), made.main);
                    (
                        EventType::Delete,
                        KeyValue {
                            key,
                            mod_revision,
                            ..Default::default()
                        },
                    )
                }
            };
            let event = Event {
                r#type: kind as i32,
                kv: Some(kv),
                prev_kv,
            };
            match changes.last_mut() {
                Some(change) if change.revision == made.main => change.events.push(event),
                _ => changes.push(Change {
                    revision: made.main,
                    events: vec![event],
                }),
            }
        }
        changes
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..Default::default()
    })
}
