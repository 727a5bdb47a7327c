//! Encoders for the hottest answers, straight into a gRPC frame and without message structs.
//!
//! The bytes are exactly those of the prost messages; property tests hold them together. What an
//! encoder cannot express (nested answers, refusals) goes through the messages.
//!
//! - [`single_range`], [`put`]: the whole frame with one exact reservation.
//! - [`RangeFrame`]: a range of any length, pair by pair; the length is filled in at the end.
//! - [`watch_events`], [`watch_frame`]: the events of a watch response are its last field, so they
//!   are encoded once and shared by every watcher that gets the same ones; only the short head
//!   with the watch id differs.

use bytes::{Bytes, BytesMut};
use prost::encoding::encoded_len_varint;

use crate::frame::{self, PREFIX_LEN};
use crate::header::ResponseHeader;
use crate::mvcc::event::EventType;
use crate::mvcc::{Event, KeyValue};
use crate::status::Status;

/// A pair by reference: what a store holds before it becomes a [`KeyValue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyValueRef<'a> {
    pub key: &'a [u8],
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub value: &'a [u8],
    pub lease: i64,
}

impl<'a> From<&'a KeyValue> for KeyValueRef<'a> {
    fn from(kv: &'a KeyValue) -> Self {
        KeyValueRef {
            key: &kv.key,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            value: &kv.value,
            lease: kv.lease,
        }
    }
}

impl KeyValueRef<'_> {
    /// Length of the encoded message in bytes, without tag and length of the field it stands in.
    pub fn encoded_len(&self) -> usize {
        bytes_len(self.key)
            + int64_len(self.create_revision)
            + int64_len(self.mod_revision)
            + int64_len(self.version)
            + bytes_len(self.value)
            + int64_len(self.lease)
    }

    /// Appends the encoded message.
    pub fn encode_raw(&self, buf: &mut BytesMut) {
        let mut small = Small::new();
        self.put(&mut small, buf);
        small.flush(buf);
    }

    /// Length of the message as a field, tag and length included.
    fn field_len(&self) -> usize {
        message_len(self.encoded_len())
    }

    fn put_field(&self, number: u8, small: &mut Small, buf: &mut BytesMut) {
        small.message(number, self.encoded_len());
        self.put(small, buf);
    }

    /// Leaves the lease in `small`.
    fn put(&self, small: &mut Small, buf: &mut BytesMut) {
        small.bytes(1, self.key, buf);
        small.int64(2, self.create_revision);
        small.int64(3, self.mod_revision);
        small.int64(4, self.version);
        small.bytes(5, self.value, buf);
        small.int64(6, self.lease);
    }
}

/// Appends a framed `RangeResponse` of at most one pair.
///
/// # Errors
/// As [`frame::encode_into`].
pub fn single_range(
    header: &ResponseHeader,
    kv: Option<KeyValueRef<'_>>,
    more: bool,
    count: i64,
    buf: &mut BytesMut,
) -> Result<(), Status> {
    let length =
        header_len(header) + kv.map_or(0, |kv| kv.field_len()) + bool_len(more) + int64_len(count);
    let mut small = Small::new();
    small.prefix(length)?;
    buf.reserve(PREFIX_LEN + length);
    small.header(header);
    if let Some(kv) = kv {
        kv.put_field(2, &mut small, buf);
    }
    small.bool(3, more);
    small.int64(4, count);
    small.flush(buf);
    Ok(())
}

/// Appends a framed `PutResponse`.
///
/// # Errors
/// As [`frame::encode_into`].
pub fn put(
    header: &ResponseHeader,
    prev_kv: Option<KeyValueRef<'_>>,
    buf: &mut BytesMut,
) -> Result<(), Status> {
    let length = header_len(header) + prev_kv.map_or(0, |kv| kv.field_len());
    let mut small = Small::new();
    small.prefix(length)?;
    buf.reserve(PREFIX_LEN + length);
    small.header(header);
    if let Some(kv) = prev_kv {
        kv.put_field(2, &mut small, buf);
    }
    small.flush(buf);
    Ok(())
}

/// A framed `RangeResponse` in the making, at the end of a buffer.
#[derive(Debug)]
#[must_use = "without `finish` the frame announces a wrong length"]
pub struct RangeFrame {
    start: usize,
}

impl RangeFrame {
    /// Appends prefix and header. Until `finish`, only `push` may touch the buffer.
    pub fn begin(header: &ResponseHeader, buf: &mut BytesMut) -> RangeFrame {
        let start = buf.len();
        let mut small = Small::new();
        small.put(&[0; PREFIX_LEN]);
        small.header(header);
        small.flush(buf);
        RangeFrame { start }
    }

    /// Appends a pair.
    pub fn push(&mut self, kv: KeyValueRef<'_>, buf: &mut BytesMut) {
        range_pair(kv, buf);
    }

    /// Appends pairs that [`range_pair`] made.
    pub fn push_pairs(&mut self, pairs: &[u8], buf: &mut BytesMut) {
        buf.extend_from_slice(pairs);
    }

    /// Length of the frame so far, in bytes.
    pub fn encoded_len(&self, buf: &BytesMut) -> usize {
        buf.len() - self.start
    }

    /// Appends what follows the pairs and fills in the length.
    ///
    /// # Errors
    /// As [`frame::encode_into`]; the buffer is cut back to where the frame began.
    pub fn finish(self, more: bool, count: i64, buf: &mut BytesMut) -> Result<(), Status> {
        let mut small = Small::new();
        small.bool(3, more);
        small.int64(4, count);
        small.flush(buf);
        match frame::announced(self.encoded_len(buf) - PREFIX_LEN) {
            Ok(length) => {
                let place = self.start + 1..self.start + PREFIX_LEN;
                buf[place].copy_from_slice(&length.to_be_bytes());
                Ok(())
            }
            Err(status) => {
                buf.truncate(self.start);
                Err(status)
            }
        }
    }
}

/// Appends a pair as field 2 (`kvs`) of a range response, to be put into a [`RangeFrame`] later.
pub fn range_pair(kv: KeyValueRef<'_>, buf: &mut BytesMut) {
    let mut small = Small::new();
    let length = kv.encoded_len();
    buf.reserve(message_len(length));
    small.message(2, length);
    kv.put(&mut small, buf);
    small.flush(buf);
}

/// The key of a pair that [`range_pair`] made. Empty for other bytes.
pub fn range_pair_key(pair: &[u8]) -> &[u8] {
    let parse = || {
        let (_, message) = sized(pair)?;
        match sized(message)? {
            (0x0a, rest) => Some(rest),
            _ => None,
        }
    };
    parse().unwrap_or_default()
}

/// A tag of one byte and the contents behind it, as far as their length says.
fn sized(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (tag, mut rest) = bytes.split_first()?;
    let length = usize::try_from(prost::encoding::decode_varint(&mut rest).ok()?).ok()?;
    Some((*tag, rest.get(..length)?))
}

/// Length of `events` as field 11 of a watch response, in bytes.
pub fn watch_events_len<'a>(events: impl IntoIterator<Item = &'a Event>, prev_kv: bool) -> usize {
    events
        .into_iter()
        .map(|event| watch_event_len(event, prev_kv))
        .sum()
}

/// Length of one event as field 11 of a watch response, in bytes.
pub fn watch_event_len(event: &Event, prev_kv: bool) -> usize {
    message_len(event_len(event, prev_kv))
}

/// Encodes `events` as field 11 of a watch response, with or without the previous pairs. The
/// result is the shared tail for [`watch_frame`] and [`watch_head`].
pub fn watch_events<'a>(
    events: impl IntoIterator<Item = &'a Event, IntoIter: Clone>,
    prev_kv: bool,
) -> Bytes {
    let events = events.into_iter();
    let mut buf = BytesMut::with_capacity(watch_events_len(events.clone(), prev_kv));
    for event in events {
        put_watch_event(event, prev_kv, &mut buf);
    }
    buf.freeze()
}

/// Appends one event as field 11 of a watch response.
pub fn put_watch_event(event: &Event, prev_kv: bool, buf: &mut BytesMut) {
    let mut small = Small::new();
    small.message(11, event_len(event, prev_kv));
    if event.r#type != EventType::Put as i32 {
        small.int64(1, i64::from(event.r#type));
    }
    if let Some(kv) = &event.kv {
        KeyValueRef::from(kv).put_field(2, &mut small, buf);
    }
    if let Some(kv) = event.prev_kv.as_ref().filter(|_| prev_kv) {
        KeyValueRef::from(kv).put_field(3, &mut small, buf);
    }
    small.flush(buf);
}

/// Appends a framed watch response with already encoded events.
///
/// # Errors
/// As [`frame::encode_into`].
pub fn watch_frame(
    header: &ResponseHeader,
    watch_id: i64,
    fragment: bool,
    events: &[u8],
    buf: &mut BytesMut,
) -> Result<(), Status> {
    buf.reserve(PREFIX_LEN + watch_head_len(header, watch_id, fragment) + events.len());
    watch_head(header, watch_id, fragment, events.len(), buf)?;
    buf.extend_from_slice(events);
    Ok(())
}

/// Appends everything of a framed watch response but its events, of which `events_len` bytes have
/// to follow: for events too large to copy for every watcher.
///
/// # Errors
/// As [`frame::encode_into`].
pub fn watch_head(
    header: &ResponseHeader,
    watch_id: i64,
    fragment: bool,
    events_len: usize,
    buf: &mut BytesMut,
) -> Result<(), Status> {
    let mut small = Small::new();
    small.prefix(watch_head_len(header, watch_id, fragment) + events_len)?;
    small.header(header);
    small.int64(2, watch_id);
    small.bool(7, fragment);
    small.flush(buf);
    Ok(())
}

fn watch_head_len(header: &ResponseHeader, watch_id: i64, fragment: bool) -> usize {
    header_len(header) + int64_len(watch_id) + bool_len(fragment)
}

fn event_len(event: &Event, prev_kv: bool) -> usize {
    let kv_len = |kv: &KeyValue| KeyValueRef::from(kv).field_len();
    int64_len(i64::from(event.r#type))
        + event.kv.as_ref().map_or(0, kv_len)
        + event.prev_kv.as_ref().filter(|_| prev_kv).map_or(0, kv_len)
}

fn header_len(header: &ResponseHeader) -> usize {
    message_len(header_contents_len(header))
}

fn header_contents_len(header: &ResponseHeader) -> usize {
    uint64_len(header.cluster_id)
        + uint64_len(header.member_id)
        + int64_len(header.revision)
        + uint64_len(header.raft_term)
}

/// Tag, length and contents of a message field.
fn message_len(contents: usize) -> usize {
    1 + encoded_len_varint(contents as u64) + contents
}

fn bytes_len(value: &[u8]) -> usize {
    if value.is_empty() {
        0
    } else {
        message_len(value.len())
    }
}

/// Negative numbers are ten bytes, sign-extended.
fn int64_len(value: i64) -> usize {
    uint64_len(value as u64)
}

fn uint64_len(value: u64) -> usize {
    if value == 0 {
        0
    } else {
        1 + encoded_len_varint(value)
    }
}

fn bool_len(value: bool) -> usize {
    if value { 2 } else { 0 }
}

/// Small parts gathered on the stack, so that the buffer grows in a few strides and not byte by
/// byte. [`Small::bytes`] writes them out. The most that gathers without one is a watch event with
/// two pairs that have nothing but numbers: 3 starts of a message (11 bytes each), 9 numbers (11).
struct Small {
    bytes: [u8; Small::SIZE],
    len: usize,
}

impl Small {
    const SIZE: usize = 12 * 11;

    fn new() -> Small {
        Small {
            bytes: [0; Small::SIZE],
            len: 0,
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    /// The gRPC prefix of a message this long.
    fn prefix(&mut self, length: usize) -> Result<(), Status> {
        let length = frame::announced(length)?;
        self.byte(0);
        self.put(&length.to_be_bytes());
        Ok(())
    }

    fn header(&mut self, header: &ResponseHeader) {
        self.message(1, header_contents_len(header));
        self.uint64(1, header.cluster_id);
        self.uint64(2, header.member_id);
        self.int64(3, header.revision);
        self.uint64(4, header.raft_term);
    }

    /// Tag and length; the contents follow. Field numbers up to 15 fit the one byte of a tag.
    fn message(&mut self, number: u8, contents: usize) {
        self.byte(number << 3 | 2);
        self.varint(contents as u64);
    }

    fn int64(&mut self, number: u8, value: i64) {
        self.uint64(number, value as u64);
    }

    fn uint64(&mut self, number: u8, value: u64) {
        if value != 0 {
            self.byte(number << 3);
            self.varint(value);
        }
    }

    fn bool(&mut self, number: u8, value: bool) {
        self.uint64(number, u64::from(value));
    }

    /// A bytes field; everything gathered so far and the value go to the buffer.
    fn bytes(&mut self, number: u8, value: &[u8], buf: &mut BytesMut) {
        if !value.is_empty() {
            self.message(number, value.len());
            self.flush(buf);
            buf.extend_from_slice(value);
        }
    }

    fn flush(&mut self, buf: &mut BytesMut) {
        buf.extend_from_slice(&self.bytes[..self.len]);
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use prost::Message;

    use crate::kv::{PutResponse, RangeResponse};
    use crate::watch::WatchResponse;

    fn number() -> impl Strategy<Value = i64> {
        prop_oneof![Just(0), Just(-1), 1i64..200, any::<i64>()]
    }

    fn header() -> impl Strategy<Value = ResponseHeader> {
        (any::<u64>(), any::<u64>(), number(), 0u64..9).prop_map(
            |(cluster_id, member_id, revision, raft_term)| ResponseHeader {
                cluster_id,
                member_id,
                revision,
                raft_term,
            },
        )
    }

    fn key_value() -> impl Strategy<Value = KeyValue> {
        let bytes = |max| proptest::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from);
        (
            bytes(20),
            number(),
            number(),
            number(),
            bytes(400),
            number(),
        )
            .prop_map(
                |(key, create_revision, mod_revision, version, value, lease)| KeyValue {
                    key,
                    create_revision,
                    mod_revision,
                    version,
                    value,
                    lease,
                },
            )
    }

    fn event() -> impl Strategy<Value = Event> {
        (
            0..3i32,
            proptest::option::of(key_value()),
            proptest::option::of(key_value()),
        )
            .prop_map(|(r#type, kv, prev_kv)| Event {
                r#type,
                kv,
                prev_kv,
            })
    }

    fn by_prost(message: &impl Message) -> Bytes {
        frame::encode(message).unwrap()
    }

    proptest! {
        #[test]
        fn key_value_encodes_like_prost(kv in key_value()) {
            let mut buf = BytesMut::new();
            KeyValueRef::from(&kv).encode_raw(&mut buf);
            prop_assert_eq!(&buf[..], &kv.encode_to_vec()[..]);
            prop_assert_eq!(buf.len(), KeyValueRef::from(&kv).encoded_len());
        }

        #[test]
        fn single_range_encodes_like_prost_and_reserves_exactly(
            header in header(),
            kv in proptest::option::of(key_value()),
            more in any::<bool>(),
            count in number(),
        ) {
            let mut buf = BytesMut::new();
            single_range(&header, kv.as_ref().map(KeyValueRef::from), more, count, &mut buf).unwrap();
            let kvs = kv.into_iter().collect();
            let wanted = by_prost(&RangeResponse { header: Some(header), kvs, more, count });
            prop_assert_eq!(&buf[..], &wanted[..]);
        }

        #[test]
        fn put_encodes_like_prost(
            header in header(),
            prev_kv in proptest::option::of(key_value()),
        ) {
            let mut buf = BytesMut::new();
            put(&header, prev_kv.as_ref().map(KeyValueRef::from), &mut buf).unwrap();
            prop_assert_eq!(&buf[..], &by_prost(&PutResponse { header: Some(header), prev_kv })[..]);
        }

        #[test]
        fn range_frame_encodes_like_prost(
            header in header(),
            kvs in proptest::collection::vec(key_value(), 0..20),
            more in any::<bool>(),
            count in number(),
        ) {
            let mut buf = BytesMut::from(&b"earlier"[..]);
            let mut range = RangeFrame::begin(&header, &mut buf);
            let mut pairs = BytesMut::new();
            for (index, kv) in kvs.iter().enumerate() {
                let start = pairs.len();
                range_pair(kv.into(), &mut pairs);
                prop_assert_eq!(range_pair_key(&pairs[start..]), &kv.key[..]);
                if index % 3 == 0 {
                    range.push_pairs(&pairs, &mut buf);
                    pairs.clear();
                }
            }
            range.push_pairs(&pairs, &mut buf);
            range.finish(more, count, &mut buf).unwrap();
            let wanted = by_prost(&RangeResponse { header: Some(header), kvs, more, count });
            prop_assert_eq!(&buf[7..], &wanted[..]);
        }

        #[test]
        fn watch_frames_share_their_events(
            header in header(),
            events in proptest::collection::vec(event(), 0..6),
            ids in proptest::collection::vec(number(), 1..4),
            fragment in any::<bool>(),
            prev_kv in any::<bool>(),
        ) {
            let shared = watch_events(&events, prev_kv);
            prop_assert_eq!(shared.len(), watch_events_len(&events, prev_kv));
            let mut events = events;
            if !prev_kv {
                events.iter_mut().for_each(|event| event.prev_kv = None);
            }
            for watch_id in ids {
                let mut buf = BytesMut::new();
                watch_frame(&header, watch_id, fragment, &shared, &mut buf).unwrap();
                let wanted = by_prost(&WatchResponse {
                    header: Some(header),
                    watch_id,
                    fragment,
                    events: events.clone(),
                    ..Default::default()
                });
                prop_assert_eq!(&buf[..], &wanted[..]);
                let mut head = BytesMut::new();
                watch_head(&header, watch_id, fragment, shared.len(), &mut head).unwrap();
                prop_assert_eq!(&[&head[..], &shared[..]].concat()[..], &wanted[..]);
            }
        }
    }

    #[test]
    fn the_widest_numbers_fit() {
        let header = ResponseHeader {
            cluster_id: u64::MAX,
            member_id: u64::MAX,
            revision: -1,
            raft_term: u64::MAX,
        };
        let kv = KeyValue {
            create_revision: -1,
            mod_revision: -1,
            version: -1,
            lease: -1,
            ..Default::default()
        };
        let event = Event {
            r#type: -1,
            kv: Some(kv.clone()),
            prev_kv: Some(kv.clone()),
        };
        let wanted = WatchResponse {
            events: vec![event.clone()],
            ..Default::default()
        };
        assert_eq!(watch_events([&event], true), wanted.encode_to_vec());
        let mut buf = BytesMut::new();
        single_range(&header, Some((&kv).into()), true, -1, &mut buf).unwrap();
        let wanted = RangeResponse {
            header: Some(header),
            kvs: vec![kv.clone()],
            more: true,
            count: -1,
        };
        assert_eq!(buf, by_prost(&wanted));
        buf.clear();
        put(&header, Some((&kv).into()), &mut buf).unwrap();
        assert_eq!(
            buf,
            by_prost(&PutResponse {
                header: Some(header),
                prev_kv: Some(kv)
            })
        );
    }

    #[test]
    fn a_frame_too_long_is_refused_and_leaves_no_trace() {
        let header = ResponseHeader::default();
        let mut buf = BytesMut::from(&b"x"[..]);
        assert!(watch_head(&header, 1, false, frame::MESSAGE_BYTES_MAX, &mut buf).is_err());
        assert_eq!(&buf[..], b"x");
    }
}
