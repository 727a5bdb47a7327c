//! Changes of the membership, from the client's side.
//!
//! A change is judged on the member table as of an index, and proposed with that index; whoever leads refuses it if the
//! members have changed since, or cannot take it just now. Then this core looks at the table anew and judges again, until the
//! request's time is up. So of two clients that want the same address one gets it, and the other one hears why not.

use std::time::Duration;

use kvnode_api::Member;
use kvnode_api::status::Status;
use kvnode_replica::{ConfChange, Step};
use kvnode_store::Members;
use kvnode_store::command::{Command, Header, Kind, RequestId};

use super::ClientCore;
use crate::cores::replica::is_look_again;
use crate::cores::{ReplicaMessage, post};
use crate::rt;

/// Pause before the next look.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a change comes to: for the log's machine, and for the table.
pub struct Change {
    pub step: Step,
    pub kind: Kind,
    pub message: Vec<u8>,
}

impl ClientCore {
    /// Makes the change that `judge` finds good for the members as they are. Answers, once it is applied here, with
    /// the members after it.
    pub async fn reconfigure(
        &self,
        judge: impl Fn(&Members) -> Result<Change, Status>,
    ) -> Result<Vec<Member>, Status> {
        let deadline_ms = self.shared.now_ms() + self.shared.request_timeout_ms();
        loop {
            self.linearize().await?;
            let (change, known) =
                self.with_view(|view| (judge(view.members()), view.applied_index()));
            match self.reconfigure_once(change?, known).await {
                Ok(()) => return Ok(self.with_view(|view| view.members().list())),
                Err(status) if !is_look_again(&status) => return Err(status),
                Err(_) if self.shared.now_ms() >= deadline_ms => return Err(Status::timed_out()),
                Err(_) => rt::sleep(LOOK_AGAIN).await,
            }
        }
    }

    async fn reconfigure_once(&self, change: Change, known: u64) -> Result<(), Status> {
        self.admit(change.message.len())?;
        let pending = self.open(&self.proposals)?;
        let ticket = pending.ticket();
        let header = Header {
            request: RequestId {
                member: self.shared.member_id,
                incarnation: self.shared.incarnation,
                sequence: ticket.0,
            },
            time_ms: self.shared.unix_ms(),
            ..Header::default()
        };
        let change = ConfChange {
            steps: vec![change.step],
            context: Command::encode(change.kind, &header, &change.message),
            ..ConfChange::default()
        };
        let message = ReplicaMessage::Reconfigure {
            ticket,
            change,
            known,
        };
        post(&self.replica, message);
        pending.await.map(drop)
    }
}
