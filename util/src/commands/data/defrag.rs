//! `kvutil data defrag`: the store written anew, beside, verified, swapped by one exchange of names.

use std::ops::ControlFlow;
use std::path::Path;

use kvnode_store::datadir::replace;
use kvnode_store::engine::fjall::{FjallEngine, Options};
use kvnode_store::engine::{Engine as _, Space};
use kvnode_store::export::Totals;
use kvnode_store::import::{ImportError, view_into_fjall};
use kvnode_store::{Config, Store};
use serde::Serialize;

use super::DataArgs;
use crate::failure::{Code, Failure, Outcome, Result};
use crate::output::human;
use crate::shell::Shell;
use crate::source::{options, shadow_store};
use crate::swap::Swap;

/// Rewrite the store without its garbage
///
/// Everything compaction has hidden is left out, and the rest is written into new tables beside the old ones, read
/// back and compared, and put in place. The old store goes to quarantine/; `kvutil data undo` puts it back and
/// `kvutil data gc` frees its space. Needs the space of a second store.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Do not keep the old store
    #[arg(long)]
    no_keep: bool,
}

#[derive(Serialize)]
struct Defragmented {
    schema: &'static str,
    data_dir: String,
    bytes_before: u64,
    bytes_after: u64,
    records: u64,
    quarantine: Option<String>,
    seconds: f64,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let started = std::time::Instant::now();
    let shown = args.data.data_dir.display().to_string();
    let data = shell.open_to_write(&args.data.data_dir, args.data.wal_dir.as_deref())?;
    let live = data.engines().live()?.path;
    let bytes_before = replace::tree_bytes(&live).0;
    shell.need_space(data.root(), bytes_before, &format!("df -h {shown}"))?;
    let scratch = shell.scratch()?;
    let mut store = shadow_store(&live, data.root(), &scratch, Config::default(), 1)?;
    while store.compact_some()? {}
    let swap = Swap::begin(data.root(), "defrag", crate::process::now_ms())?;
    let name = live
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let tree = swap.tree(&name);
    let totals = rewrite(&store, &tree, shell)?;
    drop(store);
    let bytes_after = replace::tree_bytes(&tree).0;
    let kept = swap.commit(
        &name,
        &live,
        &format!("{} to {}", human(bytes_before), human(bytes_after)),
    )?;
    let mut quarantine = Some(format!("quarantine/{}", kept.id));
    if args.no_keep {
        replace::forget(&kept)?;
        quarantine = None;
    }
    let result = Defragmented {
        schema: "kvutil.data.defrag.1",
        data_dir: shown,
        bytes_before,
        bytes_after,
        records: totals.records(),
        quarantine,
        seconds: started.elapsed().as_secs_f64(),
    };
    shell.output.print(&result, |result| {
        let mut text = format!(
            "{}: {} before, {} after, {} records, {:.1} s",
            result.data_dir,
            human(result.bytes_before),
            human(result.bytes_after),
            result.records,
            result.seconds
        );
        if let Some(quarantine) = &result.quarantine {
            text.push_str(&format!("\nthe old store is in {quarantine}"));
        }
        text
    });
    if result.quarantine.is_some() {
        eprintln!("undo:  kvutil data undo --data-dir {}", result.data_dir);
    }
    Ok(Outcome::Fine)
}

/// Writes everything a store has into a new engine at `tree`, durably, and reads it back.
pub fn rewrite(store: &Store<FjallEngine>, tree: &Path, shell: &Shell) -> Result<Totals> {
    let view = store.view();
    let stats = view.stats();
    let mut progress = shell
        .progress
        .bytes("rewriting", stats.live_bytes + stats.history_bytes);
    let written = view_into_fjall(&view, tree, &Options::default(), |bytes| {
        progress.add(bytes)
    });
    let expected = written.map_err(|error| match error {
        ImportError::Engine(error) => Failure::from(error),
        error => Failure::new(
            Code::Damage,
            error.to_string(),
            "kvutil data check --level structure --help",
        ),
    })?;
    drop(progress);
    let mut progress = shell
        .progress
        .bytes("verifying", stats.live_bytes + stats.history_bytes);
    let engine = FjallEngine::open(tree, &options(1))?;
    let copy = Store::open(engine, Config::default())?;
    let view = copy.view();
    let mut found = Totals::default();
    for space in Space::ALL {
        let read = view.visit_export(space, |key, value| {
            progress.add((key.len() + value.len()) as u64);
            ControlFlow::Continue(())
        })?;
        found.merge(&read);
    }
    drop(view);
    copy.into_engine().close()?;
    if found != expected {
        return Err(Failure::new(
            Code::Io,
            format!(
                "what was written does not read back: {} records instead of {}",
                found.records(),
                expected.records()
            ),
            "kvutil disk probe --help",
        )
        .hint("the old store is untouched; the device may be failing"));
    }
    Ok(found)
}
