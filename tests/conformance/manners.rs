//! gRPC itself: unknown calls, metadata, content types, deadlines, half-closed and broken streams.

use std::time::Duration;

use kvnode_api as api;
use kvnode_tests::client::frame;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Status, code, idle};

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";

/// Unknown methods and services have exact texts
#[test]
fn unknown_methods_and_services_are_unimplemented() {
    idle(async |_, client| {
        for (path, text) in [
            (
                "/etcdserverpb.KV/Nothing",
                "unknown method Nothing for service etcdserverpb.KV",
            ),
            ("/some.Service/Call", "unknown service some.Service"),
        ] {
            let result = client
                .call::<_, api::PutResponse>(path, &put("k", "v"))
                .await;
            refused(result, Status::new(code::UNIMPLEMENTED, text));
        }
    });
}

/// Both content types that clients use are served, and answered in kind
#[test]
fn grpc_content_types_are_accepted() {
    idle(async |_, client| {
        for kind in ["application/grpc", "application/grpc+proto"] {
            let request = client.request(RANGE, &[("content-type", kind)]);
            let answer = client.raw(request, &frame(&get("k"))).await;
            assert_eq!(answer.http_status, 200, "{kind}: {answer:?}");
            assert_eq!(answer.status().expect("status").code, code::OK, "{kind}");
            let answered = answer.headers.get("content-type").expect("there").to_str();
            assert!(
                answered.is_ok_and(|text| text.starts_with("application/grpc")),
                "{answer:?}"
            );
        }
    });
}

/// Metadata nobody asked for, and the client's version, change nothing
#[test]
fn unknown_metadata_is_ignored() {
    idle(async |_, client| {
        let client = client
            .with_metadata("client-api-version", "3.6.0")
            .with_metadata("x-whatever", "1")
            .with_metadata("data-bin", "AAEC");
        client.write("k", "v").await;
    });
}

/// case 180 where there is a leader: asking for one costs nothing
#[test]
fn calls_that_require_a_leader_work_while_there_is_one() {
    idle(async |_, client| {
        let client = client.with_metadata("hasleader", "true");
        client.write("k", "v").await;
        assert!(client.read("k").await.is_some());
        let mut watching = client.watching().await;
        watching.create(watch_key("k")).await;
        client.write("k", "w").await;
        watching.events(1).await;
        let lease = client.lease(60).await;
        let (mut requests, mut answers) = client.keep_alive().await;
        requests.send(&api::LeaseKeepAliveRequest { id: lease });
        assert_eq!(answers.next().await.ttl, 60);
    });
}

/// A token where there is no auth is ignored
#[test]
fn tokens_are_ignored_while_auth_is_off() {
    idle(async |_, client| {
        let client = client
            .with_metadata("token", "whatever")
            .with_metadata("authorization", "x");
        client.write("k", "v").await;
    });
}

/// A deadline long enough does not disturb, whatever its unit
#[test]
fn deadlines_are_understood_in_every_unit() {
    idle(async |_, client| {
        for deadline in ["1H", "10M", "30S", "30000m", "30000000u", "99999999n"] {
            let request = client.request(RANGE, &[("grpc-timeout", deadline)]);
            let answer = client.raw(request, &frame(&get("k"))).await;
            let status = answer.status().expect("status");
            // The last one is a tenth of a second, which a busy machine may miss.
            assert!(
                status.code == code::OK || deadline.ends_with('n'),
                "{deadline}: {status}"
            );
        }
    });
}

/// The deadline of a stream ends it
#[test]
fn a_deadline_ends_a_watch() {
    idle(async |_, client| {
        let request = client.request("/etcdserverpb.Watch/Watch", &[("grpc-timeout", "300m")]);
        let create = api::watch_request::RequestUnion::CreateRequest(watch_key("k"));
        let message = api::WatchRequest {
            request_union: Some(create),
        };
        let answer = client.raw(request, &frame(&message)).await;
        // The end is told by trailers or by a reset, but it comes.
        match answer.status() {
            Some(status) => assert_eq!(status.code, code::DEADLINE_EXCEEDED, "{status}"),
            None => assert!(answer.error.is_some(), "{answer:?}"),
        }
    });
}

/// Many calls at once on one connection, each answered with its own
#[test]
fn one_connection_carries_many_calls_at_once() {
    idle(async |_, client| {
        let mut calls = Vec::new();
        for number in 0..500 {
            let client = client.clone();
            calls.push(tokio::spawn(async move {
                let key = format!("k{number}");
                client.write(&key, &key).await;
                client.read(&key).await.expect("written before")
            }));
        }
        let mut revisions = Vec::new();
        for call in calls {
            let kv = call.await.expect("no panic");
            assert_eq!(kv.key, kv.value);
            revisions.push(kv.mod_revision);
        }
        revisions.sort();
        assert!(
            revisions.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "one revision each"
        );
    });
}

/// A message may come in pieces as small as a byte
#[test]
fn a_request_in_single_bytes_is_put_together() {
    idle(async |_, client| {
        let (mut stream, response) = client.half_open(PUT).await;
        let message = frame(&put("k", "in pieces"));
        let last = message.len() - 1;
        for at in 0..message.len() {
            stream
                .send_data(message.slice(at..=at), at == last)
                .expect("open");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(response.await.expect("answer").status(), 200);
        assert_eq!(
            &client.read("k").await.expect("put").value[..],
            b"in pieces"
        );
    });
}

/// A request that never ends its body does not hold others up
#[test]
fn an_unfinished_request_disturbs_nobody() {
    idle(async |server, client| {
        let (mut stream, _response) = client.half_open(PUT).await;
        stream
            .send_data(frame(&put("half", "v")).slice(..7), false)
            .expect("open");
        client.write("k", "v").await;
        let other = Client::connect(server.address()).await;
        assert!(other.read("k").await.is_some());
        drop(stream);
        assert!(other.read("half").await.is_none());
    });
}

/// Calls given up half-way are gone without a trace
#[test]
fn cancelled_calls_leave_the_connection_usable() {
    idle(async |_, client| {
        for number in 0..100 {
            let (mut stream, response) = client.half_open(PUT).await;
            stream
                .send_data(frame(&put("k", "v")), number % 2 == 0)
                .expect("open");
            stream.send_reset(h2::Reason::CANCEL);
            drop(response);
        }
        client.write("after", "v").await;
    });
}
