//! One leader among those who campaign.

use std::collections::VecDeque;

use bytes::Bytes;
use kvnode_api as api;
use kvnode_api::request_op::Request;

use super::{Session, by_creation, created_at, op, own_key, range_of, wait_for_older, with_slash};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::watch::Watcher;

/// A session's part in an election.
pub struct Election {
    client: Client,
    lease: i64,
    prefix: Bytes,
    key: Bytes,
    /// Create revision of the own key; 0 while not campaigning.
    revision: i64,
}

impl Election {
    pub fn new(session: &Session, name: impl AsRef<[u8]>) -> Election {
        let prefix = with_slash(name);
        Election {
            client: session.client().with_timeout(None),
            lease: session.lease(),
            key: own_key(&prefix, session.lease()),
            prefix,
            revision: 0,
        }
    }

    /// Waits until elected; `value` is what observers see. Dropped half-way, the candidacy remains
    /// until [`Election::resign`] or the end of the session.
    pub async fn campaign(&mut self, value: impl Into<Bytes>) -> Result<()> {
        let value = value.into();
        let put = api::PutRequest {
            key: self.key.clone(),
            value: value.clone(),
            lease: self.lease,
            ..Default::default()
        };
        let answer = self
            .client
            .txn(api::TxnRequest {
                compare: vec![created_at(&self.key, 0)],
                success: vec![op(Request::RequestPut(put))],
                failure: vec![op(Request::RequestRange(crate::kv::get(self.key.clone())))],
            })
            .await?;
        self.revision = answer.header.map_or(0, |header| header.revision);
        if !answer.succeeded
            && let Some(kv) = range_of(answer.responses.first()).first()
        {
            self.revision = kv.create_revision;
            if kv.value != value {
                self.proclaim(value).await?;
            }
        }
        wait_for_older(&self.client, &self.prefix, self.revision - 1).await?;
        Ok(())
    }

    /// Changes the value without a new election.
    ///
    /// # Errors
    /// [`Error::SessionExpired`] if the own key is gone.
    pub async fn proclaim(&mut self, value: impl Into<Bytes>) -> Result<()> {
        let put = api::PutRequest {
            key: self.key.clone(),
            value: value.into(),
            lease: self.lease,
            ..Default::default()
        };
        let answer = self
            .client
            .txn(api::TxnRequest {
                compare: vec![created_at(&self.key, self.revision)],
                success: vec![op(Request::RequestPut(put))],
                failure: Vec::new(),
            })
            .await?;
        if !answer.succeeded {
            self.revision = 0;
            return Err(Error::SessionExpired);
        }
        Ok(())
    }

    /// Gives leadership, or candidacy, up.
    pub async fn resign(&mut self) -> Result<()> {
        let delete = api::DeleteRangeRequest {
            key: self.key.clone(),
            ..Default::default()
        };
        self.client
            .txn(api::TxnRequest {
                compare: vec![created_at(&self.key, self.revision)],
                success: vec![op(Request::RequestDeleteRange(delete))],
                failure: Vec::new(),
            })
            .await?;
        self.revision = 0;
        Ok(())
    }

    /// The key that stands for this session.
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// The leader now, if there is one.
    pub async fn leader(&self) -> Result<Option<api::KeyValue>> {
        let oldest = by_creation(&self.prefix, api::SortOrder::Ascend);
        Ok(self.client.range(oldest).await?.kvs.into_iter().next())
    }

    /// Every leader and every value it proclaims, from now on.
    pub fn observe(&self) -> Observer {
        Observer {
            client: self.client.clone(),
            prefix: self.prefix.clone(),
            pending: VecDeque::new(),
            followed: None,
            waiting: None,
        }
    }
}

/// Leaders as they come.
pub struct Observer {
    client: Client,
    prefix: Bytes,
    /// Values that came with one response.
    pending: VecDeque<api::RangeResponse>,
    /// Watch on the leader's key.
    followed: Option<Watcher>,
    /// Watch for the first candidate.
    waiting: Option<Watcher>,
}

impl Observer {
    /// The next leader, or the same one's next value, with the header it was learned by.
    pub async fn next(&mut self) -> Result<api::RangeResponse> {
        loop {
            if let Some(value) = self.pending.pop_front() {
                return Ok(value);
            }
            if let Some(watcher) = &mut self.followed {
                let response = watcher.next().await?;
                for event in response.events {
                    if event.r#type == api::EventType::Delete as i32 {
                        self.followed = None;
                        break;
                    }
                    self.pending.push_back(answer(response.header, event.kv));
                }
                continue;
            }
            if let Some(watcher) = &mut self.waiting {
                let response = watcher.next().await?;
                if response
                    .events
                    .iter()
                    .any(|event| event.r#type == api::EventType::Put as i32)
                {
                    self.waiting = None;
                }
                continue;
            }
            let found = self
                .client
                .range(by_creation(&self.prefix, api::SortOrder::Ascend))
                .await?;
            let next = found.header.map_or(0, |header| header.revision) + 1;
            match found.kvs.into_iter().next() {
                Some(kv) => {
                    self.followed = Some(self.client.watch(api::WatchCreateRequest {
                        key: kv.key.clone(),
                        start_revision: next,
                        ..Default::default()
                    }));
                    return Ok(answer(found.header, Some(kv)));
                }
                None => {
                    let (key, range_end) = crate::kv::prefix(self.prefix.clone());
                    self.waiting = Some(self.client.watch(api::WatchCreateRequest {
                        key,
                        range_end,
                        start_revision: next,
                        ..Default::default()
                    }));
                }
            }
        }
    }
}

fn answer(header: Option<api::ResponseHeader>, kv: Option<api::KeyValue>) -> api::RangeResponse {
    let kvs: Vec<_> = kv.into_iter().collect();
    api::RangeResponse {
        header,
        count: i64::try_from(kvs.len()).unwrap_or(0),
        kvs,
        more: false,
    }
}
