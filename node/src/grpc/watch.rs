//! The Watch service: one call is one stream of watchers.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use kvnode_api::service::Method;
use kvnode_api::status::Status;
use kvnode_api::{KeyRange, WatchCreateRequest, WatchRequest, frame, watch_request::RequestUnion};

use super::auth::{identify, permit};
use super::requires_leader;
use crate::cores::client::ClientCore;
use crate::http::{Call, RequestStream, ResponseSink};
use crate::watches::{Next, Stream, Watches};

enum Event {
    Request(Result<Option<Bytes>, Status>),
    Send(Next),
}

/// Ends when the client leaves or the server ends the stream; a half-close only ends the requests.
pub async fn serve(
    core: &Rc<ClientCore>,
    call: &Call,
    mut requests: RequestStream,
    responses: &mut ResponseSink,
) -> Result<(), Status> {
    // At once, not with the first answer: some clients wait for headers before they send.
    if responses.headers().is_err() {
        return Ok(());
    }
    let stream = Watches::open(core, call.peer.serial, requires_leader(call));
    let mut half_closed = false;
    loop {
        // What waits to be sent comes first: a client that does not read is not read from either.
        let event = poll_fn(|context| {
            if let Poll::Ready(next) = stream.poll_next(context) {
                return Poll::Ready(Event::Send(next));
            }
            if half_closed {
                return Poll::Pending;
            }
            requests.poll_next(context).map(Event::Request)
        })
        .await;
        match event {
            Event::Send(Next::Frame(frame, cost)) => {
                if responses.send(frame).await.is_err() {
                    return Ok(());
                }
                stream.sent(cost);
            }
            Event::Send(Next::End(status)) => return Err(status),
            Event::Request(message) => match message? {
                Some(message) => take(core, call, &stream, message).await?,
                None => half_closed = true,
            },
        }
    }
}

async fn take(
    core: &Rc<ClientCore>,
    call: &Call,
    stream: &Stream,
    message: Bytes,
) -> Result<(), Status> {
    core.shared.metrics.method(Method::Watch).received.add(1);
    let request: WatchRequest = frame::decode(message)?;
    match request.request_union {
        Some(RequestUnion::CreateRequest(create)) => match permitted(core, call, &create).await {
            Ok(()) => stream.create(&create),
            Err(refused) => stream.refuse(&refused),
        },
        Some(RequestUnion::CancelRequest(cancel)) => stream.cancel(cancel.watch_id),
        Some(RequestUnion::ProgressRequest(_)) => stream.progress(),
        None => {}
    }
    Ok(())
}

/// Whether the caller may read what the watcher would see.
async fn permitted(
    core: &Rc<ClientCore>,
    call: &Call,
    request: &WatchCreateRequest,
) -> Result<(), Status> {
    if !core.with_view(|view| view.auth().is_enabled()) {
        return Ok(());
    }
    let asker = identify(core, call).await?;
    // An interval without keys is refused for what it is, later.
    let Some(range) = KeyRange::for_watch(&request.key, &request.range_end) else {
        return Ok(());
    };
    core.with_view(|view| permit(view, &asker, |gate| gate.read(&range)))
}
