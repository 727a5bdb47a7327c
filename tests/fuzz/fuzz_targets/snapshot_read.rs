//! Any bytes whatever are read as a snapshot to a typed result, by each of the three readers, without a panic and without
//! memory beyond what the bytes announce in bounds. What the strict reader takes as sound, the others agree with. The first
//! byte picks the shape: raw bytes, or a good file with the rest of the input laid over it at some place.
#![no_main]

use std::io::Cursor;
use std::sync::LazyLock;

use kvnode_snapshot::{Info, Options, Snapshot, Stream, Writer, salvage};
use libfuzzer_sys::fuzz_target;

static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let options = Options {
        chunk_bytes: 256,
        ..Options::default()
    };
    let mut writer = Writer::new(Vec::new(), &Info::default(), options).expect("memory takes all");
    for number in 0..60u32 {
        let key = number.to_be_bytes();
        writer
            .push((number / 40) as u8, &key, &[number as u8; 30])
            .expect("in order");
    }
    writer.finish(7).expect("memory takes all").1
});

fuzz_target!(|data: &[u8]| {
    let Some((shape, data)) = data.split_first() else {
        return;
    };
    let image = if shape % 2 == 0 {
        data.to_vec()
    } else {
        let Some((place, data)) = data.split_first_chunk::<2>() else {
            return;
        };
        let mut image = GOOD.clone();
        let at = usize::from(u16::from_le_bytes(*place)) % image.len();
        let end = (at + data.len()).min(image.len());
        image[at..end].copy_from_slice(&data[..end - at]);
        image
    };
    let streamed = stream(&image);
    let mut sound = None;
    if let Ok(mut snapshot) = Snapshot::open(Cursor::new(&image)) {
        let report = snapshot.verify(|_| {}).expect("memory does not fail");
        sound = report.is_sound().then_some(report.records);
        let _ = snapshot.get(0, b"\0\0\0\x07");
        let _ = snapshot.range(1, b"", None).count();
    }
    assert_eq!(streamed, sound, "the readers disagree");
    if let Ok(mut left) = salvage(Cursor::new(&image)) {
        let mut records = 0;
        for at in 0..left.snapshot.chunks().len() {
            records += left.snapshot.read_chunk(at).map_or(0, |found| found.len() as u64);
        }
        assert!(sound.is_none_or(|sound| sound == records));
    }
});

/// The number of records, if the stream was whole.
fn stream(image: &[u8]) -> Option<u64> {
    let mut stream = Stream::open(image).ok()?;
    let mut records = 0;
    while let Some((_, chunk)) = stream.next_chunk().ok()? {
        records += chunk.len() as u64;
    }
    Some(records)
}
