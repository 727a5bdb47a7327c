//! The configuration of a member: from command line, environment and file to one typed value.
//!
//! [`Config::load`] is pure: arguments, environment and the file reader are handed in, nothing is
//! printed, resolved or touched. What it promises about a `Config` it returns: every value passed
//! its kind and its bounds, cross-field rules hold (see `check.rs`), and nothing the operator asked
//! for is silently dropped: a setting is used, or noted, or refused.

mod check;
mod cli;
mod env;
mod file;
pub mod flags;
mod founding;
pub mod ids;
mod merge;
pub mod pages;
mod print;
pub mod security;
mod suggest;
pub mod urls;
pub mod values;

pub use merge::{Notice, Source};
pub use print::{help, version};
pub use security::Security;
pub use urls::{Address, Scheme, Url};

use crate::auth::jwt;
use crate::logging;
use crate::slow_disk;
use merge::Settings;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything the node needs to know before it touches the machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// This member's name.
    pub name: String,
    /// All state; relative to the working directory if so given.
    pub data_dir: PathBuf,
    /// Where the operator's socket is; `None` is nowhere.
    pub admin_socket: Option<AdminSocket>,
    /// The write-ahead log, where it is not inside the data directory.
    pub wal_dir: Option<PathBuf>,

    /// Client listeners; at least one.
    pub listen_client_urls: Vec<Url>,
    /// Listeners for HTTP alone; if there are any, the client listeners serve gRPC alone.
    pub listen_client_http_urls: Vec<Url>,
    /// Published client urls; at least one.
    pub advertise_client_urls: Vec<Url>,
    /// Listeners for metrics and health only; often none.
    pub listen_metrics_urls: Vec<Url>,
    /// Peer listeners; a single member does not open them.
    pub listen_peer_urls: Vec<Url>,
    /// Other processes may share the ports listened on.
    pub socket_reuse_port: bool,
    /// TLS of all listeners, and with other members.
    pub security: Security,
    /// Peer urls in the member list, sorted.
    pub advertise_peer_urls: Vec<Url>,
    /// Founding members, each once; holds this one.
    pub initial_cluster: Vec<FoundingMember>,
    /// Found or join, while the data directory is empty.
    pub initial_cluster_state: ClusterState,
    /// Enters the ids.
    pub initial_cluster_token: String,
    /// How to find the founders, where they are not listed.
    pub discovery: Option<Discovery>,
    /// Why these settings can neither found nor join a cluster; of no account once there is a data
    /// directory.
    pub founding_error: Option<ConfigError>,
    /// This member's id if it founds the cluster; an existing data directory's own id wins.
    pub member_id: u64,
    /// The cluster's id if founded now; an existing data directory's own id wins.
    pub cluster_id: u64,
    /// Start as the only member, dropping all others.
    pub force_new_cluster: Option<ForceNewCluster>,
    /// Learners at a time.
    pub learners_max: usize,
    /// Refuse membership changes that could cost the quorum.
    pub strict_reconfiguration: bool,
    /// The only cluster whose data may be used.
    pub expected_cluster_id: Option<u64>,
    /// Whether an empty data directory may found a cluster.
    pub new_cluster_on_empty_dir: bool,

    /// Time between heartbeats; the raft tick. Whole milliseconds, at least one.
    pub heartbeat_interval: Duration,
    /// At least five heartbeats and at most 50 s.
    pub election_timeout: Duration,
    /// Ask before raising the term.
    pub pre_vote: bool,

    /// Answer writes before they are on disk.
    pub unsafe_no_fsync: bool,

    /// What clients may ask for.
    pub limits: Limits,
    /// Space alarm over live and historic bytes; `None` is no quota.
    pub quota_bytes: Option<u64>,
    /// NOSPACE of this member ends by itself once a compaction made room.
    pub nospace_auto_disarm: bool,
    /// Size of the ballast file; 0 is none.
    pub disk_reserve_bytes: u64,
    /// Refuse writes while the disk has less; 0 is off.
    pub min_free_bytes: u64,
    /// What the store collects in memory before it writes tables: 64 KiB to 1 GiB.
    pub memtable_bytes: usize,
    /// Size of one log file: a multiple of 1 MiB, 1 MiB to 1 GiB.
    pub wal_segment_bytes: u64,
    /// Applied log entries kept in memory for members that are a little behind.
    pub log_keep_entries: u64,
    /// So many more gather before the oldest are dropped.
    pub log_drop_entries: u64,
    /// How often the leader compares the state of all members; `None` is never.
    pub corrupt_check_interval: Option<Duration>,
    /// Compare the own state with other members' at start.
    pub initial_corrupt_check: bool,
    /// HTTP/2 pings.
    pub keepalive: Keepalive,
    /// History kept.
    pub auto_compaction: AutoCompaction,
    /// Idle time before a watch that asked for progress is told; at least 100 ms.
    pub watch_progress_notify_interval: Duration,

    /// How users show who they are.
    pub auth_token: AuthToken,
    /// How long a simple token lasts after its last use.
    pub auth_token_ttl: Duration,
    /// Work factor of password hashes, 4 to 31.
    pub bcrypt_cost: u32,

    /// The HTTP side of the client listeners.
    pub gateway: Gateway,

    /// Level, form and outputs of the log.
    pub log: logging::Settings,
    /// Log an applied entry that took longer; `Duration::MAX` is off.
    pub warning_apply_duration: Duration,

    /// Log a unary request that took longer; `Duration::MAX` is off.
    pub warning_unary_request_duration: Duration,
    /// Time every RPC.
    pub metrics_extensive: bool,
    /// None empty, none twice, at most 32.
    pub metrics_key_prefixes: Vec<String>,
    /// When the log's disk counts as slow; `None` is never.
    pub slow_disk_warn: Option<slow_disk::Rule>,

    /// Executors; `None` is one per usable CPU.
    pub cores: Option<NonZeroUsize>,
}

/// How founders are found; see `discovery.rs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// By DNS.
    Srv(SrvDiscovery),
    /// In another cluster.
    Registry(RegistryDiscovery),
}

/// `--discovery-srv` and its neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrvDiscovery {
    pub domain: String,
    /// Of the service's name; often empty.
    pub suffix: String,
    /// DNS servers; empty: those of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
}

/// `--discovery-token` and its neighbours.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryDiscovery {
    pub token: String,
    /// At least one; https if there is `tls`, else http.
    pub endpoints: Vec<Url>,
    pub tls: Option<DiscoveryTls>,
    /// Name and password.
    pub user: Option<(String, String)>,
    pub dial_timeout: Duration,
    pub request_timeout: Duration,
}

/// How a registry is asked that is not to be asked in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryTls {
    /// Certificate and key to show.
    pub pair: Option<(PathBuf, PathBuf)>,
    /// Whose certificates are trusted; the system's authorities if none.
    pub ca: Option<PathBuf>,
    /// Whether the registry's certificate is looked at.
    pub verify: bool,
}

impl std::fmt::Debug for RegistryDiscovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither token nor password.
        f.debug_struct("RegistryDiscovery")
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

/// The operator's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminSocket {
    /// At most 107 bytes if `explicit`; see `admin.rs`.
    pub path: PathBuf,
    /// Somebody asked for it there: not to have it is worth refusing to start.
    pub explicit: bool,
}

/// One entry of `--initial-cluster`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundingMember {
    /// As it follows from the urls and the token: the member's id if the cluster is founded now.
    pub id: u64,
    /// Unique among the entries.
    pub name: String,
    /// In the order given, no url twice.
    pub peer_urls: Vec<Url>,
}

/// Kind of authentication token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthToken {
    Simple,
    Jwt(jwt::Options),
}

/// What to do while the data directory is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// Found the cluster.
    New,
    /// Join one that runs and has this member in its list.
    Existing,
}

/// What `--force-new-cluster` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForceNewCluster {
    /// The bare flag: to be refused, naming the id to repeat.
    Unconfirmed,
    /// Of this cluster and no other.
    Cluster(u64),
}

/// Bounds on requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Operations in one branch of a transaction.
    pub txn_ops_max: usize,
    /// Bytes of one request message.
    pub request_bytes_max: usize,
    /// Open HTTP/2 streams per connection.
    pub concurrent_streams_max: u32,
    /// Bytes of one answer to a range; 0 is no limit.
    pub range_bytes_max: u64,
    /// Bytes of all answers to ranges under way; 0 is no limit.
    pub range_bytes_inflight_max: u64,
}

/// Who may use the HTTP side of the client listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Serve `/v3/...`.
    pub enabled: bool,
    /// Origins whose pages may read answers; none, or `*`, is all.
    pub cors: Vec<String>,
    /// Names in the Host header that are answered without TLS; none, or `*`, is all.
    pub host_whitelist: Vec<String>,
}

/// HTTP/2 ping policy of the client listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// A client pinging more often is sent away.
    pub min_time: Duration,
    /// Idle time before the server pings; `None` is off.
    pub interval: Option<Duration>,
    /// Wait for the answer.
    pub timeout: Duration,
}

/// How much history compaction leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    /// All of it.
    Off,
    /// This much time.
    Periodic(Duration),
    /// This many revisions.
    Revision(i64),
}

/// What the process was asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Serve.
    Run,
    /// Print [`Loaded::report`] and exit 0.
    CheckConfig,
    /// Print [`version`] and exit 0.
    Version,
    /// Print [`help`] and exit 0.
    Help,
}

/// A configuration and how it came about.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// In the modes `Help` and `Version`: the defaults.
    pub config: Config,
    /// What to do with it.
    pub mode: Mode,
    /// To be logged once the logger runs, in this order.
    pub notices: Vec<Notice>,
    /// Every setting that this server uses or somebody set, in the order of the manual; secrets
    /// hidden.
    pub effective: Vec<Effective>,
}

/// One flag's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Flag and file key.
    pub name: &'static str,
    /// As text.
    pub value: String,
    /// Where from.
    pub source: Source,
}

/// Why there is no configuration: one line, what to do about it, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    /// One line, for after `error: `.
    pub message: String,
    /// One line, for after `hint: `.
    pub hint: Option<String>,
    /// 2 for everything an operator wrote wrongly.
    pub exit_code: u8,
}

impl ConfigError {
    /// Wrong usage: exit code 2.
    pub(crate) fn usage(message: impl Into<String>) -> ConfigError {
        ConfigError {
            message: message.into(),
            hint: None,
            exit_code: 2,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> ConfigError {
        self.hint = Some(hint.into());
        self
    }
}

impl Config {
    /// Reads and checks all settings.
    ///
    /// `args` without the program's name; `read_file` is asked for the configuration file at most
    /// once. `Loaded::notices` may hold warnings even where all is well.
    pub fn load(
        args: impl IntoIterator<Item = impl Into<OsString>>,
        env: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
        read_file: impl Fn(&Path) -> io::Result<String>,
    ) -> Result<Loaded, ConfigError> {
        let mut flags = cli::parse(args.into_iter().map(Into::into))?;
        let mut notices = Vec::new();
        if asked(&flags, "help") {
            return Config::default_loaded(Mode::Help);
        }
        if asked(&flags, "version") {
            return Config::default_loaded(Mode::Version);
        }
        let env = env
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        let mut env = env::parse(env, &mut notices);

        // The settings about the file come from outside of it, so a first merge finds them.
        let about_file = |given: &merge::Given| match given.target {
            flags::Target::Flag(flag) => flag.name.starts_with("config-"),
            _ => false,
        };
        let pick = |all: &[merge::Given]| all.iter().filter(|g| about_file(g)).cloned().collect();
        let outside = merge::merge(Vec::new(), pick(&env), pick(&flags), &mut Vec::new())?;
        let path = PathBuf::from(&outside.get("config-file").text);
        let given_in_file = match path.as_os_str().is_empty() {
            true => Vec::new(),
            false => {
                let source = &outside.get("config-file").source;
                let text = read_file(&path).map_err(|error| unreadable(&path, source, &error))?;
                let allow_unknown = outside.get("config-allow-unknown").text == "true";
                file::parse(&path, &text, allow_unknown, &mut notices)?
            }
        };
        if outside.get("config-file-only").text == "true" {
            if path.as_os_str().is_empty() {
                return Err(ConfigError::usage(
                    "--config-file-only is set without --config-file",
                ));
            }
            let kept = |given: &merge::Given| about_file(given) || is_mode(given);
            let dropped: Vec<String> = env
                .iter()
                .chain(&flags)
                .filter(|given| !kept(given))
                .map(|given| given.source.to_string())
                .collect();
            if !dropped.is_empty() {
                let text = format!(
                    "ignored because of config-file-only: {}",
                    dropped.join(", ")
                );
                notices.push(Notice::info(text));
            }
            env.retain(kept);
            flags.retain(kept);
        }

        let settings = merge::merge(given_in_file, env, flags, &mut notices)?;
        let mode = match settings.get("check-config").text == "true" {
            true => Mode::CheckConfig,
            false => Mode::Run,
        };
        Config::finish(&settings, mode, notices)
    }

    fn default_loaded(mode: Mode) -> Result<Loaded, ConfigError> {
        let mut none = Vec::new();
        let settings = merge::merge(Vec::new(), Vec::new(), Vec::new(), &mut none)?;
        Config::finish(&settings, mode, Vec::new())
    }

    fn finish(
        settings: &Settings,
        mode: Mode,
        mut notices: Vec<Notice>,
    ) -> Result<Loaded, ConfigError> {
        let config = check::build(settings, &mut notices)?;
        if let (Mode::CheckConfig, Some(error)) = (mode, &config.founding_error) {
            return Err(error.clone());
        }
        let effective = print::effective(settings, &config);
        Ok(Loaded {
            config,
            mode,
            notices,
            effective,
        })
    }
}

impl Default for Config {
    /// What `kvnode` without flags, environment and file runs with.
    fn default() -> Config {
        Config::default_loaded(Mode::Run)
            .expect("the defaults of the table pass every check")
            .config
    }
}

impl Loaded {
    /// The merged result with sources, as `--check-config` prints it: itself a configuration file.
    pub fn report(&self) -> String {
        print::report(&self.effective)
    }

    /// What somebody set, for a line in the log at start.
    pub fn not_default(&self) -> impl Iterator<Item = &Effective> {
        self.effective
            .iter()
            .filter(|effective| effective.source != Source::Default)
    }
}

fn asked(flags: &[merge::Given], name: &str) -> bool {
    flags.iter().any(|given| match given.target {
        flags::Target::Flag(flag) => flag.name == name && given.text == "true",
        _ => false,
    })
}

fn is_mode(given: &merge::Given) -> bool {
    matches!(given.target, flags::Target::Flag(flag) if flag.kind == flags::Kind::Mode)
}

fn unreadable(path: &Path, source: &Source, error: &io::Error) -> ConfigError {
    let named = merge::named("config-file", source);
    ConfigError::usage(format!("{named}: cannot read {}: {error}", path.display()))
        .hint("check the path and that the server's user may read the file")
}

#[cfg(test)]
mod tests;
