//! The first look at a snapshot that is to be restored: whether every byte of it is what was written, whether the records are a
//! whole state, and what they become. Nothing is made.

use std::sync::Arc;

use kvnode_store::audit::{Audit, Hashes};
use kvnode_store::export::Record;
use kvnode_store::remake::{Remake, Turned};
use kvnode_store::schema::Meta;

use crate::failure::{Failure, Result};
use crate::kvs::{Checked, Kvs, as_records};
use crate::shell::Shell;

/// What the input is, and what it will be.
pub struct Examined {
    pub checked: Checked,
    pub before: Audit,
    pub after: Audit,
    /// Records of the new store that no old one turns into.
    pub added: Vec<Record>,
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
