//! `kvutil wal`: the segments of a log, and whether every byte of them is what was written.

use std::path::{Path, PathBuf};

use kvnode_store::datadir;
use kvnode_wal::dir;
use serde::Serialize;

use crate::failure::{Failure, Outcome};
use crate::output::{Output, human};

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
    first_unix_ms: u64,
    last_unix_ms: u64,
}

#[derive(Serialize)]
struct Inspected {
    schema: &'static str,
    wal_dir: String,
    segments: Vec<Segment>,
}

pub fn inspect(data_dir: &Path, output: &Output) -> Result<Outcome, Failure> {
    let wal_dir = wal_dir(data_dir)?;
    let segments = dir::segments(&wal_dir).map_err(|error| damaged(&error))?;
    let inspected = Inspected {
        schema: "kvutil.wal.inspect.1",
        wal_dir: wal_dir.display().to_string(),
        segments: segments
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
                first_unix_ms: segment.unix_ms.0,
                last_unix_ms: segment.unix_ms.1,
            })
            .collect(),
    };
    output.print(&inspected, |inspected| {
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
        text
    });
    Ok(Outcome::Fine)
}

#[derive(Serialize)]
struct Verified {
    schema: &'static str,
    wal_dir: String,
    sound: bool,
    segments: usize,
    batches: u64,
    entries: u64,
    bytes: u64,
    /// What should be told but does not stop a start.
    findings: Vec<String>,
}

pub fn verify(data_dir: &Path, output: &Output) -> Result<Outcome, Failure> {
    let wal_dir = wal_dir(data_dir)?;
    let report = dir::verify(&wal_dir).map_err(|error| damaged(&error))?;
    let findings = report.findings.iter().map(|finding| {
        format!(
            "{} at offset {}: {}",
            finding.file, finding.offset, finding.text
        )
    });
    let verified = Verified {
        schema: "kvutil.wal.verify.1",
        wal_dir: wal_dir.display().to_string(),
        sound: true,
        segments: report.segments.len(),
        batches: report.batches,
        entries: report.entries,
        bytes: report.bytes,
        findings: findings.collect(),
    };
    output.print(&verified, |verified| {
        let mut text = format!(
            "{}: sound, {} entries in {} batches, {} in {} segments",
            verified.wal_dir,
            verified.entries,
            verified.batches,
            human(verified.bytes),
            verified.segments
        );
        for finding in &verified.findings {
            text.push_str(&format!("\n  note: {finding}"));
        }
        text
    });
    Ok(Outcome::Fine)
}

/// Where the log of a data directory is. A directory that holds segments itself is taken as it is, so that a log kept
/// elsewhere, or a copy of one, can be named directly.
fn wal_dir(data_dir: &Path) -> Result<PathBuf, Failure> {
    let inside = data_dir.join("wal");
    if inside.is_dir() {
        return Ok(inside);
    }
    let segments_here = std::fs::read_dir(data_dir).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "wal")
        })
    });
    if segments_here {
        return Ok(data_dir.to_path_buf());
    }
    // Says what stands at the path instead.
    datadir::peek(data_dir)?;
    Err(Failure::new(
        1,
        format!(
            "{} holds no log: it is kept in another directory",
            data_dir.display()
        ),
        "name the directory given as --wal-dir to the node",
    ))
}

fn damaged(error: &kvnode_wal::Error) -> Failure {
    match error.damage() {
        Some(damage) => Failure::new(3, error.to_string(), damage.commands().join("\nhint: ")),
        None => Failure::new(1, error.to_string(), "check the path and its permissions"),
    }
}
