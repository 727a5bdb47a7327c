//! `POST /admin/snapshot`: the state as it is now, packed while it is sent.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use super::refuse;
use crate::cores::client::ClientCore;
use crate::grpc::snapshot::{Piece, pack_ahead};
use crate::http::{BrokenOff, HttpResponse, ResponseBody};
use crate::mailbox::Receiver;
use crate::snapshots;

/// The revision of the state that follows.
const REVISION: HeaderName = HeaderName::from_static("x-kvnode-revision");

pub fn answer(core: &Rc<ClientCore>) -> HttpResponse {
    if core.is_fenced() {
        return refuse(
            StatusCode::CONFLICT,
            "this member's state differs from the majority's: take the snapshot on another member",
        );
    }
    let view = core.view();
    let revision = view.revision();
    let info = snapshots::describe(&core.shared, &view);
    match pack_ahead(view, info) {
        Ok(receiver) => {
            let pieces = Pieces {
                receiver,
                waiting: Vec::new(),
                core: Rc::clone(core),
                failed: false,
            };
            let mut response = http::Response::new(ResponseBody::Fallible(Box::pin(pieces)));
            let headers = response.headers_mut();
            let kind = HeaderValue::from_static("application/octet-stream");
            headers.insert(http::header::CONTENT_TYPE, kind);
            headers.insert(REVISION, HeaderValue::from(revision));
            response
        }
        Err(error) => refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("no thread to pack a snapshot: {error}"),
        ),
    }
}

/// What the packing thread has ready, one blob at a time.
struct Pieces {
    receiver: Receiver<Piece>,
    /// The next one last.
    waiting: Vec<Piece>,
    core: Rc<ClientCore>,
    failed: bool,
}

impl Stream for Pieces {
    type Item = Result<Bytes, BrokenOff>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.waiting.is_empty() {
            if ready!(this.receiver.poll_take(cx, &mut this.waiting)).is_err() {
                if !this.failed {
                    this.core.shared.metrics.disk.snapshot_sent();
                }
                return Poll::Ready(None);
            }
            this.waiting.reverse();
        }
        Poll::Ready(this.waiting.pop().map(|piece| match piece {
            Piece::Blob(blob) => Ok(blob),
            Piece::Failed(reason) => {
                this.failed = true;
                log::error!("packing a snapshot for the admin socket: {reason}");
                Err(BrokenOff(reason))
            }
        }))
    }
}
