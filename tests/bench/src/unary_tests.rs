//! The closed loop against a server made with the h2 crate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use kvnode_api::{Message as _, PutResponse, TxnRequest, frame, request_op};

use super::*;
use crate::data::{Chance, Values, key};
use crate::load::puts::Fill;

/// What the server has seen.
#[derive(Default)]
struct Seen {
    calls: AtomicUsize,
    open: AtomicUsize,
    open_most: AtomicUsize,
}

/// Serves on a thread that ends with the test's process; a transaction that puts the first key is
/// refused.
fn serve(seen: Arc<Seen>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                tokio::task::spawn_local(async move {
                    let mut server = h2::server::handshake(socket).await.unwrap();
                    while let Some(Ok((request, respond))) = server.accept().await {
                        tokio::task::spawn_local(answer(request, respond, Arc::clone(&seen)));
                    }
                });
            }
        });
    });
    address
}

async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    seen: Arc<Seen>,
) {
    seen.calls.fetch_add(1, Ordering::SeqCst);
    let open = seen.open.fetch_add(1, Ordering::SeqCst) + 1;
    seen.open_most.fetch_max(open, Ordering::SeqCst);
    let mut body = request.into_body();
    let mut decoder = frame::Decoder::new(1 << 20);
    let mut message = None;
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        decoder.push(piece);
        message = message.or(decoder.next_message().unwrap());
    }
    let txn = TxnRequest::decode(message.unwrap()).unwrap();
    let refused = txn.success.iter().any(|op| {
        matches!(&op.request, Some(request_op::Request::RequestPut(put)) if put.key == key(0)[..])
    });
    let (status, text) = if refused { ("8", "no room") } else { ("0", "") };
    let mut send = respond
        .send_response(http::Response::new(()), false)
        .unwrap();
    let answer = PutResponse {
        header: Some(Default::default()),
        ..Default::default()
    };
    send.send_data(frame::encode(&answer).unwrap(), false)
        .unwrap();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static(status));
    trailers.insert("grpc-message", http::HeaderValue::from_static(text));
    seen.open.fetch_sub(1, Ordering::SeqCst);
    send.send_trailers(trailers).unwrap();
}

fn fill(keys: u64, value_bytes: usize) -> Fill {
    Fill {
        next: 0,
        keys,
        per_txn: 10,
        values: Values::new(value_bytes),
        chance: Chance(1),
    }
}

#[test]
fn every_request_is_answered_once_and_a_refusal_is_an_error() {
    // The second size makes 40 KB requests, which must wait for the window again and again.
    for value_bytes in [100, 4000] {
        let seen = Arc::new(Seen::default());
        let address = serve(Arc::clone(&seen));
        let mut net = Net::connect(address, 3, Duration::from_secs(10)).unwrap();
        let meter = Meter::new(&[]);
        let outcome = run(&mut net, &mut fill(5000, value_bytes), 4, Span::ALL, meter).unwrap();
        assert_eq!((outcome.ops, outcome.errors), (499, 1));
        assert_eq!(outcome.first_error.as_deref(), Some("status 8: no room"));
        assert!(outcome.p50_us > 0.0 && outcome.p50_us <= outcome.max_us);
        assert_eq!(seen.calls.load(Ordering::SeqCst), 500);
        let most = seen.open_most.load(Ordering::SeqCst);
        assert!(most <= 12, "{most} at once");
    }
}

#[test]
fn a_load_ends_in_time_with_nothing_left_open_and_the_connections_serve_again() {
    let seen = Arc::new(Seen::default());
    let address = serve(Arc::clone(&seen));
    let mut net = Net::connect(address, 2, Duration::from_secs(10)).unwrap();
    let span = Span::measured(Duration::from_millis(5), Duration::from_millis(20));
    let mut endless = fill(u64::MAX / 2, 10);
    let outcome = run(&mut net, &mut endless, 4, span, Meter::new(&[])).unwrap();
    assert!(outcome.seconds >= 0.02);
    let asked = usize::try_from(endless.next / 10).unwrap();
    // All that was asked has been answered, but requests answered too early or late do not count.
    assert_eq!(seen.calls.load(Ordering::SeqCst), asked);
    assert!(outcome.ops as usize <= asked);
    let outcome = run(&mut net, &mut fill(50, 10), 4, Span::ALL, Meter::new(&[])).unwrap();
    assert_eq!((outcome.ops, outcome.errors), (4, 1));
}

#[test]
fn a_load_that_takes_too_long_is_given_up() {
    let address = serve(Arc::new(Seen::default()));
    let mut net = Net::connect(address, 1, Duration::from_secs(10)).unwrap();
    let span = Span {
        limit: Duration::from_millis(50),
        ..Span::ALL
    };
    let mut endless = fill(u64::MAX / 2, 10);
    let Err(Failure(reason)) = run(&mut net, &mut endless, 4, span, Meter::new(&[])) else {
        panic!("it ends");
    };
    assert_eq!(reason, "it is not done within 50ms");
}

#[test]
fn a_server_that_is_not_there_is_a_failure() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    assert!(Net::connect(address, 1, Duration::from_secs(10)).is_err());
}
