//! Keys, watches, leases, caches.

use super::Sample;
use super::kinds::{Counter, Gauge, Histogram, Worst};
use super::text::Text;

/// 10 ms times 2^0 to 2^14, as etcd's.
const HASH_SECONDS: [f64; 15] = [
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84,
];
/// Seconds, 2^0 to 2^23, as etcd's.
const TTL_SECONDS: [f64; 24] = [
    1.0,
    2.0,
    4.0,
    8.0,
    16.0,
    32.0,
    64.0,
    128.0,
    256.0,
    512.0,
    1024.0,
    2048.0,
    4096.0,
    8192.0,
    16384.0,
    32768.0,
    65536.0,
    131_072.0,
    262_144.0,
    524_288.0,
    1_048_576.0,
    2_097_152.0,
    4_194_304.0,
    8_388_608.0,
];

pub struct StoreCounts {
    pub puts: Counter,
    pub put_bytes: Counter,
    pub deletes: Counter,
    pub ranges: Counter,
    pub txns: Counter,
    pub hash_seconds: Histogram,
    pub hash_rev_seconds: Histogram,
    /// Unix seconds.
    pub last_compaction: Gauge,
    pub watch_streams: Gauge,
    pub watchers: Gauge,
    pub slow_watchers: Gauge,
    pub watch_backlog_bytes: Gauge,
    pub watch_lag_revisions: Worst,
    pub events: Counter,
    pub leases_granted: Counter,
    pub leases_renewed: Counter,
    pub leases_revoked: Counter,
    pub leases_expired: Counter,
    pub lease_ttl_seconds: Histogram,
    pub cache_hits: Counter,
    pub cache_misses: Counter,
    pub range_bytes_inflight: Gauge,
}

impl Default for StoreCounts {
    fn default() -> StoreCounts {
        StoreCounts {
            puts: Counter::default(),
            put_bytes: Counter::default(),
            deletes: Counter::default(),
            ranges: Counter::default(),
            txns: Counter::default(),
            hash_seconds: Histogram::seconds(&HASH_SECONDS),
            hash_rev_seconds: Histogram::seconds(&HASH_SECONDS),
            last_compaction: Gauge::default(),
            watch_streams: Gauge::default(),
            watchers: Gauge::default(),
            slow_watchers: Gauge::default(),
            watch_backlog_bytes: Gauge::default(),
            watch_lag_revisions: Worst::default(),
            events: Counter::default(),
            leases_granted: Counter::default(),
            leases_renewed: Counter::default(),
            leases_revoked: Counter::default(),
            leases_expired: Counter::default(),
            lease_ttl_seconds: Histogram::ones(&TTL_SECONDS),
            cache_hits: Counter::default(),
            cache_misses: Counter::default(),
            range_bytes_inflight: Gauge::default(),
        }
    }
}

impl StoreCounts {
    pub(super) fn render(&self, out: &mut Text, sample: &Sample) {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for (name, help, value) in [
            (
                "etcd_mvcc_db_total_size_in_bytes",
                "Bytes the store takes on disk.",
                sample.db_bytes,
            ),
            (
                "etcd_mvcc_db_total_size_in_use_in_bytes",
                "Live bytes, history included.",
                sample.db_in_use_bytes,
            ),
            (
                "etcd_debugging_mvcc_db_total_size_in_bytes",
                "Bytes the store takes on disk.",
                sample.db_bytes,
            ),
            (
                "etcd_debugging_mvcc_keys_total",
                "Live keys.",
                sample.keys_count,
            ),
            (
                "etcd_debugging_mvcc_current_revision",
                "Current revision.",
                sample.revision,
            ),
            (
                "etcd_debugging_mvcc_compact_revision",
                "Compact revision.",
                sample.compact_revision,
            ),
            (
                "etcd_debugging_mvcc_db_compaction_last",
                "When history was last compacted, seconds since the epoch; 0: not since the start.",
                self.last_compaction.get(),
            ),
            (
                "etcd_debugging_mvcc_total_put_size_in_bytes",
                "Bytes of keys and values put since the start.",
                signed(self.put_bytes.get()),
            ),
            (
                "etcd_debugging_mvcc_watch_stream_total",
                "Open watch streams.",
                self.watch_streams.get(),
            ),
            (
                "etcd_debugging_mvcc_watcher_total",
                "Watchers.",
                self.watchers.get(),
            ),
            (
                "etcd_debugging_mvcc_slow_watcher_total",
                "Watchers being caught up.",
                self.slow_watchers.get(),
            ),
            (
                "kvnode_watch_lag_revisions",
                "Revisions that the watcher furthest behind has yet to see.",
                self.watch_lag_revisions.get(),
            ),
            (
                "kvnode_watch_backlog_bytes",
                "Bytes of events that clients have not taken yet.",
                self.watch_backlog_bytes.get(),
            ),
            (
                "kvnode_cache_bytes",
                "Bytes in the value caches.",
                signed(sample.cache_bytes),
            ),
            (
                "kvnode_range_bytes_inflight",
                "Bytes of range answers under way.",
                self.range_bytes_inflight.get(),
            ),
        ] {
            out.gauge(name, help, value);
        }
        for (name, help, count) in [
            ("etcd_mvcc_put_total", "Keys put.", &self.puts),
            ("etcd_mvcc_delete_total", "Keys deleted.", &self.deletes),
            ("etcd_mvcc_range_total", "Ranges answered.", &self.ranges),
            ("etcd_mvcc_txn_total", "Transactions answered.", &self.txns),
            (
                "etcd_debugging_mvcc_events_total",
                "Events sent.",
                &self.events,
            ),
            (
                "etcd_debugging_lease_granted_total",
                "Leases granted.",
                &self.leases_granted,
            ),
            (
                "etcd_debugging_lease_renewed_total",
                "Leases renewed.",
                &self.leases_renewed,
            ),
            (
                "etcd_debugging_lease_revoked_total",
                "Leases revoked.",
                &self.leases_revoked,
            ),
            (
                "etcd_debugging_server_lease_expired_total",
                "Leases expired.",
                &self.leases_expired,
            ),
            (
                "kvnode_cache_hits_total",
                "Gets answered from the value cache.",
                &self.cache_hits,
            ),
            (
                "kvnode_cache_misses_total",
                "Gets that went to a reader.",
                &self.cache_misses,
            ),
        ] {
            out.counter(name, help, count.get());
        }
        self.hash_seconds.write(
            out,
            "etcd_mvcc_hash_duration_seconds",
            "Hashing the whole state.",
        );
        self.hash_rev_seconds.write(
            out,
            "etcd_mvcc_hash_rev_duration_seconds",
            "Hashing keys at a revision.",
        );
        self.lease_ttl_seconds.write(
            out,
            "etcd_debugging_lease_ttl_total",
            "Times to live of granted leases, in seconds.",
        );
    }
}
