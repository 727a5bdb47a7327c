//! `kvutil snapshot extract`: a part of a source, as a file of its own or as lines.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::save::{self, Chosen, Saved, Verify, Whose};
use super::{Packing, Threads};
use crate::failure::{Code, Failure, Outcome, Result};
use crate::keys::Keys;
use crate::output::human;
use crate::part::Part;
use crate::shell::Shell;
use crate::source::SourceArgs;

/// Take a part of a snapshot out
///
/// Into a snapshot of its own with --to (it can be restored like any other), else as rows on stdout with keys and values in base64,
/// as `etcdctl -w json` has them. Example: kvutil snapshot extract backup.kvs --prefix /app/ -w jsonl > app.jsonl; kvutil snapshot
/// extract backup.kvs --prefix /app/ --rev 1200 --to app.kvs
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A `.kvs` file, or the data directory of a stopped node
    file: PathBuf,
    /// Keys start with this
    #[arg(long, default_value = "")]
    prefix: String,
    /// As of this revision, without leases; 0 is the snapshot's
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    rev: i64,
    /// Write a snapshot file
    #[arg(long, value_name = "F.kvs")]
    to: Option<PathBuf>,
    /// Replace the file if it is there
    #[arg(long, requires = "to")]
    overwrite: bool,
    #[command(flatten)]
    packing: Packing,
    #[arg(long, hide = true)]
    apply: bool,
}

#[derive(Serialize)]
struct Row {
    key: String,
    value: String,
    create_revision: i64,
    mod_revision: i64,
    version: i64,
    lease: i64,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let file = args.file.display();
    if args.apply {
        return Err(Failure::new(
            Code::Refused,
            "--apply: this tool writes to no running cluster",
            format!(
                "kvutil snapshot extract {file} --prefix {:?} -w jsonl",
                args.prefix
            ),
        ));
    }
    let threads: Threads = args.packing.threads;
    let Some(to) = &args.to else {
        let keys = Keys::open(&args.file, args.rev, shell)?;
        let rows = keys
            .under(&args.prefix, args.rev, threads.count())?
            .map(|kv| {
                kv.map(|kv| Row {
                    key: base64(&kv.key),
                    value: base64(&kv.value),
                    create_revision: kv.create_revision,
                    mod_revision: kv.mod_revision,
                    version: kv.version,
                    lease: kv.lease,
                })
            });
        shell
            .output
            .rows("kvutil.snapshot.extract.1", rows, |row| {
                format!("{} {}", row.key, row.value)
            })?;
        return Ok(Outcome::Fine);
    };
    let started = Instant::now();
    let again = format!(
        "kvutil snapshot extract {file} --prefix {:?} --rev {} --to {} --overwrite",
        args.prefix,
        args.rev,
        to.display()
    );
    let part = Part::create(to, args.overwrite, &again)?;
    let source = SourceArgs::of(&args.file).open(shell)?;
    let from = Whose {
        cluster_id: source.cluster_id,
        member_id: source.member_id,
    };
    let chosen = Chosen {
        prefix: &args.prefix,
        revision: args.rev,
        latest: true,
    };
    let options = args.packing.options();
    let written = part
        .write(|out| save::write(&source.view, &from, &chosen, options, out, shell))?
        .map_err(|e| e.at(part.path()))?;
    part.sync()?;
    let (level, written) = (Verify::Checksums, Some(&written));
    let described = save::describe(part.path(), level, written, threads.count(), shell)?;
    let path = part.commit()?;
    let saved = Saved {
        schema: "kvutil.snapshot.extract.1",
        path: path.display().to_string(),
        source: source.kind,
        seconds: started.elapsed().as_secs_f64(),
        ..described
    };
    shell.output.print(&saved, |saved| {
        format!(
            "part       {}\nsaved      {}   {}   revision {}   keys {}   took {:.1}s",
            saved.selection,
            saved.path,
            human(saved.size),
            saved.revision,
            saved.keys,
            saved.seconds
        )
    });
    Ok(Outcome::Fine)
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for (place, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let digit = char::from(DIGITS[(bits >> shift & 63) as usize]);
            text.push(if place <= three.len() { digit } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_has_its_padding() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }
}
