//! Raft as this member sees it, reads, health.

use super::Sample;
use super::kinds::{Counter, Gauge, Histogram};
use super::text::Text;

/// 0.1 ms times 2^0 to 2^14.
const READ_SECONDS: [f64; 15] = [
    0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048,
    0.4096, 0.8192, 1.6384,
];

/// The checks behind /livez and /readyz, as (endpoint, check).
pub const CHECKS: [(&str, &str); 5] = [
    ("livez", "serializable_read"),
    ("readyz", "data_corruption"),
    ("readyz", "serializable_read"),
    ("readyz", "linearizable_read"),
    ("readyz", "non_learner"),
];

pub struct Server {
    pub slow_applies: Counter,
    pub proposals_pending: Gauge,
    pub proposals_failed: Counter,
    pub leader_changes: Counter,
    pub snapshot_installs: Gauge,
    pub learner_promotions: Counter,
    pub learner_promotions_failed: Counter,
    pub slow_read_indexes: Counter,
    pub read_indexes_failed: Counter,
    pub read_index_seconds: Histogram,
    pub slow_requests: Counter,
    pub health_success: Counter,
    pub health_failures: Counter,
    /// By [`CHECKS`]: successes and failures.
    checks: [(Counter, Counter); CHECKS.len()],
    /// By [`CHECKS`]: what the last one came to.
    last_checks: [Gauge; CHECKS.len()],
    pub integrity_verified: Counter,
    pub integrity_unverified: Counter,
    pub integrity_corrupt: Counter,
}

impl Default for Server {
    fn default() -> Server {
        Server {
            slow_applies: Counter::default(),
            proposals_pending: Gauge::default(),
            proposals_failed: Counter::default(),
            leader_changes: Counter::default(),
            snapshot_installs: Gauge::default(),
            learner_promotions: Counter::default(),
            learner_promotions_failed: Counter::default(),
            slow_read_indexes: Counter::default(),
            read_indexes_failed: Counter::default(),
            read_index_seconds: Histogram::seconds(&READ_SECONDS),
            slow_requests: Counter::default(),
            health_success: Counter::default(),
            health_failures: Counter::default(),
            checks: Default::default(),
            last_checks: Default::default(),
            integrity_verified: Counter::default(),
            integrity_unverified: Counter::default(),
            integrity_corrupt: Counter::default(),
        }
    }
}

impl Server {
    /// A check behind /livez or /readyz came to this.
    pub fn checked(&self, endpoint: &str, check: &str, ok: bool) {
        let at = CHECKS.iter().position(|known| *known == (endpoint, check));
        let Some(at) = at else {
            return;
        };
        let (successes, failures) = &self.checks[at];
        if ok { successes } else { failures }.add(1);
        self.last_checks[at].set(i64::from(ok));
    }

    pub(super) fn render(&self, out: &mut Text, sample: &Sample) {
        render_raft(out, sample);
        out.counter(
            "etcd_server_leader_changes_seen_total",
            "Leader changes seen.",
            self.leader_changes.get(),
        );
        out.gauge(
            "etcd_server_proposals_pending",
            "Proposals awaiting their result.",
            self.proposals_pending.get(),
        );
        out.counter(
            "etcd_server_proposals_failed_total",
            "Proposals that got no result.",
            self.proposals_failed.get(),
        );
        out.counter(
            "etcd_server_slow_apply_total",
            "Applies slower than the warning limit.",
            self.slow_applies.get(),
        );
        out.counter(
            "kvnode_slow_requests_total",
            "Unary requests slower than --warning-unary-request-duration.",
            self.slow_requests.get(),
        );
        out.gauge(
            "etcd_server_snapshot_apply_in_progress_total",
            "1 while a state from another member takes over.",
            self.snapshot_installs.get(),
        );
        out.counter(
            "etcd_server_learner_promote_successes",
            "Learners promoted through this member.",
            self.learner_promotions.get(),
        );
        out.counter(
            "kvnode_learner_promote_failures_total",
            "Promotions refused or failed at this member.",
            self.learner_promotions_failed.get(),
        );
        out.counter(
            "etcd_server_slow_read_indexes_total",
            "Read confirmations slower than 500 ms.",
            self.slow_read_indexes.get(),
        );
        out.counter(
            "etcd_server_read_indexes_failed_total",
            "Read confirmations that failed.",
            self.read_indexes_failed.get(),
        );
        self.read_index_seconds.write(
            out,
            "kvnode_read_index_duration_seconds",
            "Confirming one batch of linearizable reads.",
        );
        self.render_health(out);
        out.labelled(
            ("kvnode_integrity_checks_total", "counter"),
            "Comparisons of all members' states made here, by what they came to.",
            "result",
            [
                ("verified", &self.integrity_verified),
                ("unverified", &self.integrity_unverified),
                ("corrupt", &self.integrity_corrupt),
            ]
            .map(|(result, count)| (result, i64::try_from(count.get()).unwrap_or(i64::MAX))),
        );
    }

    fn render_health(&self, out: &mut Text) {
        out.counter(
            "etcd_server_health_success",
            "Successful health checks.",
            self.health_success.get(),
        );
        out.counter(
            "etcd_server_health_failures",
            "Failed health checks.",
            self.health_failures.get(),
        );
        let name = "etcd_server_healthcheck";
        out.head(
            name,
            "gauge",
            "What each check last came to: 1 passed, 0 failed or never asked.",
        );
        for ((endpoint, check), last) in CHECKS.iter().zip(&self.last_checks) {
            let last = last.get();
            out.line(format_args!(
                "{name}{{type=\"{endpoint}\",name=\"{check}\"}} {last}"
            ));
        }
        let name = "etcd_server_healthchecks_total";
        out.head(name, "counter", "Checks made, by result.");
        for ((endpoint, check), (successes, failures)) in CHECKS.iter().zip(&self.checks) {
            for (status, count) in [("success", successes), ("error", failures)] {
                let count = count.get();
                out.line(format_args!(
                    "{name}{{type=\"{endpoint}\",name=\"{check}\",status=\"{status}\"}} {count}"
                ));
            }
        }
    }
}

fn render_raft(out: &mut Text, sample: &Sample) {
    let flag = i64::from;
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    for (name, help, value) in [
        (
            "etcd_server_has_leader",
            "Whether a leader is known.",
            flag(sample.has_leader),
        ),
        (
            "etcd_server_is_leader",
            "Whether this member leads.",
            flag(sample.is_leader),
        ),
        (
            "etcd_server_is_learner",
            "Whether this member is a learner.",
            flag(sample.is_learner),
        ),
        (
            "etcd_server_proposals_committed_total",
            "Commit index.",
            signed(sample.committed_index),
        ),
        (
            "etcd_server_proposals_applied_total",
            "Applied index.",
            signed(sample.applied_index),
        ),
        ("kvnode_raft_term", "Term of raft.", signed(sample.term)),
        (
            "etcd_server_quota_backend_bytes",
            "Effective quota.",
            sample.quota_bytes,
        ),
        (
            "kvnode_disk_low",
            "1 while writes are refused because the disk has less free than --min-free-bytes.",
            flag(sample.disk_low),
        ),
        (
            "kvnode_disk_free_bytes",
            "Bytes free on the disk of the data directory.",
            sample.disk_free_bytes,
        ),
        (
            "etcd_debugging_auth_revision",
            "Revision of users and roles.",
            signed(sample.auth_revision),
        ),
    ] {
        out.gauge(name, help, value);
    }
    let id = format!("{:x}", sample.member_id);
    out.info("etcd_server_id", "Member id.", "server_id", &id);
    out.info(
        "etcd_server_version",
        "API level served.",
        "server_version",
        &sample.version,
    );
    out.info(
        "etcd_cluster_version",
        "Cluster version.",
        "cluster_version",
        &sample.cluster_version,
    );
    out.info(
        "kvnode_build_info",
        "Version of this program.",
        "version",
        crate::version::KVNODE,
    );
    let name = "etcd_debugging_server_alarms";
    out.head(name, "gauge", "Alarms that are on, by member.");
    for (member, alarm) in &sample.alarms {
        out.line(format_args!(
            "{name}{{server_id=\"{member:x}\",alarm_type=\"{alarm}\"}} 1"
        ));
    }
}
