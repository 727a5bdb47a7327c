//! Calls of one connection that wait for the same word, with one future for all that came in a turn.
//!
//! A linearizable read of a key at hand needs nothing but the word that this member's state is the newest. With a future each, most
//! of what such a read costs would be that future. Each of the calls can still be reset or pass its deadline by itself.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::server::SendResponse;
use http::StatusCode;
use kvnode_api::status::Status;

use super::call::{answer, poll_reply, refuse};
use super::face::{Call, Confirmed, Reply, Service};
use super::link::{Deadline, Link};
use super::source::RequestStream;

/// A call on its way to [`Service::confirmed`]. Its request's body is held until the end: the client may not have closed it.
pub(super) struct Waiting<B> {
    pub call: Call,
    pub source: RequestStream,
    pub message: Bytes,
    pub respond: SendResponse<Bytes>,
    pub begun: B,
}

/// Waits for the word and answers them all.
pub(super) async fn run<S: Service>(service: Rc<S>, link: Rc<Link>, calls: Vec<Waiting<S::Begun>>) {
    let link = &*link;
    let mut waiting: Vec<_> = calls
        .into_iter()
        .map(|call| (Deadline::new(link, call.call.deadline), call))
        .collect();
    let result = {
        let mut word = pin!(Rc::clone(&service).confirm());
        poll_fn(|cx| {
            if let Poll::Ready(result) = word.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
            }
            waiting.retain_mut(|(deadline, call)| {
                if call.respond.poll_reset(cx).is_ready() {
                    return false;
                }
                if deadline.poll_passed(cx) {
                    let status = Status::deadline_exceeded();
                    refuse(&mut call.respond, link, StatusCode::OK, &status);
                    return false;
                }
                true
            });
            match waiting.is_empty() {
                true => Poll::Ready(None),
                false => Poll::Pending,
            }
        })
        .await
    };
    // Nobody is left.
    let Some(result) = result else { return };
    service.warm(waiting.iter().map(|(_, call)| &call.begun));
    let mut longer: FuturesUnordered<Pin<Box<dyn Future<Output = ()> + '_>>> =
        FuturesUnordered::new();
    for (deadline, call) in waiting {
        let Waiting {
            call,
            source,
            message,
            mut respond,
            begun,
        } = call;
        match Rc::clone(&service).confirmed(call, message, begun, &result) {
            Confirmed::Answer(reply) => {
                if let Some(rest) = answer(&mut respond, link, reply) {
                    longer.push(Box::pin(rest.finish(link)));
                }
            }
            Confirmed::Long(reply) => {
                longer.push(Box::pin(finish(link, deadline, source, respond, reply)));
            }
        }
    }
    while longer.next().await.is_some() {}
}

async fn finish(
    link: &Link,
    mut deadline: Deadline<'_>,
    _source: RequestStream,
    mut respond: SendResponse<Bytes>,
    mut handler: Pin<Box<dyn Future<Output = Reply>>>,
) {
    let reply = poll_fn(|cx| poll_reply(handler.as_mut(), &mut respond, &mut deadline, cx)).await;
    drop(deadline);
    if let Some(reply) = reply
        && let Some(rest) = answer(&mut respond, link, reply)
    {
        rest.finish(link).await;
    }
}
