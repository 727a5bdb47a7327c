//! More than a server takes: of calls, of requests that wait, of writes, of text that does not arrive.

use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use kvnode_api as api;
use kvnode_tests::client::{Incoming, RawAnswer};
use kvnode_tests::gateway::{Heard, WebSocket, post};
use kvnode_tests::pool::run_within;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Cluster, Options, Server, Status, fresh, fresh_with};
use serde_json::json;
use tokio::task::JoinSet;

use super::limits::{STREAMS_MAX, too_many, turned_away, until};

/// For what takes a server and its clients a while.
const LIMIT: Duration = Duration::from_secs(300);

/// Asks again and again, everything at once, until one is told "too many requests"; what is told first else is that there is no
/// leader, where a slow machine has not asked for enough by then.
async fn until_too_many<T>(at_once: usize, ask: impl Fn() -> T) -> JoinSet<Result<(), Status>>
where
    T: Future<Output = Result<(), Status>> + Send + 'static,
{
    let mut calls = JoinSet::new();
    for _ in 0..at_once {
        calls.spawn(ask());
    }
    loop {
        let call = calls.join_next().await.expect("as many as before");
        let status = call.expect("no panic").expect_err("nobody leads");
        if status == too_many() {
            return calls;
        }
        assert!(
            status.message.contains("no leader") || status.message.contains("timed out"),
            "{status}"
        );
        calls.spawn(ask());
    }
}

#[test]
fn what_waits_for_a_leader_is_bounded() {
    const READS_MAX: usize = 65_536;
    const WRITES_BYTES_MAX: usize = 64 << 20;
    const VALUE_BYTES: usize = 1 << 20;
    let options = Options::default()
        .arg("--cores=1")
        .arg("--heartbeat-interval=500")
        .arg("--election-timeout=5000");
    let mut cluster = Cluster::start(2, options);
    run_within(LIMIT, async {
        let leader = cluster.leader().await;
        cluster.kill(leader);
        let left = cluster.others(leader)[0];
        let client = cluster.client(left).await.with_patience(LIMIT);
        let server = cluster.member(left);
        let writes = until_too_many(WRITES_BYTES_MAX / VALUE_BYTES, || {
            let client = client.clone();
            async move { client.put(put("k", vec![0; VALUE_BYTES])).await.map(drop) }
        })
        .await;
        assert!(turned_away(server, "proposals") >= 1.0);
        assert_eq!(turned_away(server, "waiting"), 0.0);
        // Places of another kind.
        let reads = until_too_many(READS_MAX + 1, || {
            let client = client.clone();
            async move { client.range(get("k")).await.map(drop) }
        })
        .await;
        assert!(turned_away(server, "waiting") >= 1.0);
        // What waits for nothing is answered.
        let old = api::RangeRequest {
            serializable: true,
            ..get("k")
        };
        client.range(old).await.expect("an answer");
        drop((writes, reads));
        cluster.restart(leader);
        cluster.leader().await;
        cluster.client(left).await.write("k", "it goes on").await;
    });
}

#[test]
fn writes_are_refused_while_what_was_committed_waits_to_be_applied() {
    const KEYS: usize = 400_000;
    const KEYS_OF_A_TXN: usize = 10_000;
    const WRITES: usize = 9_000;
    // Nobody's time is to run out.
    let options = Options::default()
        .arg(format!("--max-txn-ops={KEYS_OF_A_TXN}"))
        .arg("--heartbeat-interval=5000")
        .arg("--election-timeout=50000");
    let server = Server::start(options);
    run_within(LIMIT, async {
        let client = Client::connect(server.address()).await.with_patience(LIMIT);
        for _round in 0..20 {
            for begin in (0..KEYS).step_by(KEYS_OF_A_TXN) {
                let puts = (begin..begin + KEYS_OF_A_TXN)
                    .map(|number| put(format!("many/{number:06}"), "").op())
                    .collect();
                client.txn(then(puts)).await.expect("written");
            }
            // This one takes long to apply, and the others are committed meanwhile.
            let mut calls = JoinSet::new();
            let deleting = client.clone();
            calls.spawn(async move {
                let deleted = deleting.delete_range(delete_span("many/", "many0")).await;
                deleted.map(|deleted| assert_eq!(deleted.deleted, KEYS as i64))
            });
            for _ in 0..WRITES {
                let client = client.clone();
                calls.spawn(async move { client.put(put("k", "v")).await.map(drop) });
            }
            let mut refusals = 0.0;
            while let Some(call) = calls.join_next().await {
                if let Err(status) = call.expect("no panic") {
                    assert_eq!(status, too_many());
                    refusals += 1.0;
                }
            }
            if turned_away(&server, "apply_backlog") > 0.0 {
                assert!(refusals >= turned_away(&server, "apply_backlog"));
                client.write("k", "it goes on").await;
                return;
            }
        }
        panic!("apply has always kept up");
    });
}

#[test]
fn one_connection_has_so_many_streams_of_the_other_kinds() {
    fresh(async |server, client| {
        let leader = api::LeaderRequest {
            name: bytes("nobody leads"),
        };
        let mut open = Vec::new();
        for _ in 0..STREAMS_MAX {
            open.push(client.observe(leader.clone()).await.expect("a stream"));
        }
        let refused = async |mut stream: Incoming<api::LeaderResponse>| {
            let answer = stream.next_or_end().await;
            assert_eq!(answer.err(), Some(too_many()));
        };
        refused(client.observe(leader.clone()).await.expect("a stream")).await;
        assert_eq!(turned_away(server, "other_streams"), 1.0);
        // Other kinds, and other clients, have places of their own.
        client.watching().await.create(watch_key("k")).await;
        let other = Client::connect(server.address()).await;
        let mut observed = other.observe(leader.clone()).await.expect("a stream");
        let lease = other.lease(60).await;
        let campaign = campaign_for("nobody leads", lease, "somebody does");
        other.campaign(campaign).await.expect("elected");
        let seen = observed.next().await.kv.expect("a leader");
        assert_eq!(seen.value, "somebody does");
    });
}

#[test]
fn one_connection_has_so_many_watchers() {
    const CONNECTION_MAX: usize = 250_000;
    const STREAM_MAX: usize = 100_000;
    const AT_ONCE: usize = 500;
    let server = Server::start(Options::default());
    run_within(LIMIT, async {
        let client = Client::connect(server.address()).await;
        let create = api::WatchRequest {
            request_union: Some(api::watch_request::RequestUnion::CreateRequest(watch_key(
                "k",
            ))),
        };
        let mut streams = Vec::new();
        let mut left = CONNECTION_MAX;
        while left > 0 {
            let (mut requests, mut answers) = client.watch().await;
            for _ in (0..left.min(STREAM_MAX)).step_by(AT_ONCE) {
                for _ in 0..AT_ONCE {
                    requests.send(&create);
                }
                for _ in 0..AT_ONCE {
                    let answer = answers.next().await;
                    assert!(answer.created && !answer.canceled, "{answer:?}");
                }
            }
            left -= left.min(STREAM_MAX);
            streams.push((requests, answers));
        }
        let (requests, answers) = streams.last_mut().expect("three");
        requests.send(&create);
        let answer = answers.next().await;
        assert!(answer.canceled, "{answer:?}");
        let reason = "kvnode: too many watchers on this connection";
        assert_eq!(answer.cancel_reason, reason);
        assert_eq!(turned_away(&server, "watchers"), 1.0);
        let other = Client::connect(server.address()).await;
        other.watching().await.create(watch_key("k")).await;
    });
}

/// Opens calls over the number that the server has announced, as no good client does.
#[test]
fn calls_over_the_streams_of_a_connection_are_counted() {
    const CALLS: u8 = 5;
    let options = Options::default().arg("--max-concurrent-streams=2");
    fresh_with(options, async |server, client| {
        let mut calls = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        for call in 0..CALLS {
            // Fields by their number in the known table (":method: POST", ":scheme: http"), or in the clear.
            let mut fields = b"\x83\x86\x44\x1b/etcdserverpb.Watch/Watch".to_vec();
            fields[3] = u8::try_from(fields.len() - 4).expect("short");
            fields.extend_from_slice(b"\x41\x01a\x5f\x10application/grpc");
            let length = u8::try_from(fields.len()).expect("short");
            calls.extend_from_slice(&[0, 0, length, 1, 4, 0, 0, 0, 2 * call + 1]);
            calls.extend_from_slice(&fields);
        }
        let mut socket = TcpStream::connect(server.address()).expect("connects");
        socket.write_all(&calls).expect("written");
        until(server, "all but two are refused", |scrape| {
            let refused = [("limit", "concurrent_streams")];
            scrape.sum("kvnode_rejected_total", &refused) == f64::from(CALLS - 2)
        })
        .await;
        client.write("k", "others are served").await;
    });
}

#[test]
fn headers_without_measure_are_counted_whoever_refuses_them() {
    fresh(async |server, client| {
        for (number, kibibytes) in [(1.0, 70), (2.0, 140), (3.0, 200)] {
            let long = "x".repeat(kibibytes << 10);
            let request = client.request("/etcdserverpb.KV/Range", &[("x-long", &long)]);
            let RawAnswer { http_status, .. } = client.raw(request, &[]).await;
            assert_eq!(http_status, 431, "{kibibytes} KiB");
            until(server, "it is counted", |scrape| {
                let refused = [("limit", "header_list")];
                scrape.sum("kvnode_rejected_total", &refused) == number
            })
            .await;
        }
        client.write("k", "the connection serves on").await;
    });
}

/// Sends this and nothing more.
fn begun(address: SocketAddr, text: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(address).expect("connects");
    let limit = Some(LIMIT);
    socket.set_read_timeout(limit).expect("a socket option");
    socket.write_all(text).expect("written");
    socket
}

/// What is answered, as far as `end`.
fn heard(mut socket: TcpStream, end: &[u8]) -> Vec<u8> {
    let mut heard = Vec::new();
    let mut piece = [0; 4096];
    while !heard.windows(end.len()).any(|window| window == end) {
        let read = socket.read(&mut piece).expect("an answer in time");
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&piece[..read]);
    }
    heard
}

/// Takes the half minute that a request may take.
#[test]
fn json_that_does_not_arrive_in_time_is_not_waited_for() {
    let server = Server::start(Options::default());
    run_within(LIMIT, async {
        let client = Client::connect(server.address()).await.with_patience(LIMIT);
        let address = server.address();
        let late = b"the request body did not arrive in time";
        let head = "POST /v3/kv/put HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n";
        let unary = begun(address, format!("{head}{{\"key\":").as_bytes());
        let path = "POST /v3/watch HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let stream = begun(address, format!("{path}5\r\n{{\"cre\r\n").as_bytes());
        let upgrade = "GET /v3/watch HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        // A masked frame of four bytes, of which two come.
        let frame = [upgrade.as_bytes(), b"\x81\x84\0\0\0\0{\""].concat();
        let socket = begun(address, &frame);
        // One that has nothing begun may rest.
        let resting = begun(address, upgrade.as_bytes());
        let (mut body, answer) = client.half_open_json("/v3/kv/put").await;
        let part = bytes("{\"key\":");
        body.send_data(part, false).expect("an open stream");
        let (answer, mut text) = answer.await.expect("an answer").into_parts();
        assert_eq!(answer.status, 400);
        let text = text.data().await.expect("a body").expect("whole");
        assert!(text.windows(late.len()).any(|window| window == late));
        let unary = heard(unary, late);
        assert!(unary.starts_with(b"HTTP/1.1 400 "));
        heard(stream, b"kvnode: the request did not arrive within 30s");
        heard(socket, b"\x88\x02\x03\xf0");
        assert_eq!(turned_away(&server, "slow_body"), 4.0);
        let (mut resting, frame) = (resting, b"\x89\x80\0\0\0\0");
        resting.write_all(frame).expect("it is open");
        heard(resting, b"\x8a\0");
        client.write("k", "others are served").await;
    });
}

#[test]
fn messages_of_websockets_that_have_arrived_in_part_are_bounded() {
    const PART_BYTES: usize = 4_000_000;
    const ALL_BYTES: usize = 64 << 20;
    const TRY_LATER: u16 = 1013;
    let options = Options::default().arg("--cores=1");
    fresh_with(options, async |server, client| {
        let mut open = Vec::new();
        loop {
            assert!(open.len() <= ALL_BYTES / PART_BYTES, "all have room");
            let path = "/v3/watch";
            let mut socket = WebSocket::open(server.address(), path, &[]).expect("an upgrade");
            // The first frame of a message that goes on.
            socket.frame(0x01, &vec![b' '; PART_BYTES]);
            socket.ping(b"");
            let heard = socket.hear();
            open.push(socket);
            if heard == Heard::Close(TRY_LATER) {
                break;
            }
            assert_eq!(heard, Heard::Pong(Vec::new()));
        }
        assert_eq!(turned_away(server, "json_bytes"), 1.0);
        client.write("k", "others are served").await;
        // Those that go make room.
        drop(open);
        for _ in 0..1000 {
            let (status, _) = post(server.address(), "/v3/kv/range", &json!({ "key": "aw==" }));
            if status == 200 {
                return;
            }
            assert_eq!(status, 429);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("there is never room again");
    });
}
