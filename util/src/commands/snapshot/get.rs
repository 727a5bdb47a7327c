//! `kvutil snapshot get`: one key of a file.

use std::io::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use kvnode_api::{KeyRange, KeyValue};
use kvnode_store::engine::Space;
use kvnode_store::schema::{Head, head_key};

use crate::commands::kv::{history, pair};
use crate::failure::{Code, Failure, Outcome, Result};
use crate::kvs::{Kvs, unreadable};
use crate::output::show;
use crate::shell::Shell;
use crate::source::SourceArgs;

/// Print one key of a snapshot with its value
///
/// Reads one frame; with --rev or --all-versions the file is unpacked to the scratch directory. --raw prints the value's bytes and
/// nothing else. Exit code 1 if there is no such key. Example: kvutil snapshot get backup.kvs /app/config --raw > config
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A `.kvs` file
    file: PathBuf,
    /// The key
    key: String,
    /// As of this revision; 0 is the snapshot's
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    rev: i64,
    /// The value's bytes, without anything around
    #[arg(long, conflicts_with = "all_versions")]
    raw: bool,
    /// Every change that is not compacted away
    #[arg(long, conflicts_with = "rev")]
    all_versions: bool,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    if args.all_versions {
        let source = SourceArgs::of(&args.file);
        return history::of_key(source, &args.key, shell);
    }
    let found = match args.rev {
        0 => newest(args)?,
        revision => {
            let source = SourceArgs::of(&args.file).open(shell)?;
            let range = KeyRange::Single(Bytes::copy_from_slice(args.key.as_bytes()));
            let view = &source.view;
            let slice =
                source.answered(view.range_slice(&range, None, revision, false, 1, usize::MAX))?;
            slice.kvs.into_iter().next()
        }
    };
    let file = args.file.display();
    let found = found.ok_or_else(|| {
        Failure::new(
            Code::Failed,
            format!("{file}: no key {:?}", args.key),
            format!("kvutil snapshot list {file} --prefix {:?}", args.key),
        )
    })?;
    if args.raw {
        let written = std::io::stdout().write_all(&found.value);
        written.map_err(|e| Failure::io("write", std::path::Path::new("stdout"), &e))?;
        return Ok(Outcome::Fine);
    }
    shell.output.print(&pair(&found, true), |row| {
        let lease = match row.lease.as_str() {
            "" => String::new(),
            lease => format!(", lease {lease}"),
        };
        format!(
            "{}\n  created at revision {}, changed at {}, version {}, {} bytes{lease}\n  {}",
            row.key,
            row.create_revision,
            row.mod_revision,
            row.version,
            row.value_bytes,
            show(&found.value)
        )
    });
    Ok(Outcome::Fine)
}

fn newest(args: &Args) -> Result<Option<KeyValue>> {
    let kvs = Kvs::open(&args.file)?;
    let key = head_key(args.key.as_bytes());
    let record = kvs
        .snapshot()?
        .get(Space::State as u8, &key)
        .map_err(|e| unreadable(&kvs.path, &e))?;
    let Some(record) = record else {
        return Ok(None);
    };
    let key = Bytes::copy_from_slice(args.key.as_bytes());
    let head = Head::decode(&key, &record)?;
    let main = head.modified.main;
    Ok(head.live.map(|version| version.key_value(key, main)))
}
