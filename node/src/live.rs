//! Settings that a reload changes while the node runs. Everything else stays as [`crate::config::Config`] says until the
//! next start.
//!
//! Each value is read where it is needed, at the time it is needed, without a lock on the way of a request.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::config::{AutoCompaction, Config};

/// `None` of an optional number of bytes.
const NO_LIMIT: u64 = u64::MAX;

/// The settings that change; see the module's words.
#[derive(Debug)]
pub struct Live {
    quota_bytes: AtomicU64,
    min_free_bytes: AtomicU64,
    warning_apply_nanos: AtomicU64,
    auto_compaction: Mutex<AutoCompaction>,
}

impl Live {
    /// The values of `config`.
    pub fn new(config: &Config) -> Live {
        let live = Live {
            quota_bytes: AtomicU64::default(),
            min_free_bytes: AtomicU64::default(),
            warning_apply_nanos: AtomicU64::default(),
            auto_compaction: Mutex::new(config.auto_compaction),
        };
        live.set(config);
        live
    }

    /// Takes over the values of `config`.
    pub fn set(&self, config: &Config) {
        self.quota_bytes
            .store(config.quota_bytes.unwrap_or(NO_LIMIT), Relaxed);
        self.min_free_bytes.store(config.min_free_bytes, Relaxed);
        self.warning_apply_nanos
            .store(nanos(config.warning_apply_duration), Relaxed);
        *self
            .auto_compaction
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = config.auto_compaction;
    }

    /// Bytes of live and historic data at which writes are refused; `None` is no quota.
    pub fn quota_bytes(&self) -> Option<u64> {
        Some(self.quota_bytes.load(Relaxed)).filter(|bytes| *bytes != NO_LIMIT)
    }

    /// Free bytes on the disk below which writes are refused; 0 is off.
    pub fn min_free_bytes(&self) -> u64 {
        self.min_free_bytes.load(Relaxed)
    }

    /// An applied batch that takes longer is logged.
    pub fn warning_apply_duration(&self) -> Duration {
        Duration::from_nanos(self.warning_apply_nanos.load(Relaxed))
    }

    /// History kept.
    pub fn auto_compaction(&self) -> AutoCompaction {
        *self
            .auto_compaction
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Saturated: what is longer than 584 years is never.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Names of the flags whose values [`Live`] or the log takes over. `log-level` is the log's own.
pub const RELOADABLE: &[&str] = &[
    "auto-compaction-mode",
    "auto-compaction-retention",
    "log-level",
    "min-free-bytes",
    "quota-backend-bytes",
    "warning-apply-duration",
];
