//! Checks of a request's shape that need no state: the first thing that can refuse a request.
//!
//! A check looks at the fields in the protocol's order, because the first failing one decides
//! which error the client sees.

mod txn;

pub use txn::{txn, txn_is_read_only, txn_is_serializable};

use crate::kv::range_request::{SortOrder, SortTarget};
use crate::status::Status;
use crate::{
    AlarmRequest, AuthRoleGrantPermissionRequest, DeleteRangeRequest, KeyRange, LeaderKey,
    LeaseGrantRequest, Permission, PutRequest, RangeRequest, alarm_request::AlarmAction,
};

/// Longest time to live of a lease, in seconds.
pub const LEASE_TTL_SECONDS_MAX: i64 = 9_000_000_000;

/// `Range`, alone or in a transaction.
pub fn range(request: &RangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(Status::key_not_provided());
    }
    if SortOrder::try_from(request.sort_order).is_err()
        || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(Status::invalid_sort_option());
    }
    Ok(())
}

/// `RangeStream`: a `Range` that can be paged in key order. A target other than the key is
/// refused even without an order, since its pages would come in the wrong one.
pub fn range_stream(request: &RangeRequest) -> Result<(), Status> {
    range(request)?;
    if request.sort_target() != SortTarget::Key || request.sort_order() == SortOrder::Descend {
        return Err(Status::range_stream_sort());
    }
    if request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
    {
        return Err(Status::range_stream_filters());
    }
    Ok(())
}

/// `Put`, alone or in a transaction.
pub fn put(request: &PutRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(Status::key_not_provided());
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Status::value_provided());
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Status::lease_provided());
    }
    Ok(())
}

/// `DeleteRange`, alone or in a transaction.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        Err(Status::key_not_provided())
    } else {
        Ok(())
    }
}

/// `Compact`: any revision has the right shape.
pub fn compaction(_request: &crate::CompactionRequest) -> Result<(), Status> {
    Ok(())
}

/// `LeaseGrant`. A TTL that is too short is raised later, not refused.
pub fn lease_grant(request: &LeaseGrantRequest) -> Result<(), Status> {
    if request.ttl > LEASE_TTL_SECONDS_MAX {
        Err(Status::lease_ttl_too_large())
    } else {
        Ok(())
    }
}

/// `Alarm`: an unknown action or alarm number has no meaning to fall back on.
pub fn alarm(request: &AlarmRequest) -> Result<(), Status> {
    if AlarmAction::try_from(request.action).is_err() {
        return Err(Status::new(
            crate::Code::InvalidArgument,
            format!("etcdserver: unknown alarm action {}", request.action),
        ));
    }
    if crate::AlarmType::try_from(request.alarm).is_err() {
        return Err(Status::new(
            crate::Code::InvalidArgument,
            format!("etcdserver: unknown alarm type {}", request.alarm),
        ));
    }
    Ok(())
}

/// `RoleGrantPermission`: the permission must be there and its interval must hold keys.
pub fn role_grant_permission(request: &AuthRoleGrantPermissionRequest) -> Result<(), Status> {
    match &request.perm {
        None => Err(Status::permission_not_given()),
        Some(Permission { key, range_end, .. })
            if key.is_empty() || KeyRange::new(key, range_end).is_empty() =>
        {
            Err(Status::invalid_auth_management())
        }
        Some(_) => Ok(()),
    }
}

/// `Proclaim` and `Resign`: the leader key must be there, even if all its fields are empty.
pub fn leader_key(leader: &Option<LeaderKey>) -> Result<&LeaderKey, Status> {
    leader.as_ref().ok_or_else(Status::leader_key_missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_checks_key_before_sort_options() {
        let mut request = RangeRequest {
            sort_order: 9,
            ..Default::default()
        };
        assert_eq!(range(&request), Err(Status::key_not_provided()));
        request.key = "k".into();
        assert_eq!(range(&request), Err(Status::invalid_sort_option()));
        request.sort_order = 2;
        assert_eq!(range(&request), Ok(()));
        request.sort_target = 5;
        assert_eq!(range(&request), Err(Status::invalid_sort_option()));
        request.sort_target = -1;
        assert_eq!(range(&request), Err(Status::invalid_sort_option()));
        request.sort_target = 4;
        assert_eq!(range(&request), Ok(()));
    }

    #[test]
    fn range_stream_takes_key_order_only() {
        let plain = RangeRequest {
            key: "k".into(),
            ..Default::default()
        };
        assert_eq!(range_stream(&plain), Ok(()));
        for (order, target, ok) in [
            (0, 0, true),
            (1, 0, true),
            (2, 0, false),
            (0, 1, false),
            (1, 4, false),
        ] {
            let request = RangeRequest {
                sort_order: order,
                sort_target: target,
                ..plain.clone()
            };
            let wanted = if ok {
                Ok(())
            } else {
                Err(Status::range_stream_sort())
            };
            assert_eq!(range_stream(&request), wanted, "{order} {target}");
        }
        for field in 0..4 {
            let mut request = plain.clone();
            *[
                &mut request.min_mod_revision,
                &mut request.max_mod_revision,
                &mut request.min_create_revision,
                &mut request.max_create_revision,
            ][field] = 3;
            assert_eq!(range_stream(&request), Err(Status::range_stream_filters()));
        }
        assert_eq!(
            range_stream(&RangeRequest::default()),
            Err(Status::key_not_provided())
        );
    }

    #[test]
    fn put_checks_in_the_protocols_order() {
        let mut request = PutRequest {
            value: "v".into(),
            lease: 1,
            ignore_value: true,
            ignore_lease: true,
            ..Default::default()
        };
        assert_eq!(put(&request), Err(Status::key_not_provided()));
        request.key = "k".into();
        assert_eq!(put(&request), Err(Status::value_provided()));
        request.value = Default::default();
        assert_eq!(put(&request), Err(Status::lease_provided()));
        request.lease = 0;
        assert_eq!(put(&request), Ok(()));
    }

    #[test]
    fn an_absent_message_is_not_an_empty_one() {
        let absent = AuthRoleGrantPermissionRequest::default();
        assert_eq!(
            role_grant_permission(&absent),
            Err(Status::permission_not_given())
        );
        let grant = |key: &'static str, end: &'static str| AuthRoleGrantPermissionRequest {
            name: "r".into(),
            perm: Some(Permission {
                perm_type: 0,
                key: key.into(),
                range_end: end.into(),
            }),
        };
        assert_eq!(
            role_grant_permission(&grant("", "")),
            Err(Status::invalid_auth_management())
        );
        assert_eq!(
            role_grant_permission(&grant("b", "b")),
            Err(Status::invalid_auth_management())
        );
        assert_eq!(role_grant_permission(&grant("b", "\0")), Ok(()));
        assert_eq!(role_grant_permission(&grant("b", "")), Ok(()));
        assert_eq!(leader_key(&None), Err(Status::leader_key_missing()));
        assert!(leader_key(&Some(LeaderKey::default())).is_ok());
    }

    #[test]
    fn lease_and_alarm_numbers_have_bounds() {
        let grant = |ttl| lease_grant(&LeaseGrantRequest { ttl, id: 0 });
        assert_eq!(grant(-5), Ok(()));
        assert_eq!(grant(9_000_000_000), Ok(()));
        assert_eq!(grant(9_000_000_001), Err(Status::lease_ttl_too_large()));
        assert!(
            alarm(&AlarmRequest {
                action: 2,
                member_id: 0,
                alarm: 2
            })
            .is_ok()
        );
        assert!(
            alarm(&AlarmRequest {
                action: 3,
                member_id: 0,
                alarm: 0
            })
            .is_err()
        );
        assert!(
            alarm(&AlarmRequest {
                action: 0,
                member_id: 0,
                alarm: 3
            })
            .is_err()
        );
    }
}
