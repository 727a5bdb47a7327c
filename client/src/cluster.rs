//! Who belongs to the cluster.

use kvnode_api as api;
use kvnode_api::service::Method;

use crate::client::{Client, Repeat};
use crate::error::Result;

impl Client {
    /// All members; `linearizable` asks a quorum first.
    pub async fn member_list(&self, linearizable: bool) -> Result<api::MemberListResponse> {
        let request = api::MemberListRequest { linearizable };
        self.unary(Method::MemberList, &request, Repeat::Freely)
            .await
    }

    /// Announces a new member, which can then be started.
    pub async fn member_add(
        &self,
        peer_urls: Vec<String>,
        is_learner: bool,
    ) -> Result<api::MemberAddResponse> {
        let request = api::MemberAddRequest {
            peer_urls,
            is_learner,
        };
        self.unary(Method::MemberAdd, &request, Repeat::IfNotSent)
            .await
    }

    /// Removes a member for ever.
    pub async fn member_remove(&self, id: u64) -> Result<api::MemberRemoveResponse> {
        self.unary(
            Method::MemberRemove,
            &api::MemberRemoveRequest { id },
            Repeat::IfNotSent,
        )
        .await
    }

    /// Changes where other members reach one.
    pub async fn member_update(
        &self,
        id: u64,
        peer_urls: Vec<String>,
    ) -> Result<api::MemberUpdateResponse> {
        let request = api::MemberUpdateRequest { id, peer_urls };
        self.unary(Method::MemberUpdate, &request, Repeat::IfNotSent)
            .await
    }

    /// Lets a learner that has caught up vote.
    pub async fn member_promote(&self, id: u64) -> Result<api::MemberPromoteResponse> {
        self.unary(
            Method::MemberPromote,
            &api::MemberPromoteRequest { id },
            Repeat::IfNotSent,
        )
        .await
    }
}
