//! Random command sequences against the model, on both engines.

use bytes::Bytes;
use kvnode_api::compare::TargetUnion;
use kvnode_api::{
    CompactionRequest, CompactionResponse, Compare, DeleteRangeRequest, KeyRange,
    LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, LeaseRevokeResponse, PutRequest,
    RangeRequest, RequestOp, ResponseHeader, Status, TxnRequest, request_op::Request,
};
use kvnode_store::engine::Engine;
use kvnode_store::engine::fjall::{FjallEngine, Options};
use kvnode_store::engine::memory::{MemoryDisk, MemoryEngine};
use kvnode_store::{Committed, Config, Kind, Response, Store};
use proptest::prelude::*;

use super::harness::{Machine, entry};
use super::model::Model;

/// Revisions in a generated request are relative, so that they hit something.
#[derive(Clone, Debug)]
enum Step {
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    /// To the current revision minus this.
    Compact(i64),
    Grant(i64),
    Revoke(i64),
    /// Commit what is collected and compare everything.
    Check {
        range: RangeRequest,
        from: i64,
        piece: usize,
    },
    /// Drop the store and open it again from its engine.
    Reopen,
    CompactPhysically,
    BuildFences,
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(&["a", "b", "c", "ca", "cb", "d", "\0", "\u{7f}"][..])
        .prop_map(|key| Bytes::from_static(key.as_bytes()))
}

fn end() -> impl Strategy<Value = Bytes> {
    prop::sample::select(&["", "", "", "\0", "b", "c", "cb", "d", "z"][..])
        .prop_map(|end| Bytes::from_static(end.as_bytes()))
}

fn value() -> impl Strategy<Value = Bytes> {
    prop::sample::select(&["", "1", "2", "3"][..]).prop_map(|it| Bytes::from_static(it.as_bytes()))
}

fn lease() -> impl Strategy<Value = i64> {
    prop::sample::select(&[0i64, 0, 0, 1, 2, -3][..])
}

fn sometimes() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.2)
}

fn put() -> impl Strategy<Value = PutRequest> {
    (
        key(),
        value(),
        lease(),
        any::<bool>(),
        sometimes(),
        sometimes(),
    )
        .prop_map(
            |(key, value, lease, prev_kv, ignore_value, ignore_lease)| PutRequest {
                key,
                value: if ignore_value { Bytes::new() } else { value },
                lease: if ignore_lease { 0 } else { lease },
                prev_kv,
                ignore_value,
                ignore_lease,
            },
        )
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn range() -> impl Strategy<Value = RangeRequest> {
    let filter = || prop::sample::select(&[0i64, 0, 0, 3, 7][..]);
    (
        (key(), end(), 0i64..5, -12i64..2, sometimes()),
        (0i32..3, 0i32..5, sometimes(), sometimes()),
        (filter(), filter(), filter(), filter()),
        any::<bool>(),
    )
        .prop_map(
            |((key, range_end, limit, revision, now), sort, filters, filtered)| {
                let (sort_order, sort_target, keys_only, count_only) = sort;
                let filters = if filtered { filters } else { (0, 0, 0, 0) };
                RangeRequest {
                    key,
                    range_end,
                    limit,
                    revision: if now { 1000 } else { revision },
                    sort_order,
                    sort_target,
                    serializable: false,
                    keys_only,
                    count_only,
                    min_mod_revision: filters.0,
                    max_mod_revision: filters.1,
                    min_create_revision: filters.2,
                    max_create_revision: filters.3,
                }
            },
        )
}

fn compare() -> impl Strategy<Value = Compare> {
    let right = prop_oneof![
        (0i64..3).prop_map(TargetUnion::Version),
        (0i64..6).prop_map(TargetUnion::CreateRevision),
        (0i64..9).prop_map(TargetUnion::ModRevision),
        value().prop_map(TargetUnion::Value),
        lease().prop_map(TargetUnion::Lease),
    ];
    (0i32..4, 0i32..5, key(), end(), prop::option::of(right)).prop_map(
        |(result, target, key, range_end, target_union)| Compare {
            result,
            target,
            key,
            target_union,
            range_end,
        },
    )
}

fn txn() -> impl Strategy<Value = TxnRequest> {
    let leaf = prop_oneof![
        3 => put().prop_map(Request::RequestPut),
        2 => delete().prop_map(Request::RequestDeleteRange),
        3 => range().prop_map(Request::RequestRange),
    ];
    let txn = |op: BoxedStrategy<Request>| {
        let ops = || prop::collection::vec(op.clone(), 0..4);
        let wrap = |request| RequestOp {
            request: Some(request),
        };
        (prop::collection::vec(compare(), 0..3), ops(), ops()).prop_map(
            move |(compare, success, failure)| TxnRequest {
                compare,
                success: success.into_iter().map(wrap).collect(),
                failure: failure.into_iter().map(wrap).collect(),
            },
        )
    };
    let nested = txn(leaf.clone().boxed()).prop_map(Request::RequestTxn);
    txn(prop_oneof![4 => leaf, 1 => nested].boxed())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => put().prop_map(Step::Put),
        4 => delete().prop_map(Step::Delete),
        8 => txn().prop_map(Step::Txn),
        1 => (-1i64..10).prop_map(Step::Compact),
        2 => prop::sample::select(&[1i64, 2, -3][..]).prop_map(Step::Grant),
        1 => prop::sample::select(&[1i64, 2, -3][..]).prop_map(Step::Revoke),
        8 => (range(), 0i64..15, 1usize..5)
            .prop_map(|(range, from, piece)| Step::Check { range, from, piece }),
        1 => Just(Step::Reopen),
        1 => Just(Step::CompactPhysically),
        1 => Just(Step::BuildFences),
    ]
}

struct Run<E: Engine, R> {
    machine: Option<Machine<E>>,
    reopen: R,
    config: Config,
    model: Model,
    queue: Vec<Committed>,
    expected: Vec<Result<Response, Status>>,
    from: i64,
    /// Revision, compact revision, hash.
    hashes: Vec<(i64, i64, u32)>,
}

impl<E: Engine, R: FnMut(Option<E>) -> E> Run<E, R> {
    fn new(mut reopen: R, config: Config) -> Self {
        let machine = Machine::new(reopen(None), config.clone());
        Self {
            machine: Some(machine),
            reopen,
            config,
            model: Model::new(),
            queue: Vec::new(),
            expected: Vec::new(),
            from: 2,
            hashes: Vec::new(),
        }
    }

    fn machine(&mut self) -> &mut Machine<E> {
        self.machine.as_mut().unwrap()
    }

    fn enqueue(
        &mut self,
        kind: Kind,
        message: &impl kvnode_api::Message,
        expected: Result<Response, Status>,
    ) {
        let index = self.machine().next_index() + self.queue.len() as u64;
        self.queue.push(entry(index, kind, message));
        self.expected.push(expected);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Put(put) => {
                let expected = self.model.apply_put(put).map(Response::Put);
                self.enqueue(Kind::Put, put, expected);
            }
            Step::Delete(delete) => {
                let expected = Ok(Response::DeleteRange(self.model.apply_delete(delete)));
                self.enqueue(Kind::DeleteRange, delete, expected);
            }
            Step::Txn(txn) => {
                let txn = self.place(txn);
                // What the shell refuses never gets here.
                if kvnode_api::check::txn(&txn, 128).is_ok() {
                    let expected = self.model.txn(&txn).map(Response::Txn);
                    self.enqueue(Kind::Txn, &txn, expected);
                }
            }
            Step::Compact(back) => {
                let revision = self.model.revision - back;
                let request = CompactionRequest {
                    revision,
                    physical: false,
                };
                let header = self.header();
                let expected = self.model.compact(revision);
                let response = Response::Compaction(CompactionResponse { header });
                self.enqueue(Kind::Compaction, &request, expected.map(|()| response));
            }
            Step::Grant(id) => {
                let request = LeaseGrantRequest { id: *id, ttl: 10 };
                let response = LeaseGrantResponse {
                    header: self.header(),
                    id: *id,
                    ttl: 10,
                    error: String::new(),
                };
                let expected = match self.model.leases.insert(*id) {
                    true => Ok(Response::LeaseGrant(response)),
                    false => Err(Status::lease_exists()),
                };
                self.enqueue(Kind::LeaseGrant, &request, expected);
            }
            Step::Revoke(id) => {
                let expected = self.model.revoke(*id);
                let response = Response::LeaseRevoke(LeaseRevokeResponse {
                    header: self.header(),
                });
                let request = LeaseRevokeRequest { id: *id };
                self.enqueue(Kind::LeaseRevoke, &request, expected.map(|()| response));
            }
            Step::Check { range, from, piece } => {
                self.flush();
                self.check(range, *from, *piece);
            }
            Step::Reopen => {
                self.flush();
                let before = self.machine.take().unwrap();
                let (applied, revision) = (before.store.applied(), before.revision());
                let hashes = (
                    before.view().hash().unwrap(),
                    before.view().meta().to_owned(),
                );
                let engine = before.store.into_engine();
                let engine = (self.reopen)(Some(engine));
                let store = Store::open(engine, self.config.clone()).unwrap();
                assert_eq!(store.applied(), applied);
                assert_eq!(store.view().revision(), revision);
                assert_eq!((store.view().hash().unwrap(), *store.view().meta()), hashes);
                self.machine = Some(Machine {
                    store,
                    changes: Vec::new(),
                });
            }
            Step::CompactPhysically => {
                self.flush();
                let machine = self.machine();
                let before = machine.view().hash_kv(0).unwrap();
                machine.compact_physically();
                machine.store.warm_some(|_| ()).unwrap();
                assert_eq!(machine.view().hash_kv(0).unwrap(), before);
            }
            Step::BuildFences => {
                // Entries come in between, as they do beside a helper thread.
                let builder = self.machine().store.fence_builder();
                let built = builder.build().unwrap();
                self.flush();
                assert!(self.machine().store.install_fences(built).unwrap());
            }
        }
    }

    /// Applies what was queued, twice as often as needed, and compares replies and changes.
    fn flush(&mut self) {
        let queue = std::mem::take(&mut self.queue);
        let expected = std::mem::take(&mut self.expected);
        let machine = self.machine.as_mut().unwrap();
        let step = machine.store.apply(&queue).unwrap();
        let replies: Vec<_> = step.replies.into_iter().map(|reply| reply.result).collect();
        assert_eq!(replies, expected);
        // prev_kv of live changes knows no compact revision.
        let changes = self.model.changes(self.from, -1);
        assert_eq!(*step.changes, changes);
        self.from = self.model.revision + 1;
        let again = machine.store.apply(&queue).unwrap();
        assert!(again.replies.is_empty() && again.changes.is_empty());
    }

    fn check(&mut self, range: &RangeRequest, from: i64, piece: usize) {
        let model = &self.model;
        let machine = self.machine.as_mut().unwrap();
        let view = machine.view();
        assert_eq!(view.revision(), model.revision);
        assert_eq!(view.compact_revision(), model.compacted);
        let hash = view.hash_kv(0).unwrap();
        self.hashes
            .push((model.revision, model.compacted, hash.hash));
        for (revision, _, hash) in self.hashes.iter().filter(|hash| hash.1 == model.compacted) {
            assert_eq!(view.hash_kv(*revision).unwrap().hash, *hash);
        }
        let state = model.state(i64::MAX);
        assert_eq!(view.stats().keys, state.len() as u64);

        for at in [range.revision, 1000, -1, -4] {
            let request = placed(range, at, model.revision);
            let expected = model.range(&request).map(|mut response| {
                response.header = Some(ResponseHeader {
                    revision: model.revision,
                    ..Default::default()
                });
                response
            });
            assert_eq!(view.range(&request), expected, "{request:?}");
            let header = ResponseHeader {
                member_id: 7,
                ..Default::default()
            };
            let framed = expected.and_then(|mut response| {
                response.header.as_mut().unwrap().member_id = 7;
                kvnode_api::frame::encode(&response)
            });
            assert_eq!(view.range_frame(&request, &header), framed, "{request:?}");
        }
        for key in state.keys() {
            assert_eq!(view.get(key).unwrap().as_ref(), state.get(key));
        }
        for id in [1, 2, -3] {
            let lease = view.lease(id, true).unwrap();
            assert_eq!(lease.is_some(), model.leases.contains(&id));
            if let Some(lease) = lease {
                assert_eq!(lease.keys, model.lease_keys(id));
            }
        }

        let from = model.revision - from;
        let interval = KeyRange::new(&range.key, &range.range_end);
        if from < model.compacted {
            assert_eq!(
                view.history(from, 1000, &interval, 9),
                Err(Status::compacted())
            );
        }
        let from = from.max(model.compacted).max(1);
        assert_eq!(
            machine.history(from, piece),
            model.changes(from, model.compacted)
        );
        let mut expected = model.changes(from, model.compacted);
        for change in &mut expected {
            change
                .events
                .retain(|event| interval.contains(&event.kv.as_ref().unwrap().key));
        }
        expected.retain(|change| !change.events.is_empty());
        let history = view.history(from, model.revision, &interval, 1000).unwrap();
        assert_eq!(
            (history.changes, history.next),
            (expected, model.revision + 1)
        );
    }

    /// Makes the relative revisions of a generated transaction absolute.
    fn place(&self, txn: &TxnRequest) -> TxnRequest {
        let mut txn = txn.clone();
        for op in txn.success.iter_mut().chain(&mut txn.failure) {
            match op.request.as_mut().unwrap() {
                Request::RequestRange(range) => {
                    *range = placed(range, range.revision, self.model.revision);
                }
                Request::RequestTxn(nested) => *nested = self.place(nested),
                _ => {}
            }
        }
        txn
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            revision: self.model.revision,
            ..Default::default()
        })
    }
}

/// -5..=1 is relative to now, 1000 is now, below -5 is what a client may send for now.
fn placed(range: &RangeRequest, relative: i64, now: i64) -> RangeRequest {
    let revision = match relative {
        1000 => 0,
        ..-10 => -1,
        relative => (now + relative).max(1),
    };
    RangeRequest {
        revision,
        ..range.clone()
    }
}

fn run<E: Engine>(
    steps: &[Step],
    config: Config,
    reopen: impl FnMut(Option<E>) -> E,
) -> (i64, u32, u32) {
    let mut run = Run::new(reopen, config);
    for step in steps {
        run.step(step);
    }
    run.flush();
    let view = run.machine().view();
    let half = (view.revision() / 2).max(view.compact_revision());
    let hash = |revision| view.hash_kv(revision).unwrap().hash;
    (view.revision(), hash(0), hash(half))
}

fn in_memory(
    steps: &[Step],
    hist_inline_new_value: bool,
    heads_cache_bytes: usize,
) -> (i64, u32, u32) {
    let disk = MemoryDisk::default();
    let config = Config {
        hist_inline_new_value,
        heads_cache_bytes,
        ..Config::default()
    };
    run(steps, config, |before: Option<MemoryEngine>| {
        drop(before);
        MemoryEngine::open(&disk)
    })
}

/// Bytes in which the cache of heads holds one or two of them.
const HEADS_BYTES_FEW: usize = 400;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_commands_give_what_the_model_gives(steps in prop::collection::vec(step(), 1..120)) {
        let undo_only = in_memory(&steps, false, 1 << 20);
        let with_values = in_memory(&steps, true, 0);
        prop_assert_eq!(undo_only, with_values);
        // Room for one or two heads, so that they come and go all the time.
        prop_assert_eq!(in_memory(&steps, false, HEADS_BYTES_FEW), undo_only);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn the_engine_on_disk_gives_the_same(steps in prop::collection::vec(step(), 60..120)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("engine");
        let options = Options::default();
        let on_disk = run(&steps, Config::default(), |before: Option<FjallEngine>| {
            if let Some(engine) = before {
                engine.close().unwrap();
                return FjallEngine::open(&path, &options).unwrap();
            }
            FjallEngine::create(&path, &options).unwrap()
        });
        prop_assert_eq!(on_disk, in_memory(&steps, false, 0));
    }
}
