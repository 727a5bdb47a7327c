//! Lock and Election act for their caller: each step is a KV call of the caller's, with the token looked up anew and
//! every check of the KV service. Here are those calls, and the queue both services are made of.
//!
//! A queue is the keys under `name/`, in the order of their create revisions; a candidate's key ends with its lease in hex.
//! Who has the oldest key has the lock or leads. Waiting is a watcher on the next older key and costs nothing else.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use kvnode_api::compare::{CompareResult, CompareTarget, TargetUnion};
use kvnode_api::frame::PREFIX_LEN;
use kvnode_api::range_request::{SortOrder, SortTarget};
use kvnode_api::request_op::Request;
use kvnode_api::response_op::Response as Inner;
use kvnode_api::service::Kind as CallKind;
use kvnode_api::status::{Code, Status};
use kvnode_api::{
    Compare, DeleteRangeRequest, KeyRange, KeyValue, LeaseGrantRequest, LeaseGrantResponse,
    Message, PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseHeader, TxnRequest,
    TxnResponse, WatchCreateRequest, WatchResponse, frame, watch_create_request::FilterType,
};
use kvnode_store::command::Kind;

use super::auth::{identify, permit};
use super::{kv, lease};
use crate::auth::Asker;
use crate::cores::client::ClientCore;
use crate::http::Call;
use crate::rt;
use crate::watches::{Next, Watches};

/// Calls that may wait at a time: of one connection,
pub const WAITING_PER_CONNECTION_MAX: usize = 1024;
/// and of one executor. Beyond either: "too many requests", before a key is written.
pub const WAITING_MAX: usize = 32_768;
/// Seconds of the lease the server grants to a caller without one; nobody renews it.
const TTL_SECONDS: i64 = 60;
/// How often the key of a caller who left is tried to be deleted, and the pause between; its lease ends it otherwise.
const LEAVE_TRIES: usize = 5;
const LEAVE_PAUSE: Duration = Duration::from_millis(500);

/// These services pass on every error under code UNKNOWN; only what sends a client to another member keeps its own.
pub fn disguise(status: Status) -> Status {
    if status == Status::server_stopped() || status == Status::no_leader() {
        return status;
    }
    status.into_unknown()
}

/// The caller of a lock or election call.
pub struct Caller<'a> {
    pub core: &'a Rc<ClientCore>,
    pub call: &'a Call,
}

impl Caller<'_> {
    async fn asker(&self) -> Result<Asker, Status> {
        identify(self.core, self.call).await
    }

    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        let asker = self.asker().await?;
        let message = request.encode_to_vec().into();
        unframe(kv::range(self.core, &asker, message).await?)
    }

    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        let asker = self.asker().await?;
        txn(self.core, &asker, request).await
    }

    pub async fn delete(&self, key: Bytes) -> Result<kvnode_api::DeleteRangeResponse, Status> {
        let asker = self.asker().await?;
        let request = DeleteRangeRequest {
            key,
            ..Default::default()
        };
        let message = request.encode_to_vec().into();
        unframe(kv::delete_range(self.core, &asker, message).await?)
    }

    /// The caller's lease, or one granted for it.
    pub async fn lease(&self, given: i64) -> Result<i64, Status> {
        if given != 0 {
            return Ok(given);
        }
        let asker = self.asker().await?;
        self.core
            .with_view(|view| view.auth().check_known(asker.identity()))?;
        let request = LeaseGrantRequest {
            ttl: TTL_SECONDS,
            id: 0,
        };
        let message = request.encode_to_vec().into();
        let granted: LeaseGrantResponse = unframe(lease::grant(self.core, &asker, message).await?)?;
        Ok(granted.id)
    }

    /// Puts the caller's key at the end of the queue `prefix`, unless it is there already.
    pub async fn join(&self, prefix: &[u8], lease: i64, value: Bytes) -> Result<Joined, Status> {
        let key = candidate_key(prefix, lease);
        let put = PutRequest {
            key: key.clone(),
            value,
            lease,
            ..Default::default()
        };
        let own = RangeRequest {
            key: key.clone(),
            ..Default::default()
        };
        let oldest = op(Request::RequestRange(oldest(prefix)));
        let request = TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![op(Request::RequestPut(put)), oldest.clone()],
            failure: vec![op(Request::RequestRange(own)), oldest],
        };
        let asker = self.asker().await?;
        // In a task of its own: if the caller leaves meanwhile, somebody has to learn whether there is a key now.
        let (core, joining) = (Rc::clone(self.core), key.clone());
        let handover = Handover::new(move |response: Result<TxnResponse, Status>| {
            let made = response.ok().filter(|response| response.succeeded);
            if let Some(made) = made {
                let revision = kv::revision_of(&made.header);
                leave_behind(&core, joining.clone(), revision);
            }
        });
        let (core, theirs) = (Rc::clone(self.core), Rc::clone(&handover));
        rt::spawn_local(async move { theirs.put(txn(&core, &asker, request).await) });
        let response = Handed(handover).take().await?;
        let header = response.header.unwrap_or_default();
        let own = first_pair(&response, 0).cloned();
        let revision = match &own {
            Some(own) => own.create_revision,
            None => header.revision,
        };
        let oldest = first_pair(&response, 1).map(|kv| kv.create_revision);
        let place = Place {
            core: Rc::clone(self.core),
            key,
            revision,
            kept: false,
        };
        Ok(Joined {
            place,
            header,
            before: own,
            first: oldest.is_none_or(|oldest| oldest == revision),
        })
    }

    /// Waits until the queue holds nothing older than `revision`.
    ///
    /// # Errors
    /// What the caller's own reads and watches are refused with.
    pub async fn wait_for_turn(&self, prefix: &[u8], revision: i64) -> Result<(), Status> {
        loop {
            let older = RangeRequest {
                sort_order: SortOrder::Descend as i32,
                max_create_revision: revision - 1,
                ..oldest(prefix)
            };
            let response = self.range(older).await?;
            let Some(next_older) = response.kvs.into_iter().next() else {
                return Ok(());
            };
            let at = response.header.unwrap_or_default().revision;
            let filter = Some(FilterType::Noput);
            let mut events = self.watch(next_older.key, Bytes::new(), at, filter).await?;
            // Whatever came, another look tells what is left to wait for.
            events.next().await?;
        }
    }

    /// Watches from behind `revision` on, if the caller may read the range.
    pub async fn watch(
        &self,
        key: Bytes,
        range_end: Bytes,
        revision: i64,
        filter: Option<FilterType>,
    ) -> Result<Events, Status> {
        let asker = self.asker().await?;
        // Never without keys, as its callers ask.
        if let Some(range) = KeyRange::for_watch(&key, &range_end) {
            self.core
                .with_view(|view| permit(view, &asker, |gate| gate.read(&range)))?;
        }
        // As in etcd: a wish for a leader is looked at once for a call with one answer, and all the time for a stream.
        let is_stream = self.call.method.kind() != CallKind::Unary;
        let stream = Watches::open_own(
            self.core,
            self.call.peer.serial,
            is_stream && super::requires_leader(self.call),
        );
        stream.create(&WatchCreateRequest {
            key,
            range_end,
            start_revision: revision + 1,
            filters: filter.into_iter().map(|filter| filter as i32).collect(),
            ..Default::default()
        });
        Ok(Events { stream })
    }
}

/// A caller's place in a queue. If it is dropped before [`Place::keep`], the key goes.
pub struct Place {
    core: Rc<ClientCore>,
    pub key: Bytes,
    /// The key's create revision.
    pub revision: i64,
    kept: bool,
}

impl Place {
    /// The key stays: it is the caller's from now on.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept {
            leave_behind(&self.core, std::mem::take(&mut self.key), self.revision);
        }
    }
}

/// What joining a queue gave.
pub struct Joined {
    pub place: Place,
    /// Of the transaction that did it.
    pub header: ResponseHeader,
    /// The caller's pair, if it was in the queue before.
    pub before: Option<KeyValue>,
    /// Nobody is in front.
    pub first: bool,
}

/// Changes that a watch of this member's own sees.
pub struct Events {
    stream: crate::watches::Stream,
}

impl Events {
    /// The next response with events in it; `None` when the watcher is gone, so that what it would have seen has to be
    /// read: compaction has overtaken it.
    ///
    /// # Errors
    /// The server stops, or has no leader where the caller asked for one.
    pub async fn next(&mut self) -> Result<Option<WatchResponse>, Status> {
        loop {
            match poll_fn(|context| self.stream.poll_next(context)).await {
                Next::End(status) => return Err(status),
                Next::Frame(frame, cost) => {
                    self.stream.sent(cost);
                    let response: WatchResponse = unframe(frame)?;
                    if response.canceled {
                        return Ok(None);
                    }
                    if !response.events.is_empty() {
                        return Ok(Some(response));
                    }
                }
            }
        }
    }
}

/// Has the key of a caller who left deleted. A process that stops takes no more writes; the lease ends what is left.
fn leave_behind(core: &Rc<ClientCore>, key: Bytes, revision: i64) {
    if !core.shared.vitals.stopping.load(Ordering::Relaxed) {
        rt::spawn_local(leave(Rc::clone(core), key, revision));
    }
}

/// Takes the key of a caller who left out of the queue: this very key, not one that somebody made since. The caller had
/// the right to make it; it is the member's own business to tidy up.
async fn leave(core: Rc<ClientCore>, key: Bytes, revision: i64) {
    let delete = DeleteRangeRequest {
        key: key.clone(),
        ..Default::default()
    };
    let request = TxnRequest {
        compare: vec![created_at(&key, revision)],
        success: vec![op(Request::RequestDeleteRange(delete))],
        failure: Vec::new(),
    };
    let message = request.encode_to_vec();
    for _ in 0..LEAVE_TRIES {
        match core.propose(Kind::Txn, &message).await {
            Ok(_) => return,
            Err(status) => log::debug!("the key of a caller who left was not deleted: {status}"),
        }
        if core.shared.vitals.stopping.load(Ordering::Relaxed) {
            return;
        }
        rt::sleep(LEAVE_PAUSE).await;
    }
    log::warn!("the key of a caller who left a lock or election stays until its lease ends");
}

async fn txn(
    core: &Rc<ClientCore>,
    asker: &Asker,
    request: TxnRequest,
) -> Result<TxnResponse, Status> {
    unframe(kv::txn(core, asker, request.encode_to_vec().into()).await?)
}

fn unframe<M: Message + Default>(frame: Bytes) -> Result<M, Status> {
    if frame.len() < PREFIX_LEN {
        return Err(Status::new(
            Code::Internal,
            "kvnode: an answer without its prefix",
        ));
    }
    frame::decode(frame.slice(PREFIX_LEN..))
}

/// Where a queue's keys are.
pub fn prefix_of(name: &[u8]) -> Vec<u8> {
    [name, b"/"].concat()
}

/// One behind the last key of a queue: its prefix ends with `/`.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// A candidate's key: its lease in lower-case hex, a negative one with a minus sign, as etcd writes it.
fn candidate_key(prefix: &[u8], lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    let hex = format!("{sign}{:x}", lease.unsigned_abs());
    [prefix, hex.as_bytes()].concat().into()
}

/// Reads the oldest key of a queue.
pub fn oldest(prefix: &[u8]) -> RangeRequest {
    RangeRequest {
        key: Bytes::copy_from_slice(prefix),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: SortOrder::Ascend as i32,
        sort_target: SortTarget::Create as i32,
        ..Default::default()
    }
}

/// Whether the key is the one made at `revision`; 0: that there is none.
pub fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

pub fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn first_pair(response: &TxnResponse, at: usize) -> Option<&KeyValue> {
    match response.responses.get(at)?.response.as_ref()? {
        Inner::ResponseRange(range) => range.kvs.first(),
        _ => None,
    }
}

/// A result on its way from a task to a call. If the call is gone, before or after it came, `unwanted` gets it.
struct Handover<T> {
    state: RefCell<State<T>>,
    unwanted: Box<dyn Fn(T)>,
}

enum State<T> {
    Waiting(Option<Waker>),
    Here(T),
    /// Taken, or nobody is left to take it.
    Over,
}

impl<T> Handover<T> {
    fn new(unwanted: impl Fn(T) + 'static) -> Rc<Self> {
        Rc::new(Handover {
            state: RefCell::new(State::Waiting(None)),
            unwanted: Box::new(unwanted),
        })
    }

    fn put(&self, result: T) {
        if matches!(*self.state.borrow(), State::Over) {
            return (self.unwanted)(result);
        }
        if let State::Waiting(Some(waker)) = self.state.replace(State::Here(result)) {
            waker.wake();
        }
    }
}

/// The waiting side.
struct Handed<T>(Rc<Handover<T>>);

impl<T> Handed<T> {
    async fn take(self) -> T {
        poll_fn(|context| match self.0.state.replace(State::Over) {
            State::Here(result) => Poll::Ready(result),
            _ => {
                let waker = Some(context.waker().clone());
                self.0.state.replace(State::Waiting(waker));
                Poll::Pending
            }
        })
        .await
    }
}

impl<T> Drop for Handed<T> {
    fn drop(&mut self) {
        if let State::Here(result) = self.0.state.replace(State::Over) {
            (self.0.unwanted)(result);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_as_etcd_names_them() {
        assert_eq!(candidate_key(b"a/", 0x1f), "a/1f");
        assert_eq!(candidate_key(b"a/", -0x1f), "a/-1f");
        assert_eq!(candidate_key(b"/", i64::MIN), "/-8000000000000000");
        assert_eq!(prefix_of(b"a"), b"a/");
        assert_eq!(prefix_end(b"a/"), "a0");
    }

    #[test]
    fn a_result_nobody_takes_is_given_back_whenever_the_caller_left() {
        let unwanted = Rc::new(RefCell::new(Vec::new()));
        let handover = || {
            let unwanted = Rc::clone(&unwanted);
            Handover::new(move |result: i32| unwanted.borrow_mut().push(result))
        };
        let before = handover();
        drop(Handed(Rc::clone(&before)));
        before.put(1);
        let after = handover();
        let waiting = Handed(Rc::clone(&after));
        after.put(2);
        drop(waiting);
        assert_eq!(*unwanted.borrow(), [1, 2]);
        let taken = handover();
        taken.put(3);
        let mut take = std::pin::pin!(Handed(taken).take());
        let mut context = std::task::Context::from_waker(Waker::noop());
        assert_eq!(take.as_mut().poll(&mut context), Poll::Ready(3));
        assert_eq!(unwanted.borrow().len(), 2);
    }
}
