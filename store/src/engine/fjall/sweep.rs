//! Reading all of a space once, past the block cache.
//!
//! A scan puts every block it reads into the cache. Whoever reads all there is, once, would fill it with blocks that
//! nobody asks for again, and push out those that somebody does. So a sweep reads the files of the tables from one end
//! to the other, with buffers of its own, and merges what they have.
//!
//! It reads the tables that were in use when its view was made. These hold nothing that was committed later, so the numbers of
//! commits only tell which of two records of a key is the newer.

use std::sync::Arc;

use ::fjall::{AbstractTree, Keyspace, LsmError, Slice};

use super::FLUSHED_KEY;

/// Tables in use at some moment. Their files stay as long as this is held.
pub(super) struct Tables(Vec<Run>);

/// Tables that do not overlap, in order of keys; gives their records anew with every call.
type Run = Box<dyn Fn() -> Records + Send + Sync>;
type Records = Box<dyn Iterator<Item = Result<Record, LsmError>> + Send>;

struct Record {
    key: Slice,
    commit: u64,
    /// `None` if the key is removed.
    value: Option<Slice>,
}

impl Tables {
    /// Those of `space` as of now; `None` if they are not all there is, but for the engine's own record: then fjall has
    /// brought back something from a journal and not flushed it yet.
    pub fn of(space: &Keyspace) -> Option<Self> {
        let tree = &space.tree;
        // Looked at in the order in which records move.
        let own = |key: &[u8]| key == FLUSHED_KEY;
        if !tree
            .active_memtable()
            .iter()
            .all(|item| own(&item.key.user_key))
            || tree.sealed_memtable_count() > 0
        {
            return None;
        }
        let version = tree.current_version();
        let runs = version.iter_levels().flat_map(|level| level.iter());
        let runs = runs.map(|run| {
            let run = Arc::clone(run);
            let records = move || -> Records {
                let tables = run.iter().cloned().collect::<Vec<_>>();
                // A file is opened when the one before it was read.
                Box::new(tables.into_iter().flat_map(|table| -> Records {
                    match table.scan() {
                        Ok(items) => Box::new(items.map(|item| {
                            item.map(|item| Record {
                                commit: item.key.seqno,
                                value: (!item.key.is_tombstone()).then_some(item.value),
                                key: item.key.user_key,
                            })
                        })),
                        Err(error) => Box::new(std::iter::once(Err(error))),
                    }
                }))
            };
            Box::new(records) as Run
        });
        Some(Self(runs.collect()))
    }

    /// The newest record of each key in `[from, to)` that is not removed, ascending. What is below `from` is read, too.
    pub fn sweep(&self, from: &[u8], to: Option<&[u8]>) -> Sweep {
        Sweep {
            cursors: self.0.iter().map(|run| Cursor::new(run())).collect(),
            from: from.into(),
            to: to.map(Into::into),
        }
    }
}

/// See [`Tables::sweep`].
pub(super) struct Sweep {
    cursors: Vec<Cursor>,
    from: Slice,
    to: Option<Slice>,
}

/// What is left of a run.
struct Cursor {
    records: Records,
    /// The next one; `None` at the end.
    next: Option<Record>,
    begun: bool,
}

impl Cursor {
    fn new(records: Records) -> Self {
        Self {
            records,
            next: None,
            begun: false,
        }
    }

    fn advance(&mut self) -> Result<(), LsmError> {
        self.next = self.records.next().transpose()?;
        Ok(())
    }
}

impl Sweep {
    fn step(&mut self) -> Result<Option<(Slice, Slice)>, LsmError> {
        for cursor in self.cursors.iter_mut().filter(|cursor| !cursor.begun) {
            cursor.begun = true;
            cursor.advance()?;
        }
        loop {
            let nexts = self
                .cursors
                .iter()
                .filter_map(|cursor| cursor.next.as_ref());
            // Few runs: looking at all of them is cheaper than keeping them in order.
            let first = nexts.min_by(|one, other| {
                let keys = one.key.cmp(&other.key);
                keys.then(other.commit.cmp(&one.commit))
            });
            let Some(Record { key, value, .. }) = first else {
                return Ok(None);
            };
            let (key, value) = (key.clone(), value.clone());
            if self.to.as_ref().is_some_and(|to| key >= *to) {
                return Ok(None);
            }
            for cursor in &mut self.cursors {
                // A run has a key more than once if a view needs an older record of it.
                while cursor.next.as_ref().is_some_and(|next| next.key == key) {
                    cursor.advance()?;
                }
            }
            if let Some(value) = value
                && key >= self.from
            {
                return Ok(Some((key, value)));
            }
        }
    }
}

impl Iterator for Sweep {
    type Item = Result<(Slice, Slice), LsmError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
