//! The log, the engine, and snapshots of the state.

use std::time::{SystemTime, UNIX_EPOCH};

use super::kinds::{Counter, Gauge, Histogram};
use super::text::Text;

/// etcd's bounds of its disk histograms, 1 ms times 2^0 to 2^13, behind five finer ones: on a good disk everything else
/// would sit in the first bucket.
pub(super) const DISK_SECONDS: [f64; 19] = [
    0.000_031_25,
    0.000_062_5,
    0.000_125,
    0.000_25,
    0.000_5,
    0.001,
    0.002,
    0.004,
    0.008,
    0.016,
    0.032,
    0.064,
    0.128,
    0.256,
    0.512,
    1.024,
    2.048,
    4.096,
    8.192,
];
/// 0.1 s times 2^0 to 2^12, as etcd's.
const DEFRAG_SECONDS: [f64; 13] = [
    0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6,
];
/// 10 ms times 2^0 to 2^16, as etcd's.
const SNAPSHOT_SECONDS: [f64; 17] = [
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84,
    327.68, 655.36,
];
const BATCH_ENTRIES: [f64; 11] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0,
];

pub struct Disk {
    pub wal_fsync_seconds: Histogram,
    pub wal_batch_entries: Histogram,
    pub wal_write_bytes: Counter,
    pub backend_commit_seconds: Histogram,
    pub backend_snapshot_seconds: Histogram,
    /// Unix seconds at which somebody last got all of a snapshot; 0 if nobody has since the start.
    pub last_snapshot_unix: Gauge,
    pub defrag_seconds: Histogram,
    pub defrags_inflight: Gauge,
    pub apply_seconds: Histogram,
    pub apply_batch_entries: Histogram,
    pub slow_disk_warnings: Counter,
}

impl Default for Disk {
    fn default() -> Disk {
        Disk {
            wal_fsync_seconds: Histogram::seconds(&DISK_SECONDS),
            wal_batch_entries: Histogram::ones(&BATCH_ENTRIES),
            wal_write_bytes: Counter::default(),
            backend_commit_seconds: Histogram::seconds(&DISK_SECONDS),
            backend_snapshot_seconds: Histogram::seconds(&SNAPSHOT_SECONDS),
            last_snapshot_unix: Gauge::default(),
            defrag_seconds: Histogram::seconds(&DEFRAG_SECONDS),
            defrags_inflight: Gauge::default(),
            apply_seconds: Histogram::seconds(&DISK_SECONDS),
            apply_batch_entries: Histogram::ones(&BATCH_ENTRIES),
            slow_disk_warnings: Counter::default(),
        }
    }
}

impl Disk {
    /// A client got the whole state just now.
    pub fn snapshot_sent(&self) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = since.map_or(0, |since| since.as_secs());
        self.last_snapshot_unix
            .set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    pub(super) fn render(&self, out: &mut Text) {
        self.wal_fsync_seconds.write(
            out,
            "etcd_disk_wal_fsync_duration_seconds",
            "Writing one batch to the log and syncing it.",
        );
        self.wal_batch_entries.write(
            out,
            "kvnode_wal_batch_entries",
            "Entries in one batch of the log.",
        );
        out.gauge(
            "etcd_disk_wal_write_bytes_total",
            "Bytes written to the log.",
            i64::try_from(self.wal_write_bytes.get()).unwrap_or(i64::MAX),
        );
        self.backend_commit_seconds.write(
            out,
            "etcd_disk_backend_commit_duration_seconds",
            "Making the store's applied state durable.",
        );
        self.backend_snapshot_seconds.write(
            out,
            "etcd_disk_backend_snapshot_duration_seconds",
            "Packing the state for somebody.",
        );
        out.gauge(
            "kvnode_last_snapshot_sent_timestamp_seconds",
            "When a client last got the whole state, in Unix time; 0 if none has since the start.",
            self.last_snapshot_unix.get(),
        );
        self.defrag_seconds.write(
            out,
            "etcd_disk_backend_defrag_duration_seconds",
            "Rewriting the store's tables.",
        );
        out.gauge(
            "etcd_disk_defrag_inflight",
            "Defragmentations under way.",
            self.defrags_inflight.get(),
        );
        self.apply_seconds.write(
            out,
            "kvnode_apply_batch_duration_seconds",
            "Applying one batch of entries.",
        );
        self.apply_batch_entries.write(
            out,
            "kvnode_apply_batch_entries",
            "Entries in one applied batch.",
        );
        out.counter(
            "kvnode_slow_disk_warnings_total",
            "Times the log's disk was slower than --slow-disk-warn.",
            self.slow_disk_warnings.get(),
        );
    }
}
