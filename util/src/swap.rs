//! A replacement under construction that an interruption of this process takes away again.

use std::path::{Path, PathBuf};

use kvnode_store::datadir::replace::{Kept, Replacement};

use crate::failure::Result;
use crate::process::{self, Guarded};

pub struct Swap {
    replacement: Replacement,
    guard: Guarded,
}

impl Swap {
    /// In `parent/quarantine`. What one command replaces has one time, and is taken back together.
    pub fn begin(parent: &Path, operation: &str, now_ms: u64) -> Result<Self> {
        let replacement = Replacement::begin(parent, operation, now_ms)?;
        let guard = process::guard(replacement.home().to_path_buf());
        Ok(Self { replacement, guard })
    }

    pub fn tree(&self, name: &str) -> PathBuf {
        self.replacement.tree(name)
    }

    pub fn id(&self) -> String {
        self.replacement.id()
    }

    /// The point of no return: from here on a signal finds nothing to take away.
    pub fn commit(self, name: &str, live: &Path, note: &str) -> Result<Kept> {
        let Swap { replacement, guard } = self;
        drop(guard);
        Ok(replacement.commit(name, live, note)?)
    }
}
