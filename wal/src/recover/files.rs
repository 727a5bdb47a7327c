//! Which segments there are, and their headers against name, size and identity.

use std::collections::BTreeMap;
use std::io;

use crate::damage::{Class, Damage, Finding, Proof, Rule};
use crate::disk::Disk;
use crate::error::Error;
use crate::scan::{BadCopy, read_header};
use crate::segment::{FileName, Identity, SegmentHeader};
use crate::source::Source;

/// The segments in order of seq with their sizes; everything else becomes a finding.
pub(super) fn list_segments<D: Disk>(
    disk: &mut D,
    findings: &mut Vec<Finding>,
) -> Result<Vec<(FileName, u64)>, Error> {
    let path = disk.path(None);
    let io = |source| Error::Io {
        operation: "list",
        path: path.clone(),
        offset: 0,
        source,
    };
    let mut segments = BTreeMap::new();
    for listed in disk.list().map_err(io)? {
        match FileName::parse(&listed.name) {
            Some(file @ FileName::Segment { seq, .. }) => {
                if segments.insert(seq, (file, listed.bytes)).is_some() {
                    return Err(Error::from(Damage {
                        class: Class::W6,
                        rule: Rule::Joint,
                        path: disk.path(Some(file)),
                        offset: 0,
                        position: None,
                        first_lost: 0,
                        last_lost: None,
                        proof: Proof::Field {
                            name: "files of this seq",
                            expected: 1,
                            found: 2,
                        },
                    }));
                }
            }
            Some(FileName::Spare(_)) => {}
            None => findings.push(Finding {
                class: Class::W6,
                file: listed.name,
                offset: 0,
                text: "not a file of the log, left alone".into(),
            }),
        }
    }
    match segments.is_empty() {
        true => Err(Error::NoLog { path }),
        false => Ok(segments.into_values().collect()),
    }
}

/// Reads one header and checks it against name, size and identity.
pub(super) fn load_header<D: Disk>(
    disk: &mut D,
    file: FileName,
    bytes: u64,
    identity: Option<&Identity>,
    findings: &mut Vec<Finding>,
) -> Result<SegmentHeader, Box<Damage>> {
    let FileName::Segment { seq, first_index } = file else {
        unreachable!("segments only")
    };
    let path = disk.path(Some(file));
    let damage = |class, rule, proof, position| {
        Box::new(Damage {
            class,
            rule,
            path: path.clone(),
            offset: 0,
            position,
            first_lost: first_index,
            last_lost: None,
            proof,
        })
    };
    let read = read_header(&mut DiskSource { disk, file, bytes });
    let (header, bad_copy) = match read {
        Err(error) => {
            let proof = Proof::Device(error.to_string());
            return Err(damage(Class::W8, Rule::D12, proof, None));
        }
        Ok(Err(proof)) => return Err(damage(Class::W5, Rule::Joint, proof, None)),
        Ok(Ok(header)) => header,
    };
    let position = Some(header.base);
    if bytes != header.bytes {
        let proof = Proof::Size {
            expected: header.bytes,
            found: bytes,
        };
        let class = if bytes > header.data_start() {
            Class::W4
        } else {
            Class::W5
        };
        let rule = if bytes < header.bytes {
            Rule::D1
        } else {
            Rule::Joint
        };
        return Err(damage(class, rule, proof, position));
    }
    if header.name() != file {
        let proof = if header.seq == seq {
            Proof::Field {
                name: "first index",
                expected: first_index,
                found: header.first_index,
            }
        } else {
            Proof::Field {
                name: "segment seq",
                expected: seq,
                found: header.seq,
            }
        };
        return Err(damage(Class::W6, Rule::D11, proof, position));
    }
    if let Some(identity) = identity.filter(|identity| **identity != header.identity) {
        let (expected, found) = (identity.to_string(), header.identity.to_string());
        return Err(damage(
            Class::W6,
            Rule::D11,
            Proof::Foreign { expected, found },
            position,
        ));
    }
    if let Some(BadCopy { offset, error }) = bad_copy {
        let text = format!("one of two header copies is bad: {error}");
        findings.push(Finding {
            class: Class::W7,
            file: file.to_string(),
            offset,
            text,
        });
    }
    Ok(header)
}

/// A file of a disk as a [`Source`].
pub(crate) struct DiskSource<'a, D> {
    pub disk: &'a mut D,
    pub file: FileName,
    pub bytes: u64,
}

impl<D: Disk> Source for DiskSource<'_, D> {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(self.file, offset, buf)
    }
}
