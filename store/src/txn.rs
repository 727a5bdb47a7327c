//! Transactions: choose the branches, check what could fail, then run.
//!
//! All three look at the state before the transaction first: compares of nested transactions do
//! not see what earlier operations do, and one failing check refuses the whole with nothing
//! written. The running itself is behind [`Run`], one body for reads and one for writes.

use std::cmp::Ordering;

use bytes::Bytes;
use kvnode_api::compare::TargetUnion;
use kvnode_api::request_op::Request;
use kvnode_api::response_op::Response;
use kvnode_api::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResponse, KeyRange,
    PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp,
    Status, TxnRequest, TxnResponse,
};

use crate::engine::Reader;
use crate::error::Failure;
use crate::range::sort_option;
use crate::revision::NEVER_COMPACTED;
use crate::source::{Found, Moment, Source};

/// The branch taken, here and in every nested transaction of that branch, in order.
pub(crate) struct Path {
    succeeded: bool,
    nested: Vec<Path>,
}

/// What executes the operations of a path. Answers carry their inner headers.
pub(crate) trait Run {
    fn range(&mut self, request: &RangeRequest) -> Result<RangeResponse, Failure>;
    fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Failure>;
    fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Failure>;
}

/// Evaluates the compares against `source`, the state before the transaction.
pub(crate) fn choose<V: Reader>(
    source: &Source<'_, V>,
    request: &TxnRequest,
) -> Result<Path, Failure> {
    let mut succeeded = true;
    for compare in &request.compare {
        if !holds(source, compare)? {
            succeeded = false;
            break;
        }
    }
    let mut nested = Vec::new();
    for op in branch(request, succeeded) {
        if let Some(Request::RequestTxn(txn)) = &op.request {
            nested.push(choose(source, txn)?);
        }
    }
    Ok(Path { succeeded, nested })
}

/// Runs the path. Refusals other than those [`check_reads`] and the caller's own checks of the puts
/// find do not happen.
pub(crate) fn run(
    runner: &mut impl Run,
    request: &TxnRequest,
    path: &Path,
) -> Result<TxnResponse, Failure> {
    let ops = branch(request, path.succeeded);
    let mut responses = Vec::with_capacity(ops.len());
    let mut nested = path.nested.iter();
    for op in ops {
        let response = match &op.request {
            Some(Request::RequestRange(range)) => Response::ResponseRange(runner.range(range)?),
            Some(Request::RequestPut(put)) => Response::ResponsePut(runner.put(put)?),
            Some(Request::RequestDeleteRange(delete)) => {
                Response::ResponseDeleteRange(runner.delete_range(delete)?)
            }
            Some(Request::RequestTxn(txn)) => {
                let path = nested
                    .next()
                    .expect("choose made a path per nested transaction");
                let mut response = run(runner, txn, path)?;
                // Present and all zero: that is what clients get to see of a nested one.
                response.header = Some(ResponseHeader::default());
                Response::ResponseTxn(response)
            }
            None => return Err(Status::key_not_found().into()),
        };
        responses.push(ResponseOp {
            response: Some(response),
        });
    }
    Ok(TxnResponse {
        header: None,
        succeeded: path.succeeded,
        responses,
    })
}

/// Visits the operations on the path in order, nested ones included, until `visit` refuses.
pub(crate) fn visit(
    request: &TxnRequest,
    path: &Path,
    visitor: &mut impl FnMut(&Request) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut nested = path.nested.iter();
    for op in branch(request, path.succeeded) {
        match &op.request {
            Some(Request::RequestTxn(txn)) => {
                let path = nested
                    .next()
                    .expect("choose made a path per nested transaction");
                visit(txn, path, visitor)?;
            }
            Some(op) => visitor(op)?,
            None => return Err(Status::key_not_found().into()),
        }
    }
    Ok(())
}

/// Refuses ranges that could not be answered in the state before the transaction.
pub(crate) fn check_reads<V: Reader>(
    source: &Source<'_, V>,
    request: &TxnRequest,
    path: &Path,
) -> Result<(), Failure> {
    visit(request, path, &mut |op| {
        let Request::RequestRange(range) = op else {
            return Ok(());
        };
        sort_option(range)?;
        if range.revision > source.revision {
            return Err(Status::future_revision().into());
        }
        // A negative revision means now, but is held against the compact revision all the same;
        // that one is -1 in a store never compacted.
        if range.revision != 0 && range.revision < source.compact_revision.max(NEVER_COMPACTED) {
            return Err(Status::compacted().into());
        }
        Ok(())
    })
}

fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded {
        &request.success
    } else {
        &request.failure
    }
}

/// A compare over an interval holds if it holds for every key; without any key, as for one absent
/// key.
fn holds<V: Reader>(source: &Source<'_, V>, compare: &Compare) -> Result<bool, Failure> {
    let range = KeyRange::new(&compare.key, &compare.range_end);
    if let Some(key) = range.single() {
        return Ok(match source.find(key, Moment::Newest)? {
            Some(found) => holds_for(compare, Some(&found)),
            None => holds_for(compare, None),
        });
    }
    let mut any = false;
    for found in source.iter(&range, Moment::Newest, false) {
        if !holds_for(compare, Some(&found?)) {
            return Ok(false);
        }
        any = true;
    }
    Ok(any || holds_for(compare, None))
}

fn holds_for(compare: &Compare, found: Option<&Found>) -> bool {
    let number = |field: fn(&Found) -> i64| found.map_or(0, field);
    // The right side counts only if it is the member that belongs to the target.
    let right = compare.target_union.as_ref();
    let order = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => number(|found| found.version.version).cmp(&match right {
            Some(TargetUnion::Version(right)) => *right,
            _ => 0,
        }),
        Ok(CompareTarget::Create) => {
            number(|found| found.version.create_revision).cmp(&match right {
                Some(TargetUnion::CreateRevision(right)) => *right,
                _ => 0,
            })
        }
        Ok(CompareTarget::Mod) => number(|found| found.modified).cmp(&match right {
            Some(TargetUnion::ModRevision(right)) => *right,
            _ => 0,
        }),
        Ok(CompareTarget::Lease) => number(|found| found.version.lease).cmp(&match right {
            Some(TargetUnion::Lease(right)) => *right,
            _ => 0,
        }),
        Ok(CompareTarget::Value) => {
            // An absent key has no value, not an empty one.
            let Some(found) = found else { return false };
            let right: &Bytes = match right {
                Some(TargetUnion::Value(right)) => right,
                _ => &Bytes::new(),
            };
            found.version.value.cmp(right)
        }
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Err(_) => true,
    }
}
