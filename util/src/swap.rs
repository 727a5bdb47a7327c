//! A replacement under construction that an interruption of this process takes away again.

use std::path::{Path, PathBuf};

use kvnode_store::datadir::SPENT_FILE;
use kvnode_store::datadir::replace::{Kept, Replacement};

use crate::failure::{Failure, Result};
use crate::process::{self, Guarded};

pub struct Swap {
    replacement: Replacement,
    guards: Vec<Guarded>,
}

impl Swap {
    /// In `parent/quarantine`. What one command replaces has one time, and is taken back together.
    pub fn begin(parent: &Path, operation: &str, now_ms: u64) -> Result<Self> {
        let (replacement, guards) = process::make_guarded(|| {
            let replacement = Replacement::begin(parent, operation, now_ms)?;
            let home = replacement.home().to_path_buf();
            Ok::<_, Failure>((replacement, vec![home]))
        })?;
        Ok(Self {
            replacement,
            guards,
        })
    }

    pub fn tree(&self, name: &str) -> PathBuf {
        self.replacement.tree(name)
    }

    /// Says durably, before the exchange, that the data directory's identity is used up by it.
    pub fn mark_spent(&mut self, data_dir: &Path, why: &str) -> Result<()> {
        // Taken away in this order.
        self.guards
            .insert(0, process::guard_first(data_dir.join(SPENT_FILE)));
        Ok(self.replacement.mark_spent(data_dir, why)?)
    }

    /// The point of no return: from here on a signal finds nothing to take away.
    pub fn commit(self, name: &str, live: &Path, note: &str) -> Result<Kept> {
        let Swap {
            replacement,
            guards,
        } = self;
        process::release(guards);
        Ok(replacement.commit(name, live, note)?)
    }
}
