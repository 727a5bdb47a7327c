//! How errors look: HTTP statuses, and bodies that clients of every gateway generation can read.

use super::write::quote;
use crate::status::{Code, Status};

/// The HTTP status that goes with a code.
pub const fn http_status(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::DeadlineExceeded => 504,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::PermissionDenied => 403,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::Unauthenticated => 401,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
    }
}

/// The words that go with the status.
pub const fn http_reason(code: Code) -> &'static str {
    match http_status(code) {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        409 => "Conflict",
        429 => "Too Many Requests",
        499 => "Client Closed Request",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Internal Server Error",
    }
}

/// Body of a failed call: `error` for clients of releases up to 3.5, `message` for those after,
/// `code` for all.
pub fn failure(status: &Status) -> Vec<u8> {
    let mut body = b"{\"error\":".to_vec();
    quote(&status.message, &mut body);
    body.extend_from_slice(format!(",\"code\":{},\"message\":", status.code as u8).as_bytes());
    quote(&status.message, &mut body);
    body.push(b'}');
    body
}

/// Last line of a stream that failed, with the names of both generations; ends with a newline.
pub fn stream_failure(status: &Status) -> Vec<u8> {
    let (code, http) = (status.code as u8, http_status(status.code));
    let reason = http_reason(status.code);
    let mut line =
        format!("{{\"error\":{{\"code\":{code},\"grpc_code\":{code},\"http_code\":{http},\"http_status\":\"{reason}\",\"message\":")
            .into_bytes();
    quote(&status.message, &mut line);
    line.extend_from_slice(b"}}\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_serve_old_clients_and_new_ones() {
        let body = String::from_utf8(failure(&Status::lease_not_found())).unwrap();
        assert_eq!(
            body,
            r#"{"error":"etcdserver: requested lease not found","code":5,"message":"etcdserver: requested lease not found"}"#
        );
        let line = String::from_utf8(stream_failure(&Status::leader_key_missing())).unwrap();
        assert_eq!(
            line,
            "{\"error\":{\"code\":2,\"grpc_code\":2,\"http_code\":500,\"http_status\":\"Internal Server Error\",\
             \"message\":\"\\\"leader\\\" field must be provided\"}}\n"
        );
    }

    #[test]
    fn codes_have_the_gateways_statuses() {
        let statuses: Vec<u16> = (0..=16).map(|n| http_status(Code::from_u8(n))).collect();
        assert_eq!(
            statuses,
            [
                200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401
            ]
        );
    }
}
