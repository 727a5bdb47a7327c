//! What a request may add to the store, and whether that still fits.
//!
//! The quota is held against an estimate that every member computes alike (live keys, leases,
//! readable history), not against files: files shrink late and differently on each member. The
//! shell asks before it proposes and raises the alarm; apply asks again, because what was proposed
//! meanwhile counts too. Once the alarm is on, it is the alarm that refuses, and only the operator
//! clears it.

use kvnode_api::request_op::Request;
use kvnode_api::{PutRequest, RequestOp, TxnRequest};

/// Bytes a lease counts for.
pub const LEASE_GRANT_COST: u64 = 64;

/// Bytes a put counts for beside its key and value.
const PUT_OVERHEAD: u64 = 256;

pub fn put_cost(request: &PutRequest) -> u64 {
    PUT_OVERHEAD + (request.key.len() + request.value.len()) as u64
}

/// The puts of the dearer branch, nested ones included.
pub fn txn_cost(request: &TxnRequest) -> u64 {
    branch_cost(&request.success).max(branch_cost(&request.failure))
}

fn branch_cost(ops: &[RequestOp]) -> u64 {
    let cost = |op: &RequestOp| match &op.request {
        Some(Request::RequestPut(put)) => put_cost(put),
        Some(Request::RequestTxn(txn)) => txn_cost(txn),
        _ => 0,
    };
    ops.iter().map(cost).sum()
}

/// Whether `cost` more bytes reach the quota; `None` is no quota. What costs nothing always fits.
pub(crate) fn exceeded(quota_bytes: Option<u64>, used_bytes: u64, cost: u64) -> bool {
    cost > 0 && quota_bytes.is_some_and(|quota| used_bytes.saturating_add(cost) >= quota)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value: usize) -> RequestOp {
        let put = PutRequest {
            key: "k".into(),
            value: vec![0; value].into(),
            ..Default::default()
        };
        RequestOp {
            request: Some(Request::RequestPut(put)),
        }
    }

    #[test]
    fn a_txn_costs_its_dearer_branch_with_nested_puts() {
        let nested = TxnRequest {
            success: vec![put(10)],
            ..Default::default()
        };
        let nested = RequestOp {
            request: Some(Request::RequestTxn(nested)),
        };
        let txn = TxnRequest {
            success: vec![put(100)],
            failure: vec![put(60), nested],
            ..Default::default()
        };
        assert_eq!(txn_cost(&txn), 257 + 60 + 257 + 10);
        assert_eq!(txn_cost(&TxnRequest::default()), 0);
    }

    #[test]
    fn the_quota_itself_is_already_too_much_and_free_requests_always_fit() {
        assert!(exceeded(Some(100), 90, 10));
        assert!(!exceeded(Some(100), 90, 9));
        assert!(!exceeded(Some(100), 500, 0));
        assert!(!exceeded(None, u64::MAX, u64::MAX));
    }
}
