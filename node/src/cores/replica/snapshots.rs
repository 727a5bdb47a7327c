//! Members too far behind for the log: where raft, the transport and [`Snapshots`](crate::snapshots::Snapshots) meet.

use kvnode_replica::{Message, SnapshotWanted};

use kvnode_api::status::{Code, Status};

use super::{ApplyJob, CoreMessage, ReplicaCore, View, post};
use crate::exit;
use crate::peers::SnapshotEvent;
use crate::slots::Ticket;
use crate::snapshots::{ReplaceJob, Todo};

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
            Todo::Replace => self.look_at_ready(),
        }
    }

    /// A re-sync is about to ask for a state.
    pub(super) fn expect_state(&mut self, from: u64, serial: u64, index_min: u64) {
        if let Err(why) = self.snapshots.expect(from, serial, index_min) {
            self.shared.resync.fail(&why);
        }
    }

    /// Another member asks for the state of this one.
    pub(super) fn send_state(&mut self, ticket: Ticket, to: u64, serial: u64) {
        let result = if self.leads() {
            let membership = self.replica.membership();
            self.snapshots
                .send_asked(to, serial, &self.view, membership)
        } else {
            Err("it does not lead any more".into())
        };
        let result = match (result, self.link.peers()) {
            (Ok(outgoing), Some(peers)) => {
                peers.send_snapshot(outgoing.to, outgoing.id, outgoing.source);
                Ok(())
            }
            (Ok(_), None) => Err("it is stopping".to_owned()),
            (Err(why), _) => Err(why),
        };
        let result = result.map_err(|why| Status::new(Code::Unavailable, why));
        self.tell(ticket, CoreMessage::Done { ticket, result });
    }

    /// A state that was asked for is staged. It takes over as soon as everything up to its index is with the apply thread.
    pub(super) fn look_at_ready(&mut self) {
        let Some(id) = self.snapshots.ready() else {
            return;
        };
        if self.direct.given() < id.index {
            return;
        }
        if self.leads() {
            self.snapshots.expect_nothing();
            let why = "this member leads now; move leadership first";
            return self.shared.resync.fail(why);
        }
        match self.replica.handed_out(id.index) {
            Some(entries) => {
                self.snapshots.replacing();
                let now_ms = self.shared.unix_ms();
                let note = format!(
                    "the state of member {:x} when it was re-synced at index {}",
                    self.shared.member_id,
                    self.direct.given()
                );
                let job = ReplaceJob {
                    index: id.index,
                    term: id.term,
                    entries,
                    now_ms,
                    note,
                };
                self.shared.resync.taking_over();
                post(&self.links.apply, ApplyJob::Replace(Box::new(job)));
            }
            None => {
                self.snapshots.expect_nothing();
                let why = "more was written meanwhile than this member's memory keeps of the log; try again when less is written";
                self.shared.resync.fail(why);
            }
        }
    }

    /// The apply thread has put another state in the place of the store's, or not.
    pub(super) fn replaced(&mut self, result: Result<View, String>) {
        self.snapshots.replaced(result.is_ok());
        match result {
            Ok(view) => {
                self.view = view;
                self.tell_membership();
                if self.leads() {
                    // It began to lead on what the old state said of leases.
                    self.replica.step_down();
                }
            }
            Err(why) => {
                log::warn!("the state was not replaced: {why}");
                self.shared.resync.fail(&why);
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
