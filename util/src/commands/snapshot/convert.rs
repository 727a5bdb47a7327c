//! `kvutil snapshot convert`: the same state packed anew, or what can be read of a damaged file.

use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::time::Instant;

use kvnode_snapshot::{ChunkInfo, Error, Info, Snapshot, Writer, salvage};
use kvnode_store::audit::Audit;
use kvnode_store::export::{Record, Totals};
use kvnode_store::remake::{Leases, Remake, merged};
use kvnode_store::schema::{AUTH_KEY, Meta, SCHEMA_VERSION, TAG_ROLE};
use serde::Serialize;

use super::Packing;
use super::save::{self, Failed, Saved, Verify};
use crate::failure::{Failure, Outcome, Result};
use crate::kvs::{as_records, etcds_own, open_file, unreadable};
use crate::output::human;
use crate::part::Part;
use crate::shell::Shell;

/// Pack a snapshot anew
///
/// With another --zstd-level. With --skip-bad frames that cannot be read are left out, and the result is what a restore can use:
/// the newest value of every key that is left, at the next revision, without history and leases; and without users and roles
/// if any of them may be missing. Example: kvutil snapshot convert bad.kvs rescued.kvs --skip-bad. Exit code 3 if anything was
/// left out.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A `.kvs` file
    file: PathBuf,
    /// Where to
    out: PathBuf,
    /// Leave out what cannot be read
    #[arg(long)]
    skip_bad: bool,
    /// Replace OUT if it is there
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    packing: Packing,
}

#[derive(Serialize)]
struct Converted {
    #[serde(flatten)]
    saved: Saved,
    size_before: u64,
    frames_left_out: u64,
    /// As far as the heads of frames tell.
    records_left_out: u64,
    left_out: Vec<String>,
    auth_dropped: bool,
}

/// What could not be read.
#[derive(Default)]
struct Missing {
    frames: u64,
    records: u64,
    said: Vec<String>,
    /// Users, roles, or whether they count.
    auth: bool,
    /// The end of the file: nobody knows what was there.
    end: bool,
}

impl Missing {
    fn is_nothing(&self) -> bool {
        self.frames == 0 && !self.end
    }

    fn add(&mut self, chunk: &ChunkInfo, error: &Error) {
        self.frames += 1;
        self.records += u64::from(chunk.records);
        let holds = |tag: u8| {
            chunk.section == 0
                && chunk.first_key[..] <= [tag + 1][..]
                && chunk.last_key[..] >= [tag][..]
        };
        self.auth |= holds(AUTH_KEY[0]) || (TAG_ROLE..=b'u').any(holds);
        self.said.push(format!(
            "{error}: {} records, \"{}\" to \"{}\"",
            chunk.records,
            chunk.first_key.escape_ascii(),
            chunk.last_key.escape_ascii()
        ));
    }
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let started = Instant::now();
    let (file, out) = (args.file.display(), args.out.display());
    let again = format!(
        "kvutil snapshot convert {file} {out}{} --overwrite",
        if args.skip_bad { " --skip-bad" } else { "" }
    );
    let skip =
        |failure: Failure| failure.then(format!("kvutil snapshot convert {file} {out} --skip-bad"));
    let input = open_file(&args.file)?;
    if let Some(failure) = etcds_own(&args.file, &input) {
        return Err(failure);
    }
    let mut missing = Missing::default();
    let mut snapshot = match Snapshot::open(BufReader::new(&input)) {
        Ok(snapshot) => snapshot,
        Err(error @ Error::Damaged { .. }) if args.skip_bad => {
            let found = salvage(BufReader::new(&input)).map_err(|e| unreadable(&args.file, &e))?;
            missing.end = !found.reaches_footer;
            missing.frames = found.gaps.len() as u64;
            // A gap may have held anything that sorts between its neighbours.
            missing.auth = missing.end || !found.gaps.is_empty();
            missing.said.push(error.to_string());
            for (from, to, error) in &found.gaps {
                missing.said.push(format!("bytes {from} to {to}: {error}"));
            }
            found.snapshot
        }
        Err(error) => return Err(skip(unreadable(&args.file, &error))),
    };
    let part = Part::create(&args.out, args.overwrite, &again)?;
    let total = snapshot.file_bytes();
    if args.skip_bad {
        find_missing(&mut snapshot, &args.file, &mut missing, shell)?;
    }
    let writer = BufWriter::with_capacity(1 << 20, part.file());
    let written = match missing.is_nothing() {
        true => repack(&mut snapshot, writer, args, shell),
        false => rescue(&mut snapshot, writer, args, &missing, shell),
    };
    written.map_err(|failed| match failed {
        Failed::Read(failure) if !args.skip_bad => skip(failure),
        failed => failed.at(part.path()),
    })?;
    part.sync()?;
    let threads = args.packing.threads.count();
    let level = match missing.is_nothing() {
        true => Verify::Checksums,
        false => Verify::Structure,
    };
    let described = save::describe(part.path(), level, None, threads, shell)?;
    let path = part.commit()?;
    let converted = Converted {
        saved: Saved {
            schema: "kvutil.snapshot.convert.1",
            path: path.display().to_string(),
            source: "snapshot",
            zstd_level: Some(args.packing.options().level),
            seconds: started.elapsed().as_secs_f64(),
            ..described
        },
        size_before: total,
        frames_left_out: missing.frames,
        records_left_out: missing.records,
        auth_dropped: missing.auth,
        left_out: missing.said.clone(),
    };
    shell.output.print(&converted, |converted| {
        let saved = &converted.saved;
        let mut lines: Vec<String> = converted
            .left_out
            .iter()
            .map(|what| format!("left out   {what}"))
            .collect();
        if !lines.is_empty() {
            lines.push(
                "           and with it history and leases: the newest value of each key is left"
                    .into(),
            );
        }
        if converted.auth_dropped {
            lines.push(
                "           and users and roles, of which some may be missing: enable auth anew"
                    .into(),
            );
        }
        lines.push(format!(
            "saved      {}   {} (was {})   revision {}   keys {}",
            saved.path,
            human(saved.size),
            human(converted.size_before),
            saved.revision,
            saved.keys
        ));
        lines.join("\n")
    });
    if missing.is_nothing() {
        return Ok(Outcome::Fine);
    }
    eprintln!("next:  kvutil snapshot verify {}", converted.saved.path);
    Ok(Outcome::Damage)
}

fn find_missing(
    snapshot: &mut Snapshot<BufReader<&std::fs::File>>,
    path: &Path,
    missing: &mut Missing,
    shell: &Shell,
) -> Result<()> {
    let mut progress = shell.progress.bytes("reading", snapshot.file_bytes());
    for at in 0..snapshot.chunks().len() {
        let chunk = snapshot.chunks()[at].clone();
        match snapshot.read_chunk(at) {
            Ok(_) => {}
            Err(error @ Error::Damaged { .. }) => missing.add(&chunk, &error),
            Err(error) => return Err(unreadable(path, &error)),
        }
        progress.set(chunk.offset + chunk.total_bytes() as u64);
    }
    Ok(())
}

fn repack(
    snapshot: &mut Snapshot<BufReader<&std::fs::File>>,
    out: impl std::io::Write,
    args: &Args,
    shell: &Shell,
) -> std::result::Result<(), Failed> {
    let mut writer = Writer::new(out, snapshot.info(), args.packing.options())?;
    let mut progress = shell.progress.bytes("packing", snapshot.file_bytes());
    for at in 0..snapshot.chunks().len() {
        let chunk = snapshot.chunks()[at].clone();
        let records = snapshot
            .read_chunk(at)
            .map_err(|e| Failed::Read(unreadable(&args.file, &e)))?;
        for (key, value) in records.iter() {
            writer.push(chunk.section, key, value)?;
        }
        progress.set(chunk.offset + chunk.total_bytes() as u64);
    }
    writer.finish(snapshot.logical_hash())?;
    Ok(())
}

/// What is left, as a state that agrees with itself. Two passes: its numbers come before its keys.
fn rescue(
    snapshot: &mut Snapshot<BufReader<&std::fs::File>>,
    out: impl std::io::Write,
    args: &Args,
    missing: &Missing,
    shell: &Shell,
) -> std::result::Result<(), Failed> {
    let told = snapshot.info().clone();
    let old = Meta {
        applied_index: told.raft_index,
        applied_term: told.raft_term,
        revision: told.revision.max(1),
        ..Meta::default()
    };
    let remake = Remake {
        bump: 1,
        leases: Leases::Drop,
        auth: !missing.auth,
        prefix: bytes::Bytes::new(),
        members: Vec::new(),
        removed: Vec::new(),
        applied: (told.raft_index, told.raft_term),
    };
    let mut progress = shell.progress.bytes("rescuing", 2 * snapshot.file_bytes());
    let mut turned: Audit = remake.audit(&old);
    each_left(
        snapshot,
        &remake,
        |record| turned.add(&record),
        &mut |bytes| {
            progress.set(bytes);
        },
    )?;
    let added = remake.added(&old, &mut turned);
    let (revision, compact_revision) = remake.revisions(&old);
    let info = Info {
        revision,
        compact_revision,
        program: concat!("kvutil ", env!("CARGO_PKG_VERSION")).into(),
        schema: u32::from(SCHEMA_VERSION),
        selection: format!(
            "rescued from a damaged file: {} frames of the snapshot at revision {} are missing",
            missing.frames, told.revision
        ),
        ..told
    };
    let mut writer = Writer::new(out, &info, args.packing.options())?;
    let mut totals = Totals::default();
    let done = snapshot.file_bytes();
    let mut waiting = added.into_iter().peekable();
    let mut failed = None;
    let mut push = |record: Record| {
        let pushed = writer.push(record.space as u8, &record.key, &record.value);
        totals.add(&record);
        failed = failed.take().or(pushed.err());
    };
    each_left(
        snapshot,
        &remake,
        |record| {
            while let Some(next) =
                waiting.next_if(|next| (next.space, &next.key) < (record.space, &record.key))
            {
                push(next);
            }
            push(record);
        },
        &mut |bytes| progress.set(done + bytes),
    )?;
    let nothing = std::iter::empty::<std::result::Result<Record, std::convert::Infallible>>();
    for Ok(record) in merged(nothing, waiting.collect()) {
        push(record);
    }
    if let Some(error) = failed {
        return Err(error.into());
    }
    writer.finish(totals.hash())?;
    Ok(())
}

fn each_left(
    snapshot: &mut Snapshot<BufReader<&std::fs::File>>,
    remake: &Remake,
    mut take: impl FnMut(Record),
    progress: &mut impl FnMut(u64),
) -> std::result::Result<(), Failed> {
    for at in 0..snapshot.chunks().len() {
        let chunk = snapshot.chunks()[at].clone();
        progress(chunk.offset + chunk.total_bytes() as u64);
        let Ok(records) = snapshot.read_chunk(at) else {
            continue;
        };
        for record in as_records(chunk.section, records) {
            if let Some(turned) = remake.turn(&record)?.record(record) {
                take(turned);
            }
        }
    }
    Ok(())
}
