//! A look at the member list, in plain HTTP, for whoever asks on the peer port: a member about to found or join the cluster,
//! and an operator with `curl`. One request per connection, within the time of a greeting.

use std::future::poll_fn;
use std::io;

use super::inner::Inner;
use super::stream::Stream;
use crate::memberlist;

/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 4096;

/// Whether what was read first begins a request rather than a greeting.
pub(super) fn is_request(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'G')
}

/// Reads the rest of the request and answers it.
pub(super) async fn answer(inner: &Inner, stream: &mut Stream, begun: &[u8]) -> io::Result<()> {
    let mut head = begun.to_vec();
    let mut chunk = [0; 512];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match poll_fn(|cx| stream.poll_read(cx, &mut chunk)).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => head.extend_from_slice(chunk.get(..read).unwrap_or_default()),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let line = head.lines().next().unwrap_or_default();
    let answer = memberlist::answer(line, inner.identity.cluster, &inner.shown.borrow());
    let mut rest = answer.as_bytes();
    while !rest.is_empty() {
        let sent = poll_fn(|cx| stream.poll_write(cx, rest)).await?;
        rest = rest.get(sent..).unwrap_or_default();
    }
    poll_fn(|cx| stream.poll_flush(cx)).await
}
