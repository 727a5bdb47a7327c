//! Tests of the whole crate over a memory disk: what is promised about crashes and damage.

mod crash;
mod damage;
mod dir;
mod disk;
mod faults;
mod model;
mod repair;

use bytes::Bytes;

use crate::driver::Driver;
use crate::error::Error;
use crate::membership::Membership;
use crate::options::Options;
use crate::record::{Entry, EntryKind, HardState};
use crate::recover::{Floors, Recovered, recover};
use crate::segment::Identity;
use crate::writer::Start;
use disk::MemoryDisk;

pub const IDENTITY: Identity = Identity {
    cluster: 0xC1,
    member: 0xA1,
    instance: [7; 16],
};

/// splitmix64: tests draw everything from one printed seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Options with `blocks` blocks of `block` bytes per segment.
pub fn small(block: u32, blocks: u64) -> Options {
    Options {
        segment_bytes: u64::from(block) * blocks,
        block_bytes: block,
        small_segments: true,
        ..Options::default()
    }
}

pub fn membership() -> Membership {
    Membership {
        voters: vec![0xA1],
        ..Membership::default()
    }
}

/// An entry whose payload has no zero byte, so that no sector of it looks unwritten.
pub fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    let payload: Vec<u8> = (0..bytes)
        .map(|i| ((index * 31 + term * 7 + i as u64) % 255) as u8 + 1)
        .collect();
    Entry {
        index,
        term,
        kind: EntryKind::Normal,
        payload: Bytes::from(payload),
    }
}

pub fn hard(term: u64, commit: u64) -> HardState {
    HardState {
        term,
        vote: 0xA1,
        commit,
    }
}

pub fn create(disk: &MemoryDisk, options: Options) -> Result<Driver<MemoryDisk>, Error> {
    let start = Start {
        membership: membership(),
        ..Start::default()
    };
    Driver::create_on(disk.clone(), IDENTITY, options, 1, start, 1_000)
}

pub fn read(disk: &MemoryDisk, floors: Floors) -> Result<Recovered, Error> {
    recover(&mut disk.clone(), Some(&IDENTITY), Some(floors))
}

/// What of a recovered log must not change.
pub fn essence(recovered: &Recovered) -> (Vec<Entry>, HardState, u64, Membership) {
    let Recovered {
        entries,
        hard_state,
        first_index,
        membership,
        ..
    } = recovered;
    (
        entries.clone(),
        *hard_state,
        *first_index,
        membership.clone(),
    )
}
