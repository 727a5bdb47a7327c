//! What clients did and were told: recorded while a test runs, judged by the checker, kept when it fails.
//!
//! Times are microseconds on one monotonic clock of the harness. A kept history is a file of JSON lines
//! (messages as hexadecimal of their wire form) that [`History::load`] reads again.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use bytes::Bytes;
use kvnode_api as api;
use prost::Message;
use serde_json::{Value, json};

use crate::client::{Client, Status, code};

#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Range(api::RangeRequest),
    Put(api::PutRequest),
    Delete(api::DeleteRangeRequest),
    Txn(api::TxnRequest),
    /// The end of a lease, by hand or by time: deletes what is attached to it. Recorded without an
    /// answer, because that does not tell whether keys went.
    Revoke(i64),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Range(api::RangeResponse),
    Put(api::PutResponse),
    Delete(api::DeleteRangeResponse),
    Txn(api::TxnResponse),
}

impl Answer {
    pub fn header(&self) -> Option<&api::ResponseHeader> {
        match self {
            Answer::Range(answer) => answer.header.as_ref(),
            Answer::Put(answer) => answer.header.as_ref(),
            Answer::Delete(answer) => answer.header.as_ref(),
            Answer::Txn(answer) => answer.header.as_ref(),
        }
    }

    /// The answer with nothing but the revision in its header, to be compared with the model's.
    pub fn plain(mut self) -> Answer {
        let header = match &mut self {
            Answer::Range(answer) => &mut answer.header,
            Answer::Put(answer) => &mut answer.header,
            Answer::Delete(answer) => &mut answer.header,
            Answer::Txn(answer) => &mut answer.header,
        };
        if let Some(header) = header {
            *header = api::ResponseHeader {
                revision: header.revision,
                ..Default::default()
            };
        }
        self
    }

    /// The answer says that something changed.
    pub fn claims_effect(&self) -> bool {
        match self {
            Answer::Range(_) => false,
            Answer::Put(_) => true,
            Answer::Delete(answer) => answer.deleted > 0,
            Answer::Txn(answer) => txn_claims_effect(answer),
        }
    }
}

fn txn_claims_effect(answer: &api::TxnResponse) -> bool {
    use api::response_op::Response;
    answer.responses.iter().any(|op| match &op.response {
        Some(Response::ResponsePut(_)) => true,
        Some(Response::ResponseDeleteRange(delete)) => delete.deleted > 0,
        Some(Response::ResponseTxn(txn)) => txn_claims_effect(txn),
        Some(Response::ResponseRange(_)) | None => false,
    })
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Answered(Answer),
    /// An error that proves it was not done.
    Refused(Status),
    /// A timeout, a broken connection: done, not done, or yet to be done.
    Unknown,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    pub client: u32,
    pub called: u64,
    pub returned: u64,
    pub request: Request,
    pub outcome: Outcome,
}

/// One revision of the store's own account of what happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub revision: i64,
    pub events: Vec<api::Event>,
}

/// All servers were dead at `time` and the store stood at `revision` afterwards: nothing called before
/// may take effect above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    pub time: u64,
    pub revision: i64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    pub operations: Vec<Operation>,
    /// Every revision from 2 on; may be left empty when no outcome is unknown.
    pub log: Vec<Change>,
    pub barriers: Vec<Barrier>,
}

/// Records operations of many clients at once.
pub struct Recorder {
    begun: Instant,
    operations: Mutex<Vec<Operation>>,
}

impl Default for Recorder {
    fn default() -> Self {
        Recorder {
            begun: Instant::now(),
            operations: Mutex::new(Vec::new()),
        }
    }
}

impl Recorder {
    /// Microseconds since recording began.
    pub fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).expect("tests end before that")
    }

    /// Makes the call, records it, and returns what came back.
    pub async fn call(
        &self,
        client: u32,
        connection: &Client,
        request: Request,
    ) -> Result<Answer, Status> {
        let called = self.now();
        let result = match request.clone() {
            Request::Range(range) => connection.range(range).await.map(Answer::Range),
            Request::Put(put) => connection.put(put).await.map(Answer::Put),
            Request::Delete(delete) => connection.delete_range(delete).await.map(Answer::Delete),
            Request::Txn(txn) => connection.txn(txn).await.map(Answer::Txn),
            Request::Revoke(id) => {
                let revoked = connection
                    .lease_revoke(api::LeaseRevokeRequest { id })
                    .await;
                revoked.and(Err(Status::new(code::BROKEN, "recorded without an answer")))
            }
        };
        let returned = self.now();
        let outcome = match &result {
            Ok(answer) => Outcome::Answered(answer.clone()),
            Err(status) if surely_not_done(status) => Outcome::Refused(status.clone()),
            Err(_) => Outcome::Unknown,
        };
        let operation = Operation {
            client,
            called,
            returned,
            request,
            outcome,
        };
        self.operations
            .lock()
            .expect("no holder panics")
            .push(operation);
        result
    }

    pub fn operations(&self) -> Vec<Operation> {
        self.operations.lock().expect("no holder panics").clone()
    }
}

/// Only what was found out before anything was proposed, or decided by the store itself.
/// (`database space exceeded` is not among them: etcd may apply the write and say so all the same.)
fn surely_not_done(status: &Status) -> bool {
    matches!(
        status.code,
        code::INVALID_ARGUMENT
            | code::NOT_FOUND
            | code::PERMISSION_DENIED
            | code::FAILED_PRECONDITION
            | code::OUT_OF_RANGE
            | code::UNIMPLEMENTED
            | code::UNAUTHENTICATED
    )
}

impl History {
    /// Writes the history as JSON lines.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        let mut file = BufWriter::new(std::fs::File::create(path)?);
        for operation in &self.operations {
            writeln!(file, "{}", operation_to_json(operation))?;
        }
        for change in &self.log {
            let events: Vec<String> = change
                .events
                .iter()
                .map(|event| hex(&event.encode_to_vec()))
                .collect();
            writeln!(
                file,
                "{}",
                json!({ "revision": change.revision, "events": events })
            )?;
        }
        for barrier in &self.barriers {
            writeln!(
                file,
                "{}",
                json!({ "barrier": barrier.time, "revision": barrier.revision })
            )?;
        }
        file.flush()
    }

    /// Reads what [`History::save`] wrote; None when a line is not of its kind.
    pub fn load(path: &Path) -> std::io::Result<Option<History>> {
        let mut history = History::default();
        for line in BufReader::new(std::fs::File::open(path)?).lines() {
            let Ok(value) = serde_json::from_str::<Value>(&line?) else {
                return Ok(None);
            };
            if history.take_line(&value).is_none() {
                return Ok(None);
            }
        }
        Ok(Some(history))
    }

    fn take_line(&mut self, line: &Value) -> Option<()> {
        if let Some(time) = line.get("barrier") {
            let revision = line.get("revision")?.as_i64()?;
            self.barriers.push(Barrier {
                time: time.as_u64()?,
                revision,
            });
        } else if let Some(events) = line.get("events") {
            let decode = |event: &Value| api::Event::decode(unhex(event)?).ok();
            let events = events
                .as_array()?
                .iter()
                .map(decode)
                .collect::<Option<_>>()?;
            self.log.push(Change {
                revision: line.get("revision")?.as_i64()?,
                events,
            });
        } else {
            self.operations.push(operation_from_json(line)?);
        }
        Some(())
    }
}

fn operation_to_json(operation: &Operation) -> Value {
    let (kind, request) = match &operation.request {
        Request::Range(message) => ("range", message.encode_to_vec()),
        Request::Put(message) => ("put", message.encode_to_vec()),
        Request::Delete(message) => ("delete", message.encode_to_vec()),
        Request::Txn(message) => ("txn", message.encode_to_vec()),
        Request::Revoke(id) => {
            let message = api::LeaseRevokeRequest { id: *id };
            ("revoke", message.encode_to_vec())
        }
    };
    let outcome = match &operation.outcome {
        Outcome::Unknown => json!("unknown"),
        Outcome::Refused(status) => json!({ "code": status.code, "message": status.message }),
        Outcome::Answered(answer) => json!(hex(&match answer {
            Answer::Range(message) => message.encode_to_vec(),
            Answer::Put(message) => message.encode_to_vec(),
            Answer::Delete(message) => message.encode_to_vec(),
            Answer::Txn(message) => message.encode_to_vec(),
        })),
    };
    json!({
        "client": operation.client,
        "called": operation.called,
        "returned": operation.returned,
        "kind": kind,
        "request": hex(&request),
        "outcome": outcome,
    })
}

fn operation_from_json(line: &Value) -> Option<Operation> {
    let request = unhex(line.get("request")?)?;
    let outcome = line.get("outcome")?;
    let answer = if outcome == "unknown" {
        None
    } else {
        unhex(outcome)
    };
    let (request, answer) = match line.get("kind")?.as_str()? {
        "range" => (
            Request::Range(Message::decode(request).ok()?),
            answer.map(|bytes| Message::decode(bytes).map(Answer::Range)),
        ),
        "put" => (
            Request::Put(Message::decode(request).ok()?),
            answer.map(|bytes| Message::decode(bytes).map(Answer::Put)),
        ),
        "delete" => (
            Request::Delete(Message::decode(request).ok()?),
            answer.map(|bytes| Message::decode(bytes).map(Answer::Delete)),
        ),
        "txn" => (
            Request::Txn(Message::decode(request).ok()?),
            answer.map(|bytes| Message::decode(bytes).map(Answer::Txn)),
        ),
        "revoke" => {
            let message: api::LeaseRevokeRequest = Message::decode(request).ok()?;
            (Request::Revoke(message.id), None)
        }
        _ => return None,
    };
    let outcome = match answer {
        Some(answer) => Outcome::Answered(answer.ok()?),
        None if outcome == "unknown" => Outcome::Unknown,
        None => Outcome::Refused(Status::new(
            u32::try_from(outcome.get("code")?.as_u64()?).ok()?,
            outcome.get("message")?.as_str()?,
        )),
    };
    Some(Operation {
        client: u32::try_from(line.get("client")?.as_u64()?).ok()?,
        called: line.get("called")?.as_u64()?,
        returned: line.get("returned")?.as_u64()?,
        request,
        outcome,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &Value) -> Option<Bytes> {
    let text = text.as_str()?.as_bytes();
    let (pairs, []) = text.as_chunks::<2>() else {
        return None;
    };
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs
        .iter()
        .map(byte)
        .collect::<Option<Vec<u8>>>()
        .map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::*;

    #[test]
    fn a_saved_history_is_read_back_the_same() {
        let answered = Outcome::Answered(Answer::Put(api::PutResponse {
            header: Some(api::ResponseHeader {
                revision: 2,
                ..Default::default()
            }),
            prev_kv: None,
        }));
        let outcomes = [
            answered,
            Outcome::Unknown,
            Outcome::Refused(refusal::no_key()),
        ];
        let operations = outcomes.into_iter().map(|outcome| Operation {
            client: 3,
            called: 10,
            returned: 20,
            request: Request::Put(put("k", "v")),
            outcome,
        });
        let event = api::Event {
            kv: Some(api::KeyValue::default()),
            ..Default::default()
        };
        let history = History {
            operations: operations.collect(),
            log: vec![Change {
                revision: 2,
                events: vec![event],
            }],
            barriers: vec![Barrier {
                time: 15,
                revision: 2,
            }],
        };
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("history.jsonl");
        history.save(&path).expect("written");
        assert_eq!(History::load(&path).expect("read"), Some(history));
        std::fs::write(&path, "{\"kind\":\"nonsense\"}\n").expect("written");
        assert_eq!(History::load(&path).expect("read"), None);
    }
}
