//! `kvutil wal inspect`: the segments. Works on a damaged log as well, segment by segment.

use kvnode_wal::dir;
use serde::Serialize;

use crate::failure::{Outcome, Result};
use crate::log::{LogArgs, Met, walk};
use crate::output::human;
use crate::shell::Shell;

/// List the segments with their entries and what they hold
///
/// Example: kvutil wal inspect --data-dir /var/lib/kvnode. Reads every batch. Exit code 3 if the log is damaged; what
/// is readable is listed all the same.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Serialize)]
struct Segment {
    file: String,
    bytes: u64,
    used_bytes: u64,
    batches: u64,
    entries: u64,
    /// Lowest index of an entry in it.
    lowest_index: Option<u64>,
    /// Last index of the log behind it.
    last_index: u64,
    sealed: bool,
    opened_because: String,
    first_unix_ms: u64,
    last_unix_ms: u64,
}

#[derive(Serialize)]
struct Inspected {
    schema: &'static str,
    wal_dir: String,
    /// Whether the log opens.
    sound: bool,
    segments: Vec<Segment>,
    /// Readable batches of a log that does not open.
    readable_batches: u64,
    gaps: Vec<String>,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let wal = args.log.wal()?;
    let mut inspected = Inspected {
        schema: "kvutil.wal.inspect.1",
        wal_dir: wal.display().to_string(),
        sound: true,
        segments: Vec::new(),
        readable_batches: 0,
        gaps: Vec::new(),
    };
    let read = match dir::segments(&wal) {
        Ok(segments) => segments,
        Err(kvnode_wal::Error::Damage(damage)) => {
            inspected.sound = false;
            walk(&wal, |met| {
                match met {
                    Met::Batch(_) => inspected.readable_batches += 1,
                    Met::Gap { file, from, to } => {
                        inspected
                            .gaps
                            .push(format!("{file}: no good batch in {from}..{to}"));
                    }
                    Met::NoHeader { file, why } => inspected.gaps.push(format!("{file}: {why}")),
                }
                true
            })?;
            inspected.gaps.push(damage.to_string());
            Vec::new()
        }
        Err(error) => return Err(error.into()),
    };
    inspected.segments = read
        .iter()
        .map(|segment| Segment {
            file: segment.name.to_string(),
            bytes: segment.bytes,
            used_bytes: segment.used,
            batches: segment.batches,
            entries: segment.entries,
            lowest_index: segment.lowest,
            last_index: segment.last_index,
            sealed: segment.sealed,
            opened_because: format!("{:?}", segment.opened_because),
            first_unix_ms: segment.unix_ms.0,
            last_unix_ms: segment.unix_ms.1,
        })
        .collect();
    shell.output.print(&inspected, |inspected| {
        let mut text = format!(
            "{}: {} segments",
            inspected.wal_dir,
            inspected.segments.len()
        );
        for segment in &inspected.segments {
            text.push_str(&format!(
                "\n  {}  {} of {} used, {} entries in {} batches, up to index {}{}",
                segment.file,
                human(segment.used_bytes),
                human(segment.bytes),
                segment.entries,
                segment.batches,
                segment.last_index,
                if segment.sealed { ", sealed" } else { "" }
            ));
        }
        if !inspected.sound {
            text.push_str(&format!(
                "\n  damaged; {} batches are readable",
                inspected.readable_batches
            ));
        }
        for gap in &inspected.gaps {
            text.push_str(&format!("\n  {gap}"));
        }
        text
    });
    Ok(if inspected.sound {
        Outcome::Fine
    } else {
        Outcome::Damage
    })
}
