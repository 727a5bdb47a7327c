//! `kvutil version`.

use serde::Serialize;

use crate::failure::{Outcome, Result};
use crate::shell::Shell;

#[derive(Serialize)]
struct Version {
    schema: &'static str,
    version: &'static str,
    data_format: u32,
    store_schema: u8,
    snapshot_format: String,
}

pub fn run(shell: &Shell) -> Result<Outcome> {
    let version = Version {
        schema: "kvutil.version.1",
        version: env!("CARGO_PKG_VERSION"),
        data_format: kvnode_store::datadir::FORMAT,
        store_schema: kvnode_store::schema::SCHEMA_VERSION,
        snapshot_format: format!("{}.{}", kvnode_snapshot::MAJOR, kvnode_snapshot::MINOR),
    };
    shell.output.print(&version, |version| {
        format!(
            "kvutil version: {}\ndata format: {}\nsnapshot format: {}",
            version.version, version.data_format, version.snapshot_format
        )
    });
    Ok(Outcome::Fine)
}
