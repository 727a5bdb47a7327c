//! The standard gRPC health service: this server is one service, named "".

use bytes::Bytes;
use kvnode_api::status::Status;
use kvnode_api::{
    HealthCheckRequest, HealthCheckResponse, frame, health_check_response::ServingStatus,
};

use crate::http::{Reply, RequestStream, ResponseSink};

pub fn check(message: Bytes) -> Reply {
    let request: HealthCheckRequest = frame::decode(message)?;
    if !request.service.is_empty() {
        return Err(Status::health_unknown_service());
    }
    frame::encode(&HealthCheckResponse {
        status: ServingStatus::Serving as i32,
    })
}

/// The state now, then every change: there is none until the stream ends with the process.
pub async fn watch(
    mut requests: RequestStream,
    responses: &mut ResponseSink,
) -> Result<(), Status> {
    let message = requests.next().await?.ok_or_else(Status::missing_message)?;
    let request: HealthCheckRequest = frame::decode(message)?;
    let known = request.service.is_empty();
    let status = if known {
        ServingStatus::Serving
    } else {
        ServingStatus::ServiceUnknown
    };
    let sent = responses
        .send(frame::encode(&HealthCheckResponse {
            status: status as i32,
        })?)
        .await;
    if sent.is_ok() {
        responses.closed().await;
    }
    Ok(())
}
