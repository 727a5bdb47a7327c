//! Any bytes whatever are cut into frames, or refused, the same way however they arrive; and a frame
//! that got through holds nothing that a message, decoded from it, could break. The first byte picks
//! the shape: raw bytes, or bytes as the bodies of good frames.
//! The frames' source is taken in as it is: the server's crate brings a runtime and an engine along.
#![no_main]

#[allow(dead_code, reason = "the snapshot parts of the port use the rest")]
#[path = "../../../node/src/peers/frame.rs"]
mod frame;

use bytes::{BufMut, BytesMut};
use frame::{Decoder, Frame, FrameError, HEADER_BYTES, Kind, put};
use kvnode_replica::{Limits, Message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((shape, data)) = data.split_first() else {
        return;
    };
    let bytes = match shape % 2 {
        0 => data.to_vec(),
        _ => framed(data),
    };
    let whole = decode(&bytes, bytes.len().max(1));
    for step in [1, 7, HEADER_BYTES, 1000] {
        assert_eq!(decode(&bytes, step), whole);
    }
    for frame in whole.0 {
        assert!(frame.body.len() <= frame.kind.body_bytes_max());
        if frame.kind == Kind::Message
            && let Ok(message) = Message::decode(frame.body.clone(), &Limits::default())
        {
            let mut again = BytesMut::new();
            message.encode_into(&mut again);
            assert_eq!(again, frame.body);
        }
    }
});

fn decode(bytes: &[u8], step: usize) -> (Vec<Frame>, Result<bool, FrameError>) {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    for chunk in bytes.chunks(step) {
        if let Err(error) = decoder.feed(chunk, &mut frames) {
            return (frames, Err(error));
        }
    }
    (frames, Ok(decoder.is_between_frames()))
}

/// Bodies of a length the data itself says, in frames whose checksums are right.
fn framed(mut data: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    while let Some((length, rest)) = data.split_first() {
        let (body, rest) = rest.split_at(rest.len().min(*length as usize));
        put(&mut out, Kind::Message, |out| out.put_slice(body));
        data = rest;
    }
    // What is left over is a frame in part.
    out.truncate(out.len().saturating_sub(out.len() % 3));
    out.to_vec()
}
