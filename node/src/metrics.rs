//! The process's numbers, under the names etcd's dashboards and alert rules use, and under `kvnode_` what etcd has no name
//! for. One file per subsystem holds its numbers and writes them; `docs/monitoring.md` explains them.
//!
//! What a request touches is counted per executor without locked instructions (`calls.rs`); everything else is one relaxed
//! atomic. State that is somebody's anyway is sampled at the scrape ([`Sample`]).

mod calls;
mod disk;
mod kinds;
mod limits;
mod peers;
mod prefixes;
mod process;
mod queues;
mod server;
mod store;
mod text;

pub use calls::{Calls, CoreCalls, MethodCounts};
pub use disk::Disk;
pub use kinds::Counter;
pub use limits::{Limit, Limits};
pub use prefixes::Prefixes;
pub use queues::{Queue, Queues};
pub use server::Server;
pub use store::StoreCounts;

use std::sync::{Arc, OnceLock};

use kvnode_api::service::Method;
use text::Text;

/// All of a process's numbers.
pub struct Metrics {
    pub calls: Calls,
    pub server: Server,
    pub disk: Disk,
    pub store: StoreCounts,
    pub queues: Queues,
    pub limits: Limits,
    pub prefixes: Prefixes,
    pub peers_disconnected: Counter,
    /// Kept by the transport, once that has begun.
    pub peer_traffic: OnceLock<Arc<crate::peers::Traffic>>,
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
    pub term: u64,
    pub committed_index: u64,
    pub applied_index: u64,
    pub quota_bytes: i64,
    pub disk_low: bool,
    pub disk_free_bytes: i64,
    pub auth_revision: u64,
    /// Member and name of each alarm that is on.
    pub alarms: Vec<(u64, &'static str)>,
    pub db_bytes: i64,
    pub db_in_use_bytes: i64,
    pub keys_count: i64,
    pub revision: i64,
    pub compact_revision: i64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub cpu_seconds: f64,
    pub open_fds: u64,
    pub fd_limit: u64,
    pub started_unix_seconds: f64,
    pub cache_bytes: u64,
    pub dropped_log_lines: u64,
}

impl Metrics {
    /// `extensive` times every RPC; sizes of these `prefixes` are told.
    pub fn new(extensive: bool, prefixes: &[String]) -> Self {
        Metrics {
            calls: Calls::new(extensive),
            server: Server::default(),
            disk: Disk::default(),
            store: StoreCounts::default(),
            queues: Queues::default(),
            limits: Limits::default(),
            prefixes: Prefixes::new(prefixes),
            peers_disconnected: Counter::default(),
            peer_traffic: OnceLock::new(),
        }
    }

    /// This executor's counts of `method`.
    pub fn method(&self, method: Method) -> &'static MethodCounts {
        self.calls.here().method(method)
    }

    /// Prometheus text, version 0.0.4.
    pub fn render(&self, sample: &Sample) -> String {
        let mut out = Text::with_capacity(128 << 10);
        self.server.render(&mut out, sample);
        self.disk.render(&mut out);
        self.store.render(&mut out, sample);
        let backlog = sample.committed_index.saturating_sub(sample.applied_index);
        self.queues.render(&mut out, backlog);
        self.limits.render(&mut out);
        self.prefixes.render(&mut out);
        out.counter(
            "kvnode_peer_connections_lost_total",
            "Members whose last connection with this one broke.",
            self.peers_disconnected.get(),
        );
        if let Some(traffic) = self.peer_traffic.get() {
            peers::render(&mut out, sample.member_id, &traffic.snapshot());
        }
        self.calls.render(&mut out);
        process::render(&mut out, sample);
        out.into_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvnode_api::status::Code;
    use std::collections::HashSet;

    #[test]
    fn every_sample_line_belongs_to_the_family_declared_last() {
        let metrics = Metrics::new(true, &["/a\"/".to_owned()]);
        metrics.method(Method::ALL[0]).handled(Code::Unavailable);
        let sample = Sample {
            alarms: vec![(7, "NOSPACE")],
            ..Sample::default()
        };
        metrics.prefixes.all()[0].set(2, 30);
        let text = metrics.render(&sample);
        assert!(text.contains("kvnode_prefix_bytes{prefix=\"/a\\\"/\"} 30\n"));
        let mut families = HashSet::new();
        let mut last = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                last = rest.split(' ').next().unwrap_or_default().to_string();
                assert!(families.insert(last.clone()), "{last} twice");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap_or_default();
                let family = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|suffix| name.strip_suffix(suffix).filter(|f| *f == last))
                    .unwrap_or(name);
                assert_eq!(family, last, "{line}");
            }
        }
        assert!(text.contains("grpc_code=\"Unavailable\""));
    }
}
