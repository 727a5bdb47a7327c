//! Counters, gauges and histograms, and their Prometheus text form, under the names etcd's dashboards and alert rules use.
//!
//! Every value is one relaxed atomic: a scrape may see two counters a moment apart, never a torn one. The hot path
//! touches three of them per call.

mod peers;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kvnode_api::service::{Kind, Method};
use kvnode_api::status::Code;

/// A monotonically rising count.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A value that goes both ways.
#[derive(Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn add(&self, delta: i64) {
        self.0.fetch_add(delta, Relaxed);
    }

    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Bucket bounds of the disk histograms: 1 ms times 2^0 to 2^13, as etcd's.
const DISK_BUCKETS: usize = 14;
/// Sub-millisecond bounds in front of them, because on a good disk everything else would sit in the first bucket.
const FINE_SECONDS: [f64; 5] = [0.000_031_25, 0.000_062_5, 0.000_125, 0.000_25, 0.000_5];

/// Durations in seconds.
#[derive(Default)]
pub struct Histogram {
    buckets: [AtomicU64; FINE_SECONDS.len() + DISK_BUCKETS],
    count: AtomicU64,
    sum_nanos: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Relaxed);
        self.sum_nanos.fetch_add(nanos, Relaxed);
        let seconds = duration.as_secs_f64();
        if let Some(bucket) = (0..self.buckets.len()).find(|&at| seconds <= Self::bound(at)) {
            self.buckets[bucket].fetch_add(1, Relaxed);
        }
    }

    fn bound(at: usize) -> f64 {
        match FINE_SECONDS.get(at) {
            Some(&seconds) => seconds,
            None => 0.001 * f64::from(1u32 << (at - FINE_SECONDS.len())),
        }
    }

    fn write(&self, out: &mut Text, name: &str, help: &str) {
        out.head(name, "histogram", help);
        let mut below = 0;
        for (at, bucket) in self.buckets.iter().enumerate() {
            below += bucket.load(Relaxed);
            out.line(format_args!(
                "{name}_bucket{{le=\"{}\"}} {below}",
                Self::bound(at)
            ));
        }
        let count = self.count.load(Relaxed).max(below);
        out.line(format_args!("{name}_bucket{{le=\"+Inf\"}} {count}"));
        out.line(format_args!(
            "{name}_sum {}",
            self.sum_nanos.load(Relaxed) as f64 / 1e9
        ));
        out.line(format_args!("{name}_count {count}"));
    }
}

const CODES: usize = 17;

/// What one RPC method has done.
#[derive(Default)]
pub struct MethodCounts {
    pub started: Counter,
    handled: [Counter; CODES],
    pub received: Counter,
    pub sent: Counter,
}

impl MethodCounts {
    pub fn handled(&self, code: Code) {
        self.handled[code as usize].add(1);
    }
}

/// All of a process's numbers.
#[derive(Default)]
pub struct Metrics {
    methods: Vec<(Method, MethodCounts)>,
    pub grpc_received_bytes: Counter,
    pub grpc_sent_bytes: Counter,

    pub wal_fsync_seconds: Histogram,
    pub wal_write_bytes: Counter,
    pub backend_commit_seconds: Histogram,
    pub apply_seconds: Histogram,
    pub slow_applies: Counter,

    pub proposals_pending: Gauge,
    pub proposals_failed: Counter,
    pub leader_changes: Counter,
    pub peers_disconnected: Counter,
    /// Kept by the transport, once that has begun.
    pub peer_traffic: OnceLock<Arc<crate::peers::Traffic>>,
    pub integrity_verified: Counter,
    pub integrity_unverified: Counter,
    pub integrity_corrupt: Counter,
    pub slow_read_indexes: Counter,
    pub health_success: Counter,
    pub health_failures: Counter,

    pub puts: Counter,
    pub deletes: Counter,
    pub ranges: Counter,
    pub txns: Counter,
    pub watch_streams: Gauge,
    pub watchers: Gauge,
    pub slow_watchers: Gauge,
    pub events: Counter,
    pub leases_granted: Counter,
    pub leases_renewed: Counter,
    pub leases_revoked: Counter,
    pub leases_expired: Counter,
    pub connections: Gauge,
    pub cache_hits: Counter,
    pub cache_misses: Counter,
}

/// State that is sampled when asked for.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    pub member_id: u64,
    pub version: String,
    pub cluster_version: String,
    pub has_leader: bool,
    pub is_leader: bool,
    pub is_learner: bool,
    pub committed_index: u64,
    pub applied_index: u64,
    pub quota_bytes: i64,
    pub db_bytes: i64,
    pub db_in_use_bytes: i64,
    pub keys_count: i64,
    pub revision: i64,
    pub compact_revision: i64,
    pub resident_bytes: u64,
    pub cpu_seconds: f64,
    pub open_fds: u64,
    pub fd_limit: u64,
    pub started_unix_seconds: f64,
    pub cache_bytes: u64,
}

impl Metrics {
    pub fn new() -> Self {
        let methods = Method::ALL
            .iter()
            .map(|&method| (method, MethodCounts::default()))
            .collect();
        Metrics {
            methods,
            ..Metrics::default()
        }
    }

    /// The counts of `method`.
    pub fn method(&self, method: Method) -> &MethodCounts {
        &self.methods[method as usize].1
    }

    /// Prometheus text, version 0.0.4.
    pub fn render(&self, sample: &Sample) -> String {
        let mut out = Text(String::with_capacity(32 << 10));
        self.render_server(&mut out, sample);
        self.render_store(&mut out, sample);
        self.render_grpc(&mut out);
        if let Some(traffic) = self.peer_traffic.get() {
            peers::render(&mut out, sample.member_id, &traffic.snapshot());
        }
        render_process(&mut out, sample);
        out.0
    }

    fn render_server(&self, out: &mut Text, sample: &Sample) {
        let flag = i64::from;
        out.gauge(
            "etcd_server_has_leader",
            "Whether a leader is known.",
            flag(sample.has_leader),
        );
        out.gauge(
            "etcd_server_is_leader",
            "Whether this member leads.",
            flag(sample.is_leader),
        );
        out.gauge(
            "etcd_server_is_learner",
            "Whether this member is a learner.",
            flag(sample.is_learner),
        );
        out.counter(
            "etcd_server_leader_changes_seen_total",
            "Leader changes seen.",
            self.leader_changes.get(),
        );
        out.gauge(
            "etcd_server_proposals_committed_total",
            "Commit index.",
            sample.committed_index as i64,
        );
        out.gauge(
            "etcd_server_proposals_applied_total",
            "Applied index.",
            sample.applied_index as i64,
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
        out.gauge(
            "etcd_server_quota_backend_bytes",
            "Effective quota.",
            sample.quota_bytes,
        );
        out.counter(
            "etcd_server_slow_apply_total",
            "Applies slower than the warning limit.",
            self.slow_applies.get(),
        );
        out.counter(
            "etcd_server_slow_read_indexes_total",
            "Read confirmations slower than 500 ms.",
            self.slow_read_indexes.get(),
        );
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
        out.counter(
            "kvnode_peer_connections_lost_total",
            "Members whose last connection with this one broke.",
            self.peers_disconnected.get(),
        );
        out.head(
            "kvnode_integrity_checks_total",
            "counter",
            "Comparisons of all members' states made here, by what they came to.",
        );
        for (result, count) in [
            ("verified", &self.integrity_verified),
            ("unverified", &self.integrity_unverified),
            ("corrupt", &self.integrity_corrupt),
        ] {
            let count = count.get();
            out.line(format_args!(
                "kvnode_integrity_checks_total{{result=\"{result}\"}} {count}"
            ));
        }
        out.head("etcd_server_id", "gauge", "Member id.");
        out.line(format_args!(
            "etcd_server_id{{server_id=\"{:x}\"}} 1",
            sample.member_id
        ));
        out.head("etcd_server_version", "gauge", "API level served.");
        out.line(format_args!(
            "etcd_server_version{{server_version=\"{}\"}} 1",
            sample.version
        ));
        out.head("etcd_cluster_version", "gauge", "Cluster version.");
        out.line(format_args!(
            "etcd_cluster_version{{cluster_version=\"{}\"}} 1",
            sample.cluster_version
        ));
        out.head("kvnode_build_info", "gauge", "Version of this program.");
        out.line(format_args!(
            "kvnode_build_info{{version=\"{}\"}} 1",
            env!("CARGO_PKG_VERSION")
        ));
        self.wal_fsync_seconds.write(
            out,
            "etcd_disk_wal_fsync_duration_seconds",
            "WAL fdatasync.",
        );
        out.counter(
            "etcd_disk_wal_write_bytes_total",
            "Bytes written to the WAL.",
            self.wal_write_bytes.get(),
        );
        self.backend_commit_seconds.write(
            out,
            "etcd_disk_backend_commit_duration_seconds",
            "Making the store's applied state durable.",
        );
        self.apply_seconds.write(
            out,
            "kvnode_apply_batch_duration_seconds",
            "Applying one batch of entries.",
        );
    }

    fn render_store(&self, out: &mut Text, sample: &Sample) {
        out.gauge(
            "etcd_mvcc_db_total_size_in_bytes",
            "Bytes the store takes on disk.",
            sample.db_bytes,
        );
        out.gauge(
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "Live bytes, history included.",
            sample.db_in_use_bytes,
        );
        out.gauge(
            "etcd_debugging_mvcc_db_total_size_in_bytes",
            "Bytes the store takes on disk.",
            sample.db_bytes,
        );
        out.counter("etcd_mvcc_put_total", "Puts applied.", self.puts.get());
        out.counter(
            "etcd_mvcc_delete_total",
            "Deletes applied.",
            self.deletes.get(),
        );
        out.counter(
            "etcd_mvcc_range_total",
            "Ranges answered.",
            self.ranges.get(),
        );
        out.counter(
            "etcd_mvcc_txn_total",
            "Transactions answered.",
            self.txns.get(),
        );
        out.gauge(
            "etcd_debugging_mvcc_keys_total",
            "Live keys.",
            sample.keys_count,
        );
        out.gauge(
            "etcd_debugging_mvcc_current_revision",
            "Current revision.",
            sample.revision,
        );
        out.gauge(
            "etcd_debugging_mvcc_compact_revision",
            "Compact revision.",
            sample.compact_revision,
        );
        out.gauge(
            "etcd_debugging_mvcc_watch_stream_total",
            "Open watch streams.",
            self.watch_streams.get(),
        );
        out.gauge(
            "etcd_debugging_mvcc_watcher_total",
            "Watchers.",
            self.watchers.get(),
        );
        out.gauge(
            "etcd_debugging_mvcc_slow_watcher_total",
            "Watchers being caught up.",
            self.slow_watchers.get(),
        );
        out.counter(
            "etcd_debugging_mvcc_events_total",
            "Events sent.",
            self.events.get(),
        );
        out.counter(
            "etcd_debugging_lease_granted_total",
            "Leases granted.",
            self.leases_granted.get(),
        );
        out.counter(
            "etcd_debugging_lease_renewed_total",
            "Leases renewed.",
            self.leases_renewed.get(),
        );
        out.counter(
            "etcd_debugging_lease_revoked_total",
            "Leases revoked.",
            self.leases_revoked.get(),
        );
        out.counter(
            "etcd_debugging_server_lease_expired_total",
            "Leases expired.",
            self.leases_expired.get(),
        );
        out.counter(
            "kvnode_cache_hits_total",
            "Gets answered from the value cache.",
            self.cache_hits.get(),
        );
        out.counter(
            "kvnode_cache_misses_total",
            "Gets that went to a reader.",
            self.cache_misses.get(),
        );
        out.gauge(
            "kvnode_cache_bytes",
            "Bytes in the value caches.",
            sample.cache_bytes as i64,
        );
    }

    fn render_grpc(&self, out: &mut Text) {
        out.counter(
            "etcd_network_client_grpc_received_bytes_total",
            "Message bytes from clients.",
            self.grpc_received_bytes.get(),
        );
        out.counter(
            "etcd_network_client_grpc_sent_bytes_total",
            "Message bytes to clients.",
            self.grpc_sent_bytes.get(),
        );
        out.gauge(
            "kvnode_client_connections",
            "Open client connections.",
            self.connections.get(),
        );
        type Pick = fn(&MethodCounts) -> u64;
        let families: [(&str, &str, Pick); 3] = [
            ("grpc_server_started_total", "RPCs started.", |counts| {
                counts.started.get()
            }),
            (
                "grpc_server_msg_received_total",
                "Messages received.",
                |counts| counts.received.get(),
            ),
            ("grpc_server_msg_sent_total", "Messages sent.", |counts| {
                counts.sent.get()
            }),
        ];
        for (name, help, pick) in families {
            out.head(name, "counter", help);
            for (method, counts) in &self.methods {
                out.line(format_args!(
                    "{name}{{{}}} {}",
                    labels(*method),
                    pick(counts)
                ));
            }
        }
        out.head(
            "grpc_server_handled_total",
            "counter",
            "RPCs ended, by code.",
        );
        for (method, counts) in &self.methods {
            for (code, counter) in counts.handled.iter().enumerate() {
                let count = counter.get();
                // OK exists from the start, so that a rate over it has a first sample.
                if count > 0 || code == 0 {
                    let code = CODE_NAMES[code];
                    let labels = labels(*method);
                    out.line(format_args!(
                        "grpc_server_handled_total{{grpc_code=\"{code}\",{labels}}} {count}"
                    ));
                }
            }
        }
    }
}

const CODE_NAMES: [&str; CODES] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

fn labels(method: Method) -> String {
    let kind = match method.kind() {
        Kind::Unary => "unary",
        Kind::ServerStream => "server_stream",
        Kind::BidiStream => "bidi_stream",
    };
    let (service, name) = (method.service(), method.name());
    format!("grpc_method=\"{name}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"")
}

fn render_process(out: &mut Text, sample: &Sample) {
    out.gauge(
        "os_fd_used",
        "Open file descriptors.",
        sample.open_fds as i64,
    );
    out.gauge(
        "os_fd_limit",
        "File descriptor limit.",
        sample.fd_limit as i64,
    );
    out.gauge(
        "process_open_fds",
        "Open file descriptors.",
        sample.open_fds as i64,
    );
    out.gauge(
        "process_max_fds",
        "File descriptor limit.",
        sample.fd_limit as i64,
    );
    out.gauge(
        "process_resident_memory_bytes",
        "Resident memory.",
        sample.resident_bytes as i64,
    );
    out.head(
        "process_cpu_seconds_total",
        "counter",
        "User and system time.",
    );
    out.line(format_args!(
        "process_cpu_seconds_total {}",
        sample.cpu_seconds
    ));
    out.head(
        "process_start_time_seconds",
        "gauge",
        "Start, seconds since the epoch.",
    );
    out.line(format_args!(
        "process_start_time_seconds {}",
        sample.started_unix_seconds
    ));
}

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn gauge(&mut self, name: &str, help: &str, value: i64) {
        self.head(name, "gauge", help);
        self.line(format_args!("{name} {value}"));
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.line(format_args!("{name} {value}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(line);
        self.0.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_buckets_are_cumulative_and_end_in_the_count() {
        let metrics = Metrics::new();
        for micros in [20, 40, 900, 30_000, 60_000_000] {
            metrics
                .wal_fsync_seconds
                .observe(Duration::from_micros(micros));
        }
        let text = metrics.render(&Sample::default());
        let value = |line: &str| {
            text.lines()
                .find_map(|l| l.strip_prefix(line)?.trim().parse::<f64>().ok())
                .unwrap_or_else(|| panic!("{line} missing"))
        };
        let name = "etcd_disk_wal_fsync_duration_seconds";
        assert_eq!(value(&format!("{name}_bucket{{le=\"0.00003125\"}}")), 1.0);
        assert_eq!(value(&format!("{name}_bucket{{le=\"0.001\"}}")), 3.0);
        assert_eq!(value(&format!("{name}_bucket{{le=\"8.192\"}}")), 4.0);
        assert_eq!(value(&format!("{name}_bucket{{le=\"+Inf\"}}")), 5.0);
        assert_eq!(value(&format!("{name}_count")), 5.0);
        assert!((value(&format!("{name}_sum")) - 60.03096).abs() < 1e-6);
    }

    #[test]
    fn every_sample_line_belongs_to_a_declared_family() {
        let metrics = Metrics::new();
        metrics.method(Method::ALL[0]).handled(Code::Unavailable);
        let text = metrics.render(&Sample::default());
        let mut families = std::collections::HashSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                families.insert(rest.split(' ').next().unwrap_or_default().to_string());
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap_or_default();
                let family = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|suffix| name.strip_suffix(suffix).filter(|f| families.contains(*f)))
                    .unwrap_or(name);
                assert!(families.contains(family), "{line} has no # TYPE line");
            }
        }
        assert!(text.contains("grpc_code=\"Unavailable\""));
    }
}
