//! The gateway over WebSockets.

use kvnode_tests::gateway::{Heard, WebSocket, post};
use kvnode_tests::words::*;
use kvnode_tests::{Client, http, idle};
use serde_json::json;

use super::b;

#[test]
fn a_watch_runs_in_text_frames_both_ways() {
    idle(async |server, client: Client| {
        let mut socket = WebSocket::open(server.address(), "/v3/watch", &[]).expect("an upgrade");
        socket.say(&json!({"create_request": {"key": b("k")}}));
        assert_eq!(socket.result()["created"], true);
        client.write("k", "v").await;
        assert_eq!(socket.result()["events"][0]["kv"]["value"], b("v"));
        socket.say(&json!({"create_request": {"key": b("x")}}));
        assert_eq!(socket.result()["watch_id"], "1");
        client.write("x", vec![b'x'; 200_000]).await;
        let large = socket.result();
        assert_eq!(
            large["events"][0]["kv"]["value"]
                .as_str()
                .expect("text")
                .len(),
            266_668
        );
        socket.close(1000);
        assert_eq!(socket.hear(), Heard::Close(1000));
        assert_eq!(socket.hear(), Heard::End);
    });
}

#[test]
fn pings_are_answered_and_messages_may_come_in_pieces() {
    idle(async |server, _| {
        let mut socket = WebSocket::open(server.address(), "/v3/watch", &[]).expect("an upgrade");
        socket.ping(b"are you there");
        assert_eq!(socket.hear(), Heard::Pong(b"are you there".to_vec()));
        let create = json!({"create_request": {"key": b("k")}}).to_string();
        let (first, second) = create.as_bytes().split_at(10);
        socket.frame(0x01, first);
        socket.ping(b"");
        socket.frame(0x80, second);
        let mut heard = [socket.hear(), socket.hear()];
        heard.sort_by_key(|heard| matches!(heard, Heard::Text(_)));
        assert_eq!(heard[0], Heard::Pong(Vec::new()));
        assert!(matches!(&heard[1], Heard::Text(text) if text["result"]["created"] == true));
    });
}

#[test]
fn a_call_with_one_answer_gives_it_and_closes() {
    idle(async |server, client: Client| {
        client.write("k", "v").await;
        let mut socket =
            WebSocket::open(server.address(), "/v3/kv/range", &[]).expect("an upgrade");
        socket.say(&json!({"key": b("k")}));
        let Heard::Text(answer) = socket.hear() else {
            panic!("an answer was expected");
        };
        assert_eq!(answer["kvs"][0]["value"], b("v"));
        if server.kind().is_kvnode() {
            assert_eq!(socket.hear(), Heard::Close(1000));
            let mut socket =
                WebSocket::open(server.address(), "/v3/kv/range", &[]).expect("an upgrade");
            socket.say(&json!({}));
            let Heard::Text(answer) = socket.hear() else {
                panic!("an answer was expected");
            };
            assert_eq!(
                (&answer["code"], &answer["error"]),
                (&json!(3), &json!("etcdserver: key is not provided"))
            );
        }
    });
}

#[test]
fn what_the_protocol_forbids_closes_it() {
    idle(async |server, _| {
        if !server.kind().is_kvnode() {
            return;
        }
        let open = || WebSocket::open(server.address(), "/v3/watch", &[]).expect("an upgrade");
        let mut socket = open();
        socket.frame(0xc1, b"{}");
        assert_eq!(socket.hear(), Heard::Close(1002));
        let mut socket = open();
        socket.frame(0x81, &vec![b' '; 5 << 20]);
        assert_eq!(socket.hear(), Heard::Close(1009));
        let mut socket = open();
        socket.say(&json!([]));
        assert!(matches!(socket.hear(), Heard::Text(text) if text["error"]["code"] == 3));
        assert_eq!(socket.hear(), Heard::Close(1000));
        assert_eq!(
            WebSocket::open(server.address(), "/v3/nothing", &[]).err(),
            Some(404)
        );
    });
}

/// Without the upgrade's headers a GET is what it is.
#[test]
fn a_get_without_an_upgrade_is_refused() {
    idle(async |server, _| {
        if !server.kind().is_kvnode() {
            return;
        }
        let headers = [("upgrade", "websocket"), ("sec-websocket-version", "13")];
        let answer = http::request(server.address(), "GET", "/v3/watch", &headers, b"");
        assert_eq!(answer.expect("an answer").status, 501);
    });
}

#[test]
fn a_client_that_leaves_while_it_waits_for_a_lock_leaves_no_key() {
    idle(async |server, client: Client| {
        let lease = client.lease_grant(grant(600)).await.expect("a lease").id;
        client.lock(lock_on("l", lease)).await.expect("the lock");
        let until = async |count: i64| {
            for _ in 0..1000 {
                if client.range(span("l/", "l0")).await.expect("a range").count == count {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            panic!("never {count} keys");
        };
        for politely in [true, false] {
            let mut socket =
                WebSocket::open(server.address(), "/v3/lock/lock", &[]).expect("an upgrade");
            socket.say(&json!({"name": b("l")}));
            until(2).await;
            if politely {
                socket.close(1001);
                assert_eq!(socket.hear(), Heard::Close(1001));
            } else {
                socket.abandon();
            }
            until(1).await;
        }
        let (status, _) = post(server.address(), "/v3/maintenance/status", &json!({}));
        assert_eq!(status, 200);
    });
}
