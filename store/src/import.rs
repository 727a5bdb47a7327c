//! Ordered records into a fresh engine: the way back from a snapshot.
//!
//! On disk the records go straight into tables, without journal and memtables (one write per byte,
//! little memory). The engine's directory gets its name only when all is in it and durable; an
//! import that fails or is interrupted leaves nothing that could be opened.

use std::path::Path;

use bytes::Bytes;

use crate::engine::fjall::{self, Options};
use crate::engine::memory::MemoryEngine;
use crate::engine::{Batch, EngineError, Space};
use crate::export::{Record, Totals};

/// Why an import was given up. `E` is what the source of the records fails with.
#[derive(Debug, thiserror::Error)]
pub enum ImportError<E> {
    #[error("record {number} ({space}) does not sort after the one before it")]
    Order {
        /// Counted from 0 over the whole stream.
        number: u64,
        space: Space,
    },

    #[error(transparent)]
    Engine(#[from] EngineError),

    /// The records could not be read.
    #[error("{0}")]
    Source(E),
}

/// Creates an engine at `directory`, which must not exist, from `records`: first those of
/// [`Space::State`], then those of [`Space::Hist`], keys ascending strictly in each.
pub fn into_fjall<E>(
    directory: &Path,
    options: &Options,
    records: impl Iterator<Item = Result<Record, E>>,
) -> Result<Totals, ImportError<E>> {
    let mut totals = Totals::default();
    let counted = records.inspect(|record| {
        if let Ok(record) = record {
            totals.add(record);
        }
    });
    uncounted_into_fjall(directory, options, counted)?;
    Ok(totals)
}

/// As [`into_fjall`], for whoever knows the totals. Returns the number of records.
///
/// # Errors
/// As [`into_fjall`].
pub fn uncounted_into_fjall<E>(
    directory: &Path,
    options: &Options,
    records: impl Iterator<Item = Result<Record, E>>,
) -> Result<u64, ImportError<E>> {
    let mut sections = Sections::new(records);
    fjall::build(directory, options, |filling| {
        for space in Space::ALL {
            if let Some(first) = sections.next_of(space) {
                let rest = std::iter::from_fn(|| sections.next_of(space));
                filling.ingest(space, std::iter::once(first).chain(rest))?;
            }
        }
        sections.end()
    })?;
    Ok(sections.count)
}

/// As [`into_fjall`], into memory.
pub fn into_memory<E>(
    records: impl Iterator<Item = Result<Record, E>>,
) -> Result<(MemoryEngine, Totals), ImportError<E>> {
    let mut totals = Totals::default();
    let counted = records.inspect(|record| {
        if let Ok(record) = record {
            totals.add(record);
        }
    });
    let mut sections = Sections::new(counted);
    let mut engine = MemoryEngine::new();
    for space in Space::ALL {
        while let Some(item) = sections.next_of(space) {
            let (key, value) = item?;
            engine.load(space, key, value);
        }
    }
    sections.end()?;
    engine.persist_loaded();
    drop(sections);
    Ok((engine, totals))
}

/// Checks and counts the records and hands them out by space.
struct Sections<I> {
    records: std::iter::Fuse<I>,
    /// Read, checked and counted, but of a later space than was asked for.
    waiting: Option<Record>,
    last: Option<(Space, Bytes)>,
    count: u64,
}

impl<E, I: Iterator<Item = Result<Record, E>>> Sections<I> {
    fn new(records: I) -> Self {
        Self {
            records: records.fuse(),
            waiting: None,
            last: None,
            count: 0,
        }
    }

    fn next_of(&mut self, space: Space) -> Option<Result<(Bytes, Bytes), ImportError<E>>> {
        let record = match self.waiting.take() {
            Some(record) => record,
            None => match self.read() {
                Ok(record) => record?,
                Err(error) => return Some(Err(error)),
            },
        };
        if record.space == space {
            return Some(Ok((record.key, record.value)));
        }
        self.waiting = Some(record);
        None
    }

    fn read(&mut self) -> Result<Option<Record>, ImportError<E>> {
        let Some(record) = self.records.next() else {
            return Ok(None);
        };
        let record = record.map_err(ImportError::Source)?;
        let place = (record.space, record.key.clone());
        if self.last.as_ref().is_some_and(|last| *last >= place) {
            return Err(ImportError::Order {
                number: self.count,
                space: record.space,
            });
        }
        self.last = Some(place);
        Batch::check_lengths(record.space, &record.key, &record.value)?;
        self.count += 1;
        Ok(Some(record))
    }

    /// Nothing may be left: with both spaces read, what waits is out of order.
    fn end(&mut self) -> Result<(), ImportError<E>> {
        match self.waiting.take() {
            None => Ok(()),
            Some(record) => Err(ImportError::Order {
                number: self.count.saturating_sub(1),
                space: record.space,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::engine::fjall::FjallEngine;
    use crate::engine::{Engine, Reader};
    use crate::export;

    fn small() -> Options {
        Options {
            cache_bytes: 1 << 20,
            ..Options::default()
        }
    }

    /// A few thousand records with values from empty to several pages.
    fn sample() -> Batch {
        let mut batch = Batch::new();
        for n in 0..3_000u32 {
            let size = if n % 500 == 0 {
                20_000
            } else {
                n as usize % 300
            };
            let value = vec![n as u8; size];
            batch.put(
                Space::State,
                format!("k{:08}", n * 7919 % 3_000).into_bytes(),
                value.clone(),
            );
            batch.put(Space::Hist, u64::from(n).to_be_bytes().to_vec(), value);
        }
        batch
    }

    fn export_all<V: Reader>(view: &V, hist_from: &[u8]) -> (Vec<Record>, Totals) {
        let mut records = export::records(view, hist_from);
        let list = records.by_ref().collect::<Result<Vec<_>, _>>().unwrap();
        (list, *records.totals())
    }

    fn ok(records: &[Record]) -> impl Iterator<Item = Result<Record, Infallible>> + '_ {
        records.iter().cloned().map(Ok)
    }

    #[test]
    fn an_import_of_an_export_holds_the_same_on_both_engines() {
        let dir = tempfile::tempdir().unwrap();
        let mut source = FjallEngine::create(&dir.path().join("a"), &small()).unwrap();
        source.commit(sample()).unwrap();
        let (records, totals) = export_all(&source.view(), b"");
        assert_eq!((totals.state.records, totals.hist.records), (3_000, 3_000));
        assert!(records.is_sorted_by(|a, b| (a.space, &a.key) < (b.space, &b.key)));

        let copy = dir.path().join("b");
        assert_eq!(into_fjall(&copy, &small(), ok(&records)).unwrap(), totals);
        let mut copy = FjallEngine::open(&copy, &small()).unwrap();
        assert_eq!(export_all(&copy.view(), b""), (records.clone(), totals));
        copy.commit(Batch::new()).unwrap();
        let mut overwrite = Batch::new();
        overwrite.put(Space::State, &b"k00000000"[..], &b"new"[..]);
        copy.commit(overwrite).unwrap();
        assert_eq!(
            copy.view()
                .get(Space::State, b"k00000000")
                .unwrap()
                .unwrap(),
            "new"
        );

        let (mut memory, in_memory) = into_memory(ok(&records)).unwrap();
        assert_eq!(in_memory, totals);
        assert_eq!(export_all(&memory.view(), b""), (records, totals));
    }

    #[test]
    fn history_below_the_bound_is_not_exported() {
        let mut engine = MemoryEngine::new();
        engine.commit(sample()).unwrap();
        let (records, totals) = export_all(&engine.view(), &100u64.to_be_bytes());
        assert_eq!(totals.hist.records, 2_900);
        let first = records
            .iter()
            .find(|record| record.space == Space::Hist)
            .unwrap();
        assert_eq!(first.key, 100u64.to_be_bytes()[..]);
    }

    #[test]
    fn the_hash_tells_keys_values_and_spaces_apart_but_not_orders() {
        let record = |space, key: &'static str, value: &'static str| Record {
            space,
            key: Bytes::from(key),
            value: Bytes::from(value),
        };
        let hash = |records: &[Record]| {
            let mut totals = Totals::default();
            records.iter().for_each(|record| totals.add(record));
            totals.hash()
        };
        let (a, b) = (
            record(Space::State, "a", "b"),
            record(Space::State, "c", "d"),
        );
        let base = hash(&[a.clone(), b.clone()]);
        assert_eq!(base, hash(&[b.clone(), a.clone()]));
        for other in [
            record(Space::State, "ab", ""),
            record(Space::State, "b", "a"),
            record(Space::Hist, "a", "b"),
            record(Space::State, "a", "d"),
        ] {
            assert_ne!(base, hash(&[other, b.clone()]));
        }
    }

    #[test]
    fn disorder_and_bad_records_leave_no_store_behind() {
        let dir = tempfile::tempdir().unwrap();
        let record = |space, key: &'static str| Record {
            space,
            key: Bytes::from(key),
            value: Bytes::from("v"),
        };
        let (s, h) = (Space::State, Space::Hist);
        let bad: [&[Record]; 4] = [
            &[record(s, "a"), record(s, "c"), record(s, "b")],
            &[record(s, "a"), record(s, "a")],
            &[record(s, "a"), record(h, "a"), record(s, "b")],
            &[record(s, "a"), record(h, "")],
        ];
        let path = dir.path().join("kv");
        for records in bad {
            assert!(
                into_fjall(&path, &small(), ok(records)).is_err(),
                "{records:?}"
            );
            assert!(into_memory(ok(records)).is_err(), "{records:?}");
            assert!(!path.exists());
        }
        let failing = [Ok(record(s, "a")), Err("the stream broke")].into_iter();
        let failed = into_fjall(&path, &small(), failing).unwrap_err();
        assert!(matches!(failed, ImportError::Source("the stream broke")));
        assert!(!path.exists());
        // And the next attempt is not held up by what the failed ones left.
        into_fjall(&path, &small(), ok(&[record(s, "a")])).unwrap();
        let mut opened = FjallEngine::open(&path, &small()).unwrap();
        assert_eq!(opened.view().get(s, b"a").unwrap().unwrap(), "v");
    }
}
