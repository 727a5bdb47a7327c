//! The plain HTTP endpoints on the client port (cases 186-188).

use kvnode_api as api;
use kvnode_tests::words::number::*;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Server, fresh, http, idle};

fn get_from(server: &Server, path: &str) -> http::Answer {
    http::get(server.address(), path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// case 186
#[test]
fn options_answers_with_cors_headers_everywhere() {
    idle(async |server, _| {
        for path in ["/v3/kv/range", "/health", "/version"] {
            let headers = [("origin", "http://example.com")];
            let answer = http::request(server.address(), "OPTIONS", path, &headers, b"");
            let answer = answer.expect("answers");
            assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{path}");
            assert_eq!(
                answer.header("access-control-allow-origin"),
                Some("*"),
                "{path}"
            );
            let methods = answer
                .header("access-control-allow-methods")
                .expect("there");
            assert!(
                methods.contains("POST") && methods.contains("GET"),
                "{methods}"
            );
            let headers = answer
                .header("access-control-allow-headers")
                .expect("there");
            assert!(headers.contains("content-type") && headers.contains("authorization"));
        }
        assert_eq!(
            get_from(server, "/health").header("access-control-allow-origin"),
            Some("*")
        );
    });
}

/// case 186
#[test]
fn health_endpoints_take_get_alone() {
    idle(async |server, _| {
        for path in ["/health", "/livez", "/readyz"] {
            for method in ["POST", "PUT", "DELETE"] {
                let answer = http::request(server.address(), method, path, &[], b"");
                let answer = answer.expect("answers");
                assert_eq!(answer.status, 405, "{method} {path}");
                assert_eq!(answer.header("allow"), Some("GET"), "{method} {path}");
            }
        }
    });
}

/// case 187
#[test]
fn the_version_is_numeric() {
    idle(async |server, client| {
        let answer = get_from(server, "/version");
        assert_eq!(answer.status, 200);
        assert!(
            answer
                .header("content-type")
                .is_some_and(|kind| kind.contains("json"))
        );
        let json: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
        let mut names = vec!["etcdserver", "etcdcluster"];
        if server.kind().from_3(6) {
            names.push("storage");
        }
        for name in names {
            let text = json[name]
                .as_str()
                .unwrap_or_else(|| panic!("{name} in {json}"));
            let parts: Vec<_> = text.split('.').collect();
            assert_eq!(parts.len(), 3, "{name} {text}");
            for part in parts {
                part.parse::<u32>()
                    .unwrap_or_else(|_| panic!("{name} is {text}"));
            }
        }
        let status = client.status(api::StatusRequest {}).await.expect("status");
        assert_eq!(json["etcdserver"].as_str(), Some(status.version.as_str()));
    });
}

/// case 188 and the plain answers
#[test]
fn a_healthy_member_says_so_in_every_form() {
    idle(async |server, _| {
        let answer = get_from(server, "/health");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body.trim_end(), r#"{"health":"true","reason":""}"#);
        let kind = answer.header("content-type").expect("there");
        assert!(kind.starts_with("text/plain"), "{kind}");
        assert_eq!(get_from(server, "/health?serializable=true").status, 200);
        for path in [
            "/livez",
            "/readyz",
            "/livez/serializable_read",
            "/readyz/linearizable_read",
        ] {
            let answer = get_from(server, path);
            assert_eq!(
                (answer.status, answer.body.trim_end()),
                (200, "ok"),
                "{path}"
            );
            let kind = answer.header("content-type").expect("there");
            assert!(kind.starts_with("text/plain"), "{path}: {kind}");
        }
        assert_eq!(get_from(server, "/readyz/no_such_check").status, 404);
    });
}

/// case 188
#[test]
fn readyz_lists_its_four_checks_and_leaves_out_what_is_excluded() {
    idle(async |server, _| {
        let listed = |path: &str| {
            let answer = get_from(server, path);
            assert_eq!(answer.status, 200, "{path}: {}", answer.body);
            let mut lines: Vec<String> = answer.body.lines().map(str::to_owned).collect();
            assert_eq!(lines.pop().as_deref(), Some("ok"), "{path}");
            lines.sort();
            lines
        };
        let all = [
            "data_corruption",
            "linearizable_read",
            "non_learner",
            "serializable_read",
        ];
        assert_eq!(
            listed("/readyz?verbose"),
            all.map(|name| format!("[+]{name} ok"))
        );
        let answer = get_from(server, "/readyz?verbose&exclude=data_corruption");
        assert_eq!(answer.status, 200);
        assert!(
            !answer.body.contains("[+]data_corruption ok\n"),
            "{}",
            answer.body
        );
        assert!(
            answer.body.contains("[+]linearizable_read ok"),
            "{}",
            answer.body
        );
        assert_eq!(listed("/livez?verbose"), ["[+]serializable_read ok"]);
        assert_eq!(get_from(server, "/readyz?exclude=unknown").status, 200);
    });
}

/// case 188
#[test]
fn a_full_member_is_unhealthy_but_alive_and_ready() {
    fresh(async |server, client: Client| {
        let status = client.status(api::StatusRequest {}).await.expect("status");
        let request = api::AlarmRequest {
            action: ALARM_ACTIVATE,
            member_id: status.leader,
            alarm: NOSPACE,
        };
        client.alarm(request).await.expect("alarm");
        let answer = get_from(server, "/health");
        assert_eq!(answer.status, 503);
        let json: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(json["health"], "false");
        assert!(
            json["reason"]
                .as_str()
                .expect("text")
                .contains("ALARM NOSPACE")
        );
        assert_eq!(get_from(server, "/health?exclude=NOSPACE").status, 200);
        assert_eq!(get_from(server, "/health?exclude=CORRUPT").status, 503);
        assert_eq!(
            get_from(server, "/health?exclude=CORRUPT&exclude=NOSPACE").status,
            200
        );
        assert_eq!(get_from(server, "/livez").status, 200);
        assert_eq!(get_from(server, "/readyz").status, 200);
    });
}

/// case 188: a corrupt member is not ready and says which check failed
#[test]
fn a_corrupt_member_names_the_failed_check() {
    fresh(async |server, client: Client| {
        let status = client.status(api::StatusRequest {}).await.expect("status");
        let request = api::AlarmRequest {
            action: ALARM_ACTIVATE,
            member_id: status.leader,
            alarm: CORRUPT,
        };
        client.alarm(request).await.expect("alarm");
        let answer = get_from(server, "/readyz");
        assert_eq!(answer.status, 503);
        assert!(
            answer.body.contains("[-]data_corruption failed"),
            "{}",
            answer.body
        );
        assert!(
            answer.body.contains("[+]serializable_read ok"),
            "{}",
            answer.body
        );
        assert_eq!(get_from(server, "/readyz/data_corruption").status, 503);
        assert_eq!(get_from(server, "/readyz/serializable_read").status, 200);
        assert_eq!(
            get_from(server, "/readyz?exclude=data_corruption").status,
            200
        );
    });
}

/// Unknown paths are 404, in plain text outside /v3
#[test]
fn unknown_paths_are_not_found() {
    idle(async |server, _| {
        for path in ["/", "/v2/keys", "/nothing", "/v3alpha/kv/range"] {
            assert_eq!(get_from(server, path).status, 404, "{path}");
        }
    });
}

/// What dashboards and alert rules select
#[test]
fn metrics_carry_the_names_that_dashboards_select() {
    idle(async |server, client| {
        client.write("k", "v").await;
        client.range(get("k")).await.expect("range");
        let answer = get_from(server, "/metrics");
        assert_eq!(answer.status, 200);
        assert!(
            answer
                .header("content-type")
                .is_some_and(|kind| kind.starts_with("text/plain"))
        );
        for name in [
            "etcd_server_has_leader 1",
            "etcd_server_is_leader 1",
            "etcd_server_leader_changes_seen_total",
            "etcd_server_proposals_committed_total",
            "etcd_server_proposals_applied_total",
            "etcd_server_proposals_pending",
            "etcd_server_proposals_failed_total",
            "etcd_server_quota_backend_bytes",
            "etcd_server_health_failures",
            "etcd_mvcc_db_total_size_in_bytes",
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "etcd_disk_wal_fsync_duration_seconds_bucket",
            "etcd_disk_wal_fsync_duration_seconds_count",
            "etcd_disk_backend_commit_duration_seconds_bucket",
            "etcd_network_client_grpc_received_bytes_total",
            "etcd_network_client_grpc_sent_bytes_total",
            "etcd_debugging_mvcc_watcher_total",
            "etcd_debugging_mvcc_db_total_size_in_bytes",
            "process_resident_memory_bytes",
            "grpc_server_started_total",
            "grpc_server_handled_total",
        ] {
            let found = answer.body.lines().any(|line| line.starts_with(name));
            // The duplicate under the debugging name left in 3.6.
            let left = name == "etcd_debugging_mvcc_db_total_size_in_bytes";
            assert!(
                found || (left && !server.kind().is_kvnode()),
                "{name} is missing"
            );
        }
        for line in answer
            .body
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let value = line.rsplit(' ').next().expect("a value");
            assert!(value.parse::<f64>().is_ok(), "not a sample: {line}");
        }
    });
}

/// The call counters tell service, method, type and code
#[test]
fn call_counters_move_with_calls() {
    fresh(async |server, client: Client| {
        let counted = |labels: [&str; 3], code: &str| {
            let body = get_from(server, "/metrics").body;
            let line = body.lines().find(|line| {
                line.starts_with("grpc_server_handled_total{")
                    && labels.iter().all(|label| line.contains(label))
                    && line.contains(&format!("grpc_code=\"{code}\""))
            });
            let value = line.and_then(|line| line.rsplit(' ').next());
            value.map_or(0.0, |value| value.parse::<f64>().expect("a number"))
        };
        let put_labels = [
            "grpc_service=\"etcdserverpb.KV\"",
            "grpc_method=\"Put\"",
            "grpc_type=\"unary\"",
        ];
        let (ok, bad) = (
            counted(put_labels, "OK"),
            counted(put_labels, "InvalidArgument"),
        );
        client.write("k", "v").await;
        client.write("k", "v").await;
        refused(client.put(put("", "v")).await, refusal::no_key());
        assert_eq!(counted(put_labels, "OK"), ok + 2.0);
        assert_eq!(counted(put_labels, "InvalidArgument"), bad + 1.0);
        let body = get_from(server, "/metrics").body;
        let watches = body.lines().any(|line| {
            line.starts_with("grpc_server_started_total{")
                && line.contains("grpc_service=\"etcdserverpb.Watch\"")
                && line.contains("grpc_type=\"bidi_stream\"")
        });
        assert!(watches, "counters of every method exist from the start");
    });
}
