//! Members too far behind for the log: where raft, the transport and [`Snapshots`](crate::snapshots::Snapshots) meet.

use kvnode_replica::{Message, SnapshotWanted};

use super::{ApplyJob, ReplicaCore, post};
use crate::exit;
use crate::peers::SnapshotEvent;
use crate::snapshots::Todo;

impl ReplicaCore {
    /// A peer can only be brought up to date by a snapshot that contains at least `wanted.index_min` and names it. If
    /// there is none to offer now, raft asks again with the peer's next heartbeat.
    pub(super) fn snapshot_wanted(&mut self, wanted: SnapshotWanted) {
        let membership = self.replica.membership();
        if let Some(offer) = self.snapshots.wanted(wanted, &self.view, membership) {
            self.replica.offer_snapshot(offer);
        }
    }

    /// raft announces a snapshot: the state leaves with it, or raft hears that it does not.
    pub(super) fn announce_snapshot(&mut self, announcement: &Message) {
        let outgoing = self.snapshots.send(announcement);
        self.replica.withdraw_snapshot();
        match (outgoing, self.link.peers()) {
            (Some(outgoing), Some(peers)) => {
                peers.send_snapshot(outgoing.to, outgoing.id, outgoing.source);
            }
            _ => self.replica.report_snapshot(announcement.to, false),
        }
    }

    pub(super) fn snapshot_event(&mut self, event: SnapshotEvent) {
        let applied = self.replica.status().applied;
        match self.snapshots.event(event, applied) {
            Todo::Nothing => {}
            Todo::Report { peer, delivered } => self.replica.report_snapshot(peer, delivered),
            Todo::Step(announcement) => {
                self.replica.step(*announcement);
                self.pump();
                self.snapshots.stepped();
            }
        }
    }

    /// The log is synced up to this write. An install's mark among it: the state may take over.
    pub(super) fn snapshot_written(&mut self, number: u64) {
        if let Some(job) = self.snapshots.written(number) {
            self.direct.installed(job.index);
            post(&self.links.apply, ApplyJob::Install(job));
        }
    }

    /// A write leaves for the log.
    pub(super) fn snapshot_writing(&mut self, write: &kvnode_replica::Write) {
        if let Err(why) = self.snapshots.writing(write) {
            exit::fatal(
                exit::Code::Safety,
                why,
                "start this member again; it has the state it had",
            );
        }
    }

    /// Now and then: what was offered and not asked for is let go of.
    pub(super) fn look_at_snapshots(&mut self) {
        if self.snapshots.expire() {
            self.replica.withdraw_snapshot();
        }
    }
}
