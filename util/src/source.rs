//! A source: anything that keys, history, leases, members and a revision can be read from. Today a data directory
//! or a `.kvs` file; whatever comes later slots in here, and every reading command takes it.
//!
//! A source is never changed. A data directory's engine is opened through a shadow (links to its tables, copies of
//! the rest), and entries that its log has committed beyond it are applied there: so what is shown is what the
//! node would serve. A `.kvs` file is unpacked into a scratch directory.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use kvnode_snapshot::Snapshot;
use kvnode_store::datadir::Reading;
use kvnode_store::engine::Space;
use kvnode_store::engine::fjall::{FjallEngine, FjallView, Options, shadow};
use kvnode_store::export::Record;
use kvnode_store::import::{ImportError, into_fjall};
use kvnode_store::{Committed, Store, View};
use kvnode_wal::recover::Floors;
use kvnode_wal::{Entry, EntryKind, Identity, dir};

use crate::decode::conf_change_context;
use crate::failure::{Code, Failure, Result};
use crate::kvs::etcds_own;
use crate::shell::{Scratch, Shell};

/// Entries applied at a time.
const APPLY_ENTRIES: usize = 256;
/// Of blocks; those a scan has passed are worth nothing.
const CACHE_BYTES: u64 = 8 << 20;

/// The arguments that name a source.
#[derive(Debug, Clone, Args)]
pub struct SourceArgs {
    /// A data directory of a stopped node, or a `.kvs` file
    #[arg(value_name = "SOURCE", required_unless_present = "data_dir")]
    pub source: Option<PathBuf>,
    /// The same, for a data directory
    #[arg(long, conflicts_with = "source")]
    pub data_dir: Option<PathBuf>,
    /// Where the log is, if it was moved since the directory was made
    #[arg(long)]
    pub wal_dir: Option<PathBuf>,
    /// Show the store as it lies on the disk, without what its log has committed beyond it
    #[arg(long)]
    pub no_log: bool,
    /// Shortest lease the node grants, in seconds: needed where the log is applied
    #[arg(long, default_value_t = 2, value_name = "SECONDS")]
    pub lease_ttl_min: i64,
}

impl SourceArgs {
    /// A source by its path alone.
    pub fn of(path: &Path) -> Self {
        SourceArgs {
            source: Some(path.to_path_buf()),
            data_dir: None,
            wal_dir: None,
            no_log: false,
            lease_ttl_min: 2,
        }
    }

    pub fn path(&self) -> PathBuf {
        self.data_dir
            .clone()
            .or_else(|| self.source.clone())
            .unwrap_or_default()
    }

    pub fn open(&self, shell: &Shell) -> Result<Source> {
        let path = self.path();
        let meta = std::fs::metadata(&path).map_err(|e| {
            Failure::io("read", &path, &e).hint("a source is a data directory or a .kvs file")
        })?;
        if meta.is_dir() {
            Source::data_dir(self, &path, shell)
        } else {
            Source::snapshot(self, &path, shell)
        }
    }

    pub fn store_config(&self) -> kvnode_store::Config {
        kvnode_store::Config {
            lease_ttl_min_seconds: self.lease_ttl_min,
            ..kvnode_store::Config::default()
        }
    }
}

/// See the file's head.
pub struct Source {
    /// As named by the operator.
    pub name: String,
    pub kind: &'static str,
    pub cluster_id: u64,
    pub member_id: u64,
    /// Entries that only the log had.
    pub from_log: u64,
    pub view: View<FjallView>,
    pub store: Store<FjallEngine>,
    /// Removed after the engine was let go.
    scratch: Scratch,
    reading: Option<Reading>,
}

/// What keeps the files of a source's store there.
pub struct Keep {
    _scratch: Scratch,
    _reading: Option<Reading>,
}

impl Source {
    /// What the view answers; a refusal names the source and the revisions it has.
    pub fn answered<T>(&self, answer: std::result::Result<T, kvnode_api::Status>) -> Result<T> {
        answer.map_err(|status| {
            let name = &self.name;
            let next = match self.kind {
                "data-dir" => format!("kvutil data info --data-dir {name}"),
                _ => format!("kvutil snapshot status {name}"),
            };
            Failure::from(status)
                .prefixed(name)
                .hint(format!(
                    "revisions {} to {} can be read",
                    self.view.compact_revision().max(1),
                    self.view.revision()
                ))
                .then(next)
        })
    }

    /// The store, for who wants to go on with it, and what has to outlive it.
    pub fn into_parts(self) -> (Store<FjallEngine>, Option<Keep>) {
        let keep = Keep {
            _scratch: self.scratch,
            _reading: self.reading,
        };
        (self.store, Some(keep))
    }

    fn data_dir(args: &SourceArgs, path: &Path, shell: &Shell) -> Result<Self> {
        let reading = Reading::open(path, args.wal_dir.as_deref())?;
        let scratch = shell.scratch()?;
        let mut store = open_shadow(&reading, &scratch, args.store_config(), 1)?;
        let mut from_log = 0;
        if !args.no_log {
            let (applied, _) = store.applied();
            let floors = Floors {
                applied,
                snapshot: 0,
                keep_after: applied,
            };
            let recovered = dir::recover(&reading.wal(), &wal_identity(reading.identity()), floors);
            let recovered = recovered.map_err(|error| {
                Failure::from(error).hint("--no-log shows the store without its log")
            })?;
            let commit = recovered.hard_state.commit;
            let alone = recovered.membership.voters == [reading.identity().member_id];
            // What a lone voter has in its log counts as committed.
            let upto = if alone { recovered.last_index } else { commit };
            let entries = recovered
                .entries
                .into_iter()
                .filter(|entry| entry.index <= upto);
            from_log = apply(&mut store, entries)?;
        }
        let view = store.view();
        Ok(Self {
            name: path.display().to_string(),
            kind: "data-dir",
            cluster_id: reading.identity().cluster_id,
            member_id: reading.identity().member_id,
            from_log,
            view,
            store,
            scratch,
            reading: Some(reading),
        })
    }

    fn snapshot(args: &SourceArgs, path: &Path, shell: &Shell) -> Result<Self> {
        let shown = path.display().to_string();
        let mut file = File::open(path).map_err(|e| Failure::io("open", path, &e))?;
        let mut front = [0; 8];
        let front_read = file
            .read(&mut front)
            .map_err(|e| Failure::io("read", path, &e))?;
        if front[..front_read] != kvnode_snapshot::MAGIC {
            return Err(etcds_own(path, &file).unwrap_or_else(|| {
                Failure::new(
                    Code::Version,
                    format!("{shown} is neither a data directory nor a .kvs file"),
                    format!("file {shown}"),
                )
            }));
        }
        let file = File::open(path).map_err(|e| Failure::io("open", path, &e))?;
        let mut snapshot =
            Snapshot::open(BufReader::new(file)).map_err(|error| damaged_file(&shown, error))?;
        let info = snapshot.info().clone();
        let raw: u64 = snapshot
            .sections()
            .iter()
            .map(|section| section.raw_bytes)
            .sum();
        let scratch = shell.scratch()?;
        shell.need_space(
            scratch.path(),
            raw,
            &format!("kvutil --scratch-dir DIR kv count {shown}"),
        )?;
        let kv = scratch.path().join("kv");
        let mut progress = shell.progress.bytes("unpacking", raw);
        let chunks = snapshot.chunks().len();
        let records = (0..chunks).flat_map(|at| {
            let chunk = snapshot.chunks().get(at).map_or(0, |chunk| chunk.section);
            let space = Space::ALL.into_iter().find(|space| *space as u8 == chunk);
            match (snapshot.read_chunk(at), space) {
                (Ok(records), Some(space)) => records
                    .iter()
                    .map(|(key, value)| {
                        progress.add((key.len() + value.len()) as u64);
                        Ok(Record {
                            space,
                            key: Bytes::copy_from_slice(key),
                            value: Bytes::copy_from_slice(value),
                        })
                    })
                    .collect::<Vec<_>>(),
                (Ok(_), None) => Vec::new(),
                (Err(error), _) => vec![Err(error)],
            }
        });
        into_fjall(&kv, &options(1), records).map_err(|error| match error {
            ImportError::Source(error) => damaged_file(&shown, error),
            ImportError::Engine(error) => error.into(),
            error => Failure::new(
                Code::Damage,
                format!("{shown}: {error}"),
                format!("kvutil snapshot verify {shown}"),
            ),
        })?;
        drop(progress);
        let store = Store::open(FjallEngine::open(&kv, &options(1))?, args.store_config())?;
        Ok(Self {
            name: shown,
            kind: "snapshot",
            cluster_id: info.cluster_id,
            member_id: info.member_id,
            from_log: 0,
            view: store.view(),
            store,
            scratch,
            reading: None,
        })
    }
}

fn damaged_file(shown: &str, error: kvnode_snapshot::Error) -> Failure {
    let failure = Failure::from(error);
    failure
        .prefixed(shown)
        .then(format!("kvutil snapshot verify {shown}"))
}

/// The store of a data directory, through a shadow in `scratch`.
pub fn open_shadow(
    reading: &Reading,
    scratch: &Scratch,
    config: kvnode_store::Config,
    workers: usize,
) -> Result<Store<FjallEngine>> {
    shadow_store(
        &reading.live()?.path,
        reading.root(),
        scratch,
        config,
        workers,
    )
}

/// As [`open_shadow`], for whoever has the directory locked in another way.
pub fn shadow_store(
    live: &Path,
    root: &Path,
    scratch: &Scratch,
    config: kvnode_store::Config,
    workers: usize,
) -> Result<Store<FjallEngine>> {
    if !live.exists() {
        return Err(Failure::new(
            Code::Damage,
            format!("{} is missing: the store itself is gone", live.display()),
            format!("kvutil wal verify --data-dir {}", root.display()),
        )
        .hint("a node makes it again at its start if its log has every entry"));
    }
    let copy = scratch.path().join("kv");
    shadow(live, &copy)?;
    let engine = FjallEngine::open(&copy, &options(workers)).map_err(|error| {
        let mut failure = Failure::from(error);
        failure = failure.prefixed(&format!("{} (through a copy)", live.display()));
        failure.then(format!(
            "kvutil data undo --list --data-dir {}",
            root.display()
        ))
    })?;
    Ok(Store::open(engine, config)?)
}

pub fn options(workers: usize) -> Options {
    Options {
        cache_bytes: CACHE_BYTES,
        workers,
        ..Options::default()
    }
}

/// Applies entries that follow each other; returns how many.
pub fn apply(store: &mut Store<FjallEngine>, entries: impl Iterator<Item = Entry>) -> Result<u64> {
    let mut entries = entries.map(committed).peekable();
    let mut count = 0;
    while entries.peek().is_some() {
        let some: Vec<_> = entries.by_ref().take(APPLY_ENTRIES).collect();
        count += some.len() as u64;
        store.apply(&some)?;
        // The node does the same between its batches.
        store.compact_some()?;
    }
    Ok(count)
}

/// An entry as the node hands it to the store: a change of who votes carries what the store is to know of it.
pub fn committed(entry: Entry) -> Committed {
    Committed {
        index: entry.index,
        term: entry.term,
        command: match entry.kind {
            EntryKind::Normal => entry.payload,
            EntryKind::ConfChange => conf_change_context(&entry.payload),
            EntryKind::Empty => Bytes::new(),
        },
    }
}

pub fn wal_identity(identity: &kvnode_store::datadir::Identity) -> Identity {
    Identity {
        cluster: identity.cluster_id,
        member: identity.member_id,
        instance: identity.instance_id,
    }
}
