//! Every single damage to a recorded log is noticed, or nothing is lost by it.

use std::collections::BTreeMap;

use super::disk::MemoryDisk;
use super::*;
use crate::batch::BatchHeader;
use crate::damage::{Class, Damage, Proof, Rule};
use crate::record::{Origin, SnapshotMark};
use crate::scan::{Step, without};
use crate::segment::{FileName, OpenedBecause, SegmentHeader};
use crate::{SECTOR_BYTES, UNSYNCED_BYTES_MAX};

pub type Image = BTreeMap<String, Vec<u8>>;

/// A log of three segments and more, all of it synced; `mark` says so at its end.
pub fn recorded(options: &Options, mark: bool) -> Image {
    let disk = MemoryDisk::default();
    let mut log = create(&disk, options.clone()).unwrap();
    let bytes = options.block_bytes as usize;
    let (mut index, mut term) = (0, 2);
    while log.segments_count() < 3 || index < 9 {
        let batch = [
            entry(index + 1, term, bytes / 3),
            entry(index + 2, term, bytes),
        ];
        index += 2;
        log.append(&batch, Some(hard(term, index - 2)), true, 5)
            .unwrap();
        if index == 6 {
            // A new leader replaces the newest entry, then adds one without a sync of its own.
            term = 3;
            log.append(&[entry(6, term, bytes)], Some(hard(term, 5)), true, 6)
                .unwrap();
            log.append(&[entry(7, term, 20)], None, false, 6).unwrap();
            index = 7;
        }
        if mark {
            log.mark(7).unwrap();
        }
    }
    let mut image = disk.image();
    image.retain(|name, _| name.ends_with(".wal"));
    image
}

fn whole(image: &Image) -> Recovered {
    read(&MemoryDisk::of(image), Floors::default()).unwrap()
}

/// What became of a damaged image.
#[derive(Debug, PartialEq)]
enum Outcome {
    Refused(Class, Rule),
    Harmless,
    Lost,
}

fn outcome(disk: &MemoryDisk, floors: Floors, original: &Recovered) -> Outcome {
    match read(disk, floors) {
        Ok(found) if essence(&found) == essence(original) => Outcome::Harmless,
        Ok(_) => Outcome::Lost,
        Err(Error::Damage(damage)) => {
            assert!(!damage.commands().is_empty() && !damage.to_string().is_empty());
            Outcome::Refused(damage.class, damage.rule)
        }
        Err(Error::NoLog { .. }) => Outcome::Refused(Class::W5, Rule::Joint),
        Err(error) => panic!("{error}"),
    }
}

/// Applies `change` to every unit of `unit` bytes of every file, one at a time.
fn each(
    image: &Image,
    unit: usize,
    change: impl Fn(&mut [u8]),
    mut judge: impl FnMut(&str, usize, Outcome),
) {
    let original = whole(image);
    for (name, bytes) in image {
        for at in (0..bytes.len()).step_by(unit) {
            let mut bad = bytes.clone();
            let end = bytes.len().min(at + unit);
            change(&mut bad[at..end]);
            if bad == *bytes {
                continue;
            }
            let disk = MemoryDisk::of(image);
            disk.put(name, bad);
            judge(name, at, outcome(&disk, Floors::default(), &original));
        }
    }
}

fn never_lost(name: &str, at: usize, outcome: Outcome) {
    assert_ne!(outcome, Outcome::Lost, "{name} offset {at}");
}

#[test]
fn every_flipped_bit_is_noticed_or_harmless() {
    let image = recorded(&small(512, 12), true);
    assert!(image.len() >= 3);
    let mut refused = 0;
    for bit in 0..8 {
        each(
            &image,
            1,
            |byte| byte[0] ^= 1 << bit,
            |name, at, outcome| {
                refused += u64::from(matches!(outcome, Outcome::Refused(..)));
                never_lost(name, at, outcome);
            },
        );
    }
    assert!(refused > 40_000, "{refused}");
}

#[test]
fn every_sector_zeroed_inverted_or_overwritten_is_noticed_or_harmless() {
    for options in [small(512, 14), small(4096, 12), small(2048, 16)] {
        let image = recorded(&options, true);
        each(&image, SECTOR_BYTES, |sector| sector.fill(0), never_lost);
        let invert = |sector: &mut [u8]| sector.iter_mut().for_each(|byte| *byte = !*byte);
        each(&image, SECTOR_BYTES, invert, never_lost);
        let noise = |sector: &mut [u8]| {
            let mut dice = Dice(u64::from(sector[0]) + 5);
            sector.iter_mut().for_each(|byte| *byte = dice.next() as u8);
        };
        each(&image, SECTOR_BYTES, noise, never_lost);
    }
}

#[test]
fn without_a_mark_only_whole_zero_sectors_of_the_last_batch_go_unnoticed() {
    // With larger blocks most of the last batch's sectors are padding, which proves nothing.
    for options in [small(512, 14), small(4096, 12)] {
        let image = recorded(&options, false);
        let last_batch = last_batch_offset(&image);
        let newest = image.keys().next_back().unwrap().clone();
        let mut lost = 0;
        let zeroed = |name: &str, at: usize, outcome: Outcome| {
            if outcome == Outcome::Lost {
                assert!(*name == newest && at as u64 >= last_batch, "{name} {at}");
                lost += 1;
            }
        };
        each(&image, SECTOR_BYTES, |sector| sector.fill(0), zeroed);
        assert!(lost > 0, "the test must reach the one undecidable case");
        each(
            &image,
            SECTOR_BYTES,
            |sector| sector.iter_mut().for_each(|b| *b = !*b),
            never_lost,
        );
        let bits: &[u32] = if options.block_bytes == 512 {
            &[0, 5]
        } else {
            &[3]
        };
        for bit in bits {
            each(&image, 7, |bytes| bytes[0] ^= 1 << bit, never_lost);
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    let image = recorded(&small(512, 12), true);
    let original = whole(&image);
    for (name, bytes) in &image {
        for cut in 0..bytes.len() {
            let disk = MemoryDisk::of(&image);
            disk.put(name, bytes[..cut].to_vec());
            let Outcome::Refused(class, rule) = outcome(&disk, Floors::default(), &original) else {
                panic!("{name} cut at {cut}");
            };
            assert!(matches!(class, Class::W4 | Class::W5));
            assert!(matches!(rule, Rule::D1 | Rule::Joint));
        }
    }
}

#[test]
fn every_removed_segment_is_noticed() {
    let image = recorded(&small(512, 12), true);
    let original = whole(&image);
    let newest = image.keys().next_back().unwrap();
    for name in image.keys() {
        let mut less = image.clone();
        less.remove(name);
        // Only something outside the log can tell that its newest segment is gone.
        let applied = if name == newest {
            original.last_index
        } else {
            0
        };
        let floors = Floors {
            applied,
            ..Floors::default()
        };
        let outcome = outcome(&MemoryDisk::of(&less), floors, &original);
        assert!(
            matches!(outcome, Outcome::Refused(..)),
            "{name}: {outcome:?}"
        );
    }
}

#[test]
fn tests_would_notice_if_a_rule_were_missing() {
    let marked = recorded(&small(512, 14), true);
    let busy = recorded(&small(512, 14), false);
    let mut lost = 0;
    let mut count = |_: &str, _: usize, outcome| lost += u32::from(outcome == Outcome::Lost);
    without(Rule::D3, || {
        each(&marked, SECTOR_BYTES, |sector| sector.fill(0), &mut count)
    });
    assert!(
        lost > 0,
        "without D3 a zeroed sector of a synced batch passes"
    );
    lost = 0;
    let mut count = |_: &str, _: usize, outcome| lost += u32::from(outcome == Outcome::Lost);
    without(Rule::D6, || each(&busy, 1, |byte| byte[0] ^= 1, &mut count));
    assert!(
        lost > 0,
        "without D6 a flipped bit in the last header passes"
    );
    lost = 0;
    let mut count = |_: &str, _: usize, outcome| lost += u32::from(outcome == Outcome::Lost);
    without(Rule::D8, || each(&busy, 1, |byte| byte[0] ^= 1, &mut count));
    assert!(
        lost > 0,
        "without D8 a flipped bit in the last payload passes"
    );
}

fn parse(name: &str) -> FileName {
    FileName::parse(name).unwrap()
}

pub fn header_of(bytes: &[u8]) -> SegmentHeader {
    SegmentHeader::decode(bytes.first_chunk().unwrap()).unwrap()
}

/// Offsets of the good batches of one segment.
pub fn batches(bytes: &[u8]) -> Vec<(u64, BatchHeader)> {
    let mut scan = crate::scan::SegmentScan::new(bytes, header_of(bytes), 4096);
    let mut found = Vec::new();
    while let Step::Batch(batch) = scan.next_batch().unwrap() {
        found.push((batch.offset, batch.header));
    }
    found
}

fn last_batch_offset(image: &Image) -> u64 {
    batches(image.values().next_back().unwrap())
        .last()
        .unwrap()
        .0
}

fn refusal(image: &Image, floors: Floors) -> Damage {
    match read(&MemoryDisk::of(image), floors) {
        Err(Error::Damage(damage)) => *damage,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_good_header_copy_is_enough_and_the_bad_one_is_told() {
    let image = recorded(&small(1024, 12), true);
    let original = whole(&image);
    for name in image.keys() {
        for at in [0, 1024] {
            let mut bad = image.clone();
            bad.get_mut(name).unwrap()[at + 40] ^= 1;
            let found = whole(&bad);
            assert_eq!(essence(&found), essence(&original));
            let told: Vec<_> = found
                .report
                .findings
                .iter()
                .map(|found| found.class)
                .collect();
            assert_eq!(told, [Class::W7]);
        }
        let mut bad = image.clone();
        let bytes = bad.get_mut(name).unwrap();
        (bytes[40], bytes[1024 + 40]) = (!bytes[40], !bytes[1024 + 40]);
        let damage = refusal(&bad, Floors::default());
        assert_eq!((damage.class, damage.rule), (Class::W5, Rule::Joint));
        assert!(matches!(damage.proof, Proof::Headers { .. }));
    }
}

#[test]
fn swapped_segments_are_noticed() {
    let image = recorded(&small(512, 12), true);
    let names: Vec<_> = image.keys().cloned().collect();
    for (a, b) in [(0, 1), (1, 2), (0, 2)] {
        let mut bad = image.clone();
        bad.insert(names[a].clone(), image[&names[b]].clone());
        bad.insert(names[b].clone(), image[&names[a]].clone());
        let damage = refusal(&bad, Floors::default());
        assert_eq!((damage.class, damage.rule), (Class::W6, Rule::D11));
    }
}

#[test]
fn a_segment_of_another_member_or_another_life_is_noticed() {
    let image = recorded(&small(512, 12), true);
    for identity in [
        Identity {
            cluster: 9,
            ..IDENTITY
        },
        Identity {
            member: 9,
            ..IDENTITY
        },
        Identity {
            instance: [9; 16],
            ..IDENTITY
        },
    ] {
        for name in image.keys() {
            let mut bad = image.clone();
            let bytes = bad.get_mut(name).unwrap();
            let foreign = SegmentHeader {
                identity,
                ..header_of(bytes)
            };
            bytes[..1024].copy_from_slice(&foreign.encode_copies());
            let damage = refusal(&bad, Floors::default());
            assert_eq!((damage.class, damage.rule), (Class::W6, Rule::D11));
            assert!(matches!(damage.proof, Proof::Foreign { .. }));
        }
    }
    // The same log written with other salts: a copy from elsewhere, or an older use of the file.
    let options = small(512, 12);
    let disk = MemoryDisk::default();
    let start = Start {
        membership: membership(),
        ..Start::default()
    };
    let mut log = Driver::create_on(disk.clone(), IDENTITY, options, 77, start, 1_000).unwrap();
    log.append(&[entry(1, 2, 900)], Some(hard(2, 0)), true, 5)
        .unwrap();
    let (_, other) = disk
        .image()
        .into_iter()
        .find(|(name, _)| name.ends_with(".wal"))
        .unwrap();
    for (name, bytes) in &image {
        for (offset, _) in batches(bytes) {
            let at = offset as usize;
            let mut bad = image.clone();
            bad.get_mut(name).unwrap()[at..at + 512].copy_from_slice(&other[1024..1536]);
            let found = outcome(&MemoryDisk::of(&bad), Floors::default(), &whole(&image));
            assert!(
                matches!(found, Outcome::Refused(..)),
                "{name} {at}: {found:?}"
            );
        }
    }
}

#[test]
fn a_batch_in_the_wrong_place_is_noticed_wherever_it_lands() {
    for options in [small(512, 14), small(1024, 14)] {
        let image = recorded(&options, true);
        let original = whole(&image);
        let block = u64::from(options.block_bytes);
        for (name, bytes) in &image {
            let batches = batches(bytes);
            let end = batches
                .last()
                .map(|(at, header)| at + header.total_bytes(block as usize) as u64);
            for (from, header) in &batches {
                let total = header.total_bytes(block as usize) as u64;
                for to in (2 * block..bytes.len() as u64 - total).step_by(block as usize) {
                    let mut bad = bytes.clone();
                    bad.copy_within(*from as usize..(from + total) as usize, to as usize);
                    if bad == *bytes {
                        continue;
                    }
                    let disk = MemoryDisk::of(&image);
                    disk.put(name, bad);
                    let outcome = outcome(&disk, Floors::default(), &original);
                    // Behind the end of an older segment nobody looks.
                    let behind = Some(to) >= end;
                    let refused = matches!(outcome, Outcome::Refused(..));
                    assert!(
                        refused || (behind && outcome == Outcome::Harmless),
                        "{name} {to}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_lost_batch_between_good_ones_is_noticed() {
    let image = recorded(&small(512, 14), true);
    let original = whole(&image);
    for (name, bytes) in &image {
        let all = batches(bytes);
        for (offset, header) in &all[..all.len() - 1] {
            let mut bad = bytes.clone();
            bad[*offset as usize..][..header.total_bytes(512)].fill(0);
            let disk = MemoryDisk::of(&image);
            disk.put(name, bad);
            let outcome = outcome(&disk, Floors::default(), &original);
            assert!(
                matches!(outcome, Outcome::Refused(..)),
                "{name} {offset} {outcome:?}"
            );
        }
    }
}

#[test]
fn two_damages_at_once_are_noticed_or_harmless() {
    let image = recorded(&small(512, 12), true);
    let original = whole(&image);
    let names: Vec<_> = image.keys().cloned().collect();
    let mut dice = Dice(4);
    let mut undecidable = 0;
    for _ in 0..20_000 {
        let disk = MemoryDisk::of(&image);
        let mut bad = image.clone();
        for _ in 0..2 {
            let name = &names[dice.below(names.len() as u64) as usize];
            let bytes = bad.get_mut(name).unwrap();
            let sector = dice.below(bytes.len() as u64 / 512) as usize * 512;
            match dice.below(3) {
                0 => bytes[sector..sector + 512].fill(0),
                1 => bytes[sector..sector + 512]
                    .iter_mut()
                    .for_each(|byte| *byte = !*byte),
                _ => bytes[sector + dice.below(512) as usize] ^= 1 << dice.below(8),
            }
        }
        bad.iter()
            .for_each(|(name, bytes)| disk.put(name, bytes.clone()));
        let found = outcome(&disk, Floors::default(), &original);
        // Both the last batch and the mark that proves it may be hit: then nothing can tell.
        if found == Outcome::Lost {
            let newest = names.last().unwrap();
            let marks = batches(&image[newest]);
            let [.., (batch, _), (mark, _)] = marks[..] else {
                panic!()
            };
            let hit = |range: std::ops::Range<u64>| {
                let range = range.start as usize..range.end as usize;
                bad[newest][range.clone()] != image[newest][range]
            };
            assert!(hit(batch..mark) && hit(mark..mark + 512));
            undecidable += 1;
        }
    }
    assert!(undecidable > 0, "the test must reach that case");
}

#[test]
fn a_floor_above_the_end_is_a_refusal_that_names_it() {
    let image = recorded(&small(512, 12), true);
    let last = whole(&image).last_index;
    for (floors, what) in [
        (
            Floors {
                applied: last + 3,
                ..Floors::default()
            },
            "store's applied index",
        ),
        (
            Floors {
                snapshot: last + 3,
                ..Floors::default()
            },
            "newest snapshot's index",
        ),
    ] {
        let damage = refusal(&image, floors);
        assert_eq!((damage.class, damage.rule), (Class::W2, Rule::D4));
        assert_eq!(
            damage.proof,
            Proof::Floor {
                what,
                index: last + 3
            }
        );
        assert_eq!(
            (damage.first_lost, damage.last_lost),
            (last + 1, Some(last + 3))
        );
    }
}

#[test]
fn bad_entries_that_the_store_has_already_do_not_stop_the_start() {
    let image = recorded(&small(512, 12), true);
    let names: Vec<_> = image.keys().cloned().collect();
    let FileName::Segment { first_index, .. } = parse(&names[1]) else {
        unreachable!()
    };
    let mut bad = image.clone();
    let bytes = bad.get_mut(&names[0]).unwrap();
    bytes[1024 + 600] ^= 1;
    let without = refusal(&bad, Floors::default());
    assert_eq!((without.class, without.rule), (Class::W4, Rule::D2));
    let short = Floors {
        applied: first_index - 2,
        ..Floors::default()
    };
    assert_eq!(
        refusal(&bad, short).rule,
        Rule::D2,
        "one entry is missing in the store"
    );
    let floors = Floors {
        applied: first_index - 1,
        ..Floors::default()
    };
    let found = read(&MemoryDisk::of(&bad), floors).unwrap();
    assert_eq!(found.first_index, first_index);
    assert_eq!(found.last_index, whole(&image).last_index);
    let told: Vec<_> = found
        .report
        .findings
        .iter()
        .map(|found| found.class)
        .collect();
    assert_eq!(told, [Class::W3]);
    bad.remove(&names[0]);
    assert!(
        read(&MemoryDisk::of(&bad), floors).is_ok(),
        "as if it had been purged"
    );
}

#[test]
fn a_log_that_starts_above_what_the_store_has_is_refused() {
    let mut image = recorded(&small(512, 12), true);
    let oldest = image.keys().next().unwrap().clone();
    image.remove(&oldest);
    let damage = refusal(&image, Floors::default());
    assert!(matches!(
        damage.proof,
        Proof::MissingStart { covered: 0, .. }
    ));
    assert_eq!(damage.first_lost, 1);
}

#[test]
fn a_read_error_is_told_with_its_place() {
    let image = recorded(&small(512, 12), true);
    let name = parse(image.keys().next_back().unwrap());
    let disk = MemoryDisk::of(&image);
    disk.make_unreadable(name, 2048);
    let Err(Error::Damage(damage)) = read(&disk, Floors::default()) else {
        panic!()
    };
    assert_eq!((damage.class, damage.rule), (Class::W8, Rule::D12));
}

#[test]
fn bytes_too_far_behind_the_end_are_damage_and_near_ones_a_torn_tail() {
    let mut options = small(4096, 16);
    options.segment_bytes = 40 << 20;
    let disk = MemoryDisk::default();
    let mut log = create(&disk, options).unwrap();
    log.append(&[entry(1, 1, 100)], Some(hard(1, 0)), true, 1)
        .unwrap();
    log.mark(2).unwrap();
    let mut image = disk.image();
    image.retain(|name, _| name.ends_with(".wal"));
    let (name, bytes) = image.pop_first().unwrap();
    let end = batches(&bytes).last().unwrap().0 + 4096;
    for (distance, torn) in [
        (600, true),
        (UNSYNCED_BYTES_MAX - 1, true),
        (UNSYNCED_BYTES_MAX, false),
        (UNSYNCED_BYTES_MAX + 4096, false),
    ] {
        let mut bytes = bytes.clone();
        bytes[(end + distance) as usize] = 1;
        let one = Image::from([(name.clone(), bytes)]);
        if torn {
            let at = end + distance;
            assert_eq!(whole(&one).end.torn, Some((at, at + 1)));
        } else {
            assert_eq!(refusal(&one, Floors::default()).rule, Rule::D10);
        }
    }
}

#[test]
fn records_that_cannot_follow_are_refused_though_every_checksum_is_right() {
    // Built by hand: one segment, a checkpoint, one batch.
    use crate::batch::{BatchBuffer, Flags};
    use crate::record;
    let header = SegmentHeader {
        minor: 0,
        write_features: 0,
        block: 512,
        identity: IDENTITY,
        seq: 1,
        bytes: 8192,
        base: 0,
        salt: 5,
        first_batch: 1,
        previous_crc: 0,
        opened_because: OpenedBecause::Created,
        first_index: 1,
        previous_term: 0,
        hard_state: HardState::default(),
        snapshot: (0, 0),
        unix_ms: 0,
        program: [0; 32],
    };
    let build = |put: &dyn Fn(&mut Vec<u8>), last_index: u64| {
        let mut bytes = vec![0; 8192];
        bytes[..1024].copy_from_slice(&header.encode_copies());
        let mut previous_crc = 0;
        for seq in 1..3u64 {
            let mut buffer = BatchBuffer::default();
            if seq == 1 {
                buffer.add(100, |out| record::put_membership(out, &membership()));
            } else {
                buffer.add(400, put);
            }
            let position = (seq - 1) * 512;
            let batch = BatchHeader {
                payload_bytes: 0,
                position,
                synced_to: 0,
                seq,
                previous_crc,
                payload_crc: 0,
                unix_ms: 0,
                last_index: if seq == 1 { 0 } else { last_index },
                records: 0,
                flags: if seq == 1 {
                    Flags::CHECKPOINT
                } else {
                    Flags::default()
                },
            };
            let (_, crc) = buffer.finish(batch, header.salted(), 512);
            previous_crc = crc;
            let at = 1024 + position as usize;
            bytes[at..at + 512].copy_from_slice(buffer.as_slice());
        }
        Image::from([(header.name().to_string(), bytes)])
    };
    let good = build(&|out| record::put_entry(out, &entry(1, 1, 9)), 1);
    assert_eq!(whole(&good).last_index, 1);
    let local = SnapshotMark {
        index: 4,
        term: 1,
        id: [0; 16],
        origin: Origin::Local,
    };
    let seal = record::Seal {
        last_index: 0,
        batches: 3,
        entries: 0,
        footer: 0,
    };
    type Put<'a> = &'a dyn Fn(&mut Vec<u8>);
    let cases: [(Put<'_>, u64); 6] = [
        (&|out| record::put_entry(out, &entry(2, 1, 9)), 2),
        (&|out| record::put_entry(out, &entry(0, 1, 9)), 0),
        (&|out| record::put_entry(out, &entry(1, 1, 9)), 2),
        (&|out| record::put_hard_state(out, &hard(1, 1)), 0),
        (&|out| record::put_snapshot(out, &local, &membership()), 0),
        (&|out| record::put_seal(out, &seal), 0),
    ];
    for (i, (put, last_index)) in cases.into_iter().enumerate() {
        let damage = refusal(&build(put, last_index), Floors::default());
        assert_eq!(
            (damage.class, damage.rule),
            (Class::W2, Rule::Records),
            "case {i}"
        );
        assert_eq!(damage.offset, 1536);
    }
}

#[test]
fn files_that_are_not_the_logs_are_told_and_left_alone() {
    let image = recorded(&small(512, 12), true);
    let disk = MemoryDisk::of(&image);
    disk.put("notes.txt", vec![1]);
    disk.put("spare-9.tmp", vec![1]);
    let found = read(&disk, Floors::default()).unwrap();
    let told: Vec<_> = (found.report.findings.iter())
        .map(|found| (found.class, found.file.as_str()))
        .collect();
    assert_eq!(told, [(Class::W6, "notes.txt")]);
    Driver::resume_on(disk.clone(), &found, small(512, 12), 3, 9).unwrap();
    let names: Vec<_> = disk.image().into_keys().collect();
    assert!(names.contains(&"notes.txt".into()));
    assert!(
        !names.contains(&"spare-9.tmp".into()),
        "a spare of the wrong size is removed"
    );
}
