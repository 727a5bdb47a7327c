//! `kvutil data undo`: takes back what the last repair, defrag or compact replaced.

use kvnode_store::datadir::replace::{self, Kept, State};
use kvnode_store::datadir::{Lock, SPENT_FILE};
use serde::Serialize;

use super::DataArgs;
use crate::failure::{Code, Failure, Outcome, Result};
use crate::output::human;
use crate::shell::{Shell, program};

/// Put back what the last repair, defrag or compact replaced, byte for byte
///
/// Refused if the node has run since: then what it wrote would be lost. Example: kvutil data undo --data-dir
/// /var/lib/kvnode. With --list only says what could be taken back.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Only list what is kept
    #[arg(long)]
    list: bool,
    /// Give up what was written since; the refusal prints the token
    #[arg(long, value_name = "TOKEN")]
    force: Option<String>,
}

#[derive(Serialize)]
pub struct Row {
    pub id: String,
    pub operation: String,
    pub state: &'static str,
    pub bytes: u64,
    pub note: String,
}

#[derive(Serialize)]
struct Undone {
    schema: &'static str,
    data_dir: String,
    undone: Vec<String>,
    kept: Vec<Row>,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let parents = args.data.parents()?;
    let shown = args.data.data_dir.display();
    let mut all = Vec::new();
    let mut undone = Vec::new();
    let mut locks = Vec::new();
    let mut settled = false;
    if !args.list {
        for parent in &parents {
            locks.push(Lock::exclusive(parent, &program())?);
            for line in replace::settle(parent, &args.data.data_dir)? {
                shell.note(&line);
                settled = true;
            }
        }
    }
    for parent in &parents {
        all.extend(replace::list(parent)?);
    }
    all.sort_by(|a, b| a.id.cmp(&b.id));
    let newest = all.iter().rev().find(|kept| kept.state == State::Done);
    if newest.is_none() && !args.list && !settled {
        return Err(Failure::new(
            Code::Failed,
            format!("{shown}: nothing to take back"),
            format!("kvutil data undo --list --data-dir {shown}"),
        ));
    }
    if let Some(newest) = newest.filter(|_| !args.list) {
        // One command may have replaced several trees; what came last goes first.
        let command = |kept: &Kept| {
            (
                kept.created_ms,
                kept.operation.split('.').next().map(str::to_owned),
            )
        };
        let group: Vec<&Kept> = all
            .iter()
            .rev()
            .filter(|kept| kept.state == State::Done && command(kept) == command(newest))
            .collect();
        for kept in &group {
            let token = format!("drop-changes-since:{}", kept.id);
            let consented = args.force.as_deref() == Some(token.as_str());
            if !consented && !replace::is_untouched(kept)? {
                return Err(Failure::new(
                    Code::Refused,
                    format!(
                        "{} changed since {}: taking it back would lose that",
                        kept.live.display(),
                        kept.id
                    ),
                    format!("kvutil data undo --data-dir {shown} --force={token}"),
                )
                .hint("a node has run on it; the token gives up what it wrote"));
            }
        }
        for kept in group {
            replace::undo(kept)?;
            let spent = args.data.data_dir.join(SPENT_FILE);
            if std::fs::read_to_string(&spent).is_ok_and(|text| text.contains(&kept.id)) {
                std::fs::remove_file(&spent).map_err(|e| Failure::io("remove", &spent, &e))?;
            }
            undone.push(kept.id.clone());
        }
        all.clear();
        for parent in &parents {
            all.extend(replace::list(parent)?);
        }
    }
    let result = Undone {
        schema: "kvutil.data.undo.1",
        data_dir: shown.to_string(),
        undone,
        kept: rows(&all),
    };
    shell.output.print(&result, |result| {
        let mut lines: Vec<String> = result
            .undone
            .iter()
            .map(|id| format!("taken back: {id}"))
            .collect();
        if result.undone.is_empty() {
            lines.extend(result.kept.iter().map(line));
        }
        if lines.is_empty() {
            lines.push(format!("{}: nothing is kept", result.data_dir));
        }
        lines.join("\n")
    });
    drop(locks);
    Ok(Outcome::Fine)
}

pub fn rows(all: &[Kept]) -> Vec<Row> {
    let row = |kept: &Kept| Row {
        id: kept.id.clone(),
        operation: kept.operation.clone(),
        state: match kept.state {
            State::Unfinished => "unfinished",
            State::Done => "done",
            State::Undone => "undone",
            State::Aside => "aside",
        },
        bytes: kept.bytes,
        note: kept.note.clone(),
    };
    all.iter().map(row).collect()
}

pub fn line(row: &Row) -> String {
    format!(
        "{}  {:<10} {:>10}  {}",
        row.id,
        row.state,
        human(row.bytes),
        row.note
    )
}
