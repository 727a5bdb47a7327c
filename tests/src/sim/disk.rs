//! A simulated disk under the real log: what was written and what is durable are kept apart per
//! 512-byte sector and per directory entry.
//!
//! A power cut keeps a random subset of the unsynced sectors and a prefix of the unsynced name
//! operations. Faults on demand: an operation that fails, no space, sectors that read as zeros, as
//! something else or not at all. A sector itself is written whole or not, which is what the log's
//! format asks of a disk.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use kvnode_wal::SECTOR_BYTES;
use kvnode_wal::disk::{Disk, Listed, Op};
use kvnode_wal::scan::{self, SegmentScan, Step};
use kvnode_wal::segment::FileName;
use kvnode_wal::source::Source;

use super::chance::Chance;

/// What a coming operation meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The machine stops: the operation is begun at most.
    Stop,
    /// It fails; a write may have reached some sectors, a sync may have synced some.
    Error,
}

/// Damage to what was durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    Zeroed,
    FlippedBit,
    Unreadable,
    /// Holds what belongs to another sector.
    Misdirected,
    /// A whole segment, not the last, is gone.
    LostFile,
}

#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    /// Sectors that are not synced, with what the disk has of them.
    unsynced: BTreeMap<usize, Box<[u8; SECTOR_BYTES]>>,
    unreadable: BTreeSet<usize>,
}

#[derive(Clone, Copy)]
enum NameOp {
    Link(FileName, u64),
    Unlink(FileName),
    Rename(FileName, FileName),
}

struct Inner {
    owner: u64,
    chance: Chance,
    files: BTreeMap<u64, File>,
    next_file: u64,
    names: BTreeMap<FileName, u64>,
    durable_names: BTreeMap<FileName, u64>,
    name_ops: Vec<NameOp>,
    /// Operations until this happens.
    fault: Option<(u64, Fault)>,
    full: bool,
    skips_sync: bool,
    skips_dir_sync: bool,
    quarantined: usize,
}

/// Clones share the disk.
#[derive(Clone)]
pub struct SimDisk(Rc<RefCell<Inner>>);

impl SimDisk {
    pub fn new(owner: u64, seed: u64) -> Self {
        SimDisk(Rc::new(RefCell::new(Inner {
            owner,
            chance: Chance::new(seed ^ owner.rotate_left(17)),
            files: BTreeMap::new(),
            next_file: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_ops: Vec::new(),
            fault: None,
            full: false,
            skips_sync: false,
            skips_dir_sync: false,
            quarantined: 0,
        })))
    }

    /// Plants the two defects of a disk that lies.
    pub fn lie(&self, about_sync: bool, about_names: bool) {
        let mut inner = self.0.borrow_mut();
        (inner.skips_sync, inner.skips_dir_sync) = (about_sync, about_names);
    }

    /// Lets a fault happen after so many operations.
    pub fn fail_after(&self, operations: u64, fault: Fault) {
        self.0.borrow_mut().fault = Some((operations, fault));
    }

    pub fn heal(&self) {
        self.0.borrow_mut().fault = None;
    }

    /// No space for new files, or space again.
    pub fn set_full(&self, full: bool) {
        self.0.borrow_mut().full = full;
    }

    pub fn is_full(&self) -> bool {
        self.0.borrow().full
    }

    /// Torn tails that were put aside.
    pub fn quarantined(&self) -> usize {
        self.0.borrow().quarantined
    }

    /// Power returns after it was lost.
    pub fn lose_power(&self) {
        let inner = &mut *self.0.borrow_mut();
        inner.fault = None;
        let kept = inner.chance.below(inner.name_ops.len() as u64 + 1) as usize;
        let ops = std::mem::take(&mut inner.name_ops);
        for op in ops.into_iter().take(kept) {
            apply(&mut inner.durable_names, op);
        }
        inner.names = inner.durable_names.clone();
        let keep = inner.chance.pick(&[0, 1, 8, 8, 15, 16]);
        for file in inner.files.values_mut() {
            for (sector, old) in std::mem::take(&mut file.unsynced) {
                if inner.chance.below(16) >= keep {
                    file.sector_mut(sector).copy_from_slice(&old[..]);
                }
            }
        }
        inner.collect();
    }

    /// Segments with their sizes, oldest first.
    pub fn segments(&self) -> Vec<(FileName, usize)> {
        let inner = self.0.borrow();
        let segment = |name: &FileName| matches!(name, FileName::Segment { .. });
        inner
            .names
            .iter()
            .filter(|(name, _)| segment(name))
            .map(|(name, id)| (*name, inner.files[id].bytes.len()))
            .collect()
    }

    /// Does damage somewhere where the format can tell it from a crash: below a place that the log
    /// itself says was synced. `None` if there is no such place.
    pub fn damage(&self, damage: Damage) -> Option<(FileName, u64)> {
        let segments = self.segments();
        let (&(last, _), older) = segments.split_last()?;
        if damage == Damage::LostFile {
            let at = self.0.borrow_mut().chance.below(older.len() as u64) as usize;
            let (name, _) = *older.get(at)?;
            let mut inner = self.0.borrow_mut();
            inner.names.remove(&name);
            inner.durable_names.remove(&name);
            return Some((name, 0));
        }
        let mut choices = Vec::new();
        for (name, bytes) in &segments {
            let proven = match *name == last {
                true => self.proven_end(*name)?,
                false => *bytes,
            };
            let inner = self.0.borrow();
            let file = &inner.files[&inner.names[name]];
            let sectors = (0..proven / SECTOR_BYTES).filter(|&at| file.sector(at) != ZEROS);
            choices.extend(sectors.map(|sector| (*name, sector)));
        }
        let place = *choices.get(self.below(choices.len() as u64))?;
        let other = *choices.get(self.below(choices.len() as u64))?;
        self.damage_at(place.0, place.1, damage, other)
    }

    /// Moves the disk's dice on.
    pub fn roll(&self) -> u64 {
        self.0.borrow_mut().chance.next()
    }

    fn below(&self, bound: u64) -> usize {
        self.0.borrow_mut().chance.below(bound) as usize
    }

    /// Does damage to this sector. False if it would change nothing.
    pub fn damage_at(
        &self,
        name: FileName,
        sector: usize,
        damage: Damage,
        other: (FileName, usize),
    ) -> Option<(FileName, u64)> {
        let inner = &mut *self.0.borrow_mut();
        let foreign: [u8; SECTOR_BYTES] = {
            let file = &inner.files[inner.names.get(&other.0)?];
            file.sector(other.1).try_into().ok()?
        };
        let bit = inner.chance.below(8 * SECTOR_BYTES as u64) as usize;
        let file = inner.files.get_mut(inner.names.get(&name)?)?;
        let before = file.sector(sector).to_vec();
        match damage {
            Damage::Zeroed => file.sector_mut(sector).fill(0),
            Damage::FlippedBit => file.sector_mut(sector)[bit / 8] ^= 1 << (bit % 8),
            Damage::Misdirected => file.sector_mut(sector).copy_from_slice(&foreign),
            Damage::Unreadable => drop(file.unreadable.insert(sector)),
            Damage::LostFile => return None,
        }
        let changed = damage == Damage::Unreadable || file.sector(sector) != before;
        changed.then_some((name, (sector * SECTOR_BYTES) as u64))
    }

    /// Offset in this segment below which its own batches say that all was synced.
    pub fn proven_end(&self, name: FileName) -> Option<usize> {
        let bytes = {
            let inner = self.0.borrow();
            inner.files[inner.names.get(&name)?].bytes.clone()
        };
        let mut source = bytes.as_slice();
        let (header, _) = scan::read_header(&mut source).ok()?.ok()?;
        let mut proven = header.base;
        let mut scan = SegmentScan::new(source, header.clone(), bytes.len());
        while let Ok(Step::Batch(batch)) = scan.next_batch() {
            proven = proven.max(batch.header.synced_to);
        }
        // A header is proven by being found at all.
        let offset = header.offset_of(proven).unwrap_or(header.data_start());
        Some(usize::try_from(offset).unwrap_or(0).min(bytes.len()))
    }

    /// The bytes of a file.
    pub fn read(&self, name: FileName) -> Vec<u8> {
        let inner = self.0.borrow();
        inner
            .names
            .get(&name)
            .map_or_else(Vec::new, |id| inner.files[id].bytes.clone())
    }
}

const ZEROS: &[u8] = &[0; SECTOR_BYTES];

fn apply(names: &mut BTreeMap<FileName, u64>, op: NameOp) {
    match op {
        NameOp::Link(name, id) => drop(names.insert(name, id)),
        NameOp::Unlink(name) => drop(names.remove(&name)),
        NameOp::Rename(from, to) => {
            if let Some(id) = names.remove(&from) {
                names.insert(to, id);
            }
        }
    }
}

impl File {
    fn sector(&self, sector: usize) -> &[u8] {
        &self.bytes[sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES]
    }

    fn sector_mut(&mut self, sector: usize) -> &mut [u8] {
        &mut self.bytes[sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES]
    }

    fn write(&mut self, sector: usize, data: &[u8]) {
        let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
        let bytes = &mut self.bytes[range];
        let old = self.unsynced.entry(sector);
        old.or_insert_with(|| Box::new(bytes[..].try_into().expect("one sector")));
        bytes.copy_from_slice(data);
        self.unreadable.remove(&sector);
    }
}

impl Inner {
    fn file(&mut self, name: FileName) -> io::Result<&mut File> {
        let id = self.names.get(&name).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.files.get_mut(id).expect("a name has a file"))
    }

    fn name_op(&mut self, op: NameOp) {
        apply(&mut self.names, op);
        self.name_ops.push(op);
    }

    /// Forgets files without a name.
    fn collect(&mut self) {
        let (names, durable) = (&self.names, &self.durable_names);
        self.files.retain(|id, _| {
            names.values().any(|named| named == id) || durable.values().any(|named| named == id)
        });
    }

    fn fault(&mut self) -> Option<Fault> {
        let (left, fault) = self.fault?;
        if left > 0 {
            self.fault = Some((left - 1, fault));
            return None;
        }
        if fault == Fault::Error {
            self.fault = None;
        }
        Some(fault)
    }

    fn prepare(&mut self, file: FileName, bytes: u64, ahead: bool) -> io::Result<usize> {
        let zero = |file: &File| file.bytes.len() as u64 == bytes && file.unsynced.is_empty();
        if !ahead
            && let Ok(there) = self.file(file)
            && zero(there)
            && there.bytes.iter().all(|byte| *byte == 0)
        {
            return Ok(0);
        }
        if self.full {
            return if ahead {
                Ok(0)
            } else {
                Err(io::ErrorKind::StorageFull.into())
            };
        }
        self.next_file += 1;
        let id = self.next_file;
        let bytes = vec![0; usize::try_from(bytes).expect("a small segment")];
        let made = File {
            bytes,
            ..File::default()
        };
        self.files.insert(id, made);
        self.name_op(NameOp::Link(file, id));
        Ok(0)
    }

    fn perform(&mut self, op: &Op<'_>, fault: Option<Fault>) -> io::Result<usize> {
        let failed = || Err(io::Error::other("the disk fails"));
        match *op {
            Op::Prepare { file, bytes } | Op::PrepareAhead { file, bytes } => {
                let ahead = matches!(op, Op::PrepareAhead { .. });
                return match fault {
                    None => self.prepare(file, bytes, ahead),
                    // The helper's failure shows in the later prepare.
                    Some(Fault::Error) if ahead => Ok(0),
                    Some(_) => failed(),
                };
            }
            Op::Write { file, offset, data } => {
                let first = usize::try_from(offset).expect("small") / SECTOR_BYTES;
                let mut keeps = self.chance.clone();
                let target = self.file(file)?;
                for (at, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                    if fault.is_none() || keeps.percent(50) {
                        target.write(first + at, sector);
                    }
                }
                self.chance = keeps;
                return if fault.is_some() {
                    failed()
                } else {
                    Ok(data.len())
                };
            }
            Op::Sync { file } => {
                let mut keeps = self.chance.clone();
                let skips = self.skips_sync;
                let target = self.file(file)?;
                match fault {
                    Some(Fault::Stop) => {}
                    // As Linux does: the pages count as clean now, written or not; the cache is
                    // dropped before anybody reads again.
                    Some(Fault::Error) => {
                        for (sector, old) in std::mem::take(&mut target.unsynced) {
                            if keeps.percent(50) {
                                target.sector_mut(sector).copy_from_slice(&old[..]);
                            }
                        }
                    }
                    None if skips => {}
                    None => target.unsynced.clear(),
                }
                self.chance = keeps;
            }
            Op::Rename { from, to } if fault != Some(Fault::Error) => {
                self.name_op(NameOp::Rename(from, to));
            }
            Op::Remove { file } if fault != Some(Fault::Error) => {
                self.name_op(NameOp::Unlink(file));
            }
            Op::SyncDir if fault.is_none() && !self.skips_dir_sync => {
                self.name_ops.clear();
                self.durable_names = self.names.clone();
                self.collect();
            }
            Op::Rename { .. } | Op::Remove { .. } | Op::SyncDir => {}
        }
        if fault.is_some() { failed() } else { Ok(0) }
    }
}

impl Disk for SimDisk {
    fn perform(&mut self, op: &Op<'_>) -> io::Result<usize> {
        let inner = &mut *self.0.borrow_mut();
        let fault = inner.fault();
        inner.perform(op, fault)
    }

    fn list(&mut self) -> io::Result<Vec<Listed>> {
        let inner = self.0.borrow();
        let listed = inner.names.iter().map(|(name, id)| Listed {
            name: name.to_string(),
            bytes: inner.files[id].bytes.len() as u64,
        });
        Ok(listed.collect())
    }

    fn read_at(&mut self, file: FileName, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let inner = &mut *self.0.borrow_mut();
        let file = inner.file(file)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX) / SECTOR_BYTES;
        let end = start + buf.len().div_ceil(SECTOR_BYTES) + 1;
        if file.unreadable.range(start..end).any(|&bad| {
            let from = (bad * SECTOR_BYTES) as u64;
            from < offset + buf.len() as u64 && offset < from + SECTOR_BYTES as u64
        }) {
            return Err(io::Error::other("bad sector"));
        }
        file.bytes.as_slice().read_at(offset, buf)
    }

    fn drop_cache(&mut self, _: FileName) {
        // What a failed sync lost is gone from the cache already.
    }

    fn quarantine(&mut self, _: &str, _: &[u8]) -> io::Result<()> {
        self.0.borrow_mut().quarantined += 1;
        Ok(())
    }

    fn path(&self, file: Option<FileName>) -> PathBuf {
        let dir = PathBuf::from(format!("/member-{}/wal", self.0.borrow().owner));
        file.map_or_else(|| dir.clone(), |file| dir.join(file.to_string()))
    }
}
