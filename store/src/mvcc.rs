//! Writing keys: what one log entry changes, collected for the engine.
//!
//! An entry gets one main revision, used up only if it changes something; its changes are numbered
//! in the order they happen. Everything lands in [`Pending`], which the store commits as one engine
//! batch; heads are kept decoded until then, so a key written often in a batch is encoded once.
//!
//! Invariants: a change is one history record, one event and one head; a key hangs on at most one
//! lease, and the attachment record exists exactly while the head names that lease; counters in
//! [`Meta`] follow every change.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use kvnode_api::{
    DeleteRangeRequest, DeleteRangeResponse, Event, EventType, KeyRange, KeyValue, PutRequest,
    PutResponse, RangeRequest, RangeResponse, ResponseHeader,
};

use crate::change::Change;
use crate::engine::{Batch, Reader, Space};
use crate::error::Failure;
use crate::heads::HeadCache;
use crate::range::range;
use crate::revision::Revision;
use crate::schema::{
    Head, META_KEY, Meta, PackedHead, UndoParts, Version, attachment_key, head_cost, hist_cost,
    tombstone_key,
};
use crate::source::{Changed, Overlay, Source, no_counter};
use crate::txn::Run;

/// Everything applied and not yet committed.
#[derive(Default)]
pub(crate) struct Pending {
    pub heads: Overlay,
    /// Whether a key hangs on a lease from now on, by lease and key.
    pub attachments: BTreeMap<(i64, Bytes), bool>,
    /// What never changes again: history, tombstone index, and the small tables.
    pub batch: Batch,
    /// Keys that came (true) or went, in order; for the fences.
    pub arrivals: Vec<(Bytes, bool)>,
    pieces: Pieces,
}

/// Cuts the short-lived parts of a batch from one buffer. Once a batch is committed and its parts are gone, the same
/// memory serves the next: nothing is allocated per change, and the processor's cache still has it.
#[derive(Default)]
struct Pieces {
    record: Vec<u8>,
    buffer: BytesMut,
}

/// Of the buffer parts are cut from.
const PIECES_BYTES: usize = 64 << 10;

impl Pieces {
    /// What `write` appends.
    fn cut(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        self.record.clear();
        write(&mut self.record);
        if self.buffer.capacity() < self.record.len() {
            self.buffer.reserve(PIECES_BYTES.max(self.record.len()));
        }
        self.buffer.extend_from_slice(&self.record);
        if self.record.capacity() > PIECES_BYTES {
            self.record = Vec::new();
        }
        self.buffer.split().freeze()
    }
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty() && self.attachments.is_empty() && self.batch.is_empty()
    }

    /// The engine batch of everything, `meta` included, and the heads in it; leaves `self` empty but for the arrivals.
    pub fn take_batch(&mut self, meta: &Meta) -> (Batch, Overlay) {
        let mut batch = std::mem::take(&mut self.batch);
        let heads = std::mem::take(&mut self.heads);
        for Changed { packed, .. } in heads.values() {
            batch.put(Space::State, packed.key(), packed.record());
        }
        for ((lease, key), attached) in std::mem::take(&mut self.attachments) {
            let key = attachment_key(lease, &key);
            if attached {
                batch.put(Space::State, key, Bytes::new());
            } else {
                batch.delete(Space::State, key);
            }
        }
        batch.put(Space::State, &META_KEY[..], meta.encode());
        (batch, heads)
    }
}

/// The changes of one entry, while it runs.
pub(crate) struct Write<'s, V> {
    reader: &'s V,
    known: &'s HeadCache,
    pending: &'s mut Pending,
    meta: &'s mut Meta,
    /// Write new values into history as well.
    with_value: bool,
    events: Vec<Event>,
}

impl<'s, V: Reader> Write<'s, V> {
    pub fn new(
        (reader, known): (&'s V, &'s HeadCache),
        pending: &'s mut Pending,
        meta: &'s mut Meta,
        with_value: bool,
    ) -> Self {
        Self {
            reader,
            known,
            pending,
            meta,
            with_value,
            events: Vec::new(),
        }
    }

    /// Main revision of what this entry changes.
    fn main(&self) -> i64 {
        self.meta.revision + 1
    }

    /// What counts as current inside the entry: the new revision as soon as something changed.
    pub fn revision(&self) -> i64 {
        if self.events.is_empty() {
            self.meta.revision
        } else {
            self.main()
        }
    }

    pub fn source(&self) -> Source<'_, V> {
        Source {
            reader: self.reader,
            overlay: Some(&self.pending.heads),
            known: Some(self.known),
            revision: self.revision(),
            compact_revision: self.meta.compact_revision,
        }
    }

    /// Ends the entry: uses up the revision if anything changed.
    pub fn finish(self) -> Option<Change> {
        if self.events.is_empty() {
            return None;
        }
        self.meta.revision += 1;
        Some(Change {
            revision: self.meta.revision,
            events: self.events,
        })
    }

    /// Nothing was changed so far.
    pub fn is_untouched(&self) -> bool {
        self.events.is_empty()
    }

    /// Deletes a key that is alive.
    pub fn delete(&mut self, key: Bytes, head: Head) {
        self.change(key, Some(head), None);
    }

    fn change(&mut self, key: Bytes, before: Option<Head>, mut made: Option<Version>) {
        // A tombstone at or below the compact revision may or may not be physically gone; to do
        // the same on every member it counts as gone.
        let compacted = self.meta.compact_revision;
        let before = before.filter(|head| head.live.is_some() || head.modified.main > compacted);
        let sub = u32::try_from(self.events.len()).expect("a request has less than 2^32 changes");
        let modified = Revision::new(self.main(), sub);
        let old = before.as_ref().and_then(|head| head.live.as_ref());
        let packed = PackedHead::new(&key, modified, made.as_ref());
        // From here on nothing shares the request's buffer.
        let key = packed.shared_user_key();
        if let Some(made) = &mut made {
            made.value = packed.shared_value(made.value.len());
        }

        self.account(&key, before.as_ref(), made.as_ref());
        self.attach(
            &key,
            old.map_or(0, |old| old.lease),
            made.as_ref().map_or(0, |new| new.lease),
        );
        if made.is_some() != old.is_some() {
            self.pending.arrivals.push((key.clone(), made.is_some()));
        }

        let undo = UndoParts {
            revision: modified,
            key: &key,
            total: self.meta.hist_total,
            made: made.as_ref(),
            previous: before.as_ref(),
            with_value: self.with_value,
        };
        let pieces = &mut self.pending.pieces;
        let place = pieces.cut(|out| out.extend_from_slice(&modified.to_bytes()));
        let record = pieces.cut(|out| undo.encode_into(out));
        self.pending.batch.put(Space::Hist, place, record);
        if made.is_none() {
            let place = tombstone_key(modified);
            self.pending.batch.put(Space::State, place, key.clone());
        }

        let event = self.event(&key, before.as_ref(), made.as_ref());
        if self.events.is_empty() {
            // Most entries change one key, and room for four would be made otherwise.
            self.events.reserve_exact(1);
        }
        self.events.push(event);
        self.pending.heads.insert(
            key,
            Changed {
                head: Head {
                    modified,
                    live: made,
                },
                packed,
            },
        );
    }

    fn event(&self, key: &Bytes, before: Option<&Head>, made: Option<&Version>) -> Event {
        let main = self.main();
        let prev_kv = match before {
            _ if made.is_some_and(|made| made.create_revision == main) => None,
            // Changed before in this very entry: the pair before the entry counts, and the event
            // of that change has it.
            Some(head) if head.modified.main == main => {
                let earlier = self.events.iter().rev();
                let same = |event: &&Event| event.kv.as_ref().is_some_and(|kv| kv.key == *key);
                earlier
                    .clone()
                    .find(same)
                    .and_then(|event| event.prev_kv.clone())
            }
            Some(Head {
                modified,
                live: Some(live),
            }) => Some(live.key_value(key.clone(), modified.main)),
            _ => None,
        };
        event(key.clone(), main, made, prev_kv)
    }

    fn account(&mut self, key: &[u8], before: Option<&Head>, made: Option<&Version>) {
        self.meta.hist_total += hist_cost(key, before);
        if let Some(old) = before.and_then(|head| head.live.as_ref()) {
            self.meta.live_bytes -= head_cost(key, &old.value);
            self.meta.key_count -= 1;
        }
        if let Some(new) = made {
            self.meta.live_bytes += head_cost(key, &new.value);
            self.meta.key_count += 1;
        }
    }

    fn attach(&mut self, key: &Bytes, from: i64, to: i64) {
        if from == to {
            return;
        }
        if from != 0 {
            self.pending.attachments.insert((from, key.clone()), false);
        }
        if to != 0 {
            self.pending.attachments.insert((to, key.clone()), true);
        }
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            revision: self.revision(),
            ..ResponseHeader::default()
        })
    }
}

/// The event of a change at main revision `main`; `made` is `None` for a delete.
pub(crate) fn event(
    key: Bytes,
    main: i64,
    made: Option<&Version>,
    prev_kv: Option<KeyValue>,
) -> Event {
    let (kind, kv) = match made {
        Some(version) => (EventType::Put, version.key_value(key, main)),
        None => (
            EventType::Delete,
            KeyValue {
                key,
                mod_revision: main,
                ..KeyValue::default()
            },
        ),
    };
    Event {
        r#type: kind as i32,
        kv: Some(kv),
        prev_kv,
    }
}

/// The requests' own checks are the caller's; here they only run.
impl<V: Reader> Run for Write<'_, V> {
    fn range(&mut self, request: &RangeRequest) -> Result<RangeResponse, Failure> {
        let mut response = range(&self.source(), request, &no_counter)?;
        response.header = self.header();
        Ok(response)
    }

    fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Failure> {
        let before = self.source().head(&request.key)?;
        let old = before.as_ref().and_then(|head| head.live.as_ref());
        let made = Version {
            create_revision: old.map_or(self.main(), |old| old.create_revision),
            version: old.map_or(1, |old| old.version + 1),
            lease: match old {
                Some(old) if request.ignore_lease => old.lease,
                _ => request.lease,
            },
            value: match old {
                Some(old) if request.ignore_value => old.value.clone(),
                _ => request.value.clone(),
            },
        };
        let prev_kv = before
            .as_ref()
            .filter(|_| request.prev_kv)
            .and_then(|head| {
                let live = head.live.as_ref()?;
                Some(live.key_value(request.key.clone(), head.modified.main))
            });
        self.change(request.key.clone(), before, Some(made));
        Ok(PutResponse {
            header: self.header(),
            prev_kv,
        })
    }

    fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Failure> {
        let range = KeyRange::new(&request.key, &request.range_end);
        let mut doomed: Vec<(Bytes, Head)> = Vec::new();
        if let Some(key) = range.single() {
            let head = self.source().head(key)?;
            doomed.extend(head.map(|head| (key.clone(), head)));
        } else {
            for item in self.source().heads(&range, false) {
                doomed.push(item?);
            }
        }
        doomed.retain(|(_, head)| head.live.is_some());
        let mut prev_kvs = Vec::new();
        if request.prev_kv {
            prev_kvs.extend(doomed.iter().filter_map(|(key, head)| {
                let live = head.live.as_ref()?;
                Some(live.key_value(key.clone(), head.modified.main))
            }));
        }
        let deleted = i64::try_from(doomed.len()).unwrap_or(i64::MAX);
        for (key, head) in doomed {
            self.delete(key, head);
        }
        Ok(DeleteRangeResponse {
            header: self.header(),
            deleted,
            prev_kvs,
        })
    }
}
