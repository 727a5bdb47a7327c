//! What may come on a port that is not HTTP/2, in two shapes that the first byte picks.
//!
//! 0: any bytes whatever are a connection to the HTTP/1.1 engine, set up as the server's. Requests that get through go the
//!    gateway's way: path, body, objects, messages, and back to JSON. The connection ends when its bytes do.
//! 1: any bytes whatever are what a client says over a WebSocket. They are cut into messages, or refused, the same way
//!    however they arrive.
//!
//! The WebSocket's source is taken in as it is: the server's crate brings a runtime and an engine along.
#![no_main]

#[allow(dead_code, reason = "the answers use the rest")]
#[path = "../../../node/src/gateway/websocket/frame.rs"]
mod frame;
#[path = "../memory.rs"]
mod memory;

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use frame::{Decoder, Incoming};
use http::{Request, Response};
use hyper::body::{Body, Bytes};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use kvnode_api::json::{Splitter, read, route, write};
use libfuzzer_sys::fuzz_target;

const HEAD_BYTES_MAX: usize = 64 << 10;
const BODY_BYTES_MAX: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let Some(([shape, step], data)) = data.split_first_chunk::<2>() else {
        return;
    };
    match shape % 2 {
        0 => serve(usize::from(*step) + 1, data),
        _ => {
            let whole = said(data, data.len().max(1));
            for step in [1, 7, 300] {
                assert_eq!(said(data, step), whole);
            }
        }
    }
});

fn serve(step: usize, bytes: &[u8]) {
    let wire = memory::Wire::new(bytes.to_vec(), step);
    let connection = Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(wire, service_fn(answer));
    memory::drive(async {
        let _ = connection.await;
    });
}

async fn answer(request: Request<hyper::body::Incoming>) -> Result<Response<Full>, Infallible> {
    let (head, mut body) = request.into_parts();
    let Some(route) = route(head.uri.path()) else {
        return Ok(Response::new(Full(Bytes::new())));
    };
    let mut splitter = Splitter::new(BODY_BYTES_MAX);
    let mut text = Vec::new();
    while let Some(Ok(part)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(data) = part.into_data() else {
            continue;
        };
        splitter.push(&data);
        while let Ok(Some(object)) = splitter.next_value() {
            let Ok(message) = read(route.request, &object) else {
                continue;
            };
            let _ = write(route.request, &message, &mut text);
        }
        if splitter.buffered() > BODY_BYTES_MAX {
            break;
        }
    }
    Ok(Response::new(Full(text.into())))
}

/// A body that is there at once.
struct Full(Bytes);

impl Body for Full {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        let bytes = std::mem::take(&mut self.0);
        Poll::Ready((!bytes.is_empty()).then(|| Ok(hyper::body::Frame::data(bytes))))
    }
}

/// The messages, and the code that ended it.
fn said(bytes: &[u8], step: usize) -> (Vec<Incoming>, Option<u16>) {
    let (mut decoder, mut found) = (Decoder::default(), Vec::new());
    for piece in bytes.chunks(step) {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(said)) => found.push(said),
                Ok(None) => break,
                Err(code) => return (found, Some(code)),
            }
        }
    }
    (found, None)
}
