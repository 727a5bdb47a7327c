//! `kvutil snapshot`: what a `.kvs` file holds, and whether it is whole.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use kvnode_snapshot::{Error, Place, Snapshot};
use serde::Serialize;

use crate::failure::{Code, Failure, Outcome};
use crate::output::human;
use crate::shell::Shell;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print what a snapshot holds
    ///
    /// Reads header and footer only. Example: kvutil snapshot status backup.kvs
    Status {
        /// A `.kvs` file, as `etcdctl snapshot save` stores it
        file: PathBuf,
    },
    /// Check every byte of a snapshot
    ///
    /// Names every damaged chunk; the rest stays readable. Exit code 3 if there is any.
    Verify {
        /// A `.kvs` file
        file: PathBuf,
    },
}

pub fn run(command: &Command, shell: &Shell) -> Result<Outcome, Failure> {
    match command {
        Command::Status { file } => status(file, shell),
        Command::Verify { file } => verify(file, shell),
    }
}

#[derive(Serialize)]
struct Status {
    schema: &'static str,
    file: String,
    file_bytes: u64,
    cluster_id: String,
    member_id: String,
    revision: i64,
    compact_revision: i64,
    raft_index: u64,
    raft_term: u64,
    created_unix_ms: u64,
    program: String,
    chunks: usize,
    records: u64,
    raw_bytes: u64,
    logical_hash: String,
}

pub fn status(file: &Path, shell: &Shell) -> Result<Outcome, Failure> {
    let snapshot = open(file)?;
    let (info, sections) = (snapshot.info(), snapshot.sections());
    let status = Status {
        schema: "kvutil.snapshot.status.1",
        file: file.display().to_string(),
        file_bytes: snapshot.file_bytes(),
        cluster_id: format!("{:x}", info.cluster_id),
        member_id: format!("{:x}", info.member_id),
        revision: info.revision,
        compact_revision: info.compact_revision,
        raft_index: info.raft_index,
        raft_term: info.raft_term,
        created_unix_ms: info.created_unix_ms,
        program: info.program.clone(),
        chunks: snapshot.chunks().len(),
        records: sections.iter().map(|section| section.records).sum(),
        raw_bytes: sections.iter().map(|section| section.raw_bytes).sum(),
        logical_hash: format!("{:032x}", snapshot.logical_hash()),
    };
    shell.output.print(&status, |status| {
        format!(
            "file:      {} ({})\nwritten by: {} (member {} of cluster {})\nrevision:  {} (compacted to {})\nraft:      index {}, term {}\nrecords:   {} in {} chunks, {} unpacked\nhash:      {}",
            status.file,
            human(status.file_bytes),
            status.program,
            status.member_id,
            status.cluster_id,
            status.revision,
            status.compact_revision,
            status.raft_index,
            status.raft_term,
            status.records,
            status.chunks,
            human(status.raw_bytes),
            status.logical_hash
        )
    });
    Ok(Outcome::Fine)
}

#[derive(Serialize)]
struct Verified {
    schema: &'static str,
    file: String,
    sound: bool,
    digest_matches: bool,
    chunks: u32,
    records: u64,
    damage: Vec<Damage>,
}

#[derive(Serialize)]
struct Damage {
    place: String,
    what: String,
    /// First key of the damaged chunk, escaped; the keys from there to the next chunk's first one are not readable.
    first_key: Option<String>,
}

pub fn verify(file: &Path, shell: &Shell) -> Result<Outcome, Failure> {
    let mut snapshot = open(file)?;
    let mut progress = shell.progress.bytes("verifying", 2 * snapshot.file_bytes());
    let report = snapshot
        .verify(|bytes| progress.set(bytes))
        .map_err(|error| unreadable(file, &error))?;
    drop(progress);
    let first_key = |place: Place| {
        let lost = report
            .lost
            .iter()
            .find(|lost| matches!(&lost.error, Error::Damaged { place: of, .. } if *of == place))?;
        Some(lost.first_key.escape_ascii().to_string())
    };
    let damage = report.damage().map(|(place, damage)| Damage {
        place: place.to_string(),
        what: damage.to_string(),
        first_key: first_key(place),
    });
    let verified = Verified {
        schema: "kvutil.snapshot.verify.1",
        file: file.display().to_string(),
        sound: report.is_sound(),
        digest_matches: report.digest_matches,
        chunks: report.chunks_checked,
        records: report.records,
        damage: damage.collect(),
    };
    shell.output.print(&verified, |verified| {
        let mut text = match verified.sound {
            true => format!(
                "{}: sound, {} records in {} chunks",
                verified.file, verified.records, verified.chunks
            ),
            false => format!(
                "{}: {} damaged places",
                verified.file,
                verified.damage.len()
            ),
        };
        for damage in &verified.damage {
            let key = damage
                .first_key
                .as_ref()
                .map(|key| format!(" (keys from {key})"))
                .unwrap_or_default();
            text.push_str(&format!("\n  {}: {}{key}", damage.place, damage.what));
        }
        text
    });
    Ok(if verified.sound {
        Outcome::Fine
    } else {
        Outcome::Damage
    })
}

fn open(file: &Path) -> Result<Snapshot<BufReader<File>>, Failure> {
    let opened = File::open(file).map_err(|error| Failure::io("open", file, &error))?;
    Snapshot::open(BufReader::new(opened)).map_err(|error| unreadable(file, &error))
}

fn unreadable(file: &Path, error: &Error) -> Failure {
    let shown = file.display();
    let (code, hint, next) = match error {
        Error::Damaged { .. } => (
            Code::Damage,
            "take another copy of the snapshot; this one cannot be opened",
            format!("ls -la {shown}"),
        ),
        Error::Version { .. } | Error::Features { .. } => (
            Code::Version,
            "use the kvutil that came with the program that wrote it",
            "kvutil version".to_owned(),
        ),
        _ => (
            Code::Io,
            "check the device the file lies on",
            format!("ls -la {shown}"),
        ),
    };
    Failure::new(code, format!("{shown}: {error}"), next).hint(hint)
}
