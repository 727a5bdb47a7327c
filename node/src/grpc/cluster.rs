//! The Cluster service: who is there.

use std::rc::Rc;

use bytes::Bytes;
use kvnode_api::{MemberListRequest, MemberListResponse, frame};

use crate::cores::client::ClientCore;
use crate::http::Reply;

pub async fn member_list(core: &Rc<ClientCore>, message: Bytes) -> Reply {
    let request: MemberListRequest = frame::decode(message)?;
    if request.linearizable {
        core.linearize().await?;
    }
    // No revision in this service's headers.
    let response = MemberListResponse {
        header: Some(core.header(0)),
        members: core.with_view(|view| view.members().list()),
    };
    core.encode(|buffer| frame::encode_into(&response, buffer))
}
