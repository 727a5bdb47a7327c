//! Keys and values. The functions take the API's own requests; [`get`], [`put`] and [`prefix`] make the
//! common ones.

use bytes::Bytes;
use kvnode_api as api;
use kvnode_api::service::Method;

use crate::client::{Answers, Client, Repeat};
use crate::error::Result;

impl Client {
    /// Reads keys.
    pub async fn range(&self, request: api::RangeRequest) -> Result<api::RangeResponse> {
        self.unary(Method::Range, &request, Repeat::Freely).await
    }

    /// Reads keys, the answer in pieces (servers from 3.7 on).
    pub async fn range_stream(&self, request: api::RangeRequest) -> Result<RangeStream> {
        let answers = self.server_stream(Method::RangeStream, &request).await?;
        Ok(RangeStream { answers })
    }

    /// Writes a pair.
    pub async fn put(&self, request: api::PutRequest) -> Result<api::PutResponse> {
        self.unary(Method::Put, &request, Repeat::IfNotSent).await
    }

    /// Deletes keys.
    pub async fn delete_range(
        &self,
        request: api::DeleteRangeRequest,
    ) -> Result<api::DeleteRangeResponse> {
        self.unary(Method::DeleteRange, &request, Repeat::IfNotSent)
            .await
    }

    /// Compares, then does one of two lists, at one moment.
    pub async fn txn(&self, request: api::TxnRequest) -> Result<api::TxnResponse> {
        let repeat = match only_reads(&request) {
            true => Repeat::Freely,
            false => Repeat::IfNotSent,
        };
        self.unary(Method::Txn, &request, repeat).await
    }

    /// Drops history below a revision.
    pub async fn compact(
        &self,
        request: api::CompactionRequest,
    ) -> Result<api::CompactionResponse> {
        self.unary(Method::Compact, &request, Repeat::IfNotSent)
            .await
    }
}

/// An answer to a range in pieces; put together they are the answer to [`Client::range`].
pub struct RangeStream {
    answers: Answers<api::RangeStreamResponse>,
}

impl RangeStream {
    /// The next piece, or `None` after the last.
    pub async fn next(&mut self) -> Result<Option<api::RangeResponse>> {
        let piece = self.answers.next().await?;
        Ok(piece.map(|piece| piece.range_response.unwrap_or_default()))
    }

    /// The whole answer.
    pub async fn collect(mut self) -> Result<api::RangeResponse> {
        let mut whole = api::RangeResponse::default();
        while let Some(piece) = self.next().await? {
            whole.header = piece.header.or(whole.header);
            whole.kvs.extend(piece.kvs);
            whole.more |= piece.more;
            whole.count = whole.count.max(piece.count);
        }
        Ok(whole)
    }
}

/// A request for one key.
pub fn get(key: impl Into<Bytes>) -> api::RangeRequest {
    api::RangeRequest {
        key: key.into(),
        ..Default::default()
    }
}

/// A request to write one pair.
pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> api::PutRequest {
    api::PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    }
}

/// Key and range end of all keys that begin with `prefix`; every key there is if it is empty.
///
/// ```
/// let (key, range_end) = kvnode_client::prefix("a/");
/// assert_eq!((&key[..], &range_end[..]), (&b"a/"[..], &b"a0"[..]));
/// let (key, range_end) = kvnode_client::prefix("");
/// assert_eq!((&key[..], &range_end[..]), (&b"\0"[..], &b"\0"[..]));
/// ```
pub fn prefix(prefix: impl Into<Bytes>) -> (Bytes, Bytes) {
    let prefix = prefix.into();
    if prefix.is_empty() {
        return (
            Bytes::from_static(api::FROM_KEY),
            Bytes::from_static(api::FROM_KEY),
        );
    }
    let end = prefix_end(&prefix);
    (prefix, end)
}

/// The first key after all keys that begin with `prefix`; [`api::FROM_KEY`] if there is none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let Some(last) = prefix.iter().rposition(|&byte| byte != 0xff) else {
        return Bytes::from_static(api::FROM_KEY);
    };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end.into()
}

fn only_reads(request: &api::TxnRequest) -> bool {
    use api::request_op::Request;
    let reads = |op: &api::RequestOp| match &op.request {
        Some(Request::RequestRange(_)) | None => true,
        Some(Request::RequestTxn(inner)) => only_reads(inner),
        Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) => false,
    };
    request.success.iter().chain(&request.failure).all(reads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_key_that_does_not_begin_with_it() {
        assert_eq!(prefix_end(b"a")[..], *b"b");
        assert_eq!(prefix_end(b"a\xff")[..], *b"b");
        assert_eq!(prefix_end(b"\xff\xff")[..], *b"\0");
    }

    #[test]
    fn a_transaction_is_a_read_only_if_all_its_parts_are() {
        use api::request_op::Request;
        let op = |request| api::RequestOp {
            request: Some(request),
        };
        let read = op(Request::RequestRange(get("k")));
        let write = op(Request::RequestPut(put("k", "v")));
        let txn = |success: Vec<_>, failure: Vec<_>| api::TxnRequest {
            success,
            failure,
            ..Default::default()
        };
        assert!(only_reads(&txn(vec![read.clone()], vec![])));
        assert!(!only_reads(&txn(vec![read.clone()], vec![write.clone()])));
        let nested = op(Request::RequestTxn(txn(vec![write], vec![])));
        assert!(!only_reads(&txn(vec![read, nested], vec![])));
    }
}
