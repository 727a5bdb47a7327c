//! The gRPC length prefix: one flag byte (1 = compressed), four bytes big-endian length, message.
//!
//! [`Decoder`] cuts messages out of body chunks however they are split. It looks at the announced
//! length before it keeps a single byte of the message, so what it holds is bounded by the limit
//! plus the chunk pushed last. A message that lies within one chunk is not copied.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use crate::status::{Code, Status};

/// Bytes before each message.
pub const PREFIX_LEN: usize = 5;

/// Longest message a gRPC peer accepts to send or read, in bytes.
pub const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;

/// Longest message for which room is made as soon as it is announced, in bytes.
const RESERVE_BYTES_MAX: usize = 64 << 10;

/// Appends the prefix and the message; the buffer grows once, by exactly what is needed.
///
/// # Errors
/// RESOURCE_EXHAUSTED if the message is longer than [`MESSAGE_BYTES_MAX`]; nothing is appended.
pub fn encode_into(msg: &impl Message, buf: &mut BytesMut) -> Result<(), Status> {
    let length = msg.encoded_len();
    let announced = announced(length)?;
    buf.reserve(PREFIX_LEN + length);
    buf.put_u8(0);
    buf.put_u32(announced);
    msg.encode_raw(buf);
    Ok(())
}

/// As [`encode_into`], into a buffer of its own.
pub fn encode(msg: &impl Message) -> Result<Bytes, Status> {
    let mut buf = BytesMut::new();
    encode_into(msg, &mut buf)?;
    Ok(buf.freeze())
}

/// Decodes a message whose `bytes` fields share `message`.
///
/// # Errors
/// INTERNAL with the decoder's words, as Go's gRPC answers.
pub fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| Status::malformed(&error))
}

/// The length as the prefix carries it, if it is not too long.
pub(crate) fn announced(length: usize) -> Result<u32, Status> {
    u32::try_from(length)
        .ok()
        .filter(|_| length <= MESSAGE_BYTES_MAX)
        .ok_or_else(|| Status::answer_too_large(length, MESSAGE_BYTES_MAX))
}

/// Cuts messages out of a request body.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    /// The chunk pushed last, as far as it is not cut yet.
    chunk: Bytes,
    /// Beginning of a message (with prefix) that came with earlier chunks.
    partial: BytesMut,
}

impl Decoder {
    /// `limit` is the longest message accepted, in bytes.
    pub fn new(limit: usize) -> Decoder {
        Decoder {
            limit,
            chunk: Bytes::new(),
            partial: BytesMut::new(),
        }
    }

    /// Hands over the next piece of the body. Call [`Decoder::next_message`] until it has no more
    /// before pushing again; pushing earlier is correct but copies.
    pub fn push(&mut self, chunk: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = chunk;
        } else if !chunk.is_empty() {
            let mut joined = BytesMut::with_capacity(self.chunk.len() + chunk.len());
            joined.extend_from_slice(&self.chunk);
            joined.extend_from_slice(&chunk);
            self.chunk = joined.freeze();
        }
    }

    /// The next whole message, or `None` until more is pushed.
    ///
    /// # Errors
    /// A message above the limit or with a bad flag. The body cannot be read on after that; the
    /// same error is returned again.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, Status> {
        if self.partial.is_empty() {
            let Some(length) = self.prefix(&self.chunk)? else {
                self.keep_rest();
                return Ok(None);
            };
            if self.chunk.len() - PREFIX_LEN >= length {
                self.chunk.advance(PREFIX_LEN);
                let message = self.chunk.split_to(length);
                self.drop_empty_chunk();
                return Ok(Some(message));
            }
            self.reserve_for(length);
            self.keep_rest();
            return Ok(None);
        }
        self.take_up_to(PREFIX_LEN);
        let Some(length) = self.prefix(&self.partial)? else {
            return Ok(None);
        };
        self.partial
            .reserve((PREFIX_LEN + length).saturating_sub(self.partial.len()));
        self.take_up_to(PREFIX_LEN + length);
        if self.partial.len() < PREFIX_LEN + length {
            return Ok(None);
        }
        let mut message = std::mem::take(&mut self.partial).freeze();
        message.advance(PREFIX_LEN);
        Ok(Some(message))
    }

    /// Bytes held that belong to no message returned so far.
    pub fn buffered(&self) -> usize {
        self.partial.len() + self.chunk.len()
    }

    /// The body has ended.
    ///
    /// # Errors
    /// INTERNAL if it ended within a message.
    pub fn finish(&self) -> Result<(), Status> {
        if self.buffered() == 0 {
            Ok(())
        } else {
            Err(Status::truncated_message())
        }
    }

    /// Length of the message that `bytes` begin with; `None` if the prefix is not whole.
    fn prefix(&self, bytes: &[u8]) -> Result<Option<usize>, Status> {
        let Some((&flag, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        match flag {
            0 => {}
            1 => return Err(Status::compressed_without_encoding()),
            other => {
                return Err(Status::new(
                    Code::Internal,
                    format!("grpc: received unexpected payload format {other}"),
                ));
            }
        }
        let Some(length) = rest.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length);
        match usize::try_from(length) {
            Ok(length) if length <= self.limit => Ok(Some(length)),
            _ => Err(Status::message_too_large(u64::from(length), self.limit)),
        }
    }

    /// Makes room for a message, but for a long one only as it really arrives: announcing is free.
    fn reserve_for(&mut self, length: usize) {
        if length <= RESERVE_BYTES_MAX {
            self.partial
                .reserve((PREFIX_LEN + length).saturating_sub(self.partial.len()));
        }
    }

    /// Moves from the chunk until `partial` holds `wanted` bytes or the chunk is used up.
    fn take_up_to(&mut self, wanted: usize) {
        let take = wanted
            .saturating_sub(self.partial.len())
            .min(self.chunk.len());
        let piece = self.chunk.split_to(take);
        self.partial.extend_from_slice(&piece);
        self.drop_empty_chunk();
    }

    fn keep_rest(&mut self) {
        self.partial.extend_from_slice(&self.chunk);
        self.chunk = Bytes::new();
    }

    /// An empty slice would still hold its whole buffer.
    fn drop_empty_chunk(&mut self) {
        if self.chunk.is_empty() {
            self.chunk = Bytes::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kv::PutRequest;

    fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
        let mut wire = Vec::new();
        for message in messages {
            wire.push(0);
            wire.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
            wire.extend_from_slice(message);
        }
        wire
    }

    fn drain(decoder: &mut Decoder, into: &mut Vec<Vec<u8>>) {
        while let Some(message) = decoder.next_message().unwrap() {
            into.push(message.to_vec());
        }
    }

    #[test]
    fn encode_writes_flag_length_and_message() {
        let put = PutRequest {
            key: "k".into(),
            value: "v".into(),
            ..Default::default()
        };
        let mut buf = BytesMut::from(&b"before"[..]);
        encode_into(&put, &mut buf).unwrap();
        assert_eq!(&buf[..], b"before\0\0\0\0\x06\x0a\x01k\x12\x01v");
        let mut decoder = Decoder::new(6);
        decoder.push(buf.freeze().slice(6..));
        let message = decoder.next_message().unwrap().unwrap();
        assert_eq!(decode::<PutRequest>(message).unwrap(), put);
    }

    #[test]
    fn messages_survive_every_split_in_three() {
        let messages = vec![b"first".to_vec(), vec![], b"second one".to_vec(), vec![7]];
        let wire = Bytes::from(framed(&messages));
        for a in 0..=wire.len() {
            for b in a..=wire.len() {
                let mut decoder = Decoder::new(10);
                let mut found = Vec::new();
                for piece in [wire.slice(..a), wire.slice(a..b), wire.slice(b..)] {
                    decoder.push(piece);
                    drain(&mut decoder, &mut found);
                }
                assert_eq!(found, messages, "split at {a} and {b}");
                assert_eq!(decoder.finish(), Ok(()));
            }
        }
    }

    #[test]
    fn pushing_without_draining_loses_nothing() {
        let messages = vec![b"abc".to_vec(), b"defg".to_vec()];
        let wire = framed(&messages);
        let mut decoder = Decoder::new(10);
        for byte in wire {
            decoder.push(Bytes::copy_from_slice(&[byte]));
        }
        let mut found = Vec::new();
        drain(&mut decoder, &mut found);
        assert_eq!(found, messages);
    }

    #[test]
    fn a_body_that_ends_within_a_message_is_an_error() {
        let wire = Bytes::from(framed(&[b"first".to_vec()]));
        for end in 1..wire.len() {
            let mut decoder = Decoder::new(10);
            decoder.push(wire.slice(..end));
            assert_eq!(decoder.next_message(), Ok(None));
            assert_eq!(decoder.buffered(), end);
            assert_eq!(decoder.finish(), Err(Status::truncated_message()));
        }
    }

    #[test]
    fn the_limit_is_checked_before_the_message_is_kept() {
        for split in 0..=PREFIX_LEN {
            let wire = Bytes::from_static(b"\0\0\0\0\x0b");
            let mut decoder = Decoder::new(10);
            decoder.push(wire.slice(..split));
            let first = decoder.next_message();
            decoder.push(wire.slice(split..));
            let refusal = Err(Status::message_too_large(11, 10));
            if split < PREFIX_LEN {
                assert_eq!(first, Ok(None));
            } else {
                assert_eq!(first, refusal);
            }
            assert_eq!(decoder.next_message(), refusal);
            assert_eq!(decoder.next_message(), refusal, "it stays broken");
        }
        assert_eq!(
            Status::message_too_large(11, 10).message,
            "grpc: received message larger than max (11 vs. 10)"
        );
        let mut decoder = Decoder::new(usize::MAX);
        decoder.push(Bytes::from_static(b"\0\xff\xff\xff\xff"));
        assert_eq!(decoder.next_message(), Ok(None));
        assert!(
            decoder.partial.capacity() < 1 << 20,
            "announcing reserves nothing"
        );
    }

    #[test]
    fn a_flag_other_than_zero_is_refused_at_once() {
        let mut decoder = Decoder::new(10);
        decoder.push(Bytes::from_static(b"\x01"));
        assert_eq!(
            decoder.next_message(),
            Err(Status::compressed_without_encoding())
        );
        let mut decoder = Decoder::new(10);
        decoder.push(Bytes::from_static(b"\x02"));
        assert_eq!(
            decoder.next_message().unwrap_err().message,
            "grpc: received unexpected payload format 2"
        );
    }

    #[test]
    fn a_message_within_one_chunk_is_not_copied() {
        let wire = Bytes::from(framed(&[b"first".to_vec(), b"second".to_vec()]));
        let mut decoder = Decoder::new(10);
        decoder.push(wire.clone());
        let first = decoder.next_message().unwrap().unwrap();
        assert_eq!(first.as_ptr(), wire.slice(PREFIX_LEN..).as_ptr());
    }

    proptest! {
        #[test]
        fn any_messages_in_any_pieces(
            messages in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..300), 0..8),
            pieces in proptest::collection::vec(1usize..200, 1..20),
        ) {
            let mut wire = Bytes::from(framed(&messages));
            let mut decoder = Decoder::new(300);
            let mut found = Vec::new();
            for piece in pieces.iter().cycle() {
                if wire.is_empty() {
                    break;
                }
                decoder.push(wire.split_to(wire.len().min(*piece)));
                drain(&mut decoder, &mut found);
            }
            prop_assert_eq!(found, messages);
            prop_assert!(decoder.finish().is_ok());
        }

        #[test]
        fn random_bytes_never_panic(wire in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::new(64);
            decoder.push(Bytes::from(wire));
            while let Ok(Some(_)) = decoder.next_message() {}
        }
    }
}
