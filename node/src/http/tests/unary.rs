use super::client::{Client, read_all, run};
use super::*;

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const NEVER: &str = "/etcdserverpb.KV/DeleteRange";
const COMPACT: &str = "/etcdserverpb.KV/Compact";
const SIZED: &str = "/etcdserverpb.Lease/LeaseGrant";
const TOGETHER: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
const SIDE_BY_SIDE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const METADATA: &str = "/etcdserverpb.Maintenance/Status";

#[test]
fn unary_call_gets_its_answer_whether_at_once_or_later() {
    let server = Server::start(Options::default());
    run(async {
        let client = Client::connect(server.address).await;
        for path in [RANGE, PUT] {
            let answer = client.call(path, frame(b"hello"), &[]).await;
            assert_eq!(answer.http, StatusCode::OK);
            assert_eq!(answer.headers["content-type"], "application/grpc");
            assert_eq!(answer.body, frame(b"hello"));
            assert_eq!(answer.status(), "0");
        }
        let empty = client.call(RANGE, frame(b""), &[]).await;
        assert_eq!(empty.body, frame(b""));
    });
}

#[test]
fn many_calls_in_flight_on_one_connection_are_all_answered() {
    let server = Server::start(Options::default());
    run(async {
        let client = Client::connect(server.address).await;
        let mut open = Vec::new();
        for n in 0..1000u32 {
            let path = if n % 2 == 0 { RANGE } else { PUT };
            let (response, mut stream) = client.open(path, &[], false).await;
            stream.send_data(frame(&n.to_be_bytes()), true).unwrap();
            open.push((n, response));
        }
        for (n, response) in open {
            let answer = read_all(response).await;
            assert_eq!(
                (answer.status(), answer.body.clone()),
                ("0", frame(&n.to_be_bytes()))
            );
        }
    });
}

#[test]
fn message_in_many_pieces_is_put_together() {
    let server = Server::start(Options::default());
    run(async {
        let client = Client::connect(server.address).await;
        let body = frame(b"in pieces");
        let (response, mut stream) = client.open(PUT, &[], false).await;
        for at in 0..body.len() {
            let last = at + 1 == body.len();
            stream.send_data(body.slice(at..=at), last).unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(read_all(response).await.body, body);
        let large = frame(&vec![3; 2 << 20]);
        let answer = client.call(PUT, large.clone(), &[]).await;
        assert_eq!(answer.status(), "0");
        assert!(answer.body == large);
    });
}

#[test]
fn message_over_the_limit_is_refused_before_it_is_sent() {
    let server = Server::start(Options {
        message_bytes_max: 1000,
        ..Options::default()
    });
    run(async {
        let client = Client::connect(server.address).await;
        let (response, mut stream) = client.open(PUT, &[], false).await;
        // Only the announcement of 1001 bytes.
        stream
            .send_data(Bytes::from_static(&[0, 0, 0, 3, 0xe9]), false)
            .unwrap();
        let answer = read_all(response).await;
        assert_eq!(answer.status(), "8");
        assert_eq!(
            answer.message(),
            "grpc: received message larger than max (1001 vs. 1000)"
        );
        let answer = client.call(PUT, frame(&[1; 1000]), &[]).await;
        assert_eq!(answer.status(), "0");
        assert_eq!(server.seen.turned_away(), [TurnedAway::MessageBytes]);
    });
}

#[test]
fn answer_larger_than_the_clients_window_arrives_whole() {
    let server = Server::start(Options::default());
    run(async {
        let client = Client::connect(server.address).await;
        for size in [65_530u32, 65_531, 3 << 20] {
            let answer = client.call(SIZED, frame(&size.to_be_bytes()), &[]).await;
            assert_eq!(answer.body.len(), 5 + size as usize);
            assert_eq!(answer.status(), "0");
        }
    });
}

#[test]
fn errors_are_trailers_only_and_their_text_is_encoded() {
    let server = Server::start(Options::default());
    run(async {
        let client = Client::connect(server.address).await;
        let answer = client.call(COMPACT, frame(b""), &[]).await;
        assert_eq!(answer.http, StatusCode::OK);
        assert_eq!(answer.headers["grpc-status"], "11");
        assert_eq!(answer.message(), "50%25 is%0Atoo much");
        assert!(answer.body.is_empty() && answer.trailers.is_empty());

        let unknown = client
            .call("/etcdserverpb.KV/Nothing", frame(b""), &[])
            .await;
        assert_eq!(unknown.status(), "12");
        assert_eq!(
            unknown.message(),
            "unknown method Nothing for service etcdserverpb.KV"
        );
    });
}

#[test]
fn compression_is_refused_in_known_words() {
    let server = Server::start(Options::default());
    run(async {
        let client = Client::connect(server.address).await;
        let answer = client
            .call(PUT, frame(b"x"), &[("grpc-encoding", "gzip")])
            .await;
        assert_eq!(answer.status(), "12");
        assert_eq!(
            answer.message(),
            "grpc: Decompressor is not installed for grpc-encoding \"gzip\""
        );
        let flagged = Bytes::from_static(&[1, 0, 0, 0, 1, b'x']);
        let answer = client.call(PUT, flagged, &[]).await;
        assert_eq!(answer.status(), "13");
        let plain = client
            .call(PUT, frame(b"x"), &[("grpc-encoding", "identity")])
            .await;
        assert_eq!(plain.status(), "0");
    });
}

#[test]
fn body_that_ends_early_is_an_error() {
    let server = Server::start(Options::default());
    run(async {
        let client = Client::connect(server.address).await;
        let cut = client
            .call(PUT, Bytes::from_static(&[0, 0, 0, 0, 9, 1]), &[])
            .await;
        assert_eq!((cut.status(), cut.message()), ("13", "unexpected EOF"));
        let none = client.call(PUT, Bytes::new(), &[]).await;
        assert_eq!(none.status(), "13");
    });
}

#[test]
fn wrong_content_type_and_method_get_their_http_status() {
    let server = Server::start(Options::default());
    run(async {
        let client = Client::connect(server.address).await;
        let fields = [("content-type", "application/json")];
        let answer = client.call(PUT, frame(b""), &fields).await;
        assert_eq!(answer.http, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        let request = http::Request::builder()
            .method("PUT")
            .uri(format!("http://host{PUT}"))
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let (response, _) = client.send(request, true).await;
        assert_eq!(
            read_all(response).await.http,
            StatusCode::METHOD_NOT_ALLOWED
        );
    });
}

#[test]
fn metadata_reaches_the_handler() {
    let server = Server::start(Options::default());
    run(async {
        let client = Client::connect(server.address).await;
        let answer = client
            .call(METADATA, frame(b""), &[("hasleader", "true")])
            .await;
        assert_eq!(answer.body, frame(b"true"));
        assert_eq!(
            client.call(METADATA, frame(b""), &[]).await.body,
            frame(b"none")
        );
    });
}

#[test]
fn deadline_ends_the_call_and_drops_the_handler() {
    let server = Server::start(Options::default());
    run(async {
        let client = Client::connect(server.address).await;
        // A later and a stale deadline beside it must not hide it.
        let (later, mut stream) = client.open(NEVER, &[("grpc-timeout", "400m")], false).await;
        stream.send_data(frame(b""), true).unwrap();
        let answer = client
            .call(RANGE, frame(b"x"), &[("grpc-timeout", "1H")])
            .await;
        assert_eq!(answer.status(), "0");
        let begin = Instant::now();
        let answer = client
            .call(NEVER, frame(b""), &[("grpc-timeout", "50m")])
            .await;
        assert_eq!(
            (answer.status(), answer.message()),
            ("4", "context deadline exceeded")
        );
        assert!(begin.elapsed() >= Duration::from_millis(50));
        assert_eq!(read_all(later).await.status(), "4");

        // It holds for a request that is not whole, too.
        let (response, _stream) = client.open(PUT, &[("grpc-timeout", "20m")], false).await;
        assert_eq!(read_all(response).await.status(), "4");

        let bad = client
            .call(PUT, frame(b""), &[("grpc-timeout", "5x")])
            .await;
        assert_eq!(
            (bad.status(), bad.message()),
            ("13", "malformed grpc-timeout: \"5x\"")
        );
    });
    let seen = &server.seen;
    eventually("both handlers are dropped", || {
        seen.entered.load(Ordering::SeqCst) == 2 && seen.dropped.load(Ordering::SeqCst) == 2
    });
}

#[test]
fn reset_drops_the_handler() {
    let server = Server::start(Options::default());
    let seen = Arc::clone(&server.seen);
    run(async {
        let client = Client::connect(server.address).await;
        let (response, mut stream) = client.open(NEVER, &[], false).await;
        stream.send_data(frame(b""), true).unwrap();
        while seen.entered.load(Ordering::SeqCst) == 0 {
            client.call(RANGE, frame(b""), &[]).await;
        }
        assert_eq!(seen.dropped.load(Ordering::SeqCst), 0);
        stream.send_reset(h2::Reason::CANCEL);
        drop(response);
        while seen.dropped.load(Ordering::SeqCst) == 0 {
            client.call(RANGE, frame(b""), &[]).await;
        }
    });
}

/// Opens fifty calls that wait until the test lets them, one that is reset and one whose deadline passes; `beside` others wait
/// already. Each ends for itself.
async fn each_ends_for_itself(client: &Client, seen: &Seen, path: &str, beside: usize) {
    let (reset, mut reset_body) = client.open(path, &[], false).await;
    let deadline = [("grpc-timeout", "20m")];
    let (late, mut late_body) = client.open(path, &deadline, false).await;
    let mut open = Vec::new();
    for n in 0..50u8 {
        let (response, mut body) = client.open(path, &[], false).await;
        body.send_data(frame(&[n]), true).unwrap();
        open.push((n, response));
    }
    for body in [&mut reset_body, &mut late_body] {
        body.send_data(frame(b""), true).unwrap();
    }
    assert_eq!(read_all(late).await.status(), "4", "its deadline passes");
    while seen.entered.load(Ordering::SeqCst) < 52 + beside {
        client.call(RANGE, frame(b""), &[]).await;
    }
    assert_eq!(seen.dropped.load(Ordering::SeqCst), 1);
    reset_body.send_reset(h2::Reason::CANCEL);
    drop(reset);
    while seen.dropped.load(Ordering::SeqCst) == 1 {
        client.call(RANGE, frame(b""), &[]).await;
    }
    assert_eq!(seen.dropped.load(Ordering::SeqCst), 2);
    seen.confirmed.store(true, Ordering::SeqCst);
    for (n, response) in open {
        let answer = read_all(response).await;
        assert_eq!((answer.status(), answer.body.clone()), ("0", frame(&[n])));
    }
    // Who comes later does not wait.
    let answer = client.call(path, frame(b"x"), &[]).await;
    assert_eq!(answer.body, frame(b"x"));
}

fn eventually_all_are_dropped(seen: &Seen) {
    eventually("all are dropped", || {
        seen.dropped.load(Ordering::SeqCst) == seen.entered.load(Ordering::SeqCst)
    });
}

#[test]
fn calls_that_wait_for_one_word_wait_together_and_end_each_for_itself() {
    let server = Server::start(Options::default());
    let seen = Arc::clone(&server.seen);
    run(async {
        let client = Client::connect(server.address).await;
        let (long, mut long_body) = client.open(TOGETHER, &[], false).await;
        long_body.send_data(frame(b""), true).unwrap();
        each_ends_for_itself(&client, &seen, TOGETHER, 1).await;
        assert_eq!(read_all(long).await.body, frame(b"long"));
        assert!(
            seen.confirmations.load(Ordering::SeqCst) < 53,
            "not one for each"
        );
    });
    eventually_all_are_dropped(&seen);
}

#[test]
fn calls_that_wait_side_by_side_end_each_for_itself() {
    let server = Server::start(Options::default());
    let seen = Arc::clone(&server.seen);
    run(async {
        let client = Client::connect(server.address).await;
        each_ends_for_itself(&client, &seen, SIDE_BY_SIDE, 0).await;
    });
    eventually_all_are_dropped(&seen);
}

#[test]
fn lost_connection_drops_the_handlers() {
    let server = Server::start(Options::default());
    run(async {
        let client = Client::connect(server.address).await;
        for _ in 0..10 {
            let (_response, mut stream) = client.open(NEVER, &[], false).await;
            stream.send_data(frame(b""), true).unwrap();
            std::mem::forget(_response);
        }
        while server.seen.entered.load(Ordering::SeqCst) < 10 {
            client.call(RANGE, frame(b""), &[]).await;
        }
    });
    eventually("all handlers are dropped", || {
        server.seen.dropped.load(Ordering::SeqCst) == 10
    });
    eventually("the connection is counted out", || {
        server.connections() == 0
    });
}

#[test]
fn requests_that_arrive_in_part_are_bounded_together() {
    let server = Server::start(Options {
        partial_bytes_max: 20_000,
        ..Options::default()
    });
    run(async {
        let client = Client::connect(server.address).await;
        let message = frame(&[1; 15_500]);
        let (first, mut first_body) = client.open(PUT, &[], false).await;
        first_body
            .send_data(message.slice(..15_000), false)
            .unwrap();
        // On another connection, so that only the order of arrival counts.
        client.call(RANGE, frame(b""), &[]).await;
        let other = Client::connect(server.address).await;
        let (second, mut second_body) = other.open(PUT, &[], false).await;
        second_body
            .send_data(message.slice(..15_000), false)
            .unwrap();
        let refused = read_all(second).await;
        assert_eq!(
            (refused.status(), refused.message()),
            ("8", "etcdserver: too many requests")
        );
        assert_eq!(server.seen.turned_away(), [TurnedAway::PartialBytes]);
        first_body.send_data(message.slice(15_000..), true).unwrap();
        assert_eq!(read_all(first).await.body, message);
        // The room is free again.
        let (third, mut third_body) = other.open(PUT, &[], false).await;
        third_body
            .send_data(message.slice(..15_000), false)
            .unwrap();
        other.call(RANGE, frame(b""), &[]).await;
        third_body.send_data(message.slice(15_000..), true).unwrap();
        assert_eq!(read_all(third).await.status(), "0");
    });
}

#[test]
fn calls_whose_message_does_not_come_are_bounded_together() {
    let server = Server::start(Options {
        open_calls_bytes_max: 20_000,
        ..Options::default()
    });
    run(async {
        let client = Client::connect(server.address).await;
        let mut open = Vec::new();
        let refused = loop {
            let (answer, body) = client.open(PUT, &[], false).await;
            client.call(RANGE, frame(b""), &[]).await;
            if !server.seen.turned_away().is_empty() {
                break read_all(answer).await;
            }
            open.push((answer, body));
            assert!(open.len() < 20, "20 calls fit 20 000 bytes");
        };
        assert_eq!(
            (refused.status(), refused.message()),
            ("8", "etcdserver: too many requests")
        );
        assert_eq!(server.seen.turned_away(), [TurnedAway::OpenCalls]);
        assert!(open.len() > 5, "{} calls were all", open.len());
        // Those that are open are served, and make room.
        for (answer, mut body) in open {
            body.send_data(frame(b"late"), true).unwrap();
            assert_eq!(read_all(answer).await.status(), "0");
        }
        let (answer, mut body) = client.open(PUT, &[], false).await;
        body.send_data(frame(b"x"), true).unwrap();
        assert_eq!(read_all(answer).await.status(), "0");
    });
}

#[test]
fn message_that_does_not_arrive_in_time_ends_its_call() {
    let server = Server::start(Options {
        body_timeout: Duration::from_millis(200),
        ..Options::default()
    });
    run(async {
        let client = Client::connect(server.address).await;
        // Nothing of it, a part of it, and a part on a stream that was served before.
        let (nothing, _nothing_body) = client.open(PUT, &[], false).await;
        let (part, mut part_body) = client.open(PUT, &[], false).await;
        part_body
            .send_data(frame(b"half").slice(..6), false)
            .unwrap();
        let (stream, mut stream_body) = client.open(WATCH, &[], false).await;
        stream_body.send_data(frame(b"whole"), false).unwrap();
        stream_body
            .send_data(frame(b"half").slice(..6), false)
            .unwrap();
        for answer in [nothing, part, stream] {
            let answer = read_all(answer).await;
            let told = "kvnode: the request did not arrive within 200ms";
            assert_eq!((answer.status(), answer.message()), ("4", told));
        }
        assert_eq!(server.seen.turned_away(), [TurnedAway::SlowBody; 3]);
        // A stream at rest may take its time between two messages.
        let (answer, mut body) = client.open(WATCH, &[], false).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        body.send_data(frame(b"at last"), true).unwrap();
        assert_eq!(read_all(answer).await.status(), "0");
    });
}

#[test]
fn headers_without_measure_are_refused() {
    let server = Server::start(Options::default());
    run(async {
        let client = Client::connect(server.address).await;
        let long = "x".repeat(70 << 10);
        let answer = client.call(RANGE, frame(b""), &[("x-long", &long)]).await;
        assert_eq!(answer.http, 431, "{answer:?}");
        let told = "kvnode: the request's headers are longer than 65536 bytes";
        assert_eq!((answer.status(), answer.message()), ("8", told));
        assert_eq!(server.seen.turned_away(), [TurnedAway::HeaderList]);
        // Beyond what the engine hands out it refuses by itself, among calls that it does hand out.
        let longer = "x".repeat(140 << 10);
        for calls in 2..5 {
            let fields = [("x-long", &*longer)];
            let (answer, served) = futures_util::future::join(
                client.call(RANGE, frame(b""), &fields),
                client.call(RANGE, frame(b"x"), &[]),
            )
            .await;
            assert_eq!((answer.http.as_u16(), served.status()), (431, "0"));
            let counted = vec![TurnedAway::HeaderList; calls];
            eventually("it is counted", || server.seen.turned_away() == counted);
        }
        let fits = "x".repeat(60 << 10);
        let answer = client.call(RANGE, frame(b""), &[("x-long", &fits)]).await;
        assert_eq!(answer.status(), "0");
    });
}
