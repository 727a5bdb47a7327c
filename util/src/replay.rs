//! A store made again from a log, entry by entry.

use std::path::Path;

use kvnode_store::engine::fjall::FjallEngine;
use kvnode_store::{Change, Config, Store};
use kvnode_wal::recover::Floors;
use kvnode_wal::{Entry, Identity, Recovered, dir};

use crate::failure::{Code, Failure, Result};
use crate::log;
use crate::shell::Scratch;
use crate::source::{committed, options};

/// Entries of one step where nobody wants to know which entry did what.
const STEP_ENTRIES: usize = 256;

/// What of a log counts, without its entries.
pub fn outline(wal: &Path, identity: Option<&Identity>, applied: u64) -> Result<Recovered> {
    let floors = Floors {
        applied,
        snapshot: 0,
        keep_after: u64::MAX,
    };
    match identity {
        Some(identity) => Ok(dir::recover(wal, identity, floors)?),
        None => Ok(dir::read_alone(wal)?),
    }
}

/// Hands out the entries that count, in order, from `first` to `last`, with the writer's time. Entries that were
/// replaced later are passed over: the term tells.
pub fn each(
    wal: &Path,
    outline: &Recovered,
    first: u64,
    last: u64,
    mut take: impl FnMut(Entry, u64) -> Result<bool>,
) -> Result<()> {
    let mut next = first;
    let mut result = Ok(());
    log::entries(wal, |entry, unix_ms| {
        let counts = entry.index == next
            && entry.index <= last
            && outline.term_of(entry.index) == Some(entry.term);
        if !counts {
            return true;
        }
        next += 1;
        match take(entry, unix_ms) {
            Ok(goes_on) => goes_on && next <= last,
            Err(error) => {
                result = Err(error);
                false
            }
        }
    })?;
    result
}

/// An empty store in a scratch directory.
pub fn empty(scratch: &Scratch, config: Config) -> Result<Store<FjallEngine>> {
    let engine = FjallEngine::create(&scratch.path().join("replayed"), &options(1))?;
    Ok(Store::open(engine, config)?)
}

/// Whether a log has everything from its first entry on.
pub fn is_complete(outline: &Recovered) -> bool {
    outline.first_index == 1
}

pub fn incomplete(outline: &Recovered, wal: &Path) -> Failure {
    Failure::new(
        Code::Refused,
        format!(
            "{} begins at entry {}: what came before is needed to tell revisions",
            wal.display(),
            outline.first_index
        ),
        "kvutil wal dump --help",
    )
    .hint("filter by --index or --time, or give a snapshot with --base")
}

/// Applies `first..=last` to `store`; `see` hears of each entry and what it changed if `single`, else only of progress.
pub fn run(
    store: &mut Store<FjallEngine>,
    wal: &Path,
    outline: &Recovered,
    last: u64,
    single: bool,
    mut see: impl FnMut(Option<&Entry>, u64, &[Change]) -> bool,
) -> Result<()> {
    let first = store.applied().0 + 1;
    let mut waiting = Vec::new();
    each(wal, outline, first, last, |entry, unix_ms| {
        if single {
            let step = store.apply(&[committed(entry.clone())])?;
            return Ok(see(Some(&entry), unix_ms, &step.changes));
        }
        waiting.push(committed(entry));
        if waiting.len() < STEP_ENTRIES {
            return Ok(true);
        }
        store.apply(&waiting)?;
        store.compact_some()?;
        let goes_on = see(None, waiting.len() as u64, &[]);
        waiting.clear();
        Ok(goes_on)
    })?;
    if !waiting.is_empty() {
        store.apply(&waiting)?;
        see(None, waiting.len() as u64, &[]);
    }
    Ok(())
}
