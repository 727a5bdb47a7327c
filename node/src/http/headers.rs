//! gRPC's header fields: what a request's say, and what a response's must say.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use kvnode_api::status::{Code, Status};

use super::HEADER_LIST_BYTES_MAX;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Is this a gRPC content type: `application/grpc`, alone or followed by `+` or `;`?
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Bytes of a request's fields and path, each field with the 32 more that HTTP/2 counts for it.
pub(super) fn list_bytes(headers: &HeaderMap, path: &str) -> usize {
    const FIELD_BYTES: usize = 32;
    let fields = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES);
    fields.sum::<usize>() + path.len()
}

/// What a call whose headers are too long is refused with.
pub(super) fn too_long() -> Status {
    let text =
        format!("kvnode: the request's headers are longer than {HEADER_LIST_BYTES_MAX} bytes");
    Status::new(Code::ResourceExhausted, text)
}

/// The client's time limit.
///
/// # Errors
/// INTERNAL if the field is there and malformed.
pub(crate) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else {
        return Ok(None);
    };
    parse_timeout(value.as_bytes()).map(Some).ok_or_else(|| {
        let text = String::from_utf8_lossy(value.as_bytes());
        Status::new(Code::Internal, format!("malformed grpc-timeout: {text:?}"))
    })
}

/// One to eight digits and a unit.
fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits
        .iter()
        .fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// # Errors
/// UNIMPLEMENTED for a request in an encoding; this server reads none.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get(GRPC_ENCODING) {
        None => Ok(()),
        Some(value) if value.is_empty() || value == "identity" => Ok(()),
        Some(value) => Err(Status::unknown_encoding(&String::from_utf8_lossy(
            value.as_bytes(),
        ))),
    }
}

/// Headers of a response that a message follows.
pub(super) fn response() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// Headers of a response that is all status, with an HTTP status of its own.
pub(super) fn trailers_only(http: StatusCode, status: &Status) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = http;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    put_status(headers, status);
    response
}

/// Trailers of a call that went well.
pub(super) fn trailers_ok() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static(Code::Ok.as_str()));
    trailers
}

/// Trailers of a call that went otherwise.
pub(super) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    put_status(&mut trailers, status);
    trailers
}

fn put_status(headers: &mut HeaderMap, status: &Status) {
    headers.insert(GRPC_STATUS, HeaderValue::from_static(status.code.as_str()));
    if status.message.is_empty() {
        return;
    }
    let message = percent_encode(&status.message);
    headers.insert(
        GRPC_MESSAGE,
        HeaderValue::try_from(message).expect("percent-encoding leaves printable ASCII only"),
    );
}

/// As gRPC wants it in `grpc-message`: bytes outside `' '..='~'`, and `%`, as `%XX`.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            encoded.push('%');
            encoded.push(char::from(HEX[usize::from(byte >> 4)]));
            encoded.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_digits_and_a_unit() {
        assert_eq!(parse_timeout(b"10S"), Some(Duration::from_secs(10)));
        assert_eq!(
            parse_timeout(b"99999999H").map(|d| d.as_secs()),
            Some(359_999_996_400)
        );
        assert_eq!(parse_timeout(b"4999m"), Some(Duration::from_millis(4999)));
        assert_eq!(parse_timeout(b"7u"), Some(Duration::from_micros(7)));
        assert_eq!(parse_timeout(b"0n"), Some(Duration::ZERO));
        for bad in [&b""[..], b"S", b"10", b"10s", b"123456789S", b"-1S", b"1 S"] {
            assert_eq!(parse_timeout(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(
            percent_encode("etcdserver: key not found"),
            "etcdserver: key not found"
        );
        assert_eq!(percent_encode("100%\n\u{e9}~"), "100%25%0A%C3%A9~");
    }

    #[test]
    fn content_type_is_grpc_with_or_without_a_suffix() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            is_grpc(&headers)
        };
        assert!(with("application/grpc"));
        assert!(with("application/grpc+proto"));
        assert!(with("application/grpc;x=y"));
        assert!(!with("application/grpcx"));
        assert!(!with("application/json"));
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn only_identity_is_an_encoding_we_read() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_ENCODING, HeaderValue::from_static(value));
            check_encoding(&headers)
        };
        assert_eq!(with("identity"), Ok(()));
        assert_eq!(
            with("gzip").unwrap_err().message,
            "grpc: Decompressor is not installed for grpc-encoding \"gzip\""
        );
    }
}
