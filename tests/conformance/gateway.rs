//! The JSON gateway (cases 182-185), its streams, WebSockets, and who may use it.

mod auth;
mod streams;
mod websocket;

use kvnode_api::json::ROUTES;
use kvnode_api::service::{Kind, Method};
use kvnode_tests::gateway::{base64, post, post_text, post_with};
use kvnode_tests::words::*;
use kvnode_tests::{Client, Options, Server, fresh_with, http, idle};
use serde_json::{Value, json};

/// A key or value as requests carry it.
fn b(text: &str) -> String {
    base64(text)
}

fn ok(server: &Server, path: &str, body: Value) -> Value {
    let (status, answer) = post(server.address(), path, &body);
    assert_eq!(status, 200, "{path} {body}: {answer}");
    answer
}

fn refused_with(server: &Server, path: &str, body: Value, status: u16, code: u32, text: &str) {
    let (got, answer) = post(server.address(), path, &body);
    assert_eq!(
        (got, answer["code"].as_u64()),
        (status, Some(code.into())),
        "{path}: {answer}"
    );
    assert_eq!(answer["message"], text, "{path}");
    if server.kind().is_kvnode() {
        assert_eq!(
            answer["error"], text,
            "{path}: for clients of older gateways"
        );
    }
}

/// case 182
#[test]
fn answers_leave_zeros_out_and_write_large_numbers_as_strings() {
    idle(async |server, client: Client| {
        let put = ok(
            server,
            "/v3/kv/put",
            json!({"key": b("foo"), "value": b("bar")}),
        );
        let revision = client.write("other", "x").await - 1;
        assert_eq!(put["header"]["revision"], revision.to_string());
        assert!(put["header"]["cluster_id"].is_string() && put["header"]["raft_term"].is_string());
        assert_eq!(put.get("prev_kv"), None);
        let got = ok(server, "/v3/kv/range", json!({"key": b("foo")}));
        assert_eq!(
            got["kvs"],
            json!([{
                "key": b("foo"),
                "value": b("bar"),
                "create_revision": revision.to_string(),
                "mod_revision": revision.to_string(),
                "version": "1",
            }])
        );
        assert_eq!((&got["count"], got.get("more")), (&json!("1"), None));
        let nothing = ok(server, "/v3/kv/range", json!({"key": b("absent")}));
        assert_eq!((nothing.get("kvs"), nothing.get("count")), (None, None));
        let answer = post_text(
            server.address(),
            "/v3/kv/range",
            &[],
            &json!({"key": b("foo")}).to_string(),
        );
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(
            answer.header("grpc-metadata-content-type"),
            Some("application/grpc")
        );
    });
}

/// case 182
#[test]
fn requests_are_taken_in_every_form() {
    idle(async |server, client: Client| {
        for (key, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
            client.write(key, value).await;
        }
        let range = |text: String| {
            let answer = post_text(server.address(), "/v3/kv/range", &[], &text);
            assert_eq!(answer.status, 200, "{text}: {}", answer.body);
            let json: Value = serde_json::from_str(&answer.body).expect("JSON");
            let kvs = json["kvs"].as_array().cloned().unwrap_or_default();
            kvs.iter()
                .map(|kv| kv["key"].as_str().expect("a key").to_owned())
                .collect::<Vec<_>>()
        };
        let (a, end) = (b("a"), b("d"));
        let expected = [b("c"), b("b")];
        for text in [
            format!(
                r#"{{"key":"{a}","range_end":"{end}","limit":"2","sort_order":"DESCEND","sort_target":"KEY"}}"#
            ),
            format!(
                r#"{{"key":"{a}","rangeEnd":"{end}","limit":2,"sortOrder":2,"noSuchField":{{"x":[1]}}}}"#
            ),
            format!(
                " {{ \"limit\" : 2, \"sort_order\":\"DESCEND\",\n\"range_end\":\"{end}\",\"key\":\"{a}\" }} "
            ),
        ] {
            assert_eq!(range(text), expected);
        }
        // Both alphabets of base64.
        client.write(b"\xfb\xef\xff", "x").await;
        for key in ["++//", "--__"] {
            assert_eq!(range(format!(r#"{{"key":"{key}"}}"#)), ["++//"]);
        }
        // No body is an empty object, and its type is not looked at.
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let answer = post_text(server.address(), "/v3/maintenance/status", &headers, "");
        assert_eq!(answer.status, 200, "{}", answer.body);
    });
}

/// case 182: transactions nest, compares carry their one-of
#[test]
fn a_transaction_runs_through_the_gateway() {
    idle(async |server, client: Client| {
        let txn = json!({
            "compare": [{"target": "CREATE", "key": b("k"), "create_revision": "0"}],
            "success": [
                {"request_put": {"key": b("k"), "value": b("v")}},
                {"requestTxn": {"success": [{"request_range": {"key": b("k")}}]}},
            ],
            "failure": [{"request_delete_range": {"key": b("k"), "prev_kv": true}}],
        });
        let first = ok(server, "/v3/kv/txn", txn.clone());
        assert_eq!(first["succeeded"], true);
        let inner = &first["responses"][1]["response_txn"]["responses"][0]["response_range"];
        assert_eq!(inner["kvs"][0]["value"], b("v"));
        let second = ok(server, "/v3/kv/txn", txn);
        assert_eq!(second.get("succeeded"), None, "false is left out");
        let deleted = &second["responses"][0]["response_delete_range"];
        assert_eq!(
            (&deleted["deleted"], &deleted["prev_kvs"][0]["key"]),
            (&json!("1"), &json!(b("k")))
        );
        assert_eq!(client.read("k").await, None);
    });
}

/// case 185
#[test]
fn errors_have_their_code_text_and_status() {
    idle(async |server, _| {
        let kvnode = server.kind().is_kvnode();
        refused_with(
            server,
            "/v3/lease/revoke",
            json!({"ID": 12345}),
            404,
            5,
            "etcdserver: requested lease not found",
        );
        refused_with(
            server,
            "/v3/kv/range",
            json!({}),
            400,
            3,
            "etcdserver: key is not provided",
        );
        let future = json!({"key": b("k"), "revision": "999999999"});
        let text = "etcdserver: mvcc: required revision is a future revision";
        refused_with(server, "/v3/kv/range", future, 400, 11, text);
        // case 139
        let nobody = json!({"name": b("nobody")});
        refused_with(
            server,
            "/v3/election/leader",
            nobody,
            500,
            2,
            "election: no leader",
        );
        for bad in [
            r#"{"key":"*"}"#,
            r#"{"key":1}"#,
            r#"{"key":"Zg==","limit":"x"}"#,
            r#"{"key":"Zg==","sort_order":"SIDEWAYS"}"#,
            r#"{"key":"Zg==""#,
            "[]",
        ] {
            let answer = post_text(server.address(), "/v3/kv/range", &[], bad);
            assert_eq!(answer.status, 400, "{bad}: {}", answer.body);
            let json: Value = serde_json::from_str(&answer.body).expect("JSON");
            assert_eq!(json["code"], 3, "{bad}");
            assert!(!json["message"].as_str().expect("text").is_empty());
        }
        let answer = post_text(server.address(), "/v3/no/such/route", &[], "{}");
        assert_eq!(answer.status, 404);
        let wrong_method = http::get(server.address(), "/v3/kv/range").expect("an answer");
        if kvnode {
            let json: Value = serde_json::from_str(&answer.body).expect("JSON");
            assert_eq!(
                (&json["code"], &json["message"]),
                (&json!(5), &json!("Not Found"))
            );
            assert_eq!(wrong_method.status, 501);
            let json: Value = serde_json::from_str(&wrong_method.body).expect("JSON");
            assert_eq!(
                (&json["code"], &json["message"]),
                (&json!(12), &json!("Method Not Allowed"))
            );
        }
        let older = post_text(server.address(), "/v3alpha/kv/range", &[], "{}");
        assert_eq!(older.status, 404);
    });
}

#[test]
fn the_old_beta_paths_lead_to_the_present_ones() {
    idle(async |server, client: Client| {
        ok(
            server,
            "/v3beta/kv/put",
            json!({"key": b("k"), "value": b("v")}),
        );
        assert_eq!(client.read("k").await.expect("there").value, "v");
    });
}

/// Every unary route reaches its method: none answers as if there were no such thing.
#[test]
fn every_route_leads_somewhere() {
    idle(async |server, _| {
        // What changes the server for the tests after this one, or waits, is asked in vain.
        let bodies = |path: &str| match path {
            "/v3/auth/enable" | "/v3/lock/lock" | "/v3/election/campaign" => None,
            "/v3/kv/put" => Some(json!({})),
            "/v3/kv/compaction" => Some(json!({"revision": 99_999_999})),
            "/v3/cluster/member/add" => Some(json!({"peerURLs": ["nonsense"]})),
            "/v3/auth/user/add" | "/v3/auth/role/add" => Some(json!({"name": ""})),
            _ => Some(json!({})),
        };
        for route in ROUTES {
            if route.method.kind() != Kind::Unary || route.method == Method::Downgrade {
                continue;
            }
            let Some(body) = bodies(route.path) else {
                continue;
            };
            let (status, answer) = post(server.address(), route.path, &body);
            assert!(answer.is_object(), "{}: {status} {answer}", route.path);
            let lost = answer["code"] == 12 || answer["message"] == "Not Found";
            assert!(!lost, "{}: {status} {answer}", route.path);
        }
        let members = ok(server, "/v3/cluster/member/list", json!({}));
        assert_eq!(members["members"][0]["clientURLs"][0], server.url());
        let locked = ok(server, "/v3/lock/lock", json!({"name": b("l")}));
        ok(server, "/v3/lock/unlock", json!({"key": locked["key"]}));
        let elected = ok(
            server,
            "/v3/election/campaign",
            json!({"name": b("e"), "value": b("v")}),
        );
        let leader = &elected["leader"];
        ok(
            server,
            "/v3/election/proclaim",
            json!({"leader": leader, "value": b("w")}),
        );
        let seen = ok(server, "/v3/election/leader", json!({"name": b("e")}));
        assert_eq!(seen["kv"]["value"], b("w"));
        ok(server, "/v3/election/resign", json!({"leader": leader}));
    });
}

/// Leases by all of their paths.
#[test]
fn leases_are_granted_asked_for_and_revoked() {
    idle(async |server, _| {
        let granted = ok(server, "/v3/lease/grant", json!({"TTL": 600}));
        let id = granted["ID"].clone();
        assert!(id.is_string() && granted["TTL"] == "600", "{granted}");
        ok(server, "/v3/kv/put", json!({"key": b("k"), "lease": id}));
        for path in ["/v3/lease/timetolive", "/v3/kv/lease/timetolive"] {
            let shown = ok(server, path, json!({"ID": id, "keys": true}));
            assert_eq!(
                (&shown["grantedTTL"], &shown["keys"]),
                (&json!("600"), &json!([b("k")]))
            );
        }
        for path in ["/v3/lease/leases", "/v3/kv/lease/leases"] {
            assert_eq!(ok(server, path, json!({}))["leases"], json!([{"ID": id}]));
        }
        ok(server, "/v3/kv/lease/revoke", json!({"ID": id}));
        let gone = ok(server, "/v3/lease/timetolive", json!({"ID": id}));
        assert_eq!((&gone["TTL"], gone.get("grantedTTL")), (&json!("-1"), None));
    });
}

#[test]
fn requests_have_the_size_limits_of_grpc() {
    idle(async |server, client: Client| {
        let large = |bytes: usize| json!({"key": b("k"), "value": base64(vec![b'x'; bytes])});
        ok(server, "/v3/kv/put", large(1_500_000));
        assert_eq!(
            client.read("k").await.expect("there").value.len(),
            1_500_000
        );
        let text = "etcdserver: request is too large";
        refused_with(server, "/v3/kv/put", large(1_600_000), 400, 3, text);
        let (status, answer) = post(server.address(), "/v3/kv/put", &large(2_200_000));
        assert_eq!((status, &answer["code"]), (429, &json!(8)), "{answer}");
        if server.kind().is_kvnode() {
            // Refused before it is all read: the connection may end before the client has sent everything.
            let body = vec![b' '; 8 << 20];
            match http::request(server.address(), "POST", "/v3/kv/put", &[], &body) {
                Ok(answer) => assert_eq!(answer.status, 429),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        // A large answer is whole.
        let got = ok(server, "/v3/kv/range", json!({"key": b("k")}));
        assert_eq!(
            got["kvs"][0]["value"].as_str().expect("text").len(),
            2_000_000
        );
    });
}

/// Nesting is refused long before it could use up a stack.
#[test]
fn deep_nesting_is_refused() {
    idle(async |server, _| {
        for text in ["[".repeat(500_000), "{\"key\":".repeat(200_000)] {
            let body = format!("{{\"x\":{text}");
            let answer = post_text(server.address(), "/v3/kv/range", &[], &body);
            assert_eq!(answer.status, 400, "{}", answer.body);
        }
        let deep = format!(
            "{}{{}}{}",
            r#"{"success":[{"request_txn":"#.repeat(10_000),
            "}]}".repeat(10_000)
        );
        let answer = post_text(server.address(), "/v3/kv/txn", &[], &deep);
        assert_eq!(answer.status, 400, "{}", answer.body);
        ok(server, "/v3/maintenance/status", json!({}));
    });
}

#[test]
fn metadata_and_deadlines_travel_in_headers() {
    idle(async |server, client: Client| {
        let leader = [("grpc-metadata-hasleader", "true")];
        let (status, _) = post_with(
            server.address(),
            "/v3/kv/range",
            &leader,
            &json!({"key": b("k")}),
        );
        assert_eq!(status, 200, "there is a leader");
        let lease = client.lease_grant(grant(600)).await.expect("a lease").id;
        client.lock(lock_on("l", lease)).await.expect("the lock");
        let hasty = [("grpc-timeout", "300m")];
        let (status, answer) = post_with(
            server.address(),
            "/v3/lock/lock",
            &hasty,
            &json!({"name": b("l")}),
        );
        assert_eq!((status, &answer["code"]), (504, &json!(4)), "{answer}");
        // And the call is over for the server too.
        for _ in 0..1000 {
            let found = client.range(span("l/", "l0")).await.expect("a range");
            if found.count == 1 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the waiting key stays");
    });
}

/// The gateway over HTTP/2, beside gRPC on one connection.
#[test]
fn http2_carries_json_too() {
    idle(async |server, client: Client| {
        let ask = async |path: &str, body: Value| {
            let request = client.request(path, &[("content-type", "application/json")]);
            let answer = client.raw(request, body.to_string().as_bytes()).await;
            let json: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
            (answer.http_status, json)
        };
        if !server.kind().is_kvnode() {
            // etcd sends every cleartext HTTP/2 connection to gRPC.
            return;
        }
        let (status, _) = ask("/v3/kv/put", json!({"key": b("k"), "value": b("v")})).await;
        assert_eq!(status, 200);
        let (status, got) = ask("/v3/kv/range", json!({"key": b("k")})).await;
        assert_eq!((status, &got["kvs"][0]["value"]), (200, &json!(b("v"))));
        let (status, answer) = ask("/v3/lease/revoke", json!({"ID": 12345})).await;
        assert_eq!((status, &answer["code"]), (404, &json!(5)));
        assert_eq!(client.read("k").await.expect("there").value, "v");
    });
}

/// A caller who leaves while waiting, over HTTP/1.1.
#[test]
fn a_caller_who_hangs_up_leaves_no_key() {
    idle(async |server, client: Client| {
        let lease = client.lease_grant(grant(600)).await.expect("a lease").id;
        client.lock(lock_on("l", lease)).await.expect("the lock");
        let until = async |count: i64| {
            for _ in 0..1000 {
                let found = client.range(span("l/", "l0")).await.expect("a range");
                if found.count == count {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            panic!("never {count} keys");
        };
        use std::io::Write;
        let mut socket = std::net::TcpStream::connect(server.address()).expect("a connection");
        let body = json!({"name": b("l")}).to_string();
        write!(
            socket,
            "POST /v3/lock/lock HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("the server reads");
        until(2).await;
        drop(socket);
        until(1).await;
    });
}

#[test]
fn only_listed_origins_may_read_answers() {
    let options = Options::default().arg("--cors=http://good.example,http://fine.example");
    fresh_with(options, async |server, _| {
        let asked = |origin: &str, method: &str, path: &str| {
            let headers = [("origin", origin)];
            let answer = http::request(server.address(), method, path, &headers, b"{}");
            let answer = answer.expect("an answer");
            let allowed = answer
                .header("access-control-allow-origin")
                .map(str::to_owned);
            (answer.status, allowed)
        };
        for (method, path) in [
            ("OPTIONS", "/v3/kv/range"),
            ("POST", "/v3/maintenance/status"),
            ("GET", "/health"),
        ] {
            for good in ["http://good.example", "http://fine.example"] {
                assert_eq!(
                    asked(good, method, path),
                    (200, Some(good.to_owned())),
                    "{path}"
                );
            }
            assert_eq!(
                asked("http://bad.example", method, path),
                (200, None),
                "{path}"
            );
        }
    });
}

/// A page that has its own name resolve to this address is not answered.
#[test]
fn only_listed_hosts_are_answered() {
    let options = Options::default().arg("--host-whitelist=127.0.0.1,db.example");
    fresh_with(options, async |server, client: Client| {
        let asked = |host: &str, path: &str| {
            use std::io::{Read, Write};
            let mut socket = std::net::TcpStream::connect(server.address()).expect("connected");
            let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            socket.write_all(head.as_bytes()).expect("the server reads");
            let mut answer = String::new();
            socket.read_to_string(&mut answer).expect("an answer");
            answer
                .split(' ')
                .nth(1)
                .and_then(|status| status.parse::<u16>().ok())
        };
        for good in ["127.0.0.1:2379", "127.0.0.1", "db.example:1"] {
            assert_eq!(asked(good, "/version"), Some(200), "{good}");
        }
        for bad in ["evil.example", "evil.example:2379", "db.example.evil"] {
            for path in ["/version", "/v3/kv/range", "/health"] {
                assert_eq!(asked(bad, path), Some(421), "{bad}{path}");
            }
        }
        client.write("k", "v").await;
    });
}

#[test]
fn the_gateway_can_be_switched_off() {
    let options = Options::default().arg("--enable-grpc-gateway=false");
    fresh_with(options, async |server, client: Client| {
        let answer = post_text(server.address(), "/v3/kv/range", &[], "{}");
        assert_eq!(answer.status, 404);
        assert_eq!(
            http::get(server.address(), "/version")
                .expect("an answer")
                .status,
            200
        );
        client.write("k", "v").await;
    });
}

/// Calls through the gateway are counted as what they are.
#[test]
fn calls_are_counted_as_grpc_calls() {
    idle(async |server, _| {
        let count = || {
            let body = http::get(server.address(), "/metrics")
                .expect("metrics")
                .body;
            let line = body.lines().find(|line| {
                line.starts_with("grpc_server_handled_total{")
                    && line.contains("grpc_method=\"Put\"")
                    && line.contains("grpc_code=\"OK\"")
            });
            let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            value.unwrap_or(0.0)
        };
        let before = count();
        ok(
            server,
            "/v3/kv/put",
            json!({"key": b("k"), "value": b("v")}),
        );
        assert_eq!(count(), before + 1.0);
    });
}
