//! The rows: every flag, and every other name that leads to one.

use super::Kind::{
    Bool, Bytes, Choice, Duration, List, Millis, Mode, OptionalText, Path, Quota, Secret, Text,
    Urls, Whole,
};
use super::Verdict::{Accepted, Gone, Ignored, Planned, Used};
use super::{Flag, Group, Kind, Verdict};

/// Blocks of the configuration file whose keys differ from flags: (block, key, flag).
///
/// A block may nest: `discovery-config` holds `client`.
pub const BLOCKS: &[(&str, &str, &str)] = &[
    ("client-transport-security", "cert-file", "cert-file"),
    ("client-transport-security", "key-file", "key-file"),
    (
        "client-transport-security",
        "client-cert-file",
        "client-cert-file",
    ),
    (
        "client-transport-security",
        "client-key-file",
        "client-key-file",
    ),
    (
        "client-transport-security",
        "client-cert-auth",
        "client-cert-auth",
    ),
    (
        "client-transport-security",
        "trusted-ca-file",
        "trusted-ca-file",
    ),
    ("client-transport-security", "crl-file", "client-crl-file"),
    ("client-transport-security", "auto-tls", "auto-tls"),
    (
        "client-transport-security",
        "allowed-cn",
        "client-cert-allowed-cn",
    ),
    (
        "client-transport-security",
        "allowed-hostname",
        "client-cert-allowed-hostname",
    ),
    (
        "client-transport-security",
        "skip-client-san-verification",
        "client-skip-client-san-verification",
    ),
    ("peer-transport-security", "cert-file", "peer-cert-file"),
    ("peer-transport-security", "key-file", "peer-key-file"),
    (
        "peer-transport-security",
        "client-cert-file",
        "peer-client-cert-file",
    ),
    (
        "peer-transport-security",
        "client-key-file",
        "peer-client-key-file",
    ),
    (
        "peer-transport-security",
        "client-cert-auth",
        "peer-client-cert-auth",
    ),
    (
        "peer-transport-security",
        "trusted-ca-file",
        "peer-trusted-ca-file",
    ),
    ("peer-transport-security", "crl-file", "peer-crl-file"),
    ("peer-transport-security", "auto-tls", "peer-auto-tls"),
    (
        "peer-transport-security",
        "allowed-cn",
        "peer-cert-allowed-cn",
    ),
    (
        "peer-transport-security",
        "allowed-hostname",
        "peer-cert-allowed-hostname",
    ),
    (
        "peer-transport-security",
        "skip-client-san-verification",
        "peer-skip-client-san-verification",
    ),
    ("discovery-config", "token", "discovery-token"),
    (
        "discovery-config.client",
        "endpoints",
        "discovery-endpoints",
    ),
    (
        "discovery-config.client",
        "dial-timeout",
        "discovery-dial-timeout",
    ),
    (
        "discovery-config.client",
        "request-timeout",
        "discovery-request-timeout",
    ),
    (
        "discovery-config.client",
        "dial-keep-alive-time",
        "discovery-keepalive-time",
    ),
    (
        "discovery-config.client",
        "dial-keep-alive-timeout",
        "discovery-keepalive-timeout",
    ),
];

/// Names that lost their `experimental-` prefix (first) and what they are called now (second).
pub(super) const OLD_NAMES: &[(&str, &str)] = &[
    ("corrupt-check-time", "corrupt-check-time"),
    ("compact-hash-check-time", "compact-hash-check-time"),
    ("compaction-batch-limit", "compaction-batch-limit"),
    ("compaction-sleep-interval", "compaction-sleep-interval"),
    (
        "watch-progress-notify-interval",
        "watch-progress-notify-interval",
    ),
    ("warning-apply-duration", "warning-apply-duration"),
    (
        "warning-unary-request-duration",
        "warning-unary-request-duration",
    ),
    ("memory-mlock", "memory-mlock"),
    (
        "bootstrap-defrag-threshold-megabytes",
        "bootstrap-defrag-threshold-megabytes",
    ),
    ("downgrade-check-time", "downgrade-check-time"),
    ("max-learners", "max-learners"),
    ("snapshot-catchup-entries", "snapshot-catchup-entries"),
    ("snapshot-catch-up-entries", "snapshot-catchup-entries"),
    (
        "peer-skip-client-san-verification",
        "peer-skip-client-san-verification",
    ),
    ("enable-distributed-tracing", "enable-distributed-tracing"),
    ("distributed-tracing-address", "distributed-tracing-address"),
    (
        "distributed-tracing-service-name",
        "distributed-tracing-service-name",
    ),
    (
        "distributed-tracing-instance-id",
        "distributed-tracing-instance-id",
    ),
    (
        "distributed-tracing-sampling-rate",
        "distributed-tracing-sampling-rate",
    ),
];

/// `experimental-` flags (first) that became feature gates (second).
pub(super) const OLD_GATES: &[(&str, &str)] = &[
    ("initial-corrupt-check", "InitialCorruptCheck"),
    ("compact-hash-check-enabled", "CompactHashCheck"),
    ("enable-lease-checkpoint", "LeaseCheckpoint"),
    ("enable-lease-checkpoint-persist", "LeaseCheckpointPersist"),
    ("stop-grpc-service-on-defrag", "StopGRPCServiceOnDefrag"),
    (
        "txn-mode-write-with-shared-buffer",
        "TxnModeWriteWithSharedBuffer",
    ),
];

/// The feature gates of etcd 3.7. Only the check at start can be switched: the others' checks and lease checkpoints are on.
pub const GATES: &[&str] = &[
    "AllAlpha",
    "AllBeta",
    "StopGRPCServiceOnDefrag",
    "TxnModeWriteWithSharedBuffer",
    "InitialCorruptCheck",
    "CompactHashCheck",
    "LeaseCheckpoint",
    "LeaseCheckpointPersist",
    "SetMemberLocalAddr",
    "FastLeaseKeepAlive",
    "PriorityRequest",
];

/// The default of `--listen-client-urls` and `--advertise-client-urls`.
pub const DEFAULT_CLIENT_URL: &str = "http://localhost:2379";
/// The default of `--log-rotation-config-json`, as etcd's.
pub const ROTATION_DEFAULT: &str =
    r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#;
/// The default of `--name`.
pub const DEFAULT_NAME: &str = "default";
/// The default of `--listen-peer-urls` and `--initial-advertise-peer-urls`.
pub const DEFAULT_PEER_URL: &str = "http://localhost:2380";

const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    verdict: Verdict,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        kind,
        default,
        verdict,
        help,
    }
}

const ANY: Kind = Whole(0, u64::MAX);
const NO_HASTE: Verdict = Accepted("the first election waits as long as any other");
const ONE_MEMBER: Verdict = Accepted("this version does without");
const OWN_TIMEOUTS: Verdict = Accepted("connections between members have time-outs of their own");
const NO_BOLT: Verdict = Accepted("it tunes etcd's storage file, which this server does not have");
const NO_FILES: Verdict =
    Accepted("the state is one store, and the log is kept exactly as long as recovery needs it");
const NO_CALLS: Verdict = Accepted("this server opens no connections to client urls");
const NO_SAN: Verdict = Accepted("a client's address is never compared with its certificate");
const NO_TRACING: Verdict = Accepted("it has a meaning only with --enable-distributed-tracing");
const NO_DISCOVERY: Verdict = Accepted("each request to the registry has a connection of its own");
const NEEDS_WORK: Verdict = Planned("remove it to start without this feature");
const LEFTOVER: Verdict = Accepted("it is a leftover of older etcd versions");
const NO_PROXY: Verdict = Gone("the v2 proxy is gone; run a gRPC or TCP proxy beside the server");
const NO_V2: Verdict = Gone("the v2 API is gone; use the v3 API");
const NO_V2_DISCOVERY: Verdict =
    Gone("v2 discovery is gone; list the members in --initial-cluster");

/// All rows, in the order of the manual.
#[rustfmt::skip]
pub const GROUPS: &[Group] = &[
    Group { title: "Modes", flags: &[
        flag("help", Mode, "false", Used, "Print this manual and exit. Also -h."),
        flag("version", Mode, "false", Used, "Print the version in four lines and exit."),
        flag("check-config", Mode, "false", Used,
            "Validate all settings, print each effective value with its source, and exit. The output is itself a valid configuration file."),
    ]},
    Group { title: "Configuration file", flags: &[
        flag("config-file", Path, "", Used,
            "YAML or JSON file; every flag is a key of the same name. Flags and environment override it."),
        flag("config-file-only", Bool, "false", Used,
            "Take settings from the file alone, as etcd does: all other flags and variables are ignored."),
        flag("config-allow-unknown", Bool, "false", Used,
            "Warn about unknown keys in the file instead of refusing to start."),
    ]},
    Group { title: "Member", flags: &[
        flag("name", Text, DEFAULT_NAME, Used, "Name of this member, looked up in --initial-cluster."),
        flag("data-dir", Path, "", Used,
            "Directory of all state. Default: <name>.etcd in the working directory."),
        flag("wal-dir", Path, "", Used,
            "Directory of the write-ahead log, for a disk of its own. Default: inside the data directory."),
        flag("listen-client-urls", Urls, DEFAULT_CLIENT_URL, Used,
            "Where clients are served, gRPC and HTTP on one port: http, https, unix or unixs. Needs --advertise-client-urls once set."),
        flag("advertise-client-urls", Urls, DEFAULT_CLIENT_URL, Used,
            "Client urls published in the member list; others must be able to reach them."),
        flag("listen-metrics-urls", Urls, "", Used,
            "More listeners, for /metrics, /health, /livez and /readyz only."),
        flag("listen-peer-urls", Urls, DEFAULT_PEER_URL, Used,
            "Where other members connect."),
        flag("listen-client-http-urls", Urls, "", Used,
            "Move HTTP away from the client urls, which then serve gRPC only."),
        flag("snapshot-count", ANY, "10000", Used,
            "Applied entries after which old ones leave memory; 0 means the default."),
        flag("snapshot-catchup-entries", ANY, "5000", Used,
            "Applied entries that stay in memory for members that are behind; who needs older ones gets a snapshot. 0 means the default."),
        flag("max-snapshots", Whole(0, u32::MAX as u64), "5", NO_FILES, "Internal snapshots kept; 0 keeps all."),
        flag("max-wals", Whole(0, u32::MAX as u64), "5", NO_FILES,
            "Log segments kept once they are no longer needed; 0 keeps all."),
        flag("heartbeat-interval", Millis, "100", Used, "Time between heartbeats: milliseconds, or a duration such as 100ms."),
        flag("election-timeout", Millis, "1000", Used,
            "Silence after which a follower stands for election: milliseconds or a duration, at least 5 heartbeats and at most 50s."),
        flag("initial-election-tick-advance", Bool, "true", NO_HASTE, "Hasten the first election after a start."),
        flag("quota-backend-bytes", Quota, "0", Used,
            "Space alarm threshold over live and historic data; 0 means 2GiB, negative none."),
        flag("max-txn-ops", Whole(1, u32::MAX as u64), "128", Used, "Most operations in one branch of a transaction."),
        flag("max-request-bytes", Whole(1, u32::MAX as u64), "1572864", Used, "Largest client request in bytes."),
        flag("max-concurrent-streams", Whole(1, u32::MAX as u64), "4294967295", Used, "Most open streams per client connection."),
        flag("grpc-keepalive-min-time", Duration, "5s", Used, "Clients pinging more often than this are sent away."),
        flag("grpc-keepalive-interval", Duration, "2h", Used, "Idle time after which the server pings a client; 0 turns it off."),
        flag("grpc-keepalive-timeout", Duration, "20s", Used, "Wait for the answer to such a ping before closing."),
        flag("socket-reuse-port", Bool, "false", Used, "Let several processes share a listening port; the kernel deals connections among them."),
        flag("socket-reuse-address", Bool, "false", Accepted("it is always on"), "Bind although an old connection lingers."),
        flag("raft-read-timeout", Duration, "5s", OWN_TIMEOUTS, "Read time-out between members."),
        flag("raft-write-timeout", Duration, "5s", OWN_TIMEOUTS, "Write time-out between members."),
        flag("memory-mlock", Bool, "false", NEEDS_WORK, "Lock the process in memory."),
        flag("max-learners", ANY, "1", Used, "Most learners in the cluster."),
        flag("feature-gates", Text, "", Used,
            "Feature gates of etcd, A=true,B=false. Names are checked; only InitialCorruptCheck changes anything: compare states at start."),
        flag("backend-bbolt-freelist-type", Text, "map", NO_BOLT, "Free list form of etcd's storage file."),
        flag("backend-batch-interval", Duration, "0", NO_BOLT, "Commit interval of etcd's storage file."),
        flag("backend-batch-limit", ANY, "0", NO_BOLT, "Commit size of etcd's storage file."),
        flag("bootstrap-defrag-threshold-megabytes", ANY, "0", NO_BOLT, "Defragment at start above this."),
        flag("unsafe-no-fsync", Bool, "false", Used,
            "Answer writes before they are on disk. A crash of the machine loses data; for tests only."),
    ]},
    Group { title: "Clustering", flags: &[
        flag("initial-cluster", Text, "", Used,
            "Founding members, name=url,...; ignored once the data directory exists. Default: this member alone."),
        flag("initial-advertise-peer-urls", Urls, DEFAULT_PEER_URL, Used,
            "Peer urls of this member; must equal its entry in --initial-cluster."),
        flag("initial-cluster-state", Choice(&["new", "existing"]), "new", Used,
            "Found a cluster (new) or join one (existing); ignored once the data directory exists."),
        flag("initial-cluster-token", Text, "etcd-cluster", Used, "Part of the member and cluster ids; keeps clusters apart."),
        flag("strict-reconfig-check", Bool, "true", Used, "Refuse membership changes that would cost the quorum."),
        flag("pre-vote", Bool, "true", Used, "Ask for votes before raising the term."),
        flag("force-new-cluster", OptionalText, "false", Used,
            "Restart with this member's data as a one-member cluster, dropping all others. Needs the cluster's id as value; the bare flag prints it."),
        flag("auto-compaction-mode", Choice(&["periodic", "revision"]), "periodic", Used,
            "What --auto-compaction-retention counts."),
        flag("auto-compaction-retention", Text, "0", Used,
            "History to keep: hours or a duration (periodic), or revisions (revision). 0 turns it off."),
        flag("discovery-srv", Text, "", Used, "DNS domain whose SRV records list the founders, instead of --initial-cluster."),
        flag("discovery-srv-name", Text, "", Used, "Suffix of the records' service name."),
        flag("discovery-dns", List, "", Used, "DNS servers to ask for these records, address or address:port. Default: those of /etc/resolv.conf."),
        flag("discovery-token", Text, "", Used, "Token of a registry in another cluster, in which the founders find each other."),
        flag("discovery-endpoints", List, "", Used, "Client urls of that cluster; its JSON gateway is asked."),
        flag("discovery-dial-timeout", Duration, "2s", Used, "Connect time-out of discovery."),
        flag("discovery-request-timeout", Duration, "5s", Used, "Request time-out of discovery."),
        flag("discovery-keepalive-time", Duration, "2s", NO_DISCOVERY, "Keepalive interval of discovery."),
        flag("discovery-keepalive-timeout", Duration, "6s", NO_DISCOVERY, "Keepalive time-out of discovery."),
        flag("discovery-insecure-transport", Bool, "true", Used, "Ask the registry without TLS. false: its endpoints are https, or have no scheme."),
        flag("discovery-insecure-skip-tls-verify", Bool, "false", Used, "Do not verify the certificate of the discovery server."),
        flag("discovery-cert", Path, "", Used, "Certificate shown to the discovery server, PEM."),
        flag("discovery-key", Path, "", Used, "Key of that certificate, PEM, not encrypted."),
        flag("discovery-cacert", Path, "", Used, "Authorities of the discovery server, PEM; those of the system if empty."),
        flag("discovery-user", Text, "", Used, "User of the discovery server; name:password is understood as well."),
        flag("discovery-password", Secret, "", Used, "Password of that user."),
        flag("discovery-fallback", Text, "", LEFTOVER, "What to do when v2 discovery fails."),
        flag("discovery", Text, "", NO_V2_DISCOVERY, "v2 discovery."),
        flag("discovery-proxy", Text, "", NO_V2_DISCOVERY, "v2 discovery."),
        flag("proxy", Text, "off", NO_PROXY, "v2 proxy."),
    ]},
    Group { title: "Security", flags: &[
        flag("cert-file", Path, "", Used, "Certificate of the client listeners, PEM; intermediate ones behind it. Taken over by itself when it changes."),
        flag("key-file", Path, "", Used, "Key of that certificate, PEM, not encrypted."),
        flag("client-cert-file", Path, "", NO_CALLS, "Certificate when this member connects as a client."),
        flag("client-key-file", Path, "", NO_CALLS, "Key when this member connects as a client."),
        flag("client-cert-auth", Bool, "false", Used, "Require client certificates; the common name is the user where no token says otherwise."),
        flag("trusted-ca-file", Path, "", Used, "Authorities of client certificates, PEM, one or several. Given alone it requires certificates too."),
        flag("client-crl-file", Path, "", Used, "Revoked client certificates, PEM or DER."),
        flag("client-cert-allowed-cn", List, "", Used, "Accepted common names of client certificates; all if empty."),
        flag("client-cert-allowed-hostname", List, "", Used, "Host names of which a client certificate must be valid for one; all if empty."),
        flag("client-skip-client-san-verification", Bool, "false", NO_SAN, "Do not match a client's address with its certificate."),
        flag("auto-tls", Bool, "false", Used, "Make a self-signed certificate for clients, in fixtures/client of the data directory."),
        flag("peer-cert-file", Path, "", Used, "Certificate between members, for calling and being called."),
        flag("peer-key-file", Path, "", Used, "Key of that certificate."),
        flag("peer-client-cert-file", Path, "", Used, "Certificate for calling members, where it differs."),
        flag("peer-client-key-file", Path, "", Used, "Key of that certificate."),
        flag("peer-client-cert-auth", Bool, "false", Used, "Require certificates of members that call."),
        flag("peer-trusted-ca-file", Path, "", Used, "Authorities of members' certificates, PEM. Default for calling: those of the system."),
        flag("peer-crl-file", Path, "", Used, "Revoked certificates of members, PEM or DER."),
        flag("peer-cert-allowed-cn", List, "", Used, "Accepted common names of members' certificates; all if empty."),
        flag("peer-cert-allowed-hostname", List, "", Used, "Host names of which a member's certificate must be valid for one; all if empty."),
        flag("peer-skip-client-san-verification", Bool, "false", Used, "Do not compare the address a member calls from with its certificate."),
        flag("peer-auto-tls", Bool, "false", Used, "Make a self-signed certificate for members: encrypted, but anybody may be the other side."),
        flag("self-signed-cert-validity", Whole(1, 1000), "1", Used, "Years a self-signed certificate lasts; it is made anew a month before its end."),
        flag("cipher-suites", List, "", Used, "TLS 1.2 cipher suites by IANA name; all this server has if empty."),
        flag("tls-min-version", Choice(&["", "TLS1.2", "TLS1.3"]), "TLS1.2", Used, "Lowest TLS version."),
        flag("tls-max-version", Choice(&["", "TLS1.2", "TLS1.3"]), "", Used, "Highest TLS version; the highest there is if empty."),
        flag("cors", List, "*", Used, "Origins whose pages may use the HTTP side, comma separated; * is all."),
        flag("host-whitelist", List, "*", Used, "Names in the Host header of plain HTTP that are answered, comma separated; * is all."),
        flag("auth-token", Text, "simple", Used, "Kind of authentication token."),
        flag("auth-token-ttl", ANY, "300", Used, "Seconds a simple token lasts."),
        flag("bcrypt-cost", Whole(4, 31), "10", Used, "Work factor of password hashes."),
    ]},
    Group { title: "Logging and metrics", flags: &[
        flag("log-level", Choice(&["debug", "info", "warn", "error", "panic", "fatal"]), "info", Used,
            "Least severity written; panic and fatal mean error here."),
        flag("log-format", Choice(&["json", "console"]), "json", Used, "One JSON object per line, or tab separated text."),
        flag("log-outputs", List, "default", Used,
            "Where lines go: stderr, stdout, file paths; several allowed. default is stderr; systemd/journal too, which the journal captures."),
        flag("logger", Choice(&["zap", "capnslog", ""]), "zap", LEFTOVER, "Logging library of etcd."),
        flag("enable-log-rotation", Bool, "false", Used,
            "Rotate the log file. Needs exactly one file as --log-outputs."),
        flag("log-rotation-config-json", Text, ROTATION_DEFAULT, Used, "How it rotates: maxsize in MB, maxage in days and maxbackups in files (0 keeps all), localtime; compress is not supported."),
        flag("metrics", Choice(&["basic", "extensive"]), "basic", Used, "Detail of /metrics; extensive adds latency histograms per method (grpc_server_handling_seconds)."),
        flag("enable-pprof", Bool, "false", Accepted("profiles are not served by this version"), "Serve /debug/pprof."),
        flag("warning-apply-duration", Duration, "100ms", Used, "Log an applied entry that took longer; 0 turns it off."),
        flag("warning-unary-request-duration", Duration, "300ms", Used, "Log a unary request that took longer; 0 turns it off."),
        flag("enable-distributed-tracing", Bool, "false", NEEDS_WORK, "Send OpenTelemetry traces."),
        flag("distributed-tracing-address", Text, "localhost:4317", NO_TRACING, "Trace collector."),
        flag("distributed-tracing-service-name", Text, "etcd", NO_TRACING, "Service name in traces."),
        flag("distributed-tracing-instance-id", Text, "", NO_TRACING, "Instance id in traces."),
        flag("distributed-tracing-sampling-rate", Whole(0, 1_000_000), "0", NO_TRACING, "Samples per million spans."),
    ]},
    Group { title: "Integrity and background work", flags: &[
        flag("watch-progress-notify-interval", Duration, "10m", Used, "Idle time after which a watch that asked for progress is told of it; 100ms at least."),
        flag("enable-grpc-gateway", Bool, "true", Used, "Serve the JSON gateway under /v3/ on the client urls."),
        flag("corrupt-check-time", Duration, "10m", Used, "How often the leader compares the state of all members; 0 turns it off."),
        flag("compact-hash-check-time", Duration, "1m", ONE_MEMBER, "Interval of comparing compaction hashes between members."),
        flag("compaction-batch-limit", ANY, "1000", NO_BOLT, "Revisions removed per compaction step."),
        flag("compaction-sleep-interval", Duration, "10ms", NO_BOLT, "Pause between compaction steps."),
        flag("downgrade-check-time", Duration, "5s", ONE_MEMBER, "Interval of the downgrade monitor."),
        flag("v2-deprecation", Text, "", LEFTOVER, "Phase of the v2 store's removal."),
    ]},
    Group { title: "This server's own", flags: &[
        flag("allow-mixed-security", Bool, "false", Used,
            "Allow http:// client and peer urls although client certificates are required."),
        flag("cluster-id", Text, "", Used, "Refuse to start on the data of any cluster but this one (hex id)."),
        flag("allow-new-cluster-on-empty-dir", Choice(&["auto", "never"]), "auto", Used,
            "never refuses to found a cluster when the data directory is empty, so that a wiped disk cannot."),
        flag("admin-socket", Path, "", Used,
            "Unix socket for local administration (status, settings, snapshot, reload), for the server's user only. Default: admin.sock in the data directory; none turns it off."),
        flag("cores", Text, "auto", Used, "Executors to run: a number, or auto for one per usable CPU."),
        flag("wal-segment-bytes", Bytes, "32MiB", Used, "Size of one write-ahead log file: a multiple of 1MiB, 1MiB to 1GiB."),
        flag("min-free-bytes", Bytes, "1GiB", Used, "Refuse writes while the data directory's disk has less free than this; 0 turns it off."),
        flag("nospace-auto-disarm", Bool, "true", Used,
            "End this member's NOSPACE alarm once a compaction has brought the data below 90 percent of the quota. false: it stays until it is disarmed, as in etcd."),
        flag("max-range-bytes", Bytes, "0", Used, "Largest answer to one range request; a longer one is refused. 0 means no limit."),
        flag("slow-disk-warn", Text, "p99=20ms,window=1m", Used,
            "Warn when fewer than this part of the log's syncs in a window were within the time; off turns it off."),
        flag("disk-reserve-bytes", Bytes, "0", Used, "Size of a ballast file in the data directory, given up when the log finds no room, so that what is under way can end. 0: none."),
        flag("memtable-bytes", Bytes, "32MiB", Used,
            "Memory that collects what was written before it goes into the store's tables; about as much of the log a start after a kill applies again. 64KiB to 1GiB."),
        flag("max-inflight-range-bytes", Bytes, "256MiB", Used, "Bytes of all range answers under way, until the socket has them; further ranges wait. 0 means no limit."),
        flag("metrics-key-prefixes", List, "", Used,
            "Key prefixes, at most 32, whose numbers of keys and bytes are counted in the background, for /metrics."),
        flag("reserved-memory", Bytes, "", NEEDS_WORK, "Memory left to others on this machine."),
        flag("archive-url", Text, "", NEEDS_WORK, "Continuous archive of the log."),
        flag("archive-full-schedule", Text, "", NEEDS_WORK, "Interval of full archives."),
        flag("archive-keep", Text, "", NEEDS_WORK, "Archives kept."),
    ]},
    Group { title: "Ignored, as in etcd", flags: &[
        flag("cluster-active-size", Text, "", Ignored, ""),
        flag("cluster-remove-delay", Text, "", Ignored, ""),
        flag("cluster-sync-interval", Text, "", Ignored, ""),
        flag("config", Text, "", Ignored, ""),
        flag("force", OptionalText, "", Ignored, ""),
        flag("max-result-buffer", Text, "", Ignored, ""),
        flag("max-retry-attempts", Text, "", Ignored, ""),
        flag("peer-heartbeat-interval", Text, "", Ignored, ""),
        flag("peer-election-timeout", Text, "", Ignored, ""),
        flag("retry-interval", Text, "", Ignored, ""),
        flag("snapshot", OptionalText, "", Ignored, ""),
        flag("v", OptionalText, "", Ignored, ""),
        flag("vv", OptionalText, "", Ignored, ""),
        flag("proxy-failure-wait", Text, "", Ignored, ""),
        flag("proxy-refresh-interval", Text, "", Ignored, ""),
        flag("proxy-dial-timeout", Text, "", Ignored, ""),
        flag("proxy-write-timeout", Text, "", Ignored, ""),
        flag("proxy-read-timeout", Text, "", Ignored, ""),
        flag("enable-v2", OptionalText, "", NO_V2, ""),
        flag("experimental-enable-v2v3", Text, "", NO_V2, ""),
    ]},
];
