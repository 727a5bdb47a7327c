//! A lease that is renewed as long as somebody cares.

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::error::Result;

/// A lease and the task that renews it. Dropped, it is renewed no longer and ends after its time;
/// [`Session::close`] ends it at once.
pub struct Session {
    client: Client,
    lease: i64,
    expired: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Session {
    /// Makes a lease of `ttl_seconds` (60 is etcd's custom) and renews it.
    pub async fn new(client: &Client, ttl_seconds: i64) -> Result<Session> {
        let lease = client.lease_grant(ttl_seconds, 0).await?.id;
        Ok(Session::of(client, lease))
    }

    /// Renews a lease that exists.
    pub fn of(client: &Client, lease: i64) -> Session {
        let (tell, expired) = watch::channel(false);
        let mut keeper = client.lease_keep_alive(lease);
        let task = tokio::spawn(async move {
            loop {
                match keeper.next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => {
                        log::warn!("lease {lease:x} can no longer be renewed: {error}");
                        break;
                    }
                }
            }
            let _ = tell.send(true);
        });
        Session {
            client: client.clone(),
            lease,
            expired,
            task,
        }
    }

    /// The lease.
    pub fn lease(&self) -> i64 {
        self.lease
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns once the lease is gone, or must be taken for gone.
    pub async fn expired(&self) {
        let mut expired = self.expired.clone();
        // An error means that the task is gone, which is the same.
        let _ = expired.wait_for(|expired| *expired).await;
    }

    /// Ends the lease; whatever was held by it is free.
    pub async fn close(self) -> Result<()> {
        self.task.abort();
        self.client.lease_revoke(self.lease).await.map(|_| ())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}
