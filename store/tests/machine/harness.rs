//! Short ways to build requests and to apply them one by one.

use bytes::Bytes;
use kvnode_api::{
    CompactionRequest, Compare, CompareResult, CompareTarget, DeleteRangeRequest, Event, EventType,
    KeyRange, KeyValue, LeaseGrantRequest, LeaseRevokeRequest, Message, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RequestOp, ResponseHeader, Status, TxnRequest, TxnResponse,
    compare::TargetUnion, request_op::Request,
};
use kvnode_store::engine::Engine;
use kvnode_store::engine::memory::MemoryEngine;
use kvnode_store::{
    Change, Command, Committed, Config, Header, Kind, RequestId, Response, Step, Store, View,
};

pub struct Machine<E: Engine = MemoryEngine> {
    pub store: Store<E>,
    /// Changes of all entries so far.
    pub changes: Vec<Change>,
}

pub fn fresh() -> Machine {
    with(Config::default())
}

pub fn with(config: Config) -> Machine {
    Machine::new(MemoryEngine::new(), config)
}

pub fn entry(index: u64, kind: Kind, message: &impl Message) -> Committed {
    let request = RequestId {
        member: 1,
        incarnation: 1,
        sequence: index,
    };
    let header = Header {
        request,
        ..Header::default()
    };
    let command = Command::encode(kind, &header, &message.encode_to_vec());
    Committed {
        index,
        term: 1,
        command,
    }
}

impl<E: Engine> Machine<E> {
    pub fn new(engine: E, config: Config) -> Self {
        Self {
            store: Store::open(engine, config).unwrap(),
            changes: Vec::new(),
        }
    }

    pub fn next_index(&self) -> u64 {
        self.store.applied().0 + 1
    }

    pub fn apply(&mut self, kind: Kind, message: &impl Message) -> Result<Response, Status> {
        let entry = entry(self.next_index(), kind, message);
        let mut step = self.step(&[entry]);
        assert_eq!(step.replies.len(), 1);
        step.replies.remove(0).result
    }

    pub fn step(&mut self, entries: &[Committed]) -> Step<E::View> {
        let step = self.store.apply(entries).unwrap();
        self.changes.extend(step.changes.iter().cloned());
        step
    }

    pub fn view(&self) -> View<E::View> {
        self.store.view()
    }

    pub fn revision(&self) -> i64 {
        self.view().revision()
    }

    pub fn put(&mut self, key: &str, value: &str) -> PutResponse {
        self.try_put(put(key, value)).unwrap()
    }

    pub fn try_put(&mut self, request: PutRequest) -> Result<PutResponse, Status> {
        self.apply(Kind::Put, &request)
            .map(|response| match response {
                Response::Put(response) => response,
                other => panic!("{other:?}"),
            })
    }

    pub fn delete(&mut self, key: &str, end: &str) -> kvnode_api::DeleteRangeResponse {
        self.try_delete(DeleteRangeRequest {
            prev_kv: true,
            ..delete(key, end)
        })
        .unwrap()
    }

    pub fn try_delete(
        &mut self,
        request: DeleteRangeRequest,
    ) -> Result<kvnode_api::DeleteRangeResponse, Status> {
        self.apply(Kind::DeleteRange, &request)
            .map(|response| match response {
                Response::DeleteRange(response) => response,
                other => panic!("{other:?}"),
            })
    }

    pub fn txn(&mut self, request: TxnRequest) -> Result<TxnResponse, Status> {
        self.apply(Kind::Txn, &request)
            .map(|response| match response {
                Response::Txn(response) => response,
                other => panic!("{other:?}"),
            })
    }

    pub fn compact(&mut self, revision: i64) -> Result<ResponseHeader, Status> {
        let request = CompactionRequest {
            revision,
            physical: false,
        };
        self.apply(Kind::Compaction, &request)
            .map(|response| match response {
                Response::Compaction(response) => response.header.unwrap(),
                other => panic!("{other:?}"),
            })
    }

    pub fn compact_physically(&mut self) {
        while self.store.compact_some().unwrap() {}
    }

    pub fn grant(&mut self, id: i64, ttl: i64) -> Result<i64, Status> {
        self.apply(Kind::LeaseGrant, &LeaseGrantRequest { id, ttl })
            .map(|response| match response {
                Response::LeaseGrant(response) => {
                    assert_eq!(response.id, id);
                    response.ttl
                }
                other => panic!("{other:?}"),
            })
    }

    pub fn revoke(&mut self, id: i64) -> Result<ResponseHeader, Status> {
        self.apply(Kind::LeaseRevoke, &LeaseRevokeRequest { id })
            .map(|response| match response {
                Response::LeaseRevoke(response) => response.header.unwrap(),
                other => panic!("{other:?}"),
            })
    }

    pub fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.view().range(&request)
    }

    pub fn get(&self, key: &str) -> Option<KeyValue> {
        self.view()
            .get(&Bytes::copy_from_slice(key.as_bytes()))
            .unwrap()
    }

    pub fn lease_keys(&self, id: i64) -> Vec<String> {
        let keys = self.view().lease(id, true).unwrap().unwrap().keys;
        keys.iter()
            .map(|key| String::from_utf8(key.to_vec()).unwrap())
            .collect()
    }

    /// The whole history from `from` on, in pieces of at most `piece` revisions.
    pub fn history(&self, from: i64, piece: usize) -> Vec<Change> {
        let view = self.view();
        let mut changes = Vec::new();
        let mut next = from;
        while next <= view.revision() {
            let history = view
                .history(next, i64::MAX, &KeyRange::all(), piece)
                .unwrap();
            assert!(history.next > next && history.changes.len() <= piece);
            next = history.next;
            changes.extend(history.changes);
        }
        changes
    }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: bytes(key),
        value: bytes(value),
        ..PutRequest::default()
    }
}

pub fn delete(key: &str, end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        prev_kv: false,
    }
}

pub fn range(key: &str, end: &str) -> RangeRequest {
    RangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        ..RangeRequest::default()
    }
}

pub fn all() -> RangeRequest {
    range("\0", "\0")
}

pub fn op(request: impl Into<Op>) -> RequestOp {
    RequestOp {
        request: Some(request.into().0),
    }
}

pub struct Op(Request);

impl From<PutRequest> for Op {
    fn from(request: PutRequest) -> Self {
        Op(Request::RequestPut(request))
    }
}

impl From<DeleteRangeRequest> for Op {
    fn from(request: DeleteRangeRequest) -> Self {
        Op(Request::RequestDeleteRange(request))
    }
}

impl From<RangeRequest> for Op {
    fn from(request: RangeRequest) -> Self {
        Op(Request::RequestRange(request))
    }
}

impl From<TxnRequest> for Op {
    fn from(request: TxnRequest) -> Self {
        Op(Request::RequestTxn(request))
    }
}

/// A transaction without compares.
pub fn then(ops: impl IntoIterator<Item = RequestOp>) -> TxnRequest {
    TxnRequest {
        success: ops.into_iter().collect(),
        ..TxnRequest::default()
    }
}

pub fn compare(
    key: &str,
    target: CompareTarget,
    result: CompareResult,
    right: TargetUnion,
) -> Compare {
    Compare {
        key: bytes(key),
        target: target as i32,
        result: result as i32,
        target_union: Some(right),
        range_end: Bytes::new(),
    }
}

pub fn keys(response: &RangeResponse) -> Vec<String> {
    let key = |kv: &KeyValue| String::from_utf8(kv.key.to_vec()).unwrap();
    response.kvs.iter().map(key).collect()
}

/// `PUT key` and `DELETE key`, in order.
pub fn summary(change: &Change) -> Vec<String> {
    let line = |event: &Event| {
        let key = String::from_utf8(event.kv.as_ref().unwrap().key.to_vec()).unwrap();
        match event.r#type() {
            EventType::Put => format!("PUT {key}"),
            EventType::Delete => format!("DELETE {key}"),
        }
    };
    change.events.iter().map(line).collect()
}

pub fn header_revision(header: &Option<ResponseHeader>) -> i64 {
    header.as_ref().unwrap().revision
}
