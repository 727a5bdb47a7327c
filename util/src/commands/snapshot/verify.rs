//! `kvutil snapshot verify`: whether a file is whole, and if not, what of it is.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvnode_snapshot::{Error, Lost, salvage};
use kvnode_store::audit::Audit;
use kvnode_store::engine::Space;
use kvnode_store::schema::Meta;
use serde::Serialize;

use super::Threads;
use super::diff;
use crate::failure::{Outcome, Result};
use crate::kvs::{Checked, Kvs, as_records, etcds_own, open_file, short, unreadable};
use crate::output::human;
use crate::shell::Shell;

/// Check a snapshot
///
/// Names every damaged frame with the keys it held; the rest stays readable, and `snapshot convert --skip-bad` saves it. Of a file
/// without its end says how far it is good. --level quick reads header and footer, checksums every byte, structure (the
/// default) also whether the records agree with each other. Example: kvutil snapshot verify backup.kvs --against
/// /var/lib/kvnode. Exit code 3 if anything is wrong or differs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A `.kvs` file
    file: PathBuf,
    /// How deep
    #[arg(long, value_enum, default_value_t = Level::Structure)]
    level: Level,
    /// Also compare keys and values with this source
    #[arg(long, value_name = "SOURCE")]
    against: Option<PathBuf>,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    Quick,
    Checksums,
    Structure,
}

#[derive(Serialize)]
struct Verified {
    schema: &'static str,
    file: String,
    level: &'static str,
    sound: bool,
    digest_matches: Option<bool>,
    sha256: Option<String>,
    chunks: u64,
    /// In readable chunks.
    records: u64,
    /// Of the whole file, as far as its footer or the heads of its chunks tell.
    records_in_all: u64,
    damage: Vec<Damage>,
    /// What records contradict each other.
    problems: Vec<String>,
    /// At the snapshot's revision, what `etcdctl endpoint hashkv` prints of a node with this state.
    hashkv: Option<u32>,
    /// Of a file without its end: bytes from the start that are good.
    good_bytes: Option<u64>,
    against: Option<String>,
    differences: Option<u64>,
}

#[derive(Serialize)]
struct Damage {
    place: String,
    what: String,
    section: Option<&'static str>,
    /// First and last key of the damaged frame, escaped; those between are not readable.
    first_key: Option<String>,
    last_key: Option<String>,
    records: Option<u32>,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let threads = args.threads.count();
    let file = open_file(&args.file)?;
    if let Some(failure) = etcds_own(&args.file, &file) {
        return Err(failure);
    }
    let kvs = match kvnode_snapshot::Snapshot::open(BufReader::new(&file)) {
        Ok(_) => Kvs::open(&args.file)?,
        Err(Error::Damaged { place, damage }) => {
            let first = Damage::new(&Error::Damaged { place, damage }, None);
            return without_end(&args.file, first, shell);
        }
        Err(error) => return Err(unreadable(&args.file, &error)),
    };
    let mut verified = Verified {
        schema: "kvutil.snapshot.verify.2",
        file: kvs.shown(),
        level: "quick",
        sound: true,
        digest_matches: None,
        sha256: None,
        chunks: kvs.chunks.len() as u64,
        records: 0,
        records_in_all: kvs.sections.iter().map(|section| section.records).sum(),
        damage: Vec::new(),
        problems: Vec::new(),
        hashkv: None,
        good_bytes: None,
        against: None,
        differences: None,
    };
    let checked = match args.level {
        Level::Quick => None,
        Level::Checksums => Some(kvs.check(threads, shell, |_, _| (), |()| ())?),
        Level::Structure => match kvs.meta() {
            Ok(meta) => {
                let (checked, problems, audit) = structure(&kvs, &meta, threads, shell)?;
                if checked.lost.is_empty() {
                    verified.problems = problems;
                    verified.hashkv = Some(audit.hash_kv());
                }
                Some(checked)
            }
            Err(failure) => {
                let checked = kvs.check(threads, shell, |_, _| (), |()| ())?;
                if checked.lost.is_empty() {
                    verified.problems.push(failure.what().to_owned());
                }
                Some(checked)
            }
        },
    };
    if let Some(checked) = checked {
        verified.level = match args.level {
            Level::Structure => "structure",
            _ => "checksums",
        };
        verified.digest_matches = Some(checked.digest_matches);
        verified.records = checked.records;
        if !checked.digest_matches {
            verified.damage.push(Damage {
                place: "SHA-256 at the end".into(),
                what: format!(
                    "want {}, got {}",
                    short(&checked.sha256_told),
                    short(&checked.sha256)
                ),
                section: None,
                first_key: None,
                last_key: None,
                records: None,
            });
        }
        let lost = checked.lost.iter();
        verified
            .damage
            .extend(lost.map(|lost| Damage::new(&lost.error, Some(lost))));
        verified.sha256 = Some(checked.sha256);
    }
    if let Some(against) = &args.against
        && verified.damage.is_empty()
    {
        let changes = diff::count(&args.file, against, shell)?;
        verified.against = Some(against.display().to_string());
        verified.differences = Some(changes.total());
    }
    verified.sound = verified.damage.is_empty()
        && verified.problems.is_empty()
        && verified.differences.unwrap_or(0) == 0;
    shell.output.print(&verified, screen);
    if verified.sound {
        return Ok(Outcome::Fine);
    }
    if let (Some(against), true) = (&verified.against, verified.damage.is_empty()) {
        eprintln!("next:  kvutil snapshot diff {} {against}", verified.file);
    } else {
        eprintln!("next:  {}", rescue(&verified.file));
    }
    Ok(Outcome::Damage)
}

/// Reads every byte and sums up every record: what the bytes are, what contradicts what, and the sums.
pub fn structure(
    kvs: &Kvs,
    meta: &Meta,
    threads: usize,
    shell: &Shell,
) -> Result<(Checked, Vec<String>, Audit)> {
    let mut audit = Audit::new(meta.revision, meta.compact_revision);
    let empty = Arc::new(audit.clone());
    let checked = kvs.check(
        threads,
        shell,
        move |section, records| {
            let mut piece = Audit::clone(&empty);
            as_records(section, records).for_each(|record| piece.add(&record));
            piece
        },
        |piece| audit.merge(piece),
    )?;
    let mut problems = audit.problems();
    problems.extend(kvs.hash_problem(&audit));
    for (what, told, found) in [
        ("revision", kvs.info.revision, meta.revision),
        (
            "compact revision",
            kvs.info.compact_revision,
            meta.compact_revision,
        ),
    ] {
        // 0 or -1 may mean "not said".
        if told > 0 && told != found {
            problems.push(format!(
                "the header says {what} {told}, the records {found}"
            ));
        }
    }
    Ok((checked, problems, audit))
}

/// What is left of a file whose footer cannot be read.
fn without_end(path: &Path, first: Damage, shell: &Shell) -> Result<Outcome> {
    let file = open_file(path)?;
    let mut found = match salvage(BufReader::new(&file)) {
        Ok(found) => found,
        Err(error) => {
            let failure = unreadable(path, &error);
            return Err(failure
                .hint("nothing of it can be read: take another copy of the snapshot")
                .then(format!("ls -la {}", path.display())));
        }
    };
    let mut damage = vec![first];
    for (from, to, error) in &found.gaps {
        let mut gap = Damage::new(error, None);
        gap.what = format!("{} (bytes {from} to {to})", gap.what);
        damage.push(gap);
    }
    let total = found.snapshot.file_bytes();
    let mut progress = shell.progress.bytes("verifying", total);
    let (mut records, mut good_bytes) = (0, found.good_bytes);
    for at in 0..found.snapshot.chunks().len() {
        let chunk = found.snapshot.chunks()[at].clone();
        match found.snapshot.read_chunk(at) {
            Ok(read) => records += read.len() as u64,
            Err(error @ Error::Damaged { .. }) => {
                good_bytes = good_bytes.min(chunk.offset);
                let lost = Lost {
                    section: chunk.section,
                    first_key: chunk.first_key.clone(),
                    last_key: chunk.last_key.clone(),
                    records: chunk.records,
                    error,
                };
                damage.push(Damage::new(&lost.error, Some(&lost)));
            }
            Err(error) => return Err(unreadable(path, &error)),
        }
        progress.set(chunk.offset + chunk.total_bytes() as u64);
    }
    drop(progress);
    let verified = Verified {
        schema: "kvutil.snapshot.verify.2",
        file: path.display().to_string(),
        level: "checksums",
        sound: false,
        digest_matches: Some(false),
        sha256: None,
        chunks: found.snapshot.chunks().len() as u64,
        records,
        records_in_all: found.snapshot.sections().iter().map(|s| s.records).sum(),
        damage,
        problems: Vec::new(),
        hashkv: None,
        good_bytes: Some(good_bytes),
        against: None,
        differences: None,
    };
    shell.output.print(&verified, screen);
    eprintln!("next:  {}", rescue(&verified.file));
    Ok(Outcome::Damage)
}

fn rescue(file: &str) -> String {
    format!("kvutil snapshot convert {file} rescued.kvs --skip-bad")
}

impl Damage {
    fn new(error: &Error, lost: Option<&Lost>) -> Self {
        let (place, what) = match error {
            Error::Damaged { place, damage } => (place.to_string(), damage.to_string()),
            other => (String::new(), other.to_string()),
        };
        let key = |key: &[u8], section: u8| {
            // A key of the present without its tag is what an operator knows.
            let key = match (section, key.split_first()) {
                (0, Some((&kvnode_store::schema::TAG_HEAD, key))) => key,
                _ => key,
            };
            key.escape_ascii().to_string()
        };
        Damage {
            place,
            what,
            section: lost.map(|lost| match lost.section {
                section if section == Space::State as u8 => "present",
                section if section == Space::Hist as u8 => "history",
                _ => "unknown",
            }),
            first_key: lost.map(|lost| key(&lost.first_key, lost.section)),
            last_key: lost.map(|lost| key(&lost.last_key, lost.section)),
            records: lost.map(|lost| lost.records),
        }
    }
}

fn screen(verified: &Verified) -> String {
    let mut lines = Vec::new();
    let hash = verified
        .hashkv
        .map(|hash| format!(", hashkv {hash}"))
        .unwrap_or_default();
    if verified.sound {
        lines.push(format!(
            "{}: sound ({}), {} records in {} frames{hash}",
            verified.file, verified.level, verified.records_in_all, verified.chunks
        ));
    } else if verified.damage.is_empty() && verified.problems.is_empty() {
        lines.push(format!("{}: sound, but DIFFERENT{hash}", verified.file));
    } else {
        lines.push(format!("{}: NOT SOUND", verified.file));
    }
    for damage in &verified.damage {
        lines.push(format!("  {}: {}", damage.place, damage.what));
        if let (Some(first), Some(last)) = (&damage.first_key, &damage.last_key) {
            lines.push(format!(
                "      holds keys  \"{first}\"  ..  \"{last}\"  ({} records of the {})",
                damage.records.unwrap_or(0),
                damage.section.unwrap_or_default()
            ));
        }
    }
    for problem in &verified.problems {
        lines.push(format!("  {problem}"));
    }
    if let Some(good) = verified.good_bytes {
        lines.push(format!(
            "good up to byte {good} ({}): {} frames, {} records readable in all",
            human(good),
            verified.chunks,
            verified.records
        ));
    } else if !verified.damage.is_empty() {
        lines.push(format!(
            "{} of {} records readable",
            verified.records, verified.records_in_all
        ));
    }
    if let (Some(against), Some(differences)) = (&verified.against, verified.differences) {
        lines.push(match differences {
            0 => format!("equal to {against}"),
            _ => format!("{differences} keys differ from {against}"),
        });
    }
    lines.join("\n")
}
