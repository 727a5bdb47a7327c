//! The life of one call on an HTTP/2 connection, as a future among its connection's.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::Either;
use futures_util::{Stream, StreamExt};
use h2::SendStream;
use h2::server::SendResponse;
use http::StatusCode;
use kvnode_api::service::{Kind, lookup};
use kvnode_api::status::{Code, Status};

use super::HEADER_LIST_BYTES_MAX;
use super::face::{Call, Glance, HttpBody, HttpRequest, Reply, Service, TurnedAway};
use super::headers;
use super::http1::{BrokenOff, ResponseBody};
use super::link::{Deadline, Gone, Held, Link, Ticket};
use super::sink::{Outlet, ResponseSink};
use super::source::RequestStream;
use super::together::{self, Waiting};

/// What is left to do for a request once its first look is over.
pub(super) enum Work<B> {
    Unary {
        call: Call,
        source: RequestStream,
        message: Bytes,
        respond: SendResponse<Bytes>,
    },
    /// A unary call whose message is not there yet.
    Arriving {
        call: Call,
        source: RequestStream,
        respond: SendResponse<Bytes>,
        held: Held,
    },
    Stream {
        call: Call,
        source: RequestStream,
        respond: SendResponse<Bytes>,
        held: Held,
    },
    Http {
        request: HttpRequest,
        respond: SendResponse<Bytes>,
        held: Held,
    },
    /// To be answered once all requests of the turn are accepted: the engine writes whatever it has whenever it is
    /// asked for the next request.
    Ready(Waiting<B>),
    /// To wait with the others of its turn.
    Wait(Waiting<B>),
    /// Those of a turn.
    Together(Vec<Waiting<B>>),
    /// To wait beside the others of its turn, for a word of its own.
    Beside(Waiting<B>),
    /// Those of a turn.
    SideBySide(Vec<Waiting<B>>),
    /// What is left of one that could not be answered at once after all.
    Longer(Pin<Box<dyn Future<Output = ()>>>),
}

/// Looks at a request: refuses it, answers it if that needs no waiting, or says what is to be done.
pub(super) fn begin<S: Service>(
    service: &Rc<S>,
    link: &Rc<Link>,
    request: http::Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Option<Work<S::Begun>> {
    let (head, body) = request.into_parts();
    let head_bytes = headers::list_bytes(&head.headers, head.uri.path());
    if head_bytes > HEADER_LIST_BYTES_MAX {
        link.turned_away(TurnedAway::HeaderList);
        let http = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        refuse(&mut respond, link, http, &headers::too_long());
        return None;
    }
    let found = lookup(head.uri.path());
    if !headers::is_grpc(&head.headers) {
        if head.method == http::Method::POST && found.is_ok() {
            let status = Status::new(
                Code::InvalidArgument,
                format!(
                    "invalid gRPC request content-type {:?}",
                    head.headers
                        .get(http::header::CONTENT_TYPE)
                        .map_or_else(Default::default, |v| String::from_utf8_lossy(v.as_bytes()))
                ),
            );
            refuse(
                &mut respond,
                link,
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                &status,
            );
            return None;
        }
        let request = HttpRequest {
            method: head.method,
            uri: head.uri,
            headers: head.headers,
            body: HttpBody::http2(body, link.options.body_timeout),
            peer: Rc::clone(&link.peer),
        };
        let Some(held) = link.hold_head(head_bytes) else {
            refuse(
                &mut respond,
                link,
                StatusCode::TOO_MANY_REQUESTS,
                &Status::too_many_requests(),
            );
            return None;
        };
        return Some(Work::Http {
            request,
            respond,
            held,
        });
    }
    if head.method != http::Method::POST {
        let status = Status::new(
            Code::Internal,
            format!(
                "received a :method field {:?} which should be POST",
                head.method.as_str()
            ),
        );
        refuse(&mut respond, link, StatusCode::METHOD_NOT_ALLOWED, &status);
        return None;
    }
    let admitted = found.and_then(|method| {
        let timeout = headers::timeout(&head.headers)?;
        headers::check_encoding(&head.headers)?;
        Ok(Call {
            method,
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            peer: Rc::clone(&link.peer),
            headers: head.headers,
        })
    });
    let call = match admitted {
        Ok(call) => call,
        Err(status) => {
            refuse(&mut respond, link, StatusCode::OK, &status);
            return None;
        }
    };
    let mut source = RequestStream::new(body, Rc::clone(link));
    let hold = |respond: &mut SendResponse<Bytes>| {
        let held = link.hold_head(head_bytes);
        if held.is_none() {
            refuse(respond, link, StatusCode::OK, &Status::too_many_requests());
        }
        held
    };
    if call.method.kind() != Kind::Unary {
        let held = hold(&mut respond)?;
        return Some(Work::Stream {
            call,
            source,
            respond,
            held,
        });
    }
    source.want_one();
    let message = match source.only_now() {
        Some(Ok(message)) => message,
        Some(Err(status)) => {
            refuse(&mut respond, link, StatusCode::OK, &status);
            return None;
        }
        None => {
            let held = hold(&mut respond)?;
            return Some(Work::Arriving {
                call,
                source,
                respond,
                held,
            });
        }
    };
    let (wait, begun): (fn(Waiting<S::Begun>) -> _, _) = match service.at_once(&call, &message) {
        Glance::Ready(begun) => (Work::Ready, begun),
        Glance::Confirm(begun) => (Work::Wait, begun),
        Glance::Pending(begun) => (Work::Beside, begun),
        Glance::Long => {
            return Some(Work::Unary {
                call,
                source,
                message,
                respond,
            });
        }
    };
    Some(wait(Waiting {
        call,
        source,
        message,
        respond,
        begun,
    }))
}

/// Does what is left to do for a request. One future for all kinds, so that the connection can keep them in one set.
///
/// It is moved and its memory touched with every call, so it is kept small: all but a unary call whose message is there
/// is boxed, and nothing is an `async fn` that would hold its arguments twice.
pub(super) fn run<S: Service>(
    service: Rc<S>,
    link: Rc<Link>,
    work: Work<S::Begun>,
) -> Either<impl Future<Output = ()>, Pin<Box<dyn Future<Output = ()>>>> {
    match work {
        Work::Unary {
            call,
            source,
            message,
            respond,
        } => Either::Left(unary(service, link, call, source, message, respond)),
        Work::Arriving {
            call,
            mut source,
            mut respond,
            held,
        } => Either::Right(Box::pin(async move {
            let mut deadline = Deadline::new(&link, call.deadline);
            let reply = {
                let mut handler = pin!(async {
                    let message = source.only().await?;
                    service.clone().unary(call, message).await
                });
                poll_fn(|cx| poll_reply(handler.as_mut(), &mut respond, &mut deadline, cx)).await
            };
            drop(deadline);
            if let Some(reply) = reply
                && let Some(rest) = answer(&mut respond, &link, reply)
            {
                rest.finish(&link).await;
            }
            drop(held);
        })),
        Work::Stream {
            call,
            source,
            respond,
            held,
        } => Either::Right(Box::pin(async move {
            stream(service, &link, call, source, respond).await;
            drop(held);
        })),
        Work::Http {
            request,
            respond,
            held,
        } => Either::Right(Box::pin(async move {
            plain_http(service, &link, request, respond).await;
            drop(held);
        })),
        Work::Ready(waiting) | Work::Wait(waiting) => {
            Either::Right(Box::pin(together::run(service, link, vec![waiting])))
        }
        Work::Beside(waiting) => {
            Either::Right(Box::pin(together::run_each(service, link, vec![waiting])))
        }
        Work::SideBySide(waiting) => {
            Either::Right(Box::pin(together::run_each(service, link, waiting)))
        }
        Work::Longer(longer) => Either::Right(longer),
        Work::Together(waiting) => Either::Right(Box::pin(together::run(service, link, waiting))),
    }
}

/// A unary call whose message is there. The request's body is held until the end: the client may not have closed it.
#[expect(
    clippy::manual_async_fn,
    reason = "an `async fn` holds its arguments twice"
)]
fn unary<S: Service>(
    service: Rc<S>,
    link: Rc<Link>,
    call: Call,
    source: RequestStream,
    message: Bytes,
    mut respond: SendResponse<Bytes>,
) -> impl Future<Output = ()> {
    async move {
        let _source = &source;
        let at = call.deadline;
        let reply = {
            let mut deadline = Deadline::new(&link, at);
            let mut handler = pin!(service.unary(call, message));
            poll_fn(|cx| poll_reply(handler.as_mut(), &mut respond, &mut deadline, cx)).await
        };
        if let Some(reply) = reply
            && let Some(rest) = answer(&mut respond, &link, reply)
        {
            rest.finish(&link).await;
        }
    }
}

/// The handler's reply, or that the call is over otherwise: `None` if the client has reset it.
pub(super) fn poll_reply(
    handler: Pin<&mut (impl Future<Output = Reply> + ?Sized)>,
    respond: &mut SendResponse<Bytes>,
    deadline: &mut Deadline<'_>,
    cx: &mut Context<'_>,
) -> Poll<Option<Reply>> {
    if let Poll::Ready(reply) = handler.poll(cx) {
        return Poll::Ready(Some(reply));
    }
    if respond.poll_reset(cx).is_ready() {
        return Poll::Ready(None);
    }
    if deadline.poll_passed(cx) {
        return Poll::Ready(Some(Err(Status::deadline_exceeded())));
    }
    Poll::Pending
}

async fn stream<S: Service>(
    service: Rc<S>,
    link: &Rc<Link>,
    call: Call,
    source: RequestStream,
    respond: SendResponse<Bytes>,
) {
    /// Tells a sink kept elsewhere, however the call ends.
    struct CloseAtEnd(Rc<Outlet>);
    impl Drop for CloseAtEnd {
        fn drop(&mut self) {
            self.0.close();
        }
    }
    let outlet = CloseAtEnd(Outlet::new(respond, Rc::clone(link)));
    let outlet = &outlet.0;
    let mut deadline = Deadline::new(link, call.deadline);
    let mut handler = Some(Box::pin(service.stream(
        call,
        source,
        ResponseSink::new(Rc::clone(outlet)),
    )));
    let mut status = Ok(());
    poll_fn(|cx| {
        outlet.owner_polled(cx);
        if let Some(running) = &mut handler
            && let Poll::Ready(returned) = running.as_mut().poll(cx)
        {
            status = returned;
            handler = None;
            outlet.handler_returned();
        }
        if handler.is_none() && (outlet.is_ended() || outlet.poll_drain().is_ready()) {
            return Poll::Ready(());
        }
        if outlet.poll_reset(cx).is_ready() {
            outlet.close();
            return Poll::Ready(());
        }
        if deadline.poll_passed(cx) {
            status = Err(Status::deadline_exceeded());
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
    outlet.end(&status);
}

async fn plain_http<S: Service>(
    service: Rc<S>,
    link: &Rc<Link>,
    request: HttpRequest,
    mut respond: SendResponse<Bytes>,
) {
    let answered = {
        let mut handler = pin!(service.http(request));
        poll_fn(|cx| {
            if let Poll::Ready(response) = handler.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            respond.poll_reset(cx).map(|_| None)
        })
        .await
    };
    let Some(response) = answered else {
        return;
    };
    let (head, body) = response.into_parts();
    let head = http::Response::from_parts(head, ());
    match body {
        ResponseBody::Full(bytes) if bytes.is_empty() => {
            let _ = respond.send_response(head, true);
            link.note_sent(0);
        }
        ResponseBody::Full(bytes) => {
            if let Ok(mut stream) = respond.send_response(head, false) {
                link.note_sent(0);
                if push(link, &mut stream, bytes).await.is_ok() {
                    let _ = stream.send_data(Bytes::new(), true);
                    link.note_sent(0);
                }
            }
        }
        ResponseBody::Stream(pieces) => {
            let pieces = Box::pin(pieces.map(Ok::<_, BrokenOff>));
            send_pieces(link, respond, head, pieces).await;
        }
        ResponseBody::Fallible(pieces) => send_pieces(link, respond, head, pieces).await,
        // HTTP/2 has no such upgrade, and no service offers one to it.
        ResponseBody::Upgrade(_) => {}
    }
}

/// Sends the pieces of a body as they come. A body that breaks off ends as a reset, never as if it were whole.
async fn send_pieces(
    link: &Link,
    mut respond: SendResponse<Bytes>,
    head: http::Response<()>,
    mut pieces: Pin<Box<dyn Stream<Item = Result<Bytes, BrokenOff>>>>,
) {
    let Ok(mut stream) = respond.send_response(head, false) else {
        return;
    };
    link.note_sent(0);
    loop {
        let piece = poll_fn(|cx| {
            if let Poll::Ready(piece) = pieces.as_mut().poll_next(cx) {
                return Poll::Ready(Ok(piece));
            }
            stream.poll_reset(cx).map(|_| Err(Gone))
        })
        .await;
        match piece {
            Ok(Some(Ok(piece))) => {
                if push(link, &mut stream, piece).await.is_err() {
                    return;
                }
            }
            Ok(Some(Err(_))) => {
                stream.send_reset(h2::Reason::INTERNAL_ERROR);
                link.note_sent(0);
                return;
            }
            Ok(None) => break,
            Err(Gone) => return,
        }
    }
    let _ = stream.send_data(Bytes::new(), true);
    link.note_sent(0);
}

/// Sends a reply, or as much of it as the window admits. Errors mean that nobody listens any more.
pub(super) fn answer(respond: &mut SendResponse<Bytes>, link: &Link, reply: Reply) -> Option<Rest> {
    let mut frame = match reply {
        Ok(frame) => frame,
        Err(status) => {
            refuse(respond, link, StatusCode::OK, &status);
            return None;
        }
    };
    let mut stream = respond.send_response(headers::response(), false).ok()?;
    link.note_sent(0);
    if !link.is_full() {
        stream.reserve_capacity(frame.len());
        if stream.capacity() >= frame.len() {
            link.note_sent(frame.len());
            stream.send_data(std::mem::take(&mut frame), false).ok()?;
            let _ = stream.send_trailers(headers::trailers_ok());
            return None;
        }
    }
    Some(Rest { stream, frame })
}

/// Answers with a status and nothing else.
pub(super) fn refuse(
    respond: &mut SendResponse<Bytes>,
    link: &Link,
    http: StatusCode,
    status: &Status,
) {
    let _ = respond.send_response(headers::trailers_only(http, status), true);
    link.note_sent(0);
}

/// The part of an answer that waits for the peer's window.
pub(super) struct Rest {
    stream: SendStream<Bytes>,
    frame: Bytes,
}

impl Rest {
    pub(super) async fn finish(mut self, link: &Link) {
        if push(link, &mut self.stream, self.frame).await.is_ok() {
            let _ = self.stream.send_trailers(headers::trailers_ok());
            link.note_sent(0);
        }
    }
}

/// Sends all of `frame`, as fast as window and bound admit.
async fn push(link: &Link, stream: &mut SendStream<Bytes>, mut frame: Bytes) -> Result<(), Gone> {
    let mut ticket = Ticket::default();
    poll_fn(
        |cx| match link.poll_push(stream, &mut frame, &mut ticket, cx) {
            Poll::Pending => stream.poll_reset(cx).map(|_| Err(Gone)),
            ready => ready,
        },
    )
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    #[test]
    fn a_waiting_call_takes_little_memory() {
        let bytes = bytes_of(run::<crate::grpc::NodeService>);
        assert!(bytes <= 1536, "{bytes} bytes: box what made it grow");
    }
}
