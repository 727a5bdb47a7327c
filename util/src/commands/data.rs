//! `kvutil data`: whose data directory it is.

use std::path::Path;

use kvnode_store::datadir;
use serde::Serialize;

use crate::failure::{Failure, Outcome};
use crate::output::Output;

#[derive(Serialize)]
struct Info {
    schema: &'static str,
    data_dir: String,
    /// Hexadecimal, as the server prints ids.
    cluster_id: String,
    member_id: String,
    instance_id: String,
    format: u32,
}

pub fn info(data_dir: &Path, output: &Output) -> Result<Outcome, Failure> {
    let identity = datadir::peek(data_dir)?;
    let instance: String = identity
        .instance_id
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let info = Info {
        schema: "kvutil.data.info.1",
        data_dir: data_dir.display().to_string(),
        cluster_id: format!("{:x}", identity.cluster_id),
        member_id: format!("{:x}", identity.member_id),
        instance_id: instance,
        format: datadir::FORMAT,
    };
    output.print(&info, |info| {
        format!(
            "data directory: {}\ncluster:        {}\nmember:         {}\ninstance:       {}\nformat:         {}",
            info.data_dir, info.cluster_id, info.member_id, info.instance_id, info.format
        )
    });
    Ok(Outcome::Fine)
}
