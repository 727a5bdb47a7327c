//! The format's promises: what is written comes back, and no damage goes unseen or takes more than its chunk with it.

use std::io::Cursor;

use kvnode_snapshot::{Damage, Error, Info, Options, Place, Snapshot, Writer};

fn info() -> Info {
    Info {
        cluster_id: 7,
        member_id: 8,
        raft_index: 9,
        raft_term: 2,
        revision: 1234,
        compact_revision: -1,
        created_unix_ms: 1_700_000_000_000,
        program: "kvnode test".into(),
        schema: 1,
    }
}

type Record = (u8, Vec<u8>, Vec<u8>);

fn records() -> Vec<Record> {
    let record = |section, n: u32| {
        (
            section,
            format!("key-{n:06}").into_bytes(),
            vec![(n % 251) as u8; (n % 97) as usize],
        )
    };
    (0..400)
        .map(|n| record(0, n))
        .chain((0..300).map(|n| record(3, n)))
        .collect()
}

fn write(records: &[Record], chunk_bytes: usize) -> Vec<u8> {
    let mut writer = Writer::new(
        Vec::new(),
        &info(),
        Options {
            level: 1,
            chunk_bytes,
        },
    )
    .unwrap();
    for (section, key, value) in records {
        writer.push(*section, key, value).unwrap();
    }
    let (totals, bytes) = writer.finish(42).unwrap();
    assert_eq!(totals.file_bytes, bytes.len() as u64);
    bytes
}

fn read(bytes: &[u8]) -> Result<Vec<Record>, Error> {
    let mut snapshot = Snapshot::open(Cursor::new(bytes))?;
    let mut found = Vec::new();
    for at in 0..snapshot.chunks().len() {
        let section = snapshot.chunks()[at].section;
        found.extend(
            snapshot
                .read_chunk(at)?
                .iter()
                .map(|(key, value)| (section, key.to_vec(), value.to_vec())),
        );
    }
    Ok(found)
}

#[test]
fn what_is_written_comes_back_with_totals_and_header() {
    let bytes = write(&records(), 2048);
    assert_eq!(read(&bytes).unwrap(), records());
    let mut snapshot = Snapshot::open(Cursor::new(&bytes)).unwrap();
    assert_eq!(*snapshot.info(), info());
    assert_eq!(snapshot.logical_hash(), 42);
    assert!(
        snapshot.chunks().len() > 10,
        "{} chunks",
        snapshot.chunks().len()
    );
    let totals: Vec<_> = snapshot
        .sections()
        .iter()
        .map(|s| (s.section, s.records))
        .collect();
    assert_eq!(totals, [(0, 400), (3, 300)]);
    let report = snapshot.verify(|_| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.records, 700);
}

#[test]
fn an_empty_state_is_a_snapshot_too() {
    let bytes = write(&[], 2048);
    assert_eq!(read(&bytes).unwrap(), []);
}

#[test]
fn length_and_digest_are_what_etcdctl_checks() {
    use sha2::Digest as _;
    for count in [0, 1, 5, 100, 700] {
        let bytes = write(&records()[..count], 2048);
        assert_eq!(bytes.len() % 512, 32);
        let (body, digest) = bytes.split_at(bytes.len() - 32);
        assert_eq!(&sha2::Sha256::digest(body)[..], digest);
    }
}

#[test]
fn every_truncation_is_refused() {
    let bytes = write(&records()[..40], 512);
    for length in 0..bytes.len() {
        assert!(
            read(&bytes[..length]).is_err(),
            "{length} of {} bytes were taken",
            bytes.len()
        );
    }
}

#[test]
fn every_flipped_bit_is_found_and_costs_at_most_its_chunk() {
    let bytes = write(&records()[..60], 512);
    let sound = Snapshot::open(Cursor::new(&bytes)).unwrap();
    let (chunks, chunks_start) = (sound.chunks().len(), sound.chunks()[0].offset);
    let chunks_end = {
        let last = &sound.chunks()[chunks - 1];
        last.offset + u64::from(last.stored_bytes)
    };
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let Ok(mut snapshot) = Snapshot::open(Cursor::new(&damaged)) else {
            continue;
        };
        let report = snapshot.verify(|_| {}).unwrap();
        assert!(!report.is_sound(), "bit {bit} went unseen");
        let readable = (0..chunks)
            .filter(|at| snapshot.read_chunk(*at).is_ok())
            .count();
        assert!(
            readable >= chunks - 1,
            "bit {bit} cost {} chunks",
            chunks - readable
        );
        let at = (bit / 8) as u64;
        if (chunks_start..chunks_end).contains(&at) {
            let named = report
                .damaged
                .iter()
                .any(|(place, _)| matches!(place, Place::Chunk { .. }));
            assert!(
                named,
                "bit {bit} lies in a chunk that was not named: {report:?}"
            );
        }
    }
}

#[test]
fn a_newer_major_version_is_told_apart_from_damage() {
    let mut bytes = write(&[], 512);
    bytes[8] = 2;
    assert!(matches!(
        read(&bytes),
        Err(Error::Version {
            found: 2,
            supported: 1
        })
    ));
    bytes[0] = b'x';
    assert!(matches!(
        read(&bytes),
        Err(Error::Damaged {
            place: Place::Header,
            damage: Damage::Magic { .. }
        })
    ));
}

#[test]
fn records_out_of_order_are_refused_while_writing() {
    let mut writer = Writer::new(Vec::new(), &info(), Options::default()).unwrap();
    writer.push(1, b"b", b"").unwrap();
    assert!(matches!(writer.push(1, b"b", b""), Err(Error::Refused(_))));
    assert!(matches!(writer.push(1, b"a", b""), Err(Error::Refused(_))));
    assert!(matches!(writer.push(0, b"z", b""), Err(Error::Refused(_))));
    assert!(matches!(
        writer.push(2, &vec![0; 70_000], b""),
        Err(Error::Refused(_))
    ));
    writer.push(2, b"a", b"").unwrap();
    let (totals, _) = writer.finish(0).unwrap();
    assert_eq!(totals.sections.iter().map(|s| s.records).sum::<u64>(), 2);
}

#[test]
fn a_record_larger_than_the_target_gets_a_chunk_of_its_own() {
    let big = vec![
        (0, b"a".to_vec(), vec![1; 10_000]),
        (0, b"b".to_vec(), vec![2; 10]),
        (0, b"c".to_vec(), vec![3; 10]),
    ];
    let bytes = write(&big, 1024);
    assert_eq!(read(&bytes).unwrap(), big);
    assert_eq!(
        Snapshot::open(Cursor::new(&bytes)).unwrap().chunks().len(),
        2
    );
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2000), graft in 0..3usize) {
        // Bare noise rarely gets past the magic: graft real beginnings on it.
        let real = write(&records()[..20], 512);
        let mut image = real[..real.len() * graft / 3].to_vec();
        image.extend_from_slice(&bytes);
        let short = image.len() % 512;
        image.resize(image.len() + (512 + 32 - short) % 512, 0);
        if let Ok(mut snapshot) = Snapshot::open(Cursor::new(&image)) {
            let _ = snapshot.verify(|_| {});
        }
    }
}
