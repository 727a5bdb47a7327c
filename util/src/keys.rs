//! The keys of a source in order, as of now or of a revision. Those of a `.kvs` file as of now come straight from its frames:
//! nothing is unpacked to the disk, and frames that hold none of them are not read.

use std::path::Path;

use bytes::Bytes;
use kvnode_api::{KeyRange, KeyValue};
use kvnode_store::engine::{Reader as _, Space};
use kvnode_store::schema::{Head, TAG_HEAD, head_key};

use crate::failure::{Failure, Result};
use crate::kvs::{Kvs, unreadable};
use crate::shell::Shell;
use crate::source::{Source, SourceArgs};

/// Pairs and bytes read at a time as of an older revision.
const SLICE_ROWS: usize = 1000;
const SLICE_BYTES: usize = 4 << 20;

pub enum Keys {
    File(Kvs),
    Store(Box<Source>),
}

impl Keys {
    /// `revision` 0: as of now.
    pub fn open(path: &Path, revision: i64, shell: &Shell) -> Result<Self> {
        let meta = std::fs::metadata(path).map_err(|e| {
            Failure::io("read", path, &e).hint("a source is a data directory or a .kvs file")
        })?;
        if meta.is_file() && revision == 0 {
            let kvs = Kvs::open(path)?;
            kvs.meta()?;
            return Ok(Keys::File(kvs));
        }
        let source = SourceArgs::of(path).open(shell)?;
        Ok(Keys::Store(Box::new(source)))
    }

    pub fn total(&self) -> u64 {
        match self {
            Keys::File(kvs) => kvs.meta().map_or(0, |meta| meta.key_count),
            Keys::Store(source) => source.view.stats().keys,
        }
    }

    pub fn under<'a>(
        &'a self,
        prefix: &str,
        revision: i64,
        threads: usize,
    ) -> Result<Box<dyn Iterator<Item = Result<KeyValue>> + 'a>> {
        let from = head_key(prefix.as_bytes());
        match self {
            Keys::File(kvs) => {
                let to = after(&from);
                let records = kvs.range(Space::State, from, to, threads)?;
                Ok(Box::new(records.filter_map(|record| match record {
                    Ok(record) => pair(record.key, &record.value).transpose(),
                    Err(error) => Some(Err(unreadable(&kvs.path, &error))),
                })))
            }
            Keys::Store(source) if revision == 0 => {
                let to = after(&from);
                let records = source
                    .view
                    .reader()
                    .scan(Space::State, &from, Some(&to), false);
                Ok(Box::new(records.filter_map(|item| match item {
                    Ok((key, value)) => pair(key, &value).transpose(),
                    Err(error) => Some(Err(error.into())),
                })))
            }
            Keys::Store(source) => Ok(Box::new(as_of(source, prefix, revision))),
        }
    }
}

/// The first key behind all that start with `from`, which starts with a tag.
fn after(from: &[u8]) -> Vec<u8> {
    let kept = from.iter().rposition(|byte| *byte != 0xff).unwrap_or(0);
    let mut to = from[..=kept].to_vec();
    to[kept] += 1;
    debug_assert!(to[0] <= TAG_HEAD + 1);
    to
}

/// `None` for a delete.
fn pair(stored: Bytes, record: &Bytes) -> Result<Option<KeyValue>> {
    let key = stored.slice(1.min(stored.len())..);
    let head = Head::decode(&key, record)?;
    let main = head.modified.main;
    Ok(head.live.map(|version| version.key_value(key, main)))
}

fn as_of<'a>(
    source: &'a Source,
    prefix: &str,
    revision: i64,
) -> impl Iterator<Item = Result<KeyValue>> + 'a {
    let range: KeyRange = crate::commands::kv::prefix_range(prefix);
    let (mut from, mut ended) = (None, false);
    let slices = std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let view = &source.view;
        let read = view.range_slice(
            &range,
            from.as_ref(),
            revision,
            false,
            SLICE_ROWS,
            SLICE_BYTES,
        );
        match read {
            Ok(slice) => {
                from = slice.next;
                ended = from.is_none();
                Some(Ok(slice.kvs))
            }
            Err(status) => {
                ended = true;
                Some(source.answered(Err(status)))
            }
        }
    });
    slices.flat_map(|slice| match slice {
        Ok(kvs) => kvs.into_iter().map(Ok).collect::<Vec<_>>(),
        Err(failure) => vec![Err(failure)],
    })
}
