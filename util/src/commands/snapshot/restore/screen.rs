//! What a restore came to, as lines to read.

use kvnode_store::remake::{Leases, Remake};

use super::Restored;
use crate::output::human;
use crate::process;

pub fn screen(restored: &Restored, created_ms: u64, selection: &str, remake: &Remake) -> String {
    let age = process::now_ms().saturating_sub(created_ms) / 60_000;
    let age = match age {
        0..120 => format!("{age} min old"),
        120..2880 => format!("{} h old", age / 60),
        _ => format!("{} days old", age / 1440),
    };
    let mut lines = vec![format!(
        "snapshot    revision {}, {} keys restored, digest {}, {age}",
        restored.old_revision, restored.keys, restored.digest
    )];
    if !selection.is_empty() {
        lines.push(format!(
            "part        the snapshot holds a part only: {selection}"
        ));
    }
    lines.push(match restored.cluster_id == restored.old_cluster_id {
        true => format!("cluster     id {} KEPT", restored.cluster_id),
        false => format!(
            "cluster     NEW id {} (old {}: its members cannot join)",
            restored.cluster_id, restored.old_cluster_id
        ),
    });
    let members: Vec<String> = restored
        .members
        .iter()
        .map(|member| {
            let this = if member.name == restored.name {
                " (this)"
            } else {
                ""
            };
            format!("{} {}{this}", member.name, member.id)
        })
        .collect();
    lines.push(format!("members     {}", members.join("   ")));
    lines.push(match restored.bump {
        0 => format!(
            "revision    {} as it was, with its history: watchers that had seen more will not notice",
            restored.revision
        ),
        bump => format!(
            "revision    {} -> {} (bump {bump}; all older marked compacted, so watchers re-list)",
            restored.old_revision, restored.revision
        ),
    });
    lines.push(match remake.leases {
        Leases::Drop => "leases      dropped; their keys stay".to_owned(),
        Leases::Keep => format!(
            "leases      {} kept, clocks restart at full TTL",
            restored.leases
        ),
        Leases::Extend(seconds) => format!(
            "leases      {} kept, clocks restart at full TTL and {seconds} s more, once",
            restored.leases
        ),
    });
    lines.push(format!("auth        {}", restored.auth));
    if !restored.prefix.is_empty() {
        lines.push(format!("prefix      {}", restored.prefix));
    }
    lines.push(format!(
        "checked     structure ok, hashkv {}{}",
        restored.hashkv,
        if restored.hashkv_is_the_snapshots {
            " = snapshot"
        } else {
            ""
        }
    ));
    lines.push(format!(
        "done        {} in place   {}   took {:.1}s",
        restored.data_dir,
        human(restored.bytes),
        restored.seconds
    ));
    for (number, step) in restored.next.iter().enumerate() {
        let word = if number == 0 { "next" } else { "" };
        lines.push(format!("{word:<12}{step}"));
    }
    lines.join("\n")
}
