//! Which protocol a new connection speaks, from its first bytes.

use std::future::poll_fn;
use std::io;

use crate::tls::Stream;

/// How every HTTP/2 connection begins.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Room for the first read: a preface, settings and a small request come in one go.
const FIRST_READ_BYTES: usize = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http2,
    /// Whatever is neither of the others; the HTTP/1 engine refuses what is not that either.
    Http1,
    /// A TLS handshake where none is expected.
    Tls,
}

/// Reads until the protocol is clear. Returns it with all that was read, or `None` if the
/// connection ended before.
pub(super) async fn sniff(stream: &mut Stream) -> io::Result<Option<(Protocol, Vec<u8>)>> {
    let mut buffer = vec![0; FIRST_READ_BYTES];
    let mut filled = 0;
    loop {
        let read = poll_fn(|cx| stream.poll_read(cx, &mut buffer[filled..])).await?;
        if read == 0 {
            return Ok(None);
        }
        filled += read;
        if let Some(protocol) = judge(&buffer[..filled]) {
            buffer.truncate(filled);
            return Ok(Some((protocol, buffer)));
        }
    }
}

/// The first byte of a TLS handshake.
const TLS_RECORD: u8 = 0x16;

/// `None` while HTTP/1 and 2 are possible; that ends within the preface's length.
fn judge(bytes: &[u8]) -> Option<Protocol> {
    if bytes.first() == Some(&TLS_RECORD) {
        return Some(Protocol::Tls);
    }
    let length = bytes.len().min(PREFACE.len());
    if bytes[..length] != PREFACE[..length] {
        Some(Protocol::Http1)
    } else if length == PREFACE.len() {
        Some(Protocol::Http2)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_byte_that_differs_decides() {
        assert_eq!(judge(b"GET / HTTP/1.1\r\n"), Some(Protocol::Http1));
        assert_eq!(judge(b"PRI * HTTP/1"), Some(Protocol::Http1));
        assert_eq!(judge(b"\x16\x03\x01"), Some(Protocol::Tls));
        assert_eq!(judge(b"P"), None);
        assert_eq!(judge(b"POST"), Some(Protocol::Http1));
        assert_eq!(judge(&PREFACE[..23]), None);
        assert_eq!(judge(PREFACE), Some(Protocol::Http2));
        let mut more = PREFACE.to_vec();
        more.push(0);
        assert_eq!(judge(&more), Some(Protocol::Http2));
    }
}
