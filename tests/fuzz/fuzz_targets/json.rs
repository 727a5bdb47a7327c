//! Any text whatever is read as any message of the API to its bytes or a typed refusal, without a panic; what was read is
//! written, read again and the same; and a text is cut into the same objects however it arrives. Any bytes whatever are
//! written as JSON, or refused. The first byte picks the shape, the second the message.
#![no_main]

use kvnode_api::json::shape::ALL;
use kvnode_api::json::{Splitter, read, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(([kind, message], data)) = data.split_first_chunk::<2>() else {
        return;
    };
    let shape = ALL[usize::from(*message) % ALL.len()];
    match kind % 3 {
        0 => {
            let Ok(bytes) = read(shape, data) else {
                return;
            };
            // Fields may have come in any order; written in their own they stay as they are.
            let Some(text) = text_of(shape, &bytes) else {
                return;
            };
            let again = read(shape, &text).expect("what was written can be read");
            assert_eq!(text_of(shape, &again), Some(text), "{}", shape.name);
        }
        1 => {
            if let Some(text) = text_of(shape, data) {
                read(shape, &text).expect("what was written can be read");
            }
        }
        _ => {
            let whole = objects(data, data.len().max(1));
            for step in [1, 3, 64] {
                assert_eq!(objects(data, step), whole);
            }
        }
    }
});

fn text_of(shape: &'static kvnode_api::json::shape::Shape, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    write(shape, bytes, &mut text).ok().map(|()| text)
}

/// The objects, and whether the text was sound.
fn objects(text: &[u8], step: usize) -> (Vec<Vec<u8>>, bool) {
    let mut splitter = Splitter::new(1000);
    let mut found = Vec::new();
    for piece in text.chunks(step) {
        splitter.push(piece);
        loop {
            match splitter.next_value() {
                Ok(Some(object)) => found.push(object.to_vec()),
                Ok(None) => break,
                Err(_) => return (found, false),
            }
        }
    }
    (found, splitter.finish().is_ok())
}
