//! The table of who may know what. To change the architecture, change this table in the same
//! commit and say why.

/// One package and its acquaintances.
pub struct Crate {
    /// Its directory.
    pub directory: &'static str,
    /// Why its list is as short as it is.
    pub role: &'static str,
    /// Packages it may depend on, besides `FREE`. Development dependencies are not held to it.
    pub may_use: &'static [&'static str],
}

/// Free for all.
pub const FREE: [&str; 3] = ["bytes", "log", "thiserror"];

/// Packages of their own workspace: one needs a nightly compiler, the other a protobuf compiler.
pub const OUTSIDE: [&str; 2] = ["tests/fuzz", "tests/compat/rustclient"];

pub const CRATES: &[Crate] = &[
    Crate {
        directory: "api",
        role: "leaf: words of the API, no I/O",
        may_use: &["prost", "serde", "serde_json"],
    },
    Crate {
        directory: "wal",
        role: "leaf: the log's format; no async, no raft, no protobuf",
        may_use: &["crc32fast", "rustix"],
    },
    Crate {
        directory: "snapshot",
        role: "leaf: the snapshot's format",
        may_use: &["crc32fast", "sha2", "zstd"],
    },
    Crate {
        directory: "store",
        role: "meaning: no clock, no raft, no log",
        may_use: &[
            "kvnode-api",
            "fjall",
            "ahash",
            "hashbrown",
            "rustix",
            "xxhash-rust",
        ],
    },
    Crate {
        directory: "replica",
        role: "order: knows the log's records and raft, nothing of the store",
        may_use: &["kvnode-wal", "raft", "protobuf", "slog"],
    },
    Crate {
        directory: "dns",
        role: "leaf: SRV records, for the node's founders and the tool's endpoints; blocking sockets, no runtime",
        may_use: &["getrandom"],
    },
    Crate {
        directory: "node",
        role: "the shell that serves; meets fjall, raft and formats only through our crates",
        may_use: &[
            "kvnode-api",
            "kvnode-dns",
            "kvnode-wal",
            "kvnode-snapshot",
            "kvnode-store",
            "kvnode-replica",
            "ahash",
            "bcrypt",
            "crc32fast",
            "dns-lookup",
            "futures-util",
            "getrandom",
            "glommio",
            "h2",
            "hashbrown",
            "http",
            "http-body-util",
            "hyper",
            "jsonwebtoken",
            "mimalloc",
            "prost",
            "rcgen",
            "rustix",
            "rustls",
            "serde",
            "serde_json",
            "serde_yaml_ng",
            "sha1",
            "signal-hook",
            "socket2",
            "tokio",
            "x509-parser",
        ],
    },
    Crate {
        directory: "util",
        role: "the offline shell: no raft, no runtime or sockets of its own; running nodes are asked by the client library or their own admin socket",
        may_use: &[
            "kvnode-api",
            "kvnode-client",
            "kvnode-wal",
            "kvnode-snapshot",
            "kvnode-store",
            "clap",
            "clap_complete",
            "clap_mangen",
            "indicatif",
            "mimalloc",
            "rustix",
            "serde",
            "serde_json",
            "sha1",
            "signal-hook",
        ],
    },
    Crate {
        directory: "client",
        role: "a client library: sockets and tokio, the API's words, nothing of the server",
        may_use: &[
            "kvnode-api",
            "h2",
            "http",
            "rustls",
            "rustls-native-certs",
            "tokio",
            "tokio-rustls",
        ],
    },
    Crate {
        directory: "ctl",
        role: "the online tool: speaks to servers through the client library only; reads of a snapshot file what it holds",
        may_use: &[
            "kvnode-api",
            "kvnode-client",
            "kvnode-dns",
            "kvnode-snapshot",
            "clap",
            "clap_complete",
            "clap_mangen",
            "indicatif",
            "rustix",
            "rustyline",
            "sha2",
            "tokio",
            "x509-parser",
        ],
    },
    Crate {
        directory: "tests",
        role: "whole-system tests: everything but the engine's and the protocol's own parts",
        may_use: &[
            "kvnode",
            "kvnode-api",
            "kvnode-client",
            "kvnode-wal",
            "kvnode-snapshot",
            "kvnode-store",
            "kvnode-replica",
            "h2",
            "http",
            "prost",
            "proptest",
            "rcgen",
            "rustix",
            "rustls",
            "serde",
            "serde_json",
            "tempfile",
            "tokio",
        ],
    },
    Crate {
        directory: "tests/bench",
        role: "a loader: speaks to servers over the wire only",
        may_use: &[
            "kvnode-api",
            "clap",
            "h2",
            "http",
            "prost",
            "rustix",
            "rustls",
            "serde",
            "serde_json",
            "tempfile",
            "tokio",
        ],
    },
];

/// Names that may stand in code (a path `name::...` or a `use`) only below these places.
pub const NAMES: &[(&str, &[&str], &str)] = &[
    (
        "glommio",
        &["node/src/rt.rs"],
        "one file meets the runtime, so that it can be replaced",
    ),
    (
        "rustls",
        &[
            "node/src/tls/",
            "client/src/",
            "tests/src/certs.rs",
            "tests/bench/src/tls.rs",
        ],
        "one directory of the node, the client library, and a file of the loader, meet the TLS library",
    ),
    (
        "fjall",
        &["store/src/engine/"],
        "one mechanism meets the engine",
    ),
    (
        "raft",
        &["replica/"],
        "a protocol upgrade stays inside replica",
    ),
    (
        "protobuf",
        &["replica/"],
        "raft's own codec stays beside raft",
    ),
    ("slog", &["replica/"], "raft's own logger stays beside raft"),
    (
        "kvnode_replica",
        &["replica/", "node/", "tests/"],
        "store, log and tools know no raft",
    ),
    (
        "kvnode_store",
        &["store/", "node/", "util/", "tests/"],
        "order does not know meaning",
    ),
    (
        "kvnode_wal",
        &["wal/", "replica/", "node/", "util/", "tests/"],
        "meaning does not know the log",
    ),
    (
        "tokio",
        &[
            "node/src/rt.rs",
            "node/src/http/",
            "client/",
            "ctl/",
            "tests/",
        ],
        "the node runs no tokio",
    ),
    (
        "zstd",
        &["snapshot/"],
        "compression is the snapshot format's own affair",
    ),
    (
        "crc32fast",
        &[
            "wal/",
            "snapshot/",
            "node/src/peers/frame.rs",
            "node/src/peers/greeting.rs",
        ],
        "checksums belong to formats",
    ),
];
