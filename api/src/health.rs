//! Service `grpc.health.v1.Health`.

use prost::Message;

/// Asks whether a service serves.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct HealthCheckRequest {
    /// Empty means the whole server.
    #[prost(string, tag = "1")]
    pub service: String,
}

/// Answer to `Check`, and what `Watch` streams.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct HealthCheckResponse {
    /// How it is.
    #[prost(enumeration = "health_check_response::ServingStatus", tag = "1")]
    pub status: i32,
}

pub mod health_check_response {
    /// How a service is.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
    #[repr(i32)]
    pub enum ServingStatus {
        Unknown = 0,
        Serving = 1,
        NotServing = 2,
        ServiceUnknown = 3,
    }
}
