//! Where a value comes from, what is said about it, and what is printed.

use super::*;

#[test]
fn without_flags_a_default_member_serves_clients_on_localhost() {
    let loaded = load(&[]).unwrap();
    let config = &loaded.config;
    assert_eq!(loaded.mode, Mode::Run);
    assert!(loaded.notices.is_empty(), "{:?}", loaded.notices);
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir, Path::new("default.etcd"));
    assert_eq!(
        config.listen_client_urls[0].to_string(),
        "http://localhost:2379"
    );
    let bound = config.listen_client_urls[0].bind_addresses().unwrap();
    assert_eq!(bound, ["127.0.0.1:2379".parse().unwrap()]);
    assert_eq!(ids::hex(config.member_id), "8e9e05c52164694d");
    assert_eq!(ids::hex(config.cluster_id), "cdf818194e3a8c32");
    assert_eq!(config.heartbeat_interval, Duration::from_millis(100));
    assert_eq!(config.election_timeout, Duration::from_secs(1));
    assert_eq!(config.quota_bytes, Some(2 << 30));
    assert_eq!(config.limits.txn_ops_max, 128);
    assert_eq!(config.limits.request_bytes_max, 1_572_864);
    assert_eq!(config.limits.concurrent_streams_max, u32::MAX);
    assert_eq!(config.keepalive.interval, Some(Duration::from_secs(7200)));
    assert_eq!(config.auto_compaction, AutoCompaction::Off);
    assert_eq!(config.log, logging::Settings::default());
    assert_eq!(*config, Config::default());
}

#[test]
fn flag_wins_over_own_variable_over_etcds_over_file_over_default() {
    let file = "name: file\nmax-txn-ops: 1\nmax-request-bytes: 1\nmin-free-bytes: 1\n";
    let env = [
        ("KVNODE_NAME", "kvnode"),
        ("ETCD_NAME", "etcd"),
        ("KVNODE_MAX_TXN_OPS", "3"),
        ("ETCD_MAX_TXN_OPS", "2"),
        ("ETCD_MAX_REQUEST_BYTES", "2"),
    ];
    let args = ["--config-file=conf.yaml", "--name=flag"];
    let loaded = load_all(&args, &env, Some(file)).unwrap();
    assert_eq!(loaded.config.name, "flag");
    assert_eq!(loaded.config.limits.txn_ops_max, 3);
    assert_eq!(loaded.config.limits.request_bytes_max, 2);
    assert_eq!(loaded.config.min_free_bytes, 1);
    assert_eq!(loaded.config.initial_cluster_token, "etcd-cluster");
    let mut warnings = texts(&loaded, Level::Warn);
    warnings.sort_unstable();
    assert_eq!(
        warnings,
        [
            "--name=\"flag\" overrides KVNODE_NAME=\"kvnode\"",
            "KVNODE_MAX_TXN_OPS=\"3\" overrides ETCD_MAX_TXN_OPS=\"2\"",
            "KVNODE_NAME=\"kvnode\" overrides ETCD_NAME=\"etcd\"",
        ]
    );
    let source = |name: &str| {
        loaded
            .effective
            .iter()
            .find(|e| e.name == name)
            .unwrap()
            .source
            .to_string()
    };
    assert_eq!(source("name"), "--name");
    assert_eq!(source("max-txn-ops"), "KVNODE_MAX_TXN_OPS");
    assert_eq!(source("max-request-bytes"), "ETCD_MAX_REQUEST_BYTES");
    assert_eq!(source("min-free-bytes"), "conf.yaml line 4");
    assert_eq!(source("initial-cluster-token"), "default");
}

#[test]
fn a_flag_beside_its_variable_warns_with_both_values_even_when_they_agree() {
    let loaded = load_all(&["--name=a"], &[("ETCD_NAME", "a")], None).unwrap();
    assert_eq!(
        texts(&loaded, Level::Warn),
        ["--name=\"a\" overrides ETCD_NAME=\"a\""]
    );
}

#[test]
fn the_last_of_several_equal_flags_counts_and_is_told() {
    let loaded = load(&["--name=a", "--name=b", "--pre-vote", "--pre-vote"]).unwrap();
    assert_eq!(loaded.config.name, "b");
    assert_eq!(
        texts(&loaded, Level::Warn),
        ["--name=\"b\" overrides --name=\"a\""]
    );
}

#[test]
fn file_only_ignores_flags_and_variables_but_not_those_about_the_file() {
    let env = [("ETCD_CONFIG_FILE", "conf.yaml"), ("ETCD_NAME", "env")];
    let args = [
        "--config-file-only",
        "--max-request-bytes=9",
        "--check-config",
    ];
    let loaded = load_all(&args, &env, Some("max-request-bytes: 2")).unwrap();
    assert_eq!(loaded.mode, Mode::CheckConfig);
    assert_eq!(loaded.config.limits.request_bytes_max, 2);
    assert_eq!(loaded.config.name, "default");
    assert_eq!(
        texts(&loaded, Level::Info),
        ["ignored because of config-file-only: ETCD_NAME, --max-request-bytes"]
    );
    refused(load(&["--config-file-only"]), "without --config-file", "");
}

#[test]
fn what_check_config_prints_is_a_file_with_the_same_meaning() {
    let args = [
        "--check-config",
        "--name=a:b # c",
        "--data-dir=d",
        "--listen-client-urls=http://0.0.0.0:2379,unix://c.sock",
        "--advertise-client-urls=http://h:2379",
        "--cores=1",
        "--quota-backend-bytes=-1",
        "--log-outputs=stderr,x.log",
        "--auto-compaction-retention=30m",
        "--cluster-id=1e5",
        "--discovery-password=secret",
    ];
    let loaded = load(&args).unwrap();
    assert_eq!(loaded.mode, Mode::CheckConfig);
    let report = loaded.report();
    assert!(report.contains("# flag --name") && report.contains("# default"));
    assert!(!report.contains("secret"), "a secret is never shown");
    let again = from_file(&report).unwrap();
    assert_eq!(again.config, loaded.config);
}

#[test]
fn old_spellings_are_mapped_with_a_warning() {
    let args = [
        "--experimental-watch-progress-notify-interval=5m",
        "--experimental-initial-corrupt-check=true",
        "--experimental-enable-lease-checkpoint",
        "--experimental-snapshot-catch-up-entries=7",
    ];
    let loaded = load(&args).unwrap();
    assert_eq!(
        loaded.config.watch_progress_notify_interval,
        Duration::from_secs(300)
    );
    let entries = loaded
        .effective
        .iter()
        .find(|e| e.name == "snapshot-catchup-entries")
        .unwrap();
    assert_eq!(entries.value, "7");
    let warnings = texts(&loaded, Level::Warn);
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    assert!(
        warnings
            .iter()
            .all(|text| text.contains("is an old spelling")),
        "{warnings:?}"
    );
    let gates = loaded
        .effective
        .iter()
        .find(|e| e.name == "feature-gates")
        .unwrap();
    assert_eq!(gates.value, "InitialCorruptCheck=true,LeaseCheckpoint=true");
}

#[test]
fn the_current_spelling_wins_over_the_old_one() {
    for args in [
        ["--max-learners=3", "--experimental-max-learners=2"],
        ["--experimental-max-learners=2", "--max-learners=3"],
    ] {
        let loaded = load(&args).unwrap();
        let learners = loaded
            .effective
            .iter()
            .find(|e| e.name == "max-learners")
            .unwrap();
        assert_eq!(learners.value, "3");
    }
    let args = [
        "--feature-gates=CompactHashCheck=false",
        "--experimental-compact-hash-check-enabled",
    ];
    let loaded = load(&args).unwrap();
    let gates = loaded
        .effective
        .iter()
        .find(|e| e.name == "feature-gates")
        .unwrap();
    assert_eq!(gates.value, "CompactHashCheck=false");
}

#[test]
fn gone_flags_are_errors_unless_switched_off() {
    refused(load(&["--enable-v2"]), "--enable-v2 is gone", "v3 API");
    refused(
        load(&["--experimental-enable-v2v3=/x"]),
        "is gone",
        "v3 API",
    );
    refused(load(&["--proxy=on"]), "--proxy is gone", "proxy");
    refused(
        load_all(&[], &[("ETCD_DISCOVERY", "https://d")], None),
        "--discovery (from ETCD_DISCOVERY) is gone",
        "--initial-cluster",
    );
    assert!(load(&["--enable-v2=false", "--proxy=off"]).is_ok());
}

#[test]
fn ignored_and_accepted_flags_start_with_one_line_each() {
    let loaded = load(&["--v=2", "--backend-batch-limit=5", "--max-learners=1"]).unwrap();
    assert_eq!(texts(&loaded, Level::Warn), ["--v is ignored, as in etcd"]);
    let infos = texts(&loaded, Level::Info);
    assert_eq!(infos.len(), 1, "{infos:?}");
    assert!(
        infos[0].starts_with("--backend-batch-limit has no effect: "),
        "{infos:?}"
    );
    refused(load(&["--bcrypt-cost=3"]), "between 4 and 31", "");
    refused(
        load(&["--auth-token=jwt,pub-key=a"]),
        "sign-method=RS256",
        "",
    );
    refused(load(&["--auth-token=basic"]), "expected simple, or jwt", "");
}

#[test]
fn what_this_version_lacks_is_refused_and_never_ignored() {
    for args in [
        &["--reserved-memory=1GiB"][..],
        &["--archive-url=file:///a"],
        &["--memory-mlock"],
    ] {
        let error = load(args).map(|loaded| loaded.config).expect_err(args[0]);
        assert_eq!(error.exit_code, 2);
        assert!(
            error.message.contains("not supported by this version"),
            "{}",
            error.message
        );
        assert!(error.hint.is_some());
    }
}

#[test]
fn switched_off_features_are_no_reason_to_refuse() {
    let args = [
        "--client-cert-auth=false",
        "--auto-tls=f",
        "--force-new-cluster=false",
        "--cors=*",
        "--auth-token=simple",
        "--cert-file=",
        "--enable-log-rotation=0",
        "--slow-disk-warn=off",
        "--admin-socket=none",
        "--max-range-bytes=0",
    ];
    assert!(load(&args).unwrap().notices.is_empty());
}

#[test]
fn bad_values_name_their_source() {
    refused(
        load(&["--max-txn-ops=x"]),
        "invalid value \"x\" for --max-txn-ops: ",
        "",
    );
    refused(
        load_all(&[], &[("ETCD_PRE_VOTE", "maybe")], None),
        "invalid value \"maybe\" for --pre-vote (from ETCD_PRE_VOTE): expected true or false",
        "",
    );
    refused(
        from_file("name: a\nmax-txn-ops: x\n"),
        "invalid value \"x\" for --max-txn-ops (from conf.yaml line 2): ",
        "",
    );
    refused(
        load(&["--experimental-initial-corrupt-check=maybe"]),
        "expected true or false",
        "",
    );
}

#[test]
fn help_and_version_win_over_everything_that_follows_or_fails() {
    assert_eq!(load(&["--help", "--nonsense"]).unwrap().mode, Mode::Help);
    assert_eq!(load(&["--version", "--name="]).unwrap().mode, Mode::Version);
    let env = [("ETCD_VERSION", "v3.5.1"), ("ETCD_HELP", "true")];
    assert_eq!(load_all(&[], &env, None).unwrap().mode, Mode::Run);
    assert_eq!(version().lines().count(), 4);
    assert!(version().starts_with("kvnode Version: "));
}

#[test]
fn the_manual_names_every_flag_and_stays_within_its_width() {
    let manual = help();
    for flag in flags::all() {
        assert!(manual.contains(flag.name), "{}", flag.name);
    }
    for line in manual.lines() {
        assert!(line.len() <= 90, "{line}");
    }
}
