//! What an operator's tools see: metrics, the rules and the dashboard that are shipped for them, listeners, log lines, limits.

use std::path::Path;
use std::time::{Duration, Instant};

use kvnode_api as api;
use kvnode_tests::prometheus::{Scrape, names_in};
use kvnode_tests::words::number::*;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Options, Server, code, fresh, fresh_with, http, server};

fn scrape(server: &Server) -> Scrape {
    let answer = http::get(server.address(), "/metrics").expect("answers");
    Scrape::parse(&answer.body).unwrap_or_else(|error| panic!("/metrics: {error}"))
}

/// Polls: counters of other threads, and what the node does by itself, come a little later.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn packaged(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join("packaging");
    std::fs::read_to_string(root.join(path)).expect("it is shipped")
}

#[test]
fn every_metric_that_rules_and_dashboard_use_is_served() {
    fresh_with(
        Options::default().arg("--metrics=extensive"),
        async |server, client| {
            if !server.kind().is_kvnode() {
                return;
            }
            client.write("k", "v").await;
            client.range(get("k")).await.expect("range");
            let lease = client.lease(60).await;
            let (mut requests, mut answers) = client.keep_alive().await;
            requests.send(&api::LeaseKeepAliveRequest { id: lease });
            answers.next().await;
            let scrape = scrape(server);
            for file in ["prometheus/kvnode-rules.yaml", "grafana/kvnode.json"] {
                let names = names_in(&packaged(file));
                assert!(names.len() > 15, "{file} names {names:?}");
                for name in names {
                    // Samples appear with the first alarm or call; the family is there from the start.
                    assert!(
                        scrape.knows(&name),
                        "{file} uses {name}, which /metrics does not have"
                    );
                }
            }
            assert!(
                scrape.knows("grpc_server_handling_seconds_bucket"),
                "extensive"
            );
            let put = [("grpc_method", "Put"), ("grpc_service", "etcdserverpb.KV")];
            assert_eq!(scrape.sum("grpc_server_started_total", &put), 1.0);
            assert_eq!(scrape.sum("grpc_server_handling_seconds_count", &put), 1.0);
            let keepalive = [
                ("grpc_method", "LeaseKeepAlive"),
                ("grpc_type", "bidi_stream"),
            ];
            assert_eq!(
                scrape.sum("grpc_server_msg_received_total", &keepalive),
                1.0
            );
            assert_eq!(scrape.sum("grpc_server_msg_sent_total", &keepalive), 1.0);
            // Every method and code is there before anybody calls it.
            let never = [("grpc_method", "Campaign"), ("grpc_code", "Unavailable")];
            let there = scrape.samples.iter().any(|sample| {
                sample.name == "grpc_server_handled_total"
                    && never
                        .iter()
                        .all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
            });
            assert!(there, "pre-created with 0");
        },
    );
}

#[test]
fn latencies_of_rpcs_are_served_only_if_asked_for() {
    fresh(async |server, _| {
        if server.kind().is_kvnode() {
            assert!(!scrape(server).knows("grpc_server_handling_seconds_bucket"));
        }
    });
}

#[test]
fn a_metrics_listener_serves_metrics_and_health_and_nothing_else() {
    let port = server::free_port();
    let argument = format!("--listen-metrics-urls=http://127.0.0.1:{port}");
    fresh_with(Options::default().arg(argument), async |server, _| {
        if !server.kind().is_kvnode() {
            return;
        }
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let status = |path: &str| http::get(address, path).expect("answers").status;
        for path in [
            "/metrics",
            "/health",
            "/livez",
            "/readyz",
            "/readyz/non_learner",
        ] {
            assert_eq!(status(path), 200, "{path}");
        }
        for path in [
            "/version",
            "/debug/vars",
            "/v3/kv/range",
            "/",
            "/admin/status",
        ] {
            assert_eq!(status(path), 404, "{path}");
        }
        let vars = http::get(server.address(), "/debug/vars").expect("answers");
        let vars: serde_json::Value = serde_json::from_str(&vars.body).expect("JSON");
        assert_eq!(vars["raft.status"]["raftState"], "StateLeader");
        assert!(
            vars["file_descriptor_limit"]
                .as_u64()
                .is_some_and(|limit| limit > 0)
        );
        let profile = http::get(server.address(), "/debug/pprof/").expect("answers");
        assert_eq!(profile.status, 404, "no profiles are served");
    });
}

#[test]
fn health_checks_are_counted_by_endpoint_and_name() {
    fresh(async |server, _| {
        if !server.kind().is_kvnode() {
            return;
        }
        let asked = |scrape: &Scrape| {
            let labels = [
                ("type", "readyz"),
                ("name", "linearizable_read"),
                ("status", "success"),
            ];
            scrape.sum("etcd_server_healthchecks_total", &labels)
        };
        let before = scrape(server);
        assert_eq!(
            http::get(server.address(), "/readyz")
                .expect("answers")
                .status,
            200
        );
        let after = scrape(server);
        assert_eq!(asked(&after), asked(&before) + 1.0);
        let labels = [("type", "readyz"), ("name", "linearizable_read")];
        assert_eq!(after.sum("etcd_server_healthcheck", &labels), 1.0);
        let health = |scrape: &Scrape| scrape.sum("etcd_server_health_success", &[]);
        http::get(server.address(), "/health").expect("answers");
        assert_eq!(health(&scrape(server)), health(&after) + 1.0);
    });
}

#[test]
fn what_a_limit_turns_away_is_counted_under_its_name() {
    let options = Options::default()
        .arg("--max-request-bytes=65536")
        .arg("--max-txn-ops=3")
        .arg("--max-range-bytes=100000");
    fresh_with(options, async |server, client: Client| {
        if !server.kind().is_kvnode() {
            return;
        }
        let refused_by =
            |limit: &str| scrape(server).sum("kvnode_rejected_total", &[("limit", limit)]);
        refused(
            client.put(put("k", vec![b'x'; 70_000])).await,
            refusal::too_large(),
        );
        assert_eq!(refused_by("request_bytes"), 1.0);
        let ops = (0..4).map(|n| put(format!("t{n}"), "v").op()).collect();
        client
            .txn(then(ops))
            .await
            .expect_err("four operations, three are allowed");
        assert_eq!(refused_by("txn_ops"), 1.0);
        for number in 0..4 {
            client.write(format!("k{number}"), vec![b'x'; 40_000]).await;
        }
        let status = client
            .range(all())
            .await
            .expect_err("160 000 bytes, 100 000 are allowed");
        assert_eq!(status.code, code::RESOURCE_EXHAUSTED);
        assert!(status.message.contains("limit of 100000"), "{status}");
        assert_eq!(refused_by("range_bytes"), 1.0);
        // The same keys in parts are fine, and nothing stays counted as under way.
        let mut part = all();
        part.limit = 2;
        assert_eq!(client.range(part).await.expect("80 000 bytes").kvs.len(), 2);
        until("answers that were taken are not under way", async || {
            scrape(server).sum("kvnode_range_bytes_inflight", &[]) == 0.0
        })
        .await;
    });
}

#[test]
fn a_slow_request_has_a_line_that_shows_its_key_and_not_its_value() {
    fresh_with(
        Options::default().arg("--warning-unary-request-duration=1ns"),
        async |server, client: Client| {
            if !server.kind().is_kvnode() {
                return;
            }
            client.write("the-key", "the-value").await;
            until("the line is written", async || {
                server
                    .output()
                    .contains("slow request: etcdserverpb.KV/Put")
            })
            .await;
            let output = server.output();
            let line = output
                .lines()
                .find(|line| line.contains("slow request"))
                .expect("there");
            assert!(
                line.contains("the-key") && !line.contains("the-value"),
                "{line}"
            );
            assert!(scrape(server).sum("kvnode_slow_requests_total", &[]) >= 1.0);
        },
    );
}

#[test]
fn a_full_quota_warns_first_and_ends_its_alarm_after_a_compaction() {
    const QUOTA: usize = 4 << 20;
    let options = Options::default().arg(format!("--quota-backend-bytes={QUOTA}"));
    fresh_with(options, async |server, client: Client| {
        if !server.kind().is_kvnode() {
            return;
        }
        let value = vec![b'x'; 256 << 10];
        let mut warned = false;
        let mut number = 0;
        loop {
            assert!(number < 40, "twice the quota was accepted");
            number += 1;
            if client
                .put(put(format!("fill{number:03}"), &value))
                .await
                .is_err()
            {
                break;
            }
            if number == 14 {
                // 14 of 16: above 80 percent.
                until("the operator is warned", async || {
                    server.output().contains("of the quota are used: compact")
                })
                .await;
                warned = true;
            }
        }
        assert!(warned, "there was time for it");
        refused(client.put(put("small", "v")).await, refusal::no_space());
        client
            .delete_range(delete_span("fill", "film"))
            .await
            .expect("delete");
        // Deleting alone leaves it in history.
        refused(client.put(put("small", "v")).await, refusal::no_space());
        let revision = client.revision().await;
        client.compact(compact(revision)).await.expect("compact");
        until("the alarm ends by itself", async || {
            client.put(put("small", "v")).await.is_ok()
        })
        .await;
        let request = api::AlarmRequest {
            action: ALARM_GET,
            ..Default::default()
        };
        assert_eq!(client.alarm(request).await.expect("alarms").alarms, []);
    });
}

#[test]
fn a_full_log_file_is_rotated() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("kv.log");
    std::fs::write(&file, vec![b'x'; 1 << 20]).expect("a file from before");
    let options = Options::default()
        .arg(format!("--log-outputs={}", file.display()))
        .arg("--enable-log-rotation")
        .arg(r#"--log-rotation-config-json={"maxsize":1,"maxbackups":2}"#);
    // The harness reads its ready line from the output, so this start is not waited for that way.
    let mut server = Server::begin(options);
    let begun = Instant::now();
    let rotated = || {
        let names = std::fs::read_dir(home.path()).expect("a directory");
        names
            .filter(|name| name.as_ref().is_ok_and(|name| name.file_name() != "kv.log"))
            .count()
    };
    if server.kind().is_kvnode() {
        while rotated() == 0 {
            assert!(begun.elapsed() < Duration::from_secs(60), "never rotated");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(std::fs::metadata(&file).expect("begun anew").len() < 1 << 20);
    }
    server.kill();
}
