//! The data directory of a restored member: checked input in, a whole directory out, at its place with one rename.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kvnode_store::audit::{Audit, Hashes};
use kvnode_store::datadir::{Identity, Placing};
use kvnode_store::engine::fjall::FjallEngine;
use kvnode_store::engine::{Engine as _, Reader as _, Space};
use kvnode_store::export::{Record, Totals};
use kvnode_store::import::{ImportError, uncounted_into_fjall};
use kvnode_store::remake::{Remake, Turned, merged};
use kvnode_store::schema::Meta;
use kvnode_wal::writer::Start;
use kvnode_wal::{HardState, Log, Membership, Options as WalOptions, Origin, SnapshotMark};

use crate::failure::{Code, Failure, Result};
use crate::kvs::{Checked, Kvs, as_records};
use crate::process;
use crate::shell::{Shell, program};
use crate::source::options;

/// Of the log's first segment: it holds one checkpoint, the node opens one of its own size behind it.
const SEGMENT_BYTES: u64 = 1 << 20;

/// What the input is, and what it will be.
pub struct Examined {
    pub checked: Checked,
    pub before: Audit,
    pub after: Audit,
    /// Records of the new store that no old one turns into.
    added: Vec<Record>,
}

/// Reads and checks all of the snapshot, and counts what it becomes. Nothing is made.
pub fn examine(
    kvs: &Kvs,
    meta: &Meta,
    remake: &Arc<Remake>,
    threads: usize,
    shell: &Shell,
) -> Result<Examined> {
    let mut before = Audit::new(meta.revision, meta.compact_revision);
    let mut after = remake.audit(meta);
    let (empty_before, empty_after) = (before.clone(), after.clone());
    let (turns, mut failed) = (Arc::clone(remake), None);
    let checked = kvs.check(
        threads,
        shell,
        move |section, records| {
            let (mut before, mut after) = (empty_before.clone(), empty_after.clone());
            for record in as_records(section, records) {
                let mut hashes = Hashes::default();
                before.add_known(&record, &mut hashes);
                match turns.turn(&record)? {
                    Turned::Same => after.add_known(&record, &mut hashes),
                    Turned::Other(other) => after.add(&other),
                    Turned::Gone => {}
                }
            }
            Ok::<_, kvnode_store::Error>((before, after))
        },
        |piece| match piece {
            Ok((one, other)) => {
                before.merge(one);
                after.merge(other);
            }
            Err(error) => failed = failed.take().or(Some(error)),
        },
    )?;
    if let Some(error) = failed {
        return Err(Failure::from(error)
            .prefixed(&kvs.shown())
            .then(format!("kvutil snapshot verify {}", kvs.shown())));
    }
    let added = remake.added(meta, &mut after);
    Ok(Examined {
        checked,
        before,
        after,
        added,
    })
}

/// Where to, and as whom.
pub struct Target<'a> {
    pub data_dir: &'a Path,
    pub wal_dir: Option<&'a Path>,
    pub identity: Identity,
    pub note: String,
}

/// Builds the directory beside its place, reads it back, and puts it there.
pub fn build(
    kvs: &Kvs,
    remake: &Arc<Remake>,
    examined: &Examined,
    target: &Target<'_>,
    threads: usize,
    shell: &Shell,
) -> Result<()> {
    let (placing, guards) = process::make_guarded(|| {
        let program = program();
        let placing = Placing::begin(target.data_dir, target.wal_dir, target.identity, &program)?;
        let built = placing.built();
        Ok::<_, Failure>((placing, built))
    })?;
    placing.notes().iter().for_each(|note| shell.note(note));
    let kv = placing.kv();
    let written = write(kvs, remake, examined, &kv, threads, shell)?;
    make_log(&placing.wal(), remake, target)?;
    let found = read_back(&kv, kvs, examined, threads, shell)?;
    let expected = examined.after.totals();
    if written != expected.records() || found != *expected {
        return Err(Failure::new(
            Code::Io,
            format!(
                "what was written does not read back: {} records instead of {}",
                found.records(),
                expected.records()
            ),
            "kvutil disk probe --help",
        )
        .hint("nothing was put in place; the device may be failing, or the snapshot was changed meanwhile"));
    }
    process::release(guards);
    Ok(placing.place()?)
}

fn write(
    kvs: &Kvs,
    remake: &Arc<Remake>,
    examined: &Examined,
    kv: &Path,
    threads: usize,
    shell: &Shell,
) -> Result<u64> {
    let totals = examined.after.totals();
    let mut progress = shell.progress.bytes("building", bytes_of(totals));
    let turns = Arc::clone(remake);
    let pieces = kvs.pieces(threads, move |section, records| {
        as_records(section, records)
            .filter_map(|record| match turns.turn(&record) {
                Ok(turned) => turned.record(record).map(Ok),
                Err(error) => Some(Err(error)),
            })
            .collect::<std::result::Result<Vec<_>, _>>()
    })?;
    let turned = pieces.flat_map(|piece| {
        let (records, error) = match piece {
            Ok(Ok(records)) => (records, None),
            Ok(Err(error)) => (Vec::new(), Some(Failure::from(error))),
            Err(error) => (Vec::new(), Some(crate::kvs::unreadable(&kvs.path, &error))),
        };
        progress.add(records.iter().map(bytes_of_record).sum());
        records.into_iter().map(Ok).chain(error.map(Err))
    });
    let records = merged(turned, examined.added.clone());
    uncounted_into_fjall(kv, &options(1), records).map_err(|error| match error {
        ImportError::Source(failure) => failure,
        ImportError::Engine(error) => error.into(),
        ImportError::Order { number, space } => Failure::new(
            Code::Damage,
            format!(
                "{}: record {number} ({space}) does not sort after the one before it",
                kvs.shown()
            ),
            format!("kvutil snapshot verify {}", kvs.shown()),
        ),
    })
}

fn bytes_of_record(record: &Record) -> u64 {
    (record.key.len() + record.value.len()) as u64
}

/// A log that begins behind the restored state.
fn make_log(wal: &Path, remake: &Remake, target: &Target<'_>) -> Result<()> {
    let (index, term) = remake.applied;
    let identity = kvnode_wal::Identity {
        cluster: target.identity.cluster_id,
        member: target.identity.member_id,
        instance: target.identity.instance_id,
    };
    let start = Start {
        membership: Membership {
            index,
            voters: remake.members.iter().map(|member| member.id).collect(),
            ..Membership::default()
        },
        hard_state: HardState {
            term,
            vote: 0,
            commit: index,
        },
        snapshot: Some(SnapshotMark {
            index,
            term,
            id: target.identity.instance_id,
            origin: Origin::Local,
        }),
        note: Some(target.note.clone()),
    };
    let wal_options = WalOptions {
        segment_bytes: SEGMENT_BYTES,
        ..WalOptions::default()
    };
    let seed = process::random();
    let mut log = Log::create_from(wal, identity, wal_options, seed, start, process::now_ms())?;
    log.close(process::now_ms())?;
    Ok(kvnode_wal::dir::remove_spares(wal)?)
}

/// Totals of every record in the new engine, read by several threads.
fn read_back(
    kv: &Path,
    kvs: &Kvs,
    examined: &Examined,
    threads: usize,
    shell: &Shell,
) -> Result<Totals> {
    let mut progress = shell
        .progress
        .bytes("checking", bytes_of(examined.after.totals()));
    let mut engine = FjallEngine::open(kv, &options(1))?;
    let view = engine.view();
    // The keys its chunks begin with cut both spaces into even pieces.
    let mut pieces = Vec::new();
    for space in Space::ALL {
        let mut from = Bytes::new();
        let cuts = kvs.chunks.iter().filter(|c| c.section == space as u8);
        for cut in cuts.skip(CHUNKS_AT_ONCE).step_by(CHUNKS_AT_ONCE) {
            let to = Bytes::copy_from_slice(&cut.first_key);
            pieces.push((space, std::mem::replace(&mut from, to.clone()), Some(to)));
        }
        pieces.push((space, from, None));
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let (done, finished) = std::sync::mpsc::channel();
    let totals = std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let (view, pieces, next, done) = (&view, &pieces, &next, done.clone());
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some((space, from, to)) = pieces.get(at) else {
                        return;
                    };
                    let mut totals = Totals::default();
                    let read = view.visit(*space, from, to.as_deref(), false, |key, value| {
                        totals.add_parts(*space, key, value);
                        ControlFlow::Continue(())
                    });
                    if done.send(read.map(|()| totals)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let mut totals = Totals::default();
        for piece in finished {
            totals.merge(&piece?);
            progress.set(bytes_of(&totals));
        }
        Ok::<_, kvnode_store::engine::EngineError>(totals)
    })?;
    drop(view);
    engine.close()?;
    Ok(totals)
}

/// Chunks of the snapshot to a piece that is read back by one thread.
const CHUNKS_AT_ONCE: usize = 8;

fn bytes_of(totals: &Totals) -> u64 {
    let spaces = [totals.of(Space::State), totals.of(Space::Hist)];
    spaces
        .iter()
        .map(|space| space.key_bytes + space.value_bytes)
        .sum()
}
