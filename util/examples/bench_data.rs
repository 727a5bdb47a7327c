//! Makes a data directory of many keys to measure with: `bench_data DIR COUNT random|json|small`.
//!
//! Keys and values are those that `docs/kvutil.md` tells figures of: key `i` is `/registry/pods/ns-<i % 100>/pod-<i>`, its value
//! 256 bytes that do not compress, 256 bytes of JSON, or 16 bytes.

use std::path::Path;

use kvnode_api::{Message as _, PutRequest};
use kvnode_store::command::Header;
use kvnode_store::datadir::{Creation, Identity, Program};
use kvnode_store::engine::Engine as _;
use kvnode_store::engine::fjall::{FjallEngine, Options as EngineOptions};
use kvnode_store::{Command, Committed, Config, Kind, Store};
use kvnode_wal::writer::Start;
use kvnode_wal::{HardState, Log, Membership, Options, Origin, SnapshotMark};

const STEP: u64 = 64;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [directory, count, kind] = &words[..] else {
        panic!("DIR COUNT random|json|small");
    };
    let count: u64 = count.parse().expect("a number");
    let identity = Identity {
        cluster_id: 0xbe,
        member_id: 0xbf,
        instance_id: [9; 16],
    };
    let program = Program {
        name: "bench_data".into(),
        version: "0".into(),
        started: 0,
    };
    let creation =
        Creation::begin(Path::new(directory), None, identity, &program).expect("an empty place");
    let engine = FjallEngine::create(&creation.kv(), &EngineOptions::default()).expect("an engine");
    let mut store = Store::open(engine, Config::default()).expect("a store");
    for first in (1..=count).step_by(usize::try_from(STEP).expect("small")) {
        let entries: Vec<Committed> = (first..(first + STEP).min(count + 1))
            .map(|index| Committed {
                index,
                term: 1,
                command: put(index - 1, kind),
            })
            .collect();
        store.apply(&entries).expect("applied");
    }
    store.into_engine().close().expect("closed");
    let wal_identity = kvnode_wal::Identity {
        cluster: identity.cluster_id,
        member: identity.member_id,
        instance: identity.instance_id,
    };
    let start = Start {
        membership: Membership {
            voters: vec![identity.member_id],
            ..Membership::default()
        },
        hard_state: HardState {
            term: 1,
            vote: 0,
            commit: count,
        },
        snapshot: Some(SnapshotMark {
            index: count,
            term: 1,
            id: [0; 16],
            origin: Origin::Local,
        }),
        note: None,
    };
    let mut log = Log::create_from(
        &creation.wal(),
        wal_identity,
        Options::default(),
        1,
        start,
        1,
    )
    .expect("a log");
    log.close(1).expect("closed");
    creation.finish().expect("finished");
}

fn put(number: u64, kind: &str) -> bytes::Bytes {
    let mut state = number;
    let mut next = move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let value = match kind {
        "random" => (0..32).flat_map(|_| next().to_le_bytes()).collect(),
        "small" => format!("value-{number:010}").into_bytes(),
        "json" => {
            let (a, b) = (next(), next());
            let mut text = format!(
                r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"pod-{number:08}","namespace":"ns-{:03}","uid":"{a:016x}","resourceVersion":"{}"}},"spec":{{"nodeName":"node-{:03}","restartPolicy":"Always"}},"status":{{"phase":"Running","hostIP":"10.0.{}.{}","startTime":"2026-07-01T08:{:02}:{:02}Z"}}}}"#,
                number % 100,
                number + 2,
                b % 500,
                b >> 8 & 255,
                b >> 16 & 255,
                (b >> 24) % 60,
                (b >> 32) % 60
            );
            while text.len() < 256 {
                text.push(' ');
            }
            text.truncate(256);
            text.into_bytes()
        }
        other => panic!("{other}: random, json or small"),
    };
    let request = PutRequest {
        key: format!("/registry/pods/ns-{:03}/pod-{number:08}", number % 100).into(),
        value: value.into(),
        ..PutRequest::default()
    };
    let header = Header {
        time_ms: 1_700_000_000_000 + number,
        ..Header::default()
    };
    Command::encode(Kind::Put, &header, &request.encode_to_vec())
}
