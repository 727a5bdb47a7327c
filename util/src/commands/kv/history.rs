//! `kvutil kv history`: the changes of a key, or of all under a prefix, as the store has them.

use bytes::Bytes;
use kvnode_api::{EventType, KeyRange};
use serde::Serialize;

use super::prefix_range;
use crate::failure::{Outcome, Result};
use crate::output::show;
use crate::shell::Shell;
use crate::source::SourceArgs;

/// Revisions asked for at a time.
const STEP_REVISIONS: usize = 1000;

/// Print the changes of a key that are not compacted away
///
/// Example: kvutil kv history --data-dir /var/lib/kvnode --key /a --values
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// The key
    #[arg(long, required_unless_present = "prefix")]
    key: Option<String>,
    /// All keys that start with this
    #[arg(long, conflicts_with = "key")]
    prefix: Option<String>,
    /// Show values
    #[arg(long)]
    values: bool,
}

#[derive(Serialize)]
struct Row {
    revision: i64,
    what: &'static str,
    key: String,
    version: i64,
    lease: String,
    value_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

/// All of one key, with values.
pub fn of_key(source: SourceArgs, key: &str, shell: &Shell) -> Result<Outcome> {
    let args = Args {
        source,
        key: Some(key.to_owned()),
        prefix: None,
        values: true,
    };
    run(&args, shell)
}

pub fn run(args: &Args, shell: &Shell) -> Result<Outcome> {
    let source = args.source.open(shell)?;
    let range = match (&args.key, &args.prefix) {
        (Some(key), _) => KeyRange::Single(Bytes::copy_from_slice(key.as_bytes())),
        (None, prefix) => prefix_range(prefix.as_deref().unwrap_or_default()),
    };
    let to = source.view.revision();
    let mut from = source.view.compact_revision().max(1);
    let mut rows = Vec::new();
    while from <= to {
        let piece = source.view.history(from, to, &range, STEP_REVISIONS)?;
        for change in &piece.changes {
            for event in &change.events {
                let Some(kv) = &event.kv else { continue };
                let is_put = event.r#type == EventType::Put as i32;
                rows.push(Ok::<_, crate::failure::Failure>(Row {
                    revision: change.revision,
                    what: if is_put { "put" } else { "delete" },
                    key: show(&kv.key),
                    version: kv.version,
                    lease: if kv.lease == 0 {
                        String::new()
                    } else {
                        format!("{:x}", kv.lease)
                    },
                    value_bytes: kv.value.len(),
                    value: (args.values && is_put).then(|| show(&kv.value)),
                }));
            }
        }
        from = piece.next.max(from + 1);
    }
    shell
        .output
        .rows("kvutil.kv.history.1", rows.into_iter(), |row: &Row| {
            let mut text = format!("revision {:>8} {:<6} {}", row.revision, row.what, row.key);
            if row.what == "put" {
                text.push_str(&format!(
                    ", version {}, {} bytes",
                    row.version, row.value_bytes
                ));
            }
            if let Some(value) = &row.value {
                text.push_str(&format!(" = {value}"));
            }
            text
        })?;
    Ok(Outcome::Fine)
}
