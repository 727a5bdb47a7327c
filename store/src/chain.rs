//! Following one key through history.

use bytes::Bytes;

use crate::engine::{Reader, Space};
use crate::error::Error;
use crate::revision::Revision;
use crate::schema::Undo;

/// Steps down the chain before the search also looks from the other end.
const STEPS: usize = 64;

/// Records looked at from the other end per round; a scanned record costs about a quarter of a
/// step, and most need no more than a look at their key.
const SCANNED: usize = 256;

/// The change at `revision`, which must not be below the compact revision.
pub(crate) fn change<V: Reader>(reader: &V, revision: Revision) -> Result<Undo, Error> {
    Ok(record(reader, revision)?.1)
}

/// The same, with the record as stored.
pub(crate) fn record<V: Reader>(reader: &V, revision: Revision) -> Result<(Bytes, Undo), Error> {
    let key = revision.to_bytes();
    let Some(record) = reader.get(Space::Hist, &key)? else {
        let detail = "is missing, a later change refers to it";
        return Err(Error::record(Space::Hist, &key, detail));
    };
    let undo = Undo::decode(revision, &record)?;
    Ok((record, undo))
}

/// The first change of `key` whose main revision is above `at`, where `newest` is its last one and
/// is above `at` as well.
///
/// Down the chain the work is one lookup per later change of the key, up from `at` it is one record
/// per change of any key; both are tried in turn, so that neither a busy key in a quiet store nor a
/// quiet key in a busy one is slow: in the worst even mix of k keys over w revisions that is about
/// `sqrt(w)` steps.
pub(crate) fn first_change_after<V: Reader>(
    reader: &V,
    key: &Bytes,
    newest: Revision,
    at: i64,
) -> Result<Undo, Error> {
    let mut place = newest;
    let mut upwards = None;
    loop {
        for _ in 0..STEPS {
            let undo = change(reader, place)?;
            match undo.previous {
                Some(previous) if previous.main > at => place = previous,
                _ => return Ok(undo),
            }
        }
        let upwards = upwards.get_or_insert_with(|| {
            let from = Revision::new(at.saturating_add(1), 0).to_bytes();
            reader.scan(Space::Hist, &from, None, false)
        });
        for item in upwards.take(SCANNED) {
            let (place, record) = item?;
            if Undo::key_of(&record).as_ref() == Some(key) {
                let revision = Revision::from_bytes(&place)
                    .ok_or_else(|| Error::record(Space::Hist, &place, "is no revision"))?;
                return Undo::decode(revision, &record);
            }
        }
    }
}
