//! From settings to a typed [`Config`]: every rule that needs more than one value.
//!
//! Errors are all exit code 2: the operator wrote something that cannot be meant.

use super::flags::{self, GATES};
use super::merge::{Notice, Settings, Source, invalid, named};
use super::urls::{Address, Url};
use super::{
    AdminSocket, AuthToken, AutoCompaction, ClusterState, Config, ConfigError, Discovery,
    DiscoveryTls, ForceNewCluster, Gateway, Keepalive, Limits, RegistryDiscovery, Scheme,
    SrvDiscovery, ids, suggest, values,
};
use crate::admin;
use crate::auth::jwt;
use crate::logging::{self, Format, Output, Rotation};
use crate::slow_disk;
use kvnode_store::datadir::ADMIN_SOCKET;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ELECTION_MAX: Duration = Duration::from_secs(50);
const QUOTA_DEFAULT: u64 = 2 << 30;
const QUOTA_ADVISED_MAX: u64 = 8 << 30;
const REQUEST_ADVISED_MAX: usize = 10 << 20;
const PROGRESS_MIN: Duration = Duration::from_millis(100);

/// Builds the configuration or says what is wrong with it first.
pub fn build(settings: &Settings, notices: &mut Vec<Notice>) -> Result<Config, ConfigError> {
    let mut read = Read { settings, notices };
    let name = read.name()?;
    let data_dir = match read.path("data-dir") {
        Some(path) => path,
        None => default_data_dir(settings, &name)?,
    };
    let wal_dir = read.path("wal-dir");
    if wal_dir.as_deref() == Some(data_dir.as_path()) {
        let source = &settings.get("wal-dir").source;
        return Err(ConfigError::usage(format!(
            "{} is the data directory itself",
            named("wal-dir", source)
        ))
        .hint("leave it out to keep the log inside the data directory"));
    }

    let listen_client_urls = read.urls("listen-client-urls", true)?;
    let listen_client_http_urls = read.urls("listen-client-http-urls", false)?;
    let listen_metrics_urls = read.urls("listen-metrics-urls", false)?;
    let listen_peer_urls = read.listen_for_peers()?;
    refuse_collisions(&[
        ("listen-client-urls", &listen_client_urls),
        ("listen-client-http-urls", &listen_client_http_urls),
        ("listen-metrics-urls", &listen_metrics_urls),
        ("listen-peer-urls", &listen_peer_urls),
    ])?;
    if settings.is_set("listen-client-urls") && !settings.is_set("advertise-client-urls") {
        return Err(ConfigError::usage(
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        )
        .hint("set it to the urls under which clients reach this member"));
    }
    let advertise_client_urls = read.urls("advertise-client-urls", true)?;
    let security = read.security(
        &[
            ("listen-client-urls", &listen_client_urls, true),
            ("listen-client-http-urls", &listen_client_http_urls, true),
            ("listen-metrics-urls", &listen_metrics_urls, false),
        ],
        &[("listen-peer-urls", &listen_peer_urls, true)],
    )?;

    let discovery = read.discovery()?;
    let founding = read.founding(&name)?;
    let heartbeat_interval = read.millis("heartbeat-interval")?;
    let election_timeout = read.millis("election-timeout")?;
    check_timing(heartbeat_interval, election_timeout)?;
    let initial_corrupt_check = read.feature_gates()?;

    Ok(Config {
        admin_socket: read.admin_socket(&data_dir)?,
        data_dir,
        wal_dir,
        listen_client_urls,
        listen_client_http_urls,
        advertise_client_urls,
        listen_metrics_urls,
        listen_peer_urls,
        socket_reuse_port: read.bool("socket-reuse-port")?,
        security,
        advertise_peer_urls: founding.advertise,
        initial_cluster: founding.members,
        initial_cluster_state: match read.text("initial-cluster-state") {
            "existing" => ClusterState::Existing,
            _ => ClusterState::New,
        },
        initial_cluster_token: read.text("initial-cluster-token").to_owned(),
        discovery,
        founding_error: founding.error,
        member_id: founding.member_id,
        cluster_id: founding.cluster_id,
        force_new_cluster: read.force_new_cluster()?,
        learners_max: read.whole_usize("max-learners")?,
        strict_reconfiguration: read.bool("strict-reconfig-check")?,
        expected_cluster_id: read.expected_cluster_id()?,
        new_cluster_on_empty_dir: read.text("allow-new-cluster-on-empty-dir") != "never",
        heartbeat_interval,
        election_timeout,
        pre_vote: read.bool("pre-vote")?,
        unsafe_no_fsync: read.unsafe_no_fsync()?,
        limits: read.limits()?,
        quota_bytes: read.quota()?,
        nospace_auto_disarm: read.bool("nospace-auto-disarm")?,
        disk_reserve_bytes: read.bytes("disk-reserve-bytes")?,
        min_free_bytes: read.bytes("min-free-bytes")?,
        memtable_bytes: read.memtable_bytes()?,
        wal_segment_bytes: read.wal_segment_bytes()?,
        log_keep_entries: read.entries("snapshot-catchup-entries", 5_000)?,
        log_drop_entries: read.entries("snapshot-count", 10_000)?,
        corrupt_check_interval: Some(read.duration("corrupt-check-time")?)
            .filter(|time| !time.is_zero()),
        initial_corrupt_check,
        keepalive: Keepalive {
            min_time: read.duration("grpc-keepalive-min-time")?,
            interval: Some(read.duration("grpc-keepalive-interval")?).filter(|d| !d.is_zero()),
            timeout: read.duration("grpc-keepalive-timeout")?,
        },
        auto_compaction: read.auto_compaction()?,
        watch_progress_notify_interval: read.progress_interval()?,
        auth_token: read.auth_token()?,
        auth_token_ttl: Duration::from_secs(read.whole("auth-token-ttl")?),
        bcrypt_cost: read.whole_u32("bcrypt-cost")?,
        gateway: Gateway {
            enabled: read.bool("enable-grpc-gateway")?,
            cors: read.words("cors"),
            host_whitelist: read.words("host-whitelist"),
        },
        log: read.log()?,
        warning_apply_duration: read.threshold("warning-apply-duration")?,
        warning_unary_request_duration: read.threshold("warning-unary-request-duration")?,
        metrics_extensive: read.text("metrics") == "extensive",
        metrics_key_prefixes: read.key_prefixes()?,
        slow_disk_warn: read.slow_disk_warn()?,
        cores: read.cores()?,
        name,
    })
}

/// `<name>.etcd`, as etcd names it; only a name that is one path component will do.
fn default_data_dir(settings: &Settings, name: &str) -> Result<PathBuf, ConfigError> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(std::path::Component::Normal(_)), None) => Ok(PathBuf::from(format!("{name}.etcd"))),
        _ => Err(ConfigError::usage(format!(
            "{} is {name:?}, which cannot name a directory",
            named("name", &settings.get("name").source)
        ))
        .hint("set --data-dir")),
    }
}

fn refuse_collisions(listeners: &[(&str, &[Url])]) -> Result<(), ConfigError> {
    let all: Vec<(&str, &Url)> = listeners
        .iter()
        .flat_map(|(flag, urls)| urls.iter().map(move |url| (*flag, url)))
        .collect();
    for (at, (flag, url)) in all.iter().enumerate() {
        for (other_flag, other) in &all[at + 1..] {
            if url.collides_with(other) {
                return Err(ConfigError::usage(format!(
                    "--{flag} ({url}) and --{other_flag} ({other}) listen on the same address"
                ))
                .hint("give each listener a port of its own"));
            }
        }
    }
    Ok(())
}

fn check_timing(heartbeat: Duration, election: Duration) -> Result<(), ConfigError> {
    let millis = |duration: Duration| format!("{}ms", duration.as_millis());
    if heartbeat.is_zero() {
        return Err(ConfigError::usage(
            "--heartbeat-interval must be at least 1ms",
        ));
    }
    if election < heartbeat * 5 {
        return Err(ConfigError::usage(format!(
            "--election-timeout ({}) must be at least 5 times --heartbeat-interval ({})",
            millis(election),
            millis(heartbeat)
        ))
        .hint(format!(
            "10 times is usual: --election-timeout={}",
            (heartbeat * 10).as_millis()
        )));
    }
    if election > ELECTION_MAX {
        return Err(ConfigError::usage(format!(
            "--election-timeout ({}) must be at most {}",
            millis(election),
            millis(ELECTION_MAX)
        )));
    }
    Ok(())
}

/// Typed access to settings that already passed their kinds.
pub(super) struct Read<'a> {
    settings: &'a Settings,
    pub(super) notices: &'a mut Vec<Notice>,
}

impl<'a> Read<'a> {
    pub(super) fn text(&self, name: &str) -> &'a str {
        &self.settings.get(name).text
    }

    pub(super) fn source(&self, name: &str) -> &'a Source {
        &self.settings.get(name).source
    }

    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.text(name))
            .filter(|text| !text.is_empty())
            .map(PathBuf::from)
    }

    fn parse<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        parse(self.text(name)).map_err(|why| self.invalid(name, &why))
    }

    pub(super) fn invalid(&self, name: &str, why: &str) -> ConfigError {
        let setting = self.settings.get(name);
        let flag = flags::find(name).expect("only flags of the table are read");
        invalid(flag, &setting.text, &setting.source, why)
    }

    /// In the data directory unless put elsewhere.
    fn admin_socket(&self, data_dir: &Path) -> Result<Option<AdminSocket>, ConfigError> {
        match self.text("admin-socket") {
            "none" | "off" => Ok(None),
            "" => Ok(Some(AdminSocket {
                path: data_dir.join(ADMIN_SOCKET),
                explicit: false,
            })),
            path => {
                let path = PathBuf::from(path);
                match admin::too_long(&path) {
                    None => Ok(Some(AdminSocket {
                        explicit: path != data_dir.join(ADMIN_SOCKET),
                        path,
                    })),
                    Some((what, hint)) => Err(self.invalid("admin-socket", &what).hint(hint)),
                }
            }
        }
    }

    fn auth_token(&self) -> Result<AuthToken, ConfigError> {
        const NAME: &str = "auth-token";
        let text = self.text(NAME);
        let (kind, options) = text.split_once(',').unwrap_or((text, ""));
        match kind {
            "simple" => Ok(AuthToken::Simple),
            "jwt" => {
                let time = |text: &str| values::parse_duration(text).ok();
                let options = jwt::Options::parse(options, time);
                let options = options.map_err(|error| self.invalid(NAME, &error.to_string()))?;
                Ok(AuthToken::Jwt(options))
            }
            _ => Err(self.invalid(NAME, "expected simple, or jwt with its options")),
        }
    }

    pub(super) fn bool(&self, name: &str) -> Result<bool, ConfigError> {
        self.parse(name, values::parse_bool)
    }

    fn words(&self, name: &str) -> Vec<String> {
        let words = values::split_list(self.text(name));
        words.into_iter().map(str::to_owned).collect()
    }

    fn whole(&self, name: &str) -> Result<u64, ConfigError> {
        self.parse(name, |text| values::parse_whole(text, 0, u64::MAX))
    }

    pub(super) fn whole_u32(&self, name: &str) -> Result<u32, ConfigError> {
        let whole = self.whole(name)?;
        u32::try_from(whole).map_err(|_| self.invalid(name, "too large"))
    }

    fn whole_usize(&self, name: &str) -> Result<usize, ConfigError> {
        let whole = self.whole(name)?;
        usize::try_from(whole).map_err(|_| self.invalid(name, "too large"))
    }

    fn duration(&self, name: &str) -> Result<Duration, ConfigError> {
        self.parse(name, values::parse_duration)
    }

    fn millis(&self, name: &str) -> Result<Duration, ConfigError> {
        self.parse(name, values::parse_millis)
    }

    fn bytes(&self, name: &str) -> Result<u64, ConfigError> {
        self.parse(name, values::parse_bytes)
    }

    fn wal_segment_bytes(&self) -> Result<u64, ConfigError> {
        const MIB: u64 = 1 << 20;
        let bytes = self.bytes("wal-segment-bytes")?;
        if !bytes.is_multiple_of(MIB) || !(MIB..=1024 * MIB).contains(&bytes) {
            let why = "expected a multiple of 1MiB from 1MiB to 1GiB";
            return Err(self.invalid("wal-segment-bytes", why));
        }
        Ok(bytes)
    }

    fn memtable_bytes(&self) -> Result<usize, ConfigError> {
        let bytes = self.bytes("memtable-bytes")?;
        if !(64 << 10..=1 << 30).contains(&bytes) {
            return Err(self.invalid("memtable-bytes", "expected 64KiB to 1GiB"));
        }
        usize::try_from(bytes)
            .map_err(|_| self.invalid("memtable-bytes", "more than this machine can hold"))
    }

    /// A duration above which to warn; 0 is never.
    fn threshold(&self, name: &str) -> Result<Duration, ConfigError> {
        let duration = self.duration(name)?;
        Ok(if duration.is_zero() {
            Duration::MAX
        } else {
            duration
        })
    }

    fn name(&self) -> Result<String, ConfigError> {
        let name = self.text("name");
        if name.is_empty() || name.contains([',', '=']) || name.chars().any(char::is_control) {
            return Err(self.invalid("name", "expected text without commas and equals signs"));
        }
        Ok(name.to_owned())
    }

    /// The urls of a flag, each once, in the order given.
    pub(super) fn urls(&mut self, name: &str, needed: bool) -> Result<Vec<Url>, ConfigError> {
        let mut urls: Vec<Url> = Vec::new();
        for item in values::split_list(self.text(name)) {
            let url = Url::parse(item).map_err(|why| self.invalid(name, &why))?;
            if urls.contains(&url) {
                let text = format!("{} lists {url} twice", named(name, self.source(name)));
                self.notices.push(Notice::warn(text));
            } else {
                urls.push(url);
            }
        }
        if needed && urls.is_empty() {
            return Err(self.invalid(name, "expected at least one url"));
        }
        Ok(urls)
    }

    /// As `urls`; members are reached by TCP only.
    fn listen_for_peers(&mut self) -> Result<Vec<Url>, ConfigError> {
        let name = "listen-peer-urls";
        let urls = self.urls(name, true)?;
        let socket = |url: &&Url| matches!(url.address, Address::Unix(_));
        match urls.iter().find(socket) {
            Some(url) => {
                let why = format!("{url} is a unix socket; members reach each other by TCP only");
                Err(self
                    .invalid(name, &why)
                    .hint("use http://host:port or https://host:port"))
            }
            None => Ok(urls),
        }
    }

    /// At most one way to found a cluster may be asked for.
    fn discovery(&self) -> Result<Option<Discovery>, ConfigError> {
        let given = |name: &&&str| !self.text(name).is_empty();
        let ways = ["initial-cluster", "discovery-srv", "discovery-token"];
        let ways: Vec<&&str> = ways.iter().filter(given).collect();
        if ways.len() > 1 {
            let list: Vec<String> = ways.iter().map(|way| format!("--{way}")).collect();
            return Err(ConfigError::usage(format!(
                "multiple discovery or bootstrap flags are set: {}",
                list.join(", ")
            ))
            .hint("choose one of them"));
        }
        let token = self.text("discovery-token");
        let endpoints: Vec<&str> = values::split_list(self.text("discovery-endpoints")).collect();
        let lone = match (token.is_empty(), endpoints.is_empty()) {
            (true, false) => Some(("discovery-endpoints", "discovery-token")),
            (false, true) => Some(("discovery-token", "discovery-endpoints")),
            _ => None,
        };
        if let Some((given, missing)) = lone {
            return Err(ConfigError::usage(format!(
                "{} is set without --{missing}",
                named(given, self.source(given))
            ))
            .hint("set both, or neither"));
        }
        match self.text("discovery-srv") {
            "" if token.is_empty() => Ok(None),
            "" => self.registry(token, &endpoints).map(Some),
            domain => {
                let server = |text: &str| {
                    kvnode_dns::server(text).ok_or_else(|| {
                        self.invalid(
                            "discovery-dns",
                            "expected addresses, with a port or without",
                        )
                    })
                };
                let servers = values::split_list(self.text("discovery-dns")).map(server);
                Ok(Some(Discovery::Srv(SrvDiscovery {
                    domain: domain.to_owned(),
                    suffix: self.text("discovery-srv-name").to_owned(),
                    servers: servers.collect::<Result<_, _>>()?,
                })))
            }
        }
    }

    fn registry(&self, token: &str, endpoints: &[&str]) -> Result<Discovery, ConfigError> {
        let tls = self.discovery_tls()?;
        let (scheme, prefix, expected) = match &tls {
            None => (
                Scheme::Http,
                "http",
                "expected http://host:port; for https:// set --discovery-insecure-transport=false",
            ),
            Some(_) => (
                Scheme::Https,
                "https",
                "expected https://host:port, as --discovery-insecure-transport=false asks for",
            ),
        };
        let endpoint = |text: &&str| {
            // etcd takes endpoints without a scheme.
            let url = match text.contains("://") {
                true => Url::parse(text),
                false => Url::parse(&format!("{prefix}://{text}")),
            };
            match url {
                Ok(url) if url.scheme == scheme => Ok(url),
                Ok(_) => Err(self.invalid("discovery-endpoints", expected)),
                Err(why) => Err(self.invalid("discovery-endpoints", &why)),
            }
        };
        let (user, password) = (self.text("discovery-user"), self.text("discovery-password"));
        // etcd takes user:password in one as well.
        let (user, password) = match user.split_once(':') {
            Some((user, inside)) if password.is_empty() => (user, inside),
            _ => (user, password),
        };
        Ok(Discovery::Registry(RegistryDiscovery {
            token: token.to_owned(),
            endpoints: endpoints.iter().map(endpoint).collect::<Result<_, _>>()?,
            tls,
            user: (!user.is_empty()).then(|| (user.to_owned(), password.to_owned())),
            dial_timeout: self.duration("discovery-dial-timeout")?,
            request_timeout: self.duration("discovery-request-timeout")?,
        }))
    }

    fn key_prefixes(&self) -> Result<Vec<String>, ConfigError> {
        const FLAG: &str = "metrics-key-prefixes";
        const COUNT_MAX: usize = 32;
        let mut prefixes: Vec<String> = Vec::new();
        for prefix in values::split_list(self.text(FLAG)) {
            if prefixes.iter().any(|known| known == prefix) {
                return Err(self.invalid(FLAG, "names a prefix twice"));
            }
            prefixes.push(prefix.to_owned());
        }
        if prefixes.len() > COUNT_MAX {
            return Err(self.invalid(FLAG, "expected at most 32 prefixes"));
        }
        Ok(prefixes)
    }

    /// None: the registry is asked in the clear.
    fn discovery_tls(&self) -> Result<Option<DiscoveryTls>, ConfigError> {
        const SKIP: &str = "discovery-insecure-skip-tls-verify";
        let skip = self.bool(SKIP)?;
        if self.bool("discovery-insecure-transport")? {
            let files = ["discovery-cert", "discovery-key", "discovery-cacert"];
            let mut unused = files.into_iter().filter(|name| !self.text(name).is_empty());
            return match unused.next().or(skip.then_some(SKIP)) {
                None => Ok(None),
                Some(name) => Err(ConfigError::usage(format!(
                    "{} is set, but the registry would be asked without TLS",
                    named(name, self.source(name))
                ))
                .hint("add --discovery-insecure-transport=false, or remove it")),
            };
        }
        let pair = match (self.path("discovery-cert"), self.path("discovery-key")) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some((cert, key)),
            (cert, _) => {
                let (given, missing) = match cert {
                    Some(_) => ("discovery-cert", "discovery-key"),
                    None => ("discovery-key", "discovery-cert"),
                };
                return Err(ConfigError::usage(format!(
                    "{} is set without --{missing}",
                    named(given, self.source(given))
                ))
                .hint("set both, or neither"));
            }
        };
        let ca = self.path("discovery-cacert");
        if skip && ca.is_some() {
            return Err(ConfigError::usage(format!(
                "{} and {} are both set: the one says whom to trust, the other to trust anybody",
                named("discovery-cacert", self.source("discovery-cacert")),
                named(SKIP, self.source(SKIP))
            ))
            .hint("remove one of them"));
        }
        Ok(Some(DiscoveryTls {
            pair,
            ca,
            verify: !skip,
        }))
    }

    fn expected_cluster_id(&self) -> Result<Option<u64>, ConfigError> {
        match self.text("cluster-id") {
            "" => Ok(None),
            text => match ids::parse_hex(text) {
                Some(id) => Ok(Some(id)),
                None => Err(self.invalid("cluster-id", "expected up to 16 hex digits")),
            },
        }
    }

    fn force_new_cluster(&self) -> Result<Option<ForceNewCluster>, ConfigError> {
        match self.text("force-new-cluster") {
            "" | "false" => Ok(None),
            "true" => Ok(Some(ForceNewCluster::Unconfirmed)),
            text => match ids::parse_hex(text) {
                Some(id) => Ok(Some(ForceNewCluster::Cluster(id))),
                None => Err(self.invalid("force-new-cluster", "expected the id of the cluster")),
            },
        }
    }

    fn unsafe_no_fsync(&mut self) -> Result<bool, ConfigError> {
        let on = self.bool("unsafe-no-fsync")?;
        if on {
            let text = "unsafe-no-fsync: a crash of the machine will lose acknowledged writes";
            self.notices.push(Notice::warn(text.to_owned()));
        }
        Ok(on)
    }

    fn limits(&mut self) -> Result<Limits, ConfigError> {
        let request_bytes_max = self.whole_usize("max-request-bytes")?;
        if request_bytes_max > REQUEST_ADVISED_MAX {
            let text = format!(
                "max-request-bytes is {request_bytes_max}; above {REQUEST_ADVISED_MAX} large requests delay all others"
            );
            self.notices.push(Notice::warn(text));
        }
        Ok(Limits {
            txn_ops_max: self.whole_usize("max-txn-ops")?,
            request_bytes_max,
            concurrent_streams_max: self.whole_u32("max-concurrent-streams")?,
            range_bytes_max: self.bytes("max-range-bytes")?,
            range_bytes_inflight_max: self.bytes("max-inflight-range-bytes")?,
        })
    }

    fn quota(&mut self) -> Result<Option<u64>, ConfigError> {
        let quota = match self.parse("quota-backend-bytes", values::parse_quota)? {
            Some(0) => Some(QUOTA_DEFAULT),
            other => other,
        };
        if let Some(bytes) = quota.filter(|bytes| *bytes > QUOTA_ADVISED_MAX) {
            let text = format!(
                "quota-backend-bytes is {bytes}, above the advised {QUOTA_ADVISED_MAX}: snapshots and recovery take longer"
            );
            self.notices.push(Notice::warn(text));
        }
        Ok(quota)
    }

    fn auto_compaction(&self) -> Result<AutoCompaction, ConfigError> {
        let name = "auto-compaction-retention";
        let number = self.text(name).parse::<u32>();
        match (self.text("auto-compaction-mode"), number) {
            (_, Ok(0)) => Ok(AutoCompaction::Off),
            ("revision", Ok(count)) => Ok(AutoCompaction::Revision(i64::from(count))),
            ("revision", Err(_)) => match self.text(name).parse::<i64>() {
                Ok(count) if count > 0 => Ok(AutoCompaction::Revision(count)),
                _ => Err(self.invalid(name, "the mode revision expects a number of revisions")),
            },
            (_, Ok(hours)) => Ok(AutoCompaction::Periodic(Duration::from_secs(
                u64::from(hours) * 3600,
            ))),
            (_, Err(_)) => {
                let period = self.parse(name, |text| {
                    values::parse_duration(text)
                        .map_err(|_| "expected hours, or a duration such as 30m".to_owned())
                })?;
                Ok(match period.is_zero() {
                    true => AutoCompaction::Off,
                    false => AutoCompaction::Periodic(period),
                })
            }
        }
    }

    fn progress_interval(&mut self) -> Result<Duration, ConfigError> {
        let interval = self.duration("watch-progress-notify-interval")?;
        if interval < PROGRESS_MIN {
            let text = "watch-progress-notify-interval is raised to its minimum of 100ms";
            self.notices.push(Notice::warn(text.to_owned()));
        }
        Ok(interval.max(PROGRESS_MIN))
    }

    /// Gate names are checked and noted: none of them changes this server.
    /// A number of entries; 0 means the default.
    fn entries(&self, name: &str, default: u64) -> Result<u64, ConfigError> {
        let entries = self.whole(name)?;
        Ok(if entries == 0 { default } else { entries })
    }

    /// Checks the gates; true if the check of the state at start is on, the only one with a meaning here.
    fn feature_gates(&mut self) -> Result<bool, ConfigError> {
        let flag = "feature-gates";
        let mut on: Vec<&str> = Vec::new();
        for item in values::split_list(self.text(flag)) {
            let (gate, value) = item.split_once('=').unwrap_or((item, ""));
            let value = values::parse_bool(value).map_err(|_| {
                self.invalid(flag, &format!("{item:?} is not Name=true or Name=false"))
            })?;
            if !GATES.contains(&gate) {
                let error = self.invalid(flag, &format!("unknown feature gate {gate:?}"));
                return Err(match suggest::nearest(gate, GATES.iter().copied()) {
                    Some(nearest) => error.hint(format!("did you mean {nearest}?")),
                    None => error.hint(format!("known are {}", GATES.join(", "))),
                });
            }
            if value {
                on.push(gate);
            }
        }
        if on.contains(&"LeaseCheckpointPersist") && !on.contains(&"LeaseCheckpoint") {
            return Err(self.invalid(flag, "LeaseCheckpointPersist needs LeaseCheckpoint=true"));
        }
        if self.settings.is_set(flag) {
            let text = format!(
                "feature-gates ({}) change nothing in this server but InitialCorruptCheck",
                self.text(flag)
            );
            self.notices.push(Notice::info(text));
        }
        Ok(on.contains(&"InitialCorruptCheck"))
    }

    fn log(&mut self) -> Result<logging::Settings, ConfigError> {
        let level = match self.text("log-level") {
            "debug" => log::LevelFilter::Debug,
            "info" => log::LevelFilter::Info,
            "warn" => log::LevelFilter::Warn,
            _ => log::LevelFilter::Error,
        };
        let format = match self.text("log-format") {
            "console" => Format::Console,
            _ => Format::Json,
        };
        let mut outputs = Vec::new();
        let words: Vec<&str> = values::split_list(self.text("log-outputs")).collect();
        if words.is_empty() || (words.len() > 1 && words.contains(&"default")) {
            let why = "expected default alone, or stderr, stdout and file paths";
            return Err(self.invalid("log-outputs", why));
        }
        for word in words {
            let output = match word {
                "default" | "stderr" | "systemd/journal" => Output::Stderr,
                "stdout" => Output::Stdout,
                path => Output::File(PathBuf::from(path)),
            };
            if !outputs.contains(&output) {
                outputs.push(output);
            }
        }
        let rotation = self.rotation(&outputs)?;
        Ok(logging::Settings {
            level,
            format,
            outputs,
            rotation,
        })
    }

    /// Rotation needs one file and nothing else, as in etcd.
    fn rotation(&self, outputs: &[Output]) -> Result<Option<Rotation>, ConfigError> {
        const FLAG: &str = "log-rotation-config-json";
        if !self.bool("enable-log-rotation")? {
            return Ok(None);
        }
        if !matches!(outputs, [Output::File(_)]) {
            return Err(ConfigError::usage(
                "--enable-log-rotation needs exactly one file as --log-outputs",
            )
            .hint("name one file path, or let the service manager keep the log"));
        }
        self.parse(FLAG, Rotation::parse).map(Some)
    }

    fn slow_disk_warn(&self) -> Result<Option<slow_disk::Rule>, ConfigError> {
        match self.text("slow-disk-warn") {
            "" | "off" | "none" => Ok(None),
            _ => self
                .parse("slow-disk-warn", |text| {
                    slow_disk::Rule::parse(text, values::parse_duration)
                })
                .map(Some),
        }
    }

    fn cores(&self) -> Result<Option<NonZeroUsize>, ConfigError> {
        match self.text("cores") {
            "" | "auto" => Ok(None),
            text => match values::parse_whole(text, 1, 1024)
                .ok()
                .and_then(|n| n.try_into().ok())
            {
                Some(cores) => Ok(NonZeroUsize::new(cores)),
                None => Err(self.invalid("cores", "expected auto, or a number from 1 to 1024")),
            },
        }
    }
}
