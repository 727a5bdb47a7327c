//! Just enough protobuf to write requests without allocating and to pick a field out of an answer.
//! The messages' own types in the api crate serve the tests as the measure.

/// Appends a base-128 integer.
pub fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends an integer field.
pub fn number(tag: u32, value: u64, out: &mut Vec<u8>) {
    varint(u64::from(tag) << 3, out);
    varint(value, out);
}

/// Appends a field of bytes, or a sub-message already encoded.
pub fn bytes(tag: u32, value: &[u8], out: &mut Vec<u8>) {
    varint(u64::from(tag) << 3 | 2, out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// Appends a sub-message that `fill` writes.
pub fn message(tag: u32, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    varint(u64::from(tag) << 3 | 2, out);
    let start = out.len();
    fill(out);
    let length = (out.len() - start) as u64;
    // The length goes in front: write it behind and turn the two around.
    let end = out.len();
    varint(length, out);
    let prefix = out.len() - end;
    out[start..].rotate_right(prefix);
}

/// A field as it lies in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, up to the first thing that cannot be read.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u32, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (value, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Value::Bytes(value)
            }
            _ => return None,
        };
        Some(((key >> 3) as u32, value))
    }
}

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (at, &byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Some(value);
            }
        }
        None
    }
}

/// The integer field of that number, 0 if absent.
pub fn number_in(message: &[u8], tag: u32) -> u64 {
    Fields(message)
        .find_map(|(found, value)| match value {
            Value::Number(number) if found == tag => Some(number),
            _ => None,
        })
        .unwrap_or(0)
}

/// The first field of bytes of that number, empty if absent.
pub fn bytes_in(message: &[u8], tag: u32) -> &[u8] {
    Fields(message)
        .find_map(|(found, value)| match value {
            Value::Bytes(bytes) if found == tag => Some(bytes),
            _ => None,
        })
        .unwrap_or(&[])
}

/// Cuts messages with gRPC's length prefix out of a stream's body.
#[derive(Default)]
pub struct Messages {
    partial: Vec<u8>,
}

impl Messages {
    /// Takes a piece of the body and hands every message that is whole now to `visit`.
    pub fn push(&mut self, piece: &[u8], mut visit: impl FnMut(&[u8])) {
        if self.partial.is_empty() {
            let used = cut(piece, &mut visit);
            self.partial.extend_from_slice(&piece[used..]);
        } else {
            self.partial.extend_from_slice(piece);
            let used = cut(&self.partial, &mut visit);
            self.partial.drain(..used);
        }
    }
}

fn cut(bytes: &[u8], visit: &mut impl FnMut(&[u8])) -> usize {
    let mut rest = bytes;
    while let Some(([_, length @ ..], after)) = rest.split_first_chunk::<5>() {
        let Some((message, after)) = after.split_at_checked(u32::from_be_bytes(*length) as usize)
        else {
            break;
        };
        visit(message);
        rest = after;
    }
    bytes.len() - rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvnode_api::{Event, KeyValue, Message as _, ResponseHeader, WatchResponse};

    fn answer() -> WatchResponse {
        let event = |value: Vec<u8>| Event {
            kv: Some(KeyValue {
                key: "k".into(),
                mod_revision: i64::MAX,
                value: value.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        WatchResponse {
            header: Some(ResponseHeader {
                revision: 300,
                ..Default::default()
            }),
            watch_id: -1,
            created: true,
            events: vec![event(vec![7; 300]), event(vec![])],
            ..Default::default()
        }
    }

    #[test]
    fn fields_of_an_answer_are_found() {
        let encoded = answer().encode_to_vec();
        assert_eq!(number_in(bytes_in(&encoded, 1), 3), 300);
        assert_eq!(number_in(&encoded, 2) as i64, -1);
        assert_eq!(number_in(&encoded, 3), 1);
        assert_eq!(number_in(&encoded, 4), 0);
        assert_eq!(bytes_in(bytes_in(bytes_in(&encoded, 11), 2), 5), [7; 300]);
        assert_eq!(Fields(&encoded).filter(|(tag, _)| *tag == 11).count(), 2);
    }

    #[test]
    fn cut_off_messages_end_the_walk_without_a_panic() {
        let encoded = answer().encode_to_vec();
        for end in 0..encoded.len() {
            assert!(Fields(&encoded[..end]).count() <= 5);
        }
        assert_eq!(Fields(&[0xff; 20]).next(), None);
    }

    #[test]
    fn sub_messages_of_any_length_get_their_prefix() {
        for length in [0, 1, 100, 127, 128, 20_000] {
            let mut out = vec![9];
            message(3, &mut out, |out| bytes(1, &vec![5; length], out));
            assert_eq!(bytes_in(bytes_in(&out[1..], 3), 1), vec![5; length]);
            assert_eq!(Fields(&out[1..]).count(), 1);
        }
    }

    #[test]
    fn messages_survive_every_split() {
        let mut body = Vec::new();
        for message in [&b"first"[..], b"", b"second"] {
            body.push(0);
            body.extend_from_slice(&(message.len() as u32).to_be_bytes());
            body.extend_from_slice(message);
        }
        for a in 0..=body.len() {
            for b in a..=body.len() {
                let mut messages = Messages::default();
                let mut found = Vec::new();
                for piece in [&body[..a], &body[a..b], &body[b..]] {
                    messages.push(piece, |message| found.push(message.to_vec()));
                }
                assert_eq!(found, [b"first".to_vec(), vec![], b"second".to_vec()]);
            }
        }
    }
}
