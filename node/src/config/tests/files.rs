//! Configuration files as people have them.

use super::*;
use crate::config::security::TlsSide;

#[test]
fn an_unreadable_file_is_named() {
    refused(
        load(&["--config-file=conf.yaml"]),
        "--config-file: cannot read conf.yaml",
        "check",
    );
    refused(
        load_all(&[], &[("ETCD_CONFIG_FILE", "conf.yaml")], None),
        "(from ETCD_CONFIG_FILE): cannot read conf.yaml",
        "check",
    );
}

#[test]
fn an_unknown_key_is_an_error_with_line_and_nearest_name() {
    let file = "# comment\nname: a\n\ndata-dri: x\n";
    refused(
        from_file(file),
        "conf.yaml line 4: unknown key \"data-dri\"",
        "\"data-dir\"",
    );
    let file = "name: a\nclient-transport-security:\n  auto-tls: false\n  cert-fiel: x\n";
    refused(
        from_file(file),
        "conf.yaml line 4: unknown key \"client-transport-security.cert-fiel\"",
        "\"cert-file\"",
    );
    let args = ["--config-file=conf.yaml", "--config-allow-unknown"];
    let loaded = load_all(&args, &[], Some("name: a\ndata-dri: x\n")).unwrap();
    assert_eq!(loaded.config.name, "a");
    assert_eq!(
        texts(&loaded, Level::Warn),
        ["conf.yaml line 2: unknown key \"data-dri\" is ignored; did you mean \"data-dir\"?"]
    );
}

#[test]
fn json_is_read_too_and_its_lines_are_known() {
    let json = "{\n  \"name\": \"j\",\n\t\"min-free-bytes\": 7,\n  \"pre-vote\": false\n}";
    let loaded = from_file(json).unwrap();
    assert_eq!(
        (loaded.config.name.as_str(), loaded.config.min_free_bytes),
        ("j", 7)
    );
    assert!(!loaded.config.pre_vote);
    refused(
        from_file("{\"name\": \"j\",\n \"nmae\": 1}"),
        "line 2: unknown key \"nmae\"",
        "name",
    );
}

#[test]
fn a_file_that_is_no_mapping_is_refused_and_an_empty_one_is_fine() {
    assert!(from_file("").is_ok());
    assert!(from_file("# nothing\n").is_ok());
    assert!(from_file("\u{feff}name: a\n").is_ok());
    refused(from_file("- a\n- b\n"), "not a mapping", "");
    refused(from_file("name: [a\n"), "cannot read conf.yaml", "mapping");
    refused(from_file("name: a\nname: b\n"), "duplicate", "");
    refused(from_file("1: a\n"), "not text", "");
    refused(
        from_file("name: {a: b}\n"),
        "expected one value, not a block",
        "",
    );
    refused(
        from_file("pre-vote: 3\n"),
        "line 1: bad \"pre-vote\": expected true or false",
        "",
    );
    refused(from_file("check-config: true\n"), "command line only", "");
}

#[test]
fn durations_in_a_file_take_units_and_bare_nanoseconds_with_a_warning() {
    let file = "grpc-keepalive-interval: 10m\ngrpc-keepalive-timeout: 5000000000\n\
                heartbeat-interval: 50ms\nelection-timeout: 500\n";
    let loaded = from_file(file).unwrap();
    let config = &loaded.config;
    assert_eq!(config.keepalive.interval, Some(Duration::from_secs(600)));
    assert_eq!(config.keepalive.timeout, Duration::from_secs(5));
    assert_eq!(config.heartbeat_interval, Duration::from_millis(50));
    assert_eq!(config.election_timeout, Duration::from_millis(500));
    assert_eq!(
        texts(&loaded, Level::Warn),
        [
            "conf.yaml line 2: grpc-keepalive-timeout is read as nanoseconds (5s); write it with a unit"
        ]
    );
    refused(load(&["--grpc-keepalive-timeout=5"]), "missing unit", "");
}

#[test]
fn etcds_nested_blocks_lead_to_their_flags() {
    let file = "client-transport-security:\n  cert-file: ''\n  client-cert-auth: false\n\
                peer-transport-security:\n  allowed-cn:\n  auto-tls: false\n";
    assert!(from_file(file).is_ok());
    let file = "client-transport-security:\n  client-cert-auth: true\n";
    refused(
        from_file(file),
        "--client-cert-auth (from conf.yaml line 2) is set without --trusted-ca-file",
        "authority",
    );
    let file = "peer-transport-security: {allowed-hostname: [a, b]}\n";
    refused(
        from_file(file),
        "--peer-cert-allowed-hostname (from conf.yaml line 1) has no effect",
        "--peer-client-cert-auth",
    );
    let file = "client-transport-security:
  cert-file: c
  key-file: k
  client-cert-auth: true
  trusted-ca-file: a
  crl-file: r
  allowed-cn: [x, y]
listen-client-urls: https://localhost:1
advertise-client-urls: https://h:1
peer-transport-security:
  cert-file: pc
  key-file: pk
  client-cert-file: dc
  client-key-file: dk
  client-cert-auth: true
  trusted-ca-file: pa
  crl-file: pr
  allowed-hostname: [z]
  skip-client-san-verification: true
listen-peer-urls: https://localhost:2
";
    let security = from_file(file).unwrap().config.security;
    let path = |text: &str| Some(PathBuf::from(text));
    let pair = |cert: &str, key: &str| Some((PathBuf::from(cert), PathBuf::from(key)));
    assert_eq!(
        security.client,
        TlsSide {
            pair: pair("c", "k"),
            trusted_ca: path("a"),
            crl: path("r"),
            cert_auth: true,
            allowed_cn: vec!["x".to_owned(), "y".to_owned()],
            ..TlsSide::default()
        }
    );
    assert_eq!(
        security.peer,
        TlsSide {
            pair: pair("pc", "pk"),
            dial_pair: pair("dc", "dk"),
            trusted_ca: path("pa"),
            crl: path("pr"),
            cert_auth: true,
            allowed_hostname: vec!["z".to_owned()],
            skip_san: true,
            ..TlsSide::default()
        }
    );
    let file = "discovery-config:\n  client:\n    endpoints: [a]\n";
    refused(
        from_file(file),
        "--discovery-endpoints (from conf.yaml line 3) is set without --discovery-token",
        "both",
    );
    refused(
        from_file("client-transport-security: 3\n"),
        "expected a block",
        "",
    );
}

#[test]
fn the_sample_file_that_ships_with_etcd_3_5_starts() {
    let file = "\
name: 'default'
data-dir:
wal-dir:
snapshot-count: 10000
heartbeat-interval: 100
election-timeout: 1000
quota-backend-bytes: 0
listen-peer-urls: http://localhost:2380
listen-client-urls: http://localhost:2379
max-snapshots: 5
max-wals: 5
cors:
initial-advertise-peer-urls: http://localhost:2380
advertise-client-urls: http://localhost:2379
discovery:
discovery-fallback: 'proxy'
discovery-proxy:
discovery-srv:
initial-cluster:
initial-cluster-token: 'etcd-cluster'
initial-cluster-state: 'new'
strict-reconfig-check: false
enable-pprof: true
proxy: 'off'
proxy-failure-wait: 5000
proxy-refresh-interval: 30000
proxy-dial-timeout: 1000
proxy-write-timeout: 5000
proxy-read-timeout: 0
client-transport-security:
  cert-file:
  key-file:
  client-cert-auth: false
  trusted-ca-file:
  auto-tls: false
peer-transport-security:
  cert-file:
  key-file:
  client-cert-auth: false
  trusted-ca-file:
  auto-tls: false
  allowed-cn:
  allowed-hostname:
self-signed-cert-validity: 1
log-level: debug
logger: zap
log-outputs: [stderr]
force-new-cluster: false
auto-compaction-mode: periodic
auto-compaction-retention: \"1\"
cipher-suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
tls-min-version: 'TLS1.2'
tls-max-version: 'TLS1.3'
";
    let loaded = from_file(file).unwrap();
    let config = &loaded.config;
    assert_eq!(
        config.auto_compaction,
        AutoCompaction::Periodic(Duration::from_secs(3600))
    );
    assert_eq!(config.log.level, log::LevelFilter::Debug);
    assert_eq!(
        config.security.offer.suites,
        ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]
    );
    let warnings = texts(&loaded, Level::Warn);
    assert!(
        warnings.contains(&"proxy-failure-wait is ignored, as in etcd"),
        "{warnings:?}"
    );
    assert!(
        warnings.contains(&"proxy can be removed: it is gone"),
        "{warnings:?}"
    );
}

#[test]
fn the_packaged_sample_file_is_accepted_without_a_word() {
    let sample = include_str!("../../../../packaging/kvnode.yaml");
    let loaded = from_file(sample).unwrap();
    assert!(loaded.notices.is_empty(), "{:?}", loaded.notices);
    assert!(loaded.config.data_dir.is_absolute());
}
