//! One file per command family.

pub mod data;
pub mod snapshot;
pub mod wal;

use serde::Serialize;

use crate::failure::{Failure, Outcome};
use crate::output::Output;

#[derive(Serialize)]
struct Version {
    schema: &'static str,
    version: &'static str,
}

pub fn version(output: &Output) -> Result<Outcome, Failure> {
    let version = Version {
        schema: "kvutil.version.1",
        version: env!("CARGO_PKG_VERSION"),
    };
    output.print(&version, |version| {
        format!("kvutil version: {}", version.version)
    });
    Ok(Outcome::Fine)
}
