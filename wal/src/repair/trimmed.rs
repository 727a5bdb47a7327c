//! A log as it would be with some files left out and some ended earlier, without touching it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use crate::damage::{Damage, Proof, Rule};
use crate::dir::DirDisk;
use crate::disk::{Disk, Listed, Op};
use crate::error::Error;
use crate::recover::DiskSource;
use crate::scan::read_header;
use crate::segment::{FileName, SegmentHeader};

/// What is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trims {
    /// Names of files that do not exist any more.
    pub hidden: BTreeSet<String>,
    /// Everything from this offset on is zero.
    pub zero_from: BTreeMap<FileName, u64>,
    /// Sizes that files should have.
    pub resized: BTreeMap<FileName, u64>,
    /// Names of segments both of whose header copies are to be good.
    pub header_copies: BTreeSet<String>,
}

impl Trims {
    /// Ends the log at the place of a damage: inside a segment if that is where it is, else in front of it.
    pub fn cut_at(&mut self, disk: &mut DirDisk, damage: &Damage) -> Result<(), Error> {
        let segments = self.visible(disk)?;
        let name = damage.path.file_name().and_then(|name| name.to_str());
        let file = name.and_then(FileName::parse);
        let at = segments.iter().position(|(named, _)| Some(*named) == file);
        let keep = match (at, &damage.proof) {
            (Some(at), _) => {
                let (file, bytes) = segments[at];
                let header = header_of(disk, file, bytes);
                let too_short = damage.rule == Rule::D1 && !self.resized.contains_key(&file);
                let data_start = header.as_ref().map_or(u64::MAX, SegmentHeader::data_start);
                let earlier = self
                    .zero_from
                    .get(&file)
                    .is_none_or(|from| damage.offset < *from);
                match header {
                    Some(header) if too_short => {
                        self.resized.insert(file, header.bytes);
                        at + 1
                    }
                    Some(_) if damage.offset >= data_start && earlier => {
                        self.zero_from.insert(file, damage.offset);
                        at + 1
                    }
                    _ => at,
                }
            }
            (None, Proof::MissingSegments { from, .. }) => segments
                .iter()
                .take_while(|(file, _)| matches!(file, FileName::Segment { seq, .. } if seq < from))
                .count(),
            // A place in no segment: the start is missing, or a file is there twice.
            (None, _) => 0,
        };
        for (file, _) in segments.into_iter().skip(keep) {
            self.hidden.insert(file.to_string());
        }
        Ok(())
    }

    /// The segments that are left, in order, with their sizes.
    pub fn visible(&self, disk: &mut DirDisk) -> Result<Vec<(FileName, u64)>, Error> {
        let path = disk.path(None);
        let listed = disk.list().map_err(|source| Error::Io {
            operation: "list",
            path,
            offset: 0,
            source,
        })?;
        let mut segments: Vec<_> = listed
            .into_iter()
            .filter(|listed| !self.hidden.contains(&listed.name))
            .filter_map(|listed| {
                let file = FileName::parse(&listed.name)?;
                let bytes = self.resized.get(&file).copied().unwrap_or(listed.bytes);
                matches!(file, FileName::Segment { .. }).then_some((file, bytes))
            })
            .collect();
        segments.sort();
        Ok(segments)
    }

    /// Whether a file stays as it is, byte for byte.
    pub fn leaves_alone(&self, file: FileName) -> bool {
        !self.zero_from.contains_key(&file)
            && !self.resized.contains_key(&file)
            && !self.header_copies.contains(&file.to_string())
    }
}

/// The header of a segment, if one copy is good.
pub(super) fn header_of<D: Disk>(
    disk: &mut D,
    file: FileName,
    bytes: u64,
) -> Option<SegmentHeader> {
    let mut source = DiskSource { disk, file, bytes };
    let (header, _) = read_header(&mut source).ok()?.ok()?;
    Some(header)
}

/// The disk under trims; performs nothing.
pub(super) struct Trimmed<'a> {
    pub disk: &'a mut DirDisk,
    pub trims: &'a Trims,
}

impl Disk for Trimmed<'_> {
    fn perform(&mut self, _: &Op<'_>) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn list(&mut self) -> io::Result<Vec<Listed>> {
        let mut listed = self.disk.list()?;
        listed.retain(|listed| !self.trims.hidden.contains(&listed.name));
        for one in &mut listed {
            let resized = FileName::parse(&one.name).and_then(|file| self.trims.resized.get(&file));
            one.bytes = resized.copied().unwrap_or(one.bytes);
        }
        Ok(listed)
    }

    fn read_at(&mut self, file: FileName, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.trims.resized.contains_key(&file) {
            // Behind the file's own end there is nothing but the zeros it should have had.
            self.disk.read_up_to(file, offset, buf)?;
        } else {
            self.disk.read_at(file, offset, buf)?;
        }
        if let Some(from) = self.trims.zero_from.get(&file) {
            let keep = usize::try_from(from.saturating_sub(offset)).unwrap_or(usize::MAX);
            if let Some(behind) = buf.get_mut(keep..) {
                behind.fill(0);
            }
        }
        Ok(())
    }

    fn drop_cache(&mut self, _: FileName) {}

    fn quarantine(&mut self, _: &str, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn path(&self, file: Option<FileName>) -> PathBuf {
        self.disk.path(file)
    }
}
