//! What the kernel says of this process, and the sample that a metrics scrape takes.

use std::sync::atomic::Ordering;

use rustix::process::{Resource, getrlimit};

use crate::cores::client::ClientCore;
use crate::metrics::Sample;
use crate::shared::{API_VERSION, CLUSTER_VERSION_SHORT};

/// Everything a scrape samples.
pub fn sample(core: &ClientCore) -> Sample {
    let vitals = &core.shared.vitals;
    let (revision, compact_revision, keys, in_use) = core.with_view(|view| {
        (
            view.revision(),
            view.compact_revision(),
            view.stats().keys,
            view.live_bytes(),
        )
    });
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let db_in_use_bytes = signed(in_use);
    Sample {
        member_id: core.shared.member_id,
        version: API_VERSION.into(),
        cluster_version: CLUSTER_VERSION_SHORT.into(),
        has_leader: core.shared.has_leader(),
        is_leader: vitals.is_leader.load(Ordering::Relaxed),
        is_learner: vitals.is_learner.load(Ordering::Relaxed),
        committed_index: vitals.committed.load(Ordering::Relaxed),
        applied_index: vitals.applied.load(Ordering::Relaxed),
        quota_bytes: core.shared.live.quota_bytes().map_or(0, signed),
        db_bytes: vitals.db_bytes.load(Ordering::Relaxed).max(db_in_use_bytes),
        db_in_use_bytes,
        keys_count: signed(keys),
        revision,
        compact_revision,
        resident_bytes: resident_bytes().unwrap_or(0),
        cpu_seconds: cpu_seconds().unwrap_or(0.0),
        open_fds: std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
        fd_limit: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        started_unix_seconds: core.shared.started_unix().as_secs_f64(),
        cache_bytes: vitals.cache_bytes.load(Ordering::Relaxed),
    }
}

/// Second field of `statm`, in pages.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Fields 14 and 15 of `stat`, in clock ticks; the name in field 2 may hold blanks, so count from its closing bracket.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_tells_memory_and_time() {
        assert!(super::resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert!(super::cpu_seconds().is_some());
    }
}
