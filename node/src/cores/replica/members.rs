//! Who belongs to the cluster: changes on their way to the log, and this member's own end.
//!
//! A change was judged by whoever asks, on the member table; here it is proposed or sent to the leader, who judges it on
//! what it alone knows. What another look at the table may settle is answered with [`look_again`], and the asker does;
//! what got no answer is left to its result or its deadline, and never sent again.

use std::time::Duration;

use kvnode_api::status::{Code, Status};
use kvnode_replica::{ConfChange, Refused};

use super::{CoreMessage, ReplicaCore};
use crate::rt;
use crate::slots::Ticket;

/// Changes sent to the leader and not answered, at a time; one more is "too many requests".
const SENT_MAX: usize = 256;
/// How long a member that is removed goes on: what it has to say should still leave, above all to the client that asked.
const LEAVE_AFTER: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Changes {
    sent: Vec<Sent>,
}

struct Sent {
    forward: u64,
    ticket: Ticket,
    deadline_ms: u64,
}

impl ReplicaCore {
    pub(super) fn reconfigure(&mut self, ticket: Ticket, change: &ConfChange, known: u64) {
        let result = self.replica.propose_conf_change_knowing(change, known);
        let refused = match result {
            Ok(()) => return,
            Err(Refused::NotLeader {
                leader: Some(leader),
            }) if self.link.is_connected(leader) => match self.send_change(ticket, change, known) {
                Ok(()) => return,
                Err(refused) => refused,
            },
            // The leader itself is to leave: the next one is asked again.
            Err(Refused::TransferFirst) => match self.replica.transfer_leader(None) {
                Ok(_) => Refused::TransferFirst,
                Err(refused) => refused,
            },
            Err(refused) => refused,
        };
        self.refuse_change(ticket, &refused);
    }

    fn send_change(
        &mut self,
        ticket: Ticket,
        change: &ConfChange,
        known: u64,
    ) -> Result<(), Refused> {
        let now_ms = self.shared.now_ms();
        self.changes.sent.retain(|sent| sent.deadline_ms > now_ms);
        if self.changes.sent.len() >= SENT_MAX {
            return Err(Refused::Busy);
        }
        let forward = self.proposals.next_forward();
        self.replica.forward_conf_change(forward, change, known)?;
        self.changes.sent.push(Sent {
            forward,
            ticket,
            deadline_ms: now_ms + self.shared.request_timeout_ms(),
        });
        Ok(())
    }

    /// What the leader said to a forward that is no command.
    pub(super) fn change_answered(&mut self, forward: u64, result: Result<(), Refused>) {
        let sent = &mut self.changes.sent;
        let Some(at) = sent.iter().position(|sent| sent.forward == forward) else {
            return;
        };
        let ticket = sent.swap_remove(at).ticket;
        if let Err(refused) = result {
            self.refuse_change(ticket, &refused);
        }
    }

    fn refuse_change(&self, ticket: Ticket, refused: &Refused) {
        log::debug!("change of the membership: {refused}");
        let status = answer(refused);
        self.tell(ticket, CoreMessage::Refused { ticket, status });
    }

    /// This member's own removal was applied.
    pub(super) fn removed(&mut self) {
        self.leave("its removal is in the log".to_owned());
    }

    /// A peer has refused the connection: this member was removed while it was away.
    pub(super) fn told_removed(&mut self, by: u64) {
        self.leave(format!("member {by:x} says so"));
    }

    fn leave(&mut self, why: String) {
        self.link.flush();
        let shared = std::sync::Arc::clone(&self.shared);
        if !shared.departure.announce() {
            return;
        }
        log::error!(
            "member {:x} has been permanently removed from cluster {:x} ({why}); stopping",
            shared.member_id,
            shared.cluster_id
        );
        rt::spawn_local(async move {
            rt::sleep(LEAVE_AFTER).await;
            shared.departure.leave();
        });
    }
}

/// To whoever asked for a change: the members, or the leader, are not what they were; look and ask again.
fn look_again() -> Status {
    Status::new(Code::Aborted, "etcdserver: the membership is changing")
}

/// Whether an answer is [`look_again`]'s.
pub fn is_look_again(status: &Status) -> bool {
    status.code == Code::Aborted
}

/// What a client hears, or [`look_again`].
fn answer(refused: &Refused) -> Status {
    match refused {
        Refused::NotLeader { .. }
        | Refused::Transferring
        | Refused::Stalled
        | Refused::ConfChangePending
        | Refused::ConfChangeStale
        | Refused::TransferFirst => look_again(),
        Refused::LearnerBehind { .. } => Status::learner_not_ready(),
        Refused::QuorumAtRisk { .. } | Refused::NoTransferee => Status::unhealthy_cluster(),
        Refused::ConfChangeInvalid(_) => Status::not_enough_started_members(),
        other => super::refusal(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_asked_again_and_the_rest_has_etcds_words() {
        for passing in [
            Refused::NotLeader { leader: None },
            Refused::Transferring,
            Refused::ConfChangePending,
            Refused::ConfChangeStale,
            Refused::TransferFirst,
        ] {
            assert!(is_look_again(&answer(&passing)), "{passing:?}");
        }
        let behind = Refused::LearnerBehind {
            member: 1,
            matched: 0,
            commit: 9,
        };
        let risk = Refused::QuorumAtRisk {
            active: 1,
            voters: 3,
            quorum: 2,
        };
        assert_eq!(answer(&behind), Status::learner_not_ready());
        assert_eq!(answer(&risk), Status::unhealthy_cluster());
        assert_eq!(answer(&Refused::Removed), Status::server_stopped());
        assert_eq!(answer(&Refused::Busy), Status::too_many_requests());
    }
}
