//! Members too far behind for the log: where snapshots are asked for, and where their transfers are heard of.

use kvnode_replica::SnapshotWanted;

use super::ReplicaCore;
use crate::peers::SnapshotEvent;

impl ReplicaCore {
    /// A peer can only be brought up to date by a snapshot that contains at least `wanted.index_min` and names it.
    pub(super) fn snapshot_wanted(&mut self, wanted: SnapshotWanted) {
        log::warn!(
            "member {:x} needs a snapshot from index {} on; this version cannot send one",
            wanted.to,
            wanted.index_min
        );
    }

    pub(super) fn snapshot_event(&mut self, event: SnapshotEvent) {
        if let SnapshotEvent::Offered(snapshot) = event {
            snapshot.refuse("this version cannot take snapshots from members");
        }
    }
}
