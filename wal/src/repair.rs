//! Repair in two acts: a plan that says what would be done and what it would lose, then, only if
//! asked, the steps of that plan which lose nothing.
//!
//! Bytes that cannot be interpreted never get a new checksum, nothing is cut in the middle, and
//! whatever is taken out of the log goes to `quarantine/` beside its directory. Steps that give
//! entries up are planned with their token and not carried out here.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::damage::{Class, Damage, Finding};
use crate::dir::DirDisk;
use crate::driver::quarantine_tail;
use crate::error::Error;
use crate::options::SyncMethod;
use crate::recover::{Floors, Recovered, recover};
use crate::segment::{FileName, Identity};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Copy the remains of a torn tail to the quarantine. The bytes stay where they are: the next
    /// start goes on in a new segment.
    CopyTail {
        /// Last segment.
        segment: FileName,
        /// First byte that is not zero.
        from: u64,
        /// One behind the last.
        to: u64,
    },
    /// Move a segment, whose entries the store has all, to the quarantine.
    MoveAside {
        /// Oldest ones first.
        segment: FileName,
    },
    /// Write the bad copy of a segment's header anew. The log works without.
    RestoreHeaderCopy {
        /// The segment's file.
        file: String,
        /// Where the copy lies.
        offset: u64,
    },
    /// Take the missing entries from an archive, a copy of a peer's directory or a live peer.
    Fill {
        /// First missing.
        from: u64,
        /// Last missing; `None`: all that the source has.
        to: Option<u64>,
    },
    /// Leave the cluster and join it again, empty, as a new learner. The same member must not come
    /// back with a shorter log.
    Rejoin,
    /// Give entries up. On a member of a larger cluster the directory may then only rejoin.
    DropIndexes {
        /// First lost.
        from: u64,
        /// Last lost; `None`: nobody can tell.
        to: Option<u64>,
        /// What `--force=` must be given.
        token: String,
    },
}

impl Step {
    /// Whether [`apply`] carries it out.
    pub fn is_carried_out(&self) -> bool {
        matches!(self, Self::CopyTail { .. } | Self::MoveAside { .. })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = |to: &Option<u64>| to.map_or_else(String::new, |to| to.to_string());
        match self {
            Self::CopyTail { segment, from, to } => {
                write!(
                    f,
                    "copy the torn tail {from}..{to} of {segment} to quarantine/"
                )
            }
            Self::MoveAside { segment } => write!(f, "move {segment} to quarantine/"),
            Self::RestoreHeaderCopy { file, offset } => {
                write!(f, "write the header copy at offset {offset} of {file} anew")
            }
            Self::Fill { from, to } => {
                write!(
                    f,
                    "fill entries {from}..{} from an archive or a peer",
                    last(to)
                )
            }
            Self::Rejoin => write!(f, "rejoin the cluster, empty, as a new learner"),
            Self::DropIndexes { from, to, token } => {
                write!(f, "give up entries {from}..{} (--force={token})", last(to))
            }
        }
    }
}

/// What a repair would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Why the log does not open; `None` if it does.
    pub damage: Option<Damage>,
    /// What else was seen.
    pub findings: Vec<Finding>,
    /// To be done, in this order; lose nothing.
    pub steps: Vec<Step>,
    /// Ways out of the damage, best first; one of them is to be chosen.
    pub choices: Vec<Step>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.choices.is_empty()
    }

    /// Class of the worst thing found.
    pub fn class(&self) -> Class {
        let damage = self.damage.iter().map(|damage| damage.class);
        damage
            .chain(self.findings.iter().map(|found| found.class))
            .max()
            .unwrap_or(Class::W0)
    }
}

/// Reads the log in `dir` and says what a repair would do. Changes nothing.
///
/// # Errors
/// [`Error::NoLog`], [`Error::Io`]; damage is no error here but part of the plan.
pub fn plan(dir: &Path, identity: &Identity, floors: Floors) -> Result<Plan, Error> {
    let disk = &mut DirDisk::new(dir, SyncMethod::Fdatasync);
    match recover(disk, Some(identity), Some(without_entries(floors))) {
        Ok(recovered) => {
            let mut steps = covered_segments(dir, &recovered)?;
            steps.extend(lossless(&recovered));
            let findings = recovered.report.findings;
            Ok(Plan {
                damage: None,
                findings,
                steps,
                choices: Vec::new(),
            })
        }
        Err(Error::Damage(damage)) => {
            let choices = choices(&damage);
            Ok(Plan {
                damage: Some(*damage),
                findings: Vec::new(),
                steps: Vec::new(),
                choices,
            })
        }
        Err(error) => Err(error),
    }
}

/// Carries out the steps of `plan` that lose nothing and that this version can; returns what it
/// did. The log is read again first: if it is not what the plan was made for, nothing is done.
///
/// # Errors
/// [`Error::PlanStale`], [`Error::NotCarriedOut`] (before anything is done), [`Error::Io`].
pub fn apply(
    dir: &Path,
    identity: &Identity,
    floors: Floors,
    plan: &Plan,
    now_ms: u64,
) -> Result<Vec<String>, Error> {
    if let Some(step) = plan.choices.first() {
        return Err(Error::NotCarriedOut {
            step: step.to_string(),
        });
    }
    let mut disk = DirDisk::new(dir, SyncMethod::Fdatasync);
    let recovered = recover(&mut disk, Some(identity), Some(without_entries(floors)))?;
    let mut steps = covered_segments(dir, &recovered)?;
    steps.extend(lossless(&recovered));
    if steps != plan.steps {
        return Err(Error::PlanStale {
            file: recovered.end.segment,
        });
    }
    let mut done = Vec::new();
    for step in steps.iter().filter(|step| step.is_carried_out()) {
        match step {
            Step::CopyTail { .. } => {
                quarantine_tail(&mut disk, &recovered, now_ms)?;
            }
            Step::MoveAside { segment } => {
                let io = |source| Error::Io {
                    operation: "move aside",
                    path: dir.join(segment.to_string()),
                    offset: 0,
                    source,
                };
                disk.move_aside(*segment, now_ms).map_err(io)?;
            }
            _ => unreachable!("only steps that are carried out"),
        }
        done.push(step.to_string());
    }
    Ok(done)
}

fn without_entries(floors: Floors) -> Floors {
    Floors {
        keep_after: u64::MAX,
        ..floors
    }
}

/// Segments in front of the first one that counts: damaged, or older than damaged ones.
fn covered_segments(dir: &Path, recovered: &Recovered) -> Result<Vec<Step>, Error> {
    use crate::disk::Disk as _;
    let first = recovered
        .segments
        .first()
        .map_or(0, |segment| segment.header.seq);
    let io = |source| Error::Io {
        operation: "list",
        path: PathBuf::from(dir),
        offset: 0,
        source,
    };
    let listed = DirDisk::new(dir, SyncMethod::None).list().map_err(io)?;
    let mut older: Vec<_> = (listed.iter())
        .filter_map(|listed| FileName::parse(&listed.name))
        .filter(|file| matches!(file, FileName::Segment { seq, .. } if *seq < first))
        .collect();
    older.sort();
    Ok(older
        .into_iter()
        .map(|segment| Step::MoveAside { segment })
        .collect())
}

fn lossless(recovered: &Recovered) -> Vec<Step> {
    let segment = recovered.end.segment;
    let tail = recovered
        .end
        .torn
        .map(|(from, to)| Step::CopyTail { segment, from, to });
    let copies = recovered
        .report
        .findings
        .iter()
        .filter(|found| found.class == Class::W7);
    let copies = copies.map(|found| Step::RestoreHeaderCopy {
        file: found.file.clone(),
        offset: found.offset,
    });
    tail.into_iter().chain(copies).collect()
}

/// Ways out of a damage that stops the start.
fn choices(damage: &Damage) -> Vec<Step> {
    let (from, to) = (damage.first_lost, damage.last_lost);
    let mut choices = Vec::new();
    if from > 0 && matches!(damage.class, Class::W4 | Class::W5) {
        choices.push(Step::Fill { from, to });
    }
    choices.push(Step::Rejoin);
    if from > 0 && damage.class != Class::W8 {
        choices.push(Step::DropIndexes {
            from,
            to,
            token: damage.force_token(),
        });
    }
    choices
}
