//! A restore written down once, so that every member carries out the same: `restore-plan.json`.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ids;
use super::topology::{Changes, Founder};
use crate::failure::{Code, Failure, Result};

const SCHEMA: &str = "kvutil.restore-plan.1";
/// What is behind is not looked at: a plan has some hundred bytes per member.
const BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub schema: String,
    /// The digest the snapshot ends with.
    pub snapshot_sha256: String,
    /// Drawn when the plan was made; two plans for one snapshot make two clusters.
    pub restore_id: String,
    pub cluster_id: String,
    pub members: Vec<Founder>,
    pub changes: Changes,
}

impl Plan {
    pub fn new(sha256: &str, restore_id: &str, members: Vec<Founder>, changes: Changes) -> Self {
        let mut plan = Plan {
            schema: SCHEMA.into(),
            snapshot_sha256: sha256.into(),
            restore_id: restore_id.into(),
            cluster_id: String::new(),
            members,
            changes,
        };
        plan.cluster_id = format!("{:x}", plan.computed());
        plan
    }

    pub fn cluster(&self) -> u64 {
        u64::from_str_radix(&self.cluster_id, 16).unwrap_or(0)
    }

    fn computed(&self) -> u64 {
        let mut text = format!("{}{}", self.changes.text(), self.restore_id);
        // Names and URLs too: an id alone would not show that they were changed.
        for member in &self.members {
            text.push_str(&format!(";{:?}{:?}", member.name, member.peer_urls));
        }
        let members = self.members.iter().map(Founder::number);
        ids::cluster(members, &self.snapshot_sha256, &text)
    }

    /// Also refuses one that was changed by hand: the others would not carry out the same.
    pub fn read(path: &Path) -> Result<Self> {
        let mut text = Vec::new();
        let read = File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut text));
        read.map_err(|e| {
            Failure::io("read", path, &e)
                .hint("make one with --initial-cluster ... --write-plan FILE, on any machine")
        })?;
        let wrong = |what: String| {
            Failure::new(
                Code::Refused,
                format!("{}: {what}", path.display()),
                "kvutil snapshot restore --help",
            )
            .hint("make a new plan with --write-plan, and give the same file to every member")
        };
        let plan: Plan =
            serde_json::from_slice(&text).map_err(|e| wrong(format!("no plan: {e}")))?;
        if plan.schema != SCHEMA {
            return Err(wrong(format!(
                "{} is expected, {} found",
                SCHEMA, plan.schema
            )));
        }
        let computed = plan.computed();
        if computed != plan.cluster() || plan.members.is_empty() {
            return Err(wrong(format!(
                "it says cluster {}, what it contains makes {computed:x}: it was changed",
                plan.cluster_id
            )));
        }
        Ok(plan)
    }

    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}
