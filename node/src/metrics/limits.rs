//! What was refused, by the limit that refused it.

use super::kinds::Counter;
use super::text::Text;

/// Every limit that turns work away; `docs/configuration.md` says where each is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `--max-request-bytes`.
    RequestBytes,
    /// `--max-txn-ops`.
    TxnOps,
    /// `--quota-backend-bytes`, and the NOSPACE alarm.
    Quota,
    /// `--min-free-bytes`.
    FreeBytes,
    /// Committed entries that wait for apply.
    ApplyBacklog,
    /// Requests of one executor that wait.
    Waiting,
    /// Requests that have arrived in part.
    PartialBytes,
    /// `--max-range-bytes`.
    RangeBytes,
    /// `--max-inflight-range-bytes`.
    RangesInFlight,
    /// Pings that came faster than `--grpc-keepalive-min-time`.
    Pings,
    /// Peers that did not answer `--grpc-keepalive-interval` pings in time.
    Keepalive,
    /// First bytes, preface or head of a connection that did not come in time.
    SlowStart,
    /// Broken HTTP/2: floods of resets, headers without measure, frames that cannot be.
    Protocol,
    /// Watchers of one stream, of one connection, or of an executor.
    Watchers,
    /// Calls that stay open, with their heads.
    OpenCalls,
    /// Requests whose headers are too long.
    HeaderList,
    /// Messages and bodies that had not arrived in time.
    SlowBody,
    /// TLS handshakes that were not done in time.
    SlowHandshake,
    /// Connections that found no descriptor, and times at which all places were taken.
    Connections,
    /// Watch calls of one connection, or of an executor.
    WatchStreams,
    /// LeaseKeepAlive calls of the same.
    KeepaliveStreams,
    /// Other streaming calls of the same.
    OtherStreams,
    /// Calls that wait in Lock and Campaign.
    LockWaits,
    /// Proposals that wait for a leader or in raft.
    Proposals,
    /// JSON that has arrived in part.
    JsonBytes,
    /// One object of a stream in JSON, or one message of a WebSocket.
    JsonObject,
    /// Log-ins of a user who has failed too often.
    Logins,
    /// `--max-concurrent-streams`: calls of one connection.
    ConcurrentStreams,
}

const ALL: [(Limit, &str); 28] = [
    (Limit::RequestBytes, "request_bytes"),
    (Limit::TxnOps, "txn_ops"),
    (Limit::Quota, "quota"),
    (Limit::FreeBytes, "free_bytes"),
    (Limit::ApplyBacklog, "apply_backlog"),
    (Limit::Waiting, "waiting"),
    (Limit::PartialBytes, "partial_bytes"),
    (Limit::RangeBytes, "range_bytes"),
    (Limit::RangesInFlight, "ranges_in_flight"),
    (Limit::Pings, "pings"),
    (Limit::Keepalive, "keepalive"),
    (Limit::SlowStart, "slow_start"),
    (Limit::Protocol, "protocol"),
    (Limit::Watchers, "watchers"),
    (Limit::OpenCalls, "open_calls"),
    (Limit::HeaderList, "header_list"),
    (Limit::SlowBody, "slow_body"),
    (Limit::SlowHandshake, "slow_handshake"),
    (Limit::Connections, "connections"),
    (Limit::WatchStreams, "watch_streams"),
    (Limit::KeepaliveStreams, "keepalive_streams"),
    (Limit::OtherStreams, "other_streams"),
    (Limit::LockWaits, "lock_waits"),
    (Limit::Proposals, "proposals"),
    (Limit::JsonBytes, "json_bytes"),
    (Limit::JsonObject, "json_object"),
    (Limit::Logins, "logins"),
    (Limit::ConcurrentStreams, "concurrent_streams"),
];

/// Refusals; off the way of what is admitted.
#[derive(Default)]
pub struct Limits([Counter; ALL.len()]);

impl Limits {
    pub fn refused(&self, limit: Limit) {
        self.0[limit as usize].add(1);
    }

    pub(super) fn render(&self, out: &mut Text) {
        let samples = ALL.iter().map(|(limit, name)| {
            let count = self.0[*limit as usize].get();
            (*name, i64::try_from(count).unwrap_or(i64::MAX))
        });
        out.labelled(
            ("kvnode_rejected_total", "counter"),
            "Requests and connections turned away, by the limit that did.",
            "limit",
            samples,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_stands_at_its_own_place() {
        for (at, (limit, _)) in ALL.iter().enumerate() {
            assert_eq!(*limit as usize, at);
        }
    }
}
