//! Compaction: forgetting history below a revision.
//!
//! Logical first: applying the command moves the compact revision, durable in the same batch, and
//! from then on nothing below it can be read. Removing follows in paced steps that the owner runs
//! between applies; it is each member's own affair and takes up again after a restart, because the
//! meta record says how far it got.
//!
//! Kept at compact revision C: for each key alive at C its newest version, as head or as previous
//! version of a later change; every history record with main >= C, so that a watch from C still
//! sees what C itself did.

use kvnode_api::{CompactionRequest, Status};

use crate::engine::{Batch, Engine, Reader, Space};
use crate::error::{Error, Failure};
use crate::revision::Revision;
use crate::schema::{Head, META_KEY, Meta, Undo, head_key, tombstone_key};

/// Tombstones looked at per step: a few milliseconds of work.
const STEP_TOMBSTONES: usize = 1000;

/// Moves the compact revision. `reader` covers every change up to the current revision.
pub(crate) fn compact<V: Reader>(
    reader: &V,
    meta: &mut Meta,
    request: &CompactionRequest,
) -> Result<(), Failure> {
    let revision = request.revision;
    if revision > meta.revision {
        return Err(Status::future_revision().into());
    }
    if revision <= meta.compact_revision {
        return Err(Status::compacted().into());
    }
    // Each record knows the bytes of history up to and including itself, so the last one up to the
    // revision tells what no longer counts: what that revision replaced can be read no more. Its
    // own records stay, for watches.
    let below = Revision::new(revision.saturating_add(1), 0).to_bytes();
    if let Some(item) = reader.scan(Space::Hist, &[], Some(&below), true).next() {
        let (place, record) = item?;
        let at = Revision::from_bytes(&place)
            .ok_or_else(|| Error::record(Space::Hist, &place, "is no revision"))?;
        let total = Undo::decode(at, &record)?.total;
        meta.hist_compacted = meta.hist_compacted.max(total).min(meta.hist_total);
    }
    meta.compact_revision = revision;
    Ok(())
}

/// One step of removing. Answers true if there is more to do.
///
/// `cursor` is where the tombstone index was left; steps scan on from there, because what they
/// have deleted before it still costs an ordered engine time to pass over.
pub(crate) fn remove_some<E: Engine>(
    engine: &mut E,
    meta: &mut Meta,
    cursor: &mut Revision,
) -> Result<bool, Error> {
    let compacted = meta.compact_revision;
    if meta.compacted_physically >= compacted {
        return Ok(false);
    }
    let view = engine.view();
    let mut batch = Batch::with_capacity(2 * STEP_TOMBSTONES + 1);
    let from = tombstone_key(*cursor);
    let to = tombstone_key(Revision::new(compacted.saturating_add(1), 0));
    let mut seen = 0;
    for item in view.scan(Space::State, &from, Some(&to), false) {
        let (place, key) = item?;
        let at = place.get(1..).and_then(Revision::from_bytes);
        let at = at.ok_or_else(|| Error::record(Space::State, &place, "is no tombstone's key"))?;
        let head_key = head_key(&key);
        if let Some(record) = view.get(Space::State, &head_key)? {
            // Unless it lives again, or died again later.
            if (Head {
                modified: at,
                live: None,
            }) == Head::decode(&key, &record)?
            {
                batch.delete(Space::State, head_key);
            }
        }
        batch.delete(Space::State, place);
        *cursor = at;
        seen += 1;
        if seen == STEP_TOMBSTONES {
            break;
        }
    }
    drop(view);
    let more = seen == STEP_TOMBSTONES;
    if !more {
        meta.compacted_physically = compacted;
        batch.put(Space::State, &META_KEY[..], meta.encode());
    }
    engine.commit(batch)?;
    if !more {
        // Never before the compaction is durable: else, after a crash, the log would be replayed from before it, over
        // entries that may read what is gone.
        engine.drop_hist_before(&Revision::new(compacted, 0).to_bytes())?;
    }
    Ok(more)
}
