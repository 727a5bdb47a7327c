use super::client::{Client, piece, read_all, run};
use super::raw::{self, Raw};
use super::*;

const WATCH: &str = "/etcdserverpb.Watch/Watch";
const SNAPSHOT: &str = "/etcdserverpb.Maintenance/Snapshot";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const OBSERVE: &str = "/v3electionpb.Election/Observe";
const RANGE: &str = "/etcdserverpb.KV/Range";

#[test]
fn bidi_stream_answers_until_the_client_half_closes() {
    let server = Server::start(Options::default());
    run(async {
        let client = Client::connect(server.address).await;
        let (response, mut stream) = client.open(WATCH, &[], false).await;
        // The headers come before the first message.
        let mut body = response.await.unwrap().into_body();
        for n in 0..100u32 {
            stream.send_data(frame(&n.to_be_bytes()), false).unwrap();
            assert_eq!(piece(&mut body).await, frame(&n.to_be_bytes()));
        }
        // Two messages in one piece, and one in two.
        let mut two = frame(b"one").to_vec();
        two.extend_from_slice(&frame(b"two"));
        two.extend_from_slice(&frame(b"three")[..4]);
        stream.send_data(Bytes::from(two), false).unwrap();
        let mut got = piece(&mut body).await.to_vec();
        while got.len() < 16 {
            got.extend_from_slice(&piece(&mut body).await);
        }
        assert_eq!(got, [frame(b"one"), frame(b"two")].concat());
        stream.send_data(frame(b"three").slice(4..), true).unwrap();
        assert_eq!(piece(&mut body).await, frame(b"three"));
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
    });
}

#[test]
fn server_stream_larger_than_every_window_arrives_whole() {
    let server = Server::start(Options::default());
    run(async {
        let client = Client::connect(server.address).await;
        let answer = client.call(SNAPSHOT, frame(&[200]), &[]).await;
        assert_eq!(answer.body.len(), 200 * ((64 << 10) + 5));
        assert_eq!(answer.status(), "0");
    });
}

#[test]
fn stream_ends_with_its_status_though_the_client_has_not_half_closed() {
    let server = Server::start(Options::default());
    run(async {
        let client = Client::connect(server.address).await;
        let (response, mut stream) = client.open(OBSERVE, &[], false).await;
        stream.send_data(frame(b"first"), false).unwrap();
        let answer = read_all(response).await;
        assert_eq!(answer.body, frame(b"first"));
        assert_eq!(
            (answer.status(), answer.message()),
            ("2", "election: no leader")
        );
        let (response, _) = client.open(OBSERVE, &[], true).await;
        let answer = read_all(response).await;
        assert_eq!(answer.headers["grpc-status"], "2");
    });
}

#[test]
fn reader_that_does_not_read_bounds_what_is_sent() {
    const TOTAL: u8 = 250;
    let server = Server::start(Options {
        unsent_bytes_max: 1 << 20,
        ..Options::default()
    });
    let sent = || server.seen.sent_bytes.load(Ordering::SeqCst);
    // Every window is open wide; only the socket holds the server back.
    let mut raw = Raw::greet(server.address, 0x7fff_ffff);
    for call in 0..8 {
        raw.open(2 * call + 1, SNAPSHOT);
        raw.frame(raw::DATA, raw::END_STREAM, 2 * call + 1, &frame(&[TOTAL]));
    }
    let mut before = usize::MAX;
    eventually("the server stops sending", || {
        std::thread::sleep(Duration::from_millis(100));
        std::mem::replace(&mut before, sent()) == sent() && sent() > 0
    });
    // The kernel's two socket buffers take some MiB; all eight calls want 125.
    assert!(sent() < 24 << 20, "{} bytes were handed over", sent());
    // Other connections are served meanwhile.
    run(async {
        let client = Client::connect(server.address).await;
        assert_eq!(client.call(RANGE, frame(b"x"), &[]).await.status(), "0");
    });
    // And all of it arrives once it is read.
    let (mut ends, mut bytes) = (0, 0);
    while ends < 8 {
        let frame = raw.next().unwrap();
        match frame.kind {
            raw::DATA => bytes += frame.payload.len(),
            raw::HEADERS if frame.flags & raw::END_STREAM != 0 => ends += 1,
            _ => {}
        }
    }
    assert_eq!(bytes, 8 * usize::from(TOTAL) * ((64 << 10) + 5));
}

#[test]
fn call_without_window_waits_alone() {
    let server = Server::start(Options::default());
    let mut raw = Raw::greet(server.address, 1000);
    raw.open(1, SNAPSHOT);
    raw.frame(raw::DATA, raw::END_STREAM, 1, &frame(&[3]));
    let first = raw.until(raw::DATA).unwrap();
    assert_eq!((first.stream, first.payload.len()), (1, 1000));
    // A small answer on the same connection goes past it.
    raw.open(3, RANGE);
    raw.frame(raw::DATA, raw::END_STREAM, 3, &frame(b"small"));
    let second = raw.until(raw::DATA).unwrap();
    assert_eq!(
        (second.stream, second.payload.as_slice()),
        (3, &*frame(b"small"))
    );
    assert_eq!(server.seen.sent_bytes.load(Ordering::SeqCst), 0);
    // The client gives up on the first; its handler ends.
    raw.frame(raw::RST_STREAM, 0, 1, &8u32.to_be_bytes());
    eventually("the handler is dropped", || {
        server.seen.dropped.load(Ordering::SeqCst) == 1
    });
}

#[test]
fn sink_in_another_task_learns_that_the_call_is_over() {
    let server = Server::start(Options::default());
    let seen = Arc::clone(&server.seen);
    run(async {
        let client = Client::connect(server.address).await;
        let (response, mut stream) = client.open(KEEP_ALIVE, &[], false).await;
        stream.send_data(frame(b""), false).unwrap();
        let mut body = response.await.unwrap().into_body();
        for _ in 0..100 {
            piece(&mut body).await;
        }
        // It waits for the window now; the reset reaches it there.
        stream.send_reset(h2::Reason::CANCEL);
        drop(body);
        while seen.closed_elsewhere.load(Ordering::SeqCst) < 1 {
            client.call(RANGE, frame(b""), &[]).await;
        }
        // The same when the handler returns.
        let (response, mut stream) = client.open(KEEP_ALIVE, &[], false).await;
        stream.send_data(Bytes::new(), true).unwrap();
        let _ = response.await.unwrap();
        while seen.closed_elsewhere.load(Ordering::SeqCst) < 2 {
            client.call(RANGE, frame(b""), &[]).await;
        }
    });
}

#[test]
fn deadline_ends_a_stream() {
    let server = Server::start(Options::default());
    run(async {
        let client = Client::connect(server.address).await;
        let fields = [("grpc-timeout", "30m")];
        let (response, _stream) = client.open(WATCH, &fields, false).await;
        let answer = read_all(response).await;
        assert_eq!(answer.status(), "4");
    });
}
