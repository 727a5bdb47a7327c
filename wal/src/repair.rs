//! Repair in two acts: a plan that says what would be done and what it would lose, then a new log built beside.
//!
//! Invariants:
//! * Planning only reads. Building only reads the log and writes into a directory of its own; putting the new
//!   log in the old one's place, and keeping the old one, is the caller's step. So an interrupted repair
//!   changes nothing, and the original bytes are never written to.
//! * Segments that stay are linked, not copied; only one whose tail or header copy changes is written anew.
//! * Bytes that cannot be interpreted never get a new checksum, and nothing is taken out of the middle: what
//!   follows a hole is kept only when the hole lies in what the store has anyway, or when another copy
//!   of the log fills it.
//! * Without a token nothing that may have been acknowledged is given up. The token names the indexes.
//! * Every built log was read back by the same recovery as a start uses, and ends with a NOTE of what was done.

mod build;
mod salvage;
mod trimmed;

use std::fmt;
use std::path::Path;

pub use build::{Built, Choice, Request, build, foresee};

use crate::damage::{Class, Damage, Finding, Proof, Rule};
use crate::dir::DirDisk;
use crate::disk::Disk;
use crate::error::Error;
use crate::membership::Membership;
use crate::options::SyncMethod;
use crate::recover::{Floors, Recovered, recover};
use crate::segment::{FileName, Identity};
use salvage::Salvage;
use trimmed::{Trimmed, Trims};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// End the last segment behind its last good batch: what follows is a torn tail.
    CutTail {
        /// Last segment.
        segment: FileName,
        /// First byte that is not zero.
        from: u64,
        /// One behind the last.
        to: u64,
    },
    /// Leave out a segment whose entries the store has all.
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
    /// Leave out a file that does not belong to the log.
    SetAside {
        /// Its name.
        file: String,
    },
    /// Begin the log anew behind what the store has, with all entries that follow it: the hole lies in front
    /// of them.
    Rebase {
        /// Last index that the store has.
        applied: u64,
        /// Last index of the log; equal to `applied` if no entries follow.
        last: u64,
    },
    /// Take the missing entries from a copy of this log or of another member's.
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

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = |to: &Option<u64>| to.map_or_else(String::new, |to| to.to_string());
        match self {
            Self::CutTail { segment, from, to } => {
                write!(f, "end {segment} in front of its torn tail {from}..{to}")
            }
            Self::MoveAside { segment } => {
                write!(f, "leave out {segment}: the store has all of its entries")
            }
            Self::RestoreHeaderCopy { file, offset } => {
                write!(f, "write the header copy at offset {offset} of {file} anew")
            }
            Self::SetAside { file } => write!(f, "leave out {file}: not a file of the log"),
            Self::Rebase { applied, last } if last > applied => write!(
                f,
                "begin the log anew behind entry {applied}, which the store has, with entries {}..{last}",
                applied + 1
            ),
            Self::Rebase { applied, .. } => {
                write!(
                    f,
                    "begin the log anew behind entry {applied}, which the store has"
                )
            }
            Self::Fill { from, to } => write!(
                f,
                "fill entries {from}..{} from another copy (--from-data-dir)",
                last(to)
            ),
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
    /// Who votes, as far as the readable part of the log tells.
    pub membership: Option<Membership>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.choices.is_empty()
    }

    /// Whether `build` needs more than [`Choice::Lossless`].
    pub fn needs_a_choice(&self) -> bool {
        !self.choices.is_empty()
    }

    /// Class of the worst thing found.
    pub fn class(&self) -> Class {
        let damage = self.damage.iter().map(|damage| damage.class);
        damage
            .chain(self.findings.iter().map(|found| found.class))
            .max_by_key(|class| severity(*class))
            .unwrap_or(Class::W0)
    }

    /// The token of the plan's loss, if giving entries up is one of its ways out.
    pub fn token(&self) -> Option<&str> {
        self.choices.iter().find_map(|choice| match choice {
            Step::DropIndexes { token, .. } => Some(token.as_str()),
            _ => None,
        })
    }
}

/// The classes' numbers are names; this is how bad they are.
fn severity(class: Class) -> u8 {
    match class {
        Class::W0 => 0,
        Class::W7 => 1,
        Class::W1 => 2,
        Class::W6 => 3,
        Class::W3 => 4,
        Class::W2 => 5,
        Class::W4 => 6,
        Class::W5 => 7,
        Class::W8 => 8,
    }
}

/// Reads the log in `dir` and says what a repair would do. Changes nothing.
///
/// # Errors
/// [`Error::NoLog`], [`Error::Io`]; damage is no error here but part of the plan.
pub fn plan(dir: &Path, identity: &Identity, floors: Floors) -> Result<Plan, Error> {
    let mut disk = DirDisk::new(dir, SyncMethod::None);
    examine(&mut disk, identity, floors).map(|examined| examined.plan)
}

/// A plan, and what building needs beside it.
struct Examined {
    plan: Plan,
    /// What of the log can be kept: reading it like this gives `kept`.
    trims: Trims,
    kept: Option<Recovered>,
    salvage: Option<Salvage>,
}

fn examine(disk: &mut DirDisk, identity: &Identity, floors: Floors) -> Result<Examined, Error> {
    let floors = Floors {
        keep_after: u64::MAX,
        ..floors
    };
    let damage = match recover(disk, Some(identity), Some(floors)) {
        Ok(recovered) => return sound(disk, recovered),
        Err(Error::Damage(damage)) => *damage,
        Err(error) => return Err(error),
    };
    let mut trims = Trims::default();
    let kept = cut_until_sound(disk, identity, floors, &mut trims)?;
    let behind = match &kept {
        Some(kept) => kept.last_index,
        None => damage.first_lost.saturating_sub(1),
    };
    let salvage = salvage::collect(disk, identity, &trims, floors.applied)?;
    let membership = salvage
        .membership
        .clone()
        .or_else(|| kept.as_ref().map(|kept| kept.membership.clone()));
    let mut plan = Plan {
        findings: Vec::new(),
        steps: Vec::new(),
        choices: Vec::new(),
        membership,
        damage: Some(damage.clone()),
    };
    let alone = plan
        .membership
        .as_ref()
        .is_some_and(|membership| is_alone(membership, identity));
    let covered = floors.applied >= behind && damage.class != Class::W8;
    // A batch that is wholly there and of which only the content is bad says itself what it held at most.
    let last_announced = damage.last_lost.filter(|_| damage.rule == Rule::D8);
    let last = salvage.rebased_last(floors.applied).or(last_announced
        .filter(|last| *last <= floors.applied)
        .map(|_| floors.applied));
    if let Some(last) = last.filter(|_| alone && covered && floors.applied > 0) {
        if let Some(damage) = &mut plan.damage {
            // The store has what is bad.
            damage.class = Class::W3;
        }
        plan.steps.push(Step::Rebase {
            applied: floors.applied,
            last,
        });
    } else {
        // A leader of a later term may have replaced what no commit covers: then what is readable of that is
        // older than what was acknowledged. One that is alone replaces nothing.
        let first_lost = match &kept {
            Some(kept) if salvage.term > kept.last_term || (salvage.term == 0 && !alone) => {
                kept.state.committed().max(floors.applied).min(behind) + 1
            }
            _ => behind + 1,
        };
        plan.choices = match &plan.membership {
            Some(_) => choices(&damage, first_lost, &salvage),
            // Who votes is nowhere to be read: no log can be built.
            None => vec![Step::Rejoin],
        };
    }
    Ok(Examined {
        plan,
        trims,
        kept,
        salvage: Some(salvage),
    })
}

/// The plan for a log that opens.
fn sound(disk: &mut DirDisk, recovered: Recovered) -> Result<Examined, Error> {
    let mut trims = Trims::default();
    let steps = settle(disk, &recovered, &mut trims)?;
    let plan = Plan {
        damage: None,
        findings: recovered.report.findings.clone(),
        steps,
        choices: Vec::new(),
        membership: Some(recovered.membership.clone()),
    };
    Ok(Examined {
        plan,
        trims,
        kept: Some(recovered),
        salvage: None,
    })
}

/// Brings everything that was seen in a log that opens into order.
fn settle(
    disk: &mut DirDisk,
    recovered: &Recovered,
    trims: &mut Trims,
) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    for segment in older_segments(disk, recovered)? {
        if trims.hidden.insert(segment.to_string()) {
            steps.push(Step::MoveAside { segment });
        }
    }
    let segment = recovered.end.segment;
    if let Some((from, to)) = recovered.end.torn {
        trims.zero_from.insert(segment, recovered.end.offset);
        steps.push(Step::CutTail { segment, from, to });
    }
    for found in &recovered.report.findings {
        let file = found.file.clone();
        match found.class {
            Class::W7 if !trims.hidden.contains(&file) => {
                let offset = found.offset;
                trims.header_copies.insert(file.clone());
                steps.push(Step::RestoreHeaderCopy { file, offset });
            }
            Class::W6 if trims.hidden.insert(file.clone()) => steps.push(Step::SetAside { file }),
            _ => {}
        }
    }
    Ok(steps)
}

/// Segments in front of the first one that counts: damaged, or older than damaged ones.
fn older_segments(disk: &mut DirDisk, recovered: &Recovered) -> Result<Vec<FileName>, Error> {
    let first = recovered
        .segments
        .first()
        .map_or(0, |segment| segment.header.seq);
    let path = disk.path(None);
    let listed = disk.list().map_err(|source| Error::Io {
        operation: "list",
        path,
        offset: 0,
        source,
    })?;
    let mut older: Vec<_> = (listed.iter())
        .filter_map(|listed| FileName::parse(&listed.name))
        .filter(|file| matches!(file, FileName::Segment { seq, .. } if *seq < first))
        .collect();
    older.sort();
    Ok(older)
}

/// Takes away from the end what does not read, until the rest does; `None` if nothing is left. Every turn
/// hides a file or ends one earlier, so there is an end.
fn cut_until_sound(
    disk: &mut DirDisk,
    identity: &Identity,
    floors: Floors,
    trims: &mut Trims,
) -> Result<Option<Recovered>, Error> {
    loop {
        // The applied index lets a damaged prefix be passed over; a rule about the end is not wanted here.
        let lenient = Floors {
            snapshot: 0,
            ..floors
        };
        let read = recover(&mut Trimmed { disk, trims }, Some(identity), Some(lenient));
        let damage = match read {
            Ok(recovered) => {
                settle(disk, &recovered, trims)?;
                return Ok(Some(recovered));
            }
            Err(Error::NoLog { .. }) => return Ok(None),
            Err(Error::Damage(damage)) => *damage,
            Err(error) => return Err(error),
        };
        if let Proof::Floor { .. } = damage.proof {
            // Sound by itself, only shorter than the store.
            let alone = recover(&mut Trimmed { disk, trims }, Some(identity), None);
            match alone {
                Ok(recovered) => {
                    settle(disk, &recovered, trims)?;
                    return Ok(Some(recovered));
                }
                Err(Error::NoLog { .. }) => return Ok(None),
                Err(Error::Damage(damage)) => trims.cut_at(disk, &damage)?,
                Err(error) => return Err(error),
            }
        } else {
            trims.cut_at(disk, &damage)?;
        }
    }
}

fn is_alone(membership: &Membership, identity: &Identity) -> bool {
    membership.voters == [identity.member]
        && membership.learners.is_empty()
        && membership.voters_outgoing.is_empty()
        && membership.learners_next.is_empty()
}

/// Ways out of a damage that stops the start.
fn choices(damage: &Damage, from: u64, salvage: &Salvage) -> Vec<Step> {
    if damage.class == Class::W8 {
        return vec![Step::Rejoin];
    }
    let known = damage.last_lost.into_iter().chain(salvage.last_index);
    let to = known.max().filter(|to| *to >= from);
    let token = match to {
        Some(to) => format!("drop-index:{from}..{to}"),
        None => format!("drop-index:{from}.."),
    };
    vec![
        Step::Fill { from, to },
        Step::Rejoin,
        Step::DropIndexes { from, to, token },
    ]
}
