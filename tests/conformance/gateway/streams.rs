//! Streams over HTTP/1.1 and HTTP/2 (cases 183, 184).

use std::time::Duration;

use bytes::Bytes;
use kvnode_tests::gateway::{Stream, base64};
use kvnode_tests::words::*;
use kvnode_tests::{Client, Server, idle};
use serde_json::{Value, json};

use super::{b, ok};

/// etcd does not answer over HTTP/1.1 before the request's body has ended.
fn answers_open_bodies(server: &Server) -> bool {
    server.kind().is_kvnode()
}

/// case 183
#[test]
fn a_watch_tells_that_it_is_there_and_then_each_event_at_once() {
    idle(async |server, client: Client| {
        if !answers_open_bodies(server) {
            return;
        }
        let mut watch = Stream::open(server.address(), "/v3/watch", &[]);
        watch
            .say(&json!({"create_request": {"key": b("k"), "range_end": b("l"), "prev_kv": true}}));
        let created = watch.result();
        assert_eq!(
            (watch.status(), &created["created"]),
            (200, &json!(true)),
            "{created}"
        );
        assert_eq!(
            watch.header("content-type").as_deref(),
            Some("application/json")
        );
        assert_eq!(created.get("watch_id"), None, "number 0 is left out");
        let revision = client.write("k", "v").await;
        let put = watch.result();
        assert_eq!(put["header"]["revision"], revision.to_string());
        assert_eq!(put["events"][0]["kv"]["value"], b("v"));
        assert_eq!(put["events"][0].get("type"), None, "PUT is left out");
        client.remove("k").await;
        let delete = watch.result();
        assert_eq!(delete["events"][0]["type"], "DELETE");
        assert_eq!(delete["events"][0]["prev_kv"]["value"], b("v"));
        // The stream goes both ways: more watchers, one less, all on it.
        watch
            .say(&json!({"createRequest": {"key": b("x"), "watchId": 7, "filters": ["NODELETE"]}}));
        assert_eq!(watch.result()["watch_id"], "7");
        client.remove("x").await;
        client.write("x", "1").await;
        let event = watch.result();
        assert_eq!(
            (&event["watch_id"], &event["events"][0]["kv"]["key"]),
            (&json!("7"), &json!(b("x")))
        );
        watch.say(&json!({"cancel_request": {"watch_id": 7}}));
        assert_eq!(watch.result()["canceled"], true);
    });
}

/// case 183: a refusal is a result
#[test]
fn a_refused_watch_is_a_result_and_the_stream_goes_on() {
    idle(async |server, client: Client| {
        if !answers_open_bodies(server) {
            return;
        }
        let mut watch = Stream::open(server.address(), "/v3/watch", &[]);
        watch.say(&json!({"create_request": {"key": b("k"), "range_end": b("j")}}));
        let refused = watch.result();
        assert_eq!(
            (&refused["created"], &refused["canceled"]),
            (&json!(true), &json!(true))
        );
        assert_eq!(
            (&refused["watch_id"], &refused["cancel_reason"]),
            (&json!("-1"), &json!("mvcc: watcher range is empty"))
        );
        watch.say(&json!({"create_request": {"key": b("k")}}));
        assert_eq!(watch.result()["created"], true);
        client.write("k", "v").await;
        assert!(watch.result()["events"].is_array());
    });
}

/// case 183
#[test]
fn the_end_of_the_body_does_not_end_a_watch() {
    idle(async |server, client: Client| {
        let mut watch = Stream::open(server.address(), "/v3/watch", &[]);
        watch.say(&json!({"create_request": {"key": b("k")}}));
        watch.end();
        assert_eq!(watch.result()["created"], true);
        client.write("k", "v").await;
        assert_eq!(watch.result()["events"][0]["kv"]["key"], b("k"));
    });
}

/// Objects need not come in one piece, nor one at a time.
#[test]
fn objects_are_found_however_the_body_is_cut() {
    idle(async |server, _| {
        if !answers_open_bodies(server) {
            return;
        }
        let mut watch = Stream::open(server.address(), "/v3/watch", &[]);
        let create = json!({"create_request": {"key": b("k")}}).to_string();
        for piece in create.as_bytes().chunks(7) {
            watch.say_text(std::str::from_utf8(piece).expect("ASCII"));
        }
        assert_eq!(watch.result()["created"], true);
        watch.say_text(&format!("{create} {create}\n{create}"));
        for id in ["1", "2", "3"] {
            assert_eq!(watch.result()["watch_id"], id);
        }
    });
}

/// case 184
#[test]
fn two_objects_in_one_body_are_answered_in_two_lines() {
    idle(async |server, client: Client| {
        let lease = client.lease_grant(grant(600)).await.expect("a lease").id;
        let mut alive = Stream::open(server.address(), "/v3/lease/keepalive", &[]);
        let one = json!({"ID": lease}).to_string();
        alive.say_text(&format!("{one}{one}"));
        alive.end();
        for _ in 0..2 {
            let answer = alive.result();
            assert_eq!(answer["ID"], lease.to_string());
            assert_eq!(answer["TTL"], "600");
        }
        assert_eq!(alive.line(), None);
    });
}

/// case 184
#[test]
fn a_keepalive_answers_each_object_and_ends_with_the_body() {
    idle(async |server, client: Client| {
        if !answers_open_bodies(server) {
            return;
        }
        let lease = client.lease_grant(grant(600)).await.expect("a lease").id;
        let mut alive = Stream::open(server.address(), "/v3/lease/keepalive", &[]);
        let one = json!({"ID": lease}).to_string();
        alive.say_text(&format!("{one}{one}"));
        for _ in 0..2 {
            let answer = alive.result();
            assert_eq!(
                (&answer["ID"], &answer["TTL"]),
                (&json!(lease.to_string()), &json!("600"))
            );
        }
        alive.say(&json!({"ID": "12345"}));
        let unknown = alive.result();
        assert_eq!(
            (&unknown["ID"], unknown.get("TTL")),
            (&json!("12345"), None)
        );
        alive.end();
        assert_eq!(alive.line(), None);
    });
}

/// A client that waits for the head before it sends gets it.
#[test]
fn a_stream_that_waits_for_requests_has_answered_its_head() {
    idle(async |server, _| {
        if !server.kind().is_kvnode() {
            return;
        }
        for path in ["/v3/watch", "/v3/lease/keepalive"] {
            let mut stream = Stream::open(server.address(), path, &[]);
            assert_eq!(stream.status(), 200, "{path}");
        }
    });
}

#[test]
fn bad_text_ends_a_stream_with_an_error() {
    idle(async |server, _| {
        if !answers_open_bodies(server) {
            return;
        }
        let mut first = Stream::open(server.address(), "/v3/watch", &[]);
        first.say_text("[1]");
        first.end();
        if server.kind().is_kvnode() {
            // Who waits for requests has answered the head; the text may have come before that.
            assert!(matches!(first.status(), 200 | 400));
            let line = first.line().expect("an error");
            assert_eq!(
                (&line["error"]["code"], &line["error"]["grpc_code"]),
                (&json!(3), &json!(3))
            );
            assert_eq!(line["error"]["http_code"], 400);
            assert_eq!(first.line(), None);
        }
        let mut later = Stream::open(server.address(), "/v3/watch", &[]);
        later.say(&json!({"create_request": {"key": b("k")}}));
        assert_eq!(later.result()["created"], true);
        later.say_text(r#"{"create_request":{"key":"*"}}"#);
        if server.kind().is_kvnode() {
            let line = later.line().expect("an error");
            assert_eq!(line["error"]["code"], 3, "{line}");
            assert_eq!(later.line(), None);
        }
    });
}

#[test]
fn a_snapshot_comes_in_lines_and_ends_with_its_digest() {
    idle(async |server, client: Client| {
        client.write("k", vec![b'x'; 100_000]).await;
        let mut snapshot = Stream::open(server.address(), "/v3/maintenance/snapshot", &[]);
        snapshot.end();
        let mut lines = Vec::new();
        while let Some(line) = snapshot.line() {
            assert!(line["result"]["blob"].is_string(), "{line}");
            lines.push(line);
        }
        let last = &lines.last().expect("lines")["result"];
        // 32 bytes are 44 characters of base64.
        assert_eq!(last["blob"].as_str().map(str::len), Some(44), "{last}");
        assert_eq!(last.get("remaining_bytes"), None, "nothing is left");
    });
}

/// case 140, through the gateway
#[test]
fn an_election_is_observed_in_lines() {
    idle(async |server, _| {
        let mut seen = Stream::open(server.address(), "/v3/election/observe", &[]);
        seen.say(&json!({"name": b("e")}));
        seen.end();
        let campaign = json!({"name": b("e"), "value": b("a")});
        let leader = ok(server, "/v3/election/campaign", campaign)["leader"].clone();
        assert_eq!(seen.result()["kv"]["value"], b("a"));
        ok(
            server,
            "/v3/election/proclaim",
            json!({"leader": leader, "value": b("b")}),
        );
        assert_eq!(seen.result()["kv"]["value"], b("b"));
    });
}

/// A reader that does not read costs the server no more than one over gRPC, and misses nothing.
#[test]
fn a_slow_reader_gets_everything_in_order() {
    idle(async |server, client: Client| {
        if !answers_open_bodies(server) {
            return;
        }
        let mut watch = Stream::open(server.address(), "/v3/watch", &[]);
        watch.say(&json!({"create_request": {"key": b("k")}}));
        assert_eq!(watch.result()["created"], true);
        // More than sockets and buffers hold.
        let value = vec![b'v'; 50_000];
        let mut last = 0;
        for _ in 0..400 {
            last = client.write("k", &value).await;
        }
        let mut next = last - 399;
        while next <= last {
            for event in watch.result()["events"].as_array().expect("events") {
                assert_eq!(event["kv"]["mod_revision"], next.to_string());
                next += 1;
            }
        }
    });
}

/// Both directions of a stream at once over HTTP/2, beside gRPC.
#[test]
fn a_watch_runs_over_http2() {
    idle(async |server, client: Client| {
        if !server.kind().is_kvnode() {
            return;
        }
        let (mut body, response) = client.half_open_json("/v3/watch").await;
        let create = json!({"create_request": {"key": b("k")}}).to_string();
        body.send_data(Bytes::from(create), false).expect("open");
        let mut answer = response.await.expect("a response").into_body();
        let mut text = Vec::new();
        let mut line = async || -> Value {
            loop {
                if let Some(at) = text.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = text.drain(..=at).collect();
                    return serde_json::from_slice(&line).expect("JSON");
                }
                let piece = tokio::time::timeout(Duration::from_secs(15), answer.data());
                let piece = piece.await.expect("in time").expect("more").expect("data");
                let _ = answer.flow_control().release_capacity(piece.len());
                text.extend_from_slice(&piece);
            }
        };
        assert_eq!(line().await["result"]["created"], true);
        for value in ["1", "2"] {
            client.write("k", value).await;
            assert_eq!(
                line().await["result"]["events"][0]["kv"]["value"],
                base64(value)
            );
        }
        let more = json!({"create_request": {"key": b("x")}}).to_string();
        body.send_data(Bytes::from(more), true).expect("open");
        assert_eq!(line().await["result"]["watch_id"], "1");
    });
}

/// What a client leaves behind, the server forgets.
#[test]
fn a_client_that_hangs_up_takes_its_watchers_along() {
    idle(async |server, _| {
        if !answers_open_bodies(server) {
            return;
        }
        let watchers = || {
            let body = kvnode_tests::http::get(server.address(), "/metrics")
                .expect("metrics")
                .body;
            let line = body
                .lines()
                .find(|line| line.starts_with("etcd_debugging_mvcc_watcher_total "));
            let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            value.expect("a number") as i64
        };
        let until = |wanted: i64| {
            for _ in 0..1000 {
                if watchers() == wanted {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("{} watchers, not {wanted}", watchers());
        };
        // The server's former users may only just have hung up: theirs go first.
        until(0);
        let mut watch = Stream::open(server.address(), "/v3/watch", &[]);
        watch.say(&json!({"create_request": {"key": b("k")}}));
        assert_eq!(watch.result()["created"], true);
        until(1);
        drop(watch);
        until(0);
    });
}
