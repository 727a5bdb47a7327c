//! The shape of a transaction: its size, its operations, and keys it would write twice.
//!
//! Size: at each level the longest of the three lists counts, and what a level has used up is gone
//! for everything nested in it. Siblings do not add up. So nesting is never deeper than the
//! budget, which bounds the recursion here.
//!
//! Keys: at each level no key may be put twice, nor put and deleted, in whatever order and however
//! deep the other one is nested. Deletes may overlap each other, and the two branches of one nested
//! transaction may put the same key. One gap is part of the protocol: siblings are looked at in
//! list order, so a nested put is held against the deletes of *earlier* siblings only.
//!
//! A message of 2 MiB can hold some 200 000 operations in a few dozen levels, so the sets below
//! merge the smaller into the larger and are compared from the smaller side.

use std::collections::{BTreeMap, BTreeSet};

use crate::key_range::KeyRange;
use crate::kv::request_op::Request;
use crate::kv::{DeleteRangeRequest, RequestOp, TxnRequest};
use crate::status::Status;

/// `Txn`: `max_ops` bounds compares and operations per list, less what outer levels used.
pub fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), Status> {
    shape(request, max_ops)?;
    branch_is_unique(&request.success)?;
    branch_is_unique(&request.failure)
}

/// Every operation of both branches is a range; so is a transaction without any. It is answered
/// like a read. A nested transaction makes it a write, whatever it holds.
pub fn txn_is_read_only(request: &TxnRequest) -> bool {
    let is_range = |op: &RequestOp| matches!(op.request, Some(Request::RequestRange(_)));
    request.success.iter().chain(&request.failure).all(is_range)
}

/// Read-only, and every range is serializable; so is a transaction without any operation.
pub fn txn_is_serializable(request: &TxnRequest) -> bool {
    let is_serializable = |op: &RequestOp| match &op.request {
        Some(Request::RequestRange(range)) => range.serializable,
        _ => false,
    };
    request
        .success
        .iter()
        .chain(&request.failure)
        .all(is_serializable)
}

fn shape(request: &TxnRequest, budget: usize) -> Result<(), Status> {
    let used = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    let Some(left) = budget.checked_sub(used) else {
        return Err(Status::too_many_ops());
    };
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Status::key_not_provided());
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => super::range(range)?,
            Some(Request::RequestPut(put)) => super::put(put)?,
            Some(Request::RequestDeleteRange(delete)) => super::delete_range(delete)?,
            Some(Request::RequestTxn(nested)) => shape(nested, left)?,
            None => return Err(Status::key_not_found()),
        }
    }
    Ok(())
}

fn branch_is_unique(branch: &[RequestOp]) -> Result<(), Status> {
    // The common transactions have one operation per branch, or one write among reads.
    let mut writes = branch
        .iter()
        .filter(|op| !matches!(op.request, Some(Request::RequestRange(_)) | None));
    match (writes.next(), writes.next()) {
        (None, _) => Ok(()),
        (
            Some(RequestOp {
                request: Some(Request::RequestTxn(_)),
            }),
            _,
        )
        | (_, Some(_)) => Writes::of(branch).map(drop),
        _ => Ok(()),
    }
}

/// What a branch writes, nested transactions included.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Deletes<'a>,
}

impl<'a> Writes<'a> {
    fn of(branch: &'a [RequestOp]) -> Result<Writes<'a>, Status> {
        let mut writes = Writes::default();
        for op in branch {
            if let Some(Request::RequestDeleteRange(delete)) = &op.request {
                writes.deletes.insert_request(delete);
            }
        }
        for op in branch {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                writes.take_nested(Writes::of(&nested.success)?, Writes::of(&nested.failure)?)?;
            }
        }
        for op in branch {
            if let Some(Request::RequestPut(put)) = &op.request
                && (writes.deletes.contain(&put.key) || !writes.puts.insert(&put.key))
            {
                return Err(Status::duplicate_key());
            }
        }
        Ok(writes)
    }

    /// Both branches are held against what was there before either, so they may agree on a key.
    fn take_nested(&mut self, success: Writes<'a>, failure: Writes<'a>) -> Result<(), Status> {
        for nested in [&success, &failure] {
            if meet(&self.puts, &nested.puts) || self.deletes.meet(&nested.puts) {
                return Err(Status::duplicate_key());
            }
        }
        for nested in [success, failure] {
            let (small, large) = by_size(nested.puts, std::mem::take(&mut self.puts), |s| s.len());
            self.puts = large;
            self.puts.extend(small);
            self.deletes.take(nested.deletes);
        }
        Ok(())
    }
}

fn meet(a: &BTreeSet<&[u8]>, b: &BTreeSet<&[u8]>) -> bool {
    let (small, large) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    small.iter().any(|key| large.contains(key))
}

fn by_size<T>(a: T, b: T, len: impl Fn(&T) -> usize) -> (T, T) {
    if len(&a) <= len(&b) { (a, b) } else { (b, a) }
}

/// Deleted keys as intervals, by start, that neither overlap nor repeat.
#[derive(Default)]
struct Deletes<'a> {
    by_start: BTreeMap<&'a [u8], End<'a>>,
}

/// Where an interval ends.
#[derive(Clone, Copy)]
enum End<'a> {
    /// Right after this key, which is the last one in it.
    After(&'a [u8]),
    Before(&'a [u8]),
    Open,
}

impl End<'_> {
    fn is_beyond(self, key: &[u8]) -> bool {
        match self {
            End::After(last) => key <= last,
            End::Before(end) => key < end,
            End::Open => true,
        }
    }
}

/// The one that reaches further.
fn further<'a>(a: End<'a>, b: End<'a>) -> End<'a> {
    let b_is_further = match (a, b) {
        (End::Open, _) => false,
        (_, End::Open) => true,
        (End::After(a), End::After(b)) | (End::Before(a), End::Before(b)) => b > a,
        // With a < b, `Before(b)` holds a as well, and nothing lies between a and what follows it.
        (End::After(a), End::Before(b)) => b > a,
        (End::Before(a), End::After(b)) => b >= a,
    };
    if b_is_further { b } else { a }
}

impl<'a> Deletes<'a> {
    fn insert_request(&mut self, request: &'a DeleteRangeRequest) {
        match KeyRange::new(&request.key, &request.range_end) {
            range if range.is_empty() => {}
            KeyRange::Single(_) => self.insert(&request.key, End::After(&request.key)),
            KeyRange::Interval { .. } => self.insert(&request.key, End::Before(&request.range_end)),
            KeyRange::From(_) => self.insert(&request.key, End::Open),
        }
    }

    fn insert(&mut self, start: &'a [u8], end: End<'a>) {
        let (mut start, mut end) = (start, end);
        if let Some((&before, &before_end)) = self.by_start.range(..=start).next_back()
            && before_end.is_beyond(start)
        {
            (start, end) = (before, further(before_end, end));
        }
        // Swallow what begins inside; each interval is swallowed once.
        while let Some((&next, &next_end)) = self.by_start.range(start..).next()
            && end.is_beyond(next)
        {
            end = further(end, next_end);
            self.by_start.remove(next);
        }
        self.by_start.insert(start, end);
    }

    fn contain(&self, key: &[u8]) -> bool {
        self.by_start
            .range(..=key)
            .next_back()
            .is_some_and(|(_, end)| end.is_beyond(key))
    }

    fn meet(&self, keys: &BTreeSet<&[u8]>) -> bool {
        if keys.len() <= self.by_start.len() {
            return keys.iter().any(|key| self.contain(key));
        }
        self.by_start.iter().any(|(&start, end)| {
            keys.range(start..)
                .next()
                .is_some_and(|key| end.is_beyond(key))
        })
    }

    fn take(&mut self, other: Deletes<'a>) {
        let mine = std::mem::take(&mut self.by_start);
        let (small, large) = by_size(other.by_start, mine, |map| map.len());
        self.by_start = large;
        for (start, end) in small {
            self.insert(start, end);
        }
    }
}

#[cfg(test)]
mod tests;
