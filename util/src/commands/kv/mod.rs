//! `kvutil kv`: keys, history and leases of a source.

mod count;
mod du;
mod get;
pub mod history;
mod leases;
mod scan;

use bytes::Bytes;
use clap::Subcommand;
use kvnode_api::{KeyRange, KeyValue};
use serde::Serialize;

use crate::failure::{Outcome, Result};
use crate::output::show;
use crate::shell::Shell;

#[derive(Debug, Subcommand)]
pub enum Command {
    Get(get::Args),
    Scan(scan::Args),
    Count(count::Args),
    Du(du::Args),
    Leases(leases::Args),
    History(history::Args),
}

pub fn run(command: &Command, shell: &Shell) -> Result<Outcome> {
    match command {
        Command::Get(args) => get::run(args, shell),
        Command::Scan(args) => scan::run(args, shell),
        Command::Count(args) => count::run(args, shell),
        Command::Du(args) => du::run(args, shell),
        Command::Leases(args) => leases::run(args, shell),
        Command::History(args) => history::run(args, shell),
    }
}

/// A pair as printed.
#[derive(Serialize)]
pub struct Pair {
    pub key: String,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub lease: String,
    pub value_bytes: usize,
    /// Only if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

pub fn pair(kv: &KeyValue, values: bool) -> Pair {
    Pair {
        key: show(&kv.key),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: if kv.lease == 0 {
            String::new()
        } else {
            format!("{:x}", kv.lease)
        },
        value_bytes: kv.value.len(),
        value: values.then(|| show(&kv.value)),
    }
}

/// All keys that start with `prefix`; all keys for an empty one.
pub fn prefix_range(prefix: &str) -> KeyRange {
    let start = Bytes::copy_from_slice(prefix.as_bytes());
    if prefix.is_empty() {
        return KeyRange::From(start);
    }
    let mut end = start.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return KeyRange::Interval {
                start,
                end: end.into(),
            };
        }
    }
    KeyRange::From(start)
}
