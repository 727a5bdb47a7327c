//! One object in, one out.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use kvnode_api::json::{Route, Splitter};
use kvnode_api::status::{Code, Status};

use super::{
    Arriving, INLINE_BYTES, as_answered, failed, message_bytes_max, read, text_bytes_max,
    unreadable, write,
};
use crate::cores::client::ClientCore;
use crate::grpc::NodeService;
use crate::http::{BodyError, Call, HttpBody, HttpRequest, HttpResponse, ResponseBody, Service};
use crate::metrics::Limit;
use crate::rt;

pub async fn serve(
    service: Rc<NodeService>,
    route: &'static Route,
    call: Call,
    request: HttpRequest,
) -> HttpResponse {
    let deadline = call.deadline;
    let answering = answer(service, route, call, request.body);
    let answered = match deadline {
        None => answering.await,
        Some(deadline) => {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let result = rt::timeout(left, answering).await;
            result.unwrap_or_else(|_| Err(Status::deadline_exceeded()))
        }
    };
    match answered {
        Ok(text) => as_answered(ResponseBody::json(StatusCode::OK, text)),
        Err(status) => failed(&status),
    }
}

async fn answer(
    service: Rc<NodeService>,
    route: &'static Route,
    call: Call,
    body: HttpBody,
) -> Result<Bytes, Status> {
    let core = Rc::clone(service.core());
    let mut arriving = Arriving::new(&service);
    let text = text(&core, body, &mut arriving).await?;
    let max = message_bytes_max(&core);
    let message = match text.len() <= INLINE_BYTES {
        true => first(route, &text, max),
        false => core.on_reader(move || first(route, &text, max)).await?,
    };
    let message = message.inspect_err(|status| {
        if status.code == Code::ResourceExhausted {
            core.refused(Limit::RequestBytes);
        }
    })?;
    drop(arriving);
    let frame = service.unary(call, message).await?;
    write(&core, route.response, frame, "", "").await
}

/// The message of the first object; what follows it is not looked at, as in etcd.
fn first(route: &Route, text: &Bytes, max: usize) -> Result<Bytes, Status> {
    let mut splitter = Splitter::new(text.len());
    splitter.push(text);
    let object = splitter.next_value().map_err(|error| unreadable(&error))?;
    match object {
        Some(object) => read(route.request, &object, max),
        None => {
            splitter.finish().map_err(|error| unreadable(&error))?;
            Ok(Bytes::new())
        }
    }
}

/// The whole body.
async fn text(
    core: &ClientCore,
    mut body: HttpBody,
    arriving: &mut Arriving,
) -> Result<Bytes, Status> {
    let (limit, timeout) = (text_bytes_max(core), body.timeout());
    let reading = async {
        let mut whole = BytesMut::new();
        while let Some(piece) = body.piece().await.map_err(broken)? {
            if whole.len() + piece.len() > limit {
                core.refused(Limit::RequestBytes);
                return Err(unreadable(&kvnode_api::json::Error::TooLong { limit }));
            }
            arriving.hold(whole.len() + piece.len())?;
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    };
    let result = rt::timeout(timeout, reading).await;
    result.unwrap_or_else(|_| {
        core.refused(Limit::SlowBody);
        Err(broken(BodyError::TooSlow))
    })
}

fn broken(error: BodyError) -> Status {
    Status::new(Code::InvalidArgument, format!("kvnode: {error}"))
}
