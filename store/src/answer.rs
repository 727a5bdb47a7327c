//! Ranges as the bytes a client gets: what `range.rs` answers, encoded, without the pairs ever being
//! structs.
//!
//! An interval in ascending key order, with nothing left out, is put together bucket by bucket of
//! the count fences, from pages that were encoded before (`pages.rs`) where there are any. This
//! holds for a past revision as well, in the buckets that have not changed since. Everything else
//! that can be answered in key order is encoded while it is scanned; a sort by another field goes
//! through `range.rs`.

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kvnode_api::encode::{self, KeyValueRef, RangeFrame};
use kvnode_api::{KeyRange, RangeRequest, ResponseHeader};

use crate::chain;
use crate::engine::{Reader, Space};
use crate::error::{Error, Failure};
use crate::fences::{Bucket, Fences};
use crate::pages::{Ask, PAGE_BYTES_MAX, Page, Pages};
use crate::range::{Plan, count, range as structs, sort_option};
use crate::schema::{HeadRef, head_bounds};
use crate::source::{Counter, Found, Moment, Source};

/// What room the pairs of a scan are given at first, in bytes.
const SCAN_BYTES: usize = 64 << 10;

/// Longest piece that is copied to the pieces before it rather than kept as one of its own.
const COPY_BYTES_MAX: usize = 4 << 10;

/// Where encoded pairs may be found.
#[derive(Clone, Copy)]
pub(crate) struct Paged<'a> {
    pub fences: &'a Fences,
    pub pages: &'a Pages,
}

/// An answer but for its header.
#[derive(Default)]
pub(crate) struct Answer {
    /// The pairs as fields of the answer, in pieces.
    pieces: Vec<Bytes>,
    /// The piece that still grows.
    last: BytesMut,
    more: bool,
    count: i64,
}

impl Answer {
    /// The whole frame.
    pub fn frame(self, header: &ResponseHeader) -> Result<Bytes, kvnode_api::Status> {
        const AROUND: usize = 128;
        let pieces = self.pieces.iter().map(Bytes::len).sum::<usize>();
        let mut buffer = BytesMut::with_capacity(AROUND + pieces + self.last.len());
        let mut frame = RangeFrame::begin(header, &mut buffer);
        for piece in &self.pieces {
            frame.push_pairs(piece, &mut buffer);
        }
        frame.push_pairs(&self.last, &mut buffer);
        frame.finish(self.more, self.count, &mut buffer)?;
        Ok(buffer.freeze())
    }

    fn push(&mut self, kv: KeyValueRef<'_>) {
        if self.last.capacity() == 0 {
            self.last.reserve(SCAN_BYTES);
        }
        encode::range_pair(kv, &mut self.last);
    }

    fn append(&mut self, pairs: Bytes) {
        if pairs.len() <= COPY_BYTES_MAX {
            self.last.extend_from_slice(&pairs);
            return;
        }
        if !self.last.is_empty() {
            self.pieces.push(self.last.split().freeze());
        }
        self.pieces.push(pairs);
    }
}

/// Answers as [`structs`] does. Asked of views only: an overlay is not looked at.
pub(crate) fn answer<V: Reader>(
    source: &Source<'_, V>,
    request: &RangeRequest,
    counter: Counter<'_>,
    paged: Option<Paged<'_>>,
) -> Result<Answer, Failure> {
    let (order, target) = sort_option(request)?;
    let range = KeyRange::new(&request.key, &request.range_end);
    let plan = Plan::new(request, order, target);
    let mut answer = Answer::default();
    if request.count_only || !plan.in_key_order || range.single().is_some() {
        let response = structs(source, request, counter)?;
        response.kvs.iter().for_each(|kv| answer.push(kv.into()));
        answer.more = response.more;
        answer.count = response.count;
        return Ok(answer);
    }
    let moment = source.moment(request.revision)?;
    match paged.filter(|_| plan.takes_all() && !plan.reverse) {
        Some(paged) => {
            let taken = Walk {
                source,
                moment,
                paged,
                answer: &mut answer,
                scratch: BytesMut::new(),
            }
            .interval(&range, plan.limit)?;
            let taken = i64::try_from(taken).unwrap_or(i64::MAX);
            let at_limit = i64::try_from(plan.limit).is_ok_and(|limit| taken >= limit);
            answer.count = if at_limit {
                count(source, &range, moment, counter)?
            } else {
                taken
            };
            answer.more = answer.count > taken;
        }
        None => scan(source, &range, moment, &plan, counter, &mut answer)?,
    }
    Ok(answer)
}

fn scan<V: Reader>(
    source: &Source<'_, V>,
    range: &KeyRange,
    moment: Moment,
    plan: &Plan<'_>,
    counter: Counter<'_>,
    answer: &mut Answer,
) -> Result<(), Failure> {
    let mut taken = 0;
    visit(source, range, moment, plan.reverse, |kv| {
        answer.count += 1;
        if answer.more || !plan.admits(kv.mod_revision, kv.create_revision) {
            return Ok(ControlFlow::Continue(()));
        }
        if taken < plan.limit {
            taken += 1;
            answer.push(plan.without_value(kv));
            return Ok(ControlFlow::Continue(()));
        }
        answer.more = true;
        Ok(match counter(range, moment)? {
            Some(all) => {
                answer.count = i64::try_from(all).unwrap_or(i64::MAX);
                ControlFlow::Break(())
            }
            None => ControlFlow::Continue(()),
        })
    })
}

/// Shows the pairs of `range` alive at `moment`, until `take` breaks or fails.
fn visit<V: Reader>(
    source: &Source<'_, V>,
    range: &KeyRange,
    moment: Moment,
    reverse: bool,
    mut take: impl FnMut(KeyValueRef<'_>) -> Result<ControlFlow<()>, Failure>,
) -> Result<(), Failure> {
    let (from, to) = head_bounds(range);
    let mut failed = None;
    let show = |key: &[u8], record: &[u8]| {
        let key = key.get(1..).unwrap_or_default();
        let taken = match alive(source, key, record, moment) {
            Ok(Some(Alive::Now(kv))) => take(kv),
            Ok(Some(Alive::Then(found))) => take(KeyValueRef {
                key,
                create_revision: found.version.create_revision,
                mod_revision: found.modified,
                version: found.version.version,
                value: &found.version.value,
                lease: found.version.lease,
            }),
            Ok(None) => return ControlFlow::Continue(()),
            Err(error) => Err(error.into()),
        };
        taken.unwrap_or_else(|failure| {
            failed = Some(failure);
            ControlFlow::Break(())
        })
    };
    let scanned = source
        .reader
        .visit(Space::State, &from, Some(&to), reverse, show);
    scanned.map_err(Error::from)?;
    failed.map_or(Ok(()), Err)
}

enum Alive<'a> {
    /// As the head says.
    Now(KeyValueRef<'a>),
    /// As history says.
    Then(Found),
}

fn alive<'a, V: Reader>(
    source: &Source<'_, V>,
    key: &'a [u8],
    record: &'a [u8],
    moment: Moment,
) -> Result<Option<Alive<'a>>, Error> {
    let head = HeadRef::decode(key, record)?;
    if let Moment::At(at) = moment
        && head.modified.main > at
    {
        let key = Bytes::copy_from_slice(key);
        let undo = chain::first_change_after(source.reader, &key, head.modified, at)?;
        let found = undo.previous.zip(undo.previous_version);
        return Ok(found.map(|(place, version)| {
            Alive::Then(Found {
                key,
                modified: place.main,
                version,
            })
        }));
    }
    Ok(head.live.map(|version| {
        Alive::Now(KeyValueRef {
            key,
            create_revision: version.create_revision,
            mod_revision: head.modified.main,
            version: version.version,
            value: version.value,
            lease: version.lease,
        })
    }))
}

/// Walks an interval bucket by bucket.
struct Walk<'a, V> {
    source: &'a Source<'a, V>,
    moment: Moment,
    paged: Paged<'a>,
    answer: &'a mut Answer,
    /// For pages in the making.
    scratch: BytesMut,
}

impl<V: Reader> Walk<'_, V> {
    /// Takes the first `limit` pairs of `range`; answers how many there were.
    fn interval(&mut self, range: &KeyRange, limit: usize) -> Result<usize, Failure> {
        let (start, end) = (range.start(), range.end());
        if end.as_ref().is_some_and(|end| end <= start) {
            return Ok(0);
        }
        let mut taken = 0;
        for bucket in self.paged.fences.buckets(start) {
            let beyond = end.as_ref().is_some_and(|end| end <= bucket.from);
            if beyond || taken == limit {
                break;
            }
            let end_in_bucket = match (&end, bucket.to) {
                (Some(end), Some(to)) if end < to => Some(end),
                (Some(end), None) => Some(end),
                _ => None,
            };
            let part = Part {
                bucket,
                start: (start > bucket.from).then_some(start),
                end: end_in_bucket,
            };
            taken += self.part(&part, limit - taken)?;
        }
        Ok(taken)
    }

    fn part(&mut self, part: &Part<'_>, limit: usize) -> Result<usize, Failure> {
        let Bucket { count, stamp, .. } = part.bucket;
        // At a moment before its last change a bucket may have been another.
        if let Moment::At(at) = self.moment
            && at < stamp.modified
        {
            return self.scan(part, limit);
        }
        if count == 0 {
            return Ok(0);
        }
        let whole = part.start.is_none() && part.end.is_none() && count as usize <= limit;
        let page = match self.paged.pages.ask(stamp, count, whole) {
            Ask::Kept(page) => Some(page),
            Ask::Make => self.make(&part.bucket)?,
            Ask::Scan => None,
        };
        let Some(page) = page else {
            let taken = self.scan(part, limit)?;
            self.paged.pages.scanned(stamp, taken);
            return Ok(taken);
        };
        let from = part.start.map_or(0, |start| page.below(start));
        let to = part.end.map_or(page.len(), |end| page.below(end));
        let to = to.min(from.saturating_add(limit));
        self.answer.append(page.pairs(from, to));
        Ok(to - from)
    }

    fn scan(&mut self, part: &Part<'_>, limit: usize) -> Result<usize, Failure> {
        let mut taken = 0;
        visit(self.source, &part.range(), self.moment, false, |kv| {
            self.answer.push(kv);
            taken += 1;
            Ok(match taken.cmp(&limit) {
                Ordering::Less => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            })
        })?;
        Ok(taken)
    }

    /// Encodes the whole bucket and keeps it; `None` if it is too long for that.
    fn make(&mut self, bucket: &Bucket<'_>) -> Result<Option<Arc<Page>>, Failure> {
        let range = Part {
            bucket: *bucket,
            start: None,
            end: None,
        }
        .range();
        let mut ends = Vec::with_capacity(bucket.count as usize);
        let buffer = &mut self.scratch;
        buffer.clear();
        let mut too_long = false;
        visit(self.source, &range, Moment::Newest, false, |kv| {
            encode::range_pair(kv, buffer);
            too_long = buffer.len() > PAGE_BYTES_MAX;
            ends.extend(u32::try_from(buffer.len()));
            Ok(if too_long {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        if too_long {
            self.paged.pages.too_long(bucket.stamp);
            return Ok(None);
        }
        let page = Arc::new(Page::new(buffer, &ends));
        self.paged.pages.keep(bucket.stamp, Arc::clone(&page));
        Ok(Some(page))
    }
}

/// What an interval has of a bucket.
struct Part<'a> {
    bucket: Bucket<'a>,
    /// Where it begins, if that is above the bucket's first key.
    start: Option<&'a Bytes>,
    /// Where it ends, if that is below the bucket's end.
    end: Option<&'a Bytes>,
}

impl Part<'_> {
    fn range(&self) -> KeyRange {
        let start = self.start.unwrap_or(self.bucket.from).clone();
        match self.end.or(self.bucket.to) {
            Some(end) => KeyRange::Interval {
                start,
                end: end.clone(),
            },
            None => KeyRange::From(start),
        }
    }
}
