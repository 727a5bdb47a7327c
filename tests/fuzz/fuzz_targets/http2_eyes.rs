//! What the client port looks at, and changes, in the bytes of an HTTP/2 connection before the engine gets them. The first byte
//! says how the stream is cut, the second picks its shape: any bytes whatever behind a good preface, or as the header blocks of
//! calls.
//!
//! Frames are seen the same however they are cut, and so are slashes changed; nothing but slashes is; once changed, nothing is
//! left to change; and whatever calls the engine takes from the bytes as they came, it takes from the changed ones just so.
//! The sources are taken in as they are: the server's crate brings a runtime and an engine along.
#![no_main]

#[allow(dead_code, reason = "the server uses the rest")]
#[path = "../../../node/src/http/frames.rs"]
mod frames;
#[path = "../memory.rs"]
mod memory;
#[path = "../../../node/src/http/slashes.rs"]
mod slashes;

use std::cell::RefCell;
use std::task::Poll;

use bytes::Bytes;
use frames::{Head, Walker};
use libfuzzer_sys::fuzz_target;
use slashes::Slashes;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

fuzz_target!(|data: &[u8]| {
    let Some(([step, shape], data)) = data.split_first_chunk::<2>() else {
        return;
    };
    let step = usize::from(*step) + 1;
    let frames = match shape % 2 {
        0 => data.to_vec(),
        _ => calls(data),
    };
    let bytes = [PREFACE, SETTINGS, &frames].concat();
    assert_eq!(seen(&bytes, step), seen(&bytes, bytes.len()));
    let now = changed(&bytes, step);
    assert_eq!(now, changed(&bytes, bytes.len()));
    assert_eq!(now, changed(&now, bytes.len()));
    for (was, is) in bytes.iter().zip(&now) {
        // In the clear, or one bit more at the end of a code.
        assert!(was == is || (*was, *is) == (b'/', b'3') || was & is == *was);
    }
    if now != bytes {
        let after = requests(&now, step);
        let mut after = after.iter();
        for request in requests(&bytes, step) {
            assert!(after.any(|other| *other == request), "{request} is lost");
        }
    }
});

/// The bytes as the header blocks of calls, each behind what every call needs.
fn calls(data: &[u8]) -> Vec<u8> {
    const BLOCK_BYTES_MAX: usize = 48;
    let mut frames = Vec::new();
    for (number, block) in data.chunks(BLOCK_BYTES_MAX).enumerate() {
        let stream = u32::try_from(2 * number + 1).unwrap_or(u32::MAX);
        // ":method: POST", ":scheme: http", ":path: /".
        let length = u8::try_from(3 + block.len()).unwrap_or(u8::MAX);
        frames.extend_from_slice(&[0, 0, length, frames::TYPE_HEADERS, 5]);
        frames.extend_from_slice(&stream.to_be_bytes());
        frames.extend_from_slice(b"\x83\x86\x84");
        frames.extend_from_slice(block);
    }
    frames
}

fn seen(bytes: &[u8], step: usize) -> (Vec<Head>, bool) {
    let (mut walker, mut heads) = (Walker::after(PREFACE.len()), Vec::new());
    for piece in bytes.chunks(step) {
        walker.feed(piece, |head| heads.push(head));
    }
    (heads, walker.at_boundary())
}

fn changed(bytes: &[u8], step: usize) -> Vec<u8> {
    let (mut slashes, mut bytes) = (Slashes::after(PREFACE.len()), bytes.to_vec());
    for piece in bytes.chunks_mut(step) {
        slashes.change(piece);
    }
    bytes
}

/// The calls that the engine takes.
fn requests(bytes: &[u8], step: usize) -> Vec<String> {
    let taken = RefCell::new(Vec::new());
    let wire = memory::Wire::new(bytes.to_vec(), step);
    let mut builder = h2::server::Builder::new();
    builder.max_header_list_size(128 << 10);
    memory::drive(async {
        let Ok(mut connection) = builder.handshake::<_, Bytes>(wire).await else {
            return;
        };
        let mut open = Vec::new();
        std::future::poll_fn(|cx| {
            loop {
                match connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok((request, answer)))) => {
                        let (head, body) = request.into_parts();
                        let said = format!("{} {} {:?}", head.method, head.uri, head.headers);
                        taken.borrow_mut().push(said);
                        open.push((body, answer));
                    }
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    });
    taken.into_inner()
}
