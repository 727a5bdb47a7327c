//! Looking after members. All but alarms and downgrades speak of the one member that answers: use
//! [`Client::only`] to choose it.

use bytes::Bytes;
use kvnode_api as api;
use kvnode_api::alarm_request::AlarmAction;
use kvnode_api::downgrade_request::DowngradeAction;
use kvnode_api::service::Method;

use crate::client::{Answers, Client, Repeat};
use crate::error::Result;

impl Client {
    /// State of the member that answers.
    pub async fn status(&self) -> Result<api::StatusResponse> {
        self.unary(Method::Status, &api::StatusRequest {}, Repeat::Freely)
            .await
    }

    /// Alarms that are on.
    pub async fn alarms(&self) -> Result<api::AlarmResponse> {
        let request = api::AlarmRequest {
            action: AlarmAction::Get as i32,
            ..Default::default()
        };
        self.unary(Method::Alarm, &request, Repeat::Freely).await
    }

    /// Ends an alarm of a member; member 0 with [`api::AlarmType::None`] ends all there are.
    pub async fn alarm_disarm(
        &self,
        member_id: u64,
        alarm: api::AlarmType,
    ) -> Result<api::AlarmResponse> {
        let request = api::AlarmRequest {
            action: AlarmAction::Deactivate as i32,
            member_id,
            alarm: alarm as i32,
        };
        self.unary(Method::Alarm, &request, Repeat::Freely).await
    }

    /// Gives unused space back.
    pub async fn defragment(&self) -> Result<api::DefragmentResponse> {
        self.unary(
            Method::Defragment,
            &api::DefragmentRequest {},
            Repeat::IfNotSent,
        )
        .await
    }

    /// Hash over all keys up to a revision, 0 for the newest.
    pub async fn hash_kv(&self, revision: i64) -> Result<api::HashKVResponse> {
        self.unary(
            Method::HashKV,
            &api::HashKVRequest { revision },
            Repeat::Freely,
        )
        .await
    }

    /// Hands leadership over; only the leader can.
    pub async fn move_leader(&self, target_id: u64) -> Result<api::MoveLeaderResponse> {
        let request = api::MoveLeaderRequest { target_id };
        self.unary(Method::MoveLeader, &request, Repeat::IfNotSent)
            .await
    }

    /// Checks, starts or cancels a downgrade.
    pub async fn downgrade(
        &self,
        action: DowngradeAction,
        version: &str,
    ) -> Result<api::DowngradeResponse> {
        let request = api::DowngradeRequest {
            action: action as i32,
            version: version.to_owned(),
        };
        self.unary(Method::Downgrade, &request, Repeat::IfNotSent)
            .await
    }

    /// The whole state as a stream of bytes.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let answers = self
            .server_stream(Method::Snapshot, &api::SnapshotRequest {})
            .await?;
        Ok(Snapshot { answers })
    }
}

/// A snapshot arriving. Its last 32 bytes are the SHA-256 of all before them; the caller checks that.
pub struct Snapshot {
    answers: Answers<api::SnapshotResponse>,
}

/// A piece of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPart {
    pub bytes: Bytes,
    /// Bytes that follow, as far as the server knows; without the digest.
    pub remaining_bytes: u64,
    /// Version of the server's storage, empty if it does not say.
    pub version: String,
}

impl Snapshot {
    /// The next piece, or `None` after the last. A snapshot whose connection broke is worth nothing:
    /// ask for another.
    pub async fn next(&mut self) -> Result<Option<SnapshotPart>> {
        let part = self.answers.next().await?;
        Ok(part.map(|part| SnapshotPart {
            bytes: part.blob,
            remaining_bytes: part.remaining_bytes,
            version: part.version,
        }))
    }

    /// Who sends it.
    pub fn endpoint(&self) -> &str {
        self.answers.endpoint()
    }
}
