//! Clients that send what nobody should: each gets a clear error, the others notice nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kvnode_api as api;
use kvnode_tests::client::frame;
use kvnode_tests::words::*;
use kvnode_tests::{Client, Server, Status, code, fresh, idle};

const PUT: &str = "/etcdserverpb.KV/Put";

/// A message with a prefix of the test's choice.
fn framed(flag: u8, announced: u32, body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(flag);
    bytes.put_u32(announced);
    bytes.put_slice(body);
    bytes.freeze()
}

/// Writes and reads on this connection and on a new one.
async fn serves(server: &Server, client: &Client) {
    client.write("alive", "v").await;
    let other = Client::connect(server.address()).await;
    assert!(other.read("alive").await.is_some());
}

async fn refused_put(client: &Client, body: &[u8]) -> Status {
    let answer = client.raw(client.request(PUT, &[]), body).await;
    answer
        .status()
        .unwrap_or_else(|| panic!("an answer with a status, got {answer:?}"))
}

#[test]
fn an_announced_giant_is_refused_before_it_is_read() {
    idle(async |server, client| {
        let memory = server.anonymous_memory_bytes();
        for announced in [u32::MAX, 1 << 30, 2_097_153] {
            let status = refused_put(&client, &framed(0, announced, b"only a little")).await;
            let text = format!("grpc: received message larger than max ({announced} vs. 2097152)");
            assert_eq!(status, Status::new(code::RESOURCE_EXHAUSTED, text));
        }
        serves(server, &client).await;
        let grown = server.anonymous_memory_bytes().saturating_sub(memory);
        assert!(grown < 200 << 20, "grew by {grown} bytes");
    });
}

#[test]
fn compression_nobody_agreed_on_is_refused() {
    idle(async |server, client| {
        let body = framed(1, 10, b"0123456789");
        for encoding in ["gzip", "snappy", "nonsense"] {
            let request = client.request(PUT, &[("grpc-encoding", encoding)]);
            let status = client.raw(request, &body).await.status().expect("a status");
            // Some builds of etcd link gzip in, and find that this is none.
            let garbage = encoding == "gzip" && !server.kind().is_kvnode();
            let expected = if garbage {
                code::INTERNAL
            } else {
                code::UNIMPLEMENTED
            };
            assert_eq!(status.code, expected, "{encoding}: {status}");
        }
        let status = refused_put(&client, &body).await;
        assert!(
            [code::INTERNAL, code::UNIMPLEMENTED].contains(&status.code),
            "{status}"
        );
        // Saying identity, and not compressing although gzip was named, are both fine.
        for encoding in ["identity"] {
            let request = client.request(PUT, &[("grpc-encoding", encoding)]);
            let answer = client.raw(request, &frame(&put("k", "v"))).await;
            assert_eq!(
                answer.status().expect("a status").code,
                code::OK,
                "{encoding}"
            );
        }
        serves(server, &client).await;
    });
}

#[test]
fn malformed_messages_are_refused() {
    idle(async |server, client| {
        let before = client.revision().await;
        let bad: [&[u8]; 6] = [
            b"\x0a\xff\xff\xff\xff\x7f", // a key longer than the message
            b"\x0a\x05ab",               // the same, by a little
            b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", // a number without end
            b"\x0f\x00",                 // wire type 7
            b"\x00\x00",                 // field 0
            b"\x0d",                     // a fixed number cut off
        ];
        for body in bad {
            let announced = u32::try_from(body.len()).expect("short");
            let status = refused_put(&client, &framed(0, announced, body)).await;
            assert!(
                [code::INTERNAL, code::INVALID_ARGUMENT].contains(&status.code),
                "{body:?}: {status}"
            );
        }
        assert_eq!(client.revision().await, before);
        serves(server, &client).await;
    });
}

#[test]
fn cut_off_and_empty_requests_are_refused() {
    idle(async |server, client| {
        let before = client.revision().await;
        let whole = frame(&put("cut", "off"));
        for body in [
            &whole[..3],
            &whole[..5],
            &whole[..whole.len() - 1],
            &b""[..],
        ] {
            let answer = client.raw(client.request(PUT, &[]), body).await;
            match answer.status() {
                Some(status) => assert_ne!(status.code, code::OK, "{body:?}"),
                None => assert!(answer.error.is_some(), "{body:?}: {answer:?}"),
            }
        }
        let status = refused_put(&client, &framed(0, 0, b"")).await;
        assert_eq!(status, refusal::no_key(), "an empty message is a message");
        assert_eq!(client.revision().await, before);
        assert!(client.read("cut").await.is_none());
        serves(server, &client).await;
    });
}

#[test]
fn requests_that_are_not_grpc_are_no_puts() {
    idle(async |server, client| {
        let before = client.revision().await;
        let body = frame(&put("k", "v"));
        for kind in ["application/json", "text/plain", "application/grpcnot"] {
            let client = Client::connect(server.address()).await;
            let request = client.request(PUT, &[("content-type", kind)]);
            let answer = client.raw(request, &body).await;
            let status = answer.status().map(|status| status.code);
            assert_ne!(status, Some(code::OK), "{kind}: {answer:?}");
        }
        let mut request = client.request(PUT, &[]);
        *request.method_mut() = http::Method::GET;
        let other = Client::connect(server.address()).await;
        let answer = other.raw(request, &body).await;
        assert_ne!(
            answer.status().map(|status| status.code),
            Some(code::OK),
            "{answer:?}"
        );
        assert_eq!(client.revision().await, before);
        serves(server, &client).await;
    });
}

#[test]
fn a_bad_message_ends_its_stream_and_no_other() {
    idle(async |server, client| {
        let mut healthy = client.watching().await;
        healthy.create(watch_key("k")).await;
        for path in [
            "/etcdserverpb.Watch/Watch",
            "/etcdserverpb.Lease/LeaseKeepAlive",
        ] {
            let answer = client
                .raw(client.request(path, &[]), &framed(0, 2, b"\x0f\x00"))
                .await;
            match answer.status() {
                Some(status) => assert_ne!(status.code, code::OK, "{path}"),
                None => assert!(answer.error.is_some(), "{path}: {answer:?}"),
            }
        }
        client.write("k", "v").await;
        healthy.events(1).await;
        serves(server, &client).await;
    });
}

#[test]
fn headers_without_measure_are_refused_or_ignored() {
    idle(async |server, client| {
        let huge = "x".repeat(4 << 20);
        let victim = Client::connect(server.address()).await;
        let request = victim.request(PUT, &[("x-huge", &huge)]);
        let answer = victim.raw(request, &frame(&put("huge", "v"))).await;
        // Go's library takes up to 16 MiB of metadata.
        if server.kind().is_kvnode() {
            assert_ne!(
                answer.status().map(|status| status.code),
                Some(code::OK),
                "{answer:?}"
            );
            assert!(client.read("huge").await.is_none());
        }
        serves(server, &client).await;
    });
}

/// Sends raw bytes and waits for the server to hang up or answer; either within seconds, or never:
/// a slow peer is no crime, so an unfinished preface may be waited for.
fn noise(server: &Server, bytes: &[u8]) {
    let mut socket = TcpStream::connect(server.address()).expect("connects");
    let wait = Some(Duration::from_millis(300));
    socket.set_read_timeout(wait).expect("a socket option");
    socket
        .set_write_timeout(Some(Duration::from_secs(5)))
        .expect("a socket option");
    // The server may hang up while we still talk.
    let _ = socket.write_all(bytes);
    let _ = socket.read(&mut [0; 4096]);
}

#[test]
fn noise_on_the_port_disturbs_nobody() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    idle(async |server, client| {
        let mut dice = kvnode_tests::load::Dice::new(42);
        let mut random = |count: usize| -> Vec<u8> {
            (0..count)
                .map(|_| u8::try_from(dice.roll(256)).expect("a byte"))
                .collect()
        };
        let settings = b"\0\0\0\x04\0\0\0\0\0";
        let mut cases: Vec<Vec<u8>> = vec![
            Vec::new(),
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(), // TLS to a plain port
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"GET / HTTP/9.9\r\n\r\n".to_vec(),
            b"NONSENSE\r\n\r\n".to_vec(),
            [
                b"GET /".as_slice(),
                &vec![b'a'; 1 << 20],
                b" HTTP/1.1\r\n\r\n",
            ]
            .concat(),
            b"POST /health HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n"
                .to_vec(),
            PREFACE[..10].to_vec(),
            PREFACE.to_vec(),
            [PREFACE, &[0xff; 64]].concat(),
            // DATA on stream 0, HEADERS on an even stream, a frame larger than allowed, window overflow
            [PREFACE, settings, b"\0\0\x01\0\0\0\0\0\0x"].concat(),
            [PREFACE, settings, b"\0\0\x01\x01\x05\0\0\0\x02\x82"].concat(),
            [PREFACE, settings, b"\xff\xff\xff\0\0\0\0\0\x01"].concat(),
            [PREFACE, settings, b"\0\0\x04\x08\0\0\0\0\0\x7f\xff\xff\xff"].concat(),
        ];
        for size in [1, 24, 100, 5000, 100_000] {
            cases.push(random(size));
            cases.push([PREFACE, settings, &random(size)].concat());
        }
        for case in &cases {
            noise(server, case);
        }
        serves(server, &client).await;
    });
}

#[test]
fn thousands_of_broken_off_requests_leave_nothing_behind() {
    fresh(async |server, client| {
        client.write("k", "v").await;
        let measure = async |server: &Server| {
            for _ in 0..200 {
                let connection = Client::connect(server.address()).await;
                let mut open = Vec::new();
                for number in 0..10 {
                    let (mut stream, answer) = connection.half_open(PUT).await;
                    let half = frame(&put("half", vec![b'x'; 1000]));
                    stream
                        .send_data(half.slice(..500 + number), false)
                        .expect("open");
                    open.push((stream, answer));
                }
                // Watch streams given up with the connection, too.
                let mut watching = connection.watching().await;
                watching.create(watch_key("k")).await;
            }
            // What a departed client left is cleared away in the background.
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.anonymous_memory_bytes()
        };
        let first = measure(server).await;
        let second = measure(server).await;
        assert!(
            second < first + (64 << 20),
            "2000 broken requests keep memory: {first} then {second} bytes"
        );
        assert!(client.read("half").await.is_none());
        serves(server, &client).await;
        let watchers = kvnode_tests::http::get(server.address(), "/metrics").expect("answers");
        let gauge = watchers
            .body
            .lines()
            .find_map(|line| line.strip_prefix("etcd_debugging_mvcc_watcher_total "))
            .expect("the gauge is there");
        assert_eq!(gauge, "0", "watchers of departed clients are gone");
    });
}

#[test]
fn thousands_of_streams_on_one_connection_are_served_or_refused() {
    idle(async |server, client| {
        let mut streams = Vec::new();
        for _ in 0..2000 {
            let (requests, answers) = client.keep_alive().await;
            streams.push((requests, answers));
        }
        let lease = client.lease(60).await;
        for (requests, answers) in &mut streams {
            requests.send(&api::LeaseKeepAliveRequest { id: lease });
            assert_eq!(answers.next().await.ttl, 60);
        }
        serves(server, &client).await;
    });
}

/// Clients that feed the server byte by byte to hold its connections: none lasts longer than the first bytes may take, however
/// steadily it drips, and the number of them is told.
#[test]
fn connections_that_only_drip_are_ended() {
    idle(async |server, client| {
        if !server.kind().is_kvnode() {
            return;
        }
        let before = turned_away(server, "slow_start");
        let begun = [
            &b"GET /health HTTP/1.1\r\nhost: x\r\n"[..],
            b"POST /v3/kv/put HTTP/1.1\r\n",
        ];
        let drips = begun.map(|begun| {
            let mut socket = TcpStream::connect(server.address()).expect("connects");
            socket.write_all(begun).expect("written");
            let wait = Some(Duration::from_millis(500));
            socket.set_read_timeout(wait).expect("a socket option");
            std::thread::spawn(move || drip(socket))
        });
        for drip in drips {
            while !drip.is_finished() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            drip.join().expect("it was ended");
        }
        assert_eq!(turned_away(server, "slow_start"), before + 2);
        serves(server, &client).await;
    });
}

/// A byte of a header that never ends, again and again; returns once the server has ended the connection.
fn drip(mut socket: TcpStream) {
    const LIMIT: Duration = Duration::from_secs(30);
    let begun = std::time::Instant::now();
    loop {
        assert!(begun.elapsed() < LIMIT, "still served after {LIMIT:?}");
        match socket.read(&mut [0; 1024]) {
            Ok(0) => return,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
            // An answer that it was too slow may come before the end; or nothing for a while.
            Ok(_) | Err(_) => {}
        }
        if socket.write_all(b"x").is_err() {
            return;
        }
    }
}

/// How often this limit has turned work away.
fn turned_away(server: &Server, limit: &str) -> u64 {
    let metrics = kvnode_tests::http::get(server.address(), "/metrics").expect("answers");
    let name = format!("kvnode_rejected_total{{limit=\"{limit}\"}} ");
    let line = metrics
        .body
        .lines()
        .find_map(|line| line.strip_prefix(&name));
    line.expect("it is counted").parse().expect("a number")
}
