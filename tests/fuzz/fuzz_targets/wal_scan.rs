//! Any bytes whatever are scanned to a typed result in bounded time, and the result does not depend
//! on how they are read. The first byte picks the shape: raw bytes, bytes behind a good segment
//! header, or bytes as the records of a good batch.
#![no_main]

use kvnode_wal::batch::{BatchHeader, Flags};
use kvnode_wal::record::Records;
use kvnode_wal::scan::{Expected, SegmentScan, Step, Verdict, read_header, scan_segment};
use kvnode_wal::{HardState, Identity, OpenedBecause, SegmentHeader};
use libfuzzer_sys::fuzz_target;

const SEGMENT_BYTES: usize = 64 * 512;

fuzz_target!(|data: &[u8]| {
    let Some((shape, data)) = data.split_first() else {
        return;
    };
    let bytes = match shape % 3 {
        0 => data.to_vec(),
        1 => behind_a_header(data),
        _ => behind_a_header(&batch_of(data)),
    };
    let whole = scan_segment(&bytes);
    let Ok((header, _)) = read_header(&mut bytes.as_slice()).expect("memory does not fail") else {
        return;
    };
    for step in [1, 513, 1 << 20] {
        let (batches, end, verdict) = walk(&bytes, &header, step);
        if let Ok(whole) = &whole {
            assert_eq!((whole.batches, whole.end), (batches, end));
            assert_eq!(whole.verdict, verdict);
        }
    }
});

fn walk(bytes: &[u8], header: &SegmentHeader, step: usize) -> (u64, u64, Verdict) {
    let mut scan = SegmentScan::new(bytes, header.clone(), step);
    let mut batches = 0;
    let stop = loop {
        match scan.next_batch().expect("memory does not fail") {
            Step::Batch(batch) => {
                batches += 1;
                Records::new(batch.payload).for_each(drop);
            }
            Step::Stop(stop) => break stop,
        }
    };
    let verdict = scan
        .judge(stop, Expected::default())
        .expect("memory does not fail");
    (batches, scan.offset(), verdict)
}

fn header() -> SegmentHeader {
    SegmentHeader {
        minor: 0,
        write_features: 0,
        block: 512,
        identity: Identity::default(),
        seq: 1,
        bytes: SEGMENT_BYTES as u64,
        base: 0,
        salt: 1,
        first_batch: 1,
        previous_crc: 0,
        opened_because: OpenedBecause::Created,
        first_index: 1,
        previous_term: 0,
        hard_state: HardState::default(),
        snapshot: (0, 0),
        unix_ms: 0,
        program: [0; 32],
    }
}

fn behind_a_header(data: &[u8]) -> Vec<u8> {
    let mut bytes = header().encode_copies();
    bytes.extend_from_slice(data);
    bytes.resize(SEGMENT_BYTES, 0);
    bytes
}

/// A batch whose checksums are right, around records that are anything.
fn batch_of(data: &[u8]) -> Vec<u8> {
    let salt = header().salted();
    let payload = &data[..data.len().min(16 << 10)];
    let batch = BatchHeader {
        payload_bytes: payload.len() as u32,
        position: 0,
        synced_to: 0,
        seq: 1,
        previous_crc: 0,
        payload_crc: salt.payload_crc(0, payload),
        unix_ms: 0,
        last_index: 1,
        records: 1,
        flags: Flags::CHECKPOINT,
    };
    [&batch.encode(salt).0[..], payload].concat()
}
