//! What every thread of the process may look at: identity, configuration, numbers. Nothing here is locked for longer than a look.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kvnode_api::ResponseHeader;
use kvnode_api::status::Status;

use crate::config::{Config, Effective};
use crate::departure::Departure;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::ranges::InFlight;
use crate::reload::{Hooks, Outcome, Reload};
use crate::reserve::Reserve;
use crate::resync::Resync;
use crate::tls::Tls;

/// The etcd API level this server answers as; clients parse it.
pub const API_VERSION: &str = crate::version::ETCD;
/// The cluster version that goes with it.
pub const CLUSTER_VERSION: &str = "3.6.0";
/// As the storage version (`x.y.z`) is reported.
pub const STORAGE_VERSION: &str = "3.6.0";
/// As Downgrade reports the cluster version.
pub const CLUSTER_VERSION_SHORT: &str = "3.6";

/// Committed entries that may wait for apply before new proposals are refused; etcd's number.
const APPLY_LAG_MAX: u64 = 5000;

/// A time that has not come.
pub const NEVER_MS: u64 = u64::MAX;

pub struct Shared {
    pub config: Config,
    pub cluster_id: u64,
    pub member_id: u64,
    /// Random per start: results of an earlier life's proposals find no waiter.
    pub incarnation: u64,
    pub wal_dir: PathBuf,
    pub tls: Tls,
    pub data_dir: PathBuf,
    pub metrics: Metrics,
    /// The ballast on the disk.
    pub reserve: Reserve,
    /// Range answers under way.
    pub ranges: InFlight,
    pub vitals: Vitals,
    pub departure: Departure,
    /// How far a re-sync of this member is.
    pub resync: Resync,
    /// What a reload changes.
    pub live: Live,
    /// Who takes part in reloads.
    pub reload_hooks: Hooks,
    reloader: OnceLock<Reloader>,
    started: Instant,
    started_unix: Duration,
}

struct Reloader {
    reload: Reload,
    after: Box<dyn Fn(&Config) + Send + Sync>,
}

/// Raft's state as last published by its core, and a few totals other threads ask for.
#[derive(Default)]
pub struct Vitals {
    pub term: AtomicU64,
    /// 0: none known.
    pub leader: AtomicU64,
    pub is_leader: AtomicBool,
    /// When the present or last leader became known here, in `now_ms`.
    pub leader_since_ms: AtomicU64,
    /// Since when the leader is connected, on a leader since when a quorum is; [`NEVER_MS`]: it is not.
    pub leader_connected_ms: AtomicU64,
    /// Proposals of this member are with the leader: the replica core wants to hear which were applied.
    pub forwarding: AtomicBool,
    /// Nobody can take leadership over before this process stops.
    pub handed_over: AtomicBool,
    pub committed: AtomicU64,
    pub applied: AtomicU64,
    /// True once the node answers clients.
    pub serving: AtomicBool,
    /// This member's record is in the member table.
    pub announced: AtomicBool,
    pub is_learner: AtomicBool,
    /// Less is free on the disk than --min-free-bytes: writes are refused.
    pub disk_low: AtomicBool,
    /// Free on the data directory's disk when last looked at.
    pub disk_free_bytes: AtomicU64,
    /// Physically removed history ends here.
    pub compacted: AtomicI64,
    pub stopping: AtomicBool,
    /// Bytes the store takes on disk, sampled by the maintenance thread.
    pub db_bytes: AtomicI64,
    pub cache_bytes: AtomicU64,
}

impl Vitals {
    /// Whether so many committed entries wait for apply that no more are taken.
    pub fn is_apply_behind(&self) -> bool {
        let committed = self.committed.load(Ordering::Relaxed);
        committed.saturating_sub(self.applied.load(Ordering::Relaxed)) > APPLY_LAG_MAX
    }

    fn timeout_status(&self, start_ms: u64, election_ms: u64) -> Status {
        let elected_ms = self.leader_since_ms.load(Ordering::Relaxed);
        let lost_ms = elected_ms.saturating_sub(2 * election_ms);
        let connected_ms = self.leader_connected_ms.load(Ordering::Relaxed);
        if lost_ms < start_ms && start_ms < elected_ms {
            Status::timed_out_leader_failure()
        } else if self.leader.load(Ordering::Relaxed) != 0 && connected_ms > start_ms {
            Status::timed_out_connection_lost()
        } else {
            Status::timed_out()
        }
    }
}

impl Shared {
    pub fn new(
        config: Config,
        cluster_id: u64,
        member_id: u64,
        incarnation: u64,
        data_dir: PathBuf,
        wal_dir: PathBuf,
        tls: Tls,
    ) -> Self {
        let reserve = Reserve::new(&data_dir, config.disk_reserve_bytes);
        Shared {
            live: Live::new(&config),
            reload_hooks: Hooks::default(),
            reloader: OnceLock::new(),
            metrics: Metrics::new(config.metrics_extensive, &config.metrics_key_prefixes),
            config,
            cluster_id,
            member_id,
            incarnation,
            wal_dir,
            tls,
            data_dir,
            ranges: InFlight::default(),
            reserve,
            vitals: Vitals::default(),
            departure: Departure::default(),
            resync: Resync::default(),
            started: Instant::now(),
            started_unix: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        }
    }

    /// Milliseconds of the monotonic clock since start.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The same clock at another moment.
    pub fn ms_at(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Wall clock, milliseconds since the epoch.
    pub fn unix_ms(&self) -> u64 {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    pub fn started_unix(&self) -> Duration {
        self.started_unix
    }

    /// How long a request may wait for its result: 5 s plus two election timeouts, as etcd's.
    pub fn request_timeout_ms(&self) -> u64 {
        5000 + 2 * u64::try_from(self.config.election_timeout.as_millis()).unwrap_or(u64::MAX / 4)
    }

    /// What a client hears whose request began at `start_ms` and got no result in time: as far as can be told, why.
    pub fn timeout_status(&self, start_ms: u64) -> Status {
        let election_ms = u64::try_from(self.config.election_timeout.as_millis()).unwrap_or(0);
        self.vitals.timeout_status(start_ms, election_ms)
    }

    /// To be called once: what [`Shared::reload`] does, and `after` for what takes more than [`Live`].
    pub fn set_reload(&self, reload: Reload, after: impl Fn(&Config) + Send + Sync + 'static) {
        let after = Box::new(after);
        let _ = self.reloader.set(Reloader { reload, after });
    }

    /// Reads the settings again and takes over what can be. Reads files: not for an executor.
    pub fn reload(&self) -> Outcome {
        match self.reloader.get() {
            None => Outcome::default(),
            Some(Reloader { reload, after }) => {
                reload.run(&self.live, &self.reload_hooks, |config| after(config))
            }
        }
    }

    /// Every setting in force, with its source.
    pub fn settings(&self) -> Vec<Effective> {
        let reloader = self.reloader.get();
        reloader.map_or_else(Vec::new, |reloader| reloader.reload.effective())
    }

    /// Lines the log lost because they came faster than they could be written.
    pub fn dropped_log_lines(&self) -> u64 {
        let reloader = self.reloader.get();
        reloader.map_or(0, |reloader| reloader.reload.dropped_log_lines())
    }

    /// The header of an answer at `revision`.
    pub fn header(&self, revision: i64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision,
            raft_term: self.vitals.term.load(Ordering::Relaxed),
        }
    }

    pub fn has_leader(&self) -> bool {
        self.vitals.leader.load(Ordering::Relaxed) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proposals_are_taken_until_apply_is_too_far_behind() {
        let vitals = Vitals::default();
        for (committed, applied, behind) in [
            (0, 0, false),
            (5000, 0, false),
            (5001, 0, true),
            (5001, 1, false),
            // Seen in the wrong order.
            (5, 7, false),
        ] {
            vitals.committed.store(committed, Ordering::Relaxed);
            vitals.applied.store(applied, Ordering::Relaxed);
            assert_eq!(vitals.is_apply_behind(), behind, "{committed} {applied}");
        }
    }

    #[test]
    fn a_request_without_a_result_is_told_why_as_far_as_is_known() {
        const ELECTION_MS: u64 = 1000;
        let vitals = Vitals::default();
        let told = |start_ms| {
            let status = vitals.timeout_status(start_ms, ELECTION_MS);
            status.message.into_owned()
        };
        let plain = "etcdserver: request timed out";
        assert_eq!(told(5000), plain);
        // A leader came while it waited: it had gone to the one before.
        vitals.leader.store(7, Ordering::Relaxed);
        vitals.leader_since_ms.store(6000, Ordering::Relaxed);
        let failed = format!("{plain}, possibly due to previous leader failure");
        assert_eq!(told(5000), failed);
        assert_eq!(told(4001), failed);
        assert_eq!(told(4000), plain);
        assert_eq!(told(6000), plain);
        // The leader is cut off, or was when it began.
        for since_ms in [9000, NEVER_MS] {
            vitals
                .leader_connected_ms
                .store(since_ms, Ordering::Relaxed);
            let lost = format!("{plain}, possibly due to connection lost");
            assert_eq!(told(8000), lost);
        }
        vitals.leader.store(0, Ordering::Relaxed);
        assert_eq!(told(8000), plain);
    }
}
