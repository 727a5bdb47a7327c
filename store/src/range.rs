//! Range with all its options, at any readable moment, over any [`Source`].
//!
//! One pass over the interval. What can be decided in key order streams and stops early; a sort by
//! another field collects, and keeps no more than twice the limit while it does.

use std::cmp::Ordering;

use kvnode_api::encode::KeyValueRef;
use kvnode_api::{KeyRange, KeyValue, RangeRequest, RangeResponse, SortOrder, SortTarget, Status};

use crate::engine::Reader;
use crate::error::Failure;
use crate::source::{Counter, Found, Moment, Source};

/// The answer, without header.
pub(crate) fn range<V: Reader>(
    source: &Source<'_, V>,
    request: &RangeRequest,
    counter: Counter<'_>,
) -> Result<RangeResponse, Failure> {
    let (order, target) = sort_option(request)?;
    let moment = source.moment(request.revision)?;
    let range = KeyRange::new(&request.key, &request.range_end);
    if request.count_only {
        let count = count(source, &range, moment, counter)?;
        return Ok(RangeResponse {
            count,
            ..RangeResponse::default()
        });
    }
    let plan = Plan::new(request, order, target);
    if let Some(key) = range.single() {
        let found = source.find(key, moment)?;
        let count = i64::from(found.is_some());
        let kvs = found
            .filter(|found| plan.matches(found))
            .map(|found| plan.pair(found));
        return Ok(plan.response(kvs.into_iter().collect(), false, count));
    }
    collect(source, &range, moment, &plan, counter)
}

/// Refuses numbers nobody defined.
pub(crate) fn sort_option(request: &RangeRequest) -> Result<(SortOrder, SortTarget), Status> {
    let order = SortOrder::try_from(request.sort_order);
    let target = SortTarget::try_from(request.sort_target);
    order
        .ok()
        .zip(target.ok())
        .ok_or(Status::invalid_sort_option())
}

/// Keys alive in the interval at `moment`.
pub(crate) fn count<V: Reader>(
    source: &Source<'_, V>,
    range: &KeyRange,
    moment: Moment,
    counter: Counter<'_>,
) -> Result<i64, Failure> {
    if let Some(key) = range.single() {
        return Ok(i64::from(source.find(key, moment)?.is_some()));
    }
    if let Some(count) = counter(range, moment)? {
        return Ok(i64::try_from(count).unwrap_or(i64::MAX));
    }
    let mut count = 0;
    for found in source.iter(range, moment, false) {
        found?;
        count += 1;
    }
    Ok(count)
}

fn collect<V: Reader>(
    source: &Source<'_, V>,
    range: &KeyRange,
    moment: Moment,
    plan: &Plan<'_>,
    counter: Counter<'_>,
) -> Result<RangeResponse, Failure> {
    let mut kvs: Vec<KeyValue> = Vec::new();
    let mut count = 0;
    // More matches than the limit were seen.
    let mut more = false;
    let mut full = false;
    for found in source.iter(range, moment, plan.reverse) {
        let found = found?;
        count += 1;
        if full || !plan.matches(&found) {
            continue;
        }
        if kvs.len() >= plan.limit && plan.in_key_order {
            more = true;
            full = true;
        } else {
            kvs.push(plan.pair(found));
            full = kvs.len() >= plan.fetch;
        }
        if full {
            if let Some(all) = counter(range, moment)? {
                count = i64::try_from(all).unwrap_or(i64::MAX);
                break;
            }
        } else if !plan.in_key_order && kvs.len() >= plan.limit.saturating_mul(2).max(1024) {
            more |= plan.keep_best(&mut kvs);
        }
    }
    if !plan.in_key_order {
        kvs.sort_unstable_by(|a, b| plan.compare(a, b));
        more |= kvs.len() > plan.limit;
        kvs.truncate(plan.limit);
    }
    Ok(plan.response(kvs, more, count))
}

pub(crate) struct Plan<'a> {
    request: &'a RangeRequest,
    target: SortTarget,
    descending: bool,
    /// The scan already gives the order asked for.
    pub in_key_order: bool,
    /// Scan from the end.
    pub reverse: bool,
    /// Most pairs to answer.
    pub limit: usize,
    /// Matches after which no more are fetched.
    fetch: usize,
}

impl<'a> Plan<'a> {
    pub fn new(request: &'a RangeRequest, order: SortOrder, target: SortTarget) -> Self {
        let limit = usize::try_from(request.limit)
            .ok()
            .filter(|limit| *limit > 0);
        let limit = limit.unwrap_or(usize::MAX);
        let in_key_order = target == SortTarget::Key;
        // Without an order only the first keys up to one over the limit are looked at, then
        // sorted; clients may have come to rely on how cheap that is.
        let first_only = order == SortOrder::None && !in_key_order && !filters(request);
        Self {
            request,
            target,
            descending: order == SortOrder::Descend,
            in_key_order,
            reverse: in_key_order && order == SortOrder::Descend,
            limit,
            fetch: if first_only {
                limit.saturating_add(1)
            } else {
                usize::MAX
            },
        }
    }

    fn matches(&self, found: &Found) -> bool {
        self.admits(found.modified, found.version.create_revision)
    }

    /// Every pair is answered as it is, up to the limit.
    pub fn takes_all(&self) -> bool {
        !self.request.keys_only && !filters(self.request)
    }

    /// A pair by reference, as it is answered.
    pub fn without_value<'k>(&self, kv: KeyValueRef<'k>) -> KeyValueRef<'k> {
        let value = if self.request.keys_only {
            &[]
        } else {
            kv.value
        };
        KeyValueRef { value, ..kv }
    }

    /// Whether a pair of these revisions is asked for.
    pub fn admits(&self, modified: i64, created: i64) -> bool {
        let RangeRequest {
            min_mod_revision,
            max_mod_revision,
            min_create_revision,
            max_create_revision,
            ..
        } = *self.request;
        (min_mod_revision == 0 || modified >= min_mod_revision)
            && (max_mod_revision == 0 || modified <= max_mod_revision)
            && (min_create_revision == 0 || created >= min_create_revision)
            && (max_create_revision == 0 || created <= max_create_revision)
    }

    /// Without the value where not even the order needs it.
    fn pair(&self, found: Found) -> KeyValue {
        let mut pair = KeyValue::from(found);
        if self.request.keys_only && self.target != SortTarget::Value {
            pair.value.clear();
        }
        pair
    }

    fn response(&self, mut kvs: Vec<KeyValue>, more: bool, count: i64) -> RangeResponse {
        if self.request.keys_only {
            for pair in &mut kvs {
                pair.value.clear();
            }
        }
        RangeResponse {
            header: None,
            kvs,
            more,
            count,
        }
    }

    /// Order of the answer. Ties are in key order, which nobody may rely on.
    fn compare(&self, a: &KeyValue, b: &KeyValue) -> Ordering {
        let order = match self.target {
            SortTarget::Key => Ordering::Equal,
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        let order = if self.descending {
            order.reverse()
        } else {
            order
        };
        order.then_with(|| a.key.cmp(&b.key))
    }

    /// Cuts to the limit's best pairs, in no order; true if that dropped any.
    fn keep_best(&self, kvs: &mut Vec<KeyValue>) -> bool {
        if kvs.len() <= self.limit {
            return false;
        }
        kvs.select_nth_unstable_by(self.limit, |a, b| self.compare(a, b));
        kvs.truncate(self.limit);
        true
    }
}

fn filters(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}
