//! `kvutil wal dump`: the entries, decoded.

use std::collections::HashMap;

use clap::builder::{TypedValueParser, ValueParserFactory};
use kvnode_store::datadir::{Presence, presence};
use serde::Serialize;

use crate::decode::{Decoded, Op, Type, decode};
use crate::failure::{Outcome, Result};
use crate::log::{self, LogArgs};
use crate::output::show;
use crate::replay;
use crate::shell::Shell;
use crate::span::Span;

/// Print the entries of the log, decoded
///
/// Every ENTRY record in the order written, those replaced later and those behind a damaged place included. Values are
/// left out unless --values, passwords always. Example: kvutil wal dump --data-dir /var/lib/kvnode --index 100..200
/// --type put,del --key /registry/pods -w jsonl.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    log: LogArgs,
    /// Only these indexes: N, A..B (both included), A.. or ..B
    #[arg(long, value_name = "RANGE")]
    index: Option<Span>,
    /// Only entries that made these revisions; needs a log from its first entry on
    #[arg(long, value_name = "RANGE")]
    rev: Option<Span>,
    /// Only this term
    #[arg(long)]
    term: Option<u64>,
    /// Only what was written in this time, in unix milliseconds
    #[arg(long, value_name = "RANGE")]
    time: Option<Span>,
    /// Only these types
    #[arg(long, value_enum, value_delimiter = ',')]
    r#type: Vec<Type>,
    /// Only what names a key with this prefix
    #[arg(long, value_name = "PREFIX")]
    key: Option<String>,
    /// Show values
    #[arg(long)]
    values: bool,
    /// At most this many
    #[arg(long)]
    limit: Option<u64>,
}

#[derive(Serialize)]
struct Row {
    index: u64,
    term: u64,
    r#type: String,
    time_unix_ms: u64,
    /// Known with --rev only.
    revision: Option<i64>,
    bytes: usize,
    member: String,
    user: String,
    ops: Vec<Op>,
    detail: String,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let wal = args.log.wal()?;
    // A running node writes its log; a directory that is only a log has nobody to ask.
    let _reading = match presence(&args.log.data_dir)? {
        Presence::Present => Some(kvnode_store::datadir::Reading::open(
            &args.log.data_dir,
            args.log.wal_dir.as_deref(),
        )?),
        _ => None,
    };
    let mut revisions: HashMap<(u64, u64), i64> = HashMap::new();
    if let Some(span) = &args.rev {
        let outline = replay::outline(&wal, None, 0)?;
        if !replay::is_complete(&outline) {
            return Err(replay::incomplete(&outline, &wal));
        }
        let scratch = shell.scratch()?;
        let mut store = replay::empty(&scratch, kvnode_store::Config::default())?;
        let mut progress = shell.progress.count("replaying", outline.last_index);
        replay::run(
            &mut store,
            &wal,
            &outline,
            outline.last_index,
            true,
            |entry, _, changes| {
                progress.add(1);
                let revision = changes.last().map(|change| change.revision);
                if let (Some(entry), Some(revision)) = (entry, revision)
                    && span.has(revision.unsigned_abs())
                {
                    revisions.insert((entry.index, entry.term), revision);
                }
                revision.is_none_or(|revision| !span.is_before(revision.unsigned_abs()))
            },
        )?;
    }
    let mut rows = Vec::new();
    let mut left = args.limit.unwrap_or(u64::MAX);
    let streams = shell.output.is_simple();
    log::entries(&wal, |entry, written_ms| {
        if left == 0 {
            return false;
        }
        let revision = revisions.get(&(entry.index, entry.term)).copied();
        let decoded = decode(&entry, args.values);
        let time = if decoded.time_ms > 0 {
            decoded.time_ms
        } else {
            written_ms
        };
        let wanted = args.index.as_ref().is_none_or(|span| span.has(entry.index))
            && args.term.is_none_or(|term| term == entry.term)
            && args.time.as_ref().is_none_or(|span| span.has(time))
            && (args.rev.is_none() || revision.is_some())
            && (args.r#type.is_empty() || args.r#type.contains(&decoded.family))
            && (args.key.as_ref()).is_none_or(|key| {
                decoded
                    .ops
                    .iter()
                    .any(|op| op.touches_prefix(key.as_bytes()))
            });
        if !wanted {
            return true;
        }
        left -= 1;
        let row = row(
            entry.index,
            entry.term,
            entry.payload.len(),
            time,
            revision,
            decoded,
        );
        if streams {
            return crate::output::say(&line(&row));
        }
        rows.push(row);
        true
    })?;
    if !streams {
        let rows = rows.into_iter().map(Ok::<_, crate::failure::Failure>);
        shell.output.rows("kvutil.wal.dump.1", rows, line)?;
    }
    Ok(Outcome::Fine)
}

fn row(
    index: u64,
    term: u64,
    bytes: usize,
    time: u64,
    revision: Option<i64>,
    decoded: Decoded,
) -> Row {
    Row {
        index,
        term,
        r#type: decoded.kind,
        time_unix_ms: time,
        revision,
        bytes,
        member: format!("{:x}", decoded.member),
        user: show(decoded.user.as_bytes()),
        ops: decoded.ops,
        detail: decoded.detail,
    }
}

fn line(row: &Row) -> String {
    let mut text = format!(
        "{:>8} {:>4} {:>13} {:<12}",
        row.index, row.term, row.time_unix_ms, row.r#type
    );
    if let Some(revision) = row.revision {
        text.push_str(&format!(" rev {revision}"));
    }
    for op in &row.ops {
        text.push_str(&format!(" {} {}", op.op, op.key));
        if let Some(end) = &op.range_end {
            text.push_str(&format!("..{end}"));
        }
        match (&op.value, op.value_bytes) {
            (Some(value), _) => text.push_str(&format!(" = {value}")),
            (None, Some(bytes)) => text.push_str(&format!(" ({bytes} bytes)")),
            _ => {}
        }
    }
    if !row.detail.is_empty() {
        text.push_str(&format!(" [{}]", row.detail));
    }
    text
}

impl ValueParserFactory for Span {
    type Parser = SpanParser;

    fn value_parser() -> SpanParser {
        SpanParser
    }
}

/// Reads a range from the command line.
#[derive(Clone)]
pub struct SpanParser;

impl TypedValueParser for SpanParser {
    type Value = Span;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> std::result::Result<Span, clap::Error> {
        value.to_str().and_then(Span::parse).ok_or_else(|| {
            let text = format!("{value:?} is no range: write N, A..B, A.. or ..B\n");
            clap::Error::raw(clap::error::ErrorKind::ValueValidation, text).with_cmd(command)
        })
    }
}
