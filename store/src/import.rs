//! Ordered records into a fresh engine: the way back from a snapshot.
//!
//! On disk the records go straight into tables, without journal and memtables (one write per byte,
//! little memory). The engine's directory gets its name only when all is in it and durable; an
//! import that fails or is interrupted leaves nothing that could be opened.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::engine::fjall::{self, Filling, Options};
use crate::engine::memory::MemoryEngine;
use crate::engine::{Batch, EngineError, Reader, Space};
use crate::export::{Record, Totals};
use crate::view::View;

/// Why an import was given up. `E` is what the source of the records fails with.
#[derive(Debug, thiserror::Error)]
pub enum ImportError<E> {
    #[error("record {number} ({space}) does not sort after the one before it")]
    Order {
        /// Counted from 0 over the whole stream, or the piece.
        number: u64,
        space: Space,
    },

    #[error("two pieces of {space} overlap")]
    Overlap { space: Space },

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
            filling.ingest(space, |put| {
                while let Some(item) = sections.next_of(space) {
                    let (key, value) = item?;
                    put(&key, &value)?;
                }
                Ok::<_, ImportError<E>>(())
            })?;
        }
        sections.end()
    })?;
    Ok(sections.count)
}

/// Creates an engine at `directory`, which must not exist, with everything that `view` exports. `progress` hears the bytes of each
/// record. Returns the totals of what was read: every record is hashed once on its way.
///
/// # Errors
/// As [`into_fjall`].
pub fn view_into_fjall<V: Reader>(
    view: &View<V>,
    directory: &Path,
    options: &Options,
    mut progress: impl FnMut(u64),
) -> Result<Totals, ImportError<Infallible>> {
    let mut totals = Totals::default();
    pieces_into_fjall(directory, options, |pieces| {
        for space in Space::ALL {
            pieces.write(space, |piece| {
                let mut put = Ok(());
                let read = view.visit_export(space, |key, value| {
                    put = piece.put(key, value);
                    progress((key.len() + value.len()) as u64);
                    match put {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(_) => ControlFlow::Break(()),
                    }
                })?;
                totals.merge(&read);
                put
            })?;
        }
        Ok(())
    })?;
    Ok(totals)
}

/// Creates an engine at `directory`, which must not exist, from pieces that `fill` writes in any order, also several at a time.
/// Returns the number of records.
///
/// # Errors
/// Those of `fill`; [`ImportError::Overlap`] if two pieces of a space share keys; the engine's.
pub fn pieces_into_fjall<E>(
    directory: &Path,
    options: &Options,
    fill: impl FnOnce(&Pieces<'_>) -> Result<(), ImportError<E>>,
) -> Result<u64, ImportError<E>> {
    let mut count = 0;
    fjall::build(directory, options, |filling| {
        let pieces = Pieces {
            filling,
            written: Mutex::default(),
        };
        fill(&pieces)?;
        let mut written = pieces.written.into_inner();
        let written = written.as_mut().unwrap_or_else(|e| e.get_mut());
        written.sort_unstable_by(|a, b| (a.space, &a.first).cmp(&(b.space, &b.first)));
        for pair in written.windows(2) {
            if pair[0].space == pair[1].space && pair[0].last >= pair[1].first {
                let space = pair[0].space;
                return Err(ImportError::Overlap { space });
            }
        }
        count = written.iter().map(|piece| piece.records).sum();
        Ok(())
    })?;
    Ok(count)
}

/// See [`pieces_into_fjall`].
pub struct Pieces<'a> {
    filling: &'a Filling,
    written: Mutex<Vec<Written>>,
}

/// A piece that is in tables.
struct Written {
    space: Space,
    first: Vec<u8>,
    last: Vec<u8>,
    records: u64,
}

impl Pieces<'_> {
    /// Writes the records of `space` that `fill` puts into the piece, keys ascending strictly; none is no piece.
    ///
    /// # Errors
    /// Those of `fill` and of [`Piece::put`]; the engine's.
    pub fn write<E>(
        &self,
        space: Space,
        fill: impl FnOnce(&mut Piece<'_>) -> Result<(), ImportError<E>>,
    ) -> Result<(), ImportError<E>> {
        let mut written = None;
        self.filling.ingest(space, |put| {
            let mut piece = Piece {
                space,
                put,
                first: Vec::new(),
                last: Vec::new(),
                records: 0,
            };
            fill(&mut piece)?;
            written = (piece.records > 0).then_some(Written {
                space,
                first: piece.first,
                last: piece.last,
                records: piece.records,
            });
            Ok::<_, ImportError<E>>(())
        })?;
        let mut all = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(written);
        Ok(())
    }
}

/// A piece that is being written.
pub struct Piece<'a> {
    space: Space,
    put: &'a mut fjall::Put<'a>,
    first: Vec<u8>,
    last: Vec<u8>,
    records: u64,
}

impl Piece<'_> {
    /// Adds a record.
    ///
    /// # Errors
    /// [`ImportError::Order`], with the number within the piece; lengths no engine holds; the engine's.
    pub fn put<E>(&mut self, key: &[u8], value: &[u8]) -> Result<(), ImportError<E>> {
        if self.records == 0 {
            self.first.extend_from_slice(key);
        } else if key <= &self.last[..] {
            return Err(ImportError::Order {
                number: self.records,
                space: self.space,
            });
        }
        Batch::check_lengths(self.space, key, value)?;
        (self.put)(key, value)?;
        self.last.clear();
        self.last.extend_from_slice(key);
        self.records += 1;
        Ok(())
    }
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
    use kvnode_api::{Message as _, PutRequest};

    use super::*;
    use crate::command::Header;
    use crate::engine::Engine;
    use crate::engine::fjall::FjallEngine;
    use crate::export;
    use crate::{Command, Committed, Config, Kind, Store};

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

    /// A piece that puts these keys.
    fn put(
        pieces: &Pieces<'_>,
        space: Space,
        keys: &[&str],
    ) -> Result<(), ImportError<&'static str>> {
        pieces.write(space, |piece| {
            keys.iter()
                .try_for_each(|key| piece.put(key.as_bytes(), b"v"))
        })
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "whoever fills a store from pieces has threads, this crate has none"
    )]
    fn pieces_written_side_by_side_in_any_order_are_one_store() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kv");
        let keys: Vec<String> = (0..4_000).map(|n| format!("k{n:05}")).collect();
        let count = pieces_into_fjall(&path, &small(), |pieces| {
            std::thread::scope(|scope| {
                let writers: Vec<_> = keys
                    .chunks(500)
                    .rev()
                    .map(|keys| {
                        scope.spawn(move || {
                            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                            put(pieces, Space::State, &keys)
                        })
                    })
                    .collect();
                writers
                    .into_iter()
                    .try_for_each(|writer| writer.join().unwrap())
            })?;
            put(pieces, Space::State, &[])?;
            put(pieces, Space::Hist, &["h"])
        });
        assert_eq!(count.unwrap(), 4_001);
        let mut engine = FjallEngine::open(&path, &small()).unwrap();
        let (records, totals) = export_all(&engine.view(), b"");
        assert_eq!((totals.state.records, totals.hist.records), (4_000, 1));
        assert!(records.is_sorted_by(|a, b| (a.space, &a.key) < (b.space, &b.key)));
    }

    #[test]
    fn pieces_that_overlap_or_are_out_of_order_leave_no_store_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kv");
        let (s, h) = (Space::State, Space::Hist);
        let bad: [&[(Space, &[&str])]; 4] = [
            &[(s, &["a", "c"]), (s, &["b", "d"])],
            &[(s, &["a", "b"]), (s, &["b"])],
            &[(h, &["c"]), (h, &["a", "z"])],
            &[(s, &["b", "a"])],
        ];
        for pieces in bad {
            let made = pieces_into_fjall(&path, &small(), |to| {
                pieces
                    .iter()
                    .try_for_each(|(space, keys)| put(to, *space, keys))
            });
            assert!(
                matches!(
                    made,
                    Err(ImportError::Overlap { .. } | ImportError::Order { .. })
                ),
                "{pieces:?}: {made:?}"
            );
            assert!(!path.exists());
        }
        // Spaces are strangers to each other.
        pieces_into_fjall(&path, &small(), |to| {
            put(to, s, &["a", "c"])?;
            put(to, h, &["b"])
        })
        .unwrap();
    }

    #[test]
    fn a_copy_of_a_view_holds_the_same_and_hashes_each_record_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kv");
        let mut store = Store::open(MemoryEngine::new(), Config::default()).unwrap();
        let entries: Vec<Committed> = (1..=60u64)
            .map(|index| {
                let put = PutRequest {
                    key: format!("k{}", index % 7).into(),
                    value: vec![index as u8; 9].into(),
                    ..PutRequest::default()
                };
                Committed {
                    index,
                    term: 1,
                    command: Command::encode(Kind::Put, &Header::default(), &put.encode_to_vec()),
                }
            })
            .collect();
        store.apply(&entries).unwrap();
        let view = store.view();
        let before = export::HASHED.get();
        let mut bytes = 0;
        let totals = view_into_fjall(&view, &path, &small(), |more| bytes += more).unwrap();
        assert_eq!(export::HASHED.get() - before, totals.records());
        assert!(totals.state.records >= 7 && totals.hist.records == 60);
        let spaces = [totals.state, totals.hist];
        let counted: u64 = spaces.iter().map(|s| s.key_bytes + s.value_bytes).sum();
        assert_eq!(bytes, counted);
        let mut copy = FjallEngine::open(&path, &small()).unwrap();
        let all = view.export().collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(export_all(&copy.view(), b""), (all, totals));
    }
}
