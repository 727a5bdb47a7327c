//! Calls of one connection that came in a turn, with one future for all of them: it costs as much as all else that is done for
//! such a call.
//!
//! A linearizable read of a key at hand needs nothing but the word that this member's state is the newest: they wait for the same word.
//! Writes wait for a word each, but what came in a turn is mostly written to the log and applied together.
//! Each of the calls can still be reset or pass its deadline by itself.

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
    let mut waiting: Vec<_> = calls
        .into_iter()
        .map(|call| (Deadline::new(&link, call.call.deadline), call))
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
                    refuse(&mut call.respond, &link, StatusCode::OK, &status);
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
    service.warm(waiting.iter_mut().map(|(_, call)| &mut call.begun));
    let mut longer = FuturesUnordered::new();
    for (deadline, call) in waiting {
        drop(deadline);
        longer.extend(answer_one(&service, &link, call, &result));
    }
    while longer.next().await.is_some() {}
}

/// Waits for the end of each, and answers it then.
pub(super) async fn run_each<S: Service>(
    service: Rc<S>,
    link: Rc<Link>,
    calls: Vec<Waiting<S::Begun>>,
) {
    let mut waiting: Vec<_> = calls
        .into_iter()
        .map(|call| (Deadline::new(&link, call.call.deadline), call))
        .collect();
    let mut longer = FuturesUnordered::new();
    poll_fn(|cx| {
        waiting.retain_mut(|(deadline, waiting)| {
            let Waiting {
                call,
                message,
                respond,
                begun,
                ..
            } = waiting;
            if let Poll::Ready(reply) = service.poll_begun(call, message, begun, cx) {
                longer.extend(answer(respond, &link, reply).map(|rest| rest.finish(&link)));
                return false;
            }
            if respond.poll_reset(cx).is_ready() {
                return false;
            }
            if deadline.poll_passed(cx) {
                refuse(respond, &link, StatusCode::OK, &Status::deadline_exceeded());
                return false;
            }
            true
        });
        while let Poll::Ready(Some(())) = longer.poll_next_unpin(cx) {}
        match waiting.is_empty() && longer.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

/// Answers a call that waited for `result`. What is left to do comes back.
pub(super) fn answer_one<S: Service>(
    service: &Rc<S>,
    link: &Rc<Link>,
    waiting: Waiting<S::Begun>,
    result: &Result<(), Status>,
) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
    let Waiting {
        call,
        source,
        message,
        mut respond,
        begun,
    } = waiting;
    let deadline = call.deadline;
    match Rc::clone(service).confirmed(call, message, begun, result) {
        Confirmed::Answer(reply) => {
            let rest = answer(&mut respond, link, reply)?;
            let link = Rc::clone(link);
            Some(Box::pin(async move { rest.finish(&link).await }))
        }
        Confirmed::Long(reply) => {
            let link = Rc::clone(link);
            Some(Box::pin(async move {
                let deadline = Deadline::new(&link, deadline);
                finish(&link, deadline, source, respond, reply).await;
            }))
        }
    }
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
