//! `kvutil data check`: whether a data directory is whole, at four depths.

use std::path::PathBuf;

use clap::ValueEnum;
use kvnode_store::check;
use kvnode_store::datadir::Reading;
use kvnode_store::engine::doctor::{self, Ending};
use kvnode_wal::recover::Floors;
use kvnode_wal::repair;
use serde::Serialize;

use super::DataArgs;
use crate::failure::{Outcome, Result};
use crate::output::show;
use crate::replay;
use crate::shell::Shell;
use crate::source::{SourceArgs, open_shadow, wal_identity};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Level {
    /// Identity, names, sizes: milliseconds
    Quick,
    /// Every byte once: log, journals, tables
    Checksums,
    /// The records agree with each other
    Structure,
    /// The store is what its log makes: rebuilt in a scratch place and compared
    Replay,
}

/// Check a data directory
///
/// Levels contain the ones before them. `replay` rebuilds the store from the oldest usable state (an empty store if
/// the log has its first entry, else --base) and compares every record. Exit code 3 if anything is wrong, 4 if `wal
/// repair --apply` mends it without a loss. Example: kvutil data check --data-dir /var/lib/kvnode --level replay
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    #[arg(long, value_enum, default_value_t = Level::Structure)]
    level: Level,
    /// A snapshot to replay from, where the log does not have its first entry any more
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,
    /// Problems printed at most
    #[arg(long, default_value_t = 50)]
    problems: usize,
    /// Shortest lease the node grants, in seconds
    #[arg(long, default_value_t = 2, value_name = "SECONDS")]
    lease_ttl_min: i64,
}

#[derive(Serialize)]
struct Checked {
    schema: &'static str,
    data_dir: String,
    level: String,
    sound: bool,
    checks: Vec<Check>,
    problems: Vec<String>,
    next: Option<String>,
}

#[derive(Serialize)]
struct Check {
    check: &'static str,
    /// `ok`, `problems`, or `skipped`.
    result: &'static str,
    detail: String,
}

struct Report {
    checks: Vec<Check>,
    problems: Vec<String>,
    most: usize,
}

impl Report {
    fn note(&mut self, check: &'static str, before: usize, detail: String) {
        let result = if self.problems.len() > before {
            "problems"
        } else {
            "ok"
        };
        self.checks.push(Check {
            check,
            result,
            detail,
        });
    }

    fn skip(&mut self, check: &'static str, detail: String) {
        self.checks.push(Check {
            check,
            result: "skipped",
            detail,
        });
    }

    fn problem(&mut self, text: String) {
        if self.problems.len() < self.most {
            self.problems.push(text);
        }
    }
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let shown = args.data.data_dir.display().to_string();
    let reading = Reading::open(&args.data.data_dir, args.data.wal_dir.as_deref())?;
    let mut report = Report {
        checks: Vec::new(),
        problems: Vec::new(),
        most: args.problems.max(1),
    };
    let mut repairable = None;
    for note in reading.notes() {
        report.problem(note.to_string());
    }
    report.note(
        "identity",
        0,
        format!(
            "member {:x} of cluster {:x}",
            reading.identity().member_id,
            reading.identity().cluster_id
        ),
    );
    let live = reading.live()?;
    let before = report.problems.len();
    if !live.path.exists() {
        report.problem(format!("{} is missing", live.path.display()));
    }
    report.note(
        "names",
        before,
        format!(
            "store {}, log {}",
            live.path.display(),
            reading.wal().display()
        ),
    );
    if args.level >= Level::Checksums {
        repairable = deep(args, shell, &reading, &mut report)?;
    }
    let sound = report.problems.is_empty();
    let only_log = repairable == Some(true)
        && report
            .checks
            .iter()
            .all(|check| check.result != "problems" || check.check == "log");
    let next = match (sound, repairable) {
        (true, _) => None,
        (false, Some(true)) if only_log => {
            Some(format!("kvutil wal repair --data-dir {shown} --apply"))
        }
        (false, Some(_)) => Some(format!("kvutil wal repair --data-dir {shown}")),
        (false, None) => Some(format!("kvutil data undo --list --data-dir {shown}")),
    };
    let checked = Checked {
        schema: "kvutil.data.check.1",
        data_dir: shown,
        level: format!("{:?}", args.level).to_lowercase(),
        sound,
        checks: report.checks,
        problems: report.problems,
        next,
    };
    shell.output.print(&checked, |checked| {
        let mut lines: Vec<String> = checked
            .checks
            .iter()
            .map(|check| format!("{:<10} {:<9} {}", check.check, check.result, check.detail))
            .collect();
        lines.extend(
            checked
                .problems
                .iter()
                .map(|problem| format!("problem:   {problem}")),
        );
        lines.push(format!(
            "{}: {}",
            checked.data_dir,
            if checked.sound { "sound" } else { "NOT sound" }
        ));
        lines.join("\n")
    });
    if let Some(next) = &checked.next {
        eprintln!("next:  {next}");
    }
    Ok(match (sound, only_log) {
        (true, _) => Outcome::Fine,
        (false, true) => Outcome::Repairable,
        (false, false) => Outcome::Damage,
    })
}

/// The levels that read. Answers whether the log has something to repair, and if so whether without loss.
fn deep(
    args: &Args,
    shell: &Shell,
    reading: &Reading,
    report: &mut Report,
) -> Result<Option<bool>> {
    let live = reading.live()?.path;
    let mut before = report.problems.len();
    let examined = if live.exists() {
        Some(doctor::examine(&live))
    } else {
        None
    };
    match examined {
        Some(Ok(examined)) => {
            let batches: u64 = examined
                .journals
                .iter()
                .map(|journal| journal.batches)
                .sum();
            for journal in &examined.journals {
                if let Ending::Torn { reason, .. } = &journal.ending {
                    report.problem(format!(
                        "{} at {}: {reason}",
                        journal.path.display(),
                        journal.good_to
                    ));
                }
            }
            report.note(
                "journals",
                before,
                format!("{} files, {batches} batches", examined.journals.len()),
            );
        }
        Some(Err(error)) => {
            report.problem(error.to_string());
            report.note("journals", before, String::new());
        }
        None => report.skip("journals", "no store".into()),
    }
    let scratch = shell.scratch()?;
    let config = kvnode_store::Config {
        lease_ttl_min_seconds: args.lease_ttl_min,
        ..kvnode_store::Config::default()
    };
    before = report.problems.len();
    let mut store = match open_shadow(reading, &scratch, config.clone(), 1) {
        Ok(store) => Some(store),
        Err(failure) => {
            report.problem(failure.what().to_owned());
            None
        }
    };
    let mut applied = 0;
    if let Some(store) = &store {
        applied = store.applied().0;
        let view = store.view();
        let stats = view.stats();
        let mut progress = shell
            .progress
            .bytes("tables", stats.live_bytes + stats.history_bytes);
        let mut records = view.export();
        for record in &mut records {
            match record {
                Ok(record) => progress.add((record.key.len() + record.value.len()) as u64),
                Err(error) => report.problem(error.to_string()),
            }
        }
        let totals = *records.totals();
        report.note(
            "tables",
            before,
            format!("{} records, hash {:032x}", totals.records(), totals.hash()),
        );
    } else {
        report.note("tables", before, String::new());
    }
    before = report.problems.len();
    let floors = Floors {
        applied,
        ..Floors::default()
    };
    let identity = wal_identity(reading.identity());
    let plan = repair::plan(&reading.wal(), &identity, floors)?;
    if let Some(damage) = &plan.damage {
        report.problem(damage.to_string());
    }
    for finding in &plan.findings {
        report.problem(format!(
            "{} at {}: {}",
            finding.file, finding.offset, finding.text
        ));
    }
    let repairable = (!plan.is_empty()).then(|| !plan.needs_a_choice());
    report.note(
        "log",
        before,
        format!("class {:?}, applied {applied}", plan.class()),
    );
    let (Some(store), true) = (&mut store, args.level >= Level::Structure) else {
        return Ok(repairable);
    };
    before = report.problems.len();
    let mut progress = shell.progress.count("structure", 0);
    let mut problems = Vec::new();
    let most = report.most;
    let seen = check::structure(
        store.view().reader(),
        |problem| {
            if problems.len() < most {
                problems.push(problem);
            }
        },
        || progress.add(1),
    )?;
    drop(progress);
    problems
        .into_iter()
        .for_each(|problem| report.problem(problem));
    report.note(
        "structure",
        before,
        format!(
            "{} keys, {} changes, {} leases, {} attachments",
            seen.keys, seen.changes, seen.leases, seen.attachments
        ),
    );
    if args.level < Level::Replay {
        return Ok(repairable);
    }
    if plan.damage.is_some() {
        report.skip("replay", "the log does not open".into());
        return Ok(repairable);
    }
    before = report.problems.len();
    let wal = reading.wal();
    let outline = replay::outline(&wal, Some(&identity), applied)?;
    let source;
    let mut rebuilt = match &args.base {
        Some(base) => {
            let base = SourceArgs {
                source: Some(base.clone()),
                data_dir: None,
                wal_dir: None,
                no_log: true,
                lease_ttl_min: args.lease_ttl_min,
            };
            source = base.open(shell)?;
            let from = source.store.applied().0;
            if from + 1 < outline.first_index || from > applied {
                report.problem(format!(
                    "the base is at entry {from}, the log has {}..{}, the store {applied}",
                    outline.first_index, outline.last_index
                ));
            }
            source.into_parts()
        }
        None if replay::is_complete(&outline) => (replay::empty(&scratch, config)?, None),
        None => return Err(replay::incomplete(&outline, &wal)),
    };
    let from = rebuilt.0.applied().0;
    let mut progress = shell
        .progress
        .count("replaying", applied.saturating_sub(from));
    if report.problems.len() == before {
        replay::run(
            &mut rebuilt.0,
            &wal,
            &outline,
            applied,
            false,
            |_, count, _| {
                progress.add(count);
                true
            },
        )?;
        drop(progress);
        while store.compact_some()? {}
        while rebuilt.0.compact_some()? {}
        let mut progress = shell.progress.count("comparing", 0);
        let (ours, theirs) = (store.view(), rebuilt.0.view());
        let differences = check::compare(ours.reader(), theirs.reader(), most, || progress.add(1))?;
        for (space, key, what) in differences {
            report.problem(format!(
                "store and log part at {space} record {}: {what}",
                show(&key)
            ));
        }
        let hash = ours.hash_kv(0)?.hash;
        let other = theirs.hash_kv(0)?.hash;
        report.note(
            "replay",
            before,
            format!(
                "from entry {from}: {} entries; hash {hash} = {other}; store and log at index {applied}, revision {}",
                applied.saturating_sub(from),
                ours.revision()
            ),
        );
    } else {
        report.note("replay", before, String::new());
    }
    Ok(repairable)
}
