//! Builds the repaired log beside the damaged one, and reads it back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::trimmed::{Trimmed, Trims};
use super::{Examined, Plan, Step, examine, is_alone};
use crate::dir::{DirDisk, Log, remove_spares, sync_dir};
use crate::disk::Disk as _;
use crate::error::Error;
use crate::membership::Membership;
use crate::options::{Options, SyncMethod};
use crate::record::{Entry, HardState, Origin, SnapshotMark};
use crate::recover::{Floors, Recovered, recover, recover_alone};
use crate::segment::{FileName, Identity, SegmentHeader};
use crate::writer::Start;
use crate::{SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES};

/// Entries appended with one call.
const APPEND_ENTRIES: usize = 256;
/// Longest note, in bytes.
const NOTE_BYTES_MAX: usize = 4000;
/// Segment size where no readable segment tells one.
const SEGMENT_BYTES: u64 = 64 << 20;

/// What may be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Only what loses nothing.
    Lossless,
    /// Give up what this token names, which has to be the plan's.
    Drop(String),
    /// Take what is missing from the log in this directory: of another member, or an older copy.
    FillFrom(PathBuf),
}

/// What building needs to know.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whose log it is.
    pub identity: Identity,
    /// As for the plan.
    pub floors: Floors,
    /// Term of `floors.applied`.
    pub applied_term: u64,
    /// See [`Choice`].
    pub choice: Choice,
    /// For the note and the new segment.
    pub now_ms: u64,
    /// Random, for salts.
    pub seed: u64,
    /// How the new files are synced.
    pub sync: SyncMethod,
}

/// What was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// Last index of the new log.
    pub last_index: u64,
    /// What was done, one line each.
    pub done: Vec<String>,
    /// Entries given up: the first, and the last if that is known.
    pub lost: Option<(u64, Option<u64>)>,
    /// The member belongs to a larger cluster, and others may count on what was given up: it must not
    /// take part again under its identity.
    pub spent: bool,
}

/// Builds the repaired log in `to`, which must not exist. Nothing of `dir` is changed; whole segments of it
/// are linked where the file system can. What is in `to` after an error is of no use.
///
/// # Errors
/// [`Error::PlanStale`], [`Error::NeedsChoice`], [`Error::Token`], [`Error::Unrepairable`], [`Error::Io`],
/// [`Error::NoSpace`]; [`Error::Damage`] in the copy that is to fill a hole.
pub fn build(dir: &Path, to: &Path, plan: &Plan, request: &Request) -> Result<Built, Error> {
    let mut disk = DirDisk::new(dir, SyncMethod::None);
    let examined = examined(&mut disk, dir, plan, request)?;
    let course = choose(&examined, request)?;
    let note: String = course
        .done
        .join("; ")
        .chars()
        .take(NOTE_BYTES_MAX / 4)
        .collect();
    fs::create_dir(to).map_err(|source| failed("create", to, source))?;
    let built = match course.base {
        Base::Kept => on_kept(&mut disk, to, &examined, request, &course, &note),
        Base::Applied => behind_applied(&mut disk, to, &examined, request, &course, &note),
    };
    built?;
    remove_spares(to)?;
    let floors = Floors {
        keep_after: u64::MAX,
        ..request.floors
    };
    let read = recover(
        &mut DirDisk::new(to, SyncMethod::None),
        Some(&request.identity),
        Some(floors),
    )?;
    let wrong = read.last_index != course.last || !read.report.findings.is_empty();
    if wrong {
        return Err(Error::Unrepairable {
            why: format!(
                "the repaired log reads back with last index {} instead of {}",
                read.last_index, course.last
            ),
        });
    }
    Ok(Built {
        last_index: read.last_index,
        done: course.done,
        lost: course.lost,
        spent: course.spent,
    })
}

/// What [`build`] would come to, as far as can be said without building: the copy that is to fill a hole is read. Changes nothing.
///
/// # Errors
/// As [`build`].
pub fn foresee(dir: &Path, plan: &Plan, request: &Request) -> Result<Built, Error> {
    let mut disk = DirDisk::new(dir, SyncMethod::None);
    let course = choose(&examined(&mut disk, dir, plan, request)?, request)?;
    Ok(Built {
        last_index: course.last,
        done: course.done,
        lost: course.lost,
        spent: course.spent,
    })
}

/// The log as it is, if the plan is of it and there is something to do.
fn examined(
    disk: &mut DirDisk,
    dir: &Path,
    plan: &Plan,
    request: &Request,
) -> Result<Examined, Error> {
    let examined = examine(disk, &request.identity, request.floors)?;
    if examined.plan != *plan {
        return Err(Error::PlanStale {
            path: dir.to_path_buf(),
        });
    }
    if plan.is_empty() {
        return Err(Error::Unrepairable {
            why: "nothing is wrong with the log".into(),
        });
    }
    Ok(examined)
}

/// What the new log starts with.
enum Base {
    /// The readable front of the old one.
    Kept,
    /// The store's applied index.
    Applied,
}

struct Course {
    base: Base,
    /// Appended behind the base.
    entries: Vec<Entry>,
    /// Last index that the new log must have.
    last: u64,
    done: Vec<String>,
    lost: Option<(u64, Option<u64>)>,
    spent: bool,
}

fn choose(examined: &Examined, request: &Request) -> Result<Course, Error> {
    let (plan, applied) = (&examined.plan, request.floors.applied);
    let kept_last = examined.kept.as_ref().map(|kept| kept.last_index);
    let kept_serves = kept_last.is_some_and(|last| last >= applied);
    let base = if kept_serves {
        Base::Kept
    } else {
        Base::Applied
    };
    let base_last = if kept_serves {
        kept_last.unwrap_or(0)
    } else {
        applied
    };
    let said = |steps: &[Step]| steps.iter().map(Step::to_string).collect();
    match &request.choice {
        // Whatever is consented to: what loses nothing is done like that.
        _ if !plan.needs_a_choice() => {
            let rebased = plan.steps.iter().find_map(|step| match step {
                Step::Rebase { last, .. } => Some(*last),
                _ => None,
            });
            let salvage = examined.salvage.as_ref();
            let entries = salvage.map(|salvage| salvage.rebased_entries().to_vec());
            Ok(Course {
                base: if rebased.is_some() {
                    Base::Applied
                } else {
                    Base::Kept
                },
                entries: entries.filter(|_| rebased.is_some()).unwrap_or_default(),
                last: rebased.or(kept_last).unwrap_or(0),
                done: said(&plan.steps),
                lost: None,
                spent: false,
            })
        }
        Choice::Lossless => Err(Error::NeedsChoice {
            token: plan.token().map(str::to_owned),
        }),
        Choice::Drop(given) => {
            let step = plan.choices.iter().find_map(|choice| match choice {
                Step::DropIndexes { from, to, token } if token == given => Some((*from, *to)),
                _ => None,
            });
            let (from, to) = step.ok_or_else(|| Error::Token {
                given: given.clone(),
                wanted: plan.token().map(str::to_owned),
            })?;
            let alone = (plan.membership.as_ref())
                .is_some_and(|membership| is_alone(membership, &request.identity));
            let range = (from, to);
            Ok(Course {
                base,
                entries: Vec::new(),
                last: base_last,
                done: vec![format!(
                    "gave up entries {}..{} as allowed by {given}",
                    range.0,
                    range.1.map_or_else(String::new, |to| to.to_string())
                )],
                lost: Some(range),
                spent: !alone,
            })
        }
        Choice::FillFrom(from) => {
            let entries = fill(examined, request, from, base_last)?;
            let last = entries.last().map_or(base_last, |entry| entry.index);
            let what = match entries.first() {
                Some(first) => format!(
                    "filled entries {}..{last} from {}",
                    first.index,
                    from.display()
                ),
                None => format!("nothing was missing behind entry {base_last}"),
            };
            Ok(Course {
                base,
                entries,
                last,
                done: vec![what],
                lost: None,
                spent: false,
            })
        }
    }
}

/// Entries behind `base`: from the other copy, and behind its end from our own remains.
fn fill(
    examined: &Examined,
    request: &Request,
    from: &Path,
    base: u64,
) -> Result<Vec<Entry>, Error> {
    let refused = |why: String| Err(Error::Unrepairable { why });
    let salvage = examined.salvage.as_ref();
    let fill = examined
        .plan
        .choices
        .iter()
        .find_map(|choice| match choice {
            Step::Fill { to, .. } => Some(*to),
            _ => None,
        });
    let Some(wanted) = fill else {
        return refused("the plan has nothing to fill".into());
    };
    let Some(wanted) = wanted else {
        return refused(
            "nobody can tell which entries were here, so no copy can be shown to have them all"
                .into(),
        );
    };
    let committed = (examined.kept.as_ref()).map_or(base, |kept| kept.state.committed().min(base));
    let surely = committed.max(request.floors.applied).min(base);
    let floors = Floors {
        keep_after: surely,
        ..Floors::default()
    };
    let theirs = recover_alone(&mut DirDisk::new(from, SyncMethod::None), floors)?;
    let (ours, other) = (request.identity.cluster, theirs.identity().cluster);
    if ours != other {
        return refused(format!(
            "{} is of cluster {other:x}, not {ours:x}",
            from.display()
        ));
    }
    // Two logs with the same term at an index are the same up to there. What no commit covers may have been
    // replaced: then the other copy goes on from further back.
    let our_term = |index: u64| match &examined.kept {
        Some(kept) if kept.last_index >= index => kept.term_of(index),
        _ => Some(request.applied_term),
    };
    let agreed = (surely..=base)
        .rev()
        .find(|index| *index == 0 || theirs.term_of(*index) == our_term(*index));
    let Some(base) = agreed else {
        return refused(format!(
            "{} has no entry {base} of term {}: it does not continue this log",
            from.display(),
            our_term(base).unwrap_or(0)
        ));
    };
    if theirs.first_index > base + 1 {
        return refused(format!(
            "{} begins at entry {}, entry {} is needed",
            from.display(),
            theirs.first_index,
            base + 1
        ));
    }
    let mut merged: BTreeMap<u64, Entry> = theirs
        .entries
        .into_iter()
        .filter(|entry| entry.index > base)
        .map(|entry| (entry.index, entry))
        .collect();
    let found = salvage
        .map(|salvage| salvage.found.clone())
        .unwrap_or_default();
    for (index, own) in found.into_iter().filter(|(index, _)| *index > base) {
        match merged.get(&index) {
            Some(other) if other.term == own.term && *other != own => {
                return refused(format!(
                    "entry {index} of term {} differs in {}",
                    own.term,
                    from.display()
                ));
            }
            Some(other) if other.term < own.term => {
                return refused(format!(
                    "entry {index} has term {} here and {} in {}: that copy is older",
                    own.term,
                    other.term,
                    from.display()
                ));
            }
            Some(_) => {}
            None => {
                merged.insert(index, own);
            }
        }
    }
    let entries: Vec<Entry> = merged
        .into_values()
        .zip(base + 1..)
        .take_while(|(entry, index)| entry.index == *index)
        .map(|(entry, _)| entry)
        .collect();
    let last = entries.last().map_or(base, |entry| entry.index);
    if last < wanted {
        return refused(format!(
            "with {} the log would end at {last}, entries up to {wanted} were here",
            from.display()
        ));
    }
    Ok(entries)
}

/// The readable front of the old log, then a segment of our own.
fn on_kept(
    disk: &mut DirDisk,
    to: &Path,
    examined: &Examined,
    request: &Request,
    course: &Course,
    note: &str,
) -> Result<(), Error> {
    materialize(disk, to, &examined.trims, request.sync)?;
    let floors = Floors {
        keep_after: u64::MAX,
        snapshot: 0,
        ..request.floors
    };
    let mut fresh = DirDisk::new(to, request.sync);
    let recovered = recover(&mut fresh, Some(&request.identity), Some(floors))?;
    let options = options(disk, &recovered, &course.entries, request.sync);
    let hard_state = hard_state(&recovered.hard_state, examined, request, course);
    let mut log =
        Log::resume_repaired(to, &recovered, options, request.seed, note, request.now_ms)?;
    finish(&mut log, &course.entries, hard_state, request.now_ms)
}

/// A new log that starts behind what the store has.
fn behind_applied(
    disk: &mut DirDisk,
    to: &Path,
    examined: &Examined,
    request: &Request,
    course: &Course,
    note: &str,
) -> Result<(), Error> {
    let Some(membership) = examined.plan.membership.clone() else {
        return Err(Error::Unrepairable {
            why: "nothing readable tells who votes; restore this member from a snapshot".into(),
        });
    };
    let applied = request.floors.applied;
    let known = match (&examined.kept, &examined.salvage) {
        (_, Some(salvage)) if salvage.tail_hard_state().is_some() => salvage.tail_hard_state(),
        (Some(kept), _) => Some(kept.hard_state),
        _ => None,
    };
    let hard_state = hard_state(&known.unwrap_or_default(), examined, request, course);
    let mark = SnapshotMark {
        index: applied,
        term: request.applied_term,
        id: [0; 16],
        origin: Origin::Local,
    };
    let start = Start {
        membership: Membership {
            index: membership.index.min(applied),
            ..membership
        },
        hard_state: HardState {
            commit: 0,
            ..hard_state
        },
        snapshot: (applied > 0).then_some(mark),
        note: Some(note.to_owned()),
    };
    let options = options_like(disk, &course.entries, request.sync);
    let mut log = Log::create_from(
        to,
        request.identity,
        options,
        request.seed,
        start,
        request.now_ms,
    )?;
    finish(&mut log, &course.entries, hard_state, request.now_ms)
}

/// The state to vote from. If anything readable tells of a higher term than the hard state, it may have voted
/// there: for whom is not known, so it counts as a vote for itself, which forbids any other.
fn hard_state(
    known: &HardState,
    examined: &Examined,
    request: &Request,
    course: &Course,
) -> HardState {
    let seen = examined.salvage.as_ref().map_or(0, |salvage| salvage.term);
    let entries = course.entries.iter().map(|entry| entry.term).max();
    let term = seen
        .max(known.term)
        .max(entries.unwrap_or(0))
        .max(request.applied_term);
    HardState {
        term,
        vote: if term > known.term {
            request.identity.member
        } else {
            known.vote
        },
        commit: known.commit.max(request.floors.applied).min(course.last),
    }
}

fn finish(
    log: &mut Log,
    entries: &[Entry],
    hard_state: HardState,
    now_ms: u64,
) -> Result<(), Error> {
    for some in entries.chunks(APPEND_ENTRIES) {
        log.append(some, None, false, now_ms)?;
    }
    log.append(&[], Some(hard_state), true, now_ms)?;
    log.close(now_ms)
}

/// Puts what is left of the log into `to`: linked where nothing changes, else written anew.
fn materialize(
    disk: &mut DirDisk,
    to: &Path,
    trims: &Trims,
    sync: SyncMethod,
) -> Result<(), Error> {
    for (file, bytes) in trims.visible(disk)? {
        let (source, target) = (disk.path(Some(file)), to.join(file.to_string()));
        if trims.leaves_alone(file) && fs::hard_link(&source, &target).is_ok() {
            continue;
        }
        rewrite(disk, file, bytes, trims, &target, sync)
            .map_err(|error| failed("write", &target, error))?;
    }
    if sync == SyncMethod::Fdatasync {
        sync_dir(to).map_err(|source| failed("sync", to, source))?;
    }
    Ok(())
}

fn rewrite(
    disk: &mut DirDisk,
    file: FileName,
    bytes: u64,
    trims: &Trims,
    target: &Path,
    sync: SyncMethod,
) -> io::Result<()> {
    let mut out = File::create_new(target)?;
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    let mut trimmed = Trimmed { disk, trims };
    while offset < bytes {
        let left = usize::try_from(bytes - offset).unwrap_or(usize::MAX);
        let step = left.min(buffer.len());
        trimmed.read_at(file, offset, &mut buffer[..step])?;
        if offset == 0 && trims.header_copies.contains(&file.to_string()) {
            mend_header(&mut buffer[..step]);
        }
        out.write_all(&buffer[..step])?;
        offset += step as u64;
    }
    if sync == SyncMethod::Fdatasync {
        out.sync_all()?;
    }
    Ok(())
}

/// Copies the good one of two header copies over the other, as it lies on the disk.
fn mend_header(front: &mut [u8]) {
    let copy_at =
        |front: &[u8], at: usize| -> Option<([u8; SEGMENT_HEADER_BYTES], SegmentHeader)> {
            let copy: [u8; SEGMENT_HEADER_BYTES] =
                front.get(at..at + SEGMENT_HEADER_BYTES)?.try_into().ok()?;
            let header = SegmentHeader::decode(&copy).ok()?;
            Some((copy, header))
        };
    let blocks = (0..).map(|power| crate::BLOCK_BYTES_MIN << power);
    let places = std::iter::once(0).chain(
        blocks
            .take_while(|block| *block <= crate::BLOCK_BYTES_MAX)
            .map(|block| block as usize),
    );
    let good = places.into_iter().find_map(|at| {
        copy_at(front, at).filter(|(_, header)| at == 0 || at == header.block as usize)
    });
    if let Some((copy, header)) = good {
        for at in [0, header.block as usize] {
            if let Some(place) = front.get_mut(at..at + SEGMENT_HEADER_BYTES) {
                place.copy_from_slice(&copy);
            }
        }
    }
}

/// Options for a short segment behind a recovered log: as small as may be, but with room for the entries.
fn options(
    disk: &mut DirDisk,
    recovered: &Recovered,
    entries: &[Entry],
    sync: SyncMethod,
) -> Options {
    let block_bytes = recovered.segments.last().map(|last| last.header.block);
    let like = options_like(disk, entries, sync);
    Options {
        block_bytes: block_bytes.unwrap_or(like.block_bytes),
        segment_bytes: if entries.is_empty() && !like.small_segments {
            SEGMENT_BYTES_MIN
        } else {
            like.segment_bytes
        },
        ..like
    }
}

/// Options as the old log's segments show them.
fn options_like(disk: &mut DirDisk, entries: &[Entry], sync: SyncMethod) -> Options {
    let segments = Trims::default().visible(disk).unwrap_or_default();
    let headers = segments
        .into_iter()
        .filter_map(|(file, bytes)| super::trimmed::header_of(disk, file, bytes));
    let largest = headers
        .map(|header| (header.bytes, header.block))
        .max()
        .unwrap_or((SEGMENT_BYTES, Options::default().block_bytes));
    let payload = entries.iter().map(|entry| entry.payload.len()).max();
    let small = largest.0 < SEGMENT_BYTES_MIN;
    let needed = payload.map_or(0, |bytes| 4 * bytes as u64 + SEGMENT_BYTES_MIN);
    let segment_bytes = match small {
        true => largest.0,
        false => largest.0.max(needed.next_multiple_of(SEGMENT_BYTES_MIN)),
    };
    Options {
        segment_bytes,
        block_bytes: largest.1,
        sync,
        small_segments: small,
        ..Options::default()
    }
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io {
        operation,
        path: path.to_path_buf(),
        offset: 0,
        source,
    }
}
