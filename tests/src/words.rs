//! Short words for the messages tests send, and for what they demand of answers.
//!
//! Error texts are written out here once more, not taken from the server's own table: a wrong text there
//! must not make a right one here.

use bytes::Bytes;
use kvnode_api as api;

use crate::client::{Client, Incoming, Outgoing, Status, code};

/// Sort orders and targets, compare results and targets, by their protocol numbers.
pub mod number {
    pub const ASCEND: i32 = 1;
    pub const DESCEND: i32 = 2;
    pub const BY_VERSION: i32 = 1;
    pub const BY_CREATE: i32 = 2;
    pub const BY_MOD: i32 = 3;
    pub const BY_VALUE: i32 = 4;
    pub const EQUAL: i32 = 0;
    pub const GREATER: i32 = 1;
    pub const LESS: i32 = 2;
    pub const NOT_EQUAL: i32 = 3;
    pub const VERSION: i32 = 0;
    pub const CREATE: i32 = 1;
    pub const MOD: i32 = 2;
    pub const VALUE: i32 = 3;
    pub const LEASE: i32 = 4;
    pub const PUT: i32 = 0;
    pub const DELETE: i32 = 1;
    pub const NO_PUT: i32 = 0;
    pub const NO_DELETE: i32 = 1;
    pub const NOSPACE: i32 = 1;
    pub const CORRUPT: i32 = 2;
    pub const ALARM_GET: i32 = 0;
    pub const ALARM_ACTIVATE: i32 = 1;
    pub const ALARM_DEACTIVATE: i32 = 2;
}

/// Errors by short names: code and exact text.
pub mod refusal {
    use super::{Status, code};

    macro_rules! refusals {
        ($($name:ident $code:ident $text:literal)*) => {
            $(pub fn $name() -> Status { Status::new(code::$code, $text) })*
        };
    }

    refusals! {
        no_key INVALID_ARGUMENT "etcdserver: key is not provided"
        key_not_found INVALID_ARGUMENT "etcdserver: key not found"
        value_given INVALID_ARGUMENT "etcdserver: value is provided"
        lease_given INVALID_ARGUMENT "etcdserver: lease is provided"
        too_many_ops INVALID_ARGUMENT "etcdserver: too many operations in txn request"
        duplicate_key INVALID_ARGUMENT "etcdserver: duplicate key given in txn request"
        bad_sort INVALID_ARGUMENT "etcdserver: invalid sort option"
        compacted OUT_OF_RANGE "etcdserver: mvcc: required revision has been compacted"
        future OUT_OF_RANGE "etcdserver: mvcc: required revision is a future revision"
        no_space RESOURCE_EXHAUSTED "etcdserver: mvcc: database space exceeded"
        no_lease NOT_FOUND "etcdserver: requested lease not found"
        lease_exists FAILED_PRECONDITION "etcdserver: lease already exists"
        large_ttl OUT_OF_RANGE "etcdserver: too large lease TTL"
        too_large INVALID_ARGUMENT "etcdserver: request is too large"
        corrupt DATA_LOSS "etcdserver: corrupt cluster"
        bad_transferee FAILED_PRECONDITION "etcdserver: bad leader transferee"
        downgrade_format INVALID_ARGUMENT "etcdserver: wrong downgrade target version format"
        downgrade_target INVALID_ARGUMENT "etcdserver: invalid downgrade target version"
    }
}

/// Demands this very refusal.
#[track_caller]
pub fn refused<R: std::fmt::Debug>(result: Result<R, Status>, expected: Status) {
    match result {
        Err(status) => assert_eq!(status, expected),
        Ok(answer) => panic!("expected {expected}, got {answer:?}"),
    }
}

pub fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref())
}

/// Key and range end of the whole key space.
pub fn everything() -> (Bytes, Bytes) {
    (bytes(b"\0"), bytes(b"\0"))
}

pub fn get(key: impl AsRef<[u8]>) -> api::RangeRequest {
    api::RangeRequest {
        key: bytes(key),
        ..Default::default()
    }
}

pub fn span(key: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> api::RangeRequest {
    api::RangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        ..Default::default()
    }
}

pub fn all() -> api::RangeRequest {
    span(b"\0", b"\0")
}

pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> api::PutRequest {
    api::PutRequest {
        key: bytes(key),
        value: bytes(value),
        ..Default::default()
    }
}

pub fn delete(key: impl AsRef<[u8]>) -> api::DeleteRangeRequest {
    api::DeleteRangeRequest {
        key: bytes(key),
        ..Default::default()
    }
}

pub fn delete_span(key: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> api::DeleteRangeRequest {
    api::DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        ..Default::default()
    }
}

pub fn grant(ttl: i64) -> api::LeaseGrantRequest {
    api::LeaseGrantRequest { ttl, id: 0 }
}

/// A lock request; lease 0 lets the server grant one.
pub fn lock_on(name: impl AsRef<[u8]>, lease: i64) -> api::LockRequest {
    api::LockRequest {
        name: bytes(name),
        lease,
    }
}

pub fn campaign_for(
    name: impl AsRef<[u8]>,
    lease: i64,
    value: impl AsRef<[u8]>,
) -> api::CampaignRequest {
    api::CampaignRequest {
        name: bytes(name),
        lease,
        value: bytes(value),
    }
}

pub fn compact(revision: i64) -> api::CompactionRequest {
    api::CompactionRequest {
        revision,
        physical: false,
    }
}

/// A request that can be an operation of a transaction.
pub trait Op {
    fn op(self) -> api::RequestOp;
}

macro_rules! ops {
    ($($message:ident $variant:ident)*) => {
        $(impl Op for api::$message {
            fn op(self) -> api::RequestOp {
                api::RequestOp { request: Some(api::request_op::Request::$variant(self)) }
            }
        })*
    };
}

ops! {
    RangeRequest RequestRange
    PutRequest RequestPut
    DeleteRangeRequest RequestDeleteRange
    TxnRequest RequestTxn
}

/// A transaction without compares: its success branch always runs.
pub fn then(success: Vec<api::RequestOp>) -> api::TxnRequest {
    api::TxnRequest {
        success,
        ..Default::default()
    }
}

pub fn txn(
    compare: Vec<api::Compare>,
    success: Vec<api::RequestOp>,
    failure: Vec<api::RequestOp>,
) -> api::TxnRequest {
    api::TxnRequest {
        compare,
        success,
        failure,
    }
}

pub fn compare(
    key: impl AsRef<[u8]>,
    result: i32,
    target: i32,
    right: api::compare::TargetUnion,
) -> api::Compare {
    let key = bytes(key);
    api::Compare {
        result,
        target,
        key,
        target_union: Some(right),
        ..Default::default()
    }
}

/// Compares a number field with the number that belongs to it.
pub fn compare_number(key: impl AsRef<[u8]>, result: i32, target: i32, right: i64) -> api::Compare {
    use api::compare::TargetUnion;
    let right = match target {
        number::VERSION => TargetUnion::Version(right),
        number::CREATE => TargetUnion::CreateRevision(right),
        number::MOD => TargetUnion::ModRevision(right),
        number::LEASE => TargetUnion::Lease(right),
        other => panic!("target {other} is not a number"),
    };
    compare(key, result, target, right)
}

pub fn compare_value(key: impl AsRef<[u8]>, result: i32, right: impl AsRef<[u8]>) -> api::Compare {
    compare(
        key,
        result,
        number::VALUE,
        api::compare::TargetUnion::Value(bytes(right)),
    )
}

/// The parts of answers inside a transaction; panics when it is another kind.
pub trait Inner {
    fn as_range(&self) -> &api::RangeResponse;
    fn as_put(&self) -> &api::PutResponse;
    fn as_delete(&self) -> &api::DeleteRangeResponse;
    fn as_txn(&self) -> &api::TxnResponse;
}

macro_rules! inner {
    ($($method:ident $variant:ident $message:ident)*) => {
        impl Inner for api::ResponseOp {
            $(fn $method(&self) -> &api::$message {
                match &self.response {
                    Some(api::response_op::Response::$variant(message)) => message,
                    other => panic!("expected {}, got {other:?}", stringify!($variant)),
                }
            })*
        }
    };
}

inner! {
    as_range ResponseRange RangeResponse
    as_put ResponsePut PutResponse
    as_delete ResponseDeleteRange DeleteRangeResponse
    as_txn ResponseTxn TxnResponse
}

/// The revision in a header that must be there.
#[track_caller]
pub fn revision_of(header: &Option<api::ResponseHeader>) -> i64 {
    header.as_ref().expect("the answer has a header").revision
}

/// Keys as text, in the order answered.
pub fn keys_of(kvs: &[api::KeyValue]) -> Vec<String> {
    kvs.iter()
        .map(|kv| String::from_utf8_lossy(&kv.key).into_owned())
        .collect()
}

/// Calls that only matter by what they leave behind: they must succeed.
impl Client {
    /// Puts and returns the revision written.
    pub async fn write(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> i64 {
        revision_of(&self.put(put(key, value)).await.expect("put").header)
    }

    /// Deletes one key and returns the header's revision.
    pub async fn remove(&self, key: impl AsRef<[u8]>) -> i64 {
        revision_of(&self.delete_range(delete(key)).await.expect("delete").header)
    }

    /// The key's newest state.
    pub async fn read(&self, key: impl AsRef<[u8]>) -> Option<api::KeyValue> {
        self.range(get(key))
            .await
            .expect("range")
            .kvs
            .into_iter()
            .next()
    }

    /// The newest revision.
    pub async fn revision(&self) -> i64 {
        revision_of(&self.range(get("any")).await.expect("range").header)
    }

    /// Grants a lease and returns its id.
    pub async fn lease(&self, ttl_seconds: i64) -> i64 {
        self.lease_grant(grant(ttl_seconds))
            .await
            .expect("grant")
            .id
    }

    /// Puts under a lease.
    pub async fn write_leased(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        lease: i64,
    ) -> i64 {
        let request = api::PutRequest {
            lease,
            ..put(key, value)
        };
        revision_of(&self.put(request).await.expect("put under a lease").header)
    }

    /// The keys attached to a lease, sorted.
    pub async fn lease_keys(&self, id: i64) -> Vec<String> {
        let request = api::LeaseTimeToLiveRequest { id, keys: true };
        let answer = self
            .lease_time_to_live(request)
            .await
            .expect("time to live");
        let mut keys: Vec<String> = answer
            .keys
            .iter()
            .map(|key| String::from_utf8_lossy(key).into_owned())
            .collect();
        keys.sort();
        keys
    }

    /// A watch stream in the words below.
    pub async fn watching(&self) -> Watching {
        let (requests, answers) = self.watch().await;
        Watching { requests, answers }
    }
}

/// Watches one key from the next revision on.
pub fn watch_key(key: impl AsRef<[u8]>) -> api::WatchCreateRequest {
    api::WatchCreateRequest {
        key: bytes(key),
        ..Default::default()
    }
}

/// Watches an interval from the next revision on.
pub fn watch_span(key: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> api::WatchCreateRequest {
    api::WatchCreateRequest {
        key: bytes(key),
        range_end: bytes(end),
        ..Default::default()
    }
}

/// One watch stream.
pub struct Watching {
    pub requests: Outgoing<api::WatchRequest>,
    pub answers: Incoming<api::WatchResponse>,
}

impl Watching {
    /// Asks for a watcher and returns the first answer, which must be about its creation.
    pub async fn create(&mut self, request: api::WatchCreateRequest) -> api::WatchResponse {
        self.ask(request);
        let answer = self.answers.next().await;
        assert!(answer.created, "created comes first, got {answer:?}");
        answer
    }

    /// Asks for a watcher without waiting.
    pub fn ask(&mut self, request: api::WatchCreateRequest) {
        self.send(api::watch_request::RequestUnion::CreateRequest(request));
    }

    pub fn cancel(&mut self, watch_id: i64) {
        let request = api::WatchCancelRequest { watch_id };
        self.send(api::watch_request::RequestUnion::CancelRequest(request));
    }

    pub fn progress(&mut self) {
        let request = api::WatchProgressRequest {};
        self.send(api::watch_request::RequestUnion::ProgressRequest(request));
    }

    pub async fn next(&mut self) -> api::WatchResponse {
        self.answers.next().await
    }

    /// Events of the next answers until there are at least so many.
    pub async fn events(&mut self, count: usize) -> Vec<api::Event> {
        let mut events = Vec::new();
        while events.len() < count {
            let answer = self.next().await;
            assert!(
                !answer.created && !answer.canceled,
                "only events expected: {answer:?}"
            );
            events.extend(answer.events);
        }
        assert_eq!(
            events.len(),
            count,
            "more events than expected: {:?}",
            briefly(&events)
        );
        events
    }

    fn send(&mut self, union: api::watch_request::RequestUnion) {
        self.requests.send(&api::WatchRequest {
            request_union: Some(union),
        });
    }
}

/// `PUT key@revision` / `DELETE key@revision` of each event.
pub fn briefly(events: &[api::Event]) -> Vec<String> {
    let one = |event: &api::Event| {
        let kind = if event.r#type == number::PUT {
            "PUT"
        } else {
            "DELETE"
        };
        let kv = event.kv.as_ref().expect("an event has a key");
        format!(
            "{kind} {}@{}",
            String::from_utf8_lossy(&kv.key),
            kv.mod_revision
        )
    };
    events.iter().map(one).collect()
}
