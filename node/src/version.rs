//! What this build calls itself.

/// Our own version.
pub const KVNODE: &str = env!("CARGO_PKG_VERSION");

/// The etcd version whose behaviour clients may rely on; they parse it as `x.y.z`.
pub const ETCD: &str = "3.6.7";

/// The compiler, as it names itself.
pub const RUSTC: &str = env!("KVNODE_RUSTC");

/// The target triple.
pub const TARGET: &str = env!("KVNODE_TARGET");

/// The commit of a release build made in a git checkout, else "unknown".
pub const COMMIT: &str = env!("KVNODE_COMMIT");
