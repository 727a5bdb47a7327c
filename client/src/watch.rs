//! Watchers that outlive connections.
//!
//! Each watcher has a stream of its own. When that breaks, the watcher is made anew on any endpoint at
//! the revision after the last one delivered, so nothing is missed and nothing comes twice. Pieces of a
//! large response are put together before they are handed out. What the caller does not take up waits
//! on the server: the stream's flow control is the bound.

use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use kvnode_api as api;
use kvnode_api::service::Method;
use kvnode_api::watch_request::RequestUnion;
use kvnode_api::{Code, Status};

use crate::client::{Answers, Client};
use crate::connection;
use crate::error::{Error, Failure, Result};

/// Pause before a broken watch is opened again; grows up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

impl Client {
    /// Watches the keys of `request`; its `watch_id` is not used, and `fragment` is always set.
    /// Opens nothing before the first [`Watcher::next`].
    pub fn watch(&self, mut request: api::WatchCreateRequest) -> Watcher {
        request.fragment = true;
        request.watch_id = 0;
        Watcher {
            client: self.clone(),
            request,
            stream: None,
            parts: Vec::new(),
            established: false,
            wants_progress: false,
            failures: 0,
        }
    }
}

/// Events as they happen.
pub struct Watcher {
    client: Client,
    /// As it would have to be made now: `start_revision` moves on.
    request: api::WatchCreateRequest,
    stream: Option<Stream>,
    /// Events of a response whose last piece has not come.
    parts: Vec<api::Event>,
    /// It was made at least once, so a failure to reach anybody is a matter of waiting.
    established: bool,
    wants_progress: bool,
    failures: u32,
}

struct Stream {
    sender: SendStream<Bytes>,
    answers: Answers<api::WatchResponse>,
    created: bool,
}

impl Watcher {
    /// The next response: events, or none for a progress notification, whose header says up to which
    /// revision everything was delivered. May be dropped half-way without loss.
    ///
    /// # Errors
    /// [`Error::Compacted`] if the history needed is gone, [`Error::WatchCanceled`] if the server
    /// refuses; the watcher is over then. [`Error::Unreachable`] only before it was made the first time.
    pub async fn next(&mut self) -> Result<api::WatchResponse> {
        loop {
            if self.stream.is_none() {
                self.open().await?;
            }
            let Some(stream) = &mut self.stream else {
                continue;
            };
            let answer = match stream.answers.next().await {
                Ok(Some(answer)) => answer,
                Ok(None) => {
                    self.fail("the server ended the stream").await;
                    continue;
                }
                Err(error) => {
                    if let Some(error) = self.lasting(error).await {
                        return Err(error);
                    }
                    continue;
                }
            };
            if let Some(response) = self.take(answer).await? {
                return Ok(response);
            }
        }
    }

    /// Asks the server to say at once how far everything was delivered; the answer comes by
    /// [`Watcher::next`]. Before the watcher is made it is remembered.
    pub fn request_progress(&mut self) {
        self.wants_progress = true;
        self.send_progress();
    }

    /// Where this watcher would go on after a break.
    pub fn next_revision(&self) -> i64 {
        self.request.start_revision
    }

    async fn open(&mut self) -> Result<()> {
        match self.client.both_ways(Method::Watch).await {
            Ok((mut sender, answers)) => {
                let create = api::WatchRequest {
                    request_union: Some(RequestUnion::CreateRequest(self.request.clone())),
                };
                match connection::send(&mut sender, &create) {
                    Ok(()) => {
                        self.stream = Some(Stream {
                            sender,
                            answers,
                            created: false,
                        })
                    }
                    Err(Failure::Status(status)) => {
                        return Err(Error::WatchCanceled {
                            reason: status.message.into_owned(),
                        });
                    }
                    Err(Failure::NotSent(reason) | Failure::Broken(reason)) => {
                        self.fail(&reason).await
                    }
                }
                Ok(())
            }
            Err(error) => match self.lasting(error).await {
                Some(error) => Err(error),
                None => Ok(()),
            },
        }
    }

    /// What of an answer is for the caller.
    async fn take(&mut self, answer: api::WatchResponse) -> Result<Option<api::WatchResponse>> {
        self.failures = 0;
        let revision = answer.header.map_or(0, |header| header.revision);
        if answer.canceled {
            return self.canceled(answer).await.map(|()| None);
        }
        if answer.created {
            self.established = true;
            if self.request.start_revision == 0 {
                self.request.start_revision = revision + 1;
            }
            if let Some(stream) = &mut self.stream {
                stream.created = true;
            }
            self.send_progress();
            return Ok(None);
        }
        let mut answer = answer;
        if answer.fragment {
            self.parts.append(&mut answer.events);
            return Ok(None);
        }
        if !self.parts.is_empty() {
            self.parts.append(&mut answer.events);
            answer.events = std::mem::take(&mut self.parts);
        }
        let last = answer.events.iter().filter_map(|event| event.kv.as_ref());
        let last = last.map(|kv| kv.mod_revision).max().unwrap_or(revision);
        self.request.start_revision = self.request.start_revision.max(last + 1);
        Ok(Some(answer))
    }

    async fn canceled(&mut self, answer: api::WatchResponse) -> Result<()> {
        self.stream = None;
        if answer.compact_revision != 0 {
            return Err(Error::Compacted {
                compact_revision: answer.compact_revision,
            });
        }
        let token_is_old = [Status::invalid_auth_token(), Status::auth_old_revision()]
            .iter()
            .any(|status| answer.cancel_reason.contains(status.message.as_ref()));
        if token_is_old && self.failures == 0 && self.client.renew_token().await {
            self.fail(&answer.cancel_reason).await;
            return Ok(());
        }
        let reason = match answer.cancel_reason.as_str() {
            "" => "etcdserver: mvcc: required revision is a future revision".to_owned(),
            reason => reason.to_owned(),
        };
        Err(Error::WatchCanceled { reason })
    }

    /// The error if it ends the watcher; otherwise waits before the next try.
    async fn lasting(&mut self, error: Error) -> Option<Error> {
        let passing = match &error {
            Error::Broken { .. } => true,
            Error::Unreachable { .. } => self.established,
            Error::Status { status, .. } => {
                matches!(status.code, Code::Unavailable | Code::Internal)
            }
            _ => false,
        };
        if !passing {
            self.stream = None;
            return Some(error);
        }
        self.fail(&error.to_string()).await;
        None
    }

    async fn fail(&mut self, reason: &str) {
        log::warn!("a watch broke and is opened again: {reason}");
        self.stream = None;
        self.parts.clear();
        let pause = PAUSE * 2u32.saturating_pow(self.failures.min(10));
        self.failures += 1;
        tokio::time::sleep(pause.min(PAUSE_MAX)).await;
    }

    fn send_progress(&mut self) {
        if !self.wants_progress {
            return;
        }
        let Some(stream) = self.stream.as_mut().filter(|stream| stream.created) else {
            return;
        };
        let ask = api::WatchRequest {
            request_union: Some(RequestUnion::ProgressRequest(api::WatchProgressRequest {})),
        };
        // A stream that broke is opened again by the next read, and the wish repeated.
        self.wants_progress = connection::send(&mut stream.sender, &ask).is_err();
    }
}
