//! Data directories as a node leaves them, and the tool run on them.

#![allow(dead_code, reason = "every test binary uses its own part")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kvnode_api::request_op::Request;
use kvnode_api::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, Message, PutRequest, RequestOp,
    TxnRequest,
};
use kvnode_store::command::Header;
use kvnode_store::datadir::{Creation, Identity, Program};
use kvnode_store::engine::Engine as _;
use kvnode_store::engine::fjall::{FjallEngine, Options as EngineOptions};
use kvnode_store::{Command as Entries, Committed, Config, Kind, Store};
use kvnode_wal::{Entry, EntryKind, HardState, Log, Membership, Options as WalOptions};

pub const IDENTITY: Identity = Identity {
    cluster_id: 0xc1,
    member_id: 0xa1,
    instance_id: [7; 16],
};

pub fn program() -> Program {
    Program {
        name: "test".into(),
        version: "0".into(),
        started: 0,
    }
}

/// What a directory is made like.
#[derive(Clone, Debug)]
pub struct Shape {
    pub entries: u64,
    /// The store stops here.
    pub applied: u64,
    pub voters: Vec<u64>,
    pub segment_bytes: u64,
    pub value_bytes: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            entries: 100,
            applied: 90,
            voters: vec![0xa1],
            segment_bytes: 1 << 20,
            value_bytes: 200,
        }
    }
}

fn payload(index: u64, value_bytes: usize) -> bytes::Bytes {
    let header = Header {
        time_ms: 1_700_000_000_000 + index,
        ..Header::default()
    };
    let put = |key: String, lease: i64| PutRequest {
        key: key.into_bytes().into(),
        value: vec![index as u8; value_bytes].into(),
        lease,
        ..PutRequest::default()
    };
    let key = format!("/a/key-{:03}", index % 37);
    let (kind, message) = match index % 10 {
        3 if index < 10 => {
            let grant = LeaseGrantRequest { ttl: 60, id: 0x77 };
            (Kind::LeaseGrant, grant.encode_to_vec())
        }
        5 if index > 20 => (
            Kind::Put,
            put(format!("/leased/{index}"), 0x77).encode_to_vec(),
        ),
        7 => {
            let key = format!("/a/key-{:03}", (index + 5) % 37)
                .into_bytes()
                .into();
            (
                Kind::DeleteRange,
                DeleteRangeRequest {
                    key,
                    ..Default::default()
                }
                .encode_to_vec(),
            )
        }
        8 => {
            let op = |request| RequestOp {
                request: Some(Request::RequestPut(request)),
            };
            let success = vec![op(put(key, 0)), op(put("/txn/sibling".into(), 0))];
            (
                Kind::Txn,
                TxnRequest {
                    success,
                    ..Default::default()
                }
                .encode_to_vec(),
            )
        }
        9 if index == 59 => {
            let compact = CompactionRequest {
                revision: 20,
                physical: false,
            };
            (Kind::Compaction, compact.encode_to_vec())
        }
        _ => (Kind::Put, put(key, 0).encode_to_vec()),
    };
    Entries::encode(kind, &header, &message)
}

/// Makes a data directory with a log of commands and a store that has applied most of them.
pub fn data_directory(root: &Path, shape: &Shape) {
    let creation = Creation::begin(root, None, IDENTITY, &program()).expect("an empty directory");
    let engine = FjallEngine::create(&creation.kv(), &EngineOptions::default()).expect("an engine");
    let mut store = Store::open(engine, Config::default()).expect("an empty store");
    let identity = kvnode_wal::Identity {
        cluster: IDENTITY.cluster_id,
        member: IDENTITY.member_id,
        instance: IDENTITY.instance_id,
    };
    let membership = Membership {
        voters: shape.voters.clone(),
        ..Membership::default()
    };
    let options = WalOptions {
        segment_bytes: shape.segment_bytes,
        sync: kvnode_wal::SyncMethod::None,
        ..WalOptions::default()
    };
    let mut log =
        Log::create(&creation.wal(), identity, options, 42, membership, 1).expect("a new log");
    for index in 1..=shape.entries {
        let payload = payload(index, shape.value_bytes);
        let entry = Entry {
            index,
            term: 1,
            kind: EntryKind::Normal,
            payload: payload.clone(),
        };
        let hard_state = HardState {
            term: 1,
            vote: IDENTITY.member_id,
            commit: index,
        };
        log.append(&[entry], Some(hard_state), true, 1_700_000_000_000 + index)
            .expect("appended");
        if index <= shape.applied {
            let committed = Committed {
                index,
                term: 1,
                command: payload,
            };
            store.apply(&[committed]).expect("applied");
        }
    }
    log.close(2).expect("closed");
    drop(log);
    store.into_engine().close().expect("closed");
    creation.finish().expect("finished");
}

/// A directory, and a plain path to a data directory in it.
pub struct Home {
    pub root: tempfile::TempDir,
    pub data: PathBuf,
}

pub fn home(shape: &Shape) -> Home {
    let root = tempfile::tempdir().expect("a directory");
    let data = root.path().join("data");
    data_directory(&data, shape);
    // A program that another test started at this moment has the lock's file open until it is a program of its own.
    let begun = std::time::Instant::now();
    while kvnode_store::datadir::holder(&data).is_ok_and(|holder| holder.is_some()) {
        assert!(begun.elapsed().as_secs() < 60, "nobody lets go of the lock");
        std::thread::yield_now();
    }
    Home { root, data }
}

impl Home {
    pub fn path(&self) -> &str {
        self.data.to_str().expect("a plain path")
    }

    /// Runs the tool with `--data-dir` behind the words.
    pub fn run(&self, words: &[&str]) -> Output {
        kvutil(&[words, &["--data-dir", self.path()]].concat())
    }

    pub fn json(&self, words: &[&str]) -> serde_json::Value {
        let output = self.run(&[words, &["-w", "json"]].concat());
        assert_eq!(code(&output), 0, "{words:?}: {}", stderr(&output));
        json(&output)
    }

    /// Segment files, oldest first.
    pub fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.data.join("wal"))
            .expect("a log")
            .flatten();
        let mut all: Vec<_> = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
            .collect();
        all.sort();
        all
    }

    /// Flips one byte.
    pub fn flip(&self, segment: usize, at: usize) {
        let path = &self.segments()[segment];
        let mut bytes = fs::read(path).expect("readable");
        bytes[at] ^= 1;
        fs::write(path, bytes).expect("writable");
    }
}

pub fn kvutil(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kvutil"))
        .args(words)
        .output()
        .expect("kvutil runs")
}

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

pub fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).expect("stdout is JSON")
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// All files below `path` by their names in it, without the lock and, if asked, without the quarantine.
pub fn image(path: &Path, without: &[&str]) -> BTreeMap<PathBuf, Vec<u8>> {
    fn add(root: &Path, path: &Path, without: &[&str], all: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(path).expect("listed").flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).expect("below").to_path_buf();
            if without.iter().any(|left_out| name == Path::new(left_out)) {
                continue;
            }
            if path.is_dir() {
                add(root, &path, without, all);
            } else {
                all.insert(name, fs::read(&path).expect("read"));
            }
        }
    }
    let mut all = BTreeMap::new();
    add(path, path, without, &mut all);
    all
}
