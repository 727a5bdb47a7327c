//! What waits to be sent to one peer, in three lanes.
//!
//! - *urgent*: heartbeats, votes, answers, reads. Small, and what keeps a leader a leader.
//! - *asks*: requests between members and their answers, up to 1 MiB each.
//! - *bulk*: appends and forwarded proposals.
//!
//! A lane is bounded by count and bytes; when it is full the newest is dropped, which is always
//! legal for raft and costs nothing that waits. A full lane takes nothing away from the others:
//! every write begins with what is urgent, and never holds more than [`WRITE_BYTES`] and one item.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use kvnode_replica::{Kind as MessageKind, Message};

use super::frame::{HEADER_BYTES, Kind, MESSAGE_BYTES_MAX, put};
use super::{ASK_BYTES_MAX, Limits};

/// About how much is handed to the socket at a time.
pub(super) const WRITE_BYTES: usize = 256 << 10;

pub(super) enum Item {
    Message(Message),
    Ask { ticket: u64, kind: u8, body: Bytes },
    Answer { ticket: u64, body: Bytes },
}

impl Item {
    /// Bytes of the frame.
    fn bytes(&self) -> usize {
        HEADER_BYTES
            + match self {
                Item::Message(message) => message.encoded_len(),
                Item::Ask { body, .. } => 9 + body.len(),
                Item::Answer { body, .. } => 8 + body.len(),
            }
    }

    fn fits_a_frame(&self) -> bool {
        match self {
            Item::Message(message) => message.encoded_len() <= MESSAGE_BYTES_MAX,
            Item::Ask { body, .. } | Item::Answer { body, .. } => body.len() <= ASK_BYTES_MAX,
        }
    }

    fn put(self, out: &mut BytesMut) {
        match self {
            Item::Message(message) => put(out, Kind::Message, |out| message.encode_into(out)),
            Item::Ask { ticket, kind, body } => put(out, Kind::Ask, |out| {
                out.put_u64_le(ticket);
                out.put_u8(kind);
                out.put_slice(&body);
            }),
            Item::Answer { ticket, body } => put(out, Kind::Answer, |out| {
                out.put_u64_le(ticket);
                out.put_slice(&body);
            }),
        }
    }
}

struct Lane {
    items: VecDeque<Item>,
    bytes: usize,
    count_max: usize,
    bytes_max: usize,
}

impl Lane {
    fn new(count_max: usize, bytes_max: usize) -> Lane {
        Lane {
            items: VecDeque::new(),
            bytes: 0,
            count_max,
            bytes_max,
        }
    }

    /// Takes the item, if it fits. One item fits into an empty lane whatever its size.
    fn push(&mut self, item: Item) -> bool {
        let bytes = item.bytes();
        let full = self.items.len() >= self.count_max || self.bytes + bytes > self.bytes_max;
        if full && !self.items.is_empty() {
            return false;
        }
        self.bytes += bytes;
        self.items.push_back(item);
        true
    }

    /// Moves items to `out` until that holds `limit` bytes or more.
    fn drain(&mut self, out: &mut BytesMut, limit: usize) {
        while out.len() < limit
            && let Some(item) = self.items.pop_front()
        {
            self.bytes -= item.bytes();
            item.put(out);
        }
        // A burst's memory is not kept for ever.
        if self.items.is_empty() && self.items.capacity() > KEPT_ITEMS {
            self.items = VecDeque::new();
        }
    }
}

/// Slots an empty lane keeps.
const KEPT_ITEMS: usize = 1024;

pub(super) struct Lanes {
    /// Empty frames of ours, before everything else.
    pub ping: bool,
    pub pong: bool,
    urgent: Lane,
    asks: Lane,
    bulk: Lane,
}

impl Lanes {
    pub(super) fn new(limits: &Limits) -> Lanes {
        Lanes {
            ping: false,
            pong: false,
            urgent: Lane::new(limits.urgent_count_max, limits.urgent_bytes_max),
            asks: Lane::new(limits.asks_count_max, limits.asks_bytes_max),
            bulk: Lane::new(limits.bulk_count_max, limits.bulk_bytes_max),
        }
    }

    /// Queues an item; `false` if it was dropped.
    pub(super) fn push(&mut self, item: Item) -> bool {
        if !item.fits_a_frame() {
            return false;
        }
        match &item {
            Item::Message(message) => match message.kind {
                MessageKind::Append | MessageKind::Forward => self.bulk.push(item),
                _ => self.urgent.push(item),
            },
            Item::Ask { .. } | Item::Answer { .. } => self.asks.push(item),
        }
    }

    /// Moves what comes next to `out`, up to about [`WRITE_BYTES`]: everything urgent first, asks
    /// up to half of it, appends, then more asks.
    pub(super) fn gather(&mut self, out: &mut BytesMut) {
        if std::mem::take(&mut self.ping) {
            put(out, Kind::Ping, |_| ());
        }
        if std::mem::take(&mut self.pong) {
            put(out, Kind::Pong, |_| ());
        }
        self.urgent.drain(out, WRITE_BYTES);
        self.asks.drain(out, WRITE_BYTES / 2);
        self.bulk.drain(out, WRITE_BYTES);
        self.asks.drain(out, WRITE_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::frame::{Decoder, Frame};
    use crate::peers::tests::{append, heartbeat};

    fn limits() -> Limits {
        Limits {
            urgent_count_max: 3,
            bulk_count_max: 4,
            bulk_bytes_max: 2000,
            asks_count_max: 2,
            ..Limits::default()
        }
    }

    fn ask(ticket: u64, bytes: usize) -> Item {
        Item::Ask {
            ticket,
            kind: 1,
            body: vec![0; bytes].into(),
        }
    }

    fn frames(out: &BytesMut) -> Vec<Frame> {
        let mut frames = Vec::new();
        Decoder::default().feed(out, &mut frames).unwrap();
        frames
    }

    fn indexes(out: &BytesMut) -> Vec<u64> {
        let limits = kvnode_replica::Limits::default();
        frames(out)
            .into_iter()
            .map(|frame| Message::decode(frame.body, &limits).unwrap().index)
            .collect()
    }

    #[test]
    fn a_full_lane_drops_the_newest_and_leaves_the_others_their_room() {
        let mut lanes = Lanes::new(&limits());
        for index in 1..=4 {
            assert!(lanes.push(Item::Message(append(1, 2, index, 10))));
        }
        assert!(!lanes.push(Item::Message(append(1, 2, 5, 10))));
        for _ in 0..3 {
            assert!(lanes.push(Item::Message(heartbeat(1, 2))));
        }
        assert!(!lanes.push(Item::Message(heartbeat(1, 2))));
        assert!(lanes.push(ask(1, 0)) && lanes.push(ask(2, 0)));
        assert!(!lanes.push(ask(3, 0)));
        let mut out = BytesMut::new();
        lanes.gather(&mut out);
        let kinds: Vec<Kind> = frames(&out).iter().map(|frame| frame.kind).collect();
        assert_eq!(kinds.len(), 9);
        assert_eq!(kinds[3..5], [Kind::Ask, Kind::Ask]);
        // Everything has left, so there is room again.
        assert!(lanes.push(Item::Message(append(1, 2, 5, 10))));
        out.clear();
        lanes.gather(&mut out);
        assert_eq!(indexes(&out), [5]);
    }

    #[test]
    fn bytes_bound_a_lane_as_well_but_never_keep_a_single_large_item_out() {
        let mut lanes = Lanes::new(&limits());
        assert!(lanes.push(Item::Message(append(1, 2, 1, 5000))));
        assert!(!lanes.push(Item::Message(append(1, 2, 2, 1))));
        let mut out = BytesMut::new();
        lanes.gather(&mut out);
        assert!(lanes.push(Item::Message(append(1, 2, 2, 500))));
        assert!(lanes.push(Item::Message(append(1, 2, 3, 500))));
        assert!(!lanes.push(Item::Message(append(1, 2, 4, 1500))));
    }

    #[test]
    fn what_no_frame_could_hold_is_refused() {
        let mut lanes = Lanes::new(&Limits::default());
        assert!(!lanes.push(ask(1, ASK_BYTES_MAX + 1)));
        assert!(lanes.push(ask(1, ASK_BYTES_MAX)));
        assert!(!lanes.push(Item::Message(append(1, 2, 1, MESSAGE_BYTES_MAX))));
    }

    #[test]
    fn urgent_messages_pass_appends_that_wait() {
        let mut lanes = Lanes::new(&Limits::default());
        for index in 1..=100 {
            assert!(lanes.push(Item::Message(append(1, 2, index, 100_000))));
        }
        let mut out = BytesMut::new();
        lanes.gather(&mut out);
        assert_eq!(indexes(&out), [1, 2, 3]);
        assert!(out.len() < WRITE_BYTES + 100_200);
        assert!(lanes.push(Item::Message(heartbeat(1, 2))));
        lanes.ping = true;
        out.clear();
        lanes.gather(&mut out);
        assert_eq!(frames(&out)[0].kind, Kind::Ping);
        let limits = kvnode_replica::Limits::default();
        let second = Message::decode(frames(&out)[1].body.clone(), &limits).unwrap();
        assert_eq!(second.kind, MessageKind::Heartbeat);
    }

    #[test]
    fn large_asks_do_not_starve_appends() {
        let mut lanes = Lanes::new(&Limits::default());
        for ticket in 0..10 {
            assert!(lanes.push(ask(ticket, 100_000)));
        }
        assert!(lanes.push(Item::Message(append(1, 2, 1, 10))));
        let mut out = BytesMut::new();
        lanes.gather(&mut out);
        assert!(frames(&out).iter().any(|frame| frame.kind == Kind::Message));
    }
}
