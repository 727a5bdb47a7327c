//! `kvutil wal history`: who changed a key, when, and what else changed with it.

use serde::Serialize;

use crate::decode::decode;
use crate::failure::{Failure, Outcome, Result};
use crate::log::{self, LogArgs};
use crate::output::show;
use crate::replay;
use crate::shell::Shell;

/// Print every entry that changed a key
///
/// With revisions, versions and the other keys of the same transaction if the log goes back to its first entry; else
/// what the entries name. Example: kvutil wal history --data-dir /var/lib/kvnode /registry/pods/a
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    log: LogArgs,
    /// The key
    key: String,
}

#[derive(Serialize)]
struct Row {
    index: u64,
    term: u64,
    time_unix_ms: u64,
    revision: Option<i64>,
    what: String,
    version: Option<i64>,
    value_bytes: Option<usize>,
    lease: String,
    member: String,
    user: String,
    /// Other keys changed at the same revision.
    siblings: Vec<String>,
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let wal = args.log.wal()?;
    let key = args.key.as_bytes();
    let mut rows: Vec<Row> = Vec::new();
    let outline = replay::outline(&wal, None, 0)?;
    let row = |entry: &kvnode_wal::Entry, written_ms: u64| {
        let decoded = decode(entry, false);
        let time = if decoded.time_ms > 0 {
            decoded.time_ms
        } else {
            written_ms
        };
        let row = Row {
            index: entry.index,
            term: entry.term,
            time_unix_ms: time,
            revision: None,
            what: decoded.kind.clone(),
            version: None,
            value_bytes: None,
            lease: String::new(),
            member: format!("{:x}", decoded.member),
            user: decoded.user.clone(),
            siblings: Vec::new(),
        };
        (row, decoded)
    };
    if replay::is_complete(&outline) {
        let scratch = shell.scratch()?;
        let mut store = replay::empty(&scratch, kvnode_store::Config::default())?;
        let mut progress = shell.progress.count("replaying", outline.last_index);
        replay::run(
            &mut store,
            &wal,
            &outline,
            outline.last_index,
            true,
            |entry, written_ms, changes| {
                progress.add(1);
                let Some(entry) = entry else { return true };
                for change in changes {
                    let kv_of = |event: &kvnode_api::Event| event.kv.clone().unwrap_or_default();
                    let Some(event) = change.events.iter().rfind(|event| kv_of(event).key == key)
                    else {
                        continue;
                    };
                    let kv = kv_of(event);
                    let is_put = event.r#type == kvnode_api::EventType::Put as i32;
                    let (mut row, decoded) = row(entry, written_ms);
                    row.revision = Some(change.revision);
                    row.what = format!(
                        "{} by {}",
                        if is_put { "put" } else { "delete" },
                        decoded.kind
                    );
                    row.version = is_put.then_some(kv.version);
                    row.value_bytes = is_put.then_some(kv.value.len());
                    row.lease = if kv.lease == 0 {
                        String::new()
                    } else {
                        format!("{:x}", kv.lease)
                    };
                    let mut siblings: Vec<_> = change
                        .events
                        .iter()
                        .map(kv_of)
                        .filter(|kv| kv.key != key)
                        .map(|kv| show(&kv.key))
                        .collect();
                    siblings.dedup();
                    row.siblings = siblings;
                    rows.push(row);
                }
                true
            },
        )?;
    } else {
        shell.note("the log does not go back to its first entry: revisions are not known");
        log::entries(&wal, |entry, written_ms| {
            let (row, decoded) = row(&entry, written_ms);
            if decoded
                .ops
                .iter()
                .any(|op| op.op != "get" && op.touches(key))
            {
                rows.push(row);
            }
            true
        })?;
    }
    let rows = rows.into_iter().map(Ok::<_, Failure>);
    shell
        .output
        .rows("kvutil.wal.history.1", rows, |row: &Row| {
            let revision = row
                .revision
                .map_or_else(|| "-".to_owned(), |revision| revision.to_string());
            let mut text = format!(
                "revision {revision:>6}  index {:>6} term {} at {}  {}",
                row.index, row.term, row.time_unix_ms, row.what
            );
            if let (Some(version), Some(bytes)) = (row.version, row.value_bytes) {
                text.push_str(&format!(", version {version}, {bytes} bytes"));
            }
            if !row.lease.is_empty() {
                text.push_str(&format!(", lease {}", row.lease));
            }
            if !row.siblings.is_empty() {
                text.push_str(&format!(", with {}", row.siblings.join(" ")));
            }
            text
        })?;
    Ok(Outcome::Fine)
}
