//! `kvutil data resync`: a running member whose state is wrong takes the leader's. The node does it; this asks for it through the
//! socket in its data directory, and waits.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::failure::{Code, Failure, Outcome, Result};
use crate::live;
use crate::shell::Shell;

const LOOK: Duration = Duration::from_millis(200);

/// Give a running member whose state differs from the others' the leader's state; without --apply only tell
///
/// For a member that a CORRUPT alarm names: it keeps its identity and its log, and goes on voting meanwhile. The leader's state
/// is received, checked byte for byte and brought up to this member's own index by the log, then it takes over; the state before
/// is kept in quarantine/ of the data directory for examination. Then it is compared with the other members' again. The member
/// serves once the alarm is taken off, which is yours to do: kvctl alarm disarm. Refused on the leader. Example: kvutil data resync
/// --live --data-dir /var/lib/kvnode/default --apply. Exit codes: 0 re-synced, and the same as a majority; 1 failed, or nobody to
/// compare with; 3 re-synced, and different all the same; 7 refused.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The data directory of the running node
    #[arg(long)]
    data_dir: PathBuf,
    /// Ask the running node, through the socket in its data directory: there is no other way
    #[arg(long, required = true)]
    live: bool,
    /// Do it
    #[arg(long)]
    apply: bool,
    /// Also if no alarm says that anything is wrong with this member
    #[arg(long)]
    unfenced: bool,
}

#[derive(Serialize)]
struct Resynced {
    schema: &'static str,
    data_dir: String,
    applied: bool,
    member: String,
    role: String,
    fenced: bool,
    leader: Option<String>,
    /// Index of the state that came.
    index: Option<u64>,
    /// Where the state before is kept; before it is done, below which directory it will be.
    kept: String,
    /// `same`, `differs` or `unverified`.
    verdict: Option<String>,
    revision: Option<i64>,
    agreeing: Option<u64>,
    members: Option<u64>,
    unverified: Vec<String>,
    took_seconds: Option<f64>,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let dir = &args.data_dir;
    let path = if args.unfenced {
        "/admin/resync?unfenced"
    } else {
        "/admin/resync"
    };
    let (_, plan) = answered(dir, live::json(dir, "GET", path)?)?;
    if plan["refused"].is_object() {
        return Err(refused(&plan["refused"], dir));
    }
    if !args.apply {
        let more = if args.unfenced { " --unfenced" } else { "" };
        shell.output.print(&told(args, &plan, None), text);
        eprintln!(
            "next:  kvutil data resync --live --data-dir {} --apply{more}",
            dir.display()
        );
        return Ok(Outcome::Fine);
    }
    let begun = Instant::now();
    answered(dir, live::json(dir, "POST", path)?)?;
    let mut phase = String::new();
    let done = loop {
        let (_, now) = answered(dir, live::json(dir, "GET", path)?)?;
        let last = &now["last"];
        match word(&last["phase"]).as_str() {
            "done" => break now,
            "failed" => {
                let why = format!("the state was not replaced: {}", word(&last["why"]));
                let next = format!(
                    "kvutil data resync --live --data-dir {} --apply",
                    dir.display()
                );
                return Err(Failure::new(Code::Failed, why, next)
                    .hint("the member has the state it had; once the cause is gone, try again"));
            }
            step if step != phase => {
                shell.note(&step.replace('_', " "));
                step.clone_into(&mut phase);
            }
            _ => {}
        }
        std::thread::sleep(LOOK);
    };
    let resynced = told(args, &done, Some(begun.elapsed()));
    shell.output.print(&resynced, text);
    match resynced.verdict.as_deref() {
        Some("same") => {
            if resynced.fenced {
                eprintln!("next:  kvctl alarm disarm");
            }
            Ok(Outcome::Fine)
        }
        Some("differs") => {
            eprintln!("next:  kvctl endpoint hashkv --cluster");
            Ok(Outcome::Damage)
        }
        _ => Err(Failure::new(
            Code::Failed,
            "re-synced, but unverified: no majority could be compared with",
            "kvctl endpoint hashkv --cluster",
        )
        .hint("take the alarm off only when the hashes are equal")),
    }
}

/// Answers other than 200 and 202 are refusals.
fn answered(dir: &Path, (status, value): (u16, Value)) -> Result<(u16, Value)> {
    match status {
        200 | 202 => Ok((status, value)),
        404 => Err(Failure::new(
            Code::Version,
            "the node that runs there cannot re-sync: it is of an older version",
            "kvutil version",
        )),
        _ => Err(refused(&value, dir)),
    }
}

fn refused(refusal: &Value, dir: &Path) -> Failure {
    let next = match &refusal["next"] {
        Value::String(next) => next.clone(),
        _ => format!("kvutil data resync --live --data-dir {}", dir.display()),
    };
    Failure::new(Code::Refused, word(&refusal["error"]), next)
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn told(args: &Args, value: &Value, took: Option<Duration>) -> Resynced {
    let last = took.map_or(&Value::Null, |_| &value["last"]);
    let comparison = &last["comparison"];
    let some = |value: &Value| value.as_str().map(str::to_owned);
    let unverified = comparison["unverified"].as_array();
    let leader = some(&last["from"]).or_else(|| some(&value["leader"]));
    Resynced {
        schema: "kvutil.data.resync.1",
        data_dir: args.data_dir.display().to_string(),
        applied: took.is_some(),
        member: word(&value["member"]["id"]),
        role: word(&value["member"]["role"]),
        fenced: value["member"]["fenced"] == true,
        leader,
        index: last["index"].as_u64(),
        kept: some(&last["kept"]).unwrap_or_else(|| word(&value["keeps_in"])),
        verdict: took.map(|_| some(&comparison["verdict"]).unwrap_or_else(|| "unverified".into())),
        revision: comparison["revision"].as_i64(),
        agreeing: comparison["agreeing"].as_u64(),
        members: comparison["members"].as_u64(),
        unverified: unverified.into_iter().flatten().map(word).collect(),
        took_seconds: took.map(|took| took.as_secs_f64()),
    }
}

fn text(resynced: &Resynced) -> String {
    let leader = resynced.leader.as_deref().unwrap_or("?");
    let fenced = match resynced.fenced {
        true => "fenced by a CORRUPT alarm: it shows nobody what it holds",
        false => "not fenced",
    };
    let member = format!(
        "member     {}, {}, {fenced}",
        resynced.member, resynced.role
    );
    let Some(took) = resynced.took_seconds else {
        return format!(
            "{member}\nstate      would be replaced by that of the leader, {leader}\nkept       the state before, in {}\nnothing was changed",
            resynced.kept
        );
    };
    let number = |number: Option<u64>| number.map_or("?".to_owned(), |number| number.to_string());
    let compared = match resynced.verdict.as_deref() {
        Some("unverified") | None => format!(
            "unverified: members {} could not be compared",
            resynced.unverified.join(", ")
        ),
        Some(verdict) => format!(
            "{} at revision {}: {} of {} members have this state",
            if verdict == "same" {
                "the same"
            } else {
                "different"
            },
            resynced.revision.unwrap_or(0),
            number(resynced.agreeing),
            number(resynced.members)
        ),
    };
    format!(
        "{member}\nstate      replaced by that of {leader} as of index {}, took {took:.1}s\nkept       {}\ncompared   {compared}",
        number(resynced.index),
        resynced.kept
    )
}
