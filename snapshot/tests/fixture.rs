//! A file as format version 1.0 was released: every reader of this crate goes on reading it. (What its records mean to a
//! store is tested where stores are known.)

use std::io::Cursor;

use kvnode_snapshot::{Snapshot, Stream, salvage};

const FILE: &[u8] = include_bytes!("../../tests/fixtures/snapshot-1.0.kvs");

#[test]
fn a_file_of_format_1_0_opens_checks_and_yields_its_records() {
    let mut snapshot = Snapshot::open(Cursor::new(FILE)).unwrap();
    let info = snapshot.info().clone();
    assert_eq!((info.cluster_id, info.member_id), (0xc1, 0x51));
    assert_eq!((info.raft_index, info.raft_term), (84, 3));
    assert_eq!((info.revision, info.compact_revision), (84, -1));
    assert_eq!(info.created_unix_ms, 1_700_000_000_000);
    assert_eq!((&info.program[..], info.schema), ("kvnode 0.1.0", 1));
    let sections: Vec<_> = snapshot
        .sections()
        .iter()
        .map(|s| (s.section, s.records))
        .collect();
    assert_eq!(sections, [(0, 46), (1, 83)]);
    let codecs: Vec<u8> = snapshot.chunks().iter().map(|chunk| chunk.codec).collect();
    assert!(codecs.contains(&0) && codecs.contains(&1), "{codecs:?}");
    let report = snapshot.verify(|_| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
    let value = snapshot
        .get(0, b"kkey-012")
        .unwrap()
        .expect("the key is there");
    assert!(value.ends_with(b"value 12 of round 1"));
    assert_eq!(snapshot.range(0, b"kkey-", Some(b"kkey.")).count(), 40);
    let hash = snapshot.logical_hash();

    let mut stream = Stream::open(FILE).unwrap();
    let mut records = 0;
    while let Some((_, chunk)) = stream.next_chunk().unwrap() {
        records += chunk.count();
    }
    assert_eq!(records, 129);
    assert_eq!(stream.summary().unwrap().logical_hash, hash);

    let left = salvage(Cursor::new(FILE)).unwrap();
    assert!(left.reaches_footer && left.gaps.is_empty());
}
