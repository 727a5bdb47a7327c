//! What must hold for one value or between several.

use super::*;

#[test]
fn advertise_is_required_beside_listen_in_etcds_words() {
    let expected =
        "--advertise-client-urls is required when --listen-client-urls is set explicitly";
    refused(
        load(&["--listen-client-urls=http://localhost:2379"]),
        expected,
        "clients reach",
    );
    refused(
        load_all(
            &[],
            &[("ETCD_LISTEN_CLIENT_URLS", "http://localhost:1")],
            None,
        ),
        expected,
        "",
    );
    refused(
        from_file("listen-client-urls: http://localhost:1"),
        expected,
        "",
    );
}

#[test]
fn one_way_to_find_the_founders_may_be_asked_for() {
    let args = [
        "--discovery-srv=x.org",
        "--initial-cluster=default=http://localhost:2380",
    ];
    refused(
        load(&args),
        "--initial-cluster, --discovery-srv",
        "choose one",
    );
    refused(
        load(&["--discovery-token=t"]),
        "--discovery-token is set without --discovery-endpoints",
        "both",
    );
    let https = ["--discovery-token=t", "--discovery-endpoints=https://d:1"];
    refused(load(&https), "http://host:port", "");
    // A registry over TLS.
    let tls = [
        "--discovery-token=t",
        "--discovery-insecure-transport=false",
        "--discovery-endpoints=d:1,https://e:2",
        "--discovery-cert=c",
        "--discovery-key=k",
        "--discovery-cacert=ca",
    ];
    let Some(Discovery::Registry(found)) = load(&tls).unwrap().config.discovery else {
        panic!("a registry");
    };
    let urls: Vec<String> = found.endpoints.iter().map(Url::to_string).collect();
    assert_eq!(urls, ["https://d:1", "https://e:2"]);
    let pair = Some(("c".into(), "k".into()));
    let ca = Some("ca".into());
    let verify = true;
    assert_eq!(found.tls, Some(DiscoveryTls { pair, ca, verify }));
    for (more, why) in [
        (
            "--discovery-endpoints=http://d:1",
            "expected https://host:port",
        ),
        (
            "--discovery-key=",
            "--discovery-cert is set without --discovery-key",
        ),
        (
            "--discovery-insecure-skip-tls-verify",
            "are both set: the one says whom to trust",
        ),
        (
            "--discovery-insecure-transport=true",
            "--discovery-cert is set, but the registry would be asked without TLS",
        ),
    ] {
        let name = more.split_once('=').map_or(more, |(name, _)| name);
        let others = tls
            .iter()
            .filter(|flag| !flag.starts_with(&format!("{name}=")));
        let flags: Vec<&str> = others.copied().chain([more]).collect();
        refused(load(&flags), why, "");
    }
    let both = [
        "--discovery-token=t",
        "--discovery-endpoints=d:1,http://e:2",
        "--discovery-user=u:p",
    ];
    let Some(Discovery::Registry(found)) = load(&both).unwrap().config.discovery else {
        panic!("a registry");
    };
    assert_eq!(found.endpoints.len(), 2);
    assert_eq!(found.user, Some(("u".into(), "p".into())));
    let srv = [
        "--discovery-srv=x.org",
        "--discovery-dns=10.0.0.1,10.0.0.2:54",
    ];
    let Some(Discovery::Srv(found)) = load(&srv).unwrap().config.discovery else {
        panic!("DNS");
    };
    let servers: Vec<String> = found.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["10.0.0.1:53", "10.0.0.2:54"]);
}

#[test]
fn founders_that_were_found_make_the_ids_that_listed_ones_make() {
    let list = "a=http://a:1,b=http://b:1";
    let own = ["--name=a", "--initial-advertise-peer-urls=http://a:1"];
    let listed = load(&[own[0], own[1], &format!("--initial-cluster={list}")])
        .unwrap()
        .config;
    let mut found = load(&[own[0], own[1], "--discovery-srv=x.org"])
        .unwrap()
        .config;
    assert_eq!(found.founding_error, None);
    found.set_founders(list).unwrap();
    assert_eq!(found.initial_cluster, listed.initial_cluster);
    assert_eq!(
        (found.cluster_id, found.member_id),
        (listed.cluster_id, listed.member_id)
    );
    let error = found.set_founders("b=http://b:1").unwrap_err();
    assert!(
        error.message.contains("what discovery found"),
        "{}",
        error.message
    );
}

#[test]
fn the_admin_socket_is_in_the_data_directory_elsewhere_or_nowhere() {
    let socket = |args: &[&str]| load(args).unwrap().config.admin_socket;
    let found = socket(&["--data-dir=/d"]).unwrap();
    assert_eq!(
        (found.path.to_str(), found.explicit),
        (Some("/d/admin.sock"), false)
    );
    let found = socket(&["--admin-socket=/run/a"]).unwrap();
    assert_eq!(
        (found.path.to_str(), found.explicit),
        (Some("/run/a"), true)
    );
    assert_eq!(socket(&["--admin-socket=none"]), None);
    let long = format!("--admin-socket=/{}", "x".repeat(200));
    refused(load(&[&long]), "201 bytes", "shorter path");
    // A data directory deep down does without rather than refuse to start.
    let long = format!("--data-dir=/{}", "x".repeat(200));
    assert!(!socket(&[&long]).unwrap().explicit);
}

#[test]
fn bad_urls_name_flag_and_fault() {
    for (url, part) in [
        ("ftp://a:1", "unknown scheme"),
        ("http://a", "no port"),
        ("localhost:2379", "no scheme"),
        ("http://a:1/x", "nothing more"),
        (",", "at least one url"),
    ] {
        let args = [
            format!("--listen-client-urls={url}"),
            "--advertise-client-urls=http://h:1".to_owned(),
        ];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        refused(load(&args), "for --listen-client-urls: ", "");
        refused(load(&args), part, "");
    }
}

#[test]
fn two_listeners_on_one_address_are_refused_and_a_repeated_url_is_told() {
    refused(
        load(&["--listen-metrics-urls=http://127.0.0.1:2379"]),
        "--listen-client-urls (http://localhost:2379) and --listen-metrics-urls (http://127.0.0.1:2379)",
        "port",
    );
    let loaded = load(&["--listen-metrics-urls=http://localhost:1,http://localhost:1"]).unwrap();
    assert_eq!(loaded.config.listen_metrics_urls.len(), 1);
    assert_eq!(texts(&loaded, Level::Warn).len(), 1);
}

#[test]
fn a_name_alone_founds_a_cluster_under_that_name() {
    let loaded = load(&["--name=a", "--initial-advertise-peer-urls=http://a:2380"]).unwrap();
    let config = loaded.config;
    assert_eq!(config.initial_cluster.len(), 1);
    assert_eq!(config.initial_cluster[0].name, "a");
    assert_eq!(
        config.initial_cluster[0].peer_urls[0].to_string(),
        "http://a:2380"
    );
    assert_eq!(config.data_dir, Path::new("a.etcd"));
    assert_eq!(
        Some(config.member_id),
        ids::member_id(["http://a:2380"], "etcd-cluster")
    );
}

#[test]
fn every_founder_knows_the_ids_of_all_and_they_agree_on_the_cluster() {
    let all = "--initial-cluster=a=http://a:1,b=http://b:1,c=http://c:1,c=http://c:2";
    let member = |name: &str, urls: &str| {
        let advertise = format!("--initial-advertise-peer-urls={urls}");
        let name = format!("--name={name}");
        load(&[&name, all, &advertise]).unwrap().config
    };
    let (a, c) = (
        member("a", "http://a:1"),
        member("c", "http://c:2,http://c:1"),
    );
    assert_eq!(a.initial_cluster, c.initial_cluster);
    assert_eq!(a.cluster_id, c.cluster_id);
    let ids: Vec<u64> = a.initial_cluster.iter().map(|member| member.id).collect();
    assert_eq!((a.member_id, c.member_id), (ids[0], ids[2]));
    assert_eq!(
        Some(c.member_id),
        ids::member_id(["http://c:1", "http://c:2"], "etcd-cluster")
    );
    assert_eq!(a.cluster_id, ids::cluster_id(ids));
}

#[test]
fn a_name_missing_from_the_initial_cluster_is_told_with_the_nearest() {
    founds_nothing(
        load(&[
            "--name=node1",
            "--initial-cluster=node2=http://h:1,infra=http://i:1",
        ]),
        "member \"node1\" is not in --initial-cluster (has: node2, infra)",
        "--name=node2",
    );
}

#[test]
fn advertise_and_initial_cluster_must_agree_and_the_difference_is_shown() {
    founds_nothing(
        load(&["--initial-cluster=default=http://h:2380"]),
        "--initial-cluster has default=http://h:2380 but --initial-advertise-peer-urls is http://localhost:2380",
        "set --initial-advertise-peer-urls=http://h:2380",
    );
    founds_nothing(
        load(&[
            "--initial-cluster=default=http://a:1,default=http://b:1",
            "--initial-advertise-peer-urls=http://a:1",
        ]),
        "http://b:1 is missing from --initial-advertise-peer-urls",
        "letter by letter",
    );
    let loaded = load(&[
        "--initial-cluster=default=http://b:1,default=http://a:1",
        "--initial-advertise-peer-urls=http://a:1,http://b:1",
    ])
    .unwrap();
    assert_eq!(loaded.config.initial_cluster[0].peer_urls.len(), 2);
}

#[test]
fn a_url_listed_twice_names_both_members() {
    founds_nothing(
        load(&["--initial-cluster=default=http://h:1,b=http://h:1"]),
        "members \"default\" and \"b\" have the same url http://h:1",
        "",
    );
    refused(
        load(&["--initial-cluster=http://h:1"]),
        "is not name=url",
        "",
    );
    refused(
        load(&["--initial-cluster==http://h:1"]),
        "is not name=url",
        "",
    );
}

#[test]
fn members_of_one_cluster_need_names_of_their_own() {
    let two = "--initial-cluster=default=http://localhost:2380,b=http://h:1";
    founds_nothing(load(&[two]), "this member is called \"default\"", "--name");
    founds_nothing(
        load(&["--name=c", two]),
        "member \"c\" is not in --initial-cluster (has: default, b)",
        "",
    );
    refused(
        load(&["--initial-cluster=default=http://h:1,default=http://h:1"]),
        "\"default\" has http://h:1 twice",
        "",
    );
}

#[test]
fn what_founds_nothing_still_opens_what_exists_but_does_not_pass_a_check() {
    let args = ["--name=c", "--initial-cluster=a=http://a:1"];
    let config = load(&args).unwrap().config;
    assert!(config.founding_error.is_some());
    assert_eq!(
        Some(config.member_id),
        ids::member_id(["http://localhost:2380"], "etcd-cluster")
    );
    refused(load(&["--check-config", args[0], args[1]]), "is not in", "");
    assert_eq!(default().config.founding_error, None);
}

#[test]
fn a_new_cluster_is_forced_by_the_id_of_the_old_one() {
    let force = |text: &str| load(&[text]).map(|loaded| loaded.config.force_new_cluster);
    assert_eq!(force("--force-new-cluster=false"), Ok(None));
    let bare = Ok(Some(ForceNewCluster::Unconfirmed));
    assert_eq!(force("--force-new-cluster"), bare);
    assert_eq!(force("--force-new-cluster=true"), bare);
    let id = Ok(Some(ForceNewCluster::Cluster(0xcdf8_1819_4e3a_8c32)));
    assert_eq!(force("--force-new-cluster=cdf818194e3a8c32"), id);
    refused(
        load(&["--force-new-cluster=mine"]),
        "expected the id of the cluster",
        "",
    );
}

#[test]
fn rules_for_members_are_taken_over() {
    let config = default().config;
    assert_eq!(
        (config.learners_max, config.strict_reconfiguration),
        (1, true)
    );
    let args = ["--max-learners=3", "--strict-reconfig-check=false"];
    let config = load(&args).unwrap().config;
    assert_eq!(
        (config.learners_max, config.strict_reconfiguration),
        (3, false)
    );
}

#[test]
fn election_timing_rules_hold() {
    refused(
        load(&["--election-timeout=499"]),
        "at least 5 times",
        "--election-timeout=1000",
    );
    assert!(load(&["--election-timeout=500ms"]).is_ok());
    refused(load(&["--election-timeout=50001"]), "at most 50000ms", "");
    assert!(load(&["--election-timeout=50s"]).is_ok());
    refused(load(&["--heartbeat-interval=0"]), "at least 1ms", "");
    refused(
        load(&["--heartbeat-interval=18446744073709551615"]),
        "at least 5 times",
        "",
    );
}

#[test]
fn the_cluster_state_is_new_or_existing() {
    refused(
        load(&["--initial-cluster-state=old"]),
        "expected new or existing",
        "",
    );
    let loaded = load(&["--initial-cluster-state=existing"]).unwrap();
    assert_eq!(loaded.config.initial_cluster_state, ClusterState::Existing);
}

#[test]
fn retention_means_hours_durations_or_revisions() {
    let with = |mode: &str, retention: &str| {
        let args = [
            format!("--auto-compaction-mode={mode}"),
            format!("--auto-compaction-retention={retention}"),
        ];
        load(&[&args[0], &args[1]]).map(|loaded| loaded.config.auto_compaction)
    };
    let hours = |hours: u64| AutoCompaction::Periodic(Duration::from_secs(hours * 3600));
    assert_eq!(with("periodic", "2"), Ok(hours(2)));
    assert_eq!(
        with("periodic", "30m"),
        Ok(AutoCompaction::Periodic(Duration::from_secs(1800)))
    );
    assert_eq!(with("periodic", "0s"), Ok(AutoCompaction::Off));
    assert_eq!(with("revision", "0"), Ok(AutoCompaction::Off));
    assert_eq!(with("revision", "1000"), Ok(AutoCompaction::Revision(1000)));
    assert_eq!(
        with("revision", "5000000000"),
        Ok(AutoCompaction::Revision(5_000_000_000))
    );
    for (mode, bad) in [
        ("periodic", "-1"),
        ("periodic", "x"),
        ("periodic", "-5m"),
        ("revision", "-1"),
        ("revision", "5m"),
        ("weekly", "1"),
    ] {
        assert!(with(mode, bad).is_err(), "{mode} {bad}");
    }
}

#[test]
fn limits_out_of_reason_warn() {
    let loaded = load(&["--quota-backend-bytes=9GiB", "--max-request-bytes=20000000"]).unwrap();
    assert_eq!(loaded.config.quota_bytes, Some(9 << 30));
    assert_eq!(texts(&loaded, Level::Warn).len(), 2);
    assert_eq!(
        load(&["--quota-backend-bytes=-1"])
            .unwrap()
            .config
            .quota_bytes,
        None
    );
    let loaded = load(&["--watch-progress-notify-interval=1ms", "--unsafe-no-fsync"]).unwrap();
    assert_eq!(
        loaded.config.watch_progress_notify_interval,
        Duration::from_millis(100)
    );
    assert_eq!(texts(&loaded, Level::Warn).len(), 2);
    refused(
        load(&["--max-concurrent-streams=4294967296"]),
        "between 1 and 4294967295",
        "",
    );
}

#[test]
fn feature_gates_are_checked_by_name() {
    assert!(load(&["--feature-gates=InitialCorruptCheck=true,CompactHashCheck=false"]).is_ok());
    refused(
        load(&["--feature-gates=InitialCorruptChek=true"]),
        "unknown",
        "InitialCorruptCheck",
    );
    refused(
        load(&["--feature-gates=CompactHashCheck"]),
        "is not Name=true",
        "",
    );
    refused(
        load(&["--feature-gates=LeaseCheckpointPersist=true"]),
        "needs LeaseCheckpoint",
        "",
    );
}

#[test]
fn log_settings_are_typed() {
    let args = [
        "--log-outputs=stdout,stderr,a.log",
        "--log-format=console",
        "--log-level=fatal",
    ];
    let log = load(&args).unwrap().config.log;
    assert_eq!(log.level, log::LevelFilter::Error);
    assert_eq!(log.format, logging::Format::Console);
    assert_eq!(
        log.outputs,
        [
            logging::Output::Stdout,
            logging::Output::Stderr,
            logging::Output::File(PathBuf::from("a.log"))
        ]
    );
    let journal = load(&["--log-outputs=systemd/journal"]).unwrap().config.log;
    assert_eq!(journal.outputs, [logging::Output::Stderr]);
    refused(load(&["--log-outputs=default,stdout"]), "default alone", "");
    refused(
        load(&["--log-level=loud"]),
        "expected debug, info, warn, error, panic or fatal",
        "",
    );
}

#[test]
fn own_flags_are_typed() {
    let config = load(&[
        "--cores=3",
        "--cluster-id=cdf818194e3a8c32",
        "--allow-new-cluster-on-empty-dir=never",
        "--warning-apply-duration=0",
        "--grpc-keepalive-interval=0",
        "--min-free-bytes=2GiB",
    ])
    .unwrap()
    .config;
    assert_eq!(config.cores, NonZeroUsize::new(3));
    assert_eq!(config.expected_cluster_id, Some(0xcdf8_1819_4e3a_8c32));
    assert!(!config.new_cluster_on_empty_dir);
    assert_eq!(config.warning_apply_duration, Duration::MAX);
    assert_eq!(config.keepalive.interval, None);
    assert_eq!(config.min_free_bytes, 2 << 30);
    for bad in [
        "--cores=0",
        "--cores=many",
        "--cluster-id=xyz",
        "--name=",
        "--name=a,b",
    ] {
        assert!(load(&[bad]).is_err(), "{bad}");
    }
}

#[test]
fn a_name_that_is_no_directory_needs_a_data_dir() {
    refused(
        load(&["--name=a/b"]),
        "cannot name a directory",
        "--data-dir",
    );
    assert!(load(&["--name=a/b", "--data-dir=d"]).is_ok());
    refused(
        load(&["--name=.."]),
        "cannot name a directory",
        "--data-dir",
    );
    refused(
        load(&["--data-dir=d", "--wal-dir=d"]),
        "the data directory itself",
        "leave it out",
    );
}

#[test]
fn a_log_segment_is_a_whole_number_of_mebibytes_within_bounds() {
    assert_eq!(Config::default().wal_segment_bytes, 32 << 20);
    let config = load(&["--wal-segment-bytes=1GiB"]).unwrap().config;
    assert_eq!(config.wal_segment_bytes, 1 << 30);
    for bad in ["0", "1", "1500KiB", "1025MiB", "2GiB"] {
        let flag = format!("--wal-segment-bytes={bad}");
        refused(load(&[&flag]), "for --wal-segment-bytes: ", "");
    }
}

#[test]
fn the_stores_memory_has_bounds() {
    let read = |text: &str| load(&[text]);
    for (text, bytes) in [
        ("--memtable-bytes=64KiB", 64 << 10),
        ("--memtable-bytes=1GiB", 1 << 30),
    ] {
        assert_eq!(read(text).unwrap().config.memtable_bytes, bytes);
    }
    assert_eq!(load(&[]).unwrap().config.memtable_bytes, 32 << 20);
    for text in ["--memtable-bytes=65535", "--memtable-bytes=1073741825"] {
        refused(read(text), "expected 64KiB to 1GiB", "");
    }
}
