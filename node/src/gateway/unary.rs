//! One object in, one out.

use std::rc::Rc;

use bytes::Bytes;
use http::StatusCode;
use kvnode_api::json::{self, Route, Splitter};
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
async fn text(core: &ClientCore, body: HttpBody, arriving: &mut Arriving) -> Result<Bytes, Status> {
    let limit = text_bytes_max(core);
    let whole = body.bytes(limit, |bytes| arriving.hold(bytes).is_ok());
    whole.await.map_err(|error| match error {
        BodyError::TooLong { limit } => {
            core.refused(Limit::RequestBytes);
            unreadable(&json::Error::TooLong { limit })
        }
        BodyError::TooSlow => {
            core.refused(Limit::SlowBody);
            broken(error)
        }
        BodyError::NoRoom => Status::too_many_requests(),
        BodyError::Broken => broken(error),
    })
}

fn broken(error: BodyError) -> Status {
    Status::new(Code::InvalidArgument, format!("kvnode: {error}"))
}
