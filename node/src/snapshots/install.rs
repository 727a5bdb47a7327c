//! A staged state takes the place of the live one: while the member runs, and at a start that finds it was about to.
//!
//! The order, and what a start makes of a crash behind each step, is the table in `kvnode_store::datadir::Engines`: build and
//! sync beside, mark in the log and sync, rename to the next generation, forget the old one. Readers of the old state keep
//! it until they are done; its directory goes after the last of them.
//!
//! A replacement ([`Installer::replace`]) is the same for a member whose own state is wrong while its log is right: the staged state
//! is brought to the very index of the live one by the log's entries first. Raft hears nothing of it, so no mark is needed, and
//! what is replaced is put aside.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvnode_store::datadir::{self, Engines};
use kvnode_store::engine::fjall::{FjallEngine, FjallPersister, Options as EngineOptions};
use kvnode_store::engine::{Engine as _, EngineError, Persister as _};
use kvnode_wal::{Entry, Origin, SnapshotMark};

use crate::cores::Store;
use crate::cores::apply::{BATCH_ENTRIES_MAX, committed};

/// How often it is looked whether an old state is still read.
const RETIRE_POLL: Duration = Duration::from_millis(500);

/// To the apply thread: the staged state, whose mark is in the log, takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstallJob {
    pub index: u64,
    pub term: u64,
}

/// To the apply thread: the staged state takes the place of the live one at the live one's index.
#[derive(Debug)]
pub struct ReplaceJob {
    /// Of the staged state.
    pub index: u64,
    pub term: u64,
    /// Everything that was handed to the apply thread behind `index`.
    pub entries: Vec<Entry>,
    /// Unix milliseconds: names the place where the old state is kept.
    pub now_ms: u64,
    /// Says there what it is.
    pub note: String,
}

/// How a replacement failed.
#[derive(Debug)]
pub enum ReplaceError {
    /// The old state goes on.
    Unchanged(Error),
    /// The process has to end; a start finds either state whole.
    Fatal(Error),
}

/// The live engine's persister, wherever it is at the moment.
#[derive(Clone)]
pub struct PersisterSlot(Arc<Mutex<FjallPersister>>);

impl PersisterSlot {
    pub fn new(persister: FjallPersister) -> Self {
        PersisterSlot(Arc::new(Mutex::new(persister)))
    }

    /// Who reports an applied index as durable reads that index first, then takes the persister: so the engine it
    /// persists is the one that has applied it, or a later one.
    pub fn get(&self) -> FjallPersister {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, persister: FjallPersister) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = persister;
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Directory(#[from] datadir::Error),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Store(#[from] kvnode_store::Error),
    #[error(
        "the log says that the state of index {index}, term {term} was to take over, but what is staged is at {found_index}, term {found_term}"
    )]
    Other {
        index: u64,
        term: u64,
        found_index: u64,
        found_term: u64,
    },
    #[error(
        "the new state and the entries behind it end at {new}, the live one at {live}: one of them went on meanwhile"
    )]
    Elsewhere { new: u64, live: u64 },
}

/// What the apply thread installs with.
pub struct Installer {
    pub engines: Engines,
    pub options: EngineOptions,
    pub config: kvnode_store::Config,
    pub persisters: PersisterSlot,
}

impl Installer {
    /// Lets the staged state take over from `store`, which is given up to its readers. Blocks for an open of the new
    /// one: tables only, no journal to replay.
    ///
    /// # Errors
    /// After one the process has to end: the log says that the new state holds.
    pub fn take_over(&self, store: &mut Store, job: InstallJob) -> Result<(), Error> {
        let path = self.engines.take_over()?;
        let engine = FjallEngine::open(&path, &self.options)?;
        let new = Store::open(engine, self.config.clone())?;
        check(&new, job.index, job.term)?;
        self.persisters.set(new.engine().persister());
        let old = std::mem::replace(store, new).into_engine();
        retire(self.engines.clone(), old);
        Ok(())
    }
}

impl Installer {
    /// Lets the staged state, brought up to `store`'s own index, take over from it. What it replaces is put aside once nobody
    /// reads it any more; returns where. Blocks for the entries and two opens of the new state.
    ///
    /// # Errors
    /// [`ReplaceError`] says whether `store` may go on.
    pub fn replace(&self, store: &mut Store, job: ReplaceJob) -> Result<PathBuf, ReplaceError> {
        use ReplaceError::{Fatal, Unchanged};
        self.bring_up(store, &job).map_err(Unchanged)?;
        // Whole for whoever examines it: what is in memory only is not in its files.
        let flushed = store.engine().persister().persist();
        flushed.map_err(|error| Unchanged(error.into()))?;
        let kept = self.engines.keep_live("resync", job.now_ms, &job.note);
        let kept = kept.map_err(|error| Unchanged(error.into()))?;
        let path = self.engines.take_over().map_err(|error| {
            // One rename; what is still staged did not take over.
            if self.engines.staged().exists() && self.engines.keep_nothing().is_ok() {
                Unchanged(error.into())
            } else {
                Fatal(error.into())
            }
        })?;
        let opened = FjallEngine::open(&path, &self.options);
        let engine = opened.map_err(|error| Fatal(error.into()))?;
        let opened = Store::open(engine, self.config.clone());
        let new = opened.map_err(|error| Fatal(error.into()))?;
        let (index, term) = store.applied();
        check(&new, index, term).map_err(Fatal)?;
        self.persisters.set(new.engine().persister());
        let old = std::mem::replace(store, new).into_engine();
        retire(self.engines.clone(), old);
        Ok(kept)
    }

    /// Applies the entries to the staged state, which is closed and durable at `store`'s index then. Nobody is told what they
    /// come to: that was done when `store` applied them.
    pub(super) fn bring_up(&self, store: &Store, job: &ReplaceJob) -> Result<(), Error> {
        let engine = FjallEngine::open(&self.engines.staged(), &self.options)?;
        let mut new = Store::open(engine, self.config.clone())?;
        check(&new, job.index, job.term)?;
        let end = job.entries.last().map_or(job.index, |entry| entry.index);
        let (live, _) = store.applied();
        if end != live {
            return Err(Error::Elsewhere { new: end, live });
        }
        for batch in job.entries.chunks(BATCH_ENTRIES_MAX) {
            let batch: Vec<_> = batch.iter().cloned().map(committed).collect();
            new.apply(&batch)?;
        }
        let (index, term) = store.applied();
        check(&new, index, term)?;
        let engine = new.into_engine();
        engine.persister().persist()?;
        engine.close()?;
        Ok(())
    }
}

fn check(store: &Store, index: u64, term: u64) -> Result<(), Error> {
    let (found_index, found_term) = store.applied();
    if (found_index, found_term) == (index, term) {
        return Ok(());
    }
    Err(Error::Other {
        index,
        term,
        found_index,
        found_term,
    })
}

/// Closes an engine and removes its directory when nobody reads it any more, on a thread. What a stop of the process leaves of
/// it the next start removes.
fn retire(engines: Engines, engine: FjallEngine) {
    let spawned = std::thread::Builder::new()
        .name("kv-retire".into())
        .spawn(move || {
            let retired = engine.retire();
            while retired.is_read() {
                std::thread::sleep(RETIRE_POLL);
            }
            match engines.remove_older(retired.directory()) {
                Ok(None) => log::info!("removed the old state {}", retired.directory().display()),
                Ok(Some(place)) => log::info!("the old state is kept in {}", place.display()),
                Err(error) => log::warn!("{error}; the next start removes it"),
            }
        });
    if let Err(error) = spawned {
        log::warn!("no thread to remove the old state: {error}; the next start will");
    }
}

/// At a start, with no engine open: if the log's newest mark is of a state that was to take over and the live store is
/// behind it, lets it take over. Else what is staged is nobody's, and goes. `applied` is the live store's. True if it took
/// over: then the engine is to be opened anew.
///
/// # Errors
/// What is staged is not what the log says, or cannot be opened; nothing was changed then.
pub fn finish_install(
    engines: &Engines,
    options: &EngineOptions,
    config: &kvnode_store::Config,
    mark: Option<SnapshotMark>,
    applied: u64,
) -> Result<bool, Error> {
    let pending = mark.filter(|mark| mark.origin == Origin::Installed && mark.index > applied);
    let Some(mark) = pending else {
        engines.discard_staged()?;
        return Ok(false);
    };
    let staged = FjallEngine::open(&engines.staged(), options)?;
    let store = Store::open(staged, config.clone())?;
    check(&store, mark.index, mark.term)?;
    store.into_engine().close()?;
    engines.take_over()?;
    engines.settle()?;
    log::info!(
        "finished taking over the state of index {}, term {}, which a stop had interrupted",
        mark.index,
        mark.term
    );
    Ok(true)
}
