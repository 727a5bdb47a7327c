//! Maintenance.Snapshot: the whole state as a `.kvs` stream, in small blobs, its SHA-256 as the last one.
//!
//! A thread of its own packs a view; a bounded mailbox holds it back to the client's pace. One view is pinned meanwhile.

use std::io::{self, Write};
use std::rc::Rc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use kvnode_api::service::Method;
use kvnode_api::status::{Code, Status};
use kvnode_api::{SnapshotResponse, frame};
use kvnode_snapshot::{Info, Options};

use crate::cores::View;
use crate::cores::client::ClientCore;
use crate::http::ResponseSink;
use crate::mailbox::{self, Receiver, Sender};
use crate::shared::STORAGE_VERSION;
use crate::snapshots;

/// Bytes in one blob, as etcd's.
const BLOB_BYTES: usize = 32 << 10;
/// Blobs packed ahead of the client: 128 KiB. An executor that finds them hands on all of them before it does anything else.
const BLOBS_AHEAD: usize = 4;
/// Raw bytes in one chunk: packing one takes a quarter of a millisecond, in which nobody else gets the processor.
const CHUNK_BYTES: usize = 128 << 10;
const DIGEST_BYTES: usize = 32;

/// What the packing thread sends.
pub enum Piece {
    Blob(Bytes),
    /// Packing failed; nothing follows.
    Failed(String),
}

/// Packs the state on a thread of its own, [`BLOBS_AHEAD`] blobs ahead of whoever takes them. The thread ends when the
/// receiver is dropped.
pub fn pack_ahead(view: View, info: Info) -> io::Result<Receiver<Piece>> {
    let (sender, receiver) = mailbox::bounded(BLOBS_AHEAD);
    std::thread::Builder::new()
        .name("kv-snapshot".into())
        .spawn(move || {
            snapshots::give_way();
            let mut blobs = Blobs {
                sender,
                buffer: BytesMut::with_capacity(BLOB_BYTES),
            };
            if let Err(error) = pack(&view, &info, &mut blobs).and_then(|_| blobs.flush()) {
                blobs.give_up(&error.to_string());
            }
        })?;
    Ok(receiver)
}

pub async fn serve(core: &Rc<ClientCore>, responses: &mut ResponseSink) -> Result<(), Status> {
    let started = Instant::now();
    core.shared.metrics.method(Method::Snapshot).received.add(1);
    let view = core.view();
    let info = snapshots::describe(&core.shared, &view);
    // The messages announce how many bytes are still to come, so the size has to be known first: packing twice costs
    // less than holding the file in memory or on the disk.
    let (size_view, size_info) = (view.clone(), info.clone());
    let measure = move || {
        snapshots::give_way();
        pack(&size_view, &size_info, io::sink())
    };
    let total = core
        .in_background(measure)
        .await?
        .map_err(|error| failed(&error.to_string()))?;
    let mut receiver = pack_ahead(view, info).map_err(|error| failed(&error.to_string()))?;
    // What is announced leaves the digest out, as etcd does.
    let mut left = total.saturating_sub(DIGEST_BYTES as u64);
    let mut held = BytesMut::new();
    let mut pieces = Vec::new();
    while receiver.take(&mut pieces).await.is_ok() {
        for piece in pieces.drain(..) {
            match piece {
                Piece::Blob(blob) => held.extend_from_slice(&blob),
                Piece::Failed(reason) => return Err(failed(&reason)),
            }
            // The digest must leave alone, in the last message: hold back what may be part of it.
            while held.len() >= BLOB_BYTES + DIGEST_BYTES {
                let blob = held.split_to(BLOB_BYTES).freeze();
                left -= blob.len() as u64;
                if send(core, responses, blob, left).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
    if held.len() < DIGEST_BYTES || (held.len() - DIGEST_BYTES) as u64 != left {
        return Err(failed("the packed size changed between two passes"));
    }
    let seconds = &core.shared.metrics.disk.backend_snapshot_seconds;
    seconds.observe(started.elapsed());
    let digest = held.split_off(held.len() - DIGEST_BYTES).freeze();
    for blob in [held.freeze(), digest] {
        if !blob.is_empty() && send(core, responses, blob, 0).await.is_err() {
            return Ok(());
        }
    }
    core.shared.metrics.disk.snapshot_sent();
    Ok(())
}

async fn send(
    core: &ClientCore,
    responses: &mut ResponseSink,
    blob: Bytes,
    remaining_bytes: u64,
) -> Result<(), Status> {
    let response = SnapshotResponse {
        header: None,
        remaining_bytes,
        blob,
        version: STORAGE_VERSION.into(),
    };
    let frame = frame::encode(&response)?;
    let here = core.shared.metrics.calls.here();
    here.method(Method::Snapshot).sent.add(1);
    here.sent_bytes.add(frame.len() as u64);
    responses
        .send(frame)
        .await
        .map_err(|_| Status::context_canceled())
}

/// Packs the state; the same view and info give the same bytes. Returns the size of the file.
fn pack(view: &View, info: &Info, out: impl Write) -> io::Result<u64> {
    let options = Options {
        chunk_bytes: CHUNK_BYTES,
        ..Options::default()
    };
    snapshots::pack(view, info, options, out)
}

fn failed(reason: &str) -> Status {
    Status::new(Code::Internal, format!("kvnode: snapshot failed: {reason}"))
}

/// Cuts what is written into blobs and waits for the client's pace.
struct Blobs {
    sender: Sender<Piece>,
    buffer: BytesMut,
}

impl Blobs {
    fn send(&mut self, piece: Piece) -> io::Result<()> {
        let mut pieces = vec![piece];
        self.sender
            .push_blocking(&mut pieces)
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client left"))
    }

    fn give_up(&mut self, reason: &str) {
        // Nobody listens any more: nothing to tell.
        let _ = self.send(Piece::Failed(reason.to_string()));
    }
}

impl Write for Blobs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() >= BLOB_BYTES {
            let blob = self.buffer.split_to(BLOB_BYTES).freeze();
            self.send(Piece::Blob(blob))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            let blob = self.buffer.split().freeze();
            self.send(Piece::Blob(blob))?;
        }
        Ok(())
    }
}
