//! The client for programs without a runtime: each call runs one, on the calling thread.
//!
//! Connections are only driven while a call waits, so this is for tools that ask and answer, not for
//! programs that hold leases.
//!
//! ```no_run
//! use kvnode_client::{Config, blocking::Client};
//!
//! let client = Client::new(Config::new(["127.0.0.1:2379"]))?;
//! println!("{}", client.status()?.version);
//! let mut snapshot = client.snapshot()?;
//! while let Some(part) = snapshot.next()? {
//!     println!("{} bytes", part.bytes.len());
//! }
//! # Ok::<(), kvnode_client::Error>(())
//! ```

use std::future::Future;
use std::sync::Arc;

use kvnode_api as api;
use tokio::runtime::Runtime;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::maintenance::SnapshotPart;

/// As [`crate::Client`], but every call blocks. Must not be used on a thread of a tokio runtime.
#[derive(Clone)]
pub struct Client {
    client: crate::Client,
    runtime: Arc<Runtime>,
}

impl Client {
    /// As [`crate::Client::new`].
    ///
    /// # Errors
    /// [`Error::Config`], also if the system refuses a runtime.
    pub fn new(config: Config) -> Result<Client> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| Error::Config(format!("no runtime: {error}")))?;
        Ok(Client {
            client: crate::Client::new(config)?,
            runtime: Arc::new(runtime),
        })
    }

    /// Asks only this endpoint.
    pub fn only(&self, endpoint: &str) -> Result<Client> {
        Ok(Client {
            client: self.client.only(endpoint)?,
            runtime: Arc::clone(&self.runtime),
        })
    }

    /// Any other call: `client.run(|client| async move { client.leases().await })`.
    pub fn run<T, F: Future<Output = T>>(&self, call: impl FnOnce(crate::Client) -> F) -> T {
        self.runtime.block_on(call(self.client.clone()))
    }

    pub fn range(&self, request: api::RangeRequest) -> Result<api::RangeResponse> {
        self.runtime.block_on(self.client.range(request))
    }

    pub fn put(&self, request: api::PutRequest) -> Result<api::PutResponse> {
        self.runtime.block_on(self.client.put(request))
    }

    pub fn delete_range(
        &self,
        request: api::DeleteRangeRequest,
    ) -> Result<api::DeleteRangeResponse> {
        self.runtime.block_on(self.client.delete_range(request))
    }

    pub fn txn(&self, request: api::TxnRequest) -> Result<api::TxnResponse> {
        self.runtime.block_on(self.client.txn(request))
    }

    pub fn status(&self) -> Result<api::StatusResponse> {
        self.runtime.block_on(self.client.status())
    }

    pub fn member_list(&self, linearizable: bool) -> Result<api::MemberListResponse> {
        self.runtime.block_on(self.client.member_list(linearizable))
    }

    pub fn hash_kv(&self, revision: i64) -> Result<api::HashKVResponse> {
        self.runtime.block_on(self.client.hash_kv(revision))
    }

    /// The whole state as a stream of bytes. No time limit.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let snapshot = self.runtime.block_on(self.client.snapshot())?;
        Ok(Snapshot {
            snapshot,
            runtime: Arc::clone(&self.runtime),
        })
    }
}

/// As [`crate::Snapshot`].
pub struct Snapshot {
    snapshot: crate::Snapshot,
    runtime: Arc<Runtime>,
}

impl Snapshot {
    /// The next piece, or `None` after the last.
    #[expect(
        clippy::should_implement_trait,
        reason = "it can fail and is over only once"
    )]
    pub fn next(&mut self) -> Result<Option<SnapshotPart>> {
        self.runtime.block_on(self.snapshot.next())
    }

    /// Who sends it.
    pub fn endpoint(&self) -> &str {
        self.snapshot.endpoint()
    }
}
