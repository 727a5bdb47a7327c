//! A disk in memory that keeps what was written and what was synced apart, per sector and per name,
//! can lose power between any two operations, and fails when told to.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use super::Dice;
use crate::SECTOR_BYTES;
use crate::disk::{Disk, Listed, Op};
use crate::segment::FileName;

/// What happens at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Power is lost while it runs.
    Power,
    /// It fails; a write may have reached some sectors, a sync may have synced some.
    Error,
    /// A write takes half of its bytes and says so; other operations fail.
    Short,
}

#[derive(Clone, Debug, Default)]
struct File {
    cached: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
enum NameOp {
    Link(String, u64),
    Unlink(String),
    Rename(String, String),
}

#[derive(Debug, Default)]
struct Inner {
    files: BTreeMap<u64, File>,
    next_file: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    name_ops: Vec<NameOp>,
    performed: usize,
    log: Vec<&'static str>,
    fault: Option<(usize, Fault)>,
    prepare_fails: bool,
    unreadable: Option<(String, u64)>,
    /// Operations that report success and do nothing: a planted defect of the writer.
    skipped: Option<fn(&Op<'_>) -> bool>,
    quarantined: Vec<(String, Vec<u8>)>,
    dice: u64,
}

/// Clones share the disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Rc<RefCell<Inner>>);

impl MemoryDisk {
    /// A disk that holds these files, all synced.
    pub fn of(image: &BTreeMap<String, Vec<u8>>) -> Self {
        let disk = Self::default();
        image
            .iter()
            .for_each(|(name, bytes)| disk.put(name, bytes.clone()));
        disk
    }

    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let inner = &mut *self.0.borrow_mut();
        inner.next_file += 1;
        let file = File {
            durable: bytes.clone(),
            cached: bytes,
            dirty: BTreeSet::new(),
        };
        inner.files.insert(inner.next_file, file);
        inner.names.insert(name.into(), inner.next_file);
        inner.durable_names.insert(name.into(), inner.next_file);
    }

    /// All files as a reader sees them now.
    pub fn image(&self) -> BTreeMap<String, Vec<u8>> {
        let inner = self.0.borrow();
        (inner.names.iter())
            .map(|(name, id)| (name.clone(), inner.files[id].cached.clone()))
            .collect()
    }

    /// Lets `fault` happen at the operation number `at`, counted from the next one.
    pub fn fail_at(&self, at: usize, fault: Fault) {
        let mut inner = self.0.borrow_mut();
        inner.fault = Some((inner.performed + at, fault));
    }

    /// Whether there is no space for another spare; one made ahead stays.
    pub fn fail_prepare(&self, fails: bool) {
        self.0.borrow_mut().prepare_fails = fails;
    }

    pub fn heal(&self) {
        self.0.borrow_mut().fault = None;
    }

    /// Number of operations performed.
    pub fn performed(&self) -> usize {
        self.0.borrow().performed
    }

    /// As if the writer never asked for these operations.
    pub fn skip(&self, skipped: fn(&Op<'_>) -> bool) {
        self.0.borrow_mut().skipped = Some(skipped);
    }

    /// Verbs of the operations performed.
    pub fn log(&self) -> Vec<&'static str> {
        self.0.borrow().log.clone()
    }

    /// Reads of `file` that touch `offset` fail.
    pub fn make_unreadable(&self, file: FileName, offset: u64) {
        self.0.borrow_mut().unreadable = Some((file.to_string(), offset));
    }

    /// Power returns: of what was not synced, each sector is there or not, and the name operations
    /// took effect up to a random one.
    pub fn lose_power(&self, dice: &mut Dice) {
        let inner = &mut *self.0.borrow_mut();
        inner.fault = None;
        let kept = dice.below(inner.name_ops.len() as u64 + 1) as usize;
        let ops: Vec<_> = inner.name_ops.drain(..).take(kept).collect();
        ops.iter()
            .for_each(|op| apply(&mut inner.durable_names, op));
        inner.names = inner.durable_names.clone();
        let keep_of_16 = [0, 1, 8, 8, 15, 16][dice.below(6) as usize];
        for file in inner.files.values_mut() {
            for sector in std::mem::take(&mut file.dirty) {
                if dice.below(16) < keep_of_16 {
                    file.flush(sector);
                }
            }
            file.cached = file.durable.clone();
        }
    }

    /// A new process over the same machine: nothing is lost, faults end.
    pub fn restart(&self) {
        self.heal();
    }
}

fn apply(names: &mut BTreeMap<String, u64>, op: &NameOp) {
    match op {
        NameOp::Link(name, id) => {
            names.insert(name.clone(), *id);
        }
        NameOp::Unlink(name) => {
            names.remove(name);
        }
        NameOp::Rename(from, to) => {
            if let Some(id) = names.remove(from) {
                names.insert(to.clone(), id);
            }
        }
    }
}

impl File {
    fn flush(&mut self, sector: usize) {
        let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
        self.durable[range.clone()].copy_from_slice(&self.cached[range]);
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        assert!(
            offset.is_multiple_of(SECTOR_BYTES) && data.len().is_multiple_of(SECTOR_BYTES),
            "whole sectors"
        );
        assert!(offset + data.len() <= self.cached.len(), "inside the file");
        self.cached[offset..offset + data.len()].copy_from_slice(data);
        let first = offset / SECTOR_BYTES;
        self.dirty.extend(first..first + data.len() / SECTOR_BYTES);
    }
}

impl Inner {
    fn file(&mut self, name: FileName) -> io::Result<&mut File> {
        let id = self
            .names
            .get(&name.to_string())
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(self.files.get_mut(id).expect("a name has a file"))
    }

    fn name_op(&mut self, op: NameOp) {
        apply(&mut self.names, &op);
        self.name_ops.push(op);
    }

    fn perform(&mut self, op: &Op<'_>, fault: Option<Fault>) -> io::Result<usize> {
        let mut dice = Dice(self.dice);
        self.dice = dice.next();
        let failed = || Err(io::Error::other("the disk fails"));
        match *op {
            Op::PrepareAhead { .. } if self.prepare_fails => return Ok(0),
            Op::Prepare { file, .. }
                if self.prepare_fails && !self.names.contains_key(&file.to_string()) =>
            {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Op::Prepare { file, bytes } | Op::PrepareAhead { file, bytes } => {
                let ahead = matches!(op, Op::PrepareAhead { .. });
                let zero = |file: &&mut File| {
                    file.cached.len() as u64 == bytes && file.cached.iter().all(|byte| *byte == 0)
                };
                if !ahead && fault.is_none() && self.file(file).as_mut().is_ok_and(|f| zero(f)) {
                    // Prepared ahead. Another file of that name is replaced.
                    return Ok(0);
                }
                let sectors = bytes / SECTOR_BYTES as u64;
                let there = if fault.is_some() {
                    dice.below(sectors)
                } else {
                    sectors
                };
                let zeros = vec![0; there as usize * SECTOR_BYTES];
                self.next_file += 1;
                let id = self.next_file;
                let made = File {
                    cached: zeros.clone(),
                    durable: zeros,
                    dirty: BTreeSet::new(),
                };
                self.files.insert(id, made);
                self.name_op(NameOp::Link(file.to_string(), id));
                // A helper's failure would show only in the later prepare; power is lost for all.
                return if fault.is_some() { failed() } else { Ok(0) };
            }
            Op::Write { file, offset, data } => {
                let offset = offset as usize;
                let target = self.file(file)?;
                match fault {
                    None => target.write(offset, data),
                    Some(Fault::Power) => {
                        target.write(offset, data);
                        return failed();
                    }
                    Some(Fault::Short) => {
                        let half = data.len() / SECTOR_BYTES / 2 * SECTOR_BYTES;
                        target.write(offset, &data[..half]);
                        return Ok(half);
                    }
                    Some(_) => {
                        for (i, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                            if dice.one_in(2) {
                                target.write(offset + i * SECTOR_BYTES, sector);
                            }
                        }
                        return failed();
                    }
                }
                return Ok(data.len());
            }
            Op::Sync { file } => {
                let target = self.file(file)?;
                match fault {
                    Some(Fault::Power) => return failed(),
                    Some(_) => {
                        // As Linux does: the pages are clean now, whether or not they were written.
                        for sector in std::mem::take(&mut target.dirty) {
                            if dice.one_in(2) {
                                target.flush(sector);
                            }
                        }
                        return failed();
                    }
                    None => {
                        for sector in std::mem::take(&mut target.dirty) {
                            target.flush(sector);
                        }
                    }
                }
            }
            Op::Rename { from, to } => {
                assert!(!self.names.contains_key(&to.to_string()), "{to} is taken");
                if !matches!(fault, Some(Fault::Error | Fault::Short)) {
                    self.name_op(NameOp::Rename(from.to_string(), to.to_string()));
                }
            }
            Op::Remove { file } => {
                if !matches!(fault, Some(Fault::Error | Fault::Short)) {
                    self.name_op(NameOp::Unlink(file.to_string()));
                }
            }
            Op::SyncDir if fault.is_none() => {
                self.name_ops.clear();
                self.durable_names = self.names.clone();
            }
            Op::SyncDir => {}
        }
        if fault.is_some() { failed() } else { Ok(0) }
    }
}

impl Disk for MemoryDisk {
    fn perform(&mut self, op: &Op<'_>) -> io::Result<usize> {
        let inner = &mut *self.0.borrow_mut();
        let fault = inner
            .fault
            .filter(|(at, _)| *at <= inner.performed)
            .map(|(_, fault)| fault);
        inner.performed += 1;
        inner.log.push(op.verb());
        if fault.is_none() && inner.skipped.is_some_and(|skipped| skipped(op)) {
            return Ok(0);
        }
        inner.perform(op, fault)
    }

    fn list(&mut self) -> io::Result<Vec<Listed>> {
        let image = self.image();
        Ok(image
            .into_iter()
            .map(|(name, bytes)| Listed {
                name,
                bytes: bytes.len() as u64,
            })
            .collect())
    }

    fn read_at(&mut self, file: FileName, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let inner = &mut *self.0.borrow_mut();
        if let Some((name, bad)) = &inner.unreadable {
            let touched = (offset..offset + buf.len() as u64).contains(bad);
            if *name == file.to_string() && touched {
                return Err(io::Error::other("bad sector"));
            }
        }
        let mut bytes = inner.file(file)?.cached.as_slice();
        crate::source::Source::read_at(&mut bytes, offset, buf)
    }

    fn drop_cache(&mut self, file: FileName) {
        if let Ok(file) = self.0.borrow_mut().file(file) {
            for sector in 0..file.cached.len() / SECTOR_BYTES {
                if !file.dirty.contains(&sector) {
                    let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                    file.cached[range.clone()].copy_from_slice(&file.durable[range]);
                }
            }
        }
    }

    fn quarantine(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.0
            .borrow_mut()
            .quarantined
            .push((name.into(), bytes.into()));
        Ok(())
    }

    fn path(&self, file: Option<FileName>) -> PathBuf {
        let dir = PathBuf::from("/data/wal");
        file.map_or_else(|| dir.clone(), |file| dir.join(file.to_string()))
    }
}
