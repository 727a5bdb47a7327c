//! The format's promises: what is written comes back, and no damage goes unseen or takes more than its chunk with it.

use std::io::Cursor;

use kvnode_snapshot::{
    Batch, ChunkInfo, Damage, Error, Info, Options, Place, Snapshot, Stream, Writer, salvage,
};

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
        selection: String::new(),
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
            chunk_bytes,
            ..Options::default()
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
        last.offset + last.total_bytes() as u64
    };
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(stream(&damaged).is_err(), "bit {bit} was streamed past");
        let Ok(mut snapshot) = Snapshot::open(Cursor::new(&damaged)) else {
            continue;
        };
        let report = snapshot.verify(|_| {}).unwrap();
        assert!(!report.is_sound(), "bit {bit} went unseen");
        assert!(report.damage().next().is_some());
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
            let hit = sound
                .chunks()
                .iter()
                .rfind(|chunk| chunk.offset <= at)
                .unwrap();
            let [lost] = &report.lost[..] else {
                panic!("bit {bit}: {report:?}");
            };
            assert_eq!(
                (&lost.first_key, &lost.last_key, lost.records),
                (&hit.first_key, &hit.last_key, hit.records),
                "bit {bit} lies in another chunk than was named"
            );
        }
    }
}

fn stream(bytes: &[u8]) -> Result<Vec<Record>, Error> {
    let mut stream = Stream::open(bytes)?;
    let mut found = Vec::new();
    while let Some((section, records)) = stream.next_chunk()? {
        found.extend(records.map(|(key, value)| (section, key.to_vec(), value.to_vec())));
    }
    let summary = stream.summary().expect("the end was reached");
    assert_eq!(summary.bytes, bytes.len() as u64);
    assert_eq!(stream.next_chunk()?, None);
    Ok(found)
}

#[test]
fn a_stream_is_read_without_seeking_and_ends_well_only_if_it_was_whole() {
    let bytes = write(&records(), 2048);
    assert_eq!(stream(&bytes).unwrap(), records());
    assert_eq!(stream(&write(&[], 2048)).unwrap(), []);
    for length in (0..bytes.len())
        .step_by(7)
        .chain(bytes.len() - 600..bytes.len())
    {
        assert!(
            stream(&bytes[..length]).is_err(),
            "{length} bytes were taken"
        );
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(stream(&longer).is_err());
}

#[test]
fn threads_change_nothing_but_the_time() {
    let records = records();
    let pack = |threads| {
        let options = Options {
            chunk_bytes: 700,
            threads,
            ..Options::default()
        };
        let mut writer = Writer::new(Vec::new(), &info(), options).unwrap();
        for (section, key, value) in &records {
            writer.push(*section, key, value).unwrap();
        }
        writer.finish(42).unwrap().1
    };
    let alone = pack(0);
    for threads in [1, 2, 5] {
        assert_eq!(pack(threads), alone, "{threads} threads");
    }
}

#[test]
fn what_lies_behind_the_chunks_is_compared_without_the_digest() {
    let mut writer = Writer::new(Vec::new(), &info(), Options::default()).unwrap();
    for (section, key, value) in records() {
        writer.push(section, &key, &value).unwrap();
    }
    let (totals, mut bytes) = writer.finish(42).unwrap();
    let chunks_end = {
        let sound = Snapshot::open(Cursor::new(&bytes)).unwrap();
        let last = sound.chunks().last().unwrap();
        usize::try_from(last.offset).unwrap() + last.total_bytes()
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let same = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        totals.end_is_as_written(&file).unwrap()
    };
    assert!(same(&bytes));
    assert!(!same(&bytes[..bytes.len() - 1]));
    // The padding, too, which has no CRC in the file.
    for at in chunks_end..bytes.len() {
        bytes[at] ^= 1;
        assert!(!same(&bytes), "byte {at}");
        bytes[at] ^= 1;
    }
}

#[test]
fn batches_collected_elsewhere_make_the_same_bytes() {
    let records = records();
    let chunk_bytes = 700;
    let options = Options {
        chunk_bytes,
        threads: 2,
        ..Options::default()
    };
    let mut writer = Writer::new(Vec::new(), &info(), options).unwrap();
    let mut batch = writer.push_batch(Batch::default()).unwrap();
    for (section, key, value) in &records {
        let other = batch.push(*section, key, value, chunk_bytes);
        if !matches!(other, Ok(true)) {
            // Full, or of another section.
            batch = writer.push_batch(batch).unwrap();
            assert!(batch.is_empty());
            assert!(batch.push(*section, key, value, chunk_bytes).unwrap());
        }
    }
    writer.push_batch(batch).unwrap();
    assert_eq!(writer.finish(42).unwrap().1, write(&records, chunk_bytes));
}

#[test]
fn batches_out_of_order_are_refused() {
    let batch = |section, keys: &[&str]| {
        let mut batch = Batch::default();
        for key in keys {
            assert!(batch.push(section, key.as_bytes(), b"", 1024).unwrap());
        }
        batch
    };
    let mut full = batch(1, &["b"]);
    for (section, key) in [(1, "b"), (1, "a"), (2, "z")] {
        let refused = full.push(section, key.as_bytes(), b"", 1024);
        assert!(matches!(refused, Err(Error::Refused(_))), "{section} {key}");
    }
    let long = full.push(1, &[b'z'; 70_000], b"", 1024);
    assert!(matches!(long, Err(Error::Refused(_))));
    let mut writer = Writer::new(Vec::new(), &info(), Options::default()).unwrap();
    writer.push(1, b"a", b"").unwrap();
    writer.push_batch(full).unwrap();
    for (section, keys) in [(1, &["b", "c"][..]), (0, &["z"])] {
        let refused = writer.push_batch(batch(section, keys));
        assert!(matches!(refused, Err(Error::Refused(_))), "{section}");
    }
    writer.push(1, b"c", b"").unwrap();
    let (totals, bytes) = writer.finish(0).unwrap();
    assert_eq!((totals.sections[0].records, totals.chunks), (3, 3));
    assert_eq!(read(&bytes).unwrap().len(), 3);
}

#[test]
fn single_keys_and_ranges_are_found() {
    let (bytes, all) = (write(&records(), 1024), records());
    let mut snapshot = Snapshot::open(Cursor::new(&bytes)).unwrap();
    for (section, key, value) in &all {
        let found = snapshot.get(*section, key).unwrap();
        assert_eq!(found.as_deref(), Some(&value[..]), "{section} {key:?}");
    }
    for (section, key) in [
        (0, "key-"),
        (0, "key-000000x"),
        (0, "z"),
        (3, "a"),
        (3, "key-000299x"),
        (1, "key-000001"),
        (9, ""),
    ] {
        assert_eq!(
            snapshot.get(section, key.as_bytes()).unwrap(),
            None,
            "{section} {key}"
        );
    }
    let bounds = [
        "",
        "key-000000",
        "key-000010x",
        "key-000150",
        "key-000399",
        "key-000400",
        "z",
    ];
    for (section, from) in [0, 1, 3]
        .into_iter()
        .flat_map(|s| bounds.map(|from| (s, from)))
    {
        for to in bounds.map(Some).into_iter().chain([None]) {
            let inside =
                |key: &[u8]| from.as_bytes() <= key && to.is_none_or(|to| key < to.as_bytes());
            let wanted: Vec<_> = all
                .iter()
                .filter(|(s, key, _)| *s == section && inside(key))
                .collect();
            let range = snapshot.range(section, from.as_bytes(), to.map(str::as_bytes));
            let found: Vec<Record> = range
                .map(|pair| {
                    pair.map(|(key, value)| (section, key.to_vec(), value.to_vec()))
                        .unwrap()
                })
                .collect();
            assert!(found.iter().eq(wanted), "{section} {from} {to:?}");
        }
    }
}

#[test]
fn a_damaged_chunk_is_told_once_and_the_rest_of_the_section_goes_on() {
    let mut bytes = write(&records(), 1024);
    let sound = Snapshot::open(Cursor::new(&bytes)).unwrap();
    let hit = sound.chunks()[3].clone();
    bytes[hit.offset as usize + hit.total_bytes() - 10] ^= 1;
    let mut snapshot = Snapshot::open(Cursor::new(&bytes)).unwrap();
    let (mut found, mut lost) = (0, Vec::new());
    for item in snapshot.range(0, b"", None) {
        match item {
            Ok(_) => found += 1,
            Err(chunk) => lost.push(chunk),
        }
    }
    assert_eq!(found, 400 - hit.records);
    assert_eq!(lost.len(), 1);
    assert_eq!(
        (&lost[0].first_key, &lost[0].last_key),
        (&hit.first_key, &hit.last_key)
    );
    let told = lost[0].to_string();
    assert!(
        told.contains("chunk 3 at offset") && told.contains("key-0000"),
        "{told}"
    );
    assert!(snapshot.get(0, &hit.first_key).is_err());
}

#[test]
fn a_file_without_its_end_is_good_as_far_as_it_goes() {
    let (bytes, all) = (write(&records(), 1024), records());
    let sound = Snapshot::open(Cursor::new(&bytes)).unwrap();
    let chunks = sound.chunks().to_vec();
    let whole = salvage(Cursor::new(&bytes)).unwrap();
    assert!(whole.reaches_footer && whole.gaps.is_empty());
    assert_eq!(whole.snapshot.chunks(), chunks);
    for length in (chunks[0].offset as usize..bytes.len()).step_by(11) {
        let mut cut = salvage(Cursor::new(&bytes[..length])).unwrap();
        let end = |chunk: &ChunkInfo| chunk.offset as usize + chunk.total_bytes();
        let left = chunks.iter().filter(|chunk| end(chunk) <= length).count();
        assert_eq!(cut.snapshot.chunks().len(), left, "{length}");
        assert_eq!(
            cut.good_bytes as usize,
            chunks[..left].last().map_or(chunks[0].offset as usize, end)
        );
        let records: u32 = chunks[..left].iter().map(|chunk| chunk.records).sum();
        let mut found = Vec::new();
        for at in 0..left {
            let section = cut.snapshot.chunks()[at].section;
            let records = cut.snapshot.read_chunk(at).unwrap();
            found.extend(records.map(|(key, value)| (section, key.to_vec(), value.to_vec())));
        }
        assert_eq!(found, all[..records as usize], "{length}");
    }
}

#[test]
fn a_hole_in_a_file_costs_the_chunks_it_touches() {
    let bytes = write(&records(), 1024);
    let chunks = Snapshot::open(Cursor::new(&bytes))
        .unwrap()
        .chunks()
        .to_vec();
    // From the middle of the third chunk into the head of the fifth.
    let (from, to) = (
        chunks[2].offset as usize + 100,
        chunks[4].offset as usize + 10,
    );
    let mut holed = bytes.clone();
    holed[from..to].fill(0);
    let mut left = salvage(Cursor::new(&holed)).unwrap();
    assert!(left.reaches_footer);
    assert_eq!(left.good_bytes, chunks[3].offset);
    let sequences: Vec<u32> = left
        .snapshot
        .chunks()
        .iter()
        .map(|chunk| chunk.sequence)
        .collect();
    let wanted: Vec<u32> = (0..chunks.len() as u32)
        .filter(|n| ![3, 4].contains(n))
        .collect();
    assert_eq!(sequences, wanted);
    assert_eq!(left.gaps.len(), 1);
    assert_eq!(
        (left.gaps[0].0, left.gaps[0].1),
        (chunks[3].offset, chunks[5].offset)
    );
    assert!(left.snapshot.read_chunk(2).is_err() && left.snapshot.read_chunk(3).is_ok());
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
        let _ = stream(&image);
        if let Ok(mut left) = salvage(Cursor::new(&image)) {
            for at in 0..left.snapshot.chunks().len() {
                let _ = left.snapshot.read_chunk(at);
            }
        }
    }
}
