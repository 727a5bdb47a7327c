//! Quota, alarms and size limits (cases 162-169).

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use kvnode_api as api;
use kvnode_tests::words::number::*;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Options, Server, Status, code, fresh, fresh_with, http, idle};

const QUOTA: usize = 8 << 20;

async fn alarm(client: &Client, action: i32, member_id: u64, alarm: i32) -> Vec<(u64, i32)> {
    let request = api::AlarmRequest {
        action,
        member_id,
        alarm,
    };
    let answer = client.alarm(request).await.expect("alarm");
    answer
        .alarms
        .iter()
        .map(|alarm| (alarm.member_id, alarm.alarm))
        .collect()
}

async fn member_id(client: &Client) -> u64 {
    let answer = client.status(api::StatusRequest {}).await.expect("status");
    answer.header.expect("header").member_id
}

/// A server whose quota is used up: puts of `fill*` until one is refused for space.
fn full(body: impl AsyncFnOnce(&mut Server, Client)) {
    let mut options = Options::default().arg(format!("--quota-backend-bytes={QUOTA}"));
    if kvnode_tests::build::subject().kind.is_kvnode() {
        // As etcd does: the alarm stays until it is disarmed.
        options = options.arg("--nospace-auto-disarm=false");
    }
    fresh_with(options, async |server, client| {
        let value = vec![b'x'; 256 << 10];
        for number in 0..4 * QUOTA / value.len() {
            // etcd counts what its backend has committed, ten times a second.
            tokio::time::sleep(Duration::from_millis(10)).await;
            match client.put(put(format!("fill{number:03}"), &value)).await {
                Ok(_) => (),
                Err(status) => {
                    assert_eq!(status, refusal::no_space());
                    body(server, client).await;
                    return;
                }
            }
        }
        panic!("four times the quota was accepted");
    });
}

/// case 162
#[test]
fn over_the_quota_writes_are_refused_and_everything_else_works() {
    full(async |server, client| {
        let id = member_id(&client).await;
        assert_eq!(alarm(&client, ALARM_GET, 0, 0).await, [(id, NOSPACE)]);
        assert_eq!(alarm(&client, ALARM_GET, 0, NOSPACE).await, [(id, NOSPACE)]);
        assert_eq!(alarm(&client, ALARM_GET, 0, CORRUPT).await, []);
        let status = client.status(api::StatusRequest {}).await.expect("status");
        assert!(
            status.errors.iter().any(|text| text.contains("NOSPACE")),
            "status names the alarm: {:?}",
            status.errors
        );
        refused(client.put(put("small", "v")).await, refusal::no_space());
        refused(
            client.txn(then(vec![put("small", "v").op()])).await,
            refusal::no_space(),
        );
        refused(client.lease_grant(grant(60)).await, refusal::no_space());
        assert!(client.range(all()).await.expect("reads work").count > 1);
        let answer = client
            .delete_range(delete("fill000"))
            .await
            .expect("deletes work");
        assert_eq!(answer.deleted, 1);
        client
            .txn(then(vec![get("fill001").op()]))
            .await
            .expect("read transactions work");
        let health = http::get(server.address(), "/health").expect("answers");
        assert_eq!(health.status, 503);
        assert!(health.body.contains("ALARM NOSPACE"), "{}", health.body);
    });
}

/// case 162: leases granted before the space ran out can be kept and revoked
#[test]
fn leases_live_on_without_space() {
    fresh(async |_, client| {
        let lease = client.lease(60).await;
        client.write_leased("k", "v", lease).await;
        let id = member_id(&client).await;
        alarm(&client, ALARM_ACTIVATE, id, NOSPACE).await;
        refused(client.put(put("k", "v")).await, refusal::no_space());
        let (mut requests, mut answers) = client.keep_alive().await;
        requests.send(&api::LeaseKeepAliveRequest { id: lease });
        assert_eq!(answers.next().await.ttl, 60);
        client
            .lease_revoke(api::LeaseRevokeRequest { id: lease })
            .await
            .expect("revoke");
        assert!(client.read("k").await.is_none());
        let now = client.revision().await;
        client.compact(compact(now)).await.expect("compact");
    });
}

/// case 163
#[test]
fn a_txn_that_could_write_in_either_branch_is_refused_without_space() {
    full(async |_, client| {
        let request = txn(vec![], vec![get("fill000").op()], vec![put("k", "v").op()]);
        refused(client.txn(request).await, refusal::no_space());
        let request = txn(vec![], vec![delete("fill000").op()], vec![get("k").op()]);
        client.txn(request).await.expect("deletes cost nothing");
    });
}

/// case 164
#[test]
fn the_alarm_stays_until_it_is_disarmed_by_name() {
    full(async |_, client| {
        let id = member_id(&client).await;
        client
            .delete_range(delete_span("fill", "film"))
            .await
            .expect("delete");
        let revision = client.revision().await;
        let request = api::CompactionRequest {
            revision,
            physical: true,
        };
        client.compact(request).await.expect("compact");
        client
            .defragment(api::DefragmentRequest {})
            .await
            .expect("defragment");
        refused(client.put(put("k", "v")).await, refusal::no_space());
        assert_eq!(alarm(&client, ALARM_DEACTIVATE, 0, NOSPACE).await, []);
        assert_eq!(alarm(&client, ALARM_DEACTIVATE, id, CORRUPT).await, []);
        refused(client.put(put("k", "v")).await, refusal::no_space());
        assert_eq!(
            alarm(&client, ALARM_DEACTIVATE, id, NOSPACE).await,
            [(id, NOSPACE)]
        );
        assert_eq!(alarm(&client, ALARM_GET, 0, 0).await, []);
        client
            .put(put("k", "v"))
            .await
            .expect("there is room again");
        assert_eq!(
            client
                .status(api::StatusRequest {})
                .await
                .expect("status")
                .errors
                .len(),
            0
        );
    });
}

/// case 164: what is still too full says so again at once
#[test]
fn an_alarm_disarmed_too_early_comes_back() {
    full(async |_, client| {
        let id = member_id(&client).await;
        assert_eq!(
            alarm(&client, ALARM_DEACTIVATE, id, NOSPACE).await,
            [(id, NOSPACE)]
        );
        let big = vec![b'x'; 512 << 10];
        refused(client.put(put("k", &big)).await, refusal::no_space());
        assert_eq!(alarm(&client, ALARM_GET, 0, 0).await, [(id, NOSPACE)]);
    });
}

/// case 165: of a request that would not fit and is wrong besides, the size is told first
#[test]
fn the_quota_is_asked_before_the_arguments() {
    full(async |_, client| {
        let big = vec![b'x'; 512 << 10];
        refused(client.put(put("", &big)).await, refusal::no_space());
        let doubled = then(vec![put("x", &big).op(), put("x", &big).op()]);
        refused(client.txn(doubled).await, refusal::no_space());
    });
}

/// case 162: an alarm outlives the process
#[test]
fn an_alarm_survives_a_restart() {
    full(async |server, client| {
        let id = member_id(&client).await;
        server.stop();
        server.restart();
        let client = Client::connect(server.address()).await;
        assert_eq!(alarm(&client, ALARM_GET, 0, 0).await, [(id, NOSPACE)]);
        refused(client.put(put("k", "v")).await, refusal::no_space());
    });
}

/// case 166
#[test]
fn a_corrupt_member_reads_but_does_not_write() {
    fresh(async |server, client| {
        let now = client.write("k", "v").await;
        let id = member_id(&client).await;
        assert_eq!(
            alarm(&client, ALARM_ACTIVATE, id, CORRUPT).await,
            [(id, CORRUPT)]
        );
        assert_eq!(
            alarm(&client, ALARM_ACTIVATE, id, CORRUPT).await,
            [(id, CORRUPT)]
        );
        assert!(client.read("k").await.is_some());
        refused(client.put(put("k", "w")).await, refusal::corrupt());
        refused(client.delete_range(delete("k")).await, refusal::corrupt());
        refused(client.compact(compact(now)).await, refusal::corrupt());
        refused(
            client.txn(then(vec![put("k", "w").op()])).await,
            refusal::corrupt(),
        );
        refused(client.lease_grant(grant(60)).await, refusal::corrupt());
        let health = async |path: &str| http::get(server.address(), path).expect("answers");
        let answer = health("/health").await;
        assert_eq!(answer.status, 503);
        assert!(answer.body.contains("ALARM CORRUPT"), "{}", answer.body);
        assert_eq!(health("/health?exclude=CORRUPT").await.status, 200);
        assert_eq!(health("/readyz").await.status, 503);
        assert_eq!(health("/livez").await.status, 200);
        alarm(&client, ALARM_DEACTIVATE, id, CORRUPT).await;
        client.write("k", "w").await;
        assert_eq!(health("/readyz").await.status, 200);
    });
}

/// case 166: activating NONE does nothing
#[test]
fn an_alarm_of_no_kind_is_not_raised() {
    fresh(async |_, client| {
        let id = member_id(&client).await;
        assert_eq!(alarm(&client, ALARM_ACTIVATE, id, 0).await, []);
        assert_eq!(alarm(&client, ALARM_GET, 0, 0).await, []);
        client.write("k", "v").await;
    });
}

/// case 167
#[test]
fn requests_have_a_size_limit_with_two_texts() {
    idle(async |_, client| {
        let of = |size: usize| put("k", vec![b'x'; size]);
        refused(client.put(of(1_572_864)).await, refusal::too_large());
        let now = client
            .put(of(1_572_700))
            .await
            .expect("just below the limit");
        let request = of(2_100_000);
        let size = prost::Message::encoded_len(&request);
        let text = format!("grpc: received message larger than max ({size} vs. 2097152)");
        refused(
            client.put(request).await,
            Status::new(code::RESOURCE_EXHAUSTED, text),
        );
        assert_eq!(client.revision().await, revision_of(&now.header));
        let doubled = then(vec![of(1_000_000).op(), put("l", vec![b'x'; 600_000]).op()]);
        refused(client.txn(doubled).await, refusal::too_large());
    });
}

/// case 168
#[test]
fn a_large_answer_is_sent_whole() {
    idle(async |_, client| {
        let value = vec![b'x'; 1 << 20];
        for number in 0..12 {
            client.write(format!("k{number:02}"), &value).await;
        }
        let answer = client.range(all()).await.expect("12 MiB");
        assert_eq!((answer.kvs.len(), answer.count), (12, 12));
        assert!(answer.kvs.iter().all(|kv| kv.value.len() == value.len()));
    });
}

/// case 169
#[test]
fn a_client_that_pings_too_often_is_sent_away() {
    idle(async |server, _| {
        let socket = tokio::net::TcpStream::connect(server.address())
            .await
            .expect("connects");
        let (_requests, mut connection): (SendRequest<Bytes>, _) =
            h2::client::handshake(socket).await.expect("handshake");
        let mut pings = connection.ping_pong().expect("taken once");
        let ended = tokio::spawn(connection);
        // The connection answers pings until it has had enough of them.
        let pinging = async {
            for _ in 0..50 {
                if pings.ping(h2::Ping::opaque()).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            panic!("50 pings in a second were all answered");
        };
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, pinging)
            .await
            .expect("the server answers or leaves");
        let end = tokio::time::timeout(limit, ended)
            .await
            .expect("the connection ends");
        let error = end.expect("no panic").expect_err("a GOAWAY with a reason");
        assert_eq!(
            error.reason(),
            Some(h2::Reason::ENHANCE_YOUR_CALM),
            "{error:?}"
        );
        assert!(format!("{error:?}").contains("too_many_pings"), "{error:?}");
    });
}
