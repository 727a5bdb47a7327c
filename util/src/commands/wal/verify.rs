//! `kvutil wal verify`: whether every byte of the log is what was written, and if not, how bad that is.

use kvnode_store::datadir::{Presence, Reading, presence};
use kvnode_wal::recover::Floors;
use kvnode_wal::{Class, dir, repair};
use serde::Serialize;

use crate::failure::{Outcome, Result};
use crate::log::LogArgs;
use crate::output::human;
use crate::shell::Shell;
use crate::source::{open_shadow, wal_identity};

/// Check every byte of the log
///
/// Compares with the store's applied index where there is a store. Names the place, the class, the rule and the next
/// command. Exit code 3 if entries are at stake, 4 if `wal repair --apply` mends it without a loss.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Serialize)]
struct Verified {
    schema: &'static str,
    wal_dir: String,
    sound: bool,
    /// W0 to W8.
    class: String,
    segments: usize,
    batches: u64,
    entries: u64,
    bytes: u64,
    /// The store's; absent if there is no store to compare with.
    applied_index: Option<u64>,
    damage: Option<String>,
    /// What should be told but does not stop a start.
    findings: Vec<String>,
    /// What a repair would do without losing anything.
    steps: Vec<String>,
    /// Ways out of a damage that costs something.
    choices: Vec<String>,
    next: Option<String>,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let wal = args.log.wal()?;
    let mut applied_index = None;
    let mut identity = None;
    // Held while the log is read, so that nobody starts on it meanwhile.
    let mut _reading = None;
    if presence(&args.log.data_dir)? == Presence::Present {
        let reading = Reading::open(&args.log.data_dir, args.log.wal_dir.as_deref())?;
        identity = Some(wal_identity(reading.identity()));
        let scratch = shell.scratch()?;
        match open_shadow(&reading, &scratch, kvnode_store::Config::default(), 0) {
            Ok(store) => applied_index = Some(store.applied().0),
            Err(_) => shell.note("the store cannot be read: the log is checked by itself"),
        }
        _reading = Some(reading);
    }
    let floors = Floors {
        applied: applied_index.unwrap_or(0),
        ..Floors::default()
    };
    let report = dir::verify(&wal);
    let (plan, identity_known) = match identity {
        Some(identity) => (Some(repair::plan(&wal, &identity, floors)?), true),
        None => (None, false),
    };
    if !identity_known {
        // Nobody to compare with: the first damage is the answer.
        if let Err(error) = &report
            && error.damage().is_none()
        {
            return Err(report
                .err()
                .map_or_else(|| unreachable!("an error"), Into::into));
        }
    }
    let damage = match (&plan, &report) {
        (Some(plan), _) => plan.damage.clone(),
        (None, Err(error)) => error.damage().cloned(),
        (None, Ok(_)) => None,
    };
    let found = match (&plan, &report) {
        (Some(plan), _) => plan.findings.clone(),
        (None, Ok(report)) => report.findings.clone(),
        (None, Err(_)) => Vec::new(),
    };
    let report = report.unwrap_or_default();
    let class = match &plan {
        Some(plan) => plan.class(),
        None => damage.as_ref().map_or(Class::W0, |damage| damage.class),
    };
    let said = |steps: &[repair::Step]| steps.iter().map(ToString::to_string).collect::<Vec<_>>();
    let repairable = plan
        .as_ref()
        .is_some_and(|plan| !plan.is_empty() && !plan.needs_a_choice());
    let sound = damage.is_none() && plan.as_ref().is_none_or(repair::Plan::is_empty);
    let data = args.log.data_dir.display();
    let verified = Verified {
        schema: "kvutil.wal.verify.2",
        wal_dir: wal.display().to_string(),
        sound,
        class: format!("{class:?}"),
        segments: report.segments.len(),
        batches: report.batches,
        entries: report.entries,
        bytes: report.bytes,
        applied_index,
        damage: damage.as_ref().map(ToString::to_string),
        findings: found
            .iter()
            .map(|finding| {
                format!(
                    "{} at offset {}: {}",
                    finding.file, finding.offset, finding.text
                )
            })
            .collect(),
        steps: plan
            .as_ref()
            .map(|plan| said(&plan.steps))
            .unwrap_or_default(),
        choices: plan
            .as_ref()
            .map(|plan| said(&plan.choices))
            .unwrap_or_default(),
        next: match (sound, repairable) {
            (true, _) => None,
            (false, true) => Some(format!("kvutil wal repair --data-dir {data} --apply")),
            (false, false) => Some(format!("kvutil wal repair --data-dir {data}")),
        },
    };
    shell.output.print(&verified, |verified| {
        let mut text = match &verified.damage {
            None if verified.sound => format!(
                "{}: sound, {} entries in {} batches, {} in {} segments",
                verified.wal_dir,
                verified.entries,
                verified.batches,
                human(verified.bytes),
                verified.segments
            ),
            None => format!("{}: opens, class {}", verified.wal_dir, verified.class),
            Some(damage) => format!("{}: class {}\n  {damage}", verified.wal_dir, verified.class),
        };
        for finding in &verified.findings {
            text.push_str(&format!("\n  note: {finding}"));
        }
        for step in &verified.steps {
            text.push_str(&format!("\n  repairable without loss: {step}"));
        }
        for choice in &verified.choices {
            text.push_str(&format!("\n  way out: {choice}"));
        }
        text
    });
    if let Some(next) = &verified.next {
        eprintln!("next:  {next}");
    }
    Ok(match (sound, repairable) {
        (true, _) => Outcome::Fine,
        (false, true) => Outcome::Repairable,
        (false, false) => Outcome::Damage,
    })
}
