//! The promises one by one; `model` holds all of them against a naive one.

mod model;

use std::collections::BTreeMap;

use kvnode_api::{Event, EventType, KeyValue};

use super::*;
use crate::change::Change;

fn put(key: &str, revision: i64) -> Event {
    let kv = KeyValue {
        key: key.to_owned().into(),
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        value: "value".into(),
        lease: 0,
    };
    Event {
        r#type: EventType::Put as i32,
        kv: Some(kv),
        prev_kv: None,
    }
}

fn delete(key: &str, revision: i64) -> Event {
    let kv = KeyValue {
        key: key.to_owned().into(),
        mod_revision: revision,
        ..Default::default()
    };
    let prev_kv = put(key, revision - 1).kv;
    Event {
        r#type: EventType::Delete as i32,
        kv: Some(kv),
        prev_kv,
    }
}

fn change(revision: i64, events: Vec<Event>) -> Change {
    Change { revision, events }
}

fn puts(key: &str, revisions: std::ops::RangeInclusive<i64>) -> Vec<Change> {
    revisions
        .map(|revision| change(revision, vec![put(key, revision)]))
        .collect()
}

fn create(key: &str, range_end: &str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
        start_revision,
        ..Default::default()
    }
}

fn with_id(watch_id: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        watch_id,
        ..create("k", "", 0)
    }
}

fn set_at(delivered: i64) -> (WatcherSet, StreamId) {
    let mut set = WatcherSet::new(delivered, -1, Limits::default());
    let stream = set.open_stream(0);
    (set, stream)
}

/// Creates a watcher at the set's own revision; its id.
fn add(set: &mut WatcherSet, stream: StreamId, request: &WatchCreateRequest) -> i64 {
    let mut out = vec![];
    let delivered = set.delivered();
    let id = set
        .create(stream, request, delivered, &mut out)
        .expect("accepted");
    assert_eq!(
        out,
        [WatchResponse {
            watch_id: id,
            created: true,
            ..response(delivered)
        }]
    );
    set.assert_sound();
    id
}

/// What a delivery says, short: header revision, keys with revisions, watch ids.
fn short(delivery: &Delivery<'_>) -> (i64, Vec<String>, Vec<i64>) {
    let event = |event: &Event| {
        let kv = event.kv.as_ref().unwrap();
        format!("{}@{}", String::from_utf8_lossy(&kv.key), kv.mod_revision)
    };
    (
        delivery.revision,
        delivery.events.iter().map(event).collect(),
        delivery
            .targets
            .iter()
            .map(|target| target.watch_id)
            .collect(),
    )
}

fn live(set: &mut WatcherSet, changes: &[Change]) -> Vec<(i64, Vec<String>, Vec<i64>)> {
    let mut out = vec![];
    set.deliver(changes, &mut out);
    set.assert_sound();
    out.iter().map(short).collect()
}

fn only(revision: i64, event: &str, ids: &[i64]) -> Vec<(i64, Vec<String>, Vec<i64>)> {
    vec![(revision, vec![event.to_owned()], ids.to_vec())]
}

impl WatcherSet {
    /// Every unsynced watcher waits in exactly one place or is being read for, and the books of
    /// streams and interests agree with the watchers.
    fn assert_sound(&self) {
        let mut places: BTreeMap<Slot, usize> = BTreeMap::new();
        let parked = self.streams.iter().flat_map(|(_, stream)| &stream.parked);
        let waiting = self
            .interests
            .iter()
            .flat_map(|(_, interest)| &interest.waiting);
        for slot in self.queue.iter().chain(parked).chain(waiting) {
            *places.entry(*slot).or_default() += 1;
        }
        let mut unsynced: BTreeMap<Slot, usize> = BTreeMap::new();
        for (slot, watcher) in self.watchers.iter() {
            let interest = self.interests.get(watcher.interest).unwrap();
            assert_eq!(interest.members[watcher.position], slot);
            assert_eq!(
                places.get(&slot).copied().unwrap_or(0),
                usize::from(watcher.waits)
            );
            if !watcher.synced {
                assert!(
                    watcher.waits || interest.reading,
                    "{watcher:?} is forgotten"
                );
                assert!(watcher.from <= self.delivered);
                *unsynced.entry(watcher.stream).or_default() += 1;
            }
            let stream = self.streams.get(watcher.stream).unwrap();
            assert_eq!(stream.watchers[&watcher.watch_id], slot);
            assert!(stream.floor >= watcher.floor);
        }
        for (slot, stream) in self.streams.iter() {
            assert_eq!(stream.unsynced, unsynced.get(&slot).copied().unwrap_or(0));
        }
        let members: usize = self
            .interests
            .iter()
            .map(|(_, interest)| interest.members.len())
            .sum();
        assert_eq!(members, self.watchers.len());
        assert!(
            self.interests
                .iter()
                .all(|(_, i)| !i.members.is_empty() && i.matched.is_empty())
        );
        assert!(self.singles.values().all(|slots| !slots.is_empty()));
    }
}

#[test]
fn automatic_ids_skip_those_in_use_and_never_come_back() {
    let (mut set, stream) = set_at(5);
    let ids: Vec<i64> = [0, 0, 7, 2, 0, -9, 0]
        .into_iter()
        .map(|wanted| add(&mut set, stream, &with_id(wanted)))
        .collect();
    assert_eq!(ids, [0, 1, 7, 2, 3, -9, 4]);
    for id in [0, 3, 7] {
        assert!(set.cancel(stream, id, 5).is_some());
    }
    assert_eq!(
        add(&mut set, stream, &with_id(7)),
        7,
        "explicit ids are free again"
    );
    assert_eq!(add(&mut set, stream, &with_id(0)), 5);
    assert_eq!(add(&mut set, stream, &with_id(0)), 6);
    assert_eq!(add(&mut set, stream, &with_id(0)), 8);
    let other = set.open_stream(0);
    assert_eq!(
        add(&mut set, other, &with_id(0)),
        0,
        "each stream counts for itself"
    );
}

#[test]
fn refusals_are_one_answer_and_the_stream_lives_on() {
    let (mut set, stream) = set_at(5);
    add(&mut set, stream, &with_id(7));
    let refused = |reason: &str| WatchResponse {
        header: Some(ResponseHeader {
            revision: 9,
            ..Default::default()
        }),
        watch_id: -1,
        created: true,
        canceled: true,
        cancel_reason: reason.to_owned(),
        ..Default::default()
    };
    for (request, reason) in [
        (
            with_id(7),
            "mvcc: duplicate watch ID provided on the WatchStream",
        ),
        (create("b", "b", 0), "mvcc: watcher range is empty"),
        (create("b", "a", 3), "mvcc: watcher range is empty"),
        (
            create("b", "", -1),
            "etcdserver: mvcc: required revision has been compacted",
        ),
    ] {
        let mut out = vec![];
        assert_eq!(set.create(stream, &request, 9, &mut out), None);
        assert_eq!(out, [refused(reason)]);
    }
    assert_eq!(set.watchers_count(), 1);
    assert_eq!(add(&mut set, stream, &with_id(0)), 0);
    set.limits.watchers_max = 2;
    let mut out = vec![];
    assert_eq!(set.create(stream, &with_id(0), 9, &mut out), None);
    assert_eq!(out, [refused(TOO_MANY_WATCHERS)]);
}

#[test]
fn lag_is_that_of_the_watcher_furthest_behind() {
    let mut set = WatcherSet::new(20, 10, Limits::default());
    let stream = set.open_stream(0);
    add(&mut set, stream, &create("now", "", 0));
    add(&mut set, stream, &create("later", "", 99));
    assert_eq!(set.lag_revisions(), 0);
    add(&mut set, stream, &create("a", "", 18));
    assert_eq!(set.lag_revisions(), 3);
    add(&mut set, stream, &create("b", "", 11));
    assert_eq!(set.lag_revisions(), 10);
    while let Some(wanted) = set.next_catch_up() {
        set.caught_up(wanted.id, &[], wanted.through, 20, &mut Vec::new());
    }
    assert_eq!(set.lag_revisions(), 0);
}

#[test]
fn the_streams_of_one_owner_cannot_have_all_watchers() {
    let limits = Limits {
        owner_watchers_max: 2,
        ..Limits::default()
    };
    let mut set = WatcherSet::new(9, 0, limits);
    let (one, two, other) = (set.open_stream(7), set.open_stream(7), set.open_stream(8));
    let first = add(&mut set, one, &create("k", "", 0));
    add(&mut set, two, &create("k", "", 0));
    for full in [one, two] {
        let mut out = vec![];
        assert_eq!(set.create(full, &create("k", "", 0), 9, &mut out), None);
        assert_eq!(out[0].cancel_reason, TOO_MANY_OF_OWNER);
    }
    add(&mut set, other, &create("k", "", 0));
    // One that is cancelled makes room, and so does a stream that ends.
    set.cancel(one, first, 9);
    add(&mut set, two, &create("k", "", 0));
    set.drop_stream(two);
    add(&mut set, one, &create("k", "", 0));
    add(&mut set, one, &create("k", "", 0));
}

#[test]
fn one_stream_alone_cannot_have_all_watchers() {
    let limits = Limits {
        stream_watchers_max: 2,
        ..Limits::default()
    };
    let mut set = WatcherSet::new(9, 0, limits);
    let (full, other) = (set.open_stream(0), set.open_stream(0));
    let first = add(&mut set, full, &create("k", "", 0));
    add(&mut set, full, &create("k", "", 0));
    let mut out = vec![];
    assert_eq!(set.create(full, &create("k", "", 0), 9, &mut out), None);
    assert_eq!(out[0].cancel_reason, TOO_MANY_ON_STREAM);
    assert!(out[0].canceled);
    add(&mut set, other, &create("k", "", 0));
    // Who gives one up may have another.
    set.cancel(full, first, 9);
    add(&mut set, full, &create("k", "", 0));
}

#[test]
fn a_start_below_compaction_is_created_then_cancelled() {
    let mut set = WatcherSet::new(20, 10, Limits::default());
    let stream = set.open_stream(0);
    let mut out = vec![];
    assert_eq!(set.create(stream, &create("k", "", 9), 20, &mut out), None);
    assert_eq!(
        out,
        [
            WatchResponse {
                created: true,
                ..response(20)
            },
            WatchResponse {
                header: Some(ResponseHeader::default()),
                canceled: true,
                compact_revision: 10,
                ..Default::default()
            },
        ]
    );
    assert_eq!(set.watchers_count(), 0);
    assert_eq!(set.cancel(stream, 0, 20), None, "it is gone at once");
    assert_eq!(
        add(&mut set, stream, &create("k", "", 10)),
        1,
        "the id was used up"
    );
    assert_eq!(set.next_catch_up().unwrap().from, 10);
}

#[test]
fn cancel_answers_once_and_silences() {
    let (mut set, stream) = set_at(5);
    add(&mut set, stream, &with_id(3));
    assert_eq!(set.cancel(stream, 4, 8), None);
    let canceled = WatchResponse {
        watch_id: 3,
        canceled: true,
        ..response(8)
    };
    assert_eq!(set.cancel(stream, 3, 8), Some(canceled));
    assert_eq!(set.cancel(stream, 3, 8), None);
    assert!(live(&mut set, &puts("k", 6..=7)).is_empty());
    assert_eq!((set.interests.len(), set.singles.len()), (0, 0));
}

#[test]
fn equal_watchers_of_all_streams_share_one_delivery() {
    let (mut set, stream) = set_at(5);
    let other = set.open_stream(0);
    for _ in 0..3 {
        add(&mut set, stream, &create("k", "", 0));
    }
    add(&mut set, other, &create("k", "", 0));
    add(&mut set, other, &create("a", "z", 0));
    add(&mut set, other, &create("l", "", 0));
    add(&mut set, other, &create("k", "\0", 0));
    assert_eq!(
        live(&mut set, &puts("k", 6..=6)),
        only(6, "k@6", &[0, 1, 2, 0, 1, 3])
    );
    // Another look at the same events is another encoding.
    add(
        &mut set,
        stream,
        &WatchCreateRequest {
            prev_kv: true,
            ..create("k", "", 0)
        },
    );
    let mut out = vec![];
    let changes = [change(7, vec![delete("k", 7)])];
    set.deliver(&changes, &mut out);
    assert_eq!(out.len(), 2);
    for delivery in &out {
        assert_eq!(
            kvnode_api::encode::watch_events(&delivery.events, delivery.prev_kv).len(),
            delivery.events_len
        );
    }
}

#[test]
fn a_revision_is_one_response_with_the_watched_events_in_order() {
    let (mut set, stream) = set_at(5);
    add(&mut set, stream, &create("a", "c", 0));
    add(&mut set, stream, &create("a", "\0", 0));
    add(&mut set, stream, &create("b", "", 0));
    add(&mut set, stream, &create("a", "bz", 0));
    let changes = [change(6, vec![put("a", 6), put("c", 6), delete("b", 6)])];
    let mut found = live(&mut set, &changes);
    found.iter_mut().for_each(|(_, _, ids)| ids.sort_unstable());
    found.sort();
    let texts = |list: &[&str]| {
        list.iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        found,
        [
            (6, texts(&["a@6", "b@6"]), vec![0, 3]),
            (6, texts(&["a@6", "c@6", "b@6"]), vec![1]),
            (6, texts(&["b@6"]), vec![2]),
        ]
    );
}

#[test]
fn filtered_revisions_send_nothing_but_count_as_seen() {
    let (mut set, stream) = set_at(5);
    let filter = |filters: &[i32]| WatchCreateRequest {
        filters: filters.to_vec(),
        ..create("k", "", 0)
    };
    add(&mut set, stream, &filter(&[0]));
    add(&mut set, stream, &filter(&[1]));
    add(&mut set, stream, &filter(&[0, 1]));
    add(&mut set, stream, &filter(&[9]));
    assert_eq!(live(&mut set, &puts("k", 6..=6)), only(6, "k@6", &[1, 3]));
    let deletes = [change(7, vec![delete("k", 7)])];
    assert_eq!(live(&mut set, &deletes), only(7, "k@7", &[0, 3]));
    assert_eq!(
        set.progress(stream),
        Some(WatchResponse {
            watch_id: -1,
            ..response(7)
        })
    );
}

#[test]
fn a_start_in_the_future_sees_nothing_before_it() {
    let (mut set, stream) = set_at(5);
    add(&mut set, stream, &create("k", "", 8));
    assert_eq!(set.next_catch_up(), None);
    assert_eq!(set.progress(stream), None);
    assert!(live(&mut set, &puts("k", 6..=7)).is_empty());
    assert_eq!(set.progress(stream), None);
    assert_eq!(live(&mut set, &puts("k", 8..=8)), only(8, "k@8", &[0]));
    assert_eq!(set.progress(stream).unwrap().header.unwrap().revision, 8);
}

#[test]
fn from_now_means_from_what_the_client_was_told() {
    // The store is at 8 for the client, while the set was told of 5 only.
    let (mut set, stream) = set_at(5);
    let mut out = vec![];
    set.create(stream, &create("k", "", 0), 8, &mut out);
    assert_eq!(
        set.progress(stream),
        None,
        "5 would contradict the created header"
    );
    set.create(stream, &create("k", "", 7), 8, &mut out);
    assert!(
        out.iter()
            .all(|answer| answer.header.unwrap().revision == 8)
    );
    assert_eq!(
        set.progress(stream),
        None,
        "5 would contradict the created header"
    );
    let found = live(&mut set, &puts("k", 6..=9));
    assert_eq!(
        found,
        [
            only(7, "k@7", &[1]),
            only(8, "k@8", &[1]),
            only(9, "k@9", &[0, 1])
        ]
        .concat()
    );
}

#[test]
fn history_comes_in_thousands_under_the_current_revision() {
    let (mut set, stream) = set_at(2501);
    add(&mut set, stream, &create("k", "", 2));
    let history = puts("k", 2..=2501);
    let mut sizes = vec![];
    while let Some(wish) = set.next_catch_up() {
        assert!(live(&mut set, &puts("other", 2502..=2502)).is_empty());
        let mut out = vec![];
        set.caught_up(wish.id, &history, wish.through, 2600, &mut out);
        set.assert_sound();
        assert!(out.iter().all(|delivery| delivery.revision == 2600));
        sizes.extend(out.iter().map(|delivery| delivery.events.len()));
        assert_eq!(set.progress(stream), None);
        if sizes.len() == 3 {
            // The last piece ended at what was known when it was asked for.
            break;
        }
    }
    assert_eq!(sizes, [1000, 1000, 500]);
    if let Some(wish) = set.next_catch_up() {
        let mut out = vec![];
        set.caught_up(wish.id, &[], 2502, 2600, &mut out);
        assert!(out.is_empty());
    }
    assert_eq!(set.unsynced_count(), 0);
    assert_eq!(
        live(&mut set, &puts("k", 2503..=2503)),
        only(2503, "k@2503", &[0])
    );
    assert_eq!(
        set.progress(stream),
        None,
        "2503 would contradict the header 2600"
    );
    set.jump(2600);
    assert!(set.next_catch_up().is_some());
}

#[test]
fn a_piece_ends_at_the_byte_bound_but_never_within_a_revision() {
    let (mut set, stream) = set_at(4);
    add(&mut set, stream, &create("k", "", 2));
    let large = |revision| {
        let mut event = put("k", revision);
        event.kv.as_mut().unwrap().value = vec![0; CATCH_UP_BYTES_MAX * 2 / 3].into();
        change(revision, vec![event.clone(), event])
    };
    let history = [large(2), large(3), large(4)];
    let wish = set.next_catch_up().unwrap();
    let mut out = vec![];
    set.caught_up(wish.id, &history, wish.through, 4, &mut out);
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].events.len(), 2);
    assert_eq!(set.next_catch_up(), None, "no room for more");
    set.drained(stream, out[0].cost());
    assert_eq!(set.next_catch_up().unwrap().from, 3);
}

#[test]
fn one_read_serves_all_equal_watchers_in_its_span() {
    let (mut set, stream) = set_at(10);
    for start in [4, 2, 8, 4, 0] {
        add(&mut set, stream, &create("k", "", start));
    }
    add(&mut set, stream, &create("a", "\0", 3));
    let history = puts("k", 2..=10);
    let first = set.next_catch_up().unwrap();
    assert_eq!((first.from, first.through), (4, 10));
    let second = set.next_catch_up().unwrap();
    assert_eq!(
        (second.from, &second.range),
        (3, &KeyRange::From("a".into()))
    );
    assert_eq!(
        set.next_catch_up(),
        None,
        "the rest waits for the first read"
    );
    let mut out = vec![];
    set.caught_up(first.id, &history, 10, 10, &mut out);
    set.assert_sound();
    let served: Vec<_> = out.iter().map(|d| (d.events.len(), short(d).2)).collect();
    assert_eq!(served, [(7, vec![0, 3]), (3, vec![2])]);
    let third = set.next_catch_up().unwrap();
    assert_eq!(
        third.from, 2,
        "the one that lay before the span has its own turn"
    );
    out.clear();
    set.caught_up(third.id, &history, 10, 10, &mut out);
    set.caught_up(second.id, &history, 10, 10, &mut out);
    set.assert_sound();
    assert_eq!(out.len(), 2);
    assert_eq!(set.unsynced_count(), 0);
    assert_eq!(set.next_catch_up(), None);
}

#[test]
fn what_lies_past_the_end_of_a_read_is_not_used() {
    let (mut set, stream) = set_at(9);
    add(&mut set, stream, &create("a", "z", 2));
    let wish = set.next_catch_up().unwrap();
    // Revision 6 may be half there.
    let history = puts("k", 2..=6);
    let mut out = vec![];
    set.caught_up(wish.id, &history, 5, 9, &mut out);
    assert_eq!(
        out.iter()
            .map(|delivery| delivery.events.len())
            .sum::<usize>(),
        4
    );
    assert_eq!(set.next_catch_up().unwrap().from, 6);
}

#[test]
fn a_full_stream_reads_later_what_did_not_fit_and_others_go_on() {
    let limits = Limits {
        stream_backlog_bytes_max: 200,
        ..Default::default()
    };
    let mut set = WatcherSet::new(1, -1, limits);
    let (slow, quick) = (set.open_stream(0), set.open_stream(0));
    add(&mut set, slow, &create("k", "", 0));
    add(&mut set, quick, &create("k", "", 0));
    let changes = puts("k", 2..=20);
    let (mut seen_slow, mut seen_quick, mut cost) = (0, 0, 0);
    for change in &changes {
        let mut out = vec![];
        set.deliver(std::slice::from_ref(change), &mut out);
        for target in &out[0].targets {
            if target.stream == slow {
                seen_slow += 1;
                cost += out[0].cost();
            } else {
                seen_quick += 1;
                set.drained(quick, out[0].cost());
            }
        }
        set.assert_sound();
    }
    assert_eq!((seen_slow, seen_quick), (3, 19));
    assert_eq!(
        set.next_catch_up(),
        None,
        "no read for a stream without room"
    );
    assert_eq!(set.progress(slow), None);
    assert!(set.progress(quick).is_some());
    set.drained(slow, cost);
    let wish = set.next_catch_up().unwrap();
    assert_eq!((wish.from, wish.through), (5, 20));
    let mut out = vec![];
    set.caught_up(wish.id, &changes, 20, 20, &mut out);
    assert_eq!(
        out.iter()
            .map(|delivery| delivery.events.len())
            .sum::<usize>(),
        16
    );
    set.drained(slow, out[0].cost());
    assert!(set.progress(slow).is_some());
}

#[test]
fn compaction_cancels_only_those_that_still_need_the_past() {
    let (mut set, stream) = set_at(20);
    for start in [3, 10, 11, 0, 25] {
        add(&mut set, stream, &create("k", "", start));
    }
    let mut out = vec![];
    set.compacted(10, &mut out);
    set.assert_sound();
    let canceled = WatchResponse {
        header: Some(ResponseHeader::default()),
        watch_id: 0,
        canceled: true,
        compact_revision: 10,
        ..Default::default()
    };
    assert_eq!(out, [(stream, canceled)]);
    out.clear();
    set.compacted(9, &mut out);
    assert!(out.is_empty());
    assert_eq!(set.watchers_count(), 4);
    assert_eq!(add(&mut set, stream, &with_id(0)), 5);
}

#[test]
fn a_read_overtaken_by_cancel_and_create_reaches_nobody_wrong() {
    let (mut set, stream) = set_at(10);
    add(&mut set, stream, &create("k", "", 2));
    let wish = set.next_catch_up().unwrap();
    set.cancel(stream, 0, 10);
    let mut out = vec![];
    // The place of the interest may be used again by now.
    add(&mut set, stream, &create("other", "", 2));
    let history = puts("k", 2..=10);
    set.caught_up(wish.id, &history, 10, 10, &mut out);
    assert!(out.is_empty());
    set.assert_sound();
    set.drop_stream(stream);
    assert_eq!(set.next_catch_up(), None);
    assert_eq!((set.watchers_count(), set.interests.len()), (0, 0));
    assert_eq!(set.create(stream, &with_id(0), 10, &mut vec![]), None);
}

#[test]
fn a_jump_sends_everyone_to_history() {
    let (mut set, stream) = set_at(5);
    add(&mut set, stream, &create("k", "", 0));
    add(&mut set, stream, &create("k", "", 8));
    add(&mut set, stream, &create("k", "", 30));
    // A gap in what is told is a jump too.
    assert!(live(&mut set, &puts("k", 20..=20)).is_empty());
    assert_eq!(set.delivered(), 20);
    let wish = set.next_catch_up().unwrap();
    assert_eq!((wish.from, wish.through), (6, 20));
    let mut out = vec![];
    let history = puts("k", 6..=20);
    set.caught_up(wish.id, &history, 20, 20, &mut out);
    let served: Vec<_> = out.iter().map(|d| (d.events.len(), short(d).2)).collect();
    assert_eq!(served, [(15, vec![0]), (13, vec![1])]);
    assert_eq!(
        live(&mut set, &puts("k", 20..=21)),
        only(21, "k@21", &[0, 1])
    );
}

#[test]
fn progress_needs_a_watcher_and_everyone_up_to_date() {
    let (mut set, stream) = set_at(5);
    assert_eq!(set.progress(stream), None);
    add(&mut set, stream, &create("k", "", 0));
    assert_eq!(
        set.progress(stream),
        Some(WatchResponse {
            watch_id: -1,
            ..response(5)
        })
    );
    add(&mut set, stream, &create("k", "", 3));
    assert_eq!(set.progress(stream), None);
    set.cancel(stream, 1, 5);
    assert!(set.progress(stream).is_some());
    add(&mut set, stream, &create("k", "", 9));
    assert_eq!(set.progress(stream), None);
    set.cancel(stream, 2, 5);
    assert!(set.progress(stream).is_some(), "the highest start is gone");
}

#[test]
fn a_tick_tells_the_quiet_ones() {
    let (mut set, stream) = set_at(5);
    let notify = |request| WatchCreateRequest {
        progress_notify: true,
        ..request
    };
    add(&mut set, stream, &notify(create("k", "", 0)));
    add(&mut set, stream, &notify(create("l", "", 0)));
    add(&mut set, stream, &create("m", "", 0));
    add(&mut set, stream, &notify(create("k", "", 2)));
    add(&mut set, stream, &notify(create("k", "", 50)));
    let tick = |set: &mut WatcherSet| {
        let mut out = vec![];
        set.tick(stream, &mut out);
        out.into_iter()
            .map(|answer| {
                assert!(answer.events.is_empty() && !answer.created && !answer.canceled);
                (answer.watch_id, answer.header.unwrap().revision)
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(tick(&mut set), [(0, 5), (1, 5)]);
    live(&mut set, &puts("k", 6..=6));
    assert_eq!(tick(&mut set), [(1, 6)]);
    assert_eq!(tick(&mut set), [(0, 6), (1, 6)]);
}

#[test]
fn ten_thousand_watchers_of_one_key_are_one_delivery() {
    let limits = Limits {
        stream_backlog_bytes_max: usize::MAX,
        ..Default::default()
    };
    let mut set = WatcherSet::new(1, -1, limits);
    let stream = set.open_stream(0);
    let mut out = vec![];
    for i in 0..10_000 {
        set.create(stream, &create("k", "", 0), 1, &mut out);
        set.create(
            stream,
            &create(&format!("p{i:05}/"), &format!("p{i:05}0"), 0),
            1,
            &mut out,
        );
        set.create(stream, &create(&format!("s{i:05}"), "", 0), 1, &mut out);
    }
    assert_eq!(set.watchers_count(), 30_000);
    let changes = [
        change(2, vec![put("k", 2)]),
        change(3, vec![put("p00777/x", 3)]),
        change(4, vec![put("s09999", 4)]),
        change(5, vec![put("nobody", 5)]),
    ];
    let mut out = vec![];
    set.deliver(&changes, &mut out);
    let targets: Vec<_> = out.iter().map(|delivery| delivery.targets.len()).collect();
    assert_eq!(targets, [10_000, 1, 1]);
    set.assert_sound();
}
