//! A lock that one session at a time holds.

use bytes::Bytes;
use kvnode_api as api;
use kvnode_api::request_op::Request;

use super::{Session, by_creation, created_at, op, own_key, range_of, wait_for_older, with_slash};
use crate::client::Client;
use crate::error::{Error, Result};

/// A session's place in the queue for a name. Dropping it releases nothing: the key stays until
/// [`Lock::release`] or the end of the session.
pub struct Lock {
    client: Client,
    lease: i64,
    prefix: Bytes,
    key: Bytes,
    revision: i64,
}

impl Lock {
    pub fn new(session: &Session, name: impl AsRef<[u8]>) -> Lock {
        let prefix = with_slash(name);
        Lock {
            client: session.client().with_timeout(None),
            lease: session.lease(),
            key: own_key(&prefix, session.lease()),
            prefix,
            revision: -1,
        }
    }

    /// Waits until the lock is held. Not fair to those who ask again, but first come, first served
    /// among those who wait. Dropped half-way, the place in the queue remains: call
    /// [`Lock::release`] to give it up.
    ///
    /// # Errors
    /// [`Error::SessionExpired`] if the lease ended while waiting.
    pub async fn acquire(&mut self) -> Result<api::ResponseHeader> {
        if let Some(header) = self.queue().await? {
            return Ok(header);
        }
        wait_for_older(&self.client, &self.prefix, self.revision - 1).await?;
        let own = self.client.range(crate::kv::get(self.key.clone())).await?;
        if own.kvs.is_empty() {
            return Err(Error::SessionExpired);
        }
        Ok(own.header.unwrap_or_default())
    }

    /// Takes the lock if nobody holds it; false if somebody does.
    pub async fn try_acquire(&mut self) -> Result<bool> {
        if self.queue().await?.is_some() {
            return Ok(true);
        }
        self.release().await?;
        Ok(false)
    }

    /// Gives the lock, or the place in the queue, up.
    pub async fn release(&mut self) -> Result<()> {
        let request = api::DeleteRangeRequest {
            key: self.key.clone(),
            ..Default::default()
        };
        self.client.delete_range(request).await?;
        self.revision = -1;
        Ok(())
    }

    /// The key that stands for this session in the queue.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// A compare that holds only while the lock is held, for transactions that must not outlive it.
    pub fn is_held(&self) -> api::Compare {
        created_at(&self.key, self.revision)
    }

    /// Puts the own key; the header if that already makes it the first.
    async fn queue(&mut self) -> Result<Option<api::ResponseHeader>> {
        let put = api::PutRequest {
            key: self.key.clone(),
            lease: self.lease,
            ..Default::default()
        };
        let owner = op(Request::RequestRange(by_creation(
            &self.prefix,
            api::SortOrder::Ascend,
        )));
        let own = op(Request::RequestRange(crate::kv::get(self.key.clone())));
        let answer = self
            .client
            .txn(api::TxnRequest {
                compare: vec![created_at(&self.key, 0)],
                success: vec![op(Request::RequestPut(put)), owner.clone()],
                failure: vec![own, owner],
            })
            .await?;
        let header = answer.header.unwrap_or_default();
        self.revision = match answer.succeeded {
            true => header.revision,
            false => range_of(answer.responses.first())
                .first()
                .map_or(header.revision, |kv| kv.create_revision),
        };
        let owner = range_of(answer.responses.get(1)).first();
        let first = owner.is_none_or(|owner| owner.create_revision == self.revision);
        Ok(first.then_some(header))
    }
}
