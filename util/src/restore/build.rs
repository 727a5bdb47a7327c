//! The data directory of a restored member: checked input in, a whole directory out, at its place with one rename.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use kvnode_snapshot::{ChunkInfo, ChunkReader};
use kvnode_store::datadir::{Identity, Placing};
use kvnode_store::engine::Space;
use kvnode_store::export::Record;
use kvnode_store::import::{ImportError, Pieces, pieces_into_fjall};
use kvnode_store::remake::Remake;
use kvnode_wal::writer::Start;
use kvnode_wal::{HardState, Log, Membership, Options as WalOptions, Origin, SnapshotMark};

use super::examine::Examined;
use super::pieces::{Piece, cut};
use super::read_back::{bytes_of, read_back};
use crate::failure::{Code, Failure, Result};
use crate::kvs::{Kvs, as_records, unreadable};
use crate::process;
use crate::progress::Progress;
use crate::shell::{Shell, program};
use crate::source::options;

/// Of the log's first segment: it holds one checkpoint, the node opens one of its own size behind it.
const SEGMENT_BYTES: u64 = 1 << 20;
/// Threads that write tables at the most: each holds a chunk, packed and raw, and the index of a table.
const WRITERS_MAX: usize = 8;
/// Pieces of a space to a writer at the most, so that all of them end at about the same time.
const PIECES_PER_WRITER: usize = 4;

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
    remake: &Remake,
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
    let expected = examined.after.totals();
    let found = read_back(&kv, kvs, expected, threads, shell)?;
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

/// Turns the records into tables, several runs of keys at a time. Returns how many were written.
fn write(
    kvs: &Kvs,
    remake: &Remake,
    examined: &Examined,
    kv: &Path,
    threads: usize,
    shell: &Shell,
) -> Result<u64> {
    let progress = shell
        .progress
        .bytes("building", bytes_of(examined.after.totals()));
    let writing = Writing {
        kvs,
        remake,
        added: &examined.added,
        chunks: kvs
            .chunks
            .iter()
            .filter(|chunk| kept(remake, chunk))
            .cloned()
            .collect(),
        progress: Mutex::new(progress),
        given_up: AtomicBool::new(false),
    };
    let writers = threads.clamp(1, WRITERS_MAX);
    let filled = pieces_into_fjall(kv, &options(1), |tables| writing.all(tables, writers));
    filled.map_err(|error| match error {
        ImportError::Source(failure) => failure,
        ImportError::Engine(error) => error.into(),
        ImportError::Order { space, .. } | ImportError::Overlap { space } => Failure::new(
            Code::Damage,
            format!("{}: its records of {space} are out of order", kvs.shown()),
            format!("kvutil snapshot verify {}", kvs.shown()),
        ),
    })
}

/// Whether anything in a chunk may go into the new store.
fn kept(remake: &Remake, chunk: &ChunkInfo) -> bool {
    let section = |space: &Space| *space as u8 == chunk.section;
    let space = Space::ALL.into_iter().find(section);
    space.is_some_and(|space| remake.may_keep(space, &chunk.first_key, &chunk.last_key))
}

/// What all who write tables share.
struct Writing<'a> {
    kvs: &'a Kvs,
    remake: &'a Remake,
    added: &'a [Record],
    /// Those of which something is kept.
    chunks: Vec<ChunkInfo>,
    progress: Mutex<Progress>,
    /// Somebody failed.
    given_up: AtomicBool,
}

type Written = std::result::Result<(), ImportError<Failure>>;

impl Writing<'_> {
    /// Writes everything, by so many threads. The first failure ends all of them.
    fn all(&self, tables: &Pieces<'_>, writers: usize) -> Written {
        let pieces = cut(&self.chunks, writers * PIECES_PER_WRITER);
        let next = AtomicUsize::new(0);
        let write_some = || {
            let mut reader = ChunkReader::new()
                .map_err(|e| ImportError::Source(Failure::io("read", &self.kvs.path, &e)))?;
            while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.given_up.load(Ordering::Relaxed) {
                    break;
                }
                self.one(piece, tables, &mut reader).inspect_err(|_| {
                    self.given_up.store(true, Ordering::Relaxed);
                })?;
            }
            Written::Ok(())
        };
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..writers).map(|_| scope.spawn(write_some)).collect();
            let mut all = Written::Ok(());
            for writer in writers {
                match writer.join() {
                    Ok(written) => all = all.and(written),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            all
        })
    }

    fn one(&self, piece: &Piece, tables: &Pieces<'_>, reader: &mut ChunkReader) -> Written {
        let added = self.added.iter();
        let mut added = added
            .filter(|added| piece.holds(added.space, &added.key))
            .peekable();
        tables.write(piece.space, |table| {
            for chunk in &self.chunks[piece.chunks.clone()] {
                if self.given_up.load(Ordering::Relaxed) {
                    break;
                }
                let records = reader
                    .read(&self.kvs.file, chunk)
                    .map_err(|e| ImportError::Source(unreadable(&self.kvs.path, &e)))?;
                let mut bytes = 0;
                for record in as_records(chunk.section, records) {
                    let turned = self.remake.turn(&record);
                    let turned = turned.map_err(|e| ImportError::Source(e.into()))?;
                    let Some(turned) = turned.record(record) else {
                        continue;
                    };
                    while let Some(added) = added.next_if(|added| added.key < turned.key) {
                        table.put(&added.key, &added.value)?;
                    }
                    table.put(&turned.key, &turned.value)?;
                    bytes += (turned.key.len() + turned.value.len()) as u64;
                }
                let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
                progress.add(bytes);
            }
            for added in added {
                table.put(&added.key, &added.value)?;
            }
            Ok(())
        })
    }
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
