//! Which path leads to which method.

use super::shape::{self, Shape};
use crate::service::Method;

/// One path below `/v3/`, to be asked with POST.
#[derive(Debug)]
pub struct Route {
    pub path: &'static str,
    pub method: Method,
    pub request: &'static Shape,
    pub response: &'static Shape,
}

/// The route of exactly this path.
pub fn route(path: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| route.path == path)
}

macro_rules! routes {
    ($($path:literal $method:ident $request:ident $response:ident;)*) => {
        /// Every route. RangeStream and the health service have none, as in etcd; three lease
        /// methods have two.
        pub static ROUTES: &[Route] = &[$(Route {
            path: concat!("/v3/", $path),
            method: Method::$method,
            request: &shape::$request,
            response: &shape::$response,
        },)*];
    };
}

routes! {
    "kv/range" Range RANGE_REQUEST RANGE_RESPONSE;
    "kv/put" Put PUT_REQUEST PUT_RESPONSE;
    "kv/deleterange" DeleteRange DELETE_RANGE_REQUEST DELETE_RANGE_RESPONSE;
    "kv/txn" Txn TXN_REQUEST TXN_RESPONSE;
    "kv/compaction" Compact COMPACTION_REQUEST COMPACTION_RESPONSE;
    "watch" Watch WATCH_REQUEST WATCH_RESPONSE;
    "lease/grant" LeaseGrant LEASE_GRANT_REQUEST LEASE_GRANT_RESPONSE;
    "lease/revoke" LeaseRevoke LEASE_REVOKE_REQUEST LEASE_REVOKE_RESPONSE;
    "kv/lease/revoke" LeaseRevoke LEASE_REVOKE_REQUEST LEASE_REVOKE_RESPONSE;
    "lease/keepalive" LeaseKeepAlive LEASE_KEEP_ALIVE_REQUEST LEASE_KEEP_ALIVE_RESPONSE;
    "lease/timetolive" LeaseTimeToLive LEASE_TIME_TO_LIVE_REQUEST LEASE_TIME_TO_LIVE_RESPONSE;
    "kv/lease/timetolive" LeaseTimeToLive LEASE_TIME_TO_LIVE_REQUEST LEASE_TIME_TO_LIVE_RESPONSE;
    "lease/leases" LeaseLeases LEASE_LEASES_REQUEST LEASE_LEASES_RESPONSE;
    "kv/lease/leases" LeaseLeases LEASE_LEASES_REQUEST LEASE_LEASES_RESPONSE;
    "cluster/member/add" MemberAdd MEMBER_ADD_REQUEST MEMBER_ADD_RESPONSE;
    "cluster/member/remove" MemberRemove MEMBER_REMOVE_REQUEST MEMBER_REMOVE_RESPONSE;
    "cluster/member/update" MemberUpdate MEMBER_UPDATE_REQUEST MEMBER_UPDATE_RESPONSE;
    "cluster/member/list" MemberList MEMBER_LIST_REQUEST MEMBER_LIST_RESPONSE;
    "cluster/member/promote" MemberPromote MEMBER_PROMOTE_REQUEST MEMBER_PROMOTE_RESPONSE;
    "maintenance/alarm" Alarm ALARM_REQUEST ALARM_RESPONSE;
    "maintenance/status" Status STATUS_REQUEST STATUS_RESPONSE;
    "maintenance/defragment" Defragment DEFRAGMENT_REQUEST DEFRAGMENT_RESPONSE;
    "maintenance/hash" Hash HASH_REQUEST HASH_RESPONSE;
    "maintenance/hashkv" HashKV HASH_KV_REQUEST HASH_KV_RESPONSE;
    "maintenance/snapshot" Snapshot SNAPSHOT_REQUEST SNAPSHOT_RESPONSE;
    "maintenance/transfer-leadership" MoveLeader MOVE_LEADER_REQUEST MOVE_LEADER_RESPONSE;
    "maintenance/downgrade" Downgrade DOWNGRADE_REQUEST DOWNGRADE_RESPONSE;
    "auth/enable" AuthEnable AUTH_ENABLE_REQUEST AUTH_ENABLE_RESPONSE;
    "auth/disable" AuthDisable AUTH_DISABLE_REQUEST AUTH_DISABLE_RESPONSE;
    "auth/status" AuthStatus AUTH_STATUS_REQUEST AUTH_STATUS_RESPONSE;
    "auth/authenticate" Authenticate AUTHENTICATE_REQUEST AUTHENTICATE_RESPONSE;
    "auth/user/add" UserAdd AUTH_USER_ADD_REQUEST AUTH_USER_ADD_RESPONSE;
    "auth/user/get" UserGet AUTH_USER_GET_REQUEST AUTH_USER_GET_RESPONSE;
    "auth/user/list" UserList AUTH_USER_LIST_REQUEST AUTH_USER_LIST_RESPONSE;
    "auth/user/delete" UserDelete AUTH_USER_DELETE_REQUEST AUTH_USER_DELETE_RESPONSE;
    "auth/user/changepw" UserChangePassword AUTH_USER_CHANGE_PASSWORD_REQUEST AUTH_USER_CHANGE_PASSWORD_RESPONSE;
    "auth/user/grant" UserGrantRole AUTH_USER_GRANT_ROLE_REQUEST AUTH_USER_GRANT_ROLE_RESPONSE;
    "auth/user/revoke" UserRevokeRole AUTH_USER_REVOKE_ROLE_REQUEST AUTH_USER_REVOKE_ROLE_RESPONSE;
    "auth/role/add" RoleAdd AUTH_ROLE_ADD_REQUEST AUTH_ROLE_ADD_RESPONSE;
    "auth/role/get" RoleGet AUTH_ROLE_GET_REQUEST AUTH_ROLE_GET_RESPONSE;
    "auth/role/list" RoleList AUTH_ROLE_LIST_REQUEST AUTH_ROLE_LIST_RESPONSE;
    "auth/role/delete" RoleDelete AUTH_ROLE_DELETE_REQUEST AUTH_ROLE_DELETE_RESPONSE;
    "auth/role/grant" RoleGrantPermission AUTH_ROLE_GRANT_PERMISSION_REQUEST AUTH_ROLE_GRANT_PERMISSION_RESPONSE;
    "auth/role/revoke" RoleRevokePermission AUTH_ROLE_REVOKE_PERMISSION_REQUEST AUTH_ROLE_REVOKE_PERMISSION_RESPONSE;
    "lock/lock" Lock LOCK_REQUEST LOCK_RESPONSE;
    "lock/unlock" Unlock UNLOCK_REQUEST UNLOCK_RESPONSE;
    "election/campaign" Campaign CAMPAIGN_REQUEST CAMPAIGN_RESPONSE;
    "election/proclaim" Proclaim PROCLAIM_REQUEST PROCLAIM_RESPONSE;
    "election/leader" Leader LEADER_REQUEST LEADER_RESPONSE;
    "election/observe" Observe LEADER_REQUEST LEADER_RESPONSE;
    "election/resign" Resign RESIGN_REQUEST RESIGN_RESPONSE;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_but_three_has_its_route() {
        let without: Vec<Method> = Method::ALL
            .iter()
            .copied()
            .filter(|method| ROUTES.iter().all(|route| route.method != *method))
            .collect();
        let expected = [
            Method::RangeStream,
            Method::HealthCheck,
            Method::HealthWatch,
        ];
        assert_eq!(without, expected);
        assert_eq!(ROUTES.len(), Method::ALL.len() - 3 + 3);
    }

    #[test]
    fn a_path_finds_its_route_and_only_that() {
        for wanted in ROUTES {
            let found = route(wanted.path).expect("listed");
            assert!(std::ptr::eq(found, wanted), "{} twice", wanted.path);
        }
        for path in [
            "/v3/kv/Range",
            "/v3/kv/range/",
            "/v3/",
            "/v3/kv/rangestream",
        ] {
            assert!(route(path).is_none(), "{path}");
        }
    }
}
