//! A naive model of the store: what a request answers and changes, from the rules alone.
//!
//! It is slow, obvious and written apart from the server, so the two agree only by both being right.
//! Modelled: put with its flags, single-key and range deletes, the end of a lease, transactions with nesting,
//! ranges with limit, count, filters, key order. Not modelled, and refused as such: sorting by anything but the key,
//! reads inside a transaction at an old revision, leases beyond their number in the pair.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use kvnode_api as api;

use crate::history::{Answer, Request};
use crate::words::number::*;

/// What the model cannot judge, or the server should have refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotModelled(pub &'static str);

/// The newest state at some revision.
#[derive(Clone, Debug)]
pub struct Model {
    keys: BTreeMap<Bytes, api::KeyValue>,
    revision: i64,
}

impl Default for Model {
    /// The empty store, at revision 1.
    fn default() -> Self {
        Model {
            keys: BTreeMap::new(),
            revision: 1,
        }
    }
}

impl Model {
    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub fn pairs(&self) -> impl Iterator<Item = &api::KeyValue> {
        self.keys.values()
    }

    /// What the request answers in this state, and the events it causes (none: it takes no revision).
    /// Headers carry the revision only.
    pub fn answer(&self, request: &Request) -> Result<(Answer, Vec<api::Event>), NotModelled> {
        let mut run = Run {
            model: self,
            changed: BTreeMap::new(),
            events: Vec::new(),
        };
        let answer = match request {
            Request::Range(range) => Answer::Range(run.range(range)?),
            Request::Put(put) => Answer::Put(run.put(put)?),
            Request::Delete(delete) => Answer::Delete(run.delete(delete)),
            Request::Revoke(id) => Answer::Delete(run.revoke(*id)),
            Request::Txn(txn) => {
                let mut branches = Vec::new();
                self.decide(txn, &mut branches);
                let mut branches = branches.into_iter();
                let mut answer = run.txn(txn, &mut branches)?;
                answer.header = run.header();
                Answer::Txn(answer)
            }
        };
        Ok((answer, run.events))
    }

    /// Moves on to `revision` by the events that happened there.
    pub fn advance(&mut self, revision: i64, events: &[api::Event]) {
        for event in events {
            let kv = event.kv.clone().unwrap_or_default();
            if event.r#type == PUT {
                self.keys.insert(kv.key.clone(), kv);
            } else {
                self.keys.remove(&kv.key);
            }
        }
        self.revision = revision;
    }

    /// Which branch each transaction takes, parents before children: all by the state before.
    fn decide(&self, txn: &api::TxnRequest, branches: &mut Vec<bool>) {
        let success = txn.compare.iter().all(|compare| self.holds(compare));
        branches.push(success);
        for op in if success { &txn.success } else { &txn.failure } {
            if let Some(api::request_op::Request::RequestTxn(inner)) = &op.request {
                self.decide(inner, branches);
            }
        }
    }

    fn holds(&self, compare: &api::Compare) -> bool {
        let mut any = false;
        for kv in within(&self.keys, &compare.key, &compare.range_end) {
            any = true;
            if !holds_for(compare, kv) {
                return false;
            }
        }
        any || (compare.target != VALUE && holds_for(compare, &api::KeyValue::default()))
    }
}

/// One request on its way: the state before, what it changed so far.
struct Run<'a> {
    model: &'a Model,
    changed: BTreeMap<Bytes, Option<api::KeyValue>>,
    events: Vec<api::Event>,
}

impl Run<'_> {
    /// The revision this request writes at.
    fn writing(&self) -> i64 {
        self.model.revision + 1
    }

    fn header(&self) -> Option<api::ResponseHeader> {
        let revision = if self.events.is_empty() {
            self.model.revision
        } else {
            self.writing()
        };
        Some(api::ResponseHeader {
            revision,
            ..Default::default()
        })
    }

    fn current(&self, key: &Bytes) -> Option<&api::KeyValue> {
        match self.changed.get(key) {
            Some(changed) => changed.as_ref(),
            None => self.model.keys.get(key),
        }
    }

    fn interval(&self, key: &Bytes, end: &Bytes) -> Vec<api::KeyValue> {
        let mut found: BTreeMap<&Bytes, &api::KeyValue> = within(&self.model.keys, key, end)
            .map(|kv| (&kv.key, kv))
            .collect();
        for (key, changed) in span_of(&self.changed, key, end) {
            match changed {
                Some(kv) => found.insert(key, kv),
                None => found.remove(key),
            };
        }
        found.into_values().cloned().collect()
    }

    fn range(&self, request: &api::RangeRequest) -> Result<api::RangeResponse, NotModelled> {
        if request.sort_target != 0 && request.sort_order + request.sort_target != 0 {
            return Err(NotModelled("sorting by another target than the key"));
        }
        let all = self.interval(&request.key, &request.range_end);
        let count = i64::try_from(all.len()).expect("a test's key count");
        let header = self.header();
        if request.count_only {
            return Ok(api::RangeResponse {
                header,
                count,
                ..Default::default()
            });
        }
        let bounded = |value, low, high| (low == 0 || value >= low) && (high == 0 || value <= high);
        let mut kvs: Vec<api::KeyValue> = all
            .into_iter()
            .filter(|kv| {
                bounded(
                    kv.mod_revision,
                    request.min_mod_revision,
                    request.max_mod_revision,
                )
            })
            .filter(|kv| {
                bounded(
                    kv.create_revision,
                    request.min_create_revision,
                    request.max_create_revision,
                )
            })
            .collect();
        if request.sort_order == DESCEND {
            kvs.reverse();
        }
        let mut more = false;
        if let Ok(limit) = usize::try_from(request.limit)
            && limit > 0
            && kvs.len() > limit
        {
            kvs.truncate(limit);
            more = true;
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        Ok(api::RangeResponse {
            header,
            kvs,
            more,
            count,
        })
    }

    fn put(&mut self, request: &api::PutRequest) -> Result<api::PutResponse, NotModelled> {
        let old = self.current(&request.key).cloned();
        if (request.ignore_value || request.ignore_lease) && old.is_none() {
            return Err(NotModelled("ignore flags on an absent key are refused"));
        }
        let new = api::KeyValue {
            key: request.key.clone(),
            create_revision: old.as_ref().map_or(self.writing(), |kv| kv.create_revision),
            mod_revision: self.writing(),
            version: old.as_ref().map_or(0, |kv| kv.version) + 1,
            value: match &old {
                Some(kv) if request.ignore_value => kv.value.clone(),
                _ => request.value.clone(),
            },
            lease: match &old {
                Some(kv) if request.ignore_lease => kv.lease,
                _ => request.lease,
            },
        };
        self.changed.insert(request.key.clone(), Some(new.clone()));
        self.events.push(api::Event {
            r#type: PUT,
            kv: Some(new),
            prev_kv: old.clone(),
        });
        let prev_kv = old.filter(|_| request.prev_kv);
        Ok(api::PutResponse {
            header: self.header(),
            prev_kv,
        })
    }

    fn delete(&mut self, request: &api::DeleteRangeRequest) -> api::DeleteRangeResponse {
        let gone = self.interval(&request.key, &request.range_end);
        self.remove(gone, request.prev_kv)
    }

    /// What hangs on a lease goes with it, in the order of keys.
    fn revoke(&mut self, lease: i64) -> api::DeleteRangeResponse {
        let attached = self.model.keys.values().filter(|kv| kv.lease == lease);
        let gone = attached.cloned().collect();
        self.remove(gone, false)
    }

    fn remove(&mut self, gone: Vec<api::KeyValue>, prev_kv: bool) -> api::DeleteRangeResponse {
        for old in &gone {
            let kv = api::KeyValue {
                key: old.key.clone(),
                mod_revision: self.writing(),
                ..Default::default()
            };
            self.changed.insert(old.key.clone(), None);
            let prev_kv = Some(old.clone());
            self.events.push(api::Event {
                r#type: DELETE,
                kv: Some(kv),
                prev_kv,
            });
        }
        api::DeleteRangeResponse {
            header: self.header(),
            deleted: i64::try_from(gone.len()).expect("a test's key count"),
            prev_kvs: if prev_kv { gone } else { Vec::new() },
        }
    }

    /// A nested transaction's header is present and empty; the caller fills the outermost one.
    fn txn(
        &mut self,
        request: &api::TxnRequest,
        branches: &mut impl Iterator<Item = bool>,
    ) -> Result<api::TxnResponse, NotModelled> {
        use api::request_op::Request;
        use api::response_op::Response;
        let succeeded = branches.next().expect("decided before");
        let mut responses = Vec::new();
        for op in if succeeded {
            &request.success
        } else {
            &request.failure
        } {
            let response = match &op.request {
                None => return Err(NotModelled("an empty operation is refused")),
                Some(Request::RequestRange(range)) if range.revision > 0 => {
                    return Err(NotModelled("a past revision inside a transaction"));
                }
                Some(Request::RequestRange(range)) => Response::ResponseRange(self.range(range)?),
                Some(Request::RequestPut(put)) => Response::ResponsePut(self.put(put)?),
                Some(Request::RequestDeleteRange(delete)) => {
                    Response::ResponseDeleteRange(self.delete(delete))
                }
                Some(Request::RequestTxn(txn)) => Response::ResponseTxn(self.txn(txn, branches)?),
            };
            responses.push(api::ResponseOp {
                response: Some(response),
            });
        }
        let header = Some(api::ResponseHeader::default());
        Ok(api::TxnResponse {
            header,
            succeeded,
            responses,
        })
    }
}

fn holds_for(compare: &api::Compare, kv: &api::KeyValue) -> bool {
    use api::compare::TargetUnion;
    use std::cmp::Ordering;
    let number = |right: Option<i64>| right.unwrap_or(0);
    let union = compare.target_union.as_ref();
    let order = match compare.target {
        VERSION => kv.version.cmp(&number(match union {
            Some(TargetUnion::Version(right)) => Some(*right),
            _ => None,
        })),
        CREATE => kv.create_revision.cmp(&number(match union {
            Some(TargetUnion::CreateRevision(right)) => Some(*right),
            _ => None,
        })),
        MOD => kv.mod_revision.cmp(&number(match union {
            Some(TargetUnion::ModRevision(right)) => Some(*right),
            _ => None,
        })),
        LEASE => kv.lease.cmp(&number(match union {
            Some(TargetUnion::Lease(right)) => Some(*right),
            _ => None,
        })),
        VALUE => match union {
            Some(TargetUnion::Value(right)) => kv.value.cmp(right),
            _ => kv.value.cmp(&Bytes::new()),
        },
        _ => Ordering::Equal,
    };
    match compare.result {
        EQUAL => order == Ordering::Equal,
        GREATER => order == Ordering::Greater,
        LESS => order == Ordering::Less,
        NOT_EQUAL => order != Ordering::Equal,
        _ => true,
    }
}

fn within<'a>(
    keys: &'a BTreeMap<Bytes, api::KeyValue>,
    key: &Bytes,
    end: &Bytes,
) -> impl Iterator<Item = &'a api::KeyValue> {
    span_of(keys, key, end).map(|(_, kv)| kv)
}

/// The entries a key and range end mean.
fn span_of<'a, V>(
    map: &'a BTreeMap<Bytes, V>,
    key: &Bytes,
    end: &Bytes,
) -> std::collections::btree_map::Range<'a, Bytes, V> {
    let low = Bound::Included(key.clone());
    let high = match &end[..] {
        b"" => Bound::Included(key.clone()),
        b"\0" => Bound::Unbounded,
        // BTreeMap panics on a backward range; an empty one is what is meant.
        _ if end <= key => return map.range((low.clone(), Bound::Excluded(key.clone()))),
        _ => Bound::Excluded(end.clone()),
    };
    map.range((low, high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::*;

    fn apply(model: &mut Model, request: Request) -> Answer {
        let (answer, events) = model.answer(&request).expect("modelled");
        if !events.is_empty() {
            model.advance(model.revision() + 1, &events);
        }
        answer
    }

    #[test]
    fn the_model_keeps_the_history_of_a_key() {
        let mut model = Model::default();
        apply(&mut model, Request::Put(put("k", "1")));
        apply(&mut model, Request::Put(put("k", "2")));
        let kv = model.pairs().next().expect("one key");
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
        let Answer::Delete(gone) = apply(&mut model, Request::Delete(delete("k"))) else {
            panic!("a delete answers a delete");
        };
        assert_eq!((gone.deleted, revision_of(&gone.header)), (1, 4));
        apply(&mut model, Request::Delete(delete("k")));
        assert_eq!(model.revision(), 4, "nothing deleted, no revision");
    }

    #[test]
    fn operations_of_a_txn_see_each_other_and_its_compares_do_not() {
        let mut model = Model::default();
        apply(&mut model, Request::Put(put("k", "old")));
        let inner = txn(
            vec![compare_value("k", EQUAL, "old")],
            vec![put("saw", "old").op()],
            vec![put("saw", "new").op()],
        );
        let request = then(vec![put("k", "new").op(), get("k").op(), inner.op()]);
        let Answer::Txn(answer) = apply(&mut model, Request::Txn(request)) else {
            panic!("a transaction answers a transaction");
        };
        assert_eq!(&answer.responses[1].as_range().kvs[0].value[..], b"new");
        assert!(answer.responses[2].as_txn().succeeded);
        assert_eq!(model.revision(), 3);
    }

    #[test]
    fn intervals_follow_the_protocol() {
        let mut model = Model::default();
        for key in ["a", "b", "c"] {
            apply(&mut model, Request::Put(put(key, "v")));
        }
        let count = |request: api::RangeRequest| match model.answer(&Request::Range(request)) {
            Ok((Answer::Range(answer), _)) => answer.count,
            other => panic!("{other:?}"),
        };
        assert_eq!(count(get("b")), 1);
        assert_eq!(count(span("a", "c")), 2);
        assert_eq!(count(span("b", "\0")), 2);
        assert_eq!(count(span("c", "a")), 0);
        assert_eq!(count(all()), 3);
    }
}
