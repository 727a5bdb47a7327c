//! Leases, and keeping them alive.

use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use kvnode_api as api;
use kvnode_api::Code;
use kvnode_api::service::Method;
use tokio::time::Instant;

use crate::client::{Answers, Client, Repeat};
use crate::connection;
use crate::error::{Attempts, Error, Failure, Result};

/// How long the first renewal may take; later ones have the lease's own time.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// Pause before a broken stream of renewals is opened again.
const PAUSE: Duration = Duration::from_millis(250);

impl Client {
    /// Makes a lease of about `ttl_seconds`; `id` 0 lets the server choose.
    pub async fn lease_grant(&self, ttl_seconds: i64, id: i64) -> Result<api::LeaseGrantResponse> {
        let request = api::LeaseGrantRequest {
            ttl: ttl_seconds,
            id,
        };
        // Repeated without an id it may leave a second lease, which nobody renews.
        self.unary(Method::LeaseGrant, &request, Repeat::Freely)
            .await
    }

    /// Ends a lease; the keys on it are deleted.
    pub async fn lease_revoke(&self, id: i64) -> Result<api::LeaseRevokeResponse> {
        let request = api::LeaseRevokeRequest { id };
        self.unary(Method::LeaseRevoke, &request, Repeat::Freely)
            .await
    }

    /// How long a lease still has, and with `keys` which keys are on it.
    pub async fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Result<api::LeaseTimeToLiveResponse> {
        let request = api::LeaseTimeToLiveRequest { id, keys };
        self.unary(Method::LeaseTimeToLive, &request, Repeat::Freely)
            .await
    }

    /// All leases.
    pub async fn leases(&self) -> Result<api::LeaseLeasesResponse> {
        self.unary(
            Method::LeaseLeases,
            &api::LeaseLeasesRequest {},
            Repeat::Freely,
        )
        .await
    }

    /// Renews a lease once.
    ///
    /// # Errors
    /// The status `requested lease not found` if there is none.
    pub async fn lease_keep_alive_once(&self, id: i64) -> Result<api::LeaseKeepAliveResponse> {
        let mut keeper = self.lease_keep_alive(id);
        let asking = keeper.next();
        let answer = match self.timeout() {
            None => asking.await?,
            Some(limit) => match tokio::time::timeout(limit, asking).await {
                Ok(answer) => answer?,
                Err(_) => {
                    return Err(Error::Deadline {
                        after: limit,
                        attempts: Attempts::default(),
                    });
                }
            },
        };
        answer.ok_or_else(|| Error::Status {
            status: api::Status::lease_not_found(),
            endpoint: keeper.endpoint,
        })
    }

    /// Renews a lease as long as [`KeepAlive::next`] is called, which waits a third of the lease's
    /// time between two renewals.
    pub fn lease_keep_alive(&self, id: i64) -> KeepAlive {
        let now = Instant::now();
        KeepAlive {
            client: self.clone(),
            id,
            stream: None,
            due: now,
            end: now + FIRST_ANSWER.max(self.config().connect_timeout),
            endpoint: String::new(),
        }
    }
}

/// A lease being renewed.
pub struct KeepAlive {
    client: Client,
    id: i64,
    stream: Option<(SendStream<Bytes>, Answers<api::LeaseKeepAliveResponse>)>,
    due: Instant,
    /// When the lease is over if no renewal succeeds before.
    end: Instant,
    endpoint: String,
}

impl KeepAlive {
    /// Renews when it is time and returns the server's answer; `None` once the lease is gone.
    /// Broken connections are replaced.
    ///
    /// # Errors
    /// The last error, if no server could be reached until the lease's time was over.
    pub async fn next(&mut self) -> Result<Option<api::LeaseKeepAliveResponse>> {
        tokio::time::sleep_until(self.due).await;
        loop {
            let error = match tokio::time::timeout_at(self.end, self.renew()).await {
                Ok(Ok(Some(answer))) if answer.ttl <= 0 => return Ok(None),
                Ok(Ok(Some(answer))) => {
                    let ttl = Duration::from_secs(answer.ttl.unsigned_abs());
                    self.due = Instant::now() + ttl / 3;
                    self.end = Instant::now() + ttl;
                    return Ok(Some(answer));
                }
                Ok(Ok(None)) => Error::Broken {
                    endpoint: self.endpoint.clone(),
                    reason: "the server ended the stream".to_owned(),
                },
                Ok(Err(error)) => error,
                Err(_) => return Err(Error::SessionExpired),
            };
            self.stream = None;
            let passing = match &error {
                Error::Status { status, .. }
                    if status.message == api::Status::no_leader().message =>
                {
                    true
                }
                Error::Status { status, .. } => status.code == Code::Unavailable,
                Error::Broken { .. } | Error::Unreachable { .. } => true,
                _ => false,
            };
            if !passing || Instant::now() + PAUSE >= self.end {
                return Err(error);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn renew(&mut self) -> Result<Option<api::LeaseKeepAliveResponse>> {
        let (mut sender, mut answers) = match self.stream.take() {
            Some(stream) => stream,
            None => self.client.both_ways(Method::LeaseKeepAlive).await?,
        };
        self.endpoint = answers.endpoint().to_owned();
        let request = api::LeaseKeepAliveRequest { id: self.id };
        if let Err(failure) = connection::send(&mut sender, &request) {
            let reason = match failure {
                Failure::NotSent(reason) | Failure::Broken(reason) => reason,
                Failure::Status(status) => status.message.into_owned(),
            };
            // What the server said when it ended the stream tells more.
            answers.next().await?;
            return Err(Error::Broken {
                endpoint: self.endpoint.clone(),
                reason,
            });
        }
        let answer = answers.next().await?;
        self.stream = Some((sender, answers));
        Ok(answer)
    }
}
