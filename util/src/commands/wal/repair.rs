//! `kvutil wal repair`: shows what would be done, also of a choice that is named; with `--apply` builds the mended log beside, verifies it, exchanges
//! the two, and keeps the old one in the quarantine.

use std::path::PathBuf;

use kvnode_store::datadir::replace;
use kvnode_wal::recover::Floors;
use kvnode_wal::repair::{self, Choice, Request};
use kvnode_wal::{SyncMethod, dir};
use serde::Serialize;

use crate::failure::{Code, Failure, Outcome, Result};
use crate::log::LogArgs;
use crate::process;
use crate::shell::Shell;
use crate::source::{shadow_store, wal_identity};
use crate::swap::Swap;

/// Mend a damaged log; without --apply only tell how
///
/// What is taken out goes to quarantine/ in the data directory, and `kvutil data undo` puts it back. Entries that may
/// have been acknowledged are given up only with the token that the plan prints. A choice, --from-data-dir or --force, without
/// --apply is looked at and changes nothing either. Example: kvutil wal repair --data-dir /var/lib/kvnode --apply. Exit codes: 0
/// done or nothing to do, 3 a plan that needs a choice or loses entries, 4 a plan that loses nothing, 7 refused.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    log: LogArgs,
    /// Carry the plan out
    #[arg(long)]
    apply: bool,
    /// With --apply: give up what this token names; the plan prints it
    #[arg(long, value_name = "TOKEN")]
    force: Option<String>,
    /// With --apply: fill missing entries from the log of another member's data directory, or of an older copy
    #[arg(long, value_name = "DIR", conflicts_with = "force")]
    from_data_dir: Option<PathBuf>,
}

#[derive(Serialize)]
struct Repaired {
    schema: &'static str,
    wal_dir: String,
    class: String,
    damage: Option<String>,
    steps: Vec<String>,
    choices: Vec<String>,
    /// What `--force=` must be given, if a choice costs entries.
    token: Option<String>,
    applied: bool,
    /// What a choice would come to that was named without `--apply`.
    would: Vec<String>,
    done: Vec<String>,
    last_index: Option<u64>,
    /// Under quarantine/.
    quarantine: Option<String>,
    identity_spent: bool,
    next: Option<String>,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let data_dir = &args.log.data_dir;
    let shown = data_dir.display();
    let acts = args.apply;
    // Planning needs no more than to know that nobody writes; carrying out keeps everybody away.
    let (identity, wal, live, _keep): (_, _, _, Box<dyn std::any::Any>) = if acts {
        let data = shell.open_to_write(data_dir, args.log.wal_dir.as_deref())?;
        let live = data.engines().live()?.path;
        (*data.identity(), data.wal(), live, Box::new(data))
    } else {
        let reading = kvnode_store::datadir::Reading::open(data_dir, args.log.wal_dir.as_deref())?;
        let live = reading.live()?.path;
        (*reading.identity(), reading.wal(), live, Box::new(reading))
    };
    let (applied, applied_term) = {
        let scratch = shell.scratch()?;
        match shadow_store(
            &live,
            data_dir,
            &scratch,
            kvnode_store::Config::default(),
            0,
        ) {
            Ok(store) => store.applied(),
            Err(_) => {
                shell.note("the store cannot be read: nothing counts as applied");
                (0, 0)
            }
        }
    };
    let identity = wal_identity(&identity);
    let floors = Floors {
        applied,
        ..Floors::default()
    };
    let plan = repair::plan(&wal, &identity, floors)?;
    let said = |steps: &[repair::Step]| steps.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut repaired = Repaired {
        schema: "kvutil.wal.repair.1",
        wal_dir: wal.display().to_string(),
        class: format!("{:?}", plan.class()),
        damage: plan.damage.as_ref().map(ToString::to_string),
        steps: said(&plan.steps),
        choices: said(&plan.choices),
        token: plan.token().map(str::to_owned),
        applied: false,
        would: Vec::new(),
        done: Vec::new(),
        last_index: None,
        quarantine: None,
        identity_spent: false,
        next: None,
    };
    let mut outcome = Outcome::Fine;
    if !plan.is_empty() && !acts {
        let lossless = !plan.needs_a_choice();
        outcome = if lossless {
            Outcome::Repairable
        } else {
            Outcome::Damage
        };
        repaired.next = Some(match &repaired.token {
            Some(token) if !lossless => {
                format!(
                    "kvutil wal repair --data-dir {shown} --from-data-dir COPY, or at the price named: --force={token}"
                )
            }
            _ if !lossless => format!("etcdctl member remove {:x}", identity.member),
            _ => format!("kvutil wal repair --data-dir {shown} --apply"),
        });
    }
    let request = Request {
        identity,
        floors,
        applied_term,
        choice: match (&args.force, &args.from_data_dir) {
            (Some(token), _) => Choice::Drop(token.clone()),
            (None, Some(from)) => {
                let inside = from.join("wal");
                Choice::FillFrom(if inside.is_dir() {
                    inside
                } else {
                    from.clone()
                })
            }
            (None, None) => Choice::Lossless,
        },
        now_ms: process::now_ms(),
        seed: process::random(),
        sync: SyncMethod::Fdatasync,
    };
    let refused = |error: kvnode_wal::Error| {
        let next = match &error {
            kvnode_wal::Error::NeedsChoice { token: Some(token) } => {
                format!("kvutil wal repair --data-dir {shown} --force={token}")
            }
            _ => format!("kvutil wal repair --data-dir {shown}"),
        };
        let text = error.to_string();
        match error {
            kvnode_wal::Error::NeedsChoice { .. }
            | kvnode_wal::Error::Token { .. }
            | kvnode_wal::Error::Unrepairable { .. }
            | kvnode_wal::Error::PlanStale { .. } => Failure::new(Code::Refused, text, next),
            other => Failure::from(other),
        }
    };
    let chosen = !matches!(request.choice, Choice::Lossless);
    if !plan.is_empty() && !acts && chosen {
        let foreseen = repair::foresee(&wal, &plan, &request).map_err(refused)?;
        outcome = match foreseen.lost {
            None => Outcome::Repairable,
            Some(_) => Outcome::Damage,
        };
        repaired.would = foreseen.done;
        repaired.last_index = Some(foreseen.last_index);
        repaired.identity_spent = foreseen.spent;
        let choice = match (&args.force, &args.from_data_dir) {
            (Some(token), _) => format!(" --force={token}"),
            (None, Some(from)) => format!(" --from-data-dir {}", from.display()),
            (None, None) => String::new(),
        };
        repaired.next = Some(format!(
            "kvutil wal repair --data-dir {shown}{choice} --apply"
        ));
    }
    if !plan.is_empty() && acts {
        let parent = wal.parent().unwrap_or(&wal).to_path_buf();
        let used = dir_bytes(&wal);
        shell.need_space(&parent, used, &format!("df -h {}", parent.display()))?;
        let mut swap = Swap::begin(&parent, "wal-repair", process::now_ms())?;
        let built = repair::build(&wal, &swap.tree("wal"), &plan, &request).map_err(refused)?;
        if built.spent {
            // Before the exchange: a crash in between leaves a member that refuses, not one that lies.
            // Interrupted there, it is known by its replacement that nothing was exchanged, and it is void.
            let why = format!("a repair gave up entries ({})", built.done.join("; "));
            swap.mark_spent(data_dir, &why)?;
            repaired.identity_spent = true;
        }
        let kept = swap.commit("wal", &wal, &built.done.join("; "))?;
        repaired.applied = true;
        repaired.done = built.done;
        repaired.last_index = Some(built.last_index);
        repaired.quarantine = Some(format!("quarantine/{}", kept.id));
        repaired.next = Some(format!("kvutil data undo --data-dir {shown}"));
        dir::verify(&wal)?;
        debug_assert!(replace::is_untouched(&kept).unwrap_or(true));
    }
    shell.output.print(&repaired, text);
    if let Some(next) = &repaired.next {
        let word = if repaired.applied {
            "undo:  "
        } else {
            "next:  "
        };
        eprintln!("{word}{next}");
    }
    Ok(outcome)
}

fn text(repaired: &Repaired) -> String {
    let mut text = match &repaired.damage {
        Some(damage) => format!("{}: class {}\n  {damage}", repaired.wal_dir, repaired.class),
        None if repaired.steps.is_empty() => format!("{}: sound, nothing to do", repaired.wal_dir),
        None => format!("{}: class {}", repaired.wal_dir, repaired.class),
    };
    if repaired.applied {
        for line in &repaired.done {
            text.push_str(&format!("\n  done:     {line}"));
        }
        text.push_str(&format!(
            "\n  old log:  {}\n  result:   {} is the last entry",
            repaired.quarantine.as_deref().unwrap_or_default(),
            repaired.last_index.unwrap_or(0)
        ));
        if repaired.identity_spent {
            text.push_str("\n  this member must leave the cluster and join it again as a new one");
        }
        return text;
    }
    for step in &repaired.steps {
        text.push_str(&format!("\n  step:     {step}"));
    }
    for (number, choice) in repaired.choices.iter().enumerate() {
        text.push_str(&format!("\n  choice {}: {choice}", number + 1));
    }
    for line in &repaired.would {
        text.push_str(&format!("\n  would be: {line}"));
    }
    if let Some(last) = repaired.last_index {
        text.push_str(&format!("\n  result:   {last} would be the last entry"));
    }
    if repaired.identity_spent {
        text.push_str(
            "\n  this member would have to leave the cluster and join it again as a new one",
        );
    }
    text.push_str(
        if repaired.steps.is_empty() && repaired.choices.is_empty() {
            ""
        } else {
            "\n  nothing was changed"
        },
    );
    text
}

fn dir_bytes(path: &std::path::Path) -> u64 {
    replace::tree_bytes(path).0
}
